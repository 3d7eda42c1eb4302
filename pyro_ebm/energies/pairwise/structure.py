"""What is known of units in fields that are linear in the other units: by their terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ebm.energies.base import Energy
from pyro_ebm.energies.held import Held
from pyro_ebm.energies.structure import (
    AloneSweep,
    Block,
    Differences,
    Memory,
    Overlay,
    Structure,
    Swept,
    UnitLevels,
    constants_last,
    log_weights_of,
    require_site,
)
from pyro_ebm.sites import Site, Sites, batch_shape
from pyro_ebm.units import Unit

from .links import GraphLink
from .overlay import PairwiseOverlay
from .terms import PairwiseTerms, draw_features


@dataclass(frozen=True, eq=False, repr=False)
class PairwiseStructure(Structure):
    """Units in fields, by their terms.

    Args:
        sites: The sites.
        terms: The parameters, read once: what every computation is done with.
    """

    sites: Mapping[str, Site]
    terms: PairwiseTerms
    has_terms = True
    forbids = False

    @property
    def batch(self) -> torch.Size:
        return self.terms.batch

    def energy(self, x: Sites) -> Tensor:
        return self.terms.energy(self.terms.features(x))

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        if labels := [site for site in sites if self.terms.units[site].width > 1]:
            raise TypeError(
                f"The sites {labels} hold labels, in which there is no gradient; ask for `field`, "
                f"which has the energies of all labels."
            )
        with torch.no_grad():
            return self.terms.energy_and_gradient(self.terms.features(x), sites)

    def differences(self, x: Sites, sites: Sequence[str]) -> Differences:
        terms, features = self.terms, self.terms.features(x)
        fields = {site: terms.field(site, features) for site in sites}
        every = len(fields) == len(terms.units)
        energy = terms.energy_in_fields(fields, features) if every else terms.energy(features)
        slopes = {site: -field for site, field in fields.items()}
        potentials = {site: terms.level_potentials(site) for site in sites}
        return Differences(energy, slopes, potentials)

    def levels(self, site: str) -> UnitLevels | None:
        unit = self.terms.units[site]
        if unit.levels is None:
            return None
        values = torch.tensor(unit.levels, dtype=torch.float64)
        return UnitLevels(values, unit.features(values.unsqueeze(-1)))

    def blocks(self, site: str) -> tuple[Block, ...]:
        require_site(site, self.sites)
        return self.terms.blocks(site)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        require_site(site, self.sites)
        self.require_around(site, x)
        terms = self.terms
        unit, features = terms.units[site], terms.features(x)
        if block is not None:
            field, unit = terms.block_field(site, features, block), unit.part(block)
        elif terms.inner(site) is None:
            field = terms.outer_field(site, features)
        else:
            raise ValueError(
                f"The units of {site!r} are coupled among themselves, so their joint "
                f"conditional does not factorise. Ask for one of blocks({site!r})."
            )
        return unit.conditional(self.spread(field, x))

    def log_weights(self, site: str, x: Sites, block: Block, values: Tensor) -> Tensor:
        return log_weights_of(self.conditional(site, x, block), values)

    def sweep(self, site: str, x: Sites) -> Tensor:
        terms, features = self.terms, self.terms.features(x)
        with torch.no_grad():
            return terms.units[site].values(terms.sweep(site, features, draw_features))

    def sweeps(self, sites: Sequence[str], x: Sites) -> Swept:
        terms, x, newest = self.terms, dict(x), None
        features = terms.features(x)
        for site in sites:
            unit = terms.units[site]
            if terms.inner(site) is not None:
                x[site] = unit.values(terms.sweep(site, features, draw_features))
                newest = None
            else:
                field = terms.outer_field(site, features).expand(features[site].shape)
                x[site], newest = unit.sample(field.clone()), (site, field)
            features[site] = unit.features(x[site])
        if newest is None:
            return Swept(x)
        # The field on the site that was drawn last tells the energy without a product.
        return Swept(x, partial(terms.energy_in_field, *newest, features), newest)

    def likeliest(self, site: str, x: Sites) -> Tensor:
        terms, features = self.terms, self.terms.features(x)
        with torch.no_grad():
            return terms.units[site].values(terms.sweep(site, features, likeliest_features))

    def sweep_alone(self, site: str) -> AloneSweep | None:
        hidden = [name for name in self.sites if name != site]
        # Hidden units are drawn on their own: they must not be coupled among themselves.
        if self.terms.obstacle(hidden) is not None or self.terms.units[site].levels is None:
            return None
        return partial(sweep_in_field, self.terms, site)

    def conditioned(self, held: Held, memory: Memory) -> "PairwiseStructure":
        terms = self.terms.clamped(self.terms.features({n: held.value(n) for n in held.whole}))
        for site in held.parts:
            value, free, width = held.value(site), held.free(site), terms.units[site].width
            assert free is not None
            # Labels that are free have no feature at all, not the label 0.
            here = held.elements(site).repeat_interleave(width)
            features = terms.features({site: value})[site] * here
            key = "colours", site, free.device
            terms = terms.held(site, features, free, memory.get(key))
            inner = terms.inner(site)
            if isinstance(inner, GraphLink):
                memory[key] = inner.colours
        return PairwiseStructure(held.sites, terms)

    @classmethod
    def overlaid(cls, parts: Sequence[Structure], memory: Memory) -> Overlay:
        sites = {name: site for part in parts for name, site in part.sites.items()}
        order = constants_last(parts)
        ordered = [parts[k] for k in order]
        own = [terms_of(part) or PairwiseTerms({}, {}, (), part.energy({})) for part in ordered]
        laid = PairwiseOverlay.of(own, memory)
        return Overlay(partial(weighted_sum, sites, laid, order))

    def field(self, site: str, x: Sites) -> Tensor:
        require_site(site, self.sites)
        self.require_around(site, x)
        return self.spread(self.terms.field(site, self.terms.features(x)), x)

    def free_energy(self, x: Sites) -> Tensor:
        self.terms.require_finite()
        rest = [site for site in self.sites if site not in x]
        if ends := self.terms.obstacle(rest):
            raise ValueError(
                f"The free energy of {list(x)} has no closed form: the units of {ends[0]!r} and "
                f"{ends[1]!r}, which it sums over, are coupled. Use the mean-field bound, "
                f"pyro_ebm.mean_field(machine, x).free_energy_bound, or, for a small machine, "
                f"pyro_ebm.exact.log_prob(machine, x)."
            )
        return self.terms.free_energy(self.terms.features(x))

    def require_finite(self) -> None:
        self.terms.require_finite()

    def require_normalisable(self) -> None:
        self.terms.require_finite()
        self.terms.require_normalisable()

    def what_forbids(self, x: Sites) -> tuple[str, ...]:
        return ()

    def parts_at(self, x: Sites) -> list[tuple[Structure, Sites]]:
        return []

    def require_around(self, site: str, x: Sites) -> None:
        """Refuses values without those of a site that the units of another are coupled to.

        Raises:
            ValueError: If one is missing: the field would lack its part in silence.
        """
        ends = [link.ends for link in self.terms.links if site in link.ends]
        needed = {second if first == site else first for first, second in ends}
        if missing := [name for name in self.sites if name in needed and name not in x]:
            raise ValueError(
                f"The field on {site!r} depends on the sites {missing}, whose values are missing; "
                f"given were {list(x)}."
            )

    def spread(self, field: Tensor, x: Sites) -> Tensor:  # (*batch, n)
        """A field with the batch dimensions of x, also where it does not depend on it."""
        batch = torch.broadcast_shapes(field.shape[:-1], batch_shape(x, self.sites))
        return field.expand(*batch, field.shape[-1])


def likeliest_features(unit: Unit, field: Tensor) -> Tensor:
    """The features of the likeliest value of a unit; of two likely ones always the same."""
    return unit.features(unit.mode(field))


def weighted_sum(
    sites: Mapping[str, Site],
    laid: PairwiseOverlay,
    order: Sequence[int],
    weights: Sequence[Tensor],
) -> PairwiseStructure:
    """The structure of a weighted sum of machines and constants, which are laid in some order."""
    return PairwiseStructure(sites, laid.weighted([weights[k] for k in order]))


def sweep_in_field(
    terms: PairwiseTerms, site: str, value: Tensor, log_weights: Tensor, weight: Tensor | None
) -> Tensor:
    """As `AloneSweep` says; the weight is 1 where there are hidden units."""
    if weight is not None:
        terms = PairwiseOverlay.of([terms], {}).weighted([weight])
    x = value.to(terms.constant)
    field = as_field(terms.units[site], log_weights.to(terms.constant))
    return sweep_machine(terms, site, x, field).to(value.dtype)


def as_field(unit: Unit, log_weights: Tensor) -> Tensor:  # (states, *batch, n)
    """The field (*batch, n * width) that gives the values of a unit these log-weights."""
    if unit.width > 1:
        return log_weights.movedim(0, -1).flatten(-2)
    low, high = unit.levels or ()
    return (log_weights[1] - log_weights[0]) / (high - low)


def sweep_machine(terms: PairwiseTerms, site: str, x: Tensor, field: Tensor) -> Tensor:
    """A sweep over one site of a machine in an additional field, the other sites drawn first."""
    unit = terms.units[site]
    features = {site: unit.features(x)}
    hidden = [name for name in terms.units if name != site]
    fields = {name: terms.outer_field(name, features) for name in hidden}
    normal = terms.normal(hidden)
    drawn = {} if normal is None else normal.sample({s: fields[s] for s in normal.sizes})
    for name, own in fields.items():
        if name not in drawn:
            shape = (*x.shape[:-1], own.shape[-1])
            drawn[name] = terms.units[name].sample(own.expand(shape).clone())
        features[name] = terms.units[name].features(drawn[name])
    wider = terms.with_field(site, field)
    return unit.values(wider.sweep(site, features, draw_features))


def terms_of(structure: Structure) -> PairwiseTerms | None:
    """The terms of units in fields; None of anything else."""
    return structure.terms if isinstance(structure, PairwiseStructure) else None


def require_pairwise(energy: Energy, what: str) -> PairwiseTerms:
    """The terms of an energy of units in fields, read once.

    Args:
        energy: Any energy.
        what: What is to be done with it, for the message.

    Raises:
        TypeError: If it is of another kind.
    """
    terms = terms_of(energy.structure())
    if terms is None:
        raise TypeError(
            f"{what} needs an energy of units in fields, such as a BoltzmannMachine; "
            f"{type(energy).__name__} is none."
        )
    return terms
