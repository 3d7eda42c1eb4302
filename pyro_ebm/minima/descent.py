"""Descent at zero temperature: iterated conditional modes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure, terms_of
from pyro_ebm.kernels import (
    Alphabet,
    alphabet_of,
    change_one,
    given_start,
    laws,
    read_structure,
    require_energy,
    require_known,
    require_levels,
    require_machines,
    same_batch,
    where,
)
from pyro_ebm.sites import Levels, Sites, levels_of

from .annealing import Annealed, knows_all

ROWS = 2**14  # states whose energies are evaluated at a time
MOST_SWEEPS = 10_000  # of a descent, which rounding might keep from an end


# --- zero temperature ----------------------------------------------------------------------------
def descend(energy: Energy, x: Sites | Tensor) -> Annealed:
    """Goes down from x, unit by unit, until no change of a single unit lowers the energy.

    It is annealing at zero temperature, from given values. Real units of a machine go to the modes
    of their conditional laws, until these stay where they are up to rounding.

    It is iterated conditional modes.

    Args:
        energy: An energy of discrete sites, or a machine.
        x: Values of all sites (chain, *shape).

    Raises:
        FloatingPointError: If a parameter is NaN or infinite, or the energy of a state that is met
            is NaN.
        TypeError: If `energy` is no energy.
        ValueError: If no change of a site's units is known, if there are not as many chains as
            energies, or if a chain finds no state that is allowed.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, descend
        >>> magnet = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([1.0]))
        >>> descend(magnet, torch.tensor([[1.0, -1.0, 1.0]])).x
        {'visible': tensor([[1., 1., 1.]])}
    """
    require_energy(energy, "energy")
    x, structure = given_start(energy, x), read_structure(energy)
    structure.require_finite()
    require_machines(same_batch(x, energy), laws(structure, x))
    if stuck := stuck_in_descent(structure):
        raise ValueError(
            f"The sites {stuck} are not discrete, or their units have values of their own; "
            f"descend moves bits, spins, labels and one-hot units, and the units of machines. "
            f"Hold the others, or minimise the energy over real sites by its gradient."
        )
    found = descended(energy, x)
    if bool((found.energy == math.inf).any()):
        raise ValueError(
            "A chain has ended where no change of a single unit makes the energy finite: states "
            "there have probability zero. Start from an allowed state, for example a draw or the "
            "mode."
        )
    return found


@torch.no_grad()
def descended(energy: Energy, x: Sites) -> Annealed:
    """Where a descent ends that starts at values that have passed the door."""
    x = by_blocks(energy, x) if knows_all(energy) else by_single_changes(energy, x)
    height = energy.evaluate(x)
    require_known(height)
    return Annealed(x, height)


def stuck_in_descent(structure: Structure) -> list[str]:
    """The sites for whose units `descend` knows no change."""
    if terms_of(structure) is not None:
        return []
    by_law = all(map(structure.knows, structure.sites))
    return [
        name
        for name, site in structure.sites.items()
        if not site.support.is_discrete
        or not (by_law or alphabet_of(structure, name) or levels_of(site))
    ]


def same_up_to_rounding(energy: Energy, before: Sites, after: Sites) -> bool:
    """Whether nothing has changed: discrete values at all, real ones by more than rounding."""
    close = 16 * torch.finfo(energy.dtype).eps
    return all(
        torch.equal(before[name], after[name])
        if site.support.is_discrete
        else torch.allclose(before[name], after[name], rtol=close, atol=close)
        for name, site in energy.sites.items()
    )


def by_blocks(energy: Energy, x: Sites) -> Sites:
    """Descent over the blocks of an energy, each to its likeliest values given the rest."""
    structure = energy.structure()
    structure.require_finite()
    for _ in range(MOST_SWEEPS):
        before, x = x, dict(x)
        for site in energy.sites:
            x[site] = structure.likeliest(site, x)
        # Ties go to one side, so that a plateau has an end.
        if same_up_to_rounding(energy, before, x):
            break
    return x


def by_single_changes(energy: Energy, x: Sites) -> Sites:
    """Steepest descent by changes of one unit, of which all are evaluated."""
    changes = SingleChanges.of(energy)
    (chains,) = same_batch(x, energy)
    every = torch.arange(changes.count, device=energy.device)
    height = energy.evaluate(x)
    require_known(height)
    while True:
        best, best_change = height, torch.full_like(height, -1).long()
        for some in every.split(max(1, ROWS // chains)):
            rows = {s: v.expand(len(some), *v.shape).contiguous() for s, v in x.items()}
            tried = energy.evaluate(changes.made(rows, some[:, None].expand(-1, chains)))
            require_known(tried, 1)
            lowest, which = tried.min(0)
            lower = lowest < best
            best = torch.where(lower, lowest, best)
            best_change = torch.where(lower, some[which], best_change)
        moved = best_change >= 0
        if not bool(moved.any()):
            return x
        new = changes.made(x, best_change.clamp(min=0))
        x = {site: where(moved, value, x[site]) for site, value in new.items()}
        height = best


@dataclass(frozen=True, eq=False)
class SingleChanges:
    """All changes of one unit of discrete sites, numbered.

    First come those of an alphabet, site after site; then, of sites that have none, each unit with
    each of its values, the present one among them.

    Args:
        energy: The energy.
        alphabets: Of the sites that have one.
        others: Of the others, the unit that each change concerns, and its value (changes,).
    """

    energy: Energy
    alphabets: dict[str, Alphabet]
    others: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, energy: Energy) -> "SingleChanges":
        """Those of all discrete sites.

        Raises:
            ValueError: If the values of a site's units cannot be listed.
        """
        structure = energy.structure()
        like = torch.empty((), dtype=energy.dtype, device=energy.device)
        alphabets, others = {}, {}
        for name, site in energy.sites.items():
            alphabet = alphabet_of(structure, name)
            if alphabet is not None:
                alphabets[name] = alphabet
            elif site.support.is_discrete:
                levels = require_levels(structure, name)
                others[name] = units_of_values(levels, energy.device), torch.cat(levels).to(like)
        return cls(energy, alphabets, others)

    def size(self, name: str) -> int:
        """The number of changes of a site."""
        if name in self.alphabets:
            return self.alphabets[name].count(self.energy.sites[name].shape)
        return len(self.others[name][0])

    @property
    def count(self) -> int:
        """The number of all changes."""
        return sum(map(self.size, [*self.alphabets, *self.others]))

    def made(self, x: Sites, change: Tensor) -> Sites:
        """The values after one change of each chain (*batch,)."""
        first = sum(map(self.size, self.alphabets))
        x = change_one(x, change, self.alphabets, self.energy).x
        for name, (units, values) in self.others.items():
            last = first + self.size(name)
            here = (change >= first) & (change < last)
            own = change.clamp(first, last - 1) - first
            flat = x[name].reshape(*change.shape, -1)
            unit, value = units[own].unsqueeze(-1), values[own].unsqueeze(-1)
            new = flat.scatter(-1, unit, value).reshape(x[name].shape)
            x[name] = where(here, new, x[name])
            first = last
        return x


def units_of_values(levels: Levels, device: torch.device) -> Tensor:  # (values of all units,)
    """Of all values of some units in order, whose each is."""
    counts = torch.tensor([len(values) for values in levels], device=device)
    return torch.arange(len(levels), device=device).repeat_interleave(counts)
