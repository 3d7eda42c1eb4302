"""Sums over states, one by one: some sites enumerated, the others summed in closed form.

All in float64. `enumerated` names the sites whose states are gone through; the others must not be
coupled among themselves.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_ebm.energies import PairwiseTerms
from pyro_ebm.sites import Sites

BLOCK_ELEMENTS = 2**21  # numbers in one block of enumerated states


class TooManyStatesError(ValueError):
    """The machine is too large to enumerate; the message says what it would take."""


def as_float(count: int) -> float:
    """A count as a float, infinity where it is too large for one."""
    return float(count) if count.bit_length() < 1000 else math.inf


def in_digits(count: int) -> str:
    """A count that may be astronomical, in words."""
    return f"{count:.3g}" if count.bit_length() < 1000 else f"2^{count.bit_length() - 1}"


def number_of_states(terms: PairwiseTerms, sites: Sequence[str]) -> int:
    """How many joint states some sites have.

    Raises:
        TypeError: If a unit has no levels.
    """
    count = 1
    for site in sites:
        levels = terms.units[site].levels
        if levels is None:
            raise TypeError(f"{site!r} has units {terms.units[site]}, which have no finite states.")
        count *= len(levels) ** terms.biases[site].shape[-1]
    return count


def states_numbered(terms: PairwiseTerms, sites: Sequence[str], index: Tensor) -> Sites:
    """States of some sites by their numbers (count,), counted with the last unit fastest."""
    levels = [terms.units[site].levels or () for site in sites]
    sizes = [terms.biases[site].shape[-1] for site in sites]
    found = {}
    for site, values, size in zip(reversed(sites), reversed(levels), reversed(sizes), strict=True):
        table = torch.tensor(values, dtype=terms.constant.dtype, device=index.device)
        powers = len(values) ** torch.arange(size - 1, -1, -1, device=index.device)
        found[site] = table[index[:, None] // powers % len(values)]
        index = index // len(values) ** size
    return {site: found[site] for site in sites}


def block_of_states(
    terms: PairwiseTerms, sites: Sequence[str], start: int, stop: int
) -> Sites:  # (stop - start, n) each
    """States number `start` to `stop` of some sites."""
    index = torch.arange(start, stop, device=terms.constant.device)
    return states_numbered(terms, sites, index)


def blocks_of_states(terms: PairwiseTerms, enumerated: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of states whose computation fits into a block."""
    units = sum(b.numel() for b in terms.biases.values()) + terms.constant.numel()
    step = max(1, BLOCK_ELEMENTS // max(1, units))
    count = number_of_states(terms, enumerated)
    for start in range(0, count, step):
        yield start, min(start + step, count)


def log_weights(terms: PairwiseTerms, enumerated: Sequence[str], start: int, stop: int) -> Tensor:
    """−F of some states (stop - start, *batch)."""
    x = block_of_states(terms, enumerated, start, stop)
    batch = len(terms.batch)
    x = {
        site: value.reshape(len(value), *[1] * batch, value.shape[-1]) for site, value in x.items()
    }
    log_weights = -terms.free_energy(x)
    return log_weights.expand(stop - start, *terms.batch)


def log_partition(terms: PairwiseTerms, enumerated: Sequence[str]) -> Tensor:  # (*batch,)
    """log Z in blocks of states; a block is computed again for the gradient, and not kept."""

    def block(start: int, stop: int) -> Tensor:
        return log_weights(terms, enumerated, start, stop).logsumexp(0)

    ranges = list(blocks_of_states(terms, enumerated))
    if len(ranges) == 1 or not torch.is_grad_enabled():
        return torch.stack([block(*r) for r in ranges]).logsumexp(0)
    return torch.stack([checkpoint(block, *r, use_reentrant=False) for r in ranges]).logsumexp(0)


def moments(terms: PairwiseTerms, enumerated: Sequence[str]) -> tuple[Tensor, Tensor]:
    """E[x] (n,) and E[x xᵀ] (n, n) over the units of all sites."""
    log_z = log_partition(terms, enumerated)
    n = sum(b.shape[-1] for b in terms.biases.values())
    first, second = terms.constant.new_zeros(n), terms.constant.new_zeros(n, n)
    for start, stop in blocks_of_states(terms, enumerated):
        x = block_of_states(terms, enumerated, start, stop)
        p = (log_weights(terms, enumerated, start, stop) - log_z).exp()
        means = torch.cat(
            [
                x[site] if site in x else unit.mean(terms.outer_field(site, x)).expand(len(p), -1)
                for site, unit in terms.units.items()
            ],
            -1,
        )
        first += p @ means
        second += (means * p[:, None]).mT @ means
    return first, second.diagonal_scatter(mean_squares(terms, first))


def mean_squares(terms: PairwiseTerms, first: Tensor) -> Tensor:  # (n,)
    """E[x²] of every unit from its mean, since x² = a + b x for two values."""
    sizes = [b.shape[-1] for b in terms.biases.values()]
    parts = []
    for unit, mean in zip(terms.units.values(), first.split(sizes), strict=True):
        a, b = unit.square or (math.nan, math.nan)
        parts.append(a + b * mean)
    return torch.cat(parts)


def sample(terms: PairwiseTerms, enumerated: Sequence[str], count: int) -> Sites:
    """Draws of the enumerated sites from the table, then of the others given them."""
    blocks = blocks_of_states(terms, enumerated)
    table = torch.cat([log_weights(terms, enumerated, *block) for block in blocks])
    chosen = draw_indices(table, count)
    x = states_numbered(terms, enumerated, chosen)
    for site, unit in terms.units.items():
        if site not in enumerated:
            field = terms.outer_field(site, {s: x[s] for s in enumerated})
            x[site] = unit.sample(field.expand(count, -1).clone())
    return x


def draw_indices(log_weights: Tensor, count: int) -> Tensor:  # (states,) -> (count,)
    """Independent draws; torch.multinomial takes no more than 2**24 categories."""
    cumulative = (log_weights - log_weights.max()).exp().cumsum(0)
    uniform = torch.rand(count, dtype=cumulative.dtype, device=cumulative.device)
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp_max(
        len(cumulative) - 1
    )
