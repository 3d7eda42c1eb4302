r"""What a unit is.

A kind of variable in a field, without a size:

.. math:: p(x \mid \mathrm{field}) = \exp(\mathrm{field} \cdot T(x) - u(x) - A(\mathrm{field}))

T(x) are the unit's features, `width` numbers for each unit: x itself for {0,1} and {-1,1}, the
one-hot vector for a categorical unit. Values have shape (*batch, n), features, means and fields
(*batch, n * width).
"""

from abc import ABC, abstractmethod

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint


class Unit(ABC):
    """One kind of variable; see the module's docstring for the law and the shapes."""

    support: Constraint
    width: int = 1
    has_potential: bool = False  # whether u(x) differs from 0 anywhere

    @property
    @abstractmethod
    def levels(self) -> tuple[float, ...] | None:
        """All values, for a unit that can be enumerated; None for a continuous one."""

    @property
    @abstractmethod
    def square(self) -> tuple[float, float] | None:
        """(a, b) with x² = a + b x for every value x, where there are such; else None.

        It is what makes a self-coupling a bias in disguise.
        """

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n * width)
        """T(x)."""

    @abstractmethod
    def potential(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n)
        """u(x), the part of the energy that no field enters."""

    @abstractmethod
    def conditional(self, field: Tensor) -> TorchDistribution:  # batch (*batch, n)
        """The law of each unit in its field."""

    @abstractmethod
    def cumulant(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """A(field) = ln Σ exp(field·T(x) − u(x)); its gradient is `mean`."""

    @abstractmethod
    def mean(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> the same
        """E[T(x)] in the field, for hot loops and mean field."""

    @abstractmethod
    def entropy(self, mean: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """The entropy in nats of the unit whose E[T(x)] is `mean`."""

    @abstractmethod
    def sample(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """A draw from `conditional(field)`, for hot loops: `field` is overwritten on the way."""


def softplus(x: Tensor) -> Tensor:
    """ln(1 + exp x), to the last digit of float64."""
    # Torch's own threshold of 20, from which it returns x, costs 2e-9.
    return torch.nn.functional.softplus(x, threshold=40)
