"""Sums of random fields by elimination and by messages."""

from .belief_propagation import (
    BeliefPropagation,
    belief_propagation,
)
from .elimination import (
    EliminationPlan,
    Marginals,
    log_partition,
    marginals,
    mode,
    node_marginals,
    plan,
    sample,
)

__all__ = [
    "BeliefPropagation",
    "EliminationPlan",
    "Marginals",
    "belief_propagation",
    "log_partition",
    "marginals",
    "mode",
    "node_marginals",
    "plan",
    "sample",
]
