"""A network as an energy: learned by maximum likelihood, sampled by Hamiltonian Monte Carlo.

In two dimensions the partition function of any energy is a sum over a grid, so that what is
learned and what is drawn can be checked: the log-likelihood stands beside that of a normal law,
and the moments of the draws beside those of the grid.
"""

import math

import numpy as np
import torch

import pyro_ebm as pe

torch.set_num_threads(1)
torch.manual_seed(0)
random = np.random.default_rng(0)


def two_moons(count: int) -> torch.Tensor:
    """Two half circles that reach into each other, blurred, with mean 0."""
    angle = random.uniform(0, math.pi, count)
    side = random.integers(0, 2, count) * 2 - 1  # which moon
    points = np.stack([side * (np.cos(angle) - 0.5), side * (np.sin(angle) - 0.25)], 1)
    return torch.tensor(points + 0.15 * random.normal(size=(count, 2))).float()


train, test = two_moons(2000), two_moons(2000)


def squares(points: int, half: float = 4.0) -> tuple[torch.Tensor, float]:
    """The points of a grid, and ln of the area that each stands for."""
    axis = torch.linspace(-half, half, points)
    return torch.cartesian_prod(axis, axis), 2 * math.log(2 * half / (points - 1))


def log_partition(energy: pe.Energy, points: int) -> torch.Tensor:
    """ln Z by the grid."""
    grid, log_area = squares(points)
    return (-energy(grid)).logsumexp(0) + log_area


energy = pe.mlp_energy(2, (48, 48), spread=1.0)
optimizer = torch.optim.Adam(energy.parameters(), lr=0.01)
steps = 300
slower = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.03, total_steps=steps)
for _ in range(steps):
    loss = energy(train).mean() + log_partition(energy, 80)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    slower.step()

with torch.no_grad():
    normal = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    log_z = log_partition(energy, 200)
    print("Mean log-likelihood of new points, in nats:")
    print(f"  a normal law  {normal.log_prob(test).mean():.3f}")
    print(f"  the network   {(-energy(test) - log_z).mean():.3f}")
    print(f"log Z = {log_z:.5f} on 200 x 200 points, {log_partition(energy, 80):.5f} on 80 x 80")

    grid, _ = squares(200)
    probability = (-energy(grid)).softmax(0)

chains = pe.run(pe.HMC(), energy, draws=300, warmup=200, chains=100, seed=1)
draws = chains.draws["visible"]

print("\nMoments, by the grid and by 100 chains of HMC (standard error from the chains' means):")
for name, moment in {
    "x1": lambda x: x[..., 0],
    "x1 squared": lambda x: x[..., 0].square(),
    "x2 squared": lambda x: x[..., 1].square(),
    "x1 x2": lambda x: x[..., 0] * x[..., 1],
    "energy": lambda x: energy(x).detach(),
}.items():
    exact = (probability * moment(grid)).sum()
    means = moment(draws).mean(1)
    error = means.std() / math.sqrt(len(means))
    print(f"  {name:12s}{exact:8.3f}  {means.mean():8.3f} ± {error:.3f}")
print(f"Mean acceptance: {chains.statistics['acceptance_rate'].mean():.2f}")
