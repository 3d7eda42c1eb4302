"""The warm-up of kernels that move a vector: step size, mass and length of trajectories.

The first batch dimension is that of chains, which follow one law and have one step size. Further
ones are of laws that may differ, as those of the levels of a ladder: each has a step size.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor
from typing_extensions import TypeVar

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.base import (
    Findings,
    Info,
    Kernel,
    KernelState,
    ReversibleKernel,
    TunableKernel,
    Tuning,
)
from pyro_ebm.kernels.settings import Length, left_out, require_positive, require_probability
from pyro_ebm.kernels.step_size import StepInfo, StepSize, as_length, least, of_sizes
from pyro_ebm.sites import Sites

from .adaptation import Reach, Spread
from .mass import Mass

# The shares of the warm-up after which there is a new mass. Up to the second, chains may still be
# far from where they belong, and up to the third what lies between them may be due to that.
WINDOWS = (0.05, 0.1, 0.16, 0.25, 0.4, 0.8)
EARLY, SCATTERED = WINDOWS[1:3]
PATIENCE = 300.0  # steps that chains of one law may wander before they forget where they were
QUARTER = math.pi / 2  # of the period of a normal law: the time to an independent draw
LONGEST, SHORT = 1000, 10  # leapfrog steps at most, and early on; twice as many a window later


class Settings(NamedTuple):
    """What can be found for a mover.

    Args:
        size: The length of a step, or one for each law; None if it is to be found.
        length: The length of trajectories, as a time; None if it is to be found, 0 if there are
            none.
        mass: The mass matrix.
        most: The leapfrog steps of a trajectory at most.
    """

    size: Length | None
    length: float | None
    mass: Mass
    most: int = LONGEST


class Point(Protocol):
    """Where a vector is."""

    @property
    def position(self) -> Tensor:
        """The vector (*batch, d)."""

    @property
    def potential(self) -> Tensor:
        """What the Metropolis test compares (*batch,)."""


class MoverState(KernelState, Protocol):
    """What the state of every mover has."""

    @property
    def point(self) -> Point:
        """Where the vector is."""

    @property
    def energy(self) -> Tensor:
        """E(x) (*batch,)."""


Moved = TypeVar("Moved", bound=MoverState, default=Any)


class Mover(TunableKernel[Moved, Info], ReversibleKernel[Moved, Info]):
    """A kernel that moves sites as one vector, by a step size and a mass, with one test a step."""

    target_acceptance: float

    @abstractmethod
    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """Its settings as they are given."""

    @abstractmethod
    def at(self, settings: Settings) -> Self:
        """The kernel with these settings."""

    @abstractmethod
    def single(self, size: Length, mass: Mass) -> Self:
        """The kernel that makes one step of just this size."""

    def tuning(self, steps: int) -> Kernel:
        size, length, mass, _ = self.settings
        wanted = size is None or length is None or mass.is_wanted
        return MoverTuning(self, steps) if wanted else self

    def reversed(self, energy: Energy) -> Self:
        return self

    @property
    def findings(self) -> Findings:
        # Every concrete mover is a dataclass.
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        numbers: Findings = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                numbers[name] = ", ".join(f"{size:.4g}" for size in value.flatten().tolist())
            elif isinstance(value, int | float):
                numbers[name] = value
        return {**numbers, "mass": repr(self.settings.mass)}


class SingleStepMover(Mover[Moved, StepInfo], ABC):
    """A mover without trajectories: its settings are the size of a step, and the mass.

    Every concrete one is a dataclass, of which `size_name` names the field with the size.
    """

    size_name: ClassVar[str]
    mass: Mass

    def __post_init__(self) -> None:
        require_positive(self.size_name, self.size)
        require_probability("target_acceptance", self.target_acceptance)

    @property
    def size(self) -> Length | None:
        """The size of a step."""
        size: Length | None = getattr(self, self.size_name)
        return size

    def unset(self) -> tuple[str, ...]:
        return left_out(**{self.size_name: self.size})

    @property
    def settings(self) -> Settings:
        return Settings(self.size, 0.0, self.mass)

    def at(self, settings: Settings) -> Self:
        changes = {self.size_name: settings.size, "mass": settings.mass}
        return replace(cast(Any, self), **changes)

    def single(self, size: Length, mass: Mass) -> Self:
        return self.at(Settings(size, 0.0, mass))


class MoverTuningState(NamedTuple):
    """The kernel's state, and what has been learned so far.

    Args:
        inner: The kernel's state.
        mass: The mass of the next step.
        size: The step size, and its acceptance; early on of each chain.
        spread: The draws of the window.
        reach: How far these reach.
        done: The steps so far.
    """

    inner: MoverState
    mass: Mass
    size: StepSize
    spread: Spread
    reach: Reach
    done: int

    @property
    def x(self) -> Sites:
        """The values."""
        return self.inner.x

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.inner.energy


@dataclass(frozen=True, eq=False)
class MoverTuning(Tuning[MoverTuningState]):
    r"""A mover in its warm-up.

    At first chains may be far from where they belong, where the law is steep or flat: each has a
    step size of its own, the largest that it can use, and trajectories are short. Then one step
    size follows the acceptance of all chains. The mass is renewed at the end of windows that grow,
    from the spread of the chains in the window, and the step size is sought again. Trajectories
    become a quarter of the period of the widest direction, :math:`\frac{\pi}{2} \sigma_{\max}` in
    the metric of the mass.

    Args:
        kernel: The mover, with what was given.
        steps: The steps of the warm-up.
    """

    kernel: Mover
    steps: int

    def init(self, energy: Energy, x: Sites) -> MoverTuningState:
        size, length, mass, _ = self.kernel.settings
        size_now = 1.0 if size is None else size
        trial = self.kernel.at(Settings(size_now, 1.0 if length is None else length, mass))
        inner = trial.init(energy, x)
        position = rows(inner)
        one = torch.ones_like(inner.point.potential, dtype=torch.float64)
        found = StepSize.at(self.sought_size(energy, inner, mass, one) if size is None else size)
        reach = Reach(torch.randn_like(position[0]))
        centre = position.mean(0).expand_as(position)
        return MoverTuningState(inner, mass, found, Spread.around(centre, mass), reach, 0)

    def refresh(self, energy: Energy, state: MoverTuningState, x: Sites) -> MoverTuningState:
        return state._replace(inner=self.kernel.refresh(energy, state.inner, x))

    def sought_size(self, energy: Energy, inner: MoverState, mass: Mass, size: Tensor) -> Tensor:
        """The largest step sizes that may have the wanted acceptance, by doubling or halving.

        Single steps are tried. At the acceptance δ of trajectories theirs is above δ⁴, and below it
        with steps twice as long; it is δ where there are none but single steps. The size to begin
        with is therefore kept where it is right, as dual averaging needs long to come from another.

        Args:
            energy: The energy.
            inner: The mover's state.
            mass: The mass.
            size: Where to begin: sizes of laws (*laws,), or of chains (*batch,).
        """
        like, wanted = inner.point.position, self.kernel.target_acceptance
        least_rate = max(wanted**4, wanted / 2)
        up = torch.zeros_like(size, dtype=torch.bool)
        down, left = up.clone(), ~up
        while bool(left.any()):
            _, info = self.kernel.single(as_length(size, like), mass).step(energy, inner)
            many = of_sizes(report(info)["acceptance_rate"], size) > least_rate
            found = torch.where(many, down, up)
            # What failed going up is left for the size before, what succeeds going down is kept.
            change = torch.where(many, torch.where(down, 1.0, 2.0), 0.5)
            size = torch.where(left, size * change, size)
            up, down = up | many, down | ~many
            left &= ~found & (size > 1e-10) & (size < 1e10)
        return size

    @torch.no_grad()
    def step(self, energy: Energy, state: MoverTuningState) -> tuple[MoverTuningState, NamedTuple]:
        kernel = self.current(state)
        inner, info = kernel.step(energy, state.inner)
        rate, position = report(info)["acceptance_rate"], rows(inner)
        if self.is_early(state):
            size = state.size.boldly(of_sizes(rate, state.size.size))
        else:
            rate = of_sizes(rate, state.size.size)
            size = state.size.after(rate, kernel.target_acceptance)
        spread = state.spread.after(position)
        reach = state.reach.after(state.mass.whitened(position - spread.centre))
        after = MoverTuningState(inner, state.mass, size, spread, reach, state.done + 1)
        return self.renewed(energy, after), info

    def is_early(self, state: MoverTuningState) -> bool:
        """Whether chains may still be far from where they belong."""
        return state.done < self.end(EARLY)

    def end(self, share: float) -> int:
        """The number of steps in a share of the warm-up."""
        return max(1, round(share * self.steps))

    def current(self, state: MoverTuningState) -> Mover:
        """The mover of the next step."""
        given = self.kernel.settings
        size = given.size
        if size is None:
            size = as_length(state.size.size, state.inner.point.position)
        later = sum(self.end(EARLY) <= self.end(share) <= state.done for share in WINDOWS)
        most = min(given.most, SHORT * 2**later)
        return self.kernel.at(Settings(size, self.length(state, size, most), state.mass))

    def length(self, state: MoverTuningState, size: Length, most: int) -> float:
        """The length of trajectories, of one step at least and so many at most."""
        if self.kernel.settings.length is not None:
            return self.kernel.settings.length
        return max(least(size), min(QUARTER * state.reach.deviation, most * least(size)))

    def renewed(self, energy: Energy, state: MoverTuningState) -> MoverTuningState:
        """With a new mass, where a window ends."""
        if state.done not in map(self.end, WINDOWS):
            return state
        scattered = state.done <= self.end(SCATTERED)
        pool, mass = state.spread.pooled(math.inf if scattered else PATIENCE), state.mass
        if self.kernel.settings.mass.is_wanted:
            mass = state.spread.mass(pool, mass)
        size = state.size
        if self.kernel.settings.size is None and not self.is_early(state):
            # One mass is no guide to the step size of another.
            begin = self.of_laws(state)
            size = StepSize.at(self.sought_size(energy, state.inner, mass, begin))
        return state._replace(
            mass=mass,
            size=size,
            spread=Spread.around(pool.centre, mass),
            reach=Reach(state.reach.direction * state.reach.deviation**2),
        )

    def of_laws(self, state: MoverTuningState) -> Tensor:
        """The step sizes found so far (*laws,)."""
        size = state.size.average
        chains_have_their_own = size.dim() == state.inner.point.potential.dim()
        return size.median(0).values if chains_have_their_own else size

    def tuned(self, state: MoverTuningState) -> tuple[Mover, MoverState]:
        given = self.kernel.settings
        size = given.size
        if size is None:
            size = as_length(self.of_laws(state), state.inner.point.position)
        length = self.length(state, size, given.most)
        return self.kernel.at(Settings(size, length, state.mass)), state.inner


def rows(inner: MoverState) -> Tensor:
    """The positions of all chains (n, d)."""
    position = inner.point.position
    return position.reshape(-1, position.shape[-1])


def report(info: NamedTuple) -> dict[str, Tensor]:
    """What a step reports, by name."""
    return info._asdict()
