"""Any function of named tensors is an energy at every door, or is refused at once."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import one_hot

from pyro_ebm import (
    HMC,
    BoltzmannMachine,
    CallableEnergy,
    RandomWalk,
    Site,
    clamp,
    exact,
    run,
)
from pyro_ebm.energies.functions import callable as subject
from pyro_ebm.sites import boolean, spin

PAIR = torch.Size([2])


def well(x: Tensor) -> Tensor:
    return ((x.square() - 1).square()).sum(1)


def readout(inputs: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)
    )


class Scorer(nn.Module):
    """A module with a method that is an energy, and a forward that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))

    def energy(self, x: Tensor) -> Tensor:
        return (x - self.weight).square().sum(1)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 1), nn.Flatten(0)
    )


# --- what is accepted ----------------------------------------------------------------------------

ACCEPTED: dict[str, Callable[[], CallableEnergy]] = {
    "a lambda in two dimensions": lambda: CallableEnergy(lambda x: x.square().sum(1), 2),
    "a function": lambda: CallableEnergy(well, (2,)),
    "a network": lambda: CallableEnergy(readout(), 2),
    "a convolutional network": lambda: CallableEnergy(convolutional(), (1, 8, 8)),
    "a method of a module": lambda: CallableEnergy(Scorer().energy, 2),
    "a number": lambda: CallableEnergy(torch.square, ()),
    "infinite in places": lambda: CallableEnergy(
        lambda x: torch.where(x[:, 0] > 0, x.sum(1), math.inf), 2
    ),
    "infinite almost everywhere": lambda: CallableEnergy(
        lambda x: torch.where(x[:, 0] > 50, x.sum(1), math.inf), 2
    ),
    "float64": lambda: CallableEnergy(well, 2, dtype=torch.float64),
    "batch normalisation at rest": lambda: CallableEnergy(
        nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1), nn.Flatten(0)).eval(), 2
    ),
    "a constant": lambda: CallableEnergy(lambda x: torch.ones(len(x)), 2),
    "large numbers": lambda: CallableEnergy(lambda x: 1e8 * x.square().sum(1), 2),
    "one that uses view": lambda: CallableEnergy(lambda x: x.view(len(x), 6).sum(1), (2, 3)),
    "one that needs gradients inside": lambda: CallableEnergy(slope_of_well, 2),
}


def slope_of_well(x: Tensor) -> Tensor:
    with torch.enable_grad():
        inside = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(well(inside).sum(), inside, create_graph=True)
        return slope.square().sum(1)


@pytest.mark.parametrize("name", ACCEPTED)
def test_any_batch_shape_is_that_of_single_rows(name: str) -> None:
    energy = ACCEPTED[name]()
    shape = energy.sites["visible"].shape
    rows = torch.randn(3, 4, *shape, dtype=energy.dtype)
    found = energy(rows)
    assert found.shape == (3, 4)
    alone = torch.stack([energy(row) for row in rows.flatten(0, 1)]).reshape(3, 4)
    assert alone[0, 0].shape == ()
    assert torch.allclose(found, alone, rtol=1e-5, atol=1e-5)
    assert energy(rows[:0]).shape == (0, 4)
    assert torch.allclose(energy({"visible": rows}), found, rtol=0, atol=0)
    turned = energy(rows.transpose(0, 1))  # not contiguous
    assert torch.allclose(turned, found.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["a function", "a network", "a convolutional network"])
