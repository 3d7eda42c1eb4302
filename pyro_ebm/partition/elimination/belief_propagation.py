r"""Loopy belief propagation: marginals and log Z where exact elimination is too dear.

Messages go along the edges between nodes and factors, all at once, in the log domain:

.. math::
    m_{f \to i}(x_i) \propto \sum_{x_{f \setminus i}} \psi_f(x_f)
        \prod_{j \in f \setminus i} m_{j \to f}(x_j), \quad
    m_{i \to f}(x_i) = \prod_{g \ni i,\, g \ne f} m_{g \to i}(x_i)

On a tree the fixed point is exact. With loops it is an estimate, without a bound on its error, and
there may be several fixed points or none that is reached.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, FactorGraph, FactorGroup
from pyro_ebm.partition.sums.enumeration import require_possible

from .field import field_of

Messages = dict[tuple[str, int], Tensor]  # (group, position) -> log m (*batch, count, q)


class BeliefPropagation(NamedTuple):
    """What the messages say, and whether they have settled.

    Args:
        nodes: Estimates of p(x_i) (*batch, n, q), zero beyond a node's states.
        factors: Estimates of p(x_f) by name (*batch, count, q_1, …, q_arity).
        bethe_log_partition: The Bethe estimate of log Z (*batch,), neither a bound nor exact unless
            the graph is a tree. Its gradient in the tables is that at a fixed point: the estimates
            of p(x_f).
        iterations: How often all messages were sent.
        change: The largest difference that the last sending made to a message, as probabilities,
            before damping (*batch,).
        converged: Whether that is at most the tolerance (*batch,).

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, belief_propagation
        >>> links = [(0, 1), (1, 2)]
        >>> tree = RandomField.potts(links, 2, couplings=torch.ones(1), biases=torch.zeros(1, 2))
        >>> belief_propagation(tree).bethe_log_partition  # exact on a tree: ln 2 (e + 1)²
        tensor(3.3197, dtype=torch.float64)
    """

    nodes: Tensor
    factors: Mapping[str, Tensor]
    bethe_log_partition: Tensor
    iterations: int
    change: Tensor
    converged: Tensor


def belief_propagation(
    energy: Energy,
    *,
    damping: float = 0.5,
    max_iterations: int = 1000,
    tolerance: float = 1e-8,
) -> BeliefPropagation:
    """Marginals and log Z by messages, in float64.

    `elimination.marginals` is exact, where the graph is narrow enough.

    Args:
        energy: A random field, or a machine of finite units, whose nodes are the units of all its
            sites in order and whose labels are the numbers of their levels.
        damping: The share of the old message that is kept, in the log domain; from 0 on, below 1.
        max_iterations: How often the messages are sent at most.
        tolerance: The change of a message at which they have settled.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite.
        TypeError: If the energy is neither.
        ValueError: If a setting is out of range, or no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, belief_propagation
        >>> grid = [(0, 1), (2, 3), (0, 2), (1, 3)]
        >>> field = RandomField.potts(grid, 2, couplings=torch.ones(1), biases=torch.eye(2)[:1])
        >>> found = belief_propagation(field)
        >>> bool(found.converged), found.nodes[0]
        (True, tensor([0.9085, 0.0915], dtype=torch.float64))

    References:
        | Constructing free-energy approximations and generalized belief propagation algorithms
        | (Yedidia, Freeman & Weiss, 2005) https://doi.org/10.1109/TIT.2005.850085
    """
    check_settings(damping, max_iterations, tolerance)
    graph = field_of(energy).graph
    with torch.no_grad():
        allowed = graph.allowed()
        messages = uniform(graph, allowed)
        iterations, change = 0, messages_changed(messages, messages, graph)
        while iterations < max_iterations:
            _, upward = to_factors(graph, messages, allowed)
            new = to_nodes(graph, upward, allowed)
            change = messages_changed(new, messages, graph)
            iterations += 1
            if bool((change <= tolerance).all()):
                messages = new
                break
            messages = damped(new, messages, damping)
        beliefs, upward = to_factors(graph, messages, allowed)
    factors = {name: factor_belief(group, name, upward) for name, group in graph.groups.items()}
    bethe = bethe_log_partition(graph, beliefs, factors, messages, upward)
    return BeliefPropagation(
        beliefs.softmax(-1),
        {name: probabilities(belief, graph.groups[name]) for name, belief in factors.items()},
        bethe,
        iterations,
        change,
        change <= tolerance,
    )


def check_settings(damping: float, max_iterations: int, tolerance: float) -> None:
    """Refuses settings that mean nothing.

    Raises:
        ValueError: If there is one.
    """
    if not 0 <= damping < 1:
        raise ValueError(f"damping is {damping!r}; wanted a number from 0 on, below 1.")
    if not isinstance(max_iterations, int) or max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations!r}; wanted a positive whole number.")
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance!r}; wanted a positive number, such as 1e-8.")


def uniform(graph: FactorGraph, allowed: Tensor) -> Messages:
    """Messages from factors that say nothing."""
    found = {}
    for name, group in graph.groups.items():
        for k, size in enumerate(group.sizes):
            own = allowed[group.nodes[:, k], :size]
            own = own - own.logsumexp(-1, keepdim=True)
            found[name, k] = own.expand(*graph.batch, *own.shape)
    return found


def to_factors(graph: FactorGraph, messages: Messages, allowed: Tensor) -> tuple[Tensor, Messages]:
    """The products of all messages to a node, and those but for one factor's: what it is sent.

    Returns:
        Log-beliefs of the nodes, not normalised (*batch, n, q), and the messages to factors.
    """
    total = graph.constant.new_zeros(*graph.batch, *allowed.shape)
    # Minus infinities cannot be subtracted again: they are counted.
    forbidding = total + allowed.isinf().to(total.dtype)
    for (name, k), message in messages.items():
        nodes, size = graph.groups[name].nodes[:, k], message.shape[-1]
        total[..., :size].index_add_(-2, nodes, message.masked_fill(message.isinf(), 0))
        forbidding[..., :size].index_add_(-2, nodes, message.isinf().to(total.dtype))
    upward = {}
    for (name, k), message in messages.items():
        nodes, size = graph.groups[name].nodes[:, k], message.shape[-1]
        no = message.isinf()
        others = total[..., nodes, :size] - message.masked_fill(no, 0)
        others = others.masked_fill(
            forbidding[..., nodes, :size] - no.to(total.dtype) > 0, -math.inf
        )
        upward[name, k] = others - others.amax(-1, keepdim=True)
    return total.masked_fill(forbidding > 0, -math.inf), upward


def to_nodes(graph: FactorGraph, upward: Messages, allowed: Tensor) -> Messages:
    """The normalised messages from factors.

    Raises:
        ValueError: If no label of a node is allowed.
    """
    found = {}
    for name, group in graph.groups.items():
        for k, size in enumerate(group.sizes):
            joined = group.tables
            for j in range(group.arity):
                if j != k:
                    joined = joined + placed(upward[name, j], j, group)
            message = joined.movedim(joined.dim() - group.arity + k, -group.arity)
            if group.arity > 1:
                message = message.flatten(1 - group.arity).logsumexp(-1)
            message = message + allowed[group.nodes[:, k], :size]
            norm = message.logsumexp(-1, keepdim=True)
            require_possible(norm, "field")
            found[name, k] = (message - norm).expand(*graph.batch, *message.shape[-2:])
    return found


def placed(message: Tensor, k: int, group: FactorGroup) -> Tensor:
    """A message (*batch, count, q) as a table that depends on the k-th node of a factor alone."""
    ones = [1] * group.arity
    ones[k] = message.shape[-1]
    return message.reshape(*message.shape[:-1], *ones)


def messages_changed(new: Messages, old: Messages, graph: FactorGraph) -> Tensor:  # (*batch,)
    """The largest difference of messages, as probabilities."""
    change = graph.constant.new_zeros(graph.batch)
    for key, message in new.items():
        change = torch.maximum(change, (message.exp() - old[key].exp()).abs().amax((-2, -1)))
    return change


def damped(new: Messages, old: Messages, damping: float) -> Messages:
    """Messages between the old and the new ones; what either forbids is forbidden."""
    if damping == 0:
        return new
    found = {}
    for key, message in new.items():
        mixed = (1 - damping) * message + damping * old[key]
        found[key] = mixed - mixed.logsumexp(-1, keepdim=True)
    return found


def factor_belief(group: FactorGroup, name: str, upward: Messages) -> Tensor:
    """Log-beliefs of factors, not normalised (*batch, count, q_1, …)."""
    belief = group.tables
    for k in range(group.arity):
        belief = belief + placed(upward[name, k], k, group)
    return belief


def probabilities(belief: Tensor, group: FactorGroup) -> Tensor:
    """Normalised beliefs of factors."""
    return belief.flatten(-group.arity).softmax(-1).reshape(belief.shape)


def bethe_log_partition(
    graph: FactorGraph,
    nodes: Tensor,
    factors: Mapping[str, Tensor],
    messages: Messages,
    upward: Messages,
) -> Tensor:  # (*batch,)
    """Σ_f ln Z_f + Σ_i ln Z_i − Σ_(f,i) ln Z_fi, by the norms of beliefs and of single edges.

    At a fixed point it does not depend on the messages to first order.
    """
    value = -graph.constant + nodes.logsumexp(-1).sum(-1)
    for name, group in graph.groups.items():
        value = value + factors[name].flatten(-group.arity).logsumexp(-1).sum(-1)
    for key, message in messages.items():
        value = value - (message + upward[key]).logsumexp(-1).sum(-1)
    return value
