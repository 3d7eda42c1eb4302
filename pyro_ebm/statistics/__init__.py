"""Numbers from arrays: what any model of the data is compared with, and what chains did.

Example:
    >>> import torch
    >>> from pyro_ebm import statistics
    >>> f"{statistics.r_hat(torch.randn(4, 1000)):.2f}"
    '1.00'
"""

from .agreement import agreement, stretch_means
from .baselines import chow_liu_log_likelihood, independent_log_likelihood
from .convergence import effective_sample_size, r_hat, tail_effective_sample_size
from .frozen import FrozenUnits, describe_frozen, frozen_units
from .hamming import hamming_autocorrelation, hamming_effective_sample_size, indicators, labels
from .nested import nested_r_hat
from .principal import principal_directions, projections
from .round_trips import RoundTrips, round_trips
from .stein import SteinDiscrepancy, kernel_stein_discrepancy

__all__ = [
    "FrozenUnits",
    "RoundTrips",
    "SteinDiscrepancy",
    "agreement",
    "chow_liu_log_likelihood",
    "describe_frozen",
    "effective_sample_size",
    "frozen_units",
    "hamming_autocorrelation",
    "hamming_effective_sample_size",
    "independent_log_likelihood",
    "indicators",
    "kernel_stein_discrepancy",
    "labels",
    "nested_r_hat",
    "principal_directions",
    "projections",
    "r_hat",
    "round_trips",
    "stretch_means",
    "tail_effective_sample_size",
]
