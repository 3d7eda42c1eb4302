"""Independent draws a second from continuous energies, on one thread, warm-up included.

Counted is the effective sample size (that of the mean, by ArviZ) of the worst of all
coordinates x and their squares, over the seconds from a cold start to the last draw. The limit is
the gradient evaluations: their share of that time stands beside. Pyro's NUTS, one chain, is timed
in the same run.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import constraints

import pyro_ebm as pe
from pyro_ebm.energies import energy_and_gradient

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 announces its 1.x series
    import arviz as az

CHAINS, ROUNDS = 100, 3
SCHEDULE = pe.Schedule(warmup=100, draws=500)


class Normal(pe.GradientEnergy):
    """A normal law that knows its gradient."""

    def __init__(self, precision: Tensor) -> None:
        super().__init__()
        self.precision = precision
        self.sites = {"x": pe.Site(constraints.real, precision.shape[:1])}

    @property
    def dtype(self) -> torch.dtype:
        return self.precision.dtype

    @property
    def device(self) -> torch.device:
        return self.precision.device

    def evaluate(self, x: pe.Sites) -> Tensor:
        return torch.linalg.vecdot(x["x"] @ self.precision, x["x"]) / 2

    def energy_and_gradient(self, x: pe.Sites, sites: object) -> tuple[Tensor, pe.Sites]:
        gradient = x["x"] @ self.precision
        return torch.linalg.vecdot(gradient, x["x"]) / 2, {"x": gradient}


def correlated(size: int = 50, correlation: float = 0.9) -> Tensor:
    """The precision of a normal law with covariance 0.9^|i − j|."""
    number = torch.arange(size)
    return torch.linalg.inv(correlation ** (number[:, None] - number).abs().double()).float()


def network(size: int = 20, width: int = 32) -> Callable[[Tensor], Tensor]:
    """A network of two layers over a normal law."""
    first = torch.randn(size, width) / size**0.5
    second, last = torch.randn(width, width) / width**0.5, torch.randn(width) / width**0.5

    def energy(x: Tensor) -> Tensor:
        hidden = torch.tanh(torch.tanh(x @ first) @ second)
        return x.square().sum(-1) / 2 + 3 * (hidden @ last)

    return energy


def worst(draws: np.ndarray) -> float:  # (chain, draw, d)
    """The least effective sample size of x and x²."""
    both = az.convert_to_dataset({"x": draws, "squares": draws**2})
    return float(az.ess(both, method="mean").to_array().min())


def by_run(kernel: pe.Kernel, energy: pe.Energy, chains: int) -> tuple[float, float, float]:
    """ESS, seconds, and seconds that the gradients alone take."""
    begin = time.perf_counter()
    found = pe.run(kernel, energy, SCHEDULE, chains=chains, seed=0)
    seconds = time.perf_counter() - begin
    draws = next(iter(found.draws.values()))
    x, sites = found.last, tuple(energy.sites)
    count = 300
    begin = time.perf_counter()
    for _ in range(count):
        energy_and_gradient(energy, x, sites)
    each = (time.perf_counter() - begin) / count
    steps = found.statistics.get("n_steps", torch.ones(1, SCHEDULE.draws))[0].double().mean()
    # Of the warm-up, as many a step as of the draws.
    gradients = float(steps) * (SCHEDULE.warmup + SCHEDULE.draws)
    return worst(draws.numpy()), seconds, each * gradients


def by_pyro(function: Callable[[Tensor], Tensor], size: int) -> tuple[float, float, float]:
    """Pyro's NUTS, one chain."""
    pyro.set_rng_seed(0)
    kernel = NUTS(potential_fn=lambda z: function(z["x"][None])[0])
    mcmc = MCMC(
        kernel,
        num_samples=300,
        warmup_steps=300,
        initial_params={"x": torch.zeros(size)},
        disable_progbar=True,
    )
    begin = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - begin
    return worst(mcmc.get_samples(group_by_chain=True)["x"].numpy()), seconds, float("nan")


def table(title: str, energies: dict[str, pe.Energy], function: Callable, size: int) -> None:
    works: dict[str, Callable[[], tuple[float, float, float]]] = {}
    for kind, energy in energies.items():
        for name, kernel in {
            "HMC()": pe.HMC(),
            "HMC(mass=DenseMass())": pe.HMC(mass=pe.DenseMass()),
            "MALA()": pe.MALA(),
        }.items():
            works[f"{name}, {CHAINS} chains, {kind}"] = lambda k=kernel, e=energy: by_run(
                k, e, CHAINS
            )
    works["Pyro NUTS, one chain"] = lambda: by_pyro(function, size)
    rounds: dict[str, list] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            rounds[name].append(work())
    print(f"\n{title}\n{'':58s}{'ESS':>8s}{'ESS/s':>10s}{'gradients':>11s}")
    for name, found in rounds.items():
        rate = statistics.median(ess / seconds for ess, seconds, _ in found)
        share = statistics.median(bare / seconds for _, seconds, bare in found)
        print(f"{name:58s}{found[0][0]:8.0f}{rate:10.0f}{share:11.2f}")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    precision = correlated()

    def quadratic(x: Tensor) -> Tensor:
        return torch.linalg.vecdot(x @ precision, x) / 2

    normal = {
        "closed form": Normal(precision),
        "autograd": pe.CallableEnergy(quadratic, 50),
    }
    table("normal law in 50 dimensions, covariance 0.9^|i − j|", normal, quadratic, 50)
    energy = network()
    table(
        "network of two layers in 20 dimensions",
        {"autograd": pe.CallableEnergy(energy, 20)},
        energy,
        20,
    )


if __name__ == "__main__":
    main()
