"""Belief propagation: exact on trees, a fixed point with loops, and honest about convergence."""

import math
import sys
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch

from pyro_ebm.energies import RandomField, TableFactors
from pyro_ebm.partition import belief_propagation as door
from pyro_ebm.partition.elimination import elimination
from tests.support.fields import FIELDS, INF, TREES, SmallField, distance, drawn, stacked, varied

module = sys.modules[door.__module__]  # the function has the name of its module
Patch = pytest.MonkeyPatch

FACTOR_TREES = {
    **{name: FIELDS[name] for name in TREES},
    "a tree with factors of three": drawn(
        [2, 3, 2, 4, 2, 2], {"triple": [[0, 1, 2], [2, 3, 4]], "edge": [[4, 5]]}, seed=1
    ),
    "a tree with forbidden states": drawn(
        [3] * 5,
        {"node": [[0], [3]], "edge": [[0, 1], [1, 2], [1, 3], [3, 4]]},
        seed=2,
        forbidden=0.3,
    ),
}
LOOPS = {
    **{name: FIELDS[name] for name in ("a ring", "an odd ring of bits", "factors of three")},
    "forbidden states": FIELDS["forbidden states"],
    "mixed and loopy": drawn([2, 3, 4], {"edge": [[0, 1], [1, 2], [2, 0]]}, seed=3, scale=0.5),
}


def tree_error(small: SmallField, damping: float = 0.0) -> float:
    """Of log Z, and of the laws of nodes and factors, where they must be exact."""
    found = door(small.field(), damping=damping, tolerance=1e-13)
    assert bool(found.converged)
    return max(
        distance(found.bethe_log_partition, small.log_partition),
        distance(found.nodes, small.node_marginals),
        *(distance(found.factors[name], small.factor_marginals(name)) for name in small.groups),
    )


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("name", FACTOR_TREES)
def test_a_tree_is_exact(name: str, damping: float) -> None:
    assert tree_error(FACTOR_TREES[name], damping) < 1e-10


def test_a_long_chain_settles_after_its_length_and_not_before() -> None:
    field = RandomField.chain(torch.randn(60, 3).double(), torch.randn(59, 3, 3).double())
    found = door(field, damping=0.0, tolerance=1e-15)
    assert bool(found.converged)
    assert found.iterations <= 62
    same = elimination.log_partition(field)
    torch.testing.assert_close(found.bethe_log_partition, same, rtol=0, atol=1e-10)
    early = door(field, damping=0.0, max_iterations=1, tolerance=1e-15)
    assert not bool(early.converged)
    assert float(early.change) > 1e-3
    assert early.iterations == 1


def bethe_by_entropies(small: SmallField, nodes: np.ndarray, factors: dict) -> float:
    """Σ_f (E_b[log ψ] + H(b_f)) − Σ_i (d_i − 1) H(b_i)."""

    def entropy(p: np.ndarray) -> float:
        return -sum(v * math.log(v) for v in p.ravel() if v > 0)

    degree, total = np.zeros(len(small.levels)), 0.0
    for name, group in small.groups.items():
        for f, members in enumerate(group.nodes):
            degree[members] += 1
            belief, table = factors[name][f], group.table(f)
            total += sum(b * t for b, t in zip(belief.ravel(), table.ravel(), strict=True) if b > 0)
            total += entropy(belief)
    return total - sum((d - 1) * entropy(p) for d, p in zip(degree, nodes, strict=True))


def fixed_point_error(small: SmallField) -> float:
    """How far factors and nodes disagree, and the Bethe estimate is from its other formula."""
    found = door(small.field(), tolerance=1e-13, max_iterations=5000)
    assert bool(found.converged)
    nodes = found.nodes.numpy()
    factors = {name: value.numpy() for name, value in found.factors.items()}
    worst = abs(float(found.bethe_log_partition) - bethe_by_entropies(small, nodes, factors))
    for name, group in small.groups.items():
        for f, members in enumerate(group.nodes):
            for k, i in enumerate(members):
                others = tuple(j for j in range(len(members)) if j != k)
                own = factors[name][f].sum(others)
                worst = max(worst, float(np.abs(own - nodes[i, : len(own)]).max()))
    return worst


@pytest.mark.parametrize("name", LOOPS)
def test_at_a_fixed_point_factors_and_nodes_agree(name: str) -> None:
    assert fixed_point_error(LOOPS[name]) < 1e-10


@pytest.mark.parametrize("name", LOOPS)
def test_with_loops_it_is_near_the_truth_and_not_exact(name: str) -> None:
    small = LOOPS[name]
    found = door(small.field(), tolerance=1e-12)
    error = float(np.abs(found.nodes.numpy() - small.node_marginals).max())
    assert 1e-9 < error < 0.2
    assert 1e-9 < abs(float(found.bethe_log_partition) - small.log_partition) < 0.5


def test_a_regular_graph_at_high_temperature_is_the_bethe_lattice() -> None:
    # ln 2 + (z/2) ln cosh β a spin, with z = 4 neighbours, below tanh β = 1/3.
    graph = nx.grid_2d_graph(6, 6, periodic=True)
    field = RandomField.ising(
        graph, couplings=torch.tensor([0.2], dtype=torch.float64), field=torch.zeros(1).double()
    )
    found = door(field)
    wanted = 36 * (math.log(2) + 2 * math.log(math.cosh(0.2)))
    assert abs(float(found.bethe_log_partition) - wanted) < 1e-10


