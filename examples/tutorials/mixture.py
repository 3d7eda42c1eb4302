"""A mixture of two groups, with a label for each row."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

DATA = torch.tensor([-2.3, -1.7, -0.4, 0.2, 0.9, 1.6, 2.2, 2.5, 2.9, 3.4])


def model(data: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    means = pyro.sample("means", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
    with pyro.plate("rows", len(data)):
        label = pyro.sample("label", dist.Bernoulli(share)).long()
        pyro.sample("seen", dist.Normal(means[label], 1.0), obs=data)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(DATA)
    share = mcmc.get_samples(group_by_chain=True)["share"]
    print(mcmc.plan)
    print(f"share of the upper group: {share.mean():.3f}")
    return mcmc, share


if __name__ == "__main__":
    main()
