"""Any distribution as an energy."""

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro.distributions import (
    ImproperUniform,
    MaskedDistribution,
    SineBivariateVonMises,
    Unit,
    VonMises,
)
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies.base import AbstractTyped
from pyro_ebm.energies.structure import Block, Structure
from pyro_ebm.energies.without_terms import WithoutTerms
from pyro_ebm.seeding import forked
from pyro_ebm.sites import (
    Site,
    Sites,
    bounded,
    is_one_hot,
    is_real,
    of_one_element,
    random_values,
    values_at,
)
from pyro_ebm.units import FiniteLaw


class DistributionEnergy(AbstractTyped):
    r"""A Pyro or torch distribution as an energy.

    .. math:: E(x) = -\ln q(x), \qquad \ln Z = 0

    `is_normalised` tells the exceptions. Outside the support E is +inf. Where q is a law of
    independent elements (`to_event`) on finitely many values, their conditional laws are known.

    The distribution's parameters stay the caller's: they are no parameters of the energy, and
    `.to(...)` or `.double()` do not reach them; make a new energy from a distribution of the wanted
    kind. Where they require gradients or carry a history, so does E; what the distribution computed
    from them when it was made lives as long as one backward pass.

    The other way, an energy as a Pyro distribution, is `EnergyDistribution`.

    Args:
        distribution: q. Its batch dimensions are those of batched parameters and broadcast against
            the batch of x, aligned on the right; its event is the site's shape.
        site: The name of the one site.

    Raises:
        TypeError: If `distribution` is none, or cannot tell its support or its log-probability.
        ValueError: If nothing can be drawn from it, as its parameters are NaN.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro_ebm import DistributionEnergy
        >>> energy = DistributionEnergy(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> energy(torch.zeros(2))  # ln 2π
        tensor(1.8379)
    """

    def __init__(self, distribution: Distribution, *, site: str = "visible") -> None:
        super().__init__()
        if not isinstance(distribution, Distribution):
            raise TypeError(
                f"distribution is {distribution!r}; wanted a Pyro or torch distribution, for "
                f"example dist.Normal(0.0, 1.0)."
            )
        self.distribution = distribution
        self.law = unvalidated(distribution)
        support = support_of(distribution)
        self.like = next(floats_of(distribution), torch.empty(0)).detach().new_empty(0)
        self.sites = {site: Site(support, torch.Size(distribution.event_shape))}
        self.inside = self.some_value()
        try:
            with torch.no_grad():
                # The dtype in which all parts of q together compute.
                self.like = self.evaluate({site: self.inside}).new_empty(0)
        except NotImplementedError:
            raise TypeError(
                f"{type(distribution).__name__} does not know its log-probability, of which the "
                f"energy is the negative."
            ) from None

    def extra_repr(self) -> str:
        return f"−ln of {self.distribution!r}"

    @functools.cached_property
    def is_normalised(self) -> bool:
        """Whether ln Z = 0, as far as the kinds of distributions tell.

        It is not where a mask leaves out some of q, where a part is improper, nor for angles, whose
        support is all real numbers while q is normalised over one turn.
        """
        unnormalised = (MaskedDistribution, ImproperUniform, Unit, VonMises, SineBivariateVonMises)
        return not any(isinstance(part, unnormalised) for part in parts_of(self.distribution))

    def evaluate(self, x: Sites) -> Tensor:
        (value,) = x.values()
        (site,) = self.sites.values()
        batch = value.shape[: value.dim() - len(site.shape)]
        try:
            torch.broadcast_shapes(batch, self.law.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"x has the batch shape {tuple(batch)}, and the distribution "
                f"{tuple(self.law.batch_shape)}; wanted shapes that broadcast."
            ) from None
        if is_real(site.support):
            return sloped(-self.law.log_prob(value), value, site.shape)
        allowed = site.support.check(value)
        elements = len(site.shape) - site.support.event_dim
        # Outside, log_prob may be NaN, finite or an error, and NaN would reach the gradient.
        apart = allowed[(..., *[None] * site.support.event_dim)]
        value = torch.where(apart, value, self.inside)
        if elements:
            allowed = allowed.flatten(-elements).all(-1)
        return torch.where(allowed, sloped(-self.law.log_prob(value), value, site.shape), torch.inf)

    def structure(self) -> Structure:
        law = self.distribution if self.is_normalised else None
        machines = torch.Size(self.distribution.batch_shape)
        laws = ElementLaws(self.sites, self.law, self.dtype)
        return WithoutTerms(self, laws=laws, machines=machines, law=law)

    @torch.no_grad()
    def some_value(self) -> Tensor:  # (*parameter batch, *shape)
        """A value in the support."""
        (site,) = self.sites.values()
        with forked(0, self.device):
            try:
                return self.law.sample().to(self.dtype)
            except NotImplementedError:
                return random_values(site, self.law.batch_shape, self.like)
            except RuntimeError as error:  # what torch says of a parameter that is NaN, for one
                raise ValueError(
                    f"Nothing can be drawn from the {type(self.distribution).__name__}: {error} "
                    f"Check its parameters for NaN; torch does so with validate_args=True."
                ) from error


