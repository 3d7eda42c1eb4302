"""Named tensors, and the checks at the door.

A state is a `dict` from site names to tensors. The value of a site has shape (*batch, *site.shape):
any batch dimensions lead (chains are one), the site's own follow. Inside, discrete values are
computed with in the dtype of the energy's parameters; `Chains` keeps them as small integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

Sites = dict[str, Tensor]  # name -> (*batch, *site.shape)


@dataclass(frozen=True)
class Site:
    """One named variable: where its values live, and its own shape without the batch.

    Args:
        support: The set of allowed values of one element.
        shape: The shape of one value, without batch dimensions.
    """

    support: Constraint
    shape: torch.Size


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
