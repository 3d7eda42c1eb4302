r"""Slow cooling: simulated annealing, descent at zero temperature, and tempered transitions.

All of them go along

.. math:: E_\beta(x) = (1 - \beta)\, E_{\mathrm{ref}}(x) + \beta\, E(x)

from an easy reference (E_ref = 0 unless one is given) to the energy and, where a minimum is wanted,
beyond it to large β.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, Path
from pyro_ebm.kernels import (
    Kernel,
    KernelState,
    Purpose,
    check_reference,
    choose_kernel,
    finite_start,
    given_start,
    laws,
    random_start,
    read_structure,
    require_energy,
    require_kernel,
    require_machines,
    require_settings,
    same_batch,
)
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites


class Annealed(NamedTuple):
    """Where the chains of an annealing ended.

    Args:
        x: The values (chain, *shape).
        energy: E(x) (chain,).

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, anneal
        >>> magnet = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([1.0]))
        >>> anneal(magnet, torch.linspace(0.1, 5.0, 30), seed=0).lowest["visible"].sum().abs()
        tensor(3.)
    """

    x: Sites
    energy: Tensor

    @property
    def lowest(self) -> Sites:
        """The values (*shape) of the chain that ended lowest."""
        best = int(self.energy.argmin())
        return {name: value[best] for name, value in self.x.items()}


def anneal(
    energy: Energy,
    betas: Sequence[float] | Tensor,
    *,
    kernel: Kernel | None = None,
    reference: Energy | None = None,
    chains: int = 64,
    initial: Sites | Tensor | None = None,
    seed: int | None = None,
) -> Annealed:
    """One step of a kernel at each of a series of inverse temperatures, by many chains.

    `mode` chooses the temperatures, and descends at the end.

    Args:
        energy: The energy.
        betas: The inverse temperatures (steps,), none negative; 1 is the energy's own, and a
            minimum is sought by going far above it. States that are forbidden are so at 0 too.
        kernel: What moves the chains: an object with all its settings, since there is no warm-up;
            a site that it does not move stays at its start. If left out it is
            `choose_kernel(energy, Purpose.FIXED)`.
        reference: The energy at β = 0; zero if left out. With one, β is at most 1.
        chains: How many; those of `initial` where it is given.
        initial: Where they start (chain, *shape), by site; at random if left out.
        seed: The global generators stay untouched. If left out it is drawn from them.

    Raises:
        TypeError, ValueError: If an argument is not what is wanted, or if no kernel is given and a
            site is real and its conditional law is not known.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, anneal
        >>> edges = [(0, 1), (1, 2), (0, 2)]  # three spins that cannot all disagree
        >>> triangle = BoltzmannMachine.on_graph(edges, couplings=torch.tensor([-1.0]))
        >>> anneal(triangle, torch.linspace(0.1, 5.0, 30), chains=16, seed=0).energy.min()
        tensor(-1.)

    References:
        | Optimization by simulated annealing (Kirkpatrick, Gelatt & Vecchi, 1983)
        | https://doi.org/10.1126/science.220.4598.671
    """
    require_energy(energy, "energy")
    if reference is not None:
        require_energy(reference, "reference")
    schedule = checked_schedule(betas, energy, reference)
    with forked(chosen_seed(seed), energy.device), torch.no_grad():
        path = Path.between(reference, energy)
        if kernel is None:
            kernel = choose_kernel(path.at(schedule[-1]), Purpose.FIXED)
        require_kernel(kernel)
        require_settings(kernel, "anneal")
        x = allowed_start(energy, chains) if initial is None else given_start(energy, initial)
        require_machines(same_batch(x, energy), laws(read_structure(energy), x))
        state: KernelState | None = None
        # Not 0, at which nothing is forbidden: chains would come to where no later step leads back.
        for beta in schedule.clamp_min(torch.finfo(schedule.dtype).tiny):
            here = path.at(beta)
            state = kernel.init(here, x) if state is None else kernel.refresh(here, state, state.x)
            state, _ = kernel.step(here, state)
        assert state is not None  # a schedule has a step at least
        return Annealed(state.x, energy.evaluate(state.x))


def checked_schedule(
    betas: Sequence[float] | Tensor, energy: Energy, reference: Energy | None
) -> Tensor:  # (steps,)
    """Inverse temperatures as a tensor of the energy's kind.

    Raises:
        ValueError: If there are none, or one is negative or not finite, or above 1 where there is
            a reference.
    """
    schedule = torch.as_tensor(betas, dtype=energy.dtype, device=energy.device)
    if schedule.dim() != 1 or not len(schedule):
        raise ValueError(
            f"betas has the shape {tuple(schedule.shape)}; wanted inverse temperatures (steps,), "
            f"for example torch.linspace(0.1, 3, 1000)."
        )
    least, largest = float(schedule.min()), float(schedule.max())
    if not (least >= 0 and largest < math.inf):
        raise ValueError(f"betas go from {least:g} to {largest:g}; wanted finite numbers from 0.")
    check_reference(energy, reference, least)
    if reference is not None and largest > 1:
        raise ValueError(
            f"betas go up to {largest:g}, where the reference would count with a negative weight; "
            f"wanted at most 1, or no reference."
        )
    return schedule


def allowed_start(energy: Energy, chains: int) -> Sites:
    """A random start of finite energy; where none is found so, any."""
    try:
        return finite_start(energy, chains)
    except ValueError:
        return random_start(energy, chains)


def knows_all(energy: Energy) -> bool:
    """Whether an energy knows the conditional laws of all its sites."""
    structure = energy.structure()
    return all(structure.knows(site) for site in energy.sites)
