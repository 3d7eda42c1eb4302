"""Real numbers."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .quadratic import QuadraticUnit


@dataclass(frozen=True, eq=False)
class Gaussian(QuadraticUnit):
    r"""A real unit: :math:`p(x \mid \mathrm{field}) = N(\mathrm{field} / \lambda, 1 / \lambda)`.

    λ is the precision, u(x) = ½ λ x². Couplings among Gaussian units belong to the joint precision
    matrix, diag(λ) − W, which must be positive definite.

    Args:
        precision: λ of each unit; see `QuadraticUnit`.

    Example:
        >>> import torch
        >>> from pyro_ebm import Gaussian
        >>> law = Gaussian(precision=4.0).conditional(torch.tensor([2.0]))
        >>> law.mean, law.stddev
        (tensor([0.5000]), tensor([0.5000]))

    References:
        | Reducing the dimensionality of data with neural networks (Hinton & Salakhutdinov, 2006)
        | https://doi.org/10.1126/science.1127647
    """

    support = constraints.real

    @property
    def bounds(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    def conditional(self, field: Tensor) -> dist.Normal:
        precision = self.spread(field)
        return dist.Normal(field / precision, precision.rsqrt())

    def cumulant(self, field: Tensor) -> Tensor:
        precision = self.spread(field)
        return (field.square() / precision - (precision / (2 * math.pi)).log()) / 2

    def conjugate(self, mean: Tensor) -> Tensor:
        precision = self.spread(mean)
        return (mean.square() * precision + (precision / (2 * math.pi)).log()) / 2

    def mean(self, field: Tensor) -> Tensor:
        return field / self.precision

    def field(self, mean: Tensor) -> Tensor:
        return mean * self.precision

    def variance(self, field: Tensor) -> Tensor:
        return (1 / self.spread(field)).expand(field.shape)

    def mode(self, field: Tensor) -> Tensor:
        return self.mean(field)

    def sample(self, field: Tensor) -> Tensor:
        precision = self.spread(field)
        return torch.randn_like(field).mul_(precision.rsqrt()).add_(field / precision)

    def spread(self, like: Tensor) -> Tensor:
        """The precision as a tensor of the same dtype."""
        return torch.as_tensor(self.precision, dtype=like.dtype, device=like.device)
