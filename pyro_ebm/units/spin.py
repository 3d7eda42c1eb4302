"""Spins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.sites import spin

from .base import PlainUnit, softplus


class SpinDistribution(TorchDistribution):
    r"""A value in {-1, 1} with :math:`p(s) = \exp(s f) / (2 \cosh f)`.

    Args:
        field: The field f (*batch).

    Example:
        >>> import torch
        >>> from pyro_ebm.distributions import SpinDistribution
        >>> SpinDistribution(torch.tensor(2.0)).log_prob(torch.tensor([-1.0, 1.0])).exp()
        tensor([0.0180, 0.9820])
    """

    arg_constraints: ClassVar = {"field": constraints.real}
    support = spin
    has_enumerate_support = True

    def __init__(self, field: Tensor, *, validate_args: bool | None = None) -> None:
        self.field = field
        super().__init__(field.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """E[s] = tanh f."""
        return self.field.tanh()

    @property
    def variance(self) -> Tensor:
        """1 − tanh² f."""
        return 1 - self.mean.square()

    def expand(
        self, batch_shape: Sequence[int], _instance: "SpinDistribution | None" = None
    ) -> "SpinDistribution":
        """The same law with a larger batch."""
        return SpinDistribution(self.field.expand(batch_shape), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Independent draws (*sample_shape, *batch)."""
        with torch.no_grad():
            up = dist.Bernoulli(logits=2 * self.field).sample(sample_shape)
            return 2 * up - 1

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(s) = −ln(1 + exp(−2 s f))."""
        if self._validate_args:
            self._validate_sample(value)
        return -softplus(-2 * value * self.field)

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 (Pyro's)
        """-1 and 1 in a new leading dimension."""
        values = self.field.new_tensor([-1.0, 1.0]).reshape((2,) + (1,) * self.field.dim())
        return values.expand((2, *self.batch_shape)) if expand else values

    def entropy(self) -> Tensor:
        """In nats."""
        return softplus(2 * self.field) - self.field - self.field * self.mean


@dataclass(frozen=True)
class Spin(PlainUnit):
    r"""A unit in {-1, 1}: :math:`p(x = 1 \mid \mathrm{field}) = \sigma(2\, \mathrm{field})`.

    Example:
        >>> import torch
        >>> from pyro_ebm import Spin
        >>> Spin().conditional(torch.tensor([0.0, 2.0])).mean  # tanh of the field
        tensor([0.0000, 0.9640])
    """

    support = spin

    @property
    def levels(self) -> tuple[float, ...]:
        return (-1.0, 1.0)

    @property
    def square(self) -> tuple[float, float]:
        return (1.0, 0.0)

    def features(self, x: Tensor) -> Tensor:
        return x

    def values(self, features: Tensor) -> Tensor:
        return features

    def conditional(self, field: Tensor) -> SpinDistribution:
        return SpinDistribution(field)

    def cumulant(self, field: Tensor) -> Tensor:
        return softplus(2 * field) - field

    def mean(self, field: Tensor) -> Tensor:
        return field.tanh()

    def field(self, mean: Tensor) -> Tensor:
        return mean.atanh()

    def variance(self, field: Tensor) -> Tensor:
        # Not 1 − mean², which is 0 where the mean rounds to 1.
        return 4 * (2 * field).sigmoid() * (-2 * field).sigmoid()

    def conjugate(self, mean: Tensor) -> Tensor:
        up = (1 + mean) / 2
        return -(torch.special.entr(up) + torch.special.entr(1 - up))

    def mode(self, field: Tensor) -> Tensor:
        return torch.where(field > 0, 1.0, -1.0).to(field.dtype)

    def sample(self, field: Tensor) -> Tensor:
        up = torch.rand_like(field).lt_(field.mul_(2).sigmoid_())
        return up.mul_(2).sub_(1)
