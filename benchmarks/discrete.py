"""Discrete kernels side by side, on one thread: independent draws a second, and whether they mix.

The machine is an RBM learned in a minute or so: 784 and 500 units from MNIST, of which the path to
an .npz file with the array `train_images` is given, or else 64 and 32 units from the digits.

    python benchmarks/discrete.py [mnist.npz]

What is counted is the effective sample size of whole visible configurations, by their Hamming
distance, of 16 chains through `run`; the seconds are those of the warm-up too. Kernels that change
little in a step are thinned. Half of the chains start at data, half at random, and for each half
stands how far its mean free energy F(v) is from that of a long tempered run, with the standard
error between its chains: a kernel that does not leave its mode may have a fine sample size, and
means that depend on the start.
"""

import functools
import math
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import pyro_ebm as pe

CHAINS, WARMUP, DRAWS = 16, 200, 1000


class Trial(NamedTuple):
    """A kernel, and how many steps are between its draws."""

    kernel: pe.Kernel
    thinning: int


class Case(NamedTuple):
    """A machine, what it learned from, and how it is tried.

    Args:
        machine: The RBM.
        data: Its data (rows, n).
        reference: Independent units with the data's means, from which ladders start.
        trials: Kernels of the machine, by name.
        summed: Kernels of the visible units alone, the hidden ones summed out.
        levels: Of the ladder of the long run.
        long: How long the long run is: its words in `run`.
    """

    machine: pe.BoltzmannMachine
    data: Tensor
    reference: pe.BoltzmannMachine
    trials: Mapping[str, Trial]
    summed: Mapping[str, Trial]
    levels: int
    long: dict[str, int]


def independent(data: Tensor, hidden: int) -> pe.BoltzmannMachine:
    """Units without couplings, the visible ones with the data's means."""
    sizes = {"visible": data.shape[1], "hidden": hidden}
    machine = pe.BoltzmannMachine(
        {name: pe.Layer(pe.Bernoulli(), size) for name, size in sizes.items()}
    )
    pe.init_biases_from_data(machine, data)
    return machine


