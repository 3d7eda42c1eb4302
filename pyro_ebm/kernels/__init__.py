"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import Kernel, ReversibleKernel, TunableKernel, Tuning, advance
from .chains import Chains, NonFiniteEnergyError, Schedule
from .choice import Purpose, choose_kernel
from .composite.cycle import Cycle, Mixture
from .composite.tempered_transitions import TemperedTransitions
from .composite.tempering import ParallelTempering, TemperingReport
from .continuous.hmc import HMC
from .continuous.langevin import MALA, Langevin
from .continuous.mass import DenseMass, DiagonalMass, Mass, UnitMass
from .continuous.random_walk import RandomWalk
from .discrete.cluster import SwendsenWang, Wolff
from .discrete.constraint_blocks import ConstraintBlocks
from .discrete.gibbs import Gibbs
from .discrete.gradient_gibbs import DiscreteLangevin, GibbsWithGradients
from .discrete.integer_walk import IntegerWalk
from .discrete.random_blocks import RandomBlocks
from .metropolis_hastings import MetropolisHastings
from .pinned import ForbiddenStatesWarning
from .run import resume, run
from .warmup import warmup
from .watch import WrongDependenceError

__all__ = [
    "HMC",
    "MALA",
    "Chains",
    "ConstraintBlocks",
    "Cycle",
    "DenseMass",
    "DiagonalMass",
    "DiscreteLangevin",
    "ForbiddenStatesWarning",
    "Gibbs",
    "GibbsWithGradients",
    "IntegerWalk",
    "Kernel",
    "Langevin",
    "Mass",
    "MetropolisHastings",
    "Mixture",
    "NonFiniteEnergyError",
    "ParallelTempering",
    "Purpose",
    "RandomBlocks",
    "RandomWalk",
    "ReversibleKernel",
    "Schedule",
    "SwendsenWang",
    "TemperedTransitions",
    "TemperingReport",
    "TunableKernel",
    "Tuning",
    "UnitMass",
    "Wolff",
    "WrongDependenceError",
    "advance",
    "choose_kernel",
    "resume",
    "run",
    "warmup",
]
