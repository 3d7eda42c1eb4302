"""Observers of `fit`: when they are called, what they see, how they stop it, and what is undone."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, Energy
from pyro_ebm.learning import (
    AfterEpoch,
    AfterUpdate,
    AtEnd,
    AtStart,
    ExactLikelihood,
    History,
    Monitor,
    Observer,
    PersistentContrastiveDivergence,
    Progress,
    Report,
    fit,
)
from tests.support.observers import EachEpoch
from tests.support.strikes import Strike, Struck

ROWS = torch.bernoulli(torch.full((40, 5), 0.4), generator=torch.Generator().manual_seed(1))
PCD = PersistentContrastiveDivergence(1, 10)


def learner() -> BoltzmannMachine:
    torch.manual_seed(5)
    return BoltzmannMachine.restricted(5, 3)


def learn(machine: Energy, *observers: Observer, **settings: Any) -> History:
    """Four epochs of three batches by PCD and Adam."""
    usual = {"epochs": 4, "batch_size": 15, "optimizer": torch.optim.Adam, "seed": 3}
    if isinstance(settings.get("state"), History):
        usual |= {"seed": None}
    return fit(machine, ROWS, PCD, observers=observers, **(usual | settings))


def numbers(machine: Energy) -> list[Tensor]:
    return [p.detach().clone() for p in machine.parameters()]


def same(first: Energy, second: Energy) -> bool:
    return all(map(torch.equal, first.parameters(), second.parameters()))


@dataclass(frozen=True, eq=False)
class Diary(AtStart, AfterUpdate, AfterEpoch, AtEnd):
    """Writes down all its calls."""

    name: str = ""
    calls: list[tuple[str, str, int, int]] = field(default_factory=list)

    def note(self, moment: str, progress: Progress) -> None:
        self.calls.append((self.name, moment, progress.epoch, progress.updates))

    def at_start(self, progress: Progress) -> None:
        self.note("start", progress)

    def after_update(self, progress: Progress) -> Report | None:
        return self.note("update", progress)

    def after_epoch(self, progress: Progress) -> Report | None:
        return self.note("epoch", progress)

    def at_end(self, progress: Progress) -> None:
        self.note("end", progress)


@dataclass(frozen=True, eq=False)
class EachUpdate(AfterUpdate):
    """Calls a function after each update."""

    call: Callable[[Progress], Any]

    def after_update(self, progress: Progress) -> Report | None:
        return self.call(progress)


@dataclass(frozen=True, eq=False)
class AtBothEnds(AtStart, AtEnd):
    """Calls a function at the start, and one at the end."""

    start: Callable[[Progress], Any] = lambda progress: None
    end: Callable[[Progress], Any] = lambda progress: None

    def at_start(self, progress: Progress) -> None:
        return self.start(progress)

    def at_end(self, progress: Progress) -> None:
        return self.end(progress)


def stop_at(update: int) -> EachUpdate:
    return EachUpdate(lambda p: Report(stop=f"update {update}") if p.updates == update else None)


# --- when they are called, and what they see -----------------------------------------------------


def test_the_order_of_the_moments_and_of_two_observers() -> None:
    calls: list[tuple[str, str, int, int]] = []
    learn(learner(), Diary("a", calls), Diary("b", calls), epochs=2, batch_size=20)
    moments = [
        ("start", 0, 0),
        ("update", 1, 1),
        ("update", 1, 2),
        ("epoch", 1, 2),
        ("update", 2, 3),
        ("update", 2, 4),
        ("epoch", 2, 4),
        ("end", 2, 4),
    ]
    assert calls == [(name, *moment) for moment in moments for name in "ab"]


def test_what_an_observer_sees() -> None:
    machine, seen = learner(), []
    history = learn(
        machine,
        EachUpdate(seen.append),
        AtBothEnds(lambda progress: seen.append(progress)),
        epochs=2,
    )
    start, *updates = seen
    assert start.step is None
    assert [progress.epoch for progress in updates] == [1, 1, 1, 2, 2, 2]
    assert all(progress.energy is machine for progress in seen)
    assert all(progress.optimizer is history.optimizer for progress in seen)
    assert all(progress.epochs == 2 for progress in seen)
    assert all(torch.equal(progress.data["visible"], ROWS) for progress in seen)
    for progress in updates:
        assert not progress.step.loss.requires_grad
        assert progress.step.fantasies["visible"].shape == (10, 5)
    assert updates[-1].step.state is history.state


def test_later_observers_see_what_earlier_ones_reported_in_the_epoch() -> None:
    seen: list[dict[str, float]] = []
    history = learn(
        learner(),
        EachUpdate(lambda p: Report({"update": p.updates})),
        EachEpoch(lambda p: Report({"half": p.epoch / 2, "twice": 0.0})),
        EachEpoch(lambda p: seen.append(p.metrics)),
        EachEpoch(lambda p: Report({"twice": torch.tensor(2.0 * p.epoch)})),
        epochs=2,
    )
    assert seen == [
        {"update": 3.0, "half": 0.5, "twice": 0.0},
        {"update": 6.0, "half": 1.0, "twice": 0.0},
    ]
    assert history.series("twice") == ([1, 2], [2.0, 4.0])
    assert history.series("update") == ([1, 2], [3.0, 6.0])
    assert all(row["seconds"] > 0 for row in history.metrics)


def test_the_usual_observer_is_a_monitor() -> None:
    history = fit(learner(), ROWS, ExactLikelihood(), epochs=2)
    assert len(history.series("log_likelihood")[1]) == 2
    quiet = fit(learner(), ROWS, ExactLikelihood(), epochs=2, observers=())
    assert quiet.metrics == []


# --- stopping, and going on ----------------------------------------------------------------------


def test_early_stopping_in_three_lines() -> None:
    """By the held-out rows, which a monitor before it reports."""

    class Patience(AfterEpoch):
        best, since = -torch.inf, 0

        def after_epoch(self, progress: Progress) -> Report | None:
            now = progress.metrics["held_out_log_likelihood"]
            self.best, self.since = max(now, self.best), 0 if now > self.best else self.since + 1
            return Report(stop="no better in five epochs") if self.since == 5 else None

    machine, train = BoltzmannMachine.fully_visible(5), ROWS[:12]
    observers = [Monitor(held_out=ROWS[12:]), Patience()]
    history = fit(machine, train, ExactLikelihood(), epochs=5000, observers=observers)
    assert history.stopped == "no better in five epochs"
    _, values = history.series("held_out_log_likelihood")
    assert len(values) < 5000
    assert max(values) == values[-6]


@pytest.mark.parametrize("update", [1, 5, 6])
def test_after_a_stop_the_rest_of_the_moment_is_called_and_the_end(update: int) -> None:
    before, after = Diary("before"), Diary("after")
    history = learn(learner(), before, stop_at(update), after)
    assert history.stopped == f"update {update}"
    epoch = 1 + (update - 1) // 3
    for diary in (before, after):
        assert diary.calls[-2:] == [
            (diary.name, "update", epoch, update),
            (diary.name, "end", epoch, update),
        ]


def test_the_first_of_two_reasons_to_stop_counts() -> None:
    history = learn(
        learner(),
        EachEpoch(lambda p: Report(stop="one")),
        EachEpoch(lambda p: Report(stop="two")),
    )
    assert history.stopped == "one"


@pytest.mark.parametrize("update", [1, 5, 6])
def test_learning_goes_on_after_an_observer_stopped_it(update: int) -> None:
    """In the midst of an epoch, and before the calls after one."""
    whole, parts, right, diary = learner(), learner(), Diary(), Diary()
    unbroken = learn(whole, right, Monitor())
    first = learn(parts, diary, Monitor(), stop_at(update))
    assert not same(whole, parts)
    more = learn(parts, diary, Monitor(), state=first)
    assert same(whole, parts)
    assert more.stopped is None
    assert more.series("moment_mismatch") == unbroken.series("moment_mismatch")
    calls = [call for call in diary.calls if call[1] in ("update", "epoch")]
    assert calls == [call for call in right.calls if call[1] in ("update", "epoch")]


def test_learning_goes_on_after_a_stop_at_the_end_of_an_epoch() -> None:
    whole, parts = learner(), learner()
    learn(whole, epochs=6)
    stop = EachEpoch(lambda p: Report(stop="two") if p.epoch == 2 else None)
    first = learn(parts, stop)
    assert first.place.epoch == 2
    with pytest.raises(ValueError, match="for ten more give epochs=12"):
        learn(parts, stop, state=first, epochs=2)
    second = learn(parts, stop, state=first)
    assert (second.stopped, second.place.epoch) == (None, 4)
    learn(parts, state=second, epochs=6)
    assert same(whole, parts)


def test_a_history_that_an_observer_copies_goes_on_from_there() -> None:
    whole, copies = learner(), []
    learn(whole, EachUpdate(lambda p: copies.append(copy.deepcopy((p.energy, p.history)))))
    machine, history = copies[4]
    learn(machine, EachUpdate(lambda p: None), state=history)
    assert same(whole, machine)


# --- random numbers, and what is undone ----------------------------------------------------------


def test_the_start_is_observed_in_every_call_and_leaves_the_random_numbers_alone() -> None:
    whole, parts, drawn = learner(), learner(), []
    learn(whole)
    draw = AtBothEnds(lambda progress: drawn.append(torch.rand(())))
    first = learn(parts, draw, draw, epochs=2)
    learn(parts, draw, state=first)
    assert len(drawn) == 3
    assert same(whole, parts)


@dataclass(frozen=True, eq=False)
class Shaking(AtStart, AfterUpdate, AfterEpoch, AtEnd):
    """Moves a parameter at random, the optimiser's rate and its moments; may fail half way."""

    at: tuple[str, int] = ("never", 0)
    error: type[BaseException] = RuntimeError
    before: list[Any] = field(default_factory=list)

    def shake(self, moment: str, progress: Progress) -> None:
        now = copy.deepcopy((numbers(progress.energy), progress.optimizer.state_dict()))
        first = next(iter(progress.energy.parameters()))
        with torch.no_grad():
            first.add_(torch.randn_like(first))
        for group in progress.optimizer.param_groups:
            group["lr"] *= 0.9
        for state in progress.optimizer.state.values():
            state["exp_avg"].mul_(0.5)
        if (moment, progress.updates) == self.at:
            self.before.append(now)
            raise self.error

    def at_start(self, progress: Progress) -> None:
        if self.at[0] == "start":
            self.shake("start", progress)

    def after_update(self, progress: Progress) -> Report | None:
        return self.shake("update", progress)

    def after_epoch(self, progress: Progress) -> Report | None:
        return self.shake("epoch", progress)

    def at_end(self, progress: Progress) -> None:
        self.shake("end", progress)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [("start", 0), ("update", 5), ("epoch", 6), ("end", 12)], ids=str)
