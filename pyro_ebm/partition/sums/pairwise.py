"""Exact sums of pairwise energies, by the cheapest way that their structure allows."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pyro_ebm.energies import PairwiseTerms
from pyro_ebm.partition.elimination.field import field_of_terms, is_sparse
from pyro_ebm.sites import Sites

from . import enumeration, split
from .enumeration import (
    MAX_STATES,
    TooManyStatesError,
    as_float,
    in_digits,
    number_of_states,
)
from .fields import FieldSum
from .summation import Moments, Summation, Way

WORTH_A_SEARCH = 0.01  # seconds: below it no order of elimination is looked for
MAX_BYTES = 2**33  # of the matrices of the three-way split


@dataclass(frozen=True)
class EnumeratedSum(Way):
    """Sums of which some sites are enumerated, and the others in closed form.

    Args:
        terms: In float64.
        enumerated: Those sites; the others must have a closed form given them.
    """

    terms: PairwiseTerms
    enumerated: tuple[str, ...]

    @cached_property
    def states(self) -> int:
        """How many states are gone through."""
        return number_of_states(self.terms, self.enumerated)

    @cached_property
    def seconds(self) -> float:
        rest = [b for site, b in self.terms.biases.items() if site not in self.enumerated]
        # 5 ns for each number of a state.
        numbers = math.prod(self.terms.batch) * (1 + sum(bias.shape[-1] for bias in rest))
        return as_float(self.states) * numbers * 5e-9

    def log_partition(self) -> Tensor:
        return enumeration.log_partition(self.terms, self.enumerated)

    def moments(self) -> Moments:
        return by_site(self.terms, *enumeration.moments(self.terms, self.enumerated))

    def minimum(self) -> Sites:
        if self.states > MAX_STATES:
            raise TooManyStatesError(
                f"The least of {in_digits(self.states)} energies is wanted, and at most "
                f"{in_digits(MAX_STATES)} are looked at."
            )
        return enumeration.minimum(self.terms, self.enumerated)

    def sample(self, count: int) -> Sites:
        return enumeration.sample(self.terms, self.enumerated, count)


@dataclass(frozen=True)
class SplitSum(Way):
    """Sums over two-valued units split into three groups, by one matrix product.

    Args:
        terms: In float64, without a batch.
    """

    terms: PairwiseTerms

    @property
    def seconds(self) -> float:
        n = number_of_units(self.terms)
        # 0.05 ns for each state in the split's product, 20 ns for each entry of its matrices.
        return as_float(2**n) * 5e-11 + 3 * as_float(2 ** (2 * n // 3)) * 2e-8

    def log_partition(self) -> Tensor:
        return split.log_partition(self.terms)

    def moments(self) -> Moments:
        return by_site(self.terms, *split.moments(self.terms))

    def minimum(self) -> Sites:
        return least(enumerations(self.terms)).minimum()  # a product tells of no single state

    def sample(self, count: int) -> Sites:
        return split.sample(self.terms, count)


@dataclass(frozen=True)
class MachineSum(Summation):
    """Sums of a pairwise energy, by the cheapest way that its structure allows.

    Args:
        terms: In float64.
    """

    terms: PairwiseTerms

    @cached_property
    def way(self) -> Way:
        """How it is summed; looked for when a sum is wanted, since what is held may decide it."""
        return cheapest(self.terms)

    @property
    def batch(self) -> torch.Size:
        return self.terms.batch

    @property
    def seconds(self) -> float:
        # Every row of a batch has fields of its own, so that a state costs all its units.
        return self.way.seconds * (1 + (number_of_units(self.terms) if self.terms.batch else 0))

    def log_partition(self) -> Tensor:
        return self.way.log_partition()

    def clamped(self, x: Sites) -> Self:
        return type(self)(self.terms.clamped(self.terms.features(x)))

    def moments(self) -> Moments:
        return self.way.moments()

    def minimum(self) -> Sites:
        return self.way.minimum()

    def sample(self, count: int) -> Sites:
        return self.way.sample(count)


def by_site(terms: PairwiseTerms, first: Tensor, second: Tensor) -> Moments:
    """Moments whose means are told site by site."""
    sizes = [b.shape[-1] for b in terms.biases.values()]
    return Moments(dict(zip(terms.units, first.split(sizes, -1), strict=True)), second)


def number_of_units(terms: PairwiseTerms) -> int:
    """How many features all sites have together."""
    return sum(b.shape[-1] for b in terms.biases.values())


def cheapest(terms: PairwiseTerms) -> Way:
    """The cheapest way that is possible.

    Raises:
        TooManyStatesError: If the possible ones are too dear.
        TypeError: If none is possible: real units are coupled to units that cannot be enumerated.
        ValueError: If the energy cannot be normalised.
    """
    with torch.no_grad():
        terms.require_normalisable()
    options = enumerations(terms)
    if not options:
        real = [site for site, unit in terms.units.items() if unit.levels is None]
        raise TypeError(
            f"Exact summation has no closed form for this energy: the real units of {real} are "
            f"coupled, {terms.obstacle(real)}, and not all of them are Gaussian."
        )
    listed = least(options)
    others = eliminations(terms) if listed.seconds > WORTH_A_SEARCH else []
    n = number_of_units(terms)
    two_valued = all(
        len(unit.levels or ()) == 2 and unit.width == 1 for unit in terms.units.values()
    )
    if n >= 3 and not terms.batch and two_valued and split_bytes(n) <= MAX_BYTES:
        others.append(SplitSum(terms))
    best = min([listed, *others], key=lambda way: way.seconds)
    if best is listed and listed.states > MAX_STATES:
        in_three = (
            f", or take {in_digits(split_bytes(n))} bytes for {n} units split in three (at most "
            f"{in_digits(MAX_BYTES)})"
        )
        raise TooManyStatesError(
            f"Exact summation would enumerate {in_digits(listed.states)} states of "
            f"{list(listed.enumerated)} (at most {in_digits(MAX_STATES)} are)"
            f"{in_three if two_valued else ''}. "
            f"For a machine of this size log Z can only be estimated."
        )
    return best


def enumerations(terms: PairwiseTerms) -> list[EnumeratedSum]:
    """All ways to enumerate some sites and sum the others in closed form."""
    names = list(terms.units)
    finite = [site for site in names if terms.units[site].levels is not None]
    return [
        EnumeratedSum(terms, enumerated)
        for k in range(len(finite) + 1)
        for enumerated in itertools.combinations(finite, k)
        if terms.obstacle([site for site in names if site not in enumerated]) is None
    ]


def least(options: list[EnumeratedSum]) -> EnumeratedSum:
    """The cheapest of them."""
    return min(options, key=lambda way: (way.seconds, way.states))


def eliminations(terms: PairwiseTerms) -> list[Way]:
    """The way to sum out unit after unit, if a graph's width allows it."""
    if not is_sparse(terms):
        return []
    try:
        way = FieldSum(field_of_terms(terms))
        _ = way.seconds
    except TooManyStatesError:
        return []
    return [way]


def split_bytes(n: int) -> int:
    """The memory of the three-way split of n two-valued units, gradients included."""
    return 8 * 8 * 2 ** (2 * math.ceil(n / 3))
