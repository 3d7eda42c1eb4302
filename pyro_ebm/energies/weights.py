"""Weights of energies in a sum: given, learned, or computed from what is learned."""

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn


class OfParameter(nn.Module):
    """A weight that is computed from a parameter wherever it is read, so that learning moves it.

    Args:
        function: From the parameter to the weight.
        parameter: It.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], parameter: nn.Parameter) -> None:
        super().__init__()
        self.function, self.parameter = function, parameter

    def forward(self) -> Tensor:
        return self.function(self.parameter)


Weight = float | Tensor | OfParameter


def rest(share: float | Tensor) -> Weight:
    """1 − t."""
    return OfParameter(rest_of, share) if isinstance(share, nn.Parameter) else 1 - share


def rest_of(share: Tensor) -> Tensor:
    """1 − t of a tensor."""
    return 1 - share


def inverse(temperature: float | Tensor) -> Weight:
    """1 / T."""
    if isinstance(temperature, nn.Parameter):
        return OfParameter(torch.reciprocal, temperature)
    return 1 / temperature


def checked_number(weight: float | Tensor, what: str, like: Tensor) -> Tensor:
    """A number or a tensor of them, in the dtype and on the device of another tensor.

    Args:
        weight: The number.
        what: What is done with it, for the message: "multiplied by".
        like: The other tensor.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is not finite.
    """
    if isinstance(weight, bool) or not isinstance(weight, Real | Tensor):
        raise TypeError(f"An energy was {what} {weight!r}; wanted a number or a tensor.")
    # A number keeps its digits, whatever torch's default dtype.
    value = (
        weight if isinstance(weight, Tensor) else torch.tensor(float(weight), dtype=torch.float64)
    )
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"An energy was {what} a tensor of {value.dtype}; wanted numbers.")
    if not bool(value.isfinite().all()):
        raise ValueError(f"An energy was {what} NaN or an infinite number; wanted finite numbers.")
    if isinstance(value, nn.Parameter):
        return value
    return value.to(dtype=like.dtype, device=like.device)
