"""Colours of a graph: units that share no edge, and are therefore drawn together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import networkx as nx
import torch
from torch import Tensor

SLOTS = 64  # neighbours of a unit that are visited together with other units' neighbours


class Colour(NamedTuple):
    """Units of a site that share no edge, and where their neighbours are.

    The units stand in order of falling degree, so that slot k, the k-th neighbour of each, concerns
    the first `len(source)` of them. Units with more neighbours than there are slots (hubs) have the
    remaining ones listed on their own.
    """

    units: Tensor  # (k,)
    slots: tuple[tuple[Tensor, Tensor], ...]  # (source units, edges)
    hubs: tuple[tuple[int, Tensor, Tensor], ...]  # (position in `units`, source units, edges)


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
    return tuple(
        gather_colour(units, degree[units], first[units], source, edge)
        for units in ((colour == k).nonzero()[:, 0] for k in range(int(colour.max()) + 1))
    )


def gather_colour(
    units: Tensor, degree: Tensor, first: Tensor, source: Tensor, edge: Tensor
) -> Colour:
    """One colour, from the list of each unit's neighbours: `first` and how many (`degree`)."""
    order = torch.argsort(degree, descending=True, stable=True)
    units, degree, first = units[order], degree[order], first[order]
    slots = []
    for k in range(min(int(degree.max()), SLOTS)):
        where = first[degree > k] + k
        slots.append((source[where], edge[where]))
    hubs = []
    for position in range(int((degree > SLOTS).sum())):
        rest = slice(int(first[position]) + SLOTS, int(first[position] + degree[position]))
        hubs.append((position, source[rest], edge[rest]))
    return Colour(units, tuple(slots), tuple(hubs))
