"""Accept or reject, chain by chain.

A proposal is taken with the probability min(1, exp(log ratio)), each chain on its own. What cannot
be compared is rejected: a log ratio that is NaN, and a proposal of energy +∞, whose log ratio is
−∞.
"""

import math
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


class AcceptanceInfo(NamedTuple):
    """What a Metropolis test did (*batch,): the probability of acceptance."""

    acceptance_rate: Tensor


class NoInfo(NamedTuple):
    """Nothing to tell: every draw is accepted, and `run` counts the flips."""


def metropolis(log_ratio: Tensor) -> Verdict:  # (*batch,)
    r"""The test of Metropolis and Hastings.

    Args:
        log_ratio: :math:`\ln p(y) q(x \mid y) - \ln p(x) q(y \mid x)` (*batch,), up to no constant.
    """
    diverging = ~(log_ratio > -DIVERGENT)
    rate = log_ratio.clamp(max=0.0).exp().nan_to_num_(nan=0.0)
    return Verdict(torch.rand_like(rate) < rate, rate, diverging)


def require_known(energies: Tensor, chain: int = 0) -> None:
    """Refuses energies of discrete states that are NaN, which would count as forbidden in silence.

    Real positions may be where an energy overflows; values that are listed have no such places.

    Args:
        energies: Of states that chains are at, or may come to.
        chain: Which of its dimensions counts the chains.

    Raises:
        FloatingPointError: If one is.
    """
    # The largest is NaN where any is.
    if energies.numel() and math.isnan(energies.amax().item()):
        where = energies.isnan().nonzero()[:, chain].unique().tolist()
        raise FloatingPointError(f"The energy became NaN in the chains {where[:10]}")


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
