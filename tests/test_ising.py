"""Known answers far beyond enumeration: Kaufman's Ising model, and a glass by transfer matrices."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine
from pyro_ebm.kernels import (
    Gibbs,
    Kernel,
    ParallelTempering,
    SwendsenWang,
    Wolff,
    advance,
    run,
)
from pyro_ebm.partition import exact
from tests.support.machines import lattice_edges

V = "visible"
CRITICAL = 2 / math.log(1 + math.sqrt(2))


def kaufman_log_partition(side: int, coupling: float) -> float:
    """log Z of the Ising model on a side × side torus (Kaufman, 1949)."""
    k = np.arange(2 * side)
    cosh_gamma = math.cosh(2 * coupling) / math.tanh(2 * coupling) - np.cos(np.pi * k / side)
    gamma = np.arccosh(np.maximum(cosh_gamma, 1))
    gamma[0] = 2 * coupling + math.log(math.tanh(coupling))  # with its sign
    half = side * gamma / 2

    def log_cosh(y: np.ndarray) -> np.ndarray:  # ln 2 cosh y
        return np.abs(y) + np.log1p(np.exp(-2 * np.abs(y)))

    def log_sinh(y: np.ndarray) -> np.ndarray:  # ln 2 |sinh y|
        return np.abs(y) + np.log(-np.expm1(-2 * np.abs(y)))

    odd, even = half[1::2], half[0::2]
    logs = np.array([f(y).sum() for y in (odd, even) for f in (log_cosh, log_sinh)])
    signs = np.array([1, 1, 1, np.sign(even[0])])
    largest = logs.max()
    bracket = largest + math.log((signs * np.exp(logs - largest)).sum())
    return side * side / 2 * math.log(2 * math.sinh(2 * coupling)) + bracket - math.log(2)


def kaufman_energy(side: int, temperature: float) -> float:
    """⟨−Σ s_i s_j⟩ for each site, by a central difference of log Z."""
    coupling, h = 1 / temperature, 1e-5
    slope = kaufman_log_partition(side, coupling + h) - kaufman_log_partition(side, coupling - h)
    return -slope / (2 * h) / side**2


def ising(side: int, temperature: float, dtype: torch.dtype = torch.float32) -> BoltzmannMachine:
    edges = torch.tensor(lattice_edges(side, side, periodic=True))
    return BoltzmannMachine.on_graph(edges, couplings=torch.tensor([1 / temperature], dtype=dtype))


class Estimate(NamedTuple):
    """A mean over independent chains, with its standard error."""

    value: float
    standard_error: float


def mean_of_chains(values: Tensor) -> Estimate:  # (chains, draws)
    means = values.double().mean(1)
    return Estimate(float(means.mean()), float(means.std()) / math.sqrt(len(means)))


def energy_per_site(
    kernel: Kernel, side: int, temperature: float, *, chains: int = 64, **length: int
) -> Estimate:
    """−⟨Σ s_i s_j⟩ / side², of chains that start with all spins up."""
    machine = ising(side, temperature)
    start = torch.ones(chains, side * side)
    found = run(kernel, machine, **length, initial=start, seed=1)
    return mean_of_chains(-found.statistics["lp"] * temperature / side**2)


@pytest.mark.parametrize("temperature", [1.5, 2.0, CRITICAL - 1e-4, 2.5, 3.0])
def test_kaufmans_formula_is_the_sum_over_all_states(temperature: float) -> None:
    machine = ising(4, temperature, torch.float64)
    wanted = float(exact.log_partition(machine).detach())
    assert kaufman_log_partition(4, 1 / temperature) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kernel", [SwendsenWang(), Wolff(), Gibbs()])
@pytest.mark.parametrize("temperature", [2.0, 3.0])
def test_a_small_torus_has_kaufmans_energy(kernel: Kernel, temperature: float) -> None:
    # α = 6e-5 at four standard errors; the seed is fixed. A fault of 0.04 in T is found.
    found = energy_per_site(kernel, 8, temperature, draws=60, warmup=30, thinning=2)
    wanted = kaufman_energy(8, temperature)
    assert abs(found.value - wanted) < 4 * found.standard_error
    assert found.standard_error < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [2.0, CRITICAL, 3.0])
def test_gibbs_has_kaufmans_energy(temperature: float) -> None:
    found = energy_per_site(Gibbs(), 32, temperature, draws=500, warmup=2000, thinning=10)
    assert abs(found.value - kaufman_energy(32, temperature)) < 4 * found.standard_error
    assert found.standard_error < 3e-3


@pytest.mark.slow
def test_cluster_moves_have_kaufmans_energy_at_the_critical_point() -> None:
    found = energy_per_site(SwendsenWang(), 32, CRITICAL, draws=1600, warmup=100)
    assert found.standard_error < 1e-3
    assert abs(found.value - kaufman_energy(32, CRITICAL)) < 4 * found.standard_error


@pytest.mark.slow
def test_tempering_has_kaufmans_energy_at_the_critical_point() -> None:
    betas = tuple(torch.linspace(0.9, 1, 5).tolist())
    kernel = ParallelTempering(Gibbs(), betas)
    found = energy_per_site(kernel, 32, CRITICAL, draws=1600, warmup=400, thinning=5)
    assert found.standard_error < 1e-3
    assert abs(found.value - kaufman_energy(32, CRITICAL)) < 4 * found.standard_error


# --- a glass -------------------------------------------------------------------------------------


def glass_weights(side: int, seed: int) -> Tensor:
    """Gaussian couplings of a torus, in the order of `lattice_edges`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * side * side, dtype=torch.float64, generator=generator)


