"""Exact sums of any energy over finite sites: all states, one by one."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Levels, Site, Sites, all_true, covers, flat_features

from .enumeration import (
    BLOCK_ELEMENTS,
    MAX_STATES,
    TooManyStatesError,
    as_float,
    draw_indices,
    in_digits,
    log_sum_exp,
    require_possible,
)
from .summation import Moments, Summation


def numbered(
    sites: Mapping[str, Site], levels: Mapping[str, Levels], index: Tensor, like: Tensor
) -> Sites:  # (*index.shape, *shape) each
    """States by their numbers, the last element fastest.

    Args:
        sites: The sites.
        levels: The values of the elements of those that are enumerated.
        index: The numbers.
        like: Has the dtype.
    """
    found: Sites = {}
    for site, own in reversed(list(levels.items())):
        columns = []
        for values in reversed(own):
            columns.append(values.to(like.dtype).to(index.device)[index % len(values)])
            index = index // len(values)
        value = torch.stack(columns[::-1], index.dim())
        found[site] = value.reshape((*index.shape, *sites[site].shape))
    return {site: found[site] for site in levels}


def because(energy: Energy) -> str:
    """The parameters of an energy that are not finite, in a sentence; nothing where all are."""
    learned = energy.named_parameters()
    bad = [name for name, value in learned if not bool(value.isfinite().all())]
    return f" The parameters {bad} are not finite: has learning diverged?" if bad else ""


@dataclass(frozen=True)
class FiniteSum(Summation):
    """Sums of an energy of which nothing is known but its values.

    Args:
        energy: The energy.
        levels: The values of each unit of the sites that are summed over.
        parameters: The batch shape of the energy's parameters.
        held: Values of the other sites (*batch, *shape), in the energy's dtype.
    """

    energy: Energy
    levels: Mapping[str, Levels]
    parameters: torch.Size
    held: Sites

    @classmethod
    def of(cls, energy: Energy, levels: Mapping[str, Levels]) -> Self:
        """The sums of an energy over the sites whose levels are given."""
        return cls(energy, levels, energy.structure().batch, {})

    @cached_property
    def count(self) -> int:
        """The number of joint states.

        Raises:
            TooManyStatesError: If there are too many.
        """
        count = math.prod(len(values) for site in self.levels.values() for values in site)
        if count > MAX_STATES:
            raise TooManyStatesError(
                f"The sites {list(self.levels)} have {in_digits(count)} states, and at most "
                f"{in_digits(MAX_STATES)} are enumerated. log Z can only be estimated."
            )
        return count

    @property
    def batch(self) -> torch.Size:
        sites = self.energy.sites
        shapes = [v.shape[: v.dim() - len(sites[s].shape)] for s, v in self.held.items()]
        return torch.broadcast_shapes(self.parameters, *shapes)

    @property
    def seconds(self) -> float:
        # An energy costs at least 100 ns and 5 ns for each number of a state.
        numbers = sum(math.prod(site.shape) for site in self.energy.sites.values())
        return as_float(self.count) * self.batch.numel() * (1e-7 + 5e-9 * numbers)

    def states(self, index: Tensor) -> Sites:  # (*index.shape, *shape) each
        """States by their numbers."""
        like = torch.empty((), dtype=self.energy.dtype)
        return numbered(self.energy.sites, self.levels, index, like)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of states whose computation fits into a block."""
        numbers = sum(math.prod(site.shape) for site in self.energy.sites.values())
        step = max(1, BLOCK_ELEMENTS // max(1, numbers * self.batch.numel()))
        for start in range(0, self.count, step):
            yield start, min(start + step, self.count)

    def block(self, start: int, stop: int) -> Tensor:  # (stop - start, *1)
        """Numbers of states, which stand in front of every batch dimension."""
        index = torch.arange(start, stop, device=self.energy.device)
        return index.reshape(-1, *[1] * len(self.batch))

    def log_weights(self, start: int, stop: int) -> Tensor:  # (stop - start, *batch)
        """−E of some states, in float64.

        Raises:
            FloatingPointError: If an energy is NaN or −∞.
            ValueError: If the energy does not answer with one number for each state.
        """
        index = self.block(start, stop)
        energy = self.energy.evaluate({**self.held, **self.states(index)})
        wanted = torch.Size([stop - start, *self.batch])
        if not covers(wanted, energy.shape):
            raise ValueError(
                f"The energy has the shape {tuple(energy.shape)} for states of the batch shape "
                f"{tuple(index.shape)} and parameters with the batch dimensions "
                f"{tuple(self.batch)}; wanted {tuple(wanted)}, one number for each. Sum over the "
                f"sites' own dimensions only."
            )
        energy = energy.expand(wanted)
        if not all_true(energy > -math.inf):
            self.refuse(energy, start)
        return -energy.double()

    def refuse(self, energy: Tensor, start: int) -> None:
        """Names a state whose energy is NaN or −∞, and the parameters that are not finite.

        Raises:
            FloatingPointError: Always.
        """
        found = energy.detach().reshape(len(energy), -1)
        state, row = (~(found > -math.inf)).nonzero()[0].tolist()
        x = self.states(torch.tensor(start + state, device=energy.device))
        where = {site: value.tolist() for site, value in x.items()}
        raise FloatingPointError(
            f"The energy of the state {where} is {float(found[state, row])}; wanted a finite "
            f"number, or +inf where p(x) is 0.{because(self.energy)}"
        )

    def log_partition(self) -> Tensor:
        def block(start: int, stop: int) -> Tensor:
            return log_sum_exp(self.log_weights(start, stop), 0)

        ranges = list(self.blocks())
        if len(ranges) == 1:
            return block(*ranges[0])
        if not torch.is_grad_enabled():
            return log_sum_exp(torch.stack([block(*r) for r in ranges]), 0)
        # A block is computed again for the gradient, and not kept.
        parts = [checkpoint(block, *r, use_reentrant=False) for r in ranges]
        return log_sum_exp(torch.stack(parts), 0)

    def clamped(self, x: Sites) -> Self:
        held = {site: value.to(self.energy.dtype) for site, value in x.items()}
        rest = {site: levels for site, levels in self.levels.items() if site not in x}
        return type(self)(self.energy, rest, self.parameters, {**self.held, **held})

    @torch.no_grad()
    def moments(self) -> Moments:
        log_z = self.log_partition()
        require_possible(log_z)
        first: Tensor | float = 0.0
        second: Tensor | float = 0.0
        sizes: list[int] = []
        for start, stop in self.blocks():
            p = (self.log_weights(start, stop) - log_z).exp()
            x = self.states(torch.arange(start, stop, device=p.device))
            parts = [flat_features(value, self.energy.sites[s]) for s, value in x.items()]
            sizes = [value.shape[-1] for value in parts]
            flat = torch.cat(parts, -1).double()
            first = first + torch.einsum("s...,si->...i", p, flat)
            second = second + torch.einsum("s...,si,sj->...ij", p, flat, flat)
        assert isinstance(first, Tensor)  # there is at least one state
        assert isinstance(second, Tensor)
        return Moments(dict(zip(self.levels, first.split(sizes, -1), strict=True)), second)

    @torch.no_grad()
    def minimum(self) -> Sites:
        found = [self.log_weights(*block).max(0) for block in self.blocks()]
        starts = torch.tensor([start for start, _ in self.blocks()], device=self.energy.device)
        values, where = (torch.stack(parts) for parts in zip(*found, strict=True))
        require_possible(values.amax(0))
        first = starts.reshape(-1, *[1] * len(self.batch))
        return self.states((first + where).gather(0, values.argmax(0, keepdim=True))[0])

    @torch.no_grad()
    def sample(self, count: int) -> Sites:
        table = torch.cat([self.log_weights(*block) for block in self.blocks()])
        require_possible(table.amax(0))
        return self.states(draw_indices(table, count))
