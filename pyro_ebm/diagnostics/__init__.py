"""The rim towards ArviZ, and the verdict on chains."""

from .arviz.inference_data import inference_data
from .arviz.to_arviz import to_arviz
from .diagnose import compare_starts, diagnose
from .evidence import Diagnosis, Evidence, Verdict

__all__ = [
    "Diagnosis",
    "Evidence",
    "Verdict",
    "compare_starts",
    "diagnose",
    "inference_data",
    "to_arviz",
]
