"""Parameters, read once.

A module with `PyroSample` or `PyroParam` attributes draws or looks them up whenever they are read
within a call, and draws them anew whenever they are read outside of one. A distribution is made
inside a model and asked for log-probabilities after the model has run. So its energy is read when
the distribution is made, inside Pyro's context, into a copy whose parameters are plain tensors.
"""

import functools
from collections.abc import Mapping
from contextlib import nullcontext

from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from pyro_ebm.energies import Energy


def read_once(energy: Energy) -> Energy:
    """The energy itself, or a copy of given tensors where Pyro manages its parameters.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine
        >>> from pyro_ebm.distributions import read_once
        >>> machine = BoltzmannMachine.restricted(3, 2)
        >>> read_once(machine) is machine  # which Pyro does not manage
        True
    """
    if not any(isinstance(module, PyroModule) for module in energy.modules()):
        return energy
    frozen = given_tensors(energy)
    assert isinstance(frozen, Energy)
    return frozen


def given_tensors(module: nn.Module) -> nn.Module:
    """A copy of a tree of modules in which no attribute is a statement of Pyro's any more.

    Every parameter that Pyro manages is read here, in the module's context, where the site's name
    is known and a value that is needed twice is drawn once.
    """
    with module._pyro_context if isinstance(module, PyroModule) else nullcontext():
        return copied(module)


def copied(module: nn.Module) -> nn.Module:
    """The copy of one module, within its context."""
    kind = type(module)
    new = nn.Module.__new__(kind)
    own = dict(module.__dict__)
    for store in ("_parameters", "_buffers", "_modules"):
        own[store] = dict(own[store])
    if isinstance(module, PyroModule):
        for name in managed(module):
            # In the instance's own dict it stands before Pyro's __getattr__ and its descriptors.
            own[name] = getattr(module, name)
            own["_parameters"].pop(name, None)
            own["_parameters"].pop(f"{name}_unconstrained", None)
        own["_pyro_samples"], own["_pyro_params"] = {}, {}
        own["_pyro_context"] = type(module._pyro_context)()
    for name, child in module._modules.items():
        if child is None:
            continue
        if isinstance(module, PyroModule) and not isinstance(child, PyroModule):
            child = getattr(module, name)  # Pyro registers all its parameters
            own[name] = own["_modules"][name] = given_tensors(child)
        else:
            own["_modules"][name] = given_tensors(child)
    new.__dict__.update(own)
    return new


def substituted(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a tree of modules with other tensors in place of some, by their dotted names.

    Nothing is checked and nothing but the modules on the way is copied.
    """
    new = nn.Module.__new__(type(module))
    own = dict(module.__dict__)
    own["_buffers"], own["_modules"] = dict(own["_buffers"]), dict(own["_modules"])
    for child in {name.partition(".")[0] for name in values if "." in name}:
        below = {n.partition(".")[2]: v for n, v in values.items() if n.startswith(child + ".")}
        own["_modules"][child] = substituted(own["_modules"][child], below)
    own["_buffers"].update({name: v for name, v in values.items() if "." not in name})
    new.__dict__.update(own)
    return new


def managed(module: PyroModule) -> list[str]:
    """The names of the attributes that are statements of Pyro's."""
    unconstrained = {f"{name}_unconstrained" for name in module._pyro_params}
    return [
        *dict.fromkeys(
            (
                *declared(type(module)),
                *module._pyro_samples,
                *module._pyro_params,
                *(
                    name
                    for name, value in module._parameters.items()
                    if value is not None and name not in unconstrained
                ),
            )
        )
    ]


@functools.cache
def declared(kind: type) -> tuple[str, ...]:
    """The names of the attributes that a class declares by decorators."""
    return tuple(
        name
        for parent in kind.__mro__
        for name, value in vars(parent).items()
        if isinstance(value, PyroSample | PyroParam)
    )
