"""The loop of `fit`: from one whole step to the next.

A step learns from a minibatch, calls an observer or begins an epoch. An exception in its midst
leaves what was there before it, in the parameters and in the optimiser too.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_ebm.energies import Energy
from pyro_ebm.learning.observers.base import (
    AfterEpoch,
    AfterUpdate,
    AtEnd,
    AtStart,
    Observer,
    Progress,
    Report,
)
from pyro_ebm.progress import progress
from pyro_ebm.seeding import GeneratorState, generator_state, set_generators
from pyro_ebm.sites import Sites

from .base import Objective, Step
from .history import OWN, History, Moment, Place, Stage
from .learned import Loose

Calls = dict[Moment, tuple[Callable[[Progress], Report | None], ...]]


class Task(NamedTuple):
    """What is to be learned, and how."""

    energy: Energy
    data: Sites
    rows: int
    batch_size: int
    epochs: int
    objective: Objective
    optimizer: Optimizer
    calls: Calls
    seed: int


def calls_of(observers: Sequence[Observer]) -> Calls:
    """The observers' methods for each moment, in the order of the observers.

    Raises:
        TypeError: If there is something else among them.
    """
    if not isinstance(observers, Sequence):
        raise TypeError(
            f"observers is {observers!r}; wanted a sequence of observers, for example "
            f"observers=[Monitor()]."
        )
    for observer in observers:
        if not isinstance(observer, AtStart | AfterUpdate | AfterEpoch | AtEnd):
            raise TypeError(
                f"observers holds {observer!r}; wanted an instance of a class that inherits "
                f"AtStart, AfterUpdate, AfterEpoch or AtEnd, for example Monitor()."
            )
    return {
        "at_start": tuple(o.at_start for o in observers if isinstance(o, AtStart)),
        "after_update": tuple(o.after_update for o in observers if isinstance(o, AfterUpdate)),
        "after_epoch": tuple(o.after_epoch for o in observers if isinstance(o, AfterEpoch)),
        "at_end": tuple(o.at_end for o in observers if isinstance(o, AtEnd)),
    }


class Learning:
    """Learning under way, of which only whole steps count.

    Args:
        task: What is to be learned.
        place: Where it begins.
    """

    def __init__(self, task: Task, place: Place) -> None:
        self.task = task
        self.place = self.onward(place) if place.phase == "over" else place
        self.begun = time.perf_counter() - place.seconds
        self.starting = task.calls["at_start"]  # those that are still to be called
        self.loose = Loose(task.energy, task.optimizer)
        self.room: dict[Tensor, Tensor] = {}  # the last copies of parameters and the like

    @property
    def seconds(self) -> float:
        """The time that it has taken so far."""
        return time.perf_counter() - self.begun

    @property
    def history(self) -> History:
        """What was done, up to the last whole step."""
        place = self.place._replace(seconds=self.seconds)
        metrics = list(place.metrics)
        return History(metrics, place.state, self.task.seed, False, self.task.optimizer, place)

    @property
    def progress(self) -> Progress:
        """What an observer sees now."""
        task, place = self.task, self.place
        return Progress(
            epoch=place.epoch,
            epochs=task.epochs,
            updates=place.updates,
            energy=task.energy,
            optimizer=task.optimizer,
            data=task.data,
            step=place.step,
            metrics=place.latest,
            history=self.history,
        )

    def go(self, look: Callable[[], None]) -> None:
        """Makes all the steps, and calls `look` between them.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        done = self.place.epochs_done
        name = type(self.task.objective).__name__
        with progress(name, self.task.epochs, "epoch", at_end="stays", done=done) as bar:
            while step := self.next_step():
                step()
                if self.place.epochs_done > done:
                    done = self.place.epochs_done
                    bar.update()
                    bar.set_postfix({n: f"{value:.4g}" for n, value in self.place.latest.items()})
                look()

    def next_step(self) -> Callable[[], None] | None:
        """What is to be done next, if there is anything."""
        if self.starting:
            return self.start
        match self.place.phase:
            case "between":
                return self.begin
            case "learning":
                return self.learn
            case "over":
                return None
            case _:
                return self.tell

    def onward(self, place: Place) -> Place:
        """The same place, in the phase that follows when the one under way is over."""
        if place.phase == "after_epoch":
            place = place._replace(batches=(), learned=0)
        phase: Stage
        if place.stopped is None and place.batches:
            phase = "learning" if place.learned < len(place.batches) else "after_epoch"
        elif place.stopped is None and place.epoch < self.task.epochs:
            phase = "between"
        else:
            phase = "over" if place.phase in ("at_end", "over") else "at_end"
        return place._replace(phase=phase, called=0)

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
        with self.whole():
            step = optimised(task, batch, place.state, self.loose)
            after = place._replace(
                phase="after_update",
                called=0,
                state=step.state,
                step=step._replace(loss=step.loss.detach()),
                learned=place.learned + 1,
                updates=place.updates + 1,
                generators=self.generators(),
            )
            self.place = after if task.calls["after_update"] else self.onward(after)

    def start(self) -> None:
        """Calls an observer at the start; random numbers that it draws are put back."""
        with self.whole():
            checked_report(self.starting[0](self.progress), "at_start")
            set_generators(self.place.generators, self.task.energy.device)
            self.starting = self.starting[1:]

    def tell(self) -> None:
        """Calls an observer of a moment; ends the moment if none is left."""
        place = self.place
        assert place.phase in ("after_update", "after_epoch", "at_end")
        calls = self.task.calls[place.phase]
        if place.called >= len(calls):
            self.place = self.onward(place)
            return
        with self.whole():
            report = checked_report(calls[place.called](self.progress), place.phase)
            metrics = place.metrics
            if report.metrics:
                before = metrics[-1] if place.latest else None
                row = before or {"epoch": place.epoch, "seconds": self.seconds}
                metrics = (*(metrics[:-1] if before else metrics), {**row, **report.metrics})
            self.place = place._replace(
                called=place.called + 1,
                metrics=metrics,
                stopped=report.stop if place.stopped is None else place.stopped,
                generators=self.generators(),
            )

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Puts parameters and optimiser back on an exception before a new place is reached."""
        place, kept = self.place, Kept(self.task.energy, self.task.optimizer, self.room)
        self.room = kept.copies.made
        try:
            yield
        except BaseException:
            if self.place is place:
                kept.put_back()
            raise

    def generators(self) -> GeneratorState:
        """The state of the random numbers."""
        return generator_state(self.task.energy.device)


def checked_report(report: object, moment: Moment) -> Report:
    """What an observer reported at a moment; an empty report for None.

    Raises:
        TypeError: If it is something else, or a metric is no number.
        ValueError: If a metric has the name of what a row of the history has anyway.
    """
    if report is None:
        return Report()
    if moment in ("at_start", "at_end"):
        raise TypeError(f"{moment} returned {report!r}; wanted None, as nothing can follow it.")
    if not isinstance(report, Report):
        raise TypeError(
            f"{moment} returned {report!r}; wanted a Report, for example "
            f"Report(metrics={{'loss': 0.5}}) or Report(stop='no progress'), or None."
        )
    if taken := [name for name in OWN if name in report.metrics]:
        raise ValueError(
            f"{moment} reported metrics named {taken}, which every row of the history has "
            f"anyway; give them other names."
        )
    try:
        metrics = {name: float(value) for name, value in report.metrics.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{moment} reported the metrics {report.metrics!r}; wanted numbers by name."
        ) from error
    if report.stop is not None and not isinstance(report.stop, str):
        raise TypeError(
            f"{moment} returned stop={report.stop!r}; wanted why as a string, for example "
            f"Report(stop='no progress'), or None to go on."
        )
    return Report(metrics, report.stop)


class Kept:
    """Parameters, buffers and the optimiser's state as they are now.

    Args:
        energy: Has the parameters and buffers.
        optimizer: The optimiser.
        room: By tensor, its copy in an earlier `Kept` that is no longer needed: to ask for new
            memory takes longer than to copy.
    """

    def __init__(self, energy: Energy, optimizer: Optimizer, room: dict[Tensor, Tensor]) -> None:
        groups: list[dict[str, Any]] = optimizer.param_groups
        own = [tensor for group in groups for tensor in group["params"]]
        self.copies = Copies(room)
        for tensor in (*energy.parameters(), *energy.buffers(), *own):
            self.copies.of(tensor)
        self.tensors = dict(self.copies.made)
        self.optimizer = optimizer
        self.state = {tensor: self.copies.of(state) for tensor, state in optimizer.state.items()}
        self.groups = [
            {name: self.copies.of(value) for name, value in group.items() if name != "params"}
            for group in groups
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Makes them what they were."""
        for tensor, value in self.tensors.items():
            tensor.copy_(value)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.update(before)


class Copies:
    """Copies of tensors and of what holds them, each tensor once.

    Args:
        room: By tensor, memory for its copy, used where shape and dtype are the same.
    """

    def __init__(self, room: dict[Tensor, Tensor]) -> None:
        self.room = room
        self.made: dict[Tensor, Tensor] = {}

    def of(self, value: Any) -> Any:  # noqa: ANN401 (what an optimiser keeps)
        """A copy."""
        if isinstance(value, dict):
            return {name: self.of(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.of(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        if value not in self.made:
            room = self.room.get(value)
            if room is None or (room.shape, room.dtype) != (value.shape, value.dtype):
                self.made[value] = value.detach().clone()
            else:
                self.made[value] = room.copy_(value.detach())
        return self.made[value]


def optimised(task: Task, batch: Sites, state: object, loose: Loose) -> Step:
    """What the objective said last in one step of the optimiser.

    Raises:
        FloatingPointError: If the loss is not finite.
        ValueError: If a gradient goes where no step follows.
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
        loose.look(said.loss)
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
