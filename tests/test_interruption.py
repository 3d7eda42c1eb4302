"""What an exception leaves, wherever it comes: whole steps, all draws, and a way to go on.

An exception is raised before a line of the library that is chosen at random, once in each call.
What is left must be a part of what the unbroken call gives, and going on from it must give all of
it, bit for bit.
"""

import functools
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_ebm import (
    HMC,
    BoltzmannMachine,
    CallableEnergy,
    Chains,
    Cycle,
    Energy,
    EnergyKernel,
    ExactLikelihood,
    Gibbs,
    GibbsWithGradients,
    History,
    Kernel,
    Monitor,
    NonFiniteEnergyError,
    NotMixedWarning,
    Objective,
    ParallelTempering,
    PersistentContrastiveDivergence,
    RandomWalk,
    SwendsenWang,
    TemperedTransitions,
    Verdict,
    compare_starts,
    diagnose,
    fit,
    infer,
    resume,
    run,
    sample,
    stopping_on,
    to_arviz,
    warmup,
)
from pyro_ebm.kernels.chains import Record
from pyro_ebm.kernels.run import Course
from pyro_ebm.learning.loop import Kept
from pyro_ebm.seeding import one_thread
from tests.support.densities import SMALL
from tests.support.observers import EachEpoch
from tests.support.strikes import Outcome, Strike, Struck

FAST, SLOW = 2, 25  # strikes on each of the fourteen cases


class Case(NamedTuple):
    """A run that is struck."""

    kernel: Kernel
    energy: Callable[[], Energy]
    length: dict[str, Any]  # its words in `run`


def restricted() -> BoltzmannMachine:
    torch.manual_seed(5)
    return BoltzmannMachine.restricted(5, 3, couplings=torch.randn(5, 3))


def ferromagnet() -> BoltzmannMachine:
    ring = [(0, 1), (1, 2), (2, 3), (3, 0)]
    return BoltzmannMachine.on_graph(ring, couplings=0.4 * torch.ones(4))


def normal() -> Energy:
    return SMALL["correlated normal in two sites"].as_energy()


RUNS = {
    "Gibbs": Case(Gibbs(), restricted, {"draws": 12, "warmup": 6, "keep": "everything"}),
    "HMC, tuned, thinned": Case(
        HMC(), normal, {"draws": 6, "warmup": 14, "thinning": 3, "keep": "everything"}
    ),
    "a cycle": Case(Cycle((RandomWalk(("a",)), HMC(("b",)))), normal, {"draws": 8, "warmup": 9}),
    "kept fields": Case(
        GibbsWithGradients(), restricted, {"draws": 10, "warmup": 4, "thinning": 2}
    ),
    "clusters": Case(SwendsenWang(), ferromagnet, {"draws": 9, "warmup": 0}),
    "a ladder": Case(ParallelTempering(Gibbs(), 4), ferromagnet, {"draws": 6, "warmup": 8}),
    "a journey": Case(
        TemperedTransitions(GibbsWithGradients(), torch.linspace(0.5, 1, 3)),
        ferromagnet,
        {"draws": 5, "warmup": 2},
    ),
}


@functools.cache
def whole(name: str) -> tuple[Chains, int, int]:
    """The unbroken run, its lines, and the line at which its first step begins."""
    kernel, energy, length = RUNS[name]
    machine = energy()
    run(kernel, machine, **length, chains=3, seed=4)  # some lines are run through once alone
    strike = Strike(mark="Course.make")
    chains = strike(lambda: run(kernel, machine, **length, chains=3, seed=4)).value
    assert strike.marked is not None
    return chains, strike.count, strike.marked


def places(lines: int, count: int, seed: int) -> list[int]:
    """Lines at random; the last ones too, where things are put back and returned."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.randint(lines, (count,), generator=generator).tolist()
    last = (lines - 1 - torch.randint(40, (count // 2,), generator=generator)).tolist()
    return [*some[: count - len(last)], *last]


def require_part(part: Chains, of: Chains) -> None:
    """Every draw and statistic is the first of the whole's."""
    for kept, everything in (
        (part.draws, of.draws),
        (part.warmup_draws, of.warmup_draws),
        (part.warmup_statistics, of.warmup_statistics),
    ):
        for name, value in kept.items():
            assert torch.equal(value, everything[name][:, : value.shape[1]]), name
    for name, value in part.statistics.items():
        right = of.statistics[name][:, : value.shape[1]]
        assert torch.equal(value.nan_to_num(7), right.nan_to_num(7)), name


