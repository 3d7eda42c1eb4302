"""Couplings as plain tensors: the pair terms between two sites, or inside one.

Modules (`couplings.py`) read their parameters into links; every computation is done with these.
What they couple are features: x itself for numbers, the one-hot vectors of labels.
"""

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import add
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, linear

from pyro_ebm.sites import Sites, is_trusting

from .colouring import Colour, Neighbours, colours_of

# Numbers that are worked on together, so that they stay in the cache.
CACHED = 2**17


def product(x: Tensor, weight: Tensor) -> Tensor:  # (*batch, n), (*batch, n, m) -> (*batch, m)
    """x W, where W may carry batch dimensions of its own."""
    return x @ weight if weight.dim() == 2 else (x.unsqueeze(-2) @ weight).squeeze(-2)


Phase = tuple[Sites, Tensor]  # states (rows, n), and the weights of the rows


def weighted_products(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:  # (n, m)
    """Σ aᵀ diag(w) b over the parts, accumulated in place."""
    (a, w, b), *others = parts
    total = a.mT @ (b * w[:, None])
    for a, w, b in others:
        total.addmm_(a.mT, b * w[:, None])
    return total


def coupling_matrix(sizes: Mapping[str, int], links: "Sequence[Link]", like: Tensor) -> Tensor:
    """The couplings as one symmetric matrix (*batch, n, n) over the features of sites in order.

    Args:
        sizes: The number of features of each site.
        links: Couplings between or inside these sites.
        like: Has the dtype and device.
    """
    starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    batch = torch.broadcast_shapes(*(link.batch for link in links), ())
    total = like.new_zeros((*batch, sum(sizes.values()), sum(sizes.values())))
    for link in links:
        rows, columns = (slice(starts[end], starts[end] + sizes[end]) for end in link.ends)
        total[..., rows, columns] = link.matrix()
        total[..., columns, rows] = link.matrix().mT
    return total


class Change(NamedTuple):
    """A few features of one site that change together.

    Args:
        columns: Their numbers (*batch, k).
        amounts: How much is added to each (*batch, k); zero where the site stays as it is.
    """

    columns: Tensor
    amounts: Tensor

    def each(self) -> Iterator[tuple[Tensor, Tensor]]:  # (*batch,), (*batch,)
        """One changed feature after another."""
        return zip(self.columns.unbind(-1), self.amounts.unbind(-1), strict=True)


def with_rows(field: Tensor, weight: Tensor, change: Change) -> Tensor:  # (*batch, m)
    """`field` plus the rows of couplings (n, m) of the features that change."""
    for column, amount in change.each():
        field = torch.addcmul(field, embedding(column, weight), amount.unsqueeze(-1))
    return field


class Link(ABC):
    """A coupling as plain tensors: the pair terms between two sites, or inside one."""

    ends: tuple[str, str]
    weight: Tensor  # what the pair terms are linear in
    scale: Tensor | None  # (*batch,) a factor of all the couplings; None for 1
    dimensions: ClassVar[int]  # of `weight`, beside the batch

    @property
    def weight_batch(self) -> torch.Size:
        """The batch shape of `weight`."""
        return self.weight.shape[: self.weight.dim() - self.dimensions]

    def filled(self) -> Self:
        """The same link with its scale in the couplings."""
        if self.scale is None:
            return self
        weight = self.times(self.weight, self.dimensions)
        return replace(cast(Any, self), weight=weight, scale=None)

    def weighted(self, weight: Tensor) -> Self:
        """The same link with other couplings."""
        return replace(cast(Any, self), weight=weight)  # every link is a dataclass

    def scaled(self, factor: Tensor) -> Self:  # (*batch,)
        """The same link with all couplings multiplied by a factor.

        One that differs within a batch is kept apart: the couplings stay one matrix for all.
        """
        if not factor.dim():
            return self.weighted(self.weight * factor)
        scale = factor if self.scale is None else self.scale * factor
        return replace(cast(Any, self), scale=scale)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same link with a function of its couplings and of their factor."""
        scale = None if self.scale is None else function(self.scale)
        return replace(cast(Any, self), weight=function(self.weight), scale=scale)

    @property
    def batch(self) -> torch.Size:
        """The batch shape of the couplings."""
        return (
            self.weight_batch
            if self.scale is None
            else torch.broadcast_shapes(self.weight_batch, self.scale.shape)
        )

    def times(self, value: Tensor, own: int) -> Tensor:  # (*batch, *own) -> the same
        """A value that is linear in the couplings, with their scale.

        Args:
            value: What it is without.
            own: Its dimensions beside the batch.
        """
        return value if self.scale is None else value * self.scale[(..., *[None] * own)]

    def field(self, site: str, x: Sites, base: Tensor) -> Tensor:  # (*batch, n)
        """`base` plus the field on every unit of `site`."""
        if self.scale is None:
            return self.plain_field(site, x, base)
        zeros = base.new_zeros(base.shape[-1])
        return base + self.times(self.plain_field(site, x, zeros), 1)

    def interaction(self, x: Sites) -> Tensor:  # (*batch,)
        """Minus the energy of the pair terms."""
        return self.times(self.plain_interaction(x), 0)

    def block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:  # (*batch, len(block))
        """The field on some features of `site`, from all the others."""
        return self.times(self.plain_block_field(site, x, block), 1)

    def field_after(self, field: Tensor, site: str, change: Change) -> Tensor:  # (*batch, m)
        """The field on the far end, once features of `site` have changed; of unbatched couplings.

        What it costs is the couplings of these features, and a copy of the field.
        """
        return self.plain_field_after(
            field, site, change._replace(amounts=self.times(change.amounts, 1))
        )

    def far_end(self, site: str) -> str:
        """The site at the other end; the same one, inside a site."""
        return self.ends[self.ends[0] == site]

    def matrix(self) -> Tensor:  # (*batch, n, m)
        """The couplings as a matrix; symmetric with zero diagonal inside one site."""
        return self.times(self.plain_matrix(), 2)

    @abstractmethod
    def plain_interaction(self, x: Sites) -> Tensor:  # (*batch,)
        """`interaction` without the scale."""

    @abstractmethod
    def plain_field(self, site: str, x: Sites, base: Tensor) -> Tensor:  # (*batch, n)
        """`field` without the scale."""

    @abstractmethod
    def plain_block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        """`block_field` without the scale."""

    @abstractmethod
    def plain_field_after(self, field: Tensor, site: str, change: Change) -> Tensor:
        """`field_after` without the scale."""

    @abstractmethod
    def plain_matrix(self) -> Tensor:  # (*batch, n, m)
        """`matrix` without the scale."""

    @abstractmethod
    def moment(self, phases: "Sequence[Phase]") -> Tensor:  # like `weight`
        """Σ_r weight_r ∂ interaction(x_r) / ∂ weight, over the weighted rows r of all phases."""

    @abstractmethod
    def part(self, site: str, kept: Tensor, colours: tuple[Colour, ...] | None = None) -> Self:
        """The couplings of some features of a site, by number; those of the other site all stay.

        Args:
            site: A site at one of the ends, or at both.
            kept: The features that stay.
            colours: Of the part, for a graph inside the site, where they are known.
        """


@dataclass(frozen=True)
class DenseLink(Link):
    """x_sᵀ W x_t between two sites."""

    ends: tuple[str, str]
    weight: Tensor  # (*batch, n, m)
    scale: Tensor | None = None
    dimensions = 2

    def plain_interaction(self, x: Sites) -> Tensor:
        first, second = self.ends
        return (product(x[first], self.weight) * x[second]).sum(-1)

    def plain_field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        first, second = self.ends
        source, weight = (x[first], self.weight) if site == second else (x[second], self.weight.mT)
        if weight.dim() == 2 and base.dim() == 1:
            return linear(source, weight.mT, base)  # one fused product
        return base + product(source, weight)

    def plain_block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        first, second = self.ends
        if site == second:
            return product(x[first], self.weight[..., block])
        return product(x[second], self.weight[..., block, :].mT)

    @cached_property
    def transposed(self) -> Tensor:  # (m, n)
        """Wᵀ with its rows in one piece, which are read three times as fast as columns of W."""
        return self.weight.mT.contiguous()

    def plain_field_after(self, field: Tensor, site: str, change: Change) -> Tensor:
        weight = self.weight if site == self.ends[0] else self.transposed
        return with_rows(field, weight, change)

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        first, second = self.ends
        return weighted_products([(x[first], weights, x[second]) for x, weights in phases])

    def plain_matrix(self) -> Tensor:
        return self.weight

    def part(self, site: str, kept: Tensor, colours: tuple[Colour, ...] | None = None) -> Self:
        own = self.weight[..., kept, :] if site == self.ends[0] else self.weight[..., kept]
        return self.weighted(own)


@dataclass(frozen=True)
class SymmetricLink(Link):
    """½ xᵀ J x inside one site, J symmetric with zeros where it would couple a unit to itself."""

    ends: tuple[str, str]
    weight: Tensor  # (*batch, n * width, n * width)
    width: int = 1  # features of a unit
    scale: Tensor | None = None
    dimensions = 2

    def plain_interaction(self, x: Sites) -> Tensor:
        value = x[self.ends[0]]
        return (product(value, self.weight) * value).sum(-1) / 2

    def plain_field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        if self.weight.dim() == 2 and base.dim() == 1:
            return linear(x[site], self.weight, base)
        return base + product(x[site], self.weight)

    def plain_block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        return product(x[site], self.weight[..., block])

    def plain_field_after(self, field: Tensor, site: str, change: Change) -> Tensor:
        return with_rows(field, self.weight, change)

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        site = self.ends[0]
        return weighted_products([(x[site], weights, x[site]) for x, weights in phases]) / 2

    def plain_matrix(self) -> Tensor:
        return self.weight

    def part(self, site: str, kept: Tensor, colours: tuple[Colour, ...] | None = None) -> Self:
        return self.weighted(self.weight[..., kept, :][..., kept])


@dataclass(frozen=True, eq=False)
class GraphLink(Link):
    """Σ_e w_e x_i x_j over the edges e = (i, j) of a graph.

    Args:
        ends: The sites of i and of j.
        weight: One coupling for each edge (*batch, edges), or one for all (*batch, 1).
        edges: Unit indices (edges, 2).
        sizes: Numbers of units of the two sites.
        colours: Of the units of the site, where both ends are one site.
        scale: A factor of all couplings (*batch,).
    """

    ends: tuple[str, str]
    weight: Tensor
    edges: Tensor
    sizes: tuple[int, int]
    colours: tuple[Colour, ...]
    scale: Tensor | None = None
    dimensions = 1

    def pairs(self, x: Sites) -> Tensor:  # (*batch, edges)
        """x_i x_j for every edge."""
        first, second = self.ends
        return x[first][..., self.edges[:, 0]] * x[second][..., self.edges[:, 1]]

    def edge_weights(self) -> Tensor:  # (*batch, edges)
        """One coupling for each edge."""
        return self.weight.expand(*self.weight.shape[:-1], len(self.edges))

    def directed(self, site: str, x: Sites) -> tuple[Tensor, Tensor]:
        """The unit of `site` that each term w_e x_j acts on, and the terms (*batch, ...)."""
        first, second = self.edges.unbind(1)
        weight = self.edge_weights()
        targets, terms = [], []
        if site == self.ends[1]:
            targets.append(second)
            terms.append(x[self.ends[0]][..., first] * weight)
        if site == self.ends[0]:
            targets.append(first)
            terms.append(x[self.ends[1]][..., second] * weight)
        return torch.cat(targets), torch.cat(terms, -1)

    def visits(self, x: Tensor, colours: Sequence[Colour]) -> Iterator[tuple[Tensor, Tensor]]:
        """The units of some colours in turn, and on each what its neighbours have as values now.

        Args:
            x: Values (n, batch), which may be changed between the visits.
            colours: The colours.

        Yields:
            Units that do not see one another, and Σ_j w_ij x_j for each (units, batch).
        """
        weight = self.edge_weights()
        chunk = max(1, CACHED // max(1, x.shape[1]))
        for colour in colours:
            for start in range(0, len(colour.units), chunk):
                near = colour.part(start, start + chunk)
                # A bag of rows for each unit, added up as they are read: nothing is made that has
                # the size (edges, batch).
                yield (
                    near.units,
                    embedding_bag(
                        near.sources,
                        x,
                        near.starts,
                        mode="sum",
                        per_sample_weights=weight.index_select(0, near.edges),
                        include_last_offset=True,
                    ),
                )

    def plain_interaction(self, x: Sites) -> Tensor:
        if self.weight_batch:
            return (self.pairs(x) * self.weight).sum(-1)
        batch, other = (x[end].shape[:-1] for end in self.ends)
        if batch != other or 0 in batch:
            return (self.pairs(x) * self.weight).sum(-1)
        first, second = (x[end].reshape(-1, x[end].shape[-1]).mT.contiguous() for end in self.ends)
        # Bags of rows have no second derivative, and no rule for vmap.
        if self.colours and not (torch.is_grad_enabled() or is_trusting()):
            return self.interaction_of_rows(first).reshape(batch)
        # Whole rows of a (unit, batch) layout: twice as fast as picking columns.
        total = self.weight.new_zeros(first.shape[1])
        chunk = max(1, CACHED // first.shape[1])
        for edges, weight in zip(
            self.edges.split(chunk), self.edge_weights().split(chunk), strict=True
        ):
            total = total + weight @ (first[edges[:, 0]] * second[edges[:, 1]])
        return total.reshape(batch)

    def interaction_of_rows(self, x: Tensor) -> Tensor:  # (n, batch) -> (batch,)
        """`plain_interaction` inside one site, without a history."""
        # An edge has an end in each of two colours; of more, it is seen from both its ends.
        colours = self.colours[:1] if len(self.colours) == 2 else self.colours
        total = x.new_zeros(x.shape[1])
        for units, sums in self.visits(x, colours):
            total += sums.mul_(x[units]).sum(0)
        return total if len(colours) == 1 else total / 2

    def plain_field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        target, terms = self.directed(site, x)
        size = self.sizes[self.ends.index(site)]
        field = terms.new_zeros((*terms.shape[:-1], size)).index_add(-1, target, terms)
        return base + field

    def plain_block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        size = self.sizes[self.ends.index(site)]
        return self.plain_field(site, x, self.weight.new_zeros(size))[..., block]

    @cached_property
    def neighbours(self) -> dict[str, Neighbours]:
        """Of each site, the neighbours of its units."""
        lists: dict[str, list[tuple[Tensor, Tensor]]] = {end: [] for end in self.ends}
        for k, end in enumerate(self.ends):
            lists[end].append((self.edges[:, k], self.edges[:, 1 - k]))
        sizes = zip(self.ends, self.sizes, strict=True)
        return {end: Neighbours.of(lists[end], size) for end, size in sizes}

    def plain_field_after(self, field: Tensor, site: str, change: Change) -> Tensor:
        around, size = self.neighbours[site], field.shape[-1]
        weight, flat = self.edge_weights(), field.flatten().clone()
        for column, amount in change.each():
            column, amount = column.flatten(), amount.flatten()
            degree = around.degree[column]
            chain = torch.arange(len(column), device=column.device).repeat_interleave(degree)
            # The place in the list of all neighbours, of the k-th of those concerned.
            before = degree.cumsum(0) - degree
            place = torch.arange(len(chain), device=column.device)
            place = place + (around.first[column] - before)[chain]
            pull = weight[around.edge[place]] * amount[chain]
            flat.index_add_(0, chain * size + around.unit[place], pull)
        return flat.reshape(field.shape)

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        total = functools.reduce(add, (weights @ self.pairs(x) for x, weights in phases))
        return total if self.weight.shape[-1] == len(total) else total.sum(-1, keepdim=True)

    def plain_matrix(self) -> Tensor:
        weight = self.edge_weights()
        first, second = self.edges.unbind(1)
        flat = weight.new_zeros((*weight.shape[:-1], self.sizes[0] * self.sizes[1]))
        flat = flat.index_add(-1, first * self.sizes[1] + second, weight)
        matrix = flat.unflatten(-1, self.sizes)
        return matrix + matrix.mT if self.ends[0] == self.ends[1] else matrix

    def part(self, site: str, kept: Tensor, colours: tuple[Colour, ...] | None = None) -> Self:
        edges, sizes, here = self.edges, list(self.sizes), torch.ones_like(self.edges[:, 0]).bool()
        for k, end in enumerate(self.ends):
            if end == site:
                number = self.edges.new_full((self.sizes[k],), -1)
                number[kept] = torch.arange(len(kept), device=number.device)
                ends = list(edges.unbind(1))
                ends[k] = number[ends[k]]
                here = here & (ends[k] >= 0)
                edges = torch.stack(ends, 1)
                sizes[k] = len(kept)
        weight = self.weight if self.weight.shape[-1] == 1 else self.weight[..., here]
        if colours is None:
            colours = colours_of(edges[here], sizes[0]) if self.colours else ()
        return replace(
            self, weight=weight, edges=edges[here], sizes=(sizes[0], sizes[1]), colours=colours
        )
