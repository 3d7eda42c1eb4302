"""What is looked at in draws: the energy, signed order parameters, principal components, units.

R-hat of the energy is blind to broken symmetry: modes that mirror each other have one energy. What
tells them apart is a quantity with a sign: the magnetisation, or the share of each label, or a
projection on a direction in which the data, or the draws themselves, vary most.
"""

import torch
from torch import Tensor

from pyro_ebm.sites import Sites
from pyro_ebm.statistics import indicators, labels, principal_directions, projections

from .reading import Material

COMPONENTS = 5  # of each site


def observables(material: Material, data: Sites) -> dict[str, Tensor]:  # (chain, draw) each
    """The quantities of whole configurations, by what they are.

    Args:
        material: The draws.
        data: Data rows (rows, *shape) of some sites: the components of these sites are the data's,
            those of the others the draws' own.
    """
    found = {} if material.energy is None else {"energy": material.energy}
    for site, draws in material.sites.items():
        found |= order_parameters(site, draws)
        if draws[0, 0].numel() > 1:
            found |= components(site, draws, data.get(site))
    return found


def order_parameters(site: str, draws: Tensor) -> dict[str, Tensor]:
    """The magnetisation of a two-valued site, or the share of each of a few labels."""
    values = labels(draws)
    if values is None:
        return {}
    units = draws.flatten(2) if draws.dim() > 2 else draws[..., None]
    if len(values) == 2:
        low, high = values.tolist()
        mean = units.mean(-1, dtype=torch.float64)
        return {f"magnetisation of {site!r}": 2 * (mean - low) / (high - low) - 1}
    return {
        f"share of {value} in {site!r}": (units == value).mean(-1, dtype=torch.float64)
        for value in values.tolist()
    }


def components(site: str, draws: Tensor, data: Tensor | None) -> dict[str, Tensor]:
    """Projections of a site on the strongest directions of the data, or else of its draws."""
    coded = indicators(draws).flatten(2)
    whose = "the draws'" if data is None else "the data's"
    if data is None:
        directions = principal_directions(coded.flatten(0, 1), COMPONENTS)
    else:
        coded = draws.flatten(2)
        directions = principal_directions(data.flatten(1), COMPONENTS)
    # As double precision only where the draws are: the projections of bits need none.
    along = projections(
        coded, directions.to(torch.float32) if not draws.is_floating_point() else directions
    )
    return {
        f"component {k + 1} of {site!r} ({whose})": along[..., k].double()
        for k in range(along.shape[-1])
    }
