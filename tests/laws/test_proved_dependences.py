"""Elements that are coupled where nobody looks: drawn one after another, or found out in the run.

Every model has a coupling that is off in most states: behind a threshold, a gate, an index, a
cumulative operation, a rare conjunction or a write in place. The exact transition matrix of a Gibbs
step must leave the law unchanged that enumeration by Pyro's own traces gives.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_ebm import infer
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    Energy,
    ModelEnergy,
    Structure,
    UnbatchedModelWarning,
    WithoutTerms,
    clamp,
)
from pyro_ebm.energies.pyro_models import model as model_file
from pyro_ebm.energies.pyro_models.dependence import Prober, Reach
from pyro_ebm.kernels import Cycle, Gibbs, RandomWalk, WrongDependenceError, resume, run, watch
from pyro_ebm.kernels.watch import Watch
from pyro_ebm.sites import Sites
from tests.support.discrete import error, states
from tests.support.models import CASES, Case, numbers, real, vector

LIMIT = 1e-12
SEEN = vector([0.5, 2.0, -0.5])


def bits(p: float = 0.4, n: int = 3) -> Tensor:
    with pyro.plate("n", n):
        return pyro.sample("z", dist.Bernoulli(real(p)))


def see(mean: Tensor, scale: float = 0.8) -> None:
    with pyro.plate("m", len(SEEN)):
        pyro.sample("y", dist.Normal(mean, scale), obs=SEEN)


def far() -> Tensor:
    return pyro.sample("s", dist.Normal(real(5.0), 0.3))


# --- the four rows -------------------------------------------------------------------------------


def threshold() -> None:
    s = far()
    with pyro.plate("n", 3):
        z = pyro.sample("z", dist.Bernoulli(real(0.4)))
        pyro.sample("y", dist.Normal(z + torch.relu(s - 3) * z.roll(1), 0.8), obs=SEEN)


def in_place() -> None:
    s, z = far(), bits()
    mean = torch.zeros(3).double()
    mean[:] = torch.relu(s - 3) * z
    see(mean)


def energy_site() -> None:
    weight = torch.zeros(3, 3).double()
    machine = BoltzmannMachine.fully_visible(3, couplings=weight, biases=vector([-0.4, -0.4, -0.4]))
    s = far()
    z = pyro.sample("z", EnergyDistribution.up_to_constant(machine))
    see(z + torch.relu(s - 3) * z.roll(1))


def conjunction() -> None:
    with pyro.plate("n", 8):
        z = pyro.sample("z", dist.Bernoulli(real(0.9)))
        pyro.sample("y", dist.Normal(z + z.prod(-1, keepdim=True), 0.8), obs=torch.ones(8).double())


FOUR: dict[str, tuple[Callable[[], None], int]] = {
    "a threshold": (threshold, 3),
    "in place": (in_place, 1),
    "a site that is an energy": (energy_site, 3),
    "a conjunction": (conjunction, 8),
}


def energy_of(model: Callable[..., Any], *args: Any) -> ModelEnergy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnbatchedModelWarning)
        return ModelEnergy(model, *args)


def law_error(energy: ModelEnergy, model: Callable[[], None], x: Sites) -> float:
    """How far a Gibbs step over all discrete sites is from one that leaves their law unchanged."""
    return error(energy, states(Case(model), energy, energy.discrete, x))


@pytest.mark.parametrize("name", FOUR)
def test_what_the_probes_do_not_see_is_not_taken_for_independent(name: str) -> None:
    model, blocks = FOUR[name]
    energy = energy_of(model)
    assert energy.energy_sites == {}
    assert len(energy.blocks("z")) == blocks
    assert energy.discrete_site("z").terms == {"z", "y"}
    x = {n: v[0] for n, v in energy.initial(1).items()}
    for s in (0.0, 5.0):
        assert law_error(energy, model, {**x, "s": real(s)} if "s" in x else x) < LIMIT


@pytest.mark.parametrize("state", range(4))
def test_what_is_claimed_does_not_hang_on_the_callers_generator(state: int) -> None:
    torch.manual_seed(state)
    before = torch.get_rng_state()
    assert len(energy_of(conjunction).blocks("z")) == 8
    assert torch.equal(torch.get_rng_state(), before)


# --- twelve more ---------------------------------------------------------------------------------


def gate() -> None:
    """Neighbours meet where a gate is open."""
    gate = pyro.sample("gate", dist.Bernoulli(real(0.02)))
    z = bits()
    see(torch.where(gate > 0, z + 2 * z.flip(-1), z))


def table() -> None:
    """An element says which other one is seen."""
    z = bits()
    see(z[(z.long() + torch.arange(3)) % 3] + z)


def running_sum() -> None:
    s, z = far(), bits()
    see(z + (s > 4.5) * z.cumsum(-1))


def clamped_count() -> None:
    """The number of ones counts from three on."""
    z = bits(0.3, 4)
    with pyro.plate("m", 4):
        more = (z.sum(-1, keepdim=True) - 2.5).clamp(min=0)
        pyro.sample("y", dist.Normal(z + 4 * more, 0.8), obs=vector([1.0, 1.5, 2.0, 1.0]))


def maximum() -> None:
    s, z = far(), bits()
    see(z + torch.relu(s - 4) * z.max(-1, keepdim=True).values)


def matrix() -> None:
    z = bits()
    see(z + torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0]]).double() @ z)


def written_one_by_one() -> None:
    z = bits()
    mean = torch.zeros(3).double()
    for k in range(3):
        mean[k] = z[k] + z[k - 1] * z[k]
    see(mean)


def written_through_a_view() -> None:
    z = bits()
    mean = z.clone()
    mean[1:].mul_(1 + z[:1])
    see(mean)


def asked() -> None:
    """A branch of the program."""
    z = bits()
    see(3 * z if float(z.sum()) == 3 else z)


def outside_of_torch() -> None:
    z = bits()
    see(torch.from_numpy(np.roll(z.detach().numpy(), 1)) * z + z)


def sorted_values() -> None:
    labels = [0.0, 1.0, 3.0]
    with pyro.plate("n", 3):
        z = pyro.sample("z", dist.Categorical(logits=numbers(3, seed=60)))
    see(vector(labels)[z.sort().values])


def covariance() -> None:
    """Elements meet in the law of what is seen, where the real site is large."""
    s, z = far(), bits()
    root = torch.eye(3).double() + torch.relu(s - 4) * numbers(3, 3, seed=61).tril(-1)
    pyro.sample("y", dist.MultivariateNormal(z, scale_tril=root), obs=SEEN)


def detached() -> None:
    z = bits()
    with pyro.plate("others", 3):
        other = pyro.sample("other", dist.Bernoulli(0.2 + 0.6 * z.detach().data.roll(1)))
    see(z + other)


def factor() -> None:
    """All on is forbidden, as a factor."""
    z = bits(0.7)
    pyro.factor("at most two", torch.where(z.prod(-1) > 0, -5.0, 0.0).double())


HIDDEN: dict[str, Callable[[], None]] = {
    "a gate": gate,
    "an index": table,
    "a running sum": running_sum,
    "a count above two": clamped_count,
    "a maximum": maximum,
    "a matrix": matrix,
    "written one by one": written_one_by_one,
    "written through a view": written_through_a_view,
    "a branch": asked,
    "outside of torch": outside_of_torch,
    "sorted": sorted_values,
    "a covariance": covariance,
    "detached": detached,
    "a factor": factor,
}
FIRST = [(name, 0) for name in HIDDEN]
MORE = [pytest.param(name, k, marks=pytest.mark.slow) for name in HIDDEN for k in range(1, 5)]


@pytest.mark.parametrize(("name", "seed"), [*FIRST, *MORE])
def test_a_hidden_coupling_does_not_spoil_the_law(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    energy = energy_of(HIDDEN[name])
    x = {n: v[0] for n, v in energy.initial(1).items()}
    s = {} if "s" not in x else {"s": real(4.0 + seed / 2)}
    assert law_error(energy, HIDDEN[name], {**x, **s}) < LIMIT


# --- where it is right to go together ------------------------------------------------------------


def elementwise() -> None:
    """Tables, gathers, broadcasts, stacks and sums over other dimensions."""
    s = far()
    with pyro.plate("n", 3):
        z = pyro.sample("z", dist.Categorical(logits=numbers(4, seed=62)))
        table = torch.stack([s * numbers(4, seed=63), numbers(4, seed=64)], -1)
        two = table[z]  # (3, 2)
        own = numbers(3, 4, seed=65).gather(-1, z[:, None]).squeeze(-1)
        mean = (two * torch.ones(2).double()).sum(-1) + own
        kind = torch.nn.functional.softmax(two, -1)
        pyro.sample("kind", dist.Categorical(kind), obs=torch.tensor([0, 1, 1]))
    see(torch.where(z > 1, mean, mean.clamp(max=1.0)))


def flags() -> None:
    """Sites one after another in a plate, each a gate for the next."""
    rate = pyro.sample("rate", dist.Beta(real(2.0), real(2.0)))
    with pyro.plate("n", 3):
        z = torch.ones(3).double()
        for t in range(3):
            z = pyro.sample(f"z{t}", dist.Bernoulli(rate * z))
            pyro.sample(f"y{t}", dist.Bernoulli(0.9 * z), obs=vector([1.0, t < 1, 0.0]))


@pytest.mark.parametrize("model", [elementwise, flags])
def test_elements_that_are_apart_go_together(model: Callable[[], None]) -> None:
    energy = energy_of(model)
    assert {site: len(energy.blocks(site)) for site in energy.discrete} == dict.fromkeys(
        energy.discrete, 1
    )
    assert not any(isinstance(energy.discrete_site(s).program, str) for s in energy.discrete)
    x = {n: v[0] for n, v in energy.initial(1).items()}
    for site in energy.discrete:
        assert error(energy, states(Case(model), energy, (site,), x)) < LIMIT


# --- what is claimed, for people -----------------------------------------------------------------


def test_a_report_says_what_is_claimed_and_why() -> None:
    ring = energy_of(threshold).dependences
    assert ring["z"].terms == ("y", "z")
    assert ring["z"].obstacles == {"n": "they meet in roll on the way to 'y'"}
    assert "one after another along n: they meet in roll on the way to 'y'" in repr(ring)
    assert energy_of(in_place).dependences["z"].independent == ("n",)
    assert "item" in energy_of(asked).dependences["z"].obstacles["n"]
    assert "numpy" in energy_of(outside_of_torch).dependences["z"].obstacles["n"]
    swept = energy_of(lambda: see(pyro.sample("z", EnergyDistribution(machine()))))
    assert "swept as its own energy" in repr(swept.dependences)


def machine() -> BoltzmannMachine:
    return BoltzmannMachine.fully_visible(3, couplings=numbers(3, 3, seed=66), biases=numbers(3))


@pytest.mark.parametrize("model", [elementwise, energy_site, threshold])
def test_one_by_one_claims_nothing(model: Callable[[], None]) -> None:
    energy = energy_of(model).one_by_one()
    assert len(energy.blocks("z")) == 3
    assert energy.energy_sites == {}
    found = energy.dependences["z"]
    assert found.independent == ()
    assert set(found.terms) >= {"s", "z", "y"}
    x = {n: v[0] for n, v in energy.initial(1).items()}
    assert law_error(energy, model, x) < LIMIT


# --- the check during the run --------------------------------------------------------------------

right_reach = Prober.reach


def anyway(*_: object) -> bool:
    return True


def no_obstacle(*_: object) -> None:
    return None


def without(prober: Prober, site: str, *_: Any) -> Reach:
    """What is seen is left out."""
    found = right_reach(prober, site, *_)
    return found._replace(terms=found.terms - {"y"})


FAULTS: dict[str, dict[str, object]] = {
    "a threshold": {"obstacle": no_obstacle, "is_local": anyway},
    "in place": {"reach": without},
    "a site that is an energy": {"is_apart": anyway, "is_separable": anyway},
    "a conjunction": {"obstacle": no_obstacle, "is_local": anyway},
}
SEEDS = [*range(3), *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 20))]


def wrong_energy(name: str, monkeypatch: pytest.MonkeyPatch) -> ModelEnergy:
    for attribute, fault in FAULTS[name].items():
        monkeypatch.setattr(Prober, attribute, fault)
    return energy_of(FOUR[name][0])


def kernel_of(energy: ModelEnergy) -> Cycle:
    walk = (RandomWalk(("s",), scale=0.3),) if "s" in energy.sites else ()
    return Cycle((Gibbs(("z",)), *walk))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_claim_is_found_within_fifty_sweeps(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = wrong_energy(name, monkeypatch)
    # From where the coupling is on: a walk may take fifty sweeps to get there.
    start = energy.initial(4)
    start |= {"s": torch.full((4,), 5.0).double()} if "s" in start else {}
    with pytest.raises(WrongDependenceError, match="'y'") as caught:
        run(kernel_of(energy), energy, 40, warmup=10, initial=start, seed=seed)
    found = caught.value.chains
    assert found is not None
    assert found.draws["z"].shape[1] == found.statistics["lp"].shape[1] < 40
    assert "one_by_one()" in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_the_cure_in_the_message_works(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = wrong_energy(name, monkeypatch).one_by_one()
    run(kernel_of(energy), energy, 20, warmup=5, chains=2, seed=0)
    x = {n: v[0] for n, v in energy.initial(1).items()}
    assert law_error(energy, FOUR[name][0], x) < LIMIT


def test_a_wrong_claim_is_found_behind_other_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = wrong_energy("a threshold", monkeypatch)
    held = clamp(energy, {"s": real(5.0)})
    for wrapped in (held, 0.5 * held):
        with pytest.raises(WrongDependenceError, match="'y'"):
            run(Gibbs(("z",)), wrapped, 40, warmup=10, seed=0)
    mcmc = infer.MCMC(infer.EnergyKernel(kernel_of(energy), threshold), 40, seed=0)
    with pytest.raises(WrongDependenceError, match="'y'"):
        mcmc.run()


def test_a_resumed_run_keeps_all_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    right = energy_of(threshold)
    chains = run(kernel_of(right), right, 20, warmup=10, chains=2, seed=0)
    wrong = wrong_energy("a threshold", monkeypatch)
    with pytest.raises(WrongDependenceError) as caught:
        resume(chains, wrong, 40)
    assert caught.value.chains is not None
    assert caught.value.chains.draws["z"].shape[1] >= 20


@pytest.mark.parametrize("name", CASES)
def test_right_claims_pass(name: str) -> None:
    """Two hundred moves of every small model."""
    case = CASES[name]
    energy = energy_of(case.model, *case.args)
    x, generator = energy.initial(4), torch.Generator().manual_seed(0)
    for k in range(200 if energy.batched else 50):
        one = {n: v[k % 4 : k % 4 + 1] for n, v in x.items()}
        assert energy.contradiction(one, generator) is None


def test_looks_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = energy_of(elementwise)
    looked = run(kernel_of(energy), energy, 100, warmup=20, chains=2, seed=0)
    monkeypatch.setattr(Watch, "look", lambda *_: None)
    unlooked = run(kernel_of(energy), energy, 100, warmup=20, chains=2, seed=0)
    assert torch.equal(looked.draws["z"], unlooked.draws["z"])
    assert torch.equal(looked.draws["s"], unlooked.draws["s"])


def test_looks_take_at_most_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a look moves by a second, and a step by a tenth of one."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "perf_counter", lambda: now[0])
    looks = []

    class Slow(Energy):
        sites, dtype, device = {}, torch.float64, torch.device("cpu")

        def evaluate(self, x: Sites) -> Tensor:
            raise NotImplementedError

        def contradiction(self, x: Sites, generator: torch.Generator) -> str | None:
            now[0] += 1
            looks.append(now[0])
            return None

        def structure(self) -> Structure:
            return WithoutTerms(self, claims=self)

    own = Watch(Slow().structure(), 0)
    for _ in range(10_000):
        now[0] += 0.1
        own.look({"x": torch.zeros(2, 1)})
    assert len(looks) <= watch.SHARE * now[0] + 1
    assert len(looks) >= watch.SHARE * now[0] - 1


# --- the record is run again ---------------------------------------------------------------------


def by_passes(energy: ModelEnergy) -> ModelEnergy:
    """The same energy with conditional laws from passes of the model."""
    other = energy.one_by_one()
    other.conditionals = {
        site: found and dataclasses.replace(found, program="asked for")
        for site, found in energy.conditionals.items()
    }
    return other


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.summed])
def test_a_program_gives_what_the_model_gives(name: str) -> None:
    energy = energy_of(CASES[name].model, *CASES[name].args)
    x, other = energy.initial(3), by_passes(energy)
    for site in energy.discrete:
        for block in energy.blocks(site):
            mine, theirs = (e.conditional(site, x, block).logits for e in (energy, other))
            assert torch.allclose(mine, theirs, atol=1e-10)


def chain(data: Tensor) -> None:
    state = 0
    for t, y in enumerate(data):
        state = pyro.sample(f"z{t}", dist.Categorical(logits=numbers(3, 3, seed=67)[state]))
        pyro.sample(f"y{t}", dist.Normal(state.double(), 1.0), obs=y)


def test_the_cost_of_a_site_does_not_grow_with_the_model() -> None:
    counts = []
    for n in (6, 24):
        program = energy_of(chain, numbers(n)).discrete_site("z3").program
        assert not isinstance(program, str)
        assert program.sites == ("z2", "z3", "z4")
        counts.append(len(program.instructions))
    assert counts[0] == counts[1]


def test_a_parameter_that_learns_is_read_as_it_is() -> None:
    level = torch.nn.Parameter(real(1.0))

    def model() -> None:
        see(level.exp() * bits())

    energy = energy_of(model)
    x = energy.initial(2)
    before = energy.conditional("z", x).logits
    with torch.no_grad():
        level.fill_(-1.0)
    after = energy.conditional("z", x).logits
    assert not isinstance(energy.discrete_site("z").program, str)
    assert not torch.allclose(before, after)
    assert torch.allclose(after, by_passes(energy).conditional("z", x).logits)


def test_a_model_that_has_changed_is_recorded_anew_when_a_run_starts() -> None:
    box = {"level": 1.0}

    def model() -> None:
        see(box["level"] * bits())

    energy = energy_of(model)
    box["level"] = 3.0
    run(Gibbs(), energy, 1, warmup=1, seed=0)
    x = energy.initial(2)
    law = energy.conditional("z", x)
    assert torch.allclose(law.logits, by_passes(energy).conditional("z", x).logits)


def test_masks_and_scales_are_part_of_a_program() -> None:
    def model() -> None:
        z = bits()
        with poutine.mask(mask=torch.tensor([True, False, True])), poutine.scale(scale=2.5):
            see(2 * z)

    energy = energy_of(model)
    assert not isinstance(energy.discrete_site("z").program, str)
    x = {n: v[0] for n, v in energy.initial(1).items()}
    assert law_error(energy, model, x) < LIMIT


def test_a_model_that_cannot_be_recorded_is_drawn_by_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no record")

    monkeypatch.setattr(model_file, "recorded", fails)
    energy = energy_of(elementwise)
    assert len(energy.blocks("z")) == 3
    assert energy.dependences["z"].obstacles == {"n": "a pass of the model could not be recorded"}
    x = {n: v[0] for n, v in energy.initial(1).items()}
    assert law_error(energy, elementwise, x) < LIMIT
