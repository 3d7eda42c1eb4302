r"""A normal law on an interval, exact in its far tails.

.. math:: p(x) = \frac{1}{\sigma \Delta}\,
    \varphi\Big(\frac{x - \mu}{\sigma}\Big), \quad l \le x \le h, \qquad
    \Delta = \Phi\Big(\frac{h - \mu}{\sigma}\Big) - \Phi\Big(\frac{l - \mu}{\sigma}\Big)

The functions take location μ, scale σ > 0, low l < high h (each of them infinite if need be) as
tensors that broadcast, and answer in their dtype, differentiable in all four. They compute in
float64 whatever that dtype is.

Everything is measured from the bound nearer to μ where μ lies outside the interval (`near`, `width`
in units of σ, reflected where that bound is the upper one): x = l + σ t has the density
exp(−near t − t²/2) up to its integral, in which no large numbers cancel, however far the tail. The
integral is a difference of scaled complementary error functions; where the density hardly varies
over the interval they would cancel, and a Gauss–Legendre sum replaces them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform
from torch.distributions.utils import broadcast_all

LOG_ROOT_TWO_PI = math.log(2 * math.pi) / 2
NARROW = 2.0  # the exponent varies less over the interval: a sum of 16 nodes is exact to the end
NEAR = 2.5  # up to here the variance is a difference of moments, which loses a digit
FAR = 15.0  # from here on 13 terms of the asymptotic series are
TAIL = 5.0  # from here on the inverse of the normal law is refined by Newton's method
FLAT = 1e-5  # over a narrower interval the density is an exponential to 1e-11
REACH = 90.0  # the density is cut where it has fallen by exp(−45)


# --- functions on tensors ------------------------------------------------------------------------


def log_normalizer(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""ln Δ, the log-probability of the interval under the normal law."""
    wide = broadcast_all(*(x.double() for x in (location, scale, low, high)))
    origin = reference(*wide)
    found = log_mass(wide, origin) - ((origin - wide[0]) / wide[1]).square() / 2
    return (found - LOG_ROOT_TWO_PI).to(dtype_of(location, scale, low, high))


