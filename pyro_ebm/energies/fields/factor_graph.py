r"""A random field as plain tensors: factors, and what is computed with them.

.. math:: E(x) = c - \sum_f \log \psi_f(x_f)

A node i has the labels 0, …, states[i] − 1. Factors of equal shape stand in one tensor. Parameters
are read into a `FactorGraph` once; energies, conditional laws, clamping, elimination and belief
propagation are computed on it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies.structure import times
from pyro_ebm.sites import is_trusting


@dataclass(frozen=True, eq=False)
class FactorGroup:
    """Factors of one shape, by their log-potentials.

    Args:
        nodes: The nodes of each factor (count, arity), in the order of the table's dimensions.
        table: log ψ (*batch, count, q_1, …, q_arity), or with 1 for the count where all factors
            share one table. A size is the largest number of states in its column of `nodes`; what
            stands beyond the states of a node with fewer is not read.

    Example:
        >>> import torch
        >>> from pyro_ebm.energies import FactorGroup
        >>> group = FactorGroup(torch.tensor([[0, 1], [1, 2]]), torch.eye(2)[None])
        >>> group.nodes.shape, group.table.shape
        (torch.Size([2, 2]), torch.Size([1, 2, 2]))
    """

    nodes: Tensor
    table: Tensor

    @property
    def arity(self) -> int:
        """The number of nodes of a factor."""
        return self.nodes.shape[1]

    @property
    def batch(self) -> torch.Size:
        """The batch shape of the table."""
        return self.table.shape[: -1 - self.arity]

    @property
    def sizes(self) -> torch.Size:
        """The sizes of one table."""
        return self.table.shape[self.table.dim() - self.arity :]

    @property
    def is_shared(self) -> bool:
        """Whether all factors have one table."""
        return self.table.shape[-1 - self.arity] == 1

    @property
    def tables(self) -> Tensor:  # (*batch, count, q_1, …, q_arity)
        """A table for each factor, without a copy."""
        return self.table.expand(*self.batch, len(self.nodes), *self.sizes)

    def scaled(self, factor: Tensor) -> "FactorGroup":  # (*batch,)
        """The log-potentials multiplied by a factor; what is forbidden is at every one but 0."""
        return replace(self, table=times(factor[(..., *[None] * (1 + self.arity))], self.table))

    def is_over(self, other: "FactorGroup") -> bool:
        """Whether the tables of another group are on the same nodes, of the same sizes."""
        return (
            self.sizes == other.sizes
            and self.nodes.shape == other.nodes.shape
            and bool((self.nodes == other.nodes).all())
        )

    def strides(self) -> list[int]:
        """How far the entries of neighbouring labels are apart in one table, by position."""
        return [math.prod(self.sizes[k + 1 :]) for k in range(self.arity)]

    def log_potentials(self, labels: Tensor) -> Tensor:  # (*batch, n) -> (*batch, count)
        """log ψ_f(x_f) of every factor, x as int64."""
        size = math.prod(self.sizes)
        count = 1 if self.is_shared else len(self.nodes)
        entry = torch.arange(self.batch.numel() * count, device=labels.device).mul_(size)
        where = entry.reshape(*self.batch, count)
        for k, stride in enumerate(self.strides()):
            where = where + labels.index_select(-1, self.nodes[:, k]) * stride
        return self.table.reshape(-1).index_select(0, where.reshape(-1)).reshape(where.shape)


class Slot(NamedTuple):
    """One factor of each of some nodes: which, and who else is in it.

    Args:
        factors: Numbers of the factors (m,).
        others: The other nodes of these (arity − 1, m).
        missing: Where a node has no such factor (m,); None if they all have.
        targets: The nodes' positions in their block (m,); None for all of them in order.
    """

    factors: Tensor
    others: Tensor
    missing: Tensor | None
    targets: Tensor | None


class Neighbourhood(NamedTuple):
    """Nodes that share no factor, and the factors around them.

    Args:
        nodes: The nodes (m,).
        slots: By group and position in the factor.
    """

    nodes: Tensor
    slots: Mapping[tuple[str, int], tuple[Slot, ...]]


@dataclass(frozen=True, eq=False)
class FactorGraph:
    """The terms of a random field; see the module's docstring.

    Args:
        states: The number of states of each node.
        groups: The factors, by name.
        constant: c (*batch,).

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField
        >>> field = RandomField.potts(
        ...     [(0, 1)], 3, couplings=torch.ones(1), biases=torch.zeros(1, 3)
        ... )
        >>> graph = field.read()
        >>> graph.states, list(graph.groups)
        ((3, 3), ['node', 'edge'])
    """

    states: tuple[int, ...]
    groups: Mapping[str, FactorGroup]
    constant: Tensor

    @property
    def batch(self) -> torch.Size:
        """The batch shape of the tables."""
        return torch.broadcast_shapes(
            self.constant.shape, *(group.batch for group in self.groups.values())
        )

    def to(self, dtype: torch.dtype) -> "FactorGraph":
        """The same terms in another dtype."""
        groups = {
            name: replace(group, table=group.table.to(dtype)) for name, group in self.groups.items()
        }
        return FactorGraph(self.states, groups, self.constant.to(dtype))

    def require_finite(self) -> None:
        """Refuses tables with NaN or +∞, which no state would have a probability under.

        Raises:
            FloatingPointError: If there is one; the message names where.
        """
        if is_trusting():
            return
        named = {f"the tables of {name!r}": group.table for name, group in self.groups.items()}
        for name, value in {**named, "the constant": -self.constant}.items():
            if not bool((value < math.inf).all()):
                raise FloatingPointError(
                    f"There are NaN or infinite values in {name}; wanted log-potentials, where −∞ "
                    f"forbids a state. Has learning diverged? Go back to earlier parameters and "
                    f"lower the learning rate."
                )

    def allowed(self) -> Tensor:  # (n, q)
        """0 for the states that a node has, −inf beyond them."""
        states = torch.tensor(self.states, device=self.constant.device)
        label = torch.arange(max(self.states), device=self.constant.device)
        beyond = label >= states[:, None]
        return self.constant.new_zeros(beyond.shape).masked_fill_(beyond, -math.inf)

    def energy(self, labels: Tensor) -> Tensor:  # (*batch, n) -> (*batch,)
        """E(x), x as int64."""
        energy = self.constant
        for group in self.groups.values():
            energy = energy - group.log_potentials(labels).sum(-1)
        return energy

    def logits(self, x: Tensor, around: Neighbourhood) -> Tensor:  # (q, *batch, nodes)
        """Σ log ψ of every label of some nodes, given the labels x (*batch, n) of all the others.

        Args:
            x: Labels as int64; those of the nodes themselves are not read.
            around: Nodes that share no factor.
        """
        batch = torch.broadcast_shapes(x.shape[:-1], self.batch)
        logits = self.constant.new_zeros(max(self.states), *batch, len(around.nodes))
        if len(set(self.states)) > 1:
            own = self.allowed()[around.nodes].mT
            logits += own.reshape(len(own), *[1] * len(batch), -1)
        for (name, k), slots in around.slots.items():
            group = self.groups[name]
            # Labels first: a sum over them, or a draw, is then made of whole rows.
            rows = group.table.movedim(group.table.dim() - group.arity + k, 0)
            rows = rows.reshape(len(rows), -1)
            if any(slot.missing is not None for slot in slots):
                rows = torch.cat([rows, rows.new_zeros(len(rows), 1)], 1)
            into = logits[: len(rows)]
            for slot in slots:
                where = row_numbers(group, k, slot, x, rows.shape[1] - 1)
                part = rows.index_select(1, where.reshape(-1)).reshape(len(rows), *where.shape)
                part = part.reshape(len(rows), *[1] * (into.dim() - 1 - where.dim()), *where.shape)
                if slot.targets is None:
                    into += part
                else:
                    into.index_add_(-1, slot.targets, part.expand(*into.shape[:-1], -1))
        return logits

    def clamped(self, nodes: Tensor, values: Tensor) -> tuple["FactorGraph", Tensor]:
        """The field of the other nodes while some are held, batched like the values.

        Args:
            nodes: The nodes that are held (k,).
            values: Their labels (*batch, k), int64.

        Returns:
            The factor graph of the free nodes, and their numbers in this one (free,).
        """
        n = len(self.states)
        held = torch.zeros(n, dtype=torch.bool, device=nodes.device).index_fill_(0, nodes, True)
        free = (~held).nonzero()[:, 0]
        number = torch.full((n,), -1, device=nodes.device).index_copy_(
            0, free, torch.arange(len(free), device=nodes.device)
        )
        labels = values.new_zeros(*values.shape[:-1], n).index_copy_(-1, nodes, values)
        states = tuple(self.states[i] for i in free.tolist())
        groups: dict[str, FactorGroup] = {}
        # One for each row of values, also where no factor tells rows apart.
        constant = self.constant + self.constant.new_zeros(values.shape[:-1])
        for name, group in self.groups.items():
            pattern = held[group.nodes]  # (count, arity)
            for k, fixed in enumerate(itertools.product((False, True), repeat=group.arity)):
                chosen = (pattern == pattern.new_tensor(fixed)).all(-1).nonzero()[:, 0]
                if not len(chosen):
                    continue
                part = sliced(group, chosen, fixed, labels)
                if all(fixed):
                    constant = constant - part.table.sum(-1)
                    continue
                own = number[part.nodes]
                sizes = [max(states[i] for i in column) for column in own.mT.tolist()]
                groups[f"{name}_{k}" if k else name] = FactorGroup(own, cut(part.table, sizes))
        return FactorGraph(states, groups, constant), free


def cut(table: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first entries of a table along its last dimensions."""
    for k, size in enumerate(sizes, start=table.dim() - len(sizes)):
        table = table.narrow(k, 0, size)
    return table


