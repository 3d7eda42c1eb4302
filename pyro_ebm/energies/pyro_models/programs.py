"""The terms of a Pyro model from a recorded pass, where that gives what the model gives."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_ebm.sites import Sites

from .dependence import Reach
from .log_joint import Model
from .passes import stacked
from .recording import Graph
from .replay import Program, Replay, Unrepeatable


@torch.no_grad()
def recorded_terms(
    model: Model,
    real: frozenset[str],
    graph: Graph | None,
    reaches: Mapping[str, Reach],
    starts: list[Sites],
) -> dict[str, Program | str]:
    """By site, its terms from a recorded pass; or why passes of the whole model are needed.

    A program is taken where it gives what the model gives, from all the starts at once.

    Args:
        model: The model.
        real: Its real sites, which are unconstrained.
        graph: The recorded pass; None where none could be recorded.
        reaches: By site, the terms that depend on it.
        starts: Values of all latent sites, several times.
    """
    if graph is None:
        return dict.fromkeys(reaches, "a pass of the model could not be recorded")
    replay = Replay(graph)
    wanted = [model.at(x, real).terms for x in starts]
    rows = stacked(starts)
    found: dict[str, Program | str] = {}
    doubts: dict[str, str | None] = {}
    for site, reach in reaches.items():
        for name in reach.terms - doubts.keys():
            doubts[name] = doubt(replay, name, rows, [terms[name] for terms in wanted])
        doubtful = next((doubts[n] for n in sorted(reach.terms) if doubts[n]), None)
        terms = {name: graph.terms[name] for name in reach.terms}
        found[site] = doubtful or replay.program(terms)
    return found


def doubt(replay: Replay, name: str, rows: Sites, wanted: list[Tensor]) -> str | None:
    """Why a term is not taken from a recorded pass; None where it is.

    Args:
        replay: The pass.
        name: The term.
        rows: Values of all latent sites, several times.
        wanted: The term at these values, from the model itself.
    """
    term = replay.graph.terms[name]
    if not isinstance(term, int):
        return f"nothing is recorded of {name!r}"
    try:
        program = replay.program({name: term})
        found = program({site: rows[site] for site in program.sites})[name]
    except Unrepeatable as error:
        return f"{name!r} cannot be computed again: {error}"
    except RuntimeError as error:  # an operation that does not take rows
        return f"{name!r} cannot be computed again: {str(error).splitlines()[0]}"
    expected = torch.stack(wanted)
    # A number of no dimension does not decide the dtype of what it meets; a row of them does.
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return f"{name!r} has another shape or dtype when it is computed again"
    tolerance = 1e-4 if torch.finfo(expected.dtype).eps > 1e-10 else 1e-9
    same = torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    return None if same else f"{name!r} is another number when it is computed again"
