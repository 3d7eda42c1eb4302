"""Objectives × kinds of energies: value and gradient are those of the formula, by enumeration.

The energy is a learned multiple of one of the kinds, so every kind has a parameter.
Objectives that draw have their laws in test_objectives.py; one that does not joins by a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import Energy
from pyro_ebm.learning import ExactLikelihood, Objective
from pyro_ebm.sites import Sites
from tests.support.finite import Table
from tests.support.kinds import KINDS, Kind

LIMIT = 1e-10


class Formula(NamedTuple):
    """An objective, and what its loss is to be.

    Args:
        objective: The objective.
        wanted: Its loss, from an energy, a table of all states, the numbers (rows,) of those that
            are data, and their weights (rows,), of sum 1.
        suits: Whether it learns energies of a kind.
    """

    objective: Objective
    wanted: Callable[[Energy, Table, Tensor, Tensor], Tensor]
    suits: Callable[[Kind], bool] = lambda kind: True


def likelihood(energy: Energy, table: Table, rows: Tensor, weights: Tensor) -> Tensor:
    heights = energy.evaluate(table.x)
    return weights @ heights[rows] + (-heights).logsumexp(0)


def without_log_z(energy: Energy, table: Table, rows: Tensor, weights: Tensor) -> Tensor:
    return weights @ energy.evaluate(table.x)[rows]


OBJECTIVES = {"ExactLikelihood": Formula(ExactLikelihood(), likelihood)}
# The units of a machine of counts, a user's own, are not multiplied.
FINITE = [n for n, kind in KINDS.items() if kind.is_finite and n != "machine of counts"]


def errors(formula: Formula, kind: str, weights: Tensor | None) -> float:
    """How far value and gradient of the loss are off, of the larger the share."""
    factor = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    energy = factor * KINDS[kind].make(1.0)
    table = Table.of(energy)
    rows = table.laws.nonzero()[:, 0].repeat(2)[: 2 * len(table.laws) // 3 + 1]
    shares = torch.ones(len(rows)) if weights is None else weights[: len(rows)]
    shares = shares.to(energy.dtype)
    data: Sites = table.chosen(rows)
    state = formula.objective.init(energy, data)
    step = formula.objective.loss(energy, data, state, None if weights is None else shares)
    found = (step.loss, *torch.autograd.grad(step.loss, factor))
    loss = formula.wanted(energy, table, rows, shares / shares.sum())
    wanted = (loss, *torch.autograd.grad(loss, factor))
    pairs = zip(found, wanted, strict=True)
    return max(float(((a - b).abs() / (1 + b.abs())).detach()) for a, b in pairs)


CELLS = [
    (name, kind) for name, own in OBJECTIVES.items() for kind in FINITE if own.suits(KINDS[kind])
]


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_value_and_gradient_are_those_of_the_formula(name: str, kind: str) -> None:
    weights = (1 + torch.arange(500.0)).sqrt()
    single = KINDS[kind].make(1.0).dtype == torch.float32
    limit = 1e-5 if single else LIMIT
    assert errors(OBJECTIVES[name], kind, None) < limit
    assert errors(OBJECTIVES[name], kind, weights) < limit


def test_a_loss_without_log_z_is_found() -> None:
    mutant = Formula(ExactLikelihood(), without_log_z)
    assert all(errors(mutant, kind, None) > 1e-3 for kind in FINITE)


def test_weights_that_are_left_out_are_found() -> None:
    class Equal(Objective):
        def init(self, energy: Energy, data: Sites | Tensor) -> None:
            return ExactLikelihood().init(energy, data)

        def loss(self, energy, data, state, row_weights=None):  # noqa: ANN001, ANN202
            return ExactLikelihood().loss(energy, data, state)

    weights = (1 + torch.arange(500.0)).sqrt()
    assert errors(Formula(Equal(), likelihood), "machine of bits", weights) > 1e-4
