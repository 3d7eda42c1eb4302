"""Small densities with exact draws, each with numbers of known law to judge draws by."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import CallableEnergy, Energy, Structure, WithoutTerms
from pyro_ebm.kernels import Kernel, advance
from pyro_ebm.sites import Site, Sites, boolean

ALPHA = 1e-6  # of every statistical test, before the number of its looks

Draw = Callable[[np.random.Generator, int], dict[str, np.ndarray]]
Cdf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Density:
    """A law, written out.

    Args:
        sites: Its sites.
        energy: −ln p up to a constant, from values in torch.
        draw: Independent draws, by numpy.
        judged: Numbers by name that a draw gives, and the function of their distribution.
    """

    sites: dict[str, Site]
    energy: Callable[..., Tensor]
    draw: Draw
    judged: dict[str, tuple[Callable[[dict[str, np.ndarray]], np.ndarray], Cdf]]

    def as_energy(self) -> Energy:
        return CallableEnergy(self.energy, self.sites, dtype=torch.float64)

    def start(self, chains: int, seed: int) -> Sites:
        """Independent draws as tensors."""
        drawn = self.draw(np.random.default_rng(seed), chains)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in drawn.items()}

    def p_value(self, x: Sites) -> float:
        """The least p-value of Kolmogorov and Smirnov, times the number of looks."""
        arrays = {name: value.numpy() for name, value in x.items()}
        found = []
        for number, cdf in self.judged.values():
            found.append(stats.kstest(cdf(number(arrays)), "uniform").pvalue)
        return len(found) * min(found)


def from_exact_start(
    kernel: Kernel, density: Density, *, chains: int = 5_000, seed: int = 0
) -> float:
    """The least p-value after 1, 4 and 16 steps, times three, of chains that started in law."""
    torch.manual_seed(seed)
    energy = density.as_energy()
    state = kernel.init(energy, density.start(chains, seed))
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        found.append(density.p_value(state.x))
    return 3 * min(found)


def from_fixed_start(
    kernel: Kernel, density: Density, steps: int, *, chains: int = 2_000, seed: int = 0
) -> float:
    """The p-value of chains that all started at one place, after so many steps."""
    torch.manual_seed(seed)
    energy = density.as_energy()
    place = {n: v.expand(chains, *v.shape[1:]).clone() for n, v in density.start(1, 1).items()}
    return density.p_value(advance(kernel, energy, kernel.init(energy, place), steps).x)


def one(support: constraints.Constraint, *shape: int) -> dict[str, Site]:
    return {"x": Site(support, torch.Size(shape))}


def columns(cdf: Cdf, count: int) -> dict:
    """Every coordinate of x, with the same law."""
    return {f"x{i}": ((lambda a, i=i: a["x"][:, i]), cdf) for i in range(count)}


COVARIANCE = np.array([[1.0, 0.9, 0.3], [0.9, 1.5, -0.2], [0.3, -0.2, 0.7]])
MEAN = np.array([1.0, -2.0, 0.5])
PRECISION = torch.tensor(np.linalg.inv(COVARIANCE))
FACTOR = np.linalg.cholesky(COVARIANCE)


def whitened(arrays: dict[str, np.ndarray]) -> np.ndarray:
    x = np.concatenate([arrays[name].reshape(len(arrays[name]), -1) for name in arrays], 1)
    return np.linalg.solve(FACTOR, (x - MEAN).T)


def quadratic(x: Tensor) -> Tensor:
    deviation = x - torch.tensor(MEAN)
    return ((deviation @ PRECISION) * deviation).sum(-1) / 2


NORMAL = {
    "along": (lambda a: whitened(a)[0], stats.norm.cdf),
    "across": (lambda a: whitened(a)[2], stats.norm.cdf),
    "radius": (lambda a: (whitened(a) ** 2).sum(0), stats.chi2(3).cdf),
}
CONCENTRATION = np.array([0.7, 2.0, 3.0])


def labelled_energy(label: Tensor, x: Tensor) -> Tensor:
    """Label 1 with probability 0.3; x ~ N(2 label, 1 + label/2) in each of two coordinates."""
    scale = 1 + label[:, None] / 2
    return -label * math.log(0.3 / 0.7) + (
        ((x - 2 * label[:, None]) / scale).square() / 2 + scale.log()
    ).sum(-1)


def labelled_draw(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    label = (rng.random(n) < 0.3).astype(float)
    x = 2 * label[:, None] + (1 + label[:, None] / 2) * rng.standard_normal((n, 2))
    return {"label": label, "x": x}


def standardised(arrays: dict[str, np.ndarray]) -> np.ndarray:
    label = arrays["label"][:, None]
    return ((arrays["x"] - 2 * label) / (1 + label / 2))[:, 1]


def mixture_cdf(x: np.ndarray) -> np.ndarray:
    return 0.7 * stats.norm.cdf(x) + 0.3 * stats.norm(2, 1.5).cdf(x)


SMALL = {
    "normal": Density(
        one(constraints.real, 1),
        lambda x: (x - 3).square().sum(-1) / (2 * 0.25),
        lambda rng, n: {"x": rng.normal(3, 0.5, (n, 1))},
        columns(stats.norm(3, 0.5).cdf, 1),
    ),
    "correlated normal": Density(
        one(constraints.real, 3),
        quadratic,
        lambda rng, n: {"x": MEAN + rng.standard_normal((n, 3)) @ FACTOR.T},
        NORMAL,
    ),
    "correlated normal in two sites": Density(
        {
            "a": Site(constraints.real, torch.Size([])),
            "b": Site(constraints.real, torch.Size([1, 2])),
        },
        lambda a, b: quadratic(torch.cat([a[:, None], b[:, 0]], 1)),
        lambda rng, n: dict(
            zip(
                ("a", "b"),
                (lambda x: (x[:, 0], x[:, None, 1:]))(
                    MEAN + rng.standard_normal((n, 3)) @ FACTOR.T
                ),
                strict=True,
            )
        ),
        NORMAL,
    ),
    "gamma": Density(
        one(constraints.positive, 2),
        lambda x: (2 * x - 1.5 * x.log()).sum(-1),
        lambda rng, n: {"x": rng.gamma(2.5, 0.5, (n, 2))},
        columns(stats.gamma(2.5, scale=0.5).cdf, 2),
    ),
    "beta": Density(
        one(constraints.unit_interval, 1),
        lambda x: -(0.5 * x.log() + 1.5 * (1 - x).log()).sum(-1),
        lambda rng, n: {"x": rng.beta(1.5, 2.5, (n, 1))},
        columns(stats.beta(1.5, 2.5).cdf, 1),
    ),
    "dirichlet": Density(
        one(constraints.simplex, 3),
        lambda x: -((torch.tensor(CONCENTRATION) - 1) * x.log()).sum(-1),
        lambda rng, n: {"x": rng.dirichlet(CONCENTRATION, n)},
        {
            f"x{i}": (
                (lambda a, i=i: a["x"][:, i]),
                stats.beta(CONCENTRATION[i], CONCENTRATION.sum() - CONCENTRATION[i]).cdf,
            )
            for i in range(3)
        },
    ),
    "bounded": Density(
        one(constraints.interval(-1.0, 2.0), 2),
        lambda x: x.square().sum(-1) / 2,
        lambda rng, n: {"x": stats.truncnorm(-1, 2).rvs((n, 2), random_state=rng)},
        columns(stats.truncnorm(-1, 2).cdf, 2),
    ),
    "with a label": Density(
        {"label": Site(boolean, torch.Size([])), "x": Site(constraints.real, torch.Size([2]))},
        labelled_energy,
        labelled_draw,
        {
            "given the label": (standardised, stats.norm.cdf),
            "both labels": (lambda a: a["x"][:, 0], mixture_cdf),
        },
    ),
}


class Quadratic(Energy):
    """A normal law with mean zero that knows its gradient."""

    def __init__(self, precision: Tensor) -> None:
        super().__init__()
        self.precision = precision
        self.sites = one(constraints.real, len(precision))

    @property
    def dtype(self) -> torch.dtype:
        return self.precision.dtype

    @property
    def device(self) -> torch.device:
        return self.precision.device

    def evaluate(self, x: Sites) -> Tensor:
        return torch.linalg.vecdot(x["x"] @ self.precision, x["x"]) / 2

    def structure(self) -> Structure:
        return WithoutTerms(self, self.in_closed_form)

    def in_closed_form(self, x: Sites, sites: object) -> tuple[Tensor, Sites]:
        gradient = x["x"] @ self.precision
        return torch.linalg.vecdot(gradient, x["x"]) / 2, {"x": gradient}
