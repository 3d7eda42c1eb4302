"""Laws on finitely many values: of units, and of any site of which all values are listed."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.sites import ListedValues


class FiniteLaw(TorchDistribution):
    r"""Given values, each with its weight: :math:`p(x = v_k) \propto e^{l_k}`.

    Args:
        values: The values (states, *event).
        logits: l (*batch, states).
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 (torch's protocol)

    def __init__(
        self, values: Tensor, logits: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.values, self.logits = values, logits - logits.logsumexp(-1, keepdim=True)
        super().__init__(logits.shape[:-1], values.shape[1:], validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """One of the values."""
        return ListedValues(self.values)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Always."""
        return True

    @property
    def mean(self) -> Tensor:  # (*batch, *event)
        """Σ p(v) v."""
        weights = self.logits.exp()
        return torch.tensordot(weights, self.values.to(weights.dtype), dims=1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FiniteLaw":  # noqa: ANN401
        """The same law for a larger batch."""
        shape = (*batch_shape, self.logits.shape[-1])
        return FiniteLaw(self.values, self.logits.expand(shape), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: ANN401
        """Independent draws (*sample_shape, *batch, *event)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        like = self.logits
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            if len(self.values) == 2:
                chosen = (uniform < like[..., 1].exp()).long()
            else:
                cumulated = like.exp().cumsum(-1)
                # Not 1: the sum of rounded probabilities may be a little less.
                level = (uniform * cumulated[..., -1]).unsqueeze(-1)
                chosen = (cumulated <= level).sum(-1).clamp_max_(len(self.values) - 1)
            return self.values[chosen]

    def log_prob(self, value: Tensor) -> Tensor:  # (*batch, *event) -> (*batch,)
        """ln p of a value; −∞ where it is none of the listed ones."""
        found = self.positions(value)  # (*batch, states)
        zero = torch.full((), -torch.inf, dtype=self.logits.dtype, device=self.logits.device)
        return torch.where(found, self.logits, zero).amax(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002
        """All the values."""
        ones = (1,) * len(self.batch_shape)
        values = self.values.reshape(-1, *ones, *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def positions(self, value: Tensor) -> Tensor:  # (*batch, *event) -> (*batch, states)
        """Which of the values each is."""
        own = len(self.event_shape)
        same = value.unsqueeze(value.dim() - own) == self.values
        return same.flatten(same.dim() - own).all(-1) if own else same
