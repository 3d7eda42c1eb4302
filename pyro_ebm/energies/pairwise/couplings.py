"""Couplings as modules: how parameters make the pair terms of an energy.

Each says which parameters it has and reads them into a `Link`. Asymmetry and self-coupling cannot
be expressed where they are not meant; where they are (a full matrix inside a layer), they are
accepted at the door and folded: see `fold_square`.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_ebm.energies.modules import AbstractModule, check_real, register
from pyro_ebm.energies.words import plain
from pyro_ebm.sites import all_true
from pyro_ebm.units import Unit, name_of

from .colouring import Colour, colours_of
from .edges import Edges, check_edges, numbered, warn_of_weights
from .links import DenseLink, GraphLink, Link, SymmetricLink


class Coupling(AbstractModule):
    """The parameters of the pair terms between two sites, or inside one."""

    ends: tuple[str, str]
    weight: Tensor

    @abstractmethod
    def read(self) -> Link:
        """The parameters, read once."""

    def extra_repr(self) -> str:
        first, second = self.ends
        where = f"inside {first}" if first == second else f"{first} – {second}"
        return f"{where}: {type(self).__name__}{self.size_in_words()}"

    def size_in_words(self) -> str:
        """How many numbers there are; nothing where Pyro draws them."""
        weight = plain(self, "weight")
        return "" if weight is None else f", {' × '.join(map(str, weight.shape))} couplings"


def check_parameter(value: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Refuses a given parameter that is not real, finite, and of the wanted shape.

    Batch dimensions may lead.

    Raises:
        TypeError: If it is no floating-point tensor.
        ValueError: If its shape is wrong or it is not finite.
    """
    check_real(value, name)
    if value.dim() < len(shape) or value.shape[value.dim() - len(shape) :] != shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; wanted {shape}, "
            f"where batch dimensions may lead."
        )
    if not all_true(torch.isfinite(value)):
        raise ValueError(f"{name} contains NaN or infinite values; wanted finite numbers.")
    return value


def fold_square(matrix: Tensor, offset: Tensor, unit: Unit) -> tuple[Tensor, Tensor, Tensor]:
    """A full matrix W of −½ (x−x̂)ᵀW(x−x̂) as pair couplings, and what its diagonal does.

    Only the symmetric part matters. Its blocks D_i on the diagonal couple a unit to itself. Since
    x² = a + b x for the features of the unit, and the product of two labels of one unit is 0, they
    are the bias (b/2) diag(D) − D x̂ and the constant −½ (a Σ diag(D) + x̂ᵀ D x̂). Where x² is not
    linear in x the blocks must be zero, and what is left, −½ D x², is a precision.

    Args:
        matrix: W (*batch, n * width, n * width).
        offset: x̂ (*batch, n * width).
        unit: The kind of unit.

    Returns:
        The couplings of different units, each pair once, above the diagonal (*batch, n * width,
        n * width), the bias (*batch, n * width) and the constant (*batch,).

    Raises:
        ValueError: If there is a self-coupling and x² is not linear in x.
    """
    both = (matrix + matrix.mT) / 2
    pairs = above(matrix.shape[-1], unit.width, matrix.device)
    own = both.masked_fill(pairs | pairs.mT, 0)
    diagonal = own.diagonal(dim1=-2, dim2=-1)
    if unit.square is None and bool((diagonal != 0).any()):
        raise ValueError(
            f"The couplings have a diagonal, but for {name_of(unit)} a self-coupling is a "
            f"precision and no bias. Set the diagonal to zero and give it as the precision."
        )
    a, b = unit.square or (0.0, 0.0)
    pull = (own @ offset.to(own).unsqueeze(-1)).squeeze(-1)
    bias = b / 2 * diagonal - pull
    constant = -(a * diagonal + offset * pull).sum(-1) / 2
    return both * pairs, bias, constant


def above(size: int, width: int, device: torch.device) -> Tensor:  # (size, size)
    """Where the row's unit comes before the column's."""
    unit = torch.arange(size, device=device) // width
    return unit[:, None] < unit


class Dense(Coupling):
    """Every unit of one site with every unit of another.

    Args:
        ends: The two sites.
        weight: The couplings (*batch, n * width, m * width), learned or given.
    """

    weight: Tensor

    def __init__(self, ends: tuple[str, str], weight: Tensor) -> None:
        super().__init__()
        self.ends = ends
        register(self, "weight", weight)

    def read(self) -> DenseLink:
        return DenseLink(self.ends, self.weight)


