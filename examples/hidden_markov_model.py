"""A hidden Markov model with explicit states: discrete Gibbs and HMC against the exact filter.

States z_1 … z_T are sampled one after another given their neighbours, for all chains at once; the
levels of the states by HMC. The exact answer sums the states out by the forward and backward
recursions, on a fine grid of the two levels: smoothed probabilities p(z_t = 1 | y) and the levels'
posterior means must agree.
"""

import math
import time

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_ebm as pe

torch.set_num_threads(1)
torch.manual_seed(4)
STEPS, STAY = 8, 0.8
move = torch.tensor([[STAY, 1 - STAY], [1 - STAY, STAY]], dtype=torch.float64)
prior_mean = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def hidden_markov(seen: Tensor) -> None:
    """Two levels; each state depends on the one before."""
    level = pyro.sample("level", dist.Normal(prior_mean, 0.5).to_event(1))
    z = pyro.sample("z_0", dist.Categorical(move.new_tensor([0.5, 0.5])))
    for t, y in enumerate(seen):
        if t:
            z = pyro.sample(f"z_{t}", dist.Categorical(move[z]))
        pyro.sample(f"y_{t}", dist.Normal(level[z], 1.0), obs=y)


# Simulated forward, with the levels at −1.2 and 1.4.
states = [0]
for uniform in torch.rand(STEPS - 1):
    states.append(states[-1] if uniform < STAY else 1 - states[-1])
seen = torch.tensor([-1.2, 1.4]).double()[states] + torch.randn(STEPS, dtype=torch.float64)

# Exactly: for every pair of levels on a grid, the forward and backward recursions.
grid = torch.linspace(-4, 4, 81, dtype=torch.float64)
levels = torch.cartesian_prod(grid, grid)  # (pairs, 2)
emission = dist.Normal(levels, 1.0).log_prob(seen[:, None, None])  # (time, pairs, 2)
forward = [math.log(0.5) + emission[0]]
for log_p in emission[1:]:
    forward.append((forward[-1][:, :, None] + move.log()).logsumexp(1) + log_p)
backward = [torch.zeros_like(emission[0])]
for log_p in emission.flip(0)[:-1]:
    backward.append((move.log() + (log_p + backward[-1])[:, None, :]).logsumexp(2))
evidence = forward[-1].logsumexp(1) + dist.Normal(prior_mean, 0.5).log_prob(levels).sum(1)
weight = evidence.softmax(0)
smoothed = torch.stack(
    [(a + b).softmax(1)[:, 1] @ weight for a, b in zip(forward, backward[::-1], strict=True)]
)

names = tuple(f"z_{t}" for t in range(STEPS))
kernel = pe.EnergyKernel(pe.Cycle((pe.Gibbs(names), pe.HMC(("level",)))), hidden_markov)
begin = time.perf_counter()
mcmc = pe.infer.MCMC(kernel, num_samples=80, warmup_steps=60, num_chains=80, seed=0)
mcmc.run(seen)
seconds = time.perf_counter() - begin

samples = mcmc.get_samples(group_by_chain=True)
found = torch.stack([samples[name].double().mean(1) for name in names], -1)  # (chain, time)
errors = found.std(0) / math.sqrt(len(found))
print(f"80 chains, 80 draws each of {STEPS} states and 2 levels: {seconds:.1f} s")
print("p(z_t = 1 | y)   sampled " + " ".join(f"{p:.3f}" for p in found.mean(0).tolist()))
print("                 exactly " + " ".join(f"{p:.3f}" for p in smoothed.tolist()))
apart = float(((found.mean(0) - smoothed) / errors).abs().max())
print(f"largest difference {apart:.1f} standard errors")
for k in range(2):
    means = samples["level"][..., k].mean(1)
    error = float(means.std() / math.sqrt(len(means)))
    exact = float(weight @ levels[:, k])
    print(f"level {k}: {float(means.mean()):.3f} ± {error:.3f}, exactly {exact:.3f}")
