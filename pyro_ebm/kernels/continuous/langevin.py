r"""Langevin dynamics: down the energy, with noise.

.. math:: u' = u - \tau \Sigma \, \partial U(u) + \sqrt{2 \tau} \, L \xi, \quad \xi \sim N(0, I)

with the step size τ and the inverse mass :math:`\Sigma = L L^\top`, in unconstrained coordinates.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.kernels.base import ReversibleKernel
from pyro_ebm.kernels.settings import Length, require_broadcast, require_positive, require_set
from pyro_ebm.kernels.step_size import StepInfo, reported
from pyro_ebm.sites import Sites

from .coordinates import Coordinates, moved_sites
from .dynamics import DynamicsState, draw_momentum, init_dynamics, propose, refresh_dynamics, settle
from .mass import DIAGONAL_MASS, UNIT_MASS, Mass
from .tuning import SingleStepMover


class LangevinInfo(NamedTuple):
    """The step size τ of this step (*batch,)."""

    step_size: Tensor


@dataclass(frozen=True, eq=False)
class Langevin(ReversibleKernel[DynamicsState, LangevinInfo]):
    r"""Unadjusted Langevin dynamics. Biased: no step is rejected.

    Its law differs from :math:`e^{-E}` by O(τ): of a normal law with variance σ² it makes the
    variance :math:`\sigma^2 / (1 - \tau / 2 \sigma^2)`. Use `MALA` for the law itself. Step sizes
    that decrease as

    .. math:: \tau_t = \tau \, (1 + t / t_0)^{-\gamma}, \quad \tfrac{1}{2} < \gamma \le 1

    take the bias away in the long run, and serve energies that are estimated on minibatches (SGLD):
    an `Energy` of one's own whose `evaluate` draws them (a `CallableEnergy` must be deterministic).
    A step takes the gradient of one estimate. One minibatch for all chains makes them dependent;
    rows drawn for each chain do not.

    Args:
        sites: The sites to move; all continuous ones if left out.
        step_size: τ, of the first step.
        power: γ; 0 keeps the step size.
        delay: t₀, in steps.
        mass: M = Σ⁻¹; the unit matrix if left out.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        The mean of 1,000 normal numbers with a flat prior, from 50 of them at a time:

        >>> from pyro_ebm import Energy, Site, WithoutTerms, run
        >>> class Posterior(Energy):
        ...     dtype, device = torch.float32, torch.device("cpu")
        ...     sites = {"mean": Site(torch.distributions.constraints.real, torch.Size([]))}
        ...     data = 3 + torch.linspace(-1.7, 1.7, 1000)
        ...
        ...     def evaluate(self, x):
        ...         rows = torch.randint(1000, (*x["mean"].shape, 50))
        ...         return (x["mean"][..., None] - self.data[rows]).square().sum(-1) / 2 * 1000 / 50
        ...
        ...     def structure(self):
        ...         return WithoutTerms(self)
        >>> kernel = Langevin(step_size=1e-3, power=0.55, delay=10.0)
        >>> chains = run(kernel, Posterior(), 300, warmup=300, chains=16, seed=0)
        >>> f"{chains.draws['mean'].mean():.2f}"
        '3.00'

    References:
        | Exponential convergence of Langevin distributions and their discrete approximations
        | (Roberts & Tweedie, 1996) https://doi.org/10.2307/3318418
        | Bayesian learning via stochastic gradient Langevin dynamics
        | (Welling & Teh, 2011) https://dl.acm.org/doi/10.5555/3104482.3104568
    """

    sites: tuple[str, ...] | None = None
    step_size: float = 0.01
    power: float = 0.0
    delay: float = 1.0
    mass: Mass = UNIT_MASS

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("delay", self.delay)
        if not 0 <= self.power <= 1:
            raise ValueError(f"power is {self.power!r}; wanted a number from 0 to 1.")

    def moves(self, energy: Energy) -> tuple[str, ...]:
        """The sites that it moves."""
        return moved_sites(energy, self.sites)

    def reversed(self, energy: Energy) -> Self:
        """None is known, whatever the energy.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "Langevin has no Metropolis test and no reverse. Use MALA(step_size=...), which has."
        )

    def init(self, energy: Energy, x: Sites) -> DynamicsState:
        return init_dynamics(energy, self.sites, x, self.mass, "Langevin")

    def refresh(self, energy: Energy, state: DynamicsState, x: Sites) -> DynamicsState:
        return refresh_dynamics(energy, self.sites, state, x)

    @torch.no_grad()
    def step(self, energy: Energy, state: DynamicsState) -> tuple[DynamicsState, LangevinInfo]:
        coordinates = Coordinates.of(energy, self.sites)
        tau = self.step_size * (1 + state.steps / self.delay) ** -self.power
        length = math.sqrt(2 * tau)
        noise = draw_momentum(state.point.position)
        self.mass.kick_(noise, state.point.gradient, length / 2)
        position = self.mass.drift_(state.point.position.clone(), noise, length)
        point = coordinates.slope(energy, state.x, position)
        x = {**state.x, **coordinates.to_sites(position)}
        info = LangevinInfo(torch.full_like(point.energy, tau))
        return DynamicsState(x, point, state.steps + 1), info


@dataclass(frozen=True, eq=False)
class MALA(SingleStepMover[DynamicsState]):
    """Langevin dynamics with a Metropolis test: exact for every step size.

    `HMC` makes several such steps between two tests, and is the better choice of most.

    Args:
        sites: The sites to move; all continuous ones if left out.
        step_size: τ; one for all chains, or a tensor that broadcasts to them (*batch,).
        mass: M = Σ⁻¹.
        target_acceptance: The mean acceptance that the warm-up finds τ for; more where chains get
            stuck in narrow places.

    Raises:
        ValueError: If the step size is not positive.

    Example:
        >>> from pyro_ebm import CallableEnergy, MALA, run
        >>> normal = CallableEnergy(lambda x: (x.square() / 2).sum(-1), 3)
        >>> chains = run(MALA(step_size=1.0), normal, 50, warmup=10, seed=0)
        >>> chains.statistics["acceptance_rate"].shape
        torch.Size([4, 50])

    References:
        | Exponential convergence of Langevin distributions and their discrete approximations
        | (Roberts & Tweedie, 1996) https://doi.org/10.2307/3318418
    """

    sites: tuple[str, ...] | None = None
    step_size: Length | None = None
    mass: Mass = DIAGONAL_MASS
    target_acceptance: float = 0.574
    size_name = "step_size"

    def moves(self, energy: Energy) -> tuple[str, ...]:
        return moved_sites(energy, self.sites)

    def init(self, energy: Energy, x: Sites) -> DynamicsState:
        require_set(self)
        state = init_dynamics(energy, self.sites, x, self.mass, "MALA")
        require_broadcast("step_size", self.step_size, state.energy.shape)
        return state

    def refresh(self, energy: Energy, state: DynamicsState, x: Sites) -> DynamicsState:
        return refresh_dynamics(energy, self.sites, state, x)

    @torch.no_grad()
    def step(self, energy: Energy, state: DynamicsState) -> tuple[DynamicsState, StepInfo]:
        assert self.step_size is not None  # checked in `init`
        coordinates = Coordinates.of(energy, self.sites)
        one_step = (2 * self.step_size) ** 0.5, 1
        proposal = propose(energy, coordinates, state, self.mass, one_step)
        after, verdict = settle(coordinates, state, proposal)
        rate = verdict.acceptance_rate
        return after, StepInfo(rate, reported(self.step_size, rate))
