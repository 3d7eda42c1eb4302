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
    x: Tensor, base: Tensor, weight: Tensor, update: Callable[[Tensor], Tensor]
) -> None:
    """Visits the units of a dense layer one after another, in place.

    Each group's fields are made by one product; inside the group every change is added to the
    fields still to come. That is the same as recomputing each unit's field when its turn comes.

    Args:
        x: Values (n, batch), overwritten.
        base: The field from elsewhere (n, batch).
        weight: Symmetric couplings with zero diagonal (n, n).
        update: New values (batch,) from fields (batch,), which it may overwrite.
    """
    n = len(x)
    for start in range(0, n, GROUP):
        stop = min(start + GROUP, n)
        fields = torch.addmm(base[start:stop], weight[start:stop], x)
        columns = weight[start:stop, start:stop, None].unbind(0)
        for k, (value, field, column) in enumerate(
            zip(x[start:stop].unbind(0), fields.unbind(0), columns, strict=True), 1
        ):
            new = update(field)
            # Not addr_, which is half as fast.
            fields[k:].addcmul_(column[k:], new - value)
            value.copy_(new)


def coloured_sweep(
    x: Tensor, base: Tensor, link: GraphLink, update: Callable[[Tensor], Tensor]
) -> None:
    """Visits the colours of a graph one after another, in place.

    Args:
        x: Values (n, batch), overwritten.
        base: The field from elsewhere (n, batch).
        link: The couplings.
        update: New values from fields (units, batch), which it may overwrite.
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
            x[units] = update(fields)
