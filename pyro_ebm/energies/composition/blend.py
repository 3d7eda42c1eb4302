"""Energies of which changing weights are taken: their parameters are read once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies.base import Energy, Given, common_sites
from pyro_ebm.energies.structure import Overlay
from pyro_ebm.energies.without_terms import overlay


@dataclass(frozen=True, eq=False)
class Blend:
    """Energies to be summed with weights time and again: their parameters are read once.

    What of a sum no weight changes is made once: `weighted` computes numbers and no structure. The
    parameters of energies of which only values are known are read as they are used.

    Args:
        overlay: What is known of them.
        like: Has their dtype and device.
    """

    overlay: Overlay
    like: Tensor

    @torch.no_grad()
    def weighted(self, weights: Sequence[Tensor]) -> Energy:
        """The weighted sum, without a history.

        Args:
            weights: Of each energy (*batch,), finite.
        """
        return Given(self.overlay.weighted(weights), self.like)


@torch.no_grad()
def blend(energies: Sequence[Energy]) -> Blend:
    """Energies to be summed with weights time and again, by what is known of all of them.

    Args:
        energies: The energies.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    common_sites(energies)  # refuses sites that differ
    like = torch.ones((), dtype=energies[0].dtype, device=energies[0].device)
    laid = overlay([energy.structure() for energy in energies], {})
    laid.weighted([like] * len(energies))  # refuses what cannot be added
    return Blend(laid, like)
