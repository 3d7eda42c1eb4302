"""Graphs as pairs of numbers: which unit a node is, and what a graph says that is not read."""

import warnings
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from pyro_ebm.sites import is_count, whole

Names: TypeAlias = tuple[Hashable, ...]
Edges: TypeAlias = Tensor | nx.Graph | Iterable[tuple[int, int]]


WEIGHTS = "torch.tensor([float(w) for *_, w in graph.edges(data='weight', default=1.0)])"


class CouplingWarning(UserWarning):
    """Couplings that may be read otherwise than they are meant."""


class NumberedGraph(NamedTuple):
    """The edges of a graph, and its nodes where it tells them.

    Args:
        edges: Pairs of numbers from 0 on (edges, 2).
        names: The nodes by number; None where pairs of numbers were given.
    """

    edges: Tensor
    names: Names | None

    def size(self, n: int | None, what: str) -> int:
        """The number of nodes: given, or that of the graph, or all up to the largest number.

        Args:
            n: The number that is given.
            what: "units" or "nodes", for the message.

        Raises:
            ValueError: If there is nothing to tell it, it is smaller than that of the graph, a pair
                names a negative number, or no pair names the number 0.
        """
        if self.names is not None:
            if n is not None and n != len(self.names):
                raise ValueError(
                    f"n is {n}, but the graph has {len(self.names)} nodes; leave n out, and add "
                    f"more by graph.add_nodes_from(...)."
                )
            return len(self.names)
        if n is not None:
            if not is_count(n):
                raise ValueError(f"n is {n!r}; wanted a positive whole number of {what}.")
            return int(n)
        if not len(self.edges):
            raise ValueError(
                f"There are no edges to tell the number of {what}; give n=... or a networkx graph."
            )
        least, largest = int(self.edges.min()), int(self.edges.max())
        loops = bool((self.edges[:, 0] == self.edges[:, 1]).any())  # which `check_edges` refuses
        if least < 0:
            raise ValueError(
                f"The edges name {what} from {least} to {largest}; wanted numbers from 0 on. Give "
                f"torch.as_tensor(edges) - ({least}) if they are counted from {least}."
            )
        if least > 0 and not loops:
            raise ValueError(
                f"The edges name {what} from {least} to {largest}, and {what} are counted from 0, "
                f"so {least} of them would be free. Give torch.as_tensor(edges) - {least} if they "
                f"are counted from {least}, or n={largest + 1} if some have no edge."
            )
        return largest + 1


def numbered(edges: Edges) -> NumberedGraph:
    """A graph with its nodes as numbers.

    Nodes that are the numbers 0, …, n − 1 stay what they are; others are numbered in the order of
    the graph. The first node of an undirected edge is the one with the smaller number.

    Args:
        edges: A networkx graph, or pairs of numbers.

    Raises:
        TypeError, ValueError: If it is neither.
    """
    if not isinstance(edges, nx.Graph):
        return NumberedGraph(pairs_of_numbers(edges), None)
    names = ordered(edges.nodes)
    number = {node: k for k, node in enumerate(names)}
    if list(names) != list(range(len(names))) and any(whole(node) is not None for node in names):
        warnings.warn(
            f"Nodes of the graph are whole numbers, but not 0 to {len(names) - 1}, so unit k is "
            f"not the node k: it is names[k] of the energy's `names`. Give "
            f"networkx.convert_node_labels_to_integers(graph) to number them yourself.",
            CouplingWarning,
            stacklevel=5,
        )
    pairs = [(number[a], number[b]) for a, b in edges.edges()]
    listed = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return NumberedGraph(listed if edges.is_directed() else listed.sort(1).values, names)


def ordered(names: Iterable[Hashable]) -> Names:
    """Names in their order; the numbers 0, …, n − 1 in theirs."""
    listed = tuple(names)
    if all(whole(name) is not None for name in listed) and set(listed) == set(range(len(listed))):
        return tuple(range(len(listed)))
    return listed


def pairs_of_numbers(edges: Tensor | Iterable[Sequence[int]]) -> Tensor:  # (edges, 2)
    """Pairs of numbers as a tensor.

    Raises:
        TypeError: If they are no pairs at all.
        ValueError: If they are not of whole numbers.
    """
    if not isinstance(edges, Iterable):
        raise TypeError(f"edges is {edges!r}; wanted pairs of units, or a networkx graph.")
    if not isinstance(edges, Tensor | np.ndarray):
        edges = list(edges)
        if not edges:
            return torch.zeros(0, 2, dtype=torch.int64)
    try:
        indices = torch.as_tensor(np.array(edges) if isinstance(edges, np.ndarray) else edges)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"The edges {edges[:3]!r} … are no pairs of numbers. Units go by number from 0; for "
            f"names give networkx.Graph(edges), or BoltzmannMachine.from_pairs({{edge: coupling}})."
        ) from None
    whole = not indices.is_floating_point() and not indices.is_complex()
    if indices.dim() != 2 or indices.shape[1] != 2 or not whole or indices.dtype == torch.bool:
        raise ValueError(
            f"The edges have shape {tuple(indices.shape)} and dtype {indices.dtype}; "
            f"wanted integer pairs (edges, 2)."
        )
    return indices.to(torch.int64)


def warn_of_weights(edges: Edges, energy: str, cure: str) -> None:
    """Warns of weights in a graph, of whose edges the couplings are learned or shared instead.

    Args:
        edges: A networkx graph, or pairs of numbers.
        energy: The energy whose couplings they would be, in formulas.
        cure: How to give them: something with {w}, in whose place the couplings stand.
    """
    if isinstance(edges, nx.Graph) and any("weight" in data for *_, data in edges.edges(data=True)):
        warnings.warn(
            f"The edges of the graph have weights, which are not read: the couplings are learned "
            f"from zero. For couplings w of E = {energy} give {cure.format(w=WEIGHTS)}. To learn "
            f"them, take the weights away: for *_, data in graph.edges(data=True): "
            f"data.pop('weight', None).",
            CouplingWarning,
            stacklevel=5,
        )


def check_edges(edges: Tensor, sizes: tuple[int, int], *, within: bool) -> None:
    """Refuses edges that are no edges of a simple graph over the units.

    Raises:
        ValueError: If there is one.
    """
    if bool((edges < 0).any()) or bool((edges >= torch.tensor(sizes)).any()):
        raise ValueError(
            f"The edges name units from {int(edges.min())} to {int(edges.max())}, "
            f"but the layers have {sizes} units, counted from 0."
        )
    if within and bool((edges[:, 0] == edges[:, 1]).any()):
        raise ValueError(
            "An edge joins a unit to itself; a self-coupling of a two-valued unit is a bias."
        )
    key = edges.sort(dim=1).values if within else edges
    if len(torch.unique(key, dim=0)) != len(edges):
        raise ValueError("An edge stands twice in the list; add its couplings and give it once.")
