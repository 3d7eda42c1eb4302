"""Independent draws by exact sums, in the place of a Markov chain."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Structure
from pyro_ebm.kernels import (
    Findings,
    Kernel,
    Schedule,
    TunableKernel,
    accept_all,
    read_structure,
)
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites, batch_shape, is_count
from pyro_ebm.storage import ROWS

NUMBERS = 2**21  # that are drawn at a time, about
SHARE = 1.0  # of what a warm-up costs, up to which exact sums are preferred; 0 for never
STEP = 1e-4  # seconds of one step, whatever the energy
EVALUATION = 1e-7, 5e-9  # seconds of one energy, and for each of its numbers


class ExactDrawsState(NamedTuple):
    """The latest draw, and those that are to come.

    Args:
        x: The values (chain, *shape).
        energy: E(x) (chain,).
        coming: Values by site (step, chain, *shape), drawn at once.
        energies: E of these (step, chain).
        seed: That they were drawn by.
        taken: How many steps of them have been taken.
    """

    x: Sites
    energy: Tensor
    coming: Sites
    energies: Tensor
    seed: int
    taken: int


class ExactDrawsInfo(NamedTuple):
    """Nothing to tell: every draw is new."""


@dataclass(frozen=True, eq=False)
class ExactDraws(TunableKernel[ExactDrawsState, ExactDrawsInfo]):
    """Every step is an independent draw from p(x), by `exact.sample`; no warm-up is needed.

    A step forgets where its chain was: draws are independent of each other, and of the start.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, run
        >>> from pyro_ebm.sampling import ExactDraws
        >>> machine = BoltzmannMachine.fully_visible(3)
        >>> run(ExactDraws(), machine, 20, warmup=0, seed=0).draws["visible"].shape
        torch.Size([4, 20, 3])
    """

    def init(self, energy: Energy, x: Sites) -> ExactDrawsState:
        structure = read_structure(energy)
        x = accept_all(energy, x, structure)
        exact.require_small(energy, structure)
        with torch.no_grad():
            height = structure.energy(x)
        return ExactDrawsState(x, height, {}, height[None, ...][:0], 0, 0)

    def refresh(self, energy: Energy, state: ExactDrawsState, x: Sites) -> ExactDrawsState:
        with torch.no_grad():
            state = state._replace(x=x, energy=energy.evaluate(x))
        # By the same seed: of an energy that has not changed they are the same draws.
        return drawn(energy, state, state.seed) if state.coming else state

    def step(
        self, energy: Energy, state: ExactDrawsState
    ) -> tuple[ExactDrawsState, ExactDrawsInfo]:
        if state.taken == len(state.energies):
            seed = int(torch.randint(2**62, ()))
            state = drawn(energy, state, seed)._replace(taken=0)
        x = {name: value[state.taken] for name, value in state.coming.items()}
        energies = state.energies[state.taken]
        return state._replace(x=x, energy=energies, taken=state.taken + 1), ExactDrawsInfo()

    def unset(self) -> tuple[str, ...]:
        return ()

    def tuning(self, steps: int) -> Kernel:
        return self

    @property
    def findings(self) -> Findings:
        return {"independent": "exact draws, by summation"}


ROWS.add_all([ExactDraws, ExactDrawsState])


@torch.no_grad()
def drawn(energy: Energy, state: ExactDrawsState, seed: int) -> ExactDrawsState:
    """The state with the draws to come by a seed."""
    batch = batch_shape(state.x, energy.sites)
    steps = at_once(energy, batch.numel())
    x = exact.sample(energy, steps * batch.numel(), seed)
    coming = {name: value.unflatten(0, (steps, *batch)) for name, value in x.items()}
    return state._replace(coming=coming, energies=energy.evaluate(coming), seed=seed)


def numbers_of(energy: Energy) -> int:
    """The numbers of one state."""
    return sum(site.shape.numel() for site in energy.sites.values())


def at_once(energy: Energy, chains: int) -> int:
    """The steps that are drawn at once."""
    return max(1, NUMBERS // max(1, chains * numbers_of(energy)))


def pays(energy: Energy, structure: Structure, chains: int, schedule: Schedule) -> bool:
    """Whether exact draws cost less than the warm-up of chains, which they do without.

    Costs are reckoned, not measured, so that the choice is the same every time.
    """
    if not is_count(chains):
        return False  # which is refused where chains start
    of_one, of_number = EVALUATION
    step = STEP + chains * (of_one + of_number * numbers_of(energy))
    sums = math.ceil(schedule.draws / at_once(energy, chains))
    return sums * exact.seconds(energy, structure=structure) < SHARE * schedule.warmup * step
