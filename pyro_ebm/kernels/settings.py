"""The checks of kernels' settings."""

import math

from .base import Kernel


def require_positive(name: str, value: float | None) -> None:
    """Refuses a setting that is neither None nor a positive number.

    Raises:
        ValueError: If it is.
    """
    if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(
            f"{name} is {value!r}; wanted a positive number, or None to have it found."
        )


def require_probability(name: str, value: float) -> None:
    """Refuses what is not between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if not (isinstance(value, int | float) and 0 < value < 1):
        raise ValueError(f"{name} is {value!r}; wanted a number between 0 and 1.")


def require_set(kernel: Kernel, *names: str) -> None:
    """Refuses to start while settings are left to the warm-up.

    Raises:
        ValueError: If one is None.
    """
    if missing := [name for name in names if getattr(kernel, name) is None]:
        own = type(kernel).__name__
        raise ValueError(
            f"{own} has no {' and no '.join(missing)} yet. Give {missing[0]}, or have it found: "
            f"run(...) with a schedule that has a warm-up, or warmup({own}(), energy, x)."
        )
