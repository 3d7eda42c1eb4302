"""Kernels made of kernels: one after another, or one at random.

Each leaves the law unchanged, and so do both compositions. Kernels that move different sites make
a sampler within Gibbs; a site that no kernel moves is clamped.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections import namedtuple
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.base import (
    Findings,
    Kernel,
    KernelState,
    ReversibleKernel,
    TunableKernel,
    Tuning,
    after_warmup,
    decided_by,
    findings_of,
    in_warmup,
    known_energy,
    moved_by_any,
    reverse_of,
    unset_of,
)
from pyro_ebm.sites import Sites

One = TypeVar("One")  # of several: a kernel, or a state


class CompositionState(NamedTuple):
    """The values, the states of the kernels, and which of them is up to date.

    Args:
        x: The values.
        states: Those of the kernels, in their order.
        latest: The number of the kernel that moved last; the others are refreshed at their turn.
    """

    x: Sites
    states: tuple[KernelState, ...]
    latest: int

    @property
    def energy(self) -> Tensor | None:  # (*batch,)
        """E(x), where the kernel that moved last knows it."""
        return known_energy(self.states[self.latest])


class Composed(Kernel[CompositionState], ABC):
    """A kernel on the states of several kernels."""

    kernels: tuple[Kernel, ...]

    def init(self, energy: Energy, x: Sites) -> CompositionState:
        states = tuple(kernel.init(energy, x) for kernel in self.kernels)
        return CompositionState(states[-1].x, states, len(states) - 1)

    def refresh(self, energy: Energy, state: CompositionState, x: Sites) -> CompositionState:
        latest = state.latest
        new = self.kernels[latest].refresh(energy, state.states[latest], x)
        return CompositionState(x, replaced(state.states, latest, new), latest)


class Composition(Composed, TunableKernel[CompositionState]):
    """A kernel made of kernels, each of which is tuned in a warm-up."""

    @abstractmethod
    def turns(self, steps: int) -> list[int]:
        """How often each of the kernels moves in so many steps, about."""

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return moved_by_any(self.kernels, energy)

    def unset(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for kernel in self.kernels for name in unset_of(kernel)))

    def tuning(self, steps: int) -> Kernel:
        parts = tuple(map(in_warmup, self.kernels, self.turns(steps)))
        if parts == self.kernels:
            return self
        return CompositionTuning(replace(cast(Any, self), kernels=parts))

    @property
    def findings(self) -> Findings:
        """The findings of each kernel, under its number."""
        return {
            f"kernel_{number}_{name}": value
            for number, kernel in enumerate(self.kernels)
            for name, value in findings_of(kernel).items()
        }


@dataclass(frozen=True, eq=False)
class Cycle(Composition):
    """One kernel after another, in the given order, as one step.

    It reports what the kernels report; of a name that several have, the second under the name with
    `_1`, and so on. It diverges if one does, and its `n_steps` are those of all.

    Args:
        kernels: The kernels.

    Raises:
        TypeError: If they are not a tuple of one kernel or more.

    Example:
        >>> from pyro_ebm import Cycle, Gibbs, MALA
        >>> Cycle((Gibbs(("labels",)), MALA(("position",), step_size=0.4)))
        Cycle(kernels=(Gibbs(sites=('labels',)), MALA(sites=('position',), step_size=0.4, ...
    """

    kernels: tuple[Kernel, ...]

    def __post_init__(self) -> None:
        require_kernels("Cycle", self.kernels)

    @torch.no_grad()
    def step(self, energy: Energy, state: CompositionState) -> tuple[CompositionState, NamedTuple]:
        reports = []
        for number, kernel in enumerate(self.kernels):
            state, info = step_one(number, kernel, energy, state)
            reports.append(info._asdict())
        return state, together(reports)

    def turns(self, steps: int) -> list[int]:
        return [steps] * len(self.kernels)


@dataclass(frozen=True, eq=False)
class Mixture(Composition, ReversibleKernel[CompositionState]):
    """One of the kernels, chosen at random for all chains, as one step.

    Chains that follow the law stay independent, since each of the kernels leaves it unchanged. It
    reports what the chosen kernel reports.

    Args:
        kernels: The kernels.
        weights: How often each is chosen, up to a factor; equally often if left out.

    Raises:
        TypeError: If they are not a tuple of one kernel or more.
        ValueError: If the weights are not one positive number for each.

    Example:
        >>> from pyro_ebm import Gibbs, Mixture, RandomBlocks
        >>> Mixture((Gibbs(), RandomBlocks(size=4)), weights=(9.0, 1.0)).weights
        (9.0, 1.0)
    """

    kernels: tuple[Kernel, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require_kernels("Mixture", self.kernels)
        if self.weights is not None and len(self.weights) != len(self.kernels):
            raise ValueError(
                f"weights is {self.weights!r}; wanted one number for each of the "
                f"{len(self.kernels)} kernels."
            )
        for weight in self.weights or ():
            if not (isinstance(weight, int | float) and 0 < weight < math.inf):
                raise ValueError(
                    f"weight is {weight!r}; wanted a positive number. Leave out a kernel that is "
                    f"never to be chosen."
                )

    @property
    def shares(self) -> tuple[float, ...]:
        """The probability of each kernel."""
        weights = self.weights or (1.0,) * len(self.kernels)
        return tuple(weight / sum(weights) for weight in weights)

    @torch.no_grad()
    def step(self, energy: Energy, state: CompositionState) -> tuple[CompositionState, NamedTuple]:
        return self.drawn().step(energy, state)

    def reversed(self, energy: Energy) -> "Mixture":
        parts = tuple(reverse_of(kernel, energy) for kernel in self.kernels)
        return replace(self, kernels=parts)

    def decided(self, energy: Energy, number: int) -> "OneOf":
        """One of the kernels, with its own decisions made."""
        one = self.drawn()
        return one.moving_by(decided_by(one.chosen, energy, number))

    def drawn(self) -> "OneOf":
        """One of the kernels, chosen at random."""
        uniform = float(torch.rand((), dtype=torch.float64))
        below = sum(bound <= uniform for bound in accumulate(self.shares))
        # The shares may add up to a little below 1.
        return OneOf(self.kernels, min(below, len(self.kernels) - 1))

    def turns(self, steps: int) -> list[int]:
        return [max(1, round(steps * share)) for share in self.shares]


@dataclass(frozen=True, eq=False)
class OneOf(Composed, ReversibleKernel[CompositionState]):
    """What a mixture has chosen: one of its kernels, on a state of all of them.

    Args:
        kernels: The kernels.
        number: Which of them moves.
    """

    kernels: tuple[Kernel, ...]
    number: int

    @property
    def chosen(self) -> Kernel:
        """The kernel that moves."""
        return self.kernels[self.number]

    def reversed(self, energy: Energy) -> "OneOf":
        return self.moving_by(reverse_of(self.chosen, energy))

    def moving_by(self, kernel: Kernel) -> "OneOf":
        """The same, with another kernel in the place of the one that moves."""
        return replace(self, kernels=replaced(self.kernels, self.number, kernel))

    @torch.no_grad()
    def step(self, energy: Energy, state: CompositionState) -> tuple[CompositionState, NamedTuple]:
        return step_one(self.number, self.chosen, energy, state)


@dataclass(frozen=True, eq=False)
class CompositionTuning(Tuning[CompositionState]):
    """A composition in its warm-up, in which each of its kernels is tuned.

    Args:
        composition: The composition of the kernels that are being tuned.
    """

    composition: Composition

    def init(self, energy: Energy, x: Sites) -> CompositionState:
        return self.composition.init(energy, x)

    def refresh(self, energy: Energy, state: CompositionState, x: Sites) -> CompositionState:
        return self.composition.refresh(energy, state, x)

    def step(self, energy: Energy, state: CompositionState) -> tuple[CompositionState, NamedTuple]:
        return self.composition.step(energy, state)

    def tuned(self, state: CompositionState) -> tuple[Kernel, CompositionState]:
        pairs = [
            after_warmup(*pair) for pair in zip(self.composition.kernels, state.states, strict=True)
        ]
        kernels, states = zip(*pairs, strict=True)
        return replace(cast(Any, self.composition), kernels=kernels), state._replace(states=states)


def require_kernels(name: str, kernels: tuple[Kernel, ...]) -> None:
    """Refuses what is no tuple of kernels.

    Raises:
        TypeError: If it is not, or empty.
    """
    if not isinstance(kernels, tuple) or not kernels:
        raise TypeError(f"kernels is {kernels!r}; wanted a tuple, {name}((first, second)).")
    for kernel in kernels:
        if not isinstance(kernel, Kernel):
            raise TypeError(f"{name} was given {kernel!r}; wanted kernels, for example Gibbs().")


def step_one(
    number: int, kernel: Kernel, energy: Energy, state: CompositionState
) -> tuple[CompositionState, NamedTuple]:
    """A step of one of the kernels, whose caches are renewed where another has moved since."""
    own = state.states[number]
    if number != state.latest:
        own = kernel.refresh(energy, own, state.x)
    own, info = kernel.step(energy, own)
    return CompositionState(own.x, replaced(state.states, number, own), number), info


def replaced(own: tuple[One, ...], number: int, new: One) -> tuple[One, ...]:
    """The kernels, or their states, with a new one in one place."""
    return (*own[:number], new, *own[number + 1 :])


def together(reports: list[dict[str, Tensor]]) -> NamedTuple:
    """What all the kernels of a cycle report."""
    joined: dict[str, Tensor] = {}
    for report in reports:
        for name, value in report.items():
            if name not in joined:
                joined[name] = value
            elif name == "diverging":
                joined[name] = joined[name] | value
            elif name == "n_steps":
                joined[name] = joined[name] + value
            else:
                count = sum(key.startswith(name) for key in joined)
                joined[f"{name}_{count}"] = value
    return report_type(tuple(joined))(*joined.values())


@functools.cache
def report_type(names: tuple[str, ...]) -> Any:  # noqa: ANN401 (a type of named tuples)
    """A named tuple for these names; kept, since to make one takes longer than a step."""
    return namedtuple("CycleInfo", names)
