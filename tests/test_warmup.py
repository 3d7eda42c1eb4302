"""Warm-ups: what they find, that they find the same again, stopping and going on; bad settings."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import arviz as az
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Structure,
    WithoutTerms,
)
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Chains,
    Cycle,
    DenseMass,
    DiagonalMass,
    Gibbs,
    Kernel,
    Langevin,
    Mass,
    MetropolisHastings,
    Mixture,
    ParallelTempering,
    RandomWalk,
    Tuning,
    UnitMass,
    advance,
    resume,
    run,
    warmup,
)
from pyro_ebm.kernels.composite.cycle import CompositionTuning
from pyro_ebm.kernels.continuous.adaptation import Reach, Spread
from pyro_ebm.kernels.continuous.tuning import PATIENCE, MoverTuning
from pyro_ebm.kernels.step_size import StepSize
from pyro_ebm.sites import Sites
from tests.support.densities import SMALL, Quadratic

DEVIATIONS = torch.logspace(-1.5, 1.5, 9, dtype=torch.float64)


def correlated(size: int, correlation: float) -> Quadratic:
    """A stationary normal law, of deviation 1 everywhere."""
    number = torch.arange(size)
    covariance = correlation ** (number[:, None] - number).abs().double()
    return Quadratic(torch.linalg.inv(covariance))


def network() -> CallableEnergy:
    """A network over a normal law."""
    first, second = torch.randn(5, 16), torch.randn(16)
    return CallableEnergy(
        lambda x: x.square().sum(-1) / 2 + torch.tanh(x @ first) @ second, 5, dtype=torch.float32
    )


TARGETS: dict[str, Callable[[], Energy]] = {
    "correlated": lambda: correlated(20, 0.8),
    "scales from 0.03 to 30": lambda: Quadratic(torch.diag(DEVIATIONS**-2)),
    "network": network,
    "gamma": lambda: SMALL["gamma"].as_energy(),
    "dirichlet": lambda: SMALL["dirichlet"].as_energy(),
}
KERNELS: dict[str, Kernel] = {
    "HMC": HMC(),
    "HMC, dense": HMC(mass=DenseMass()),
    "HMC, aiming lower": HMC(target_acceptance=0.7),
    "MALA": MALA(),
    "MALA, dense": MALA(mass=DenseMass()),
    "random walk": RandomWalk(),
}


# --- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *itertools.product(KERNELS, ("correlated", "gamma")),
        *itertools.product(("HMC", "MALA"), ("scales from 0.03 to 30", "network", "dirichlet")),
    ],
)
def test_the_acceptance_comes_to_its_target(name: str, target: str) -> None:
    kernel: Any = KERNELS[name]
    chains = run(kernel, TARGETS[target](), 60, warmup=150, chains=50, seed=1)
    found = float(chains.statistics["acceptance_rate"].mean())
    assert abs(found - kernel.target_acceptance) < 0.05
    assert isinstance(chains.kernel, type(kernel))


@pytest.mark.parametrize("kernel", [HMC(), MALA()])
def test_the_variances_are_found(kernel: Kernel) -> None:
    chains = run(kernel, TARGETS["scales from 0.03 to 30"](), 1, warmup=300, chains=50, seed=0)
    variance = chains.kernel.mass.variance  # type: ignore[attr-defined]
    # About 50 × 60 dependent draws: 15 % are five errors of independent ones.
    torch.testing.assert_close(variance.sqrt(), DEVIATIONS, rtol=0.15, atol=0)


def test_the_covariance_is_found() -> None:
    energy = correlated(6, 0.9)
    chains = run(HMC(mass=DenseMass()), energy, 1, warmup=300, chains=50, seed=0)
    covariance = chains.kernel.mass.covariance  # type: ignore[attr-defined]
    unwhitened = covariance @ energy.precision
    assert float(torch.linalg.eigvals(unwhitened).abs().log().abs().max()) < 0.3


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_trajectories_are_a_quarter_of_the_period_of_the_widest_direction(
    correlation: float,
) -> None:
    energy = correlated(10, correlation)
    chains = run(HMC(), energy, 1, warmup=300, chains=100, seed=0)
    widest = float(torch.linalg.eigvalsh(energy.precision).min()) ** -0.5
    found = chains.kernel.trajectory_length  # type: ignore[attr-defined]
    assert found == pytest.approx(math.pi / 2 * widest, rel=0.15)


def test_few_chains_are_tuned_too() -> None:
    energy = correlated(5, 0.5)
    chains = run(HMC(), energy, 200, warmup=500, chains=4, seed=0)
    assert abs(float(chains.statistics["acceptance_rate"].mean()) - 0.9) < 0.05
    variance = chains.kernel.mass.variance  # type: ignore[attr-defined]
    assert bool(((variance > 0.4) & (variance < 2.5)).all())
    widest = float(torch.linalg.eigvalsh(energy.precision).min()) ** -0.5
    found = chains.kernel.trajectory_length  # type: ignore[attr-defined]
    assert found == pytest.approx(math.pi / 2 * widest, rel=0.2)


def test_what_was_given_is_kept() -> None:
    energy, short = correlated(3, 0.5), {"draws": 2, "warmup": 20}
    tuned = run(HMC(step_size=0.1, trajectory_length=1.0), energy, **short, seed=0).kernel
    assert (tuned.step_size, tuned.trajectory_length) == (0.1, 1.0)
    assert tuned.mass.variance is not None
    mass = DiagonalMass(torch.ones(3, dtype=torch.float64))
    tuned = run(HMC(mass=mass), energy, **short, seed=0).kernel
    assert tuned.mass is mass
    assert tuned.step_size is not None
    for kernel in (
        HMC(step_size=0.1, trajectory_length=1.0, mass=mass),
        HMC(step_size=0.1, trajectory_length=1.0, mass=UnitMass()),
        MALA(step_size=0.1, mass=mass),
        RandomWalk(scale=0.1, mass=UnitMass()),
        Cycle((MALA(step_size=0.1, mass=mass), Langevin())),
    ):
        assert run(kernel, energy, **short, seed=0).kernel is kernel


def test_kernels_of_a_composition_are_tuned_each() -> None:
    density = SMALL["with a label"]
    label = MetropolisHastings("label", lambda x: dist.Bernoulli(0.2 + 0.2 * x))
    for composition in (Cycle((label, MALA())), Mixture((label, MALA()), (1, 3))):
        chains = run(composition, density.as_energy(), 100, warmup=400, chains=200, seed=0)
        first, second = chains.kernel.kernels  # type: ignore[attr-defined]
        assert type(chains.kernel) is type(composition)
        assert first is label
        name = "acceptance_rate_1" if isinstance(composition, Cycle) else "acceptance_rate"
        rate = chains.statistics[name]
        if isinstance(composition, Mixture):  # a step size is reported by MALA only
            rate = rate[chains.statistics["step_size"].isfinite()]
        assert abs(float(rate.mean()) - 0.574) < 0.06
        assert chains.attributes["kernel_1_step_size"] == second.step_size


def test_the_findings_are_printed_and_stored(tmp_path: Any) -> None:
    chains = run(HMC(), correlated(4, 0.3), 5, warmup=50, chains=8, seed=0)
    kernel: Any = chains.kernel
    assert f"step_size={kernel.step_size}" in repr(kernel)
    assert "DiagonalMass(variance: 4, from " in repr(kernel)
    assert chains.attributes["kernel"] == repr(kernel)
    wanted = ("step_size", "trajectory_length", "target_acceptance")
    assert {n: chains.attributes[n] for n in wanted} == {n: getattr(kernel, n) for n in wanted}
    data = chains.to_arviz()
    data.to_netcdf(str(tmp_path / "chains.nc"))
    assert data["posterior"].attrs["step_size"] == kernel.step_size
    sizes = data["sample_stats"]["step_size"].values
    assert ((sizes <= kernel.step_size) & (sizes > kernel.step_size / 2)).all()


def test_the_draws_are_made_by_the_kernel_as_tuned() -> None:
    energy = correlated(3, 0.5)
    chains = run(HMC(), energy, 10, warmup=40, chains=8, seed=0)
    kernel, state = warmup(HMC(), energy, chains.last, steps=40, seed=0)
    assert isinstance(kernel, HMC)
    assert kernel.step_size is not None
    first = advance(kernel, energy, state, 3)
    again = kernel.refresh(energy, first, first.x)
    assert torch.equal(again.point.gradient, first.point.gradient)


# --- starts far away, and chains apart -----------------------------------------------------------


class Counted(Energy):
    """An energy that counts how often its gradient is asked for."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy, self.sites, self.gradients = energy, energy.sites, 0

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def evaluate(self, x: Sites) -> Tensor:
        return self.energy.evaluate(x)

    def structure(self) -> Structure:
        return WithoutTerms(self, self.counted)

    def counted(self, x: Sites, sites: Any) -> tuple[Tensor, Sites]:
        self.gradients += 1
        return self.energy.energy_and_gradient(x, sites)


