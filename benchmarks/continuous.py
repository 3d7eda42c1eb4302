"""Independent draws a second from continuous energies, on one thread, warm-up included.

Counted is the effective sample size (that of the mean, by ArviZ) of the worst of all
coordinates x and their squares, over the seconds from a cold start to the last draw. The limit is
the gradient evaluations: their share of that time stands beside. Pyro's NUTS is timed in the same
run, and so are blackjax, NumPyro and torchebm where they are installed. Compiling is not counted;
what it took, and the rate with it, stand beside.
"""

import os

# Read when jax is imported.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from _peers import Array, Target, Timed, peers, worst
from torch import Tensor
from torch.distributions import constraints

import pyro_ebm as pe

CHAINS, ROUNDS = 100, 3
LONG = 8.0  # seconds: what takes longer is done once
LENGTH = {"draws": 500, "warmup": 100}


class Normal(pe.Energy):
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

    def structure(self) -> pe.Structure:
        return pe.WithoutTerms(self, self.in_closed_form)

    def in_closed_form(self, x: pe.Sites, sites: object) -> tuple[Tensor, pe.Sites]:
        gradient = x["x"] @ self.precision
        return torch.linalg.vecdot(gradient, x["x"]) / 2, {"x": gradient}


def correlated(size: int = 50, correlation: float = 0.9) -> Tensor:
    """The precision of a normal law with covariance 0.9^|i − j|."""
    number = torch.arange(size)
    return torch.linalg.inv(correlation ** (number[:, None] - number).abs().double()).float()


def normal(precision: Tensor) -> Target:
    def energy(_: ModuleType, read: Callable[[Tensor], Array]) -> Callable[[Array], Array]:
        p = read(precision)
        return lambda x: ((x @ p) * x).sum(-1) / 2

    return Target(len(precision), energy)


def network(size: int = 20, width: int = 32) -> Target:
    """A network of two layers over a normal law."""
    weights = (
        torch.randn(size, width) / size**0.5,
        torch.randn(width, width) / width**0.5,
        torch.randn(width) / width**0.5,
    )

    def energy(library: ModuleType, read: Callable[[Tensor], Array]) -> Callable[[Array], Array]:
        first, second, last = (read(weight) for weight in weights)

        def of(x: Array) -> Array:
            hidden = library.tanh(library.tanh(x @ first) @ second)
            return (x * x).sum(-1) / 2 + 3 * (hidden @ last)

        return of

    return Target(size, energy)


class Found(NamedTuple):
    """Of one run: the effective sample size, seconds, and what is known beside."""

    size: float
    seconds: float
    compiling: float = 0.0
    gradients: float = float("nan")


def by_run(kernel: pe.Kernel, energy: pe.Energy) -> Found:
    begin = time.perf_counter()
    found = pe.run(kernel, energy, **LENGTH, chains=CHAINS, seed=0)
    seconds = time.perf_counter() - begin
    draws = next(iter(found.draws.values()))
    x, sites = found.last, tuple(energy.sites)
    count = 300
    begin = time.perf_counter()
    for _ in range(count):
        energy.energy_and_gradient(x, sites)
    each = (time.perf_counter() - begin) / count
    steps = found.statistics.get("n_steps", torch.ones(1, LENGTH["draws"]))[0].double().mean()
    # Of the warm-up, as many a step as of the draws.
    gradients = each * float(steps) * (LENGTH["warmup"] + LENGTH["draws"])
    return Found(worst(draws.numpy()), seconds, gradients=gradients)


def by_peer(sample: Callable[[Target], Timed], target: Target) -> Found:
    timed = sample(target)
    return Found(worst(timed.draws), timed.seconds, timed.compiling)


def table(title: str, energies: dict[str, pe.Energy], target: Target) -> None:
    works: dict[str, Callable[[], Found]] = {}
    for kind, energy in energies.items():
        for name, kernel in {
            "HMC()": pe.HMC(),
            "HMC(mass=DenseMass())": pe.HMC(mass=pe.DenseMass()),
            "MALA()": pe.MALA(),
        }.items():
            works[f"{name}, {CHAINS} chains, {kind}"] = lambda k=kernel, e=energy: by_run(k, e)
    for name, sample in peers().items():
        works[name] = lambda s=sample: by_peer(s, target)
    rounds: dict[str, list[Found]] = {name: [] for name in works}
    for number in range(ROUNDS):
        for name, work in works.items():
            if number and rounds[name][0].seconds + rounds[name][0].compiling > LONG:
                continue
            rounds[name].append(work())
    print(f"\n{title}\n{'':50s}{'ESS':>8s}{'ESS/s':>9s}", end="")
    print(f"{'compiling, s':>14s}{'ESS/s with it':>15s}{'gradients':>11s}")
    for name, found in rounds.items():
        rate = statistics.median(f.size / f.seconds for f in found)
        whole = statistics.median(f.size / (f.seconds + f.compiling) for f in found)
        print(f"{name:50s}{found[0].size:8.0f}{rate:9.0f}", end="")
        print(f"{found[0].compiling:14.1f}{whole:15.0f}", end="")
        share = statistics.median(f.gradients / f.seconds for f in found)
        print("" if share != share else f"{share:11.2f}")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    precision = correlated()
    target = normal(precision)
    energies = {
        "closed form": Normal(precision),
        "autograd": pe.CallableEnergy(target.in_torch(), target.size),
    }
    table("normal law in 50 dimensions, covariance 0.9^|i − j|", energies, target)
    target = network()
    energies = {"autograd": pe.CallableEnergy(target.in_torch(), target.size)}
    table("network of two layers in 20 dimensions", energies, target)


if __name__ == "__main__":
    main()
