"""Gibbs sampling: every unit drawn from its conditional law, in an order that structure gives.

A layer without couplings inside is drawn at once, a layer on a graph colour by colour, a dense
layer unit by unit with fields kept up to date: exactly sequential in every case. What a sweep over
a site is says the energy's structure.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure, Swept
from pyro_ebm.kernels.base import ReversibleKernel
from pyro_ebm.kernels.metropolis import NoInfo
from pyro_ebm.kernels.settings import require_names
from pyro_ebm.kernels.start import accept_all, read_structure, with_terms
from pyro_ebm.sites import Sites


class GibbsState(NamedTuple):
    """The position, and what the next sweep begins with.

    Args:
        x: The values.
        structure: The energy's parameters as read, where it has terms: else they are read anew.
        swept: What the last sweep has found on the way.
    """

    x: Sites
    structure: Structure | None
    swept: Swept | None

    @property
    def energy(self) -> Tensor | None:  # (*batch,)
        """E(x), where the newest field gives it without a product; else None."""
        known = None if self.swept is None else self.swept.energy
        return None if known is None else known()

    @property
    def newest(self) -> tuple[str, Tensor] | None:
        """The site that was drawn last, as a whole, and the field on it; None where unknown."""
        return None if self.swept is None else self.swept.newest


@dataclass(frozen=True, eq=False)
class Gibbs(ReversibleKernel[GibbsState, NoInfo]):
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
        sites = self.moved(energy)
        structure = require_blocks(energy, sites)
        if coupled := [site for site in sites if len(structure.blocks(site)) > 1]:
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
        require_names(self.sites, "visible")
        structure = require_blocks(energy, self.moved(energy))
        structure.require_normalisable()
        return GibbsState(accept_all(energy, x, structure), with_terms(structure), None)

    def refresh(self, energy: Energy, state: GibbsState, x: Sites) -> GibbsState:
        structure = read_structure(energy)
        structure.require_normalisable()
        return GibbsState(x, with_terms(structure), None)

    @torch.no_grad()
    def step(self, energy: Energy, state: GibbsState) -> tuple[GibbsState, NoInfo]:
        structure = state.structure or energy.structure()
        swept = structure.sweeps(self.moved(energy), state.x)
        return GibbsState(swept.x, state.structure, swept), NoInfo()


def require_blocks(energy: Energy, sites: tuple[str, ...]) -> Structure:
    """What is known of the energy, conditional laws of some sites among it.

    Raises:
        TypeError: If it knows none.
        ValueError: If it does not know those of one of the sites, or does not have it.
    """
    structure = read_structure(energy)
    for site in sites:
        structure.blocks(site)
    return structure
