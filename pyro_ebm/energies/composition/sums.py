"""Energies made of energies: sums, inverse temperatures, interpolations.

What is known of the parts stays known of the whole. Of units in fields comes an energy of units in
fields, on which Gibbs, closed forms and exact sums go on to work; of any parts that know their
conditional laws on finitely many values comes an energy that knows its own. A constant leaves known
what is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from types import NotImplementedType
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pyro_ebm.energies.base import (
    Block,
    BlockEnergy,
    CompositeEnergy,
    Energy,
    GradientEnergy,
    SweepEnergy,
    energy_and_gradient,
    only_block,
    sweep_blocks,
    times,
)
from pyro_ebm.energies.fields.energy import FieldEnergy
from pyro_ebm.energies.fields.factor_graph import FactorGraph
from pyro_ebm.energies.fields.overlay import FieldOverlay
from pyro_ebm.energies.finite import FiniteLaw
from pyro_ebm.energies.pairwise.couplings import register
from pyro_ebm.energies.pairwise.energy import PairwiseEnergy
from pyro_ebm.energies.pairwise.overlay import Ends, GraphUnion, PairwiseOverlay, added
from pyro_ebm.energies.pairwise.terms import PairwiseTerms
from pyro_ebm.energies.pyro_models.model import ModelEnergy
from pyro_ebm.sites import Site, Sites, allowed_values, batch_shape, covers

from .conditionals import common_blocks, log_weights, values_of_units


class OfParameter(nn.Module):
    """A weight that is computed from a parameter wherever it is read, so that learning moves it.

    Args:
        function: From the parameter to the weight.
        parameter: It.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], parameter: nn.Parameter) -> None:
        super().__init__()
        self.function, self.parameter = function, parameter

    def forward(self) -> Tensor:
        return self.function(self.parameter)


Weight = float | Tensor | OfParameter


def rest(share: float | Tensor) -> Weight:
    """1 − t."""
    return OfParameter(rest_of, share) if isinstance(share, nn.Parameter) else 1 - share


def rest_of(share: Tensor) -> Tensor:
    """1 − t of a tensor."""
    return 1 - share


def inverse(temperature: float | Tensor) -> Weight:
    """1 / T."""
    if isinstance(temperature, nn.Parameter):
        return OfParameter(torch.reciprocal, temperature)
    return 1 / temperature


def combined(weighted: Sequence[tuple[Weight, Energy]]) -> Energy:
    r"""The weighted sum :math:`\sum_k w_k E_k(x)`, over the sites of all the energies.

    Args:
        weighted: Weights, numbers or tensors (*batch,), and energies. A negative weight is allowed;
            whether the sum can be normalised is asked where it is sampled or summed.

    Raises:
        TypeError: If a weight is no real number, or a part no energy.
        ValueError: If a site is of different kinds, shapes or supports in two of the energies, or
            these are of different dtypes or on different devices.
    """
    flat: list[tuple[Weight, Energy]] = []
    for weight, energy in weighted:
        if (
            isinstance(weight, OfParameter)
            or not isinstance(energy, AbstractCombination)
            or learns_weights(weight, energy)
        ):
            flat.append((weight, energy))
        else:
            flat += [(w * weight, part) for w, part in energy.weighted()]
    varying = [energy for _, energy in flat if not isinstance(energy, Constant)]
    if all(isinstance(energy, PairwiseEnergy) for energy in varying):
        return PairwiseCombination(flat)
    if all(isinstance(energy, FieldEnergy) for energy in varying):
        return FieldCombination(flat)
    parts = Parts(flat)
    if any(parts.knows(site) for site in parts.sites):
        return BlockCombination(parts)
    return Combination(parts)


def learns_weights(weight: float | Tensor, energy: "AbstractCombination") -> bool:
    """Whether a product of weights would be no parameter where one of its factors is."""
    weights = [weight, *energy.parts.weights()]
    return any(isinstance(own, nn.Parameter | OfParameter) for own in weights)


