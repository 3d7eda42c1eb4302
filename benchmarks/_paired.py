"""Timing two things in turn, so that a machine whose speed drifts does not favour one of them."""

import statistics
import time
from collections.abc import Callable

ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def paired(
    bound: Callable[[], object], works: dict[str, Callable[[], object]]
) -> tuple[float, dict[str, tuple[float, float]]]:
    """The bound's median seconds, and for each work its median seconds and share of the bound.

    The share is the median over the rounds of (bound / work), both of the same round.
    """
    everything = {"": bound, **works}
    for work in everything.values():
        work()
    rounds = [{name: seconds(work) for name, work in everything.items()} for _ in range(ROUNDS)]
    median = {name: statistics.median(r[name] for r in rounds) for name in everything}
    share = {name: statistics.median(r[""] / r[name] for r in rounds) for name in works}
    return median[""], {name: (median[name], share[name]) for name in works}


def table(title: str, unit: str, amount: float, result: tuple[float, dict]) -> None:
    """Prints rates (`amount` a run) and shares of the bound."""
    bound, works = result
    print(f"\n{title}\n{'':44s}{unit:>16s}{'of the bound':>14s}")
    print(f"{'bare products (bound)':44s}{amount / bound:16.3g}{1:14.2f}")
    for name, (took, share) in works.items():
        print(f"{name:44s}{amount / took:16.3g}{share:14.2f}")
