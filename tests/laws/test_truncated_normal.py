"""A truncated normal law against extended-precision sums, scipy, and draws.

The references are sums of 1,200 nodes in numpy's long double (64 bits of mantissa on the machines
that have it), measured from the likeliest point of the interval.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_ebm.distributions import TruncatedNormal
from pyro_ebm.units import truncated_normal as subject
from tests.support.goodness import ALPHA

INF = math.inf
Law = tuple[float, float, float, float]  # location, scale, low, high


def grid() -> list[Law]:
    """Near and far tails on both sides, narrow and wide intervals, open ones."""
    laws: list[Law] = []
    for location, scale in ((0.0, 1.0), (0.3, 0.01), (-2.0, 30.0)):
        for near in (-1e3, -30, -8, -3, -1, -0.1, 0, 0.1, 3, 4.9, 5.1, 14.9, 15.1, 100, 1e3):
            for width in (1e-9, 0.9e-5, 1.1e-5, 1e-3, 0.5, 1.9, 2.1, 10, 3e3, INF):
                low = location + scale * near
                laws.append((location, scale, low, low + scale * width))
                high = location - scale * near
                laws.append((location, scale, high - scale * width, high))
    return [law for law in laws if law[2] < law[3]] + [(0.3, 2.0, -INF, INF)]


class Known(NamedTuple):
    """Of one law, in long double."""

    log_mass: np.longdouble  # ln ∫ exp(...) over the interval, 1 at the likeliest point, over σ
    log_normalizer: np.longdouble
    ahead: np.longdouble  # E[x] minus the likeliest point
    mean: np.longdouble
    variance: np.longdouble


def known(law: Law) -> Known:
    wide = np.longdouble
    location, scale, low, high = (wide(v) for v in law)
    origin = min(max(location, low), high)
    slope = (origin - location) / scale
    start, stop = (low - origin) / scale, (high - origin) / scale
    reach = wide(110) / (abs(slope) + np.sqrt(slope**2 + 110))  # there the density is exp(-55)
    start, stop = max(start, -reach), min(stop, reach)
    nodes, weights = (v.astype(wide) for v in np.polynomial.legendre.leggauss(100))
    edges = start + (stop - start) * np.arange(13).astype(wide) / 12
    half = (edges[1:] - edges[:-1])[:, None] / 2
    t = edges[:-1, None] + half * (1 + nodes)
    p = half * weights * np.exp(-t * (slope + t / 2))
    mass = p.sum()
    p = p / mass
    ahead = (p * t).sum()
    return Known(
        np.log(mass),
        np.log(mass) - slope**2 / 2 - np.log(2 * wide(np.pi)) / 2,
        scale * ahead,
        origin + scale * ahead,
        scale**2 * (p * (t - ahead) ** 2).sum(),
    )


GRID = grid()
KNOWN = [known(law) for law in GRID]
LAWS = torch.tensor(GRID, dtype=torch.float64).T


def law_of(values: Law, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(v, dtype=dtype) for v in values)


def worst(found: Tensor, name: str, floor: np.ndarray | float) -> float:
    """The largest error against `KNOWN`, relative where the value is above the floor."""
    wanted = np.array([getattr(k, name) for k in KNOWN])
    error = np.abs(found.numpy().astype(np.longdouble) - wanted)
    return float(np.nan_to_num(error / np.maximum(np.abs(wanted), floor), nan=np.inf).max())


DEVIATIONS = np.sqrt(np.array([k.variance for k in KNOWN]))
SCALES = np.array([law[1] for law in GRID])


def test_the_log_normaliser_is_exact_far_out_and_in_narrow_intervals() -> None:
    assert worst(subject.log_normalizer(*LAWS), "log_normalizer", 1e-3) < 1e-12
    assert worst(subject.log_mass(LAWS, subject.reference(*LAWS)), "log_mass", 1.0) < 1e-14


def test_the_mean_is_exact_relative_to_the_bound_and_inside() -> None:
    mean = subject.mean_of(*LAWS)
    assert worst(mean, "mean", SCALES * 1e-3) < 1e-13
    assert bool(((LAWS[2] <= mean) & (mean <= LAWS[3])).all())
    # With the bound at 0 the distance from it keeps all its digits.
    at_zero = (LAWS[2] == 0) | (LAWS[3] == 0)
    assert int(at_zero.sum()) >= 10
    wanted = np.array([k.ahead for k in KNOWN])
    error = np.abs(mean.numpy() - wanted)[at_zero.numpy() & (LAWS[0] == 0).numpy()]
    assert float(error.max()) < 1e-13


@pytest.mark.parametrize("location", [-1e3, -100.0, -16.0, -14.0, -3.0, 0.0, 3.0])
def test_a_rectified_mean_keeps_its_digits(location: float) -> None:
    law = (location, 1.0, 0.0, INF)
    found, wanted = float(subject.mean_of(*law_of(law))), float(known(law).mean)
    assert abs(found / wanted - 1) < 1e-12
    mirrored = float(subject.mean_of(*law_of((-location, 1.0, -INF, 0.0))))
    assert mirrored == -found


def test_the_variance_is_exact() -> None:
    assert worst(subject.variance_of(*LAWS), "variance", 0.0) < 1e-13


def test_float32_answers_are_the_float64_ones_rounded() -> None:
    laws = LAWS[:, ((LAWS[3] - LAWS[2]) > 1e-3 * (1 + LAWS[2].abs().nan_to_num(0, 0, 0)))]
    single = laws.float()
    for function in (subject.log_normalizer, subject.mean_of, subject.variance_of):
        found, wanted = function(*single), function(*single.double()).float()
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("law", [(0.0, 1.0, -1.0, 2.0), (1.0, 2.0, 3.0, 9.0), (0.0, 1.0, 4.0, 7.0)])
def test_scipy_says_the_same_where_it_is_not_far_out(law: Law) -> None:
    location, scale, low, high = law
    a, b = (low - location) / scale, (high - location) / scale
    theirs = stats.truncnorm(a, b, location, scale)
    ours = TruncatedNormal(*law_of(law))
    x = np.linspace(low, min(high, low + 3 * scale), 7)
    t = torch.tensor(x)
    assert np.allclose(ours.log_prob(t).numpy(), theirs.logpdf(x), rtol=1e-10, atol=1e-12)
    assert np.allclose(ours.cdf(t).numpy(), theirs.cdf(x), rtol=1e-10, atol=1e-12)
    assert np.allclose(ours.icdf(torch.tensor([0.2, 0.9])).numpy(), theirs.ppf([0.2, 0.9]), 1e-7)
    assert math.isclose(float(ours.entropy()), theirs.entropy(), rel_tol=1e-8)
    assert math.isclose(float(ours.variance), theirs.var(), rel_tol=1e-8)


@pytest.mark.parametrize(
    "law",
    [(0.0, 1.0, -1.0, 2.0), (-40.0, 1.0, 0.0, INF), (1e3, 1.0, -INF, 0.0), (2.0, 3.0, -INF, INF)],
)
def test_densities_integrate_to_one_and_to_the_entropy(law: Law) -> None:
    ours = TruncatedNormal(*law_of(law))
    spread = float(ours.variance.sqrt())
    low = max(law[2], float(ours.mean) - 45 * spread)
    high = min(law[3], float(ours.mean) + 45 * spread)

    def log_density(x: float) -> float:
        return float(ours.log_prob(torch.tensor(x, dtype=torch.float64)))

    def total(weight: Callable[[float], float]) -> float:
        points = sorted({low, float(ours.mean), high})
        parts = itertools.pairwise(points)
        return sum(
            integrate.quad(
                lambda x: math.exp(log_density(x)) * weight(log_density(x)), a, b, epsrel=1e-12
            )[0]
            for a, b in parts
        )

    assert math.isclose(total(lambda _: 1.0), 1, rel_tol=1e-9)
    assert math.isclose(total(lambda v: -v), float(ours.entropy()), rel_tol=1e-8)


# --- the cumulant of a unit in a field -----------------------------------------------------------


@pytest.mark.parametrize("field", [-1e3, -20.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("high", [2.0, INF])
def test_the_log_integral_is_the_cumulant_of_a_rectified_unit(field: float, high: float) -> None:
    f, s = torch.tensor(field, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    found = float(subject.log_integral(f, s, *law_of((0.0, high, 0, 0))[:2]))
    peak = min(max(field * 0.49, 0.0), high)
    top = field * peak - peak**2 / 0.98
    stop = min(high, peak + 60 / (abs(field) + 5))
    value, _ = integrate.quad(
        lambda x: math.exp(field * x - x**2 / 0.98 - top), 0, stop, points=[peak], epsrel=1e-13
    )
    assert math.isclose(found, top + math.log(value), rel_tol=1e-11)


def test_the_gradient_of_the_log_integral_is_the_mean() -> None:
    field = torch.linspace(-1e3, 30, 200, dtype=torch.float64, requires_grad=True)
    rest = law_of((0.7, 0.0, INF, 0))[:3]
    (gradient,) = torch.autograd.grad(subject.log_integral(field, *rest).sum(), field)
    mean = subject.mean_of(field.detach() * 0.49, *rest)
    assert torch.allclose(gradient, mean, rtol=1e-12, atol=0)


# --- gradients -----------------------------------------------------------------------------------

FINITE = [
    (0.0, 1.0, -1.0, 2.0),
    (0.0, 1.0, 3.0, 4.0),
    (0.0, 1.0, 20.0, 21.0),
    (0.0, 1.0, -25.0, -20.0),
    (0.5, 2.0, 6.0, 6.3),
    (0.0, 1.0, -0.3, 0.4),
    (0.0, 1.0, -6.0, -4.5),
]


def leaves(laws: list[Law]) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in torch.tensor(laws, dtype=torch.float64).T]


@pytest.mark.parametrize(
    "function",
    [subject.log_normalizer, subject.mean_of, subject.variance_of],
    ids=lambda f: f.__name__,
)
def test_gradients_with_respect_to_all_four_are_finite_differences(
    function: Callable[..., Tensor],
) -> None:
    assert torch.autograd.gradcheck(function, leaves(FINITE), rtol=1e-5, atol=1e-7)


def test_densities_and_quantiles_have_their_gradients() -> None:
    inside = torch.tensor([0.1, 3.3, 20.02, -20.03, 6.1, 0.3, -4.6], dtype=torch.float64)
    check = torch.autograd.gradcheck
    law = leaves(FINITE)
    assert check(subject.log_density, [inside.requires_grad_(), *law], rtol=1e-5, atol=1e-7)
    share = torch.tensor([0.1, 0.3, 0.5, 0.9, 0.2, 0.7, 0.6], dtype=torch.float64)
    assert check(subject.quantile, [share.requires_grad_(), *law], rtol=1e-4, atol=1e-5)
    assert torch.autograd.gradgradcheck(subject.log_normalizer, law, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, INF), (-INF, 0.0), (-INF, INF)])
def test_gradients_are_finite_at_open_ends_and_far_out(low: float, high: float) -> None:
    far = torch.tensor([-1e3, -50.0, -3.0, 0.0, 2.0, 50.0, 1e3], dtype=torch.float64)
    functions = {
        "log_normalizer": subject.log_normalizer,
        "mean": subject.mean_of,
        "variance": subject.variance_of,
        "quantile": lambda *law: subject.quantile(torch.tensor(0.3, dtype=torch.float64), *law),
        "density": lambda *law: subject.log_density(torch.zeros((), dtype=torch.float64), *law),
    }
    for name, function in functions.items():
        law = [far.clone(), torch.full_like(far, 1.3), *law_of((low, high, 0, 0))[:2]]
        law = [x.requires_grad_() for x in law]
        value = function(*law)
        gradients = torch.autograd.grad(value.sum(), law)
        assert bool(value.isfinite().all()), name
        assert all(bool(g.isfinite().all()) for g in gradients), name
        near = far[1:6].clone().requires_grad_()
        scale = torch.full_like(near, 1.3).requires_grad_()
        ends = [x.detach() for x in law[2:]]
        assert torch.autograd.gradcheck(
            lambda a, b, f=function, e=ends: f(a, b, *e), (near, scale), rtol=1e-4, atol=1e-5
        ), name


# --- draws ---------------------------------------------------------------------------------------

DRAWS = 100_000
DRAWN: dict[str, Law] = {
    "around the peak": (0.0, 1.0, -1.0, 2.0),
    "rectified": (0.0, 1.0, 0.0, INF),
    "rectified, on": (3.0, 2.0, 0.0, INF),
    "rectified, off": (-6.0, 1.0, 0.0, INF),
    "rectified, far off": (-1e3, 1.0, 0.0, INF),
    "far below": (0.0, 1.0, -INF, -40.0),
    "far and narrow": (0.0, 1.0, 1000.0, 1000.0005),
    "narrow": (0.0, 1.0, 5.0, 5.000001),
    "just above the switch": (0.0, 1.0, 5.01, 7.0),
    "just below the switch": (0.0, 1.0, 4.99, 7.0),
    "mirrored": (0.0, 1.0, -25.0, -20.0),
    "all": (1.0, 3.0, -INF, INF),
}


def kolmogorov(law: Law, count: int = DRAWS) -> float:
    """The p-value of draws against the distribution function."""
    ours = TruncatedNormal(*law_of(law))
    return float(stats.kstest(ours.cdf(ours.sample((count,))).numpy(), "uniform").pvalue)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_the_law(name: str) -> None:
    # α = 1e-6, N = 100,000: a distribution function off by 0.009 somewhere is found.
    assert kolmogorov(DRAWN[name]) > ALPHA


@pytest.mark.parametrize("name", DRAWN)
def test_the_distribution_function_is_the_integral_and_its_inverse_the_inverse(name: str) -> None:
    law = DRAWN[name]
    ours = TruncatedNormal(*law_of(law))
    share = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    x = ours.icdf(share)
    assert torch.allclose(ours.cdf(x), share, rtol=0, atol=1e-9)
    moved = x.clone().requires_grad_()
    (density,) = torch.autograd.grad(ours.cdf(moved).sum(), moved)
    assert torch.allclose(density.log(), ours.log_prob(x), rtol=0, atol=1e-9)
    # Long doubles: the mass below x is that of a law cut at x.
    below = float(np.exp(known((*law[:3], float(x[7]))).log_normalizer - known(law).log_normalizer))
    assert math.isclose(below, float(share[7]), rel_tol=1e-6 if "narrow" in name else 1e-9)


FAULTS = [
    ("no tail", "far below"),
    ("no tail", "rectified, far off"),
    ("no Newton step", "just above the switch"),
    ("not turned", "mirrored"),
    ("exponential tail", "just above the switch"),
]


def misses(fault: str, name: str) -> bool:
    """Whether the test of the draws passes with a fault planted."""
    with pytest.MonkeyPatch.context() as patch:
        if fault == "no tail":
            patch.setattr(subject, "TAIL", INF)
        if fault == "no Newton step":
            patch.setattr(subject, "range", lambda _: (), raising=False)
        if fault == "not turned":
            right = subject.standardised
            patch.setattr(
                subject, "standardised", lambda *law: right(*law)._replace(turned=law[0] != law[0])
            )
        if fault == "exponential tail":
            patch.setattr(
                subject,
                "ahead_in_tail",
                lambda near, far, width, share: (
                    -torch.log1p(share * torch.expm1(-near * width)) / near
                ),
            )
        draws = subject.draw(*(x.expand(DRAWS) for x in law_of(DRAWN[name])))
    share = TruncatedNormal(*law_of(DRAWN[name])).cdf(draws).nan_to_num(2.0).numpy()
    return stats.kstest(share, "uniform").pvalue > ALPHA


@pytest.mark.parametrize(("fault", "name"), FAULTS)
def test_a_fault_in_the_draws_is_found(fault: str, name: str) -> None:
    assert not misses(fault, name)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "name"), FAULTS)
def test_a_fault_in_the_draws_is_found_again_and_again(fault: str, name: str) -> None:
    assert sum(not misses(fault, name) for _ in range(20)) >= 19


def median_error() -> float:
    """By how much the median of a law just before the switch to Newton's method is missed."""
    law = law_of((0.0, 1.0, 4.9, INF))
    median = subject.quantile(torch.tensor(0.5, dtype=torch.float64), *law)
    return abs(float(TruncatedNormal(*law).cdf(median)) - 0.5)


