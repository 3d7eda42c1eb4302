"""Exact maximum likelihood, where log Z can be had: the yardstick of all other rules."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, PairwiseEnergy
from pyro_ebm.learning.base import Objective, normalised, require_unbatched
from pyro_ebm.learning.posterior.positive_phase import rows_of
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites


@dataclass(frozen=True)
class ExactLikelihood(Objective):
    r"""Minus the mean log-likelihood in nats, hidden units summed out.

    .. math:: -\frac1N \sum_n \ln p(v_n) = \frac1N \sum_n F(v_n) + \log Z

    Raises:
        TooManyStatesError: In `init`, if the machine is too large.
    """

    def init(self, energy: Energy, data: Sites | Tensor) -> None:
        rows_of(energy.accept(data))
        exact.require_small(energy)
        with torch.no_grad():
            if isinstance(energy, PairwiseEnergy):
                require_unbatched(energy.read())

    def loss(
        self,
        energy: Energy,
        data: Sites | Tensor,
        state: None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        x = energy.accept(data)
        rows = rows_of(x)
        log_probs = exact.log_prob(energy, x)
        weights = normalised(weights, rows, log_probs)
        return -(log_probs.mean() if weights is None else weights @ log_probs), None

    def fantasies(self, state: None) -> None:
        return None
