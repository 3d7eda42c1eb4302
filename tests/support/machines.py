"""Small machines that can be enumerated: raw numbers, and what follows from these by loops.

Couplings are of order 1, so that a mistake shows. Nothing here uses the library but its
constructors: `energy` is the formula of the documentation, written out.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, Graph, Layer
from pyro_ebm.units import Bernoulli, Categorical, Spin, Unit

from .listed_unit import Listed, binomial

Pair = tuple[str, str]
Build = Callable[..., BoltzmannMachine]

BIT, SPIN = Bernoulli(), Spin()
TWO, THREE, FOUR = (Categorical(q) for q in (2, 3, 4))
LABELLED = (TWO, THREE, FOUR)
# As a user writes them: a count, and two values of their own.
COUNT, STEPS = binomial(2), Listed((-0.5, 2.0), (0.8, -0.3))
LEVELS = {
    BIT: (0.0, 1.0),
    SPIN: (-1.0, 1.0),
    TWO: (0.0, 1.0),
    THREE: (0.0, 1.0, 2.0),
    FOUR: (0.0, 1.0, 2.0, 3.0),
    COUNT: (0.0, 1.0, 2.0),
    STEPS: (-0.5, 2.0),
}
HEIGHTS = {COUNT: (0.0, -math.log(2), 0.0), STEPS: (0.8, -0.3)}  # u of the levels; else 0


def width(unit: Unit) -> int:
    """How many numbers stand for one unit: one, or one for each label."""
    return len(LEVELS[unit]) if unit in LABELLED else 1


@dataclass(frozen=True)
class Small:
    """The numbers that a machine is made of.

    Args:
        units: The kind of unit of each layer.
        bias: b by layer.
        couplings: W by pair of layers: as given to the constructor, so perhaps neither symmetric
            nor without a diagonal inside a layer; one number for each edge of a graph.
        edges: The edges, for the couplings that are on a graph.
        offset: x̂ by layer; zero where left out.
        build: A constructor, from `units`, `bias`, `couplings` and `offset` as tensors.
    """

    units: dict[str, Unit]
    bias: dict[str, np.ndarray]
    couplings: dict[Pair, np.ndarray]
    edges: dict[Pair, np.ndarray] = field(default_factory=dict)
    offset: dict[str, np.ndarray] = field(default_factory=dict)
    build: Build | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of units."""
        return {name: bias.shape[-1] // width(self.units[name]) for name, bias in self.bias.items()}

    def machine(
        self, dtype: torch.dtype = torch.float64, wrap: Callable[[Tensor], Tensor] = lambda t: t
    ) -> BoltzmannMachine:
        """The machine; `wrap` makes parameters learned, or something with a history."""

        def tensors(arrays: Mapping) -> dict:
            return {key: wrap(torch.tensor(value, dtype=dtype)) for key, value in arrays.items()}

        bias, couplings = tensors(self.bias), tensors(self.couplings)
        offset = {key: torch.tensor(value, dtype=dtype) for key, value in self.offset.items()}
        for pair, edges in self.edges.items():
            couplings[pair] = Graph(torch.tensor(edges), couplings[pair])
        return (self.build or layered)(self.units, bias, couplings, offset)

    def features(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is coupled: numbers as they are, of a label whether it is each of the q."""
        found = {}
        for name, value in x.items():
            q = width(self.units[name])
            columns = []
            for i in range(value.shape[-1]):
                own = value[..., i]
                columns += [own] if q == 1 else [(own == a).astype(float) for a in range(q)]
            found[name] = np.stack(columns, -1)
        return found

    def energy(self, x: Mapping[str, np.ndarray]) -> np.ndarray:  # (*batch, n) each -> (*batch,)
        """E by loops over units: −½ (x−x̂)ᵀW(x−x̂) − bᵀx, offsets and diagonals as they are given."""
        total = self.energy_of_features(self.features(x))
        for name, value in x.items():
            for level, height in zip(*own_heights(self.units[name]), strict=True):
                total = total + height * (value == level).sum(-1)
        return total

    def energy_of_features(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same of features."""

        def shifted(name: str, i: int) -> np.ndarray:
            return x[name][..., i] - (self.offset[name][i] if name in self.offset else 0.0)

        total = 0.0
        for name, bias in self.bias.items():
            for i in range(len(bias)):
                total = total - bias[i] * x[name][..., i]
        for (first, second), weight in self.couplings.items():
            if (first, second) in self.edges:
                for e, (i, j) in enumerate(self.edges[first, second]):
                    own = weight[e if len(weight) > 1 else 0]
                    total = total - own * shifted(first, i) * shifted(second, j)
                continue
            share = 0.5 if first == second else 1.0
            for i in range(len(weight)):
                for j in range(len(weight[i])):
                    total = total - share * shifted(first, i) * weight[i, j] * shifted(second, j)
        return total

    @functools.cached_property
    def states(self) -> dict[str, np.ndarray]:
        """All joint states, the last unit fastest."""
        return states_of(self.units, self.sizes)

    @functools.cached_property
    def energies(self) -> np.ndarray:
        """E of all states."""
        return self.energy(self.states)

    @functools.cached_property
    def log_partition(self) -> float:
        return float(np.logaddexp.reduce(-self.energies))

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        return np.exp(-self.energies - self.log_partition)

    @functools.cached_property
    def flat_states(self) -> np.ndarray:
        """All states (states, n) over the units of all layers."""
        return np.concatenate(list(self.states.values()), -1)

    @functools.cached_property
    def flat_features(self) -> np.ndarray:
        """The features of all states (states, n * width)."""
        return np.concatenate(list(self.features(self.states).values()), -1)

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """All states as tensors."""
        return {name: torch.tensor(value, dtype=dtype) for name, value in self.states.items()}

    def free_energies(self, sites: tuple[str, ...]) -> np.ndarray:
        """−ln Σ exp(−E) over the other layers, for the states of some, the last unit fastest."""
        number = index_of({s: torch.tensor(self.states[s]) for s in sites}, self.units).numpy()
        count = math.prod(len(LEVELS[self.units[s]]) ** self.sizes[s] for s in sites)
        return np.array([-np.logaddexp.reduce(-self.energies[number == k]) for k in range(count)])


def own_heights(unit: Unit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The levels of a unit that has a potential, and what it is there; nothing of another."""
    return (LEVELS[unit], HEIGHTS[unit]) if unit in HEIGHTS else ((), ())


def states_of(units: Mapping[str, Unit], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """All joint states of some layers, the last unit fastest."""
    levels = [LEVELS[units[name]] for name, size in sizes.items() for _ in range(size)]
    flat = np.array(list(itertools.product(*levels))).reshape(-1, len(levels))
    cuts = np.cumsum(list(sizes.values()))[:-1]
    return dict(zip(sizes, np.split(flat, cuts, axis=1), strict=True))


def stacked(machines: Sequence[Small]) -> Small:
    """Machines of one structure as one, whose parameters have a leading batch dimension."""
    one = machines[0]
    return replace(
        one,
        bias={key: np.stack([m.bias[key] for m in machines]) for key in one.bias},
        couplings={key: np.stack([m.couplings[key] for m in machines]) for key in one.couplings},
        build=layered,
    )


def varied(one: Small, rng: np.random.Generator) -> Small:
    """A machine of the same structure with other numbers."""

    def other(arrays: Mapping) -> dict:
        return {key: value + rng.normal(0, 0.3, value.shape) for key, value in arrays.items()}

    return replace(one, bias=other(one.bias), couplings=other(one.couplings))


def index_of(x: Mapping[str, Tensor], units: Mapping[str, Unit] | None = None) -> Tensor:
    """The number (*batch,) of each joint state in the order of `Small.states`.

    Args:
        x: Values (*batch, n) of the sites, in order.
        units: Their kinds; bits and spins if left out.
    """
    number = torch.zeros((), dtype=torch.int64)
    for site, value in x.items():
        count = 2 if units is None else len(LEVELS[units[site]])
        digits = (value > 0).long() if count == 2 else value.long()
        assert units is not None or not bool((value > 1).any()), "the kinds of units are missing"
        for digit in digits.unbind(-1):
            number = number * count + digit
    return number


# --- constructors --------------------------------------------------------------------------------


def counts(units: dict[str, Unit], bias: dict) -> list[int]:
    """The number of units of each layer."""
    return [bias[name].shape[-1] // width(unit) for name, unit in units.items()]


def layered(units: dict[str, Unit], bias: dict, couplings: dict, offset: dict) -> BoltzmannMachine:
    layers = {
        name: Layer(unit, count, bias=bias[name], offset=offset.get(name))
        for (name, unit), count in zip(units.items(), counts(units, bias), strict=True)
    }
    return BoltzmannMachine(layers, couplings)


def restricted(
    units: dict[str, Unit], bias: dict, couplings: dict, offset: dict
) -> BoltzmannMachine:
    (weight,) = couplings.values()
    kinds = (units["visible"], units["hidden"])
    return BoltzmannMachine.restricted(
        *counts(units, bias), units=kinds, couplings=weight, biases=bias, offset=offset
    )


def two_layers(constructor: Build) -> Build:
    def build(
        units: dict[str, Unit], bias: dict, couplings: dict, offset: dict
    ) -> BoltzmannMachine:
        return constructor(
            *counts(units, bias),
            units=tuple(units.values()),
            couplings=couplings,
            biases=bias,
            offset=offset,
        )

    return build


def deep(units: dict[str, Unit], bias: dict, couplings: dict, offset: dict) -> BoltzmannMachine:
    return BoltzmannMachine.deep(
        counts(units, bias),
        unit=units["visible"],
        couplings=couplings,
        biases=bias,
        offset=offset,
    )


def fully_visible(
    units: dict[str, Unit], bias: dict, couplings: dict, offset: dict
) -> BoltzmannMachine:
    (weight,) = couplings.values()
    return BoltzmannMachine.fully_visible(
        *counts(units, bias),
        unit=units["visible"],
        couplings=weight,
        biases=bias["visible"],
        offset=offset.get("visible"),
    )


def on_graph(units: dict[str, Unit], bias: dict, couplings: dict, offset: dict) -> BoltzmannMachine:
    (graph,) = couplings.values()
    return BoltzmannMachine.on_graph(
        graph.edges,
        len(bias["visible"]),
        unit=units["visible"],
        couplings=graph.couplings,
        biases=bias["visible"],
        offset=offset.get("visible"),
    )


# --- the table -----------------------------------------------------------------------------------


def lattice_edges(rows: int, columns: int, *, periodic: bool) -> np.ndarray:
    """Nearest neighbours on a square lattice, units numbered row by row."""
    number = np.arange(rows * columns).reshape(rows, columns)
    right = np.stack([number, np.roll(number, -1, 1)], -1)
    down = np.stack([number, np.roll(number, -1, 0)], -1)
    if not periodic:
        right, down = right[:, :-1], down[:-1]
    return np.concatenate([right.reshape(-1, 2), down.reshape(-1, 2)])


def ring_edges(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.roll(np.arange(n), -1)], -1)


def star_edges(leaves: int) -> np.ndarray:
    return np.stack([np.zeros(leaves, dtype=int), np.arange(1, leaves + 1)], -1)


def draw(
    name: str,
    units: dict[str, tuple[Unit, int]],
    pairs: list[Pair] = [],  # noqa: B006 (never changed)
    *,
    edges: Mapping[Pair, np.ndarray] | None = None,
    build: Build | None = None,
    scale: float = 1.0,
    shared: bool = False,
    offsets: bool = False,
    any_square: bool = False,
) -> Small:
    """A machine with random numbers that depend on its name alone.

    Args:
        name: Of the machine.
        units: The kind and number of units of each layer.
        pairs: Which layers are coupled densely.
        edges: Graphs by pair of layers.
        build: The constructor.
        scale: Of the couplings.
        shared: One coupling for all edges of a graph.
        offsets: Whether there are offsets, on every layer.
        any_square: Whether matrices inside a layer are neither symmetric nor without diagonal.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    size = {layer: n * width(unit) for layer, (unit, n) in units.items()}
    bias = {layer: rng.normal(0, 0.7, n) for layer, n in size.items()}
    couplings = {}
    for pair in pairs:
        weight = rng.normal(0, scale, (size[pair[0]], size[pair[1]]))
        if pair[0] == pair[1] and not any_square:
            weight = weight * pairs_above(size[pair[0]], width(units[pair[0]][0]))
            weight = weight + weight.T
        couplings[pair] = weight
    for pair, listed in (edges or {}).items():
        couplings[pair] = rng.normal(0, scale, 1 if shared else len(listed))
    offset = {layer: rng.uniform(-1, 1, n) for layer, n in size.items()} if offsets else {}
    kinds = {layer: unit for layer, (unit, _) in units.items()}
    return Small(kinds, bias, couplings, dict(edges or {}), offset, build)


def pairs_above(size: int, width: int) -> np.ndarray:  # (size, size)
    """Where the row's unit comes before the column's: each pair of features that may be coupled."""
    unit = np.arange(size) // width
    return unit[:, None] < unit


V, H = "visible", "hidden"
VH, VV, HH = (V, H), (V, V), (H, H)
DEEP = [("visible", "hidden1"), ("hidden1", "hidden2")]
SEMI = two_layers(BoltzmannMachine.semi_restricted)
GENERAL = two_layers(BoltzmannMachine.general)
OTHER_SHAPES = {"a": (BIT, 3), "b": (SPIN, 3), "c": (BIT, 2)}  # a graph, a dense layer, a free one

SMALL: dict[str, Small] = {
    name: draw(name, *arguments, **settings)
    for name, arguments, settings in [
        ("restricted", ({V: (BIT, 4), H: (BIT, 3)}, [VH]), {"build": restricted}),
        (
            "restricted with spins",
            ({V: (SPIN, 4), H: (SPIN, 3)}, [VH]),
            {"build": restricted, "scale": 0.5},
        ),
        ("bits and spins", ({V: (BIT, 4), H: (SPIN, 3)}, [VH]), {"build": restricted}),
        (
            "restricted with offsets",
            ({V: (BIT, 4), H: (BIT, 3)}, [VH]),
            {"build": restricted, "offsets": True},
        ),
        ("semi-restricted", ({V: (BIT, 4), H: (BIT, 3)}, [VH, VV]), {"build": SEMI}),
        ("general", ({V: (BIT, 4), H: (BIT, 3)}, [VH, VV, HH]), {"build": GENERAL}),
        (
            "general with offsets",
            ({V: (BIT, 4), H: (BIT, 3)}, [VH, VV, HH]),
            {"build": GENERAL, "offsets": True, "any_square": True},
        ),
        (
            "general bits and spins",
            ({V: (BIT, 3), H: (SPIN, 3)}, [VH, VV, HH]),
            {"build": GENERAL, "offsets": True, "any_square": True, "scale": 0.5},
        ),
        ("deep", ({V: (BIT, 3), "hidden1": (BIT, 3), "hidden2": (BIT, 2)}, DEEP), {"build": deep}),
        (
            "deep with offsets",
            ({V: (SPIN, 3), "hidden1": (SPIN, 2), "hidden2": (SPIN, 2)}, DEEP),
            {"build": deep, "scale": 0.5, "offsets": True},
        ),
        (
            "fully visible bits",
            ({V: (BIT, 6)}, [VV]),
            {"build": fully_visible, "any_square": True, "offsets": True},
        ),
        ("fully visible spins", ({V: (SPIN, 6)}, [VV]), {"build": fully_visible, "scale": 0.5}),
        ("one unit", ({V: (BIT, 1)}, [VV]), {"build": fully_visible, "any_square": True}),
        (
            "torus",
            ({V: (SPIN, 9)},),
            {"edges": {VV: lattice_edges(3, 3, periodic=True)}, "build": on_graph, "scale": 0.4},
        ),
        (
            "bipartite lattice",
            ({V: (SPIN, 8)},),
            {"edges": {VV: lattice_edges(2, 4, periodic=False)}, "build": on_graph, "scale": 0.6},
        ),
        (
            "bits on a ring",
            ({V: (BIT, 7)},),
            {"edges": {VV: ring_edges(7)}, "build": on_graph, "offsets": True},
        ),
        (
            "one shared coupling",
            ({V: (SPIN, 6)},),
            {"edges": {VV: ring_edges(5)}, "build": on_graph, "shared": True},
        ),
        (
            "sparse between layers",
            ({V: (BIT, 4), H: (SPIN, 3)},),
            {"edges": {VH: np.array([[0, 0], [1, 0], [1, 2], [3, 1], [3, 2]])}},
        ),
        (
            "three kinds of layers",
            (OTHER_SHAPES, [("a", "b"), ("b", "b")]),
            {
                "edges": {("a", "a"): ring_edges(3)[:2], ("c", "a"): np.array([[0, 2], [1, 0]])},
                "offsets": True,
                "any_square": True,
                "scale": 0.7,
            },
        ),
        ("no couplings", ({V: (BIT, 3), H: (SPIN, 3)},), {}),
    ]
}

LABELS: dict[str, Small] = {
    name: draw(name, *arguments, **settings)
    for name, arguments, settings in [
        ("Potts restricted", ({V: (THREE, 3), H: (TWO, 2)}, [VH]), {"build": restricted}),
        (
            "Potts restricted with offsets",
            ({V: (FOUR, 2), H: (THREE, 2)}, [VH]),
            {"build": restricted, "offsets": True},
        ),
        ("labels and bits", ({V: (THREE, 3), H: (BIT, 3)}, [VH]), {"build": restricted}),
        (
            "spins and labels",
            ({V: (SPIN, 3), H: (THREE, 2)}, [VH]),
            {"build": restricted, "offsets": True},
        ),
        (
            "fully visible labels",
            ({V: (THREE, 4)}, [VV]),
            {"build": fully_visible, "any_square": True, "offsets": True},
        ),
        ("Potts with pairs", ({V: (FOUR, 3)}, [VV]), {"build": fully_visible}),
        ("one label", ({V: (THREE, 1)}, [VV]), {"build": fully_visible, "any_square": True}),
        (
            "deep labels",
            ({V: (THREE, 2), "hidden1": (THREE, 2), "hidden2": (THREE, 1)}, DEEP),
            {"build": deep, "offsets": True},
        ),
        (
            "general labels and bits",
            ({V: (THREE, 2), H: (BIT, 3)}, [VH, VV, HH]),
            {"build": GENERAL, "offsets": True, "any_square": True},
        ),
        (
            "general bits and labels",
            ({V: (BIT, 2), H: (THREE, 3)}, [VH, VV, HH]),
            {"build": GENERAL, "scale": 0.7},
        ),
        (
            "labels, spins and bits",
            (
                {"a": (THREE, 2), "b": (SPIN, 3), "c": (BIT, 2)},
                [("a", "a"), ("b", "a"), ("c", "b")],
            ),
            {"edges": {("b", "b"): ring_edges(3)}, "offsets": True, "scale": 0.7},
        ),
    ]
}
FINITE = {**SMALL, **LABELS}

OWN: dict[str, Small] = {
    name: draw(name, *arguments, **settings)
    for name, arguments, settings in [
        ("counts on a ring", ({V: (COUNT, 5)},), {"edges": {VV: ring_edges(5)}, "build": on_graph}),
        ("coupled counts", ({V: (COUNT, 4)}, [VV]), {"build": fully_visible, "offsets": True}),
        ("counts and bits", ({V: (COUNT, 3), H: (BIT, 3)}, [VH]), {"build": restricted}),
        ("bits and counts", ({V: (BIT, 3), H: (COUNT, 3)}, [VH]), {"build": restricted}),
        (
            "counts and labels",
            ({"a": (THREE, 2), "b": (COUNT, 3)}, [("a", "b")]),
            {"edges": {("b", "b"): ring_edges(3)}, "scale": 0.7},
        ),
        (
            "two values of their own",
            ({V: (STEPS, 6)}, [VV]),
            {"build": fully_visible, "any_square": True, "scale": 0.4},
        ),
        (
            "values of their own on a graph",
            ({V: (STEPS, 4), H: (SPIN, 3)}, [VH]),
            {"edges": {VV: ring_edges(4)}, "build": SEMI, "scale": 0.4},
        ),
    ]
}
ENUMERATED = {**FINITE, **OWN}  # whatever can be enumerated
