"""What a run was asked for, and what it leaves behind: a schedule, and chains of draws."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, made_of
from pyro_ebm.seeding import GeneratorState
from pyro_ebm.sites import Site, Sites, storage_dtype, whole
from pyro_ebm.storage import (
    Content,
    Describer,
    NotStorableError,
    UnreadableFileError,
    read,
    write,
)

from .base import Kernel, KernelState

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

Attributes = dict[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long `run` was asked to run, as its chains keep it for `resume`.

    Args:
        draws: Draws to keep.
        warmup: Steps before the first draw.
        thinning: Steps from one draw to the next.
        keep: "draws", or "everything" to keep the (thinned) warm-up as well.

    Raises:
        ValueError: If a count is negative, or there is nothing to do.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, run
        >>> run(Gibbs(), BoltzmannMachine.fully_visible(3), 20, warmup=5, seed=0).schedule
        Schedule(draws=20, warmup=5, thinning=1, keep='draws')
    """

    draws: int = 1000
    warmup: int = 500
    thinning: int = 1
    keep: Literal["draws", "everything"] = "draws"

    def __post_init__(self) -> None:
        counts = (("draws", self.draws, 1), ("warmup", self.warmup, 0))
        for name, given, least in (*counts, ("thinning", self.thinning, 1)):
            value = whole(given)
            if value is None or value < least:
                raise ValueError(f"{name} is {given!r}; wanted a whole number of at least {least}.")
            object.__setattr__(self, name, value)
        if self.keep not in ("draws", "everything"):
            raise ValueError(f"keep is {self.keep!r}; wanted 'draws' or 'everything'.")


