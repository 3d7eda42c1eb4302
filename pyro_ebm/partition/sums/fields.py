"""Sums over factor graphs, by elimination."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pyro_ebm.partition.elimination import elimination
from pyro_ebm.partition.elimination.field import Field
from pyro_ebm.sites import Sites

from .summation import Moments, Summation


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

    @property
    def batch(self) -> torch.Size:
        return self.field.graph.batch

    def log_partition(self) -> Tensor:
        if not self.field.graph.states:  # every node is held
            return -self.field.graph.constant
        return elimination.log_partition_of(self.field.graph)

    def clamped(self, x: Sites) -> Self:
        graph, sizes = self.field.graph, self.field.sizes
        every = torch.arange(len(graph.states), device=graph.constant.device)
        by_site = zip(sizes, every.split(list(sizes.values())), strict=True)
        nodes = [own for site, own in by_site if site in x]
        values = {site: x[site] for site in sizes if site in x}
        part, _ = graph.clamped(torch.cat(nodes), self.field.labels(values))
        rest = {site: size for site, size in sizes.items() if site not in x}
        levels = {site: self.field.levels[site] for site in rest}
        features = {site: self.field.features[site] for site in rest}
        return type(self)(Field(part, rest, levels, features))

    def moments(self) -> Moments:
        with torch.enable_grad():
            # The gradient of log Z by these fields, and its second derivative.
            own, log_z = elimination.in_node_fields(self.field.graph)
            (mean,) = torch.autograd.grad(log_z.sum(), own, create_graph=True)
            mine = torch.cat(list(self.feature_rows().values()))
            first = mean.flatten(-2) @ mine.mT  # (*batch, features)
            rows = [
                torch.autograd.grad(f.sum(), own, retain_graph=True)[0].flatten(-2)
                for f in first.unbind(-1)
            ]
        covariance = torch.stack(rows, -2) @ mine.mT
        first = first.detach()
        sizes = [len(rows) for rows in self.feature_rows().values()]
        means = dict(zip(self.field.sizes, first.split(sizes, -1), strict=True))
        return Moments(means, covariance + first.unsqueeze(-1) * first.unsqueeze(-2))

    def feature_rows(self) -> dict[str, Tensor]:  # (features, n q) each
        """By site, what each label of each node is to each feature."""
        states = self.field.graph.states
        q, node = max(states), 0
        found = {}
        for site, size in self.field.sizes.items():
            features = self.field.features[site]
            rows = []
            for own in states[node : node + size]:
                value = torch.eye(own, dtype=torch.float64) if features is None else features.mT
                row = torch.zeros(len(value), len(states), q, dtype=torch.float64)
                row[:, node, :own] = value
                rows.append(row.flatten(1))
                node += 1
            found[site] = torch.cat(rows).to(self.field.graph.constant.device)
        return found

    def minimum(self) -> Sites:
        with torch.no_grad():
            return self.field.values(elimination.likeliest(self.field.graph))

    def sample(self, count: int) -> Sites:
        return self.field.values(elimination.drawn(self.field.graph, count))
