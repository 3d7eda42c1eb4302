"""Bad input is answered by a named error that says what is wrong, with what, and the way out."""

import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Graph,
    Layer,
    Structure,
    WithoutTerms,
)
from pyro_ebm.kernels import Gibbs, resume, run
from pyro_ebm.learning import mean_field
from pyro_ebm.partition import exact
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin

N, M = 4, 3
NAN, INF = float("nan"), float("inf")
BITS = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])


class Bad(NamedTuple):
    """What is asked, what is raised, and words that the message must contain."""

    ask: Callable[[], Any]
    error: type[Exception]
    words: tuple[str, ...]


def rbm(**settings: Any) -> BoltzmannMachine:
    return BoltzmannMachine.restricted(N, M, **settings)


def dense(**settings: Any) -> BoltzmannMachine:
    return BoltzmannMachine.fully_visible(N, **settings)


def ising(edges: Any = ((0, 1), (1, 2)), n: int | None = None, **settings: Any) -> BoltzmannMachine:
    return BoltzmannMachine.on_graph(edges, n, **settings)


class NoStructure(Energy):
    """An energy of which nothing is known, and which may answer with the wrong shape."""

    sites: ClassVar = {"x": Site(boolean, torch.Size([N]))}
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, answer: Callable[[Tensor], Tensor] = lambda x: x.sum(-1)) -> None:
        super().__init__()
        self.answer = answer

    def evaluate(self, x: Sites) -> Tensor:
        return self.answer(x["x"])

    def structure(self) -> Structure:
        return WithoutTerms(self)


def resumed(draws: Any) -> None:
    machine = dense()
    resume(run(Gibbs(), machine, 1, warmup=0, seed=0), machine, draws)


def potts() -> BoltzmannMachine:
    return dense(unit=Categorical(3))


def with_precision(logarithm: float) -> BoltzmannMachine:
    machine = rbm(units=(Gaussian(nn.Parameter(torch.ones(N))), Bernoulli()))
    with torch.no_grad():
        machine.layers["visible"].log_precision[1] = logarithm
    return machine


def start(visible: Any = None, hidden: Any = None) -> dict[str, Any]:
    zeros = {"visible": torch.zeros(2, N), "hidden": torch.zeros(2, M)}
    given = {"visible": visible, "hidden": hidden}
    return {name: zeros[name] if value is None else value for name, value in given.items()}


def gibbs(*sites: str, energy: Energy | None = None, **settings: Any) -> None:
    kernel = Gibbs(sites or None)
    run(kernel, energy or rbm(), 1, warmup=0, **settings)


