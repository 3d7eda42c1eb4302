"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import Kernel, advance
from .chains import Chains, NonFiniteEnergyError, Schedule
from .gibbs import Gibbs
from .gradient_gibbs import DiscreteLangevin, GibbsWithGradients
from .run import resume, run

__all__ = [
    "Chains",
    "DiscreteLangevin",
    "Gibbs",
    "GibbsWithGradients",
    "Kernel",
    "NonFiniteEnergyError",
    "Schedule",
    "advance",
    "resume",
    "run",
]
