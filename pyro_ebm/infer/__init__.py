"""Energies inside Pyro: factors, guides, and Markov chains of its models."""

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
