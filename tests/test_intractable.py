"""A normaliser that is left out where it matters raises, under stock NUTS and stock SVI.

Each form of the trap is a model whose energy depends on something random or learned. The same model
with a fixed energy must pass, and give the right posterior.
"""

import gc
import re
import weakref
from collections.abc import Callable
from unittest import mock

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
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.distributions import EnergyDistribution, IntractableNormalizerError, intractable
from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, ModelEnergy
from pyro_ebm.infer import MCMC as OurMCMC, EnergyKernel
from pyro_ebm.kernels import HMC as OurHMC, Cycle, Gibbs
from pyro_ebm.partition import LogPartition, exact as exact_sums
from pyro_ebm.sites import Site
from tests.support.goodness import ALPHA, chi_square

DOUBLE = torch.float64
N = 4
DATA = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]], dtype=DOUBLE)
ZERO, ONE = torch.zeros((), dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
BITS = {"x": Site(constraints.boolean, torch.Size([N]))}
Model = Callable[[], object]


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(DOUBLE)  # conftest.py sets it back


def latent(name: str = "w") -> Tensor:
    return pyro.sample(name, dist.Normal(ZERO, ONE))


def observe(energy: object, data: Tensor | None = DATA) -> None:
    with pyro.plate("rows", len(DATA)):
        pyro.sample("x", EnergyDistribution.up_to_constant(energy), obs=data)


def machine_of(coupling: Tensor) -> BoltzmannMachine:
    weight = coupling * (torch.ones(N, N) - torch.eye(N))
    return BoltzmannMachine.fully_visible(N, couplings=weight, biases=torch.zeros(N))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(N, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))


class Wrapped(nn.Module):
    """A fixed network times something that was given to it."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale, self.network = scale, network()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.network(x)


# --- the forms of the trap -----------------------------------------------------------------------


def closure() -> None:
    w = latent()
    observe(CallableEnergy(lambda x: -w * x.sum(-1), BITS))


def wrapper() -> None:
    observe(CallableEnergy(Wrapped(latent().exp()), BITS))


def given_tensor() -> None:
    observe(machine_of(latent()))


def conditional_network() -> None:
    condition = latent()
    fixed = nn.Linear(1, N)  # its parameters require grad, and are not the point
    field = fixed(condition[None])
    observe(CallableEnergy(lambda x: -(x * field).sum(-1), BITS))


def in_place_assembly() -> None:
    w = latent()
    weight = torch.zeros(N, N)
    weight[0, 1] = weight[1, 0] = w
    weight[2, 3] = weight[3, 2] = 1.0
    observe(BoltzmannMachine.fully_visible(N, couplings=weight, biases=torch.zeros(N)))


def outside_of_torch() -> None:
    w = float(latent().detach())
    observe(CallableEnergy(lambda x: -w * x.sum(-1), BITS))


def detached_data() -> None:
    module = nn.Linear(N, 1)
    module.weight.data.copy_(latent().detach().expand(1, N))
    observe(CallableEnergy(lambda x: module(x)[:, 0], BITS))


def random_module() -> None:
    machine = BoltzmannMachine.fully_visible(N)
    to_pyro_module_(machine)
    machine.layers["visible"].bias = PyroSample(dist.Normal(torch.zeros(N), 1.0).to_event(1))
    observe(machine)


def transformed_site() -> None:
    w = pyro.sample("w", dist.LogNormal(ZERO, ONE))
    observe(machine_of(pyro.deterministic("twice", 2 * w)))


def made_before_the_observation() -> None:
    law = EnergyDistribution.up_to_constant(machine_of(latent()))
    pyro.sample("other", dist.Normal(ZERO, ONE), obs=ONE)
    with pyro.plate("rows", len(DATA)):
        pyro.sample("x", law.mask(torch.tensor(True)), obs=DATA)


def to_event() -> None:
    law = EnergyDistribution.up_to_constant(machine_of(latent()))
    pyro.sample("x", law.expand([len(DATA)]).to_event(1), obs=DATA)


RANDOM = [
    closure,
    wrapper,
    given_tensor,
    conditional_network,
    in_place_assembly,
    outside_of_torch,
    detached_data,
    random_module,
    transformed_site,
    made_before_the_observation,
    to_event,
]


def param() -> None:
    observe(machine_of(pyro.param("w", torch.tensor(0.3))))


def constrained_param() -> None:
    w = pyro.param("w", torch.tensor(0.3), constraint=constraints.positive)
    observe(CallableEnergy(lambda x: -w * x.sum(-1), BITS))


SHARED = {"network": None}


def registered_module() -> None:
    net = pyro.module("net", SHARED["network"] or network())
    observe(CallableEnergy(net, BITS))


def registered_machine() -> None:
    machine = pyro.module("machine", BoltzmannMachine.fully_visible(N))
    observe(machine)


def pyro_param() -> None:
    module = PyroModule[nn.Linear](N, 1)
    module.bias = PyroParam(torch.ones(1), constraints.positive)
    observe(CallableEnergy(PyroModule[nn.Sequential](module, PyroModule[nn.Flatten](0)), BITS))


LEARNED = [param, constrained_param, registered_module, registered_machine, pyro_param]


def nuts(model: Model, kernel: type = NUTS) -> None:
    MCMC(kernel(model), num_samples=3, warmup_steps=2, disable_progbar=True).run()


def svi(model: Model, guide: Model | None = None, elbo: object | None = None) -> None:
    guide = guide or AutoNormal(model)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo or Trace_ELBO()).step()


def ours(model: Model) -> None:
    """The library's own driver, chains in a batch."""
    kernel = EnergyKernel(OurHMC(step_size=0.2, trajectory_length=0.4), model)
    OurMCMC(kernel, num_samples=3, warmup_steps=2, num_chains=3, seed=0).run()


