"""Baselines against known figures and brute force; frozen units of every kind."""

import itertools
import math
from collections.abc import Callable

import arviz as az
import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm.datasets import digits
from pyro_ebm.statistics import (
    chow_liu_log_likelihood,
    describe_frozen,
    frozen_units,
    independent_log_likelihood,
)

BASELINES = {"independent": independent_log_likelihood, "tree": chow_liu_log_likelihood}


def correlated_bits(rows: int, units: int, seed: int) -> Tensor:
    """Bits that copy one another now and then."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, units, generator=generator) < 0.4
    for i in range(1, units):
        copied = torch.rand(rows, generator=generator) < i / units
        x[:, i] = torch.where(copied, x[:, i // 2], x[:, i])
    return x.float()


def all_states(units: int) -> Tensor:
    """Every vector of bits."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)))


def best_tree_by_brute_force(train: Tensor, test: Tensor, pseudocount: float) -> float:
    """The log-likelihood of the tree that maximises the smoothed training likelihood.

    Every labelled tree is built and scored as a chain of conditionals from node 0 outwards.
    """
    units = train.shape[1]

    def table(i: int, j: int) -> Tensor:
        counts = torch.full((2, 2), pseudocount, dtype=torch.float64)
        for a, b in itertools.product((0, 1), repeat=2):
            counts[a, b] += ((train[:, i] == a) & (train[:, j] == b)).sum()
        return counts / counts.sum()

    def per_state(tree: nx.Graph, x: Tensor) -> Tensor:
        x = x.long()
        log_p = table(0, 1).sum(1).log()[x[:, 0]]
        for parent, child in nx.bfs_edges(tree, 0):
            joint = table(parent, child)
            log_p = log_p + (joint / joint.sum(1, keepdim=True)).log()[x[:, parent], x[:, child]]
        return log_p

    def expected(tree: nx.Graph) -> float:
        # The smoothed training likelihood, up to what all trees share: the mutual information.
        total = 0.0
        for i, j in tree.edges:
            joint = table(i, j)
            total += float((joint * (joint / joint.sum(1, True) / joint.sum(0, True)).log()).sum())
        return total

    trees = (
        nx.from_prufer_sequence(list(code))
        for code in itertools.product(range(units), repeat=units - 2)
    )
    return float(per_state(max(trees, key=expected), test).mean())


def test_the_digits_under_both_baselines() -> None:
    data = digits()
    assert independent_log_likelihood(data.train, data.test) == pytest.approx(-25.2479, abs=5e-5)
    assert chow_liu_log_likelihood(data.train, data.test) == pytest.approx(-20.8220, abs=5e-5)


@pytest.mark.parametrize("pseudocount", [0.1, 1.0, 5.0])
def test_the_tree_is_the_best_of_all_trees(pseudocount: float) -> None:
    train, test = correlated_bits(200, 5, seed=0), correlated_bits(50, 5, seed=1)
    found = chow_liu_log_likelihood(train, test, pseudocount=pseudocount)
    assert found == pytest.approx(best_tree_by_brute_force(train, test, pseudocount), abs=1e-12)


@pytest.mark.parametrize("name", BASELINES)
def test_probabilities_sum_to_one(name: str) -> None:
    train = correlated_bits(40, 4, seed=2)
    total = sum(math.exp(BASELINES[name](train, state[None])) for state in all_states(4))
    assert total == pytest.approx(1, abs=1e-12)


def test_independent_units_by_hand() -> None:
    train, test = torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[1.0]])
    found = independent_log_likelihood(train, test, pseudocount=2.0)
    assert found == pytest.approx(math.log(4 / 7), abs=1e-12)


def test_a_tree_of_one_unit_has_no_edge() -> None:
    train, test = torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[1.0]])
    assert chow_liu_log_likelihood(train, test) == pytest.approx(math.log(4 / 7), abs=1e-12)


@pytest.mark.parametrize("name", BASELINES)
def test_the_dtype_of_the_data_makes_no_difference(name: str) -> None:
    train, test = correlated_bits(40, 4, seed=3), correlated_bits(20, 4, seed=4)
    expected = BASELINES[name](train, test)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float64):
        assert BASELINES[name](train.to(dtype), test.to(dtype)) == expected


