"""Bad input to learning raises a named error that says what came and what to do."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, Energy, Structure, WithoutTerms
from pyro_ebm.learning import (
    ContrastiveDivergence,
    ExactLikelihood,
    ExactPosterior,
    MeanField,
    Monitor,
    Objective,
    PersistentContrastiveDivergence,
    SampledPosterior,
    fit,
    init_biases_from_data,
    mean_field,
)
from pyro_ebm.partition import TooManyStatesError
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Spin

CD, PCD = ContrastiveDivergence, PersistentContrastiveDivergence
Case = tuple[Callable[[], Any], type[Exception], list[str]]

BITS = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1.0], [0, 1, 1, 0]])


def rbm(**settings: Any) -> BoltzmannMachine:
    return BoltzmannMachine.restricted(4, 3, **settings)


def spins() -> BoltzmannMachine:
    return rbm(units=(Spin(), Spin()))


def general() -> BoltzmannMachine:
    return BoltzmannMachine.general(4, 3)


class Plain(Energy):
    """An energy that is no machine of units in fields."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.sites = {"visible": Site(boolean, torch.Size([4]))}

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def evaluate(self, x: Sites) -> Tensor:
        return -x["visible"] @ self.weight

    def structure(self) -> Structure:
        return WithoutTerms(self)


def learn(data: Any, machine: BoltzmannMachine | None = None, **settings: Any) -> Callable:
    objective = settings.pop("objective", PCD())
    return lambda: fit(machine or rbm(), data, objective, **settings)


def with_entry(value: float) -> Tensor:
    changed = BITS.clone()
    changed[2, 1] = value
    return changed


# --- data, at every door that takes them ---------------------------------------------------------

