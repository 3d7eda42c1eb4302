"""A smoothness that no direction of time explains: an energy as a factor of a model, in SVI.

Eight levels are measured with noise, and neighbours are thought to be alike. Nothing says which one
causes which, so the likeness is an undirected potential, exp(−E), in the joint density, and
`energy_factor` puts it there. Everything is Gaussian, so the posterior is known: the means and
standard deviations that SVI finds are compared with a solution by linear algebra.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal

from pyro_ebm import CallableEnergy, energy_factor

torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(0)
measured = torch.tensor([0.1, 0.4, -0.2, 0.5, 2.3, 1.8, 2.6, 1.9])
n, noise, step = len(measured), 0.5, 0.4


def roughness(levels: torch.Tensor) -> torch.Tensor:  # (rows, n) -> (rows,)
    return levels.diff(dim=-1).square().sum(-1) / (2 * step**2)


smoothness = CallableEnergy(roughness, n)


def model() -> None:
    levels = pyro.sample("levels", dist.Normal(torch.zeros(n), 10.0).to_event(1))
    energy_factor("smoothness", smoothness, visible=levels)
    pyro.sample("measured", dist.Normal(levels, noise).to_event(1), obs=measured)


guide = AutoMultivariateNormal(model, init_scale=0.3)
steps = 800
optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)})
svi = SVI(
    model,
    guide,
    optimizer,
    Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=0),
)
for _ in range(steps):
    svi.step()
posterior = guide.get_posterior()

difference = torch.eye(n).diff(dim=0)
precision = difference.mT @ difference / step**2 + torch.eye(n) * (1 / noise**2 + 1 / 10.0**2)
covariance = precision.inverse()
mean, deviation = covariance @ (measured / noise**2), covariance.diagonal().sqrt()
found = posterior.mean.detach(), posterior.variance.sqrt().detach()

print("level  measured   SVI             exact")
for k in range(n):
    print(
        f"{k:5}  {measured[k]:8.2f}   {found[0][k]:5.3f} ± {found[1][k]:.3f}"
        f"   {mean[k]:5.3f} ± {deviation[k]:.3f}"
    )
largest = max(float((a - b).abs().max()) for a, b in zip(found, (mean, deviation), strict=True))
print(f"Largest difference: {largest:.4f} (wanted: below 0.03)")
assert largest < 0.03
