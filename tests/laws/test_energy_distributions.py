"""An energy distribution against sums over all states: log-probabilities, gradients, draws.

Without randomness unless said: float64, limits of 1e-10; the smallest planted fault, a log Z that
is left out, shifts a log-probability by more than 0.1.
"""

import math
from unittest import mock

import networkx as nx
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.gof import multinomial_goodness_of_fit
from scipy import stats
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.distributions import (
    Boltzmann,
    EnergyDistribution,
    Ising,
    Potts,
    RestrictedBoltzmann,
    Sampler,
    sampling,
    summation,
)
from pyro_ebm.distributions.energy_distribution import AbstractEnergyDistribution
from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, DistributionEnergy, Energy, Layer
from pyro_ebm.kernels import Gibbs
from pyro_ebm.partition import LogPartition, exact
from pyro_ebm.sites import Site, Sites, spin
from pyro_ebm.units import Categorical, Gaussian
from tests.support.goodness import ALPHA, chi_square
from tests.support.machines import BIT, SMALL, Small, stacked, states_of, varied

DOUBLE = torch.float64
CASES = [(name, site) for name, small in SMALL.items() for site in small.units]


def of(name: str, site: str) -> EnergyDistribution:
    return EnergyDistribution(SMALL[name].machine(), site)


def law(small: Small, site: str) -> np.ndarray:
    """p of every state of a site, by sums over all joint states."""
    return np.exp(-small.free_energies((site,)) - small.log_partition)


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "site"), CASES)
def test_probabilities_are_those_of_brute_force(name: str, site: str) -> None:
    small, found = SMALL[name], of(name, site)
    log_prob = found.log_prob(found.states)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert np.allclose(log_prob, np.log(law(small, site)), atol=1e-10)


@pytest.mark.parametrize(("name", "site"), CASES)
def test_energies_need_no_normaliser(name: str, site: str) -> None:
    small = SMALL[name]
    found = EnergyDistribution.up_to_constant(small.machine(), site)
    assert np.allclose(found.energy(found.states), small.free_energies((site,)), atol=1e-10)
    assert torch.equal(found.unnormalized_log_prob(found.states), -found.energy(found.states))
    assert torch.equal(found.log_prob(found.states), -found.energy(found.states))


@pytest.mark.parametrize("name", SMALL)
def test_states_come_in_the_order_of_a_table(name: str) -> None:
    small = SMALL[name]
    for site in small.units:
        wanted = states_of(small.units, {site: small.sizes[site]})[site]
        assert np.array_equal(of(name, site).states, wanted)


def expected_gradient(machine: BoltzmannMachine, site: str, value: Tensor) -> list[Tensor]:
    """∂ ln p(value) = −E[∂E | value] + E[∂E], the expectations by sums over all joint states."""
    parameters = list(machine.parameters())
    states = exact.states(machine)
    weights = (-machine(states)).softmax(0).detach()
    match = (states[site] == value).all(-1).double() * weights
    total = (weights - match / match.sum()) @ machine(states)
    return list(torch.autograd.grad(total, parameters))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    machine = SMALL[name].machine(wrap=nn.Parameter)
    for site in machine.sites:
        found = EnergyDistribution(machine, site)
        value = found.states[len(found.states) // 3]
        gradients = torch.autograd.grad(found.log_prob(value), list(machine.parameters()))
        wanted = expected_gradient(machine, site, value)
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(gradients, wanted, strict=True))


# --- straight from tensors -----------------------------------------------------------------------

RING = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]


