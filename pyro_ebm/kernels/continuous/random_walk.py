"""Metropolis and Hastings: propose, and accept or reject."""

from dataclasses import dataclass

import torch

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.metropolis import choose, metropolis
from pyro_ebm.kernels.settings import Length
from pyro_ebm.kernels.step_size import StepInfo, reported

from .coordinates import moved_sites, require_continuous
from .mass import DIAGONAL_MASS, Mass
from .walk import Walk, WalkState


@dataclass(frozen=True, eq=False)
class RandomWalk(Walk):
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

    def moves(self, energy: Energy) -> tuple[str, ...]:
        return moved_sites(energy, self.sites)

    def require_sites(self, energy: Energy) -> None:
        require_continuous(energy, self.sites, "RandomWalk")

    @torch.no_grad()
    def step(self, energy: Energy, state: WalkState) -> tuple[WalkState, StepInfo]:
        assert self.scale is not None  # checked in `init`
        coordinates, old = self.coordinates(energy), state.point
        noise = torch.randn_like(old.position)
        position = self.mass.drift_(old.position.clone(), noise, self.scale)
        new = coordinates.height(energy, state.x, position)
        verdict = metropolis(old.potential - new.potential)
        point = choose(verdict.accepted, new, old)
        x = {**state.x, **coordinates.to_sites(point.position)}
        rate = verdict.acceptance_rate
        return WalkState(x, point), StepInfo(rate, reported(self.scale, rate))
