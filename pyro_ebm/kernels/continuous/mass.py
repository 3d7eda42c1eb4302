r"""The mass matrix: the shape that steps and momenta have.

One idea for all kernels that move a vector. With :math:`M^{-1} = \Sigma = L L^\top` the momentum of
Hamiltonian dynamics is :math:`L^{-\top} r` with :math:`r \sim N(0, I)`, and the noise of Langevin
dynamics and of the random walk is :math:`L \xi`. Kernels keep the whitened r and need two products
only: L r, which moves the position, and :math:`L^\top \partial U`, which moves r. The best Σ is the
covariance of the law.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pyro_ebm.kernels.settings import Length

PRIOR = 5.0  # the draws for which the old mass counts in a new one


class Mass(ABC):
    """A mass matrix: kept where it is given, to be found in the warm-up where it is not.

    Example:
        >>> from pyro_ebm import DenseMass, DiagonalMass, HMC, UnitMass
        >>> HMC(mass=UnitMass()).mass, HMC().mass, HMC(mass=DenseMass()).mass
        (UnitMass(), DiagonalMass(), DenseMass())
    """

    @abstractmethod
    def drift_(self, position: Tensor, whitened: Tensor, step: Length) -> Tensor:
        """The position (*batch, d) plus step · L r, in place."""

    @abstractmethod
    def kick_(self, whitened: Tensor, gradient: Tensor, step: Length) -> Tensor:
        """The whitened momentum r (*batch, d) minus step · Lᵀ ∂U/∂u, in place."""

    @property
    @abstractmethod
    def is_wanted(self) -> bool:
        """Whether it is to be found in the warm-up."""

    @abstractmethod
    def shape(self, size: int) -> tuple[int, ...]:
        """What is estimated of vectors (d,): variances (d,), or covariances (d, d)."""

    @abstractmethod
    def estimated(self, inverse: Tensor, draws: int) -> Self:
        """The same kind of mass, with Σ from variances (d,) or covariances (d, d) of so many draws.

        Of few draws it is drawn to the old Σ, and a covariance to its diagonal.
        """

    @abstractmethod
    def whitened(self, deviations: Tensor) -> Tensor:
        """L⁻¹ of deviations (n, d)."""

    @abstractmethod
    def require(self, like: Tensor) -> None:
        """Refuses to serve vectors (*batch, d) of another length, dtype or device.

        Raises:
            ValueError: If they are.
        """


@dataclass(frozen=True, eq=False)
class UnitMass(Mass):
    """M = I: steps and momenta of the same size in all coordinates.

    Example:
        >>> from pyro_ebm import HMC, UnitMass
        >>> HMC(step_size=0.1, trajectory_length=1.0, mass=UnitMass()).unset()  # nothing to find
        ()
    """

    def drift_(self, position: Tensor, whitened: Tensor, step: Length) -> Tensor:
        return added_(position, whitened, step)

    def kick_(self, whitened: Tensor, gradient: Tensor, step: Length) -> Tensor:
        return added_(whitened, gradient, -step)

    @property
    def is_wanted(self) -> bool:
        return False

    def shape(self, size: int) -> tuple[int, ...]:
        return (size,)

    def estimated(self, inverse: Tensor, draws: int) -> Self:
        return self

    def whitened(self, deviations: Tensor) -> Tensor:
        return deviations

    def require(self, like: Tensor) -> None:
        pass


@dataclass(frozen=True, eq=False, repr=False)
class DiagonalMass(Mass):
    """A diagonal M, whose inverse is a variance for each coordinate.

    Args:
        variance: The diagonal (d,) of M⁻¹; found in the warm-up if left out, and 1 until then.

    Raises:
        ValueError: If it is not a vector of positive numbers.

    Example:
        >>> import torch
        >>> from pyro_ebm import DiagonalMass, MALA
        >>> MALA(step_size=0.5, mass=DiagonalMass(torch.tensor([1.0, 100.0]))).mass.variance
        tensor([  1., 100.])
    """

    variance: Tensor | None = None

    def __post_init__(self) -> None:
        v = self.variance
        if v is not None and not (
            isinstance(v, Tensor) and v.dim() == 1 and bool((v.isfinite() & (v > 0)).all())
        ):
            raise ValueError(
                f"variance is {describe(v)}; wanted a tensor (d,) of positive, finite numbers."
            )

    def __repr__(self) -> str:
        return f"DiagonalMass({'' if self.variance is None else summary(self.variance)})"

    @cached_property
    def scale(self) -> Tensor | None:  # (d,)
        """L, a standard deviation for each coordinate."""
        return None if self.variance is None else self.variance.sqrt()

    def drift_(self, position: Tensor, whitened: Tensor, step: Length) -> Tensor:
        return added_(position, whitened, step, self.scale)

    def kick_(self, whitened: Tensor, gradient: Tensor, step: Length) -> Tensor:
        return added_(whitened, gradient, -step, self.scale)

    @property
    def is_wanted(self) -> bool:
        return self.variance is None

    def shape(self, size: int) -> tuple[int, ...]:
        return (size,)

    def estimated(self, inverse: Tensor, draws: int) -> Self:
        return type(self)(towards(self.variance, inverse, draws))

    def whitened(self, deviations: Tensor) -> Tensor:
        return deviations if self.scale is None else deviations / self.scale

    def require(self, like: Tensor) -> None:
        require_like(self.variance, like)


@dataclass(frozen=True, eq=False, repr=False)
class DenseMass(Mass):
    """A full M, whose inverse is a covariance matrix.

    Args:
        covariance: M⁻¹ (d, d), positive definite; found in the warm-up if left out, and the unit
            matrix until then. It needs more draws than coordinates, which many chains give soon.

    Raises:
        ValueError: If it is not symmetric and positive definite.

    Example:
        >>> import torch
        >>> from pyro_ebm import DenseMass, HMC
        >>> HMC(mass=DenseMass(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))).mass.covariance
        tensor([[1.0000, 0.9000],
                [0.9000, 1.0000]])
    """

    covariance: Tensor | None = None
    factor: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        c = self.covariance
        if c is None:
            return
        if not isinstance(c, Tensor) or c.dim() != 2 or c.shape[0] != c.shape[1]:
            raise ValueError(f"covariance is {describe(c)}; wanted a square tensor (d, d).")
        factor, failed = torch.linalg.cholesky_ex(c.double())
        if bool(failed) or not bool(factor.isfinite().all()) or not torch.allclose(c, c.mT):
            raise ValueError(
                f"covariance {tuple(c.shape)} is not symmetric and positive definite; add a small "
                f"multiple of the unit matrix, or use DiagonalMass()."
            )
        object.__setattr__(self, "factor", factor.to(c.dtype))

    def __repr__(self) -> str:
        return f"DenseMass({'' if self.covariance is None else summary(self.covariance)})"

    def drift_(self, position: Tensor, whitened: Tensor, step: Length) -> Tensor:
        if self.factor is None or isinstance(step, Tensor):
            whitened = whitened if self.factor is None else whitened @ self.factor.mT
            return added_(position, whitened, step)
        rows(position).addmm_(rows(whitened), self.factor.mT, alpha=step)
        return position

    def kick_(self, whitened: Tensor, gradient: Tensor, step: Length) -> Tensor:
        if self.factor is None or isinstance(step, Tensor):
            gradient = gradient if self.factor is None else gradient @ self.factor
            return added_(whitened, gradient, -step)
        rows(whitened).addmm_(gradient.reshape(-1, gradient.shape[-1]), self.factor, alpha=-step)
        return whitened

    @property
    def is_wanted(self) -> bool:
        return self.covariance is None

    def shape(self, size: int) -> tuple[int, ...]:
        return (size, size)

    def estimated(self, inverse: Tensor, draws: int) -> Self:
        old = None if self.covariance is None else self.covariance.diagonal()
        symmetric = (inverse + inverse.mT) / 2 * (draws / (draws + len(inverse) + PRIOR))
        symmetric.diagonal().copy_(towards(old, inverse.diagonal(), draws))
        return type(self)(symmetric)

    def whitened(self, deviations: Tensor) -> Tensor:
        if self.factor is None:
            return deviations
        return torch.linalg.solve_triangular(self.factor, deviations.mT, upper=False).mT

    def require(self, like: Tensor) -> None:
        require_like(self.covariance, like)


UNIT_MASS: Mass = UnitMass()
DIAGONAL_MASS: Mass = DiagonalMass()  # to be found


def added_(value: Tensor, change: Tensor, step: Length, scale: Tensor | None = None) -> Tensor:
    """The value (*batch, d) plus step · scale · change, in place; one scale (d,) if none is given.

    A step for each element of the batch has the shape (*batch,), or one that broadcasts to it.
    """
    if isinstance(step, Tensor):
        steps = step.unsqueeze(-1)
        return value.addcmul_(change, steps if scale is None else steps * scale)
    if scale is None:
        return value.add_(change, alpha=step)
    return value.addcmul_(change, scale, value=step)


def rows(value: Tensor) -> Tensor:  # (*batch, d) -> (n, d)
    """A view with one batch dimension."""
    return value.view(-1, value.shape[-1])


def towards(old: Tensor | None, variance: Tensor, draws: int) -> Tensor:  # (d,)
    """Estimated variances, drawn a little to the old ones: none of few draws is 0 or far off."""
    before = torch.ones_like(variance) if old is None else old
    return (draws * variance + PRIOR * before) / (draws + PRIOR)


def require_like(inverse: Tensor | None, like: Tensor) -> None:
    """Refuses an inverse mass for other vectors.

    Raises:
        ValueError: If its length, dtype or device is not that of `like`.
    """
    if inverse is None:
        return
    if inverse.shape[-1] != like.shape[-1]:
        raise ValueError(
            f"The mass is for {inverse.shape[-1]} coordinates, but the sites that the kernel moves "
            f"have {like.shape[-1]}."
        )
    if inverse.dtype != like.dtype or inverse.device != like.device:
        raise ValueError(
            f"The mass is {inverse.dtype} on {inverse.device}, the energy computes in {like.dtype} "
            f"on {like.device}; convert its tensor with .to(...)."
        )


def describe(value: object) -> str:
    """What was given, on one line."""
    if not isinstance(value, Tensor):
        return repr(value)
    few = f" {value.tolist()}" if value.numel() <= 10 else ""
    return f"a tensor {tuple(value.shape)}{few}"


def summary(value: Tensor) -> str:
    """A tensor in words."""
    diagonal = value if value.dim() == 1 else value.diagonal()
    what = "variance" if value.dim() == 1 else "covariance"
    shape = "×".join(map(str, value.shape))
    return f"{what}: {shape}, from {float(diagonal.min()):.3g} to {float(diagonal.max()):.3g}"
