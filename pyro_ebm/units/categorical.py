"""Labels."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.sites import is_count, whole

from .base import PlainUnit


@dataclass(frozen=True)
class Categorical(PlainUnit):
    r"""A unit with one of q labels: :math:`p(x = a \mid \mathrm{field}) \propto e^{field_a}`.

    Its values are the labels 0, …, q − 1, its features the one-hot vector; biases, fields and
    couplings therefore have q numbers for each unit, in the order of the labels. A number added to
    all q of them changes nothing but log Z.

    Args:
        states: q, the number of labels, 2 or more.

    Example:
        >>> import torch
        >>> from pyro_ebm import Categorical
        >>> Categorical(3).conditional(torch.tensor([0.0, 1.0, 1.0])).probs
        tensor([[0.1554, 0.4223, 0.4223]])
    """

    states: int

    def __post_init__(self) -> None:
        if not is_count(self.states, 2):
            raise ValueError(f"states is {self.states!r}; wanted a whole number of at least 2.")
        object.__setattr__(self, "states", whole(self.states))  # it is frozen

    @property
    def support(self) -> Constraint:  # type: ignore[override]  # depends on the instance
        """The labels."""
        return constraints.integer_interval(0, self.states - 1)

    @property
    def width(self) -> int:  # type: ignore[override]  # depends on the instance
        """One feature for each label."""
        return self.states

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(map(float, range(self.states)))

    @property
    def square(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def features(self, x: Tensor) -> Tensor:
        labels = torch.arange(self.states, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-1) == labels).to(x.dtype).flatten(-2)

    def values(self, features: Tensor) -> Tensor:
        return self.by_label(features).argmax(-1).to(features.dtype)

    def conditional(self, field: Tensor) -> dist.Categorical:
        # Of an empty batch torch cannot check the arguments.
        validate = None if field.numel() else False
        return dist.Categorical(logits=self.by_label(field), validate_args=validate)

    def cumulant(self, field: Tensor) -> Tensor:
        return self.by_label(field).logsumexp(-1)

    def conjugate(self, mean: Tensor) -> Tensor:
        return -torch.special.entr(self.by_label(mean)).sum(-1)

    def mean(self, field: Tensor) -> Tensor:
        return self.by_label(field).softmax(-1).flatten(-2)

    def field(self, mean: Tensor) -> Tensor:
        return mean.log()

    def variance(self, field: Tensor) -> Tensor:
        log_p = self.by_label(field).log_softmax(-1)
        # ln(1 − p) by the other labels, where p rounds to 1.
        others = torch.stack([without(log_p, a).logsumexp(-1) for a in range(self.states)], -1)
        return (log_p + others).exp().flatten(-2)

    def mode(self, field: Tensor) -> Tensor:
        return self.values(field)

    def sample(self, field: Tensor) -> Tensor:
        # The label with the largest field + Gumbel noise, −ln(−ln uniform).
        noise = torch.empty_like(field).exponential_().log_()
        return self.by_label(field.sub_(noise)).argmax(-1).to(field.dtype)

    def by_label(self, features: Tensor) -> Tensor:  # (*batch, n * q) -> (*batch, n, q)
        """Features with a dimension of their own for the labels."""
        return features.unflatten(-1, (-1, self.states))


def without(x: Tensor, k: int) -> Tensor:
    """A tensor without the entry k of its last dimension."""
    return torch.cat([x[..., :k], x[..., k + 1 :]], -1)
