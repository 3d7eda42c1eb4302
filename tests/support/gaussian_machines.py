"""Small machines with real units: raw numbers, and what follows from these by sums and grids.

Nothing here knows that the laws are normal: log Z and expectations come from the formula of the
energy on a grid, by the trapezoidal rule, whose error on a smooth integrand that falls off at both
ends is beyond double precision once the step is below 0.8 of the narrowest width (between bounds
by Gauss and Legendre's). Only what is to be compared with draws (`Given`) reads the quadratic form
off the energies.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine
from pyro_ebm.units import Gaussian, QuadraticUnit, TruncatedGaussian, Unit

from .machines import (
    BIT,
    DEEP,
    HH,
    SPIN,
    THREE,
    VH,
    VV,
    H,
    Small,
    V,
    draw,
    index_of,
    restricted,
    ring_edges,
    states_of,
)

# They stand for real units in the tables; a machine has such with its precisions.
REAL, POSITIVE, BOUNDED = Gaussian(), TruncatedGaussian(), TruncatedGaussian(low=-1.0, high=1.5)
REACH, STEP = 9.0, 0.375  # of the grids: from -REACH to REACH


class Given(NamedTuple):
    """The law of all real units given each discrete state.

    Args:
        precision: P (real units, real units), the same for all.
        means: (discrete states, real units).
        probabilities: Of the discrete states.
    """

    precision: np.ndarray
    means: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Mixed(Small):
    """A machine with real units in some layers.

    Args:
        precision: λ by layer of real units (n,), or () for one that all share.
    """

    precision: dict[str, np.ndarray] = field(default_factory=dict)

    def machine(
        self, dtype: torch.dtype = torch.float64, wrap: Callable[[Tensor], Tensor] = lambda t: t
    ) -> BoltzmannMachine:
        units: dict[str, Unit] = {}
        for name, unit in self.units.items():
            units[name] = unit
            if name in self.precision:
                assert isinstance(unit, QuadraticUnit)
                own = wrap(torch.tensor(self.precision[name], dtype=dtype))
                units[name] = replace(unit, precision=own)
        small = Small(units, self.bias, self.couplings, self.edges, self.offset, self.build)
        return small.machine(dtype, wrap)

    def energy_of_features(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        total = super().energy_of_features(x)
        for name, precision in self.precision.items():
            own = np.broadcast_to(precision, self.bias[name].shape)
            for i in range(len(own)):
                total = total + own[i] * x[name][..., i] ** 2 / 2
        return total

    @property
    def real(self) -> dict[str, int]:
        """Numbers of units of the real layers."""
        return {name: size for name, size in self.sizes.items() if name in self.precision}

    @property
    def finite(self) -> dict[str, int]:
        """Numbers of units of the other layers."""
        return {name: size for name, size in self.sizes.items() if name not in self.precision}

    @functools.cached_property
    def discrete(self) -> dict[str, np.ndarray]:
        """All states of the layers that are not real (states, n)."""
        return states_of(self.units, self.finite) if self.finite else {}

    @functools.cached_property
    def number_of_states(self) -> int:
        return len(next(iter(self.discrete.values()))) if self.discrete else 1

    def space(self, held: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """All states on the grid (states, points, n), or what is left where some (n,) are held."""
        held = held or {}
        finite = {name: size for name, size in self.finite.items() if name not in held}
        real = {name: size for name, size in self.real.items() if name not in held}
        found = {name: np.asarray(value)[None, None] for name, value in held.items()}
        if finite:
            found |= {name: x[:, None] for name, x in states_of(self.units, finite).items()}
        if real:
            found |= {name: x[None] for name, x in grid(real, self.units)[0].items()}
        return {name: found[name] for name in self.units}

    def log_weights(self, held: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """ln of what each point of `space` adds to the sum and integral (states, points)."""
        real = {name: size for name, size in self.real.items() if name not in (held or {})}
        log_steps = grid(real, self.units)[1] if real else np.zeros(1)
        return log_steps - np.asarray(self.energy(self.space(held)))

    def free_energy(self, held: Mapping[str, np.ndarray] | None = None) -> float:
        """−ln of the sum and integral of exp(−E) over what is not held."""
        return float(-np.logaddexp.reduce(self.log_weights(held), axis=None))

    @functools.cached_property
    def log_partition(self) -> float:
        return -self.free_energy()

    @functools.cached_property
    def table(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All states on the grid (rows, n), and the probability that each row stands for."""
        log_weights = self.log_weights()
        p = np.exp(log_weights - self.log_partition)
        rows = {
            name: np.broadcast_to(v, (*p.shape, v.shape[-1])) for name, v in self.space().items()
        }
        return {name: v.reshape(-1, v.shape[-1]) for name, v in rows.items()}, p.ravel()

    def tensor_table(self) -> tuple[dict[str, Tensor], Tensor]:
        """The same as tensors."""
        x, p = self.table
        # What is less likely than this does not reach the last digit of an expectation.
        kept = p > 1e-22
        return {name: torch.tensor(v[kept]) for name, v in x.items()}, torch.tensor(p[kept])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """E[T] and E[T Tᵀ] over the features of all layers."""
        x, p = self.table
        flat = np.concatenate(list(self.features(x).values()), -1)
        return p @ flat, (flat * p[:, None]).T @ flat

    @functools.cached_property
    def given(self) -> Given:
        """Read off the energies, which are quadratic in the real units."""
        n = sum(self.real.values())
        count = self.number_of_states

        def energies(z: np.ndarray) -> np.ndarray:  # (n,) -> (states,)
            parts = np.split(z, np.cumsum(list(self.real.values()))[:-1])
            real = {
                name: np.broadcast_to(part, (count, len(part)))
                for name, part in zip(self.real, parts, strict=True)
            }
            return np.asarray(
                self.energy({name: {**self.discrete, **real}[name] for name in self.units})
            )

        unit, zero = np.eye(n), energies(np.zeros(n))
        slope = np.stack([(energies(e) - energies(-e)) / 2 for e in unit], -1)
        precision = np.empty((n, n))
        for i, j in itertools.product(range(n), repeat=2):
            second = energies(unit[i] + unit[j]) - energies(unit[i]) - energies(unit[j]) + zero
            precision[i, j] = second[0]
        means = np.linalg.solve(precision, -slope.T).T
        log_weights = -zero + (means * (means @ precision)).sum(-1) / 2
        return Given(precision, means, np.exp(log_weights - np.logaddexp.reduce(log_weights)))

    def draws(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        """Independent draws by numpy."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(self.number_of_states, size=count, p=self.given.probabilities)
        spread = np.linalg.inv(np.linalg.cholesky(self.given.precision)).T
        z = self.given.means[chosen] + rng.normal(size=(count, len(spread))) @ spread.T
        parts = np.split(z, np.cumsum(list(self.real.values()))[:-1], axis=1)
        x = {name: v[chosen] for name, v in self.discrete.items()}
        x |= dict(zip(self.real, parts, strict=True))
        return {name: torch.tensor(x[name]) for name in self.units}

    def state_numbers(self, x: Mapping[str, Tensor]) -> np.ndarray:
        """The number of the discrete state of each row."""
        if not self.discrete:
            return np.zeros(len(next(iter(x.values()))), dtype=int)
        return index_of({name: x[name] for name in self.discrete}, self.units).numpy()

    def flat_real(self, x: Mapping[str, Tensor]) -> np.ndarray:  # (rows, real units)
        return torch.cat([x[name] for name in self.real], -1).double().numpy()


def axis(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Points for one real unit, and the length that each stands for."""
    assert isinstance(unit, QuadraticUnit)
    if isinstance(unit, Gaussian):
        points = np.arange(-REACH, REACH + STEP / 2, STEP)
        return points, np.full(len(points), STEP)
    low, high = (np.clip(bound, -REACH, REACH) for bound in unit.bounds)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    return (low + high + (high - low) * nodes) / 2, (high - low) / 2 * weights


def grid(
    sizes: Mapping[str, int], units: Mapping[str, Unit]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The points (points, n) of a grid over all units of some layers, and ln of what is theirs."""
    axes = [axis(units[name]) for name, size in sizes.items() for _ in range(size)]
    flat, lengths = (
        np.stack(np.meshgrid(*[a[k] for a in axes], indexing="ij"), -1).reshape(-1, len(axes))
        for k in range(2)
    )
    parts = np.split(flat, np.cumsum(list(sizes.values()))[:-1], 1)
    return dict(zip(sizes, parts, strict=True)), np.log(lengths).sum(-1)


def mixed(
    name: str,
    units: dict[str, tuple[Unit, int]],
    *arguments: object,
    shared: tuple[str, ...] = (),
    **settings: object,
) -> Mixed:
    """A machine with random numbers that depend on its name alone; see `draw`.

    Args:
        name: Of the machine.
        units: The kind and number of units of each layer.
        arguments: As `draw`'s.
        shared: Layers with one precision for all units.
        settings: As `draw`'s.
    """
    small = draw(name, units, *arguments, **{"scale": 0.7, **settings})
    rng = np.random.default_rng(len(name))
    real = {layer: n for layer, (unit, n) in units.items() if isinstance(unit, QuadraticUnit)}
    precision = {
        layer: np.array(1.7) if layer in shared else rng.uniform(1.2, 2.2, n)
        for layer, n in real.items()
    }
    # Couplings of real units that leave the joint precision positive definite.
    couplings = {
        pair: np.clip(w, -0.6, 0.6) if set(pair) <= set(real) else w
        for pair, w in small.couplings.items()
    }
    return Mixed(
        small.units, small.bias, couplings, small.edges, small.offset, small.build, precision
    )


MIXED: dict[str, Mixed] = {
    name: mixed(name, *arguments, **settings)
    for name, arguments, settings in [
        ("Gaussian-Bernoulli", ({V: (REAL, 2), H: (BIT, 3)}, [VH]), {"build": restricted}),
        (
            "Gaussian-Bernoulli with offsets",
            ({V: (REAL, 2), H: (BIT, 3)}, [VH]),
            {"build": restricted, "offsets": True, "shared": (V,)},
        ),
        ("hidden numbers", ({V: (SPIN, 3), H: (REAL, 2)}, [VH]), {"build": restricted}),
        ("labels and numbers", ({V: (THREE, 2), H: (REAL, 2)}, [VH, VV]), {"offsets": True}),
        ("coupled numbers", ({V: (REAL, 3)}, [VV]), {"offsets": True}),
        ("coupled numbers and bits", ({V: (REAL, 2), H: (BIT, 2)}, [VH, VV]), {"shared": (V,)}),
        (
            "numbers on a graph",
            ({V: (REAL, 3), H: (BIT, 1)}, [VH]),
            {"edges": {VV: ring_edges(3)[:2]}, "shared": (V,)},
        ),
        ("two layers of numbers", ({V: (REAL, 2), H: (REAL, 1)}, [VH]), {"build": restricted}),
        (
            "bits over numbers over numbers",
            ({V: (BIT, 2), "hidden1": (REAL, 2), "hidden2": (REAL, 1)}, [*DEEP]),
            {"offsets": True},
        ),
        (
            "all kinds",
            (
                {"a": (THREE, 1), "b": (SPIN, 2), "c": (REAL, 2)},
                [("a", "b"), ("c", "a"), ("b", "c"), ("c", "c"), ("b", "b")],
            ),
            {"offsets": True},
        ),
        ("hidden numbers, coupled", ({V: (BIT, 2), H: (REAL, 2)}, [VH, HH]), {}),
        ("rectified", ({V: (BIT, 3), H: (POSITIVE, 2)}, [VH]), {"build": restricted}),
        ("bounded numbers", ({V: (BOUNDED, 2), H: (THREE, 2)}, [VH]), {"offsets": True}),
    ]
}
# Those whose real units are jointly normal given the others.
NORMAL = {
    name: small
    for name, small in MIXED.items()
    if not set(small.units.values()) & {POSITIVE, BOUNDED}
}
