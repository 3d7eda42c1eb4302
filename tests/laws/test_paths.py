"""Paths between two energies: at every β the sweep is that of the machine there, by its matrix.

What a sweep should do is computed from the enumerated energies of the two ends alone: by loops, or
by the energies' own doors where they are no machines.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    RandomField,
    TableFactors,
    combined,
)
from pyro_ebm.energies.composition.blend import blend
from pyro_ebm.energies.composition.path import Path
from pyro_ebm.energies.fields import structure as field_structure
from pyro_ebm.energies.pairwise import colouring, overlay
from pyro_ebm.kernels import Gibbs, ParallelTempering, TemperedTransitions
from pyro_ebm.minima import anneal
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites, random_values
from pyro_ebm.units import Bernoulli, Spin
from tests.support.checks import random_states
from tests.support.machines import FINITE, SMALL, Small, draw, ring_edges, varied
from tests.support.outcomes import matrix_of
from tests.support.transitions import transition_matrix

V, H = "visible", "hidden"
BETAS = (0.0, 0.3, 1.0)


def sweep_matrix(
    energy: Energy, sites: Sequence[str], x: Sites, energies: Tensor
) -> Tensor:  # (states, states)
    """Every block in turn drawn from exp(−E) given the rest, from the energies of all states.

    Args:
        energy: Says what the blocks are.
        sites: In the order of the sweep.
        x: All states (states, n) by site.
        energies: Theirs (states,).
    """
    total = torch.eye(len(energies), dtype=torch.float64)
    for site in sites:
        for block in energy.blocks(site):
            same = torch.ones(len(energies), len(energies), dtype=torch.bool)
            for name, value in x.items():
                rest = torch.ones(value.shape[1], dtype=torch.bool)
                if name == site:
                    rest[block] = False
                same &= (value[:, None, rest] == value[:, rest]).all(-1)
            total = total @ (-energies.double()).masked_fill(~same, -torch.inf).softmax(1)
    return total


def independent(small: Small) -> Small:
    """The same units without couplings, in other fields."""
    return replace(varied(small, np.random.default_rng(2)), couplings={}, edges={}, build=None)


def coupled(small: Small) -> Small:
    """The same structure with other numbers."""
    return varied(small, np.random.default_rng(3))


RING = draw("a ring", {V: (Spin(), 5)}, edges={(V, V): ring_edges(5)})
CHORDS = draw("its chords", {V: (Spin(), 5)}, edges={(V, V): np.array([[3, 0], [1, 0], [2, 4]])})
DENSE = draw("dense spins of a ring", {V: (Spin(), 5)}, [(V, V)])
ENDS: dict[str, tuple[Small, Small | None]] = {
    **{
        f"{name}, {kind}": (SMALL[name], None if make is None else make(SMALL[name]))
        for name in ("restricted", "restricted with offsets", "general", "bits on a ring")
        for kind, make in (("from zero", None), ("from units", independent), ("coupled", coupled))
    },
    "two graphs": (RING, CHORDS),
    "a graph and a dense layer": (RING, DENSE),
    "labels": (FINITE["spins and labels"], independent(FINITE["spins and labels"])),
    "coupled labels": (FINITE["Potts with pairs"], coupled(FINITE["Potts with pairs"])),
}


def along(ends: tuple[Small, Small | None], beta: float) -> Tensor:  # (states,)
    """(1 − β) E_ref + β E of all states, by loops."""
    target, reference = ends
    start = 0.0 if reference is None else reference.energies
    return torch.tensor((1 - beta) * start + beta * target.energies)


def path_of(name: str) -> Path:
    target, reference = ENDS[name]
    return Path.between(None if reference is None else reference.machine(), target.machine())


def error_of_a_sweep(name: str) -> float:
    """The largest difference from the sweep of the machine at β, at any β."""
    small, path, worst = ENDS[name][0], path_of(name), 0.0
    for beta in BETAS:
        here = path.at(torch.tensor(beta, dtype=torch.float64))
        found = transition_matrix(here, Gibbs(), small)
        energies = along(ENDS[name], beta)
        wanted = sweep_matrix(here, list(small.units), small.tensors(), energies)
        worst = max(worst, float((found - wanted).abs().max()))
    return worst


@pytest.mark.parametrize("name", ENDS)
def test_the_sweep_at_every_beta_is_that_of_the_machine_there(name: str) -> None:
    assert error_of_a_sweep(name) < 1e-12


@pytest.mark.parametrize("name", ENDS)
def test_the_levels_of_a_ladder_are_the_machines_there(name: str) -> None:
    small, path = ENDS[name][0], path_of(name)
    together = path.at(torch.tensor(BETAS, dtype=torch.float64))
    matrices = transition_matrix(together, Gibbs(), small)
    for beta, found in zip(BETAS, matrices, strict=True):
        energies = along(ENDS[name], beta)
        wanted = sweep_matrix(together, list(small.units), small.tensors(), energies)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ENDS)
def test_a_step_of_beta_adds_the_difference_of_the_ends(name: str) -> None:
    found = path_of(name).difference(ENDS[name][0].tensors())
    wanted = along(ENDS[name], 1.0) - along(ENDS[name], 0.0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


# --- annealing, step by step ---------------------------------------------------------------------

EDGES = [(0, 1), (1, 2), (2, 0)]


def potts(coupling: float) -> RandomField:
    """Three labels on a triangle, of two values."""
    field = torch.linspace(-1, coupling, 6, dtype=torch.float64).reshape(3, 2)
    return RandomField.potts(
        EDGES, 2, couplings=torch.tensor([coupling], dtype=torch.float64), biases=field
    )


def forbidden() -> RandomField:
    """The same nodes in one factor that forbids some labels."""
    table = torch.arange(8, dtype=torch.float64).cos().reshape(1, 2, 2, 2)
    table[0, 0, 1, 1] = -torch.inf
    return RandomField([2, 2, 2], {"edge": TableFactors([[2, 0, 1]], table)})


def tiny(name: str, kind: type[Bernoulli | Spin], *, pair: tuple[str, str]) -> BoltzmannMachine:
    """A machine of three units."""
    if pair == (V, V):
        edges = {pair: np.array(EDGES)}
        return draw(name, {V: (kind(), 3)}, edges=edges, scale=2.0).machine()
    return draw(name, {V: (kind(), 2), H: (Spin(), 1)}, [pair], scale=2.0).machine()


ANNEALED: dict[str, tuple[Callable[[], Energy], Callable[[], Energy] | None]] = {
    "layers": (lambda: tiny("one", Bernoulli, pair=(V, H)), None),
    "layers from others": (
        lambda: tiny("one", Bernoulli, pair=(V, H)),
        lambda: tiny("other", Bernoulli, pair=(V, H)),
    ),
    "a triangle": (lambda: tiny("one", Spin, pair=(V, V)), None),
    "a triangle from another": (
        lambda: tiny("one", Spin, pair=(V, V)),
        lambda: tiny("other", Spin, pair=(V, V)),
    ),
    "a field": (lambda: potts(0.9), None),
    "a field from another": (lambda: potts(0.9), lambda: potts(-0.5)),
    "a field from other factors": (lambda: potts(0.9), forbidden),
}
SCHEDULE = (0.9, 0.2)


def states_of(energy: Energy) -> Sites:
    """All states (states, n) by site."""
    return {s: v.to(energy.dtype) for s, v in exact.states(energy, list(energy.sites)).items()}


def error_of_annealing(name: str) -> float:
    """How far annealing is from the product of the sweeps at each β in turn."""
    build, easy = ANNEALED[name]
    energy, reference = build(), None if easy is None else easy()
    states = states_of(energy)

    def step(x: Sites) -> Sites:
        start = {"reference": reference, "initial": x}
        return anneal(energy, SCHEDULE, kernel=Gibbs(), seed=1, **start).x

    allowed = torch.ones(len(energy(states)), dtype=torch.bool)
    if reference is not None:
        allowed = reference(states).isfinite()
    states = {site: value[allowed] for site, value in states.items()}
    start = 0.0 if reference is None else reference(states)
    wanted = torch.eye(int(allowed.sum()), dtype=torch.float64)
    whole = combined([(0.5, energy), (0.5, reference or energy)])
    for beta in SCHEDULE:
        energies = beta * energy(states) + (1 - beta) * start
        wanted = wanted @ sweep_matrix(whole, list(energy.sites), states, energies)
    return float((matrix_of(step, states) - wanted).abs().max())


@pytest.mark.parametrize("name", ANNEALED)
def test_annealing_is_the_sweeps_at_each_beta_in_turn(name: str) -> None:
    assert error_of_annealing(name) < 1e-12


# --- planted faults ------------------------------------------------------------------------------

right_at, right_refresh, right_links = Path.at, Gibbs.refresh, overlay.GraphUnion.links
right_weighted = overlay.PairwiseOverlay.weighted


def first_beta_again(path: Path, beta: Tensor) -> Energy:
    """A path that stays where it was asked first."""
    return right_at(path, path.__dict__.setdefault("first", beta))


def old_terms(kernel: Gibbs, energy: Energy, state: Any, x: Sites) -> Any:
    """A refresh that keeps the parameters."""
    if state.structure is None:
        return right_refresh(kernel, energy, state, x)
    return state._replace(x=x, swept=None)


def ends_swapped(path: Path, beta: Tensor) -> Energy:
    return right_at(path, 1 - beta)


def biases_kept(found: overlay.PairwiseOverlay, weights: Sequence[Tensor]) -> Any:
    """An overlay that forgets to weigh the biases."""
    ones = [torch.ones_like(weight) for weight in weights]
    unweighted = right_weighted(found, ones)
    return replace(right_weighted(found, weights), biases=unweighted.biases)


def one_graph_for_all(union: overlay.GraphUnion, graphs: Sequence[Any]) -> Any:
    """A union in which the couplings of the second graph are those of the first."""
    first, *_ = right_links(union, graphs)
    return [first for _ in graphs]


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "β is that of the first step": (
        lambda: mock.patch.object(Path, "at", first_beta_again),
        "layers",
    ),
    "parameters of the first step": (
        lambda: mock.patch.object(Gibbs, "refresh", old_terms),
        "a triangle",
    ),
    "the ends swapped": (
        lambda: mock.patch.object(Path, "at", ends_swapped),
        "a field from another",
    ),
    "biases not weighted": (
        lambda: mock.patch.object(overlay.PairwiseOverlay, "weighted", biases_kept),
        "layers from others",
    ),
    "a graph's couplings lost": (
        lambda: mock.patch.object(overlay.GraphUnion, "links", one_graph_for_all),
        "a triangle from another",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    plant, name = FAULTS[fault]
    with plant():
        assert error_of_annealing(name) > 1e-3


# --- what is made once ---------------------------------------------------------------------------


@contextmanager
def counted(owner: Any, name: str) -> Iterator[list[int]]:
    """How often a function is called."""
    calls, right = [0], getattr(owner, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        return right(*arguments, **named)

    with mock.patch.object(owner, name, counting):
        yield calls


def made(energy: Energy, reference: Energy, steps: int) -> list[int]:
    """How often parameters are read, and graphs coloured, in so many steps of annealing."""
    betas = torch.linspace(0.1, 1, steps)
    with (
        counted(type(energy), "read") as read,
        counted(overlay, "colours_of") as coloured,
        counted(field_structure, "colouring") as coloured_nodes,
    ):
        anneal(energy, betas, reference=reference, chains=2, seed=1)
    return [*read, *coloured, *coloured_nodes]


@pytest.mark.parametrize("name", ["a triangle from another", "a field from another"])
def test_annealing_reads_and_colours_once_whatever_the_steps(name: str) -> None:
    build, easy = ANNEALED[name]
    assert easy is not None
    few, many = made(build(), easy(), 2), made(build(), easy(), 40)
    assert few == many
    assert sum(many[1:]) >= 1


def test_a_refresh_reads_the_parameters_again() -> None:
    small = SMALL["restricted"]
    old, new = small.machine(), coupled(small).machine()
    x = random_states(old, (3,))
    wanted = new(x)
    transitions = TemperedTransitions(Gibbs(), (0.5, 1.0))
    state = transitions.refresh(new, transitions.init(old, x), x)
    torch.testing.assert_close(state.path.difference(x), wanted)
    ladder = ParallelTempering(Gibbs(), (0.5, 1.0))
    levels = {site: value[:, None].expand(-1, 2, -1) for site, value in x.items()}
    path = ladder.refresh(new, ladder.init(old, x), x).path
    torch.testing.assert_close(path(levels), wanted[:, None] * torch.tensor([0.5, 1.0]))


# --- blends --------------------------------------------------------------------------------------


def quartic(x: Tensor) -> Tensor:
    return x.pow(4).sum(-1) - x.prod(-1)


NESTED = combined([(0.3, RING.machine()), (0.7, CHORDS.machine())])
BLENDS: dict[str, list[Energy]] = {
    "three machines": [RING.machine(), CHORDS.machine(), DENSE.machine()],
    "a combination and a machine": [NESTED, CHORDS.machine()],
    "three fields": [potts(0.9), forbidden(), potts(-0.2)],
    "functions": [
        CallableEnergy(quartic, 3, dtype=torch.float64),
        CallableEnergy(lambda x: x.square().sum(-1), 3, dtype=torch.float64),
    ],
    "other sites": [
        tiny("one", Bernoulli, pair=(V, H)),
        BoltzmannMachine.fully_visible(2, couplings=torch.ones(2, 2).double()),
    ],
}


@pytest.mark.parametrize("weights", ["numbers", "one for each level"])
@pytest.mark.parametrize("name", BLENDS)
def test_a_blend_is_the_combination_with_the_same_weights(name: str, weights: str) -> None:
    parts = BLENDS[name]
    numbers = torch.tensor([0.4, -0.3, 0.8], dtype=torch.float64)[: len(parts)]
    factors = list(numbers)
    if weights != "numbers":
        factors = list(numbers[:, None] * torch.tensor([1.0, 0.5], dtype=torch.float64))
    whole = combined(list(zip(factors, parts, strict=True)))
    found = blend(parts).weighted(factors)
    shape = (4,) if weights == "numbers" else (4, 2)
    x = {site: random_values(own, shape, numbers) for site, own in whole.sites.items()}
    torch.testing.assert_close(found(x), whole(x), rtol=0, atol=1e-12)
    assert list(found.sites) == list(whole.sites)
    assert type(found.structure()) is type(whole.structure())
    for site in whole.sites:
        assert found.structure().knows(site) is whole.structure().knows(site)


def test_groups_of_factors_keep_apart_whatever_they_are_called() -> None:
    # The second field's "edge" is over other nodes, and "edge_1" is taken.
    first = RandomField(
        [2, 2, 2],
        {
            "edge": TableFactors([[0, 1]], torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])),
            "edge_1": TableFactors([[1, 2]], torch.tensor([[[0.5, 0.0], [0.0, -1.0]]])),
        },
    )
    second = RandomField(
        [2, 2, 2], {"edge": TableFactors([[0, 2]], torch.tensor([[[3.0, 0.0], [0.0, 0.0]]]))}
    )
    x = states_of(first)
    torch.testing.assert_close((first + second)(x), first(x) + second(x))


# --- energies on graphs --------------------------------------------------------------------------

GRAPHS: dict[str, nx.Graph] = {
    "two colours": nx.grid_2d_graph(4, 5),
    "three colours": nx.cycle_graph(7),
    "many colours": nx.complete_graph(6),
    "no edges": nx.empty_graph(4),
    "lonely units": nx.disjoint_union(nx.empty_graph(3), nx.wheel_graph(6)),
    "a hub": nx.star_graph(90),
}


def error_on_a_graph(name: str, batch: tuple[int, ...]) -> float:
    """Of the energy without a history, against the sum over edges."""
    graph = nx.convert_node_labels_to_integers(GRAPHS[name])
    edges = torch.tensor(list(graph.edges), dtype=torch.int64).reshape(-1, 2)
    weight = torch.randn(len(edges), dtype=torch.float64)
    bias = torch.zeros(len(graph), dtype=torch.float64)
    machine = BoltzmannMachine.on_graph(edges, len(graph), couplings=weight, biases=bias)
    x = random_states(machine, batch)[V]
    wanted = -(weight * x[..., edges[:, 0]] * x[..., edges[:, 1]]).sum(-1)
    with torch.no_grad():
        found = machine(x)
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3)])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_energy_on_a_graph_is_the_sum_over_its_edges(name: str, batch: tuple[int, ...]) -> None:
    assert error_on_a_graph(name, batch) < 1e-12


def test_chunks_of_a_colour_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_ebm.energies.pairwise.links.CACHED", 10)
    for name in GRAPHS:
        assert error_on_a_graph(name, (5,)) < 1e-12


def test_a_chunk_with_its_neighbours_misplaced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = colouring.Colour.part

    def part(colour: colouring.Colour, start: int, stop: int) -> colouring.Colour:
        found = right(colour, start, stop)
        return found._replace(sources=found.sources.roll(1))

    monkeypatch.setattr("pyro_ebm.energies.pairwise.links.CACHED", 10)
    monkeypatch.setattr(colouring.Colour, "part", part)
    assert error_on_a_graph("two colours", (5,)) > 1e-3