def gradients(kernel: Kernel, energy: Energy, x: Tensor, seed: int) -> int:
    """How many gradients a warm-up of 100 steps takes."""
    counted = Counted(energy)
    warmup(kernel, counted, x, steps=100, seed=seed)
    return counted.gradients


def posterior() -> CallableEnergy:
    """A logistic regression of 100 points, whose coefficients have deviations from 0.03 to 3."""
    scales = torch.logspace(-1, 1, 6, dtype=torch.float64)
    columns = torch.randn(100, 6, dtype=torch.float64) * scales
    logits = columns @ (torch.randn(6, dtype=torch.float64) / scales)
    signs = torch.where(torch.rand(100) < logits.sigmoid(), -1.0, 1.0).double()
    return CallableEnergy(
        lambda x: softplus(signs * (x @ columns.T)).sum(1) + x.square().sum(1) / 18,
        6,
        dtype=torch.float64,
    )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_scattered_starts_cost_little_more_than_good_ones(seed: int) -> None:
    # Good starts take 4 gradients a step, 8 if a new mass leaves the step size. Scattered ones take
    # 2.2 to 3 times as many, 7 to 15 times if moreover all chains have one step size from the
    # beginning and are one pool, with long trajectories from 10 % on.
    energy = posterior()
    good = run(HMC(), energy, 1, warmup=100, chains=40, seed=9).last["visible"]
    of_good = gradients(HMC(), energy, good, seed)
    assert of_good < 6 * 100
    assert gradients(HMC(), energy, 10 * torch.randn_like(good), seed) < 4 * of_good


