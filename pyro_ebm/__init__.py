"""Energy-based models as first-class citizens of Pyro.

p(x) ∝ exp(−E(x)): energies over named sites, kernels that sample them, exact answers where a
machine is small enough, learning from data, and ArviZ for the chains. The names below are the table
of contents; what fewer need is in the folders: `energies`, `kernels`, `partition`, `minima`,
`diagnostics`, `units`, `sites`.
"""

from . import datasets, distributions, infer, learning, plots, statistics
from .diagnostics import Diagnosis, Verdict, compare_starts, diagnose, to_arviz
from .energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    Graph,
    Layer,
    ModelEnergy,
    PatternFactors,
    RandomField,
    TableFactors,
    clamp,
    convolutional_energy,
    interpolate,
    mlp_energy,
)
from .infer import AmortizedMeanFieldGuide, EnergyKernel, MeanFieldGuide, WithinGibbs, energy_factor
from .kernels import (
    HMC,
    MALA,
    Chains,
    Cycle,
    DenseMass,
    DiagonalMass,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    IntegerWalk,
    Kernel,
    Langevin,
    MetropolisHastings,
    Mixture,
    NonFiniteEnergyError,
    ParallelTempering,
    Purpose,
    RandomBlocks,
    RandomWalk,
    SwendsenWang,
    TemperedTransitions,
    UnitMass,
    Wolff,
    choose_kernel,
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
    Monitor,
    Objective,
    PersistentContrastiveDivergence,
    Progress,
    SampledPosterior,
    fit,
    mean_field,
    start_at_means,
)
from .minima import anneal, descend, mode
from .partition import (
    LogPartition,
    TooManyStatesError,
    belief_propagation,
    elimination,
    exact,
)
from .sampling import NotMixedWarning, sample
from .sites import Site, Sites
from .stopping import stopping_on
from .units import (
    Bernoulli,
    Categorical,
    Gaussian,
    Spin,
    TruncatedGaussian,
    Unit,
)

__all__ = [
    # named tensors
    "Site",
    "Sites",
    # one variable in a field
    "Unit",
    "Bernoulli",
    "Spin",
    "Categorical",
    "Gaussian",
    "TruncatedGaussian",
    # energies
    "Energy",
    "BoltzmannMachine",
    "Layer",
    "Graph",
    "CallableEnergy",
    "RandomField",
    "TableFactors",
    "PatternFactors",
    "mlp_energy",
    "convolutional_energy",
    "DistributionEnergy",
    "interpolate",
    "clamp",
    "ModelEnergy",
    # sampling
    "sample",
    "NotMixedWarning",
    "choose_kernel",
    "Purpose",
    "Kernel",
    "Gibbs",
    "GibbsWithGradients",
    "IntegerWalk",
    "DiscreteLangevin",
    "RandomBlocks",
    "SwendsenWang",
    "Wolff",
    "RandomWalk",
    "MetropolisHastings",
    "Langevin",
    "MALA",
    "HMC",
    "UnitMass",
    "DiagonalMass",
    "DenseMass",
    "Cycle",
    "Mixture",
    "ParallelTempering",
    "TemperedTransitions",
    "warmup",
    "run",
    "resume",
    "stopping_on",
    "Chains",
    "NonFiniteEnergyError",
    # numbers from arrays
    "statistics",
    # exact answers
    "exact",
    "TooManyStatesError",
    "LogPartition",
    "elimination",
    "belief_propagation",
    # minima
    "mode",
    "anneal",
    "descend",
    # energies as Pyro distributions
    "distributions",
    # inside Pyro's MCMC
    "infer",
    "EnergyKernel",
    "WithinGibbs",
    # learning
    "learning",
    "fit",
    "History",
    "Progress",
    "Monitor",
    "start_at_means",
    "Objective",
    "ExactLikelihood",
    "ContrastiveDivergence",
    "PersistentContrastiveDivergence",
    "ExactPosterior",
    "MeanField",
    "SampledPosterior",
    "mean_field",
    # inside Pyro's models and guides
    "energy_factor",
    "MeanFieldGuide",
    "AmortizedMeanFieldGuide",
    # have the chains mixed?
    "diagnose",
    "compare_starts",
    "Diagnosis",
    "Verdict",
    # ArviZ, data, figures
    "to_arviz",
    "datasets",
    "plots",
]
