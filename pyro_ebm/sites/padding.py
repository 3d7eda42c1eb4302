"""Labels of sequences of unequal length, of which those past the end never count."""

from typing import Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


class PaddedLabels(constraints.integer_interval):
    """The labels 0, …, q; past the end of its sequence an element is q, whatever was given there.

    Args:
        past_end: Which elements are past their sequence's end (*batch, steps).
        label: q.

    Example:
        >>> import torch
        >>> from pyro_ebm.sites import PaddedLabels
        >>> PaddedLabels(torch.tensor([False, False, True]), 2).settled(torch.tensor([1, 0, 0]))
        tensor([1, 0, 2])
    """

    def __init__(self, past_end: Tensor, label: int) -> None:
        super().__init__(0, label)
        self.past_end = past_end

    def settled(self, value: Tensor) -> Tensor:  # (*batch, steps) -> the same
        """The labels, with q past the end."""
        ended = self.past_end.to(value.device)
        return torch.where(ended, value.new_full((), self.upper_bound), value)

    def part(self, elements: Tensor) -> Self:
        """The support of some elements, by number."""
        return type(self)(self.past_end[..., elements.to(self.past_end.device)], self.upper_bound)


def settled(value: Tensor, support: Constraint) -> Tensor:
    """A value of a site in which the elements that never count are what they are known to be."""
    return support.settled(value) if isinstance(support, PaddedLabels) else value
