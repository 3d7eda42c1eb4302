"""What holds for every test, and for every example in a docstring.

It stands beside the package, not in tests/, so that it reaches the docstrings too.
"""

import random
from collections.abc import Iterator

import numpy as np
import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same random numbers, whatever ran before; nothing left behind for what runs next."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what libraries draw from)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tests are small: beside a busy neighbour a second thread costs time
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    pyro.clear_param_store()
