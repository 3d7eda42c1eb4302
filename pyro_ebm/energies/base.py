"""What an energy is.

p(x) is proportional to exp(-energy(x)): low energy, high probability, in nats. A site holds a value
of shape (*batch, *site.shape), and an energy answers with one number for each element of the batch.
`energy(x)` is the door, where names, shapes, types and supports are checked; `evaluate` trusts
what the door let in.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self
from weakref import WeakSet

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_ebm.sites import (
    Site,
    Sites,
    as_tensor,
    batch_shape,
    check_names,
    check_shape,
    check_support,
    covers,
    only_site,
)

Block = slice | Tensor  # the units of one site that are updated together

FILLED_IN: WeakSet[type] = WeakSet()  # classes of modules without abstract methods


class AbstractModule(nn.Module):
    """A torch module whose subclasses must fill in its abstract methods.

    It is not an `abc.ABC`: the metaclass of that cannot be joined with the one of Pyro's modules,
    and `pyro.nn.module.to_pyro_module_` would fail on every energy.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:  # noqa: ANN401 (the subclass's own)
        """Refuses a class with abstract methods left.

        Raises:
            TypeError: If there are some.
        """
        if cls not in FILLED_IN:  # looking costs more than all else that makes a small energy
            attributes = ((name, getattr(cls, name, None)) for name in dir(cls))
            left = [name for name, own in attributes if getattr(own, "__isabstractmethod__", False)]
            if left:
                raise TypeError(f"{cls.__name__} is abstract: it does not fill in {left}.")
            FILLED_IN.add(cls)
        return super().__new__(cls)


class Energy(AbstractModule):
    r"""A function E of named tensors that defines :math:`p(x) = e^{-E(x)} / Z`."""

    sites: Mapping[str, Site]

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype that states are computed in: that of the parameters."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the parameters."""

    @abstractmethod
    def evaluate(self, x: Sites) -> Tensor:  # (*batch,)
        """E(x) of values that have passed the door."""

    def forward(self, x: Sites | Tensor) -> Tensor:  # (*batch,)
        """E(x) in nats.

        Args:
            x: A value for every site (*batch, *site.shape), or, where there is one site, its value.

        Raises:
            TypeError, ValueError: If a value is not what its site wants, or if the energy does not
                answer with one number for each element of the batch.
        """
        x = self.accept(x, preferred=None)
        check_names(x, self.sites)
        energy = self.evaluate(x)
        wanted = batch_shape(x, self.sites)
        if not covers(energy.shape, wanted):
            raise ValueError(
                f"The energy has shape {tuple(energy.shape)} for the batch {tuple(wanted)}; "
                f"wanted one number for each element of the batch. Sum over the sites' own "
                f"dimensions only."
            )
        return energy

    def __add__(self, other: "Energy | float | Tensor") -> "Energy":
        """The energies' sum, the product of their experts; or the energy shifted by a constant.

        A constant is a number or a tensor (*batch,). It changes no probability, and log Z by minus
        itself.
        """
        from pyro_ebm.energies.composition.sums import sum_of  # which is made of energies itself

        return sum_of(self, 1.0, other)

    def __radd__(self, constant: float | Tensor) -> "Energy":
        return self + constant

    def __sub__(self, other: "Energy | float | Tensor") -> "Energy":
        """The difference of two energies, or of the energy and a constant; see `+`."""
        from pyro_ebm.energies.composition.sums import sum_of

        return sum_of(self, -1.0, other)

    def __mul__(self, factor: float | Tensor) -> "Energy":
        """The energy at the inverse temperature `factor`, a number or a tensor (*batch,)."""
        from pyro_ebm.energies.composition.sums import combined

        return NotImplemented if isinstance(factor, Energy) else combined([(factor, self)])

    def __rmul__(self, factor: float | Tensor) -> "Energy":
        return self * factor

    def __truediv__(self, temperature: float | Tensor) -> "Energy":
        """The energy at a temperature, a number or a tensor (*batch,)."""
        from pyro_ebm.energies.composition.sums import combined, inverse

        if isinstance(temperature, Energy):
            return NotImplemented
        return combined([(inverse(temperature), self)])

    def accept(self, x: Sites | Tensor, *, preferred: str | None = "visible") -> Sites:
        """The door: values of some or all sites, converted to the energy's dtype and checked.

        Args:
            x: Values by site, or a bare tensor for the only site, else for the one `preferred`.
            preferred: The site that a bare tensor stands for where there are several.

        Raises:
            TypeError, ValueError: As `forward`.
        """
        if not isinstance(x, Mapping):
            x = {only_site(self.sites, preferred): x}
        accepted = {}
        for name, value in x.items():
            if name not in self.sites:
                raise ValueError(f"Unknown site {name!r}; the energy has {list(self.sites)}.")
            site = self.sites[name]
            tensor = as_tensor(value, name, self.dtype, self.device)
            accepted[name] = check_support(check_shape(tensor, name, site), name, site)
        batch_shape(accepted, self.sites)  # refuses batch shapes that do not broadcast
        return accepted


