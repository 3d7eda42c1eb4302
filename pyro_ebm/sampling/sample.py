"""Draws from any energy: the kernel is chosen, and the chains are judged.

Where exact sums cost less than a warm-up, draws are exact. Elsewhere chains of the kernel that the
structure suggests come first. What speaks against them decides what
is tried next: shorter steps, a ladder of temperatures, more steps between draws. The best of these
runs is returned, with the verdict on it. Whatever happens on the way, a finished run is kept.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.diagnostics import (
    DIVERGED,
    LEAST_DRAWS,
    LONGER,
    NO_TRIPS,
    SLOW,
    SLOW_ON_LADDER,
    TRAPPED,
    Diagnosis,
    Evidence,
    Verdict,
    diagnose,
    weigh,
)
from pyro_ebm.energies import Energy, Path, Structure
from pyro_ebm.kernels import (
    CAREFUL,
    SMALLEST,
    Chains,
    ForbiddenStatesWarning,
    Kernel,
    ParallelTempering,
    Part,
    Purpose,
    Schedule,
    TemperingState,
    beginning,
    carried_out,
    given_start,
    joined,
    laws,
    parts_of,
    random_start,
    read_structure,
    reference_of,
    require_energy,
    require_kernel,
    resume,
    said,
)
from pyro_ebm.partition import exact
from pyro_ebm.progress import tell
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites
from pyro_ebm.statistics import frozen_units, r_hat
from pyro_ebm.stopping import carry, warn_with

from .exact_draws import ExactDraws, pays

TRIAL = 8  # levels, on which the barrier of the path is measured
FEWEST, MOST = 4, 32  # levels of a ladder
FITTED = 20_000  # draws, of which a reference is made
LONG = 4  # times as many steps
GIVEN = "it was given"


class NotMixedWarning(UserWarning):
    """Chains have not mixed, or it cannot be told whether they have.

    The chains come all the same, and the warning has them too, as `chains`.

    Example:
        >>> import warnings
        >>> from pyro_ebm import BoltzmannMachine, NotMixedWarning, sample
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", NotMixedWarning)  # to go on only if they have
        ...     chains = sample(BoltzmannMachine.restricted(6, 4), draws=100, seed=0)
        >>> chains.attributes["verdict"]
        'mixed'
    """


class Judged(NamedTuple):
    """A run, and what is said of it."""

    what: str  # was tried
    chains: Chains
    diagnosis: Diagnosis
    ladder: str = ""  # what moves the replicas at its levels, and why

    @property
    def is_mixed(self) -> bool:
        """Whether there is nothing to be said against it."""
        return self.diagnosis.verdict is Verdict.MIXED

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped by hand."""
        return self.chains.interrupted

    @property
    def draws(self) -> int:
        """The number of draws of each chain."""
        return max((x.shape[1] for x in self.chains.draws.values()), default=0)

    @property
    def outcome(self) -> str:
        """The verdict."""
        return str(self.diagnosis.verdict) + (" when interrupted" if self.interrupted else "")

    def suffers(self, *advice: str) -> bool:
        """Whether one of these would be advised."""
        return any(evidence.advice in advice for evidence in self.diagnosis.against)


class InVainError(Exception):
    """A try was given up; the message says why."""


class Failed(NamedTuple):
    """A try of which no draws came."""

    what: str  # was tried
    outcome: str  # and why there are none
    interrupted: bool = False


STOPPED = Failed("what was to come", "interrupted", interrupted=True)


