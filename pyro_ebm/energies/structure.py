"""What is known of an energy, as a value that is asked for.

An energy gives its `Structure`: its parameters, read once, with all that follows from them. Sums,
clamps and paths are made of structures, and what is known of the parts stays known of the whole:
machines stay machines, random fields random fields. Two implementations have terms, as plain
tensors (`PairwiseStructure`, `FieldStructure`); what is known without terms, by values, gradients
and conditional laws, is in `without_terms.py`.

A structure takes values that have passed the energy's door. It is read anew where parameters may
have changed.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import (
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from pyro_ebm.sites import Site, Sites, in_words
from pyro_ebm.units import FiniteLaw

from .held import Held

Block = slice | Tensor  # the units of one site that are updated together
Memory = MutableMapping[Hashable, Any]  # what no parameter changes, as an earlier reading found it


class UnitLevels(NamedTuple):
    """All values of a unit, and what the energy is linear in at each.

    Args:
        values: The values (q,).
        features: Their features (q, width).
    """

    values: Tensor
    features: Tensor


class Differences(NamedTuple):
    """E(x), and what it changes by where one unit takes another value.

    Args:
        energy: E(x) (*batch,).
        slopes: By site ∂E/∂features (*batch, features): exact where the energy is linear in the
            features of every unit, else to first order. Of labels, the energy of each, infinite
            where it is forbidden.
        potentials: By site what is added at each level of each unit (*batch, n, levels), if any.
    """

    energy: Tensor
    slopes: Sites
    potentials: Mapping[str, Tensor | None]


class Claims(Protocol):
    """Conditional laws that rest on what is claimed of a program: runs check them."""

    def contradiction(self, x: Sites, generator: torch.Generator) -> str | None:
        """What is wrong with a conditional law, where E changes otherwise than it says; else None.

        Args:
            x: Values of all the sites, of one chain at least (*batch, *site.shape).
            generator: Chooses what is looked at; no other generator is touched.
        """


class Starts(Protocol):
    """Where chains may start, of an energy that knows."""

    def initial(self, chains: int) -> Sites:
        """Values of finite energy (chains, *shape).

        Raises:
            ValueError: If none are found.
        """

    def random_values(self) -> Sites:
        """Values of one chain (*shape), of any energy."""


class Swept(NamedTuple):
    """Values after a sweep over some sites.

    Args:
        x: Values of all the sites.
        energy: E(x), where the sweep has made it nearly for nothing; else None.
        newest: The site that was drawn last, as a whole, and the field on it, where it has one.
    """

    x: Sites
    energy: Callable[[], Tensor] | None = None
    newest: tuple[str, Tensor] | None = None


# Draws a site that is alone with the others of its energy, which are drawn first and forgotten:
# from a value (*batch, *shape), more log-weights of each value of each element (states, *batch,
# *shape), and a weight (*batch,) of the energy itself, or None.
AloneSweep = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class SweptInField(NamedTuple):
    """How a site is swept in a further field on its elements, the other sites staying.

    Args:
        levels: The values of an element (states,).
        is_bare: Whether no hidden units are summed out: then its law may have a weight.
        sweep: The value after a sweep, from values of all sites, a weight (*batch,) of the energy,
            and the field at each level of each element (states, *batch, *shape); either may be
            None.
    """

    levels: Tensor
    is_bare: bool
    sweep: Callable[[Sites, Tensor | None, Tensor | None], Tensor]


class Structure(ABC):
    """What is known of an energy, its parameters read once.

    `energy.structure()` gives it, and methods answer for machines, fields, functions, Pyro models,
    and sums and clamps of them alike. An energy of one's own mostly says `WithoutTerms(self)`.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, clamp
        >>> machine = BoltzmannMachine.restricted(3, 2)
        >>> known = (0.5 * machine).structure()
        >>> known.knows("hidden"), known.has_terms, known.batch
        (True, True, torch.Size([]))
        >>> clamp(machine, {"visible": torch.zeros(4, 3)}).structure().batch
        torch.Size([4])
    """

    sites: Mapping[str, Site]
    weighted: "tuple[tuple[Tensor, Structure], ...]" = ()  # of a sum of any parts: these
    has_terms: bool = False  # as plain tensors, with which sums are done in float64
    forbids: bool = True  # whether some state may be impossible, or its energy no number
    law: Distribution | None = None  # the normalised law of its one site, where that is one
    claims: Claims | None = None  # what runs have to check
    starts: Starts | None = None  # where chains may start, if the energy itself says
    walled: frozenset[str] = frozenset()  # real sites that bound data, as no gradient tells
    swept: Callable[[str], SweptInField | None] | None = None  # sites that are energies themselves

    def __repr__(self) -> str:
        sites = ", ".join(in_words(name, site) for name, site in self.sites.items())
        return f"{type(self).__name__}({sites})"

    @property
    @abstractmethod
    def batch(self) -> torch.Size:
        """The batch shape of the parameters: how many energies it is."""

    @abstractmethod
    def energy(self, x: Sites) -> Tensor:  # (*batch,)
        """E(x), of values of all the sites."""

    @abstractmethod
    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        """E(x) (*batch,) and ∂E/∂x (*batch, *shape) of some sites; neither keeps a history."""

    @abstractmethod
    def differences(self, x: Sites, sites: Sequence[str]) -> Differences:
        """E(x), and its changes with every single unit of some discrete sites, without a history.

        It is what kernels that propose by the energy around a state are made from.
        """

    @abstractmethod
    def levels(self, site: str) -> UnitLevels | None:
        """The values of a unit as the terms have them; None where no terms say."""

    @abstractmethod
    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site, in sets that are independent given the rest: one Gibbs sweep.

        Raises:
            TypeError: If no conditional laws are known at all.
            ValueError: If the site is unknown, or its conditional laws are.
        """

    @abstractmethod
    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        """p(x_block | everything else), batch shape (*batch, units); as `Energy.conditional`."""

    @abstractmethod
    def log_weights(self, site: str, x: Sites, block: Block, values: Tensor) -> Tensor:
        """ln p of each value of each unit of a block given the rest, up to what no value changes.

        Args:
            site: The site.
            x: Values of all the sites.
            block: Units that are independent given the rest.
            values: Of a unit (states, *event).

        Returns:
            (*batch, units, states).
        """

    @abstractmethod
    def sweep(self, site: str, x: Sites) -> Tensor:  # (*batch, *site.shape)
        """The site's value after a transition that leaves its law given the rest unchanged.

        It draws every element, without a history; x itself is left as it was.

        Raises:
            ValueError: As `conditional`.
        """

    @abstractmethod
    def sweeps(self, sites: Sequence[str], x: Sites) -> Swept:
        """A sweep over each of some sites, one after another."""

    @abstractmethod
    def likeliest(self, site: str, x: Sites) -> Tensor:  # (*batch, *site.shape)
        """The site's value after each block in turn took its likeliest value given the rest.

        Of two likely values a unit takes always the same; x itself is left as it was.

        Raises:
            ValueError: As `conditional`.
        """

    @abstractmethod
    def sweep_alone(self, site: str) -> AloneSweep | None:
        """How a site is drawn with all others of the energy; None where that is not known."""

    @abstractmethod
    def conditioned(self, held: Held, memory: Memory) -> "Structure":
        """The structure of the free elements while others are held.

        Args:
            held: What is held.
            memory: Of earlier readings of the same.
        """

    @classmethod
    @abstractmethod
    def overlaid(cls, parts: "Sequence[Structure]", memory: Memory) -> "Overlay":
        """Structures laid over one another: of any weights, only numbers are computed.

        Args:
            parts: Structures of this kind, and constants, which have no sites.
            memory: Of earlier readings of the same.

        Raises:
            ValueError: If they cannot be added.
        """

    @abstractmethod
    def field(self, site: str, x: Sites) -> Tensor:  # (*batch, n * width)
        """The field on every unit of a site; as `Energy.field`."""

    @abstractmethod
    def free_energy(self, x: Sites) -> Tensor:  # (*batch,)
        """−ln Σ exp(−E) over the sites that x leaves out, in closed form; as `Energy.free_energy`.

        Raises:
            TypeError, ValueError: If there is no closed form.
        """

    @abstractmethod
    def require_finite(self) -> None:
        """Refuses parameters that are NaN or infinite, as far as they are known.

        Raises:
            FloatingPointError: If one is; the message names it.
        """

    @abstractmethod
    def require_normalisable(self) -> None:
        """Refuses parameters under which nothing can be drawn, where no draw would show it.

        Raises:
            FloatingPointError: If one is NaN or infinite.
            ValueError: If there is no law.
        """

    @abstractmethod
    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        """In words, the parts of the energy that forbid one state (*shape)."""

    @abstractmethod
    def parts_at(self, x: Sites) -> "list[tuple[Structure, Sites]]":
        """The structures that it is made of, each with its values where it has the values x."""

    def swept_in_field(self, site: str) -> SweptInField | None:
        """How a site is swept in a further field, where it is an energy of its own; else None."""
        return None if self.swept is None else self.swept(site)

    def knows(self, site: str) -> bool:
        """Whether the conditional laws of a site's units are known."""
        try:
            self.blocks(site)
        except (TypeError, ValueError):
            return False
        return True

    def claimed(self, x: Sites) -> Iterator[tuple[Claims, Sites]]:
        """All that is claimed of the energy's parts, each with its values."""
        if self.claims is not None:
            yield self.claims, x
        for part, own in self.parts_at(x):
            yield from part.claimed(own)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Energies laid over one another, to be summed with weights time and again.

    Args:
        weighted: The structure of the weighted sum, from a weight (*batch,) of each part.
    """

    weighted: Callable[[Sequence[Tensor]], Structure]


def constants_last(parts: Sequence[Structure]) -> list[int]:
    """The numbers of the parts of a sum, those of constants, which have no sites, at the end."""
    return sorted(range(len(parts)), key=lambda k: not parts[k].sites)


def times(weight: Tensor, value: Tensor) -> Tensor:
    """w v, where 0 · ∞ is 0: what is forbidden is so at every weight but 0."""
    forbidden = value.isinf()
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return (weight * value).masked_fill((weight == 0) & forbidden, 0)
    # Infinity without a history: the gradient, zero times infinity, would be NaN.
    infinite = weight.detach() * value.detach()
    found = weight * value.masked_fill(forbidden, 0)
    return torch.where(forbidden & (weight != 0), infinite, found)


def added(values: Iterable[Tensor]) -> Tensor:
    """The sum of tensors that broadcast."""
    return functools.reduce(add, values)


def require_site(site: str, sites: Mapping[str, Site]) -> None:
    """Refuses a site that an energy does not have.

    Raises:
        ValueError: If it has not.
    """
    if site not in sites:
        raise ValueError(f"Unknown site {site!r}; the energy has {list(sites)}.")


class Laws(Protocol):
    """Conditional laws of sites."""

    @property
    def sites(self) -> Mapping[str, Site]:
        """The sites by name."""

    def blocks(self, site: str) -> tuple[Block, ...]:
        """As `Structure.blocks`."""

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        """As `Structure.conditional`."""


def only_block(laws: Laws, site: str) -> Block:
    """The block of a site that has one.

    Raises:
        ValueError: If it has several.
    """
    blocks = laws.blocks(site)
    if len(blocks) > 1:
        raise ValueError(f"{site!r} has {len(blocks)} blocks; say which: one of blocks({site!r}).")
    return blocks[0]


def drawn(law: TorchDistribution) -> Tensor:  # (*batch, units, *event)
    """A draw of each unit of a block."""
    found: Tensor = law.sample()
    return found


def likeliest(law: TorchDistribution) -> Tensor:  # (*batch, units, *event)
    """The mode of each unit of a block."""
    options = law.enumerate_support(expand=False)
    best = law.log_prob(options).argmax(0)
    return options.reshape(-1, *law.event_shape)[best]


def sweep_blocks(
    laws: Laws, site: str, x: Sites, update: Callable[[TorchDistribution], Tensor] = drawn
) -> Tensor:  # (*batch, *site.shape)
    """A sweep over one site: its blocks in turn are updated by their conditional laws."""
    value = x[site].clone(memory_format=torch.contiguous_format)
    units = value.view(*value.shape[: value.dim() - len(laws.sites[site].shape)], -1)
    for block in laws.blocks(site):
        law = laws.conditional(site, {**x, site: value}, block)
        units[..., block] = update(law).to(value.dtype)
    return value


class Blockwise(Structure, ABC):
    """A structure without closed forms, whose sites are swept by the laws of their blocks."""

    def sweeps(self, sites: Sequence[str], x: Sites) -> Swept:
        x = dict(x)
        for site in sites:
            x[site] = self.sweep(site, x)
        return Swept(x)

    def likeliest(self, site: str, x: Sites) -> Tensor:
        return sweep_blocks(self, site, x, likeliest)

    def free_energy(self, x: Sites) -> Tensor:
        raise TypeError(
            f"The free energy of {list(x)} has a closed form for energies of units in fields, such "
            f"as a BoltzmannMachine. Sum over the states: pyro_ebm.exact.free_energy(energy, x)."
        )

    def require_normalisable(self) -> None:
        return  # where there is no law draws are refused


def log_weights_of(law: TorchDistribution, values: Tensor) -> Tensor:  # (*batch, units, states)
    """ln p of each value (states, *event) under a conditional law, up to what no value changes."""
    if isinstance(law, FiniteLaw) and torch.equal(law.values.to(values), values):
        # No value is possible: normalised it is NaN, and counts where the weight is not 0.
        return law.logits.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    ones = [1] * len(law.batch_shape)
    options = values.reshape(len(values), *ones, *values.shape[1:])
    found: Tensor = law.log_prob(options)
    return found.movedim(0, -1)


def by_autograd(
    energy: Callable[[Sites], Tensor], x: Sites, sites: Sequence[str]
) -> tuple[Tensor, Sites]:
    """E(x) and its gradient in some sites, by autograd; neither keeps a history."""
    with torch.enable_grad():
        moved = {site: x[site].detach().requires_grad_() for site in sites}
        value = energy({**x, **moved})
        if not value.requires_grad:  # a constant
            return value, {site: torch.zeros_like(v) for site, v in moved.items()}
        # A site that the energy does not depend on has the gradient zero.
        gradients = torch.autograd.grad(
            value,
            list(moved.values()),
            torch.ones_like(value),
            allow_unused=True,
            materialize_grads=True,
        )
    return value.detach(), dict(zip(moved, gradients, strict=True))
