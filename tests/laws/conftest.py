"""What holds for the laws."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_seeded: None) -> None:
    """The machines are small: a second thread would only wait, long where cores are shared."""
    torch.set_num_threads(1)
