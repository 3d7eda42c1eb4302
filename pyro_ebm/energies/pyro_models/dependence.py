"""What depends on what in a Pyro model: which terms a discrete site enters, and element by element.

Elements of a plate are drawn at once only where it is proved that they are independent given the
rest: the operations of a recorded pass lead from the elements of the site to the entries of each
term without mixing them (`elementwise.py`). Probes are a second witness, who can only object:
passes in which some elements were changed, from values at random and from extreme values of the
real sites. A third is heard while chains run (`ModelEnergy.contradiction`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import Independent
from torch.distributions.constraints import Constraint

from pyro_ebm.sites import Sites, bounded, trusting

from .elementwise import Mixing, Proof
from .energy_site import EnergySite, energy_of
from .first_pass import element_support
from .log_joint import AtValues, Message, Model, entries
from .recording import Graph, Recorder

TRIES = 4  # values at random on which each half of the elements is tried, at each start
ROWS = 64  # in all, where the halves are few
ROUNDING = 256  # units in the last place by which entries may differ that are the same
NUMBERS = 2**22  # values of a site that are tried in one pass, about


class Reach(NamedTuple):
    """Where a discrete site is felt.

    Args:
        terms: The sites whose terms depend on it, its own among them.
        parallel: The plates along which its elements are independent given the rest, as the
            dimensions (negative, of a batch shape) in increasing order.
        obstacles: By each other plate, why they are not, or not known to be.
    """

    terms: frozenset[str]
    parallel: tuple[int, ...]
    obstacles: Mapping[str, str]


def recorded(model: Model, values: Sites, real: frozenset[str]) -> Graph:
    """A pass of a model at given values, operation by operation.

    Args:
        model: The model; sites that it sums out are given too.
        values: Of all the latent sites, in the model's dtypes.
        real: The sites given unconstrained.
    """
    recorder = Recorder(values)
    handler = AtValues(recorder.values, real, guarded=model.guarded, imputed=model.imputed)
    with torch.no_grad(), pyro.validation_enabled(False), trusting(), recorder:
        nodes: dict[str, Message] = model.trace(handler).nodes
        terms = handler.told().terms
        apart = {
            name: entries(nodes[name])
            for name in terms
            if isinstance(nodes[name]["fn"], Independent)
        }
        supports = {name: parts_of(getattr(nodes[name]["fn"], "support", None)) for name in terms}
    graph = recorder.graph
    graph.terms |= {name: recorder.number_of(value) for name, value in terms.items()}
    graph.entries |= graph.terms | {n: recorder.number_of(value) for n, value in apart.items()}
    for name, parts in supports.items():
        found = [recorder.number_of(part) for part in parts]
        graph.supports[name] = functools.reduce(int.__or__, map(graph.own_sources, found), 0)
    return graph


def parts_of(support: Constraint | None) -> list[Tensor]:
    """The tensors that a support is made of."""
    found: list[Tensor] = []
    if support is None:
        return found
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
    """Looks where discrete sites are felt.

    Args:
        model: The model.
        real: The sites given unconstrained.
        nodes: The sites of a first pass, by name.
        starts: Values of all the latent sites, several times.
        each: Applies a function of one chain to every row of a batch.
        graph: A recorded pass; None where there is none.
    """

    def __init__(
        self,
        model: Model,
        real: frozenset[str],
        nodes: dict[str, Message],
        starts: list[Sites],
        each: Callable[[Callable[[Sites], Sites], Sites], Sites],
        graph: Graph | None,
    ) -> None:
        self.model, self.real, self.nodes, self.starts = model, real, nodes, starts
        self.each, self.graph = each, graph
        self.said = {} if graph is None else graph.dependences()

    def reaches(self, values: Mapping[str, Tensor]) -> dict[str, Reach]:
        """Where sites are felt.

        Args:
            values: By site those that an element can have (states, *event).
        """
        return {
            site: self.reach(site, values[site], seen) for site, seen in self.moved(values).items()
        }

    def reach(self, site: str, values: Tensor, seen: frozenset[str]) -> Reach:
        """Where a site is felt.

        Args:
            site: The site.
            values: Those that an element can have (states, *event).
            seen: The terms that a probe has moved.
        """
        if self.graph is None:
            terms, why = frozenset(self.nodes), "a pass of the model could not be recorded"
            return Reach(terms, (), dict.fromkeys(self.plates_of(site), why))
        terms = seen | {name for name, upstream in self.said.items() if site in upstream} | {site}
        parallel, obstacles = [], {}
        for plate, dim in self.plates_of(site).items():
            obstacle = self.obstacle(site, terms, dim)
            if obstacle is None and not self.is_local(site, values, terms, dim):
                obstacle = "a probe saw an element through another one"
            if obstacle is None:
                parallel.append(dim)
            else:
                obstacles[plate] = obstacle
        return Reach(terms, tuple(sorted(parallel)), obstacles)

    def obstacle(self, site: str, terms: frozenset[str], dim: int) -> str | None:
        """Why the elements along a plate are not proved independent; None where they are."""
        assert self.graph is not None
        along = len(self.nodes[site]["fn"].batch_shape) + dim
        if self.graph.shapes[self.graph.given[site]][along] == 1:
            return "it has one element"
        proof = Proof(self.graph, site, along)
        for name in sorted(terms):
            obstacle = in_words(name, proof.at(self.graph.terms[name]), dim)
            if obstacle is not None:
                return obstacle
        return None

    def moved(self, values: Mapping[str, Tensor]) -> dict[str, frozenset[str]]:
        """By site, the terms that move when all its elements get other values.

        All sites have their turns in one batch, for every start.
        """
        found: dict[str, set[str]] = {site: set() for site in values}
        for start in self.starts if found else []:
            rows = {n: v.expand(len(found) + 1, *v.shape).clone() for n, v in start.items()}
            for k, (site, own) in enumerate(values.items(), 1):
                rows[site][k] = self.another(site, own, start[site])
            terms = self.each(lambda x: self.model.at(x, self.real).terms, rows)
            for name, entry in terms.items():
                moves = differing(entry[1:], entry[:1]).reshape(len(found), -1).any(1).tolist()
                for site, is_moved in zip(found, moves, strict=True):
                    if is_moved:
                        found[site].add(name)
        return {site: frozenset(names) for site, names in found.items()}

    def another(self, site: str, values: Tensor, old: Tensor) -> Tensor:
        """A value of which every element is another one than before."""
        event = values.dim() - 1
        elements = old.shape[: old.dim() - event]
        values = values.to(old)
        index = torch.randint(len(values), elements, device=old.device)
        other = values[index]
        same = (other == old).flatten(len(elements)).all(-1) if event else other == old
        after = values[(index + 1) % len(values)]
        other = torch.where(same[(..., *[None] * event)], after, other)
        return bounded(element_support(self.nodes[site]["fn"]), other)

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

    def energy_site(self, site: str, reach: Reach) -> EnergySite | None:
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
        structure = energy.structure()
        levels = structure.levels(own)
        if structure.sweep_alone(own) is None or levels is None:
            return None
        if not self.sources(site) <= {site} or not self.is_fixed(site):
            return None
        made = EnergySite(energy, own, reach.terms - {site}, levels.values, msg["value"].shape)
        return made if self.is_apart(site, made) and self.is_separable(site, made) else None

    def is_apart(self, site: str, made: EnergySite) -> bool:
        """Whether it is proved that the rest of the model is a sum over the site's elements."""
        if self.graph is None:
            return False
        for k, size in enumerate(made.shape):
            if size == 1:
                continue
            proof, dim = Proof(self.graph, site, k), k - len(made.shape)
            if any(in_words(n, proof.at(self.graph.entries[n]), dim) for n in made.terms):
                return False
        return True

    def sources(self, site: str) -> frozenset[str]:
        """The sites that a site's own term is computed from."""
        if self.graph is None:
            return frozenset(self.nodes)
        return self.graph.sites_of(self.graph.sources_of(self.graph.terms[site]))

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


def in_words(term: str, at: int | Mixing | None, dim: int) -> str | None:
    """Why a term does not take elements apart along a dimension; None where it does."""
    if isinstance(at, Mixing):
        return f"they meet in {at.operation} on the way to {term!r}"
    if at is None:
        return f"a probe moved {term!r} in a way that no record shows"
    return None if at == dim else f"{term!r} has them along another dimension"


def halves(count: int) -> Tensor:  # (masks, count)
    """Which of so many elements have a bit of their numbers, and which have it not, bit by bit.

    So each of two elements is in a mask that the other is not in.
    """
    number = torch.arange(count)
    bits = range(max(count - 1, 1).bit_length())
    return torch.stack([(number >> bit) % 2 == wanted for bit in bits for wanted in (0, 1)])


def differing(one: Tensor, other: Tensor) -> Tensor:
    """Which entries differ by more than rounding; NaN is like NaN.

    Torch rounds differently in the body and in the tail of a vector.
    """
    if not one.is_floating_point():
        return one != other
    tolerance = ROUNDING * torch.finfo(one.dtype).eps
    return ~one.isclose(other, rtol=tolerance, atol=tolerance, equal_nan=True)
