"""Kernels and their states in files: one row for each class."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Site
from pyro_ebm.storage import ROWS

from .chains import Schedule
from .composite.cycle import CompositionState, CompositionTuning, Cycle, Mixture
from .composite.reference import NormalReference
from .composite.tempered_transitions import TemperedTransitions, TemperedTransitionsState
from .composite.tempering import (
    Ladder,
    ParallelTempering,
    TemperingState,
    TemperingTuning,
    TemperingTuningState,
)
from .continuous.adaptation import Reach, Spread
from .continuous.coordinates import Height, Slope
from .continuous.dynamics import DynamicsState
from .continuous.hmc import HMC
from .continuous.langevin import MALA, Langevin
from .continuous.mass import DIAGONAL_MASS, UNIT_MASS, DenseMass, DiagonalMass, Mass, UnitMass
from .continuous.random_walk import RandomWalk
from .continuous.tuning import MoverTuning, MoverTuningState
from .continuous.walk import WalkState
from .discrete.alphabets import Labels, ListedLevels, OneHot, TwoValued
from .discrete.cluster import Bonds, ClusterState, SwendsenWang, Wolff
from .discrete.constraint_blocks import ConstraintBlocks, ConstraintBlocksState
from .discrete.gibbs import Gibbs, GibbsState
from .discrete.gradient_gibbs import (
    DiscreteLangevin,
    DiscreteLangevinTuning,
    DiscreteLangevinTuningState,
    GibbsWithGradients,
    GradientState,
    Landscape,
)
from .discrete.integer_walk import IntegerWalk
from .discrete.kept_fields import KeptFields, Proposals
from .discrete.random_blocks import RandomBlocks, RandomBlocksState
from .metropolis_hastings import MetropolisHastings, MetropolisHastingsState
from .step_size import StepSize

KERNELS = (
    *(Gibbs, GibbsWithGradients, DiscreteLangevin, RandomBlocks, ConstraintBlocks, IntegerWalk),
    *(SwendsenWang, Wolff, MetropolisHastings, RandomWalk, Langevin, MALA, HMC),
    *(Cycle, Mixture, ParallelTempering, TemperedTransitions),
)
TUNINGS = (CompositionTuning, TemperingTuning, MoverTuning, DiscreteLangevinTuning)
STATES = (
    *(GibbsState, GradientState, Landscape, KeptFields, Proposals, RandomBlocksState),
    *(ConstraintBlocksState, WalkState, ClusterState, Bonds, MetropolisHastingsState),
    *(DynamicsState, Height, Slope, CompositionState, TemperingState, Ladder),
    *(TemperedTransitionsState, MoverTuningState, DiscreteLangevinTuningState),
    *(TemperingTuningState, StepSize, Spread, Reach),
)
ALPHABETS = (TwoValued, OneHot, Labels, ListedLevels)
ROWS.add_all([Schedule, *KERNELS, *TUNINGS, *STATES, *ALPHABETS, DenseMass])


def make_diagonal(variance: Tensor | None) -> Mass:
    """The mass; the usual one, where there is nothing to tell it from that."""
    return DIAGONAL_MASS if variance is None else DiagonalMass(variance)


def make_reference(sites: Mapping[str, Site], mean: Tensor, root: Tensor) -> NormalReference:
    """A normal law of some sites."""
    return NormalReference(cast("Energy", SimpleNamespace(sites=sites)), mean, root)


ROWS.add(UnitMass, lambda mass: {}, lambda: UNIT_MASS)
ROWS.add(DiagonalMass, lambda mass: {"variance": mass.variance}, make_diagonal)
ROWS.add(
    NormalReference,
    lambda energy: {"sites": dict(energy.sites), "mean": energy.mean, "root": energy.root},
    make_reference,
)
