"""Easy laws near a hard one, where a ladder of temperatures may begin.

They have the means and the spread of draws, also of chains that sit in several modes: real sites
get a law that reaches over all of these, discrete units a field only where the chains agree on it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_ebm.energies import (
    AbstractTyped,
    BoltzmannMachine,
    Energy,
    Layer,
    PairwiseTerms,
    Structure,
    WithoutTerms,
    terms_of,
)
from pyro_ebm.kernels.continuous.coordinates import Coordinates
from pyro_ebm.sites import Sites, is_endless
from pyro_ebm.units import Gaussian, Unit

WIDER = 1.5  # times the draws' standard deviations
OPEN = 0.1  # the share of the law without a field in the mean of a discrete unit
CERTAIN = 4.0  # standard errors between chains, up to which a unit's mean may be chance
FULL = 200  # coordinates, for more of which covariances are not looked at


class NormalReference(AbstractTyped):
    r"""A normal law of continuous sites, in the coordinates in which kernels move them; of counts.

    .. math:: E(x) = \tfrac12 \lVert A (u(x) - m) \rVert^2 + \ln |\det \partial x / \partial u|

    It has no other discrete sites: each of their values is as likely.

    Args:
        energy: The energy whose continuous sites and counts it has.
        mean: m (d,).
        root: A (d, d), or its diagonal (d,).
    """

    typed_by = "mean"

    def __init__(self, energy: Energy, mean: Tensor, root: Tensor) -> None:
        super().__init__()
        self.coordinates = Coordinates.of(energy, endless_sites(energy))
        self.sites = {name: energy.sites[name] for name in self.coordinates.names}
        self.register_buffer("mean", mean)
        self.register_buffer("root", root)
        self.mean: Tensor
        self.root: Tensor

    def evaluate(self, x: Sites) -> Tensor:
        position = self.coordinates.from_sites(x)
        white = self.whitened(position)
        half_square = torch.linalg.vecdot(white, white) / 2
        if self.coordinates.all_real:
            return half_square
        return half_square + self.coordinates.log_volume(position, x)

    def structure(self) -> Structure:
        return WithoutTerms(self, self.in_closed_form if self.coordinates.all_real else None)

    def in_closed_form(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        """E(x) and its gradient where all coordinates are real, without a history."""
        with torch.no_grad():
            white = self.whitened(self.coordinates.from_sites(x))
            slope = white @ self.root if self.root.dim() == 2 else white * self.root
            found = self.coordinates.to_sites(slope)
            return torch.linalg.vecdot(white, white) / 2, {
                site: found[site] if site in found else torch.zeros_like(x[site]) for site in sites
            }

    def whitened(self, position: Tensor) -> Tensor:  # (*batch, d)
        """A (u − m)."""
        away = position - self.mean
        return away @ self.root.mT if self.root.dim() == 2 else away * self.root


@torch.no_grad()
def reference_of(energy: Energy, draws: Sites) -> Energy | None:
    """An easy law with the means and the spread of draws; None where zero energy is one as good.

    A machine's units become independent of each other. The continuous sites of any other energy
    and its counts become normal, its other discrete ones uniform.

    Args:
        energy: The energy.
        draws: Values of all its sites (chain, draw, *site.shape).
    """
    draws = energy.accept(draws)
    terms = terms_of(energy.structure())
    if terms is not None:
        return independent(terms, draws)
    names = endless_sites(energy)
    if not names:
        return None
    position = Coordinates.of(energy, names).from_sites(draws).flatten(0, 1)
    return NormalReference(energy, position.mean(0), inverse_root(position))


def endless_sites(energy: Energy) -> tuple[str, ...]:
    """The sites without a uniform law."""
    return tuple(name for name, site in energy.sites.items() if is_endless(site.support))


def inverse_root(position: Tensor) -> Tensor:  # (n, d) -> (d, d) or (d,)
    """A with (AᵀA)⁻¹ the covariance, made wider."""
    away = position - position.mean(0)
    variance = away.square().mean(0).clamp_min(torch.finfo(away.dtype).tiny ** 0.5)
    count, size = position.shape
    if size == 1 or size > FULL or count < 10 * size:
        return variance.rsqrt() / WIDER
    scaled = away / variance.sqrt()
    correlation = scaled.mT @ scaled / count
    # A little independent noise: directions in which draws hardly differ stay open.
    correlation.diagonal().mul_(1.01)
    factor = torch.linalg.cholesky(correlation)
    eye = torch.eye(size, dtype=away.dtype, device=away.device)
    root = torch.linalg.solve_triangular(factor, eye, upper=False)
    return root / variance.sqrt() / WIDER


def independent(terms: PairwiseTerms, draws: Sites) -> BoltzmannMachine:
    """Units of a machine's kinds without couplings, with the draws' means."""
    layers = {}
    for site, features in terms.features(draws).items():
        mean, unit = features.mean((0, 1)), terms.units[site]
        if unit.levels is not None:
            mean = agreed_mean(features, unit)
        elif isinstance(unit, Gaussian):
            unit = widened(unit, features)
        layers[site] = Layer(unit, terms.count(site), bias=unit.field(mean))
    return BoltzmannMachine(layers)


def agreed_mean(features: Tensor, unit: Unit) -> Tensor:  # (chain, draw, units) -> (units,)
    """How far the means are from those without a field, by what chains do not owe to chance.

    Chains that are stuck have a mean by chance that all their units share: as a field on each of
    many units, it would lead the ladder far away.
    """
    of_chain = features.mean(1)
    free = unit.mean(torch.zeros_like(of_chain[0]))
    away = of_chain.mean(0) - free
    chance = CERTAIN * of_chain.std(0) / math.sqrt(len(of_chain)) if len(of_chain) > 1 else away
    away = away.sign() * (away.abs() - chance).clamp_min(0)
    return free + (1 - OPEN) * away


def widened(unit: Gaussian, features: Tensor) -> Unit:  # (chain, draw, units)
    """Gaussian units with the draws' variances."""
    floor = torch.finfo(features.dtype).eps
    return unit.with_precision(1 / features.var((0, 1)).clamp_min(floor))
