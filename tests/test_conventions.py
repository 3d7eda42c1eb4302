"""Graphs, matrices and polynomials from elsewhere mean here what they mean there, or warn."""

import ast
import copy
import itertools
import math
import pickle
import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.distributions import Ising, Potts
from pyro_ebm.energies import BoltzmannMachine, CouplingWarning, Energy, Graph, RandomField
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin

Numbers = Mapping[Any, float]


def polynomial(names: tuple[Hashable, ...], x: Tensor, linear: Numbers, pairs: Numbers) -> Tensor:
    """Σ a x + Σ Q x x, by loops over the terms."""
    at = {name: x[..., k].double() for k, name in enumerate(names)}
    total = torch.zeros(x.shape[:-1], dtype=torch.float64)
    for name, value in linear.items():
        total = total + value * at[name]
    for (one, other), value in pairs.items():
        total = total + value * at[one] * at[other]
    return total


def states(n: int, low: float) -> Tensor:
    return torch.tensor(list(itertools.product([low, 1.0], repeat=n)), dtype=torch.float64)


PAIRS: dict[str, Numbers] = {
    "names": {("b", "a"): 0.7, ("a", "c"): -1.25, ("c", "d"): 0.3},
    "both orders": {(0, 1): 0.7, (1, 0): 0.4, (2, 1): -1.0},
    "squares": {(0, 0): 0.7, (0, 1): 0.4, (2, 2): -1.0},
    "numbers from 1": {(1, 2): 0.5, (2, 3): -0.5, (3, 4): 0.25},
    "numbers in another order": {(2, 1): 0.5, (1, 0): -0.5},
    "pairs as names": {((0, 0), (0, 1)): 0.5, ((0, 1), (1, 1)): -0.8},
    "none": {},
}
LINEAR: dict[str, Numbers] = {
    "names": {"a": 0.1, "e": -0.6},
    "both orders": {2: 0.3},
    "squares": {1: 0.4},
    "numbers from 1": {4: 1.0, 5: 2.0},
    "numbers in another order": {2: 1.0},
    "pairs as names": {(1, 1): 0.4},
    "none": {"a": 0.4, "b": -0.2},
}


@pytest.mark.parametrize("name", PAIRS)
def test_an_ising_model_has_the_energies_of_its_polynomial(name: str) -> None:
    h, couplings = LINEAR[name], PAIRS[name]
    machine = BoltzmannMachine.from_ising(h, couplings, 0.9, dtype=torch.float64)
    names = machine.names["visible"]
    assert set(names) == {*h, *(end for pair in couplings for end in pair)}
    s = states(len(names), -1.0)
    wanted = polynomial(names, s, h, couplings) + 0.9
    torch.testing.assert_close(machine(s), wanted, rtol=0, atol=1e-12)
    assert not list(machine.parameters())
    log_z = exact.log_partition(machine)
    torch.testing.assert_close(log_z, (-wanted).logsumexp(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "none"])
