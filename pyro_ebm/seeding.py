"""Random numbers: a seed at the door, the caller's generators untouched.

Inside, everything draws from torch's global generators, since Pyro's and torch's `sample` take no
other. The doors (`run`, `fit`, exact draws) fork them, seed the fork, and put them back.

These generators are the process's: what two threads draw from them is mixed. So one thread at a
time is in a fork, and the others wait for its end. A thread that draws from torch by itself is not
stopped, and changes what a fork of another thread draws.
"""

import operator
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_ebm.stopping import at_last

GeneratorState = dict[str, Tensor]  # device -> state of its global generator


class OneThread:
    """The right to use the global generators, which a thread can take several times."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def renew(self) -> None:
        """Forgets who has it: a forked process lacks the threads that would give it back."""
        self.lock = threading.RLock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Waits for the right, and gives it back at the end."""
        lock = self.lock
        taken: list[Callable[[], None]] = []

        def give_back() -> None:
            while taken:
                taken.pop()()

        with at_last(give_back):
            taken += [lock.release] * lock.acquire()  # in one line: an exception comes between two
            yield


one_thread = OneThread()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=one_thread.renew)


def fresh_seed() -> int:
    """A seed drawn from the caller's own generator, so that a seeded program stays reproducible."""
    with one_thread():
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


def set_generators(state: GeneratorState, device: torch.device) -> None:
    """Puts the global generators into a state that `generator_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[str(device)], device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds the global generators that a computation on `device` draws from."""
    # Not torch.manual_seed, which seeds those of all devices, used or not.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def forked(start: int | GeneratorState, device: torch.device) -> Iterator[None]:
    """Draws from generators seeded with, or continued from, `start`; the global ones come back.

    Other threads wait until it ends.

    Args:
        start: A seed, or the state that `generator_state` returned earlier.
        device: The device of the computation.
    """
    with one_thread():
        before = generator_state(device)
        with at_last(lambda: set_generators(before, device)):
            if isinstance(start, int):
                seed_generators(start, device)
            else:
                set_generators(start, device)
            yield
