r"""How long whole configurations remember, by the Hamming distance.

For units in {0, 1} the mean of Σ_i (x_i(s) − x_i(s + t))² is the Hamming distance of configurations
t draws apart, and half of what it lacks to that of independent ones is the sum of the units'
autocovariances. Sums over units therefore make one autocorrelation, in which an almost frozen unit
counts little, and no unit's own estimate is divided by a small number.
"""

import torch
from torch import Tensor

from .arrays import Array
from .autocovariance import Autocovariances, autocovariances, checked_draws, chunks, split, together

SPAN = 64  # from the least to the largest value, up to which each is looked for
FEW = 16  # values, up to which each is a unit of its own in a Hamming distance


def hamming_effective_sample_size(draws: Array) -> Tensor:  # (chain, draw, *shape) -> ()
    r"""How many independent configurations there are in the chains.

    .. math::

        S / \left(1 + 2 \sum_{t > 0} \rho_t\right), \qquad
        \rho_t = 1 - \frac{\sum_i (W_i - c_i(t))}{\sum_i (\tfrac{N - 1}{N} W_i + B_i)}

    with a unit's variance W inside half chains of N draws, autocovariance c and variance B of half
    chains' means. NaN where nothing ever changes.

    Args:
        draws: The draws of one discrete site; labels of several values count as equal or not, real
            numbers by their squared distance.

    Raises:
        ValueError: If there are fewer than 8 draws, or some are NaN or infinite.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import hamming_effective_sample_size
        >>> f"{hamming_effective_sample_size(torch.rand(4, 100, 20).round()):.0f} of 400"
        '428 of 400'
    """
    draws = checked_draws(draws)
    return total(draws).effective_sample_size()


def hamming_autocorrelation(draws: Array, lags: int) -> Tensor:  # (lags + 1)
    r"""ρ_t of configurations, t from 0 to `lags`, as in `hamming_effective_sample_size`.

    It is that against the variance of all chains together: where chains are trapped in different
    modes it does not fall to zero.

    Args:
        draws: As there, (chain, draw, \*shape).
        lags: The largest t, less than half the number of draws.

    Raises:
        ValueError: As there, or if there are not so many lags.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import hamming_autocorrelation
        >>> twice = torch.rand(4, 100, 20).round().repeat_interleave(2, 1)
        >>> [f"{rho:.1f}" for rho in hamming_autocorrelation(twice, lags=1)]
        ['1.0', '0.5']
    """
    draws = checked_draws(draws)
    if not 0 <= lags < draws.shape[1] // 2:
        raise ValueError(
            f"lags is {lags}; wanted 0 or more, and less than half of the {draws.shape[1]} draws."
        )
    rho = total(draws).autocorrelation()[: lags + 1]
    rho[0] = 1  # the formula gives 1 up to a share of 1 / draws
    return rho


def total(draws: Tensor) -> Autocovariances:
    """The sums over units of what they remember."""
    return together([autocovariances(split(x)).total() for x in chunks(indicators(draws))])


def indicators(draws: Tensor) -> Tensor:  # (chain, draw, *shape) -> (chain, draw, *shape[, values])
    """Labels of more than two and few values as one unit for each value; others as they are.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import indicators
        >>> indicators(torch.tensor([[[0, 2], [1, 2]]])).shape  # (chain, draw, unit, label)
        torch.Size([1, 2, 2, 3])
    """
    values = labels(draws)
    return draws if values is None or len(values) <= 2 else (draws[..., None] == values).byte()


def labels(draws: Tensor) -> Tensor | None:
    """The values of a discrete site in order, or None where there are many, or it is continuous.

    Example:
        >>> import torch
        >>> from pyro_ebm.statistics import labels
        >>> labels(torch.tensor([[[0, 2], [1, 2]]])), labels(torch.randn(1, 2, 2))
        (tensor([0, 1, 2]), None)
    """
    if draws.is_floating_point():
        return None
    if draws.dtype is torch.bool:
        draws = draws.byte()
    low, high = (int(value) for value in draws.aminmax())
    # One pass for each value that there may be: sorting all draws takes longer by far.
    between = range(low + 1, high) if high - low < SPAN else draws.unique()[1:-1].tolist()
    values = [low, *(v for v in between if bool((draws == v).any()))]
    values += [high] * (high > low)
    return torch.tensor(values, dtype=draws.dtype) if len(values) <= FEW else None
