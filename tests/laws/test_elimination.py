"""Exact elimination against brute force, transfer matrices, recursions on trees and Kaufman."""

import math
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import FactorGroup, RandomField, TableFactors
from pyro_ebm.partition import TooManyStatesError, exact
from pyro_ebm.partition.elimination import elimination
from pyro_ebm.partition.elimination.elimination import Operand
from tests.support.fields import FIELDS, INF, RANDOM, SmallField, distance, drawn, stacked, varied
from tests.support.goodness import ALPHA, chi_square

EVERY = {**FIELDS, **RANDOM}
POSSIBLE = {name: small for name, small in EVERY.items() if small.log_partition > -INF}
each_field = pytest.mark.parametrize("name", POSSIBLE)
Patch = pytest.MonkeyPatch


# --- against brute force -------------------------------------------------------------------------


def log_partition_error(small: SmallField) -> float:
    return distance(elimination.log_partition(small.field()), small.log_partition)


def marginal_error(small: SmallField) -> float:
    """Of the laws of single nodes and of all factors."""
    found = elimination.marginals(small.field())
    alone = elimination.node_marginals(small.field())
    parts = [distance(found.nodes, small.node_marginals), distance(alone, small.node_marginals)]
    parts += [distance(found.factors[name], small.factor_marginals(name)) for name in small.groups]
    return max(parts)


def mode_error(small: SmallField) -> float:
    """How far the energy of the mode is from the least one, and from what is said of it."""
    found = elimination.mode(small.field())
    (x,) = found.x.values()
    own = small.energy([int(label) for label in x])
    return max(distance(found.energy, own), abs(own - small.energies.min()))


def draws_p_value(small: SmallField, count: int, seed: int = 0) -> float:
    x = elimination.sample(small.field(), count, seed)["visible"]
    counts = np.bincount(small.index(x), minlength=len(small.energies))
    return chi_square(counts, small.probabilities)


def test_there_are_fifty_random_graphs_with_what_is_said_of_them() -> None:
    assert len(RANDOM) == 50
    assert sum(len(set(small.levels)) > 1 for small in RANDOM.values()) > 40
    assert all(small.groups["triple"].nodes.shape[1] == 3 for small in RANDOM.values())
    assert len(set(RANDOM) & set(POSSIBLE)) > 45


@each_field
def test_log_partition_is_that_of_all_states(name: str) -> None:
    assert log_partition_error(POSSIBLE[name]) < 1e-10


@each_field
def test_marginals_are_those_of_all_states(name: str) -> None:
    assert marginal_error(POSSIBLE[name]) < 1e-10


@each_field
def test_the_mode_has_the_least_energy(name: str) -> None:
    assert mode_error(POSSIBLE[name]) < 1e-10


