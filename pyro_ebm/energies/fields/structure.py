"""What is known of labels that factors couple: by these factors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies.held import Held
from pyro_ebm.energies.pairwise.colouring import coloured
from pyro_ebm.energies.structure import (
    AloneSweep,
    Block,
    Blockwise,
    Differences,
    Memory,
    Overlay,
    Structure,
    UnitLevels,
    by_autograd,
    constants_last,
    require_site,
    sweep_blocks,
    times,
)
from pyro_ebm.energies.without_terms import mixed
from pyro_ebm.sites import Site, Sites

from .factor_graph import FactorGraph, Neighbourhood, neighbourhood
from .labels import LabelDistribution, draw_labels
from .overlay import FieldOverlay


@dataclass(frozen=True, eq=False, repr=False)
class FieldStructure(Blockwise):
    """Labels at one site, by their factors.

    Args:
        sites: The site.
        graph: The parameters, read once: what every computation is done with.
        memory: Has the colours of the nodes, once they are known.
    """

    sites: Mapping[str, Site]
    graph: FactorGraph
    memory: Memory = field(default_factory=dict)
    has_terms = True

    @property
    def site(self) -> str:
        """The name of the site."""
        return next(iter(self.sites))

    @property
    def batch(self) -> torch.Size:
        return self.graph.batch

    @property
    def colours(self) -> tuple[Neighbourhood, ...]:
        """The nodes in sets that share no factor, with the factors around them."""
        key = "colours", self.graph.constant.device
        if key not in self.memory:
            self.memory[key] = colours_of(self.graph)
        found: tuple[Neighbourhood, ...] = self.memory[key]
        return found

    def energy(self, x: Sites) -> Tensor:
        (value,) = x.values()
        energy = self.graph.energy(value.to(torch.int64))
        return energy.expand(torch.broadcast_shapes(energy.shape, value.shape[:-1]))

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        return by_autograd(self.energy, x, sites)

    def differences(self, x: Sites, sites: Sequence[str]) -> Differences:
        (value,) = x.values()
        graph, labels = self.graph, value.to(torch.int64)
        parts = [graph.logits(labels, colour).neg().movedim(0, -1) for colour in self.colours]
        order = torch.cat([colour.nodes for colour in self.colours]).argsort()
        heights = torch.cat(parts, -2).index_select(-2, order)
        here = graph.energy(labels).expand(heights.shape[:-2])
        slopes = {self.site: heights.flatten(-2).to(value.dtype)}
        return Differences(here, slopes, {self.site: None})

    def levels(self, site: str) -> UnitLevels | None:
        q = max(self.graph.states)
        return UnitLevels(torch.arange(q, dtype=torch.float64), torch.eye(q, dtype=torch.float64))

    def blocks(self, site: str) -> tuple[Block, ...]:
        require_site(site, self.sites)
        return tuple(colour.nodes for colour in self.colours)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        require_site(site, self.sites)
        if site not in x:
            raise ValueError(f"Values are missing for the site {site!r}; given were {list(x)}.")
        logits = self.graph.logits(x[site].to(torch.int64), self.around(block))
        if not bool(logits.amax(0).isfinite().all()):
            self.graph.require_finite()
            raise ValueError(
                "A node has no label left that its neighbours allow: the state has probability "
                "zero. Start from an allowed state, for example a draw or the mode."
            )
        return LabelDistribution(logits=logits.movedim(0, -1))

    def log_weights(self, site: str, x: Sites, block: Block, values: Tensor) -> Tensor:
        return self.graph.logits(x[site].to(torch.int64), self.around(block)).movedim(0, -1)

    def sweep(self, site: str, x: Sites) -> Tensor:
        return sweep_blocks(self, site, x)

    def sweep_alone(self, site: str) -> AloneSweep | None:
        return partial(sweep_field, self)

    def conditioned(self, held: Held, memory: Memory) -> "FieldStructure":
        here, value = held.elements(self.site), held.value(self.site)
        nodes = here.nonzero()[:, 0]
        graph, _ = self.graph.clamped(nodes, value[..., nodes].to(torch.int64))
        return FieldStructure(held.sites, graph, memory)

    @classmethod
    def overlaid(cls, parts: Sequence[Structure], memory: Memory) -> Overlay:
        first, *others = [part.sites for part in parts if part.sites]
        if any(own.keys() != first.keys() for own in others):
            return mixed(parts)
        order = constants_last(parts)
        ordered = [parts[k] for k in order]
        laid = FieldOverlay.of(
            [graph_of(part) or FactorGraph((), {}, part.energy({})) for part in ordered]
        )
        return Overlay(partial(weighted_sum, first, memory, laid, order))

    def field(self, site: str, x: Sites) -> Tensor:
        raise TypeError(
            f"The labels of {site!r} are in no field, which units of a BoltzmannMachine are; ask "
            f"for conditional({site!r}, x, block), which has the log-odds of all labels."
        )

    def require_finite(self) -> None:
        self.graph.require_finite()

    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        (value,) = x.values()
        found = []
        for name, group in self.graph.groups.items():
            never = group.log_potentials(value.to(torch.int64)).isneginf()
            nodes = group.nodes[never.reshape(-1, len(group.nodes)).any(0)].tolist()
            found += [f"the factor {name!r} over the nodes {tuple(own)}" for own in nodes]
        return tuple(found)

    def parts_at(self, x: Sites) -> list[tuple[Structure, Sites]]:
        return []

    def around(self, block: Block | None) -> Neighbourhood:
        """The neighbourhood of a block; those of `blocks` are known, others are found.

        Raises:
            ValueError: If no block is given and there are several.
        """
        if block is None:
            if len(self.colours) > 1:
                raise ValueError(
                    f"The nodes are coupled among themselves, so their joint conditional does not "
                    f"factorise. Ask for one of blocks({self.site!r})."
                )
            return self.colours[0]
        for colour in self.colours:
            if colour.nodes is block:
                return colour
        n = len(self.graph.states)
        nodes = torch.arange(n, device=self.graph.constant.device)[block]
        return neighbourhood(members(self.graph), nodes, n)


def weighted_sum(
    sites: Mapping[str, Site],
    memory: Memory,
    laid: FieldOverlay,
    order: Sequence[int],
    weights: Sequence[Tensor],
) -> FieldStructure:
    """The structure of a weighted sum of fields and constants, which are laid in some order."""
    return FieldStructure(sites, laid.weighted([weights[k] for k in order]), memory)


def sweep_field(
    known: FieldStructure, value: Tensor, log_weights: Tensor, weight: Tensor | None = None
) -> Tensor:
    """A sweep over the nodes of a random field, as `AloneSweep` says."""
    graph, labels = known.graph, value.to(torch.int64)
    allowed = graph.allowed()
    for colour in known.colours:
        logits = graph.logits(labels, colour)
        own = log_weights[..., colour.nodes].to(logits)
        if weight is not None:
            # Not the tables: with a weight for each chain there would be as many of them.
            ever = allowed[colour.nodes].mT.reshape(len(logits), *[1] * weight.dim(), -1)
            logits = times(weight[..., None], logits) + ever
        labels[..., colour.nodes] = draw_labels(logits + own)
    return labels.to(value.dtype)


def graph_of(structure: Structure) -> FactorGraph | None:
    """The factors of a random field; None of anything else."""
    return structure.graph if isinstance(structure, FieldStructure) else None


def members(graph: FactorGraph) -> dict[str, Tensor]:
    """The nodes of the factors of each group (count, arity)."""
    return {name: group.nodes for name, group in graph.groups.items()}


def colours_of(graph: FactorGraph) -> tuple[Neighbourhood, ...]:
    """The nodes in sets that share no factor, with the factors around them."""
    own, n = members(graph), len(graph.states)
    colour = colouring(list(own.values()), n).to(graph.constant.device)
    return tuple(
        neighbourhood(own, (colour == k).nonzero()[:, 0], n) for k in range(int(colour.max()) + 1)
    )


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
    edges: list[tuple[int, int]] = []
    for nodes in groups:
        columns = nodes.mT.tolist()
        for k, first in enumerate(columns):
            for second in columns[:k]:
                edges += zip(first, second, strict=True)
    return coloured(edges, n)
