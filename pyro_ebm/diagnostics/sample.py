"""Draws from any energy: kernel and schedule are chosen, and the chains are judged.

Chains of the kernel that the structure suggests come first. What speaks against them decides what
is tried next: shorter steps, a ladder of temperatures, more steps between draws. The best of these
runs is returned, with the verdict on it.
"""

import math
import warnings
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, ModelEnergy, PairwiseEnergy
from pyro_ebm.kernels import (
    Chains,
    Kernel,
    NonFiniteEnergyError,
    ParallelTempering,
    Schedule,
    SwendsenWang,
    resume,
    run,
)
from pyro_ebm.kernels.choice import CAREFUL, SHORT, SMALLEST, joined, parts_of, said
from pyro_ebm.kernels.path import Path
from pyro_ebm.kernels.reference import reference_of
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites
from pyro_ebm.statistics import r_hat

from .checks import DIVERGED, LONGER, NO_TRIPS, SLOW, SLOW_ON_LADDER, TRAPPED
from .diagnose import diagnose
from .evidence import Diagnosis, Evidence, Verdict, weigh

TRIAL = 8  # levels, on which the barrier of the path is measured
FEWEST, MOST = 4, 32  # levels of a ladder
FITTED = 20_000  # draws, of which a reference is made
LONG = 4  # times as many steps
GIVEN = "it was given"


class NotMixedWarning(UserWarning):
    """Chains have not mixed, or it cannot be told whether they have."""


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

    def suffers(self, *advice: str) -> bool:
        """Whether one of these would be advised."""
        return any(evidence.advice in advice for evidence in self.diagnosis.against)


class Task(NamedTuple):
    """What is to be sampled, and how long."""

    energy: Energy
    kernel: Kernel | None  # if it was given
    schedule: Schedule
    seed: int

    def on_path(self, path: Energy, target_acceptance: float) -> tuple[Kernel, str]:
        """The kernel that was given, or one that suits all energies of a path; and why that."""
        if self.kernel is not None:
            return self.kernel, GIVEN
        parts = parts_of(path, target_acceptance, SHORT)
        # A reference may frustrate what the energy does not.
        local = [part for part in parts if not isinstance(part.kernel, SwendsenWang)]
        return joined(local), said(local)


def sample(
    energy: Energy,
    draws: int = 1000,
    *,
    chains: int = 64,
    warmup: int = 500,
    kernel: Kernel | None = None,
    initial: Sites | Tensor | None = None,
    seed: int | None = None,
) -> Chains:
    """Draws from p(x) ∝ exp(−energy(x)), by a kernel that suits the energy, judged.

    The kernel is that of `choose_kernel`, tuned in the warm-up, and `diagnose` judges the chains.
    If they have not mixed, others go on from where they are:

    - by shorter steps of HMC, where its trajectories diverge;
    - by parallel tempering of the kernel: from independent units for a machine, from a normal law
      for continuous sites, from the uniform law else, on 4 to 32 levels, as many as are needed;
    - by four times as many steps, where the best of these has come too short and does not diverge.

    The best is returned. Each costs a known number of steps; progress bars show them. Chains can
    only be judged by where they are: a mode that none of them has found is not missed.

    What was picked and found is in the attributes: `picked` and `picked_because`, and for a ladder
    `picked_for_ladder`; `tried`, with the verdict on each; `verdict`, `verdict_in_words` and
    `advice`; the kernel as tuned. A small energy can be drawn from without chains, by
    `exact.sample`.

    Args:
        energy: The energy.
        draws: How many of each chain.
        chains: The number of chains; that of `initial` where it is given.
        warmup: Steps before the first draw.
        kernel: The kernel; chosen by structure if left out.
        initial: Where the chains start (chain, *site.shape), by site; scattered if left out.
        seed: As in `run`.

    Warns:
        NotMixedWarning: If the verdict is not "mixed".

    Raises:
        TypeError, ValueError: As `run` and `choose_kernel`.
        NonFiniteEnergyError: As `run`.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, sample
        >>> chains = sample(BoltzmannMachine.restricted(4, 3), draws=200, chains=16, seed=0)
        >>> chains.attributes["picked"], chains.attributes["verdict"]
        ("Gibbs(sites=('visible', 'hidden'))", 'mixed')
    """
    parts = [] if kernel else parts_of(energy)
    mover = kernel or joined(parts)
    task = Task(energy, kernel, Schedule(warmup, draws), chosen_seed(seed))
    if initial is None and isinstance(energy, ModelEnergy):
        with forked(task.seed, energy.device):
            initial = energy.initial(chains)  # of finite energy
    first = run(mover, energy, task.schedule, chains=chains, initial=initial, seed=task.seed)
    tried = improved(judged("as chosen", first), task)
    best = min(reversed(tried), key=badness)
    notes = {
        "picked": repr(mover),
        "picked_because": said(parts) if parts else GIVEN,
        "tried": "; ".join(f"{run.what}: {run.diagnosis.verdict}" for run in tried),
        "verdict": str(best.diagnosis.verdict),
        "verdict_in_words": best.diagnosis.summary,
        "advice": " ".join(best.diagnosis.advice),
    }
    if ladders := [run.ladder for run in tried if run.ladder]:
        notes["picked_for_ladder"] = ladders[0]
    if not best.is_mixed:
        message = f"{best.diagnosis.summary} {notes['advice']} Tried were: {notes['tried']}."
        warnings.warn(message, NotMixedWarning, stacklevel=2)
    return replace(best.chains, attributes={**best.chains.attributes, **notes})


