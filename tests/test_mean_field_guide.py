"""The mean-field posterior as a guide: its ELBO is the bound, and the optimum of enumerated SVI."""

import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from pyro_ebm.distributions import Boltzmann, EnergyDistribution
from pyro_ebm.energies import BoltzmannMachine, Layer
from pyro_ebm.infer import AmortizedMeanFieldGuide, MeanFieldGuide, energy_factor
from pyro_ebm.learning import mean_field
from pyro_ebm.units import Bernoulli, Spin, Unit

DOUBLE = torch.float64
ROWS = 6


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(DOUBLE)  # conftest.py sets it back


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def general(unit: Unit = Bernoulli(), seed: int = 3) -> BoltzmannMachine:  # noqa: B008
    return BoltzmannMachine.general(
        5,
        4,
        units=(Bernoulli(), unit),
        couplings={
            ("visible", "hidden"): 0.5 * normal(5, 4, seed=seed),
            ("hidden", "hidden"): 0.5 * normal(4, 4, seed=seed + 1),
        },
        biases={"visible": normal(5, seed=seed + 2), "hidden": normal(4, seed=seed + 3)},
    )


DATA = (normal(ROWS, 5, seed=9) > 0).double()


def model(machine: BoltzmannMachine, visible: Tensor) -> None:
    with pyro.plate("rows", len(visible)):
        unit = machine.layers["hidden"].unit
        free = BoltzmannMachine({"hidden": Layer(unit, 4, bias=torch.zeros(4))})
        hidden = pyro.sample("hidden", EnergyDistribution(free).mask(False))
        energy_factor("machine", machine, visible=visible, hidden=hidden)


def drawn(machine: BoltzmannMachine, visible: Tensor) -> None:
    with pyro.plate("rows", len(visible)):
        MeanFieldGuide(tolerance=1e-10)(machine, visible)


fixed_point = config_enumerate(drawn)


@config_enumerate
def by_svi(machine: BoltzmannMachine, visible: Tensor) -> None:
    field = pyro.param("field", torch.zeros(len(visible), 4))
    with pyro.plate("rows", len(visible)):
        unit = machine.layers["hidden"].unit
        product = BoltzmannMachine({"hidden": Layer(unit, 4, bias=field)})
        pyro.sample("hidden", EnergyDistribution(product))


ELBO = TraceEnum_ELBO(max_plate_nesting=1)


@pytest.mark.parametrize("unit", [Bernoulli(), Spin()])
def test_its_elbo_is_the_bound(unit: Unit) -> None:
    machine = general(unit)
    bound = mean_field(machine, DATA, tolerance=1e-10).free_energy_bound
    assert ELBO.loss(model, fixed_point, machine, DATA) == pytest.approx(
        float(bound.sum()), abs=1e-8
    )
    # Draws of it give the bound on average: α = 6e-7 at 5 errors.
    losses = [Trace_ELBO().loss(model, drawn, machine, DATA) for _ in range(60)]
    error = float(torch.tensor(losses).std()) / 60**0.5
    assert abs(float(torch.tensor(losses).mean() - bound.sum())) < 5 * error + 1e-6


def by_enumerated_svi(machine: BoltzmannMachine, steps: int) -> float:
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)})
    svi = SVI(model, by_svi, optimizer, ELBO)
    for _ in range(steps):
        svi.step(machine, DATA)
    return svi.evaluate_loss(machine, DATA)


def test_enumerated_svi_comes_close_and_not_below() -> None:
    machine = general()
    found = ELBO.loss(model, fixed_point, machine, DATA)
    assert 0 <= by_enumerated_svi(machine, 100) - found < 0.1


@pytest.mark.slow
def test_it_is_the_optimum_of_enumerated_svi_and_300_times_as_fast() -> None:
    machine = general()
    wanted = float(mean_field(machine, DATA).free_energy_bound.sum())
    begin = time.perf_counter()
    for _ in range(20):
        mean_field(machine, DATA)
    fixed = (time.perf_counter() - begin) / 20
    begin = time.perf_counter()
    assert by_enumerated_svi(machine, 300) == pytest.approx(wanted, abs=1e-4)
    ratio = (time.perf_counter() - begin) / fixed
    assert ratio > 300


