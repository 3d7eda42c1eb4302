"""Draws of one site: exact where the machine is small, else the ends of Markov chains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, terms_of
from pyro_ebm.kernels import (
    Gibbs,
    Kernel,
    Purpose,
    advance,
    after_warmup,
    choose_kernel,
    finite_start,
    in_warmup,
)
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
        kernel: The transition; if left out the one that `choose_kernel` picks. Settings that are
            left open, such as a step size, are found in the first half of the steps.
        steps: Its length.
        patience: Estimated seconds of an exact summation, at each call, beyond which chains are run
            instead.

    Raises:
        ValueError: If `steps` is not positive, or `patience` negative.
        TypeError: If `kernel` is no kernel.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, HMC
        >>> from pyro_ebm.distributions import EnergyDistribution, Sampler
        >>> ring = CallableEnergy(lambda x: 9 * (x.norm(dim=-1) - 2).square(), 2)
        >>> law = EnergyDistribution.up_to_constant(ring, sampler=Sampler(HMC(), steps=40))
        >>> f"{law.sample((50,)).norm(dim=-1).mean():.0f}"
        '2'
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
        x = start(energy, batch)
        tuned = self.steps // 2  # steps in which a kernel finds its settings
        purpose = Purpose.RUN if tuned else Purpose.FIXED
        kernel = in_warmup(self.kernel or default_kernel(energy, purpose), tuned)
        state = advance(kernel, energy, kernel.init(energy, x), tuned)
        kernel, state = after_warmup(kernel, state)
        return advance(kernel, energy, state, self.steps - tuned).x[site]


def default_kernel(energy: Energy, purpose: Purpose) -> Kernel:
    """The kernel that is chosen for an energy.

    Raises:
        ValueError: If none is known for one of its sites.
    """
    try:
        return choose_kernel(energy, purpose)
    except ValueError as error:
        raise ValueError(
            f"{error} To sample() a distribution with it, make it with sampler=Sampler(kernel)."
        ) from None


def start(energy: Energy, batch: Sequence[int]) -> Sites:
    """Where chains start, (*batch, *shape): at random, and, of a single law, where p(x) is not 0.

    Raises:
        ValueError: If there is no such place, or none is known.
    """
    if len(batch) == 1:
        return finite_start(energy, batch[0])
    like = torch.empty((), dtype=energy.dtype, device=energy.device)
    return {name: random_values(site, batch, like) for name, site in energy.sites.items()}


IN_HASTE = Sampler(patience=0.02)  # for laws of which log Z is not wanted


@torch.no_grad()
def draw(
    energy: Energy, site: str, count: int, machines: torch.Size, sampler: Sampler
) -> Tensor:  # (count, *machines, *site.shape)
    """Independent draws of a site from each of the machines that the parameters make."""
    structure = energy.structure()
    law = structure.law
    if law is not None:
        return law.sample(torch.Size([count])).to(energy.dtype)
    if summation.number_of_states(energy.sites[site]) <= summation.MAX_STATES:
        try:
            return from_table(energy, site, count)
        except TooManyStatesError:
            pass
    terms = terms_of(structure)
    if terms is not None and terms.coupled(list(energy.sites)) is None:
        sampler = Sampler(Gibbs(), steps=1)  # of independent units it is an exact draw
    elif exact.seconds(energy, structure=structure) < sampler.patience:
        return exact.sample(energy, count)[site]
    return sampler.draw(energy, site, (count, *machines))


def from_table(energy: Energy, site: str, count: int) -> Tensor:
    """Exact draws from the table of all states of the site."""
    states, table = summation.log_table(energy, site)
    p = table.reshape(len(states), -1).softmax(0).mT  # (machines, states)
    chosen = torch.multinomial(p, count, replacement=True).mT
    return states[chosen].reshape(count, *table.shape[1:], *energy.sites[site].shape)


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
    shaped = draws.reshape([*(batch[k] for k in free), *(batch[k] for k in kept), *event])
    order = [*free, *kept]
    back = [order.index(k) for k in range(len(batch))]
    return shaped.permute([*back, *range(len(batch), shaped.dim())])


def repeats(machines: torch.Size, batch: Sequence[int]) -> int:
    """How many elements of an expanded batch each machine serves."""
    own = max(1, math.prod(machines))
    return math.prod(batch) // own
