"""Which covariates matter? Each has a flag, and a coefficient that counts if it is in."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

generator = torch.Generator().manual_seed(0)
X = torch.randn(30, 5, generator=generator)
Y = 0.6 * X[:, 0] - 0.3 * X[:, 1] + torch.randn(30, generator=generator)


def model(x: Tensor, y: Tensor) -> None:
    with pyro.plate("covariates", x.shape[1]):
        inside = pyro.sample("inside", dist.Bernoulli(0.5))
        coefficient = pyro.sample("coefficient", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ (inside * coefficient), 1.0), obs=y)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=1500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(X, Y)
    inside = mcmc.get_samples(group_by_chain=True)["inside"].double()
    print(mcmc.plan)
    print("probability that each is in:", *(f"{p:.2f}" for p in inside.mean((0, 1))))
    return mcmc, inside[..., 0]


if __name__ == "__main__":
    main()
