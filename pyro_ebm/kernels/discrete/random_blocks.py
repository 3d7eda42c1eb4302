"""Exact joint draws of a few units, for any energy of discrete sites: no gradient, no structure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.base import ReversibleKernel
from pyro_ebm.kernels.metropolis import NoInfo, require_known
from pyro_ebm.kernels.settings import require_known_sites, require_names
from pyro_ebm.kernels.start import accept_all, read_structure, where
from pyro_ebm.sites import Levels, Sites, describe, is_count, levels_of

MOST_OPTIONS = 4096  # joint values of a block, each of which costs an energy
SIZE = 3  # units in a block

NumberedUnit = tuple[str, int]  # a site, and the number of one of its units
Groups = tuple[tuple[NumberedUnit, ...], ...]


class RandomBlocksState(NamedTuple):
    """The position, with the energy there.

    Args:
        x: The values.
        energy: E(x) (*batch,).
        levels: The values of each unit of the sites that are moved.
    """

    x: Sites
    energy: Tensor
    levels: dict[str, Levels]


@dataclass(frozen=True, eq=False)
class RandomBlocks(ReversibleKernel[RandomBlocksState, NoInfo]):
    r"""A few units drawn at random, then drawn anew from their joint law given all the others.

    .. math:: p(x_B \mid x_{-B}) = e^{-E(x_B, x_{-B})} / \sum_{x'_B} e^{-E(x'_B, x_{-B})}

    The energies of all joint values of the block are evaluated: 2^size of them for bits and spins.
    All chains have the same block. Those that follow the law stay independent, since any block
    leaves it unchanged.

    It is random-scan block Gibbs, and asks nothing of the energy but its values; `Gibbs` goes by
    blocks whose conditional laws are known.

    Args:
        sites: The sites of bits, spins, labels and one-hot units to move; all discrete ones if left
            out.
        size: The number of units in a block.
        groups: Units, by site and number, of which a block is drawn: from one of the groups, each
            as likely. All of the sites' units are one group if none is given.

    Raises:
        ValueError: If the size is not positive.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, RandomBlocks, Site, run
        >>> bits = Site(torch.distributions.constraints.boolean, torch.Size([4]))
        >>> even = CallableEnergy(lambda x: 20 * (x.sum(-1) % 2), {"x": bits})
        >>> x = run(RandomBlocks(size=2), even, 100, warmup=10, seed=0).draws["x"]
        >>> x.sum(-1).unique()  # by 2 at a time
        tensor([0, 2, 4])

    References:
        | The Hamming ball sampler (Titsias & Yau, 2017)
        | https://doi.org/10.1080/01621459.2016.1222288
    """

    sites: tuple[str, ...] | None = None
    size: int = SIZE
    groups: Groups = ()

    def __post_init__(self) -> None:
        if not is_count(self.size):
            raise ValueError(f"size is {self.size!r}; wanted a positive whole number of units.")

    def moved(self, energy: Energy) -> dict[str, Levels]:
        """The sites that it moves, with the values of each unit."""
        require_names(self.sites, "visible")
        discrete = [name for name, site in energy.sites.items() if site.support.is_discrete]
        names = self.sites or tuple(discrete)
        require_known_sites(energy.sites, names, "RandomBlocks")
        if not names:
            raise ValueError("RandomBlocks moves discrete sites, but the energy has none.")
        like = torch.empty((), dtype=energy.dtype, device=energy.device)
        structure = read_structure(energy)
        return {name: [v.to(like) for v in require_levels(structure, name)] for name in names}

    def reversed(self, energy: Energy) -> Self:
        return self

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return tuple(self.moved(energy))

    def init(self, energy: Energy, x: Sites) -> RandomBlocksState:
        levels = self.moved(energy)
        largest = most_values(levels)
        if largest**self.size > MOST_OPTIONS:
            fitting = next((k for k in range(self.size, 0, -1) if largest**k <= MOST_OPTIONS), 0)
            cure = (
                f"a size of {fitting} or less"
                if fitting
                else "a MetropolisHastings(site, proposal) in a Cycle moves one of more"
            )
            raise ValueError(
                f"A block of {self.size} units with {largest} values each has up to "
                f"{largest**self.size} joint values; wanted at most {MOST_OPTIONS}: {cure}."
            )
        known = {(s, k) for s, values in levels.items() for k in range(len(values))}
        if wrong := [group for group in self.groups if not group or not set(group) <= known]:
            raise ValueError(
                f"The group {wrong[0]!r} has no units, or others than those of {list(levels)}; "
                f"wanted pairs of a site and the number of a unit, for example "
                f"(({next(iter(levels))!r}, 0), ({next(iter(levels))!r}, 1))."
            )
        x = accept_all(energy, x)
        return self.refresh(energy, RandomBlocksState(x, torch.empty(0), levels), x)

    def refresh(self, energy: Energy, state: RandomBlocksState, x: Sites) -> RandomBlocksState:
        with torch.no_grad():
            return state._replace(x=x, energy=energy.evaluate(x))

    @torch.no_grad()
    def step(self, energy: Energy, state: RandomBlocksState) -> tuple[RandomBlocksState, NoInfo]:
        return self.block_of(state.levels).step(energy, state)

    def decided(self, energy: Energy, number: int) -> "OneBlock":
        """The same with a block drawn at random."""
        return self.block_of(self.moved(energy))

    def block_of(self, levels: Mapping[str, Levels]) -> "OneBlock":
        """A block drawn at random of units with these values."""
        every = [(s, k) for s, values in levels.items() for k in range(len(values))]
        group = int(torch.randint(len(self.groups), ())) if self.groups else 0
        units: Sequence[NumberedUnit] = self.groups[group] if self.groups else every
        block = tuple(units[k] for k in drawn_block(len(units), self.size))
        return OneBlock(self, block, joint_values([levels[s][k] for s, k in block]))


@dataclass(frozen=True, eq=False)
class OneBlock(ReversibleKernel[RandomBlocksState, NoInfo]):
    """What random blocks have drawn: units that are drawn anew at every step.

    Args:
        blocks: The kernel that drew them.
        units: Their sites and numbers.
        options: Of each, its values in all their joint ones (options, *event).
    """

    blocks: RandomBlocks
    units: tuple[tuple[str, int], ...]
    options: tuple[Tensor, ...]

    def reversed(self, energy: Energy) -> Self:
        return self

    def init(self, energy: Energy, x: Sites) -> RandomBlocksState:
        return self.blocks.init(energy, x)

    def refresh(self, energy: Energy, state: RandomBlocksState, x: Sites) -> RandomBlocksState:
        return self.blocks.refresh(energy, state, x)

    @torch.no_grad()
    def step(self, energy: Energy, state: RandomBlocksState) -> tuple[RandomBlocksState, NoInfo]:
        count, batch = len(self.options[0]), state.energy.shape
        every = {name: value.expand(count, *value.shape).clone() for name, value in state.x.items()}
        for (site, unit), values in zip(self.units, self.options, strict=True):
            units = every[site].view(count, *batch, -1, *values.shape[1:])
            place = units.select(1 + len(batch), unit)
            place[...] = values.reshape(count, *[1] * len(batch), *values.shape[1:])
        energies = energy.evaluate(every).expand(count, *batch)
        require_known(energies, 1)
        chosen = chance.choose(-energies.movedim(0, -1))
        return taken(energy, state, every, energies, chosen), NoInfo()


def taken(
    energy: Energy, state: RandomBlocksState, every: Sites, energies: Tensor, chosen: Tensor
) -> RandomBlocksState:
    """The state with the chosen option (*batch,) of each chain; −1 is none, where it stays."""
    x, option = {}, chosen.clamp(min=0)
    for name, value in every.items():
        index = option.reshape(1, *chosen.shape, *[1] * len(energy.sites[name].shape))
        x[name] = value.gather(0, index.expand(1, *state.x[name].shape)).squeeze(0)
    height = energies.gather(0, option.unsqueeze(0)).squeeze(0)
    if bool((chosen < 0).any()):
        stays = chosen < 0
        x = {name: where(stays, state.x[name], value) for name, value in x.items()}
        height = torch.where(stays, state.energy, height)
    return state._replace(x=x, energy=height)


def levels_at(structure: Structure, name: str) -> Levels | None:
    """The values of each unit of a site; None where they are not finitely many."""
    site = structure.sites[name]
    found = levels_of(site)
    if found is not None:
        return found
    levels = structure.levels(name)
    return None if levels is None else [levels.values] * site.shape.numel()


def require_levels(structure: Structure, name: str) -> Levels:
    """The values of each unit of a site.

    Raises:
        ValueError: If they are not finitely many.
    """
    found = levels_at(structure, name)
    if found is None:
        raise ValueError(
            f"RandomBlocks moves bits, spins, labels of a few values and one-hot units, but "
            f"{name!r} is {describe(structure.sites[name].support)}. Leave it out of sites, and "
            f"move it with another kernel in a Cycle: integers with IntegerWalk."
        )
    return found


def most_values(levels: Mapping[str, Levels]) -> int:
    """The largest number of values of a unit."""
    return max(len(values) for units in levels.values() for values in units)


def can_move(structure: Structure, name: str) -> bool:
    """Whether the units of a site have few enough values for a block of one."""
    found = levels_at(structure, name)
    return found is not None and most_values({name: found}) <= MOST_OPTIONS


def can_share(structure: Structure, name: str) -> bool:
    """Whether the units of a site have so few values that two can be drawn at once."""
    found = levels_at(structure, name)
    return found is not None and largest_block(most_values({name: found})) > 1


def largest_block(values: int) -> int:
    """The most units with so many values each that can be drawn at once; `SIZE` of one value."""
    size = 1
    while size < SIZE and values ** (size + 1) <= MOST_OPTIONS:
        size += 1
    return size


def blocks_of(structure: Structure, sites: tuple[str, ...], groups: Groups = ()) -> RandomBlocks:
    """Blocks of units of sites that `can_move`: of three, or of as many as there may be."""
    largest = most_values({name: require_levels(structure, name) for name in sites})
    return RandomBlocks(sites, largest_block(largest), groups)


def drawn_block(units: int, size: int) -> list[int]:
    """Which units are drawn anew: as many different ones."""
    return torch.randperm(units)[:size].tolist()


def joint_values(levels: Levels) -> tuple[Tensor, ...]:  # (options, *event) each
    """The values of each unit in all joint values of some."""
    sizes, found = [len(values) for values in levels], []
    for k, values in enumerate(levels):
        own = values.reshape(-1, *[1] * (len(sizes) - 1 - k), *values.shape[1:])
        found.append(own.expand(*sizes, *values.shape[1:]).flatten(0, len(sizes) - 1))
    return tuple(found)
