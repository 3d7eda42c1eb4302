"""The exact sums: against brute force, against each other, and against known answers."""

import copy
import itertools
import math
import resource
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.energies import BoltzmannMachine, Energy, Structure, WithoutTerms
from pyro_ebm.partition import exact
from pyro_ebm.partition.sums import enumeration, pairwise as machines, split
from pyro_ebm.sites import Site, Sites
from pyro_ebm.units import Bernoulli, Gaussian, Spin
from tests.support import checks
from tests.support.goodness import ALPHA, CHAINS, chi_square, counts_of
from tests.support.machines import (
    ENUMERATED,
    LABELS,
    LEVELS,
    OWN,
    SMALL,
    VV,
    draw,
    lattice_edges,
    ring_edges,
    stacked,
    varied,
)

each_machine = pytest.mark.parametrize("name", ENUMERATED)

# 16 units, which brute force can still do.
LARGER = {
    "dense": draw("dense 16", {"visible": (Bernoulli(), 16)}, [VV], any_square=True),
    "restricted": draw(
        "restricted 16",
        {"visible": (Bernoulli(), 9), "hidden": (Spin(), 7)},
        [("visible", "hidden")],
    ),
    "general": draw(
        "general 15",
        {"visible": (Spin(), 8), "hidden": (Bernoulli(), 7)},
        [("visible", "hidden"), VV, ("hidden", "hidden")],
        offsets=True,
    ),
}


@each_machine
def test_log_z_is_that_of_brute_force_by_every_way(name: str) -> None:
    assert checks.log_partition_error(ENUMERATED[name]) < 1e-12


@each_machine
def test_moments_are_those_of_brute_force_by_every_way(name: str) -> None:
    assert checks.moment_error(ENUMERATED[name]) < 1e-12


@each_machine
def test_probabilities_of_any_sites_are_those_of_brute_force(name: str) -> None:
    assert checks.log_prob_error(ENUMERATED[name]) < 1e-12


@each_machine
def test_the_gradient_of_log_z_is_minus_the_expected_gradient_of_the_energy(name: str) -> None:
    assert checks.log_partition_gradient_error(ENUMERATED[name]) < 1e-12


@pytest.mark.parametrize("name", LARGER)
def test_sixteen_units_agree_with_brute_force(name: str) -> None:
    small = LARGER[name]
    assert checks.log_partition_error(small) < 1e-10
    assert checks.moment_error(small) < 1e-10
    assert checks.log_partition_gradient_error(small) < 1e-10


@each_machine
def test_states_are_all_states_once_with_the_last_unit_fastest(name: str) -> None:
    small = ENUMERATED[name]
    found = exact.states(small.machine())
    for site, value in small.states.items():
        assert torch.equal(found[site], torch.tensor(value))
    first = next(iter(small.units))
    (some,) = exact.states(small.machine(torch.float32), [first]).values()
    assert some.dtype == torch.float32
    assert len(some) == len(LEVELS[small.units[first]]) ** small.sizes[first]
    assert len(some.unique(dim=0)) == len(some)


@each_machine
def test_exact_draws_follow_the_law_by_every_way(name: str) -> None:
    # α = 1e-6, N = 20,000: the smallest fault found is that of test_exact_starts.py.
    small = ENUMERATED[name]
    machine = small.machine()
    terms = machine.read().to(torch.float64)
    draws = [exact.sample(machine, CHAINS, seed=4)]
    every = tuple(small.units)
    draws.append(enumeration.sample(terms, every, CHAINS))
    if checks.can_be_split(small):
        draws.append(split.sample(terms, CHAINS))
    for x in draws:
        assert chi_square(counts_of(x, small), small.probabilities) > ALPHA