def test_an_observer_that_fails_half_way_changes_nothing(
    at: tuple[str, int], error: type[BaseException]
) -> None:
    whole, parts, failing = learner(), learner(), Shaking(at, error)
    learn(whole, Shaking())
    if error is KeyboardInterrupt:
        history = learn(parts, failing)
        assert history.interrupted
    else:
        with pytest.raises(RuntimeError) as caught:
            learn(parts, failing)
        history = vars(caught.value)["history"]
    ((right, settings),) = failing.before
    assert all(map(torch.equal, right, numbers(parts)))
    now = history.optimizer.state_dict()
    assert now["param_groups"] == settings["param_groups"]
    for number, state in settings["state"].items():
        assert all(torch.equal(value, now["state"][number][key]) for key, value in state.items())
    learn(parts, Shaking(), state=history)
    assert same(whole, parts)


def test_an_observer_that_is_struck_anywhere_moves_things_once() -> None:
    whole, right = learner(), Shaking()
    count = Strike()
    count(lambda: learn(whole, right, epochs=2))
    lines = torch.randint(count.count, (12,), generator=torch.Generator().manual_seed(2)).tolist()
    for at in lines:
        parts, strike = learner(), Strike(at, Struck)
        history = vars(strike(lambda m=parts: learn(m, right, epochs=2)).error).get("history")
        if history is None or history.place.phase == "over":
            continue
        learn(parts, right, epochs=2, state=history)
        assert same(whole, parts), strike.where


