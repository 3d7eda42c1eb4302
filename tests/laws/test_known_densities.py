"""Densities with known moments, by the default sampler: right, or called not mixed.

The moments of plane densities are sums over a grid, which the rules of smooth densities make exact;
the figures of the first three are known from elsewhere as well.
"""

import itertools
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import diagnose
from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, Energy, Layer, RandomField
from pyro_ebm.kernels import HMC, MALA, Chains, Gibbs, run
from pyro_ebm.sampling import NotMixedWarning, exact_draws, sample
from pyro_ebm.sites import Site, boolean
from pyro_ebm.units import Categorical
from tests.test_sample import V, ferromagnet, gaussian_rbm

sampler: Any = sys.modules["pyro_ebm.sampling.sample"]
Function = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def no_exact_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains are what is tested here, of energies that are small enough for exact draws."""
    monkeypatch.setattr(exact_draws, "SHARE", 0.0)


def crescents(x: Tensor) -> Tensor:
    """Two halves of a ring (Rezende & Mohamed, 2015)."""
    wings = torch.logaddexp(
        -((x[:, 0] - 2) / 0.6).square() / 2, -((x[:, 0] + 2) / 0.6).square() / 2
    )
    return ((x.norm(dim=1) - 2) / 0.4).square() / 2 - wings


def double_well(x: Tensor) -> Tensor:
    return 2 * (x[:, 0].square() - 1).square() + x[:, 1].square() / 2


def eight_modes(x: Tensor) -> Tensor:
    """Normal laws of deviation 0.5/1.414 around eight points of a circle of radius 4/1.414."""
    angle = torch.arange(8, dtype=x.dtype) * math.pi / 4
    centres = torch.stack([angle.cos(), angle.sin()], 1) * 4 / 1.414
    squares = (x[:, None] - centres).square().sum(-1) / (0.5 / 1.414) ** 2
    return -torch.logsumexp(-squares / 2, 1)


def banana(x: Tensor) -> Tensor:
    """A normal law with deviations 3 and 1, bent along a parabola (Haario et al., 1999)."""
    return x[:, 0].square() / 18 + (x[:, 1] + 0.2 * (x[:, 0].square() - 9)).square() / 2


# Of x, y, x², y²; and ln Z, where it is known from elsewhere.
KNOWN: dict[str, tuple[Function, float, tuple[float, ...], float | None]] = {
    "crescents": (crescents, 6.0, (0.0, 0.0, 3.3035016, 1.3952778), 1.8775016),
    "double well": (double_well, 8.0, (0.0, 0.0, 0.8521362, 1.0), 1.2631768),
    "eight modes": (eight_modes, 7.0, (0.0, 0.0, 4.1262461, 4.1262461), None),
    "banana": (banana, 100.0, (0.0, 0.0, 9.0, 1 + 0.2**2 * 2 * 81), None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_moments_are_those_of_a_grid(name: str) -> None:
    function, width, moments, log_z = KNOWN[name]
    axis = torch.linspace(-width, width, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    energy = function(grid)
    p = (-energy).softmax(0)
    found = torch.cat([p @ grid, p @ grid.square()])
    torch.testing.assert_close(found, torch.tensor(moments).double(), atol=2e-6, rtol=2e-6)
    if log_z is not None:
        step = float(axis[1] - axis[0])
        assert float((-energy).logsumexp(0)) + 2 * math.log(step) == pytest.approx(log_z, abs=1e-6)


def deviations(chains: Chains, wanted: Tensor, *numbers: Callable[[Any], Tensor]) -> float:
    """The largest distance from a known mean, in standard errors between the chains."""
    worst = 0.0
    for number, mean in zip(numbers, wanted.tolist(), strict=True):
        of_chain = number(chains.draws).double().mean(1)
        error = float(of_chain.std()) / len(of_chain) ** 0.5
        worst = max(worst, abs(float(of_chain.mean()) - mean) / error)
    return worst


PLANE = (
    lambda x: x[V][..., 0],
    lambda x: x[V][..., 1],
    lambda x: x[V][..., 0].square(),
    lambda x: x[V][..., 1].square(),
)


def judged_right(energy: Energy, wanted: Tensor, numbers: Any, **settings: Any) -> Chains:
    """Draws within four errors of the known means, called mixed and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chains = sample(energy, **{"seed": 1, **settings})
    assert chains.attributes["verdict"] == "mixed"
    assert deviations(chains, wanted, *numbers) < 4
    return chains


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_a_plane_density_is_drawn_right(name: str) -> None:
    function, _, moments, _ = KNOWN[name]
    energy = CallableEnergy(function, 2, dtype=torch.float64)
    chains = judged_right(energy, torch.tensor(moments), PLANE)
    assert ("tempered" in str(chains.attributes["tried"])) is (name in ("eight modes", "crescents"))


@pytest.mark.slow
def test_chains_that_do_not_temper_are_wrong_and_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "improved", lambda first, task: [first])
    energy = CallableEnergy(eight_modes, 2, dtype=torch.float64)
    with pytest.warns(NotMixedWarning):
        sample(energy, 300, warmup=200, seed=1)


@pytest.mark.parametrize("kernel", [HMC(), MALA()])
def test_the_acceptance_is_at_its_target(kernel: Any) -> None:
    energy = CallableEnergy(banana, 2, dtype=torch.float64)
    chains = run(kernel, energy, 100, warmup=300, chains=64, seed=1)
    rate = float(chains.statistics["acceptance_rate"].mean())
    assert abs(rate - kernel.target_acceptance) < 0.05


# --- Neal's funnel -------------------------------------------------------------------------------


