"""Every kernel leaves its energy's law unchanged: by its transition matrix, without randomness.

Right kernels give |πT − π| of 1e-16 in float64 and 1e-8 in float32; the smallest of the faults
planted in test_mutants.py gives 1e-5. The limits of 1e-12 and 1e-6 lie between.
"""

import itertools

import numpy as np
import pytest
import torch

from pyro_ebm.energies.pairwise import links, sweeps
from pyro_ebm.kernels import Gibbs
from pyro_ebm.units import Bernoulli, Spin
from tests.support.checks import random_states
from tests.support.machines import (
    FINITE,
    FOUR,
    THREE,
    draw,
    restricted,
    ring_edges,
    stacked,
    star_edges,
    varied,
)
from tests.support.transitions import (
    LIMITS,
    log_transition,
    log_transition_by_definition,
    transition_matrix,
    violation,
)

LAYERED = [name for name, small in FINITE.items() if len(small.units) > 1]


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", FINITE)
def test_gibbs_leaves_the_law_unchanged(name: str, dtype: torch.dtype) -> None:
    # The exact law in float32 is that of the rounded parameters; rounding them costs about 1e-7.
    small = FINITE[name]
    assert not violation(small.machine(dtype), Gibbs(), small).found(LIMITS[dtype])


@pytest.mark.parametrize("name", LAYERED)
def test_gibbs_leaves_the_law_unchanged_in_any_order_of_the_sites(name: str) -> None:
    small = FINITE[name]
    energy = small.machine()
    for sites in list(itertools.permutations(small.units))[1:]:
        assert not violation(energy, Gibbs(sites), small).found(1e-12), sites


@pytest.mark.parametrize("name", LAYERED)
def test_gibbs_on_some_sites_leaves_the_others_alone_and_their_conditional_law_unchanged(
    name: str,
) -> None:
    small = FINITE[name]
    energy = small.machine()
    pi = torch.tensor(small.probabilities)
    flat = torch.tensor(small.flat_states)
    owner = np.repeat(list(small.sizes), list(small.sizes.values()))
    for site in small.units:
        matrix = transition_matrix(energy, Gibbs((site,)), small)
        assert float((matrix.sum(1) - 1).abs().max()) < 1e-12
        # Invariance of π where nothing else moves is invariance of each conditional law.
        assert float((pi @ matrix - pi).abs().max()) < 1e-12
        others = flat[:, torch.tensor(owner != site)]
        moved = (others[:, None] != others).any(-1)
        assert float(matrix[moved].sum()) == 0
        fixed = Gibbs((site,))
        x = small.tensors()
        after = fixed.step(energy, fixed.init(energy, x))[0].x
        assert all(torch.equal(after[s], x[s]) for s in x if s != site)


@pytest.mark.parametrize(
    "name",
    [
        *("restricted", "general bits and spins", "deep", "fully visible bits", "bits on a ring"),
        *("Potts restricted", "fully visible labels", "labels, spins and bits"),
    ],
)
def test_chains_with_parameters_of_their_own_have_their_own_transition_matrices(name: str) -> None:
    one, rng = FINITE[name], np.random.default_rng(1)
    machines = [one, varied(one, rng), varied(one, rng)]
    energy = stacked(machines).machine()
    matrices = transition_matrix(energy, Gibbs(), one)
    assert matrices.shape[0] == 3
    for small, matrix in zip(machines, matrices, strict=True):
        alone = transition_matrix(small.machine(), Gibbs(), small)
        torch.testing.assert_close(matrix, alone, rtol=0, atol=1e-13)


# Larger than any group of units that a sweep may take at a time, and than the table of a graph's
# neighbours: here the matrix is compared entry by entry, for some entries.
LARGE = {
    "dense bits": draw("dense bits", {"visible": (Bernoulli(), 70)}, [("visible", "visible")]),
    "dense spins": draw(
        "dense spins", {"visible": (Spin(), 37)}, [("visible", "visible")], offsets=True
    ),
    "dense labels": draw("dense labels", {"visible": (THREE, 25)}, [("visible", "visible")]),
    "labels": draw(
        "large labels",
        {"visible": (FOUR, 18), "hidden": (THREE, 11)},
        [("visible", "hidden"), ("visible", "visible"), ("hidden", "hidden")],
        any_square=True,
    ),
    "general": draw(
        "large general",
        {"visible": (Bernoulli(), 35), "hidden": (Spin(), 21)},
        [("visible", "hidden"), ("visible", "visible"), ("hidden", "hidden")],
        any_square=True,
    ),
    "restricted": draw(
        "large restricted",
        {"visible": (Bernoulli(), 80), "hidden": (Bernoulli(), 70)},
        [("visible", "hidden")],
        build=restricted,
    ),
    "star": draw("star", {"visible": (Spin(), 81)}, edges={("visible", "visible"): star_edges(80)}),
    "hubs on a ring": draw(
        "hubs",
        {"visible": (Bernoulli(), 160)},
        edges={
            ("visible", "visible"): np.unique(
                np.sort(
                    np.concatenate([ring_edges(160), star_edges(100), 80 + star_edges(75)[1:]]),
                    1,
                ),
                axis=0,
            )
        },
    ),
    "star, one coupling": draw(
        "star",
        {"visible": (Spin(), 81)},
        edges={("visible", "visible"): star_edges(80)},
        shared=True,
        scale=0.1,
    ),
}


@pytest.mark.parametrize("rows", [1, 2, 500])
@pytest.mark.parametrize("name", LARGE)
def test_a_sweep_of_many_units_is_its_blocks_in_order(name: str, rows: int) -> None:
    small = LARGE[name]
    energy = small.machine()
    x, y = random_states(energy, (rows,)), random_states(energy, (rows,))
    found = log_transition(energy, Gibbs(), x, y)
    wanted = log_transition_by_definition(energy, Gibbs(), x, y)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(("semi-restricted", "GROUP"), ("fully visible bits", "GROUP")),
        *(("torus", "CACHED"), ("bits on a ring", "CACHED")),
        ("fully visible labels", "GROUP"),
    ],
)
def test_how_many_units_are_taken_at_a_time_does_not_matter(
    name: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = FINITE[name]
    chains = len(small.energies) ** 2
    for units in (1, 2, 3, 4, 7):
        module, taken = (sweeps, units) if setting == "GROUP" else (links, units * chains)
        monkeypatch.setattr(module, setting, taken)
        assert not violation(small.machine(), Gibbs(), small).found(1e-12)


@pytest.mark.parametrize("units", [1, 7, 16])
@pytest.mark.parametrize("name", ["star", "hubs on a ring"])
def test_how_many_hubs_are_taken_at_a_time_does_not_matter(
    name: str, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = LARGE[name].machine()
    x, y = random_states(machine, (20,)), random_states(machine, (20,))
    wanted = log_transition_by_definition(machine, Gibbs(), x, y)
    monkeypatch.setattr(links, "CACHED", 20 * units)
    found = log_transition(machine, Gibbs(), x, y)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-10)
