"""Any energy with one real number or two: its laws on a fine grid, and chains judged by them.

The mass of each cell is its size times e^(−E) in the middle. Draws are uniform inside their cells,
which are so small that thousands of chains do not tell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_ebm.energies import Energy
from pyro_ebm.sites import Sites

from .finite import values_of
from .goodness import chi_square

LINES = {1: 4000, 2: 240}  # cells along each real number, by their count
BINS = {1: 32, 2: 7}
Box = dict[str, tuple[float, float]]
Heights = Callable[[Sites], Tensor]


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of an energy, and its laws, one for each element of its batch.

    Args:
        energy: The energy.
        x: The middles of all cells by site (cells, *shape), the discrete sites' values among them.
        laws: p (*batch, cells).
        bins: The number of each cell in the χ² of each law (*batch, cells).
        edges: Of the bins along each real number (numbers, *batch, edges).
        sizes: Of the cells along each real number (numbers,).
        real: The names of the real sites.
    """

    energy: Energy
    x: Sites
    laws: Tensor
    bins: Tensor
    edges: Tensor
    sizes: Tensor
    real: tuple[str, ...]

    @classmethod
    def of(cls, energy: Energy, box: Box, heights: Heights | None = None) -> "Grid":
        """All cells in a box, with laws by quadrature.

        Args:
            energy: The energy.
            box: The bounds of each real site; of others nothing is read.
            heights: E, where the law is not that of the energy.
        """
        real = tuple(name for name, site in energy.sites.items() if not site.support.is_discrete)
        shapes = {name: energy.sites[name].shape.numel() for name in real}
        numbers = [name for name in real for _ in range(shapes[name])]
        lines = LINES[len(numbers)]
        sizes = torch.tensor([(box[s][1] - box[s][0]) / lines for s in numbers]).double()
        axes = [
            box[s][0] + own * (0.5 + torch.arange(lines).double())
            for s, own in zip(numbers, sizes, strict=True)
        ]
        others = {s: values_of(v, energy.dtype) for s, v in energy.sites.items() if s not in real}
        counts = [len(value) for value in others.values()]
        places = torch.cartesian_prod(*map(torch.arange, [*counts, *[lines] * len(axes)]))
        places = places.reshape(len(places), -1)
        x = {s: v[places[:, k]] for k, (s, v) in enumerate(others.items())}
        along = places[:, len(others) :]
        flat = torch.stack([axis[along[:, k]] for k, axis in enumerate(axes)], 1)
        parts = flat.split(list(shapes.values()), 1)
        for name, part in zip(real, parts, strict=True):
            x[name] = part.reshape(len(part), *energy.sites[name].shape).to(energy.dtype)
        x = {name: x[name] for name in energy.sites}
        laws = laws_of(energy, x, heights)
        bins, edges = binned(laws, places[:, : len(others)], counts, along, axes, sizes)
        return cls(energy, x, laws, bins, edges, sizes, real)

    @property
    def batch(self) -> torch.Size:
        return self.laws.shape[:-1]

    def flat(self, x: Sites) -> Tensor:  # (chains, laws, numbers)
        """The real numbers of values (chains, *batch, *shape)."""
        chains, count = len(next(iter(x.values()))), self.batch.numel()
        return torch.cat([x[name].reshape(chains, count, -1) for name in self.real], -1).double()

    def exact(self, chains: int) -> Sites:
        """Independent draws (chains, *batch, *shape)."""
        flat = self.laws.reshape(-1, self.laws.shape[-1])
        drawn = torch.multinomial(flat, chains, replacement=True).mT.reshape(chains, *self.batch)
        found, first = {}, 0
        for name, value in self.x.items():
            found[name] = value[drawn]
            if name in self.real:
                count = value[0].numel()
                size = self.sizes[first : first + count].reshape(value.shape[1:])
                inside = torch.rand(found[name].shape, dtype=torch.float64) - 0.5
                found[name] = (found[name] + size * inside).to(value.dtype)
                first += count
        return found

    def rarest(self, chains: int) -> Sites:
        """One place for all chains of a law: on its flank."""
        order = self.laws.sort(-1)
        flank = (order.values.cumsum(-1) < 0.1).sum(-1)
        place = order.indices.gather(-1, flank.unsqueeze(-1)).squeeze(-1)
        return {name: value[place.expand(chains, *self.batch)] for name, value in self.x.items()}

    def p_value(self, x: Sites) -> float:
        """Of χ² of chains (chains, *batch, *shape): the least of all laws, times their number."""
        numbers = self.flat(x)
        found = []
        for k, law in enumerate(self.laws.reshape(-1, self.laws.shape[-1])):
            own = self.bins.reshape(len(numbers[0]), -1)[k]
            masses = torch.zeros(int(own.max()) + 1, dtype=torch.float64)
            masses.scatter_add_(0, own, law)
            index = torch.zeros(len(numbers), dtype=torch.int64)
            for name, value in self.x.items():
                if name not in self.real:
                    every = values_of(self.energy.sites[name], value.dtype)
                    every = every.reshape(len(every), -1)
                    mine = x[name].reshape(len(numbers), -1, every.shape[1])[:, k]
                    same = (mine[:, None] == every).all(-1)
                    assert bool(same.any(1).all()), "a chain left the support"
                    index = index * len(every) + same.int().argmax(1)
            for d in range(len(self.sizes)):
                edges = self.edges[d].reshape(-1, self.edges.shape[-1])[k]
                place = torch.searchsorted(edges, numbers[:, k, d].contiguous())
                index = index * (len(edges) + 1) + place
            counts = torch.bincount(index, minlength=len(masses))
            found.append(chi_square(counts.numpy(), masses.numpy()))
        return len(found) * min(found)


@torch.no_grad()
def laws_of(energy: Energy, x: Sites, heights: Heights | None) -> Tensor:  # (*batch, cells)
    """p of each cell."""
    batch = energy.evaluate({name: value[0] for name, value in x.items()}).dim()
    spread = {s: v.reshape(len(v), *[1] * batch, *v.shape[1:]) for s, v in x.items()}
    found = (heights or energy.evaluate)(spread).double()
    return (-found).movedim(0, -1).softmax(-1)


def binned(
    laws: Tensor,
    others: Tensor,
    counts: list[int],
    along: Tensor,
    axes: list[Tensor],
    sizes: Tensor,
) -> tuple[Tensor, Tensor]:
    """The bins of the cells (*batch, cells), and their edges (numbers, *batch, edges).

    Along each real number the bins are as likely as one another, as nearly as the cells allow.
    """
    index = torch.zeros(laws.shape, dtype=torch.int64)
    for own, count in zip(others.unbind(1), counts, strict=True):
        index = index * count + own
    bins = BINS[len(axes)]
    found = []
    for d, axis in enumerate(axes):
        mass = torch.zeros(*laws.shape[:-1], len(axis), dtype=torch.float64)
        mass.scatter_add_(-1, along[:, d].expand(laws.shape), laws)
        below = mass.cumsum(-1)
        shares = torch.arange(1, bins).double() / bins
        last = torch.searchsorted(below, shares.expand(*laws.shape[:-1], -1).contiguous())
        edges = axis[last] + sizes[d] / 2
        found.append(edges)
        place = torch.searchsorted(edges, axis.expand(*laws.shape[:-1], -1).contiguous())
        index = index * bins + place.gather(-1, along[:, d].expand(laws.shape))
    return index, torch.stack(found)
