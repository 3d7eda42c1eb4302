"""Gibbs sweeps over the discrete sites of Pyro models, four chains, one thread.

Prints milliseconds of processor time of a sweep, and seconds to build the energy: a hidden chain
with one site for each step, with known laws and with latent means; and 600 alive-or-dead flags of a
capture-recapture model: as sites in a plate of 100 animals, as one vector that is absorbed in time,
and each as a site of its own.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_ebm import Gibbs, ModelEnergy

CHAINS, REPEATS = 4, 5
SWITCH = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
LEVELS = torch.tensor([-1.0, 0.0, 2.0])


def hidden_chain(data: Tensor) -> None:
    state: Any = 0
    for t, y in enumerate(data):
        state = pyro.sample(f"z{t}", dist.Categorical(SWITCH[state]))
        pyro.sample(f"y{t}", dist.Normal(LEVELS[state], 1.0), obs=y)


def latent_means(data: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(LEVELS, 1.0).to_event(1))
    state: Any = 0
    for t, y in enumerate(data):
        state = pyro.sample(f"z{t}", dist.Categorical(SWITCH[state]))
        pyro.sample(f"y{t}", dist.Normal(mean[state], 1.0), obs=y)


def flags_in_a_plate(seen: Tensor) -> None:
    survival = pyro.sample("survival", dist.Beta(2.0, 2.0))
    found = pyro.sample("found", dist.Beta(2.0, 2.0))
    with pyro.plate("animals", len(seen)):
        alive = torch.ones(len(seen))
        for t in range(seen.shape[1]):
            alive = pyro.sample(f"alive{t}", dist.Bernoulli(survival * alive))
            pyro.sample(f"seen{t}", dist.Bernoulli(found * alive), obs=seen[:, t])


def flags_as_a_vector(seen: Tensor) -> None:
    survival = pyro.sample("survival", dist.Beta(2.0, 2.0))
    found = pyro.sample("found", dist.Beta(2.0, 2.0))
    steps = pyro.plate("steps", seen.shape[1], dim=-1)
    with pyro.plate("animals", len(seen), dim=-2), steps:
        lives = pyro.sample("lives", dist.Bernoulli(survival))
        alive = lives.cumprod(-1)
        pyro.sample("seen", dist.Bernoulli(found * alive), obs=seen)


def flags_as_sites(seen: Tensor) -> None:
    survival = pyro.sample("survival", dist.Beta(2.0, 2.0))
    found = pyro.sample("found", dist.Beta(2.0, 2.0))
    for k, own in enumerate(seen):
        alive = torch.ones(())
        for t, y in enumerate(own):
            alive = pyro.sample(f"alive{k}_{t}", dist.Bernoulli(survival * alive))
            pyro.sample(f"seen{k}_{t}", dist.Bernoulli(found * alive), obs=y)


def measured(model: Callable[..., None], data: Tensor) -> tuple[float, float]:
    """Seconds to build the energy, and of a sweep."""
    begin = time.process_time()
    energy = ModelEnergy(model, data)
    build = time.process_time() - begin
    kernel = Gibbs(energy.discrete)
    state = kernel.init(energy, energy.initial(CHAINS))
    state, _ = kernel.step(energy, state)
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        state, _ = kernel.step(energy, state)
        times.append(time.process_time() - begin)
    return build, statistics.median(times)


warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.manual_seed(0)
rows: list[tuple[str, Callable[..., None], Tensor]] = [
    (f"hidden chain of {n}", hidden_chain, torch.randn(n)) for n in (10, 20, 40, 80)
]
rows += [(f"with latent means, {n}", latent_means, torch.randn(n)) for n in (10, 20, 40, 80)]
seen = (torch.rand(100, 6) < 0.5).float()
rows += [
    ("600 flags in a plate", flags_in_a_plate, seen),
    ("600 flags as a vector", flags_as_a_vector, seen),
    ("600 flags as sites", flags_as_sites, seen),
]
print(f"{'':28s}{'build, s':>10s}{'sweep, ms':>12s}")
for name, model, data in rows:
    build, sweep = measured(model, data)
    print(f"{name:28s}{build:10.2f}{1e3 * sweep:12.1f}", flush=True)
