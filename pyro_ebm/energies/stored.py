"""Energies in files: one row for each class of which they are made."""

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from pyro_ebm.sites import ListedValues, PaddedLabels, Site, same_support, spin
from pyro_ebm.storage import (
    ROWS,
    Content,
    Describer,
    Given as Own,
    Maker,
    NotStorableError,
    Settings,
    UnreadableFileError,
    by_attributes,
    put,
    read,
    write,
)
from pyro_ebm.units import (
    Bernoulli,
    Categorical,
    Gaussian,
    Spin,
    TruncatedGaussian,
    TruncatedNormal,
)

from .base import Constant, Energy, Given, Sum
from .composition.clamped import Clamped
from .composition.path import Path
from .fields.constraints import BlockSet, Term
from .fields.factor_graph import FactorGraph
from .fields.factors import PatternFactors, TableFactors
from .fields.random_field import RandomField
from .functions.callable import CallableEnergy
from .functions.distribution import DistributionEnergy
from .functions.networks import TiltedNormal, Vector
from .functions.spectral import SpectralConvolution, SpectralLinear
from .held import Held, stored
from .pairwise.boltzmann import BoltzmannMachine
from .pairwise.colouring import Colour
from .pairwise.couplings import Coupling, Dense, Sparse, Symmetric
from .pairwise.layers import Layer
from .pairwise.links import DenseLink, GraphLink, SymmetricLink
from .pairwise.terms import PairwiseTerms
from .structure import Structure, Swept
from .weights import OfParameter, rest_of

STATE = (
    "Keep its parameters and make it anew where they are read:\n"
    "    torch.save(energy.state_dict(), path)\n"
    "    energy.load_state_dict(torch.load(path))\n"
    "For chains, chains.save(path) keeps draws and state without the energy."
)


def save(energy: Energy, path: str | os.PathLike[str]) -> None:
    """Keeps an energy in a file: structure, kinds of units, offsets, names and parameters.

    The file is there whole or not at all, and what it replaces stays until then. `load` reads it.
    What is learned stays learned; of a tensor with a history its numbers are kept.

    An energy of a function or a Pyro model of your own is code, which no file keeps. A class of
    your own inside an energy is kept after `pyro_ebm.storage.register`.

    Args:
        energy: The energy.
        path: The file; by custom its name ends in `.ebm`.

    Raises:
        TypeError: If it is no energy.
        NotStorableError: If it is made of something that no file keeps.

    Example:
        >>> import torch
        >>> from pyro_ebm import BoltzmannMachine
        >>> from pyro_ebm.energies import load, save
        >>> machine = BoltzmannMachine.restricted(6, 4)
        >>> path = getfixture("tmp_path") / "machine.ebm"
        >>> save(machine, path)
        >>> x = {"visible": torch.ones(6), "hidden": torch.ones(4)}
        >>> torch.equal(load(path)(x), machine(x))
        True
    """
    if not isinstance(energy, Energy):
        raise TypeError(
            f"energy is {energy!r}; wanted an energy, for example a BoltzmannMachine. "
            f"Chains have a method: chains.save(path)."
        )
    describer = Describer("energy")
    tree = describer.tree(energy)
    if describer.given:
        own = describer.given[0]
        raise NotStorableError(
            f"The {type(energy).__name__} has {named(own)}, which no file keeps. {STATE}"
        )
    write(path, "energy", Content(tree, describer.tensors))


def named(own: Own) -> str:
    """What a file does not keep, and where it stands."""
    name = getattr(own.thing, "__qualname__", type(own.thing).__qualname__)
    return f"{name!r} as its {own.where}" if own.where else f"the class {name!r}"


