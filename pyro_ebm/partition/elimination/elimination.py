r"""Exact answers for random fields, and machines, on chains, trees and graphs of low treewidth.

.. math:: Z = \sum_x e^{-c} \prod_f \psi_f(x_f)

The nodes are summed out one after another, in float64 and in the log domain, in an order that
`elimination_order` finds; what that takes is known beforehand (`plan`). Tables with batch
dimensions, such as those of many sequences, go through it together. All marginals are gradients of
log Z; draws and the mode are found backwards through the tables that the steps leave.
"""

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_ebm.energies import Energy, FactorGraph, FactorGroup, cut, draw_labels
from pyro_ebm.partition.sums.enumeration import (
    TooManyStatesError,
    as_float,
    in_digits,
    log_sum_exp,
    require_possible,
)
from pyro_ebm.partition.sums.summation import Mode
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites

from .field import field_of
from .order import Bucket, Schedule, TooWideError, schedule

MAX_BYTES = 2**33
# Numbers in a joined table from which on it is computed again for the gradient, and not kept.
RECOMPUTED = 2**16
# Numbers in a joined table up to which adding the tables up is no slower than a product.
SMALL = 2**12
# A sum of products of numbers up to 1 from which on nothing is missing: what underflows in it is
# smaller than 1e-307.
LEAST = 1e-280
BATCH = -1  # the place of the batch among the runs of a bucket: before all of them


@dataclass(frozen=True)
class EliminationPlan:
    """How a field will be summed, and what that takes.

    Args:
        order: The nodes, the first to be summed out in front.
        width: The number of neighbours of a node when it is summed out, at most: the treewidth of
            the graph or, where the heuristics find no best order, more.
        largest_table: Numbers in the largest table, for each batch element.
        bytes: Memory that log Z takes.
        bytes_kept: Memory that its gradient, marginals, the mode and draws take.
        operations: Numbers in all tables together, over the batch.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> links = [(k, k + 1) for k in range(99)]
        >>> field = RandomField.potts(links, 3, couplings=torch.ones(1), biases=torch.zeros(1, 3))
        >>> plan = elimination.plan(field)
        >>> plan.width, plan.largest_table
        (1, 9)
    """

    order: tuple[int, ...]
    width: int
    largest_table: int
    bytes: int
    bytes_kept: int
    operations: int


class Marginals(NamedTuple):
    """What p(x) says of single nodes and of the nodes of each factor.

    Args:
        nodes: p(x_i) (*batch, n, q), zero beyond a node's states.
        factors: p(x_f) by name (*batch, count, q_1, …, q_arity).

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> field = RandomField.potts(
        ...     [(0, 1)], 2, couplings=torch.ones(1), biases=torch.zeros(1, 2)
        ... )
        >>> found = elimination.marginals(field)
        >>> found.nodes, list(found.factors)
        (tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64), ['node', 'edge'])
    """

    nodes: Tensor
    factors: Mapping[str, Tensor]


# ---------------------------------------------------------------------- the doors


def plan(energy: Energy) -> EliminationPlan:
    """Width and memory of the elimination, without doing it.

    Args:
        energy: A random field, or a machine of finite units.

    Raises:
        TooManyStatesError: If a table would be larger than can be handled at all.
        TypeError: If the energy is none.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> links = [(k, k + 1) for k in range(99)]
        >>> field = RandomField.potts(links, 3, couplings=torch.ones(1), biases=torch.zeros(1, 3))
        >>> elimination.plan(field).width
        1
    """
    with torch.no_grad():
        return plan_of(field_of(energy).graph)


def log_partition(energy: Energy) -> Tensor:  # (*batch of the parameters,)
    r"""log Z, exact, in float64, differentiable as often as you like.

    `exact.log_partition` chooses this way by itself where it is the cheapest.

    Args:
        energy: A random field of low enough width, or a machine of finite units, whose nodes are
            the units of all its sites in order and whose labels are the numbers of their levels.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite.
        TooManyStatesError: If its width is too large.
        TypeError: If the energy is none.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> field = RandomField.potts(
        ...     [(0, 1)], 2, couplings=torch.ones(1), biases=torch.zeros(1, 2)
        ... )
        >>> elimination.log_partition(field)  # ln(2 e + 2)
        tensor(2.0064, dtype=torch.float64)
    """
    return log_partition_of(field_of(energy).graph)


