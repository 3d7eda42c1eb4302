"""Energies: functions of named tensors, low where the model is likely."""

from .base import BlockEnergy, Energy, GradientEnergy, energy_and_gradient
from .boltzmann import BoltzmannMachine
from .callable import CallableEnergy
from .couplings import Graph
from .factor_graph import FactorGraph, FactorGroup
from .layers import Layer
from .pairwise import (
    PairwiseEnergy,
    PairwiseTerms,
    mean_energy_difference,
    require_pairwise,
)
from .random_field import (
    ClampedField,
    Factors,
    PatternFactors,
    RandomField,
    TableFactors,
)

__all__ = [
    "BlockEnergy",
    "BoltzmannMachine",
    "CallableEnergy",
    "ClampedField",
    "Energy",
    "FactorGraph",
    "FactorGroup",
    "Factors",
    "GradientEnergy",
    "Graph",
    "Layer",
    "PairwiseEnergy",
    "PairwiseTerms",
    "PatternFactors",
    "RandomField",
    "TableFactors",
    "energy_and_gradient",
    "mean_energy_difference",
    "require_pairwise",
]
