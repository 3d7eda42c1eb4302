"""The rim towards ArviZ, and the verdict on chains."""

from .diagnose import compare_starts, diagnose
from .evidence import Diagnosis, Evidence, Verdict
from .inference_data import inference_data
from .to_arviz import to_arviz

__all__ = [
    "Diagnosis",
    "Evidence",
    "Verdict",
    "compare_starts",
    "diagnose",
    "inference_data",
    "to_arviz",
]