PLACE = torch.tensor([2.0, -2.0, 1.0, -1.0, 3.0], dtype=torch.float64)


def two_modes(x: Tensor) -> Tensor:
    """Normal laws of deviation 0.05 around PLACE and -PLACE."""
    nearer, farther = (((x - c) / 0.05).square().sum(1) / 2 for c in (PLACE, -PLACE))
    return -torch.logaddexp(-nearer, -farther)


@pytest.mark.parametrize("mass", [DiagonalMass(), DenseMass()])
def test_chains_in_modes_of_their_own_have_the_mass_of_a_mode(mass: Mass) -> None:
    energy = CallableEnergy(two_modes, 5, dtype=torch.float64)
    in_one = PLACE + 0.05 * torch.randn(40, 5, dtype=torch.float64)
    in_both = torch.where(torch.arange(40)[:, None] % 2 == 0, in_one, -in_one)
    costs = [gradients(HMC(mass=mass), energy, x, 0) for x in (in_one, in_both)]
    # 3.4 times as many, 4.9 with a dense mass; with the spread of all chains as one pool 25 and 15.
    assert costs[1] < 7 * costs[0]


def spread_of(draws: Tensor, mass: Mass) -> tuple[Spread, Tensor]:
    """The window of draws (step, chain, d), and the mass's Σ."""
    window = Spread.around(draws[0].mean(0).expand_as(draws[0]), mass)
    for x in draws:
        window = window.after(x)
    found: Any = window.mass(window.pooled(PATIENCE), mass)
    return window, found.variance if isinstance(found, DiagonalMass) else found.covariance


@pytest.mark.parametrize("mass", [DiagonalMass(), DenseMass()])
def test_chains_of_one_law_are_one_pool(mass: Mass) -> None:
    factor = torch.linalg.cholesky(torch.linalg.inv(correlated(4, 0.6).precision))
    draws = torch.randn(10, 200, 4, dtype=torch.float64) @ factor.mT
    window, inverse = spread_of(draws, mass)
    flat = draws.flatten(0, 1)
    everything = flat.mT @ flat / len(flat) - torch.outer(flat.mean(0), flat.mean(0))
    wanted = everything.diagonal() if inverse.dim() == 1 else everything
    torch.testing.assert_close(inverse, wanted, rtol=0.02, atol=0.005)
    torch.testing.assert_close(window.pooled(PATIENCE).centre, flat.mean(0).expand(200, 4))


