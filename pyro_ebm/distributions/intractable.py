"""When a normaliser that nobody knows would matter.

p(x | θ) = exp(−E(x; θ)) / Z(θ). Where θ is fixed, Z is a constant, which no inference needs. Where
θ is a latent variable or is being learned, −log Z(θ) is part of its log-probability, and leaving it
out gives a wrong posterior without any sign of it.

What the energy depends on is read off the graph that autograd has recorded: closures, wrappers,
conditional networks and matrices assembled in place all end in it. It is read at every evaluation,
so nothing is remembered that could grow old. What leaves no trace there is found by comparing two
runs of the model, once: comparison.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.escape_messenger import EscapeMessenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from pyro_ebm.energies import Energy

from . import comparison
from .comparison import Run

Edge = tuple[Any, int]  # a node of autograd's graph, and which of its outputs


class IntractableNormalizerError(RuntimeError):
    """A log-probability needs a log Z that is not there; the message says why, and what to do.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine
        >>> from pyro_ebm.distributions import EnergyDistribution, IntractableNormalizerError
        >>> law = EnergyDistribution(BoltzmannMachine.restricted(100, 100))
        >>> try:
        ...     law.log_prob(torch.ones(100))
        ... except IntractableNormalizerError:
        ...     print("estimate log Z and give it as log_partition=..., or do without")
        estimate log Z and give it as log_partition=..., or do without
    """

    # Not a ValueError: Pyro turns those into others while it computes log-probabilities.


@dataclass(frozen=True)
class Dependence:
    """Something that a log-probability depends on.

    Args:
        description: What it is, in words.
        is_latent: Whether it is a latent variable; else it is being learned.
    """

    description: str
    is_latent: bool


@dataclass
class Context:
    """The run of a model or guide in which a distribution was made.

    Args:
        trace: The sites of the run; None outside of one, and once it has been looked at.
        is_replayed: Whether it is a model whose latent values come from a guide.
        run: How the model was called, where that can be seen.
        name: The distribution's site, once it is known.
        sites: Where the values of the run's sites stand in autograd's graph, once it is known.
    """

    trace: Trace | None
    is_replayed: bool
    run: Run | None = None
    name: str | None = None
    sites: dict[Edge, Dependence] | None = None

    @property
    def is_of_a_run(self) -> bool:
        """Whether there is, or was, a run."""
        return self.trace is not None or self.sites is not None

    def forget(self) -> None:
        """Lets go of the run: its trace holds the distribution, which would be a cycle."""
        self.trace = self.run = None


def current_context() -> Context:
    """The run that is going on."""
    kinds = {type(messenger) for messenger in _PYRO_STACK}
    # A guide that enumerates in sequence is replayed as well, and escapes from its sites.
    is_replayed = ReplayMessenger in kinds and EscapeMessenger not in kinds
    tracing = innermost()
    return Context(None if tracing is None else tracing.trace, is_replayed)


def watched_context() -> Context:
    """The run that is going on, and how it was called."""
    context, tracing = current_context(), innermost()
    if tracing is not None and comparison.movable(tracing.trace.nodes):
        context.run = comparison.running(tracing)
    return context


def innermost() -> TraceMessenger | None:
    """The messenger that is recording the run."""
    tracing = [m for m in _PYRO_STACK if isinstance(m, TraceMessenger) and not m.param_only]
    return tracing[-1] if tracing else None


def site_name(context: Context, token: object) -> str | None:
    """The name of the site whose distribution carries a token, however it is wrapped."""
    if context.name is None and context.trace is not None:
        for name, node in context.trace.nodes.items():
            if node["type"] == "sample" and is_own(node, token):
                context.name = name
    return context.name


def is_own(node: Any, token: object) -> bool:  # noqa: ANN401 (Pyro's message)
    """Whether a site's distribution carries the token, inside masks and the like."""
    law = node["fn"]
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return getattr(law, "token", None) is token


