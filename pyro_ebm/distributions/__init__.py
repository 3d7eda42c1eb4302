"""Energies as Pyro distributions."""

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
    "read_once",
]
