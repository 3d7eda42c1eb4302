"""Metrics that say how learning goes: never the loss of contrastive divergence as a likelihood."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import Energy, terms_of
from pyro_ebm.learning.base import held_batch, rows_of
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites, flat_features, is_count

from .base import AfterEpoch, AtStart, Progress, Report

AFFORDABLE = 1.0  # seconds for exact log-probabilities


@dataclass(frozen=True, eq=False)
class Monitor(AtStart, AfterEpoch):
    """Which metrics are taken, and how often.

    They are, each where it can be had:

    - `log_likelihood`: the exact mean ln p of the data, in nats a row, where it takes less than a
      second; `held_out_log_likelihood`: that of the held-out rows.
    - `free_energy_gap`: mean F of the fantasies minus mean F of the data, in nats. It is near zero
      where the chains are at equilibrium and the model fits; a large one says that they are not.
    - `moment_mismatch`: the root mean square difference between data and fantasies (or the exact
      model, where there are none) in the means and pair moments of the observed units.

    Args:
        every: Epochs from one reading to the next; the last epoch is always read.
        held_out: Rows to judge by that are not learned from.
        rows: At most so many rows of the data, evenly spread, are used for gap and mismatch.

    Example:
        >>> from pyro_ebm import BoltzmannMachine, ExactLikelihood, Monitor, datasets, fit
        >>> machine = BoltzmannMachine.restricted(14, 4)
        >>> women = datasets.southern_women().attendance
        >>> monitor = Monitor(every=2, held_out=women[::4])
        >>> history = fit(machine, women, ExactLikelihood(), epochs=4, observers=[monitor], seed=0)
        >>> history.series("held_out_log_likelihood")[0]
        [2, 4]
    """

    every: int = 1
    held_out: Sites | Tensor | None = None
    rows: int = 2000

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("rows", self.rows)):
            if not is_count(value):
                raise ValueError(f"{name} is {value!r}; wanted a positive whole number.")

    def at_start(self, progress: Progress) -> None:
        """Checks the held-out rows.

        Raises:
            TypeError, ValueError: If they are no rows of the energy's sites, or the energy holds
                values for the rows that are learned from.
        """
        if self.held_out is None:
            return
        rows_of(progress.energy.accept(self.held_out), progress.energy.sites)
        if held_batch(progress.energy):
            raise ValueError(
                "held_out has rows, but the energy holds values for the rows that are learned "
                "from; judge others by exact.log_prob(clamp(machine, held), data) after learning."
            )

    def after_epoch(self, progress: Progress) -> Report | None:
        """Reports the metrics, where it is their turn."""
        if progress.epoch % self.every and progress.epoch != progress.epochs:
            return None
        fantasies = progress.step.fantasies if progress.step else None
        return Report(self.read(progress.energy, progress.data, fantasies))

    @torch.no_grad()
    def read(self, energy: Energy, data: Sites, fantasies: Sites | None) -> dict[str, float]:
        """The metrics now.

        Args:
            energy: What is learned.
            data: The rows that it is learned from (rows, *site.shape).
            fantasies: States of all sites that stand for the model's own, where there are such.
        """
        metrics: dict[str, float] = {}
        # In the energy's order, which that of exact moments is.
        data = {site: data[site] for site in energy.sites if site in data}
        judged = {"log_likelihood": data}
        if self.held_out is not None:
            judged["held_out_log_likelihood"] = energy.accept(self.held_out)
        structure = energy.structure()
        log_z: Tensor | None = None
        for name, x in judged.items():
            if exact.seconds(energy, x, structure=structure) < AFFORDABLE:
                sums = exact.summation(energy, (), structure)
                log_z = sums.log_partition() if log_z is None else log_z
                metrics[name] = float(exact.log_prob_by(sums, energy, x, log_z).mean())
        some = {site: value[:: -(-len(value) // self.rows)] for site, value in data.items()}
        if fantasies is not None:
            fantasies = {site: fantasies[site] for site in data}
            terms = terms_of(structure)
            if terms is not None and not terms.obstacle([s for s in energy.sites if s not in some]):
                gap = structure.free_energy(fantasies).mean() - structure.free_energy(some).mean()
                metrics["free_energy_gap"] = float(gap)
            metrics["moment_mismatch"] = moment_mismatch(
                moments_of(energy, some), moments_of(energy, fantasies)
            )
        elif "log_likelihood" in metrics and log_z is not None and not log_z.dim():
            # Where each row has a law of its own, the model has no moments to compare with.
            metrics["moment_mismatch"] = moment_mismatch(
                moments_of(energy, data), exact_moments(energy, data)
            )
        return metrics


def moments_of(energy: Energy, x: Sites) -> Tensor:  # (n, n), means on the diagonal
    """Pair moments of rows, with the means where the squares would be."""
    flat = torch.cat([flat_features(value, energy.sites[site]) for site, value in x.items()], -1)
    second = flat.mT @ flat / len(flat)
    return second.diagonal_scatter(flat.mean(0))


def exact_moments(energy: Energy, data: Sites) -> Tensor:  # (n, n), means on the diagonal
    """The model's moments over the observed sites; of a batch of energies the mean over them."""
    found = exact.moments(energy)
    means = {site: mean.reshape(-1, mean.shape[-1]).mean(0) for site, mean in found.mean.items()}
    second = found.second.reshape(-1, *found.second.shape[-2:]).mean(0)
    index, start = [], 0
    for site, mean in means.items():
        if site in data:
            index.append(torch.arange(start, start + len(mean)))
        start += len(mean)
    chosen = torch.cat(index)
    observed = torch.cat([means[site] for site in energy.sites if site in data])
    return second[chosen][:, chosen].diagonal_scatter(observed)


def moment_mismatch(first: Tensor, second: Tensor) -> float:
    """The root mean square difference over means and pairs, each pair once."""
    upper = torch.triu_indices(*first.shape)
    difference = (first - second.to(first))[upper[0], upper[1]]
    return math.sqrt(float(difference.square().mean()))
