"""Which operations take the elements along one dimension apart, and where they leave it.

A tensor made of a site is elementwise along a dimension of the site where its k-th slice along
some dimension of its own is computed from the k-th slice of the site alone. `Proof.follow` looks
for that dimension, operation by operation, on a recorded pass. What is not in these tables mixes
elements: an operation that nobody has thought of costs speed, and never a wrong draw.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from .recording import Graph, Ref, Step

Places = dict[int, int]  # by recorded value, the dimension along which elements are apart


class Mixing(NamedTuple):
    """Elements meet.

    Args:
        operation: The first operation in which they do.
    """

    operation: str


def is_pointwise(step: Step) -> bool:
    """Whether each number of what an operation makes is computed from those in its own place."""
    if step.name in POINTWISE:
        return True
    if step.name == "aten::binary_cross_entropy_with_logits":
        return bool(argument(step, "reduction") == 0)
    return step.function is not None and torch.Tag.pointwise in step.function.tags


def argument(step: Step, name: str) -> Any:  # noqa: ANN401
    """An argument of an operation by its name, or its default."""
    assert step.function is not None
    if name in step.kwargs:
        return step.kwargs[name]
    for k, known in enumerate(parameters(step.function)):
        if known.name == name:
            return step.args[k] if k < len(step.args) else known.default_value
    return None


@functools.cache
def parameters(function: OpOverload) -> tuple[Any, ...]:
    """What an operation can be told, in order, as torch's schema has it."""
    return tuple(function._schema.arguments)


def dims_of(step: Step, rank: int) -> list[int]:
    """The dimensions that an operation names, counted from the left; all of them if it names none.

    Args:
        step: The operation.
        rank: The number of dimensions that they are counted in.
    """
    named = argument(step, "dim")
    if named is None:
        named = argument(step, "dims")
    if named is None or named == []:
        return list(range(rank))
    return [dim % max(rank, 1) for dim in (named if isinstance(named, list | tuple) else [named])]


# Each rule answers with the dimension of the result, or None where elements meet.
Rule = Callable[[Graph, Step, Places], int | None]


def common(places: Places) -> int | None:
    """The dimension in which all values have their elements, counted from the left."""
    (first, *others) = set(places.values())
    return None if others else first


def pointwise(graph: Graph, step: Step, places: Places) -> int | None:
    """Of numbers in the same place."""
    right = {len(graph.shapes[k]) - dim for k, dim in places.items()}
    (first, *others) = right
    return None if others else len(made(graph, step)) - first


def made(graph: Graph, step: Step) -> torch.Size:
    """The shape of what an operation makes."""
    number = next(k for k in step.outputs if k is not None)
    return graph.shapes[number]


def first_shape(graph: Graph, step: Step) -> torch.Size:
    """The shape of an operation's first argument."""
    value = step.args[0]
    while isinstance(value, list | tuple) and not isinstance(value, Ref):
        value = value[0]
    return graph.shapes[value.number] if isinstance(value, Ref) else value.shape


def reduces(graph: Graph, step: Step, places: Places) -> int | None:
    """Sums and their like, over other dimensions."""
    dim, dims = common(places), dims_of(step, len(first_shape(graph, step)))
    if dim is None or dim in dims:
        return None
    return dim if argument(step, "keepdim") else dim - sum(k < dim for k in dims)


def keeps(graph: Graph, step: Step, places: Places) -> int | None:
    """Along other dimensions, which stay."""
    dim = common(places)
    return None if dim in dims_of(step, len(first_shape(graph, step))) else dim


def selects(graph: Graph, step: Step, places: Places) -> int | None:
    """Slices along another dimension, which goes."""
    dim = common(places)
    (gone,) = dims_of(step, len(first_shape(graph, step)))
    return None if dim is None or dim == gone else dim - (gone < dim)


def inserts(graph: Graph, step: Step, places: Places) -> int | None:
    """A new dimension."""
    dim = common(places)
    (new,) = dims_of(step, len(first_shape(graph, step)) + 1)
    return None if dim is None else dim + (new <= dim)


