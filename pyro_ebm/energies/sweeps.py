"""Visiting the units of a site in turn: one order for Gibbs draws and for mean-field means.

Values stand in a (unit, batch) layout here, so that the chains of one unit are one row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .links import CACHED, GraphLink

# Units of a dense layer that are brought up to date by one product, before they are visited in
# turn: large enough for the product to be efficient, small enough for the rank-one updates inside.
GROUP = 32


def sequential_sweep(
    x: Tensor, base: Tensor, weight: Tensor, width: int, update: Callable[[Tensor, slice], Tensor]
) -> None:
    """Visits the units of a dense layer one after another, in place.

    Each group's fields are made by one product; inside the group every change is added to the
    fields still to come. That is the same as recomputing each unit's field when its turn comes.

    Args:
        x: Features (n * width, batch), overwritten.
        base: The field from elsewhere (n * width, batch).
        weight: Symmetric couplings, zero inside a unit (n * width, n * width).
        width: The number of features of a unit.
        update: New features (width, batch) of a unit from its fields, which it may overwrite, and
            its number.
    """
    n = len(x) // width
    group = max(1, GROUP // width)
    for start in range(0, n, group):
        stop = min(start + group, n)
        rows = slice(start * width, stop * width)
        fields = torch.addmm(base[rows], weight[rows], x)
        columns = weight[rows, rows].split(width, 1)
        for k, (value, field, column) in enumerate(
            zip(x[rows].split(width), fields.split(width), columns, strict=True), 1
        ):
            new = update(field, slice(start + k - 1, start + k))
            left = k * width
            if width == 1:
                # Not addmm_ or addr_, which is half as fast.
                fields[left:].addcmul_(column[left:], new - value)
            else:
                fields[left:].addmm_(column[left:], new - value)
            value.copy_(new)


def coloured_sweep(
    x: Tensor, base: Tensor, link: GraphLink, update: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Visits the colours of a graph one after another, in place.

    Args:
        x: Values (n, batch), overwritten.
        base: The field from elsewhere (n, batch).
        link: The couplings.
        update: New values from fields (units, batch), which it may overwrite, and the units.
    """
    weight = link.edge_weights()
    chunk = max(1, CACHED // max(1, x.shape[1]))
    for colour in link.colours:
        # The units of a colour do not see one another, so they may be taken in chunks.
        for start in range(0, len(colour.units), chunk):
            stop = min(start + chunk, len(colour.units))
            units = colour.units[start:stop]
            fields = base[units]
            for source, edge in colour.slots:
                if start >= len(source):
                    break
                sources, edges = source[start:stop], edge[start:stop]
                fields[: len(sources)].addcmul_(weight[edges, None], x[sources])
            for position, source, edge in colour.hubs:
                if start <= position < stop:
                    fields[position - start] += weight[edge] @ x[source]
            x[units] = update(fields, units)
