"""log Z, probabilities, moments and marginals."""

from . import elimination, exact
from .elimination.belief_propagation import BeliefPropagation, belief_propagation
from .elimination.elimination import EliminationPlan, Marginals
from .result import LogPartition
from .sums.enumeration import (
    TooManyStatesError,
    log_sum_exp as log_sum_exp,
    require_possible as require_possible,
)
from .sums.finite import because as because
from .sums.summation import Mode, Moments

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
]
