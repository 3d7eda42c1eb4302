"""Energy-based models as first-class citizens of Pyro.

p(x) ∝ exp(−E(x)): energies over named sites, kernels that sample them, exact answers where a
machine is small enough, learning from data, and ArviZ for the chains. The names below are the table
of contents.
"""

from . import datasets, plots
from .diagnostics import Diagnosis, Evidence, Verdict, compare_starts, diagnose, to_arviz
from .energies import (
    BlockEnergy,
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    GradientEnergy,
    Graph,
    Layer,
    PairwiseEnergy,
)
from .kernels import (
    Chains,
    Gibbs,
    Kernel,
    NonFiniteEnergyError,
    Schedule,
    advance,
    resume,
    run,
)
from .learning import (
    ContrastiveDivergence,
    ExactLikelihood,
    ExactPosterior,
    History,
    MeanField,
    MeanFieldPosterior,
    Monitor,
    Objective,
    PersistentContrastiveDivergence,
    PositivePhase,
    Progress,
    SampledPosterior,
    fit,
    mean_field,
    start_at_means,
)
from .partition import Moments, TooManyStatesError, exact
from .sites import Site, Sites
from .statistics import (
    FrozenUnits,
    RoundTrips,
    SteinDiscrepancy,
    agreement,
    chow_liu_log_likelihood,
    describe_frozen,
    effective_sample_size,
    frozen_units,
    hamming_autocorrelation,
    hamming_effective_sample_size,
    independent_log_likelihood,
    kernel_stein_discrepancy,
    nested_r_hat,
    principal_directions,
    projections,
    r_hat,
    round_trips,
    tail_effective_sample_size,
)
from .units import Bernoulli, Spin, SpinDistribution, Unit

__all__ = [
    # named tensors
    "Site",
    "Sites",
    # one variable in a field
    "Unit",
    "Bernoulli",
    "Spin",
    "SpinDistribution",
    # energies
    "Energy",
    "BlockEnergy",
    "GradientEnergy",
    "PairwiseEnergy",
    "BoltzmannMachine",
    "Layer",
    "Graph",
    "CallableEnergy",
    # sampling
    "Kernel",
    "Gibbs",
    "Schedule",
    "run",
    "resume",
    "advance",
    "Chains",
    "NonFiniteEnergyError",
    # numbers from arrays
    "FrozenUnits",
    "frozen_units",
    "describe_frozen",
    "r_hat",
    "effective_sample_size",
    "tail_effective_sample_size",
    "hamming_effective_sample_size",
    "hamming_autocorrelation",
    "nested_r_hat",
    "agreement",
    "principal_directions",
    "projections",
    "RoundTrips",
    "round_trips",
    "SteinDiscrepancy",
    "kernel_stein_discrepancy",
    "independent_log_likelihood",
    "chow_liu_log_likelihood",
    # exact answers
    "exact",
    "Moments",
    "TooManyStatesError",
    # learning
    "fit",
    "History",
    "Progress",
    "Monitor",
    "start_at_means",
    "Objective",
    "ExactLikelihood",
    "ContrastiveDivergence",
    "PersistentContrastiveDivergence",
    "PositivePhase",
    "ExactPosterior",
    "MeanField",
    "SampledPosterior",
    "mean_field",
    "MeanFieldPosterior",
    # have the chains mixed?
    "diagnose",
    "compare_starts",
    "Diagnosis",
    "Evidence",
    "Verdict",
    # ArviZ, data, figures
    "to_arviz",
    "datasets",
    "plots",
]
