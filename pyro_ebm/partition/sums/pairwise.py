"""Exact sums of pairwise energies, by the cheapest way that their structure allows."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

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
    is_finite,
    number_of_states,
)
from .fields import FieldSum
from .summation import Moments, Summation

WORTH_A_SEARCH = 0.01  # seconds: below it no order of elimination is looked for
MAX_BYTES = 2**33  # of the matrices of the three-way split


@dataclass(frozen=True)
class Plan:
    """How to sum: enumerate some sites and the others in closed form, or in another way."""

    way: Literal["enumeration", "split", "elimination"]
    enumerated: tuple[str, ...]
    states: int
    seconds: float  # a rough estimate, on one core


@dataclass(frozen=True)
class MachineSum(Summation):
    """Sums of a pairwise energy.

    Args:
        terms: In float64.
    """

    terms: PairwiseTerms

    @cached_property
    def plan(self) -> Plan:
        """How it is summed."""
        return choose_plan(self.terms)

    @property
    def batch(self) -> torch.Size:
        return self.terms.batch

    @property
    def seconds(self) -> float:
        units = 1
        if self.terms.batch:
            # Every row has fields of its own, so that a state costs all its units.
            units += sum(b.shape[-1] for b in self.terms.biases.values())
        return self.plan.seconds * units

    @cached_property
    def as_field(self) -> FieldSum:
        """The same sums by elimination."""
        return FieldSum(field_of_terms(self.terms))

    def log_partition(self) -> Tensor:
        match self.plan.way:
            case "split":
                return split.log_partition(self.terms)
            case "elimination":
                return self.as_field.log_partition()
            case "enumeration":
                return enumeration.log_partition(self.terms, self.plan.enumerated)

    def clamped(self, x: Sites) -> Self:
        return type(self)(self.terms.clamped(self.terms.features(x)))

    def moments(self) -> Moments:
        match self.plan.way:
            case "split":
                flat, second = split.moments(self.terms)
            case "elimination":
                return self.as_field.moments()
            case "enumeration":
                flat, second = enumeration.moments(self.terms, self.plan.enumerated)
        sizes = [b.shape[-1] for b in self.terms.biases.values()]
        return Moments(dict(zip(self.terms.units, flat.split(sizes, -1), strict=True)), second)

    def minimum(self) -> Sites:
        if self.plan.way == "elimination":
            return self.as_field.minimum()
        plan = self.plan
        if plan.way == "split":
            plan = min(enumerations(self.terms), key=lambda plan: (plan.seconds, plan.states))
        if plan.states > MAX_STATES:
            raise TooManyStatesError(
                f"The least of {in_digits(plan.states)} energies is wanted, and at most "
                f"{in_digits(MAX_STATES)} are looked at."
            )
        return enumeration.minimum(self.terms, plan.enumerated)

    def sample(self, count: int) -> Sites:
        match self.plan.way:
            case "split":
                return split.sample(self.terms, count)
            case "elimination":
                return self.as_field.sample(count)
            case "enumeration":
                return enumeration.sample(self.terms, self.plan.enumerated, count)


def choose_plan(terms: PairwiseTerms) -> Plan:
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
    best = min(options, key=lambda plan: (plan.seconds, plan.states))
    if best.seconds > WORTH_A_SEARCH and is_sparse(terms):
        options += eliminations(terms)
        best = min(options, key=lambda plan: (plan.seconds, plan.states))
    n = sum(b.shape[-1] for b in terms.biases.values())
    two_valued = all(
        len(unit.levels or ()) == 2 and unit.width == 1 for unit in terms.units.values()
    )
    splittable = n >= 3 and not terms.batch and two_valued and split_bytes(n) <= MAX_BYTES
    # 0.05 ns for each state in the split's product, 20 ns for each entry of its matrices.
    seconds = as_float(2**n) * 5e-11 + 3 * as_float(2 ** (2 * n // 3)) * 2e-8
    if splittable and seconds < best.seconds:
        return Plan("split", (), 2**n, seconds)
    if best.way == "enumeration" and best.states > MAX_STATES:
        in_three = (
            f", or take {in_digits(split_bytes(n))} bytes for {n} units split in three (at most "
            f"{in_digits(MAX_BYTES)})"
        )
        raise TooManyStatesError(
            f"Exact summation would enumerate {in_digits(best.states)} states of "
            f"{list(best.enumerated)} (at most {in_digits(MAX_STATES)} are)"
            f"{in_three if two_valued else ''}. "
            f"For a machine of this size log Z can only be estimated."
        )
    return best


def enumerations(terms: PairwiseTerms) -> list[Plan]:
    """All ways to enumerate some sites and sum the others in closed form."""
    names = list(terms.units)
    sizes = {site: b.shape[-1] for site, b in terms.biases.items()}
    finite = [site for site in names if is_finite(terms.units[site])]
    options = []
    for k in range(len(finite) + 1):
        for enumerated in itertools.combinations(finite, k):
            rest = [site for site in names if site not in enumerated]
            if terms.obstacle(rest) is None:
                count = number_of_states(terms, enumerated)
                # 5 ns for each number of a state.
                numbers = math.prod(terms.batch) * (1 + sum(sizes[site] for site in rest))
                seconds = as_float(count) * numbers * 5e-9
                options.append(Plan("enumeration", enumerated, count, seconds))
    return options


def eliminations(terms: PairwiseTerms) -> list[Plan]:
    """The way to sum out unit after unit, if a graph's width allows it."""
    try:
        seconds = FieldSum(field_of_terms(terms)).seconds
    except TooManyStatesError:
        return []
    return [Plan("elimination", (), number_of_states(terms, list(terms.units)), seconds)]


def split_bytes(n: int) -> int:
    """The memory of the three-way split of n two-valued units, gradients included."""
    return 8 * 8 * 2 ** (2 * math.ceil(n / 3))
