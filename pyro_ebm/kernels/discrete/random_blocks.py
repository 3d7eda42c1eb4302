"""Exact joint draws of a few units, for any energy of discrete sites: no gradient, no structure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import Energy
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.base import Kernel, same_batch
from pyro_ebm.sites import Site, Sites, boolean, check_names, describe, spin

MOST_OPTIONS = 4096  # joint values of a block, each of which costs an energy


class RandomBlocksState(NamedTuple):
    """The position, with the energy there."""

    x: Sites
    energy: Tensor  # (*batch,)


class RandomBlocksInfo(NamedTuple):
    """Nothing to tell: every draw is accepted, and `run` counts the flips."""


@dataclass(frozen=True, eq=False)
class RandomBlocks(Kernel):
    r"""A few units drawn at random, then drawn anew from their joint law given all the others.

    .. math:: p(x_B \mid x_{-B}) = e^{-E(x_B, x_{-B})} / \sum_{x'_B} e^{-E(x'_B, x_{-B})}

    The energies of all joint values of the block are evaluated: 2^size of them for bits and spins.
    All chains have the same block. Those that follow the law stay independent, since any block
    leaves it unchanged.

    Args:
        sites: The sites of bits, spins and labels to move; all discrete ones if left out.
        size: The number of units in a block.
        groups: Units, by site and number, of which a block is drawn: from one of the groups, each
            as likely. All of the sites' units are one group if none is given.

    Raises:
        ValueError: If the size is not positive.

    References:
        | The Hamming ball sampler (Titsias & Yau, 2017)
        | https://doi.org/10.1080/01621459.2016.1222288
    """

    sites: tuple[str, ...] | None = None
    size: int = 3
    groups: tuple[tuple[tuple[str, int], ...], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size is {self.size!r}; wanted a positive whole number of units.")

    def moved(self, energy: Energy) -> dict[str, Tensor]:
        """The sites that it moves, with the values of one unit of each."""
        if isinstance(self.sites, str) or (self.sites is not None and not self.sites):
            raise ValueError(
                f"sites is {self.sites!r}; wanted a tuple of names, for example ('visible',)."
            )
        discrete = [name for name, site in energy.sites.items() if site.support.is_discrete]
        names = self.sites or tuple(discrete)
        if unknown := [name for name in names if name not in energy.sites]:
            raise ValueError(
                f"RandomBlocks is to move {unknown}, but the energy has {list(energy.sites)}."
            )
        if not names:
            raise ValueError("RandomBlocks moves discrete sites, but the energy has none.")
        like = torch.empty((), dtype=energy.dtype, device=energy.device)
        return {name: values_of(energy.sites[name], name, like) for name in names}

    def init(self, energy: Energy, x: Sites) -> RandomBlocksState:
        levels = self.moved(energy)
        largest = max(len(values) for values in levels.values())
        if largest**self.size > MOST_OPTIONS:
            raise ValueError(
                f"A block of {self.size} units with {largest} values each has up to "
                f"{largest**self.size} joint values; wanted at most {MOST_OPTIONS}: a size of "
                f"{int(math.log(MOST_OPTIONS) / math.log(largest))} or less."
            )
        known = {(s, k) for s in levels for k in range(energy.sites[s].shape.numel())}
        if wrong := [group for group in self.groups if not group or not set(group) <= known]:
            raise ValueError(
                f"The group {wrong[0]!r} has no units, or others than those of {list(levels)}; "
                f"wanted pairs of a site and the number of a unit, for example "
                f"(({next(iter(levels))!r}, 0), ({next(iter(levels))!r}, 1))."
            )
        x = energy.accept(x)
        check_names(x, energy.sites)
        same_batch(x, energy)
        return self.refresh(energy, RandomBlocksState(x, torch.empty(0)), x)

    def refresh(self, energy: Energy, state: RandomBlocksState, x: Sites) -> RandomBlocksState:
        with torch.no_grad():
            return RandomBlocksState(x, energy.evaluate(x))

    @torch.no_grad()
    def step(
        self, energy: Energy, state: RandomBlocksState
    ) -> tuple[RandomBlocksState, RandomBlocksInfo]:
        return self.drawn(energy).step(energy, state)

    def drawn(self, energy: Energy) -> "OneBlock":
        """The same with a block drawn at random."""
        levels = self.moved(energy)
        units: Sequence[tuple[str, int]]
        if self.groups:
            units = self.groups[int(torch.randint(len(self.groups), ()))]
        else:
            units = [(s, k) for s in levels for k in range(energy.sites[s].shape.numel())]
        block = tuple(units[k] for k in drawn_block(len(units), self.size))
        return OneBlock(self, block, joint_values([levels[site] for site, _ in block]))


@dataclass(frozen=True, eq=False)
class OneBlock(Kernel):
    """What random blocks have drawn: units that are drawn anew at every step.

    Args:
        blocks: The kernel that drew them.
        units: Their sites and numbers.
        options: Their joint values (options, units).
    """

    blocks: RandomBlocks
    units: tuple[tuple[str, int], ...]
    options: Tensor

    def init(self, energy: Energy, x: Sites) -> RandomBlocksState:
        return self.blocks.init(energy, x)

    def refresh(self, energy: Energy, state: RandomBlocksState, x: Sites) -> RandomBlocksState:
        return self.blocks.refresh(energy, state, x)

    @torch.no_grad()
    def step(
        self, energy: Energy, state: RandomBlocksState
    ) -> tuple[RandomBlocksState, RandomBlocksInfo]:
        options = self.options
        every = {
            name: value.expand(len(options), *value.shape).clone()
            for name, value in state.x.items()
        }
        batch = state.energy.shape
        for number, (site, unit) in enumerate(self.units):
            flat = every[site].view(len(options), *batch, -1)
            flat[..., unit] = options[:, number].reshape(-1, *[1] * len(batch))
        energies = energy.evaluate(every).expand(len(options), *batch)
        chosen = chance.choose(-energies.movedim(0, -1))
        return taken(energy, state, every, energies, chosen), RandomBlocksInfo()


def taken(
    energy: Energy, state: RandomBlocksState, every: Sites, energies: Tensor, chosen: Tensor
) -> RandomBlocksState:
    """The state with the chosen option (*batch,) of each chain."""
    x = {}
    for name, value in every.items():
        index = chosen.reshape(1, *chosen.shape, *[1] * len(energy.sites[name].shape))
        x[name] = value.gather(0, index.expand(1, *state.x[name].shape)).squeeze(0)
    return RandomBlocksState(x, energies.gather(0, chosen.unsqueeze(0)).squeeze(0))


def values_of(site: Site, name: str, like: Tensor) -> Tensor:  # (values,)
    """The values of one unit.

    Raises:
        ValueError: If they are not finitely many, each unit for itself.
    """
    support = site.support
    if support is boolean:
        return like.new_tensor([0.0, 1.0])
    if support is spin:
        return like.new_tensor([-1.0, 1.0])
    if not can_move(site):
        raise ValueError(
            f"RandomBlocks moves bits, spins and labels, but {name!r} is {describe(support)}. "
            f"Leave it out of sites, and move it with another kernel in a Cycle."
        )
    low, high = support.lower_bound, support.upper_bound  # type: ignore[attr-defined]
    return torch.arange(int(low), int(high) + 1).to(like)


def can_move(site: Site) -> bool:
    """Whether a unit of a site has finitely many values, the same as the others have."""
    support = site.support
    if support in (boolean, spin):
        return True
    if not isinstance(support, constraints.integer_interval):
        return False
    return not any(torch.as_tensor(b).dim() for b in (support.lower_bound, support.upper_bound))


def drawn_block(units: int, size: int) -> list[int]:
    """Which units are drawn anew: as many different ones."""
    return torch.randperm(units)[:size].tolist()


def joint_values(levels: list[Tensor]) -> Tensor:  # (options, units)
    """All joint values of some units."""
    return torch.cartesian_prod(*levels).reshape(-1, len(levels))