# 66 looks at α / 66 each. With 4,000 draws a law at χ² distance 0.02 and more is found (99 of 100)
# where there are up to 100 states, 0.1 where there are thousands.
@each_field
def test_draws_follow_the_law_of_all_states(name: str) -> None:
    assert draws_p_value(POSSIBLE[name], 4_000) > ALPHA / len(POSSIBLE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_draws_follow_the_law_whatever_the_seed(seed: int) -> None:
    for name in ("mixed numbers of states", "factors of three and four", "forbidden states"):
        assert draws_p_value(POSSIBLE[name], 200_000, seed) > ALPHA / 60


def test_the_draws_are_the_seeds_and_the_callers_generator_stays() -> None:
    field = FIELDS["a ring"].field()
    before = torch.get_rng_state()
    first, again, other = (elimination.sample(field, 50, seed)["visible"] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_enumeration_by_the_library_agrees() -> None:
    for name in ("a ring", "mixed numbers of states", "factors of three and four"):
        field = FIELDS[name].field()
        both = elimination.log_partition(field), exact.log_partition(field)
        torch.testing.assert_close(*both, rtol=0, atol=1e-12)


# --- every way of summing a step -----------------------------------------------------------------

WAYS = {
    "by products": {"SMALL": 0},
    "never by products": {"LEAST": INF, "SMALL": 0},
    "computed again for the gradient": {"RECOMPUTED": 0},
    "products, computed again": {"RECOMPUTED": 0, "SMALL": 0},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*FIELDS, *list(RANDOM)[:10]])
def test_every_way_of_summing_a_step_gives_the_same(
    name: str, way: str, monkeypatch: Patch
) -> None:
    for setting, value in WAYS[way].items():
        monkeypatch.setattr(elimination, setting, value)
    small = EVERY[name]
    if small.log_partition > -INF:
        assert log_partition_error(small) < 1e-10
        assert marginal_error(small) < 1e-10
        assert mode_error(small) < 1e-10


def test_products_that_would_underflow_are_not_taken() -> None:
    # The maxima stand at different labels: e^-900 of the truth's terms is 0 in a float64.
    first = torch.tensor([0.0, -900.0]).double()
    second = torch.tensor([[-900.0, 0.0], [0.0, 0.0]]).double().mT.contiguous()
    operands = [Operand(first, (0,)), Operand(second, (0, 1))]
    assert elimination.by_products([Operand(first[:, None], (0, 2)), operands[1]]) is None
    found = elimination.log_sum([Operand(first[:, None], (0, 2)), operands[1]])
    wanted = torch.logsumexp(first[:, None] + second, 0)
    torch.testing.assert_close(found.table.flatten(), wanted, rtol=1e-15, atol=0)


def test_the_gradient_is_right_where_a_product_is_small() -> None:
    # Pyro's own logarithm clamps its gradient where a sum is below 2^-52.
    first = torch.tensor([[0.0], [-60.0]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[-60.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = elimination.by_products([Operand(first, (0, 2)), Operand(second, (0, 1))])
    (gradient,) = torch.autograd.grad(found.table[0, 0], first)
    torch.testing.assert_close(gradient.flatten(), torch.full((2,), 0.5).double())


def test_forbidden_states_may_go_by_products() -> None:
    allowed = torch.tensor([[0.0, -INF, -INF], [1.0, 0.0, -INF]]).double()
    message = torch.tensor([[2.0], [-INF]]).double()
    found = elimination.by_products([Operand(allowed, (0, 1)), Operand(message, (0, 2))])
    assert found is not None
    assert found.table.flatten().tolist() == [2.0, -INF, -INF]


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["an odd ring of bits", "mixed, one table"])
def test_log_partition_is_differentiable_twice(name: str, monkeypatch: Patch) -> None:
    small = FIELDS[name]
    tables = [torch.tensor(group.tables, requires_grad=True) for group in small.groups.values()]

    def log_z(*given: Tensor) -> Tensor:
        factors = {
            name: TableFactors(torch.tensor(group.nodes), table)
            for (name, group), table in zip(small.groups.items(), given, strict=True)
        }
        return elimination.log_partition(RandomField(small.levels, factors))

    for least in (2**12, 0):
        monkeypatch.setattr(elimination, "SMALL", least)
        assert torch.autograd.gradcheck(log_z, tables)
        assert torch.autograd.gradgradcheck(log_z, tables)


@pytest.mark.parametrize("name", ["a chain with one table", "factors of three"])
def test_the_gradient_of_the_likelihood_is_a_difference_of_moments(name: str) -> None:
    small = FIELDS[name]
    rng = np.random.default_rng(0)
    rows = small.states[rng.integers(0, len(small.states), 30)]
    field = small.field(wrap=nn.Parameter)
    likelihood = (-field(torch.tensor(rows)) - elimination.log_partition(field)).mean()
    likelihood.backward()
    for name, group in small.groups.items():
        of_data = np.zeros((len(group.nodes), *group.tables.shape[1:]))
        for x in rows:
            for f, nodes in enumerate(group.nodes):
                of_data[(f, *x[nodes])] += 1 / len(rows)
        wanted = of_data - small.factor_marginals(name)
        if len(group.tables) == 1:
            wanted = wanted.sum(0, keepdims=True)
        assert distance(field.factors[name].table.grad, wanted) < 1e-10


def test_gradients_are_finite_where_states_are_forbidden() -> None:
    for name in ("forbidden states", "random graph 3", "random graph 10"):
        small = EVERY[name]
        field = small.field(wrap=nn.Parameter)
        if small.log_partition > -INF:
            elimination.log_partition(field).backward()
            for parameter in field.parameters():
                assert bool(parameter.grad.isfinite().all())
                assert not parameter.grad[parameter == -INF].any()
    # A label with no way on: all entries of a column are −inf.
    dead = torch.tensor([[[0.0, -INF], [1.0, -INF]]], dtype=torch.float64, requires_grad=True)
    field = RandomField([2] * 3, {"edge": TableFactors([[0, 1], [1, 2]], dead)})
    elimination.log_partition(field).backward()
    assert bool(dead.grad.isfinite().all())


def test_marginals_are_differentiable_where_tables_have_a_history() -> None:
    small = FIELDS["a ring"]
    field = small.field(wrap=nn.Parameter)
    found = elimination.marginals(field)
    found.nodes[0, 1].backward()
    # d p(a) / d table = cov([a], [entry])
    table = field.factors["node"].table.grad
    p = small.node_marginals
    assert abs(float(table[0, 1]) - p[0, 1] * (1 - p[0, 1])) < 1e-12
    assert not elimination.marginals(small.field()).nodes.requires_grad
    with torch.no_grad():
        assert not elimination.node_marginals(field).requires_grad


# --- batches and chains of unequal length --------------------------------------------------------


@pytest.mark.parametrize("name", ["a ring", "mixed numbers of states", "factors of three"])
def test_batched_tables_are_fields_of_their_own(name: str) -> None:
    many = varied(FIELDS[name], 4)
    field = stacked(many)
    log_z, found = elimination.log_partition(field), elimination.marginals(field)
    best = elimination.mode(field)
    draws = elimination.sample(field, 4_000, seed=0)["visible"]
    assert draws.shape == (4_000, 4, len(many[0].levels))
    for k, small in enumerate(many):
        assert distance(log_z[k], small.log_partition) < 1e-10
        assert distance(found.nodes[k], small.node_marginals) < 1e-10
        for name in small.groups:
            assert distance(found.factors[name][k], small.factor_marginals(name)) < 1e-10
        assert abs(float(best.energy[k]) - small.energies.min()) < 1e-10
        counts = np.bincount(small.index(draws[:, k]), minlength=len(small.energies))
        assert chi_square(counts, small.probabilities) > ALPHA / 12
    # Every batch element has random numbers of its own.
    assert not torch.equal(draws[:, 0], draws[:, 1])


def test_tables_of_different_batches_broadcast() -> None:
    unary, pairwise = torch.randn(3, 1, 4, 2).double(), torch.randn(5, 1, 2, 2).double()
    field = RandomField.chain(unary, pairwise)
    found = elimination.log_partition(field)
    assert found.shape == (3, 5)
    assert elimination.node_marginals(field).shape == (3, 5, 4, 2)
    alone = elimination.log_partition(RandomField.chain(unary[2, 0], pairwise[4]))
    torch.testing.assert_close(found[2, 4], alone)


@pytest.mark.parametrize("shared", ["one table", "a table for each step", "tables for each"])
def test_chains_of_unequal_length_are_each_for_itself(shared: str) -> None:
    count, steps, q = 6, 5, 3
    lengths = torch.tensor([5, 1, 3, 4, 2, 5])
    unary = torch.randn(count, steps, q, dtype=torch.float64, requires_grad=True)
    sizes = {"one table": (1,), "a table for each step": (steps - 1,)}
    pairwise = torch.randn(*sizes.get(shared, (count, steps - 1)), q, q).double()
    field = RandomField.chain(unary, pairwise, lengths=lengths)
    log_z, found = elimination.log_partition(field), elimination.node_marginals(field)
    best = elimination.mode(field)
    draws = elimination.sample(field, 200, seed=1)["visible"]
    (gradient,) = torch.autograd.grad(log_z.sum(), unary)
    for k, length in enumerate(lengths.tolist()):
        own = pairwise[k] if pairwise.dim() == 4 else pairwise
        own = own if len(own) == 1 else own[: length - 1]
        alone = RandomField.chain(unary[k, :length].detach(), own[: max(1, length - 1)])
        assert distance(log_z[k], elimination.log_partition(alone).item()) < 1e-12
        wanted = elimination.node_marginals(alone)
        assert distance(found[k, :length, :q], wanted.numpy()) < 1e-12
        assert distance(gradient[k, :length], wanted.numpy()) < 1e-12
        assert not gradient[k, length:].any()
        assert distance(best.energy[k], elimination.mode(alone).energy.item()) < 1e-12
        assert bool((draws[:, k, length:] == q).all())
        assert bool((draws[:, k, :length] < q).all())


# --- large fields against other methods ----------------------------------------------------------


def test_a_chain_of_a_thousand_nodes_is_a_product_of_matrices() -> None:
    rng = np.random.default_rng(0)
    n, q = 1000, 3
    node, edge = rng.normal(0, 2, (n, q)), rng.normal(0, 2, (n - 1, q, q))
    row, scale = np.exp(node[0]), 0.0
    for k in range(1, n):
        row = row @ np.exp(edge[k - 1]) * np.exp(node[k])
        scale += math.log(row.sum())
        row /= row.sum()
    field = RandomField.on_graph(
        nx.path_graph(n), q, node_table=torch.tensor(node), edge_table=torch.tensor(edge)
    )
    assert elimination.plan(field).width == 1
    assert abs(float(elimination.log_partition(field)) - scale) < 1e-10 * abs(scale)
    found = elimination.node_marginals(field)
    assert distance(found[-1], row) < 1e-10
    x = elimination.sample(field, 200, seed=0)["visible"].long()
    assert x.shape == (200, n)
    # The mean energy of the draws is that of the law; 200 draws, 5 standard errors.
    energies = field(x)
    (gradient,) = torch.autograd.grad(
        scaled_log_z(field, t := torch.ones((), dtype=torch.float64, requires_grad=True)), t
    )
    error = float(energies.std() / 200**0.5)
    assert abs(float(energies.mean() + gradient)) < 5 * error


def scaled_log_z(field: RandomField, t: Tensor) -> Tensor:
    """log Z of the field with all log-potentials multiplied."""
    factors = {
        name: TableFactors(factors.nodes, t * factors.table)
        for name, factors in field.factors.items()
    }
    return elimination.log_partition(RandomField(field.states, factors))


def test_a_tree_of_a_thousand_nodes_is_summed_from_its_leaves() -> None:
    rng = np.random.default_rng(1)
    tree = nx.random_labeled_tree(1000, seed=3)
    levels = rng.integers(2, 5, 1000)
    directed = nx.bfs_tree(tree, 0)
    groups: dict[tuple[int, int], list] = {}
    messages = [np.zeros(q) for q in levels]
    for node in reversed(list(nx.topological_sort(directed))):
        for parent in directed.predecessors(node):
            table = rng.normal(0, 1.5, (levels[parent], levels[node]))
            groups.setdefault(table.shape, []).append((parent, node, table))
            joint = table + messages[node]
            largest = joint.max()
            messages[parent] = messages[parent] + largest + np.log(np.exp(joint - largest).sum(1))
    wanted = float(np.logaddexp.reduce(messages[0]))
    factors = {
        f"edge_{a}_{b}": TableFactors(
            [(parent, node) for parent, node, _ in rows],
            torch.tensor(np.stack([table for *_, table in rows])),
        )
        for (a, b), rows in groups.items()
    }
    field = RandomField(levels.tolist(), factors)
    assert elimination.plan(field).width == 1
    assert abs(float(elimination.log_partition(field)) - wanted) < 1e-10 * abs(wanted)
    best = elimination.mode(field)
    draws = elimination.sample(field, 50, seed=0)["visible"]
    assert float(best.energy) < float(field(draws).min())


def test_a_lattice_of_6_by_12_is_a_product_of_transfer_matrices() -> None:
    rng = np.random.default_rng(2)
    rows, columns = 6, 12
    own = rng.normal(0, 1, (rows, columns, 2))
    down, right = rng.normal(0, 1, (rows - 1, columns)), rng.normal(0, 1, (rows, columns - 1))
    spins = 2 * (np.arange(2**rows)[:, None] >> np.arange(rows) & 1) - 1
    label = (spins + 1) // 2

    def inside(c: int) -> np.ndarray:
        return own[np.arange(rows), c, label].sum(1) + (
            down[:, c] * spins[:, 1:] * spins[:, :-1]
        ).sum(1)

    log_row = inside(0)
    for c in range(1, columns):
        joint = log_row[:, None] + np.einsum("ar,r,br->ab", spins, right[:, c - 1], spins)
        log_row = np.logaddexp.reduce(joint, 0) + inside(c)
    number = np.arange(rows * columns).reshape(rows, columns)
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    strengths = {
        "down": (number[:-1], number[1:], down),
        "right": (number[:, :-1], number[:, 1:], right),
    }
    factors = {"node": TableFactors(number.reshape(-1, 1), torch.tensor(own.reshape(-1, 2)))}
    for name, (a, b, strength) in strengths.items():
        pairs = np.stack([a.ravel(), b.ravel()], 1)
        table = torch.tensor(strength.ravel())[:, None, None] * sign
        factors[name] = TableFactors(pairs, table)
    field = RandomField([2] * (rows * columns), factors)
    assert elimination.plan(field).width <= 8
    assert abs(float(elimination.log_partition(field)) - np.logaddexp.reduce(log_row)) < 1e-10


def torus(side: int, beta: Tensor) -> RandomField:
    """The Ising model without a field on a square torus."""
    graph = nx.grid_2d_graph(side, side, periodic=True)
    return RandomField.ising(graph, couplings=beta[None], field=torch.zeros(1).double())


def kaufman(side: int, beta: float) -> float:
    """log Z of the n × n torus.

    Z = ½ (2 sinh 2β)^(n²/2) [Π 2cosh(nγ_odd/2) + Π 2sinh(nγ_odd/2) + Π 2cosh(nγ_even/2)
        ± Π 2sinh(nγ_even/2)],  cosh γ_r = cosh 2β coth 2β − cos(πr/n),  γ_0 = 2β + ln tanh β

    (Kaufman, 1949, https://doi.org/10.1103/PhysRev.76.1232). γ_0 is negative above the critical
    temperature, which is the sign of the last product.
    """
    n = side

    def gamma(r: int) -> float:
        if r == 0:
            return 2 * beta + math.log(math.tanh(beta))
        c = math.cosh(2 * beta) / math.tanh(2 * beta) - math.cos(math.pi * r / n)
        return math.acosh(c)

    terms, signs = [], []
    for first in (1, 0):
        angles = [n * gamma(r) / 2 for r in range(first, 2 * n, 2)]
        terms.append(sum(np.logaddexp(a, -a) for a in angles))
        sinh = [abs(a) + math.log(-math.expm1(-2 * abs(a))) if a else -INF for a in angles]
        terms.append(sum(sinh))
        signs += [1.0, float(np.prod(np.sign(angles)))]
    largest = max(terms)
    total = sum(s * math.exp(t - largest) for s, t in zip(signs, terms, strict=True))
    # ln(2 sinh 2β)
    prefactor = 2 * beta + math.log(-math.expm1(-4 * beta))
    return n * n / 2 * prefactor - math.log(2) + largest + math.log(total)


# T, L, log Z, the energy a spin; by high-precision arithmetic.
KNOWN = [
    (1.5, 4, 22.117013911715983, -1.9506425614594616),
    (2.269185314213022, 4, 15.521915458755283, -1.5656237876383186),
    (5.0, 4, 11.771470358541581, -0.45613536954284717),
    (1.5, 8, 86.38672481658998, -1.951115430854883),
    (2.0, 8, 66.3445818792278, -1.7456831702931999),
    (2.269185314213022, 8, 60.14178078906915, -1.4915891074397065),
    (3.0, 8, 52.26140965955499, -0.8413154278519152),
    (5.0, 8, 47.01014742238827, -0.4283680589440813),
]


@pytest.mark.parametrize(("temperature", "side", "log_z", "energy"), KNOWN)
def test_the_ising_torus_has_its_known_log_partition_and_energy(
    temperature: float, side: int, log_z: float, energy: float
) -> None:
    beta = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    found = elimination.log_partition(torus(side, beta))
    (slope,) = torch.autograd.grad(found, beta)
    assert abs(found.item() - log_z) < 1e-9
    assert abs(kaufman(side, 1 / temperature) - log_z) < 1e-9
    assert abs(-float(slope) / side**2 - energy) < 1e-9


@pytest.mark.parametrize("beta", [0.1, 0.44068679350977147, 1.0, 20.0])
@pytest.mark.parametrize("side", [3, 5, 6, 10])
def test_the_ising_torus_is_kaufmans_at_every_temperature(side: int, beta: float) -> None:
    found = float(elimination.log_partition(torus(side, torch.tensor(beta).double())))
    assert abs(found - kaufman(side, torch.tensor(beta).double().item())) < 1e-9 * max(1, found)


def test_the_heat_capacity_is_a_second_derivative() -> None:
    # At T = 2.5 on 4 × 4: c = β² ∂² log Z / ∂β² / n².
    beta = torch.tensor(1 / 2.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(
        elimination.log_partition(torus(4, beta)), beta, create_graph=True
    )
    (curvature,) = torch.autograd.grad(slope, beta)
    assert abs((beta**2 * curvature).item() / 16 - 0.8125152294404581) < 1e-9


def test_at_low_temperature_nothing_overflows() -> None:
    beta = torch.tensor(20.0, dtype=torch.float64)
    field = torus(6, beta)
    found = elimination.marginals(field)
    assert distance(found.nodes, np.full((36, 2), 0.5)) < 1e-9
    assert distance(found.factors["edge"][:, 0, 0], np.full(72, 0.5)) < 1e-9
    x = elimination.sample(field, 1000, seed=0)["visible"]
    assert set(x.mean(1).tolist()) == {0.0, 1.0}  # both ground states, and no other
    assert float(elimination.mode(field).energy) == -20.0 * 72
    glass = drawn([2] * 6, {"edge": [[a, b] for a in range(6) for b in range(a)]}, scale=500)
    assert log_partition_error(glass) < 1e-10
    assert marginal_error(glass) < 1e-10


# --- what it takes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "most"),
    [
        (nx.path_graph(50), 1),
        (nx.random_labeled_tree(200, seed=0), 1),
        (nx.cycle_graph(30), 2),
        (nx.grid_2d_graph(6, 30), 7),
        (nx.grid_2d_graph(10, 10, periodic=True), 20),
        (nx.complete_graph(8), 7),
        (nx.empty_graph(5), 0),
    ],
)
def test_the_width_is_near_the_treewidth(graph: nx.Graph, most: int) -> None:
    plan = elimination.plan(RandomField.potts(graph, 2))
    assert plan.width <= most
    assert sorted(plan.order) == list(range(len(graph)))
    assert plan.largest_table == 2 ** (plan.width + 1)


def test_numbers_of_states_count_in_the_order() -> None:
    # The hub of a star with a thousand labels goes last, that of two labels as well.
    for hub in (1000, 2):
        field = RandomField(
            [hub] + [3] * 6,
            {"edge": TableFactors([[0, k] for k in range(1, 7)], torch.zeros(1, hub, 3))},
        )
        assert elimination.plan(field).largest_table == 3 * hub


def test_what_is_too_wide_is_refused_with_its_width_and_memory() -> None:
    field = RandomField.potts(nx.grid_2d_graph(40, 40), 3)
    for work in (elimination.plan, elimination.log_partition, elimination.mode):
        with pytest.raises(TooManyStatesError, match=r"width of at least \d+.*GiB.*belief_propag"):
            work(field)


def test_a_batch_that_is_too_large_is_refused_with_its_memory() -> None:
    unary = torch.zeros(1, dtype=torch.float64).expand(10_000, 3, 300)
    field = RandomField.chain(unary, torch.zeros(1, 300, 300).double())
    plan = elimination.plan(field)
    assert plan.bytes > elimination.MAX_BYTES
    with pytest.raises(TooManyStatesError, match=r"width 1.*10000 batch.*GiB.*in parts"):
        elimination.log_partition(field)


def test_a_field_without_an_allowed_state_has_z_zero() -> None:
    no = torch.tensor([[[-INF, -INF], [-INF, 0.0]], [[0.0, 0.0], [-INF, -INF]]]).double()
    field = RandomField([2] * 3, {"edge": TableFactors([[0, 1], [1, 2]], no)})
    assert elimination.log_partition(field) == -INF
    for work in (elimination.marginals, elimination.mode, lambda f: elimination.sample(f, 1)):
        with pytest.raises(ValueError, match=r"No state .* is allowed"):
            work(field)


# --- planted faults ------------------------------------------------------------------------------


def without_shift(table: Tensor, axis: int) -> Tensor:
    return table.exp().sum(axis).log()


def one_label_late(logits: Tensor) -> Tensor:
    return (right_draw(logits) + 1).clamp_max(len(logits) - 1)


right_draw = elimination.draw_labels
right_given = elimination.given_the_others
right_tables = elimination.single_tables


def group_order_lost(graph: object, group: FactorGroup) -> list[Tensor]:
    return list(reversed(right_tables(graph, group)))


STRONG = drawn([3] * 5, {"edge": [[a, b] for a in range(5) for b in range(a)]}, scale=2000)
FAULTS: dict[str, tuple[Callable[[Patch], None], SmallField, Callable[[SmallField], float]]] = {
    "no shift before the exponential": (
        lambda patch: patch.setattr(elimination, "log_sum_exp", without_shift),
        STRONG,
        log_partition_error,
    ),
    "an underflowed product taken for certain": (
        lambda patch: (
            patch.setattr(elimination, "LEAST", 0.0),
            patch.setattr(elimination, "SMALL", 0),
        ),
        STRONG,
        log_partition_error,
    ),
    "tables of the wrong factors": (
        lambda patch: patch.setattr(elimination, "single_tables", group_order_lost),
        FIELDS["a ring"],
        log_partition_error,
    ),
    "the mode traced back without its neighbours": (
        lambda patch: patch.setattr(
            elimination, "given_the_others", lambda t, others, x: right_given(t, others, x * 0)
        ),
        FIELDS["an odd ring of bits"],
        mode_error,
    ),
    "sums in place of maxima": (
        lambda patch: patch.setattr(elimination, "maximum", elimination.log_sum),
        FIELDS["factors of three and four"],
        mode_error,
    ),
    "draws one label late": (
        lambda patch: patch.setattr(elimination, "draw_labels", one_label_late),
        FIELDS["a ring"],
        lambda small: float(draws_p_value(small, 4_000) < ALPHA),
    ),
    "draws without their neighbours": (
        lambda patch: patch.setattr(
            elimination, "given_the_others", lambda t, others, x: right_given(t, others, x * 0)
        ),
        FIELDS["a ring"],
        lambda small: float(draws_p_value(small, 4_000) < ALPHA),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: Patch) -> None:
    plant, small, error = FAULTS[fault]
    assert error(small) < 1e-10
    plant(monkeypatch)
    assert not error(small) < 1e-4
