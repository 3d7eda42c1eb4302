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
from pyro_ebm.sites import Levels, Sites, covers, flat_features

from .enumeration import (
    BLOCK_ELEMENTS,
    MAX_STATES,
    TooManyStatesError,
    as_float,
    draw_indices,
    in_digits,
)
from .summation import Moments, Summation


@dataclass(frozen=True)
class FiniteSum(Summation):
    """Sums of an energy of which nothing is known but its values.

    Args:
        energy: The energy.
        levels: The values of each unit of the sites that are summed over.
        held: Values of the other sites (*batch, *shape), in the energy's dtype.
    """

    energy: Energy
    levels: Mapping[str, Levels]
    held: Sites

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
        """The batch shape of what is held."""
        sites = self.energy.sites
        shapes = [v.shape[: v.dim() - len(sites[s].shape)] for s, v in self.held.items()]
        return torch.broadcast_shapes(*shapes, ())

    @property
    def seconds(self) -> float:
        # An energy costs at least 100 ns and 5 ns for each number of a state.
        numbers = sum(math.prod(site.shape) for site in self.energy.sites.values())
        return as_float(self.count) * self.batch.numel() * (1e-7 + 5e-9 * numbers)

    def states(self, start: int, stop: int) -> Sites:  # (stop - start, *shape) each
        """States number `start` to `stop`, the last element fastest."""
        return self.numbered(torch.arange(start, stop, device=self.energy.device))

    def numbered(self, index: Tensor) -> Sites:
        """States by their numbers."""
        found: Sites = {}
        for site, levels in reversed(list(self.levels.items())):
            columns = []
            for values in reversed(levels):
                columns.append(values.to(self.energy.dtype).to(index.device)[index % len(values)])
                index = index // len(values)
            shape = self.energy.sites[site].shape
            found[site] = torch.stack(columns[::-1], 1).reshape(-1, *shape)
        return {site: found[site] for site in self.levels}

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of states whose computation fits into a block."""
        numbers = sum(math.prod(site.shape) for site in self.energy.sites.values())
        step = max(1, BLOCK_ELEMENTS // max(1, numbers * self.batch.numel()))
        for start in range(0, self.count, step):
            yield start, min(start + step, self.count)

    def log_weights(self, start: int, stop: int) -> Tensor:  # (stop - start, *batch)
        """−E of some states, in float64."""
        x = self.states(start, stop)
        batch = self.batch
        x = {s: v.reshape(len(v), *[1] * len(batch), *v.shape[1:]) for s, v in x.items()}
        energy = self.energy.evaluate({**self.held, **x})
        wanted = (stop - start, *batch)
        if not covers(torch.Size(wanted), energy.shape):
            raise ValueError(
                "The parameters have batch dimensions: take the energies one by one for this."
            )
        return -energy.double().expand(wanted)

    def log_partition(self) -> Tensor:
        def block(start: int, stop: int) -> Tensor:
            return self.log_weights(start, stop).logsumexp(0)

        ranges = list(self.blocks())
        if len(ranges) == 1 or not torch.is_grad_enabled():
            return torch.stack([block(*r) for r in ranges]).logsumexp(0)
        # A block is computed again for the gradient, and not kept.
        parts = [checkpoint(block, *r, use_reentrant=False) for r in ranges]
        return torch.stack(parts).logsumexp(0)

    def clamped(self, x: Sites) -> Self:
        held = {site: value.to(self.energy.dtype) for site, value in x.items()}
        rest = {site: levels for site, levels in self.levels.items() if site not in x}
        return type(self)(self.energy, rest, {**self.held, **held})

    @torch.no_grad()
    def moments(self) -> Moments:
        log_z = self.log_partition()
        first: Tensor | None = None
        second: Tensor | None = None
        for start, stop in self.blocks():
            p = (self.log_weights(start, stop) - log_z).exp()
            sites = self.energy.sites
            x = self.states(start, stop)
            parts = {site: flat_features(value, sites[site]) for site, value in x.items()}
            flat = torch.cat(list(parts.values()), -1).double()
            first = p @ flat if first is None else first + p @ flat
            product = (flat * p[:, None]).mT @ flat
            second = product if second is None else second + product
        assert first is not None  # there is at least one state
        assert second is not None
        sizes = [value.shape[-1] for value in parts.values()]
        return Moments(dict(zip(self.levels, first.split(sizes), strict=True)), second)

    @torch.no_grad()
    def minimum(self) -> Sites:
        best = [self.log_weights(*block).max(0) for block in self.blocks()]
        values, where = (torch.stack(found) for found in zip(*best, strict=True))
        block = int(values.argmax())
        start, _ = list(self.blocks())[block]
        return {s: v[0] for s, v in self.numbered(start + where[block : block + 1]).items()}

    @torch.no_grad()
    def sample(self, count: int) -> Sites:
        table = torch.cat([self.log_weights(*block) for block in self.blocks()])
        return self.numbered(draw_indices(table, count))
