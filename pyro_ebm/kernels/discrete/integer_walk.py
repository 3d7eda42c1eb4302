"""A random walk on integers: counts without a bound, and ranges too wide to try value by value."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.continuous.mass import DIAGONAL_MASS, Mass
from pyro_ebm.kernels.continuous.walk import Walk, WalkState
from pyro_ebm.kernels.metropolis import choose, metropolis, require_known
from pyro_ebm.kernels.settings import (
    Length,
    require_known_sites,
    require_names,
    require_once,
)
from pyro_ebm.kernels.start import where
from pyro_ebm.kernels.step_size import StepInfo, reported
from pyro_ebm.sites import Sites, describe, is_integer


@dataclass(frozen=True, eq=False)
class IntegerWalk(Walk):
    r"""Metropolis with a normal step, rounded at random, on integer sites.

    .. math:: n' = n + \lfloor s L \xi + \upsilon \rfloor, \quad \xi \sim N(0, I), \quad
        \upsilon \sim U(0, 1)^d

    A step and its opposite are as likely, so that n' is accepted with the probability
    :math:`\min\{1, e^{E(n) - E(n')}\}`; outside of the sites' supports it is rejected. A unit whose
    spread is far below 1 still moves, by ±1, as often as its share of the step says.

    Args:
        sites: The integer sites to move, all units at once; if left out, all of the energy's.
        scale: s; found in the warm-up if None. As for `RandomWalk`.
        mass: The shape of the step: :math:`L L^\top` is the inverse mass, found in the warm-up
            where it is not given.
        target_acceptance: The acceptance rate that the warm-up aims at.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro_ebm import DistributionEnergy, IntegerWalk, run
        >>> counts = DistributionEnergy(dist.Poisson(torch.tensor(4.0)))
        >>> chains = run(IntegerWalk(scale=3.0), counts, 50, warmup=20, chains=200, seed=0)
        >>> f"{chains.draws['visible'].double().mean():.1f}"
        '4.0'

    References:
        | Equation of state calculations by fast computing machines
        | (Metropolis, Rosenbluth, Rosenbluth, Teller & Teller, 1953)
        | https://doi.org/10.1063/1.1699114
    """

    sites: tuple[str, ...] | None = None
    scale: Length | None = None
    mass: Mass = DIAGONAL_MASS
    target_acceptance: float = 0.35

    def moves(self, energy: Energy) -> tuple[str, ...]:
        return integer_sites(energy) if self.sites is None else self.sites

    def require_sites(self, energy: Energy) -> None:
        require_integers(energy, self.sites)

    @torch.no_grad()
    def step(self, energy: Energy, state: WalkState) -> tuple[WalkState, StepInfo]:
        assert self.scale is not None  # checked in `init`
        coordinates, old = self.coordinates(energy), state.point
        position = old.position + displacement(self.mass, self.scale, old.position)
        inside = is_inside(energy, coordinates.to_sites(position), old.energy.shape)
        # An energy need not be defined outside of the supports.
        position = where(inside, position, old.position)
        new = coordinates.height(energy, state.x, position)
        require_known(new.energy)
        log_ratio = (old.energy - new.energy).masked_fill(~inside, -torch.inf)
        verdict = metropolis(log_ratio)
        point = choose(verdict.accepted, new, old)
        x = {**state.x, **coordinates.to_sites(point.position)}
        rate = verdict.acceptance_rate
        return WalkState(x, point), StepInfo(rate, reported(self.scale, rate))


def displacement(mass: Mass, scale: Length, like: Tensor) -> Tensor:  # (*batch, d)
    """Whole numbers to go, as likely as their opposites."""
    step = mass.drift_(torch.zeros_like(like), torch.randn_like(like), scale)
    return chance.rounded(step)


def is_inside(energy: Energy, x: Sites, batch: torch.Size) -> Tensor:  # (*batch,)
    """Whether all values of some sites are in their supports."""
    inside = torch.ones(batch, dtype=torch.bool, device=energy.device)
    for name, value in x.items():
        inside &= energy.sites[name].support.check(value).reshape(*batch, -1).all(-1)
    return inside


def integer_sites(energy: Energy) -> tuple[str, ...]:
    """The integer sites of an energy."""
    return tuple(name for name, site in energy.sites.items() if is_integer(site.support))


def require_integers(energy: Energy, sites: Sequence[str] | None) -> None:
    """The door of a kernel that moves integers.

    Raises:
        ValueError: If the sites are no tuple of names, or one of them is unknown, comes twice, or
            is of another kind, or there is none.
    """
    require_names(sites, "count")
    names = integer_sites(energy) if sites is None else tuple(sites)
    require_known_sites(energy.sites, names, "IntegerWalk")
    require_once(names)
    for name in names:
        if not is_integer(energy.sites[name].support):
            raise ValueError(
                f"IntegerWalk moves integers, but {name!r} is "
                f"{describe(energy.sites[name].support)}. Leave it out of sites, and move it with "
                f"another kernel in a Cycle."
            )
    if not names:
        raise ValueError(
            f"IntegerWalk moves integers, but the energy has only {list(energy.sites)}, which are "
            f"none. choose_kernel(energy) names a kernel that moves them."
        )
