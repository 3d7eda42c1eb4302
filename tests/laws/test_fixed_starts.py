"""Every discrete kernel × every kind of energy: chains from one state come to follow the law.

Exact draws stay exact draws where nothing moves; chains that all start in the rarest state do not.
Each cell of the table is one of these: its law is reached, or a refusal by name.

α = 1e-6 for each cell, N = 2,000 chains: a law at χ² distance 0.04 is found 99 times of 100. For
these energies that is one that is 1.5 times as strong, or a unit that stands still.
"""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Graph,
    Layer,
    RandomField,
    TableFactors,
    clamp,
    interpolate,
)
from pyro_ebm.kernels import (
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    Mixture,
    ParallelTempering,
    RandomBlocks,
    SwendsenWang,
    TemperedTransitions,
    Wolff,
    advance,
    run,
)
from pyro_ebm.kernels.discrete import alphabets
from pyro_ebm.sites import Site, boolean
from pyro_ebm.units import Bernoulli, Categorical, Spin, Unit
from tests.support.finite import Table, after
from tests.support.goodness import ALPHA
from tests.support.listed_unit import binomial
from tests.support.outcomes import matrix_of, violation_of

CHAINS = 2000
INF = math.inf


def waves(*shape: int, step: float = 1.0, scale: float = 1.0) -> Tensor:
    """Numbers of either sign, none like another."""
    count = math.prod(shape)
    return scale * (step * (1 + torch.arange(count, dtype=torch.float64))).sin().reshape(shape)


# --- energies ------------------------------------------------------------------------------------
def chain_of(unit: Unit, n: int, couplings: Tensor, scale: float = 0.8) -> BoltzmannMachine:
    """A machine on a path."""
    layer = Layer(unit, n, bias=waves(n * unit.width, step=2.0, scale=scale))
    path = Graph([(i, i + 1) for i in range(n - 1)], couplings)
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): path})


def ferromagnet() -> BoltzmannMachine:
    """Four spins in a positive field."""
    layer = Layer(Spin(), 4, bias=torch.full((4,), 0.1, dtype=torch.float64))
    ring = Graph([(0, 1), (1, 2), (2, 3), (0, 3)], torch.tensor([0.5, 0.3, 0.4, 0.6]).double())
    return BoltzmannMachine({"visible": layer}, {("visible", "visible"): ring})


def restricted() -> BoltzmannMachine:
    return BoltzmannMachine.restricted(3, 2, couplings=waves(3, 2, scale=1.2))


def labelled() -> BoltzmannMachine:
    """Two units of three labels, and a bit."""
    layers = {
        "visible": Layer(Categorical(3), 2, bias=waves(6, step=2.0)),
        "hidden": Layer(Bernoulli(), 1, bias=waves(1)),
    }
    return BoltzmannMachine(layers, {("visible", "hidden"): waves(6, 1, step=1.7)})


def field(states: list[int], *forbidden: tuple[int, int], scale: float = 1.0) -> RandomField:
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


def plain(states: list[int], *forbidden: int) -> RandomField:
    """Two nodes with nothing but a pair that is forbidden: tables of zeros."""
    table = torch.zeros(1, *states, dtype=torch.float64)
    if forbidden:
        table[(0, *forbidden)] = -INF
    return RandomField(states, {"pair": TableFactors([[0, 1]], table)})


def ternary() -> RandomField:
    """A factor of three nodes, of which one combination cannot be."""
    table = waves(1, 2, 3, 2, step=0.9)
    table[0, 1, 2, 1] = -INF
    return RandomField([2, 3, 2], {"all": TableFactors([[0, 1, 2]], table)})


def of_bits(x: Tensor) -> Tensor:
    return 1.5 * x.prod(-1) + (x @ waves(3).to(x)).sin() - x[..., 0] * x[..., 2]


def of_places(x: Tensor) -> Tensor:
    one, other = x[..., 0, :], x[..., 1, :]
    both = (one * other) @ waves(3, scale=0.7).to(x)
    return both + (x * waves(2, 3, step=2.0).to(x)).sum((-1, -2))