def row_numbers(group: FactorGroup, k: int, slot: Slot, x: Tensor, zero: int) -> Tensor:
    """Where the labels of position k find their log-potentials, given the others' labels.

    It has the batch of x only where other nodes are in the factors; `zero` stands where a factor is
    missing.
    """
    sizes = [size for position, size in enumerate(group.sizes) if position != k]
    row = slot.factors * 0 if group.is_shared else slot.factors
    count = 1 if group.is_shared else len(group.nodes)
    machine = torch.arange(group.batch.numel(), device=row.device).mul_(count)
    row = row + machine.reshape(*group.batch, 1)
    for size, other in zip(sizes, slot.others, strict=True):
        row = row * size + x.index_select(-1, other)
    return row if slot.missing is None else row.masked_fill(slot.missing, zero)


def sliced(
    group: FactorGroup, chosen: Tensor, fixed: Sequence[bool], labels: Tensor
) -> FactorGroup:
    """Some factors of a group, with the labels of some positions put in."""
    nodes = group.nodes[chosen]
    table = group.table if group.is_shared else group.table.index_select(len(group.batch), chosen)
    if not any(fixed):
        return FactorGroup(nodes, table)
    first = len(group.batch) + 1
    held = [k for k, is_held in enumerate(fixed) if is_held]
    rest = [k for k, is_held in enumerate(fixed) if not is_held]
    table = table.permute(*range(first), *(first + k for k in held + rest))
    where = labels.new_zeros(())
    for k in held:
        where = where * group.sizes[k] + labels.index_select(-1, nodes[:, k])
    sizes = [group.sizes[k] for k in rest]
    table = table.flatten(first, first + len(held) - 1)
    batch = torch.broadcast_shapes(group.batch, where.shape[:-1])
    table = table.expand(*batch, len(chosen), *table.shape[first:])
    where = where.reshape(*where.shape, *[1] * (1 + len(rest)))
    where = where.expand(*batch, len(chosen), 1, *sizes)
    found = table.gather(len(batch) + 1, where).squeeze(len(batch) + 1)
    return FactorGroup(nodes[:, rest], found)


