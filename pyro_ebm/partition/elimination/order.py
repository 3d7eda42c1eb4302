"""In which order to sum out the nodes of a field, and what that will take: no tensors here.

Summing out a node joins all tables that hold it into one over the node and its neighbours, and
leaves a table over the neighbours. The largest such set, less one, is the width of the order; the
least width of all orders is the treewidth of the graph. Finding the best order is as hard as the
sum itself; the best of a few heuristics is taken.
"""

import functools
import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import networkx as nx

Scope = tuple[int, ...]  # the nodes of a table
Neighbours = list[set[int]]

FEW_NODES = 10_000  # up to which the order of least fill is tried
MAX_ELEMENTS = 2**30  # of one table: an order that meets a larger one is given up


@dataclass(frozen=True)
class Bucket:
    """One step: the tables that hold a node are joined, and the node is summed out.

    Neighbouring dimensions that the same tables have are taken together, as one `run`, so that a
    table of twenty nodes is a tensor of few dimensions.

    Args:
        node: The node.
        inputs: Numbers of the tables that hold it.
        runs: The sizes of the runs of nodes, the node itself the first.
        members: For each table the runs that it has.
        scope: The nodes of the table that is left, those that go first in front.
    """

    node: int
    inputs: tuple[int, ...]
    runs: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    scope: Scope

    @property
    def elements(self) -> int:
        """The size of the joined table."""
        return math.prod(self.runs)


@dataclass(frozen=True)
class Schedule:
    """The steps of an elimination.

    Args:
        order: The nodes, the first to be summed out in front.
        scopes: The nodes of every table in that order: those of the factors, then what each step
            leaves.
        buckets: The steps.
        width: The size of the largest joined table in nodes, less one.
        largest: Numbers in the largest joined table.
        live: Numbers in the tables that stand at the same time, at most.
        kept: Numbers in all tables that the steps leave.
        operations: Numbers in all joined tables.
    """

    order: Scope
    scopes: tuple[Scope, ...]
    buckets: tuple[Bucket, ...]
    width: int
    largest: int
    live: int
    kept: int
    operations: int


class TooWideError(Exception):
    """Every order that was tried meets a table that is too large.

    Args:
        width: That of the table.
        elements: Numbers in it.
    """

    def __init__(self, width: int, elements: int) -> None:
        super().__init__(width, elements)
        self.width, self.elements = width, elements


def schedule(states: tuple[int, ...], scopes: tuple[Scope, ...]) -> Schedule:
    """The steps in the best order found.

    Args:
        states: The number of states of each node.
        scopes: The nodes of each factor.

    Raises:
        TooWideError: If every order meets a table of more than `MAX_ELEMENTS` numbers.
    """
    found = schedule_or_refusal(states, scopes)
    if isinstance(found, TooWideError):
        raise TooWideError(found.width, found.elements)
    return found


@functools.lru_cache(maxsize=64)
def schedule_or_refusal(
    states: tuple[int, ...], scopes: tuple[Scope, ...]
) -> Schedule | TooWideError:
    """The steps, or why there are none; remembered, since a field is summed again and again."""
    try:
        return schedule_in(best_order(states, scopes), states, scopes)
    except TooWideError as error:
        return TooWideError(error.width, error.elements)


def best_order(states: Sequence[int], scopes: Iterable[Scope]) -> Scope:
    """The cheapest of the orders by some heuristics.

    Raises:
        TooWideError: As `schedule`.
    """
    neighbours: Neighbours = [set() for _ in states]
    for scope in set(scopes):
        for node in scope:
            neighbours[node].update(scope)
    for node, own in enumerate(neighbours):
        own.discard(node)
    best: Scope | None = None
    least, narrowest = math.inf, math.inf
    too_wide: TooWideError | None = None
    fast = (lightest, along_a_band, as_numbered)
    # Counting the fill of wide graphs takes long.
    heuristics = (lightest, least_fill, *fast[1:]) if len(states) <= FEW_NODES else fast
    for heuristic in heuristics:
        try:
            order, cost, width = heuristic([set(own) for own in neighbours], states, least)
        except TooWideError as error:
            too_wide = error if too_wide is None else min(too_wide, error, key=lambda e: e.elements)
            continue
        if cost < least:
            best, least, narrowest = order, cost, width
        if narrowest <= 1:
            break  # a forest: there is no better order
    if best is None:
        assert too_wide is not None
        raise too_wide
    return best


Found = tuple[Scope, float, int]  # an order, its cost, its width


def remove(node: int, neighbours: Neighbours) -> tuple[set[int], list[tuple[int, int]]]:
    """Sums out a node: its neighbours become neighbours of each other; with the new edges."""
    around = neighbours[node]
    new = []
    for other in around:
        neighbours[other].discard(node)
    for a, b in combinations(around, 2):
        if b not in neighbours[a]:
            neighbours[a].add(b)
            neighbours[b].add(a)
            new.append((a, b))
    return around, new


class Account:
    """What an order has cost so far.

    Args:
        states: The number of states of each node.
        limit: The cost from which on it is given up.
    """

    def __init__(self, states: Sequence[int], limit: float) -> None:
        self.states, self.limit = states, limit
        self.cost, self.width = 0.0, 0

    def add(self, node: int, around: set[int]) -> None:
        """A step.

        Raises:
            TooWideError: If its table is too large.
        """
        size = self.states[node] * math.prod(self.states[other] for other in around)
        if size > MAX_ELEMENTS:
            raise TooWideError(len(around), size)
        self.cost += size
        self.width = max(self.width, len(around))

    @property
    def is_hopeless(self) -> bool:
        """Whether a better order is known already."""
        return self.cost >= self.limit


