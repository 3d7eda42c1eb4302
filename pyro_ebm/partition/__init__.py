"""log Z, probabilities and moments."""

from . import elimination, exact
from .belief_propagation import BeliefPropagation, belief_propagation
from .elimination import EliminationPlan, Marginals, Mode
from .enumeration import TooManyStatesError
from .summation import Moments

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
]
