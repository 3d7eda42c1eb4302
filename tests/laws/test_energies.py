"""What holds of every machine's energy, against plain loops over its numbers."""

import copy
import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import BoltzmannMachine, Graph, Layer
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Categorical, Spin
from tests.support import checks
from tests.support.machines import (
    BIT,
    ENUMERATED,
    FINITE,
    LEVELS,
    SMALL,
    THREE,
    VH,
    VV,
    H,
    V,
    draw,
    ring_edges,
    stacked,
    star_edges,
    varied,
    width,
)

DTYPES = list(checks.LIMITS)
each_machine = pytest.mark.parametrize("name", FINITE)
each_enumerated = pytest.mark.parametrize("name", ENUMERATED)
each_two_valued = pytest.mark.parametrize("name", SMALL)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_same(found: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- against brute force -------------------------------------------------------------------------


@each_dtype
@each_enumerated
def test_the_energy_is_the_formula_with_its_constant(name: str, dtype: torch.dtype) -> None:
    assert checks.energy_error(ENUMERATED[name], dtype) < checks.LIMITS[dtype]


@each_dtype
@each_enumerated
def test_conditionals_are_ratios_of_weights(name: str, dtype: torch.dtype) -> None:
    assert checks.conditional_error(ENUMERATED[name], dtype) < checks.LIMITS[dtype]


@each_dtype
@each_enumerated
def test_free_energies_sum_the_other_sites_out(name: str, dtype: torch.dtype) -> None:
    small = ENUMERATED[name]
    assert checks.summable(small)
    assert checks.free_energy_error(small, dtype) < checks.LIMITS[dtype]


@each_machine
def test_a_free_energy_without_a_closed_form_is_refused(name: str) -> None:
    small, machine = FINITE[name], FINITE[name].machine()
    possible = checks.summable(small)
    x = small.tensors()
    for k in range(1, len(small.units) + 1):
        for sites in itertools.combinations(small.units, k):
            if sites not in possible:
                with pytest.raises(ValueError, match=r"no closed form.*coupled.*mean-field"):
                    machine.free_energy({site: x[site] for site in sites})


@each_machine
def test_the_field_is_the_difference_between_the_levels(name: str) -> None:
    small, machine = FINITE[name], FINITE[name].machine()
    x = small.tensors()
    for site, unit in small.units.items():
        first, *others = LEVELS[unit]
        q = width(unit)
        field = machine.field(site, x).unflatten(-1, (-1, q))
        for i, (a, level) in itertools.product(range(small.sizes[site]), enumerate(others, 1)):
            up, down = ({**x, site: x[site].clone()} for _ in range(2))
            up[site][:, i], down[site][:, i] = level, first
            own = field[:, i, 0] * (level - first) if q == 1 else field[:, i, a] - field[:, i, 0]
            assert_same(own, machine(down) - machine(up))


@each_machine
def test_blocks_cover_each_unit_once_and_hold_no_coupled_pair(name: str) -> None:
    small, machine = FINITE[name], FINITE[name].machine()
    matrix = machine.read().matrix()
    start = 0
    for site, size in small.sizes.items():
        blocks = [torch.arange(size)[block] for block in machine.blocks(site)]
        assert sorted(torch.cat(blocks).tolist()) == list(range(size))
        for block in blocks:
            q = width(small.units[site])
            units = (start + block[:, None] * q + torch.arange(q)).flatten()
            assert float(matrix[units[:, None], units].abs().sum()) == 0
        start += size * width(small.units[site])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("torus", 4),
        ("bipartite lattice", 2),
        ("bits on a ring", 3),
        ("fully visible bits", 6),
        ("restricted", 1),
        ("fully visible labels", 4),
        ("Potts restricted", 1),
    ],
)
def test_blocks_are_the_whole_layer_its_colours_or_its_units(name: str, count: int) -> None:
    assert len(FINITE[name].machine().blocks("visible")) == count