def of_labels(x: Tensor) -> Tensor:
    return (x[..., 0] - x[..., 1]).abs() / 2 + (2 * x.sum(-1)).sin() - 0.3 * x[..., -1]


def function(f: Callable[[Tensor], Tensor], support: Any, *shape: int) -> CallableEnergy:
    site = Site(support, torch.Size(shape))
    return CallableEnergy(f, {"visible": site}, dtype=torch.float64)


def bits(f: Callable[[Tensor], Tensor] = of_bits) -> CallableEnergy:
    return function(f, boolean, 3)


def labels(upper: Any) -> CallableEnergy:
    return function(of_labels, constraints.integer_interval(0, upper), 3)


def forbidding() -> RandomField:
    return field([3, 3, 2], (1, 1), (2, 0), scale=0.4)


HELD = torch.tensor([True, False, False])
MIXED = [2, 3, 2]
ENERGIES: dict[str, Callable[[], Energy]] = {
    "machine of bits": restricted,
    "machine of spins": lambda: chain_of(Spin(), 4, waves(3)),
    "machine of labels": labelled,
    "machine of counts": lambda: chain_of(binomial(2), 3, waves(2, scale=0.5), scale=0.4),
    "ferromagnet": ferromagnet,
    "field": lambda: field([3, 3, 3]),
    "field of mixed labels": lambda: field(MIXED),
    "field of nothing, 2 and 3": lambda: plain([2, 3]),
    "2 × 2, one forbidden": lambda: plain([2, 2], 1, 1),
    "3 × 3, one forbidden": lambda: plain([3, 3], 2, 2),
    "field with forbidden pairs": forbidding,
    "field of three at a time": ternary,
    "function of bits": bits,
    "function of one-hot units": lambda: function(of_places, constraints.one_hot, 2, 3),
    "function of labels": lambda: labels(2),
    "function of mixed labels": lambda: labels(torch.tensor([1, 2, 1])),
    "weighted machine": lambda: 0.6 * restricted(),
    "weighted field": lambda: 0.5 * forbidding(),
    "weighted function": lambda: 0.7 * bits(),
    "machine held in part": lambda: clamp(
        chain_of(Spin(), 4, waves(3)), torch.ones(4), mask=torch.tensor([False, True, False, False])
    ),
    "counts held in part": lambda: clamp(
        chain_of(binomial(2), 3, waves(2, scale=0.5)), 2 * torch.ones(3), mask=HELD
    ),
    "field held in part": lambda: clamp(field([3, 3, 3]), torch.ones(3), mask=HELD),
    "mixed field held in part": lambda: clamp(forbidding(), torch.ones(3), mask=HELD),
    "field held in part by rows": lambda: clamp(
        forbidding(), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]), mask=HELD
    ),
    "function held in part": lambda: clamp(labels(2), torch.ones(3), mask=HELD),
    "machine between two": lambda: interpolate(restricted(), 2.0 * restricted(), 0.4),
    "field between two": lambda: interpolate(field(MIXED), field(MIXED, (0, 1)), 0.3),
    "sum of fields": lambda: field(MIXED) + field(MIXED, (1, 1), scale=0.5),
    "field and function": lambda: field(MIXED) + labels(torch.tensor([1, 2, 1])),
}

