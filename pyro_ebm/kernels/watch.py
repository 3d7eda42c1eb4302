"""Looks during a run whether an energy's conditional laws are those of the energy."""

import time
from typing import TYPE_CHECKING

import torch

from pyro_ebm.energies import Structure
from pyro_ebm.sites import Sites

if TYPE_CHECKING:
    from .chains import Chains

EVERY = 10  # steps between looks where no draw is kept
SHARE = 0.05  # of a run's time that looks may take
GRACE = 0.1  # seconds of looks before the share counts


class WrongDependenceError(RuntimeError):
    """What was claimed of a model's dependences, and Gibbs relied on, is wrong.

    Args:
        message: What is wrong.
        chains: The draws so far, which are wrong too; None where a host keeps them.

    Example:
        >>> from pyro_ebm.kernels import WrongDependenceError
        >>> error = WrongDependenceError("the elements of 'label' are not independent")
        >>> error.chains is None  # one that comes from a run has its draws, not to be used
        True
    """

    def __init__(self, message: str, chains: "Chains | None" = None) -> None:
        super().__init__(message)
        self.chains = chains


class Watch:
    """Compares conditional laws with the energy, now and then, in one chain.

    What is looked at is chosen by a generator of its own: the draws do not depend on it, nor on
    how often there was time to look.

    Args:
        structure: What is known of the energy of the run.
        seed: Of what is looked at.
    """

    def __init__(self, structure: Structure, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.begin, self.spent = time.perf_counter(), 0.0
        self.structure = structure
        self.is_needed = True  # until nothing is seen to be claimed

    def look(self, x: Sites) -> None:
        """Looks at one chain, if there is time.

        Args:
            x: Where the chains are (chain, *site.shape).

        Raises:
            WrongDependenceError: If a conditional law is not that of the energy.
        """
        begin = time.perf_counter()
        if not self.is_needed or self.spent > GRACE + SHARE * (begin - self.begin):
            return
        count = len(next(iter(x.values())))
        chain = int(torch.randint(count, (), generator=self.generator))
        one = {name: value[chain : chain + 1] for name, value in x.items()}
        claimed = list(self.structure.claimed(one))
        self.is_needed = bool(claimed)
        for claims, own in claimed:
            found = claims.contradiction(own, self.generator)
            if found is not None:
                raise WrongDependenceError(found)
        self.spent += time.perf_counter() - begin
