"""Energy distributions as Pyro uses them: latent, observed, in plates, enumerated, sampled by NUTS.

Where numbers are compared it is with sums over all states; α of a statistical test is 1e-6.
"""

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    config_enumerate,
    infer_discrete,
)
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.distributions import (
    Boltzmann,
    EnergyDistribution,
    Ising,
    RestrictedBoltzmann,
    Sampler,
    energy_distribution,
    read_once,
    summation,
)
from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, DistributionEnergy
from pyro_ebm.partition import LogPartition
from pyro_ebm.sites import Site

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(DOUBLE)  # conftest.py sets it back


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


# --- read once, inside Pyro's context ------------------------------------------------------------


def random_machine(n: int = 3) -> BoltzmannMachine:
    machine = BoltzmannMachine.fully_visible(n).double()
    to_pyro_module_(machine)
    machine.layers["visible"].bias = PyroSample(dist.Normal(torch.zeros(n), 1.0).to_event(1))
    weight = dist.Normal(torch.zeros(n, n), 1.0).to_event(2)
    machine.couplings["visible_visible"].weight = PyroSample(weight)
    return machine


def read_error(machine: BoltzmannMachine) -> float:
    """How far a distribution in a model is from that of the parameters in the trace."""
    n = machine.layers["visible"].size
    names = ("couplings.visible_visible.weight", "layers.visible.bias")

    def model() -> None:
        pyro.sample("x", EnergyDistribution(machine), obs=torch.ones(n))

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    if not trace.nodes.keys() >= set(names):
        return math.inf  # the parameters were drawn under other names
    weight, bias = (trace.nodes[name]["value"] for name in names)
    given = Boltzmann(weight.triu(1) + weight.triu(1).mT, bias)
    return float((trace.nodes["x"]["log_prob"] - given.log_prob(torch.ones(n))).abs())


def test_parameters_are_read_once() -> None:
    assert read_error(random_machine()) < 1e-12


def test_parameters_read_twice_are_found() -> None:
    with mock.patch.object(energy_distribution, "read_once", lambda energy: energy):
        assert read_error(random_machine()) > 1e-3


class Quadratic(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(2.0), constraints.positive)
        self.linear = nn.Linear(2, 2)

    @PyroSample
    def centre(self) -> dist.Normal:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * (self.linear(x) - self.centre)).square().sum(-1)


def test_any_pyro_module_is_read_once() -> None:
    module = Quadratic()
    with mock.patch.object(CallableEnergy, "try_out"):  # it would refuse what is random
        energy = CallableEnergy(module, 2, dtype=DOUBLE)
    x = normal(7, 2)
    with poutine.trace() as messenger:
        frozen = read_once(energy)
    nodes = messenger.trace.nodes
    assert {"centre", "scale", "linear$$$weight", "linear$$$bias"} <= set(nodes)
    centre, scale = nodes["centre"]["value"], nodes["scale"]["value"]
    wanted = (scale * (module.linear(x) - centre)).square().sum(-1)
    for _ in range(2):
        with poutine.trace() as again:
            assert torch.allclose(frozen(x), wanted)
        assert not again.trace.nodes
    frozen(x).sum().backward()
    assert module.linear.weight.grad is not None
    assert module.scale_unconstrained.grad is not None


def test_the_machine_itself_is_left_as_it_was() -> None:
    machine = random_machine()
    before = machine.layers["visible"]._pyro_samples.keys()
    read_once(machine)
    assert machine.layers["visible"]._pyro_samples.keys() == before == {"bias"}
    plain = BoltzmannMachine.fully_visible(3)
    assert read_once(plain) is plain


def test_a_machine_inside_a_larger_module_keeps_its_names() -> None:
    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.machine = random_machine()

        def forward(self) -> None:
            pyro.sample("x", EnergyDistribution(self.machine), obs=torch.ones(3))

    nodes = poutine.trace(Model()).get_trace().nodes
    assert "machine.layers.visible.bias" in nodes


