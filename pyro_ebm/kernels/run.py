"""Running a kernel: many chains in one process."""

import functools
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure
from pyro_ebm.kernels.composite.tempering import ladder_findings
from pyro_ebm.progress import progress
from pyro_ebm.seeding import GeneratorState, chosen_seed, forked, generator_state
from pyro_ebm.sites import Site, Sites, describe, two_values
from pyro_ebm.stopping import carry, whole_steps
from pyro_ebm.version import __version__

from .base import (
    Kernel,
    KernelState,
    after_warmup,
    findings_of,
    in_warmup,
    known_energy,
    unmoved_sites,
)
from .chains import Attributes, Chains, NonFiniteEnergyError, Record, Schedule
from .pinned import ForbiddenStatesWarning, Pinned, pinned_units, warning_of
from .settings import require_energy, require_kernel
from .start import finite_start, given_start, read_structure, require_finite_start
from .watch import EVERY, Watch, WrongDependenceError

LOOK = 100  # steps, after which the energy of where chains stand is computed anew


def run(  # noqa: PLR0913 (one run: each of its settings by its own word)
    kernel: Kernel,
    energy: Energy,
    draws: int = 1000,
    *,
    warmup: int = 500,
    chains: int = 4,
    thinning: int = 1,
    keep: Literal["draws", "everything"] = "draws",
    initial: Sites | Tensor | None = None,
    seed: int | None = None,
) -> Chains:
    """Draws from p(x) ∝ exp(−energy(x)) by many chains at once, in one process.

    Settings of the kernel that are None are found in the warm-up and kept for the draws; what was
    found is in the attributes and in the `kernel` of what is returned.

    Ctrl-C ends the run after the step under way (pressed again, at once) and keeps the draws made
    so far, marked as interrupted; before the first step it is raised. Any other exception that
    comes from a step has those draws as its `chains`. From either, `resume` goes on to the draws of
    a run that was not broken. In several threads one run waits for the other.

    `sample` chooses the kernel for you and judges the chains; `infer.MCMC` runs kernels on Pyro
    models in Pyro's words.

    Args:
        kernel: The transition.
        energy: The energy.
        draws: How many to keep of each chain.
        warmup: Steps before the first draw.
        chains: The number of chains; that of `initial` where it is given.
        thinning: Steps from one draw to the next.
        keep: "draws", or "everything" to keep the (thinned) warm-up as well.
        initial: Where the chains start (chain, *site.shape), by site; if left out they
            start at random, scattered over each site's support, where the energy is finite.
        seed: Of this run; the global generators stay untouched. If left out it is drawn from them.

    Warns:
        ForbiddenStatesWarning: If units have kept their values since all others are forbidden.
        UserWarning: If the kernel leaves sites where they start.

    Raises:
        TypeError, ValueError: If an argument, a count, a shape or a start is not what is wanted, or
            if the energy of the start is not finite.
        NonFiniteEnergyError: If an energy becomes NaN; it carries the draws so far.
        WrongDependenceError: If a conditional law turns out not to be that of the energy; it
            carries the draws so far.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, run
        >>> machine = BoltzmannMachine.restricted(6, 4)
        >>> chains = run(Gibbs(), machine, draws=50, warmup=10, chains=8, thinning=2, seed=0)
        >>> chains.draws["visible"].shape, chains.statistics["lp"].shape
        (torch.Size([8, 50, 6]), torch.Size([8, 50]))
    """
    require_kernel(kernel)
    require_energy(energy, "energy")
    schedule = Schedule(draws=draws, warmup=warmup, thinning=thinning, keep=keep)
    seed = chosen_seed(seed)
    start = chains if initial is None else given_start(energy, initial)
    return carried_out(
        beginning(kernel, energy, schedule, start, seed), energy, seed, schedule.draws
    )


