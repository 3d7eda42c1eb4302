"""Tempered transitions by their matrices; annealing and descent against enumerated minima."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, Energy, Layer, ModelEnergy, clamp
from pyro_ebm.energies.composition.path import Path
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    Langevin,
    Mixture,
    RandomBlocks,
    TemperedTransitions,
    resume,
    run,
    warmup,
)
from pyro_ebm.kernels.composite import tempered_transitions
from pyro_ebm.kernels.composite.cycle import OneOf
from pyro_ebm.kernels.discrete import random_blocks
from pyro_ebm.kernels.discrete.alphabets import change_one
from pyro_ebm.minima import Annealed, anneal, descend, mode
from pyro_ebm.partition import exact
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin, TruncatedGaussian
from tests.support.checks import random_states
from tests.support.goodness import ALPHA, from_exact_start
from tests.support.machines import SMALL, draw, ring_edges, varied
from tests.support.outcomes import matrix_of, violation_of

V, H = "visible", "hidden"
BETAS = (0.2, 0.6, 1.0)


def cosine(bits: Tensor) -> Tensor:
    """Two bits, in no way linear."""
    return 2 * (bits[..., 0] + 3 * bits[..., 1]).cos() + bits.prod(-1)


def restricted() -> BoltzmannMachine:
    return draw("tempered", {V: (Bernoulli(), 1), H: (Spin(), 1)}, [(V, H)], scale=2.0).machine()


def no_machine() -> CallableEnergy:
    return CallableEnergy(cosine, {V: Site(boolean, torch.Size([2]))}, dtype=torch.float64)


def independent() -> BoltzmannMachine:
    bias = torch.tensor([0.8], dtype=torch.float64)
    return BoltzmannMachine({V: Layer(Bernoulli(), 1, bias=bias), H: Layer(Spin(), 1, bias=-bias)})


CASES: dict[str, tuple[Kernel, Callable[[], Energy], Callable[[], Energy] | None]] = {
    "gibbs": (Gibbs(), restricted, None),
    "gibbs in the other order": (Gibbs((H, V)), restricted, None),
    "gibbs from a reference": (Gibbs(), restricted, independent),
    "gradients": (GibbsWithGradients(), restricted, independent),
    "no machine": (GibbsWithGradients(), no_machine, None),
    "blocks": (RandomBlocks(size=1), no_machine, None),
    "one of two": (Mixture((Gibbs(), GibbsWithGradients())), restricted, independent),
    "one of two, blocks": (Mixture((RandomBlocks(size=1), Gibbs())), restricted, None),
}


def states_of(energy: Energy) -> Sites:
    """All states of two units."""
    flat = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)
    if len(energy.sites) == 1:
        return {V: flat}
    return {V: flat[:, :1], H: 2 * flat[:, 1:] - 1}


@contextmanager
def chosen_in_turn() -> Iterator[None]:
    """What is chosen for all chains at once is now one, now the other.

    Where the law is left unchanged by such a step, chains that share the choices are independent.
    """
    turns, blocks = itertools.cycle([0, 1]), itertools.cycle([[0], [1]])

    def chosen(mixture: Mixture) -> OneOf:
        return OneOf(mixture.kernels, next(turns))

    def block(units: int, size: int) -> list[int]:
        return next(blocks)

    with (
        mock.patch.object(Mixture, "drawn", chosen),
        mock.patch.object(random_blocks, "drawn_block", block),
    ):
        yield


def violations(case: str) -> set[str]:
    kernel, build, reference = CASES[case]
    energy = build()
    tempered = TemperedTransitions(kernel, BETAS, reference() if reference else None)
    states = states_of(energy)

    def step(x: Sites) -> Sites:
        state, _ = tempered.step(energy, tempered.init(energy, x))
        torch.testing.assert_close(state.energy, energy(state.x))
        return state.x

    law = (-energy(states)).softmax(0)
    with chosen_in_turn():
        return violation_of(matrix_of(step, states), law).found()


@pytest.mark.parametrize("case", CASES)
def test_the_law_is_left_unchanged(case: str) -> None:
    assert not violations(case)


def forward_again(kernel: Kernel, energy: Energy) -> Kernel:
    return kernel


right_between = Path.between


def without_its_difference(reference: Energy | None, energy: Energy) -> Path:
    return replace(right_between(reference, energy), difference=energy)


FAULTS: dict[str, Callable[[], Any]] = {
    "inverted ratio": lambda: patched_ratio(-1),
    "always accepted": lambda: patched_ratio(0),
    "half the ratio": lambda: patched_ratio(0.5),
    "Gibbs not turned round": lambda: mock.patch.object(
        tempered_transitions, "reverse_of", forward_again
    ),
    "the reference forgotten": lambda: mock.patch.object(Path, "between", without_its_difference),
}
right_metropolis = tempered_transitions.metropolis


def patched_ratio(factor: float) -> Any:
    return mock.patch.object(
        tempered_transitions, "metropolis", lambda log_ratio: right_metropolis(factor * log_ratio)
    )


@pytest.mark.parametrize("case", ["blocks", "one of two", "one of two, blocks"])
def test_other_choices_on_the_way_back_are_found(case: str) -> None:
    def own_way(kernel: Kernel, energy: Energy, number: int) -> tuple[Kernel, Kernel]:
        return kernel, tempered_transitions.reverse_of(kernel, energy)

    with mock.patch.object(tempered_transitions, "both_ways", own_way):
        assert "stationary" in violations(case)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_transition_matrix_finds_a_fault(fault: str) -> None:
    with FAULTS[fault]():
        assert "stationary" in violations("gibbs from a reference")


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("restricted with spins", Gibbs()),
        pytest.param("torus", DiscreteLangevin(step_size=1.0), marks=pytest.mark.slow),
    ],
)
def test_exact_draws_stay_exact_draws(name: str, kernel: Kernel) -> None:
    # α = 1e-6, N = 20,000; what it finds is said in test_exact_starts.py.
    small = SMALL[name]
    tempered = TemperedTransitions(kernel, (0.3, 0.6, 1.0))
    assert from_exact_start(small.machine(), tempered, small, seed=2) > ALPHA


def test_tempered_transitions_cross_a_barrier() -> None:
    # Wells at ±4 whose barrier is 32 nats.
    wells = CallableEnergy(lambda x: (x.square() - 16).square().sum(-1) / 8, 1)
    easy = CallableEnergy(lambda x: x.square().sum(-1) / 50, 1)
    betas = tuple(torch.linspace(0, 1, 21).square().tolist())
    kernel = TemperedTransitions(MALA(step_size=0.2), betas, easy)
    start = torch.full((64, 1), 4.0)
    chains = run(kernel, wells, 12, warmup=0, initial=start, seed=1)
    left = (chains.draws[V] < 0).float().mean()
    assert 0.01 < float(left) < 0.99  # from all the chains on one side
    assert 0 < float(chains.statistics["acceptance_rate"].mean()) < 1


def test_refresh_takes_new_parameters_and_values() -> None:
    small = SMALL["restricted"]
    machine, other = small.machine(), varied(small, np.random.default_rng(1)).machine()
    kernel = TemperedTransitions(Gibbs(), BETAS)
    state = kernel.init(machine, random_states(machine, (4,)))
    x = random_states(machine, (4,))
    new = kernel.refresh(other, state, x)
    torch.testing.assert_close(new.energy, other(x))
    state, _ = kernel.step(other, new)
    torch.testing.assert_close(state.energy, other(state.x))


def test_runs_resume_bit_for_bit() -> None:
    machine = SMALL["restricted"].machine()
    kernel = TemperedTransitions(Gibbs(), BETAS)
    whole = run(kernel, machine, 20, warmup=2, chains=3, seed=1)
    parts = resume(run(kernel, machine, 12, warmup=2, chains=3, seed=1), machine, 8)
    assert all(torch.equal(whole.draws[site], parts.draws[site]) for site in whole.draws)


@pytest.mark.parametrize(
    "kernel",
    [
        Gibbs(),
        Cycle((Gibbs((V,)),)),
        Mixture((GibbsWithGradients(), Gibbs())),
        Mixture((GibbsWithGradients(), Mixture((Gibbs(),)))),
        TemperedTransitions(GibbsWithGradients(), BETAS),
    ],
)
def test_what_has_no_reverse_is_refused(kernel: Kernel) -> None:
    machine = SMALL["torus"].machine()
    with pytest.raises(ValueError, match="reverse"):
        TemperedTransitions(kernel, BETAS).init(machine, random_states(machine, (2,)))


def test_bad_ladders_and_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="rising"):
        TemperedTransitions(Gibbs(), (1.0, 0.5))
    with pytest.raises(TypeError, match="wanted a kernel"):
        TemperedTransitions(None, BETAS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reference is 'x'; wanted an energy"):
        TemperedTransitions(Gibbs(), BETAS, "x")  # type: ignore[arg-type]
    real = CallableEnergy(lambda x: x.square().sum(-1), 2)
    start = {V: torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="no Metropolis test"):
        TemperedTransitions(Langevin(), BETAS).init(real, start)
    for kernel in (HMC(), Mixture((MALA(step_size=0.1), HMC()))):
        with pytest.raises(ValueError, match="no trajectory_length, and TemperedTransitions has"):
            TemperedTransitions(kernel, BETAS).init(real, start)
    tuned, _ = warmup(HMC(), real, start, steps=20, seed=1)  # the way out that is told
    TemperedTransitions(tuned, BETAS).init(real, start)
    with pytest.raises(ValueError, match="have no law"):
        TemperedTransitions(HMC(), (0.0, 1.0)).init(real, {V: torch.zeros(3, 2)})


# --- annealing and descent -----------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [None, GibbsWithGradients(), DiscreteLangevin(step_size=0.5)])
@pytest.mark.parametrize("reference", ["flat", "independent"])
def test_at_the_last_temperature_the_chains_follow_its_law(
    kernel: Kernel | None, reference: str
) -> None:
    # α = 1e-6 for the largest of the z-scores of four means, N = 20,000: a fault of 0.02 is found.
    energy = restricted()
    easy = independent() if reference == "independent" else None
    betas = torch.linspace(0, 1, 40, dtype=torch.float64)
    found = anneal(energy, betas, kernel=kernel, reference=easy, chains=20_000, seed=1)
    torch.testing.assert_close(found.energy, energy(found.x))
    states = states_of(energy)
    law = (-energy(states)).softmax(0)
    for k in range(4):
        hit = (found.x[V] == states[V][k]).all(-1) & (found.x[H] == states[H][k]).all(-1)
        error = (law[k] * (1 - law[k]) / 20_000).sqrt()
        assert abs(float(hit.double().mean() - law[k])) < 5.1 * float(error)


def grid(labels: Tensor) -> Tensor:
    """Four units with three values, in no way linear."""
    scores = labels @ torch.tensor([0.3, -1.0, 2.2], dtype=torch.float64)
    return (3 * scores.sum(-1)).sin() + scores[..., 0] * scores[..., 2] + scores.cos().sum(-1)


def potts() -> BoltzmannMachine:
    """Four units with three labels, all coupled."""
    weight = torch.arange(144, dtype=torch.float64).sin().reshape(12, 12)
    weight = (weight + weight.mT) * (1 - torch.block_diag(*[torch.ones(3, 3)] * 4))
    layer = Layer(Categorical(3), 4, bias=(2 * torch.arange(12, dtype=torch.float64)).cos())
    return BoltzmannMachine({V: layer}, {(V, V): weight})


MINIMA = [*SMALL, "one-hot", "labels"]


def target(name: str) -> tuple[Energy, float]:
    """An energy and its enumerated minimum."""
    if name in SMALL:
        return SMALL[name].machine(), float(SMALL[name].energies.min())
    if name == "labels":
        machine = potts()
        every = torch.cartesian_prod(*[torch.arange(3)] * 4).double()
        return machine, float(machine(every).min())
    site = Site(constraints.one_hot, torch.Size([4, 3]))
    energy = CallableEnergy(grid, {V: site}, dtype=torch.float64)
    choice = torch.cartesian_prod(*[torch.arange(3)] * 4)
    every = torch.nn.functional.one_hot(choice, 3).double()
    return energy, float(energy(every).min())


@pytest.fixture
def too_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact answers are not affordable."""
    monkeypatch.setattr("pyro_ebm.minima.modes.AFFORDABLE", -1.0)


