"""The mean-field posterior: a bound by brute force, monotone, and a coordinate optimum.

All of it is without randomness, in float64. Right code is off by 1e-12 at most; the smallest of the
faults planted here leaves some φ 6e-3 from its optimum, where the limit is 1e-8.
"""

import itertools
from collections.abc import Callable, Mapping
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, PairwiseTerms
from pyro_ebm.learning import MeanFieldPosterior, mean_field
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites
from pyro_ebm.units import Unit
from tests.support.machines import (
    BIT,
    DEEP,
    FOUR,
    GENERAL,
    HH,
    LEVELS,
    SPIN,
    THREE,
    VH,
    VV,
    H,
    Small,
    V,
    deep,
    draw,
    restricted,
    ring_edges,
    states_of,
    width,
)

Update = Callable[[Unit, Tensor], Tensor]

COUPLED = {
    name: draw(name, *arguments, **settings)
    for name, arguments, settings in [
        ("general", ({V: (BIT, 8), H: (BIT, 6)}, [VH, VV, HH]), {"build": GENERAL}),
        ("deep", ({V: (BIT, 6), "hidden1": (BIT, 4), "hidden2": (BIT, 4)}, DEEP), {"build": deep}),
        (
            "general with spins",
            ({V: (SPIN, 5), H: (SPIN, 5)}, [VH, VV, HH]),
            {"build": GENERAL, "scale": 0.5},
        ),
        (
            "hidden spins with offsets",
            ({V: (BIT, 5), H: (SPIN, 5)}, [VH, VV, HH]),
            {"build": GENERAL, "offsets": True, "any_square": True, "scale": 0.5},
        ),
        (
            "general with offsets",
            ({V: (BIT, 5), H: (BIT, 6)}, [VH, VV, HH]),
            {"build": GENERAL, "offsets": True, "any_square": True},
        ),
        (
            "deep with offsets",
            ({V: (SPIN, 4), "hidden1": (SPIN, 3), "hidden2": (SPIN, 4)}, DEEP),
            {"build": deep, "offsets": True, "scale": 0.7},
        ),
        (
            "hidden units on a graph",
            ({V: (BIT, 5), H: (BIT, 7)}, [VH]),
            {"edges": {HH: ring_edges(7)}, "scale": 1.5},
        ),
        (
            "coupled inside and between hidden layers",
            (
                {V: (BIT, 4), "a": (BIT, 3), "b": (SPIN, 3)},
                [(V, "a"), (V, "b"), ("a", "a"), ("a", "b"), ("b", "b")],
            ),
            {"scale": 0.7},
        ),
        (
            "hidden labels",
            ({V: (THREE, 3), H: (THREE, 4)}, [VH, VV, HH]),
            {"build": GENERAL, "offsets": True, "any_square": True, "scale": 0.7},
        ),
        (
            "deep labels",
            ({V: (BIT, 4), "hidden1": (FOUR, 2), "hidden2": (THREE, 2)}, DEEP),
            {"scale": 1.5},
        ),
    ]
}
N = 10
# In this one updates of all units at once jump between all on and all off for ever, damped or not.
OSCILLATING = Small(
    {V: BIT, H: BIT},
    {V: np.array([0.3, -0.2]), H: np.linspace(3.0, 3.3, N)},
    {VH: np.linspace(-0.5, 0.5, 2 * N).reshape(2, N), HH: -10.0 * (1 - np.eye(N))},
)
RESTRICTED = {
    "bits": draw("bits", {V: (BIT, 6), H: (BIT, 5)}, [VH], build=restricted),
    "spins": draw("spins", {V: (SPIN, 5), H: (SPIN, 5)}, [VH], build=restricted),
    "labels": draw("labels", {V: (FOUR, 3), H: (THREE, 3)}, [VH], build=restricted),
    "offsets": draw("offsets", {V: (BIT, 5), H: (BIT, 4)}, [VH], build=restricted, offsets=True),
}
ALL = {**COUPLED, "oscillating": OSCILLATING, **RESTRICTED}


