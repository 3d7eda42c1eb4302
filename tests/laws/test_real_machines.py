"""What holds of machines with real units: quadrature is the judge, to 1e-10.

The sums over grids know nothing of normal laws (see tests/gaussian_machines.py). Right code is off
by 1e-12 at most.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pyro_ebm.energies import (
    BoltzmannMachine,
    Energy,
    Layer,
    PairwiseTerms,
    mean_energy_difference,
    terms_of,
)
from pyro_ebm.energies.pairwise.normal import MultivariateNormal
from pyro_ebm.kernels import Gibbs, advance
from pyro_ebm.learning import mean_field
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Gaussian, QuadraticUnit
from tests.support.checks import LIMITS, distance
from tests.support.gaussian_machines import MIXED, NORMAL, Mixed, axis
from tests.support.goodness import ALPHA, CHAINS, chi_square
from tests.support.machines import LEVELS, H, V, stacked, varied
from tests.support.transitions import Script, forced, log_transition_by_definition

each_machine = pytest.mark.parametrize("name", MIXED)
each_normal = pytest.mark.parametrize("name", NORMAL)
LIMIT = 1e-10


def some_values(small: Mixed, rows: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Values of all sites, inside their bounds."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, size in small.sizes.items():
        unit = small.units[name]
        if isinstance(unit, QuadraticUnit):
            low, high = np.clip(unit.bounds, -2.0, 2.0)
            found[name] = rng.uniform(low, high, (rows, size))
        else:
            found[name] = rng.choice(LEVELS[unit], (rows, size))
    return found


def tensors(x: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=dtype) for name, value in x.items()}


def subsets(small: Mixed) -> Iterator[tuple[str, ...]]:
    """The sets of sites."""
    for k in range(1, len(small.units) + 1):
        yield from itertools.combinations(small.units, k)


def has_closed_form(small: Mixed, observed: tuple[str, ...]) -> bool:
    """Whether all that is coupled among the other sites is Gaussian."""
    rest = set(small.units) - set(observed)
    return all(
        all(isinstance(small.units[site], Gaussian) for site in pair)
        for pair in small.couplings
        if set(pair) <= rest
    )


# --- energies and conditional laws ---------------------------------------------------------------


def energy_error(small: Mixed, dtype: torch.dtype = torch.float64) -> float:
    """Of E, against the formula."""
    x = some_values(small, 50)
    return distance(small.machine(dtype)(tensors(x, dtype)), small.energy(x))


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@each_machine
def test_the_energy_is_the_formula(name: str, dtype: torch.dtype) -> None:
    assert energy_error(MIXED[name], dtype) < 2 * LIMITS[dtype]


def conditional_error(small: Mixed) -> float:
    """Of ln p(x_i | rest), against exp(−E) on all values of the unit."""
    machine = small.machine()
    x = some_values(small, 3)
    worst = 0.0
    for site, size in small.sizes.items():
        for block in machine.blocks(site):
            law = machine.conditional(site, tensors(x), block)
            for column, i in enumerate(torch.arange(size)[block].tolist()):
                points, lengths = points_of(small, site)
                moved = {name: np.repeat(v[None], len(points), 0) for name, v in x.items()}
                moved[site][..., i] = points[:, None]
                log_weights = np.log(lengths)[:, None] - small.energy(moved)
                wanted = log_weights - np.logaddexp.reduce(log_weights, axis=0)
                value = torch.tensor(moved[site])[..., torch.arange(size)[block]]
                found = law.log_prob(value)[..., column] + torch.tensor(np.log(lengths))[:, None]
                worst = max(worst, distance(found.exp(), np.exp(wanted)))
                near = np.exp(wanted) > 1e-12
                worst = max(worst, distance(found[torch.tensor(near)], wanted[near]))
    return worst


def points_of(small: Mixed, site: str) -> tuple[np.ndarray, np.ndarray]:
    """All values of one unit, or a grid of them, and how long a piece each stands for."""
    unit = small.units[site]
    if not isinstance(unit, QuadraticUnit):
        levels = np.array(LEVELS[unit])
        return levels, np.ones(len(levels))
    return axis(unit)


@each_machine
def test_conditionals_are_ratios_of_weights(name: str) -> None:
    assert conditional_error(MIXED[name]) < LIMIT


def slope_error(small: Mixed) -> float:
    """Of E and ∂E/∂x, against autograd of the energy."""
    machine = small.machine()
    x = tensors(some_values(small, 6))
    numbers = list(small.real)
    numbers_and_bits = [s for s, layer in machine.layers.items() if layer.unit.width == 1]
    worst = 0.0
    for sites in (numbers, numbers_and_bits):
        own = {site: x[site].clone().requires_grad_() for site in sites}
        wanted = torch.autograd.grad(machine.evaluate({**x, **own}).sum(), list(own.values()))
        energy, found = machine.energy_and_gradient(x, sites)
        worst = max(worst, distance(energy, machine(x)))
        worst = max(worst, *(distance(found[s], g) for s, g in zip(sites, wanted, strict=True)))
    return worst


@each_machine
def test_energies_and_gradients_are_those_of_autograd(name: str) -> None:
    assert slope_error(MIXED[name]) < 1e-12


def test_there_is_no_gradient_in_labels() -> None:
    small = MIXED["labels and numbers"]
    with pytest.raises(TypeError, match=r"sites \['visible'\] hold labels.*`field`"):
        small.machine().energy_and_gradient(tensors(some_values(small, 2)), [V])


# --- sums and integrals --------------------------------------------------------------------------


def free_energy_error(small: Mixed) -> float:
    """Of F of every set of sites that leaves a closed form."""
    machine, x, worst = small.machine(), some_values(small, 2), 0.0
    for sites in subsets(small):
        if has_closed_form(small, sites):
            found = machine.free_energy(tensors({site: x[site] for site in sites}))
            wanted = [small.free_energy({s: x[s][k] for s in sites}) for k in range(2)]
            worst = max(worst, distance(found, np.array(wanted)))
    return worst


def log_prob_error(small: Mixed) -> float:
    """Of ln p of every set of sites, the others summed and integrated out, and of log Z."""
    machine, x = small.machine(), some_values(small, 2)
    worst = distance(exact.log_partition(machine), np.array(small.log_partition))
    for sites in subsets(small):
        found = exact.log_prob(machine, tensors({site: x[site] for site in sites}))
        wanted = [-small.free_energy({s: x[s][k] for s in sites}) for k in range(2)]
        worst = max(worst, distance(found, np.array(wanted) - small.log_partition))
    return worst


def moment_error(small: Mixed) -> float:
    """Of the means and second moments of all features."""
    found = exact.moments(small.machine())
    mean, second = small.moments()
    return max(distance(torch.cat(list(found.mean.values())), mean), distance(found.second, second))


def gradient_error(small: Mixed) -> float:
    """Of ∂ log Z against −E[∂E], for every parameter."""
    machine = small.machine(wrap=nn.Parameter)
    named = dict(machine.named_parameters())
    found = torch.autograd.grad(exact.log_partition(machine), list(named.values()))
    x, p = small.tensor_table()
    wanted = torch.autograd.grad(-(p @ machine(x)), list(named.values()))
    # The machine's energy was judged by its formula, but a precision's logarithm is new.
    for k, name in enumerate(named):
        if name.endswith("log_precision"):
            site = name.split(".")[1]
            squares = -(p @ x[site].square()) * torch.tensor(small.precision[site]) / 2
            assert distance(wanted[k], squares if wanted[k].dim() else squares.sum()) < LIMIT
    return max(distance(a, b) for a, b in zip(found, wanted, strict=True))


def learning_error(small: Mixed) -> float:
    """Of the closed-form learning rule's value and gradient, against autograd of the energies."""
    machine = small.machine(wrap=nn.Parameter)
    parameters, terms = list(machine.parameters()), machine.read()
    positive, negative = (tensors(some_values(small, rows, seed=rows)) for rows in (7, 5))
    weights = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(7)))
    found = mean_energy_difference(
        terms, terms.features(positive), terms.features(negative), weights
    )
    wanted = weights @ machine(positive) - machine(negative).mean()
    gradients = (torch.autograd.grad(value, parameters) for value in (found, wanted))
    errors = [distance(a, b) for a, b in zip(*gradients, strict=True)]
    return max(distance(found, wanted.detach()), *errors)


