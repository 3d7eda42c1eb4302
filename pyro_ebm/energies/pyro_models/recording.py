"""A pass of a model as a record of its operations: what each term is computed from, and how.

`Recorder` sees every operation of torch that a pass runs, below Python and below Pyro, and keeps
those whose arguments derive from a latent site or from a parameter. So it is known of each term
from which sites it is computed: through assignments in place, views and detached copies too. Where
a number leaves torch (`item`, `tolist`, a branch on a value) everything may depend on it.
"""

import functools
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_ebm.sites import Sites

PARAMETER = 1  # the bit of the sources that says: a parameter, which learning may change

# Numbers that leave torch here may decide what the program does next.
LEAVING = {
    "__array__",
    "__deepcopy__",
    "__dlpack__",
    "__reduce_ex__",
    "data_ptr",
    "numpy",
    "storage",
    "tolist",
    "untyped_storage",
}
ASKING = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
SAME = {"aten::alias", "aten::detach", "aten::lift_fresh"}
SHAPED = {  # they look at a tensor's shape alone
    "aten::empty_like",
    "aten::full_like",
    "aten::new_empty",
    "aten::new_full",
    "aten::new_ones",
    "aten::new_zeros",
    "aten::ones_like",
    "aten::zeros_like",
}
TO_COPY, EXPAND = torch.ops.aten._to_copy.default, torch.ops.aten.expand.default


class Ref(NamedTuple):
    """A recorded value among the arguments of an operation, by number."""

    number: int


class Step(NamedTuple):
    """One recorded operation.

    Args:
        name: Of the operation, as torch has it (aten::add).
        function: The operation without side effects; None where it cannot be run again.
        args: Its arguments, recorded values among them as `Ref`s.
        kwargs: Its keyword arguments, likewise.
        inputs: The recorded values that it reads.
        outputs: The values that it makes, None in the place of what is no tensor.
    """

    name: str
    function: OpOverload | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]


class Graph:
    """What a pass computes from its latent sites.

    Values are numbered in the order in which they come about. The sources of a value are a number
    of bits: the lowest says that it depends on a parameter, the others stand for the sites.

    Args:
        sites: The latent sites.
    """

    def __init__(self, sites: list[str]) -> None:
        self.bits = {name: 2 << k for k, name in enumerate(sites)}
        self.sources: list[int] = []
        self.shapes: list[torch.Size] = []
        self.dtypes: list[torch.dtype] = []
        self.home: list[int | None] = []  # the step that makes a value; None for what is given
        self.steps: list[Step] = []
        self.given: dict[str, int] = {}
        self.parameters: dict[int, Tensor] = {}
        self.leaks: dict[str, int] = {}  # by operation, the sites whose numbers leave torch by it
        self.terms: dict[str, int | Tensor] = {}
        self.entries: dict[str, int | Tensor] = {}
        self.supports: dict[str, int] = {}  # by site, the sources of its support
        self.is_stale = False  # whether a constant was changed after it had been used

    def add(self, value: Tensor, sources: int, home: int | None) -> int:
        """The number of a new value."""
        self.sources.append(sources)
        self.shapes.append(value.shape)
        self.dtypes.append(value.dtype)
        self.home.append(home)
        return len(self.sources) - 1

    def sites_of(self, sources: int) -> frozenset[str]:
        """The sites that some bits stand for."""
        return frozenset(name for name, bit in self.bits.items() if sources & bit)

    @property
    def leaked(self) -> int:
        """The sites of which numbers leave torch."""
        return functools.reduce(int.__or__, self.leaks.values(), 0)

    def own_sources(self, found: int | Tensor) -> int:
        """The sources of a term, of its entries or of a part of a support."""
        return self.sources[found] if isinstance(found, int) else 0

    def sources_of(self, found: int | Tensor) -> int:
        """The same, with what the program may have asked."""
        return self.own_sources(found) | self.leaked

    def dependences(self) -> dict[str, frozenset[str]]:
        """By term, the sites that it is computed from."""
        return {name: self.sites_of(self.sources_of(term)) for name, term in self.terms.items()}


class Memory(NamedTuple):
    """A piece of memory that holds what derives from sites.

    Args:
        sources: Of all that was written into it.
        views: The recorded values that it holds, by place, shape, strides and dtype.
        keep: A tensor in it: memory that is freed may be given to another tensor.
    """

    sources: int
    views: dict[tuple[Any, ...], int]
    keep: Tensor