def test_the_tail_before_the_switch_is_exact() -> None:
    assert median_error() < 5e-13


@pytest.mark.parametrize("fault", ["no series", "no narrow sum", "torch's ndtr"])
def test_a_fault_in_the_sums_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "no series":
        monkeypatch.setattr(subject, "FAR", 1e4)
        wanted = float(known((-1e3, 1.0, 0.0, INF)).mean)
        found = float(subject.mean_of(*law_of((-1e3, 1.0, 0.0, INF))))
        assert abs(found / wanted - 1) > 1e-12
    if fault == "no narrow sum":
        monkeypatch.setattr(subject, "NARROW", -1.0)
        mass = subject.log_mass(LAWS, subject.reference(*LAWS))
        assert worst(mass, "log_mass", 1.0) > 1e-14
        assert worst(subject.mean_of(*LAWS), "mean", SCALES * 1e-3) > 1e-13
    if fault == "torch's ndtr":
        monkeypatch.setattr(subject, "upper_tail", lambda z: torch.special.ndtr(-z))
        assert median_error() > 5e-13


def test_float32_draws_stay_inside_and_follow_the_law() -> None:
    for law in (DRAWN["rectified, far off"], DRAWN["around the peak"], (0.0, 1.0, 0.1, 0.3)):
        ours = TruncatedNormal(*law_of(law, torch.float32))
        draws = ours.sample((20_000,))
        assert draws.dtype == torch.float32
        assert bool(ours.support.check(draws).all())
        exact = TruncatedNormal(*(x.double() for x in ours.law))
        assert stats.kstest(exact.cdf(draws.double()).numpy(), "uniform").pvalue > ALPHA


