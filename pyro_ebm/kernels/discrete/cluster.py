r"""Cluster moves: whole sets of spins turned at once (Swendsen–Wang, Wolff).

For two-valued units written as spins, :math:`E(s) = -\sum_e w_e s_i s_j - \sum_i b_i s_i`. Given
s, each coupling that is satisfied, :math:`w_e s_i s_j > 0`, is a bond with the probability
:math:`1 - e^{-2 |w_e|}`; given the bonds, every cluster of bonded units may be turned as one. A
bias is the coupling to one more spin that is never turned (the ghost).

It pays where all couplings can be satisfied at once: ferromagnets, and what a gauge makes one
(some spins renamed to their opposite). Where they cannot (frustration) the bonds join nearly all
units at temperatures at which nothing has been decided, and such machines are refused.
"""

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import (
    Energy,
    GraphLink,
    PairwiseTerms,
    Structure,
    require_pairwise,
    terms_of,
)
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.base import ReversibleKernel
from pyro_ebm.kernels.start import accept_all
from pyro_ebm.sites import Site, Sites, two_values
from pyro_ebm.units import Bernoulli, Spin


class Bonds(NamedTuple):
    """The couplings of all units as edges of one graph, the ghost being its last node.

    Args:
        edges: Pairs of units of all sites in order; the ghost is the number of units (edges, 2).
        weight: w, in spins (*machines, edges).
        nodes: The number of units, and one.
    """

    edges: Tensor
    weight: Tensor
    nodes: int


class ClusterState(NamedTuple):
    """The position, and the couplings as read."""

    x: Sites
    bonds: Bonds


class ClusterInfo(NamedTuple):
    """How large the clusters are (*batch,).

    Args:
        cluster_size: The mean size of the cluster of a unit, as a share of all units.
    """

    cluster_size: Tensor


class ClusterKernel(ReversibleKernel[ClusterState, ClusterInfo]):
    """Turns some of the clusters, never that of the ghost."""

    @abstractmethod
    def chosen(self, spins: Tensor, root: Tensor) -> Tensor:  # (*batch, nodes)
        """The nodes whose clusters are turned, but for the ghost's.

        Args:
            spins: The nodes (*batch, nodes).
            root: Of each node the first node of its cluster (*batch, nodes).
        """

    def reversed(self, energy: Energy) -> Self:
        return self

    def init(self, energy: Energy, x: Sites) -> ClusterState:
        mover = type(self).__name__
        with torch.no_grad():
            structure = energy.structure()
            terms = terms_of(structure)
            if terms is None or not has_spins(terms):
                raise TypeError(
                    f"{mover} moves machines of bits or spins; {type(energy).__name__} is none. "
                    f"Use GibbsWithGradients() or DiscreteLangevin() for other discrete energies."
                )
            terms.require_finite()
            bonds = read_bonds(terms)
        x = accept_all(energy, x, structure)
        gauge(bonds, mover)
        return ClusterState(x, bonds)

    @torch.no_grad()
    def refresh(self, energy: Energy, state: ClusterState, x: Sites) -> ClusterState:
        terms = require_pairwise(energy, "A cluster move")
        terms.require_finite()
        bonds = read_bonds(terms)
        same = bonds.weight.shape == state.bonds.weight.shape
        # Only other signs can make another gauge.
        if not (same and torch.equal(bonds.weight.sign(), state.bonds.weight.sign())):
            gauge(bonds, "A cluster move")
        return ClusterState(x, bonds)

    @torch.no_grad()
    def step(self, energy: Energy, state: ClusterState) -> tuple[ClusterState, ClusterInfo]:
        spins = joined_spins(energy, state.x)
        root = clusters(spins, state.bonds)
        turned = self.chosen(spins, root) & (root != root[..., -1:])
        return settle(energy, state, turned, root)


@dataclass(frozen=True, eq=False)
class SwendsenWang(ClusterKernel):
    """All clusters at once: each is turned with the probability ½, but for the ghost's.

    It moves all units of a machine of bits or spins whose couplings can all be satisfied at once.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, SwendsenWang, run
        >>> magnet = BoltzmannMachine.on_graph(
        ...     [(0, 1), (1, 2), (2, 0)], couplings=torch.tensor([3.0])
        ... )
        >>> chains = run(SwendsenWang(), magnet, 5, warmup=0, chains=400, seed=0)
        >>> abs(float(chains.draws["visible"].double().mean())) < 0.1  # up as often as down
        True

    References:
        | Nonuniversal critical dynamics in Monte Carlo simulations (Swendsen & Wang, 1987)
        | https://doi.org/10.1103/PhysRevLett.58.86
    """

    def chosen(self, spins: Tensor, root: Tensor) -> Tensor:
        return chance.happens(torch.full_like(spins, 0.5)).gather(-1, root)


