"""Other libraries' samplers of a continuous energy, as far as they are installed.

Each gives the draws (chain, draw, d) and the seconds from its call to the last draw, warm-up
included. What is compiled has been compiled before: the seconds of that come third.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 announces its 1.x series
    import arviz as az


Array = Any  # of torch or jax
State = Any  # of blackjax


class Target(NamedTuple):
    """An energy that any array library can compute.

    Args:
        size: The number of coordinates.
        energy: Makes E(x) of the library (torch or jax.numpy) and its way to read torch's tensors.
    """

    size: int
    energy: Callable[[ModuleType, Callable[[Tensor], Array]], Callable[[Array], Array]]

    def in_torch(self) -> Callable[[Tensor], Tensor]:
        return self.energy(torch, lambda tensor: tensor)


class Timed(NamedTuple):
    """Draws (chain, draw, d), the seconds they took, and those of compiling before."""

    draws: np.ndarray
    seconds: float
    compiling: float = 0.0


def worst(draws: np.ndarray) -> float:  # (chain, draw, d)
    """The least effective sample size of x and x²."""
    both = az.convert_to_dataset({"x": draws, "squares": draws**2})
    return float(az.ess(both, method="mean").to_array().min())


class Length(NamedTuple):
    """The chains of a run and the steps of each."""

    chains: int
    warmup: int
    draws: int


def peers() -> dict[str, Callable[[Target], Timed]]:
    """A function for each peer that is installed; what is not is said."""
    known: dict[str, tuple[str, Callable[[Target, Length], Timed], Length]] = {
        "Pyro NUTS, 1 chain": ("pyro", by_pyro, Length(1, 300, 300)),
        "NumPyro NUTS, 1 chain": ("numpyro", by_numpyro, Length(1, 300, 2000)),
        "NumPyro NUTS, 100 vectorised": ("numpyro", by_numpyro, Length(100, 200, 500)),
        "blackjax NUTS, 1 chain": ("blackjax", by_blackjax, Length(1, 300, 2000)),
        "blackjax NUTS, 100 by vmap": ("blackjax", by_blackjax, Length(100, 200, 500)),
        "blackjax ChEES-HMC, 100": ("blackjax", by_blackjax_chees, Length(100, 200, 500)),
        "torchebm HMC, 100, tuned before": ("torchebm", by_torchebm, Length(100, 100, 500)),
    }
    missing = sorted(
        {module for module, *_ in known.values() if importlib.util.find_spec(module) is None}
    )
    if missing:
        print(f"Not installed, and left out: {', '.join(missing)}.")
    return {
        name: lambda target, sample=sample, length=length: sample(target, length)
        for name, (module, sample, length) in known.items()
        if module not in missing
    }


def by_pyro(target: Target, length: Length) -> Timed:
    energy = target.in_torch()
    pyro.set_rng_seed(0)
    mcmc = MCMC(
        NUTS(potential_fn=lambda z: energy(z["x"])),
        num_samples=length.draws,
        warmup_steps=length.warmup,
        initial_params={"x": torch.randn(target.size)},
        disable_progbar=True,
    )
    begin = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - begin
    return Timed(mcmc.get_samples(group_by_chain=True)["x"].numpy(), seconds)


def in_jax(target: Target) -> Callable[[Array], Array]:
    import jax.numpy as jnp

    return target.energy(jnp, lambda tensor: jnp.asarray(tensor.numpy()))


def compiled(sample: Callable[[int], np.ndarray]) -> Timed:
    """Draws of a function of the seed, which compiles when it is called first."""
    begin = time.perf_counter()
    sample(0)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    draws = sample(1)
    seconds = time.perf_counter() - begin
    return Timed(draws, seconds, max(first - seconds, 0.0))


def by_numpyro(target: Target, length: Length) -> Timed:
    import jax
    from numpyro.infer import MCMC as NumPyroMCMC, NUTS as NumPyroNUTS

    mcmc = NumPyroMCMC(
        NumPyroNUTS(potential_fn=in_jax(target)),
        num_warmup=length.warmup,
        num_samples=length.draws,
        num_chains=length.chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    shape = (target.size,) if length.chains == 1 else (length.chains, target.size)

    def sample(seed: int) -> np.ndarray:
        key, own = jax.random.split(jax.random.PRNGKey(seed))
        mcmc.run(key, init_params=jax.random.normal(own, shape))
        return np.asarray(mcmc.get_samples(group_by_chain=True))

    return compiled(sample)


def by_blackjax(target: Target, length: Length) -> Timed:
    import blackjax
    import jax
    from blackjax.adaptation.base import get_filter_adapt_info_fn

    energy = in_jax(target)

    def log_density(x: Array) -> Array:
        return -energy(x)

    def chain(key: Array) -> Array:
        first, second, third = jax.random.split(key, 3)
        adaptation = blackjax.window_adaptation(
            blackjax.nuts,
            log_density,
            adaptation_info_fn=get_filter_adapt_info_fn(),
        )
        begin = jax.random.normal(first, (target.size,))
        (state, settings), _ = adaptation.run(second, begin, num_steps=length.warmup)
        nuts = blackjax.nuts(log_density, **settings)

        def step(state: State, key: Array) -> tuple[State, Array]:
            state, _ = nuts.step(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(third, length.draws))[1]

    chains = jax.jit(jax.vmap(chain))

    def sample(seed: int) -> np.ndarray:
        keys = jax.random.split(jax.random.PRNGKey(seed), length.chains)
        return np.asarray(jax.block_until_ready(chains(keys)))

    return compiled(sample)


def by_blackjax_chees(target: Target, length: Length) -> Timed:
    import blackjax
    import jax
    import optax

    energy = in_jax(target)

    def log_density(x: Array) -> Array:
        return -energy(x)

    def all_chains(key: Array) -> Array:
        first, second, third = jax.random.split(key, 3)
        begin = jax.random.normal(first, (length.chains, target.size))
        adaptation = blackjax.chees_adaptation(log_density, length.chains)
        (states, settings), _ = adaptation.run(second, begin, 0.1, optax.adam(0.05), length.warmup)
        hmc = blackjax.dynamic_hmc(log_density, **settings)

        def step(states: State, key: Array) -> tuple[State, Array]:
            states, _ = jax.vmap(hmc.step)(jax.random.split(key, length.chains), states)
            return states, states.position

        draws = jax.lax.scan(step, states, jax.random.split(third, length.draws))[1]
        return draws.swapaxes(0, 1)

    chains = jax.jit(all_chains)
    return compiled(
        lambda seed: np.asarray(jax.block_until_ready(chains(jax.random.PRNGKey(seed))))
    )


def by_torchebm(target: Target, length: Length) -> Timed:
    """It has no warm-up: steps, and how many, are searched for before the clock starts."""
    from torchebm.core import BaseModel
    from torchebm.samplers import HamiltonianMonteCarlo

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.energy = target.in_torch()

        def forward(self, x: Tensor) -> Tensor:
            return self.energy(x)

    def accepting(leapfrogs: int, size: float = 1.0) -> HamiltonianMonteCarlo:
        """A sampler that accepts four of five trajectories."""
        while True:
            hmc = HamiltonianMonteCarlo(model, step_size=size, n_leapfrog_steps=leapfrogs)
            _, found = hmc.sample(begin, n_steps=100, return_diagnostics=True)
            if float(found["acceptance_rate"][50:].mean()) > 0.8:
                return hmc
            size /= 1.2

    def run(hmc: HamiltonianMonteCarlo, draws: int) -> Timed:
        start = time.perf_counter()
        found = hmc.sample(begin, n_steps=length.warmup + draws, return_trajectory=True)
        return Timed(found[:, length.warmup :].numpy(), time.perf_counter() - start)

    def rate(hmc: HamiltonianMonteCarlo) -> float:
        found = run(hmc, 200)
        return worst(found.draws) / found.seconds

    torch.manual_seed(0)
    begin, model = torch.randn(length.chains, target.size), Model()
    best = max((accepting(leapfrogs) for leapfrogs in (2, 4, 8, 16, 32)), key=rate)
    return run(best, length.draws)
