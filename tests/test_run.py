"""Runs: what they return, the same seed the same draws, stopping and going on."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, Energy, Structure, WithoutTerms
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Chains,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    Langevin,
    MetropolisHastings,
    NonFiniteEnergyError,
    ParallelTempering,
    RandomBlocks,
    RandomWalk,
    Schedule,
    advance,
    chance,
    resume,
    run,
)
from pyro_ebm.kernels.start import finite_start, random_start
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Spin
from tests.support.machines import SMALL

each_machine = pytest.mark.parametrize("name", SMALL)
SHORT = {"draws": 12, "warmup": 5}


def assert_same_draws(first: Chains, second: Chains) -> None:
    """To the last bit."""
    for one, other in ((first.draws, second.draws), (first.statistics, second.statistics)):
        assert list(one) == list(other)
        for name in one:
            assert torch.equal(one[name], other[name]), name


# --- what is returned ----------------------------------------------------------------------------


@each_machine
def test_draws_are_small_integers_by_chain_and_draw(name: str) -> None:
    machine = SMALL[name].machine(torch.float32)
    chains = run(Gibbs(), machine, **SHORT, chains=3, seed=0)
    assert list(chains.draws) == list(machine.sites)
    for site, draws in chains.draws.items():
        assert draws.shape == (3, 12, machine.layers[site].size)
        assert draws.dtype == torch.int8
        levels = set(machine.layers[site].unit.levels)
        assert set(draws.unique().tolist()) <= levels
        assert torch.equal(chains.last[site], draws[:, -1].float())
    assert set(chains.statistics) == {"lp", "n_flips"}
    assert all(value.shape == (3, 12) for value in chains.statistics.values())
    assert not chains.warmup_draws
    assert not chains.warmup_statistics
    assert not chains.interrupted


@pytest.mark.filterwarnings("ignore:The kernel does not move")
@each_machine
def test_lp_is_minus_the_energy_of_the_stored_draws(name: str) -> None:
    machine = SMALL[name].machine()
    for kernel in (Gibbs(), *(Gibbs((site,)) for site in machine.sites)):
        chains = run(kernel, machine, **SHORT, chains=3, seed=1)
        energy = machine({site: value.double() for site, value in chains.draws.items()})
        torch.testing.assert_close(chains.statistics["lp"], -energy, rtol=0, atol=1e-12)


@each_machine
def test_n_flips_counts_the_units_that_changed(name: str) -> None:
    chains = run(Gibbs(), SMALL[name].machine(), draws=20, warmup=0, chains=3, seed=2)
    changed = sum((draws.diff(dim=1) != 0).sum(-1) for draws in chains.draws.values())
    assert torch.equal(chains.statistics["n_flips"][:, 1:].long(), changed)


def test_attributes_say_how_the_draws_came_about() -> None:
    machine = SMALL["restricted"].machine()
    kernel, length = Gibbs(("hidden", "visible")), {"draws": 3, "warmup": 2, "thinning": 2}
    chains = run(kernel, machine, **length, chains=5, seed=7)
    wanted = {
        "energy": "BoltzmannMachine",
        "kernel": "Gibbs(sites=('hidden', 'visible'))",
        "dtype": "float64",
        "device": "cpu",
        "seed": 7,
        "chains": 5,
        "warmup": 2,
        "thinning": 2,
        "interrupted": False,
        "torch_version": torch.__version__,
    }
    assert {key: chains.attributes[key] for key in wanted} == wanted
    assert float(chains.attributes["seconds"]) > 0
    assert (chains.kernel, chains.schedule) == (kernel, Schedule(**length))


def test_runs_are_data_for_arviz() -> None:
    machine = SMALL["bits and spins"].machine()
    chains = run(Gibbs(), machine, 10, warmup=4, keep="everything", chains=3, seed=0)
    names = {"visible": ["a", "b", "c", "d"]}
    data = chains.to_arviz(feature_names=names, observed_data=torch.ones(2, 4))
    posterior = data["posterior"]
    assert posterior["visible"].shape == (3, 10, 4)
    assert posterior["visible"].dtype == np.int64
    assert list(posterior["visible_dim"].values) == names["visible"]
    lp = chains.statistics["lp"].numpy()
    np.testing.assert_array_equal(data["sample_stats"]["lp"].values, lp)
    np.testing.assert_array_equal(posterior["model_energy"].values, -lp)
    assert data["warmup_posterior"]["hidden"].shape == (3, 4, 3)
    assert posterior.attrs["seed"] == 0


# --- seeds ---------------------------------------------------------------------------------------


@each_machine
def test_the_same_seed_gives_the_same_draws_and_leaves_the_generator_alone(name: str) -> None:
    machine = SMALL[name].machine(torch.float32)
    before = torch.get_rng_state()
    first = run(Gibbs(), machine, **SHORT, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert_same_draws(first, run(Gibbs(), machine, **SHORT, seed=3))


def test_neighbouring_seeds_share_no_chain() -> None:
    machine = BoltzmannMachine.restricted(30, 20)
    length = {"draws": 3, "warmup": 0}
    runs = [run(Gibbs(), machine, **length, chains=4, seed=seed) for seed in range(4)]
    chains = torch.cat([r.draws["visible"][:, 0] for r in runs])
    assert len(chains.unique(dim=0)) == 16


def test_without_a_seed_a_run_follows_the_caller_s_generator() -> None:
    machine = SMALL["restricted"].machine()
    torch.manual_seed(5)
    first, second = (run(Gibbs(), machine, **SHORT) for _ in range(2))
    torch.manual_seed(5)
    assert_same_draws(first, run(Gibbs(), machine, **SHORT))
    assert first.attributes["seed"] != second.attributes["seed"]
    repeated = run(Gibbs(), machine, **SHORT, seed=int(first.attributes["seed"]))
    assert_same_draws(first, repeated)


def test_a_numpy_integer_is_a_seed() -> None:
    machine = SMALL["restricted"].machine()
    first = run(Gibbs(), machine, **SHORT, seed=np.int64(3))
    assert_same_draws(first, run(Gibbs(), machine, **SHORT, seed=3))


# --- how long ------------------------------------------------------------------------------------


def test_thinned_draws_are_every_third_of_all() -> None:
    machine = SMALL["general"].machine()
    every = run(Gibbs(), machine, draws=30, warmup=7, seed=0)
    third = run(Gibbs(), machine, draws=10, warmup=7, thinning=3, seed=0)
    for site in every.draws:
        assert torch.equal(third.draws[site], every.draws[site][:, 2::3])
    assert torch.equal(third.statistics["lp"], every.statistics["lp"][:, 2::3])


def test_the_warm_up_is_kept_on_request() -> None:
    machine = SMALL["general"].machine()
    every = run(Gibbs(), machine, draws=20, warmup=0, seed=0)
    kept = run(Gibbs(), machine, draws=12, warmup=8, keep="everything", seed=0)
    thinned = run(Gibbs(), machine, draws=4, warmup=8, thinning=3, keep="everything", seed=0)
    for site, draws in every.draws.items():
        assert torch.equal(kept.warmup_draws[site], draws[:, :8])
        assert torch.equal(kept.draws[site], draws[:, 8:])
        assert torch.equal(thinned.warmup_draws[site], draws[:, [2, 5]])
        assert torch.equal(thinned.draws[site], draws[:, [10, 13, 16, 19]])
    lp = every.statistics["lp"]
    assert torch.equal(kept.warmup_statistics["lp"], lp[:, :8])
    assert torch.equal(thinned.warmup_statistics["lp"], lp[:, [2, 5]])


@pytest.mark.filterwarnings("ignore:The kernel does not move")
def test_chains_start_where_they_are_told() -> None:
    machine = SMALL["restricted"].machine(torch.float32)
    start = {"visible": torch.ones(6, 4), "hidden": torch.zeros(6, 3)}
    only_hidden = run(Gibbs(("hidden",)), machine, **SHORT, initial=start, chains=99, seed=0)
    assert only_hidden.attributes["chains"] == 6
    assert bool((only_hidden.draws["visible"] == 1).all())
    assert torch.equal(start["hidden"], torch.zeros(6, 3))  # what was given is not written to
    for kind in (lambda v: v.numpy(), lambda v: v.bool(), lambda v: v.to(torch.uint8)):
        same = {site: kind(value) for site, value in start.items()}
        again = run(Gibbs(("hidden",)), machine, **SHORT, initial=same, seed=0)
        assert_same_draws(only_hidden, again)


@pytest.mark.filterwarnings("ignore:The kernel does not move")
def test_a_random_start_takes_every_value_of_every_unit() -> None:
    machine = SMALL["bits and spins"].machine()
    chains = run(Gibbs(("hidden",)), machine, 1, warmup=0, chains=500, seed=0)
    # α = 1e-6 for 4 units, N = 500: a share off by 0.12 is found.
    share = (chains.draws["visible"][:, 0] == 1).double().mean(0)
    assert bool(((share - 0.5).abs() < 0.12).all())
    spins = run(Gibbs(("visible",)), machine, 1, warmup=0, chains=500, seed=0)
    assert set(spins.draws["hidden"].unique().tolist()) == {-1, 1}


# --- going on ------------------------------------------------------------------------------------


@each_machine
def test_sixty_draws_and_forty_more_are_a_hundred(name: str) -> None:
    machine = SMALL[name].machine(torch.float32)
    hundred = run(Gibbs(), machine, draws=100, warmup=3, thinning=2, seed=4)
    sixty = run(Gibbs(), machine, draws=60, warmup=3, thinning=2, seed=4)
    torch.rand(3)
    before = torch.get_rng_state()
    more = resume(resume(sixty, machine, 15), machine, 25)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_draws(hundred, more)
    assert more.draws["visible" if "visible" in more.draws else "a"].shape[1] == 100
    assert float(more.attributes["seconds"]) > float(sixty.attributes["seconds"])


def test_after_learning_the_new_draws_follow_the_new_parameters() -> None:
    bias = torch.nn.Parameter(torch.zeros(5))
    machine = BoltzmannMachine.fully_visible(5, biases=bias, couplings=torch.zeros(5, 5))
    chains = run(Gibbs(), machine, 10, warmup=0, seed=0)
    with torch.no_grad():
        bias.fill_(50.0)
    more = resume(chains, machine, 5)
    assert bool((more.draws["visible"][:, 10:] == 1).all())
    assert torch.equal(more.draws["visible"][:, :10], chains.draws["visible"])


@dataclass(frozen=True, eq=False)
class Stopped(Kernel):
    """Gibbs, until someone presses Ctrl-C."""

    after: int
    count: Any

    def init(self, energy: Energy, x: Sites) -> Any:
        return Gibbs().init(energy, x)

    def step(self, energy: Energy, state: Any) -> Any:
        if next(self.count) == self.after:
            raise KeyboardInterrupt
        return Gibbs().step(energy, state)

    def refresh(self, energy: Energy, state: Any, x: Sites) -> Any:
        return Gibbs().refresh(energy, state, x)


def test_a_run_that_is_stopped_in_its_warm_up_ends_it_first() -> None:
    machine = SMALL["general"].machine()
    length = {"draws": 6, "warmup": 9, "keep": "everything"}
    whole = run(Gibbs(), machine, **length, seed=6)
    stopped = run(Stopped(4, itertools.count()), machine, **length, seed=6)
    assert stopped.attributes["warmup_done"] == 4
    more = resume(stopped, machine, 6)
    assert more.attributes["warmup_done"] == 9
    for site, draws in whole.draws.items():
        assert torch.equal(more.draws[site], draws)
        assert torch.equal(more.warmup_draws[site], whole.warmup_draws[site])


@pytest.mark.parametrize("after", [0, 3, 5, 6, 11])
def test_a_run_that_is_stopped_keeps_its_draws_and_can_go_on(after: int) -> None:
    machine = SMALL["general"].machine()
    whole = run(Gibbs(), machine, 20, warmup=5, seed=6)
    chains = run(Stopped(after, itertools.count()), machine, 20, warmup=5, seed=6)
    kept = max(0, after - 5)
    assert chains.interrupted
    assert chains.attributes["interrupted"] is True
    for site, draws in chains.draws.items():
        assert torch.equal(draws, whole.draws[site][:, :kept])
    assert torch.equal(chains.statistics["lp"], whole.statistics["lp"][:, :kept])
    more = resume(chains, machine, 7)
    assert not more.interrupted
    for site, draws in more.draws.items():
        assert torch.equal(draws, whole.draws[site][:, : kept + 7])
    assert {name: value.shape[1] for name, value in more.statistics.items()} == {
        "lp": kept + 7,
        "n_flips": kept + 7,
    }
    posterior = more.to_arviz()["posterior"]
    assert posterior["visible"].shape[1] == kept + 7


def test_a_run_that_is_stopped_twice_keeps_all_its_draws() -> None:
    machine = SMALL["general"].machine()
    whole = run(Gibbs(), machine, 20, warmup=0, seed=6)
    first = run(Stopped(4, itertools.count()), machine, 20, warmup=0, seed=6)
    count = iter([0, 1, 4])
    second = resume(Chains(**{**vars(first), "kernel": Stopped(4, count)}), machine, 9)
    assert second.interrupted
    assert second.draws["visible"].shape[1] == 6
    assert torch.equal(second.draws["visible"], whole.draws["visible"][:, :6])
    assert second.statistics["n_flips"].shape[1] == 6


# --- an energy that turns into no number ---------------------------------------------------------


class Fragile(Energy):
    """Energy that is NaN in one state."""

    sites: ClassVar = {"x": Site(boolean, torch.Size([2]))}
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, broken: float) -> None:
        super().__init__()
        self.broken = broken

    def evaluate(self, x: Sites) -> Tensor:
        return torch.where(x["x"].sum(-1) == 2, self.broken, 0.0)

    def structure(self) -> Structure:
        return WithoutTerms(self)


@dataclass(frozen=True, eq=False)
class Walk(Kernel):
    """From (0, 0) to (1, 0) and then, in the second chain, to (1, 1)."""

    def init(self, energy: Energy, x: Sites) -> Any:
        return WalkState(x, 0)

    def step(self, energy: Energy, state: Any) -> Any:
        x = state.x["x"].clone()
        x[:, 0] = 1
        if state.steps >= 4:
            x[1, 1] = 1
        return WalkState({"x": x}, state.steps + 1), WalkInfo()

    def refresh(self, energy: Energy, state: Any, x: Sites) -> Any:
        return WalkState(x, state.steps)


@dataclass(frozen=True)
class WalkState:
    x: Sites
    steps: int


class WalkInfo:
    def _asdict(self) -> dict:
        return {}


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_an_energy_that_is_no_number_stops_the_run_and_keeps_the_draws(broken: float) -> None:
    start, message = torch.zeros(3, 2), r"energy.*chains \[1\].*after 4 draws"
    with pytest.raises(NonFiniteEnergyError, match=message) as caught:
        run(Walk(), Fragile(broken), 10, warmup=0, initial=start, seed=0)
    chains = caught.value.chains
    assert chains.draws["x"].shape == (3, 4, 2)
    assert chains.statistics["lp"].shape == (3, 4)
    two = run(Walk(), Fragile(broken), 2, warmup=0, initial=start, seed=0)
    with pytest.raises(NonFiniteEnergyError) as caught:
        resume(two, Fragile(broken), 10)
    assert caught.value.chains.draws["x"].shape == (3, 4, 2)


def test_parameters_that_are_no_numbers_are_found_before_they_give_zeros() -> None:
    machine = BoltzmannMachine.restricted(4, 3)
    chains = run(Gibbs(), machine, 5, warmup=0, seed=0)
    with torch.no_grad():
        machine.layers["hidden"].bias[1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"biases of 'hidden'.*diverged.*lower"):
        run(Gibbs(), machine, 5, warmup=0, seed=0)
    with pytest.raises(FloatingPointError, match="biases of 'hidden'"):
        resume(chains, machine, 5)


# --- kernels by hand -----------------------------------------------------------------------------


def test_a_kernel_serves_any_energy_and_any_batch() -> None:
    kernel = Gibbs()
    for name in ("restricted", "torus"):
        machine = SMALL[name].machine()
        for batch in ((), (1,), (2, 3)):
            x = {
                site: torch.ones((*batch, layer.size), dtype=torch.float64)
                for site, layer in machine.layers.items()
            }
            state = advance(kernel, machine, kernel.init(machine, x), 3)
            assert {s: v.shape for s, v in state.x.items()} == {s: v.shape for s, v in x.items()}
            assert all(bool((value == 1).all()) for value in x.values())  # the start is not moved


def test_refresh_reads_the_parameters_again() -> None:
    bias = torch.nn.Parameter(torch.full((5,), -50.0))
    machine = BoltzmannMachine.fully_visible(
        5, unit=Spin(), biases=bias, couplings=torch.zeros(5, 5)
    )
    kernel = Gibbs()
    state = kernel.init(machine, {"visible": torch.ones(3, 5)})
    state, _ = kernel.step(machine, state)
    assert bool((state.x["visible"] == -1).all())
    with torch.no_grad():
        bias.fill_(50.0)
    state, _ = kernel.step(machine, kernel.refresh(machine, state, state.x))
    assert bool((state.x["visible"] == 1).all())


def test_a_step_takes_no_gradient() -> None:
    machine = SMALL["general"].machine(wrap=torch.nn.Parameter)
    kernel = Gibbs()
    state, _ = kernel.step(machine, kernel.init(machine, SMALL["general"].tensors()))
    assert not any(value.requires_grad for value in state.x.values())


# --- energies that are infinite somewhere, or turn NaN -------------------------------------------


def few(x: Tensor, at_most: int = 2) -> Tensor:
    """At most so many of the bits may be 1."""
    return torch.where(x.sum(-1) <= at_most, x.sum(-1) * 0.2, torch.inf)


def bits(function: Callable[[Tensor], Tensor], count: int = 6) -> Energy:
    return CallableEnergy(function, {"x": Site(boolean, torch.Size([count]))})


@pytest.mark.parametrize("kernel", [GibbsWithGradients(), RandomBlocks(size=2)], ids=repr)
def test_chains_start_where_the_energy_is_finite(kernel: Kernel) -> None:
    start = finite_start(bits(few), 200)["x"]
    assert int(start.sum(-1).max()) == 2
    # Every place is as likely: of 22 states 1, 6 and 15 have no bit, one and two.
    shares = torch.bincount(start.sum(-1).long()).double() / 200
    # α = 1e-6, N = 200: a share off by 0.2 is found.
    assert (shares - torch.tensor([1, 6, 15]) / 22).abs().max() < 0.2
    chains = run(kernel, bits(few), 30, warmup=5, chains=20, seed=0)
    assert int(chains.draws["x"].sum(-1).max()) == 2


def test_a_random_start_is_the_first_one_where_that_is_finite() -> None:
    energy = bits(lambda x: few(x, 6))
    torch.manual_seed(3)
    found = finite_start(energy, 5)["x"]
    torch.manual_seed(3)
    assert torch.equal(found, random_start(energy, 5)["x"])


def test_a_start_of_no_finite_energy_is_refused() -> None:
    start = torch.zeros(3, 6)
    start[1] = 1
    with pytest.raises(ValueError, match=r"start is infinite in the chains \[1\]"):
        run(RandomBlocks(), bits(few), **SHORT, initial=start)
    hopeless = bits(lambda x: few(x, 0), 40)
    with pytest.raises(ValueError, match="4 of 4 chains have found no finite energy"):
        run(RandomBlocks(), hopeless, **SHORT)
    assert run(RandomBlocks(), hopeless, **SHORT, initial=torch.zeros(2, 40)).draws["x"].sum() == 0
    root = bits(lambda x: (x.sum(-1) - 3.5).sqrt())
    start[1] = 0
    with pytest.raises(ValueError, match="start is NaN"):
        run(RandomBlocks(), root, **SHORT, initial=start)


class TurnsNaN:
    """A function that is NaN after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, x: Tensor) -> Tensor:
        self.left -= 1
        energy = x.square().sum(-1) * 0.3
        return energy if self.left > 0 else energy * torch.nan