def mean_rule_error(small: Mixed) -> float:
    """Of the learning rule with hidden units by their means, against the gradient of F − E."""
    machine = small.machine(wrap=nn.Parameter)
    parameters, terms = list(machine.parameters()), machine.read()
    x, other = (tensors(some_values(small, rows, seed=rows)) for rows in (7, 5))
    seen = terms.features({V: x[V]})
    mean = terms.units[H].mean(terms.outer_field(H, seen)).detach()
    found = mean_energy_difference(
        terms, {**seen, H: mean}, terms.features(other), means=((H,), ())
    )
    wanted = machine.free_energy({V: x[V]}).mean() - machine(other).mean()
    gradients = (torch.autograd.grad(value, parameters) for value in (found, wanted))
    return max(distance(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ["Gaussian-Bernoulli", "hidden numbers", "rectified"])
def test_means_stand_for_hidden_units_in_the_closed_form_gradient(name: str) -> None:
    assert mean_rule_error(MIXED[name]) < LIMIT


@each_machine
def test_free_energies_sum_and_integrate_the_other_sites_out(name: str) -> None:
    assert free_energy_error(MIXED[name]) < LIMIT


@each_machine
def test_a_free_energy_without_a_closed_form_is_refused(name: str) -> None:
    small = MIXED[name]
    machine, x = small.machine(), tensors(some_values(small, 2))
    for sites in subsets(small):
        if not has_closed_form(small, sites):
            with pytest.raises(ValueError, match=r"no closed form.*coupled.*mean-field"):
                machine.free_energy({site: x[site] for site in sites})


@each_machine
def test_log_z_and_probabilities_of_any_sites_are_those_of_quadrature(name: str) -> None:
    assert log_prob_error(MIXED[name]) < LIMIT


@each_machine
def test_moments_are_those_of_quadrature(name: str) -> None:
    assert moment_error(MIXED[name]) < LIMIT


@each_machine
def test_the_gradient_of_log_z_is_minus_the_expected_gradient_of_the_energy(name: str) -> None:
    assert gradient_error(MIXED[name]) < LIMIT


@each_machine
def test_the_closed_form_gradient_is_that_of_autograd(name: str) -> None:
    assert learning_error(MIXED[name]) < 1e-12


@each_normal
def test_parameters_with_a_batch_are_one_machine_for_each_element(name: str) -> None:
    one = NORMAL[name]
    rng = np.random.default_rng(7)
    machines = []
    for _ in range(3):
        other = replace(varied(one, rng), couplings=one.couplings)
        precision = {
            site: np.broadcast_to(value, one.sizes[site]) * rng.uniform(1, 1.3)
            for site, value in one.precision.items()
        }
        machines.append(replace(other, precision=precision))
    precision = {site: np.stack([m.precision[site] for m in machines]) for site in one.precision}
    spread = stacked(machines)
    shared = replace(spread, precision=precision, couplings=one.couplings)
    x = {site: v[:, None] for site, v in tensors(some_values(one, 4)).items()}
    for together in (replace(spread, precision=precision).machine(), shared.machine()):
        log_z = exact.log_partition(together)
        swept = affine_maps(together, (4, 3)) if small_is_real(one) else None
        for m, small in enumerate(machines):
            alone, mine = small.machine(), {s: v[:, 0] for s, v in x.items()}
            assert distance(together(x)[:, m], alone(mine)) < 1e-12
            assert distance(log_z[m], np.array(small.log_partition)) < LIMIT
            for site in one.units:
                assert distance(together.field(site, x)[:, m], alone.field(site, mine)) < 1e-12
                for block in alone.blocks(site):
                    value = x[site][..., block]
                    found = together.conditional(site, x, block).log_prob(value)
                    wanted = alone.conditional(site, mine, block).log_prob(value[:, 0])
                    assert distance(found[:, m], wanted) < 1e-12
            for sites in subsets(one):
                if has_closed_form(one, sites):
                    found = together.free_energy({s: x[s] for s in sites})
                    wanted = alone.free_energy({s: mine[s] for s in sites})
                    assert distance(found.expand(4, 3)[:, m], wanted) < LIMIT
            if swept is not None:
                assert distance(swept[:, m], affine_maps(alone, (4,))) < 1e-12


@pytest.mark.parametrize("name", ["coupled numbers", "two layers of numbers"])
def test_coupled_numbers_at_several_temperatures_are_swept_each_at_its_own(name: str) -> None:
    machine = NORMAL[name].machine()
    betas = torch.tensor([0.4, 1.0, 2.5], dtype=torch.float64)
    together = betas * machine
    assert terms_of(together.structure()) is not None
    swept, log_z = affine_maps(together, (4, 3)), exact.log_partition(together)
    for k, beta in enumerate(betas.tolist()):
        alone = beta * machine
        assert terms_of(alone.structure()) is not None
        assert distance(swept[:, k], affine_maps(alone, (4,))) < 1e-12
        assert distance(log_z[k], exact.log_partition(alone)) < 1e-12


def small_is_real(small: Mixed) -> bool:
    return not small.discrete


def affine_maps(machine: Energy, batch: tuple[int, ...]) -> Tensor:
    """One sweep without noise from different starts (*batch, real units)."""
    start = {
        name: torch.linspace(-1, 1, batch[0] * site.shape[0], dtype=torch.float64)
        .reshape(batch[0], *[1] * (len(batch) - 1), site.shape[0])
        .expand(*batch, site.shape[0])
        .clone()
        for name, site in machine.sites.items()
    }
    with mock.patch.object(torch, "randn_like", torch.zeros_like):
        state, _ = Gibbs().step(machine, Gibbs().init(machine, start))
    return torch.cat(list(state.x.values()), -1)


# --- Gibbs, without randomness -------------------------------------------------------------------


class Noise:
    """Noise that is told: the column of each unit in the order of the visits.

    Args:
        noise: (rows, real units).
        visits: The columns.
    """

    def __init__(self, noise: Tensor, visits: list[int]) -> None:
        self.noise, self.visits = noise, visits

    def like(self, field: Tensor) -> Tensor:
        """In place of `torch.randn_like`."""
        assert field.dim() == 2
        assert len(field) == len(self.noise)
        now, self.visits = self.visits[: field.shape[1]], self.visits[field.shape[1] :]
        return self.noise[:, now].clone()


def sweep_map(
    small: Mixed, discrete: dict[str, Tensor], sites: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, B, c of one sweep over the real sites, x' = A x + B noise + c, by the code itself."""
    machine = small.machine()
    starts = np.cumsum([0, *small.real.values()])
    first = dict(zip(small.real, starts, strict=False))
    visits = [
        int(first[site]) + unit
        for site in sites
        for block in machine.blocks(site)
        for unit in torch.arange(small.real[site])[block].tolist()
    ]
    n = int(starts[-1])
    eye, zeros = torch.eye(n, dtype=torch.float64), torch.zeros(1, n, dtype=torch.float64)
    start = torch.cat([zeros, eye, zeros.expand(n, n)])
    noise = Noise(torch.cat([zeros, zeros.expand(n, n), eye]), visits)
    parts = dict(zip(small.real, start.split(list(small.real.values()), -1), strict=True))
    x = {s: parts[s] if s in parts else discrete[s].expand(len(start), -1) for s in small.units}
    kernel = Gibbs(sites)
    with mock.patch.object(torch, "randn_like", noise.like):
        state, _ = kernel.step(machine, kernel.init(machine, x))
    assert not noise.visits
    reached = torch.cat([state.x[site] for site in small.real], -1).numpy()
    c = reached[0]
    return (reached[1 : n + 1] - c).T, (reached[n + 1 :] - c).T, c


def sweep_error(small: Mixed) -> float:
    """How far a sweep of the real sites is from leaving their normal law, given the others."""
    worst, covariance = 0.0, np.linalg.inv(small.given.precision)
    for k in range(small.number_of_states):
        discrete = {name: torch.tensor(v[k : k + 1]) for name, v in small.discrete.items()}
        mean = small.given.means[k]
        for sites in itertools.permutations(small.real):
            a, b, c = sweep_map(small, discrete, sites)
            worst = max(worst, float(np.abs(a @ mean + c - mean).max()))
            worst = max(worst, float(np.abs(a @ covariance @ a.T + b @ b.T - covariance).max()))
            assert np.abs(np.linalg.eigvals(a)).max() < 1  # it forgets where it was
    return worst


@each_normal
def test_a_sweep_of_the_real_sites_leaves_their_normal_law_unchanged(name: str) -> None:
    assert sweep_error(NORMAL[name]) < 1e-12


@each_machine
def test_a_sweep_of_the_other_sites_is_their_conditional_law(name: str) -> None:
    small = MIXED[name]
    if not small.discrete:
        return
    machine, kernel = small.machine(), Gibbs(tuple(small.finite))
    x, y = (tensors(some_values(small, 40, seed=seed)) for seed in (1, 2))
    script = Script(machine, kernel.moved(machine), y)
    with forced(script):
        state, _ = kernel.step(machine, kernel.init(machine, x))
    assert all(torch.equal(state.x[s], y[s] if s in small.finite else x[s]) for s in x)
    wanted = log_transition_by_definition(machine, kernel, x, y)
    assert distance(script.log_prob, wanted) < 1e-12
    energy = kernel.init(machine, x)._replace(x=state.x, swept=state.swept).energy
    if energy is not None:
        assert distance(energy, machine(state.x)) < 1e-12


# --- draws ---------------------------------------------------------------------------------------


def worst_p_value(small: Mixed, x: dict[str, Tensor]) -> float:
    """The least p-value, times their number, of the draws' discrete part and real coordinates.

    Given the discrete state, L⁻¹ of the real units less their means are independent normals: the
    first test of each is on all these; then each coordinate is held against its own mixture.
    """
    precision, means, probabilities = small.given
    numbers = small.state_numbers(x)
    p_values = [chi_square(np.bincount(numbers, minlength=len(probabilities)), probabilities)]
    z = small.flat_real(x)
    white = (z - means[numbers]) @ np.linalg.cholesky(precision)
    p_values += [stats.kstest(column, "norm").pvalue for column in white.T]
    p_values += [stats.pearsonr(a, b).pvalue for a, b in itertools.combinations(white.T, 2)]
    spread = np.sqrt(np.diag(np.linalg.inv(precision)))
    for i, column in enumerate(z.T):
        mixture = sum(
            p * stats.norm.cdf(column, m[i], spread[i])
            for p, m in zip(probabilities, means, strict=True)
        )
        p_values.append(stats.kstest(mixture, "uniform").pvalue)
    return min(p_values) * len(p_values)


@each_normal
def test_exact_draws_follow_the_law(name: str) -> None:
    # α = 1e-6, N = 20,000: a mean of a real unit off by 0.04 of its width is found.
    small = NORMAL[name]
    assert worst_p_value(small, exact.sample(small.machine(), CHAINS, seed=4)) > ALPHA


def from_exact_start(small: Mixed, seed: int = 0) -> float:
    """The least p-value after 1, 4 and 16 sweeps, times three, of chains that started in law."""
    torch.manual_seed(seed)
    machine, kernel, found = small.machine(), Gibbs(), []
    state = kernel.init(machine, small.draws(CHAINS, seed))
    for steps in (1, 3, 12):
        state = advance(kernel, machine, state, steps)
        found.append(worst_p_value(small, state.x))
    return 3 * min(found)


@each_normal
def test_exact_draws_stay_exact_draws(name: str) -> None:
    # α and N as above.
    assert from_exact_start(NORMAL[name]) > ALPHA


@pytest.mark.parametrize("name", ["Gaussian-Bernoulli", "all kinds", "coupled numbers"])
def test_chains_from_one_state_come_to_follow_the_law(name: str) -> None:
    # After 60 sweeps what is left of the start is too little to be seen.
    small = NORMAL[name]
    machine = small.machine()
    x = {s: v[:1].expand(CHAINS, -1).clone() for s, v in tensors(some_values(small, 1)).items()}
    state = advance(Gibbs(), machine, Gibbs().init(machine, x), 60)
    assert worst_p_value(small, state.x) > ALPHA


# --- mean field ----------------------------------------------------------------------------------


def mean_field_error(small: Mixed, observed: tuple[str, ...]) -> float:
    """Of the bound, by a sum and integral over all hidden states, and of its optimum."""
    machine, x = small.machine(), {s: v for s, v in some_values(small, 2).items() if s in observed}
    found = mean_field(machine, tensors(x), tolerance=1e-13, max_sweeps=5000)
    worst = 0.0
    for row in range(2):
        held = {site: value[row] for site, value in x.items()}
        space, log_weights = small.space(held), small.log_weights(held)
        log_q = np.zeros(())
        for site, mean in found.means.items():
            log_q = log_q + log_law(small, site, mean[row].numpy(), space[site])
        log_steps = log_weights + small.energy(space)
        q = np.exp(log_q + log_steps)
        bound = (q * (small.energy(space) + log_q)).sum()
        assert abs(q.sum() - 1) < LIMIT
        worst = max(worst, abs(float(found.free_energy_bound[row]) - bound))
        assert float(found.free_energy_bound[row]) >= small.free_energy(held) - LIMIT
    everything = {**tensors(x), **found.means}
    terms = machine.read()
    for site, mean in found.means.items():
        features = {
            s: v if s in found.means else terms.features({s: v})[s] for s, v in everything.items()
        }
        worst = max(worst, distance(terms.units[site].mean(terms.field(site, features)), mean))
    bounds = [
        mean_field(machine, tensors(x), max_sweeps=k, tolerance=1e-13).free_energy_bound
        for k in range(1, 8)
    ]
    assert all(bool((b <= a + 1e-12).all()) for a, b in itertools.pairwise(bounds))
    return worst


def log_law(small: Mixed, site: str, mean: np.ndarray, x: np.ndarray) -> np.ndarray:
    """ln q of values of a site, of independent units with these means."""
    unit = small.units[site]
    if isinstance(unit, Gaussian):
        return stats.norm.logpdf(x, mean, np.sqrt(1 / small.precision[site])).sum(-1)
    if LEVELS[unit] == (0.0, 1.0):
        return np.log(np.where(x == 1, mean, 1 - mean)).sum(-1)
    if LEVELS[unit] == (-1.0, 1.0):
        return np.log((1 + x * mean) / 2).sum(-1)
    p = mean.reshape(-1, len(LEVELS[unit]))
    return (
        np.log(np.take_along_axis(p, x.astype(int).reshape(-1, len(p)).T, 1))
        .T.reshape(x.shape)
        .sum(-1)
    )


@pytest.mark.parametrize(
    ("name", "observed"),
    [
        ("Gaussian-Bernoulli", (V,)),
        ("Gaussian-Bernoulli", (H,)),
        ("Gaussian-Bernoulli with offsets", ()),
        ("coupled numbers and bits", ()),
        ("coupled numbers and bits", (H,)),
        ("hidden numbers, coupled", (V,)),
        ("labels and numbers", ()),
        ("bits over numbers over numbers", (V,)),
        ("all kinds", ("b",)),
        ("numbers on a graph", (H,)),
    ],
)
def test_mean_field_keeps_its_laws(name: str, observed: tuple[str, ...]) -> None:
    if observed:
        assert mean_field_error(NORMAL[name], observed) < LIMIT
        return
    small = NORMAL[name]
    found = mean_field(small.machine(), {}, tolerance=1e-13)
    assert -float(found.free_energy_bound) <= small.log_partition


def test_the_means_of_coupled_numbers_are_exact_and_their_bound_is_not() -> None:
    small = NORMAL["hidden numbers, coupled"]
    x = {V: some_values(small, 1)[V]}
    found = mean_field(small.machine(), tensors(x), tolerance=1e-14, max_sweeps=1000)
    k = int(small.state_numbers(tensors(x))[0])
    np.testing.assert_allclose(found.means[H][0].numpy(), small.given.means[k], atol=1e-12)
    gap = float(found.free_energy_bound[0]) - small.free_energy({V: x[V][0]})
    # ½ (ln det diag P − ln det P)… of a unit variance too small each: known in closed form.
    precision = small.given.precision
    wanted = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    assert gap == pytest.approx(wanted, abs=1e-10)


# --- larger, and not normalisable ----------------------------------------------------------------


def test_twenty_hidden_bits_over_two_numbers_agree_with_quadrature() -> None:
    rng = np.random.default_rng(2)
    weight, precision = rng.normal(0, 0.4, (2, 20)), np.array([1.3, 0.8])
    visible, hidden = rng.normal(0, 0.5, 2), rng.normal(-1, 0.5, 20)
    machine = BoltzmannMachine.restricted(
        2,
        20,
        units=(Gaussian(torch.tensor(precision)), Bernoulli()),
        couplings=torch.tensor(weight),
        biases={V: torch.tensor(visible), H: torch.tensor(hidden)},
    )
    points = np.arange(-20, 20, 0.25)
    v = np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    log_weights = v @ visible - (v**2 @ precision) / 2
    log_weights += np.logaddexp(0, v @ weight + hidden).sum(-1)
    wanted = np.logaddexp.reduce(log_weights) + 2 * np.log(0.25)
    assert float(exact.log_partition(machine)) == pytest.approx(wanted, abs=1e-8)


def pair(coupling: float, wrap: Callable[[Tensor], Tensor] = lambda t: t) -> BoltzmannMachine:
    """Two layers of one number each, with precisions 1: normalisable where |coupling| < 1."""
    weight = torch.tensor([[coupling]], dtype=torch.float64)
    return BoltzmannMachine(
        {name: Layer(Gaussian(), 1, bias=torch.zeros(1).double()) for name in "ab"},
        {("a", "b"): wrap(weight)},
    )


@pytest.mark.parametrize("coupling", [1.0, 1.1, -1.1])
def test_couplings_stronger_than_the_precisions_are_refused_when_a_machine_is_made(
    coupling: float,
) -> None:
    with pytest.raises(ValueError, match=r"cannot be normalised.*'a', 'b'.*not positive definite"):
        pair(coupling)
    assert float(exact.log_partition(pair(0.999))) > float(exact.log_partition(pair(0.9)))


def test_three_numbers_may_be_pairwise_weak_and_jointly_too_strong() -> None:
    weight = 0.6 * (1 - torch.eye(3))
    assert bool((torch.linalg.eigvalsh(torch.eye(2) - weight[:2, :2]) > 0).all())
    for graph in (weight, torch.nn.Parameter(weight)):
        with pytest.raises(ValueError, match=r"'visible', 'visible'.*not positive definite"):
            BoltzmannMachine.fully_visible(3, unit=Gaussian(), couplings=graph)
    BoltzmannMachine.fully_visible(3, unit=Gaussian(), couplings=-weight)
    BoltzmannMachine.fully_visible(3, unit=Gaussian(1.3), couplings=weight)
    with pytest.raises(ValueError, match="not positive definite"):
        BoltzmannMachine.on_graph(
            [(0, 1), (1, 2), (0, 2)], unit=Gaussian(), couplings=torch.tensor([0.6])
        )


ASK: dict[str, Callable[[BoltzmannMachine], object]] = {
    "log Z": exact.log_partition,
    "moments": exact.moments,
    "draws": lambda machine: exact.sample(machine, 3),
    "probabilities": lambda machine: exact.log_prob(machine, {"a": torch.zeros(2, 1)}),
    "Gibbs": lambda machine: Gibbs().init(machine, {s: torch.zeros(2, 1) for s in "ab"}),
    "mean field": lambda machine: mean_field(machine, {}),
    "a free energy": lambda machine: machine.free_energy({}),
}


@pytest.mark.parametrize("ask", ASK)
def test_what_a_step_of_learning_made_too_strong_is_refused(ask: str) -> None:
    machine = pair(0.5, nn.Parameter)
    ASK[ask](machine)
    with torch.no_grad():
        machine.couplings["a_b"].weight.fill_(1.5)
    with pytest.raises(ValueError, match=r"cannot be normalised.*'a', 'b'.*not positive definite"):
        ASK[ask](machine)


def test_a_kernel_refuses_at_its_next_refresh() -> None:
    machine, kernel = pair(0.5, nn.Parameter), Gibbs()
    state = kernel.init(machine, {site: torch.zeros(2, 1) for site in "ab"})
    with torch.no_grad():
        machine.couplings["a_b"].weight.fill_(-1.5)
    with pytest.raises(ValueError, match="not positive definite"):
        kernel.refresh(machine, state, state.x)


# --- planted faults ------------------------------------------------------------------------------

NUMBERS_AND_BITS, COUPLED = "Gaussian-Bernoulli", "coupled numbers and bits"


def without_couplings(precisions: dict[str, Tensor], links: object) -> Tensor:
    return torch.cat(list(precisions.values()), -1).diag_embed()


right_law, right_normal = Gaussian.cumulant, MultivariateNormal.cumulant
MUTANTS: dict[str, tuple[object, str, object, str, Callable[[Mixed], float]]] = {
    "the volume of a number left out": (
        Gaussian,
        "cumulant",
        lambda unit, field: field.square() / unit.spread(field) / 2,
        "hidden numbers",
        free_energy_error,
    ),
    "variances for precisions": (
        Gaussian,
        "mean",
        lambda unit, field: field * unit.precision,
        "hidden numbers",
        moment_error,
    ),
    "the determinant with the wrong sign": (
        MultivariateNormal,
        "cumulant",
        lambda normal, fields: (
            right_normal(normal, fields)
            + 2 * normal.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ),
        COUPLED,
        log_prob_error,
    ),
    "couplings left out of the joint precision": (
        "pyro_ebm.energies.pairwise.terms",
        "joint_precision",
        without_couplings,
        COUPLED,
        moment_error,
    ),
    "covariances left out of the moments": (
        MultivariateNormal,
        "covariance",
        lambda normal: torch.zeros_like(normal.factor),
        COUPLED,
        moment_error,
    ),
    "noise of the wrong width": (
        Gaussian,
        "sample",
        lambda unit, field: (
            torch.randn_like(field).div(unit.spread(field)) + field / unit.spread(field)
        ),
        COUPLED,
        sweep_error,
    ),
    "one precision for all in the sweep": (
        QuadraticUnit,
        "part",
        lambda unit, units: unit.with_precision(unit.precision[..., :1]),
        "coupled numbers",
        sweep_error,
    ),
    "potentials without their half": (
        QuadraticUnit,
        "potential",
        lambda unit, x: x.square() * unit.precision,
        NUMBERS_AND_BITS,
        energy_error,
    ),
    "slopes without the precision": (
        QuadraticUnit,
        "slope",
        lambda unit, x: x,
        "all kinds",
        slope_error,
    ),
    "means without their variance in the learning rule": (
        Gaussian,
        "conjugate",
        lambda unit, mean: mean.square() * unit.precision / 2,
        "hidden numbers",
        mean_rule_error,
    ),
    "a conditional with the precision for its width": (
        Gaussian,
        "conditional",
        lambda unit, field: torch.distributions.Normal(
            field / unit.spread(field), unit.spread(field)
        ),
        NUMBERS_AND_BITS,
        conditional_error,
    ),
    "offsets ignored": (
        PairwiseTerms,
        "centred",
        lambda terms, offsets: terms,
        "all kinds",
        log_prob_error,
    ),
}


@contextmanager
def planted(fault: str) -> Iterator[None]:
    where, name, wrong, *_ = MUTANTS[fault]
    if isinstance(where, str):
        with mock.patch(f"{where}.{name}", wrong):
            yield
        return
    with mock.patch.object(where, name, wrong):
        yield


@pytest.mark.parametrize("fault", MUTANTS)
def test_planted_faults_are_found(fault: str) -> None:
    *_, machine, error = MUTANTS[fault]
    assert error(MIXED[machine]) < LIMIT
    with planted(fault):
        assert error(MIXED[machine]) > 1e-3


def test_noise_of_the_wrong_width_is_found_in_the_draws() -> None:
    small = NORMAL[COUPLED]
    with planted("noise of the wrong width"):
        assert from_exact_start(small) < ALPHA
    with planted("couplings left out of the joint precision"):
        assert worst_p_value(small, exact.sample(small.machine(), CHAINS, seed=4)) < ALPHA