def marginals(energy: Energy) -> Marginals:
    """The exact laws of single nodes and of the nodes of each factor, in float64, differentiable.

    Where the graph is too wide for that, `belief_propagation` estimates them.

    Args:
        energy: As for `log_partition`.

    Raises:
        TooManyStatesError: If its width is too large.
        ValueError: If no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> field = RandomField.potts([(0, 1)], 2, couplings=torch.ones(1), biases=torch.eye(2)[:1])
        >>> elimination.marginals(field).nodes
        tensor([[0.8075, 0.1925],
                [0.8075, 0.1925]], dtype=torch.float64)
    """
    graph = field_of(energy).graph
    every = tuple(graph.groups)
    nodes, factors = marginals_of(graph, every)
    return Marginals(nodes, factors)


def node_marginals(energy: Energy) -> Tensor:  # (*batch, n, q)
    """The exact laws of single nodes alone, which takes less than `marginals`.

    Args:
        energy: As for `log_partition`.

    Raises:
        TooManyStatesError: If its width is too large.
        ValueError: If no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> field = RandomField.potts([(0, 1)], 2, couplings=torch.ones(1), biases=torch.eye(2)[:1])
        >>> elimination.node_marginals(field)
        tensor([[0.8075, 0.1925],
                [0.8075, 0.1925]], dtype=torch.float64)
    """
    return marginals_of(field_of(energy).graph, ())[0]


def mode(energy: Energy) -> Mode:
    """The state of least energy; of several, one.

    `mode` of the package does this where it can, and anneals where it cannot.

    Args:
        energy: As for `log_partition`.

    Raises:
        TooManyStatesError: If its width is too large.
        ValueError: If no state is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> field = RandomField.potts([(0, 1)], 2, couplings=torch.ones(1), biases=torch.eye(2)[:1])
        >>> elimination.mode(field).x
        {'visible': tensor([0., 0.])}
    """
    with torch.no_grad():
        field = field_of(energy)
        labels = likeliest(field.graph)
        x = {site: value.to(energy.dtype) for site, value in field.values(labels).items()}
        return Mode(x, field.graph.energy(labels), True, "elimination")