def log_integral(field: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""The cumulant :math:`\ln \int_l^h \exp(f x - x^2 / 2 \sigma^2)\, dx` of a unit in a field.

    Its gradient with respect to the field f is `mean_of(field * scale**2, scale, low, high)`.
    """
    f, s, a, b = broadcast_all(*(x.double() for x in (field, scale, low, high)))
    location = f * s.square()
    origin = reference(location, s, a, b)
    start = origin * (f - origin / (2 * s.square()))
    return (log_mass((location, s, a, b), origin) + s.log() + start).to(
        dtype_of(field, scale, low, high)
    )


def log_density(
    value: Tensor, location: Tensor, scale: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """ln p(x); −inf outside the interval."""
    x, mu, s, a, b = broadcast_all(*(v.double() for v in (value, location, scale, low, high)))
    origin = reference(mu, s, a, b)
    found = log_shape(x, mu, s, origin) - s.log() - log_mass((mu, s, a, b), origin)
    found = torch.where((a <= x) & (x <= b), found, -math.inf)
    return found.to(dtype_of(value, location, scale, low, high))


def mean_of(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """E[x]."""
    wide = broadcast_all(*(x.double() for x in (location, scale, low, high)))
    return Mean.apply(*wide).to(dtype_of(location, scale, low, high))


def variance_of(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Var[x]."""
    wide = broadcast_all(*(x.double() for x in (location, scale, low, high)))
    return Variance.apply(*wide).to(dtype_of(location, scale, low, high))


def quantile(
    probability: Tensor, location: Tensor, scale: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """The x below which the law has so much probability (strictly between 0 and 1, or at an end).

    Differentiable in location, scale, low and high at a fixed probability, which makes it a
    reparametrised draw where the probability is uniform.
    """
    dtype = dtype_of(probability, location, scale, low, high)
    p, *wide = broadcast_all(*(v.double() for v in (probability, location, scale, low, high)))
    x = Quantile.apply(p, *wide).to(dtype)
    # Rounding to a narrower dtype may step over a bound.
    return torch.maximum(torch.minimum(x, high.to(dtype)), low.to(dtype))


def draw(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Independent draws by the inverse of the distribution function, without a history."""
    shape = torch.broadcast_shapes(location.shape, scale.shape, low.shape, high.shape)
    with torch.no_grad():
        x = quantile(uniforms(shape, location.device), location, scale, low, high)
    return x.to(dtype_of(location, scale, low, high))


def uniforms(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uniform numbers in float64 that are neither 0 nor 1, where a quantile may be infinite."""
    return torch.rand(tuple(shape), dtype=torch.float64, device=device).clamp_min_(2**-53)


def dtype_of(*tensors: Tensor) -> torch.dtype:
    """The dtype in which arithmetic on the tensors answers."""
    return functools.reduce(torch.promote_types, (x.dtype for x in tensors))


# --- the interval in units of σ ------------------------------------------------------------------


class Standard(NamedTuple):
    """An interval in units of σ, turned so that −near ≤ far; float64, without history."""

    near: Tensor
    far: Tensor
    width: Tensor
    turned: Tensor  # whether the upper bound is the near one

    @property
    def slope(self) -> Tensor:
        """How fast the log-density falls at the near end, or 0 where its peak is inside."""
        return self.near.clamp_min(0)

    @property
    def narrow(self) -> Tensor:
        """Whether the log-density varies little over the interval."""
        return self.slope * self.width + self.width.square() / 2 <= NARROW


def standardised(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Standard:
    """The interval in units of σ."""
    below, above = (low - location) / scale, (high - location) / scale
    turned = -below > above
    near, far = torch.where(turned, -above, below), torch.where(turned, -below, above)
    # Not far − near: it would lose what distinguishes the bounds of a narrow interval.
    return Standard(near, far, (high - low) / scale, turned)


def reference(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The most likely point of the interval, without history: energies are measured from there."""
    with torch.no_grad():
        return torch.maximum(torch.minimum(location, high), low)


def log_shape(x: Tensor, location: Tensor, scale: Tensor, origin: Tensor) -> Tensor:
    """ln of the normal density at x over that at the origin."""
    return -(x - origin) * (x + origin - 2 * location) / (2 * scale.square())


def upper_tail(z: Tensor) -> Tensor:
    """The probability of a standard normal number above z."""
    # Not torch.special.ndtr, whose error in the tail is 4 % at -8 in float64.
    return torch.special.erfc(z / math.sqrt(2)) / 2


def mills(near: Tensor) -> Tensor:
    """∫ exp(−near t − t²/2) dt over t > 0: the upper tail over the density."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(near / math.sqrt(2))


def mills_moment(near: Tensor, ratio: Tensor) -> Tensor:
    """∫ t exp(−near t − t²/2) dt over t > 0, which is 1 − near · mills(near) without cancelling.

    Args:
        near: Where the tail begins.
        ratio: mills(near).
    """
    found = 1 - finite(near) * ratio
    far = (near > FAR) & near.isfinite()
    if bool(far.any()):
        square = near[far].square().reciprocal()
        series, term = torch.zeros_like(square), square
        for j in range(13):
            series = series + term
            term = -term * square * (2 * j + 3)
        found[far] = series
    return found


def fall(s: Standard) -> Tensor:
    """The density at the far end over that at the near end; 0 at infinity."""
    return torch.exp(-(s.width / 2) * (s.near + s.far)).nan_to_num(0.0)


def finite(x: Tensor) -> Tensor:
    """x, with a harmless number where it is infinite: for factors beside an exact zero."""
    return torch.where(x.isfinite(), x, 1.0)


@functools.cache
def gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on the interval from 0 to 1."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return ((x + 1) / 2).tolist(), (w / 2).tolist()


class Nodes(NamedTuple):
    """Points t from the near end, and the probability that a Gauss–Legendre sum gives them."""

    t: Tensor  # (*batch, nodes), in units of σ
    weight: Tensor  # (*batch, nodes), sums to 1
    log_total: Tensor  # (*batch,), ln ∫ exp(−near t − t²/2) dt


def nodes_of(near: Tensor, start: Tensor, length: Tensor, count: int) -> Nodes:
    """The density exp(−near t − t²/2) on an interval of t that begins at `start`."""
    x, w = (near.new_tensor(v) for v in gauss_legendre(count))
    t = start[..., None] + length[..., None] * x
    log_terms = -t * (near[..., None] + t / 2) + w.log()
    log_total = log_terms.logsumexp(-1, keepdim=True)
    return Nodes(t, (log_terms - log_total).exp(), log_total[..., 0] + length.log())


def over_narrow(s: Standard, chosen: Tensor) -> Nodes:
    """The intervals that are narrow."""
    near, width = s.near[chosen], s.width[chosen]
    return nodes_of(near, torch.zeros_like(width), width, 16)


class MeanAndVariance(NamedTuple):
    """Of the distance from the near end, or from the location."""

    mean: Tensor
    variance: Tensor


def tail_moments(s: Standard) -> MeanAndVariance:
    """Of t from the near end, right where that is above 0 and the interval not narrow."""
    near, far, left, width = mills(s.near), mills(s.far), fall(s), finite(s.width)
    near_first, far_first = mills_moment(s.near, near), mills_moment(s.far, far)
    mass = near - left * far
    first = near_first - left * (far_first + width * far)
    # ∫ t² exp(−a t − t²/2) dt = mills(a) − a ∫ t exp(−a t − t²/2) dt.
    near_second, far_second = near - finite(s.near) * near_first, far - finite(s.far) * far_first
    second = near_second - left * (far_second + width * (2 * far_first + width * far))
    mean = first / mass
    return MeanAndVariance(mean, second / mass - mean.square())


def peak_moments(s: Standard) -> MeanAndVariance:
    """Of z from the location, right where that lies inside and the interval is not narrow."""
    inside = 1 - upper_tail(-s.near) - upper_tail(s.far)
    at_near, at_far = (torch.exp(-z.square() / 2 - LOG_ROOT_TWO_PI) for z in (s.near, s.far))
    mean = -at_near * torch.expm1(-(s.width / 2) * finite(s.near + s.far)) / inside
    mean = torch.where(s.near == -math.inf, 0.0, mean)
    rise = (finite(s.near) * at_near - finite(s.far) * at_far) / inside
    return MeanAndVariance(mean, 1 + rise - mean.square())


def central_moments(s: Standard) -> tuple[Tensor, Tensor, Tensor]:  # (*batch,) each
    """The second, third and fourth central moment of z = (x − μ)/σ, by a sum of positive terms."""
    cut = math.sqrt(REACH)
    near = s.near.clamp_min(-cut)
    reach = REACH / (s.slope + (s.slope.square() + REACH).sqrt()) - near.clamp_max(0)
    length = torch.minimum(reach, torch.where(s.near < -cut, s.far - near, s.width))
    found = nodes_of(near, torch.zeros_like(near), length, 64)
    # Moments of small numbers: in units of the mean distance from the near end.
    mean = (found.weight * found.t).sum(-1, keepdim=True)
    away = (found.t - mean) / mean
    second, third, fourth = ((found.weight * away**k).sum(-1) for k in (2, 3, 4))
    unit = mean[..., 0]
    sign = torch.where(s.turned, -1.0, 1.0)
    return second * unit**2, sign * third * unit**3, fourth * unit**4


# --- differentiable pieces -----------------------------------------------------------------------


def log_mass(law: Sequence[Tensor], origin: Tensor) -> Tensor:
    r"""ln of the integral over the interval of the density relative to that at the origin, over σ.

    Args:
        law: Location, scale, low and high, in float64.
        origin: The `reference`; it counts as a constant.
    """
    return LogMass.apply(*law, origin)


class LogMass(torch.autograd.Function):
    """`log_mass`, with its gradients from mean and variance."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:  # noqa: ANN401 (torch's)
        """(location, scale, low, high, origin) -> ln of the integral."""
        *law, _ = inputs
        s = standardised(*law)
        tail = (mills(s.near) - fall(s) * mills(s.far)).log()
        outside = upper_tail(-s.near) + upper_tail(s.far)
        found = torch.where(s.near > 0, tail, LOG_ROOT_TWO_PI + torch.log1p(-outside))
        if bool((narrow := s.narrow).any()):
            # With the peak inside, the reference is the peak and not the near end.
            peak = s.near[narrow].clamp_max(0).square() / 2
            found[narrow] = over_narrow(s, narrow).log_total - peak
        ctx.save_for_backward(*inputs, found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """In terms of functions that can be differentiated again."""
        location, scale, low, high, origin, _ = ctx.saved_tensors
        law = (location, scale, low, high)
        mean, variance = Mean.apply(*law), Variance.apply(*law)
        ahead = mean - origin
        square = variance + ahead * (mean + origin - 2 * location)
        at_low, at_high = edges(law, origin)
        return (
            gradient * ahead / scale.square(),
            gradient * (square / scale.square() - 1) / scale,
            -gradient * at_low,
            gradient * at_high,
            None,
        )


def edges(law: Sequence[Tensor], origin: Tensor) -> tuple[Tensor, Tensor]:
    """The density at the two bounds, 0 at infinity."""
    location, scale, low, high = law
    mass = log_mass(law, origin)

    def at(bound: Tensor) -> Tensor:
        density = (log_shape(finite(bound), location, scale, origin) - mass).exp() / scale
        return torch.where(bound.isfinite(), density, 0.0)

    return at(low), at(high)


class Mean(torch.autograd.Function):
    """E[x] of (location, scale, low, high)."""

    @staticmethod
    def forward(ctx: Any, *law: Tensor) -> Tensor:  # noqa: ANN401 (torch's)
        """From the near end, or from the location where that lies inside."""
        location, scale, low, high = law
        s = standardised(*law)
        from_end = (s.near > 0) | s.narrow
        start = torch.where(from_end, torch.where(s.turned, high, low), location)
        away = torch.where(from_end, tail_moments(s).mean, peak_moments(s).mean)
        if bool((narrow := s.narrow).any()):
            found = over_narrow(s, narrow)
            away[narrow] = (found.weight * found.t).sum(-1)
        mean = start + torch.where(s.turned, -away, away) * scale
        mean = torch.maximum(torch.minimum(mean, high), low)
        ctx.save_for_backward(*law)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """By covariances with the derivatives of the log-density."""
        law = ctx.saved_tensors
        location, scale, low, high = law
        mean, second = Mean.apply(*law), Variance.apply(*law) / scale.square()
        by_scale = None
        if ctx.needs_input_grad[1]:
            _, third, _ = central_moments(standardised(*law))
            by_scale = gradient * (third + 2 * second * (mean - location) / scale)
        at_low, at_high = edges(law, reference(*law))
        return (
            gradient * second,
            by_scale,
            gradient * at_low * (mean - finite_bound(low, mean)),
            gradient * at_high * (finite_bound(high, mean) - mean),
        )


class Variance(torch.autograd.Function):
    """Var[x] of (location, scale, low, high)."""

    @staticmethod
    def forward(ctx: Any, *law: Tensor) -> Tensor:  # noqa: ANN401 (torch's)
        """As a difference of moments, or by a sum where they would cancel."""
        ctx.save_for_backward(*law)
        s = standardised(*law)
        found = torch.where(s.near > 0, tail_moments(s).variance, peak_moments(s).variance)
        if bool((cancels := s.narrow | (s.near > NEAR)).any()):
            chosen = Standard(*(x[cancels] for x in s))
            found[cancels] = central_moments(chosen)[0]
        return found * law[1].square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """By covariances with the derivatives of the log-density."""
        law = ctx.saved_tensors
        location, scale, low, high = law
        second, third, fourth = central_moments(standardised(*law))
        mean = Mean.apply(*law)
        variance = second * scale.square()
        by_scale = fourth - second.square() + 2 * third * (mean - location) / scale
        at_low, at_high = edges(law, reference(*law))
        return (
            gradient * third * scale,
            gradient * by_scale * scale,
            gradient * at_low * (variance - (mean - finite_bound(low, mean)).square()),
            gradient * at_high * ((finite_bound(high, mean) - mean).square() - variance),
        )


def finite_bound(bound: Tensor, mean: Tensor) -> Tensor:
    """The bound, or the mean where there is none."""
    return torch.where(bound.isfinite(), bound, mean)


# --- the inverse of the distribution function ----------------------------------------------------


class Quantile(torch.autograd.Function):
    """x of (probability, location, scale, low, high)."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, *law: Tensor) -> Tensor:  # noqa: ANN401 (torch's)
        """By the inverse of the normal law; in the tail by Newton's method from the near end."""
        location, scale, low, high = law
        s = standardised(*law)
        # The probability between the near end and x.
        share = torch.where(s.turned, 1 - p, p)
        upper = upper_tail(s.near) * (1 - share) + upper_tail(s.far) * share
        z = torch.where(s.turned, 1.0, -1.0) * torch.special.ndtri(upper)
        x = location + scale * z
        flat = s.width <= FLAT
        tail = (s.near > TAIL) & ~flat
        ends = torch.where(s.turned, high, low)
        sign = torch.where(s.turned, -1.0, 1.0)
        for chosen, ahead in ((flat, ahead_in_flat), (tail, ahead_in_tail)):
            if bool(chosen.any()):
                t = ahead(s.near[chosen], s.far[chosen], s.width[chosen], share[chosen])
                x[chosen] = ends[chosen] + sign[chosen] * scale[chosen] * t
        x = torch.maximum(torch.minimum(x, high), low)
        ctx.save_for_backward(x, p, *law)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Where x must go for the probability below it to stay."""
        x, p, *law = ctx.saved_tensors
        location, scale, low, high = law
        # The densities at the bounds over that at x.
        at_low, at_high = (
            torch.where(
                bound.isfinite(), log_shape(finite_bound(bound, x), location, scale, x).exp(), 0.0
            )
            for bound in (low, high)
        )
        below, above = (1 - p) * at_low, p * at_high
        by_location = 1 - below - above
        ends = (finite_bound(low, x), finite_bound(high, x))
        z, *z_ends = ((v - location) / scale for v in (x, *ends))
        by_scale = z - below * z_ends[0] - above * z_ends[1]
        origin = reference(*law)
        density = (log_shape(x, location, scale, origin) - log_mass(law, origin)).exp() / scale
        return (
            gradient / density,
            gradient * by_location,
            gradient * by_scale,
            gradient * below,
            gradient * above,
        )


def ahead_in_flat(near: Tensor, far: Tensor, width: Tensor, share: Tensor) -> Tensor:
    """t from the near end, of an exponential law with the mean slope of the log-density."""
    fallen = (near + far) / 2 * width  # at the far end
    return (
        torch.where(
            fallen.abs() < 1e-12, share, -torch.log1p(share * torch.expm1(-fallen)) / fallen
        )
        * width
    )


def ahead_in_tail(near: Tensor, far: Tensor, width: Tensor, share: Tensor) -> Tensor:
    """t from the near end, by Newton's method on the log of the upper tail.

    That function is concave and falls, so that after the first step Newton's come from one side.
    """
    s = Standard(near, far, width, torch.zeros_like(near, dtype=torch.bool))
    lost = 1 - fall(s) * mills(far) / mills(near)  # of the tail's probability, inside
    if bool((narrow := s.narrow).any()):
        lost[narrow] = over_narrow(s, narrow).log_total.exp() / mills(near[narrow])
    drop = -torch.log1p(-share * lost)
    t = 2 * drop / (near + (near.square() + 2 * drop).sqrt())
    for _ in range(5):
        here = mills(near + t)
        excess = drop - t * (near + t / 2) + (here / mills(near)).log()
        t = (t + here * excess).clamp_min(0)
    return torch.minimum(t, width)


# --- as a distribution ---------------------------------------------------------------------------


class LessThanEq(Constraint):
    """Values up to an upper bound, and the bound."""

    is_discrete = False
    event_dim = 0

    def __init__(self, upper_bound: Tensor) -> None:
        self.upper_bound = upper_bound
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each element is at most the bound."""
        return value <= self.upper_bound

    def __repr__(self) -> str:
        return f"LessThanEq(upper_bound={self.upper_bound})"


@biject_to.register(LessThanEq)
@transform_to.register(LessThanEq)
def below(constraint: LessThanEq) -> ComposeTransform:
    """From all real numbers to those below the bound."""
    return ComposeTransform([ExpTransform(), AffineTransform(constraint.upper_bound, -1)])


class TruncatedNormal(TorchDistribution):
    r"""A normal law on an interval, exact in its far tails.

    .. math:: p(x) \propto \exp\Big(-\frac{(x - \mu)^2}{2 \sigma^2}\Big), \quad l \le x \le h

    With low 0 and high infinite it is the law of a rectified unit. Computed in float64 whatever the
    parameters' dtype; draws are made by inversion, so they are reparametrised. Kernels that move by
    gradients map the support to all real numbers, for which a bound has to be finite, or infinite,
    throughout the batch.

    Args:
        loc: The location μ (*batch), the mean before truncation.
        scale: The scale σ > 0, the standard deviation before truncation.
        low: The lower bound, which may be -inf.
        high: The upper bound, which may be inf.

    Raises:
        ValueError: If low is not below high, or a parameter is none.

    Example:
        >>> import torch
        >>> from pyro_ebm.distributions import TruncatedNormal
        >>> far = TruncatedNormal(0.0, 1.0, low=30.0)  # where a normal law has no draws
        >>> far.mean, far.sample((100,)).min() > 30
        (tensor(30.0333), tensor(True))

    References:
        | Simulation of truncated normal variables (Robert, 1995) https://doi.org/10.1007/BF00143942
        | Fast simulation of truncated Gaussian distributions (Chopin, 2011)
        | https://doi.org/10.1007/s11222-009-9168-1
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError(
                f"low is {self.low} and high {self.high}; wanted low < high everywhere."
            )

    @property
    def law(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loc, scale, low, high), as the functions of this file take them."""
        return self.loc, self.scale, self.low, self.high

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Constraint:
        """The interval with its bounds, where it has some."""
        if bool((self.low > -math.inf).any()) and bool((self.high < math.inf).any()):
            return constraints.interval(self.low, self.high)
        if bool((self.low > -math.inf).any()):
            return constraints.greater_than_eq(self.low)
        return LessThanEq(self.high) if bool((self.high < math.inf).any()) else constraints.real

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return mean_of(*self.law)

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return variance_of(*self.law)

    @property
    def mode(self) -> Tensor:
        """The likeliest value: the location, or the bound nearest to it."""
        return torch.maximum(torch.minimum(self.loc, self.high), self.low)

    @property
    def log_normalizer(self) -> Tensor:
        """The log-probability of the interval before truncation."""
        return log_normalizer(*self.law)

    def expand(
        self, batch_shape: Sequence[int], _instance: "TruncatedNormal | None" = None
    ) -> "TruncatedNormal":
        """The same law with a larger batch."""
        law = (x.expand(batch_shape) for x in self.law)
        new = TruncatedNormal(*law, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Independent draws (*sample_shape, *batch), differentiable in the parameters."""
        shape = (*sample_shape, *self.batch_shape)
        return quantile(uniforms(shape, self.loc.device), *self.law).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(x)."""
        if self._validate_args:
            self._validate_sample(value)
        return log_density(value, *self.law)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability below a value."""
        if self._validate_args:
            self._validate_sample(value)
        top = torch.maximum(torch.minimum(value, self.high), self.low).double()
        loc, scale, low, high = (x.double() for x in self.law)
        part = log_normalizer(loc, scale, low, top) - log_normalizer(loc, scale, low, high)
        return part.exp().clamp_max(1).to(dtype_of(value, self.loc))

    def icdf(self, value: Tensor) -> Tensor:
        """The value below which there is so much probability."""
        return quantile(value, *self.law)

    def entropy(self) -> Tensor:
        """In nats."""
        law = [x.double() for x in self.law]
        loc, scale = law[:2]
        origin = reference(*law)
        mean, variance = mean_of(*law), variance_of(*law)
        square = variance + (mean - origin) * (mean + origin - 2 * loc)
        found = log_mass(law, origin) + scale.log() + square / (2 * scale.square())
        return found.to(self.loc.dtype)
