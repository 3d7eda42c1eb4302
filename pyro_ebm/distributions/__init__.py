"""Energies as Pyro distributions, and the distributions of single units that Pyro lacks.

Example:
    >>> import pyro, torch
    >>> from pyro_ebm import distributions
    >>> pyro.sample("spins", distributions.Ising([(0, 1), (1, 2)], torch.tensor(0.5))).shape
    torch.Size([3])
"""

from pyro_ebm.units import SpinDistribution, TruncatedNormal

from .energy_distribution import EnergyDistribution
from .intractable import IntractableNormalizerError
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
