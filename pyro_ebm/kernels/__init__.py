"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import Kernel, TunableKernel, Tuning, advance
from .annealing import Annealed, TemperedTransitions, anneal, descend
from .base import Kernel, advance
from .chains import Chains, NonFiniteEnergyError, Schedule
from .cluster import SwendsenWang, Wolff
from .cycle import Cycle, Mixture
from .gibbs import Gibbs
from .gradient_gibbs import DiscreteLangevin, GibbsWithGradients
from .hmc import HMC
from .langevin import MALA, Langevin
from .mass import DenseMass, DiagonalMass, Mass, UnitMass
from .random_walk import MetropolisHastings, RandomWalk
from .run import resume, run
from .warmup import warmup
from .tempering import ParallelTempering, TemperingReport

__all__ = [
    "HMC",
    "MALA",
    "Annealed",
    "Chains",
    "Cycle",
    "DenseMass",
    "DiagonalMass",
    "DiscreteLangevin",
    "Gibbs",
    "GibbsWithGradients",
    "Kernel",
    "Langevin",
    "Mass",
    "MetropolisHastings",
    "Mixture",
    "NonFiniteEnergyError",
    "ParallelTempering",
    "RandomWalk",
    "Schedule",
    "TunableKernel",
    "Tuning",
    "SwendsenWang",
    "TemperedTransitions",
    "TemperingReport",
    "UnitMass",
    "Wolff",
    "advance",
    "anneal",
    "descend",
    "resume",
    "run",
    "warmup",
]