def test_draws_are_independent_along_the_batch() -> None:
    # α = 1e-6, N = 40,000 pairs: a correlation of 0.025 is found.
    ours = TruncatedNormal(torch.tensor([-8.0, -8.0]).double(), 1.0, 0.0, INF)
    draws = ours.sample((40_000,))
    found = np.corrcoef(stats.rankdata(draws[:, 0]), stats.rankdata(draws[:, 1]))[0, 1]
    assert abs(found) < 4.9 / math.sqrt(40_000)


# --- a guest of Pyro -----------------------------------------------------------------------------


def test_it_expands_masks_and_joins_events_as_pyro_wants() -> None:
    law = TruncatedNormal(torch.zeros(2), 1.0, 0.0, INF)
    wide = law.expand((4, 2))
    assert (wide.batch_shape, wide.event_shape) == ((4, 2), ())
    draws = wide.sample((3,))
    assert draws.shape == wide.log_prob(draws).shape == (3, 4, 2)
    assert wide.mean.shape == wide.entropy().shape == (4, 2)
    assert law.to_event(1).log_prob(draws).shape == (3, 4)
    assert float(law.mask(torch.tensor(False)).log_prob(draws[0, 0]).abs().sum()) == 0
    assert law.sample().shape == (2,)


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0.0, 1.0, constraints.interval),
        (0.0, INF, constraints.greater_than_eq),
        (-INF, 1.0, subject.LessThanEq),
        (-INF, INF, type(constraints.real)),
    ],
)
def test_the_support_has_the_bounds_and_can_be_mapped(low: float, high: float, kind: type) -> None:
    law = TruncatedNormal(torch.zeros(3), 1.0, low, high)
    assert isinstance(law.support, kind)
    for bound in (low, high):
        if math.isfinite(bound):
            assert bool(law.support.check(torch.full((3,), bound)).all())
    assert law.support.check(torch.tensor(2.0)).all() == (high > 2)
    transform = biject_to(law.support)
    free = torch.linspace(-2, 2, 3)
    inside = transform(free)
    assert bool(law.support.check(inside).all())
    assert torch.allclose(transform.inv(inside), free, atol=1e-5)


