"""Energy-based models as first-class citizens of Pyro.

p(x) ∝ exp(−E(x)): energies over named sites, kernels that sample them, exact answers where a
machine is small enough, learning from data, and ArviZ for the chains. The names below are the table
of contents.
"""

from . import datasets, infer, plots
from .diagnostics import to_arviz
from .distributions import (
    Boltzmann,
    EnergyDistribution,
    IntractableNormalizerError,
    Ising,
    RestrictedBoltzmann,
    Sampler,
)
from .energies import (
    BlockEnergy,
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    GradientEnergy,
    Graph,
    Layer,
    ModelEnergy,
    PairwiseEnergy,
    UnbatchedModelWarning,
)
from .infer import (
    AmortizedMeanFieldGuide,
    EnergyKernel,
    MeanFieldGuide,
    WithinGibbs,
    energy_factor,
)
from .kernels import (
    HMC,
    MALA,
    Chains,
    Cycle,
    DenseMass,
    DiagonalMass,
    Gibbs,
    Kernel,
    Langevin,
    Mass,
    MetropolisHastings,
    Mixture,
    NonFiniteEnergyError,
    RandomWalk,
    Schedule,
    TunableKernel,
    Tuning,
    UnitMass,
    advance,
    resume,
    run,
    warmup,
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
from .partition import LogPartition, Moments, TooManyStatesError, exact, exactly
from .sites import Site, Sites
from .statistics import (
    FrozenUnits,
    chow_liu_log_likelihood,
    describe_frozen,
    frozen_units,
    independent_log_likelihood,
)
from .units import Bernoulli, Categorical, Gaussian, Spin, SpinDistribution, Unit

__all__ = [
    # named tensors
    "Site",
    "Sites",
    # one variable in a field
    "Unit",
    "Bernoulli",
    "Spin",
    "SpinDistribution",
    "Categorical",
    "Gaussian",
    # energies
    "Energy",
    "BlockEnergy",
    "GradientEnergy",
    "PairwiseEnergy",
    "BoltzmannMachine",
    "Layer",
    "Graph",
    "CallableEnergy",
    "ModelEnergy",
    "UnbatchedModelWarning",
    # sampling
    "Kernel",
    "Gibbs",
    "RandomWalk",
    "MetropolisHastings",
    "Langevin",
    "MALA",
    "HMC",
    "Mass",
    "UnitMass",
    "DiagonalMass",
    "DenseMass",
    "Cycle",
    "Mixture",
    "TunableKernel",
    "Tuning",
    "warmup",
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
    "independent_log_likelihood",
    "chow_liu_log_likelihood",
    # exact answers
    "exact",
    "Moments",
    "TooManyStatesError",
    "LogPartition",
    "exactly",
    # energies as Pyro distributions
    "EnergyDistribution",
    "Boltzmann",
    "RestrictedBoltzmann",
    "Ising",
    "Sampler",
    "IntractableNormalizerError",
    # inside Pyro's MCMC
    "infer",
    "EnergyKernel",
    "WithinGibbs",
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
    # inside Pyro's models and guides
    "energy_factor",
    "MeanFieldGuide",
    "AmortizedMeanFieldGuide",
    # ArviZ, data, figures
    "to_arviz",
    "datasets",
    "plots",
]
