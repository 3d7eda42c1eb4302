r"""What Langevin and Hamiltonian kernels share: the state, and the leapfrog steps.

Hamiltonian dynamics in unconstrained coordinates u with the momentum :math:`L^{-\top} r`:

.. math:: H(u, r) = U(u) + \tfrac{1}{2} \lVert r \rVert^2, \qquad
          \dot u = L r, \quad \dot r = -L^\top \partial U(u)

A Langevin step of size τ is one leapfrog step of length :math:`\sqrt{2 \tau}`, with r as its noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.metropolis import Verdict, choose, metropolis
from pyro_ebm.kernels.settings import Length
from pyro_ebm.sites import Sites

from .coordinates import Coordinates, Slope, require_continuous, require_finite_start, start
from .mass import Mass


class DynamicsState(NamedTuple):
    """The values, the position with energy and gradient there, and the steps made so far."""

    x: Sites
    point: Slope
    steps: int

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.point.energy


class Proposal(NamedTuple):
    """Where a trajectory leads.

    Args:
        point: Its end.
        momentum: The whitened r there (*batch, d).
        log_ratio: H at its begin less H at its end (*batch,).
    """

    point: Slope
    momentum: Tensor
    log_ratio: Tensor


@torch.no_grad()
def init_dynamics(
    energy: Energy, sites: tuple[str, ...] | None, x: Sites, mass: Mass, mover: str
) -> DynamicsState:
    """The state at x, after the checks at the door.

    Raises:
        TypeError, ValueError: If the kernel cannot move these sites from x.
    """
    require_continuous(energy, sites, mover)
    coordinates = Coordinates.of(energy, sites)
    x, position = start(energy, x, coordinates)
    mass.require(position)
    point = coordinates.slope(energy, x, position)
    require_finite_start(point)
    return DynamicsState(x, point, 0)


@torch.no_grad()
def refresh_dynamics(
    energy: Energy, sites: tuple[str, ...] | None, state: DynamicsState, x: Sites
) -> DynamicsState:
    """The state at x, with energy and gradient computed again; the steps are counted on."""
    coordinates = Coordinates.of(energy, sites)
    position = coordinates.moved_from(state.point.position, state.x, x)
    return DynamicsState(x, coordinates.slope(energy, x, position), state.steps)


def draw_momentum(like: Tensor) -> Tensor:
    """The whitened momentum r ~ N(0, I) (*batch, d), new for every trajectory."""
    return torch.randn_like(like)


def leapfrog(
    energy: Energy,
    coordinates: Coordinates,
    state: DynamicsState,
    momentum: Tensor,
    mass: Mass,
    steps: tuple[Length, int],
) -> tuple[Slope, Tensor]:
    """The end of a trajectory, and the momentum there; the one given is overwritten.

    Args:
        energy: The energy.
        coordinates: Those of the sites that move.
        state: Where the trajectory begins.
        momentum: The whitened r (*batch, d).
        mass: The mass matrix.
        steps: The length of a step, and how many.
    """
    length, count = steps
    point = state.point
    position = point.position.clone(memory_format=torch.contiguous_format)
    mass.kick_(momentum, point.gradient, length / 2)
    for number in range(count):
        mass.drift_(position, momentum, length)
        point = coordinates.slope(energy, state.x, position)
        mass.kick_(momentum, point.gradient, length if number < count - 1 else length / 2)
    return point, momentum


def propose(
    energy: Energy,
    coordinates: Coordinates,
    state: DynamicsState,
    mass: Mass,
    steps: tuple[Length, int],
) -> Proposal:
    """The end of a trajectory with a new momentum, and its log ratio for the Metropolis test."""
    momentum = draw_momentum(state.point.position)
    before = kinetic(momentum)
    point, momentum = leapfrog(energy, coordinates, state, momentum, mass, steps)
    log_ratio = state.point.potential - point.potential + before - kinetic(momentum)
    return Proposal(point, momentum, log_ratio)


def settle(
    coordinates: Coordinates, state: DynamicsState, proposal: Proposal
) -> tuple[DynamicsState, Verdict]:
    """The state after the Metropolis test of a proposal."""
    verdict = metropolis(proposal.log_ratio)
    point = choose(verdict.accepted, proposal.point, state.point)
    x = {**state.x, **coordinates.to_sites(point.position)}
    return DynamicsState(x, point, state.steps + 1), verdict


def kinetic(momentum: Tensor) -> Tensor:  # (*batch, d) -> (*batch,)
    """½ |r|²."""
    return torch.linalg.vecdot(momentum, momentum) / 2
