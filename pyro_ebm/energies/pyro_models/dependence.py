"""What depends on what in a Pyro model: which terms a discrete site enters, and element by element.

Two witnesses are heard. Provenance, which follows tensors through a pass, says on which sites a
term depends; it is lost in assignments in place, and it knows whole tensors only, so that a plate
whose elements look at their neighbours escapes it. Probes, passes in which some elements were
changed, say which entries of which terms moved. Elements of a plate are independent given the rest
where every term that depends on the site has an entry for each element of the plate, and no probe
moves the entry of an element that was left as it is. Probes start from values at random: one
element may be seen through another in some states only.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import get_provenance
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies.base import Block
from pyro_ebm.sites import Site, Sites, bounded

from .energy_site import EnergySite, energy_of, is_swept, levels_of_elements
from .first_pass import element_support, random_pass
from .log_joint import Message, Model, is_deterministic, term

TRIES = 4  # values at random on which each half of the elements is tried, at each start
ROWS = 64  # in all, where the halves are few
NUMBERS = 2**22  # values of a site that are tried in one pass, about


class Reach(NamedTuple):
    """Where a discrete site is felt.

    Args:
        terms: The sites whose terms depend on it, its own among them.
        parallel: The plates along which its elements are independent given the rest, as the
            dimensions (negative, of a batch shape) in increasing order.
    """

    terms: frozenset[str]
    parallel: tuple[int, ...]


def provenance(model: Model) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """By sample site, the sites that its term is computed from; and the sites whose support moves.

    Where the support of a real site depends on others, so do all the terms that its value enters,
    since the value is made of unconstrained numbers and the support.
    """
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        with TrackProvenance():
            nodes = random_pass(model)
        sources: dict[str, frozenset[str]] = {}
        moving: dict[str, frozenset[str]] = {}
        for name, msg in nodes.items():
            if is_deterministic(msg) or site_is_subsample(msg):
                continue
            found = get_provenance([term(msg), msg["scale"], msg["mask"]])
            sources[name] = found.union(*(moving[site] for site in found if site in moving))
            bounds = get_provenance(parts_of(msg["fn"].support)) - {name}
            if bounds:
                moving[name] = bounds.union(*(moving[site] for site in bounds if site in moving))
        return sources, frozenset(moving)


def parts_of(support: Constraint) -> list[Tensor]:
    """The tensors that a support is made of."""
    found = []
    for part in vars(support).values():
        for value in part if isinstance(part, list | tuple) else [part]:
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, Constraint):
                found += parts_of(value)
    return found


def differ(law: Any, other: Any) -> bool:  # noqa: ANN401 (any distribution)
    """Whether the supports of two laws have other bounds."""
    if not hasattr(law, "support"):
        return False
    mine, yours = parts_of(law.support), parts_of(other.support)
    return any(not torch.equal(a, b) for a, b in zip(mine, yours, strict=True))


class Prober:
    """Looks at which entries of which terms move with a site.

    Args:
        model: The model.
        real: The sites given unconstrained.
        nodes: The sites of a first pass, by name.
        starts: Values of all the latent sites, several times.
        each: Applies a function of one chain to every row of a batch.
    """

    def __init__(
        self,
        model: Model,
        real: frozenset[str],
        nodes: dict[str, Message],
        starts: list[Sites],
        each: Callable[[Callable[[Sites], Sites], Sites], Sites],
    ) -> None:
        self.model, self.real, self.nodes, self.starts = model, real, nodes, starts
        self.each = each

    def reach(self, site: str, values: Tensor, sources: dict[str, frozenset[str]]) -> Reach:
        """Where a site is felt.

        Args:
            site: The site.
            values: Those that an element can have (states, *event).
            sources: What `provenance` found.
        """
        said = {name for name, upstream in sources.items() if site in upstream} | {site}
        everything = torch.ones(self.nodes[site]["value"].shape, dtype=torch.bool)
        seen = set().union(*(self.moved(s, site, values, everything)[1] for s in self.starts))
        terms = frozenset(said | seen)
        plates = self.plates_of(site)
        parallel = [
            dim
            for name, dim in plates.items()
            if all(self.plates_of(t).get(name) == dim for t in terms)
            and self.is_local(site, values, terms, dim)
        ]
        return Reach(terms, tuple(sorted(parallel)))

    def plates_of(self, site: str) -> dict[str, int]:
        """The vectorised plates that a site is in, with their dimensions."""
        return {f.name: f.dim for f in self.nodes[site]["cond_indep_stack"] if f.vectorized}

    def is_local(self, site: str, values: Tensor, terms: frozenset[str], dim: int) -> bool:
        """Whether an element's entries move with that element alone, along one plate."""
        along = len(self.nodes[site]["fn"].batch_shape) + dim
        elements = self.elements(site, values)
        size = elements[along]
        view = [size if k == along else 1 for k in range(len(elements))]
        masks = halves(size).reshape(-1, *view).expand(-1, *elements)

        def read(x: Sites) -> Sites:
            return self.model.at(x, self.real, terms).terms

        for chosen, moved in self.moves(site, values, masks, read):
            left = ~chosen.movedim(along + 1, 1).reshape(len(chosen), size, -1)[..., 0]
            for entry in moved.values():
                if entry.dim() - 1 < -dim or entry.shape[dim] != size:
                    return False
                if bool(entry.movedim(dim, 1)[left].any()):
                    return False
        return True

    def energy_site(
        self, site: str, reach: Reach, sources: dict[str, frozenset[str]]
    ) -> EnergySite | None:
        """How a site is swept that is an energy, and that the rest sees element by element.

        None if it is not, or if its energy depends on other sites.
        """
        msg = self.nodes[site]
        found = energy_of(msg["fn"])
        if (
            found is None
            or msg["mask"] is not None
            or bool((torch.as_tensor(msg["scale"]) != 1).any())
        ):
            return None
        energy, own = found
        if not is_swept(energy, own) or not sources[site] <= {site} or not self.is_fixed(site):
            return None
        levels = levels_of_elements(energy, own)
        if levels is None:
            return None
        made = EnergySite(energy, own, reach.terms - {site}, levels, msg["value"].shape)
        return made if self.is_separable(site, made) else None

    def is_fixed(self, site: str) -> bool:
        """Whether the site's own term is the same whatever the others are."""
        for start in self.starts:
            at = [{**other, site: start[site]} for other in self.starts]
            first, *rest = [self.model.at(x, self.real).terms[site] for x in at]
            if not all(torch.equal(first, other) for other in rest):
                return False
        return True

    def is_separable(self, site: str, made: EnergySite) -> bool:
        """Whether the rest of the model is a sum over the site's elements, each seen alone."""
        shape = made.shape
        masks = halves(shape.numel()).reshape(-1, *shape)

        def read(x: Sites) -> Sites:
            return self.model.entries_at(x, self.real, made.terms)

        for chosen, moved in self.moves(site, made.levels, masks, read):
            for entry in moved.values():
                if entry.shape[1:][entry.dim() - 1 - len(shape) :] != shape:
                    return False
                missing = [1] * (entry.dim() - chosen.dim())
                if bool((entry & ~chosen.reshape(len(chosen), *missing, *shape)).any()):
                    return False
        return True

    def elements(self, site: str, values: Tensor) -> torch.Size:
        """The shape of a site without that of one element."""
        shape: torch.Size = self.nodes[site]["value"].shape
        return shape[: len(shape) - (values.dim() - 1)]

    def moves(
        self, site: str, values: Tensor, masks: Tensor, read: Callable[[Sites], Sites]
    ) -> Iterator[tuple[Tensor, Sites]]:
        """Which entries of each term move with some elements, each time from values at random.

        Args:
            site: The site.
            values: Those of an element (states, *event).
            masks: The elements that change (masks, *elements).
            read: The terms in a pass.

        Yields:
            In turns, what was changed (rows, *elements), and what moved (rows, *entry) by term.
        """
        tries = max(TRIES, ROWS // len(masks))
        at_once = max(1, NUMBERS // (tries * masks[0].numel()))
        device = self.nodes[site]["value"].device
        for some in masks.to(device).split(at_once):
            chosen = some.repeat_interleave(tries, 0)
            both = torch.cat(self.tried(site, values, chosen))
            for start in self.starts:
                rows = {
                    name: value.expand(len(both), *value.shape) for name, value in start.items()
                }
                found = self.each(read, {**rows, site: both})
                yield chosen, {name: differing(*entry.chunk(2)) for name, entry in found.items()}

    def tried(self, site: str, values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Values at random, and the same with others in the chosen elements (rows, *shape)."""
        like, support = self.nodes[site]["value"], element_support(self.nodes[site]["fn"])
        index = torch.randint(len(values), chosen.shape, device=like.device)
        step = torch.randint_like(index, 1, len(values)) if len(values) > 1 else 0
        other = torch.where(chosen, (index + step) % len(values), index)
        values = values.to(like)
        return bounded(support, values[index]), bounded(support, values[other])

    def moved(
        self, start: Sites, site: str, values: Tensor, mask: Tensor
    ) -> tuple[Sites, set[str]]:
        """Which entries of each term move when some elements get other values; and which terms."""
        before = self.model.at(start, self.real).terms
        old = start[site]
        event = values.dim() - 1
        elements = old.shape[: old.dim() - event]
        index = torch.randint(len(values), elements)
        other = values.to(old)[index]
        same = (other == old).flatten(len(elements)).all(-1) if event else other == old
        other = torch.where(
            same[(..., *[None] * event)],
            values.to(old)[(index + 1) % len(values)],
            other,
        )
        other = bounded(element_support(self.nodes[site]["fn"]), torch.where(mask, other, old))
        after = self.model.at({**start, site: other}, self.real).terms
        different = {name: differing(after[name], value) for name, value in before.items()}
        return different, {name for name, entry in different.items() if bool(entry.any())}


def halves(count: int) -> Tensor:  # (masks, count)
    """Which of so many elements have a bit of their numbers, and which have it not, bit by bit.

    So each of two elements is in a mask that the other is not in.
    """
    number = torch.arange(count)
    bits = range(max(count - 1, 1).bit_length())
    return torch.stack([(number >> bit) % 2 == wanted for bit in bits for wanted in (0, 1)])


def differing(one: Tensor, other: Tensor) -> Tensor:
    """Which entries differ; NaN is like NaN."""
    return ~((one == other) | (one.isnan() & other.isnan()))


class DiscreteSite(NamedTuple):
    """How the elements of one discrete site are drawn.

    Args:
        values: Those of an element (states, *event).
        terms: The sites whose terms depend on it.
        parallel: The plates along which its elements are independent, as `Reach` has them.
        blocks: The elements drawn at once, as indices into the flattened site (units, *event).
        inside: Which values an element may have (elements, states), where that differs.
        shape: Of the site.
        support: Of an element.
    """

    values: Tensor
    terms: frozenset[str]
    parallel: tuple[int, ...]
    blocks: tuple[Tensor, ...]
    inside: Tensor | None
    shape: torch.Size
    support: Constraint

    @classmethod
    def of(
        cls,
        law: Any,  # noqa: ANN401 (any distribution)
        site: Site,
        values: Tensor,
        reach: Reach,
    ) -> "DiscreteSite":
        """The blocks and bounds that follow from where a site is felt."""
        shape, event = site.shape, values.dim() - 1
        elements = shape[: len(shape) - event]
        along = [len(law.batch_shape) + dim for dim in reach.parallel]
        rest = [k for k in range(len(elements)) if k not in along]
        # One row for each combination of the dimensions that are not parallel.
        rows = math.prod(elements[k] for k in rest)
        numbers = torch.arange(elements.numel()).reshape(elements)
        numbers = numbers.permute((*rest, *along)).reshape(rows, -1)
        if event:
            width = shape[len(elements) :].numel()
            numbers = numbers[..., None] * width + torch.arange(width)
        inside = None
        if isinstance(site.support, constraints.integer_interval):
            tried = values.reshape(-1, *[1] * len(elements)).expand(-1, *elements)
            checked = site.support.check(tried).reshape(len(values), -1).mT
            inside = None if bool(checked.all()) else checked
        blocks = tuple(numbers.to(values.device))
        return cls(values, *reach, blocks, inside, shape, site.support)

    def places(self, block: Block) -> Tensor | slice:
        """Where the elements of a block, or of a part of one, stand among those of `total`.

        Raises:
            ValueError: If they are of several blocks.
        """
        if any(block is own for own in self.blocks):
            return slice(None)
        every = torch.stack(self.blocks)  # (blocks, units, *event)
        row, place = torch.empty(2, self.shape.numel(), dtype=torch.int64, device=every.device)
        ones = [1] * (every.dim() - 2)
        row[every] = torch.arange(len(every), device=row.device).reshape(-1, 1, *ones)
        place[every] = torch.arange(every.shape[1], device=row.device).reshape(-1, *ones)
        units = torch.arange(self.shape.numel(), device=row.device)[block]
        units = units[:, 0] if ones else units
        if bool((row[units] != row[units[:1]]).any()):
            raise ValueError(
                "The elements of the block depend on each other, so that their joint law does not "
                "factorise. Ask for one of blocks(site)."
            )
        return place[units]

    def tried(self, value: Tensor, block: Block) -> Tensor:
        """Each value in the place of a block's own: (rows, *shape) -> (states, rows, *shape)."""
        chosen = torch.zeros(self.shape.numel(), dtype=torch.bool, device=value.device)
        chosen[block] = True
        states, *event = self.values.shape
        missing = [1] * (len(self.shape) - len(event))
        values = self.values.reshape(states, 1, *missing, *event)
        # What an element cannot have is left out by `inside`, but its law might not bear it.
        return bounded(self.support, torch.where(chosen.reshape(self.shape), values, value))

    def total(self, terms: Sites) -> Tensor:
        """The sum of terms for each combination of the parallel elements."""
        total: Any = 0.0
        for value in terms.values():
            summed = [k for k in range(value.dim()) if k - value.dim() not in self.parallel]
            total = total + (value.sum(summed) if summed else value)
        return total
