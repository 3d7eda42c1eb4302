"""What a random field forbids, and blocks of nodes that can move together where it does.

A factor with −∞ in its table allows some joint labels of its nodes only, so that a node may have no
other label to go to while its neighbours stay. The nodes of a component, joined by such factors,
are one block where their joint labels that all these factors allow are few: drawn together they
come everywhere that they can. In larger components every block grows from one factor, by those
that overlap it, as long as its labels are few.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from .factor_graph import FactorGraph, FactorGroup

WHOLE = 1024  # joint labels of a component at most, to be drawn as one block
GROWN = 32  # joint labels of a block inside a larger component, beyond those of its first factor
SEEDS = 1024  # factors at most of which each has a block of its own
COMPARED = 2**22  # pairs of joint labels that are compared to join two factors


class Allowed(NamedTuple):
    """The joint labels that factors allow their nodes.

    Args:
        nodes: The nodes.
        labels: Their joint labels (options, nodes).
    """

    nodes: tuple[int, ...]
    labels: np.ndarray


class Term(NamedTuple):
    """Factors of one group around the blocks of a set.

    Args:
        name: Of the group.
        factors: Numbers of the factors (m,).
        owner: The block that each touches (m,).
        inside: How far an option moves the entry in the factor's table (options, m).
        outside: The factor's nodes beyond the block, by position (arity, m); 0 where there is none.
        strides: How far their labels move the entry (arity, m); 0 inside the block.
    """

    name: str
    factors: Tensor
    owner: Tensor
    inside: Tensor
    outside: Tensor
    strides: Tensor


class BlockSet(NamedTuple):
    """Blocks of which no factor touches two, so that they are drawn at once.

    Args:
        nodes: The nodes of all the blocks (t,).
        owner: The block of each node (t,).
        labels: The nodes' labels at each option of their block (options, t).
        missing: Where a block has fewer options (options, blocks); None if all have as many.
        terms: The factors around them.
    """

    nodes: Tensor
    owner: Tensor
    labels: Tensor
    missing: Tensor | None
    terms: tuple[Term, ...]

    def log_weights(self, graph: FactorGraph, x: Tensor) -> Tensor:  # (options, *batch, blocks)
        """Σ log ψ of every option of every block, given the labels x (*batch, n) of the others."""
        batch = torch.broadcast_shapes(x.shape[:-1], graph.batch)
        options, blocks = len(self.labels), int(self.owner[-1]) + 1
        total = graph.constant.new_zeros(options, *batch, blocks)
        for term in self.terms:
            part = entries(graph.groups[term.name], term, x)
            total.index_add_(-1, term.owner, part.expand(options, *batch, -1))
        if self.missing is not None:
            missing = self.missing.reshape(options, *[1] * len(batch), blocks)
            total = total.masked_fill(missing, -math.inf)
        return total

    def taken(self, x: Tensor, option: Tensor) -> Tensor:  # (*batch, n), (*batch, blocks)
        """The labels (*batch, n), with an option of each block."""
        chosen = option.index_select(-1, self.owner)
        labels = self.labels.mT.gather(1, chosen.reshape(-1, len(self.nodes)).mT)
        return x.index_copy(-1, self.nodes, labels.mT.reshape(chosen.shape))

    def are_allowed(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch, blocks)
        """Whether the labels of a block are one of its options."""
        blocks = int(self.owner[-1]) + 1
        labels = self.labels.reshape(len(self.labels), *[1] * (x.dim() - 1), -1)
        other = (x.index_select(-1, self.nodes) != labels).to(torch.int32)
        count = other.new_zeros(*other.shape[:-1], blocks).index_add_(-1, self.owner, other)
        return (count == 0).any(0)


def entries(group: FactorGroup, term: Term, x: Tensor) -> Tensor:  # (options, *batch, m)
    """The log-potentials of the factors around blocks, at every option."""
    size = math.prod(group.sizes)
    count = 1 if group.is_shared else len(group.nodes)
    machine = torch.arange(group.batch.numel(), device=x.device).mul_(count * size)
    where = machine.reshape(*group.batch, 1)
    if not group.is_shared:
        where = where + term.factors * size
    for node, stride in zip(term.outside, term.strides, strict=True):
        where = where + x.index_select(-1, node) * stride
    inside = term.inside.reshape(len(term.inside), *[1] * (where.dim() - 1), -1)
    where = where + inside
    return group.table.reshape(-1).index_select(0, where.reshape(-1)).reshape(where.shape)


@dataclass(frozen=True, eq=False)
class Constraints:
    """The factors of a field that forbid joint labels of two nodes or more.

    Args:
        graph: The field; the values of its tables count only where they are −∞.
        factors: What these factors allow.
    """

    graph: FactorGraph
    factors: tuple[Allowed, ...]

    @classmethod
    def of(cls, graph: FactorGraph) -> "Constraints":
        """The constraints of a field."""
        return cls(graph, tuple(forbidding(graph)))

    @functools.cached_property
    def blocks(self) -> tuple[Allowed, ...]:
        """Blocks of nodes, with their joint labels."""
        joins = nx.Graph()
        at: dict[int, list[int]] = {}
        for number, factor in enumerate(self.factors):
            nx.add_path(joins, factor.nodes)
            for node in factor.nodes:
                at.setdefault(node, []).append(number)
        found: list[Allowed] = []
        for component in nx.connected_components(joins):
            numbers = sorted({number for node in component for number in at[node]})
            block = self.grown(numbers[0], at, WHOLE)
            if len(block.inside) == len(numbers):
                found.append(block.allowed)
                continue
            found += self.parts(numbers, at)
        return tuple(block for block in found if len(block.labels) > 1)

    def parts(self, numbers: Sequence[int], at: Mapping[int, list[int]]) -> list[Allowed]:
        """Blocks inside a component that is too large for one."""
        covered: set[int] = set()
        found = {}
        for number in numbers:
            if len(self.factors[number].labels) > WHOLE:
                continue
            if number in covered and len(numbers) > SEEDS:
                continue
            most = max(GROWN, len(self.factors[number].labels))
            block = self.grown(number, at, most)
            covered |= block.inside
            found[frozenset(block.allowed.nodes)] = block.allowed
        return list(found.values())

    def grown(self, first: int, at: Mapping[int, list[int]], most: int) -> "Grown":
        """The block of a factor and of those that can join it, the most overlapping ones first."""
        block, inside = self.factors[first], {first}
        if len(block.labels) > most:
            return Grown(block, set())
        waiting = dict.fromkeys(n for node in block.nodes for n in at[node] if n != first)
        while waiting:
            own = set(block.nodes)
            number = min(waiting, key=lambda n: len(set(self.factors[n].nodes) - own))
            del waiting[number]
            larger = joined(block, self.factors[number], most)
            if larger is None:
                continue
            inside.add(number)
            new = [node for node in larger.nodes if node not in own]
            block = larger
            waiting |= dict.fromkeys(n for node in new for n in at[node] if n not in inside)
        return Grown(block, inside)

    @functools.cached_property
    def sets(self) -> tuple[BlockSet, ...]:
        """The blocks, in sets of which no factor touches two."""
        n = len(self.graph.states)
        near: list[set[int]] = [{node} for node in range(n)]
        for group in self.graph.groups.values():
            for nodes in group.nodes.tolist():
                for node in nodes:
                    near[node].update(nodes)
        together: list[tuple[int, np.ndarray, list[Allowed]]] = []
        for block in sorted(self.blocks, key=lambda block: len(block.labels)):
            kind, nodes = len(block.labels).bit_length(), list(block.nodes)
            around = sorted(set().union(*(near[node] for node in nodes)))
            for other, touched, blocks in together:  # noqa: B007 (read after the loop)
                if other == kind and not touched[nodes].any():
                    break
            else:
                touched, blocks = np.zeros(n, dtype=bool), []
                together.append((kind, touched, blocks))
            touched[around] = True
            blocks.append(block)
        return tuple(block_set(self.graph, blocks) for _, _, blocks in together)


def forbidding(graph: FactorGraph) -> Iterator[Allowed]:
    """What each factor allows that forbids joint labels of two nodes or more."""
    masks = {name: forbidden(group) for name, group in graph.groups.items()}
    found = {name: mask for name, mask in masks.items() if mask is not None}
    own = domains(graph, found)
    for name, mask in found.items():
        if graph.groups[name].arity > 1:
            yield from allowed_by(graph.groups[name], mask, own)


class Grown(NamedTuple):
    """A block, and the numbers of the factors in it."""

    allowed: Allowed
    inside: set[int]


def forbidden(group: FactorGroup) -> Tensor | None:  # (count or 1, *sizes)
    """Which joint labels a group's factors forbid; None if there are none.

    Of several fields at once those count that forbid anything: at β = 0 of a ladder nothing is.
    """
    mask = group.table.detach().isneginf().reshape(-1, *group.table.shape[-1 - group.arity :])
    some = mask.flatten(1).any(1)
    if not bool(some.any()):
        return None
    return mask[some].all(0)


def domains(graph: FactorGraph, masks: Mapping[str, Tensor]) -> np.ndarray:  # bool (n, q)
    """The labels that each node has by itself."""
    found = (graph.allowed() == 0).cpu().numpy()
    for name, mask in masks.items():
        group = graph.groups[name]
        if group.arity == 1:
            allowed = ~mask.expand(len(group.nodes), -1).cpu().numpy()
            own = found[:, : allowed.shape[1]]
            np.logical_and.at(own, group.nodes[:, 0].cpu().numpy(), allowed)
    return found


def allowed_by(group: FactorGroup, mask: Tensor, own: np.ndarray) -> Iterator[Allowed]:
    """What each factor of a group allows, where it forbids something that its nodes have."""
    tables = ~mask.cpu().numpy()
    listed = [np.argwhere(table) for table in tables]
    for number, nodes in enumerate(group.nodes.tolist()):
        labels = listed[number if len(listed) > 1 else 0]
        inside = np.ones(len(labels), dtype=bool)
        for k, node in enumerate(nodes):
            inside &= own[node, labels[:, k]]
        labels = labels[inside]
        if len(labels) < math.prod(int(own[node].sum()) for node in nodes):
            yield Allowed(tuple(nodes), labels)


def joined(one: Allowed, other: Allowed, most: int) -> Allowed | None:
    """What two factors allow together; None where that are too many joint labels."""
    if len(one.labels) * len(other.labels) > COMPARED:
        return None
    shared = [node for node in other.nodes if node in one.nodes]
    mine = one.labels[:, [one.nodes.index(node) for node in shared]]
    yours = other.labels[:, [other.nodes.index(node) for node in shared]]
    same = np.ones((len(mine), len(yours)), dtype=bool)
    for k in range(len(shared)):
        same &= mine[:, k, None] == yours[None, :, k]
    first, second = same.nonzero()
    if len(first) > most:
        return None
    rest = [k for k, node in enumerate(other.nodes) if node not in one.nodes]
    labels = np.concatenate([one.labels[first], other.labels[second][:, rest]], 1)
    return Allowed((*one.nodes, *(other.nodes[k] for k in rest)), labels)


def block_set(graph: FactorGraph, blocks: Sequence[Allowed]) -> BlockSet:
    """Blocks of which no factor touches two."""
    device = graph.constant.device
    most = max(len(block.labels) for block in blocks)
    labels = np.concatenate(
        # What is beyond a block's options repeats its first, and is left out as missing.
        [block.labels[np.arange(most) * (np.arange(most) < len(block.labels))] for block in blocks],
        1,
    )
    counts = torch.tensor([len(block.labels) for block in blocks], device=device)
    missing = torch.arange(most, device=device)[:, None] >= counts
    nodes = torch.tensor([node for block in blocks for node in block.nodes], device=device)
    owner = [k for k, block in enumerate(blocks) for _ in block.nodes]
    values = torch.as_tensor(labels, dtype=torch.int64, device=device)
    place = torch.full((len(graph.states),), -1, device=device)
    place[nodes] = torch.arange(len(nodes), device=device)
    owners = torch.tensor(owner, device=device)
    terms = (term_around(name, g, place, owners, values) for name, g in graph.groups.items())
    return BlockSet(
        nodes,
        owners,
        values,
        missing if bool(missing.any()) else None,
        tuple(term for term in terms if term is not None),
    )


def term_around(
    name: str, group: FactorGroup, place: Tensor, owner: Tensor, labels: Tensor
) -> Term | None:
    """The factors of a group around the blocks of a set; None if there are none.

    Args:
        name: Of the group.
        group: The group.
        place: Of each node its number among those of the set (n,), −1 where it is in no block.
        owner: The block of each node of the set (t,).
        labels: The labels of these at each option (options, t).
    """
    places = place[group.nodes]  # (count, arity)
    factors = (places >= 0).any(1).nonzero()[:, 0]
    if not len(factors):
        return None
    own = places[factors]
    inside = own >= 0
    steps = torch.tensor(group.strides(), device=place.device)
    moved = (labels[:, own.clamp_min(0)] * (inside * steps)).sum(-1)
    owners = owner[own.amax(1)]
    outside = group.nodes[factors].masked_fill(inside, 0)
    return Term(name, factors, owners, moved, outside.mT, (~inside * steps).mT)
