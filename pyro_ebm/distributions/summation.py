"""The sums that a distribution over one site needs; the other sites are summed out."""

import math

import torch
from torch import Tensor

from pyro_ebm.energies import DistributionEnergy, Energy, FieldEnergy, PairwiseEnergy
from pyro_ebm.partition import TooManyStatesError, exact
from pyro_ebm.sites import Site, levels_of

MAX_STATES = 2**16  # of a site that is enumerated: 16 bits


def number_of_states(site: Site) -> float:
    """How many states a site has; infinity where not finitely many, or astronomically many."""
    levels = levels_of(site)
    if levels is None:
        return math.inf
    digits = sum(math.log2(len(values)) for values in levels)
    return math.prod(len(values) for values in levels) if digits < 50 else math.inf


def states(energy: Energy, site: str) -> Tensor:  # (states, *site.shape)
    """Every state of a site with few of them, the last element fastest."""
    return exact.states(energy, (site,))[site]


def hidden_sites(energy: Energy, site: str) -> list[str]:
    """The sites that are summed out."""
    return [name for name in energy.sites if name != site]


def require_summable(energy: Energy, site: str) -> None:
    """Refuses an energy whose other sites cannot be summed out.

    Raises:
        ValueError: If they cannot.
    """
    hidden = hidden_sites(energy, site)
    if isinstance(energy, PairwiseEnergy):
        return
    if infinite := [name for name in hidden if levels_of(energy.sites[name]) is None]:
        raise ValueError(
            f"A distribution over {site!r} needs the other sites summed out, but of this "
            f"{type(energy).__name__} {infinite} have infinitely many values and no closed form. "
            f"Give every site a statement of its own, and join them by "
            f"pyro_ebm.energy_factor(name, energy, ...)."
        )


def free_energy(energy: Energy, site: str, value: Tensor) -> Tensor:  # (*batch,)
    """−ln Σ exp(−E) over the other sites, for values that have passed the door.

    Raises:
        TooManyStatesError: If the other sites are coupled among themselves, and too many.
    """
    if not hidden_sites(energy, site):
        return energy.evaluate({site: value})
    # Not energy.free_energy, whose door refuses the infinite values that a sampler may try.
    return -exact.summation(energy).clamped({site: value.double()}).log_partition()


def log_partition(energy: Energy) -> Tensor | None:  # (*batch of the parameters,)
    """log Z, exact and differentiable, in float64; None where there is no affordable sum."""
    if isinstance(energy, DistributionEnergy) and energy.is_normalised:
        return torch.zeros(machines(energy), dtype=torch.float64, device=energy.device)
    try:
        return exact.log_partition(energy)
    except (TooManyStatesError, TypeError):
        return None


def log_prob(energy: Energy, site: str, value: Tensor, log_z: Tensor) -> Tensor:  # (*batch,)
    """ln p(value) from an exact log Z; in float64 where it is a sum over other units."""
    if not isinstance(energy, PairwiseEnergy | FieldEnergy) and not hidden_sites(energy, site):
        return -energy.evaluate({site: value}) - log_z
    return exact.summation(energy).clamped({site: value.double()}).log_partition() - log_z


def machines(energy: Energy) -> torch.Size:
    """The batch shape of an energy's parameters."""
    if isinstance(energy, PairwiseEnergy | FieldEnergy):
        return energy.read().batch
    if isinstance(energy, DistributionEnergy):
        return torch.Size(energy.distribution.batch_shape)
    return torch.Size()


def log_table(energy: Energy, site: str, machines: torch.Size) -> tuple[Tensor, Tensor]:
    """Every state of a site, and the log-probabilities up to log Z.

    Returns:
        The states (states, *site.shape), and the table (states, *machines) in float64.
    """
    found = states(energy, site)
    value = found.reshape(len(found), *[1] * len(machines), *energy.sites[site].shape)
    table = -free_energy(energy, site, value).double()
    return found, table.expand(len(found), *machines)
