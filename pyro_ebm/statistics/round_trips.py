"""How replicas travel between the first and the last level of a ladder of temperatures."""

from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import Array, tensor_of


class RoundTrips(NamedTuple):
    """What the replicas of one ladder did.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import round_trips
        >>> levels = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]])  # (draw, replica)
        >>> round_trips(levels).completed
        tensor([1, 1])
    """

    completed: Tensor  # (*batch, replica), int: from the first level to the last and back
    rate: Tensor  # (*batch), round trips of all replicas for each draw
    upward: Tensor  # (*batch, level), share of visits by replicas that come from the first level
    visits: Tensor  # (*batch, replica, level), share of its draws that a replica is there


def round_trips(levels: Array) -> RoundTrips:
    r"""Round trips, from the history of which replica was at which level.

    Swaps may be accepted often between neighbours while no replica comes through: the number of
    trips from one end to the other and back is what counts. The share of replicas on their way up
    falls evenly from 1 at the first level to 0 at the last in a good ladder; a jump shows where
    the bottleneck is. Levels that only replicas without a direction yet have visited have NaN.

    `ParallelTempering(...).report(chains.state)` counts those of all steps.

    Args:
        levels: (*batch, draw, replica), whole numbers: the level at which a replica was, from 0 to
            replicas − 1; at every draw each level once.

    Raises:
        ValueError: If it is no such history.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import round_trips
        >>> levels = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]])  # (draw, replica)
        >>> round_trips(levels).rate
        tensor(0.5000, dtype=torch.float64)

    References:
        | Feedback-optimized parallel tempering Monte Carlo (Katzgraber, Trebst, Huse & Troyer,
        | 2006) https://doi.org/10.1088/1742-5468/2006/03/P03018
        | Non-reversible parallel tempering (Syed, Bouchard-Côté, Deligiannidis & Doucet, 2022)
        | https://doi.org/10.1111/rssb.12464
    """
    levels = tensor_of(levels, "levels")
    check_levels(levels)
    level = levels.long()
    last = level.shape[-1] - 1
    at_first, at_last = level == 0, level == last
    # The direction of a replica is set by the end that it visited last: 1 up, −1 down, 0 neither.
    end = at_first.long() - at_last.long()
    draw = torch.arange(level.shape[-2], device=level.device)[:, None].expand_as(level)
    latest = torch.where(end != 0, draw, -1).cummax(-2).values
    direction = end.gather(-2, latest.clamp_min(0)) * (latest >= 0)
    before = torch.cat([torch.zeros_like(direction[..., :1, :]), direction[..., :-1, :]], -2)
    # A trip is over at the first level, reached on the way down; the first must have begun there.
    started = at_first.cumsum(-2) > at_first.long()
    completed = ((direction == 1) & (before == -1) & started).sum(-2)
    places = torch.nn.functional.one_hot(level, last + 1)  # (*batch, draw, replica, level)
    up = (places * (direction == 1)[..., None]).sum((-3, -2))
    down = (places * (direction == -1)[..., None]).sum((-3, -2))
    return RoundTrips(
        completed=completed,
        rate=completed.sum(-1).double() / level.shape[-2],
        upward=up.double() / (up + down),
        visits=places.double().mean(-3),
    )


def check_levels(levels: Tensor) -> None:
    """Refuses what is no history of a ladder.

    Raises:
        ValueError: If it is not (*batch, draw, replica), or a level is missing at some draw.
    """
    if levels.dim() < 2 or levels.is_floating_point() or levels.numel() == 0:
        raise ValueError(
            f"'levels' has shape {tuple(levels.shape)} and dtype {levels.dtype}; wanted whole "
            "numbers (*batch, draw, replica)."
        )
    replicas = levels.shape[-1]
    ladder = torch.arange(replicas, device=levels.device)
    if replicas < 2 or not bool((levels.sort(-1).values == ladder).all()):
        raise ValueError(
            f"'levels' must hold each level from 0 to {replicas - 1} once at every draw, and at "
            "least two levels: is it (draw, level) -> replica? Its argsort(-1) is the other."
        )
