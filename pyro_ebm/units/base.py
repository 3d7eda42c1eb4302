r"""What a unit is.

A kind of variable in a field, without a size:

.. math:: p(x \mid \mathrm{field}) = \exp(\mathrm{field} \cdot T(x) - u(x) - A(\mathrm{field}))

T(x) are the unit's features, `width` numbers for each unit: x itself for numbers, the one-hot
vector for a categorical unit. Values have shape (*batch, n), features, means and fields
(*batch, n * width). The potential u may have parameters of its own, one number for each unit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint


class Unit(ABC):
    """One kind of variable in a field; the module's docstring has the law and the shapes.

    Example:
        >>> from pyro_ebm import Bernoulli, Categorical, Spin
        >>> [(unit.levels, unit.width) for unit in (Bernoulli(), Spin(), Categorical(3))]
        [((0.0, 1.0), 1), ((-1.0, 1.0), 1), ((0.0, 1.0, 2.0), 3)]
    """

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
        """(a, b) with T² = a + b T for every feature of every value, where there are such.

        It is what makes a self-coupling a bias in disguise; None where it is a precision.
        """

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n * width)
        """T(x)."""

    @abstractmethod
    def values(self, features: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """The x of these features."""

    @abstractmethod
    def potential(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n)
        """u(x), the part of the energy that no field enters."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:  # (*batch, n) -> (*batch, n)
        """∂u/∂x."""

    @abstractmethod
    def conditional(self, field: Tensor) -> TorchDistribution:  # batch (*batch, n)
        """The law of each unit in its field."""

    @abstractmethod
    def cumulant(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """A(field) = ln Σ exp(field·T(x) − u(x)), or the integral; its gradient is `mean`."""

    @abstractmethod
    def conjugate(self, mean: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """A*(mean) = max over fields of field·mean − A(field).

        It is E[u] minus the entropy in nats, of the unit whose E[T(x)] is `mean`.
        """

    @abstractmethod
    def mean(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> the same
        """E[T(x)] in the field, for hot loops and mean field."""

    @abstractmethod
    def field(self, mean: Tensor) -> Tensor:  # (*batch, n * width) -> the same
        """A field in which E[T(x)] is `mean`."""

    @abstractmethod
    def variance(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> the same
        """Var[T(x)] in the field, of each feature."""

    @abstractmethod
    def mode(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """The likeliest value in the field: the least of u(x) − field · T(x)."""

    @abstractmethod
    def sample(self, field: Tensor) -> Tensor:  # (*batch, n * width) -> (*batch, n)
        """A draw from `conditional(field)`, for hot loops: `field` is overwritten on the way."""

    def level_potentials(self, count: int, like: Tensor) -> Tensor | None:
        """u of every level of so many units (*batch, count, levels); None where it is 0.

        Args:
            count: The number of units.
            like: A tensor of the dtype and device.
        """
        if not self.has_potential or self.levels is None:
            return None
        every = (self.potential(like.new_full((count,), level)) for level in self.levels)
        return torch.stack(torch.broadcast_tensors(*every), -1)

    # ------------------------------------------------------------------ parameters of u

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor]:
        """What u depends on, as unconstrained tensors (*batch, n) or ()."""

    @abstractmethod
    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same kind of unit with other `parameters`."""

    @abstractmethod
    def part(self, units: slice | Tensor) -> Self:
        """The kind of some of the units, where each has parameters of its own."""

    @abstractmethod
    def combined(self, weighted: Sequence[tuple[Tensor, "Unit"]]) -> Self:
        """The unit whose u is a weighted sum, with weights (*batch, 1), of those of its kind.

        Raises:
            ValueError: If they are not all of its kind.
        """


class PlainUnit(Unit, ABC):
    """A kind of variable with u = 0, which has no parameters."""

    def potential(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def slope(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        return {}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        return self

    def part(self, units: slice | Tensor) -> Self:
        return self

    def combined(self, weighted: Sequence[tuple[Tensor, Unit]]) -> Self:
        require_kind(self, [unit == self for _, unit in weighted], weighted)
        return self


def require_kind(
    unit: Unit, alike: Sequence[bool], weighted: Sequence[tuple[Tensor, Unit]]
) -> None:
    """Refuses to join units of different kinds.

    Raises:
        ValueError: If some are not alike.
    """
    if not all(alike):
        raise ValueError(
            f"The units {[name_of(other) for _, other in weighted]} are of different kinds, so the "
            f"energies of a site cannot be added; wanted all like {name_of(unit)}."
        )


def name_of(unit: Unit) -> str:
    """A kind by its name, without the numbers of single units."""
    return repr(unit) if isinstance(unit, PlainUnit) else type(unit).__name__


def softplus(x: Tensor) -> Tensor:
    """ln(1 + exp x), to the last digit of float64."""
    # Torch's own threshold of 20, from which it returns x, costs 2e-9.
    return torch.nn.functional.softplus(x, threshold=40)