class Task(NamedTuple):
    """What is to be sampled, and how long."""

    energy: Energy
    structure: Structure  # what is known of the energy, read once
    kernel: Kernel | None  # if it was given
    schedule: Schedule
    seed: int

    def run(self, kernel: Kernel, schedule: Schedule, start: Sites | int, seed: int) -> Chains:
        """Chains of a kernel, as `run` makes them of what is checked."""
        begin = beginning(kernel, self.energy, schedule, start, seed)
        return carried_out(begin, self.energy, seed, schedule.draws, self.structure)

    def on_path(self, path: Energy, target_acceptance: float) -> tuple[Kernel, str]:
        """The kernel that was given, or one that suits all energies of a path; and why that."""
        if self.kernel is not None:
            return self.kernel, GIVEN
        parts = parts_of(path, Purpose.LADDER, target_acceptance)
        return joined(parts, Purpose.LADDER), said(parts)


def sample(
    energy: Energy,
    draws: int = 1000,
    *,
    warmup: int = 500,
    chains: int = 64,
    kernel: Kernel | None = None,
    initial: Sites | Tensor | None = None,
    seed: int | None = None,
) -> Chains:
    """Draws from p(x) ∝ exp(−energy(x)), by a kernel that suits the energy, judged.

    Where neither a kernel nor a start is given and exact sums (`exact.seconds`) cost less than the
    warm-up would, the draws are exact and independent: the kernel is `ExactDraws`, and there is no
    warm-up. Otherwise the kernel is that of `choose_kernel`, tuned in the warm-up, and `diagnose`
    judges the chains. If they have not mixed, others go on from where they are:

    - by shorter steps of HMC, where its trajectories diverge;
    - by parallel tempering of the kernel: from independent units for a machine, from a normal law
      for continuous sites, from the uniform law else, on 4 to 32 levels, as many as are needed;
      also where discrete units are the same in all draws of all chains, if a short ladder of 8
      levels moves one of them;
    - by four times as many steps, where the best of these has come too short and does not diverge.

    The best is returned. Each costs a known number of steps; progress bars show them, and where
    there are bars, what was picked and found is written above them. Chains can only be judged by
    where they are: a mode that none of them has found is not missed.

    Finished draws are not lost: on Ctrl-C, and where a try after the first run fails, the best run
    is returned all the same, and `tried` says what happened.

    What was picked and found is in the attributes: `picked` and `picked_because`, and for a ladder
    `picked_for_ladder`; `tried`, with the verdict on each; `verdict`, `verdict_in_words` and
    `advice`; the kernel as tuned.

    Args:
        energy: The energy.
        draws: How many to keep of each chain.
        warmup: Steps before the first draw.
        chains: The number of chains; that of `initial` where it is given.
        kernel: The kernel; chosen by structure if left out.
        initial: Where the chains start (chain, *site.shape), by site; scattered if left out.
        seed: As in `run`.

    Warns:
        NotMixedWarning: If the verdict is not "mixed".

    Raises:
        TypeError, ValueError: As `run` and `choose_kernel`; or if chains would follow several laws,
            as with batched parameters or several rows held by `clamp`.
        NonFiniteEnergyError: As `run`, from the first run. Any exception that comes after draws
            were made has them as its `chains`.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, sample
        >>> chains = sample(BoltzmannMachine.restricted(40, 30), draws=200, chains=16, seed=0)
        >>> chains.attributes["picked"], chains.attributes["verdict"]
        ("Gibbs(sites=('visible', 'hidden'))", 'mixed')
        >>> sample(BoltzmannMachine.restricted(4, 3), seed=0).attributes["picked"]
        'ExactDraws()'
    """
    require_energy(energy, "energy")
    if kernel is not None:
        require_kernel(kernel)
    schedule, seed = Schedule(draws=draws, warmup=warmup), chosen_seed(seed)
    x = None if initial is None else given_start(energy, initial)
    with forked(seed, energy.device):
        structure = read_structure(energy)
        exactly = kernel is None and x is None and pays(energy, structure, chains, schedule)
        if x is None and structure.starts is not None and not exactly:
            x = structure.starts.initial(chains)  # of finite energy
        require_one_law(structure, random_start(energy, 1) if x is None else x)
    task, start = Task(energy, structure, kernel, schedule, seed), chains if x is None else x
    parts: list[Part] = []
    if exactly:
        reason = "exact sums cost less than a warm-up, and make independent draws"
        parts = [Part(ExactDraws(), tuple(energy.sites), reason)]
        schedule, start = replace(schedule, warmup=0), exact.sample(energy, int(chains), seed)
    elif kernel is None:
        parts = parts_of(energy, initial=x, structure=structure)
    mover = kernel or joined(parts)
    because = said(parts) if parts else GIVEN
    tell(f"Picked {mover!r}: {because}.")
    picked = {"picked": repr(mover), "picked_because": because}
    first: Chains | None = None
    tried: list[Judged | Failed] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForbiddenStatesWarning)  # the verdict says it
            first = task.run(mover, schedule, start, seed)
            found = judged("as chosen", first)
            tried = [found]
            warnings.filterwarnings("ignore", "The kernel does not move")  # the first run said it
            tried = improved(found, task)
        return with_notes(tried, picked)
    except BaseException as error:
        if first is None:
            raise
        tried = tried or [unchecked("as chosen", first)]
        if isinstance(error, KeyboardInterrupt):
            return with_notes([*tried, STOPPED], picked)
        if not isinstance(error, NotMixedWarning):  # which has them, with the notes
            carry(error, chains=best_of(tried).chains)
        raise