PARAMETERS = {
    "NaN in a weight": Bad(
        lambda: rbm(couplings=torch.full((N, M), NAN)),
        ValueError,
        ("visible", "hidden", "NaN", "finite"),
    ),
    "infinity in a bias": Bad(
        lambda: dense(biases=torch.full((N,), INF)), ValueError, ("bias", "infinite", "finite")
    ),
    "NaN in an offset": Bad(
        lambda: dense(offset=torch.full((N,), NAN)), ValueError, ("offset", "NaN")
    ),
    "a matrix inside a layer that is not square": Bad(
        lambda: dense(couplings=torch.zeros(N, N + 1)), ValueError, ("visible", "(4, 5)", "(4, 4)")
    ),
    "a weight that is turned": Bad(
        lambda: rbm(couplings=torch.zeros(M, N)), ValueError, ("(3, 4)", "(4, 3)")
    ),
    "a bias that is too long": Bad(
        lambda: rbm(biases={"hidden": torch.zeros(N)}), ValueError, ("bias", "(4,)", "(3,)")
    ),
    "a bias that is a number": Bad(
        lambda: dense(biases=0.5), TypeError, ("bias", "float", "torch tensor")
    ),
    "a weight that is an array": Bad(
        lambda: rbm(couplings=np.zeros((N, M))), TypeError, ("ndarray", "torch tensor")
    ),
    "a complex weight": Bad(
        lambda: dense(couplings=torch.zeros(N, N, dtype=torch.complex64)),
        TypeError,
        ("complex64", "float32"),
    ),
    "an integer weight": Bad(
        lambda: dense(couplings=torch.zeros(N, N, dtype=torch.int64)),
        TypeError,
        ("int64", ".float()"),
    ),
    "an integer bias": Bad(
        lambda: dense(biases=torch.zeros(N, dtype=torch.int32)), TypeError, ("bias", "int32")
    ),
    "parameters of two dtypes": Bad(
        lambda: dense(couplings=torch.zeros(N, N).double(), biases=torch.zeros(N)),
        ValueError,
        ("weight", "float64", "float32", "alike"),
    ),
    "no units": Bad(lambda: BoltzmannMachine.fully_visible(0), ValueError, ("0", "positive")),
    "half a unit": Bad(lambda: Layer(Bernoulli(), 2.5), ValueError, ("2.5", "integer")),
    "no kind of unit": Bad(lambda: Layer("bits", 3), TypeError, ("bits", "Bernoulli()")),
    "the class of a unit": Bad(lambda: Layer(Spin, 3), TypeError, ("Spin", "Bernoulli()")),
    "no layers": Bad(lambda: BoltzmannMachine({}), ValueError, ("at least one layer",)),
    "a name with a space": Bad(
        lambda: BoltzmannMachine({"my layer": Layer(Bernoulli(), 2)}),
        ValueError,
        ("my layer", "attribute"),
    ),
    "a name that a dictionary has": Bad(
        lambda: BoltzmannMachine({"keys": Layer(Bernoulli(), 2)}), ValueError, ("keys", "name")
    ),
    "an unknown layer in a coupling": Bad(
        lambda: BoltzmannMachine({"a": Layer(Bernoulli(), 2)}, [("a", "b")]),
        ValueError,
        ("'b'", "'a'"),
    ),
    "a coupling that is no pair": Bad(
        lambda: BoltzmannMachine({"a": Layer(Bernoulli(), 2)}, ["aa"]), ValueError, ("'aa'", "pair")
    ),
    "a coupling given from both ends": Bad(
        lambda: BoltzmannMachine(
            {"a": Layer(Bernoulli(), 2), "b": Layer(Bernoulli(), 2)}, [("a", "b"), ("b", "a")]
        ),
        ValueError,
        ("twice", "one coupling"),
    ),
    "a bias for an unknown layer": Bad(
        lambda: rbm(biases={"hiden": torch.zeros(M)}), ValueError, ("bias", "hiden", "hidden")
    ),
    "an offset for an unknown layer": Bad(
        lambda: rbm(offset={"top": torch.zeros(M)}), ValueError, ("offset", "top", "hidden")
    ),
    "couplings that the structure has not": Bad(
        lambda: BoltzmannMachine.semi_restricted(
            N, M, couplings={("hidden", "hidden"): torch.zeros(M, M)}
        ),
        ValueError,
        ("couplings", "hidden"),
    ),
    "one layer of a deep machine": Bad(
        lambda: BoltzmannMachine.deep([5]), ValueError, ("[5]", "hidden")
    ),
    "edges that are no pairs": Bad(
        lambda: ising(torch.zeros(3, 3, dtype=torch.int64)), ValueError, ("(3, 3)", "pairs")
    ),
    "edges that are no integers": Bad(
        lambda: ising(torch.zeros(3, 2)), ValueError, ("float32", "integer")
    ),
    "an edge from a unit to itself": Bad(
        lambda: ising([(0, 1), (2, 2)]), ValueError, ("itself", "bias")
    ),
    "couplings that would have one name": Bad(
        lambda: BoltzmannMachine(
            {name: Layer(Bernoulli(), 2) for name in ("a", "b_c", "a_b", "c")},
            [("a", "b_c"), ("a_b", "c")],
        ),
        ValueError,
        ("'a_b_c'", "rename"),
    ),
    "an edge that stands twice": Bad(
        lambda: ising([(0, 1), (1, 0)]), ValueError, ("twice", "once")
    ),
    "an edge to a unit that is not there": Bad(
        lambda: ising([(0, 7)], 4), ValueError, ("7", "4", "counted from 0")
    ),
    "a negative unit": Bad(lambda: ising([(-1, 0)], 4), ValueError, ("-1", "counted from 0")),
    "no edges and no number of units": Bad(
        lambda: ising(torch.zeros(0, 2, dtype=torch.int64)), ValueError, ("edges", "n=")
    ),
    "a graph without nodes": Bad(lambda: ising(nx.Graph()), ValueError, ("positive",)),
    "edges as one number": Bad(lambda: ising(3), TypeError, ("edges", "3", "pairs")),
    "an unknown kind of weight": Bad(
        lambda: ising(couplings="mine"), ValueError, ("mine", "free", "shared")
    ),
    "a weight that is a number": Bad(
        lambda: ising(couplings=0.5), TypeError, ("couplings", "0.5", "tensor")
    ),
    "too few weights on a graph": Bad(
        lambda: ising([(0, 1), (1, 2), (2, 3)], couplings=torch.zeros(2)),
        ValueError,
        ("(2,)", "(3,)"),
    ),
    "a learned weight with a NaN": Bad(
        lambda: rbm(couplings=nn.Parameter(torch.full((N, M), NAN))), ValueError, ("NaN",)
    ),
}

