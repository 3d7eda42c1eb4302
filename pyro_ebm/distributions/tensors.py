"""Distributions straight from tensors, as Pyro users write models.

Each builds the machine of its name and is an energy distribution of it. Batch dimensions lead in
every parameter and broadcast: another machine for each element of a plate. A parameter keeps its
history, so gradients reach latent variables, log Z included.
"""

import functools
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies import BoltzmannMachine, Edges, NumberedGraph, RandomField, numbered
from pyro_ebm.partition import LogPartition

from .energy_distribution import AbstractEnergyDistribution
from .normalizers import known
from .reading import substituted
from .sampling import Sampler

REAL_MATRIX: Constraint = constraints.independent(constraints.real, 2)
REAL_VECTOR: Constraint = constraints.real_vector


def zeros(size: int, like: Tensor) -> Tensor:  # (size,)
    """A bias that was left out."""
    return like.new_zeros(size)


class Boltzmann(AbstractEnergyDistribution):
    r"""Bits that are coupled in pairs.

    .. math:: \ln p(x) = \tfrac12 x^\top W x + b^\top x - \ln Z, \quad x \in \{0, 1\}^n

    As an energy it is `BoltzmannMachine.fully_visible`.

    Args:
        couplings: W (*batch, n, n); its symmetric part counts, its diagonal is a bias.
        biases: b (*batch, n); zero if left out.
        log_partition: As for `EnergyDistribution`, where n is too large for an exact log Z.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite.

    Example:
        >>> import torch
        >>> from pyro_ebm.distributions import Boltzmann
        >>> law = Boltzmann(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> law.log_prob(torch.ones(2)).exp()  # e / (e + 3)
        tensor(0.4754)

    References:
        | A learning algorithm for Boltzmann machines (Ackley, Hinton & Sejnowski, 1985)
        | https://doi.org/10.1207/s15516709cog0901_7
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "couplings": REAL_MATRIX,
        "biases": REAL_VECTOR,
    }

    def __init__(
        self,
        couplings: Tensor,
        biases: Tensor | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        (n,) = last_sizes("couplings", couplings, 2)[1:]
        self.couplings = couplings
        self.biases = zeros(n, couplings) if biases is None else biases
        machine = BoltzmannMachine.fully_visible(n, couplings=self.couplings, biases=self.biases)
        self.describe(machine, None, known(log_partition), sampler, validate_args)


class RestrictedBoltzmann(AbstractEnergyDistribution):
    r"""The visible units of a restricted Boltzmann machine, its hidden ones summed out.

    .. math:: \ln p(v) = b^\top v + \sum_j \ln(1 + e^{c_j + (W^\top v)_j}) - \ln Z

    As an energy it is `BoltzmannMachine.restricted`.

    Args:
        couplings: W (*batch, n, m), visible by hidden units.
        visible_biases: b (*batch, n); zero if left out.
        hidden_biases: c (*batch, m); zero if left out.
        log_partition: As for `EnergyDistribution`, where log Z is too large a sum.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite.

    Example:
        >>> import torch
        >>> from pyro_ebm.distributions import RestrictedBoltzmann
        >>> law = RestrictedBoltzmann(torch.zeros(3, 2), torch.tensor([0.0, 1.0, 2.0]))
        >>> law.mean
        tensor([0.5000, 0.7311, 0.8808])

    References:
        | Training products of experts by minimizing contrastive divergence (Hinton, 2002)
        | https://doi.org/10.1162/089976602760128018
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "couplings": REAL_MATRIX,
        "visible_biases": REAL_VECTOR,
        "hidden_biases": REAL_VECTOR,
    }

    def __init__(
        self,
        couplings: Tensor,
        visible_biases: Tensor | None = None,
        hidden_biases: Tensor | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        n, m = last_sizes("couplings", couplings, 2)
        self.couplings = couplings
        self.visible_biases = zeros(n, couplings) if visible_biases is None else visible_biases
        self.hidden_biases = zeros(m, couplings) if hidden_biases is None else hidden_biases
        biases = {"visible": self.visible_biases, "hidden": self.hidden_biases}
        machine = BoltzmannMachine.restricted(n, m, couplings=couplings, biases=biases)
        self.describe(machine, "visible", known(log_partition), sampler, validate_args)


class Ising(AbstractEnergyDistribution):
    r"""Spins that are coupled along the edges of a graph.

    .. math:: \ln p(s) = \sum_{(i,j)} J_{ij} s_i s_j + h^\top s - \ln Z, \quad s \in \{-1, 1\}^n

    As an energy it is `BoltzmannMachine.on_graph`.

    Args:
        edges: A networkx graph, or pairs of spins, counted from 0. Nodes 0, …, n − 1 of a graph
            are the spins, and others are numbered in its order.
        couplings: J (*batch, edges), or one for all edges: a scalar, or (*batch, 1).
        field: h (*batch, n), or one for all spins: a scalar, or (*batch, 1); zero if left out.
        log_partition: As for `EnergyDistribution`, where log Z is too large a sum.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite, or the
            edges are not those of a simple graph.

    Example:
        >>> import torch
        >>> from pyro_ebm.distributions import Ising
        >>> law = Ising([(0, 1), (1, 2)], torch.tensor(0.5))
        >>> law.log_prob(torch.tensor([1.0, 1.0, 1.0])).exp(), law.sample((5,)).shape
        (tensor(0.2672), torch.Size([5, 3]))

    References:
        | Beitrag zur Theorie des Ferromagnetismus (Ising, 1925)
        | https://doi.org/10.1007/BF02980577
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "couplings": REAL_VECTOR,
        "field": REAL_VECTOR,
    }

    def __init__(
        self,
        edges: Edges,
        couplings: Tensor,
        field: Tensor | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.edges = edges
        self.couplings = as_vector("couplings", couplings)
        shared = self.couplings.new_zeros(1) if field is None else as_vector("field", field)
        graph, told = numbered(edges), shared.shape[-1]
        pairs, named = pairs_of(graph)
        n = graph.size(None, "spins") if told == 1 else max(named, told)
        self.field = shared.expand(*shared.shape[:-1], n) if shared.shape[-1] == 1 else shared
        check_size("couplings", self.couplings, (1, len(pairs)))
        check_size("field", self.field, (n,))
        empty = uncoupled(
            pairs, n, self.couplings.shape[-1], self.couplings.dtype, couplings.device
        )
        values = {
            "couplings.visible_visible.weight": self.couplings,
            "layers.visible.bias": self.field,
        }
        machine = substituted(empty, values)
        assert isinstance(machine, BoltzmannMachine)
        self.describe(machine, None, known(log_partition), sampler, validate_args)


class Potts(AbstractEnergyDistribution):
    r"""Labels that like or dislike to agree along the edges of a graph.

    .. math:: \ln p(x) = \sum_{(i,j)} J_{ij} [x_i = x_j] + \sum_i h_{i x_i} - \ln Z

    with labels x from 0 to q − 1. log Z is exact where the graph has a small treewidth, as chains
    and trees have, whatever their length.

    As an energy it is `RandomField.potts`.

    Args:
        edges: A networkx graph, or pairs of nodes, counted from 0, as for `Ising`.
        couplings: J (*batch, edges), or one for all edges: a scalar, or (*batch, 1).
        biases: h (*batch, n, q), for every node and label.
        log_partition: As for `EnergyDistribution`, where log Z is too large a sum.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite, or the
            edges are not those of a simple graph.

    Example:
        >>> import torch
        >>> from pyro_ebm.distributions import Potts
        >>> chain = [(k, k + 1) for k in range(99)]
        >>> law = Potts(chain, torch.tensor(1.0), torch.zeros(100, 3))
        >>> law.log_prob(torch.zeros(100)), law.sample((5,)).shape
        (tensor(-55.6916), torch.Size([5, 100]))

    References:
        | Some generalized order-disorder transformations (Potts, 1952)
        | https://doi.org/10.1017/S0305004100027419
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "couplings": REAL_VECTOR,
        "biases": REAL_MATRIX,
    }

    def __init__(
        self,
        edges: Edges,
        couplings: Tensor,
        biases: Tensor,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        n, q = last_sizes("biases", biases, 2)
        self.edges, self.biases = edges, biases
        self.couplings = as_vector("couplings", couplings)
        graph = numbered(edges)
        pairs, named = pairs_of(graph)
        if named > n:
            raise ValueError(f"The edges name {named} nodes, but biases has {n} rows.")
        check_size("couplings", self.couplings, (1, len(pairs)))
        machine = RandomField.potts(graph.edges, [q] * n, couplings=self.couplings, biases=biases)
        self.describe(machine, None, known(log_partition), sampler, validate_args)


def last_sizes(name: str, value: Tensor, count: int) -> tuple[int, ...]:
    """The last sizes of a parameter.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it has fewer dimensions.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; wanted a torch tensor.")
    if value.dim() < count:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; wanted {count} dimensions, where batch "
            f"dimensions may lead."
        )
    return tuple(value.shape[-count:])


def as_vector(name: str, value: Tensor) -> Tensor:  # () or (*batch, k) -> (*batch, k)
    """A parameter for every edge or spin, or one for all of them.

    Raises:
        TypeError: If it is no tensor.
    """
    last_sizes(name, value, 0)
    return value[None] if value.dim() == 0 else value


def check_size(name: str, value: Tensor, sizes: tuple[int, ...]) -> None:
    """Refuses a parameter whose last size is none of some.

    Raises:
        ValueError: If it is not.
    """
    if value.shape[-1] not in sizes:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; wanted a scalar, or "
            f"{' or '.join(map(str, sizes))} numbers in the last dimension, where batch dimensions "
            f"may lead."
        )


Pairs = tuple[tuple[int, int], ...]


def pairs_of(graph: NumberedGraph) -> tuple[Pairs, int]:
    """Edges as pairs, and the number of spins that they tell of."""
    pairs = tuple((a, b) for a, b in graph.edges.tolist())
    if graph.names is not None:
        return pairs, len(graph.names)
    return pairs, 1 + max((max(pair) for pair in pairs), default=-1)


@functools.lru_cache(maxsize=64)
def uncoupled(
    pairs: Pairs, n: int, couplings: int, dtype: torch.dtype, device: torch.device
) -> BoltzmannMachine:
    """The machine of a graph without its parameters: it is checked and coloured once."""
    weight = torch.zeros(couplings, dtype=dtype, device=device)
    bias = torch.zeros(n, dtype=dtype, device=device)
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return BoltzmannMachine.on_graph(edges, n, couplings=weight, biases=bias)
