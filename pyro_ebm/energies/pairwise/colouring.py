"""Colours of a graph: units that share no edge, and are therefore drawn together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import networkx as nx
import torch
from torch import Tensor


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


def colours_of(edges: Tensor, size: int) -> tuple[Colour, ...]:
    """A colouring of a graph: two colours where it is bipartite, else greedily, largest first.

    Args:
        edges: Unit indices (edges, 2).
        size: The number of units.
    """
    edges = edges.cpu()  # the graph is; `Sparse.read` brings the result to the device
    graph = nx.Graph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(edges.tolist())
    if nx.is_bipartite(graph):
        colour_of: Mapping[Any, int] = nx.bipartite.color(graph)
    else:
        colour_of = nx.greedy_color(graph, strategy="largest_first")
    colour = torch.tensor([colour_of[unit] for unit in range(size)])
    target = torch.cat([edges[:, 0], edges[:, 1]])
    source = torch.cat([edges[:, 1], edges[:, 0]])
    edge = torch.arange(len(edges)).repeat(2)
    order = torch.argsort(target, stable=True)
    source, edge = source[order], edge[order]
    degree = torch.bincount(target, minlength=size)
    first = degree.cumsum(0) - degree
    found = []
    for k in range(int(colour.max()) + 1):
        units = (colour == k).nonzero()[:, 0]
        ends = degree[units].cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        shift = (first[units] - starts[:-1]).repeat_interleave(degree[units])
        where = torch.arange(len(shift)) + shift
        found.append(Colour(units, starts, source[where], edge[where]))
    return tuple(found)
