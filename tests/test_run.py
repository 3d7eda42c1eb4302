"""Runs: what they return, the same seed the same draws, stopping and going on."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, Energy
from pyro_ebm.kernels import (
    Chains,
    Gibbs,
    Kernel,
    NonFiniteEnergyError,
    Schedule,
    advance,
    resume,
    run,
)
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Spin
from tests.machines import SMALL

each_machine = pytest.mark.parametrize("name", SMALL)
SHORT = Schedule(warmup=5, draws=12)


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
    chains = run(Gibbs(), machine, SHORT, chains=3, seed=0)
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


@each_machine
def test_lp_is_minus_the_energy_of_the_stored_draws(name: str) -> None:
    machine = SMALL[name].machine()
    for kernel in (Gibbs(), *(Gibbs((site,)) for site in machine.sites)):
        chains = run(kernel, machine, SHORT, chains=3, seed=1)
        energy = machine({site: value.double() for site, value in chains.draws.items()})
        torch.testing.assert_close(chains.statistics["lp"], -energy, rtol=0, atol=1e-12)


@each_machine
def test_n_flips_counts_the_units_that_changed(name: str) -> None:
    chains = run(Gibbs(), SMALL[name].machine(), Schedule(warmup=0, draws=20), chains=3, seed=2)
    changed = sum((draws.diff(dim=1) != 0).sum(-1) for draws in chains.draws.values())
    assert torch.equal(chains.statistics["n_flips"][:, 1:].long(), changed)


def test_attributes_say_how_the_draws_came_about() -> None:
    machine = SMALL["restricted"].machine()
    kernel, schedule = Gibbs(("hidden", "visible")), Schedule(warmup=2, draws=3, thinning=2)
    chains = run(kernel, machine, schedule, chains=5, seed=7)
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
    assert (chains.kernel, chains.schedule) == (kernel, schedule)


def test_runs_are_data_for_arviz() -> None:
    machine = SMALL["bits and spins"].machine()
    chains = run(Gibbs(), machine, Schedule(4, 10, keep="everything"), chains=3, seed=0)
    names = {"visible": ["a", "b", "c", "d"]}
    data = chains.to_arviz(feature_names=names, observed_data=torch.ones(2, 4))
    posterior = data["posterior"]
    assert posterior["visible"].shape == (3, 10, 4)
    assert posterior["visible"].dtype == np.int8
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
    first = run(Gibbs(), machine, SHORT, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert_same_draws(first, run(Gibbs(), machine, SHORT, seed=3))


def test_neighbouring_seeds_share_no_chain() -> None:
    machine = BoltzmannMachine.restricted(30, 20)
    schedule = Schedule(warmup=0, draws=3)
    runs = [run(Gibbs(), machine, schedule, chains=4, seed=seed) for seed in range(4)]
    chains = torch.cat([r.draws["visible"][:, 0] for r in runs])
    assert len(chains.unique(dim=0)) == 16


def test_without_a_seed_a_run_follows_the_caller_s_generator() -> None:
    machine = SMALL["restricted"].machine()
    torch.manual_seed(5)
    first, second = (run(Gibbs(), machine, SHORT) for _ in range(2))
    torch.manual_seed(5)
    assert_same_draws(first, run(Gibbs(), machine, SHORT))
    assert first.attributes["seed"] != second.attributes["seed"]
    repeated = run(Gibbs(), machine, SHORT, seed=int(first.attributes["seed"]))
    assert_same_draws(first, repeated)


def test_a_numpy_integer_is_a_seed() -> None:
    machine = SMALL["restricted"].machine()
    first = run(Gibbs(), machine, SHORT, seed=np.int64(3))
    assert_same_draws(first, run(Gibbs(), machine, SHORT, seed=3))


# --- schedules -----------------------------------------------------------------------------------


def test_thinned_draws_are_every_third_of_all() -> None:
    machine = SMALL["general"].machine()
    every = run(Gibbs(), machine, Schedule(warmup=7, draws=30), seed=0)
    third = run(Gibbs(), machine, Schedule(warmup=7, draws=10, thinning=3), seed=0)
    for site in every.draws:
        assert torch.equal(third.draws[site], every.draws[site][:, 2::3])
    assert torch.equal(third.statistics["lp"], every.statistics["lp"][:, 2::3])


def test_the_warm_up_is_kept_on_request() -> None:
    machine = SMALL["general"].machine()
    every = run(Gibbs(), machine, Schedule(warmup=0, draws=20), seed=0)
    kept = run(Gibbs(), machine, Schedule(warmup=8, draws=12, keep="everything"), seed=0)
    thinned = run(
        Gibbs(), machine, Schedule(warmup=8, draws=4, thinning=3, keep="everything"), seed=0
    )
    for site, draws in every.draws.items():
        assert torch.equal(kept.warmup_draws[site], draws[:, :8])
        assert torch.equal(kept.draws[site], draws[:, 8:])
        assert torch.equal(thinned.warmup_draws[site], draws[:, [2, 5]])
        assert torch.equal(thinned.draws[site], draws[:, [10, 13, 16, 19]])
    lp = every.statistics["lp"]
    assert torch.equal(kept.warmup_statistics["lp"], lp[:, :8])
    assert torch.equal(thinned.warmup_statistics["lp"], lp[:, [2, 5]])


def test_chains_start_where_they_are_told() -> None:
    machine = SMALL["restricted"].machine(torch.float32)
    start = {"visible": torch.ones(6, 4), "hidden": torch.zeros(6, 3)}
    only_hidden = run(Gibbs(("hidden",)), machine, SHORT, initial=start, chains=99, seed=0)
    assert only_hidden.attributes["chains"] == 6
    assert bool((only_hidden.draws["visible"] == 1).all())
    assert torch.equal(start["hidden"], torch.zeros(6, 3))  # what was given is not written to
    for kind in (lambda v: v.numpy(), lambda v: v.bool(), lambda v: v.to(torch.uint8)):
        same = {site: kind(value) for site, value in start.items()}
        again = run(Gibbs(("hidden",)), machine, SHORT, initial=same, seed=0)
        assert_same_draws(only_hidden, again)


def test_a_random_start_takes_every_value_of_every_unit() -> None:
    machine = SMALL["bits and spins"].machine()
    chains = run(Gibbs(("hidden",)), machine, Schedule(0, 1), chains=500, seed=0)
    # α = 1e-6 for 4 units, N = 500: a share off by 0.12 is found.
    share = (chains.draws["visible"][:, 0] == 1).double().mean(0)
    assert bool(((share - 0.5).abs() < 0.12).all())
    spins = run(Gibbs(("visible",)), machine, Schedule(0, 1), chains=500, seed=0)
    assert set(spins.draws["hidden"].unique().tolist()) == {-1, 1}


# --- going on ------------------------------------------------------------------------------------


@each_machine
def test_sixty_draws_and_forty_more_are_a_hundred(name: str) -> None:
    machine = SMALL[name].machine(torch.float32)
    hundred = run(Gibbs(), machine, Schedule(warmup=3, draws=100, thinning=2), seed=4)
    sixty = run(Gibbs(), machine, Schedule(warmup=3, draws=60, thinning=2), seed=4)
    torch.rand(3)
    before = torch.get_rng_state()
    more = resume(resume(sixty, machine, 15), machine, 25)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_draws(hundred, more)
    assert more.draws["visible" if "visible" in more.draws else "a"].shape[1] == 100
    assert float(more.attributes["seconds"]) > float(sixty.attributes["seconds"])


def test_after_learning_the_new_draws_follow_the_new_parameters() -> None:
    bias = torch.nn.Parameter(torch.zeros(5))
    machine = BoltzmannMachine.fully_visible(5, bias=bias, weight=torch.zeros(5, 5))
    chains = run(Gibbs(), machine, Schedule(0, 10), seed=0)
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
    schedule = Schedule(9, 6, keep="everything")
    whole = run(Gibbs(), machine, schedule, seed=6)
    stopped = run(Stopped(4, itertools.count()), machine, schedule, seed=6)
    assert stopped.attributes["warmup_done"] == 4
    more = resume(stopped, machine, 6)
    assert more.attributes["warmup_done"] == 9
    for site, draws in whole.draws.items():
        assert torch.equal(more.draws[site], draws)
        assert torch.equal(more.warmup_draws[site], whole.warmup_draws[site])


@pytest.mark.parametrize("after", [0, 3, 5, 6, 11])
def test_a_run_that_is_stopped_keeps_its_draws_and_can_go_on(after: int) -> None:
    machine = SMALL["general"].machine()
    whole = run(Gibbs(), machine, Schedule(5, 20), seed=6)
    chains = run(Stopped(after, itertools.count()), machine, Schedule(5, 20), seed=6)
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
    whole = run(Gibbs(), machine, Schedule(0, 20), seed=6)
    first = run(Stopped(4, itertools.count()), machine, Schedule(0, 20), seed=6)
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
        run(Walk(), Fragile(broken), Schedule(0, 10), initial=start, seed=0)
    chains = caught.value.chains
    assert chains.draws["x"].shape == (3, 4, 2)
    assert chains.statistics["lp"].shape == (3, 4)
    two = run(Walk(), Fragile(broken), Schedule(0, 2), initial=start, seed=0)
    with pytest.raises(NonFiniteEnergyError) as caught:
        resume(two, Fragile(broken), 10)
    assert caught.value.chains.draws["x"].shape == (3, 4, 2)


def test_parameters_that_are_no_numbers_are_found_before_they_give_zeros() -> None:
    machine = BoltzmannMachine.restricted(4, 3)
    chains = run(Gibbs(), machine, Schedule(0, 5), seed=0)
    with torch.no_grad():
        machine.layers["hidden"].bias[1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"biases of 'hidden'.*diverged.*lower"):
        run(Gibbs(), machine, Schedule(0, 5), seed=0)
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
    machine = BoltzmannMachine.fully_visible(5, unit=Spin(), bias=bias, weight=torch.zeros(5, 5))
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
