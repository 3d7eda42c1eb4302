"""An image in two grey levels, seen through noise: labels by Gibbs, levels by NUTS or HMC.

The labels of 24 × 24 pixels have an Ising model on the grid as their prior, with a fixed coupling
and a normaliser that nobody needs. Each label has a grey level of its own, and noise of 0.6 times
their difference hides them: the best threshold gets almost a quarter of the pixels wrong. The two
levels and the noise are unknown too. Gibbs draws all labels of one colour of the chessboard at
once, since the model looks at each of them through one pixel.

The posterior is found twice: by one chain of Pyro's own NUTS within Gibbs under pyro.infer.MCMC,
and by 64 chains of batched HMC in a Cycle with Gibbs. The two must agree within their standard
errors, and hold the truth, which is a draw of the prior. (With three labels, known levels and exact
sums instead of chains: segmentation.py.)
"""

import time

import networkx as nx
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC as PYRO_MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

import pyro_ebm as pe

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(3)
size, truth = 24, {"dark": 0.3, "gap": 1.0, "noise": 0.6}

# Below the critical coupling, 0.4407: above it, images of one label alone would be a second mode.
coupling, no_field = torch.tensor([0.38]), torch.zeros(size**2)
machine = pe.BoltzmannMachine.on_graph(
    nx.grid_2d_graph(size, size), couplings=coupling, biases=no_field
)
prior = pe.distributions.EnergyDistribution.up_to_constant(
    machine, sampler=pe.distributions.Sampler(steps=100)
)
labels = prior.sample()
seen = truth["dark"] + truth["gap"] * (labels + 1) / 2 + truth["noise"] * torch.randn(size**2)


def image(pixels: Tensor) -> None:
    """The levels are ordered: else black and white could change places."""
    dark = pyro.sample("dark", dist.Normal(0.0, 2.0))
    gap = pyro.sample("gap", dist.HalfNormal(2.0))
    noise = pyro.sample("noise", dist.HalfNormal(2.0))
    bright = (pyro.sample("labels", prior) + 1) / 2
    pyro.sample("pixels", dist.Normal(dark + gap * bright, noise).to_event(1), obs=pixels)


numbers = ("dark", "gap", "noise")
low, high = seen.quantile(0.25), seen.quantile(0.75)
start = init_to_value(values={"dark": low, "gap": high - low, "noise": high - low})

begin = time.perf_counter()
blocks = [(pe.Gibbs(), ("labels",)), (NUTS, numbers)]
within = pe.WithinGibbs(image, blocks, init_strategy=start)
one = PYRO_MCMC(within, num_samples=400, warmup_steps=100, disable_progbar=True)
one.run(seen)
print(f"one chain, Gibbs and NUTS, 400 draws: {time.perf_counter() - begin:.0f} s")

begin = time.perf_counter()
cycle = pe.Cycle((pe.Gibbs(("labels",)), pe.HMC(numbers)))
kernel = pe.EnergyKernel(cycle, image, init_strategy=start)
many = pe.infer.MCMC(kernel, num_samples=300, warmup_steps=150, num_chains=64, seed=1)
many.run(seen)
print(f"64 chains, Gibbs and HMC, 300 draws each: {time.perf_counter() - begin:.0f} s")

runs = [mcmc.get_samples(group_by_chain=True) for mcmc in (one, many)]
threshold = truth["dark"] + truth["gap"] / 2
wrong = [float(((seen > threshold) != (labels > 0)).double().mean())]
for draws in runs:
    likelier = draws["labels"].double().mean((0, 1)) > 0
    wrong.append(float((likelier != (labels > 0)).double().mean()))
print(f"wrong pixels: threshold {wrong[0]:.1%}, NUTS {wrong[1]:.1%}, HMC {wrong[2]:.1%}\n")

print(f"{'':8}{'truth':>7}{'NUTS within Gibbs':>20}{'64 chains':>18}{'R-hat':>8}")
for name in numbers:
    means = [draws[name].mean() for draws in runs]
    spread = runs[1][name].std()
    errors = [
        draws[name].std() / pe.statistics.effective_sample_size(draws[name]).sqrt()
        for draws in runs
    ]
    r_hat = pe.statistics.r_hat(runs[1][name])
    print(
        f"{name:8}{truth[name]:7.2f}{means[0]:12.4f} ± {errors[0]:.4f}"
        f"{means[1]:10.4f} ± {errors[1]:.4f}{r_hat:8.3f}"
    )
    assert abs(means[0] - means[1]) < 4 * torch.stack(errors).norm()
    assert abs(means[1] - truth[name]) < 4 * spread
    assert r_hat < 1.1
assert max(wrong[1:]) < 0.8 * wrong[0]
