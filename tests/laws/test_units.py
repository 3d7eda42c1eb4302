"""What holds of every kind of unit; a new one joins by a row in UNITS."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_ebm.units import (
    Bernoulli,
    Categorical,
    Gaussian,
    QuadraticUnit,
    Spin,
    SpinDistribution,
    TruncatedGaussian,
    Unit,
)
from tests.support.goodness import chi_square
from tests.support.machines import FOUR, LEVELS, THREE, TWO

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


# --- labels --------------------------------------------------------------------------------------

LABELS = {"two": TWO, "three": THREE, "four": FOUR}
each_kind_of_labels = pytest.mark.parametrize("unit", LABELS.values(), ids=LABELS)


def label_fields(unit: Categorical, dtype: torch.dtype) -> Tensor:  # (rows, 5 units * labels)
    """Fields of five units in each row, extreme ones among them."""
    fields = torch.randn(40, 5 * unit.states, dtype=torch.float64) * 5
    fields[0], fields[1], fields[2, ::2], fields[3, 1::3] = 0, 300.0, 1000, -1000
    return fields.to(dtype)


def label_probabilities(unit: Categorical, field: Tensor) -> np.ndarray:  # (rows, units, labels)
    """ln p of each label, from the definition."""
    log_weights = field.double().numpy().reshape(len(field), -1, unit.states)
    return log_weights - np.logaddexp.reduce(log_weights, axis=-1, keepdims=True)


@each_kind_of_labels
def test_features_of_labels_are_one_hot_and_back(unit: Categorical) -> None:
    q = unit.states
    assert (unit.levels, unit.width, unit.square) == (LEVELS[unit], q, (0.0, 1.0))
    x = torch.randint(q, (7, 2, 5)).double()
    features = unit.features(x)
    assert features.shape == (7, 2, 5 * q)
    for i, a in np.ndindex(5, q):
        assert torch.equal(features[..., i * q + a], (x[..., i] == a).double())
    assert torch.equal(unit.values(features), x)
    assert unit.values(features.float()).dtype == torch.float32
    assert torch.equal(unit.potential(x), torch.zeros_like(x))
    assert torch.equal(unit.slope(x), torch.zeros_like(x))
    assert unit.support.check(torch.tensor(unit.levels)).all()
    outside = torch.tensor([-1.0, 0.5, q, math.nan, math.inf, -math.inf])
    assert not unit.support.check(outside).any()
    for shape in ((0, 5), (5,), (0,)):
        assert torch.equal(unit.values(unit.features(torch.zeros(shape))), torch.zeros(shape))


@each_dtype
@each_kind_of_labels
def test_what_a_field_makes_of_labels_is_the_definition(
    unit: Categorical, dtype: torch.dtype
) -> None:
    field, tolerance = label_fields(unit, dtype), 3 * DTYPES[dtype]
    log_p = label_probabilities(unit, field)
    p = np.exp(log_p)
    log_weights = field.double().numpy().reshape(p.shape)
    assert_near(unit.cumulant(field), np.logaddexp.reduce(log_weights, axis=-1), tolerance)
    assert_near(unit.mean(field), p.reshape(len(p), -1), tolerance)
    # Of a probability that rounds to 1 the variance is that of the others together.
    others = np.stack([np.delete(p, a, -1).sum(-1) for a in range(unit.states)], -1)
    assert_near(unit.variance(field), (p * others).reshape(len(p), -1), tolerance)
    law = unit.conditional(field)
    assert law.batch_shape == (len(p), 5)
    for a in range(unit.states):
        # The fields of 1000 have fewer digits behind the point.
        assert_near(law.log_prob(torch.full((), a)), log_p[..., a], 20 * tolerance)
    entropy = -(p * log_p).sum(-1)
    assert_near(-unit.conjugate(unit.mean(field)), entropy, 20 * tolerance)
    leaf = field.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(unit.cumulant(leaf).sum(), leaf)
    assert_near(gradient, p.reshape(len(p), -1), 20 * tolerance)


@each_dtype
@each_kind_of_labels
def test_a_field_is_found_for_the_means_of_labels(unit: Categorical, dtype: torch.dtype) -> None:
    mean = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(unit.states), 30), dtype=dtype)
    assert_near(unit.mean(unit.field(mean)), mean.double().numpy(), 10 * DTYPES[dtype])


@each_dtype
@each_kind_of_labels
def test_a_drawn_label_is_the_first_of_exponential_clocks(
    unit: Categorical, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Clocks of rates exp(field): the label whose rings first. Nothing is random here.
    field = label_fields(unit, dtype)[4:]
    waiting = torch.tensor(np.random.default_rng(1).exponential(size=field.shape), dtype=dtype)
    monkeypatch.setattr(Tensor, "exponential_", lambda empty: empty.copy_(waiting))
    times = waiting.double().log() - field.double()
    wanted = times.unflatten(-1, (-1, unit.states)).argmin(-1)
    found = unit.sample(field.clone())
    assert (found.dtype, found.shape) == (dtype, (len(field), 5))
    assert torch.equal(found.long(), wanted)


@each_dtype
@each_kind_of_labels
def test_labels_that_are_as_good_as_impossible_are_never_drawn(
    unit: Categorical, dtype: torch.dtype
) -> None:
    for height in (200.0, 1e4):
        field = torch.full((100_000, unit.states), -height, dtype=dtype)
        field[:, 1] = height
        assert bool((unit.sample(field) == 1).all())


@each_dtype
@each_kind_of_labels
def test_drawn_labels_follow_their_law(unit: Categorical, dtype: torch.dtype) -> None:
    # α = 1e-6, N = 200,000 in each of two ways: a probability off by 0.006 is found.
    count = 200_000
    field = torch.linspace(-2, 1, unit.states, dtype=dtype).repeat(2).expand(count, -1)
    p = np.exp(label_probabilities(unit, field[:1]))[0, 0]
    for draws in (unit.sample(field.clone()), unit.conditional(field).sample()):
        seen = np.bincount(draws.flatten().long().numpy(), minlength=unit.states) / (2 * count)
        assert (np.abs(seen - p) < 5.4 * np.sqrt(p * (1 - p) / (2 * count))).all()
        both = np.bincount((draws[:, 0] * unit.states + draws[:, 1]).long().numpy())
        assert chi_square(both, np.outer(p, p).ravel()) > 1e-6


# --- numbers -------------------------------------------------------------------------------------

REAL: dict[str, QuadraticUnit] = {
    "precision 1": Gaussian(),
    "precision 2.5": Gaussian(2.5),
    "a tensor": Gaussian(torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)),
    "rectified": TruncatedGaussian(1.5),
    "bounded": TruncatedGaussian(torch.tensor([0.5, 1.0, 4.0]).double(), low=-1.0, high=0.5),
}
each_kind_of_numbers = pytest.mark.parametrize("unit", REAL.values(), ids=REAL)


def in_dtype(unit: QuadraticUnit, dtype: torch.dtype) -> QuadraticUnit:
    if isinstance(unit.precision, Tensor):
        return unit.with_precision(unit.precision.to(dtype))
    return unit


def number_fields(dtype: torch.dtype = torch.float64) -> Tensor:  # (rows, 3)
    return torch.linspace(-4, 4, 21, dtype=dtype)[:, None] + torch.tensor([0.0, 0.3, -0.2]).to(
        dtype
    )


def integral(unit: QuadraticUnit, field: Tensor, power: int) -> np.ndarray:  # like field
    """∫ x^power exp(field x − ½ λ x²) over the bounds, by Gauss and Legendre's rule."""
    precision = np.broadcast_to(np.asarray(unit.precision, dtype=float), field.shape[-1:])
    nodes, weights = np.polynomial.legendre.leggauss(400)
    low, high = np.clip(unit.bounds, -25.0, 25.0)
    x = (low + high + (high - low) * nodes) / 2
    exponents = field.numpy()[..., None] * x - precision[:, None] * x**2 / 2
    return (np.exp(exponents) * x**power) @ weights * (high - low) / 2


