"""Named tensors, and the checks at the door.

A state is a `dict` from site names to tensors. The value of a site has shape (*batch, *site.shape):
any batch dimensions lead (chains are one), the site's own follow. Inside, discrete values are
computed with in the dtype of the energy's parameters; `Chains` keeps them as small integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

Sites = dict[str, Tensor]  # name -> (*batch, *site.shape)


@dataclass(frozen=True, eq=False)
class Site:
    """One named variable: where its values live, and its own shape without the batch.

    Sites are equal where they have the same values, whichever objects say so.

    Args:
        support: The set of allowed values of one element.
        shape: The shape of one value, without batch dimensions.

    Example:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from pyro_ebm import CallableEnergy, Site
        >>> pixels = Site(constraints.boolean, torch.Size([2, 2]))
        >>> energy = CallableEnergy(lambda x: -x.sum((-2, -1)), {"pixels": pixels})
        >>> energy({"pixels": torch.ones(3, 2, 2)})
        tensor([-4., -4., -4.])
    """

    support: Constraint
    shape: torch.Size

    def __eq__(self, other: object) -> bool:
        """Whether shape and support are the same."""
        if not isinstance(other, Site):
            return NotImplemented
        return self.shape == other.shape and same_support(self.support, other.support)

    def __hash__(self) -> int:
        """One number for all sites of a kind and shape."""
        return hash((type(self.support), self.shape))


def same_support(first: Constraint, second: Constraint) -> bool:
    """Whether two supports are of one kind, with the same numbers.

    A copy of an energy, or one that was read from a file, has support objects of its own, and torch
    compares these by identity.
    """
    if first is second:
        return True
    mine, yours = vars(first), vars(second)
    return (
        type(first) is type(second)
        and mine.keys() == yours.keys()
        and all(same_setting(value, yours[name]) for name, value in mine.items())
    )


def same_setting(first: Any, second: Any) -> bool:  # noqa: ANN401 (whatever a constraint holds)
    """Whether two settings of supports are equal; a number equals a tensor of that number."""
    if isinstance(first, Constraint) and isinstance(second, Constraint):
        return same_support(first, second)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same_setting, first, second))
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        mine, yours = (torch.as_tensor(value).cpu() for value in (first, second))
        alike = mine.shape == yours.shape or not mine.dim() or not yours.dim()
        return alike and bool((mine == yours).all())
    return bool(first == second)


def batch_shape(x: Sites, sites: Mapping[str, Site]) -> torch.Size:
    """The batch shape that the values share, by broadcasting.

    Raises:
        ValueError: If the batch shapes do not broadcast.
    """
    shapes = {
        name: value.shape[: value.dim() - len(sites[name].shape)] for name, value in x.items()
    }
    distinct = set(shapes.values())
    if len(distinct) == 1:
        return distinct.pop()  # torch's function takes as long as a small energy
    try:
        return torch.broadcast_shapes(*distinct)
    except RuntimeError:
        raise ValueError(
            "The batch shapes of the sites do not broadcast: "
            + ", ".join(f"{name!r} has {tuple(shape)}" for name, shape in shapes.items())
        ) from None


def covers(shape: torch.Size, batch: torch.Size) -> bool:
    """Whether a batch shape broadcasts to a shape."""
    try:
        return torch.broadcast_shapes(shape, batch) == shape
    except RuntimeError:
        return False


def unit_names(site: str, shape: torch.Size) -> list[str]:
    """visible[0], visible[1], ..."""
    if not shape:
        return [site]
    indices = torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, len(shape))
    return [f"{site}[{', '.join(map(str, index))}]" for index in indices.tolist()]
