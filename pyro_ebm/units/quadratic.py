"""Real units with a quadratic potential: what Gaussian and truncated Gaussian units share."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from .base import Unit, require_kind


@dataclass(frozen=True, eq=False)
class QuadraticUnit(Unit, ABC):
    """A real unit with u(x) = ½ precision · x².

    Args:
        precision: Of each unit, positive: one number, or a tensor (*batch, n) or (). An
            nn.Parameter is learned (a machine keeps its logarithm), any other tensor given.
    """

    precision: float | Tensor = 1.0

    has_potential = True

    def __post_init__(self) -> None:
        if not isinstance(self.precision, int | float | Tensor):
            raise TypeError(
                f"precision is a {type(self.precision).__name__}; wanted a positive number, or a "
                f"torch tensor of one for each unit."
            )
        value = torch.as_tensor(self.precision).detach()
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"precision is of {value.dtype}; wanted positive real numbers.")
        bad = value[~((value > 0) & value.isfinite())]
        if len(bad):
            raise ValueError(
                f"precision has the value {float(bad[0]):g}; wanted positive finite numbers. It is "
                f"one over the variance in zero field."
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuadraticUnit) or type(self) is not type(other):
            return False
        own, its = torch.as_tensor(self.precision), torch.as_tensor(other.precision)
        kinds = [(type(value), value.dtype, value.device) for value in (own, its)]
        return self.bounds == other.bounds and kinds[0] == kinds[1] and torch.equal(own, its)

    def __hash__(self) -> int:
        return hash((type(self), self.bounds))

    @property
    def levels(self) -> None:
        return None

    @property
    def square(self) -> None:
        return None

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value, perhaps infinite."""

    def features(self, x: Tensor) -> Tensor:
        return x

    def values(self, features: Tensor) -> Tensor:
        return features

    def potential(self, x: Tensor) -> Tensor:
        return x.square() * self.precision / 2

    def slope(self, x: Tensor) -> Tensor:
        return x * self.precision

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        if isinstance(self.precision, nn.Parameter):
            return {"log_precision": nn.Parameter(self.precision.detach().log())}
        if isinstance(self.precision, Tensor):
            return {"log_precision": self.precision.log()}
        return {"log_precision": torch.tensor(math.log(self.precision), dtype=torch.float64)}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        return self.with_precision(parameters["log_precision"].exp())

    def with_precision(self, precision: Tensor) -> Self:
        """The same kind with a precision that needs no check."""
        unit = copy.copy(self)
        object.__setattr__(unit, "precision", precision)  # it is frozen
        return unit

    def part(self, units: slice | Tensor) -> Self:
        if isinstance(self.precision, Tensor) and self.precision.dim():
            return self.with_precision(self.precision[..., units])
        return self

    def combined(self, weighted: Sequence[tuple[Tensor, Unit]]) -> Self:
        alike = [isinstance(unit, type(self)) for _, unit in weighted]
        require_kind(self, alike, weighted)
        quadratic = [(w, unit) for w, unit in weighted if isinstance(unit, QuadraticUnit)]
        require_kind(self, [unit.bounds == self.bounds for _, unit in quadratic], weighted)
        parts = [weight * unit.precision for weight, unit in quadratic]
        return self.with_precision(torch.stack(torch.broadcast_tensors(*parts)).sum(0))
