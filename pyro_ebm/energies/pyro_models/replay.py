"""The operations of a recorded pass run again: some terms, at other values, of many chains at once.

A program of some terms visits only what these terms are computed from, so that the conditional law
of one site costs what its Markov blanket costs. What a pass computes from constants alone is not
computed again. A batch is laid to the left of every value: most operations then take it as it is,
the others by `torch.func.vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ebm.sites import Sites

from .elementwise import argument, dims_of, is_pointwise, parameters
from .recording import PARAMETER, Graph, Ref, Step

Values = dict[int, Any]  # by number
Instruction = Callable[[Values], None]


class Unrepeatable(ValueError):
    """A recorded pass has operations that cannot be run again."""


class Program(NamedTuple):
    """Some terms of a recorded pass as a function of the sites that they are computed from.

    Args:
        sites: Those sites.
        numbers: Their numbers.
        instructions: What is run, in order.
        wanted: By term its number, or itself where it is constant.
        parameters: The parameters of the model, by number.
    """

    sites: tuple[str, ...]
    numbers: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    wanted: dict[str, int | Tensor]
    parameters: dict[int, Tensor]

    def __call__(self, x: Sites) -> Sites:
        """The terms of every row (rows, *term), or without rows where they depend on no site.

        Args:
            x: Values of the program's sites (rows, *shape), discrete ones in the model's dtypes.
        """
        values: Values = dict(self.parameters)
        for site, number in zip(self.sites, self.numbers, strict=True):
            values[number] = x[site]
        for instruction in self.instructions:
            instruction(values)
        return {
            name: values[found] if isinstance(found, int) else found
            for name, found in self.wanted.items()
        }


class Replay:
    """A recorded pass that can be run again, as a whole or in parts.

    Args:
        graph: The pass.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.instructions: dict[int, Instruction] = {}
        # Sources beside parameters make a value one of many rows.
        self.rows = {k for k, sources in enumerate(graph.sources) if sources > PARAMETER}

    def program(self, wanted: dict[str, int | Tensor]) -> Program:
        """The program that computes some terms.

        Args:
            wanted: The terms, by their numbers.

        Raises:
            Unrepeatable: If something cannot be run again.
        """
        graph = self.graph
        if graph.leaks:
            raise Unrepeatable(f"numbers leave torch by {next(iter(graph.leaks))}")
        if graph.is_stale:
            raise Unrepeatable("a constant is written to after it was used")
        needed: set[int] = set()
        homes: set[int] = set()
        waiting = [number for number in wanted.values() if isinstance(number, int)]
        while waiting:
            number = waiting.pop()
            if number in needed:
                continue
            needed.add(number)
            home = graph.home[number]
            if home is not None and home not in homes:
                homes.add(home)
                waiting += graph.steps[home].inputs
        given = {site: n for site, n in graph.given.items() if n in needed}
        return Program(
            tuple(given),
            tuple(given.values()),
            tuple(self.instruction(home) for home in sorted(homes)),
            wanted,
            {n: parameter for n, parameter in graph.parameters.items() if n in needed},
        )

    def instruction(self, home: int) -> Instruction:
        """A step of the pass, of all rows at once.

        Raises:
            Unrepeatable: If it cannot be run again.
        """
        if home not in self.instructions:
            step = self.graph.steps[home]
            if step.function is None:
                raise Unrepeatable(step.name)
            self.instructions[home] = instruction(self.graph, step, self.rows)
        return self.instructions[home]


def instruction(graph: Graph, step: Step, rows: set[int]) -> Instruction:
    """One operation, of all rows at once.

    Args:
        graph: The pass.
        step: The operation.
        rows: The values that have a row for each chain.
    """
    assert step.function is not None
    own = rows.intersection(step.inputs)
    if any(references(value) for value in step.kwargs.values()):
        return by_vmap(step, own)
    if not own:
        return plain(step, Call(step.function, list(step.args), step.kwargs))
    if is_pointwise(step):
        call = broadcast(graph, step, own)
    elif step.name in LAID_OUT:
        call = LAID_OUT[step.name](graph, step, own)
    else:
        call = None
    return by_vmap(step, own) if call is None else plain(step, call)