DOORS: dict[str, Callable[[Energy, Any], Any]] = {
    "fit by exact likelihood": lambda m, x: fit(m, x, ExactLikelihood()),
    "fit by CD": lambda m, x: fit(m, x, CD()),
    "fit by PCD": lambda m, x: fit(m, x, PCD()),
    "ExactLikelihood.init": lambda m, x: ExactLikelihood().init(m, x),
    "CD.init": lambda m, x: CD().init(m, x),
    "PCD.init": lambda m, x: PCD().init(m, x),
    "init_biases_from_data": init_biases_from_data,
    "held out": lambda m, x: fit(m, BITS, PCD(), observers=[Monitor(held_out=x)]),
}
DATA: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "{0, 1, 2}": (with_entry(2), ValueError, ["'visible' contains 2", "{0, 1}", "Binarise"]),
    "{-1, 1}": (2 * BITS - 1, ValueError, ["contains -1", "{0, 1}", "(x + 1) / 2", "Spin()"]),
    "grey levels": (BITS * 0.7, ValueError, ["contains 0.7", "{0, 1}", "Binarise", "threshold"]),
    "NaN": (with_entry(np.nan), ValueError, ["'visible' contains NaN", "impute"]),
    "infinity": (with_entry(np.inf), ValueError, ["infinite", "remove or impute"]),
    "no rows": (BITS[:0], ValueError, ["(0, 4)", "wanted (rows, units)", "at least one row"]),
    "one row": (BITS[0], ValueError, ["(4,)", "wanted (rows, units)", "data[None]"]),
    "chains of rows": (BITS[None], ValueError, ["(1, 5, 4)", "wanted (rows, units)"]),
    "too narrow": (BITS[:, :3], ValueError, ["'visible' has shape (5, 3)", "wanted (*batch, 4)"]),
    "too wide": (torch.zeros(5, 6), ValueError, ["(5, 6)", "wanted (*batch, 4)"]),
    "a list": (BITS.tolist(), TypeError, ["'visible' is a list", "torch.as_tensor"]),
    "complex": (BITS.to(torch.complex64), TypeError, ["complex"]),
    "text": (np.array([["a"] * 4]), TypeError, ["'visible' is an array of <U1"]),
    "an unknown site": ({"pixels": BITS}, ValueError, ["'pixels'", "['visible', 'hidden']"]),
    "no site": ({}, ValueError, ["no site"]),
    "rows that differ": (
        {"visible": BITS, "hidden": torch.zeros(4, 3)},
        ValueError,
        ["'visible'", "'hidden'", "(5,", "(4,"],
    ),
    "one row for many": (
        {"visible": BITS, "hidden": torch.zeros(1, 3)},
        ValueError,
        ["different numbers of rows", "(5, 4)", "(1, 3)"],
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", DATA)
def test_bad_data_are_refused_at_every_door(what: str, door: str) -> None:
    data, error, words = DATA[what]
    machine = rbm()
    before = [p.detach().clone() for p in machine.parameters()]
    with pytest.raises(error) as raised:
        DOORS[door](machine, data)
    assert_says(raised.value, words)
    assert all(torch.equal(a, b) for a, b in zip(before, machine.parameters(), strict=True))


def assert_says(raised: BaseException, words: list[str]) -> None:
    message = str(raised)
    assert all(word in message for word in words), message


def test_bits_in_a_machine_of_spins_are_refused_with_the_hint() -> None:
    with pytest.raises(ValueError, match=r"contains 0, which is not in \{-1, 1\}.*2\.0 \* x - 1"):
        fit(spins(), BITS, PCD())


SAME: dict[str, Any] = {
    "bool": BITS.bool(),
    "uint8": BITS.byte(),
    "int64": BITS.long(),
    "float64": BITS.double(),
    "float16": BITS.half(),
    "a dict": {"visible": BITS},
    "numpy": BITS.numpy(),
    "numpy of bool": BITS.bool().numpy(),
    "numpy of uint8": BITS.byte().numpy(),
    "numpy of float64": BITS.double().numpy(),
    "numpy, read-only": np.frombuffer(BITS.numpy().tobytes(), np.float32).reshape(5, 4),
    "numpy, negative strides": BITS.numpy()[::-1, ::-1].copy()[::-1, ::-1],
    "numpy, columns first": np.asfortranarray(BITS.numpy()),
    "a transposed tensor": BITS.mT.contiguous().mT,
    "every second row of a tensor": BITS.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("objective", [ExactLikelihood(), CD(), PCD(chains=10)], ids=repr)
@pytest.mark.parametrize("what", SAME)
def test_other_types_of_the_same_data_teach_the_same(what: str, objective: Objective) -> None:
    learned = []
    for data in (BITS, SAME[what]):
        torch.manual_seed(0)
        machine = rbm()
        init_biases_from_data(machine, data)
        fit(machine, data, objective, epochs=3, seed=1, observers=[Monitor(held_out=data)])
        learned.append([p.detach() for p in machine.parameters()])
    for one, other in zip(*learned, strict=True):
        torch.testing.assert_close(one, other)


def test_float32_data_teach_a_float64_machine() -> None:
    machine = rbm().double()
    fit(machine, BITS, PCD(chains=10), epochs=2)
    assert all(p.dtype == torch.float64 and p.isfinite().all() for p in machine.parameters())


# --- constant columns ----------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["bits", "spins"])
@pytest.mark.parametrize("rows", [2, 5, 500])
def test_a_constant_column_is_warned_of_and_gets_a_finite_bias(rows: int, unit: str) -> None:
    generator = torch.Generator().manual_seed(1)
    data = torch.rand(rows, 4, generator=generator).round()
    data[:2, :] = torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0]])
    data[:, 2] = 1
    if unit == "spins":
        data = 2 * data - 1
    machine = rbm() if unit == "bits" else spins()
    with pytest.warns(
        UserWarning, match=r"units \[2\] of 'visible' have the same value.*init_biases"
    ):
        fit(machine, data, PCD(chains=10), epochs=2)
    assert bool(machine.layers["visible"].bias.isfinite().all())
    machine = rbm() if unit == "bits" else spins()
    init_biases_from_data(machine, data)
    assert bool(machine.layers["visible"].bias.isfinite().all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(machine, data, PCD(chains=10), epochs=20)
    assert bool(machine.layers["visible"].bias.isfinite().all())


def test_many_constant_columns_are_not_all_listed() -> None:
    machine = BoltzmannMachine.restricted(30, 2)
    with pytest.warns(UserWarning, match=r"units \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\] … of 'visible'"):
        fit(machine, torch.ones(5, 30), CD(), epochs=1)


# --- everything else -----------------------------------------------------------------------------

LARGE = BoltzmannMachine.restricted(100, 100)
BATCHED = rbm(couplings=nn.Parameter(torch.zeros(6, 4, 3)))
GIVEN = rbm(
    couplings=torch.zeros(4, 3), biases={"visible": torch.zeros(4), "hidden": torch.zeros(3)}
)


def weighted(objective: Objective, weights: Any) -> Callable:
    def ask() -> Any:
        machine = rbm()
        return objective.loss(machine, BITS, objective.init(machine, BITS), weights)

    return ask


def broken() -> BoltzmannMachine:
    machine = general()
    with torch.no_grad():
        machine.layers["hidden"].bias[1] = np.nan
    return machine


def from_zeros(shape: tuple[int, ...]) -> Any:
    return mean_field(general(), BITS, start={"hidden": torch.zeros(shape)})


def counts(name: str, door: str, ask: Callable[[Any], Any]) -> dict[str, Case]:
    """A count that is to be a positive whole number."""
    return {
        f"{name} = {value!r} in {door}": (
            functools.partial(ask, value),
            ValueError,
            [f"{name} is {value!r}", "positive whole number"],
        )
        for value in (0, -3, 2.5, "4", None)
    }


CASES: dict[str, Case] = {
    **counts("epochs", "fit", lambda n: learn(BITS, epochs=n)()),
    **counts("steps", "CD", lambda n: learn(BITS, objective=CD(n))()),
    **counts("steps", "PCD", lambda n: learn(BITS, objective=PCD(n))()),
    **counts("chains", "PCD", lambda n: learn(BITS, objective=PCD(chains=n))()),
    **counts("steps", "SampledPosterior", SampledPosterior),
    **counts("max_sweeps", "MeanField", lambda n: MeanField(max_sweeps=n)),
    **counts("max_sweeps", "mean_field", lambda n: mean_field(general(), BITS, max_sweeps=n)),
    **counts("every", "Monitor", lambda n: Monitor(every=n)),
    **counts("rows", "Monitor", lambda n: Monitor(rows=n)),
    **{
        f"batch_size = {n!r}": (
            learn(BITS, batch_size=n),
            ValueError,
            [f"batch_size is {n!r}", "5 rows", "wanted 1 to 5", "None for all"],
        )
        for n in (0, -1, 2.0, 6, 1000)
    },
    **{
        f"{door} with tolerance {value}": (
            functools.partial(ask, value),
            ValueError,
            [f"tolerance is {value}", "positive"],
        )
        for value in (0.0, -1e-3, np.nan)
        for door, ask in {
            "MeanField": lambda value: MeanField(tolerance=value),
            "mean_field": lambda value: mean_field(general(), BITS, tolerance=value),
        }.items()
    },
    "nothing to learn": (
        learn(BITS, GIVEN),
        ValueError,
        ["no learned parameters", "plain tensors", "nn.Parameter"],
    ),
    "frozen parameters": (
        learn(BITS, rbm().requires_grad_(False)),
        ValueError,
        ["no learned parameters"],
    ),
    "a class for an objective": (
        learn(BITS, objective=ExactLikelihood),
        TypeError,
        ["objective is <class", "ExactLikelihood()"],
    ),
    "no objective": (learn(BITS, objective=None), TypeError, ["objective is None"]),
    "exact likelihood of a large machine": (
        learn(torch.eye(100), LARGE, objective=ExactLikelihood()),
        TooManyStatesError,
        ["1.27e+30 states of ['visible']", "bytes for 200 units", "only be estimated"],
    ),
    "exact likelihood of real numbers": (
        learn(
            torch.zeros(3, 2),
            CallableEnergy(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), 2),
            objective=ExactLikelihood(),
        ),
        TypeError,
        ["CallableEnergy", "infinitely many"],
    ),
    **{
        f"{type(objective).__name__} of no machine": (
            learn(BITS, Plain(), objective=objective),
            TypeError,
            ["Contrastive divergence", "Plain"],
        )
        for objective in (CD(), PCD())
    },
    **{
        f"{type(objective).__name__} of a batch of machines": (
            learn(BITS, BATCHED, objective=objective),
            ValueError,
            ["batch shape (6,)", "one by one"],
        )
        for objective in (CD(), PCD(), ExactLikelihood())
    },
    **{
        f"{type(objective).__name__}, exact posterior of coupled units": (
            learn(BITS, machine, objective=objective),
            ValueError,
            [ends, "coupled", "MeanField()", "SampledPosterior()"],
        )
        for objective in (CD(positive=ExactPosterior()), PCD(positive=ExactPosterior()))
        for machine, ends in (
            (general(), "'hidden' and 'hidden'"),
            (BoltzmannMachine.deep([4, 3, 2]), "'hidden1' and 'hidden2'"),
        )
    },
    "mean field with nothing hidden": (
        lambda: mean_field(general(), {"visible": BITS, "hidden": torch.zeros(5, 3)}),
        ValueError,
        ["All the sites", "'visible'", "'hidden'", "leave out"],
    ),
    "mean field of a fully visible machine": (
        lambda: mean_field(BoltzmannMachine.fully_visible(4), BITS),
        ValueError,
        ["All the sites", "leave out"],
    ),
    "mean field of no machine": (lambda: mean_field(Plain(), {}), TypeError, ["Plain"]),
    "mean field of values outside": (
        lambda: mean_field(general(), 2 * BITS - 1),
        ValueError,
        ["contains -1", "{0, 1}"],
    ),
    "mean field of NaN parameters": (
        lambda: mean_field(broken(), BITS),
        FloatingPointError,
        ["NaN", "biases of 'hidden'"],
    ),
    "mean field from an unknown site": (
        lambda: mean_field(general(), BITS, start={"hiden": torch.zeros(3)}),
        ValueError,
        ["start", "['hiden']", "['hidden']"],
    ),
    **{
        f"mean field from the shape {shape}": (
            functools.partial(from_zeros, shape),
            ValueError,
            ["start['hidden']", f"{shape}", "wanted (5, 3)"],
        )
        for shape in ((5, 4), (4, 3), (2, 5, 3))
    },
    "mean field from no means": (
        lambda: mean_field(general(), BITS, start={"hidden": torch.full((3,), 1.5)}),
        ValueError,
        ["start['hidden']", "no means", "Bernoulli()"],
    ),
    "learning from NaN parameters": (
        learn(BITS, broken()),
        FloatingPointError,
        ["NaN", "biases of 'hidden'", "learning rate"],
    ),
    **{
        f"{type(objective).__name__} weighted by {what}": (
            weighted(objective, weights),
            ValueError,
            words,
        )
        for objective in (ExactLikelihood(), CD(), PCD())
        for what, weights, words in [
            ("too few", torch.ones(4), ["row_weights has shape (4,)", "wanted (5,)"]),
            ("a column", torch.ones(5, 1), ["(5, 1)", "wanted (5,)"]),
            ("one number", torch.tensor(1.0), ["()", "wanted (5,)"]),
            ("a negative one", torch.tensor([1, 1, -0.5, 1, 1]), ["least is -0.5", "not negative"]),
            ("nothing", torch.zeros(5), ["sum to 0", "positive"]),
            ("NaN", torch.tensor([1, 1, np.nan, 1, 1]), ["nan", "finite"]),
            ("infinity", torch.tensor([1, 1, np.inf, 1, 1]), ["inf", "finite"]),
        ]
    },
    "a pseudocount of zero": (
        lambda: init_biases_from_data(rbm(), BITS, pseudocount=0),
        ValueError,
        ["pseudocount is 0", "positive"],
    ),
    "given biases cannot start at the means": (
        lambda: init_biases_from_data(GIVEN, BITS),
        ValueError,
        ["biases of 'visible'", "plain tensor", "nn.Parameter"],
    ),
    "no machine to start at the means": (
        lambda: init_biases_from_data(Plain(), BITS),
        TypeError,
        ["Plain", "BoltzmannMachine"],
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_refused_with_the_way_out(what: str) -> None:
    ask, error, words = CASES[what]
    with pytest.raises(error) as raised:
        ask()
    assert type(raised.value) is error
    assert_says(raised.value, words)


@pytest.mark.parametrize("objective", [ExactLikelihood(), CD(), PCD()], ids=repr)
def test_weights_of_any_real_type_are_taken(objective: Objective) -> None:
    losses = []
    machine = rbm()
    state = objective.init(machine, BITS)
    for weights in (
        torch.tensor([2.0, 1, 0, 1, 3]),
        torch.tensor([2, 1, 0, 1, 3]),
        torch.tensor([2, 1, 0, 1, 3]).double(),
        np.array([2, 1, 0, 1, 3]),
    ):
        torch.manual_seed(0)
        losses.append(objective.loss(machine, BITS, state, weights)[0].item())
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)