@dataclass(frozen=True, eq=False)
class ElementLaws:
    """The conditional laws of the elements of a distribution.

    Args:
        sites: The one site.
        law: The distribution.
        dtype: Of the energy.
    """

    sites: Mapping[str, Site]
    law: Distribution
    dtype: torch.dtype

    def blocks(self, site: str) -> tuple[Block, ...]:
        """All elements at once.

        Raises:
            ValueError: If q is no law of independent elements, or not on finitely many values.
        """
        if site not in self.sites:
            raise ValueError(f"Unknown site {site!r}; the energy has {list(self.sites)}.")
        elements = law_of_elements(self.law)
        if elements is None or values_at(self.sites[site]) is None:
            raise ValueError(
                f"The conditional laws of {site!r} are not known: {type(self.law).__name__} is no "
                f"law of independent elements (`to_event`), each a number of finitely many values "
                f"or a one-hot vector. Move it with a kernel that needs only the energy or its "
                f"gradient, such as RandomBlocks or HMC."
            )
        return (self.places(elements),)

    def places(self, elements: Distribution) -> Block:
        """All units: numbers, or vectors of several numbers (units, width)."""
        if not elements.event_shape:
            return slice(None)
        (own,) = self.sites.values()
        return torch.arange(own.shape.numel()).reshape(-1, elements.event_shape.numel())

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> FiniteLaw:
        (whole,) = self.blocks(site)
        block = whole if block is None else block
        elements = law_of_elements(self.law)
        values = values_at(self.sites[site])
        assert elements is not None
        assert values is not None
        values, vector = values.to(x[site]), elements.event_shape
        shape = self.sites[site].shape
        units = shape[: len(shape) - len(vector)]
        tried = values.reshape(-1, *[1] * len(elements.batch_shape), *vector)
        # What an element cannot have its law might not bear.
        bounds = elements.support
        assert bounds is not None
        inside, nearest = bounds.check(tried), bounded(bounds, tried)
        logits = elements.log_prob(nearest).masked_fill(~inside, -torch.inf).movedim(0, -1)
        own = logits.shape[: logits.dim() - 1 - len(units)]
        chosen = unit_numbers(block, vector.numel()) if vector else block
        logits = logits.reshape(*own, units.numel(), len(values))[..., chosen, :]
        batch = torch.broadcast_shapes(own, x[site].shape[: x[site].dim() - len(shape)])
        logits = logits.expand(*batch, *logits.shape[-2:])
        return FiniteLaw(values, logits.to(self.dtype), validate_args=False)


def sloped(energy: Tensor, value: Tensor, shape: torch.Size) -> Tensor:
    """The energy, with the slope zero where it is the same everywhere and autograd sees none.

    Args:
        energy: Of the values.
        value: The values (*batch, *shape).
        shape: The site's own shape.
    """
    if energy.requires_grad or not value.requires_grad:
        return energy
    batch = value.shape[: value.dim() - len(shape)]
    return energy + 0 * value.reshape((*batch, shape.numel())).sum(-1)


def support_of(distribution: Distribution) -> Constraint:
    """Where one element of the event may lie.

    Raises:
        TypeError: If the distribution does not say.
    """
    try:
        support = distribution.support
    except NotImplementedError:
        support = None
    if support is None:
        raise TypeError(
            f"{type(distribution).__name__} does not know its support; give it the property "
            f"`support`, for example constraints.real."
        )
    support = of_one_element(support)  # of a real vector the elements are real
    # So is a mixture of real laws; of others each component may have bounds of its own.
    inner = getattr(support, "base_constraint", None)
    return constraints.real if inner is not None and is_real(inner) else support


def law_of_elements(distribution: Distribution) -> Distribution | None:
    """The law of the independent elements of an event, as a batch; None where there are none."""
    law = distribution
    while isinstance(law, Independent):
        law = law.base_dist
    support = law.support
    is_vector = law.event_shape and not (support is not None and is_one_hot(support))
    return None if is_vector else law


def unit_numbers(block: Block, width: int) -> Tensor:
    """Which units the elements of a block are of."""
    assert isinstance(block, Tensor)
    return block.reshape(-1, width)[:, 0] // width


def unvalidated(distribution: Distribution) -> Distribution:
    """The same distribution, whose `log_prob` does not raise outside the support."""
    law = copy.copy(distribution)
    law._validate_args = False
    for name, value in vars(distribution).items():
        if isinstance(value, Distribution):
            setattr(law, name, unvalidated(value))
    return law


def parts_of(distribution: Distribution) -> Iterator[Distribution]:
    """The distribution, and all that it is made of."""
    yield distribution
    for value in vars(distribution).values():
        if isinstance(value, Distribution):
            yield from parts_of(value)


def floats_of(distribution: Distribution) -> Iterator[Tensor]:
    """The real tensors that the distribution holds."""
    for part in parts_of(distribution):
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                yield value
