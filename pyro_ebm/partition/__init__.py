"""log Z, probabilities, moments and modes."""

from . import elimination, exact
from .belief_propagation import BeliefPropagation, belief_propagation
from .elimination import EliminationPlan, Marginals
from .enumeration import TooManyStatesError
from .modes import mode
from .result import LogPartition, exactly
from .summation import Mode, Moments

__all__ = [
    "BeliefPropagation",
    "EliminationPlan",
    "LogPartition",
    "Marginals",
    "Mode",
    "Moments",
    "TooManyStatesError",
    "belief_propagation",
    "elimination",
    "exact",
    "exactly",
    "mode",
]
