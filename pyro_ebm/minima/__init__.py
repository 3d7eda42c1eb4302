"""The lowest energy: annealing, descent and proved modes."""

from .annealing import (
    Annealed,
    anneal,
)
from .descent import (
    descend,
)
from .modes import (
    mode,
)

__all__ = [
    "Annealed",
    "anneal",
    "descend",
    "mode",
]
