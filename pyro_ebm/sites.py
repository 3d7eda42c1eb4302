"""Named tensors, and the checks at the door.

A state is a `dict` from site names to tensors. The value of a site has shape (*batch, *site.shape):
any batch dimensions lead (chains are one), the site's own follow. Inside, discrete values are
computed with in the dtype of the energy's parameters; `Chains` keeps them as small integers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

Sites = dict[str, Tensor]  # name -> (*batch, *site.shape)

LOWEST = 5  # integers without an upper bound, among which chains start

_trusting = ContextVar("trusting", default=False)


@contextmanager
def trusting() -> Iterator[None]:
    """Inside, doors look at shapes and types and not at numbers: vmap cannot ask a tensor of them.

    For passes over values that an unbatched pass has checked.
    """
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


def is_trusting() -> bool:
    """Whether a pass is going on that trusts numbers."""
    return _trusting.get()


def all_true(condition: Tensor) -> bool:
    """Whether a condition holds everywhere; taken to hold where values are trusted."""
    return _trusting.get() or bool(condition.all())


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


@dataclass(frozen=True)
class Site:
    """One named variable: where its values live, and its own shape without the batch.

    Args:
        support: The set of allowed values of one element.
        shape: The shape of one value, without batch dimensions.
    """

    support: Constraint
    shape: torch.Size


def storage_dtype(support: Constraint) -> torch.dtype | None:
    """The smallest integer dtype that holds a discrete support; None for a continuous one."""
    if not support.is_discrete:
        return None
    least, largest = (
        int(torch.as_tensor(getattr(support, bound, default)).max())
        for bound, default in (("lower_bound", 0), ("upper_bound", 1))
    )
    if not (hasattr(support, "upper_bound") or support in (boolean, spin)):
        return torch.int64
    for dtype in (torch.int8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= least and largest <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def random_values(site: Site, batch: Sequence[int], like: Tensor) -> Tensor:
    """Values (*batch, *site.shape) to start from, scattered over the support.

    Finite supports uniformly; integers with a lower bound only over the lowest five; continuous
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


def as_tensor(value: object, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A site's value as a tensor of the energy's dtype, from whatever array type came.

    Numpy arrays are taken in any layout (read-only and negative strides are copied); bool and
    integer values are converted, and a real dtype is converted to the energy's own.

    Raises:
        TypeError: If the value is no tensor or array of real numbers.
        ValueError: If the tensor lives on another device than the energy.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(
                f"{name!r} is an array of {value.dtype}; wanted bool, integers or real numbers."
            )
        value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name!r} is a {type(value).__name__}; wanted a torch tensor or a numpy array. "
            f"torch.as_tensor(...) makes one of a list or a DataFrame's values."
        )
    if value.dtype.is_complex:
        raise TypeError(f"{name!r} is complex; wanted bool, integers or real numbers.")
    if value.device != device:
        raise ValueError(
            f"{name!r} is on {value.device}, the energy on {device}. "
            f"Move one of them: value.to({str(device)!r}) or energy.to({str(value.device)!r})."
        )
    return value if value.dtype == dtype else value.to(dtype)


def check_shape(value: Tensor, name: str, site: Site) -> Tensor:
    """Refuses a value whose last dimensions are not the site's shape.

    Raises:
        ValueError: If they are not.
    """
    own = len(site.shape)
    if value.dim() < own or value.shape[value.dim() - own :] != site.shape:
        raise ValueError(
            f"{name!r} has shape {tuple(value.shape)}; wanted (*batch, "
            f"{', '.join(map(str, site.shape))}), the site's own shape last."
        )
    return value


def check_support(value: Tensor, name: str, site: Site) -> Tensor:
    """Refuses values that are not finite or lie outside the site's support.

    Raises:
        ValueError: If there is one; the message names it and, where one is known, the cure.
    """
    if is_inside(value, site.support):
        return value
    inside = site.support.check(value)
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name!r} contains NaN or infinite values; remove or impute them first.")
    raise ValueError(
        f"{name!r} contains {value[~inside].flatten()[0].item():g}, which is not in "
        f"{describe(site.support)}. {cure(value, site.support)}"
    )


def is_inside(value: Tensor, support: Constraint) -> bool:
    """Whether every element lies in the support; made for every call of a door."""
    if _trusting.get():
        return True
    if support in (boolean, spin) and value.is_floating_point() and value.numel():
        # x − x² = 0, or 1 − x² = 0: a fifth of the time of comparisons and `all`. Infinity gives
        # NaN or −∞, which are not 0.
        first = value if support is boolean else value.new_ones(())
        low, high = torch.addcmul(first, value, value, value=-1).aminmax()
        return bool(low == 0) and bool(high == 0)
    if isinstance(support, constraints.integer_interval) and value.numel():
        low, high = support.lower_bound, support.upper_bound
        if isinstance(low, int) and isinstance(high, int):
            least, largest = value.aminmax()  # half the time of a remainder and comparisons
            whole = bool((value == value.round()).all())
            return whole and bool(low <= least) and bool(largest <= high)
    if not bool(support.check(value).all()):
        return False
    # Infinity is in the real line of torch's constraints.
    return support.is_discrete or bool(value.isfinite().all())


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


def cure(value: Tensor, support: Constraint) -> str:
    """What to do about values outside a support."""
    if support is boolean and bool(spin.check(value).all()):
        return "These look like spins: use (x + 1) / 2, or a layer of Spin() units."
    if support is spin and bool(boolean.check(value).all()):
        return "These look like bits: use 2 * x - 1, or a layer of Bernoulli() units."
    if support in (boolean, spin):
        return "Binarise the data first, for example (x > threshold)."
    return "Only values in the support can be given."


def only_site(sites: Mapping[str, object], preferred: str | None) -> str:
    """The site that a bare tensor stands for.

    Raises:
        ValueError: If there are several sites, and none is named `preferred`.
    """
    if len(sites) == 1:
        return next(iter(sites))
    if preferred is not None and preferred in sites:
        return preferred
    raise ValueError(
        f"A bare tensor was given, but there are the sites {list(sites)}. "
        f"Give a dict, for example {{{next(iter(sites))!r}: tensor, ...}}."
    )


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


def check_names(x: Mapping[str, object], sites: Mapping[str, Site]) -> None:
    """Refuses unknown and missing site names.

    Raises:
        ValueError: If a name is unknown or missing.
    """
    if unknown := [name for name in x if name not in sites]:
        raise ValueError(f"Unknown sites {unknown}; the energy has {list(sites)}.")
    if missing := [name for name in sites if name not in x]:
        raise ValueError(f"Values are missing for the sites {missing}; given were {list(x)}.")
