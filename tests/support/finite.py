"""Any energy of finite sites: all its states, its laws, and chains judged by them.

The states come from what torch's own constraints accept, not from the library's lists of values.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import Energy
from pyro_ebm.kernels import Kernel, advance
from pyro_ebm.sites import Site, Sites

from .goodness import chi_square


def values_of(site: Site, dtype: torch.dtype) -> Tensor:  # (states, *site.shape)
    """All the values of a finite site."""
    shape = tuple(site.shape)
    if isinstance(site.support, type(constraints.one_hot)):
        rows = itertools.product(torch.eye(shape[-1], dtype=dtype), repeat=int(np.prod(shape[:-1])))
        return torch.stack([torch.stack(row) for row in rows]).reshape(-1, *shape)
    inner = getattr(site.support, "base_constraint", site.support)
    high = int(torch.as_tensor(getattr(inner, "upper_bound", 1)).max())
    grid = itertools.product(range(-1, high + 1), repeat=int(np.prod(shape)))
    found = torch.tensor(list(grid), dtype=dtype).reshape(-1, *shape)
    return found[site.support.check(found).reshape(len(found), -1).all(1)]


@dataclass(frozen=True, eq=False)
class Table:
    """The states of an energy, and its laws, one for each element of its batch.

    Args:
        energy: The energy.
        x: All joint states by site (states, *shape).
        laws: p (*batch, states).
    """

    energy: Energy
    x: Sites
    laws: Tensor

    @classmethod
    def of(cls, energy: Energy) -> "Table":
        """Every state, and the laws by summation."""
        each = {name: values_of(site, energy.dtype) for name, site in energy.sites.items()}
        grids = torch.meshgrid(
            *(torch.arange(len(value)) for value in each.values()), indexing="ij"
        )
        x = {s: v[g.flatten()] for (s, v), g in zip(each.items(), grids, strict=True)}
        first = {name: value[:1] for name, value in x.items()}
        batch = energy.evaluate({name: value[0] for name, value in first.items()}).dim()
        spread = {s: v.reshape(len(v), *[1] * batch, *v.shape[1:]) for s, v in x.items()}
        heights = energy(spread).detach().double().movedim(0, -1)
        return cls(energy, x, (-heights).softmax(-1))

    @property
    def batch(self) -> torch.Size:
        return self.laws.shape[:-1]

    def chosen(self, index: Tensor) -> Sites:  # (chains, *batch) -> (chains, *batch, *shape)
        return {name: value[index] for name, value in self.x.items()}

    def rarest(self, chains: int) -> Sites:
        """One possible state for all chains of a law: the least probable."""
        rare = self.laws.masked_fill(self.laws == 0, 2).argmin(-1)
        return self.chosen(rare.expand(chains, *self.batch))

    def exact(self, chains: int) -> Sites:
        """Independent draws."""
        flat = self.laws.reshape(-1, self.laws.shape[-1])
        drawn = torch.multinomial(flat, chains, replacement=True)
        return self.chosen(drawn.mT.reshape(chains, *self.batch))

    def p_value(self, x: Sites) -> float:
        """Of χ² of chains (chains, *batch, *shape): the least of all laws, times their number."""
        states = torch.cat([value.reshape(len(value), -1) for value in self.x.values()], 1)
        drawn = torch.cat(
            [x[s].reshape(len(x[s]), self.batch.numel(), v[0].numel()) for s, v in self.x.items()],
            -1,
        )
        found = []
        for k, law in enumerate(self.laws.reshape(-1, len(states))):
            same = (drawn[:, k, None] == states).all(-1)
            assert bool(same.any(1).all()), "a chain left the support"
            counts = torch.bincount(same.int().argmax(1), minlength=len(states))
            found.append(chi_square(counts.numpy(), law.numpy()))
        return len(found) * min(found)


def after(kernel: Kernel, table: Table, x: Sites, steps: int, seed: int) -> float:
    """The p-value after so many steps from some values."""
    torch.manual_seed(seed)
    state = advance(kernel, table.energy, kernel.init(table.energy, x), steps)
    return table.p_value(state.x)
