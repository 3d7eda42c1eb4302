"""Metropolis–Hastings with a proposal of the user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites, check_names

from .base import ReversibleKernel, same_batch
from .metropolis import AcceptanceInfo, metropolis
from .start import where


class MetropolisHastingsState(NamedTuple):
    """The position, with the energy there."""

    x: Sites
    energy: Tensor  # (*batch,)


@dataclass(frozen=True, eq=False)
class MetropolisHastings(ReversibleKernel):
    r"""Metropolis and Hastings with any proposal on one site, continuous or discrete.

    The proposal y is accepted with the probability

    .. math:: \min\left\{1, \frac{e^{-E(y)} q(x \mid y)}{e^{-E(x)} q(y \mid x)}\right\}.

    Args:
        site: The site to move.
        proposal: From its value x (*batch, *site.shape) to the law q(· | x) of a whole value, for
            example `lambda x: dist.LogNormal(x.log(), 0.3)`. It is corrected where it is not
            symmetric. Values outside the site's support are rejected.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro_ebm import DistributionEnergy, MetropolisHastings, run
        >>> law = DistributionEnergy(dist.Gamma(torch.tensor(2.0), 1.0))
        >>> kernel = MetropolisHastings("visible", lambda x: dist.LogNormal(x.log(), 1.0))
        >>> chains = run(kernel, law, 40, warmup=20, chains=400, seed=0)
        >>> f"{chains.draws['visible'].mean():.1f}"
        '2.0'

    References:
        | Monte Carlo sampling methods using Markov chains and their applications
        | (Hastings, 1970) https://doi.org/10.1093/biomet/57.1.97
    """

    site: str
    proposal: Callable[[Tensor], TorchDistribution]

    def __post_init__(self) -> None:
        if not callable(self.proposal):
            raise TypeError(
                f"proposal is {self.proposal!r}; wanted a function from the site's value to a "
                f"distribution, for example lambda x: dist.Normal(x, 0.5)."
            )

    def reversed(self, energy: Energy) -> Self:
        return self

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return (self.site,)

    def init(self, energy: Energy, x: Sites) -> MetropolisHastingsState:
        if self.site not in energy.sites:
            raise ValueError(
                f"MetropolisHastings is to move {self.site!r}, but the energy has "
                f"{list(energy.sites)}."
            )
        x = energy.accept(x, preferred=None)
        check_names(x, energy.sites)
        batch, value = same_batch(x, energy), x[self.site]
        law = self.proposal(value)
        if not isinstance(law, Distribution):
            raise TypeError(
                f"The proposal for {self.site!r} answers with a {type(law).__name__}; wanted a "
                f"distribution that the new value is drawn from, for example dist.Normal(x, 0.5)."
            )
        if tuple(law.batch_shape + law.event_shape) != tuple(value.shape):
            raise ValueError(
                f"The proposal for {self.site!r} draws the shape "
                f"{tuple(law.batch_shape + law.event_shape)} from a value of shape "
                f"{tuple(value.shape)}; wanted the same shape, batch first."
            )
        state = self.refresh(energy, MetropolisHastingsState(x, value), x)
        if state.energy.shape != batch or not bool(state.energy.isfinite().all()):
            raise ValueError(
                "The energy at the start is not one finite number for each chain; give an initial "
                "x inside the support, and one value of every site for each chain."
            )
        return state

    @torch.no_grad()
    def refresh(
        self, energy: Energy, state: MetropolisHastingsState, x: Sites
    ) -> MetropolisHastingsState:
        return MetropolisHastingsState(x, energy.evaluate(x))

    @torch.no_grad()
    def step(
        self, energy: Energy, state: MetropolisHastingsState
    ) -> tuple[MetropolisHastingsState, AcceptanceInfo]:
        old = state.x[self.site]
        batch = state.energy.shape
        law = self.proposal(old)
        value = law.sample().to(old.dtype)
        inside = whole(energy.sites[self.site].support.check(value), batch)
        # Energy and proposal need not be defined outside the support.
        value = where(inside, value, old)
        x = {**state.x, self.site: value}
        new = energy.evaluate(x)
        log_ratio = state.energy - new + log_hastings(self.proposal, law, old, value, batch)
        verdict = metropolis(log_ratio.masked_fill(~inside, -torch.inf))
        accepted = verdict.accepted
        x[self.site] = where(accepted, value, old)
        after = MetropolisHastingsState(x, torch.where(accepted, new, state.energy))
        return after, AcceptanceInfo(verdict.acceptance_rate)


def log_hastings(
    proposal: Callable[[Tensor], TorchDistribution],
    law: TorchDistribution,
    old: Tensor,
    new: Tensor,
    batch: torch.Size,
) -> Tensor:  # (*batch,)
    """ln q(old | new) − ln q(new | old), where `law` is q(· | old)."""
    return log_density(proposal(new), old, batch) - log_density(law, new, batch)


def log_density(law: TorchDistribution, value: Tensor, batch: torch.Size) -> Tensor:  # (*batch,)
    """ln q of a whole value; −∞ outside the law's support, whether the law validates or not."""
    support = law.support
    assert support is not None  # None only where a class does not say
    inside = support.check(value)
    if bool(inside.all()):
        return law.log_prob(value).reshape(*batch, -1).sum(-1)
    rows = whole(inside, batch)
    safe = where(rows, value, law.sample().to(value.dtype))
    return law.log_prob(safe).reshape(*batch, -1).sum(-1).masked_fill(~rows, -torch.inf)


def whole(inside: Tensor, batch: torch.Size) -> Tensor:  # (*batch, ...) -> (*batch,)
    """Whether all of a chain's value is inside."""
    return inside.reshape(*batch, -1).all(-1)
