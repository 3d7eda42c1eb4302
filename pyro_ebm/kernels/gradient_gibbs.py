r"""Moves of discrete sites that the gradient of the energy proposes.

The change of the energy when one unit takes another value is, to first order,

.. math:: \Delta E = (x' - x) \cdot \partial E / \partial x

which is exact where the energy is linear in every unit (all pairwise machines: the gradient is
minus the field), and one gradient tells it for all the units at once. A Metropolis test with the
exact probability of the reverse proposal makes the law exact whatever the energy is.

Sites are two-valued ({0, 1} or {-1, 1}, of any shape), one-hot (*units, values), or labels (units,)
of a machine or a random field. A single change is numbered by an element: the bit that is turned,
or the place to which the one of a one-hot unit moves.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_ebm.energies import (
    Energy,
    PairwiseEnergy,
    PairwiseTerms,
    RandomField,
    energy_and_gradient,
)
from pyro_ebm.sites import Sites, boolean, check_names, covers, describe, spin

from . import chance
from .adaptation import StepSize
from .base import Findings, Kernel, TunableKernel, Tuning, same_batch
from .metropolis import metropolis
from .settings import require_positive, require_set

ACCEPTANCE = 0.574  # at which locally balanced proposals do most in many dimensions
FIRST_SIZE = 0.2
LEAST_SIZE, LARGEST_SIZE = 1e-3, 1e3  # beyond, nothing changes any more


class Alphabet(ABC):
    """How a unit of one kind of discrete site may change."""

    @abstractmethod
    def count(self, shape: torch.Size) -> int:
        """The number of elements: all single changes of a site of that shape."""

    @abstractmethod
    def differences(self, x: Tensor, gradient: Tensor) -> Tensor:
        """ΔE of every single change (*batch, *elements), to first order; 0 where it is none.

        Args:
            x: The values (*batch, *shape).
            gradient: ∂E/∂x, or by feature where x are labels.
        """

    @abstractmethod
    def unchanged(self, x: Tensor) -> Tensor | None:
        """Which elements are no change (*batch, *elements); None if there are none."""

    @abstractmethod
    def changed(self, x: Tensor, element: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The value after a change (*batch, *shape), and the element (*batch,) that undoes it."""

    @abstractmethod
    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        """All units drawn at once: changes have these log weights, no change of a unit has 0."""

    @abstractmethod
    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:  # (*batch, *units)
        """Of each unit, the log-probability with which `redrawn` takes it from x to y."""


