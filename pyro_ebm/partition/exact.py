r"""Exact answers for machines that are small enough: the oracle of every test, and no estimate.

log Z, probabilities, moments and independent draws, in float64. Layers that are not coupled among
themselves are summed out in closed form, and the states of the others are enumerated; where that
leaves too many, the units are split into three groups a, b, c, and since every pair term touches at
most two of them, Z = Σ_ab A[a,b] (B C)[b,a] is one matrix product of size 2^(n/3).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_ebm.energies import Energy, PairwiseTerms, require_pairwise
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites

MAX_STATES = 2**27  # enumerated one by one: about a minute for a hundred units
MAX_BYTES = 2**33  # of the matrices of the three-way split
MAX_LOG_SUM_STATES = 2**32  # summed as logarithms, where products of exponentials would underflow
BLOCK_ELEMENTS = 2**21  # numbers in one block of enumerated states

LOST = 1e-17  # the largest share of Z that underflow may have cost
LOG_TINY = math.log(torch.finfo(torch.float64).tiny)


class TooManyStatesError(ValueError):
    """The machine is too large to enumerate; the message says what it would take."""


class Moments(NamedTuple):
    """First and second moments of all units.

    Args:
        mean: E[x] of each site (n,).
        second: E[x xᵀ] over the units of all sites in order (n, n).
    """

    mean: Sites
    second: Tensor


def log_partition(energy: Energy) -> Tensor:  # (*batch of the parameters,)
    r"""log Z, exact, in float64, differentiable in the parameters.

    .. math:: \log Z = \log \sum_x e^{-E(x)}, \quad \partial \log Z = -E_p[\partial E]

    Args:
        energy: A machine of two-valued units, small enough by its structure.

    Raises:
        TooManyStatesError: If it is not small enough.
        TypeError: If the energy is not pairwise, or has units that cannot be enumerated.
    """
    return log_partition_of(pairwise_terms(energy))


def log_prob(
    energy: Energy, x: Sites | Tensor, *, log_z: Tensor | None = None
) -> Tensor:  # (*batch,)
    """ln p(x), exact: the sites that x leaves out are summed over, coupled or not.

    Args:
        energy: As for `log_partition`.
        x: Values of some sites (*batch, n), or a bare tensor for the only one or `visible`.
        log_z: log Z, where it is at hand already.

    Raises:
        TooManyStatesError: If the machine, or what x leaves out of it, is too large.
    """
    x = {site: value.double() for site, value in energy.accept(x).items()}
    terms = pairwise_terms(energy)
    log_z = log_partition_of(terms) if log_z is None else log_z
    return log_partition_of(terms.clamped(x)) - log_z


def moments(energy: Energy) -> Moments:
    """All means and pair moments, exact, in float64.

    Args:
        energy: As for `log_partition`, without batch dimensions in its parameters.

    Raises:
        TooManyStatesError: If it is too large.
    """
    terms = unbatched(energy)
    plan = choose_plan(terms)
    sizes = [b.shape[-1] for b in terms.biases.values()]
    if plan.split:
        flat, second = split_moments(terms)
    else:
        flat, second = enumerated_moments(terms, plan)
    return Moments(dict(zip(terms.units, flat.split(sizes), strict=True)), second)


def sample(energy: Energy, count: int, seed: int | None = None) -> Sites:  # (count, n) each
    """Independent exact draws, in the energy's dtype.

    Args:
        energy: As for `log_partition`, without batch dimensions in its parameters.
        count: The number of draws.
        seed: Of the draws; taken from torch's generator if left out.

    Raises:
        TooManyStatesError: If the machine is too large.
        ValueError: If the count is not positive, or the seed no whole number.
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count is {count!r}; wanted a positive whole number of draws.")
    terms = unbatched(energy)
    plan = choose_plan(terms)
    draw = split_sample if plan.split else enumerated_sample
    with torch.no_grad(), forked(chosen_seed(seed), energy.device):
        x = draw(terms, plan, count)
    return {site: x[site].to(energy.dtype) for site in energy.sites}


def states(energy: Energy, sites: Sequence[str] | None = None) -> Sites:  # (states, n) each
    """Every joint state of some sites, all of them if left out; the last unit changes fastest.

    Args:
        energy: An energy whose units can be enumerated.
        sites: Names of the sites.

    Raises:
        TooManyStatesError: If there are too many.
        ValueError: If a site is unknown.
    """
    terms = pairwise_terms(energy)
    if isinstance(sites, str):
        sites = (sites,)
    chosen = tuple(energy.sites if sites is None else sites)
    if unknown := [site for site in chosen if site not in energy.sites]:
        raise ValueError(f"Unknown sites {unknown}; the energy has {list(energy.sites)}.")
    count = number_of_states(terms, chosen)
    if count > MAX_STATES:
        raise TooManyStatesError(
            f"The sites {list(chosen)} have {in_digits(count)} states, which would take "
            f"{in_digits(8 * count)} bytes a unit; at most {in_digits(MAX_STATES)} are enumerated."
        )
    found = block_of_states(terms, chosen, 0, count)
    return {site: value.to(energy.dtype) for site, value in found.items()}


