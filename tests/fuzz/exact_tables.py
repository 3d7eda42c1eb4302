"""Energies as tables over all states: the truth that random energies are compared with.

It imports numpy only. States are listed with the last element fastest, site after site.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Element = tuple[float, ...]  # the values that one element of a site may have


@dataclass(frozen=True)
class Table:
    """An energy, state by state.

    Args:
        levels: The values of each element, by site.
        energy: E of each state, for each row of parameters (rows, states); one row where the
            parameters have no batch.
    """

    levels: dict[str, tuple[Element, ...]]
    energy: np.ndarray

    @classmethod
    def of(
        cls,
        levels: Mapping[str, Sequence[Element]],
        energy: Callable[[dict[str, np.ndarray]], float],
    ) -> "Table":
        """The table of a formula for one state."""
        own = {site: tuple(each) for site, each in levels.items()}
        empty = cls(own, np.zeros((1, 0)))
        found = [energy(empty.by_site(state)) for state in empty.states()]
        return cls(own, np.array(found)[None])

    def states(self) -> np.ndarray:  # (states, elements)
        """All states, the sites' elements side by side."""
        each = [values for site in self.levels.values() for values in site]
        return np.array(list(itertools.product(*each)), dtype=float).reshape(-1, len(each))

    def by_site(self, states: np.ndarray) -> dict[str, np.ndarray]:  # (..., elements)
        """The columns of states, site by site."""
        sizes = np.cumsum([len(site) for site in self.levels.values()])[:-1]
        return dict(zip(self.levels, np.split(states, sizes, axis=-1), strict=True))

    @property
    def log_z(self) -> np.ndarray:  # (rows,)
        """The logarithm of the sum over the states."""
        low = self.energy.min(1, keepdims=True)
        return np.log(np.exp(low - self.energy).sum(1)) - low[:, 0]

    @property
    def law(self) -> np.ndarray:  # (rows, states)
        """p of each state."""
        return np.exp(-self.energy - self.log_z[:, None])

    def weighted(self, weights: np.ndarray) -> "Table":  # (rows,)
        """The energy times a number, or times one for each row."""
        product = weights[:, None] * np.where(weights[:, None] == 0, 0, self.energy)
        return Table(self.levels, product)

    def plus(self, other: "Table") -> "Table":
        """The sum of two energies of the same sites."""
        return Table(self.levels, self.energy + other.energy)

    def clamped(self, held: Sequence[int], values: np.ndarray) -> "Table":
        """The energy of the other elements, for each row of values (rows, held)."""
        states = self.states()
        free = [k for k in range(states.shape[1]) if k not in held]
        picked = [
            self.energy[row % len(self.energy)][(states[:, list(held)] == value).all(1)]
            for row, value in enumerate(values)
        ]
        levels, first = {}, 0
        for site, each in self.levels.items():
            own = tuple(e for k, e in enumerate(each, first) if k in free)
            levels |= {site: own} if own else {}
            first += len(each)
        return Table(levels, np.array(picked))
