"""Joint draws of nodes that a random field ties together by what it forbids."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_ebm.energies import BlockSet, Constraints, Energy, FactorGraph, forbidding, graph_of
from pyro_ebm.kernels import chance
from pyro_ebm.kernels.base import ReversibleKernel
from pyro_ebm.kernels.metropolis import NoInfo
from pyro_ebm.kernels.start import accept_all
from pyro_ebm.sites import Sites


class ConstraintBlocksState(NamedTuple):
    """The position, the factors as read, and the blocks in sets that are drawn at once."""

    x: Sites
    graph: FactorGraph
    sets: tuple[BlockSet, ...]


@dataclass(frozen=True, eq=False)
class ConstraintBlocks(ReversibleKernel[ConstraintBlocksState, NoInfo]):
    r"""Nodes of a random field that forbidding factors join, drawn anew together given the rest.

    .. math:: p(x_B \mid x_{-B}) \propto \prod_f \psi_f(x_f), \quad x_B \in L_B

    L_B are the joint labels of the block that the factors inside it allow. A component of nodes
    joined by forbidding factors is one block where these are few; of a larger one there is a block
    for each factor, with those that overlap it. A step draws one set of blocks that do not touch
    each other, a set chosen at random, the same for all chains. Nodes that no forbidding factor
    joins stay as they are: `choose_kernel` puts `Gibbs` before it in a `Cycle`.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, TableFactors, run
        >>> from pyro_ebm.kernels import ConstraintBlocks
        >>> agree = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]])  # or be forbidden
        >>> field = RandomField((2, 2), {"agree": TableFactors([[0, 1]], agree)})
        >>> run(ConstraintBlocks(), field, 50, warmup=0, seed=0).draws["visible"].unique()
        tensor([0, 1], dtype=torch.int8)

    References:
        | Blocking Gibbs sampling in very large probabilistic expert systems
        | (Jensen, Kong & Kjærulff, 1995) https://doi.org/10.1006/ijhc.1995.1029
    """

    def reversed(self, energy: Energy) -> Self:
        return self

    def init(self, energy: Energy, x: Sites) -> ConstraintBlocksState:
        graph = require_factors(energy)
        x = accept_all(energy, x)
        return ConstraintBlocksState(x, graph, Constraints.of(graph).sets)

    def refresh(
        self, energy: Energy, state: ConstraintBlocksState, x: Sites
    ) -> ConstraintBlocksState:
        graph = require_factors(energy)
        # Blocks stay what they are, which is right at any parameters; but where a path begins,
        # nothing is forbidden yet.
        sets = state.sets if state.sets else Constraints.of(graph).sets
        return ConstraintBlocksState(x, graph, sets)

    @torch.no_grad()
    def step(
        self, energy: Energy, state: ConstraintBlocksState
    ) -> tuple[ConstraintBlocksState, NoInfo]:
        return self.decided(energy, 0).step(energy, state)

    def decided(self, energy: Energy, number: int) -> "OneSet":
        """The same with a set of blocks chosen at random."""
        return OneSet(self, float(torch.rand((), dtype=torch.float64)))


@dataclass(frozen=True, eq=False)
class OneSet(ReversibleKernel[ConstraintBlocksState, NoInfo]):
    """What constraint blocks have chosen: a set that is drawn anew at every step.

    Args:
        blocks: The kernel that chose it.
        share: Where it stands among all of them, in [0, 1).
    """

    blocks: ConstraintBlocks
    share: float

    def reversed(self, energy: Energy) -> Self:
        return self

    def init(self, energy: Energy, x: Sites) -> ConstraintBlocksState:
        return self.blocks.init(energy, x)

    def refresh(
        self, energy: Energy, state: ConstraintBlocksState, x: Sites
    ) -> ConstraintBlocksState:
        return self.blocks.refresh(energy, state, x)

    @torch.no_grad()
    def step(
        self, energy: Energy, state: ConstraintBlocksState
    ) -> tuple[ConstraintBlocksState, NoInfo]:
        if not state.sets:
            return state, NoInfo()
        chosen = state.sets[number_of(self.share, len(state.sets))]
        ((name, value),) = state.x.items()
        labels = redrawn(state.graph, chosen, value.to(torch.int64))
        return state._replace(x={name: labels.to(value.dtype)}), NoInfo()


def number_of(share: float, sets: int) -> int:
    """Which set of blocks is drawn anew."""
    return int(share * sets)


def redrawn(graph: FactorGraph, blocks: BlockSet, x: Tensor) -> Tensor:  # (*batch, n)
    """The labels, after a draw of blocks from their joint laws given the rest.

    A block whose labels are none of its options stays: from these it could not come back to them.
    """
    option = chance.choose(blocks.log_weights(graph, x).movedim(0, -1))
    new = blocks.taken(x, option)
    kept = ~blocks.are_allowed(x)
    if not bool(kept.any()):
        return new
    stays = torch.zeros_like(x, dtype=torch.bool)
    stays[..., blocks.nodes] = kept.index_select(-1, blocks.owner)
    return torch.where(stays, x, new)


def require_factors(energy: Energy) -> FactorGraph:
    """The factors of a random field, read once.

    Raises:
        TypeError: If the energy is none.
    """
    with torch.no_grad():
        graph = graph_of(energy.structure())
    if graph is None:
        raise TypeError(
            f"ConstraintBlocks looks at the factors of a random field, which "
            f"{type(energy).__name__} does not have. Use RandomBlocks(size=2) or more."
        )
    return graph


def ties(graph: FactorGraph) -> bool:
    """Whether a random field has forbidding factors of two nodes or more."""
    return any(True for _ in forbidding(graph))