def funnel(x: Tensor) -> Tensor:
    """v ~ N(0, 9), and nine numbers ~ N(0, e^v) (Neal, 2003)."""
    v, rest = x[:, 0], x[:, 1:]
    return v.square() / 18 + (rest.square().sum(1) * (-v).exp() + rest.shape[1] * v) / 2


@pytest.mark.slow
def test_the_funnel_is_right_or_called_not_mixed() -> None:
    energy = CallableEnergy(funnel, 10, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        chains = sample(energy, 500, warmup=300, seed=1)
    wanted, numbers = torch.tensor([0.0, 9.0]), PLANE[0::2]
    if chains.attributes["verdict"] == "mixed":
        assert deviations(chains, wanted, *numbers) < 4
    else:
        assert any(w.category is NotMixedWarning for w in told)
    plain = run(HMC(), energy, 500, warmup=300, chains=64, seed=1)
    assert diagnose(plain).verdict == "not mixed"


# --- by enumeration ------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", [0.3, 0.6])
def test_a_ferromagnet_is_symmetric(coupling: float) -> None:
    chains = judged_right(
        ferromagnet(10, coupling),
        torch.tensor([0.0]),
        [lambda x: x[V].double().mean(-1)],
        draws=100,
        warmup=20,
    )
    m = chains.draws[V].double().mean(-1)
    assert (float(m.square().mean()) > 0.8) is (coupling > 0.5)  # Onsager: m² = 0.947


@pytest.mark.slow
def test_a_ladder_makes_a_ferromagnet_symmetric_or_says_no() -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        chains = sample(ferromagnet(6, 0.6), 500, kernel=Gibbs(), warmup=300, seed=1)
    assert "tempered" in str(chains.attributes["tried"])
    if chains.attributes["verdict"] != "not mixed":
        assert deviations(chains, torch.zeros(1), lambda x: x[V].double().mean(-1)) < 4


def test_real_units_of_a_machine() -> None:
    machine = gaussian_rbm(0.4)
    hidden = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)
    weight = machine.read().links[0].matrix()
    log_p = hidden @ machine.read().biases["hidden"] + (hidden @ weight.mT).square().sum(1) / 2
    mean = log_p.softmax(0) @ hidden
    wanted = torch.cat([mean, weight @ mean])
    numbers = [lambda x, k=k: x["hidden"][..., k] for k in range(2)]
    numbers += [lambda x, k=k: x[V][..., k] for k in range(3)]
    judged_right(machine, wanted, numbers, draws=200, warmup=50)


@pytest.mark.slow
def test_real_units_that_are_far_apart_are_tempered() -> None:
    machine = gaussian_rbm(1.5)
    hidden = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2)
    weight = machine.read().links[0].matrix()
    log_p = hidden @ machine.read().biases["hidden"] + (hidden @ weight.mT).square().sum(1) / 2
    mean = log_p.softmax(0) @ hidden
    numbers = [lambda x, k=k: x["hidden"][..., k] for k in range(2)]
    chains = judged_right(machine, mean, numbers, draws=500, warmup=300)
    assert "tempered" in str(chains.attributes["tried"])


def test_labels_of_a_machine() -> None:
    torch.manual_seed(2)
    layer = Layer(Categorical(3), 3, bias=torch.randn(9).double())
    machine = BoltzmannMachine({V: layer}, {(V, V): torch.randn(9, 9).double()})
    states = torch.cartesian_prod(*[torch.arange(3.0).double()] * 3)
    p = (-machine({V: states})).softmax(0).detach()
    wanted = torch.stack([p @ (states[:, k] == q).double() for k in range(3) for q in range(3)])
    numbers = [lambda x, k=k, q=q: x[V][..., k] == q for k in range(3) for q in range(3)]
    judged_right(machine, wanted, numbers, draws=200, warmup=50)


def test_a_random_field() -> None:
    torch.manual_seed(2)
    field = RandomField.potts(nx.cycle_graph(5), 3, couplings=torch.tensor([0.6]))
    states = torch.cartesian_prod(*[torch.arange(3.0)] * 5)
    p = (-field({V: states})).softmax(0).detach()
    agree = [(states[:, 0] == states[:, 1]).float(), (states[:, 0] == states[:, 2]).float()]
    wanted = torch.stack([p @ a for a in agree])
    numbers = [lambda x, k=k: x[V][..., 0] == x[V][..., k] for k in (1, 2)]
    judged_right(field, wanted, numbers, draws=200, warmup=50)


def bits_and_reals(bits: Tensor, x: Tensor) -> Tensor:
    """x ~ N(b₀ − b₁, ½) in each of two coordinates; the bits as if there were no x."""
    centre = (bits[:, 0] - bits[:, 1])[:, None]
    return (x - centre).square().sum(1) + bits.sum(1) * 0.7 - 0.8 * bits.prod(1)


@pytest.mark.slow
def test_bits_and_reals() -> None:
    sites = {
        "bits": Site(boolean, torch.Size([2])),
        "x": Site(constraints.real, torch.Size([2])),
    }
    energy = CallableEnergy(bits_and_reals, sites, dtype=torch.float64)
    weights = {
        b: math.exp(-0.7 * sum(b) + 0.8 * b[0] * b[1]) for b in itertools.product((0, 1), (0, 1))
    }
    total = sum(weights.values())
    on = sum(w for b, w in weights.items() if b[0]) / total
    both = weights[1, 1] / total
    square = 0.5 + sum(w * (b[0] - b[1]) ** 2 for b, w in weights.items()) / total
    numbers = [
        lambda x: x["bits"][..., 0],
        lambda x: x["bits"].double().prod(-1),
        lambda x: x["x"][..., 0],
        lambda x: x["x"][..., 0].square(),
    ]
    judged_right(energy, torch.tensor([on, both, 0.0, square]), numbers, draws=300, warmup=200)
