"""Hamiltonian Monte Carlo, all chains at once."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites

from .coordinates import Coordinates
from .dynamics import DynamicsState, init_dynamics, propose, refresh_dynamics, settle
from .mass import DIAGONAL_MASS, Mass
from .settings import Length, require_positive, require_probability, require_set
from .tuning import LONGEST, Mover, Settings, least, reported

ROUNDING = 1e-6  # of a step: what a whole number of steps may be off by


class HMCInfo(NamedTuple):
    """What the trajectory and the Metropolis test did, (*batch,) each."""

    acceptance_rate: Tensor
    step_size: Tensor
    n_steps: Tensor
    diverging: Tensor


@dataclass(frozen=True, eq=False)
class HMC(Mover):
    r"""Hamiltonian Monte Carlo with trajectories of varied length, the same for all chains.

    The n-th trajectory has the length :math:`T (1 - j + j h_n)`, where h is the Halton sequence
    1/2, 1/4, 3/4, 1/8, …, in leapfrog steps of length ε, rounded up. All make as many steps; where
    there are several ε, as many as the least of them needs.

    Args:
        sites: The sites to move; all continuous ones if left out.
        step_size: ε; one for all chains, or a tensor that broadcasts to them (*batch,).
        trajectory_length: T, of the longest trajectory; in the same unit of time as ε. With
            M⁻¹ the covariance of the law, π/2 leads a normal law to an independent draw.
        jitter: j, by what share of T the lengths vary: 0 never, 1 down to a single step.
        mass: M, the mass matrix.
        target_acceptance: The mean acceptance that the warm-up finds ε for; more where chains get
            stuck in narrow places.
        longest: The most leapfrog steps of a trajectory whose length the warm-up finds.

    Raises:
        ValueError: If a setting is out of its range.

    References:
        | MCMC using Hamiltonian dynamics (Neal, 2011) https://arxiv.org/abs/1206.1901
        | An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo
        | (Hoffman, Radul & Sountsov, 2021) https://proceedings.mlr.press/v130/hoffman21a.html
    """

    sites: tuple[str, ...] | None = None
    step_size: Length | None = None
    trajectory_length: float | None = None
    jitter: float = 1.0
    mass: Mass = DIAGONAL_MASS
    target_acceptance: float = 0.8
    longest: int = LONGEST

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("trajectory_length", self.trajectory_length)
        require_probability("target_acceptance", self.target_acceptance)
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter!r}; wanted a number from 0 to 1.")
        if not isinstance(self.longest, int) or self.longest < 1:
            raise ValueError(f"longest is {self.longest!r}; wanted a positive whole number.")

    def init(self, energy: Energy, x: Sites) -> DynamicsState:
        require_set(self, "step_size", "trajectory_length")
        return init_dynamics(energy, self.sites, x, self.mass, "HMC")

    def refresh(self, energy: Energy, state: DynamicsState, x: Sites) -> DynamicsState:
        return refresh_dynamics(energy, self.sites, state, x)

    @torch.no_grad()
    def step(self, energy: Energy, state: DynamicsState) -> tuple[DynamicsState, HMCInfo]:
        assert self.step_size is not None  # checked in `init`
        assert self.trajectory_length is not None
        coordinates = Coordinates.of(energy, self.sites)
        share = 1 - self.jitter * halton(state.steps)
        steps = self.trajectory_length * share / least(self.step_size)
        count = max(1, math.ceil(steps - ROUNDING))
        proposal = propose(energy, coordinates, state, self.mass, (self.step_size, count))
        after, verdict = settle(coordinates, state, proposal)
        rate = verdict.acceptance_rate
        info = HMCInfo(
            rate,
            reported(self.step_size, rate),
            torch.full_like(rate, count, dtype=torch.int32),
            verdict.diverging,
        )
        return after, info

    @property
    def settings(self) -> Settings:
        return Settings(self.step_size, self.trajectory_length, self.mass, self.longest)

    def at(self, settings: Settings) -> Self:
        return replace(
            self,
            step_size=settings.size,
            trajectory_length=settings.length,
            mass=settings.mass,
        )


def halton(number: int) -> float:
    """The Halton sequence of base 2, from number 0 on: 1/2, 1/4, 3/4, 1/8 and so on."""
    number, value, digit = number + 1, 0.0, 0.5
    while number:
        value += digit * (number & 1)
        number >>= 1
        digit /= 2
    return value
