"""Cluster moves leave the law unchanged: by matrices over all bonds and all turns of clusters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, CallableEnergy
from pyro_ebm.kernels import Kernel, ParallelTempering, SwendsenWang, Wolff, resume, run
from pyro_ebm.kernels.discrete import cluster
from pyro_ebm.sites import Sites
from pyro_ebm.units import Spin
from tests.support.checks import random_states
from tests.support.goodness import ALPHA, agreements, from_exact_start
from tests.support.machines import SMALL, Small, draw, ring_edges, stacked
from tests.support.outcomes import matrix_of, violation_of

V, H = "visible", "hidden"
KERNELS: dict[str, Kernel] = {"swendsen-wang": SwendsenWang(), "wolff": Wolff()}


def satisfiable(small: Small, *, fields: bool = True) -> Small:
    """The same machine of spins, its couplings and biases such that one state satisfies all."""
    rng = np.random.default_rng(len(small.energies))
    turn = {name: rng.choice([-1.0, 1.0], size) for name, size in small.sizes.items()}
    couplings = {}
    for (first, second), weight in small.couplings.items():
        if (first, second) in small.edges:
            i, j = small.edges[first, second].T
            sign = turn[first][i] * turn[second][j]
            couplings[first, second] = np.abs(weight) * (sign if len(weight) > 1 else 1)
        else:
            couplings[first, second] = np.abs(weight) * np.outer(turn[first], turn[second])
    bias = {
        name: np.abs(value) * turn[name] * np.arange(len(value)).clip(max=1) * fields
        for name, value in small.bias.items()
    }
    return replace(small, bias=bias, couplings=couplings)


TRIANGLE = {(V, V): ring_edges(3)}
MACHINES = {
    "triangle in fields": satisfiable(draw("triangle", {V: (Spin(), 3)}, edges=TRIANGLE)),
    "ring without fields": satisfiable(
        draw("ring", {V: (Spin(), 4)}, edges={(V, V): ring_edges(4)}), fields=False
    ),
    "dense": satisfiable(draw("dense clusters", {V: (Spin(), 3)}, [(V, V)])),
    "two layers": satisfiable(draw("two layers", {V: (Spin(), 2), H: (Spin(), 2)}, [(V, H)])),
    "one unit": satisfiable(draw("one unit", {V: (Spin(), 1), H: (Spin(), 1)})),
}


def stepped(kernel: Kernel, energy: BoltzmannMachine) -> Callable[[Sites], Sites]:
    def step(x: Sites) -> Sites:
        return kernel.step(energy, kernel.init(energy, x))[0].x

    return step


def violations(kernel: Kernel, small: Small) -> set[str]:
    """What two steps violate: the turns of free clusters alone need not join all states."""
    matrix = matrix_of(stepped(kernel, small.machine()), small.tensors())
    return violation_of(matrix, torch.tensor(small.probabilities)).found()


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", MACHINES)
def test_the_law_is_left_unchanged(name: str, kind: str) -> None:
    assert not violations(KERNELS[kind], MACHINES[name])


@pytest.mark.parametrize("kind", KERNELS)
def test_bits_are_spins_in_disguise(kind: str) -> None:
    small = MACHINES["triangle in fields"]
    energy = small.machine().to_bits()
    states = {site: (value + 1) / 2 for site, value in small.tensors().items()}
    matrix = matrix_of(stepped(KERNELS[kind], energy), states)
    assert not violation_of(matrix, torch.tensor(small.probabilities)).found()
    torch.testing.assert_close(
        matrix, matrix_of(stepped(KERNELS[kind], small.machine()), small.tensors())
    )


@pytest.mark.parametrize("kind", KERNELS)
def test_exact_draws_stay_exact_draws(kind: str) -> None:
    # α = 1e-6, N = 20,000; what it finds is said in test_exact_starts.py.
    small = satisfiable(SMALL["bipartite lattice"])
    assert from_exact_start(small.machine(), KERNELS[kind], small, seed=1) > ALPHA
    assert agreements(small.machine(), KERNELS[kind], small, seed=1) > ALPHA


def test_every_machine_of_a_batch_has_its_own_bonds() -> None:
    small = MACHINES["triangle in fields"]
    weaker = replace(small, couplings={k: 0.2 * v for k, v in small.couplings.items()})
    energy = stacked([small, weaker]).machine()
    x = {V: small.tensors()[V][:, None].expand(-1, 2, -1).contiguous()}
    state = SwendsenWang().init(energy, x)
    spins = cluster.joined_spins(energy, x)
    found = cluster.bond_probability(spins, state.bonds)
    for k, one in enumerate((small, weaker)):
        alone = SwendsenWang().init(one.machine(), one.tensors())
        wanted = cluster.bond_probability(spins[:, k], alone.bonds)
        torch.testing.assert_close(found[:, k], wanted)


def test_clusters_move_at_every_level_of_a_ladder() -> None:
    small = satisfiable(draw("pair", {V: (Spin(), 2)}, edges={(V, V): ring_edges(2)[:1]}))
    energy = small.machine()
    kernel = ParallelTempering(SwendsenWang(), (0.3, 1.0))
    states = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 4).reshape(-1, 2, 2)
    law = (-0.3 * energy(states[:, 0]) - energy(states[:, 1])).softmax(0)

    def step(x: Sites) -> Sites:
        state = kernel.init(energy, {V: x[V][:, -1]})
        state = state._replace(replicas=kernel.kernel.init(kernel.path(energy), x))
        return kernel.step(energy, state)[0].replicas.x

    assert not violation_of(matrix_of(step, {V: states}), law).found()


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 1.0])
def test_components_are_those_of_networkx(share: float) -> None:
    rng = np.random.default_rng(1)
    pairs = np.array(nx.gnm_random_graph(60, 150, seed=3).edges())
    present = torch.tensor(rng.random((20, len(pairs))) < share)
    found = cluster.components(torch.tensor(pairs), present, 60)
    for row, there in zip(found, present, strict=True):
        graph = nx.Graph()
        graph.add_nodes_from(range(60))
        graph.add_edges_from(pairs[there.numpy()].tolist())
        wanted = torch.empty(60, dtype=torch.int64)
        for part in nx.connected_components(graph):
            wanted[list(part)] = min(part)
        assert torch.equal(row, wanted)


def test_a_path_in_a_bad_order_is_one_component() -> None:
    order = torch.randperm(1000)
    edges = torch.stack([order[:-1], order[1:]], 1)
    found = cluster.components(edges, torch.ones(2, 999, dtype=torch.bool), 1000)
    assert bool((found == 0).all())


@pytest.mark.parametrize("name", MACHINES)
def test_the_gauge_satisfies_all_couplings(name: str) -> None:
    small = MACHINES[name]
    bonds = cluster.read_bonds(small.machine().read())
    spins = cluster.gauge(bonds, "A test")
    assert int(spins[-1]) == 1
    first, second = bonds.edges.unbind(1)
    assert bool((bonds.weight * spins[first] * spins[second] > 0).all())
    x = dict(zip(small.units, spins[:-1].double().split(list(small.sizes.values())), strict=True))
    assert float(small.machine()(x)) == pytest.approx(small.energies.min())


@pytest.mark.parametrize("kind", KERNELS)
def test_frustrated_machines_are_refused(kind: str) -> None:
    small = MACHINES["triangle in fields"]
    weight = small.couplings[V, V].copy()
    weight[0] *= -1
    frustrated = replace(small, couplings={(V, V): weight}).machine()
    with pytest.raises(ValueError, match=r"frustrated.*ParallelTempering"):
        KERNELS[kind].init(frustrated, random_states(frustrated, (2,)))
    # The ghost is no unit.
    triangle = torch.tensor([[0.0, 1, 1], [1, 0, -1], [1, -1, 0]])
    biased = BoltzmannMachine.fully_visible(3, couplings=triangle, biases=torch.ones(3))
    with pytest.raises(ValueError, match="around 3 of the 3 units and the biases"):
        KERNELS[kind].init(biased, random_states(biased, (2,)))
    # A bias alone can frustrate what the couplings do not.
    bias = {V: small.bias[V] * np.array([1.0, 1.0, -1.0])}
    with pytest.raises(ValueError, match="frustrated"):
        KERNELS[kind].init(replace(small, bias=bias).machine(), small.tensors())
    state = KERNELS[kind].init(small.machine(), small.tensors())
    with pytest.raises(ValueError, match="frustrated"):
        KERNELS[kind].refresh(frustrated, state, state.x)


@pytest.mark.parametrize("kind", KERNELS)
def test_other_energies_are_refused(kind: str) -> None:
    real = CallableEnergy(lambda x: x.square().sum(-1), 2)
    with pytest.raises(TypeError, match="machines of bits or spins"):
        KERNELS[kind].init(real, {V: torch.zeros(3, 2)})


def test_refresh_reads_the_couplings_again() -> None:
    small = MACHINES["ring without fields"]
    stronger = replace(small, couplings={k: 2 * v for k, v in small.couplings.items()})
    for kernel in KERNELS.values():
        state = kernel.init(small.machine(), small.tensors())
        new = kernel.refresh(stronger.machine(), state, state.x)
        assert torch.equal(new.bonds.weight, 2 * state.bonds.weight)


def test_runs_tell_the_sizes_of_clusters() -> None:
    free = BoltzmannMachine.on_graph(ring_edges(8).tolist(), couplings=torch.tensor([0.0]))
    bound = BoltzmannMachine.on_graph(ring_edges(8).tolist(), couplings=torch.tensor([20.0]))
    for kernel in KERNELS.values():
        alone = run(kernel, free, 5, warmup=1, chains=3, seed=1)
        assert bool((alone.statistics["cluster_size"] == 1 / 8).all())
        together = run(kernel, bound, 5, warmup=1, initial=torch.ones(3, 8), seed=1)
        assert bool((together.statistics["cluster_size"] == 1).all())
    whole = run(SwendsenWang(), bound, 10, warmup=2, chains=2, seed=3)
    parts = resume(run(SwendsenWang(), bound, 6, warmup=2, chains=2, seed=3), bound, 4)
    assert torch.equal(whole.draws[V], parts.draws[V])


# --- planted faults ------------------------------------------------------------------------------

right_probability, right_components = cluster.bond_probability, cluster.components
FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "half the coupling": (
        "bond_probability",
        lambda spins, bonds: right_probability(spins, bonds._replace(weight=bonds.weight / 2)),
    ),
    "unsatisfied bonds": (
        "bond_probability",
        lambda spins, bonds: (
            -torch.expm1(-2 * bonds.weight.abs()).expand(*spins.shape[:-1], len(bonds.edges))
        ),
    ),
    "biases forgotten": (
        "bond_probability",
        lambda spins, bonds: (
            right_probability(spins, bonds) * (bonds.edges[:, 1] < bonds.nodes - 1)
        ),
    ),
    "the ghost forgotten": (
        "components",
        lambda edges, present, nodes: without_ghost(right_components(edges, present, nodes)),
    ),
}


def without_ghost(root: Tensor) -> Tensor:
    """The ghost stands apart, though its bonds have joined others."""
    root = root.clone()
    root[..., -1] = root.shape[-1] - 1
    return root


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_transition_matrix_finds_a_fault(fault: str, kind: str) -> None:
    name, faulty = FAULTS[fault]
    small = MACHINES["triangle in fields"]
    with (
        mock.patch.object(cluster, "gauge"),
        mock.patch.object(cluster, name, faulty),
    ):
        assert "stationary" in violations(KERNELS[kind], small)
    assert not violations(KERNELS[kind], small)
