"""Which kernel suits an energy, by its structure, and what the kernel is for."""

from enum import Enum
from typing import NamedTuple

from pyro_ebm.energies import Energy, Structure, graph_of
from pyro_ebm.kernels.composite.cycle import Cycle, Mixture
from pyro_ebm.kernels.continuous.hmc import HMC
from pyro_ebm.kernels.continuous.random_walk import RandomWalk
from pyro_ebm.kernels.discrete.alphabets import alphabet_of
from pyro_ebm.kernels.discrete.cluster import SwendsenWang, suits_clusters
from pyro_ebm.kernels.discrete.constraint_blocks import ConstraintBlocks, ties
from pyro_ebm.kernels.discrete.gibbs import Gibbs
from pyro_ebm.kernels.discrete.gradient_gibbs import DiscreteLangevin, GibbsWithGradients
from pyro_ebm.kernels.discrete.integer_walk import IntegerWalk
from pyro_ebm.kernels.discrete.random_blocks import blocks_of, can_move, can_share
from pyro_ebm.sites import Sites, describe, is_integer

from .base import Kernel, reverse_of, unset_of
from .pinned import tied_groups
from .settings import require_energy
from .start import read_structure

# HMC's acceptance. Of 0.8, 0.9 and 0.95 the last diverges least on curved and quartic densities,
# and makes two to three times the effective draws of the first there, for up to twice the work.
CAREFUL = 0.95
SMALLEST = 0.99  # for energies on which that diverges all the same
LONGEST, SHORT = 100, 30  # leapfrog steps at most: of a kernel alone, and on a ladder


class Purpose(Enum):
    """What a kernel is chosen for.

    Attributes:
        RUN: A run on one energy. A warm-up finds the settings.
        LADDER: All levels of a `ParallelTempering` at once. A warm-up finds the settings.
        REVERSE: The levels of a `TemperedTransitions`. Each kernel knows its reverse.
        FIXED: Steps without a warm-up on an energy that changes, as in `anneal` and in learning.
            No setting is left open.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Purpose, choose_kernel
        >>> magnet = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([0.5]))
        >>> choose_kernel(magnet)
        Cycle(kernels=(Gibbs(sites=('visible',)), SwendsenWang()))
        >>> choose_kernel(magnet, Purpose.LADDER)
        Gibbs(sites=('visible',))
    """

    RUN = "a run"
    LADDER = "a ladder of temperatures"
    REVERSE = "tempered transitions"
    FIXED = "steps without a warm-up"

    @property
    def has_warmup(self) -> bool:
        """Whether settings may be left to a warm-up."""
        return self in (Purpose.RUN, Purpose.LADDER)


class Part(NamedTuple):
    """Sites that one kernel moves, and why that one."""

    kernel: Kernel
    sites: tuple[str, ...]
    reason: str


def choose_kernel(energy: Energy, purpose: Purpose = Purpose.RUN) -> Kernel:
    """A kernel that moves every site of an energy, chosen by what the energy knows of itself.

    Sites whose conditional laws are known are drawn from them by `Gibbs`; bits and spins on a graph
    that frustrates none of its couplings in clusters as well, by `SwendsenWang`, and units that
    forbidden states hold in place in blocks, by `ConstraintBlocks` or `RandomBlocks`. Other
    discrete sites are moved by `DiscreteLangevin`, by the gradient, and by `RandomBlocks`, which
    needs energies only: by both, where both can. Counts and wide ranges of integers walk, each site
    on its own (`IntegerWalk`). Continuous sites are moved by `HMC`, tuned in the warm-up to a high
    acceptance; those that bound the data of a Pyro model by `RandomWalk`, since no gradient tells
    of a bound. Where there are several kernels, one follows the other in a `Cycle`.

    Clusters are for a run only, since an energy that changes may come to be frustrated. Without a
    warm-up `GibbsWithGradients` takes the place of `DiscreteLangevin`, and a wide range of integers
    is drawn by `RandomBlocks`; other sites that need a warm-up are refused. For a reverse, sites
    whose sweep has none are moved as if their conditional laws were not known, and the kernels are
    chosen at random in a `Mixture`; settings that are open there are found by `warmup`.

    Args:
        energy: The energy.
        purpose: What the kernel is for.

    Raises:
        TypeError: If `energy` is no energy, or `purpose` no purpose.
        ValueError: If there is a site that none of these can move.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, choose_kernel
        >>> choose_kernel(BoltzmannMachine.restricted(6, 4))
        Gibbs(sites=('visible', 'hidden'))
    """
    require_energy(energy, "energy")
    if not isinstance(purpose, Purpose):
        raise TypeError(f"purpose is {purpose!r}; wanted one of {', '.join(map(str, Purpose))}.")
    return joined(parts_of(energy, purpose), purpose)


def joined(parts: list[Part], purpose: Purpose = Purpose.RUN) -> Kernel:
    """One kernel of all."""
    kernels = tuple(part.kernel for part in parts)
    if len(kernels) == 1:
        return kernels[0]
    return Mixture(kernels) if purpose is Purpose.REVERSE else Cycle(kernels)