def tensor_cases() -> dict[str, tuple]:
    """A distribution, and ln p up to a constant as the formula of its documentation says it."""
    W, b, c, V = normal(5, 5), normal(5, seed=4), normal(3, seed=5), normal(5, 3, seed=6)
    J, h = normal(5, seed=7), normal(4, seed=8)
    first, second = torch.tensor(RING).T
    shared, field = torch.tensor(0.4, dtype=DOUBLE), torch.tensor(-0.3, dtype=DOUBLE)
    table = normal(4, 3, seed=9)

    def potts(x: Tensor) -> Tensor:
        agree = (x[..., first] == x[..., second]).double()
        return (J * agree).sum(-1) + table[torch.arange(4), x.long()].sum(-1)

    return {
        "Potts": (Potts(RING, J, table), potts),
        "Boltzmann": (Boltzmann(W, b), lambda x: ((x @ W) * x).sum(-1) / 2 + x @ b),
        "Boltzmann without bias": (Boltzmann(W), lambda x: ((x @ W) * x).sum(-1) / 2),
        "RestrictedBoltzmann": (
            RestrictedBoltzmann(V, b, c),
            lambda v: v @ b + nn.functional.softplus(c + v @ V, threshold=50).sum(-1),
        ),
        "Ising": (
            Ising(RING, J, h),
            lambda s: (J * s[..., first] * s[..., second]).sum(-1) + s @ h,
        ),
        "Ising of one coupling": (
            Ising(nx.Graph(RING), shared, field),
            lambda s: shared * (s[..., first] * s[..., second]).sum(-1) + field * s.sum(-1),
        ),
    }


@pytest.mark.parametrize("name", tensor_cases())
def test_distributions_from_tensors_are_their_formulas(name: str) -> None:
    found, formula = tensor_cases()[name]
    wanted = formula(found.states).log_softmax(0)
    assert torch.allclose(found.log_prob(found.states), wanted, atol=1e-10)
    assert found.arg_constraints.keys() <= vars(found).keys()


