"""What is claimed of the discrete sites of a Pyro model, and why, as text."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Dependence:
    """What is claimed of one discrete site.

    Args:
        terms: The sites whose terms depend on it: itself, those that have it as a parent, and
            factors.
        independent: The plates along which its elements are independent given the rest, and are
            drawn at once.
        obstacles: By each of the other plates, why they are not, or not known to be.
        blocks: How many draws, one after another, a sweep over it takes.
        way: How its conditional laws are computed.
    """

    terms: tuple[str, ...]
    independent: tuple[str, ...]
    obstacles: Mapping[str, str]
    blocks: int
    way: str

    def __str__(self) -> str:
        lines = [f"enters {', '.join(self.terms)}"]
        if self.independent:
            lines.append(f"drawn at once along {', '.join(self.independent)}")
        lines += [
            f"one after another along {plate}: {why}" for plate, why in self.obstacles.items()
        ]
        return "; ".join([*lines, f"blocks: {self.blocks}", self.way])


class Dependences(dict[str, Dependence]):
    """What is claimed of each discrete site, by site; `print` shows it."""

    def __repr__(self) -> str:
        return "\n".join(f"{site}: {own}" for site, own in self.items())