@pytest.mark.parametrize("mass", [DiagonalMass(), DenseMass()])
def test_a_chain_that_comes_from_far_away_hardly_counts(mass: Mass) -> None:
    draws = torch.randn(100, 50, 3, dtype=torch.float64)
    draws[:, 7] *= 1000
    draws[:, 8] += torch.linspace(1000, 0, 100)[:, None]
    inverse = spread_of(draws, mass)[1]
    variances = inverse if inverse.dim() == 1 else inverse.diagonal()
    # Two chains of fifty count as 20 of the usual ones at most, which makes W 1.8, and up to 3 W of
    # what is between chains counts: 20,000 as one pool.
    assert bool((variances < 8).all())
    reach = Reach(torch.ones(3, dtype=torch.float64))
    for x in draws:
        reach = reach.after(x)
    assert reach.deviation < 2  # 140 as one pool


def test_at_first_each_chain_has_a_step_size_of_its_own() -> None:
    # Deviation 1 in the middle, and a wall whose curvature is 10,000 beyond 10.
    energy = CallableEnergy(
        lambda x: x.square().sum(1) / 2 + 5000 * (x - 10).clamp_min(0).square().sum(1),
        1,
        dtype=torch.float64,
    )
    x = torch.tensor([[0.0], [0.5], [14.0], [15.0]], dtype=torch.float64)
    kernel: Any = HMC().tuning(200)
    state = kernel.init(energy, {"visible": x})
    assert state.size.size.shape == (4,)
    assert bool((state.size.size[:2] > 30 * state.size.size[2:]).all())
    state = advance(kernel, energy, state, 10)
    assert bool((state.x["visible"] < 11).all())
    assert bool((state.size.size > 0.3).all())  # they have come, and lengthen their steps at once
    state = advance(kernel, energy, state, 10)
    assert state.size.size.shape == ()


@pytest.mark.parametrize("wanted", [0.01, 300.0])
def test_bold_step_sizes_come_to_the_edge_of_what_can_be_used(wanted: float) -> None:
    size = StepSize.at(1.0)
    for _ in range(12):
        size = size.boldly((size.size < wanted).double())
    assert wanted / 2 <= float(size.size) <= 2 * wanted


# --- a step size for each chain, or each level ---------------------------------------------------

MASSES = {
    "unit": UnitMass(),
    "diagonal": DiagonalMass(torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)),
    "dense": DenseMass(torch.linalg.inv(correlated(3, 0.6).precision)),
    "not yet found": DenseMass(),
}


def step_of(name: str, size: Any, mass: Any) -> Kernel:
    if name == "HMC":  # one leapfrog step, whatever the size
        return HMC(step_size=size, trajectory_length=0.1, jitter=0.0, step_jitter=0.0, mass=mass)
    if name == "MALA":
        return MALA(step_size=size, mass=mass)
    return RandomWalk(scale=size, mass=mass)


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("name", ["HMC", "MALA", "random walk"])
def test_each_chain_has_its_step_size(name: str, mass: str) -> None:
    energy = correlated(3, 0.6)
    x = {"x": torch.randn(4, 3, dtype=torch.float64)}

    def moved(size: Any) -> tuple[Tensor, Any]:
        kernel = step_of(name, size, MASSES[mass])
        state = kernel.init(energy, x)
        torch.manual_seed(1)
        state, info = kernel.step(energy, state)
        return state.x["x"], info

    sizes = torch.tensor([0.1, 0.9, 0.9, 0.1], dtype=torch.float64)
    together, info = moved(sizes)
    for size in (0.1, 0.9):
        alone, of_alone = moved(size)
        torch.testing.assert_close(together[sizes == size], alone[sizes == size])
        rates = info.acceptance_rate[sizes == size]
        torch.testing.assert_close(rates, of_alone.acceptance_rate[sizes == size])
        assert info.step_size.tolist() == sizes.tolist()


