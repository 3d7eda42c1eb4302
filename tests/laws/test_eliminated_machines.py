"""Machines are eliminated, and take messages, as random fields are: against enumeration.

Nodes are the units of all sites in order, labels the numbers of their levels.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm import belief_propagation
from pyro_ebm.energies import BoltzmannMachine
from pyro_ebm.partition import elimination, exact
from pyro_ebm.units import Categorical, Gaussian, Spin
from tests.support.checks import distance
from tests.support.goodness import ALPHA, CHAINS, chi_square, counts_of
from tests.support.listed_unit import binomial
from tests.support.machines import ENUMERATED, LEVELS, Small, stacked, varied

NAMES = [
    "torus",
    "bits on a ring",
    "sparse between layers",
    "restricted",
    "fully visible bits",
    "labels, spins and bits",
    "Potts restricted with offsets",
    "counts on a ring",
    "coupled counts",
    "counts and labels",
    "values of their own on a graph",
]
TREES = ["one unit", "no couplings", "one label"]
each_machine = pytest.mark.parametrize("name", NAMES)


def node_laws(small: Small) -> np.ndarray:  # (nodes, q)
    """p of each level of each unit, by sums over all joint states."""
    kinds = [unit for s, unit in small.units.items() for _ in range(small.sizes[s])]
    q = max(len(LEVELS[unit]) for unit in kinds)
    found = np.zeros((len(kinds), q))
    for i, unit in enumerate(kinds):
        for a, level in enumerate(LEVELS[unit]):
            found[i, a] = small.probabilities[small.flat_states[:, i] == level].sum()
    return found


@each_machine
def test_log_z_marginals_and_mode_are_those_of_brute_force(name: str) -> None:
    small = ENUMERATED[name]
    machine = small.machine()
    assert distance(elimination.log_partition(machine), np.array(small.log_partition)) < 1e-12
    wanted = node_laws(small)
    assert distance(elimination.node_marginals(machine), wanted) < 1e-12
    found = elimination.marginals(machine)
    assert distance(found.nodes, wanted) < 1e-12
    for table in found.factors.values():
        assert distance(table.flatten(1).sum(1), torch.ones(len(table))) < 1e-12
    assert elimination.plan(machine).width >= 0
    mode = elimination.mode(machine)
    assert distance(mode.energy, np.array(small.energies.min())) < 1e-12
    assert distance(machine(mode.x), np.array(small.energies.min())) < 1e-12


@each_machine
def test_draws_follow_the_law(name: str) -> None:
    # α = 1e-6, N = 20,000: the smallest fault found is that of test_exact_starts.py.
    small = ENUMERATED[name]
    draws = elimination.sample(small.machine(torch.float32), CHAINS, seed=1)
    assert all(value.dtype == torch.float32 for value in draws.values())
    assert chi_square(counts_of(draws, small), small.probabilities) > ALPHA


@pytest.mark.parametrize("name", TREES)
def test_messages_are_exact_without_loops(name: str) -> None:
    small = ENUMERATED[name]
    found = belief_propagation(small.machine())
    assert bool(found.converged)
    assert distance(found.nodes, node_laws(small)) < 1e-7
    assert distance(found.bethe_log_partition, np.array(small.log_partition)) < 1e-7


def test_messages_on_a_tree_of_counts_are_exact() -> None:
    machine = chain(binomial(2), 12, torch.linspace(-0.5, 0.5, 11).double())
    found = belief_propagation(machine)
    assert distance(found.bethe_log_partition, exact.log_partition(machine)) < 1e-6
    assert distance(found.nodes, elimination.node_marginals(machine)) < 1e-6


def test_machines_of_a_batch_are_eliminated_together() -> None:
    rng = np.random.default_rng(0)
    machines = [ENUMERATED["counts on a ring"]]
    machines += [varied(machines[0], rng) for _ in range(2)]
    whole = stacked(machines).machine()
    wanted = np.array([m.log_partition for m in machines])
    assert distance(elimination.log_partition(whole), wanted) < 1e-12
    laws = np.stack([node_laws(m) for m in machines])
    assert distance(elimination.node_marginals(whole), laws) < 1e-12
    draws = elimination.sample(whole, 5)["visible"]
    assert draws.shape == (5, 3, 5)


def chain(unit: Spin, n: int, weight: Tensor) -> BoltzmannMachine:
    edges = [(k, k + 1) for k in range(n - 1)]
    bias = torch.zeros(n, dtype=weight.dtype)
    return BoltzmannMachine.on_graph(edges, n, unit=unit, couplings=weight, biases=bias)


def test_a_chain_of_counts_has_the_log_z_of_its_transfer_matrix() -> None:
    unit, n, coupling = binomial(2), 30, 0.3
    levels, weights = np.arange(3.0), np.array([1.0, 2.0, 1.0])
    transfer = np.exp(coupling * np.outer(levels, levels)) * weights
    wanted = math.log(weights @ np.linalg.matrix_power(transfer, n - 1) @ np.ones(3))
    assert wanted == pytest.approx(54.029, abs=5e-4)
    machine = chain(unit, n, torch.full((n - 1,), coupling, dtype=torch.float64))
    for found in (exact.log_partition(machine), elimination.log_partition(machine)):
        assert float(found) == pytest.approx(wanted, rel=1e-13)
    # ½ per edge: all pair moments, by differences of the transfer matrix in one coupling.
    edge = exact.moments(machine).second[0, 1]
    step = 1e-5
    ends = []
    for shift in (-step, step):
        first = np.exp((coupling + shift) * np.outer(levels, levels)) * weights
        product = weights @ first @ np.linalg.matrix_power(transfer, n - 2)
        ends.append(math.log(product @ np.ones(3)))
    assert float(edge) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-8)


def test_real_units_are_refused_by_name() -> None:
    machine = BoltzmannMachine.restricted(3, 2, units=(Categorical(2), Gaussian()))
    for ask in (elimination.log_partition, elimination.mode, belief_propagation):
        with pytest.raises(TypeError, match=r"the units of \['hidden'\] are real"):
            ask(machine)
