"""Gibbs sampling: every unit drawn from its conditional law, in an order that structure gives.

A layer without couplings inside is drawn at once, a layer on a graph colour by colour, a dense
layer unit by unit with fields kept up to date: exactly sequential in every case. For energies that
know more than their blocks (`PairwiseEnergy`) the sweep runs on their fields; what a block and its
law are says `BlockEnergy.conditional`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import (
    BlockEnergy,
    Energy,
    ModelEnergy,
    PairwiseEnergy,
    PairwiseTerms,
    draw_features,
    sweep_site,
)
from pyro_ebm.kernels.base import ReversibleKernel, require_machines, same_batch
from pyro_ebm.sites import Sites, check_names

Newest = tuple[str, Tensor]  # the site drawn last, as a whole, and the field on it


class GibbsState(NamedTuple):
    """The position, and of a pairwise energy its parameters as read and the newest field."""

    x: Sites
    terms: PairwiseTerms | None
    newest: Newest | None

    @property
    def energy(self) -> Tensor | None:  # (*batch,)
        """E(x), where the newest field gives it without a product; else None."""
        if self.terms is None or self.newest is None:
            return None
        return self.terms.energy_in_field(*self.newest, self.terms.features(self.x))


class GibbsInfo(NamedTuple):
    """Nothing to tell: every draw is accepted, and `run` counts the flips."""


@dataclass(frozen=True, eq=False)
class Gibbs(ReversibleKernel):
    """One sweep: the sites in the given order, each block of a site drawn given all the rest.

    Args:
        sites: The sites to move, in order; the others stay as they are. All of them if left out.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, run
        >>> machine = BoltzmannMachine.restricted(4, 3)
        >>> chains = run(Gibbs(("hidden", "visible")), machine, 20, warmup=5, seed=0)
        >>> chains.draws["visible"].shape
        torch.Size([4, 20, 4])

    References:
        | Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images
        | (Geman & Geman, 1984) https://doi.org/10.1109/TPAMI.1984.4767596
    """

    sites: tuple[str, ...] | None = None

    def moved(self, energy: Energy) -> tuple[str, ...]:
        """The sites that a sweep visits, in order."""
        return tuple(energy.sites) if self.sites is None else self.sites

    def reversed(self, energy: Energy) -> "Gibbs":
        """The sites in the opposite order, where no site's units are coupled among themselves.

        Raises:
            ValueError: If those of a site are.
        """
        sites, energy = self.moved(energy), require_blocks(energy)
        if coupled := [site for site in sites if len(energy.blocks(site)) > 1]:
            raise ValueError(
                f"A Gibbs sweep over the sites {coupled}, whose units are coupled among "
                f"themselves, has no reverse here. Use RandomBlocks() or GibbsWithGradients(), "
                f"which are reversible."
            )
        return Gibbs(sites[::-1])

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return tuple(self.moved(energy))

    def init(self, energy: Energy, x: Sites) -> GibbsState:
        if isinstance(self.sites, str) or (self.sites is not None and not self.sites):
            raise ValueError(
                f"sites is {self.sites!r}; wanted a tuple of names, for example ('visible',)."
            )
        energy = require_blocks(energy)
        if isinstance(energy, ModelEnergy):
            energy.require_known(self.moved(energy))
        if unknown := [site for site in self.moved(energy) if site not in energy.sites]:
            raise ValueError(
                f"Gibbs is to move {unknown}, but the energy has {list(energy.sites)}."
            )
        if not isinstance(energy, PairwiseEnergy):
            for site in self.moved(energy):
                energy.blocks(site)  # refuses a site without conditional laws
        x = energy.accept(x)
        check_names(x, energy.sites)
        batch = same_batch(x, energy)
        state = self.refresh(energy, GibbsState(x, None, None), x)
        if state.terms:
            require_machines(batch, state.terms.batch)
        return state

    def refresh(self, energy: Energy, state: GibbsState, x: Sites) -> GibbsState:
        if not isinstance(energy, PairwiseEnergy):
            return GibbsState(x, None, None)
        with torch.no_grad():
            terms = energy.read()
            terms.require_finite()
            terms.require_normalisable()
        return GibbsState(x, terms, None)

    @torch.no_grad()
    def step(self, energy: Energy, state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
        x, terms = dict(state.x), state.terms
        newest: Newest | None = None
        if terms is None:
            for site in self.moved(energy):
                assert isinstance(energy, BlockEnergy)  # checked in `init`
                x[site] = sweep_site(energy, site, x)
            return GibbsState(x, terms, newest), GibbsInfo()
        features = terms.features(x)
        for site in self.moved(energy):
            x[site], newest = draw_site(terms, site, features)
            features[site] = terms.units[site].features(x[site])
        return GibbsState(x, terms, newest), GibbsInfo()


def draw_site(terms: PairwiseTerms, site: str, features: Sites) -> tuple[Tensor, Newest | None]:
    """A sweep over one site; with the field on it, where it is drawn as a whole."""
    if terms.inner(site) is not None:
        return terms.units[site].values(terms.sweep(site, features, draw_features)), None
    field = terms.outer_field(site, features).expand(features[site].shape)
    return terms.units[site].sample(field.clone()), (site, field)


def require_blocks(energy: Energy) -> BlockEnergy:
    """The energy, which knows conditional laws.

    Raises:
        TypeError: If it knows none.
    """
    if isinstance(energy, BlockEnergy):
        return energy
    raise TypeError(
        f"Gibbs draws units from their conditional laws, which {type(energy).__name__} does not "
        f"know. Use a kernel that needs only the energy or its gradient."
    )