class Slower(pe.AfterEpoch):
    """Lets the learning rate fall by torch's scheduler."""

    def __init__(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.scheduler = scheduler

    def after_epoch(self, progress: pe.Progress) -> None:
        """Sets the rate of the next epoch."""
        self.scheduler.step()


def learned(data: Tensor, hidden: int, rate: float, batch: int, epochs: int) -> pe.BoltzmannMachine:
    """An RBM after some epochs of PCD, with a rate that falls to a tenth."""
    torch.manual_seed(0)
    offset = {"visible": data.mean(0), "hidden": torch.full((hidden,), 0.5)}
    machine = pe.BoltzmannMachine.restricted(data.shape[1], hidden, offset=offset)
    pe.init_biases_from_data(machine, data)
    optimizer = torch.optim.SGD(machine.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1 ** (1 / epochs))
    pe.fit(
        machine,
        data,
        pe.PersistentContrastiveDivergence(steps=1, chains=batch),
        epochs=epochs,
        batch_size=batch,
        optimizer=optimizer,
        observers=[pe.Monitor(every=epochs), Slower(scheduler)],
        seed=0,
    )
    return machine.requires_grad_(False)


def digits() -> Case:
    """64 and 32 units, a few seconds for each kernel."""
    data = pe.datasets.digits().train.flatten(1).float()
    reference = independent(data, 32)
    tempering = functools.partial(pe.ParallelTempering, reference=reference)
    trials = {
        "Gibbs": Trial(pe.Gibbs(), 10),
        "DiscreteLangevin": Trial(pe.DiscreteLangevin(), 5),
        "GibbsWithGradients": Trial(pe.GibbsWithGradients(), 20),
        "RandomBlocks of 4": Trial(pe.RandomBlocks(size=4), 20),
        "ParallelTempering of Gibbs": Trial(tempering(pe.Gibbs(), 8), 1),
    }
    summed = {
        "DiscreteLangevin of F(v)": Trial(pe.DiscreteLangevin(), 5),
        "GibbsWithGradients of F(v)": Trial(pe.GibbsWithGradients(), 10),
    }
    machine = learned(data, 32, rate=0.05, batch=50, epochs=60)
    return Case(machine, data, reference, trials, summed, 12, {"draws": 4000, "warmup": 500})


def mnist(path: str) -> Case:
    """784 and 500 units, about a minute for each kernel."""
    images = torch.tensor(np.load(path)["train_images"] > 127)
    data = images.flatten(1).float()
    reference = independent(data, 500)
    tempering = functools.partial(pe.ParallelTempering, reference=reference)
    trials = {
        "Gibbs": Trial(pe.Gibbs(), 50),
        "DiscreteLangevin": Trial(pe.DiscreteLangevin(), 25),
        "GibbsWithGradients": Trial(pe.GibbsWithGradients(), 50),
        "ParallelTempering of Gibbs": Trial(tempering(pe.Gibbs(), 24), 4),
    }
    summed = {
        "DiscreteLangevin of F(v)": Trial(pe.DiscreteLangevin(), 25),
        "GibbsWithGradients of F(v)": Trial(pe.GibbsWithGradients(), 20),
    }
    machine = learned(data, 500, rate=0.05, batch=100, epochs=10)
    return Case(machine, data, reference, trials, summed, 32, {"draws": 6000, "warmup": 1000})


def starts(case: Case) -> dict[str, Tensor]:
    """Half of the chains at data with their hidden units drawn, half at random."""
    half = CHAINS // 2
    chosen = case.data[torch.linspace(0, len(case.data) - 1, half).long()]
    visible = torch.cat([chosen, torch.rand_like(chosen).round()])
    hidden = case.machine.conditional("hidden", {"visible": visible}).sample()
    return {"visible": visible, "hidden": hidden}


def free_energies(case: Case, chains: pe.Chains) -> Tensor:  # (chain,)
    """The mean F(v) of each chain."""
    visible = chains.draws["visible"].float()
    return torch.stack([case.machine.free_energy(draws).mean() for draws in visible])


def told(means: Tensor, truth: float) -> str:
    """How far some chains are from the truth, and the standard error of that."""
    return f"{float(means.mean()) - truth:+.2f} ± {float(means.std()) / math.sqrt(len(means)):.2f}"


def try_out(case: Case, name: str, energy: pe.Energy, trial: Trial, truth: float) -> None:
    """One line of the table."""
    length = {"draws": DRAWS, "warmup": WARMUP * trial.thinning, "thinning": trial.thinning}
    torch.manual_seed(1)
    x = {site: value for site, value in starts(case).items() if site in energy.sites}
    begin = time.process_time()
    chains = pe.run(trial.kernel, energy, **length, initial=x, seed=1)
    seconds = time.process_time() - begin
    size = float(pe.statistics.hamming_effective_sample_size(chains.draws["visible"]))
    means = free_energies(case, chains)
    errors = [told(some, truth) for some in means.split(CHAINS // 2)]
    rate = chains.statistics.get("acceptance_rate", torch.ones(())).mean()
    print(
        f"{name:28s}{length['warmup'] + DRAWS * trial.thinning:>9d}{seconds:8.1f}{float(rate):7.2f}"
        f"{size:9.0f}{size / seconds:9.2f}{errors[0]:>18s}{errors[1]:>18s}"
    )


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) < 2:
        print("No MNIST was given (an .npz file with train_images): the small digits instead.")
    begin = time.process_time()
    case = digits() if len(sys.argv) < 2 else mnist(sys.argv[1])
    visible = case.machine.sites["visible"]
    sizes = "x".join(str(site.shape[0]) for site in case.machine.sites.values())
    print(
        f"an RBM {sizes} of {len(case.data)} rows, learned in {time.process_time() - begin:.0f} s"
    )

    ladder = pe.ParallelTempering(pe.Gibbs(), case.levels, case.reference)
    long = pe.run(ladder, case.machine, **case.long, initial=starts(case), seed=9)
    means = free_energies(case, long)
    truth, report = float(means.mean()), long.kernel.report(long.state)
    print(
        f"mean F(v) {truth:.2f} ± {float(means.std()) / math.sqrt(CHAINS):.2f}, by tempering with "
        f"{case.levels} levels and {case.long['draws']} draws, "
        f"{float(report.round_trips.float().mean()):.1f} round trips a chain, "
        f"barrier {report.barrier:.1f}"
    )
    print(f"that of data {float(case.machine.free_energy(case.data).mean()):.1f}\n")
    print(
        f"{'':28s}{'steps':>9s}{'s':>8s}{'acc.':>7s}{'ESS':>9s}{'ESS/s':>9s}"
        f"{'error of F: data':>18s}{'random start':>18s}"
    )
    for name, trial in case.trials.items():
        try_out(case, name, case.machine, trial, truth)
    summed = pe.CallableEnergy(case.machine.free_energy, {"visible": visible})
    for name, trial in case.summed.items():
        try_out(case, name, summed, trial, truth)


if __name__ == "__main__":
    main()
