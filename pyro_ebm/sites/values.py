"""The values of a support: which there are, at random, as features, and how they are kept."""

from collections.abc import Sequence

import torch
from pyro.distributions.constraints import integer
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from .site import Site

LOWEST = 5  # integers without an upper bound, among which chains start


class SpinConstraint(Constraint):
    """Values in {-1, 1}."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Whether each element is -1 or 1."""
        return (value == -1) | (value == 1)

    def __repr__(self) -> str:
        return "Spin()"


boolean: Constraint = constraints.boolean
spin: Constraint = SpinConstraint()


def storage_dtype(support: Constraint) -> torch.dtype | None:
    """The smallest integer dtype that holds a discrete support; None for a continuous one."""
    if not support.is_discrete:
        return None
    least, largest = 0, 1
    if support not in (boolean, spin):
        if not (hasattr(support, "lower_bound") and hasattr(support, "upper_bound")):
            return torch.int64
        least = int(torch.as_tensor(support.lower_bound).min())
        largest = int(torch.as_tensor(support.upper_bound).max())
    for dtype in (torch.int8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= least and largest <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def random_values(site: Site, batch: Sequence[int], like: Tensor) -> Tensor:
    """Values (*batch, *site.shape) to start from, scattered over the support.

    Finite supports uniformly; integers with one bound over the five next to it; continuous
    supports from uniform numbers between -2 and 2 that are mapped to the support, as Pyro and Stan
    start.

    Raises:
        ValueError: If the support is another one of discrete values.
    """
    support, shape = site.support, (*batch, *site.shape)
    if support in (boolean, spin):
        bits = torch.rand(shape, dtype=like.dtype, device=like.device).round_()
        return 2 * bits - 1 if support is spin else bits
    if isinstance(support, constraints.integer_interval):
        low, high = (
            torch.as_tensor(bound, dtype=like.dtype, device=like.device)
            for bound in (support.lower_bound, support.upper_bound)
        )
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        # Rounding may bring a number just below 1 to the next integer.
        return torch.minimum((low + uniform * (high - low + 1)).floor(), high)
    if support is constraints.one_hot:
        label = torch.rand(shape, device=like.device).argmax(-1, keepdim=True)
        return torch.zeros(shape, dtype=like.dtype, device=like.device).scatter_(-1, label, 1)
    if support.is_discrete and hasattr(support, "lower_bound"):
        low = torch.as_tensor(support.lower_bound, dtype=like.dtype, device=like.device)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        return low + (uniform * LOWEST).floor_().clamp_(max=LOWEST - 1)
    if support.is_discrete and hasattr(support, "upper_bound"):
        high = torch.as_tensor(support.upper_bound, dtype=like.dtype, device=like.device)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        return high - (uniform * LOWEST).floor_().clamp_(max=LOWEST - 1)
    if support.is_discrete:
        raise ValueError(f"No random start is known for the support {describe(support)}.")
    to_support = biject_to(support)
    free = to_support.inverse_shape(torch.Size(shape))
    start = torch.empty(free, dtype=like.dtype, device=like.device).uniform_(-2, 2)
    return to_support(start)


def flat_features(x: Tensor, site: Site) -> Tensor:  # (*batch, *site.shape) -> (*batch, numbers)
    """What moments are taken of: numbers as they are, labels as one-hot vectors, in one row."""
    own = len(site.shape)
    flat = x.flatten(x.dim() - own) if own else x.unsqueeze(-1)
    if not isinstance(site.support, constraints.integer_interval):
        return flat
    low, high = (
        torch.as_tensor(bound, device=x.device).expand(site.shape).flatten()
        for bound in (site.support.lower_bound, site.support.upper_bound)
    )
    size = high - low + 1
    element = torch.arange(len(size), device=x.device).repeat_interleave(size)
    first = (size.cumsum(0) - size)[element]
    label = low[element] + torch.arange(len(element), device=x.device) - first
    return (flat[..., element] == label).to(x.dtype)


def describe(support: Constraint) -> str:
    """A support in words."""
    if support is boolean:
        return "{0, 1}"
    if support is spin:
        return "{-1, 1}"
    if isinstance(support, constraints.integer_interval):
        low, high = (torch.as_tensor(b) for b in (support.lower_bound, support.upper_bound))
        if low.dim() or high.dim():
            return f"its own range of labels, at most {{{int(low.min())}, …, {int(high.max())}}}"
        return f"{{{int(low)}, …, {int(high)}}}"
    return str(support)


def is_integer(support: Constraint) -> bool:
    """Whether values are integers, with or without bounds."""
    is_bounded = hasattr(support, "lower_bound") or hasattr(support, "upper_bound")
    is_number = support.is_discrete and support.event_dim == 0
    return is_number and (is_bounded or isinstance(support, type(integer)))


def is_endless(support: Constraint) -> bool:
    """Whether there are so many values that no law has each as likely."""
    return not support.is_discrete or (is_integer(support) and values_of(support) is None)


LARGEST = 1024  # values that are tried one by one


class ListedValues(Constraint):
    """Some listed values.

    Args:
        values: They (states, *event).
    """

    is_discrete = True

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.event_dim = values.dim() - 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each is one of them."""
        own = self.event_dim
        same = value.unsqueeze(value.dim() - own) == self.values
        return (same.flatten(same.dim() - own).all(-1) if own else same).any(-1)


def values_of(support: Constraint) -> Tensor | None:  # (states, *event), in float64
    """The values of one element of a support, in order; None where they cannot be listed.

    Where bounds differ from element to element, it is the values between the extreme ones.
    """
    if support in (boolean, spin):
        return torch.tensor([0.0, 1.0] if support is boolean else [-1.0, 1.0], dtype=torch.float64)
    if isinstance(support, constraints.integer_interval):
        low = int(torch.as_tensor(support.lower_bound).min())
        high = int(torch.as_tensor(support.upper_bound).max())
        return torch.arange(low, high + 1, dtype=torch.float64) if high - low < LARGEST else None
    if isinstance(support, ListedValues):
        return support.values.double()
    return None


def values_at(site: Site) -> Tensor | None:  # (states, *event), in float64
    """The values of one element of a site; None where they cannot be listed."""
    if site.support is constraints.one_hot:
        return torch.eye(site.shape[-1], dtype=torch.float64)
    return values_of(site.support)


def bounded(support: Constraint, value: Tensor) -> Tensor:  # (*batch, *shape) -> the same
    """Numbers that an element cannot have, where bounds differ, as the nearest that it can."""
    if not isinstance(support, constraints.integer_interval):
        return value
    low, high = (torch.as_tensor(b).to(value) for b in (support.lower_bound, support.upper_bound))
    return torch.minimum(torch.maximum(value, low), high)
