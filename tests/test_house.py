"""The rules of the house that no other tool keeps."""

import ast
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pyro_ebm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyro_ebm"

# What may be imported inside a function, and where: heavy things that not every user needs (xarray
# is what ArviZ's data are made of), and the one import that points up.
LAZY_ANYWHERE = {"arviz", "matplotlib", "numba", "xarray"}
LAZY_IN_FILE = {
    ("kernels/chains.py", "pyro_ebm.diagnostics"),
}

# The examples that take a few seconds; the others are run by `make test-all`.
FAST = {"southern_women.py"}
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


class Source(NamedTuple):
    """One file of the package."""

    path: str  # kernels/chains.py
    module: str  # pyro_ebm.kernels.chains
    tree: ast.Module


def sources() -> list[Source]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        relative = file.relative_to(ROOT).with_suffix("")
        module = ".".join(relative.parts).removesuffix(".__init__")
        path = file.relative_to(PACKAGE).as_posix()
        found.append(Source(path, module, ast.parse(file.read_text("utf-8"), str(file))))
    return found


def imported_from(source: Source, node: ast.ImportFrom) -> str:
    """The full name of the module after `from`."""
    if not node.level:
        return node.module or ""
    # `from . import x` in a/b.py and in a/__init__.py both mean a.
    folder = source.module.split(".")
    if not source.path.endswith("__init__.py"):
        folder.pop()
    folder = folder[: len(folder) - (node.level - 1)]
    return ".".join([*folder, *filter(None, [node.module])])


# --- faces only ----------------------------------------------------------------------------------


def imports_past_a_face(files: list[Source]) -> list[str]:
    """Imports from within another folder of the package, as "file: from module"."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    found = []
    for source in files:
        own = source.path.split("/")[0].removesuffix(".py")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom):
                package, *parts = imported_from(source, node).split(".")
                if package == "pyro_ebm" and len(parts) > 1 and parts[0] in folders - {own}:
                    found.append(f"{source.path}: from {'.'.join(parts)}")
    return found


def test_a_folder_is_entered_by_its_face() -> None:
    """What others need of a folder stands in its __init__; what is in `__all__` there is public."""
    assert not imports_past_a_face(sources())


def test_an_import_past_a_face_is_found() -> None:
    inside = ast.parse("from pyro_ebm.kernels.start import where")
    planted = Source("minima/modes.py", "pyro_ebm.minima.modes", inside)
    assert imports_past_a_face([planted]) == ["minima/modes.py: from kernels.start"]


# --- abstract or final ---------------------------------------------------------------------------


def full_names(source: Source) -> dict[str, str]:
    """What the names at the top of a file stand for: imports, and its own classes."""
    names = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            module = imported_from(source, node)
            names |= {a.asname or a.name: f"{module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ClassDef):
            names[node.name] = f"{source.module}.{node.name}"
    return names


def base_name(base: ast.expr, names: dict[str, str]) -> str:
    """The full name of a base class: Kernel[Energy, State] is pyro_ebm.kernels.base.Kernel."""
    if isinstance(base, ast.Subscript):
        base = base.value
    first, dot, rest = ast.unparse(base).partition(".")
    return names.get(first, first) + dot + rest


def is_abstract(node: ast.ClassDef, bases: set[str]) -> bool:
    metaclasses = {ast.unparse(k.value) for k in node.keywords if k.arg == "metaclass"}
    decorators = {
        ast.unparse(decorator)
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in item.decorator_list
    }
    said = {name.rpartition(".")[2] for name in bases | metaclasses | decorators}
    # A torch module cannot be an ABC: see AbstractModule.
    abstract = said & {"ABC", "ABCMeta", "Protocol", "abstractmethod"}
    return bool(abstract) or node.name.startswith("Abstract")


def concrete_bases(files: list[Source]) -> list[str]:
    """Each class whose base is a concrete class of the package, as "module: class Sub(Base)"."""
    classes = []  # (module, class, its bases), all by their full names
    concrete = set()
    for source in files:
        names = full_names(source)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                bases = {base_name(base, names) for base in node.bases}
                classes.append((source.module, node.name, bases))
                if not is_abstract(node, bases):
                    concrete.add((source.module, node.name))
    # A folder's __init__ passes on what is in its files: pyro_ebm.units.Spin is
    # pyro_ebm.units.spin.Spin.
    return [
        f"{module}: class {name}({base})"
        for module, name, bases in classes
        for base in sorted(bases)
        if any(
            base.rpartition(".")[2] == other
            and f"{home}.".startswith(base.rpartition(".")[0] + ".")
            for home, other in concrete
        )
    ]


def test_a_class_is_abstract_or_final() -> None:
    offences = "\n".join(concrete_bases(sources()))
    assert not offences, (
        "Finished classes are wrapped, not subclassed; a class that is made to be subclassed has "
        f"ABC among its bases:\n{offences}"
    )


@pytest.mark.parametrize(
    "offence",
    [
        "from pyro_ebm.a.base import Done\nclass New(Done): ...",
        "from pyro_ebm.a import Done as Old\nclass New(Old[int]): ...",
        "from . import base\nclass New(base.Done): ...",
        "class Done: ...\nclass New(Done): ...",
    ],
)
def test_a_subclass_of_a_finished_class_is_found(offence: str) -> None:
    base = "class Kind(ABC): ...\nclass Done(Kind): ..."
    fine = "from pyro.infer import Done as Host\nfrom .base import Kind\nclass New(Host, Kind): ..."
    files = [
        Source("a/base.py", "pyro_ebm.a.base", ast.parse(base)),
        Source("a/fine.py", "pyro_ebm.a.fine", ast.parse(fine)),
    ]
    assert not concrete_bases(files)
    new = Source("a/new.py", "pyro_ebm.a.new", ast.parse(offence))
    assert len(concrete_bases([*files, new])) == 1


# --- kinds of energies ---------------------------------------------------------------------------

# What is known of an energy is asked of its structure. So many places may ask for a kind of energy,
# or of structure: by isinstance, match, hasattr or singledispatch.
MOST_QUESTIONS = 10
KIND = re.compile(
    r"\w*(Energy|Structure|Terms|FactorGraph|Field|Machine|Sum|Clamped|Held\w*|Blend|Given|Laws)"
)
NO_KINDS = {"Energy", "Structure"}  # any energy; any structure


def names_of_kinds(source: Source) -> set[str]:
    """The names in a file under which kinds of energies and of structures may be asked for."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        and imported_from(source, node).startswith("pyro_ebm.energies")
        for alias in node.names
    }
    defined = {n.name for n in ast.walk(source.tree) if isinstance(n, ast.ClassDef)}
    own = defined if source.path.startswith("energies/") else set()
    return {n for n in imported | own if KIND.fullmatch(n)} - NO_KINDS