def beginning(
    kernel: Kernel, energy: Energy, schedule: Schedule, start: Sites | int, seed: int
) -> Callable[[Structure], Chains]:
    """What makes chains before their first step, given what is known of the energy.

    Args:
        kernel: The kernel.
        energy: The energy.
        schedule: How long they are to run.
        start: Where they start (chain, *shape), checked; or how many start at random.
        seed: Of the run.
    """

    def begin(structure: Structure) -> Chains:
        if isinstance(start, Mapping):
            x = start
            require_finite_start(energy, structure, x)
        else:
            x = finite_start(energy, start, structure)
        moving = in_warmup(kernel, schedule.warmup)
        state = moving.init(energy, x)
        if left := unmoved_sites(kernel, energy):
            held = ", ".join(f"{name!r}: value" for name in left)
            warnings.warn(
                f"The kernel does not move {left}, so all their draws are where the chains start. "
                f"Add a kernel for them in a Cycle, or hold them: clamp(energy, {{{held}}}).",
                stacklevel=4,
            )
        attributes: Attributes = {
            "inference_library": "pyro_ebm",
            "inference_library_version": __version__,
            "torch_version": str(torch.__version__),  # a subclass of str, which netCDF cannot store
            "energy": type(energy).__name__,
            "kernel": repr(moving),
            "dtype": str(energy.dtype).removeprefix("torch."),
            "device": str(energy.device),
            "seed": seed,
            "chains": len(next(iter(x.values()))),
            "warmup": schedule.warmup,
            "warmup_done": 0,
            "thinning": schedule.thinning,
            "seconds": 0.0,
            "interrupted": False,
        }
        now = generator_state(energy.device)
        return Chains(energy.sites, {}, {}, {}, {}, attributes, moving, schedule, state, now)

    return begin


def resume(chains: Chains, energy: Energy, draws: int) -> Chains:
    """The same chains with more draws: 60 draws and 40 more are the 100 of one longer run.

    So are chains of a run that was stopped, or that an exception carries.

    Args:
        chains: What `run` returned.
        energy: The energy; if its parameters have changed, the new draws follow the new ones.
        draws: How many more.

    Warns:
        ForbiddenStatesWarning: As `run`.

    Raises:
        ValueError: If `draws` is not positive, or the energy is not of the chains' sites.
        NonFiniteEnergyError, WrongDependenceError: As `run`; with all the draws so far.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, resume, run
        >>> machine = BoltzmannMachine.restricted(6, 4)
        >>> first = run(Gibbs(), machine, 60, warmup=10, seed=0)
        >>> whole = run(Gibbs(), machine, 100, warmup=10, seed=0)
        >>> torch.equal(resume(first, machine, 40).draws["visible"], whole.draws["visible"])
        True
    """
    require_same_sites(chains, energy)
    draws = Schedule(draws=draws).draws  # refuses what is no number of draws
    state = chains.kernel.refresh(energy, chains.state, chains.state.x)
    start = replace(chains, state=state)
    return carried_out(lambda _: start, energy, chains.generators, draws)


def carried_out(
    begin: Callable[[Structure], Chains],
    energy: Energy,
    generators: int | GeneratorState,
    draws: int,
    structure: Structure | None = None,
) -> Chains:
    """The chains from `begin` after what is left of their warm-up and so many draws more.

    Args:
        begin: Makes the chains to go on from, given what is known of the energy.
        energy: The energy.
        generators: A seed, or the state of the generators.
        draws: How many more.
        structure: What is known of the energy, if it is at hand: the run reads it once.

    Raises:
        NonFiniteEnergyError: If an energy becomes NaN; it carries the draws so far.
        BaseException: Any other than a KeyboardInterrupt; it has the draws so far as `chains`.
    """
    course: Course | None = None
    try:
        with whole_steps() as look, forked(generators, energy.device):
            structure = structure or read_structure(energy)
            course = Course(begin(structure), energy, structure, draws)
            course.go(look)
            found = course.chains()
            before = {k: v for k, v in found.attributes.items() if k not in Pinned._fields}
            pinned = pinned_units(energy, structure, found.draws)
            found = replace(found, attributes={**before, **(pinned._asdict() if pinned else {})})
            if "pinned" in found.attributes:
                warnings.warn(warning_of(found.attributes), ForbiddenStatesWarning, stacklevel=3)
            return found
    except BaseException as error:
        if course is None:
            raise
        return course.ended_by(error)


