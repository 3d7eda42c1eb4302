"""Copies and what comes back from a file behave as the original, bit for bit."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    Layer,
    ModelEnergy,
    RandomField,
    clamp,
    interpolate,
)
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Chains,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    Mixture,
    ParallelTempering,
    RandomBlocks,
    Schedule,
    SwendsenWang,
    TemperedTransitions,
    Wolff,
    choose_kernel,
    resume,
    run,
)
from pyro_ebm.partition import exact
from pyro_ebm.sites import ListedValues, Site, boolean, same_support, spin
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin, TruncatedGaussian, Unit
from tests.support.listed_unit import binomial


def saved(thing: Any) -> Any:
    """Written by torch and read again."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
    "pickled": lambda thing: pickle.loads(pickle.dumps(thing)),
    "saved": saved,
}
QUICK = ("copied deeply", "saved")
each_way = pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, way in WAYS.items()
    ],
)


# --- energies ------------------------------------------------------------------------------------
def layered(unit: Unit, n: int = 3) -> BoltzmannMachine:
    couplings = torch.linspace(-0.9, 0.8, n * unit.width * 2).reshape(-1, 2)
    layers = {"visible": Layer(unit, n), "hidden": Layer(Bernoulli(), 2)}
    return BoltzmannMachine(layers, {("visible", "hidden"): couplings})


def ring() -> BoltzmannMachine:
    edges = [(0, 1), (1, 2), (2, 3), (0, 3)]
    return BoltzmannMachine.on_graph(edges, unit=Spin(), weight=torch.full((4,), 0.3))


def field(states: list[int]) -> RandomField:
    table = torch.linspace(-1, 1, 9).reshape(3, 3)
    pairs = [(0, 1), (1, 2)]
    return RandomField.potts(pairs, states, coupling=torch.tensor([0.5]), field=table)


def of_numbers(x: Tensor) -> Tensor:
    return (x * torch.arange(x.shape[-1])).sum(-1) + x.prod(-1)


def of_places(x: Tensor) -> Tensor:
    return (x * torch.linspace(-1, 2, 9).reshape(3, 3)).sum((-1, -2))


def of_reals(x: Tensor) -> Tensor:
    return x.square().sum(-1) / 2 + x.cos().prod(-1)


def function(f: Callable[[Tensor], Tensor], support: Any, *shape: int) -> CallableEnergy:
    return CallableEnergy(f, {"visible": Site(support, torch.Size(shape))})


def switch() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.3))
    mu = pyro.sample("mu", dist.Normal(4 * z, 1.0))
    pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.tensor(2.5))


def mixed() -> torch.Tensor:
    return torch.tensor([1, 2, 1])


FINITE: dict[str, Callable[[], Energy]] = {
    "bits": lambda: layered(Bernoulli()),
    "spins": lambda: layered(Spin()),
    "labels": lambda: layered(Categorical(3)),
    "counts": lambda: layered(binomial(2)),
    "spins on a graph": ring,
    "field": lambda: field([3, 3, 3]),
    "field of mixed labels": lambda: field([2, 3, 2]),
    "function of bits": lambda: function(of_numbers, boolean, 3),
    "function of spins": lambda: function(of_numbers, spin, 3),
    "function of labels": lambda: function(of_numbers, constraints.integer_interval(0, 2), 3),
    "function of mixed labels": lambda: function(
        of_numbers, constraints.integer_interval(0, mixed()), 3
    ),
    "function of an event": lambda: function(of_numbers, constraints.independent(boolean, 1), 3),
    "bits of a distribution": lambda: DistributionEnergy(
        dist.Bernoulli(torch.tensor([0.2, 0.6])).to_event(1)
    ),
    "weighted": lambda: 0.5 * layered(Bernoulli()),
    "sum of a machine and a function": lambda: (
        layered(Bernoulli()) + function(of_numbers, boolean, 3)
    ),
    "held in part": lambda: clamp(
        field([2, 3, 2]), torch.zeros(3), mask=torch.tensor([True, False, False])
    ),
    "between two": lambda: interpolate(ring(), 2.0 * ring(), 0.3),
}
OTHERS: dict[str, Callable[[], Energy]] = {
    "one-hot units": lambda: function(of_places, constraints.one_hot, 3, 3),
    "function of reals": lambda: function(of_reals, constraints.real, 2),
    "positive numbers": lambda: function(of_reals, constraints.positive, 2),
    "normal law": lambda: DistributionEnergy(dist.Normal(torch.zeros(2), 1.0).to_event(1)),
    "real units": lambda: layered(Gaussian()),
    "bounded units": lambda: layered(TruncatedGaussian(low=-1.0, high=1.0)),
    "Pyro model": lambda: ModelEnergy(switch),
}
ENERGIES = FINITE | OTHERS