@dataclass(frozen=True, eq=False, repr=False)
class Chains:
    """Draws, how they came about, and from where they go on (`resume`); `print` sums it up.

    Args:
        sites: What the draws are of.
        draws: Values by site (chain, draw, *site.shape); discrete ones as small integers, whose
            products wrap: take `.double()` before a product. `to_arviz` has them in int64.
        statistics: Numbers by name (chain, draw): `lp` is −E(x) in nats, which is ln p(x) up to
            log Z; `n_flips` the number of discrete units that the step which ended in the draw
            has changed; the others are the kernel's, of that step, and may have further dimensions.
        warmup_draws: As `draws`, of the warm-up; empty unless `keep` is "everything".
        warmup_statistics: As `statistics`, of the warm-up.
        attributes: Kernel, what the warm-up found, schedule, seed, dtype, versions, seconds,
            whether interrupted; of a ladder its barrier, round trips and swap rates.
        kernel: The kernel that made them, as tuned; in a warm-up that was stopped the tuning one.
        schedule: The number of draws, the warm-up and the thinning that were asked for.
        state: The kernel's state after the last draw.
        generators: The state of the random numbers after the last draw.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, run
        >>> chains = run(Gibbs(), BoltzmannMachine.restricted(6, 4), 50, warmup=10, seed=0)
        >>> print(chains)
        chains  4 × 50 draws of visible (6,), hidden (4,)
        energy  BoltzmannMachine, float32 on cpu
        kernel  Gibbs()
        run     10 of 10 steps of warm-up, ... s, seed 0
        >>> chains.last["hidden"].shape
        torch.Size([4, 4])
    """

    sites: Mapping[str, Site]
    draws: Sites
    statistics: dict[str, Tensor]
    warmup_draws: Sites
    warmup_statistics: dict[str, Tensor]
    attributes: Attributes
    kernel: Kernel
    schedule: Schedule
    state: KernelState
    generators: GeneratorState

    def __repr__(self) -> str:
        lines = summary(self)
        width = max(map(len, lines))
        return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items())

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keeps the chains in a file, from which `resume` goes on in another process, bit for bit.

        Draws, statistics, kernel and its settings, its state and that of the random numbers are
        kept; the energy is not, which `resume` is given (`energies.save` keeps one). The file is
        there whole or not at all, and what it replaces stays until then.

        A function in a kernel, such as the proposal of `MetropolisHastings`, is code, which no file
        keeps: `Chains.load` is given the kernel again.

        Args:
            path: The file; by custom its name ends in `.chains`.

        Raises:
            NotStorableError: If kernel or state are of a class that no file keeps.

        Example:
            >>> import torch
            >>> from pyro_ebm import BoltzmannMachine, Chains, Gibbs, resume, run
            >>> machine = BoltzmannMachine.restricted(6, 4)
            >>> path = getfixture("tmp_path") / "run.chains"
            >>> run(Gibbs(), machine, 60, warmup=10, seed=0).save(path)
            >>> whole = run(Gibbs(), machine, 100, warmup=10, seed=0)
            >>> more = resume(Chains.load(path), machine, 40)
            >>> torch.equal(more.draws["visible"], whole.draws["visible"])
            True
        """
        describer = Describer("chains")
        parts = {"kernel": self.kernel} | {f.name: getattr(self, f.name) for f in fields(self)}
        parts["sites"] = dict(self.sites)
        tree = {name: describer.tree(value, name) for name, value in parts.items()}
        for where, own in describer.given:
            if not where.startswith("kernel.") or not callable(own) or isinstance(own, Kernel):
                name = type(own).__name__
                raise NotStorableError(
                    f"The chains have a {name} of yours as their {where}, which no file keeps. "
                    f"Call pyro_ebm.storage.register({name}) where it is saved and loaded."
                )
        write(path, "chains", Content(tree, describer.tensors))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        kernel: Kernel | None = None,
        device: torch.device | str | None = None,
    ) -> "Chains":
        """The chains of a file that `save` has written; by any earlier version, too.

        Args:
            path: The file.
            kernel: The kernel that was run, where it has functions of your own; its settings are
                those of the file.
            device: Where the state goes if it was on no CPU; by default where it was.

        Raises:
            FileNotFoundError: If there is none.
            UnreadableFileError: If it is damaged, of another kind, or of a later version, or the
                kernel has functions that are not given.
        """
        content = read(path, "chains", device)
        own = Describer("kernel")
        own.tree(kernel, "kernel")
        # The description of a dict of this class, whose parts are made in their order.
        pairs = [[name, part] for name, part in dict(content.tree).items()]
        content = content._replace(tree={"is": "dict", "of": pairs})
        parts = made_of(content, path, own.given)
        wanted = {field.name for field in fields(cls)}
        if parts.keys() != wanted or not isinstance(parts["kernel"], Kernel):
            raise UnreadableFileError(
                f"{path} is malformed: it holds {sorted(parts)} and no chains. Make it anew with "
                f"chains.save(path)."
            )
        return cls(**parts)


def summary(chains: Chains) -> dict[str, str]:
    """What ran, for how long, and what `sample` said of it, if it did."""
    told, sites = chains.attributes, chains.sites
    draws = max((x.shape[1] for x in chains.draws.values()), default=0)
    shapes = ", ".join(f"{name} {tuple(site.shape)}" for name, site in sites.items())
    of_warmup = f"{told['warmup_done']} of {told['warmup']} steps of warm-up"
    thinning = f", {told['thinning']} steps apart" if told["thinning"] != 1 else ""
    stopped = ", interrupted" if chains.interrupted else ""
    lines = {
        "chains": f"{told['chains']} × {draws} draws{thinning} of {shapes}",
        "energy": f"{told['energy']}, {told['dtype']} on {told['device']}",
        "kernel": brief(chains.kernel),
        "run": f"{of_warmup}, {float(told['seconds']):.3g} s, seed {told['seed']}{stopped}",
    }
    notes = {
        "picked": "{picked_because}",
        "ladder": "{picked_for_ladder}",
        "tried": "{tried}",
        "pinned": "{pinned}, by {pinned_by}",
        "verdict": "{verdict_in_words}",
        "advice": "{advice}",
    }
    for name, form in notes.items():
        with suppress(KeyError):  # of a run without `sample`
            lines[name] = form.format_map(told)
    return {name: " ".join(text.split()) for name, text in lines.items() if text}


def brief(value: object) -> str:
    """A kernel with the settings that are not the usual ones, numbers to four digits."""
    if isinstance(value, Kernel) and is_dataclass(value):
        own = [(field.name, getattr(value, field.name), field.default) for field in fields(value)]
        told = [f"{name}={brief(here)}" for name, here, usual in own if not is_same(here, usual)]
        return f"{type(value).__name__}({', '.join(told)})"
    if isinstance(value, Energy):
        return type(value).__name__
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Tensor):
        return brief(value.tolist())
    if isinstance(value, tuple | list):
        return f"({', '.join(map(brief, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def is_same(value: object, usual: object) -> bool:
    """Whether a setting is the usual one."""
    return value is usual or (isinstance(value, int | float | str) and value == usual)


class NonFiniteEnergyError(FloatingPointError):
    """The energy of a chain became NaN or infinite in mid-run.

    Args:
        message: What happened, and where.
        chains: The draws so far.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, Langevin, NonFiniteEnergyError, run
        >>> cliff = CallableEnergy(lambda x: torch.where(x > 0, x, torch.nan), ())
        >>> try:
        ...     run(Langevin(step_size=0.5), cliff, warmup=0, initial=torch.full((4,), 3.0), seed=0)
        ... except NonFiniteEnergyError as error:
        ...     print(error.chains.draws["visible"].isfinite().all())
        tensor(True)
    """

    def __init__(self, message: str, chains: Chains) -> None:
        super().__init__(message)
        self.chains = chains


class Record:
    """Room on the CPU for draws and statistics, filled from the front; whole draws count.

    A draw of all chains is one piece of memory, which a step fills at once; what is kept is turned
    to (chain, draw, ...) as a view.

    Raises:
        ValueError: If there is not so much memory.
    """

    def __init__(self, energy: Energy, chains: int, draws: int) -> None:
        self.filled, self.room = 0, draws
        require_room(energy, chains, draws)
        self.draws = {
            name: torch.empty(
                (draws, chains, *site.shape), dtype=storage_dtype(site.support) or energy.dtype
            )
            for name, site in energy.sites.items()
        }
        self.statistics = {"lp": torch.empty((draws, chains), dtype=energy.dtype)}

    def add(self, x: Sites, statistics: Mapping[str, Tensor]) -> None:
        """One draw; a statistic that it lacks is NaN there, 0 or False."""
        for name, value in x.items():
            self.draws[name][self.filled] = value
        for name, value in statistics.items():
            if name not in self.statistics:
                like = self.statistics["lp"]
                nothing = math.nan if value.is_floating_point() else 0
                room = (*like.shape, *value.shape[1:])
                self.statistics[name] = torch.full(room, nothing, dtype=value.dtype)
            self.statistics[name][self.filled] = value
        self.filled += 1

    def kept(self, count: int) -> tuple[Sites, dict[str, Tensor]]:
        """The first draws, and their statistics."""
        draws = {name: value[:count].transpose(0, 1) for name, value in self.draws.items()}
        statistics = {k: value[:count].transpose(0, 1) for k, value in self.statistics.items()}
        return draws, statistics


def require_room(energy: Energy, chains: int, draws: int) -> None:
    """Refuses draws that the memory of the machine cannot hold.

    Raises:
        ValueError: If it cannot.
    """
    size = energy.dtype.itemsize  # of lp
    for site in energy.sites.values():
        size += site.shape.numel() * (storage_dtype(site.support) or energy.dtype).itemsize
    wanted = size * chains * draws
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        memory = 2**63 - 1
    if wanted > memory:
        raise ValueError(
            f"{draws} draws of {chains} chains take {wanted / 1e9:.3g} GB of memory, and there are "
            f"{memory / 1e9:.3g} GB; wanted fewer draws, for example draws=1000, "
            f"thinning={-(-draws // 1000)}, which is as many steps."
        )
