"""Energies made of energies: sums, inverse temperatures, interpolations, held sites.

What is known of the parts stays known of the whole. Of units in fields comes an energy of units in
fields, on which Gibbs, closed forms and exact sums go on to work.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.sites import Site, Sites, as_tensor, check_shape, check_support, only_site

from .base import Energy, GradientEnergy, energy_and_gradient
from .colouring import Colour, colours_of
from .couplings import register
from .factor_graph import FactorGraph, FactorGroup
from .field_energy import FieldEnergy
from .links import DenseLink, GraphLink, Link, SymmetricLink
from .pairwise import PairwiseEnergy, PairwiseTerms

Weight = float | Tensor


# ---------------------------------------------------------------------- sums


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
        if isinstance(energy, Combination | PairwiseCombination | FieldCombination):
            flat += [(w * weight, part) for w, part in energy.weighted()]
        else:
            flat.append((weight, energy))
    if all(isinstance(energy, PairwiseEnergy) for _, energy in flat):
        return PairwiseCombination(flat)
    if all(isinstance(energy, FieldEnergy) for _, energy in flat):
        return FieldCombination(flat)
    return Combination(flat)


def interpolate(first: Energy, second: Energy, share: Weight) -> Energy:
    r"""The energy on the way from one to another.

    .. math:: E_t(x) = (1 - t)\, E_0(x) + t\, E_1(x)

    Args:
        first: E₀.
        second: E₁.
        share: t, a number or a tensor (*batch,), for example one for each of several chains.

    Raises:
        TypeError, ValueError: As `combined`.
    """
    return combined([(1 - share, first), (share, second)])


def check_weight(weight: Weight) -> Tensor:
    """A weight as a tensor.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is not finite.
    """
    if isinstance(weight, bool) or not isinstance(weight, float | int | Tensor):
        raise TypeError(f"An energy was multiplied by {weight!r}; wanted a number or a tensor.")
    # A number keeps its digits, whatever torch's default dtype.
    value = weight if isinstance(weight, Tensor) else torch.tensor(weight, dtype=torch.float64)
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"An energy was multiplied by a tensor of {value.dtype}; wanted numbers.")
    if not bool(value.isfinite().all()):
        raise ValueError("An energy was multiplied by NaN or an infinite number.")
    return value


class Parts(nn.Module):
    """Weights and energies, as a module.

    Args:
        weighted: Pairs of them.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        if not weighted:
            raise ValueError("There is no energy to combine; wanted one at least.")
        for _, energy in weighted:
            if not isinstance(energy, Energy):
                raise TypeError(f"Wanted an energy, and {energy!r} is none.")
        energies = [energy for _, energy in weighted]
        self.energies = nn.ModuleList(energies)
        self.count = len(energies)
        like = energies[0]
        for energy in energies:
            if (energy.dtype, energy.device) != (like.dtype, like.device):
                raise ValueError(
                    f"One energy is {like.dtype} on {like.device}, another {energy.dtype} on "
                    f"{energy.device}; convert one, for example energy.to({like.dtype})."
                )
        for k, (weight, _) in enumerate(weighted):
            value = check_weight(weight)
            if not isinstance(value, nn.Parameter):
                value = value.to(dtype=like.dtype, device=like.device)
            register(self, f"weight{k}", value)
        self.sites = union_of_sites(energies)

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """Weights and energies."""
        energies = cast("Sequence[Energy]", self.energies)
        return [(getattr(self, f"weight{k}"), energies[k]) for k in range(self.count)]


def union_of_sites(energies: Sequence[Energy]) -> dict[str, Site]:
    """The sites of all the energies, in the order in which they come first.

    Raises:
        ValueError: If a site differs between two of them.
    """
    sites: dict[str, Site] = {}
    for energy in energies:
        for name, site in energy.sites.items():
            known = sites.setdefault(name, site)
            if known.shape != site.shape or str(known.support) != str(site.support):
                raise ValueError(
                    f"The site {name!r} is {known} in one energy and {site} in another; energies "
                    f"are added where they agree on it."
                )
    return sites


