"""Which part of an energy forbids a state: where it is +∞, and p(x) is 0."""

import torch
from torch import Tensor

from pyro_ebm.sites import Sites, values_at

from .base import Energy
from .composition.clamped import AbstractClamped
from .composition.sums import AbstractCombination
from .fields.energy import FieldEnergy
from .pyro_models.model import ModelEnergy


@torch.no_grad()
def what_forbids(energy: Energy, x: Sites) -> tuple[str, ...]:
    """In words, the parts of an energy that forbid one state.

    Args:
        energy: The energy.
        x: Values of all its sites (*shape), which have passed the door.
    """
    if isinstance(energy, FieldEnergy):
        return factors_that_forbid(energy, x)
    if isinstance(energy, ModelEnergy):
        return terms_that_forbid(energy, x)
    if isinstance(energy, AbstractClamped):
        return what_forbids(energy.energy, energy.held.complete(x))
    if isinstance(energy, AbstractCombination):
        parts = [
            (part, {site: x[site] for site in part.sites})
            for weight, part in energy.weighted()
            if bool((weight != 0).any())
        ]
        return tuple(found for part, own in parts for found in what_forbids(part, own))
    return () if bool(energy.evaluate(x).isfinite().any()) else (f"the {type(energy).__name__}",)


def factors_that_forbid(field: FieldEnergy, x: Sites) -> tuple[str, ...]:
    """The factors of a random field that forbid a state."""
    (value,) = x.values()
    found = []
    for name, group in field.read().groups.items():
        never = group.log_potentials(value.to(torch.int64)).isneginf().reshape(-1, len(group.nodes))
        nodes = group.nodes[never.any(0)].tolist()
        found += [f"the factor {name!r} over the nodes {tuple(own)}" for own in nodes]
    return tuple(found)


def terms_that_forbid(energy: ModelEnergy, x: Sites) -> tuple[str, ...]:
    """The sample sites of a Pyro model whose terms are −∞."""
    terms = energy.model.at(energy.native(x), energy.real).terms
    return tuple(
        f"the term of the site {name!r}"
        for name, value in terms.items()
        if not bool((value > -torch.inf).all())
    )


@torch.no_grad()
def can_change(energy: Energy, x: Sites, site: str, unit: int) -> Tensor:  # bool (*batch,)
    """Whether a unit has another value that is not forbidden while all else stays.

    Args:
        energy: The energy.
        x: Values of all its sites (*batch, *shape), which have passed the door.
        site: A site whose values can be listed.
        unit: The number of the unit.
    """
    states, heights = single_changes(energy, x, site, unit)
    other = (states != x[site]).reshape(*heights.shape, -1).any(-1)
    return (other & heights.isfinite()).any(0)


def single_changes(
    energy: Energy, x: Sites, site: str, unit: int
) -> tuple[Tensor, Tensor]:  # (states, *batch, *shape), (states, *batch)
    """A site with each value of one unit in its place, and the energies there."""
    kind = energy.sites[site]
    values = values_at(kind)
    assert values is not None  # else there is no unit to change
    batch = x[site].shape[: x[site].dim() - len(kind.shape)]
    tried = x[site].expand(len(values), *x[site].shape).clone()
    units = tried.reshape(len(values), *batch, -1, *values.shape[1:])
    ones = [1] * len(batch)
    units.select(len(batch) + 1, unit).copy_(values.to(tried).reshape(-1, *ones, *values.shape[1:]))
    tried = units.reshape(tried.shape)
    rest = {n: v.expand(len(values), *v.shape) for n, v in x.items() if n != site}
    inside = kind.support.check(tried).reshape(len(values), *batch, -1).all(-1)
    # What an element cannot have, its law might not bear: it stays where it is.
    keep = inside.reshape(*inside.shape, *[1] * len(kind.shape))
    tried = torch.where(keep, tried, x[site])
    heights = energy.evaluate({**rest, site: tried}).expand(len(values), *batch)
    return tried, heights
