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
from pyro_ebm.sites import Sites, all_true

MAX_STATES = 2**27  # enumerated one by one: about a minute for a hundred units
BLOCK_ELEMENTS = 2**21  # numbers in one block of enumerated states


class TooManyStatesError(ValueError):
    """The machine is too large to enumerate; the message says what it would take.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, TooManyStatesError, exact
        >>> try:
        ...     exact.log_partition(BoltzmannMachine.restricted(100, 100))
        ... except TooManyStatesError:
        ...     print("estimate it")
        estimate it
    """


def as_float(count: int) -> float:
    """A count as a float, infinity where it is too large for one."""
    return float(count) if count.bit_length() < 1000 else math.inf


def in_digits(count: int) -> str:
    """A count that may be astronomical, in words."""
    return f"{count:.3g}" if count.bit_length() < 1000 else f"2^{count.bit_length() - 1}"


def number_of_states(terms: PairwiseTerms, sites: Sequence[str]) -> int:
    """How many joint states some sites have, whose units can be enumerated."""
    return math.prod(len(terms.units[site].levels or ()) ** terms.count(site) for site in sites)


def states_numbered(terms: PairwiseTerms, sites: Sequence[str], index: Tensor) -> Sites:
    """States of some sites by their numbers (*batch,), counted with the last unit fastest."""
    levels = [terms.units[site].levels or () for site in sites]
    sizes = [terms.count(site) for site in sites]
    found = {}
    for site, values, size in zip(reversed(sites), reversed(levels), reversed(sizes), strict=True):
        table = torch.tensor(values, dtype=terms.constant.dtype, device=index.device)
        powers = len(values) ** torch.arange(size - 1, -1, -1, device=index.device)
        found[site] = table[index.unsqueeze(-1) // powers % len(values)]
        index = index // len(values) ** size
    return {site: found[site] for site in sites}


def block_of_states(
    terms: PairwiseTerms, sites: Sequence[str], start: int, stop: int
) -> Sites:  # (stop - start, *1, n) each
    """Features of the states number `start` to `stop` of some sites, for machines of any batch."""
    index = torch.arange(start, stop, device=terms.constant.device)
    index = index.reshape(-1, *[1] * len(terms.batch))
    return terms.features(states_numbered(terms, sites, index))


def blocks_of_states(terms: PairwiseTerms, enumerated: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of states whose computation fits into a block."""
    units = sum(b.numel() for b in terms.biases.values()) + terms.constant.numel()
    step = max(1, BLOCK_ELEMENTS // max(1, units))
    count = number_of_states(terms, enumerated)
    for start in range(0, count, step):
        yield start, min(start + step, count)


def log_sum_exp(table: Tensor, axis: int) -> Tensor:
    """ln Σ exp, whose gradient is finite where all terms are −inf (that of torch's is NaN)."""
    largest = table.detach().amax(axis, keepdim=True)
    terms = (table - largest.clamp_min(torch.finfo(table.dtype).min)).exp()
    # The sum is at least 1, or all terms are 0.
    return terms.sum(axis).clamp_min(1).log() + largest.squeeze(axis)


def require_possible(log_z: Tensor, what: str = "energy") -> None:
    """Refuses an energy, or one of a batch, under which no state is allowed.

    Raises:
        ValueError: If it is one.
    """
    if not all_true(log_z > -math.inf):
        raise ValueError(
            f"No state of the {what} is allowed: the energies of +inf, in a field the entries of "
            f"−inf, contradict each other, so that Z = 0."
        )


def log_weights(terms: PairwiseTerms, enumerated: Sequence[str], start: int, stop: int) -> Tensor:
    """−F of some states (stop - start, *batch)."""
    x = block_of_states(terms, enumerated, start, stop)
    return (-terms.free_energy(x)).expand(stop - start, *terms.batch)


def log_partition(terms: PairwiseTerms, enumerated: Sequence[str]) -> Tensor:  # (*batch,)
    """log Z in blocks of states; a block is computed again for the gradient, and not kept."""

    def block(start: int, stop: int) -> Tensor:
        return log_weights(terms, enumerated, start, stop).logsumexp(0)

    ranges = list(blocks_of_states(terms, enumerated))
    if len(ranges) == 1 or not torch.is_grad_enabled():
        return torch.stack([block(*r) for r in ranges]).logsumexp(0)
    return torch.stack([checkpoint(block, *r, use_reentrant=False) for r in ranges]).logsumexp(0)


def moments(terms: PairwiseTerms, enumerated: Sequence[str]) -> tuple[Tensor, Tensor]:
    """E[T] (*batch, n) and E[T Tᵀ] (*batch, n, n) over the features of all sites."""
    log_z = log_partition(terms, enumerated)
    n = sum(b.shape[-1] for b in terms.biases.values())
    first = terms.constant.new_zeros(*terms.batch, n)
    second = terms.constant.new_zeros(*terms.batch, n, n)
    for start, stop in blocks_of_states(terms, enumerated):
        x = block_of_states(terms, enumerated, start, stop)
        p = (log_weights(terms, enumerated, start, stop) - log_z).exp()
        means, variances = given(terms, x, p.shape)
        first += torch.einsum("s...,s...i->...i", p, means)
        second += torch.einsum("s...i,s...j->...ij", means * p.unsqueeze(-1), means)
        second += torch.einsum("s...,s...i->...i", p, variances).diag_embed()
    for rows, covariance in joint_covariance(terms, enumerated):
        second[..., rows[:, None], rows] += covariance
    return first, with_own_squares(terms, first, second)


def given(
    terms: PairwiseTerms, x: Sites, rows: torch.Size
) -> tuple[Tensor, Tensor]:  # (*rows, n) each
    """Means of all features given those in x, and variances of those in closed form."""
    normal = terms.normal([site for site in terms.units if site not in x])
    joint = {}
    if normal is not None:
        joint = normal.means({site: terms.outer_field(site, x) for site in normal.sizes})
    means, variances = [], []
    for site, unit in terms.units.items():
        known = x.get(site, joint.get(site))
        if known is None:
            field = terms.outer_field(site, x)
            means.append(unit.mean(field).expand(*rows, -1))
            variances.append(unit.variance(field).expand(*rows, -1))
        else:
            means.append(known.expand(*rows, -1))
            variances.append(torch.zeros_like(means[-1]))
    return torch.cat(means, -1), torch.cat(variances, -1)


def joint_covariance(
    terms: PairwiseTerms, enumerated: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The covariance of coupled Gaussian units given all the others, and which units these are."""
    normal = terms.normal([site for site in terms.units if site not in enumerated])
    if normal is not None:
        sizes = [b.shape[-1] for b in terms.biases.values()]
        number = torch.arange(sum(sizes), device=terms.constant.device).split(sizes)
        rows = torch.cat(
            [n for site, n in zip(terms.units, number, strict=True) if site in normal.sizes]
        )
        yield rows, normal.covariance()


def with_own_squares(terms: PairwiseTerms, first: Tensor, second: Tensor) -> Tensor:
    """Pair moments with those inside a finite unit: T² = a + b T, and 0 for two of its labels."""
    second = second.clone()
    start = 0
    for site, unit in terms.units.items():
        size = terms.biases[site].shape[-1]
        if unit.square is not None:
            own = slice(start, start + size)
            a, b = unit.square
            same = torch.arange(size, device=second.device) // unit.width
            block = second[..., own, own].masked_fill(same[:, None] == same, 0)
            squares = a + b * first[..., own]
            second[..., own, own] = block.diagonal_scatter(squares, dim1=-2, dim2=-1)
        start += size
    return second


@torch.no_grad()
def minimum(terms: PairwiseTerms, enumerated: Sequence[str]) -> Sites:
    """The values (*batch, n) of least energy: of some sites any, and of the others the best."""
    least = terms.constant.new_full(terms.batch, math.inf)
    best = torch.zeros(terms.batch, dtype=torch.int64, device=least.device)
    for start, stop in blocks_of_states(terms, enumerated):
        x = block_of_states(terms, enumerated, start, stop)
        rest = terms.features(best_given(terms, x, torch.Size([stop - start, *terms.batch])))
        lowest, where = terms.energy({**x, **rest}).expand(stop - start, *terms.batch).min(0)
        best = torch.where(lowest < least, start + where, best)
        least = torch.minimum(lowest, least)
    found = states_numbered(terms, enumerated, best)
    found |= best_given(terms, terms.features(found), terms.batch)
    return {site: found[site] for site in terms.units}


def fields_given(terms: PairwiseTerms, features: Sites, rows: torch.Size) -> Sites:
    """The fields (*rows, n) on the other units."""
    rest = [site for site in terms.units if site not in features]
    return {site: terms.outer_field(site, features).expand(*rows, -1) for site in rest}


def best_given(terms: PairwiseTerms, features: Sites, rows: torch.Size) -> Sites:  # (*rows, n) each
    """The likeliest values of the other units in their fields."""
    fields = fields_given(terms, features, rows)
    normal = terms.normal(list(fields))
    joint = {} if normal is None else normal.means({s: fields[s] for s in normal.sizes})
    return {s: joint[s] if s in joint else terms.units[s].mode(f) for s, f in fields.items()}


def sample(terms: PairwiseTerms, enumerated: Sequence[str], count: int) -> Sites:
    """Draws (count, *batch, n): of some sites from the table, then of the others given them."""
    blocks = blocks_of_states(terms, enumerated)
    table = torch.cat([log_weights(terms, enumerated, *block) for block in blocks])
    x = states_numbered(terms, enumerated, draw_indices(table, count))
    fields = fields_given(terms, terms.features(x), torch.Size([count, *terms.batch]))
    normal = terms.normal(list(fields))
    joint = {} if normal is None else normal.sample({s: fields[s] for s in normal.sizes})
    for site, field in fields.items():
        x[site] = joint[site] if site in joint else terms.units[site].sample(field.clone())
    return x


def draw_indices(log_weights: Tensor, count: int) -> Tensor:  # (states, *batch) -> (count, *batch)
    """Independent draws; torch.multinomial takes no more than 2**24 categories."""
    states, batch = len(log_weights), log_weights.shape[1:]
    rows = log_weights.reshape(states, -1).mT.contiguous()
    cumulative = (rows - rows.amax(1, keepdim=True)).exp().cumsum(1)
    uniform = torch.rand(len(rows), count, dtype=rows.dtype, device=rows.device)
    below = uniform * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, below, right=True)
    return found.clamp_max_(states - 1).mT.reshape(count, *batch)