def sample(energy: Energy, count: int, seed: int | None = None) -> Sites:  # (count, *batch, n)
    """Independent exact draws, in the energy's dtype; for every batch element its own.

    `exact.sample` chooses this way by itself where it is the cheapest.

    Args:
        energy: As for `log_partition`.
        count: The number of draws.
        seed: Of the draws; taken from torch's generator if left out.

    Raises:
        TooManyStatesError: If its width is too large.
        ValueError: If the count is not positive, or the seed no whole number, or no state is
            allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, elimination
        >>> strong = torch.tensor([9.0])
        >>> field = RandomField.potts([(0, 1)], 3, couplings=strong, biases=torch.zeros(1, 3))
        >>> draws = elimination.sample(field, 100, seed=0)["visible"]
        >>> float((draws[:, 0] == draws[:, 1]).double().mean())
        1.0
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count is {count!r}; wanted a positive whole number of draws.")
    with torch.no_grad(), forked(chosen_seed(seed), energy.device):
        field = field_of(energy)
        labels = drawn(field.graph, count)
    return {site: value.to(energy.dtype) for site, value in field.values(labels).items()}


# ---------------------------------------------------------------------- what it takes


def schedule_of(graph: FactorGraph) -> Schedule:
    """The steps for a graph.

    Raises:
        TooManyStatesError: If every order meets a table that is too large.
    """
    scopes = tuple(
        tuple(nodes) for group in graph.groups.values() for nodes in group.nodes.tolist()
    )
    try:
        return schedule(graph.states, scopes)
    except TooWideError as error:
        raise TooManyStatesError(
            f"Elimination would meet a table of {error.width + 1} nodes (a width of at least "
            f"{error.width}), which has {in_digits(error.elements)} numbers and takes "
            f"{memory(8 * error.elements)}, in every order that was tried. Use "
            f"belief_propagation, or samples."
        ) from None


def plan_of(graph: FactorGraph) -> EliminationPlan:
    """What the steps for a graph take."""
    steps, rows = schedule_of(graph), max(1, graph.batch.numel())
    return EliminationPlan(
        order=steps.order,
        width=steps.width,
        largest_table=steps.largest,
        bytes=8 * rows * steps.live,
        bytes_kept=8 * rows * (steps.kept + 3 * steps.largest),
        operations=rows * steps.operations,
    )


def memory(count: int) -> str:
    """A number of bytes, in words."""
    gibibytes = as_float(count) / 2**30
    return f"{gibibytes:.3g} GiB" if gibibytes < 1e6 else f"{in_digits(count)} bytes"


def require_room(graph: FactorGraph, *, keeping: bool) -> None:
    """Refuses a graph whose elimination takes too much memory.

    Raises:
        TooManyStatesError: If it does.
    """
    needed = plan_of(graph)
    count = needed.bytes_kept if keeping else needed.bytes
    if count > MAX_BYTES:
        raise TooManyStatesError(
            f"Elimination has width {needed.width}: its largest table has "
            f"{in_digits(needed.largest_table)} numbers for each of {graph.batch.numel()} batch "
            f"elements, and it takes {memory(count)}; at most {memory(MAX_BYTES)} are used. Take "
            f"the batch in parts, or use belief_propagation, or samples."
        )


# ---------------------------------------------------------------------- the steps


class Operand(NamedTuple):
    """A table in one step: its dimensions are runs of the bucket, in order, `BATCH` the first."""

    table: Tensor
    axes: tuple[int, ...]


Contract = Callable[[Sequence[Operand]], Operand]


def log_partition_of(graph: FactorGraph) -> Tensor:  # (*batch,)
    """log Z of a graph."""
    keeping = torch.is_grad_enabled() and any(
        group.table.requires_grad for group in graph.groups.values()
    )
    require_room(graph, keeping=keeping)
    total = -graph.constant
    for table in eliminated(graph, tables_of(graph), schedule_of(graph), log_sum):
        total = total + (table if not table.dim() else table.reshape(graph.batch))
    return total.expand(graph.batch)


def tables_of(graph: FactorGraph) -> list[Tensor]:
    """The table of every factor, its dimensions in the order of the steps.

    A table has a leading dimension for the whole batch, flattened, or none if it has no batch.
    """
    turn = {node: k for k, node in enumerate(schedule_of(graph).order)}
    found: list[Tensor] = []
    for group in graph.groups.values():
        tables = single_tables(graph, group)
        for table, nodes in zip(tables, group.nodes.tolist(), strict=True):
            table = cut(table, [graph.states[node] for node in nodes])
            first = table.dim() - len(nodes)
            ranked = sorted(
                zip((turn[node] for node in nodes), range(first, table.dim()), strict=True)
            )
            found.append(table.permute(*range(first), *(axis for _, axis in ranked)))
    return found


def single_tables(graph: FactorGraph, group: FactorGroup) -> Sequence[Tensor]:
    """The tables of a group's factors one by one, ([rows,] q_1, …) each."""
    table, first = group.table, len(group.batch)
    if group.batch.numel() > 1:
        table = table.expand(*graph.batch, *table.shape[first:])
        table = table.flatten(0, len(graph.batch) - 1).movedim(1, 0)
    else:
        table = table.reshape(table.shape[first:])
    return [table[0]] * len(group.nodes) if group.is_shared else table.unbind(0)


def eliminated(
    graph: FactorGraph,
    tables: list[Tensor],
    steps: Schedule,
    contract: Contract,
    kept: list[list[Tensor]] | None = None,
) -> list[Tensor]:
    """Sums out all nodes; what is left are numbers, (rows,) or () each, whose sum is log Z.

    Args:
        graph: The field.
        tables: The table of every factor; emptied, so that nothing is held that is used up.
        steps: What to do.
        contract: What joins the tables of a node and sums it out.
        kept: Takes for every step the tables that it was made of.
    """
    standing: dict[int, Tensor] = dict(enumerate(tables))
    tables.clear()
    left = []
    for number, bucket in enumerate(steps.buckets, start=len(steps.scopes) - len(steps.buckets)):
        inputs = [standing.pop(k) for k in bucket.inputs]
        if kept is not None:
            kept.append(inputs)
        if inputs:
            lengths = [len(steps.scopes[k]) for k in bucket.inputs]
            table = one_step(bucket, inputs, lengths, contract)
        else:  # a node without factors
            table = contract([Operand(graph.constant.new_zeros(bucket.runs), (0,))]).table
        if bucket.scope:
            batch = table.shape[: table.dim() - len(bucket.runs) + 1]
            states = (graph.states[node] for node in bucket.scope)
            standing[number] = table.reshape(*batch, *states)
        else:
            left.append(table)
    return left


