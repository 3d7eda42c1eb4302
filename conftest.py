"""What holds for every test, and for every example in a docstring.

It stands beside the package, not in tests/, so that it reaches the docstrings too.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

# Files whose single cases take long: what they look at, others touch.
SLOWLY = frozenset(
    f"test_{name}.py"
    for name in (
        *("cli", "diagnose", "forbidden_states", "hidden_chains", "house", "left_out", "obs_mask"),
        *("model_gibbs", "plots", "restoration", "storage"),
    )
)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as `quick` the first case of every fast test, and the examples in docstrings."""
    first: dict[tuple[Path, str], pytest.Item] = {}
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("quick")
        elif item.path.name not in SLOWLY and item.get_closest_marker("slow") is None:
            function = (item.path, getattr(item, "originalname", item.name))
            # By name, since the order of the items is random.
            if function not in first or item.nodeid < first[function].nodeid:
                first[function] = item
    for item in first.values():
        item.add_marker("quick")
