"""Discrete kernels side by side: independent draws a second, of an RBM learned from the digits.

What is counted is the bulk effective sample size of the Hamming distance from a fixed state to the
visible units, of 16 chains on one thread, through `run`. Of kernels that change one unit a step the
draws are thinned. Beside it stands the error of the mean energy against a long tempered run, in
standard errors: a kernel that does not leave its mode has a fine sample size and a wrong mean.
"""

import math
import time

import arviz as az
import torch

import pyro_ebm as pe

CHAINS, WARMUP, DRAWS = 16, 200, 1000
KERNELS = {
    "Gibbs": (pe.Gibbs(), 1),
    "DiscreteLangevin, tuned": (pe.DiscreteLangevin(), 1),
    "GibbsWithGradients": (pe.GibbsWithGradients(), 20),
    "RandomBlocks of 4": (pe.RandomBlocks(size=4), 20),
    "ParallelTempering(Gibbs), 8 levels": (pe.ParallelTempering(pe.Gibbs(), 8), 1),
}


def learned() -> pe.BoltzmannMachine:
    """An RBM of 64 and 32 units after some epochs of PCD."""
    torch.manual_seed(0)
    data = pe.datasets.digits().train.flatten(1).float()
    machine = pe.BoltzmannMachine.restricted(data.shape[1], 32)
    pe.start_at_means(machine, data)
    pe.fit(machine, data, pe.PersistentContrastiveDivergence(steps=1), epochs=60, seed=0)
    return machine


def main() -> None:
    torch.set_num_threads(1)
    machine = learned()
    reference = pe.run(
        pe.ParallelTempering(pe.Gibbs(), 12), machine, pe.Schedule(500, 2000), chains=32, seed=9
    )
    truth = float(-reference.statistics["lp"].mean())
    fixed = torch.randint(0, 2, (64,), dtype=torch.int8)
    print(f"{'':38s}{'s':>7s}{'ESS':>9s}{'ESS/s':>9s}{'error of E':>12s}")
    for name, (kernel, thinning) in KERNELS.items():
        schedule = pe.Schedule(WARMUP * thinning, DRAWS, thinning=thinning)
        begin = time.process_time()
        chains = pe.run(kernel, machine, schedule, chains=CHAINS, seed=1)
        seconds = time.process_time() - begin
        distance = (chains.draws["visible"] != fixed).sum(-1).double()
        size = float(az.ess(distance.numpy()))
        energy = -chains.statistics["lp"].double().mean(1)
        error = (float(energy.mean()) - truth) / (float(energy.std()) / math.sqrt(CHAINS))
        print(f"{name:38s}{seconds:7.1f}{size:9.0f}{size / seconds:9.0f}{error:12.1f}")


if __name__ == "__main__":
    main()