@dataclass(frozen=True, eq=False)
class Wolff(ClusterKernel):
    """One cluster, that of a unit drawn at random: it is turned, unless it holds the ghost.

    It moves the units of a machine of bits or spins whose couplings can all be satisfied at once.
    The cluster is made with all the others, in parallel for all chains, so that a step costs as
    much as one of `SwendsenWang`, which moves more: take this one where the moves themselves are
    of interest.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Wolff, run
        >>> magnet = BoltzmannMachine.on_graph(
        ...     [(0, 1), (1, 2), (2, 0)], couplings=torch.tensor([3.0])
        ... )
        >>> run(Wolff(), magnet, 10, warmup=0, seed=0).draws["visible"].shape
        torch.Size([4, 10, 3])

    References:
        | Collective Monte Carlo updating for spin systems (Wolff, 1989)
        | https://doi.org/10.1103/PhysRevLett.62.361
    """

    def chosen(self, spins: Tensor, root: Tensor) -> Tensor:
        seed = chance.choose(torch.zeros_like(spins[..., :-1])).unsqueeze(-1)
        return root == root.gather(-1, seed)


@torch.no_grad()
def suits_clusters(structure: Structure) -> bool:
    """Whether it is bits or spins on a graph, all of whose couplings can be satisfied at once."""
    terms = terms_of(structure)
    if (
        terms is None
        or not has_spins(terms)
        or not terms.links
        or not all(isinstance(link, GraphLink) for link in terms.links)
    ):
        return False
    try:
        gauge(read_bonds(terms), "SwendsenWang")
    except ValueError:
        return False
    return True


def has_spins(terms: PairwiseTerms) -> bool:
    """Whether all units are bits or spins, without a potential of their own."""
    return all(unit in (Bernoulli(), Spin()) for unit in terms.units.values())


def read_bonds(terms: PairwiseTerms) -> Bonds:
    """The couplings of a machine of bits or spins as edges between spins, biases to the ghost."""
    terms = terms.substituted(Bernoulli(), Spin(), 0.5, 0.5)
    sizes = [bias.shape[-1] for bias in terms.biases.values()]
    first = dict(zip(terms.biases, itertools.accumulate(sizes, initial=0), strict=False))
    nodes = sum(sizes)
    edges, weights = [], []
    for link in terms.links:
        if isinstance(link, GraphLink):
            pairs, weight = link.edges, link.times(link.edge_weights(), 1)
        else:
            matrix = link.matrix()
            rows, columns = matrix.shape[-2:]
            if link.ends[0] == link.ends[1]:
                pairs = torch.triu_indices(rows, columns, 1, device=matrix.device).mT
            else:
                ones = torch.ones(rows, columns, dtype=torch.bool, device=matrix.device)
                pairs = ones.nonzero()
            weight = matrix[..., pairs[:, 0], pairs[:, 1]]
        offset = torch.tensor([first[end] for end in link.ends], device=pairs.device)
        edges.append(pairs + offset)
        weights.append(weight)
    for site, bias in terms.biases.items():
        units = torch.arange(bias.shape[-1], device=bias.device) + first[site]
        edges.append(torch.stack([units, torch.full_like(units, nodes)], 1))
        weights.append(bias)
    weight = torch.cat([w.expand(*terms.batch, w.shape[-1]) for w in weights], -1)
    there = (weight != 0).reshape(-1, weight.shape[-1]).any(0)
    return Bonds(torch.cat(edges)[there], weight[..., there], nodes + 1)


def joined_spins(energy: Energy, x: Sites) -> Tensor:  # (*batch, nodes)
    """The units of all sites as spins, and the ghost."""
    parts = [
        x[name] if total_of(site) == 0 else 2 * x[name] - total_of(site)
        for name, site in energy.sites.items()
    ]
    return torch.cat([*parts, torch.ones_like(parts[0][..., :1])], -1)


def total_of(site: Site) -> float:
    """The sum of the two values of a unit: 1 of bits, 0 of spins."""
    return sum(two_values(site.support) or ())