def test_gradients_reach_the_tensors() -> None:
    def log_prob(coupling: Tensor, field: Tensor) -> Tensor:
        law = Ising(RING, coupling, field)
        return law.log_prob(law.states[3])

    def of_bits(W: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return RestrictedBoltzmann(W, b, c).log_prob(torch.tensor([1.0, 0, 1], dtype=DOUBLE))

    J, h = normal(5).requires_grad_(), normal(4).requires_grad_()
    assert torch.autograd.gradcheck(log_prob, (J, h))
    W, b, c = (t.requires_grad_() for t in (normal(3, 2), normal(3), normal(2)))
    assert torch.autograd.gradcheck(of_bits, (W, b, c))


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fully visible bits", "restricted", "general", "deep"])
def test_each_machine_of_a_batch_has_its_own_law(name: str) -> None:
    rng = np.random.default_rng(2)
    machines = [SMALL[name], *(varied(SMALL[name], rng) for _ in range(2))]
    machines = [Small(m.units, m.bias, m.couplings) for m in machines]
    together = EnergyDistribution(stacked(machines).machine(), "visible")
    assert together.batch_shape == (3,)
    table = together.log_prob(together.enumerate_support())
    for k, machine in enumerate(machines):
        assert np.allclose(table[:, k].exp(), law(machine, "visible"), atol=1e-10)


def test_batches_of_parameters_broadcast() -> None:
    found = Boltzmann(normal(3, 1, 4, 4), normal(2, 4, seed=4))
    assert found.batch_shape == (3, 2)
    for i in range(3):
        for j in range(2):
            one = Boltzmann(found.couplings[i, 0], found.biases[j])
            table = found.log_prob(found.enumerate_support())[:, i, j]
            assert torch.allclose(table, one.log_prob(one.states), atol=1e-12)


@pytest.mark.parametrize("batch", [(), (3,), (4, 3), (4, 1)])
@pytest.mark.parametrize("sample", [(), (2,), (2, 5)])
def test_shapes_of_draws_and_probabilities(batch: tuple, sample: tuple) -> None:
    base = Boltzmann(normal(3, 4, 4)) if 3 in batch else Boltzmann(normal(4, 4))
    found = base.expand(batch)
    draws = found.sample(sample)
    assert draws.shape == (*sample, *batch, 4)
    assert found.log_prob(draws).shape == (*sample, *batch)
    assert found.enumerate_support().shape == (16, *batch, 4)
    assert found.enumerate_support(expand=False).shape == (16, *[1] * len(batch), 4)
    assert found.log_prob(found.enumerate_support(expand=False)).shape == (16, *batch)


def test_expanding_is_lazy() -> None:
    found = Boltzmann(normal(6, 6)).expand([1000])
    value = found.sample()
    with mock.patch.object(
        summation, "log_partition", wraps=summation.log_partition
    ) as log_partition:
        log_prob = found.log_prob(value)
    assert log_prob.shape == (1000,)
    assert log_partition.call_count == 1
    assert found.machines == ()
    assert found.machine.read().batch == ()
    with pytest.raises(ValueError, match="cannot be expanded"):
        found.expand([7])


def test_an_eager_expansion_is_found() -> None:
    def eager(law: Boltzmann, batch: tuple) -> Boltzmann:
        return Boltzmann(law.couplings.expand(*batch, 6, 6))

    with (
        mock.patch.object(AbstractEnergyDistribution, "expand", eager),
        pytest.raises(AssertionError),
    ):
        test_expanding_is_lazy()


# --- draws: α = 1e-6 a case; 20,000 draws find a total-variation distance of 0.03 ----------------

DRAWS = 20_000


def of_draws(found: AbstractEnergyDistribution, draws: Tensor) -> float:
    """The p-value of draws (draws, n) of a distribution without a batch."""
    log_prob = found.log_prob(found.states)
    low = found.states.min()
    bits = (draws > low).double() @ 2.0 ** torch.arange(draws.shape[-1] - 1, -1, -1).double()
    counts = np.bincount(bits.long().numpy(), minlength=len(found.states))
    return chi_square(counts, log_prob.exp().numpy() / float(log_prob.exp().sum()))


SAMPLED = ["restricted", "general bits and spins", "torus", "fully visible bits"]


@pytest.mark.parametrize("name", SAMPLED)
def test_draws_follow_the_law(name: str) -> None:
    found = of(name, "visible")
    assert of_draws(found, found.sample((DRAWS,))) > ALPHA


def test_draws_pass_pyros_goodness_of_fit() -> None:
    found = Boltzmann(normal(3, 3))
    draws = found.sample((DRAWS,))
    index = (draws @ torch.tensor([4.0, 2, 1], dtype=DOUBLE)).long()
    counts = torch.bincount(index, minlength=8)
    gof = multinomial_goodness_of_fit(found.log_prob(found.states).exp(), counts)
    assert gof > ALPHA


def test_draws_of_a_batch_go_to_their_own_machines() -> None:
    W = normal(2, 1, 3, 3)
    found = Boltzmann(W).expand([2, 4])
    draws = found.sample((DRAWS // 4,))
    for k in range(2):
        one = Boltzmann(W[k, 0])
        assert of_draws(one, draws[:, k].reshape(-1, 3)) > ALPHA
        assert of_draws(one, draws[:, 1 - k].reshape(-1, 3)) < ALPHA  # the other's are refused


@pytest.mark.parametrize("kernel", [None, Gibbs()])
def test_chains_are_used_where_there_is_no_table(kernel: Gibbs | None) -> None:
    machine = SMALL["fully visible bits"].machine()
    found = EnergyDistribution(machine, sampler=Sampler(kernel, steps=30))
    in_haste = EnergyDistribution(machine, sampler=Sampler(kernel, steps=30, patience=0))
    with mock.patch.object(sampling, "from_table", side_effect=sampling.TooManyStatesError):
        exactly_drawn = found.sample((DRAWS,))
        by_chains = in_haste.sample((DRAWS,))
    for draws in (exactly_drawn, by_chains):
        assert of_draws(found, draws) > ALPHA


def test_a_law_without_log_z_does_not_sum_for_its_draws() -> None:
    machine = BoltzmannMachine.restricted(40, 20)
    with mock.patch.object(sampling.exact, "sample", side_effect=AssertionError):
        drawn = EnergyDistribution.up_to_constant(machine).sample((3,))
        with pytest.raises(AssertionError):
            EnergyDistribution(machine).sample((3,))
    assert drawn.shape == (3, 40)


def test_noise_in_place_of_draws_is_found() -> None:
    found = of("fully visible bits", "visible")
    noise = torch.rand(DRAWS, 6, dtype=DOUBLE).round()
    assert of_draws(found, noise) < ALPHA


def test_independent_units_are_drawn_at_once() -> None:
    field = normal(2, 20)
    machine = EnergyDistribution(BoltzmannMachine({"x": layer(field)})).expand([3, 2])
    with mock.patch.object(sampling.Gibbs, "step", autospec=True, side_effect=Gibbs.step) as step:
        draws = machine.sample((DRAWS // 3,))
    assert step.call_count == 1
    counts = draws.sum((0, 1))
    total = draws.shape[0] * draws.shape[1]
    p = [
        stats.binomtest(int(k), total, float(q)).pvalue
        for k, q in zip(counts.flatten(), field.sigmoid().flatten(), strict=True)
    ]
    assert min(p) > ALPHA / 40


def layer(field: Tensor) -> Layer:
    return Layer(BIT, field.shape[-1], bias=field)


# --- any finite energy ---------------------------------------------------------------------------


def tables() -> Energy:
    """Two sites that are no units in fields: labels, and spins in a square."""

    def energy(label: Tensor, spins: Tensor) -> Tensor:
        return torch.cos(label.sum(-1)) + spins.prod(-1).sum(-1) * label[:, 0]

    sites = {
        "label": Site(constraints.integer_interval(1, 3), torch.Size([2])),
        "spins": Site(spin, torch.Size([2, 2])),
    }
    return CallableEnergy(energy, sites, dtype=DOUBLE)


@pytest.mark.parametrize("site", ["label", "spins"])
def test_any_energy_of_few_states_is_exact(site: str) -> None:
    energy = tables()
    found = EnergyDistribution(energy, site)
    count = {"label": 9, "spins": 16}[site]
    assert found.states.shape == (count, *energy.sites[site].shape)
    x: Sites = exact.states(energy)
    p = (-energy(x)).softmax(0).reshape(9, 16).sum({"label": 1, "spins": 0}[site])
    assert torch.allclose(found.log_prob(found.states).exp(), p, atol=1e-12)
    assert found.support.check(found.sample((7,))).all()
    assert found.log_prob(found.sample((2, 3))).shape == (2, 3)


def test_sizes_are_counted_without_overflow() -> None:
    bits = Site(constraints.boolean, torch.Size([10_000]))
    assert summation.number_of_states(bits) == math.inf
    assert summation.number_of_states(Site(constraints.boolean, torch.Size([16]))) == 2**16
    assert summation.number_of_states(Site(constraints.real, torch.Size([1]))) == math.inf


def test_a_given_log_z_is_used() -> None:
    small = SMALL["fully visible bits"]
    log_z = LogPartition.exact(torch.tensor(small.log_partition + 0.25))
    found = EnergyDistribution(small.machine(), log_partition=log_z)
    assert float(found.log_prob(found.states).exp().sum()) == pytest.approx(math.exp(-0.25))


def test_a_forgotten_log_z_is_found() -> None:
    machine = SMALL["fully visible bits"].machine(wrap=nn.Parameter)
    zero = torch.zeros((), dtype=DOUBLE)
    with mock.patch.object(summation, "log_partition", return_value=zero):
        found = EnergyDistribution(machine)
        assert abs(float(found.log_prob(found.states).detach().exp().sum()) - 1) > 0.1
        value = found.states[5]
        gradients = torch.autograd.grad(
            found.log_prob(value), list(machine.parameters()), materialize_grads=True
        )
    wanted = expected_gradient(machine, "visible", value)
    assert any((a - b).abs().max() > 0.01 for a, b in zip(gradients, wanted, strict=True))


# --- units of other kinds ------------------------------------------------------------------------


def labels_and_bits() -> BoltzmannMachine:
    layers = {
        "visible": Layer(Categorical(3), 2, bias=normal(6)),
        "hidden": Layer(BIT, 2, bias=normal(2, seed=4)),
    }
    return BoltzmannMachine(layers, {("visible", "hidden"): normal(6, 2, seed=5)})


def test_labels_are_enumerated_and_drawn() -> None:
    machine = labels_and_bits()
    found = EnergyDistribution(machine)
    joint = exact.states(machine)
    p = (-machine(joint)).softmax(0).reshape(9, 4).sum(1)
    assert torch.allclose(found.log_prob(found.states).exp(), p, atol=1e-12)
    draws = found.sample((DRAWS,))
    number = (draws @ torch.tensor([3.0, 1.0], dtype=DOUBLE)).long()
    counts = np.bincount(number.numpy(), minlength=9)
    assert chi_square(counts, p.numpy()) > ALPHA
    assert chi_square(counts[::-1].copy(), p.numpy()) < ALPHA


def real_visible_units() -> BoltzmannMachine:
    layers = {
        "visible": Layer(Gaussian(), 1, bias=normal(1)),
        "hidden": Layer(BIT, 2, bias=normal(2, seed=4)),
    }
    return BoltzmannMachine(layers, {("visible", "hidden"): normal(1, 2, seed=5)})


def test_real_units_have_a_density() -> None:
    found = EnergyDistribution(real_visible_units())
    axis = torch.linspace(-12, 12, 4001, dtype=DOUBLE)
    density = found.log_prob(axis[:, None]).exp()
    assert float(torch.trapezoid(density, axis)) == pytest.approx(1, abs=1e-9)
    assert not found.has_enumerate_support
    draws = found.sample((2000,))[:, 0]
    cumulative = torch.cumulative_trapezoid(density, axis)
    # α = 1e-6; 2,000 draws find a distance of 0.06 between the distribution functions.
    law = stats.ks_1samp(draws, lambda x: np.interp(x, axis[1:], cumulative))
    assert law.pvalue > ALPHA
    assert stats.ks_1samp(draws + 0.3, lambda x: np.interp(x, axis[1:], cumulative)).pvalue < ALPHA


def test_a_continuous_energy_is_drawn_from_by_hmc() -> None:
    double_well = CallableEnergy(
        lambda x: 2 * (x.square() - 1).square().sum(-1) + 0.5 * x.sum(-1), 1, dtype=DOUBLE
    )
    found = EnergyDistribution.up_to_constant(double_well, sampler=Sampler(steps=60))
    draws = found.sample((2000,))[:, 0]
    axis = torch.linspace(-4, 4, 4001, dtype=DOUBLE)
    density = (-double_well(axis[:, None])).softmax(0)
    law = stats.ks_1samp(draws, lambda x: np.interp(x, axis, density.cumsum(0)))
    assert law.pvalue > ALPHA
    noise = torch.rand(2000, dtype=DOUBLE) * 4 - 2  # as the chains start
    assert stats.ks_1samp(noise, lambda x: np.interp(x, axis, density.cumsum(0))).pvalue < ALPHA


def test_a_distribution_as_an_energy_is_normalised_and_draws_itself() -> None:
    q = dist.Gamma(torch.tensor([2.0, 3.0], dtype=DOUBLE), torch.ones(2, dtype=DOUBLE))
    found = EnergyDistribution(DistributionEnergy(q.expand([4, 2]).to_event(1)))
    assert found.batch_shape == (4,)
    value = q.sample((3, 4))
    assert torch.allclose(found.log_prob(value), q.log_prob(value).sum(-1))
    draws = found.sample((500,))
    assert draws.shape == (500, 4, 2)
    # α = 1e-6; 2,000 draws find a distance of 0.06.
    assert stats.ks_1samp(draws[..., 0].flatten(), stats.gamma(2).cdf).pvalue > ALPHA
    assert stats.ks_1samp(draws[..., 1].flatten(), stats.gamma(2).cdf).pvalue < ALPHA


def test_a_long_chain_is_exact() -> None:
    n, q = 200, 3
    chain = [(k, k + 1) for k in range(n - 1)]
    J, h = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True), torch.zeros(n, q, dtype=DOUBLE)
    found = Potts(chain, J, h)
    # By hand: each step agrees with the weight e^J, or takes one of the q − 1 others.
    log_z = math.log(q) + (n - 1) * torch.log(J.exp() + q - 1)
    log_prob = found.log_prob(torch.zeros(n, dtype=DOUBLE))
    assert torch.allclose(log_prob, (n - 1) * J - log_z, atol=1e-9)
    gradients = (torch.autograd.grad(y, J)[0] for y in (log_prob, (n - 1) * J - log_z))
    assert torch.allclose(*gradients, atol=1e-9)
    assert found.sample((2,)).shape == (2, n)


def test_each_random_field_of_a_batch_has_its_own_law() -> None:
    J, h = normal(2, 1), normal(3, 1, 4, 3)
    found = Potts(RING, J, h)
    assert found.batch_shape == (3, 2)
    table = found.log_prob(found.enumerate_support())
    one = Potts(RING, J[1], h[2, 0])
    assert torch.allclose(table[:, 2, 1], one.log_prob(one.states), atol=1e-10)
    assert found.sample((5,)).shape == (5, 3, 2, 4)
