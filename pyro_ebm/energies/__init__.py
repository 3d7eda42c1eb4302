"""Energies: functions of named tensors, low where the model is likely."""

from .base import Constant, Energy, Given, Sum, combined, interpolate
from .composition.blend import Blend, blend
from .composition.clamped import Clamped, clamp
from .composition.path import Path as Path, at_reference as at_reference
from .fields.constraints import (
    BlockSet as BlockSet,
    Constraints as Constraints,
    forbidding as forbidding,
)
from .fields.factor_graph import FactorGraph, FactorGroup, cut as cut
from .fields.factors import Factors, PatternFactors, TableFactors
from .fields.labels import draw_labels as draw_labels
from .fields.random_field import RandomField
from .fields.structure import FieldStructure, factors_of
from .forbidden import Unit as Unit, can_change as can_change, changes as changes
from .functions.callable import CallableEnergy
from .functions.distribution import DistributionEnergy
from .functions.networks import convolutional_energy, mlp_energy
from .functions.spectral import SpectralConvolution, SpectralLinear
from .pairwise.boltzmann import BoltzmannMachine
from .pairwise.couplings import Graph
from .pairwise.edges import (
    CouplingWarning,
    Edges as Edges,
    NumberedGraph as NumberedGraph,
    numbered as numbered,
)
from .pairwise.layers import Layer
from .pairwise.links import Change, GraphLink, Link
from .pairwise.mean_energy import mean_energy_difference
from .pairwise.structure import PairwiseStructure, pairwise_terms, require_pairwise
from .pairwise.terms import PairwiseTerms, draw_features
from .pyro_models.first_pass import (
    InitStrategy as InitStrategy,
    element_support as element_support,
    random_pass as random_pass,
)
from .pyro_models.imputed import joined as joined
from .pyro_models.log_joint import (
    Model as Model,
    is_deterministic as is_deterministic,
    is_factor as is_factor,
    is_latent as is_latent,
)
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
