"""The loop of `fit`: from one whole step to the next.

A step learns from a minibatch, reads the monitor, calls a callback or begins an epoch. An exception
in its midst leaves what was there before it, in the parameters and in the optimiser too.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from pyro_ebm.energies import Energy
from pyro_ebm.learning.observers.monitor import Monitor
from pyro_ebm.seeding import GeneratorState, generator_state
from pyro_ebm.sites import Sites

from .base import Objective, Step


class Progress(NamedTuple):
    """What a callback is told after each epoch."""

    epoch: int  # from 1
    energy: Energy
    optimizer: Optimizer
    metrics: dict[str, float]  # the monitor's, empty in epochs that it does not read


Callback = Callable[[Progress], Literal["stop"] | None]


class Task(NamedTuple):
    """What is to be learned, and how."""

    energy: Energy
    data: Sites
    rows: int
    batch_size: int
    epochs: int
    objective: Objective
    optimizer: Optimizer
    monitor: Monitor
    callbacks: Sequence[Callback]


class Place(NamedTuple):
    """Where learning stands between two steps."""

    state: Any  # the objective's
    generators: GeneratorState
    rows: int  # of the data
    epoch: int = 0  # under way, or over; from 1
    phase: Literal["learning", "telling", "over"] = "over"  # of the epoch
    batches: tuple[Tensor | None, ...] = ()  # numbers of rows; None for all of them
    learned: int = 0  # of these batches
    told: int = 0  # callbacks
    stopped: bool = False  # by a callback
    latest: dict[str, float] | None = None  # the monitor's reading in this epoch
    metrics: tuple[dict[str, float], ...] = ()  # all readings
    seconds: float = 0.0
    fantasies: Sites | None = None  # of the last step


class Learning:
    """Learning under way, of which only whole steps count.

    Args:
        task: What is to be learned.
        place: Where it begins.
    """

    def __init__(self, task: Task, place: Place) -> None:
        self.task, self.place = task, place
        self.begun = time.perf_counter() - place.seconds
        self.room: dict[Tensor, Tensor] = {}  # for copies of parameters, step by step

    @property
    def seconds(self) -> float:
        """The time that it has taken so far."""
        return time.perf_counter() - self.begun

    def go(self, look: Callable[[], None]) -> None:
        """Makes all the steps, and calls `look` between them.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        first, epochs = self.place.epoch, self.task.epochs
        with tqdm(total=epochs, initial=first, disable=None, unit="epoch") as bar:
            while step := self.next_step():
                step()
                self.show(bar)
                look()

    def next_step(self) -> Callable[[], None] | None:
        """What is to be done next, if there is anything."""
        place = self.place
        if place.phase == "learning":
            return self.learn if place.learned < len(place.batches) else self.read
        if place.phase == "telling":
            return self.tell
        return None if place.stopped or place.epoch >= self.task.epochs else self.begin

    def begin(self) -> None:
        """Begins an epoch."""
        rows, size = self.task.rows, self.task.batch_size
        batches: tuple[Tensor | None, ...] = (None,)  # the data themselves, where one holds all
        if size < rows:
            device = next(iter(self.task.data.values())).device
            batches = torch.randperm(rows, device=device).split(size)
        self.place = self.place._replace(
            epoch=self.place.epoch + 1,
            phase="learning",
            batches=batches,
            learned=0,
            generators=self.generators(),
        )

    def learn(self) -> None:
        """Learns from a minibatch.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        task, place = self.task, self.place
        chosen, batch = place.batches[place.learned], task.data
        if chosen is not None:
            # Not value[chosen], which takes five times as long.
            batch = {site: value.index_select(0, chosen) for site, value in batch.items()}
        kept = Kept(task.energy, task.optimizer, self.room)
        try:
            _, state, fantasies = optimised(task, batch, place.state)
            self.place = place._replace(
                state=state,
                fantasies=fantasies,
                learned=place.learned + 1,
                generators=self.generators(),
            )
        except BaseException:
            if self.place is place:
                kept.put_back()
            raise

    def read(self) -> None:
        """Takes the metrics of an epoch."""
        task, place = self.task, self.place
        latest, metrics = None, place.metrics
        if place.epoch % task.monitor.every == 0 or place.epoch == task.epochs:
            latest = task.monitor.read(task.energy, task.data, place.fantasies)
            metrics += ({"epoch": place.epoch, "seconds": self.seconds, **latest},)
        self.place = place._replace(
            phase="telling", told=0, latest=latest, metrics=metrics, generators=self.generators()
        )

    def tell(self) -> None:
        """Calls a callback; ends the epoch if none is left."""
        task, place = self.task, self.place
        if place.told >= len(task.callbacks):
            self.place = place._replace(phase="over")
            return
        told = Progress(place.epoch, task.energy, task.optimizer, place.latest or {})
        # At once, so that no callback is called twice.
        self.place = place._replace(
            stopped=task.callbacks[place.told](told) == "stop" or place.stopped, told=place.told + 1
        )
        self.place = self.place._replace(generators=self.generators())

    def generators(self) -> GeneratorState:
        """The state of the random numbers."""
        return generator_state(self.task.energy.device)

    def show(self, bar: Any) -> None:  # noqa: ANN401 (tqdm's)
        """Shows how far it is."""
        if self.place.phase == "over":
            bar.update()
            latest = self.place.latest or {}
            bar.set_postfix({name: f"{value:.4g}" for name, value in latest.items()})


class Kept:
    """Parameters, buffers and the optimiser's state as they are now.

    Args:
        energy: Has the parameters and buffers.
        optimizer: The optimiser.
        room: By tensor, the memory of an earlier copy, which is no longer needed: to ask for new
            memory takes longer than to copy.
    """

    def __init__(self, energy: Energy, optimizer: Optimizer, room: dict[Tensor, Tensor]) -> None:
        groups: list[dict[str, Any]] = optimizer.param_groups
        own = [tensor for group in groups for tensor in group["params"]]
        tensors = {id(t): t for t in (*energy.parameters(), *energy.buffers(), *own)}
        for tensor in tensors.values():
            known = room.get(tensor)
            if known is None or (known.shape, known.dtype) != (tensor.shape, tensor.dtype):
                room[tensor] = tensor.detach().clone()
            else:
                known.copy_(tensor.detach())
        self.tensors = [(tensor, room[tensor]) for tensor in tensors.values()]
        self.optimizer = optimizer
        self.state = {tensor: copied(state) for tensor, state in optimizer.state.items()}
        self.groups = [{k: copied(v) for k, v in g.items() if k != "params"} for g in groups]

    @torch.no_grad()
    def put_back(self) -> None:
        """Makes them what they were."""
        for tensor, value in self.tensors:
            tensor.copy_(value)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.update(before)


def copied(value: Any) -> Any:  # noqa: ANN401 (what an optimiser keeps)
    """A copy of the tensors in it, and of what holds them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, list):
        return [copied(part) for part in value]
    return value


