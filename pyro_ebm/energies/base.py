"""What an energy is, and sums of energies.

p(x) is proportional to exp(-energy(x)): low energy, high probability, in nats. A site holds a value
of shape (*batch, *site.shape), and an energy answers with one number for each element of the batch.
`energy(x)` is the door, where names, shapes, types and supports are checked; `evaluate` trusts
what the door let in. What is known of an energy says its `structure()`.

What is known of the parts of a sum stays known of the whole. Of units in fields comes an energy of
units in fields, on which Gibbs, closed forms and exact sums go on to work; of any parts that know
their conditional laws on finitely many values comes an energy that knows its own. A constant leaves
known what is known.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from types import NotImplementedType
from typing import ClassVar, cast

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

from .modules import AbstractModule, register
from .structure import Block, Memory, Structure, require_site
from .weights import OfParameter, Weight, checked_number, inverse, rest
from .without_terms import WithoutTerms, overlay
from .words import headline, indented, number, plain


class Energy(AbstractModule):
    r"""A function E of named tensors that defines :math:`p(x) = e^{-E(x)} / Z`.

    An energy of one's own says its `sites`, `dtype` and `device`, its values by `evaluate`, and
    what is known of it by `structure`: of a function of which nothing is, `WithoutTerms(self)`.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine
        >>> ring = BoltzmannMachine.on_graph([(0, 1), (1, 2), (0, 2)], couplings=torch.ones(3))
        >>> x = torch.tensor([1.0, 1.0, -1.0])
        >>> [energy(x).item() for energy in (ring, ring / 2, ring + 5.0)]
        [1.0, 0.5, 6.0]
    """

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

    @abstractmethod
    def structure(self) -> Structure:
        """What is known of the energy, its parameters read once."""

    def __repr__(self) -> str:
        own = headline(self, self.sites, self.dtype, self.device)
        return "\n".join([own, *indented(self.extra_repr()).splitlines()])

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

    # ------------------------------------------------------------------ sums

    def __add__(self, other: "Energy | float | Tensor") -> "Energy":
        """The energies' sum, the product of their experts; or the energy shifted by a constant.

        A constant is a number or a tensor (*batch,). It changes no probability, and log Z by minus
        itself.
        """
        return sum_of(self, 1.0, other)

    def __radd__(self, constant: float | Tensor) -> "Energy":
        return self + constant

    def __sub__(self, other: "Energy | float | Tensor") -> "Energy":
        """The difference of two energies, or of the energy and a constant; see `+`."""
        return sum_of(self, -1.0, other)

    def __mul__(self, factor: float | Tensor) -> "Energy":
        """The energy at the inverse temperature `factor`, a number or a tensor (*batch,)."""
        return NotImplemented if isinstance(factor, Energy) else combined([(factor, self)])

    def __rmul__(self, factor: float | Tensor) -> "Energy":
        return self * factor

    def __truediv__(self, temperature: float | Tensor) -> "Energy":
        """The energy at a temperature, a number or a tensor (*batch,)."""
        if isinstance(temperature, Energy):
            return NotImplemented
        return combined([(inverse(temperature), self)])

    # ------------------------------------------------------------------ what is known of it

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        r"""E(x) and :math:`\partial E / \partial x`: in closed form where known, else by autograd.

        Args:
            x: Values of all its sites, which have passed the door.
            sites: The sites with respect to whose values it is differentiated.

        Returns:
            E(x) (*batch,), and by site the gradient (*batch, *site.shape); neither keeps a history.

        Raises:
            TypeError: If a site of a machine holds labels.
        """
        with torch.no_grad():
            structure = self.structure()
        return structure.energy_and_gradient(x, sites)

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The units of a site, in sets without couplings among them: one Gibbs sweep in order.

        Raises:
            TypeError: If no conditional laws are known at all.
            ValueError: If the site is unknown, or its conditional laws are.
        """
        return self.structure().blocks(site)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        """p(x_block | everything else), batch shape (*batch, units).

        Args:
            site: The site that the block belongs to.
            x: Values of all the sites (the block's own values are not read).
            block: One of `blocks(site)`, or some units of one; not needed where there is only one.

        Raises:
            TypeError: If no conditional laws are known at all.
            ValueError: If no block is given and the site has several, or the site's conditional
                laws are not known.
        """
        return self.structure().conditional(site, self.accept(x), block)

    def field(self, site: str, x: Sites) -> Tensor:  # (*batch, n * width)
        """The field on every unit of a site: the log-odds of a bit, half those of a spin.

        For units with labels it has one number for each label, for real units it is the precision
        times the mean.

        Args:
            site: The site.
            x: Values of all the sites that it is coupled to, itself included.

        Raises:
            TypeError: If its units are in no fields: not of a machine.
            ValueError: If one of the values is missing.
        """
        return self.structure().field(site, self.accept(x))

    def free_energy(self, x: Sites | Tensor) -> Tensor:  # (*batch,)
        r"""F(x) = −ln Σ exp(−E), the sum over the sites that x leaves out, in nats.

        Args:
            x: Values of some sites (*batch, n), or a bare tensor for the only one or `visible`.

        Raises:
            FloatingPointError: If a parameter is NaN or infinite.
            TypeError: If no closed form is known: not of a machine.
            ValueError: If units of the remaining sites are coupled among themselves: there is no
                closed form then.
        """
        return self.structure().free_energy(self.accept(x))

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
            require_site(name, self.sites)
            site = self.sites[name]
            tensor = as_tensor(value, name, self.dtype, self.device)
            accepted[name] = check_support(check_shape(tensor, name, site), name, site)
        batch_shape(accepted, self.sites)  # refuses batch shapes that do not broadcast
        return accepted