def redrawn_bits(x: Tensor) -> dist.Independent:
    return dist.Bernoulli(torch.full_like(x, 0.5)).to_event(1)


TURNING: dict[str, tuple[Kernel, bool]] = {  # and whether it moves bits
    "gradients": (GibbsWithGradients(), True),
    "discrete Langevin": (DiscreteLangevin(step_size=0.5), True),
    "blocks": (RandomBlocks(), True),
    "any proposal": (MetropolisHastings("x", redrawn_bits), True),
    "tempering": (ParallelTempering(GibbsWithGradients(), (0.0, 1.0)), True),
    "HMC": (HMC(step_size=0.3, trajectory_length=0.5), False),
    "MALA": (MALA(step_size=0.3), False),
    "random walk": (RandomWalk(scale=0.5), False),
    "Langevin": (Langevin(step_size=0.1), False),
}


@pytest.mark.parametrize("name", TURNING)
def test_an_energy_that_turns_nan_is_found_though_its_chains_stand_still(name: str) -> None:
    kernel, discrete = TURNING[name]
    support = boolean if discrete else constraints.real
    sites = {"x": Site(support, torch.Size([3]))}
    energy = CallableEnergy(TurnsNaN(1000), sites)
    with pytest.raises(NonFiniteEnergyError, match="energy became NaN in the chains") as caught:
        run(kernel, energy, 1200, warmup=20, chains=4, seed=0)
    draws = caught.value.chains.draws["x"]
    assert 30 < draws.shape[1] < 1200
    early = CallableEnergy(TurnsNaN(30), sites)
    with pytest.raises(NonFiniteEnergyError, match="after 0 draws"):
        run(kernel, early, 10, warmup=60, chains=4, seed=0)


