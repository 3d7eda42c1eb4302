"""What elimination works on: random fields, and machines of finite units written as such."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import (
    Energy,
    FactorGraph,
    FactorGroup,
    GraphLink,
    Link,
    PairwiseTerms,
    Structure,
    graph_of,
    terms_of,
)
from pyro_ebm.sites import Sites

MAX_FACTORS = 10_000  # of a machine: for more, finding an order takes seconds, and there is none


@dataclass(frozen=True)
class Field:
    """Terms as a factor graph, and what its labels mean.

    Args:
        graph: In float64.
        sizes: The number of nodes of each site, in their order.
        levels: By site the values of the labels (q,); None where they are the labels themselves.
        features: By site the features of the labels (q, width); None for one-hot vectors of each
            node's own labels.
    """

    graph: FactorGraph
    sizes: Mapping[str, int]
    levels: Mapping[str, Tensor | None]
    features: Mapping[str, Tensor | None]

    def values(self, labels: Tensor) -> Sites:  # (*batch, nodes) -> (*batch, n) each
        """The values that labels stand for, in float64."""
        found = {}
        for (site, _), own in zip(
            self.sizes.items(), labels.split(list(self.sizes.values()), -1), strict=True
        ):
            levels = self.levels[site]
            found[site] = own.double() if levels is None else levels[own]
        return found

    def labels(self, x: Sites) -> Tensor:  # (*batch, n) each -> (*batch, nodes)
        """The labels of values."""
        found = []
        for site, value in x.items():
            levels = self.levels[site]
            # The nearest: a level such as 0.1 that came in float32 is no double.
            if levels is not None:
                value = (value.unsqueeze(-1) - levels).abs().argmin(-1)
            found.append(value)
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in found))
        return torch.cat([v.long().expand(*batch, v.shape[-1]) for v in found], -1)


def field_of(energy: Energy, structure: Structure | None = None) -> Field:
    """An energy as a factor graph.

    Args:
        energy: The energy.
        structure: What is known of it, if it is at hand.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite.
        TypeError: If it is neither a random field nor a machine of finite units.
    """
    structure = structure or energy.structure()
    graph, terms = graph_of(structure), terms_of(structure)
    if graph is not None:
        graph = graph.to(torch.float64)
        graph.require_finite()
        (site,) = energy.sites
        return Field(graph, {site: len(graph.states)}, {site: None}, {site: None})
    if terms is not None:
        terms = terms.to(torch.float64)
        terms.require_finite()
        if infinite := [site for site, unit in terms.units.items() if unit.levels is None]:
            raise TypeError(f"Elimination sums over labels, but the units of {infinite} are real.")
        return field_of_terms(terms)
    raise TypeError(
        f"Elimination sums tables over labels, such as those of a RandomField or of a machine on a "
        f"graph; {type(energy).__name__} has none."
    )


def field_of_terms(terms: PairwiseTerms) -> Field:
    """The terms of a machine of finite units as a factor graph."""
    sizes = {site: terms.count(site) for site in terms.units}
    first = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    device = terms.constant.device
    groups, levels, features, states = {}, {}, {}, []
    for site, unit in terms.units.items():
        levels[site] = terms.levels(site)
        features[site] = unit.features(levels[site][:, None])
        states += [len(levels[site])] * sizes[site]
        nodes = torch.arange(first[site], first[site] + sizes[site], device=device)[:, None]
        bias = terms.biases[site].unflatten(-1, (-1, unit.width))
        table = bias @ features[site].mT - terms.potential_of_levels(site)
        groups[site] = FactorGroup(nodes, table)
    for link in terms.links:
        pairs = pair_factors(terms, link, first, features)
        if len(pairs.nodes):  # of a layer of one unit there are none
            groups["_".join(link.ends) + "_"] = pairs
    return Field(FactorGraph(tuple(states), groups, terms.constant), sizes, levels, features)


def pair_factors(
    terms: PairwiseTerms, link: Link, first: Mapping[str, int], features: Mapping[str, Tensor]
) -> FactorGroup:
    """One coupling as tables on pairs of nodes.

    Args:
        terms: The machine.
        link: The coupling.
        first: By site the number of its first node.
        features: By site the features of a unit's levels (q, width).
    """
    one, other = link.ends
    if isinstance(link, GraphLink):
        edges = link.edges
        weight = link.times(link.weight, 1)[..., None, None]  # (*batch, edges or 1, 1, 1)
    else:
        rows, columns = terms.count(one), terms.count(other)
        device = terms.constant.device
        edges = torch.cartesian_prod(
            torch.arange(rows, device=device), torch.arange(columns, device=device)
        )
        if one == other:
            edges = edges[edges[:, 0] < edges[:, 1]]
        blocks = link.matrix().unflatten(-1, (columns, -1)).unflatten(-3, (rows, -1))
        # (*batch, n, width, m, width), of which the pairs are taken.
        weight = blocks.transpose(-3, -2)[..., edges[:, 0], edges[:, 1], :, :]
    nodes = edges + torch.tensor([first[one], first[other]], device=edges.device)
    return FactorGroup(nodes, features[one] @ weight @ features[other].mT)


def is_sparse(terms: PairwiseTerms) -> bool:
    """Whether it may pay to look for an order of elimination."""
    factors = sum(
        len(link.edges)
        if isinstance(link, GraphLink)
        else math.prod(link.plain_matrix().shape[-2:])
        for link in terms.links
    )
    return (
        any(isinstance(link, GraphLink) for link in terms.links)
        and all(unit.levels is not None for unit in terms.units.values())
        and factors <= MAX_FACTORS
    )
