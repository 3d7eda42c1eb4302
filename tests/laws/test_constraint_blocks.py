"""Blocks over forbidding factors leave the law unchanged and reach every state: by matrices.

Right kernels give |πT − π| of 1e-16; the smallest of the faults planted here gives more than 1e-3.
"""

import itertools
import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import (
    BoltzmannMachine,
    Energy,
    RandomField,
    TableFactors,
    clamp,
    graph_of,
    interpolate,
)
from pyro_ebm.energies.fields import constraints
from pyro_ebm.energies.fields.constraints import Constraints
from pyro_ebm.kernels import ConstraintBlocks, Cycle, Gibbs, ParallelTempering, choose_kernel
from pyro_ebm.kernels.discrete import constraint_blocks
from tests.support.goodness import ALPHA, CHAINS, chi_square
from tests.support.outcomes import matrix_of, violation_of

V, INF = "visible", math.inf


def where(allowed: Callable[..., bool], *sizes: int) -> Tensor:  # (1, *sizes)
    """A table that is 0 where labels are allowed, and −∞ elsewhere."""
    every = itertools.product(*map(range, sizes))
    return torch.tensor([0.0 if allowed(*x) else -INF for x in every]).double().reshape(1, *sizes)


def tables(n: int, q: int, seed: int = 0) -> TableFactors:
    """Other log-potentials at every node."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(n, q, generator=generator, dtype=torch.float64)
    return TableFactors(torch.arange(n)[:, None], table)


def one_of_three() -> RandomField:
    counted = where(lambda *x: sum(x) == 1, 2, 2, 2)
    return RandomField([2] * 3, {"node": tables(3, 2), "one": TableFactors([[0, 1, 2]], counted)})


def two_of_four() -> RandomField:
    counted = where(lambda *x: sum(x) == 2, 2, 2, 2, 2)
    return RandomField(
        [2] * 4, {"node": tables(4, 2), "two": TableFactors([[0, 1, 2, 3]], counted)}
    )


def equal(n: int, q: int = 2) -> RandomField:
    pairs = [[k, k + 1] for k in range(n - 1)]
    same = TableFactors(pairs, where(lambda a, b: a == b, q, q))
    return RandomField([q] * n, {"node": tables(n, q), "same": same})


def independent_set(rows: int, columns: int) -> RandomField:
    cell = torch.arange(rows * columns).reshape(rows, columns)
    down = torch.stack([cell[:-1], cell[1:]], -1).reshape(-1, 2)
    right = torch.stack([cell[:, :-1], cell[:, 1:]], -1).reshape(-1, 2)
    n = rows * columns
    apart = TableFactors(torch.cat([down, right]), where(lambda a, b: not (a and b), 2, 2))
    return RandomField([2] * n, {"node": tables(n, 2), "apart": apart})


def permutation_of_bits(n: int) -> RandomField:
    cell = torch.arange(n * n).reshape(n, n)
    one = where(lambda *x: sum(x) == 1, *[2] * n)
    lines = TableFactors(torch.cat([cell, cell.mT]), one)
    return RandomField([2] * n * n, {"node": tables(n * n, 2), "line": lines})


def permutation_of_labels(n: int) -> RandomField:
    pairs = list(itertools.combinations(range(n), 2))
    different = TableFactors(pairs, where(lambda a, b: a != b, n, n))
    return RandomField([n] * n, {"node": tables(n, n), "different": different})


def matches() -> RandomField:
    """Three names, and bits that say whether two of them are equal; bits have fewer states."""
    said = where(lambda a, b, z: (a == b) == bool(z), 3, 3, 2)
    factors = {
        "node": TableFactors(
            torch.arange(6)[:, None], torch.randn(6, 3, generator=seeded(2), dtype=torch.float64)
        ),
        "said": TableFactors([[0, 1, 3], [0, 2, 4], [1, 2, 5]], said),
    }
    return RandomField([3, 3, 3, 2, 2, 2], factors)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_apart() -> RandomField:
    """Two pairs that are equal each, with couplings between them, and a free node."""
    soft = torch.randn(2, 3, 3, generator=seeded(3), dtype=torch.float64)
    factors = {
        "node": tables(5, 3),
        "same": TableFactors([[0, 1], [2, 3]], where(lambda a, b: a == b, 3, 3)),
        "soft": TableFactors([[1, 2], [3, 4]], soft),
    }
    return RandomField([3] * 5, factors)


def known_and_tied() -> RandomField:
    """A node that can be 0 only, tied to another; and what is tied to it by a third label."""
    only = torch.tensor([[0.0, -INF, -INF]], dtype=torch.float64)
    factors = {
        "node": tables(4, 3),
        "only": TableFactors([[0]], only),
        "same": TableFactors([[0, 1], [2, 3]], where(lambda a, b: a == b, 3, 3)),
    }
    return RandomField([3] * 4, factors)


CASES: dict[str, Callable[[], Energy]] = {
    "one of three": one_of_three,
    "two of four": two_of_four,
    "equality": lambda: equal(2),
    "six that are equal": lambda: equal(6, 3),
    "independent sets": lambda: independent_set(3, 3),
    "permutation of bits": lambda: permutation_of_bits(3),
    "permutation of labels": lambda: permutation_of_labels(3),
    "matches": matches,
    "two components": two_apart,
    "a known node": known_and_tied,
    "half the energy": lambda: 0.5 * one_of_three(),  # type: ignore[dict-item]
    "a sum": lambda: two_of_four() + 0.3 * two_of_four(),  # type: ignore[dict-item]
    "between": lambda: interpolate(one_of_three(), 2 * one_of_three(), 0.3),  # type: ignore[dict-item]
    "a node held": lambda: clamp(  # type: ignore[dict-item]
        matches(), torch.zeros(6), mask=torch.arange(6) == 0
    ),
    "an element held": lambda: clamp(two_of_four(), torch.ones(4), mask=torch.arange(4) == 2),  # type: ignore[dict-item]
}


def every_label(field: Energy) -> Tensor:
    graph = graph_of(field.structure())
    assert graph is not None
    return torch.tensor(list(itertools.product(*map(range, graph.states))))


def possible(field: Energy) -> tuple[dict[str, Tensor], Tensor]:
    """All states of p(x) > 0, and their law."""
    labels = torch.tensor(
        list(itertools.product(*map(range, graph_of(field.structure()).states))),
        dtype=torch.float64,
    )
    ((name, _),) = field.sites.items()
    heights = field({name: labels})
    kept = heights.isfinite()
    return {name: labels[kept]}, (-heights[kept]).softmax(0)


def number_of_sets(field: Energy) -> int:
    return len(Constraints.of(graph_of(field.structure())).sets)


def matrix_of_set(kernel: ConstraintBlocks, field: Energy, x: dict[str, Tensor], k: int) -> Tensor:
    def step(x: dict[str, Tensor]) -> dict[str, Tensor]:
        with mock.patch.object(constraint_blocks, "number_of", return_value=k):
            return kernel.step(field, kernel.init(field, x))[0].x

    return matrix_of(step, x)


def gibbs(field: Energy, x: dict[str, Tensor]) -> Tensor:
    """The matrix of a sweep, node by node, from the conditional laws."""
    ((name, value),) = x.items()
    total = torch.eye(len(value), dtype=torch.float64)
    for block in field.blocks(name):
        probs = field.conditional(name, x, block).probs  # type: ignore[attr-defined]
        for column, node in enumerate(block.tolist()):  # type: ignore[union-attr]
            other = torch.arange(value.shape[1]) != node
            alike = (value[:, None, other] == value[:, other]).all(-1)
            labels = value[:, node].long().expand(len(value), -1)
            total = total @ (probs[:, column].gather(1, labels) * alike)
    return total


def average(field: Energy, x: dict[str, Tensor], law: Tensor) -> Tensor:
    """The matrix of a step, each of whose parts leaves the law unchanged."""
    count = number_of_sets(field)
    total = torch.zeros(len(law), len(law), dtype=torch.float64)
    for k in range(count):
        matrix = matrix_of_set(ConstraintBlocks(), field, x, k)
        assert violation_of(matrix, law).found() <= {"unreachable"}
        # Drawn from joint laws: once more is as good as once.
        torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-12)
        total += matrix / count
    return total


@pytest.mark.parametrize("name", CASES)
def test_the_law_is_left_unchanged_and_every_state_is_reached(name: str) -> None:
    field = CASES[name]()
    x, law = possible(field)
    blocks = average(field, x, law)
    assert not violation_of(gibbs(field, x) @ blocks, law).found()
    if name not in ("independent sets", "a node held"):  # of these Gibbs alone reaches all
        assert "unreachable" in violation_of(gibbs(field, x), law).found()


@pytest.mark.parametrize("name", ["independent sets", "permutation of labels", "two of four"])
def test_so_do_blocks_of_a_component_that_is_too_large_for_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "WHOLE", 6 if name == "two of four" else 7)
    monkeypatch.setattr(constraints, "GROWN", 1)
    field = permutation_of_labels(4) if name == "permutation of labels" else CASES[name]()
    if name == "permutation of labels":  # pairs have 12 joint labels, four nodes 24
        monkeypatch.setattr(constraints, "WHOLE", 23)
    x, law = possible(field)
    assert not violation_of(gibbs(field, x) @ average(field, x, law), law).found()


def test_blocks_are_scopes_and_their_unions_where_all_are_too_many() -> None:
    field = independent_set(8, 8)
    found = Constraints.of(graph_of(field.structure()))
    assert len(found.factors) == 112
    assert all(len(block.nodes) > 2 for block in found.blocks)
    assert all(len(block.labels) <= constraints.GROWN for block in found.blocks)
    covered = [set(block.nodes) for block in found.blocks]
    assert all(any(set(f.nodes) <= own for own in covered) for f in found.factors)
    # No factor touches two blocks of a set.
    for blocks in found.sets:
        owner = torch.full((64,), -1)
        owner[blocks.nodes] = blocks.owner
        touched = owner[graph_of(field.structure()).groups["apart"].nodes]
        both = (touched >= 0).all(1)
        assert bool((touched[both, 0] == touched[both, 1]).all())


def test_a_component_is_one_block_where_its_labels_are_few() -> None:
    (block,) = Constraints.of(equal(30).read()).blocks
    assert len(block.nodes) == 30
    assert len(block.labels) == 2
    (block,) = Constraints.of(permutation_of_bits(3).read()).blocks
    assert len(block.labels) == 6


def test_fields_of_one_structure_have_their_own_laws() -> None:
    one = two_of_four()
    table = torch.stack([one.factors["node"].table, 3 * one.factors["node"].table.flip(0)])  # type: ignore[attr-defined]
    factors = {**one.factors, "node": TableFactors(torch.arange(4)[:, None], table)}
    both = RandomField([2] * 4, factors)
    x, law = possible(one)
    laws = (-both(x[V][:, None].expand(-1, 2, -1))).softmax(0)
    start = torch.stack(
        [x[V][torch.multinomial(laws[:, k], CHAINS, replacement=True)] for k in (0, 1)], 1
    )
    torch.manual_seed(1)
    kernel = ConstraintBlocks()
    state = kernel.init(both, {V: start})
    state, _ = kernel.step(both, state)
    for k in (0, 1):
        same = (state.x[V][:, k, None] == x[V]).all(-1)
        counts = same.sum(0)
        assert chi_square(counts.numpy(), laws[:, k].numpy()) > ALPHA
    assert not torch.equal(state.x[V], start)
    del law


# --- where nothing is forbidden: the ladder's lower end ------------------------------------------


def everything(field: Energy) -> dict[str, Tensor]:
    return {V: every_label(field).double()}


def lowest_level(field: Energy) -> Tensor:
    """The matrix of the blocks of a field at β = 0, where all its states are as likely."""
    kernel = ConstraintBlocks()
    sets = kernel.init(field, {V: possible(field)[0][V]}).sets

    def step(x: dict[str, Tensor]) -> dict[str, Tensor]:
        state = kernel.init(0 * field, x)
        assert not state.sets
        return kernel.step(0 * field, state._replace(sets=sets))[0].x

    return matrix_of(step, everything(field))


def test_at_zero_weight_blocks_leave_the_uniform_law_unchanged() -> None:
    matrix = lowest_level(two_of_four())
    law = torch.full((16,), 1 / 16, dtype=torch.float64)
    assert violation_of(matrix, law).found() == {"unreachable"}


def test_a_block_that_came_out_of_what_is_forbidden_and_never_back_is_found() -> None:
    def taken(self: object, x: Tensor) -> Tensor:
        return torch.ones(*x.shape[:-1], 1, dtype=torch.bool)

    with mock.patch.object(constraints.BlockSet, "are_allowed", taken):
        matrix = lowest_level(two_of_four())
    law = torch.full((16,), 1 / 16, dtype=torch.float64)
    assert "stationary" in violation_of(matrix, law).found(1e-3)


def test_a_block_that_forgets_the_factors_around_it_is_found() -> None:
    right = constraints.entries

    def forgetful(group: object, term: constraints.Term, x: Tensor) -> Tensor:
        return right(group, term, torch.zeros_like(x))  # type: ignore[arg-type]

    field = two_apart()
    x, law = possible(field)
    with mock.patch.object(constraints, "entries", forgetful):
        matrix = matrix_of_set(ConstraintBlocks(), field, x, 0)
    assert "stationary" in violation_of(matrix, law).found(1e-3)


@pytest.mark.parametrize("case", ["two of four", "matches", "six that are equal"])
def test_on_a_ladder_exact_draws_stay_exact_at_every_level(case: str) -> None:
    # α = 1e-6, N = 20,000: it finds states whose probability is off by 0.02.
    field = CASES[case]()
    x, law = possible(field)
    every = everything(field)
    heights = field(every)
    kernel = choose_kernel(field)
    assert isinstance(kernel, Cycle)
    ladder = ParallelTempering(kernel, (0.0, 0.4, 1.0))
    torch.manual_seed(2)
    chosen = torch.multinomial(law, CHAINS, replacement=True)
    state = ladder.init(field, {V: x[V][chosen]})
    levels = []
    for beta in (0.0, 0.4, 1.0):
        weights = torch.zeros_like(heights) if beta == 0 else -beta * heights
        levels.append(weights.softmax(0))
    start = [every[V][torch.multinomial(p, CHAINS, replacement=True)] for p in levels]
    inner = ladder.kernel.init(state.path, {V: torch.stack(start, 1)})
    state = state._replace(replicas=inner, x={V: start[2]}, energy=field({V: start[2]}))
    for _ in range(4):
        state, _ = ladder.step(field, state)
    for level, p in enumerate(levels):
        same = (state.replicas.x[V][:, level, None] == every[V]).all(-1)
        counts = same.sum(0).double()
        assert float(counts[p == 0].sum()) == 0
        assert chi_square(counts[p > 0].numpy(), p[p > 0].numpy()) > ALPHA / len(levels)


# --- the door ------------------------------------------------------------------------------------


def test_only_random_fields_are_taken_and_the_cure_works() -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    x = {name: torch.zeros(2, *site.shape) for name, site in machine.sites.items()}
    with pytest.raises(TypeError, match=r"Use RandomBlocks\(size=2\)"):
        ConstraintBlocks().init(machine, x)


def test_without_forbidding_factors_nothing_moves() -> None:
    field = RandomField.potts(
        [(0, 1), (1, 2)], 3, couplings=torch.ones(2), biases=torch.zeros(1, 3)
    )
    kernel = ConstraintBlocks()
    state = kernel.init(field, {V: torch.zeros(4, 3)})
    assert not state.sets
    assert kernel.step(field, state)[0] is state
    assert isinstance(choose_kernel(field), Gibbs)


def test_sequences_of_unequal_length_need_no_blocks() -> None:
    unary, pairs = torch.randn(2, 4, 3), torch.randn(1, 3, 3)
    field = RandomField.chain(unary, pairs, lengths=torch.tensor([2, 4]))
    assert not Constraints.of(graph_of(field.structure())).factors


def test_a_refresh_keeps_blocks_and_reads_parameters_anew() -> None:
    field = one_of_three()
    x, _ = possible(field)
    kernel = ConstraintBlocks()
    state = kernel.init(field, x)
    hot = 0.5 * field
    again = kernel.refresh(hot, state, x)
    assert again.sets is state.sets
    weights = again.sets[0].log_weights(again.graph, x[V].long())
    torch.testing.assert_close(
        weights, 0.5 * state.sets[0].log_weights(state.graph, x[V].long()), rtol=0, atol=1e-12
    )
