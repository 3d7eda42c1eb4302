"""Objects in plain words and numbers, by a table of the classes that are known.

A description is what JSON has, and tensors by number. A class stands in it under its name in the
table of rows, never under one that is imported: what has no row is neither written nor read.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Settings = dict[str, Any]


class NotStorableError(TypeError):
    """Something that no file can keep, as it is not known what it is made of.

    Example:
        >>> from pyro_ebm import CallableEnergy
        >>> from pyro_ebm.energies import save
        >>> from pyro_ebm.storage import NotStorableError
        >>> try:
        ...     save(CallableEnergy(lambda x: x**2, ()), "energy.ebm")
        ... except NotStorableError as error:
        ...     print("state_dict" in str(error))
        True
    """


class Row(NamedTuple):
    """How a class is described, and how it is made anew.

    Args:
        name: In files.
        describe: Its settings and tensors.
        make: Another one, from these.
        home: Where the class is defined.
    """

    name: str
    describe: Callable[[Any], Settings]
    make: Callable[..., Any]
    home: str


class Given(NamedTuple):
    """A thing of the user's own that no file keeps, and where it stands."""

    where: str
    thing: Any


class Rows:
    """The table of the classes that are known."""

    def __init__(self) -> None:
        self.by_class: dict[type, Row] = {}
        self.by_name: dict[str, Row] = {}
        self.dropped: tuple[type, ...] = ()

    def add(
        self,
        kind: type,
        describe: Callable[[Any], Settings],
        make: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """A row more.

        Args:
            kind: The class.
            describe: Its settings and tensors, by the name of an argument of `make`.
            make: Another one from these; the class itself if left out.
            name: In files; that of the class if left out. It must stay as it is.
        """
        name = name or kind.__name__
        # A class that is defined again, as in a notebook, takes the place of its elder self.
        known = self.by_name.get(name)
        if known is not None and known.home != home(kind):
            raise ValueError(
                f"Files keep a class {name!r} of {known.home} already; choose another name."
            )
        row = Row(name, describe, make or kind, home(kind))
        self.by_class[kind] = self.by_name[name] = row

    def add_all(self, kinds: Iterable[type]) -> None:
        """Rows of classes that are made of their fields."""
        for kind in kinds:
            self.add(kind, by_attributes(*names_of_fields(kind)))

    def drop(self, *kinds: type) -> None:
        """Classes of what is computed anew: None stands for it."""
        self.dropped = (*self.dropped, *kinds)


def home(kind: type) -> str:
    """Where a class is defined."""
    return f"{kind.__module__}.{kind.__qualname__}"


ROWS = Rows()


def by_attributes(*names: str) -> Callable[[Any], Settings]:
    """Describes by attributes that are arguments as well."""
    return lambda x: {name: getattr(x, name) for name in names}


def names_of_fields(kind: type) -> tuple[str, ...]:
    """The arguments of a dataclass or a named tuple."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind) if field.init)
    return tuple(getattr(kind, "_fields", ()))


def register(kind: type, *arguments: str) -> None:
    """Lets files keep a class of one's own: a unit, a kernel, a layer of a network.

    The same line must have run where a file is read. Of a module parameters and buffers are kept
    besides.

    Args:
        kind: The class.
        arguments: Those of its constructor, which are attributes too; the fields of a dataclass or
            a named tuple if left out.

    Raises:
        ValueError: If there is another class of that name.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from pyro_ebm.energies import CallableEnergy, load, save
        >>> from pyro_ebm.storage import register
        >>> class Bowl(torch.nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.width = width
        ...
        ...     def forward(self, x):
        ...         return x.square().sum(-1) / self.width
        >>> register(Bowl, "width")
        >>> folder = getfixture("tmp_path")
        >>> save(CallableEnergy(Bowl(2.0), 3), folder / "bowl.ebm")
        >>> load(folder / "bowl.ebm")(torch.ones(3))
        tensor(1.5000)
    """
    own, name = by_attributes(*(arguments or names_of_fields(kind))), f"own.{kind.__name__}"
    if not issubclass(kind, nn.Module):
        ROWS.add(kind, own, name=name)
        return

    def make(settings: Settings, tensors: Mapping[str, Tensor], training: Any) -> nn.Module:  # noqa: ANN401
        with torch.random.fork_rng(devices=[]):
            module = kind(**settings)
        if tensors.keys() != tensors_of(module).keys():
            raise ValueError(f"{kind.__name__} has the tensors {list(tensors_of(module))}")
        for path, value in tensors.items():
            where, _, leaf = path.rpartition(".")
            put(module.get_submodule(where), {leaf: value})
        return module.train(training)

    def describe(module: nn.Module) -> Settings:
        kept = {"settings": own(module), "tensors": tensors_of(module)}
        return {**kept, "training": bool(module.training)}

    ROWS.add(kind, describe, make, name=name)


def tensors_of(module: nn.Module) -> Settings:
    """The parameters and buffers of a module, those of its parts too; shared ones everywhere."""
    found: Settings = dict(module.named_parameters(remove_duplicate=False))
    return found | dict(module.named_buffers(remove_duplicate=False))


def put(module: nn.Module, tensors: Mapping[str, Tensor | None]) -> None:
    """Gives a module tensors of its own, learned or given, in place of those that it has."""
    for name, value in tensors.items():
        if name not in module._parameters and name not in module._buffers:
            raise ValueError(f"a {type(module).__name__} has no {name!r}")
        old = module._parameters.get(name, module._buffers.get(name))
        if old is not None and value is not None and old.shape != value.shape:
            shapes = f"{tuple(value.shape)}, and wanted {tuple(old.shape)}"
            raise ValueError(f"the {name} of a {type(module).__name__} is {shapes}")
        learned = isinstance(value, nn.Parameter)
        if learned is not (name in module._parameters):  # optimisers go by the order: none is new
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)
        (module._parameters if learned else module._buffers)[name] = value  # type: ignore[assignment]


# --- describing ----------------------------------------------------------------------------------
class Describer:
    """Describes one thing, with all that it is made of.

    Args:
        what: Its name, for messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []  # an id is that of one thing as long as it lives
        self.seen: dict[int, int] = {}
        self.given: list[Given] = []

    def tree(self, thing: Any, where: str = "") -> Any:  # noqa: ANN401 (anything)
        """The description of a thing that stands somewhere."""
        if thing is None or type(thing) in (bool, int, float, str):
            return thing
        if isinstance(thing, Tensor):
            return {"is": "tensor", "of": self.number(thing)}
        if id(thing) in self.seen:
            return {"is": "again", "of": self.seen[id(thing)]}
        found = self.described(thing, where)
        self.alive.append(thing)
        self.seen[id(thing)] = len(self.seen)
        return found

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; the same for the same one."""
        if id(tensor) not in self.numbers:
            self.numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return self.numbers[id(tensor)]

    def described(self, thing: Any, where: str) -> Any:  # noqa: ANN401 (anything)
        """The description of a thing that has parts.

        Raises:
            NotStorableError: If it is not known.
        """
        if isinstance(thing, ROWS.dropped):
            return {"is": "renewed"}
        if type(thing) in (list, tuple, torch.Size):
            parts = [self.tree(part, f"{where}[{k}]") for k, part in enumerate(thing)]
            return {"is": type(thing).__name__, "of": parts}
        if type(thing) is dict:
            pairs = [[self.tree(k), self.tree(v, f"{where}[{k!r}]")] for k, v in thing.items()]
            return {"is": "dict", "of": pairs}
        if isinstance(thing, torch.dtype):
            return {"is": "dtype", "of": str(thing).removeprefix("torch.")}
        row = ROWS.by_class.get(type(thing))
        if row is None:
            self.given.append(Given(where.removeprefix("."), thing))
            return {"is": "given", "of": where.removeprefix(".")}
        own = row.describe(thing)
        settings = {name: self.tree(value, f"{where}.{name}") for name, value in own.items()}
        return {"is": row.name, "of": settings}


# --- making anew ---------------------------------------------------------------------------------
PARTS: Mapping[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "Size": torch.Size}


class Maker:
    """Makes the things of a description.

    Args:
        tensors: Those that it names by number.
        given: What stands for things of the user's own, in order.
    """

    def __init__(self, tensors: Sequence[Tensor], given: Sequence[Given] = ()) -> None:
        self.tensors, self.given = tensors, list(given)
        self.made: list[Any] = []

    def thing(self, tree: Any) -> Any:  # noqa: ANN401 (anything)
        """The thing.

        Raises:
            ValueError: If the description is none.
        """
        if tree is None or type(tree) in (bool, int, float, str):
            return tree
        kind = tree["is"]
        if kind == "tensor":
            return self.tensors[whole(tree["of"])]
        if kind == "again":
            return self.made[whole(tree["of"])]
        found = self.composed(kind, tree)
        self.made.append(found)
        return found

    def composed(self, kind: str, tree: Any) -> Any:  # noqa: ANN401 (anything)
        """A thing that has parts.

        Raises:
            ValueError: If its kind is not known.
        """
        if kind == "renewed":
            return None
        own = tree["of"]
        if kind == "given":
            # A kernel that was being tuned has its parts elsewhere, but in the same order.
            place = [text.rpartition(".")[2] for text in (own, *(g.where for g in self.given[:1]))]
            if place[1:] != place[:1]:
                raise ValueError(
                    f"its {own} is a function of yours, which no file keeps: "
                    f"give the kernel, Chains.load(path, kernel=kernel)"
                )
            return self.given.pop(0).thing
        if kind in PARTS:
            return PARTS[kind]([self.thing(part) for part in own])
        if kind == "dict":
            return {self.thing(key): self.thing(value) for key, value in own}
        if kind == "dtype":
            return {str(d).removeprefix("torch."): d for d in FLOATS}[own]
        if kind not in ROWS.by_name:
            raise ValueError(
                f"{kind!r} is not known here. If it is a class of yours, call "
                f"pyro_ebm.storage.register({kind.removeprefix('own.')}) first; else install a "
                f"later pyro_ebm"
            )
        return ROWS.by_name[kind].make(**{name: self.thing(value) for name, value in own.items()})


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def whole(number: Any) -> int:  # noqa: ANN401 (whatever a file has)
    """A number of a list, from 0.

    Raises:
        ValueError: If it is none.
    """
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no number of a list")
    return number
