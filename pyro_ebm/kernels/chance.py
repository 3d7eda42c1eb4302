"""The draws of Metropolis tests and discrete proposals, each from a law that is given.

Kernels that go through these functions can be followed outcome by outcome: a test that forces
what they return, and adds up its probability, has the exact transition matrix of the kernel's own
code.
"""

import math

import torch
from torch import Tensor


def happens(probability: Tensor) -> Tensor:  # (*shape) -> bool (*shape)
    """Independent events of the given probabilities; never where it is NaN."""
    return torch.rand_like(probability) < probability


def choose(log_weights: Tensor) -> Tensor:  # (*batch, n) -> (*batch,)
    """One index for each element of the batch, with probabilities ∝ exp(log_weights).

    What has a weight of NaN is not chosen, as if it were −∞. Where nothing can be chosen the index
    is −1: whoever chooses stays where it is.
    """
    cumulative = log_weights.softmax(-1).cumsum(-1)
    if not math.isnan(float(cumulative[..., -1].sum())):  # which one reduction tells of all
        return choose_cumulated(cumulative)
    highest = torch.finfo(log_weights.dtype).max
    known = log_weights.nan_to_num(nan=-math.inf, posinf=highest, neginf=-math.inf)
    index = choose_cumulated(known.softmax(-1).cumsum(-1))
    return index.masked_fill_(known.isneginf().all(-1), -1)


def choose_cumulated(cumulative: Tensor) -> Tensor:  # (*batch, n) -> (*batch,)
    """The same, with probabilities proportional to the steps from each number to the next.

    It is the last index where the numbers are NaN: whoever chose has to see that there was no law.
    """
    total = cumulative[..., -1:]
    # In (0, 1]: what has the probability zero is not chosen at either end.
    uniform = 1 - torch.rand_like(total)
    index = torch.searchsorted(cumulative, uniform * total).squeeze(-1)
    return index.clamp_(max=cumulative.shape[-1] - 1)
