"""Real numbers within bounds."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from .quadratic import QuadraticUnit
from .truncated_normal import LessThanEq, TruncatedNormal, draw, log_integral, mean_of, variance_of

STEPS = 200  # of bracketed Newton's method, which takes about ten


@dataclass(frozen=True, eq=False)
class TruncatedGaussian(QuadraticUnit):
    r"""A real unit between two bounds; rectified, x ≥ 0, unless they are given.

    .. math:: p(x \mid \mathrm{field}) \propto \exp(\mathrm{field}\, x - \tfrac12 \lambda x^2),
        \quad low \le x \le high

    Args:
        precision: λ of each unit; see `QuadraticUnit`.
        low: The least value, perhaps −∞.
        high: The largest value, perhaps ∞.

    Raises:
        ValueError: If the bounds are not two different numbers in order, or neither is finite.

    Example:
        >>> import torch
        >>> from pyro_ebm import TruncatedGaussian
        >>> TruncatedGaussian().conditional(torch.tensor([-1.0, 3.0])).mean
        tensor([0.5251, 3.0044])

    References:
        | Generative models for discovering sparse distributed representations
        | (Hinton & Ghahramani, 1997) https://doi.org/10.1098/rstb.1997.0101
    """

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"The bounds are {self.low} and {self.high}; wanted low < high.")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError("Neither bound is finite; such a unit is Gaussian(precision).")

    @property
    def support(self) -> Constraint:  # type: ignore[override]  # depends on the instance
        """The interval."""
        if math.isinf(self.high):
            return constraints.greater_than_eq(self.low)
        if math.isinf(self.low):
            return LessThanEq(torch.tensor(self.high))
        return constraints.interval(self.low, self.high)

    @property
    def bounds(self) -> tuple[float, float]:
        return (self.low, self.high)

    def law(self, field: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Location, scale and bounds of the normal law that is truncated."""
        precision = torch.as_tensor(self.precision, dtype=field.dtype, device=field.device)
        return (
            field / precision,
            precision.rsqrt(),
            field.new_tensor(self.low),
            field.new_tensor(self.high),
        )

    def conditional(self, field: Tensor) -> TruncatedNormal:
        return TruncatedNormal(*self.law(field))

    def cumulant(self, field: Tensor) -> Tensor:
        _, *law = self.law(field)
        return log_integral(field, *law)

    def conjugate(self, mean: Tensor) -> Tensor:
        # At the maximum, so that the gradients with respect to mean and precision are right.
        field = self.field(mean.detach())
        return field * mean - self.cumulant(field)

    def mean(self, field: Tensor) -> Tensor:
        return mean_of(*self.law(field))

    @torch.no_grad()
    def field(self, mean: Tensor) -> Tensor:
        target = mean.double()
        inside = (target > self.low) & (target < self.high)
        # At a bound, or beyond it, there is no such field.
        target = torch.where(inside, target, torch.nan)
        # Where the mean is far from both bounds, and where it is so near to one that the law is
        # exponential, this is right already.
        field = target * torch.as_tensor(self.precision).to(target)
        field = field - 1 / (target - self.low) + 1 / (self.high - target)
        least, most = torch.full_like(field, -math.inf), torch.full_like(field, math.inf)
        for _ in range(STEPS):
            law = self.law(field)
            excess = mean_of(*law) - target
            least = torch.where(excess < 0, field, least)
            most = torch.where(excess > 0, field, most)
            newton = field - excess / variance_of(*law)
            # Where Newton's step leaves what is known to hold the root, halve that, or reach out.
            further = field - 2 * excess.sign() * (1 + field.abs())
            known = least.isfinite() & most.isfinite()
            safe = torch.where(known, (least + most) / 2, further)
            step = torch.where((newton > least) & (newton < most), newton, safe)
            step = torch.where(excess == 0, field, step)
            done = (step - field).abs() <= 1e-14 * field.abs()
            field = step
            if bool((done | ~inside).all()):
                break
        return field.to(mean.dtype)

    def variance(self, field: Tensor) -> Tensor:
        return variance_of(*self.law(field))

    def mode(self, field: Tensor) -> Tensor:
        return (field / self.precision).clamp(self.low, self.high)

    def sample(self, field: Tensor) -> Tensor:
        return draw(*self.law(field))