class GradientEnergy(Energy):
    """An energy that knows its gradient in closed form."""

    @abstractmethod
    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        """E(x) (*batch,) and ∂E/∂x of some sites, of values that have passed the door.

        Neither keeps a history.
        """


def energy_and_gradient(energy: Energy, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
    r"""E(x) and :math:`\partial E / \partial x`: in closed form where known, else by autograd.

    Args:
        energy: The energy.
        x: Values of all its sites, which have passed the door.
        sites: The sites with respect to whose values it is differentiated.

    Returns:
        E(x) (*batch,), and by site the gradient (*batch, *site.shape); neither keeps a history.
    """
    if isinstance(energy, GradientEnergy):
        return energy.energy_and_gradient(x, sites)
    with torch.enable_grad():
        moved = {site: x[site].detach().requires_grad_() for site in sites}
        value = energy.evaluate({**x, **moved})
        if not value.requires_grad:  # a constant
            return value, {site: torch.zeros_like(v) for site, v in moved.items()}
        # A site that the energy does not depend on has the gradient zero.
        gradients = torch.autograd.grad(
            value,
            list(moved.values()),
            torch.ones_like(value),
            allow_unused=True,
            materialize_grads=True,
        )
    return value.detach(), dict(zip(moved, gradients, strict=True))


class BlockEnergy(Energy):
    """An energy that knows the conditional laws of blocks of its units."""

    @abstractmethod
    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site, in sets without couplings among them: one Gibbs sweep in order."""

    @abstractmethod
    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        """p(x_block | everything else), batch shape (*batch, units).

        Args:
            site: The site that the block belongs to.
            x: Values of all the sites (the block's own values are not read).
            block: One of `blocks(site)`, or some units of one; not needed where there is only one.

        Raises:
            ValueError: If no block is given and the site has several.
        """


def only_block(energy: BlockEnergy, site: str) -> Block:
    """The block of a site that has one.

    Raises:
        ValueError: If it has several.
    """
    blocks = energy.blocks(site)
    if len(blocks) > 1:
        raise ValueError(f"{site!r} has {len(blocks)} blocks; say which: one of blocks({site!r}).")
    return blocks[0]


class SweepEnergy(BlockEnergy):
    """An energy that knows more of a sweep than its blocks one after another."""

    @abstractmethod
    def sweep(self, site: str, x: Sites) -> Tensor:  # (*batch, *site.shape)
        """The site's value after a transition that leaves its law given the rest unchanged.

        It draws every element, without a history; x itself is left as it was.

        Raises:
            ValueError: As `conditional`.
        """


class CheckedEnergy(Energy):
    """An energy whose conditional laws rest on what is claimed of a program: runs check it."""

    @abstractmethod
    def contradiction(self, x: Sites, generator: torch.Generator) -> str | None:
        """What is wrong with a conditional law, where E changes otherwise than it says; else None.

        Args:
            x: Values of all the sites, of one chain at least (*batch, *site.shape).
            generator: Chooses what is looked at; no other generator is touched.
        """


class CompositeEnergy(Energy):
    """An energy made of others."""

    @abstractmethod
    def parts_at(self, x: Sites) -> list[tuple[Energy, Sites]]:
        """The others, each with its values where this one has the values x."""


def times(weight: Tensor, value: Tensor) -> Tensor:
    """w v, where 0 · ∞ is 0: what is forbidden is so at every weight but 0."""
    forbidden = value.isinf()
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return (weight * value).masked_fill((weight == 0) & forbidden, 0)
    # Infinity without a history: the gradient, zero times infinity, would be NaN.
    infinite = weight.detach() * value.detach()
    found = weight * value.masked_fill(forbidden, 0)
    return torch.where(forbidden & (weight != 0), infinite, found)


def knows_conditional(energy: Energy, site: str) -> bool:
    """Whether an energy knows the conditional laws of a site's units."""
    if not isinstance(energy, BlockEnergy):
        return False
    try:
        energy.blocks(site)
    except ValueError:
        return False
    return True


def sweep_site(energy: BlockEnergy, site: str, x: Sites) -> Tensor:  # (*batch, *site.shape)
    """A sweep over one site, by all that the energy knows of it."""
    if isinstance(energy, SweepEnergy):
        return energy.sweep(site, x)
    return sweep_blocks(energy, site, x)


def sweep_blocks(energy: BlockEnergy, site: str, x: Sites) -> Tensor:  # (*batch, *site.shape)
    """A sweep over one site, by the conditional laws of its blocks."""
    value = x[site].clone(memory_format=torch.contiguous_format)
    units = value.view(*value.shape[: value.dim() - len(energy.sites[site].shape)], -1)
    for block in energy.blocks(site):
        law = energy.conditional(site, {**x, site: value}, block)
        units[..., block] = law.sample().to(value.dtype)
    return value
