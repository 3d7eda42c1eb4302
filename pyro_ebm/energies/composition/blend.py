"""Two energies of which a changing weight is taken."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies.base import Energy
from pyro_ebm.energies.fields.energy import FieldEnergy, GivenField
from pyro_ebm.energies.fields.factor_graph import Neighbourhood
from pyro_ebm.energies.fields.overlay import FieldOverlay
from pyro_ebm.energies.pairwise.energy import GivenPairwise, PairwiseEnergy
from pyro_ebm.energies.pairwise.overlay import PairwiseOverlay
from pyro_ebm.sites import Site

from .sums import FieldCombination, Parts, combined


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
