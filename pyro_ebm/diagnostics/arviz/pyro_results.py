"""What Pyro's MCMC objects hold, as the arrays that ArviZ data are made of.

The posterior holds the sites of the model in its own space, discrete ones as integers. The model is
run once more for the observed data, and, where they are asked for, once for each draw for the
log-likelihood and the posterior predictive.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.api import StreamingMCMC
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import (
    Model,
    UnbatchedModelWarning,
    element_support,
    is_deterministic,
    is_factor,
    is_latent,
    random_pass,
)
from pyro_ebm.seeding import one_thread
from pyro_ebm.sites import Site, Sites, storage_dtype

ROWS = 1000  # draws that are passed through a model at once


class PyroResult(NamedTuple):
    """A result of Pyro's MCMC.

    Args:
        draws: By site (chain, draw, *shape), in the model's space.
        statistics: By name (chain, draw), `diverging` among them.
        model: The model with its arguments; None where the kernel has none.
        attributes: What is to be known of the run.
        warmup_draws: As `draws`, of the warm-up, where it was kept.
        warmup_statistics: As `statistics`, of the warm-up.
    """

    draws: Sites
    statistics: Sites
    model: Model | None
    attributes: dict[str, Any]
    warmup_draws: Sites
    warmup_statistics: Sites

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of chains and draws."""
        chains, draws = next(iter(self.statistics.values())).shape
        return chains, draws


def read_result(mcmc: Any) -> PyroResult:  # noqa: ANN401 (an AbstractMCMC, which has no draws)
    """What an MCMC object holds.

    Raises:
        TypeError: If it keeps no draws.
        ValueError: If it has not run.
    """
    if isinstance(mcmc, StreamingMCMC):
        raise TypeError("StreamingMCMC keeps no draws; use pyro.infer.MCMC or pyro_ebm.infer.MCMC.")
    if getattr(mcmc, "_samples", None) is None:
        raise ValueError("The MCMC object has no draws yet; call its run(...) first.")
    draws = mcmc.get_samples(group_by_chain=True)
    function = getattr(mcmc.kernel, "model", None)
    model = None if function is None else Model(function, tuple(mcmc._args), dict(mcmc._kwargs))
    chains = getattr(mcmc, "chains", None)  # of the library's own driver
    if chains is not None:
        statistics, before = chains.statistics, chains.warmup_statistics
        return PyroResult(draws, statistics, model, chains.attributes, mcmc.warmup_samples, before)
    attributes = {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "kernel": type(mcmc.kernel).__name__,
        "warmup": mcmc.warmup_steps,
    }
    return PyroResult(draws, {"diverging": divergences(mcmc, draws)}, model, attributes, {}, {})


def divergences(mcmc: Any, draws: Sites) -> Tensor:  # noqa: ANN401 (as `read_result`)
    """Which draws end a divergent trajectory; none where the kernel does not say."""
    count = next(iter(draws.values())).shape[:2] if draws else (mcmc.num_chains, mcmc.num_samples)
    diverging = torch.zeros(count, dtype=torch.bool)
    # Not mcmc.diagnostics(), which fails for integer sites.
    for chain, found in enumerate(mcmc._diagnostics):
        diverging[chain, list((found or {}).get("divergences", []))] = True
    return diverging


def integers(draws: Sites, nodes: Mapping[str, Any]) -> Sites:
    """The draws with those of discrete sites as integers."""
    kept = {}
    for name, value in draws.items():
        law = nodes[name]["fn"] if name in nodes else None
        support = element_support(law) if law is not None else None
        dtype = storage_dtype(support) if support is not None else None
        if dtype is not None and value.numel() and int(value.max()) > torch.iinfo(dtype).max:
            dtype = torch.int64  # another pass had other bounds
        kept[name] = value if dtype is None else value.to(dtype)
    return kept


def site_of(name: str, draws: Tensor, nodes: Mapping[str, Any]) -> Site:
    """A site in the model's space."""
    support = element_support(nodes[name]["fn"]) if name in nodes else constraints.real
    return Site(support, draws.shape[2:])


def nodes_of(model: Model) -> dict[str, Any]:
    """The sample sites of one pass, without a change of the generators."""
    with one_thread(), torch.random.fork_rng(), pyro.validation_enabled(False):
        return random_pass(model)


def observed_names(nodes: Mapping[str, Any]) -> list[str]:
    """The sites that hold data: no factors, no deterministic values."""
    return [
        name
        for name, msg in nodes.items()
        if msg["is_observed"]
        and not site_is_subsample(msg)
        and not is_deterministic(msg)
        and not is_factor(msg)
    ]


def log_likelihood(model: Model, draws: Sites, names: Sequence[str]) -> Sites:
    """ln p of each observation given the draws, (chain, draw, *batch) by observed site.

    Raises:
        ValueError: If the model has latent sites of which there are no draws.
    """
    nodes = nodes_of(model)
    if summed := [name for name, msg in nodes.items() if is_latent(msg) and name not in draws]:
        raise ValueError(
            f"The log-likelihood needs draws of every latent site, and {summed} were summed out. "
            f"Draw them with pyro.infer.infer_discrete, or leave log_likelihood out."
        )
    wanted = frozenset(names)

    def terms(x: Sites) -> Sites:
        return model.at(x, frozenset(), wanted).terms

    return for_each_draw(terms, draws, "error")


class Redrawn(Messenger):
    """Draws observed sites anew.

    Args:
        names: The sites.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names
        self.values: Sites = {}

    def _pyro_sample(self, msg: Any) -> None:  # noqa: ANN401 (Pyro's message)
        if msg["name"] in self.names:
            # Not by a call of the law, which prefers rsample, which vmap cannot take.
            msg["value"], msg["done"] = msg["fn"].sample(), True
            self.values[msg["name"]] = msg["value"]


def posterior_predictive(model: Model, draws: Sites, names: Sequence[str]) -> Sites:
    """New data given each of the draws, (chain, draw, *shape) by observed site."""

    def predict(x: Sites) -> Sites:
        with Redrawn(names) as handler:
            poutine.condition(model.function, x)(*model.args, **model.kwargs)
        return handler.values

    with pyro.validation_enabled(False), warnings.catch_warnings():
        # Few samplers of torch can be batched: draw by draw is nothing to be told of.
        warnings.simplefilter("ignore", UnbatchedModelWarning)
        return for_each_draw(predict, draws, "different")


@torch.no_grad()
def for_each_draw(function: Callable[[Sites], Sites], draws: Sites, randomness: str) -> Sites:
    """A function of one draw for all of them: (chain, draw, ...) by name."""
    shape = next(iter(draws.values())).shape[:2]
    rows = {name: value.flatten(0, 1) for name, value in draws.items()}
    batched = torch.func.vmap(function, randomness=randomness, chunk_size=ROWS)
    try:
        found = batched(rows)
    except Exception as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        warnings.warn(
            f"The model cannot be batched over draws, which are passed through it one after "
            f"another: {reason}",
            UnbatchedModelWarning,
            stacklevel=2,
        )
        each = [function({n: v[k] for n, v in rows.items()}) for k in range(shape.numel())]
        found = {name: torch.stack([row[name] for row in each]) for name in each[0]}
    return {name: value.reshape(shape + value.shape[1:]) for name, value in found.items()}
