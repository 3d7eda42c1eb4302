r"""Slow cooling: simulated annealing, descent at zero temperature, and tempered transitions.

All of them go along

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

from an easy reference (E_ref = 0 unless one is given) to the energy and, where a minimum is wanted,
beyond it to large β.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import BlockEnergy, Energy, PairwiseEnergy, knows_conditional
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites, check_names, describe
from pyro_ebm.units import Unit

from .alphabets import Alphabet, alphabet_of, change_one
from .base import Kernel, same_batch
from .cycle import Cycle, Mixture
from .gibbs import Gibbs
from .gradient_gibbs import GibbsWithGradients, read_terms, where
from .hmc import HMC, halton
from .langevin import Langevin
from .metropolis import metropolis
from .path import Path, check_reference
from .random_blocks import RandomBlocks, can_move, values_of
from .run import given_start, random_start
from .tempering import ParallelTempering, checked_ladder

ROWS = 2**14  # states whose energies are evaluated at a time
MOST_SWEEPS = 10_000  # of a descent, which rounding might keep from an end
SETTINGS = ("step_size", "trajectory_length", "scale")  # of kernels, that a warm-up may find


class Annealed(NamedTuple):
    """Where the chains of an annealing ended.

    Args:
        x: The values (chain, *shape).
        energy: E(x) (chain,).
    """

    x: Sites
    energy: Tensor

    @property
    def lowest(self) -> Sites:
        """The values (*shape) of the chain that ended lowest."""
        best = int(self.energy.argmin())
        return {name: value[best] for name, value in self.x.items()}


def anneal(
    energy: Energy,
    betas: Sequence[float] | Tensor,
    *,
    kernel: Kernel | None = None,
    reference: Energy | None = None,
    chains: int = 64,
    initial: Sites | Tensor | None = None,
    seed: int | None = None,
) -> Annealed:
    """One step of a kernel at each of a series of inverse temperatures, by many chains.

    Args:
        energy: The energy.
        betas: The inverse temperatures (steps,), none negative; 1 is the energy's own, and a
            minimum is sought by going far above it.
        kernel: What moves the chains: an object with all its settings, since there is no warm-up;
            a site that it does not move stays at its start. If left out it is Gibbs for the sites
            whose conditional laws are known, and GibbsWithGradients or RandomBlocks for other
            discrete ones.
        reference: The energy at β = 0; zero if left out. With one, β is at most 1.
        chains: How many; those of `initial` where it is given.
        initial: Where they start (chain, *shape), by site; at random if left out.
        seed: The global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If an argument is not what is wanted, or if no kernel is given and a
            site is real and its conditional law is not known.

    References:
        | Optimization by simulated annealing (Kirkpatrick, Gelatt & Vecchi, 1983)
        | https://doi.org/10.1126/science.220.4598.671
    """
    require_energy(energy, "energy")
    if reference is not None:
        require_energy(reference, "reference")
    schedule = checked_schedule(betas, energy, reference)
    with forked(chosen_seed(seed), energy.device), torch.no_grad():
        path = Path.between(reference, energy)
        if kernel is None:
            kernel = default_kernel(path.at(schedule[-1]))
        require_kernel(kernel)
        require_settings(kernel, "anneal")
        x = random_start(energy, chains) if initial is None else given_start(energy, initial)
        state: Any = None
        for beta in schedule:
            here = path.at(beta)
            state = kernel.init(here, x) if state is None else kernel.refresh(here, state, state.x)
            state, _ = kernel.step(here, state)
        return Annealed(state.x, energy.evaluate(state.x))


def checked_schedule(
    betas: Sequence[float] | Tensor, energy: Energy, reference: Energy | None
) -> Tensor:  # (steps,)
    """Inverse temperatures as a tensor of the energy's kind.

    Raises:
        ValueError: If there are none, or one is negative or not finite, or above 1 where there is
            a reference.
    """
    schedule = torch.as_tensor(betas, dtype=energy.dtype, device=energy.device)
    if schedule.dim() != 1 or not len(schedule):
        raise ValueError(
            f"betas has the shape {tuple(schedule.shape)}; wanted inverse temperatures (steps,), "
            f"for example torch.linspace(0.1, 3, 1000)."
        )
    least, largest = float(schedule.min()), float(schedule.max())
    if not (least >= 0 and largest < math.inf):
        raise ValueError(f"betas go from {least:g} to {largest:g}; wanted finite numbers from 0.")
    check_reference(energy, reference, least)
    if reference is not None and largest > 1:
        raise ValueError(
            f"betas go up to {largest:g}, where the reference would count with a negative weight; "
            f"wanted at most 1, or no reference."
        )
    return schedule


def require_energy(energy: Energy, name: str) -> None:
    """Refuses what is no energy.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(energy, Energy):
        raise TypeError(f"{name} is {energy!r}; wanted an energy, for example a BoltzmannMachine.")


