"""log Z, probabilities and moments."""

from . import exact
from .enumeration import TooManyStatesError
from .summation import Moments

__all__ = ["Moments", "TooManyStatesError", "exact"]