# --- parameters as random variables: exact log Z gives the right posterior -----------------------


def grid_posterior(edges: list, data: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations of coupling and field under standard normal priors, on a grid."""
    axis = torch.linspace(-3, 3, 121)
    j, h = (g.reshape(-1, 1) for g in torch.meshgrid(axis, axis, indexing="ij"))
    n = data.shape[-1]
    states = torch.tensor(list(itertools.product([-1.0, 1], repeat=n)))
    first, second = torch.tensor(edges).T

    def statistics(s: Tensor) -> Tensor:
        return torch.stack([(s[:, first] * s[:, second]).sum(-1), s.sum(-1)])

    log_z = (torch.cat([j, h], 1) @ statistics(states)).logsumexp(1)
    log_p = (torch.cat([j, h], 1) @ statistics(data)).sum(1) - len(data) * log_z
    p = (log_p - (j**2 + h**2)[:, 0] / 2).softmax(0)
    mean = torch.stack([p @ j[:, 0], p @ h[:, 0]])
    square = torch.stack([p @ j[:, 0] ** 2, p @ h[:, 0] ** 2])
    return mean, (square - mean**2).sqrt()


EDGES = [(0, 1), (1, 2), (2, 3), (3, 0)]
SPINS = 2 * (normal(30, 4, seed=11) + 0.3 * normal(30, 1, seed=12) > 0).double() - 1


def ising_model(data: Tensor) -> None:
    j = pyro.sample("coupling", dist.Normal(torch.zeros(()), 1.0))
    h = pyro.sample("field", dist.Normal(torch.zeros(()), 1.0))
    with pyro.plate("rows", len(data)):
        pyro.sample("s", Ising(EDGES, j, h), obs=data)


def test_the_density_of_parameters_is_that_of_the_grid() -> None:
    first, second = torch.tensor(EDGES).T
    states = torch.tensor(list(itertools.product([-1.0, 1], repeat=4)))
    for j, h in ((0.0, 0.0), (0.7, -0.4), (-1.3, 0.2)):
        j_, h_ = torch.tensor(j, requires_grad=True), torch.tensor(h, requires_grad=True)
        values = {"coupling": j_, "field": h_}
        trace = poutine.trace(poutine.condition(ising_model, values)).get_trace(SPINS)
        found = trace.log_prob_sum()

        def log_weight(s: Tensor, j: Tensor = j_, h: Tensor = h_) -> Tensor:
            return j * (s[:, first] * s[:, second]).sum(-1) + h * s.sum(-1)

        prior = dist.Normal(0.0, 1.0).log_prob(torch.stack([j_, h_])).sum()
        wanted = log_weight(SPINS).sum() - len(SPINS) * log_weight(states).logsumexp(0) + prior
        assert torch.allclose(found, wanted, atol=1e-10)
        pairs = (torch.autograd.grad(e, (j_, h_)) for e in (found, wanted))
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*pairs, strict=True))


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_parameters() -> None:
    mcmc = MCMC(NUTS(ising_model), 300, 100, disable_progbar=True)
    mcmc.run(SPINS)
    mean, deviation = grid_posterior(EDGES, SPINS)
    found = torch.stack([mcmc.get_samples()["coupling"], mcmc.get_samples()["field"]])
    # 300 draws of NUTS are about 150 independent ones: 5 errors of the mean are 0.4 deviations,
    # and the mutant is off by more than 10.
    assert ((found.mean(1) - mean).abs() < 0.4 * deviation).all()
    assert ((found.std(1) / deviation - 1).abs() < 0.35).all()


@pytest.mark.slow
def test_a_forgotten_log_z_gives_another_posterior() -> None:
    zero = torch.zeros(())
    with mock.patch.object(summation, "log_partition", return_value=zero):
        mcmc = MCMC(NUTS(ising_model), 30, 60, disable_progbar=True)
        mcmc.run(SPINS)
    mean, deviation = grid_posterior(EDGES, SPINS)
    assert abs(float(mcmc.get_samples()["coupling"].mean() - mean[0])) > 10 * float(deviation[0])


def test_priors_on_a_modules_parameters_have_the_right_density() -> None:
    machine = BoltzmannMachine.on_graph(EDGES, couplings="shared").double()
    to_pyro_module_(machine)
    machine.couplings["visible_visible"].weight = PyroSample(
        dist.Normal(torch.zeros(1), 1.0).to_event(1)
    )
    machine.layers["visible"].bias = PyroSample(dist.Normal(torch.zeros(4), 1.0).to_event(1))

    def model(data: Tensor) -> None:
        law = EnergyDistribution(machine)  # outside of the plate, as its parameters are
        with pyro.plate("rows", len(data)):
            pyro.sample("s", law, obs=data)

    values = {
        "couplings.visible_visible.weight": torch.tensor([0.3]),
        "layers.visible.bias": torch.full((4,), -0.2),
    }
    found = poutine.trace(poutine.condition(model, values)).get_trace(SPINS).log_prob_sum()
    direct = {"coupling": torch.tensor(0.3), "field": torch.tensor(-0.2)}
    other = poutine.trace(poutine.condition(ising_model, direct)).get_trace(SPINS)
    prior = dist.Normal(torch.zeros(4), 1.0).log_prob(values["layers.visible.bias"])
    wanted = other.log_prob_sum() + prior[1:].sum()
    assert float(found) == pytest.approx(float(wanted), abs=1e-10)


# --- a fixed energy as a prior, up to a constant -------------------------------------------------

WELL = CallableEnergy(
    lambda x: (x.square() - 1).square().sum(-1) + 0.5 * x.sum(-1), 2, dtype=DOUBLE
)


def well_model(data: Tensor) -> None:
    x = pyro.sample("x", EnergyDistribution.up_to_constant(WELL, sampler=Sampler(steps=20)))
    pyro.sample("y", dist.Normal(x, 0.7).to_event(1), obs=data)


def well_posterior(data: Tensor) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-4, 4, 401)
    energy = (axis**2 - 1) ** 2 + 0.5 * axis
    p = (-energy - (data[:, None] - axis) ** 2 / (2 * 0.7**2)).softmax(1)
    mean = p @ axis
    return mean, (p @ axis**2 - mean**2).sqrt()


def test_a_fixed_energy_enters_the_potential_as_it_is() -> None:
    data = torch.tensor([0.9, 1.4])
    x = torch.tensor([0.3, -1.1], requires_grad=True)
    found = poutine.trace(poutine.condition(well_model, {"x": x})).get_trace(data).log_prob_sum()
    wanted = -WELL(x) + dist.Normal(x, 0.7).log_prob(data).sum()
    assert torch.allclose(found, wanted, atol=1e-12)
    assert torch.allclose(*(torch.autograd.grad(e, x)[0] for e in (found, wanted)), atol=1e-12)
    mcmc = MCMC(NUTS(well_model), 3, 3, disable_progbar=True)
    mcmc.run(data)
    assert mcmc.get_samples()["x"].shape == (3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NUTS, lambda model: HMC(model, step_size=0.2, num_steps=8)])
def test_a_fixed_energy_is_a_prior_under_hmc_and_nuts(kernel: Callable) -> None:
    data = torch.tensor([0.9, 1.4])
    mcmc = MCMC(kernel(well_model), 300, 100, disable_progbar=True)
    mcmc.run(data)
    mean, deviation = well_posterior(data)
    found = mcmc.get_samples()["x"]
    assert ((found.mean(0) - mean).abs() < 0.5 * deviation).all()
    assert ((found.std(0) / deviation - 1).abs() < 0.4).all()


@pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_autoguides_for_continuous_energies(guide: type) -> None:
    data = torch.tensor([0.9, 1.4])
    auto = guide(well_model)
    svi = SVI(well_model, auto, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step(data) for _ in range(60)]
    assert np.mean(losses[-20:]) < np.mean(losses[:10]) + 0.5
    mean, deviation = well_posterior(data)
    found = auto.median(data)["x"]
    assert ((found - mean).abs() < 1.5 * deviation).all()


# --- enumeration ---------------------------------------------------------------------------------

MACHINE = BoltzmannMachine.restricted(
    3, 2, couplings=normal(3, 2), biases={"visible": normal(3, seed=4), "hidden": normal(2, seed=5)}
)


def brute_force(law: EnergyDistribution, loc: Tensor, data: Tensor) -> Tensor:
    """ln p of each row (rows,): Σ_x p(x) N(row | loc·x, 1)."""
    joint = law.log_prob(law.states) + dist.Normal(law.states @ loc, 1.0).log_prob(data[:, None])
    return joint.logsumexp(-1)


@pytest.mark.parametrize("kind", ["exact", "up to a constant"])
def test_enumeration_sums_over_all_states(kind: str) -> None:
    make = EnergyDistribution if kind == "exact" else EnergyDistribution.up_to_constant
    data, loc = normal(5), torch.tensor([1.0, -2, 0.5])

    @config_enumerate
    def model() -> None:
        with pyro.plate("rows", 5):
            x = pyro.sample("x", make(MACHINE))
            pyro.sample("y", dist.Normal(x @ loc, 1.0), obs=data)

    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    wanted = brute_force(EnergyDistribution(MACHINE), loc, data).sum()
    if kind != "exact":
        wanted = wanted + 5 * summation.log_partition(MACHINE)
    assert -elbo.loss(model, lambda: None) == pytest.approx(float(wanted), abs=1e-9)


def test_enumeration_under_nested_plates_with_a_machine_for_each_element() -> None:
    weight, bias = normal(2, 1, 3, 2), normal(4, 3, seed=6)
    data = normal(2, 4, 3, seed=7)
    loc = torch.tensor([1.0, -2, 0.5])

    @config_enumerate
    def model() -> None:
        inner = pyro.plate("inner", 4, dim=-1)
        with pyro.plate("outer", 2, dim=-2), inner:
            x = pyro.sample("x", RestrictedBoltzmann(weight, bias))
            z = pyro.sample("z", Boltzmann(normal(2, 2)))
            mean = (x @ loc + z.sum(-1))[..., None]
            law = dist.Normal(mean.expand(*mean.shape[:-1], 3), 1.0).to_event(1)
            pyro.sample("y", law, obs=data)

    total = 0.0
    other = Boltzmann(normal(2, 2))
    for i, j in itertools.product(range(2), range(4)):
        law = RestrictedBoltzmann(weight[i, 0], bias[j])
        mean = (law.states @ loc)[:, None] + other.states.sum(-1)
        like = dist.Normal(mean[..., None], 1.0).log_prob(data[i, j]).sum(-1)
        joint = law.log_prob(law.states)[:, None] + other.log_prob(other.states) + like
        total += float(joint.logsumexp((0, 1)))
    assert -TraceEnum_ELBO(max_plate_nesting=2).loss(model, lambda: None) == pytest.approx(
        total, abs=1e-9
    )


def test_an_expansion_that_is_not_its_own_is_found() -> None:
    # Torch's generic one expands nothing that enumeration needs.
    generic = pyro.distributions.TorchDistribution.expand
    with (
        mock.patch.object(energy_distribution.AbstractEnergyDistribution, "expand", generic),
        pytest.raises((pytest.fail.Exception, AssertionError, ValueError, RuntimeError)),
    ):
        test_enumeration_under_nested_plates_with_a_machine_for_each_element()


def test_a_log_probability_without_its_batch_is_found() -> None:
    kind = energy_distribution.AbstractEnergyDistribution
    with mock.patch.object(kind, "shaped", lambda _, log_prob, value: log_prob):
        law = EnergyDistribution(MACHINE).expand([4])
        assert law.log_prob(law.states[0]).shape != (4,)
    assert law.log_prob(law.states[0]).shape == (4,)


def test_two_enumerated_sites_of_which_one_is_the_others_parameter() -> None:
    weight = normal(3, 3)

    @config_enumerate
    def model() -> None:
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        x = pyro.sample("x", Boltzmann(weight, z[..., None] * torch.ones(3)))
        pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=torch.tensor(1.2))

    total = []
    for z, p in ((0.0, 0.7), (1.0, 0.3)):
        law = Boltzmann(weight, z * torch.ones(3))
        like = dist.Normal(law.states.sum(-1), 1.0).log_prob(torch.tensor(1.2))
        total.append(math.log(p) + (law.log_prob(law.states) + like).logsumexp(0))
    wanted = float(torch.stack(total).logsumexp(0))
    found = -TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)
    assert found == pytest.approx(wanted, abs=1e-9)


def test_only_small_sites_can_be_enumerated() -> None:
    assert EnergyDistribution(BoltzmannMachine.fully_visible(16)).has_enumerate_support
    large = EnergyDistribution(BoltzmannMachine.fully_visible(17))
    assert not large.has_enumerate_support
    with pytest.raises(ValueError, match="65536 are enumerated"):
        large.enumerate_support()
    assert not EnergyDistribution.up_to_constant(WELL).has_enumerate_support


# --- vector sites where Pyro takes none: by their numbers ----------------------------------------


def numbered() -> Tensor:
    law = EnergyDistribution(MACHINE)
    k = pyro.sample("k", law.as_categorical(), infer={"enumerate": "parallel"})
    x = law.states[k]
    pyro.sample("y", dist.Normal(x.sum(-1), 0.5), obs=torch.tensor(1.7))
    return x


def numbered_posterior() -> Tensor:
    law = EnergyDistribution(MACHINE)
    like = dist.Normal(law.states.sum(-1), 0.5).log_prob(torch.tensor(1.7))
    return (law.log_prob(law.states) + like).softmax(0)


def test_marginals_by_numbers() -> None:
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    marginal = elbo.compute_marginals(numbered, lambda: None)["k"]
    assert torch.allclose(marginal.probs, numbered_posterior(), atol=1e-10)


def test_modes_by_numbers() -> None:
    found = infer_discrete(numbered, first_available_dim=-1, temperature=0)()
    law = EnergyDistribution(MACHINE)
    assert torch.equal(found, law.states[numbered_posterior().argmax()])


# --- Predictive, masks, plates -------------------------------------------------------------------


def test_predictive_draws_from_the_machine_and_not_from_noise() -> None:
    weight = torch.tensor([[0.0, 6.0], [6.0, 0.0]])  # both on, nearly always

    def model() -> None:
        with pyro.plate("rows", 3):
            pyro.sample("x", Boltzmann(weight))

    draws = Predictive(model, num_samples=150)()["x"]
    assert draws.shape == (150, 3, 2)
    # P = e⁶/(e⁶ + 3); 450 draws; the chance of fewer than 0.95 is below 1e-6, of noise it is 1.
    assert float(draws.prod(-1).mean()) > 0.95
    parallel = Predictive(model, num_samples=150, parallel=True)()["x"]
    assert parallel.shape == (150, 3, 2)
    assert float(parallel.prod(-1).mean()) > 0.95


def test_masked_and_scaled_statements_count_as_they_should() -> None:
    law = EnergyDistribution(MACHINE)
    data = law.states[[1, 4, 6]]
    mask = torch.tensor([True, False, True])

    def model() -> None:
        with pyro.plate("rows", 3), poutine.scale(scale=2.0):
            pyro.sample("x", law.mask(mask), obs=data)

    found = poutine.trace(model).get_trace().log_prob_sum()
    assert torch.allclose(found, 2 * law.log_prob(data)[mask].sum())
    together = law.expand([3]).to_event(1)
    assert together.event_shape == (3, 3)
    assert torch.allclose(together.log_prob(data), law.log_prob(data).sum())


def test_subsampled_plates() -> None:
    law = EnergyDistribution(MACHINE)
    data = law.sample((10,))

    def model() -> None:
        with pyro.plate("rows", 10, subsample_size=4) as index:
            pyro.sample("x", law, obs=data[index])

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    index = trace.nodes["rows"]["value"]
    wanted = 2.5 * law.log_prob(data[index]).sum()
    assert torch.allclose(trace.nodes["x"]["log_prob_sum"], wanted)


def test_learning_by_svi_is_maximum_likelihood() -> None:
    data = EnergyDistribution(MACHINE).sample((50,))

    def model() -> None:
        weight = pyro.param("weight", torch.zeros(3, 3))
        bias = pyro.param("bias", torch.zeros(3))
        with pyro.plate("rows", 50):
            pyro.sample("x", Boltzmann(weight, bias), obs=data)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.2}), Trace_ELBO())
    for _ in range(120):
        svi.step()
    law = Boltzmann(pyro.param("weight").detach(), pyro.param("bias").detach())
    p = law.log_prob(law.states).exp()
    for of_model, of_data in (
        (p @ law.states, data.mean(0)),
        (law.states.mT * p @ law.states, data.mT @ data / 50),
    ):
        assert torch.allclose(of_model, of_data, atol=0.02)


def test_a_latent_machine_in_score_function_svi() -> None:
    target = EnergyDistribution(MACHINE)

    def model() -> None:
        pyro.sample("x", target)

    def guide() -> None:
        bias = pyro.param("bias", torch.zeros(3))
        weight = pyro.param("weight", torch.zeros(3, 3))
        pyro.sample("x", Boltzmann(weight, bias), infer={"enumerate": "parallel"})

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceEnum_ELBO(max_plate_nesting=0))
    for _ in range(80):
        loss = svi.step()
    # KL(q ‖ p): pairs describe three bits but for their third-order term.
    assert 0 <= loss < 0.03


# --- bad input -----------------------------------------------------------------------------------

TWO = CallableEnergy(
    lambda a, b: a.sum(-1) * b.sum(-1),
    {"a": Site(constraints.boolean, torch.Size([2])), "b": Site(constraints.real, torch.Size([2]))},
)
MANY = CallableEnergy(lambda x: x.sum(-1), {"x": Site(constraints.boolean, torch.Size([60]))})
LAYERS = BoltzmannMachine.deep([3, 2, 2])

BAD: dict[str, tuple[Callable, type, str]] = {
    "no energy": (lambda: EnergyDistribution(lambda x: x), TypeError, "wanted an energy"),
    "unknown site": (lambda: EnergyDistribution(MACHINE, "x"), ValueError, "Unknown site 'x'"),
    "ambiguous site": (lambda: EnergyDistribution(TWO), ValueError, "name it"),
    "hidden site": (lambda: EnergyDistribution(TWO, "a"), ValueError, "energy_factor"),
    "log Z a number": (
        lambda: EnergyDistribution(MACHINE, log_partition=1.0),
        TypeError,
        "wanted a LogPartition",
    ),
    "log Z of another shape": (
        lambda: EnergyDistribution(MACHINE, log_partition=LogPartition.exact(torch.zeros(2))),
        ValueError,
        "wanted finite values of the shape",
    ),
    "value out of the support": (
        lambda: EnergyDistribution(MACHINE).log_prob(torch.tensor([0.0, 2, 1])),
        ValueError,
        "not in {0, 1}",
    ),
    "spins for bits": (
        lambda: EnergyDistribution(MACHINE).log_prob(torch.tensor([-1.0, 1, 1])),
        ValueError,
        r"\(x \+ 1\) / 2",
    ),
    "value of the wrong width": (
        lambda: EnergyDistribution(MACHINE).log_prob(torch.zeros(4)),
        ValueError,
        "has shape",
    ),
    "couplings not square": (lambda: Boltzmann(torch.zeros(2, 3)), ValueError, "wanted"),
    "couplings a list": (lambda: Boltzmann([[0.0]]), TypeError, "couplings is a list"),
    "couplings of one dimension": (lambda: Boltzmann(torch.zeros(2)), ValueError, "2 dimensions"),
    "NaN": (lambda: Boltzmann(torch.full((2, 2), math.nan)), ValueError, "NaN"),
    "bias of the wrong length": (
        lambda: RestrictedBoltzmann(torch.zeros(2, 3), torch.zeros(3)),
        ValueError,
        "bias",
    ),
    "couplings for other edges": (
        lambda: Ising([(0, 1), (1, 2)], torch.zeros(3)),
        ValueError,
        "1 or 2 numbers",
    ),
    "fields for fewer spins": (
        lambda: Ising([(0, 1), (1, 2)], torch.zeros(2), torch.zeros(2)),
        ValueError,
        "3 numbers",
    ),
    "an edge from a spin to itself": (
        lambda: Ising([(1, 1)], torch.zeros(())),
        ValueError,
        "itself",
    ),
    "no steps": (lambda: Sampler(steps=0), ValueError, "steps is 0"),
    "no patience": (lambda: Sampler(patience=-1.0), ValueError, "patience is -1.0"),
    "no kernel": (lambda: Sampler("gibbs"), TypeError, "wanted a kernel"),
    "no way to draw": (
        lambda: EnergyDistribution(
            2.0 * DistributionEnergy(dist.Multinomial(3, torch.ones(3)))
        ).sample(),
        ValueError,
        "No random start is known for 'visible', which is Multinomial",
    ),
    "an exact value that is none": (
        lambda: LogPartition.exact(1.0),
        TypeError,
        "log Z as a tensor",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_the_way_out(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_a_value_of_another_kind_is_converted() -> None:
    law = EnergyDistribution(MACHINE)
    wanted = law.log_prob(torch.tensor([1.0, 0, 1]))
    for value in (torch.tensor([1, 0, 1]), torch.tensor([True, False, True])):
        assert torch.equal(law.log_prob(value), wanted)


def test_an_energy_that_answers_with_one_number_for_all_is_refused() -> None:
    with mock.patch.object(CallableEnergy, "evaluate", return_value=torch.zeros(3)):
        law = EnergyDistribution.up_to_constant(WELL)
        with pytest.raises(ValueError, match="wanted one number for each"):
            law.log_prob(torch.zeros(5, 2))


def test_a_sampler_may_try_infinite_values_without_validation() -> None:
    law = EnergyDistribution.up_to_constant(WELL, validate_args=False)
    assert not torch.isfinite(law.log_prob(torch.tensor([math.nan, 0])))
    with pytest.raises(ValueError, match="NaN or infinite"):
        EnergyDistribution.up_to_constant(WELL, validate_args=True).log_prob(
            torch.tensor([math.nan, 0])
        )


def test_deep_machines_sum_out_coupled_hidden_layers() -> None:
    law = EnergyDistribution(LAYERS)
    assert law.site == "visible"
    assert float(law.log_prob(law.states).detach().exp().sum()) == pytest.approx(1, abs=1e-6)


def test_an_exact_result_says_so() -> None:
    found = LogPartition.exact(torch.tensor([1.0, 2.0]))
    assert isinstance(found, LogPartition)
    assert found.standard_error.eq(0).all()
    assert torch.equal(found.lower, found.value)
    assert torch.equal(found.upper, found.value)
    assert found.trustworthy
    assert found.log_weights.shape == (0, 2)


def test_a_distribution_survives_pickle_and_copy() -> None:
    law = EnergyDistribution(MACHINE).expand([2])
    for other in (pickle.loads(pickle.dumps(law)), copy.deepcopy(law)):
        assert torch.equal(other.log_prob(law.states[3]), law.log_prob(law.states[3]))
