"""Exact sums of energies of which nothing is known but their values, over sites that are finite."""

import itertools
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.energies import Energy, Structure, WithoutTerms
from pyro_ebm.partition import exact
from pyro_ebm.partition.sums import finite
from pyro_ebm.sites import Site, Sites, boolean, flat_features, spin
from tests.support.checks import distance
from tests.support.goodness import ALPHA, CHAINS, chi_square
from tests.support.machines import FINITE

LOW, HIGH = torch.tensor([[0, -1], [2, 5]]), torch.tensor([[2, 0], [2, 7]])


class Network(Energy):
    """A small network over sites of every finite kind, one of them a table of labels."""

    sites: ClassVar = {
        "bits": Site(boolean, torch.Size([3])),
        "spin": Site(spin, torch.Size([])),
        # Labels with bounds of their own, one of which leaves no choice.
        "table": Site(constraints.integer_interval(LOW, HIGH), torch.Size([2, 2])),
    }
    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def evaluate(self, x: Sites) -> Tensor:
        parts = (x["bits"], x["spin"][..., None], x["table"].flatten(-2))
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        flat = torch.cat([part.expand(*batch, -1) for part in parts], -1)
        return 3 * self.layers(flat).squeeze(-1)

    def structure(self) -> Structure:
        return WithoutTerms(self)


class Plain(Energy):
    """A function of which nothing is known."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, function: Callable[[Sites], Tensor], sites: Mapping[str, Site]) -> None:
        super().__init__()
        self.function, self.sites = function, sites

    def evaluate(self, x: Sites) -> Tensor:
        return self.function(x)

    def structure(self) -> Structure:
        return WithoutTerms(self)


def all_states() -> dict[str, Tensor]:
    """Every joint state by loops, the last element fastest."""
    choices = [[0, 1]] * 3 + [[-1, 1]]
    choices += [
        list(range(a, b + 1))
        for a, b in zip(LOW.flatten().tolist(), HIGH.flatten().tolist(), strict=True)
    ]
    flat = torch.tensor(list(itertools.product(*choices)), dtype=torch.float64)
    return {"bits": flat[:, :3], "spin": flat[:, 3], "table": flat[:, 4:].reshape(-1, 2, 2)}


@pytest.fixture(params=[None, 50, 7], ids=["one block", "some blocks", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in blocks of different sizes."""
    if request.param:
        monkeypatch.setattr(finite, "BLOCK_ELEMENTS", 8 * request.param)


@pytest.fixture
def network() -> Network:
    return Network()


def laws(network: Network) -> Tensor:
    """ln p of all states."""
    log_weights = -network(all_states()).detach()
    return log_weights - log_weights.logsumexp(0)


def test_states_are_all_states_once_in_order(network: Network) -> None:
    found, wanted = exact.states(network), all_states()
    assert all(torch.equal(found[site], value) for site, value in wanted.items())
    (table,) = exact.states(network, ["table"]).values()
    assert table.shape == (18, 2, 2)
    assert len(table.unique(dim=0)) == 18


@pytest.mark.usefixtures("blocks")
def test_log_z_and_its_gradient_are_those_of_all_states(network: Network) -> None:
    found = exact.log_partition(network)
    wanted = (-network(all_states())).logsumexp(0)
    assert distance(found, wanted.detach()) < 1e-12
    parameters = list(network.parameters())
    pairs = (torch.autograd.grad(value, parameters) for value in (found, wanted))
    assert max(distance(a, b) for a, b in zip(*pairs, strict=True)) < 1e-12


