"""Random energies of a few units, each with its table of all states.

Numbers are multiples of a quarter, so that a failing example is shrunk to one that can be read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm import (
    Bernoulli,
    BoltzmannMachine,
    CallableEnergy,
    Categorical,
    Energy,
    Layer,
    RandomField,
    Site,
    Spin,
    TableFactors,
    Unit,
    clamp,
    interpolate,
)
from pyro_ebm.sites import boolean, spin

from .exact_tables import Element, Table

MOST_STATES = 64
DOUBLE = torch.float64

quarters = st.integers(-8, 8).map(lambda k: k / 4)


@dataclass(frozen=True, repr=False)
class Case:
    """An energy, and what it must be.

    Args:
        energy: The library's.
        table: The truth, with one row where the parameters have no batch.
        said: How it was made, to be read in a failing example.
        batch: The batch shape of its parameters: () or (rows,).
        family: What it is made of: "machine", "field" or "function".
    """

    energy: Energy
    table: Table
    said: str
    batch: tuple[int, ...] = ()
    family: str = "machine"

    def __repr__(self) -> str:
        return self.said


def tensor(values: Any) -> Tensor:
    """Numbers in double precision."""
    return torch.tensor(np.asarray(values, dtype=float), dtype=DOUBLE)


def array(draw: st.DrawFn, *shape: int) -> np.ndarray:
    """Quarters."""
    count = int(np.prod(shape))
    return np.array(draw(st.lists(quarters, min_size=count, max_size=count))).reshape(shape)


# --- machines ------------------------------------------------------------------------------------

UNITS: dict[str, tuple[Unit, Element]] = {
    "bits": (Bernoulli(), (0.0, 1.0)),
    "spins": (Spin(), (-1.0, 1.0)),
    "labels": (Categorical(3), (0.0, 1.0, 2.0)),
}
LAYERS = [("visible",), ("visible", "hidden")]


def features(kind: str, x: np.ndarray) -> np.ndarray:
    """What couplings and biases multiply: one-hot for labels."""
    return (x[:, None] == np.arange(3)).astype(float).ravel() if kind == "labels" else x


@st.composite
def machines(draw: st.DrawFn) -> Case:
    """Boltzmann machines of one or two layers, coupled within and between."""
    names = draw(st.sampled_from(LAYERS))
    kinds = {name: draw(st.sampled_from(sorted(UNITS))) for name in names}
    sizes = {name: draw(st.integers(1, 2)) for name in names}
    width = {n: sizes[n] * (3 if kinds[n] == "labels" else 1) for n in names}
    bias = {name: array(draw, width[name]) for name in names}
    couplings: dict[tuple[str, str], np.ndarray] = {}
    for name in names:
        if sizes[name] > 1 and draw(st.booleans()):
            square = array(draw, width[name], width[name])
            step = width[name] // sizes[name]
            unit = np.arange(width[name]) // step
            square = np.where(unit[:, None] == unit, 0.0, square)
            couplings[name, name] = (square + square.T) / 2
    if len(names) > 1:
        couplings[names[0], names[1]] = array(draw, width[names[0]], width[names[1]])

    def energy(x: dict[str, np.ndarray]) -> float:
        t = {name: features(kinds[name], x[name]) for name in names}
        total = -sum(float(bias[name] @ t[name]) for name in names)
        for (a, b), w in couplings.items():
            total -= float(t[a] @ w @ t[b]) * (0.5 if a == b else 1.0)
        return total

    layers = {n: Layer(UNITS[kinds[n]][0], sizes[n], bias=tensor(bias[n])) for n in names}
    machine = BoltzmannMachine(layers, {pair: tensor(w) for pair, w in couplings.items()})
    levels = {name: [UNITS[kinds[name]][1]] * sizes[name] for name in names}
    said = f"machine({kinds}, {sizes}, bias={bias}, couplings={couplings})"
    return Case(machine, Table.of(levels, energy), said)


# --- fields --------------------------------------------------------------------------------------


@st.composite
def fields(draw: st.DrawFn) -> Case:
    """Random fields of nodes with their own numbers of labels, some joint labels forbidden."""
    states = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    n = len(states)
    factors, tables = {}, []
    for k in range(draw(st.integers(1, 3))):
        arity = draw(st.integers(1, min(3, n)))
        nodes = draw(st.permutations(range(n)))[:arity]
        own = [states[node] for node in nodes]
        table = array(draw, *own)
        if draw(st.booleans()):  # the first label of all is left possible
            place = tuple(draw(st.integers(0, q - 1)) for q in own)
            if any(place):
                table[place] = -np.inf
        tables.append((tuple(nodes), table))
        nodes_ = torch.tensor([list(nodes)])
        factors[f"f{k}"] = TableFactors(nodes_, tensor(table)[None])

    def energy(x: dict[str, np.ndarray]) -> float:
        label = x["visible"].astype(int)
        return -sum(float(table[tuple(label[list(nodes)])]) for nodes, table in tables)

    levels = {"visible": [tuple(map(float, range(q))) for q in states]}
    field = RandomField(states, factors, site="visible")
    return Case(field, Table.of(levels, energy), f"field({states}, {tables})", (), "field")


# --- functions -----------------------------------------------------------------------------------

FUNCTION_SITES = {
    "bits": (boolean, (0.0, 1.0)),
    "spins": (spin, (-1.0, 1.0)),
    "labels": (constraints.integer_interval(0, 2), (0.0, 1.0, 2.0)),
}


@st.composite
def functions(draw: st.DrawFn) -> Case:
    """Polynomials of one or two sites, of which nothing is known but their values."""
    names = draw(st.sampled_from([("x",), ("x", "y")]))
    kinds = {name: draw(st.sampled_from(sorted(FUNCTION_SITES))) for name in names}
    sizes = {name: draw(st.integers(1, 2)) for name in names}
    total = sum(sizes.values())
    linear, product = array(draw, total), float(draw(quarters))

    def energy(x: dict[str, np.ndarray]) -> float:
        flat = np.concatenate([x[name] for name in names])
        return float(linear @ flat + product * flat.prod())

    weights = tensor(linear)

    def function(*one: Tensor, **several: Tensor) -> Tensor:
        flat = torch.cat([*one, *(several[name] for name in names if name in several)], -1)
        return flat @ weights + product * flat.prod(-1)

    sites = {n: Site(FUNCTION_SITES[kinds[n]][0], torch.Size([sizes[n]])) for n in names}
    levels = {name: [FUNCTION_SITES[kinds[name]][1]] * sizes[name] for name in names}
    said = f"function({kinds}, {sizes}, linear={linear}, product={product})"
    made = CallableEnergy(function, sites, dtype=DOUBLE)
    return Case(made, Table.of(levels, energy), said, (), "function")


plain = st.one_of(machines(), fields(), functions()).filter(
    lambda case: 2 <= case.table.energy.shape[1] <= MOST_STATES
)


# --- energies made of energies -------------------------------------------------------------------


def rows_near(draw: st.DrawFn, states: int) -> int:
    """A number of rows of parameters: 1, the number of states, and its neighbours."""
    return draw(st.sampled_from(sorted({1, 2, max(1, states - 1), states, states + 1})))


@st.composite
def weighted(draw: st.DrawFn, cases: st.SearchStrategy[Case]) -> Case:
    """An energy times a number, or times a tensor of numbers."""
    case = draw(cases)
    positive = st.integers(1, 8).map(lambda k: k / 4)
    if case.batch or draw(st.booleans()):
        weight = draw(positive)
        table = case.table.weighted(np.array([weight]))
        return Case(weight * case.energy, table, f"{weight} * {case.said}", case.batch, case.family)
    rows = rows_near(draw, case.table.energy.shape[1])
    some = np.array(draw(st.lists(positive, min_size=rows, max_size=rows)))
    made = tensor(some) * case.energy
    return Case(
        made, case.table.weighted(some), f"tensor({some}) * {case.said}", (rows,), case.family
    )


@st.composite
def summed(draw: st.DrawFn, cases: st.SearchStrategy[Case]) -> Case:
    """An energy plus a weighted copy of itself, or a step of the way between the two."""
    case = draw(cases)
    weight = draw(st.integers(1, 6)) / 4
    other = case.table.weighted(np.array([weight]))
    if draw(st.booleans()):
        made = case.energy + weight * case.energy
        said = f"{case.said} + {weight} * it"
        return Case(made, case.table.plus(other), said, case.batch, case.family)
    share = draw(st.integers(1, 3)) / 4
    parts = case.table.weighted(np.array([1 - share])).plus(other.weighted(np.array([share])))
    made = interpolate(case.energy, weight * case.energy, share)
    said = f"interpolate({case.said}, {weight} * it, {share})"
    return Case(made, parts, said, case.batch, case.family)


@st.composite
def clamped(draw: st.DrawFn, cases: st.SearchStrategy[Case]) -> Case:
    """An energy some of whose elements are held, at one value or at several rows."""
    case = draw(cases)
    sites = case.table.levels
    count = sum(len(each) for each in sites.values())
    if count < 2:
        return case
    held = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1)))
    states = case.table.states()
    possible = np.isfinite(case.table.energy).all(0).nonzero()[0]
    free_states = len(np.unique(states[:, [k for k in range(count) if k not in held]], axis=0))
    sizes = st.sampled_from([1, *case.batch])
    rows = draw(sizes) if case.batch else rows_near(draw, free_states)
    one = draw(st.booleans()) and rows == 1
    chosen = [possible[draw(st.integers(0, len(possible) - 1))] for _ in range(rows)]
    values = case.table.by_site(states[chosen])
    mask, given, first = {}, {}, 0
    for site, each in sites.items():
        own = np.array([k in held for k in range(first, first + len(each))])
        first += len(each)
        if own.any():
            given[site] = tensor(values[site][0] if one else values[site])
            if not own.all():
                mask[site] = torch.tensor(own)
    made = clamp(case.energy, given, mask=mask)
    at = states[chosen][:, held]
    if case.batch and rows == 1:
        at = np.repeat(at, case.batch[0], 0)
    table = case.table.clamped(held, at)
    batch = case.batch or (() if one else (rows,))
    said = f"clamp({case.said}, {given}, mask={mask})"
    return Case(made, table, said, batch, case.family)


def composed(cases: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    """One composition of given energies."""
    return st.one_of(weighted(cases), summed(cases), clamped(cases))


composites = composed(plain) | composed(composed(plain))
anything = plain | composites
one_law = anything.filter(lambda case: not case.batch)
