"""The walk on integers leaves laws of counts unchanged, by its transition matrix, and reaches them.

Right kernels give |πT − π| of 1e-16; the faults planted here give more than 1e-3.
"""

import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import CallableEnergy, Energy
from pyro_ebm.kernels import (
    Cycle,
    DenseMass,
    DiagonalMass,
    IntegerWalk,
    Kernel,
    choose_kernel,
    run,
    warmup,
)
from pyro_ebm.kernels.continuous.mass import Mass
from pyro_ebm.kernels.discrete import integer_walk
from pyro_ebm.kernels.settings import Length
from pyro_ebm.sites import Site, Sites
from tests.support.goodness import ALPHA, CHAINS, chi_square
from tests.support.outcomes import Draws, matrix_of, violation_of

FARTHEST = 7  # steps beyond which leave the supports from everywhere


def site(support: constraints.Constraint, *shape: int) -> Site:
    return Site(support, torch.Size(shape))


def double(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def poisson(n: Tensor) -> Tensor:
    """Up to 6 alone: beyond, it is impossible."""
    return (n * math.log(3.0) - torch.lgamma(n + 1)).neg().masked_fill(n > 6, torch.inf)


def pair(n: Tensor) -> Tensor:
    return 0.3 * (n[..., 0] - n[..., 1]).square() + 0.4 * n.sum(-1).cos()


def two_sites(n: Tensor, m: Tensor) -> Tensor:
    return 0.5 * (n - m).square() - 0.7 * m + 0.1 * m**3


def below(n: Tensor) -> Tensor:
    return -0.8 * n + torch.where(n < -5, torch.inf, 0.0)


NONE, SOME = constraints.nonnegative_integer, constraints.integer_interval(-2, 2)
BELOW = constraints._IntegerLessThan(-1)  # torch gives it no public name
ENERGIES: dict[str, tuple[Callable[..., Tensor], dict[str, Site], Sites]] = {
    "a count": (poisson, {"n": site(NONE)}, {"n": torch.arange(7.0).double()}),
    "two units": (
        pair,
        {"n": site(SOME, 2)},
        {"n": torch.cartesian_prod(*[torch.arange(-2.0, 3).double()] * 2)},
    ),
    "two sites": (
        two_sites,
        {"n": site(SOME), "m": site(constraints.integer_interval(0, 2))},
        dict(
            zip(
                ("n", "m"),
                torch.cartesian_prod(
                    torch.arange(-2.0, 3).double(), torch.arange(3.0).double()
                ).unbind(-1),
                strict=True,
            )
        ),
    ),
    "an upper bound": (below, {"n": site(BELOW)}, {"n": torch.arange(-5.0, 0).double()}),
}
KERNELS: dict[str, Callable[[Energy], Kernel]] = {
    "short": lambda _: IntegerWalk(scale=0.4),
    "long": lambda _: IntegerWalk(scale=3.0),
    "with a mass": lambda energy: IntegerWalk(scale=1.0, mass=DiagonalMass(variances(energy))),
    "site by site": lambda energy: Cycle(
        tuple(IntegerWalk((name,), scale=1.5) for name in energy.sites)
    ),
}


def variances(energy: Energy) -> Tensor:
    count = sum(own.shape.numel() for own in energy.sites.values())
    return 0.5 + torch.arange(count, dtype=torch.float64)


def energy_of(name: str) -> tuple[Energy, Sites, Tensor]:
    """The energy, its states and its law."""
    function, sites, states = ENERGIES[name]
    energy = CallableEnergy(function, sites, dtype=torch.float64)
    return energy, states, (-energy(states)).softmax(0)


def step_law(deviation: float) -> np.ndarray:
    """P(d), d = −7…7, of a normal number rounded at random: φ_σ folded with a triangle."""
    z = np.arange(-FARTHEST - 1, 2) / deviation
    twice = z * stats.norm.cdf(z) + stats.norm.pdf(z)  # the second integral of the density
    left = deviation * np.diff(twice, 2)  # up to d = 0; beyond, numbers would cancel
    return np.append(left, left[-2::-1])


Displacement = Callable[[Mass, Length, Tensor], Tensor]


def forced(draws: Draws, law: Callable[[float], np.ndarray]) -> Displacement:
    """In place of `displacement`: all steps, with their probabilities."""

    def displacement(mass: Mass, scale: Length, like: Tensor) -> Tensor:
        outcome = draws.next(like[0].numel(), 2 * FARTHEST + 1)
        own = getattr(mass, "scale", None)
        deviations = float(scale) * (torch.ones(outcome.shape[1]) if own is None else own)
        tables = [torch.tensor(law(float(one))) for one in deviations]
        # Longer steps leave the supports, as the longest listed ones do.
        tables = [
            t + (1 - t.sum()).clamp_min(0) / 2 * torch.eye(len(t)).double()[[0, -1]].sum(0)
            for t in tables
        ]
        chosen = [t.log()[k] for t, k in zip(tables, outcome.unbind(1), strict=True)]
        draws.weighed(torch.stack(chosen).sum(0))
        return (outcome - FARTHEST).reshape(like.shape).to(like)

    return displacement


def violations(
    name: str, kind: str, law: Callable[[float], np.ndarray] = step_law
) -> tuple[set[str], Tensor, Tensor]:
    """What a step of the kernel's own code violates, its matrix, and π."""
    energy, states, pi = energy_of(name)
    kernel = KERNELS[kind](energy)
    current: list[Draws] = []
    remember = Draws.__init__

    def begin(draws: Draws, rows: int) -> None:
        remember(draws, rows)
        current.append(draws)

    def step(x: Sites) -> Sites:
        with mock.patch.object(integer_walk, "displacement", forced(current[-1], law)):
            return kernel.step(energy, kernel.init(energy, x))[0].x

    with mock.patch.object(Draws, "__init__", begin):
        matrix = matrix_of(step, states)
    return violation_of(matrix, pi).found(), matrix, pi


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ENERGIES)
def test_the_law_is_left_unchanged_and_reached_from_anywhere(name: str, kind: str) -> None:
    found, matrix, pi = violations(name, kind)
    assert not found
    reached = torch.linalg.matrix_power(matrix, 2000)
    assert float((reached - pi).abs().max()) < 1e-6  # from every fixed start


