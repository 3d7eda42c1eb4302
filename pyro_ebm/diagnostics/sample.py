"""Draws from any energy: kernel and schedule are chosen, the chains are judged.

Chains of the kernel that the structure suggests come first. If they have not mixed, they go on as
replicas on a ladder of temperatures, and are judged again. The better of the two runs is returned.
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
    choose_kernel,
    run,
)
from pyro_ebm.kernels.choice import parts_of, said
from pyro_ebm.kernels.path import along
from pyro_ebm.kernels.reference import reference_of
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites
from pyro_ebm.statistics import r_hat

from .diagnose import diagnose
from .evidence import Diagnosis, Evidence, Verdict, weigh

TRIAL = 12  # levels, on which the barrier of the path is measured
FEWEST, MOST = 4, 32  # levels of a ladder
FITTED = 20_000  # draws, of which a reference is made


class NotMixedWarning(UserWarning):
    """Chains have not mixed, or it cannot be told whether they have."""


class Judged(NamedTuple):
    """A run, and what is said of it."""

    chains: Chains
    diagnosis: Diagnosis


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

    The kernel is that of `choose_kernel`, tuned in the warm-up. Where `diagnose` calls the chains
    not mixed, parallel tempering of that kernel goes on from where they are, on a ladder whose
    levels are counted and placed by what is found: from independent units for a machine, from a
    normal law for continuous sites, from the uniform law else. At most 4 to 32 levels are used, so
    that this takes at most 44 times the first run. Chains can only be judged by where they are: a
    mode that none of them has found is not missed.

    What was picked and found is in the attributes: `picked` and `picked_because`, `verdict` and
    `verdict_in_words`, `advice`, and, if there was tempering, `verdict_without_tempering`,
    `levels` and `barrier`. A small energy can be drawn from without chains by `exact.sample`.

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
    parts = parts_of(energy) if kernel is None else []
    mover = choose_kernel(energy) if kernel is None else kernel
    schedule = Schedule(warmup, draws)
    with forked(chosen_seed(seed), energy.device):
        seeds = [chosen_seed(None) for _ in range(3)]
        if initial is None and isinstance(energy, ModelEnergy):
            initial = energy.initial(chains)
    picked = {"picked": repr(mover), "picked_because": said(parts) if parts else "it was given"}
    found = judged(
        run(mover, energy, schedule, chains=chains, initial=initial, seed=seeds[0]), picked
    )
    if may_temper(found, energy):
        found = better(found, tempered(found, energy, kernel, schedule, (seeds[1], seeds[2])))
    tell(found.diagnosis)
    return found.chains


def judged(chains: Chains, notes: dict[str, str | int | float]) -> Judged:
    """Chains with the verdict on them, which is in their attributes."""
    diagnosis = diagnose(chains) if any(x.numel() for x in chains.draws.values()) else nothing()
    said_of_it = {
        "verdict": str(diagnosis.verdict),
        "verdict_in_words": diagnosis.summary,
        "advice": " ".join(diagnosis.advice),
    }
    attributes = {**chains.attributes, **notes, **said_of_it}
    return Judged(replace(chains, attributes=attributes), diagnosis)


def nothing() -> Diagnosis:
    """The verdict on a run that was stopped before its first draw."""
    advice = "Let it run."
    return weigh([Evidence("draws of each chain", 0, "8 or more", Verdict.CANNOT_TELL, "", advice)])


def may_temper(found: Judged, energy: Energy) -> bool:
    """Whether there is a need to temper, and a way."""
    if found.diagnosis.verdict is not Verdict.NOT_MIXED or found.chains.interrupted:
        return False
    if isinstance(found.chains.kernel, ParallelTempering):
        return False
    return not (isinstance(energy, PairwiseEnergy) and energy.read().batch)


def tempered(
    first: Judged,
    energy: Energy,
    kernel: Kernel | None,
    schedule: Schedule,
    seeds: tuple[int, int],
) -> Judged:
    """The run that goes on from another, on a ladder."""
    reference = reference_of(energy, some_draws(first.chains))
    if kernel is None:
        path = along(energy, reference, torch.ones((), dtype=energy.dtype, device=energy.device))
        kernel = choose_kernel(path)
    short = Schedule(max(1, schedule.warmup // 2), max(1, schedule.warmup // 4))
    try:
        trial = run(
            ParallelTempering(kernel, TRIAL, reference),
            energy,
            short,
            initial=first.chains.last,
            seed=seeds[0],
        )
        barrier = barrier_of(trial)
        levels = min(MOST, max(FEWEST, math.ceil(2 * barrier) + 2))
        chains = run(
            ParallelTempering(kernel, levels, reference),
            energy,
            schedule,
            initial=trial.last,
            seed=seeds[1],
        )
    except NonFiniteEnergyError:  # on the way, where the first run went well
        return first
    notes: dict[str, str | int | float] = {
        name: first.chains.attributes[name] for name in ("picked", "picked_because")
    }
    notes |= {
        "verdict_without_tempering": str(first.diagnosis.verdict),
        "levels": levels,
        "barrier": barrier_of(chains),
        "round_trip_rate": chains.kernel.report(chains.state).round_trip_rate,
    }
    return judged(chains, notes)


def barrier_of(chains: Chains) -> float:
    """Λ, as found in a run of tempering."""
    assert isinstance(chains.kernel, ParallelTempering)
    return chains.kernel.report(chains.state).barrier


def some_draws(chains: Chains) -> Sites:
    """Draws of all the chains (n, *shape), evenly from the second half."""
    some = {}
    for name, x in chains.draws.items():
        count = x.shape[1]
        every = max(1, len(x) * (count - count // 2) // FITTED)
        some[name] = x[:, count // 2 :: every].flatten(0, 1).to(chains.last[name])
    return some


def better(first: Judged, second: Judged) -> Judged:
    """The run with the better verdict; of equal ones that with the smaller R-hat."""
    return min(second, first, key=badness)


def badness(found: Judged) -> tuple[int, float]:
    """What speaks against a run: the verdict, and the largest R-hat."""
    order = (Verdict.MIXED, Verdict.CANNOT_TELL, Verdict.NOT_MIXED)
    r_hats = [r_hat(x).nan_to_num(1.0, math.inf).max() for x in found.chains.draws.values()]
    return order.index(found.diagnosis.verdict), float(torch.stack(r_hats).max())


def tell(diagnosis: Diagnosis) -> None:
    """Warns of what has not mixed."""
    if diagnosis.verdict is not Verdict.MIXED:
        advice = " ".join(diagnosis.advice)
        warnings.warn(f"{diagnosis.summary} {advice}", NotMixedWarning, stacklevel=3)
