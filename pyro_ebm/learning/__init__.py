"""Learning an energy from data.

Example:
    >>> from pyro_ebm import BoltzmannMachine, datasets, learning
    >>> machine = BoltzmannMachine.restricted(14, 4)
    >>> women = datasets.southern_women().attendance
    >>> history = learning.fit(machine, women, learning.ExactLikelihood(), epochs=5)
    >>> history.series("log_likelihood")[0]
    [1, 2, 3, 4, 5]
"""

from .base import Objective, Step
from .fit import fit
from .history import History
from .objectives.contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from .objectives.likelihood import ExactLikelihood
from .observers.base import (
    AfterEpoch,
    AfterUpdate,
    AtEnd,
    AtStart,
    Observer,
    Progress,
    Report,
)
from .observers.monitor import Monitor
from .posterior.mean_field import MeanFieldPosterior, mean_field
from .posterior.positive_phase import ExactPosterior, MeanField, PositivePhase, SampledPosterior
from .start import init_biases_from_data

__all__ = [
    "AfterEpoch",
    "AfterUpdate",
    "AtEnd",
    "AtStart",
    "ContrastiveDivergence",
    "ExactLikelihood",
    "ExactPosterior",
    "History",
    "MeanField",
    "MeanFieldPosterior",
    "Monitor",
    "Objective",
    "Observer",
    "PersistentContrastiveDivergence",
    "PositivePhase",
    "Progress",
    "Report",
    "SampledPosterior",
    "Step",
    "fit",
    "init_biases_from_data",
    "mean_field",
]