class Symmetric(Coupling):
    """Every unit of a site with every other unit of it.

    The free parameters stand in `weight` above the diagonal; what is below, or couples features of
    one unit, is not read.

    Args:
        site: The site.
        weight: The couplings (*batch, n * width, n * width), learned or given.
        self_bias: What self-couplings are, a bias (*batch, n * width) beside that of the layer.
        width: The number of features of a unit.
        self_precision: What self-couplings of real units are, a precision (*batch, n) beside that
            of the layer: zeros with a history, so that gradients reach what they were made from.
    """

    weight: Tensor
    above: Tensor  # 1 where the row's unit comes before the column's, else 0
    self_bias: Tensor
    self_precision: Tensor | None

    def __init__(
        self,
        site: str,
        weight: Tensor,
        self_bias: Tensor,
        width: int,
        self_precision: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.ends, self.width = (site, site), width
        register(self, "weight", weight)
        pairs = above(weight.shape[-1], width, weight.device).to(weight.dtype)
        self.register_buffer("above", pairs, persistent=False)
        self.register_buffer("self_bias", self_bias)
        self.register_buffer("self_precision", self_precision, persistent=False)

    def read(self) -> SymmetricLink:
        # Where a number that is not read is NaN or infinite, the product is NaN: it is not hidden.
        upper = self.weight * self.above
        return SymmetricLink(self.ends, upper + upper.mT, self.width)


class Sparse(Coupling):
    """Units along the edges of a graph.

    Args:
        ends: The sites of the edges' first and second units.
        edges: Unit indices (edges, 2).
        weight: One coupling for each edge (*batch, edges), or one for all (*batch, 1).
        sizes: Numbers of units of the two sites.
    """

    edges: Tensor
    weight: Tensor

    def __init__(
        self, ends: tuple[str, str], edges: Tensor, weight: Tensor, sizes: tuple[int, int]
    ) -> None:
        super().__init__()
        self.ends, self.sizes = ends, sizes
        self.register_buffer("edges", edges)
        self.colours = colours_of(edges, sizes[0]) if ends[0] == ends[1] else ()
        register(self, "weight", weight)

    def read(self) -> GraphLink:
        device = self.edges.device
        if self.colours and self.colours[0].units.device != device:
            self.colours = tuple(
                Colour(*(indices.to(device) for indices in colour)) for colour in self.colours
            )
        return GraphLink(self.ends, self.weight, self.edges, self.sizes, self.colours)


class Graph:
    """Which units of a layer (or of two) are coupled: `couplings={("a", "a"): Graph(edges)}`.

    `BoltzmannMachine.on_graph` makes a machine of one layer on a graph.

    Args:
        edges: Pairs of unit indices (edges, 2), a list of pairs, or a networkx graph, whose nodes
            0, …, n − 1 are the units, and others are numbered in the order of the graph. The
            weights of its edges are not read.
        couplings: "free" for one learned coupling on each edge, "shared" for a single one, both
            from zero; or the numbers themselves, (*batch, edges) or (*batch, 1), learned or given.

    Raises:
        ValueError: If an edge joins a unit to itself, stands twice, or names no unit.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine, Graph, Layer, Spin
        >>> pairs = Graph([(0, 1), (1, 2)], couplings=torch.tensor([0.5, -1.0]))
        >>> machine = BoltzmannMachine({"spins": Layer(Spin(), 3)}, {("spins", "spins"): pairs})
        >>> machine(torch.tensor([1.0, 1.0, -1.0]))
        tensor(-1.5000, ...)
    """

    def __init__(
        self,
        edges: Edges,
        couplings: Tensor | Literal["free", "shared"] = "free",
    ) -> None:
        if isinstance(couplings, str) and couplings not in ("free", "shared"):
            raise ValueError(f"couplings is {couplings!r}; wanted 'free', 'shared' or a tensor.")
        if not isinstance(couplings, str | Tensor):
            raise TypeError(
                f"couplings is {couplings!r}; wanted 'free', 'shared', or a tensor, "
                f"for example torch.tensor([0.5]) for one that all edges share."
            )
        if isinstance(couplings, str):
            warn_of_weights(edges, "−Σ w x x", "couplings={w}")
        self.nodes = numbered(edges)
        self.edges, self.couplings = self.nodes.edges, couplings

    def __repr__(self) -> str:
        given = self.couplings
        shown = repr(given) if isinstance(given, str) else f"a tensor {tuple(given.shape)}"
        return f"Graph({len(self.edges)} edges, couplings={shown})"

    def coupling(self, ends: tuple[str, str], sizes: tuple[int, int], like: Tensor) -> "Sparse":
        """The module, once the layers are known; learned couplings are made `like` a tensor."""
        check_edges(self.edges, sizes, within=ends[0] == ends[1])
        if isinstance(self.couplings, str):
            count = 1 if self.couplings == "shared" else len(self.edges)
            weight: Tensor = nn.Parameter(like.new_zeros(count))
        else:
            count = 1 if self.couplings.shape[-1:] == (1,) else len(self.edges)
            weight = check_parameter(self.couplings, f"the couplings of the graph {ends}", (count,))
        return Sparse(ends, self.edges.to(weight.device), weight, sizes)