DATA = {
    "values 0, 1 and 2": Bad(
        lambda: dense()(torch.tensor([[0, 1, 2, 1]])),
        ValueError,
        ("visible", "2", "{0, 1}", "Binar"),
    ),
    "spins for bits": Bad(
        lambda: dense()(2 * BITS - 1), ValueError, ("visible", "-1", "(x + 1) / 2", "Spin()")
    ),
    "bits for spins": Bad(
        lambda: dense(unit=Spin())(BITS), ValueError, ("visible", "0", "2.0 * x - 1", "Bernoulli()")
    ),
    "grey levels": Bad(
        lambda: dense()(torch.full((2, N), 0.3)), ValueError, ("0.3", "{0, 1}", "threshold")
    ),
    "NaN": Bad(lambda: dense()(torch.full((2, N), NAN)), ValueError, ("visible", "NaN", "impute")),
    "infinity": Bad(lambda: dense()(torch.full((2, N), INF)), ValueError, ("visible", "infinite")),
    "too few columns": Bad(
        lambda: dense()(torch.zeros(5, N - 1)), ValueError, ("visible", "(5, 3)", "4")
    ),
    "a single number": Bad(lambda: dense()(torch.zeros(())), ValueError, ("visible", "()", "4")),
    "a list": Bad(
        lambda: dense()([[0, 1, 1, 0]]), TypeError, ("visible", "list", "torch.as_tensor")
    ),
    "None": Bad(lambda: dense()(None), TypeError, ("visible", "NoneType", "tensor")),
    "text": Bad(lambda: dense()(np.array([["a"] * N])), TypeError, ("visible", "<U1", "numbers")),
    "objects": Bad(
        lambda: dense()(np.array([[None] * N])), TypeError, ("visible", "object", "numbers")
    ),
    "complex numbers": Bad(
        lambda: dense()(torch.zeros(2, N, dtype=torch.complex64)), TypeError, ("visible", "complex")
    ),
    "complex numbers in an array": Bad(
        lambda: dense()(np.zeros((2, N), complex)), TypeError, ("visible", "complex")
    ),
    "another device": Bad(
        lambda: dense()(torch.zeros(2, N, device="meta")), ValueError, ("meta", "cpu", ".to(")
    ),
    "a bare tensor for two sites": Bad(
        lambda: rbm()(BITS), ValueError, ("visible", "hidden", "dict")
    ),
    "a missing site": Bad(
        lambda: rbm()({"visible": BITS}), ValueError, ("missing", "hidden", "visible")
    ),
    "an unknown site": Bad(
        lambda: rbm()({"visible": BITS, "hiden": BITS}), ValueError, ("hiden", "hidden")
    ),
    "batches that do not fit": Bad(
        lambda: rbm()({"visible": BITS, "hidden": torch.zeros(3, M)}),
        ValueError,
        ("visible", "(2,)", "hidden", "(3,)"),
    ),
    "a free energy over coupled units": Bad(
        lambda: BoltzmannMachine.general(N, M).free_energy(BITS),
        ValueError,
        ("no closed form", "hidden", "mean_field", "exact"),
    ),
    "the law of coupled units": Bad(
        lambda: dense().conditional("visible", {"visible": BITS}),
        ValueError,
        ("visible", "coupled", "blocks("),
    ),
    "a law without the values that it depends on": Bad(
        lambda: rbm().conditional("hidden", {"hidden": torch.zeros(2, M)}),
        ValueError,
        ("hidden", "visible", "missing"),
    ),
    "the law of some units without the others": Bad(
        lambda: BoltzmannMachine.general(N, M).conditional(
            "hidden", {"visible": BITS}, torch.tensor([0])
        ),
        ValueError,
        ("hidden", "missing"),
    ),
    "a field without the values that it depends on": Bad(
        lambda: rbm().field("visible", {"visible": BITS}), ValueError, ("hidden", "missing")
    ),
    "the law of an unknown site": Bad(
        lambda: rbm().conditional("top", {"visible": BITS}), ValueError, ("top", "hidden")
    ),
    "the blocks of an unknown site": Bad(
        lambda: rbm().blocks("top"), ValueError, ("top", "hidden")
    ),
    "one machine of two kinds of units": Bad(
        lambda: rbm(units=(Bernoulli(), Spin())).joined(), ValueError, ("Bernoulli", "Spin")
    ),
    "an energy with one number for the whole batch": Bad(
        lambda: NoStructure(lambda x: x.sum())(BITS), ValueError, ("()", "(2,)", "batch")
    ),
    "an energy with a number for each unit": Bad(
        lambda: NoStructure(lambda x: x)(BITS), ValueError, ("(2, 4)", "(2,)", "batch")
    ),
}