class Recorder(TorchDispatchMode):
    """Records the operations on values that derive from latent sites or from parameters.

    Args:
        given: The values of the latent sites. Those that the pass must be given are in `values`.
    """

    def __init__(self, given: Sites) -> None:
        super().__init__()
        self.graph = Graph(list(given))
        self.values = {name: value.detach().clone() for name, value in given.items()}
        self.memory: dict[int, Memory] = {}
        self.constants: dict[int, Tensor] = {}  # by memory, those that recorded operations read
        self.outside = Leaving(self)
        for name, value in self.values.items():
            number = self.graph.add(value, self.graph.bits[name], None)
            self.graph.given[name] = number
            self.remember(value, number)

    def __enter__(self) -> Self:
        self.outside.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        super().__exit__(*error)
        self.outside.__exit__(*error)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not: torch would import its compiler for it, which takes seconds."""
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        inputs: list[int] = []
        own = tuple(self.template(value, inputs) for value in args)
        named = {name: self.template(value, inputs) for name, value in kwargs.items()}
        name, written = known_of(func)
        if inputs and not written:
            self.hold_constants((args, kwargs))
        if not written:
            out = func(*args, **kwargs)
            if inputs:
                self.derive(Step(name, func, own, named, tuple(inputs), ()), args, out)
            return out
        # What a step without side effects reads must be as it was before.
        before = self.before(own, args) if inputs else own
        out = func(*args, **kwargs)
        targets = [
            value
            for k, value in [*enumerate(args), *kwargs.items()]
            if k in written and isinstance(value, Tensor)
        ]
        if name == "aten::copy_":
            self.overwrite(args[0], args[1])
        else:
            other = twin(func)
            name = name if other is None else other._schema.name
            self.write(Step(name, other, before, named, tuple(inputs), ()), targets)
        return out

    # --- what is read ----------------------------------------------------------------------------

    def template(self, value: Any, inputs: list[int]) -> Any:  # noqa: ANN401
        """An argument with recorded values as references, which are noted."""
        if isinstance(value, Tensor):
            number = self.find(value)
            if number is None:
                return value
            inputs.append(number)
            return Ref(number)
        if isinstance(value, list | tuple):
            return type(value)([self.template(part, inputs) for part in value])
        return value

    def find(self, value: Tensor) -> int | None:
        """The number of a value; None where it derives from no site and no parameter."""
        if value.layout is not torch.strided:
            return None
        held = self.memory.get(address(value))
        if held is None:
            if not value.requires_grad:
                return None
            number = self.graph.add(value, PARAMETER, None)
            self.graph.parameters[number] = value
            self.remember(value, number)
            return number
        found = held.views.get(place(value))
        if found is None:  # a view of what was written in place, or made where nobody looked
            step = Step("a write in place", None, (), {}, (), ())
            found = self.add_step(step, [value], held.sources)[0]
            assert found is not None
        return found

    def number_of(self, value: Tensor) -> int | Tensor:
        """The number of a value; itself where it derives from no site."""
        number = self.find(value)
        return value if number is None else number

    def remember(self, value: Tensor, number: int) -> None:
        """Notes where a recorded value is."""
        own = address(value)
        sources = self.graph.sources[number]
        held = self.memory.get(own)
        if held is None:
            held = Memory(sources, {}, value)
        self.memory[own] = held._replace(sources=held.sources | sources)
        held.views[place(value)] = number

    def hold_constants(self, arguments: Any) -> None:  # noqa: ANN401
        """Notes the constants that a recorded operation reads."""
        for value in tree_leaves(arguments):
            is_strided = isinstance(value, Tensor) and value.layout is torch.strided
            if is_strided and address(value) not in self.memory:
                self.constants[address(value)] = value

    # --- what is made ----------------------------------------------------------------------------

    def add_step(self, step: Step, made: Any, sources: int) -> list[int | None]:  # noqa: ANN401
        """Notes a step and the values that it makes."""
        home, outputs = len(self.graph.steps), []
        for value in made if isinstance(made, list | tuple) else [made]:
            number = None
            if isinstance(value, Tensor):
                number = self.graph.add(value, sources, home)
                self.remember(value, number)
            outputs.append(number)
        self.graph.steps.append(step._replace(outputs=tuple(outputs)))
        return outputs

    def derive(self, step: Step, args: tuple[Any, ...], out: Any) -> None:  # noqa: ANN401
        """Notes what an operation without side effects makes."""
        sources = self.sources(step.inputs)
        if step.name in ASKING:
            name = step.name.removeprefix("aten::")
            self.leak("item" if name == "_local_scalar_dense" else name, sources)
        if step.name in SAME and out.shape == args[0].shape:
            self.remember(out, step.inputs[0])
        elif step.name not in SHAPED:
            self.add_step(step, out, sources)

    def sources(self, inputs: tuple[int, ...]) -> int:
        """The sources of what is made of some values."""
        return functools.reduce(int.__or__, (self.graph.sources[k] for k in inputs), 0)

    def leak(self, name: str, sources: int) -> None:
        """Notes that numbers leave torch."""
        if sources & ~PARAMETER:
            self.graph.leaks[name] = self.graph.leaks.get(name, 0) | sources & ~PARAMETER

    # --- what is written in place ----------------------------------------------------------------

    def before(self, own: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a write, with the constant that it changes as it was."""
        if own and isinstance(own[0], Tensor):
            return (args[0].clone(), *own[1:])
        return own

    def write(self, step: Step, targets: list[Tensor]) -> None:
        """Notes what an operation writes in place."""
        known = [value for value in targets if address(value) in self.memory]
        if not step.inputs and not known:
            self.is_stale_after(targets)
            return
        sources = self.sources(step.inputs)
        for value in targets:
            held = self.memory.get(address(value), Memory(0, {}, value))
            # What is left of the old value is seen through the new one.
            self.memory[address(value)] = held._replace(sources=held.sources | sources)
            held.views.clear()
        if step.function is not None and len(targets) == 1 and is_whole(targets[0]):
            self.add_step(step, targets[0], self.memory[address(targets[0])].sources)

    def overwrite(self, target: Tensor, source: Tensor) -> None:
        """Notes that a value is written over another one.

        Where it fills the whole memory of the other, it is that value from now on, converted and
        expanded; else it cannot be told apart from what is left of the other.
        """
        number, known = self.find(source), address(target) in self.memory
        if number is None and not known:
            self.is_stale_after([target])
        elif not is_whole(target):
            inputs = () if number is None else (number,)
            self.write(Step("copy_", None, (), {}, inputs, ()), [target])
        else:
            self.memory.pop(address(target), None)
            if number is None:
                return
            sources = self.graph.sources[number]
            converted = source.to(target.dtype)
            step = Step("aten::_to_copy", TO_COPY, (Ref(number),), {}, (number,), ())
            (made,) = self.add_step(
                step._replace(kwargs={"dtype": target.dtype}), converted.clone(), sources
            )
            assert made is not None
            size = list(target.shape)
            step = Step("aten::expand", EXPAND, (Ref(made), size), {}, (made,), ())
            self.add_step(step, target, sources)

    def is_stale_after(self, targets: list[Tensor]) -> None:
        """Notes that constants are written to, perhaps after they had been used."""
        if any(address(value) in self.constants for value in targets):
            self.graph.is_stale = True


