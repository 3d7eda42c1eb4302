"""Which kernel suits an energy, by its structure."""

from typing import NamedTuple

from pyro_ebm.energies import Energy, knows_conditional
from pyro_ebm.kernels.composite.cycle import Cycle
from pyro_ebm.kernels.continuous.hmc import HMC
from pyro_ebm.kernels.discrete.alphabets import alphabet_of
from pyro_ebm.kernels.discrete.cluster import SwendsenWang, suits_clusters
from pyro_ebm.kernels.discrete.gibbs import Gibbs
from pyro_ebm.kernels.discrete.gradient_gibbs import DiscreteLangevin
from pyro_ebm.kernels.discrete.random_blocks import blocks_of, can_move
from pyro_ebm.sites import describe

from .base import Kernel

# HMC's acceptance. Of 0.8, 0.9 and 0.95 the last diverges least on curved and quartic densities,
# and makes two to three times the effective draws of the first there, for up to twice the work.
CAREFUL = 0.95
SMALLEST = 0.99  # for energies on which that diverges all the same
LONGEST, SHORT = 100, 30  # leapfrog steps at most: of a kernel alone, and on a ladder


class Part(NamedTuple):
    """Sites that one kernel moves, and why that one."""

    kernel: Kernel
    sites: tuple[str, ...]
    reason: str


def choose_kernel(energy: Energy) -> Kernel:
    """A kernel that moves every site of an energy, chosen by what the energy knows of itself.

    Sites whose conditional laws are known are drawn from them by `Gibbs`; bits and spins on a graph
    that frustrates none of its couplings in clusters as well, by `SwendsenWang`. Other discrete
    sites are moved by `DiscreteLangevin`, by the gradient, and by `RandomBlocks`, which needs
    energies only: by both, where both can. Continuous sites are moved by `HMC`, tuned in the
    warm-up to a high acceptance. Where there are several kernels, one follows the other in a
    `Cycle`.

    Raises:
        TypeError: If `energy` is no energy.
        ValueError: If there is a site that none of these can move.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, choose_kernel
        >>> choose_kernel(BoltzmannMachine.restricted(6, 4))
        Gibbs(sites=('visible', 'hidden'))
    """
    return joined(parts_of(energy))


def joined(parts: list[Part]) -> Kernel:
    """One kernel of all."""
    kernels = tuple(part.kernel for part in parts)
    return kernels[0] if len(kernels) == 1 else Cycle(kernels)


def parts_of(
    energy: Energy, target_acceptance: float = CAREFUL, longest: int = LONGEST
) -> list[Part]:
    """The kernels for the sites of an energy.

    Args:
        energy: The energy.
        target_acceptance: Of HMC.
        longest: The leapfrog steps of its trajectories at most.

    Raises:
        TypeError, ValueError: As `choose_kernel`.
    """
    if not isinstance(energy, Energy):
        raise TypeError(f"energy is {energy!r}; wanted an energy, for example a BoltzmannMachine.")
    known = tuple(name for name in energy.sites if knows_conditional(energy, name))
    left = [name for name in energy.sites if name not in known]
    discrete = [name for name in left if energy.sites[name].support.is_discrete]
    sloped = tuple(name for name in discrete if alphabet_of(energy, name) is not None)
    listed = tuple(name for name in discrete if can_move(energy, name))
    real = tuple(name for name in left if name not in discrete)
    if stuck := [name for name in discrete if name not in sloped + listed]:
        raise ValueError(
            f"No kernel is known that moves {stuck[0]!r}, which is "
            f"{describe(energy.sites[stuck[0]].support)}. Give a kernel: a "
            f"MetropolisHastings({stuck[0]!r}, proposal) in a Cycle with what moves the others."
        )
    hamiltonian = HMC(real, target_acceptance=target_acceptance, longest=longest)
    found = [
        Part(Gibbs(known), known, "conditional laws are known") if known else None,
        Part(SwendsenWang(), known, "no coupling is frustrated")
        if suits_clusters(energy)
        else None,
        Part(DiscreteLangevin(sloped), sloped, "changes are told by the gradient")
        if sloped
        else None,
        Part(blocks_of(energy, listed), listed, "a few units at a time") if listed else None,
        Part(hamiltonian, real, "continuous, with a gradient") if real else None,
    ]
    return [part for part in found if part is not None]


def said(parts: list[Part]) -> str:
    """What was chosen, in words."""
    return "; ".join(
        f"{type(part.kernel).__name__} for {', '.join(map(repr, part.sites))}: {part.reason}"
        for part in parts
    )