SAMPLERS = {
    **{
        f"{name} {value!r}": Bad(
            lambda name=name, value=value: run(Gibbs(), rbm(), **{name: value}),
            ValueError,
            (name, repr(value)),
        )
        for name, values in {
            "warmup": (-1, 1.5, "10"),
            "draws": (0, -3, 2.0),
            "thinning": (0, -1),
            "keep": ("all", None),
        }.items()
        for value in values
    },
    "no chains": Bad(lambda: gibbs(chains=0), ValueError, ("chains", "0", "positive")),
    "two and a half chains": Bad(lambda: gibbs(chains=2.5), ValueError, ("chains", "2.5")),
    "a negative seed": Bad(lambda: gibbs(seed=-1), ValueError, ("seed", "-1", "whole number")),
    "a seed in words": Bad(lambda: gibbs(seed="one"), ValueError, ("seed", "one", "whole number")),
    "a seed that is too large": Bad(lambda: gibbs(seed=2**64), ValueError, ("seed", "2**63")),
    "no kernel": Bad(
        lambda: run(rbm(), Gibbs()), TypeError, ("kernel", "BoltzmannMachine", "Gibbs()")
    ),
    "the class of a kernel": Bad(lambda: run(Gibbs, rbm()), TypeError, ("kernel", "Gibbs()")),
    "no energy": Bad(lambda: run(Gibbs(), 3.0), TypeError, ("energy", "3.0", "BoltzmannMachine")),
    "a list for a number of draws": Bad(
        lambda: run(Gibbs(), rbm(), [1000]), ValueError, ("draws", "[1000]", "whole number")
    ),
    "no sites to move": Bad(
        lambda: run(Gibbs(()), rbm(), 1, warmup=0), ValueError, ("sites", "()", "tuple")
    ),
    "an empty list of sites": Bad(
        lambda: run(Gibbs([]), rbm(), 1, warmup=0), ValueError, ("sites", "[]", "tuple")
    ),
    "chains that do not fit a batch of machines": Bad(
        lambda: run(Gibbs(), rbm(couplings=torch.zeros(3, N, M)), 1, warmup=0, chains=4),
        ValueError,
        ("parameters", "(3,)", "(4,)"),
    ),
    "a name for a tuple": Bad(
        lambda: run(Gibbs("visible"), rbm(), 1, warmup=0), ValueError, ("'visible'", "tuple")
    ),
    "an unknown site to move": Bad(lambda: gibbs("top"), ValueError, ("top", "visible", "hidden")),
    "an energy without conditional laws": Bad(
        lambda: gibbs(energy=NoStructure()), TypeError, ("Gibbs", "NoStructure", "gradient")
    ),
    "a start without chains": Bad(
        lambda: gibbs(initial=start(torch.zeros(N), torch.zeros(M))),
        ValueError,
        ("()", "(chains,)", "[None]"),
    ),
    "a start with two batch dimensions": Bad(
        lambda: gibbs(initial=start(torch.zeros(2, 2, N), torch.zeros(2, 2, M))),
        ValueError,
        ("(2, 2)", "(chains,)"),
    ),
    "a start with no chains": Bad(
        lambda: gibbs(initial=start(torch.zeros(0, N), torch.zeros(0, M))),
        ValueError,
        ("(0,)", "(chains,)"),
    ),
    "starts for different numbers of chains": Bad(
        lambda: gibbs(initial=start(torch.zeros(3, N))), ValueError, ("visible", "(3,)", "(2,)")
    ),
    "a start for one site of two": Bad(
        lambda: gibbs(initial={"visible": torch.zeros(2, N)}), ValueError, ("missing", "hidden")
    ),
    "a start outside the support": Bad(
        lambda: gibbs(initial=start(torch.full((2, N), -1.0))),
        ValueError,
        ("visible", "-1", "{0, 1}"),
    ),
    "a start of the wrong width": Bad(
        lambda: gibbs(initial=start(torch.zeros(2, M))), ValueError, ("visible", "(2, 3)", "4")
    ),
    "no more draws": Bad(lambda: resumed(0), ValueError, ("draws", "0")),
    "half a draw more": Bad(lambda: resumed(0.5), ValueError, ("draws", "0.5")),
    "no exact draws": Bad(lambda: exact.sample(dense(), 0), ValueError, ("count", "0", "positive")),
    "half an exact draw": Bad(lambda: exact.sample(dense(), 0.5), ValueError, ("count", "0.5")),
    "exact draws from a seed in words": Bad(
        lambda: exact.sample(dense(), 2, seed="one"), ValueError, ("seed", "one")
    ),
    "states of an unknown site": Bad(
        lambda: exact.states(rbm(), ["top"]), ValueError, ("top", "visible")
    ),
    "too many states": Bad(
        lambda: exact.states(BoltzmannMachine.fully_visible(40)),
        exact.TooManyStatesError,
        ("visible", "1.1e+12", "bytes"),
    ),
    "a machine too large to sum": Bad(
        lambda: exact.log_partition(BoltzmannMachine.fully_visible(50)),
        exact.TooManyStatesError,
        ("1.13e+15 states", "bytes", "only be estimated"),
    ),
    "probabilities of too large a machine": Bad(
        lambda: exact.log_prob(BoltzmannMachine.fully_visible(50), torch.zeros(50)),
        exact.TooManyStatesError,
        ("states", "bytes"),
    ),
    "rows that are not those of several machines": Bad(
        lambda: exact.log_prob(dense(biases=torch.zeros(3, N)), torch.zeros(4, N)),
        ValueError,
        ("batch shape (4,)", "(3,)", "broadcast", "x[:, None]"),
    ),
    "an exact sum over real numbers": Bad(
        lambda: exact.log_partition(CallableEnergy(lambda x: x.square().sum(-1), 2)),
        TypeError,
        ("CallableEnergy", "infinitely many", "estimated"),
    ),
}

