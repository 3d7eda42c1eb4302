"""Sites that a kernel leaves where they start: refused in a Pyro model, named once in a run."""

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC as PyroMCMC
from pyro.nn import PyroModule, PyroSample
from torch.distributions import constraints

from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, ModelEnergy, clamp
from pyro_ebm.infer import MCMC, EnergyKernel
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    IntegerWalk,
    Kernel,
    Langevin,
    MetropolisHastings,
    Mixture,
    ParallelTempering,
    RandomBlocks,
    RandomWalk,
    Schedule,
    TemperedTransitions,
    run,
)
from pyro_ebm.kernels.base import unmoved_sites
from pyro_ebm.sampling import sample
from pyro_ebm.sites import Site


def unmoved_label() -> None:
    label = pyro.sample("label", dist.Bernoulli(0.3))
    mean = pyro.sample("mean", dist.Normal(4 * label, 1.0))
    pyro.sample("seen", dist.Normal(mean, 1.0), obs=torch.tensor(2.5))


@pytest.mark.parametrize("driver", [MCMC, PyroMCMC])
def test_a_latent_site_that_no_kernel_moves_is_refused_with_the_cure(driver: Any) -> None:
    with pytest.raises(ValueError, match=r"does not move the latent sites \['label'\]") as refusal:
        driver(EnergyKernel(HMC(), unmoved_label), 10, 10).run()
    cure = str(refusal.value).partition("Move them too, ")[2].partition(", or hold")[0]
    names = {"Cycle": Cycle, "HMC": HMC, "Gibbs": Gibbs}
    kernel = eval(cure, {"__builtins__": {}}, names)
    mcmc = MCMC(EnergyKernel(kernel, unmoved_label), 500, 300, num_chains=50, seed=0)
    mcmc.run()
    samples = mcmc.get_samples()
    weights = (
        torch.tensor([0.7, 0.3])
        * dist.Normal(torch.tensor([0.0, 4.0]), 2**0.5).log_prob(torch.tensor(2.5)).exp()
    )
    p = float(weights[1] / weights.sum())
    # p = .5381, and E mean 2.326; five standard errors of some 2,000 independent draws at least.
    assert float(samples["label"].mean()) == pytest.approx(p, abs=0.06)
    assert float(samples["mean"].mean()) == pytest.approx((2.5 + 4 * p) / 2, abs=0.2)


def test_a_held_site_is_no_latent_one() -> None:
    held = pyro.condition(unmoved_label, {"label": torch.tensor(1.0)})
    mcmc = MCMC(EnergyKernel(HMC(), held), 200, 200, num_chains=50, seed=0)
    mcmc.run()
    assert float(mcmc.get_samples()["mean"].mean()) == pytest.approx(3.25, abs=0.1)


class Own(Kernel):
    """A kernel that does not tell what it moves."""

    def init(self, energy: Any, x: Any) -> Any:
        return Gibbs().init(energy, x)

    def refresh(self, energy: Any, state: Any, x: Any) -> Any:
        return Gibbs().refresh(energy, state, x)

    def step(self, energy: Any, state: Any) -> Any:
        return Gibbs().step(energy, state)


def test_run_names_a_site_that_is_left_out_once() -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    with pytest.warns(UserWarning, match=r"does not move \['hidden'\].*clamp") as notes:
        run(Gibbs(("visible",)), machine, Schedule(2, 2), seed=0)
    assert len(notes) == 1
    held = clamp(machine, {"hidden": torch.zeros(2)})
    run(Gibbs(("visible",)), held, Schedule(2, 2), seed=0)  # without a note
    run(Cycle((Gibbs(("visible",)), Gibbs(("hidden",)))), machine, Schedule(2, 2), seed=0)
    run(Own(), machine, Schedule(2, 2), seed=0)