def test_the_end_is_not_that_of_a_broken_call() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.epoch == 2 and not broken:
            broken.append(True)
            raise KeyboardInterrupt

    broken: list[bool] = []
    machine, diary = learner(), Diary()
    history = learn(machine, diary, EachEpoch(interrupt))
    assert "end" not in {moment for _, moment, *_ in diary.calls}
    learn(machine, diary, EachEpoch(interrupt), state=history)
    assert [call for call in diary.calls if call[1] == "end"] == [("", "end", 4, 12)]


# --- what is refused -----------------------------------------------------------------------------


class Idle(Observer):
    """Is called at no moment."""


@pytest.mark.parametrize(
    ("observers", "words"),
    [
        (Monitor(), r"wanted a sequence.*observers=\[Monitor\(\)\]"),
        ([Monitor], r"wanted an instance.*Monitor\(\)"),
        ([print], "inherits AtStart, AfterUpdate, AfterEpoch or AtEnd"),
        ([Idle()], "inherits AtStart, AfterUpdate, AfterEpoch or AtEnd"),
    ],
)
def test_what_is_no_observer_is_refused(observers: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        fit(learner(), ROWS, PCD, observers=observers)


@pytest.mark.parametrize(
    ("report", "error", "words"),
    [
        ("stop", TypeError, r"after_epoch returned 'stop'; wanted a Report.*Report\(stop="),
        ({"loss": 1.0}, TypeError, r"wanted a Report.*Report\(metrics="),
        (Report({"epoch": 1.0}), ValueError, r"named \['epoch'\].*other names"),
        (Report({"loss": "low"}), TypeError, "wanted numbers by name"),
        (Report({"loss": torch.zeros(2)}), TypeError, "wanted numbers by name"),
        (Report(stop=True), TypeError, "stop=True; wanted why as a string"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_is_no_report_is_refused_and_undone(
    report: Any, error: type[Exception], words: str
) -> None:
    machine, kept = learner(), []

    def wrong(progress: Progress) -> Any:
        kept.extend(numbers(machine))
        with torch.no_grad():
            next(machine.parameters()).add_(1)
        return report

    with pytest.raises(error, match=words):
        learn(machine, EachEpoch(wrong))
    assert all(map(torch.equal, kept, numbers(machine)))


@pytest.mark.parametrize("moment", ["start", "end"])
def test_nothing_is_reported_at_the_start_and_at_the_end(moment: str) -> None:
    observer = AtBothEnds(**{moment: lambda progress: Report(stop="now")})
    with pytest.raises(TypeError, match=f"at_{moment} returned .*; wanted None"):
        learn(learner(), observer)


@pytest.mark.parametrize("old", ["monitor", "callbacks"])
def test_the_old_parameters_are_gone(old: str) -> None:
    ask = functools.partial(fit, learner(), ROWS, PCD, **{old: Monitor()})
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{old}'"):
        ask()