def load(path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Energy:
    """The energy of a file that `save` has written; by any earlier version, too.

    Nothing in a file is executed, and classes come from a table of those that are known.

    Args:
        path: The file.
        device: Where it goes if it was on no CPU; by default where it was.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableFileError: If it is damaged, of another kind, or of a later version.

    Example:
        >>> import networkx as nx
        >>> from pyro_ebm import RandomField
        >>> from pyro_ebm.energies import load, save
        >>> field = RandomField.potts(nx.Graph([("a", "b"), ("b", "c")]), 3)
        >>> path = getfixture("tmp_path") / "field.ebm"
        >>> save(field, path)
        >>> load(path).names["visible"]
        ('a', 'b', 'c')
    """
    content = read(path, "energy", device)
    found = made_of(content, path)
    if not isinstance(found, Energy):
        raise UnreadableFileError(
            f"{path} is malformed: it holds a {type(found).__name__} and no energy. Make it anew "
            f"with save."
        )
    return found


def made_of(content: Content, path: object, given: list[Own] | None = None) -> Any:  # noqa: ANN401
    """What a description says.

    Raises:
        UnreadableFileError: If it says nothing that is known.
    """
    try:
        return Maker(content.tensors, given or ()).thing(content.tree)
    except (
        *(ValueError, TypeError, KeyError, IndexError, AttributeError),
        *(RuntimeError, RecursionError, OverflowError, AssertionError),
    ) as error:
        raise UnreadableFileError(
            f"{path} is malformed, or of another version of pyro_ebm: {error}."
        ) from error


# --- sites and units -----------------------------------------------------------------------------
PLAIN: dict[str, Constraint] = {
    name: getattr(constraints, name)
    for name in (
        *("boolean", "one_hot", "nonnegative_integer", "positive_integer", "real", "real_vector"),
        *("positive", "nonnegative", "unit_interval", "simplex", "lower_cholesky"),
        *("corr_cholesky", "positive_definite", "symmetric", "square"),
    )
} | {"spin": spin}


def add_support(name: str, kind: type[Constraint], *settings: str) -> None:
    """A support with numbers; the one that torch has a name for is that very one."""

    def make(plain: str | None = None, **own: Any) -> Constraint:  # noqa: ANN401 (settings)
        return PLAIN[plain] if plain is not None else kind(**own)

    def describe(support: Constraint) -> Settings:
        for known, value in PLAIN.items():
            if same_support(value, support):
                return {"plain": known}
        return {setting: getattr(support, setting) for setting in settings}

    ROWS.add(kind, describe, make, name=f"support.{name}")


BOUNDS = ("lower_bound", "upper_bound")
SUPPORTS = {
    "interval": BOUNDS,
    "half_open_interval": BOUNDS,
    "integer_interval": BOUNDS,
    "greater_than": BOUNDS[:1],
    "greater_than_eq": BOUNDS[:1],
    "less_than": BOUNDS[1:],
    "independent": ("base_constraint", "reinterpreted_batch_ndims"),
    "multinomial": BOUNDS[1:],
}
for support, bounds in SUPPORTS.items():
    add_support(support, getattr(constraints, support), *bounds)
for support, constraint in PLAIN.items():
    if type(constraint) not in ROWS.by_class:
        add_support(support, type(constraint))
ROWS.add(ListedValues, by_attributes("values"))
ROWS.add(PaddedLabels, lambda x: {"past_end": x.past_end, "label": x.upper_bound})
ROWS.add_all([Site, Bernoulli, Spin, Categorical, Gaussian, TruncatedGaussian])


# --- machines ------------------------------------------------------------------------------------
def describe_layer(layer: Layer) -> Settings:
    """A layer with what its units have of parameters."""
    own = {name: getattr(layer, name) for name in layer.unit.parameters}
    return {**by_attributes("unit", "size", "bias", "offset")(layer), "parameters": own}


def make_layer(parameters: Mapping[str, Tensor], **own: Any) -> Layer:  # noqa: ANN401 (settings)
    """A layer, whose units have these parameters."""
    layer = Layer(**own)
    put(layer, parameters)
    return layer


def describe_machine(machine: BoltzmannMachine) -> Settings:
    """A machine as its parameters are kept."""
    return {
        "layers": dict(machine.layers.items()),
        "couplings": list(machine.couplings.values()),
        "constant": machine.constant,
        "names": dict(machine.names),
    }


def make_machine(
    layers: Mapping[str, Layer],
    couplings: list[Coupling],
    constant: Tensor,
    names: Mapping[str, Any],
) -> BoltzmannMachine:
    """A machine, whose couplings are what its parameters have been folded to."""
    machine = BoltzmannMachine(layers)
    for name, layer in layers.items():
        put(machine.layers[name], {own: getattr(layer, own) for own in layer.unit.parameters})
    for coupling in couplings:
        first, second = (machine.layers[end] for end in coupling.ends)
        wide = [layer.size * layer.unit.width for layer in (first, second)]
        if isinstance(coupling, Sparse):
            if list(coupling.sizes) != wide:
                raise ValueError(f"a graph joins {coupling.sizes} units; the layers have {wide}")
        elif list(coupling.weight.shape[-2:]) != wide:
            raise ValueError(f"couplings are {tuple(coupling.weight.shape)}, and wanted {wide}")
        machine.couplings["_".join(coupling.ends)] = coupling
    machine.constant, machine.names = constant, names
    machine.check_alike()
    return machine


def describe_symmetric(own: Symmetric) -> Settings:
    """Couplings inside a layer."""
    tensors = by_attributes("weight", "self_bias", "self_precision")(own)
    return {"site": own.ends[0], "width": own.width, **tensors}


def make_sparse(edges: Tensor, sizes: tuple[int, int], **own: Any) -> Sparse:  # noqa: ANN401
    """Couplings along edges that join units that there are."""
    if edges.dim() != 2 or edges.shape[1] != 2 or edges.dtype != torch.int64:
        raise ValueError(f"edges are {edges.dtype} {tuple(edges.shape)}")
    if len(edges) and not bool(((edges >= 0) & (edges < edges.new_tensor(sizes))).all()):
        raise ValueError(f"edges join other units than {sizes}")
    return Sparse(edges=edges, sizes=sizes, **own)


ROWS.add(Layer, describe_layer, make_layer)
ROWS.add(Dense, by_attributes("ends", "weight"))
ROWS.add(
    Symmetric,
    lambda x: {
        "site": x.ends[0],
        **by_attributes("weight", "self_bias", "width", "self_precision")(x),
    },
)
ROWS.add(Sparse, by_attributes("ends", "edges", "weight", "sizes"), make_sparse)
ROWS.add(BoltzmannMachine, describe_machine, make_machine)


# --- fields --------------------------------------------------------------------------------------
def make_field(names: Mapping[str, Any], constant: Tensor, **own: Any) -> RandomField:  # noqa: ANN401
    """A field, whose nodes may have names."""
    field = RandomField(**own)
    put(field, {"constant": constant})
    field.names = names
    return field


def describe_field(field: RandomField) -> Settings:
    """A field as its parameters are kept."""
    (site,) = field.sites
    own = {"states": list(field.states), "factors": dict(field.factors.items()), "site": site}
    return {**own, "names": dict(field.names), "constant": field.constant}


ROWS.add(TableFactors, by_attributes("nodes", "table", "spare"))
ROWS.add(PatternFactors, by_attributes("nodes", "weight", "pattern"))
ROWS.add(RandomField, describe_field, make_field)


# --- energies of energies ------------------------------------------------------------------------
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"rest": rest_of, "inverse": torch.reciprocal}


