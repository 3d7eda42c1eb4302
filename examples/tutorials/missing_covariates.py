"""A regression on a yes-or-no covariate, of which some answers are missing."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

ANSWERS = torch.tensor([0.0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0])
KNOWN = torch.arange(12) < 8  # the last four are missing
OUTCOMES = torch.tensor([0.2, 1.9, 1.4, -0.6, 2.4, 0.5, 0.9, -0.2, 1.2, 2.1, -0.4, 0.7])


def model(answers: Tensor, outcomes: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    base = pyro.sample("base", dist.Normal(0.0, 2.0))
    effect = pyro.sample("effect", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(answers)):
        answer = pyro.sample("answer", dist.Bernoulli(share), obs=answers, obs_mask=KNOWN)
        pyro.sample("outcome", dist.Normal(base + effect * answer, 1.0), obs=outcomes)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(ANSWERS, OUTCOMES)
    effect = mcmc.get_samples(group_by_chain=True)["effect"]
    print(mcmc.plan)
    print(f"effect of the answer: {effect.mean():.3f}")
    return mcmc, effect


if __name__ == "__main__":
    main()