def optimised(task: Task, batch: Sites, state: Any) -> Step:  # noqa: ANN401
    """What the objective said last in one step of the optimiser.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    said: Step | None = None

    def closure() -> Tensor:
        nonlocal said
        task.optimizer.zero_grad()
        said = checked_step(task.objective.loss(task.energy, batch, state), task.objective)
        if not bool(said.loss.isfinite()):
            raise FloatingPointError(
                "The loss became NaN or infinite; the parameters are those before this step. "
                "Lower the learning rate, or go on from earlier parameters."
            )
        said.loss.backward()
        return said.loss

    task.optimizer.step(closure)  # type: ignore[arg-type] # torch takes the tensor
    assert said is not None  # every optimiser calls the closure
    return said


def checked_step(said: object, objective: Objective) -> Step:
    """What an objective answered.

    Raises:
        TypeError: If it is no `Step` with a loss that depends on the parameters.
    """
    own = type(objective).__name__
    if not isinstance(said, Step):
        raise TypeError(f"{own}.loss returned a {type(said).__name__}; wanted Step(loss, state).")
    loss = said.loss
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        what = tuple(loss.shape) if isinstance(loss, Tensor) and loss.dim() else loss
        raise TypeError(
            f"{own}.loss has the loss {what!r}; wanted one number () that depends on the "
            f"energy's parameters."
        )
    return said