class Combination(GradientEnergy):
    """A weighted sum of energies; made by `combined`, or by `+`, `*` and `/`.

    Args:
        weighted: Weights and energies.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        self.parts = Parts(weighted)
        self.sites = self.parts.sites

    @property
    def dtype(self) -> torch.dtype:
        return cast("Energy", self.parts.energies[0]).dtype

    @property
    def device(self) -> torch.device:
        return cast("Energy", self.parts.energies[0]).device

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """The weights and the energies."""
        return self.parts.weighted()

    def evaluate(self, x: Sites) -> Tensor:
        values = [
            weight * energy.evaluate({site: x[site] for site in energy.sites})
            for weight, energy in self.weighted()
        ]
        return torch.stack(torch.broadcast_tensors(*values)).sum(0)

    def energy_and_gradient(self, x: Sites, sites: Sequence[str]) -> tuple[Tensor, Sites]:
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        gradients: Sites = {}
        for weight, energy in self.weighted():
            weight = weight.detach()
            own = [site for site in sites if site in energy.sites]
            value, slopes = energy_and_gradient(energy, {s: x[s] for s in energy.sites}, own)
            total = total + weight * value
            for site, slope in slopes.items():
                factor = weight[(..., *[None] * len(self.sites[site].shape))]
                gradients[site] = gradients.get(site, 0) + factor * slope
        return total, gradients


class PairwiseCombination(PairwiseEnergy):
    """A weighted sum of pairwise energies, itself one; made by `combined`, `+`, `*` and `/`.

    Args:
        weighted: Weights and energies.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        self.parts = Parts(weighted)
        self.sites = self.parts.sites
        self.unions: dict[frozenset[str], GraphUnion] = {}
        with torch.no_grad():
            self.read()  # refuses what cannot be added

    @property
    def dtype(self) -> torch.dtype:
        return cast("Energy", self.parts.energies[0]).dtype

    @property
    def device(self) -> torch.device:
        return cast("Energy", self.parts.energies[0]).device

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """The weights and the energies."""
        return self.parts.weighted()

    def read(self) -> PairwiseTerms:
        scaled = [
            (weight, cast("PairwiseEnergy", energy).read().scaled(weight))
            for weight, energy in self.weighted()
        ]
        parts = [terms for _, terms in scaled]
        if len(parts) == 1:
            return parts[0]
        units, biases = {}, {}
        for site in self.sites:
            own = [terms for terms in parts if site in terms.units]
            one = own[0].constant.new_ones(1)
            units[site] = own[0].units[site].combined([(one, t.units[site]) for t in own])
            biases[site] = added([terms.biases[site] for terms in own])
        pairs: dict[frozenset[str], list[Link]] = {}
        for terms in parts:
            for link in terms.links:
                pairs.setdefault(frozenset(link.ends), []).append(link)
        links = tuple(self.joined(key, links) for key, links in pairs.items())
        return PairwiseTerms(units, biases, links, added([terms.constant for terms in parts]))

    def joined(self, key: frozenset[str], links: Sequence[Link]) -> Link:
        """Couplings of the same two sites as one."""
        first = links[0]
        if len(links) == 1:
            return first
        graphs = [link for link in links if isinstance(link, GraphLink)]
        if len(graphs) == len(links):
            if key not in self.unions:
                self.unions[key] = graph_union(graphs)
            return self.unions[key].link(graphs)
        matrices = [
            link.matrix() if link.ends == first.ends else link.matrix().mT for link in links
        ]
        if first.ends[0] == first.ends[1]:
            width = max(link.width for link in links if isinstance(link, SymmetricLink))
            return SymmetricLink(first.ends, added(matrices), width)
        return DenseLink(first.ends, added(matrices))