def require_same(found: Chains, right: Chains) -> None:
    """As many draws, the same to the last bit; and the same place to go on from."""
    require_part(found, right)
    require_part(right, found)
    for name, value in right.last.items():
        assert torch.equal(found.last[name], value)
    assert torch.equal(found.generators["cpu"], right.generators["cpu"])


def gone_on(chains: Chains, energy: Energy, draws: int) -> Chains:
    left = draws - chains.statistics["lp"].shape[1]
    return resume(chains, energy, left) if left else chains


def struck_run(name: str, at: int, error: type[BaseException]) -> None:
    kernel, energy, length = RUNS[name]
    right, _, begun = whole(name)
    before = torch.get_rng_state()
    strike = Strike(at, error)
    machine = energy()
    torch.set_rng_state(before)
    found = strike(lambda: run(kernel, machine, **length, chains=3, seed=4))
    assert strike.where
    assert torch.equal(torch.get_rng_state(), before), strike.where
    require_free(strike)
    kept = found.value or vars(found.error).get("chains")
    if kept is None:
        assert at < begun, strike.where
        return
    assert found.value is None or error is KeyboardInterrupt, strike.where
    assert kept.interrupted == (error is KeyboardInterrupt), strike.where
    require_part(kept, right)
    require_same(gone_on(kept, machine, length["draws"]), right)


def require_free(strike: Strike) -> None:
    """Another thread can draw, and signals are as they were."""
    assert signal.getsignal(signal.SIGINT) is HANDLER, strike.where
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(one_thread.lock.acquire, timeout=0.1).result(5)
        pool.submit(one_thread.lock.release).result(5)


