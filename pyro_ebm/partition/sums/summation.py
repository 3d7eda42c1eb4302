"""What can be asked of an energy that can be summed exactly, however that is done."""

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.sites import Sites


class Moments(NamedTuple):
    """First and second moments of the features of all units.

    Features are a number itself and the one-hot vector of a label, n * width of them at a site.

    Args:
        mean: E[T(x)] of each site (*batch of the parameters, n * width).
        second: E[T Tᵀ] over the features of all sites in order (*batch, n * width, n * width).

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, exact
        >>> pair = BoltzmannMachine.on_graph([(0, 1)], couplings=torch.tensor([1.0]))
        >>> moments = exact.moments(pair)
        >>> moments.mean["visible"], moments.second.shape
        (tensor([0., 0.], dtype=torch.float64), torch.Size([2, 2]))
    """

    mean: Sites
    second: Tensor


class Mode(NamedTuple):
    """The lowest values found.

    Args:
        x: The values (*batch, *shape) by site.
        energy: E(x) (*batch,).
        proved: Whether no other values are lower.
        how: How they were found, and how often.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, mode
        >>> found = mode(
        ...     BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([-1.0]))
        ... )
        >>> found.energy, found.proved
        (tensor(-2.), True)
    """

    x: Sites
    energy: Tensor
    proved: bool
    how: str


class Way(ABC):
    """A way to sum over the states of one energy exactly, in float64.

    Where real units are summed out, a sum is an integral. Energies with a batch of parameters are
    summed each for itself.
    """

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Roughly how long `log_partition` takes on one core.

        Raises:
            TooManyStatesError: If it would take too long, or too much memory.
        """

    @abstractmethod
    def log_partition(self) -> Tensor:  # (*batch,)
        """log Z, differentiable in the parameters.

        Raises:
            TooManyStatesError: As `seconds`.
        """

    @abstractmethod
    def moments(self) -> Moments:
        """All means and pair moments."""

    @abstractmethod
    def minimum(self) -> Sites:  # (*batch, n) each
        """The values of least energy; of several, one.

        Raises:
            TooManyStatesError: If there are too many values to look at, even where log Z is found
                by a product.
        """

    @abstractmethod
    def sample(self, count: int) -> Sites:  # (count, *batch, n) each
        """Independent draws."""


class Summation(Way):
    """All that can be asked of the exact sums of one energy, some of its sites held or not."""

    @property
    @abstractmethod
    def batch(self) -> torch.Size:
        """The batch shape of the parameters, and of what is held."""

    @abstractmethod
    def clamped(self, x: Sites) -> Self:
        """The same energy, batched like x, of the other sites while those in x are held.

        With no sites left its `log_partition` is −E(x).
        """