class AbstractTyped(Energy):
    """An energy with the dtype and the device of one of its attributes: a tensor, or an energy."""

    typed_by: ClassVar[str] = "like"  # the name of that attribute

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(self, self.typed_by).dtype
        return found

    @property
    def device(self) -> torch.device:
        found: torch.device = getattr(self, self.typed_by).device
        return found


class AbstractStructured(AbstractTyped):
    """An energy whose values are those of its structure."""

    def evaluate(self, x: Sites) -> Tensor:
        return self.structure().energy(x)


# --- sums ----------------------------------------------------------------------------------------


def combined(weighted: Sequence[tuple[Weight, Energy]]) -> Energy:
    r"""The weighted sum :math:`\sum_k w_k E_k(x)`, over the sites of all the energies.

    Args:
        weighted: Weights, numbers or tensors (*batch,), and energies. A negative weight is allowed;
            whether the sum can be normalised is asked where it is sampled or summed.

    Raises:
        TypeError: If a weight is no real number, or a part no energy.
        ValueError: If a site is of different kinds, shapes or supports in two of the energies, or
            these are of different dtypes or on different devices.
    """
    flat: list[tuple[Weight, Energy]] = []
    for weight, energy in weighted:
        if (
            isinstance(weight, OfParameter)
            or not isinstance(energy, Sum)
            or learns_weights(weight, energy)
        ):
            flat.append((weight, energy))
        else:
            flat += [(w * weight, part) for w, part in energy.weighted()]
    return Sum(flat)


def learns_weights(weight: float | Tensor, energy: "Sum") -> bool:
    """Whether a product of weights would be no parameter where one of its factors is."""
    weights = [weight, *energy.weights()]
    return any(isinstance(own, nn.Parameter | OfParameter) for own in weights)


