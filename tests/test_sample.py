"""The default sampler: what it picks, what it says, when it goes on and when it warns."""

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import networkx as nx
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import Verdict, diagnose
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Layer,
    ModelEnergy,
    RandomField,
    clamp,
)
from pyro_ebm.kernels import (
    HMC,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    Kernel,
    MetropolisHastings,
    ParallelTempering,
    RandomBlocks,
    SwendsenWang,
    UnitMass,
    choose_kernel,
    run,
)
from pyro_ebm.kernels.composite.tempering import TemperingTuning
from pyro_ebm.kernels.start import random_start
from pyro_ebm.sampling import NotMixedWarning, exact_draws, sample, sample as package_sample
from pyro_ebm.sites import Site, boolean, random_values, spin
from pyro_ebm.units import Bernoulli, Categorical, Gaussian

V, H = "visible", "hidden"
MODULE = sys.modules["pyro_ebm.sampling.sample"]


@pytest.fixture(autouse=True)
def no_exact_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains are what is tested here, of energies that are small enough for exact draws."""
    monkeypatch.setattr(exact_draws, "SHARE", 0.0)


def site(support: Any, *shape: int) -> Site:
    return Site(support, torch.Size(shape))


def of_sites(**sites: Site) -> Energy:
    """An energy that knows nothing of itself."""

    def energy(*one: Tensor, **several: Tensor) -> Tensor:
        values = [*one, *several.values()]
        return torch.stack([v.reshape(len(v), -1).square().sum(-1) for v in values]).sum(0) / 2

    return CallableEnergy(energy, sites, dtype=torch.float64)


def ferromagnet(size: int, coupling: float) -> BoltzmannMachine:
    graph = nx.grid_2d_graph(size, size, periodic=True)
    weight = torch.full((graph.number_of_edges(),), coupling)
    return BoltzmannMachine.on_graph(graph, couplings=weight)


def gaussian_rbm(strength: float = 1.0) -> BoltzmannMachine:
    """Real units whose hidden bits have nearly equal weights; far apart where it is strong."""
    weight = strength * torch.tensor([[4.0, -2.0], [2.0, 3.0], [-3.0, 1.0]], dtype=torch.float64)
    bias = -weight.square().sum(0) / 2 + torch.tensor([0.5, -0.3], dtype=torch.float64)
    layers = {
        V: Layer(Gaussian(), 3, bias=torch.zeros(3, dtype=torch.float64)),
        H: Layer(Bernoulli(), 2, bias=bias),
    }
    return BoltzmannMachine(layers, {(V, H): weight})


def model() -> None:
    rate = pyro.sample("rate", dist.Beta(2.0, 2.0))
    with pyro.plate("items", 3):
        on = pyro.sample("on", dist.Bernoulli(rate))
        pyro.sample("seen", dist.Normal(on, 1.0), obs=torch.tensor([1.2, -0.3, 0.8]))


# --- what is picked ------------------------------------------------------------------------------

PICKED: dict[str, tuple[Any, list[tuple[type[Kernel], tuple[str, ...]]]]] = {
    "machine": (lambda: BoltzmannMachine.restricted(4, 3), [(Gibbs, (V, H))]),
    "real units": (gaussian_rbm, [(Gibbs, (V, H))]),
    "labels": (
        lambda: BoltzmannMachine({V: Layer(Categorical(3), 4)}, {(V, V): torch.randn(12, 12)}),
        [(Gibbs, (V,))],
    ),
    "random field": (lambda: RandomField.potts(nx.cycle_graph(4), 3), [(Gibbs, (V,))]),
    "model": (lambda: ModelEnergy(model), [(Gibbs, ("on",)), (HMC, ("rate",))]),
    "real": (lambda: of_sites(x=site(constraints.real, 2)), [(HMC, ("x",))]),
    "bits": (
        lambda: of_sites(x=site(boolean, 3)),
        [(DiscreteLangevin, ("x",)), (RandomBlocks, ("x",))],
    ),
    "labels of a function": (
        lambda: of_sites(x=site(constraints.integer_interval(0, 3), 3)),
        [(RandomBlocks, ("x",))],
    ),
    "one-hot": (
        lambda: of_sites(x=site(constraints.one_hot, 3, 4)),
        [(DiscreteLangevin, ("x",)), (RandomBlocks, ("x",))],
    ),
    "mixed": (
        lambda: of_sites(a=site(spin, 2), b=site(constraints.positive), c=site(boolean)),
        [(DiscreteLangevin, ("a", "c")), (RandomBlocks, ("a", "c")), (HMC, ("b",))],
    ),
}


@pytest.mark.parametrize("name", PICKED)
def test_the_kernel_suits_the_structure(name: str) -> None:
    make, wanted = PICKED[name]
    kernel: Any = choose_kernel(make())
    kernels = kernel.kernels if isinstance(kernel, Cycle) else (kernel,)
    assert [(type(k), k.sites) for k in kernels] == wanted


@pytest.mark.parametrize("name", PICKED)
def test_every_site_moves(name: str) -> None:
    energy = PICKED[name][0]()
    chains = run(choose_kernel(energy), energy, 20, warmup=20, chains=8, seed=0)
    for site_name, x in chains.draws.items():
        assert bool((x != x[:, :1]).any()), site_name


def test_clusters_move_what_is_not_frustrated() -> None:
    kernel: Any = choose_kernel(ferromagnet(3, 0.5))
    assert [type(k) for k in kernel.kernels] == [Gibbs, SwendsenWang]
    torch.manual_seed(1)
    weight = torch.randn(18)
    glass = BoltzmannMachine.on_graph(nx.grid_2d_graph(3, 3, periodic=True), couplings=weight)
    assert isinstance(choose_kernel(glass), Gibbs)


def test_a_site_that_nothing_moves_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'n'.*MetropolisHastings\('n', proposal\)"):
        choose_kernel(of_sites(n=site(constraints.multinomial(3), 3)))
    with pytest.raises(TypeError, match="wanted an energy"):
        choose_kernel(3)  # type: ignore[arg-type]


class WholeNumbers(constraints.Constraint):
    is_discrete = True


# --- where chains start --------------------------------------------------------------------------


def test_one_hot_units_start_uniformly() -> None:
    x = random_values(site(constraints.one_hot, 2, 4), (5000,), torch.zeros(()))
    assert x.shape == (5000, 2, 4)
    assert bool(constraints.one_hot.check(x).all())
    # Five standard errors of a share of 10,000.
    torch.testing.assert_close(x.mean((0, 1)), torch.full((4,), 0.25), atol=0.022, rtol=0)


@pytest.mark.parametrize("support", [constraints.nonnegative_integer, constraints.positive_integer])
def test_integers_start_at_their_lowest(support: Any) -> None:
    x = random_values(site(support, 3), (2000,), torch.zeros(()))
    low = support.lower_bound
    assert sorted(set(x.flatten().tolist())) == [low + k for k in range(5)]


def test_integers_without_a_lower_bound_need_a_start() -> None:
    with pytest.raises(ValueError, match="No random start is known"):
        random_values(site(WholeNumbers(), 4), (2,), torch.zeros(()))


# --- what is said --------------------------------------------------------------------------------


def quietly(*args: Any, **kwargs: Any) -> Any:
    """A call whose warnings of bad mixing are expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotMixedWarning)
        return sample(*args, **kwargs)


