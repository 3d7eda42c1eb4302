"""Where chains start, and which energies a kernel accepts."""

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import (
    Constraints,
    Energy,
    FieldStructure,
    Structure,
    graph_of,
)
from pyro_ebm.kernels import chance
from pyro_ebm.sites import (
    Sites,
    check_names,
    covers,
    describe,
    is_endless,
    random_values,
    whole,
)

from .base import require_machines, same_batch


@torch.no_grad()
def read_structure(energy: Energy) -> Structure:
    """What is known of an energy, its parameters read without a history."""
    return energy.structure()


def accept_all(energy: Energy, x: Sites, structure: Structure | None = None) -> Sites:
    """Values of every site that a kernel is given, checked.

    Args:
        energy: The energy.
        x: The values, with one batch shape.
        structure: What is known of the energy, if that counts: where it has terms, the batch shape
            of the parameters has to be covered.

    Raises:
        TypeError, ValueError: If something is not what is wanted.
    """
    x = energy.accept(x)
    check_names(x, energy.sites)
    batch = same_batch(x, energy)
    if structure is not None and structure.has_terms:
        require_machines(batch, structure.batch)
    return x


def with_terms(structure: Structure) -> Structure | None:
    """A structure with terms, as plain tensors that a state may keep; None for any other.

    What is known without terms holds the energy itself: a state with it would be saved and copied
    with the energy, whose function may be one that cannot be.
    """
    return structure if structure.has_terms else None


def where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the chosen chains (*batch,), else `old` (*batch, ...)."""
    return torch.where(chosen.reshape(*chosen.shape, *[1] * (new.dim() - chosen.dim())), new, old)


def heights(energy: Energy, structure: Structure, x: Sites) -> Tensor:  # (chains,)
    """The energy of each chain's start.

    Raises:
        ValueError: If the energy has a batch of laws that the chains do not cover.
    """
    batch = same_batch(x, energy)
    with suppress(RuntimeError, ValueError):
        found = structure.energy(x)
        if covers(found.shape, batch):
            return found.expand(batch)
    require_machines(batch, laws(structure, x))
    return energy(x).expand(batch)  # which says what is wrong


@torch.no_grad()
def laws(structure: Structure, x: Sites) -> torch.Size:
    """The batch shape of an energy's laws: that of its answer for a single state of x."""
    first = {}
    for name, site in structure.sites.items():
        batch = x[name].dim() - len(site.shape)
        first[name] = x[name][(0,) * batch]
    return structure.energy(first).shape


def is_one_law(energy: Energy, x: Sites) -> bool:
    """Whether all chains have the same energy, and not each one of its own.

    Energies of their own have machines with a batch of parameters, what is clamped to several rows,
    and energies that are multiplied by one number for each chain.

    Args:
        energy: The energy.
        x: Values of all its sites, (*batch, *shape), of which the first are looked at.
    """
    return not laws(read_structure(energy), x)


def check_reference(energy: Energy, reference: Energy | None, lowest: float) -> None:
    """Refuses a reference for other sites, and none where it is needed.

    Raises:
        ValueError: If the reference has other sites, or lacks real ones or counts, or if β = 0
            would be no law.
    """
    endless = {s for s, site in energy.sites.items() if is_endless(site.support)}
    if reference is None:
        if lowest == 0 and endless:
            raise ValueError(
                f"At β = 0 the sites {sorted(endless)} have no law, being real or counts. Give a "
                f"reference energy that has one, or a lowest β above 0."
            )
    elif not endless <= set(reference.sites) <= set(energy.sites):
        raise ValueError(
            f"The reference has the sites {list(reference.sites)}; "
            f"wanted those of the energy, {list(energy.sites)}, all real ones among them, and "
            f"all counts."
        )


TRIES = 100  # random starts at most, until all chains have a finite energy
FEW_TRIES = 8  # where a few values are enough
PENALTY = 20.0  # nats, for what a field forbids, while a start is sought


@torch.no_grad()
def finite_start(energy: Energy, chains: int, structure: Structure | None = None) -> Sites:
    """A random start where p(x) is not 0; chains that have come elsewhere try again.

    In a random field they go on from where they are, to where less is forbidden.

    Args:
        energy: The energy.
        chains: The number of chains.
        structure: What is known of the energy, if it is at hand.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite.
        ValueError: As `random_start`; or if a chain has not found such a place.
    """
    structure = structure or energy.structure()
    if structure.starts is not None:  # a Pyro model can draw counts
        return structure.starts.initial(chains)
    x = random_start(energy, chains)
    if not structure.forbids:
        return x
    mender = Mender.of(structure)
    for _ in range(TRIES):
        outside = ~heights(energy, structure, x).isfinite()
        if not bool(outside.any()):
            return x
        again = random_start(energy, chains) if mender is None else mender.mended(x)
        x = {
            name: torch.where(outside.reshape(-1, *[1] * (v.dim() - 1)), again[name], v)
            for name, v in x.items()
        }
    structure.require_finite()
    raise ValueError(
        f"In {TRIES} random starts {int(outside.sum())} of {chains} chains have found no finite "
        f"energy. Give initial={{name: tensor}} with a leading chain dimension, where it is finite."
    )


