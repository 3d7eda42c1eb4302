"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import Kernel, TunableKernel, Tuning, advance
from .chains import Chains, NonFiniteEnergyError, Schedule
from .cycle import Cycle, Mixture
from .gibbs import Gibbs
from .hmc import HMC
from .langevin import MALA, Langevin
from .mass import DenseMass, DiagonalMass, Mass, UnitMass
from .random_walk import MetropolisHastings, RandomWalk
from .run import resume, run
from .warmup import warmup

__all__ = [
    "HMC",
    "MALA",
    "Chains",
    "Cycle",
    "DenseMass",
    "DiagonalMass",
    "Gibbs",
    "Kernel",
    "Langevin",
    "Mass",
    "MetropolisHastings",
    "Mixture",
    "NonFiniteEnergyError",
    "RandomWalk",
    "Schedule",
    "TunableKernel",
    "Tuning",
    "UnitMass",
    "advance",
    "resume",
    "run",
    "warmup",
]
