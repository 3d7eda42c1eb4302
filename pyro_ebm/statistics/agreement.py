r"""Whether chains agree, or differ by more than chance: a test that many units can share.

R-hat says how much chains differ, not whether independent chains of this length would. The means of
stretches of a chain that are long beside its memory are exchangeable if all chains follow one law;
whether those of one chain lie together is then a question of permutations. The answer is a
probability, which can be compared with a false-alarm rate divided by the number of units.
"""

import torch
from torch import Tensor

from .arrays import Array, tensor_of


def agreement(stretches: Array) -> Tensor:  # (chain, stretch, *shape) -> (*shape)
    r"""The probability that means in one chain lie so much closer together by chance.

    .. math::

        H = (n - 1) \frac{\sum_c k (\bar y_c - \bar y)^2}{\sum_{c, s} (y_{cs} - \bar y)^2}

    follows χ² with chains − 1 degrees of freedom over the permutations of all n = chains × k means.
    The law is that of permutations, and not the F distribution of normal means, since means of
    units that are rarely on are far from normal. H is at most n − 1: with few stretches no
    difference can be shown.

    Args:
        stretches: The means of k stretches of each chain, each stretch long beside the chain's
            autocorrelation time.

    Returns:
        The probability, 1 where nothing varies.

    Raises:
        ValueError: If there are fewer than two chains or two stretches.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import agreement
        >>> apart = torch.randn(4, 10) + torch.tensor([[0.0], [0.0], [0.0], [3.0]])
        >>> [bool(agreement(means) > 1e-4) for means in (torch.randn(4, 10), apart)]
        [True, False]

    References:
        | Use of ranks in one-criterion variance analysis (Kruskal & Wallis, 1952), whose test this
        | is, without ranks, https://doi.org/10.1080/01621459.1952.10483441
    """
    stretches = tensor_of(stretches, "stretches")
    if stretches.dim() < 2 or min(stretches.shape[:2]) < 2:
        raise ValueError(
            f"'stretches' has shape {tuple(stretches.shape)}; wanted (chain, stretch, *shape) with "
            "at least two of each."
        )
    y = stretches.double()
    chains, each = y.shape[:2]
    y = y - y.mean((0, 1))
    between = each * y.mean(1).square().sum(0)
    everything = y.square().sum((0, 1))
    statistic = (chains * each - 1) * between / everything
    # Rounding leaves a constant unit with a sum of squares that is not quite zero.
    varies = (stretches != stretches[:1, :1]).any(0).any(0)
    half_freedom = torch.tensor((chains - 1) / 2, dtype=y.dtype)
    p = torch.special.gammaincc(half_freedom, statistic.nan_to_num(0.0) / 2)
    return torch.where(varies, p, 1.0)


def stretch_means(draws: Tensor, count: int) -> Tensor:  # (chain, draw, *shape)
    r"""The means of `count` stretches of equal length of each chain, (chain, count, \*shape).

    The first draws are left out where the number of draws is no multiple.

    Raises:
        ValueError: If there are fewer draws than stretches.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import stretch_means
        >>> stretch_means(torch.arange(6.0)[None], 3)
        tensor([[0.5000, 2.5000, 4.5000]], dtype=torch.float64)
    """
    length = draws.shape[1] // count
    if length < 1:
        raise ValueError(f"{draws.shape[1]} draws are too few for {count} stretches.")
    kept = draws[:, draws.shape[1] - count * length :]
    return kept.unflatten(1, (count, length)).mean(2, dtype=torch.float64)