@pytest.mark.parametrize("name", [*SMALL, "labels"])
def test_the_mode_of_a_small_machine_is_proved(name: str) -> None:
    energy, wanted = target(name)
    found = mode(energy)
    assert found.proved
    assert float(found.energy) == pytest.approx(wanted, abs=1e-9)
    assert float(energy(found.x)) == pytest.approx(wanted, abs=1e-9)


def test_the_mode_of_real_units_is_where_the_gradient_is_zero() -> None:
    weight = torch.tensor([[0.5, -1.0], [1.0, 0.3]], dtype=torch.float64)
    bias = {V: torch.tensor([0.2, -0.4]).double(), "hidden": torch.tensor([-0.1, 0.3]).double()}
    machine = BoltzmannMachine.restricted(
        2, 2, units=(Gaussian(2.0), Bernoulli()), couplings=weight, biases=bias
    )
    found = mode(machine)
    states = exact.states(machine, ["hidden"])["hidden"]
    best = (states @ weight.mT + bias[V]) / 2
    wanted = machine({V: best, "hidden": states}).min()
    torch.testing.assert_close(found.energy, wanted)
    assert found.proved


@pytest.mark.usefixtures("too_dear")
@pytest.mark.parametrize("name", [*SMALL, "labels"])
def test_annealing_finds_the_minimum_of_a_small_machine(name: str) -> None:
    energy, wanted = target(name)
    found = mode(energy, sweeps=60, chains=16, seed=1)
    assert float(found.energy) == pytest.approx(wanted, abs=1e-9)
    assert float(energy(found.x)) == pytest.approx(wanted, abs=1e-9)
    assert not found.proved
    assert "not proved" in found.how


