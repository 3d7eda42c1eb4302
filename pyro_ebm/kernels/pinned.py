"""Units that cannot change, since every other value of theirs is forbidden while the rest stays.

A kernel that moves one unit at a time never leaves such a state. Whether all chains could come out
of it otherwise nobody knows who has only seen them: a unit is named here that has kept its value
for a whole run in a chain, had no other one wherever it was looked at, and has another one in
another chain.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import networkx as nx
import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure, Unit, can_change, changes
from pyro_ebm.seeding import forked
from pyro_ebm.sites import Sites, unit_names, values_at

from .start import some_starts

FEWEST = 100  # draws of each chain, with fewer of which nothing is said
GLANCES = 8  # draws, at which units that move are told from those that may not
LOOKS = 4  # draws of each chain, at which the other values of a unit are tried
MOST = 16  # units that are looked at
NAMED = 5  # causes that are named
PAIRED = 128  # units, for more of which it is not asked who is tied to whom
STARTS = 8  # states at random, in which units may be held

CURE = (
    "Move such units together: `choose_kernel(energy)` does, and so does RandomBlocks with a size "
    "of 2 or more; or temper from β = 0, where nothing is forbidden (ParallelTempering)."
)


class ForbiddenStatesWarning(UserWarning):
    """Forbidden states hold units of the chains in place.

    Example:
        >>> import torch, warnings
        >>> from pyro_ebm import Gibbs, RandomField, TableFactors, run
        >>> agree = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]])  # or be forbidden
        >>> field = RandomField((2, 2), {"agree": TableFactors([[0, 1]], agree)})
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     chains = run(Gibbs(), field, 200, warmup=0, chains=8, seed=0)
        >>> seen[0].category.__name__, chains.attributes["pinned"]
        ('ForbiddenStatesWarning', 'visible[0]; visible[1]')
    """


class Pinned(NamedTuple):
    """Units that are held in place, and by what."""

    pinned: str
    pinned_by: str


Groups = tuple[tuple[Unit, ...], ...]


def tied_groups(
    energy: Energy, structure: Structure, sites: Sequence[str], initial: Sites | None = None
) -> Groups | None:
    """Groups of units that forbidden states tie together, where chains may start.

    A unit is tied to those of which one can change with it, while it cannot change alone. There are
    no groups where more than two have to change together, and where hardly a place to start is
    found, most states being forbidden; it is None where every unit can change alone.

    Args:
        energy: The energy.
        structure: What is known of it.
        sites: Sites whose values can be listed.
        initial: Values of all sites (chain, *shape) where chains of one law start, if known.
    """
    try:
        with forked(0, energy.device), torch.no_grad():
            if initial is None:
                x, inside = some_starts(energy, structure, STARTS)
            else:  # a few of the places where chains start
                x = {name: value[:STARTS] for name, value in initial.items()}
                inside = structure.energy(x).isfinite()
            if int(inside.sum()) < 2:
                return ()
            return groups_at(energy, x, inside, sites)
    except Exception:  # an energy that bears no random values says nothing of them
        return None


def groups_at(energy: Energy, x: Sites, inside: Tensor, sites: Sequence[str]) -> Groups | None:
    """The groups, as seen from some states.

    Args:
        energy: The energy.
        x: The states (start, *laws, *shape).
        inside: Which of them are allowed (start, *laws).
        sites: Sites whose values can be listed.
    """
    every = [(s, k) for s in sites for k in range(unit_shape(energy, s).numel())]
    few = [unit for unit in every[:PAIRED] if has_other_values(energy, x, inside, unit)]
    if not few:
        return None
    held = inside & ~can_change(energy, x, few)
    if not bool(held.any()):
        return None
    if inside.dim() > 1 or len(every) > PAIRED:
        return ()
    joins = nx.Graph()
    for unit, own in zip(few, held, strict=True):
        if bool(own.any()):
            start = int(own.nonzero()[0])
            partners = partners_of(energy, {n: v[start] for n, v in x.items()}, unit, every)
            if not partners:
                return ()
            joins.add_edges_from((unit, other) for other in partners)
    return tuple(tuple(sorted(group)) for group in nx.connected_components(joins))


def has_other_values(energy: Energy, x: Sites, inside: Tensor, unit: Unit) -> bool:
    """Whether a unit differs among states that are allowed."""
    site, number = unit
    units = x[site].reshape(*inside.shape, unit_shape(energy, site).numel(), -1)[inside]
    return bool((units[:, number] != units[:1, number]).any())


def partners_of(energy: Energy, x: Sites, unit: Unit, every: Sequence[Unit]) -> list[Unit]:
    """The units that can change together with one, of one state (*shape)."""
    there, others = changes(energy, x, unit)
    rest = [other for other in every if other != unit]
    if not rest:
        return []
    possible = (can_change(energy, there, rest) & others).flatten(1).any(1)
    return [other for other, can in zip(rest, possible.tolist(), strict=True) if can]


@torch.no_grad()
def pinned_units(energy: Energy, structure: Structure, draws: Sites) -> Pinned | None:
    """The units of a run that are held in place; None if none is seen to be.

    Args:
        energy: The energy.
        structure: What is known of it.
        draws: Values of all its sites (chain, draw, *shape).
    """
    if not draws or not structure.forbids:
        return None
    if next(iter(draws.values())).shape[1] < FEWEST:
        return None
    names: list[str] = []
    causes: list[str] = []
    for site, unit, kept in candidates(energy, draws):
        held = kept
        for x in looked_at(energy, draws):
            held = held & ~can_change(energy, x, [(site, unit)])[0]
        if bool(held.any()):
            names.append(unit_names(site, unit_shape(energy, site))[unit])
            chain = int(held.nonzero()[0])
            tried, others = changes(energy, {n: v[chain] for n, v in x.items()}, (site, unit))
            for k in others.nonzero()[:, 0].tolist():
                causes += structure.what_forbids({n: v[k] for n, v in tried.items()})
    if not names:
        return None
    distinct = list(dict.fromkeys(causes))
    shown = ", ".join(distinct[:NAMED]) + (", …" if len(distinct) > NAMED else "")
    return Pinned("; ".join(names), shown)


def candidates(energy: Energy, draws: Sites) -> Iterator[tuple[str, int, Tensor]]:
    """Site and unit, and in which chains (chain,) a unit keeps a value that others leave."""
    left = MOST
    for name, x in draws.items():
        if not energy.sites[name].support.is_discrete or values_at(energy.sites[name]) is None:
            continue
        shape = unit_shape(energy, name)
        units = x.reshape(*x.shape[:2], shape.numel(), -1)  # (chain, draw, unit, *)
        first = units[:, :1]
        some = units[:, :: max(1, units.shape[1] // GLANCES)]
        still = (some == first).all(-1).all(1) & (some != some[:1, :1]).any(-1).any(1).any(0)
        for unit in still.any(0).nonzero()[:, 0].tolist():
            kept = (units[:, :, unit] == first[:, :, unit]).all(-1).all(1)
            if bool(kept.any()) and left:
                left -= 1
                yield name, unit, kept.to(energy.device)


def looked_at(energy: Energy, draws: Sites) -> Iterator[Sites]:
    """Some draws, evenly, the last one among them, as the energy takes them."""
    count = next(iter(draws.values())).shape[1]
    for k in range(1, LOOKS + 1):
        draw = k * count // LOOKS - 1
        yield {n: v[:, draw].to(energy.device, energy.dtype) for n, v in draws.items()}


def unit_shape(energy: Energy, site: str) -> torch.Size:
    """The shape of a site without that of one unit."""
    values = values_at(energy.sites[site])
    shape = energy.sites[site].shape
    return shape if values is None else shape[: len(shape) - (values.dim() - 1)]


def warning_of(attributes: Mapping[str, object]) -> str:
    """What a run says that has seen units held in place."""
    return (
        f"{attributes['pinned']}: in some chains every other value is forbidden while the rest "
        f"stays, by {attributes['pinned_by']}. These chains have not left the states that they "
        f"started in. {CURE}"
    )