def sum_of(
    energy: Energy, weight: float, other: Energy | float | Tensor
) -> "Energy | NotImplementedType":
    """An energy, and another one or a constant times a weight.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    if isinstance(other, Real | Tensor):
        other = Constant(other, energy)
    if not isinstance(other, Energy):
        return NotImplemented
    return combined([(1.0, energy), (weight, other)])


def interpolate(first: Energy, second: Energy, share: float | Tensor) -> Energy:
    r"""The energy on the way from one to another.

    .. math:: E_t(x) = (1 - t)\, E_0(x) + t\, E_1(x)

    Args:
        first: E₀.
        second: E₁.
        share: t, a number or a tensor (*batch,), for example one for each of several chains. An
            nn.Parameter is learned.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    return combined([(rest(share), first), (share, second)])


def checked_number(weight: float | Tensor, what: str, like: Energy) -> Tensor:
    """A number or a tensor of them, in the dtype and on the device of an energy.

    Args:
        weight: The number.
        what: What is done with it, for the message: "multiplied by".
        like: The energy.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is not finite.
    """
    if isinstance(weight, bool) or not isinstance(weight, Real | Tensor):
        raise TypeError(f"An energy was {what} {weight!r}; wanted a number or a tensor.")
    # A number keeps its digits, whatever torch's default dtype.
    value = (
        weight if isinstance(weight, Tensor) else torch.tensor(float(weight), dtype=torch.float64)
    )
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"An energy was {what} a tensor of {value.dtype}; wanted numbers.")
    if not bool(value.isfinite().all()):
        raise ValueError(f"An energy was {what} NaN or an infinite number; wanted finite numbers.")
    if isinstance(value, nn.Parameter):
        return value
    return value.to(dtype=like.dtype, device=like.device)


class Constant(GradientEnergy):
    """An energy that depends on nothing; made by `+` and `-`.

    Args:
        value: It, a number or a tensor (*batch,).
        like: An energy whose dtype and device it has.
    """

    value: Tensor

    def __init__(self, value: float | Tensor, like: Energy) -> None:
        super().__init__()
        self.sites = {}
        register(self, "value", checked_number(value, "shifted by", like))

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        return self.value.device

    def evaluate(self, x: Sites) -> Tensor:
        return self.value

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        return self.value.detach(), {}


class Parts(nn.Module):
    """Weights and energies, as a module.

    Args:
        weighted: Pairs of them.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        if not weighted:
            raise ValueError("There is no energy to combine; wanted one at least.")
        for _, energy in weighted:
            if not isinstance(energy, Energy):
                raise TypeError(f"Wanted an energy, and {energy!r} is none.")
        energies = [energy for _, energy in weighted]
        self.energies = nn.ModuleList(energies)
        self.count = len(energies)
        like = energies[0]
        for energy in energies:
            if (energy.dtype, energy.device) != (like.dtype, like.device):
                raise ValueError(
                    f"One energy is {like.dtype} on {like.device}, another {energy.dtype} on "
                    f"{energy.device}; convert one, for example energy.to({like.dtype})."
                )
        for k, (weight, _) in enumerate(weighted):
            if isinstance(weight, OfParameter):
                checked_number(weight(), "multiplied by", like)
                self.add_module(f"weight{k}", weight)
            else:
                register(self, f"weight{k}", checked_number(weight, "multiplied by", like))
        self.sites = union_of_sites(energies)

    def weights(self) -> list[Tensor | OfParameter]:
        """The weights as they are kept."""
        return [getattr(self, f"weight{k}") for k in range(self.count)]

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """Weights and energies."""
        energies = cast("Sequence[Energy]", self.energies)
        own = [weight() if isinstance(weight, OfParameter) else weight for weight in self.weights()]
        return list(zip(own, energies, strict=True))

    def varying(self) -> list[tuple[Tensor, Energy]]:
        """Those that are no constants."""
        return [pair for pair in self.weighted() if not isinstance(pair[1], Constant)]

    def shift(self, constant: Tensor) -> Tensor:  # (*batch,)
        """A constant, and those among the energies."""
        own = [w * energy.value for w, energy in self.weighted() if isinstance(energy, Constant)]
        return added([constant, *own])

    def around(self, site: str) -> list[tuple[Tensor, Energy]]:
        """Those that have a site."""
        return [(weight, energy) for weight, energy in self.weighted() if site in energy.sites]

    def knows(self, site: str) -> bool:
        """Whether the conditional laws of a site follow from those of the parts."""
        try:
            self.blocks(site)
        except ValueError:
            return False
        return True

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site in sets that are independent given the rest in every part.

        Raises:
            ValueError: If the site is not over finitely many values, or a part does not know its
                conditional laws.
        """
        if site not in self.sites:
            raise ValueError(f"Unknown site {site!r}; the energies have {list(self.sites)}.")
        values_of_units(self.sites[site], site, torch.empty(0))  # refuses real sites
        partitions = []
        for _, energy in self.around(site):
            if not isinstance(energy, BlockEnergy):
                raise ValueError(
                    f"{type(energy).__name__}, a part of the sum, does not know the conditional "
                    f"laws of {site!r}: move it with a kernel that needs only the energy or its "
                    f"gradient, such as RandomBlocks, and join the kernels in a Cycle."
                )
            partitions.append(energy.blocks(site))
        return common_blocks(self.sites[site].shape.numel(), partitions, energy.device)


