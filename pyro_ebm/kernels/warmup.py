"""Tuning a kernel before its draws."""

from typing import Any

from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites

from .base import Kernel, after_warmup, in_warmup


def warmup(
    kernel: Kernel, energy: Energy, x: Sites | Tensor, *, steps: int = 500, seed: int | None = None
) -> tuple[Kernel, Any]:
    """A tuned kernel, and its state after the warm-up.

    Args:
        kernel: The kernel; its settings that are None are found, the others are kept.
        energy: The energy.
        x: Values of all its sites for each chain: the more chains, the fewer steps are needed.
        steps: The steps of the warm-up.
        seed: Of the warm-up; the global generators stay untouched. If left out it is drawn from
            them.

    Raises:
        TypeError, ValueError: If the kernel cannot move this energy's sites from x, or `steps` is
            not positive.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; wanted a positive whole number.")
    moving = in_warmup(kernel, steps)
    with forked(chosen_seed(seed), energy.device):
        state = moving.init(energy, energy.accept(x, preferred=None))
        for _ in range(steps):
            state, _ = moving.step(energy, state)
        return after_warmup(moving, state)
