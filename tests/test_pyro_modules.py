"""A machine is a torch module that Pyro can make random, pickle and read exactly once."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from pyro_ebm import Bernoulli, BoltzmannMachine, Energy, Layer, Spin


def random_machine() -> BoltzmannMachine:
    machine = BoltzmannMachine.general(4, 3).double()
    to_pyro_module_(machine)
    normal = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    machine.layers["visible"].bias = PyroSample(normal.expand([4]).to_event(1))
    machine.couplings["visible_hidden"].weight = PyroSample(normal.expand([4, 3]).to_event(2))
    return machine


STATE = {"visible": torch.ones(2, 4).double(), "hidden": torch.ones(2, 3).double()}


def test_parameters_as_random_variables_are_sites_of_the_trace() -> None:
    machine = random_machine()
    trace = poutine.trace(machine).get_trace(STATE)
    sites = {name for name, node in trace.nodes.items() if node["type"] == "sample"}
    assert sites == {"layers.visible.bias", "couplings.visible_hidden.weight"}


def test_the_energy_is_that_of_the_parameters_drawn() -> None:
    machine = random_machine()
    trace = poutine.trace(machine).get_trace(STATE)
    bias = trace.nodes["layers.visible.bias"]["value"]
    weight = trace.nodes["couplings.visible_hidden.weight"]["value"]
    given = BoltzmannMachine.restricted(4, 3, couplings=weight, biases={"visible": bias})
    assert torch.allclose(trace.nodes["_RETURN"]["value"], given(STATE), atol=1e-12)


def test_conditioning_on_parameters_reaches_the_energy() -> None:
    machine = random_machine()
    values = {"layers.visible.bias": torch.full((4,), 2.0).double()}
    with torch.no_grad():
        low = poutine.condition(
            machine, {**values, "couplings.visible_hidden.weight": torch.zeros(4, 3).double()}
        )
        assert torch.allclose(low(STATE), torch.full((2,), -8.0).double())


@pytest.mark.parametrize(
    "machine",
    [
        BoltzmannMachine.deep([4, 3, 2]),
        BoltzmannMachine.on_graph([(0, 1), (1, 2)], unit=Spin(), couplings="shared"),
        BoltzmannMachine.fully_visible(3, couplings=torch.ones(3, 3), offset=torch.ones(3)),
    ],
)
def test_a_machine_survives_pickle_and_copy(machine: BoltzmannMachine) -> None:
    x = {name: torch.ones(site.shape) for name, site in machine.sites.items()}
    for other in (pickle.loads(pickle.dumps(machine)), copy.deepcopy(machine)):
        assert torch.equal(other(x), machine(x))
        assert set(other.state_dict()) == set(machine.state_dict())


def test_an_abstract_energy_cannot_be_made() -> None:
    class Half(Energy):
        def evaluate(self, x: dict[str, Tensor]) -> Tensor:
            return x["x"].sum(-1)

    for kind in (Energy, Half):
        with pytest.raises(TypeError, match=r"is abstract: it does not fill in .*device"):
            kind()


def test_an_optimiser_sees_what_is_learned_and_nothing_else() -> None:
    given = BoltzmannMachine.restricted(4, 3, couplings=torch.ones(4, 3))
    assert {name for name, _ in given.named_parameters()} == {
        "layers.visible.bias",
        "layers.hidden.bias",
    }
    assert isinstance(given.couplings["visible_hidden"], nn.Module)
    pyro.clear_param_store()


def test_a_layer_given_to_two_machines_stays_as_it_is() -> None:
    layer = Layer(Bernoulli(), 3, bias=torch.zeros(3))
    square = {("visible", "visible"): torch.eye(3)}
    first, second = (BoltzmannMachine({"visible": layer}, square) for _ in range(2))
    assert torch.equal(layer.bias, torch.zeros(3))
    x = torch.tensor([1.0, 0.0, 1.0])
    assert first(x) == second(x) == -1.0  # -x'Wx/2 with W the identity


def test_a_self_coupling_with_history_keeps_it_beside_a_learned_bias() -> None:
    strength = torch.tensor(2.0, requires_grad=True)
    machine = BoltzmannMachine.fully_visible(3, couplings=strength * torch.eye(3))
    machine(torch.ones(3)).backward()
    assert strength.grad == -1.5
