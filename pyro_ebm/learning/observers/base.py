"""Observers: called at chosen moments of `fit`, they report metrics and may stop it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch.optim import Optimizer

from pyro_ebm.energies import Energy
from pyro_ebm.learning.base import Step
from pyro_ebm.learning.history import History
from pyro_ebm.sites import Sites

NOTHING: Mapping[str, float] = MappingProxyType({})


class Progress(NamedTuple):
    """What an observer sees.

    Args:
        epoch: The epoch under way, or just over, from 1; 0 before the first one.
        epochs: The number of epochs that `fit` was asked for.
        updates: The number of updates of the parameters, in all epochs.
        energy: What is learned.
        optimizer: The optimiser, whose `param_groups` may be changed.
        data: The rows that are learned from (rows, *site.shape).
        step: What the objective said in the last update, its loss detached; None before the first.
        metrics: What earlier observers reported in this epoch.
        history: The history so far, to go on from: `fit(..., state=progress.history)` begins with
            this same call of the observer.

    Example:
        >>> import torch
        >>> from pyro_ebm import AfterUpdate, BoltzmannMachine, ExactLikelihood, fit
        >>> class Told(AfterUpdate):
        ...     def after_update(self, progress):
        ...         print(progress.epoch, progress.updates, f"{progress.step.loss:.4f}")
        >>> machine = BoltzmannMachine.fully_visible(2)
        >>> history = fit(machine, torch.eye(2), ExactLikelihood(), epochs=2, observers=[Told()])
        1 1 1.3863
        2 2 1.3838
    """

    epoch: int
    epochs: int
    updates: int
    energy: Energy
    optimizer: Optimizer
    data: Sites
    step: Step | None
    metrics: dict[str, float]
    history: History


class Report(NamedTuple):
    """What an observer answers.

    Args:
        metrics: Numbers by name, for the `History` and the progress bar. Of several reports in an
            epoch under the same name the last one counts.
        stop: Why learning should end now; None to go on.

    Example:
        >>> from pyro_ebm import Report
        >>> Report({"largest_coupling": 7.3}, stop="a coupling runs away").stop
        'a coupling runs away'
    """

    metrics: Mapping[str, float] = NOTHING
    stop: str | None = None


class Observer(ABC):  # noqa: B024 (the methods are those of the moments)
    """Is called by `fit` at the moments that it inherits.

    These are `AtStart`, `AfterUpdate`, `AfterEpoch` and `AtEnd`. Each call is a whole step of the
    learning: if it raises, or Ctrl-C is pressed twice in its midst, parameters, buffers, optimiser
    and random numbers are what they were before it, and going on from the history begins with the
    same call. What an observer keeps in itself is its own concern.

    Example:
        >>> import torch
        >>> from pyro_ebm import AfterEpoch, BoltzmannMachine, ExactLikelihood, Monitor, Report, fit
        >>> class UntilGood(AfterEpoch):
        ...     def after_epoch(self, progress):
        ...         good = progress.metrics["log_likelihood"] > -2.2
        ...         return Report(stop="good enough") if good else None
        >>> data = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 0]])
        >>> machine = BoltzmannMachine.fully_visible(3)
        >>> observers = [Monitor(), UntilGood()]
        >>> fit(machine, data, ExactLikelihood(), epochs=500, observers=observers).stopped
        'good enough'
    """


class AtStart(Observer):
    """Is called at the start of each call of `fit`, one that goes on from a history too.

    Example:
        >>> import torch
        >>> from pyro_ebm import AtStart, BoltzmannMachine, ExactLikelihood, fit
        >>> class Sizes(AtStart):
        ...     def at_start(self, progress):
        ...         print({site: tuple(rows.shape) for site, rows in progress.data.items()})
        >>> machine = BoltzmannMachine.fully_visible(2)
        >>> history = fit(machine, torch.eye(2), ExactLikelihood(), epochs=1, observers=[Sizes()])
        {'visible': (2, 2)}
    """

    @abstractmethod
    def at_start(self, progress: Progress) -> None:
        """Checks or prepares something.

        Random numbers that it draws are not missed later: the generators are put back.

        Args:
            progress: Where learning stands.
        """


class AfterUpdate(Observer):
    """Is called after each update of the parameters.

    Example:
        >>> import torch
        >>> from pyro_ebm import AfterUpdate, BoltzmannMachine, ExactLikelihood, Report, fit
        >>> class Three(AfterUpdate):
        ...     def after_update(self, progress):
        ...         return Report(stop="three updates") if progress.updates == 3 else None
        >>> machine = BoltzmannMachine.fully_visible(2)
        >>> history = fit(machine, torch.eye(2), ExactLikelihood(), observers=[Three()])
        >>> history.place.updates, history.stopped
        (3, 'three updates')
    """

    @abstractmethod
    def after_update(self, progress: Progress) -> Report | None:
        """Looks at an update.

        Args:
            progress: Where learning stands.
        """


class AfterEpoch(Observer):
    """Is called after each epoch.

    Example:
        >>> import torch
        >>> from pyro_ebm import AfterEpoch, BoltzmannMachine, ExactLikelihood, Report, fit
        >>> class Norm(AfterEpoch):
        ...     def after_epoch(self, progress):
        ...         parameters = progress.energy.parameters()
        ...         return Report({"norm": sum(float(p.detach().norm()) for p in parameters)})
        >>> machine = BoltzmannMachine.fully_visible(2)
        >>> history = fit(machine, torch.eye(2), ExactLikelihood(), epochs=2, observers=[Norm()])
        >>> [sorted(row) for row in history.metrics]
        [['epoch', 'norm', 'seconds'], ['epoch', 'norm', 'seconds']]
    """

    @abstractmethod
    def after_epoch(self, progress: Progress) -> Report | None:
        """Looks at an epoch.

        Args:
            progress: Where learning stands.
        """


class AtEnd(Observer):
    """Is called when all epochs are over or an observer has stopped the learning.

    An exception or Ctrl-C is not such an end: it is called when learning has gone on to its end.

    Example:
        >>> import torch
        >>> from pyro_ebm import AtEnd, BoltzmannMachine, ExactLikelihood, fit
        >>> class Goodbye(AtEnd):
        ...     def at_end(self, progress):
        ...         print("epochs:", progress.epoch)
        >>> machine = BoltzmannMachine.fully_visible(2)
        >>> history = fit(machine, torch.eye(2), ExactLikelihood(), epochs=4, observers=[Goodbye()])
        epochs: 4
    """

    @abstractmethod
    def at_end(self, progress: Progress) -> None:
        """Finishes something.

        Args:
            progress: Where learning stands.
        """
