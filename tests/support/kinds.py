"""Kinds of energies, and what is done to an energy: two axes of the tables.

A kind is a small energy (of at most eighteen states, or of at most two real numbers) with what the
operations need to know of it. A row more in `KINDS` or `OPERATIONS` makes every table larger.
"""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    Graph,
    Layer,
    ModelEnergy,
    RandomField,
    TableFactors,
    clamp,
    interpolate,
)
from pyro_ebm.sites import Site, boolean, spin
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin, TruncatedGaussian, Unit

from .listed_unit import binomial

INF = math.inf
DOUBLE = torch.float64
Values = dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Kind:
    """A kind of energy.

    Args:
        make: The energy, from a scale of its numbers.
        held: Two values of a site that `clamp` holds.
        mask: Which elements of it are held; all if left out.
        box: Of real sites: bounds outside of which there is nothing to be seen.
        says: What it is, where a kernel asks for it: it knows "conditional" laws or has a "slope"
            for changes of units, its sites are "integer", it has "clusters" that can be turned, it
            is a "field", it is made of "factors" of finite units, and these have "loops", its real
            numbers are "normal", or their "integral" is known.
    """

    make: Callable[[float], Energy]
    held: Values
    mask: list[bool] | None = None
    box: dict[str, tuple[float, float]] = field(default_factory=dict)
    says: frozenset[str] = frozenset()

    @property
    def is_finite(self) -> bool:
        return not self.box

    @property
    def is_real(self) -> bool:
        """Whether all of its sites are real."""
        return set(self.box) == set(self.make(1.0).sites)


def waves(*shape: int, step: float = 1.0, scale: float = 1.0) -> Tensor:
    """Numbers of either sign, none like another."""
    count = math.prod(shape)
    return scale * (step * (1 + torch.arange(count, dtype=DOUBLE))).sin().reshape(shape)


# --- machines ------------------------------------------------------------------------------------
def restricted(scale: float) -> BoltzmannMachine:
    return BoltzmannMachine.restricted(2, 1, couplings=waves(2, 1, scale=1.4 * scale))


def chain_of(unit: Unit, n: int, couplings: Tensor, scale: float) -> BoltzmannMachine:
    """A machine on a path."""
    layer = Layer(unit, n, bias=waves(n * unit.width, step=2.0, scale=scale))
    path = Graph([(i, i + 1) for i in range(n - 1)], couplings)
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): path})


def spins(scale: float) -> BoltzmannMachine:
    """Three spins, of which not all couplings can be satisfied."""
    layer = Layer(Spin(), 3, bias=waves(3, step=2.0, scale=0.8 * scale))
    inside = torch.tensor([[0.0, 0.8, -0.6], [0.8, 0.0, 0.5], [-0.6, 0.5, 0.0]], dtype=DOUBLE)
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): scale * inside})


def ferromagnet(scale: float) -> BoltzmannMachine:
    """Three spins in a positive field."""
    layer = Layer(Spin(), 3, bias=torch.full((3,), 0.1 * scale, dtype=DOUBLE))
    ring = Graph([(0, 1), (1, 2), (0, 2)], scale * torch.tensor([0.5, 0.3, 0.4], dtype=DOUBLE))
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): ring})


def bits_in_clusters(scale: float) -> BoltzmannMachine:
    """Three bits that attract each other."""
    layer = Layer(Bernoulli(), 3, bias=torch.full((3,), -0.3 * scale, dtype=DOUBLE))
    ring = Graph([(0, 1), (1, 2)], scale * torch.tensor([1.5, 1.1], dtype=DOUBLE))
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): ring})


def labelled(scale: float) -> BoltzmannMachine:
    """A unit of three labels, and two bits."""
    layers = {
        "visible": Layer(Bernoulli(), 2, bias=waves(2, scale=scale)),
        "hidden": Layer(Categorical(3), 1, bias=waves(3, step=2.0, scale=scale)),
    }
    return BoltzmannMachine(layers, {("visible", "hidden"): waves(2, 3, step=1.7, scale=scale)})


def numbers(scale: float) -> BoltzmannMachine:
    """Two coupled real units."""
    unit = Gaussian(torch.tensor([1.3, 0.9], dtype=DOUBLE) * scale)
    layer = Layer(unit, 2, bias=torch.tensor([0.5, -0.4], dtype=DOUBLE))
    inside = scale * torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=DOUBLE)
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): inside})


