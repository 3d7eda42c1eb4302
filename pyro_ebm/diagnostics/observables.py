"""What is looked at in draws: the energy, signed order parameters, principal components, units.

R-hat of the energy is blind to broken symmetry: modes that mirror each other have one energy. What
tells them apart is a quantity with a sign: the magnetisation, or the share of each label, or a
projection on a direction in which the data, or the draws themselves, vary most.

Sites that are alike in all chains, each on its own, may go together in one way here and in another
there: so there are directions of all sites together as well. And where chains differ only in the
sign with which two quantities go together, no direction shows it, but a product does.
"""

from itertools import combinations

import torch
from torch import Tensor

from pyro_ebm.sites import Sites
from pyro_ebm.statistics import indicators, labels, principal_directions, projections

from .reading import Material

COMPONENTS = 5  # of each site, and of all together


def observables(material: Material, data: Sites) -> dict[str, Tensor]:  # (chain, draw) each
    """The quantities of whole configurations, by what they are.

    Args:
        material: The draws.
        data: Data rows (rows, *shape) of some sites: the components of these sites are the data's,
            those of the others the draws' own.
    """
    found = {} if material.energy is None else {"energy": material.energy}
    of_sites = []
    for site, draws in material.sites.items():
        found |= order_parameters(site, draws)
        if draws[0, 0].numel() > 1:
            of_sites.append(components(draws, data.get(site)))
            whose = "the data's" if site in data else "the draws'"
            found |= named(of_sites[-1], f"{site!r} ({whose})")
        else:
            of_sites.append(components_of(indicators(draws).reshape(*draws.shape[:2], -1)))
    if len(of_sites) > 1:
        together = components_of(torch.cat([in_units_of_the_first(x) for x in of_sites], -1))
        found |= named(together, "all sites")
    return found


def named(along: Tensor, what: str) -> dict[str, Tensor]:  # (chain, draw, k)
    """Components by what they are, and the products of two."""
    found = {f"component {k + 1} of {what}": x for k, x in enumerate(along.unbind(-1))}
    centred = along - along.mean((0, 1))
    for j, k in combinations(range(along.shape[-1]), 2):
        name = f"product of components {j + 1} and {k + 1} of {what}"
        found[name] = centred[..., j] * centred[..., k]
    return found


def in_units_of_the_first(along: Tensor) -> Tensor:  # (chain, draw, k)
    """Components of one site divided by the standard deviation of the first: sites count alike."""
    return along / along[..., :1].std() if along.shape[-1] else along


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


def components(draws: Tensor, data: Tensor | None) -> Tensor:  # (chain, draw, k)
    """Projections of a site on the strongest directions of the data, or else of its draws."""
    if data is None:
        return components_of(indicators(draws).flatten(2))
    return projected(draws.flatten(2), principal_directions(data.flatten(1), COMPONENTS))


def components_of(units: Tensor) -> Tensor:  # (chain, draw, n) -> (chain, draw, k)
    """Projections on the directions in which they vary most; none where they are constant."""
    return projected(units, principal_directions(units.flatten(0, 1), COMPONENTS))


def projected(units: Tensor, directions: Tensor) -> Tensor:  # (chain, draw, n), (k, n)
    """Projections (chain, draw, k), computed in double precision only where the draws are."""
    if not units.is_floating_point():
        directions = directions.to(torch.float32)
    return projections(units, directions).double()
