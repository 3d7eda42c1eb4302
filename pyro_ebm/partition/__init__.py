"""log Z, probabilities and moments."""

from . import exact
from .exact import Moments, TooManyStatesError

__all__ = ["Moments", "TooManyStatesError", "exact"]
