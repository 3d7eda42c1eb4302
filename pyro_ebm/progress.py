"""Progress bars: text on the standard error stream of terminals and notebooks."""

import sys
from typing import Literal, NoReturn

from tqdm import tqdm


def progress(
    name: str, total: int, unit: str, *, at_end: Literal["stays", "goes"], done: int = 0
) -> "tqdm[NoReturn]":
    """A bar with its name and total, from the first second; a context manager.

    It is shown in terminals and in notebooks, as text, which needs no widgets; nowhere else.

    Args:
        name: What makes progress.
        total: How many units there are.
        unit: What is counted, in the singular.
        at_end: Whether the bar stays where it is or is wiped.
        done: How many are done already.
    """
    return tqdm(
        desc=name,
        total=total,
        unit=unit,
        initial=done,
        disable=not is_watched(),
        leave=at_end == "stays",
    )


def is_watched() -> bool:
    """Whether somebody sees the standard error stream as it is written."""
    return sys.stderr.isatty() or in_notebook()


def in_notebook() -> bool:
    """Whether the program is a notebook's, whose streams are no terminals."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def tell(message: str) -> None:
    """Writes a line above the bars, where they are shown."""
    if is_watched():
        tqdm.write(message, file=sys.stderr)
