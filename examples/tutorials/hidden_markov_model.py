"""A hidden Markov model, with a site for the state of each step."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

SWITCH = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
LEVELS = torch.tensor([-1.0, 0.5, 2.0])
DATA = torch.tensor([-1.2, -0.3, 0.4, 0.1, 1.1, 2.3, 1.4, 2.0, 0.6, 0.2, -0.9, -0.2, 1.0, 1.8, 0.3])


def model(data: Tensor) -> None:
    state: Any = 0
    for t, y in enumerate(data):
        state = pyro.sample(f"state{t}", dist.Categorical(SWITCH[state]))
        pyro.sample(f"seen{t}", dist.Normal(LEVELS[state], 1.0), obs=y)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=500, warmup_steps=50, num_chains=16, seed=0)
    mcmc.run(DATA)
    states = torch.stack(list(mcmc.get_samples(group_by_chain=True).values()), -1)
    steps = (states == 2).double().sum(-1)
    print(mcmc.plan)
    print(f"steps in the highest state: {steps.mean():.3f}")
    return mcmc, steps


if __name__ == "__main__":
    main()
