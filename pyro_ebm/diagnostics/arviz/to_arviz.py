r"""Chains, and every result of Pyro's MCMC, as ArviZ data.

`posterior` holds the sites and two quantities derived from them: `model_energy`, E(x), and
`magnetisation`, the mean spin of each two-valued site, with its sign. R-hat of the energy is blind
to broken symmetry (chains trapped at ±m have the same energy), R-hat of the magnetisation is not.
`sample_stats` holds `lp` = -E(x), which is log p(x) up to log Z, and what the kernel reports. The
model's energy is never stored there as `energy`: that name means a Hamiltonian's, and ArviZ would
judge it as one.

Of a Pyro model the sites are in the model's own space, discrete ones as integers, and the data that
it observes are kept beside them; a statement with `obs_mask` has its own name, under which observed
and imputed elements are joined. `lp` and `model_energy` are there where the library's own driver
made the draws, and belong to unconstrained space.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pyro.infer.mcmc.api import AbstractMCMC
from torch import Tensor

from pyro_ebm.energies import joined
from pyro_ebm.sites import (
    Site,
    Sites,
    check_shape,
    check_support,
    only_site,
    storage_dtype,
    two_values,
)

from . import pyro_results
from .inference_data import Attribute, inference_data

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

    from pyro_ebm.kernels import Chains

Extra = Literal["log_likelihood", "posterior_predictive"]

COMPUTED = {
    "log_likelihood": pyro_results.log_likelihood,
    "posterior_predictive": pyro_results.posterior_predictive,
}
RESERVED = ("chain", "draw", "row", "site", "model_energy", "magnetisation")


def to_arviz(
    source: "Chains | AbstractMCMC",
    *,
    feature_names: Mapping[str, Sequence[str]] | None = None,
    observed_data: Tensor | Sites | None = None,
    include: Collection[Extra] = (),
    posterior_predictive: Mapping[str, Tensor] | None = None,
) -> "InferenceData | DataTree":
    """Chains as ArviZ data, an `InferenceData` (ArviZ 0.23) or a `DataTree` (1.x).

    `chains.to_arviz()` is the same.

    Args:
        source: What `run` returned; or an MCMC object after its run: Pyro's own, with whatever
            kernel, or the library's.
        feature_names: For a site with one dimension, the names of its units. They become the
            labels of its dimension, `visible_dim` for the site `visible`.
        observed_data: Data to keep beside the draws, (rows, *site.shape) for each site given. A
            bare tensor stands for the only site, or for `visible`. A Pyro model has its own.
        include: What of a Pyro model is computed besides, for each draw: `"log_likelihood"`, of
            each observed site (factors are none), `"posterior_predictive"`, or both.
        posterior_predictive: Draws of a Pyro model's data made elsewhere, as `Predictive` returns
            them, (chain · draw, *shape), or (chain, draw, *shape).

    Raises:
        ValueError: If the names or the data do not fit the sites, or a site has a name that
            stands for something else in ArviZ data; if an MCMC object has not run; or if a
            log-likelihood is asked for of a model with summed sites.
        TypeError: If the source keeps no draws, or what is asked for needs a model.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, run, to_arviz
        >>> chains = run(Gibbs(), BoltzmannMachine.restricted(3, 2), 20, warmup=5, seed=0)
        >>> data = to_arviz(chains, feature_names={"visible": ["a", "b", "c"]})
        >>> dict(data["posterior"]["visible"].sizes)
        {'chain': 4, 'draw': 20, 'visible_dim': 3}
    """
    if isinstance(source, AbstractMCMC):
        if observed_data is not None:
            raise TypeError("observed_data was given, but a Pyro model has its own.")
        return pyro_to_arviz(source, feature_names or {}, include, posterior_predictive or {})
    if include or posterior_predictive:
        raise TypeError(
            "include and posterior_predictive belong to MCMC objects with a Pyro model; the chains "
            "of an energy have no data of their own."
        )
    if not all(hasattr(source, name) for name in ("sites", "draws", "statistics", "attributes")):
        raise TypeError(
            f"to_arviz was given a {type(source).__name__}; wanted what `run` returned, or an MCMC "
            f"object after its run."
        )
    chains = source
    sites = {name: chains.sites[name] for name in chains.draws}
    observed = {} if observed_data is None else observed_sites(observed_data, sites)
    groups = {
        "posterior": posterior(chains.draws, chains.statistics, sites),
        "sample_stats": sample_stats(chains.statistics),
        "observed_data": {name: values_as_array(value) for name, value in observed.items()},
    }
    if chains.warmup_draws:
        groups["warmup_posterior"] = posterior(chains.warmup_draws, chains.warmup_statistics, sites)
        groups["warmup_sample_stats"] = sample_stats(chains.warmup_statistics)
    named = {n: ["row", *own_dimensions(n, sites[n])] for n in observed}
    attributes = {"inference_library": "pyro_ebm", **chains.attributes}
    return assembled(groups, sites, feature_names or {}, {"observed_data": named}, attributes)


def assembled(
    groups: dict[str, dict[str, np.ndarray]],
    sites: Mapping[str, Site],
    feature_names: Mapping[str, Sequence[str]],
    dims: dict[str, dict[str, list[str]]],
    attributes: Mapping[str, Attribute],
) -> "InferenceData | DataTree":
    """The data, with the names of the sites' dimensions.

    Raises:
        ValueError: If a site has a name that stands for something else.
    """
    if taken := [name for name in sites if name in RESERVED]:
        raise ValueError(
            f"The sites {taken} cannot be stored: these names are the dimensions and derived "
            f"quantities of the ArviZ data ({', '.join(RESERVED)}). Rename the sites."
        )
    labels = unit_labels(feature_names, sites)
    own = {name: own_dimensions(name, site) for name, site in sites.items()}
    return inference_data(
        groups,
        coords={"site": two_valued(sites), **labels},
        dims={"posterior": {**own, "magnetisation": ["site"]}, **dims},
        attributes=attributes,
    )


def pyro_to_arviz(
    mcmc: AbstractMCMC,
    feature_names: Mapping[str, Sequence[str]],
    include: Collection[Extra],
    given: Mapping[str, Tensor],
) -> "InferenceData | DataTree":
    """A result of Pyro's MCMC as ArviZ data."""
    result = pyro_results.read_result(mcmc)
    if unknown := [name for name in include if name not in COMPUTED]:
        raise ValueError(f"include has {unknown}; it may have {list(COMPUTED)}.")
    nodes = {} if result.model is None else pyro_results.nodes_of(result.model)
    observed = pyro_results.observed_names(nodes)
    whole, kinds = joined(result.draws, nodes)
    draws = pyro_results.integers(whole, kinds)
    warmup = pyro_results.integers(joined(result.warmup_draws, nodes)[0], kinds)
    sites = {name: pyro_results.site_of(name, v, kinds) for name, v in draws.items()}
    chain, draw = result.shape
    groups = {
        "posterior": posterior(draws, result.statistics, sites),
        "sample_stats": sample_stats(result.statistics),
        "observed_data": {n: values_as_array(nodes[n]["value"]) for n in observed},
        "posterior_predictive": {
            n: values_as_array(v if v.shape[:2] == (chain, draw) else v.unflatten(0, (chain, draw)))
            for n, v in given.items()
        },
    }
    if include:
        if result.model is None or not observed:
            raise TypeError(f"{list(include)} was asked for, but there is no model with data.")
        for name in include if draw else ():  # of no draws there is nothing to compute
            found = COMPUTED[name](result.model, result.draws, observed)
            groups[name] = {**groups.get(name, {}), **{n: as_array(v) for n, v in found.items()}}
    if warmup:
        groups["warmup_posterior"] = posterior(warmup, result.warmup_statistics, sites)
        groups["warmup_sample_stats"] = sample_stats(result.warmup_statistics)
    return assembled(groups, sites, feature_names, {}, result.attributes)


