r"""Random fields: labels on the nodes of a graph, coupled by tables.

.. math:: E(x) = -\sum_f \log \psi_f(x_f)

A node has finitely many states, labelled 0, 1, …, and a factor f any number of nodes. Potts and
Ising models, chains and trees are special cases by their factors alone.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyro_ebm.energies.base import AbstractStructured
from pyro_ebm.energies.modules import require_module_names
from pyro_ebm.energies.pairwise.edges import Edges, Names, numbered, warn_of_weights
from pyro_ebm.energies.structure import Memory
from pyro_ebm.sites import PaddedLabels, Site, is_count, whole

from .factor_graph import FactorGraph
from .factors import Factors, PatternFactors, TableFactors, check_log_potentials
from .structure import FieldStructure, site_of

Learned: TypeAlias = Literal["free", "shared"]
WAYS = "'free' (learned, one for each), 'shared' (learned, one for all) or a tensor"


class RandomField(AbstractStructured):
    """A random field over the labels of one site; the module's docstring has the energy.

    Args:
        states: The number of states of each node (n,).
        factors: The factors by name; a name must be a valid attribute name.
        site: The name of the site, whose value is (*batch, n), labels in the energy's dtype.

    Raises:
        TypeError, ValueError: If an argument is not what is wanted.

    Example:
        >>> weight = torch.tensor([0.5])
        >>> field = RandomField.potts(
        ...     [(0, 1), (1, 2)], 3, couplings=weight, biases=torch.zeros(1, 3)
        ... )
        >>> field(torch.tensor([[0, 0, 1], [2, 2, 2]]))
        tensor([-0.5000, -1.0000])

    References:
        | Spatial interaction and the statistical analysis of lattice systems (Besag, 1974)
        | https://doi.org/10.1111/j.2517-6161.1974.tb00999.x
    """

    factors: Mapping[str, Factors]  # an nn.ModuleDict
    constant: Tensor
    typed_by = "constant"
    names: Mapping[str, Names]  # of the nodes, where a graph has names

    def __init__(
        self,
        states: Sequence[int] | Tensor,
        factors: Mapping[str, Factors],
        *,
        site: str = "visible",
    ) -> None:
        super().__init__()
        self.names = {}
        self.memory: Memory = {}
        self.states = numbers_of_states(states)
        if not isinstance(factors, Mapping):
            raise TypeError(
                f"factors is a {type(factors).__name__}; wanted factors by name, for example "
                f"{{'pairs': TableFactors(nodes, table)}}."
            )
        require_module_names(factors, "factor")
        for name, value in factors.items():
            if not isinstance(value, Factors):
                raise TypeError(
                    f"factors[{name!r}] is {value!r}; wanted TableFactors(nodes, table) or "
                    f"PatternFactors(nodes, weight, pattern)."
                )
            check_members(value.nodes, name, len(self.states))
            value.check(name, self.sizes(value.nodes))
        self.factors = cast("Mapping[str, Factors]", nn.ModuleDict(factors))
        parameters = {name: parameter_of(value) for name, value in factors.items()}
        like = next(iter(parameters.values()), torch.zeros(()))
        self.register_buffer("constant", like.new_zeros(()))
        check_alike(parameters)
        self.sites = {site: site_of(self.states, like.device)}

    # ------------------------------------------------------------------ special cases

    @classmethod
    def on_graph(
        cls,
        graph: Edges,
        states: int | Sequence[int],
        *,
        n: int | None = None,
        node_table: Tensor | Learned = "free",
        edge_table: Tensor | Learned = "free",
    ) -> Self:
        """A table on each node and each edge of a graph.

        Args:
            graph: A networkx graph, or pairs of nodes, counted from 0. Nodes 0, …, n − 1 of a graph
                keep their numbers; others are numbered in its order, and `names` tells them.
            states: The number of states of all nodes, or of each.
            n: The number of nodes; by default that of the graph or of `states`, or all up to the
                largest number.
            node_table: log ψ_i (*batch, n or 1, q), or "free" or "shared" for learned ones.
            edge_table: log ψ_ij (*batch, edges or 1, q, q), the edge's first node first; likewise.
                The first node of an undirected edge of a networkx graph is the one with the
                smaller number.

        Raises:
            TypeError, ValueError: If an argument is not what is wanted.
        """
        if isinstance(edge_table, str):
            potts = "RandomField.potts(graph, states, couplings={w})"
            warn_of_weights(graph, "−Σ w [x = x]", potts)
        edges, states, names = edges_and_states(graph, states, n)
        q = max(states)
        nodes = torch.arange(len(states))[:, None]
        like = first_tensor(node_table, edge_table)
        factors = {"node": table_factors(nodes, node_table, (q,), like)}
        if len(edges):
            sizes = tuple(max(states[i] for i in column) for column in edges.mT.tolist())
            factors["edge"] = table_factors(edges, edge_table, sizes, like)
        return cls.named(states, factors, names)

    @classmethod
    def potts(
        cls,
        graph: Edges,
        states: int | Sequence[int],
        *,
        n: int | None = None,
        couplings: Tensor | Learned = "free",
        biases: Tensor | Learned = "free",
    ) -> Self:
        r"""A Potts model.

        .. math:: E(x) = -\sum_{ij} J_{ij} [x_i = x_j] - \sum_i h_i(x_i)

        Args:
            graph: As for `on_graph`.
            states: As for `on_graph`.
            n: As for `on_graph`.
            couplings: J (*batch, edges or 1), or "free" or "shared" for learned ones.
            biases: h (*batch, n or 1, q); likewise.

        Raises:
            TypeError, ValueError: If an argument is not what is wanted.

        References:
            | Some generalized order-disorder transformations (Potts, 1952)
            | https://doi.org/10.1017/S0305004100027419
        """
        if isinstance(couplings, str):
            warn_of_weights(graph, "−Σ w [x = x]", "couplings={w}")
        edges, states, names = edges_and_states(graph, states, n)
        q = max(states)
        like = first_tensor(couplings, biases)
        factors = {"node": table_factors(torch.arange(len(states))[:, None], biases, (q,), like)}
        if len(edges):
            sizes = [max(states[i] for i in column) for column in edges.mT.tolist()]
            same = torch.eye(*sizes, dtype=like.dtype, device=like.device)
            weight = given_or_learned(couplings, len(edges), (), like)
            factors["edge"] = PatternFactors(edges, weight, same)
        return cls.named(states, factors, names)

    @classmethod
    def ising(
        cls,
        graph: Edges,
        n: int | None = None,
        *,
        couplings: Tensor | Learned = "free",
        field: Tensor | Learned = "free",
    ) -> Self:
        r"""An Ising model whose spins s = 2x − 1 are written as labels x in {0, 1}.

        .. math:: E(x) = -\sum_{ij} J_{ij} s_i s_j - \sum_i h_i s_i

        Args:
            graph: As for `on_graph`.
            n: As for `on_graph`.
            couplings: J (*batch, edges or 1), or "free" or "shared" for learned ones.
            field: h (*batch, n or 1); likewise.

        Raises:
            TypeError, ValueError: If an argument is not what is wanted.
        """
        if isinstance(couplings, str):
            warn_of_weights(graph, "−Σ w s s", "couplings={w}")
        edges, states, names = edges_and_states(graph, 2, n)
        like = first_tensor(couplings, field)
        spin = like.new_tensor([-1.0, 1.0])
        nodes = torch.arange(len(states))[:, None]
        strength = given_or_learned(field, len(states), (), like)
        factors: dict[str, Factors] = {"node": PatternFactors(nodes, strength, spin)}
        if len(edges):
            weight = given_or_learned(couplings, len(edges), (), like)
            factors["edge"] = PatternFactors(edges, weight, spin[:, None] * spin)
        return cls.named(states, factors, names)

    @classmethod
    def chain(cls, unary: Tensor, pairwise: Tensor, *, lengths: Tensor | None = None) -> Self:
        r"""Chains of labels: a hidden Markov model given its data, a linear-chain CRF.

        .. math:: E(x) = -\sum_t u_t(x_t) - \sum_t T_t(x_t, x_{t+1})

        Sequences of unequal length are one batch: with `lengths` the labels get one state more, q,
        "past the end", which a position has if and only if it is past its sequence's end, and
        which no factor of the sequence sees. log Z, marginals, mode and draws are those of the
        sequences, exactly. Labels that are given past the end never count, whatever they are: they
        are read as q.

        Args:
            unary: u (*batch, steps, q), logarithms: `weights.log()` of weights.
            pairwise: T (*batch, steps − 1 or 1, q, q), logarithms too, the earlier label first:
                `potentials.mT` where potentials[to, from] have the later one first.
            lengths: How many steps each sequence has (*batch,), from 1 to steps; all if left out.

        Raises:
            TypeError, ValueError: If an argument is not what is wanted.

        References:
            | Conditional random fields: probabilistic models for segmenting and labeling sequence
            | data (Lafferty, McCallum & Pereira, 2001)
            | https://repository.upenn.edu/handle/20.500.14332/6188
        """
        check_log_potentials(unary, "unary", None, 1)
        steps, q = unary.shape[-2:]
        nodes = torch.arange(steps)[:, None]
        spare = 0 if lengths is None else 1
        factors = {"unary": TableFactors(nodes, unary, spare=spare)}
        if steps > 1:
            pairs = torch.cat([nodes[:-1], nodes[1:]], 1)
            factors["pairwise"] = TableFactors(pairs, pairwise, spare=spare)
        if lengths is None:
            return cls([q] * steps, factors)
        ended = past_the_end(lengths, steps)
        end = torch.arange(q + 1, device=ended.device) == q
        mask = unary.new_zeros(end.shape).masked_fill(ended[..., None] != end, -math.inf)
        factors["past_end"] = TableFactors(nodes, mask)
        field = cls([q + spare] * steps, factors)
        support = PaddedLabels(ended, q)
        field.sites = {name: Site(support, site.shape) for name, site in field.sites.items()}
        return field

    @classmethod
    def named(
        cls, states: Sequence[int], factors: Mapping[str, Factors], names: Names | None
    ) -> Self:
        """A field over nodes that may have names."""
        field = cls(states, factors)
        field.names = {} if names is None else dict.fromkeys(field.sites, names)
        return field

    # ------------------------------------------------------------------ the energy

    def sizes(self, nodes: Tensor) -> list[int]:
        """The largest number of states in each column of nodes (count, arity)."""
        return [max(self.states[i] for i in column) for column in nodes.mT.tolist()]

    @functools.cached_property
    def table_sizes(self) -> dict[str, list[int]]:
        """The sizes of the tables of each group."""
        return {name: self.sizes(value.nodes) for name, value in self.factors.items()}

    def extra_repr(self) -> str:
        return "\n".join(f"{name}: {own!r}" for name, own in self.factors.items())

    def structure(self) -> FieldStructure:
        return FieldStructure(self.sites, self.read(), self.memory)

    def read(self) -> FactorGraph:
        """All parameters, read once, as plain tensors."""
        groups = {name: value.read(self.table_sizes[name]) for name, value in self.factors.items()}
        return FactorGraph(self.states, groups, self.constant)


def numbers_of_states(states: Sequence[int] | Tensor) -> tuple[int, ...]:
    """The number of states of each node.

    Raises:
        ValueError: If there is no node, or a number is not positive.
    """
    if not isinstance(states, Sequence | Tensor | np.ndarray):
        raise ValueError(f"states is {states!r}; wanted a positive number of states.")
    found = states.tolist() if isinstance(states, Tensor | np.ndarray) else list(states)
    bad = [q for q in found if not is_count(q)]
    if bad or not found:
        raise ValueError(
            f"states is {bad or found}; wanted a positive number of states for each node."
        )
    return tuple(int(q) for q in found)


def check_members(nodes: Tensor, name: str, n: int) -> None:
    """Refuses factors of nodes that are not there.

    Raises:
        ValueError: If there are such factors.
    """
    if bool((nodes < 0).any()) or bool((nodes >= n).any()):
        raise ValueError(
            f"The factors {name!r} name nodes from {int(nodes.min())} to {int(nodes.max())}, but "
            f"there are {n}, counted from 0."
        )


def parameter_of(factors: Factors) -> Tensor:
    """The parameter of some factors."""
    return factors.table if isinstance(factors, TableFactors) else cast(Tensor, factors.weight)


def check_alike(parameters: Mapping[str, Tensor]) -> None:
    """Refuses parameters of different dtypes or devices.

    Raises:
        ValueError: If there are.
    """
    kinds = {name: (value.dtype, value.device) for name, value in parameters.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name!r} {dtype} on {device}" for name, (dtype, device) in kinds.items())
        raise ValueError(f"The factors are {told}; give all of them alike.")


def edges_and_states(
    graph: Edges, states: int | Sequence[int], n: int | None
) -> tuple[Tensor, tuple[int, ...], Names | None]:
    """Edges (edges, 2), the number of states of each node, and the nodes' names where they have.

    Raises:
        TypeError, ValueError: If they are not what is wanted.
    """
    nodes = numbered(graph)
    every = whole(states)
    if every is not None:
        found = numbers_of_states([every] * nodes.size(n, "nodes"))
    else:
        found = numbers_of_states(cast("Sequence[int]", states))
        wanted = nodes.size(len(found) if n is None else n, "nodes")
        if wanted != len(found):
            raise ValueError(f"states has {len(found)} numbers, but there are {wanted} nodes.")
    check_members(nodes.edges, "edge", len(found))
    return nodes.edges, found, nodes.names


def first_tensor(*given: Tensor | str) -> Tensor:
    """What learned parameters are made like: the first that is given, else of the default dtype."""
    return next((value.detach() for value in given if isinstance(value, Tensor)), torch.zeros(()))


def given_or_learned(
    given: Tensor | Learned, count: int, sizes: tuple[int, ...], like: Tensor
) -> Tensor:
    """A parameter that is given, or a learned one from zero.

    Raises:
        ValueError: If it is a word that is not known.
    """
    if isinstance(given, str):
        if given not in ("free", "shared"):
            raise ValueError(f"{given!r} is given; wanted {WAYS}.")
        return nn.Parameter(like.new_zeros(1 if given == "shared" else count, *sizes))
    if not isinstance(given, Tensor):
        raise TypeError(f"{given!r} is given; wanted {WAYS}.")
    return given


def table_factors(
    nodes: Tensor, given: Tensor | Learned, sizes: tuple[int, ...], like: Tensor
) -> Factors:
    """Tables on some nodes, given or learned."""
    return TableFactors(nodes, given_or_learned(given, len(nodes), sizes, like))


def past_the_end(lengths: Tensor, steps: int) -> Tensor:  # (*batch,) -> (*batch, steps)
    """Whether a step is past its sequence's end.

    Raises:
        ValueError: If a length is no whole number from 1 to the number of steps.
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point():
        raise ValueError(f"lengths is {lengths!r}; wanted an integer tensor (*batch,).")
    if bool((lengths < 1).any()) or bool((lengths > steps).any()):
        raise ValueError(
            f"lengths go from {int(lengths.min())} to {int(lengths.max())}; wanted lengths from 1 "
            f"to {steps}, the number of steps."
        )
    return torch.arange(steps, device=lengths.device) >= lengths[..., None]
