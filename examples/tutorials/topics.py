"""Topics of documents: a label for each word, and shares of two known topics in each document."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import infer

TOPICS = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])  # words by topic
WORDS = torch.tensor([[0, 0, 1, 2, 0, 3], [3, 2, 3, 1, 3, 2], [0, 3, 1, 2, 2, 1]])  # by document


def model(words: Tensor) -> None:
    documents = pyro.plate("documents", len(words), dim=-2)
    with documents:
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("places", words.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(shares))
            pyro.sample("word", dist.Categorical(TOPICS[topic]), obs=words)


def main() -> tuple[infer.MCMC, Tensor]:
    mcmc = infer.MCMC(model, num_samples=500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(WORDS)
    shares = mcmc.get_samples(group_by_chain=True)["shares"]
    first = shares[:, :, 0].flatten(2)[..., 0]  # of the first topic in the first document
    print(mcmc.plan)
    print(f"share of the first topic in the first document: {first.mean():.3f}")
    return mcmc, first


if __name__ == "__main__":
    main()
