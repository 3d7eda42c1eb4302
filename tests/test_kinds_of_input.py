"""Numbers, tables and sizes of other libraries are taken, or refused with a cure that works."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro.optim
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Layer,
    RandomField,
    TableFactors,
    clamp,
    mlp_energy,
)
from pyro_ebm.kernels import HMC, Gibbs, RandomBlocks, run
from pyro_ebm.learning import (
    ContrastiveDivergence,
    ExactLikelihood,
    MeanField,
    Monitor,
    PersistentContrastiveDivergence,
    SampledPosterior,
    fit,
    init_biases_from_data,
)
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Categorical

ROWS = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1.0]])


def learned(data: Any, **settings: Any) -> list[Tensor]:
    torch.manual_seed(0)
    machine = BoltzmannMachine.restricted(3, 2)
    init_biases_from_data(machine, data)
    fit(machine, data, ExactLikelihood(), epochs=2, seed=1, **settings)
    return [p.detach() for p in machine.parameters()]


# --- data ----------------------------------------------------------------------------------------

TAKEN: dict[str, Any] = {
    "a DataFrame": pd.DataFrame(ROWS.numpy(), columns=["a", "b", "c"]),
    "a DataFrame of whole numbers": pd.DataFrame(ROWS.long().numpy()),
    "a DataFrame of truth values": pd.DataFrame(ROWS.bool().numpy()),
    "a dict of DataFrames": {"visible": pd.DataFrame(ROWS.numpy())},
    "an array of xarray": pd.DataFrame(ROWS.numpy()).to_xarray().to_array().values.T,
}


@pytest.mark.parametrize("what", TAKEN)
def test_tables_teach_as_tensors_do(what: str) -> None:
    for one, other in zip(learned(ROWS), learned(TAKEN[what]), strict=True):
        assert torch.equal(one, other)


def loader() -> DataLoader:
    return DataLoader(TensorDataset(ROWS, torch.arange(5)), batch_size=2)


# Each with the words of its cure, and the cure.
CURED: dict[str, tuple[Callable[[], Any], str, Callable[[Any], Any]]] = {
    "a sparse matrix": (
        lambda: scipy.sparse.csr_matrix(ROWS.numpy()),
        "value.toarray()",
        lambda value: value.toarray(),
    ),
    "a sparse array": (
        lambda: scipy.sparse.coo_array(ROWS.numpy()),
        "value.toarray()",
        lambda value: value.toarray(),
    ),
    "a loader": (
        loader,
        "torch.stack([row for row, *_ in loader.dataset])",
        lambda loader: torch.stack([row for row, *_ in loader.dataset]),
    ),
    "a loader of rows": (
        lambda: DataLoader(ROWS, batch_size=2),
        "Give the rows themselves, loader.dataset; fit makes",
        lambda loader: loader.dataset,
    ),
    "a loader of arrays": (
        lambda: DataLoader(list(ROWS.numpy()), batch_size=2),
        "torch.stack([torch.as_tensor(row) for row in loader.dataset])",
        lambda loader: torch.stack([torch.as_tensor(row) for row in loader.dataset]),
    ),
    "a loader of a part": (
        lambda: DataLoader(Subset(TensorDataset(torch.cat([ROWS, ROWS])), range(5))),
        "torch.stack([row for row, *_ in loader.dataset])",
        lambda loader: torch.stack([row for row, *_ in loader.dataset]),
    ),
    "a data set": (
        lambda: TensorDataset(ROWS, torch.arange(5)),
        "Give the rows themselves, dataset.tensors[0].",
        lambda dataset: dataset.tensors[0],
    ),
    "a part of a data set": (
        lambda: Subset(TensorDataset(torch.cat([ROWS, 1 - ROWS])), range(5)),
        "torch.stack([row for row, *_ in dataset])",
        lambda dataset: torch.stack([row for row, *_ in dataset]),
    ),
    "rows one by one": (lambda: iter(ROWS), "torch.stack(list(rows))", lambda x: torch.stack([*x])),
    "batches": (
        lambda: iter(DataLoader(ROWS, batch_size=2)),
        "torch.cat(list(batches))",
        lambda batches: torch.cat(list(batches)),
    ),
    "sites in a site": (
        lambda: {"visible": {"visible": ROWS}},
        "value['visible']",
        lambda value: value["visible"],
    ),
    "a sparse tensor": (ROWS.to_sparse, ".to_dense()", lambda value: value.to_dense()),
    "a compressed tensor": (ROWS.to_sparse_csr, ".to_dense()", lambda value: value.to_dense()),
    "a list": (ROWS.tolist, "torch.tensor(...)", torch.tensor),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("what", CURED)
def test_other_data_are_refused_with_a_cure_that_works(what: str) -> None:
    make, words, cure = CURED[what]
    with pytest.raises(TypeError, match="wanted") as raised:
        learned(make())
    assert words in str(raised.value)
    for one, other in zip(learned(ROWS), learned(cure(make())), strict=True):
        assert torch.equal(one, other)


def test_a_dict_where_one_tensor_is_wanted_is_refused_and_the_tensor_is_taken() -> None:
    machine = BoltzmannMachine({"x": Layer(Bernoulli(), 2), "y": Layer(Bernoulli(), 3)})
    law = EnergyDistribution(clamp(machine, {"x": torch.zeros(2)}))
    value = {"y": ROWS}
    with pytest.raises(TypeError, match=r"'y' is a dict.*value\['y'\]"):
        law.log_prob(value)  # type: ignore[arg-type]
    found = law.log_prob(value["y"]).detach()
    torch.testing.assert_close(found, torch.full((5,), 3 * -math.log(2)))


PYROS: dict[str, tuple[Any, str]] = {
    "Adam": (pyro.optim.Adam({"lr": 0.1}), "functools.partial(torch.optim.Adam, lr=0.1)"),
    "clipped": (
        pyro.optim.ClippedAdam({"lr": 0.1, "clip_norm": 5.0}),
        "functools.partial(pyro.optim.clipped_adam.ClippedAdam, lr=0.1, clip_norm=5.0)",
    ),
    "by a function": (
        pyro.optim.Adam(lambda _: {"lr": 0.1}),
        "functools.partial(torch.optim.Adam, lr=...)",
    ),
}


@pytest.mark.parametrize("kind", PYROS)
def test_an_optimiser_of_pyro_is_refused_and_the_torch_one_of_the_cure_learns(kind: str) -> None:
    optimizer, cure = PYROS[kind]
    with pytest.raises(TypeError, match="optimiser of Pyro") as raised:
        learned(ROWS, optimizer=optimizer)
    assert cure in str(raised.value)
    taken = eval(cure.replace("...", "0.1"), {"functools": functools, "torch": torch, "pyro": pyro})
    assert len(learned(ROWS, optimizer=taken)) == 3


def test_what_makes_no_optimiser_is_refused_by_what_it_makes() -> None:
    with pytest.raises(TypeError, match=r"optimizer made None of the parameters; wanted"):
        learned(ROWS, optimizer=lambda parameters: None)
    learned(ROWS, optimizer=functools.partial(torch.optim.SGD, lr=0.05))


def test_minibatches_are_made_by_fit_as_the_cure_says() -> None:
    data = torch.stack([row for row, *_ in loader().dataset])
    assert len(learned(data, batch_size=2)) == 3


@pytest.mark.parametrize("value", [pd.DataFrame({"a": ["x", "y"]}), {1, 2}, object(), b"01"])
def test_what_has_no_numbers_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="wanted"):
        BoltzmannMachine.fully_visible(1)(value)


# --- parameters ----------------------------------------------------------------------------------

GIVEN: dict[str, Callable[[Tensor], Any]] = {
    "weight": lambda w: BoltzmannMachine.restricted(2, 2, couplings=w),
    "a learned weight": lambda w: BoltzmannMachine.restricted(2, 2, couplings=nn.Parameter(w)),
    "a square": lambda w: BoltzmannMachine.fully_visible(2, couplings=w),
    "a table": lambda w: TableFactors([[0]], w),
    "potentials of a chain": lambda w: RandomField.chain(w, torch.zeros(1, 2, 2)),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("where", GIVEN)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to_sparse(), "is a sparse tensor; wanted a dense one, as .to_dense()"),
        (lambda w: w.to_sparse_csr(), "is a sparse tensor; wanted a dense one, as .to_dense()"),
        (lambda w: w.to("meta"), "is on the device meta, which keeps shapes and no numbers"),
        (lambda w: w.half(), "wanted float32 or float64"),
        (lambda w: w.bfloat16(), "wanted float32 or float64"),
    ],
)
def test_parameters_that_cannot_be_computed_with_are_refused(
    where: str, change: Callable[[Tensor], Tensor], words: str
) -> None:
    w = torch.ones(1, 2) if where == "a table" else torch.tensor([[0.0, 1], [1, 0]])
    with pytest.raises(TypeError) as raised:
        GIVEN[where](change(w))
    assert words in str(raised.value)
    GIVEN[where](w.to_sparse().to_dense())


def test_a_machine_on_meta_is_refused() -> None:
    with torch.device("meta"), pytest.raises(TypeError, match="A machine is on the device meta"):
        BoltzmannMachine.restricted(2, 2)


HALVES: dict[str, Callable[[], Energy]] = {
    "a machine": lambda: BoltzmannMachine.restricted(3, 2),
    "a field": lambda: RandomField.ising([(0, 1), (1, 2)]),
    "a sum": lambda: 0.5 * BoltzmannMachine.fully_visible(3),
    "a network": lambda: mlp_energy(3),
}


@pytest.mark.parametrize("what", HALVES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_energies_of_few_digits_are_refused_and_made_whole_by_the_cure(
    what: str, dtype: torch.dtype
) -> None:
    energy = HALVES[what]().to(dtype)
    kernel = HMC(step_size=0.1, trajectory_length=0.5) if what == "a network" else Gibbs()
    for use in (
        lambda e: e({name: torch.zeros(3 if name != "hidden" else 2) for name in e.sites}),
        lambda e: run(kernel, e, 2, warmup=0, seed=0),
        lambda e: fit(e, ROWS, ExactLikelihood()) if what == "a machine" else e(torch.zeros(3)),
    ):
        with pytest.raises(TypeError, match=r"energy\.float\(\)"):
            use(energy)
    energy.float()
    run(kernel, energy, 2, warmup=0, seed=0)


# --- counts --------------------------------------------------------------------------------------

COUNTS: dict[str, Callable[[Any], Any]] = {
    "units of a layer": lambda n: Layer(Bernoulli(), n),
    "visible units": lambda n: BoltzmannMachine.restricted(n, n),
    "units of a graph": lambda n: BoltzmannMachine.on_graph([(0, 1)], n),
    "layers": lambda n: BoltzmannMachine.deep([n, n]),
    "nodes of a field": lambda n: RandomField.ising([(0, 1)], n),
    "states of a field": lambda n: RandomField.potts([(0, 1)], n),
    "states of each node": lambda n: RandomField.potts([(0, 1)], [n, n]),
    "labels": Categorical,
    "numbers": lambda n: CallableEnergy(lambda x: x.square().sum(-1), n),
    "a shape": lambda n: CallableEnergy(lambda x: x.square().flatten(1).sum(-1), (n, n)),
    "hidden layers": lambda n: mlp_energy(2, (n, n)),
    "epochs": lambda n: fit(BoltzmannMachine.fully_visible(3), ROWS, ExactLikelihood(), epochs=n),
    "batch_size": lambda n: fit(
        BoltzmannMachine.fully_visible(3), ROWS, ExactLikelihood(), epochs=1, batch_size=n
    ),
    "steps of CD": lambda n: learned_by(ContrastiveDivergence(n)),
    "steps of PCD": lambda n: learned_by(PersistentContrastiveDivergence(n)),
    "chains of PCD": lambda n: learned_by(PersistentContrastiveDivergence(chains=n)),
    "steps of a posterior": lambda n: SampledPosterior(n),
    "sweeps": lambda n: MeanField(max_sweeps=n),
    "a monitor's epochs": lambda n: Monitor(every=n),
    "a monitor's rows": lambda n: Monitor(rows=n),
    "a block": lambda n: RandomBlocks(size=n),
    "chains": lambda n: run(Gibbs(), BoltzmannMachine.fully_visible(3), 2, warmup=0, chains=n),
    "draws": lambda n: run(Gibbs(), BoltzmannMachine.fully_visible(3), n, warmup=0),
    "a seed": lambda n: run(Gibbs(), BoltzmannMachine.fully_visible(3), 2, warmup=0, seed=n),
}


def learned_by(objective: Any) -> None:
    fit(BoltzmannMachine.restricted(3, 2), ROWS, objective, epochs=1)


@pytest.mark.parametrize("what", COUNTS)
@pytest.mark.parametrize("two", [np.int64(2), np.int8(2), np.uint16(2), torch.tensor(2)])
def test_whole_numbers_of_numpy_and_torch_are_counts(what: str, two: Any) -> None:
    COUNTS[what](two)


@pytest.mark.parametrize("what", COUNTS)
@pytest.mark.parametrize("count", [True, np.bool_(True), 2.0, "2", -1], ids=repr)
def test_what_is_no_count_is_refused(what: str, count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="wanted"):
        COUNTS[what](count)


@pytest.mark.parametrize("source", [3, None, "chains", torch.zeros(2, 3), {}])
def test_what_is_no_run_is_refused_by_arviz_data(source: Any) -> None:
    with pytest.raises(TypeError, match="wanted what `run` returned"):
        to_arviz(source)


# --- the order and the logarithm of tables -------------------------------------------------------


def log_z_of(weights: Callable[[tuple[int, ...]], float], states: int, nodes: int) -> float:
    every = itertools.product(range(states), repeat=nodes)
    return float(np.log(sum(weights(x) for x in every)))


def test_potentials_to_from_are_turned_by_the_cure_of_the_docs() -> None:
    """Of a chain of three steps: p(x) ∝ ∏ start(x₁) A[x₂, x₁] A[x₃, x₂], by enumeration."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(3, 2, generator=generator).double()
    to_from = torch.rand(2, 2, 2, generator=generator).double()

    def weight(x: tuple[int, ...]) -> float:
        of_nodes = functools.reduce(lambda p, t: p * float(start[t, x[t]]), range(3), 1.0)
        return of_nodes * float(to_from[0, x[1], x[0]] * to_from[1, x[2], x[1]])

    log_potentials = to_from.log()
    field = RandomField.chain(start.log(), log_potentials.mT)
    assert float(exact.log_partition(field)) == pytest.approx(log_z_of(weight, 2, 3), abs=1e-12)
    turned = RandomField.chain(start.log(), log_potentials)
    assert float(exact.log_partition(turned)) != pytest.approx(log_z_of(weight, 2, 3), abs=1e-3)


def test_weights_are_given_as_logarithms_by_the_cure_of_the_docs() -> None:
    weights = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    field = RandomField([2, 3, 2], {"pairs": TableFactors([[0, 1], [2, 1]], weights.log())})

    def weight(x: tuple[int, ...]) -> float:
        if x[0] > 1 or x[2] > 1:
            return 0.0
        return float(weights[0, x[0], x[1]] * weights[1, x[2], x[1]])

    assert float(exact.log_partition(field)) == pytest.approx(log_z_of(weight, 3, 3), abs=1e-12)
    for said in (TableFactors.__doc__, RandomField.chain.__doc__):
        assert "weights.log()" in str(said)
    assert "potentials.mT" in str(RandomField.chain.__doc__)