def as_an_energy(model: Model) -> None:
    energy = ModelEnergy(model)
    energy(energy.initial(3))


def names(error: pytest.ExceptionInfo, name: str, dependence: str) -> bool:
    text = str(error.value)
    remedies = ("EnergyDistribution(energy)", "LogPartition", "energy_factor", "requires_grad_")
    return (
        f"The site {name!r}" in text
        and re.search(dependence, text) is not None
        and all(remedy in text for remedy in remedies)
    )


@pytest.mark.parametrize("model", RANDOM)
@pytest.mark.parametrize("infer", [nuts, svi])
def test_random_parameters_raise(model: Model, infer: Callable) -> None:
    with pytest.raises(IntractableNormalizerError) as error:
        infer(model)
    name = "layers.visible.bias" if model is random_module else "w|twice"
    assert names(error, "x", rf"the latent site '({name})'"), error.value


@pytest.mark.parametrize("model", LEARNED)
def test_learned_parameters_raise(model: Model) -> None:
    with pytest.raises(IntractableNormalizerError) as error:
        svi(model, lambda: None)
    assert names(error, "x", r"the parameter '\S+'"), error.value


@pytest.mark.parametrize("model", [*RANDOM, param, constrained_param])
@pytest.mark.parametrize("infer", [ours, as_an_energy])
def test_a_batch_of_chains_raises(model: Model, infer: Callable) -> None:
    with pytest.raises(IntractableNormalizerError, match="The site 'x' has an energy that depends"):
        infer(model)


@pytest.mark.parametrize("model", [registered_module, registered_machine, pyro_param])
def test_learned_modules_beside_a_latent_site_raise(model: Model) -> None:
    def with_latent() -> None:
        latent()
        model()

    with pytest.raises(IntractableNormalizerError, match="the parameter '"):
        ours(with_latent)


@pytest.mark.parametrize("kernel", [HMC, NUTS])
@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, TraceGraph_ELBO, TraceEnum_ELBO])
def test_other_stock_inference_raises_too(kernel: type, elbo: type) -> None:
    with pytest.raises(IntractableNormalizerError):
        nuts(given_tensor, kernel)
    with pytest.raises(IntractableNormalizerError):
        svi(given_tensor, AutoDelta(given_tensor), elbo())


# --- latent variables without a gradient ---------------------------------------------------------


def machine_of_batch(coupling: Tensor) -> BoltzmannMachine:
    weight = coupling[..., None, None] * (torch.ones(N, N) - torch.eye(N))
    return BoltzmannMachine.fully_visible(N, couplings=weight, biases=torch.zeros(N))