def test_a_step_that_is_too_short_is_found() -> None:
    machine = general()

    @config_enumerate
    def one_sweep(machine: BoltzmannMachine, visible: Tensor) -> None:
        with pyro.plate("rows", len(visible)):
            MeanFieldGuide(max_sweeps=1)(machine, visible)

    with pytest.warns(RuntimeWarning, match="not converged"):
        loss = ELBO.loss(model, one_sweep, machine, DATA)
    assert loss > ELBO.loss(model, fixed_point, machine, DATA) + 1e-4


def test_gradients_of_the_machine_are_those_of_the_bound() -> None:
    def gradient(loss: Tensor, machine: BoltzmannMachine) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(machine.parameters())))

    machine = BoltzmannMachine.general(5, 4).double()
    with torch.no_grad():
        for k, parameter in enumerate(machine.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=k))
    means = mean_field(machine, DATA, tolerance=1e-12).means["hidden"]
    terms = machine.read()
    bound = terms.free_energy_bound({"visible": DATA, "hidden": means}, ["hidden"]).sum()
    wanted = gradient(bound, machine)
    found = gradient(ELBO.differentiable_loss(model, fixed_point, machine, DATA), machine)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, wanted, strict=True))


def test_a_network_learns_the_same_posterior() -> None:
    machine = general()
    network = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 4)).double()
    guide = AmortizedMeanFieldGuide(network)

    @config_enumerate
    def amortised(machine: BoltzmannMachine, visible: Tensor) -> None:
        with pyro.plate("rows", len(visible)):
            guide(machine, visible)

    svi = SVI(model, amortised, pyro.optim.Adam({"lr": 0.02}), ELBO)
    losses = [svi.step(machine, DATA) for _ in range(80)]
    best = ELBO.loss(model, fixed_point, machine, DATA)
    assert losses[0] > best + 0.5
    assert best - 1e-9 < losses[-1] < best + 0.1
    assert "mean_field$$$0.weight" in pyro.get_param_store()


def test_it_stands_beside_other_guides() -> None:
    def larger() -> None:
        with pyro.plate("rows", ROWS):
            h = pyro.sample("units", Boltzmann(torch.zeros(4, 4)).mask(False))
            scale = pyro.sample("scale", dist.Normal(torch.zeros(()), 1.0))
            energy_factor("f", general(), visible=DATA, hidden=h)
            pyro.sample("y", dist.Normal(scale, 1.0), obs=torch.ones(ROWS))

    def guide() -> None:
        loc = pyro.param("loc", torch.zeros(ROWS))
        with pyro.plate("rows", ROWS):
            values = MeanFieldGuide(names={"hidden": "units"})(general(), DATA)
            assert values["hidden"].shape == (ROWS, 4)
            pyro.sample("scale", dist.Normal(loc, 0.7))

    svi = SVI(larger, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(60):
        svi.step()
    assert float((pyro.param("loc") - 0.5).abs().detach().mean()) < 0.3


def test_a_random_machine_is_read_once() -> None:
    machine = general()
    to_pyro_module_(machine)
    machine.layers["hidden"].bias = PyroSample(dist.Normal(torch.zeros(4), 1.0).to_event(1))
    trace = poutine.trace(lambda: MeanFieldGuide()(machine, DATA[0])).get_trace()
    bias = trace.nodes["layers.hidden.bias"]["value"]
    plain = general()
    plain.layers["hidden"].bias = bias
    wanted = mean_field(plain, DATA[0]).means["hidden"]
    product = trace.nodes["hidden"]["fn"]
    p = product.log_prob(product.states).exp()
    assert torch.allclose(p @ product.states, wanted, atol=1e-6)


BAD = {
    "all observed": (
        lambda: MeanFieldGuide()(Boltzmann(torch.zeros(2, 2)).machine, torch.zeros(2)),
        "leave out the ones to infer",
    ),
    "a network of the wrong width": (
        lambda: AmortizedMeanFieldGuide(nn.Linear(5, 3).double())(general(), DATA),
        r"wanted the fields .* 4\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
