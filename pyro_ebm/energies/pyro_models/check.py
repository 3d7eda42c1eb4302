"""A move of one site, what is claimed of it, and what the log joint says of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies.structure import Block
from pyro_ebm.sites import Sites

from .dependence import differing
from .discrete_site import DiscreteSite

ROUNDING = 64  # units in the last place of the terms by which a claim may be off


class Choice(NamedTuple):
    """Which elements get other values, and which values.

    Args:
        old: Of each element, the number of the value that it has (elements,).
        new: The number of the value that it gets; the same where it does not change.
    """

    old: Tensor
    new: Tensor

    def change(self, weights: Tensor) -> float:
        """How ln p changes, if each element's part of it were its own.

        Args:
            weights: Of each value of each element (elements, states).
        """
        pairs = torch.stack([self.old, self.new], -1).to(weights.device)
        old, new = weights.double().gather(-1, pairs).unbind(-1)
        return float(torch.where(old == new, 0, new - old).sum())


def other_values(
    old: Tensor, states: int, allowed: Tensor | None, generator: torch.Generator
) -> Choice:
    """Other values for some elements, at least one.

    Args:
        old: The numbers of the values that they have (elements,).
        states: How many values there are.
        allowed: Which an element may have (elements, states); any if left out.
        generator: Chooses.
    """
    weights = torch.ones(len(old), states) if allowed is None else allowed.float().cpu()
    new = torch.multinomial(weights, 1, generator=generator)[:, 0]
    moves = torch.rand(len(old), generator=generator) < 0.5
    moves[torch.randint(len(old), (), generator=generator)] = True
    return Choice(old.cpu(), torch.where(moves, new, old.cpu()))


def numbers_of(found: DiscreteSite, value: Tensor, block: Block) -> Tensor:  # (elements,)
    """Which of the listed values the elements of a block have.

    Args:
        found: The site.
        value: Its value (*shape).
        block: The block.
    """
    own = value.flatten()[block].unsqueeze(1)  # (elements, 1, *event)
    same = own == found.values.to(own)
    return (same.flatten(2).all(-1) if same.dim() > 2 else same).int().argmax(1)


def with_values(found: DiscreteSite, value: Tensor, block: Block, numbers: Tensor) -> Tensor:
    """A site's value (*shape) in which the elements of a block have the values of these numbers."""
    after = value.clone().flatten()
    after[block] = found.values[numbers.to(found.values.device)].to(after)
    return after.reshape(value.shape)


class Changes(NamedTuple):
    """How the terms of a model change in a move.

    Args:
        by_term: The change of each term, in nats.
        size: The size of what is added up: a claim is right up to rounding at this size.
        is_known: Whether the log joint was a number before, and is one or −∞ after.
    """

    by_term: dict[str, float]
    size: float
    is_known: bool

    @classmethod
    def of(cls, terms: Sites) -> "Changes":
        """The changes from a first to a second row.

        Args:
            terms: The terms (2, *entry).
        """
        by_term, size, is_known = {}, 1.0, True
        for name, both in terms.items():
            before, after = both.double().unbind(0)
            moved = differing(*both.unbind(0))
            by_term[name] = float(torch.where(moved, after - before, 0).sum())
            is_known &= bool(before.isfinite().all()) and not bool((after == torch.inf).any())
            size += float(before.abs().sum() + after.nan_to_num(0, 0, 0).abs().sum())
        return cls(by_term, size, is_known and not any(v != v for v in by_term.values()))

    def total(self) -> float:
        """The change of the log joint."""
        return sum(self.by_term.values())

    def agrees(self, claimed: float, dtype: torch.dtype) -> bool:
        """Whether a claimed change is the right one, up to rounding."""
        right = self.total()
        if claimed == right:
            return True
        return abs(claimed - right) <= ROUNDING * torch.finfo(dtype).eps * self.size


def in_words(
    site: str, found: DiscreteSite, changes: Changes, claimed: float, wrong: list[str]
) -> str:
    """What is wrong with the claims of one site."""
    left_out = [n for n, own in changes.by_term.items() if own and n not in found.terms]
    if left_out:
        what = f"the term of {left_out[0]!r} was taken not to depend on {site!r}, and it does"
    else:
        others = [name for name in changes.by_term if name in found.terms - {site}]
        named = " or ".join(map(repr, wrong or others)) or repr(site)
        what = f"the elements of {site!r} depend on each other through the term of {named}"
    return (
        f"Gibbs on {site!r} is wrong: {what}. In a move of it the log joint changes by "
        f"{changes.total():.6g} and the terms as they were claimed by {claimed:.6g}. Use "
        f"ModelEnergy(model, ...).one_by_one(), which draws every element from the whole log "
        f"joint"
    )
