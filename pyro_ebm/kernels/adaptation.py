"""What a warm-up learns from the chains so far: step size, spread, and how far draws reach.

Each is a named tuple, of which a step makes the next one. All chains are one pool.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .mass import Mass
from .settings import Length

# γ, t₀ and κ of Hoffman and Gelman (2014), but that γ is not 0.05: with it ln ε swings so widely
# that its mean is too small: four chains came to accept 0.87 for 0.80, with 0.2 they accept 0.81.
GAIN, DELAY, FORGETTING = 0.2, 10.0, 0.75


class StepSize(NamedTuple):
    r"""Step sizes, each of which approaches a wanted acceptance, by dual averaging.

    Args:
        center: ln ε to which each is drawn back (*laws,), as all the others.
        log_size: ln ε of the next step.
        log_average: Its mean, in which the latest steps weigh most.
        shortfall: The sum of wanted less seen acceptance.
        steps: The steps so far.

    References:
        | The No-U-Turn sampler (Hoffman & Gelman, 2014), section 3.2.1
        | https://jmlr.org/papers/v15/hoffman14a.html
    """

    center: Tensor
    log_size: Tensor
    log_average: Tensor
    shortfall: Tensor
    steps: int = 0

    @classmethod
    def at(cls, size: Length) -> Self:
        """A new beginning."""
        log_size = torch.as_tensor(size, dtype=torch.float64).log()
        return cls(log_size, log_size, log_size, torch.zeros_like(log_size))

    @property
    def size(self) -> Tensor:  # (*laws,)
        """ε of the next step."""
        return self.log_size.exp()

    @property
    def average(self) -> Tensor:  # (*laws,)
        """ε as found."""
        return self.log_average.exp()

    def after(self, acceptance: Tensor, target: float) -> Self:
        """After a step that was accepted with these mean probabilities (*laws,)."""
        steps, shortfall = self.steps + 1, self.shortfall + target - acceptance.double()
        log_size = self.center - math.sqrt(steps) / GAIN * shortfall / (steps + DELAY)
        weight = steps**-FORGETTING
        average = weight * log_size + (1 - weight) * self.log_average
        return type(self)(self.center, log_size, average, shortfall, steps)


class Spread(NamedTuple):
    """The mean and the second moments of the draws of a window.

    Args:
        origin: From where deviations are counted (d,), so that no digits are lost.
        total: The sum of the deviations (d,).
        squares: The sum of what a mass is made of: squares (d,), or products (d, d).
        draws: How many, of all chains.
    """

    origin: Tensor
    total: Tensor
    squares: Tensor
    draws: int

    @classmethod
    def around(cls, position: Tensor, mass: Mass) -> Self:
        """A window without draws, around the mean of some positions (n, d)."""
        origin = position.mean(0)
        return cls(origin, torch.zeros_like(origin), origin.new_zeros(mass.shape(len(origin))), 0)

    def after(self, position: Tensor) -> Self:
        """With one draw more of each chain (n, d)."""
        deviations = position - self.origin
        total, squares = self.total + deviations.sum(0), self.squares + self.moment(deviations)
        return type(self)(self.origin, total, squares, self.draws + len(deviations))

    def moment(self, deviations: Tensor) -> Tensor:  # (n, d)
        """The sum over draws of squares, or of products."""
        dense = self.squares.dim() == 2
        return deviations.mT @ deviations if dense else deviations.square().sum(0)

    @property
    def mean(self) -> Tensor:  # (d,)
        """The mean position."""
        return self.origin + self.total / max(self.draws, 1)

    def mass(self, old: Mass) -> Mass:
        """The mass of these draws, drawn a little to the old one."""
        inverse = self.squares / self.draws - self.moment(self.total[None] / self.draws)
        return old.estimated(inverse, self.draws)


class Reach(NamedTuple):
    """How far apart draws are in the direction in which they are farthest apart.

    In whitened coordinates z, where momenta are N(0, I): a power iteration with a step a draw.

    Args:
        product: The mean of (z·w) z over draws (d,), which turns to the widest direction w.
        steps: The steps in that mean.
    """

    product: Tensor
    steps: int = 0

    @property
    def direction(self) -> Tensor:  # (d,)
        """The direction w, of length one."""
        return self.product / self.product.norm().clamp_min(torch.finfo(self.product.dtype).tiny)

    @property
    def deviation(self) -> float:
        """The standard deviation along w."""
        return float(self.product.norm().sqrt())

    def after(self, whitened: Tensor) -> Self:
        """With one draw more of each chain, z (n, d)."""
        new = (whitened @ self.direction) @ whitened / len(whitened)
        steps = self.steps + 1
        return type(self)(self.product.lerp(new, 1 / steps), steps)
