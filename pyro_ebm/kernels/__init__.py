"""Transitions that leave exp(-E) unchanged, and running them."""

from .annealing import Annealed, TemperedTransitions, anneal, descend
from .base import Kernel, TunableKernel, Tuning, advance
from .chains import Chains, NonFiniteEnergyError, Schedule
from .choice import choose_kernel
from .cluster import SwendsenWang, Wolff
from .cycle import Cycle, Mixture
from .gibbs import Gibbs
from .gradient_gibbs import DiscreteLangevin, GibbsWithGradients
from .hmc import HMC
from .langevin import MALA, Langevin
from .mass import DenseMass, DiagonalMass, Mass, UnitMass
from .random_blocks import RandomBlocks
from .random_walk import MetropolisHastings, RandomWalk
from .run import resume, run
from .tempering import ParallelTempering, TemperingReport
from .warmup import warmup

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
    "RandomBlocks",
    "RandomWalk",
    "Schedule",
    "SwendsenWang",
    "TemperedTransitions",
    "TemperingReport",
    "TunableKernel",
    "Tuning",
    "UnitMass",
    "Wolff",
    "advance",
    "anneal",
    "choose_kernel",
    "descend",
    "resume",
    "run",
    "warmup",
]
