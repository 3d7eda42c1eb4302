"""Kinds of variables in a field."""

from .base import Unit
from .bernoulli import Bernoulli
from .spin import Spin, SpinDistribution

__all__ = ["Bernoulli", "Spin", "SpinDistribution", "Unit"]
