"""What a kernel is.

A transition that leaves p(x) ∝ exp(-energy(x)) unchanged. The kernel is settings, one object for
any energy and batch; its state is what the next step needs, its info what a reader needs. Chains
are batch dimensions: every tensor of a state is (*batch, ...), every one of an info (*batch,), or
(*batch, n) where it has n numbers of each chain.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import TypeVar

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites, covers

Findings = dict[str, str | int | float]


class KernelState(Protocol):
    """What the state of every kernel has: the values."""

    @property
    def x(self) -> Sites:
        """The values (*batch, *shape) by site."""


State = TypeVar("State", bound=KernelState, default=Any)  # of one kernel: its own
Info = TypeVar("Info", bound=NamedTuple, default=NamedTuple, covariant=True)


class Kernel(ABC, Generic[State, Info]):
    """A transition of Markov chains that leaves p(x) ∝ exp(−E(x)) unchanged.

    It is settings only: one object serves any energy and any number of chains. A kernel of one's
    own is `class Mine(Kernel)`, or, for type checkers, `class Mine(Kernel[MyState, MyInfo])`: both
    named tuples, the state with the values as `x`, and with E(x) as `energy` where it knows it.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Gibbs
        >>> machine, kernel = BoltzmannMachine.fully_visible(4), Gibbs()
        >>> state = kernel.init(machine, {"visible": torch.zeros(10, 4)})
        >>> state, info = kernel.step(machine, state)
        >>> state.x["visible"].shape
        torch.Size([10, 4])
    """

    @abstractmethod
    def init(self, energy: Energy, x: Sites) -> State:
        """The state at x, after the checks of what is given.

        Args:
            energy: The energy.
            x: Values of all its sites, with the same batch shape.

        Raises:
            TypeError, ValueError: If the kernel cannot move this energy's sites from x.
        """

    @abstractmethod
    def step(self, energy: Energy, state: State) -> tuple[State, Info]:
        """One transition, without gradients."""

    @abstractmethod
    def refresh(self, energy: Energy, state: State, x: Sites) -> State:
        """The state after x, or the energy's parameters, were changed from outside.

        What was computed from them is computed again; counters of deterministic schedules go on.
        """


class ReversibleKernel(Kernel[State, Info]):
    """A kernel that knows its reverse, as `TemperedTransitions` needs it.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs
        >>> Gibbs().reversed(BoltzmannMachine.restricted(4, 3))
        Gibbs(sites=('hidden', 'visible'))
    """

    @abstractmethod
    def reversed(self, energy: Energy) -> Kernel[State]:
        """The kernel that makes the steps of this one backwards in time, on its states.

        A kernel with a single Metropolis test is its own reverse. What a step decides for all
        chains alike is taken as given.

        Raises:
            ValueError: If there is no reverse for this energy.
        """


class TunableKernel(Kernel[State, Info]):
    """A kernel whose settings may be left to a warm-up: those that are None are found there.

    Example:
        >>> from pyro_ebm import HMC, MALA
        >>> MALA().unset(), MALA(step_size=0.1).unset()
        (('step_size',), ())
    """

    @abstractmethod
    def unset(self) -> tuple[str, ...]:
        """The names of the settings without which it cannot move, and that are left out."""

    @abstractmethod
    def tuning(self, steps: int) -> Kernel:
        """The kernel for a warm-up of so many steps; itself, where nothing is left to be found."""

    @property
    @abstractmethod
    def findings(self) -> Findings:
        """The settings in short, for the attributes of a run."""


class Tuning(Kernel[State, Info]):
    """A kernel that changes its settings as it moves: for the warm-up, not for draws.

    What it has learned so far is in its state, so that it can be stopped and go on.

    Example:
        >>> from pyro_ebm import MALA
        >>> from pyro_ebm.kernels import Tuning
        >>> isinstance(MALA().tuning(100), Tuning)
        True
    """

    @abstractmethod
    def tuned(self, state: State) -> tuple[Kernel, KernelState]:
        """The kernel with the settings found, and its state."""


def in_warmup(kernel: Kernel, steps: int) -> Kernel:
    """The kernel that runs in a warm-up of so many steps."""
    return kernel.tuning(steps) if isinstance(kernel, TunableKernel) and steps else kernel


def after_warmup(kernel: Kernel, state: KernelState) -> tuple[Kernel, KernelState]:
    """The kernel that makes the draws, and its state."""
    return kernel.tuned(state) if isinstance(kernel, Tuning) else (kernel, state)


def known_energy(state: KernelState) -> Tensor | None:  # (*batch,)
    """E(x), where a state knows it as its `energy`."""
    known: Tensor | None = getattr(state, "energy", None)  # which no kernel has to know
    return known


def findings_of(kernel: Kernel) -> Findings:
    """A kernel's settings in short, where it was tuned or could be."""
    return kernel.findings if isinstance(kernel, TunableKernel) else {}


