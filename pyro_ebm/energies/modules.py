"""What the torch modules have in common: abstract methods, tensors that are learned or given."""

from collections.abc import Iterable
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from pyro_ebm.sites import require_numbers

FILLED_IN: WeakSet[type] = WeakSet()  # classes of modules without abstract methods


class AbstractModule(nn.Module):
    """A torch module whose subclasses must fill in its abstract methods.

    It is not an `abc.ABC`: the metaclass of that cannot be joined with the one of Pyro's modules,
    and `pyro.nn.module.to_pyro_module_` would fail on every energy.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:  # noqa: ANN401 (the subclass's own)
        """Refuses a class with abstract methods left.

        Raises:
            TypeError: If there are some.
        """
        if cls not in FILLED_IN:  # looking costs more than all else that makes a small energy
            attributes = ((name, getattr(cls, name, None)) for name in dir(cls))
            left = [name for name, own in attributes if getattr(own, "__isabstractmethod__", False)]
            if left:
                raise TypeError(f"{cls.__name__} is abstract: it does not fill in {left}.")
            FILLED_IN.add(cls)
        return super().__new__(cls)


def require_module_names(names: Iterable[str], of: str) -> None:
    """Refuses names under which a module could not keep others.

    Raises:
        ValueError: If there is one.
    """
    taken = nn.ModuleDict()
    if bad := [name for name in names if not name.isidentifier() or hasattr(taken, name)]:
        raise ValueError(
            f"The {of} names {bad} are no valid attribute names, or those of a torch module; "
            f"choose others."
        )


def check_real(value: Tensor, name: str) -> Tensor:
    """Refuses what is no floating-point tensor.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; wanted a torch tensor.")
    require_numbers(value, name)
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} is of {value.dtype}; wanted float32 or float64, for example {name}.float()."
        )
    return value


def register(module: nn.Module, name: str, value: Tensor) -> None:
    """Keeps a parameter learned (nn.Parameter) or given (any other tensor, with its history)."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)
