"""The positive phase: what the hidden units do while the data are clamped.

Exact where they are uncoupled, by mean field or by Gibbs where they are not. The pair terms are
linear in each unit's features, so the means of independent units stand for their states in every
gradient. Everything here is features, not values: see `PairwiseTerms.features`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pyro_ebm.energies import PairwiseTerms, draw_features
from pyro_ebm.sites import Sites, is_count

from .mean_field import check_settings, coordinate_ascent


@dataclass(frozen=True)
class Posterior:
    """The hidden units given the data.

    Args:
        means: Features of the observed sites, and of the hidden ones their means or a draw
            (rows, n * width).
        averaged: The hidden sites that `means` has means of.
        draw: Makes features of all sites, the hidden ones drawn.
    """

    means: Sites
    averaged: tuple[str, ...]
    draw: Callable[[], Sites]


class PositivePhase(ABC):
    """How a learning rule infers the hidden units from the data.

    Example:
        >>> from pyro_ebm import ContrastiveDivergence, MeanField
        >>> ContrastiveDivergence(positive=MeanField()).positive
        MeanField(tolerance=0.0001, max_sweeps=100)
    """

    @abstractmethod
    def infer(self, terms: PairwiseTerms, observed: Sites) -> Posterior:
        """The hidden units given features of the observed (rows, n * width), without gradients."""


@dataclass(frozen=True)
class ExactPosterior(PositivePhase):
    """p(h | v) in closed form, for hidden units that are not coupled among themselves.

    It is the default where the hidden units are not coupled among themselves.

    Raises:
        ValueError: On use, if they are.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, datasets, learning
        >>> machine = BoltzmannMachine.restricted(14, 4)
        >>> women = datasets.southern_women().attendance
        >>> objective = learning.ContrastiveDivergence(positive=learning.ExactPosterior())
        >>> learning.fit(machine, women, objective, epochs=3, seed=0).series("log_likelihood")[0]
        [1, 2, 3]
    """

    def infer(self, terms: PairwiseTerms, observed: Sites) -> Posterior:
        hidden = hidden_sites(terms, observed)
        if ends := terms.coupled(hidden):
            raise ValueError(
                f"The hidden units of {ends[0]!r} and {ends[1]!r} are coupled, so their posterior "
                f"has no closed form. Use positive=MeanField() or positive=SampledPosterior()."
            )
        rows = len(next(iter(observed.values())))
        laws = {site: terms.outer_field(site, observed).expand(rows, -1) for site in hidden}
        means = {site: terms.units[site].mean(field) for site, field in laws.items()}
        return Posterior(
            {**observed, **means},
            tuple(hidden),
            lambda: {**observed, **draw_units(terms, laws)},
        )


@dataclass(frozen=True)
class MeanField(PositivePhase):
    """The mean-field posterior, which makes learning ascend a lower bound of the likelihood.

    It is the default where the hidden units are coupled among themselves. Outside of learning it is
    `mean_field`.

    Args:
        tolerance: As for `mean_field`.
        max_sweeps: As for `mean_field`.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, ContrastiveDivergence, MeanField, datasets, fit
        >>> deep = BoltzmannMachine.deep((14, 6, 3))
        >>> women = datasets.southern_women().attendance
        >>> objective = ContrastiveDivergence(positive=MeanField(tolerance=1e-3))
        >>> fit(deep, women, objective, epochs=3, seed=0).series("log_likelihood")[0]
        [1, 2, 3]
    """

    tolerance: float = 1e-4
    max_sweeps: int = 100

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.max_sweeps)

    def infer(self, terms: PairwiseTerms, observed: Sites) -> Posterior:
        found = coordinate_ascent(terms, observed, None, self.tolerance, self.max_sweeps)
        means = {**observed, **found.means}

        def draw() -> Sites:
            fields = {site: terms.field(site, means) for site in found.means}
            return {**observed, **draw_units(terms, fields)}

        return Posterior(means, tuple(found.means), draw)


@dataclass(frozen=True)
class SampledPosterior(PositivePhase):
    """Draws from p(h | v) by Gibbs over the hidden units while the data are clamped.

    Args:
        steps: Sweeps from the start, which is each hidden unit alone with the data.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, datasets, learning
        >>> deep = BoltzmannMachine.deep((14, 6, 3))
        >>> women = datasets.southern_women().attendance
        >>> positive = learning.SampledPosterior(steps=5)
        >>> objective = learning.ContrastiveDivergence(positive=positive)
        >>> learning.fit(deep, women, objective, epochs=3, seed=0).series("log_likelihood")[0]
        [1, 2, 3]
    """

    steps: int = 20

    def __post_init__(self) -> None:
        if not is_count(self.steps):
            raise ValueError(f"steps is {self.steps!r}; wanted a positive whole number of sweeps.")

    def infer(self, terms: PairwiseTerms, observed: Sites) -> Posterior:
        rows = len(next(iter(observed.values())))
        hidden = hidden_sites(terms, observed)
        x = dict(observed)
        for site in hidden:
            field = terms.outer_field(site, observed)
            x[site] = draw_features(terms.units[site], field.expand(rows, -1).clone())
        for _ in range(self.steps):
            for site in hidden:
                x[site] = terms.sweep(site, x, draw_features)
        return Posterior(x, (), lambda: x)


def draw_units(terms: PairwiseTerms, fields: Sites) -> Sites:
    """Draws of independent units in their fields, which are left as they are."""
    return {site: draw_features(terms.units[site], field.clone()) for site, field in fields.items()}


def hidden_sites(terms: PairwiseTerms, observed: Sites) -> list[str]:
    """The sites that are not observed."""
    return [site for site in terms.units if site not in observed]


def choose_positive(terms: PairwiseTerms, observed: Sequence[str] | Sites) -> PositivePhase:
    """Exact where that is possible, mean field where it is not."""
    rest = [site for site in terms.units if site not in observed]
    return ExactPosterior() if terms.coupled(rest) is None else MeanField()


@torch.no_grad()
def infer(positive: PositivePhase | None, terms: PairwiseTerms, observed: Sites) -> Posterior:
    """The posterior by the phase that was chosen, or that the structure chooses, given values."""
    phase = positive or choose_positive(terms, observed)
    return phase.infer(terms, terms.features(observed))
