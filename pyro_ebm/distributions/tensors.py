"""Distributions straight from tensors, as Pyro users write models.

Each builds the machine of its name and is an energy distribution of it. Batch dimensions lead in
every parameter and broadcast: another machine for each element of a plate. A parameter keeps its
history, so gradients reach latent variables, log Z included.
"""

from collections.abc import Iterable
from typing import ClassVar

import networkx as nx
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.energies import BoltzmannMachine
from pyro_ebm.partition import LogPartition

from .energy_distribution import AbstractEnergyDistribution, Normalizer
from .sampling import Sampler

REAL_MATRIX: Constraint = constraints.independent(constraints.real, 2)
REAL_VECTOR: Constraint = constraints.real_vector


def state_of(log_partition: LogPartition | None) -> Normalizer:
    """Whether log Z is found by structure or handed in."""
    return "exact" if log_partition is None else "estimated"


def zeros(size: int, like: Tensor) -> Tensor:  # (size,)
    """A bias that was left out."""
    return like.new_zeros(size)


class Boltzmann(AbstractEnergyDistribution):
    r"""Bits that are coupled in pairs.

    .. math:: \ln p(x) = \tfrac12 x^\top W x + b^\top x - \ln Z, \quad x \in \{0, 1\}^n

    Args:
        couplings: W (*batch, n, n); its symmetric part counts, its diagonal is a bias.
        bias: b (*batch, n); zero if left out.
        log_partition: As for `EnergyDistribution`, where n is too large for an exact log Z.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite.

    References:
        | A learning algorithm for Boltzmann machines (Ackley, Hinton & Sejnowski, 1985)
        | https://doi.org/10.1207/s15516709cog0901_7
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "couplings": REAL_MATRIX,
        "bias": REAL_VECTOR,
    }

    def __init__(
        self,
        couplings: Tensor,
        bias: Tensor | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        (n,) = last_sizes("couplings", couplings, 2)[1:]
        self.couplings = couplings
        self.bias = zeros(n, couplings) if bias is None else bias
        machine = BoltzmannMachine.fully_visible(n, weight=self.couplings, bias=self.bias)
        self.describe(machine, None, state_of(log_partition), log_partition, sampler)
        super().__init__(self.machines, torch.Size([n]), validate_args=validate_args)


class RestrictedBoltzmann(AbstractEnergyDistribution):
    r"""The visible units of a restricted Boltzmann machine, its hidden ones summed out.

    .. math:: \ln p(v) = b^\top v + \sum_j \ln(1 + e^{c_j + (W^\top v)_j}) - \ln Z

    Args:
        weight: W (*batch, n, m), visible by hidden units.
        visible_bias: b (*batch, n); zero if left out.
        hidden_bias: c (*batch, m); zero if left out.
        log_partition: As for `EnergyDistribution`, where log Z is too large a sum.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite.

    References:
        | Training products of experts by minimizing contrastive divergence (Hinton, 2002)
        | https://doi.org/10.1162/089976602760128018
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "weight": REAL_MATRIX,
        "visible_bias": REAL_VECTOR,
        "hidden_bias": REAL_VECTOR,
    }

    def __init__(
        self,
        weight: Tensor,
        visible_bias: Tensor | None = None,
        hidden_bias: Tensor | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        n, m = last_sizes("weight", weight, 2)
        self.weight = weight
        self.visible_bias = zeros(n, weight) if visible_bias is None else visible_bias
        self.hidden_bias = zeros(m, weight) if hidden_bias is None else hidden_bias
        bias = {"visible": self.visible_bias, "hidden": self.hidden_bias}
        machine = BoltzmannMachine.restricted(n, m, weight=weight, bias=bias)
        self.describe(machine, "visible", state_of(log_partition), log_partition, sampler)
        super().__init__(self.machines, torch.Size([n]), validate_args=validate_args)


class Ising(AbstractEnergyDistribution):
    r"""Spins that are coupled along the edges of a graph.

    .. math:: \ln p(s) = \sum_{(i,j)} J_{ij} s_i s_j + h^\top s - \ln Z, \quad s \in \{-1, 1\}^n

    Args:
        edges: A networkx graph, whose nodes are numbered in its order, or pairs of spins.
        coupling: J (*batch, edges), or one for all edges: a scalar, or (*batch, 1).
        field: h (*batch, n), or one for all spins: a scalar, or (*batch, 1); zero if left out.
        log_partition: As for `EnergyDistribution`, where log Z is too large a sum.
        sampler: As for `EnergyDistribution`.
        validate_args: As in torch.

    Raises:
        TypeError, ValueError: If a parameter has the wrong type or shape, or is not finite, or the
            edges are not those of a simple graph.

    References:
        | Beitrag zur Theorie des Ferromagnetismus (Ising, 1925)
        | https://doi.org/10.1007/BF02980577
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {
        "coupling": REAL_VECTOR,
        "field": REAL_VECTOR,
    }

    def __init__(
        self,
        edges: Tensor | nx.Graph | Iterable[tuple[int, int]],
        coupling: Tensor,
        field: Tensor | None = None,
        *,
        log_partition: LogPartition | None = None,
        sampler: Sampler | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(edges, nx.Graph | Tensor):
            edges = torch.tensor(list(edges))
        self.edges = edges
        self.coupling = as_vector("coupling", coupling)
        shared = self.coupling.new_zeros(1) if field is None else as_vector("field", field)
        n = number_of_spins(edges, shared)
        self.field = shared.expand(*shared.shape[:-1], n) if shared.shape[-1] == 1 else shared
        machine = BoltzmannMachine.on_graph(edges, n, weight=self.coupling, bias=self.field)
        self.describe(machine, None, state_of(log_partition), log_partition, sampler)
        super().__init__(self.machines, torch.Size([n]), validate_args=validate_args)


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


def number_of_spins(edges: Tensor | nx.Graph, field: Tensor) -> int:
    """From the graph, the fields, or the largest index of an edge.

    Raises:
        ValueError: If nothing tells it.
    """
    if isinstance(edges, nx.Graph):
        return len(edges)
    if field.shape[-1] > 1:
        return int(field.shape[-1])
    if not edges.numel():
        raise ValueError("There are no edges to tell the number of spins; give a field for each.")
    return int(edges.max()) + 1
