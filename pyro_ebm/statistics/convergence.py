r"""R-hat and effective sample size, of many units in one pass.

The numbers are those that ArviZ gives for one unit after another, to rounding, but for units that
never change: ArviZ calls a constant unit's sample size perfect. Ranks of a two-valued unit are an
affine map of its values, which leaves R-hat and sample size as they are: no ranks are made there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .arrays import Array
from .autocovariance import autocovariances, checked_draws, chunks, split

TAIL = 0.05


def r_hat(draws: Array) -> Tensor:  # (chain, draw, *shape) -> (*shape)
    r"""Rank-normalised split R-hat: the larger of that of the values and that of their spread.

    .. math:: \hat R = \sqrt{\frac{N - 1}{N} + \frac{B}{W}}

    over half chains of N draws, with W the mean variance of a half chain and B the variance of
    their means. NaN for a unit that is constant everywhere; infinite for one that is stuck at
    different values.

    ArviZ's `rhat` gives the same; `diagnose` looks at it for every unit.

    Args:
        draws: The draws of one site; one chain is split in two.

    Raises:
        ValueError: If there are fewer than 8 draws, or some are NaN or infinite.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import r_hat
        >>> apart = torch.randn(4, 100) + torch.tensor([[0.0], [0.0], [0.0], [3.0]])
        >>> [f"{r_hat(draws):.2f}" for draws in (torch.randn(4, 100), apart)]
        ['1.00', '1.48']

    References:
        | Rank-normalization, folding, and localization: an improved R-hat for assessing
        | convergence of MCMC (Vehtari, Gelman, Simpson, Carpenter & Bürkner, 2021)
        | https://doi.org/10.1214/20-BA1221
    """
    draws = checked_draws(draws)
    return by_chunk(lambda x: r_hats(split(x)), draws)


def effective_sample_size(draws: Array) -> Tensor:  # (chain, draw, *shape) -> (*shape)
    r"""How many independent draws would tell the mean as well: the bulk ESS.

    .. math:: S / \left(1 + 2 \sum_{t > 0} \rho_t\right)

    over the S rank-normalised draws of all half chains. NaN for a unit that is constant everywhere.

    ArviZ's `ess(method="bulk")` gives the same.

    Args:
        draws: The draws of one site.

    Raises:
        ValueError: As `r_hat`.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import effective_sample_size
        >>> independent = torch.randn(4, 250)
        >>> sticky = independent.repeat_interleave(5, 1)
        >>> [f"{effective_sample_size(x):.0f} of {x.numel()}" for x in (independent, sticky)]
        ['1088 of 1000', '1045 of 5000']

    References:
        | Practical Markov chain Monte Carlo (Geyer, 1992) https://doi.org/10.1214/ss/1177011137
        | and as `r_hat`
    """
    draws = checked_draws(draws)
    return by_chunk(lambda x: sample_sizes(normal_scores(split(x))), draws)


def tail_effective_sample_size(draws: Array) -> Tensor:  # (chain, draw, *shape) -> (*shape)
    """The smaller effective sample size of the 5 % and the 95 % quantile.

    NaN where no draw lies beyond one of the quantiles, as for two-valued units that are rarely on.

    ArviZ's `ess(method="tail")` gives the same.

    Args:
        draws: The draws of one site.

    Raises:
        ValueError: As `r_hat`.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import tail_effective_sample_size
        >>> f"{tail_effective_sample_size(torch.randn(4, 250)):.0f} of 1000"
        '842 of 1000'

    References:
        As `r_hat`.
    """
    draws = checked_draws(draws)
    return by_chunk(tail_sample_sizes, draws)


def by_chunk(function: Callable[[Tensor], Tensor], draws: Tensor) -> Tensor:
    """A number for each unit, some units at a time."""
    return torch.cat([function(x) for x in chunks(draws)]).reshape(draws.shape[2:])


def r_hats(x: Tensor) -> Tensor:  # (n, half chain, draw) -> (n)
    """Of both the values and their distances from the median."""
    scores = normal_scores(x)
    if scores is x:  # two-valued: the distances from the median are the values again, or all alike
        return ratio(*moments(x), x)
    # The mean of the two middle values, where torch's median is the lower one.
    folded = (x - quantile(x, 0.5)).abs()
    return torch.fmax(ratio(*moments(scores), x), ratio(*moments(normal_scores(folded)), folded))


def moments(scores: Tensor) -> tuple[Tensor, Tensor]:  # (n, chain, draw) -> (n), (n)
    """The mean variance of a chain, and the variance of the chains' means."""
    return scores.var(-1).mean(-1), scores.mean(-1).var(-1)


def ratio(within: Tensor, between: Tensor, values: Tensor) -> Tensor:  # (n), (n), (n, chain, draw)
    """R-hat; NaN and infinity are told from the values, free of rounding."""
    draws = values.shape[-1]
    r = ((draws - 1) / draws + between / within).sqrt()
    low, high = values.amin(-1), values.amax(-1)
    still = (low == high).all(-1)
    constant = low.amin(-1) == high.amax(-1)
    return r.masked_fill(still, torch.inf).masked_fill(constant, torch.nan)


def sample_sizes(x: Tensor) -> Tensor:  # (n, chain, draw) -> (n)
    """Effective sample sizes of the mean, NaN where all draws are the same."""
    constant = x.amin((1, 2)) == x.amax((1, 2))
    return autocovariances(x).effective_sample_size().masked_fill(constant, torch.nan)


def tail_sample_sizes(x: Tensor) -> Tensor:  # (n, chain, draw) -> (n)
    """The smaller of both tails."""
    sizes = [
        sample_sizes(split((x <= quantile(x, probability)).double()))
        for probability in (TAIL, 1 - TAIL)
    ]
    return torch.minimum(*sizes)


def quantile(x: Tensor, probability: float) -> Tensor:  # (n, chain, draw) -> (n, 1, 1)
    """A quantile of all draws of a unit, linear between neighbours."""
    # Not torch.quantile, which refuses more than 16 million numbers.
    ordered = x.flatten(1).sort(1).values
    place = probability * (ordered.shape[1] - 1)
    low = int(place)
    high = min(low + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, low], ordered[:, high], place - low)[:, None, None]


def two_valued(x: Tensor) -> bool:  # (n, chain, draw)
    """Whether every unit has at most two values."""
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return bool(((x == low) | (x == high)).all())


def normal_scores(x: Tensor) -> Tensor:  # (n, chain, draw)
    """The normal quantiles of the ranks among all draws of a unit, ties averaged."""
    if two_valued(x):
        return x
    flat = x.flatten(1)
    ordered = flat.sort(1).values
    below = torch.searchsorted(ordered, flat)
    upto = torch.searchsorted(ordered, flat, right=True)
    rank = (below + upto + 1).double() / 2
    return torch.special.ndtri((rank - 0.375) / (flat.shape[1] + 0.25)).reshape(x.shape)
