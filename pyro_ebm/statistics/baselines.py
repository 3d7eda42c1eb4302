r"""What a model of bits has to beat: independent units, and the best tree.

Both are fitted to counts with a pseudocount added to each cell, so that nothing unseen is
impossible; both are computed in float64, in nats.
"""

import networkx as nx
import torch
from torch import Tensor

from pyro_ebm.sites import Site, as_tensor, boolean, check_shape, check_support

from .arrays import Array, tensor_of


def independent_log_likelihood(
    train: Array, test: Array, *, pseudocount: float = 1.0
) -> float:  # (rows, n), (rows, n)
    r"""Mean log-likelihood of test rows under independent units, in nats per row.

    .. math:: p(x_i = a) = (N_i(a) + c) / (N + 2 c)

    Args:
        train: The rows that the units are fitted to, in {0, 1}.
        test: The rows that they are judged on, in {0, 1}.
        pseudocount: The number c added to the count of each value of each unit, above 0.

    Raises:
        ValueError: If the data are not rows of bits of one width, or the pseudocount is not
            above 0.

    Example:
        >>> from pyro_ebm import datasets
        >>> from pyro_ebm.statistics import independent_log_likelihood
        >>> digits = datasets.digits()
        >>> f"{independent_log_likelihood(digits.train, digits.test):.2f} nats"
        '-25.25 nats'
    """
    train, test = bits(train, test, pseudocount)
    one = (train.sum(0) + pseudocount) / (len(train) + 2 * pseudocount)
    return float((test @ one.log() + (1 - test) @ (1 - one).log()).mean())


def chow_liu_log_likelihood(
    train: Array, test: Array, *, pseudocount: float = 1.0
) -> float:  # (rows, n), (rows, n)
    r"""Mean log-likelihood of test rows under the tree of best fit, in nats per row.

    The tree spans the units with the largest sum of pairwise mutual information. Pairs, units and
    information all come from the same smoothed tables, so that they agree with each other:

    .. math::

        p(x_i = a, x_j = b) = (N_{ij}(a, b) + c) / (N + 4 c), \qquad
        \ln p(x) = \sum_i \ln p(x_i) + \sum_{(i, j)} \ln \frac{p(x_i, x_j)}{p(x_i)\, p(x_j)}

    Args:
        train: The rows that the tree is fitted to, in {0, 1}.
        test: The rows that it is judged on, in {0, 1}.
        pseudocount: The number c added to each cell of each pair's 2 × 2 table, above 0.

    Raises:
        ValueError: If the data are not rows of bits of one width, or the pseudocount is not
            above 0.

    Example:
        >>> from pyro_ebm import datasets
        >>> from pyro_ebm.statistics import chow_liu_log_likelihood
        >>> digits = datasets.digits()
        >>> f"{chow_liu_log_likelihood(digits.train, digits.test):.2f} nats"
        '-20.82 nats'

    References:
        | Approximating discrete probability distributions with dependence trees
        | (Chow & Liu, 1968) https://doi.org/10.1109/TIT.1968.1054142
    """
    train, test = bits(train, test, pseudocount)
    pairs = pair_tables(train, pseudocount)
    one = (train.sum(0) + 2 * pseudocount) / (len(train) + 4 * pseudocount)
    units = torch.stack([1 - one, one])  # (value, n)
    ratio = pairs.log() - units.log()[:, None, :, None] - units.log()[None, :, None, :]
    edges = spanning_tree((pairs * ratio).sum((0, 1)))
    i, j = edges.unbind(-1)
    value = test.long()
    gain = ratio[value[:, i], value[:, j], i, j].sum(-1)
    return float((test @ one.log() + (1 - test) @ (1 - one).log() + gain).mean())


def pair_tables(x: Tensor, pseudocount: float) -> Tensor:  # (rows, n) -> (2, 2, n, n)
    """The smoothed joint probabilities p(x_i = a, x_j = b), at [a, b, i, j]."""
    values = torch.stack([1 - x, x])  # (value, rows, n)
    counts = torch.einsum("ari,brj->abij", values, values) + pseudocount
    return counts / (len(x) + 4 * pseudocount)


def spanning_tree(weight: Tensor) -> Tensor:  # (n, n) -> (edges, 2)
    """The tree over n nodes whose edges weigh most in sum; edges of weight 0 may be left out."""
    graph = nx.from_numpy_array(weight.fill_diagonal_(0).numpy())
    edges = list(nx.maximum_spanning_edges(graph, data=False))
    return torch.tensor(edges, dtype=torch.long).reshape(-1, 2)


def bits(train: Array, test: Array, pseudocount: float) -> tuple[Tensor, Tensor]:
    """Both data sets as float64 on the CPU, checked.

    Raises:
        ValueError: If they are not rows of bits of one width, or the pseudocount is not above 0.
    """
    if not pseudocount > 0:
        raise ValueError(
            f"pseudocount is {pseudocount}; wanted a number above 0, for example 1: with less, a "
            "value that the training data lack would have probability 0."
        )
    train, test = tensor_of(train, "train"), tensor_of(test, "test")
    if train.dim() != 2 or len(train) == 0:
        raise ValueError(
            f"'train' has shape {tuple(train.shape)}; wanted (rows, units) with at least one row."
        )
    if test.dim() != 2 or len(test) == 0:
        raise ValueError(
            f"'test' has shape {tuple(test.shape)}; wanted (rows, units) with at least one row."
        )
    site = Site(boolean, train.shape[1:])
    cpu = torch.device("cpu")
    checked = []
    for name, rows in (("train", train), ("test", test)):
        value = as_tensor(rows.cpu(), name, torch.float64, cpu)
        checked.append(check_support(check_shape(value, name, site), name, site))
    return checked[0], checked[1]
