"""log Z, and how far to trust it."""

from typing import NamedTuple, Self

import torch
from torch import Tensor


class LogPartition(NamedTuple):
    """A value of log Z with its error bar, in nats.

    Args:
        value: log Z (*batch of the parameters,), exact or estimated.
        standard_error: Its standard error (*batch,); zero where the value is exact.
        lower: A lower bound (*batch,), in expectation or with high probability; minus infinity
            where there is none.
        upper: An upper bound (*batch,), likewise.
        method: How it was found, in words.
        trustworthy: Whether the method's own checks passed.
        why: What these checks found, in words.
        log_weights: The importance weights (samples, *batch) behind an estimate, in nats; empty
            where there are none.

    Example:
        >>> import torch
        >>> from pyro_ebm import LogPartition
        >>> z, error = torch.tensor(12.3), torch.tensor(0.1)
        >>> found = LogPartition(z, error, z - 1, z + 1, "by hand", True, "", torch.empty(0))
        >>> f"{found.value:.1f} ± {found.standard_error:.1f} nats"
        '12.3 ± 0.1 nats'
    """

    value: Tensor
    standard_error: Tensor
    lower: Tensor
    upper: Tensor
    method: str
    trustworthy: bool
    why: str
    log_weights: Tensor

    @classmethod
    def exact(cls, value: Tensor, method: str = "exact summation") -> Self:
        """An exact value of log Z: no error, and both bounds are the value.

        Args:
            value: log Z (*batch,).
            method: How it was found.

        Raises:
            TypeError: If the value is no tensor of real numbers.
        """
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"value is {value!r}; wanted log Z as a tensor of real numbers.")
        bound = value.detach()
        none = bound.new_zeros((0, *value.shape))
        return cls(
            value, torch.zeros_like(bound), bound, bound, method, True, "The value is exact.", none
        )
