r"""Boltzmann machines: layers of units, joined by couplings.

.. math:: E(x) = -\tfrac12 (x - \hat x)^\top W (x - \hat x) - b^\top x + \sum_i u(x_i) + c

over the units of all layers, W symmetric with zero diagonal and nonzero only where a coupling says
so. The offsets x̂ (centring) are zero unless given. An RBM, a deep machine, a fully visible machine
and an Ising model on a graph are special cases by their couplings alone.
"""

import itertools
import warnings
from collections.abc import Hashable, Iterable, Mapping, MutableMapping, Sequence
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from pyro_ebm.energies.base import AbstractStructured
from pyro_ebm.energies.modules import require_module_names
from pyro_ebm.sites import Site, is_trusting, require_numbers
from pyro_ebm.units import Bernoulli, QuadraticUnit, Spin, Unit, name_of

from .couplings import Coupling, Dense, Graph, Symmetric, check_parameter, fold_square
from .edges import CouplingWarning, Edges, Names
from .layers import Layer, check_known, make_layers
from .links import GraphLink
from .pairs import Pairs, pairs_of
from .polynomials import Linear, Polynomial, Quadratic, coefficients
from .structure import PairwiseStructure
from .terms import PairwiseTerms

Pair = tuple[str, str]
Given = Tensor | Graph | None  # couplings: a matrix, a graph, or learned from scratch

INITIAL_SCALE = 0.01  # standard deviation of learned couplings between layers (Hinton, 2012)


