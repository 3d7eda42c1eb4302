"""Factors of a random field: which nodes they join, and their tables."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_ebm.energies.modules import AbstractModule, check_real, register
from pyro_ebm.energies.words import plain

from .factor_graph import FactorGroup


class Factors(AbstractModule):
    """Factors of one shape, with their parameters.

    A parameter given as nn.Parameter is learned, any other tensor is kept as it is, with its
    history. Batch dimensions may lead in it.

    Example:
        >>> import torch
        >>> from pyro_ebm import PatternFactors, RandomField, TableFactors
        >>> agree = PatternFactors([[0, 1], [1, 2]], torch.tensor([1.0]), torch.eye(2))
        >>> first = TableFactors([[0]], torch.tensor([[0.0, 3.0]]))
        >>> RandomField((2, 2, 2), {"agree": agree, "first": first})(torch.tensor([1, 1, 0]))
        tensor(-4.)
    """

    nodes: Tensor  # (count, arity)

    @abstractmethod
    def read(self, sizes: Sequence[int]) -> FactorGroup:
        """The parameters as tables.

        Args:
            sizes: The largest number of states in each column of `nodes`.
        """

    @abstractmethod
    def check(self, name: str, sizes: Sequence[int]) -> None:
        """Refuses parameters that do not fit the nodes' numbers of states.

        Args:
            name: Of these factors, for the message.
            sizes: As for `read`.

        Raises:
            ValueError: If they do not.
        """


class TableFactors(Factors):
    """Factors by their tables of log-potentials.

    Args:
        nodes: The nodes of each factor (count, arity).
        table: log ψ (*batch, count, q_1, …, q_arity), with 1 for the count where all share one
            table; −∞ forbids. A dimension is for a node, in the order of its row of `nodes`. Of
            weights or probabilities give the logarithm: `weights.log()`. A size is the largest
            number of states in its column of `nodes`; what stands beyond the states of a node with
            fewer is not read.
        spare: How many last states the table leaves out; their log-potential is zero.

    Raises:
        TypeError, ValueError: If the nodes or the table are not what is wanted.

    Example:
        >>> import torch
        >>> from pyro_ebm import RandomField, TableFactors
        >>> never_both = torch.tensor([[[0.0, 0.0], [0.0, -torch.inf]]])
        >>> field = RandomField((2, 2, 2), {"pairs": TableFactors([[0, 1], [1, 2]], never_both)})
        >>> field(torch.tensor([[1, 0, 1], [1, 1, 0]]))
        tensor([0., inf])
    """

    table: Tensor

    def __init__(
        self, nodes: Tensor | Sequence[Sequence[int]], table: Tensor, *, spare: int = 0
    ) -> None:
        super().__init__()
        members = node_indices(nodes)
        self.spare = spare
        check_log_potentials(table, "table", len(members), members.shape[1])
        self.register_buffer("nodes", members.to(table.device))
        register(self, "table", table)

    def check(self, name: str, sizes: Sequence[int]) -> None:
        own = self.table.shape[self.table.dim() - len(sizes) :]
        wanted = tuple(size - self.spare for size in sizes)
        if tuple(own) != wanted:
            raise ValueError(
                f"The tables of {name!r} are {tuple(own)}, but the largest numbers of states of "
                f"their nodes are {wanted}; wanted (*batch, {len(self.nodes)} or 1, "
                f"{', '.join(map(str, wanted))})."
            )

    def read(self, sizes: Sequence[int]) -> FactorGroup:
        table = self.table
        if self.spare:
            table = nn.functional.pad(table, (0, self.spare) * len(sizes))
        return FactorGroup(self.nodes, table)

    def extra_repr(self) -> str:
        return factors_in_words(self, "table")


class PatternFactors(Factors):
    r"""Factors that are one fixed pattern, each with a strength of its own.

    .. math:: \log \psi_f(x) = w_f\, \phi(x)

    Args:
        nodes: The nodes of each factor (count, arity).
        weight: w (*batch, count), or (*batch, 1) where all share one.
        pattern: φ (q_1, …, q_arity); identity makes a Potts coupling.

    Raises:
        TypeError, ValueError: If an argument is not what is wanted.

    Example:
        >>> import torch
        >>> from pyro_ebm import PatternFactors, RandomField
        >>> agree = PatternFactors([[0, 1], [1, 2]], torch.tensor([1.0, 2.0]), torch.eye(3))
        >>> RandomField((3, 3, 3), {"agree": agree})(torch.tensor([2, 2, 0]))
        tensor(-1.)
    """

    weight: Tensor
    pattern: Tensor

    def __init__(
        self, nodes: Tensor | Sequence[Sequence[int]], weight: Tensor, pattern: Tensor
    ) -> None:
        super().__init__()
        members = node_indices(nodes)
        check_log_potentials(weight, "weight", len(members), 0)
        for name, value in (("weight", weight), ("pattern", pattern)):
            if not bool(torch.isfinite(check_real(value, name)).all()):
                raise ValueError(f"{name} contains NaN or infinite values; wanted finite numbers.")
        if pattern.dim() != members.shape[1]:
            raise ValueError(
                f"pattern has shape {tuple(pattern.shape)}, but a factor has {members.shape[1]} "
                f"nodes; wanted a dimension for each."
            )
        self.register_buffer("nodes", members.to(weight.device))
        self.register_buffer("pattern", pattern)
        register(self, "weight", weight)

    def check(self, name: str, sizes: Sequence[int]) -> None:
        if tuple(self.pattern.shape) != tuple(sizes):
            raise ValueError(
                f"The pattern of {name!r} is {tuple(self.pattern.shape)}, but the largest numbers "
                f"of states of its nodes are {tuple(sizes)}."
            )

    def read(self, sizes: Sequence[int]) -> FactorGroup:
        weight = self.weight.reshape(*self.weight.shape, *[1] * len(sizes))
        return FactorGroup(self.nodes, weight * self.pattern)

    def extra_repr(self) -> str:
        return factors_in_words(self, "weight")


def factors_in_words(factors: Factors, parameter: str) -> str:
    """How many factors of how many nodes there are, and the shape of their parameter."""
    count, arity = factors.nodes.shape
    own = plain(factors, parameter)
    shape = "random" if own is None else str(tuple(own.shape))
    return f"{count} of {arity} node{'' if arity == 1 else 's'}, {parameter} {shape}"


# ---------------------------------------------------------------------- the doors
def node_indices(nodes: Tensor | Sequence[Sequence[int]]) -> Tensor:  # (count, arity)
    """The nodes of factors as a tensor.

    Raises:
        ValueError: If they are not.
    """
    members = torch.as_tensor(nodes)
    if members.dim() != 2 or not members.numel() or members.is_floating_point():
        raise ValueError(
            f"nodes has shape {tuple(members.shape)} and dtype {members.dtype}; wanted integers "
            f"(count, arity), a row for each factor, and at least one."
        )
    members = members.to(torch.int64)
    ordered = members.sort(dim=1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        row = int((ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero()[0])
        raise ValueError(
            f"A factor has a node twice: {members[row].tolist()}. Take the diagonal of its table "
            f"as a factor of fewer nodes."
        )
    return members


def check_log_potentials(table: Tensor, name: str, count: int | None, arity: int) -> None:
    """Refuses tables that are no log-potentials (*batch, count or 1, …); −inf is one.

    Raises:
        TypeError: If it is no floating-point tensor.
        ValueError: If the count is another, or there is NaN or +inf.
    """
    check_real(table, name)
    own = table.shape[-1 - arity] if table.dim() > arity else None
    if own is None or (count is not None and own not in (1, count)):
        wanted = "count" if count is None else f"{count} or 1"
        sizes = "".join(f", q_{k + 1}" for k in range(arity))
        raise ValueError(
            f"{name} has shape {tuple(table.shape)}; wanted (*batch, {wanted}{sizes})."
        )
    if bool(torch.isnan(table).any()) or bool((table == math.inf).any()):
        raise ValueError(
            f"{name} contains NaN or +inf; wanted log-potentials, where −inf forbids a state."
        )