def test_sample_names_a_site_that_is_left_out_once_in_all_its_tries() -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        chains = sample(machine, 20, chains=2, warmup=5, kernel=Gibbs(("visible",)), seed=0)
    assert "tempered" in chains.attributes["tried"] or "longer" in chains.attributes["tried"]
    assert sum("does not move ['hidden']" in str(note.message) for note in notes) == 1


ALL_KERNELS: list[tuple[Kernel, set[str]]] = [
    (Gibbs(("a",)), {"a"}),
    (RandomWalk(), {"x"}),
    (HMC(), {"x"}),
    (MALA(("x",)), {"x"}),
    (Langevin(step_size=0.1), {"x"}),
    (IntegerWalk(), {"n"}),
    (RandomBlocks(("a", "b")), {"a", "b"}),
    (GibbsWithGradients(("b",)), {"b"}),
    (DiscreteLangevin(("a",)), {"a"}),
    (MetropolisHastings("n", lambda n: dist.Poisson(n)), {"n"}),
    (Cycle((HMC(), Gibbs(("a",)))), {"a", "x"}),
    (Mixture((HMC(), IntegerWalk())), {"n", "x"}),
    (ParallelTempering(HMC(), 4), {"x"}),
    (TemperedTransitions(RandomBlocks(("a",)), (0.5, 1.0)), {"a"}),
    (Cycle((HMC(), Own())), {"a", "b", "n", "x"}),
]


@pytest.mark.parametrize(("kernel", "moved"), ALL_KERNELS, ids=lambda v: type(v).__name__)
def test_every_kernel_tells_what_it_moves(kernel: Kernel, moved: set[str]) -> None:
    shape = torch.Size([])
    sites = {
        "a": Site(constraints.boolean, shape),
        "b": Site(constraints.boolean, shape),
        "n": Site(constraints.nonnegative_integer, shape),
        "x": Site(constraints.real, shape),
    }
    energy = CallableEnergy(lambda a, b, n, x: (a + b + n - x).square() + n, sites)
    assert set(unmoved_sites(kernel, energy)) == set(sites) - moved


# --- several laws, and sites with dots in their names --------------------------------------------


@pytest.mark.parametrize("chains", [1, 2, 6])
def test_another_number_of_chains_than_of_laws_is_refused(chains: int) -> None:
    bits = {"x": Site(constraints.boolean, torch.Size([2]))}
    energy = torch.tensor([1.0, 2.0, 3.0]) * CallableEnergy(lambda x: x.sum(-1), bits)
    with pytest.raises(ValueError, match=r"batch shape \(3,\).*chains=3"):
        run(RandomBlocks(), energy, Schedule(1, 2), chains=chains, seed=0)
    with pytest.raises(ValueError, match=r"batch shape \(3,\).*chains=3"):
        run(RandomBlocks(), energy, Schedule(1, 2), initial=torch.zeros(chains, 2), seed=0)
    run(RandomBlocks(), energy, Schedule(1, 2), chains=3, seed=0)


class Net(PyroModule):  # type: ignore[misc]
    """A line with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = PyroModule[torch.nn.Linear](2, 1)
        self.lin.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.lin.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, rows: torch.Tensor) -> None:
        mean = self.lin(rows).squeeze(-1)
        with pyro.plate("rows", len(rows)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.zeros(len(rows)))


def test_sites_of_pyro_modules_are_held() -> None:
    energy, x = ModelEnergy(Net(), torch.ones(3, 2)), torch.tensor([[0.5, -1.0]])
    whole = energy({"lin.weight": x, "lin.bias": torch.tensor([2.0])})
    held = clamp(energy, {"lin.bias": torch.tensor([2.0])})
    assert torch.allclose(held({"lin.weight": x}), whole)
    mask = {"lin.weight": torch.tensor([[True, False]])}
    partly = clamp(energy, {"lin.weight": x}, mask=mask)
    free = {"lin.weight": torch.tensor([-1.0]), "lin.bias": torch.tensor([2.0])}
    assert torch.allclose(partly(free), whole)
