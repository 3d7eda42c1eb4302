"""Numbers from other libraries make the same energy of every state: docs/conversions.md.

Where a library is at hand (dimod, scikit-learn) its own energy is asked; else the formula that it
states is written here in numpy.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import dimod
import numpy as np
import pytest
import torch
from sklearn.neural_network import BernoulliRBM

from pyro_ebm import BoltzmannMachine, Graph, Layer, RandomField, TableFactors, exact
from pyro_ebm.units import Bernoulli, Categorical, Spin

DOUBLE = torch.float64
NAMES = ("u", "v", "w", "x")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def states(n: int, *values: float) -> np.ndarray:
    return np.array(list(itertools.product(values, repeat=n)))


def assert_same(found: torch.Tensor, wanted: np.ndarray) -> None:
    torch.testing.assert_close(found.double(), torch.as_tensor(wanted), rtol=0, atol=1e-12)


# --- dimod ---------------------------------------------------------------------------------------


def bqm(vartype: str) -> Any:
    """One pair is given twice, one variable has no pair, and there is an offset."""
    model = dimod.BinaryQuadraticModel(vartype)
    for name, value in zip(NAMES, random(4), strict=True):
        model.add_linear(name, value)
    for pair, value in zip(
        [("v", "u"), ("u", "w"), ("u", "v"), ("w", "v")], random(2, 2).ravel(), strict=True
    ):
        model.add_quadratic(*pair, value)
    model.offset = 0.7
    return model


def as_spins(model: Any) -> BoltzmannMachine:
    return BoltzmannMachine.from_ising(*model.to_ising(), dtype=DOUBLE)


def as_bits(model: Any) -> BoltzmannMachine:
    return BoltzmannMachine.from_qubo(*model.to_qubo(), dtype=DOUBLE)


def of_spins(machine: BoltzmannMachine) -> Any:
    return dimod.BinaryQuadraticModel.from_ising(*machine.to_ising())


def of_bits(machine: BoltzmannMachine) -> Any:
    return dimod.BinaryQuadraticModel.from_qubo(*machine.to_qubo())


def energies(model: Any, x: np.ndarray, names: Any) -> np.ndarray:
    """What a model says of states in the values of its own kind."""
    own = (x + 1) / 2 if x.min() < 0 and model.vartype is dimod.BINARY else x
    own = 2 * x - 1 if x.min() >= 0 and model.vartype is dimod.SPIN else own
    return np.asarray(model.energies((own, list(names))))


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
@pytest.mark.parametrize("taken", [as_spins, as_bits])
@pytest.mark.parametrize("back", [of_spins, of_bits])
def test_a_model_of_dimod_comes_and_goes(
    vartype: str,
    taken: Callable[[Any], BoltzmannMachine],
    back: Callable[[BoltzmannMachine], Any],
) -> None:
    model = bqm(vartype)
    machine = taken(model)
    names = machine.names["visible"]
    assert set(names) == set(NAMES)
    x = states(4, *((-1, 1) if taken is as_spins else (0, 1)))
    wanted = energies(model, x, names)
    assert_same(machine(torch.tensor(x, dtype=DOUBLE)), wanted)
    assert_same(torch.as_tensor(energies(back(machine), x, names)), wanted)
    log_z = np.logaddexp.reduce(-wanted)
    assert math.isclose(exact.log_partition(machine).item(), log_z, abs_tol=1e-12)


# --- the way back --------------------------------------------------------------------------------


def weighted(seed: int, *shape: int) -> torch.Tensor:
    return torch.tensor(random(*shape) + seed)


MACHINES: dict[str, Callable[[], BoltzmannMachine]] = {
    "restricted, with offsets": lambda: BoltzmannMachine.restricted(
        3,
        2,
        couplings=weighted(0, 3, 2),
        biases={"visible": weighted(1, 3), "hidden": weighted(2, 2)},
        offset={"visible": torch.full((3,), 0.3, dtype=DOUBLE)},
    ),
    "dense spins": lambda: BoltzmannMachine.fully_visible(
        4, unit=Spin(), couplings=weighted(0, 4, 4), biases=weighted(0, 4)
    ),
    "bits beside spins": lambda: BoltzmannMachine(
        {
            "bits": Layer(Bernoulli(), 2, bias=weighted(0, 2)),
            "spins": Layer(Spin(), 2, bias=weighted(1, 2)),
        },
        {("bits", "spins"): weighted(0, 2, 2)},
    ),
    "one coupling for a graph": lambda: BoltzmannMachine.on_graph(
        [(0, 1), (1, 2), (2, 3)], couplings=torch.tensor([0.4], dtype=DOUBLE)
    ),
}


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("way", ["ising", "qubo"])
def test_a_machine_goes_and_comes_back(name: str, way: str) -> None:
    machine = MACHINES[name]()
    if way == "ising":
        again = BoltzmannMachine.from_ising(*machine.to_ising(), dtype=DOUBLE)
    else:
        again = BoltzmannMachine.from_qubo(*machine.to_qubo(), dtype=DOUBLE)
    sizes = {site: own.size for site, own in machine.layers.items()}
    several = len(sizes) > 1
    own = [(site, k) if several else k for site, n in sizes.items() for k in range(n)]
    x = torch.tensor(states(len(own), 0, 1), dtype=DOUBLE)
    values = dict(zip(sizes, x.split(list(sizes.values()), -1), strict=True))
    for site, layer in machine.layers.items():
        if isinstance(layer.unit, Spin):
            values[site] = 2 * values[site] - 1
    order = [own.index(unit) for unit in again.names["visible"]]
    there = x[:, order] if way == "qubo" else 2 * x[:, order] - 1
    assert_same(again(there), machine(values).detach().numpy())


@pytest.mark.parametrize("unit", [Bernoulli(), Spin()])
def test_pairs_are_what_a_machine_was_made_of(unit: Any) -> None:
    couplings, biases = {("a", "b"): 0.5, ("b", "c"): -1.0}, {"a": 1.0, "b": 0.0, "c": 2.0}
    machine = BoltzmannMachine.from_pairs(couplings, biases, 0.25, unit=unit)
    assert machine.to_pairs() == (couplings, biases, 0.25)


REFUSED: dict[str, tuple[BoltzmannMachine, str]] = {
    "labels": (BoltzmannMachine({"a": Layer(Categorical(3), 2)}, {}), "neither bits nor spins"),
    "a batch": (
        BoltzmannMachine.on_graph([(0, 1)], couplings=torch.ones(5, 1)),
        r"batch shape \(5,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("way", ["to_pairs", "to_ising", "to_qubo"])
def test_what_is_no_polynomial_of_bits_is_refused(case: str, way: str) -> None:
    machine, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        getattr(machine, way)()


# --- others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.35])
def test_thrml_and_hamon(beta: float) -> None:
    b, weights, edges = random(4), random(3), [(0, 1), (1, 3), (2, 3)]
    s = states(4, -1, 1)
    pairs = np.stack([s[:, i] * s[:, j] for i, j in edges], -1)
    wanted = -beta * (s @ b + pairs @ weights)
    couplings = dict(zip(edges, beta * weights, strict=True))
    machine = BoltzmannMachine.from_pairs(couplings, beta * b, unit=Spin(), dtype=DOUBLE)
    assert_same(machine(torch.tensor(s, dtype=DOUBLE)), wanted)
    tempered = beta * BoltzmannMachine.from_pairs(
        dict(zip(edges, weights, strict=True)), b, unit=Spin(), dtype=DOUBLE
    )
    assert_same(tempered(torch.tensor(s, dtype=DOUBLE)), wanted)


def test_rbms() -> None:
    weight, b, c = random(3, 2), random(3), random(2)
    v, h = np.split(states(5, 0, 1), [3], axis=1)
    wanted = -v @ b - h @ c - np.einsum("ri,ij,rj->r", v, weight, h)
    machine = BoltzmannMachine.restricted(
        3,
        2,
        couplings=torch.tensor(weight),
        biases={"visible": torch.tensor(b), "hidden": torch.tensor(c)},
    )
    found = machine({"visible": torch.tensor(v).double(), "hidden": torch.tensor(h).double()})
    assert_same(found, wanted)


def test_scikit_learn() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (40, 4)).astype(float)
    learned = BernoulliRBM(n_components=4, n_iter=3, random_state=0).fit(rows)  # a square one
    machine = BoltzmannMachine.restricted(
        4,
        4,
        couplings=torch.tensor(learned.components_.T),
        biases={
            "visible": torch.tensor(learned.intercept_visible_),
            "hidden": torch.tensor(learned.intercept_hidden_),
        },
    )
    v = states(4, 0, 1)
    assert_same(machine.free_energy(torch.tensor(v).double()), learned._free_energy(v))


def test_adabmdca() -> None:
    length, q = 3, 3
    h, coupling = random(length, q), random(length, length, q, q)
    sequences = states(length, *range(q))
    wanted = np.array(
        [
            -sum(h[i, a] for i, a in enumerate(row))
            - sum(
                coupling[i, j, row[i], row[j]] for i in range(length) for j in range(i + 1, length)
            )
            for row in sequences.astype(int)
        ]
    )
    pairs = torch.combinations(torch.arange(length))
    tables = torch.tensor(coupling)[pairs[:, 0], pairs[:, 1]]
    field = RandomField(
        [q] * length,
        {
            "h": TableFactors(torch.arange(length)[:, None], torch.tensor(h)),
            "J": TableFactors(pairs, tables),
        },
    )
    assert_same(field(torch.tensor(sequences).double()), wanted)


def test_simulated_bifurcation() -> None:
    half, h = random(4, 4), random(4)
    coupling = half + half.T
    np.fill_diagonal(coupling, 0)
    s = states(4, -1, 1)
    wanted = -0.5 * np.einsum("ri,ij,rj->r", s, coupling, s) + s @ h
    machine = BoltzmannMachine.from_ising(h, -coupling / 2)
    assert_same(machine(torch.tensor(s, dtype=DOUBLE)), wanted)


def test_a_graph_of_networkx_with_weights() -> None:
    graph = Graph([(0, 1), (1, 2)], couplings=torch.tensor([0.5, -0.25], dtype=DOUBLE))
    machine = BoltzmannMachine({"visible": Layer(Spin(), 3)}, {("visible", "visible"): graph})
    assert machine.to_ising()[1] == {(0, 1): -0.5, (1, 2): 0.25}