def squeezes(graph: Graph, step: Step, places: Places) -> int | None:
    """Dimensions of one go."""
    shape = first_shape(graph, step)
    (dim,) = places.values()
    gone = [k for k in dims_of(step, len(shape)) if shape[k] == 1]
    return dim - sum(k < dim for k in gone)


def slices(graph: Graph, step: Step, places: Places) -> int | None:
    """Parts along other dimensions."""
    dim = common(places)
    (cut,) = dims_of(step, len(first_shape(graph, step)))
    whole = made(graph, step) == first_shape(graph, step) and argument(step, "step") == 1
    return dim if dim != cut or whole else None


def expands(graph: Graph, step: Step, places: Places) -> int | None:
    """Copies along new dimensions, or ones of size one."""
    ((number, dim),) = places.items()
    return len(made(graph, step)) - len(graph.shapes[number]) + dim


def reshapes(graph: Graph, step: Step, places: Places) -> int | None:
    """The same numbers in the same order, the dimension among the new ones."""
    ((number, dim),) = places.items()
    old, new = graph.shapes[number], made(graph, step)
    before = old[:dim].numel()
    found = [k for k in range(len(new)) if new[k] == old[dim] and new[:k].numel() == before]
    return found[0] if found else None


def permutes(graph: Graph, step: Step, places: Places) -> int | None:
    """Another order of the dimensions."""
    ((number, dim),) = places.items()
    rank = len(graph.shapes[number])
    order = list(range(rank))
    if step.name == "aten::permute":
        order = [k % rank for k in argument(step, "dims")]
    elif step.name == "aten::t":
        order.reverse()
    else:
        a, b = (argument(step, name) % rank for name in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
    return order.index(dim)


def gathers(graph: Graph, step: Step, places: Places) -> int | None:
    """Of tensors of the same size along the dimension."""
    dim = common(places)
    if dim is None or dim in dims_of(step, len(first_shape(graph, step))):
        return None
    sizes = {graph.shapes[k][dim] for k in places} | {made(graph, step)[dim]}
    return dim if len(sizes) == 1 else None


def indexes(graph: Graph, step: Step, places: Places) -> int | None:
    """A table that is the same for all elements, in the places that the elements say."""
    table, indices = step.args[:2]
    if isinstance(table, Ref) and table.number in places:
        return None
    used = [k for k, index in enumerate(indices) if index is not None]
    shapes = [shape_of(graph, indices[k]) for k in used]
    if used != list(range(used[0], used[-1] + 1)) or any(
        is_boolean(graph, indices[k]) for k in used
    ):
        return None
    right = {len(graph.shapes[k]) - dim for k, dim in places.items()}
    (first, *others) = right
    return None if others else used[0] + max(map(len, shapes)) - first


def shape_of(graph: Graph, value: Any) -> torch.Size:  # noqa: ANN401
    """The shape of an argument."""
    return graph.shapes[value.number] if isinstance(value, Ref) else value.shape


def is_boolean(graph: Graph, value: Any) -> bool:  # noqa: ANN401
    """Whether an argument is a mask."""
    dtype = graph.dtypes[value.number] if isinstance(value, Ref) else value.dtype
    return dtype in (torch.bool, torch.uint8)


def looks_up(graph: Graph, step: Step, places: Places) -> int | None:
    """`embedding`: rows of a table that is the same for all elements."""
    table = step.args[0]
    return None if isinstance(table, Ref) and table.number in places else common(places)


def picks(graph: Graph, step: Step, places: Places) -> int | None:
    """`index_select`: of a table by the elements, or of something else along another dimension."""
    table = step.args[0]
    (along,) = dims_of(step, len(first_shape(graph, step)))
    if isinstance(table, Ref) and table.number in places:
        return None if len(places) > 1 or places[table.number] == along else places[table.number]
    return along


def multiplies(graph: Graph, step: Step, places: Places) -> int | None:
    """Matrix products: rows of the first factor, columns of the second, and batches."""
    first, second = step.args[-2:] if step.name == "aten::addmm" else step.args[:2]
    if step.name == "aten::addmm" and isinstance(step.args[0], Ref):
        return None
    rank = len(shape_of(graph, first))
    mine, yours = (
        places.get(value.number) if isinstance(value, Ref) else None for value in (first, second)
    )
    if rank == 3 and 0 in (mine, yours):
        return 0 if {mine, yours} <= {0, None} else None
    if yours is None:
        return None if mine == rank - 1 else mine
    contracted = max(len(shape_of(graph, second)) - 2, 0)
    return None if mine is not None or yours == contracted else yours


POINTWISE = {
    "aten::_conj",
    "aten::_to_copy",
    "aten::bucketize",
    "aten::fill",
    "aten::log_sigmoid_forward",
    "aten::masked_fill",
    "aten::special_entr",
    "aten::special_erfc",
    "aten::special_erfcx",
    "aten::special_i0e",
    "aten::special_i1e",
    "aten::special_log_ndtr",
    "aten::special_ndtr",
    "aten::special_ndtri",
}

RULES: dict[str, Rule] = {
    f"aten::{name}": rule
    for rule, names in {
        reduces: "all amax amin any argmax argmin linalg_vector_norm logsumexp max mean min "
        "nansum norm prod std sum var",
        keeps: "_log_softmax _softmax cat cummax cummin cumprod cumsum flip logcumsumexp roll "
        "sort split split_with_sizes topk",
        selects: "select unbind",
        inserts: "stack unsqueeze",
        squeezes: "squeeze",
        slices: "slice",
        expands: "expand",
        reshapes: "_reshape_alias _unsafe_view reshape view",
        permutes: "permute t transpose",
        gathers: "gather scatter",
        indexes: "index",
        looks_up: "embedding",
        picks: "index_select",
        multiplies: "addmm bmm mm mv",
    }.items()
    for name in names.split()
}


class Proof:
    """What a recorded pass says of the elements of one site along one of its dimensions.

    Args:
        graph: The pass.
        site: The site.
        dim: The dimension, from the left; of more than one element.
    """

    def __init__(self, graph: Graph, site: str, dim: int) -> None:
        self.graph, self.bit = graph, graph.bits[site]
        number = graph.given[site]
        self.size = graph.shapes[number][dim]
        self.found: dict[int, int | Mixing] = {number: dim}
        self.follow()

    def follow(self) -> None:
        """Looks where the elements are, operation by operation."""
        sources = self.graph.sources
        for step in self.graph.steps:
            outputs = [k for k in step.outputs if k is not None]
            if not outputs or not sources[outputs[0]] & self.bit:
                continue
            after = self.after(step)
            for number in outputs:
                self.found[number] = after

    def after(self, step: Step) -> int | Mixing:
        """Where elements are in what an operation makes."""
        places: Places = {}
        for number in step.inputs:
            here = self.found.get(number)
            if isinstance(here, Mixing):
                return here
            if here is not None:
                places[number] = here
        name = step.name.removeprefix("aten::")
        rule = pointwise if is_pointwise(step) else RULES.get(step.name)
        dim = rule(self.graph, step, places) if rule is not None and places else None
        fits = dim is not None and all(
            dim < len(self.graph.shapes[k]) and self.graph.shapes[k][dim] == self.size
            for k in step.outputs
            if k is not None
        )
        return dim if fits and dim is not None else Mixing(name)

    def at(self, value: Any) -> int | Mixing | None:  # noqa: ANN401
        """Where elements are in a term, counted from the right; None where it has none of them."""
        leaked = next((n for n, bits in self.graph.leaks.items() if bits & self.bit), None)
        if leaked is not None:
            return Mixing(leaked)
        if not isinstance(value, int) or value not in self.found:
            return None
        here = self.found[value]
        return here if isinstance(here, Mixing) else here - len(self.graph.shapes[value])