def discrete() -> None:
    latent("other")
    z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4)))
    observe(machine_of_batch(z[..., None] if z.dim() else z))


def discrete_but_unused() -> None:
    latent("other")
    pyro.sample("z", dist.Bernoulli(torch.tensor(0.4)))
    observe(machine_of(ONE))


def draws_of_a_fixed_guide() -> None:
    latent("other")
    pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))


def enumerating_guide() -> None:
    latent("other")
    pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})


def gibbs(model: Model) -> None:
    blocks = Cycle((Gibbs(("z",)), OurHMC(("other",), step_size=0.2, trajectory_length=0.4)))
    OurMCMC(EnergyKernel(blocks, model), 3, 2, num_chains=3, seed=0).run()


WAYS = {
    "NUTS": lambda model: nuts(config_enumerate(model)),
    "SVI": lambda model: svi(model, draws_of_a_fixed_guide),
    "enumerated SVI": lambda model: svi(model, enumerating_guide, TraceEnum_ELBO()),
    "summed out, chains in a batch": lambda model: ours(config_enumerate(model)),
    "Gibbs, chains in a batch": gibbs,
}


@pytest.mark.parametrize("way", WAYS)
def test_discrete_parameters_raise(way: str) -> None:
    WAYS[way](discrete_but_unused)
    for _ in range(2):  # nothing is remembered that would let a second run pass
        with pytest.raises(IntractableNormalizerError, match="the latent site 'z'"):
            WAYS[way](discrete)


def test_a_model_that_passed_is_looked_at_again_where_it_goes_another_way() -> None:
    def model(random: bool) -> None:
        w = latent()
        observe(machine_of(ONE if not random else torch.tensor(float(w.detach()))))

    def run(random: bool) -> None:
        kernel = NUTS(model)
        MCMC(kernel, num_samples=2, warmup_steps=1, disable_progbar=True).run(random)

    run(False)
    with pytest.raises(IntractableNormalizerError):
        run(True)


def test_the_second_run_compares_nothing_and_moves_no_random_numbers() -> None:
    counts = []

    def model() -> None:
        counts.append(1)
        latent()
        observe(machine_of(ONE))

    torch.manual_seed(1)
    svi(model)
    first = len(counts), torch.rand(1)
    counts.clear()
    torch.manual_seed(1)
    with mock.patch.object(intractable.comparison, "changing", return_value=set()):
        pyro.clear_param_store()
        svi(model)
    assert torch.equal(first[1], torch.rand(1))
    assert first[0] > len(counts)  # the first run was compared
    repeated = len(counts)
    counts.clear()
    pyro.clear_param_store()
    svi(model)
    assert len(counts) == repeated


# --- what must pass ------------------------------------------------------------------------------

TRAINED = nn.Sequential(nn.Linear(N, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)).double()


def fixed_tensors() -> None:
    latent()
    observe(machine_of(ONE))


def trained_network() -> None:
    latent()
    observe(CallableEnergy(TRAINED, BITS))


def trained_closure() -> None:
    latent()
    observe(CallableEnergy(lambda x: 2 * TRAINED(x), BITS))


MACHINE = BoltzmannMachine.fully_visible(N).double()  # its parameters require grad


def trained_machine() -> None:
    latent()
    observe(MACHINE)


PRIOR = EnergyDistribution.up_to_constant(MACHINE)


def made_outside() -> None:
    latent()
    with pyro.plate("rows", len(DATA)):
        pyro.sample("x", PRIOR, obs=DATA)


FIXED = [fixed_tensors, trained_network, trained_closure, trained_machine, made_outside]


@pytest.mark.parametrize("model", FIXED)
@pytest.mark.parametrize("infer", [nuts, svi, ours, as_an_energy])
def test_fixed_energies_pass(model: Model, infer: Callable) -> None:
    infer(model)


