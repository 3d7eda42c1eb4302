"""Sums of random fields by elimination and by messages.

Example:
    >>> import torch
    >>> from pyro_ebm import RandomField, elimination
    >>> links = [(k, k + 1) for k in range(99)]
    >>> field = RandomField.potts(links, 3, couplings=torch.ones(1), biases=torch.zeros(1, 3))
    >>> elimination.plan(field).width, elimination.log_partition(field)
    (1, tensor(154.6916, dtype=torch.float64))
"""

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