def test_it_says_what_it_picked(tmp_path: Any) -> None:
    chains = sample(BoltzmannMachine.restricted(4, 3), 200, chains=16, warmup=50, seed=0)
    found = chains.attributes
    assert found["picked"] == "Gibbs(sites=('visible', 'hidden'))"
    assert "conditional laws are known" in str(found["picked_because"])
    assert (found["verdict"], found["tried"], found["advice"]) == ("mixed", "as chosen: mixed", "")
    assert str(diagnose(chains).verdict) == "mixed"
    data = chains.to_arviz()
    data.to_netcdf(str(tmp_path / "chains.nc"))
    assert data["posterior"].attrs["verdict"] == "mixed"


def test_a_given_kernel_and_start_are_taken() -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    start = random_start(machine, 6)
    chains = quietly(machine, 20, warmup=0, kernel=DiscreteLangevin(step_size=1.0), initial=start)
    assert chains.attributes["picked_because"] == "it was given"
    assert isinstance(chains.kernel, DiscreteLangevin)
    assert chains.draws[V].shape == (6, 20, 3)


def test_the_same_seed_gives_the_same_draws() -> None:
    machine = ferromagnet(3, 1.0)
    one, two, other = (
        quietly(machine, 30, chains=6, warmup=20, kernel=Gibbs(), seed=s) for s in (3, 3, 4)
    )
    assert "tempered" in str(one.attributes["tried"])
    assert torch.equal(one.draws[V], two.draws[V])
    assert not torch.equal(one.draws[V], other.draws[V])


