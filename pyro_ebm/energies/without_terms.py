"""What is known of energies without terms: values, gradients and conditional laws.

What is known of the parts of a sum, and of what is held in part, stays known here too.
"""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from pyro_ebm.sites import Site, Sites, allowed_values, batch_shape, covers
from pyro_ebm.units import FiniteLaw

from .conditionals import common_blocks, values_of_units
from .held import Held
from .some_value import some_value
from .structure import (
    AloneSweep,
    Block,
    Blockwise,
    Claims,
    Differences,
    Laws,
    Memory,
    Overlay,
    Starts,
    Structure,
    SweptInField,
    UnitLevels,
    added,
    by_autograd,
    log_weights_of,
    only_block,
    require_site,
    sweep_blocks,
    times,
)

Gradient = Callable[[Sites, Sequence[str]], tuple[Tensor, Sites]]


class Valued(Protocol):
    """What has values: an energy, of values that have passed the door."""

    @property
    def sites(self) -> Mapping[str, Site]:
        """The sites by name."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of states."""

    @property
    def device(self) -> torch.device:
        """Their device."""

    def evaluate(self, x: Sites) -> Tensor:
        """E(x)."""


class Termless(Blockwise, ABC):
    """A structure without terms, and what follows from values, gradients and conditional laws."""

    def differences(self, x: Sites, sites: Sequence[str]) -> Differences:
        energy, slopes = self.energy_and_gradient(x, sites)
        return Differences(energy, slopes, dict.fromkeys(sites))

    def levels(self, site: str) -> UnitLevels | None:
        return None

    def log_weights(self, site: str, x: Sites, block: Block, values: Tensor) -> Tensor:
        return log_weights_of(self.conditional(site, x, block), values)

    def sweep_alone(self, site: str) -> AloneSweep | None:
        return None

    def conditioned(self, held: Held, memory: Memory) -> Structure:
        swept = None if self.swept is None else partial(swept_while_held, self, held)
        return HeldPart(self, held, self.walled.difference(held.names), swept)

    @classmethod
    def overlaid(cls, parts: Sequence[Structure], memory: Memory) -> Overlay:
        return mixed(parts)

    def field(self, site: str, x: Sites) -> Tensor:
        raise TypeError(
            f"The units of {list(self.sites)} are in no fields, which those of a BoltzmannMachine "
            f"are. Ask for conditional({site!r}, x), where that is known."
        )