def joined(first: Chains, more: Chains) -> Chains:
    """The draws of both, and all else from the later ones."""

    def together(earlier: Sites, later: Sites) -> Sites:
        # A run that was stopped before its first draw has few statistics.
        names = {**earlier, **later}
        parts = {k: [group[k] for group in (earlier, later) if k in group] for k in names}
        return {k: torch.cat(both, 1) if both[1:] else both[0] for k, both in parts.items()}

    return replace(
        more,
        draws=together(first.draws, more.draws),
        statistics=together(first.statistics, more.statistics),
        warmup_draws=together(first.warmup_draws, more.warmup_draws),
        warmup_statistics=together(first.warmup_statistics, more.warmup_statistics),
    )


class Whole(NamedTuple):
    """Where a run stands after a whole step of the warm-up, or after a draw."""

    kernel: Kernel
    state: KernelState
    generators: GeneratorState
    warmup: int  # steps done, those of earlier runs too
    kept: tuple[int, int]  # draws in the records, of the warm-up and after it


class Course:
    """A run under way, of which only whole steps count.

    Args:
        start: The chains that it goes on from.
        energy: The energy.
        structure: What is known of it.
        draws: How many more.
    """

    def __init__(self, start: Chains, energy: Energy, structure: Structure, draws: int) -> None:
        schedule, count = start.schedule, int(start.attributes["chains"])
        done = int(start.attributes["warmup_done"])
        room = schedule.warmup // schedule.thinning - done // schedule.thinning
        self.start, self.energy = start, energy
        self.warmup = Record(energy, count, room if schedule.keep == "everything" else 0)
        self.draws = Record(energy, count, draws)
        self.whole = Whole(start.kernel, start.state, start.generators, done, (0, 0))
        self.looked = self.whole  # where the energy was last computed anew
        self.watch = Watch(structure, int(start.attributes["seed"]))
        # A Metropolis test rejects what is NaN: chains would stand still where the energy was
        # finite, and report that finite energy. A machine's parameters are checked when read.
        self.may_break = structure.forbids
        self.interrupted, self.begun = False, time.perf_counter()

    def go(self, look: Callable[[], None]) -> None:
        """Makes all the steps, and calls `look` between them.

        Raises:
            FloatingPointError: If an energy is not finite.
        """
        schedule = self.start.schedule
        done, steps = self.whole.warmup, self.draws.room * schedule.thinning
        total = schedule.warmup - done + steps
        self.watch.look(self.whole.state.x)
        name = type(self.whole.kernel).__name__
        with progress(name, total, "step", at_end="goes") as bar:

            def between() -> None:
                bar.update()
                look()

            self.make(self.warmup, range(done + 1, schedule.warmup + 1), between)
            kernel, state = after_warmup(self.whole.kernel, self.whole.state)
            self.whole = self.whole._replace(kernel=kernel, state=state)
            self.make(self.draws, range(1, steps + 1), between)

    def make(self, record: Record, steps: range, between: Callable[[], None]) -> None:
        """Makes steps of the warm-up or of the draws, and keeps those that are due."""
        energy, thinning = self.energy, self.start.schedule.thinning
        device = energy.device
        warming = record is self.warmup
        kernel, state = self.whole.kernel, self.whole.state
        for step in steps:
            before, due = state.x, step % thinning == 0
            state, info = kernel.step(energy, state)
            if due and record.filled < record.room:
                lp = -energy_at(energy, state)
                require_finite(lp, state.x)
                flips = count_flips(energy, before, state.x)
                record.add(state.x, {"lp": lp, **flips, **info._asdict()})
            if due or warming:
                self.whole = Whole(
                    kernel,
                    state,
                    generator_state(device),
                    step if warming else self.whole.warmup,
                    (self.warmup.filled, self.draws.filled),
                )
            if (due and not warming) or step % EVERY == 0:
                self.watch.look(state.x)
            if step % LOOK == 0 or step == steps[-1]:
                self.look_anew(state.x)
            between()

    def look_anew(self, x: Sites) -> None:
        """Computes the energy anew; where it is not finite, the steps since the last time are void.

        Raises:
            FloatingPointError: If it is not finite.
        """
        if self.may_break:
            try:
                with torch.no_grad():
                    require_finite(self.energy.evaluate(x).reshape(-1), x)
            except FloatingPointError:
                self.whole = self.looked
                raise
        self.looked = self.whole

    def chains(self) -> Chains:
        """What is whole of the run."""
        start, whole = self.start, self.whole
        draws, statistics = self.draws.kept(whole.kept[1])
        warmup_draws, warmup_statistics = self.warmup.kept(whole.kept[0])
        new = replace(
            start,
            draws=draws,
            statistics=statistics,
            warmup_draws=warmup_draws if self.warmup.room else {},
            warmup_statistics=warmup_statistics if self.warmup.room else {},
            attributes={
                **start.attributes,
                "kernel": repr(whole.kernel),
                **findings_of(whole.kernel),
                **ladder_findings(whole.kernel, whole.state),
                "interrupted": self.interrupted,
                "warmup_done": whole.warmup,
                "seconds": float(start.attributes["seconds"]) + time.perf_counter() - self.begun,
            },
            kernel=whole.kernel,
            state=whole.state,
            generators=whole.generators,
        )
        return joined(start, new)

    def ended_by(self, error: BaseException) -> Chains:
        """What is whole of the run that Ctrl-C has ended; any other exception carries it.

        Raises:
            NonFiniteEnergyError: If an energy is not finite.
            BaseException: Any other than a KeyboardInterrupt.
        """
        broken = isinstance(error, FloatingPointError)
        if broken and self.whole.warmup < self.start.schedule.warmup:
            self.whole = self.looked  # not all steps of a warm-up are checked
        self.interrupted = isinstance(error, KeyboardInterrupt)
        chains = self.chains()
        if self.interrupted:
            return chains
        if broken:
            raise NonFiniteEnergyError(
                f"{error} after {chains.statistics['lp'].shape[1]} draws. The draws so far are in "
                f"the exception's `chains`; check the parameters and the sites' values there.",
                chains,
            ) from error
        if isinstance(error, WrongDependenceError):
            kept = f"The {chains.statistics['lp'].shape[1]} draws so far are in the exception's"
            raise WrongDependenceError(f"{error}. {kept} `chains`; do not use them.", chains)
        carry(error, chains=chains)
        raise error


