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

from pyro_ebm.energies import Blend, Energy, blend
from pyro_ebm.sites import Sites


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


@torch.no_grad()
def is_one_law(energy: Energy, x: Sites) -> bool:
    """Whether all chains have the same energy, and not each one of its own.

    Energies of their own have machines with a batch of parameters, what is clamped to several rows,
    and energies that are multiplied by one number for each chain.

    Args:
        energy: The energy.
        x: Values of all its sites, (*batch, *shape), of which the first are looked at.
    """
    first = {}
    for name, site in energy.sites.items():
        batch = x[name].dim() - len(site.shape)
        first[name] = x[name][(0,) * batch]
    return not energy.evaluate(first).shape


def check_reference(energy: Energy, reference: Energy | None, lowest: float) -> None:
    """Refuses a reference for other sites, and none where it is needed.

    Raises:
        ValueError: If the reference has other sites, or lacks real ones, or if β = 0 would be no
            law.
    """
    endless = {s for s, site in energy.sites.items() if not site.support.is_discrete}
    if reference is None:
        if lowest == 0 and endless:
            raise ValueError(
                f"At β = 0 the sites {sorted(endless)} have no law, being real. Give a reference "
                f"energy that has one, or a lowest β above 0."
            )
    elif not endless <= set(reference.sites) <= set(energy.sites):
        raise ValueError(
            f"The reference has the sites {list(reference.sites)}; "
            f"wanted those of the energy, {list(energy.sites)}, all real ones among them."
        )
