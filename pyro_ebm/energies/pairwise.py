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
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.sites import Sites
from pyro_ebm.units import Unit

from .base import Block, BlockEnergy, Energy
from .links import GraphLink, Link, Phase
from .sweeps import coloured_sweep, sequential_sweep

WHOLE = slice(None)


Update = Callable[[Unit, Tensor], Tensor]  # a draw, or the mean, of units in a field it may spoil


def unit_energy(unit: Unit, x: Tensor, field: Tensor) -> Tensor:  # (*batch,)
    """Σ_i u(x_i) − field_i x_i."""
    # Where the field is one for all rows a product does it, in a third of the time.
    energy = -(x @ field) if field.dim() == 1 else -torch.linalg.vecdot(field, x)
    return energy + unit.potential(x).sum(-1) if unit.has_potential else energy


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
            energy = energy + unit_energy(self.units[site], value, self.biases[site])
        for link in self.links:
            if link.ends[0] in x and link.ends[1] in x:
                energy = energy - link.interaction(x)
        return energy

    def energy_in_field(self, site: str, field: Tensor, x: Sites) -> Tensor:  # (*batch,)
        """E(x) where the field on one site, uncoupled inside, is at hand: no product is needed."""
        others = {name: value for name, value in x.items() if name != site}
        return self.energy(others) + unit_energy(self.units[site], x[site], field)

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


class PairwiseEnergy(BlockEnergy):
    """An energy of units in fields that are linear in the other units."""

    @abstractmethod
    def read(self) -> PairwiseTerms:
        """All parameters, read once: what every computation is done with."""

    @abstractmethod
    def free_energy(self, x: Sites | Tensor) -> Tensor:  # (*batch,)
        r"""F(x) = −ln Σ exp(−E), the sum over the sites that x leaves out."""


def require_pairwise(energy: Energy, what: str) -> PairwiseEnergy:
    """The energy, if it is one of units in fields.

    Args:
        energy: Any energy.
        what: What is to be done with it, for the message.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(energy, PairwiseEnergy):
        raise TypeError(
            f"{what} needs an energy of units in fields, such as a BoltzmannMachine; "
            f"{type(energy).__name__} is none."
        )
    return energy


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
