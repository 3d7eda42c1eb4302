"""Learning an energy from data."""

from .base import Objective
from .contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from .fit import History, Progress, fit
from .likelihood import ExactLikelihood
from .mean_field import MeanFieldPosterior, mean_field
from .monitor import Monitor
from .posterior import ExactPosterior, MeanField, PositivePhase, SampledPosterior
from .start import start_at_means

__all__ = [
    "ContrastiveDivergence",
    "ExactLikelihood",
    "ExactPosterior",
    "History",
    "MeanField",
    "MeanFieldPosterior",
    "Monitor",
    "Objective",
    "PersistentContrastiveDivergence",
    "PositivePhase",
    "Progress",
    "SampledPosterior",
    "fit",
    "mean_field",
    "start_at_means",
]
