"""Pyro models as energies: what many chains at once cost, one thread.

Prints gradients of a mixture's log joint (N = 200 points with explicit labels) a second, with 100
chains and with one; and the time of one chain's step of HMC-within-Gibbs with 100 chains at once,
beside that of a single chain of the same blocks (Gibbs and Pyro's HMC) under Pyro's own MCMC, and
of NumPyro's, where it is installed. All steps are of three leapfrogs.
"""

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import HMC as PyroHMC
from torch import Tensor

from pyro_ebm import HMC, Cycle, Gibbs, ModelEnergy, WithinGibbs

POINTS, CHAINS, REPEATS = 200, 100, 15
REALS = ("mean", "scale", "weight")


def mixture(points: Tensor) -> None:
    weight = pyro.sample("weight", dist.Beta(5.0, 5.0))
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(2) * 2).to_event(1))
    with pyro.plate("points", len(points)):
        label = pyro.sample("label", dist.Bernoulli(weight)).long()
        pyro.sample("seen", dist.Normal(mean[label], scale[label]), obs=points)


def seconds(function: Callable[[], object], inner: int = 1) -> float:
    """The median time of one call."""
    function()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(inner):
            function()
        times.append((time.perf_counter() - begin) / inner)
    return statistics.median(times)


torch.set_num_threads(1)
torch.manual_seed(0)
signs = torch.randn(POINTS).sign()
points = 2.5 * signs + torch.randn(POINTS)
energy = ModelEnergy(mixture, points)

many, one = energy.initial(CHAINS), energy.initial(1)
at_once = seconds(lambda: energy.energy_and_gradient(many, REALS))
alone = seconds(lambda: energy.energy_and_gradient(one, REALS), inner=5)
print(f"{'gradients of the log joint a second':52s}{'':>10s}")
print(f"{'  one chain':52s}{1 / alone:10.0f}")
print(
    f"{f'  {CHAINS} chains at once':52s}{CHAINS / at_once:10.0f}{alone * CHAINS / at_once:8.1f} ×"
)

kernel = Cycle((Gibbs(("label",)), HMC(REALS, step_size=0.05, trajectory_length=0.15, jitter=0.0)))


def stepper(start: dict[str, Tensor]) -> Callable[[], None]:
    """One step of the composite after another."""
    state = [kernel.init(energy, start)]

    def step() -> None:
        state[0], _ = kernel.step(energy, state[0])

    return step


def composite_in_pyro() -> Callable[[], None]:
    """One sweep after another of Gibbs and Pyro's HMC, as Pyro's MCMC calls it."""
    hmc = functools.partial(PyroHMC, step_size=0.05, num_steps=3, adapt_step_size=False)
    composite = WithinGibbs(mixture, [(Gibbs(), ["label"]), (hmc, REALS)])
    composite.setup(0, points)
    params = [composite.initial_params]

    def step() -> None:
        params[0] = composite.sample(params[0])

    with pyro.validation_enabled(False):
        step()
    return step


vectorised = seconds(stepper(many)) / CHAINS
ours = seconds(stepper(one), inner=3)
pyros = seconds(composite_in_pyro(), inner=3)
print(f"{'HMC within Gibbs, milliseconds a chain-draw':52s}")
print(f"{f'  {CHAINS} chains at once':52s}{1e3 * vectorised:10.3f}")
print(f"{'  one chain, our HMC':52s}{1e3 * ours:10.3f}{ours / vectorised:8.1f} ×")
label = "  one chain, Pyro's HMC in WithinGibbs"
print(f"{label:52s}{1e3 * pyros:10.3f}{pyros / vectorised:8.1f} ×")
if importlib.util.find_spec("numpyro") is None:
    print("  NumPyro is not installed here.")
else:
    import jax
    import numpyro
    import numpyro.distributions as ndist
    from numpyro.infer import HMC as NumPyroHMC, MCMC, DiscreteHMCGibbs

    def numpyro_mixture(points: jax.Array) -> None:
        weight = numpyro.sample("weight", ndist.Beta(5.0, 5.0))
        mean = numpyro.sample("mean", ndist.Normal(jax.numpy.zeros(2), 2.0).to_event(1))
        scale = numpyro.sample("scale", ndist.HalfNormal(2 * jax.numpy.ones(2)).to_event(1))
        with numpyro.plate("points", len(points)):
            label = numpyro.sample("label", ndist.Bernoulli(weight))
            numpyro.sample("seen", ndist.Normal(mean[label], scale[label]), obs=points)

    for chains, draws in ((CHAINS, 20), (1, 200)):
        own = NumPyroHMC(
            numpyro_mixture,
            step_size=0.05,
            num_steps=3,
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )
        mcmc = MCMC(
            DiscreteHMCGibbs(own),
            num_warmup=0,
            num_samples=draws,
            num_chains=chains,
            chain_method=jax.vmap,
            progress_bar=False,
        )
        data = jax.numpy.asarray(points.numpy())
        mcmc.run(jax.random.PRNGKey(0), data)  # compiles
        begin = time.perf_counter()
        mcmc.run(jax.random.PRNGKey(1), data)
        jax.block_until_ready(mcmc.get_samples())
        took = (time.perf_counter() - begin) / (chains * draws)
        label = f"  NumPyro DiscreteHMCGibbs, {chains} vectorised"
        print(f"{label:52s}{1e3 * took:10.3f}{took / vectorised:8.1f} ×")