def one_step(
    bucket: Bucket, inputs: list[Tensor], lengths: Sequence[int], contract: Contract
) -> Tensor:
    """The table that a step leaves, its dimensions runs of nodes.

    Args:
        bucket: The step.
        inputs: Tables of single nodes.
        lengths: The number of nodes of each; a table with one dimension more has a batch.
        contract: As for `eliminated`.
    """

    def work(*tables: Tensor) -> Tensor:
        operands = []
        for table, members, length in zip(tables, bucket.members, lengths, strict=True):
            batch = table.shape[: table.dim() - length]
            sizes = (bucket.runs[r] for r in members)
            axes = (BATCH, *members) if batch else members
            operands.append(Operand(table.reshape(*batch, *sizes), axes))
        return contract(operands).table

    rows = max(
        len(table) if table.dim() > length else 1
        for table, length in zip(inputs, lengths, strict=True)
    )
    large = bucket.elements * rows > RECOMPUTED
    if large and torch.is_grad_enabled() and any(table.requires_grad for table in inputs):
        return checkpoint(work, *inputs, use_reentrant=False, preserve_rng_state=False)
    return work(*inputs)


def joined(operands: Sequence[Operand]) -> Operand:
    """The sum of some tables, over all of their dimensions."""
    axes = tuple(sorted({axis for operand in operands for axis in operand.axes}))
    total: Tensor | None = None
    for operand in sorted(operands, key=lambda operand: operand.table.numel()):
        where = tuple(slice(None) if axis in operand.axes else None for axis in axes)
        total = operand.table[where] if total is None else total + operand.table[where]
    assert total is not None
    return Operand(total, axes)


def without_node(operand: Operand, work: Callable[[Tensor, int], Tensor]) -> Operand:
    """The table after something was done along the node that is summed out."""
    axis = operand.axes.index(0)
    return Operand(work(operand.table, axis), tuple(r for r in operand.axes if r != 0))


def maximum(operands: Sequence[Operand]) -> Operand:
    """The joined tables, maximised over the node."""
    return without_node(joined(operands), lambda table, axis: table.amax(axis))


def log_sum(operands: Sequence[Operand]) -> Operand:
    """The joined tables, summed over the node in the log domain."""
    operands = absorbed(operands)
    if len(operands) > 1:
        sizes = {
            axis: size
            for operand in operands
            for axis, size in zip(operand.axes, operand.table.shape, strict=True)
        }
        if math.prod(sizes.values()) > SMALL and (found := by_products(operands)) is not None:
            return found
    return without_node(joined(operands), log_sum_exp)


def absorbed(operands: Sequence[Operand]) -> list[Operand]:
    """The same sum of fewer tables: those are added up whose dimensions another one has."""
    left: list[Operand] = []
    for operand in sorted(operands, key=lambda operand: -len(operand.axes)):
        for k, other in enumerate(left):
            if set(operand.axes) <= set(other.axes):
                left[k] = joined((operand, other))
                break
        else:
            left.append(operand)
    return left


def by_products(operands: Sequence[Operand]) -> Operand | None:
    """`log_sum` by products of exponentials, where these lose nothing; else None.

    The joined table is never made. Each table is exponentiated less its maxima over the node; where
    the maxima of two tables are at different labels the products may underflow.
    """
    axes = tuple(sorted({axis for operand in operands for axis in operand.axes} - {0}))
    if len(axes) >= len(string.ascii_letters):
        return None
    letter = {axis: string.ascii_letters[k] for k, axis in enumerate((0, *axes))}
    inputs = ",".join("".join(letter[axis] for axis in operand.axes) for operand in operands)
    equation = f"{inputs}->{''.join(letter[axis] for axis in axes)}"
    shifts = [
        operand.table.detach()
        .amax(operand.axes.index(0), keepdim=True)
        .clamp_min_(torch.finfo(operand.table.dtype).min)
        for operand in operands
    ]
    terms = [(operand.table - shift).exp() for operand, shift in zip(operands, shifts, strict=True)]
    total = torch.einsum(equation, *terms)
    if bool(total.detach().amin() >= LEAST):
        found = total.log()
    else:
        # A zero is right where every term is forbidden, and else it is an underflow.
        allowed = ((operand.table > -math.inf).to(total.dtype) for operand in operands)
        possible = torch.einsum(equation, *allowed)
        if bool(((total.detach() < LEAST) & (possible > 0)).any()):
            return None
        found = total.clamp_min(LEAST).log().masked_fill(possible == 0, -math.inf)
    for operand, shift in zip(operands, shifts, strict=True):
        rest = tuple(axis for axis in operand.axes if axis != 0)
        where = tuple(slice(None) if axis in rest else None for axis in axes)
        found = found + shift.squeeze(operand.axes.index(0))[where]
    return Operand(found, axes)