def two_camps() -> None:
    """Six bits that follow one, and that follows them: Gibbs changes neither alone."""
    leader = pyro.sample("leader", dist.Bernoulli(torch.tensor(0.4).double()))
    with pyro.plate("items", 6):
        pyro.sample("on", dist.Bernoulli((6 * leader - 3).sigmoid()))


def test_a_ladder_of_a_pyro_model_moves_its_discrete_sites_by_gibbs() -> None:
    chains = quietly(ModelEnergy(two_camps), 24, chains=8, warmup=16, seed=0)
    assert "tempered" in str(chains.attributes["tried"])
    assert chains.attributes["picked_for_ladder"] == (
        "Gibbs for 'leader', 'on': conditional laws are known"
    )
    assert isinstance(chains.kernel, ParallelTempering)
    assert isinstance(chains.kernel.kernel, Gibbs)


def test_the_user_is_told_when_it_has_not_mixed() -> None:
    # Sixteen narrow wells, and steps that are too short for one of them.
    wells = CallableEnergy(lambda x: 400 * (x.square() - 1).square().sum(-1), 4)
    short = HMC(step_size=1e-3, trajectory_length=1e-3)
    with pytest.warns(NotMixedWarning, match=r"(?s)Not mixed: .*Tried were: as chosen: not mixed"):
        chains = sample(wells, 40, chains=8, warmup=20, kernel=short, seed=0)
    assert chains.attributes["verdict"] == "not mixed"
    assert chains.attributes["advice"]


def test_nothing_is_said_where_it_has() -> None:
    normal = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sample(normal, 100, chains=32, warmup=100, seed=0).attributes["verdict"] == "mixed"


# --- when it goes on -----------------------------------------------------------------------------


def wells() -> Energy:
    """Two wells in a row, 0.2 and 0.8, that HMC does not cross in a short run."""

    def energy(x: Tensor) -> Tensor:
        first = (x[:, 0] - 4).square() * 2 - torch.tensor(0.2).log()
        second = (x[:, 0] + 4).square() * 2 - torch.tensor(0.8).log()
        return -torch.logaddexp(-first, -second)

    return CallableEnergy(energy, 1, dtype=torch.float64)


@pytest.fixture(scope="module")
def crossed() -> Iterator[Any]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return quietly(wells(), 300, chains=32, warmup=200, seed=1)


@pytest.mark.slow
def test_chains_that_have_not_mixed_are_tempered(crossed: Any) -> None:
    assert crossed.attributes["tried"].startswith("as chosen: not mixed; tempered: ")
    assert isinstance(crossed.kernel, ParallelTempering)
    right = (crossed.draws[V][..., 0] > 0).double().mean(1)
    error = float(right.std()) / len(right) ** 0.5
    assert abs(float(right.mean()) - 0.2) < 4 * error
    assert error < 0.03


@pytest.mark.slow
def test_each_level_has_a_step_size(crossed: Any) -> None:
    levels = len(crossed.kernel.betas)
    sizes = crossed.kernel.kernel.step_size
    assert sizes.shape == (levels,)
    assert float(sizes[0] / sizes[-1]) > 2  # the reference is wider than a well
    rate = crossed.statistics["acceptance_rate"].mean()
    assert abs(float(rate) - crossed.kernel.kernel.target_acceptance) < 0.05


@pytest.mark.slow
def test_round_trips_are_evidence(crossed: Any) -> None:
    (found,) = [e for e in diagnose(crossed).evidence if "round trips" in e.name]
    assert found.value > 5
    assert found.verdict is Verdict.MIXED
    stuck = replace(crossed, attributes={**crossed.attributes, "round_trips": 0.0})
    (found,) = [e for e in diagnose(stuck).evidence if "round trips" in e.name]
    assert found.verdict is Verdict.CANNOT_TELL


@pytest.mark.slow
def test_what_is_tempered_is_not_told_to_temper(crossed: Any) -> None:
    torch.manual_seed(0)
    apart = crossed.draws[V] + 5 * torch.arange(32.0).reshape(-1, 1, 1)
    advice = " ".join(diagnose(replace(crossed, draws={V: apart})).advice)
    assert "ladder" in advice
    assert "temper" not in advice
    plain = run(HMC(), wells(), 100, warmup=100, chains=16, seed=0)
    assert "temper" in " ".join(diagnose(plain).advice)


