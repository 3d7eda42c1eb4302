r"""Units in fields, with the parameters read once.

.. math::

    E(x) = c + \sum_s \Big( \sum_i u_s(x_{si}) - b_s^\top x_s \Big)
        - \sum_{(s,t)} x_s^\top W_{st} x_t

(inside one site each pair of units counts once). `PairwiseTerms` holds such an energy as plain
tensors: couplings as links, offsets folded into biases and constant. Energies, fields, sweeps and
closed-form gradients are computed on it; modules only say how their parameters make it.
"""

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from pyro_ebm.sites import Sites
from pyro_ebm.units import Unit

from .base import Block

WHOLE = slice(None)


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


class Link(ABC):
    """A coupling as plain tensors: the pair terms between two sites, or inside one."""

    ends: tuple[str, str]
    weight: Tensor  # what the pair terms are linear in

    def weighted(self, weight: Tensor) -> Self:
        """The same link with other couplings."""
        other = copy(self)
        object.__setattr__(other, "weight", weight)
        return other

    @property
    @abstractmethod
    def batch(self) -> torch.Size:
        """The batch shape of the couplings."""

    @abstractmethod
    def interaction(self, x: Sites) -> Tensor:  # (*batch,)
        """Minus the energy of the pair terms."""

    @abstractmethod
    def field(self, site: str, x: Sites, base: Tensor) -> Tensor:  # (*batch, n)
        """`base` plus the field on every unit of `site`."""

    @abstractmethod
    def block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:  # (*batch, len(block))
        """The field on some units of `site`, from all the others."""

    @abstractmethod
    def moment(self, phases: "Sequence[Phase]") -> Tensor:  # like `weight`
        """Σ_r weight_r ∂ interaction(x_r) / ∂ weight, over the weighted rows r of all phases."""

    @abstractmethod
    def matrix(self) -> Tensor:  # (*batch, n, m)
        """The couplings as a matrix; symmetric with zero diagonal inside one site."""


@dataclass(frozen=True)
class DenseLink(Link):
    """x_sᵀ W x_t between two sites."""

    ends: tuple[str, str]
    weight: Tensor  # (*batch, n, m)

    @property
    def batch(self) -> torch.Size:
        return self.weight.shape[:-2]

    def interaction(self, x: Sites) -> Tensor:
        first, second = self.ends
        return (product(x[first], self.weight) * x[second]).sum(-1)

    def field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        first, second = self.ends
        source, weight = (x[first], self.weight) if site == second else (x[second], self.weight.mT)
        if weight.dim() == 2 and base.dim() == 1:
            return linear(source, weight.mT, base)  # one fused product
        return base + product(source, weight)

    def block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        first, second = self.ends
        if site == second:
            return product(x[first], self.weight[..., block])
        return product(x[second], self.weight[..., block, :].mT)

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        first, second = self.ends
        return weighted_products([(x[first], weights, x[second]) for x, weights in phases])

    def matrix(self) -> Tensor:
        return self.weight


@dataclass(frozen=True)
class SymmetricLink(Link):
    """½ xᵀ J x inside one site, J symmetric with zero diagonal."""

    ends: tuple[str, str]
    weight: Tensor  # (*batch, n, n)

    @property
    def batch(self) -> torch.Size:
        return self.weight.shape[:-2]

    def interaction(self, x: Sites) -> Tensor:
        value = x[self.ends[0]]
        return (product(value, self.weight) * value).sum(-1) / 2

    def field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        if self.weight.dim() == 2 and base.dim() == 1:
            return linear(x[site], self.weight, base)
        return base + product(x[site], self.weight)

    def block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        return product(x[site], self.weight[..., block])

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        site = self.ends[0]
        return weighted_products([(x[site], weights, x[site]) for x, weights in phases]) / 2

    def matrix(self) -> Tensor:
        return self.weight


class Colour(NamedTuple):
    """Units of a site that share no edge, and where their neighbours are.

    The units stand in order of falling degree, so that slot k, the k-th neighbour of each, concerns
    the first `len(source)` of them. Units with more neighbours than there are slots (hubs) have the
    remaining ones listed on their own.
    """

    units: Tensor  # (k,)
    slots: tuple[tuple[Tensor, Tensor], ...]  # (source units, edges)
    hubs: tuple[tuple[int, Tensor, Tensor], ...]  # (position in `units`, source units, edges)


