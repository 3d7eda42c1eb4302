"""The first pass of a Pyro model: which sites it has, and what their values are."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.sites import Site, of_one_element, values_at

from .log_joint import AtValues, Message, Model, is_latent, term, unwrapped

InitStrategy = Callable[[Message], Tensor]  # one of Pyro's init_to_...


class FirstPass(NamedTuple):
    """What the first pass of a model showed.

    Args:
        model: The model, with the contraction of its enumerated sites.
        nodes: The sample sites by name.
        sites: The latent sites as the energy has them.
        transforms: Of the real sites, from unconstrained numbers to the model's space; where a
            support depends on other sites, it is that of this pass.
    """

    model: Model
    nodes: dict[str, Message]
    sites: dict[str, Site]
    transforms: dict[str, Any]


def first_pass(model: Model) -> FirstPass:
    """A validated, unbatched pass.

    Raises:
        ValueError: If the model cannot be an energy.
    """
    with pyro.validation_enabled(True), torch.no_grad():
        nodes = random_pass(model)
        sites: dict[str, Site] = {}
        transforms: dict[str, Any] = {}
        summed = False
        for name, msg in nodes.items():
            if site_is_subsample(msg):
                refuse_subsample(msg)
                continue
            term(msg)  # which validates parameters and observed values
            if is_latent(msg):
                if msg["infer"].get("enumerate") == "parallel" and is_discrete(msg["fn"]):
                    summed = True
                    continue
                sites[name], transform = latent_site(name, msg)
                if transform is not None:
                    transforms[name] = transform
        if not sites:
            raise ValueError("The model has no latent site that an energy could be a function of.")
        if not summed:
            return FirstPass(model, nodes, sites, transforms)
        frames = [f for msg in nodes.values() for f in msg["cond_indep_stack"] if f.vectorized]
        model = model._replace(plates=max((-f.dim for f in frames), default=0))
        given = {name: nodes[name]["value"] for name in sites}
        trace = model.trace(AtValues(given, frozenset(), frozenset()))
        evaluator = TraceEinsumEvaluator(trace, True, model.plates)
        return FirstPass(model._replace(evaluator=evaluator), nodes, sites, transforms)


def random_pass(model: Model, strategy: InitStrategy | None = None) -> dict[str, Message]:
    """The sample sites of a pass: real latent ones by the strategy, discrete ones drawn."""

    def value(msg: Message) -> Tensor:
        law = msg["fn"]
        if is_discrete(law) or not is_latent(msg):
            return law.sample()
        if strategy is not None:
            return strategy(msg)
        transform = map_to_support(msg["name"], law.support)
        # Not of a draw: an improper law has none.
        shape = transform.inverse_shape(law.batch_shape + law.event_shape)
        free = torch.empty(shape, dtype=parameter_dtype(law)).uniform_(-2, 2)
        return transform(free)

    with torch.no_grad():
        started = InitMessenger(value)(model.function)
        trace = poutine.trace(started).get_trace(*model.args, **model.kwargs)
    return {name: msg for name, msg in trace.nodes.items() if msg["type"] == "sample"}


def parameter_dtype(law: Any) -> torch.dtype:  # noqa: ANN401 (any distribution)
    """The dtype of a law's parameters."""
    own = unwrapped(law)
    parts: list[Any] = [getattr(own, name, None) for name in getattr(own, "arg_constraints", {})]
    dtypes = [part.dtype for part in parts if isinstance(part, Tensor)]
    return next((d for d in dtypes if d.is_floating_point), torch.get_default_dtype())


def refuse_subsample(msg: Message) -> None:
    """Refuses a plate of which a pass sees a part.

    Raises:
        ValueError: If it is one.
    """
    law = msg["fn"]
    if law.subsample_size is not None and law.subsample_size < law.size:
        raise ValueError(
            f"The plate {msg['name']!r} subsamples {law.subsample_size} of {law.size}: the log "
            f"joint of a subsample is another energy in every pass. Leave subsample_size out."
        )


def is_discrete(law: Any) -> bool:  # noqa: ANN401
    """Whether a distribution's values are discrete."""
    return bool(element_support(law).is_discrete)


def element_support(law: Any) -> Constraint:  # noqa: ANN401
    """The support of one element: that of a distribution without `to_event` around it."""
    return of_one_element(unwrapped(law).support)


def listed_values(law: Any) -> Tensor | None:  # noqa: ANN401
    """The values (states, *event) of one element; None where they cannot be listed."""
    return values_at(Site(element_support(law), unwrapped(law).event_shape))


def latent_site(name: str, msg: Message) -> tuple[Site, Any]:
    """A latent node as a site of the energy, with the map to its support where it is real.

    Raises:
        ValueError: If no map to its support is known.
    """
    law, value = msg["fn"], msg["value"]
    if is_discrete(law):
        return Site(element_support(law), value.shape), None
    transform = map_to_support(name, law.support)
    return Site(constraints.real, transform.inv(value).shape), transform


def map_to_support(name: str, support: Constraint) -> Any:  # noqa: ANN401 (torch's transforms)
    """From unconstrained numbers to a support.

    Raises:
        ValueError: If none is known.
    """
    try:
        return biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"No map from unconstrained numbers to the support {support} of {name!r} is known; "
            f"register one with torch.distributions.biject_to."
        ) from None


def like(first: FirstPass) -> Tensor:
    """A tensor of the dtype and device that states are computed in."""
    for name in first.transforms:
        value = first.nodes[name]["value"]
        return torch.empty(0, dtype=value.dtype, device=value.device)
    # Without a real site, that of the log joint.
    terms = [term(msg) for msg in first.nodes.values() if not site_is_subsample(msg)]
    dtype = functools.reduce(torch.promote_types, [value.dtype for value in terms])
    return torch.empty(0, dtype=dtype, device=terms[0].device)