def uneven(deviation: float) -> np.ndarray:
    """A step that is rounded down: one to the left is likelier than one to the right."""
    return np.diff(stats.norm.cdf(np.arange(-FARTHEST, FARTHEST + 2) / deviation))


@pytest.mark.parametrize("name", ENERGIES)
def test_steps_that_are_uneven_are_found(name: str) -> None:
    assert "stationary" in violations(name, "long", uneven)[0]


@pytest.mark.parametrize("name", ENERGIES)
def test_a_test_that_forgets_the_bounds_or_doubles_the_energy_is_found(name: str) -> None:
    right = integer_walk.metropolis
    with mock.patch.object(integer_walk, "metropolis", lambda ratio: right(2 * ratio)):
        assert "stationary" in violations(name, "long")[0]


@pytest.mark.parametrize("deviation", [0.1, 0.7, 4.0])
def test_a_step_is_a_normal_number_rounded_at_random(deviation: float) -> None:
    """200,000 steps at α = 1e-6: a law at the χ² distance 3e-4 is found."""
    like = torch.zeros(100_000, 2, dtype=torch.float64)
    found = integer_walk.displacement(DiagonalMass(torch.full((2,), 0.25).double()), 2.0, like)
    assert found.shape == like.shape
    mass = DiagonalMass(torch.full((2,), deviation**2).double())
    steps = integer_walk.displacement(mass, 1.0, like).flatten()
    law = step_law(deviation)
    counts = np.array([float((steps == d).sum()) for d in range(-FARTHEST, FARTHEST + 1)])
    law, counts = np.append(law, 1 - law.sum()), np.append(counts, len(steps) - counts.sum())
    assert chi_square(counts, law) > ALPHA
    assert chi_square(counts, np.append(uneven(deviation), 0.0) + 1e-12) < ALPHA


def test_a_dense_mass_is_even_too() -> None:
    """A step and its opposite come as often: 200,000 of them, six standard errors."""
    mass = DenseMass(torch.tensor([[2.0, -1.0], [-1.0, 1.5]]).double())
    steps = integer_walk.displacement(mass, 1.0, torch.zeros(200_000, 2).double())
    for step in ([1.0, 0.0], [1.0, -1.0], [2.0, -1.0], [0.0, 3.0]):
        there = float((steps == double(step)).all(-1).sum())
        back = float((steps == -double(step)).all(-1).sum())
        assert abs(there - back) < 6 * math.sqrt(there + back)