def require_small(energy: Energy) -> None:
    """Refuses a machine that is too large for exact summation.

    Raises:
        TooManyStatesError: If it is.
        TypeError: As `log_partition`.
    """
    choose_plan(pairwise_terms(energy))


def seconds(energy: Energy, x: Sites | None = None) -> float:
    """Roughly how long `log_partition`, or with x `log_prob`, takes on one core.

    It is infinity where they refuse.

    Args:
        energy: The energy.
        x: Values that have passed the door.
    """
    try:
        with torch.no_grad():
            terms = pairwise_terms(energy)
            total = choose_plan(terms).seconds
            if x is not None:
                clamped = terms.clamped({site: value.double() for site, value in x.items()})
                units = sum(clamped.biases[site].shape[-1] for site in clamped.biases)
                # Every row has fields of its own, so that a state costs all its units.
                total += choose_plan(clamped).seconds * (1 + units)
            return total
    except (TooManyStatesError, TypeError):
        return math.inf


# ---------------------------------------------------------------------- choosing the way


@dataclass(frozen=True)
class Plan:
    """How to sum: `split` in three, or enumerate some sites and the others in closed form."""

    split: bool
    enumerated: tuple[str, ...]
    states: int
    seconds: float  # a rough estimate, on one core


def pairwise_terms(energy: Energy) -> PairwiseTerms:
    """The energy's terms in float64.

    Raises:
        TypeError: If the energy has no such terms or its units no levels.
    """
    return require_pairwise(energy, "Exact summation").read().to(torch.float64)


def unbatched(energy: Energy) -> PairwiseTerms:
    """The terms of an energy whose parameters have no batch dimensions."""
    with torch.no_grad():
        terms = pairwise_terms(energy)
    if terms.batch:
        raise ValueError(
            "The parameters have batch dimensions: take the machines one by one for this."
        )
    return terms


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