def require_kernel(kernel: Kernel) -> None:
    """Refuses what is no kernel, a class of kernels among it.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel is {kernel!r}; wanted a kernel, for example Gibbs().")


def require_settings(kernel: Kernel, user: str) -> None:
    """Refuses a kernel whose settings are left to a warm-up, for a user that has none.

    Raises:
        ValueError: If one is None.
    """
    for part in getattr(kernel, "kernels", ()):
        require_settings(part, user)
    if missing := [name for name in SETTINGS if getattr(kernel, name, 0) is None]:
        own = type(kernel).__name__
        raise ValueError(
            f"{own} has no {' and no '.join(missing)}, and {user} has no warm-up to find it. Give "
            f"numbers; such as suit β = 1 are found by tuned, _ = warmup({own}(), energy, x)."
        )


def default_kernel(energy: Energy) -> Kernel:
    """Gibbs where conditional laws are known, else moves by the gradient, or blocks of units.

    Raises:
        ValueError: If none of these moves a site.
    """
    if knows_all(energy):
        return Gibbs()
    known = tuple(name for name in energy.sites if knows_conditional(energy, name))
    left = [name for name in energy.sites if name not in known]
    sloped = tuple(name for name in left if alphabet_of(energy, name) is not None)
    listed = tuple(name for name in left if name not in sloped and can_move(energy.sites[name]))
    if stuck := [name for name in left if name not in sloped + listed]:
        raise ValueError(
            f"No kernel for annealing is known that moves {stuck[0]!r}, which is "
            f"{describe(energy.sites[stuck[0]].support)}. Give one that moves every site, for "
            f"example kernel=Cycle((GibbsWithGradients(), MALA({(stuck[0],)!r}, step_size=0.01))), "
            f"or hold the site: clamp(energy, {{{stuck[0]!r}: value}})."
        )
    parts = [
        *([Gibbs(known)] if known else []),
        *([GibbsWithGradients(sloped)] if sloped else []),
        *([RandomBlocks(listed)] if listed else []),
    ]
    return parts[0] if len(parts) == 1 else Cycle(tuple(parts))


def knows_all(energy: Energy) -> bool:
    """Whether an energy knows the conditional laws of all its sites."""
    return all(knows_conditional(energy, site) for site in energy.sites)


# --- zero temperature ----------------------------------------------------------------------------


def descend(energy: Energy, x: Sites | Tensor) -> Annealed:
    """Goes down from x, unit by unit, until no change of a single unit lowers the energy.

    It is annealing at zero temperature, from given values. Real units of a machine go to the modes
    of their conditional laws, until these stay where they are up to rounding.

    Args:
        energy: An energy of discrete sites, or a machine.
        x: Values of all sites (chain, *shape).

    Raises:
        TypeError: If `energy` is no energy.
        ValueError: If no change of a site's units is known.
    """
    require_energy(energy, "energy")
    x = given_start(energy, x)
    with torch.no_grad():
        if stuck := stuck_in_descent(energy):
            raise ValueError(
                f"The sites {stuck} are not discrete, or their units have values of their own; "
                f"descend moves bits, spins, labels and one-hot units, and the units of machines. "
                f"Hold the others, or minimise the energy over real sites by its gradient."
            )
        if isinstance(energy, BlockEnergy) and knows_all(energy):
            x = by_blocks(energy, x)
        else:
            x = by_single_changes(energy, x)
        return Annealed(x, energy.evaluate(x))


def stuck_in_descent(energy: Energy) -> list[str]:
    """The sites for whose units `descend` knows no change."""
    if isinstance(energy, PairwiseEnergy):
        return []
    by_law = knows_all(energy)
    return [
        name
        for name, site in energy.sites.items()
        if not site.support.is_discrete
        or not (by_law or alphabet_of(energy, name) is not None or can_move(site))
    ]


def likeliest_features(unit: Unit, field: Tensor) -> Tensor:
    """The features of the likeliest value of a unit; of two likely ones always the same."""
    return unit.features(unit.mode(field))


def same_up_to_rounding(energy: Energy, before: Sites, after: Sites) -> bool:
    """Whether nothing has changed: discrete values at all, real ones by more than rounding."""
    close = 16 * torch.finfo(energy.dtype).eps
    return all(
        torch.equal(before[name], after[name])
        if site.support.is_discrete
        else torch.allclose(before[name], after[name], rtol=close, atol=close)
        for name, site in energy.sites.items()
    )


def by_blocks(energy: BlockEnergy, x: Sites) -> Sites:
    """Descent over the blocks of an energy, each to its likeliest values given the rest."""
    terms = read_terms(energy)
    for _ in range(MOST_SWEEPS):
        before, x = x, dict(x)
        for site in energy.sites:
            if terms is None:
                x[site] = likeliest(energy, site, x)
                continue
            swept = terms.sweep(site, terms.features(x), likeliest_features)
            x[site] = terms.units[site].values(swept)
        # Ties go to one side, so that a plateau has an end.
        if same_up_to_rounding(energy, before, x):
            break
    return x


def likeliest(energy: BlockEnergy, site: str, x: Sites) -> Tensor:  # (*batch, *shape)
    """The blocks of a site in turn, each at the mode of its conditional law."""
    value = x[site].clone(memory_format=torch.contiguous_format)
    units = value.view(*value.shape[: value.dim() - len(energy.sites[site].shape)], -1)
    for block in energy.blocks(site):
        law = energy.conditional(site, {**x, site: value}, block)
        options = law.enumerate_support(expand=False)
        best = law.log_prob(options).argmax(0)
        units[..., block] = options.reshape(-1, *law.event_shape)[best].to(value.dtype)
    return value


def by_single_changes(energy: Energy, x: Sites) -> Sites:
    """Steepest descent by changes of one unit, of which all are evaluated."""
    changes = SingleChanges.of(energy)
    (chains,) = same_batch(x, energy)
    every = torch.arange(changes.count, device=energy.device)
    height = energy.evaluate(x)
    while True:
        best, best_change = height, torch.full_like(height, -1).long()
        for some in every.split(max(1, ROWS // chains)):
            rows = {
                s: v.expand(len(some), *v.shape).flatten(0, 1).contiguous() for s, v in x.items()
            }
            change = some.repeat_interleave(chains)
            tried = changes.made(rows, change)
            lowest, which = energy.evaluate(tried).reshape(len(some), chains).min(0)
            lower = lowest < best
            best = torch.where(lower, lowest, best)
            best_change = torch.where(lower, some[which], best_change)
        moved = best_change >= 0
        if not bool(moved.any()):
            return x
        new = changes.made(x, best_change.clamp(min=0))
        x = {site: where(moved, value, x[site]) for site, value in new.items()}
        height = best


@dataclass(frozen=True, eq=False)
class SingleChanges:
    """All changes of one unit of discrete sites, numbered.

    First come those of an alphabet, site after site; then, of sites that have none, each unit with
    each of its values, the present one among them.

    Args:
        energy: The energy.
        alphabets: Of the sites that have one.
        values: Of a unit of the others (values,).
    """

    energy: Energy
    alphabets: dict[str, Alphabet]
    values: dict[str, Tensor]

    @classmethod
    def of(cls, energy: Energy) -> "SingleChanges":
        """Those of all discrete sites.

        Raises:
            ValueError: If the values of a site's units cannot be listed.
        """
        like = torch.empty((), dtype=energy.dtype, device=energy.device)
        alphabets, values = {}, {}
        for name, site in energy.sites.items():
            alphabet = alphabet_of(energy, name)
            if alphabet is not None:
                alphabets[name] = alphabet
            elif site.support.is_discrete:
                values[name] = values_of(site, name, like)
        return cls(energy, alphabets, values)

    def size(self, name: str) -> int:
        """The number of changes of a site."""
        shape = self.energy.sites[name].shape
        if name in self.alphabets:
            return self.alphabets[name].count(shape)
        return shape.numel() * len(self.values[name])

    @property
    def count(self) -> int:
        """The number of all changes."""
        return sum(map(self.size, [*self.alphabets, *self.values]))

    def made(self, x: Sites, change: Tensor) -> Sites:
        """The values after one change of each chain (*batch,)."""
        first = sum(map(self.size, self.alphabets))
        x = change_one(x, change, self.alphabets, self.energy).x
        for name, values in self.values.items():
            last = first + self.size(name)
            here = (change >= first) & (change < last)
            own = change.clamp(first, last - 1) - first
            flat = x[name].reshape(*change.shape, -1)
            unit, value = (own // len(values)).unsqueeze(-1), values[own % len(values)]
            new = flat.scatter(-1, unit, value.unsqueeze(-1)).reshape(x[name].shape)
            x[name] = where(here, new, x[name])
            first = last
        return x


# --- tempered transitions ------------------------------------------------------------------------


class TemperedTransitionsState(NamedTuple):
    """The position, the energy there, the path, the inner kernel's state, the journeys so far."""

    x: Sites
    energy: Tensor  # (*batch,)
    path: Path
    inner: Any
    journeys: int