def unset_of(kernel: Kernel) -> tuple[str, ...]:
    """The names of the settings that a kernel leaves to a warm-up and cannot move without."""
    return kernel.unset() if isinstance(kernel, TunableKernel) else ()


def reverse_of(kernel: Kernel, energy: Energy) -> Kernel:
    """The kernel that makes the steps of another one backwards in time.

    Raises:
        ValueError: If it does not know its reverse.
    """
    if isinstance(kernel, ReversibleKernel):
        return kernel.reversed(energy)
    raise ValueError(
        f"{type(kernel).__name__} has no reverse here. Use a kernel that has one, such as "
        f"RandomBlocks(), MALA(step_size=...) or a Mixture of such; a kernel of your own says its "
        f"reverse as a ReversibleKernel, by the method reversed(energy)."
    )


@runtime_checkable
class DecidesForAll(Protocol):
    """A kernel whose steps decide something for all chains alike."""

    def decided(self, energy: Energy, number: int) -> Kernel:
        """The kernel with the decision of one step made, for `TemperedTransitions` to reverse.

        Args:
            energy: The energy.
            number: That of the step, where decisions follow a sequence.
        """
        ...


def decided_by(kernel: Kernel, energy: Energy, number: int) -> Kernel:
    """The kernel with all that one step decides for all chains alike decided."""
    return kernel.decided(energy, number) if isinstance(kernel, DecidesForAll) else kernel


@runtime_checkable
class KnowsMoved(Protocol):
    """A kernel that tells which sites it moves."""

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        ...


def moved_by_any(kernels: Iterable[Kernel], energy: Energy) -> tuple[str, ...]:
    """The sites that some kernels move together; of one that does not tell, all."""
    every = tuple(energy.sites)
    each = [own.moves(energy) if isinstance(own, KnowsMoved) else every for own in kernels]
    return tuple(name for name in every if any(name in names for names in each))


def unmoved_sites(kernel: Kernel, energy: Energy) -> list[str]:
    """The sites that a kernel leaves where they are."""
    moved = moved_by_any((kernel,), energy)
    return [name for name in energy.sites if name not in moved]


def advance(kernel: Kernel[State, Info], energy: Energy, state: State, steps: int) -> State:
    """The state after several steps.

    `run` does the same, and keeps draws and statistics.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Gibbs
        >>> from pyro_ebm.kernels import advance
        >>> machine, kernel = BoltzmannMachine.fully_visible(4), Gibbs()
        >>> state = kernel.init(machine, {"visible": torch.zeros(10, 4)})
        >>> advance(kernel, machine, state, 5).x["visible"].shape
        torch.Size([10, 4])
    """
    for _ in range(steps):
        state, _ = kernel.step(energy, state)
    return state


def same_batch(x: Sites, energy: Energy) -> torch.Size:
    """The batch shape that all the sites have.

    Raises:
        ValueError: If they differ.
    """
    shapes = {
        name: value.shape[: value.dim() - len(energy.sites[name].shape)]
        for name, value in x.items()
    }
    if len(set(shapes.values())) > 1:
        raise ValueError(
            "The sites start with different batch shapes: "
            + ", ".join(f"{name!r} {tuple(shape)}" for name, shape in shapes.items())
            + "; give every site one value for each chain."
        )
    return next(iter(shapes.values()))


def require_machines(batch: torch.Size, machines: torch.Size) -> None:
    """Refuses sites (*batch,) that do not have the batch shape of the parameters last.

    Raises:
        ValueError: If they do not.
    """
    if covers(batch, machines):
        return
    count = machines.numel()
    in_run = f" In `run` that is one chain for each: chains={count}." if len(machines) == 1 else ""
    raise ValueError(
        f"The parameters have the batch shape {tuple(machines)}, and the sites {tuple(batch)}; "
        f"wanted one chain or more for each machine, the machines last.{in_run}"
    )
