"""The values of a support: which there are, at random, as features, and how they are kept.

Whatever depends on the kind of a support is asked here. Supports are told apart by what they are,
not by which object they are: a copy of an energy has objects of its own.
"""

from collections.abc import Sequence

import torch
from pyro.distributions.constraints import integer
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from .padding import PaddedLabels
from .site import Site

LOWEST = 5  # integers without an upper bound, among which chains start
LARGEST = 1024  # values that are tried one by one
LONGEST = 2**24  # values of a unit that are listed at all

Levels = list[Tensor]  # the values (states, *event) of each unit of a site


class SpinConstraint(Constraint):
    """Values in {-1, 1}; `spin` is one.

    Example:
        >>> import torch
        >>> from pyro_ebm.sites import spin
        >>> spin.check(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([ True, False,  True])
    """

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Whether each element is -1 or 1."""
        return (value == -1) | (value == 1)

    def __repr__(self) -> str:
        return "Spin()"


class ListedValues(Constraint):
    """Some listed values.

    Args:
        values: They (states, *event).

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, Site, exact
        >>> from pyro_ebm.sites import ListedValues
        >>> dose = Site(ListedValues(torch.tensor([0.0, 0.5, 2.0])), torch.Size([]))
        >>> effect = CallableEnergy(lambda dose: (dose - 1) ** 2, {"dose": dose})
        >>> exact.moments(effect).mean["dose"]
        tensor([0.7429], dtype=torch.float64)
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

    def __repr__(self) -> str:
        return f"one of {self.values.tolist()}"


boolean: Constraint = constraints.boolean
spin: Constraint = SpinConstraint()


