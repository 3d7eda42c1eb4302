r"""The continuous sites that a kernel moves, as one vector of real numbers for each chain.

A site with a constrained support is moved in the unconstrained coordinates u of Pyro's bijector
x(u), where the density has the potential

.. math:: U(u) = E(x(u)) - \ln \left| \det \partial x / \partial u \right|.

Real sites are their own coordinates. The values in a state's `x` are always those of the energy's
own space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.base import same_batch
from pyro_ebm.kernels.settings import require_known_sites, require_names, require_once
from pyro_ebm.sites import Site, Sites, check_names, describe, is_real


class Height(NamedTuple):
    """A position, and what the energy says of it.

    Args:
        position: The unconstrained coordinates (*batch, d).
        energy: E(x) (*batch,).
        potential: U (*batch,), which is E(x) where all the coordinates are real.
    """

    position: Tensor
    energy: Tensor
    potential: Tensor


class Slope(NamedTuple):
    """A position, what the energy says of it, and ∂U/∂u.

    Args:
        position: As of `Height`.
        energy: As of `Height`.
        potential: As of `Height`.
        gradient: ∂U/∂u (*batch, d).
    """

    position: Tensor
    energy: Tensor
    potential: Tensor
    gradient: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """The coordinates of one site.

    Args:
        name: The site.
        shape: The shape of its coordinates, without batch dimensions.
        columns: Where they stand in the vector.
        to_support: The bijector from them to the site's support; None for a site of real numbers,
            or of integers.
    """

    name: str
    shape: torch.Size
    columns: slice
    to_support: Transform | None

    @classmethod
    def of(cls, name: str, site: Site, first: int) -> Self:
        """The coordinates of a site, which stand from `first` on; integers are their own."""
        own = site.support.is_discrete or is_real(site.support)
        to_support = None if own else biject_to(site.support)
        shape = site.shape if to_support is None else to_support.inverse_shape(site.shape)
        return cls(name, shape, slice(first, first + math.prod(shape)), to_support)

    def value(self, position: Tensor) -> Tensor:  # (*batch, d) -> (*batch, *site.shape)
        """The site's value."""
        free = self.coordinates(position)
        return free if self.to_support is None else self.to_support(free)

    def coordinates(self, position: Tensor) -> Tensor:  # (*batch, d) -> (*batch, *shape)
        """The site's coordinates, as a view."""
        if self.shape == position.shape[-1:]:
            return position
        return position[..., self.columns].reshape(*position.shape[:-1], *self.shape)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates of the sites that a kernel moves, in their order.

    Args:
        parts: Those of each site.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, energy: Energy, sites: Sequence[str] | None) -> Self:
        """The coordinates of some sites, which have passed the door; if None, of all continuous."""
        parts: list[Part] = []
        for name in moved_sites(energy, sites):
            first = parts[-1].columns.stop if parts else 0
            parts.append(Part.of(name, energy.sites[name], first))
        return cls(tuple(parts))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The sites."""
        return tuple(part.name for part in self.parts)

    @cached_property
    def all_real(self) -> bool:
        """Whether no site needs a bijector."""
        return all(part.to_support is None for part in self.parts)

    def to_sites(self, position: Tensor) -> Sites:  # (*batch, d)
        """The values of the moved sites; of real ones a view of the position."""
        return {part.name: part.value(position) for part in self.parts}

    def from_sites(self, x: Sites) -> Tensor:  # (*batch, d)
        """The position at which the sites have these values."""
        columns = []
        for part in self.parts:
            value = x[part.name]
            free = value if part.to_support is None else part.to_support.inv(value)
            batch = free.shape[: free.dim() - len(part.shape)]
            columns.append(free.reshape(*batch, math.prod(part.shape)))
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)

    def moved_from(self, old: Tensor, before: Sites, x: Sites) -> Tensor:  # (*batch, d)
        """The position at x, which keeps the coordinates of sites that have not changed.

        Their way from the coordinates to the support and back would lose the last bits.
        """
        same = [
            x[name] is before[name] or torch.equal(x[name], before[name]) for name in self.names
        ]
        if all(same):
            return old
        new = self.from_sites(x)
        kept = [part.columns for part, unchanged in zip(self.parts, same, strict=True) if unchanged]
        if kept:
            new = new.clone()
            for columns in kept:
                new[..., columns] = old[..., columns]
        return new

    @torch.no_grad()
    def height(self, energy: Energy, x: Sites, position: Tensor) -> Height:
        """The potential at a position; of x the other sites are read."""
        values = self.to_sites(position)
        e = energy.evaluate({**x, **values})
        return Height(position, e, e if self.all_real else e - self.log_volume(position, values))

    def slope(self, energy: Energy, x: Sites, position: Tensor) -> Slope:
        """The potential and its gradient at a position; of x the other sites are read."""
        if self.all_real:
            e, by_site = energy.energy_and_gradient({**x, **self.to_sites(position)}, self.names)
            return Slope(position, e, e, self.joined(by_site))
        with torch.enable_grad():
            free = position.detach().requires_grad_()
            values = self.to_sites(free)
            log_volume = self.log_volume(free, values)
        fixed = {name: value.detach() for name, value in values.items()}
        e, by_site = energy.energy_and_gradient({**x, **fixed}, self.names)
        outputs, weights = list(values.values()), [by_site[name] for name in values]
        if log_volume.requires_grad:  # not that of an affine bijector
            outputs, weights = [*outputs, log_volume], [*weights, -torch.ones_like(log_volume)]
        (gradient,) = torch.autograd.grad(outputs, free, weights)
        return Slope(position, e, e - log_volume.detach(), gradient)

    def joined(self, by_site: Sites) -> Tensor:  # (*batch, d)
        """Values of the shape of real sites, as one vector."""
        columns = [
            by_site[part.name].flatten(-len(part.shape))
            if part.shape
            else by_site[part.name].unsqueeze(-1)
            for part in self.parts
        ]
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)

    def log_volume(self, position: Tensor, values: Sites) -> Tensor:  # (*batch,)
        """ln |det ∂x/∂u|."""
        batch = position.shape[:-1]
        total = position.new_zeros(batch)
        for part in self.parts:
            if part.to_support is not None:
                free = part.coordinates(position)
                own = part.to_support.log_abs_det_jacobian(free, values[part.name])
                total = total + own.reshape(*batch, -1).sum(-1)
        return total


def moved_sites(energy: Energy, sites: Sequence[str] | None) -> tuple[str, ...]:
    """The sites that are named, or all continuous ones."""
    if sites is not None:
        return tuple(sites)
    return tuple(name for name, site in energy.sites.items() if not site.support.is_discrete)


def require_continuous(energy: Energy, sites: Sequence[str] | None, mover: str) -> None:
    """The door of a kernel that moves continuous sites.

    Args:
        energy: The energy.
        sites: The sites it is to move; all continuous ones if None.
        mover: The kernel's name.

    Raises:
        ValueError: If the sites are no tuple of names, or one of them is unknown, comes twice, or
            is discrete, or there is none.
    """
    require_names(sites, "x")
    names = moved_sites(energy, sites)
    require_known_sites(energy.sites, names, mover)
    require_once(names)
    for name in names:
        support = energy.sites[name].support
        if support.is_discrete:
            raise ValueError(
                f"{mover} moves continuous sites, but {name!r} is {describe(support)}. Move it "
                f"with Gibbs(({name!r},)) and join the two kernels in a Cycle."
            )
    if not names:
        raise ValueError(
            f"{mover} moves continuous sites, but the energy has only "
            + ", ".join(
                f"{name!r}, which is {describe(s.support)}" for name, s in energy.sites.items()
            )
            + ". Use Gibbs, or another kernel for discrete sites."
        )


def start(energy: Energy, x: Sites, coordinates: Coordinates) -> tuple[Sites, Tensor]:
    """The door of a kernel's `init`: x (*batch, *site.shape), checked, and the position there.

    Raises:
        TypeError, ValueError: If a value is not what its site wants, or the batch shapes differ.
    """
    x = energy.accept(x, preferred=None)
    check_names(x, energy.sites)
    same_batch(x, energy)
    return x, coordinates.from_sites(x)


def require_finite_start(point: Height | Slope) -> None:
    """Refuses a start of no finite energy, or with a gradient that is not finite.

    Raises:
        ValueError: If there is one, or if the energy is not one number for each chain.
    """
    batch = point.position.shape[:-1]
    if point.energy.shape != batch:
        raise ValueError(
            f"The energy has shape {tuple(point.energy.shape)} for the batch {tuple(batch)} of the "
            f"sites; wanted one number for each chain. Give every machine chains of its own."
        )
    for name, value in point._asdict().items():
        finite = value.isfinite()
        if not bool(finite.all()):
            bad = (~finite).reshape(*batch, -1).any(-1).nonzero().squeeze(-1).tolist()
            raise ValueError(
                f"The {name} is not finite at the start of the chains {bad[:10]}; give an "
                f"initial x inside the support, where the energy is finite."
            )
