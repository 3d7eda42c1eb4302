"""Energies made of energies: sums, inverse temperatures, interpolations.

What is known of the parts stays known of the whole. Of units in fields comes an energy of units in
fields, on which Gibbs, closed forms and exact sums go on to work.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pyro_ebm.sites import Site, Sites

from .base import Energy, GradientEnergy, energy_and_gradient
from .couplings import register
from .factor_graph import FactorGraph, Neighbourhood
from .field_energy import FieldEnergy, GivenField
from .overlay import Ends, FieldOverlay, GraphUnion, PairwiseOverlay
from .pairwise import GivenPairwise, PairwiseEnergy
from .terms import PairwiseTerms

Weight = float | Tensor


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
        if isinstance(energy, AbstractCombination):
            flat += [(w * weight, part) for w, part in energy.weighted()]
        else:
            flat.append((weight, energy))
    if all(isinstance(energy, PairwiseEnergy) for _, energy in flat):
        return PairwiseCombination(flat)
    if all(isinstance(energy, FieldEnergy) for _, energy in flat):
        return FieldCombination(flat)
    return Combination(flat)


def interpolate(first: Energy, second: Energy, share: Weight) -> Energy:
    r"""The energy on the way from one to another.

    .. math:: E_t(x) = (1 - t)\, E_0(x) + t\, E_1(x)

    Args:
        first: E₀.
        second: E₁.
        share: t, a number or a tensor (*batch,), for example one for each of several chains.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    return combined([(1 - share, first), (share, second)])


def check_weight(weight: Weight) -> Tensor:
    """A weight as a tensor.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is not finite.
    """
    if isinstance(weight, bool) or not isinstance(weight, float | int | Tensor):
        raise TypeError(f"An energy was multiplied by {weight!r}; wanted a number or a tensor.")
    # A number keeps its digits, whatever torch's default dtype.
    value = weight if isinstance(weight, Tensor) else torch.tensor(weight, dtype=torch.float64)
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"An energy was multiplied by a tensor of {value.dtype}; wanted numbers.")
    if not bool(value.isfinite().all()):
        raise ValueError("An energy was multiplied by NaN or an infinite number.")
    return value


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
            value = check_weight(weight)
            if not isinstance(value, nn.Parameter):
                value = value.to(dtype=like.dtype, device=like.device)
            register(self, f"weight{k}", value)
        self.sites = union_of_sites(energies)

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """Weights and energies."""
        energies = cast("Sequence[Energy]", self.energies)
        return [(getattr(self, f"weight{k}"), energies[k]) for k in range(self.count)]


def union_of_sites(energies: Sequence[Energy]) -> dict[str, Site]:
    """The sites of all the energies, in the order in which they come first.

    Raises:
        ValueError: If a site differs between two of them.
    """
    sites: dict[str, Site] = {}
    for energy in energies:
        for name, site in energy.sites.items():
            known = sites.setdefault(name, site)
            if known.shape != site.shape or str(known.support) != str(site.support):
                raise ValueError(
                    f"The site {name!r} is {known} in one energy and {site} in another; energies "
                    f"are added where they agree on it."
                )
    return sites


class AbstractCombination(Energy):
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


class Combination(AbstractCombination, GradientEnergy):
    """A weighted sum of energies; made by `combined`, or by `+`, `*` and `/`.

    Args:
        weighted: Weights and energies.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        self.parts = Parts(weighted)
        self.sites = self.parts.sites

    def evaluate(self, x: Sites) -> Tensor:
        values = [
            weight * energy.evaluate({site: x[site] for site in energy.sites})
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
            total = total + weight * value
            for site, slope in slopes.items():
                factor = weight[(..., *[None] * len(self.sites[site].shape))]
                gradients[site] = gradients.get(site, 0) + factor * slope
        return total, gradients


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
        parts = [cast("PairwiseEnergy", energy).read() for _, energy in self.weighted()]
        overlay = PairwiseOverlay.of(parts, self.unions)
        return overlay.weighted([weight for weight, _ in self.weighted()])


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
        states = {cast("FieldEnergy", energy).states for _, energy in weighted}
        if len(states) > 1:
            raise ValueError("The nodes of the random fields have different numbers of states.")
        (self.states,) = states

    def read(self) -> FactorGraph:
        graphs = [cast("FieldEnergy", energy).read() for _, energy in self.weighted()]
        return FieldOverlay.of(graphs).weighted([weight for weight, _ in self.weighted()])


# --- the same energies with many weights ---------------------------------------------------------


class Blend(ABC):
    """Energies to be summed with weights time and again: their parameters are read once.

    What of a sum no weight changes is made once: `weighted` computes numbers and no structure.
    """

    @abstractmethod
    def weighted(self, weights: Sequence[Tensor]) -> Energy:
        """The weighted sum, without a history.

        Args:
            weights: Of each energy (*batch,), finite.
        """


@dataclass(frozen=True, eq=False)
class PairwiseBlend(Blend):
    """Pairwise energies to be weighted.

    Args:
        sites: Those of all of them.
        overlay: Their terms.
    """

    sites: Mapping[str, Site]
    overlay: PairwiseOverlay

    @torch.no_grad()
    def weighted(self, weights: Sequence[Tensor]) -> Energy:
        return GivenPairwise(self.sites, self.overlay.weighted(weights))


@dataclass(frozen=True, eq=False)
class FieldBlend(Blend):
    """Random fields to be weighted.

    Args:
        sites: The one that all of them have.
        overlay: Their factors.
        colours: Of the nodes.
    """

    sites: Mapping[str, Site]
    overlay: FieldOverlay
    colours: tuple[Neighbourhood, ...]

    @torch.no_grad()
    def weighted(self, weights: Sequence[Tensor]) -> Energy:
        return GivenField(self.sites, self.overlay.weighted(weights), self.colours)


@dataclass(frozen=True, eq=False)
class AnyBlend(Blend):
    """Energies of which less is known, to be weighted; their parameters are read as they are used.

    Args:
        energies: The energies.
    """

    energies: tuple[Energy, ...]

    def weighted(self, weights: Sequence[Tensor]) -> Energy:
        return combined(list(zip(weights, self.energies, strict=True)))


@torch.no_grad()
def blend(energies: Sequence[Energy]) -> Blend:
    """Energies to be summed with weights time and again, by what is known of all of them.

    Args:
        energies: The energies.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    equal = [(1.0, energy) for energy in energies]
    sites = Parts(equal).sites
    pairwise = [energy for energy in energies if isinstance(energy, PairwiseEnergy)]
    fields = [energy for energy in energies if isinstance(energy, FieldEnergy)]
    if len(pairwise) == len(energies):
        overlay = PairwiseOverlay.of([energy.read() for energy in pairwise], {})
        overlay.weighted([torch.ones_like(terms.constant) for terms in overlay.parts])
        return PairwiseBlend(sites, overlay)
    if len(fields) == len(energies):
        colours = FieldCombination(equal).colours
        return FieldBlend(sites, FieldOverlay.of([energy.read() for energy in fields]), colours)
    return AnyBlend(tuple(energies))
