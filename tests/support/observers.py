"""An observer made of a function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro_ebm.learning import AfterEpoch, Progress, Report


@dataclass(frozen=True, eq=False)
class EachEpoch(AfterEpoch):
    """Calls a function after each epoch; what it returns is the report."""

    call: Callable[[Progress], Any]

    def after_epoch(self, progress: Progress) -> Report | None:
        return self.call(progress)
