"""Draws as the diagnostics want them, from `Chains` and from any ArviZ object.

An ArviZ object, 0.23's `InferenceData` or 1.x's `DataTree`, is read as what both are: datasets
under the names of groups. ArviZ itself is not needed for it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import torch
from torch import Tensor

from pyro_ebm.kernels import Chains
from pyro_ebm.sites import Site, Sites
from pyro_ebm.statistics import tensor_of

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

Draws = Union[Chains, "InferenceData", "DataTree"]
DERIVED = ("model_energy", "magnetisation")  # what `to_arviz` adds to the posterior
OWN = "pyro_ebm"  # the library whose data they are derived in
NUMBERS = "biuf"  # kinds of arrays


class Material(NamedTuple):
    """What is judged."""

    sites: Sites  # (chain, draw, *shape); bool and integers where the site is discrete
    energy: Tensor | None  # (chain, draw), up to a constant
    statistics: Mapping[str, Tensor]  # (chain, draw, ...)
    known: Mapping[str, Site]  # what is known of the sites, where anything is
    left_out: tuple[str, ...]  # the variables that cannot be read
    round_trips: tuple[float, ...] = ()  # on each ladder since the warm-up, mean of chains
    independent: str = ""  # how, where draws are exact and independent by construction
    pinned: tuple[str, str] = ("", "")  # units that forbidden states hold in place, and by what

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
        ValueError: If there are no draws.
    """
    if isinstance(draws, Chains):
        statistics = draws.statistics
        said = said_of(draws.attributes)
        found = Material(draws.draws, -statistics["lp"], statistics, draws.sites, (), *said)
    else:
        found = read_groups(draws)
    if not found.sites and found.left_out:
        raise ValueError(
            f"There are no draws to judge: none of {', '.join(found.left_out)} is an array of "
            "numbers with the dimensions chain and draw."
        )
    if not found.sites or not found.chains:
        raise ValueError("There are no draws to judge; run the chains first.")
    return found


def read_groups(data: Any) -> Material:  # noqa: ANN401 (either ArviZ's)
    """From the groups `posterior` and `sample_stats`.

    Raises:
        TypeError: If there is no group `posterior`.
        ValueError: If the variables have different numbers of chains or draws.
    """
    try:
        group = data["posterior"]
        posterior, left_out = variables(group)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise TypeError(
            f"Wanted Chains or an ArviZ object with a group 'posterior'; got "
            f"{type(data).__name__}. arviz.from_dict makes one of arrays (chain, draw, ...)."
        ) from None
    try:
        statistics, others = variables(data["sample_stats"])
    except KeyError:
        statistics, others = {}, ()
    attributes = getattr(group, "attrs", {})
    own = attributes.get("inference_library") == OWN
    derived, said = (DERIVED, said_of(attributes)) if own else ((), ())
    sites = {name: value for name, value in posterior.items() if name not in derived}
    energy = None
    if derived and "model_energy" in posterior:
        energy = posterior["model_energy"]
    elif "lp" in statistics and statistics["lp"].dim() == 2:  # not term by term
        energy = -statistics["lp"].double()
    if len({value.shape[:2] for value in sites.values()}) > 1:
        raise ValueError("The variables of 'posterior' have different numbers of chains or draws.")
    return Material(sites, energy, statistics, {}, (*left_out, *others), *said)


def said_of(attributes: Mapping[str, Any]) -> tuple[tuple[float, ...], str, tuple[str, str]]:
    """What `run` has told: round trips, how draws are independent, and units held in place."""
    pinned = str(attributes.get("pinned", "")), str(attributes.get("pinned_by", ""))
    return round_trips_of(attributes), str(attributes.get("independent", "")), pinned


def round_trips_of(attributes: Mapping[str, Any]) -> tuple[float, ...]:
    """What `run` has counted on each ladder, which may be one of several kernels."""
    ending = "round_trips"
    return tuple(
        float(value)
        for name, value in attributes.items()
        if name == ending or name.endswith(f"_{ending}")
    )


def variables(group: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:  # noqa: ANN401 (xarray's)
    """The numeric variables of a dataset, chain and draw first; and the names of the others."""
    found, left_out = {}, []
    for name in group.data_vars:
        variable = group[name]
        if variable.dtype.kind not in NUMBERS or not {"chain", "draw"} <= set(variable.dims):
            left_out.append(str(name))
        elif variable.size or not variable.sizes["draw"]:
            array = variable.transpose("chain", "draw", ...).values
            found[str(name)] = whole_numbers(tensor_of(array, str(name)))
    return found, tuple(left_out)


def whole_numbers(value: Tensor) -> Tensor:
    """Real numbers that are all whole as integers: some samplers give discrete sites as floats."""
    if value.is_floating_point() and bool((value == value.round()).all()):
        small = bool((value.abs() < 2**31).all())
        return value.to(torch.int64) if small else value
    return value