@pytest.mark.usefixtures("blocks")
def test_probabilities_of_any_sites_sum_the_others_out(network: Network) -> None:
    log_p, states = laws(network), all_states()
    for k in (1, 2, 3):
        for sites in itertools.combinations(network.sites, k):
            x = exact.states(network, sites)
            found = exact.log_prob(network, x)
            same = torch.stack(
                [
                    (x[s].flatten(1)[:, None] == states[s].reshape(len(log_p), -1)).all(-1)
                    if x[s].dim() > 1
                    else x[s][:, None] == states[s]
                    for s in sites
                ]
            ).all(0)
            wanted = torch.where(same, log_p, -torch.inf).logsumexp(1)
            assert distance(found, wanted) < 1e-12
            assert float(found.detach().exp().sum()) == pytest.approx(1, abs=1e-12)
    batch = {"spin": torch.tensor([[1.0, -1.0, 1.0]]), "bits": torch.ones(2, 1, 3).double()}
    assert exact.log_prob(network, batch).shape == (2, 3)
    assert exact.log_prob(network, {"spin": torch.tensor(1)}).shape == ()


@pytest.mark.usefixtures("blocks")
def test_moments_are_those_of_all_states(network: Network) -> None:
    p, states = laws(network).exp(), all_states()
    found = exact.moments(network)
    parts = {site: flat_features(x, network.sites[site]) for site, x in states.items()}
    # Three, two, one and three labels: one-hot, in a row.
    assert parts["table"].shape[1] == 9
    assert torch.equal(parts["table"].sum(1), torch.full((len(p),), 4.0).double())
    for site, value in parts.items():
        assert distance(found.mean[site], p @ value) < 1e-12
    flat = torch.cat(list(parts.values()), -1)
    assert distance(found.second, (flat * p[:, None]).mT @ flat) < 1e-12


@pytest.mark.usefixtures("blocks")
def test_draws_follow_the_law(network: Network) -> None:
    # α = 1e-6, N = 20,000 over 288 states: a law at χ² distance 0.01 is found.
    x, states = exact.sample(network, CHAINS, seed=2), all_states()
    rows, every = (
        torch.cat([v.reshape(n, -1) for v in values.values()], -1)
        for values, n in ((x, CHAINS), (states, len(states["spin"])))
    )
    p = laws(network).exp().numpy()
    counts = (rows[:, None] == every).all(-1).sum(0).numpy()
    assert counts.sum() == CHAINS
    assert chi_square(counts, p) > ALPHA
    assert chi_square(np.roll(counts, 1), p) < ALPHA  # the draws of other states are found


@pytest.mark.parametrize("name", ["restricted", "Potts restricted", "labels, spins and bits"])
def test_a_machine_is_summed_alike_when_its_structure_is_not_known(name: str) -> None:
    small = FINITE[name]
    machine = small.machine()
    plain = Plain(machine.evaluate, machine.sites)
    assert distance(exact.log_partition(plain), np.array(small.log_partition)) < 1e-12
    found, wanted = exact.moments(plain), exact.moments(machine)
    assert distance(found.second, wanted.second) < 1e-12
    assert all(distance(found.mean[site], mean) < 1e-12 for site, mean in wanted.mean.items())


def test_what_cannot_be_summed_is_refused() -> None:
    def energy(x: Sites) -> Tensor:
        return x["a"].square().sum(-1)

    real = {"a": Site(constraints.real, torch.Size([2])), "b": Site(boolean, torch.Size([3]))}
    with pytest.raises(TypeError, match=r"sites \['a'\] have infinitely many"):
        exact.log_partition(Plain(energy, real))
    counts = {"a": Site(constraints.nonnegative_integer, torch.Size([2]))}
    with pytest.raises(TypeError, match=r"sites \['a'\] have infinitely many"):
        exact.log_partition(Plain(energy, counts))
    labels = {"a": Site(constraints.integer_interval(0, 9), torch.Size([12]))}
    with pytest.raises(exact.TooManyStatesError, match=r"1e\+12 states.*only be estimated"):
        exact.log_partition(Plain(energy, labels))
    bits = {"a": Site(boolean, torch.Size([2]))}
    batched = Plain(lambda x: x["a"].sum(-1, keepdim=True) * torch.ones(3), bits)
    with pytest.raises(ValueError, match="batch dimensions"):
        exact.log_partition(batched)
    with pytest.raises(ValueError, match=r"'a' contains 10"):
        exact.log_prob(Plain(energy, labels), torch.full((12,), 10))
