r"""Energies on the way from an easy reference to a target.

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

With no reference E_ref = 0, and the path is βE. β is one number, or one for each level
(levels,), the last batch dimension of the values. Where the target is pairwise and the reference
has independent units, so is every energy on the path: its biases and couplings are those of the
two, weighted, and Gibbs runs on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ebm.energies import (
    Energy,
    GradientEnergy,
    PairwiseEnergy,
    PairwiseTerms,
    energy_and_gradient,
)
from pyro_ebm.energies.base import Block
from pyro_ebm.energies.links import GraphLink, Link, Phase
from pyro_ebm.sites import Sites, batch_shape, boolean, spin


def along(energy: Energy, reference: Energy | None, beta: Tensor) -> Energy:
    """The energy at β, the most specific kind that it is.

    Args:
        energy: The target, β = 1.
        reference: β = 0; zero if left out. It has the same sites.
        beta: () or (levels,).
    """
    # A potential is not linear in anything that β weights.
    if (
        isinstance(energy, PairwiseEnergy)
        and is_two_valued(energy)
        and (reference is None or is_independent(reference))
    ):
        return PairwisePath(energy, reference, beta)
    return GeneralPath(energy, reference, beta)


def is_independent(energy: Energy) -> TypeGuard[PairwiseEnergy]:
    """Whether it is pairwise, and has no couplings."""
    return isinstance(energy, PairwiseEnergy) and not energy.read().links


def is_two_valued(energy: Energy) -> bool:
    """Whether all sites are bits or spins."""
    return all(site.support in (boolean, spin) for site in energy.sites.values())


def check_reference(energy: Energy, reference: Energy | None, lowest: float) -> None:
    """Refuses a reference for other sites, and none where it is needed.

    Raises:
        ValueError: If the sites differ, or if β = 0 would be no law.
    """
    if reference is None:
        endless = [s for s, site in energy.sites.items() if not site.support.is_discrete]
        if lowest == 0 and endless:
            raise ValueError(
                f"At β = 0 the sites {endless} have no law, being real. Give a reference energy "
                f"that has one, or a lowest β above 0."
            )
    elif dict(reference.sites) != dict(energy.sites):
        raise ValueError(
            f"The reference has the sites {dict(reference.sites)}; "
            f"wanted those of the energy, {dict(energy.sites)}."
        )
    elif (reference.dtype, reference.device) != (energy.dtype, energy.device):
        raise ValueError(
            f"The reference is {reference.dtype} on {reference.device}, "
            f"the energy {energy.dtype} on {energy.device}; give both alike."
        )


def ascent(energy: Energy, reference: Energy | None, x: Sites) -> Tensor:  # (*batch,)
    """E(x) − E_ref(x): what a step of β adds to the energy."""
    value = energy.evaluate(x)
    return value if reference is None else value - reference.evaluate(x)


class GeneralPath(GradientEnergy):
    """An energy between any two; see the module's docstring.

    Args:
        energy: β = 1.
        reference: β = 0; zero if left out.
        beta: () or (levels,).
    """

    def __init__(self, energy: Energy, reference: Energy | None, beta: Tensor) -> None:
        super().__init__()
        self.energy, self.reference, self.beta = energy, reference, beta
        self.sites = energy.sites

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def evaluate(self, x: Sites) -> Tensor:
        return between(self.energy, self.reference, self.beta, x)

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        value, gradient = energy_and_gradient(self.energy, x, sites)
        value = value * self.beta
        gradient = {s: self.scaled(s, g, self.beta) for s, g in gradient.items()}
        if self.reference is not None:
            own, away = energy_and_gradient(self.reference, x, sites)
            value = value + own * (1 - self.beta)
            rest = {s: self.scaled(s, g, 1 - self.beta) for s, g in away.items()}
            gradient = {s: g + rest[s] for s, g in gradient.items()}
        return value, gradient

    def scaled(self, site: str, value: Tensor, factor: Tensor) -> Tensor:  # (*batch, *shape)
        """A value times a factor of its level."""
        return value * factor.reshape(*factor.shape, *[1] * len(self.sites[site].shape))


def between(energy: Energy, reference: Energy | None, beta: Tensor, x: Sites) -> Tensor:
    """(1 − β) E_ref(x) + β E(x), (*batch,)."""
    value = beta * energy.evaluate(x)
    return value if reference is None else value + (1 - beta) * reference.evaluate(x)


@dataclass(frozen=True, eq=False)
class ScaledLink(Link):
    """A dense coupling, weaker on some levels: one product serves all of them.

    Args:
        link: The coupling at β = 1.
        beta: (levels,), the last batch dimension of the values.
    """

    link: Link
    beta: Tensor

    @property
    def ends(self) -> tuple[str, str]:  # type: ignore[override] # an attribute elsewhere
        """The two sites."""
        return self.link.ends

    @property
    def weight(self) -> Tensor:  # type: ignore[override] # an attribute elsewhere
        """The couplings (levels, n, m)."""
        return self.beta[:, None, None] * self.link.weight

    @property
    def batch(self) -> torch.Size:
        return torch.broadcast_shapes(self.link.batch, self.beta.shape)

    def interaction(self, x: Sites) -> Tensor:
        return self.beta * self.link.interaction(x)

    def field(self, site: str, x: Sites, base: Tensor) -> Tensor:
        zeros = base.new_zeros(base.shape[-1:])
        return base + self.beta[:, None] * self.link.field(site, x, zeros)

    def block_field(self, site: str, x: Sites, block: Tensor) -> Tensor:
        return self.beta[:, None] * self.link.block_field(site, x, block)

    def moment(self, phases: "Sequence[Phase]") -> Tensor:
        raise NotImplementedError("A path of several levels is sampled, not learned.")

    def matrix(self) -> Tensor:
        return self.beta[:, None, None] * self.link.matrix()


def scaled_link(link: Link, beta: Tensor) -> Link:
    """A coupling times β, () or (levels,)."""
    if not beta.dim():
        return link.weighted(link.weight * beta)
    if isinstance(link, GraphLink):
        return link.weighted(link.weight * beta[:, None])
    return ScaledLink(link, beta)


class PairwisePath(PairwiseEnergy):
    """An energy between independent units and a pairwise one; see the module's docstring.

    Args:
        energy: β = 1.
        reference: β = 0, without couplings; zero if left out.
        beta: () or (levels,).
    """

    def __init__(
        self, energy: PairwiseEnergy, reference: PairwiseEnergy | None, beta: Tensor
    ) -> None:
        super().__init__()
        self.energy, self.reference, self.beta = energy, reference, beta
        self.sites = energy.sites

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def evaluate(self, x: Sites) -> Tensor:
        return between(self.energy, self.reference, self.beta, x)

    def read(self) -> PairwiseTerms:
        terms, beta = self.energy.read(), self.beta
        units = beta.unsqueeze(-1)  # for what has a dimension of units
        biases = {site: units * bias for site, bias in terms.biases.items()}
        constant = beta * terms.constant
        if self.reference is not None:
            easy = self.reference.read()
            biases = {site: b + (1 - units) * easy.biases[site] for site, b in biases.items()}
            constant = constant + (1 - beta) * easy.constant
        links = tuple(scaled_link(link, beta) for link in terms.links)
        return PairwiseTerms(terms.units, biases, links, constant)

    def blocks(self, site: str) -> tuple[Block, ...]:
        return self.energy.blocks(site)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        terms = self.read()
        field = terms.outer_field(site, x) if block is None else terms.block_field(site, x, block)
        batch = torch.broadcast_shapes(field.shape[:-1], batch_shape(x, self.sites))
        return terms.units[site].conditional(field.expand(*batch, field.shape[-1]))

    def free_energy(self, x: Sites | Tensor) -> Tensor:
        return self.read().free_energy(self.accept(x))
