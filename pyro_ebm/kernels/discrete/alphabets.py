"""How a unit of a discrete site may change, and what a change does to the energy.

Sites are two-valued ({0, 1} or {-1, 1}, of any shape), one-hot (*units, values), labels (units,) of
a machine or a random field, or units of a machine with listed levels. A single change is numbered
by an element: the bit that is turned, or the place to which the one of a one-hot unit moves. Labels
and levels are one-hot units, written shorter.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_ebm.energies import Change, Energy, Structure, UnitLevels
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.settings import require_known_sites, require_names
from pyro_ebm.sites import Sites, describe, is_one_hot, two_values


class SingleChange(NamedTuple):
    """What a single change does.

    Args:
        features: What it adds to which features.
        undoing: The element (*batch,) whose change undoes it.
    """

    features: Change
    undoing: Tensor


class Alphabet(ABC):
    """How a unit of one kind of discrete site may change."""

    @abstractmethod
    def count(self, shape: torch.Size) -> int:
        """The number of elements: all single changes of a site of that shape."""

    @abstractmethod
    def differences(self, x: Tensor, slope: Tensor, potentials: Tensor | None) -> Tensor:
        """ΔE of every single change (*batch, *elements), to first order; 0 where it is none.

        Args:
            x: The values (*batch, *shape).
            slope: ∂E/∂x, or by feature where x are labels or levels, without the potentials.
            potentials: Those of the levels of a machine's units, if there are any.
        """

    @abstractmethod
    def unchanged(self, x: Tensor) -> Tensor | None:
        """Which elements are no change (*batch, *elements); None if there are none."""

    @abstractmethod
    def change(self, x: Tensor, element: Tensor) -> SingleChange:
        """What the single change to an element (*batch,) does."""

    @abstractmethod
    def after(self, x: Tensor, change: Change) -> Tensor:  # (*batch, *shape)
        """The value once features have changed so."""

    @abstractmethod
    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        """All units drawn at once: changes have these log weights, no change of a unit has 0."""

    @abstractmethod
    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:  # (*batch, *units)
        """Of each unit, the log-probability with which `redrawn` takes it from x to y."""


def added(x: Tensor, change: Change) -> Tensor:  # (*batch, *shape)
    """Values, as they are after an addition to some of them."""
    flat = x.reshape(*change.columns.shape[:-1], -1)
    return flat.scatter_add(-1, change.columns, change.amounts).reshape(x.shape)


def exchange(element: Tensor, old: Tensor, values: int, dtype: torch.dtype) -> SingleChange:
    """The one of a one-hot unit moves from a place to an element.

    Args:
        element: Where to (*batch,).
        old: From which place of the unit (*batch,).
        values: The places of a unit.
        dtype: That of features.
    """
    undoing = element - element % values + old
    columns = torch.stack([element, undoing], -1)
    amounts = torch.tensor([1, -1], dtype=dtype, device=columns.device)
    return SingleChange(Change(columns, amounts.expand(columns.shape)), undoing)


def at(x: Tensor, unit: Tensor) -> Tensor:  # (*batch, *shape), (*batch,) -> (*batch,)
    """The value of one unit of each."""
    return x.reshape(*unit.shape, -1).gather(-1, unit.unsqueeze(-1)).squeeze(-1)


def relative(heights: Tensor, place: Tensor) -> Tensor:  # (*batch, *units, values)
    """Heights of the values of units, above that of the values they have, at places (*units)."""
    # Heights without couplings are the same for all chains.
    shape = torch.broadcast_shapes(heights.shape[:-1], place.shape)
    heights = heights.expand(*shape, heights.shape[-1])
    # A difference and no product with 0s and 1s: what is impossible is infinitely high.
    here = heights.gather(-1, place.unsqueeze(-1))
    return heights - here.clamp_(max=torch.finfo(heights.dtype).max)


def chosen_places(place: Tensor, log_weights: Tensor) -> Tensor:  # (*batch, *units)
    """Places drawn for all units at once: the present ones (*batch, *units) have log weight 0."""
    return chance.choose(log_weights.scatter(-1, place.unsqueeze(-1), 0))


def log_chosen_places(place: Tensor, to: Tensor, log_weights: Tensor) -> Tensor:
    """Of each unit, the log-probability that `chosen_places` takes it to a place."""
    log_weights = log_weights.scatter(-1, place.unsqueeze(-1), 0)
    return log_weights.gather(-1, to.unsqueeze(-1)).squeeze(-1) - log_weights.logsumexp(-1)


@dataclass(frozen=True)
class TwoValued(Alphabet):
    """Bits or spins: x has the other value total − x.

    Args:
        total: The sum of the two values.
    """

    total: float

    @property
    def gap(self) -> float:
        """The higher value less the lower one, where the higher one is 1."""
        return 2 - self.total

    def count(self, shape: torch.Size) -> int:
        return shape.numel()

    def differences(self, x: Tensor, slope: Tensor, potentials: Tensor | None) -> Tensor:
        if potentials is not None:
            slope = slope + potentials.diff(dim=-1).squeeze(-1) / self.gap
        return slope * torch.rsub(x, self.total, alpha=2)

    def unchanged(self, x: Tensor) -> None:
        return None

    def change(self, x: Tensor, element: Tensor) -> SingleChange:
        amount = torch.rsub(at(x, element), self.total, alpha=2)
        return SingleChange(Change(element.unsqueeze(-1), amount.unsqueeze(-1)), element)

    def after(self, x: Tensor, change: Change) -> Tensor:
        return added(x, change)

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        # Not torch.where, which takes many times as long where its choices are at random.
        turned = chance.happens(log_weights.sigmoid()).to(x.dtype)
        return torch.addcmul(x, turned, torch.rsub(x, self.total, alpha=2))

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        step = x - y
        # 1 where the value changes, else −1: at many units in half the time of torch.where.
        sign = torch.addcmul(step.new_tensor(-1), step, step, value=2 / self.gap**2)
        return logsigmoid(sign.mul_(log_weights))


class OneHot(Alphabet):
    """Units with one 1 among several 0s, in the last dimension."""

    def count(self, shape: torch.Size) -> int:
        return shape.numel()

    def differences(self, x: Tensor, slope: Tensor, potentials: Tensor | None) -> Tensor:
        return relative(slope, x.argmax(-1))

    def unchanged(self, x: Tensor) -> Tensor:
        return x > 0

    def change(self, x: Tensor, element: Tensor) -> SingleChange:
        values = x.shape[-1]
        places = x.reshape(*element.shape, -1, values).argmax(-1)
        return exchange(element, at(places, element // values), values, x.dtype)

    def after(self, x: Tensor, change: Change) -> Tensor:
        return added(x, change)

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        place = chosen_places(x.argmax(-1), log_weights)
        return torch.zeros_like(x).scatter(-1, place.unsqueeze(-1), 1)

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        return log_chosen_places(x.argmax(-1), y.argmax(-1), log_weights)


@dataclass(frozen=True)
class Labels(Alphabet):
    """Units of a machine or a field with labels 0, …, states − 1, by the energy of each label.

    Units may have fewer labels: what they do not have is infinitely high.

    Args:
        states: How many labels there are, at most.
    """

    states: int

    def count(self, shape: torch.Size) -> int:
        return shape.numel() * self.states

    def differences(self, x: Tensor, slope: Tensor, potentials: Tensor | None) -> Tensor:
        heights = slope.unflatten(-1, (-1, self.states))
        return relative(heights if potentials is None else heights + potentials, x.long())

    def unchanged(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1) == torch.arange(self.states, device=x.device)

    def change(self, x: Tensor, element: Tensor) -> SingleChange:
        old = at(x, element // self.states).to(element.dtype)
        return exchange(element, old, self.states, x.dtype)

    def after(self, x: Tensor, change: Change) -> Tensor:
        new, old = change.columns.split(1, -1)
        return added(x, Change(new // self.states, (new - old) * change.amounts[..., :1]))

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        return chosen_places(x.long(), log_weights).to(x.dtype)

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        return log_chosen_places(x.long(), y.long(), log_weights)


@dataclass(frozen=True, eq=False)
class ListedLevels(Alphabet):
    """Units of a machine with levels of any kind, by what these have for features.

    Args:
        values: The levels (levels,).
        features: Those of each level (levels, width).
    """

    values: Tensor
    features: Tensor

    def places(self, x: Tensor) -> Tensor:  # (*batch, *shape) -> the same, as int64
        """Which of the levels each value is: the nearest, as a level may have been rounded."""
        return (x.unsqueeze(-1) - self.values.to(x)).abs().argmin(-1)

    def count(self, shape: torch.Size) -> int:
        return shape.numel() * len(self.values)

    def differences(self, x: Tensor, slope: Tensor, potentials: Tensor | None) -> Tensor:
        by_unit = slope.unflatten(-1, (-1, self.features.shape[1]))
        heights = by_unit @ self.features.to(slope).mT
        return relative(heights if potentials is None else heights + potentials, self.places(x))

    def unchanged(self, x: Tensor) -> Tensor:
        levels = torch.arange(len(self.values), device=x.device)
        return self.places(x).unsqueeze(-1) == levels

    def change(self, x: Tensor, element: Tensor) -> SingleChange:
        levels, width = self.features.shape
        unit, new = element // levels, element % levels
        old = self.places(at(x, unit))
        features = self.features.to(x)
        columns = unit.unsqueeze(-1) * width + torch.arange(width, device=unit.device)
        return SingleChange(Change(columns, features[new] - features[old]), unit * levels + old)

    def after(self, x: Tensor, change: Change) -> Tensor:
        width = self.features.shape[1]
        unit = change.columns[..., :1] // width
        now = self.features.to(x)[self.places(at(x, unit.squeeze(-1)))] + change.amounts
        place = (now.unsqueeze(-2) - self.features.to(x)).square().sum(-1).argmin(-1)
        value = self.values.to(x)[place].unsqueeze(-1)
        return x.reshape(*place.shape, -1).scatter(-1, unit, value).reshape(x.shape)

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        return self.values.to(x)[chosen_places(self.places(x), log_weights)]

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        return log_chosen_places(self.places(x), self.places(y), log_weights)


def alphabet_of(structure: Structure, name: str) -> Alphabet | None:
    """The alphabet of a site; None if its units cannot be moved by a gradient."""
    support, levels = structure.sites[name].support, structure.levels(name)
    two = two_values(support)
    if two and (levels is None or levels.features.shape[-1] == 1):
        return TwoValued(sum(two))
    if levels is not None:
        return alphabet_of_levels(levels)
    return OneHot() if is_one_hot(support) else None


def alphabet_of_levels(levels: UnitLevels) -> Alphabet:
    """The alphabet of units with listed levels, of which there are more than two, or features."""
    values, features = levels
    count = torch.arange(len(values), dtype=torch.float64)
    if torch.equal(features, torch.eye(len(values), dtype=torch.float64)) and torch.equal(
        values, count
    ):
        return Labels(len(values))
    return ListedLevels(values, features)


def movable(structure: Structure, sites: tuple[str, ...] | None, mover: str) -> dict[str, Alphabet]:
    """The sites that a kernel moves, with their alphabets; all the discrete ones for None.

    Raises:
        ValueError: If one is unknown, or of another kind, or if there is none.
    """
    require_names(sites, "visible")
    if sites is None:
        sites = tuple(name for name, site in structure.sites.items() if site.support.is_discrete)
        if not sites:
            raise ValueError(
                f"{mover} moves discrete sites, but the energy has none. "
                f"Real sites are moved by HMC, MALA or RandomWalk."
            )
    require_known_sites(structure.sites, sites, mover)
    found = {}
    for name in sites:
        support = structure.sites[name].support
        alphabet = alphabet_of(structure, name)
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


def single_changes(
    weights: Sites, x: Sites, alphabets: dict[str, Alphabet], batch: torch.Size
) -> Tensor:
    """The log weights of all single changes, site after site, and of none (*batch, changes + 1).

    No change has the weight 1, that of a change which costs nothing: where all changes are accepted
    a chain would else come to every second state only.

    Args:
        weights: Those of each site (*batch, *elements): −ΔE/2, or anything where nothing changes.
        x: The values.
        alphabets: Of the sites that are to be changed.
        batch: That of the values.
    """
    parts = []
    for site, alphabet in alphabets.items():
        weight, unchanged = weights[site], alphabet.unchanged(x[site])
        if unchanged is not None:
            weight = weight.masked_fill(unchanged, -torch.inf)
        parts.append(weight.reshape(*batch, -1))
    parts.append(parts[0].new_zeros(()).expand(*batch, 1))
    return torch.cat(parts, -1)


class Changed(NamedTuple):
    """What a single change of all the sites' has led to.

    Args:
        x: The values.
        undoing: The change that undoes it (*batch,).
        features: What it adds to which features, by site.
    """

    x: Sites
    undoing: Tensor
    features: dict[str, Change]


def change_one(x: Sites, change: Tensor, alphabets: dict[str, Alphabet], energy: Energy) -> Changed:
    """One change (*batch,) in the order of `single_changes`, in which the last is none."""
    x, undoing, features, first = dict(x), change, {}, 0
    for site, alphabet in alphabets.items():
        last = first + alphabet.count(energy.sites[site].shape)
        here = (change >= first) & (change < last)
        own = alphabet.change(x[site], change.clamp(first, last - 1) - first)
        added_here = own.features._replace(amounts=own.features.amounts * here.unsqueeze(-1))
        x[site], features[site] = alphabet.after(x[site], added_here), added_here
        undoing = torch.where(here, own.undoing + first, undoing)
        first = last
    return Changed(x, undoing, features)