class Leaving(TorchFunctionMode):
    """Notices where numbers of recorded values leave torch.

    Args:
        recorder: It knows which values are recorded.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        name = getattr(func, "__name__", "")
        if name in LEAVING and args and isinstance(args[0], Tensor):
            held = self.recorder.memory.get(address(args[0]))
            if held is not None:
                self.recorder.leak(name, held.sources)
        if func is Tensor.__getitem__:
            args = self.with_numbers_first(*args)
        return func(*args, **(kwargs or {}))

    def with_numbers_first(self, value: Tensor, index: Any) -> tuple[Tensor, Any]:  # noqa: ANN401
        """A tensor and an index, of which recorded single numbers have had their turn.

        Torch asks a tensor of one number which number it is, and takes it as an integer.
        """
        whole = index if isinstance(index, tuple) else (index,)
        if not any(self.is_number(part) for part in whole):
            return value, index
        dims = [dims_used(part) for part in whole]
        rest = [slice(None)] * (value.dim() - sum(dims))
        places: list[Tensor | None] = []
        left: list[Any] = []
        for part, count in zip(whole, dims, strict=True):
            if self.is_number(part):
                places.append(part)
                continue
            places += [None] * (len(rest) if part is ... else count)
            left += rest if part is ... else [part]
        return torch.ops.aten.index.Tensor(value, places), (*left, ...)

    def is_number(self, part: Any) -> bool:  # noqa: ANN401
        """Whether a part of an index is a recorded tensor of one integer."""
        return (
            isinstance(part, Tensor)
            and part.dim() == 0
            and part.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
            and address(part) in self.recorder.memory
        )


def dims_used(part: Any) -> int:  # noqa: ANN401
    """How many dimensions of a tensor a part of an index takes."""
    if part is None or part is ...:
        return 0
    is_mask = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
    return part.dim() if is_mask else 1


def address(value: Tensor) -> int:
    """Which piece of memory a tensor is in."""
    return value.untyped_storage()._cdata


def place(value: Tensor) -> tuple[Any, ...]:
    """Which part of its memory a tensor is."""
    return value.storage_offset(), tuple(value.shape), value.stride(), value.dtype


def is_whole(value: Tensor) -> bool:
    """Whether a tensor is all of its memory."""
    return value.numel() * value.element_size() == value.untyped_storage().nbytes()


@functools.cache
def known_of(func: OpOverload) -> tuple[str, frozenset[int | str]]:
    """The name of an operation, and which arguments it writes to: by place, and by name."""
    schema = func._schema
    written: set[int | str] = set()
    for k, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {k, argument.name}
    return schema.name, frozenset(written)


@functools.cache
def twin(func: OpOverload) -> OpOverload | None:
    """The operation that makes what another one writes in place; None where there is none."""
    name = func._schema.name.removeprefix("aten::")
    if not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    found = getattr(packet, func._schema.overload_name or "default", None)
    return found if isinstance(found, OpOverload) else None