ROWS = correlated_bits(10, 3, seed=5)
BAD = {
    "no pseudocount": ((ROWS, ROWS), 0.0, "pseudocount is 0.0"),
    "NaN pseudocount": ((ROWS, ROWS), math.nan, "pseudocount is nan"),
    "no rows": ((ROWS[:0], ROWS), 1.0, r"'train' has shape \(0, 3\)"),
    "one row": ((ROWS, ROWS[0]), 1.0, r"'test' has shape \(3,\)"),
    "width": ((ROWS, ROWS[:, :2]), 1.0, r"'test' has shape \(10, 2\)"),
    "spins": ((2 * ROWS - 1, ROWS), 1.0, r"'train' contains -1.*spins"),
    "NaN": ((ROWS, ROWS / 0), 1.0, "'test' contains NaN"),
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=list(BASELINES))
@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused(case: str, baseline: Callable[..., float]) -> None:
    (train, test), pseudocount, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        baseline(train, test, pseudocount=pseudocount)


# Four chains of 100 draws of five units: constant, stuck, moving in one chain only, moving, moving.
MIXED = torch.randint(0, 2, (4, 100, 5), generator=torch.Generator().manual_seed(0)).to(torch.int8)
MIXED[..., 0] = 1
MIXED[..., 1] = torch.tensor([0, 1, 1, 0], dtype=torch.int8)[:, None]
MIXED[1:, :, 2] = 0
NAMES = ["edge", "stuck", "rare", "left", "right"]


def test_constant_and_stuck_units_are_told_apart() -> None:
    frozen = frozen_units(MIXED)
    assert frozen.constant.tolist() == [True, False, False, False, False]
    assert frozen.stuck.tolist() == [False, True, False, False, False]


def test_r_hat_passes_a_constant_unit() -> None:
    # The reason for the report: a threshold on R-hat does not see what frozen_units sees.
    with np.errstate(all="ignore"):
        r_hat = az.rhat(MIXED[..., 0].double().numpy())
    assert not r_hat > 1.01
    assert frozen_units(MIXED).constant[0]


def test_one_chain_shows_constant_units_only() -> None:
    frozen = frozen_units(MIXED[:1])
    assert frozen.constant.tolist() == [True, True, False, False, False]
    assert not frozen.stuck.any()


def test_any_shape_and_any_dtype() -> None:
    frozen = frozen_units(MIXED[..., None].expand(-1, -1, -1, 2).double())
    assert frozen.constant.shape == frozen.stuck.shape == (5, 2)
    assert frozen.stuck[1].all()
    scalar = frozen_units(MIXED[..., 1])
    assert scalar.stuck.shape == ()
    assert scalar.stuck
    assert not scalar.constant


def test_a_unit_that_returns_to_its_start_is_not_frozen() -> None:
    draws = torch.zeros(2, 9, 1)
    draws[1, 4] = 1
    frozen = frozen_units(draws)
    assert not frozen.constant.any()
    assert not frozen.stuck.any()


def test_frozen_units_in_words() -> None:
    words = describe_frozen(frozen_units(MIXED), NAMES)
    first, second = words.split("\n")
    assert first.startswith("1 of 5 units keep one value")
    assert first.endswith(": edge.")
    assert second.startswith("1 of 5 units never change, but differ from chain to chain")
    assert second.endswith(": stuck.")
    moving = describe_frozen(frozen_units(MIXED[..., 3:]), NAMES[3:])
    assert moving == "Every one of the 2 units changes."


def test_bad_draws_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4,\); wanted \(chain, draw"):
        frozen_units(torch.zeros(4))
    with pytest.raises(ValueError, match=r"shape \(4, 0, 3\)"):
        frozen_units(torch.zeros(4, 0, 3))
    with pytest.raises(ValueError, match="NaN"):
        frozen_units(torch.full((2, 3, 1), torch.nan))
    with pytest.raises(ValueError, match="2 names for 5 units"):
        describe_frozen(frozen_units(MIXED), NAMES[:2])
