"""The values of supports, and what goes by them: cures at the door, choices, sums, descents."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Graph,
    Layer,
    RandomField,
    TableFactors,
)
from pyro_ebm.kernels import (
    Cycle,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    RandomBlocks,
    SwendsenWang,
    choose_kernel,
    run,
)
from pyro_ebm.kernels.discrete.alphabets import ListedLevels, TwoValued
from pyro_ebm.kernels.discrete.integer_walk import IntegerWalk
from pyro_ebm.minima import descend, mode
from pyro_ebm.partition import exact
from pyro_ebm.sites import (
    ListedValues,
    Site,
    boolean,
    describe,
    levels_of,
    random_values,
    spin,
    storage_dtype,
    units_of,
)
from pyro_ebm.units import Bernoulli, Spin, Unit
from tests.support.finite import Table, values_of
from tests.support.listed_unit import binomial

MIXED = constraints.integer_interval(torch.tensor([0, -1, 2]), torch.tensor([1, 1, 2]))
SITES = {
    "bits": Site(boolean, torch.Size([2, 2])),
    "a bit": Site(boolean, torch.Size([])),
    "spins": Site(spin, torch.Size([3])),
    "labels": Site(constraints.integer_interval(0, 3), torch.Size([2])),
    "mixed labels": Site(MIXED, torch.Size([3])),
    "one-hot": Site(constraints.one_hot, torch.Size([2, 3])),
    "listed": Site(ListedValues(torch.tensor([-0.5, 2.0, 3.25])), torch.Size([2])),
    "listed pairs": Site(ListedValues(torch.tensor([[0.0, 1.0], [2.0, 0.5]])), torch.Size([3, 2])),
}


@pytest.mark.parametrize("name", SITES)
def test_the_levels_of_a_site_are_the_values_that_its_support_accepts(name: str) -> None:
    site = SITES[name]
    levels = levels_of(site)
    assert levels is not None
    assert len(levels) == units_of(site)
    every = torch.stack([torch.stack(row) for row in itertools.product(*levels)])
    every = every.reshape(-1, *site.shape)
    assert bool(site.support.check(every).all())
    if "listed" not in name:
        assert sorted(map(str, every.tolist())) == sorted(
            map(str, values_of(site, torch.float64).tolist())
        )
    # Random values are scattered over all of them: 4,000 miss one of 81 with probability 1e-20.
    torch.manual_seed(0)
    found = random_values(site, (4000,), torch.empty((), dtype=torch.float64))
    assert {str(x) for x in found.tolist()} == {str(x) for x in every.tolist()}


def test_what_cannot_be_listed_has_no_levels() -> None:
    for support in (constraints.real, constraints.nonnegative_integer, constraints.simplex):
        assert levels_of(Site(support, torch.Size([2]))) is None
    # The bounds of integers whose own are not known; their list would take 34 GB.
    whole = constraints.integer_interval(-(2**31), 2**31 - 1)
    assert levels_of(Site(whole, torch.Size([2]))) is None
    energy = CallableEnergy(lambda n: n.square().sum(-1), {"n": Site(whole, torch.Size([2]))})
    assert isinstance(choose_kernel(energy), IntegerWalk)
    with pytest.raises(ValueError, match=r"'n' is \{-2147483648, …, 2147483647\}"):
        RandomBlocks().init(energy, {"n": torch.zeros(3, 2)})


def test_values_that_are_not_whole_are_kept_as_they_are() -> None:
    assert storage_dtype(boolean) == storage_dtype(spin) == torch.int8
    assert storage_dtype(constraints.integer_interval(0, 300)) == torch.int16
    assert storage_dtype(constraints.nonnegative_integer) == torch.int64
    assert storage_dtype(constraints.real) is None
    halves = Site(ListedValues(torch.tensor([-0.5, 0.5])), torch.Size([2]))
    assert storage_dtype(halves.support) is None
    energy = CallableEnergy(lambda x: x.sum(-1), {"x": halves})
    draws = run(RandomBlocks(size=1), energy, 40, warmup=5, chains=2, seed=0).draws["x"]
    assert set(draws.unique().tolist()) == {-0.5, 0.5}
    assert describe(halves.support) == "one of [-0.5, 0.5]"


# --- at the door ---------------------------------------------------------------------------------
KINDS: dict[str, Callable[[list[list[int]]], Any]] = {
    **{f"torch {d}": lambda x, d=d: torch.tensor(x, dtype=d) for d in (torch.uint8, torch.bool)},
    **{f"torch {d}": lambda x, d=d: torch.tensor(x, dtype=d) for d in (torch.int8, torch.int64)},
    **{f"torch {d}": lambda x, d=d: torch.tensor(x, dtype=d) for d in (torch.half, torch.double)},
    **{f"numpy {d}": lambda x, d=d: np.array(x, dtype=d) for d in ("uint8", "bool", "int8")},
    **{f"numpy {d}": lambda x, d=d: np.array(x, dtype=d) for d in ("uint16", "int64", "float32")},
}


def cured(message: str, x: Any) -> Any:
    """The values, once what the message says is done to them."""
    (formula,) = re.findall(r"use (.+?), or a layer", message)
    return eval(formula, {"x": x})


@pytest.mark.parametrize("kind", KINDS)
def test_the_cure_for_bits_given_to_spins_works(kind: str) -> None:
    bits = [[0, 1, 1], [1, 0, 1]]
    machine = BoltzmannMachine.fully_visible(3, unit=Spin(), couplings=torch.ones(3, 3))
    with pytest.raises(ValueError, match="look like bits") as caught:
        machine(KINDS[kind](bits))
    energy = machine(cured(str(caught.value), KINDS[kind](bits)))
    assert torch.equal(energy, machine(2 * torch.tensor(bits) - 1.0))


@pytest.mark.parametrize("kind", [k for k in KINDS if "uint" not in k and "bool" not in k])
def test_the_cure_for_spins_given_to_bits_works(kind: str) -> None:
    spins = [[-1, 1, 1], [1, -1, 1]]
    machine = BoltzmannMachine.fully_visible(3, couplings=torch.ones(3, 3))
    with pytest.raises(ValueError, match="look like spins") as caught:
        machine(KINDS[kind](spins))
    energy = machine(cured(str(caught.value), KINDS[kind](spins)))
    assert torch.equal(energy, machine((torch.tensor(spins) + 1.0) / 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_by_name_with_a_cure(dtype: torch.dtype) -> None:
    machine = BoltzmannMachine.restricted(3, 2).to(dtype)
    x = {"visible": torch.zeros(4, 3), "hidden": torch.zeros(4, 2)}
    for asked in (
        lambda: machine(x),
        lambda: machine.free_energy(torch.zeros(4, 3)),
        lambda: run(Gibbs(), machine, 1, warmup=1, seed=0),
        lambda: run(GibbsWithGradients(), machine, 1, warmup=1, initial=x),
    ):
        with pytest.raises(TypeError, match=rf"{dtype}.*energy\.float\(\)"):
            asked()
    run(Gibbs(), machine.float(), 1, warmup=1, seed=0)
    assert machine(x).shape == (4,)


# --- choices -------------------------------------------------------------------------------------
def of_labels(x: Tensor) -> Tensor:
    return (x[..., :-1] - x[..., 1:]).abs().sum(-1) / 4 + (x.sum(-1) * 2).sin()


def labels(upper: Any, n: int = 3) -> CallableEnergy:
    site = Site(constraints.integer_interval(0, upper), torch.Size([n]))
    return CallableEnergy(of_labels, {"x": site}, dtype=torch.float64)


@pytest.mark.parametrize(("states", "size"), [(4, 3), (16, 3), (17, 2), (64, 2)])
def test_a_chosen_block_has_as_many_units_as_it_may(states: int, size: int) -> None:
    kernel = choose_kernel(labels(states - 1))
    assert isinstance(kernel, RandomBlocks)
    assert kernel.size == size
    assert kernel.sites == ("x",)


@pytest.mark.parametrize("states", [65, 4096, 4097])
def test_labels_of_which_no_two_fit_in_a_block_walk(states: int) -> None:
    assert choose_kernel(labels(states - 1)).sites == ("x",)
    assert isinstance(choose_kernel(labels(states - 1)), IntegerWalk)


def test_supports_of_events_are_those_of_their_elements() -> None:
    site = Site(constraints.independent(boolean, 1), torch.Size([3]))
    energy = CallableEnergy(lambda x: x.sum(-1), {"x": site})
    assert isinstance(choose_kernel(energy), Cycle)
    assert energy(torch.zeros(5, 3)).shape == (5,)
    with pytest.raises(ValueError, match=r"\{0, 1\}"):
        energy(torch.full((5, 3), 2.0))


# --- sums and descents ---------------------------------------------------------------------------
def of_places(x: Tensor) -> Tensor:
    one, other, third = x.unbind(-2)
    tilt = (x * torch.arange(12.0, dtype=x.dtype).reshape(3, 4).sin()).sum((-1, -2))
    return tilt + one[..., 0] * other[..., 1] - (other * third).sum(-1)


def test_a_law_of_one_hot_units_is_summed_and_drawn() -> None:
    site = Site(constraints.one_hot, torch.Size([3, 4]))
    energy = CallableEnergy(of_places, {"x": site}, dtype=torch.float64)
    table = Table.of(energy)
    wanted = (-energy(table.x["x"])).logsumexp(0)
    torch.testing.assert_close(exact.log_partition(energy), wanted, rtol=1e-12, atol=0)
    law = EnergyDistribution(energy)
    assert law.event_shape == (3, 4)
    assert law.support.event_dim == 2
    every = law.enumerate_support()
    assert every.shape == (64, 3, 4)
    assert bool(law.support.check(every).all())
    assert float(law.log_prob(every).exp().sum()) == pytest.approx(1, abs=1e-12)
    draws = law.sample((2000,))
    # α = 1e-6, N = 2,000 draws: a law at χ² distance 0.05 is found.
    assert table.p_value({"x": draws}) > 1e-6


@pytest.mark.parametrize("upper", [2, torch.tensor([1, 2, 1])], ids=["alike", "mixed"])
def test_descents_over_labels_end_where_no_label_is_better(upper: Any) -> None:
    energy = labels(upper)
    table = Table.of(energy)
    ended = descend(energy, table.x["x"])
    levels = levels_of(energy.sites["x"])
    assert levels is not None
    for unit, values in enumerate(levels):
        for value in values:
            other = ended.x["x"].clone()
            other[:, unit] = value
            assert bool((energy(other) >= ended.energy - 1e-12).all())
    assert float(mode(energy).energy) == pytest.approx(float(energy(table.x["x"]).min()))


# --- units of a user's own -----------------------------------------------------------------------
@pytest.mark.parametrize("trials", [1, 2, 5])
def test_a_unit_names_its_levels_and_their_potentials(trials: int) -> None:
    unit = binomial(trials)
    field = torch.linspace(-3, 3, 7, dtype=torch.float64)
    found = unit.level_potentials(7, field)
    assert found is not None
    assert found.shape == (7, trials + 1)
    levels = torch.tensor(unit.levels, dtype=torch.float64)
    log_weights = field[:, None] * levels - found
    torch.testing.assert_close(log_weights.logsumexp(-1), unit.cumulant(field))
    wanted = unit.conditional(field).log_prob(levels[:, None]).mT
    torch.testing.assert_close(log_weights.log_softmax(-1), wanted)
    for plain in (Bernoulli(), Spin()):
        assert plain.level_potentials(7, field) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_are_found_after_rounding(dtype: torch.dtype) -> None:
    levels = torch.tensor([-0.7, 0.1, 2.3], dtype=torch.float64)
    alphabet = ListedLevels(levels, levels[:, None])
    x = levels.float().to(dtype).expand(4, 3)
    assert alphabet.places(x).tolist() == [[0, 1, 2]] * 4
    assert alphabet.count(torch.Size([3])) == 9
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=dtype).expand(4, 3)
    found = alphabet.differences(x, slope, None)
    wanted = slope[..., None] * (levels.to(dtype) - x[..., None])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    element = torch.tensor([0, 4, 8, 5])
    change = alphabet.change(x, element)
    after = alphabet.after(x, change.features)
    assert after[3].tolist() == pytest.approx([-0.7, 2.3, 2.3])
    assert change.undoing.tolist() == [0, 4, 8, 4]
    undone = alphabet.after(after, alphabet.change(after, change.undoing).features)
    torch.testing.assert_close(undone, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_potential_of_two_values_is_a_part_of_the_change(low: float) -> None:
    x = torch.tensor([[low, 1.0], [1.0, low]], dtype=torch.float64)
    slope = torch.tensor([0.4, -0.9], dtype=torch.float64)
    u = torch.tensor([[0.3, 1.0], [-0.2, 0.5]], dtype=torch.float64)  # of the lower, the higher
    found = TwoValued(low + 1).differences(x, slope, u)
    rise = slope * (1 - low) + u[:, 1] - u[:, 0]
    torch.testing.assert_close(found, torch.where(x == low, rise, -rise))


def path_of(unit: Unit) -> BoltzmannMachine:
    edges = Graph([(0, 1), (1, 2)], torch.tensor([0.5, 0.3], dtype=torch.float64))
    bias = torch.tensor([0.2, 0.1, 0.4], dtype=torch.float64)
    layers = {"visible": Layer(unit, 3, bias=bias)}
    return BoltzmannMachine(layers, {("visible", "visible"): edges})


def test_bits_with_a_potential_are_moved_by_it_and_not_in_clusters() -> None:
    # A coin thrown once is a bit; its potential is 0, and the kind is not the library's.
    with pytest.raises(TypeError, match="moves machines of bits or spins"):
        SwendsenWang().init(path_of(binomial(1)), {"visible": torch.zeros(2, 3)})
    SwendsenWang().init(path_of(Bernoulli()), {"visible": torch.zeros(2, 3)})


def forbidding() -> Energy:
    table = torch.zeros(1, 2, 3)
    table[0, 1, 2] = -torch.inf
    return RandomField([2, 3], {"pair": TableFactors([[0, 1]], table)})


@pytest.mark.parametrize(
    "kernel", [Gibbs(), GibbsWithGradients(), RandomBlocks(size=1)], ids=lambda k: type(k).__name__
)
def test_runs_on_mixed_labels_keep_to_them(kernel: Kernel) -> None:
    draws = run(kernel, forbidding(), 400, warmup=10, chains=4, seed=1).draws["visible"]
    found = {tuple(x) for x in draws.flatten(0, 1).tolist()}
    assert found == set(itertools.product(range(2), range(3))) - {(1, 2)}
