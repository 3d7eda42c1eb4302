"""Files that keep energies and chains: what is in them is described in plain words and numbers."""

from .described import (
    ROWS as ROWS,
    Describer as Describer,
    Given as Given,
    Maker as Maker,
    NotStorableError,
    Settings as Settings,
    by_attributes as by_attributes,
    put as put,
    register,
)
from .file import Content as Content, UnreadableFileError, read as read, write as write

__all__ = ["NotStorableError", "UnreadableFileError", "register"]