@torch.no_grad()
def energy_at(energy: Energy, state: KernelState) -> Tensor:
    """E(x) (*batch,), from the state where the kernel knows it."""
    known = known_energy(state)
    return energy.evaluate(state.x) if known is None else known


def count_flips(energy: Energy, before: Sites, after: Sites) -> dict[str, Tensor]:
    """The number of discrete units that a step changed (*batch,), if there are such units."""
    counts = []
    for name, site in energy.sites.items():
        if site.support.is_discrete:
            change = after[name] - before[name]
            change = change.reshape(len(change), -1)  # a site may be a single unit
            two = two_values(site.support)
            if two is None:
                change = change.sign()
            # Not (after != before).sum(-1), which is three times as slow.
            squares = torch.linalg.vecdot(change, change)
            low, high = two or (0.0, 1.0)
            counts.append(squares if high - low == 1 else squares / (high - low) ** 2)
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


def require_same_sites(chains: Chains, energy: Energy) -> None:
    """Refuses to go on with the energy of something else.

    Raises:
        ValueError: If its sites, or its dtype, are not those of the chains.
    """
    dtype = str(energy.dtype).removeprefix("torch.")
    if dict(chains.sites) != dict(energy.sites) or dtype != chains.attributes["dtype"]:
        old, new = (
            {n: in_words(s) for n, s in sites.items()} for sites in (chains.sites, energy.sites)
        )
        raise ValueError(
            f"The chains have the sites {old} in {chains.attributes['dtype']}, the energy {new} in "
            f"{dtype}; wanted the same: give the energy that they were drawn from, whose "
            f"parameters may have changed."
        )


def in_words(site: Site) -> str:
    """A site's support and shape."""
    return f"{describe(site.support)} {tuple(site.shape)}"
