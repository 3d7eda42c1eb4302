"""Gradients of log Z in a full matrix that is given, its diagonal among them.

log Z is −ln Σ exp(−E) with E = −½ (x−x̂)ᵀW(x−x̂) − bᵀx + Σ u(x), so ∂ log Z / ∂W is
½ E[(x−x̂)(x−x̂)ᵀ], by enumeration, or of Gaussian units by their covariance.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin, TruncatedGaussian, Unit
from tests.support.checks import distance
from tests.support.machines import COUNT, LEVELS

DOUBLE = torch.float64
UNITS: dict[str, tuple[Unit, int, int]] = {
    "bits": (Bernoulli(), 3, 1),
    "spins": (Spin(), 3, 1),
    "labels": (Categorical(3), 2, 3),
}


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def log_z(unit: Unit, bias: Tensor, offset: Tensor) -> Callable[[Tensor], Tensor]:
    """log Z of a machine as a function of its full matrix, which is given."""
    count = len(bias) // unit.width

    def function(weight: Tensor) -> Tensor:
        # A tensor with a history, not a parameter: its diagonal is folded, and followed.
        machine = BoltzmannMachine.fully_visible(
            count, unit=unit, couplings=1 * weight, biases=bias, offset=offset
        )
        return exact.log_partition(machine)

    return function


def enumerated(unit: Unit, bias: Tensor, offset: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """log Z, and ½ E[(x−x̂)(x−x̂)ᵀ]."""
    count = len(bias) // unit.width
    x = torch.tensor(list(itertools.product(LEVELS[unit], repeat=count)), dtype=DOUBLE)
    if unit.width > 1:
        x = torch.nn.functional.one_hot(x.long(), unit.width).flatten(1).double()
    moved = x - offset
    log_weights = ((moved @ weight) * moved).sum(-1) / 2 + x @ bias
    p = log_weights.softmax(0)
    return log_weights.logsumexp(0), (moved * p[:, None]).mT @ moved / 2


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("centred", [False, True])
def test_log_z_and_its_gradient_are_those_of_the_formula(name: str, centred: bool) -> None:
    unit, count, width = UNITS[name]
    size = count * width
    bias, offset = normal(size), normal(size, seed=4) * centred
    weight = normal(size, size, seed=5).requires_grad_()
    found = log_z(unit, bias, offset)(weight)
    value, wanted = enumerated(unit, bias, offset, weight.detach())
    assert distance(found, value) < 1e-12
    (gradient,) = torch.autograd.grad(found, weight)
    assert distance(gradient, wanted) < 1e-12
    assert torch.autograd.gradcheck(log_z(unit, bias, offset), weight)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("centred", [False, True])
def test_the_gradient_in_a_diagonal_of_zeros_is_that_of_a_precision(
    size: int, centred: bool
) -> None:
    precision = torch.linspace(1.0, 2.0, size, dtype=DOUBLE)
    bias, offset = normal(size), normal(size, seed=4) * centred
    both = 0.2 * normal(size, size, seed=5)
    weight = (both + both.mT).fill_diagonal_(0).requires_grad_()
    found = log_z(Gaussian(precision), bias, offset)(weight)
    # N with the precision P = diag(λ) − W and the mean P⁻¹ (b − W x̂).
    joint = precision.diag() - weight.detach()
    mean = torch.linalg.solve(joint, bias - weight.detach() @ offset)
    moved = mean - offset
    wanted = (torch.linalg.inv(joint) + moved[:, None] * moved) / 2
    (gradient,) = torch.autograd.grad(found, weight)
    assert distance(gradient, wanted) < 1e-12


def test_one_gaussian_unit_coupled_to_itself_by_zero() -> None:
    weight = torch.zeros(1, 1, dtype=DOUBLE, requires_grad=True)
    zero = torch.zeros(1, dtype=DOUBLE)
    (gradient,) = torch.autograd.grad(log_z(Gaussian(), zero, zero)(weight), weight)
    assert float(gradient) == pytest.approx(0.5, abs=1e-12)


def test_the_energy_follows_a_diagonal_of_zeros_too() -> None:
    weight = torch.zeros(2, 2, dtype=DOUBLE, requires_grad=True)
    for unit in (Gaussian(2.0), TruncatedGaussian(2.0, low=0.0)):
        machine = BoltzmannMachine.fully_visible(2, unit=unit, couplings=1 * weight).double()
        x = torch.tensor([0.3, 1.2], dtype=DOUBLE)
        (gradient,) = torch.autograd.grad(machine(x), weight)
        assert distance(gradient, -x[:, None] * x / 2) < 1e-12
        law = machine.conditional("visible", {"visible": x}, torch.tensor([1]))
        assert law.log_prob(x[1:]).isfinite().all()


def test_a_diagonal_of_a_unit_of_three_levels_is_refused_and_zeros_are_taken() -> None:
    with pytest.raises(ValueError, match="Set the diagonal to zero"):
        log_z(COUNT, normal(2), torch.zeros(2).double())(torch.eye(2, dtype=DOUBLE))
    hollow = torch.tensor([[0.0, 0.4], [0.4, 0.0]], dtype=DOUBLE)
    found = log_z(COUNT, torch.zeros(2).double(), torch.zeros(2).double())(hollow)
    weights = torch.tensor([[1.0, 2.0, 1.0]], dtype=DOUBLE)
    levels = torch.arange(3, dtype=DOUBLE)
    wanted = (weights * weights.mT * (0.4 * levels[:, None] * levels).exp()).sum().log()
    assert distance(found, wanted) < 1e-12
