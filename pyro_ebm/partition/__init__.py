"""log Z, probabilities, moments and modes."""

from . import exact
from .enumeration import TooManyStatesError
from .exact import Moments
from .mode import Mode, mode

__all__ = ["Mode", "Moments", "TooManyStatesError", "exact", "mode"]