UNITS = {
    "no precision": Bad(lambda: Gaussian(0.0), ValueError, ("precision", "0", "positive")),
    "a negative precision": Bad(lambda: Gaussian(-2), ValueError, ("-2", "one over the variance")),
    "NaN for a precision": Bad(lambda: Gaussian(NAN), ValueError, ("nan", "finite")),
    "an infinite precision": Bad(
        lambda: Gaussian(torch.tensor([1.0, INF])), ValueError, ("has the value inf", "finite")
    ),
    "one precision that is negative": Bad(
        lambda: Gaussian(nn.Parameter(torch.tensor([1.0, -3.0, 2.0]))), ValueError, ("-3",)
    ),
    "a complex precision": Bad(
        lambda: Gaussian(torch.ones(2, dtype=torch.complex64)), TypeError, ("complex64", "real")
    ),
    "true for a precision": Bad(
        lambda: Gaussian(torch.tensor([True])), TypeError, ("bool", "positive real")
    ),
    "a list of precisions": Bad(
        lambda: Gaussian([1.0, 2.0]), TypeError, ("list", "positive number", "torch tensor")
    ),
    "an array of precisions": Bad(lambda: Gaussian(np.ones(2)), TypeError, ("ndarray", "tensor")),
    "a name for a precision": Bad(lambda: Gaussian("one"), TypeError, ("str", "number")),
    "precisions for other units": Bad(
        lambda: Layer(Gaussian(torch.ones(3)), 4),
        ValueError,
        ("precision of Gaussian", "(3,)", "(4,)"),
    ),
    "precisions of another dtype": Bad(
        lambda: rbm(
            units=(Gaussian(torch.ones(N).double()), Bernoulli()), couplings=torch.zeros(N, M)
        ),
        ValueError,
        ("float64", "float32", "alike"),
    ),
    "a number coupled to itself": Bad(
        lambda: dense(unit=Gaussian(torch.ones(N)), couplings=torch.eye(N)),
        ValueError,
        ("diagonal", "Gaussian", "precision"),
    ),
    "numbers coupled too strongly": Bad(
        lambda: dense(unit=Gaussian(), couplings=torch.ones(N, N) - torch.eye(N)),
        ValueError,
        ("cannot be normalised", "'visible'", "not positive definite", "raise the precisions"),
    ),
    "one label": Bad(lambda: Categorical(1), ValueError, ("1", "at least 2")),
    "half a label": Bad(lambda: Categorical(2.5), ValueError, ("2.5", "whole number")),
    "true labels": Bad(lambda: Categorical(True), ValueError, ("True", "whole number")),
    "one bias for each unit with labels": Bad(
        lambda: Layer(Categorical(3), N, bias=torch.zeros(N)), ValueError, ("(4,)", "(12,)")
    ),
    "one coupling for each pair of units with labels": Bad(
        lambda: dense(unit=Categorical(3), couplings=torch.zeros(N, N)),
        ValueError,
        ("(4, 4)", "(12, 12)"),
    ),
    "labels on a graph": Bad(
        lambda: ising(unit=Categorical(3)), ValueError, ("graph", "matrices", "RandomField")
    ),
    "labels on a graph between layers": Bad(
        lambda: BoltzmannMachine(
            {"a": Layer(Categorical(3), 2), "b": Layer(Bernoulli(), 2)},
            {("a", "b"): Graph([(0, 1)])},
        ),
        ValueError,
        ("('a', 'b')", "densely"),
    ),
    "a label that is too large": Bad(
        lambda: potts()(torch.tensor([0, 1, 2, 3])), ValueError, ("contains 3", "0", "2")
    ),
    "a negative label": Bad(
        lambda: potts()(torch.tensor([0, -1, 2, 1])), ValueError, ("contains -1",)
    ),
    "a fractional label": Bad(
        lambda: potts()(torch.tensor([0, 0.5, 2, 1])), ValueError, ("contains 0.5",)
    ),
    "a label that is missing": Bad(
        lambda: potts()(torch.tensor([0, NAN, 2, 1])), ValueError, ("NaN", "impute")
    ),
    "one-hot labels": Bad(lambda: potts()(torch.eye(3).repeat(1, 4)), ValueError, ("(3, 12)", "4")),
    "a number that is missing": Bad(
        lambda: dense(unit=Gaussian()).free_energy(torch.tensor([0, NAN, 2, 1])),
        ValueError,
        ("NaN", "impute"),
    ),
    "an infinite number": Bad(
        lambda: dense(unit=Gaussian())(torch.tensor([0, INF, 2, 1])), ValueError, ("infinite",)
    ),
    "labels joined with bits": Bad(
        lambda: rbm(units=(Categorical(3), Bernoulli())).joined(),
        ValueError,
        ("different kinds", "Categorical(states=3)", "Bernoulli()"),
    ),
    "numbers joined": Bad(
        lambda: rbm(units=(Gaussian(torch.ones(N)), Gaussian())).joined(),
        ValueError,
        ("parameters", "Gaussian"),
    ),
    "means that are none of labels": Bad(
        lambda: mean_field(
            rbm(units=(Bernoulli(), Categorical(3))),
            BITS,
            start={"hidden": torch.full((2, 9), 0.5)},
        ),
        ValueError,
        ("start['hidden']", "no means", "Categorical"),
    ),
    "means of labels that are numbers of units": Bad(
        lambda: mean_field(
            rbm(units=(Bernoulli(), Categorical(3))),
            BITS,
            start={"hidden": torch.full((2, 3), 0.5)},
        ),
        ValueError,
        ("(2, 3)", "(2, 9)"),
    ),
    "a sum over the states of numbers": Bad(
        lambda: exact.states(rbm(units=(Gaussian(), Bernoulli()))), TypeError, ("'visible'",)
    ),
    "too many labels": Bad(
        lambda: exact.log_partition(BoltzmannMachine.fully_visible(40, unit=Categorical(3))),
        exact.TooManyStatesError,
        ("1.22e+19 states", "only be estimated"),
    ),
    "a NaN among the precisions after learning": Bad(
        lambda: gibbs(energy=with_precision(NAN)),
        FloatingPointError,
        ("log_precision of 'visible'", "learning"),
    ),
    "precisions that learning has driven to infinity": Bad(
        lambda: gibbs(energy=with_precision(1000.0)), FloatingPointError, ("log_precision",)
    ),
}