def bounded(scale: float) -> BoltzmannMachine:
    """Two coupled real units between bounds."""
    unit = TruncatedGaussian(torch.full((2,), 1.2 * scale, dtype=DOUBLE), low=-1.0, high=2.0)
    layer = Layer(unit, 2, bias=torch.tensor([0.5, -0.4], dtype=DOUBLE))
    inside = scale * torch.tensor([[0.0, -0.6], [-0.6, 0.0]], dtype=DOUBLE)
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): inside})


def numbers_and_bits(scale: float) -> BoltzmannMachine:
    """Two real units, and a bit that moves them."""
    weight = torch.tensor([[1.2], [-0.8]], dtype=DOUBLE) * scale
    layers = {
        "visible": Layer(Gaussian(torch.full((2,), 1.1, dtype=DOUBLE)), 2),
        "hidden": Layer(Bernoulli(), 1, bias=torch.tensor([-0.4], dtype=DOUBLE)),
    }
    return BoltzmannMachine(layers, {("visible", "hidden"): weight})


# --- fields --------------------------------------------------------------------------------------
def field_of(states: list[int], *forbidden: tuple[int, int], scale: float = 1.0) -> RandomField:
    """A chain of labels, of which neighbours may not be some pairs."""
    q = max(states)
    nodes = TableFactors([[i] for i in range(len(states))], waves(len(states), q, scale=scale))
    factors = {"node": nodes}
    for i in range(len(states) - 1):
        table = waves(1, states[i], states[i + 1], step=1.3 + i, scale=scale)
        for a, b in forbidden:
            table[0, a, b] = -INF
        factors[f"edge{i}"] = TableFactors([[i, i + 1]], table)
    return RandomField(states, factors)


def only_a_pair(states: list[int], *forbidden: int, scale: float = 1.0) -> RandomField:
    """Two nodes with nothing but a pair that is forbidden, and another that is likelier.

    Of a pair alone all states are as likely: there every change of a unit is accepted.
    """
    table = torch.zeros(1, *states, dtype=DOUBLE)
    table[0, 0, 1] = scale - 1
    if forbidden:
        table[0, 0, 1] = 0.3 * scale
        table[(0, *forbidden)] = -INF
    return RandomField(states, {"pair": TableFactors([[0, 1]], table)})


def ternary(scale: float) -> RandomField:
    """A factor of three nodes, of which one combination cannot be."""
    table = waves(1, 2, 3, 2, step=0.9, scale=scale)
    table[0, 1, 2, 1] = -INF
    return RandomField([2, 3, 2], {"all": TableFactors([[0, 1, 2]], table)})


# --- functions -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scaled:
    """A function of values, times a number: one that can be pickled."""

    function: Callable[..., Tensor]
    scale: float

    def __call__(self, *x: Tensor, **named: Tensor) -> Tensor:
        return self.scale * self.function(*x, **named)


def of_bits(x: Tensor) -> Tensor:
    return 1.5 * x.prod(-1) + (x @ waves(3).to(x)).sin() - x[..., 0] * x[..., 2]


def of_places(x: Tensor) -> Tensor:
    one, other = x[..., 0, :], x[..., 1, :]
    both = (one * other) @ waves(3, scale=0.7).to(x)
    return both + (x * waves(2, 3, step=2.0).to(x)).sum((-1, -2))


def of_labels(x: Tensor) -> Tensor:
    return (x[..., 0] - x[..., 1]).abs() / 2 + (2 * x.sum(-1)).sin() - 0.3 * x[..., -1]


def of_reals(x: Tensor) -> Tensor:
    """A bent ridge."""
    return x[..., 0].square() / 2 + (x[..., 1] - x[..., 0].square() / 2).square()


def of_normals(x: Tensor) -> Tensor:
    a, b = (x - torch.tensor([0.5, -0.5]).to(x)).unbind(-1)
    return (1.4 * a.square() + b.square() - 1.2 * a * b) / 2


def of_positives(x: Tensor) -> Tensor:
    return (2.0 * x - 2.0 * x.log()).sum(-1) + 0.5 * x.prod(-1)


def of_shares(x: Tensor) -> Tensor:
    return -(x.log() + 1.5 * (1 - x).log()).sum(-1) + x.prod(-1)


