"""The training loop: minibatches, an objective, any torch optimiser, and metrics on the way."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_ebm.energies import Energy, PairwiseTerms, terms_of
from pyro_ebm.kernels import read_structure
from pyro_ebm.learning.observers.base import Observer
from pyro_ebm.learning.observers.monitor import Monitor
from pyro_ebm.seeding import chosen_seed, forked, generator_state
from pyro_ebm.sites import Sites, is_count
from pyro_ebm.stopping import carry, whole_steps
from pyro_ebm.units import Unit

from .base import Objective, held_batch, rows_of
from .history import History, Place
from .learned import MakeOptimizer, learned_parameters, optimizer_of, require_moved
from .loop import Learning, Task, calls_of


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
    observers: Sequence[Observer] = (Monitor(),),
    state: object = None,
    seed: int | None = None,
) -> History:
    """Learns the parameters of an energy from data, in place.

    Ctrl-C ends it after the step under way (pressed again, at once), with the parameters, the
    optimiser and the random numbers of the last whole step. So does any other exception, which has
    the `History` as its `history`. The same call with `state=history` goes on to what an unbroken
    one would have given, bit for bit; to more epochs, if `epochs` is larger.

    Args:
        energy: What is learned: its `parameters()`.
        data: Observed sites (rows, *site.shape), or a bare tensor for `visible`; rows are drawn
            without replacement in every epoch.
        objective: The learning rule.
        epochs: Passes over the data, those of a `History` to go on from included.
        batch_size: Rows of a minibatch (the last of an epoch may be smaller); all if left out.
        optimizer: A torch optimiser of all parameters that require gradients, or what makes one of
            them, for example `functools.partial(torch.optim.SGD, lr=0.05)`.
        observers: Called in this order at the moments that they are made for; they report metrics
            and may stop the learning. A `Monitor` of every epoch if left out.
        state: The `History` of an earlier `fit`, to go on exactly from its end, or from where an
            observer stopped it; or the objective's state in it, to go on with its chains alone.
        seed: Of this call; the global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If the data, a count, the optimiser, the objective or an observer are
            not what is wanted, or a tensor with gradients would not be learned.
        FloatingPointError: If a parameter is NaN at the start, or the loss becomes NaN; the
            parameters are those before that step.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, PersistentContrastiveDivergence, datasets, fit
        >>> machine = BoltzmannMachine.restricted(14, 4)
        >>> women = datasets.southern_women().attendance
        >>> history = fit(machine, women, PersistentContrastiveDivergence(), epochs=20, seed=0)
        >>> log_likelihood = history.series("log_likelihood")[1]
        >>> log_likelihood[0] < log_likelihood[-1]
        True
    """
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective is {objective!r}; wanted an objective, for example ExactLikelihood()."
        )
    x = energy.accept(data)
    rows = rows_of(x, energy.sites)
    batch_size = check_counts(rows, epochs, batch_size)
    structure = read_structure(energy)
    parameters = learned_parameters(energy, structure)
    warn_of_constant_units(x, energy, terms_of(structure))
    calls = calls_of(observers)
    if held_batch(energy):
        require_all_rows(rows, batch_size)
    history = state if isinstance(state, History) else None
    if history and not isinstance(optimizer, Optimizer):
        optimizer = history.optimizer
    optimizer = optimizer_of(optimizer, parameters)
    require_moved(optimizer, parameters)
    if history:
        require_rest(history, rows, epochs, seed)
    seed = history.seed if history else chosen_seed(seed)
    task = Task(energy, x, rows, batch_size, epochs, objective, optimizer, calls, seed)
    learning: Learning | None = None
    try:
        start = history.place.generators if history else seed
        with whole_steps() as look, forked(start, energy.device):
            place = resumed(history) if history else beginning(task, state)
            learning = Learning(task, place)
            learning.go(look)
            return learning.history
    except BaseException as error:
        if learning is None:
            raise
        done = learning.history
        if isinstance(error, KeyboardInterrupt):
            return replace(done, interrupted=True)
        carry(error, history=done)
        raise


def beginning(task: Task, state: object) -> Place:
    """Where learning begins: before the first epoch."""
    if state is None:
        state = task.objective.init(task.energy, task.data)
    return Place(state, generator_state(task.energy.device), task.rows)


def resumed(history: History) -> Place:
    """Where learning goes on: after an observer's stop as if there had been none."""
    place = history.place
    if place.phase == "over" and not history.interrupted:
        return place._replace(stopped=None)
    return place


def require_rest(history: History, rows: int, epochs: int, seed: int | None) -> None:
    """Refuses to go on where nothing is left to do, or with what would not be the same.

    Raises:
        ValueError: If so.
    """
    place = history.place
    if seed is not None and seed != history.seed:
        raise ValueError(
            f"seed is {seed}, but the history goes on with its own random numbers, of the seed "
            f"{history.seed}. Leave seed out; or give state=history.state, which begins anew."
        )
    if rows != place.rows:
        raise ValueError(
            f"The data have {rows} rows, those of the history {place.rows}. Give the same data; or "
            f"give state=history.state, which begins anew."
        )
    if epochs <= place.epochs_done and place.phase == "over" and not history.interrupted:
        raise ValueError(
            f"epochs is {epochs}, and the history has {place.epoch} already, which count; for ten "
            f"more give epochs={place.epoch + 10}."
        )


def check_counts(rows: int, epochs: int, batch_size: int | None) -> int:
    """The batch size, after the checks.

    Raises:
        ValueError: If a count is not positive, or the batch is larger than the data.
    """
    if not is_count(epochs):
        raise ValueError(f"epochs is {epochs!r}; wanted a positive whole number.")
    if batch_size is None:
        return rows
    if not is_count(batch_size) or batch_size > rows:
        raise ValueError(
            f"batch_size is {batch_size!r}, but there are {rows} rows; wanted 1 to {rows}, "
            f"or None for all at once."
        )
    return int(batch_size)


def require_all_rows(rows: int, batch_size: int) -> None:
    """Refuses what would pair rows of data with other rows than those held with them.

    Raises:
        ValueError: If not all rows are used at once.
    """
    if batch_size < rows:
        raise ValueError(
            f"batch_size is {batch_size}, but the energy holds a row of values for each of the "
            f"{rows} rows; leave batch_size out."
        )


def warn_of_constant_units(x: Sites, energy: Energy, terms: PairwiseTerms | None) -> None:
    """Warns of units with one value in every row that the machine does not already have there.

    Their best bias, or their best precision, is infinite. From where `init_biases_from_data` puts
    it, a bias hardly moves any more.
    """
    if terms is None:
        return
    learned = {name for name, value in energy.named_parameters() if value.requires_grad}
    for site, value in x.items():
        if len(value) < 2:
            continue
        same = value.amin(0) == value.amax(0)
        unit = terms.units[site]
        if unit.levels is not None:
            far = distance_from_levels(unit, terms.biases[site], value[0])
            far = far.reshape(-1, far.shape[-1]).mean(0)  # where each row has a field of its own
            # As far as one more row of each value would draw the mean from its limit, and a little
            # farther.
            others = len(unit.levels) - 1
            same &= far > max(0.02, 1.1 * others / (len(value) + others + 1))
            grows, cure = "biases", "Call init_biases_from_data(energy, data) first."
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
