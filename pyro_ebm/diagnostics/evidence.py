"""What a verdict is, and what it rests on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

INDEPENDENT = "independent draws of the exact law"  # the name of that evidence


class Verdict(StrEnum):
    """What can be said of chains; `str` is in words.

    Example:
        >>> from pyro_ebm import Verdict
        >>> [str(verdict) for verdict in Verdict]
        ['mixed', 'not mixed', 'cannot tell']
    """

    MIXED = "mixed"
    NOT_MIXED = "not mixed"
    CANNOT_TELL = "cannot tell"


class Evidence(NamedTuple):
    """One number, and what it says.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, diagnose, run
        >>> machine = BoltzmannMachine.restricted(6, 4)
        >>> found = diagnose(run(Gibbs(), machine, 100, warmup=20, chains=16, seed=0))
        >>> found.evidence[0].value, found.evidence[0].wanted
        (0.0, '0')
    """

    name: str  # of what
    value: float
    wanted: str  # in words: "at most 1.05"
    verdict: Verdict
    detail: str = ""  # where the worst is
    advice: str = ""  # what to try where the verdict is not "mixed"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """One verdict in words, with the evidence and what to try next; `print` shows all three.

    Args:
        verdict: The worst that a piece of evidence says: "not mixed" before "cannot tell" before
            "mixed".
        evidence: Every check that was made.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, Gibbs, diagnose, run
        >>> found = diagnose(run(Gibbs(), BoltzmannMachine.restricted(6, 4), 5, warmup=0, seed=0))
        >>> str(found.verdict), found.advice
        ('cannot tell', ('Run longer: the chains remember too long for their number of draws.',))
    """

    verdict: Verdict
    evidence: tuple[Evidence, ...]

    @property
    def against(self) -> tuple[Evidence, ...]:
        """The evidence for anything but "mixed", the heaviest first."""
        order = (Verdict.NOT_MIXED, Verdict.CANNOT_TELL)
        return tuple(e for verdict in order for e in self.evidence if e.verdict is verdict)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to try next against the worst that was found, each once."""
        worst = (e for e in self.against if e.verdict is self.verdict)
        return tuple(dict.fromkeys(e.advice for e in worst if e.advice))

    def __repr__(self) -> str:
        found = [shown(evidence.value) for evidence in self.evidence]
        columns = [
            ("", *("  " if e.verdict is Verdict.MIXED else "! " for e in self.evidence)),
            ("", *(e.name for e in self.evidence)),
            ("found", *found),
            ("wanted", *(e.wanted for e in self.evidence)),
            ("", *(e.detail for e in self.evidence)),
        ]
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*columns, strict=True)
        ]
        lines[0:0] = [self.summary, ""]
        if self.advice:
            lines += ["", "What to try next:", *(f"- {advice}" for advice in self.advice)]
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if not self.against:
            told = next((e for e in self.evidence if e.name == INDEPENDENT), None)
            if told is not None:
                return f"Mixed: {told.detail}, which are independent."
            return "Mixed: the chains agree, and their draws suffice."
        first = self.against[0]
        where = f" ({first.detail})" if first.detail else ""
        return (
            f"{str(self.verdict).capitalize()}: {first.name} is {shown(first.value)}, wanted "
            f"{first.wanted}{where}."
        )


def weigh(evidence: list[Evidence]) -> Diagnosis:
    """The verdict of all evidence together."""
    verdicts = {e.verdict for e in evidence}
    order = (Verdict.NOT_MIXED, Verdict.CANNOT_TELL, Verdict.MIXED)
    return Diagnosis(next(v for v in order if v in verdicts), tuple(evidence))


def shown(value: float) -> str:
    """A number, as short as it may be."""
    if value == int(value) if abs(value) < 1e9 else False:
        return str(int(value))
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 else f"{value:.3g}"