def test_exact_draws_are_those_of_their_seed_and_leave_the_generator_alone() -> None:
    machine = SMALL["general"].machine(torch.float32)
    before = torch.get_rng_state()
    first, again, other = (exact.sample(machine, 50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.dtype == torch.float32 for value in first.values())
    assert all(torch.equal(first[site], again[site]) for site in first)
    assert any(not torch.equal(first[site], other[site]) for site in first)
    torch.manual_seed(3)
    third = exact.sample(machine, 50)
    torch.manual_seed(3)
    assert all(torch.equal(v, third[s]) for s, v in exact.sample(machine, 50).items())


# --- known answers -------------------------------------------------------------------------------


def test_without_couplings_log_z_is_a_sum_over_the_units() -> None:
    bias = torch.linspace(-3, 3, 25, dtype=torch.float64)
    for unit, wanted in ((Bernoulli(), (1 + bias.exp()).log()), (Spin(), (2 * bias.cosh()).log())):
        machine = BoltzmannMachine.fully_visible(
            25, unit=unit, couplings=torch.zeros(25, 25, dtype=torch.float64), biases=bias
        )
        assert float(exact.log_partition(machine)) == pytest.approx(float(wanted.sum()), rel=1e-12)


def test_one_and_two_units_are_right_by_hand() -> None:
    one = BoltzmannMachine.fully_visible(1, biases=torch.tensor([0.5]), couplings=torch.zeros(1, 1))
    assert float(exact.log_partition(one)) == pytest.approx(math.log(1 + math.exp(0.5)), rel=1e-7)
    weight = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    two = BoltzmannMachine.fully_visible(2, biases=torch.tensor([0.5, -1.0]), couplings=weight)
    by_hand = math.log(1 + math.exp(0.5) + math.exp(-1) + math.exp(1.5))
    assert float(exact.log_partition(two)) == pytest.approx(by_hand, rel=1e-7)
    means = exact.moments(two).mean["visible"]
    assert float(means[0]) == pytest.approx(
        (math.exp(0.5) + math.exp(1.5)) / math.exp(by_hand), rel=1e-6
    )


@pytest.mark.parametrize("n", [3, 10, 24])
def test_a_ring_of_spins_has_the_log_z_of_its_transfer_matrix(n: int) -> None:
    coupling, field = 0.7, 0.3
    spins = np.array([-1.0, 1.0])
    transfer = np.exp(
        coupling * np.outer(spins, spins) + field * (spins[:, None] + spins[None]) / 2
    )
    wanted = math.log((np.linalg.eigvalsh(transfer) ** n).sum())
    machine = BoltzmannMachine.on_graph(
        torch.tensor(ring_edges(n)),
        couplings=torch.tensor([coupling], dtype=torch.float64),
        biases=torch.full((n,), field, dtype=torch.float64),
    )
    assert float(exact.log_partition(machine)) == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("beta", [0.2, 0.44, 1.0])
def test_a_torus_of_spins_has_the_log_z_of_its_transfer_matrix(beta: float) -> None:
    rows = columns = 4
    row = np.array(list(itertools.product([-1.0, 1.0], repeat=columns)))
    inside = (row * np.roll(row, 1, 1)).sum(1)
    transfer = np.exp(beta * (row @ row.T + (inside[:, None] + inside[None]) / 2))
    wanted = math.log(np.trace(np.linalg.matrix_power(transfer, rows)))
    machine = BoltzmannMachine.on_graph(
        torch.tensor(lattice_edges(rows, columns, periodic=True)),
        couplings=torch.tensor([beta], dtype=torch.float64, requires_grad=True),
    )
    log_z = exact.log_partition(machine)
    assert float(log_z.detach()) == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("beta", [1.0, 10.0, 100.0, 10_000.0])
def test_strong_couplings_cost_no_more_digits_than_the_energies_do(beta: float) -> None:
    glass = draw(f"glass {beta}", {"visible": (Spin(), 15)}, [VV], scale=beta)
    assert checks.log_partition_error(glass) < 1e-12
    # Energies of 1e5 are known to 1e-11, and so are the weights.
    assert checks.moment_error(glass) < 1e-10
    assert checks.log_partition_gradient_error(glass) < 1e-10


def test_a_strong_glass_of_eighteen_spins_is_summed_by_logarithms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glass = draw("glass of 18", {"visible": (Spin(), 18)}, [VV], scale=2000.0)
    terms = glass.machine().read()
    calls = []
    by_logarithms = split.log_sums_by_logarithms

    def counted(table: split.Split) -> Tensor:
        calls.append(table)
        return by_logarithms(table)

    monkeypatch.setattr(split, "log_sums_by_logarithms", counted)
    wanted = float(enumeration.log_partition(terms, ("visible",)))
    assert float(split.log_partition(terms)) == pytest.approx(wanted, rel=1e-13)
    weak = draw("weak glass of 18", {"visible": (Spin(), 18)}, [VV], scale=1.0)
    strong = len(calls)
    split.log_partition(weak.machine().read())
    assert strong == 1
    assert len(calls) == 1  # the weak one was certified
    monkeypatch.setattr(split, "MAX_LOG_SUM_STATES", 2**17)
    with pytest.raises(exact.TooManyStatesError, match=r"underflow.*2\.62e\+05.*1\.31e\+05"):
        split.log_partition(terms)


def test_thirty_dense_units_take_little_memory() -> None:
    dense = draw("dense 30", {"visible": (Bernoulli(), 30)}, [VV], scale=0.3)
    machine = dense.machine(wrap=nn.Parameter)
    exact.log_partition(SMALL["general"].machine(wrap=nn.Parameter)).backward()  # loads libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log_z = exact.log_partition(machine)
    log_z.backward()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    # Its states would take 8 GiB for one number each.
    assert grown < 4 * machines.split_bytes(30) < 2**29
    # The bias's gradient is the mean.
    means = machine.layers["visible"].bias.grad
    moments = exact.moments(machine)
    torch.testing.assert_close(means, moments.mean["visible"], rtol=1e-10, atol=1e-10)
    x = exact.sample(machine, 3, seed=0)
    assert bool((exact.log_prob(machine, x) <= 0).all())
    torch.testing.assert_close(
        exact.log_prob(machine, x).detach(), -(machine(x) + log_z).detach(), rtol=1e-12, atol=1e-12
    )


def test_every_group_of_a_batch_of_machines_is_summed_on_its_own() -> None:
    rng = np.random.default_rng(0)
    names = ("restricted", "general", "fully visible spins", "torus", "two values of their own")
    for name in (*names, "counts and bits", "counts on a ring", *LABELS):
        machines = [ENUMERATED[name], *(varied(ENUMERATED[name], rng) for _ in range(2))]
        found = exact.log_partition(stacked(machines).machine())
        wanted = torch.tensor([m.log_partition for m in machines], dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=0)
        together, alone = (
            [exact.moments(m.machine()) for m in group] for group in ([stacked(machines)], machines)
        )
        wanted = torch.stack([moments.second for moments in alone])
        torch.testing.assert_close(together[0].second, wanted, rtol=0, atol=1e-12)
        assert exact.sample(stacked(machines).machine(), 4).keys() == together[0].mean.keys()


def test_blocks_of_states_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration, "BLOCK_ELEMENTS", 100)
    for name in ("restricted", "fully visible bits", "deep", "bits and spins", *LABELS, *OWN):
        assert checks.log_partition_error(ENUMERATED[name]) < 1e-12
        assert checks.moment_error(ENUMERATED[name]) < 1e-12
        assert checks.log_partition_gradient_error(ENUMERATED[name]) < 1e-12
        assert checks.log_prob_error(ENUMERATED[name]) < 1e-12


