"""An energy as a factor: the joint by enumeration, plates, shapes, and what stays out of ArviZ."""

import itertools
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.distributions import Boltzmann, IntractableNormalizerError
from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, ModelEnergy
from pyro_ebm.energies.pyro_models.log_joint import is_factor
from pyro_ebm.infer import energy_factor, factor
from pyro_ebm.sites import Site

DOUBLE = torch.float64
ADAM = pyro.optim.Adam({"lr": 0.01})
WEIGHT = torch.tensor([[0.7, -1.1], [0.4, 0.9], [-0.6, 0.2]], dtype=DOUBLE)
BIAS = {name: torch.zeros(n, dtype=DOUBLE) for name, n in (("visible", 3), ("hidden", 2))}
MACHINE = BoltzmannMachine.restricted(3, 2, couplings=WEIGHT, biases=BIAS)
REAL = Site(constraints.real, torch.Size([]))
PULL = CallableEnergy(lambda a, b: (a - b).square(), {"a": REAL, "b": REAL}, dtype=DOUBLE)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(DOUBLE)  # conftest.py sets it back


def bits(n: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)))


def hidden_model(visible: Tensor) -> None:
    """Hidden units as latent sites with a flat law, joined to the data by the machine."""
    with pyro.plate("rows", len(visible)):
        flat = Boltzmann(torch.zeros(2, 2)).mask(False)
        hidden = pyro.sample("hidden", flat)
        energy_factor("machine", MACHINE, visible=visible, hidden=hidden)


def test_the_joint_is_the_product_of_its_factors() -> None:
    visible = bits(3)
    model = config_enumerate(hidden_model)
    found = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda _: None, visible)
    assert found == pytest.approx(float(-MACHINE.free_energy(visible).sum()), abs=1e-9)


def test_a_factor_of_real_sites_has_the_right_posterior_density() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        energy_factor("pull", PULL, a=a, b=b)

    values = {"a": torch.tensor(0.3), "b": torch.tensor(-1.2)}
    found = poutine.trace(poutine.condition(model, values)).get_trace().log_prob_sum()
    wanted = -(1.5**2) + sum(dist.Normal(0.0, 1.0).log_prob(v) for v in values.values())
    assert float(found) == pytest.approx(float(wanted), abs=1e-12)
    mcmc = MCMC(NUTS(model), 3, 3, disable_progbar=True)
    mcmc.run()
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    assert math.isfinite(svi.step())


def test_parameters_are_read_once() -> None:
    machine = BoltzmannMachine.fully_visible(3)
    to_pyro_module_(machine)
    machine.layers["visible"].bias = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

    def model() -> None:
        energy_factor("f", machine, normalizer="left out", visible=torch.ones(3))

    trace = poutine.trace(model).get_trace()
    bias = trace.nodes["layers.visible.bias"]["value"]
    assert torch.allclose(trace.log_prob_sum(lambda name, _: name == "f"), bias.sum())


def test_one_number_in_a_plate_is_refused() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 10):
            energy_factor("pull", PULL, a=a, b=torch.tensor(0.0))

    with pytest.raises(ValueError, match="would count 10 times"):
        poutine.trace(model).get_trace()

    def outside() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        energy_factor("pull", PULL, a=a, b=torch.tensor(0.0))

    trace = poutine.trace(outside).get_trace()
    a = trace.nodes["a"]["value"]
    assert torch.allclose(trace.log_prob_sum(lambda name, _: name == "pull"), -(a**2))


def test_a_factor_that_counts_ten_times_is_found() -> None:
    def model() -> None:
        with pyro.plate("rows", 10):
            energy_factor("pull", PULL, a=torch.tensor(1.0), b=torch.tensor(0.0))

    with mock.patch.object(factor, "check_plates"):
        found = poutine.trace(model).get_trace().log_prob_sum()
    assert float(found) == pytest.approx(-10.0)


def test_plates_and_subsamples() -> None:
    visible, hidden = bits(3), torch.zeros(8, 2)

    def model() -> None:
        with pyro.plate("outer", 2, dim=-2), pyro.plate("rows", 8, subsample_size=4) as index:
            energy_factor(
                "f", MACHINE, visible=visible[index].expand(2, 4, 3), hidden=hidden[index]
            )

    trace = poutine.trace(model).get_trace()
    index = trace.nodes["rows"]["value"]
    wanted = -2 * 2 * MACHINE({"visible": visible[index], "hidden": hidden[index]}).sum()
    assert torch.allclose(trace.log_prob_sum(), wanted)


def test_particles_and_predictive_draws_are_no_plates_of_the_model() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        energy_factor("pull", PULL, a=a, b=torch.tensor(0.0))
        energy_factor("constant", PULL, a=torch.tensor(1.0), b=torch.tensor(0.0))

    guide = AutoNormal(model)
    elbo = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=0)
    loss = SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), elbo).step()
    assert 0 < loss < 10
    draws = Predictive(model, num_samples=7, parallel=True)()
    assert draws["a"].shape == (7,)


