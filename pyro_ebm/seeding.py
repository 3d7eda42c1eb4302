"""Random numbers: a seed at the door, the caller's generators untouched.

Inside, everything draws from torch's global generators, since Pyro's and torch's `sample` take no
other. The doors (`run`, `fit`, exact draws) fork them, seed the fork, and put them back.
"""

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

GeneratorState = dict[str, Tensor]  # device -> state of its global generator


def fresh_seed() -> int:
    """A seed drawn from the caller's own generator, so that a seeded program stays reproducible."""
    return int(torch.randint(2**62, ()))


def chosen_seed(seed: int | None) -> int:
    """The seed that was given, checked, or a fresh one.

    Raises:
        ValueError: If it is no whole number that a generator takes.
    """
    if seed is None:
        return fresh_seed()
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise ValueError(f"seed is {seed!r}; wanted a whole number from 0 to 2**63 - 1, or None.")
    return number


def generator_state(device: torch.device) -> GeneratorState:
    """The state of the global generators that a computation on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state[str(device)] = torch.cuda.get_rng_state(device)
    return state


@contextmanager
def forked(start: int | GeneratorState, device: torch.device) -> Iterator[None]:
    """Draws from generators seeded with, or continued from, `start`; the global ones come back.

    Args:
        start: A seed, or the state that `generator_state` returned earlier.
        device: The device of the computation.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if isinstance(start, int):
            torch.manual_seed(start)
        else:
            torch.set_rng_state(start["cpu"])
            if device.type == "cuda":
                torch.cuda.set_rng_state(start[str(device)], device)
        yield