# --- an energy by its values ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class WithoutTerms(Termless):
    """An energy of which no terms are known: its values, and what it says besides.

    An energy of which nothing else is known says `return WithoutTerms(self)`.

    Args:
        of: The energy.
        gradient: Its value and gradient in closed form, without a history; by autograd if left out.
        laws: Conditional laws of its sites.
        swept: Sites that are swept by more than these laws.
        machines: The batch shape of the parameters; that of the energy of one state if left out.
        law: The normalised law of its one site, where it is one.
        claims: What runs have to check.
        starts: Where chains may start.
        walled: Real sites that bound data.
        causes: In words, what forbids a state; the energy as a whole if left out.

    Example:
        >>> import torch
        >>> from pyro_ebm import HMC, Energy, Site, WithoutTerms, run
        >>> class Quartic(Energy):
        ...     sites = {"x": Site(torch.distributions.constraints.real, torch.Size([]))}
        ...     dtype, device = torch.float32, torch.device("cpu")
        ...
        ...     def evaluate(self, x):
        ...         return x["x"] ** 4
        ...
        ...     def structure(self):
        ...         return WithoutTerms(self)
        >>> f"{run(HMC(), Quartic(), 2000, seed=0).draws['x'].square().mean():.1f}"
        '0.3'
    """

    of: Valued
    gradient: Gradient | None = None
    laws: Laws | None = None
    swept: Callable[[str], SweptInField | None] | None = None
    machines: torch.Size | None = None
    law: Distribution | None = None
    claims: Claims | None = None
    starts: Starts | None = None
    walled: frozenset[str] = frozenset()
    causes: Callable[[Sites], tuple[str, ...]] | None = None

    @property
    def sites(self) -> Mapping[str, Site]:  # type: ignore[override]
        """Those of the energy."""
        return self.of.sites

    @property
    def batch(self) -> torch.Size:
        if self.machines is not None:
            return self.machines
        like = torch.empty((), dtype=self.of.dtype, device=self.of.device)
        x = {name: some_value(name, site, like) for name, site in self.sites.items()}
        with torch.no_grad():
            return self.of.evaluate(x).shape

    def energy(self, x: Sites) -> Tensor:
        return self.of.evaluate(x)

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        if self.gradient is not None:
            return self.gradient(x, sites)
        return by_autograd(self.of.evaluate, x, sites)

    def blocks(self, site: str) -> tuple[Block, ...]:
        return self.known_laws(site).blocks(site)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        return self.known_laws(site).conditional(site, x, block)

    def known_laws(self, site: str) -> Laws:
        """The conditional laws.

        Raises:
            TypeError: If none are known.
            ValueError: If there is no such site.
        """
        if self.laws is not None:
            return self.laws
        require_site(site, self.sites)
        raise TypeError(
            f"{type(self.of).__name__} does not know the conditional laws of {site!r}, from which "
            f"Gibbs draws: move it with a kernel that needs only the energy or its gradient, such "
            f"as RandomBlocks, and join the kernels in a Cycle."
        )

    def sweep(self, site: str, x: Sites) -> Tensor:
        known = self.swept_in_field(site)
        return sweep_blocks(self, site, x) if known is None else known.sweep(x, None, None)

    def require_finite(self) -> None:
        return  # nothing is known but values, which are looked at where they are made

    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        if self.causes is not None:
            return self.causes(x)
        name = type(self.of).__name__
        return () if bool(self.of.evaluate(x).isfinite().any()) else (f"the {name}",)

    def parts_at(self, x: Sites) -> list[tuple[Structure, Sites]]:
        return []


# --- sums ----------------------------------------------------------------------------------------


def overlay(parts: Sequence[Structure], memory: Memory) -> Overlay:
    """Structures laid over one another, by what is known of all of them.

    Args:
        parts: The structures; those without sites are constants.
        memory: Of earlier readings of the same.

    Raises:
        ValueError: If they cannot be added.
    """
    kinds = {type(part) for part in parts if part.sites}
    return kinds.pop().overlaid(parts, memory) if len(kinds) == 1 else mixed(parts)


def mixed(parts: Sequence[Structure]) -> Overlay:
    """Any structures laid over one another."""
    return Overlay(partial(mixed_sum, tuple(parts)))


def mixed_sum(parts: Sequence[Structure], weights: Sequence[Tensor]) -> "MixedSum":
    """A weighted sum of structures; of those that are sums, the parts."""
    weighted: list[tuple[Tensor, Structure]] = []
    for weight, part in zip(weights, parts, strict=True):
        own = [(own * weight, each) for own, each in part.weighted]
        weighted += own or [(weight, part)]
    sites = {name: site for part in parts for name, site in part.sites.items()}
    return MixedSum(sites, tuple(weighted), frozenset().union(*(part.walled for part in parts)))


Weighted = Sequence[tuple[Tensor, Structure]]


