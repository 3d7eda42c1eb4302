"""A learned prior in a Pyro model: noisy digits, restored by 64 chains in one process.

A restricted Boltzmann machine learns handwritten digits. Then it is the prior of a digit of which
every pixel was flipped with a probability that nobody knows: Gibbs moves the pixels (the machine's
hidden units are drawn for the sweep and forgotten), Hamiltonian Monte Carlo the flip rates. At the
end stand the share of wrong pixels that is left, and how many 90 % intervals hold the true rate,
which is 0.1 for every digit.

    python examples/restored_digits.py [N]     restores the first N test digits, 24 if left out

All 360 take some minutes, and are to reach a share of at most 0.55 and from 85 to 95 % of the
intervals.
"""

import functools
import sys

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_ebm as pe

torch.set_num_threads(1)
torch.manual_seed(0)
count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
data = pe.datasets.digits()

prior = pe.BoltzmannMachine.restricted(64, 20)
pe.init_biases_from_data(prior, data.train)
for rate, epochs in ((0.015, 100), (0.003, 50)):
    pe.fit(
        prior,
        data.train,
        pe.PersistentContrastiveDivergence(steps=5, chains=500),
        epochs=epochs,
        batch_size=100,
        optimizer=functools.partial(torch.optim.Adam, lr=rate),
        observers=[pe.Monitor(every=100)],
        seed=0,
    )
likelihood = pe.exact.log_prob(prior, data.test).mean().item()
print(f"test log-likelihood {likelihood:.2f} nats a digit")


def noisy_digits(noisy: Tensor) -> None:
    with pyro.plate("digits", len(noisy)):
        rate = pyro.sample("rate", dist.Beta(1.0, 9.0))[..., None]
        pixels = pyro.sample("pixels", pe.distributions.EnergyDistribution.up_to_constant(prior))
        one = pixels * (1 - rate) + (1 - pixels) * rate
        pyro.sample("seen", dist.Bernoulli(one).to_event(1), obs=noisy)


kernel = pe.Cycle((pe.Gibbs(("pixels",)), pe.HMC(("rate",))))
true = data.test[:count]
noisy = (true - (torch.rand_like(true) < 0.1).float()).abs()

before = after = held = 0
worst = 1.0
# The digits of one run share the Metropolis tests of their rates: two dozen, not hundreds.
for some, seen in zip(true.split(24), noisy.split(24), strict=True):
    mcmc = pe.infer.MCMC(
        pe.EnergyKernel(kernel, noisy_digits),
        num_samples=150,
        warmup_steps=100,
        num_chains=64,
        seed=0,
    )
    mcmc.run(seen)
    draws = mcmc.get_samples(group_by_chain=True)
    restored = draws["pixels"].float().mean((0, 1)).round()
    before += int((seen != some).sum())
    after += int((restored != some).sum())
    low, high = draws["rate"].flatten(0, 1).quantile(torch.tensor([0.05, 0.95]), 0)
    held += int(((low <= 0.1) & (high >= 0.1)).sum())
    worst = max(worst, float(pe.statistics.r_hat(draws["rate"]).max()))

print(f"{len(true)} digits: {before} wrong pixels before, {after} after: {after / before:.3f}")
print(f"{held / len(true):.1%} of the intervals hold the true rate; R-hat at most {worst:.3f}")
assert after < 0.7 * before
