"""A unit that is none of the library's: as a user would write one, with levels and a potential."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, log

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.units import Unit


@dataclass(frozen=True)
class Binomial(Unit):
    r"""A number of successes: :math:`p(k \mid f) \propto \binom{n}{k} e^{f k}`, k = 0, …, n.

    Args:
        trials: n.
    """

    trials: int = 2

    has_potential = True

    @property
    def support(self) -> Constraint:  # type: ignore[override]  # depends on the instance
        return constraints.integer_interval(0, self.trials)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(map(float, range(self.trials + 1)))

    @property
    def square(self) -> None:
        return None

    def features(self, x: Tensor) -> Tensor:
        return x

    def values(self, features: Tensor) -> Tensor:
        return features

    def potential(self, x: Tensor) -> Tensor:
        weights = [-log(comb(self.trials, k)) for k in range(self.trials + 1)]
        return x.new_tensor(weights)[x.long()]

    def slope(self, x: Tensor) -> Tensor:
        raise NotImplementedError("There are no values between the levels.")

    def conditional(self, field: Tensor) -> dist.Binomial:
        return dist.Binomial(self.trials, logits=field)

    def cumulant(self, field: Tensor) -> Tensor:
        return self.trials * torch.nn.functional.softplus(field, threshold=40)

    def conjugate(self, mean: Tensor) -> Tensor:
        share = mean / self.trials
        return -self.trials * (torch.special.entr(share) + torch.special.entr(1 - share))

    def mean(self, field: Tensor) -> Tensor:
        return self.trials * field.sigmoid()

    def field(self, mean: Tensor) -> Tensor:
        return (mean / self.trials).logit()

    def variance(self, field: Tensor) -> Tensor:
        return self.trials * field.sigmoid() * (-field).sigmoid()

    def mode(self, field: Tensor) -> Tensor:
        levels = field.new_tensor(self.levels)
        height = field.unsqueeze(-1) * levels - self.potential(levels)
        return height.argmax(-1).to(field.dtype)

    def sample(self, field: Tensor) -> Tensor:
        up = torch.rand(self.trials, *field.shape, dtype=field.dtype) < field.sigmoid()
        return up.sum(0).to(field.dtype)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        return {}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> "Binomial":
        return self

    def part(self, units: slice | Tensor) -> "Binomial":
        return self

    def combined(self, weighted: Sequence[tuple[Tensor, Unit]]) -> "Binomial":
        raise ValueError("A weighted sum of potentials is no binomial coefficient.")