def describe_weight(weight: OfParameter) -> Settings:
    """A weight by the name of its function."""
    known = [name for name, function in FUNCTIONS.items() if function is weight.function]
    return {"function": known[0] if known else weight.function, "parameter": weight.parameter}


def make_weight(function: str, parameter: nn.Parameter) -> OfParameter:
    """A weight that is computed from a parameter."""
    return OfParameter(FUNCTIONS[function], parameter)


def make_sum(weights: list[Any], energies: list[Energy]) -> Sum:
    """A sum of these very weights."""
    total = Sum(list(zip(weights, energies, strict=True)))
    put(total, {f"weight{k}": w for k, w in enumerate(weights) if isinstance(w, Tensor)})
    return total


class Like:
    """What has a dtype and a device, where an energy is asked for these alone."""

    def __init__(self, value: Tensor) -> None:
        self.dtype, self.device = value.dtype, value.device


def make_constant(value: Tensor) -> Constant:
    """A constant in the dtype that it has."""
    return Constant(value, cast("Energy", Like(value)))


def describe_held(held: Held) -> Settings:
    """What is held, and what is free of it."""
    values = {name: held.value(name) for name in held.names}
    free = {name: getattr(held, stored("free", name)) for name in held.parts}
    return {"sites": dict(held.whole_sites), "values": values, "free": free}


