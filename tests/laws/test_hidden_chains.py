"""Models of explicit states, against their likelihood with the states summed out.

Means of chains are compared with the right ones within four standard errors of each chain set; the
false alarm of one comparison is 6e-5, and the smallest bias that is found is four of these errors
(0.02 or less in each case). A mutant that forgets the next state must be found.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_ebm import HMC, Cycle, Gibbs, infer, sample
from pyro_ebm.energies import ModelEnergy
from pyro_ebm.energies.pyro_models.dependence import Prober, Reach
from pyro_ebm.kernels.watch import Watch
from pyro_ebm.statistics import effective_sample_size
from tests.support.models import vector

SWITCH = vector([[0.85, 0.15], [0.25, 0.75]])  # type: ignore[list-item]
LEVELS = vector([-0.5, 1.5])


def weather(data: Tensor) -> None:
    """A hidden chain, one site a step."""
    state = torch.tensor(0)
    for t, y in enumerate(data):
        state = pyro.sample(f"z{t}", dist.Categorical(SWITCH[state]))
        pyro.sample(f"y{t}", dist.Normal(LEVELS[state], 1.0), obs=y)


def smoothed(data: Tensor) -> np.ndarray:
    """P(z_t = 1 | data), forwards and backwards."""
    switch, seen = SWITCH.numpy(), np.exp(-0.5 * (data.numpy()[:, None] - LEVELS.numpy()) ** 2)
    forward, backward = [np.array([1.0, 0.0]) @ switch * seen[0]], [np.ones(2)]
    for row in seen[1:]:
        forward.append(forward[-1] @ switch * row)
    for row in seen[:0:-1]:
        backward.append(switch @ (row * backward[-1]))
    both = np.array(forward) * np.array(backward[::-1])
    return both[:, 1] / both.sum(1)


def capture(seen: Tensor) -> None:
    """Animals that are alive, or dead for good; all are alive and seen in the beginning."""
    survival = pyro.sample("survival", dist.Beta(2.0, 2.0))
    found = pyro.sample("found", dist.Beta(2.0, 2.0))
    with pyro.plate("animals", len(seen)):
        alive = torch.ones(len(seen)).double()
        for t in range(seen.shape[1]):
            alive = pyro.sample(f"alive{t}", dist.Bernoulli(survival * alive))
            pyro.sample(f"seen{t}", dist.Bernoulli(found * alive), obs=seen[:, t])


def capture_means(seen: Tensor, points: int = 200) -> tuple[float, float]:
    """Means of the two rates, the flags summed out, on a grid."""
    grid = (np.arange(points) + 0.5) / points
    survival, found = np.meshgrid(grid, grid, indexing="ij")
    total = np.log(survival * (1 - survival) * found * (1 - found))
    for row in seen.numpy():
        alive, dead = np.ones_like(total), np.zeros_like(total)
        for y in row:
            alive, dead = alive * survival, dead + alive * (1 - survival)
            alive, dead = alive * (found if y else 1 - found), dead * (1 - y)
        total += np.log(alive + dead)
    weights = np.exp(total - total.max())
    weights /= weights.sum()
    return float((weights * survival).sum()), float((weights * found).sum())


def animals(count: int = 60, steps: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    draw = torch.rand(2, count, steps, generator=generator)
    alive = (draw[0] < 0.75).cumprod(1)
    return (alive * (draw[1] < 0.6)).double()


def z_score(draws: Tensor, right: float) -> float:
    """How many standard errors a mean is from the right one; draws (chain, draw)."""
    draws = draws.double()
    error = float(draws.std()) / math.sqrt(float(effective_sample_size(draws)))
    return abs(float(draws.mean()) - right) / error


def weather_scores(draws: int, seed: int) -> list[float]:
    data = torch.randn(20, generator=torch.Generator().manual_seed(5)).double() + 0.4
    mcmc = infer.MCMC(infer.EnergyKernel(Gibbs(), weather), draws, 50, num_chains=8, seed=seed)
    mcmc.run(data)
    right = smoothed(data)
    found = mcmc.get_samples(group_by_chain=True)
    return [z_score(found[f"z{t}"], float(p)) for t, p in enumerate(right)]


def without_next(prober: Prober, site: str, *rest: object) -> Reach:
    """A state is drawn without a look at the next one."""
    found = right_reach(prober, site, *rest)  # type: ignore[arg-type]
    later = {name for name in found.terms if name.startswith("z") and name != site}
    return found._replace(terms=found.terms - later)


right_reach = Prober.reach


def test_a_state_that_forgets_the_next_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prober, "reach", without_next)
    monkeypatch.setattr(Watch, "look", lambda *_: None)
    assert max(weather_scores(100, seed=0)) > 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_hidden_chain_of_sites(seed: int) -> None:
    assert max(weather_scores(1000, seed)) < 4


@pytest.mark.slow
def test_flags_of_the_living_by_gibbs_and_hmc() -> None:
    seen = animals()
    kernel = Cycle((Gibbs(tuple(f"alive{t}" for t in range(6))), HMC(("survival", "found"))))
    mcmc = infer.MCMC(infer.EnergyKernel(kernel, capture), 1500, 300, num_chains=4, seed=1)
    mcmc.run(seen)
    found = mcmc.get_samples(group_by_chain=True)
    for site, right in zip(("survival", "found"), capture_means(seen), strict=True):
        assert z_score(found[site], right) < 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_ebm.NotMixedWarning")
def test_flags_of_the_living_by_sample_alone() -> None:
    seen = animals()
    energy = ModelEnergy(capture, seen)
    chains = sample(energy, 1500, chains=4, warmup=300, seed=2)
    found = energy.constrain({n: v.to(energy.dtype) for n, v in chains.draws.items()})
    for site, right in zip(("survival", "found"), capture_means(seen), strict=True):
        assert z_score(found[site], right) < 4
