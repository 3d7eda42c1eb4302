"""Draws against a known law of finitely many states."""

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels import Gibbs, advance
from pyro_ebm.sites import Sites

from .machines import Small, index_of

ALPHA = 1e-6  # of every statistical test, before the number of its looks
CHAINS = 20_000
LEAST = 10  # expected draws in a cell; rarer states are taken together


def counts_of(x: Sites, small: Small) -> np.ndarray:  # (states,)
    """How many draws (*batch, n) are in each state."""
    index = index_of(x, small.units).flatten().numpy()
    return np.bincount(index, minlength=len(small.energies))


def chi_square(counts: np.ndarray, law: np.ndarray) -> float:
    """The p-value of Pearson's χ² of counts against a law, rare states taken together."""
    expected = counts.sum() * law
    rare = expected < LEAST
    if counts[expected == 0].any():
        return 0.0
    if rare.any() and not rare.all():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        if expected[-1] < LEAST:  # too few together: into the rarest of the others
            joined = np.argmin(expected[:-1])
            expected[joined] += expected[-1]
            counts[joined] += counts[-1]
            counts, expected = counts[:-1], expected[:-1]
    if len(counts) < 2:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(counts) - 1))


def exact_start(small: Small, chains: int, seed: int) -> dict[str, Tensor]:
    """Independent draws by numpy from the enumerated law."""
    chosen = np.random.default_rng(seed).choice(
        len(small.energies), size=chains, p=small.probabilities
    )
    return {site: value[chosen] for site, value in small.tensors().items()}


def from_exact_start(
    energy: Energy, kernel: Gibbs, small: Small, *, chains: int = CHAINS, seed: int = 0
) -> float:
    """The least p-value after 1, 4 and 16 steps, times three, of chains that started in law."""
    torch.manual_seed(seed)
    state = kernel.init(energy, exact_start(small, chains, seed))
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        found.append(chi_square(counts_of(state.x, small), small.probabilities))
    return 3 * min(found)


def from_fixed_start(
    energy: Energy, kernel: Gibbs, small: Small, *, chains: int = CHAINS, seed: int = 0
) -> float:
    """The p-value after 30 steps of chains that all started in the first state."""
    torch.manual_seed(seed)
    first = {site: value[:1].expand(chains, -1).clone() for site, value in small.tensors().items()}
    state = advance(kernel, energy, kernel.init(energy, first), 30)
    return chi_square(counts_of(state.x, small), small.probabilities)


def agreements(
    energy: Energy, kernel: Gibbs, small: Small, *, chains: int = CHAINS, seed: int = 0
) -> float:
    """The least p-value, times three, of how many chains agree with one at some distance.

    Chains that use the same random numbers run together, and each on its own follows the law.
    """
    torch.manual_seed(seed)
    state = kernel.init(energy, exact_start(small, chains, seed))
    index = index_of(advance(kernel, energy, state, 16).x, small.units)
    chance = float((small.probabilities**2).sum())
    found = []
    for distance in (1, 2, chains // 2):
        # Every chain in one pair only, so that the pairs are independent.
        pairs = index[: chains // (2 * distance) * 2 * distance].reshape(-1, 2, distance)
        agree = int((pairs[:, 0] == pairs[:, 1]).sum())
        found.append(stats.binomtest(agree, pairs[:, 0].numel(), chance).pvalue)
    return 3 * min(found)
