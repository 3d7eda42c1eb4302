r"""Slow cooling: simulated annealing, descent at zero temperature, and tempered transitions.

All of them go along

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

from an easy reference (E_ref = 0 unless one is given) to the energy and, where a minimum is wanted,
beyond it to large β.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import BlockEnergy, Energy, knows_conditional
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites, check_names
from pyro_ebm.units import Unit

from .alphabets import change_one, movable
from .base import Kernel, same_batch
from .cycle import Cycle
from .gibbs import Gibbs
from .gradient_gibbs import GibbsWithGradients, read_terms, where
from .metropolis import metropolis
from .path import Path, check_reference
from .run import given_start, random_start
from .tempering import ParallelTempering, checked_ladder

ROWS = 2**14  # states whose energies are evaluated at a time
MOST_SWEEPS = 10_000  # of a descent, which rounding might keep from an end


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
        kernel: What moves the chains; Gibbs where the energy knows conditional laws, else
            GibbsWithGradients.
        reference: The energy at β = 0; zero if left out. With one, β is at most 1.
        chains: How many; those of `initial` where it is given.
        initial: Where they start (chain, *shape), by site; at random if left out.
        seed: The global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If an argument is not what is wanted.

    References:
        | Optimization by simulated annealing (Kirkpatrick, Gelatt & Vecchi, 1983)
        | https://doi.org/10.1126/science.220.4598.671
    """
    schedule = checked_schedule(betas, energy, reference)
    if kernel is None:
        kernel = default_kernel(energy)
    with forked(chosen_seed(seed), energy.device), torch.no_grad():
        x = random_start(energy, chains) if initial is None else given_start(energy, initial)
        path = Path.between(reference, energy)
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


def default_kernel(energy: Energy) -> Kernel:
    """Gibbs where the energy knows its conditional laws, else moves by its gradient."""
    return Gibbs() if knows_all(energy) else GibbsWithGradients()


def knows_all(energy: Energy) -> bool:
    """Whether an energy knows the conditional laws of all its sites."""
    return all(knows_conditional(energy, site) for site in energy.sites)


# --- zero temperature ----------------------------------------------------------------------------


def descend(energy: Energy, x: Sites | Tensor) -> Annealed:
    """Goes down from x, unit by unit, until no change of a single unit lowers the energy.

    It is annealing at zero temperature, from given values.

    Args:
        energy: An energy of discrete sites.
        x: Values of all sites (chain, *shape).

    Raises:
        ValueError: If a site is not discrete, or no change of its units is known.
    """
    x = given_start(energy, x)
    with torch.no_grad():
        real = [name for name, site in energy.sites.items() if not site.support.is_discrete]
        if real and isinstance(energy, BlockEnergy):
            raise ValueError(
                f"The sites {real} are real; descend moves discrete ones. Hold them, or minimise "
                f"the energy by its gradient."
            )
        if isinstance(energy, BlockEnergy) and knows_all(energy):
            x = by_blocks(energy, x)
        else:
            x = by_single_changes(energy, x)
        return Annealed(x, energy.evaluate(x))


