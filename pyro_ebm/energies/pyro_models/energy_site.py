"""A latent site of a Pyro model that is an energy itself: drawn by what that energy knows.

Where the rest of the model looks at each element of the site on its own, it is one more field on
that element. The site is then swept like its energy alone, in that field: layers at once, graphs by
colours. Units that the energy sums out are drawn for the sweep and forgotten.
"""

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_ebm.energies.base import Energy, times
from pyro_ebm.energies.fields.energy import FieldEnergy
from pyro_ebm.energies.fields.labels import draw_labels
from pyro_ebm.energies.pairwise.energy import PairwiseEnergy
from pyro_ebm.energies.pairwise.overlay import PairwiseOverlay
from pyro_ebm.energies.pairwise.terms import PairwiseTerms, draw_features
from pyro_ebm.sites import Sites
from pyro_ebm.units import Unit


@dataclass(frozen=True, eq=False)
class EnergySite:
    """How a site that is an energy is swept.

    Args:
        energy: The energy, which no other latent site enters.
        site: Its site that the model's site is.
        terms: The sites whose terms depend on the site, without its own.
        levels: The values of an element, in the order of the energy's features (states,).
        shape: Of the model's site: perhaps plates, and the elements.
    """

    energy: PairwiseEnergy | FieldEnergy
    site: str
    terms: frozenset[str]
    levels: Tensor
    shape: torch.Size

    def log_weights(self, found: Sites) -> Tensor:  # (*shape)
        """The sum of terms element by element.

        Raises:
            ValueError: If a term has other elements.
        """
        total = torch.zeros(self.shape, device=self.energy.device)
        for name, entry in found.items():
            if entry.shape[entry.dim() - len(self.shape) :] != self.shape:
                raise ValueError(f"{name!r} has entries {tuple(entry.shape)}.")
            # Not sum(dim=()): torch takes no dimensions to mean all of them.
            total = total + entry.reshape(-1, *self.shape).sum(0)
        return total

    @property
    def is_bare(self) -> bool:
        """Whether there are no hidden units: then a weight of the energy is one of the law's."""
        return len(self.energy.sites) == 1

    def sweep(
        self, value: Tensor, log_weights: Tensor, weight: Tensor | None = None
    ) -> Tensor:  # (*batch, *shape)
        """A value after every element was drawn once, given the rest of the model.

        Args:
            value: The present one (*batch, *shape).
            log_weights: ln p of the rest of the model at each value of each element, up to what
                that element does not enter (states, *batch, *shape).
            weight: Of the energy itself (*batch,); 1 if left out, and where there are hidden units.
        """
        if weight is not None:
            weight = weight[(..., *[None] * (len(self.shape) - 1))]  # plates
        if isinstance(self.energy, FieldEnergy):
            return sweep_field(self.energy, value, log_weights, weight)
        terms = self.energy.read()
        if weight is not None:
            terms = PairwiseOverlay.of([terms], {}).weighted([weight])
        x = value.to(terms.constant)
        field = as_field(terms.units[self.site], log_weights.to(terms.constant))
        return sweep_machine(terms, self.site, x, field).to(value.dtype)


def is_swept(energy: Energy, site: str) -> TypeGuard[PairwiseEnergy | FieldEnergy]:
    """Whether `EnergySite` knows how to sweep a site of an energy.

    Hidden units are drawn on their own: they must not be coupled among themselves.
    """
    if not isinstance(energy, PairwiseEnergy):
        return isinstance(energy, FieldEnergy)
    return energy.read().obstacle([name for name in energy.sites if name != site]) is None


def levels_of_elements(energy: PairwiseEnergy | FieldEnergy, site: str) -> Tensor | None:
    """The values of an element of an energy's site; None where there are not finitely many."""
    if isinstance(energy, FieldEnergy):
        return torch.arange(max(energy.states), dtype=torch.float64)
    levels = energy.read().units[site].levels
    return None if levels is None else torch.tensor(levels, dtype=torch.float64)


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


def sweep_field(
    energy: FieldEnergy, value: Tensor, log_weights: Tensor, weight: Tensor | None = None
) -> Tensor:
    """A sweep over the nodes of a random field, with more log-weights on every label.

    Args:
        energy: The field.
        value: The labels (*batch, n).
        log_weights: Of each label of each node (labels, *batch, n).
        weight: Of the field (*batch,); 1 if left out.
    """
    graph, labels = energy.read(), value.to(torch.int64)
    allowed = graph.allowed()
    for colour in energy.colours:
        logits = graph.logits(labels, colour)
        own = log_weights[..., colour.nodes].to(logits)
        if weight is not None:
            # Not the tables: with a weight for each chain there would be as many of them.
            ever = allowed[colour.nodes].mT.reshape(len(logits), *[1] * weight.dim(), -1)
            logits = times(weight[..., None], logits) + ever
        labels[..., colour.nodes] = draw_labels(logits + own)
    return labels.to(value.dtype)


def energy_of(law: Any) -> tuple[Energy, str] | None:  # noqa: ANN401 (any distribution)
    """The energy that a distribution is made of, and the site whose law it is; None if it is not.

    An `EnergyDistribution` has them as `machine` and `site`. One that is masked is another law.
    """
    own = law
    while isinstance(own, ExpandedDistribution | Independent):
        own = own.base_dist
    energy, site = getattr(own, "machine", None), getattr(own, "site", None)
    if isinstance(energy, Energy) and isinstance(site, str):
        return energy, site
    return None
