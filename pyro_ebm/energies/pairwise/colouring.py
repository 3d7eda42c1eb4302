"""Colours of a graph: units that share no edge, and are therefore drawn together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import networkx as nx
import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """The edges of each unit of a site, one unit after another.

    Args:
        first: Where the list of a unit begins (n,).
        degree: How long it is (n,).
        unit: The units at the far end.
        edge: The edges to them.
    """

    first: Tensor
    degree: Tensor
    unit: Tensor
    edge: Tensor

    @classmethod
    def of(cls, ends: Sequence[tuple[Tensor, Tensor]], size: int) -> Self:
        """The neighbours of the units of a site.

        Args:
            ends: The units of the site, and those at the far end, of all edges, one or both ways.
            size: The number of units of the site.
        """
        own, far = (torch.cat(units) for units in zip(*ends, strict=True))
        edge = torch.arange(len(ends[0][0]), device=own.device).repeat(len(ends))
        order = own.argsort(stable=True)
        degree = own.bincount(minlength=size)
        return cls(degree.cumsum(0) - degree, degree, far[order], edge[order])


class Colour(NamedTuple):
    """Units of a site that share no edge, and their neighbours in a list, one unit's after another.

    Args:
        units: The units (k,).
        starts: Where the neighbours of each unit begin in the list, and its length (k + 1,).
        sources: The neighbours (m,).
        edges: The edges to these (m,).
    """

    units: Tensor
    starts: Tensor
    sources: Tensor
    edges: Tensor

    def part(self, start: int, stop: int) -> "Colour":
        """Some of the units, by position."""
        if start == 0 and stop >= len(self.units):
            return self
        starts = self.starts[start : stop + 1]
        own = slice(int(starts[0]), int(starts[-1]))
        return Colour(
            self.units[start:stop], starts - starts[0], self.sources[own], self.edges[own]
        )


def coloured(edges: Iterable[Sequence[int]], size: int) -> Tensor:  # (size,)
    """Colours of nodes, those of an edge different: two if bipartite, else greedily.

    Args:
        edges: Pairs of nodes.
        size: The number of nodes.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(edges)
    if nx.is_bipartite(graph):
        colour_of: Mapping[Any, int] = nx.bipartite.color(graph)
    else:
        colour_of = nx.greedy_color(graph, strategy="largest_first")
    return torch.tensor([colour_of[node] for node in range(size)])


def colours_of(edges: Tensor, size: int) -> tuple[Colour, ...]:
    """A colouring of a graph: two colours where it is bipartite, else greedily, largest first.

    Args:
        edges: Unit indices (edges, 2).
        size: The number of units.
    """
    edges = edges.cpu()  # the graph is; `Sparse.read` brings the result to the device
    colour = coloured(edges.tolist(), size)
    one, other = edges.unbind(1)
    first, degree, source, edge = Neighbours.of([(one, other), (other, one)], size)
    found = []
    for k in range(int(colour.max()) + 1):
        units = (colour == k).nonzero()[:, 0]
        ends = degree[units].cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        shift = (first[units] - starts[:-1]).repeat_interleave(degree[units])
        where = torch.arange(len(shift)) + shift
        found.append(Colour(units, starts, source[where], edge[where]))
    return tuple(found)
