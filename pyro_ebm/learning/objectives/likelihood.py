"""Exact maximum likelihood, where log Z can be had: the yardstick of all other rules."""

from dataclasses import dataclass

from torch import Tensor

from pyro_ebm.energies import Energy, terms_of
from pyro_ebm.kernels import read_structure
from pyro_ebm.learning.base import (
    Objective,
    Step,
    normalised,
    require_row_laws,
    require_unbatched,
    rows_of,
)
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites


@dataclass(frozen=True)
class ExactLikelihood(Objective[None]):
    r"""Minus the mean log-likelihood in nats, hidden units summed out.

    .. math:: -\frac1N \sum_n \ln p(v_n) = \frac1N \sum_n F(v_n) + \log Z

    Where the energy holds rows of values, `clamp(machine, {"x": rows})`, it is that of each row of
    data given its own: the mean of −ln p(v_n | x_n).

    Raises:
        TooManyStatesError: In `init`, if the machine is too large.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, ExactLikelihood, fit
        >>> machine = BoltzmannMachine.fully_visible(2)
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> history = fit(machine, rows, ExactLikelihood(), epochs=30, seed=0)
        >>> first, *_, last = history.series("log_likelihood")[1]
        >>> first < last
        True
    """

    def init(self, energy: Energy, data: Sites | Tensor) -> None:
        held = require_row_laws(energy, rows_of(energy.accept(data), energy.sites))
        structure = read_structure(energy)
        exact.require_small(energy, structure)
        terms = terms_of(structure)
        if terms is not None and not held:
            require_unbatched(terms, held)

    def loss(
        self,
        energy: Energy,
        data: Sites | Tensor,
        state: None,
        row_weights: Tensor | None = None,
    ) -> Step[None]:
        x = energy.accept(data)
        rows = rows_of(x, energy.sites)
        require_row_laws(energy, rows)
        log_probs = exact.log_prob_by(exact.summation(energy), energy, x)
        row_weights = normalised(row_weights, rows, log_probs)
        return Step(-(log_probs.mean() if row_weights is None else row_weights @ log_probs), None)
