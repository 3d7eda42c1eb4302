"""Arrays as ArviZ data, with ArviZ 0.23 and 1.x alike.

On Python 3.11 ArviZ is 0.23, whose data are an `InferenceData`; from 3.12 it is 1.x, whose data
are a `DataTree`. Both are xarray datasets under the names of groups, and that is all this file
makes. It knows numpy arrays only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

Attribute = str | int | float | bool

GROUPS = (
    "posterior",
    "sample_stats",
    "observed_data",
    "log_likelihood",
    "posterior_predictive",
    "warmup_posterior",
    "warmup_sample_stats",
)


def inference_data(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Sequence[str]],
    dims: Mapping[str, Mapping[str, Sequence[str]]],
    attributes: Mapping[str, Attribute],
) -> "InferenceData | DataTree":
    """Builds an ArviZ object; `data["posterior"]["x"].values` and `data.to_netcdf(path)` work.

    `to_arviz` makes it of chains and of Pyro's MCMC.

    Args:
        groups: For each group, its variables: (chain, draw, *shape), or (*shape) in
            `observed_data`. Dtypes are kept. Empty groups are left out.
        coords: The labels along a dimension.
        dims: For each group, the names of its variables' own dimensions, without chain and draw.
            A warm-up group has the names of the group that it warms up. Variables that are not
            named get ArviZ's names, `x_dim_0` and so on.
        attributes: What is to be known of the run, set on every group of draws. A bool becomes 0
            or 1, since NetCDF has no bool.

    Raises:
        ValueError: If a group is unknown to ArviZ, or names and labels do not fit the arrays.
        TypeError: If an attribute cannot be stored in NetCDF.

    Example:
        >>> import numpy as np
        >>> from pyro_ebm.diagnostics import inference_data
        >>> draws = {"posterior": {"x": np.zeros((4, 100))}}
        >>> data = inference_data(draws, coords={}, dims={}, attributes={"seed": 0})
        >>> dict(data["posterior"]["x"].sizes)
        {'chain': 4, 'draw': 100}
    """
    import arviz
    import xarray

    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(f"Unknown groups {unknown}; ArviZ data have {list(GROUPS)}.")
    plain = {name: storable(name, value) for name, value in attributes.items()}
    datasets = {}
    for group, variables in groups.items():
        if not variables:
            continue
        named = dims.get(group.removeprefix("warmup_"), {})
        columns = {
            name: (dimensions(group, name, value, named.get(name)), value)
            for name, value in variables.items()
        }
        sizes = {
            dim: size
            for names, value in columns.values()
            for dim, size in zip(names, value.shape, strict=True)
        }
        labels = {dim: labelled(dim, size, coords) for dim, size in sizes.items()}
        datasets[group] = xarray.Dataset(
            columns, coords=labels, attrs={} if group == "observed_data" else plain
        )
    if int(arviz.__version__.split(".")[0]) >= 1:
        return xarray.DataTree.from_dict(datasets)
    return arviz.InferenceData(attrs=None, warn_on_custom_groups=False, **datasets)


def dimensions(
    group: str, name: str, value: np.ndarray, own: Sequence[str] | None
) -> tuple[str, ...]:
    """The names of all dimensions of one variable.

    Raises:
        ValueError: If they are not as many as the array has.
    """
    sample = () if group == "observed_data" else ("chain", "draw")
    if own is None:
        own = [f"{name}_dim_{k}" for k in range(value.ndim - len(sample))]
    if len(sample) + len(own) != value.ndim:
        raise ValueError(
            f"{name!r} in {group!r} has shape {value.shape}; wanted the dimensions "
            f"{(*sample, *own)}."
        )
    return (*sample, *own)


def labelled(dim: str, size: int, coords: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The labels along a dimension: those given, or 0, 1, ...

    Raises:
        ValueError: If the labels given are not as many as the dimension is long.
    """
    labels = np.asarray(coords[dim]) if dim in coords else np.arange(size)
    if len(labels) != size:
        raise ValueError(f"{dim!r} has {len(labels)} labels, but a variable has {size} along it.")
    return labels


def storable(name: str, value: Attribute) -> str | int | float:
    """An attribute as NetCDF can hold it.

    Raises:
        TypeError: If it is none of str, int, float and bool.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if not isinstance(value, str | int | float):
        raise TypeError(
            f"The attribute {name!r} is a {type(value).__name__}; NetCDF holds str, int, float. "
            f"Write it as text: str(...)."
        )
    return value
