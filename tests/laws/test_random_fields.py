"""What holds of every random field, against plain loops over its numbers."""

import copy
import itertools
import pickle
from unittest import mock

import networkx as nx
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from pyro_ebm.energies import (
    BoltzmannMachine,
    Energy,
    FactorGroup,
    Graph,
    PatternFactors,
    RandomField,
    TableFactors,
    clamp,
    graph_of,
)
from pyro_ebm.energies.fields import factor_graph, labels, structure as field_structure
from pyro_ebm.energies.fields.labels import LabelDistribution, draw_labels
from pyro_ebm.kernels import Gibbs, advance, run
from pyro_ebm.units import Spin
from tests.support import fields
from tests.support.fields import FIELDS, INF, RANDOM, SmallField, stacked, varied
from tests.support.goodness import ALPHA, chi_square

LIMITS = {torch.float64: 1e-12, torch.float32: 2e-5}
each_field = pytest.mark.parametrize("name", FIELDS)
each_dtype = pytest.mark.parametrize("dtype", LIMITS, ids=str)


def same(found: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- against brute force -------------------------------------------------------------------------


@each_dtype
@each_field
def test_the_energy_is_minus_the_sum_of_the_log_potentials(name: str, dtype: torch.dtype) -> None:
    assert fields.energy_error(FIELDS[name], dtype) < LIMITS[dtype]


@each_dtype
@each_field
def test_conditionals_are_ratios_of_weights(name: str, dtype: torch.dtype) -> None:
    assert fields.conditional_error(FIELDS[name], dtype) < LIMITS[dtype]


@pytest.mark.parametrize("name", list(RANDOM)[:12])
def test_random_graphs_have_the_right_energies_and_conditionals(name: str) -> None:
    assert fields.energy_error(RANDOM[name]) < 1e-12
    assert fields.conditional_error(RANDOM[name]) < 1e-12


@each_field
def test_blocks_hold_every_node_once_and_no_two_of_a_factor(name: str) -> None:
    small, field = FIELDS[name], FIELDS[name].field()
    blocks = [set(block.tolist()) for block in field.blocks("visible")]
    assert sorted(itertools.chain(*blocks)) == list(range(len(small.levels)))
    for group in small.groups.values():
        for nodes in group.nodes:
            assert all(len(block & set(nodes.tolist())) <= 1 for block in blocks)


def test_a_bipartite_graph_has_two_colours_and_an_odd_ring_three() -> None:
    def colours(graph: nx.Graph) -> int:
        return len(RandomField.potts(graph, 3).blocks("visible"))

    assert colours(nx.grid_2d_graph(4, 6, periodic=True)) == 2
    assert colours(nx.cycle_graph(7)) == 3


def test_any_block_without_a_common_factor_has_a_conditional() -> None:
    small = FIELDS["a ring"]
    field, x = small.field(), small.tensor()
    given = field.conditional("visible", x, torch.tensor([3]))
    block = next(block for block in field.blocks("visible") if 3 in block)
    known = field.conditional("visible", x, block)
    same(given.probs[:, 0], known.probs[:, block.tolist().index(3)])
    sliced = field.conditional("visible", x, slice(3, 4))
    same(sliced.probs, given.probs)


def test_a_hub_with_many_more_neighbours_has_the_right_conditional() -> None:
    small = fields.drawn([2] + [2] * 9, {"edge": [[0, k] for k in range(1, 9)] + [[8, 9]]})
    assert fields.conditional_error(small) < 1e-12


# --- constructors --------------------------------------------------------------------------------

EDGES = [(0, 1), (1, 2), (2, 0), (2, 3)]
LABELS = torch.tensor(list(itertools.product(range(3), repeat=4)))


def test_tables_on_a_graph_are_those_of_its_nodes_and_edges() -> None:
    node, edge = torch.randn(4, 3).double(), torch.randn(4, 3, 3).double()
    field = RandomField.on_graph(EDGES, 3, node_table=node, edge_table=edge)
    wanted = -sum(node[i, LABELS[:, i]] for i in range(4)) - sum(
        edge[e, LABELS[:, i], LABELS[:, j]] for e, (i, j) in enumerate(EDGES)
    )
    same(field(LABELS), wanted)


def test_a_potts_model_rewards_equal_neighbours() -> None:
    coupling, own = torch.randn(4).double(), torch.randn(4, 3).double()
    field = RandomField.potts(EDGES, 3, couplings=coupling, biases=own)
    wanted = -sum(own[i, LABELS[:, i]] for i in range(4)) - sum(
        coupling[e] * (LABELS[:, i] == LABELS[:, j]) for e, (i, j) in enumerate(EDGES)
    )
    same(field(LABELS), wanted)
    one = RandomField.potts(EDGES, 3, couplings=coupling[:1], biases=own)
    every = RandomField.potts(EDGES, 3, couplings=coupling[:1].expand(4), biases=own)
    same(one(LABELS), every(LABELS))


def test_an_ising_model_is_the_boltzmann_machine_of_spins() -> None:
    coupling, own = torch.randn(4).double(), torch.randn(4).double()
    bits = torch.tensor(list(itertools.product(range(2), repeat=4))).double()
    field = RandomField.ising(EDGES, couplings=coupling, field=own)
    machine = BoltzmannMachine(
        {"visible": BoltzmannMachine.on_graph(EDGES, unit=Spin(), biases=own).layers["visible"]},
        {("visible", "visible"): Graph(EDGES, coupling)},
    )
    same(field(bits), machine(2 * bits - 1))


def test_the_nodes_of_a_networkx_graph_are_numbered_in_its_order() -> None:
    graph = nx.Graph()
    graph.add_nodes_from("cab")
    graph.add_edge("b", "c")
    table = torch.randn(1, 2, 2).double()
    edges = [("c", "b"), ("b", "c")]
    field = RandomField.on_graph(graph, 2, node_table=torch.zeros(1, 2).double(), edge_table=table)
    (first, second) = field.factors["edge"].nodes[0].tolist()
    assert {first, second} == {0, 2}
    assert next(iter(graph.edges)) in edges
    x = torch.tensor([0.0, 1.0, 1.0])
    same(field(x), -table[0, int(x[first]), int(x[second])])


def test_learned_tables_start_at_zero_one_for_each_or_one_for_all() -> None:
    free, shared = (
        RandomField.on_graph(EDGES, 3, node_table=way, edge_table=way) for way in ("free", "shared")
    )
    assert {name: tuple(p.shape) for name, p in free.named_parameters()} == {
        "factors.node.table": (4, 3),
        "factors.edge.table": (4, 3, 3),
    }
    assert {tuple(p.shape) for p in shared.parameters()} == {(1, 3), (1, 3, 3)}
    assert not free(LABELS).any()


def test_mixed_numbers_of_states_on_a_graph() -> None:
    field = RandomField.on_graph([(0, 1), (1, 2)], [2, 4, 3])
    assert field.factors["edge"].table.shape == (2, 4, 4)
    assert field(torch.tensor([1, 3, 2])) == 0
    with pytest.raises(ValueError, match=r"contains 2.*own range of labels"):
        field(torch.tensor([2, 3, 2]))


def test_what_stands_beyond_a_nodes_states_is_not_read() -> None:
    table = torch.randn(2, 4, 4).double()
    spoilt = table.clone()
    spoilt[0, 2:], spoilt[1, :, 3:] = 1e6, 1e6
    x = torch.tensor(list(itertools.product(range(2), range(4), range(3))))
    given = []
    for value in (table, spoilt):
        value = value.requires_grad_()
        field = RandomField.on_graph(
            [(0, 1), (1, 2)], [2, 4, 3], node_table=torch.zeros(1, 4).double(), edge_table=value
        )
        laws = [field.conditional("visible", x, block).probs for block in field.blocks("visible")]
        given.append((field(x), *laws))
    for found, wanted in zip(*given, strict=True):
        same(found, wanted)
    given[0][0].sum().backward()
    assert not table.grad[0, 2:].any()


def test_a_chain_is_its_unary_and_pairwise_terms() -> None:
    unary, pairwise = torch.randn(2, 4, 3).double(), torch.randn(1, 3, 3).double()
    field = RandomField.chain(unary, pairwise)
    wanted = -sum(unary[:, t, LABELS[:, t]].mT for t in range(4)) - sum(
        pairwise[0, LABELS[:, t], LABELS[:, t + 1]][:, None] for t in range(3)
    )
    same(field(LABELS[:, None]), wanted)


def test_a_step_past_the_end_has_the_label_past_the_end_and_no_energy() -> None:
    unary, pairwise = torch.randn(2, 4, 3).double(), torch.randn(3, 3, 3).double()
    field = RandomField.chain(unary, pairwise, lengths=torch.tensor([4, 2]))
    x = torch.tensor([[0, 1, 2, 1], [0, 1, 3, 3]])
    short = RandomField.chain(unary[1:, :2], pairwise[:1])
    full = RandomField.chain(unary[:1], pairwise)
    same(field(x), torch.cat([full(x[:1]), short(x[1:, :2])]))
    wrong = torch.tensor([[0, 1, 3, 3], [0, 3, 3, 3]])
    assert torch.isposinf(field(wrong)).all()


# --- parameters ----------------------------------------------------------------------------------


def test_tables_are_learned_or_given_with_their_history() -> None:
    learned, given = torch.randn(1, 2, 2), torch.randn(3, 2, requires_grad=True)
    field = RandomField(
        [2] * 3,
        {
            "edge": TableFactors([[0, 1], [1, 2]], nn.Parameter(learned)),
            "node": TableFactors([[0], [1], [2]], 2 * given),
        },
    )
    assert [name for name, _ in field.named_parameters()] == ["factors.edge.table"]
    field(torch.tensor([0, 1, 1])).backward()
    assert given.grad.tolist() == [[-2, 0], [0, -2], [0, -2]]
    assert field.factors["edge"].table.grad.tolist() == [[[0, -1], [0, -1]]]


@pytest.mark.parametrize("name", ["a ring", "mixed numbers of states", "factors of three"])
def test_batched_tables_are_fields_of_their_own(name: str) -> None:
    small = FIELDS[name]
    many = varied(small, 3)
    field, x = stacked(many), small.tensor()
    energies = field(x[:, None])
    for k, one in enumerate(many):
        same(energies[:, k], one.field()(x))
        for block in field.blocks("visible"):
            laws = field.conditional("visible", x[:, None], block).probs
            same(laws[:, k], one.field().conditional("visible", x, block.clone()).probs)


def test_parameters_can_be_random_variables() -> None:
    field = RandomField.potts(EDGES, 3).double()
    to_pyro_module_(field)
    normal = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    field.factors["edge"].weight = PyroSample(normal.expand([4]).to_event(1))
    trace = poutine.trace(field).get_trace(LABELS)
    weight = trace.nodes["factors.edge.weight"]["value"]
    wanted = RandomField.potts(EDGES, 3, couplings=weight, biases=torch.zeros(1, 3).double())
    same(trace.nodes["_RETURN"]["value"], wanted(LABELS))


@each_field
def test_a_field_survives_pickle_and_copy(name: str) -> None:
    small = FIELDS[name]
    field, x = small.field(), small.tensor()
    block = field.blocks("visible")[0]
    allowed = x[torch.isfinite(field(x))]
    wanted = field.conditional("visible", allowed, block).probs
    for other in (pickle.loads(pickle.dumps(field)), copy.deepcopy(field)):
        assert torch.equal(other(x), field(x))
        again = other.conditional("visible", allowed, other.blocks("visible")[0]).probs
        assert torch.equal(again, wanted)


def test_a_field_takes_labels_in_any_type() -> None:
    small = FIELDS["a ring"]
    field, wanted = small.field(), torch.tensor(small.energies)
    for x in (small.states, small.states.astype("uint8"), torch.tensor(small.states).int()):
        same(field(x), wanted)


# --- observed nodes ------------------------------------------------------------------------------


def with_held(field: RandomField, nodes: list[int], values: Tensor) -> Energy:
    """The field with some nodes at labels, values (*batch, nodes)."""
    n = len(field.states)
    mask = torch.zeros(n, dtype=torch.bool)
    mask[nodes] = True
    x = values.new_zeros(*values.shape[:-1], n)
    x[..., nodes] = values
    held = clamp(field, x, mask=mask)
    assert graph_of(held.structure()) is not None
    return held


@pytest.mark.parametrize("name", [name for name, small in FIELDS.items() if len(small.levels) > 2])
def test_a_clamped_field_has_the_energies_of_the_whole_one(name: str) -> None:
    small = FIELDS[name]
    field = small.field()
    n = len(small.levels)
    for held in ([n - 1], [2, 0], list(range(1, n))):
        values = list(itertools.product(*(range(small.levels[i]) for i in held)))
        clamped = with_held(field, held, torch.tensor(values))
        free = [i for i in range(n) if i not in held]
        assert graph_of(clamped.structure()).states == tuple(small.levels[i] for i in free)
        x = torch.tensor(list(itertools.product(*(range(small.levels[i]) for i in free))))
        energies = clamped(x[:, None])
        whole = clamped.complete(x[:, None])["visible"]
        assert whole.shape == (len(x), len(values), n)
        same(energies, field(whole))
        for block in clamped.blocks("visible"):
            some = energies.isfinite().nonzero()
            at = x[some[:, 0]]
            part = with_held(field, held, torch.tensor(values)[some[:, 1]])
            laws = part.conditional("visible", at, block.clone()).probs
            if len(block) == 1:
                node = torch.tensor(free)[block]
                own = field.conditional("visible", part.complete(at), node).probs
                same(laws, own[..., : laws.shape[-1]])


def test_a_clamped_field_keeps_history_and_batches() -> None:
    table = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    field = RandomField([2] * 4, {"edge": TableFactors([[0, 1], [1, 2], [2, 3]], table)})
    clamped = with_held(field, [1], torch.tensor([1]))
    x = torch.tensor([[0, 1, 0]])
    same(clamped(x), field(clamped.complete(x)))
    clamped(x).sum().backward()
    assert int((table.grad != 0).sum()) == 15


# --- drawing -------------------------------------------------------------------------------------


def test_the_law_of_labels_is_pyros_categorical() -> None:
    logits = torch.randn(3, 4).double()
    law, host = LabelDistribution(logits=logits), dist.Categorical(logits=logits)
    values = torch.tensor([0, 3, 2])
    same(law.log_prob(values), host.log_prob(values))
    assert law.sample((5, 2)).shape == (5, 2, 3)
    assert law.expand([7, 3]).sample().shape == (7, 3)
    assert isinstance(law.expand([7, 3]), LabelDistribution)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_labels_are_drawn_with_their_probabilities(dtype: torch.dtype) -> None:
    logits = torch.tensor([-INF, 1.0, 3.0, -INF, 0.5, -2.0, -INF], dtype=dtype)
    drawn = draw_labels(logits[:, None].expand(-1, 40_000) + 1e4)
    counts = np.bincount(drawn.numpy(), minlength=7)
    assert chi_square(counts, logits.double().softmax(0).numpy()) > ALPHA


# --- Gibbs ---------------------------------------------------------------------------------------


def transition_matrix(small: SmallField, field: RandomField) -> Tensor:
    """T[x, y] of one sweep by the code that users run, its draws forced to the outcome y."""
    possible = torch.tensor(np.isfinite(small.energies)).nonzero()[:, 0]
    states = small.tensor(field.dtype)[possible]
    count, n = states.shape
    x = states[:, None].expand(count, count, n).reshape(-1, n)
    y = states[None].expand(count, count, n).reshape(-1, n)
    blocks = iter(field.blocks("visible"))
    log_prob = torch.zeros(len(x), dtype=torch.float64)

    def forced(logits: Tensor) -> Tensor:  # (q, rows, units)
        nonlocal log_prob
        outcome = y[:, next(blocks)].long()
        log_prob = log_prob + logits.double().log_softmax(0).gather(0, outcome[None])[0].sum(-1)
        return outcome

    kernel = Gibbs()
    state = kernel.init(field, {"visible": x})
    with mock.patch.object(labels, "draw_labels", forced):
        # A sweep may pass through a state that forbids the outcome: that path has no weight.
        state, _ = kernel.step(field, state)
    assert torch.equal(state.x["visible"], y)
    return log_prob.exp().reshape(count, count)


def stationary_error(small: SmallField, dtype: torch.dtype = torch.float64) -> float:
    """The largest of |Σ_y T − 1| and |πT − π|."""
    matrix = transition_matrix(small, small.field(dtype))
    pi = torch.tensor(small.probabilities[np.isfinite(small.energies)])
    rows = float((matrix.sum(1) - 1).abs().max())
    return max(rows, float((pi @ matrix - pi).abs().max()))


GIBBS = [name for name, small in FIELDS.items() if np.isfinite(small.energies).all()]


@each_dtype
@pytest.mark.parametrize("name", GIBBS)
def test_gibbs_leaves_the_law_unchanged(name: str, dtype: torch.dtype) -> None:
    assert (
        stationary_error(FIELDS[name], dtype) < {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    )


def exact_start_p_value(small: SmallField, seed: int, chains: int = 20_000) -> float:
    """The least p-value, times three, after 1, 4 and 16 sweeps of chains that started in law."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(small.energies), size=chains, p=small.probabilities)
    torch.manual_seed(seed)
    field, kernel = small.field(), Gibbs()
    state = kernel.init(field, {"visible": small.tensor()[chosen]})
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, field, state, steps)
        counts = np.bincount(small.index(state.x["visible"]), minlength=len(small.energies))
        found.append(chi_square(counts, small.probabilities))
    return 3 * min(found)


# With N = 20,000 chains a law at χ² distance 0.006 and more is found (99 of 100).
@pytest.mark.parametrize(
    "name", ["a ring", "mixed numbers of states", "factors of three", "forbidden states"]
)
def test_exact_draws_stay_exact_draws(name: str) -> None:
    assert exact_start_p_value(FIELDS[name], seed=5) > ALPHA


def test_a_run_keeps_labels_as_small_integers() -> None:
    field = RandomField.potts(nx.grid_2d_graph(5, 4), 5, couplings=torch.tensor([0.5]))
    chains = run(Gibbs(), field, draws=20, warmup=5, chains=3, seed=1)
    draws = chains.draws["visible"]
    assert draws.dtype == torch.int8
    assert draws.shape == (3, 20, 20)
    assert set(draws.unique().tolist()) == set(range(5))
    same(chains.statistics["lp"].flatten(), -field(draws.reshape(-1, 20)).detach(), 1e-5)


def test_mixed_numbers_of_states_start_and_run_within_their_support() -> None:
    small = FIELDS["mixed numbers of states"]
    chains = run(Gibbs(), small.field(), draws=50, warmup=0, chains=8, seed=1)
    most = chains.draws["visible"].amax((0, 1)).tolist()
    assert most == [q - 1 for q in small.levels]


def test_pattern_factors_are_a_strength_times_a_pattern() -> None:
    pattern, weight = torch.randn(2, 3).double(), torch.randn(2).double()
    field = RandomField([2, 3, 3], {"edge": PatternFactors([[0, 1], [0, 2]], weight, pattern)})
    x = torch.tensor([1, 0, 2])
    same(field(x), -(weight[0] * pattern[1, 0] + weight[1] * pattern[1, 2]))


# --- planted faults ------------------------------------------------------------------------------

right_rows, right_draw, right_slots = (
    factor_graph.row_numbers,
    labels.draw_labels,
    factor_graph.in_slots,
)
right_sliced = factor_graph.sliced


def draws_error(small: SmallField) -> float:
    return float(exact_start_p_value(small, seed=5) < ALPHA)


def clamped_error(small: SmallField) -> float:
    """Of the energies with the first node held at its last label."""
    field = small.field()
    clamped = with_held(field, [0], torch.tensor([small.levels[0] - 1]))
    x = small.tensor()
    x = x[x[:, 0] == small.levels[0] - 1]
    return fields.distance(clamped(x[:, 1:]), field(x).numpy())


def without_the_first_of_others(
    group: FactorGroup, k: int, slot: factor_graph.Slot, x: Tensor, zero: int
) -> Tensor:
    return right_rows(group, k, slot, x.index_fill(-1, torch.tensor([0]), 0), zero)


def last_slot_lost(*given: object) -> tuple:
    return right_slots(*given)[:-1]


FAULTS = {
    "a neighbour's label not read": (
        lambda patch: patch.setattr(factor_graph, "row_numbers", without_the_first_of_others),
        "a ring",
        fields.conditional_error,
    ),
    "the last factor around a node lost": (
        lambda patch: patch.setattr(factor_graph, "in_slots", last_slot_lost),
        "factors of three",
        fields.conditional_error,
    ),
    "a sweep whose laws lack a factor": (
        lambda patch: patch.setattr(factor_graph, "in_slots", last_slot_lost),
        "an odd ring of bits",
        stationary_error,
    ),
    "nodes of one colour that are coupled": (
        lambda patch: (
            patch.setattr(field_structure, "colouring", lambda _, n: torch.arange(n) // 2),
            patch.setattr(factor_graph, "shares_a_factor", lambda _: False),
        ),
        "a ring",
        stationary_error,
    ),
    "labels drawn one too high": (
        lambda patch: patch.setattr(
            labels,
            "draw_labels",
            lambda logits: (right_draw(logits) + 1).clamp_max(len(logits) - 1),
        ),
        "a ring",
        draws_error,
    ),
    "labels drawn with the square root of their weights": (
        lambda patch: patch.setattr(labels, "draw_labels", lambda logits: right_draw(logits / 2)),
        "a ring",
        draws_error,
    ),
    "a held label read as another": (
        lambda patch: patch.setattr(
            factor_graph, "sliced", lambda *given: right_sliced(*given[:3], given[3] * 0)
        ),
        "a ring",
        clamped_error,
    ),
    "a table read along the wrong dimension": (
        lambda patch: patch.setattr(
            FactorGroup, "strides", lambda group: [1, *[group.sizes[-1]] * (group.arity - 1)]
        ),
        "a ring",
        fields.energy_error,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, name, error = FAULTS[fault]
    assert error(FIELDS[name]) < 1e-11
    plant(monkeypatch)
    assert not error(FIELDS[name]) < 1e-4