ROWS.add(OfParameter, describe_weight, make_weight)
ROWS.add(Sum, lambda x: {"weights": x.weights(), "energies": list(x.energies)}, make_sum)
ROWS.add(
    Constant, by_attributes("value"), lambda value: Constant(value, cast("Energy", Like(value)))
)
ROWS.add(Held, describe_held)
ROWS.add(Clamped, by_attributes("energy", "held"))


# --- networks ------------------------------------------------------------------------------------
def make_callable(
    function: Any,  # noqa: ANN401 (a module)
    follows_module: Any,  # noqa: ANN401 (a truth value)
    like: Tensor,
    sites: Mapping[str, Site],
) -> CallableEnergy:
    """A module as an energy."""
    if follows_module:
        return CallableEnergy(function, sites)
    return CallableEnergy(function, sites, dtype=like.dtype, device=like.device)


def add_module(kind: type[nn.Module], *names: str, **computed: Callable[[Any], Any]) -> None:
    """A module that is made of its settings, parameters and buffers."""

    def describe(module: nn.Module) -> Settings:
        settings = {name: getattr(module, name) for name in names}
        settings |= {name: of(module) for name, of in computed.items()}
        tensors: Settings = dict(module.named_parameters(recurse=False))
        tensors |= dict(module.named_buffers(recurse=False))
        trains = bool(module.training)
        return {"settings": settings, "tensors": tensors, "training": trains}

    def make(settings: Settings, tensors: Mapping[str, Tensor], training: Any) -> nn.Module:  # noqa: ANN401
        with torch.device("meta"):  # no random numbers, and no memory before the sizes are known
            module = kind(**settings)
        put(module, tensors)
        return module.train(training)

    ROWS.add(kind, describe, make, name=f"module.{kind.__name__}")


def describe_sequence(module: nn.Sequential) -> Settings:
    """Modules in a row."""
    return {"modules": list(module), "training": bool(module.training)}


def make_sequence(modules: list[nn.Module], training: Any) -> nn.Sequential:  # noqa: ANN401
    """Modules in a row."""
    found = nn.Sequential(*modules)
    found.training = training
    return found


def with_bias(module: nn.Module) -> bool:
    """Whether a layer has a bias."""
    return module.bias is not None


ROWS.add(
    CallableEnergy, by_attributes("function", "follows_module", "like", "sites"), make_callable
)
ROWS.add(nn.Sequential, describe_sequence, make_sequence)
ROWS.add(TiltedNormal, by_attributes("network", "spread"))
CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
for module, settings in {
    nn.Linear: ("in_features", "out_features"),
    nn.Conv1d: (*CONVOLUTION, "groups", "padding_mode"),
    nn.Conv2d: (*CONVOLUTION, "groups", "padding_mode"),
    nn.Conv3d: (*CONVOLUTION, "groups", "padding_mode"),
}.items():
    add_module(module, *settings, bias=with_bias)