def dependences(
    output: Tensor, context: Context, energy: Energy, cuts: Sequence[Tensor] = ()
) -> set[Dependence]:
    """The latent variables and learned parameters that a log-probability depends on.

    Parameters that require grad, and are neither in Pyro's param store nor sites of this run, are
    those of a trained machine that is used as it is.

    Args:
        output: The log-probability, up to a constant.
        context: The run in which it belongs.
        energy: The energy that it came from.
        cuts: The values that it is the log-probability of; what these depend on does not count.
    """
    sites = sites_of(context)
    if not output.requires_grad:
        return set()
    store = {
        id(value): Dependence(f"the parameter {name!r} of Pyro's param store", False)
        for name, value in pyro.get_param_store().named_parameters()
    }
    own = {id(value) for value in (*energy.parameters(), *energy.buffers())}
    found = set()
    for edge in edges(output, cuts, set(sites or ())):
        variable: Any = getattr(edge[0], "variable", None)
        if sites and edge in sites:
            found.add(sites[edge])
        elif id(variable) in store:
            found.add(store[id(variable)])
        elif sites is None and is_of_a_run(variable, own):
            what = f"a tensor {tuple(variable.shape)} for which a gradient is taken"
            found.add(Dependence(what, True))
    return found


def dependences_seen_by_comparison(
    context: Context, token: object, evaluate: comparison.Evaluate
) -> set[Dependence]:
    """The latent variables with which the energy of a fixed value changes, traced or not.

    Args:
        context: The run in which it belongs.
        token: The distribution's.
        evaluate: The energies of the value, from the distribution in another run.
    """
    return dependences_at(site_name(context, token), context, evaluate)


def dependences_at(
    name: str | None, context: Context, evaluate: comparison.Evaluate
) -> set[Dependence]:
    """The same, at a site whose name is known."""
    if context.trace is None or context.run is None or name is None:
        return set()
    names = comparison.movable(context.trace.nodes) - {name}
    changing = comparison.changing(context.run, name, names, evaluate)
    return {dependence_on(n, context.trace.nodes[n]) for n in changing}


def dependence_on(name: str, node: Any) -> Dependence:  # noqa: ANN401 (Pyro's message)
    """A dependence on a site of a run."""
    if node["type"] == "param":
        return Dependence(f"the parameter {name!r}", False)
    return Dependence(f"the latent site {name!r}", True)


def is_of_a_run(variable: Tensor | None, own: set[int]) -> bool:
    """Whether a leaf must have come from a run, to an energy that was made outside of one.

    Args:
        variable: The leaf; None for what is none.
        own: The identities of the energy's own tensors.
    """
    is_leaf = variable is not None and not isinstance(variable, nn.Parameter)
    return is_leaf and id(variable) not in own


def sites_of(context: Context) -> dict[Edge, Dependence] | None:
    """Where the values of a run's sites stand in autograd's graph; None outside of a run."""
    if context.trace is None:
        return context.sites
    context.sites = {}
    for name, node in context.trace.nodes.items():
        value = node.get("value")
        if node["type"] not in ("sample", "param") or not isinstance(value, Tensor):
            continue
        if value.requires_grad:
            edge = get_gradient_edge(value)
            context.sites[edge.node, edge.output_nr] = dependence_on(name, node)
    return context.sites


def edges(output: Tensor, cuts: Sequence[Tensor], ends: set[Edge]) -> Iterator[Edge]:
    """What an output was computed from, step by step, but not beyond some ends.

    Values that are cut off are left out, the other ends are told.
    """
    first = get_gradient_edge(output)
    left: list[Edge] = [(first.node, first.output_nr)]
    seen = set(left)
    own = {cut.grad_fn for cut in cuts}
    while left:
        edge = left.pop()
        if edge[0] in own:
            continue
        yield edge
        if edge in ends:
            continue
        new = {e for e in edge[0].next_functions if e[0] is not None} - seen
        seen |= new
        left.extend(new)