def test_all_chains_make_the_steps_that_the_smallest_needs() -> None:
    sizes = torch.tensor([0.25, 1.0], dtype=torch.float64)
    kernel = HMC(
        step_size=sizes, trajectory_length=1.0, jitter=0.0, step_jitter=0.0, mass=UnitMass()
    )
    energy = correlated(3, 0.0)
    _, info = kernel.step(energy, kernel.init(energy, {"x": torch.zeros(2, 3).double()}))
    assert info.n_steps.tolist() == [4, 4]


def test_laws_beside_each_other_are_tuned_each() -> None:
    # Chains of two laws, at β = 1 and β = 100: the step sizes τ are as 100 to 1.
    both = correlated(3, 0.0) * torch.tensor([1.0, 100.0], dtype=torch.float64)
    x = {"x": torch.randn(50, 2, 3, dtype=torch.float64) / torch.tensor([[1.0], [10.0]])}
    kernel, _ = warmup(MALA(mass=UnitMass()), both, x, steps=200, seed=0)
    assert isinstance(kernel, MALA)
    assert isinstance(kernel.step_size, Tensor)
    assert float(kernel.step_size[0] / kernel.step_size[1]) == pytest.approx(100, rel=0.2)


def test_trajectories_are_no_longer_than_allowed() -> None:
    energy = Quadratic(torch.diag(DEVIATIONS**-2))
    kernel = HMC(mass=UnitMass(), longest=7, step_jitter=0.0)
    chains = run(kernel, energy, 20, warmup=60, chains=8, seed=0)
    assert int(chains.statistics["n_steps"].max()) <= 7
    with pytest.raises(ValueError, match="longest is 0"):
        HMC(longest=0)
    with pytest.raises(ValueError, match="step_size is"):
        HMC(step_size=torch.tensor([0.1, -1.0]))


# --- again, stopped, going on --------------------------------------------------------------------


def assert_same(first: Chains, second: Chains) -> None:
    """Draws, statistics and kernel, to the last bit."""
    for one, other in (
        (first.draws, second.draws),
        (first.statistics, second.statistics),
        (first.warmup_draws, second.warmup_draws),
    ):
        assert list(one) == list(other)
        for name in one:
            assert torch.equal(one[name], other[name]), name
    assert repr(first.kernel) == repr(second.kernel)


RUNS: dict[str, tuple[Kernel, str]] = {
    "HMC": (HMC(), "correlated normal in two sites"),
    "HMC, dense": (HMC(mass=DenseMass()), "correlated normal"),
    "HMC on a simplex": (HMC(), "dirichlet"),
    "MALA": (MALA(), "gamma"),
    "random walk": (RandomWalk(), "bounded"),
    "cycle": (Cycle((RandomWalk(("a",)), HMC(("b",)))), "correlated normal in two sites"),
    "mixture": (Mixture((MALA(("a",)), MALA())), "correlated normal in two sites"),
    "Langevin": (Langevin(step_size=0.01, power=0.6), "normal"),
}