class TemperedTransitionsInfo(NamedTuple):
    """What the Metropolis test of the whole journey did (*batch,)."""

    acceptance_rate: Tensor


@dataclass(frozen=True, eq=False)
class TemperedTransitions(Kernel):
    r"""A journey up the ladder and down again as one proposal.

    With x₀ the start at β = 1, the journey visits every level upwards and downwards, one step of
    the kernel at each but the first, and is accepted with the probability

    .. math:: \min\Big(1, \prod_i e^{(\beta_{i+1} - \beta_i)(V(\hat x_i) - V(\check x_i))}\Big)

    where x̂ᵢ and x̌ᵢ are the values when β changes between the levels i and i + 1 on the way up (to
    smaller β) and down, and V = E − E_ref.

    What a step of the kernel does with all chains alike, the length of a trajectory of `HMC`, the
    units of `RandomBlocks` and the choice of a `Mixture`, is the same at a level on both ways.
    Without that the proposal would not be its own reverse, and chains that share such choices would
    not be independent.

    Args:
        kernel: What moves the values at every level, with all its settings. It must be reversible
            at a given step: kernels with a single Metropolis test are, but `Langevin`, which has
            none, is not, nor would be a kernel of one's own with settings that change from step to
            step. Of Gibbs, whose sweeps are not, the reverse is made where no site's units are
            coupled among themselves: the sites in the opposite order.
        betas: The inverse temperatures, rising, the last one 1.
        reference: The energy at β = 0; zero if left out.

    Raises:
        ValueError: If the ladder is not at least two rising numbers from 0 or above to 1, or if
            the kernel is known not to be reversible.
        TypeError: If `kernel` is no kernel, or `reference` no energy.

    References:
        | Sampling from multimodal distributions using tempered transitions (Neal, 1996)
        | https://doi.org/10.1007/BF00143556
    """

    kernel: Kernel
    betas: tuple[float, ...]
    reference: Energy | None = None

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        if self.reference is not None:
            require_energy(self.reference, "reference")
        object.__setattr__(self, "betas", checked_ladder(self.betas))

    def levels(self, energy: Energy) -> Tensor:  # (levels,)
        """The inverse temperatures as a tensor."""
        return torch.tensor(self.betas, dtype=energy.dtype, device=energy.device)

    def init(self, energy: Energy, x: Sites) -> TemperedTransitionsState:
        check_reference(energy, self.reference, self.betas[0])
        require_settings(self.kernel, "TemperedTransitions")
        reversal(self.kernel, energy)
        x = energy.accept(x)
        check_names(x, energy.sites)
        same_batch(x, energy)
        path = Path.between(self.reference, energy)
        with torch.no_grad():
            height = energy.evaluate(x)
            inner = self.kernel.init(path.at(self.levels(energy)[-1]), x)
            return TemperedTransitionsState(x, height, path, inner, 0)

    def refresh(
        self, energy: Energy, state: TemperedTransitionsState, x: Sites
    ) -> TemperedTransitionsState:
        path = Path.between(self.reference, energy)
        with torch.no_grad():
            return state._replace(x=x, energy=energy.evaluate(x), path=path)

    @torch.no_grad()
    def step(
        self, energy: Energy, state: TemperedTransitionsState
    ) -> tuple[TemperedTransitionsState, TemperedTransitionsInfo]:
        betas = self.levels(energy)
        levels = [state.path.at(beta) for beta in betas[:-1]]
        steps, difference = betas.diff(), state.path.difference
        ways = [both_ways(self.kernel, energy, state.journeys + k) for k in range(len(levels))]
        legs = list(zip(levels, steps, ways, strict=True))
        x, inner = state.x, state.inner
        log_ratio = torch.zeros_like(state.energy)
        for level, step, (there, _) in reversed(legs):
            log_ratio = log_ratio + step * difference.evaluate(x)
            inner = there.refresh(level, inner, x)
            inner, _ = there.step(level, inner)
            x = inner.x
        for level, step, (_, back) in legs:
            inner = back.refresh(level, inner, x)
            inner, _ = back.step(level, inner)
            x = inner.x
            log_ratio = log_ratio - step * difference.evaluate(x)
        verdict = metropolis(log_ratio)
        x = {name: where(verdict.accepted, value, state.x[name]) for name, value in x.items()}
        height = torch.where(verdict.accepted, energy.evaluate(x), state.energy)
        new = state._replace(x=x, energy=height, inner=inner, journeys=state.journeys + 1)
        return new, TemperedTransitionsInfo(verdict.acceptance_rate)


