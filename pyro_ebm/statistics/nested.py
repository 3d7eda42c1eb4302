"""R-hat of many short chains, which start together in groups."""

import torch
from torch import Tensor

from .arrays import Array
from .autocovariance import checked_draws


def nested_r_hat(draws: Array, superchains: int) -> Tensor:  # (chain, draw, *shape) -> (*shape)
    r"""Nested R-hat: whether groups of chains have forgotten where each group started.

    .. math::

        \hat R_\nu = \sqrt{1 + B / W}, \qquad
        W = \frac1K \sum_k (\tilde B_k + \tilde W_k)

    with B the variance of the K groups' means, and inside a group the variance of its chains' means
    and their mean variance. All chains of a group must have the same start, and different groups
    scattered ones: where each chain starts on its own, the groups agree although the chains have
    not mixed. A single draw of each chain will do. Where all is well, R-hat is near
    sqrt(1 + 1 / m) or less, for groups of m chains.

    Args:
        draws: The draws of one site; the chains of one group stand together.
        superchains: The number K of groups.

    Returns:
        Nested R-hat, NaN for a unit that is constant everywhere, infinite for one that is stuck at
        different values in different groups.

    Raises:
        ValueError: If the chains cannot be put in K groups of at least two, or some draws are NaN
            or infinite.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import nested_r_hat
        >>> start = torch.randn(8, 1).repeat_interleave(16, 0)  # 8 groups of 16 chains
        >>> late, early = torch.randn(128, 1), start + torch.randn(128, 1)
        >>> [f"{nested_r_hat(draws, superchains=8):.2f}" for draws in (late, early)]
        ['1.01', '1.79']

    References:
        | Nested R-hat: assessing the convergence of Markov chain Monte Carlo when running many
        | short chains (Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman, 2024)
        | https://doi.org/10.1214/24-BA1453
    """
    draws = checked_draws(draws, least_draws=1)
    chains, count = draws.shape[:2]
    check_superchains(chains, superchains)
    x = draws.unflatten(0, (superchains, chains // superchains))
    y = x.double()
    means = y.mean(2)
    inside = means.var(1)
    if count > 1:
        inside = inside + y.var(2).mean(1)
    r = (1 + means.mean(1).var(0) / inside.mean(0)).sqrt()
    still = (x == x[:, :1, :1]).all(2).all(1).all(0)
    constant = (x == x[:1, :1, :1]).all(2).all(1).all(0)
    return r.masked_fill(still, torch.inf).masked_fill(constant, torch.nan)


def check_superchains(chains: int, superchains: int) -> None:
    """Refuses a number of groups that does not fit.

    Raises:
        ValueError: If there are not at least two groups of at least two chains each.
    """
    if superchains < 2 or chains % superchains or chains < 2 * superchains:
        raise ValueError(
            f"{chains} chains cannot be put in {superchains} superchains; wanted at least 2 groups "
            "of the same number, 2 or more, of chains with the same start."
        )
