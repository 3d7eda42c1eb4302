"""The sums that a distribution over one site needs, by whatever way the energy's structure offers.

The site is kept; the others are summed out, in closed form or by enumeration.
"""

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies import Energy, PairwiseEnergy
from pyro_ebm.partition import TooManyStatesError, exact
from pyro_ebm.sites import Site, Sites, boolean, spin

MAX_STATES = 2**16  # of a site that is enumerated: 16 bits


def levels(support: Constraint) -> tuple[float, ...] | None:
    """All values of one element, where they are finitely many."""
    if support is boolean:
        return (0.0, 1.0)
    if support is spin:
        return (-1.0, 1.0)
    if isinstance(support, constraints.integer_interval):
        bounds = support.lower_bound, support.upper_bound
        if all(not isinstance(bound, Tensor) or bound.numel() == 1 for bound in bounds):
            low, high = (int(bound) for bound in bounds)
            return tuple(float(level) for level in range(low, high + 1))
    return None


def number_of_states(*sites: Site) -> float:
    """How many joint states some sites have; infinity where not finitely many."""
    count = 1.0
    for site in sites:
        values = levels(site.support)
        if values is None:
            return math.inf
        exponent = math.prod(site.shape) * math.log2(len(values))
        count *= 2.0**exponent if exponent < 500 else math.inf
    return round(count) if count < 2**50 else count


def states(site: Site, like: Tensor) -> Tensor:  # (states, *site.shape)
    """Every state of a site with few of them, the last element fastest."""
    values, size = levels(site.support), math.prod(site.shape)
    assert values is not None
    table = torch.tensor(values, dtype=like.dtype, device=like.device)
    index = torch.arange(len(values) ** size, device=like.device)
    powers = len(values) ** torch.arange(size - 1, -1, -1, device=like.device)
    return table[index[:, None] // powers % len(values)].reshape(-1, *site.shape)


def joint_states(energy: Energy, names: list[str]) -> Sites:  # (states, *site.shape) each
    """Every joint state of some sites with few of them."""
    like = torch.empty((), dtype=energy.dtype, device=energy.device)
    tables = {name: states(energy.sites[name], like) for name in names}
    counts = [len(table) for table in tables.values()]
    grid = torch.cartesian_prod(*(torch.arange(n, device=energy.device) for n in counts))
    grid = grid.reshape(-1, len(counts))
    return {name: table[grid[:, k]] for k, (name, table) in enumerate(tables.items())}


def hidden_sites(energy: Energy, site: str) -> list[str]:
    """The sites that are summed out."""
    return [name for name in energy.sites if name != site]


def require_summable(energy: Energy, site: str) -> None:
    """Refuses an energy whose other sites cannot be summed out.

    Raises:
        ValueError: If they cannot.
    """
    hidden = hidden_sites(energy, site)
    if not hidden or isinstance(energy, PairwiseEnergy):
        return
    if number_of_states(*(energy.sites[name] for name in hidden)) > MAX_STATES:
        raise ValueError(
            f"A distribution over {site!r} needs the sites {hidden} summed out, for which "
            f"{type(energy).__name__} has no closed form, and they have more than {MAX_STATES} "
            f"states. Give every site a statement of its own, and join them by "
            f"pyro_ebm.energy_factor(name, energy, ...)."
        )


def free_energy(energy: Energy, site: str, value: Tensor) -> Tensor:  # (*batch,)
    """−ln Σ exp(−E) over the other sites, for values that have passed the door.

    Raises:
        TooManyStatesError: If the other sites are coupled among themselves, and too many.
    """
    x = {site: value}
    hidden = hidden_sites(energy, site)
    if not hidden:
        return energy.evaluate(x)
    if isinstance(energy, PairwiseEnergy):
        if energy.read().coupled(hidden) is None:
            return energy.free_energy(x)
        zero = torch.zeros((), dtype=torch.float64, device=energy.device)
        return -exact.log_prob(energy, x, log_z=zero).to(energy.dtype)
    rest = joint_states(energy, hidden)
    own = value.dim() - len(energy.sites[site].shape)
    rest = {
        name: table.reshape(len(table), *[1] * own, *energy.sites[name].shape)
        for name, table in rest.items()
    }
    return -(-energy.evaluate({site: value[None], **rest})).logsumexp(0)


def log_partition(energy: Energy) -> Tensor | None:  # (*batch of the parameters,)
    """log Z, exact and differentiable, where the structure allows; else None."""
    if isinstance(energy, PairwiseEnergy):
        try:
            return exact.log_partition(energy)
        except (TooManyStatesError, TypeError):
            return None
    if number_of_states(*energy.sites.values()) > MAX_STATES:
        return None
    return (-energy.evaluate(joint_states(energy, list(energy.sites)))).double().logsumexp(0)


def log_prob(energy: Energy, site: str, value: Tensor, log_z: Tensor) -> Tensor:  # (*batch,)
    """ln p(value) from an exact log Z, in float64 where the energy has terms."""
    if isinstance(energy, PairwiseEnergy):
        return exact.log_prob(energy, {site: value}, log_z=log_z)
    return -free_energy(energy, site, value) - log_z
