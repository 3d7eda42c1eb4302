"""What holds of every kind of unit; a new one joins by a row in UNITS."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_ebm.units import Bernoulli, Spin, SpinDistribution, Unit
from tests.machines import LEVELS

UNITS: dict[str, Unit] = {"bernoulli": Bernoulli(), "spin": Spin()}
DTYPES = {torch.float32: 1e-6, torch.float64: 1e-13}  # and how far from the definition
FIELDS = torch.cat([torch.linspace(-30, 30, 61), torch.tensor([-1000.0, 0.3, 1000.0])])

each_unit = pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def by_definition(unit: Unit, field: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A(field), and ln p of each level (levels, fields), from the values alone."""
    levels = np.array(LEVELS[unit])[:, None]
    log_weights = levels * field.double().numpy()
    cumulant = np.logaddexp.reduce(log_weights, axis=0)
    return cumulant, log_weights - cumulant


def assert_near(found: Tensor, wanted: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(
        found.double(), torch.as_tensor(wanted), rtol=tolerance, atol=tolerance
    )


@each_unit
def test_levels_support_and_square_agree(unit: Unit) -> None:
    assert unit.levels == LEVELS[unit]
    assert unit.support.check(torch.tensor(unit.levels)).all()
    assert not unit.support.check(torch.tensor([0.5, 2.0, -2.0, math.nan])).any()
    constant, slope = unit.square
    assert all(value**2 == constant + slope * value for value in unit.levels)


@each_unit
def test_features_and_potential_are_those_of_the_law(unit: Unit) -> None:
    x = torch.tensor(unit.levels)
    assert unit.width == 1
    assert torch.equal(unit.features(x), x)
    assert torch.equal(unit.potential(x), torch.zeros(2))


@each_dtype
@each_unit
def test_cumulant_mean_and_conditional_are_those_of_the_law(unit: Unit, dtype: torch.dtype) -> None:
    field = FIELDS.to(dtype)
    cumulant, log_prob = by_definition(unit, field)
    levels = np.array(LEVELS[unit])[:, None]
    mean = (np.exp(log_prob) * levels).sum(0)
    tolerance = DTYPES[dtype]
    assert_near(unit.cumulant(field), cumulant, tolerance)
    assert_near(unit.mean(field), mean, tolerance)
    law = unit.conditional(field)
    assert law.batch_shape == field.shape
    assert law.support is unit.support
    values = torch.tensor(levels, dtype=dtype).expand(2, len(field))
    assert_near(law.log_prob(values), log_prob, tolerance)
    assert_near(law.mean, mean, tolerance)
    variance = (np.exp(log_prob) * (levels - mean) ** 2).sum(0)
    assert_near(law.variance, variance, 10 * tolerance)


@each_dtype
@each_unit
def test_entropy_is_minus_the_expected_log_probability(unit: Unit, dtype: torch.dtype) -> None:
    field = FIELDS.to(dtype)
    _, log_prob = by_definition(unit, field)
    wanted = -(np.exp(log_prob) * log_prob).sum(0)
    found = -unit.conjugate(unit.mean(field))
    assert_near(found, wanted, 20 * DTYPES[dtype])
    assert bool((found >= 0).all())
    assert_near(unit.conditional(field).entropy(), wanted, 20 * DTYPES[dtype])


@each_dtype
@each_unit
def test_the_gradient_of_the_cumulant_is_the_mean(unit: Unit, dtype: torch.dtype) -> None:
    field = FIELDS.to(dtype, copy=True).requires_grad_()
    (gradient,) = torch.autograd.grad(unit.cumulant(field).sum(), field)
    assert_near(gradient, unit.mean(field.detach()).double().numpy(), DTYPES[dtype])


@each_dtype
@each_unit
def test_extreme_fields_stay_finite(unit: Unit, dtype: torch.dtype) -> None:
    field = torch.tensor([-1e4, -1e3, -89.0, 0.0, 89.0, 1e3, 1e4], dtype=dtype, requires_grad=True)
    law = unit.conditional(field)
    values = (
        unit.cumulant(field),
        unit.mean(field),
        law.log_prob(torch.full_like(field, unit.levels[0])),
        law.log_prob(torch.full_like(field, unit.levels[1])),
        law.entropy(),
    )
    for value in values:
        assert bool(value.isfinite().all())
        (gradient,) = torch.autograd.grad(value.sum(), field, retain_graph=True)
        assert bool(gradient.isfinite().all())
    certain = unit.sample(field.detach().clone())
    assert certain[:2].tolist() == [unit.levels[0]] * 2
    assert certain[-2:].tolist() == [unit.levels[1]] * 2


@each_dtype
@each_unit
def test_a_draw_is_up_where_the_uniform_is_below_the_probability(
    unit: Unit, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Uniforms on a grid, against the probability that `conditional` says: nothing is random here.
    field = torch.linspace(-6, 6, 97, dtype=dtype)[:, None].expand(97, 1024).clone()
    uniform = ((torch.arange(1024, dtype=dtype) + 0.5) / 1024).expand(97, 1024)
    monkeypatch.setattr(torch, "rand_like", lambda like: uniform.to(like.dtype).clone())
    low, high = unit.levels
    p = unit.conditional(field).log_prob(torch.full_like(field, high)).exp()
    found = unit.sample(field.clone())
    assert found.dtype == dtype
    assert set(found.unique().tolist()) == {low, high}
    assert torch.equal(found == high, uniform < p)


@each_dtype
@each_unit
def test_draws_keep_the_shape_of_the_field(unit: Unit, dtype: torch.dtype) -> None:
    for shape in ((), (3,), (2, 3), (2, 3, 4), (0, 3)):
        draws = unit.sample(torch.zeros(shape, dtype=dtype))
        assert (draws.shape, draws.dtype) == (torch.Size(shape), dtype)
    transposed = torch.zeros(5, 3, dtype=dtype).mT
    assert unit.sample(transposed).shape == (3, 5)


@each_unit
def test_draws_of_conditional_and_of_sample_follow_one_law(unit: Unit) -> None:
    # α = 1e-6, N = 100,000 for each of 9 fields: a probability off by 0.011 is found.
    count = 100_000
    field = torch.linspace(-2, 2, 9, dtype=torch.float64).expand(count, 9)
    p = np.exp(by_definition(unit, field[0])[1][1])
    for draws in (unit.sample(field.clone()), unit.conditional(field).sample()):
        share = (draws == unit.levels[1]).double().mean(0).numpy()
        limit = 5.4 * np.sqrt(p * (1 - p) / count)  # 1e-6 / 18, on both sides
        assert (np.abs(share - p) < limit).all()


# --- the distribution of a spin ------------------------------------------------------------------


def test_probabilities_of_a_spin_sum_to_one() -> None:
    law = SpinDistribution(FIELDS.double())
    total = law.log_prob(law.enumerate_support()).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)


def test_the_support_of_a_spin_is_enumerated_in_pyro_s_shapes() -> None:
    law = SpinDistribution(torch.zeros(3, 2))
    assert law.has_enumerate_support
    assert law.enumerate_support().shape == (2, 3, 2)
    assert law.enumerate_support(expand=False).shape == (2, 1, 1)
    assert law.enumerate_support(expand=False).flatten().tolist() == [-1, 1]
    assert SpinDistribution(torch.zeros(())).enumerate_support().tolist() == [-1, 1]


def test_a_spin_expands_and_samples_in_pyro_s_shapes() -> None:
    law = SpinDistribution(torch.tensor([0.5, -0.5])).expand((4, 2))
    assert law.batch_shape == (4, 2)
    assert law.event_shape == ()
    draws = law.sample((3,))
    assert draws.shape == (3, 4, 2)
    assert law.log_prob(draws).shape == (3, 4, 2)
    event = law.to_event(1)
    assert event.log_prob(draws).shape == (3, 4)
    masked = law.mask(torch.tensor(False))
    assert float(masked.log_prob(draws).abs().sum()) == 0


def test_a_spin_is_a_bit_written_differently() -> None:
    field = torch.linspace(-3, 3, 7, dtype=torch.float64)
    spin, bit = SpinDistribution(field), dist.Bernoulli(logits=2 * field)
    for value in (0.0, 1.0):
        bits = torch.full_like(field, value)
        torch.testing.assert_close(spin.log_prob(2 * bits - 1), bit.log_prob(bits))
    torch.testing.assert_close(spin.variance, 4 * bit.variance)
    torch.testing.assert_close(spin.entropy(), bit.entropy())


def test_a_spin_refuses_other_values_and_fields() -> None:
    law = SpinDistribution(torch.zeros(2), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="field"):
        SpinDistribution(torch.tensor([math.nan]), validate_args=True)


def test_the_gradient_reaches_the_field_of_a_spin() -> None:
    field = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1.0, -1.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(SpinDistribution(field).log_prob(value).sum(), field)
    torch.testing.assert_close(gradient, value - field.detach().tanh())