def same_numbers(first: Tensor, second: Tensor) -> bool:
    """Whether dtype, shape and numbers are the same, NaN where the other is."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())


def same_chains(first: Chains, second: Chains) -> bool:
    """Whether all draws and statistics are the same, to the last bit."""
    pairs = [(first.draws, second.draws), (first.statistics, second.statistics)]
    return all(
        mine.keys() == yours.keys() and all(same_numbers(mine[name], yours[name]) for name in mine)
        for mine, yours in pairs
    )


@each_way
@pytest.mark.parametrize("name", ENERGIES)
def test_an_energy_is_sampled_as_the_original(name: str, way: Callable[[Any], Any]) -> None:
    energy = ENERGIES[name]()
    other = way(energy)
    kernel = choose_kernel(energy)
    assert repr(choose_kernel(other)) == repr(kernel)
    assert dict(other.sites) == dict(energy.sites)
    chains = run(kernel, energy, Schedule(4, 6), chains=3, seed=1)
    again = run(way(kernel), other, Schedule(4, 6), chains=3, seed=1)
    assert same_chains(again, chains)
    more, more_again = resume(chains, energy, 4), resume(way(chains), other, 4)
    assert same_chains(more_again, more)


@each_way
@pytest.mark.parametrize("name", FINITE)
def test_an_energy_is_summed_as_the_original(name: str, way: Callable[[Any], Any]) -> None:
    energy = FINITE[name]()
    other = way(energy)
    assert torch.equal(exact.log_partition(other), exact.log_partition(energy))
    for asked in (exact.states, lambda e: exact.sample(e, 20, seed=2)):
        mine, yours = asked(energy), asked(other)
        assert all(torch.equal(mine[site], yours[site]) for site in energy.sites)
    site = next(iter(energy.sites))
    law, same = EnergyDistribution(energy, site), way(EnergyDistribution(energy, site))
    of_other = EnergyDistribution(other, site)
    draws = mine[site][:5]
    for found in (same, of_other):
        assert found.has_enumerate_support == law.has_enumerate_support
        assert torch.equal(found.enumerate_support(), law.enumerate_support())
        assert same_support(found.support, law.support)
        assert torch.equal(found.log_prob(draws), law.log_prob(draws))
        assert torch.equal(seeded(found), seeded(law))


def seeded(law: EnergyDistribution) -> Tensor:
    torch.manual_seed(3)
    return law.sample((7,))


@each_way
def test_energies_and_their_copies_are_added(way: Callable[[Any], Any]) -> None:
    for name, make in FINITE.items():
        if name != "counts":  # whose potentials cannot be added
            energy = make()
            both = energy + way(energy)
            assert torch.equal(exact.log_partition(both), exact.log_partition(energy + energy))


KERNELS: dict[str, tuple[Kernel, Callable[[], Energy]]] = {
    "Gibbs": (Gibbs(), ring),
    "GibbsWithGradients": (GibbsWithGradients(), ring),
    "gradients on a field": (GibbsWithGradients(), FINITE["field of mixed labels"]),
    "DiscreteLangevin": (DiscreteLangevin(), FINITE["counts"]),
    "RandomBlocks": (RandomBlocks(), OTHERS["one-hot units"]),
    "SwendsenWang": (SwendsenWang(), ring),
    "Wolff": (Wolff(), ring),
    "HMC": (HMC(), OTHERS["positive numbers"]),
    "MALA": (MALA(), OTHERS["function of reals"]),
    "ParallelTempering": (ParallelTempering(Gibbs(), (0.0, 0.5, 1.0)), ring),
    "TemperedTransitions": (TemperedTransitions(GibbsWithGradients(), (0.4, 0.7, 1.0)), ring),
    "Cycle": (Cycle((GibbsWithGradients(), RandomBlocks())), ring),
    "Mixture": (Mixture((GibbsWithGradients(), RandomBlocks())), ring),
}


@each_way
@pytest.mark.parametrize("name", KERNELS)
def test_chains_go_on_from_a_file(name: str, way: Callable[[Any], Any]) -> None:
    kernel, make = KERNELS[name]
    energy = make()
    whole = run(kernel, energy, Schedule(6, 12), chains=3, seed=4)
    first = run(way(kernel), energy, Schedule(6, 7), chains=3, seed=4)
    assert same_chains(resume(way(first), way(energy), 5), whole)


# --- supports ------------------------------------------------------------------------------------
SUPPORTS = {
    "bits": boolean,
    "spins": spin,
    "one-hot": constraints.one_hot,
    "labels": constraints.integer_interval(0, 2),
    "mixed labels": constraints.integer_interval(0, torch.tensor([1, 2, 1])),
    "other mixed labels": constraints.integer_interval(0, torch.tensor([2, 1, 1])),
    "listed": ListedValues(torch.tensor([-0.5, 2.0])),
    "listed otherwise": ListedValues(torch.tensor([-0.5, 3.0])),
    "real": constraints.real,
    "interval": constraints.interval(0.0, 1.0),
    "half line": constraints.greater_than(torch.zeros(2)),
    "events": constraints.independent(constraints.positive, 1),
}


@each_way
@pytest.mark.parametrize("name", SUPPORTS)
def test_supports_are_compared_by_value(name: str, way: Callable[[Any], Any]) -> None:
    site = Site(SUPPORTS[name], torch.Size([3]))
    copied = Site(way(site.support), torch.Size([3]))
    assert copied == site
    assert hash(copied) == hash(site)
    assert Site(site.support, torch.Size([2])) != site
    same = [other for other, support in SUPPORTS.items() if same_support(support, copied.support)]
    assert same == [name]


def test_one_bound_for_all_is_the_same_as_one_for_each() -> None:
    all_alike = constraints.integer_interval(0, torch.tensor([2, 2, 2]))
    assert same_support(all_alike, constraints.integer_interval(0, 2))
    assert not same_support(all_alike, constraints.integer_interval(0, torch.tensor([2, 2])))
    assert Site(boolean, torch.Size([2])) != "a site"


UNITS: dict[str, Callable[[], Unit]] = {
    "bits": Bernoulli,
    "spins": Spin,
    "labels": lambda: Categorical(3),
    "real": Gaussian,
    "real, of one precision each": lambda: Gaussian(torch.tensor([1.0, 2.0])),
    "real, learned": lambda: Gaussian(torch.nn.Parameter(torch.tensor([1.0, 2.0]))),
    "rectified": TruncatedGaussian,
    "bounded": lambda: TruncatedGaussian(2.0, low=-1.0, high=1.0),
    "rectified, of one precision each": lambda: TruncatedGaussian(torch.tensor([1.0, 3.0])),
}


@pytest.mark.parametrize("kind", UNITS)
def test_copies_of_units_equal_them_and_units_of_other_kinds_do_not(kind: str) -> None:
    unit = UNITS[kind]()
    for one in (copy.copy(unit), copy.deepcopy(unit), pickle.loads(pickle.dumps(unit))):
        assert one == unit
        assert hash(one) == hash(unit)
    assert [name for name, make in UNITS.items() if make() == unit] == [kind]
    assert unit != Gaussian(3.0)
    assert unit != Gaussian(torch.tensor([1.0, 5.0]))
    assert unit != Gaussian(torch.tensor([1.0, 2.0]).double())