def union_of_sites(energies: Sequence[Energy]) -> dict[str, Site]:
    """The sites of all the energies, in the order in which they come first.

    Raises:
        ValueError: If a site differs between two of them.
    """
    sites: dict[str, Site] = {}
    for energy in energies:
        for name, site in energy.sites.items():
            known = sites.setdefault(name, site)
            if known != site:
                raise ValueError(
                    f"The site {name!r} is {known} in one energy and {site} in another; energies "
                    f"are added where they agree on it."
                )
    return sites


class AbstractCombination(CompositeEnergy):
    """An energy that is a weighted sum of others."""

    parts: Parts

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def first(self) -> Energy:
        """The first of the energies."""
        return cast("Energy", self.parts.energies[0])

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """The weights and the energies."""
        return self.parts.weighted()

    def parts_at(self, x: Sites) -> list[tuple[Energy, Sites]]:
        energies = [energy for _, energy in self.weighted()]
        return [(energy, {site: x[site] for site in energy.sites}) for energy in energies]


class AbstractSum(AbstractCombination, GradientEnergy):
    """A weighted sum whose value and gradient are those of its parts, each for itself.

    Args:
        parts: Weights and energies.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.sites = parts, parts.sites

    def evaluate(self, x: Sites) -> Tensor:
        values = [
            times(weight, energy.evaluate({site: x[site] for site in energy.sites}))
            for weight, energy in self.weighted()
        ]
        return torch.stack(torch.broadcast_tensors(*values)).sum(0)

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        gradients: Sites = {}
        for weight, energy in self.weighted():
            weight = weight.detach()
            own = [site for site in sites if site in energy.sites]
            value, slopes = energy_and_gradient(energy, {s: x[s] for s in energy.sites}, own)
            total = total + times(weight, value)
            for site, slope in slopes.items():
                factor = weight[(..., *[None] * len(self.sites[site].shape))]
                own_slope = (factor * slope).masked_fill(factor == 0, 0)  # where E may be infinite
                gradients[site] = gradients.get(site, 0) + own_slope
        return total, gradients


class Combination(AbstractSum):
    """A weighted sum of energies; made by `combined`, or by `+`, `*` and `/`."""


class BlockCombination(AbstractSum, SweepEnergy):
    """A weighted sum that knows conditional laws, from those of its parts; made by `combined`.

    It knows them of the sites over finitely many values of which every part that has them does. A
    part that does not have a site says nothing of it.
    """

    def blocks(self, site: str) -> tuple[Block, ...]:
        """As `Parts.blocks`."""
        return self.parts.blocks(site)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> FiniteLaw:
        if block is None:
            block = only_block(self, site)
        values = values_of_units(self.sites[site], site, next(iter(x.values())))
        logits = weighted_log_weights(self.parts.around(site), site, x, block, values)
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
        return FiniteLaw(values, logits.to(self.dtype), validate_args=False)

    def sweep(self, site: str, x: Sites) -> Tensor:
        around = self.parts.around(site)
        batch = x[site].shape[: x[site].dim() - len(self.sites[site].shape)]
        for weight, _ in around:
            if not covers(batch, weight.shape):
                raise ValueError(
                    f"The weights have the batch shape {tuple(weight.shape)}, and {site!r} has "
                    f"{tuple(batch)}; wanted one chain or more for each weight, the weights last."
                )
        known = swept_part(around, site)
        if known is None:
            return sweep_blocks(self, site, x)
        weight, energy, others = known
        own = {name: x[name] for name in energy.sites}
        if not others:
            return energy.sweep_in_field(site, own, weight)
        shape, levels = self.sites[site].shape, energy.energy_sites[site].levels.to(x[site])
        block = torch.arange(shape.numel(), device=self.device)
        outer = weighted_log_weights(others, site, x, block, levels).movedim(-1, 0)
        return energy.sweep_in_field(site, own, weight, outer.unflatten(-1, shape))


def weighted_log_weights(
    weighted: Sequence[tuple[Tensor, Energy]], site: str, x: Sites, block: Block, values: Tensor
) -> Tensor:  # (*batch, units, states)
    """The weighted sum of what `log_weights` says of several energies."""
    return added(
        times(weight[..., None, None], log_weights(energy, site, x, block, values))
        for weight, energy in weighted
    )


class SweptPart(NamedTuple):
    """The part of a sum in whose terms a site is swept, with its weight, and the other parts."""

    weight: Tensor
    energy: ModelEnergy
    others: list[tuple[Tensor, Energy]]


def swept_part(weighted: Sequence[tuple[Tensor, Energy]], site: str) -> SweptPart | None:
    """The Pyro model of which a site is an energy, where all other parts are fields on its units.

    None where there is none; or where it has hidden units, whose sum to a power is no sum.
    """
    for k, (weight, energy) in enumerate(weighted):
        if not isinstance(energy, ModelEnergy) or site not in energy.energy_sites:
            continue
        others = [*weighted[:k], *weighted[k + 1 :]]
        apart = all(isinstance(e, BlockEnergy) and len(e.blocks(site)) == 1 for _, e in others)
        if energy.energy_sites[site].is_bare and apart:
            return SweptPart(weight, energy, others)
    return None


class PairwiseCombination(AbstractCombination, PairwiseEnergy):
    """A weighted sum of pairwise energies, itself one; made by `combined`, `+`, `*` and `/`.

    Args:
        weighted: Weights and energies.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        self.parts = Parts(weighted)
        self.sites = self.parts.sites
        self.unions: dict[Ends, GraphUnion] = {}
        with torch.no_grad():
            self.read()  # refuses what cannot be added

    def read(self) -> PairwiseTerms:
        weights, energies = zip(*self.parts.varying(), strict=True)
        parts = [cast("PairwiseEnergy", energy).read() for energy in energies]
        terms = PairwiseOverlay.of(parts, self.unions).weighted(weights)
        return replace(terms, constant=self.parts.shift(terms.constant))


class FieldCombination(AbstractCombination, FieldEnergy):
    """A weighted sum of random fields, itself one; made by `combined`, `+`, `*` and `/`.

    Args:
        weighted: Weights and energies, all over one site.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        self.parts = Parts(weighted)
        self.sites = self.parts.sites
        if len(self.sites) > 1:
            raise ValueError(
                f"The random fields have the sites {list(self.sites)}; wanted one that all share."
            )
        states = {cast("FieldEnergy", energy).states for _, energy in self.parts.varying()}
        if len(states) > 1:
            raise ValueError("The nodes of the random fields have different numbers of states.")
        (self.states,) = states

    def read(self) -> FactorGraph:
        weights, energies = zip(*self.parts.varying(), strict=True)
        graphs = [cast("FieldEnergy", energy).read() for energy in energies]
        graph = FieldOverlay.of(graphs).weighted(weights)
        return replace(graph, constant=self.parts.shift(graph.constant))