def test_float32_parameters_are_summed_in_float64() -> None:
    machine = SMALL["general"].machine(torch.float32, wrap=nn.Parameter)
    log_z = exact.log_partition(machine)
    assert log_z.dtype == torch.float64
    log_z.backward()
    assert machine.layers["visible"].bias.grad.dtype == torch.float32
    same = SMALL["general"].machine(torch.float32).to(torch.float64)
    assert float(log_z.detach()) == pytest.approx(float(exact.log_partition(same)), rel=1e-14)


def test_an_empty_batch_has_no_probabilities() -> None:
    machine = SMALL["general"].machine()
    empty = {site: value[:0] for site, value in SMALL["general"].tensors().items()}
    assert exact.log_prob(machine, empty).shape == (0,)
    assert exact.log_prob(machine, {"visible": empty["visible"]}).shape == (0,)


# --- too large, or not a machine -----------------------------------------------------------------


def test_too_many_states_are_refused_with_what_it_would_take() -> None:
    large = BoltzmannMachine.restricted(100, 60)
    for ask in (exact.log_partition, exact.moments, lambda m: exact.sample(m, 3)):
        with pytest.raises(
            exact.TooManyStatesError, match=r"1\.15e\+18 states.*bytes.*only be estimated"
        ):
            ask(large)
    with pytest.raises(exact.TooManyStatesError, match="hidden"):
        exact.states(large, ["hidden"])
    dense = BoltzmannMachine.fully_visible(60)
    with pytest.raises(exact.TooManyStatesError, match=r"1\.15e\+18 states"):
        exact.log_partition(dense)
    assert exact.seconds(dense) == math.inf
    assert exact.seconds(BoltzmannMachine.restricted(784, 12)) < 1


def test_the_layers_that_are_cheapest_to_enumerate_are_chosen() -> None:
    way = machines.cheapest(BoltzmannMachine.restricted(60, 8).read())
    assert isinstance(way, machines.EnumeratedSum)
    assert (way.enumerated, way.states) == (("hidden",), 2**8)
    deep = BoltzmannMachine.deep([40, 8, 40])
    way = machines.cheapest(deep.read())
    assert isinstance(way, machines.EnumeratedSum)
    assert way.enumerated == ("hidden1",)
    dense = BoltzmannMachine.fully_visible(24)
    assert isinstance(machines.cheapest(dense.read()), machines.SplitSum)


class Quadratic(Energy):
    """An energy without structure, of a real site."""

    sites: ClassVar = {"x": Site(constraints.real, torch.Size([2]))}
    dtype, device = torch.float32, torch.device("cpu")

    def evaluate(self, x: Sites) -> Tensor:
        return x["x"].square().sum(-1)

    def structure(self) -> Structure:
        return WithoutTerms(self)


def test_real_sites_without_structure_are_refused() -> None:
    for ask in (exact.log_partition, exact.moments, lambda e: exact.sample(e, 3)):
        with pytest.raises(TypeError, match=r"Quadratic the sites \['x'\] have infinitely many"):
            ask(Quadratic())
    with pytest.raises(TypeError, match="'x' has no finite states"):
        exact.states(Quadratic())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_half_the_digits_are_summed_in_float64(dtype: torch.dtype) -> None:
    for name in ("restricted", "general bits and labels", "torus"):
        half = ENUMERATED[name].machine().to(dtype)
        wide = copy.deepcopy(half).double()
        assert checks.distance(exact.log_partition(half), exact.log_partition(wide)) < 1e-12
        assert checks.distance(exact.moments(half).second, exact.moments(wide).second) < 1e-12
        assert all(value.dtype == dtype for value in exact.sample(half, 2).values())
    weight = torch.tensor([[0, 0.5], [0.5, 0]], dtype=dtype)
    with pytest.raises(TypeError, match=r"float32 or float64, for example .*\.float"):
        BoltzmannMachine.fully_visible(2, unit=Gaussian(), couplings=weight)