def test_outside_is_refused_or_impossible() -> None:
    law = TruncatedNormal(0.0, 1.0, 0.0, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        law.log_prob(torch.tensor(2.0))
    trusting = TruncatedNormal(0.0, 1.0, 0.0, 1.0, validate_args=False)
    assert trusting.log_prob(torch.tensor(2.0)) == -INF
    for arguments in ((0.0, -1.0, 0.0, 1.0), (0.0, 1.0, 1.0, 1.0), (math.nan, 1.0, 0.0, 1.0)):
        with pytest.raises(ValueError, match=r"low|scale|loc"):
            TruncatedNormal(*arguments, validate_args=True)


def test_reparametrised_draws_carry_the_gradient_of_the_mean() -> None:
    # The midpoints of 20,000 equal shares in place of random numbers.
    share = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for values in FINITE:
        law = [x.requires_grad_() for x in law_of(values)]
        found = torch.autograd.grad(subject.quantile(share, *law).mean(), law)
        wanted = torch.autograd.grad(subject.mean_of(*law), law)
        for one, other in zip(found, wanted, strict=True):
            assert math.isclose(float(one), float(other), rel_tol=1e-3, abs_tol=1e-7)


def test_svi_takes_steps_with_a_truncated_guide() -> None:
    def model() -> None:
        pyro.sample("x", TruncatedNormal(torch.tensor(-1.0), 0.5, 0.0, INF))

    def guide() -> None:
        location = pyro.param("location", torch.tensor(0.5))
        pyro.sample("x", TruncatedNormal(location, 0.5, 0.0, INF))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step() for _ in range(20)]
    assert all(math.isfinite(loss) for loss in losses)
    assert pyro.param("location").item() < 0  # towards -1


def test_a_law_can_be_an_argument_of_pyro_sample() -> None:
    with pyro.plate("units", 5):
        x = pyro.sample("x", TruncatedNormal(torch.zeros(5), 1.0, 0.0, INF))
    assert x.shape == (5,)
    assert isinstance(TruncatedNormal(0.0, 1.0).expand([2]), dist.TorchDistribution)
