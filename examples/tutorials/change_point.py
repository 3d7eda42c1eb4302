"""When did accidents become rarer? One unknown year, and a rate on either side of it."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

DATA = torch.tensor(
    [4.0, 5, 4, 0, 1, 4, 3, 4, 0, 6, 3, 3, 4, 0, 2, 6, 3, 3, 1, 0, 1, 1, 0, 1, 0, 3, 1]
)


def model(data: Tensor) -> None:
    years = torch.arange(len(data))
    year = pyro.sample("year", dist.Categorical(torch.ones(len(data))))
    early = pyro.sample("early", dist.Gamma(2.0, 1.0))
    late = pyro.sample("late", dist.Gamma(2.0, 1.0))
    with pyro.plate("years", len(data)):
        pyro.sample("seen", dist.Poisson(torch.where(years < year, early, late)), obs=data)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=1500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(DATA)
    year = mcmc.get_samples(group_by_chain=True)["year"].double()
    print(mcmc.plan)
    print(f"year of the change: {year.mean():.2f}")
    return mcmc, year


if __name__ == "__main__":
    main()