@each_machine
def test_the_matrix_of_all_couplings_is_symmetric_without_a_diagonal(name: str) -> None:
    small = FINITE[name]
    terms = small.machine().read()
    matrix = terms.matrix()
    assert torch.equal(matrix, matrix.mT)
    assert float(matrix.diagonal().abs().sum()) == 0
    flat = torch.tensor(small.flat_features)
    bias = torch.cat(list(terms.biases.values()))
    energy = terms.constant - flat @ bias - ((flat @ matrix) * flat).sum(-1) / 2
    assert_same(energy, torch.tensor(small.energies))


def test_a_unit_with_many_neighbours_has_the_field_of_all_of_them() -> None:
    for leaves in (64, 65, 200):
        small = draw("star", {"visible": (Spin(), leaves + 1)}, edges={VV: star_edges(leaves)})
        machine = small.machine()
        x = checks.random_states(machine, (3,))
        weight, bias = torch.tensor(small.couplings[VV]), torch.tensor(small.bias["visible"])
        visible = x["visible"]
        wanted = torch.cat([(visible[:, 1:] @ weight)[:, None], visible[:, :1] * weight], -1)
        assert_same(machine.field("visible", x), bias + wanted)
        (leaf_block,) = [b for b in machine.blocks("visible") if len(b) > 1]
        assert sorted(leaf_block.tolist()) == list(range(1, leaves + 1))


# --- batches -------------------------------------------------------------------------------------


@each_machine
def test_any_batch_shape_gives_one_energy_for_each_element(name: str) -> None:
    machine = FINITE[name].machine()
    for batch in ((), (2,), (2, 3), (1, 1, 4), (0,)):
        x = checks.random_states(machine, batch)
        energy = machine(x)
        assert energy.shape == batch
        rows = {site: value.reshape(-1, value.shape[-1]) for site, value in x.items()}
        alone = [float(machine({s: v[k] for s, v in rows.items()})) for k in range(energy.numel())]
        assert_same(energy.reshape(-1), torch.tensor(alone, dtype=torch.float64))
        for site in machine.sites:
            layer = machine.layers[site]
            assert machine.field(site, x).shape == (*batch, layer.size * layer.unit.width)
            for block in machine.blocks(site):
                law = machine.conditional(site, x, block)
                assert law.batch_shape == x[site][..., block].shape
        for sites in checks.summable(FINITE[name]):
            assert machine.free_energy({site: x[site] for site in sites}).shape == batch


@each_machine
def test_sites_with_different_batch_shapes_broadcast(name: str) -> None:
    machine = FINITE[name].machine()
    shapes = itertools.cycle([(2, 1), (1, 2), (2,), ()])
    x = {}
    for site, shape in zip(machine.sites, shapes, strict=False):
        x[site] = checks.random_states(machine, shape)[site]
    whole = torch.broadcast_shapes(*(value.shape[:-1] for value in x.values()))
    spread = {site: value.expand(*whole, -1) for site, value in x.items()}
    assert_same(machine(x), machine(spread))


@each_machine
def test_parameters_with_a_batch_are_one_machine_for_each_element(name: str) -> None:
    one = FINITE[name]
    rng = np.random.default_rng(7)
    machines = [one, varied(one, rng), varied(one, rng)]
    together = stacked(machines).machine()
    for batch in ((), (4, 1), (4, 3)):
        x = checks.random_states(together, batch)
        whole = (*batch[:-1], 3)
        spread = {site: value.expand(*whole, -1) for site, value in x.items()}
        energy = together(x)
        assert energy.shape == whole
        for m, small in enumerate(machines):
            alone, mine = small.machine(), {s: v[..., m, :] for s, v in spread.items()}
            assert_same(energy[..., m], alone(mine))
            for site in one.units:
                assert_same(together.field(site, x)[..., m, :], alone.field(site, mine))
                for block in alone.blocks(site):
                    found = together.conditional(site, x, block)
                    wanted = alone.conditional(site, mine, block)
                    for level in LEVELS[one.units[site]]:
                        value = torch.full((), level, dtype=torch.float64)
                        p = found.log_prob(value).expand(*whole, -1)[..., m, :]
                        assert_same(p, wanted.log_prob(value))
            for sites in checks.summable(one):
                found = together.free_energy({s: x[s] for s in sites})
                wanted = alone.free_energy({s: mine[s] for s in sites})
                assert_same(found[..., m], wanted)
    log_z = torch.tensor([small.log_partition for small in machines], dtype=torch.float64)
    assert_same(exact.log_partition(together), log_z, 1e-10)


