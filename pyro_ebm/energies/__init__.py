"""Energies: functions of named tensors, low where the model is likely."""

from .base import BlockEnergy, Energy, GradientEnergy, energy_and_gradient
from .boltzmann import BoltzmannMachine
from .callable import CallableEnergy
from .couplings import Graph
from .layers import Layer
from .model import ModelEnergy, UnbatchedModelWarning
from .pairwise import (
    PairwiseEnergy,
    PairwiseTerms,
    mean_energy_difference,
    require_pairwise,
)

__all__ = [
    "BlockEnergy",
    "BoltzmannMachine",
    "CallableEnergy",
    "Energy",
    "GradientEnergy",
    "Graph",
    "Layer",
    "ModelEnergy",
    "PairwiseEnergy",
    "PairwiseTerms",
    "UnbatchedModelWarning",
    "energy_and_gradient",
    "mean_energy_difference",
    "require_pairwise",
]