class BruteForce:
    """F and its mean-field bound by sums over all hidden states, from the formula of the energy.

    Args:
        small: The machine.
        visible: Rows (rows, n).
    """

    def __init__(self, small: Small, visible: np.ndarray) -> None:
        self.small, self.visible = small, visible
        sizes = {name: size for name, size in small.sizes.items() if name != V}
        self.hidden = states_of(small.units, sizes)
        count = len(next(iter(self.hidden.values())))
        states = [{name: value[k] for name, value in self.hidden.items()} for k in range(count)]
        self.energies = np.array([[small.energy({V: v, **h}) for h in states] for v in visible])
        self.unit_of = [small.units[name] for name, size in sizes.items() for _ in range(size)]
        flat = np.concatenate(list(self.hidden.values()), -1)
        self.index = np.stack(
            [np.searchsorted(LEVELS[unit], x) for unit, x in zip(self.unit_of, flat.T, strict=True)]
        )  # (hidden units, states): which of its levels each unit has
        starts = np.cumsum([0, *(width(unit) for unit in self.unit_of)])
        self.columns = [slice(*pair) for pair in itertools.pairwise(starts)]  # of their features

    def laws(self, means: np.ndarray) -> list[np.ndarray]:  # (rows, levels) of each unit
        """The probabilities of the levels of units with these means."""
        return [law_of(u, means[:, c]) for u, c in zip(self.unit_of, self.columns, strict=True)]

    def bound(self, means: np.ndarray) -> np.ndarray:  # (rows, hidden features) -> (rows,)
        """Σ_h q(h) (E(v, h) + ln q(h))."""
        laws = zip(self.laws(means), self.index, strict=True)
        q = np.prod([law[:, index] for law, index in laws], 0)
        entropies = q * np.log(q, where=q > 0, out=np.zeros_like(q))
        return (q * self.energies + entropies).sum(-1)

    def coordinate_optimum(self, means: np.ndarray) -> np.ndarray:  # (rows, hidden features)
        """Each unit's mean in the field of all the others' means."""
        best = np.empty_like(means)
        units = list(zip(self.unit_of, self.columns, strict=True))
        for (r, row), (unit, columns) in itertools.product(enumerate(means), units):
            levels = features_of_levels(unit)
            energies = [
                self.small.energy_of_features(
                    self.named(self.visible[r], with_entry(row, columns, level))
                )
                for level in levels
            ]
            p = np.exp(np.min(energies) - energies)
            best[r, columns] = p @ levels / p.sum()
        return best

    def named(self, visible: np.ndarray, hidden: np.ndarray) -> dict[str, np.ndarray]:
        """Features by site, from values of the visible and features of the hidden units."""
        kinds = self.small.units
        sizes = [n * width(kinds[name]) for name, n in self.small.sizes.items() if name != V]
        parts = np.split(hidden, np.cumsum(sizes)[:-1])
        seen = self.small.features({V: visible})
        return {**seen, **dict(zip(self.hidden, parts, strict=True))}


def law_of(unit: Unit, means: np.ndarray) -> np.ndarray:  # (rows, width) -> (rows, levels)
    """The probabilities of the levels of a unit with these means."""
    if width(unit) > 1:
        return means
    low, high = LEVELS[unit]
    up = (means - low) / (high - low)
    return np.concatenate([1 - up, up], -1)


def features_of_levels(unit: Unit) -> np.ndarray:  # (levels, width)
    """The features of each value."""
    return np.eye(width(unit)) if width(unit) > 1 else np.array(LEVELS[unit])[:, None]


def with_entry(row: np.ndarray, columns: slice, value: np.ndarray) -> np.ndarray:
    changed = row.copy()
    changed[columns] = value
    return changed


def rows_for(small: Small, count: int = 6) -> np.ndarray:
    """Some visible states, all different where there are so many."""
    rng = np.random.default_rng(5)
    everything = states_of(small.units, {V: small.sizes[V]})[V]
    return everything[rng.permutation(len(everything))[:count]]


def flat(means: Mapping[str, Tensor]) -> np.ndarray:
    return torch.cat(list(means.values()), -1).numpy()


def infer(small: Small, visible: np.ndarray, **settings: object) -> MeanFieldPosterior:
    settings = {"tolerance": 1e-12, "max_sweeps": 3000, **settings}
    return mean_field(small.machine(), torch.tensor(visible), **settings)


def violated(small: Small) -> set[str]:
    """The laws that the posterior of a machine breaks."""
    visible = rows_for(small)
    brute, found = BruteForce(small, visible), infer(small, visible)
    means, bound = flat(found.means), found.free_energy_bound.numpy()
    laws = {
        "converges": found.change <= 1e-12,
        "bound": np.abs(bound - brute.bound(means)).max() < 1e-10,
        "coordinate optimum": np.abs(means - brute.coordinate_optimum(means)).max() < 1e-8,
        "no better neighbour": no_better_neighbour(brute, means),
        "monotone": is_monotone(small, visible),
        "below the likelihood": is_below(small, visible, found.free_energy_bound),
    }
    return {name for name, kept in laws.items() if not kept}


