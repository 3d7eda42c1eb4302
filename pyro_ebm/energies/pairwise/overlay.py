r"""Energies laid over one another: of any weights, only numbers are computed.

.. math:: E(x) = \sum_k w_k E_k(x)

Fields, couplings and tables are linear in the weights. Whose they are, along which edges and in
which colours the units are visited, no weight changes: it is found once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies.structure import Memory, added

from .colouring import Colour, colours_of
from .links import DenseLink, GraphLink, Link, SymmetricLink
from .terms import PairwiseTerms

Ends = frozenset[str]


class GraphUnion(NamedTuple):
    """All edges of several graphs over the same sites, and where each one's are among them."""

    ends: tuple[str, str]
    edges: Tensor  # (edges, 2)
    where: list[Tensor]
    sizes: tuple[int, int]
    colours: tuple[Colour, ...]

    def links(self, graphs: Sequence[GraphLink]) -> list[Link]:
        """The couplings of each of the graphs, zero on the edges of the others alone."""
        found: list[Link] = []
        for graph, where in zip(graphs, self.where, strict=True):
            own = graph.filled().edge_weights()
            every = own.new_zeros((*own.shape[:-1], len(self.edges)))
            weight = every.index_add(-1, where, own)
            found.append(GraphLink(self.ends, weight, self.edges, self.sizes, self.colours))
        return found


def graph_union(graphs: Sequence[GraphLink]) -> GraphUnion:
    """The union of the edges, each once."""
    first = graphs[0]
    inside = first.ends[0] == first.ends[1]
    keys = []
    for graph in graphs:
        edges = graph.edges if graph.ends == first.ends else graph.edges.flip(1)
        edges = edges.sort(1).values if inside else edges
        keys.append(edges[:, 0] * first.sizes[1] + edges[:, 1])
    every, where = torch.unique(torch.cat(keys), return_inverse=True)
    edges = torch.stack([every // first.sizes[1], every % first.sizes[1]], 1)
    parts = list(where.split([len(key) for key in keys]))
    colours = colours_of(edges, first.sizes[0]) if inside else ()
    return GraphUnion(first.ends, edges, parts, first.sizes, colours)


def alike(links: Sequence[Link], memory: Memory) -> list[Link]:
    """Couplings of the same two sites, such that they differ in their numbers alone.

    Args:
        links: The couplings.
        memory: Has the unions of graphs, as found before; one that is missing is added.
    """
    first = links[0]
    if len(links) == 1:
        return [first]
    graphs = [link for link in links if isinstance(link, GraphLink)]
    if len(graphs) == len(links):
        key = "edges", frozenset(first.ends), graphs[0].edges.device
        if key not in memory:
            memory[key] = graph_union(graphs)
        union: GraphUnion = memory[key]
        return union.links(graphs)
    matrices = [link.matrix() if link.ends == first.ends else link.matrix().mT for link in links]
    if first.ends[0] == first.ends[1]:
        width = max(link.width for link in links if isinstance(link, SymmetricLink))
        return [SymmetricLink(first.ends, matrix, width) for matrix in matrices]
    return [DenseLink(first.ends, matrix) for matrix in matrices]


@dataclass(frozen=True, eq=False)
class PairwiseOverlay:
    """Pairwise energies laid over one another.

    Args:
        parts: The terms of each.
        owners: Which of them have a site, by their numbers.
        links: The couplings of each two sites, by the numbers of the parts, such that they differ
            in their own numbers alone.
    """

    parts: tuple[PairwiseTerms, ...]
    owners: Mapping[str, tuple[int, ...]]
    links: tuple[Mapping[int, Link], ...]

    @classmethod
    def of(cls, parts: Sequence[PairwiseTerms], memory: Memory) -> Self:
        """The overlay of energies.

        Args:
            parts: The terms of each.
            memory: Has the unions of graphs, as found before; those that are missing are added.
        """
        sites = dict.fromkeys(site for terms in parts for site in terms.units)
        owners = {
            site: tuple(k for k, terms in enumerate(parts) if site in terms.units) for site in sites
        }
        pairs: dict[Ends, dict[int, Link]] = {}
        for k, terms in enumerate(parts):
            for link in terms.links:
                pairs.setdefault(frozenset(link.ends), {})[k] = link
        links = [
            dict(zip(own, alike(list(own.values()), memory), strict=True)) for own in pairs.values()
        ]
        return cls(tuple(parts), owners, tuple(links))

    def weighted(self, weights: Sequence[Tensor]) -> PairwiseTerms:
        """The terms of the weighted sum, for weights (*batch,).

        Raises:
            ValueError: If the units of a site are of different kinds.
        """
        rows = [weight.unsqueeze(-1) if weight.dim() else weight for weight in weights]
        units, biases = {}, {}
        for site, own in self.owners.items():
            kinds = [(rows[k], self.parts[k].units[site]) for k in own]
            units[site] = kinds[0][1].combined(kinds)
            biases[site] = added(rows[k] * self.parts[k].biases[site] for k in own)
        links = tuple(
            joined([link.scaled(weights[k]) for k, link in own.items()]) for own in self.links
        )
        constant = added(w * terms.constant for w, terms in zip(weights, self.parts, strict=True))
        return PairwiseTerms(units, biases, links, constant)


def joined(links: Sequence[Link]) -> Link:
    """The sum of couplings that differ in their numbers alone."""
    first = links[0]
    if len(links) == 1:
        return first
    return first.filled().weighted(added(link.filled().weight for link in links))