def test_a_fixed_energy_gives_a_batch_of_chains_the_right_posterior() -> None:
    """Its unknown constant cancels: 2,000 chains against all states and a grid of levels."""
    seen = torch.tensor([0.8, -0.2, 1.1, 0.3])

    def model() -> None:
        z = pyro.sample("z", PRIOR)
        level = pyro.sample("level", dist.Normal(ONE, ONE))
        pyro.sample("y", dist.Normal(level * z, 0.6).to_event(1), obs=seen)

    blocks = Cycle((Gibbs(("z",)), OurHMC(("level",), step_size=0.3, trajectory_length=0.9)))
    mcmc = OurMCMC(EnergyKernel(blocks, model), 1, 20, num_chains=2_000, seed=0)
    mcmc.run()
    levels = torch.linspace(-5, 7, 1201)[:, None, None]
    states = PRIOR.states
    log_p = PRIOR.log_prob(states) + dist.Normal(ONE, ONE).log_prob(levels[..., 0])
    log_p = log_p + dist.Normal(levels * states, 0.6).log_prob(seen).sum(-1)
    law = log_p.detach().logsumexp(0).softmax(0).numpy()
    index = (mcmc.get_samples()["z"].long() * torch.tensor([8, 4, 2, 1])).sum(-1)
    counts = torch.bincount(index, minlength=16).numpy()
    assert chi_square(counts, law) > ALPHA
    assert chi_square(counts, PRIOR.log_prob(states).detach().softmax(0).numpy()) < ALPHA
    mean = (log_p.detach().logsumexp(1).softmax(0) * levels[:, 0, 0]).sum()
    found = mcmc.get_samples()["level"]
    assert abs(found.mean() - mean) < 5 * found.std() / 2_000**0.5


@pytest.mark.parametrize("infer", [nuts, svi])
def test_a_value_that_depends_on_a_latent_site_is_no_dependence_of_the_energy(
    infer: Callable,
) -> None:
    real = CallableEnergy(lambda x: x.square().sum(-1), 2, dtype=DOUBLE)

    def model() -> None:
        w = latent()
        law = EnergyDistribution.up_to_constant(real)
        pyro.sample("x", law, obs=torch.stack([w, w.exp()]))

    infer(model)


def test_a_machine_that_changes_under_its_distribution_is_seen() -> None:
    energy = CallableEnergy(Wrapped(ONE), BITS)
    law = EnergyDistribution.up_to_constant(energy)

    def model() -> None:
        energy.function.scale = latent()
        pyro.sample("x", law, obs=DATA[0])

    for infer in (nuts, svi):
        with pytest.raises(IntractableNormalizerError, match=r"gradient|'w'"):
            infer(model)


def test_a_distribution_raises_whenever_it_is_asked() -> None:
    def model() -> EnergyDistribution:
        w = pyro.sample("w", dist.Normal(ZERO, ONE), obs=torch.tensor(0.5, requires_grad=True))
        return pyro.sample("x", EnergyDistribution.up_to_constant(machine_of(w)), obs=DATA[0])

    law = poutine.trace(model).get_trace().nodes["x"]["fn"]
    for _ in range(3):
        with pytest.raises(IntractableNormalizerError, match="'w'"):
            law.log_prob(DATA[0])
    law.context.forget()
    with pytest.raises(IntractableNormalizerError, match="'w'"):
        law.log_prob(DATA[1])


def test_the_remedy_for_a_machine_that_is_still_in_the_param_store() -> None:
    machine = BoltzmannMachine.fully_visible(N)
    pyro.module("machine", machine)

    def model() -> None:
        latent()
        observe(machine)

    with pytest.raises(IntractableNormalizerError, match=r"requires_grad_\(False\)"):
        nuts(model)
    machine.requires_grad_(False)
    nuts(model)


