"""Ladders on Pyro models with many discrete sites: Gibbs beside RandomBlocks, one thread.

Prints, of 16 chains, the CPU time of a step and the effective draws a second of CPU of the slowest
quantity: how many members and leaders are on (ten groups of thirty bits that follow a leader, six
levels), how many bits are on (a hidden chain of fifty bits, each a site of its own, four levels).
"""

import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_ebm as pe
from pyro_ebm.statistics import effective_sample_size

GROUPS, MEMBERS, STEPS, CHAINS = 10, 30, 50, 16


def camps() -> None:
    """Bits in groups, which Gibbs alone does not bring to change sides."""
    with pyro.plate("groups", GROUPS, dim=-1):
        leader = pyro.sample("leader", dist.Bernoulli(0.4))
        with pyro.plate("members", MEMBERS, dim=-2):
            pyro.sample("on", dist.Bernoulli((2 * leader - 1).sigmoid()))


SEEN = torch.randn(STEPS, generator=torch.Generator().manual_seed(1))
SEEN += 2 * (torch.arange(STEPS) // 10 % 2)
STAYS = torch.tensor([[0.9, 0.1], [0.1, 0.9]])


def hidden_chain() -> None:
    """A hidden Markov model, every state a site."""
    state: Tensor | int = 0
    for step in pyro.markov(range(STEPS)):
        state = pyro.sample(f"state_{step}", dist.Categorical(STAYS[state]))
        pyro.sample(f"seen_{step}", dist.Normal(2.0 * state, 1.5), obs=SEEN[step])


def sums(chains: pe.Chains) -> Tensor:
    """How many bits are on, of sites with plates site by site (chain, draw, sites)."""
    each = [x.double().reshape(*x.shape[:2], -1).sum(-1) for x in chains.draws.values()]
    total = torch.stack(each, -1)
    return total if len(each) == 2 else total.sum(-1, keepdim=True)


MODELS: dict[str, tuple[Callable[[], None], int, tuple[int, int]]] = {
    "groups with a leader": (camps, 6, (1000, 4000)),
    "a hidden chain": (hidden_chain, 4, (60, 900)),
}


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':40s}{'ms a step':>12s}{'ESS':>9s}{'ESS/s':>9s}")
    for name, (model, levels, counts) in MODELS.items():
        energy = pe.ModelEnergy(model)
        for kernel, count in zip((pe.Gibbs(), pe.RandomBlocks()), counts, strict=True):
            ladder = pe.ParallelTempering(kernel, levels)
            begin = time.process_time()
            chains = pe.run(ladder, energy, count, warmup=count // 2, chains=CHAINS, seed=1)
            seconds = time.process_time() - begin
            size = float(effective_sample_size(sums(chains)).min())
            step = 1000 * seconds / (count + count // 2)
            label = f"{name}, {type(kernel).__name__}"
            print(f"{label:40s}{step:12.1f}{size:9.0f}{size / seconds:9.2f}", flush=True)


if __name__ == "__main__":
    main()
