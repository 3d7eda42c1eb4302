"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import Kernel, advance
from .chains import Chains, NonFiniteEnergyError, Schedule
from .gibbs import Gibbs
from .run import resume, run

__all__ = [
    "Chains",
    "Gibbs",
    "Kernel",
    "NonFiniteEnergyError",
    "Schedule",
    "advance",
    "resume",
    "run",
]