@each_dtype
@each_kind_of_numbers
def test_what_a_field_makes_of_numbers_is_the_definition(
    unit: QuadraticUnit, dtype: torch.dtype
) -> None:
    field = number_fields(dtype)
    own, tolerance = in_dtype(unit, dtype), 1e-10 if dtype == torch.float64 else 2e-4
    total, first, second = (integral(unit, field.double(), k) for k in range(3))
    mean = first / total
    assert_near(own.cumulant(field), np.log(total), tolerance)
    assert_near(own.mean(field), mean, tolerance)
    assert_near(own.variance(field), second / total - mean**2, tolerance)
    assert own.variance(field).shape == own.mean(field).shape == field.shape
    law = own.conditional(field)
    assert law.batch_shape == field.shape
    assert_near(law.mean, mean, tolerance)
    assert_near(law.variance, second / total - mean**2, tolerance)
    low, high = np.clip(unit.bounds, -2, 2)
    precision = np.asarray(unit.precision, dtype=float)
    for value in np.linspace(low, high, 5):
        x = torch.full((), value, dtype=dtype)
        wanted = field.double().numpy() * value - precision * value**2 / 2 - np.log(total)
        assert_near(law.log_prob(x), wanted, tolerance * 10)
        like = torch.full((1, 3), value, dtype=dtype)
        assert_near(own.potential(like), precision * value**2 / 2 + np.zeros((1, 3)), 1e-6)
        assert_near(own.slope(like), precision * value + np.zeros((1, 3)), 1e-6)


