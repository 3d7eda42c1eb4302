"""Sites of which some elements are observed: those that `obs_mask` makes of one statement.

Pyro takes `pyro.sample("y", law, obs=data, obs_mask=mask)` apart into `y_observed`, `y_unobserved`
and their join `y`, and gives both parts the shape of the whole. The places of `y_unobserved` that
are observed enter nothing. They are held at the data here: the energy's site has the others only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.sites import Site, Sites

from .log_joint import Message

PARTS = ("_observed", "_unobserved")


class Imputed(NamedTuple):
    """A site that is observed in part.

    Args:
        held: The energy's values of all elements (n,), where they are observed.
        free: The elements that are not, by number (k,).
        shape: Of the whole.
    """

    held: Tensor
    free: Tensor
    shape: torch.Size

    def complete(self, value: Tensor) -> Tensor:  # (*batch, k) -> (*batch, *shape)
        """The whole, from its free elements."""
        whole = self.held.expand(*value.shape[:-1], -1).to(value)
        return whole.index_copy(-1, self.free, value).unflatten(-1, self.shape)

    def reduce(self, whole: Tensor) -> Tensor:  # (*batch, *shape) -> (*batch, k)
        """The free elements of the whole."""
        return whole.flatten(-len(self.shape))[..., self.free]

    def blocks(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Blocks of the whole as blocks of the free elements."""
        place = torch.full((self.shape.numel(),), -1, device=self.free.device)
        place[self.free] = torch.arange(len(self.free), device=self.free.device)
        # The numbers of one element, as a one-hot vector has, are free together.
        kept = [block[(place[block] >= 0).reshape(len(block), -1).all(-1)] for block in blocks]
        return tuple(place[block] for block in kept if len(block))


class Completion(NamedTuple):
    """What Pyro's driver maps draws of such a site back by.

    Args:
        imputed: The site.
        transform: From unconstrained numbers to its support; None where it is discrete.
    """

    imputed: Imputed
    transform: Any

    def inv(self, value: Tensor) -> Tensor:
        """The whole, in the model's space."""
        whole = self.imputed.complete(value)
        return whole if self.transform is None else self.transform(whole)


def joined_names(nodes: Mapping[str, Message]) -> dict[str, str]:
    """By statement with a mask, the name of the part that is not observed."""
    found = {}
    for name in nodes:
        base = name.removesuffix(PARTS[1])
        seen = nodes.get(base + PARTS[0])
        if base != name and base in nodes and seen is not None and seen["is_observed"]:
            found[base] = name
    return found


def observed_places(nodes: Mapping[str, Message], base: str, dims: int) -> Tensor:
    """Which elements are observed, as a mask with so many dimensions of single elements behind."""
    law, mask = nodes[base + PARTS[1]]["fn"], nodes[base + PARTS[1]]["mask"]
    free = torch.as_tensor(True if mask is None else mask).expand(law.batch_shape)
    return ~free[(..., *[None] * dims)]


def imputed_sites(
    nodes: Mapping[str, Message], sites: Mapping[str, Site], transforms: Mapping[str, Any]
) -> dict[str, Imputed]:
    """The sites that are observed in part."""
    found = {}
    for base, name in joined_names(nodes).items():
        if name not in sites:
            continue
        shape, own = sites[name].shape, len(nodes[name]["fn"].batch_shape)
        seen = observed_places(nodes, base, len(shape) - own).expand(shape).flatten()
        if bool(seen.any()):
            held = nodes[base + PARTS[0]]["value"].expand(nodes[name]["value"].shape)
            if name in transforms:
                held = transforms[name].inv(held)
            held = held.reshape(-1).to(torch.promote_types(held.dtype, torch.float32))
            held = held.where(seen & held.isfinite(), 0)
            found[name] = Imputed(held, (~seen).nonzero()[:, 0], shape)
    return found


def joined(draws: Sites, nodes: Mapping[str, Message]) -> tuple[Sites, dict[str, Message]]:
    """Draws in the model's space with observed and imputed elements joined, and their nodes.

    Args:
        draws: By site (chain, draw, *shape).
        nodes: The sample sites of a pass.
    """
    draws, nodes = dict(draws), dict(nodes)
    for base, name in joined_names(nodes).items():
        if name in draws:
            value, seen = draws.pop(name), nodes[base + PARTS[0]]["value"]
            own = len(nodes[name]["fn"].event_shape)
            places = observed_places(nodes, base, own)
            draws[base], nodes[base] = torch.where(places, seen.to(value), value), nodes[name]
    return draws, nodes
