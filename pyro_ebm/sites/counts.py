"""Whole numbers as users give them: Python's, NumPy's and torch's, and no truth values."""

import operator


def whole(number: object) -> int | None:
    """A whole number of any kind as an int; None if it is none."""
    if isinstance(number, bool) or str(getattr(number, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(number)  # type: ignore[arg-type] # which refuses what is none
    except (TypeError, ValueError, RuntimeError):
        return None


def is_count(number: object, least: int = 1) -> bool:
    """Whether it is a whole number of any kind, positive or at least another one."""
    found = whole(number)
    return found is not None and found >= least
