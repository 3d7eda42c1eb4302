"""The checks of given values: names, shapes, types and supports."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_ebm.stopping import at_last

from .padding import settled
from .site import Site
from .values import boolean, describe, spin, two_values

_trusting = ContextVar("trusting", default=False)

SHORT = (torch.float16, torch.bfloat16)  # three digits: a probability of 0.001 off in each draw


@contextmanager
def trusting() -> Iterator[None]:
    """Inside, doors look at shapes and types and not at numbers: vmap cannot ask a tensor of them.

    For passes over values that an unbatched pass has checked.
    """
    before = _trusting.get()
    with at_last(lambda: _trusting.set(before)):
        _trusting.set(True)
        yield


def is_trusting() -> bool:
    """Whether a pass is going on that trusts numbers."""
    return _trusting.get()


def all_true(condition: Tensor) -> bool:
    """Whether a condition holds everywhere; taken to hold where values are trusted."""
    return _trusting.get() or bool(condition.all())


def require_numbers(value: Tensor, name: str) -> None:
    """Refuses a tensor whose numbers are not all there.

    Raises:
        TypeError: If it is sparse or compressed, or a shape on the device `meta`.
    """
    if value.layout != torch.strided:
        raise TypeError(f"{name} is a sparse tensor; wanted a dense one, as .to_dense() makes it.")
    if value.is_meta:
        raise TypeError(
            f"{name} is on the device meta, which keeps shapes and no numbers; make it on the CPU "
            f"or another device, for example torch.zeros(..., device='cpu')."
        )


def array_of(value: object) -> object:
    """A table or an array of another library as a NumPy array; anything else as it is."""
    if isinstance(value, Tensor | np.ndarray | list | tuple | str | bytes):
        return value
    # What DataFrames and arrays of other libraries have; a matrix of scipy.sparse has not.
    return np.asarray(value) if hasattr(value, "__array__") else value


def cure_of(value: object, name: str) -> str:
    """How to make a tensor of something that is none, given as the value of a site."""
    if hasattr(value, "toarray"):
        return "Give value.toarray(), which is dense."
    if isinstance(value, DataLoader):
        rows = rows_of_set(value.dataset, "loader.dataset")
        return f"Give the rows themselves, {rows}; fit makes minibatches by batch_size."
    if isinstance(value, Dataset):
        tensors = isinstance(value, TensorDataset)
        rows = "dataset.tensors[0]" if tensors else rows_of_set(value, "dataset")
        return f"Give the rows themselves, {rows}."
    if hasattr(value, "__next__"):
        return (
            "Give the rows as one tensor, torch.stack(list(rows)), or torch.cat(list(batches)); "
            "fit makes minibatches by batch_size."
        )
    if isinstance(value, Mapping):
        names = list(value)
        own = name if name in value or not names else names[0]
        return f"Give the tensor of one site itself, value[{own!r}]."
    return "torch.tensor(...) makes one of a list; torch.as_tensor(...) of what has numbers."


def require_precision(dtype: torch.dtype) -> None:
    """Refuses an energy of half precision.

    Raises:
        TypeError: If it is one.
    """
    if dtype in SHORT:
        raise TypeError(
            f"The energy is in {dtype}, whose rounding changes the law that is sampled; wanted "
            f"float32 or float64, for example energy.float()."
        )


def rows_of_set(dataset: object, name: str) -> str:
    """What makes one tensor of the rows of a data set, or of what stands first in each."""
    if isinstance(dataset, Tensor):
        return name
    first = next(iter(cast("Iterable[object]", dataset)), None)
    if isinstance(first, tuple | list):
        return f"torch.stack([row for row, *_ in {name}])"
    return f"torch.stack([torch.as_tensor(row) for row in {name}])"


def as_tensor(value: object, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A site's value as a tensor of the energy's dtype, from whatever array type came.

    Numpy arrays are taken in any layout (read-only and negative strides are copied), and so are
    DataFrames and whatever else turns into an array; bool and integer values are converted, and a
    real dtype is converted to the energy's own.

    Raises:
        TypeError: If the value is no tensor or array of real numbers, or the energy's dtype is one
            of half precision.
        ValueError: If the tensor lives on another device than the energy.
    """
    require_precision(dtype)
    value = array_of(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(
                f"{name!r} is an array of {value.dtype}; wanted bool, integers or real numbers."
            )
        value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name!r} is a {type(value).__name__}; wanted a torch tensor or an array. "
            f"{cure_of(value, name)}"
        )
    if value.dtype.is_complex:
        raise TypeError(f"{name!r} is complex; wanted bool, integers or real numbers.")
    if value.device != device:
        raise ValueError(
            f"{name!r} is on {value.device}, the energy on {device}. "
            f"Move one of them: value.to({str(device)!r}) or energy.to({str(value.device)!r}); "
            f"what is on meta has no numbers, and is made anew."
        )
    require_numbers(value, repr(name))
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

    Elements that never count may be anything: they are set.

    Raises:
        ValueError: If there is one; the message names it and, where one is known, the cure.
    """
    value = settled(value, site.support)
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
    two = two_values(support)
    if two and value.is_floating_point() and value.numel():
        # x − x² = 0, or 1 − x² = 0: a fifth of the time of comparisons and `all`. Infinity gives
        # NaN or −∞, which are not 0.
        first = value.new_ones(()) if two[0] else value
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


def cure(value: Tensor, support: Constraint) -> str:
    """What to do about values outside a support."""
    two = two_values(support)
    if two == (0.0, 1.0) and bool(spin.check(value).all()):
        return "These look like spins: use (x + 1) / 2, or a layer of Spin() units."
    if two == (-1.0, 1.0) and bool(boolean.check(value).all()):
        # Not 2 * x, which stays in the dtype of the data: unsigned ones have no -1.
        return "These look like bits: use 2.0 * x - 1, or a layer of Bernoulli() units."
    if two:
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


def check_names(x: Mapping[str, object], sites: Mapping[str, Site]) -> None:
    """Refuses unknown and missing site names.

    Raises:
        ValueError: If a name is unknown or missing.
    """
    if unknown := [name for name in x if name not in sites]:
        raise ValueError(f"Unknown sites {unknown}; the energy has {list(sites)}.")
    if missing := [name for name in sites if name not in x]:
        raise ValueError(f"Values are missing for the sites {missing}; given were {list(x)}.")
