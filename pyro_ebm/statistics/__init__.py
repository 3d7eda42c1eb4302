"""Numbers from arrays: what any model of the data is compared with, and what chains did.

Example:
    >>> import torch
    >>> from pyro_ebm import statistics
    >>> f"{statistics.r_hat(torch.randn(4, 1000)):.2f}"
    '1.00'
"""

from .agreement import agreement, stretch_means
from .arrays import Array as Array, tensor_of as tensor_of
from .autocovariance import (
    Autocovariances as Autocovariances,
    autocovariances as autocovariances,
    chunks as chunks,
    split as split,
    together as together,
)
from .baselines import chow_liu_log_likelihood, independent_log_likelihood
from .convergence import (
    effective_sample_size,
    normal_scores as normal_scores,
    r_hat,
    r_hats as r_hats,
    ratio as ratio,
    tail_effective_sample_size,
    tail_sample_sizes as tail_sample_sizes,
)
from .frozen import FrozenUnits, describe_frozen, frozen_units
from .hamming import hamming_autocorrelation, hamming_effective_sample_size, indicators, labels
from .nested import check_superchains as check_superchains, nested_r_hat
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
