"""log Z, probabilities and moments."""

from . import exact
from .enumeration import TooManyStatesError
from .exact import Moments
from .result import LogPartition, exactly

__all__ = ["LogPartition", "Moments", "TooManyStatesError", "exact", "exactly"]