# --- the same, differently -----------------------------------------------------------------------


@each_two_valued
def test_bits_as_spins_and_spins_as_bits_keep_every_energy(name: str) -> None:
    small, machine = FINITE[name], FINITE[name].machine()
    as_bits = {site: (value > 0).double() for site, value in small.tensors().items()}
    as_spins = {site: 2 * value - 1 for site, value in as_bits.items()}
    assert all(isinstance(layer.unit, Spin) for layer in machine.to_spins().layers.values())
    assert all(isinstance(layer.unit, Bernoulli) for layer in machine.to_bits().layers.values())
    energies = torch.tensor(small.energies)
    assert_same(machine.to_spins()(as_spins), energies)
    assert_same(machine.to_bits()(as_bits), energies)
    assert_same(machine.to_spins().to_bits()(as_bits), energies)
    assert_same(machine.to_bits().to_spins()(as_spins), energies)


@pytest.mark.parametrize("name", ["labels and bits", "labels, spins and bits"])
def test_labels_stay_what_they_are_among_bits_that_become_spins(name: str) -> None:
    small, machine = FINITE[name], FINITE[name].machine()
    for other, kind in ((machine.to_spins(), Spin), (machine.to_bits(), Bernoulli)):
        x = {}
        for site, value in small.tensors().items():
            if small.units[site] == THREE:
                x[site] = value
                assert other.layers[site].unit == THREE
            else:
                x[site] = (value > 0) * 2.0 - 1 if kind is Spin else (value > 0).double()
                assert isinstance(other.layers[site].unit, kind)
        assert_same(other(x), torch.tensor(small.energies))


@each_machine
def test_the_joined_machine_keeps_every_energy(name: str) -> None:
    small, machine = FINITE[name], FINITE[name].machine()
    if len(set(small.units.values())) > 1:
        with pytest.raises(ValueError, match="different kinds"):
            machine.joined()
        if any(width(unit) > 1 for unit in small.units.values()):
            return
        machine = machine.to_spins()
        small = replace(small, units=dict.fromkeys(small.units, Spin()))
    joined = machine.joined()
    assert list(joined.sites) == ["visible"]
    assert_same(joined(torch.tensor(small.flat_states)), torch.tensor(FINITE[name].energies))


@each_machine
def test_renumbering_the_units_changes_no_energy(name: str) -> None:
    small, rng = FINITE[name], np.random.default_rng(3)
    order = {site: rng.permutation(size) for site, size in small.sizes.items()}
    rows = {
        site: (o[:, None] * width(small.units[site]) + np.arange(width(small.units[site]))).ravel()
        for site, o in order.items()
    }
    place = {site: np.argsort(o) for site, o in order.items()}
    renumbered = replace(
        small,
        bias={site: b[rows[site]] for site, b in small.bias.items()},
        offset={site: o[rows[site]] for site, o in small.offset.items()},
        couplings={
            pair: w if pair in small.edges else w[np.ix_(rows[pair[0]], rows[pair[1]])]
            for pair, w in small.couplings.items()
        },
        edges={
            pair: np.stack([place[pair[k]][edges[:, k]] for k in range(2)], -1)
            for pair, edges in small.edges.items()
        },
    )
    x = {site: value[:, order[site]] for site, value in small.tensors().items()}
    assert_same(renumbered.machine()(x), torch.tensor(small.energies))


def test_renaming_the_labels_changes_no_energy() -> None:
    small, rng = FINITE["fully visible labels"], np.random.default_rng(4)
    names = np.stack([rng.permutation(3) for _ in range(4)])  # of the labels of each unit
    new = (3 * np.arange(4)[:, None] + np.argsort(names, 1)).ravel()
    renamed = replace(
        small,
        bias={V: small.bias[V][new]},
        offset={V: small.offset[V][new]},
        couplings={VV: small.couplings[VV][np.ix_(new, new)]},
    )
    x = torch.tensor(names[np.arange(4), small.states[V].astype(int)]).double()
    assert_same(renamed.machine()(x), torch.tensor(small.energies))