# --- kernels -------------------------------------------------------------------------------------
LADDER = (0.0, 0.5, 1.0)
LOCAL = RandomBlocks(size=2)
# With the steps after which nothing is seen of the start.
KERNELS: dict[str, tuple[Kernel, int]] = {
    "Gibbs": (Gibbs(), 30),
    "GibbsWithGradients": (GibbsWithGradients(), 60),
    "DiscreteLangevin": (DiscreteLangevin(step_size=1.0), 60),
    "RandomBlocks": (LOCAL, 30),
    "SwendsenWang": (SwendsenWang(), 40),
    "Wolff": (Wolff(), 60),
    "tempered Gibbs": (ParallelTempering(Gibbs(), LADDER), 30),
    "tempered gradients": (ParallelTempering(GibbsWithGradients(), LADDER), 60),
    "tempered Langevin": (ParallelTempering(DiscreteLangevin(step_size=1.0), LADDER), 60),
    "tempered blocks": (ParallelTempering(LOCAL, LADDER), 30),
    "tempered transitions": (TemperedTransitions(GibbsWithGradients(), (0.3, 0.6, 1.0)), 30),
    "cycle": (Cycle((GibbsWithGradients(), LOCAL)), 30),
    "mixture": (Mixture((DiscreteLangevin(step_size=1.0), LOCAL)), 60),
}
QUICK = ("Gibbs", "GibbsWithGradients", "DiscreteLangevin", "RandomBlocks", "SwendsenWang", "Wolff")
QUICKLY = ("weighted field", "mixed field held in part", "function of one-hot units")
BY_GRADIENT = ("Gradients", "gradients", "Langevin", "transitions", "cycle", "mixture")
WITH_ALPHABET = ("function of bits", "function of one-hot units", "weighted function")
FRUSTRATED = ("machine of bits", "machine of spins", "weighted machine", "machine between two")


def refusal(kernel: str, energy: str) -> str | None:
    """What a cell says that has no law; None for the others."""
    if kernel in ("SwendsenWang", "Wolff"):
        if energy in FRUSTRATED:
            return "frustrated"
        suited = energy in ("ferromagnet", "machine held in part")
        return None if suited else "moves machines of bits or spins"
    if kernel.startswith("tempered"):
        if "counts" in energy:
            return "A weighted sum of potentials"  # as the unit says
        if "rows" in energy and kernel != "tempered transitions":
            return "one law for"
    if "function" not in energy:
        return None
    if kernel.endswith("Gibbs"):
        return "which [A-Za-z]+ does not know"
    unsloped = kernel.endswith(BY_GRADIENT) and energy not in WITH_ALPHABET
    return "moves bits, spins, one-hot units, and labels of machines" if unsloped else None


def cells() -> list[Any]:
    """Every kernel with every energy; what takes long together is slow."""
    return [
        pytest.param(
            kernel, energy, marks=() if kernel in QUICK or energy in QUICKLY else pytest.mark.slow
        )
        for kernel in KERNELS
        for energy in ENERGIES
    ]


@pytest.mark.parametrize(("kernel", "energy"), cells())
def test_chains_from_the_rarest_state_come_to_follow_the_law(kernel: str, energy: str) -> None:
    table, (moves, steps) = Table.of(ENERGIES[energy]()), KERNELS[kernel]
    if message := refusal(kernel, energy):
        with pytest.raises((TypeError, ValueError), match=message):
            moves.init(table.energy, table.rarest(3))
        return
    assert after(moves, table, table.rarest(CHAINS), steps, seed=1) > ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "energy"), cells())
def test_exact_draws_stay_exact_draws(kernel: str, energy: str) -> None:
    if refusal(kernel, energy):
        pytest.skip("refused by name")
    table, (moves, _) = Table.of(ENERGIES[energy]()), KERNELS[kernel]
    for steps in (1, 4, 16):
        torch.manual_seed(2)
        assert after(moves, table, table.exact(CHAINS), steps, seed=3) > ALPHA / 3


# --- without randomness: what was never reached --------------------------------------------------
NEVER_MOVED = (
    "field of nothing, 2 and 3",
    *("2 × 2, one forbidden", "3 × 3, one forbidden", "field of three at a time"),
    *("field of mixed labels", "field with forbidden pairs", "mixed field held in part"),
    *("weighted field", "field between two", "sum of fields", "counts held in part"),
)


