"""Tuning a kernel before its draws."""

from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.seeding import chosen_seed, forked
from pyro_ebm.sites import Sites, whole
from pyro_ebm.stopping import carry, warn_with, whole_steps

from .base import Kernel, KernelState, after_warmup, in_warmup
from .settings import require_energy, require_kernel


def warmup(
    kernel: Kernel,
    energy: Energy,
    initial: Sites | Tensor,
    *,
    steps: int = 500,
    seed: int | None = None,
) -> tuple[Kernel, KernelState]:
    """A tuned kernel, and its state after the warm-up.

    Ctrl-C ends the warm-up after the step under way and keeps what it has found so far. Any other
    exception of a step has that as its `kernel` and `state`.

    Args:
        kernel: The kernel; its settings that are None are found, the others are kept.
        energy: The energy.
        initial: Where the chains start (chain, *site.shape), by site. The more chains, the fewer
            steps are needed.
        steps: The steps of the warm-up.
        seed: Of the warm-up; the global generators stay untouched. If left out it is drawn from
            them.

    Warns:
        UserWarning: If it was stopped by hand.

    Raises:
        TypeError, ValueError: If `kernel` is no kernel or `energy` no energy, the kernel cannot
            move this energy's sites from `initial`, or `steps` is not positive.

    Example:
        >>> import torch
        >>> from pyro_ebm import CallableEnergy, MALA, warmup
        >>> normal = CallableEnergy(lambda x: (x.square() / 2).sum(-1), 3)
        >>> kernel, state = warmup(MALA(), normal, torch.randn(10, 3), steps=30, seed=0)
        >>> kernel.unset(), state.x["visible"].shape
        ((), torch.Size([10, 3]))
    """
    require_kernel(kernel, "HMC()")
    require_energy(energy, "energy")
    count = whole(steps)
    if count is None or count < 1:
        raise ValueError(f"steps is {steps!r}; wanted a positive whole number.")
    moving = in_warmup(kernel, count)
    state, done = None, 0
    try:
        with whole_steps() as look, forked(chosen_seed(seed), energy.device):
            state = moving.init(energy, energy.accept(initial, preferred=None))
            while done < count:
                state, done = moving.step(energy, state)[0], done + 1
                look()
            return after_warmup(moving, state)
    except BaseException as error:
        if state is None:
            raise
        kernel, state = after_warmup(moving, state)
        if not isinstance(error, KeyboardInterrupt):
            carry(error, kernel=kernel, state=state)
            raise
        message = f"The warm-up was stopped after {done} of {count} steps; what it found is kept."
        warn_with(message, UserWarning, 2, kernel=kernel, state=state)
        return kernel, state