# ---------------------------------------------------------------------- marginals, draws, the mode


def marginals_of(graph: FactorGraph, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The laws of single nodes, and of the nodes of some groups' factors.

    log Z is differentiated by tables of zeros that are added to the factors', one for each batch
    element, since a table that all share has only the sum of their laws as its gradient.

    Raises:
        ValueError: If no state is allowed.
    """
    has_history = any(group.table.requires_grad for group in graph.groups.values())
    differentiable = torch.is_grad_enabled() and has_history
    with torch.enable_grad():
        zeros: dict[str, Tensor] = {}
        groups: dict[str, FactorGroup] = {}
        for name, group in graph.groups.items():
            table = group.table if differentiable else group.table.detach()
            if name in names:
                shape = (*graph.batch, len(group.nodes), *group.sizes)
                zeros[name] = table.new_zeros(shape, requires_grad=True)
                table = table + zeros[name]
            groups[name] = FactorGroup(group.nodes, table)
        own, log_z = in_node_fields(FactorGraph(graph.states, groups, graph.constant))
        first, *others = torch.autograd.grad(
            log_z.sum(), [own, *zeros.values()], create_graph=differentiable
        )
    return first, dict(zip(zeros, others, strict=True))


def in_node_fields(graph: FactorGraph) -> tuple[Tensor, Tensor]:
    """Fields of zero on all labels of all nodes (*batch, n, q), and log Z as a function of them.

    Raises:
        ValueError: If no state is allowed.
    """
    n, q = len(graph.states), max(graph.states)
    own = graph.constant.new_zeros((*graph.batch, n, q), requires_grad=True)
    nodes = torch.arange(n, device=own.device)[:, None]
    groups = {**graph.groups, "each node": FactorGroup(nodes, own)}
    log_z = log_partition_of(FactorGraph(graph.states, groups, graph.constant))
    require_possible(log_z, "field")
    return own, log_z


def likeliest(graph: FactorGraph) -> Tensor:  # (*batch, n)
    """The labels of least energy; of several, one."""
    return traced_back(graph, 1, maximum, lambda logits: logits.argmax(0))[0]


def drawn(graph: FactorGraph, count: int) -> Tensor:  # (count, *batch, n)
    """Independent draws of the labels."""
    return traced_back(graph, count, log_sum, draw_labels)


def traced_back(
    graph: FactorGraph, count: int, contract: Contract, pick: Callable[[Tensor], Tensor]
) -> Tensor:  # (count, *batch, n)
    """Labels of all nodes, each chosen given those that were summed out after it.

    Args:
        graph: The field.
        count: How many states for each batch element.
        contract: How the nodes are summed out.
        pick: Chooses labels (count, rows) from log-weights (q, count, rows).

    Raises:
        ValueError: If no state is allowed.
    """
    require_room(graph, keeping=True)
    steps, rows = schedule_of(graph), graph.batch.numel()
    kept: list[list[Tensor]] = []
    for part in eliminated(graph, tables_of(graph), steps, contract, kept):
        require_possible(part, "field")
    labels = torch.zeros(
        len(graph.states), count, rows, dtype=torch.int64, device=graph.constant.device
    )
    for bucket, tables in zip(reversed(steps.buckets), reversed(kept), strict=True):
        logits = graph.constant.new_zeros(bucket.runs[0], count, rows)
        for table, k in zip(tables, bucket.inputs, strict=True):
            logits += given_the_others(table, steps.scopes[k][1:], labels)
        labels[bucket.node] = pick(logits)
    return labels.movedim(0, -1).reshape(count, *graph.batch, len(graph.states))


def given_the_others(table: Tensor, others: Sequence[int], labels: Tensor) -> Tensor:
    """A table ([rows,] q, …) at the labels (n, count, rows) of all its nodes but the first.

    Returns:
        (q, count or 1, rows or 1).
    """
    sizes = table.shape[table.dim() - len(others) :] if others else torch.Size()
    batched = table.dim() > 1 + len(others)
    where = labels.new_zeros(1, 1)
    if batched:
        where = torch.arange(len(table), device=labels.device)[None]
        table = table.transpose(0, 1)
    for node, size in zip(others, sizes, strict=True):
        where = where * size + labels[node]
    found = table.reshape(len(table), -1).index_select(1, where.reshape(-1))
    return found.reshape(len(table), *where.shape)
