"""The training loop: minibatches, an objective, any torch optimiser, and figures on the way."""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from pyro_ebm.energies import Energy, PairwiseEnergy
from pyro_ebm.learning.observers.monitor import Monitor
from pyro_ebm.learning.posterior.positive_phase import rows_of
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites
from pyro_ebm.units import Unit

from .base import Objective

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Progress(NamedTuple):
    """What a callback is told after each epoch."""

    epoch: int  # from 1
    energy: Energy
    optimizer: Optimizer
    figures: dict[str, float]  # the monitor's, empty in epochs that it does not read


Callback = Callable[[Progress], Literal["stop"] | None]


@dataclass(frozen=True, eq=False)
class History:
    """What `fit` did.

    Args:
        figures: The monitor's readings, one dict each, with `epoch` and `seconds`.
        state: The objective's state after the last step, with which another `fit` can go on.
        seed: The seed.
        interrupted: Whether it was stopped by hand; the parameters are those of the last step.
    """

    figures: list[dict[str, float]]
    state: Any = field(repr=False)
    seed: int
    interrupted: bool

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one figure.

        Raises:
            KeyError: If it was never read.
        """
        rows = [row for row in self.figures if name in row]
        if not rows:
            known = sorted({key for row in self.figures for key in row})
            raise KeyError(f"{name!r} was not read; the monitor read {known}.")
        return [row["epoch"] for row in rows], [row[name] for row in rows]


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser where none is given: Adam with a learning rate of 0.01."""
    return torch.optim.Adam(parameters, lr=0.01)


def fit(  # noqa: PLR0913 (the settings of one loop, each by its name)
    energy: Energy,
    data: Sites | Tensor,
    objective: Objective,
    *,
    epochs: int = 10,
    batch_size: int | None = None,
    optimizer: Optimizer | MakeOptimizer = adam,
    monitor: Monitor | None = None,
    callbacks: Sequence[Callback] = (),
    state: Any = None,  # noqa: ANN401 (the objective's State)
    seed: int | None = None,
) -> History:
    """Learns the parameters of an energy from data, in place.

    Ctrl-C ends it with the parameters of the last step.

    Args:
        energy: What is learned: its `parameters()`.
        data: Observed sites (rows, n), or a bare tensor for `visible`; rows are drawn without
            replacement in every epoch.
        objective: The learning rule.
        epochs: Passes over the data.
        batch_size: Rows of a minibatch (the last of an epoch may be smaller); all if left out.
        optimizer: A torch optimiser, or what makes one of the parameters, for example
            `functools.partial(torch.optim.SGD, lr=0.05)`.
        monitor: Which figures are taken; every epoch's if left out.
        callbacks: Called after each epoch; one that returns "stop" ends the learning.
        state: The objective's state from an earlier `fit`, to go on with its chains.
        seed: Of this call; the global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If the data, a count or the objective are not what is wanted.
        FloatingPointError: If the loss becomes NaN; the parameters are those before that step.
    """
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective is {objective!r}; wanted an objective, for example ExactLikelihood()."
        )
    x = energy.accept(data)
    rows = rows_of(x)
    batch_size = check_counts(rows, epochs, batch_size)
    parameters = [p for p in energy.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "The energy has no learned parameters: those given as plain tensors are kept as they "
            "are. Give an nn.Parameter, or nothing, for what is to be learned."
        )
    warn_of_constant_units(x, energy)
    monitor = monitor or Monitor()
    if monitor.held_out is not None:
        rows_of(energy.accept(monitor.held_out))
    optimizer = optimizer if isinstance(optimizer, Optimizer) else optimizer(parameters)
    seed = chosen_seed(seed)
    figures: list[dict[str, float]] = []
    begin, interrupted = time.perf_counter(), False
    with forked(seed, energy.device), tqdm(total=epochs, disable=None, unit="epoch") as bar:
        state = objective.init(energy, x) if state is None else state
        try:
            for epoch in range(1, epochs + 1):
                for batch in batches(x, rows, batch_size):
                    state = learn(energy, batch, objective, optimizer, state)
                read: dict[str, float] = {}
                if epoch % monitor.every == 0 or epoch == epochs:
                    read = monitor.read(energy, x, objective, state)
                    seconds = time.perf_counter() - begin
                    figures.append({"epoch": epoch, "seconds": seconds, **read})
                    bar.set_postfix({name: f"{value:.4g}" for name, value in read.items()})
                bar.update()
                told = Progress(epoch, energy, optimizer, read)
                if "stop" in [callback(told) for callback in callbacks]:
                    break
        except KeyboardInterrupt:
            interrupted = True
    return History(figures, state, seed, interrupted)


