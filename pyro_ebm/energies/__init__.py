"""Energies: functions of named tensors, low where the model is likely."""

from .base import (
    AbstractTyped as AbstractTyped,
    Energy,
    combined as combined,
    interpolate,
)
from .composition.clamped import Clamped as Clamped, clamp
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
from .fields.structure import (
    FieldStructure as FieldStructure,
    graph_of as graph_of,
)
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
from .pairwise.links import Change as Change, GraphLink as GraphLink, Link as Link
from .pairwise.mean_energy import mean_energy_difference as mean_energy_difference
from .pairwise.structure import (
    PairwiseStructure as PairwiseStructure,
    require_pairwise as require_pairwise,
    terms_of as terms_of,
)
from .pairwise.terms import PairwiseTerms as PairwiseTerms, draw_features as draw_features
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
from .stored import load, made_of as made_of, save
from .structure import (
    Structure,
    Swept as Swept,
    UnitLevels as UnitLevels,
)
from .without_terms import WithoutTerms

__all__ = [
    "BoltzmannMachine",
    "CallableEnergy",
    "CouplingWarning",
    "DistributionEnergy",
    "Energy",
    "FactorGraph",
    "FactorGroup",
    "Factors",
    "Graph",
    "Layer",
    "ModelEnergy",
    "PatternFactors",
    "RandomField",
    "SpectralConvolution",
    "SpectralLinear",
    "Structure",
    "TableFactors",
    "UnbatchedModelWarning",
    "WithoutTerms",
    "clamp",
    "convolutional_energy",
    "interpolate",
    "load",
    "mlp_energy",
    "save",
]