def test_evaluating_a_loss_without_gradients_raises_too() -> None:
    loss = SVI(param, lambda: None, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    with pytest.raises(IntractableNormalizerError, match="'w'"):
        loss.evaluate_loss()


def test_nothing_keeps_a_trace_alive() -> None:
    gc.disable()
    try:
        model = poutine.trace(fixed_tensors)
        trace = model.get_trace()
        trace.compute_log_prob()
        law = weakref.ref(trace.nodes["x"]["fn"])
        del trace, model
        assert law() is None
    finally:
        gc.enable()


# --- without any normaliser ----------------------------------------------------------------------


def large(n: int = 60) -> BoltzmannMachine:
    return BoltzmannMachine.fully_visible(n)


def test_a_distribution_without_log_z_raises() -> None:
    found = EnergyDistribution(large())
    value = torch.zeros(60)
    assert float(found.energy(value).detach()) == 0.0
    with pytest.raises(IntractableNormalizerError, match="up_to_constant") as error:
        found.log_prob(value)
    assert names(error, "x", "") or "An energy distribution" in str(error.value)
    with pytest.raises(IntractableNormalizerError):
        EnergyDistribution.up_to_constant(machine_of(ONE)).as_categorical()


def test_a_site_without_log_z_is_named() -> None:
    def model() -> None:
        pyro.sample("spins", EnergyDistribution(large()), obs=torch.zeros(60))

    with pytest.raises(IntractableNormalizerError, match="The site 'spins' needs log Z"):
        svi(model, lambda: None)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO])
def test_an_unnormalised_guide_is_refused(elbo: type) -> None:
    def model() -> None:
        pyro.sample("x", dist.Bernoulli(0.5 * torch.ones(N)).to_event(1))

    ways = {"infer": {"enumerate": "sequential"}} if elbo is TraceEnum_ELBO else {}

    def guide() -> None:
        pyro.sample("x", EnergyDistribution.up_to_constant(machine_of(ONE)), **ways)

    with pytest.raises(IntractableNormalizerError, match="'x' stands in a guide"):
        svi(model, guide, elbo())

    def normalised() -> None:
        pyro.sample("x", EnergyDistribution(machine_of(ONE)), **ways)

    svi(model, normalised, elbo())


# --- estimates -----------------------------------------------------------------------------------


def estimate(value: Tensor) -> LogPartition:
    return LogPartition.exact(value, "as if estimated")


def with_estimate(carries: bool, is_latent: bool) -> Model:
    def model() -> None:
        w = latent() if is_latent else pyro.param("w", torch.tensor(0.3))
        machine = machine_of(w)
        log_z = exact_sums.log_partition(machine)
        found = estimate(log_z if carries else log_z.detach())
        with pyro.plate("rows", len(DATA)):
            pyro.sample("x", EnergyDistribution(machine, log_partition=found), obs=DATA)

    return model


@pytest.mark.parametrize("is_latent", [False, True])
def test_an_estimate_must_carry_its_gradient(is_latent: bool) -> None:
    guide = None if is_latent else lambda: None
    svi(with_estimate(True, is_latent), guide)
    pyro.clear_param_store()
    with pytest.raises(IntractableNormalizerError, match="carries no gradient"):
        svi(with_estimate(False, is_latent), guide)


def test_an_estimate_is_refused_under_mcmc() -> None:
    with pytest.raises(IntractableNormalizerError, match="under MCMC"):
        nuts(with_estimate(True, True))


def test_a_stale_estimate_is_refused() -> None:
    machine = BoltzmannMachine.fully_visible(N)
    log_z = estimate(exact_sums.log_partition(machine))
    found = EnergyDistribution(machine, log_partition=log_z)
    assert torch.isfinite(found.log_prob(DATA)).all()
    with torch.no_grad():
        machine.layers["visible"].bias += 1
    with pytest.raises(IntractableNormalizerError, match="changed since"):
        found.log_prob(DATA)


# --- planted faults ------------------------------------------------------------------------------


def test_a_check_that_looks_only_once_is_found() -> None:
    seen = []

    def once(*arguments: object) -> set:
        seen.append(1)
        return original(*arguments) if len(seen) == 1 else set()

    original = intractable.dependences
    with mock.patch.object(intractable, "dependences", once):
        nuts(fixed_tensors)
        with (
            mock.patch.object(intractable.comparison, "changing", return_value=set()),
            pytest.raises(pytest.fail.Exception),
            pytest.raises(IntractableNormalizerError),
        ):
            nuts(given_tensor)


def test_a_trained_machine_must_not_be_taken_for_a_dependence() -> None:
    def any_leaf(output: Tensor, *_: object) -> set:
        where = intractable.Dependence("something that requires grad", False)
        return {where} if output.requires_grad else set()

    with (
        mock.patch.object(intractable, "dependences", any_leaf),
        pytest.raises(IntractableNormalizerError),
    ):
        nuts(trained_machine)
