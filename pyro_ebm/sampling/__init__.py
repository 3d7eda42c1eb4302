"""Sampling without naming a kernel."""

from .sample import (
    NotMixedWarning,
    sample,
)

__all__ = [
    "NotMixedWarning",
    "sample",
]
