"""Labels 0, …, q − 1: drawing many at once, and their law as a Pyro distribution."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor


def draw_labels(logits: Tensor) -> Tensor:  # (q, *batch) -> (*batch), int64
    """Labels drawn by inversion, from log-weights with the labels first; −inf is never drawn."""
    weights = (logits - logits.amax(0)).exp_()
    below = weights.cumsum(0)
    uniform = torch.rand_like(below[-1]).mul_(below[-1])
    return (below[:-1] <= uniform).sum(0)


class LabelDistribution(dist.Categorical):
    """Pyro's Categorical, drawn by inversion.

    The inherited `sample` goes through torch.multinomial, which takes seven times as long for
    millions of units of few labels.
    """

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Independent draws (*sample_shape, *batch)."""
        with torch.no_grad():
            logits = self.logits.expand(*sample_shape, *self.logits.shape)
            return draw_labels(logits.movedim(-1, 0))
