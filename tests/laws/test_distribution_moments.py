"""Mean, variance and entropy of an energy distribution, by enumeration or in closed form."""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide.initialization import init_to_mean
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.distributions import Boltzmann, EnergyDistribution, Ising
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    RandomField,
)
from pyro_ebm.partition import LogPartition, exact
from pyro_ebm.sites import Site, boolean
from pyro_ebm.units import Gaussian
from tests.laws.test_batched_sums import BATCHED, some_values
from tests.support.checks import distance
from tests.support.machines import ENUMERATED

DOUBLE = torch.float64
CASES = [(name, site) for name, small in ENUMERATED.items() for site in small.units]


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(np.where(p > 0, p, 1))).sum())


@pytest.mark.parametrize(("name", "site"), CASES)
def test_moments_of_a_site_are_those_of_brute_force(name: str, site: str) -> None:
    small = ENUMERATED[name]
    found = EnergyDistribution(small.machine(), site)
    p, x = small.probabilities, small.states[site]
    mean = p @ x
    assert distance(found.mean, mean) < 1e-10
    assert distance(found.variance, p @ (x - mean) ** 2) < 1e-10
    assert distance(found.stddev, np.sqrt(p @ (x - mean) ** 2)) < 1e-10
    marginal = np.exp(-small.free_energies((site,)) - small.log_partition)
    assert distance(found.entropy(), np.array(entropy(marginal))) < 1e-10
    assert found.expand([3]).mean.shape == (3, small.sizes[site])
    assert found.expand([3]).entropy().shape == (3,)


@pytest.mark.parametrize("name", BATCHED)
def test_moments_of_a_batch_are_those_of_each(name: str) -> None:
    whole, singles = BATCHED[name](4)
    for site in some_values(whole):
        found = EnergyDistribution(whole, site)
        alone = [EnergyDistribution(one, site) for one in singles]
        for what in ("mean", "variance"):
            wanted = torch.stack([getattr(one, what) for one in alone])
            assert distance(getattr(found, what).reshape(wanted.shape), wanted) < 1e-12
        wanted = torch.stack([one.entropy() for one in alone])
        assert distance(found.entropy().reshape(-1), wanted) < 1e-12


def test_functions_and_fields_of_every_kind_of_site() -> None:
    sites = {
        "bits": Site(boolean, torch.Size([2])),
        "label": Site(constraints.integer_interval(3, 5), torch.Size([])),
        "hot": Site(constraints.one_hot, torch.Size([2, 3])),
    }

    def height(bits: Tensor, label: Tensor, hot: Tensor) -> Tensor:
        slope = torch.linspace(-1, 1, 6, dtype=bits.dtype)
        return bits[:, 0] * label + hot.flatten(1) @ slope - label * hot[:, 0, 1]

    energy = CallableEnergy(height, sites, dtype=DOUBLE)
    states = exact.states(energy)
    assert len(states["label"]) == 4 * 3 * 9
    p = (-energy(states)).softmax(0)
    for site in sites:
        found = EnergyDistribution(energy, site)
        flat = states[site].reshape(len(p), -1)
        assert distance(found.mean.flatten(), p @ flat) < 1e-12
        assert distance(found.variance.flatten(), p @ (flat - p @ flat).square()) < 1e-12
        table = found.log_prob(found.states)
        assert distance(table.exp().sum(), torch.ones(())) < 1e-12
        assert distance(found.entropy(), -(table.exp() * table).sum()) < 1e-12
    one_state = RandomField(
        [1, 1], {"a": RandomField.chain(torch.zeros(2, 1), torch.zeros(1, 1, 1)).factors["unary"]}
    )
    assert EnergyDistribution(one_state).mean.tolist() == [0, 0]


def test_gaussian_machines_are_normal_laws() -> None:
    precision = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    weight = torch.tensor([[0.0, 0.6], [0.6, 0.0]], dtype=DOUBLE)
    bias = torch.tensor([0.3, -1.0], dtype=DOUBLE)
    law = EnergyDistribution(
        BoltzmannMachine.fully_visible(2, unit=Gaussian(precision), couplings=weight, biases=bias)
    )
    wanted = dist.MultivariateNormal(
        torch.linalg.solve(precision.diag() - weight, bias),
        precision_matrix=precision.diag() - weight,
    )
    assert distance(law.mean, wanted.mean) < 1e-12
    assert distance(law.variance, wanted.variance) < 1e-12
    assert distance(law.entropy(), wanted.entropy()) < 1e-12


