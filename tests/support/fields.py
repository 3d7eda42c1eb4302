"""Small random fields that can be enumerated: raw numbers, and what follows from these by loops.

Nothing here uses the library but its constructors: `energy` is the formula, written out.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_ebm.energies import RandomField, TableFactors

INF = float("inf")


@dataclass(frozen=True)
class Group:
    """Factors of one shape.

    Args:
        nodes: The nodes of each (count, arity).
        tables: log ψ (count, q_1, …), or (1, q_1, …) for one that all share.
    """

    nodes: np.ndarray
    tables: np.ndarray

    def table(self, f: int) -> np.ndarray:
        return self.tables[f if len(self.tables) > 1 else 0]


@dataclass(frozen=True)
class SmallField:
    """The numbers that a field is made of.

    Args:
        levels: The number of states of each node.
        groups: The factors by name.
    """

    levels: tuple[int, ...]
    groups: Mapping[str, Group]

    def field(
        self, dtype: torch.dtype = torch.float64, wrap: Callable[[Tensor], Tensor] = lambda t: t
    ) -> RandomField:
        """The field; `wrap` makes tables learned, or something with a history."""
        factors = {
            name: TableFactors(
                torch.tensor(group.nodes), wrap(torch.tensor(group.tables, dtype=dtype))
            )
            for name, group in self.groups.items()
        }
        return RandomField(self.levels, factors)

    def energy(self, x: Sequence[int]) -> float:
        total = 0.0
        for group in self.groups.values():
            for f, nodes in enumerate(group.nodes):
                total -= group.table(f)[tuple(x[i] for i in nodes)]
        return total

    @functools.cached_property
    def states(self) -> np.ndarray:  # (states, n)
        """All joint states, the last node fastest."""
        return np.array(list(itertools.product(*(range(q) for q in self.levels))))

    @functools.cached_property
    def energies(self) -> np.ndarray:
        return np.array([self.energy(x) for x in self.states])

    @functools.cached_property
    def log_partition(self) -> float:
        return float(np.logaddexp.reduce(-self.energies))

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        return np.exp(-self.energies - self.log_partition)

    @property
    def node_marginals(self) -> np.ndarray:  # (n, q)
        found = np.zeros((len(self.levels), max(self.levels)))
        for x, p in zip(self.states, self.probabilities, strict=True):
            for i, label in enumerate(x):
                found[i, label] += p
        return found

    def factor_marginals(self, name: str) -> np.ndarray:  # (count, q_1, …)
        group = self.groups[name]
        found = np.zeros((len(group.nodes), *group.tables.shape[1:]))
        for x, p in zip(self.states, self.probabilities, strict=True):
            for f, nodes in enumerate(group.nodes):
                found[(f, *(x[i] for i in nodes))] += p
        return found

    def tensor(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """All states as labels."""
        return torch.tensor(self.states, dtype=dtype)

    def index(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch,)
        """The number of each state in the order of `states`."""
        number = torch.zeros(x.shape[:-1], dtype=torch.int64)
        for i, q in enumerate(self.levels):
            number = number * q + x[..., i].long()
        return number


def drawn(
    levels: Sequence[int],
    members: Mapping[str, Sequence[Sequence[int]]],
    *,
    seed: int = 0,
    scale: float = 1.0,
    shared: Sequence[str] = (),
    forbidden: float = 0.0,
) -> SmallField:
    """A field with normal log-potentials.

    Args:
        levels: The number of states of each node.
        members: The nodes of the factors of each group.
        seed: Of the numbers.
        scale: Their size.
        shared: The groups in which all factors have one table.
        forbidden: The share of entries that are −inf; the state of zeros stays allowed.
    """
    rng = np.random.default_rng(seed)
    groups = {}
    for name, nodes in members.items():
        array = np.array(nodes)
        sizes = [max(levels[i] for i in column) for column in array.T]
        tables = rng.normal(0, scale, (1 if name in shared else len(array), *sizes))
        mask = rng.random(tables.shape) < forbidden
        mask[(slice(None), *[0] * len(sizes))] = False
        groups[name] = Group(array, np.where(mask, -INF, tables))
    return SmallField(tuple(levels), groups)


def each(n: int) -> list[list[int]]:
    """Every node by itself."""
    return [[i] for i in range(n)]


def path(n: int) -> list[list[int]]:
    return [[i, i + 1] for i in range(n - 1)]


def ring(n: int) -> list[list[int]]:
    return [[i, (i + 1) % n] for i in range(n)]


FIELDS = {
    "one node": drawn([4], {"node": each(1)}),
    "a chain": drawn([3] * 4, {"node": each(4), "edge": path(4)}, seed=1),
    "a chain with one table": drawn(
        [3] * 4, {"node": each(4), "edge": path(4)}, seed=2, shared=("node", "edge")
    ),
    "a tree": drawn([2, 3, 2, 3, 2], {"edge": [[0, 1], [2, 1], [1, 3], [3, 4]]}, seed=3),
    "a ring": drawn([3] * 4, {"node": each(4), "edge": ring(4)}, seed=4),
    "an odd ring of bits": drawn([2] * 5, {"node": each(5), "edge": ring(5)}, seed=5),
    "a square with its diagonals": drawn(
        [2] * 4, {"edge": [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3]]}, seed=6, scale=2
    ),
    "mixed numbers of states": drawn(
        [2, 4, 3, 1, 2], {"node": each(5), "edge": [[0, 1], [2, 1], [3, 2], [4, 0]]}, seed=7
    ),
    "mixed, one table": drawn(
        [2, 3, 1, 3], {"node": each(4), "edge": path(4)}, seed=8, shared=("node", "edge")
    ),
    "factors of three": drawn(
        [2, 3, 2, 2, 2], {"node": each(5), "triple": [[0, 1, 2], [2, 4, 3], [4, 1, 0]]}, seed=9
    ),
    "factors of three and four": drawn(
        [2, 2, 3, 2, 2],
        {"pair": [[4, 0]], "triple": [[1, 2, 3]], "quadruple": [[0, 1, 3, 4], [4, 2, 1, 0]]},
        seed=10,
    ),
    "forbidden states": drawn(
        [3] * 4, {"node": each(4), "edge": ring(4)}, seed=11, scale=2, forbidden=0.2
    ),
    "nodes without factors": drawn([2, 3, 2], {"edge": [[0, 2]]}, seed=12),
    "factors that stand twice": drawn(
        [2, 3, 2], {"edge": [[0, 1], [0, 1], [2, 1]], "again": [[1, 0]]}, seed=13
    ),
    "a star": drawn([3] + [2] * 5, {"edge": [[0, k] for k in range(1, 6)]}, seed=14),
    "two parts": drawn([2] * 5, {"node": each(5), "edge": [[0, 1], [2, 3], [3, 4]]}, seed=15),
}

TREES = ("one node", "a chain", "a chain with one table", "a tree", "mixed numbers of states")
TREES += ("mixed, one table", "nodes without factors", "a star", "two parts")


def random_graph(seed: int) -> SmallField:
    """A field on a random graph: mixed numbers of states, factors of one to three nodes."""
    rng = np.random.default_rng(1000 + seed)
    n = int(rng.integers(3, 8))
    levels = [int(q) for q in rng.integers(1, 5, n)]
    members = {"node": each(n)}
    for name, arity, most in (("edge", 2, n + 2), ("triple", 3, 3)):
        count = int(rng.integers(1, most + 1))
        members[name] = [list(rng.choice(n, arity, replace=False)) for _ in range(count)]
    shared = [name for name in members if rng.random() < 0.3]
    scale = float(rng.choice([0.3, 1.0, 4.0]))
    forbidden = float(rng.choice([0.0, 0.0, 0.2]))
    return drawn(levels, members, seed=seed, scale=scale, shared=shared, forbidden=forbidden)


RANDOM = {f"random graph {seed}": random_graph(seed) for seed in range(50)}


# --- how far the library is from the loops -------------------------------------------------------


def distance(found: Tensor, wanted: np.ndarray | float) -> float:
    """The largest difference, relative where the values are larger than 1; NaN is no number."""
    target = torch.as_tensor(wanted, dtype=torch.float64)
    value = found.detach().double()
    assert value.shape == target.shape, f"{value.shape} is not {target.shape}"
    same = value == target  # equal infinities
    difference = (value - target).abs() / target.abs().clamp_min(1)
    return float(difference.masked_fill(same, 0).max().nan_to_num(INF))


def energy_error(small: SmallField, dtype: torch.dtype = torch.float64) -> float:
    return distance(small.field(dtype)(small.tensor(dtype)), small.energies)


def conditional_error(small: SmallField, dtype: torch.dtype = torch.float64) -> float:
    """Of p(x_i | rest) for every label of every node of every block, given every possible state."""
    field = small.field(dtype)
    possible = np.isfinite(small.energies)
    x = small.tensor(dtype)[torch.tensor(possible)]
    weights = np.exp(-(small.energies - small.energies.min()))
    worst = 0.0
    for block in field.blocks("visible"):
        law = field.conditional("visible", x, block)
        for column, i in enumerate(block.tolist()):
            joint = np.zeros((len(x), max(small.levels)))
            for label in range(small.levels[i]):
                other = x.clone()
                other[:, i] = label
                joint[:, label] = weights[small.index(other).numpy()]
            wanted = joint / joint.sum(1, keepdims=True)
            own = law.probs[:, column]
            worst = max(worst, distance(own, wanted[:, : own.shape[-1]]))
    return worst


def stacked(fields: Sequence[SmallField]) -> RandomField:
    """Fields of one structure as one, whose tables have a leading batch dimension."""
    one = fields[0]
    factors = {
        name: TableFactors(
            torch.tensor(group.nodes),
            torch.tensor(np.stack([field.groups[name].tables for field in fields])),
        )
        for name, group in one.groups.items()
    }
    return RandomField(one.levels, factors)


def varied(small: SmallField, count: int, *, scale: float = 0.5) -> list[SmallField]:
    """Fields of the same structure with other numbers."""
    rng = np.random.default_rng(0)
    return [
        SmallField(
            small.levels,
            {
                name: Group(group.nodes, group.tables + rng.normal(0, scale, group.tables.shape))
                for name, group in small.groups.items()
            },
        )
        for _ in range(count)
    ]
