"""The sums that a distribution over one site needs; the other sites are summed out."""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import Energy, Structure
from pyro_ebm.partition import TooManyStatesError, because, exact, log_sum_exp, require_possible
from pyro_ebm.sites import Site, all_true, levels_of, trusting

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


def require_summable(energy: Energy, structure: Structure, site: str) -> None:
    """Refuses an energy whose other sites cannot be summed out.

    Raises:
        ValueError: If they cannot.
    """
    if structure.has_terms:
        return
    hidden = hidden_sites(energy, site)
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
    # Not exact.free_energy, whose door refuses the infinite values that a sampler may try.
    return -exact.summation(energy, (site,)).clamped({site: value.double()}).log_partition()


def log_partition(
    energy: Energy, structure: Structure | None = None
) -> Tensor | None:  # (*batch of the parameters,)
    """log Z, exact and differentiable, in float64; None where there is no affordable sum."""
    structure = structure or energy.structure()
    if structure.law is not None:
        return torch.zeros(structure.batch, dtype=torch.float64, device=energy.device)
    try:
        return exact.summation(energy, (), structure).log_partition()
    except (TooManyStatesError, TypeError):
        return None


def log_prob(energy: Energy, site: str, value: Tensor) -> Tensor | None:  # (*batch,)
    """ln p(value), exact; None where there is no affordable sum. Parameters are read once.

    It is in float64 where it is a sum over other units.

    Raises:
        ValueError: If Z = 0.
    """
    structure = energy.structure()
    log_z = log_partition(energy, structure)
    if log_z is None:
        return None
    require_possible(log_z)
    if not structure.has_terms and not hidden_sites(energy, site):
        return -energy.evaluate({site: value}) - log_z
    with trusting():  # the parameters, which were looked at for log Z
        sums = exact.summation(energy, (), structure)
    return sums.clamped({site: value.double()}).log_partition() - log_z


def log_table(energy: Energy, site: str) -> tuple[Tensor, Tensor]:
    """Every state of a site, and its log-probabilities.

    Returns:
        The states (states, *site.shape), and the table (states, *parameter batch) in float64.

    Raises:
        FloatingPointError: If an energy is NaN or −∞.
        TooManyStatesError: As `free_energy`.
        ValueError: If no state is allowed.
    """
    structure = energy.structure()
    structure.require_finite()
    found, machines = states(energy, site), structure.batch
    value = found.reshape(len(found), *[1] * len(machines), *energy.sites[site].shape)
    table = -free_energy(energy, site, value).double()
    require_numbers(energy, table.masked_fill(table == math.inf, math.nan))
    table = table.expand(len(found), *machines)
    log_z = log_sum_exp(table, 0)
    require_possible(log_z)
    return found, table - log_z


def require_numbers(energy: Energy, value: Tensor) -> Tensor:
    """Log-probabilities or energies, if none of them is NaN.

    Raises:
        FloatingPointError: If one is.
    """
    if not all_true(~value.isnan()):
        energy.structure().require_finite()
        raise FloatingPointError(
            f"The {type(energy).__name__} has an energy that is NaN or -inf; wanted numbers, or "
            f"+inf where p(x) is 0.{because(energy)}"
        )
    return value


# --- moments -------------------------------------------------------------------------------------


@torch.no_grad()
def mean_and_variance(energy: Energy, site: str) -> tuple[Tensor, Tensor]:
    """Of every element of a site (*parameter batch, *site.shape), in float64; labels as numbers.

    Raises:
        NotImplementedError: If there is no affordable sum.
    """
    law = energy.structure().law
    # A categorical law says NaN, since its values are names; here labels are numbers.
    if law is not None and not (has_labels(energy, site) and bool(law.mean.isnan().any())):
        return law.mean, law.variance
    try:
        found = exact.moments(energy)
    except (TooManyStatesError, TypeError) as error:
        raise unknown("moments", site, error) from None
    first = 0
    for name, value in found.mean.items():
        if name == site:
            break
        first += value.shape[-1]
    mean = found.mean[site]
    square = found.second.diagonal(dim1=-2, dim2=-1)[..., first : first + mean.shape[-1]]
    if has_labels(energy, site):
        levels = levels_of(energy.sites[site]) or []
        size = torch.tensor([len(own) for own in levels], device=mean.device)
        element = torch.arange(len(levels), device=mean.device).repeat_interleave(size)
        value = torch.cat(levels).to(mean)
        zeros = mean.new_zeros(*mean.shape[:-1], len(levels))
        mean, square = (zeros.index_add(-1, element, mean * value**k) for k in (1, 2))
    shape = (*mean.shape[:-1], *energy.sites[site].shape)
    return mean.reshape(shape), (square - mean.square()).clamp_min(0).reshape(shape)


def has_labels(energy: Energy, site: str) -> bool:
    """Whether the features of a site are one-hot vectors of its labels."""
    levels = energy.structure().levels(site)
    if levels is None:
        return isinstance(energy.sites[site].support, constraints.integer_interval)
    return levels.features.shape[-1] > 1 or len(levels.values) == 1


def entropy(energy: Energy, site: str) -> Tensor:  # (*parameter batch,)
    """−E[ln p] in nats, differentiable; of a real site the differential entropy.

    Raises:
        NotImplementedError: If there is no affordable sum.
    """
    law = energy.structure().law
    if law is not None:
        return law.entropy()
    try:
        if number_of_states(energy.sites[site]) <= MAX_STATES:
            log_p = log_table(energy, site)[1]
            return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(0)
        if hidden := hidden_sites(energy, site):
            raise TypeError(f"{hidden} are summed out, so that it has no closed form")
        return entropy_by_temperature(energy)
    except (TooManyStatesError, TypeError) as error:
        raise unknown("entropy", site, error) from None


def entropy_by_temperature(energy: Energy) -> Tensor:
    """H = log Z − ∂ log Z / ∂β at β = 1, where the law is exp(−βE).

    Raises:
        TooManyStatesError, TypeError: As `exact.log_partition`.
    """
    log_z = exact.log_partition(energy)
    one = torch.ones(energy.structure().batch, dtype=energy.dtype, device=energy.device)
    with torch.enable_grad():
        total = exact.log_partition(one.requires_grad_() * energy).sum()
        (slope,) = torch.autograd.grad(total, one, create_graph=log_z.requires_grad)
    return log_z - slope


def unknown(what: str, site: str, why: Exception) -> NotImplementedError:
    """The error for what no exact sum gives; torch and Pyro expect this kind."""
    return NotImplementedError(
        f"The {what} of {site!r} cannot be summed exactly: {str(why).rstrip('.')}. Estimate it "
        f"from draws, law.sample(torch.Size([1000]))."
    )
