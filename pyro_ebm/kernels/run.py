"""Running a kernel: many chains in one process, for as long as a schedule says."""

import functools
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_ebm.energies import Energy, PairwiseEnergy
from pyro_ebm.kernels.composite.tempering import ladder_findings
from pyro_ebm.seeding import chosen_seed, forked, generator_state
from pyro_ebm.sites import Site, Sites, boolean, describe, spin

from .base import Kernel, after_warmup, findings_of, in_warmup, same_batch
from .chains import Attributes, Chains, NonFiniteEnergyError, Record, Schedule
from .start import finite_start, given_start, require_finite_start
from .watch import EVERY, Watch, WrongDependenceError

LOOK = 100  # steps, after which the energy of where chains stand is computed anew


def run(
    kernel: Kernel,
    energy: Energy,
    schedule: Schedule | None = None,
    *,
    chains: int = 4,
    initial: Sites | Tensor | None = None,
    seed: int | None = None,
) -> Chains:
    """Draws from p(x) ∝ exp(−energy(x)) by many chains at once, in one process.

    Settings of the kernel that are None are found in the warm-up and kept for the draws; what was
    found is in the attributes and in the `kernel` of what is returned.

    Ctrl-C ends the run and keeps the draws made so far, marked as interrupted.

    Args:
        kernel: The transition.
        energy: The energy.
        schedule: How long; 500 steps of warm-up and 1,000 draws if left out.
        chains: The number of chains; that of `initial` where it is given.
        initial: Where the chains start (chain, *site.shape), by site; if left out they
            start at random, scattered over each site's support, where the energy is finite.
        seed: Of this run; the global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If an argument, a count, a shape or a start is not what is wanted, or
            if the energy of the start is not finite.
        NonFiniteEnergyError: If an energy becomes NaN; it carries the draws so far.
        WrongDependenceError: If a conditional law turns out not to be that of the energy; it
            carries the draws so far.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel is {kernel!r}; wanted a kernel, for example Gibbs().")
    if not isinstance(energy, Energy):
        raise TypeError(f"energy is {energy!r}; wanted an energy, for example a BoltzmannMachine.")
    if schedule is None:
        schedule = Schedule()
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule is {schedule!r}; wanted for example Schedule(draws=1000).")
    seed = chosen_seed(seed)
    with forked(seed, energy.device):
        x = finite_start(energy, chains) if initial is None else given_start(energy, initial)
        if initial is not None:
            require_finite_start(energy, x)
        kernel = in_warmup(kernel, schedule.warmup)
        state = kernel.init(energy, x)
        attributes: Attributes = {
            "inference_library": "pyro_ebm",
            "inference_library_version": version("pyro-ebm"),
            "torch_version": str(torch.__version__),  # a subclass of str, which netCDF cannot store
            "energy": type(energy).__name__,
            "kernel": repr(kernel),
            "dtype": str(energy.dtype).removeprefix("torch."),
            "device": str(energy.device),
            "seed": seed,
            "chains": same_batch(x, energy)[0],
            "warmup": schedule.warmup,
            "warmup_done": 0,
            "thinning": schedule.thinning,
            "seconds": 0.0,
            "interrupted": False,
        }
        start = Chains(
            energy.sites,
            {},
            {},
            {},
            {},
            attributes,
            kernel,
            schedule,
            state,
            generator_state(energy.device),
        )
        return go_on(start, energy, schedule.warmup, schedule.draws)


def resume(chains: Chains, energy: Energy, draws: int) -> Chains:
    """The same chains with more draws: 60 draws and 40 more are the 100 of one longer run.

    Args:
        chains: What `run` returned.
        energy: The energy; if its parameters have changed, the new draws follow the new ones.
        draws: How many more.

    Raises:
        ValueError: If `draws` is not positive, or the energy is not of the chains' sites.
        NonFiniteEnergyError, WrongDependenceError: As `run`; with all the draws so far.
    """
    require_same_sites(chains, energy)
    Schedule(draws=draws)  # refuses what is no number of draws
    left = chains.schedule.warmup - int(chains.attributes["warmup_done"])
    state = chains.kernel.refresh(energy, chains.state, chains.state.x)
    with forked(chains.generators, energy.device):
        try:
            more = go_on(replace(chains, state=state), energy, left, draws)
        except (NonFiniteEnergyError, WrongDependenceError) as error:
            whole = joined(chains, error.chains) if error.chains else chains
            raise type(error)(str(error), whole) from None
    return joined(chains, more)


def joined(first: Chains, more: Chains) -> Chains:
    """The draws of both, and all else from the later ones."""

    def together(earlier: Sites, later: Sites) -> Sites:
        # A run that was stopped before its first draw has few statistics.
        names = {**earlier, **later}
        groups = (earlier, later)
        return {k: torch.cat([group[k] for group in groups if k in group], 1) for k in names}

    return replace(
        more,
        draws=together(first.draws, more.draws),
        statistics=together(first.statistics, more.statistics),
        warmup_draws=together(first.warmup_draws, more.warmup_draws),
        warmup_statistics=together(first.warmup_statistics, more.warmup_statistics),
    )


def go_on(start: Chains, energy: Energy, warmup: int, draws: int) -> Chains:
    """The chains after so many steps of warm-up and so many draws more."""
    kernel, schedule, state = start.kernel, start.schedule, start.state
    count = int(start.attributes["chains"])
    thinning = schedule.thinning
    kept_warmup = warmup // thinning if schedule.keep == "everything" else 0
    records = Record(energy, count, kept_warmup), Record(energy, count, draws)
    begin, interrupted, done = time.perf_counter(), False, 0
    problem: FloatingPointError | WrongDependenceError | None = None
    watch = Watch(energy, int(start.attributes["seed"]))
    with tqdm(total=warmup + draws * thinning, disable=None, leave=False, unit="step") as bar:
        try:
            watch.look(state.x)
            for steps, record in zip((warmup, draws * thinning), records, strict=True):
                if record is records[1]:
                    kernel, state = after_warmup(kernel, state)
                for step in range(1, steps + 1):
                    before = state.x
                    state, info = kernel.step(energy, state)
                    done += 1
                    bar.update()
                    if step % thinning == 0 and record.filled < record.room:
                        lp = -energy_at(energy, state)
                        require_finite(lp, state.x)
                        flips = count_flips(energy, before, state.x)
                        record.add(state.x, {"lp": lp, **flips, **info._asdict()})
                        watch.look(state.x)
                    elif step % EVERY == 0:
                        watch.look(state.x)
                    if step % LOOK == 0 or step == steps:
                        require_still_finite(energy, state.x)
        except KeyboardInterrupt:
            interrupted = True
        except (FloatingPointError, WrongDependenceError) as error:
            problem = error
    (warmup_draws, warmup_statistics), (draws_, statistics) = (r.kept() for r in records)
    chains = replace(
        start,
        draws=draws_,
        statistics=statistics,
        warmup_draws=warmup_draws if kept_warmup else {},
        warmup_statistics=warmup_statistics if kept_warmup else {},
        attributes={
            **start.attributes,
            "kernel": repr(kernel),
            **findings_of(kernel),
            **ladder_findings(kernel, state),
            "interrupted": interrupted,
            "warmup_done": int(start.attributes["warmup_done"]) + min(done, warmup),
            "seconds": float(start.attributes["seconds"]) + time.perf_counter() - begin,
        },
        kernel=kernel,
        state=state,
        generators=generator_state(energy.device),
    )
    if problem:
        raise with_draws(problem, chains, records[1].filled) from problem
    return chains


def with_draws(
    problem: FloatingPointError | WrongDependenceError, chains: Chains, draws: int
) -> NonFiniteEnergyError | WrongDependenceError:
    """What stopped a run, with the draws so far."""
    if isinstance(problem, WrongDependenceError):
        kept = f"The {draws} draws so far are in the exception's `chains`; do not use them"
        return WrongDependenceError(f"{problem}. {kept}.", chains)
    return NonFiniteEnergyError(
        f"{problem} after {draws} draws. The draws so far are in the exception's "
        f"`chains`; check the parameters and the sites' values there.",
        chains,
    )


@torch.no_grad()
def energy_at(energy: Energy, state: Any) -> Tensor:  # noqa: ANN401 (any kernel's State)
    """E(x) (*batch,), from the state where the kernel knows it."""
    known = getattr(state, "energy", None)
    return energy.evaluate(state.x) if known is None else known


def count_flips(energy: Energy, before: Sites, after: Sites) -> dict[str, Tensor]:
    """The number of discrete units that a step changed (*batch,), if there are such units."""
    counts = []
    for name, site in energy.sites.items():
        if site.support.is_discrete:
            change = after[name] - before[name]
            change = change.reshape(len(change), -1)  # a site may be a single unit
            if site.support not in (boolean, spin):
                change = change.sign()
            # Not (after != before).sum(-1), which is three times as slow.
            squares = torch.linalg.vecdot(change, change)
            counts.append(squares / 4 if site.support is spin else squares)
    return {"n_flips": functools.reduce(torch.add, counts).to(torch.int32)} if counts else {}


def require_finite(lp: Tensor, x: Sites) -> None:
    """Refuses a draw whose energy is not finite.

    Raises:
        FloatingPointError: If there is one; the message names what is not finite, and where.
    """
    if bool(lp.isfinite().all()):
        return
    where = (~lp.isfinite()).nonzero()[:, 0].tolist()
    sites = [name for name, value in x.items() if not bool(value.isfinite().all())]
    what = f"The values of the sites {sites}" if sites else "The energy"
    kind = "NaN" if bool(lp.isnan().any()) else "infinite"
    raise FloatingPointError(f"{what} became {kind} in the chains {where[:10]}")


@torch.no_grad()
def require_still_finite(energy: Energy, x: Sites) -> None:
    """Refuses an energy that has turned NaN under its chains.

    A Metropolis test rejects what is NaN: chains would stand still where the energy was finite, and
    report that finite energy. A machine's parameters are checked where they are read.

    Raises:
        FloatingPointError: As `require_finite`.
    """
    if not isinstance(energy, PairwiseEnergy):
        require_finite(energy.evaluate(x).reshape(-1), x)


def require_same_sites(chains: Chains, energy: Energy) -> None:
    """Refuses to go on with the energy of something else.

    Raises:
        ValueError: If its sites, or its dtype, are not those of the chains.
    """
    old, new = (
        {n: in_words(s) for n, s in sites.items()} for sites in (chains.sites, energy.sites)
    )
    dtype = str(energy.dtype).removeprefix("torch.")
    if old != new or dtype != chains.attributes["dtype"]:
        raise ValueError(
            f"The chains have the sites {old} in {chains.attributes['dtype']}, the energy {new} in "
            f"{dtype}; wanted the same: give the energy that they were drawn from, whose "
            f"parameters may have changed."
        )


def in_words(site: Site) -> str:
    """A site's support and shape."""
    return f"{describe(site.support)} {tuple(site.shape)}"
