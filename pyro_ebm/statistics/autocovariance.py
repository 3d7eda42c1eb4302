r"""How long draws remember: autocovariances of many units at once.

Draws are (chain, draw, \*shape). Units are looked at some at a time, each chunk as float64 in the
layout (unit, chain, draw), where the draws of a unit are contiguous.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .arrays import Array, tensor_of

CHUNK = 2**20  # numbers of a chunk: 8 MB, and twice as much in its transform

SLAB = 16  # chunks that are transposed together


class Autocovariances(NamedTuple):
    """What effective sample sizes are made of; sums over units are the Hamming distance's."""

    within: Tensor  # (*n), mean over chains of the sample variance
    between: Tensor  # (*n), sample variance of the chains' means, zero for one chain
    lagged: Tensor  # (*n, draw), mean over chains of the autocovariance, divided by draws
    chains: int

    def total(self) -> Self:
        """The sums over units."""
        return self._replace(
            within=self.within.sum(-1), between=self.between.sum(-1), lagged=self.lagged.sum(-2)
        )

    def inside(self) -> Self:
        """As if all chains had the same mean: how long one chain on its own remembers."""
        draws = self.lagged.shape[-1]
        return self._replace(
            within=self.lagged[..., 0] * draws / (draws - 1), between=torch.zeros_like(self.between)
        )

    def autocorrelation(self) -> Tensor:  # (*n, draw)
        """ρ_t against the variance of all chains together, so that it stays high in a trap."""
        draws = self.lagged.shape[-1]
        variance = self.within * (draws - 1) / draws + self.between
        return 1 - (self.within[..., None] - self.lagged) / variance[..., None]

    def effective_sample_size(self) -> Tensor:  # (*n)
        """Draws divided by 1 + 2 Σ ρ_t, summed as Geyer proposes; NaN where nothing varies."""
        draws = self.lagged.shape[-1]
        count = self.chains * draws
        rho = self.autocorrelation()
        rho[..., 0] = 1
        # Of four draws ArviZ sums no lag: they would be independent whatever they are.
        pairs = max(2, (draws - 3) // 2 + 1)
        even, odd = rho[..., : 2 * pairs].unflatten(-1, (pairs, 2)).unbind(-1)
        # The sums of neighbours fall and stay positive in a reversible chain: cut at the first that
        # does not, from which the even half is kept if it is positive, and never let them rise.
        pair = even + odd
        kept = (pair[..., : pairs - 1] > 0).cumprod(-1)
        kept[..., 0] = 1  # the lags 0 and 1 always
        falling = (pair[..., : pairs - 1].cummin(-1).values * kept).sum(-1)
        first_left_out = kept.sum(-1, keepdim=True)
        time = 2 * falling - 1 + even.gather(-1, first_left_out).squeeze(-1).clamp_min(0)
        most = torch.tensor(count, dtype=rho.dtype).log10()  # antithetic chains gain no more
        return (count / time.clamp_min(1 / most)).masked_fill(time.isnan(), torch.nan)


def autocovariances(x: Tensor) -> Autocovariances:  # (n, chain, draw)
    """Of units in float64; by the fast Fourier transform."""
    draws = x.shape[-1]
    mean = x.mean(-1, keepdim=True)
    room = fast_length(2 * draws)
    spectrum = torch.fft.rfft(x - mean, n=room)
    # Chains first, along contiguous frequencies: a sum over both dimensions at once takes longer.
    power = torch.view_as_real(spectrum).square_().sum(1).sum(-1) / (x.shape[1] * draws)
    lagged = torch.fft.irfft(power, n=room)[..., :draws]
    means = mean.squeeze(-1)
    between = means.var(-1) if x.shape[1] > 1 else torch.zeros_like(means[:, 0])
    return Autocovariances(lagged[..., 0] * draws / (draws - 1), between, lagged, x.shape[1])


def together(totals: Sequence[Autocovariances]) -> Autocovariances:
    """The sum of sums over different units."""
    columns = zip(*(part[:3] for part in totals), strict=True)
    within, between, lagged = (torch.stack(values).sum(0) for values in columns)
    return Autocovariances(within, between, lagged, totals[0].chains)


@functools.cache
def fast_length(least: int) -> int:
    """The least number from there on that is a product of twos, threes and fives."""
    number = least
    while True:
        rest = number
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return number
        number += 1


def split(x: Tensor) -> Tensor:  # (n, chain, draw) -> (n, 2 chain, draw // 2)
    """First and second halves as chains of their own; the middle draw of an odd number is left."""
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half], x[..., -half:]], 1)


def chunks(draws: Tensor) -> Iterator[Tensor]:  # (chain, draw, *shape) -> (n, chain, draw) each
    """Some units at a time, in float64."""
    flat = draws.flatten(2) if draws.dim() > 2 else draws[..., None]
    width = max(1, CHUNK // max(1, flat.shape[0] * flat.shape[1]))
    # Transposed as they are, and many together: that reads whole lines of memory.
    for slab in flat.split(SLAB * width, -1):
        for part in slab.permute(2, 0, 1).contiguous().split(width):
            yield part.double()


def checked_draws(draws: Array, *, least_chains: int = 1, least_draws: int = 8) -> Tensor:
    """A set of draws as a tensor.

    Raises:
        TypeError: If it is neither a tensor nor an array.
        ValueError: If there are too few chains, draws or units, or some are NaN or infinite.
    """
    draws = tensor_of(draws, "draws")
    if draws.dim() < 2 or draws.numel() == 0:
        raise ValueError(
            f"'draws' has shape {tuple(draws.shape)}; wanted (chain, draw, *shape) with something "
            "in it. A single chain is draws[None]."
        )
    chains, count = draws.shape[:2]
    if chains < least_chains or count < least_draws:
        raise ValueError(
            f"'draws' has {chains} chains of {count} draws; wanted at least {least_chains} chains "
            f"of {least_draws} draws: start more chains, or run longer."
        )
    if draws.is_floating_point() and not bool(draws.isfinite().all()):
        raise ValueError(
            "'draws' contains NaN or infinite values; look for the first one: the chain broke "
            "there."
        )
    return draws