CASES = {
    f"{group}: {what}": bad
    for group, table in {
        "parameters": PARAMETERS,
        "data": DATA,
        "samplers": SAMPLERS,
        "units": UNITS,
    }.items()
    for what, bad in table.items()
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_named_with_the_way_out(what: str) -> None:
    ask, error, words = CASES[what]
    with pytest.raises(error) as caught:
        ask()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert not re.search(r"(?<!torch\.)\btensor\(|<function|object at 0x", message), message


# --- what is no bad input ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_any_type_are_converted_to_the_machine_s(dtype: torch.dtype) -> None:
    machine = dense(couplings=torch.randn(N, N, dtype=dtype))
    wanted = machine(BITS.to(dtype))
    assert wanted.dtype == dtype
    for kind in (torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float64):
        assert torch.equal(machine(BITS.to(kind)), wanted)
        for array in (BITS.to(kind).numpy(), np.asfortranarray(BITS.to(kind).numpy())):
            assert torch.equal(machine(array), wanted)


def test_arrays_of_any_layout_are_taken() -> None:
    machine = dense(couplings=torch.randn(N, N))
    array = BITS.numpy().copy()
    backwards = array[::-1, ::-1]
    assert min(backwards.strides) < 0
    torch.testing.assert_close(machine(backwards), machine(BITS.flip(0, 1)))
    array.setflags(write=False)
    assert torch.equal(machine(array), machine(BITS))
    assert torch.equal(machine(np.repeat(array, 2, 1)[:, ::2]), machine(BITS))
    assert torch.equal(machine(array.astype(">f4")), machine(BITS))


def test_labels_of_any_type_are_converted_to_the_machine_s() -> None:
    machine = dense(unit=Categorical(4), couplings=torch.randn(4 * N, 4 * N))
    labels = torch.randint(4, (5, N))
    wanted = machine(labels.float())
    for kind in (torch.uint8, torch.int8, torch.int64, torch.float64):
        assert torch.equal(machine(labels.to(kind)), wanted)
        assert torch.equal(machine(labels.to(kind).numpy()), wanted)


def test_precisions_alone_tell_the_dtype_of_a_machine() -> None:
    for precision in (torch.ones(N).double(), nn.Parameter(torch.tensor(2.0).double())):
        assert rbm(units=(Gaussian(precision), Bernoulli())).dtype == torch.float64
    assert rbm(units=(Gaussian(torch.tensor(2.0).double()), Bernoulli())).dtype == torch.float32
    assert rbm(units=(Gaussian(2), Bernoulli()), couplings=torch.ones(N, M).double()).dtype == (
        torch.float64
    )


def test_spins_may_be_signed_integers() -> None:
    machine = dense(unit=Spin(), couplings=torch.randn(N, N))
    spins = 2 * BITS - 1
    for kind in (torch.int8, torch.int64):
        assert torch.equal(machine(spins.to(kind)), machine(spins))
        assert torch.equal(machine(spins.to(kind).numpy()), machine(spins))


def test_one_row_is_a_state_and_no_rows_are_no_states() -> None:
    machine = rbm()
    assert machine.free_energy(BITS[0]).shape == ()
    assert machine.free_energy(BITS[:0]).shape == (0,)


def test_what_is_given_is_not_written_to() -> None:
    weight, bias = torch.ones(N, N), torch.zeros(N)
    machine = dense(couplings=weight, biases=bias)
    x = {"visible": BITS.clone()}
    machine(x)
    run(Gibbs(), machine, 2, warmup=0, initial=x, seed=0)
    assert torch.equal(x["visible"], BITS)
    assert torch.equal(weight, torch.ones(N, N))
    assert torch.equal(bias, torch.zeros(N))


def test_a_graph_is_taken_in_every_form() -> None:
    edges = [(0, 1), (1, 2)]
    forms = (edges, torch.tensor(edges), np.array(edges), nx.path_graph(3), iter(edges))
    for form in forms:
        assert Graph(form).edges.tolist() == [list(edge) for edge in edges]
