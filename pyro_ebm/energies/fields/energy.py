"""What a random field can be asked, however its factors are made."""

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import networkx as nx
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies.base import Block, BlockEnergy
from pyro_ebm.sites import Site, Sites

from .factor_graph import FactorGraph, Neighbourhood, neighbourhood
from .labels import LabelDistribution


class FieldEnergy(BlockEnergy):
    """An energy of labels at one site, coupled by factors."""

    states: tuple[int, ...]  # of each node

    @abstractmethod
    def read(self) -> FactorGraph:
        """All parameters, read once, as plain tensors: what every computation is done with."""

    def evaluate(self, x: Sites) -> Tensor:
        (value,) = x.values()
        energy = self.read().energy(value.to(torch.int64))
        return energy.expand(torch.broadcast_shapes(energy.shape, value.shape[:-1]))

    @functools.cached_property
    def colours(self) -> tuple[Neighbourhood, ...]:
        """The nodes in sets that share no factor, with the factors around them."""
        with torch.no_grad():
            members = self.members()
        n = len(self.states)
        colour = colouring(list(members.values()), n).to(self.device)
        return tuple(
            neighbourhood(members, (colour == k).nonzero()[:, 0], n)
            for k in range(int(colour.max()) + 1)
        )

    def blocks(self, site: str) -> tuple[Block, ...]:
        self.check_site(site)
        return tuple(colour.nodes for colour in self.colours)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        self.check_site(site)
        x = self.accept(x)
        if site not in x:
            raise ValueError(f"Values are missing for the site {site!r}; given were {list(x)}.")
        graph = self.read()
        logits = graph.logits(x[site].to(torch.int64), self.around(block))
        if not bool(logits.amax(0).isfinite().all()):
            graph.require_finite()
            raise ValueError(
                "A node has no label left that its neighbours allow: the state has probability "
                "zero. Start from an allowed state, for example a draw or the mode."
            )
        return LabelDistribution(logits=logits.movedim(0, -1))

    def around(self, block: Block | None) -> Neighbourhood:
        """The neighbourhood of a block; those of `blocks` are known, others are found.

        Raises:
            ValueError: If no block is given and there are several.
        """
        if block is None:
            if len(self.colours) > 1:
                raise ValueError(
                    f"The nodes are coupled among themselves, so their joint conditional does not "
                    f"factorise. Ask for one of blocks({next(iter(self.sites))!r})."
                )
            return self.colours[0]
        for colour in self.colours:
            if colour.nodes is block:
                return colour
        nodes = torch.arange(len(self.states), device=self.device)[block]
        return neighbourhood(self.members(), nodes, len(self.states))

    def members(self) -> dict[str, Tensor]:
        """The nodes of the factors of each group (count, arity)."""
        return {name: group.nodes for name, group in self.read().groups.items()}

    def check_site(self, site: str) -> None:
        """Refuses a site that the field does not have.

        Raises:
            ValueError: If it has not.
        """
        if site not in self.sites:
            raise ValueError(f"Unknown site {site!r}; the field has {list(self.sites)}.")


class GivenField(FieldEnergy):
    """A random field by its factors, which have been read.

    Args:
        sites: Its one site.
        graph: Its factors.
        colours: Of its nodes.
    """

    def __init__(
        self, sites: Mapping[str, Site], graph: FactorGraph, colours: tuple[Neighbourhood, ...]
    ) -> None:
        super().__init__()
        self.sites, self.graph, self.states = sites, graph, graph.states
        self.colours = colours

    @property
    def dtype(self) -> torch.dtype:
        return self.graph.constant.dtype

    @property
    def device(self) -> torch.device:
        return self.graph.constant.device

    def read(self) -> FactorGraph:
        return self.graph


def site_of(states: Sequence[int], device: torch.device) -> Site:
    """The site of nodes with so many states each."""
    largest = max(states)
    same = set(states) == {largest}
    upper = largest - 1 if same else torch.tensor(states, device=device) - 1
    return Site(constraints.integer_interval(0, upper), torch.Size([len(states)]))


def colouring(groups: Sequence[Tensor], n: int) -> Tensor:  # (n,)
    """Colours of nodes, those of one factor all different: two if bipartite, else greedily.

    Args:
        groups: The nodes of factors (count, arity).
        n: The number of nodes.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    for nodes in groups:
        columns = nodes.mT.tolist()
        for k, first in enumerate(columns):
            for second in columns[:k]:
                graph.add_edges_from(zip(first, second, strict=True))
    if nx.is_bipartite(graph):
        colour = nx.bipartite.color(graph)
    else:
        colour = nx.greedy_color(graph, strategy="largest_first")
    return torch.tensor([colour[node] for node in range(n)])
