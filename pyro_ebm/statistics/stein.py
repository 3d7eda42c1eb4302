r"""Whether draws of continuous sites follow an energy: Stein's identity.

Under p(x) ∝ exp(−E(x)) on all of space, with tails that vanish,

.. math:: \mathrm{E}[\nabla f(x) - f(x)\, \nabla E(x)] = 0

for every smooth f. That needs no normaliser and no draws that are known to be right; and unlike
R-hat it sees chains that agree with each other on something wrong. A mode far from all draws it
does not see.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites, batch_shape, check_names, describe, is_real

ROWS = 4096  # of which gradients are computed together
BLOCK = 2**22  # pairs of draws that are held at once


class SteinDiscrepancy(NamedTuple):
    """How far draws are from an energy's law, and whether by more than chance.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy
        >>> from pyro_ebm.statistics import kernel_stein_discrepancy
        >>> normal = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)
        >>> float(kernel_stein_discrepancy(normal, torch.randn(200, 2) + 1.0).p_value) < 0.01
        True
    """

    value: Tensor  # (), the discrepancy: the root of the mean over all pairs
    unbiased: Tensor  # (), the square's mean over pairs of different draws; 0 in expectation
    p_value: Tensor  # (), of the hypothesis that the draws follow the law


def kernel_stein_discrepancy(
    energy: Energy,
    x: Sites | Tensor,
    *,
    scale: float | None = None,
    bootstraps: int = 500,
) -> SteinDiscrepancy:
    r"""The kernel Stein discrepancy of draws from an energy of continuous sites.

    .. math::

        \mathrm{KSD}^2 = \frac1{n^2} \sum_{ij} \Big[ s_i^\top s_j\, k + s_i^\top \nabla_j k
        + s_j^\top \nabla_i k + \mathrm{tr}\, \nabla_i \nabla_j k \Big], \qquad
        k(x, y) = (c^2 + |x - y|^2)^{-1/2}, \quad s = -\nabla E

    with the inverse multiquadric kernel, for which a small discrepancy means convergence in law.
    The probability comes from a wild bootstrap, by random signs, and holds for independent draws:
    thin a chain by its autocorrelation time, or it will be refused too often. Memory is bounded;
    time grows with the square of the number of draws.

    Args:
        energy: The energy; all its sites are real.
        x: Draws (rows, *site.shape) by site, or the value of the only one.
        scale: c, in the units of x; the median distance of draws if left out.
        bootstraps: The number of random signs, the resolution of the probability.

    Raises:
        TypeError, ValueError: If a site is not real or an argument is not what is wanted.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy
        >>> from pyro_ebm.statistics import kernel_stein_discrepancy
        >>> normal = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)
        >>> good, bad = torch.randn(200, 2), torch.randn(200, 2) + 1.0
        >>> [float(kernel_stein_discrepancy(normal, x).p_value) > 0.01 for x in (good, bad)]
        [True, False]

    References:
        | Measuring sample quality with kernels (Gorham & Mackey, 2017)
        | https://proceedings.mlr.press/v70/gorham17a.html
        | A kernel test of goodness of fit (Chwialkowski, Strathmann & Gretton, 2016)
        | https://proceedings.mlr.press/v48/chwialkowski16.html
    """
    if bootstraps < 1:
        raise ValueError(f"bootstraps is {bootstraps}; wanted 1 or more, for example 500.")
    sites = real_sites(energy)
    x = energy.accept(x, preferred=None)
    check_names(x, energy.sites)
    batch = batch_shape(x, energy.sites)
    if len(batch) != 1 or batch[0] < 2:
        raise ValueError(
            f"The draws have the batch shape {tuple(batch)}; wanted (rows,), two draws or more of "
            "every site: flatten chains into rows."
        )
    count = batch[0]
    score = -gradients(energy, x)
    position = torch.cat([x[name].reshape(count, -1) for name in sites], 1).double()
    position = position - position.mean(0)
    c = median_distance(position) if scale is None else float(scale)
    if not c > 0:
        raise ValueError(f"The kernel's scale is {c}; wanted a number above 0: give scale=...")
    signs = 2 * torch.rand(count, bootstraps, device=position.device).round_().double() - 1
    total, diagonal = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    wild = torch.zeros(bootstraps, dtype=torch.float64)
    width = max(1, BLOCK // count)
    for first in range(0, count, width):
        some = slice(first, first + width)
        kernel = stein_kernel(position[some], score[some], position, score, c)
        total += kernel.sum()
        diagonal += kernel.diagonal(first).sum()
        wild += (signs[some] * (kernel @ signs)).sum(0)
    p_value = (1 + (wild >= total).sum()) / (1 + bootstraps)
    return SteinDiscrepancy(
        value=(total / count**2).clamp_min(0).sqrt(),
        unbiased=(total - diagonal) / (count * (count - 1)),
        p_value=p_value.double(),
    )


def stein_kernel(x: Tensor, s: Tensor, y: Tensor, t: Tensor, c: float) -> Tensor:  # (a, b)
    """The Stein kernel of points x (a, n) and y (b, n), with the scores s and t there."""
    distance = torch.cdist(x, y).square()
    q = (c**2 + distance).reciprocal()
    root = q.sqrt()
    # (s − t)ᵀ(x − y), from products of matrices.
    along = (s * x).sum(1)[:, None] + (t * y).sum(1) - s @ y.T - x @ t.T
    return root * (s @ t.T + q * (along + x.shape[1] - 3 * distance * q))


def median_distance(x: Tensor) -> float:
    """The median distance of (at most 1,000) points."""
    return float(torch.pdist(x[:: -(-len(x) // 1000)]).median())


def gradients(energy: Energy, x: Sites) -> Tensor:  # (rows, n)
    """∂E/∂x of the real sites, flattened and side by side, in float64."""
    names = [name for name, site in energy.sites.items() if is_real(site.support)]
    count = len(next(iter(x.values())))
    parts = []
    for first in range(0, count, ROWS):
        some = {name: value[first : first + ROWS] for name, value in x.items()}
        _, gradient = energy.energy_and_gradient(some, names)
        parts.append(
            torch.cat(
                [gradient[name].reshape(len(gradient[name]), -1) for name in names], 1
            ).double()
        )
    return torch.cat(parts)


def real_sites(energy: Energy) -> list[str]:
    """All sites of an energy.

    Raises:
        ValueError: If one is not real.
    """
    if other := [name for name, site in energy.sites.items() if not is_real(site.support)]:
        raise ValueError(
            f"The sites {other} are not real ({sorted_supports(energy)}): Stein's identity with "
            "gradients holds on all of space. Sum discrete sites out, or judge chains with "
            "diagnose(...)."
        )
    return list(energy.sites)


def sorted_supports(energy: Energy) -> str:
    """The sites with their supports, in words."""
    return ", ".join(f"{name!r}: {describe(site.support)}" for name, site in energy.sites.items())