@dataclass(frozen=True, eq=False, repr=False)
class MixedSum(Termless):
    """A weighted sum of any structures.

    It knows the conditional laws of the sites over finitely many values of which every part that
    has them does. A part that does not have a site says nothing of it.

    Args:
        sites: Those of all the parts.
        weighted: Weights (*batch,) and parts.
        walled: Sites that bound data.
    """

    sites: Mapping[str, Site]
    weighted: tuple[tuple[Tensor, Structure], ...]
    walled: frozenset[str] = frozenset()

    @property
    def batch(self) -> torch.Size:
        every = (shape for weight, part in self.weighted for shape in (weight.shape, part.batch))
        return torch.broadcast_shapes(*every)

    def around(self, site: str) -> list[tuple[Tensor, Structure]]:
        """The parts that have a site, with their weights."""
        return [(weight, part) for weight, part in self.weighted if site in part.sites]

    def energy(self, x: Sites) -> Tensor:
        values = [times(weight, part.energy(of(part, x))) for weight, part in self.weighted]
        return torch.stack(torch.broadcast_tensors(*values)).sum(0)

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        total = next(iter(x.values())).new_zeros(())
        gradients: Sites = {}
        for weight, part in self.weighted:
            weight = weight.detach()
            own = [site for site in sites if site in part.sites]
            value, slopes = part.energy_and_gradient(of(part, x), own)
            total = total + times(weight, value)
            for site, slope in slopes.items():
                factor = weight[(..., *[None] * len(self.sites[site].shape))]
                own_slope = (factor * slope).masked_fill(factor == 0, 0)  # where E may be infinite
                gradients[site] = gradients.get(site, 0) + own_slope
        return total, gradients

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site in sets that are independent given the rest in every part.

        Raises:
            TypeError: If a part knows no conditional laws at all.
            ValueError: If the site is not over finitely many values, or a part does not know its
                conditional laws.
        """
        if site not in self.sites:
            raise ValueError(f"Unknown site {site!r}; the energies have {list(self.sites)}.")
        values_of_units(self.sites[site], site, torch.empty(0))  # refuses real sites
        try:
            partitions = [part.blocks(site) for _, part in self.around(site)]
        except (TypeError, ValueError) as error:
            raise type(error)(f"A part of the sum: {error}") from None
        return common_blocks(self.sites[site].shape.numel(), partitions, self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weighted[0][0].device

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> FiniteLaw:
        if block is None:
            block = only_block(self, site)
        values = values_of_units(self.sites[site], site, next(iter(x.values())))
        logits = weighted_log_weights(self.around(site), site, x, block, values)
        allowed = allowed_values(self.sites[site], values)
        if allowed is not None:
            logits = logits.masked_fill(~allowed[block], -torch.inf)
        if not bool(logits.amax(-1).isfinite().all()):
            raise ValueError(
                f"A unit of {site!r} has no value of finite energy given the others, or one whose "
                f"energy is NaN or −∞. Start from a state of finite energy, and weigh energies "
                f"that forbid states with positive numbers."
            )
        batch = torch.broadcast_shapes(logits.shape[:-2], batch_shape(x, self.sites))
        logits = logits.expand(*batch, *logits.shape[-2:])
        return FiniteLaw(values, logits.to(values.dtype), validate_args=False)

    def sweep(self, site: str, x: Sites) -> Tensor:
        around = self.around(site)
        batch = x[site].shape[: x[site].dim() - len(self.sites[site].shape)]
        for weight, _ in around:
            if not covers(batch, weight.shape):
                raise ValueError(
                    f"The weights have the batch shape {tuple(weight.shape)}, and {site!r} has "
                    f"{tuple(batch)}; wanted one chain or more for each weight, the weights last."
                )
        found = swept_part(around, site)
        if found is None:
            return sweep_blocks(self, site, x)
        weight, part, others = found
        known, own = cast(SweptInField, part.swept_in_field(site)), of(part, x)
        if not others:
            return known.sweep(own, weight, None)
        shape, levels = self.sites[site].shape, known.levels.to(x[site])
        block = torch.arange(shape.numel(), device=self.device)
        outer = weighted_log_weights(others, site, x, block, levels).movedim(-1, 0)
        return known.sweep(own, weight, outer.unflatten(-1, shape))

    def require_finite(self) -> None:
        for _, part in self.weighted:
            part.require_finite()

    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        counted = [part for weight, part in self.weighted if bool((weight != 0).any())]
        return tuple(cause for part in counted for cause in part.what_forbids(of(part, x)))

    def parts_at(self, x: Sites) -> list[tuple[Structure, Sites]]:
        return [(part, of(part, x)) for _, part in self.weighted]


def of(part: Structure, x: Sites) -> Sites:
    """The values of the sites that a part has."""
    return {site: x[site] for site in part.sites}


def weighted_log_weights(
    weighted: Weighted, site: str, x: Sites, block: Block, values: Tensor
) -> Tensor:  # (*batch, units, states)
    """The weighted sum of what several structures say of each value of each unit of a block."""
    return added(
        times(weight[..., None, None], part.log_weights(site, of(part, x), block, values))
        for weight, part in weighted
    )


class SweptPart(NamedTuple):
    """The part of a sum in whose terms a site is swept, with its weight, and the other parts."""

    weight: Tensor
    part: Structure
    others: list[tuple[Tensor, Structure]]


def swept_part(weighted: Weighted, site: str) -> SweptPart | None:
    """The part of which a site is an energy of its own, all other parts being fields on its units.

    None where there is none; or where it has hidden units, whose sum to a power is no sum.
    """
    for k, (weight, part) in enumerate(weighted):
        known = part.swept_in_field(site)
        others = [*weighted[:k], *weighted[k + 1 :]]
        if known is None or not known.is_bare:
            continue
        if all(each.knows(site) and len(each.blocks(site)) == 1 for _, each in others):
            return SweptPart(weight, part, others)
    return None


# --- what is held --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class HeldPart(Termless):
    """A structure without terms, of which some sites or elements are held.

    Args:
        whole: The structure.
        held: What is held.
        walled: Free sites that bound data.
        swept: Free sites that are swept by more than their laws.
    """

    whole: Structure
    held: Held
    walled: frozenset[str] = frozenset()
    swept: Callable[[str], SweptInField | None] | None = None

    @property
    def sites(self) -> Mapping[str, Site]:  # type: ignore[override]
        """Those that are free."""
        return self.held.sites

    @property
    def batch(self) -> torch.Size:
        return torch.broadcast_shapes(self.whole.batch, self.held.batch)

    def energy(self, x: Sites) -> Tensor:
        return self.whole.energy(self.held.complete(x))

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        value, gradients = self.whole.energy_and_gradient(self.held.complete(x), sites)
        return value, {site: self.held.reduce(site, own) for site, own in gradients.items()}

    def free(self, site: str) -> Tensor | None:
        """The free elements of a site that is held in part, by number; None where all are free.

        Raises:
            ValueError: If there is no such site that is free.
        """
        if site not in self.sites:
            raise ValueError(f"{site!r} is no free site; these are {list(self.sites)}.")
        return self.held.free(site)

    def blocks(self, site: str) -> tuple[Block, ...]:
        """Those of the whole, without what is held.

        Raises:
            ValueError: As those of the whole; or if of a unit that is several elements some are
                held.
        """
        free, blocks = self.free(site), self.whole.blocks(site)
        if free is None:
            return blocks
        every = torch.arange(self.held.whole_sites[site].shape.numel(), device=free.device)
        number = torch.full_like(every, -1).index_copy_(0, free, torch.arange(len(free)).to(free))
        found = []
        for block in blocks:
            units = number[every[block]]
            elements = units.reshape(len(units), -1) >= 0
            left = elements.all(1)
            if bool((elements.any(1) & ~left).any()):
                raise ValueError(
                    f"A unit of {site!r} is {elements.shape[1]} elements, of which some are held: "
                    f"hold all of them, or none."
                )
            if bool(left.any()):
                found.append(units[left])
        return tuple(found)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        free, whole = self.free(site), self.held.complete(x)
        if free is None:
            return self.whole.conditional(site, whole, block)
        if block is None:
            block = only_block(self, site)
        return self.whole.conditional(site, whole, free[block])

    def sweep(self, site: str, x: Sites) -> Tensor:
        if self.free(site) is not None:
            return sweep_blocks(self, site, x)
        return self.whole.sweep(site, self.held.complete(x))

    def require_finite(self) -> None:
        self.whole.require_finite()

    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        return self.whole.what_forbids(self.held.complete(x))

    def parts_at(self, x: Sites) -> list[tuple[Structure, Sites]]:
        return [(self.whole, self.held.complete(x))]


def swept_while_held(whole: Structure, held: Held, site: str) -> SweptInField | None:
    """How a site is swept in a further field while others are held."""
    known = None if site in held.names else whole.swept_in_field(site)
    if known is None:
        return None
    sweep = known.sweep
    return known._replace(sweep=lambda x, w, field: sweep(held.complete(x), w, field))
