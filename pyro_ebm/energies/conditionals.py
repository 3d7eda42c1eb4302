r"""Conditional laws of a weighted sum of energies, from those of its parts.

.. math:: p(x_B \mid x_{-B}) \propto \prod_k p_k(x_B \mid x_{-B})^{w_k}

as functions of x_B, for a block B whose units are independent given the rest in every part. Such
blocks are the intersections of the parts' own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_ebm.sites import Site, describe, values_at

from .structure import Block


def common_blocks(
    size: int, partitions: Sequence[tuple[Block, ...]], device: torch.device
) -> tuple[Block, ...]:
    """Blocks whose units are together in every partition of a site: the largest there are.

    Where a block is one of the given, it is that very object, which its energy may know.

    Args:
        size: The number of elements of the site.
        partitions: The blocks of each part.
        device: Where the blocks are.
    """
    divided = [blocks for blocks in partitions if len(blocks) > 1]
    if len(divided) < 2:
        # A part that takes the whole site at once takes any of its blocks.
        listed = [blocks for blocks in partitions if not isinstance(blocks[0], slice)]
        return (divided or listed or list(partitions))[0]
    units = every = torch.arange(size, device=device)
    cell = torch.zeros_like(every)
    for blocks in divided:
        own = torch.empty_like(cell)
        for k, block in enumerate(blocks):
            own[block] = k
        cell = cell * len(blocks) + own
        if every[blocks[0]].dim() > 1:  # a unit is several elements
            units = torch.cat([every[block] for block in blocks])
    cell = torch.unique(cell, return_inverse=True)[1]
    counts = torch.bincount(cell).tolist()
    given: dict[int, Block] = {}
    for block in (block for blocks in divided for block in blocks):
        inside = cell[block].flatten()
        number = int(inside[0])
        if len(inside) == counts[number] and bool((inside == number).all()):
            given.setdefault(number, block)
    of_unit = cell[units.reshape(len(units), -1)[:, 0]]
    return tuple(given.get(k, units[of_unit == k]) for k in range(len(counts)))


def values_of_units(site: Site, name: str, like: Tensor) -> Tensor:  # (states, *event)
    """The values of one unit of a site.

    Raises:
        ValueError: If they are not finitely many.
    """
    found = values_at(site) if site.support.is_discrete else None
    if found is None:
        raise ValueError(
            f"The conditional law of a weighted sum is known on finitely many values, but {name!r} "
            f"is {describe(site.support)}: move it with HMC or another kernel that needs only the "
            f"energy or its gradient, and join the kernels in a Cycle."
        )
    return found.to(like)
