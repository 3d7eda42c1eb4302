"""The most probable values: the minimum of the energy, and what is known of it."""

import math

import torch

from pyro_ebm.energies import Energy
from pyro_ebm.kernels import local_differences, random_start, read_structure, require_energy
from pyro_ebm.partition import Mode, TooManyStatesError, exact
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import describe, is_count

from . import Annealed, anneal
from .descent import SingleChanges, descended, stuck_in_descent

# The schedule in units of the typical change of energy by one unit: nearly all changes are made at
# the start, and none that goes up at the end.
HOTTEST, COLDEST = 0.2, 12.0
AFFORDABLE = 10.0  # seconds for the exact answer
PROBES = 64  # random states, from which the typical change is found
TRIED = 16  # changes of each of them, where no gradient tells all


def mode(energy: Energy, *, sweeps: int = 1000, chains: int = 64, seed: int | None = None) -> Mode:
    """The values of lowest energy: exactly where that is affordable, else by annealing.

    Exactly is by elimination or enumeration, where either takes seconds; then it is proved. Else
    many chains are annealed and each then descends: the inverse temperature rises geometrically, on
    the scale of the changes of energy that single units make at random values. Nothing is proved of
    what is found so; that many of the chains end there speaks for it.

    `elimination.mode` is the exact part alone; `anneal` and `descend` are the rest, with more say.

    Args:
        energy: One energy. What is annealed must have discrete sites only, or be a machine: its
            real units go to the modes of their conditional laws.
        sweeps: Steps of the annealing.
        chains: How many chains are annealed.
        seed: The global generators stay untouched. If left out it is drawn from them.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite, or an energy NaN or −∞.
        TypeError, ValueError: If an argument is not what is wanted, among it a batch of energies,
            or if the units of a site cannot be moved, or no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, mode
        >>> edges = [(0, 1), (1, 2), (0, 2)]  # three spins that cannot all disagree
        >>> found = mode(BoltzmannMachine.on_graph(edges, couplings=torch.tensor([-1.0])))
        >>> found.energy, found.proved
        (tensor(-1.), True)

    References:
        | Optimization by simulated annealing (Kirkpatrick, Gelatt & Vecchi, 1983)
        | https://doi.org/10.1126/science.220.4598.671
    """
    if not is_count(sweeps):
        raise ValueError(f"sweeps is {sweeps!r}; wanted a positive whole number.")
    if not is_count(chains):
        raise ValueError(f"chains is {chains!r}; wanted a positive whole number.")
    require_energy(energy, "energy")
    require_one(energy)
    if (proved := exactly(energy)) is not None:
        return proved
    if stuck := stuck_in_descent(read_structure(energy)):
        raise ValueError(
            f"mode moves bits, spins, labels and one-hot units, and the units of machines, but "
            f"{stuck[0]!r} is {describe(energy.sites[stuck[0]].support)}; minimise the energy over "
            f"real sites by its gradient, with a torch optimiser."
        )
    with forked(chosen_seed(seed), energy.device):
        scale = typical_change(energy)
        betas = torch.logspace(math.log10(HOTTEST), math.log10(COLDEST), sweeps) / scale
        found = descended(energy, anneal(energy, betas, chains=chains).x)
    return chosen(found, f"annealing of {chains} chains over {sweeps} steps, then descent")


def require_one(energy: Energy) -> None:
    """Refuses a batch of energies.

    Raises:
        ValueError: If the parameters have batch dimensions.
    """
    if batch := energy.structure().batch:
        raise ValueError(
            f"A state has the energies {tuple(batch)}, one for each of a batch of parameters; mode "
            f"wanted one energy. Ask for each alone."
        )


@torch.no_grad()
def exactly(energy: Energy) -> Mode | None:
    """The proved mode, where it is affordable."""
    try:
        sums = exact.summation(energy)
    except TypeError:  # there is no way to sum it
        return None
    if exact.seconds(energy) > AFFORDABLE:
        return None
    try:
        least = sums.minimum()
    except TooManyStatesError:
        return None
    x = {site: value.to(energy.dtype) for site, value in least.items()}
    return Mode(x, energy(x), proved=True, how="all values were looked at, or ruled out in parts")


def chosen(found: Annealed, how: str) -> Mode:
    """The lowest of several chains."""
    least = found.energy.min()
    if bool(least.isnan()):
        raise FloatingPointError(
            "The energies that were met are NaN; wanted numbers, or +inf where p(x) is 0. Check "
            "the parameters."
        )
    tolerance = 1e-6 * float(least.abs()) + 1e-9
    count = int((found.energy <= least + tolerance).sum())
    told = f"{how}; {count} of {len(found.energy)} chains ended at the lowest energy; not proved"
    return Mode(found.lowest, least, proved=False, how=told)


def typical_change(energy: Energy) -> float:
    """The median change of energy by one unit at random values, those of no change left out.

    Of a machine only the discrete units count, where it has any: real ones are as wide as it says.
    """
    x = random_start(energy, PROBES)
    changes = SingleChanges.of(energy)
    if not changes.count:
        return 1.0
    with torch.no_grad():
        if changes.others:
            tried = torch.randint(changes.count, (TRIED, PROBES), device=energy.device)
            height = energy.evaluate(x)
            sizes = torch.cat([energy.evaluate(changes.made(x, k)) - height for k in tried]).abs()
        else:
            structure = energy.structure()
            structure.require_finite()
            found = local_differences(structure, x, changes.alphabets).differences
            sizes = torch.cat([value.flatten().abs() for value in found.values()])
    sizes = sizes[sizes.isfinite()]
    if not len(sizes):
        return 1.0
    sizes = sizes[sizes > 1e-9 * sizes.max()]
    return float(sizes.median()) if len(sizes) else 1.0
