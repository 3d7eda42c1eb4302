"""One pass of a Pyro model at given values: its log joint, term by term.

A latent site that is real is given by unconstrained numbers, which `biject_to` of the support that
the site has in this very pass maps to the model's space; so a support may depend on other sites. A
discrete site is given as it is. Sites that the model itself marks `infer={"enumerate": "parallel"}`
are summed out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, TorchDistribution, Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.ops import special
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, biject_to

from pyro_ebm.sites import Sites, trusting
from pyro_ebm.stopping import at_last

Message = Any  # the dict in which Pyro's handlers pass on what is known of one site


class Pass(NamedTuple):
    """What one pass of a model tells.

    Args:
        values: The latent sites in the model's space.
        terms: ln p of each sample site given its parents, before it is summed over plates; with
            ln |d value / d unconstrained| where the site is real.
    """

    values: Sites
    terms: Sites


class AtValues(Messenger):
    """Gives the latent sites their values, and collects terms.

    Args:
        given: The values by site: unconstrained or discrete ones.
        real: The sites that are given unconstrained.
        wanted: The sites whose terms are computed; all of them if left out.
        guarded: The sites whose term is −∞ where the value is outside the support.
        read: What the term of a site is: ln p given its parents, or its parts.
        imputed: The sites that are observed where they are masked.
    """

    def __init__(
        self,
        given: Sites,
        real: frozenset[str],
        wanted: frozenset[str] | None = None,
        guarded: frozenset[str] = frozenset(),
        read: Callable[[Message], Tensor] | None = None,
        imputed: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.imputed = imputed
        self.given, self.real, self.wanted, self.guarded = given, real, wanted, guarded
        self.read = read or term
        self.values: Sites = {}
        self.terms: Sites = {}
        self.log_jacobians: Sites = {}

    def _pyro_sample(self, msg: Message) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self.given:
            return
        value = self.given[name]
        if name in self.real:
            transform, free = biject_to(msg["fn"].support), value
            value = transform(free)
            jacobian = transform.log_abs_det_jacobian(free, value)
            own = jacobian.dim() - len(msg["fn"].batch_shape)
            total = jacobian.sum(tuple(range(-own, 0))) if own else jacobian
            mask = msg["mask"] if name in self.imputed else None
            self.log_jacobians[name] = scale_and_mask(total, 1.0, mask)
        self.values[name] = value
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Message) -> None:
        name = msg["name"]
        if site_is_subsample(msg) or is_deterministic(msg):
            return
        if name not in self.given and is_latent(msg) and "_enumerate_dim" not in msg["infer"]:
            raise ModelStructureError(
                f"The model draws {name!r}, which its first pass did not: its sites depend on "
                f"values. Give it the same sites in every pass."
            )
        if name in self.guarded:
            msg["fn"] = Guarded(msg["fn"])
        if self.wanted is None or name in self.wanted:
            self.terms[name] = self.read(msg)
            # It has one number for each element of a batch, and no discrete site moves it here.
            if name in self.log_jacobians and self.read is term:
                self.terms[name] = self.terms[name] + self.log_jacobians[name]

    def told(self) -> Pass:
        """What the pass that has just ended tells.

        Raises:
            ModelStructureError: If a site was not visited.
        """
        if missing := [name for name in self.given if name not in self.values]:
            raise ModelStructureError(
                f"The model did not visit {missing}, which its first pass did: its sites depend on "
                f"values. Give it the same sites in every pass."
            )
        return Pass(self.values, self.terms)


class Guarded(TorchDistribution):
    """A law whose log-probability is −∞ outside of its support, whether it validates or not.

    Args:
        law: The law, of a value that is there.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, law: Any) -> None:  # noqa: ANN401 (any distribution)
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)
        self.law = law

    @property
    def support(self) -> Any:  # noqa: ANN401 (torch's constraints)
        """The law's own."""
        return self.law.support

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p, or −∞."""
        inside = self.law.support.check(value)
        log_prob: Tensor = self.law.log_prob(value)
        return log_prob.masked_fill(~inside, -torch.inf)


class ModelStructureError(ValueError):
    """The model's sites are not the same in every pass."""


class Enumeration(EnumMessenger):
    """Pyro's enumeration of marked sites, of values that vmap holds too."""

    def _pyro_post_sample(self, msg: Message) -> None:
        value = msg["value"]
        # Pyro looks at `value.data.shape`, and vmap forbids `data`: a stand-in has the same shape.
        msg["value"] = torch.empty(value.shape, device="meta")
        super()._pyro_post_sample(msg)
        msg["value"] = value