def neighbourhood(graph: Mapping[str, Tensor], nodes: Tensor, n: int) -> Neighbourhood:
    """The factors around some nodes.

    Args:
        graph: The nodes of the factors of each group (count, arity).
        nodes: Nodes that share no factor (m,).
        n: The number of all nodes.

    Raises:
        ValueError: If two of them share a factor.
    """
    position = torch.full((n,), -1, device=nodes.device).index_copy_(
        0, nodes, torch.arange(len(nodes), device=nodes.device)
    )
    slots: dict[tuple[str, int], tuple[Slot, ...]] = {}
    for name, members in graph.items():
        where = position[members]
        if shares_a_factor(where >= 0):
            raise ValueError(
                "Two nodes of the block share a factor, so that their joint law does not "
                "factorise. Ask for one of blocks(site)."
            )
        for k in range(members.shape[1]):
            factors = (where[:, k] >= 0).nonzero()[:, 0]
            if len(factors):
                others = [members[:, j] for j in range(members.shape[1]) if j != k]
                slots[name, k] = in_slots(where[factors, k], factors, others, len(nodes))
    return Neighbourhood(nodes, slots)


def shares_a_factor(inside: Tensor) -> bool:  # (count, arity)
    """Whether more than one node of a factor is inside a block."""
    return bool((inside.sum(-1) > 1).any())


def in_slots(targets: Tensor, factors: Tensor, others: list[Tensor], size: int) -> tuple[Slot, ...]:
    """The factors at one position, such that a slot holds one of each node where it can.

    Args:
        targets: The position in the block that each factor concerns (m,).
        factors: The factors (m,).
        others: For all factors, the other nodes.
        size: The number of nodes of the block.
    """
    order = torch.argsort(targets, stable=True)
    targets, factors = targets[order], factors[order]
    degree = torch.bincount(targets, minlength=size)
    first = degree.cumsum(0) - degree
    rank = torch.arange(len(targets), device=targets.device) - first[targets]
    slots: list[Slot] = []
    # A node with many more factors than the others would make as many slots for it alone: those
    # that fewer than half of the nodes would use are left to a sum over a list.
    while 2 * int((degree > len(slots)).sum()) >= size:
        missing = degree <= len(slots)
        chosen = factors[(first + len(slots)).masked_fill(missing, 0)]
        some = bool(missing.any())
        slots.append(Slot(chosen, of_others(others, chosen), missing if some else None, None))
    left = rank >= len(slots)
    if bool(left.any()):
        chosen = factors[left]
        slots.append(Slot(chosen, of_others(others, chosen), None, targets[left]))
    return tuple(slots)


def of_others(others: list[Tensor], chosen: Tensor) -> Tensor:  # (arity − 1, m)
    """The other nodes of some factors."""
    return (
        torch.stack([other[chosen] for other in others])
        if others
        else chosen.new_empty(0, len(chosen))
    )
