"""Energies: functions of named tensors, low where the model is likely."""

from .base import BlockEnergy, Energy
from .boltzmann import BoltzmannMachine
from .couplings import Graph
from .layers import Layer
from .pairwise import (
    PairwiseEnergy,
    PairwiseTerms,
    mean_energy_difference,
    require_pairwise,
)

__all__ = [
    "BlockEnergy",
    "BoltzmannMachine",
    "Energy",
    "Graph",
    "Layer",
    "PairwiseEnergy",
    "PairwiseTerms",
    "mean_energy_difference",
    "require_pairwise",
]