def with_notes(tried: Sequence[Judged | Failed], picked: Mapping[str, str]) -> Chains:
    """The best of the runs, with what was picked and found."""
    best = best_of(tried)
    notes = {
        **picked,
        "tried": "; ".join(f"{one.what}: {one.outcome}" for one in tried),
        "verdict": str(best.diagnosis.verdict),
        "verdict_in_words": best.diagnosis.summary,
        "advice": " ".join(best.diagnosis.advice),
    }
    if ladders := [one.ladder for one in tried if isinstance(one, Judged) and one.ladder]:
        notes["picked_for_ladder"] = ladders[0]
    chains = replace(best.chains, attributes={**best.chains.attributes, **notes})
    if not best.is_mixed:
        message = f"{best.diagnosis.summary} {notes['advice']} Tried were: {notes['tried']}."
        warn_with(message, NotMixedWarning, 3, chains=chains)
    return chains


def require_one_law(structure: Structure, x: Sites) -> None:
    """Refuses an energy whose chains follow several laws.

    Args:
        structure: What is known of it.
        x: Values of all its sites (chain, *shape), of which the first are looked at.

    Raises:
        ValueError: If there are several.
    """
    found = laws(structure, x)
    if found.numel() > 1:
        raise ValueError(
            f"The energy has {found.numel()} laws, of the batch shape {tuple(found)}: one for each "
            f"row that is held, or for each machine. `sample` judges chains by each other, and "
            f"wanted one law. Sample them one at a time; or use `run` with "
            f"chains={found.numel()}, one for each law, or with every row or machine repeated, "
            f"rows.repeat_interleave(16, 0), and as many chains."
        )


def improved(first: Judged, task: Task) -> list[Judged | Failed]:
    """The first run, and those that go on from it, as long as there is a need and a way."""
    tried: list[Judged | Failed] = [first]
    latest, target = first, CAREFUL

    def need() -> bool:
        return not latest.is_mixed and not tried[-1].interrupted

    def attempt(what: str, way: Callable[[Judged], Judged]) -> Judged:
        """What is latest after a try."""
        tell(f"{tried[-1].what.capitalize()}: {tried[-1].outcome}. Next: {what}.")
        tried.append(outcome_of(what, way, latest))
        return tried[-1] if isinstance(tried[-1], Judged) else latest

    try:
        seeds = iter(other_seeds(task.seed, 4))
        if need() and first.suffers(DIVERGED) and task.kernel is None:
            target = SMALLEST
            seed = next(seeds)
            latest = attempt("shorter steps", lambda run: with_shorter_steps(run, task, seed))
        if (
            need()
            and (latest.diagnosis.verdict is Verdict.NOT_MIXED or is_frozen(latest))
            and may_temper(task, latest.chains)
        ):
            pair = next(seeds), next(seeds)
            latest = attempt("tempered", lambda run: tempered(run, task, target, pair))
        best = best_of(tried)
        curable = best.suffers(LONGER, NO_TRIPS, SLOW, SLOW_ON_LADDER, TRAPPED)
        if need() and curable and not best.suffers(DIVERGED):
            attempt(f"{best.what}, longer", lambda _: longer(best, task))
        tell(f"{tried[-1].what.capitalize()}: {tried[-1].outcome}.")
        return tried
    except KeyboardInterrupt:
        return [*tried, STOPPED]