def questions_of_kinds(files: list[Source]) -> list[str]:
    """Where energies or structures are asked for their kind."""
    found = []
    for source in files:
        kinds = names_of_kinds(source)

        def names(node: ast.AST, kinds: set[str] = kinds) -> bool:
            every = (n for n in ast.walk(node) if isinstance(n, ast.Name))
            return any(n.id in kinds for n in every)

        for node in ast.walk(source.tree):
            asks = isinstance(node, ast.Call) and (
                (
                    isinstance(node.func, ast.Name)
                    and node.func.id in ("isinstance", "issubclass")
                    and names(node.args[1])
                )
                or (
                    (isinstance(node.func, ast.Attribute) and node.func.attr == "register")
                    and any(map(names, node.args))
                )
            )
            matches = isinstance(node, ast.MatchClass) and names(node.cls)
            if asks or matches:
                found.append(f"{source.path}:{node.lineno}")
    return found


def test_energies_are_hardly_asked_for_their_kind() -> None:
    found = questions_of_kinds(sources())
    assert len(found) <= MOST_QUESTIONS, (
        f"Ask an energy's structure() for what is to be known, not an energy for its kind: {found}"
    )


@pytest.mark.parametrize(
    ("line", "offences"),
    [
        ("isinstance(energy, PairwiseStructure)", 1),
        ("isinstance(energy, (int, BoltzmannMachine))", 1),
        ("isinstance(energy, Energy)", 0),
        ("match energy.structure():\n  case FieldStructure(graph=g): ...", 1),
        ("register.register(PairwiseStructure)", 1),
        ("isinstance(energy, Layer)", 0),
    ],
)
def test_a_question_of_kind_is_found(line: str, offences: int) -> None:
    names = "BoltzmannMachine, Energy, FieldStructure, Layer, PairwiseStructure"
    tree = ast.parse(f"from pyro_ebm.energies import {names}\n{line}")
    source = Source("kernels/new.py", "pyro_ebm.kernels.new", tree)
    assert len(questions_of_kinds([source])) == offences


# --- imports -------------------------------------------------------------------------------------