@pytest.mark.parametrize(
    ("verdicts", "wanted"), [(("not mixed", "mixed"), 1), (("mixed", "not mixed"), 0)]
)
def test_the_better_run_is_returned(
    verdicts: tuple[str, str], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = run(Gibbs(), BoltzmannMachine.restricted(3, 2), 50, warmup=20, chains=8, seed=0)

    def of(verdict: str) -> Any:
        return MODULE.Judged(verdict, good, replace(diagnose(good), verdict=Verdict(verdict)))

    runs = [of(verdict) for verdict in verdicts]
    monkeypatch.setattr(MODULE, "improved", lambda first, task: runs)
    chains = quietly(BoltzmannMachine.restricted(3, 2), 20, chains=4, warmup=5, seed=0)
    assert chains.attributes["verdict"] == verdicts[wanted]
    assert package_sample is sample


# --- what is never lost --------------------------------------------------------------------------


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def trapped() -> Any:
    """Chains of a ferromagnet below its critical temperature, a ladder, and one of them longer."""
    return quietly(ferromagnet(3, 0.5), 24, chains=6, warmup=16, kernel=Gibbs(), seed=3)


def before_run(number: int, action: Callable[[], Any], patch: pytest.MonkeyPatch) -> None:
    """Something happens before a run: the first is 1, the trial ladder 2, the ladder 3."""
    right, count = MODULE.carried_out, [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            action()
        return right(*args, **kwargs)

    patch.setattr(MODULE, "carried_out", counted)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("error", [ValueError, IndexError, AttributeError])
def test_an_error_on_the_way_leaves_the_draws(
    error: type[Exception], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error("no ladder\nfor this")

    before_run(number, fail, monkeypatch)
    chains = trapped()
    wanted = f"as chosen: not mixed; tempered: failed, {error.__name__}: no ladder for this"
    assert chains.attributes["tried"] == f"{wanted}; as chosen, longer: not mixed"
    assert chains.draws[V].shape == (6, 24, 9)


@pytest.mark.parametrize("number", [2, 3])
def test_ctrl_c_in_the_warm_up_of_a_ladder_leaves_the_draws(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(Gibbs(), ferromagnet(3, 0.5), 24, warmup=16, chains=6, seed=3)
    before_run(number, lambda: monkeypatch.setattr(TemperingTuning, "step", stop), monkeypatch)
    chains = trapped()
    assert chains.attributes["tried"] == "as chosen: not mixed; tempered: interrupted"
    assert chains.attributes["verdict"] == "not mixed"
    assert torch.equal(chains.draws[V], whole.draws[V])
    assert not chains.interrupted


def test_a_ladder_of_few_draws_is_not_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    right, count = ParallelTempering.step, [0]

    def four_draws(self: Any, *args: Any) -> Any:
        count[0] += self.betas != 8
        return right(self, *args) if count[0] < 16 + 4 else stop()

    before_run(3, lambda: monkeypatch.setattr(ParallelTempering, "step", four_draws), monkeypatch)
    chains = trapped()
    tried = str(chains.attributes["tried"])
    assert tried.startswith("as chosen: not mixed; tempered: ")
    assert tried.endswith(" when interrupted")
    assert chains.draws[V].shape == (6, 24, 9)


class UpOrDown(dist.TorchDistribution):  # type: ignore[misc]
    """The next whole number or the one before, as likely; after 0 always 1."""

    support, arg_constraints = constraints.nonnegative_integer, {}

    def __init__(self, center: Tensor) -> None:
        self.center = center
        super().__init__(center.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return (self.center + torch.randint(0, 2, self.center.shape) * 2 - 1).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        inside = torch.where(self.center == 0, 1.0, 0.5).log()
        return inside.masked_fill((value - self.center).abs() != 1, -torch.inf).to(value.dtype)


def test_a_given_kernel_of_counts_goes_on_a_ladder() -> None:
    def counts(n: Tensor) -> Tensor:
        logs = [n * torch.tensor(rate).log() - torch.lgamma(n + 1) - rate for rate in (3.0, 40.0)]
        return -torch.logaddexp(*logs)

    energy = CallableEnergy(counts, {"n": site(constraints.nonnegative_integer)})
    start = torch.tensor([3.0, 40.0]).repeat(4)
    kernel = MetropolisHastings("n", UpOrDown)
    chains = quietly(energy, 40, warmup=16, kernel=kernel, initial=start, seed=0)
    assert str(chains.attributes["tried"]).startswith("as chosen: not mixed; tempered: ")
    assert "failed" not in str(chains.attributes["tried"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_verdict_that_does_not_come_leaves_the_draws(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise error("no verdict")

    monkeypatch.setattr(MODULE, "diagnose", fail)
    chains = trapped()
    assert chains.attributes["verdict"] == "cannot tell"
    assert chains.draws[V].shape == (6, 24, 9)
    assert chains.interrupted == (error is KeyboardInterrupt)
    reason = "interrupted" if chains.interrupted else "RuntimeError: no verdict"
    assert reason in str(chains.attributes["verdict_in_words"])


# --- one law, or several -------------------------------------------------------------------------

ROWS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
HELD = torch.tensor([True, True, False])


def squares() -> Energy:
    return CallableEnergy(lambda x: x.square().sum(-1) / 2, 3)


LAWS: dict[str, tuple[Callable[[], Energy], tuple[int, ...]]] = {
    "a machine": (lambda: BoltzmannMachine.restricted(3, 2), ()),
    "a function": (squares, ()),
    "a function of bits": (lambda: of_sites(x=site(boolean)), ()),
    "a random field": (lambda: RandomField.potts(nx.cycle_graph(4), 3), ()),
    "a Pyro model": (lambda: ModelEnergy(model), ()),
    "a model at two temperatures": (lambda: ModelEnergy(model) * torch.tensor([1.0, 2.0]), (2,)),
    "machines": (lambda: BoltzmannMachine.restricted(3, 2, couplings=torch.randn(5, 3, 2)), (5,)),
    "rows of a machine": (
        lambda: clamp(BoltzmannMachine.restricted(3, 2), ROWS, mask=HELD),
        (2,),
    ),
    "a row of a machine": (
        lambda: clamp(BoltzmannMachine.restricted(3, 2), ROWS[:1], mask=HELD),
        (1,),
    ),
    "rows of a function": (lambda: clamp(squares(), ROWS, mask=HELD), (2,)),
    "rows of a random field": (
        lambda: clamp(
            RandomField.potts(nx.cycle_graph(3), 2, couplings=torch.ones(3)),
            ROWS.long(),
            mask=HELD,
        ),
        (2,),
    ),
    "temperatures": (lambda: squares() * torch.tensor([1.0, 2.0, 3.0]), (3,)),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_are_counted_and_several_refused(name: str) -> None:
    energy, wanted = LAWS[name][0](), LAWS[name][1]
    count = max(1, sum(wanted))
    start = random_start(energy, count)
    chains = run(choose_kernel(energy), energy, 2, warmup=5, initial=start, seed=0)
    task = MODULE.Task(energy, energy.structure(), None, chains.schedule, 0)
    assert MODULE.may_temper(task, chains) == (wanted == ())
    if count > 1:
        with pytest.raises(ValueError, match=rf"{count} laws.*one law.*`run` with chains={count}"):
            sample(energy, 20, warmup=5)
        with pytest.raises(ValueError, match=f"{count} laws"):
            sample(energy, 20, warmup=5, initial=start)


def test_the_way_out_of_several_laws_is_one() -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    energy = clamp(machine, ROWS.repeat_interleave(16, 0), mask=HELD)
    chains = run(choose_kernel(energy), energy, 20, warmup=10, chains=32, seed=0)
    whole = energy.complete(energy.accept(chains.last))[V]
    assert torch.equal(whole[:16, :2], ROWS[:1, :2].expand(16, 2))
    with pytest.raises(ValueError, match=r"\(32,\).*\(4,\).*machines last.*`run`.*chains=32"):
        run(Gibbs(), energy, 1, warmup=0, chains=4)
    one = quietly(clamp(machine, ROWS[:1], mask=HELD), 20, chains=8, warmup=5, seed=0)
    assert one.draws[V].shape == (8, 20, 1)


# --- units that never change ---------------------------------------------------------------------


def camps(free: int) -> BoltzmannMachine:
    """Four bits that are all 0 or all 1, as often: none changes alone. The others are free."""
    weight, bias = torch.zeros(4 + free, 4 + free), torch.zeros(4 + free)
    weight[:4, :4], bias[:4] = 20.0, -30.0
    return BoltzmannMachine.fully_visible(4 + free, couplings=weight.fill_diagonal_(0), biases=bias)


@pytest.mark.parametrize(("free", "first"), [(0, "not mixed"), (2, "cannot tell")])
def test_chains_frozen_in_one_mode_are_tempered(free: int, first: str) -> None:
    start = torch.zeros(16, 4 + free)
    chains = quietly(camps(free), 200, warmup=100, kernel=Gibbs(), initial=start, seed=0)
    assert str(chains.attributes["tried"]).startswith(f"as chosen: {first}; tempered: mixed")
    # Four standard errors of 16 chains: of means that are off by a quarter it finds nearly all.
    up = chains.draws[V][..., :4].double().mean((1, 2))
    assert abs(float(up.mean()) - 0.5) < 4 * float(up.std()) / 4


def test_units_that_a_field_holds_cost_a_short_ladder_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Any] = []
    right = MODULE.carried_out
    monkeypatch.setattr(
        MODULE, "carried_out", lambda *args, **kwargs: runs.append(args) or right(*args, **kwargs)
    )
    bias = {V: torch.tensor([-40.0, 0, 0]), H: torch.zeros(2)}
    machine = BoltzmannMachine.restricted(3, 2, couplings=torch.zeros(3, 2), biases=bias)
    chains = quietly(machine, 100, chains=16, warmup=40, seed=0)
    assert chains.attributes["tried"] == (
        "as chosen: cannot tell; tempered: on 8 levels the units that never changed do not either"
    )
    assert [args[3] for args in runs] == [100, 10]
    assert chains.draws[V].shape == (16, 100, 3)


# --- what is shown -------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_beside_progress_bars_it_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trapped()
    told = terminal.getvalue()
    assert "Picked Gibbs(sites=None): it was given." in told
    assert "As chosen: not mixed. Next: tempered." in told
    assert "step/s" in told


def test_without_progress_bars_it_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    trapped()
    assert capfd.readouterr() == ("", "")


def test_chains_are_summed_up() -> None:
    chains = sample(squares(), 100, chains=16, warmup=100, seed=0)
    lines = dict(line.split(maxsplit=1) for line in repr(chains).splitlines())
    assert lines["chains"] == "16 × 100 draws of visible (3,)"
    assert lines["energy"] == "CallableEnergy, float32 on cpu"
    step, length = chains.kernel.step_size, chains.kernel.trajectory_length  # type: ignore[attr-defined]
    assert lines["kernel"].startswith(
        f"HMC(sites=('visible',), step_size={step:.4g}, trajectory_length={length:.4g}, "
        f"mass=DiagonalMass("
    )
    assert lines["run"].startswith("100 of 100 steps of warm-up, ")
    assert lines["run"].endswith(" s, seed 0")
    assert lines["picked"] == "HMC for 'visible': continuous, with a gradient"
    assert lines["tried"] == "as chosen: mixed"
    assert lines["verdict"].startswith("Mixed")
    assert "advice" not in lines


def test_an_interrupted_run_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = CallableEnergy(lambda x: x.square().sum(-1) / 8, 3)
    mover = HMC(step_size=0.5, trajectory_length=1.0, mass=UnitMass())
    kernel = ParallelTempering(mover, (0.0, 1.0), reference)
    whole = run(kernel, squares(), 4, warmup=3, thinning=2, chains=5, seed=0)
    lines = dict(line.split(maxsplit=1) for line in repr(whole).splitlines())
    assert lines["chains"] == "5 × 4 draws, 2 steps apart of visible (3,)"
    assert lines["kernel"] == (
        "ParallelTempering(kernel=HMC(step_size=0.5, trajectory_length=1, mass=UnitMass()), "
        "betas=(0, 1), reference=CallableEnergy)"
    )
    assert "verdict" not in lines
    monkeypatch.setattr(Gibbs, "step", stop)
    chains = run(Gibbs(), BoltzmannMachine.restricted(3, 2), 4, warmup=3, chains=5, seed=0)
    assert repr(chains).startswith("chains  5 × 0 draws of visible (3,), hidden (2,)\n")
    assert "0 of 3 steps of warm-up" in repr(chains)
    assert repr(chains).endswith(", seed 0, interrupted")
