"""Energies inside Pyro: factors, guides, and Markov chains of its models.

Example:
    >>> import pyro, pyro.distributions as dist
    >>> from pyro_ebm import Gibbs, infer
    >>> def model():
    ...     pyro.sample("rain", dist.Bernoulli(0.3))
    >>> mcmc = infer.MCMC(infer.EnergyKernel(Gibbs(), model), num_samples=20, seed=0)
    >>> mcmc.run()
"""

from .energy_kernel import EnergyKernel
from .factor import energy_factor
from .mcmc import MCMC
from .mean_field_guide import AmortizedMeanFieldGuide, MeanFieldGuide
from .within_gibbs import WithinGibbs

__all__ = [
    "MCMC",
    "AmortizedMeanFieldGuide",
    "EnergyKernel",
    "MeanFieldGuide",
    "WithinGibbs",
    "energy_factor",
]
