"""Energies inside Pyro: factors, guides, and Markov chains of its models.

Example:
    >>> import pyro, pyro.distributions as dist
    >>> from pyro_ebm import infer
    >>> def model():
    ...     pyro.sample("rain", dist.Bernoulli(0.3))
    >>> mcmc = infer.MCMC(model, num_samples=200, num_chains=16, seed=0)
    >>> mcmc.run()
    >>> mcmc.plan
    Gibbs for rain: conditional laws are known
"""

from .energy_kernel import EnergyKernel
from .factor import energy_factor
from .mcmc import MCMC
from .mean_field_guide import AmortizedMeanFieldGuide, MeanFieldGuide
from .plan import Plan
from .within_gibbs import WithinGibbs

__all__ = [
    "MCMC",
    "AmortizedMeanFieldGuide",
    "EnergyKernel",
    "MeanFieldGuide",
    "Plan",
    "WithinGibbs",
    "energy_factor",
]