def both_ways(kernel: Kernel, energy: Energy, number: int) -> tuple[Kernel, Kernel]:
    """The kernel at one level of a journey, and its reverse, with all chains' choices made.

    Args:
        kernel: The kernel.
        energy: The energy.
        number: That of the trajectory, where trajectories have lengths that vary.
    """
    if isinstance(kernel, Mixture):
        one = kernel.drawn()
        there, back = both_ways(one.chosen, energy, number)
        return one.moving_by(there), one.moving_by(back)
    if isinstance(kernel, RandomBlocks):
        kernel = kernel.drawn(energy)
    elif isinstance(kernel, HMC):
        kernel = numbered_trajectory(kernel, number)
    return kernel, reversal(kernel, energy)


def numbered_trajectory(kernel: HMC, number: int) -> HMC:
    """HMC whose trajectories are all as that of a number."""
    assert kernel.step_size is not None  # checked in `init`
    assert kernel.trajectory_length is not None
    return replace(
        kernel,
        step_size=kernel.step_size * (1 - kernel.step_jitter * halton(number, 3)),
        trajectory_length=kernel.trajectory_length * (1 - kernel.jitter * halton(number, 2)),
        jitter=0.0,
        step_jitter=0.0,
    )


def reversal(kernel: Kernel, energy: Energy) -> Kernel:
    """The kernel whose steps are those of `kernel` backwards in time.

    Raises:
        ValueError: If the order of what it does cannot be turned.
    """
    if isinstance(kernel, Mixture):
        return replace(kernel, kernels=tuple(reversal(part, energy) for part in kernel.kernels))
    if isinstance(kernel, Langevin):
        raise ValueError(
            "Langevin has no Metropolis test and no reverse. Use MALA(step_size=...), which has."
        )
    if isinstance(kernel, Cycle | ParallelTempering | TemperedTransitions):
        raise ValueError(
            f"A {type(kernel).__name__} has no reverse here. Use a reversible kernel: one with a "
            f"single Metropolis test, or a Mixture of such."
        )
    if not isinstance(kernel, Gibbs):
        return kernel
    sites = kernel.moved(energy)
    assert isinstance(energy, BlockEnergy)  # checked by Gibbs itself
    if coupled := [site for site in sites if len(energy.blocks(site)) > 1]:
        raise ValueError(
            f"A Gibbs sweep over the sites {coupled}, whose units are coupled among themselves, "
            f"has no reverse here. Use GibbsWithGradients() or DiscreteLangevin(), which are "
            f"reversible."
        )
    return Gibbs(sites[::-1])
