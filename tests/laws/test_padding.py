"""Labels past the end of a sequence never count, whatever they are padded with."""

import math

import pytest
import torch

from pyro_ebm import mode
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import RandomField, clamp
from pyro_ebm.kernels import Gibbs, GibbsWithGradients, run
from pyro_ebm.partition import exact
from tests.support.checks import distance

PADS = [0, 1, 2, -1, -100, math.nan]


def chains() -> tuple[RandomField, torch.Tensor, torch.Tensor]:
    """Sequences of three steps and of one, of two labels, and their tables."""
    generator = torch.Generator().manual_seed(3)
    unary = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    pairwise = torch.randn(1, 2, 2, generator=generator, dtype=torch.float64)
    field = RandomField.chain(unary, pairwise, lengths=torch.tensor([3, 1]))
    return field, unary, pairwise


def labels(pad: float) -> torch.Tensor:
    return torch.tensor([[0, 1, 1], [1, pad, pad]], dtype=torch.float64)


@pytest.mark.parametrize("pad", PADS)
def test_log_probabilities_are_those_of_the_sequences(pad: float) -> None:
    field, unary, pairwise = chains()
    x = labels(pad)
    # The second sequence is one step: ln p = u(1) − ln Σ exp u.
    first = exact.log_prob(RandomField.chain(unary[0], pairwise), x[0])
    wanted = torch.stack([first, unary[1, 0, 1] - unary[1, 0].logsumexp(-1)])
    for found in (
        exact.log_prob(field, x),
        -field(x) - exact.log_partition(field),
        EnergyDistribution(field).log_prob(x),
        EnergyDistribution(field, validate_args=False).log_prob(x),
        exact.log_prob(2.0 * (0.5 * field), x),
    ):
        assert distance(found, wanted) < 1e-12


@pytest.mark.parametrize("pad", PADS)
def test_what_is_held_of_a_sequence_is_padded_too(pad: float) -> None:
    field, _, _ = chains()
    x = labels(pad)
    held = clamp(field, x, mask=torch.tensor([True, False, True]))
    free = x[:, 1:2]
    assert held.complete({"visible": free})["visible"][1].tolist() == [1, 2, 2]
    found = exact.log_prob(held, free) + exact.log_partition(held) - exact.log_partition(field)
    assert distance(found, exact.log_prob(field, x)) < 1e-12


@pytest.mark.parametrize("pad", PADS)
def test_chains_may_start_at_padded_data(pad: float) -> None:
    field, _, _ = chains()
    for kernel in (Gibbs(), GibbsWithGradients()):
        found = run(kernel, field, 3, warmup=0, initial={"visible": labels(pad)})
        assert bool((found.draws["visible"][1, :, 1:] == 2).all())


def test_a_label_past_the_end_within_a_sequence_is_impossible() -> None:
    field, unary, pairwise = chains()
    x = torch.tensor([[0, 2, 1], [2, 0, 0]])
    assert exact.log_prob(field, x).tolist() == [-math.inf] * 2
    one = RandomField.chain(unary[1], pairwise, lengths=torch.tensor(1))
    assert mode(one).x["visible"][1:].tolist() == [2, 2]
