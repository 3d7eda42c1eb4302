"""The rim towards ArviZ, and the verdict on chains."""

from .diagnose import compare_starts, diagnose
from .evidence import Diagnosis, Evidence, Verdict
from .inference_data import inference_data
from .sample import NotMixedWarning, sample
from .to_arviz import to_arviz

__all__ = [
    "Diagnosis",
    "Evidence",
    "NotMixedWarning",
    "Verdict",
    "compare_starts",
    "diagnose",
    "inference_data",
    "sample",
    "to_arviz",
]