def bond_probability(spins: Tensor, bonds: Bonds) -> Tensor:  # (*batch, edges)
    """With what probability each coupling is a bond, given the spins (*batch, nodes)."""
    first, second = bonds.edges.unbind(1)
    # Whole rows of a (node, batch) layout: several times as fast as picking columns.
    rows = spins.reshape(-1, bonds.nodes).mT.contiguous()
    agree = (rows[first] * rows[second]).mT.reshape(*spins.shape[:-1], len(first))
    return agree.mul(bonds.weight).relu_().mul_(-2).expm1_().neg_()


def clusters(spins: Tensor, bonds: Bonds) -> Tensor:  # (*batch, nodes)
    """The clusters of newly drawn bonds: of each node the first node of its cluster."""
    return components(bonds.edges, chance.happens(bond_probability(spins, bonds)), bonds.nodes)


def components(edges: Tensor, present: Tensor, nodes: int) -> Tensor:  # (*batch, nodes)
    """The connected components of many graphs: of each node the first node of its component.

    Roots of trees are hooked to smaller roots across the edges between them, all at once, and the
    paths to the roots are halved until every node points to its own.

    Args:
        edges: Pairs of nodes (edges, 2).
        present: Which of them each graph has (*batch, edges).
        nodes: How many there are.

    References:
        | An O(log n) parallel connectivity algorithm (Shiloach & Vishkin, 1982)
        | https://doi.org/10.1016/0196-6774(82)90008-6
    """
    batch = present.shape[:-1]
    graphs = batch.numel()
    # Node n of graph g is numbered n · graphs + g, so that a smaller number is an earlier node.
    edge, graph = present.reshape(graphs, -1).mT.nonzero().unbind(1)
    first, second = ((end * graphs).index_select(0, edge).add_(graph) for end in edges.unbind(1))
    label = torch.arange(nodes * graphs, device=edges.device)
    while len(first):
        # Where several hooks meet, any of them will do: what is left is done in the next round.
        label[torch.maximum(first, second)] = torch.minimum(first, second)
        shorter = label.index_select(0, label)
        while not torch.equal(shorter, label):
            label, shorter = shorter, shorter.index_select(0, shorter)
        first, second = label.index_select(0, first), label.index_select(0, second)
        apart = first != second
        first, second = first[apart], second[apart]
    return (label // graphs).reshape(nodes, graphs).mT.reshape(*batch, nodes)


def gauge(bonds: Bonds, mover: str) -> Tensor:  # (*machines, nodes)
    """The spins in {-1, 1} that satisfy all couplings at once, the ghost's being 1.

    Two copies of the graph are joined along the couplings, crosswise where they are negative. All
    can be satisfied where no unit is connected with its own copy.

    Raises:
        ValueError: If some cannot be satisfied.
    """
    first, second = bonds.edges.unbind(1)
    n = bonds.nodes
    straight = [torch.stack([first + k, second + k], 1) for k in (0, n)]
    crossed = [torch.stack([first + k, second + n - k], 1) for k in (0, n)]
    positive, negative = bonds.weight > 0, bonds.weight < 0
    root = components(
        torch.cat([*straight, *crossed]),
        torch.cat([positive, positive, negative, negative], -1),
        2 * n,
    )
    one, other = root[..., :n], root[..., n:]
    torn = (one == other).reshape(-1, n).any(0)
    units = int(torn[:-1].sum())  # the ghost is none
    if bool(torn.any()):
        raise ValueError(
            f"The couplings and biases are frustrated: around {units} of the {n - 1} units and the "
            f"biases they cannot all be satisfied at once, and clusters would join nearly all "
            f"units. {mover} wanted a ferromagnet, or what renaming some units to their opposite "
            f"makes one. Use ParallelTempering(Gibbs(), betas)."
        )
    up = torch.where(one < other, 1, -1)
    return up * up[..., -1:]


def settle(
    energy: Energy, state: ClusterState, turned: Tensor, root: Tensor
) -> tuple[ClusterState, ClusterInfo]:
    """The state after some units (*batch, nodes) were turned, and the sizes of the clusters."""
    x, first = {}, 0
    for name, site in energy.sites.items():
        last = first + site.shape.numel()
        value = state.x[name]
        x[name] = torch.where(turned[..., first:last], total_of(site) - value, value)
        first = last
    units = root[..., :-1]
    size = torch.zeros_like(root, dtype=value.dtype)
    size.scatter_add_(-1, units, torch.ones_like(units, dtype=value.dtype))
    share = size.square().sum(-1) / units.shape[-1] ** 2
    return ClusterState(x, state.bonds), ClusterInfo(share)