def posterior(
    draws: Sites, statistics: Mapping[str, Tensor], sites: Mapping[str, Site]
) -> dict[str, np.ndarray]:
    """The sites and what is derived from them, (chain, draw, ...) each."""
    variables = dict(draws)
    if "lp" in statistics:
        variables["model_energy"] = -statistics["lp"]
    if names := two_valued(sites):
        spins = [magnetisation(draws[name], sites[name]) for name in names]
        variables["magnetisation"] = torch.stack(spins, -1)
    return {name: values_as_array(value) for name, value in variables.items()}


def sample_stats(statistics: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The kernel's statistics, with `diverging` always among them."""
    never = torch.zeros_like(next(iter(statistics.values())), dtype=torch.bool)
    return {name: as_array(value) for name, value in {"diverging": never, **statistics}.items()}


def two_valued(sites: Mapping[str, Site]) -> list[str]:
    """The sites whose units are bits or spins."""
    return [name for name, site in sites.items() if two_values(site.support)]


def magnetisation(draws: Tensor, site: Site) -> Tensor:  # (chain, draw, *shape) -> (chain, draw)
    """The mean over units of the spin: -1 for the lower value of a unit, 1 for the higher."""
    mean = draws.reshape(*draws.shape[:2], site.shape.numel()).mean(-1, dtype=torch.float64)
    low, high = two_values(site.support) or (-1.0, 1.0)
    return (2 * mean - (low + high)) / (high - low)


def own_dimensions(name: str, site: Site) -> list[str]:
    """The names of a site's own dimensions."""
    if len(site.shape) == 1:
        return [f"{name}_dim"]
    return [f"{name}_dim_{k}" for k in range(len(site.shape))]


def unit_labels(
    feature_names: Mapping[str, Sequence[str]], sites: Mapping[str, Site]
) -> dict[str, list[str]]:
    """The names of units as labels of their site's dimension.

    Raises:
        ValueError: If a site is unknown or has not exactly one dimension, or if its names are not
            as many as its units, or not all different.
    """
    labels = {}
    for name, names in feature_names.items():
        if name not in sites:
            raise ValueError(
                f"feature_names has the unknown site {name!r}; the chains have {list(sites)}."
            )
        shape = tuple(sites[name].shape)
        if len(shape) != 1:
            raise ValueError(
                f"feature_names has names for {name!r}, whose shape is {shape}; wanted a site "
                "with one dimension. Leave it out."
            )
        if len(names) != shape[0]:
            raise ValueError(
                f"feature_names has {len(names)} names for {name!r}, which has {shape[0]} units; "
                "give one name for each unit, in their order."
            )
        count = Counter(str(label) for label in names)
        if twice := [label for label in count if count[label] > 1]:
            raise ValueError(
                f"feature_names has the same name for several units of {name!r}: {twice}; make "
                "them different, for example by their number."
            )
        labels[f"{name}_dim"] = list(count)
    return labels


def observed_sites(observed: Tensor | Sites, sites: Mapping[str, Site]) -> Sites:
    """The data site by site, (rows, *shape) each, in the dtype that draws are kept in.

    Raises:
        ValueError: If a site is unknown, or the data have a wrong shape or values outside its
            support.
    """
    if isinstance(observed, Tensor):
        observed = {only_site(sites, "visible"): observed}
    stored = {}
    for name, value in observed.items():
        if name not in sites:
            raise ValueError(
                f"observed_data has the unknown site {name!r}; the chains have {list(sites)}."
            )
        site = sites[name]
        check_support(check_shape(value, name, site), name, site)
        if value.dim() != 1 + len(site.shape):
            raise ValueError(
                f"observed_data has shape {tuple(value.shape)} for {name!r}; wanted "
                f"{('rows', *site.shape)}. A single row is x[None]."
            )
        stored[name] = value.to(storage_dtype(site.support) or value.dtype)
    return stored


def as_array(value: Tensor) -> np.ndarray:
    """A tensor as a numpy array of its dtype."""
    return value.detach().cpu().numpy()


def values_as_array(value: Tensor) -> np.ndarray:
    """Values of a site as a numpy array, integers in NumPy's own width.

    Draws are kept as small integers, whose products and sums wrap: 120 + 10 is -126 in int8.
    """
    is_whole = not (value.is_floating_point() or value.dtype == torch.bool)
    return as_array(value.long() if is_whole else value)
