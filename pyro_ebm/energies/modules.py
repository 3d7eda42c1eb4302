"""What the torch modules have in common: abstract methods, tensors that are learned or given."""

from typing import Any, Self
from weakref import WeakSet

from torch import Tensor, nn

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


def register(module: nn.Module, name: str, value: Tensor) -> None:
    """Keeps a parameter learned (nn.Parameter) or given (any other tensor, with its history)."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)