def improved(first: Judged, task: Task) -> list[Judged]:
    """The first run, and those that go on from it, as long as there is a need and a way."""
    tried, target = [first], CAREFUL
    seeds = iter(other_seeds(task.seed, 4))

    def need() -> bool:
        return not tried[-1].is_mixed and not tried[-1].chains.interrupted

    try:
        if need() and first.suffers(DIVERGED) and task.kernel is None:
            target = SMALLEST
            tried.append(with_shorter_steps(first, task, next(seeds)))
        if need() and tried[-1].diagnosis.verdict is Verdict.NOT_MIXED and may_temper(task):
            tried.append(tempered(tried[-1], task, target, (next(seeds), next(seeds))))
        best = min(reversed(tried), key=badness)
        curable = best.suffers(LONGER, NO_TRIPS, SLOW, SLOW_ON_LADDER, TRAPPED)
        if need() and curable and not best.suffers(DIVERGED):
            tried.append(longer(best, task))
    except NonFiniteEnergyError:
        pass  # on the way; what came before went well
    return tried


def other_seeds(seed: int, count: int) -> list[int]:
    """Seeds that differ from those of runs with a seed nearby."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**62, (count,), generator=generator).tolist()


def judged(what: str, chains: Chains) -> Judged:
    """Chains with the verdict on them."""
    if any(x.shape[1] for x in chains.draws.values()):
        return Judged(what, chains, diagnose(chains))
    none = Evidence("draws of each chain", 0, "8 or more", Verdict.CANNOT_TELL, "", "Let it run.")
    return Judged(what, chains, weigh([none]))


def badness(found: Judged) -> tuple[int, float]:
    """What speaks against a run: the verdict, and the largest R-hat."""
    order = (Verdict.MIXED, Verdict.CANNOT_TELL, Verdict.NOT_MIXED)
    worst = 1.0
    for x in (*found.chains.draws.values(), found.chains.statistics["lp"]):
        if x.shape[1] >= 8:
            worst = max(worst, float(r_hat(x).nan_to_num(1.0, math.inf).max()))
    return order.index(found.diagnosis.verdict), worst


def with_shorter_steps(first: Judged, task: Task, seed: int) -> Judged:
    """The run that goes on from another, by shorter steps."""
    kernel = joined(parts_of(task.energy, SMALLEST))
    chains = run(kernel, task.energy, task.schedule, initial=first.chains.last, seed=seed)
    return judged("shorter steps", chains)


def may_temper(task: Task) -> bool:
    """Whether there can be a ladder: for one machine, of a kernel that is none."""
    if isinstance(task.kernel, ParallelTempering):
        return False
    return not (isinstance(task.energy, PairwiseEnergy) and task.energy.read().batch)


def tempered(first: Judged, task: Task, target: float, seeds: tuple[int, int]) -> Judged:
    """The run that goes on from another, on a ladder."""
    energy, schedule = task.energy, task.schedule
    reference = reference_of(energy, some_draws(first.chains))
    end = torch.ones((), dtype=energy.dtype, device=energy.device)
    kernel, because = task.on_path(Path.between(reference, energy).at(end), target)
    short = Schedule(max(1, schedule.warmup // 2), max(1, schedule.warmup // 4))
    trial = ParallelTempering(kernel, TRIAL, reference)
    found = run(trial, energy, short, initial=first.chains.last, seed=seeds[0])
    ladder = ParallelTempering(kernel, levels_for(found), reference)
    chains = run(ladder, energy, schedule, initial=found.last, seed=seeds[1])
    return judged("tempered", chains)._replace(ladder=because)


def levels_for(trial: Chains) -> int:
    """The number of levels on which about half the exchanges would be accepted."""
    assert isinstance(trial.kernel, ParallelTempering)
    barrier = trial.kernel.report(trial.state).barrier
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
