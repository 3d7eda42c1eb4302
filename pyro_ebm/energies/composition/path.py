r"""Energies on the way from an easy reference to a target.

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

With no reference E_ref = 0, and the path is βE. The reference has the sites of the energy; a
discrete site that it lacks is uniform at β = 0. β is one number, or one for each level (levels,),
the last batch dimension of the values.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pyro_ebm.energies.base import Energy
from pyro_ebm.sites import Sites

from .blend import Blend, blend


@dataclass(frozen=True, eq=False)
class Path:
    """The energies between two, whose parameters are read once: at every β only numbers are made.

    Args:
        reference: β = 0; zero if left out.
        ends: The target, and the reference where there is one, to be weighted.
        difference: E − E_ref, what a step of β adds to the energy.
    """

    reference: Energy | None
    ends: Blend
    difference: Energy

    @classmethod
    def between(cls, reference: Energy | None, energy: Energy) -> Self:
        """The path from a reference, or from zero, to an energy.

        Raises:
            TypeError, ValueError: If the two cannot be added.
        """
        one = torch.ones((), dtype=energy.dtype, device=energy.device)
        if reference is None:
            ends = blend([energy])
            return cls(None, ends, ends.weighted([one]))
        ends = blend([energy, reference])
        return cls(reference, ends, ends.weighted([one, -one]))

    def at(self, beta: Tensor) -> Energy:
        """The energy at β, () or (levels,)."""
        return self.ends.weighted([beta] if self.reference is None else [beta, 1 - beta])


def at_reference(reference: Energy | None, x: Sites) -> Tensor | float:  # (*batch,)
    """E_ref(x), of values of all the sites; zero where there is none."""
    if reference is None:
        return 0.0
    return reference.evaluate({site: x[site] for site in reference.sites})
