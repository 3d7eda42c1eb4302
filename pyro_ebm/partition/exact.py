r"""Exact answers for machines that are small enough: the oracle of every test, and no estimate.

log Z, probabilities, moments and independent draws, in float64. Layers that are not coupled among
themselves are summed out in closed form, and the states of the others are enumerated; where that
leaves too many, the units are split into three groups and Z is one matrix product of size 2^(n/3).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, PairwiseTerms, require_pairwise
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites

from . import enumeration, split
from .enumeration import (
    TooManyStatesError,
    as_float,
    block_of_states,
    in_digits,
    number_of_states,
)

MAX_STATES = 2**27  # enumerated one by one: about a minute for a hundred units
MAX_BYTES = 2**33  # of the matrices of the three-way split


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
    if plan.is_split:
        flat, second = split.moments(terms)
    else:
        flat, second = enumeration.moments(terms, plan.enumerated)
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
    with torch.no_grad(), forked(chosen_seed(seed), energy.device):
        if plan.is_split:
            x = split.sample(terms, count)
        else:
            x = enumeration.sample(terms, plan.enumerated, count)
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

    is_split: bool
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
            f"For a machine of this size log Z can only be estimated."
        )
    return best


def split_bytes(n: int) -> int:
    """The memory of the three-way split of n two-valued units, gradients included."""
    return 8 * 8 * 2 ** (2 * math.ceil(n / 3))


def log_partition_of(terms: PairwiseTerms) -> Tensor:  # (*batch,)
    """log Z of terms in float64."""
    plan = choose_plan(terms)
    return (
        split.log_partition(terms)
        if plan.is_split
        else enumeration.log_partition(terms, plan.enumerated)
    )
