"""A Gaussian mixture whose labels are sampled, not summed out: discrete Gibbs and HMC, 32 chains.

The model is posteriordb's low_dim_gauss_mix, y_n ∼ θ N(μ₁, σ₁) + (1 − θ) N(μ₂, σ₂) with ordered μ,
written with one label for each of its 1,000 points: all labels are drawn at once, since they are
independent given the rest. Without arguments the points are simulated, and the answer must hold
the parameters that made them. Named on the command line, a folder with posteriordb's data and its
reference draws (low_dim_gauss_mix.data.json.zip and
low_dim_gauss_mix-low_dim_gauss_mix.draws.json.zip) is the yardstick: each mean must agree within
four Monte Carlo standard errors, each standard deviation within 5 %.

Labels of a mixture can swap between chains, which a single chain never shows: the order of the
means forbids it here, and R-hat over all chains would tell.
"""

import json
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing a major refactor")
import arviz as az  # noqa: E402 (what it announces is for later)

import pyro_ebm as pe  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)
NAMES = {"mu": 2, "sigma": 2, "theta": 1}


def mixture(points: Tensor) -> None:
    """Ordered means, as in the reference: their law is that of two draws, sorted."""
    first = pyro.sample("first", dist.Normal(points.new_tensor(0.0), 2.0))
    gap = pyro.sample("gap", dist.ImproperUniform(dist.constraints.positive, (), ()))
    mu = pyro.deterministic("mu", torch.stack([first, first + gap]))
    pyro.factor("second", dist.Normal(points.new_tensor(0.0), 2.0).log_prob(mu[1]))
    sigma = pyro.sample("sigma", dist.HalfNormal(2 * points.new_ones(2)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(points.new_tensor(5.0), points.new_tensor(5.0)))
    with pyro.plate("points", len(points)):
        label = pyro.sample("label", dist.Bernoulli(1 - theta)).long()
        pyro.sample("point", dist.Normal(mu[label], sigma[label]), obs=points)


def read(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """The points, and the reference draws (chain, draw) of each parameter."""

    def unpacked(name: str) -> object:
        with zipfile.ZipFile(folder / name) as archive:
            return json.loads(archive.read(archive.namelist()[0]))

    points = torch.tensor(unpacked("low_dim_gauss_mix.data.json.zip")["y"], dtype=torch.float64)
    chains = unpacked("low_dim_gauss_mix-low_dim_gauss_mix.draws.json.zip")
    names = [f"mu[{k}]" for k in (1, 2)] + [f"sigma[{k}]" for k in (1, 2)] + ["theta"]
    return points, {n: torch.tensor([chain[n] for chain in chains]).double() for n in names}


truth = {"mu[1]": -2.75, "mu[2]": 2.85, "sigma[1]": 1.0, "sigma[2]": 1.05, "theta": 0.6}
if len(sys.argv) > 1:
    points, reference = read(Path(sys.argv[1]))
else:
    side = torch.rand(1000, dtype=torch.float64) < truth["theta"]
    centre = torch.where(side, truth["mu[1]"], truth["mu[2]"])
    width = torch.where(side, truth["sigma[1]"], truth["sigma[2]"])
    points, reference = centre + width * torch.randn(1000, dtype=torch.float64), {}

# In unconstrained space the five numbers have spreads from 0.012 to 0.065: no mass to be found.
hmc = pe.HMC(
    ("first", "gap", "sigma", "theta"),
    step_size=0.012,
    trajectory_length=0.15,
    mass=pe.UnitMass(),
)
# Wide components around the two halves of the points; from random starts, with a thousand points,
# the first steps would have to be a thousand times smaller.
halves = {"first": points.quantile(0.25), "gap": points.quantile(0.75) - points.quantile(0.25)}
wide = {**halves, "sigma": 2 * points.new_ones(2), "theta": points.new_tensor(0.5)}
blocks = pe.Cycle((pe.Gibbs(("label",)), hmc))
kernel = pe.EnergyKernel(blocks, mixture, init_strategy=init_to_value(values=wide))
begin = time.perf_counter()
mcmc = pe.infer.MCMC(kernel, num_samples=250, warmup_steps=80, num_chains=32, seed=1)
mcmc.run(points)
seconds = time.perf_counter() - begin

samples = mcmc.get_samples(group_by_chain=True)
mu = torch.stack([samples["first"], samples["first"] + samples["gap"]], -1)
found = {"mu[1]": mu[..., 0], "mu[2]": mu[..., 1]}
found |= {f"sigma[{k + 1}]": samples["sigma"][..., k] for k in range(2)}
found["theta"] = samples["theta"]
table = az.summary({n: v.numpy() for n, v in found.items()}, kind="all", round_to="none")

if reference:
    yardstick = az.summary({n: v.numpy() for n, v in reference.items()}, round_to="none")

print(f"32 chains, 250 draws each of 1,000 labels and 5 numbers: {seconds:.1f} s")
print(
    f"{'':10s}{'mean':>10s}{'sd':>9s}{'R-hat':>9s}{'reference':>12s}{'sd':>9s}{'difference':>13s}"
)
for name, value in found.items():
    mean, spread, rhat = float(value.mean()), float(value.std()), table["r_hat"][name]
    line = f"{name:10s}{mean:10.4f}{spread:9.4f}{rhat:9.4f}"
    if reference:
        other = reference[name]
        error = (table["mcse_mean"][name] ** 2 + yardstick["mcse_mean"][name] ** 2) ** 0.5
        apart = (mean - float(other.mean())) / error
        line += f"{float(other.mean()):12.4f}{float(other.std()):9.4f}{apart:10.1f} se"
    else:
        line += f"{truth[name]:12.4f}{'':9s}{(mean - truth[name]) / spread:10.1f} sd"
    print(line)