@pytest.mark.parametrize("name", MINIMA)
def test_no_single_change_lowers_what_descent_leaves(name: str) -> None:
    energy, _ = target(name)
    if name in SMALL:
        x = random_states(energy, (20,))
    elif name == "labels":
        x = {V: torch.randint(3, (20, 4)).double()}
    else:
        site = energy.sites[V].shape
        choice = torch.randint(site[-1], (20, *site[:-1]))
        x = {V: torch.nn.functional.one_hot(choice, site[-1]).double()}
    found = descend(energy, x)
    assert bool((found.energy <= energy(x) + 1e-12).all())
    torch.testing.assert_close(found.energy, energy(found.x))
    kernel = GibbsWithGradients()
    alphabets = kernel.moved(energy)
    count = sum(a.count(energy.sites[site].shape) for site, a in alphabets.items())
    for change in range(count):
        changes = torch.full((20,), change)
        tried = change_one(found.x, changes, alphabets, energy).x
        assert bool((energy(tried) >= found.energy - 1e-9).all())


def test_both_ways_down_find_the_minimum_from_some_of_all_states() -> None:
    small = SMALL["fully visible bits"]
    machine = small.machine()
    same = CallableEnergy(
        lambda x: machine.evaluate({V: x}), dict(machine.sites), dtype=torch.float64
    )
    for energy in (machine, same):
        found = descend(energy, small.tensors())
        assert float(found.energy.min()) == pytest.approx(small.energies.min())