class FieldCombination(FieldEnergy):
    """A weighted sum of random fields, itself one; made by `combined`, `+`, `*` and `/`.

    Args:
        weighted: Weights and energies, all over one site.
    """

    def __init__(self, weighted: Sequence[tuple[Weight, Energy]]) -> None:
        super().__init__()
        self.parts = Parts(weighted)
        self.sites = self.parts.sites
        if len(self.sites) > 1:
            raise ValueError(
                f"The random fields have the sites {list(self.sites)}; wanted one that all share."
            )
        states = {cast("FieldEnergy", energy).states for _, energy in weighted}
        if len(states) > 1:
            raise ValueError("The nodes of the random fields have different numbers of states.")
        (self.states,) = states

    @property
    def dtype(self) -> torch.dtype:
        return cast("Energy", self.parts.energies[0]).dtype

    @property
    def device(self) -> torch.device:
        return cast("Energy", self.parts.energies[0]).device

    def weighted(self) -> list[tuple[Tensor, Energy]]:
        """The weights and the energies."""
        return self.parts.weighted()

    def read(self) -> FactorGraph:
        graphs = [
            cast("FieldEnergy", energy).read().scaled(weight) for weight, energy in self.weighted()
        ]
        groups: dict[str, FactorGroup] = {}
        for k, graph in enumerate(graphs):
            for name, group in graph.groups.items():
                same = groups.get(name)
                if same is not None and same.is_over(group):
                    groups[name] = FactorGroup(group.nodes, same.table + group.table)
                else:
                    groups[name if same is None else f"{name}_{k}"] = group
        return FactorGraph(self.states, groups, added([graph.constant for graph in graphs]))


def added(values: Sequence[Tensor]) -> Tensor:
    """The sum of tensors that broadcast."""
    return torch.stack(torch.broadcast_tensors(*values)).sum(0) if len(values) > 1 else values[0]


class GraphUnion(NamedTuple):
    """All edges of several graphs over the same sites, and where each one's are among them."""

    ends: tuple[str, str]
    edges: Tensor  # (edges, 2)
    where: list[Tensor]
    sizes: tuple[int, int]
    colours: tuple[Colour, ...]

    def link(self, graphs: Sequence[GraphLink]) -> GraphLink:
        """The couplings of the graphs, added edge by edge."""
        weights = []
        for graph, where in zip(graphs, self.where, strict=True):
            own = graph.times(graph.edge_weights(), 1)
            every = own.new_zeros((*own.shape[:-1], len(self.edges)))
            weights.append(every.index_add(-1, where, own))
        return GraphLink(self.ends, added(weights), self.edges, self.sizes, self.colours)


