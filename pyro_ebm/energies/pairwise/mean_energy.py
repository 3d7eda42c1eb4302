"""The difference of two mean energies, with its gradient in closed form."""

import functools
from collections.abc import Sequence
from operator import add
from typing import Any

import torch
from torch import Tensor

from pyro_ebm.sites import Sites

from .links import Phase
from .terms import PairwiseTerms


def mean_energy_difference(
    terms: PairwiseTerms,
    positive: Sites,
    negative: Sites,
    weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
    means: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Tensor:  # ()
    """Mean energy of one batch of states minus that of another, with its gradient in closed form.

    Potentials of units without learned parameters are left out. The gradient is a constant in
    biases and couplings, so there is no second derivative.

    It is the surrogate loss of every learning rule here: the positive and the negative phase. Since
    the pair terms are multilinear, the means of independent units may stand for a state.

    Args:
        terms: The energy, without batch dimensions.
        positive: Features of all sites (rows, n * width).
        negative: Features of all sites (other rows, n * width).
        weights: Weights of the positive rows (rows,), summing to 1; equal ones if left out.
        negative_weights: Weights of the negative rows (other rows,), likewise.
        means: The sites of either phase that hold means of independent units, not states.
    """
    rows = next(iter(positive.values())).shape[0]
    others = next(iter(negative.values())).shape[0]
    if weights is None:
        weights = terms.constant.new_full((rows,), 1 / rows)
    if negative_weights is None:
        negative_weights = terms.constant.new_full((others,), 1 / others)
    phases = ((positive, weights), (negative, -negative_weights))
    parameters = (*terms.biases.values(), *(link.weight for link in terms.links))
    difference = MeanEnergyDifference.apply(terms, phases, *parameters)
    for (x, w), held in zip(phases, means, strict=True):
        for site, unit in terms.units.items():
            if any(value.requires_grad for value in unit.parameters.values()):
                # E[u] depends on the unit's parameters as A* does at fixed means.
                own = unit.conjugate(x[site]) if site in held else unit.potential(x[site])
                difference = difference + w @ own.sum(-1)
    return difference


class MeanEnergyDifference(torch.autograd.Function):
    """Σ weight · E(x) over phases and rows, without constant and potentials.

    It is linear in the parameters, so gradient and value, ⟨parameters, gradient⟩, are one
    computation.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's)
        terms: PairwiseTerms,
        phases: Sequence[Phase],
        *parameters: Tensor,
    ) -> Tensor:
        minus = [(x, -weights) for x, weights in phases]
        gradients = [
            functools.reduce(add, (weights @ x[site] for x, weights in minus))
            for site in terms.biases
        ]
        gradients += [link.moment(minus) for link in terms.links]
        ctx.save_for_backward(*gradients)
        products = (
            torch.dot(parameter.reshape(-1), gradient.reshape(-1))
            for parameter, gradient in zip(parameters, gradients, strict=True)
        )
        return functools.reduce(add, products)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradients = ctx.saved_tensors
        if float(scale) != 1:  # as `backward` calls it, a pass over all parameters is saved
            gradients = tuple(scale * gradient for gradient in gradients)
        return None, None, *gradients
