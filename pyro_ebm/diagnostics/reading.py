"""Draws as the diagnostics want them, from `Chains` and from any ArviZ object.

An ArviZ object, 0.23's `InferenceData` or 1.x's `DataTree`, is read as what both are: datasets
under the names of groups. ArviZ itself is not needed for it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import torch
from torch import Tensor

from pyro_ebm.kernels import Chains
from pyro_ebm.sites import Sites

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

Draws = Union[Chains, "InferenceData", "DataTree"]
DERIVED = ("model_energy", "magnetisation")  # what `to_arviz` adds to the posterior


class Material(NamedTuple):
    """What is judged."""

    sites: Sites  # (chain, draw, *shape); bool and integers where the site is discrete
    energy: Tensor | None  # (chain, draw), up to a constant
    statistics: Mapping[str, Tensor]  # (chain, draw)

    @property
    def chains(self) -> int:
        """The number of chains."""
        return next(iter(self.sites.values())).shape[0]

    @property
    def draws(self) -> int:
        """The number of draws of each chain."""
        return next(iter(self.sites.values())).shape[1]


def read(draws: Draws) -> Material:
    """The sites, the energy and the statistics.

    Raises:
        TypeError: If it is neither chains nor an ArviZ object.
        ValueError: If there are no draws, or variables are not (chain, draw, ...).
    """
    if isinstance(draws, Chains):
        found = Material(draws.draws, -draws.statistics["lp"], draws.statistics)
    else:
        found = read_groups(draws)
    if not found.sites or 0 in (found.chains, found.draws):
        raise ValueError("There are no draws to judge; run the chains first.")
    return found


def read_groups(data: Any) -> Material:  # noqa: ANN401 (either ArviZ's)
    """From the groups `posterior` and `sample_stats`.

    Raises:
        TypeError: If there is no group `posterior`.
        ValueError: If a variable is not (chain, draw, ...).
    """
    try:
        posterior = variables(data["posterior"])
    except (KeyError, TypeError, AttributeError, IndexError):
        raise TypeError(
            f"Wanted Chains or an ArviZ object with a group 'posterior'; got "
            f"{type(data).__name__}. arviz.from_dict makes one of arrays (chain, draw, ...)."
        ) from None
    try:
        statistics = variables(data["sample_stats"])
    except KeyError:
        statistics = {}
    energy = posterior.get("model_energy")
    if energy is None and "lp" in statistics:
        energy = -statistics["lp"].double()
    sites = {name: value for name, value in posterior.items() if name not in DERIVED}
    if len({value.shape[:2] for value in sites.values()}) > 1:
        raise ValueError("The variables of 'posterior' have different numbers of chains or draws.")
    return Material(sites, energy, statistics)


def variables(group: Any) -> dict[str, Tensor]:  # noqa: ANN401 (xarray's)
    """The numeric variables of a dataset, chain and draw first.

    Raises:
        ValueError: If a variable lacks one of them.
    """
    found = {}
    for name in group.data_vars:
        variable = group[name]
        if variable.dtype.kind not in "biuf" or variable.size == 0:
            continue
        if not {"chain", "draw"} <= set(variable.dims):
            raise ValueError(
                f"{name!r} has the dimensions {tuple(variable.dims)}; wanted chain and draw among "
                "them."
            )
        array = np.ascontiguousarray(variable.transpose("chain", "draw", ...).values)
        found[str(name)] = whole_numbers(torch.from_numpy(np.array(array)))
    return found


def whole_numbers(value: Tensor) -> Tensor:
    """Real numbers that are all whole as integers: some samplers give discrete sites as floats."""
    if value.is_floating_point() and bool((value == value.round()).all()):
        small = bool((value.abs() < 2**31).all())
        return value.to(torch.int64) if small else value
    return value
