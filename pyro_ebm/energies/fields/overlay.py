"""The factors of several random fields at once, of which weights make one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from pyro_ebm.energies.structure import added

from .factor_graph import FactorGraph, FactorGroup


@dataclass(frozen=True, eq=False)
class FieldOverlay:
    """Random fields over the same nodes, laid over one another.

    Args:
        parts: The factors of each.
        groups: The groups of factors, by the numbers of the parts; those under one name are over
            the same nodes.
    """

    parts: tuple[FactorGraph, ...]
    groups: Mapping[str, Mapping[int, FactorGroup]]

    @classmethod
    def of(cls, parts: Sequence[FactorGraph]) -> Self:
        """The overlay of fields."""
        groups: dict[str, dict[int, FactorGroup]] = {}
        for k, graph in enumerate(parts):
            for name, group in graph.groups.items():
                while not all(own.is_over(group) for own in groups.get(name, {}).values()):
                    name = f"{name}_{k}"
                groups.setdefault(name, {})[k] = group
        return cls(tuple(parts), groups)

    def weighted(self, weights: Sequence[Tensor]) -> FactorGraph:
        """The factors of the weighted sum, for weights (*batch,)."""
        groups = {}
        for name, own in self.groups.items():
            scaled = [group.scaled(weights[k]) for k, group in own.items()]
            groups[name] = replace(scaled[0], table=added(group.table for group in scaled))
        constant = added(w * graph.constant for w, graph in zip(weights, self.parts, strict=True))
        return FactorGraph(self.parts[0].states, groups, constant)