def outcome_of(what: str, way: Callable[[Judged], Judged], latest: Judged) -> Judged | Failed:
    """What comes of going on from a run, which is not lost whatever happens."""
    try:
        found = way(latest)
    except KeyboardInterrupt:
        return Failed(what, "interrupted", interrupted=True)
    except InVainError as reason:
        return Failed(what, str(reason))
    except Exception as error:  # finished draws are worth more than any of these
        return Failed(what, f"failed, {said_by(error)}")
    if found.interrupted and not found.draws:
        return Failed(what, "interrupted", interrupted=True)
    return found


def said_by(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def other_seeds(seed: int, count: int) -> list[int]:
    """Seeds that differ from those of runs with a seed nearby."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**62, (count,), generator=generator).tolist()


def judged(what: str, chains: Chains) -> Judged:
    """Chains with the verdict on them."""
    if not any(x.shape[1] for x in chains.draws.values()):
        return Judged(what, chains, unjudged("draws of each chain", "8 or more", "", "Let it run."))
    try:
        return Judged(what, chains, diagnose(chains))
    except KeyboardInterrupt:
        return unchecked(what, chains)
    except Exception as error:  # a verdict that fails must not take the draws with it
        reason = said_by(error)
    return Judged(what, chains, unjudged("checks made", "all", reason, "Ask `diagnose` again."))


def unchecked(what: str, chains: Chains) -> Judged:
    """Chains whose verdict was stopped by hand."""
    stopped = replace(chains, attributes={**chains.attributes, "interrupted": True})
    verdict = unjudged("checks made", "all", "interrupted", "Ask `diagnose` again.")
    return Judged(what, stopped, verdict)


def unjudged(name: str, wanted: str, detail: str, advice: str) -> Diagnosis:
    """The verdict on draws of which nothing is known."""
    return weigh([Evidence(name, 0, wanted, Verdict.CANNOT_TELL, detail, advice)])


def best_of(tried: Sequence[Judged | Failed]) -> Judged:
    """The best run, the latest of equals."""
    runs = [one for one in reversed(tried) if isinstance(one, Judged)]
    return min(runs, key=badness) if len(runs) > 1 else runs[0]


def badness(found: Judged) -> tuple[bool, int, float]:
    """What speaks against a run: too few draws to judge, the verdict, and the largest R-hat."""
    order = (Verdict.MIXED, Verdict.CANNOT_TELL, Verdict.NOT_MIXED)
    worst = 1.0
    for x in (*found.chains.draws.values(), found.chains.statistics["lp"]):
        if x.shape[1] >= LEAST_DRAWS:
            worst = max(worst, float(r_hat(x).nan_to_num(1.0, math.inf).max()))
    return found.draws < LEAST_DRAWS, order.index(found.diagnosis.verdict), worst


def with_shorter_steps(first: Judged, task: Task, seed: int) -> Judged:
    """The run that goes on from another, by shorter steps."""
    parts = parts_of(task.energy, target_acceptance=SMALLEST, structure=task.structure)
    kernel = joined(parts)
    return judged("shorter steps", task.run(kernel, task.schedule, first.chains.last, seed))


def may_temper(task: Task, chains: Chains) -> bool:
    """Whether there can be a ladder: for one law, of a kernel that is none."""
    if isinstance(task.kernel, ParallelTempering):
        return False
    try:
        return not laws(task.structure, chains.last)
    except Exception:  # an energy that cannot be asked about one state has no place on a ladder
        return False


def frozen(found: Judged) -> dict[str, Tensor]:
    """Of each discrete site, the units (*shape) that are the same in all draws of all chains."""
    sites = found.chains.sites
    return {
        name: frozen_units(x).constant
        for name, x in found.chains.draws.items()
        if sites[name].support.is_discrete and x.shape[1] >= LEAST_DRAWS
    }


def is_frozen(found: Judged) -> bool:
    """Whether nothing worse is said than may be said of units that never change."""
    if found.diagnosis.verdict is not Verdict.CANNOT_TELL:
        return False
    return any(bool(units.any()) for units in frozen(found).values())


def says_nothing(found: Judged) -> bool:
    """Whether no reference can be made of the draws: all sites are discrete, and units frozen."""
    units = frozen(found)
    all_of_them = all(bool(alike.all()) for alike in units.values())
    return len(units) == len(found.chains.sites) and (is_frozen(found) or all_of_them)


def tempered(first: Judged, task: Task, target: float, seeds: tuple[int, int]) -> Judged:
    """The run that goes on from another, on a ladder.

    Raises:
        InVainError: If units that were frozen are so on a short ladder too.
        KeyboardInterrupt: If the short ladder was stopped by hand.
    """
    energy, warmup = task.energy, task.schedule.warmup
    # Draws that are all alike would hold the ladder where they are.
    reference = None if says_nothing(first) else reference_of(energy, some_draws(first.chains))
    end = torch.ones((), dtype=energy.dtype, device=energy.device)
    kernel, because = task.on_path(Path.between(reference, energy).at(end), target)
    trial = ParallelTempering(kernel, TRIAL, reference)
    short = Schedule(draws=max(1, warmup // 4), warmup=max(1, warmup // 2))
    found = task.run(trial, short, first.chains.last, seeds[0])
    if found.interrupted:
        raise KeyboardInterrupt
    if is_frozen(first) and not thawed(first, found):
        raise InVainError(f"on {TRIAL} levels the units that never changed do not either")
    ladder = ParallelTempering(kernel, levels_for(found), reference)
    chains = task.run(ladder, task.schedule, found.last, seeds[1])
    return judged("tempered", chains)._replace(ladder=because)


def thawed(first: Judged, found: Chains) -> bool:
    """Whether a unit that never changed in a run has another value in later draws."""
    return any(
        bool(((found.draws[name] != first.chains.draws[name][0, 0]) & units).any())
        for name, units in frozen(first).items()
    )


def levels_for(trial: Chains) -> int:
    """The number of levels on which about half the exchanges would be accepted."""
    kernel, state = trial.kernel, trial.state
    assert isinstance(kernel, ParallelTempering)
    assert isinstance(state, TemperingState)
    barrier = kernel.report(state).barrier
    return min(MOST, max(FEWEST, math.ceil(2 * barrier) + 2))


def longer(best: Judged, task: Task) -> Judged:
    """The same chains again, with more steps between the draws."""
    old = best.chains
    thinning = LONG * old.schedule.thinning
    start = replace(
        old,
        draws={},
        statistics={},
        schedule=replace(old.schedule, thinning=thinning),
        attributes={**old.attributes, "thinning": thinning},
    )
    return judged(f"{best.what}, longer", resume(start, task.energy, task.schedule.draws))


def some_draws(chains: Chains) -> Sites:
    """Draws of all the chains (chain, draw, *shape), evenly from the second half."""
    some = {}
    for name, x in chains.draws.items():
        count = x.shape[1]
        every = max(1, len(x) * (count - count // 2) // FITTED)
        some[name] = x[:, count // 2 :: every].to(chains.last[name])
    return some