def likeliest_features(unit: Unit, field: Tensor) -> Tensor:
    """The features of the likeliest value of a discrete unit; the lower of two likely ones."""
    if unit.width > 1:
        return unit.features(field.unflatten(-1, (-1, unit.width)).argmax(-1).to(field.dtype))
    low, high = unit.levels or ()
    return torch.where(field > 0, high, low).to(field.dtype)


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
        if all(torch.equal(before[site], x[site]) for site in x):
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
    alphabets = movable(energy, None, "descend")
    if fixed := [name for name in energy.sites if name not in alphabets]:
        raise ValueError(
            f"The sites {fixed} are real; descend moves discrete ones. Hold them, or minimise the "
            f"energy by its gradient."
        )
    (chains,) = same_batch(x, energy)
    count = sum(a.count(energy.sites[name].shape) for name, a in alphabets.items())
    changes = torch.arange(count)
    changes = changes.to(energy.device)
    height = energy.evaluate(x)
    while True:
        best, best_change = height, torch.full_like(height, -1).long()
        for some in changes.split(max(1, ROWS // chains)):
            rows = {
                s: v.expand(len(some), *v.shape).flatten(0, 1).contiguous() for s, v in x.items()
            }
            change = some.repeat_interleave(chains)
            tried = change_one(rows, change, alphabets, energy).x
            lowest, which = energy.evaluate(tried).reshape(len(some), chains).min(0)
            lower = lowest < best
            best = torch.where(lower, lowest, best)
            best_change = torch.where(lower, some[which], best_change)
        moved = best_change >= 0
        if not bool(moved.any()):
            return x
        new = change_one(x, best_change.clamp(min=0), alphabets, energy).x
        x = {site: where(moved, value, x[site]) for site, value in new.items()}
        height = best


# --- tempered transitions ------------------------------------------------------------------------


class TemperedTransitionsState(NamedTuple):
    """The position, the energy there, the path, and the state of the inner kernel."""

    x: Sites
    energy: Tensor  # (*batch,)
    path: Path
    inner: Any


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

    Args:
        kernel: What moves the values at every level. It must be reversible, as kernels with a
            single Metropolis test is. Of Gibbs, whose sweeps are not, the reverse is made where
            no site's units are coupled among themselves: the sites in the opposite order.
        betas: The inverse temperatures, rising, the last one 1.
        reference: The energy at β = 0; zero if left out.

    Raises:
        ValueError: If the ladder is not at least two rising numbers from 0 or above to 1, or if
            the kernel is known not to be reversible.
        TypeError: If `kernel` is no kernel.

    References:
        | Sampling from multimodal distributions using tempered transitions (Neal, 1996)
        | https://doi.org/10.1007/BF00143556
    """

    kernel: Kernel
    betas: tuple[float, ...]
    reference: Energy | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel is {self.kernel!r}; wanted a kernel, for example Gibbs().")
        object.__setattr__(self, "betas", checked_ladder(self.betas))

    def levels(self, energy: Energy) -> Tensor:  # (levels,)
        """The inverse temperatures as a tensor."""
        return torch.tensor(self.betas, dtype=energy.dtype, device=energy.device)

    def init(self, energy: Energy, x: Sites) -> TemperedTransitionsState:
        check_reference(energy, self.reference, self.betas[0])
        reversal(self.kernel, energy)
        x = energy.accept(x)
        check_names(x, energy.sites)
        same_batch(x, energy)
        path = Path.between(self.reference, energy)
        with torch.no_grad():
            height = energy.evaluate(x)
            inner = self.kernel.init(path.at(self.levels(energy)[-1]), x)
            return TemperedTransitionsState(x, height, path, inner)

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
        x, inner, back = state.x, state.inner, reversal(self.kernel, energy)
        log_ratio = torch.zeros_like(state.energy)
        for level, step in zip(levels[::-1], steps.flip(0), strict=True):
            log_ratio = log_ratio + step * difference.evaluate(x)
            inner = self.kernel.refresh(level, inner, x)
            inner, _ = self.kernel.step(level, inner)
            x = inner.x
        for level, step in zip(levels, steps, strict=True):
            inner = back.refresh(level, inner, x)
            inner, _ = back.step(level, inner)
            x = inner.x
            log_ratio = log_ratio - step * difference.evaluate(x)
        verdict = metropolis(log_ratio)
        x = {name: where(verdict.accepted, value, state.x[name]) for name, value in x.items()}
        height = torch.where(verdict.accepted, energy.evaluate(x), state.energy)
        new = state._replace(x=x, energy=height, inner=inner)
        return new, TemperedTransitionsInfo(verdict.acceptance_rate)


def reversal(kernel: Kernel, energy: Energy) -> Kernel:
    """The kernel whose steps are those of `kernel` backwards in time.

    Raises:
        ValueError: If the order of what it does cannot be turned.
    """
    if isinstance(kernel, Cycle | ParallelTempering):
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
