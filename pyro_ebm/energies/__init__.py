"""Energies: functions of named tensors, low where the model is likely."""

from .algebra import clamp, combined, interpolate
from .base import BlockEnergy, Energy, GradientEnergy, energy_and_gradient
from .boltzmann import BoltzmannMachine
from .callable import CallableEnergy
from .couplings import Graph
from .distribution import DistributionEnergy
from .layers import Layer
from .neural import SpectralConvolution, SpectralLinear, convolutional_energy, mlp_energy
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
    "DistributionEnergy",
    "Energy",
    "GradientEnergy",
    "Graph",
    "Layer",
    "PairwiseEnergy",
    "PairwiseTerms",
    "SpectralConvolution",
    "SpectralLinear",
    "clamp",
    "combined",
    "convolutional_energy",
    "energy_and_gradient",
    "interpolate",
    "mean_energy_difference",
    "mlp_energy",
    "require_pairwise",
]
