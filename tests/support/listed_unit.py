"""A unit as a user may write one: any listed values, with a potential of their own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.sites import ListedValues
from pyro_ebm.units import FiniteLaw, Unit


@dataclass(frozen=True)
class Listed(Unit):
    """A number x = v_k with ln p = field · v_k − u_k up to a constant.

    Args:
        listed: v, rising.
        heights: u.
    """

    listed: tuple[float, ...]
    heights: tuple[float, ...]

    has_potential = True

    @property
    def levels(self) -> tuple[float, ...]:
        return self.listed

    @property
    def support(self) -> Constraint:  # type: ignore[override]  # depends on the instance
        if self.levels == tuple(range(len(self.levels))):
            return constraints.integer_interval(0, len(self.levels) - 1)
        return ListedValues(torch.tensor(self.levels))

    @property
    def square(self) -> tuple[float, float] | None:
        if len(self.levels) > 2:
            return None
        low, high = self.levels  # x² = (low + high) x − low high
        return (-low * high, low + high)

    def tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.levels), like.new_tensor(self.heights)

    def log_weights(self, field: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n, q)
        levels, heights = self.tables(field)
        return field.unsqueeze(-1) * levels - heights

    def features(self, x: Tensor) -> Tensor:
        return x

    def values(self, features: Tensor) -> Tensor:
        return features

    def potential(self, x: Tensor) -> Tensor:
        levels, heights = self.tables(x)
        return heights[(x.unsqueeze(-1) - levels).abs().argmin(-1)]

    def slope(self, x: Tensor) -> Tensor:
        """Of the straight lines between the levels, which is enough for a proposal."""
        levels, heights = self.tables(x)
        slopes = heights.diff() / levels.diff()
        number = (x.unsqueeze(-1) - levels).abs().argmin(-1).clamp_max(len(slopes) - 1)
        return slopes[number]

    def conditional(self, field: Tensor) -> FiniteLaw:
        return FiniteLaw(self.tables(field)[0], self.log_weights(field))

    def cumulant(self, field: Tensor) -> Tensor:
        return self.log_weights(field).logsumexp(-1)

    def conjugate(self, mean: Tensor) -> Tensor:
        field = self.field(mean)
        return field * mean - self.cumulant(field)

    def mean(self, field: Tensor) -> Tensor:
        return self.log_weights(field).softmax(-1) @ self.tables(field)[0]

    def field(self, mean: Tensor) -> Tensor:
        low, high = torch.full_like(mean, -60.0), torch.full_like(mean, 60.0)
        for _ in range(80):
            middle = (low + high) / 2
            above = self.mean(middle) > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def variance(self, field: Tensor) -> Tensor:
        squares = self.log_weights(field).softmax(-1) @ self.tables(field)[0].square()
        return squares - self.mean(field).square()

    def mode(self, field: Tensor) -> Tensor:
        return self.tables(field)[0][self.log_weights(field).argmax(-1)]

    def sample(self, field: Tensor) -> Tensor:
        return self.conditional(field).sample()

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        return {}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        return self

    def part(self, units: slice | Tensor) -> Self:
        return self

    def combined(self, weighted: Sequence[tuple[Tensor, Unit]]) -> Self:
        raise ValueError("Units of these kinds are not added.")


def binomial(count: int = 2) -> Listed:
    """A binomial count: u(k) = −ln C(count, k)."""
    levels = range(count + 1)
    return Listed(tuple(map(float, levels)), tuple(-math.log(math.comb(count, k)) for k in levels))
