"""Kinds of variables in a field."""

from .base import PlainUnit, Unit
from .bernoulli import Bernoulli
from .categorical import Categorical
from .gaussian import Gaussian
from .quadratic import QuadraticUnit
from .spin import Spin, SpinDistribution

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "PlainUnit",
    "QuadraticUnit",
    "Spin",
    "SpinDistribution",
    "Unit",
]
