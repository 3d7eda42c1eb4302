"""Tempering of real and positive sites leaves the law of every level where it is.

Exact starts at all levels, then Kolmogorov and Smirnov's test of 5,000 chains at each level after
1, 4 and 16 steps, at α = 1e-6; it finds laws whose distribution function is off by 0.04 (99 times
of 100). The laws between a normal and a normal, and between a gamma and a gamma, are of their kind.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import CallableEnergy, Energy
from pyro_ebm.kernels import HMC, MALA, Cycle, Kernel, ParallelTempering, RandomWalk, advance
from pyro_ebm.kernels.composite import tempering
from tests.support.densities import ALPHA, COVARIANCE, MEAN, Cdf, one, quadratic

CHAINS = 5_000
SIZES = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)  # of steps, one for each level
KERNELS: dict[str, Kernel] = {
    "random walk": RandomWalk(scale=0.6),
    "MALA": MALA(step_size=0.1),
    "HMC": HMC(step_size=0.3, trajectory_length=0.9),
    "HMC, a size for each level": HMC(step_size=SIZES, trajectory_length=0.9),
    "one after another": Cycle((RandomWalk(scale=0.8), MALA(step_size=0.05))),
}
BETAS = (0.0, 0.5, 1.0)


class Ladder:
    """A path whose laws are known.

    Args:
        energy: β = 1.
        reference: β = 0, or None for βE.
        betas: The levels.
        law: From β to draws by numpy, and numbers that a draw gives with their distributions.
    """

    def __init__(
        self,
        energy: Energy,
        reference: Energy | None,
        betas: tuple[float, ...],
        law: Callable[[float], tuple[Callable, dict[str, tuple[Callable, Cdf]]]],
    ) -> None:
        self.energy, self.reference, self.betas, self.law = energy, reference, betas, law

    def p_value(self, inner: Kernel, seed: int = 0) -> float:
        """The least p-value of all levels after 1, 4 and 16 steps, times the number of looks."""
        kernel = ParallelTempering(inner, self.betas, self.reference)
        laws, rng = [self.law(beta) for beta in self.betas], np.random.default_rng(seed)
        x = {"x": torch.tensor(np.stack([draw(rng, CHAINS) for draw, _ in laws], 1))}
        torch.manual_seed(seed)
        state = kernel.init(self.energy, {"x": x["x"][:, -1]})
        state = state._replace(replicas=inner.init(kernel.path(self.energy), x))
        found = []
        for steps in (1, 3, 12):
            state = advance(kernel, self.energy, state, steps)
            assert torch.equal(state.x["x"], state.replicas.x["x"][:, -1])
            for level, (_, judged) in enumerate(laws):
                array = state.replicas.x["x"][:, level].numpy()
                found += [
                    stats.kstest(cdf(look(array)), "uniform").pvalue
                    for look, cdf in judged.values()
                ]
        return len(found) * min(found)


def normal_law(beta: float) -> tuple[Callable, dict]:
    """N(0, 4 I) at β = 0, and the correlated normal law at β = 1."""
    target = np.linalg.inv(COVARIANCE)
    precision = beta * target + (1 - beta) * np.eye(3) / 4
    mean = np.linalg.solve(precision, beta * target @ MEAN)
    factor = np.linalg.cholesky(np.linalg.inv(precision))

    def white(x: np.ndarray) -> np.ndarray:
        return np.linalg.solve(factor, (x - mean).T)

    return lambda rng, n: mean + rng.standard_normal((n, 3)) @ factor.T, {
        "along": (lambda x: white(x)[0], stats.norm.cdf),
        "across": (lambda x: white(x)[2], stats.norm.cdf),
        "radius": (lambda x: (white(x) ** 2).sum(0), stats.chi2(3).cdf),
    }


def gamma_energy(shape: float, rate: float) -> Energy:
    def energy(x: Tensor) -> Tensor:
        return (rate * x - (shape - 1) * x.log()).sum(-1)

    return CallableEnergy(energy, one(constraints.positive, 2), dtype=torch.float64)


def gamma_law(shape: Callable[[float], float], rate: Callable[[float], float]) -> Callable:
    """Two gamma numbers whose shape and rate are these of β."""

    def at(beta: float) -> tuple[Callable, dict]:
        a, scale = shape(beta), 1 / rate(beta)
        judged = {
            f"x{i}": (lambda x, i=i: x[:, i], stats.gamma(a, scale=scale).cdf) for i in range(2)
        }
        return lambda rng, n: rng.gamma(a, scale, (n, 2)), judged

    return at


LADDERS = {
    "normal": Ladder(
        CallableEnergy(quadratic, one(constraints.real, 3), dtype=torch.float64),
        CallableEnergy(
            lambda x: x.square().sum(-1) / 8, one(constraints.real, 3), dtype=torch.float64
        ),
        BETAS,
        normal_law,
    ),
    "gamma": Ladder(
        gamma_energy(4.0, 2.0),
        gamma_energy(1.5, 0.5),
        BETAS,
        gamma_law(lambda beta: 1.5 + 2.5 * beta, lambda beta: 0.5 + 1.5 * beta),
    ),
    "gamma, no reference": Ladder(
        gamma_energy(4.0, 2.0),
        None,
        (0.3, 0.6, 1.0),
        gamma_law(lambda beta: 1 + 3 * beta, lambda beta: 2 * beta),
    ),
}


FAST = ("random walk", "MALA", "HMC, a size for each level")


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize(
    "kernel", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in KERNELS]
)
def test_exact_draws_stay_exact_draws_at_every_level(kernel: str, ladder: str) -> None:
    assert LADDERS[ladder].p_value(KERNELS[kernel]) > ALPHA


right_rates, right_refresh = tempering.swap_rates, HMC.refresh


def with_old_heights(kernel: Any, energy: Any, state: Any, x: Any) -> Any:
    """What HMC knows after an exchange, but for the potential where it is now."""
    new = right_refresh(kernel, energy, state, x)
    return new._replace(point=new.point._replace(potential=state.point.potential))


FAULTS: dict[str, Callable[[], Any]] = {
    "inverted ratio": lambda: mock.patch.object(
        tempering, "swap_rates", lambda b, v: right_rates(b, -v)
    ),
    "twice the ratio": lambda: mock.patch.object(
        tempering, "swap_rates", lambda b, v: right_rates(2 * b, v)
    ),
    "reference forgotten in the ratio": lambda: mock.patch.object(
        tempering, "at_reference", return_value=0.0
    ),
    "potentials not exchanged": lambda: mock.patch.object(HMC, "refresh", with_old_heights),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_exact_starts_find_a_fault(fault: str) -> None:
    with FAULTS[fault]():
        assert LADDERS["gamma"].p_value(KERNELS["HMC"]) < ALPHA
