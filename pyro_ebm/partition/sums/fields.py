"""What elimination works on: random fields, and machines of finite units written as such."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pyro_ebm.energies import (
    Energy,
    FactorGraph,
    FactorGroup,
    FieldEnergy,
    GraphLink,
    Link,
    PairwiseEnergy,
    PairwiseTerms,
)
from pyro_ebm.energies.fields.labels import draw_labels
from pyro_ebm.partition.elimination import elimination
from pyro_ebm.sites import Sites

from .summation import Moments, Summation

MAX_FACTORS = 10_000  # of a machine: for more, finding an order takes seconds, and there is none


@dataclass(frozen=True)
class Field:
    """Terms as a factor graph, and what its labels mean.

    Args:
        graph: In float64.
        sizes: The number of nodes of each site, in their order.
        levels: By site the values of the labels (q,); None where they are the labels themselves.
    """

    graph: FactorGraph
    sizes: Mapping[str, int]
    levels: Mapping[str, Tensor | None]

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
            # Of two levels in order the higher one is label 1.
            found.append(value if levels is None else value == levels[1])
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in found))
        return torch.cat([v.long().expand(*batch, v.shape[-1]) for v in found], -1)


def field_of(energy: Energy) -> Field:
    """An energy as a factor graph.

    Raises:
        TypeError: If it is neither a random field nor a machine of finite units.
    """
    if isinstance(energy, FieldEnergy):
        (site,) = energy.sites
        return Field(energy.read().to(torch.float64), {site: len(energy.states)}, {site: None})
    if isinstance(energy, PairwiseEnergy):
        terms = energy.read().to(torch.float64)
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
    start, first = 0, {}
    for site, size in sizes.items():
        first[site], start = start, start + size
    device = terms.constant.device
    groups, levels, states = {}, {}, []
    for site, unit in terms.units.items():
        values = unit.levels or ()
        states += [len(values)] * sizes[site]
        # Labels are features by themselves; of numbers there is a factor for each level.
        levels[site] = terms.constant.new_tensor(values) if unit.width == 1 else None
        nodes = torch.arange(first[site], first[site] + sizes[site], device=device)[:, None]
        bias = terms.biases[site].unflatten(-1, (-1, unit.width))
        own = levels[site]
        groups[site] = FactorGroup(nodes, bias if own is None else bias * own)
    for link in terms.links:
        groups["_".join(link.ends) + "_"] = pair_factors(terms, link, first, levels)
    return Field(FactorGraph(tuple(states), groups, terms.constant), sizes, levels)


def pair_factors(
    terms: PairwiseTerms, link: Link, first: Mapping[str, int], levels: Mapping[str, Tensor | None]
) -> FactorGroup:
    """One coupling as tables on pairs of nodes."""
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
    for site, dim in ((one, -2), (other, -1)):
        values = levels[site]
        if values is not None:
            weight = weight * (values[:, None] if dim == -2 else values)
    nodes = edges + torch.tensor([first[one], first[other]], device=edges.device)
    return FactorGroup(nodes, weight)


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


@dataclass(frozen=True)
class FieldSum(Summation):
    """Sums over a factor graph, by elimination.

    Args:
        field: What is summed.
    """

    field: Field

    @cached_property
    def plan(self) -> elimination.EliminationPlan:
        """What it takes."""
        return elimination.plan_of(self.field.graph)

    @property
    def seconds(self) -> float:
        if not self.field.graph.states:
            return 0.0
        elimination.require_room(self.field.graph, keeping=False)
        # 30 µs a step and 5 ns for each number of its table.
        return len(self.plan.order) * 3e-5 + self.plan.operations * 5e-9

    def log_partition(self) -> Tensor:
        if not self.field.graph.states:  # every node is held
            return -self.field.graph.constant
        return elimination.log_partition_of(self.field.graph)

    def clamped(self, x: Sites) -> Self:
        graph, sizes, start = self.field.graph, self.field.sizes, 0
        nodes = []
        for site, size in sizes.items():
            if site in x:
                nodes.append(torch.arange(start, start + size, device=graph.constant.device))
            start += size
        values = {site: x[site] for site in sizes if site in x}
        part, _ = graph.clamped(torch.cat(nodes), self.field.labels(values))
        rest = {site: size for site, size in sizes.items() if site not in x}
        levels = {site: self.field.levels[site] for site in rest}
        return type(self)(Field(part, rest, levels))

    def moments(self) -> Moments:
        graph = self.field.graph
        if graph.batch:
            raise ValueError(
                "The parameters have batch dimensions: take the fields one by one for this."
            )
        n, q = len(graph.states), max(graph.states)
        # log Z as a function of a field on every label: its gradient and its second derivative.
        own = graph.constant.new_zeros((n, q), requires_grad=True)
        nodes = torch.arange(n, device=own.device)[:, None]
        groups = {**graph.groups, "every node": FactorGroup(nodes, own)}
        with torch.enable_grad():
            log_z = elimination.log_partition_of(FactorGraph(graph.states, groups, graph.constant))
            (mean,) = torch.autograd.grad(log_z, own, create_graph=True)
            mine = torch.cat(list(self.feature_rows().values()))
            first = mine @ mean.flatten()
            rows = [torch.autograd.grad(f, own, retain_graph=True)[0].flatten() for f in first]
        covariance = torch.stack(rows) @ mine.mT
        first = first.detach()
        sizes = [len(rows) for rows in self.feature_rows().values()]
        means = dict(zip(self.field.sizes, first.split(sizes), strict=True))
        return Moments(means, covariance + first[:, None] * first)

    def feature_rows(self) -> dict[str, Tensor]:  # (features, n q) each
        """By site, what each label of each node is to each feature."""
        states = self.field.graph.states
        q, node = max(states), 0
        found = {}
        for site, size in self.field.sizes.items():
            levels = self.field.levels[site]
            rows = []
            for own in states[node : node + size]:
                value = torch.eye(own, dtype=torch.float64) if levels is None else levels[None]
                row = torch.zeros(len(value), len(states), q, dtype=torch.float64)
                row[:, node, :own] = value
                rows.append(row.flatten(1))
                node += 1
            found[site] = torch.cat(rows).to(self.field.graph.constant.device)
        return found

    def minimum(self) -> Sites:
        with torch.no_grad():
            graph = self.field.graph
            labels = elimination.traced_back(graph, 1, elimination.maximum, lambda v: v.argmax(0))
        return self.field.values(labels[0])

    def sample(self, count: int) -> Sites:
        graph = self.field.graph
        labels = elimination.traced_back(graph, count, elimination.log_sum, draw_labels)
        return self.field.values(labels)
