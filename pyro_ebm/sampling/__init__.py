"""Sampling without naming a kernel."""

from .exact_draws import ExactDraws
from .sample import (
    NotMixedWarning,
    sample,
)

__all__ = [
    "ExactDraws",
    "NotMixedWarning",
    "sample",
]