def of_a_bit_and_a_real(bit: Tensor, x: Tensor) -> Tensor:
    return ((x[..., 0] - 1.5 * bit[..., 0]).square() + (x[..., 0] * bit[..., 0]).cos()) / 2


def function(f: Callable[[Tensor], Tensor], support: Any, *shape: int) -> Callable[[float], Energy]:
    site = Site(support, torch.Size(shape))
    return lambda scale: CallableEnergy(Scaled(f, scale), {"visible": site}, dtype=DOUBLE)


MIXED = [2, 3, 2]
LABELS = constraints.integer_interval(0, 2)
MIXED_LABELS = constraints.integer_interval(0, torch.tensor([1, 2, 1]))


def two_kinds_of_sites(scale: float) -> Energy:
    sites = {"bit": Site(boolean, torch.Size([1])), "x": Site(constraints.real, torch.Size([1]))}
    return CallableEnergy(Scaled(of_a_bit_and_a_real, scale), sites, dtype=DOUBLE)


def field_and_function(scale: float) -> Energy:
    return field_of(MIXED, scale=scale) + function(of_labels, MIXED_LABELS, 3)(0.7 * scale)


def machine_and_function(scale: float) -> Energy:
    return spins(scale) + function(of_bits, spin, 3)(0.5 * scale)