class Mender(NamedTuple):
    """Leads the states of a random field to where nothing is forbidden.

    Args:
        field: What is forbidden costs a penalty, and all else nothing.
        constraints: Of the field itself.
    """

    field: FieldStructure
    constraints: Constraints

    @classmethod
    def of(cls, structure: Structure) -> "Mender | None":
        """That of a field; None for any other energy."""
        graph = graph_of(structure)
        if graph is None:
            return None
        groups = {
            name: replace(group, table=-PENALTY * group.table.isneginf().to(group.table))
            for name, group in graph.groups.items()
        }
        field = FieldStructure(structure.sites, replace(graph, groups=groups))
        return cls(field, Constraints.of(graph))

    def mended(self, x: Sites) -> Sites:
        """The values after a sweep over the nodes, and one over the blocks that are tied."""
        ((name, value),) = x.items()
        swept = self.field.sweep(name, {name: value})
        labels, graph = swept.to(torch.int64), self.field.graph
        for blocks in self.constraints.sets:
            option = chance.choose(blocks.log_weights(graph, labels).movedim(0, -1))
            labels = blocks.taken(labels, option)
        return {name: labels.to(value.dtype)}


class Starts(NamedTuple):
    """Random values, and which of them have a finite energy.

    Args:
        x: The values (start, *laws, *shape) by site, laws where chains follow several.
        inside: Where p(x) is not 0 (start, *laws).
    """

    x: Sites
    inside: Tensor


@torch.no_grad()
def some_starts(energy: Energy, structure: Structure, count: int) -> Starts:
    """As many random values at least, tried a few times as long as none of them has p(x) > 0."""
    tried = []
    for _ in range(FEW_TRIES):
        x = scattered(energy, structure, count)
        laws = structure.energy({name: value[:1] for name, value in x.items()}).shape
        if laws.numel() > 1:
            x = {
                name: value.reshape(count, *[1] * len(laws), *value.shape[1:]).expand(
                    count, *laws, *value.shape[1:]
                )
                for name, value in x.items()
            }
        inside = structure.energy(x).isfinite().expand(same_batch(x, energy))
        tried.append(Starts(x, inside))
        if sum(int(found.inside.sum()) for found in tried) >= count:
            break
    values = {name: torch.cat([found.x[name] for found in tried]) for name in energy.sites}
    return Starts(values, torch.cat([found.inside for found in tried]))


def scattered(energy: Energy, structure: Structure, count: int) -> Sites:
    """Random values (count, *shape), of a model drawn from itself."""
    starts = structure.starts
    if starts is None:
        return random_start(energy, count)
    rows = [starts.random_values() for _ in range(count)]
    return {name: torch.stack([row[name] for row in rows]) for name in energy.sites}


@torch.no_grad()
def require_finite_start(energy: Energy, structure: Structure, x: Sites) -> None:
    """Refuses a start that is impossible, or of which nothing is known.

    Args:
        energy: The energy.
        structure: What is known of it.
        x: The start (chain, *shape), checked.

    Raises:
        ValueError: If an energy is infinite or NaN.
    """
    found = heights(energy, structure, x)
    if not bool(found.isfinite().all()):
        where = (~found.isfinite()).nonzero()[:, 0].tolist()
        kind = "NaN" if bool(found.isnan().any()) else "infinite"
        raise ValueError(
            f"The energy of the start is {kind} in the chains {where[:10]}; wanted a finite one: "
            f"check the parameters, and start where p(x) is not 0, for example a draw or the mode."
        )


def random_start(energy: Energy, chains: int) -> Sites:
    """Every site at random, scattered over its support.

    Raises:
        ValueError: If the count is not positive, or a site needs a start of its own.
    """
    count = whole(chains)
    if count is None or count < 1:
        raise ValueError(f"chains is {chains!r}; wanted a positive whole number.")
    like = torch.empty((), dtype=energy.dtype, device=energy.device)
    x = {}
    for name, site in energy.sites.items():
        try:
            x[name] = random_values(site, (count,), like)
        except (NotImplementedError, ValueError):
            raise ValueError(
                f"No random start is known for {name!r}, which is {describe(site.support)}; give "
                f"initial={{{name!r}: tensor}} with a leading chain dimension."
            ) from None
    return x


def given_start(energy: Energy, initial: Sites | Tensor) -> Sites:
    """The start that was given, checked.

    Raises:
        ValueError: If it does not have exactly one leading dimension, that of the chains.
    """
    x = energy.accept(initial, preferred=None)
    check_names(x, energy.sites)
    batch = same_batch(x, energy)
    if len(batch) != 1 or batch[0] < 1:
        raise ValueError(
            f"The start has the batch shape {tuple(batch)}; wanted (chains,). "
            f"For a single chain use value[None]."
        )
    return x