@each_kind_of_numbers
def test_the_conjugate_of_the_cumulant_is_the_mean_potential_less_the_entropy(
    unit: QuadraticUnit,
) -> None:
    field = number_fields()
    total, second = integral(unit, field, 0), integral(unit, field, 2)
    precision = np.asarray(unit.precision, dtype=float)
    mean = unit.mean(field)
    log_p_mean = field.numpy() * mean.numpy() - precision * second / total / 2 - np.log(total)
    assert_near(unit.conjugate(mean), precision * second / total / 2 + log_p_mean, 1e-9)
    assert_near(unit.field(mean), field.numpy(), 1e-7)
    leaf = field.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(unit.cumulant(leaf).sum(), leaf)
    assert_near(gradient, mean.numpy(), 1e-12)


@each_kind_of_numbers
def test_numbers_have_features_of_their_own_and_no_levels(unit: QuadraticUnit) -> None:
    x = torch.randn(4, 3)
    assert unit.features(x) is x
    assert unit.values(x) is x
    assert (unit.width, unit.levels, unit.square, unit.has_potential) == (1, None, None, True)


@each_kind_of_numbers
def test_a_part_of_units_has_their_precisions(unit: QuadraticUnit) -> None:
    field = number_fields()
    for some in (slice(1, 2), slice(None), torch.tensor([2, 0])):
        assert_near(unit.part(some).mean(field[:, some]), unit.mean(field)[:, some].numpy(), 1e-15)
    (name,) = unit.parameters
    again = unit.with_parameters(unit.parameters)
    assert (name, type(again), again.bounds) == ("log_precision", type(unit), unit.bounds)
    assert_near(again.cumulant(field), unit.cumulant(field).numpy(), 1e-13)


@each_kind_of_numbers
def test_a_weighted_sum_of_potentials_is_a_unit_of_the_kind(unit: QuadraticUnit) -> None:
    other = unit.with_precision(torch.tensor([2.0, 0.3, 1.0], dtype=torch.float64))
    weights = torch.tensor([[0.2], [0.5], [1.0]]).double(), torch.tensor(0.7).double()
    both = unit.combined([(weights[0], unit), (weights[1], other)])
    x = torch.rand(3, 3, dtype=torch.float64) / 3
    wanted = weights[0] * unit.potential(x) + weights[1] * other.potential(x)
    assert_near(both.potential(x), wanted.numpy(), 1e-14)
    with pytest.raises(ValueError, match="different kinds"):
        unit.combined([(weights[1], unit), (weights[1], Bernoulli())])
    with pytest.raises(ValueError, match="different kinds"):
        unit.combined([(weights[1], unit), (weights[1], TruncatedGaussian(low=-3.0, high=3.0))])


@each_dtype
@each_kind_of_numbers
def test_drawn_numbers_follow_their_law(unit: QuadraticUnit, dtype: torch.dtype) -> None:
    # α = 1e-6, N = 20,000 for each of three units in each of two ways.
    field = torch.tensor([0.7, -1.2, 0.3], dtype=dtype).expand(20_000, 3)
    own, (low, high) = in_dtype(unit, dtype), unit.bounds
    for draws in (own.sample(field.clone()), own.conditional(field).sample()):
        assert (draws.dtype, draws.shape) == (dtype, field.shape)
        assert bool(((draws >= low) & (draws <= high)).all())
        for i in range(3):
            precision = float(torch.as_tensor(unit.precision).expand(3)[i])
            mean, width = float(field[0, i]) / precision, precision**-0.5
            law = stats.truncnorm((low - mean) / width, (high - mean) / width, mean, width)
            column = draws[:, i].double().numpy()
            assert stats.kstest(column, law.cdf).pvalue > 1e-6 / 6


@each_dtype
def test_extreme_fields_of_numbers_stay_finite(dtype: torch.dtype) -> None:
    field = torch.tensor([-1e4, -300.0, 0.0, 300.0, 1e4], dtype=dtype)
    for unit in REAL.values():
        one = unit.with_precision(torch.tensor(2.0, dtype=dtype))
        draws = one.sample(field.clone())
        for value in (one.cumulant(field), one.mean(field), one.variance(field), draws):
            assert bool(value.isfinite().all())
        low, high = one.bounds
        assert bool(((draws >= low) & (draws <= high)).all())