class BoltzmannMachine(AbstractStructured):
    """A Boltzmann machine over named layers; the module's docstring has the energy.

    `restricted`, `fully_visible`, `on_graph`, `deep`, `from_pairs` make the usual ones. As Pyro
    distributions, `pyro_ebm.distributions` has `Boltzmann`, `RestrictedBoltzmann`, `Ising`.

    Args:
        layers: The layers by name; a name must be a valid attribute name.
        couplings: Pairs of layer names that are coupled, twice the same for couplings inside a
            layer; or a mapping from such pairs to the couplings: a matrix (*batch, n, m), for a
            layer with itself a square one of any kind (its symmetric part counts, its diagonal
            becomes a bias), a `Graph` for sparse couplings, or None for learned ones. A matrix
            given as nn.Parameter is learned, any other tensor is kept as it is.

    Raises:
        ValueError: If a name, a shape, a dtype, a device or a value is not what is wanted.
        TypeError: If a parameter is no floating-point tensor.

    Example:
        >>> import torch
        >>> from pyro_ebm import Bernoulli, BoltzmannMachine, Gaussian, Layer
        >>> layers = {"pixels": Layer(Gaussian(), 4), "causes": Layer(Bernoulli(), 2)}
        >>> machine = BoltzmannMachine(layers, {("pixels", "causes"): torch.ones(4, 2)})
        >>> machine({"pixels": torch.ones(4), "causes": torch.tensor([1.0, 0.0])})
        tensor(-2., ...)

    References:
        | A learning algorithm for Boltzmann machines (Ackley, Hinton & Sejnowski, 1985)
        | https://doi.org/10.1207/s15516709cog0901_7
        | How to center deep Boltzmann machines (Melchior, Fischer & Wiskott, 2016)
        | https://jmlr.org/papers/v17/14-237.html
    """

    layers: Mapping[str, Layer]  # an nn.ModuleDict, as `couplings` is
    couplings: MutableMapping[str, Coupling]
    constant: Tensor
    typed_by = "constant"
    names: Mapping[str, Names]  # of the units of a layer, where a graph or a polynomial has names

    def __init__(
        self,
        layers: Mapping[str, Layer],
        couplings: Iterable[Pair] | Mapping[Pair, Given] = (),
    ) -> None:
        super().__init__()
        self.names = {}
        if not layers:
            raise ValueError("A machine needs at least one layer.")
        require_module_names(layers, "layer")
        given = couplings if isinstance(couplings, Mapping) else dict.fromkeys(couplings)
        check_ties(given)
        self.register_buffer("constant", like_the_given(layers, given))
        require_numbers(self.constant, "A machine")
        own = {name: layer.in_machine(self.constant) for name, layer in layers.items()}
        self.layers = cast("Mapping[str, Layer]", nn.ModuleDict(own))
        self.sites = {
            name: Site(layer.unit.support, torch.Size([layer.size]))
            for name, layer in layers.items()
        }
        self.couplings = cast("MutableMapping[str, Coupling]", nn.ModuleDict())
        for ends, value in given.items():
            self.couple(ends, value)
        self.check_alike()
        with torch.no_grad():
            self.read().require_normalisable()

    def couple(self, ends: Pair, value: Given) -> None:
        """Adds one coupling; what a square matrix's diagonal does goes to bias and constant."""
        if not (isinstance(ends, tuple) and len(ends) == 2):
            raise ValueError(f"A coupling is {ends!r}; wanted a pair of layer names.")
        if unknown := [name for name in ends if name not in self.layers]:
            raise ValueError(f"Unknown layers {unknown}; the machine has {list(self.layers)}.")
        if any(set(ends) == set(coupling.ends) for coupling in self.couplings.values()):
            raise ValueError(f"The layers {ends} are coupled twice; give one coupling for a pair.")
        key = "_".join(ends)
        if key in self.couplings:
            raise ValueError(
                f"The coupling {ends} and another one would both be called {key!r}; rename a layer."
            )
        first, second = (self.layers[name] for name in ends)
        sizes = (first.size * first.unit.width, second.size * second.unit.width)
        if isinstance(value, Graph):
            if first.unit.width > 1 or second.unit.width > 1:
                raise ValueError(
                    f"The coupling {ends} is a graph, but couplings of labels are matrices. Couple "
                    f"the layers densely, or write the model as a RandomField."
                )
            coupling: Coupling = value.coupling(ends, sizes, self.constant)
        elif ends[0] == ends[1]:
            coupling = self.symmetric(ends[0], value)
        else:
            if value is None:
                value = nn.Parameter(self.constant.new_empty(sizes).normal_(0, INITIAL_SCALE))
            coupling = Dense(ends, check_parameter(value, f"the coupling {ends}", sizes))
        self.couplings[key] = coupling

    def symmetric(self, site: str, value: Tensor | None) -> Symmetric:
        """The couplings inside a layer."""
        layer = self.layers[site]
        size = layer.size * layer.unit.width
        if value is None:
            zeros = self.constant.new_zeros(size)
            weight = nn.Parameter(self.constant.new_zeros(size, size))
            return Symmetric(site, weight, zeros, layer.unit.width)
        check_parameter(value, f"the coupling inside {site!r}", (size, size))
        learned = isinstance(value, nn.Parameter)
        offset = self.constant.new_zeros(size) if layer.offset is None else layer.offset
        upper, bias, constant = fold_square(
            value.detach() if learned else value, offset, layer.unit
        )
        if not is_trusting():  # vmap cannot ask a tensor of its numbers
            warn_of_one_side(value.detach(), site)
            warn_of_diagonal(bias, layer.bias, site)
        self.constant = self.constant + constant.to(self.constant)
        if learned:
            return Symmetric(site, nn.Parameter(upper), bias, layer.unit.width)
        precision = None
        if value.requires_grad and isinstance(layer.unit, QuadraticUnit):
            precision = -value.diagonal(dim1=-2, dim2=-1)
        return Symmetric(site, upper, bias, layer.unit.width, precision)

    def check_alike(self) -> None:
        """Refuses parameters of different dtypes or devices."""
        for name, value in (*self.named_parameters(), *self.named_buffers()):
            if value.is_floating_point() and (value.dtype, value.device) != (
                self.dtype,
                self.device,
            ):
                raise ValueError(
                    f"{name} is {value.dtype} on {value.device}, but another given parameter is "
                    f"{self.dtype} on {self.device}; give all of them alike."
                )

    # ------------------------------------------------------------------ special cases

    @classmethod
    def restricted(
        cls,
        n_visible: int,
        n_hidden: int,
        *,
        units: tuple[Unit, Unit] = (Bernoulli(), Bernoulli()),
        couplings: Tensor | None = None,
        biases: Mapping[str, Tensor] | None = None,
        offset: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """An RBM: no couplings inside the layers `visible` and `hidden`.

        Args:
            n_visible: Number of visible units.
            n_hidden: Number of hidden units.
            units: The kinds of visible and hidden units.
            couplings: W (*batch, n_visible, n_hidden).
            biases: By layer.
            offset: Offsets by layer.
        """
        sizes = {"visible": n_visible, "hidden": n_hidden}
        return cls(make_layers(sizes, units, biases, offset), {("visible", "hidden"): couplings})

    @classmethod
    def semi_restricted(
        cls,
        n_visible: int,
        n_hidden: int,
        *,
        units: tuple[Unit, Unit] = (Bernoulli(), Bernoulli()),
        couplings: Mapping[Pair, Given] | None = None,
        biases: Mapping[str, Tensor] | None = None,
        offset: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """An RBM with couplings among the visible units.

        Args:
            n_visible: Number of visible units.
            n_hidden: Number of hidden units.
            units: The kinds of visible and hidden units.
            couplings: W under ("visible", "hidden") and L under ("visible", "visible").
            biases: By layer.
            offset: Offsets by layer.
        """
        sizes = {"visible": n_visible, "hidden": n_hidden}
        pairs = [("visible", "hidden"), ("visible", "visible")]
        return cls(make_layers(sizes, units, biases, offset), choose_given(pairs, couplings))

    @classmethod
    def general(
        cls,
        n_visible: int,
        n_hidden: int,
        *,
        units: tuple[Unit, Unit] = (Bernoulli(), Bernoulli()),
        couplings: Mapping[Pair, Given] | None = None,
        biases: Mapping[str, Tensor] | None = None,
        offset: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Every unit coupled to every other: W between the layers, L and J inside them.

        Args:
            n_visible: Number of visible units.
            n_hidden: Number of hidden units.
            units: The kinds of visible and hidden units.
            couplings: W under ("visible", "hidden"), L under ("visible", "visible") and J under
                ("hidden", "hidden").
            biases: By layer.
            offset: Offsets by layer.
        """
        sizes = {"visible": n_visible, "hidden": n_hidden}
        pairs = [("visible", "hidden"), ("visible", "visible"), ("hidden", "hidden")]
        return cls(make_layers(sizes, units, biases, offset), choose_given(pairs, couplings))

    @classmethod
    def fully_visible(
        cls,
        n: int,
        *,
        unit: Unit = Bernoulli(),  # noqa: B008 (a unit is immutable)
        couplings: Tensor | None = None,
        biases: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Self:
        """One layer, `visible`, with every pair of units coupled.

        Args:
            n: Number of units.
            unit: The kind of unit.
            couplings: W (*batch, n, n); any square matrix, see the class.
            biases: b (*batch, n).
            offset: x̂ (*batch, n).
        """
        layer = Layer(unit, n, bias=biases, offset=offset)
        return cls({"visible": layer}, {("visible", "visible"): couplings})

    @classmethod
    def deep(
        cls,
        sizes: Sequence[int],
        *,
        unit: Unit = Bernoulli(),  # noqa: B008 (a unit is immutable)
        couplings: Mapping[Pair, Given] | None = None,
        biases: Mapping[str, Tensor] | None = None,
        offset: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """A deep Boltzmann machine: `visible`, `hidden1`, `hidden2`, … each coupled to the next.

        Args:
            sizes: Numbers of units, visible first.
            unit: The kind of unit.
            couplings: Matrices by pair of neighbouring layers.
            biases: By layer.
            offset: Offsets by layer.

        References:
            | Deep Boltzmann machines (Salakhutdinov & Hinton, 2009)
            | https://proceedings.mlr.press/v5/salakhutdinov09a.html
        """
        if len(sizes) < 2:
            raise ValueError(f"sizes is {list(sizes)}; wanted a visible and some hidden layers.")
        names = ["visible", *(f"hidden{k}" for k in range(1, len(sizes)))]
        layers = make_layers(
            dict(zip(names, sizes, strict=True)), (unit,) * len(sizes), biases, offset
        )
        return cls(layers, choose_given(list(itertools.pairwise(names)), couplings))

    @classmethod
    def on_graph(
        cls,
        edges: Edges,
        n: int | None = None,
        *,
        unit: Unit = Spin(),  # noqa: B008 (a unit is immutable)
        couplings: Tensor | Literal["free", "shared"] = "free",
        biases: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Self:
        """One layer, `visible`, coupled along the edges of a graph: an Ising model.

        Args:
            edges: A networkx graph, or pairs of units, counted from 0. Nodes 0, …, n − 1 of a graph
                are the units; others are numbered in its order, and `names` tells them.
            n: Number of units; by default that of the graph, or all up to the largest index.
            unit: The kind of unit.
            couplings: "free" for one learned coupling on each edge, "shared" for a single one, or
                the numbers themselves, (*batch, edges) or (*batch, 1).
            biases: b (*batch, n).
            offset: x̂ (*batch, n).
        """
        graph = Graph(edges, couplings)
        layer = Layer(unit, graph.nodes.size(n, "units"), bias=biases, offset=offset)
        machine = cls({"visible": layer}, {("visible", "visible"): graph})
        machine.names = {} if graph.nodes.names is None else {"visible": graph.nodes.names}
        return machine

    # ------------------------------------------------------------------ others' conventions

    @classmethod
    def from_pairs(
        cls,
        couplings: Quadratic,
        biases: Linear = (),
        constant: float = 0.0,
        *,
        unit: Unit = Bernoulli(),  # noqa: B008 (a unit is immutable)
        dtype: torch.dtype | None = None,
    ) -> Self:
        r"""One layer, `visible`, from the coupling of each pair; nothing is learned.

        .. math:: E(x) = -\sum_{(u, v)} J_{uv} x_u x_v - \sum_u b_u x_u + c

        Each number that is given counts once: (u, v) and (v, u) are added, (u, u) is a square.
        `names` tells the units.

        Args:
            couplings: J by pair of names, or a square matrix of any kind (n, n).
            biases: b by name, or (n,) for the units 0, …, n − 1; zero where left out.
            constant: c.
            unit: The kind of unit.
            dtype: Of the machine; that of the arrays, else torch's default, if left out.

        Raises:
            TypeError, ValueError: If the numbers are not what is wanted, or a unit with more values
                than two is coupled to itself.

        Example:
            >>> machine = BoltzmannMachine.from_pairs({("a", "b"): 0.7}, {"a": 0.1, "c": 0.5})
            >>> machine.names["visible"], machine(torch.tensor([1.0, 0.0, 1.0]))
            (('a', 'c', 'b'), tensor(-0.8000))
        """
        return cls.from_polynomial(Polynomial.of(biases, couplings, dtype), -1.0, constant, unit)

    @classmethod
    def from_ising(
        cls,
        h: Linear,
        J: Quadratic,
        offset: float = 0.0,
        *,
        dtype: torch.dtype | None = None,
    ) -> Self:
        r"""Spins with an energy as optimisers write it, to be minimised: dimod's `to_ising()`.

        .. math:: E(s) = \sum_u h_u s_u + \sum_{(u, v)} J_{uv} s_u s_v + \mathrm{offset}

        Args:
            h: By name, or (n,).
            J: By pair of names, or a square matrix of any kind (n, n), of which every entry counts:
                sᵀJs.
            offset: A constant.
            dtype: As for `from_pairs`.

        Raises:
            TypeError, ValueError: If the numbers are not what is wanted.
        """
        return cls.from_polynomial(Polynomial.of(h, J, dtype), 1.0, offset, Spin())

    @classmethod
    def from_qubo(
        cls,
        Q: Quadratic,
        offset: float = 0.0,
        *,
        dtype: torch.dtype | None = None,
    ) -> Self:
        r"""Bits with an energy as optimisers write it, to be minimised: dimod's `to_qubo()`.

        .. math:: E(x) = \sum_{(u, v)} Q_{uv} x_u x_v + \mathrm{offset}

        Args:
            Q: By pair of names, or a square matrix of any kind (n, n), of which every entry counts:
                xᵀQx, its diagonal too.
            offset: A constant.
            dtype: As for `from_pairs`.

        Raises:
            TypeError, ValueError: If the numbers are not what is wanted.
        """
        return cls.from_polynomial(Polynomial.of((), Q, dtype), 1.0, offset, Bernoulli())

    @classmethod
    def from_polynomial(cls, given: Polynomial, sign: float, constant: float, unit: Unit) -> Self:
        """One layer, `visible`, whose energy is a polynomial times a sign, plus a constant."""
        if unit.width > 1:
            raise ValueError(
                f"{name_of(unit)} units are labels, which have no products; couple them by a "
                f"RandomField."
            )
        linear = given.linear
        shift = linear.new_tensor(coefficients("constant", {"constant": constant})["constant"])
        if bool((given.squares != 0).any()):
            if unit.square is None:
                raise ValueError(
                    f"A unit is coupled to itself, but of {name_of(unit)} that is a precision. "
                    f"Leave the pair out and give the precision."
                )
            a, b = unit.square  # x² = a + b x
            linear, shift = linear + b * given.squares, shift + sign * a * given.squares.sum()
        layer = Layer(unit, len(given.names), bias=-sign * linear)
        graph = Graph(given.edges, -sign * given.pairs)
        coupled = {("visible", "visible"): graph} if len(graph.edges) else {}
        machine = cls({"visible": layer}, coupled)
        machine.constant, machine.names = shift, {"visible": given.names}
        return machine

    # ------------------------------------------------------------------ the energy

    def extra_repr(self) -> str:
        couplings = [coupling.extra_repr() for coupling in self.couplings.values()]
        return "\n".join([*self.layers_in_words(), *couplings])

    def layers_in_words(self) -> list[str]:
        """The units of each layer, where their values do not say which they are."""
        told = Bernoulli | Spin
        layers = self.layers.items()
        return [f"{name}: {own.unit!r}" for name, own in layers if not isinstance(own.unit, told)]

    def structure(self) -> PairwiseStructure:
        return PairwiseStructure(self.sites, self.read())

    def read(self) -> PairwiseTerms:
        """All parameters, read once, as plain tensors."""
        units = {name: self.uncoupled_unit(name) for name in self.layers}
        biases = {name: self.uncoupled_bias(name) for name in self.layers}
        links = tuple(coupling.read() for coupling in self.couplings.values())
        terms = PairwiseTerms(units, biases, links, self.constant)
        offsets = {
            name: layer.offset for name, layer in self.layers.items() if layer.offset is not None
        }
        return terms.centred(offsets) if offsets else terms

    def uncoupled_unit(self, site: str) -> Unit:
        """The unit of a layer, with the precision that its self-couplings are."""
        unit = self.layers[site].read_unit()
        for coupling in self.couplings.values():
            if not isinstance(coupling, Symmetric) or coupling.ends[0] != site:
                continue
            if isinstance(unit, QuadraticUnit) and coupling.self_precision is not None:
                unit = unit.with_precision(unit.precision + coupling.self_precision)
        return unit

    def uncoupled_bias(self, site: str) -> Tensor:  # (*batch, n)
        """The bias of a layer, with that which its self-couplings are."""
        bias = self.layers[site].bias
        for coupling in self.couplings.values():
            if isinstance(coupling, Symmetric) and coupling.ends[0] == site:
                bias = bias + coupling.self_bias
        return bias

    # ------------------------------------------------------------------ the same, differently

    def given(self, terms: PairwiseTerms) -> "BoltzmannMachine":
        """A machine of given tensors with these terms."""
        layers = {
            name: Layer(unit, self.layers[name].size, bias=terms.biases[name])
            for name, unit in terms.units.items()
        }
        machine = BoltzmannMachine(
            layers,
            {
                link.ends: Graph(link.edges, link.weight)
                if isinstance(link, GraphLink)
                else link.weight
                for link in terms.links
            },
        )
        machine.constant, machine.names = terms.constant, dict(self.names)
        return machine

    def to_spins(self) -> "BoltzmannMachine":
        """The same law with bits x written as spins, x = (s + 1) / 2, with the same energies."""
        return self.given(self.read().substituted(Bernoulli(), Spin(), 0.5, 0.5))

    def to_bits(self) -> "BoltzmannMachine":
        """The same law with spins s written as bits, s = 2x − 1, with the same energies."""
        return self.given(self.read().substituted(Spin(), Bernoulli(), 2.0, -1.0))

    @torch.no_grad()
    def to_pairs(self) -> Pairs:
        """The numbers of a machine of bits or spins, which `from_pairs` makes it of again.

        Units are called by `names`, else by number, or by site and number. Offsets are in the
        biases and the constant.

        Raises:
            ValueError: If there is a batch of machines, or a unit is neither a bit nor a spin.

        Example:
            >>> machine = BoltzmannMachine.from_pairs({("a", "b"): 0.5}, {"a": 1.0})
            >>> machine.to_pairs()
            Pairs(couplings={('a', 'b'): 0.5}, biases={'a': 1.0, 'b': 0.0}, constant=0.0)
        """
        return pairs_of(self.read(), self.names)

    def to_ising(
        self,
    ) -> tuple[dict[Hashable, float], dict[tuple[Hashable, Hashable], float], float]:
        r"""h, J and the offset of the energy over spins, as `from_ising` and dimod take them.

        .. math:: E(s) = \sum_u h_u s_u + \sum_{(u, v)} J_{uv} s_u s_v + \mathrm{offset}

        Bits are written as spins, s = 2x − 1. `dimod.BinaryQuadraticModel.from_ising(*...)` is the
        same energy.

        Raises:
            ValueError: As `to_pairs`.

        Example:
            >>> BoltzmannMachine.from_pairs({("a", "b"): 4.0}).to_ising()
            ({'a': -1.0, 'b': -1.0}, {('a', 'b'): -1.0}, -1.0)
        """
        pairs = self.to_spins().to_pairs()
        return (*pairs.polynomial(-1.0), pairs.constant)

    def to_qubo(self) -> tuple[dict[tuple[Hashable, Hashable], float], float]:
        r"""Q and the offset of the energy over bits, as `from_qubo` and dimod take them.

        .. math:: E(x) = \sum_{(u, v)} Q_{uv} x_u x_v + \mathrm{offset}

        Spins are written as bits; linear terms are on the diagonal, since x² = x.

        Raises:
            ValueError: As `to_pairs`.

        Example:
            >>> BoltzmannMachine.from_pairs({("a", "b"): 0.5}, {"a": 1.0}).to_qubo()
            ({('a', 'a'): -1.0, ('b', 'b'): 0.0, ('a', 'b'): -0.5}, 0.0)
        """
        pairs = self.to_bits().to_pairs()
        linear, quadratic = pairs.polynomial(-1.0)
        return {**{(name, name): value for name, value in linear.items()}, **quadratic}, (
            pairs.constant
        )

    def joined(self) -> "BoltzmannMachine":
        """The fully visible machine over the units of all layers, in order, with every energy kept.

        Raises:
            ValueError: If the layers are of different kinds.
        """
        units = {layer.unit for layer in self.layers.values()}
        if len(units) > 1 or any(unit.has_potential for unit in units):
            raise ValueError(
                f"The layers have units of different kinds, or with parameters: "
                f"{', '.join(name_of(unit) for unit in units)}; wanted one kind without."
            )
        terms = self.read()
        machine = BoltzmannMachine.fully_visible(
            sum(layer.size for layer in self.layers.values()),
            unit=units.pop(),
            couplings=terms.matrix(),
            biases=torch.cat(list(terms.biases.values()), -1),
        )
        machine.constant = terms.constant
        return machine


def like_the_given(layers: Mapping[str, Layer], couplings: Mapping[Pair, Given]) -> Tensor:  # ()
    """A zero of the dtype and device of the parameters that are given, else of the default."""
    weights = [
        value.couplings if isinstance(value, Graph) else value for value in couplings.values()
    ]
    own = [value for layer in layers.values() for value in (layer.bias, layer.offset)]
    for layer in layers.values():
        # A single number takes the machine's dtype, unless it is learned.
        kept = [getattr(layer, name) for name in layer.unit.parameters]
        own += [value for value in kept if value.dim() or value.requires_grad]
    for value in (*own, *weights):
        if isinstance(value, Tensor) and value.is_floating_point():
            require_numbers(value, "A given parameter")
            return value.new_zeros(())
    return torch.zeros(())


def warn_of_one_side(matrix: Tensor, site: str) -> None:
    """Warns of a square matrix (*batch, n, n) whose numbers are halved where they may be whole."""
    sides = [bool((part != 0).any()) for part in (matrix.triu(1), matrix.tril(-1))]
    if any(sides) and not all(sides):
        warnings.warn(
            f"The couplings inside {site!r} stand on one side of the diagonal, so each pair gets "
            f"half of its number: they are read as ½ xᵀWx. Give W + W.mT where W[i, j] is meant "
            f"for the pair, or (W + W.mT) / 2 to keep the half. BoltzmannMachine.from_ising, "
            f"from_qubo and from_pairs take other conventions.",
            CouplingWarning,
            stacklevel=7,
        )


def warn_of_diagonal(own: Tensor, bias: Tensor, site: str) -> None:
    """Warns of a bias (*batch, n) that the diagonal of couplings is beside the one of the layer."""
    if bool((own != 0).any()) and bool((bias != 0).any()):
        warnings.warn(
            f"The couplings inside {site!r} have a diagonal, which is a bias beside the one that "
            f"is given. Where it is not meant give W - W.diagonal(dim1=-2, dim2=-1).diag_embed(); "
            f"where it is, put the whole bias into one of the two.",
            CouplingWarning,
            stacklevel=7,
        )


def check_ties(given: Mapping[Pair, Given]) -> None:
    """Refuses one parameter for several couplings, where folding a square one would part them.

    Raises:
        ValueError: If there is one.
    """
    for ends, value in given.items():
        others = [pair for pair, other in given.items() if other is value and pair != ends]
        if isinstance(value, nn.Parameter) and len(set(ends)) == 1 and others:
            one, other = ("_".join(pair) for pair in (ends, others[0]))
            raise ValueError(
                f"The couplings {ends} and {others[0]} share one nn.Parameter, but a square matrix "
                f"inside a layer is folded into a parameter of its own. Give None for one of them, "
                f"and then let machine.couplings[{other!r}].weight = "
                f"machine.couplings[{one!r}].weight."
            )


def choose_given(pairs: list[Pair], given: Mapping[Pair, Given] | None) -> dict[Pair, Given]:
    """The couplings of a special case: given where given, else learned."""
    check_known("couplings", given, pairs)
    return {pair: (given or {}).get(pair) for pair in pairs}
