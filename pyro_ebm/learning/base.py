"""What an objective is.

A surrogate loss whose gradient is the wanted one, for any torch optimiser. The objective is
settings only; what goes on from step to step (persistent chains) is its state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypeVar

from pyro_ebm.energies import Clamped, Energy, PairwiseTerms
from pyro_ebm.sites import Site, Sites

State = TypeVar("State", default=Any)  # of one objective: its own


class Step(NamedTuple, Generic[State]):
    """What an objective says of some rows.

    Args:
        loss: The surrogate loss (), whose gradient is the wanted one.
        state: The objective's state after it.
        fantasies: States of all sites that stand for the model's own (rows, *site.shape), where
            there are such: the monitor compares them with the data.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, ContrastiveDivergence
        >>> machine, rows = BoltzmannMachine.restricted(3, 2), torch.ones(4, 3)
        >>> state = ContrastiveDivergence().init(machine, rows)
        >>> step = ContrastiveDivergence().loss(machine, rows, state)
        >>> step.loss.requires_grad, step.fantasies["visible"].shape
        (True, torch.Size([4, 3]))
    """

    loss: Tensor
    state: State
    fantasies: Sites | None = None


class Objective(ABC, Generic[State]):
    """A learning rule: a surrogate loss whose gradient is the wanted one.

    One of one's own is `class Mine(Objective)`, or, for type checkers, `Objective[MyState]`.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, ExactLikelihood
        >>> machine, rows = BoltzmannMachine.restricted(3, 2), torch.ones(4, 3)
        >>> state = ExactLikelihood().init(machine, rows)
        >>> ExactLikelihood().loss(machine, rows, state).loss.backward()
        >>> machine.layers["visible"].bias.grad < 0  # biases of bits that are always 1
        tensor([True, True, True])
    """

    @abstractmethod
    def init(self, energy: Energy, data: Sites | Tensor) -> State:
        """The state before the first step, after the checks of what is given.

        Args:
            energy: What is to be learned.
            data: Values of the observed sites (rows, *site.shape), or a bare tensor for `visible`.

        Raises:
            TypeError, ValueError: If the rule cannot learn this energy from these data.
        """

    @abstractmethod
    def loss(
        self,
        energy: Energy,
        data: Sites | Tensor,
        state: State,
        row_weights: Tensor | None = None,
    ) -> Step[State]:
        """The surrogate loss at these rows, and the next state.

        Args:
            energy: What is to be learned; its parameters may have changed since the last call.
            data: As for `init`, any rows.
            state: From `init` or the last call.
            row_weights: Of the rows (rows,), not negative; equal ones if left out.
        """


def rows_of(x: Sites, sites: Mapping[str, Site]) -> int:
    """The number of rows of a batch of data (rows, *site.shape).

    Raises:
        ValueError: If it is not one batch dimension, the same for all sites, or empty.
    """
    if not x:
        raise ValueError("The data hold no site; give at least one, with its rows (rows, units).")
    for site, value in x.items():
        own = sites[site].shape
        if value.dim() != len(own) + 1 or not len(value):
            row = "units" if len(own) == 1 else ", ".join(map(str, own))
            raise ValueError(
                f"The data of {site!r} have shape {tuple(value.shape)}; wanted (rows, {row}) with "
                f"at least one row. For a single row use data[None]."
            )
    if len({len(value) for value in x.values()}) > 1:
        shapes = {site: tuple(value.shape) for site, value in x.items()}
        raise ValueError(f"The sites have different numbers of rows: they have shapes {shapes}.")
    return len(next(iter(x.values())))


def require_unbatched(terms: PairwiseTerms, held: torch.Size) -> None:
    """Refuses machines whose parameters have batch dimensions.

    Args:
        terms: The parameters.
        held: The batch shape of the values that the machine holds.

    Raises:
        ValueError: If they have.
    """
    if held:
        raise ValueError(
            f"The machine holds {tuple(held)} rows of values, each with a law of its own, which "
            f"only ExactLikelihood() learns from; or hold one row, without a batch dimension."
        )
    if terms.batch:
        raise ValueError(
            f"The parameters have the batch shape {tuple(terms.batch)}; learn the machines of a "
            f"batch one by one."
        )


def held_batch(energy: Energy) -> torch.Size:
    """The batch shape of the values that an energy holds: of `clamp` by rows."""
    return energy.held.batch if isinstance(energy, Clamped) else torch.Size()


def require_row_laws(energy: Energy, rows: int) -> torch.Size:
    """The batch shape of the values that an energy holds, where it is that of the data.

    Raises:
        ValueError: If it holds other rows than there are.
    """
    held = held_batch(energy)
    if held and held != (rows,):
        raise ValueError(
            f"The energy holds {tuple(held)} rows of values, and the data have {rows} rows; wanted "
            f"one row of data for each row that is held, in the same order."
        )
    return held


def normalised(row_weights: Tensor | None, rows: int, like: Tensor) -> Tensor | None:
    """Weights of the rows that sum to 1, in the dtype and on the device of another tensor.

    Raises:
        ValueError: If there is not one for each row, one is negative or not finite, or all are 0.
    """
    if row_weights is None:
        return None
    row_weights = torch.as_tensor(row_weights).detach().to(like)
    if row_weights.shape != (rows,):
        raise ValueError(
            f"row_weights has shape {tuple(row_weights.shape)}; wanted ({rows},), one for each row."
        )
    total = row_weights.sum()
    if bool((row_weights < 0).any()) or not bool((total > 0) & total.isfinite()):
        raise ValueError(
            f"row_weights sum to {float(total):g}, and the least is {float(row_weights.min()):g}; "
            f"wanted finite numbers that are not negative, some of them positive."
        )
    return row_weights / total