def imports(source: Source, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, full name) of whatever is imported under a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = imported_from(source, node)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def hidden_imports(files: list[Source]) -> list[str]:
    """Imports inside a function that are not in the list of lazy ones."""

    def is_lazy(path: str, name: str) -> bool:
        return name.partition(".")[0] in LAZY_ANYWHERE or any(
            path == file and f"{name}.".startswith(f"{module}.") for file, module in LAZY_IN_FILE
        )

    return sorted(
        {
            f"{source.path}:{line} imports {name}"
            for source in files
            for function in ast.walk(source.tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for line, name in imports(source, function)
            if not is_lazy(source.path, name)
        }
    )


def test_no_import_hides_in_a_function() -> None:
    offences = "\n".join(hidden_imports(sources()))
    assert not offences, f"Import at the top, or add to the list of lazy imports:\n{offences}"


@pytest.mark.parametrize(
    ("path", "line", "offends"),
    [
        ("kernels/chains.py", "import arviz as az", False),
        ("kernels/chains.py", "from pyro_ebm.diagnostics import to_arviz", False),
        ("kernels/chains.py", "from pyro_ebm import diagnostics", False),
        ("kernels/chains.py", "from pyro_ebm.learning import fit", True),
        ("kernels/gibbs.py", "from pyro_ebm.diagnostics import to_arviz", True),
        ("kernels/gibbs.py", "from .base import Kernel", True),
        ("kernels/gibbs.py", "import math", True),
    ],
)
def test_a_hidden_import_is_found(path: str, line: str, offends: bool) -> None:
    module = "pyro_ebm." + path.removesuffix(".py").replace("/", ".")
    source = Source(path, module, ast.parse(f"class A:\n def f(self):\n  {line}"))
    assert bool(hidden_imports([source])) is offends


def test_no_module_imports_from_the_top() -> None:
    # The contract on the layers does not see it: pyro_ebm itself is in no layer.
    below = {path.stem for path in PACKAGE.iterdir()}
    offences = [
        f"{source.path}:{line} imports {name}"
        for source in sources()
        for line, name in imports(source, source.tree)
        if name == "pyro_ebm" or (name.startswith("pyro_ebm.") and name.split(".")[1] not in below)
    ]
    assert not offences, f"Import from the module that defines it: {offences}"


def test_imports_point_down(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-logo", "--cache-dir", str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_heavy_libraries_are_imported_lazily() -> None:
    look = "import sys, pyro_ebm; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", look], env=environment(), capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "pyro_ebm" in loaded
    assert not loaded & LAZY_ANYWHERE


# --- what is public is documented ----------------------------------------------------------------


def code_in(markdown: str) -> str:
    """What a page of documentation sets as code, in blocks or in lines."""
    blocks = re.findall(r"^```.*?^```", markdown, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", rest)])


def test_there_are_public_names() -> None:
    assert pyro_ebm.__all__
    assert len(set(pyro_ebm.__all__)) == len(pyro_ebm.__all__)


# Folders whose names are all for users, whether or not they stand at the top.
FACES = (
    "diagnostics",
    "energies",
    "kernels",
    "minima",
    "partition",
    "sampling",
    "sites",
    "storage",
    "units",
)


def public_names() -> dict[str, object]:
    """What users may call: the names at the top, those of its modules, those of the folders."""
    found = {name: getattr(pyro_ebm, name) for name in pyro_ebm.__all__}
    modules = {name: thing for name, thing in found.items() if inspect.ismodule(thing)}
    modules |= {name: importlib.import_module(f"pyro_ebm.{name}") for name in FACES}
    for name, module in modules.items():
        found |= {f"{name}.{own}": getattr(module, own) for own in module.__all__}
    return found


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_is_documented(name: str) -> None:
    thing, name = public_names()[name], name.rpartition(".")[2]
    if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
        text = (thing.__doc__ or "").strip()
        # Dataclasses and named tuples without a docstring are given their signature.
        assert text, f"{name} has no docstring"
        assert not text.startswith(f"{name}("), f"{name} has no docstring"
    pages = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    assert re.search(rf"\b{re.escape(name)}\b", code_in(pages)), (
        f"docs/ does not mention `{name}`: add it to docs/reference.md"
    )


def test_the_table_of_contents_is_short() -> None:
    assert len(pyro_ebm.__all__) <= 100, "later names live in their folders"


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_has_an_example(name: str) -> None:
    thing = public_names()[name]
    if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
        # That it runs, and prints what it says, is tested where it stands: by --doctest-modules.
        assert ">>> " in (thing.__doc__ or ""), f"{name} has no example in its docstring"


def test_the_reference_is_that_of_the_docstrings() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "reference.py"))["page"]()
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert text == page, "docs/reference.md has other names or sentences: run `make reference`"


def test_the_reference_lists_a_name_once() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    names = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []


def test_only_code_counts_as_a_mention() -> None:
    page = "We run it, and `fit(x)` it.\n```python\nmachine = Machine()\n```\nThe end.\n"
    code = code_in(page)
    assert "fit" in code
    assert "Machine" in code
    assert "run" not in code
    assert "end" not in code


# --- what is shown runs --------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """For a child process: this package, no display, the letters of mathematics."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg", "PYTHONUTF8": "1"}


def python_blocks(markdown: str) -> list[str]:
    """The ```python blocks, each moved down to its own line so that a traceback names it."""
    pattern = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    return [
        "\n" * (markdown.count("\n", 0, found.start()) + 1) + found[1]
        for found in pattern.finditer(markdown)
    ]


@pytest.mark.parametrize("name", ["README.md", "docs/conversions.md", "docs/sharp-bits.md"])
def test_a_page_runs_as_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / name
    blocks = python_blocks(page.read_text("utf-8"))
    assert blocks, f"{name} shows no program"
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


def test_every_readme_block_is_seen() -> None:
    blocks = python_blocks("a\n```python\nx = 1\n```\n```bash\nls\n```\n```python\ny = x\n```\n")
    assert [block.strip() for block in blocks] == ["x = 1", "y = x"]
    assert [block.count("\n", 0, block.index("=")) + 1 for block in blocks] == [3, 9]


def test_the_fast_examples_are_there() -> None:
    assert set(EXAMPLES) >= FAST, f"examples/ has {EXAMPLES}"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in EXAMPLES],
)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), f"{name} prints nothing"


def test_every_module_can_be_imported() -> None:
    for source in sources():
        importlib.import_module(source.module)
