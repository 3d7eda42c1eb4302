"""Easy laws near a hard one, where a ladder of temperatures may begin.

They have the means and the spread of draws, however these were made: of chains that sit in several
modes, the law reaches over all of these.
"""

import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, Energy, Layer, PairwiseEnergy, PairwiseTerms
from pyro_ebm.sites import Sites
from pyro_ebm.units import Gaussian, Unit

from .coordinates import Coordinates, moved_sites

WIDER = 1.5  # times the draws' standard deviations
OPEN = 0.1  # the share of the law without a field in the mean of a discrete unit
FULL = 200  # coordinates, for more of which covariances are not looked at


class NormalReference(Energy):
    r"""A normal law of continuous sites, in the coordinates in which kernels move them.

    .. math:: E(x) = \tfrac12 \lVert A (u(x) - m) \rVert^2 + \ln |\det \partial x / \partial u|

    Discrete sites do not enter: each of their values is as likely.

    Args:
        energy: The energy whose sites it has.
        mean: m (d,).
        root: A (d, d), or its diagonal (d,).
    """

    def __init__(self, energy: Energy, mean: Tensor, root: Tensor) -> None:
        super().__init__()
        self.sites = energy.sites
        self.coordinates = Coordinates.of(energy, None)
        self.register_buffer("mean", mean)
        self.register_buffer("root", root)
        self.mean: Tensor
        self.root: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def evaluate(self, x: Sites) -> Tensor:
        position = self.coordinates.from_sites(x)
        away = position - self.mean
        away = away @ self.root.mT if self.root.dim() == 2 else away * self.root
        half_square = torch.linalg.vecdot(away, away) / 2
        if self.coordinates.all_real:
            return half_square
        return half_square + self.coordinates.log_volume(position, x)


@torch.no_grad()
def reference_of(energy: Energy, draws: Sites) -> Energy | None:
    """An easy law with the means and the spread of draws; None where zero energy is one as good.

    A machine's units become independent of each other. The continuous sites of any other energy
    become normal, its discrete ones uniform.

    Args:
        energy: The energy.
        draws: Values of all its sites (n, *site.shape).
    """
    draws = energy.accept(draws)
    if isinstance(energy, PairwiseEnergy):
        return independent(energy.read(), draws)
    if not moved_sites(energy, None):
        return None
    position = Coordinates.of(energy, None).from_sites(draws)
    return NormalReference(energy, position.mean(0), inverse_root(position))


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
        mean, unit = features.mean(0), terms.units[site]
        if unit.levels is not None:
            mean = mean.lerp(unit.mean(torch.zeros_like(mean)), OPEN)
        elif isinstance(unit, Gaussian):
            unit = widened(unit, features)
        layers[site] = Layer(unit, terms.count(site), bias=unit.field(mean))
    return BoltzmannMachine(layers)


def widened(unit: Gaussian, features: Tensor) -> Unit:  # (n, units)
    """Gaussian units with the draws' variances."""
    floor = torch.finfo(features.dtype).eps
    return unit.with_precision(1 / features.var(0).clamp_min(floor))
