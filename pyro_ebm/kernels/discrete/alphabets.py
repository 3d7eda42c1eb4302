"""How a unit of a discrete site may change, and what a change does to the energy.

Sites are two-valued ({0, 1} or {-1, 1}, of any shape), one-hot (*units, values), or labels (units,)
of a machine or a random field. A single change is numbered by an element: the bit that is turned,
or the place to which the one of a one-hot unit moves. Labels are one-hot units, written shorter.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_ebm.energies import Change, Energy, PairwiseEnergy, RandomField
from pyro_ebm.kernels import chance
from pyro_ebm.sites import Sites, boolean, describe, spin


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
    def change(self, x: Tensor, element: Tensor) -> Change:
        """What a single change (*batch,) adds to which features; the last undoes it, as element."""

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


def exchange(element: Tensor, old: Tensor, values: int, dtype: torch.dtype) -> Change:
    """The one of a one-hot unit moves from a place to an element.

    Args:
        element: Where to (*batch,).
        old: From which place of the unit (*batch,).
        values: The places of a unit.
        dtype: That of features.
    """
    columns = torch.stack([element, element - element % values + old], -1)
    amounts = torch.tensor([1, -1], dtype=dtype, device=columns.device)
    return Change(columns, amounts.expand(columns.shape))


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
        return gradient * torch.rsub(x, self.total, alpha=2)

    def unchanged(self, x: Tensor) -> None:
        return None

    def change(self, x: Tensor, element: Tensor) -> Change:
        index = element.unsqueeze(-1)
        value = x.reshape(*element.shape, -1).gather(-1, index)
        return Change(index, torch.rsub(value, self.total, alpha=2))

    def after(self, x: Tensor, change: Change) -> Tensor:
        return added(x, change)

    def redrawn(self, x: Tensor, log_weights: Tensor) -> Tensor:
        # Not torch.where, which takes many times as long where its choices are at random.
        turned = chance.happens(log_weights.sigmoid()).to(x.dtype)
        return torch.addcmul(x, turned, torch.rsub(x, self.total, alpha=2))

    def log_prob(self, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
        gap = 2 - self.total  # between the two values
        step = x - y
        # 1 where the value changes, else −1: at many units in half the time of torch.where.
        sign = torch.addcmul(step.new_tensor(-1), step, step, value=2 / gap**2)
        return logsigmoid(sign.mul_(log_weights))


class OneHot(Alphabet):
    """Units with one 1 among several 0s, in the last dimension."""

    def count(self, shape: torch.Size) -> int:
        return shape.numel()

    def differences(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient - (gradient * x).sum(-1, keepdim=True)

    def unchanged(self, x: Tensor) -> Tensor:
        return x > 0

    def change(self, x: Tensor, element: Tensor) -> Change:
        values = x.shape[-1]
        unit = (element // values)[..., None, None].expand(*element.shape, 1, values)
        old = x.reshape(*element.shape, -1, values).gather(-2, unit).argmax(-1).squeeze(-1)
        return exchange(element, old, values, x.dtype)

    def after(self, x: Tensor, change: Change) -> Tensor:
        return added(x, change)

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

    def change(self, x: Tensor, element: Tensor) -> Change:
        unit = (element // self.states).unsqueeze(-1)
        old = x.reshape(*element.shape, -1).gather(-1, unit).squeeze(-1)
        return exchange(element, old.to(element.dtype), self.states, x.dtype)

    def after(self, x: Tensor, change: Change) -> Tensor:
        new, old = change.columns.split(1, -1)
        return added(x, Change(new // self.states, (new - old) * change.amounts[..., :1]))

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


def single_changes(
    weights: Sites, x: Sites, alphabets: dict[str, Alphabet], batch: torch.Size
) -> Tensor:
    """The log weights of all single changes (*batch, changes), site after site.

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
    """One change (*batch,) in the order of `single_changes`."""
    x, undoing, features, first = dict(x), change, {}, 0
    for site, alphabet in alphabets.items():
        last = first + alphabet.count(energy.sites[site].shape)
        here = (change >= first) & (change < last)
        own = alphabet.change(x[site], change.clamp(first, last - 1) - first)
        own = own._replace(amounts=own.amounts * here.unsqueeze(-1))
        x[site], features[site] = alphabet.after(x[site], own), own
        undoing = torch.where(here, own.columns[..., -1] + first, undoing)
        first = last
    return Changed(x, undoing, features)
