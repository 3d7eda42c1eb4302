"""Writes the tables of docs/reference.md, from the faces of the folders and the docstrings.

`python docs/reference.py` (`make reference`) renews what stands between the two marks there; a test
finds a page that was not renewed.
"""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pyro_ebm

PAGE = Path(__file__).with_name("reference.md")
BEGIN, END = "<!-- made by `make reference` from the docstrings -->\n", "<!-- the end of it -->\n"
SECTIONS = {  # the modules, in the order of the subject
    "Named tensors": ("sites",),
    "One variable in a field": ("units",),
    "Energies": ("energies",),
    "Files": ("storage",),
    "Sampling": ("sampling", "kernels", "stopping"),
    "Numbers from arrays": ("statistics",),
    "Have the chains mixed?": ("diagnostics",),
    "Exact answers, and messages on graphs": ("partition",),
    "Minima": ("minima",),
    "Energies as Pyro distributions": ("distributions",),
    "Learning": ("learning",),
    "Inside Pyro's models, guides and MCMC": ("infer",),
    "Data and figures": ("datasets", "plots"),
}


def tables() -> str:
    """The tables, one for each section."""
    top = {name: getattr(pyro_ebm, name) for name in pyro_ebm.__all__}
    parts, told = [], set()
    for heading, modules in SECTIONS.items():
        rows = {}
        for module in modules:
            face = importlib.import_module(f"pyro_ebm.{module}")
            if module in top:
                rows[module] = face
            for own in getattr(face, "__all__", [n for n in top if hasattr(face, n)]):
                thing = getattr(face, own)
                short = own in top and top[own] is thing
                rows[own if short else f"{module}.{own}"] = thing
        rows = {name: thing for name, thing in rows.items() if name not in told}
        told |= set(rows)
        at_top = sorted((name for name in rows if name in top), key=list(top).index)
        others = sorted(name for name in rows if name not in top)
        lines = [row(name, rows[name]) for name in (*at_top, *others)]
        parts.append("\n".join([f"## {heading}", "| name | what it is |", "|---|---|", *lines]))
    if missing := [name for name in top if name not in told]:
        raise ValueError(f"{missing} stand in the face of no folder; add one to SECTIONS.")
    return "\n\n".join(parts) + "\n"


def row(name: str, thing: object) -> str:
    """A name, the first sentence of its docstring, and what it has."""
    text = sentence(thing)
    with_it = ", ".join(f"`{own}`" for own in members(thing))
    return f"| `{name}` | {text}{': ' if with_it else ''}{with_it} |"


def sentence(thing: object) -> str:
    """The first sentence of a docstring, as Markdown; of plain data its type."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)):
        return f"`{thing}`" if not isinstance(thing, dict) else "a table"
    paragraph = inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0]
    first = re.split(r"(?<=[.:])\s(?=[A-Z`])", " ".join(paragraph.split()))[0]
    formulas = re.sub(r":math:`([^`]*)`", lambda found: f"${vertical(found[1])}$", first)
    return re.sub(r":[a-z]+:`([^`]*)`", r"`\1`", formulas).rstrip(".:")


def vertical(formula: str) -> str:
    """A formula without the bars that would end a cell."""
    return formula.replace(r"\|", r"\Vert ").replace("|", r"\vert ")


def members(thing: object) -> list[str]:
    """The functions of a module that is no folder, other constructors, what a subclass fills in."""
    if isinstance(thing, ModuleType):
        name = thing.__name__.rpartition(".")[2]
        return [] if name in sum(SECTIONS.values(), ()) else list(thing.__all__)
    if not inspect.isclass(thing):
        return []
    return [
        name
        for name, own in vars(thing).items()
        if not name.startswith("_")
        and (isinstance(own, classmethod) or getattr(own, "__isabstractmethod__", False))
    ]


def page() -> str:
    """The page with tables made anew."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
