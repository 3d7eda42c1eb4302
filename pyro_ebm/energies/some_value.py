"""A value of a site, to ask an energy for."""

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_ebm.sites import Site, describe, values_at


def some_value(name: str, site: Site, like: Tensor) -> Tensor:  # (*site.shape)
    """A value of a site, always the same one.

    Raises:
        ValueError: If none is known.
    """
    support = site.support
    if support.is_discrete and hasattr(support, "lower_bound"):
        return torch.as_tensor(support.lower_bound).to(like).expand(site.shape)
    listed = values_at(site)
    if listed is not None:
        return listed[0].to(like).expand(site.shape)
    try:
        to_support = biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"No value of {name!r} is known, which is {describe(support)}; wanted bits, spins, "
            f"labels, one-hot vectors, or a continuous support that torch's biject_to knows."
        ) from None
    return to_support(like.new_zeros(to_support.inverse_shape(site.shape)))