for module, settings in {
    nn.SiLU: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.Softsign: (),
    nn.Mish: (),
    nn.Identity: (),
    nn.ReLU: (),
    nn.GELU: ("approximate",),
    nn.Softplus: ("beta", "threshold"),
    nn.ELU: ("alpha",),
    nn.LeakyReLU: ("negative_slope",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding"),
    Vector: (),
}.items():
    add_module(module, *settings)
add_module(
    SpectralLinear,
    inputs=lambda x: x.weight.shape[1],
    outputs=lambda x: x.weight.shape[0],
    bound=lambda x: x.normalise.bound,
)
add_module(
    SpectralConvolution,
    "stride",
    "padding",
    inputs=lambda x: x.weight.shape[1],
    outputs=lambda x: x.weight.shape[0],
    size=lambda x: x.weight.shape[2],
    bound=lambda x: x.normalise.bound,
)


# --- distributions -------------------------------------------------------------------------------
def parts(law: Distribution) -> list[Distribution]:
    """A distribution, and those inside it that have some of its parameters."""
    inner = [value for value in vars(law).values() if isinstance(value, Distribution)]
    return [law, *(part for own in inner for part in parts(own))]


def add_law(kind: type[Distribution], *names: str, of: str = "") -> None:
    """A distribution by its parameters; of pairs such as "probs|logits" the one it was given."""

    def describe(law: Distribution) -> Settings:
        own: Settings = {}
        for name in names:
            either = name.split("|")
            kept = next((n for p in parts(law) for n in either if is_given(p, n)), either[0])
            own[kept] = getattr(law, kept)
        return {"parameters": own, "checks": bool(law._validate_args)}

    def make(parameters: Settings, checks: Any) -> Distribution:  # noqa: ANN401 (a truth value)
        law = kind(**parameters, validate_args=checks)
        for part in parts(law):
            for name, value in parameters.items():
                # A constructor may normalise what is normal already, and so round it.
                if isinstance(value, Tensor) and isinstance(vars(part).get(name), Tensor):
                    own = vars(part)[name]
                    if own.shape != value.shape:
                        raise ValueError(f"{name} of a {kind.__name__} is {tuple(value.shape)}")
                    vars(part)[name] = value
                    if getattr(part, "_param", None) is own:
                        vars(part)["_param"] = value
        return law

    ROWS.add(kind, describe, make, name=f"{of}law.{kind.__name__}")


def is_given(law: Distribution, name: str) -> bool:
    """Whether a distribution has a parameter that it was given, and not computed since."""
    own = vars(law).get(name)
    given = vars(law).get("_param")
    return own is not None and (given is None or given is own)


def describe_normal(law: Any) -> Settings:  # noqa: ANN401 (torch's multivariate normal)
    """A multivariate normal law by the root of its covariance."""
    own = {"loc": law.loc, "scale_tril": law._unbroadcasted_scale_tril}
    return {**own, "checks": bool(law._validate_args)}


def normal_of(kind: Callable[..., Distribution]) -> Callable[..., Distribution]:
    """The multivariate normal law by the root of its covariance."""

    def make(loc: Tensor, scale_tril: Tensor, checks: Any) -> Distribution:  # noqa: ANN401
        return kind(loc, scale_tril=scale_tril, validate_args=checks)

    return make


def describe_independent(law: Any) -> Settings:  # noqa: ANN401 (torch's or Pyro's)
    """A law whose batch counts as an event."""
    return {"base": law.base_dist, "dims": law.reinterpreted_batch_ndims}


LAWS = {
    "Normal": ("loc", "scale"),
    "LogNormal": ("loc", "scale"),
    "Laplace": ("loc", "scale"),
    "Cauchy": ("loc", "scale"),
    "Gumbel": ("loc", "scale"),
    "HalfNormal": ("scale",),
    "HalfCauchy": ("scale",),
    "StudentT": ("df", "loc", "scale"),
    "Gamma": ("concentration", "rate"),
    "Beta": ("concentration1", "concentration0"),
    "Dirichlet": ("concentration",),
    "Exponential": ("rate",),
    "Uniform": ("low", "high"),
    "VonMises": ("loc", "concentration"),
    "Poisson": ("rate",),
    "Bernoulli": ("probs|logits",),
    "Geometric": ("probs|logits",),
    "Categorical": ("probs|logits",),
    "OneHotCategorical": ("probs|logits",),
    "Binomial": ("total_count", "probs|logits"),
    "NegativeBinomial": ("total_count", "probs|logits"),
}
for where, prefix in ((dist, ""), (torch.distributions, "torch.")):
    for law, own in LAWS.items():
        add_law(getattr(where, law), *own, of=prefix)
    several = where.MultivariateNormal
    ROWS.add(several, describe_normal, normal_of(several), name=f"{prefix}law.MultivariateNormal")
    independent = where.Independent
    ROWS.add(
        independent,
        describe_independent,
        lambda base, dims, kind=independent: kind(base, dims),
        name=f"{prefix}law.Independent",
    )
add_law(TruncatedNormal, "loc", "scale", "low", "high")


def describe_distribution(energy: DistributionEnergy) -> Settings:
    """The distribution and the name of its site."""
    (site,) = energy.sites
    return {"distribution": energy.distribution, "site": site}


ROWS.add(DistributionEnergy, describe_distribution)

# --- what kernels know of an energy --------------------------------------------------------------
# Of structures and paths kernels read what they need again; fields that are added to need the very
# terms that they were computed from.
ROWS.drop(Structure, Swept, Path, Given, FactorGraph)
ROWS.add_all([PairwiseTerms, DenseLink, SymmetricLink, GraphLink, Colour, BlockSet, Term])
