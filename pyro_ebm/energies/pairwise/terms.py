r"""Units in fields, with the parameters read once.

.. math::

    E(x) = c + \sum_s \Big( \sum_i u_s(x_{si}) - b_s^\top x_s \Big)
        - \sum_{(s,t)} x_s^\top W_{st} x_t

(inside one site each pair of units counts once). `PairwiseTerms` holds such an energy as plain
tensors: couplings as links, offsets folded into biases and constant. Energies, fields, sweeps and
closed-form gradients are computed on it; modules only say how their parameters make it.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import add

import torch
from torch import Tensor

from pyro_ebm.energies.structure import Block
from pyro_ebm.sites import Sites, is_trusting
from pyro_ebm.units import Gaussian, PlainUnit, QuadraticUnit, Unit

from .colouring import Colour
from .links import Change, GraphLink, Link, SymmetricLink, coupling_matrix
from .normal import MultivariateNormal, joint_precision
from .sweeps import ONE, coloured_sweep, sequential_sweep

WHOLE = slice(None)


Update = Callable[[Unit, Tensor], Tensor]  # a draw, or the mean, of units in a field it may spoil


def draw_features(unit: Unit, field: Tensor) -> Tensor:
    """The features of a draw of units in their fields, which it overwrites."""
    return unit.features(unit.sample(field))


def against(field: Tensor, x: Tensor) -> Tensor:  # (*batch,)
    """Σ field · x."""
    # Where the field is one for all rows a product does it, in a third of the time.
    return x @ field if field.dim() == 1 else torch.linalg.vecdot(field, x)


def in_rows(unit: Unit, shape: torch.Size) -> Unit:
    """A kind whose parameters differ within the batch of values (*batch, n), for these in rows."""
    batched = {name: value for name, value in unit.parameters.items() if value.dim() > 1}
    if not batched:
        return unit
    rows = {name: value.expand(shape).reshape(-1, shape[-1]) for name, value in batched.items()}
    return unit.with_parameters({**unit.parameters, **rows})


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

    @functools.cached_property
    def batch(self) -> torch.Size:
        """The batch shape of the parameters."""
        shapes = [
            self.constant.shape,
            *(bias.shape[:-1] for bias in self.biases.values()),
            *(link.batch for link in self.links),
            *(
                value.shape[:-1]
                for unit in self.units.values()
                for value in unit.parameters.values()
            ),
        ]
        # Mostly there is none, which torch takes five microseconds to find.
        return torch.broadcast_shapes(*shapes) if any(shapes) else torch.Size()

    def features(self, x: Sites) -> Sites:
        """T(x) of every site in x: what everything here is computed with."""
        return {site: self.units[site].features(value) for site, value in x.items()}

    def values(self, features: Sites) -> Sites:
        """The x of these features."""
        return {site: self.units[site].values(value) for site, value in features.items()}

    def count(self, site: str) -> int:
        """The number of units of a site."""
        return self.biases[site].shape[-1] // self.units[site].width

    def levels(self, site: str) -> Tensor:  # (q,)
        """All values of a unit of a site, whose units can be enumerated."""
        return self.constant.new_tensor(self.units[site].levels or ())

    def level_potentials(self, site: str) -> Tensor | None:  # (*batch, n, levels)
        """The same, but None where they are 0 or the values cannot be listed."""
        return self.units[site].level_potentials(self.count(site), self.constant)

    def potential_of_levels(self, site: str) -> Tensor:  # (*batch, n, q)
        """u of each of these values, for every unit."""
        every = self.levels(site)[:, None].expand(-1, self.count(site))
        return torch.stack([self.units[site].potential(level) for level in every], -1)

    def named(self) -> list[tuple[str, Tensor]]:
        """The parameters with the words for them, the constant left out."""
        found = [(f"the biases of {site!r}", b) for site, b in self.biases.items()]
        for link in self.links:
            found.append((f"the couplings of {link.ends}", link.weight))
            if link.scale is not None:
                found.append((f"the factor of the couplings of {link.ends}", link.scale))
        found += [
            (f"the {name} of {site!r}", value)
            for site, unit in self.units.items()
            for name, value in unit.parameters.items()
        ]
        return found

    def equals(self, other: "PairwiseTerms") -> bool:
        """Whether these are the same energies, to the last bit."""
        (names, mine), (other_names, others) = (
            zip(*terms.named(), strict=True) for terms in (self, other)
        )
        mine, others = (*mine, self.constant), (*others, other.constant)
        edges, other_edges = (
            [link.edges for link in terms.links if isinstance(link, GraphLink)]
            for terms in (self, other)
        )
        return (
            self.units.keys() == other.units.keys()
            and names == other_names
            and len(edges) == len(other_edges)
            and all(map(torch.equal, (*edges, *mine), (*other_edges, *others)))
        )

    def require_finite(self) -> None:
        """Refuses NaN and infinite parameters, which sampling would turn into zeros in silence.

        Raises:
            FloatingPointError: If there is one; the message names where.
            ValueError: If a precision is not positive, so that its logarithm is none.
        """
        if is_trusting():
            return
        named = [*self.named(), ("the constant", self.constant)]
        # A NaN or an infinity anywhere makes the sum of all of them NaN or infinite.
        if math.isfinite(functools.reduce(add, [value.sum() for _, value in named]).item()):
            return
        for site, unit in self.units.items():
            if isinstance(unit, QuadraticUnit) and bool(
                (torch.as_tensor(unit.precision) <= 0).any()
            ):
                raise ValueError(
                    f"The energy cannot be normalised: of the precisions of {site!r} some are not "
                    f"positive. Weigh the energies so that the sum of their precisions is."
                )
        for name, value in named:
            if not bool(value.sum().isfinite()):
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

    def block_field(self, site: str, x: Sites, block: Block) -> Tensor:  # (*batch, of the block)
        """The field on the units of a block, which are not coupled among themselves."""
        columns = self.columns(site, block)
        field = self.biases[site][..., columns]
        for link in self.links:
            if site in link.ends:
                field = field + link.block_field(site, x, columns)
        return field

    def fields_after(self, fields: Sites, site: str, change: Change) -> Sites:
        """Fields that were right before features of one site changed, as they are afterwards.

        Args:
            fields: On some sites (*batch, n * width).
            site: The site that changes; no coupling may have batch dimensions of its own.
            change: What changes.
        """
        fields = dict(fields)
        for link in self.links:
            if site in link.ends and (far := link.far_end(site)) in fields:
                fields[far] = link.field_after(fields[far], site, change)
        return fields

    def columns(self, site: str, block: Block) -> Tensor:  # (units in the block * width,)
        """The features of the units of a block, by number."""
        width, device = self.units[site].width, self.biases[site].device
        units = torch.arange(self.count(site), device=device)[block]
        if width == 1:
            return units
        return (units[:, None] * width + torch.arange(width, device=device)).flatten()

    def linear_energy(self, x: Sites) -> Tensor:  # (*batch,)
        """E without the units' potentials, over the sites that x holds."""
        energy = self.constant
        for site, value in x.items():
            energy = energy - against(self.biases[site], value)
        for link in self.links:
            if link.ends[0] in x and link.ends[1] in x:
                energy = energy - link.interaction(x)
        return energy

    def potential(self, x: Sites) -> Tensor | float:  # (*batch,)
        """Σ u over the sites that x holds."""
        return sum(
            self.units[site].potential(value).sum(-1)
            for site, value in x.items()
            if self.units[site].has_potential
        )

    def energy(self, x: Sites) -> Tensor:  # (*batch,)
        """E(x), over the sites that x holds: with some left out, what does not concern them."""
        return self.linear_energy(x) + self.potential(x)

    def energy_in_field(self, site: str, field: Tensor, x: Sites) -> Tensor:  # (*batch,)
        """E(x) where the field on one site, uncoupled inside, is at hand: no product is needed."""
        others = {name: value for name, value in x.items() if name != site}
        return self.linear_energy(others) + self.potential(x) - against(field, x[site])

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        """E(x) (*batch,), and ∂E/∂x (*batch, n) of some sites of numbers."""
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in x.values()), self.batch)
        fields, gradients = {}, {}
        for site in sites:
            fields[site] = self.field(site, x)
            unit = self.units[site]
            slope = unit.slope(x[site]) - fields[site] if unit.has_potential else -fields[site]
            gradients[site] = slope.expand(*batch, slope.shape[-1])
        if set(sites) != set(self.units):
            return self.energy(x), gradients
        return self.energy_in_fields(fields, x), gradients

    def energy_in_fields(self, fields: Sites, x: Sites) -> Tensor:  # (*batch,)
        """E(x) where the fields on all sites are at hand: no product is needed."""
        # Every pair term stands in two fields.
        twice = sum(against(field + self.biases[s], x[s]) for s, field in fields.items())
        return self.constant + self.potential(x) - twice / 2

    def centred(self, offsets: Sites) -> "PairwiseTerms":
        """The same terms in x − x̂: offsets (*batch, n) by site, zero where left out."""
        where = {site: offsets.get(site, torch.zeros_like(b)) for site, b in self.biases.items()}
        biases = {site: b - self.pull(site, where) for site, b in self.biases.items()}
        constant = self.constant - sum(link.interaction(where) for link in self.links)
        return PairwiseTerms(self.units, biases, self.links, constant)

    def pull(self, site: str, x: Sites) -> Tensor:
        """The field on a site from the couplings alone."""
        field = torch.zeros_like(self.biases[site])
        for link in self.links:
            if site in link.ends:
                field = link.field(site, x, field)
        return field

    def substituted(self, old: Unit, new: Unit, scale: float, shift: float) -> "PairwiseTerms":
        """The same energies with every unit x of one kind written as scale · s + shift."""
        changed = {site for site, unit in self.units.items() if unit == old}
        shifts = {
            site: torch.full_like(b, shift if site in changed else 0.0)
            for site, b in self.biases.items()
        }
        biases = {
            site: (b + self.pull(site, shifts)) * (scale if site in changed else 1)
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

    def matrix(self) -> Tensor:  # (*batch, n, n) over the features of all sites in order
        """All couplings as one symmetric matrix."""
        sizes = {site: b.shape[-1] for site, b in self.biases.items()}
        return coupling_matrix(sizes, self.links, self.constant)

    def clamped(self, x: Sites) -> "PairwiseTerms":
        """The energy of the other sites while those in x are held: E(x, ·), batched like x."""
        rest = [site for site in self.units if site not in x]
        return PairwiseTerms(
            {site: self.units[site] for site in rest},
            {site: self.outer_field(site, x) for site in rest},
            self.inside(rest),
            self.energy(x),
        )

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "PairwiseTerms":
        """The same terms with a function of every tensor of parameters."""
        return PairwiseTerms(
            {
                site: unit.with_parameters({k: function(v) for k, v in unit.parameters.items()})
                for site, unit in self.units.items()
            },
            {site: function(b) for site, b in self.biases.items()},
            tuple(link.mapped(function) for link in self.links),
            function(self.constant),
        )

    def to(self, dtype: torch.dtype) -> "PairwiseTerms":
        """The same terms in another dtype."""
        return self.mapped(lambda tensor: tensor.to(dtype))

    def with_field(self, site: str, field: Tensor) -> "PairwiseTerms":  # (*batch, n * width)
        """The energy in a further field on one site."""
        biases = {**self.biases, site: self.biases[site] + field}
        return PairwiseTerms(self.units, biases, self.links, self.constant)

    def held(
        self, site: str, features: Tensor, kept: Tensor, colours: tuple[Colour, ...] | None
    ) -> "PairwiseTerms":
        """The energy where some units of a site are held, as one of the other units.

        Args:
            site: The site.
            features: Those of the held units, in a whole site with 0 elsewhere (*batch, n * width).
            kept: The units that are not held, by number.
            colours: Of the graph of these, where it is one and they are known.
        """
        unit = self.units[site]
        every = torch.ones(self.count(site), dtype=torch.bool, device=kept.device)
        every[kept] = False
        gone = every.nonzero()[:, 0]
        # In x + features the energy has offsets of the opposite sign.
        moved = self.centred({site: -features})
        constant = moved.constant - (self.biases[site] * features).sum(-1)
        if unit.has_potential:
            own = unit.part(gone).potential(features[..., gone])
            constant = constant + own.sum(-1)
        columns = self.columns(site, kept)
        return PairwiseTerms(
            {**self.units, site: unit.part(kept)},
            {**moved.biases, site: moved.biases[site][..., columns]},
            tuple(
                link.part(site, columns, colours if link.ends == (site, site) else None)
                if site in link.ends
                else link
                for link in self.links
            ),
            constant,
        )

    def coupled(self, sites: Sequence[str]) -> tuple[str, str] | None:
        """The ends of some coupling inside a set of sites, None if there is none."""
        return next((link.ends for link in self.inside(sites)), None)

    def obstacle(self, sites: Sequence[str]) -> tuple[str, str] | None:
        """The ends of a coupling inside a set of sites that denies them a closed form, else None.

        Gaussian units may be coupled: they are one multivariate normal.
        """
        every = (link.ends for link in self.inside(sites) if not self.is_gaussian(link))
        return next(every, None)

    def inside(self, sites: Sequence[str]) -> tuple[Link, ...]:
        """The couplings inside a set of sites."""
        return tuple(link for link in self.links if set(link.ends) <= set(sites))

    def normal(self, sites: Sequence[str]) -> MultivariateNormal | None:
        """The law of the Gaussian sites, among some, that are coupled among themselves, if any.

        Raises:
            ValueError: If their joint precision is not positive definite.
        """
        links = [link for link in self.inside(sites) if self.is_gaussian(link)]
        joined = {end for link in links for end in link.ends}
        if not joined:
            return None
        precisions = self.precisions([site for site in self.units if site in joined])
        factor, info = torch.linalg.cholesky_ex(joint_precision(precisions, links))
        if bool((info != 0).any()):
            raise not_normalisable(links[0].ends, list(precisions))
        return MultivariateNormal({s: v.shape[-1] for s, v in precisions.items()}, factor)

    def is_gaussian(self, link: Link) -> bool:
        """Whether a coupling is between Gaussian units."""
        return all(isinstance(self.units[end], Gaussian) for end in link.ends)

    def precisions(self, sites: Sequence[str]) -> Sites:
        """The precisions (*batch, n) of sites with a quadratic potential."""
        return {
            site: torch.as_tensor(unit.precision).to(self.constant).expand_as(self.biases[site])
            if not isinstance(unit.precision, Tensor)
            else unit.precision
            for site, unit in self.units.items()
            if site in sites and isinstance(unit, QuadraticUnit)
        }

    def free_energy(self, x: Sites) -> Tensor:  # (*batch,)
        """F(x) in closed form; the sites that x leaves out must have no `obstacle`."""
        energy = self.energy(x)
        rest = [site for site in self.units if site not in x]
        normal = self.normal(rest)
        if normal is not None:
            energy = energy - normal.cumulant({s: self.outer_field(s, x) for s in normal.sizes})
        for site in rest:
            if normal is None or site not in normal.sizes:
                energy = energy - self.units[site].cumulant(self.outer_field(site, x)).sum(-1)
        return energy

    def free_energy_bound(self, means: Sites, hidden: Sequence[str]) -> Tensor:  # (*batch,)
        """E + Σ (E[u] − entropy): an upper bound of F, for any means of independent hidden units.

        Args:
            means: Features of the other sites, and means of the hidden ones.
            hidden: The names of these.
        """
        others = {site: value for site, value in means.items() if site not in hidden}
        bound = self.linear_energy(means) + self.potential(others)
        for site in hidden:
            bound = bound + self.units[site].conjugate(means[site]).sum(-1)
        return bound

    def require_normalisable(self) -> None:
        """Refuses couplings of real units under which exp(−E) has no finite integral.

        Raises:
            ValueError: If that is so, or, for units bounded on one side, if it cannot be told.
        """
        endless = {
            site: unit.bounds
            for site, unit in self.units.items()
            if isinstance(unit, QuadraticUnit) and math.inf in (-unit.bounds[0], unit.bounds[1])
        }
        links = self.inside(list(endless))
        if not links:
            return  # the units' own potentials confine them
        precisions = self.precisions(list(endless))
        matrix = joint_precision(precisions, links)
        if bool((torch.linalg.cholesky_ex(matrix).info == 0).all()):
            return
        if all(math.isinf(low) != math.isinf(high) for low, high in endless.values()):
            # Where all units are bounded on one side, couplings that only push them back to it
            # do no harm.
            outward = torch.cat(
                [
                    torch.full_like(precisions[site][..., :], 1.0 if math.isinf(high) else -1.0)
                    for site, (_, high) in endless.items()
                ],
                -1,
            )
            if bool((matrix * outward.unsqueeze(-1) * outward.unsqueeze(-2) >= 0).all()):
                return
        raise not_normalisable(links[0].ends, list(endless))

    def sweep(self, site: str, x: Sites, update: Update) -> Tensor:  # (*batch, n)
        """Every unit of a site updated once, block by block, given all the newest values.

        It is Gibbs where `update` draws, and coordinate ascent of the mean-field bound where it
        takes the mean. `x` itself is left as it was.
        """
        unit, inner = self.units[site], self.inner(site)
        field = self.outer_field(site, x)
        value = x[site]
        plain = isinstance(unit, PlainUnit) and unit.width == 1  # its units are all alike
        if inner is None:
            if field.shape != value.shape or field is self.biases[site]:
                field = field.expand(value.shape).clone()
            return update(unit, field)
        if inner.weight_batch:
            return self.sweep_by_definition(site, x, update)
        scale: Tensor | float = ONE
        if inner.scale is not None:
            scale = inner.scale.expand(value.shape[:-1]).reshape(-1)
        units_first = value.reshape(-1, value.shape[-1]).mT.clone(
            memory_format=torch.contiguous_format
        )
        base = field[:, None]
        if field.dim() > 1:
            base = field.expand(value.shape).reshape(-1, value.shape[-1]).mT
        unit = in_rows(unit, value.shape)

        def of_some(field: Tensor, units: slice | Tensor) -> Tensor:
            if plain:
                return update(unit, field)
            return update(unit.part(units), field.mT).mT

        if isinstance(inner, GraphLink):
            coloured_sweep(units_first, base, inner, scale, of_some)
        else:
            assert isinstance(inner, SymmetricLink)
            sequential_sweep(units_first, base, inner, scale, of_some)
        return units_first.mT.reshape(value.shape)

    def sweep_by_definition(self, site: str, x: Sites, update: Update) -> Tensor:
        """`sweep` where every batch element has couplings of its own: the plain loop."""
        value = x[site].clone()
        x = {**x, site: value}
        for block in self.blocks(site):
            unit = self.units[site].part(block)
            columns = self.columns(site, block)
            value[..., columns] = update(unit, self.block_field(site, x, block))
        return value

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site in sets without couplings among them."""
        inner = self.inner(site)
        if inner is None:
            return (WHOLE,)
        if isinstance(inner, GraphLink):
            return tuple(colour.units for colour in inner.colours)
        device = self.biases[site].device
        return tuple(torch.arange(self.count(site), device=device).split(1))


def not_normalisable(ends: tuple[str, str], sites: Sequence[str]) -> ValueError:
    """The error for real units whose couplings are stronger than their precisions."""
    return ValueError(
        f"The energy cannot be normalised: with the coupling {ends} the joint precision matrix of "
        f"{list(sites)}, their precisions minus their couplings, is not positive definite. Weaken "
        f"the couplings or raise the precisions, for example Gaussian(precision=...)."
    )
