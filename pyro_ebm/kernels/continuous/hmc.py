"""Hamiltonian Monte Carlo, all chains at once."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.settings import (
    Length,
    left_out,
    require_broadcast,
    require_positive,
    require_probability,
    require_set,
)
from pyro_ebm.kernels.step_size import least, reported
from pyro_ebm.sites import Sites, is_count

from .coordinates import Coordinates, moved_sites
from .dynamics import DynamicsState, init_dynamics, propose, refresh_dynamics, settle
from .mass import DIAGONAL_MASS, Mass
from .tuning import LONGEST, Mover, Settings

ROUNDING = 1e-6  # of a step: what a whole number of steps may be off by


class HMCInfo(NamedTuple):
    """What the trajectory and the Metropolis test did, (*batch,) each."""

    acceptance_rate: Tensor
    step_size: Tensor
    n_steps: Tensor
    diverging: Tensor


@dataclass(frozen=True, eq=False)
class HMC(Mover[DynamicsState, HMCInfo]):
    r"""Hamiltonian Monte Carlo with trajectories of varied length, the same for all chains.

    The n-th trajectory has the length :math:`T (1 - j h_n)`, in leapfrog steps of length
    :math:`\varepsilon (1 - k h'_n)`, their number rounded up. h and h' are the Halton sequences of
    base 2 and 3: 1/2, 1/4, 3/4, 1/8, … and 1/3, 2/3, 1/9, 4/9, …
    Where there are several ε, all chains make as many steps as the least of them needs.

    Args:
        sites: The sites to move; all continuous ones if left out.
        step_size: ε; one for all chains, or a tensor that broadcasts to them (*batch,).
        trajectory_length: T, of the longest trajectory; in the same unit of time as ε. With
            M⁻¹ the covariance of the law, π/2 leads a normal law to an independent draw.
        jitter: j, by what share of T the lengths vary: not at all with 0, down to a single step
            with 1.
        step_jitter: k, by what share of ε the steps vary: chains that are stuck where ε is too
            long get out with a shorter one.
        mass: M, the mass matrix.
        target_acceptance: The mean acceptance that the warm-up finds ε for; more where chains get
            stuck in narrow places. 0.8 is a little faster on normal laws, and gets stuck in the
            arms of a banana.
        longest: The most steps ε in a trajectory whose length the warm-up finds.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> from pyro_ebm import CallableEnergy, HMC, run
        >>> normal = CallableEnergy(lambda x: (x.square() / 2).sum(-1), 3)
        >>> kernel = HMC(step_size=0.5, trajectory_length=1.5)
        >>> chains = run(kernel, normal, 40, warmup=5, chains=100, seed=0)
        >>> f"{chains.draws['visible'].std():.1f}"
        '1.0'

    References:
        | MCMC using Hamiltonian dynamics (Neal, 2011) https://arxiv.org/abs/1206.1901
        | An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo
        | (Hoffman, Radul & Sountsov, 2021) https://proceedings.mlr.press/v130/hoffman21a.html
    """

    sites: tuple[str, ...] | None = None
    step_size: Length | None = None
    trajectory_length: float | None = None
    jitter: float = 0.6
    step_jitter: float = 0.5
    mass: Mass = DIAGONAL_MASS
    target_acceptance: float = 0.9
    longest: int = LONGEST

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("trajectory_length", self.trajectory_length)
        require_probability("target_acceptance", self.target_acceptance)
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter!r}; wanted a number from 0 to 1.")
        if not is_count(self.longest):
            raise ValueError(f"longest is {self.longest!r}; wanted a positive whole number.")
        if not 0 <= self.step_jitter < 1:
            raise ValueError(
                f"step_jitter is {self.step_jitter!r}; wanted a number from 0 to less than 1."
            )

    def moves(self, energy: Energy) -> tuple[str, ...]:
        return moved_sites(energy, self.sites)

    def init(self, energy: Energy, x: Sites) -> DynamicsState:
        require_set(self)
        state = init_dynamics(energy, self.sites, x, self.mass, "HMC")
        require_broadcast("step_size", self.step_size, state.energy.shape)
        return state

    def refresh(self, energy: Energy, state: DynamicsState, x: Sites) -> DynamicsState:
        return refresh_dynamics(energy, self.sites, state, x)

    @torch.no_grad()
    def step(self, energy: Energy, state: DynamicsState) -> tuple[DynamicsState, HMCInfo]:
        assert self.step_size is not None  # checked in `init`
        assert self.trajectory_length is not None
        coordinates = Coordinates.of(energy, self.sites)
        length = self.trajectory_length * (1 - self.jitter * halton(state.steps, 2))
        step = self.step_size * (1 - self.step_jitter * halton(state.steps, 3))
        count = max(1, math.ceil(length / least(step) - ROUNDING))
        proposal = propose(energy, coordinates, state, self.mass, (step, count))
        after, verdict = settle(coordinates, state, proposal)
        rate = verdict.acceptance_rate
        info = HMCInfo(
            rate,
            reported(step, rate),
            torch.full_like(rate, count, dtype=torch.int32),
            verdict.diverging,
        )
        return after, info

    def unset(self) -> tuple[str, ...]:
        return left_out(step_size=self.step_size, trajectory_length=self.trajectory_length)

    def decided(self, energy: Energy, number: int) -> Self:
        """The same, whose trajectories are all as that of a number."""
        assert self.step_size is not None  # checked in `init`
        assert self.trajectory_length is not None
        return replace(
            self,
            step_size=self.step_size * (1 - self.step_jitter * halton(number, 3)),
            trajectory_length=self.trajectory_length * (1 - self.jitter * halton(number, 2)),
            jitter=0.0,
            step_jitter=0.0,
        )

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

    def single(self, size: Length, mass: Mass) -> Self:
        return replace(
            self,
            step_size=size,
            trajectory_length=least(size),
            jitter=0.0,
            step_jitter=0.0,
            mass=mass,
        )


def halton(number: int, base: int) -> float:
    """The Halton sequence, from number 0 on: of base 2 it is 1/2, 1/4, 3/4, 1/8 and so on."""
    number, value, digit = number + 1, 0.0, 1 / base
    while number:
        value += digit * (number % base)
        number //= base
        digit /= base
    return value