@dataclass(frozen=True, eq=False)
class GraphLink(Link):
    """Σ_e w_e x_i x_j over the edges e = (i, j) of a graph.

    Args:
        ends: The sites of i and of j.
        weight: One coupling for each edge (*batch, edges), or one for all (*batch, 1).
        edges: Unit indices (edges, 2).
        sizes: Numbers of units of the two sites.
        colours: Of the units of the site, where both ends are one site.
    """

    ends: tuple[str, str]
    weight: Tensor
    edges: Tensor
    sizes: tuple[int, int]
    colours: tuple[Colour, ...]

    @property
    def batch(self) -> torch.Size:
        return self.weight.shape[:-1]

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

    def interaction(self, x: Sites) -> Tensor:
        if self.batch:
            return (self.pairs(x) * self.weight).sum(-1)
        batch, other = (x[end].shape[:-1] for end in self.ends)
        if batch != other or batch.numel() == 0:
            return (self.pairs(x) * self.weight).sum(-1)
        first, second = (x[end].reshape(-1, x[end].shape[-1]).mT.contiguous() for end in self.ends)
        # Whole rows of a (unit, batch) layout: ten times as fast as picking columns.
        total = self.weight.new_zeros(first.shape[1])
        chunk = max(1, CACHED // first.shape[1])
        for edges, weight in zip(
            self.edges.split(chunk), self.edge_weights().split(chunk), strict=True
        ):
            total = total + weight @ (first[edges[:, 0]] * second[edges[:, 1]])
        return total.reshape(batch)

    def field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        target, terms = self.directed(site, x)
        size = self.sizes[self.ends.index(site)]
        field = terms.new_zeros((*terms.shape[:-1], size)).index_add(-1, target, terms)
        return base + field

    def block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        size = self.sizes[self.ends.index(site)]
        return self.field(site, x, self.weight.new_zeros(size))[..., block]

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        total = functools.reduce(add, (weights @ self.pairs(x) for x, weights in phases))
        return total if self.weight.shape[-1] == len(total) else total.sum(-1, keepdim=True)

    def matrix(self) -> Tensor:
        weight = self.edge_weights()
        first, second = self.edges.unbind(1)
        flat = weight.new_zeros((*weight.shape[:-1], self.sizes[0] * self.sizes[1]))
        flat = flat.index_add(-1, first * self.sizes[1] + second, weight)
        matrix = flat.unflatten(-1, self.sizes)
        return matrix + matrix.mT if self.ends[0] == self.ends[1] else matrix


Update = Callable[[Unit, Tensor], Tensor]  # a draw, or the mean, of units in a field it may spoil


@dataclass(frozen=True)
class PairwiseTerms:
    """A pairwise energy as plain tensors: see the module's docstring.

    Args:
        units: The kind of unit of each site.
        biases: b_s with the offsets folded in (*batch, n).
        links: The couplings; at most one between two sites, and one inside a site.
        constant: c, with the offsets folded in (*batch,).
    """

    units: Mapping[str, Unit]
    biases: Mapping[str, Tensor]
    links: tuple[Link, ...]
    constant: Tensor

    @property
    def batch(self) -> torch.Size:
        """The batch shape of the parameters."""
        return torch.broadcast_shapes(
            self.constant.shape,
            *(bias.shape[:-1] for bias in self.biases.values()),
            *(link.batch for link in self.links),
        )

    def require_finite(self) -> None:
        """Refuses NaN and infinite parameters, which sampling would turn into zeros in silence.

        Raises:
            FloatingPointError: If there is one; the message names where.
        """
        named = [(f"the biases of {site!r}", b) for site, b in self.biases.items()]
        named += [(f"the couplings of {link.ends}", link.weight) for link in self.links]
        for name, value in named:
            # One reduction: a NaN or an infinity anywhere makes the sum of zeros NaN.
            if not bool((value.sum() * 0).isfinite()):
                raise FloatingPointError(
                    f"There are NaN or infinite values in {name}. Has learning diverged? "
                    f"Go back to earlier parameters and lower the learning rate."
                )

    def inner(self, site: str) -> Link | None:
        """The coupling among the units of a site."""
        return next((link for link in self.links if link.ends == (site, site)), None)

    def outer_field(self, site: str, x: Sites) -> Tensor:  # (*batch, n), or the bias itself
        """The bias, and the field from those of the other sites that `x` holds."""
        field = self.biases[site]
        for link in self.links:
            first, second = link.ends
            if first != second and site in link.ends and link.ends[first == site] in x:
                field = link.field(site, x, field)
        return field

    def field(self, site: str, x: Sites) -> Tensor:  # (*batch, n)
        """The field on every unit of a site, from all the other units."""
        inner = self.inner(site)
        field = self.outer_field(site, x)
        return field if inner is None else inner.field(site, x, field)

    def block_field(self, site: str, x: Sites, block: Block) -> Tensor:  # (*batch, len(block))
        """The field on the units of a block, which are not coupled among themselves."""
        if isinstance(block, slice):
            block = torch.arange(self.biases[site].shape[-1])[block]
        field = self.biases[site][..., block]
        for link in self.links:
            if site in link.ends:
                field = field + link.block_field(site, x, block)
        return field

    def energy(self, x: Sites) -> Tensor:  # (*batch,)
        """E(x), over the sites that x holds: with some left out, what does not concern them."""
        energy = self.constant
        for site, value in x.items():
            energy = energy + (self.units[site].potential(value) - self.biases[site] * value).sum(
                -1
            )
        for link in self.links:
            if link.ends[0] in x and link.ends[1] in x:
                energy = energy - link.interaction(x)
        return energy

    def energy_in_field(self, site: str, field: Tensor, x: Sites) -> Tensor:  # (*batch,)
        """E(x) where the field on one site, uncoupled inside, is at hand: no product is needed."""
        others = {name: value for name, value in x.items() if name != site}
        own = self.units[site].potential(x[site]) - field * x[site]
        return self.energy(others) + own.sum(-1)

    def centred(self, offsets: Sites) -> "PairwiseTerms":
        """The same terms in x − x̂: offsets (*batch, n) by site, zero where left out."""
        where = {site: offsets.get(site, torch.zeros_like(b)) for site, b in self.biases.items()}
        zeros = {site: torch.zeros_like(b) for site, b in self.biases.items()}
        biases = {site: b - self.pull(site, where, zeros) for site, b in self.biases.items()}
        constant = self.constant - sum(link.interaction(where) for link in self.links)
        return PairwiseTerms(self.units, biases, self.links, constant)

    def pull(self, site: str, x: Sites, zeros: Sites) -> Tensor:
        """The field on a site from the couplings alone."""
        field = zeros[site]
        for link in self.links:
            if site in link.ends:
                field = link.field(site, x, field)
        return field

    def substituted(self, old: Unit, new: Unit, scale: float, shift: float) -> "PairwiseTerms":
        """The same energies with every unit x of one kind written as scale · s + shift."""
        changed = {site for site, unit in self.units.items() if unit == old}
        zeros = {site: torch.zeros_like(b) for site, b in self.biases.items()}
        shifts = {site: z + shift if site in changed else z for site, z in zeros.items()}
        biases = {
            site: (b + self.pull(site, shifts, zeros)) * (scale if site in changed else 1)
            for site, b in self.biases.items()
        }
        links = tuple(
            link.weighted(link.weight * scale ** sum(end in changed for end in link.ends))
            for link in self.links
        )
        constant = self.constant
        for site, b in self.biases.items():
            constant = constant - (b * shifts[site]).sum(-1)
        for link in self.links:
            constant = constant - link.interaction(shifts)
        units = {site: new if site in changed else unit for site, unit in self.units.items()}
        return PairwiseTerms(units, biases, links, constant)

    def matrix(self) -> Tensor:  # (*batch, n, n) over the units of all sites in order
        """All couplings as one symmetric matrix."""
        sizes = {site: b.shape[-1] for site, b in self.biases.items()}
        starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        batch = torch.broadcast_shapes(*(link.batch for link in self.links), ())
        total = self.constant.new_zeros((*batch, sum(sizes.values()), sum(sizes.values())))
        for link in self.links:
            rows, columns = (slice(starts[end], starts[end] + sizes[end]) for end in link.ends)
            total[..., rows, columns] = link.matrix()
            total[..., columns, rows] = link.matrix().mT
        return total

    def clamped(self, x: Sites) -> "PairwiseTerms":
        """The energy of the other sites while those in x are held: E(x, ·), batched like x."""
        rest = [site for site in self.units if site not in x]
        return PairwiseTerms(
            {site: self.units[site] for site in rest},
            {site: self.outer_field(site, x) for site in rest},
            tuple(link for link in self.links if set(link.ends) <= set(rest)),
            self.energy(x),
        )

    def to(self, dtype: torch.dtype) -> "PairwiseTerms":
        """The same terms in another dtype."""
        return PairwiseTerms(
            self.units,
            {site: b.to(dtype) for site, b in self.biases.items()},
            tuple(link.weighted(link.weight.to(dtype)) for link in self.links),
            self.constant.to(dtype),
        )

    def coupled(self, sites: Sequence[str]) -> tuple[str, str] | None:
        """The ends of some coupling inside a set of sites, None if there is none."""
        return next((link.ends for link in self.links if set(link.ends) <= set(sites)), None)

    def free_energy(self, x: Sites) -> Tensor:  # (*batch,)
        """F(x) in closed form; the sites that x leaves out must be uncoupled."""
        energy = self.energy(x)
        for site, unit in self.units.items():
            if site not in x:
                energy = energy - unit.cumulant(self.outer_field(site, x)).sum(-1)
        return energy

    def sweep(self, site: str, x: Sites, update: Update) -> Tensor:  # (*batch, n)
        """Every unit of a site updated once, block by block, given all the newest values.

        It is Gibbs where `update` draws, and coordinate ascent of the mean-field bound where it
        takes the mean. `x` itself is left as it was.
        """
        unit, inner = self.units[site], self.inner(site)
        field = self.outer_field(site, x)
        value = x[site]
        if inner is None:
            if field.shape != value.shape or field is self.biases[site]:
                field = field.expand(value.shape).clone()
            return update(unit, field)
        if inner.batch:
            return self.sweep_by_definition(site, x, update)
        units_first = value.reshape(-1, value.shape[-1]).mT.clone(
            memory_format=torch.contiguous_format
        )
        base = field.expand(value.shape).reshape(-1, value.shape[-1]).mT
        if isinstance(inner, GraphLink):
            coloured_sweep(units_first, base, inner, lambda f: update(unit, f))
        else:
            sequential_sweep(units_first, base, inner.weight, lambda f: update(unit, f))
        return units_first.mT.contiguous().reshape(value.shape)

    def sweep_by_definition(self, site: str, x: Sites, update: Update) -> Tensor:
        """`sweep` where every batch element has couplings of its own: the plain loop."""
        value = x[site].clone()
        x = {**x, site: value}
        for block in self.blocks(site):
            value[..., block] = update(self.units[site], self.block_field(site, x, block))
        return value

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site in sets without couplings among them."""
        inner = self.inner(site)
        if inner is None:
            return (WHOLE,)
        if isinstance(inner, GraphLink):
            return tuple(colour.units for colour in inner.colours)
        bias = self.biases[site]
        return tuple(torch.arange(bias.shape[-1], device=bias.device).split(1))


# Units of a dense layer that are brought up to date by one product, before they are visited in
# turn: large enough for the product to be efficient, small enough for the rank-one updates inside.
GROUP = 32

# Numbers of a colour that are updated together, so that they stay in the cache.
CACHED = 2**17


def sequential_sweep(
    x: Tensor, base: Tensor, weight: Tensor, update: Callable[[Tensor], Tensor]
) -> None:
    """Visits the units of a dense layer one after another, in place.

    Each group's fields are made by one product; inside the group every change is added to the
    fields still to come. That is the same as recomputing each unit's field when its turn comes.

    Args:
        x: Values (n, batch), overwritten.
        base: The field from elsewhere (n, batch).
        weight: Symmetric couplings with zero diagonal (n, n).
        update: New values (batch,) from fields (batch,), which it may overwrite.
    """
    n = len(x)
    for start in range(0, n, GROUP):
        stop = min(start + GROUP, n)
        fields = torch.addmm(base[start:stop], weight[start:stop], x)
        columns = weight[start:stop, start:stop, None].unbind(0)
        for k, (value, field, column) in enumerate(
            zip(x[start:stop].unbind(0), fields.unbind(0), columns, strict=True), 1
        ):
            new = update(field)
            # Not addr_, which is half as fast.
            fields[k:].addcmul_(column[k:], new - value)
            value.copy_(new)


def coloured_sweep(
    x: Tensor, base: Tensor, link: GraphLink, update: Callable[[Tensor], Tensor]
) -> None:
    """Visits the colours of a graph one after another, in place.

    Args:
        x: Values (n, batch), overwritten.
        base: The field from elsewhere (n, batch).
        link: The couplings.
        update: New values from fields (units, batch), which it may overwrite.
    """
    weight = link.edge_weights()
    chunk = max(1, CACHED // max(1, x.shape[1]))
    for colour in link.colours:
        # The units of a colour do not see one another, so they may be taken in chunks.
        for start in range(0, len(colour.units), chunk):
            stop = min(start + chunk, len(colour.units))
            units = colour.units[start:stop]
            fields = base[units]
            for source, edge in colour.slots:
                if start >= len(source):
                    break
                sources, edges = source[start:stop], edge[start:stop]
                fields[: len(sources)].addcmul_(weight[edges, None], x[sources])
            for position, source, edge in colour.hubs:
                if start <= position < stop:
                    fields[position - start] += weight[edge] @ x[source]
            x[units] = update(fields)


def mean_energy_difference(
    terms: PairwiseTerms,
    positive: Sites,
    negative: Sites,
    weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:  # ()
    """Mean energy of one batch of states minus that of another, with its gradient in closed form.

    The units' potentials are left out: no parameter enters them. The gradient is a constant, so
    there is no second derivative.

    It is the surrogate loss of every learning rule here: the positive and the negative phase. Since
    the energy is multilinear, an expectation over independent units may stand for a state.

    Args:
        terms: The energy, without batch dimensions.
        positive: Values of all sites (rows, n).
        negative: Values of all sites (other rows, n).
        weights: Weights of the positive rows (rows,), summing to 1; equal ones if left out.
        negative_weights: Weights of the negative rows (other rows,), likewise.
    """
    rows = next(iter(positive.values())).shape[0]
    others = next(iter(negative.values())).shape[0]
    if weights is None:
        weights = terms.constant.new_full((rows,), 1 / rows)
    if negative_weights is None:
        negative_weights = terms.constant.new_full((others,), 1 / others)
    phases = ((positive, weights), (negative, -negative_weights))
    parameters = (*terms.biases.values(), *(link.weight for link in terms.links))
    return MeanEnergyDifference.apply(terms, phases, *parameters)


class MeanEnergyDifference(torch.autograd.Function):
    """Σ weight · E(x) over phases and rows, less what no parameter enters.

    It is linear in the parameters, so gradient and value, ⟨parameters, gradient⟩, are one
    computation.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's)
        terms: PairwiseTerms,
        phases: Sequence[Phase],
        *parameters: Tensor,
    ) -> Tensor:
        minus = [(x, -weights) for x, weights in phases]
        gradients = [
            functools.reduce(add, (weights @ x[site] for x, weights in minus))
            for site in terms.biases
        ]
        gradients += [link.moment(minus) for link in terms.links]
        ctx.save_for_backward(*gradients)
        products = (
            torch.dot(parameter.reshape(-1), gradient.reshape(-1))
            for parameter, gradient in zip(parameters, gradients, strict=True)
        )
        return functools.reduce(add, products)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradients = ctx.saved_tensors
        if float(scale) != 1:  # as `backward` calls it, a pass over all parameters is saved
            gradients = tuple(scale * gradient for gradient in gradients)
        return None, None, *gradients