def test_gradients_are_finite_differences(name: str) -> None:
    energy = ACCEPTED[name]().double()
    x = torch.randn(2, *energy.sites["visible"].shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(energy, (x,))
    value, gradients = energy.energy_and_gradient({"visible": x}, ("visible",))
    (wanted,) = torch.autograd.grad(energy(x).sum(), x)
    assert torch.equal(gradients["visible"], wanted)
    assert not value.requires_grad


@pytest.mark.parametrize("name", ["a lambda in two dimensions", "a convolutional network"])
def test_kernels_run_on_it(name: str) -> None:
    energy = ACCEPTED[name]()
    for kernel in (RandomWalk(scale=0.5), HMC(step_size=0.1, trajectory_length=0.5)):
        chains = run(kernel, energy, 3, warmup=2, chains=5, seed=0)
        assert chains.draws["visible"].shape == (5, 3, *energy.sites["visible"].shape)
        last = energy(chains.last)
        assert torch.allclose(-chains.statistics["lp"][:, -1], last, rtol=1e-5, atol=1e-5)


SUPPORTS: dict[str, Site] = {
    "real": Site(constraints.real, PAIR),
    "positive": Site(constraints.positive, PAIR),
    "interval": Site(constraints.interval(-1.0, 3.0), PAIR),
    "simplex": Site(constraints.simplex, torch.Size([3])),
    "boolean": Site(boolean, PAIR),
    "spin": Site(spin, PAIR),
    "labels": Site(constraints.integer_interval(0, 3), PAIR),
    "one-hot": Site(constraints.one_hot, torch.Size([4])),
}


@pytest.mark.parametrize("kind", SUPPORTS)
def test_every_support_is_accepted_and_kept(kind: str) -> None:
    site = SUPPORTS[kind]
    energy = CallableEnergy(lambda x: x.square().flatten(1).sum(1), {"x": site})
    inside = subject.probes(site, torch.empty(0))
    assert energy(inside).shape == (3,)
    with pytest.raises(ValueError, match="'x'"):
        energy(torch.full((3, *site.shape), math.nan))
    if kind != "real":
        with pytest.raises(ValueError, match="'x'"):
            energy(torch.full((3, *site.shape), -7.5))
    with pytest.raises(ValueError, match="sum over"):
        CallableEnergy(lambda x: x.sum(), {"x": site})


@pytest.mark.parametrize("kind", ["boolean", "spin", "labels"])
def test_energies_over_finite_sites_are_summed_exactly(kind: str) -> None:
    weight = torch.randn(2, 2, dtype=torch.float64)
    energy = CallableEnergy(
        lambda x: (x @ weight * x).sum(1), {"x": SUPPORTS[kind]}, dtype=torch.float64
    )
    values = {"boolean": [0, 1], "spin": [-1, 1], "labels": [0, 1, 2, 3]}[kind]
    states = torch.cartesian_prod(*[torch.tensor(values, dtype=torch.float64)] * 2)
    wanted = (-energy(states)).logsumexp(0)
    assert torch.allclose(exact.log_partition(energy), wanted, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The kernel does not move")
def test_several_sites_come_by_their_names() -> None:
    sites = {"labels": SUPPORTS["labels"], "position": SUPPORTS["real"]}
    energy = CallableEnergy(lambda position, labels: ((position - labels).square()).sum(1), sites)
    x = {"position": torch.randn(5, 1, 2), "labels": torch.randint(4, (3, 2))}
    wanted = (x["position"] - x["labels"]).square().sum(-1)
    assert torch.allclose(energy(x), wanted)
    assert wanted.shape == (5, 3)
    chains = run(RandomWalk(("position",), 0.5), energy, 2, warmup=1, chains=3, seed=0)
    assert chains.draws["labels"].dtype == torch.int8
    held = clamp(energy, {"labels": torch.tensor([1, 2])})
    assert float(held(torch.tensor([1.0, 2.0]))) == 0
    with pytest.raises(ValueError, match="bare tensor"):
        energy(x["position"])
    with pytest.raises(ValueError, match="labels"):
        energy({"position": x["position"]})


def test_numpy_and_integers_come_in_as_everywhere() -> None:
    energy = CallableEnergy(well, 2)
    assert torch.equal(energy(np.ones((3, 2))), torch.zeros(3))
    assert torch.equal(energy(torch.zeros(3, 2, dtype=torch.int64)), torch.full((3,), 2.0))
    with pytest.raises(ValueError, match=r"\(3, 5\).*\(\*batch, 2\)"):
        energy(torch.zeros(3, 5))


def test_counts_become_numbers_of_the_energy_s_dtype() -> None:
    energy = CallableEnergy(lambda x: (x > 0).sum(1), 2, dtype=torch.float64)
    assert energy(torch.ones(3, 2)).dtype == torch.float64


# --- what is refused -----------------------------------------------------------------------------


class Forgetful(nn.Module):
    """Answers something else each time it is called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.sum(1) * self.calls


def numpy_noise(x: Tensor) -> Tensor:
    return x.sum(1) + torch.tensor(np.random.default_rng().normal(), dtype=x.dtype)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a sum over the batch": (lambda: CallableEnergy(lambda x: x.sum(), 2), ValueError, "sum over"),
    "a mean over the batch": (
        lambda: CallableEnergy(lambda x: x.square().sum(1).mean(), 2),
        ValueError,
        r"\(\) for 3 rows",
    ),
    "a column": (lambda: CallableEnergy(nn.Linear(2, 1), 2), ValueError, r"squeeze\(-1\)"),
    "a number for each element": (
        lambda: CallableEnergy(torch.square, 2),
        ValueError,
        r"\(3, 2\) for 3 rows",
    ),
    "rows that mix": (
        lambda: CallableEnergy(lambda x: (x - x.mean(0)).square().sum(1), 2),
        ValueError,
        "depend on other rows",
    ),
    "rows that are counted": (
        lambda: CallableEnergy(lambda x: x.sum(1) + torch.arange(len(x)), 2),
        ValueError,
        "depend on other rows",
    ),
    "rows that mix a little": (
        lambda: CallableEnergy(lambda x: x.sum(1) + 0.1 * x.mean(), 2),
        ValueError,
        "depend on other rows",
    ),
    "numpy": (lambda: CallableEnergy(lambda x: x.square().sum(1).numpy(), 2), TypeError, "ndarray"),
    "complex": (lambda: CallableEnergy(lambda x: x.sum(1) * 1j, 2), TypeError, "complex64"),
    "nothing": (lambda: CallableEnergy(lambda x: None, 2), TypeError, "None"),
    "a float": (lambda: CallableEnergy(lambda x: 1.0, 2), TypeError, "float"),
    "dropout in training": (
        lambda: CallableEnergy(
            nn.Sequential(nn.Linear(2, 4), nn.Dropout(1e-6), nn.Linear(4, 1), nn.Flatten(0)), 2
        ),
        ValueError,
        "random numbers.*eval",
    ),
    "batch normalisation in training": (
        lambda: CallableEnergy(nn.Sequential(nn.BatchNorm1d(2), readout()), 2),
        ValueError,
        "eval",
    ),
    "noise of numpy": (lambda: CallableEnergy(numpy_noise, 2), ValueError, "chance"),
    "a memory": (lambda: CallableEnergy(Forgetful(), 2), ValueError, "earlier calls"),
    "changes in place": (
        lambda: CallableEnergy(lambda x: x.mul_(2).sum(1), 2),
        ValueError,
        r"\['visible'\] in place",
    ),
    "the wrong width": (
        lambda: CallableEnergy(readout(3), 2),
        ValueError,
        r"'visible' \(3, 2\).*cannot be multi",
    ),
    "the wrong channels": (
        lambda: CallableEnergy(nn.Conv2d(3, 1, 3), (1, 8, 8)),
        ValueError,
        "3 channels",
    ),
    "the wrong dtype": (
        lambda: CallableEnergy(readout(), 2, dtype=torch.float64),
        ValueError,
        "float64",
    ),
    "the wrong names": (
        lambda: CallableEnergy(lambda a: a.sum(1), {"a": SUPPORTS["real"], "b": SUPPORTS["real"]}),
        ValueError,
        "'b'",
    ),
    "random parameters": (lambda: CallableEnergy(random_linear(), 2), ValueError, "PyroSample"),
    "no callable": (lambda: CallableEnergy(3.0, 2), TypeError, "callable"),  # type: ignore[arg-type]
    "an integer dtype": (lambda: CallableEnergy(well, 2, dtype=torch.int64), TypeError, "int64"),
    "no sites": (lambda: CallableEnergy(well, {}), ValueError, "empty"),
    "a size of zero": (lambda: CallableEnergy(well, 0), ValueError, "positive"),
    "half a size": (lambda: CallableEnergy(well, 2.5), ValueError, "2.5"),  # type: ignore[arg-type]
    "a truth value for a size": (lambda: CallableEnergy(well, True), ValueError, "True"),
    "a name for sites": (lambda: CallableEnergy(well, "x"), ValueError, "'x'"),  # type: ignore[arg-type]
    "a shape for a site": (lambda: CallableEnergy(well, {"x": (2,)}), TypeError, "Site"),  # type: ignore[dict-item]
    "no name for a site": (
        lambda: CallableEnergy(well, {0: SUPPORTS["real"]}),  # type: ignore[dict-item]
        TypeError,
        "name",
    ),
    "the class of a support": (
        lambda: CallableEnergy(well, {"x": Site(constraints.interval, PAIR)}),  # type: ignore[arg-type]
        TypeError,
        "constraint",
    ),
    "a simplex of one number": (
        lambda: CallableEnergy(well, {"x": Site(constraints.simplex, torch.Size([]))}),
        ValueError,
        "at least 1",
    ),
}


def random_linear() -> nn.Module:
    layer = PyroModule[nn.Linear](2, 1)
    layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
    return PyroModule[nn.Sequential](layer, nn.Flatten(0))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_energy_is_refused_at_once(name: str) -> None:
    ask, error, words = REFUSED[name]
    with pytest.raises(error, match=f"(?s){words}"):
        ask()


@pytest.mark.parametrize(
    "name", ["rows that mix", "a memory", "noise of numpy", "rows that are counted"]
)
def test_without_the_trial_the_fault_would_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "alike", lambda one, other: True)
    assert isinstance(REFUSED[name][0](), CallableEnergy)


def test_a_shape_that_turns_wrong_later_is_refused_at_every_call() -> None:
    energy = CallableEnergy(lambda x: x.sum(1) if len(x) < 5 else x.sum(), 2)
    for door in (energy, lambda x: energy.evaluate({"visible": x})):
        with pytest.raises(ValueError, match=r"\(\) for 6 rows"):
            door(torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"\(\) for 6 rows"):
        energy.energy_and_gradient({"visible": torch.zeros(6, 2)}, ("visible",))
    with pytest.raises(ValueError, match=r"\(\) for 6 rows"):
        run(RandomWalk(scale=0.1), energy, 1, warmup=0, chains=6)


# --- the trial leaves no trace -------------------------------------------------------------------


def test_the_trial_moves_no_random_numbers() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    CallableEnergy(well, {"x": SUPPORTS["labels"]})
    with pytest.raises(ValueError, match="random"):
        REFUSED["dropout in training"][0]()
    torch.manual_seed(3)
    readout()
    after_network = torch.rand(2)
    torch.manual_seed(3)
    CallableEnergy(readout(), 2)
    assert torch.equal(torch.rand(2), after_network)
    torch.manual_seed(3)
    CallableEnergy(well, 2)
    assert torch.equal(torch.rand(2), wanted)


def test_the_trial_moves_no_buffers() -> None:
    norm = nn.BatchNorm1d(2)
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(ValueError, match="eval"):
        CallableEnergy(nn.Sequential(norm, readout()), 2)
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())
    assert norm.training


def test_the_trial_is_the_same_each_time() -> None:
    seen: list[Tensor] = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.sum(1)

    CallableEnergy(spy, 2)
    torch.rand(7)
    half = len(seen)
    CallableEnergy(spy, 2)
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


# --- parameters ----------------------------------------------------------------------------------


def test_parameters_of_modules_and_of_their_methods_are_the_energy_s() -> None:
    network, scorer = readout(), Scorer()
    assert set(CallableEnergy(network, 2).parameters()) == set(network.parameters())
    energy = CallableEnergy(scorer.energy, 2)
    assert list(energy.parameters()) == [scorer.weight]
    assert not list(CallableEnergy(lambda x: scorer.energy(x), 2).parameters())
    optimizer = torch.optim.SGD(energy.parameters(), lr=0.5)
    energy(torch.ones(1, 2)).sum().backward()
    optimizer.step()  # to the minimum of a parabola
    assert torch.allclose(scorer.weight, torch.ones(2))
    assert torch.allclose(energy(torch.ones(2)), torch.tensor(0.0))


def test_the_energy_follows_its_module_and_the_module_its_energy() -> None:
    network = readout()
    energy = CallableEnergy(network, 2)
    assert energy.dtype == torch.float32
    network.double()
    assert energy.dtype == torch.float64
    assert energy(torch.zeros(3, 2)).dtype == torch.float64
    energy.float()
    assert next(network.parameters()).dtype == energy.dtype == torch.float32
    plain = CallableEnergy(well, 2)
    assert plain.double().dtype == torch.float64
    assert plain(torch.zeros(3, 2)).dtype == torch.float64


def test_the_state_goes_round() -> None:
    first, second = CallableEnergy(readout(), 2), CallableEnergy(readout(), 2)
    x = torch.randn(5, 2)
    assert not torch.equal(first(x), second(x))
    state = first.state_dict()
    assert all(name.startswith("function.") for name in state)
    second.load_state_dict(state)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", ["a function", "a network", "a method of a module"])
def test_it_survives_pickle_and_copy(name: str) -> None:
    energy = ACCEPTED[name]()
    x = torch.randn(5, 2)
    for other in (pickle.loads(pickle.dumps(energy)), copy.deepcopy(energy)):
        assert torch.equal(other(x), energy(x))
        assert not set(other.parameters()) & set(energy.parameters())
        for parameter in other.parameters():
            parameter.data.add_(1)
        if list(other.parameters()):
            assert not torch.equal(other(x), energy(x))


class Twice(nn.Module):
    """Reads its parameter two times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(1) - (x * self.weight).sum(1)


def test_random_parameters_are_read_once_for_an_evaluation() -> None:
    energy = CallableEnergy(Twice(), 2)
    to_pyro_module_(energy)
    energy.function.weight = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))
    x = torch.randn(5, 2)
    assert torch.equal(energy(x), torch.zeros(5))
    assert torch.equal(energy.evaluate({"visible": x}), torch.zeros(5))
    trace = poutine.trace(energy).get_trace(x)
    sites = [name for name, node in trace.nodes.items() if node["type"] == "sample"]
    assert sites == ["function.weight"]
    assert energy.dtype == torch.float32


