r"""Moves of discrete sites that the gradient of the energy proposes.

The change of the energy when one unit takes another value is, to first order,

.. math:: \Delta E = (x' - x) \cdot \partial E / \partial x

which is exact where the energy is linear in every unit (all pairwise machines: the gradient is
minus the field), and one gradient tells it for all the units at once. A Metropolis test with the
exact probability of the reverse proposal makes the law exact whatever the energy is.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure, terms_of
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.base import Findings, Kernel, ReversibleKernel, TunableKernel, Tuning
from pyro_ebm.kernels.metropolis import AcceptanceInfo, metropolis, require_known
from pyro_ebm.kernels.settings import Length, left_out, require_positive, require_set
from pyro_ebm.kernels.start import accept_all, read_structure, where, with_terms
from pyro_ebm.kernels.step_size import StepInfo, StepSize, as_length, reported
from pyro_ebm.sites import Sites

from . import kept_fields
from .alphabets import Alphabet, change_one, movable, single_changes
from .kept_fields import KeptFields

ACCEPTANCE = 0.574  # at which locally balanced proposals do most in many dimensions
FIRST_SIZE = 0.2
LEAST_SIZE, LARGEST_SIZE = 1e-3, 1e3  # beyond, nothing changes any more


class Landscape(NamedTuple):
    """The energy around a position: what a proposal is made from.

    Args:
        energy: E(x) (*batch,).
        differences: ΔE of every single change by site (*batch, *elements), to first order.
    """

    energy: Tensor
    differences: Sites


def local_differences(structure: Structure, x: Sites, alphabets: dict[str, Alphabet]) -> Landscape:
    """E(x) and the change of it by every single change of a unit.

    Args:
        structure: Of the energy.
        x: Values of all its sites.
        alphabets: Of the sites that are to be changed.
    """
    value, slopes, potentials = structure.differences(x, tuple(alphabets))
    return Landscape(
        value,
        {s: a.differences(x[s], slopes[s], potentials[s]) for s, a in alphabets.items()},
    )


class GradientState(NamedTuple):
    """The position, the energy and its differences there, and what was read.

    Args:
        x: The values.
        landscape: The energy around them.
        structure: The energy's parameters as read, where it has terms: else they are read anew.
        alphabets: Of the sites that are moved.
    """

    x: Sites
    landscape: Landscape
    structure: Structure | None
    alphabets: dict[str, Alphabet]

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.landscape.energy


@torch.no_grad()
def start(structure: Structure, x: Sites, alphabets: dict[str, Alphabet]) -> GradientState:
    """The state at x, whose values are checked."""
    structure.require_finite()
    landscape = local_differences(structure, x, alphabets)
    return GradientState(x, landscape, with_terms(structure), alphabets)


def settle(
    state: GradientState, new: GradientState, log_ratio: Tensor
) -> tuple[GradientState, Tensor]:
    """The state after the Metropolis test of a new one, and with what probability it is taken."""
    require_known(new.energy)
    verdict = metropolis(log_ratio)
    old, tried = state.landscape, new.landscape
    x = {name: where(verdict.accepted, value, state.x[name]) for name, value in new.x.items()}
    differences = {
        site: where(verdict.accepted, value, old.differences[site])
        for site, value in tried.differences.items()
    }
    landscape = Landscape(where(verdict.accepted, tried.energy, old.energy), differences)
    return state._replace(x=x, landscape=landscape), verdict.acceptance_rate


@dataclass(frozen=True, eq=False)
class GibbsWithGradients(ReversibleKernel[GradientState | KeptFields, AcceptanceInfo]):
    r"""One unit is proposed to change, chosen by how much its change lowers the energy.

    .. math:: q(x' \mid x) \propto e^{-\Delta E(x \to x') / 2}

    over all changes of a single unit and no change, x' = x, and a Metropolis test with the reverse
    proposal at x'.

    Args:
        sites: The bits, spins, one-hot units and labels to move; all discrete ones if left out.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, GibbsWithGradients, run
        >>> machine = BoltzmannMachine.fully_visible(4)
        >>> chains = run(GibbsWithGradients(), machine, 20, warmup=5, seed=0)
        >>> sorted(chains.statistics)
        ['acceptance_rate', 'lp', 'n_flips']

    References:
        | Oops I took a gradient: scalable sampling for discrete distributions
        | (Grathwohl, Swersky, Hashemi, Duvenaud & Maddison, 2021)
        | https://proceedings.mlr.press/v139/grathwohl21a.html
        | Informed proposals for local MCMC in discrete spaces (Zanella, 2020)
        | https://doi.org/10.1080/01621459.2019.1585255
    """

    sites: tuple[str, ...] | None = None

    def moved(self, energy: Energy) -> dict[str, Alphabet]:
        """The sites that it moves, with their alphabets."""
        return movable(read_structure(energy), self.sites, "GibbsWithGradients")

    def reversed(self, energy: Energy) -> Self:
        return self

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return tuple(self.moved(energy))

    def init(self, energy: Energy, x: Sites) -> GradientState | KeptFields:
        structure = read_structure(energy)
        structure.require_finite()
        x = accept_all(energy, x, structure)
        return self.begun(structure, x, movable(structure, self.sites, "GibbsWithGradients"))

    def begun(
        self, structure: Structure, x: Sites, alphabets: dict[str, Alphabet]
    ) -> GradientState | KeptFields:
        """The state at x, whose values are checked."""
        terms = terms_of(structure)
        if terms is None or not kept_fields.can_be_kept(terms):
            return start(structure, x, alphabets)
        return kept_fields.started(kept_fields.copied(terms), x, alphabets)

    def refresh(
        self, energy: Energy, state: GradientState | KeptFields, x: Sites
    ) -> GradientState | KeptFields:
        structure = read_structure(energy)
        structure.require_finite()
        terms = terms_of(structure)
        if isinstance(state, KeptFields) and terms is not None and kept_fields.can_be_kept(terms):
            return kept_fields.refreshed(state, terms, x)
        return self.begun(structure, x, state.alphabets)

    @torch.no_grad()
    def step(
        self, energy: Energy, state: GradientState | KeptFields
    ) -> tuple[GradientState | KeptFields, AcceptanceInfo]:
        if isinstance(state, KeptFields):
            kept, rate = kept_fields.step(energy, state)
            return kept, AcceptanceInfo(rate)
        batch, alphabets = state.energy.shape, state.alphabets
        forward = single_changes(halved(state.landscape), state.x, alphabets, batch)
        change = chance.choose(forward)
        changed = change_one(state.x, change, alphabets, energy)
        landscape = local_differences(state.structure or energy.structure(), changed.x, alphabets)
        backward = single_changes(halved(landscape), changed.x, alphabets, batch)
        new = state._replace(x=changed.x, landscape=landscape)
        log_ratio = state.energy - new.energy
        log_ratio = log_ratio + log_chosen(backward, changed.undoing)
        log_ratio = log_ratio - log_chosen(forward, change)
        state, rate = settle(state, new, log_ratio)
        return state, AcceptanceInfo(rate)


def halved(landscape: Landscape) -> Sites:
    """−ΔE/2 of every single change, by site."""
    return {site: difference / -2 for site, difference in landscape.differences.items()}


def log_chosen(log_weights: Tensor, index: Tensor) -> Tensor:  # (*batch, n), (*batch,)
    """ln of the probability with which `chance.choose` chooses an index; NaN where it has none."""
    chosen = log_weights.gather(-1, index.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return chosen - log_weights.logsumexp(-1)


@dataclass(frozen=True, eq=False)
class DiscreteLangevin(
    TunableKernel[GradientState, StepInfo],
    ReversibleKernel[GradientState, StepInfo],
):
    r"""All units are proposed at once, each for itself, by the gradient: DMALA.

    .. math:: q(x' \mid x) \propto \prod_i
        \exp\Big(-\tfrac12 \Delta E_i(x_i \to x'_i) - \frac{[x'_i \ne x_i]}{2 \alpha}\Big)

    and a Metropolis test with the reverse proposal at x'. The step size α is that for bits: spins
    and one-hot units count a change as 1 too, so that the coding of the units does not matter.

    Args:
        sites: The bits, spins, one-hot units and labels to move; all discrete ones if left out.
        step_size: α, positive; the larger, the more units are proposed to change. One for all
            chains, or a tensor that broadcasts to them (*batch,). If left out, the warm-up finds
            one with which 57 % of the proposals are accepted, on a ladder one for each level.

    Raises:
        ValueError: If the step size is not positive.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, DiscreteLangevin, run
        >>> kernel = DiscreteLangevin(step_size=0.5)
        >>> chains = run(kernel, BoltzmannMachine.fully_visible(4), 20, warmup=5, seed=0)
        >>> chains.statistics["acceptance_rate"].shape
        torch.Size([4, 20])

    References:
        | A Langevin-like sampler for discrete distributions (Zhang, Liu & Liu, 2022)
        | https://proceedings.mlr.press/v162/zhang22t.html
        | Optimal scaling for locally balanced proposals in discrete spaces
        | (Sun, Dai & Schuurmans, 2022) https://arxiv.org/abs/2209.08183
    """

    sites: tuple[str, ...] | None = None
    step_size: Length | None = None

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)

    def moved(self, energy: Energy) -> dict[str, Alphabet]:
        """The sites that it moves, with their alphabets."""
        return movable(read_structure(energy), self.sites, "DiscreteLangevin")

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return tuple(self.moved(energy))

    def init(self, energy: Energy, x: Sites) -> GradientState:
        require_set(self)
        structure = read_structure(energy)
        x = accept_all(energy, x, structure)
        return start(structure, x, movable(structure, self.sites, "DiscreteLangevin"))

    def refresh(self, energy: Energy, state: GradientState, x: Sites) -> GradientState:
        return start(read_structure(energy), x, state.alphabets)

    @torch.no_grad()
    def step(self, energy: Energy, state: GradientState) -> tuple[GradientState, StepInfo]:
        alphabets = state.alphabets
        forward = self.log_weights(state)
        drawn = {s: alphabets[s].redrawn(state.x[s], w) for s, w in forward.items()}
        x = {**state.x, **drawn}
        landscape = local_differences(state.structure or energy.structure(), x, alphabets)
        new = state._replace(x=x, landscape=landscape)
        log_ratio = state.energy - new.energy
        for site, backward in self.log_weights(new).items():
            there = alphabets[site].log_prob(state.x[site], x[site], forward[site])
            back = alphabets[site].log_prob(x[site], state.x[site], backward)
            log_ratio = log_ratio + (back - there).reshape(*log_ratio.shape, -1).sum(-1)
        state, rate = settle(state, new, log_ratio)
        assert self.step_size is not None  # checked in `init`
        return state, StepInfo(rate, reported(self.step_size, rate))

    def log_weights(self, state: GradientState) -> Sites:
        """The log weights of the changes of each unit (*batch, *elements), by site."""
        assert self.step_size is not None  # checked in `init`
        cost = 1 / (2 * self.step_size)
        found = {}
        for site, difference in state.landscape.differences.items():
            each = cost
            if isinstance(cost, Tensor):
                own = difference.dim() - state.energy.dim()
                each = cost.reshape(*cost.shape, *[1] * own)
            found[site] = difference / -2 - each
        return found

    def unset(self) -> tuple[str, ...]:
        return left_out(step_size=self.step_size)

    def reversed(self, energy: Energy) -> Self:
        return self

    def tuning(self, steps: int) -> Kernel:
        return DiscreteLangevinTuning(self) if self.step_size is None else self

    @property
    def findings(self) -> Findings:
        if isinstance(self.step_size, Tensor):
            sizes = self.step_size.flatten().tolist()
            return {"step_size": ", ".join(f"{size:.4g}" for size in sizes)}
        return {} if self.step_size is None else {"step_size": self.step_size}


class DiscreteLangevinTuningState(NamedTuple):
    """The kernel's state, and the step size as found so far."""

    inner: GradientState
    size: StepSize

    @property
    def x(self) -> Sites:
        """The values."""
        return self.inner.x

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.inner.energy