def test_a_qubo_has_the_energies_of_its_polynomial(name: str) -> None:
    machine = BoltzmannMachine.from_qubo(PAIRS[name], -1.1, dtype=torch.float64)
    names = machine.names["visible"]
    x = states(len(names), 0.0)
    wanted = polynomial(names, x, {}, PAIRS[name]) - 1.1
    torch.testing.assert_close(machine(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unit", [Bernoulli(), Spin()])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_have_the_sign_of_the_couplings_here(name: str, unit: Any) -> None:
    machine = BoltzmannMachine.from_pairs(
        PAIRS[name], LINEAR[name], 0.4, unit=unit, dtype=torch.float64
    )
    names = machine.names["visible"]
    x = states(len(names), 0.0 if isinstance(unit, Bernoulli) else -1.0)
    wanted = 0.4 - polynomial(names, x, LINEAR[name], PAIRS[name])
    torch.testing.assert_close(machine(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["full", "symmetric", "upper", "lower", "diagonal", "zero"])
@pytest.mark.parametrize("array", [torch.as_tensor, np.asarray])
def test_every_entry_of_a_matrix_counts_once(kind: str, array: Callable) -> None:
    matrix = torch.randn(4, 4, dtype=torch.float64)
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "full": lambda m: m,
        "symmetric": lambda m: m + m.mT,
        "upper": lambda m: m.triu(),
        "lower": lambda m: m.tril(-1),
        "diagonal": lambda m: m.diagonal().diag(),
        "zero": lambda m: 0 * m,
    }
    matrix, h = change[kind](matrix), torch.randn(4, dtype=torch.float64)
    given = array(matrix.numpy() if array is np.asarray else matrix)
    x, s = states(4, 0.0), states(4, -1.0)
    qubo = BoltzmannMachine.from_qubo(given, 0.5)
    ising = BoltzmannMachine.from_ising(array(h), given, 0.5)
    assert qubo.dtype == ising.dtype == torch.float64
    square = torch.einsum("ri,ij,rj->r", x, matrix, x)
    torch.testing.assert_close(qubo(x), square + 0.5, rtol=0, atol=1e-12)
    square = torch.einsum("ri,ij,rj->r", s, matrix, s) + s @ h
    torch.testing.assert_close(ising(s), square + 0.5, rtol=0, atol=1e-12)


def test_numbers_without_a_dtype_are_in_that_of_torch() -> None:
    assert BoltzmannMachine.from_pairs({(0, 1): 1}).dtype == torch.float32
    assert BoltzmannMachine.from_ising([1, 2], {}).dtype == torch.float32
    assert BoltzmannMachine.from_ising(np.ones(2, np.float32), {(0, 1): 0.5}).dtype == torch.float32


def test_a_gaussian_machine_is_made_of_pairs() -> None:
    machine = BoltzmannMachine.from_pairs({("a", "b"): 0.5}, {"a": 1.0}, unit=Gaussian())
    x = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(machine(x), torch.tensor([0.5 * 5 - 0.5 * 2 - 1.0]))


def test_names_stay_with_copies() -> None:
    machine = BoltzmannMachine.from_pairs({("a", "b"): 0.5})
    copied = (copy.deepcopy(machine), pickle.loads(pickle.dumps(machine)), machine.to_spins())
    for other in (*copied, machine.to_spins().to_bits(), machine.double()):
        assert other.names == {"visible": ("a", "b")}


ising, qubo, pairs = (
    getattr(BoltzmannMachine, f"from_{what}") for what in ("ising", "qubo", "pairs")
)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nothing": (lambda: pairs({}), ValueError, "There is no variable"),
    "a triple": (lambda: qubo({(0, 1, 2): 1.0}), ValueError, "is of (0, 1, 2); wanted a pair"),
    "a single name": (lambda: qubo({"ab": 1.0}), ValueError, "is of 'ab'; wanted a pair"),
    "NaN": (lambda: qubo({(0, 1): math.nan}), ValueError, "term of (0, 1) is nan; wanted a finite"),
    "infinity": (lambda: ising({"a": math.inf}, {}), ValueError, "of 'a' is inf; wanted a finite"),
    "a word": (lambda: ising({"a": "b"}, {}), TypeError, "of 'a' is 'b'; wanted a real number"),
    "a constant that is NaN": (lambda: pairs({(0, 1): 1.0}, (), math.nan), ValueError, "constant"),
    "an offset that is a word": (lambda: qubo({(0, 1): 1.0}, "no"), TypeError, "constant"),
    "a matrix for h": (lambda: ising(torch.ones(2, 2), {}), ValueError, "shape (2, 2); wanted num"),
    "no square": (
        lambda: qubo(np.ones((2, 3))),
        ValueError,
        "(2, 3); wanted a square matrix",
    ),
    "a number": (lambda: qubo(3.0), ValueError, "wanted a square matrix (n, n), or a mapping"),
    "a list of pairs": (lambda: pairs([("a", "b")]), TypeError, "are a list; wanted a mapping"),
    "None": (lambda: pairs(None), TypeError, "NoneType; wanted a mapping"),
    "names beside an array": (
        lambda: ising([0.5, 0.5], {("a", "b"): 1.0}),
        ValueError,
        "an array has 2, which are 0 to 1",
    ),
    "arrays of two sizes": (lambda: ising([1.0], np.ones((2, 2))), ValueError, "an array has 1"),
    "labels": (lambda: pairs({(0, 1): 1.0}, unit=Categorical(3)), ValueError, "RandomField"),
    "a real unit with itself": (
        lambda: pairs({(0, 0): 1.0}, unit=Gaussian()),
        ValueError,
        "give the precision",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_polynomial_is_refused(what: str) -> None:
    ask, error, words = REFUSED[what]
    with pytest.raises(error) as raised:
        ask()
    assert words in str(raised.value)


# --- matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["upper", "lower", "upper and diagonal"])
@pytest.mark.parametrize("learned", [False, True])
def test_a_triangular_matrix_is_warned_of_and_the_cures_work(side: str, learned: bool) -> None:
    w = torch.tensor([[0.0, 0.7], [0.0, 0.0]])
    w = w.mT if side == "lower" else w
    w = w + torch.eye(2) if side == "upper and diagonal" else w
    kept = nn.Parameter(w) if learned else w
    with pytest.warns(CouplingWarning, match="one side of the diagonal"):
        read = BoltzmannMachine.fully_visible(2, weight=kept, bias=torch.zeros(2))
    ones = torch.ones(2)
    own = 0.5 * float(w.diagonal().sum())
    assert float(read(ones).detach()) == pytest.approx(-0.35 - own)
    both = BoltzmannMachine.fully_visible(2, weight=w + w.mT, bias=torch.zeros(2))
    assert float(both(ones)) == pytest.approx(-0.7 - 2 * own)
    half = BoltzmannMachine.fully_visible(2, weight=(w + w.mT) / 2, bias=torch.zeros(2))
    assert float(half(ones)) == pytest.approx(-0.35 - own)
    pair = BoltzmannMachine.from_pairs({(0, 1): 0.7})
    assert float(pair(ones)) == pytest.approx(-0.7)


@pytest.mark.parametrize("w", [torch.zeros(2, 2), torch.eye(2), torch.ones(2, 2), torch.ones(1, 1)])
def test_other_matrices_are_not_warned_of(w: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BoltzmannMachine.fully_visible(len(w), weight=w)


def test_a_diagonal_beside_biases_is_warned_of_and_the_cure_works() -> None:
    w, b = torch.tensor([[0.6, 0.7], [0.7, 0.2]]), torch.tensor([0.3, 0.1])
    with pytest.warns(CouplingWarning, match="have a diagonal, which is a bias beside"):
        BoltzmannMachine.fully_visible(2, weight=w, bias=b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pure = w - w.diagonal(dim1=-2, dim2=-1).diag_embed()
        machine = BoltzmannMachine.fully_visible(2, weight=pure, bias=b)
        BoltzmannMachine.fully_visible(2, unit=Spin(), weight=w, bias=b)  # s² = 1: no bias
        BoltzmannMachine.fully_visible(2, weight=w)
    assert float(machine(torch.ones(2))) == pytest.approx(-0.7 - 0.4)


# --- graphs --------------------------------------------------------------------------------------


def weighted_path() -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(["a", "b", "c", "d"])
    graph.add_edge("c", "a", weight=0.7)
    graph.add_edge("b", "c", weight=-0.4)
    return graph


LEARNED: dict[str, Callable[[nx.Graph], Energy]] = {
    "a machine": BoltzmannMachine.on_graph,
    "one coupling": lambda g: BoltzmannMachine.on_graph(g, weight="shared"),
    "tables": lambda g: RandomField.on_graph(g, 2),
    "Potts": lambda g: RandomField.potts(g, 2),
    "Ising": RandomField.ising,
}


@pytest.mark.parametrize("what", LEARNED)
def test_weights_of_a_graph_that_are_not_read_are_warned_of(what: str) -> None:
    graph = weighted_path()
    with pytest.warns(CouplingWarning, match="weights, which are not read"):
        LEARNED[what](graph)
    for *_, data in graph.edges(data=True):
        data.pop("weight", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LEARNED[what](graph)


# By loops, the energy that the warning names for couplings w, of two labels or spins.
NAMED: dict[str, Callable[[float, Any, Any], float]] = {
    "a machine": lambda w, a, b: -w * (2 * a - 1) * (2 * b - 1),
    "one coupling": lambda w, a, b: -w * (2 * a - 1) * (2 * b - 1),
    "tables": lambda w, a, b: -w * float(a == b),
    "Potts": lambda w, a, b: -w * float(a == b),
    "Ising": lambda w, a, b: -w * (2 * a - 1) * (2 * b - 1),
}
MADE: dict[str, str] = {
    "a machine": "BoltzmannMachine.on_graph(graph, bias=torch.zeros(4), {})",
    "one coupling": "BoltzmannMachine.on_graph(graph, bias=torch.zeros(4), {})",
    "tables": "{}",
    "Potts": "RandomField.potts(graph, states, {})",
    "Ising": "RandomField.ising(graph, {})",
}


@pytest.mark.parametrize("what", LEARNED)
@pytest.mark.parametrize("weights", [(0.7, -0.4), (2, -1), (2.0, None)])
def test_the_cure_that_the_warning_of_weights_names_gives_the_energy_that_it_names(
    what: str, weights: tuple[float | None, float | None]
) -> None:
    graph = nx.Graph([("a", "b"), ("c", "d")])
    for (a, b), w in zip([("a", "b"), ("c", "d")], weights, strict=True):
        if w is not None:
            graph.edges[a, b]["weight"] = w
    with pytest.warns(CouplingWarning, match="weights, which are not read") as notes:
        LEARNED[what](graph)
    cure = str(notes[0].message).split(" give ")[1].split(". To learn")[0]
    names = {**globals(), "graph": graph, "states": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy = eval(MADE[what].format(cure), names)
    x = states(4, 0.0).float()
    couplings = [1.0 if w is None else float(w) for w in weights]
    wanted = [
        sum(NAMED[what](w, *pair) for w, pair in zip(couplings, (row[:2], row[2:]), strict=True))
        for row in x.tolist()
    ]
    given = 2 * x - 1 if "machine" in what or "one" in what else x
    torch.testing.assert_close(energy(given).detach(), torch.tensor(wanted))


def test_the_weights_of_a_graph_are_couplings_by_the_cure() -> None:
    graph = weighted_path()
    weight = torch.tensor([w for *_, w in graph.edges(data="weight", default=1.0)])
    machine = BoltzmannMachine.on_graph(graph, weight=weight, bias=torch.zeros(4))
    field = RandomField.ising(graph, coupling=weight, field=torch.zeros(1))
    given = {(a, b): w for a, b, w in graph.edges(data="weight")}
    names = machine.names["visible"]
    assert names == field.names["visible"] == ("a", "b", "c", "d")
    s = states(4, -1.0).float()
    wanted = -polynomial(names, s, {}, given).float()
    torch.testing.assert_close(machine(s), wanted)
    torch.testing.assert_close(field((s + 1) / 2), wanted)


def test_nodes_that_are_numbers_keep_them_in_any_order() -> None:
    graph = nx.Graph([(3, 1), (1, 0), (2, 0)])
    weight = torch.tensor([0.5, -0.25, 2.0])
    given = {tuple(edge): float(w) for edge, w in zip(graph.edges, weight, strict=True)}
    machine = BoltzmannMachine.on_graph(graph, weight=weight, bias=torch.zeros(4))
    field = RandomField.ising(graph, coupling=weight, field=torch.zeros(1))
    law = Ising(graph, weight)
    s = states(4, -1.0).float()
    wanted = -polynomial((0, 1, 2, 3), s, {}, given).float()
    torch.testing.assert_close(machine(s), wanted)
    torch.testing.assert_close(field((s + 1) / 2), wanted)
    torch.testing.assert_close(law.log_prob(s), -wanted - (-wanted).logsumexp(0))
    potts = Potts(graph, weight, torch.zeros(4, 2))
    torch.testing.assert_close(
        potts.log_prob((s + 1) / 2), (-wanted / 2) - (-wanted / 2).logsumexp(0), atol=1e-5, rtol=0
    )


NUMBERED: dict[str, Callable[[nx.Graph], Energy]] = {
    "a machine": lambda g: BoltzmannMachine.on_graph(g),
    "tables": lambda g: RandomField.on_graph(g, 2),
    "Ising": lambda g: RandomField.ising(g),
}


@pytest.mark.parametrize("what", NUMBERED)
def test_numbers_that_are_not_the_units_are_warned_of_and_mapped_back(what: str) -> None:
    graph = nx.Graph([(5, 3), (3, 9)])
    with pytest.warns(CouplingWarning, match="not 0 to 2, so unit k is not the node k"):
        energy = NUMBERED[what](graph)
    assert energy.names == {"visible": (5, 3, 9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy = NUMBERED[what](nx.convert_node_labels_to_integers(graph))
    assert energy.names == {"visible": (0, 1, 2)}


def test_the_first_node_of_an_undirected_edge_is_the_one_with_the_smaller_number() -> None:
    table = torch.tensor([[[0.0, 1.0], [-2.0, 0.5]]])
    for listed in ([(0, 1)], [(1, 0)]):
        graph = nx.Graph()
        graph.add_nodes_from([1, 0])
        graph.add_edges_from(listed)
        field = RandomField.on_graph(graph, 2, node_table=torch.zeros(1, 2), edge_table=table)
        x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        torch.testing.assert_close(field(x), torch.tensor([-1.0, 2.0]))
    directed = nx.DiGraph([(1, 0)])
    field = RandomField.on_graph(directed, 2, node_table=torch.zeros(1, 2), edge_table=table)
    torch.testing.assert_close(field(x), torch.tensor([2.0, -1.0]))


FROM_PAIRS: dict[str, Callable[..., Energy]] = {
    "a machine": BoltzmannMachine.on_graph,
    "tables": lambda pairs, **more: RandomField.on_graph(pairs, 2, **more),
    "Potts": lambda pairs, **more: RandomField.potts(pairs, 2, **more),
    "Ising": RandomField.ising,
}


@pytest.mark.parametrize("what", FROM_PAIRS)
def test_edges_that_are_counted_from_one_are_refused_and_both_cures_work(what: str) -> None:
    make, edges = FROM_PAIRS[what], [(1, 2), (2, 3)]
    with pytest.raises(ValueError, match="from 1 to 3") as raised:
        make(edges)
    assert "torch.as_tensor(edges) - 1" in str(raised.value)
    assert "n=4" in str(raised.value)
    three, four = make(torch.as_tensor(edges) - 1), make(edges, n=4)
    assert float(exact.log_partition(three).detach()) == pytest.approx(3 * math.log(2))
    assert float(exact.log_partition(four).detach()) == pytest.approx(4 * math.log(2))


def test_the_ising_law_refuses_edges_that_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="spins from 1 to 2"):
        Ising([(1, 2)], torch.tensor(0.5))
    assert Ising([(1, 2)], torch.tensor(0.5), torch.zeros(3)).event_shape == (3,)


@pytest.mark.parametrize("what", FROM_PAIRS)
def test_nodes_without_edges_stay_where_their_number_is_given(what: str) -> None:
    make = FROM_PAIRS[what]
    for energy in (make([(0, 1)], n=5), make([], n=5), make(nx.empty_graph(5))):
        assert energy.sites["visible"].shape == (5,)
        assert float(exact.log_partition(energy).detach()) == pytest.approx(5 * math.log(2))
    with pytest.raises(ValueError, match="no edges to tell the number"):
        make([])
    with pytest.raises(ValueError, match="n is 4, but the graph has 5 nodes"):
        make(nx.empty_graph(5), n=4)


@pytest.mark.parametrize("what", FROM_PAIRS)
@pytest.mark.parametrize("edges", [[("b", "a")], [(0, 1), (2,)], [(0, "a")], [(None, 1)]])
def test_edges_that_are_no_numbers_are_refused(what: str, edges: Any) -> None:
    with pytest.raises(ValueError, match=r"no pairs of numbers.*networkx.Graph\(edges\)"):
        FROM_PAIRS[what](edges)


def test_named_edges_are_taken_by_the_cures() -> None:
    edges = [("b", "a"), ("a", "c")]
    machine = BoltzmannMachine.on_graph(nx.Graph(edges))
    assert machine.names == {"visible": ("b", "a", "c")}
    other = BoltzmannMachine.from_pairs(dict.fromkeys(edges, 0.5), unit=Spin())
    assert other.names == {"visible": ("b", "a", "c")}


def test_couplings_between_layers_may_leave_units_out() -> None:
    layers = dict.fromkeys(("a", "b"), BoltzmannMachine.fully_visible(3).layers["visible"])
    machine = BoltzmannMachine(layers, {("a", "b"): Graph([(1, 1), (2, 2)])})
    assert machine.names == {}


# --- files of graphs -----------------------------------------------------------------------------

EXAMPLE = Path(__file__).parent.parent / "examples" / "max_cut.py"


@pytest.mark.parametrize("weights", [True, False])
def test_the_example_reads_graphs_with_and_without_weights(weights: bool, tmp_path: Path) -> None:
    """A path of three nodes, and one node without an edge."""
    rows = ["1 2", "2 3"]
    lines = [f"{row} {w}" for row, w in zip(rows, (3, 1), strict=True)] if weights else rows
    (tmp_path / "G.txt").write_text("\n".join(["4 2", *lines, "", "  "]) + "\n")
    script = ast.parse(EXAMPLE.read_text())
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef)
    script.body = [part for part in script.body if isinstance(part, kept)]
    namespace: dict[str, Any] = {}
    exec(compile(script, str(EXAMPLE), "exec"), namespace)  # the functions, and not the run
    n, edges, weight = namespace["read_graph"](tmp_path / "G.txt")
    assert n == 4
    assert edges.tolist() == [[0, 1], [1, 2]]
    assert weight.tolist() == ([3.0, 1.0] if weights else [1.0, 1.0])


@pytest.mark.parametrize("what", FROM_PAIRS)
def test_pairs_of_negative_numbers_are_refused_and_counted_from_0_by_the_cure(what: str) -> None:
    edges = [(-1, 0), (0, 1)]
    with pytest.raises(ValueError, match=r"from -1 to 1; wanted numbers from 0") as raised:
        FROM_PAIRS[what](edges)
    assert "Give torch.as_tensor(edges) - (-1) if" in str(raised.value)
    energy = FROM_PAIRS[what](torch.as_tensor(edges) - (-1))
    assert energy.sites["visible"].shape == (3,)