def glass_log_partition(weight: Tensor, side: int, beta: Tensor) -> Tensor:
    """log Z of a torus by one transfer matrix for each row, all of them side by side."""
    right, down = (beta * weight).reshape(2, side, side)
    row = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * side)
    inside = row * row.roll(-1, 1)
    total, log_scale = None, torch.zeros((), dtype=torch.float64)
    for k in range(side):
        step = (inside @ right[k])[:, None] + (row * down[k]) @ row.mT
        largest = step.detach().max()
        factor = (step - largest).exp()
        total = factor if total is None else total @ factor
        size = total.detach().max()
        total, log_scale = total / size, log_scale + largest + size.log()
    return total.diagonal().sum().log() + log_scale


def glass_energy(weight: Tensor, side: int, temperature: float) -> float:
    """⟨−Σ J s s⟩."""
    beta = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(glass_log_partition(weight, side, beta), beta)
    return -float(slope)


def glass(side: int, temperature: float, seed: int) -> BoltzmannMachine:
    edges = torch.tensor(lattice_edges(side, side, periodic=True))
    weight = (glass_weights(side, seed) / temperature).float()
    return BoltzmannMachine.on_graph(edges, couplings=weight)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_transfer_matrices_are_the_sum_over_all_states(temperature: float) -> None:
    machine = glass(4, temperature, 3).to(torch.float64)
    beta = torch.tensor(1 / temperature, dtype=torch.float64)
    wanted = float(exact.log_partition(machine).detach())
    found = float(glass_log_partition(glass_weights(4, 3), 4, beta))
    assert found == pytest.approx(wanted, rel=1e-6)  # the weights of the machine are rounded


def tempered_glass(side: int, seed: int, chains: int, steps: tuple[int, int]) -> Estimate:
    """⟨−Σ J s s⟩ at T = 0.5 by tempering with a ladder adapted on the way."""
    machine = glass(side, 0.5, seed)
    kernel = ParallelTempering(Gibbs(), tuple(torch.linspace(0.1, 1, 12).tolist()))
    torch.manual_seed(seed)
    x = {V: 2 * torch.randint(0, 2, (chains, side * side)).float() - 1}
    for _ in range(3):
        state = advance(kernel, machine, kernel.init(machine, x), steps[0] // 3)
        kernel, x = kernel.adapted(state), state.x
    found = run(kernel, machine, steps[1], warmup=steps[0], initial=x, seed=seed)
    assert int(kernel.report(found.state).round_trips.sum()) > chains
    return mean_of_chains(-found.statistics["lp"] * 0.5)


def test_a_small_glass_has_its_exact_energy_by_tempering() -> None:
    found = tempered_glass(6, 1, 16, (90, 150))
    wanted = glass_energy(glass_weights(6, 1), 6, 0.5)
    assert abs(found.value - wanted) < 4 * found.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_glass_has_its_exact_energy_by_tempering(seed: int) -> None:
    found = tempered_glass(10, seed, 32, (600, 1500))
    wanted = glass_energy(glass_weights(10, seed), 10, 0.5)
    assert abs(found.value - wanted) < 4 * found.standard_error