# --- of which kind a support is ------------------------------------------------------------------
def of_one_element(support: Constraint) -> Constraint:
    """The support of one element of an event of independent ones."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def two_values(support: Constraint) -> tuple[float, float] | None:
    """The lower and the higher value of bits and spins; None for any other support."""
    if isinstance(support, type(boolean)):
        return (0.0, 1.0)
    return (-1.0, 1.0) if isinstance(support, SpinConstraint) else None


def is_one_hot(support: Constraint) -> bool:
    """Whether values are vectors with one 1 among 0s."""
    return isinstance(support, type(constraints.one_hot))


def is_real(support: Constraint) -> bool:
    """Whether every real number is allowed, element by element."""
    return isinstance(of_one_element(support), type(constraints.real))


def is_integer(support: Constraint) -> bool:
    """Whether values are integers, with or without bounds."""
    is_bounded = hasattr(support, "lower_bound") or hasattr(support, "upper_bound")
    is_number = support.is_discrete and support.event_dim == 0
    return is_number and (is_bounded or isinstance(support, type(integer)))


def is_endless(support: Constraint) -> bool:
    """Whether there are so many values that no law has each as likely."""
    return not support.is_discrete or (is_integer(support) and values_of(support) is None)


def label_bounds(support: Constraint) -> tuple[Tensor, Tensor] | None:
    """The least and the largest label, () or of each element; None where values are no labels."""
    if not isinstance(support, constraints.integer_interval):
        return None
    return torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)


def part_of(support: Constraint, elements: Tensor) -> Constraint:
    """The support of some elements of a site, by number."""
    if isinstance(support, PaddedLabels):
        return support.part(elements)
    bounds = label_bounds(support)
    if bounds is None or not any(bound.dim() for bound in bounds):
        return support
    low, high = (b.flatten()[elements] if b.dim() else b for b in bounds)
    return constraints.integer_interval(low, high)


def describe(support: Constraint) -> str:
    """A support in words."""
    if two := two_values(support):
        low, high = map(int, two)
        return f"{{{low}, {high}}}"
    bounds = label_bounds(support)
    if bounds is None:
        return str(support)
    low, high = int(bounds[0].min()), int(bounds[1].max())
    if any(bound.dim() for bound in bounds):
        return f"its own range of labels, at most {{{low}, …, {high}}}"
    return f"{{{low}, …, {high}}}"


def in_words(name: str, site: Site) -> str:
    """A site in words: how many values of which kind, under its name."""
    kind, shape = kind_of(site.support), "×".join(map(str, site.shape))
    if not site.shape:
        return f"{name} ({kind[0]})"
    return f"{name} ({shape} {kind[1]})"


def kind_of(support: Constraint) -> tuple[str, str]:
    """What one value, and several values, of a support are called."""
    own = of_one_element(support)
    if isinstance(own, type(boolean)):
        return "bit", "bits"
    if isinstance(own, SpinConstraint):
        return "spin", "spins"
    if is_one_hot(own):
        return "one-hot vector", "one-hot vectors"
    if is_real(own):
        return "real number", "real numbers"
    bounds = label_bounds(own)
    if bounds is None:
        return f"of {own}", f"of {own}"
    low, high = int(bounds[0].min()), int(bounds[1].max())
    states = f"{high - low + 1} states"
    if any(bound.dim() for bound in bounds):
        states = f"at most {states}"
    return f"label of {states}", f"labels of {states}"


def storage_dtype(support: Constraint) -> torch.dtype | None:
    """The smallest integer dtype that holds a support of whole numbers; None for any other."""
    low, high = two_values(support) or (
        getattr(support, bound, None) for bound in ("lower_bound", "upper_bound")
    )
    if not (is_integer(support) or two_values(support) or is_one_hot(support)):
        return None  # what is discrete need not be whole
    if low is None or high is None:
        return torch.int64
    least = int(torch.as_tensor(low).min())
    largest = int(torch.as_tensor(high).max())
    for dtype in (torch.int8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= least and largest <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


# --- which values there are ----------------------------------------------------------------------
def values_of(support: Constraint) -> Tensor | None:  # (states, *event), in float64
    """The values of one element of a support, in order; None where they cannot be listed.

    Where bounds differ from element to element, it is the values between the extreme ones.
    """
    if two := two_values(support):
        return torch.tensor(two, dtype=torch.float64)
    if bounds := label_bounds(support):
        low, high = int(bounds[0].min()), int(bounds[1].max())
        return torch.arange(low, high + 1, dtype=torch.float64) if high - low < LARGEST else None
    return support.values.double() if isinstance(support, ListedValues) else None


def values_at(site: Site) -> Tensor | None:  # (states, *event), in float64
    """The values of one unit of a site; None where they cannot be listed."""
    if is_one_hot(site.support):
        return torch.eye(site.shape[-1], dtype=torch.float64)
    return values_of(site.support)


def levels_of(site: Site) -> Levels | None:
    """The values of each unit of a site, in order, in float64; None where they are too many.

    A unit is an element, or a vector of them where values are vectors.
    """
    bounds = label_bounds(site.support)
    if bounds is None:
        values = values_at(site)
        return None if values is None else [values] * units_of(site)
    low, high = (bound.cpu() for bound in bounds)
    if bool((high - low >= LONGEST).any()):
        return None
    pairs = torch.stack(torch.broadcast_tensors(low, high), -1).reshape(-1, 2).tolist()
    each = {(a, b): torch.arange(a, b + 1, dtype=torch.float64) for a, b in pairs}
    levels = [each[a, b] for a, b in pairs]
    return levels if low.dim() or high.dim() else levels * units_of(site)


def units_of(site: Site) -> int:
    """The number of units of a site."""
    return site.shape[: len(site.shape) - site.support.event_dim].numel()


def allowed_values(site: Site, values: Tensor) -> Tensor | None:  # (elements, states)
    """Which labels an element may have, where that differs from element to element."""
    bounds = label_bounds(site.support)
    if bounds is None or not any(bound.dim() for bound in bounds):
        return None
    tried = values.reshape(-1, *[1] * len(site.shape)).expand(-1, *site.shape)
    return site.support.check(tried).flatten(1).mT


def bounded(support: Constraint, value: Tensor) -> Tensor:  # (*batch, *shape) -> the same
    """Numbers that an element cannot have, where bounds differ, as the nearest that it can."""
    bounds = label_bounds(support)
    if bounds is None:
        return value
    low, high = (bound.to(value) for bound in bounds)
    return torch.minimum(torch.maximum(value, low), high)


# --- values as they are used ---------------------------------------------------------------------
def random_values(site: Site, batch: Sequence[int], like: Tensor) -> Tensor:
    """Values (*batch, *site.shape) to start from, scattered over the support.

    Finite supports uniformly; integers with one bound over the five next to it; continuous
    supports from uniform numbers between -2 and 2 that are mapped to the support, as Pyro and Stan
    start.

    Raises:
        ValueError: If the support is another one of discrete values.
    """
    support, shape = site.support, (*batch, *site.shape)
    if two := two_values(support):
        low, high = two
        bits = torch.rand(shape, dtype=like.dtype, device=like.device).round_()
        return (high - low) * bits + low
    if bounds := label_bounds(support):
        first, last = (bound.to(like) for bound in bounds)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        # Rounding may bring a number just below 1 to the next integer.
        return torch.minimum((first + uniform * (last - first + 1)).floor(), last)
    if is_one_hot(support):
        label = torch.rand(shape, device=like.device).argmax(-1, keepdim=True)
        return torch.zeros(shape, dtype=like.dtype, device=like.device).scatter_(-1, label, 1)
    if isinstance(support, ListedValues):
        units = site.shape[: len(site.shape) - support.event_dim]
        number = torch.randint(len(support.values), (*batch, *units), device=like.device)
        return support.values.to(like)[number]
    by_element = support.is_discrete and support.event_dim == 0
    if by_element and hasattr(support, "lower_bound"):
        first = torch.as_tensor(support.lower_bound, dtype=like.dtype, device=like.device)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        return first + (uniform * LOWEST).floor_().clamp_(max=LOWEST - 1)
    if by_element and hasattr(support, "upper_bound"):
        last = torch.as_tensor(support.upper_bound, dtype=like.dtype, device=like.device)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
        return last - (uniform * LOWEST).floor_().clamp_(max=LOWEST - 1)
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
    bounds = label_bounds(site.support)
    if bounds is None:
        return flat
    low, high = (bound.to(x.device).expand(site.shape).flatten() for bound in bounds)
    size = high - low + 1
    element = torch.arange(len(size), device=x.device).repeat_interleave(size)
    first = (size.cumsum(0) - size)[element]
    label = low[element] + torch.arange(len(element), device=x.device) - first
    return (flat[..., element] == label).to(x.dtype)
