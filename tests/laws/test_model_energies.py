"""A model's energy is Pyro's own log joint, and the formula on paper; batched as alone."""

import itertools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import init_to_median
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor
from torch.distributions import biject_to

from pyro_ebm.energies import ModelEnergy, UnbatchedModelWarning
from pyro_ebm.energies.pyro_models import log_joint as joint
from pyro_ebm.sites import Sites
from tests.support.models import CASES, Case, numbers, real

CHAINS = 5
WITHOUT_REAL = {
    "sum over a plate",
    "ring in a plate",
    "vector sites",
    "two that depend",
    "counts",
    "one summed, one drawn",
    "branch",
}


def energy_of(case: Case) -> ModelEnergy:
    with warnings.catch_warnings():
        if not case.batched:
            warnings.simplefilter("ignore", UnbatchedModelWarning)
        return ModelEnergy(case.model, *case.args)


def by_pyro(case: Case, values: Sites) -> Tensor:
    """ln p of one chain in unconstrained space, from a trace's own sums."""
    conditioned = poutine.condition(case.model, values)
    trace = poutine.trace(conditioned).get_trace(*case.args)
    total = trace.log_prob_sum()
    for name, value in values.items():
        law = trace.nodes[name]["fn"]
        if not law.support.is_discrete:
            transform = biject_to(law.support)
            total = total + transform.log_abs_det_jacobian(transform.inv(value), value).sum()
    return total


def alone(x: Sites, chain: int) -> Sites:
    return {name: value[chain] for name, value in x.items()}


def close(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.summed])
def test_the_energy_is_pyros_log_joint(name: str) -> None:
    energy = energy_of(CASES[name])
    assert energy.batched is CASES[name].batched
    x = energy.initial(CHAINS)
    values = energy.constrain(x)
    wanted = torch.stack([by_pyro(CASES[name], alone(values, k)) for k in range(CHAINS)])
    assert energy(x).dtype == torch.float64
    assert close(-energy(x), wanted)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.by_hand])
def test_the_energy_is_the_formula_on_paper(name: str) -> None:
    case = CASES[name]
    assert case.by_hand is not None
    energy = energy_of(case)
    x = energy.initial(CHAINS)
    values = energy.constrain(x)
    for k in range(CHAINS):
        wanted = case.by_hand({site: v[k].numpy() for site, v in values.items()})
        # Σ ln |dx/du| by autograd of each site's map alone, the others held.
        for site in energy.real:

            def mapped(free: Tensor, site: str = site, k: int = k) -> Tensor:
                return energy.constrain({**alone(x, k), site: free})[site].reshape(-1)

            slope = torch.autograd.functional.jacobian(mapped, x[site][k])
            wanted += float(torch.linalg.slogdet(slope.reshape(len(slope), -1))[1])
        assert -float(energy(alone(x, k))) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_its_chains(name: str) -> None:
    energy = energy_of(CASES[name])
    x = energy.initial(6)
    together = energy(x)
    grid = energy({site: v.reshape(2, 3, *v.shape[1:]) for site, v in x.items()})
    one_by_one = torch.stack([energy(alone(x, k)) for k in range(6)])
    assert close(together, one_by_one)
    assert close(grid.flatten(), one_by_one)


@pytest.mark.parametrize("name", [n for n in CASES if n not in WITHOUT_REAL])
def test_the_gradient_of_a_batch_is_autograds_of_its_chains(name: str) -> None:
    energy = energy_of(CASES[name])
    sites = sorted(energy.real)
    x = energy.initial(CHAINS)
    value, gradient = energy.energy_and_gradient(x, sites)
    assert close(value, energy(x))
    for k in range(CHAINS):
        chain = {site: v.clone() for site, v in alone(x, k).items()}
        for site in sites:
            chain[site].requires_grad_()
        wanted = torch.autograd.grad(
            energy(chain), [chain[site] for site in sites], materialize_grads=True
        )
        for site, slope in zip(sites, wanted, strict=True):
            assert close(gradient[site][k], slope)


@pytest.mark.parametrize("name", ["regression", "eight schools", "supports", "summed mixture"])
def test_the_energy_is_the_potential_of_pyros_hmc(name: str) -> None:
    case = CASES[name]
    _, potential, transforms, _ = initialize_model(
        case.model, case.args, max_plate_nesting=1, num_chains=1
    )
    energy = energy_of(case)
    x = energy.initial(CHAINS)
    wanted = torch.stack([potential(alone(x, k)) for k in range(CHAINS)])
    assert set(transforms) == energy.real
    assert close(energy(x), wanted)


@pytest.mark.parametrize("name", CASES)
def test_unconstrain_undoes_constrain(name: str) -> None:
    energy = energy_of(CASES[name])
    x = energy.initial(6)
    x = {site: v.reshape(2, 3, *v.shape[1:]) for site, v in x.items()}
    values = energy.constrain(x)
    for site, value in values.items():
        law = energy.nodes[site]["fn"]
        assert value.shape == (2, 3, *energy.nodes[site]["value"].shape)
        assert value.dtype == energy.nodes[site]["value"].dtype
        if site not in energy.moving:
            assert bool(law.support.check(value).all())
    again = energy.unconstrain(values)
    assert all(torch.allclose(again[site], x[site], atol=1e-9) for site in x)


