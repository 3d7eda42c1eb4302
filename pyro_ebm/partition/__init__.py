"""log Z, probabilities, moments and modes."""

from . import elimination, exact
from .belief_propagation import BeliefPropagation, belief_propagation
from .elimination import EliminationPlan, Marginals
from .enumeration import TooManyStatesError
from .result import LogPartition, exactly
from .summation import Moments

__all__ = ["LogPartition", "Moments", "TooManyStatesError", "exact", "exactly"]
from .mode import Mode, mode
from .summation import Moments
from .modes import mode
from .summation import Mode, Moments

__all__ = [
    "BeliefPropagation",
    "EliminationPlan",
    "Marginals",
    "Mode",
    "Moments",
    "TooManyStatesError",
    "belief_propagation",
    "elimination",
    "exact",
    "mode",
]
