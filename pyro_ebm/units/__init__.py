"""Kinds of variables in a field."""

from .base import PlainUnit as PlainUnit, Unit, name_of as name_of
from .bernoulli import Bernoulli
from .categorical import Categorical
from .finite_law import FiniteLaw as FiniteLaw
from .gaussian import Gaussian
from .quadratic import QuadraticUnit as QuadraticUnit
from .spin import Spin, SpinDistribution
from .truncated_gaussian import TruncatedGaussian
from .truncated_normal import TruncatedNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Spin",
    "SpinDistribution",
    "TruncatedGaussian",
    "TruncatedNormal",
    "Unit",
]
