"""Running a kernel: a schedule, many chains in one process, and what they leave behind."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_ebm.energies import Energy
from pyro_ebm.seeding import GeneratorState, chosen_seed, forked, generator_state
from pyro_ebm.sites import Site, Sites, boolean, check_names, spin, storage_dtype

from .base import Kernel, same_batch

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

Attributes = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Schedule:
    """How long to run.

    Args:
        warmup: Steps before the first draw.
        draws: Draws to keep.
        thinning: Steps from one draw to the next.
        keep: "draws", or "everything" to keep the (thinned) warm-up as well.

    Raises:
        ValueError: If a count is negative, or there is nothing to do.
    """

    warmup: int = 500
    draws: int = 1000
    thinning: int = 1
    keep: Literal["draws", "everything"] = "draws"

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("draws", 1), ("thinning", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; wanted a whole number of at least {least}.")
        if self.keep not in ("draws", "everything"):
            raise ValueError(f"keep is {self.keep!r}; wanted 'draws' or 'everything'.")


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws, how they came about, and from where they go on (`resume`).

    Args:
        sites: What the draws are of.
        draws: Values by site (chain, draw, *site.shape); discrete ones as small integers.
        statistics: Numbers by name (chain, draw): `lp` is −E(x) in nats, which is ln p(x) up to
            log Z; `n_flips` the number of discrete units that the step which ended in the draw
            has changed; the others are the kernel's, of that step.
        warmup_draws: As `draws`, of the warm-up; empty unless the schedule keeps everything.
        warmup_statistics: As `statistics`, of the warm-up.
        attributes: Kernel, schedule, seed, dtype, versions, seconds, whether interrupted.
        kernel: The kernel that made them.
        schedule: The schedule asked for.
        state: The kernel's state after the last draw.
        generators: The state of the random numbers after the last draw.
    """

    sites: Mapping[str, Site]
    draws: Sites
    statistics: dict[str, Tensor]
    warmup_draws: Sites
    warmup_statistics: dict[str, Tensor]
    attributes: Attributes
    kernel: Kernel
    schedule: Schedule
    state: Any = field(repr=False)
    generators: GeneratorState = field(repr=False)

    @property
    def last(self) -> Sites:
        """The values after the last draw (chain, *site.shape), in the energy's dtype."""
        return self.state.x

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped by hand before its end."""
        return bool(self.attributes["interrupted"])

    def to_arviz(
        self,
        *,
        feature_names: Mapping[str, list[str]] | None = None,
        observed_data: Sites | Tensor | None = None,
    ) -> "InferenceData | DataTree":
        """The chains as ArviZ data, on ArviZ 0.23 and 1.x alike; see `diagnostics.to_arviz`."""
        from pyro_ebm.diagnostics import to_arviz  # the one lazy import of a layer above

        return to_arviz(self, feature_names=feature_names, observed_data=observed_data)


class NonFiniteEnergyError(FloatingPointError):
    """The energy of a chain became NaN or infinite in mid-run.

    Args:
        message: What happened, and where.
        chains: The draws so far.
    """

    def __init__(self, message: str, chains: Chains) -> None:
        super().__init__(message)
        self.chains = chains


class Record:
    """Room on the CPU for draws and statistics, filled from the front; whole draws count."""

    def __init__(self, energy: Energy, chains: int, draws: int) -> None:
        self.filled, self.room = 0, draws
        self.draws = {
            name: room((chains, draws, *site.shape), storage_dtype(site.support) or energy.dtype)
            for name, site in energy.sites.items()
        }
        self.statistics = {"lp": room((chains, draws), energy.dtype)}

    def add(self, x: Sites, statistics: Mapping[str, Tensor]) -> None:
        """One draw."""
        for name, value in x.items():
            self.draws[name][:, self.filled] = value
        for name, value in statistics.items():
            if name not in self.statistics:
                self.statistics[name] = room(self.statistics["lp"].shape, value.dtype)
            self.statistics[name][:, self.filled] = value
        self.filled += 1

    def kept(self) -> tuple[Sites, dict[str, Tensor]]:
        """What has been filled."""
        draws = {name: value[:, : self.filled] for name, value in self.draws.items()}
        statistics = {name: value[:, : self.filled] for name, value in self.statistics.items()}
        return draws, statistics


def room(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor on the CPU, for writing a little here and there."""
    # Not torch.empty: numpy asks the system for large pages, and where every chain has a page of
    # its own, small ones make the writing of a draw six times as slow.
    kind = torch.empty((), dtype=dtype).numpy().dtype
    return torch.from_numpy(np.empty(tuple(shape), kind))


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

    Ctrl-C ends the run and keeps the draws made so far, marked as interrupted.

    Args:
        kernel: The transition.
        energy: The energy.
        schedule: How long; 500 steps of warm-up and 1,000 draws if left out.
        chains: The number of chains; that of `initial` where it is given.
        initial: Where the chains start (chain, *site.shape), by site; if left out each unit of a
            two-valued site starts at random.
        seed: Of this run; the global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If an argument, a count, a shape or a start is not what is wanted.
        NonFiniteEnergyError: If an energy becomes NaN; it carries the draws so far.
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
        x = random_start(energy, chains) if initial is None else given_start(energy, initial)
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
        ValueError: If `draws` is not positive.
        NonFiniteEnergyError: If an energy becomes NaN; it carries all the draws so far.
    """
    Schedule(draws=draws)  # refuses what is no number of draws
    left = chains.schedule.warmup - int(chains.attributes["warmup_done"])
    state = chains.kernel.refresh(energy, chains.state, chains.state.x)
    with forked(chains.generators, energy.device):
        try:
            more = go_on(replace(chains, state=state), energy, left, draws)
        except NonFiniteEnergyError as error:
            raise NonFiniteEnergyError(str(error), joined(chains, error.chains)) from None
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
    begin, interrupted, problem, done = time.perf_counter(), False, None, 0
    with tqdm(total=warmup + draws * thinning, disable=None, leave=False, unit="step") as bar:
        try:
            for step in range(1, warmup + draws * thinning + 1):
                before = state.x
                state, info = kernel.step(energy, state)
                done = step
                bar.update()
                in_warmup = step <= warmup
                record = records[0] if in_warmup else records[1]
                if record.filled < record.room and not (step - (not in_warmup) * warmup) % thinning:
                    lp = -energy_at(energy, state)
                    if problem := not_finite(lp, state.x):
                        break
                    flips = count_flips(energy, before, state.x)
                    record.add(state.x, {"lp": lp, **flips, **info._asdict()})
        except KeyboardInterrupt:
            interrupted = True
    (warmup_draws, warmup_statistics), (draws_, statistics) = (r.kept() for r in records)
    chains = replace(
        start,
        draws=draws_,
        statistics=statistics,
        warmup_draws=warmup_draws if kept_warmup else {},
        warmup_statistics=warmup_statistics if kept_warmup else {},
        attributes={
            **start.attributes,
            "interrupted": interrupted,
            "warmup_done": int(start.attributes["warmup_done"]) + min(done, warmup),
            "seconds": float(start.attributes["seconds"]) + time.perf_counter() - begin,
        },
        state=state,
        generators=generator_state(energy.device),
    )
    if problem:
        raise NonFiniteEnergyError(
            f"{problem} after {records[1].filled} draws. The draws so far are in the exception's "
            f"`chains`; check the parameters and the sites' values there.",
            chains,
        )
    return chains


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
            change = (after[name] - before[name]).flatten(1)
            if site.support not in (boolean, spin):
                change = change.sign()
            # Not (after != before).sum(-1), which is five times as slow.
            squares = torch.linalg.vecdot(change, change)
            counts.append(squares / 4 if site.support is spin else squares)
    return {"n_flips": functools.reduce(torch.add, counts).to(torch.int32)} if counts else {}


def not_finite(lp: Tensor, x: Sites) -> str | None:
    """What is not finite and where, or None."""
    if bool(lp.isfinite().all()):
        return None
    where = (~lp.isfinite()).nonzero()[:, 0].tolist()
    sites = [name for name, value in x.items() if not bool(value.isfinite().all())]
    what = f"The values of the sites {sites}" if sites else "The energy"
    return f"{what} became NaN or infinite in the chains {where[:10]}"


def random_start(energy: Energy, chains: int) -> Sites:
    """Every unit of every site at random, for two-valued sites.

    Raises:
        ValueError: If the count is not positive, or a site needs a start of its own.
    """
    if not isinstance(chains, int) or chains < 1:
        raise ValueError(f"chains is {chains!r}; wanted a positive whole number.")
    x = {}
    for name, site in energy.sites.items():
        if site.support not in (boolean, spin):
            raise ValueError(
                f"No random start is known for {name!r}, which is {site.support}; give "
                f"initial={{{name!r}: tensor}} with a leading chain dimension."
            )
        bits = torch.rand((chains, *site.shape), dtype=energy.dtype, device=energy.device).round_()
        x[name] = 2 * bits - 1 if site.support is spin else bits
    return x


def given_start(energy: Energy, initial: Sites | Tensor) -> Sites:
    """The start that was given, checked.

    Raises:
        ValueError: If it does not have exactly one leading dimension, that of the chains.
    """
    x = energy.accept(initial, preferred=None)
    check_names(x, energy.sites)
    batch = same_batch(x, energy)
    if len(batch) != 1 or batch[0] < 1:
        raise ValueError(
            f"The start has the batch shape {tuple(batch)}; wanted (chains,). "
            f"For a single chain use value[None]."
        )
    return x
