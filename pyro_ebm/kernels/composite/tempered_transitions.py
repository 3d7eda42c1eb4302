"""Tempered transitions: up a ladder of temperatures and down again."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Path
from pyro_ebm.kernels.base import (
    Kernel,
    KernelState,
    decided_by,
    moved_by_any,
    reverse_of,
)
from pyro_ebm.kernels.metropolis import AcceptanceInfo, metropolis
from pyro_ebm.kernels.settings import require_energy, require_kernel, require_settings
from pyro_ebm.kernels.start import accept_all, check_reference, where
from pyro_ebm.sites import Sites

from .tempering import checked_ladder


# --- tempered transitions ------------------------------------------------------------------------
class TemperedTransitionsState(NamedTuple):
    """The position, the energy there, the path, the inner kernel's state, the journeys so far."""

    x: Sites
    energy: Tensor  # (*batch,)
    path: Path
    inner: KernelState
    journeys: int


@dataclass(frozen=True, eq=False)
class TemperedTransitions(Kernel[TemperedTransitionsState, AcceptanceInfo]):
    r"""A journey up the ladder and down again as one proposal.

    With x₀ the start at β = 1, the journey visits every level upwards and downwards, one step of
    the kernel at each but the first, and is accepted with the probability

    .. math:: \min\Big(1, \prod_i e^{(\beta_{i+1} - \beta_i)(V(\hat x_i) - V(\check x_i))}\Big)

    where x̂ᵢ and x̌ᵢ are the values when β changes between the levels i and i + 1 on the way up (to
    smaller β) and down, and V = E − E_ref.

    What a step of the kernel does with all chains alike, the length of a trajectory of `HMC`, the
    units of `RandomBlocks` and the choice of a `Mixture`, is the same at a level on both ways.
    Without that the proposal would not be its own reverse, and chains that share such choices would
    not be independent.

    `ParallelTempering` keeps replicas at all levels instead, and serves kernels without a reverse.

    Args:
        kernel: What moves the values at every level, with all its settings. It must know its
            reverse (`ReversibleKernel`): kernels with a single Metropolis test do, `Langevin`,
            which has none, and a `Cycle` do not. Of Gibbs it is known where no site's units are
            coupled among themselves: the sites in the opposite order.
        betas: The inverse temperatures, rising, the last one 1.
        reference: The energy at β = 0; zero if left out.

    Raises:
        ValueError: If the ladder is not at least two rising numbers from 0 or above to 1, or if
            the kernel does not know its reverse.
        TypeError: If `kernel` is no kernel, or `reference` no energy.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, GibbsWithGradients, TemperedTransitions, run
        >>> kernel = TemperedTransitions(GibbsWithGradients(), betas=(0.25, 0.5, 1.0))
        >>> chains = run(kernel, BoltzmannMachine.fully_visible(4), 20, warmup=5, seed=0)
        >>> chains.statistics["acceptance_rate"].shape
        torch.Size([4, 20])

    References:
        | Sampling from multimodal distributions using tempered transitions (Neal, 1996)
        | https://doi.org/10.1007/BF00143556
    """

    kernel: Kernel
    betas: tuple[float, ...]
    reference: Energy | None = None

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        if self.reference is not None:
            require_energy(self.reference, "reference")
        object.__setattr__(self, "betas", checked_ladder(self.betas))

    def levels(self, energy: Energy) -> Tensor:  # (levels,)
        """The inverse temperatures as a tensor."""
        return torch.tensor(self.betas, dtype=energy.dtype, device=energy.device)

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return moved_by_any((self.kernel,), energy)

    def init(self, energy: Energy, x: Sites) -> TemperedTransitionsState:
        check_reference(energy, self.reference, self.betas[0])
        require_settings(self.kernel, "TemperedTransitions")
        reverse_of(self.kernel, energy)
        x = accept_all(energy, x)
        path = Path.between(self.reference, energy)
        with torch.no_grad():
            height = energy.evaluate(x)
            inner = self.kernel.init(path.at(self.levels(energy)[-1]), x)
            return TemperedTransitionsState(x, height, path, inner, 0)

    def refresh(
        self, energy: Energy, state: TemperedTransitionsState, x: Sites
    ) -> TemperedTransitionsState:
        path = Path.between(self.reference, energy)
        with torch.no_grad():
            return state._replace(x=x, energy=energy.evaluate(x), path=path)

    @torch.no_grad()
    def step(
        self, energy: Energy, state: TemperedTransitionsState
    ) -> tuple[TemperedTransitionsState, AcceptanceInfo]:
        betas = self.levels(energy)
        levels = [state.path.at(beta) for beta in betas[:-1]]
        steps, difference = betas.diff(), state.path.difference
        ways = [both_ways(self.kernel, energy, state.journeys + k) for k in range(len(levels))]
        legs = list(zip(levels, steps, ways, strict=True))
        x, inner = state.x, state.inner
        log_ratio = torch.zeros_like(state.energy)
        for level, step, (there, _) in reversed(legs):
            log_ratio = log_ratio + step * difference.evaluate(x)
            inner = there.refresh(level, inner, x)
            inner, _ = there.step(level, inner)
            x = inner.x
        for level, step, (_, back) in legs:
            inner = back.refresh(level, inner, x)
            inner, _ = back.step(level, inner)
            x = inner.x
            log_ratio = log_ratio - step * difference.evaluate(x)
        verdict = metropolis(log_ratio)
        x = {name: where(verdict.accepted, value, state.x[name]) for name, value in x.items()}
        height = torch.where(verdict.accepted, energy.evaluate(x), state.energy)
        new = state._replace(x=x, energy=height, inner=inner, journeys=state.journeys + 1)
        return new, AcceptanceInfo(verdict.acceptance_rate)


def both_ways(kernel: Kernel, energy: Energy, number: int) -> tuple[Kernel, Kernel]:
    """The kernel at one level of a journey, and its reverse, with all chains' choices made.

    Args:
        kernel: The kernel.
        energy: The energy.
        number: That of the step, where trajectories have lengths that vary.
    """
    there = decided_by(kernel, energy, number)
    return there, reverse_of(there, energy)
