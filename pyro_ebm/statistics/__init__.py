"""Numbers from arrays: what any model of the data is compared with, and what chains did."""

from .baselines import chow_liu_log_likelihood, independent_log_likelihood
from .frozen import FrozenUnits, describe_frozen, frozen_units

__all__ = [
    "FrozenUnits",
    "chow_liu_log_likelihood",
    "describe_frozen",
    "frozen_units",
    "independent_log_likelihood",
]
