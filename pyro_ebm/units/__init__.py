"""Kinds of variables in a field."""

from .base import PlainUnit, Unit, name_of
from .bernoulli import Bernoulli
from .categorical import Categorical
from .gaussian import Gaussian
from .quadratic import QuadraticUnit
from .spin import Spin, SpinDistribution
from .truncated_gaussian import TruncatedGaussian
from .truncated_normal import TruncatedNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "PlainUnit",
    "QuadraticUnit",
    "Spin",
    "SpinDistribution",
    "TruncatedGaussian",
    "TruncatedNormal",
    "Unit",
    "name_of",
]
