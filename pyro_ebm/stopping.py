"""Stopping: what is undone whatever happens, and Ctrl-C that waits for the end of a step.

The loops of `run`, `fit` and `warmup` go from one whole step to the next. In the main thread a
first Ctrl-C is noted and raised between two steps; a second one is raised at once. Wherever an
exception comes from, a loop returns to the end of its last whole step.
"""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def at_last(undo: Callable[[], object]) -> Iterator[None]:
    """Calls `undo` at the end; twice on an exception, which may have come in its midst."""
    try:
        try:
            yield
        finally:
            undo()
    except BaseException:
        undo()
        raise


def carry(error: BaseException, **made: object) -> None:
    """Gives an exception what was made before it, as attributes, and a note that says so."""
    vars(error).update(made)
    error.add_note(f"What was made before it is in the exception's `{'`, `'.join(made)}`.")


def warn_with(message: str, category: type[Warning], stacklevel: int, **made: object) -> None:
    """Warns; where warnings are errors, the error carries what was made before it.

    Args:
        message: What is said.
        category: The kind of warning.
        stacklevel: Of the caller, as in `warnings.warn`.
        made: By name.
    """
    try:
        warnings.warn(message, category, stacklevel=stacklevel + 1)
    except category as error:
        carry(error, **made)
        raise


class Waiting:
    """A handler of signals: notes the first one, and raises KeyboardInterrupt at the others."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def look(self) -> None:
        """Ends the loop if a signal has come.

        Raises:
            KeyboardInterrupt: If one has.
        """
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def whole_steps() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits until the loop inside calls what is yielded, or ends; then it is raised.

    So do all other signals whose handler is Python's for Ctrl-C. A handler of the caller's own is
    left alone, and outside the main thread nothing is changed: signals do not come there.

    Raises:
        KeyboardInterrupt: If a signal has come.
    """
    waiting = Waiting()
    numbers: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        usual = signal.default_int_handler
        numbers = [n for n in signal.Signals if signal.getsignal(n) is usual]

    def put_back() -> None:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    with at_last(put_back):
        for number in numbers:
            signal.signal(number, waiting)
        yield waiting.look
    waiting.look()


@contextmanager
def stopping_on(*signals: signal.Signals) -> Iterator[None]:
    """Inside, the signals stop as Ctrl-C does: draws and parameters of whole steps are kept.

    `run`, `resume`, `sample`, `warmup`, `fit` and `infer.MCMC` then end as they do on Ctrl-C;
    anything else is left by a KeyboardInterrupt. At the end the old handlers are put back.

    Args:
        signals: For example `signal.SIGTERM`, which a batch system sends before it kills.

    Raises:
        ValueError: If it is called outside the main thread, or a signal cannot be handled.

    Example:
        >>> import signal
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, run, stopping_on
        >>> with stopping_on(signal.SIGTERM):
        ...     chains = run(Gibbs(), BoltzmannMachine.restricted(4, 3), seed=0)
        >>> chains.interrupted
        False
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(
            "stopping_on was called in another thread, and signals come to the main thread alone; "
            "call it there, around what starts the threads."
        )
    old: dict[signal.Signals, Any] = {}

    def put_back() -> None:
        for number, handler in old.items():
            if handler is not None:  # one that Python did not set cannot be put back
                signal.signal(number, handler)

    with at_last(put_back):
        for number in signals:
            try:
                old[number] = signal.signal(number, signal.default_int_handler)
            except (OSError, TypeError) as error:
                raise ValueError(
                    f"{number!r} cannot be handled ({error}); wanted for example signal.SIGTERM."
                ) from None
        yield