HANDLER = signal.getsignal(signal.SIGINT)  # of this process, before any run
ERRORS = [KeyboardInterrupt, Struck]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_struck_goes_on_as_if_it_had_not_been(name: str) -> None:
    for number, at in enumerate(places(whole(name)[1], FAST, 1)):
        struck_run(name, at, ERRORS[number % 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_struck_anywhere(name: str) -> None:
    for number, at in enumerate(places(whole(name)[1], SLOW, 2)):
        struck_run(name, at, ERRORS[number % 2])


def tuned(error: type[BaseException] | None = None, at: int | None = None) -> Any:
    """What a warm-up returns, or its exception has, and its lines."""
    strike = Strike(at, error or Struck, mark="MoverTuning.step")
    machine, start = normal(), {"a": torch.zeros(3), "b": torch.zeros(3, 1, 2)}
    start = {name: value.double() for name, value in start.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error" if at is not None and at % 2 else "ignore", UserWarning)
        try:
            found = strike(lambda: warmup(HMC(), machine, start, steps=12, seed=4))
        except UserWarning as stopped:
            found = Outcome(None, stopped)
    kept = found.value or [vars(found.error).get(name) for name in ("kernel", "state")]
    return (*kept, strike)


@pytest.mark.parametrize("error", ERRORS)
def test_a_warm_up_that_is_struck_keeps_what_it_has_found(error: type[BaseException]) -> None:
    kernel, state, strike = tuned()
    begun = strike.marked
    start = {name: torch.zeros_like(value) for name, value in state.x.items()}
    length = {"draws": 1, "warmup": 12, "keep": "everything"}
    right = run(HMC(), normal(), **length, initial=start, seed=4).warmup_draws
    steps = [{name: value[:, k] for name, value in right.items()} for k in range(12)]
    assert all(torch.equal(state.x[name], value) for name, value in steps[-1].items())
    for at in places(strike.count, 10, 9):
        kernel, state, struck = tuned(error, at)
        require_free(struck)
        if state is None:
            assert at < begun, struck.where
            continue
        assert isinstance(kernel, HMC)
        assert kernel.step_size is not None
        assert any(all(torch.equal(state.x[n], v) for n, v in x.items()) for x in [start, *steps])


# --- learning ------------------------------------------------------------------------------------

ROWS = torch.bernoulli(torch.full((40, 5), 0.4), generator=torch.Generator().manual_seed(1))


class Lesson(NamedTuple):
    """A `fit` that is struck."""

    objective: Objective
    optimizer: Any
    settings: dict[str, Any]


LESSONS = {
    "PCD, Adam": Lesson(
        PersistentContrastiveDivergence(1, 10), torch.optim.Adam, {"batch_size": 12, "epochs": 3}
    ),
    "likelihood, momentum": Lesson(
        ExactLikelihood(),
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        {"batch_size": 20, "epochs": 4, "monitor": Monitor(every=2)},
    ),
    "likelihood, LBFGS": Lesson(
        ExactLikelihood(), functools.partial(torch.optim.LBFGS, max_iter=3), {"epochs": 4}
    ),
}


class Lessons(NamedTuple):
    """What learning has come to."""

    parameters: list[Tensor]
    metrics: list[dict[str, float]]
    calls: list[int]


def learner() -> BoltzmannMachine:
    torch.manual_seed(5)
    return BoltzmannMachine.restricted(5, 3)


def result(machine: Energy, history: History, calls: list[int]) -> Lessons:
    metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in history.metrics]
    return Lessons([p.detach().clone() for p in machine.parameters()], metrics, calls)


def lesson(name: str, machine: Energy, calls: list[int], **settings: Any) -> History:
    objective, optimizer, chosen = LESSONS[name]
    note = [
        EachEpoch(lambda told: calls.append(told.epoch)),
        EachEpoch(lambda told: calls.append(-told.epoch)),
    ]
    chosen = {"monitor": Monitor(), **chosen, "optimizer": optimizer, "seed": 3, **settings}
    return fit(machine, ROWS, objective, observers=[chosen.pop("monitor"), *note], **chosen)


@functools.cache
def whole_lesson(name: str) -> tuple[Lessons, list[list[Tensor]], int, int]:
    """What comes of it, the parameters after each step, the lines, and the first step's."""
    lesson(name, learner(), [])
    machine, calls, steps = learner(), [], []
    strike = Strike(mark="Learning.begin")
    history = strike(lambda: lesson(name, machine, calls)).value
    machine_again = learner()

    def keep(*_: Any) -> None:
        steps.append([p.detach().clone() for p in machine_again.parameters()])

    keep()
    made = LESSONS[name].optimizer(machine_again.parameters())
    made.register_step_post_hook(keep)
    lesson(name, machine_again, [], optimizer=made)
    assert strike.marked is not None
    return result(machine, history, calls), steps, strike.count, strike.marked


def struck_lesson(name: str, at: int, error: type[BaseException]) -> None:
    right, steps, _, begun = whole_lesson(name)
    machine, calls = learner(), []
    before = torch.get_rng_state()
    strike = Strike(at, error)
    found = strike(lambda: lesson(name, machine, calls))
    assert strike.where
    assert torch.equal(torch.get_rng_state(), before), strike.where
    require_free(strike)
    now = [p.detach() for p in machine.parameters()]
    assert any(all(map(torch.equal, now, step)) for step in steps), strike.where  # whole steps
    history = found.value or vars(found.error).get("history")
    if history is None:
        assert at < begun, strike.where
        return
    assert history.interrupted == (error is KeyboardInterrupt)
    if history.place.phase != "over" or history.place.epoch < LESSONS[name].settings["epochs"]:
        history = lesson(name, machine, calls, state=history)
    again = result(machine, history, calls)
    assert all(map(torch.equal, again.parameters, right.parameters)), strike.where
    assert again.metrics == right.metrics, strike.where
    # A call struck before its report is kept is undone with all it changed, and made again.
    assert list(dict.fromkeys(again.calls)) == right.calls, strike.where
    assert len(again.calls) <= len(right.calls) + 1, strike.where


@pytest.mark.parametrize("name", LESSONS)
def test_learning_that_is_struck_goes_on_as_if_it_had_not_been(name: str) -> None:
    for number, at in enumerate(places(whole_lesson(name)[2], FAST, 3)):
        struck_lesson(name, at, ERRORS[number % 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_learning_that_is_struck_anywhere(name: str) -> None:
    for number, at in enumerate(places(whole_lesson(name)[2], SLOW, 4)):
        struck_lesson(name, at, ERRORS[number % 2])


# --- sample and infer.MCMC -----------------------------------------------------------------------


def sampled(machine: Energy) -> Chains:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotMixedWarning)
        return sample(machine, 30, chains=4, warmup=6, seed=4)


TARGETS: dict[str, Callable[[], Energy]] = {
    "one that mixes": restricted,
    "one that is tempered": lambda: 3.0 * restricted(),
}


@functools.cache
def whole_sample(name: str) -> tuple[list[Chains], int, int]:
    """All runs of an unbroken call, its lines, and the line at which its first step begins."""
    machine, runs = TARGETS[name](), []
    sampled(machine)
    strike = Strike(mark="Course.make")
    with pytest.MonkeyPatch.context() as patch:
        right = Course.chains

        def keep(course: Course) -> Chains:
            runs.append(right(course))
            return runs[-1]

        patch.setattr(Course, "chains", keep)
        strike(lambda: sampled(machine))
    assert strike.marked is not None
    return runs, strike.count, strike.marked


def struck_sample(name: str, at: int, error: type[BaseException]) -> None:
    runs, _, begun = whole_sample(name)
    machine, strike = TARGETS[name](), Strike(at, error)
    before = torch.get_rng_state()
    found = strike(lambda: sampled(machine))
    assert strike.where
    assert torch.equal(torch.get_rng_state(), before), strike.where
    require_free(strike)
    kept = found.value or vars(found.error).get("chains")
    if kept is None:
        assert at < begun, strike.where
        return
    if error is KeyboardInterrupt:
        assert kept.interrupted or "interrupted" in str(kept.attributes["tried"]), strike.where
    assert any(goes_on_to(kept, machine, right) for right in runs), strike.where


def goes_on_to(kept: Chains, machine: Energy, right: Chains) -> bool:
    """Whether the rest of the draws makes a run of it."""
    try:
        require_part(kept, right)
        require_same(gone_on(kept, machine, right.statistics["lp"].shape[1]), right)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_that_is_struck_goes_on_as_if_it_had_not_been(name: str) -> None:
    for number, at in enumerate(places(whole_sample(name)[1], FAST, 5)):
        struck_sample(name, at, ERRORS[number % 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_that_is_struck_anywhere(name: str) -> None:
    for number, at in enumerate(places(whole_sample(name)[1], SLOW, 6)):
        struck_sample(name, at, ERRORS[number % 2])


def mixture(data: Tensor) -> None:
    level = pyro.sample("level", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(data)):
        label = pyro.sample("label", dist.Bernoulli(0.4))
        pyro.sample("row", dist.Normal(level * label, 1.0), obs=data)


def moving() -> None:
    end = pyro.sample("end", dist.Gamma(2.0, 0.5))
    place = pyro.sample("place", dist.Uniform(torch.zeros(2), end).to_event(1))
    pyro.sample("row", dist.Normal(place.sum(), 1.0), obs=torch.tensor(2.0))


MODELS: dict[str, tuple[Kernel, Callable[..., None], tuple[Tensor, ...]]] = {
    "a mixture": (
        Cycle((Gibbs(("label",)), HMC(("level",)))),
        mixture,
        (torch.tensor([0.1, 1.9]),),
    ),
    "a moving support": (HMC(), moving, ()),
}


def driver(name: str) -> infer.MCMC:
    kernel, model, _ = MODELS[name]
    made = EnergyKernel(kernel, model)
    return infer.MCMC(made, num_samples=8, warmup_steps=6, num_chains=3, keep="everything", seed=4)


@functools.cache
def whole_driver(name: str) -> tuple[infer.MCMC, int, int]:
    """The unbroken driver, its lines, and the line at which its first step begins."""
    data = MODELS[name][2]
    driver(name).run(*data)
    mcmc, strike = driver(name), Strike(mark="Course.make")
    strike(lambda: mcmc.run(*data))
    assert strike.marked is not None
    return mcmc, strike.count, strike.marked


def struck_driver(name: str, at: int, error: type[BaseException]) -> None:
    right, _, begun = whole_driver(name)
    mcmc, strike = driver(name), Strike(at, error)
    before = torch.get_rng_state()
    found = strike(lambda: mcmc.run(*MODELS[name][2]))
    assert strike.where
    assert torch.equal(torch.get_rng_state(), before), strike.where
    require_free(strike)
    if mcmc.made is None:
        assert at < begun, strike.where
        assert found.error is not None
        return
    assert (found.error is None) == (error is KeyboardInterrupt), strike.where
    require_part(mcmc.chains, right.chains)
    for site, value in mcmc.get_samples(group_by_chain=True).items():
        everything = right.get_samples(group_by_chain=True)[site]
        # Functions of a tensor may differ in the last bit by its size.
        torch.testing.assert_close(value, everything[:, : mcmc.num_samples])
    if mcmc.num_samples < right.num_samples:
        mcmc.resume(right.num_samples - mcmc.num_samples)
    require_same(mcmc.chains, right.chains)


@pytest.mark.parametrize("name", MODELS)
def test_a_driver_that_is_struck_goes_on_as_if_it_had_not_been(name: str) -> None:
    for number, at in enumerate(places(whole_driver(name)[1], FAST, 7)):
        struck_driver(name, at, ERRORS[number % 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_driver_that_is_struck_anywhere(name: str) -> None:
    for number, at in enumerate(places(whole_driver(name)[1], SLOW, 8)):
        struck_driver(name, at, ERRORS[number % 2])


# --- signals -------------------------------------------------------------------------------------


def in_process(program: str) -> str:
    """What a program of its own prints, which sends signals to itself."""
    head = """
import os, signal, torch
from pyro_ebm import *
def send(number, at):
    class Sending:
        count = 0
        def __call__(self, x):
            self.count += 1
            if self.count in at:
                os.kill(os.getpid(), number)
            return x.square().sum(-1) / 2
    return CallableEnergy(Sending(), 2)
quiet = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)
"""
    made = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert not made.returncode, made.stderr
    return made.stdout.strip()


GONE_ON = """
whole = run(kernel, quiet, 30, warmup=20, seed=1)
more = resume(chains, quiet, 30 - chains.draws["visible"].shape[1])
print(chains.interrupted, 0 < chains.draws["visible"].shape[1] < 30, end=" ")
print(torch.equal(more.draws["visible"], whole.draws["visible"]), end=" ")
print(signal.getsignal(signal.SIGTERM) is before, end=" ")
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("at", [(160,), (160, 161)])
def test_signals_end_a_run_after_a_whole_step(name: str, at: tuple[int, ...]) -> None:
    printed = in_process(
        f"""
        kernel = HMC(step_size=0.4, trajectory_length=1.2)
        signal.signal(signal.SIGTERM, before := lambda *_: None)
        with stopping_on(signal.SIGTERM):
            chains = run(kernel, send(signal.{name}, {at}), 30, warmup=20, seed=1)
        """
        + textwrap.indent(GONE_ON, " " * 8)
    )
    assert printed == "True True True True True"


@pytest.mark.slow
def test_without_being_asked_for_sigterm_ends_the_process() -> None:
    with pytest.raises(AssertionError):
        in_process("run(HMC(), send(signal.SIGTERM, (99,)), 30, warmup=20, seed=1)")


@pytest.mark.slow
def test_ctrl_c_waits_for_the_end_of_a_step_of_adam() -> None:
    printed = in_process(
        """
        class Stopping(torch.optim.Adam):
            count = 0
            def step(self, closure):
                self.count += 1
                if self.count == 7:
                    os.kill(os.getpid(), signal.SIGINT)
                return super().step(closure)
        def machine():
            torch.manual_seed(0)
            return BoltzmannMachine.restricted(4, 3)
        rows = torch.bernoulli(torch.full((30, 4), 0.5))
        usual = dict(seed=2, batch_size=10, epochs=4)
        learn = lambda m, **more: fit(m, rows, ExactLikelihood(), **usual, **more)
        right, struck = machine(), machine()
        learn(right, optimizer=torch.optim.Adam)
        history = learn(struck, optimizer=Stopping)
        print(history.interrupted, history.place.epoch, history.place.learned, end=" ")
        learn(struck, state=history)
        print(all(map(torch.equal, right.parameters(), struck.parameters())))
        """
    )
    assert printed == "True 3 1 True"


def test_stopping_on_is_refused_where_signals_do_not_come() -> None:
    def other() -> None:
        with stopping_on(signal.SIGTERM):
            pass

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="main thread alone"):
        pool.submit(other).result()
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(ValueError, match=r"cannot be handled.*wanted for example signal.SIGTERM"),
        stopping_on(signal.SIGTERM, signal.SIGKILL),
    ):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    with stopping_on(signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_of_the_caller_s_own_is_left_alone() -> None:
    heard, count = [], itertools.count()

    def energy(x: Tensor) -> Tensor:
        if next(count) == 60:
            signal.raise_signal(signal.SIGINT)
        return x.square().sum(-1)

    machine = CallableEnergy(energy, 2)
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        chains = run(RandomWalk(scale=0.5), machine, 100, warmup=0, seed=0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [1]
    assert not chains.interrupted


# --- threads -------------------------------------------------------------------------------------


def test_seeded_calls_in_several_threads_are_those_of_one() -> None:
    def call(seed: int) -> Tensor:
        machine = restricted_of[seed]
        if seed % 2:
            return run(Gibbs(), machine, 60, warmup=5, seed=seed).draws["visible"]
        fit(machine, ROWS, PersistentContrastiveDivergence(1, 5), epochs=9, seed=seed)
        return machine.couplings["visible_hidden"].weight.detach().clone()

    machines = [restricted_of := {seed: learner() for seed in range(6)}]
    alone = [call(seed) for seed in range(6)]
    machines.append(restricted_of := {seed: learner() for seed in range(6)})
    before = torch.get_rng_state()
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(call, range(6)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, alone, together))


def test_a_run_within_a_run_does_not_wait_for_itself() -> None:
    other = restricted()

    def energy(x: Tensor) -> Tensor:
        run(Gibbs(), other, 1, warmup=0, chains=1, seed=0)
        return x.square().sum(-1)

    machine = CallableEnergy(energy, 2)
    found = run(RandomWalk(scale=0.5), machine, 5, warmup=0, seed=0)
    plain = CallableEnergy(lambda x: x.square().sum(-1), 2)
    right = run(RandomWalk(scale=0.5), plain, 5, warmup=0, seed=0)
    assert torch.equal(found.draws["visible"], right.draws["visible"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_lacks() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(one_thread.lock.acquire).result()
        child = os.fork()
        if not child:
            run(Gibbs(), restricted(), 2, warmup=0, seed=0)
            os._exit(7)
        deadline = time.monotonic() + 60
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        pool.submit(one_thread.lock.release).result()
    assert os.waitstatus_to_exitcode(ended[1]) == 7


# --- energies that fail --------------------------------------------------------------------------


class Failing:
    """An energy of two real numbers that fails at a call, once."""

    def __init__(self, at: int, failure: BaseException | float) -> None:
        self.count, self.at, self.failure = 0, at, failure

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.count == self.at and isinstance(self.failure, BaseException):
            raise self.failure
        return x.square().sum(-1) / 2 * (self.failure if self.count >= self.at else 1.0)


def quadratic() -> Energy:
    return CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)


@pytest.mark.parametrize("at", [40, 90, 200])
@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), SystemExit(3)])
def test_an_error_in_mid_run_has_the_draws_so_far(at: int, error: BaseException) -> None:
    kernel = HMC(step_size=0.4, trajectory_length=1.2)
    length = {"draws": 60, "warmup": 10, "thinning": 2}
    right = run(kernel, quadratic(), **length, seed=2)
    energy = CallableEnergy(Failing(10**9, error), 2)
    energy.function.count, energy.function.at = 0, at
    with pytest.raises(type(error)) as caught:
        run(kernel, energy, **length, seed=2)
    chains = vars(caught.value)["chains"]
    assert caught.value is error
    assert "`chains`" in error.__notes__[-1]
    assert not chains.interrupted
    kept = chains.draws["visible"].shape[1]
    assert kept == 0 or chains.attributes["warmup_done"] == 10
    require_part(chains, right)
    require_same(resume(chains, quadratic(), 60 - kept), right)
    # From the exception of a run that went on, too.
    again = CallableEnergy(Failing(10**9, error), 2)
    again.function.count, again.function.at = 0, 60
    with pytest.raises(type(error)) as caught:
        resume(chains, again, 60 - kept)
    chains = vars(caught.value)["chains"]
    require_part(chains, right)
    require_same(gone_on(chains, quadratic(), 60), right)


@pytest.mark.parametrize("thinning", [1, 7])
@pytest.mark.parametrize("keep", ["draws", "everything"])
@pytest.mark.parametrize("after", [30, 150, 420])
@pytest.mark.parametrize(
    "kernel",
    [RandomWalk(scale=0.7), HMC(step_size=0.4, trajectory_length=0.4)],
    ids=["still", "hmc"],
)
def test_chains_end_before_an_energy_turned_nan(
    kernel: Kernel, after: int, thinning: int, keep: Any
) -> None:
    length = {"draws": 400 // thinning, "warmup": 100, "thinning": thinning, "keep": keep}
    right = run(kernel, quadratic(), **length, seed=2)
    energy = CallableEnergy(Failing(10**9, math.nan), 2)
    energy.function.count, energy.function.at = 0, after
    with pytest.raises(NonFiniteEnergyError) as caught:
        run(kernel, energy, **length, seed=2)
    chains = caught.value.chains
    # Each step has one call at least, so that the energy was whole for so many steps at most.
    steps = int(chains.attributes["warmup_done"]) + thinning * chains.draws["visible"].shape[1]
    assert steps <= after
    require_part(chains, right)
    assert bool(chains.last["visible"].isfinite().all())
    require_same(gone_on(chains, quadratic(), 400 // thinning), right)


# --- no draws ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("draws", [0, 1, 3])
def test_few_draws_are_a_value_like_any_other(
    name: str, draws: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, count = Record.add, itertools.count()

    def stopped(record: Record, *made: Any) -> None:
        if next(count) == 4 + draws + 2 * bool(draws):
            raise KeyboardInterrupt
        right(record, *made)

    monkeypatch.setattr(Record, "add", stopped)
    mcmc = driver(name)
    mcmc.run(*MODELS[name][2])
    monkeypatch.undo()
    assert mcmc.chains.interrupted
    assert mcmc.num_samples == draws
    assert "interrupted" in repr(mcmc.chains)
    assert f"3 × {draws} draws" in repr(mcmc.chains)
    whole = whole_driver(name)[0].get_samples(group_by_chain=True)
    for site, value in mcmc.get_samples(group_by_chain=True).items():
        assert value.shape == (3, draws, *whole[site].shape[2:])
        assert value.dtype == whole[site].dtype
    assert {v.shape[0] for v in mcmc.get_samples().values()} == {3 * draws}
    found = mcmc.diagnostics()
    for site in whole:
        assert bool(found[site]["n_eff"].isnan().all())
        assert bool(found[site]["r_hat"].isnan().all())
    mcmc.summary()
    assert "nan" in capsys.readouterr().out
    for data in (to_arviz(mcmc), to_arviz(mcmc.chains), mcmc.chains.to_arviz()):
        assert data["posterior"].sizes["draw"] == draws
        assert data["posterior"].attrs["interrupted"] == 1
        assert diagnose(data).verdict is not Verdict.MIXED
        assert data["warmup_posterior"].sizes["draw"] == (4 if not draws else 6)
    both = to_arviz(mcmc, include=["log_likelihood", "posterior_predictive"])
    assert ("log_likelihood" in both.groups()) == bool(draws)
    for judged in (diagnose(mcmc.chains), compare_starts(mcmc.chains, mcmc.chains)):
        assert judged.verdict is not Verdict.MIXED
        assert draws or judged.verdict is Verdict.CANNOT_TELL
        assert "draws of each chain" in str(judged)


# --- counts --------------------------------------------------------------------------------------


def test_draws_that_no_memory_holds_are_refused() -> None:
    machine = restricted()
    chains = run(Gibbs(), machine, 2, warmup=0, seed=0)
    message = r"draws of 4 chains take .* GB of memory.*wanted fewer draws, for example draws=1000"
    for draws in (10**12, 10**30):
        with pytest.raises(ValueError, match=message):
            run(Gibbs(), machine, draws, warmup=0, seed=0)
        with pytest.raises(ValueError, match=message):
            resume(chains, machine, draws)
    with pytest.raises(ValueError, match=message) as caught:
        run(Gibbs(), machine, 10**12, warmup=0, seed=0)
    cure = re.search(r"draws=(\d+), thinning=(\d+),", str(caught.value))
    assert cure is not None
    assert int(cure[1]) * int(cure[2]) == 10**12


def test_counts_of_numpy_are_counts_and_truth_is_none() -> None:
    machine, start = quadratic(), torch.zeros(3, 2)
    _, state = warmup(RandomWalk(), machine, start, steps=np.int64(5), seed=0)  # type: ignore[arg-type]
    assert state.x["visible"].shape == (3, 2)
    two = run(RandomWalk(scale=1.0), machine, 2, warmup=0, chains=np.int64(3), seed=0)  # type: ignore[arg-type]
    assert resume(two, machine, np.int64(2)).draws["visible"].shape == (3, 4, 2)  # type: ignore[arg-type]
    learned = learner()
    counts = {"epochs": np.int64(2), "batch_size": np.int32(10)}
    assert len(fit(learned, ROWS, ExactLikelihood(), seed=0, **counts).metrics) == 2  # type: ignore[arg-type]
    for wrong in (True, 2.0, "2"):
        for call in (
            lambda n: warmup(RandomWalk(), machine, start, steps=n),
            lambda n: run(RandomWalk(scale=1.0), machine, 2, warmup=0, chains=n),
            lambda n: resume(two, machine, n),
            lambda n: fit(learned, ROWS, ExactLikelihood(), epochs=n),
            lambda n: fit(learned, ROWS, ExactLikelihood(), batch_size=n),
        ):
            with pytest.raises(ValueError, match="wanted"):
                call(wrong)


# --- going on with learning ----------------------------------------------------------------------


@pytest.mark.parametrize("name", LESSONS)
def test_three_epochs_and_two_more_are_five(name: str) -> None:
    whole, parts, calls = learner(), learner(), []
    five = lesson(name, whole, [], epochs=5, monitor=Monitor())
    three = lesson(name, parts, calls, epochs=3, monitor=Monitor())
    more = lesson(name, parts, calls, epochs=5, monitor=Monitor(), state=three)
    assert [row["epoch"] for row in more.metrics] == [1, 2, 3, 4, 5]
    assert calls == [1, -1, 2, -2, 3, -3, 4, -4, 5, -5]
    again, right = result(parts, more, []), result(whole, five, [])
    assert all(map(torch.equal, again.parameters, right.parameters))
    assert again.metrics == right.metrics


def test_learning_goes_on_only_with_what_is_the_same() -> None:
    machine = learner()
    history = fit(machine, ROWS, ExactLikelihood(), epochs=2, seed=1)
    with pytest.raises(ValueError, match="for ten more give epochs=12"):
        fit(machine, ROWS, ExactLikelihood(), epochs=2, state=history)
    assert fit(machine, ROWS, ExactLikelihood(), epochs=12, state=history).place.epoch == 12
    with pytest.raises(ValueError, match=r"Leave seed out; or give state=history.state"):
        fit(machine, ROWS, ExactLikelihood(), epochs=9, state=history, seed=2)
    with pytest.raises(ValueError, match="Give the same data"):
        fit(machine, ROWS[1:], ExactLikelihood(), epochs=9, state=history)
    fit(machine, ROWS[1:], ExactLikelihood(), epochs=9, state=history.state, seed=2)


class Halfway(torch.optim.SGD):
    """Fails when one of two parameters has been changed."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        first = self.param_groups[0]["params"][0]
        with torch.no_grad():
            first.add_(1.0)
        self.state[first]["momentum_buffer"] = torch.ones(())
        self.param_groups[0]["lr"] = 7.0
        if self.param_groups[0]["params"][0][0] > 2.5:
            raise RuntimeError("halfway")
        return loss


def test_an_optimiser_that_fails_halfway_leaves_the_step_before() -> None:
    machine = learner()
    with torch.no_grad():
        next(machine.parameters()).zero_()
    optimizer = Halfway(machine.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="halfway") as caught:
        fit(machine, ROWS, ExactLikelihood(), epochs=9, optimizer=optimizer, seed=0)
    history = vars(caught.value)["history"]
    assert history.place.epoch == 3
    assert history.place.learned == 0
    assert [row["epoch"] for row in history.metrics] == [1, 2]
    first = next(machine.parameters())
    assert torch.equal(first, torch.full_like(first, 2.0))


def test_what_is_kept_of_a_step_takes_the_memory_of_the_step_before() -> None:
    machine = learner()
    optimizer = torch.optim.Adam(machine.parameters())
    fit(machine, ROWS, ExactLikelihood(), epochs=1, optimizer=optimizer)
    first = Kept(machine, optimizer, {})
    kept = {tensor: (copy, copy.clone()) for tensor, copy in first.copies.made.items()}
    # Each of three parameters has two moments and a count.
    assert len(kept) == 3 * 4 + len(list(machine.buffers()))
    second = Kept(machine, optimizer, first.copies.made)
    for tensor, (copy, value) in kept.items():
        assert second.copies.made[tensor] is copy
        assert torch.equal(copy, value)
        assert torch.equal(copy, tensor)
        assert copy is not tensor