def test_the_entropy_of_many_units_is_found_by_temperature() -> None:
    # A ring of 24 spins: E[E] by differences of the transfer matrix's log Z.
    n, coupling, field = 24, 0.7, 0.3
    spins = np.array([-1.0, 1.0])

    def log_z(beta: float) -> float:
        inside = coupling * np.outer(spins, spins) + field * (spins[:, None] + spins) / 2
        return math.log((np.linalg.eigvalsh(np.exp(beta * inside)) ** n).sum())

    ring = [(k, (k + 1) % n) for k in range(n)]
    law = Ising(ring, torch.tensor(coupling, dtype=DOUBLE), torch.full((n,), field, dtype=DOUBLE))
    step = 1e-5
    wanted = log_z(1) - (log_z(1 + step) - log_z(1 - step)) / (2 * step)
    assert float(law.entropy()) == pytest.approx(wanted, rel=1e-8)
    assert law.mean.shape == (n,)


def test_the_entropy_is_differentiable() -> None:
    def of(weight: Tensor, bias: Tensor) -> Tensor:
        return Boltzmann(weight, bias).entropy()

    weight, bias = (torch.randn(*shape, dtype=DOUBLE) for shape in ((3, 3), (3,)))
    inputs = (weight.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(of, inputs)
    many = [(k, k + 1) for k in range(17)]

    def of_many(coupling: Tensor) -> Tensor:
        return Ising(many, coupling, torch.zeros(18, dtype=DOUBLE)).entropy()

    assert torch.autograd.gradcheck(of_many, torch.tensor(0.4, dtype=DOUBLE, requires_grad=True))


def test_forbidden_states_have_no_part_in_the_entropy() -> None:
    table = torch.tensor([[[0.0, -math.inf], [0.3, 0.5]]], dtype=DOUBLE)
    zeros = torch.zeros(1, 2, dtype=DOUBLE)
    for n in (3, 18):
        edges = [(k, k + 1) for k in range(n - 1)]
        field = RandomField.on_graph(edges, 2, node_table=zeros, edge_table=table)
        # The states are 1…1 0…0, by the number of ones; not 0 before 1.
        log_weights = torch.tensor(
            [
                (n - 1 - k) * 0.0 + max(k - 1, 0) * 0.5 + (0.3 if 0 < k < n else 0.0)
                for k in range(n + 1)
            ],
            dtype=DOUBLE,
        )
        p = log_weights.softmax(0)
        assert distance(EnergyDistribution(field).entropy(), -(p * p.log()).sum()) < 1e-12


def test_distributions_keep_their_own_moments() -> None:
    law = EnergyDistribution(DistributionEnergy(dist.Gamma(torch.tensor([2.0, 3.0]), 0.5)))
    assert law.mean.tolist() == [4.0, 6.0]
    assert law.variance.tolist() == [8.0, 12.0]
    assert torch.equal(law.entropy(), dist.Gamma(torch.tensor([2.0, 3.0]), 0.5).entropy())


def test_moments_need_no_normaliser_but_a_sum() -> None:
    machine = ENUMERATED["restricted"].machine()
    exactly_known = LogPartition.exact(exact.log_partition(machine))
    wanted = EnergyDistribution(machine).mean
    fixed = EnergyDistribution.up_to_constant(machine)
    estimated = EnergyDistribution(machine, log_partition=exactly_known)
    assert all(torch.equal(law.mean, wanted) for law in (fixed, estimated))
    large = EnergyDistribution.up_to_constant(
        BoltzmannMachine.restricted(200, 200, couplings=nn.Parameter(torch.zeros(200, 200)))
    )
    network = EnergyDistribution.up_to_constant(CallableEnergy(lambda x: x.square().sum(-1), 2))
    for law in (large, network):
        for ask in (lambda law=law: law.mean, lambda law=law: law.stddev, law.entropy):
            with pytest.raises(NotImplementedError, match=r"cannot be summed exactly.*law.sample"):
                ask()
    # Pyro asks for a mean, and does without where there is none.
    site = {"name": "x", "fn": network, "value": torch.zeros(2), "type": "sample"}
    assert init_to_mean(site).shape == (2,)


# --- a real site beside a label that is summed out ------------------------------------------------


def mixture(x: Tensor, y: Tensor) -> Tensor:
    centre = torch.stack([y - 1, 0.5 * y], -1)
    return (x - centre).square().sum(-1) * (1 + y) - 0.3 * y


MIXED = {
    "x": Site(constraints.real, torch.Size([2])),
    "y": Site(constraints.integer_interval(0, 2), torch.Size([])),
}


def test_the_energy_of_a_real_site_sums_the_label_out() -> None:
    joint = CallableEnergy(mixture, MIXED, dtype=DOUBLE)
    x = torch.randn(5, 2, dtype=DOUBLE)
    each = [joint({"x": x, "y": torch.full((5,), k)}) for k in range(3)]
    wanted = -(-torch.stack(each)).logsumexp(0)
    law = EnergyDistribution.up_to_constant(joint, "x")
    assert distance(law.energy(x), wanted) < 1e-12
    assert distance(law.log_prob(x), -wanted) < 1e-12
    assert distance(exact.free_energy(joint, {"x": x}), wanted) < 1e-12
    value = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(law.energy(value).sum(), value)
    assert bool(slope.isfinite().all())
    assert law.sample((4,)).shape == (4, 2)
    # With log Z at hand, here by quadrature, its probabilities are known as well.
    grid = torch.linspace(-9, 9, 601, dtype=DOUBLE)
    points = torch.cartesian_prod(grid, grid)
    log_z = (-law.energy(points)).logsumexp(0) + 2 * (grid[1] - grid[0]).log()
    known = exact.log_prob(joint, {"x": x}, log_z=log_z)
    assert distance(known, -wanted - log_z) < 1e-12
    p = torch.tensor([0.3 * k - math.log(1 + k) for k in range(3)], dtype=DOUBLE).exp() * math.pi
    assert float(log_z) == pytest.approx(float(p.sum().log()), abs=1e-6)
    with pytest.raises(TypeError, match=r"sites \['x'\] have infinitely many"):
        exact.log_partition(joint)


# --- one-hot sites of functions -------------------------------------------------------------------


def by_label(x: Tensor) -> Tensor:
    """A function of one-hot vectors: couplings of neighbours, and a field on the first."""
    same = (x[:, 1:] * x[:, :-1]).sum((1, 2))
    return -same - x[:, 0] @ torch.arange(x.shape[-1], dtype=x.dtype)


def hot(n: int, q: int) -> CallableEnergy:
    return CallableEnergy(
        by_label, {"x": Site(constraints.one_hot, torch.Size([n, q]))}, dtype=DOUBLE
    )


def potts(n: int, q: int) -> Tensor:
    """−E of all labels, by loops."""
    states = itertools.product(range(q), repeat=n)
    pairs = [(sum(a == b for a, b in itertools.pairwise(s)) + s[0]) for s in states]
    return torch.tensor(pairs, dtype=DOUBLE)


def test_one_hot_states_are_summed() -> None:
    energy, log_weights = hot(3, 4), potts(3, 4)
    assert len(log_weights) == 4**3
    assert distance(exact.log_partition(energy), log_weights.logsumexp(0)) < 1e-12
    law = EnergyDistribution(energy)
    assert law.has_enumerate_support
    assert law.states.shape == (64, 3, 4)
    assert bool((law.states.sum(-1) == 1).all())
    assert distance(law.log_prob(law.states), log_weights.log_softmax(0)) < 1e-12
    assert bool(law.support.check(law.states).all())
    moments = exact.moments(energy)
    p, flat = log_weights.softmax(0), law.states.flatten(1)
    assert distance(moments.second, (flat * p[:, None]).mT @ flat) < 1e-12
    best = exact.summation(energy).minimum()["x"]
    assert float(energy(best.double())) == pytest.approx(-float(log_weights.max()))
    assert exact.sample(energy, 5)["x"].shape == (5, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one-hot", "labels"])
def test_draws_of_too_many_states_are_those_of_the_chosen_kernel(kind: str) -> None:
    # 4^12 states. α = 1e-6, 1,000 draws: a probability that is off by 0.09 is found.
    n, q, count = 12, 4, 1000
    if kind == "one-hot":
        energy = hot(n, q)
    else:
        labels = {"x": Site(constraints.integer_interval(0, q - 1), torch.Size([n]))}
        energy = CallableEnergy(
            lambda x: by_label(nn.functional.one_hot(x.long(), q).to(x.dtype)), labels
        )
    torch.manual_seed(5)
    draws = EnergyDistribution.up_to_constant(energy).sample((count,))
    first = draws[:, 0].argmax(-1) if kind == "one-hot" else draws[:, 0].long()
    p = torch.arange(q, dtype=DOUBLE).softmax(0)  # the others leave the first to its field
    seen = torch.bincount(first, minlength=q) / count
    assert bool(((seen - p).abs() < 5.3 * (p * (1 - p) / count).sqrt()).all())
    labels = draws.argmax(-1) if kind == "one-hot" else draws
    equal = (labels[:, 1:] == labels[:, :-1]).double().mean(0)
    wanted = math.e / (math.e + q - 1)
    assert float((equal - wanted).abs().max()) < 5.8 * math.sqrt(wanted * (1 - wanted) / count)


def test_one_draw_of_too_many_states_takes_the_chosen_kernel() -> None:
    for energy in (hot(20, 4), hot(5, 9)):
        draw = EnergyDistribution.up_to_constant(energy).sample()
        assert bool((draw.sum(-1) == 1).all())


def test_counts_without_bound_are_drawn_one_at_a_time() -> None:
    law = EnergyDistribution.up_to_constant(2.0 * DistributionEnergy(dist.Poisson(3.0)))
    assert law.sample().shape == ()
    assert law.sample((5,)).shape == (5,)
