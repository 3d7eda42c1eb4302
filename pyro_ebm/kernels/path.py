r"""Energies on the way from an easy reference to a target.

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

With no reference E_ref = 0, and the path is βE. The reference has the sites of the energy; a
discrete site that it lacks is uniform at β = 0. β is one number, or one for each level (levels,),
the last batch dimension of the values.
"""

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, combined
from pyro_ebm.sites import Sites


def along(energy: Energy, reference: Energy | None, beta: Tensor) -> Energy:
    """The energy at β.

    Args:
        energy: The target, β = 1.
        reference: β = 0; zero if left out.
        beta: () or (levels,).
    """
    target = (beta, energy)
    return combined([target] if reference is None else [target, (1 - beta, reference)])


def ascent(energy: Energy, reference: Energy | None, x: Sites) -> Tensor:  # (*batch,)
    """E(x) − E_ref(x): what a step of β adds to the energy."""
    return energy.evaluate(x) - at_reference(reference, x)


def at_reference(reference: Energy | None, x: Sites) -> Tensor | float:  # (*batch,)
    """E_ref(x), of values of all the sites; zero where there is none."""
    if reference is None:
        return 0.0
    return reference.evaluate({site: x[site] for site in reference.sites})


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
    else:
        along(energy, reference, torch.ones(()))  # refuses sites of other kinds, other dtypes
