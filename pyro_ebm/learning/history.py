"""What learning has come to, and what it takes to go on from there."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from pyro_ebm.seeding import GeneratorState

from .base import Step

Moment = Literal["at_start", "after_update", "after_epoch", "at_end"]
Stage = Literal["between", "learning", "over"] | Moment
ENDS = 4  # rows shown at both ends of a history
OWN = ("epoch", "seconds")  # names in a row of metrics that no observer reports


class Place(NamedTuple):
    """Where learning stands between two steps."""

    state: object  # the objective's
    generators: GeneratorState
    rows: int  # of the data
    epoch: int = 0  # under way, or the last one; from 1
    phase: Stage = "between"  # what is under way
    batches: tuple[Tensor | None, ...] = ()  # of the epoch under way; None for all rows
    learned: int = 0  # of these batches
    called: int = 0  # observers of the moment under way
    stopped: str | None = None  # by an observer, and why
    metrics: tuple[dict[str, float], ...] = ()  # one row for each epoch with reports
    updates: int = 0
    seconds: float = 0.0
    step: Step | None = None  # the last one, its loss detached

    @property
    def epochs_done(self) -> int:
        """The number of epochs that are over."""
        return self.epoch - bool(self.batches)

    @property
    def latest(self) -> dict[str, float]:
        """What observers have reported in this epoch."""
        if not self.metrics or self.metrics[-1]["epoch"] != self.epoch:
            return {}
        return {name: value for name, value in self.metrics[-1].items() if name not in OWN}


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What `fit` did.

    Args:
        metrics: The observers' reports, one dict for each epoch that has some, with `epoch` and
            `seconds`.
        state: The objective's state after the last step, with which another `fit` can go on.
        seed: The seed.
        interrupted: Whether it was stopped by hand; the parameters are those of the last step.
        optimizer: The optimiser, with its own state.
        place: What else it takes to go on: where in which epoch, and the random numbers.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, ExactLikelihood, datasets, fit
        >>> machine = BoltzmannMachine.restricted(14, 4)
        >>> women = datasets.southern_women().attendance
        >>> history = fit(machine, women, ExactLikelihood(), epochs=3, seed=0)
        >>> history.series("log_likelihood")[0]
        [1, 2, 3]
    """

    metrics: list[dict[str, float]]
    state: Any
    seed: int
    interrupted: bool
    optimizer: Optimizer
    place: Place

    def __repr__(self) -> str:
        done = f"{self.place.epochs_done} epochs, {self.place.updates} updates, seed {self.seed}"
        ended = ", interrupted" if self.interrupted else ""
        reason = f", stopped: {self.stopped}" if self.stopped else ""
        return "\n".join([f"History of {done}{ended}{reason}", *table(self.metrics)])

    @property
    def stopped(self) -> str | None:
        """Why an observer stopped the learning; None where none did."""
        return self.place.stopped

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one metric.

        Raises:
            KeyError: If no observer reported it.
        """
        rows = [row for row in self.metrics if name in row]
        if not rows:
            known = sorted({key for row in self.metrics for key in row})
            raise KeyError(f"{name!r} was not reported; the observers reported {known}.")
        return [row["epoch"] for row in rows], [row[name] for row in rows]


def table(rows: list[dict[str, float]]) -> list[str]:
    """The first rows of metrics and the last ones, in columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{row[name]:.5g}" if name in row else "" for name in names] for row in rows]
    if len(cells) > 2 * ENDS + 1:
        cells = [*cells[:ENDS], ["…"] * len(names), *cells[-ENDS:]]
    lines = [names, *cells] if names else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
