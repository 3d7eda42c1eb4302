"""The energy of a distribution is minus its log-probability, on its support and outside."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as torch_dist
from torch import Tensor
from torch.distributions import constraints, transforms

from pyro_ebm import HMC, DistributionEnergy, exact, run
from pyro_ebm.distributions import TruncatedNormal
from pyro_ebm.energies.functions import distribution as subject

Q = torch_dist.Distribution


def t(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


LAWS: dict[str, Callable[[], Q]] = {
    "normal": lambda: dist.Normal(t(0.3), t(2.0)),
    "torch's normal": lambda: torch_dist.Normal(t(0.3), t(2.0)),
    "batched normal": lambda: dist.Normal(t(0.0, 1.0, 2.0), t(1.0)),
    "independent": lambda: dist.Normal(t(0.0, 1.0, 2.0), t(1.0)).to_event(1),
    "expanded": lambda: dist.Gamma(t(2.0), t(3.0)).expand([4]).to_event(1),
    "gamma": lambda: dist.Gamma(t(2.0), t(3.0)),
    "beta": lambda: dist.Beta(t(2.0), t(3.0)),
    "dirichlet": lambda: dist.Dirichlet(t(2.0, 3.0, 4.0)),
    "batch of dirichlets": lambda: dist.Dirichlet(torch.rand(2, 3).double() + 1),
    "event of dirichlets": lambda: dist.Dirichlet(torch.rand(2, 3).double() + 1).to_event(1),
    "multivariate": lambda: dist.MultivariateNormal(t(0.0, 1.0), torch.eye(2).double() + 0.5),
    "LKJ": lambda: dist.LKJ(3, t(2.0)),
    "LKJ factor": lambda: dist.LKJCholesky(3, t(2.0)),
    "log-normal": lambda: dist.LogNormal(t(0.0), t(0.3)),
    "transformed": lambda: dist.TransformedDistribution(
        dist.Normal(t(0.0), t(1.0)), [transforms.SigmoidTransform()]
    ),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(t(0.3, 0.7)), dist.Normal(t(0.0, 3.0), t(1.0, 2.0))
    ),
    "uniform with bounds": lambda: dist.Uniform(t(0.0, 1.0), t(1.0, 3.0)),
    "truncated": lambda: TruncatedNormal(t(-3.0), t(1.0), t(0.0), t(math.inf)),
    "strictly validated": lambda: dist.Exponential(t(2.0), validate_args=True),
    "half": lambda: dist.HalfNormal(t(1.5)),
    "bernoulli": lambda: dist.Bernoulli(t(0.2)),
    "bits": lambda: dist.Bernoulli(t(0.2, 0.5, 0.9)).to_event(1),
    "labels": lambda: dist.Categorical(t(0.2, 0.3, 0.5)),
    "one-hot": lambda: dist.OneHotCategorical(t(0.2, 0.3, 0.5)),
    "counts": lambda: dist.Poisson(t(3.0)),
    "bounded counts": lambda: dist.Binomial(5, t(0.3)),
    "multinomial": lambda: dist.Multinomial(5, t(0.2, 0.3, 0.5)),
    "masked": lambda: dist.Normal(t(0.0, 1.0), t(1.0)).mask(torch.tensor([True, False])),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_energy_is_minus_the_log_probability(name: str) -> None:
    q = LAWS[name]()
    energy = DistributionEnergy(q, site="x")
    x = q.sample((6,))
    assert energy.sites["x"].shape == q.event_shape
    assert energy.dtype == torch.float64
    for value in (energy(x), energy({"x": x}), energy.evaluate({"x": x.double()})):
        assert value.shape == (6, *q.batch_shape)
        assert torch.allclose(value, -q.log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "batched normal"])
def test_outside_the_support_the_energy_is_infinite_and_has_no_slope(name: str) -> None:
    q = LAWS[name]()
    energy = DistributionEnergy(q, site="x")
    (site,) = energy.sites.values()
    inside = q.sample((1,)).double()
    outside = torch.full_like(inside, -7.3)
    x = torch.cat([inside, outside]).requires_grad_()
    values = energy.evaluate({"x": x})
    if site.support is constraints.real:
        assert bool(values.isfinite().all())
        return
    assert bool(values[0].isfinite().all())
    assert bool((values[1] == math.inf).all())
    (slope,) = torch.autograd.grad(values.sum(), x)
    assert bool(slope.isfinite().all())
    with pytest.raises(ValueError, match="'x'"):
        energy(outside)


def test_a_constant_energy_has_the_slope_zero() -> None:
    for q in (dist.Uniform(t(0.0), t(1.0)), dist.ImproperUniform(constraints.real, (3,), (2,))):
        energy = DistributionEnergy(q)
        x = {"visible": torch.rand(5, 3, *q.event_shape, dtype=energy.dtype)}
        value, slope = energy.energy_and_gradient(x, ("visible",))
        assert value.shape == (5, 3)
        assert torch.equal(slope["visible"], torch.zeros_like(x["visible"]))


def test_one_element_outside_makes_the_whole_row_impossible() -> None:
    energy = DistributionEnergy(LAWS["expanded"]())
    x = torch.ones(3, 4, dtype=torch.float64)
    x[1, 2] = -1
    values = energy.evaluate({"visible": x})
    assert values.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("fault", ["validates", "answers outside", "reaches the gradient"])
def test_a_fault_outside_the_support_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gamma"
    if fault == "validates":
        monkeypatch.setattr(subject, "unvalidated", lambda q: q)
        monkeypatch.setattr(
            DistributionEnergy, "evaluate", lambda self, x: -self.law.log_prob(x["x"])
        )
        name = "strictly validated"
    if fault == "answers outside":
        monkeypatch.setattr(
            DistributionEnergy, "evaluate", lambda self, x: -self.law.log_prob(x["x"])
        )
        name = "strictly validated"
    if fault == "reaches the gradient":

        def evaluate(self: DistributionEnergy, x: dict[str, Tensor]) -> Tensor:
            allowed = self.sites["x"].support.check(x["x"])
            return torch.where(allowed, -self.law.log_prob(x["x"]), math.inf)

        name = "log-normal"
        monkeypatch.setattr(DistributionEnergy, "evaluate", evaluate)
    with pytest.raises((AssertionError, ValueError)):
        test_outside_the_support_the_energy_is_infinite_and_has_no_slope(name)


@pytest.mark.parametrize("name", ["bernoulli", "bits", "labels", "bounded counts"])
def test_finite_laws_have_the_log_partition_zero(name: str) -> None:
    energy = DistributionEnergy(LAWS[name]())
    assert energy.is_normalised
    assert abs(float(exact.log_partition(energy))) < 1e-12


@pytest.mark.parametrize("name", ["normal", "gamma", "beta", "log-normal", "truncated", "mixture"])
def test_continuous_laws_have_the_log_partition_zero(name: str) -> None:
    energy = DistributionEnergy(LAWS[name]())
    least = -20.0 if energy.sites["visible"].support is constraints.real else 0.0
    x = torch.linspace(least, 20, 400_001, dtype=torch.float64)
    value = torch.trapezoid((-energy.evaluate({"visible": x})).exp(), x)
    assert abs(float(value) - 1) < 1e-6


def test_what_is_not_normalised_says_so() -> None:
    improper = dist.ImproperUniform(constraints.real, (), (2,))
    for q in (
        LAWS["masked"](),
        LAWS["masked"]().to_event(1),
        improper,
        dist.VonMises(t(0.0), t(1.0)),
    ):
        assert not DistributionEnergy(q).is_normalised
    assert torch.equal(DistributionEnergy(improper)(torch.randn(3, 2)), torch.zeros(3))
    masked = DistributionEnergy(LAWS["masked"]())
    assert masked(t(5.0)).tolist()[1] == 0


def test_batched_parameters_broadcast_against_the_batch_of_x() -> None:
    energy = DistributionEnergy(LAWS["batched normal"]())
    x = torch.randn(5, 1).double()
    assert energy(x).shape == (5, 3)
    assert energy(x[0, 0]).shape == (3,)
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
        energy(torch.zeros(4))


def test_parameters_stay_the_caller_s_and_are_learned_through_the_energy() -> None:
    location = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    energy = DistributionEnergy(dist.Normal(location, 1.0))
    assert not list(energy.parameters())
    energy(t(1.0, 2.0)).sum().backward()
    assert float(location.grad) == -3
    with torch.no_grad():
        location += 1.5  # the distribution holds the tensor itself
    assert float(energy(t(1.5)).detach()) == pytest.approx(math.log(2 * math.pi) / 2)
    history = (2 * location).exp()
    scaled = DistributionEnergy(dist.Normal(0.0, history))
    value, slope = scaled.energy_and_gradient({"visible": t(1.0)}, ("visible",))
    assert not value.requires_grad
    assert float(slope["visible"]) == pytest.approx(1 / float(history.detach()) ** 2)


def test_conversion_does_not_reach_the_parameters() -> None:
    energy = DistributionEnergy(dist.Normal(torch.tensor(0.0), 1.0))
    assert energy.double().dtype == torch.float32
    assert energy(t(0.0)).dtype == torch.float32


def test_the_distribution_is_left_as_it_is() -> None:
    q = LAWS["strictly validated"]()
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    energy = DistributionEnergy(q)
    assert torch.equal(torch.rand(2), wanted)
    assert energy.distribution is q
    with pytest.raises(ValueError, match="support"):
        q.log_prob(t(-1.0))


@pytest.mark.parametrize("name", ["gamma", "dirichlet", "independent", "mixture"])
def test_gradients_are_finite_differences_and_kernels_run(name: str) -> None:
    q = LAWS[name]()
    energy = DistributionEnergy(q)
    if name != "dirichlet":  # off its simplex it has no energy
        x = q.sample((2,)).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: energy.evaluate({"visible": v}), (x,))
    kernel = HMC(step_size=0.3, trajectory_length=1.0)
    chains = run(kernel, energy, 40, warmup=20, chains=200, seed=0)
    draws = chains.draws["visible"]
    means = draws.mean(1)
    error = means.std(0) / math.sqrt(200)  # of independent chains; α = 1e-6
    assert bool(((means.mean(0) - q.mean).abs() < 5.2 * error).all())


def test_it_survives_pickle_and_copy() -> None:
    energy = DistributionEnergy(LAWS["multivariate"]())
    x = torch.randn(5, 2).double()
    for other in (pickle.loads(pickle.dumps(energy)), copy.deepcopy(energy)):
        assert torch.equal(other(x), energy(x))


class NoDensity(torch_dist.Distribution):
    """Can draw, and no more."""

    support = constraints.real
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.zeros(sample_shape)


class NoSupport(NoDensity):
    """Does not even say where."""

    support = None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (NoDensity(), "NoDensity does not know its log-probability"),
        (NoSupport(), "NoSupport does not know its support"),
        (3.0, "wanted a Pyro or torch distribution"),
        (dist.Normal, "wanted a Pyro or torch distribution"),
    ],
)
def test_what_has_no_density_is_refused(given: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        DistributionEnergy(given)