def no_better_neighbour(brute: BruteForce, means: np.ndarray) -> bool:
    best = brute.bound(means)
    for unit, columns in zip(brute.unit_of, brute.columns, strict=True):
        for level, step in itertools.product(features_of_levels(unit), (1e-4, 1e-2, 0.3)):
            moved = means.copy()
            moved[:, columns] += step * (level - moved[:, columns])
            if (brute.bound(moved) < best - 1e-10).any():
                return False
    return True


def is_monotone(small: Small, visible: np.ndarray) -> bool:
    """Whether the bound of F never rises from sweep to sweep, so that the ELBO never falls."""
    bounds = [infer(small, visible, max_sweeps=k).free_energy_bound for k in range(1, 12)]
    return all(bool((b <= a + 1e-12).all()) for a, b in itertools.pairwise(bounds))


def is_below(small: Small, visible: np.ndarray, bound: Tensor) -> bool:
    machine = small.machine()
    log_prob = exact.log_prob(machine, {V: torch.tensor(visible)})
    return bool((-bound - exact.log_partition(machine) <= log_prob + 1e-12).all())


@pytest.mark.parametrize("name", ALL)
def test_mean_field_keeps_its_laws(name: str) -> None:
    assert violated(ALL[name]) == set()


@pytest.mark.parametrize("name", COUPLED)
def test_going_on_from_the_means_so_far_is_the_same_as_more_sweeps(name: str) -> None:
    small = COUPLED[name]
    visible = rows_for(small)
    means: Sites | None = None
    bounds = []
    for sweeps in range(1, 6):
        found = infer(small, visible, start=means, max_sweeps=1)
        means = found.means
        at_once = infer(small, visible, max_sweeps=sweeps)
        assert found.sweeps == 1
        assert at_once.sweeps == sweeps
        np.testing.assert_allclose(flat(means), flat(at_once.means), rtol=0, atol=1e-14)
        bounds.append(found.free_energy_bound)
    assert all(bool((b <= a + 1e-12).all()) for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize("name", COUPLED)
def test_the_bound_never_rises_from_any_start(name: str) -> None:
    small = COUPLED[name]
    visible = rows_for(small)
    rng = np.random.default_rng(7)
    for _ in range(3):
        means: Sites = {}
        for site, unit in small.units.items():
            if site != V:
                p = rng.dirichlet(np.ones(len(LEVELS[unit])), (6, small.sizes[site]))
                start = p @ features_of_levels(unit)
                means[site] = torch.tensor(start.reshape(6, -1))
        last = torch.tensor(BruteForce(small, visible).bound(flat(means)))
        for _ in range(8):
            found = infer(small, visible, start=means, max_sweeps=1)
            assert bool((found.free_energy_bound <= last + 1e-12).all())
            means, last = found.means, found.free_energy_bound


@pytest.mark.parametrize("name", RESTRICTED)
def test_without_couplings_among_hidden_units_the_bound_is_the_free_energy(name: str) -> None:
    small = RESTRICTED[name]
    visible = rows_for(small)
    found = infer(small, visible)
    brute = BruteForce(small, visible)
    exactly = -np.logaddexp.reduce(-brute.energies, axis=1)
    np.testing.assert_allclose(found.free_energy_bound.numpy(), exactly, rtol=0, atol=1e-12)
    assert (found.sweeps, found.change) == (1, 0.0)


@pytest.mark.parametrize("name", ALL)
def test_rows_do_not_know_of_each_other(name: str) -> None:
    small = ALL[name]
    visible = rows_for(small)
    together = infer(small, visible)
    for r in range(len(visible)):
        alone = infer(small, visible[r : r + 1])
        np.testing.assert_allclose(flat(alone.means)[0], flat(together.means)[r], atol=1e-9)
        torch.testing.assert_close(alone.free_energy_bound[0], together.free_energy_bound[r])


def test_any_batch_shape_and_none_are_taken() -> None:
    small = COUPLED["general with spins"]
    visible = rows_for(small)
    wanted = flat(infer(small, visible).means)
    shaped = infer(small, visible.reshape(2, 3, -1))
    assert shaped.free_energy_bound.shape == (2, 3)
    np.testing.assert_allclose(flat(shaped.means).reshape(6, -1), wanted, atol=1e-9)
    single = infer(small, visible[0])
    assert single.free_energy_bound.shape == ()
    np.testing.assert_allclose(flat(single.means), wanted[0], atol=1e-9)


@pytest.mark.parametrize("name", COUPLED)
def test_float32_is_as_good_as_its_digits(name: str) -> None:
    small = COUPLED[name]
    visible = rows_for(small)
    wanted = infer(small, visible)
    start = {site: mean.float() for site, mean in wanted.means.items()}
    found = mean_field(small.machine(torch.float32), torch.tensor(visible), start=start)
    assert found.free_energy_bound.dtype == torch.float32
    assert found.change <= 1e-6
    np.testing.assert_allclose(flat(found.means), flat(wanted.means), atol=1e-5)


def test_a_loose_tolerance_stops_early_and_says_how_far_it_was() -> None:
    small = COUPLED["general"]
    visible = rows_for(small)
    loose, tight = infer(small, visible, tolerance=1e-2), infer(small, visible)
    assert loose.sweeps < tight.sweeps
    assert 1e-12 < loose.change <= 1e-2
    stopped = infer(small, visible, max_sweeps=2)
    assert stopped.sweeps == 2
    assert stopped.change > 1e-12


@pytest.mark.parametrize("name", ["general", "deep with offsets"])
def test_with_nothing_observed_it_bounds_log_z(name: str) -> None:
    small = COUPLED[name]
    machine = small.machine()
    found = mean_field(machine, {}, tolerance=1e-12)
    assert set(found.means) == set(small.units)
    assert found.free_energy_bound.shape == ()
    assert float(-found.free_energy_bound) <= float(exact.log_partition(machine))
    again = mean_field(machine, {}, start=found.means, max_sweeps=1)
    assert again.change < 1e-11


def test_machines_of_a_batch_have_posteriors_of_their_own() -> None:
    machines = [COUPLED["general"], draw("other", {V: (BIT, 8), H: (BIT, 6)}, [VH, VV, HH])]
    visible = rows_for(machines[0])
    together = BoltzmannMachine.general(
        8,
        6,
        couplings={
            pair: torch.tensor(np.stack([m.couplings[pair] for m in machines])[:, None])
            for pair in (VH, VV, HH)
        },
        biases={
            site: torch.tensor(np.stack([m.bias[site] for m in machines])[:, None])
            for site in (V, H)
        },
    )
    found = mean_field(together, torch.tensor(visible), tolerance=1e-12)
    assert found.free_energy_bound.shape == (2, 6)
    for k, small in enumerate(machines):
        alone = infer(small, visible)
        np.testing.assert_allclose(found.means[H][k].numpy(), flat(alone.means), atol=1e-9)
        torch.testing.assert_close(found.free_energy_bound[k], alone.free_energy_bound)


def test_the_machine_with_strong_couplings_settles_unit_by_unit() -> None:
    found = infer(OSCILLATING, rows_for(OSCILLATING, 4), max_sweeps=100)
    assert found.sweeps < 100
    # One unit is on, which holds the nine others off.
    np.testing.assert_allclose(flat(found.means).sum(1), 1.0, atol=0.2)


# --- planted faults ------------------------------------------------------------------------------


def outer(terms: PairwiseTerms, site: str, x: Sites) -> Tensor:
    """The field from the data alone."""
    return terms.clamped({V: x[V]}).biases[site].expand_as(x[site]).clone()


def half(terms: PairwiseTerms, site: str, x: Sites, update: Update) -> Tensor:
    return update(terms.units[site], torch.zeros_like(x[site]))


def without_coupling(terms: PairwiseTerms, site: str, x: Sites, update: Update) -> Tensor:
    return update(terms.units[site], outer(terms, site, x))


def wrong_sign(terms: PairwiseTerms, site: str, x: Sites, update: Update) -> Tensor:
    return update(terms.units[site], 2 * outer(terms, site, x) - terms.field(site, x))


def ten_per_cent(terms: PairwiseTerms, site: str, x: Sites, update: Update) -> Tensor:
    field = outer(terms, site, x)
    return update(terms.units[site], field + 0.9 * (terms.field(site, x) - field))


def in_parallel(terms: PairwiseTerms, site: str, x: Sites, update: Update) -> Tensor:
    return update(terms.units[site], terms.field(site, x))


MUTANTS = {
    "φ = ½": half,
    "J left out of φ": without_coupling,
    "J with the wrong sign": wrong_sign,
    "J a tenth too small": ten_per_cent,
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_fields_are_found(mutant: str, name: str) -> None:
    with mock.patch.object(PairwiseTerms, "sweep", MUTANTS[mutant]):
        found = violated(COUPLED[name])
    assert {"coordinate optimum", "no better neighbour"} <= found


def test_parallel_updates_are_found() -> None:
    with mock.patch.object(PairwiseTerms, "sweep", in_parallel):
        found = violated(OSCILLATING)
    assert {"converges", "monotone", "coordinate optimum"} <= found


def test_a_bound_without_its_entropy_is_found() -> None:
    def without_entropy(terms: PairwiseTerms, means: Sites, hidden: list[str]) -> Tensor:
        return terms.energy(means)

    with mock.patch.object(PairwiseTerms, "free_energy_bound", without_entropy):
        assert "bound" in violated(COUPLED["general"])
