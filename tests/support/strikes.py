"""Exceptions that come at a chosen line of the library, as Ctrl-C may."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pyro_ebm

PACKAGE = str(Path(pyro_ebm.__file__).parent)


class Struck(BaseException):
    """What nothing but a finally and an `except BaseException` catches."""


class Outcome(NamedTuple):
    """What came of a call: a value, or an exception."""

    value: Any
    error: BaseException | None


class Strike:
    """Counts the lines of the library that a call runs through, and raises before one of them.

    Args:
        at: The number of that line, from 0; none if left out.
        error: What is raised.
        mark: The name of a function, whose first line's number is kept in `marked`.
    """

    def __init__(
        self, at: int | None = None, error: type[BaseException] = Struck, mark: str = ""
    ) -> None:
        self.at, self.error, self.mark = at, error, mark
        self.count, self.marked, self.where = 0, None, ""

    def __call__(self, call: Callable[[], Any]) -> Outcome:
        old = sys.gettrace()
        sys.settrace(self.enter)
        try:
            return Outcome(call(), None)
        except (Struck, KeyboardInterrupt) as error:
            return Outcome(None, error)
        finally:
            sys.settrace(old)

    def enter(self, frame: FrameType, event: str, _: object) -> Any:
        """Traces the functions of the library."""
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if self.marked is None and frame.f_code.co_qualname == self.mark:
            self.marked = self.count
        return self.line

    def line(self, frame: FrameType, event: str, _: object) -> Any:
        """Counts a line; raises before the chosen one."""
        if event == "line":
            if self.count == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.count += 1
                raise self.error
            self.count += 1
        return self.line
