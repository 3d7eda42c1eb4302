r"""Parallel tempering: replicas at several inverse temperatures that exchange their places.

Each chain has a replica at every level β of a ladder that ends at 1, on the path

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

Neighbours exchange their values with the probability
:math:`\min(1, e^{(\beta_{i+1} - \beta_i)(V(x_{i+1}) - V(x_i))})`, V = E − E_ref: the pairs
(0, 1), (2, 3), … after one step, (1, 2), (3, 4), … after the next. This order, fixed and not drawn,
carries replicas up and down the ladder in long runs. The levels are a batch dimension of
the values, the last one: (chains, levels, *shape).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Path, at_reference
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.base import (
    Findings,
    Kernel,
    KernelState,
    TunableKernel,
    Tuning,
    after_warmup,
    findings_of,
    in_warmup,
    moved_by_any,
    same_batch,
    unset_of,
)
from pyro_ebm.kernels.start import check_reference, is_one_law
from pyro_ebm.sites import Sites, check_names, whole

from .cycle import CompositionState, Cycle, Mixture, report_type

ROUNDS = (0.05, 0.1, 0.2, 0.4, 0.8)  # the shares of the warm-up after which there is a new ladder


class Ladder(NamedTuple):
    """Where the replicas are, and where they have been.

    Args:
        replica: Which replica is at each level (*batch, levels).
        stage: Of the replica at each level (*batch, levels): 0 before its first visit at β = 1;
            then 1 after a visit at β = 1, and 2 if it has been at the lowest level since.
        round_trips: Completed journeys from β = 1 to the lowest level and back (*batch,).
        rejections: The sum over the counted steps of the probabilities of no exchange
            (levels − 1,), the mean of all chains.
        counted: How many steps are in these sums.
        steps: The steps done, which tell whose turn it is.
    """

    replica: Tensor
    stage: Tensor
    round_trips: Tensor
    rejections: Tensor
    counted: int
    steps: int


class TemperingState(NamedTuple):
    """The values at β = 1, and the replicas at all levels.

    Args:
        x: The values at β = 1 (*batch, *shape).
        energy: E(x) there (*batch,).
        path: The energy of the replicas, levels last, with parameters as they were read.
        replicas: The state of the inner kernel, with values (*batch, levels, *shape).
        ladder: Who is where.
    """

    x: Sites
    energy: Tensor
    path: Energy
    replicas: KernelState
    ladder: Ladder


class TemperingReport(NamedTuple):
    r"""How well a ladder carries replicas.

    Args:
        rejection_rates: Of the exchange of each pair of neighbours (levels − 1,).
        barrier: The communication barrier :math:`\Lambda = \sum_i r_i`: a number of the path, up to
            terms that vanish for many levels.
        round_trips: Completed by all replicas of each chain (*batch,).
        round_trip_rate: Round trips for each chain and step.
        best_round_trip_rate: 1 / (2 + 2Λ), which no ladder on this path exceeds, where the levels
            mix well on their own.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, ParallelTempering, run
        >>> ring = BoltzmannMachine.on_graph(
        ...     [(0, 1), (1, 2), (2, 0)], couplings=torch.tensor([2.0])
        ... )
        >>> chains = run(ParallelTempering(Gibbs(), (0.2, 0.5, 1.0)), ring, 50, warmup=10, seed=0)
        >>> report = chains.kernel.report(chains.state)
        >>> report.rejection_rates.shape, report.round_trips.shape
        (torch.Size([2]), torch.Size([4]))
    """

    rejection_rates: Tensor
    barrier: float
    round_trips: Tensor
    round_trip_rate: float
    best_round_trip_rate: float


@dataclass(frozen=True, eq=False)
class ParallelTempering(TunableKernel[TemperingState]):
    """A kernel at every level of a ladder, with exchanges of neighbours in even–odd turns.

    It reports `swap_rate`, the mean probability of an exchange over all pairs of neighbours,
    `replica`, the number of the replica that is at β = 1 now, `replica_level`, the level at which
    each replica is (chain, draw, replica), as `round_trips` wants it, and what the inner kernel
    reports at β = 1. The attributes of a run tell its `barrier`, the `round_trips` of the replicas
    (mean of chains) and the `swap_rates` of the pairs, of all steps since the warm-up;
    `report(chains.state)` tells it in numbers.

    `sample` goes on to it where chains are trapped.

    Args:
        kernel: What moves the replicas at each level.
        betas: The inverse temperatures, rising, the last one 1; or the number of levels from 0 to
            1, whose places the warm-up finds such that all exchanges are equally likely.
        reference: The energy at β = 0; zero if left out. An easy one of the same sites, such as
            independent units fitted to the data, makes the way shorter.

    Raises:
        ValueError: If the ladder is not at least two rising numbers from 0 or above to 1.
        TypeError: If `kernel` is no kernel, `reference` no energy, or `betas` neither numbers nor a
            number of levels.

    Example:
        >>> from pyro_ebm import CallableEnergy, ParallelTempering, RandomWalk, UnitMass, run
        >>> wells = CallableEnergy(lambda x: ((x.abs() - 4) * 2).square(), ())
        >>> walk = RandomWalk(scale=2.0, mass=UnitMass())
        >>> ladder = ParallelTempering(walk, betas=(0.02, 0.1, 0.4, 1.0))
        >>> chains = run(ladder, wells, 50, warmup=20, seed=0)
        >>> ladder.report(chains.state).rejection_rates.shape
        torch.Size([3])

    References:
        | Non-reversible parallel tempering: a scalable highly parallel MCMC scheme
        | (Syed, Bouchard-Côté, Deligiannidis & Doucet, 2022) https://doi.org/10.1111/rssb.12464
        | Exchange Monte Carlo method and application to spin glass simulations
        | (Hukushima & Nemoto, 1996) https://doi.org/10.1143/JPSJ.65.1604
    """

    kernel: Kernel
    betas: tuple[float, ...] | int
    reference: Energy | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel is {self.kernel!r}; wanted a kernel, for example Gibbs().")
        if self.reference is not None and not isinstance(self.reference, Energy):
            raise TypeError(
                f"reference is {self.reference!r}; wanted an energy of the same sites, or None."
            )
        levels = whole(self.betas)
        if levels is None:
            more = ", or the number of levels as a whole number, for example 8"
            object.__setattr__(self, "betas", checked_ladder(self.betas, more))
            return
        if levels < 2:
            raise ValueError(f"betas is {levels}; wanted two levels or more.")
        object.__setattr__(self, "betas", levels)

    def unset(self) -> tuple[str, ...]:
        return (*(("betas",) if isinstance(self.betas, int) else ()), *unset_of(self.kernel))

    @property
    def ladder(self) -> tuple[float, ...]:
        """The inverse temperatures.

        Raises:
            ValueError: If they have not been found yet.
        """
        if isinstance(self.betas, int):
            raise ValueError(
                f"The places of the {self.betas} levels have not been found yet. Give betas as "
                f"numbers, or have them found in a warm-up: run(..., warmup=500)."
            )
        return self.betas

    def levels(self, energy: Energy) -> Tensor:  # (levels,)
        """The ladder as a tensor."""
        return torch.tensor(self.ladder, dtype=energy.dtype, device=energy.device)

    def path(self, energy: Energy) -> Energy:
        """The energy of the replicas, levels last."""
        return Path.between(self.reference, energy).at(self.levels(energy))

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return moved_by_any((self.kernel,), energy)

    def init(self, energy: Energy, x: Sites) -> TemperingState:
        check_reference(energy, self.reference, self.ladder[0])
        x = energy.accept(x)
        check_names(x, energy.sites)
        batch, levels = same_batch(x, energy), len(self.ladder)
        require_one_law(energy, x, "energy")
        path = self.path(energy)
        if self.reference is not None:
            require_one_law(self.reference, x, "reference")
        replicas = self.kernel.init(path, spread(energy, x, levels))
        number = torch.arange(levels, device=energy.device).expand(*batch, levels).clone()
        stage = torch.zeros_like(number)
        stage[..., -1] = 1
        zeros = torch.zeros(levels - 1, dtype=torch.float64, device=energy.device)
        trips = torch.zeros(batch, dtype=torch.int64, device=energy.device)
        ladder = Ladder(number, stage, trips, zeros, 0, 0)
        with torch.no_grad():
            return TemperingState(x, energy.evaluate(x), path, replicas, ladder)

    def refresh(self, energy: Energy, state: TemperingState, x: Sites) -> TemperingState:
        values = state.replicas.x
        if x is not state.x:
            values = {name: with_last(values[name], energy, name, x[name]) for name in values}
        path = self.path(energy)
        replicas = self.kernel.refresh(path, state.replicas, values)
        with torch.no_grad():
            height = energy.evaluate(x)
        return state._replace(x=x, energy=height, path=path, replicas=replicas)

    @torch.no_grad()
    def step(self, energy: Energy, state: TemperingState) -> tuple[TemperingState, NamedTuple]:
        path = state.path
        replicas, inner = self.kernel.step(path, state.replicas)
        energies = energy.evaluate(replicas.x)
        potential = energies - at_reference(self.reference, replicas.x)
        rates = swap_rates(self.levels(energy), potential)
        swapped = chance.happens(rates) & turn(state.ladder.steps, rates)
        order = exchanged(swapped)
        x = {name: permuted(value, order, energy, name) for name, value in replicas.x.items()}
        replicas = self.kernel.refresh(path, replicas, x)
        ladder = moved(state.ladder, order, rates)
        top = {name: value.select(rates.dim() - 1, -1) for name, value in x.items()}
        height = energies.gather(-1, order)[..., -1]
        new = state._replace(x=top, energy=height, replicas=replicas, ladder=ladder)
        top_info = {name: value[..., -1] for name, value in inner._asdict().items()}
        told = {
            "swap_rate": rates.mean(-1),
            "replica": ladder.replica[..., -1],
            "replica_level": levels_of(ladder.replica),
            **top_info,
        }
        return new, report_type(tuple(told))(*told.values())

    def report(self, state: TemperingState) -> TemperingReport:
        """How well the ladder has carried the replicas so far: of `chains.state`, after a run."""
        ladder = state.ladder
        rates = ladder.rejections / max(1, ladder.counted)
        barrier = float(rates.sum())
        trips = float(ladder.round_trips.double().mean())
        return TemperingReport(
            rates,
            barrier,
            ladder.round_trips,
            trips / max(1, ladder.counted),
            1 / (2 + 2 * barrier),
        )

    def adapted(self, state: TemperingState) -> "ParallelTempering":
        """The same with a ladder on which, as found so far, all exchanges are equally likely."""
        betas = equal_rejections(self.ladder, self.report(state).rejection_rates.tolist())
        return replace(self, betas=betas)

    def tuning(self, steps: int) -> Kernel:
        # Also where all is given: what is counted of the draws begins after the warm-up.
        return TemperingTuning(self, in_warmup(self.kernel, steps), steps)

    @property
    def findings(self) -> Findings:
        found = findings_of(self.kernel)
        if isinstance(self.betas, int):
            return found
        return {"betas": ", ".join(f"{beta:.4g}" for beta in self.betas), **found}


class TemperingTuningState(NamedTuple):
    """The kernel's state, the ladder as found so far, and the steps done."""

    inner: TemperingState
    betas: tuple[float, ...]
    done: int

    @property
    def x(self) -> Sites:
        """The values at β = 1."""
        return self.inner.x

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x) there."""
        return self.inner.energy


@dataclass(frozen=True, eq=False)
class TemperingTuning(Tuning[TemperingTuningState]):
    """Tempering in its warm-up: the ladder is placed anew after rounds that double in length.

    Args:
        kernel: The kernel, with what was given.
        inner: What moves the replicas in the warm-up.
        steps: The steps of the warm-up.
    """

    kernel: ParallelTempering
    inner: Kernel
    steps: int

    def at(self, betas: tuple[float, ...]) -> ParallelTempering:
        """The kernel of the warm-up, with a ladder."""
        return replace(self.kernel, kernel=self.inner, betas=betas)

    def init(self, energy: Energy, x: Sites) -> TemperingTuningState:
        betas = self.kernel.betas
        if isinstance(betas, int):
            betas = checked_ladder(torch.linspace(0, 1, betas, dtype=torch.float64).tolist())
        return TemperingTuningState(self.at(betas).init(energy, x), betas, 0)

    def refresh(
        self, energy: Energy, state: TemperingTuningState, x: Sites
    ) -> TemperingTuningState:
        inner = self.at(state.betas).refresh(energy, state.inner, x)
        return state._replace(inner=inner)

    def step(
        self, energy: Energy, state: TemperingTuningState
    ) -> tuple[TemperingTuningState, NamedTuple]:
        kernel = self.at(state.betas)
        inner, info = kernel.step(energy, state.inner)
        new = TemperingTuningState(inner, state.betas, state.done + 1)
        if new.done not in {round(share * self.steps) for share in ROUNDS}:
            return new, info
        betas = self.placed(new)
        if betas != state.betas:  # what the replicas know of their energies is renewed
            inner = self.at(betas).refresh(energy, inner, inner.x)
        return new._replace(inner=recounted(inner), betas=betas), info

    def placed(self, state: TemperingTuningState) -> tuple[float, ...]:
        """The ladder after a round; the given one, where there is one."""
        if not isinstance(self.kernel.betas, int):
            return state.betas
        return self.at(state.betas).adapted(state.inner).ladder

    def tuned(self, state: TemperingTuningState) -> tuple[Kernel, TemperingState]:
        kernel, replicas = after_warmup(self.inner, state.inner.replicas)
        inner = recounted(state.inner._replace(replicas=replicas))
        if kernel is self.kernel.kernel and state.betas == self.kernel.betas:
            return self.kernel, inner
        return replace(self.kernel, kernel=kernel, betas=state.betas), inner


def recounted(state: TemperingState) -> TemperingState:
    """The state with its counts at zero; whose turn it is, and who is where, go on."""
    ladder = state.ladder
    zeros, trips = torch.zeros_like(ladder.rejections), torch.zeros_like(ladder.round_trips)
    ladder = ladder._replace(rejections=zeros, round_trips=trips, counted=0)
    return state._replace(ladder=ladder)


def ladder_findings(kernel: Kernel, state: KernelState) -> Findings:
    """What the ladder of a kernel has done since its warm-up, for the attributes of a run.

    Nothing for other kernels; for the ladders in a composition with the kernel's number before the
    names, as in its findings.
    """
    if isinstance(kernel, ParallelTempering) and isinstance(state, TemperingState):
        report = kernel.report(state)
        return {
            "barrier": report.barrier,
            "round_trips": float(report.round_trips.double().mean()),
            "swap_rates": ", ".join(f"{1 - rate:.4g}" for rate in report.rejection_rates.tolist()),
        }
    if not isinstance(kernel, Cycle | Mixture) or not isinstance(state, CompositionState):
        return {}
    return {
        f"kernel_{number}_{name}": value
        for number, (own, at) in enumerate(zip(kernel.kernels, state.states, strict=True))
        for name, value in ladder_findings(own, at).items()
    }


def require_one_law(energy: Energy, x: Sites, name: str) -> None:
    """Refuses an energy that is another one for each chain.

    Raises:
        ValueError: If it is, since its batch would be taken for the levels.
    """
    if not is_one_law(energy, x):
        raise ValueError(
            f"The {name} has parameters of its own for each chain; ParallelTempering wanted one "
            f"law for all, since its levels take their place. Temper the laws one by one."
        )


def checked_ladder(betas: object, more: str = "") -> tuple[float, ...]:
    """A ladder as numbers.

    Args:
        betas: The ladder.
        more: What else may be given, for the message.

    Raises:
        ValueError: If it is not at least two rising numbers from 0 or above to 1.
        TypeError: If it is not a series of numbers.
    """
    try:
        found = tuple(float(beta) for beta in betas)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(
            f"betas is {betas!r}; wanted rising inverse temperatures up to 1, for example "
            f"(0.0, 0.3, 1.0) or torch.linspace(0, 1, 8).tolist(){more}."
        ) from None
    rising = all(low < high for low, high in itertools.pairwise(found))
    if len(found) < 2 or not rising or found[0] < 0 or found[-1] != 1:
        raise ValueError(
            f"betas is {found}; wanted two rising inverse temperatures or more, from 0 or above "
            f"to 1, for example torch.linspace(0, 1, 8).tolist()."
        )
    return found


def spread(energy: Energy, x: Sites, levels: int) -> Sites:  # (*batch, levels, *shape)
    """The values at every level."""
    found = {}
    for name, value in x.items():
        own = value.dim() - len(energy.sites[name].shape)
        sizes = (*value.shape[:own], levels, *value.shape[own:])
        found[name] = value.unsqueeze(own).expand(sizes).clone()
    return found


def with_last(values: Tensor, energy: Energy, site: str, x: Tensor) -> Tensor:
    """The values at all levels, with others at β = 1."""
    level = values.dim() - len(energy.sites[site].shape) - 1
    last = x.unsqueeze(level)
    return torch.cat([values.narrow(level, 0, values.shape[level] - 1), last], level)


def permuted(value: Tensor, order: Tensor, energy: Energy, site: str) -> Tensor:
    """Values (*batch, levels, *shape) in another order of the levels (*batch, levels)."""
    index = order.reshape(*order.shape, *[1] * len(energy.sites[site].shape))
    return value.gather(order.dim() - 1, index.expand(value.shape))


def swap_rates(betas: Tensor, potential: Tensor) -> Tensor:  # (*batch, levels - 1)
    r"""With what probability neighbours exchange their values.

    Args:
        betas: The ladder (levels,).
        potential: V = E − E_ref of the replica at each level (*batch, levels).
    """
    log_ratio = betas.diff() * potential.diff(dim=-1)
    return log_ratio.clamp(max=0).exp().nan_to_num(nan=0.0)


def turn(steps: int, rates: Tensor) -> Tensor:  # bool (levels - 1,)
    """Which pairs may exchange after this step: those from an even level, then from an odd one."""
    return torch.arange(rates.shape[-1], device=rates.device) % 2 == steps % 2


def exchanged(swapped: Tensor) -> Tensor:  # (*batch, levels - 1) -> (*batch, levels)
    """From which level each level gets its values; no two neighbouring pairs may exchange."""
    step = swapped.to(torch.int64)
    pad = step.new_zeros((*step.shape[:-1], 1))
    levels = torch.arange(swapped.shape[-1] + 1, device=swapped.device)
    return levels + torch.cat([step, pad], -1) - torch.cat([pad, step], -1)


def levels_of(replica: Tensor) -> Tensor:  # (*batch, levels) -> int16 (*batch, replicas)
    """At which level each replica is, from who is at each level."""
    levels = torch.arange(replica.shape[-1], dtype=torch.int16, device=replica.device)
    return torch.empty_like(replica, dtype=torch.int16).scatter_(
        -1, replica, levels.expand(replica.shape)
    )


def moved(ladder: Ladder, order: Tensor, rates: Tensor) -> Ladder:
    """Who is where after an exchange, and what has been completed by it."""
    replica, stage = ladder.replica.gather(-1, order), ladder.stage.gather(-1, order)
    completed = stage[..., -1] == 2
    stage[..., -1] = 1
    lowest = stage[..., 0]
    stage[..., 0] = torch.where(lowest == 1, 2, lowest)
    lost = 1 - rates.double().reshape(-1, rates.shape[-1]).mean(0)
    return Ladder(
        replica,
        stage,
        ladder.round_trips + completed,
        ladder.rejections + lost,
        ladder.counted + 1,
        ladder.steps + 1,
    )


def equal_rejections(betas: Sequence[float], rejection_rates: Sequence[float]) -> tuple[float, ...]:
    r"""A ladder of as many levels on which neighbours would be rejected equally often.

    The barrier :math:`\Lambda(\beta)`, the sum of the rates up to β, is taken to grow linearly
    between the levels at which it was found; the new levels are where it has grown by equal parts.

    Args:
        betas: The ladder (levels,).
        rejection_rates: Found on it (levels − 1,).
    """
    # Levels that were never told apart still need some distance.
    rates = torch.tensor(rejection_rates, dtype=torch.float64).clamp(min=1e-3)
    height = torch.cat([rates.new_zeros(1), rates.cumsum(0)])
    old = torch.tensor(betas, dtype=torch.float64)
    wanted = torch.linspace(0, float(height[-1]), len(betas), dtype=torch.float64)
    above = torch.searchsorted(height, wanted).clamp(1, len(betas) - 1)
    share = (wanted - height[above - 1]) / (height[above] - height[above - 1])
    new = old[above - 1] + share * (old[above] - old[above - 1])
    return (float(betas[0]), *new[1:-1].tolist(), 1.0)