def choose_plan(terms: PairwiseTerms) -> Plan:
    """The cheapest way that is possible.

    Raises:
        TooManyStatesError: If none is.
    """
    names = list(terms.units)
    sizes = {site: b.shape[-1] for site, b in terms.biases.items()}
    n, batch = sum(sizes.values()), math.prod(terms.batch)
    options = []
    for k in range(len(names) + 1):
        for enumerated in itertools.combinations(names, k):
            rest = [site for site in names if site not in enumerated]
            if terms.coupled(rest) is None:
                count = number_of_states(terms, enumerated)
                # 5 ns for each number of a state.
                seconds = as_float(count) * batch * (1 + sum(sizes[site] for site in rest)) * 5e-9
                options.append(Plan(False, enumerated, count, seconds))
    best = min(options, key=lambda plan: (plan.seconds, plan.states))
    splittable = (
        n >= 3
        and not terms.batch
        and all(len(unit.levels or ()) == 2 for unit in terms.units.values())
        and split_bytes(n) <= MAX_BYTES
    )
    # 0.05 ns for each state in the split's product, 20 ns for each entry of its matrices.
    seconds = as_float(2**n) * 5e-11 + 3 * as_float(2 ** (2 * n // 3)) * 2e-8
    if splittable and seconds < best.seconds:
        return Plan(True, (), 2**n, seconds)
    if best.states > MAX_STATES:
        raise TooManyStatesError(
            f"Exact summation would enumerate {in_digits(best.states)} states of "
            f"{list(best.enumerated)} (at most {in_digits(MAX_STATES)} are), or take "
            f"{in_digits(split_bytes(n))} bytes for {n} units split in three (at most "
            f"{in_digits(MAX_BYTES)}). "
            f"For a machine of this size estimate log Z by annealed importance sampling."
        )
    return best


def split_bytes(n: int) -> int:
    """The memory of the three-way split of n two-valued units, gradients included."""
    return 8 * 8 * 2 ** (2 * math.ceil(n / 3))


def as_float(count: int) -> float:
    """A count as a float, infinity where it is too large for one."""
    return float(count) if count.bit_length() < 1000 else math.inf


def in_digits(count: int) -> str:
    """A count that may be astronomical, in words."""
    return f"{count:.3g}" if count.bit_length() < 1000 else f"2^{count.bit_length() - 1}"


def log_partition_of(terms: PairwiseTerms) -> Tensor:  # (*batch,)
    """log Z of terms in float64."""
    plan = choose_plan(terms)
    return split_log_partition(terms) if plan.split else enumerated_log_partition(terms, plan)


# ---------------------------------------------------------------------- enumeration


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


def blocks_of_states(terms: PairwiseTerms, plan: Plan) -> Iterator[tuple[int, int]]:
    """Ranges of states whose computation fits into a block."""
    units = sum(b.numel() for b in terms.biases.values()) + terms.constant.numel()
    step = max(1, BLOCK_ELEMENTS // max(1, units))
    for start in range(0, plan.states, step):
        yield start, min(start + step, plan.states)


def enumerated_log_weights(terms: PairwiseTerms, plan: Plan, start: int, stop: int) -> Tensor:
    """−F of some states (stop - start, *batch)."""
    x = block_of_states(terms, plan.enumerated, start, stop)
    batch = len(terms.batch)
    x = {
        site: value.reshape(len(value), *[1] * batch, value.shape[-1]) for site, value in x.items()
    }
    log_weights = -terms.free_energy(x)
    return log_weights.expand(stop - start, *terms.batch)


def enumerated_log_partition(terms: PairwiseTerms, plan: Plan) -> Tensor:  # (*batch,)
    """log Z in blocks of states; a block is computed again for the gradient, and not kept."""

    def block(start: int, stop: int) -> Tensor:
        return enumerated_log_weights(terms, plan, start, stop).logsumexp(0)

    ranges = list(blocks_of_states(terms, plan))
    if len(ranges) == 1 or not torch.is_grad_enabled():
        return torch.stack([block(*r) for r in ranges]).logsumexp(0)
    return torch.stack([checkpoint(block, *r, use_reentrant=False) for r in ranges]).logsumexp(0)


def enumerated_moments(terms: PairwiseTerms, plan: Plan) -> tuple[Tensor, Tensor]:
    """E[x] (n,) and E[x xᵀ] (n, n) over the units of all sites."""
    log_z = enumerated_log_partition(terms, plan)
    n = sum(b.shape[-1] for b in terms.biases.values())
    first, second = terms.constant.new_zeros(n), terms.constant.new_zeros(n, n)
    for start, stop in blocks_of_states(terms, plan):
        x = block_of_states(terms, plan.enumerated, start, stop)
        p = (enumerated_log_weights(terms, plan, start, stop) - log_z).exp()
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


def enumerated_sample(terms: PairwiseTerms, plan: Plan, count: int) -> Sites:
    """Draws of the enumerated sites from the table, then of the others given them."""
    log_weights = torch.cat(
        [enumerated_log_weights(terms, plan, *r) for r in blocks_of_states(terms, plan)]
    )
    chosen = draw_indices(log_weights, count)
    x = states_numbered(terms, plan.enumerated, chosen)
    for site, unit in terms.units.items():
        if site not in plan.enumerated:
            field = terms.outer_field(site, {s: x[s] for s in plan.enumerated})
            x[site] = unit.sample(field.expand(count, -1).clone())
    return x


def draw_indices(log_weights: Tensor, count: int) -> Tensor:  # (states,) -> (count,)
    """Independent draws; torch.multinomial takes no more than 2**24 categories."""
    cumulative = (log_weights - log_weights.max()).exp().cumsum(0)
    uniform = torch.rand(count, dtype=cumulative.dtype, device=cumulative.device)
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp_max(
        len(cumulative) - 1
    )


# ---------------------------------------------------------------------- the split in three


class Split(NamedTuple):
    """Log-weights of the pairs of groups: (a, b), (b, c), (c, a), and the groups' states."""

    ab: Tensor
    bc: Tensor
    ca: Tensor
    states: tuple[Tensor, Tensor, Tensor]


def split_terms(terms: PairwiseTerms, matrix: Tensor, bias: Tensor) -> Split:
    """The tables of the split; `matrix` and `bias` are over the units of all sites."""
    n = len(bias)
    levels = [
        unit.levels
        for site, unit in terms.units.items()
        for _ in range(terms.biases[site].shape[-1])
    ]
    values = torch.tensor(levels, dtype=bias.dtype, device=bias.device)  # (n, 2)
    bounds = [0, n // 3, (2 * n) // 3, n]
    groups = [slice(*pair) for pair in itertools.pairwise(bounds)]
    found, own = [], []
    for group in groups:
        size = group.stop - group.start
        bits = torch.arange(2**size, device=bias.device)[:, None] >> torch.arange(
            size - 1, -1, -1, device=bias.device
        )
        state = torch.where((bits & 1).bool(), values[group, 1], values[group, 0])
        found.append(state)
        own.append((state @ matrix[group, group] * state).sum(-1) / 2 + state @ bias[group])
    a, b, c = range(3)

    def pair(i: int, j: int) -> Tensor:
        return torch.addmm(own[i][:, None], found[i], matrix[groups[i], groups[j]] @ found[j].mT)

    return Split(pair(a, b), pair(b, c), pair(c, a), (found[a], found[b], found[c]))


def split_parameters(terms: PairwiseTerms) -> tuple[Tensor, Tensor]:
    """The couplings (n, n) and biases (n,) of all units."""
    return terms.matrix(), torch.cat(list(terms.biases.values()))


def split_log_partition(terms: PairwiseTerms) -> Tensor:  # ()
    """log Z by one matrix product, or by logarithms where the product would underflow."""
    table = split_terms(terms, *split_parameters(terms))
    return split_log_sums(table).logsumexp((0, 1)) - terms.constant


def split_log_sums(table: Split) -> Tensor:  # (states of a, states of b)
    """ln Σ_c of the weights of (a, b, c)."""
    with torch.no_grad():
        # Balanced columns, then rows with the largest entry 1; the shifts cancel in the result.
        column = (table.bc.amax(0) - table.ca.amax(1)) / 2
        row_b = (table.bc - column).amax(1)
        row_a = (table.ca + column[:, None]).amax(0)
        # A term is lost only if it is below the smallest double times what the rows took out.
        shifted = table.ab + row_b + row_a[:, None]
        log_lost = shifted.logsumexp((0, 1)) + math.log(len(column)) + LOG_TINY
    b_factor = (table.bc - column - row_b[:, None]).exp()
    c_factor = (table.ca + column[:, None] - row_a).exp()
    inner = (b_factor @ c_factor).mT
    log_sums = shifted_sum(table.ab, row_b, row_a, inner)
    with torch.no_grad():
        certified = bool(log_lost - log_sums.logsumexp((0, 1)) < math.log(LOST))
    return log_sums if certified else split_log_sums_by_logarithms(table)


def shifted_sum(ab: Tensor, row_b: Tensor, row_a: Tensor, inner: Tensor) -> Tensor:
    """ab + row_b + row_a + ln inner, finite with a zero gradient where inner underflowed."""
    smallest = torch.finfo(inner.dtype).tiny
    return ab + row_b + row_a[:, None] + inner.clamp_min(smallest).log()


def split_log_sums_by_logarithms(table: Split) -> Tensor:
    """`split_log_sums` without exponentials that could underflow, in blocks of a.

    Raises:
        TooManyStatesError: If there are too many states for a sum of logarithms.
    """
    count = table.ab.numel() * len(table.ca)
    if count > MAX_LOG_SUM_STATES:
        raise TooManyStatesError(
            f"At these couplings the products underflow, and a sum of logarithms over {count:.3g} "
            f"states would take too long (at most {MAX_LOG_SUM_STATES:.3g}). "
            f"Weaken the couplings, or estimate log Z by annealed importance sampling."
        )

    def block(ca: Tensor, bc: Tensor) -> Tensor:
        return (ca.mT[:, None, :] + bc).logsumexp(-1)

    step = max(1, 4 * BLOCK_ELEMENTS // table.bc.numel())
    run = checkpoint if torch.is_grad_enabled() else lambda f, *args, **_: f(*args)
    parts = [run(block, part, table.bc, use_reentrant=False) for part in table.ca.split(step, 1)]
    return table.ab + torch.cat(parts)


def split_moments(terms: PairwiseTerms) -> tuple[Tensor, Tensor]:
    """E[x] (n,) and E[x xᵀ] (n, n), from the gradient of log Z."""
    matrix, bias = (value.detach().requires_grad_() for value in split_parameters(terms))
    with torch.enable_grad():
        log_z = split_log_sums(split_terms(terms, matrix, bias)).logsumexp((0, 1))
        to_matrix, first = torch.autograd.grad(log_z, (matrix, bias))
    second = to_matrix + to_matrix.mT
    return first, second.fill_diagonal_(0) + mean_squares(terms, first).diag()


def split_sample(terms: PairwiseTerms, plan: Plan, count: int) -> Sites:
    """Draws of (a, b) from the table of sums, then of c given them."""
    del plan  # the split has no choices to make
    table = split_terms(terms, *split_parameters(terms))
    pairs = draw_indices(split_log_sums(table).flatten(), count)
    a, b = pairs // table.ab.shape[1], pairs % table.ab.shape[1]
    c = torch.cat(
        [
            torch.distributions.Categorical(logits=table.bc[j] + table.ca[:, i].mT).sample()
            for i, j in zip(a.split(1024), b.split(1024), strict=True)
        ]
    )
    flat = torch.cat([state[k] for state, k in zip(table.states, (a, b, c), strict=True)], -1)
    sizes = [bias.shape[-1] for bias in terms.biases.values()]
    return dict(zip(terms.units, flat.split(sizes, -1), strict=True))
