r"""Contrastive divergence: the negative phase by a few steps of a chain.

.. math:: \nabla = E_{\mathrm{data},\, p(h|v)}[\nabla E] - E_{\mathrm{chain}}[\nabla E]

The value of these losses is the mean energy of the positive minus that of the negative phase. It is
no likelihood, and it does not fall as learning goes on: watch the monitor's metrics instead.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import (
    Energy,
    PairwiseStructure,
    PairwiseTerms,
    mean_energy_difference,
    require_pairwise,
)
from pyro_ebm.kernels import (
    Gibbs,
    GibbsState,
    Kernel,
    KernelState,
    Purpose,
    advance,
    joined,
    parts_of,
)
from pyro_ebm.learning.base import (
    Objective,
    Step,
    held_batch,
    normalised,
    require_unbatched,
    rows_of,
)
from pyro_ebm.learning.posterior.positive_phase import (
    ExactPosterior,
    PositivePhase,
    hidden_sites,
    infer,
)
from pyro_ebm.sites import Sites, is_count


class ChainState(NamedTuple):
    """The chains of the negative phase, which sites are observed, and what moves the chains."""

    chain: KernelState
    observed: tuple[str, ...]
    kernel: Kernel


def checked(energy: Energy, data: Sites | Tensor, steps: int) -> tuple[Sites, PairwiseTerms]:
    """The rows and the parameters, after the checks that both rules make before they begin.

    Raises:
        TypeError: If the energy is not pairwise.
        ValueError: If the data are no rows, or the steps not positive.
    """
    if not is_count(steps):
        raise ValueError(f"steps is {steps!r}; wanted a positive whole number.")
    x = energy.accept(data)
    rows_of(x, energy.sites)
    with torch.no_grad():
        terms = require_pairwise(energy, "Contrastive divergence")
    require_unbatched(terms, held_batch(energy))
    return x, terms


def default_kernel(energy: Energy, terms: PairwiseTerms, observed: tuple[str, ...]) -> Kernel:
    """The kernel that is chosen for steps without a warm-up, observed sites first."""
    known = PairwiseStructure(energy.sites, terms)
    return joined(parts_of(energy, Purpose.FIXED, first=observed, structure=known))


def begin(
    energy: Energy, data: Sites | Tensor, row_weights: Tensor | None
) -> tuple[Sites, PairwiseTerms, Tensor | None]:
    """What a loss is made of: the rows, the parameters, and weights of the rows that sum to 1."""
    x = energy.accept(data)
    terms = require_pairwise(energy, "Contrastive divergence")
    return x, terms, normalised(row_weights, rows_of(x, energy.sites), terms.constant)


def uncoupled(terms: PairwiseTerms, observed: tuple[str, ...]) -> bool:
    """Whether there are hidden units, and none of them are coupled among themselves."""
    hidden = [site for site in terms.units if site not in observed]
    return bool(hidden) and terms.coupled(hidden) is None


@torch.no_grad()
def negative_means(
    terms: PairwiseTerms,
    chain: KernelState,
    observed: tuple[str, ...],
) -> tuple[Sites, tuple[str, ...]]:
    """The chain's features for the gradient: hidden units by their means, where those are exact.

    Which sites hold means is told with them.
    """
    if not uncoupled(terms, observed):
        return terms.features(chain.x), ()
    features = terms.features({site: chain.x[site] for site in observed})
    hidden = hidden_sites(terms, features)
    if isinstance(chain, GibbsState) and chain.newest and hidden == [chain.newest[0]]:
        # The kernel drew them last, so their fields are at hand: no product is needed.
        site, field = chain.newest
        return {**features, site: terms.units[site].mean(field)}, (site,)
    posterior = ExactPosterior().infer(terms, features)
    return posterior.means, posterior.averaged


@dataclass(frozen=True, eq=False)
class ContrastiveDivergence(Objective[ChainState]):
    """CD-k: the negative phase starts at the data and takes k steps.

    It is biased, more so for small k and strong couplings, and cheap.

    Args:
        steps: k, steps of the kernel.
        positive: How the hidden units are inferred from the data; exactly where they are uncoupled,
            else by mean field, if left out.
        kernel: The transition; Gibbs, observed sites first, if left out.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, ContrastiveDivergence, datasets, fit
        >>> machine = BoltzmannMachine.restricted(14, 4)
        >>> women = datasets.southern_women().attendance
        >>> history = fit(machine, women, ContrastiveDivergence(steps=5), epochs=10, seed=0)
        >>> log_likelihood = history.series("log_likelihood")[1]
        >>> log_likelihood[0] < log_likelihood[-1]
        True

    References:
        | Training products of experts by minimizing contrastive divergence (Hinton, 2002)
        | https://doi.org/10.1162/089976602760128018
    """

    steps: int = 1
    positive: PositivePhase | None = None
    kernel: Kernel | None = None

    def init(self, energy: Energy, data: Sites | Tensor) -> ChainState:
        x, terms = checked(energy, data, self.steps)
        observed = tuple(x)
        kernel = self.kernel or default_kernel(energy, terms, observed)
        # Every step starts its own chains: here one row is enough for the kernel's checks.
        one = {site: value[:1] for site, value in x.items()}
        start = terms.values(infer(self.positive, terms, one).draw())
        return ChainState(kernel.init(energy, start), observed, kernel)

    def loss(
        self,
        energy: Energy,
        data: Sites | Tensor,
        state: ChainState,
        row_weights: Tensor | None = None,
    ) -> Step[ChainState]:
        x, terms, row_weights = begin(energy, data, row_weights)
        kernel = self.kernel or state.kernel
        posterior = infer(self.positive, terms, x)
        with torch.no_grad():
            start = terms.values(posterior.draw())
            chain = kernel.refresh(energy, state.chain, start)
        chain = advance(kernel, energy, chain, self.steps - 1)
        # Of the last sweep the hidden units' means are wanted, not a draw.
        by_means = self.kernel is None and uncoupled(terms, state.observed)
        last: Kernel = Gibbs(state.observed) if by_means else kernel
        chain = advance(last, energy, chain, 1)
        negative, averaged = negative_means(terms, chain, state.observed)
        # Each chain starts at a row, so it carries that row's weight.
        loss = mean_energy_difference(
            terms,
            posterior.means,
            negative,
            row_weights,
            row_weights,
            (posterior.averaged, averaged),
        )
        return Step(loss, state._replace(chain=chain), chain.x)


@dataclass(frozen=True, eq=False)
class PersistentContrastiveDivergence(Objective[ChainState]):
    """PCD-k: chains of their own, which go on from one step of learning to the next.

    With mean field in the positive phase it is the variational learning rule of Boltzmann machines
    with coupled hidden units; with sampled hidden units it is stochastic maximum likelihood.

    Args:
        steps: k, steps of the kernel for each step of learning.
        chains: The number of chains.
        positive: How the hidden units are inferred from the data; exactly where they are uncoupled,
            else by mean field, if left out.
        kernel: The transition; Gibbs, observed sites first, if left out.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, PersistentContrastiveDivergence, datasets, fit
        >>> machine = BoltzmannMachine.restricted(14, 4)
        >>> women = datasets.southern_women().attendance
        >>> objective = PersistentContrastiveDivergence(steps=2, chains=50)
        >>> history = fit(machine, women, objective, epochs=10, seed=0)
        >>> log_likelihood = history.series("log_likelihood")[1]
        >>> log_likelihood[0] < log_likelihood[-1]
        True

    References:
        | Training restricted Boltzmann machines using approximations to the likelihood gradient
        | (Tieleman, 2008) https://doi.org/10.1145/1390156.1390290
    """

    steps: int = 1
    chains: int = 100
    positive: PositivePhase | None = None
    kernel: Kernel | None = None

    def init(self, energy: Energy, data: Sites | Tensor) -> ChainState:
        x, terms = checked(energy, data, self.steps)
        if not is_count(self.chains):
            raise ValueError(f"chains is {self.chains!r}; wanted a positive whole number.")
        rows = torch.randint(rows_of(x, energy.sites), (self.chains,), device=energy.device)
        posterior = infer(self.positive, terms, {site: v[rows] for site, v in x.items()})
        kernel = self.kernel or default_kernel(energy, terms, tuple(x))
        chain = kernel.init(energy, terms.values(posterior.draw()))
        return ChainState(chain, tuple(x), kernel)

    def loss(
        self,
        energy: Energy,
        data: Sites | Tensor,
        state: ChainState,
        row_weights: Tensor | None = None,
    ) -> Step[ChainState]:
        x, terms, row_weights = begin(energy, data, row_weights)
        kernel = self.kernel or state.kernel
        with torch.no_grad():
            chain = kernel.refresh(energy, state.chain, state.chain.x)
        chain = advance(kernel, energy, chain, self.steps)
        negative, averaged = negative_means(terms, chain, state.observed)
        positive = infer(self.positive, terms, x)
        loss = mean_energy_difference(
            terms, positive.means, negative, row_weights, means=(positive.averaged, averaged)
        )
        return Step(loss, state._replace(chain=chain), chain.x)
