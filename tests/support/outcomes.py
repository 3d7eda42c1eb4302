"""Every outcome of a step, with its probability: transition matrices of any kernel's own code.

Whatever a kernel draws comes from a law that it says: events and choices (`kernels.chance`,
`torch.rand_like` compared with the probability it was given), units in fields (`Unit.sample`), and
labels and listed values with their log-weights (`draw_labels`, `FiniteLaw.sample`).
A first step counts the draws; then all their outcomes are forced, one for each row of a batch, and
their probabilities multiplied. So the matrix is that of the code path which the user runs.

What is drawn once for all chains (which units make a block, which kernel of a mixture moves) is
forced as well, one choice after another, by `shared_choices`.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from pyro_ebm.energies.fields import labels, structure as field_structure
from pyro_ebm.kernels import Mass, chance
from pyro_ebm.kernels.discrete import integer_walk
from pyro_ebm.kernels.settings import Length
from pyro_ebm.sites import Sites
from pyro_ebm.units import Bernoulli, Categorical, FiniteLaw, Spin, Unit

LARGEST = 2**17  # outcomes of a start
HALVES = 2  # values of a number that is drawn once: a mixture has two kernels in the tables


class TooManyOutcomesError(AssertionError):
    """There are too many outcomes to go through."""


class Draws:
    """Draws at random, of which only the numbers of outcomes are kept.

    Args:
        rows: The size of the leading batch dimension.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.counts: list[int] = []  # of outcomes, one for each row of a draw

    def next(self, draws: int, options: int) -> Tensor:  # (rows, draws)
        """The outcomes of the next draws of every row."""
        self.counts += [options] * draws
        return torch.randint(options, (self.rows, draws))

    def happened(self, probability: Tensor, happens: Tensor) -> None:
        """Is told the probabilities of events (rows, draws), and what happened."""

    def weighed(self, log_probability: Tensor) -> None:
        """Is told the log-probability of what was chosen (rows,)."""

    def events(self, probability: Tensor) -> Tensor:
        """In place of `torch.rand_like`: below a probability where the event is to happen."""
        rows = probability.reshape(self.rows, -1).double()
        outcome = self.next(rows.shape[1], 2).bool()
        self.happened(rows, outcome)
        # An event of the probability 0 or 1 cannot be forced otherwise; its outcome weighs 0.
        forced = torch.where(outcome, -torch.ones_like(rows), 2 * torch.ones_like(rows))
        return forced.reshape(probability.shape).to(probability.dtype)

    def choose(self, log_weights: Tensor) -> Tensor:
        """In place of `chance.choose`."""
        options = log_weights.shape[-1]
        rows = log_weights.reshape(self.rows, -1, options).double()
        outcome = self.next(rows.shape[1], options)
        none = rows.isneginf().all(-1, keepdim=True)  # where it is −1, whatever the outcome
        log_prob = rows.masked_fill(none, 0).log_softmax(-1).gather(-1, outcome[..., None])
        self.weighed(log_prob.flatten(1).sum(1))
        # What cannot be chosen weighs 0, and is something that can be: it may stand for no value.
        possible = log_prob.squeeze(-1) > -math.inf
        outcome = torch.where(possible, outcome, rows.argmax(-1)).masked_fill(none.squeeze(-1), -1)
        return outcome.reshape(log_weights.shape[:-1])

    def choose_cumulated(self, cumulative: Tensor) -> Tensor:
        """In place of `chance.choose_cumulated`."""
        steps = cumulative.double().diff(prepend=torch.zeros_like(cumulative[..., :1]))
        return self.choose(steps.log())

    def choose_label(self, logits: Tensor) -> Tensor:
        """In place of `draw_labels`: (q, *batch) -> (*batch)."""
        return self.choose(logits.movedim(0, -1))

    def choose_value(self, law: FiniteLaw) -> Tensor:
        """In place of `FiniteLaw.sample`."""
        return law.values[self.choose(law.logits)]

    def displacement(self, mass: Mass, scale: Length, like: Tensor) -> Tensor:
        """In place of `integer_walk.displacement`: by two at most, all as likely."""
        units = like.numel() // self.rows
        outcome = self.next(units, 5)
        self.weighed(torch.full((self.rows,), -units * math.log(5), dtype=torch.float64))
        return (outcome - 2).reshape(like.shape).to(like)

    def sample(self, unit: Unit, field: Tensor) -> Tensor:
        """In place of `Unit.sample`, for fields with the chains first or last."""
        if isinstance(unit, Categorical):
            label = self.choose(unit.by_label(field)).to(field.dtype)
            field.fill_(math.nan)  # which it may overwrite
            return label
        chains_first = self.rows in itertools.accumulate(field.shape, operator.mul)
        if chains_first:
            rows = field.reshape(self.rows, -1)
        else:  # (units, rows) or (rows,), levels of each row following one another
            rows = field.reshape(-1, self.rows, field.shape[-1] // self.rows).transpose(0, 1)
        flat = rows.reshape(self.rows, -1).double()
        outcome = self.next(flat.shape[1], 2).bool()
        self.happened((flat * (2 if isinstance(unit, Spin) else 1)).sigmoid(), outcome)
        low, high = unit.levels
        value = torch.where(outcome, high, low).to(field.dtype).reshape(rows.shape)
        field.fill_(math.nan)  # which it may overwrite
        if not chains_first:
            value = value.transpose(0, 1)
        return value.reshape(field.shape)


class Script(Draws):
    """Draws that follow a list of outcomes, one list for each row.

    Args:
        outcomes: What is drawn, in order (rows, draws).
    """

    def __init__(self, outcomes: Tensor) -> None:
        super().__init__(len(outcomes))
        self.outcomes = outcomes
        self.position = 0
        self.probability = torch.ones(len(outcomes), dtype=torch.float64)

    def next(self, draws: int, options: int) -> Tensor:
        first, self.position = self.position, self.position + draws
        return self.outcomes[:, first : self.position]

    def happened(self, probability: Tensor, happens: Tensor) -> None:
        # Computed from the side that is small, to the last digit.
        self.probability *= torch.where(happens, probability, 1 - probability).prod(1)

    def weighed(self, log_probability: Tensor) -> None:
        self.probability *= log_probability.exp()


@contextmanager
def drawn_from(draws: Draws) -> Iterator[None]:
    """Kernels draw from `draws`."""
    with (
        mock.patch.object(torch, "rand_like", draws.events),
        mock.patch.object(chance, "choose", draws.choose),
        mock.patch.object(chance, "choose_cumulated", draws.choose_cumulated),
        mock.patch.object(Bernoulli, "sample", lambda unit, field: draws.sample(unit, field)),
        mock.patch.object(Spin, "sample", lambda unit, field: draws.sample(unit, field)),
        mock.patch.object(Categorical, "sample", lambda unit, field: draws.sample(unit, field)),
        mock.patch.object(FiniteLaw, "sample", lambda law: draws.choose_value(law)),
        mock.patch.object(integer_walk, "displacement", draws.displacement),
        mock.patch.object(labels, "draw_labels", draws.choose_label),
        mock.patch.object(field_structure, "draw_labels", draws.choose_label),
    ):
        yield


class Outcomes(NamedTuple):
    """Where a step may lead.

    Args:
        reached: The values by site (starts, outcomes, *laws, *shape).
        probability: Of each outcome (starts, outcomes, *laws), in float64.
    """

    reached: Sites
    probability: Tensor


def all_outcomes(
    step: Callable[[Sites], Sites],
    starts: Sites,
    laws: tuple[int, ...] = (),
    most: float = math.inf,
) -> Outcomes:
    """All outcomes of a step from each of some starts.

    Args:
        step: From values (rows, *laws, *shape) by site to values of the same shapes.
        starts: Values (starts, *laws, *shape) by site.
        laws: The batch of the energy's parameters; what is drawn is the same for each of them.
        most: How many rows there may be, one for each outcome of each start.

    Raises:
        TooManyOutcomesError: If there are more.
    """
    count, each = len(next(iter(starts.values()))), math.prod(laws)
    draws = Draws(count * each)
    with drawn_from(draws):
        step({site: value.clone() for site, value in starts.items()})
    total = math.prod(draws.counts)
    if total > LARGEST or count * each * total > most:
        raise TooManyOutcomesError(f"{total} outcomes are too many")
    outcomes = combinations(draws.counts)
    script = Script(outcomes.repeat_interleave(each, 0).repeat(count, 1))
    with drawn_from(script):
        reached = step(
            {s: value.repeat_interleave(len(outcomes), 0) for s, value in starts.items()}
        )
    assert script.position == outcomes.shape[1], "the number of draws depends on their outcomes"
    shape = (count, len(outcomes))
    return Outcomes(
        {site: value.reshape(*shape, *value.shape[1:]) for site, value in reached.items()},
        script.probability.reshape(*shape, *laws),
    )


def combinations(counts: Sequence[int]) -> Tensor:  # (outcomes, draws)
    """All combinations of so many options each."""
    total = math.prod(counts)
    index = torch.arange(total)
    columns = []
    for count in reversed(counts):
        columns.append(index % count)
        index = index // count
    return torch.stack(columns[::-1], 1) if columns else index[:, None][:, :0]


def matrix_of(step: Callable[[Sites], Sites], states: Sites) -> Tensor:  # (states, states)
    """T[x, y] of a step, over the listed states.

    Args:
        step: As for `all_outcomes`.
        states: All states (states, *shape) by site.
    """
    return reached_by(all_outcomes(step, states), states)


def reached_by(found: Outcomes, states: Sites) -> Tensor:  # (starts, *laws, states)
    """With what probability each of the states is reached.

    Args:
        found: The outcomes.
        states: All states (states, *shape) by site.
    """
    flat = torch.cat([value.reshape(len(value), -1) for value in states.values()], 1)
    shape = (*found.probability.shape, -1)
    reached = torch.cat([value.reshape(shape) for value in found.reached.values()], -1)
    # A random linear form tells states apart.
    weights = torch.rand(flat.shape[1], dtype=torch.float64)
    keys, order = (flat.double() @ weights).sort()
    near = torch.searchsorted(keys, reached.double() @ weights - 1e-9)
    index = order[near.clamp(max=len(keys) - 1)]
    possible = found.probability > 0
    assert torch.equal(flat[index][possible], reached[possible].to(flat)), (
        "a step left the listed states"
    )
    index, probability = index.movedim(1, -1), found.probability.movedim(1, -1)
    total = torch.zeros(*index.shape[:-1], len(flat), dtype=torch.float64)
    return total.scatter_add_(-1, index, probability)


@contextmanager
def shared(choices: Sequence[int], options: list[int]) -> Iterator[None]:
    """What a kernel draws once for all chains follows a list; where it ends, the first option.

    Args:
        choices: Which of its options each draw takes, in order.
        options: Is told how many each had.
    """
    rand, randint = torch.rand, torch.randint

    def chosen(count: int) -> int:
        options.append(count)
        return choices[len(options) - 1] if len(options) <= len(choices) else 0

    def one_number(*size: Any, **settings: Any) -> Tensor:
        if size != ((),) or "generator" in settings:
            return rand(*size, **settings)
        return torch.tensor((chosen(HALVES) + 0.5) / HALVES, dtype=torch.float64)

    def one_integer(*arguments: Any, **settings: Any) -> Tensor:
        if len(arguments) != 2 or arguments[1] != () or "generator" in settings:
            return randint(*arguments, **settings)
        return torch.tensor(chosen(arguments[0]))

    def permutation(units: int) -> Tensor:
        every = list(itertools.permutations(range(units)))
        return torch.tensor(every[chosen(len(every))])

    with (
        mock.patch.object(torch, "rand", one_number),
        mock.patch.object(torch, "randint", one_integer),
        mock.patch.object(torch, "randperm", permutation),
    ):
        yield


def shared_choices(found: Callable[[Callable[[], Any]], Tensor]) -> Tensor:
    """The mean, over all that is drawn once for all chains, of what is found with it.

    Args:
        found: Is given a context manager's function, in which the kernel is to make each step.
    """
    total: Any = 0.0
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        choices = waiting.pop()
        options: list[int] = []

        def again(choices: tuple[int, ...] = choices, options: list[int] = options) -> Any:
            options.clear()
            return shared(choices, options)

        own = found(again)
        total = total + own / math.prod(options)
        for place in range(len(choices), len(options)):
            taken = (*choices, *[0] * (place - len(choices)))
            waiting += [(*taken, other) for other in range(1, options[place])]
    return total


class Violation(NamedTuple):
    """How far a transition matrix is from leaving π unchanged; zeros for a right one.

    Args:
        rows: The largest |Σ_y T[x, y] − 1|.
        stationary: The largest |(πT − π)[y]|.
        unreachable: How many pairs of states no power of T joins.
    """

    rows: float
    stationary: float
    unreachable: int

    def found(self, limit: float = 1e-12) -> set[str]:
        """The names of what is violated."""
        return {name for name, value in self._asdict().items() if not value <= limit}


def violation_of(matrix: Tensor, law: Tensor) -> Violation:
    """What a transition matrix violates."""
    reach = (matrix > 0).double()
    for _ in range(math.ceil(math.log2(len(matrix))) + 1):
        reach = ((reach + reach @ reach) > 0).double()
    return Violation(
        float((matrix.sum(1) - 1).abs().max()),
        float((law @ matrix - law).abs().max()),
        int((reach == 0).sum()),
    )