@pytest.mark.parametrize("start", ["exact", "fixed"])
@pytest.mark.parametrize("name", ENERGIES)
def test_chains_follow_the_law_from_an_exact_and_from_a_fixed_start(name: str, start: str) -> None:
    """α = 1e-6, 20,000 chains; what it finds is said in test_exact_starts.py."""
    energy, states, pi = energy_of(name)
    chosen = torch.multinomial(pi, CHAINS, replacement=True)
    if start == "fixed":
        chosen = torch.zeros(CHAINS, dtype=torch.int64)
    x = {own: value[chosen] for own, value in states.items()}
    steps = 4 if start == "exact" else 200
    kernel = IntegerWalk(scale=2.0)
    found = run(kernel, energy, 1, warmup=steps, initial=x, seed=5).last
    rows = torch.cat([value.reshape(CHAINS, -1) for value in found.values()], 1)
    listed = torch.cat([value.reshape(len(pi), -1) for value in states.values()], 1)
    counts = torch.stack([(rows == row).all(-1).sum() for row in listed]).double()
    assert chi_square(counts.numpy(), pi.numpy()) > ALPHA


# --- the warm-up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.05, 3.0, 3000.0])
def test_the_warm_up_finds_a_scale_for_counts_of_any_size(rate: float) -> None:
    def counts(n: Tensor) -> Tensor:
        return (torch.lgamma(n + 1) - n * math.log(rate)).sum(-1)

    energy = CallableEnergy(counts, {"n": site(NONE, 2)}, dtype=torch.float64)
    chains = run(IntegerWalk(), energy, 500, warmup=500, chains=32, seed=1)
    accepted = float(chains.statistics["acceptance_rate"].mean())
    assert 0.2 < accepted < 0.6
    # Six standard errors of some 1,000 independent draws at least.
    mean = chains.draws["n"].double().mean()
    assert abs(float(mean) - rate) < 6 * math.sqrt(rate / 1000)
    assert "scale" in chains.attributes


def test_units_of_different_sizes_have_steps_of_their_own() -> None:
    rates = double([1.0, 10_000.0])

    def counts(n: Tensor) -> Tensor:
        return (torch.lgamma(n + 1) - n * rates.log()).sum(-1)

    energy = CallableEnergy(counts, {"n": site(NONE, 2)}, dtype=torch.float64)
    x = {"n": torch.poisson(rates.expand(32, 2))}
    kernel, _ = warmup(IntegerWalk(), energy, x, steps=500, seed=0)
    assert isinstance(kernel, IntegerWalk)
    assert isinstance(kernel.mass, DiagonalMass)
    assert kernel.mass.scale is not None
    small, large = kernel.mass.scale.tolist()
    assert 20 < large / small < 500  # 100


# --- who chooses it, and what it refuses ---------------------------------------------------------


def test_counts_and_wide_ranges_walk_by_default() -> None:
    wide = constraints.integer_interval(0, 10_000)
    few = constraints.integer_interval(0, 20)
    energy = CallableEnergy(
        lambda count, wide, few: (count + wide + few - 30).square() / 50,
        {"count": site(NONE), "wide": site(wide), "few": site(few)},
        dtype=torch.float64,
    )
    kernel = choose_kernel(energy)
    assert isinstance(kernel, Cycle)
    names = [(type(k).__name__, getattr(k, "sites", None)) for k in kernel.kernels]
    assert names == [
        ("RandomBlocks", ("few",)),
        ("IntegerWalk", ("count",)),
        ("IntegerWalk", ("wide",)),
    ]
    x = {name: torch.full((4,), 10.0) for name in energy.sites}
    run(kernel, energy, 2, warmup=10, initial=x, seed=0)


BAD: dict[str, tuple[IntegerWalk, str]] = {
    "no integers": (IntegerWalk(("bit",), scale=1.0), "'bit' is {0, 1}"),
    "an unknown site": (IntegerWalk(("m",), scale=1.0), r"to move \['m'\]"),
    "a name twice": (IntegerWalk(("n", "n"), scale=1.0), "every name once"),
    "a bare name": (IntegerWalk("n", scale=1.0), "tuple of names"),  # type: ignore[arg-type]
    "no scale": (IntegerWalk(), "has no scale yet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_it_cannot_move_is_refused(name: str) -> None:
    energy = CallableEnergy(
        lambda n, bit: n + bit, {"n": site(NONE), "bit": site(constraints.boolean)}
    )
    kernel, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        kernel.init(energy, {"n": torch.zeros(2), "bit": torch.zeros(2)})


def test_an_energy_without_integers_is_refused() -> None:
    energy = CallableEnergy(lambda x: x.square(), {"x": site(constraints.real)})
    with pytest.raises(ValueError, match="moves integers, but the energy has only"):
        IntegerWalk(scale=1.0).init(energy, {"x": torch.zeros(2)})
