"""What random walks share: a position, the energy there, and a step whose size can be found."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.settings import Length, require_broadcast, require_set
from pyro_ebm.sites import Sites

from .coordinates import Coordinates, Height, require_finite_start, start
from .tuning import SingleStepMover


class WalkState(NamedTuple):
    """The values, and the position with the energy there."""

    x: Sites
    point: Height

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.point.energy


class Walk(SingleStepMover[WalkState]):
    """A random walk: every concrete one is a dataclass with its settings."""

    scale: Length | None
    size_name = "scale"

    @abstractmethod
    def require_sites(self, energy: Energy) -> None:
        """Refuses sites that it cannot move.

        Raises:
            ValueError: If there are such sites, or none at all.
        """

    def coordinates(self, energy: Energy) -> Coordinates:
        """Those of the sites that it moves."""
        return Coordinates.of(energy, self.moves(energy))

    def init(self, energy: Energy, x: Sites) -> WalkState:
        require_set(self)
        self.require_sites(energy)
        coordinates = self.coordinates(energy)
        x, position = start(energy, x, coordinates)
        self.mass.require(position)
        point = coordinates.height(energy, x, position)
        require_finite_start(point)
        require_broadcast("scale", self.scale, point.energy.shape)
        return WalkState(x, point)

    def refresh(self, energy: Energy, state: WalkState, x: Sites) -> WalkState:
        coordinates = self.coordinates(energy)
        position = coordinates.moved_from(state.point.position, state.x, x)
        return WalkState(x, coordinates.height(energy, x, position))
