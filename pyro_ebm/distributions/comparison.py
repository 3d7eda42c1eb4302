"""Does an energy change when a latent variable does? Found by running the model again.

Discrete latent variables, draws without a gradient, and what is computed outside of torch leave no
trace in autograd's graph. So the model is run once more with other values of its latent sites, up
to the site in question, and the energies of the same value are compared. The random numbers are put
back, and a model is looked at once: for its site, and arguments of one kind.
"""

import sys
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import FrameType, MethodType
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger, unwrap
from pyro.poutine.trace_messenger import TraceHandler, TraceMessenger
from pyro.poutine.util import site_is_subsample
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

TRIES = 20  # draws, to find a value other than the one there is
SMALL = 1e-3  # by which a parameter is moved

Evaluate = Callable[[Any], Tensor]  # from the site's distribution to the energies of one value


@dataclass(frozen=True)
class Run:
    """How a model was called.

    Args:
        function: The model, with the messengers around it that fix its values.
        args: Its arguments.
        kwargs: Its named arguments.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Reached(Exception):
    """The site in question has been reached; carries the energies there."""

    def __init__(self, energies: Tensor) -> None:
        super().__init__()
        self.energies = energies


class OtherValues(Messenger):
    """Gives some sites other values, and stops at the site in question.

    Args:
        names: The sites that are to change.
        site: The site in question.
        evaluate: What is computed there.
    """

    def __init__(self, names: set[str], site: str, evaluate: Evaluate) -> None:
        super().__init__()
        self.names, self.site, self.evaluate = names, site, evaluate

    def _pyro_post_sample(self, msg: Any) -> None:  # noqa: ANN401 (Pyro's message)
        if msg["name"] == self.site:
            raise Reached(self.evaluate(msg["fn"]))
        if msg["name"] in self.names:
            msg["value"] = another(msg["fn"], msg["value"])

    def _pyro_post_param(self, msg: Any) -> None:  # noqa: ANN401 (Pyro's message)
        if msg["name"] in self.names:
            msg["value"] = msg["value"] + SMALL * torch.rand_like(msg["value"])


def another(law: Any, value: Tensor) -> Tensor:  # noqa: ANN401 (any distribution)
    """Another value of the same shape; all values in another order where they are enumerated."""
    for _ in range(TRIES):
        draw = law.sample()
        if draw.shape != value.shape:
            return value.roll(1, 0)
        if not torch.equal(draw, value):
            return draw.to(value.dtype)
    return value


def running(messenger: TraceMessenger) -> Run | None:
    """How the model was called that a messenger is tracing: its frame tells."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is TraceHandler.__call__.__code__:
            handler = frame.f_locals["self"]
            if handler.msngr is messenger:
                return Run(handler.fn, frame.f_locals["args"], frame.f_locals["kwargs"])
        frame = frame.f_back
    return None


def movable(nodes: Mapping[str, Any]) -> set[str]:
    """The sites whose values inference moves: latent ones, and parameters."""
    return {name for name, node in nodes.items() if is_movable(node)}


def is_movable(node: Any) -> bool:  # noqa: ANN401 (Pyro's message)
    """Whether inference moves the value of a site."""
    value = node.get("value")
    if node["type"] not in ("sample", "param") or not isinstance(value, Tensor):
        return False
    if node["type"] == "param":
        return True
    # Under MCMC latent sites are conditioned, with a gradient.
    is_latent = not node["is_observed"] or value.requires_grad
    return is_latent and bool(value.numel()) and not site_is_subsample(node)


def changing(run: Run, site: str, names: set[str], evaluate: Evaluate) -> set[str]:
    """Those of some sites with whose values the energies at a site change.

    Args:
        run: The model.
        site: The site in question.
        names: The sites that may matter.
        evaluate: The energies of one and the same value.
    """
    if not names or torch._C._functorch.maybe_current_level() is not None:
        return set()  # values inside vmap cannot be compared
    known = memory_of(run.function)
    key = (site, frozenset(names), kind(run.args), kind(tuple(sorted(run.kwargs.items()))))
    if known is not None and key in known:
        return set()
    before = energies_with(run, set(), site, evaluate)
    if before is None or same(before, energies_with(run, names, site, evaluate)):
        if known is not None:
            known.add(key)
        return set()
    each = {n for n in names if not same(before, energies_with(run, {n}, site, evaluate))}
    return each or names


def energies_with(run: Run, names: set[str], site: str, evaluate: Evaluate) -> Tensor | None:
    """The energies at the site, with other values of some; None where it is not reached."""
    state = get_rng_state()
    try:
        with torch.no_grad(), poutine.block(), OtherValues(names, site, evaluate):
            run.function(*run.args, **run.kwargs)
    except Reached as reached:
        return reached.energies
    except Exception:
        return None  # a model that fails with other values says nothing about the energy
    finally:
        set_rng_state(state)
    return None


def same(first: Tensor, second: Tensor | None) -> bool:
    """Whether two runs gave the same; one that did not come to the site says nothing."""
    if second is None or first.shape != second.shape:
        return second is None
    # Sums on an accelerator may differ in their last digits.
    tolerance = torch.finfo(first.dtype).eps ** 0.75
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)


# --- what is remembered --------------------------------------------------------------------------

_MEMORY: weakref.WeakKeyDictionary[Any, set[Hashable]] = weakref.WeakKeyDictionary()


def memory_of(function: Callable[..., Any]) -> set[Hashable] | None:
    """What has been looked at in a model, as long as the model lives; None where it cannot be."""
    model: Any = unwrap(function)
    if isinstance(model, MethodType):
        model = model.__self__
    try:
        return _MEMORY.setdefault(model, set())
    except TypeError:
        return None


def kind(value: Any) -> Hashable:  # noqa: ANN401 (any argument of a model)
    """What of an argument may decide which way a model goes: shapes of tensors, other values."""
    if isinstance(value, Tensor):
        return (Tensor, tuple(value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(kind(v) for v in value)
    try:
        hash(value)
    except TypeError:
        return (type(value), id(value))
    return value