def learn(
    energy: Energy,
    batch: Sites,
    objective: Objective,
    optimizer: Optimizer,
    state: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """One step of the optimiser, and the objective's state after it.

    Raises:
        FloatingPointError: If the loss is not finite; no step is made then.
    """
    after = state
    # LBFGS calls the closure at points that it only tries: an end there must not leave them.
    tries = isinstance(optimizer, torch.optim.LBFGS)
    before = [p.detach().clone() for p in energy.parameters()] if tries else []

    def closure() -> Tensor:
        nonlocal after
        optimizer.zero_grad()
        loss, after = objective.loss(energy, batch, state)
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                "The loss became NaN or infinite; the parameters are those before this step. "
                "Lower the learning rate, or go on from earlier parameters."
            )
        loss.backward()
        return loss

    try:
        optimizer.step(closure)  # type: ignore[arg-type] # torch takes the tensor
    except (FloatingPointError, ValueError, KeyboardInterrupt):
        with torch.no_grad():
            for parameter, value in zip(energy.parameters(), before, strict=False):
                parameter.copy_(value)
        raise
    return after


def batches(x: Sites, rows: int, batch_size: int) -> Iterable[Sites]:
    """Minibatches of one epoch, in random order; the data themselves where one holds all."""
    if batch_size == rows:
        yield x
        return
    device = next(iter(x.values())).device
    for chosen in torch.randperm(rows, device=device).split(batch_size):
        # Not value[chosen], which takes five times as long.
        yield {site: value.index_select(0, chosen) for site, value in x.items()}


def check_counts(rows: int, epochs: int, batch_size: int | None) -> int:
    """The batch size, after the checks.

    Raises:
        ValueError: If a count is not positive, or the batch is larger than the data.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}; wanted a positive whole number.")
    if batch_size is None:
        return rows
    if not isinstance(batch_size, int) or not 1 <= batch_size <= rows:
        raise ValueError(
            f"batch_size is {batch_size!r}, but there are {rows} rows; wanted 1 to {rows}, "
            f"or None for all at once."
        )
    return batch_size


def warn_of_constant_units(x: Sites, energy: Energy) -> None:
    """Warns of units with one value in every row that the machine does not already have there.

    Their best bias, or their best precision, is infinite. From where `start_at_means` puts it, a
    bias hardly moves any more.
    """
    if not isinstance(energy, PairwiseEnergy):
        return
    with torch.no_grad():
        terms = energy.read()
    learned = {name for name, value in energy.named_parameters() if value.requires_grad}
    for site, value in x.items():
        if len(value) < 2:
            continue
        same = value.amin(0) == value.amax(0)
        unit = terms.units[site]
        if unit.levels is not None:
            far = distance_from_levels(unit, terms.biases[site], value[0])
            # As far as one more row of each value would draw the mean from its limit, and a little
            # farther.
            others = len(unit.levels) - 1
            same &= far > max(0.02, 1.1 * others / (len(value) + others + 1))
            grows, cure = "biases", "Call start_at_means(energy, data) first."
        else:
            same &= any(f"layers.{site}.{name}" in learned for name in unit.parameters)
            grows, cure = "precisions", "Leave these columns out, or give the precisions."
        if units := same.nonzero()[:, 0].tolist():
            warnings.warn(
                f"The units {units[:10]}{' …' if len(units) > 10 else ''} of {site!r} have the "
                f"same value in every row: the likelihood grows with their {grows} without end, "
                f"and learning spends itself on them. {cure}",
                stacklevel=3,
            )


def distance_from_levels(unit: Unit, bias: Tensor, value: Tensor) -> Tensor:  # (n,)
    """How far units alone in their biases are, on average, from values (n,): 0 to 1."""
    far = (unit.mean(bias) - unit.features(value)).abs()
    # A feature of labels is 0 or 1 as a bit is; two numbers are as far apart as they can be.
    levels = unit.levels or (0.0, 1.0)
    span = 1.0 if unit.width > 1 else max(levels) - min(levels)
    return far.unflatten(-1, (-1, unit.width)).amax(-1) / span
