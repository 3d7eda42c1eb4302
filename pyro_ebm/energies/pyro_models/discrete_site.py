"""How the elements of one discrete site of a Pyro model are drawn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies.structure import Block
from pyro_ebm.sites import Site, Sites, bounded

from .dependence import Reach
from .replay import Program


@dataclass(frozen=True, eq=False)
class DiscreteSite:
    """How the elements of one discrete site are drawn.

    Args:
        values: Those of an element (states, *event).
        terms: The sites whose terms depend on it.
        parallel: The plates along which its elements are independent, as `Reach` has them.
        obstacles: By each other plate, why they are not.
        blocks: The elements drawn at once, as indices into the flattened site (units, *event).
        inside: Which values an element may have (elements, states), where that differs.
        shape: Of the site.
        support: Of an element.
        program: Its terms from a recorded pass; or why passes of the whole model are needed.
    """

    values: Tensor
    terms: frozenset[str]
    parallel: tuple[int, ...]
    obstacles: Mapping[str, str]
    blocks: tuple[Tensor, ...]
    inside: Tensor | None
    shape: torch.Size
    support: Constraint
    program: Program | str

    @classmethod
    def of(
        cls,
        law: Any,  # noqa: ANN401 (any distribution)
        site: Site,
        values: Tensor,
        reach: Reach,
        program: Program | str,
    ) -> "DiscreteSite":
        """The blocks and bounds that follow from where a site is felt."""
        shape, event = site.shape, values.dim() - 1
        elements = shape[: len(shape) - event]
        along = [len(law.batch_shape) + dim for dim in reach.parallel]
        rest = [k for k in range(len(elements)) if k not in along]
        # One row for each combination of the dimensions that are not parallel.
        rows = math.prod(elements[k] for k in rest)
        numbers = torch.arange(elements.numel()).reshape(elements)
        numbers = numbers.permute((*rest, *along)).reshape(rows, -1)
        if event:
            width = shape[len(elements) :].numel()
            numbers = numbers[..., None] * width + torch.arange(width)
        inside = None
        if isinstance(site.support, constraints.integer_interval):
            tried = values.reshape(-1, *[1] * len(elements)).expand(-1, *elements)
            checked = site.support.check(tried).reshape(len(values), -1).mT
            inside = None if bool(checked.all()) else checked
        blocks = tuple(numbers.to(values.device))
        return cls(values, *reach, blocks, inside, shape, site.support, program)

    def places(self, block: Block) -> Tensor | slice:
        """Where the elements of a block, or of a part of one, stand among those of `total`.

        Raises:
            ValueError: If they are of several blocks.
        """
        if any(block is own for own in self.blocks):
            return slice(None)
        every = torch.stack(self.blocks)  # (blocks, units, *event)
        row, place = torch.empty(2, self.shape.numel(), dtype=torch.int64, device=every.device)
        ones = [1] * (every.dim() - 2)
        row[every] = torch.arange(len(every), device=row.device).reshape(-1, 1, *ones)
        place[every] = torch.arange(every.shape[1], device=row.device).reshape(-1, *ones)
        units = torch.arange(self.shape.numel(), device=row.device)[block]
        units = units[:, 0] if ones else units
        if bool((row[units] != row[units[:1]]).any()):
            raise ValueError(
                "The elements of the block depend on each other, so that their joint law does not "
                "factorise. Ask for one of blocks(site)."
            )
        return place[units]

    def tried(self, value: Tensor, block: Block) -> Tensor:
        """Each value in the place of a block's own: (rows, *shape) -> (states, rows, *shape)."""
        chosen = torch.zeros(self.shape.numel(), dtype=torch.bool, device=value.device)
        chosen[block] = True
        states, *event = self.values.shape
        missing = [1] * (len(self.shape) - len(event))
        values = self.values.reshape(states, 1, *missing, *event)
        # What an element cannot have is left out by `inside`, but its law might not bear it.
        return bounded(self.support, torch.where(chosen.reshape(self.shape), values, value))

    def total(self, terms: Sites, rows: int = 0) -> Tensor:
        """The sum of terms for each combination of the parallel elements.

        Args:
            terms: Their entries, perhaps after dimensions of rows.
            rows: How many such dimensions there are; they are kept.
        """
        total: Any = 0.0
        least = max((-dim for dim in self.parallel), default=0)
        for value in terms.values():
            if value.dim() - rows < least:
                ones = [1] * (least + rows - value.dim())
                value = value.reshape(*value.shape[:rows], *ones, *value.shape[rows:])
            summed = [k for k in range(rows, value.dim()) if k - value.dim() not in self.parallel]
            total = total + (value.sum(summed) if summed else value)
        return total
