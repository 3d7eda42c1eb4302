"""Layers of units: the named parts of a Boltzmann machine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_ebm.energies.modules import register
from pyro_ebm.sites import is_count
from pyro_ebm.units import Unit

from .couplings import check_parameter


class Layer(nn.Module):
    """Units of one kind, with their biases and offsets.

    Args:
        unit: The kind of unit.
        size: The number of units.
        bias: b (*batch, size), learned (nn.Parameter) or given; learned from zero if left out.
        offset: x̂ (*batch, size), which centres the couplings; zero if left out.

    Raises:
        ValueError: If the size is not positive, or a tensor has the wrong shape or is not finite.

    Example:
        >>> import torch
        >>> from pyro_ebm import Bernoulli, BoltzmannMachine, Layer
        >>> bits = Layer(Bernoulli(), 3, bias=torch.tensor([0.0, 1.0, 2.0]))
        >>> BoltzmannMachine({"bits": bits})(torch.ones(3))
        tensor(-3.)
    """

    bias: Tensor
    offset: Tensor | None

    def __init__(
        self, unit: Unit, size: int, *, bias: Tensor | None = None, offset: Tensor | None = None
    ) -> None:
        super().__init__()
        if not isinstance(unit, Unit):
            raise TypeError(f"unit is {unit!r}; wanted a unit, for example Bernoulli().")
        if not is_count(size):
            raise ValueError(f"A layer has {size!r} units; wanted a positive integer.")
        self.unit, self.size = unit, int(size)
        for name, value in unit.parameters.items():
            if value.dim():
                what = f"the {name.removeprefix('log_')} of {type(unit).__name__}"
                check_parameter(value, what, (size,))
            register(self, name, value)
        shape = (size * unit.width,)
        if bias is None:
            self.register_parameter("bias", None)  # made by the machine, in its dtype
        else:
            register(self, "bias", check_parameter(bias, "bias", shape))
        if offset is not None:
            check_parameter(offset, "offset", shape)
        self.register_buffer("offset", offset)

    def in_machine(self, like: Tensor) -> "Layer":
        """The layer as a machine's own, with the same bias tensor, or a learned one `like` it."""
        bias = self.bias
        if bias is None:
            bias = nn.Parameter(like.new_zeros(self.size * self.unit.width))
        layer = Layer(self.unit, self.size, bias=bias, offset=self.offset)
        for name in self.unit.parameters:
            value = getattr(self, name)
            # A single number takes the machine's dtype; the user's tensors stay what they are.
            register(layer, name, value if value.dim() or value.requires_grad else value.to(like))
        return layer

    def read_unit(self) -> Unit:
        """The unit with its parameters as they are now, one number for each unit."""
        parameters = {}
        for name in self.unit.parameters:
            value = getattr(self, name)
            parameters[name] = value.expand(*value.shape[:-1], self.size)
        return self.unit.with_parameters(parameters)

    def extra_repr(self) -> str:
        return f"{self.unit!r}, {self.size}"


def make_layers(
    sizes: Mapping[str, int],
    units: Sequence[Unit],
    biases: Mapping[str, Tensor] | None,
    offset: Mapping[str, Tensor] | None,
) -> dict[str, Layer]:
    """Layers by name, with what is given of their biases and offsets."""
    check_known("biases", biases, sizes)
    check_known("offset", offset, sizes)
    return {
        name: Layer(unit, size, bias=(biases or {}).get(name), offset=(offset or {}).get(name))
        for (name, size), unit in zip(sizes.items(), units, strict=True)
    }


def check_known(what: str, given: Mapping[Any, Any] | None, known: Iterable[Any]) -> None:
    """Refuses keys that nothing would read.

    Raises:
        ValueError: If there is one.
    """
    if unknown := [key for key in given or {} if key not in list(known)]:
        raise ValueError(f"{what} is given for {unknown}; this machine has {list(known)}.")
