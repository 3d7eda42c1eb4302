"""What an objective is.

A surrogate loss whose gradient is the wanted one, for any torch optimiser. The objective is
settings only; what goes on from step to step (persistent chains) is its state.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites


class Objective(ABC):
    """A learning rule; see the module's docstring."""

    @abstractmethod
    def init(self, energy: Energy, data: Sites | Tensor) -> Any:  # noqa: ANN401 (each its State)
        """The state before the first step, after the checks at the door.

        Args:
            energy: What is to be learned.
            data: Values of the observed sites (rows, n), or a bare tensor for `visible`.

        Raises:
            TypeError, ValueError: If the rule cannot learn this energy from these data.
        """

    @abstractmethod
    def loss(
        self,
        energy: Energy,
        data: Sites | Tensor,
        state: Any,  # noqa: ANN401
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """The surrogate loss () at these rows, and the next state.

        Args:
            energy: What is to be learned; its parameters may have changed since the last call.
            data: As for `init`, any rows.
            state: From `init` or the last call.
            weights: Of the rows (rows,), not negative; equal ones if left out.
        """

    @abstractmethod
    def fantasies(self, state: Any) -> Sites | None:  # noqa: ANN401
        """States of all sites that stand for the model's own (rows, n), where there are such."""


def normalised(weights: Tensor | None, rows: int) -> Tensor | None:
    """Weights that sum to 1.

    Raises:
        ValueError: If there is not one for each row, one is negative, or all are zero.
    """
    if weights is None:
        return None
    if weights.shape != (rows,):
        raise ValueError(f"weights has shape {tuple(weights.shape)}; wanted ({rows},), one a row.")
    total = weights.sum()
    if bool((weights < 0).any()) or not bool(total > 0):
        raise ValueError("weights must not be negative, and some must be positive.")
    return weights / total