def test_two_labels_are_a_bit_and_one_more_number_to_each_label_is_nothing() -> None:
    # T = (1 − x, x): every energy, with the constant.
    bits = draw("bits", {V: (BIT, 3), H: (BIT, 2)}, [VH, VV], any_square=True)
    pair = np.array([[0.0, 1.0]])
    machine = BoltzmannMachine(
        {
            site: Layer(
                Categorical(2), len(bias), bias=torch.tensor(np.kron(bias[:, None], pair)).flatten()
            )
            for site, bias in bits.bias.items()
        },
        {ends: torch.tensor(np.kron(w, pair.T @ pair)) for ends, w in bits.couplings.items()},
    )
    assert_same(machine(bits.tensors()), torch.tensor(bits.energies))
    labels = FINITE["Potts restricted"]
    more = np.repeat([0.3, -0.8, 1.1], 3)
    shifted = replace(labels, bias={**labels.bias, V: labels.bias[V] + more})
    assert_same(shifted.machine()(labels.tensors()), torch.tensor(labels.energies - 0.6))
    found = exact.moments(shifted.machine()).second
    torch.testing.assert_close(found, exact.moments(labels.machine()).second)


@pytest.mark.parametrize("name", ["fully visible spins", "torus", "one shared coupling"])
def test_without_biases_all_spins_may_be_turned(name: str) -> None:
    small = replace(FINITE[name], bias={k: 0 * v for k, v in FINITE[name].bias.items()})
    machine = small.machine()
    x = small.tensors()
    assert_same(machine(x), machine({site: -value for site, value in x.items()}))
    assert float(exact.moments(machine).mean["visible"].abs().max()) < 1e-12


def test_couplings_may_be_named_from_either_end() -> None:
    small = SMALL["restricted"]
    turned = replace(
        small,
        couplings={("hidden", "visible"): small.couplings[("visible", "hidden")].T},
        build=None,
    )
    assert checks.energy_error(turned) < 1e-12
    assert checks.conditional_error(turned) < 1e-12
    assert checks.gradient_error(turned) < 1e-12


def test_an_energy_of_one_site_takes_a_bare_tensor() -> None:
    small = SMALL["fully visible bits"]
    x = small.tensors()["visible"]
    assert_same(small.machine()(x), torch.tensor(small.energies))
    machine = SMALL["restricted"].machine()
    visible = checks.random_states(machine, (5,))["visible"]
    assert_same(machine.free_energy(visible), machine.free_energy({"visible": visible}))


# --- gradients -----------------------------------------------------------------------------------


@each_machine
def test_the_closed_form_gradient_is_that_of_autograd(name: str) -> None:
    assert checks.gradient_error(FINITE[name]) < 1e-12


@each_machine
def test_numerical_differences_confirm_the_gradient_of_log_z(name: str) -> None:
    small = FINITE[name]
    machine = small.machine(wrap=nn.Parameter)
    parameters = dict(machine.named_parameters())

    def log_z(*values: Tensor) -> Tensor:
        with_values = torch.func.functional_call
        given = dict(zip(parameters, values, strict=True))
        return with_values(OfMachine(machine), {f"machine.{k}": v for k, v in given.items()}, ())

    values = tuple(p.detach().clone().requires_grad_() for p in parameters.values())
    assert torch.autograd.gradcheck(log_z, values)


class OfMachine(nn.Module):
    """log Z as a module's call."""

    def __init__(self, machine: BoltzmannMachine) -> None:
        super().__init__()
        self.machine = machine

    def forward(self) -> Tensor:
        return exact.log_partition(self.machine)


@each_machine
def test_given_tensors_keep_their_history(name: str) -> None:
    small = FINITE[name]
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    machine = small.machine(wrap=lambda value: scale * value)
    assert not list(machine.parameters())
    (gradient,) = torch.autograd.grad(machine(small.tensors()).sum(), scale, retain_graph=True)
    # E is linear in the parameters, and here all of them are proportional to the scale.
    assert float(gradient) == pytest.approx(small.energies.sum(), rel=1e-12)
    (gradient,) = torch.autograd.grad(exact.log_partition(machine), scale)
    assert float(gradient) == pytest.approx(-small.probabilities @ small.energies, rel=1e-10)


