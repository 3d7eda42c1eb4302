"""The checks of kernels' settings."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.sites import covers

from .base import Kernel, TunableKernel, unset_of


def require_energy(energy: Energy, name: str) -> None:
    """Refuses what is no energy.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(energy, Energy):
        raise TypeError(f"{name} is {energy!r}; wanted an energy, for example a BoltzmannMachine.")


def require_kernel(kernel: Kernel, example: str = "Gibbs()") -> None:
    """Refuses what is no kernel, a class of kernels among it.

    Args:
        kernel: What was given.
        example: A kernel that suits, for the message.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel is {kernel!r}; wanted a kernel, for example {example}.")


def require_settings(kernel: Kernel, user: str) -> None:
    """Refuses a kernel whose settings are left to a warm-up, for a user that has none.

    Raises:
        ValueError: If one is None.
    """
    if missing := unset_of(kernel):
        raise ValueError(
            f"{type(kernel).__name__} has no {' and no '.join(missing)}, and {user} has no warm-up "
            f"to find it. Give numbers; such as suit β = 1 are found by "
            f"tuned, _ = warmup(kernel, energy, x)."
        )


def require_names(sites: Sequence[str] | None, example: str) -> None:
    """Refuses sites that are no tuple of names; None means all that a kernel can move.

    Raises:
        ValueError: If they are not.
    """
    if isinstance(sites, str) or (sites is not None and not sites):
        raise ValueError(
            f"sites is {sites!r}; wanted a tuple of names, for example ({example!r},)."
        )


def require_known_sites(known: Collection[str], names: Sequence[str], mover: str) -> None:
    """Refuses names that are none of the energy's sites.

    Raises:
        ValueError: If there is one.
    """
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{mover} is to move {unknown}, but the energy has {list(known)}.")


def require_once(names: tuple[str, ...]) -> None:
    """Refuses names of which one comes twice.

    Raises:
        ValueError: If one does.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"sites is {names!r}; wanted every name once.")


def left_out(**given: object) -> tuple[str, ...]:
    """The names of those settings that are None."""
    return tuple(name for name, value in given.items() if value is None)


Length = float | Tensor  # of a step: one for all, or one for each element of the batch


def require_positive(name: str, value: Length | None) -> None:
    """Refuses a setting that is neither None nor positive: a number, or a tensor of them.

    Raises:
        ValueError: If it is.
    """
    if isinstance(value, Tensor):
        fine = value.is_floating_point() and bool(((value > 0) & value.isfinite()).all())
    else:
        fine = value is None or (isinstance(value, int | float) and 0 < value < math.inf)
    if not fine:
        raise ValueError(
            f"{name} is {value!r}; wanted a positive number, or None to have it found."
        )


def require_broadcast(name: str, value: Length | None, batch: torch.Size) -> None:
    """Refuses a tensor of lengths that does not broadcast to the chains (*batch,).

    Raises:
        ValueError: If it does not.
    """
    if isinstance(value, Tensor) and not covers(batch, value.shape):
        raise ValueError(
            f"{name} has the shape {tuple(value.shape)}, and the chains {tuple(batch)}; wanted one "
            f"number for all, or a tensor that broadcasts to the chains."
        )


def require_probability(name: str, value: float) -> None:
    """Refuses what is not between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if not (isinstance(value, int | float) and 0 < value < 1):
        raise ValueError(f"{name} is {value!r}; wanted a number between 0 and 1.")


def require_set(kernel: TunableKernel) -> None:
    """Refuses to start while settings are left to the warm-up.

    Raises:
        ValueError: If one is None.
    """
    if missing := kernel.unset():
        own = type(kernel).__name__
        raise ValueError(
            f"{own} has no {' and no '.join(missing)} yet. Give {missing[0]}, or have it found "
            f"in a warm-up: run(..., warmup=500), or warmup({own}(), energy, x)."
        )