def test_a_start_follows_pyros_strategy() -> None:
    case = CASES["eight schools"]
    x = energy_of(case).initial(3, init_to_median(num_samples=2001))
    spread = x["spread"].exp()
    assert bool(((spread > 4) & (spread < 6.2)).all())  # the median is 5, its error 0.17
    assert len(set(spread.tolist())) == 3


def test_parameters_of_modules_and_of_the_store_are_read_at_each_pass() -> None:
    network = torch.nn.Linear(2, 1).double()

    def model() -> None:
        pyro.module("network", network)
        scale = pyro.param("scale", real(1.0))
        x = pyro.sample("x", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(network(x).squeeze(-1), scale), obs=real(0.2))

    energy = ModelEnergy(model)
    x = numbers(4, 2)
    for _ in range(2):
        scale = pyro.get_param_store()["scale"]
        wanted = dist.Normal(0.0, 1.0).log_prob(x).sum(-1) + dist.Normal(
            network(x).squeeze(-1), scale
        ).log_prob(real(0.2))
        assert close(-energy(x), wanted)
        with torch.no_grad():
            scale *= 2
            network.weight += 1


def test_a_factor_in_a_plate_counts_as_pyro_counts_it() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(real(0.0), 1.0))
        with pyro.plate("n", 3):
            pyro.factor("f", -x.square())

    x = numbers(4)
    wanted = dist.Normal(0.0, 1.0).log_prob(x) - 3 * x.square()
    assert close(-ModelEnergy(model)(x), wanted)


def test_a_probability_of_zero_keeps_its_finite_slope() -> None:
    """Which Pyro's own logarithm gives, and vmap could not take."""
    x = torch.tensor([0.0, 0.5]).double().requires_grad_()
    torch.func.vmap(joint.SafeLogarithm.apply)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([1 / torch.finfo(torch.float64).eps, 2.0])


# --- what is refused, and what is announced ------------------------------------------------------


def test_a_model_that_vmap_cannot_take_is_announced() -> None:
    with pytest.warns(UnbatchedModelWarning, match="one after another: .*control flow"):
        energy = ModelEnergy(CASES["branch"].model)
    assert not energy.batched


def test_a_model_that_vmap_gets_wrong_is_found() -> None:
    calls = []

    def model() -> None:
        x = pyro.sample("x", dist.Normal(real(0.0), 1.0))
        calls.append(x)
        shift = 1.0 if torch._C._functorch.is_batchedtensor(x) else 0.0
        pyro.sample("y", dist.Normal(x, 1.0), obs=real(shift))

    with pytest.warns(UnbatchedModelWarning, match=r"energies \[.*\] together"):
        ModelEnergy(model)


def subsampled() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 4, subsample_size=2):
        pyro.sample("y", dist.Normal(x, 1.0), obs=torch.zeros(2))


def noisy() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x + torch.randn(()), 1.0), obs=torch.tensor(0.0))


def nothing_latent() -> None:
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


PASSES = itertools.count()


def sites_that_change() -> None:
    pyro.sample(f"site {next(PASSES) % 2}", dist.Normal(0.0, 1.0))


def bad_data() -> None:
    x = pyro.sample("x", dist.Beta(1.0, 1.0))
    pyro.sample("y", dist.Bernoulli(x), obs=torch.tensor(0.5))


REFUSED = {
    "subsample": (subsampled, "'n' subsamples 2 of 4"),
    "noise outside of sites": (noisy, "random numbers outside of pyro.sample"),
    "no latent site": (nothing_latent, "no latent site"),
    "changing sites": (sites_that_change, "its sites depend on values"),
    "data outside the support": (bad_data, "support"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_no_energy_is_refused(name: str) -> None:
    model, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ModelEnergy(model)


def test_a_model_without_a_finite_energy_has_no_start() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", -torch.inf * (1 + x.square()))

    with pytest.raises(ValueError, match="Only 0 of 2 chains found a start"):
        ModelEnergy(model).initial(2)


def test_building_an_energy_draws_nothing_from_the_callers_generator() -> None:
    before = torch.get_rng_state()
    energy_of(CASES["nested plates"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_real_site_has_no_conditional() -> None:
    energy = energy_of(CASES["nested plates"])
    with pytest.raises(ValueError, match=r"'rate' is real.*Cycle"):
        energy.blocks("rate")


def test_energies_are_infinite_outside_of_a_moving_support() -> None:
    energy = energy_of(CASES["counts"])
    x = energy.initial(1)
    found = energy({site: v.clone() for site, v in x.items()} | {"total": real(1.0)[None]})
    assert math.isinf(float(found))
