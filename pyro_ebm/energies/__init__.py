"""Energies: functions of named tensors, low where the model is likely."""

from .base import Constant, Energy, Given, Sum, combined, interpolate
from .composition.blend import Blend, blend
from .composition.clamped import Clamped, clamp
from .fields.factor_graph import FactorGraph, FactorGroup
from .fields.factors import Factors, PatternFactors, TableFactors
from .fields.random_field import RandomField
from .fields.structure import FieldStructure, factors_of
from .functions.callable import CallableEnergy
from .functions.distribution import DistributionEnergy
from .functions.networks import convolutional_energy, mlp_energy
from .functions.spectral import SpectralConvolution, SpectralLinear
from .pairwise.boltzmann import BoltzmannMachine
from .pairwise.couplings import Graph
from .pairwise.edges import CouplingWarning
from .pairwise.layers import Layer
from .pairwise.links import Change, GraphLink, Link
from .pairwise.mean_energy import mean_energy_difference
from .pairwise.structure import PairwiseStructure, pairwise_terms, require_pairwise
from .pairwise.terms import PairwiseTerms, draw_features
from .pyro_models.model import ModelEnergy, UnbatchedModelWarning
from .structure import Claims, Differences, Structure, Swept, UnitLevels, sweep_blocks
from .without_terms import WithoutTerms

__all__ = [
    "Blend",
    "BoltzmannMachine",
    "CallableEnergy",
    "Change",
    "Claims",
    "Clamped",
    "Constant",
    "CouplingWarning",
    "Differences",
    "DistributionEnergy",
    "Energy",
    "FactorGraph",
    "FactorGroup",
    "Factors",
    "FieldStructure",
    "Given",
    "Graph",
    "GraphLink",
    "Layer",
    "Link",
    "ModelEnergy",
    "PairwiseStructure",
    "PairwiseTerms",
    "PatternFactors",
    "RandomField",
    "SpectralConvolution",
    "SpectralLinear",
    "Structure",
    "Sum",
    "Swept",
    "TableFactors",
    "UnbatchedModelWarning",
    "UnitLevels",
    "WithoutTerms",
    "blend",
    "clamp",
    "combined",
    "convolutional_energy",
    "draw_features",
    "factors_of",
    "interpolate",
    "mean_energy_difference",
    "mlp_energy",
    "pairwise_terms",
    "require_pairwise",
    "sweep_blocks",
]
