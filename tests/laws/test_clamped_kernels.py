"""Kernels on energies of which some elements are held leave the law of the free ones unchanged.

Discrete sites by transition matrices; a real site by exact starts, judged as in
test_continuous_kernels.py.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import CallableEnergy, Energy, RandomField, clamp
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    MetropolisHastings,
    ParallelTempering,
    RandomWalk,
    advance,
)
from pyro_ebm.sites import Site, Sites, boolean, spin
from tests.support.densities import ALPHA, COVARIANCE, MEAN, one, quadratic
from tests.support.machines import SMALL
from tests.support.outcomes import matrix_of, violation_of

V = "visible"


def cubic(x: Tensor) -> Tensor:
    """Four bits, in no way linear."""
    return x[..., 0] * x[..., 1] * x[..., 2] - 1.5 * (x.sum(-1) - 2).abs() + x[..., 3] * x[..., 0]


def held(energy: Energy, *free: int) -> Energy:
    """The energy with all elements of the site `visible` held but some; other sites are free."""
    mask = torch.ones(energy.sites[V].shape, dtype=torch.bool)
    mask[list(free)] = False
    value = torch.ones(energy.sites[V].shape, dtype=energy.dtype)
    return clamp(energy, {V: value}, mask={V: mask})


ENERGIES: dict[str, Callable[[], Energy]] = {
    "graph": lambda: held(SMALL["torus"].machine(), 0, 1, 3, 8),
    "layers": lambda: held(SMALL["restricted"].machine(), 1, 3),
    "function": lambda: held(
        CallableEnergy(cubic, {V: Site(boolean, torch.Size([4]))}, dtype=torch.float64), 0, 1, 2
    ),
    "labels": lambda: held(
        RandomField.potts(
            [(0, 1), (1, 2), (2, 3), (3, 0)],
            3,
            couplings=torch.tensor([0.8], dtype=torch.float64),
        ),
        1,
        2,
    ),
}
KERNELS: dict[str, Kernel] = {
    "gibbs": Gibbs(),
    "gradients": GibbsWithGradients(),
    "langevin": DiscreteLangevin(step_size=1.0),
}
MOVED = [
    (name, kernel)
    for name, kernel in itertools.product(ENERGIES, KERNELS)
    if (name, kernel) != ("function", "gibbs") and (name == "labels") <= (kernel == "gibbs")
]


def states_of(energy: Energy) -> Sites:
    """All states of the free units (states, n)."""
    levels = []
    for site in energy.sites.values():
        if isinstance(site.support, constraints.integer_interval):
            values = tuple(range(int(site.support.upper_bound) + 1))
        else:
            values = (-1.0, 1.0) if site.support is spin else (0.0, 1.0)
        levels += [values] * site.shape.numel()
    flat = torch.tensor(list(itertools.product(*levels)), dtype=torch.float64)
    parts = flat.split([site.shape.numel() for site in energy.sites.values()], -1)
    return dict(zip(energy.sites, parts, strict=True))


@pytest.mark.parametrize(("name", "kernel"), MOVED)
def test_the_law_of_the_free_units_is_left_unchanged(name: str, kernel: str) -> None:
    energy, mover = ENERGIES[name](), KERNELS[kernel]
    states = states_of(energy)

    def step(x: Sites) -> Sites:
        state, _ = mover.step(energy, mover.init(energy, x))
        return state.x

    law = (-energy(states)).softmax(0).detach()
    assert float(law.max()) < 0.9  # else most faults could not be seen
    assert not violation_of(matrix_of(step, states), law).found()


# --- a real site, one element of which is held ---------------------------------------------------

HELD = 0.4  # the second of three elements
KEPT = np.array([0, 2])
GAIN = COVARIANCE[KEPT, 1] / COVARIANCE[1, 1]
CONDITIONAL_MEAN = MEAN[KEPT] + GAIN * (HELD - MEAN[1])
CONDITIONAL = COVARIANCE[np.ix_(KEPT, KEPT)] - np.outer(GAIN, COVARIANCE[1, KEPT])
CONDITIONAL_FACTOR = np.linalg.cholesky(CONDITIONAL)


def partly_normal(value: float = HELD) -> Energy:
    """The correlated normal law given its second element."""
    whole = CallableEnergy(quadratic, one(constraints.real, 3), dtype=torch.float64)
    x = torch.tensor([torch.nan, value, torch.nan], dtype=torch.float64)
    return clamp(whole, {"x": x}, mask={"x": torch.tensor([False, True, False])})


REAL: dict[str, Kernel] = {
    "random walk": RandomWalk(scale=0.7),
    "MALA": MALA(step_size=0.2),
    "HMC": HMC(step_size=0.3, trajectory_length=1.0),
    "any proposal": MetropolisHastings("x", lambda x: dist.Normal(0.7 * x, 0.6).to_event(1)),
    "one after another": Cycle((RandomWalk(scale=0.7), HMC(step_size=0.3, trajectory_length=1.0))),
    "tempered": ParallelTempering(HMC(step_size=0.3, trajectory_length=1.0), (0.4, 1.0)),
}


def p_value(kernel: Kernel, energy: Energy, chains: int = 5_000) -> float:
    """The least p-value after 1, 4 and 16 steps from exact draws, times the number of looks."""
    rng = np.random.default_rng(0)
    draws = CONDITIONAL_MEAN + rng.standard_normal((chains, 2)) @ CONDITIONAL_FACTOR.T
    state = kernel.init(energy, {"x": torch.tensor(draws)})
    if isinstance(kernel, ParallelTempering):  # draws of the lower level are as many as wide
        wide = CONDITIONAL_MEAN + (draws - CONDITIONAL_MEAN) / kernel.ladder[0] ** 0.5
        both = {"x": torch.tensor(np.stack([rng.permutation(wide), draws], 1))}
        state = state._replace(replicas=kernel.kernel.init(kernel.path(energy), both))
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        x = state.x["x"].numpy() - CONDITIONAL_MEAN
        white = np.linalg.solve(CONDITIONAL_FACTOR, x.T)
        found += [stats.kstest(row, "norm").pvalue for row in white]
        found.append(stats.kstest((white**2).sum(0), stats.chi2(2).cdf).pvalue)
    return len(found) * min(found)


@pytest.mark.parametrize("name", REAL)
def test_exact_draws_of_the_free_elements_stay_exact_draws(name: str) -> None:
    assert p_value(REAL[name], partly_normal()) > ALPHA


@pytest.mark.parametrize("name", REAL)
def test_another_held_value_is_found(name: str) -> None:
    assert p_value(REAL[name], partly_normal(HELD + 0.4)) < ALPHA
