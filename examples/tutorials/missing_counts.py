"""Counts of which some are missing: each is an integer without a bound, drawn with the rate."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

COUNTS = torch.tensor([4.0, 7, 2, 5, 3, 6, 0, 0])
KNOWN = torch.arange(8) < 6  # the last two are missing


def model(counts: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("days", len(counts)):
        pyro.sample("count", dist.Poisson(rate), obs=counts, obs_mask=KNOWN)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=1000, warmup_steps=300, num_chains=16, seed=0)
    mcmc.run(COUNTS)
    total = mcmc.get_samples(group_by_chain=True)["count_unobserved"]
    total = total[..., ~KNOWN].double().sum(-1)
    print(mcmc.plan)
    print(f"missing counts, together: {total.mean():.2f}")
    return mcmc, total


if __name__ == "__main__":
    main()
