"""Energies of what is free while sites, or some of their elements, are held."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_ebm.energies.base import (
    Block,
    BlockEnergy,
    CompositeEnergy,
    Energy,
    GradientEnergy,
    SweepEnergy,
    energy_and_gradient,
    only_block,
    sweep_blocks,
    sweep_site,
)
from pyro_ebm.energies.fields.energy import FieldEnergy
from pyro_ebm.energies.fields.factor_graph import FactorGraph
from pyro_ebm.energies.pairwise.colouring import Colour
from pyro_ebm.energies.pairwise.couplings import register
from pyro_ebm.energies.pairwise.energy import PairwiseEnergy
from pyro_ebm.energies.pairwise.links import GraphLink
from pyro_ebm.energies.pairwise.terms import PairwiseTerms
from pyro_ebm.sites import (
    Site,
    Sites,
    as_tensor,
    check_shape,
    check_support,
    only_site,
    part_of,
    settled,
)


def clamp(
    energy: Energy,
    x: Sites | Tensor,
    *,
    mask: Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray | None = None,
) -> "Clamped | BlockClamped | PairwiseClamped | FieldClamped":
    """The energy of what is free while some sites, or some elements of them, are held.

    .. math:: E(x_{free}) = E(x_{free}, x_{held})

    A site that is held as a whole is no site of the result; one that is held in part has its free
    elements, in order, in one dimension. `complete` puts the whole together again.

    Args:
        energy: The energy.
        x: Values of what is held, by site (*batch, *site.shape), or a bare tensor for the only site
            or `visible`. With a batch each element of it has an energy of its own.
        mask: Which elements are held, by site (*site.shape), True where held, tensors or arrays of
            booleans; what x has there is held, and its other elements are not read. Sites without
            a mask are held whole.

    Raises:
        TypeError, ValueError: If a value or a mask is not what its site wants, or nothing is free.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, clamp, exact
        >>> chain = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([1.0]))
        >>> rest = clamp(chain, torch.tensor([1.0, 0.0, 0.0]), mask=torch.arange(3) == 0)
        >>> exact.moments(rest).mean["visible"]  # tanh 1 and its square
        tensor([0.7616, 0.5800], dtype=torch.float64)
    """
    if not isinstance(x, Mapping):
        name = only_site(energy.sites, "visible")
        x = {name: x}
        if isinstance(mask, Tensor | np.ndarray):
            mask = {name: mask}
    if mask is not None and not isinstance(mask, Mapping):
        if isinstance(mask, Tensor | np.ndarray):
            raise TypeError("mask is one tensor, but x is a dict; give the masks by site too.")
        raise TypeError(f"mask is {mask!r}; wanted booleans, a tensor or an array, by site.")
    held = Held.of(energy, x, mask or {})
    if isinstance(energy, PairwiseEnergy):
        return PairwiseClamped(energy, held)
    if isinstance(energy, FieldEnergy):
        return FieldClamped(energy, held)
    if isinstance(energy, BlockEnergy):
        return BlockClamped(energy, held)
    return Clamped(energy, held)


def stored(kind: str, name: str) -> str:
    """Under which name a module keeps a tensor of a site; torch allows no dots in it."""
    return f"{kind}_{name.replace('.', '/')}"


class Held(nn.Module):
    """What is held: whole sites, and elements of others.

    Args:
        sites: All sites of the energy.
        values: Of the sites that are held wholly or in part (*batch, *site.shape).
        free: The free elements of those held in part, by number.
    """

    def __init__(
        self, sites: Mapping[str, Site], values: Sites, free: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.names, self.whole = list(values), [name for name in values if name not in free]
        for name, value in values.items():
            register(self, stored("value", name), value)
        for name, index in free.items():
            self.register_buffer(stored("free", name), index)
        self.shapes = {name: site.shape for name, site in sites.items()}
        self.sites = {
            name: Site(part_of(site.support, free[name]), torch.Size([len(free[name])]))
            if name in free
            else site
            for name, site in sites.items()
            if name not in self.whole
        }

    @classmethod
    def of(cls, energy: Energy, x: Sites, mask: Mapping[str, Tensor | np.ndarray]) -> "Held":
        """What is held, after the checks at the door."""
        if unknown := [name for name in mask if name not in x]:
            raise ValueError(f"mask is given for {unknown}, of which x has no values.")
        values, free = {}, {}
        for name, value in x.items():
            if name not in energy.sites:
                raise ValueError(f"Unknown site {name!r}; the energy has {list(energy.sites)}.")
            site = energy.sites[name]
            tensor = check_shape(as_tensor(value, name, energy.dtype, energy.device), name, site)
            tensor = settled(tensor, site.support)
            if name not in mask:
                values[name] = check_support(tensor, name, site)
                continue
            own = mask[name]
            if isinstance(own, np.ndarray) and own.dtype == bool:
                own = torch.from_numpy(own.copy())
            if not isinstance(own, Tensor) or own.dtype != torch.bool or own.shape != site.shape:
                known = isinstance(own, Tensor | np.ndarray)
                came = (own.dtype, tuple(own.shape)) if known else own
                raise ValueError(
                    f"The mask of {name!r} is {came}; wanted booleans {tuple(site.shape)}, True "
                    f"where the element is held."
                )
            if bool(own.all()):
                values[name] = check_support(tensor, name, site)
                continue
            # What is free may hold anything, NaN for missing pixels too.
            inside = Site(part_of(site.support, own.flatten().nonzero()[:, 0]), torch.Size([-1]))
            own = own.to(energy.device)
            check_support(tensor[..., own], name, inside)
            values[name] = tensor.masked_fill(~own, 0)
            free[name] = (~own).flatten().nonzero()[:, 0]
        held = cls(energy.sites, values, free)
        if not held.sites:
            raise ValueError("Every site is held, so nothing is free; leave one out, or mask it.")
        return held

    def complete(self, x: Sites) -> Sites:
        """Values of all the sites, from those of the free ones."""
        found = {}
        for name, shape in self.shapes.items():
            if name not in self.names:
                found[name] = x[name]
                continue
            value: Tensor = getattr(self, stored("value", name))
            if name in self.whole:
                found[name] = value
                continue
            index: Tensor = getattr(self, stored("free", name))
            flat = value.flatten(value.dim() - len(shape))
            batch = torch.broadcast_shapes(flat.shape[:-1], x[name].shape[:-1])
            # Not in place: gradients pass through the free elements.
            every = flat.expand(*batch, -1).index_copy(
                -1, index, x[name].expand(*batch, -1).to(flat)
            )
            found[name] = every.unflatten(-1, shape)
        return found


class AbstractClamped(CompositeEnergy):
    """An energy of the rest while some sites, or some of their elements, are held."""

    energy: Energy
    held: Held

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def complete(self, x: Sites | Tensor) -> Sites:
        """Values of all the sites of the whole, from those of the free ones."""
        return self.held.complete(self.accept(x, preferred=None))

    def parts_at(self, x: Sites) -> list[tuple[Energy, Sites]]:
        return [(self.energy, self.held.complete(x))]


class AbstractGradientClamped(AbstractClamped, GradientEnergy):
    """An energy with some of its sites or elements held, whose gradient is that of the whole."""

    def evaluate(self, x: Sites) -> Tensor:
        return self.energy.evaluate(self.held.complete(x))

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        value, whole = energy_and_gradient(self.energy, self.held.complete(x), sites)
        gradients = {}
        for site, gradient in whole.items():
            if site in self.held.names:
                own = len(self.held.shapes[site])
                flat = gradient.flatten(gradient.dim() - own)
                gradient = flat[..., getattr(self.held, f"free_{site}")]
            gradients[site] = gradient
        return value, gradients


class Clamped(AbstractGradientClamped):
    """An energy with some of its sites or elements held; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    def __init__(self, energy: Energy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites


class BlockClamped(AbstractGradientClamped, SweepEnergy):
    """An energy that knows conditional laws, with some of its sites or elements held; by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    energy: BlockEnergy

    def __init__(self, energy: BlockEnergy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites

    def free(self, site: str) -> Tensor | None:
        """The free elements of a site that is held in part, by number; None where all are free.

        Raises:
            ValueError: If the energy has no such site that is free.
        """
        if site not in self.sites:
            raise ValueError(f"{site!r} is no free site; these are {list(self.sites)}.")
        return getattr(self.held, f"free_{site}") if site in self.held.names else None

    def blocks(self, site: str) -> tuple[Block, ...]:
        """The energy's own, without what is held.

        Raises:
            ValueError: As the energy's own; or if of a unit that is several elements some are held.
        """
        free, blocks = self.free(site), self.energy.blocks(site)
        if free is None:
            return blocks
        every = torch.arange(self.held.shapes[site].numel(), device=free.device)
        number = torch.full_like(every, -1).index_copy_(0, free, torch.arange(len(free)).to(free))
        found = []
        for block in blocks:
            units = number[every[block]]
            elements = units.reshape(len(units), -1) >= 0
            left = elements.all(1)
            if bool((elements.any(1) & ~left).any()):
                raise ValueError(
                    f"A unit of {site!r} is {elements.shape[1]} elements, of which some are held: "
                    f"hold all of them, or none."
                )
            if bool(left.any()):
                found.append(units[left])
        return tuple(found)

    def conditional(self, site: str, x: Sites, block: Block | None = None) -> TorchDistribution:
        free, whole = self.free(site), self.held.complete(x)
        if free is None:
            return self.energy.conditional(site, whole, block)
        if block is None:
            block = only_block(self, site)
        return self.energy.conditional(site, whole, free[block])

    def sweep(self, site: str, x: Sites) -> Tensor:
        if self.free(site) is not None:
            return sweep_blocks(self, site, x)
        return sweep_site(self.energy, site, self.held.complete(x))


class PairwiseClamped(AbstractClamped, PairwiseEnergy):
    """A pairwise energy with some of its sites or units held, itself one; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    energy: PairwiseEnergy

    def __init__(self, energy: PairwiseEnergy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites
        self.colours: dict[str, tuple[Colour, ...]] = {}

    def read(self) -> PairwiseTerms:
        terms = self.energy.read()
        whole = {name: getattr(self.held, stored("value", name)) for name in self.held.whole}
        terms = terms.clamped(terms.features(whole))
        for site in self.held.names:
            if site in whole:
                continue
            value, free = (getattr(self.held, f"{what}_{site}") for what in ("value", "free"))
            # Labels that are free have no feature at all, not the label 0.
            here = torch.ones(value.shape[-1], dtype=torch.bool, device=value.device)
            here[free] = False
            width = terms.units[site].width
            features = terms.features({site: value})[site] * here.repeat_interleave(width)
            terms = terms.held(site, features, free, self.colours.get(site))
            inner = terms.inner(site)
            if isinstance(inner, GraphLink):
                self.colours[site] = inner.colours
        return terms


class FieldClamped(AbstractClamped, FieldEnergy):
    """A random field with some of its nodes held, itself one; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    energy: FieldEnergy

    def __init__(self, energy: FieldEnergy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites
        ((name, free),) = ((name, getattr(held, stored("free", name))) for name in held.names)
        self.name = name
        self.states = tuple(energy.states[node] for node in free.tolist())

    def read(self) -> FactorGraph:
        value, free = (getattr(self.held, f"{what}_{self.name}") for what in ("value", "free"))
        here = torch.ones(value.shape[-1], dtype=torch.bool, device=value.device)
        here[free] = False
        nodes = here.nonzero()[:, 0]
        graph, _ = self.energy.read().clamped(nodes, value[..., nodes].to(torch.int64))
        return graph
