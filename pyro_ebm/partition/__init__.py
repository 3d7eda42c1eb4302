"""log Z, probabilities and moments."""

from . import exact
from .enumeration import TooManyStatesError
from .result import LogPartition, exactly
from .summation import Moments

__all__ = ["LogPartition", "Moments", "TooManyStatesError", "exact", "exactly"]
