"""Bits."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm.sites import boolean

from .base import PlainUnit, softplus


@dataclass(frozen=True)
class Bernoulli(PlainUnit):
    r"""A unit in {0, 1}: :math:`p(x = 1 \mid \mathrm{field}) = \sigma(\mathrm{field})`.

    Example:
        >>> import torch
        >>> from pyro_ebm import Bernoulli
        >>> Bernoulli().conditional(torch.tensor([0.0, 2.0])).mean
        tensor([0.5000, 0.8808])
    """

    support = boolean

    @property
    def levels(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    @property
    def square(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def features(self, x: Tensor) -> Tensor:
        return x

    def values(self, features: Tensor) -> Tensor:
        return features

    def conditional(self, field: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=field)

    def cumulant(self, field: Tensor) -> Tensor:
        return softplus(field)

    def mean(self, field: Tensor) -> Tensor:
        return field.sigmoid()

    def field(self, mean: Tensor) -> Tensor:
        return mean.logit()

    def variance(self, field: Tensor) -> Tensor:
        # Not mean (1 − mean), which is 0 where the mean rounds to 1.
        return field.sigmoid() * (-field).sigmoid()

    def conjugate(self, mean: Tensor) -> Tensor:
        return -(torch.special.entr(mean) + torch.special.entr(1 - mean))

    def mode(self, field: Tensor) -> Tensor:
        return (field > 0).to(field.dtype)

    def sample(self, field: Tensor) -> Tensor:
        # Not torch.bernoulli: it takes almost four times as long.
        return torch.rand_like(field).lt_(field.sigmoid_())
