"""Energies: functions of named tensors, low where the model is likely."""

from .base import (
    BlockEnergy,
    CheckedEnergy,
    CompositeEnergy,
    Energy,
    GradientEnergy,
    SweepEnergy,
    energy_and_gradient,
    knows_conditional,
    sweep_blocks,
    sweep_site,
)
from .composition.blend import Blend, blend
from .composition.clamped import clamp
from .composition.sums import combined, interpolate
from .fields.energy import FieldEnergy
from .fields.factor_graph import FactorGraph, FactorGroup
from .fields.factors import Factors, PatternFactors, TableFactors
from .fields.random_field import RandomField
from .functions.callable import CallableEnergy
from .functions.distribution import DistributionEnergy
from .functions.networks import convolutional_energy, mlp_energy
from .functions.spectral import SpectralConvolution, SpectralLinear
from .pairwise.boltzmann import BoltzmannMachine
from .pairwise.couplings import Graph
from .pairwise.edges import CouplingWarning
from .pairwise.energy import PairwiseEnergy, require_pairwise
from .pairwise.layers import Layer
from .pairwise.links import Change, GraphLink, Link
from .pairwise.mean_energy import mean_energy_difference
from .pairwise.terms import PairwiseTerms, draw_features
from .parameters import parameter_batch, require_finite
from .pyro_models.model import ModelEnergy, UnbatchedModelWarning

__all__ = [
    "Blend",
    "BlockEnergy",
    "BoltzmannMachine",
    "CallableEnergy",
    "Change",
    "CheckedEnergy",
    "CompositeEnergy",
    "CouplingWarning",
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
    "parameter_batch",
    "require_finite",
    "require_pairwise",
    "sweep_blocks",
    "sweep_site",
]
