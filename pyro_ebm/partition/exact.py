r"""Exact answers for energies that are small enough: the oracle of every test, and no estimate.

log Z, probabilities, moments and independent draws, in float64. How they are summed follows from
the energy's structure. Of pairwise machines, layers that are not coupled among themselves, and
Gaussian ones, are summed out in closed form and the states of the others are enumerated; where that
leaves too many, two-valued units are split into three groups and Z is one matrix product of size
2^(n/3), and a graph of low treewidth is summed node after node, as random fields are
(`elimination`). Of any other energy with finite sites all states are gone through.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, FieldEnergy, PairwiseEnergy
from pyro_ebm.partition.sums.enumeration import MAX_STATES, TooManyStatesError, in_digits
from pyro_ebm.partition.sums.fields import FieldSum, field_of
from pyro_ebm.partition.sums.finite import FiniteSum
from pyro_ebm.partition.sums.pairwise import MachineSum
from pyro_ebm.partition.sums.summation import Moments, Summation
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites, levels_of


def summation(energy: Energy) -> Summation:
    """The way in which an energy is summed.

    Raises:
        TypeError: If there is none: it has sites with infinitely many values, and no structure.
    """
    if isinstance(energy, PairwiseEnergy):
        return MachineSum(energy.read().to(torch.float64))
    if isinstance(energy, FieldEnergy):
        return FieldSum(field_of(energy))
    levels = {name: levels_of(site) for name, site in energy.sites.items()}
    found = {name: values for name, values in levels.items() if values is not None}
    if infinite := [name for name in levels if name not in found]:
        raise TypeError(
            f"Exact summation needs sites with finitely many values, or a pairwise energy; of this "
            f"{type(energy).__name__} the sites {infinite} have infinitely many. Its log Z can "
            f"only be estimated, or found by quadrature."
        )
    return FiniteSum(energy, found, {})


def log_partition(energy: Energy) -> Tensor:  # (*batch of the parameters,)
    r"""log Z, exact, in float64, differentiable in the parameters.

    .. math:: \log Z = \log \sum_x e^{-E(x)}, \quad \partial \log Z = -E_p[\partial E]

    Over real units it is an integral.

    Args:
        energy: An energy that is small enough by its structure.

    Raises:
        TooManyStatesError: If it is not small enough.
        TypeError: If there is no way to sum it.
        ValueError: If it cannot be normalised.
    """
    return summation(energy).log_partition()


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
    sums = summation(energy)
    log_z = sums.log_partition() if log_z is None else log_z
    return sums.clamped(x).log_partition() - log_z


def moments(energy: Energy) -> Moments:
    """All means and pair moments of the features, exact, in float64.

    Args:
        energy: As for `log_partition`, without batch dimensions in its parameters.

    Raises:
        TooManyStatesError: If it is too large.
    """
    with torch.no_grad():
        return summation(energy).moments()


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
    with torch.no_grad(), forked(chosen_seed(seed), energy.device):
        x = summation(energy).sample(count)
    return {site: x[site].to(energy.dtype) for site in energy.sites}


def states(energy: Energy, sites: Sequence[str] | None = None) -> Sites:  # (states, n) each
    """Every joint state of some sites, all of them if left out; the last unit changes fastest.

    Args:
        energy: An energy; its other sites may be of any kind.
        sites: Names of the sites.

    Raises:
        TooManyStatesError: If there are too many.
        TypeError: If a site has infinitely many values.
        ValueError: If a site is unknown.
    """
    if isinstance(sites, str):
        sites = (sites,)
    chosen = tuple(energy.sites if sites is None else sites)
    if unknown := [site for site in chosen if site not in energy.sites]:
        raise ValueError(f"Unknown sites {unknown}; the energy has {list(energy.sites)}.")
    levels = {}
    for site in chosen:
        found = levels_of(energy.sites[site])
        if found is None:
            raise TypeError(f"{site!r} has no finite states: {energy.sites[site].support}.")
        levels[site] = found
    sums = FiniteSum(energy, levels, {})
    count = math.prod(len(values) for site in levels.values() for values in site)
    if count > MAX_STATES:
        raise TooManyStatesError(
            f"The sites {list(chosen)} have {in_digits(count)} states, which would take "
            f"{in_digits(8 * count)} bytes a unit; at most {in_digits(MAX_STATES)} are enumerated."
        )
    return sums.states(0, count)


def require_small(energy: Energy) -> None:
    """Refuses an energy that is too large for exact summation.

    Raises:
        TooManyStatesError: If it is.
        TypeError: As `log_partition`.
    """
    with torch.no_grad():
        _ = summation(energy).seconds


def seconds(energy: Energy, x: Sites | None = None) -> float:
    """Roughly how long `log_partition`, or with x `log_prob`, takes on one core.

    It is infinity where they refuse.

    Args:
        energy: The energy.
        x: Values that have passed the door.
    """
    try:
        with torch.no_grad():
            sums = summation(energy)
            total = sums.seconds
            if x is not None:
                total += sums.clamped({site: v.double() for site, v in x.items()}).seconds
            return total
    except (TooManyStatesError, TypeError, ValueError):
        return math.inf
