"""Step sizes: as numbers for each chain, and found by dual averaging."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .settings import Length

# γ, t₀ and κ of Hoffman and Gelman (2014), but that γ is not 0.05: with it ln ε swings so widely
# that its mean is too small: four chains came to accept 0.87 for 0.80, with 0.2 they accept 0.81.
GAIN, DELAY, FORGETTING = 0.2, 10.0, 0.75
FACTOR = 2.0  # by which a step size changes at most in a step of `StepSize.boldly`


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

    def boldly(self, acceptance: Tensor) -> Self:
        """The beginning that follows a step accepted with these probabilities (*laws,).

        Twice as long where all is accepted, half as long where nothing is: it comes from any size
        to the largest that can be used in a few steps, and stays in the midst of its noise.
        """
        return self.at(self.size * FACTOR ** (2 * acceptance.double() - 1))


class StepInfo(NamedTuple):
    """What the Metropolis test of a step did, (*batch,) each."""

    acceptance_rate: Tensor
    step_size: Tensor


def as_length(sizes: Tensor, like: Tensor) -> Length:
    """Step sizes (*laws,) as a setting: a number, where there is one law."""
    return sizes.to(like) if sizes.dim() else float(sizes)


def of_sizes(rate: Tensor, size: Tensor) -> Tensor:
    """Acceptance (*batch,) for each of the sizes, which are those of chains or of laws."""
    return rate if rate.dim() == size.dim() else rate.mean(0)


def least(size: Length) -> float:
    """The smallest step size."""
    return float(size.min()) if isinstance(size, Tensor) else size


def reported(size: Length, like: Tensor) -> Tensor:
    """A step size for each chain, like another number of each (*batch,)."""
    return torch.as_tensor(size, dtype=like.dtype, device=like.device).expand_as(like)