def graph_union(graphs: Sequence[GraphLink]) -> GraphUnion:
    """The union of the edges, each once."""
    first = graphs[0]
    inside = first.ends[0] == first.ends[1]
    keys = []
    for graph in graphs:
        edges = graph.edges if graph.ends == first.ends else graph.edges.flip(1)
        edges = edges.sort(1).values if inside else edges
        keys.append(edges[:, 0] * first.sizes[1] + edges[:, 1])
    every, where = torch.unique(torch.cat(keys), return_inverse=True)
    edges = torch.stack([every // first.sizes[1], every % first.sizes[1]], 1)
    parts = list(where.split([len(key) for key in keys]))
    colours = colours_of(edges, first.sizes[0]) if inside else ()
    return GraphUnion(first.ends, edges, parts, first.sizes, colours)


# ---------------------------------------------------------------------- held sites and elements


def clamp(
    energy: Energy, x: Sites | Tensor, *, mask: Mapping[str, Tensor] | Tensor | None = None
) -> "Clamped | PairwiseClamped | FieldClamped":
    """The energy of what is free while some sites, or some elements of them, are held.

    .. math:: E(x_{free}) = E(x_{free}, x_{held})

    A site that is held as a whole is no site of the result; one that is held in part has its free
    elements, in order, in one dimension. `complete` puts the whole together again.

    Args:
        energy: The energy.
        x: Values of what is held, by site (*batch, *site.shape), or a bare tensor for the only site
            or `visible`. With a batch each element of it has an energy of its own.
        mask: Which elements are held, by site (*site.shape), True where held; what x has there is
            held, and its other elements are not read. Sites without a mask are held whole.

    Raises:
        TypeError, ValueError: If a value or a mask is not what its site wants, or nothing is free.
    """
    if not isinstance(x, Mapping):
        name = only_site(energy.sites, "visible")
        x = {name: x}
        if isinstance(mask, Tensor):
            mask = {name: mask}
    if isinstance(mask, Tensor):
        raise TypeError("mask is a tensor, but x is a dict; give the masks by site too.")
    held = Held.of(energy, x, mask or {})
    if isinstance(energy, PairwiseEnergy):
        return PairwiseClamped(energy, held)
    if isinstance(energy, FieldEnergy):
        return FieldClamped(energy, held)
    return Clamped(energy, held)


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
            register(self, f"value_{name}", value)
        for name, index in free.items():
            self.register_buffer(f"free_{name}", index)
        self.shapes = {name: site.shape for name, site in sites.items()}
        self.sites = {
            name: Site(part_of(site.support, free[name]), torch.Size([len(free[name])]))
            if name in free
            else site
            for name, site in sites.items()
            if name not in self.whole
        }

    @classmethod
    def of(cls, energy: Energy, x: Sites, mask: Mapping[str, Tensor]) -> "Held":
        """What is held, after the checks at the door."""
        if unknown := [name for name in mask if name not in x]:
            raise ValueError(f"mask is given for {unknown}, of which x has no values.")
        values, free = {}, {}
        for name, value in x.items():
            if name not in energy.sites:
                raise ValueError(f"Unknown site {name!r}; the energy has {list(energy.sites)}.")
            site = energy.sites[name]
            tensor = check_shape(as_tensor(value, name, energy.dtype, energy.device), name, site)
            if name not in mask:
                values[name] = check_support(tensor, name, site)
                continue
            own = mask[name]
            if not isinstance(own, Tensor) or own.dtype != torch.bool or own.shape != site.shape:
                came = (own.dtype, tuple(own.shape)) if isinstance(own, Tensor) else own
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
            value: Tensor = getattr(self, f"value_{name}")
            if name in self.whole:
                found[name] = value
                continue
            index: Tensor = getattr(self, f"free_{name}")
            flat = value.flatten(value.dim() - len(shape))
            batch = torch.broadcast_shapes(flat.shape[:-1], x[name].shape[:-1])
            # Not in place: gradients pass through the free elements.
            every = flat.expand(*batch, -1).index_copy(
                -1, index, x[name].expand(*batch, -1).to(flat)
            )
            found[name] = every.unflatten(-1, shape)
        return found


def part_of(support: constraints.Constraint, elements: Tensor) -> constraints.Constraint:
    """The support of some elements, where each has bounds of its own."""
    if isinstance(support, constraints.integer_interval):
        bounds = [torch.as_tensor(b) for b in (support.lower_bound, support.upper_bound)]
        if any(bound.dim() for bound in bounds):
            low, high = (b.flatten()[elements] if b.dim() else b for b in bounds)
            return constraints.integer_interval(low, high)
    return support


class Clamped(GradientEnergy):
    """An energy with some of its sites or elements held; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    def __init__(self, energy: Energy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def complete(self, x: Sites | Tensor) -> Sites:
        """Values of all the sites of the whole, from those of the free ones."""
        return self.held.complete(self.accept(x, preferred=None))

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


class PairwiseClamped(PairwiseEnergy):
    """A pairwise energy with some of its sites or units held, itself one; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    def __init__(self, energy: PairwiseEnergy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites
        self.colours: dict[str, tuple[Colour, ...]] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def complete(self, x: Sites | Tensor) -> Sites:
        """Values of all the sites of the whole, from those of the free ones."""
        return self.held.complete(self.accept(x, preferred=None))

    def read(self) -> PairwiseTerms:
        terms = self.energy.read()
        whole = {name: getattr(self.held, f"value_{name}") for name in self.held.whole}
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


class FieldClamped(FieldEnergy):
    """A random field with some of its nodes held, itself one; made by `clamp`.

    Args:
        energy: The energy.
        held: What is held.
    """

    def __init__(self, energy: FieldEnergy, held: Held) -> None:
        super().__init__()
        self.energy, self.held, self.sites = energy, held, held.sites
        ((name, free),) = ((name, getattr(held, f"free_{name}")) for name in held.names)
        self.name = name
        self.states = tuple(energy.states[node] for node in free.tolist())

    @property
    def dtype(self) -> torch.dtype:
        return self.energy.dtype

    @property
    def device(self) -> torch.device:
        return self.energy.device

    def complete(self, x: Sites | Tensor) -> Sites:
        """Labels of all the nodes of the whole, from those of the free ones."""
        return self.held.complete(self.accept(x, preferred=None))

    def read(self) -> FactorGraph:
        value, free = (getattr(self.held, f"{what}_{self.name}") for what in ("value", "free"))
        here = torch.ones(value.shape[-1], dtype=torch.bool, device=value.device)
        here[free] = False
        nodes = here.nonzero()[:, 0]
        graph, _ = self.energy.read().clamped(nodes, value[..., nodes].to(torch.int64))
        return graph
