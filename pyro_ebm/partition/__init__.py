"""log Z, probabilities, moments and modes."""

from . import exact
from .enumeration import TooManyStatesError
from .mode import Mode, mode
from .summation import Moments

__all__ = ["Mode", "Moments", "TooManyStatesError", "exact", "mode"]