def cut_off(value: Tensor) -> Tensor:
    """The same value as a step of its own in autograd's graph, at which `edges` can stop."""
    return value.view_as(value) if value.requires_grad else value


# --- what is said --------------------------------------------------------------------------------

REMEDIES = """What can be done:
- exact: EnergyDistribution(energy) needs no more where log Z can be summed (up to {most} states of
  all sites together, and more where the structure of a machine allows);
- estimated, for SVI: EnergyDistribution(energy, log_partition=...) with a LogPartition of these
  very parameters whose value carries its gradient;
- undirected: if exp(-energy) is meant as a factor of the joint, pyro_ebm.energy_factor(...);
- fixed: if this is a trained energy, keep it out of the param store, and detach its parameters
  (energy.requires_grad_(False))."""


def where(name: str | None) -> str:
    """The site, in words."""
    return "An energy distribution" if name is None else f"The site {name!r}"


def listed(found: set[Dependence]) -> str:
    """Dependences, in words."""
    return ", ".join(sorted(d.description for d in found))


def missing(name: str | None, energy: Energy, most: int) -> IntractableNormalizerError:
    """There is no log Z at all."""
    return IntractableNormalizerError(
        f"{where(name)} needs log Z of its {type(energy).__name__}, which has no exact sum of "
        f"affordable size and no LogPartition. If the energy is fixed and Z need not be known, "
        f"write EnergyDistribution.up_to_constant(energy).\n" + REMEDIES.format(most=most)
    )


def unnormalized(name: str | None, found: set[Dependence], most: int) -> IntractableNormalizerError:
    """A distribution up to a constant, whose constant is none."""
    return IntractableNormalizerError(
        f"{where(name)} has an energy that depends on {listed(found)}. So its log Z is no "
        f"constant, and a log-probability without it would give a wrong answer in silence.\n"
        + REMEDIES.format(most=most)
    )


def factor_without_constant(name: str, found: set[Dependence]) -> IntractableNormalizerError:
    """A factor whose parameters inference moves, which is another model than it looks like."""
    return IntractableNormalizerError(
        f"The factor {name!r} has an energy that depends on {listed(found)}, so its log Z is no "
        f"constant, and p(parameters) exp(-energy) is not p(parameters) p(x | parameters): the "
        f"parameters would go where exp(-energy) is large. Write a statement with "
        f"EnergyDistribution(energy); or, if the undirected joint is meant, "
        f"energy_factor(..., normalizer='left out')."
    )


def in_guide(name: str | None, most: int) -> IntractableNormalizerError:
    """A guide whose log-probabilities mean nothing."""
    return IntractableNormalizerError(
        f"{where(name)} stands in a guide and is known up to a constant only, so the ELBO would "
        f"mean nothing. A guide needs normalised distributions.\n" + REMEDIES.format(most=most)
    )


def unusable_estimate(
    name: str | None, why: str, found: set[Dependence]
) -> IntractableNormalizerError:
    """An estimate of log Z that does not follow the parameters."""
    return IntractableNormalizerError(
        f"{where(name)} has an energy that depends on {listed(found)}, and an estimated log Z "
        f"that cannot be used for it: {why}"
    )


def stale(name: str | None) -> IntractableNormalizerError:
    """An estimate of log Z of earlier parameters."""
    return IntractableNormalizerError(
        f"{where(name)} has an estimated log Z, and the energy's parameters have changed since it "
        f"was handed in. Estimate it again, and make a new distribution."
    )


def versions(energy: Energy) -> tuple[tuple[int, int], ...]:
    """Which tensors an energy is made of, and how often each was changed in place."""
    return tuple((id(t), t._version) for t in (*energy.parameters(), *energy.buffers()))


def with_history(value: Tensor) -> Tensor:
    """A result of `torch.enable_grad`, as the caller's mode wants it."""
    return value if torch.is_grad_enabled() else value.detach()