def violations(kernel: Kernel, name: str) -> set[str]:
    table = Table.of(ENERGIES[name]())
    possible = table.laws > 0
    states = {site: value[possible] for site, value in table.x.items()}

    def step(x: dict[str, Tensor]) -> dict[str, Tensor]:
        return kernel.step(table.energy, kernel.init(table.energy, x))[0].x

    return violation_of(matrix_of(step, states), table.laws[possible]).found()


@pytest.mark.parametrize("kernel", ["GibbsWithGradients", "DiscreteLangevin"])
@pytest.mark.parametrize("energy", NEVER_MOVED)
def test_every_state_is_reached_and_the_law_left_unchanged(energy: str, kernel: str) -> None:
    # Right kernels give |πT − π| of 1e-16; the limit is 1e-12.
    assert not violations(KERNELS[kernel][0], energy)


@pytest.mark.parametrize("kernel", [Gibbs(), GibbsWithGradients(), RandomBlocks(size=1)])
def test_where_nothing_is_possible_chains_stay(kernel: Kernel) -> None:
    only = torch.full((1, 2, 3), -INF, dtype=torch.float64)
    only[0, 1, 2] = 0
    energy = RandomField([2, 3], {"pair": TableFactors([[0, 1]], only)})
    possible = {"visible": torch.tensor([[1.0, 2.0]]).expand(5, 2).double()}
    state = advance(kernel, energy, kernel.init(energy, possible), 20)
    assert torch.equal(state.x["visible"], possible["visible"])
    if isinstance(kernel, Gibbs):
        return  # which refuses the other start
    # Two changes away from what is possible, every change is impossible.
    impossible = {"visible": torch.zeros(5, 2).double()}
    state = advance(kernel, energy, kernel.init(energy, impossible), 20)
    assert torch.equal(state.x["visible"], impossible["visible"])


# --- mutants -------------------------------------------------------------------------------------
MUTANTS = {  # an energy that each kernel moves
    **dict.fromkeys(KERNELS, "field with forbidden pairs"),
    **dict.fromkeys(("SwendsenWang", "Wolff"), "ferromagnet"),
}


def too_strong(kernel: str, seed: int) -> float:
    """The p-value of chains that follow 1.5 times the energy."""
    energy = ENERGIES[MUTANTS[kernel]]
    table, (moves, steps) = Table.of(energy()), KERNELS[kernel]
    stronger = Table(1.5 * energy(), table.x, table.laws)
    return after(moves, stronger, table.rarest(CHAINS), steps, seed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_energy_that_is_too_strong_is_found(kernel: str) -> None:
    assert too_strong(kernel, 1) < ALPHA


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_energy_that_is_too_strong_is_found_nearly_always(kernel: str) -> None:
    assert sum(too_strong(kernel, seed) < ALPHA for seed in range(20)) >= 19


@pytest.mark.parametrize("kernel", ["GibbsWithGradients", "DiscreteLangevin"])
def test_a_product_of_nothing_and_infinity_is_found(kernel: str) -> None:
    def faulty(heights: Tensor, place: Tensor) -> Tensor:
        present = torch.nn.functional.one_hot(place, heights.shape[-1]).to(heights)
        return heights - (heights * present).sum(-1, keepdim=True)

    with mock.patch.object(alphabets, "relative", faulty):
        for energy in ("2 × 2, one forbidden", "3 × 3, one forbidden"):
            table, (moves, steps) = Table.of(ENERGIES[energy]()), KERNELS[kernel]
            assert after(moves, table, table.rarest(CHAINS), steps, seed=1) < ALPHA


@pytest.mark.parametrize("kernel", [GibbsWithGradients(), DiscreteLangevin(step_size=1.0)])
def test_labels_without_couplings_are_moved_in_every_chain(kernel: Kernel) -> None:
    machine = BoltzmannMachine({"x": Layer(Categorical(3), 2)})
    chains = run(kernel, machine, 50, warmup=0, chains=5, seed=0)
    assert bool((chains.draws["x"].long().diff(dim=1) != 0).flatten(1).any(1).all())
