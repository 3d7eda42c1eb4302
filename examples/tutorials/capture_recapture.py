"""How many animals are there? Each of 50 places has a flag, whether an animal is there."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

NIGHTS = 4
CAUGHT = torch.tensor([1.0] * 12 + [2.0] * 6 + [3.0] * 2 + [0.0] * 30)  # nights, of each place


def model(caught: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(1.0, 1.0))
    chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    with pyro.plate("places", len(caught)):
        known = caught > 0  # who was caught is there
        there = pyro.sample("there", dist.Bernoulli(share), obs=known.float(), obs_mask=known)
        pyro.sample("caught", dist.Binomial(NIGHTS, there * chance), obs=caught)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=1500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(CAUGHT)
    never = CAUGHT == 0
    there = mcmc.get_samples(group_by_chain=True)["there_unobserved"][..., never]
    animals = there.double().sum(-1) + (~never).sum()
    print(mcmc.plan)
    print(f"animals: {animals.mean():.2f}")
    return mcmc, animals


if __name__ == "__main__":
    main()