def greedily(
    neighbours: Neighbours,
    states: Sequence[int],
    limit: float,
    score: Callable[[int], float],
    changed: Callable[[set[int], list[tuple[int, int]]], set[int]],
) -> Found:
    """The order that takes the node with the least score next.

    Args:
        neighbours: The graph, which is used up.
        states: The number of states of each node.
        limit: A cost from which on the order is given up.
        score: Of a node, as the graph is now.
        changed: Whose scores change, from the neighbours of a removed node and the new edges.
    """
    account, order = Account(states, limit), []
    scores = [score(node) for node in range(len(states))]
    heap = [(value, node) for node, value in enumerate(scores)]
    heapq.heapify(heap)
    left = set(range(len(states)))
    while left and not account.is_hopeless:
        value, node = heapq.heappop(heap)
        if node not in left or value != scores[node]:
            continue  # an older entry of this node
        account.add(node, neighbours[node])
        left.discard(node)
        order.append(node)
        for other in changed(*remove(node, neighbours)):
            new = score(other)
            if new != scores[other]:
                scores[other] = new
                heapq.heappush(heap, (new, other))
    return tuple(order), math.inf if left else account.cost, account.width


def lightest(neighbours: Neighbours, states: Sequence[int], limit: float) -> Found:
    """The node with the smallest joined table next."""
    weights = [math.log(q) for q in states]

    def score(node: int) -> float:
        # Sums of logarithms in any order of the set would differ in the last bit.
        return weights[node] + math.fsum(weights[other] for other in neighbours[node])

    return greedily(neighbours, states, limit, score, lambda around, _: around)


def least_fill(neighbours: Neighbours, states: Sequence[int], limit: float) -> Found:
    """The node that makes the fewest new neighbours next."""

    def score(node: int) -> float:
        around = neighbours[node]
        joined = sum(len(neighbours[other] & around) for other in around)
        return (len(around) * (len(around) - 1) - joined) / 2

    def changed(around: set[int], new: list[tuple[int, int]]) -> set[int]:
        # A new edge also makes the fill of those smaller who are neighbours of both its ends.
        return around.union(*(neighbours[a] & neighbours[b] for a, b in new))

    return greedily(neighbours, states, limit, score, changed)


def along_a_band(neighbours: Neighbours, states: Sequence[int], limit: float) -> Found:
    """From one end of the graph to the other, which suits long lattices."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(states)))
    graph.add_edges_from((a, b) for a, own in enumerate(neighbours) for b in own)
    order = list(nx.utils.reverse_cuthill_mckee_ordering(graph))
    return in_order(order, neighbours, states, limit)


def as_numbered(neighbours: Neighbours, states: Sequence[int], limit: float) -> Found:
    """The nodes as they are numbered."""
    return in_order(range(len(states)), neighbours, states, limit)


def in_order(
    order: Sequence[int], neighbours: Neighbours, states: Sequence[int], limit: float
) -> Found:
    """A given order."""
    account = Account(states, limit)
    for node in order:
        if account.is_hopeless:
            return (), math.inf, account.width
        account.add(node, neighbours[node])
        remove(node, neighbours)
    return tuple(order), account.cost, account.width


def schedule_in(order: Scope, states: Sequence[int], scopes: Sequence[Scope]) -> Schedule:
    """The steps of an elimination in a given order."""
    turn = {node: k for k, node in enumerate(order)}
    tables = [tuple(sorted(scope, key=turn.__getitem__)) for scope in scopes]
    holders: list[list[int]] = [[] for _ in states]
    for number, scope in enumerate(tables):
        if scope:
            holders[min(scope, key=turn.__getitem__)].append(number)
    buckets = []
    live = alive = kept = 0
    for node in order:
        inputs = tuple(holders[node])
        union = sorted(
            {other for k in inputs for other in tables[k]} | {node}, key=turn.__getitem__
        )
        bucket = make_bucket(union, inputs, [set(tables[k]) for k in inputs], states)
        buckets.append(bucket)
        if bucket.scope:
            holders[bucket.scope[0]].append(len(tables))
        tables.append(bucket.scope)
        size = math.prod(states[other] for other in bucket.scope)
        live = max(live, alive + 3 * bucket.elements)
        alive += size - sum(
            math.prod(states[other] for other in tables[k]) for k in inputs if k >= len(scopes)
        )
        kept += size
    return Schedule(
        order=tuple(order),
        scopes=tuple(tables),
        buckets=tuple(buckets),
        width=max(len(bucket.scope) for bucket in buckets),
        largest=max(bucket.elements for bucket in buckets),
        live=live,
        kept=kept,
        operations=sum(bucket.elements for bucket in buckets),
    )


def make_bucket(
    union: Sequence[int],
    inputs: tuple[int, ...],
    holding: Sequence[set[int]],
    states: Sequence[int],
) -> Bucket:
    """A step, from the nodes of its joined table in order, the one to be summed out in front."""
    runs: list[int] = []
    owners: list[tuple[int, ...]] = []
    for k, node in enumerate(union):
        own = tuple(i for i, nodes in enumerate(holding) if node in nodes)
        # The node itself is always a run of its own.
        if k > 1 and own == owners[-1]:
            runs[-1] *= states[node]
        else:
            runs.append(states[node])
            owners.append(own)
    members = tuple(
        tuple(r for r, own in enumerate(owners) if i in own) for i in range(len(inputs))
    )
    return Bucket(union[0], inputs, tuple(runs), members, tuple(union[1:]))
