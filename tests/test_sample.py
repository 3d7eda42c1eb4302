"""The default sampler: what it picks, what it says, when it goes on and when it warns."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import networkx as nx
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import NotMixedWarning, Verdict, diagnose, sample
from pyro_ebm.diagnostics import sample as package_sample
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Layer,
    ModelEnergy,
    RandomField,
)
from pyro_ebm.kernels import (
    HMC,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    Kernel,
    ParallelTempering,
    RandomBlocks,
    Schedule,
    SwendsenWang,
    choose_kernel,
    run,
)
from pyro_ebm.kernels.run import random_start
from pyro_ebm.sites import Site, boolean, random_values, spin
from pyro_ebm.units import Bernoulli, Categorical, Gaussian

V, H = "visible", "hidden"


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
    return BoltzmannMachine.on_graph(graph, weight=weight)


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
        [(DiscreteLangevin, ("x",))],
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
    chains = run(choose_kernel(energy), energy, Schedule(20, 20), chains=8, seed=0)
    for site_name, x in chains.draws.items():
        assert bool((x != x[:, :1]).any()), site_name


def test_clusters_move_what_is_not_frustrated() -> None:
    kernel: Any = choose_kernel(ferromagnet(3, 0.5))
    assert [type(k) for k in kernel.kernels] == [Gibbs, SwendsenWang]
    torch.manual_seed(1)
    weight = torch.randn(18)
    glass = BoltzmannMachine.on_graph(nx.grid_2d_graph(3, 3, periodic=True), weight=weight)
    assert isinstance(choose_kernel(glass), Gibbs)


def test_a_site_that_nothing_moves_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'n'.*MetropolisHastings\('n', proposal\)"):
        choose_kernel(of_sites(n=site(constraints.nonnegative_integer)))
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
    ladder = crossed.state.ladder
    none = ladder._replace(round_trips=torch.zeros_like(ladder.round_trips))
    stuck = replace(crossed, state=crossed.state._replace(ladder=none))
    (found,) = [e for e in diagnose(stuck).evidence if "round trips" in e.name]
    assert found.verdict is Verdict.CANNOT_TELL


@pytest.mark.slow
def test_what_is_tempered_is_not_told_to_temper(crossed: Any) -> None:
    torch.manual_seed(0)
    apart = crossed.draws[V] + 5 * torch.arange(32.0).reshape(-1, 1, 1)
    advice = " ".join(diagnose(replace(crossed, draws={V: apart})).advice)
    assert "ladder" in advice
    assert "temper" not in advice
    plain = run(HMC(), wells(), Schedule(100, 100), chains=16, seed=0)
    assert "temper" in " ".join(diagnose(plain).advice)


@pytest.mark.parametrize(
    ("verdicts", "wanted"), [(("not mixed", "mixed"), 1), (("mixed", "not mixed"), 0)]
)
def test_the_better_run_is_returned(
    verdicts: tuple[str, str], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__("sys").modules["pyro_ebm.diagnostics.sample"]
    good = run(Gibbs(), BoltzmannMachine.restricted(3, 2), Schedule(20, 50), chains=8, seed=0)

    def of(verdict: str) -> Any:
        return module.Judged(verdict, good, replace(diagnose(good), verdict=Verdict(verdict)))

    runs = [of(verdict) for verdict in verdicts]
    monkeypatch.setattr(module, "improved", lambda first, task: runs)
    chains = quietly(BoltzmannMachine.restricted(3, 2), 20, chains=4, warmup=5, seed=0)
    assert chains.attributes["verdict"] == verdicts[wanted]
    assert package_sample is sample
