"""Visiting the units of a site in turn: one order for Gibbs draws and for mean-field means.

Values stand in a (unit, batch) layout here, so that the chains of one unit are one row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .links import GraphLink, SymmetricLink

ONE = 1.0  # the factor of couplings that have none

# Units of a dense layer that are brought up to date by one product, before they are visited in
# turn: large enough for the product to be efficient, small enough for the rank-one updates inside.
GROUP = 32


def sequential_sweep(
    x: Tensor,
    base: Tensor,
    link: SymmetricLink,
    scale: Tensor | float,
    update: Callable[[Tensor, slice], Tensor],
) -> None:
    """Visits the units of a dense layer one after another, in place.

    Each group's fields are made by one product; inside the group every change is added to the
    fields still to come. That is the same as recomputing each unit's field when its turn comes.

    Args:
        x: Features (n * width, batch), overwritten.
        base: The field from elsewhere (n * width, batch) or (n * width, 1).
        link: The couplings.
        scale: A factor of them (batch,), or one for all.
        update: New features (width, batch) of a unit from its fields, which it may overwrite, and
            its number.
    """
    weight, width = link.weight, link.width
    n = len(x) // width
    group = max(1, GROUP // width)
    for start in range(0, n, group):
        stop = min(start + group, n)
        rows = slice(start * width, stop * width)
        # The factor of a chain may as well be one of its values.
        fields = torch.addmm(base[rows], weight[rows], x if scale is ONE else x * scale)
        columns = weight[rows, rows].split(width, 1)
        for k, (value, field, column) in enumerate(
            zip(x[rows].split(width), fields.split(width), columns, strict=True), 1
        ):
            new = update(field, slice(start + k - 1, start + k))
            change = new - value if scale is ONE else (new - value) * scale
            left = k * width
            if width == 1:
                # Not addmm_ or addr_, which is half as fast.
                fields[left:].addcmul_(column[left:], change)
            else:
                fields[left:].addmm_(column[left:], change)
            value.copy_(new)


def coloured_sweep(
    x: Tensor,
    base: Tensor,
    link: GraphLink,
    scale: Tensor | float,
    update: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Visits the colours of a graph one after another, in place.

    Args:
        x: Values (n, batch), overwritten.
        base: The field from elsewhere (n, batch) or (n, 1).
        link: The couplings.
        scale: A factor of them (batch,), or one for all.
        update: New values from fields (units, batch), which it may overwrite, and the units.
    """
    for units, fields in link.visits(x, link.colours):
        if scale is not ONE:
            fields.mul_(scale)
        x.index_copy_(0, units, update(fields.add_(base[units]), units))