def parts_of(
    energy: Energy,
    purpose: Purpose = Purpose.RUN,
    target_acceptance: float = CAREFUL,
    initial: Sites | None = None,
    first: tuple[str, ...] = (),
    structure: Structure | None = None,
) -> list[Part]:
    """The kernels for the sites of an energy.

    Args:
        energy: The energy.
        purpose: What the kernels are for.
        target_acceptance: Of HMC.
        initial: Values of all sites where chains will start, if known.
        first: Sites that a sweep of Gibbs visits before all others.
        structure: What is known of the energy, if it is at hand.

    Raises:
        ValueError: As `choose_kernel`.
    """
    structure = structure or read_structure(energy)
    known = drawn_sites(energy, structure, purpose, first)
    left = [name for name in energy.sites if name not in known]
    continuous = [name for name in left if not energy.sites[name].support.is_discrete]
    edged = tuple(name for name in continuous if name in structure.walled)
    real = tuple(name for name in continuous if name not in structure.walled)
    longest = SHORT if purpose is Purpose.LADDER else LONGEST
    found = [
        Part(Gibbs(known), known, "conditional laws are known") if known else None,
        tied_part(energy, structure, known, initial),
        Part(SwendsenWang(), known, "no coupling is frustrated")
        if purpose is Purpose.RUN and suits_clusters(structure)
        else None,
        *discrete_parts(structure, [name for name in left if name not in continuous], purpose),
        Part(RandomWalk(edged), edged, "they bound the data, of which a gradient knows nothing")
        if edged
        else None,
        Part(
            HMC(real, target_acceptance=target_acceptance, longest=longest),
            real,
            "continuous, with a gradient",
        )
        if real
        else None,
    ]
    parts = [part for part in found if part is not None]
    for part in parts:
        if purpose is Purpose.FIXED and (missing := unset_of(part.kernel)):
            settings = ", ".join(f"{name}=..." for name in missing)
            own, site = type(part.kernel).__name__, part.sites[0]
            raise ValueError(
                f"No kernel without a warm-up is known that moves {site!r}, which is "
                f"{describe(energy.sites[site].support)}. Give a kernel with its settings, for "
                f"example {own}({part.sites!r}, {settings}), in a Cycle with what moves the "
                f"others, or hold the site: clamp(energy, {{{site!r}: value}})."
            )
    return parts


def drawn_sites(
    energy: Energy, structure: Structure, purpose: Purpose, first: tuple[str, ...]
) -> tuple[str, ...]:
    """The sites that `Gibbs` draws from their conditional laws, in the order of a sweep."""
    order = (*first, *(name for name in energy.sites if name not in first))
    known = tuple(name for name in order if structure.knows(name))
    if known and purpose is Purpose.REVERSE:
        try:
            reverse_of(Gibbs(known), energy)
        except (TypeError, ValueError):
            return ()
    return known


def discrete_parts(structure: Structure, names: list[str], purpose: Purpose) -> list[Part]:
    """The kernels for discrete sites whose conditional laws are not drawn from.

    Raises:
        ValueError: As `choose_kernel`.
    """
    sloped = tuple(name for name in names if alphabet_of(structure, name) is not None)
    listed = tuple(name for name in names if can_share(structure, name))
    # A block of one unit draws from a wide range, at one energy for each value: it needs no tuning.
    wide = tuple(
        name
        for name in names
        if not purpose.has_warmup and name not in listed and can_move(structure, name)
    )
    walking = [
        name
        for name in names
        if name not in (*sloped, *listed, *wide) and is_integer(structure.sites[name].support)
    ]
    if stuck := [name for name in names if name not in (*sloped, *listed, *wide, *walking)]:
        raise ValueError(
            f"No kernel is known that moves {stuck[0]!r}, which is "
            f"{describe(structure.sites[stuck[0]].support)}. Give a kernel: a "
            f"MetropolisHastings({stuck[0]!r}, proposal) in a Cycle with what moves the others."
        )
    found = [Part(IntegerWalk((name,)), (name,), "counts, or a wide range") for name in walking]
    if wide:
        found.insert(0, Part(blocks_of(structure, wide), wide, "one unit at a time"))
    if listed:
        found.insert(0, Part(blocks_of(structure, listed), listed, "a few units at a time"))
    if sloped:
        mover = DiscreteLangevin(sloped) if purpose.has_warmup else GibbsWithGradients(sloped)
        found.insert(0, Part(mover, sloped, "changes are told by the gradient"))
    return found


def tied_part(
    energy: Energy, structure: Structure, known: tuple[str, ...], initial: Sites | None = None
) -> Part | None:
    """What moves units together that forbidden states hold in place; None if none are held.

    Args:
        energy: The energy.
        structure: What is known of it.
        known: The sites whose units have conditional laws.
        initial: Values of all sites where chains will start, if known.
    """
    graph = graph_of(structure)
    if graph is not None:
        reason = "factors forbid joint labels"
        return Part(ConstraintBlocks(), known, reason) if ties(graph) else None
    if not structure.forbids:
        return None
    listed = tuple(name for name in known if can_share(structure, name))
    if not listed:
        return None
    groups = tied_groups(energy, structure, listed, initial)
    if groups is None:
        return None
    reason = "forbidden states hold units in place"
    return Part(blocks_of(structure, listed, groups), listed, reason)


def said(parts: list[Part]) -> str:
    """What was chosen, in words."""
    return "; ".join(
        f"{type(part.kernel).__name__} for {', '.join(map(repr, part.sites))}: {part.reason}"
        for part in parts
    )