def test_random_parameters_reach_the_energy() -> None:
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
    energy = CallableEnergy(network, 2)
    to_pyro_module_(energy)
    energy.function[0].weight = PyroSample(dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))
    held = poutine.condition(energy, {"function.0.weight": torch.tensor([[2.0, 3.0]])})
    assert torch.equal(held(torch.ones(4, 2)), torch.full((4,), 5.0))
    x = torch.ones(4, 2)
    assert not torch.equal(energy(x), energy(x))


# --- with the other energies ---------------------------------------------------------------------


def test_the_energy_of_a_machine_as_a_callable_is_that_machine_s() -> None:
    machine = BoltzmannMachine.fully_visible(4).double()
    with torch.no_grad():
        machine.couplings["visible_visible"].weight.normal_()
    wrapped = CallableEnergy(machine, {"visible": machine.sites["visible"]})
    assert torch.allclose(exact.log_partition(wrapped), exact.log_partition(machine))
    states = exact.states(machine)["visible"]
    assert torch.allclose(wrapped(states), machine(states))


def test_one_hot_rows_are_tried() -> None:
    table = torch.randn(4)
    energy = CallableEnergy(lambda x: x @ table, {"x": SUPPORTS["one-hot"]})
    x = one_hot(torch.arange(4), 4)
    assert torch.equal(energy(x), table)
    with pytest.raises(ValueError, match="depend on other rows"):
        CallableEnergy(lambda x: (x @ table).cumsum(0), {"x": SUPPORTS["one-hot"]})
