r"""The mean-field posterior of hidden units.

.. math::

    q(h \mid v) = \prod_j q_j(h_j), \quad
    F(v) \le E(v, \varphi) - \sum_j H(\varphi_j), \quad
    \varphi_j \leftarrow E[h_j \mid \mathrm{field}_j(v, \varphi)]

where φ are the means of q. One block of uncoupled units at a time the bound never gets worse.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, PairwiseTerms, require_pairwise
from pyro_ebm.sites import Sites, is_count
from pyro_ebm.units import Unit, name_of


class MeanFieldPosterior(NamedTuple):
    """q(h | v) for every row of the data.

    Args:
        means: E[T(h)] by hidden site (*batch, n * width): of numbers the mean, of labels the
            probabilities.
        free_energy_bound: E_q[E(v, h)] − H(q) ≥ F(v) (*batch,), in nats: minus it is the evidence
            lower bound up to log Z, and minus it minus log Z the bound of ln p(v) itself.
        sweeps: Sweeps over the hidden units that were made.
        change: The largest change of a mean in the last sweep; small where it has converged.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, mean_field
        >>> machine, rows = BoltzmannMachine.restricted(4, 3), torch.ones(2, 4)
        >>> bound = mean_field(machine, rows).free_energy_bound
        >>> torch.allclose(bound, machine.free_energy(rows))  # tight for uncoupled hidden units
        True
    """

    means: Sites
    free_energy_bound: Tensor
    sweeps: int
    change: float


def mean_field(
    energy: Energy,
    x: Sites | Tensor,
    *,
    start: Sites | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int = 1000,
) -> MeanFieldPosterior:
    """The mean-field posterior of the sites that x leaves out, by coordinate fixed point.

    `MeanField` is the same inside learning, `MeanFieldGuide` inside Pyro's guides.

    Args:
        energy: A machine; its hidden units may be coupled among themselves.
        x: Values of the observed sites (*batch, n), or a bare tensor for `visible`; with none, {},
            the bound is of log Z: log Z ≥ −E(φ) + H(φ).
        start: Means to start from, by hidden site; those at zero field if left out. The bound has
            several local optima where the couplings are strong, and the start decides between them.
        tolerance: Stop when no mean changes by more in a sweep.
        max_sweeps: Stop after so many sweeps at the latest; `change` tells whether it mattered.

    Raises:
        TypeError: If the energy is not pairwise.
        ValueError: If nothing is left to infer, or the tolerance or the sweeps are not positive.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, mean_field
        >>> deep = BoltzmannMachine.deep((4, 3, 2))
        >>> found = mean_field(deep, torch.ones(4))
        >>> {site: mean.shape for site, mean in found.means.items()}
        {'hidden1': torch.Size([3]), 'hidden2': torch.Size([2])}

    References:
        | Deep Boltzmann machines (Salakhutdinov & Hinton, 2009)
        | https://proceedings.mlr.press/v5/salakhutdinov09a.html
    """
    check_settings(tolerance, max_sweeps)
    observed = energy.accept(x)
    hidden = [site for site in energy.sites if site not in observed]
    if not hidden:
        raise ValueError(
            f"All the sites, {list(observed)}, are observed; leave out the ones to infer."
        )
    if unknown := [site for site in start or {} if site not in hidden]:
        raise ValueError(f"start is given for {unknown}; the sites to infer are {hidden}.")
    with torch.no_grad():
        terms = require_pairwise(energy, "Mean field")
        terms.require_finite()
        terms.require_normalisable()
        return coordinate_ascent(terms, terms.features(observed), start, tolerance, max_sweeps)


def check_settings(tolerance: float, max_sweeps: int) -> None:
    """Refuses settings with which nothing would be done, or no end found.

    Raises:
        ValueError: If one is not positive, or the sweeps are no whole number.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; wanted a positive number.")
    if not is_count(max_sweeps):
        raise ValueError(f"max_sweeps is {max_sweeps!r}; wanted a positive whole number.")


def coordinate_ascent(
    terms: PairwiseTerms,
    observed: Sites,
    start: Sites | None,
    tolerance: float,
    max_sweeps: int,
) -> MeanFieldPosterior:
    """`mean_field` on the features of values that have passed the door."""
    hidden = [site for site in terms.units if site not in observed]
    batch = torch.broadcast_shapes(*(v.shape[:-1] for v in observed.values()), terms.batch)
    means = dict(observed)
    for site in hidden:
        shape = (*batch, terms.biases[site].shape[-1])
        given = None if start is None else start.get(site)
        means[site] = (
            terms.units[site].mean(terms.biases[site].new_zeros(shape))
            if given is None
            else starting_means(given, site, terms, shape)
        )
    sweeps, change = 0, float("inf")
    # One layer without couplings inside is done in one sweep: its fields do not depend on it.
    exact = len(hidden) == 1 and terms.inner(hidden[0]) is None
    while change > tolerance and sweeps < (1 if exact else max_sweeps):
        change = 0.0
        for site in hidden:
            new = terms.sweep(site, means, expectation)
            change = max(change, float((new - means[site]).abs().max()))
            means[site] = new
        sweeps += 1
    return MeanFieldPosterior(
        {site: means[site] for site in hidden},
        terms.free_energy_bound(means, hidden),
        sweeps,
        0.0 if exact else change,
    )


def starting_means(
    given: Tensor, site: str, terms: PairwiseTerms, shape: tuple[int, ...]
) -> Tensor:  # (*batch, n)
    """Means that were given to start from, checked.

    Raises:
        ValueError: If they do not broadcast to the shape, or are no means of the site's units.
    """
    means = given.to(terms.constant)
    try:
        means = means.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"start[{site!r}] has shape {tuple(given.shape)}; wanted {shape}, one mean for each "
            f"unit of each row."
        ) from None
    unit = terms.units[site]
    sums = means.unflatten(-1, (-1, unit.width)).sum(-1)
    right = unit.width == 1 or bool((sums - 1).abs().max() < 1e-3)
    if not right or not bool(unit.conjugate(means).isfinite().all()):
        raise ValueError(f"start[{site!r}] has values that are no means of {name_of(unit)} units.")
    return means


def expectation(unit: Unit, field: Tensor) -> Tensor:
    """The means of units in their fields."""
    return unit.mean(field)