def random_couplings(**how: Any) -> None:
    """Three bits that are all on, coupled by a latent number."""
    coupling = pyro.sample("coupling", dist.Normal(0.0, 1.0))
    weight = coupling * (1 - torch.eye(3))
    energy = BoltzmannMachine.fully_visible(3, couplings=weight)
    energy_factor("bits", energy, visible=torch.ones(3), **how)


def random_label(**how: Any) -> None:
    label = pyro.sample("label", dist.Bernoulli(0.3))
    pull = CallableEnergy(lambda a: label * a.square(), {"a": REAL})
    energy_factor("pull", pull, a=pyro.sample("a", dist.Normal(0.0, 1.0)), **how)


def learned(**how: Any) -> None:
    weight = pyro.param("weight", torch.tensor(0.5))
    pull = CallableEnergy(lambda a: weight * a.square(), {"a": REAL})
    energy_factor("pull", pull, a=pyro.sample("a", dist.Normal(0.0, 1.0)), **how)


DEPENDENT: dict[str, tuple[Callable[..., None], str]] = {
    "a real number": (random_couplings, "the latent site 'coupling'"),
    "a label": (random_label, "the latent site 'label'"),
    "a parameter that is learned": (learned, "the parameter 'weight'"),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_an_energy_with_latent_or_learned_parameters_is_refused(name: str) -> None:
    model, what = DEPENDENT[name]
    message = rf"depends on {what}.*normalizer='left out'"
    with pytest.raises(IntractableNormalizerError, match=message):
        poutine.trace(model).get_trace().log_prob_sum()
    with pytest.raises(IntractableNormalizerError, match=what):
        ModelEnergy(model)


@pytest.mark.parametrize("name", ["a real number", "a parameter that is learned"])
def test_variational_inference_refuses_them_too(name: str) -> None:
    model, what = DEPENDENT[name]
    svi = SVI(model, AutoNormal(model), ADAM, Trace_ELBO())
    with pytest.raises(IntractableNormalizerError, match=what):
        svi.step()


def test_the_undirected_joint_is_there_for_who_asks() -> None:
    """E coupling is that of N(0, 1) e^{3 coupling}, a normal law around 3."""
    energy = ModelEnergy(random_couplings, normalizer="left out")
    j = torch.tensor([0.0, 1.0, 3.0])
    wanted = dist.Normal(0.0, 1.0).log_prob(j) + 3 * j
    assert torch.allclose(-energy({"coupling": j}), wanted, atol=1e-10)
    with pytest.raises(ValueError, match="wanted 'constant' or 'left out'"):
        random_couplings(normalizer="none")


def test_values_may_come_from_latent_sites() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        energy_factor("pull", PULL, a=a.exp(), b=a + 1)

    ModelEnergy(model)
    mcmc = MCMC(NUTS(model), 3, 3, disable_progbar=True)
    mcmc.run()


BAD = {
    "no energy": ((lambda x: x, {}), TypeError, "wanted an energy"),
    "a missing site": ((MACHINE, {"visible": torch.zeros(3)}), ValueError, r"missing .*'hidden'"),
    "an unknown site": (
        (MACHINE, {"visible": torch.zeros(3), "h": torch.zeros(2)}),
        ValueError,
        r"Unknown sites? .*'h'",
    ),
    "a wrong shape": (
        (MACHINE, {"visible": torch.zeros(4), "hidden": torch.zeros(2)}),
        ValueError,
        "'visible' has shape",
    ),
    "a value outside": (
        (MACHINE, {"visible": torch.full((3,), 0.5), "hidden": torch.zeros(2)}),
        ValueError,
        "not in {0, 1}",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    (energy, sites), error, message = BAD[name]
    with pytest.raises(error, match=message):
        energy_factor("f", energy, **sites)


@pytest.mark.parametrize("name", sorted(set(BAD) - {"a value outside"}))
def test_names_and_shapes_are_checked_with_validation_off_too(name: str) -> None:
    (energy, sites), error, message = BAD[name]
    with pyro.validation_enabled(False), pytest.raises(error, match=message):
        energy_factor("f", energy, **sites)


def test_a_diverging_trajectory_stops_no_sampler() -> None:
    def model() -> None:
        energy_factor("pull", PULL, a=torch.tensor(math.nan), b=torch.tensor(0.0))

    with pyro.validation_enabled(False):
        assert poutine.trace(model).get_trace().log_prob_sum().isnan()
    with pytest.raises(ValueError, match="NaN"):
        model()


def test_an_energy_of_the_wrong_shape_is_refused_on_every_call() -> None:
    for is_on in (True, False):
        with (
            pyro.validation_enabled(is_on),
            mock.patch.object(CallableEnergy, "evaluate", return_value=torch.zeros(3)),
            pytest.raises(ValueError, match="has shape"),
        ):
            energy_factor("pull", PULL, a=torch.zeros(2), b=torch.zeros(2))


def test_a_factor_is_no_observation() -> None:
    trace = poutine.trace(hidden_model).get_trace(bits(3))
    assert {name for name, node in trace.nodes.items() if is_factor(node)} == {"machine"}
    assert trace.nodes["machine"]["infer"]["is_auxiliary"]
    assert trace.nodes["machine"]["value"].numel() == 0
