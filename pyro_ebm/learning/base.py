"""What an objective is.

A surrogate loss whose gradient is the wanted one, for any torch optimiser. The objective is
settings only; what goes on from step to step (persistent chains) is its state.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, PairwiseTerms
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


def require_unbatched(terms: PairwiseTerms) -> None:
    """Refuses machines whose parameters have batch dimensions.

    Raises:
        ValueError: If they have.
    """
    if terms.batch:
        raise ValueError(
            f"The parameters have the batch shape {tuple(terms.batch)}; learn the machines of a "
            f"batch one by one."
        )


def normalised(weights: Tensor | None, rows: int, like: Tensor) -> Tensor | None:
    """Weights that sum to 1, in the dtype and on the device of another tensor.

    Raises:
        ValueError: If there is not one for each row, one is negative or not finite, or all are 0.
    """
    if weights is None:
        return None
    weights = torch.as_tensor(weights).detach().to(like)
    if weights.shape != (rows,):
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; wanted ({rows},), one for each row."
        )
    total = weights.sum()
    if bool((weights < 0).any()) or not bool((total > 0) & total.isfinite()):
        raise ValueError(
            f"weights sum to {float(total):g}, and the least is {float(weights.min()):g}; wanted "
            f"finite numbers that are not negative, some of them positive."
        )
    return weights / total
