"""Transitions that leave exp(-E) unchanged, and running them."""

from .base import (
    Findings as Findings,
    Kernel,
    KernelState as KernelState,
    ReversibleKernel,
    TunableKernel,
    Tuning,
    advance,
    after_warmup as after_warmup,
    in_warmup as in_warmup,
    require_machines as require_machines,
    same_batch as same_batch,
    unmoved_sites as unmoved_sites,
)
from .chains import Chains, NonFiniteEnergyError, Schedule, brief as brief
from .choice import (
    CAREFUL as CAREFUL,
    SMALLEST as SMALLEST,
    Part as Part,
    Purpose,
    choose_kernel,
    joined as joined,
    parts_of as parts_of,
    said as said,
)
from .composite.cycle import Cycle, Mixture
from .composite.reference import reference_of as reference_of
from .composite.tempered_transitions import TemperedTransitions
from .composite.tempering import (
    ParallelTempering,
    TemperingReport,
    TemperingState as TemperingState,
)
from .continuous.hmc import HMC
from .continuous.langevin import MALA, Langevin
from .continuous.mass import DenseMass, DiagonalMass, Mass, UnitMass
from .continuous.random_walk import RandomWalk
from .discrete.alphabets import (
    Alphabet as Alphabet,
    alphabet_of as alphabet_of,
    change_one as change_one,
)
from .discrete.cluster import SwendsenWang, Wolff
from .discrete.constraint_blocks import ConstraintBlocks
from .discrete.gibbs import Gibbs, GibbsState as GibbsState
from .discrete.gradient_gibbs import (
    DiscreteLangevin,
    GibbsWithGradients,
    local_differences as local_differences,
)
from .discrete.integer_walk import IntegerWalk
from .discrete.random_blocks import RandomBlocks, require_levels as require_levels
from .metropolis import require_known as require_known
from .metropolis_hastings import MetropolisHastings
from .pinned import ForbiddenStatesWarning
from .run import (
    beginning as beginning,
    carried_out as carried_out,
    resume,
    run,
)
from .settings import (
    require_energy as require_energy,
    require_kernel as require_kernel,
    require_settings as require_settings,
)
from .start import (
    accept_all as accept_all,
    check_reference as check_reference,
    finite_start as finite_start,
    given_start as given_start,
    laws as laws,
    random_start as random_start,
    read_structure as read_structure,
    where as where,
)
from .stored import KERNELS as KERNELS
from .warmup import warmup
from .watch import EVERY as EVERY, Watch as Watch, WrongDependenceError

__all__ = [
    "HMC",
    "MALA",
    "Chains",
    "ConstraintBlocks",
    "Cycle",
    "DenseMass",
    "DiagonalMass",
    "DiscreteLangevin",
    "ForbiddenStatesWarning",
    "Gibbs",
    "GibbsWithGradients",
    "IntegerWalk",
    "Kernel",
    "Langevin",
    "Mass",
    "MetropolisHastings",
    "Mixture",
    "NonFiniteEnergyError",
    "ParallelTempering",
    "Purpose",
    "RandomBlocks",
    "RandomWalk",
    "ReversibleKernel",
    "Schedule",
    "SwendsenWang",
    "TemperedTransitions",
    "TemperingReport",
    "TunableKernel",
    "Tuning",
    "UnitMass",
    "Wolff",
    "WrongDependenceError",
    "advance",
    "choose_kernel",
    "resume",
    "run",
    "warmup",
]