class Model(NamedTuple):
    """A Pyro model with its arguments, and what it takes to sum its enumerated sites out.

    Args:
        function: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        evaluator: The contraction over enumerated sites, where there are some.
        plates: The number of nested plates, to the left of which enumerated sites are laid.
            None where there are none to enumerate.
        guarded: The sites whose support depends on others. Laws answer with any number outside
            of their support where validation is off, as it has to be in a batch.
        imputed: The latent sites that are observed in part.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    evaluator: TraceEinsumEvaluator | None = None
    plates: int | None = None
    guarded: frozenset[str] = frozenset()
    imputed: frozenset[str] = frozenset()

    def at(self, values: Sites, real: frozenset[str], wanted: frozenset[str] | None = None) -> Pass:
        """A pass at given values."""
        handler = AtValues(values, real, wanted, self.guarded, imputed=self.imputed)
        with pyro.validation_enabled(False), trusting(), handler:
            self.enumerating()(*self.args, **self.kwargs)
        return handler.told()

    def entries_at(self, values: Sites, real: frozenset[str], wanted: frozenset[str]) -> Sites:
        """ln p of the elements of some sites, one by one, in a pass at given values."""
        handler = AtValues(values, real, wanted, self.guarded, entries)
        with pyro.validation_enabled(False), trusting(), handler:
            self.function(*self.args, **self.kwargs)
        return handler.told().terms

    def log_joint(self, values: Sites, real: frozenset[str]) -> Tensor:  # ()
        """ln p of one chain's values, in unconstrained space, enumerated sites summed out."""
        total: Any = 0.0
        if self.evaluator is None:
            for value in self.at(values, real).terms.values():
                total = total + value.sum()
            return total
        handler = AtValues(values, real, frozenset(), self.guarded, imputed=self.imputed)
        with safe_logarithm(), pyro.validation_enabled(False), trusting():
            total = self.evaluator.log_prob(self.trace(handler))
        for value in handler.log_jacobians.values():
            total = total + value.sum()
        return total

    def trace(self, handler: Messenger) -> poutine.Trace:
        """The trace of a pass under a handler."""
        with pyro.validation_enabled(False), trusting(), handler:
            return poutine.trace(self.enumerating()).get_trace(*self.args, **self.kwargs)

    def enumerating(self) -> Callable[..., Any]:
        """The model; with the marked sites enumerated, where there are some."""
        if self.plates is None:
            return self.function
        return Enumeration(first_available_dim=-1 - self.plates)(self.function)


def term(msg: Message) -> Tensor:
    """ln p of a site given its parents, scaled and masked, not summed."""
    log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
    return scale_and_mask(log_prob, msg["scale"], msg["mask"])


def entries(msg: Message) -> Tensor:
    """ln p of a site's elements one by one, as far as its law takes them apart.

    `to_event` sums over elements that are independent: here they stay apart.
    """
    law, count = msg["fn"], 0
    while isinstance(law, Independent):
        count += law.reinterpreted_batch_ndims
        law = law.base_dist
    log_prob = law.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
    scale, mask = (
        part[(..., *[None] * count)] if isinstance(part, Tensor) and part.dim() else part
        for part in (msg["scale"], msg["mask"])
    )
    return scale_and_mask(log_prob, scale, mask)


def is_deterministic(msg: Message) -> bool:
    """Whether a site is a `pyro.deterministic`."""
    return bool(msg["infer"].get("_deterministic", False))


def is_factor(msg: Message) -> bool:
    """Whether a site is a factor, which holds no data: it is no observation."""
    return isinstance(unwrapped(msg.get("fn")), Unit)


def is_latent(msg: Message) -> bool:
    """Whether a sample site is a latent variable."""
    is_point = isinstance(unwrapped(msg["fn"]), Delta)
    return not (msg["is_observed"] or is_point or site_is_subsample(msg))


def unwrapped(law: Any) -> Any:  # noqa: ANN401
    """A distribution without `expand`, `mask` and `to_event` around it."""
    while hasattr(law, "base_dist") and type(law).__name__ in WRAPPERS:
        law = law.base_dist
    return law


WRAPPERS = ("ExpandedDistribution", "Independent", "MaskedDistribution")


class SafeLogarithm(torch.autograd.Function):
    """ln x with the slope 1 / max(x, ε), as Pyro has it, in a form that vmap can take."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Ln x."""
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], _: Tensor) -> None:  # noqa: ANN401
        """Keeps x."""
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        """The slope, bounded at zero."""
        (x,) = ctx.saved_tensors
        return grad / x.clamp(min=torch.finfo(x.dtype).eps)


@contextmanager
def safe_logarithm() -> Iterator[None]:
    """Inside, Pyro's contractions use `SafeLogarithm`: their own has no `setup_context`."""
    own = special._SafeLog
    with at_last(lambda: vars(special).update(_SafeLog=own)):
        vars(special).update(_SafeLog=SafeLogarithm)
        yield
