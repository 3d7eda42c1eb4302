"""Results of Pyro's MCMC as ArviZ data: every kind of model, the stock kernels and our own."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer import HMC, MCMC, NUTS, Predictive, config_enumerate
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.diagnostics.arviz import pyro_results
from pyro_ebm.energies import CallableEnergy, UnbatchedModelWarning
from pyro_ebm.infer import MCMC as OurMCMC, EnergyKernel, energy_factor
from pyro_ebm.kernels import HMC as OurHMC
from pyro_ebm.sites import Site

DATA = torch.tensor([1.2, 0.7, 1.9, 1.1])


def normal(data: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
    pyro.deterministic("twice", 2 * mean)
    with pyro.plate("n", len(data)):
        pyro.sample("seen", dist.Normal(mean, scale.sum(-1)), obs=data)
    pyro.factor("penalty", -mean.square())


@config_enumerate
def enumerated(data: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("n", len(data)):
        label = pyro.sample("label", dist.Bernoulli(0.5))
        pyro.sample("seen", dist.Normal(mean + label, 1.0), obs=data)


class Coins(infer.mcmc.mcmc_kernel.MCMCKernel):
    """A kernel of a model with integer sites only."""

    transforms: dict = {}  # noqa: RUF012

    @staticmethod
    def model(data: Tensor) -> None:
        bits = pyro.sample("bits", dist.Bernoulli(torch.tensor([0.2, 0.7])).to_event(1))
        label = pyro.sample("label", dist.Categorical(torch.ones(300)))
        pyro.sample("seen", dist.Normal(bits.sum(-1) + label, 1.0), obs=data)

    @property
    def initial_params(self) -> dict[str, Tensor]:
        return {"bits": torch.zeros(2), "label": torch.tensor(0)}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        raise AssertionError

    def sample(self, _: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"bits": torch.rand(2).round(), "label": torch.randint(300, ())}

    def diagnostics(self) -> dict[str, list[int]]:
        return {"divergences": [1]}

    def logging(self) -> dict[str, str]:
        return {}


def ran(kernel: object, data: Tensor = DATA, *, chains: int = 1, samples: int = 20) -> MCMC:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="num_chains=")
        mcmc = MCMC(kernel, samples, 10, num_chains=chains, disable_progbar=True)
    mcmc.run(data)
    return mcmc


@pytest.mark.parametrize("chains", [1, 2])
def test_stock_nuts_with_data_and_a_factor(chains: int) -> None:
    mcmc = ran(NUTS(normal, max_tree_depth=3), chains=chains)
    data = to_arviz(mcmc, include=("log_likelihood", "posterior_predictive"))
    samples = mcmc.get_samples(group_by_chain=True)
    assert set(data["posterior"].data_vars) == {"mean", "scale"}
    for name, value in samples.items():
        assert np.array_equal(data["posterior"][name].values, value.numpy())
    assert data["posterior"]["scale"].dims == ("chain", "draw", "scale_dim")
    assert data["sample_stats"]["diverging"].shape == (chains, 20)
    assert set(data["observed_data"].data_vars) == {"seen"}
    assert np.array_equal(data["observed_data"]["seen"].values, DATA.numpy())
    # The pointwise log-likelihood, of the data alone: no factor, no deterministic value.
    wanted = dist.Normal(
        samples["mean"][..., None], samples["scale"].sum(-1, keepdim=True)
    ).log_prob(DATA)
    assert set(data["log_likelihood"].data_vars) == {"seen"}
    assert np.allclose(data["log_likelihood"]["seen"].values, wanted.numpy(), atol=1e-5)
    predicted = data["posterior_predictive"]["seen"].values
    assert predicted.shape == (chains, 20, 4)
    assert len(np.unique(predicted)) == predicted.size  # new ones, not the data
    assert data["posterior"].attrs["kernel"] == "NUTS"


def test_divergent_draws_are_marked_chain_by_chain() -> None:
    data = to_arviz(ran(Coins(), torch.tensor(1.0), chains=2, samples=5))
    assert data["sample_stats"]["diverging"].values.tolist() == [[0, 1, 0, 0, 0]] * 2


def test_integer_sites_only() -> None:
    data = to_arviz(ran(Coins(), torch.tensor(1.0), samples=200))
    posterior = data["posterior"]
    assert posterior["bits"].dtype == np.int64
    assert posterior["label"].dtype == np.int64
    assert posterior["label"].values.max() > 127
    assert set(posterior.data_vars) == {"bits", "label", "magnetisation"}


def test_a_model_without_data_has_no_observed_group() -> None:
    def model(_: Tensor) -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))

    mcmc = ran(HMC(model, num_steps=2))
    data = to_arviz(mcmc)
    assert set(data.groups() if callable(data.groups) else data.groups) >= {"posterior"}
    assert "observed_data" not in data.groups()
    with pytest.raises(TypeError, match="no model with data"):
        to_arviz(mcmc, include=("log_likelihood",))


def test_enumerated_sites_have_no_draws_and_say_so() -> None:
    mcmc = ran(NUTS(enumerated, max_tree_depth=3))
    data = to_arviz(mcmc)
    assert set(data["posterior"].data_vars) == {"mean"}
    assert np.array_equal(data["observed_data"]["seen"].values, DATA.numpy())
    with pytest.raises(ValueError, match=r"'label'.*infer_discrete"):
        to_arviz(mcmc, include=("log_likelihood",))


def test_predictions_made_by_pyro_are_kept() -> None:
    mcmc = ran(NUTS(normal, max_tree_depth=3), chains=2)
    predictive = Predictive(pyro.poutine.uncondition(normal), mcmc.get_samples())
    made = {"seen": predictive(DATA)["seen"]}
    found = to_arviz(mcmc, posterior_predictive=made)["posterior_predictive"]["seen"].values
    assert np.array_equal(found.reshape(40, 4), made["seen"].numpy())


def test_a_model_that_vmap_cannot_take_goes_draw_by_draw() -> None:
    def model(data: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        shifted = mean + 1 if mean > 0 else mean
        with pyro.plate("n", len(data)):
            pyro.sample("seen", dist.Normal(shifted, 1.0), obs=data)

    mcmc = ran(NUTS(model, max_tree_depth=2))
    mean = mcmc.get_samples(group_by_chain=True)["mean"]
    with pytest.warns(UnbatchedModelWarning, match="control flow"):
        data = to_arviz(mcmc, include=("log_likelihood",))
    wanted = dist.Normal(torch.where(mean > 0, mean + 1, mean)[..., None], 1.0).log_prob(DATA)
    assert np.allclose(data["log_likelihood"]["seen"].values, wanted.numpy(), atol=1e-5)


def test_the_data_are_those_of_arvizs_own_converter() -> None:
    mcmc = ran(NUTS(normal, max_tree_depth=3))
    ours = to_arviz(mcmc, include=("log_likelihood",))
    theirs = az.from_pyro(mcmc, log_likelihood=False)  # which it cannot make of this model
    for group in ("posterior", "sample_stats"):
        assert set(ours[group].data_vars) == set(theirs[group].data_vars)
        for name, value in theirs[group].data_vars.items():
            assert np.array_equal(ours[group][name].values, value.values)
    # Theirs counts the factor and the deterministic value as data.
    assert np.array_equal(ours["observed_data"]["seen"], theirs["observed_data"]["seen"])
    assert {"penalty", "twice"} <= set(theirs["observed_data"].data_vars)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")
        assert az.loo(ours, var_name="seen").n_data_points == 4


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    data = to_arviz(ran(Coins(), torch.tensor(1.0)), include=("log_likelihood",))
    data.to_netcdf(str(tmp_path / "draws.nc"))
    again = az.from_netcdf(str(tmp_path / "draws.nc"))
    for group in ("posterior", "sample_stats", "log_likelihood", "observed_data"):
        for name, value in data[group].data_vars.items():
            assert again[group][name].equals(value)


def test_what_has_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match="call its run"):
        to_arviz(MCMC(NUTS(normal), 5, disable_progbar=True))


def test_unknown_extras_are_refused() -> None:
    mcmc = ran(Coins(), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"include has \['loo'\]"):
        to_arviz(mcmc, include=("loo",))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has its own"):
        to_arviz(mcmc, observed_data=torch.zeros(1))


def test_the_generators_stay_where_they_are() -> None:
    mcmc = ran(Coins(), torch.tensor(1.0))
    before = torch.get_rng_state()
    to_arviz(mcmc)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_planted_factor_among_the_data_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyro_results, "is_factor", lambda _: False)
    for model, wanted in ((normal, {"penalty"}), (factors, {"one", "many", "masked", "pull"})):
        nodes = pyro_results.nodes_of(pyro_results.Model(model, (DATA,), {}))
        assert set(pyro_results.observed_names(nodes)) == {"seen"} | wanted


PULL = CallableEnergy(lambda x: x.square(), {"x": Site(constraints.real, torch.Size([]))})


def factors(data: Tensor) -> None:
    """Factors of every kind: of the whole, in a plate, masked, and energies."""
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    pyro.factor("one", -mean.square())
    with pyro.plate("n", len(data)):
        pyro.factor("many", -0.1 * (mean - data).square())
        with poutine.mask(mask=data > 1):
            pyro.factor("masked", -0.1 * (mean - data).square())
        energy_factor("pull", PULL, x=mean - data)
        pyro.sample("seen", dist.Normal(mean, 1.0), obs=data)


def nothing_but_factors(_: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    pyro.factor("one", -mean.square())
    energy_factor("pull", PULL, x=mean)


def by_pyro(model: Callable[[Tensor], None]) -> Any:
    return ran(NUTS(model, max_tree_depth=3), samples=5)


def by_us(model: Callable[[Tensor], None]) -> Any:
    kernel = EnergyKernel(OurHMC(step_size=0.3, trajectory_length=0.6), model)
    mcmc = OurMCMC(kernel, num_samples=5, warmup_steps=2, num_chains=2, seed=0)
    mcmc.run(DATA)
    return mcmc


@pytest.mark.parametrize("run", [by_pyro, by_us])
def test_a_factor_is_no_data_and_has_no_likelihood(run: Callable[..., Any]) -> None:
    mcmc = run(factors)
    data = to_arviz(mcmc, include=("log_likelihood", "posterior_predictive"))
    for group in ("observed_data", "log_likelihood", "posterior_predictive"):
        assert set(data[group].data_vars) == {"seen"}
    mean = mcmc.get_samples(group_by_chain=True)["mean"]
    wanted = dist.Normal(mean[..., None], 1.0).log_prob(DATA)
    assert np.allclose(data["log_likelihood"]["seen"].values, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("run", [by_pyro, by_us])
def test_a_model_of_factors_alone_has_no_data(run: Callable[..., Any]) -> None:
    mcmc = run(nothing_but_factors)
    assert "observed_data" not in to_arviz(mcmc).groups()
    with pytest.raises(TypeError, match="no model with data"):
        to_arviz(mcmc, include=("log_likelihood",))