def test_what_has_a_weight_of_nan_is_not_chosen() -> None:
    weights = torch.tensor([[0.0, torch.nan, 1.0], [torch.nan, -torch.inf, 0.0], [3.0, 0.0, 1.0]])
    chosen = chance.choose(weights.expand(400, 3, 3))
    assert set(chosen[:, 0].tolist()) == {0, 2}
    assert set(chosen[:, 1].tolist()) == {2}
    assert set(chosen[:, 2].tolist()) == {0, 1, 2}
    share = float((chosen[:, 0] == 2).double().mean())  # α = 1e-6, N = 400: 0.12 off is found
    assert abs(share - 1 / (1 + math.exp(-1))) < 0.12
    for never in (torch.nan, -torch.inf):
        nothing = chance.choose(torch.full((5, 4), never))
        assert nothing.tolist() == [-1] * 5  # to stay: no index has a law


# --- arguments -----------------------------------------------------------------------------------


def test_counts_of_numpy_are_counts() -> None:
    machine = SMALL["torus"].machine()
    counts = {"draws": np.int32(3), "warmup": np.int64(0), "thinning": np.uint8(1)}
    chains = run(Gibbs(), machine, **counts, chains=np.int64(2), seed=0)  # type: ignore[arg-type]
    assert chains.schedule == Schedule(draws=3, warmup=0, thinning=1)
    assert type(chains.schedule.draws) is int
    assert chains.draws["visible"].shape[:2] == (2, 3)
    for wrong in (3.0, "3", True, None, np.float64(3)):
        with pytest.raises(ValueError, match="wanted a whole number of at least 1"):
            run(Gibbs(), machine, wrong)  # type: ignore[arg-type]


def test_chains_go_on_only_with_the_energy_of_their_sites() -> None:
    machine = SMALL["torus"].machine()
    chains = run(Gibbs(), machine, 3, warmup=0, chains=2, seed=0)
    for other in (
        SMALL["restricted"].machine(),
        BoltzmannMachine.fully_visible(9).double(),
        SMALL["torus"].machine(torch.float32),
    ):
        with pytest.raises(ValueError, match="give the energy that they were drawn from"):
            resume(chains, other, 2)
    assert resume(chains, SMALL["torus"].machine(), 2).draws["visible"].shape[1] == 5
