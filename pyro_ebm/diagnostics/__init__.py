"""The rim towards ArviZ, and the verdict on chains."""

from .arviz.inference_data import inference_data
from .arviz.to_arviz import to_arviz
from .checks import (
    DIVERGED as DIVERGED,
    LEAST_DRAWS as LEAST_DRAWS,
    LONGER as LONGER,
    NO_TRIPS as NO_TRIPS,
    SLOW as SLOW,
    SLOW_ON_LADDER as SLOW_ON_LADDER,
    TRAPPED as TRAPPED,
)
from .diagnose import compare_starts, diagnose
from .evidence import Diagnosis, Evidence, Verdict, weigh as weigh

__all__ = [
    "Diagnosis",
    "Evidence",
    "Verdict",
    "compare_starts",
    "diagnose",
    "inference_data",
    "to_arviz",
]