class Call(NamedTuple):
    """A function with its arguments: recorded values as `Ref`s or `Padded`."""

    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]


class Padded(NamedTuple):
    """A recorded value of which the rows are followed by dimensions of one."""

    number: int
    shape: tuple[int, ...]


def padded(graph: Graph, value: Any, rank: int, rows: set[int]) -> Any:  # noqa: ANN401
    """An argument that broadcasts to a rank, counted without the rows."""
    if not isinstance(value, Ref) or value.number not in rows:
        return value
    shape = graph.shapes[value.number]
    if len(shape) == rank:
        return value
    return Padded(value.number, (-1, *[1] * (rank - len(shape)), *shape))


def references(value: Any) -> list[int]:  # noqa: ANN401
    """The recorded values in an argument."""
    if isinstance(value, Ref | Padded):
        return [value.number]
    if isinstance(value, list | tuple):
        return [number for part in value for number in references(part)]
    return []


# --- how a batch is laid out ---------------------------------------------------------------------

Layout = Callable[[Graph, Step, set[int]], Call | None]


def broadcast(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """Operations that broadcast their arguments."""
    assert step.function is not None
    rank = len(graph.shapes[next(k for k in step.outputs if k is not None)])
    args = [padded(graph, value, rank, rows) for value in step.args]
    if step.name == "aten::binary_cross_entropy_with_logits" and args[2:4] in ([], [None, None]):
        return Call(cross_entropy, args[:2], {})
    if step.name in ("aten::binary_cross_entropy_with_logits", "aten::fill"):
        return None  # which do not broadcast
    return Call(step.function, args, step.kwargs)


def cross_entropy(logits: Tensor, value: Tensor) -> Tensor:
    """As torch computes it, of tensors that broadcast."""
    return (1 - value) * logits - torch.nn.functional.logsigmoid(logits)


def with_arguments(step: Step, **changed: Any) -> Call:  # noqa: ANN401
    """A call with some arguments changed."""
    assert step.function is not None
    args, kwargs = [], {}
    for known in parameters(step.function):
        value = changed[known.name] if known.name in changed else argument(step, known.name)
        if known.kwarg_only:
            kwargs[known.name] = value
        else:
            args.append(value)
    return Call(step.function, args, kwargs)


def names_dims(graph: Graph, step: Step, rows: set[int], more: int = 0) -> Call | None:
    """Operations along some dimensions, which are counted from the right instead."""
    assert step.function is not None
    first = step.args[0]
    parts = [first] if isinstance(first, Ref) else first
    tensors = [*parts, *(v for v in step.args[1:] if isinstance(v, Ref | Tensor))]
    if not all(isinstance(value, Ref) and value.number in rows for value in tensors):
        return None
    rank = len(graph.shapes[parts[0].number])
    named = {known.name for known in parameters(step.function)}
    if rank + more == 0 or not named & {"dim", "dims"}:
        return full_sum(step, rank)
    dims = [dim - rank - more for dim in dims_of(step, rank + more)]
    name = "dim" if "dim" in named else "dims"
    given = argument(step, name)
    single = not isinstance(given, list | tuple) and given is not None
    if given is None and "argm" in step.name:  # which takes one dimension only
        return None
    return with_arguments(step, **{name: dims[0] if single else dims})


def full_sum(step: Step, rank: int) -> Call | None:
    """A sum over all dimensions but that of the rows."""
    if step.name != "aten::sum" or rank == 0:
        return None
    return Call(torch.sum, [step.args[0], list(range(-rank, 0))], step.kwargs)


def new_dim(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """Operations that add a dimension."""
    return names_dims(graph, step, rows, more=1)


def grows(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """`expand`."""
    size = list(step.args[1])
    value = padded(graph, step.args[0], len(size), rows)
    return Call(torch.ops.aten.expand.default, [value, [-1, *size]], {})


def reshaped(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """`view` and its kin."""
    shape = graph.shapes[step.outputs[0] or 0]
    if not shape.numel():
        return None
    return Call(torch.ops.aten.reshape.default, [step.args[0], [-1, *shape]], {})


def permuted(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """`permute` and `transpose`."""
    rank = len(graph.shapes[step.inputs[0]])
    if step.name == "aten::permute":
        return with_arguments(step, dims=[0, *(dim % rank + 1 for dim in step.args[1])])
    return with_arguments(step, **{n: argument(step, n) % rank - rank for n in ("dim0", "dim1")})


def indexed(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """A table in places that have rows, or a table with rows of its own."""
    table, indices = step.args
    if any(index is None for index in indices):
        return None
    shapes = [graph.shapes[i.number] if isinstance(i, Ref) else i.shape for i in indices]
    rank = max(map(len, shapes))
    places = [padded(graph, index, rank, rows) for index in indices]
    if isinstance(table, Ref) and table.number in rows:
        ones = [1] * rank

        def of_rows(own: Tensor, own_places: list[Tensor]) -> Tensor:
            row = torch.arange(len(own), device=own.device).reshape(-1, *ones)
            found: Tensor = torch.ops.aten.index.Tensor(own, [row, *own_places])
            return found

        return Call(of_rows, [table, places], {})
    return Call(torch.ops.aten.index.Tensor, [table, places], {})


def looked_up(graph: Graph, step: Step, rows: set[int]) -> Call | None:
    """`embedding` in a table without rows."""
    table = step.args[0]
    if step.function is None or (isinstance(table, Ref) and table.number in rows):
        return None
    return Call(step.function, list(step.args), step.kwargs)


LAID_OUT: dict[str, Layout] = {
    f"aten::{name}": layout
    for layout, names in {
        names_dims: "_log_softmax _softmax amax amin argmax argmin cat cumprod cumsum flip gather "
        "logcumsumexp logsumexp mean prod scatter select slice split split_with_sizes squeeze sum "
        "unbind",
        new_dim: "stack unsqueeze",
        grows: "expand",
        reshaped: "_unsafe_view reshape view",
        permuted: "permute transpose",
        indexed: "index",
        looked_up: "embedding",
    }.items()
    for name in names.split()
}


# --- what is run ---------------------------------------------------------------------------------


def plain(step: Step, call: Call) -> Instruction:
    """An operation that takes rows as they are laid out."""
    function, base, kwargs = call
    direct = [(k, value.number) for k, value in enumerate(base) if isinstance(value, Ref)]
    nested = [
        (k, value)
        for k, value in enumerate(base)
        if not isinstance(value, Ref) and references(value)
    ]

    def arguments(values: Values) -> list[Any]:
        own = base.copy()
        for k, number in direct:
            own[k] = values[number]
        for k, template in nested:
            own[k] = filled(template, values)
        return own

    if len(step.outputs) == 1:
        (out,) = step.outputs
        assert out is not None
        single = out

        def run(values: Values) -> None:
            values[single] = function(*arguments(values), **kwargs)

        return run

    def run_many(values: Values) -> None:
        keep(step, values, function(*arguments(values), **kwargs))

    return run_many


def filled(template: Any, values: Any) -> Any:  # noqa: ANN401
    """An argument with the recorded values in the places of their references."""
    if isinstance(template, Ref):
        return values[template.number]
    if isinstance(template, Padded):
        return values[template.number].reshape(template.shape)
    if isinstance(template, list | tuple):
        return [filled(part, values) for part in template]
    return template


def keep(step: Step, values: Values, made: Any) -> None:  # noqa: ANN401
    """Puts what an operation made among the values."""
    made = made if isinstance(made, list | tuple) else [made]
    for number, value in zip(step.outputs, made, strict=True):
        if number is not None:
            values[number] = value


def by_vmap(step: Step, rows: set[int]) -> Instruction:
    """An operation that takes one row at a time."""
    assert step.function is not None
    function: Callable[..., Any] = step.function
    order = tuple(dict.fromkeys(step.inputs))

    def once(*own: Any) -> Any:  # noqa: ANN401
        values = dict(zip(order, own, strict=True))
        kwargs = {name: filled(value, values) for name, value in step.kwargs.items()}
        return function(*filled(list(step.args), values), **kwargs)

    in_dims = tuple(0 if number in rows else None for number in order)
    mapped = torch.func.vmap(once, in_dims) if rows else once

    def run(values: Values) -> None:
        keep(step, values, mapped(*(values[number] for number in order)))

    return run
