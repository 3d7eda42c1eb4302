"""Metropolis and Hastings: propose, and accept or reject."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.base import ReversibleKernel
from pyro_ebm.kernels.metropolis import choose, metropolis
from pyro_ebm.kernels.settings import (
    Length,
    left_out,
    require_broadcast,
    require_positive,
    require_probability,
    require_set,
)
from pyro_ebm.kernels.step_size import reported
from pyro_ebm.sites import Sites

from .coordinates import (
    Coordinates,
    Height,
    moved_sites,
    require_continuous,
    require_finite_start,
    start,
)
from .mass import DIAGONAL_MASS, Mass
from .tuning import Mover, Settings


class RandomWalkState(NamedTuple):
    """The values, and the position with the energy there."""

    x: Sites
    point: Height

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.point.energy


class RandomWalkInfo(NamedTuple):
    """What the Metropolis test did, (*batch,) each."""

    acceptance_rate: Tensor
    step_size: Tensor


@dataclass(frozen=True, eq=False)
class RandomWalk(
    Mover[RandomWalkState, RandomWalkInfo], ReversibleKernel[RandomWalkState, RandomWalkInfo]
):
    r"""Metropolis with a normal proposal on the continuous sites, all at once.

    .. math:: u' = u + s L \xi, \quad \xi \sim N(0, I), \quad \Sigma = L L^\top = M^{-1}

    in unconstrained coordinates u, whose volume enters the test.

    Args:
        sites: The sites to move; all continuous ones if left out.
        scale: s, the standard deviation of the proposal where M is the unit matrix.
        mass: M, the inverse of the proposal's covariance but for the factor s².
        target_acceptance: The mean acceptance that the warm-up finds s for; best is 0.44 for one
            coordinate, and 0.234 for many.

    Example:
        >>> from pyro_ebm import CallableEnergy, RandomWalk, run
        >>> wells = CallableEnergy(lambda x: (x**2 - 1) ** 2, ())
        >>> chains = run(RandomWalk(), wells, 50, warmup=50, seed=0)
        >>> RandomWalk().unset(), chains.kernel.unset()  # the warm-up has found its scale
        (('scale',), ())

    References:
        | Equation of state calculations by fast computing machines
        | (Metropolis, Rosenbluth, Rosenbluth, Teller & Teller, 1953)
        | https://doi.org/10.1063/1.1699114
    """

    sites: tuple[str, ...] | None = None
    scale: Length | None = None
    mass: Mass = DIAGONAL_MASS
    target_acceptance: float = 0.3

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)
        require_probability("target_acceptance", self.target_acceptance)

    def moves(self, energy: Energy) -> tuple[str, ...]:
        return moved_sites(energy, self.sites)

    def init(self, energy: Energy, x: Sites) -> RandomWalkState:
        require_set(self)
        require_continuous(energy, self.sites, "RandomWalk")
        coordinates = Coordinates.of(energy, self.sites)
        x, position = start(energy, x, coordinates)
        self.mass.require(position)
        point = coordinates.height(energy, x, position)
        require_finite_start(point)
        require_broadcast("scale", self.scale, point.energy.shape)
        return RandomWalkState(x, point)

    def refresh(self, energy: Energy, state: RandomWalkState, x: Sites) -> RandomWalkState:
        coordinates = Coordinates.of(energy, self.sites)
        position = coordinates.moved_from(state.point.position, state.x, x)
        return RandomWalkState(x, coordinates.height(energy, x, position))

    @torch.no_grad()
    def step(
        self, energy: Energy, state: RandomWalkState
    ) -> tuple[RandomWalkState, RandomWalkInfo]:
        assert self.scale is not None  # checked in `init`
        coordinates, old = Coordinates.of(energy, self.sites), state.point
        noise = torch.randn_like(old.position)
        position = self.mass.drift_(old.position.clone(), noise, self.scale)
        new = coordinates.height(energy, state.x, position)
        verdict = metropolis(old.potential - new.potential)
        point = choose(verdict.accepted, new, old)
        x = {**state.x, **coordinates.to_sites(point.position)}
        rate = verdict.acceptance_rate
        info = RandomWalkInfo(rate, reported(self.scale, rate))
        return RandomWalkState(x, point), info

    def unset(self) -> tuple[str, ...]:
        return left_out(scale=self.scale)

    def reversed(self, energy: Energy) -> Self:
        return self

    @property
    def settings(self) -> Settings:
        return Settings(self.scale, 0.0, self.mass)

    def at(self, settings: Settings) -> Self:
        return replace(self, scale=settings.size, mass=settings.mass)

    def single(self, size: Length, mass: Mass) -> Self:
        return replace(self, scale=size, mass=mass)