def test_a_glass_of_many_spins_is_cooled_near_its_ground_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A ring with random couplings: the ground state breaks at most its weakest one.
    weight = torch.randn(200, dtype=torch.float64)
    machine = BoltzmannMachine.on_graph(torch.tensor(ring_edges(200)), couplings=weight)
    least = -weight.abs().sum() + 2 * weight.abs().min() * (weight.sign().prod() < 0)
    assert mode(machine).proved
    assert float(mode(machine).energy) == pytest.approx(float(least), abs=1e-9)
    monkeypatch.setattr("pyro_ebm.minima.modes.AFFORDABLE", -1.0)
    found = mode(machine, sweeps=300, chains=32, seed=2)
    assert float(found.energy) < float(least) * 0.97
    assert float(found.energy) >= float(least) - 1e-9


def test_annealing_is_reproducible_and_leaves_the_generator_alone() -> None:
    machine = SMALL["torus"].machine()
    before = torch.get_rng_state()
    first, again, other = (anneal(machine, [0.5, 1.0], chains=8, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.x[V], again.x[V])
    assert not torch.equal(first.x[V], other.x[V])
    assert isinstance(first, Annealed)
    assert float(machine(first.lowest)) == pytest.approx(float(first.energy.min()))
    given = anneal(machine, [1.0], initial=first.x, seed=1)
    assert given.energy.shape == (8,)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([], "inverse temperatures"),
        (torch.ones(2, 2), "inverse temperatures"),
        ([-0.1, 1.0], "finite numbers from 0"),
        ([0.1, float("inf")], "finite numbers from 0"),
        ([float("nan")], "finite numbers from 0"),
    ],
)
def test_bad_schedules_are_refused(betas: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anneal(SMALL["torus"].machine(), betas)


def test_bad_arguments_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="negative weight"):
        anneal(restricted(), [0.5, 2.0], reference=independent())
    real = CallableEnergy(lambda x: x.square().sum(-1), 2)
    with pytest.raises(ValueError, match="torch optimiser"):
        mode(real)
    with pytest.raises(ValueError, match="minimise the energy over real sites"):
        descend(real, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="sweeps is 0"):
        mode(restricted(), sweeps=0)
    with pytest.raises(ValueError, match="chains is 0"):
        mode(restricted(), chains=0)
    with pytest.raises(ValueError, match=r"wanted \(chains,\)"):
        descend(SMALL["torus"].machine(), torch.ones(9).double())
    with pytest.raises(ValueError, match=r"energies \(4,\), one for each of a batch"):
        mode(BoltzmannMachine.fully_visible(3, couplings=torch.zeros(4, 3, 3)))
    with pytest.raises(ValueError, match=r"HMC has no step_size .* and anneal has no warm-up"):
        anneal(real, [0.5, 1.0], kernel=HMC())
    for bad in (None, Gibbs()):
        for ask in (mode, lambda x: anneal(x, [1.0]), lambda x: descend(x, torch.zeros(2, 3))):
            with pytest.raises(TypeError, match="wanted an energy"):
                ask(bad)
    with pytest.raises(TypeError, match="reference is 'x'; wanted an energy"):
        anneal(restricted(), [1.0], reference="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Gibbs'>; wanted a kernel, for example Gibbs\(\)"):
        anneal(restricted(), [1.0], kernel=Gibbs)  # type: ignore[arg-type]