def sum_of(
    energy: Energy, weight: float, other: Energy | float | Tensor
) -> "Energy | NotImplementedType":
    """An energy, and another one or a constant times a weight.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    if isinstance(other, Real | Tensor):
        other = Constant(other, energy)
    if not isinstance(other, Energy):
        return NotImplemented
    return combined([(1.0, energy), (weight, other)])


def interpolate(first: Energy, second: Energy, share: float | Tensor) -> Energy:
    r"""The energy on the way from one to another.

    .. math:: E_t(x) = (1 - t)\, E_0(x) + t\, E_1(x)

    Whole ladders of such energies are run by `ParallelTempering` and `anneal`.

    Args:
        first: E₀.
        second: E₁.
        share: t, a number or a tensor (*batch,), for example one for each of several chains. An
            nn.Parameter is learned.

    Raises:
        TypeError, ValueError: As `combined`.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, interpolate
        >>> wide = CallableEnergy(lambda x: x**2, ())
        >>> narrow = CallableEnergy(lambda x: 8 * x**2, ())
        >>> interpolate(wide, narrow, torch.tensor([0.0, 0.5, 1.0]))(torch.ones(3))
        tensor([1.0000, 4.5000, 8.0000])
    """
    return combined([(rest(share), first), (share, second)])


class Sum(AbstractStructured):
    """A weighted sum of energies; made by `combined`, or by `+`, `*` and `/`.

    Args:
        weighted: Weights and energies.
    """

    typed_by = "first"

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        if not weighted:
            raise ValueError("There is no energy to combine; wanted one at least.")
        for _, energy in weighted:
            if not isinstance(energy, Energy):
                raise TypeError(f"Wanted an energy, and {energy!r} is none.")
        energies = [energy for _, energy in weighted]
        self.sites = common_sites(energies)
        self.energies = nn.ModuleList(energies)
        like = like_of(energies[0])
        for k, (weight, _) in enumerate(weighted):
            if isinstance(weight, OfParameter):
                checked_number(weight(), "multiplied by", like)
                self.add_module(f"weight{k}", weight)
            else:
                register(self, f"weight{k}", checked_number(weight, "multiplied by", like))
        self.memory: Memory = {}
        with torch.no_grad():
            self.structure()  # refuses what cannot be added

    @property
    def first(self) -> Energy:
        """The first of the energies."""
        return cast("Energy", self.energies[0])

    def weights(self) -> list[Tensor | OfParameter]:
        """The weights as they are kept."""
        return [getattr(self, f"weight{k}") for k in range(len(self.energies))]

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """The weights and the energies."""
        own = [weight() if isinstance(weight, OfParameter) else weight for weight in self.weights()]
        return list(zip(own, cast("Sequence[Energy]", self.energies), strict=True))

    def extra_repr(self) -> str:
        return "\n".join(
            f"{self.weight_in_words(k)} × {energy!r}" for k, energy in enumerate(self.energies)
        )

    def weight_in_words(self, k: int) -> str:
        """The weight of one of the energies, and whether it is learned."""
        own = self._modules.get(f"weight{k}")
        if isinstance(own, OfParameter):
            return f"{number(own())} (learned)"
        weight = plain(self, f"weight{k}")
        return number(weight) + (" (learned)" if isinstance(weight, nn.Parameter) else "")

    def structure(self) -> Structure:
        weights, energies = zip(*self.weighted(), strict=True)
        parts = [energy.structure() for energy in energies]
        return overlay(parts, self.memory).weighted(weights)


class Constant(AbstractTyped):
    """An energy that depends on nothing; made by `+` and `-`.

    Args:
        value: It, a number or a tensor (*batch,).
        like: An energy whose dtype and device it has.
    """

    value: Tensor
    typed_by = "value"

    def __init__(self, value: float | Tensor, like: Energy) -> None:
        super().__init__()
        self.sites = {}
        register(self, "value", checked_number(value, "shifted by", like_of(like)))

    def extra_repr(self) -> str:
        return number(plain(self, "value"))

    def evaluate(self, x: Sites) -> Tensor:
        return self.value

    def structure(self) -> Structure:
        return WithoutTerms(self, lambda x, sites: (self.value.detach(), {}))


class Given(AbstractStructured):
    """An energy by its structure, whose parameters have been read.

    Args:
        structure: The structure.
        like: Has the dtype and the device.
    """

    def __init__(self, structure: Structure, like: Tensor) -> None:
        super().__init__()
        self.known, self.sites, self.like = structure, structure.sites, like

    def structure(self) -> Structure:
        return self.known


def like_of(energy: Energy) -> Tensor:  # ()
    """A tensor of an energy's dtype, on its device."""
    return torch.empty((), dtype=energy.dtype, device=energy.device)


def common_sites(energies: Sequence[Energy]) -> dict[str, Site]:
    """The sites of all the energies, in the order in which they come first.

    Raises:
        ValueError: If a site differs between two of them, or a dtype or device.
    """
    like = energies[0]
    sites: dict[str, Site] = {}
    for energy in energies:
        if (energy.dtype, energy.device) != (like.dtype, like.device):
            raise ValueError(
                f"One energy is {like.dtype} on {like.device}, another {energy.dtype} on "
                f"{energy.device}; convert one, for example energy.to({like.dtype})."
            )
        for name, site in energy.sites.items():
            known = sites.setdefault(name, site)
            if known != site:
                raise ValueError(
                    f"The site {name!r} is {known} in one energy and {site} in another; energies "
                    f"are added where they agree on it."
                )
    return sites
