"""What a Pyro kernel tells of its steps."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

SHOWN = {"step_size": "step size", "acceptance_rate": "acc. prob"}

SampleStatistics = dict[str, float]  # by the names of sample statistics


class Tally:
    """Counts steps, divergent draws and acceptance of one chain, for each of its blocks."""

    def __init__(self) -> None:
        self.steps = self.draws = 0
        self.divergences: list[int] = []
        self.accepted: dict[str, float] = {}
        self.newest: dict[str, SampleStatistics] = {}

    def add(self, reports: Mapping[str, SampleStatistics], warmup_steps: int) -> None:
        """One step.

        Args:
            reports: What each block reports, by its name; `""` where there is one.
            warmup_steps: How many steps are not counted.
        """
        self.steps += 1
        self.newest = dict(reports)
        if self.steps <= warmup_steps:
            return
        self.draws += 1
        if any(report.get("diverging", 0.0) for report in reports.values()):
            self.divergences.append(self.draws - 1)
        for name, report in reports.items():
            rate = report.get("acceptance_rate", 1.0)
            self.accepted[name] = self.accepted.get(name, 0.0) + rate

    def in_words(self) -> "OrderedDict[str, str]":
        """For the progress bar."""
        return OrderedDict(
            (f"{words} {name}".strip(), f"{report[key]:.3g}")
            for name, report in self.newest.items()
            for key, words in SHOWN.items()
            if key in report
        )

    def summary(self) -> dict[str, Any]:
        """For `MCMC.diagnostics`."""
        rates = {
            f"acceptance rate {name}".strip(): total / self.draws
            for name, total in self.accepted.items()
        }
        return {"divergences": self.divergences, **rates}
