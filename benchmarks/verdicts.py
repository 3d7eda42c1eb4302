"""How often `diagnose` is right: twenty jobs that mix, ten that are trapped, twenty seeds each.

`python benchmarks/verdicts.py [seeds]` prints a row for each job; nothing is looked at but what a
user of `run` gets. A job "mixes" where its law is known and its chains cross it many times; it is
"trapped" where no single chain comes to see the whole law.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable

import networkx as nx
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import (
    HMC,
    MALA,
    BoltzmannMachine,
    CallableEnergy,
    Chains,
    Cycle,
    DiscreteLangevin,
    Energy,
    Gibbs,
    GibbsWithGradients,
    IntegerWalk,
    Kernel,
    Layer,
    ModelEnergy,
    ParallelTempering,
    RandomBlocks,
    RandomField,
    RandomWalk,
    Site,
    TableFactors,
    choose_kernel,
    diagnose,
    run,
)
from pyro_ebm.sites import boolean
from pyro_ebm.units import Gaussian, Spin

SEEDS = 20
Job = Callable[[int], Chains]


def job(
    kernel: Kernel | None,
    energy: Callable[[int], Energy],
    draws: int = 500,
    warmup: int = 200,
    chains: int = 8,
) -> Job:
    """A run of a kernel, by default the one that suits it, on an energy that a seed makes."""

    def go(seed: int) -> Chains:
        made = energy(seed)
        mover = choose_kernel(made) if kernel is None else kernel
        return run(mover, made, draws, warmup=warmup, chains=chains, seed=seed)

    return go


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed))


# --- machines and fields -------------------------------------------------------------------------


def torus(side: int, beta: float) -> Callable[[int], Energy]:
    graph = nx.grid_2d_graph(side, side, periodic=True)
    edges = list(nx.convert_node_labels_to_integers(graph).edges)
    return lambda _: BoltzmannMachine.on_graph(edges, couplings=torch.tensor([beta]))


def glass(n: int, temperature: float) -> Callable[[int], Energy]:
    def make(seed: int) -> Energy:
        couplings = normal(seed, n, n).triu(1) / (n**0.5 * temperature)
        return BoltzmannMachine.fully_visible(n, couplings=couplings, unit=Spin())

    return make


def restricted(n: int, m: int, scale: float) -> Callable[[int], Energy]:
    def make(seed: int) -> Energy:
        weight = scale * normal(seed, n, m)
        return BoltzmannMachine.restricted(n, m, couplings=weight)

    return make


def memories(_: int) -> Energy:
    """Two patterns of opposite sign in a machine of spins: neither is left."""
    weight = torch.ones(20, 4) * 0.6
    return BoltzmannMachine.restricted(20, 4, units=(Spin(), Spin()), couplings=weight)


def potts(q: int, side: int, beta: float) -> Callable[[int], Energy]:
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(side, side))
    return lambda _: RandomField.potts(
        list(graph.edges), q, couplings=torch.tensor([beta]), biases=torch.zeros(1, q)
    )


def no_repeats(seed: int) -> Energy:
    """A chain of labels of which neighbours differ."""
    table = normal(seed, 4, 4).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
    pairs = torch.tensor([[k, k + 1] for k in range(9)])
    return RandomField([4] * 10, {"pairs": TableFactors(pairs, table[None])})


def network_of_bits(seed: int) -> Energy:
    first, second = normal(seed, 12, 8), normal(seed + 500, 8)
    site = Site(boolean, torch.Size([12]))
    return CallableEnergy(lambda x: (x @ first).tanh() @ second, {"x": site})


def parity(_: int) -> Energy:
    """Six bits with an even sum, and nothing else: single changes are forbidden."""
    site = Site(boolean, torch.Size([6]))
    return CallableEnergy(lambda x: torch.where(x.sum(-1) % 2 == 0, 0.0, torch.inf), {"x": site})


def real_machine(seed: int) -> Energy:
    layers = {"visible": Layer(Gaussian(), 6), "hidden": Layer(Spin(), 3)}
    return BoltzmannMachine(layers, {("visible", "hidden"): 0.4 * normal(seed, 6, 3)})


# --- densities -----------------------------------------------------------------------------------


def correlated(n: int, rho: float) -> Callable[[int], Energy]:
    index = torch.arange(n)
    precision = (rho ** (index[:, None] - index).abs()).inverse()
    return lambda _: CallableEnergy(lambda x: 0.5 * ((x @ precision) * x).sum(-1), n)


def student(_: int) -> Energy:
    return CallableEnergy(lambda x: (3 * (1 + x.square() / 5).log()).sum(-1), 5)


def wells(distance: float) -> Callable[[int], Energy]:
    def energy(x: Tensor) -> Tensor:
        centre = torch.zeros(2).index_fill(0, torch.tensor([0]), distance)
        far = torch.stack([(x - sign * centre).square().sum(-1) for sign in (1, -1)])
        return -torch.logsumexp(-0.5 * far, 0)

    return lambda _: CallableEnergy(energy, 2)


def circle(_: int) -> Energy:
    angles = torch.arange(8) * torch.pi / 4
    centres = 6 * torch.stack([angles.cos(), angles.sin()], -1)
    return CallableEnergy(
        lambda x: -torch.logsumexp(-2 * (x[:, None] - centres).square().sum(-1), 1), 2
    )


def funnel(_: int) -> Energy:
    def energy(x: Tensor) -> Tensor:
        scale, rest = x[:, 0], x[:, 1:]
        return (
            scale.square() / 18
            + (0.5 * rest.square() * (-scale).exp()[:, None]).sum(-1)
            + (rest.shape[1] * scale / 2)
        )

    return CallableEnergy(energy, 10)


# --- Pyro models ---------------------------------------------------------------------------------


def schools(_: int) -> Energy:
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.HalfNormal(10.0))
        with pyro.plate("schools", 8):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("seen", dist.Normal(mean + scale * z, errors), obs=effects)

    return ModelEnergy(model)


def logistic(seed: int) -> Energy:
    x = normal(seed, 200, 4)
    y = (normal(seed + 1, 200) + x.sum(-1) > 0).float()

    def model() -> None:
        weight = pyro.sample("weight", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("rows", 200):
            pyro.sample("seen", dist.Bernoulli(logits=x @ weight), obs=y)

    return ModelEnergy(model)


def mixture(apart: float, *, known: bool) -> Callable[[int], Energy]:
    def make(seed: int) -> Energy:
        labels = torch.arange(60) % 2
        data = normal(seed, 60) + apart * labels

        def model() -> None:
            if known:
                means = torch.tensor([0.0, apart])
            else:
                means = pyro.sample("means", dist.Normal(torch.zeros(2), 10.0).to_event(1))
            share = pyro.sample("share", dist.Beta(2.0, 2.0))
            with pyro.plate("rows", 60):
                own = pyro.sample("label", dist.Bernoulli(share)).long()
                pyro.sample("seen", dist.Normal(means[own], 1.0), obs=data)

        return ModelEnergy(model)

    return make


def hidden_chain(seed: int) -> Energy:
    data = normal(seed, 12) + 1.0

    def model() -> None:
        state = torch.tensor(0.0)
        for t in range(12):
            state = pyro.sample(f"state{t}", dist.Bernoulli(0.3 + 0.4 * state))
            pyro.sample(f"seen{t}", dist.Normal(2 * state, 1.0), obs=data[t])

    return ModelEnergy(model)


def counts(seed: int) -> Energy:
    def model() -> None:
        rate = pyro.sample("rate", dist.Gamma(3.0, 0.3))
        with pyro.plate("rows", 10):
            total = pyro.sample("total", dist.Poisson(rate))
            pyro.sample("seen", dist.Normal(total, 2.0), obs=10 + 3 * normal(seed, 10))

    return ModelEnergy(model)


RIGHT: dict[str, Job] = {
    "restricted machine 20×10, Gibbs": job(Gibbs(), restricted(20, 10, 0.5)),
    "torus 10×10 at β = 0.3, Gibbs": job(Gibbs(), torus(10, 0.3), draws=1000, chains=16),
    "glass of 20 spins, T = 2, Gibbs": job(Gibbs(), glass(20, 2.0)),
    "glass of 20 spins, T = 1, ladder": job(
        ParallelTempering(Gibbs(), betas=(0.0, 0.35, 0.7, 1.0)), glass(20, 1.0), draws=1000
    ),
    "ferromagnet 6×6 at β = 0.5, ladder": job(
        ParallelTempering(Gibbs(), betas=(0.0, 0.4, 0.7, 0.85, 1.0)), torus(6, 0.5), draws=2000
    ),
    "three labels on 6×6, β = 0.5, Gibbs": job(Gibbs(), potts(3, 6, 0.5), draws=1000),
    "labels that may not repeat, Gibbs": job(Gibbs(), no_repeats, draws=3000),
    "network of 12 bits, random blocks": job(RandomBlocks(), network_of_bits, draws=3000),
    "network of 12 bits, discrete Langevin": job(DiscreteLangevin(), network_of_bits, draws=2000),
    "restricted machine, gradients": job(GibbsWithGradients(), restricted(10, 5, 0.5), draws=4000),
    "real and hidden spins, Gibbs": job(Gibbs(), real_machine),
    "normal in 10 dimensions, HMC": job(HMC(), correlated(10, 0.5)),
    "normal, correlation 0.95, HMC": job(HMC(), correlated(2, 0.95)),
    "Student, 5 degrees, HMC": job(HMC(), student),
    "normal in 3 dimensions, MALA": job(MALA(), correlated(3, 0.3), draws=2000),
    "normal in 2 dimensions, walk": job(RandomWalk(), correlated(2, 0.3), draws=3000),
    "eight schools, HMC": job(HMC(), schools),
    "logistic regression, HMC": job(HMC(), logistic),
    "mixture of known means": job(None, mixture(2.0, known=True)),
    "hidden chain, Gibbs": job(Gibbs(), hidden_chain),
}
TRAPPED: dict[str, Job] = {
    "torus 10×10 at β = 0.6, Gibbs": job(Gibbs(), torus(10, 0.6)),
    "glass of 60 spins, T = 0.3, Gibbs": job(Gibbs(), glass(60, 0.3)),
    "two memories, Gibbs": job(Gibbs(), memories),
    "five labels on 8×8, β = 2.5, Gibbs": job(Gibbs(), potts(5, 8, 2.5)),
    "parity of six bits, single changes": job(RandomBlocks(size=1), parity),
    "two far wells, HMC": job(HMC(), wells(6.0)),
    "eight modes on a circle, HMC": job(HMC(), circle),
    "funnel of 10 numbers, HMC": job(HMC(), funnel),
    "mixture whose means may switch": job(None, mixture(5.0, known=False)),
    "counts and a step too small": job(
        Cycle((IntegerWalk(("total",)), RandomWalk(("rate",), scale=0.002))), counts
    ),
}


def judged(go: Job, seeds: int) -> tuple[Counter[str], float]:
    """The verdicts of a job for each seed, and the seconds of processor time of one."""
    began = time.process_time()
    found: Counter[str] = Counter()
    for seed in range(seeds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[str(diagnose(go(seed)).verdict)] += 1
    return found, (time.process_time() - began) / seeds


def main() -> None:
    torch.set_num_threads(1)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    names = ("mixed", "cannot tell", "not mixed")
    for title, jobs in {"mixes": RIGHT, "trapped": TRAPPED}.items():
        print(f"\n{title:40s}" + "".join(f"{name:>13s}" for name in names) + f"{'s':>8s}")
        total: Counter[str] = Counter()
        for name, go in jobs.items():
            found, seconds = judged(go, seeds)
            total += found
            print(
                f"{name:40s}" + "".join(f"{found[n]:13d}" for n in names) + f"{seconds:8.2f}",
                flush=True,
            )
        count = sum(total.values())
        print(f"{'all':40s}" + "".join(f"{total[n] / count:13.1%}" for n in names))


if __name__ == "__main__":
    main()