@pytest.mark.parametrize("name", RUNS)
def test_sixty_draws_and_forty_more_are_a_hundred(name: str) -> None:
    kernel, density = RUNS[name]
    energy = SMALL[density].as_energy()
    before = torch.get_rng_state()
    hundred = run(kernel, energy, 50, warmup=30, chains=5, seed=3)
    sixty = run(kernel, energy, 30, warmup=30, chains=5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert_same(hundred, resume(resume(sixty, energy, 5), energy, 15))


def stop_before(number: int, patch: pytest.MonkeyPatch) -> None:
    """Someone presses Ctrl-C before a step of the run; steps inside of steps do not count."""
    depth, count = [0], itertools.count()

    def outermost(right: Callable[..., Any], counted: bool) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            if counted and not depth[0] and next(count) == number:
                raise KeyboardInterrupt
            depth[0] += 1
            try:
                return right(*args)
            finally:
                depth[0] -= 1

        return wrapped

    patch.setattr(MoverTuning, "init", outermost(MoverTuning.init, False))
    for kernel in (MoverTuning, CompositionTuning, HMC, Cycle):
        patch.setattr(kernel, "step", outermost(kernel.step, True))


@pytest.mark.parametrize("after", [0, 3, 17, 29, 30, 41])
@pytest.mark.parametrize("name", ["HMC", "HMC on a simplex", "cycle"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(
    name: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, density = RUNS[name]
    energy = SMALL[density].as_energy()
    length = {"draws": 20, "warmup": 30, "keep": "everything"}
    whole = run(kernel, energy, **length, chains=5, seed=3)
    stop_before(after, monkeypatch)
    stopped = run(kernel, energy, **length, chains=5, seed=3)
    assert stopped.interrupted
    assert stopped.attributes["warmup_done"] == min(after, 30)
    assert isinstance(stopped.kernel, Tuning) == (after < 30)
    monkeypatch.undo()
    kept = max(0, after - 30)
    assert_same(whole, resume(stopped, energy, 20 - kept))


@pytest.mark.parametrize("kernel", [HMC(), Gibbs()])
def test_a_warm_up_depends_on_its_seed_alone(kernel: Kernel) -> None:
    if isinstance(kernel, HMC):
        energy: Energy = correlated(3, 0.5)
        x = {"x": torch.zeros(6, 3, dtype=torch.float64)}
    else:
        energy = BoltzmannMachine.restricted(4, 3)
        x = {"visible": torch.ones(6, 4), "hidden": torch.ones(6, 3)}
    before = torch.get_rng_state()
    first, state = warmup(kernel, energy, x, steps=30, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, again = warmup(kernel, energy, x, steps=30, seed=2)
    assert repr(first) == repr(second)
    assert all(torch.equal(state.x[site], again.x[site]) for site in x)
    third, _ = warmup(kernel, energy, x, steps=30, seed=3)
    assert (repr(third) == repr(first)) is isinstance(kernel, Gibbs)


def test_after_learning_chains_follow_the_new_parameters() -> None:
    center = torch.nn.Parameter(torch.zeros(()))
    energy = CallableEnergy(lambda x: (x - center).square().sum(-1) / 2, 1)
    chains = run(HMC(), energy, 20, warmup=50, chains=100, seed=0)
    with torch.no_grad():
        center.fill_(30.0)
    more = resume(chains, energy, 50).draws["visible"][:, -20:]
    assert abs(float(more.mean()) - 30) < 0.2


@pytest.mark.parametrize("after", [0, 1, 17])
@pytest.mark.parametrize(
    "kernel",
    [HMC(), Cycle((HMC(), RandomWalk())), ParallelTempering(MALA(), 3, correlated(3, 0.1))],
)
def test_a_warm_up_that_is_stopped_keeps_what_it_found(
    kernel: Kernel, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_before(after, monkeypatch)
    with pytest.warns(UserWarning, match=f"stopped after {after} of 30 steps"):
        found, state = warmup(kernel, correlated(3, 0.5), START, steps=30, seed=2)
    monkeypatch.undo()
    assert not isinstance(found, Tuning)
    assert advance(found, correlated(3, 0.5), state, 2).x["x"].shape == (4, 3)


# --- bad settings, bad starts --------------------------------------------------------------------

NORMAL = correlated(3, 0.5)
START = {"x": torch.zeros(4, 3, dtype=torch.float64)}
MIXED = SMALL["with a label"].as_energy()

BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "negative step": (lambda: HMC(step_size=-1.0), ValueError, r"step_size is -1\.0.*positive"),
    "step of NaN": (lambda: MALA(step_size=math.nan), ValueError, "step_size is nan"),
    "step of Langevin": (lambda: Langevin(step_size=0.0), ValueError, "step_size is 0"),
    "no length": (lambda: HMC(trajectory_length=0.0), ValueError, "trajectory_length is 0"),
    "jitter": (lambda: HMC(jitter=1.5), ValueError, r"jitter is 1\.5.*0 to 1"),
    "step jitter": (lambda: HMC(step_jitter=1.0), ValueError, r"step_jitter is 1\.0.*less than 1"),
    "power": (lambda: Langevin(power=2.0), ValueError, r"power is 2\.0"),
    "scale": (lambda: RandomWalk(scale=-0.1), ValueError, r"scale is -0\.1"),
    "target": (lambda: HMC(target_acceptance=80), ValueError, "target_acceptance is 80.*between"),
    "variance": (lambda: DiagonalMass(torch.tensor([1.0, 0.0])), ValueError, "variance.*positive"),
    "covariance": (lambda: DenseMass(-torch.eye(2)), ValueError, "not symmetric and positive"),
    "no square": (lambda: DenseMass(torch.ones(2, 3)), ValueError, "covariance.*square"),
    "mass of another length": (
        lambda: MALA(None, 0.1, DiagonalMass(torch.ones(2).double())).init(NORMAL, START),
        ValueError,
        "mass is for 2 coordinates.*3",
    ),
    "mass of another dtype": (
        lambda: MALA(None, 0.1, DiagonalMass(torch.ones(3))).init(NORMAL, START),
        ValueError,
        "mass is torch.float32.*torch.float64",
    ),
    "not tuned": (
        lambda: HMC().init(NORMAL, START),
        ValueError,
        "no step_size and no traj.*warmup",
    ),
    "no warm-up": (lambda: run(MALA(), NORMAL, 5, warmup=0), ValueError, "no step_size yet"),
    "a class for a kernel": (
        lambda: warmup(HMC, NORMAL, START),  # type: ignore[arg-type]
        TypeError,
        r"kernel is <class .*wanted a kernel, for example HMC\(\)",
    ),
    "no energy": (lambda: warmup(HMC(), 3, START), TypeError, "energy is 3; wanted an energy"),  # type: ignore[arg-type]
    "steps for other chains": (
        lambda: MALA(None, torch.ones(3)).init(NORMAL, START),
        ValueError,
        r"step_size has the shape \(3,\), and the chains \(4,\).*broadcasts",
    ),
    "scales for other chains": (
        lambda: run(RandomWalk(None, torch.ones(4, 4)), NORMAL, initial=START),
        ValueError,
        r"scale has the shape \(4, 4\), and the chains \(4,\)",
    ),
    "no steps": (lambda: warmup(HMC(), NORMAL, START, steps=0), ValueError, "steps is 0"),
    "a discrete site": (
        lambda: MALA(("label",), 0.1).init(MIXED, {}),
        ValueError,
        r"MALA moves continuous sites, but 'label' is \{0, 1\}.*Gibbs\(\('label',\)\).*Cycle",
    ),
    "only discrete sites": (
        lambda: run(HMC(), BoltzmannMachine.restricted(3, 2)),
        ValueError,
        "HMC moves continuous sites, but the energy has only 'visible'",
    ),
    "an unknown site": (lambda: HMC(("y",), 1.0, 1.0).init(NORMAL, START), ValueError, "'y'"),
    "a site twice": (lambda: MALA(("x", "x"), 1.0).init(NORMAL, START), ValueError, "once"),
    "a bare name": (lambda: MALA("x", 1.0).init(NORMAL, START), ValueError, "tuple of names"),  # type: ignore[arg-type]
    "no sites": (lambda: MALA((), 1.0).init(NORMAL, START), ValueError, "tuple of names"),
    "a start of no energy": (
        lambda: MALA(None, 0.1).init(
            CallableEnergy(lambda x: x[:, 0].log(), 1), {"visible": torch.tensor([[1.0], [0.0]])}
        ),
        ValueError,
        r"energy is not finite at the start of the chains \[1\]",
    ),
    "a start outside": (
        lambda: HMC(None, 0.1, 1.0).init(SMALL["gamma"].as_energy(), {"x": -torch.ones(2, 2)}),
        ValueError,
        "not in GreaterThan",
    ),
    "no kernels": (lambda: Cycle(()), TypeError, r"wanted a tuple, Cycle\(\(first, second\)\)"),
    "a list": (lambda: Cycle([HMC()]), TypeError, "wanted a tuple"),  # type: ignore[arg-type]
    "no kernel": (lambda: Mixture((HMC(), 3)), TypeError, "Mixture was given 3"),  # type: ignore[arg-type]
    "weights": (lambda: Mixture((HMC(), MALA()), (1.0,)), ValueError, "one number for each"),
    "a weight of zero": (lambda: Mixture((HMC(),), (0.0,)), ValueError, "weight is 0"),
    "a weight below": (lambda: Mixture((HMC(),), (-1,)), ValueError, "positive number. Leave out"),
    "no proposal": (
        lambda: MetropolisHastings("x", 0.5),  # type: ignore[arg-type]
        TypeError,
        "proposal is 0.5.*function",
    ),
    "proposal for no site": (
        lambda: MetropolisHastings("y", lambda x: dist.Normal(x, 1.0)).init(NORMAL, START),
        ValueError,
        r"move 'y', but the energy has \['x'\]",
    ),
    "proposal of a wrong shape": (
        lambda: MetropolisHastings("x", lambda x: dist.Normal(x[..., 0], 1.0)).init(NORMAL, START),
        ValueError,
        r"draws the shape \(4,\) from a value of shape \(4, 3\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused(name: str) -> None:
    action, error, message = BAD[name]
    with pytest.raises(error, match=message):
        action()


# --- two-dimensional densities -------------------------------------------------------------------


def ring(x: Tensor) -> Tensor:
    """The first potential of Rezende and Mohamed (2015)."""
    radius = ((x.norm(dim=-1) - 2) / 0.4).square() / 2
    sides = torch.stack([-(((x[:, 0] - c) / 0.6).square()) / 2 for c in (2, -2)])
    return radius - sides.logsumexp(0)


def double_well(x: Tensor) -> Tensor:
    return 2 * (x[:, 0].square() - 1).square() + x[:, 1].square() / 2


def banana(x: Tensor) -> Tensor:
    """x₀ ~ N(0, 4), x₁ | x₀ ~ N(x₀² / 4, 1)."""
    return x[:, 0].square() / 8 + (x[:, 1] - x[:, 0].square() / 4).square() / 2


def eight_normals(x: Tensor) -> Tensor:
    angle = torch.arange(8) * math.pi / 4
    centers = 4 / 1.414 * torch.stack([angle.cos(), angle.sin()], 1).to(x.dtype)
    squares = (x[:, None] - centers).square().sum(-1) / (2 * (0.5 / 1.414) ** 2)
    return -(-squares).logsumexp(-1)


# E[x₀], E[x₁], E[x₀²], E[x₁²], by quadrature; of the banana by hand.
PLANE: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float, float, float]]] = {
    "ring": (ring, (0.0, 0.0, 3.3035016013235627, 1.3952778294082304)),
    "double well": (double_well, (0.0, 0.0, 0.8521361521783343, 1.0)),
    "banana": (banana, (0.0, 1.0, 4.0, 1.0 + 3.0)),
}


def moments_off(draws: Tensor, truth: tuple[float, ...]) -> list[float]:
    """By how many of their standard errors the means of x and x² are off."""
    arrays = draws.double().numpy()
    found = []
    for power in (1, 2):
        for column in range(arrays.shape[2]):
            values = arrays[:, :, column] ** power
            error = float(az.mcse({"v": values}, method="mean")["v"])
            found.append((values.mean() - truth[len(found)]) / error)
    return found


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize(
    "kernel", [HMC(), pytest.param(MALA(target_acceptance=0.8), marks=pytest.mark.slow)]
)
def test_moments_in_the_plane_are_within_four_errors(kernel: Kernel, name: str) -> None:
    energy, truth = PLANE[name]
    chains = run(kernel, CallableEnergy(energy, 2), 400, warmup=200, chains=20, seed=0)
    assert max(map(abs, moments_off(chains.draws["visible"], truth))) < 4


@pytest.mark.slow
def test_eight_modes_are_right_or_called_not_mixed() -> None:
    chains = run(HMC(), CallableEnergy(eight_normals, 2), 500, warmup=300, chains=20, seed=0)
    draws = chains.draws["visible"]
    off = moments_off(draws, (0.0, 0.0, 4.126246126330153, 4.126246126330153))
    assert (
        max(map(abs, off)) < 4 or float(az.rhat({"v": draws[:, :, 0].double().numpy()})["v"]) > 1.05
    )


@pytest.mark.slow
def test_a_funnel_is_right_or_called_not_mixed() -> None:
    """Neal's funnel in ten dimensions: E v² = 9."""

    def funnel(x: Tensor) -> Tensor:
        v = x[:, 0]
        return v.square() / 18 + 4.5 * v + (x[:, 1:].square() * (-v).exp()[:, None]).sum(-1) / 2

    chains = run(HMC(), CallableEnergy(funnel, 10), 500, warmup=500, chains=20, seed=0)
    v = chains.draws["visible"][:, :, 0].double().numpy()
    off = abs((v**2).mean() - 9) / float(az.mcse({"v": v**2}, method="mean")["v"])
    assert off < 4 or float(az.rhat({"v": v})["v"]) > 1.05