# --- sites of several kinds ----------------------------------------------------------------------


def mixed() -> CallableEnergy:
    """Bits, and real numbers that follow them."""
    sites = {"b": Site(boolean, torch.Size([3])), "x": Site(constraints.real, torch.Size([3]))}
    return CallableEnergy(lambda b, x: (x - 2 * b).square().sum(-1) - b.sum(-1), sites)


def test_annealing_leaves_no_site_at_its_start_unasked() -> None:
    energy = mixed()
    with pytest.raises(ValueError, match=r"moves 'x', which is .* or hold the site"):
        anneal(energy, [0.1, 1.0], chains=4, seed=1)
    with pytest.raises(ValueError, match=r"'x' is .* with a torch optimiser"):
        mode(energy)
    kernel = Cycle((GibbsWithGradients(), MALA(("x",), step_size=0.05)))  # as the message says
    found = anneal(energy, torch.linspace(0.1, 20, 80), kernel=kernel, chains=16, seed=1)
    assert float(found.energy.min()) < -2.5
    held = clamp(energy, {"x": torch.tensor([2.0, 0.0, 2.0])})
    found = anneal(held, torch.linspace(0.1, 10, 40), chains=16, seed=1)
    assert found.lowest["b"].tolist() == [1, 0, 1]


def ladder_of_labels(k: Tensor) -> Tensor:
    """Lowest, at −12, where every label is one more than that before it, from 0 on."""
    return 0.3 * ((k[:, 1:] - k[:, :-1] - 1) % 3).square().sum(-1) + 0.4 * k[:, 0] - 12


