"""What is known of the log Z of an energy distribution: it exactly, an estimate, or nothing.

Each knows log Z where it is needed, or refuses by name.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.partition import LogPartition

from . import intractable, summation
from .intractable import Context, Dependence, current_context, cut_off, watched_context

Versions = tuple[tuple[int, int], ...]


class Statement(NamedTuple):
    """An energy distribution where it stands.

    Args:
        machine: The energy, its parameters read.
        site: The site that the distribution is over.
        context: The run in which it was made.
        token: By which its site in the run is recognised.
    """

    machine: Energy
    site: str
    context: Context
    token: object

    @property
    def name(self) -> str | None:
        """The name of its site in the run."""
        return intractable.site_name(self.context, self.token)


class Normalizer(ABC):
    """What is known of log Z."""

    @abstractmethod
    def of(self, machine: Energy, machines: torch.Size) -> "Normalizer":
        """The one of a machine with the parameters that it has now.

        Args:
            machine: The energy, its parameters read.
            machines: The batch shape of the parameters.

        Raises:
            TypeError, ValueError: If it is none of this machine.
        """

    @abstractmethod
    def context(self) -> Context:
        """What has to be known of the run that is going on."""

    @abstractmethod
    def log_prob(self, law: Statement, value: Tensor) -> Tensor:
        """ln p(value), or up to a constant, of values that have passed the door.

        Raises:
            IntractableNormalizerError: If log Z is needed and not there.
        """

    @abstractmethod
    def require_normalised(self, law: Statement) -> None:
        """Refuses log-probabilities up to a constant.

        Raises:
            IntractableNormalizerError: If they are.
        """

    @abstractmethod
    def require_exact(self, law: Statement) -> None:
        """Refuses a log Z that is not exact.

        Raises:
            IntractableNormalizerError: If it is not.
        """


class Exact(Normalizer):
    """log Z by structure, differentiable in the parameters."""

    def __repr__(self) -> str:
        return "by exact sums"

    def of(self, machine: Energy, machines: torch.Size) -> Self:
        return self

    def context(self) -> Context:
        return current_context()  # how it was called is of no interest

    def log_prob(self, law: Statement, value: Tensor) -> Tensor:
        found = summation.log_prob(law.machine, law.site, value)
        if found is None:
            raise intractable.missing(law.name, law.machine, summation.MAX_STATES)
        law.context.forget()
        return found

    def require_normalised(self, law: Statement) -> None:
        """It is."""

    def require_exact(self, law: Statement) -> None:
        """It is."""


@dataclass(frozen=True, eq=False, repr=False)
class Estimated(Normalizer):
    """A log Z that was handed in, for the parameters as they were then.

    Args:
        log_partition: The estimate.
        read_at: Of which tensors it is, and how often each had been changed.
    """

    log_partition: LogPartition
    read_at: Versions = ()

    def __repr__(self) -> str:
        return "as estimated"

    def of(self, machine: Energy, machines: torch.Size) -> "Estimated":
        found = self.log_partition
        if not isinstance(found, LogPartition):
            raise TypeError(
                f"log_partition is a {type(found).__name__}; wanted a LogPartition, the value with "
                f"its error. pyro_ebm.LogPartition.exact(value) makes one of an exact value."
            )
        if found.value.shape != machines or not bool(found.value.isfinite().all()):
            raise ValueError(
                f"log_partition is {found.value}; wanted finite values of the shape "
                f"{tuple(machines)}, the batch shape of the parameters."
            )
        return Estimated(found, intractable.versions(machine))

    def context(self) -> Context:
        return watched_context()

    def log_prob(self, law: Statement, value: Tensor) -> Tensor:
        log_prob, found = unnormalised(law, value)
        self.require_current(law, found)
        law.context.forget()
        return intractable.with_history(log_prob - self.log_partition.value)

    def require_current(self, law: Statement, found: set[Dependence]) -> None:
        """Refuses an estimate that does not belong to the parameters as they are now.

        Args:
            law: The distribution.
            found: What its energy depends on.

        Raises:
            IntractableNormalizerError: If it is stale, does not depend on what the energy depends
                on, or would have to follow the steps of a Markov chain.
        """
        if self.read_at != intractable.versions(law.machine):
            raise intractable.stale(law.name)
        if not found:
            return
        of_estimate = intractable.dependences(self.log_partition.value, law.context, law.machine)
        if left := found - of_estimate:
            why = f"it carries no gradient with respect to {intractable.listed(left)}."
            raise intractable.unusable_estimate(law.name, why, found)
        if any(d.is_latent for d in found) and not law.context.is_replayed:
            why = "under MCMC its error would change where the chain goes. Use an exact log Z."
            raise intractable.unusable_estimate(law.name, why, found)

    def require_normalised(self, law: Statement) -> None:
        """It is, up to the error of the estimate."""

    def require_exact(self, law: Statement) -> None:
        raise intractable.missing(law.name, law.machine, summation.MAX_STATES)


class UpToConstant(Normalizer):
    """A log Z that nobody needs, as long as the energy is fixed."""

    def __repr__(self) -> str:
        return "left out"

    def of(self, machine: Energy, machines: torch.Size) -> Self:
        return self

    def context(self) -> Context:
        return watched_context()

    def log_prob(self, law: Statement, value: Tensor) -> Tensor:
        log_prob, found = unnormalised(law, value)
        if found:
            raise intractable.unnormalized(law.name, found, summation.MAX_STATES)
        law.context.forget()
        return intractable.with_history(log_prob)

    def require_normalised(self, law: Statement) -> None:
        if not law.context.is_replayed:
            raise intractable.in_guide(law.name, summation.MAX_STATES)

    def require_exact(self, law: Statement) -> None:
        raise intractable.missing(law.name, law.machine, summation.MAX_STATES)


def known(log_partition: LogPartition | None) -> Normalizer:
    """What is known of log Z: the estimate that is handed in, or what the structure gives."""
    return Exact() if log_partition is None else Estimated(log_partition)


def unnormalised(law: Statement, value: Tensor) -> tuple[Tensor, set[Dependence]]:
    """−F(value), and the latent variables and learned parameters that it depends on."""
    _ = law.name  # it is looked for while the run can be seen
    with torch.enable_grad():  # so that parameters leave their trace, whoever asks
        cut = cut_off(value)
        log_prob = -summation.free_energy(law.machine, law.site, cut)
    found = intractable.dependences(log_prob, law.context, law.machine, (cut,))
    return log_prob, found or intractable.dependences_seen_by_comparison(
        law.context, law.token, lambda other: energies_of(other, value)
    )


def energies_of(law: Any, value: Tensor) -> Tensor:  # noqa: ANN401 (any wrapper of a distribution)
    """The energies of a value under a distribution of this kind, however it is wrapped."""
    while hasattr(law, "base_dist"):
        law = law.base_dist
    other = law.statement
    assert isinstance(other, Statement)
    return summation.free_energy(other.machine, other.site, value.detach())
