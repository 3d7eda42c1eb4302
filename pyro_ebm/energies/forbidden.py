"""Which units can change where an energy forbids states: where it is +∞, and p(x) is 0."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.sites import Sites, values_at

from .base import Energy

Unit = tuple[str, int]  # a site, and the number of one of its units


@torch.no_grad()
def can_change(energy: Energy, x: Sites, units: Sequence[Unit]) -> Tensor:  # (units, *batch)
    """Whether each unit has another value that is not forbidden while all else stays.

    Args:
        energy: The energy.
        x: Values of all its sites (*batch, *shape), which have passed the door.
        units: Of sites whose values can be listed.
    """
    each = [changes(energy, x, unit) for unit in units]
    batch = each[0].others.shape[1:]
    together = {name: torch.cat([change.x[name] for change in each]) for name in x}
    others = torch.cat([change.others for change in each])
    heights = energy.evaluate(together).expand(others.shape)
    sizes = [len(change.others) for change in each]
    possible = (others & heights.isfinite()).split(sizes)
    return torch.stack([found.any(0) for found in possible]).reshape(len(units), *batch)


class Changes(NamedTuple):
    """States in which one unit has each of its values.

    Args:
        x: The values of all sites (states, *batch, *shape).
        others: Where the unit has not the value that it had (states, *batch).
    """

    x: Sites
    others: Tensor


def changes(energy: Energy, x: Sites, unit: Unit) -> Changes:
    """The states with each value of one unit in its place."""
    site, number = unit
    kind = energy.sites[site]
    values = values_at(kind)
    assert values is not None  # else there is no unit to change
    batch = x[site].shape[: x[site].dim() - len(kind.shape)]
    tried = x[site].expand(len(values), *x[site].shape).clone()
    units = tried.reshape(len(values), *batch, -1, *values.shape[1:])
    ones = [1] * len(batch)
    place = units.select(len(batch) + 1, number)
    place.copy_(values.to(tried).reshape(-1, *ones, *values.shape[1:]))
    tried = units.reshape(tried.shape)
    inside = kind.support.check(tried).reshape(len(values), *batch, -1).all(-1)
    # What an element cannot have, its law might not bear: it stays where it is.
    keep = inside.reshape(*inside.shape, *[1] * len(kind.shape))
    tried = torch.where(keep, tried, x[site])
    rest = {name: value.expand(len(values), *value.shape) for name, value in x.items()}
    others = (tried != x[site]).reshape(len(values), *batch, -1).any(-1)
    return Changes({**rest, site: tried}, others)
