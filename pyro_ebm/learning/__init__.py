"""Learning an energy from data."""

from .base import Objective, Step
from .fit import History, fit
from .loop import Progress
from .objectives.contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from .objectives.likelihood import ExactLikelihood
from .observers.monitor import Monitor
from .posterior.mean_field import MeanFieldPosterior, mean_field
from .posterior.positive_phase import ExactPosterior, MeanField, PositivePhase, SampledPosterior
from .start import init_biases_from_data

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
    "Step",
    "fit",
    "init_biases_from_data",
    "mean_field",
]
