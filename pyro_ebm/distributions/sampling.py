"""Draws of one site: exact where the machine is small, else the ends of Markov chains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import DistributionEnergy, Energy, PairwiseEnergy, knows_conditional
from pyro_ebm.kernels import HMC, Gibbs, Kernel, advance
from pyro_ebm.partition import TooManyStatesError, exact
from pyro_ebm.sites import Sites, is_count, random_values

from . import summation


@dataclass(frozen=True, eq=False)
class Sampler:
    """How `sample` draws where no exact draw is possible: each draw is the end of its own chain.

    Draws are exact where a table of 2**16 states or a summation of `patience` seconds gives them.
    The chains start at random, scattered over the support. So the draws are independent of each
    other, and each follows p(x) as closely as `steps` transitions bring it there.

    Args:
        kernel: The transition. If left out: Gibbs over all sites where the energy knows its
            conditional laws; else, where all sites are continuous, HMC of ten leapfrog steps, whose
            step size is chosen at the start and again half-way.
        steps: Its length.
        patience: Estimated seconds of an exact summation, at each call, beyond which chains are run
            instead.

    Raises:
        ValueError: If `steps` is not positive, or `patience` negative.
        TypeError: If `kernel` is no kernel.
    """

    kernel: Kernel | None = None
    steps: int = 500
    patience: float = 2.0

    def __post_init__(self) -> None:
        if not is_count(self.steps):
            raise ValueError(f"steps is {self.steps!r}; wanted a positive whole number.")
        if not self.patience >= 0:
            raise ValueError(f"patience is {self.patience!r}; wanted a number of seconds.")
        if self.kernel is not None and not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel is {self.kernel!r}; wanted a kernel, for example Gibbs().")

    def draw(self, energy: Energy, site: str, batch: Sequence[int]) -> Tensor:
        """The ends of chains (*batch, *site.shape)."""
        like = torch.empty((), dtype=energy.dtype, device=energy.device)
        x = {name: random_values(s, batch, like) for name, s in energy.sites.items()}
        for steps in (self.steps // 2, self.steps - self.steps // 2):
            kernel = self.kernel or default_kernel(energy, x)
            x = advance(kernel, energy, kernel.init(energy, x), steps).x
        return x[site]


def default_kernel(energy: Energy, x: Sites) -> Kernel:
    """A kernel for an energy, by what it knows of itself.

    Raises:
        TypeError: If there is none for all its sites.
    """
    if all(knows_conditional(energy, name) for name in energy.sites):
        return Gibbs()
    if discrete := [name for name, site in energy.sites.items() if site.support.is_discrete]:
        raise TypeError(
            f"sample() needs a kernel to draw from {type(energy).__name__}, which does not know "
            f"the conditional laws of {discrete}: give a distribution sampler=Sampler(kernel)."
        )
    return rough_hmc(energy, x)


IN_HASTE = Sampler(patience=0.02)  # for laws of which log Z is not wanted
LEAPFROGS = 10
ACCEPTED = 0.8  # about the best acceptance rate of HMC (Beskos et al., 2013: 0.65 at least)


def rough_hmc(energy: Energy, x: Sites) -> HMC:
    """HMC with the largest step size, by halving, of which most chains' proposals are accepted."""
    step_size = 1.0
    for _ in range(20):
        kernel = HMC(step_size=step_size, trajectory_length=LEAPFROGS * step_size)
        _, info = kernel.step(energy, kernel.init(energy, x))
        if float(info.acceptance_rate.mean()) > ACCEPTED:
            break
        step_size /= 2
    return kernel


@torch.no_grad()
def draw(
    energy: Energy, site: str, count: int, machines: torch.Size, sampler: Sampler
) -> Tensor:  # (count, *machines, *site.shape)
    """Independent draws of a site from each of the machines that the parameters make."""
    if isinstance(energy, DistributionEnergy) and energy.is_normalised:
        return energy.distribution.sample(torch.Size([count])).to(energy.dtype)
    if summation.number_of_states(energy.sites[site]) <= summation.MAX_STATES:
        try:
            return from_table(energy, site, count, machines)
        except TooManyStatesError:
            pass
    if not machines and exact.seconds(energy) < sampler.patience:
        return exact.sample(energy, count)[site]
    if isinstance(energy, PairwiseEnergy) and energy.read().coupled(list(energy.sites)) is None:
        sampler = Sampler(Gibbs(), steps=1)  # of independent units it is an exact draw
    return sampler.draw(energy, site, (count, *machines))


def from_table(energy: Energy, site: str, count: int, machines: torch.Size) -> Tensor:
    """Exact draws from the table of all states of the site."""
    states, table = summation.log_table(energy, site, machines)
    p = table.reshape(len(states), -1).softmax(0).mT  # (machines, states)
    chosen = torch.multinomial(p, count, replacement=True).mT
    return states[chosen].reshape(count, *machines, *energy.sites[site].shape)


def spread(draws: Tensor, machines: torch.Size, batch: Sequence[int]) -> Tensor:
    """Draws (count, *machines, *event) as (*batch, *event), batch being an expansion of machines.

    Args:
        draws: As many for each machine as there are elements of the batch that use it.
        machines: The batch shape of the parameters, at the right of `batch`.
        batch: The wanted one.
    """
    own = (1,) * (len(batch) - len(machines)) + tuple(machines)
    event = draws.shape[1 + len(machines) :]
    free = [k for k, size in enumerate(own) if size != batch[k] or (size == 1 and batch[k] == 1)]
    kept = [k for k in range(len(batch)) if k not in free]
    shaped = draws.reshape(*(batch[k] for k in free), *(batch[k] for k in kept), *event)
    order = [*free, *kept]
    back = [order.index(k) for k in range(len(batch))]
    return shaped.permute(*back, *range(len(batch), shaped.dim()))


def repeats(machines: torch.Size, batch: Sequence[int]) -> int:
    """How many elements of an expanded batch each machine serves."""
    own = max(1, math.prod(machines))
    return math.prod(batch) // own