@dataclass(frozen=True)
class TwoValued(Alphabet):
    """Bits or spins: x has the other value total − x.

    Args:
        total: The sum of the two values.
    """

    total: float

    def count(self, shape: torch.Size) -> int:
        return shape.numel()

    def differences(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient * (self.total - 2 * x)

    def unchanged(self, x: Tensor) -> None:
        return None

    def changed(self, x: Tensor, element: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        flat = x.reshape(*element.shape, -1)
        index = element.unsqueeze(-1)
        return flat.scatter(-1, index, self.total - flat.gather(-1, index)).reshape(
            x.shape
        ), element

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        return torch.where(chance.happens(log_weights.sigmoid()), self.total - x, x)

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        return -softplus(torch.where(x == y, log_weights, -log_weights), threshold=40)


class OneHot(Alphabet):
    """Units with one 1 among several 0s, in the last dimension."""

    def count(self, shape: torch.Size) -> int:
        return shape.numel()

    def differences(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient - (gradient * x).sum(-1, keepdim=True)

    def unchanged(self, x: Tensor) -> Tensor:
        return x > 0

    def changed(self, x: Tensor, element: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        values = shape[-1]
        units = x.reshape(*element.shape, -1, values)
        unit = (element // values)[..., None, None].expand(*element.shape, 1, values)
        old = units.gather(-2, unit)
        value = (element % values)[..., None, None]
        new = units.scatter(-2, unit, torch.zeros_like(old).scatter(-1, value, 1))
        undoing = element - element % values + old.argmax(-1).squeeze(-1)
        return new.reshape(x.shape), undoing

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        value = chance.choose(log_weights.masked_fill(x > 0, 0)).unsqueeze(-1)
        return torch.zeros_like(x).scatter(-1, value, 1)

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        log_weights = log_weights.masked_fill(x > 0, 0)
        # Not a product with y: an impossible change has −∞.
        chosen = log_weights.gather(-1, y.argmax(-1, keepdim=True)).squeeze(-1)
        return chosen - log_weights.logsumexp(-1)


@dataclass(frozen=True)
class Labels(Alphabet):
    """Units of a machine with labels 0, …, states − 1: one-hot units, written shorter.

    Args:
        states: How many labels there are.
    """

    states: int

    def one_hot(self, x: Tensor) -> Tensor:  # (*batch, *shape) -> (*batch, *shape, states)
        """The one-hot units."""
        return torch.nn.functional.one_hot(x.long(), self.states).to(x.dtype)

    def count(self, shape: torch.Size) -> int:
        return shape.numel() * self.states

    def differences(self, x: Tensor, gradient: Tensor) -> Tensor:
        units = gradient.unflatten(-1, (-1, self.states))
        return OneHot().differences(self.one_hot(x), units)

    def unchanged(self, x: Tensor) -> Tensor:
        return self.one_hot(x) > 0

    def changed(self, x: Tensor, element: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        units = torch.Size([*shape, self.states])
        new, undoing = OneHot().changed(self.one_hot(x), element, units)
        return new.argmax(-1).to(x.dtype), undoing

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        return OneHot().redrawn(self.one_hot(x), log_weights).argmax(-1).to(x.dtype)

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        return OneHot().log_prob(self.one_hot(x), self.one_hot(y), log_weights)


def alphabet_of(energy: Energy, name: str) -> Alphabet | None:
    """The alphabet of a site; None if its units cannot be moved by a gradient."""
    support = energy.sites[name].support
    if support is boolean:
        return TwoValued(1.0)
    if support is spin:
        return TwoValued(0.0)
    if support is constraints.one_hot:
        return OneHot()
    has_tables = isinstance(energy, PairwiseEnergy | RandomField)
    if has_tables and isinstance(support, constraints.integer_interval):
        return Labels(int(torch.as_tensor(support.upper_bound).max()) + 1)
    return None


def movable(energy: Energy, sites: tuple[str, ...] | None, mover: str) -> dict[str, Alphabet]:
    """The sites that a kernel moves, with their alphabets; all the discrete ones for None.

    Raises:
        ValueError: If one is unknown, or of another kind, or if there is none.
    """
    if isinstance(sites, str) or (sites is not None and not sites):
        raise ValueError(f"sites is {sites!r}; wanted a tuple of names, for example ('visible',).")
    if sites is None:
        sites = tuple(name for name, site in energy.sites.items() if site.support.is_discrete)
        if not sites:
            raise ValueError(
                f"{mover} moves discrete sites, but the energy has none. "
                f"Real sites are moved by HMC, MALA or RandomWalk."
            )
    if unknown := [name for name in sites if name not in energy.sites]:
        raise ValueError(f"{mover} is to move {unknown}, but the energy has {list(energy.sites)}.")
    found = {}
    for name in sites:
        support = energy.sites[name].support
        alphabet = alphabet_of(energy, name)
        if alphabet is None:
            cure = (
                "Write it as one-hot, Site(constraints.one_hot, (units, values)), of which the "
                "energy has a gradient."
                if support.is_discrete
                else f"Leave it out of sites, and move it with HMC, MALA or RandomWalk in a Cycle "
                f"with {mover}."
            )
            raise ValueError(
                f"{mover} moves bits, spins, one-hot units, and labels of machines and fields, but "
                f"{name!r} is {describe(support)}. {cure}"
            )
        found[name] = alphabet
    return found


class Landscape(NamedTuple):
    """The energy around a position: what a proposal is made from.

    Args:
        energy: E(x) (*batch,).
        differences: ΔE of every single change by site (*batch, *elements), to first order.
    """

    energy: Tensor
    differences: Sites


def local_differences(
    energy: Energy, terms: PairwiseTerms | None, x: Sites, alphabets: dict[str, Alphabet]
) -> Landscape:
    """E(x) and the change of it by every single change of a unit.

    Args:
        energy: The energy.
        terms: Its parameters as read, where it is pairwise: the differences are exact.
        x: Values of all its sites.
        alphabets: Of the sites that are to be changed.
    """
    if isinstance(energy, RandomField):
        value, gradients = energy.evaluate(x), {site: of_labels(energy, x) for site in alphabets}
    elif terms is None:
        value, gradients = energy_and_gradient(energy, x, tuple(alphabets))
    else:
        features = terms.features(x)
        fields = {site: terms.field(site, features) for site in alphabets}
        gradients = {site: -field for site, field in fields.items()}
        every = len(fields) == len(terms.units)
        value = from_fields(terms, features, fields) if every else terms.energy(features)
    return Landscape(
        value,
        {site: a.differences(x[site], gradients[site]) for site, a in alphabets.items()},
    )


def of_labels(field: RandomField, x: Sites) -> Tensor:  # (*batch, n q)
    """The energy of every label of every node given the others, up to a number for each node."""
    (value,) = x.values()
    graph, labels = field.read(), value.to(torch.int64)
    parts = [graph.logits(labels, colour).neg().movedim(0, -1) for colour in field.colours]
    order = torch.cat([colour.nodes for colour in field.colours]).argsort()
    return torch.cat(parts, -2).index_select(-2, order).flatten(-2).to(value.dtype)


def from_fields(terms: PairwiseTerms, features: Sites, fields: Sites) -> Tensor:  # (*batch,)
    """E from the fields on all sites, in which every pair stands twice: no product is needed."""
    energy = terms.constant + terms.potential(features)
    for site, field in fields.items():
        energy = energy - ((field + terms.biases[site]) * features[site]).sum(-1) / 2
    return energy


def accept_at_door(energy: Energy, x: Sites, terms: PairwiseTerms | None) -> Sites:
    """The door of a kernel: every site, with one batch shape, that of the parameters covered.

    Raises:
        TypeError, ValueError: If something is not what is wanted.
    """
    x = energy.accept(x)
    check_names(x, energy.sites)
    batch = same_batch(x, energy)
    if terms is not None and not covers(batch, terms.batch):
        raise ValueError(
            f"The parameters have the batch shape {tuple(terms.batch)}, and the sites "
            f"{tuple(batch)}; wanted one chain or more for each machine, the machines last."
        )
    return x


def read_terms(energy: Energy) -> PairwiseTerms | None:
    """The parameters of a pairwise energy, read once and checked; None for any other energy."""
    if not isinstance(energy, PairwiseEnergy):
        return None
    with torch.no_grad():
        terms = energy.read()
        terms.require_finite()
    return terms


def where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the chosen chains (*batch,), else `old` (*batch, ...)."""
    return torch.where(chosen.reshape(*chosen.shape, *[1] * (new.dim() - chosen.dim())), new, old)


class GradientState(NamedTuple):
    """The position, the energy and its differences there, and a machine's parameters as read."""

    x: Sites
    landscape: Landscape
    terms: PairwiseTerms | None

    @property
    def energy(self) -> Tensor:  # (*batch,)
        """E(x)."""
        return self.landscape.energy


class GibbsWithGradientsInfo(NamedTuple):
    """What the Metropolis test did (*batch,): the probability of acceptance."""

    acceptance_rate: Tensor


class DiscreteLangevinInfo(NamedTuple):
    """What the Metropolis test did, and the step size (*batch,)."""

    acceptance_rate: Tensor
    step_size: Tensor


def start(energy: Energy, x: Sites, alphabets: dict[str, Alphabet]) -> GradientState:
    """The state at x, which has passed the door."""
    terms = read_terms(energy)
    with torch.no_grad():
        return GradientState(x, local_differences(energy, terms, x, alphabets), terms)


def settle(
    state: GradientState, new: GradientState, log_ratio: Tensor
) -> tuple[GradientState, Tensor]:
    """The state after the Metropolis test of a new one, and with what probability it is taken."""
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
class GibbsWithGradients(Kernel):
    r"""One unit is proposed to change, chosen by how much its change lowers the energy.

    .. math:: q(x' \mid x) \propto e^{-\Delta E(x \to x') / 2}

    over all changes of a single unit, and a Metropolis test with the reverse proposal at x'.

    Args:
        sites: The bits, spins, one-hot units and labels to move; all discrete ones if left out.

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
        return movable(energy, self.sites, "GibbsWithGradients")

    def init(self, energy: Energy, x: Sites) -> GradientState:
        return start(energy, accept_at_door(energy, x, read_terms(energy)), self.moved(energy))

    def refresh(self, energy: Energy, state: GradientState, x: Sites) -> GradientState:
        return start(energy, x, self.moved(energy))

    @torch.no_grad()
    def step(
        self, energy: Energy, state: GradientState
    ) -> tuple[GradientState, GibbsWithGradientsInfo]:
        alphabets = self.moved(energy)
        forward = single_changes(state, alphabets)
        change = chance.choose(forward)
        x, undoing = change_one(state.x, change, alphabets, energy)
        landscape = local_differences(energy, state.terms, x, alphabets)
        new = GradientState(x, landscape, state.terms)
        log_ratio = state.energy - new.energy
        log_ratio = log_ratio + log_chosen(single_changes(new, alphabets), undoing)
        log_ratio = log_ratio - log_chosen(forward, change)
        state, rate = settle(state, new, log_ratio)
        return state, GibbsWithGradientsInfo(rate)


def single_changes(state: GradientState, alphabets: dict[str, Alphabet]) -> Tensor:
    """The log weights −ΔE/2 of all single changes (*batch, changes), site after site."""
    weights, batch = [], state.energy.shape
    for site, alphabet in alphabets.items():
        weight = state.landscape.differences[site] / -2
        unchanged = alphabet.unchanged(state.x[site])
        if unchanged is not None:
            weight = weight.masked_fill(unchanged, -torch.inf)
        weights.append(weight.reshape(*batch, -1))
    return torch.cat(weights, -1)


def log_chosen(log_weights: Tensor, index: Tensor) -> Tensor:  # (*batch, n), (*batch,)
    """ln of the probability with which `chance.choose` chooses an index."""
    chosen = log_weights.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return chosen - log_weights.logsumexp(-1)


def change_one(
    x: Sites, change: Tensor, alphabets: dict[str, Alphabet], energy: Energy
) -> tuple[Sites, Tensor]:
    """The values after one change of all the sites' (*batch,), and the change that undoes it."""
    x, undoing, first = dict(x), change, 0
    for site, alphabet in alphabets.items():
        shape = energy.sites[site].shape
        last = first + alphabet.count(shape)
        here = (change >= first) & (change < last)
        element = change.clamp(first, last - 1) - first
        value, back = alphabet.changed(x[site], element, shape)
        x[site] = where(here, value, x[site])
        undoing = torch.where(here, back + first, undoing)
        first = last
    return x, undoing


@dataclass(frozen=True, eq=False)
class DiscreteLangevin(TunableKernel):
    r"""All units are proposed at once, each for itself, by the gradient: DMALA.

    .. math:: q(x' \mid x) \propto \prod_i
        \exp\Big(-\tfrac12 \Delta E_i(x_i \to x'_i) - \frac{[x'_i \ne x_i]}{2 \alpha}\Big)

    and a Metropolis test with the reverse proposal at x'. The step size α is that for bits: spins
    and one-hot units count a change as 1 too, so that the coding of the units does not matter.

    Args:
        sites: The bits, spins, one-hot units and labels to move; all discrete ones if left out.
        step_size: α, positive; the larger, the more units are proposed to change. If left out, the
            warm-up finds one with which 57 % of the proposals are accepted.

    Raises:
        ValueError: If the step size is not positive.

    References:
        | A Langevin-like sampler for discrete distributions (Zhang, Liu & Liu, 2022)
        | https://proceedings.mlr.press/v162/zhang22t.html
        | Optimal scaling for locally balanced proposals in discrete spaces
        | (Sun, Dai & Schuurmans, 2022) https://arxiv.org/abs/2209.08183
    """

    sites: tuple[str, ...] | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)

    def moved(self, energy: Energy) -> dict[str, Alphabet]:
        """The sites that it moves, with their alphabets."""
        return movable(energy, self.sites, "DiscreteLangevin")

    def init(self, energy: Energy, x: Sites) -> GradientState:
        require_set(self, "step_size")
        return start(energy, accept_at_door(energy, x, read_terms(energy)), self.moved(energy))

    def refresh(self, energy: Energy, state: GradientState, x: Sites) -> GradientState:
        return start(energy, x, self.moved(energy))

    @torch.no_grad()
    def step(
        self, energy: Energy, state: GradientState
    ) -> tuple[GradientState, DiscreteLangevinInfo]:
        alphabets = self.moved(energy)
        forward = self.log_weights(state)
        drawn = {s: alphabets[s].redrawn(state.x[s], w) for s, w in forward.items()}
        x = {**state.x, **drawn}
        landscape = local_differences(energy, state.terms, x, alphabets)
        new = GradientState(x, landscape, state.terms)
        log_ratio = state.energy - new.energy
        for site, backward in self.log_weights(new).items():
            there = alphabets[site].log_prob(state.x[site], x[site], forward[site])
            back = alphabets[site].log_prob(x[site], state.x[site], backward)
            log_ratio = log_ratio + (back - there).reshape(*log_ratio.shape, -1).sum(-1)
        state, rate = settle(state, new, log_ratio)
        assert self.step_size is not None  # checked in `init`
        return state, DiscreteLangevinInfo(rate, torch.full_like(rate, self.step_size))

    def log_weights(self, state: GradientState) -> Sites:
        """The log weights of the changes of each unit (*batch, *elements), by site."""
        assert self.step_size is not None  # checked in `init`
        cost = 1 / (2 * self.step_size)
        return {s: d / -2 - cost for s, d in state.landscape.differences.items()}

    def tuning(self, steps: int) -> Kernel:
        return DiscreteLangevinTuning(self) if self.step_size is None else self

    @property
    def findings(self) -> Findings:
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
    """DMALA in its warm-up: the step size follows the mean acceptance of all chains.

    Args:
        kernel: The kernel.
    """

    kernel: DiscreteLangevin

    def at(self, size: float) -> DiscreteLangevin:
        """The kernel with a step size."""
        return replace(self.kernel, step_size=min(max(size, LEAST_SIZE), LARGEST_SIZE))

    def init(self, energy: Energy, x: Sites) -> DiscreteLangevinTuningState:
        inner = self.at(FIRST_SIZE).init(energy, x)
        return DiscreteLangevinTuningState(inner, StepSize.at(FIRST_SIZE))

    def refresh(
        self, energy: Energy, state: DiscreteLangevinTuningState, x: Sites
    ) -> DiscreteLangevinTuningState:
        return state._replace(inner=self.kernel.refresh(energy, state.inner, x))

    def step(
        self, energy: Energy, state: DiscreteLangevinTuningState
    ) -> tuple[DiscreteLangevinTuningState, DiscreteLangevinInfo]:
        inner, info = self.at(float(state.size.size)).step(energy, state.inner)
        size = state.size.after(info.acceptance_rate.mean(), ACCEPTANCE)
        return DiscreteLangevinTuningState(inner, size), info

    def tuned(self, state: DiscreteLangevinTuningState) -> tuple[Kernel, GradientState]:
        return self.at(float(state.size.average)), state.inner
