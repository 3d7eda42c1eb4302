"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import Kernel, advance
from .gibbs import Gibbs
from .run import Chains, NonFiniteEnergyError, Schedule, resume, run

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