# --- Pyro models and distributions ---------------------------------------------------------------
def real(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def two_bits(scale: float) -> None:
    with pyro.plate("n", 2):
        bits = pyro.sample("visible", dist.Bernoulli(torch.tensor([0.3, 0.6], dtype=DOUBLE)))
    pyro.sample("seen", dist.Normal(scale * bits.sum(-1), 0.7), obs=real(0.8))


def two_labels(scale: float) -> None:
    first = pyro.sample("first", dist.Categorical(logits=waves(3, scale=scale)))
    second = pyro.sample("second", dist.Categorical(logits=waves(3, 2, step=1.7)[first]))
    pyro.sample("seen", dist.Normal((first - second).double(), 1.0), obs=real(0.4))


def two_reals(scale: float) -> None:
    a = pyro.sample("a", dist.Normal(real(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    pyro.sample("seen", dist.Normal(scale * (a + b), 1.0), obs=real(1.5))


def positive_and_real(scale: float) -> None:
    width = pyro.sample("width", dist.LogNormal(real(0.0), 0.5))
    place = pyro.sample("place", dist.Normal(real(0.0), width))
    pyro.sample("seen", dist.Normal(scale * place, 1.0), obs=real(0.8))


def switch(scale: float) -> None:
    z = pyro.sample("z", dist.Bernoulli(real(0.4)))
    mu = pyro.sample("mu", dist.Normal(1.5 * scale * z, 1.0))
    pyro.sample("seen", dist.Normal(mu, 1.5), obs=real(1.0))


def model(f: Callable[[float], None]) -> Callable[[float], Energy]:
    return lambda scale: ModelEnergy(f, scale)


def law(f: Callable[[float], Any]) -> Callable[[float], Energy]:
    return lambda scale: DistributionEnergy(f(scale), site="visible")


def correlated(scale: float) -> Any:
    covariance = torch.tensor([[1.0, 0.5], [0.5, 0.8]], dtype=DOUBLE) / scale
    return dist.MultivariateNormal(torch.tensor([0.5, -0.5], dtype=DOUBLE), covariance)


def bernoulli(scale: float) -> Any:
    return dist.Bernoulli(logits=waves(3, scale=scale)).to_event(1)


def categorical(scale: float) -> Any:
    return dist.Categorical(logits=waves(2, 3, scale=scale)).to_event(1)


def one_hot(scale: float) -> Any:
    return dist.OneHotCategorical(logits=waves(2, 3, scale=scale)).to_event(1)


def gamma(scale: float) -> Any:
    rate = torch.tensor([1.5, 2.5], dtype=DOUBLE)
    return dist.Gamma(2 + scale, rate).to_event(1)


# --- the rows ------------------------------------------------------------------------------------
def says(*what: str) -> frozenset[str]:
    return frozenset(what)


def finite(make: Callable[[float], Energy], *what: str, n: int = 3, high: float = 1.0) -> Kind:
    """One site with n units, of which the first is held at 0 or at 1."""
    held = {"visible": ([0.0] * n, [high] * n)}
    return Kind(make, held, [k == 0 for k in range(n)], says=says(*what))


def of_two(
    make: Callable[[float], Energy],
    box: tuple[float, float],
    *what: str,
    values: tuple[float, float] = (-0.7, 0.5),
) -> Kind:
    """Two real numbers, of which the first is held."""
    held = {"visible": ([values[0]] * 2, [values[1]] * 2)}
    return Kind(make, held, [True, False], {"visible": box}, says(*what))


ONE_HOT = ([[1.0, 0, 0], [1.0, 0, 0]], [[0, 1.0, 0], [0, 1.0, 0]])
SLOPED = ("conditional", "slope")
UNITS = (*SLOPED, "factors")
COUNTED = (*UNITS, "integer")
FIELD = (*COUNTED, "field")

KINDS: dict[str, Kind] = {
    "machine of bits": finite(restricted, *UNITS, "clusters", n=2),
    "machine of spins": Kind(
        spins,
        {"visible": ([-1.0] * 3, [1.0] * 3)},
        [True, False, False],
        says=says(*UNITS, "loops"),
    ),
    "ferromagnet": Kind(
        ferromagnet,
        {"visible": ([-1.0] * 3, [1.0] * 3)},
        [True, False, False],
        says=says(*UNITS, "clusters", "loops"),
    ),
    "bits that attract": finite(bits_in_clusters, *UNITS, "clusters"),
    "machine of labels": finite(labelled, *UNITS, n=2),
    "machine of counts": finite(
        lambda scale: chain_of(binomial(2), 2, waves(1, scale=0.7 * scale), 0.4 * scale),
        *COUNTED,
        n=2,
    ),
    "field": finite(lambda scale: field_of([3, 3], scale=scale), *FIELD, n=2),
    "field of mixed labels": finite(lambda scale: field_of(MIXED, scale=scale), *FIELD),
    "field of nothing": finite(lambda scale: only_a_pair([2, 3], scale=scale), *FIELD, n=2),
    "2 × 2, one forbidden": finite(
        lambda scale: only_a_pair([2, 2], 1, 1, scale=scale), *FIELD, n=2
    ),
    "3 × 3, one forbidden": finite(
        lambda scale: only_a_pair([3, 3], 2, 2, scale=scale), *FIELD, n=2
    ),
    "field with forbidden pairs": finite(
        lambda scale: field_of([3, 3, 2], (1, 1), (2, 0), scale=0.4 * scale), *FIELD
    ),
    "field of three at a time": finite(ternary, *FIELD),
    "sum of fields": finite(
        lambda scale: field_of(MIXED, scale=scale) + field_of(MIXED, (1, 1), scale=0.5),
        *FIELD,
    ),
    "function of bits": finite(function(of_bits, boolean, 3), "slope"),
    "function of spins": Kind(
        function(of_bits, spin, 3),
        {"visible": ([-1.0] * 3, [1.0] * 3)},
        [True, False, False],
        says=says("slope"),
    ),
    "function of one-hot units": Kind(
        function(of_places, constraints.one_hot, 2, 3),
        {"visible": ONE_HOT},
        [True, False],
        says=says("slope"),
    ),
    "function of labels": finite(function(of_labels, LABELS, 2), "integer", n=2),
    "function of mixed labels": finite(function(of_labels, MIXED_LABELS, 3), "integer"),
    "field and function": finite(field_and_function, "integer"),
    "machine and function": Kind(
        machine_and_function,
        {"visible": ([-1.0] * 3, [1.0] * 3)},
        [True, False, False],
        says=says("slope"),
    ),
    "model of bits": finite(model(two_bits), *SLOPED, n=2),
    "model of labels": Kind(
        model(two_labels), {"first": ([1.0], [2.0])}, says=says("conditional", "integer")
    ),
    "law of bits": finite(law(bernoulli), *SLOPED),
    "law of labels": finite(law(categorical), "conditional", "integer", n=2),
    "law of one-hot units": Kind(
        law(one_hot), {"visible": ONE_HOT}, [True, False], says=says(*SLOPED)
    ),
    "real units": of_two(numbers, (-7.0, 7.0), "conditional", "normal", "integral"),
    "bounded units": of_two(bounded, (-1.0, 2.0), "conditional"),
    "real units and a bit": Kind(
        numbers_and_bits,
        {"visible": ([0.3] * 2, [-0.6] * 2)},
        [True, False],
        {"visible": (-7.0, 7.0)},
        says("conditional", "integral"),
    ),
    "function of reals": of_two(function(of_reals, constraints.real, 2), (-6.0, 14.0)),
    "normal function": of_two(function(of_normals, constraints.real, 2), (-8.0, 8.0), "normal"),
    "function of positives": of_two(
        function(of_positives, constraints.positive, 2), (0.0, 14.0), values=(0.8, 2.0)
    ),
    "function of shares": of_two(
        function(of_shares, constraints.unit_interval, 2), (0.0, 1.0), values=(0.3, 0.6)
    ),
    "function of a bit and a real": Kind(
        two_kinds_of_sites, {"bit": ([0.0], [1.0])}, None, {"x": (-7.0, 8.0)}
    ),
    "real units and a function": of_two(
        lambda scale: numbers(scale) + function(of_reals, constraints.real, 2)(0.5 * scale),
        (-6.0, 7.0),
    ),
    "normal law": of_two(law(correlated), (-8.0, 8.0), "normal"),
    "gamma law": of_two(law(gamma), (0.0, 18.0), values=(0.8, 2.0)),
    "model of reals": Kind(
        model(two_reals),
        {"a": ([0.5], [-0.7])},
        None,
        {"a": (-6.0, 6.5), "b": (-8.0, 8.5)},
        says("normal"),
    ),
    "model of a width": Kind(
        model(positive_and_real),
        {"width": ([1.0], [0.6])},
        None,
        {"width": (-4.0, 4.0), "place": (-12.0, 12.0)},
    ),
    "model of a bit and a real": Kind(
        model(switch), {"z": ([0.0], [1.0])}, None, {"mu": (-8.0, 9.0)}
    ),
}


class Refusal(NamedTuple):
    """Cells of a table that are refused, in which words, and why.

    Args:
        says: What the message has.
        why: The reason.
        holds: Whether a cell is one of them.
    """

    says: str
    why: str
    holds: Callable[[Any], bool]


# --- operations ----------------------------------------------------------------------------------
def held(kind: Kind, rows: list[int] | int) -> Energy:
    """The energy with some of it held: at one value, or at several rows of them."""
    energy = kind.make(1.0)
    ((name, values),) = kind.held.items()
    shape = tuple(energy.sites[name].shape)
    each = torch.tensor([values[row] for row in (0, 1)], dtype=DOUBLE).reshape(2, *shape)
    x = {name: each[rows]}
    if kind.mask is None:
        return clamp(energy, x)
    mask = torch.tensor(kind.mask).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    return clamp(energy, x, mask={name: mask})


def repeated(kind: Kind, rows: int) -> Energy:
    """The energy with some of it held, at so many values."""
    return held(kind, [row % 2 for row in range(rows)])


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


OPERATIONS: dict[str, Callable[[Kind], Energy]] = {
    "plain": lambda kind: kind.make(1.0),
    "weighted by a number": lambda kind: 0.6 * kind.make(1.0),
    "weighted by a tensor": lambda kind: torch.tensor([0.6, 1.3]) * kind.make(1.0),
    "clamped by one row": lambda kind: held(kind, 1),
    "clamped by rows": lambda kind: held(kind, [0, 1]),
    "interpolated": lambda kind: interpolate(kind.make(0.7), kind.make(1.2), 0.4),
    "copied": lambda kind: copy.deepcopy(kind.make(1.0)),
    "pickled": lambda kind: pickled(kind.make(1.0)),
}


def shares(rows: int) -> Tensor:
    """So many numbers about a half."""
    return torch.linspace(0.3, 0.9, rows, dtype=DOUBLE)


# Operations that leave an energy for each of some rows.
BY_ROWS: dict[str, Callable[[Kind, int], Energy]] = {
    "weighted by rows": lambda kind, rows: (2 * shares(rows)) * kind.make(1.0),
    "clamped by so many rows": repeated,
    "interpolated by rows": lambda kind, rows: interpolate(
        kind.make(0.7), kind.make(1.2), shares(rows)
    ),
    "clamped and weighted by rows": lambda kind, rows: shares(rows) * repeated(kind, rows),
}