def test_the_gradient_of_the_bethe_estimate_is_the_beliefs() -> None:
    small = FIELDS["a ring"]
    field = small.field(wrap=torch.nn.Parameter)
    found = door(field, tolerance=1e-13)
    found.bethe_log_partition.backward()
    for name in small.groups:
        gradient = field.factors[name].table.grad
        torch.testing.assert_close(gradient, found.factors[name].detach(), rtol=0, atol=1e-10)
    # And of the estimate itself, messages and all.
    step, values = 1e-4, []
    for sign in (1, -1):
        changed = small.field()
        changed.factors["edge"].table[1, 0, 2] += sign * step
        values.append(float(door(changed, tolerance=1e-13).bethe_log_partition))
    slope = (values[0] - values[1]) / (2 * step)
    assert abs(slope - float(found.factors["edge"].detach()[1, 0, 2])) < 1e-6


def test_a_batch_is_each_field_for_itself() -> None:
    many = varied(FIELDS["a ring"], 3)
    together = door(stacked(many), tolerance=1e-12)
    assert together.change.shape == together.converged.shape == (3,)
    for k, small in enumerate(many):
        alone = door(small.field(), tolerance=1e-12)
        assert distance(together.nodes[k], alone.nodes.numpy()) < 1e-9
        assert distance(together.factors["edge"][k], alone.factors["edge"].numpy()) < 1e-9
        value = alone.bethe_log_partition.item()
        assert distance(together.bethe_log_partition[k], value) < 1e-9


def frustrated() -> RandomField:
    """Neighbours that all want to differ: the messages swing to and fro without damping."""
    generator = torch.Generator().manual_seed(2)
    edges = [(a, b) for a in range(10) for b in range(a)]
    coupling = torch.randn(len(edges), generator=generator, dtype=torch.float64) / 20 - 0.4
    own = torch.randn(10, generator=generator, dtype=torch.float64) / 10 + 1
    return RandomField.ising(edges, couplings=coupling, field=own)


def test_messages_that_do_not_settle_are_said_not_to() -> None:
    found = door(frustrated(), damping=0.0, max_iterations=300)
    assert found.iterations == 300
    assert not bool(found.converged)
    assert float(found.change) > 0.01
    assert bool(door(frustrated(), damping=0.8).converged)


def damped_change_error(damping: float) -> float:
    """How far the reported change is from that of the messages themselves."""
    found = door(frustrated(), damping=damping, max_iterations=2)
    return abs(float(found.change) - second_change(damping))


def second_change(damping: float) -> float:
    """The change of the second sending, before it is damped, written out for pairs."""
    field = frustrated()
    coupling = field.factors["edge"].weight.numpy()
    own = field.factors["node"].weight.numpy()
    edges = field.factors["edge"].nodes.numpy()
    up, down = np.array([-1.0, 1.0]), {}
    table = {e: coupling[e] * np.outer(up, up) for e in range(len(edges))}
    unary = {i: own[i] * up - np.logaddexp.reduce(own[i] * up) for i in range(10)}
    half = np.full(2, -math.log(2))
    down = {(e, k): half for e in range(len(edges)) for k in (0, 1)}
    alone = dict.fromkeys(range(10), half)
    change = 0.0
    for _ in range(2):
        new = {}
        for e, k in down:
            i = edges[e][1 - k]
            message = alone[i] + sum(
                down[other, j] for other, j in down if edges[other][j] == i and other != e
            )
            joint = table[e] + (message[:, None] if k == 1 else message[None])
            value = np.logaddexp.reduce(joint, axis=1 - k)
            new[e, k] = value - np.logaddexp.reduce(value)
        change = max(np.abs(np.exp(new[key]) - np.exp(down[key])).max() for key in down)
        change = max(change, *(np.abs(np.exp(unary[i]) - np.exp(alone[i])).max() for i in alone))

        def mixed(fresh: np.ndarray, old: np.ndarray) -> np.ndarray:
            value = (1 - damping) * fresh + damping * old
            return value - np.logaddexp.reduce(value)

        down = {key: mixed(new[key], down[key]) for key in down}
        alone = {i: mixed(unary[i], alone[i]) for i in alone}
    return float(change)


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_the_change_is_that_of_the_messages_before_damping(damping: float) -> None:
    assert damped_change_error(damping) < 1e-12


def test_no_allowed_state_is_refused() -> None:
    no = torch.tensor([[[-INF, -INF], [-INF, 0.0]], [[0.0, 0.0], [-INF, -INF]]]).double()
    field = RandomField([2] * 3, {"edge": TableFactors([[0, 1], [1, 2]], no)})
    with pytest.raises(ValueError, match="No state of the field is allowed"):
        door(field)


# --- planted faults ------------------------------------------------------------------------------

right_to_factors = module.to_factors
right_changed = module.messages_changed
right_placed = module.placed


def own_message_not_left_out(graph: object, messages: dict, allowed: object) -> tuple:
    total, upward = right_to_factors(graph, messages, allowed)
    return total, {key: value + messages[key] for key, value in upward.items()}


FAULTS: dict[str, tuple[str, object, Callable[[], float]]] = {
    "a factor hears its own message": (
        "to_factors",
        own_message_not_left_out,
        lambda: tree_error(FIELDS["a chain"]),
    ),
    "a change that is half": (
        "messages_changed",
        lambda *given: right_changed(*given) / 2,
        lambda: damped_change_error(0.7),
    ),
    "messages to factors that are not those of the nodes": (
        "placed",
        lambda message, k, group: right_placed(message.flip(-1), k, group),
        lambda: tree_error(FIELDS["a chain"]),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: Patch) -> None:
    name, planted, error = FAULTS[fault]
    assert error() < 1e-10
    monkeypatch.setattr(module, name, planted)
    try:
        found = error()
    except AssertionError:
        return  # it does not even settle
    assert not found < 1e-4
