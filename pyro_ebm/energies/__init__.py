"""Energies: functions of named tensors, low where the model is likely."""

from .algebra import Blend, blend, combined, interpolate
from .base import (
    BlockEnergy,
    Energy,
    GradientEnergy,
    SweepEnergy,
    energy_and_gradient,
    knows_conditional,
    sweep_blocks,
    sweep_site,
)
from .boltzmann import BoltzmannMachine
from .callable import CallableEnergy
from .clamped import clamp
from .couplings import Graph
from .distribution import DistributionEnergy
from .factor_graph import FactorGraph, FactorGroup
from .field_energy import FieldEnergy
from .layers import Layer
from .links import Change, GraphLink, Link
from .mean_energy import mean_energy_difference
from .model import ModelEnergy, UnbatchedModelWarning
from .neural import SpectralConvolution, SpectralLinear, convolutional_energy, mlp_energy
from .pairwise import PairwiseEnergy, require_pairwise
from .random_field import (
    Factors,
    PatternFactors,
    RandomField,
    TableFactors,
)
from .terms import PairwiseTerms, draw_features

__all__ = [
    "Blend",
    "BlockEnergy",
    "BoltzmannMachine",
    "CallableEnergy",
    "Change",
    "DistributionEnergy",
    "Energy",
    "FactorGraph",
    "FactorGroup",
    "Factors",
    "FieldEnergy",
    "GradientEnergy",
    "Graph",
    "GraphLink",
    "Layer",
    "Link",
    "ModelEnergy",
    "PairwiseEnergy",
    "PairwiseTerms",
    "PatternFactors",
    "RandomField",
    "SpectralConvolution",
    "SpectralLinear",
    "SweepEnergy",
    "TableFactors",
    "UnbatchedModelWarning",
    "blend",
    "clamp",
    "combined",
    "convolutional_energy",
    "draw_features",
    "energy_and_gradient",
    "interpolate",
    "knows_conditional",
    "mean_energy_difference",
    "mlp_energy",
    "require_pairwise",
    "sweep_blocks",
    "sweep_site",
]
