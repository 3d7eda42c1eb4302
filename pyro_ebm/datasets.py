"""Small real data sets, at hand without a download.

`data/digits.npz` holds the 1,797 images of the test part of "Optical Recognition of Handwritten
Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49), licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). They are unchanged: 8 × 8 pixels, grey levels from
0 to 16, stored as `images` (1797, 64) and `labels` (1797,) of bytes.

Example:
    >>> from pyro_ebm import datasets
    >>> digits, women = datasets.digits(), datasets.southern_women()
    >>> digits.train.shape, women.attendance.shape
    (torch.Size([1437, 64]), torch.Size([18, 14]))
"""

from pathlib import Path
from typing import NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Digits",
    "SouthernWomen",
    "digits",
    "southern_women",
]

DIGITS = Path(__file__).parent / "data" / "digits.npz"


class Digits(NamedTuple):
    """Handwritten digits as bits, 8 × 8 pixels to a row.

    Example:
        >>> from pyro_ebm import datasets
        >>> digits = datasets.digits()
        >>> digits.test.shape, digits.test_labels[:3]
        (torch.Size([360, 64]), tensor([0, 8, 8]))
    """

    train: Tensor  # (1437, 64), float32 in {0, 1}
    test: Tensor  # (360, 64), float32 in {0, 1}
    train_labels: Tensor  # (1437,), int64 in 0..9
    test_labels: Tensor  # (360,), int64 in 0..9


class SouthernWomen(NamedTuple):
    """Who came to which event.

    Example:
        >>> from pyro_ebm import datasets
        >>> women = datasets.southern_women()
        >>> women.women[0], women.attendance[0].sum()
        ('Evelyn Jefferson', tensor(8.))
    """

    attendance: Tensor  # (women, events), float32 in {0, 1}
    women: list[str]
    events: list[str]


def digits() -> Digits:
    """The 8 × 8 handwritten digits: a pixel is 1 where its grey level (0 to 16) is at least 8.

    The order is that of `numpy.random.default_rng(0).permutation(1797)`; the first 1,437 rows are
    for training.

    Raises:
        FileNotFoundError: If the file is missing from the installed package.

    Example:
        >>> from pyro_ebm import datasets
        >>> datasets.digits().train.mean()
        tensor(0.3229)

    References:
        | Cascading classifiers (Alpaydin & Kaynak, 1998)
        | https://doi.org/10.24432/C50P49
    """
    if not DIGITS.exists():
        raise FileNotFoundError(
            f"The digits should be at {DIGITS}, but there is no such file. "
            "The package was installed without its data: install it again."
        )
    with np.load(DIGITS, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    order = np.random.default_rng(0).permutation(len(images))
    rows = torch.from_numpy(images[order] >= 8).float()
    names = torch.from_numpy(labels[order]).long()
    return Digits(rows[:1437], rows[1437:], names[:1437], names[1437:])


def southern_women() -> SouthernWomen:
    """Attendance of 18 women at 14 social events in Natchez, Mississippi, in the 1930s.

    Example:
        >>> from pyro_ebm import datasets
        >>> datasets.southern_women().attendance.sum()
        tensor(89.)

    References:
        | Deep South (Davis, Gardner & Gardner, 1941), as networkx holds it:
        | https://networkx.org/documentation/stable/auto_examples/algorithms/plot_davis_club.html
    """
    graph = nx.davis_southern_women_graph()
    women, events = graph.graph["top"], graph.graph["bottom"]
    attendance = torch.tensor([[graph.has_edge(w, e) for e in events] for w in women])
    return SouthernWomen(attendance.float(), women, events)