@each_machine
def test_what_is_learned_are_the_biases_and_the_couplings(name: str) -> None:
    small = FINITE[name]
    machine = small.machine(wrap=nn.Parameter)
    numbers = sum(p.numel() for p in machine.parameters())
    given = [*small.bias.values(), *small.couplings.values()]
    assert numbers == sum(value.size for value in given)
    machine(small.tensors()).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in machine.parameters())
    assert not list(small.machine().parameters())  # plain tensors are given, and not learned


@each_machine
def test_a_machine_without_given_numbers_learns_all_of_them(name: str) -> None:
    small = FINITE[name]
    sizes = {site: Layer(unit, small.sizes[site]) for site, unit in small.units.items()}
    graphs = {pair: Graph(torch.tensor(edges)) for pair, edges in small.edges.items()}
    machine = BoltzmannMachine(sizes, {pair: graphs.get(pair) for pair in small.couplings})
    assert machine.dtype == torch.float32
    assert len(list(machine.parameters())) == len(small.units) + len(small.couplings)
    assert bool((machine(checks.random_states(machine, (3,))).abs() < 1).all())  # a weak start


# --- as a module ---------------------------------------------------------------------------------


@each_machine
def test_a_state_dict_carries_everything(name: str) -> None:
    small = FINITE[name]
    first = small.machine(wrap=nn.Parameter)
    second = replace(
        small,
        bias={k: 0 * v for k, v in small.bias.items()},
        couplings={k: 0 * v for k, v in small.couplings.items()},
        offset={k: 0 * v for k, v in small.offset.items()},
    ).machine(wrap=nn.Parameter)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(small.tensors()), first(small.tensors()))


@each_machine
def test_copies_are_equal_and_independent(name: str) -> None:
    small = FINITE[name]
    for wrap in (nn.Parameter, lambda value: value):
        machine = small.machine(wrap=wrap)
        wanted = machine(small.tensors())
        for other in (copy.deepcopy(machine), pickle.loads(pickle.dumps(machine))):
            assert torch.equal(other(small.tensors()), wanted)
            with torch.no_grad():
                next(iter(other.layers.values())).bias += 1
            assert torch.equal(machine(small.tensors()), wanted)


@each_machine
def test_a_machine_moves_to_another_dtype(name: str) -> None:
    small = FINITE[name]
    machine = small.machine(torch.float32, wrap=nn.Parameter).to(torch.float64)
    assert machine.dtype == torch.float64
    energy = machine(small.tensors())
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy, torch.tensor(small.energies), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_graphs_of_every_kind_make_the_same_machine(shared: bool) -> None:
    nx = pytest.importorskip("networkx")
    edges = ring_edges(6)
    graph = nx.Graph()
    graph.add_nodes_from(range(6))
    graph.add_edges_from(edges.tolist())
    numbered = torch.tensor([tuple(e) for e in graph.edges()])
    weight = torch.tensor([0.7] if shared else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    x = 2 * torch.randint(0, 2, (9, 6)).float() - 1
    machines = [
        BoltzmannMachine.on_graph(kind, couplings=weight)
        for kind in (graph, numbered, [tuple(e) for e in numbered.tolist()])
    ]
    wanted = -(x[:, numbered[:, 0]] * x[:, numbered[:, 1]] * weight).sum(-1)
    for machine in machines:
        assert_same(machine(x), wanted, 1e-6)


def test_a_graph_may_have_units_without_neighbours_and_no_edges_at_all() -> None:
    lonely = BoltzmannMachine.on_graph([(0, 1)], 4, couplings=torch.tensor([0.5]))
    assert lonely.layers["visible"].size == 4
    assert sum(len(block) for block in lonely.blocks("visible")) == 4
    none = BoltzmannMachine.on_graph(torch.zeros(0, 2, dtype=torch.int64), 3)
    assert none(torch.ones(3)).tolist() == 0