@dataclass(frozen=True, eq=False)
class DiscreteLangevinTuning(Tuning):
    """DMALA in its warm-up: step sizes follow the mean acceptance of all chains.

    Levels of a ladder, which are batch dimensions behind the chains, have one each.

    Args:
        kernel: The kernel.
    """

    kernel: DiscreteLangevin

    def at(self, sizes: Tensor, like: Tensor) -> DiscreteLangevin:
        """The kernel with step sizes (*laws,)."""
        size = as_length(sizes.clamp(LEAST_SIZE, LARGEST_SIZE), like)
        return replace(self.kernel, step_size=size)

    def init(self, energy: Energy, x: Sites) -> DiscreteLangevinTuningState:
        inner = replace(self.kernel, step_size=FIRST_SIZE).init(energy, x)
        first = torch.full(inner.energy.shape[1:], FIRST_SIZE, dtype=torch.float64)
        return DiscreteLangevinTuningState(inner, StepSize.at(first.to(inner.energy.device)))

    def refresh(
        self, energy: Energy, state: DiscreteLangevinTuningState, x: Sites
    ) -> DiscreteLangevinTuningState:
        return state._replace(inner=self.kernel.refresh(energy, state.inner, x))

    def step(
        self, energy: Energy, state: DiscreteLangevinTuningState
    ) -> tuple[DiscreteLangevinTuningState, StepInfo]:
        inner, info = self.at(state.size.size, state.energy).step(energy, state.inner)
        size = state.size.after(info.acceptance_rate.mean(0), ACCEPTANCE)
        return DiscreteLangevinTuningState(inner, size), info

    def tuned(self, state: DiscreteLangevinTuningState) -> tuple[Kernel, GradientState]:
        return self.at(state.size.average, state.energy), state.inner