def of_labels() -> tuple[Energy, float]:
    site = Site(constraints.integer_interval(0, 2), torch.Size([5]))
    return CallableEnergy(ladder_of_labels, {"k": site}), -12.0


def of_labels_and_bits() -> tuple[Energy, float]:
    def energy(k: Tensor, b: Tensor) -> Tensor:
        return ladder_of_labels(k) + (b - k % 2).square().sum(-1)

    sites = {
        "k": Site(constraints.integer_interval(0, 2), torch.Size([4])),
        "b": Site(boolean, torch.Size([4])),
    }
    return CallableEnergy(energy, sites), -12.0


def of_a_pyro_model() -> tuple[Energy, float]:
    def model() -> None:
        with pyro.plate("i", 4):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("y", dist.Normal(z.float().sum(-1), 0.5), obs=torch.tensor(5.0))

    energy = ModelEnergy(model)
    every = torch.cartesian_prod(*[torch.arange(3.0)] * 4)
    return energy, float(energy({"z": every}).min())


@pytest.mark.usefixtures("too_dear")
@pytest.mark.parametrize("build", [of_labels, of_labels_and_bits, of_a_pyro_model])
def test_annealing_finds_the_mode_of_labels(build: Callable[[], tuple[Energy, float]]) -> None:
    energy, wanted = build()
    found = mode(energy, sweeps=60, chains=16, seed=1)
    assert float(found.energy) == pytest.approx(wanted, abs=1e-5)
    assert float(energy(found.x)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("build", [of_labels, of_labels_and_bits])
def test_no_change_of_a_listed_value_lowers_what_descent_leaves(
    build: Callable[[], tuple[Energy, float]],
) -> None:
    energy, _ = build()
    x = {
        "k": torch.randint(3, (12, *energy.sites["k"].shape)).float(),
        **({"b": torch.zeros(12, 4)} if "b" in energy.sites else {}),
    }
    found = descend(energy, x)
    assert bool((found.energy <= energy(x)).all())
    for unit in range(energy.sites["k"].shape[0]):
        for value in range(3):
            k = found.x["k"].clone()
            k[:, unit] = value
            assert bool((energy({**found.x, "k": k}) >= found.energy - 1e-5).all())


@pytest.mark.usefixtures("too_dear")
def test_the_mode_of_a_machine_with_real_units_is_annealed() -> None:
    weight = 0.7 * torch.randn(5, 6, dtype=torch.float64)
    for real in (Gaussian(2.0), TruncatedGaussian(1.5)):
        machine = BoltzmannMachine.restricted(5, 6, units=(real, Bernoulli()), couplings=weight)
        states = exact.states(machine, [H])[H].double()
        best = states @ weight.mT / float(real.precision)
        if isinstance(real, TruncatedGaussian):
            best = best.clamp(min=0)
        wanted = machine({V: best, H: states}).min()
        found = mode(machine, sweeps=100, chains=32, seed=1)
        torch.testing.assert_close(found.energy, wanted)
        torch.testing.assert_close(machine(found.x), wanted)
        assert not found.proved


@pytest.mark.usefixtures("too_dear")
def test_descent_comes_to_rest_among_coupled_real_units() -> None:
    # Half of the quadratic form whose minimum is where the gradient is zero.
    weight = torch.tensor([[0.0, 0.6, -0.3], [0.6, 0.0, 0.4], [-0.3, 0.4, 0.0]]).double()
    bias = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    machine = BoltzmannMachine({V: Layer(Gaussian(1.5), 3, bias=bias)}, {(V, V): weight})
    wanted = torch.linalg.solve(1.5 * torch.eye(3).double() - weight, bias)
    found = descend(machine, {V: torch.randn(4, 3, dtype=torch.float64)})
    torch.testing.assert_close(found.x[V], wanted.expand(4, 3))
    found = mode(machine, sweeps=3, chains=2, seed=1)  # of no discrete unit
    torch.testing.assert_close(found.x[V], wanted)
