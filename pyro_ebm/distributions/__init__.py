"""Energies as Pyro distributions, and the distributions of single units that Pyro lacks.

Example:
    >>> import pyro, torch
    >>> from pyro_ebm import distributions
    >>> pyro.sample("spins", distributions.Ising([(0, 1), (1, 2)], torch.tensor(0.5))).shape
    torch.Size([3])
"""

from pyro_ebm.units import SpinDistribution, TruncatedNormal

from .energy_distribution import EnergyDistribution
from .intractable import (
    Context as Context,
    IntractableNormalizerError,
    cut_off as cut_off,
    dependences as dependences,
    dependences_at as dependences_at,
    factor_without_constant as factor_without_constant,
    site_name as site_name,
    watched_context as watched_context,
)
from .reading import read_once
from .sampling import Sampler
from .tensors import Boltzmann, Ising, Potts, RestrictedBoltzmann

__all__ = [
    "Boltzmann",
    "EnergyDistribution",
    "IntractableNormalizerError",
    "Ising",
    "Potts",
    "RestrictedBoltzmann",
    "Sampler",
    "SpinDistribution",
    "TruncatedNormal",
    "read_once",
]
