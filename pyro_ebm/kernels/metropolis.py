"""Accept or reject, chain by chain.

A proposal is taken with the probability min(1, exp(log ratio)), each chain on its own. What cannot
be compared is rejected: a log ratio that is NaN, and a proposal of energy +∞, whose log ratio is
−∞.
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

DIVERGENT = 1000.0  # nats by which an exact integrator's energy cannot rise; Stan's limit

Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])  # a named tuple of them


class Verdict(NamedTuple):
    """What the Metropolis test says of a proposal, (*batch,) each.

    Args:
        accepted: Whether it is taken.
        acceptance_rate: With what probability it is.
        diverging: Whether the log ratio is NaN or below −1000.
    """

    accepted: Tensor
    acceptance_rate: Tensor
    diverging: Tensor


def metropolis(log_ratio: Tensor) -> Verdict:  # (*batch,)
    r"""The test of Metropolis and Hastings.

    Args:
        log_ratio: :math:`\ln p(y) q(x \mid y) - \ln p(x) q(y \mid x)` (*batch,), up to no constant.
    """
    diverging = ~(log_ratio > -DIVERGENT)
    rate = log_ratio.clamp(max=0.0).exp().nan_to_num_(nan=0.0)
    return Verdict(torch.rand_like(rate) < rate, rate, diverging)


def choose(accepted: Tensor, new: Tensors, old: Tensors) -> Tensors:
    """Of each tensor (*batch, ...) the new value where accepted (*batch,), else the old one."""
    chosen: dict[tuple[int, int], Tensor] = {}  # a tensor may stand in two places
    for after, before in zip(new, old, strict=True):
        if (id(after), id(before)) not in chosen:
            own = before.dim() - accepted.dim()
            where = accepted.reshape(*accepted.shape, *[1] * own) if own else accepted
            chosen[id(after), id(before)] = torch.where(where, after, before)
    pairs = zip(new, old, strict=True)
    return type(old)(*(chosen[id(after), id(before)] for after, before in pairs))
