"""What `fit` moves: all that has gradients, or a refusal that says what would stand still."""

import copy
import functools
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    Layer,
    clamp,
    convolutional_energy,
    interpolate,
    mlp_energy,
)
from pyro_ebm.learning import (
    ContrastiveDivergence,
    ExactLikelihood,
    Monitor,
    Objective,
    PersistentContrastiveDivergence,
    Step,
    fit,
)
from pyro_ebm.partition import exact
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Bernoulli

sgd = functools.partial(torch.optim.SGD, lr=0.1)
OBJECTIVES: dict[str, Objective] = {
    "exact": ExactLikelihood(),
    "CD": ContrastiveDivergence(),
    "PCD": PersistentContrastiveDivergence(chains=20),
}


def some_rows(rows: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, units + 1, generator=generator)
    return (noise[:, :-1] + noise[:, 1:] > 0).float()


def bits(n: int) -> Tensor:  # (2^n, n)
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)))


def values_of(energy: Energy) -> list[Tensor]:
    return [p.detach().clone() for p in energy.parameters()]


# --- optimisers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", OBJECTIVES)
def test_an_optimiser_of_another_machine_is_refused(rule: str) -> None:
    one, other = BoltzmannMachine.restricted(4, 2), BoltzmannMachine.restricted(4, 2)
    before = values_of(one), values_of(other)
    with pytest.raises(ValueError, match=r"moves none of the energy's parameters.*SGD\(energy\."):
        fit(one, some_rows(9, 4), OBJECTIVES[rule], optimizer=sgd(other.parameters()))
    for kept, machine in zip(before, (one, other), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(kept, values_of(machine), strict=True))
    fit(one, some_rows(9, 4), OBJECTIVES[rule], optimizer=sgd(one.parameters()))
    assert not torch.equal(before[0][0], values_of(one)[0])


def test_an_optimiser_of_some_parameters_is_refused_until_the_rest_is_frozen() -> None:
    machine, data = BoltzmannMachine.restricted(4, 2), some_rows(9, 4)
    optimizer = sgd([machine.layers["visible"].bias])
    with pytest.raises(ValueError, match="does not move the parameters") as raised:
        fit(machine, data, ExactLikelihood(), optimizer=optimizer)
    assert "energy.get_parameter('layers.hidden.bias').requires_grad_(False)" in str(raised.value)
    machine.get_parameter("layers.hidden.bias").requires_grad_(False)
    machine.get_parameter("couplings.visible_hidden.weight").requires_grad_(False)
    before = values_of(machine)
    fit(machine, data, ExactLikelihood(), optimizer=optimizer)
    moved = [not torch.equal(a, b) for a, b in zip(before, values_of(machine), strict=True)]
    assert moved == [True, False, False]


def test_an_optimiser_of_more_than_the_energy_is_taken() -> None:
    one, other = BoltzmannMachine.restricted(4, 2), BoltzmannMachine.restricted(4, 2)
    before = values_of(other)
    optimizer = sgd([*one.parameters(), *other.parameters()])
    fit(one, some_rows(9, 4), ExactLikelihood(), optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, values_of(other), strict=True))


@pytest.mark.parametrize("optimizer", [None, "adam", 0.1])
def test_what_is_no_optimiser_is_refused(optimizer: object) -> None:
    with pytest.raises(TypeError, match="wanted a torch optimiser, or what makes one"):
        fit(
            BoltzmannMachine.restricted(4, 2),
            some_rows(9, 4),
            ExactLikelihood(),
            optimizer=optimizer,
        )  # type: ignore[arg-type]


# --- tensors that are no parameters --------------------------------------------------------------


class Doubled(nn.Module):
    """The same couplings for both halves of the visible units."""

    def forward(self, half: Tensor) -> Tensor:
        return torch.cat([half, half])

    def right_inverse(self, whole: Tensor) -> Tensor:
        return whole[: len(whole) // 2]


@pytest.mark.parametrize("rule", OBJECTIVES)
def test_a_computed_weight_is_refused_and_the_cure_learns_it(rule: str) -> None:
    half = nn.Parameter(torch.randn(3, 2) / 10)
    data = some_rows(40, 6)
    machine = BoltzmannMachine.restricted(6, 2, couplings=torch.cat([half, half]))
    with pytest.raises(ValueError, match="were computed from others") as raised:
        fit(machine, data, OBJECTIVES[rule])
    cure = str(raised.value)
    assert "energy.get_submodule('couplings.visible_hidden'), 'weight', module)" in cure

    weight = nn.Parameter(torch.cat([half, half]).detach())
    machine = BoltzmannMachine.restricted(6, 2, couplings=weight)
    owner = machine.get_submodule("couplings.visible_hidden")
    parametrize.register_parametrization(owner, "weight", Doubled())
    fit(machine, data, OBJECTIVES[rule], optimizer=sgd, epochs=5)
    learned = machine.couplings["visible_hidden"].weight.detach()
    assert torch.equal(learned[:3], learned[3:])
    assert not torch.allclose(learned[:3], half)


def test_the_gradient_through_a_computed_weight_is_that_of_the_enumerated_likelihood() -> None:
    data, half = some_rows(40, 6).double(), torch.randn(3, 2).double()
    weight = nn.Parameter(torch.cat([half, half]))
    machine = BoltzmannMachine.restricted(6, 2, couplings=weight)
    owner = machine.get_submodule("couplings.visible_hidden")
    parametrize.register_parametrization(owner, "weight", Doubled())
    fit(machine, data, ExactLikelihood(), optimizer=sgd, epochs=1)
    free = half.clone().requires_grad_()
    v, h = bits(6).double(), bits(2).double()
    whole = torch.cat([free, free])
    joint = v @ whole @ h.mT
    likelihood = (data @ whole @ h.mT).logsumexp(1).mean() - joint.flatten().logsumexp(0)
    (slope,) = torch.autograd.grad(likelihood, free)
    learned = machine.couplings["visible_hidden"].weight.detach()[:3]
    torch.testing.assert_close(learned, half + 0.1 * slope, rtol=0, atol=1e-12)


def given_tensors() -> dict[str, tuple[Callable[[Tensor], Energy], tuple[int, ...], str]]:
    """Energies with a tensor of a shape in each of the places where one may be given."""
    make = BoltzmannMachine
    return {
        "weight": (lambda w: make.restricted(4, 2, couplings=w), (4, 2), "visible_hidden.weight"),
        "a square": (lambda w: make.fully_visible(4, couplings=w + w.mT), (4, 4), "visible.weight"),
        "bias": (lambda b: make.fully_visible(4, biases=b), (4,), "layers.visible.bias"),
        "offset": (lambda b: make.fully_visible(4, offset=b), (4,), "layers.visible.offset"),
        "edges": (
            lambda w: make.on_graph([(0, 1), (1, 2), (2, 3)], couplings=w),
            (3,),
            "visible_visible.weight",
        ),
        "weight of an energy": (lambda t: t * make.fully_visible(4), (), "weight0"),
        "constant": (lambda t: make.fully_visible(4) + t, (), "energies.1.value"),
    }


@pytest.mark.parametrize("where", given_tensors())
@pytest.mark.parametrize("kind", ["leaf", "computed"])
def test_a_tensor_with_gradients_that_is_no_parameter_is_refused(where: str, kind: str) -> None:
    make, shape, name = given_tensors()[where]
    value = torch.full(shape, 0.1).requires_grad_()
    energy = make(value if kind == "leaf" else 2 * value)
    data = some_rows(9, 4)
    with pytest.raises(ValueError, match=r"nn\.Parameter") as raised:
        fit(energy, 2 * data - 1 if where == "edges" else data, ExactLikelihood())
    assert name in str(raised.value)
    assert "value.detach()" in str(raised.value)


def test_the_weight_of_a_sum_is_learned_through_another_weight() -> None:
    """θ of 2 · θ E, and of θ (E₁ + E₂), is moved by its gradient, and not by a copy of it."""
    first, second = (BoltzmannMachine.fully_visible(3, biases=b) for b in torch.randn(2, 3))
    for machine in (first, second):
        machine.requires_grad_(False)
    data = some_rows(20, 3)
    for make in (lambda t: 2 * (t * first), lambda t: t * (first + second)):
        theta = nn.Parameter(torch.tensor(0.5))
        fit(make(theta), data, ExactLikelihood(), optimizer=sgd, epochs=1)
        free = torch.tensor(0.5, requires_grad=True)
        energy = make(free)
        likelihood = -energy(data).mean() - (-energy(bits(3))).logsumexp(0)
        (slope,) = torch.autograd.grad(likelihood, free)
        torch.testing.assert_close(theta.detach(), 0.5 + 0.1 * slope, rtol=0, atol=1e-6)


WITH_SHARE: dict[str, Callable[[Tensor, Energy, Energy], Energy]] = {
    "on the way": lambda t, a, b: interpolate(a, b, t),
    "twice the way": lambda t, a, b: 2 * interpolate(a, b, t),
    "on the way from the way": lambda t, a, b: interpolate(interpolate(a, b, t), b, 0.25),
    "at a temperature": lambda t, a, b: (a + b) / t,
    "half of it": lambda t, a, b: 0.5 * (a / t),
    "beside a function": lambda t, a, b: interpolate(a, b + CallableEnergy(alike, three_bits()), t),
}


def alike(x: Tensor) -> Tensor:
    return (x[:, 1:] - x[:, :-1]).abs().sum(1)


@pytest.mark.parametrize("way", WITH_SHARE)
def test_a_share_and_a_temperature_are_learned_where_others_are_computed_from_them(
    way: str,
) -> None:
    """1 − t and 1 / T follow their parameter, step by step, as plain gradient ascent moves it."""
    make = WITH_SHARE[way]
    first, second = (BoltzmannMachine.fully_visible(3, biases=b) for b in torch.randn(2, 3))
    for machine in (first, second):
        machine.requires_grad_(False)
    data, states = some_rows(20, 3), bits(3)
    share = nn.Parameter(torch.tensor(0.4))
    energy = make(share, first, second)
    assert [p is share for p in energy.parameters() if p.requires_grad] == [True]
    fit(energy, data, ExactLikelihood(), optimizer=sgd, epochs=3)
    free = torch.tensor(0.4)
    for _ in range(3):
        free = free.detach().requires_grad_()
        plain = make(free, first, second)
        likelihood = -plain(data).mean() - (-plain(states)).logsumexp(0)
        free = free + 0.1 * torch.autograd.grad(likelihood, free)[0]
    torch.testing.assert_close(share.detach(), free.detach(), rtol=0, atol=1e-5)
    wanted = make(free.detach(), first, second)(states)
    for one in (energy, copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        torch.testing.assert_close(one(states), wanted, rtol=0, atol=1e-5)


def test_a_temperature_of_zero_is_refused_though_it_is_a_parameter() -> None:
    with pytest.raises(ValueError, match="multiplied by NaN or an infinite number"):
        BoltzmannMachine.fully_visible(3) / nn.Parameter(torch.tensor(0.0))


@pytest.mark.parametrize("rule", OBJECTIVES)
def test_a_parameter_that_is_used_twice_gets_both_gradients(rule: str) -> None:
    """W couples the visible units to two layers alike: by enumeration where that is exact."""
    weight = nn.Parameter(torch.randn(4, 2).double())
    start = weight.detach().clone()
    sizes = {"a": 2, "visible": 4, "b": 2}
    layers = {
        name: Layer(Bernoulli(), n, bias=torch.zeros(n).double()) for name, n in sizes.items()
    }
    machine = BoltzmannMachine(layers, {("visible", "a"): weight, ("visible", "b"): weight})
    data = some_rows(30, 4).double()
    assert [name for name, _ in machine.named_parameters()] == ["couplings.visible_a.weight"]
    fit(machine, data, OBJECTIVES[rule], optimizer=sgd, epochs=1)
    assert not torch.equal(start, weight)
    if rule == "exact":
        free = start.clone().requires_grad_()
        summed = torch.nn.functional.softplus
        likelihood = 2 * summed(data @ free).sum(1).mean()
        likelihood = likelihood - (2 * summed(bits(4).double() @ free).sum(1)).logsumexp(0)
        (slope,) = torch.autograd.grad(likelihood, free)
        torch.testing.assert_close(weight.detach(), start + 0.1 * slope, rtol=0, atol=1e-12)


def test_a_parameter_of_two_square_couplings_is_refused_and_the_cure_ties_them() -> None:
    weight = nn.Parameter(torch.randn(3, 3))
    layers = {name: Layer(Bernoulli(), 3) for name in ("visible", "b")}
    pairs = {("visible", "visible"): weight, ("b", "b"): weight}
    with pytest.raises(ValueError, match=r"machine.couplings\['b_b'\].weight = machine.coupl"):
        BoltzmannMachine(layers, pairs)
    machine = BoltzmannMachine(layers, {**pairs, ("b", "b"): None})
    machine.couplings["b_b"].weight = machine.couplings["visible_visible"].weight
    x = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    data = {"visible": x, "b": x.flip(0)}
    fit(machine, data, ExactLikelihood(), epochs=3)
    one, other = (machine.couplings[name].weight for name in ("visible_visible", "b_b"))
    assert one is other


def closed_over(tensor: Tensor) -> Energy:
    return CallableEnergy(lambda x: -(x * tensor).sum(-1), three_bits())


def of_a_distribution(tensor: Tensor) -> Energy:
    return DistributionEnergy(dist.Bernoulli(logits=tensor).to_event(1))


class OfBits(nn.Module):
    """−θ · x."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return -(x * self.theta).sum(-1)


@pytest.mark.parametrize("kind", ["parameter", "plain"])
@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("make", [closed_over, of_a_distribution])
def test_a_tensor_of_a_part_that_no_step_moves_is_refused_and_the_cures_learn_or_keep_it(
    make: Callable[[Tensor], Energy], batch_size: int | None, kind: str
) -> None:
    start, data = torch.tensor([0.3, -0.2, 0.1]), some_rows(30, 3)
    learn = functools.partial(
        fit, data=data, objective=ExactLikelihood(), epochs=2, batch_size=batch_size
    )
    tensor = nn.Parameter(start.clone()) if kind == "parameter" else start.clone().requires_grad_()
    energy = BoltzmannMachine.fully_visible(3) + make(tensor)
    with pytest.raises(ValueError, match=r"shape \(3,\) that requires.*no parameter of the energy"):
        learn(energy)

    optimizer = torch.optim.Adam([*energy.parameters(), tensor])
    learn(energy, optimizer=optimizer)
    assert bool((tensor != start).all())

    module = OfBits(start)
    energy = BoltzmannMachine.fully_visible(3) + CallableEnergy(module, three_bits())
    learn(energy)
    assert bool((module.theta != start).all())

    kept = tensor.detach().clone()
    tensor.requires_grad_(False)
    learn(BoltzmannMachine.fully_visible(3) + make(tensor))
    assert torch.equal(tensor, kept)


def test_a_function_alone_of_a_tensor_that_it_closes_over_is_refused_with_the_module_as_cure() -> (
    None
):
    theta, data = nn.Parameter(torch.zeros(3)), some_rows(30, 3)
    with pytest.raises(ValueError, match=r"CallableEnergy\(module, sites\)"):
        fit(closed_over(theta), data, ExactLikelihood())
    module = OfBits(theta)
    fit(CallableEnergy(module, three_bits()), data, ExactLikelihood(), epochs=2)
    assert bool((module.theta != 0).all())


def test_tensors_that_an_objective_makes_for_one_loss_are_its_own() -> None:
    """The noisy rows of denoising require gradients, as leaves do, and are made anew."""
    energy = mlp_energy(3, (4,))
    before = values_of(energy)
    fit(energy, torch.randn(20, 3), DenoisingScore(), epochs=3)
    assert not torch.equal(before[0], values_of(energy)[0])


# --- parameters that are NaN, or frozen ----------------------------------------------------------


@pytest.mark.parametrize("rule", OBJECTIVES)
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("couplings.visible_visible.weight", (0, 1)),
        ("couplings.visible_visible.weight", (1, 1)),
        ("couplings.visible_visible.weight", (2, 0)),
        ("layers.visible.bias", (1,)),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_that_are_not_finite_are_refused_by_name(
    value: float, name: str, where: tuple[int, ...], rule: str
) -> None:
    machine = BoltzmannMachine.fully_visible(4)
    with torch.no_grad():
        machine.get_parameter(name)[where] = value
    with pytest.raises(FloatingPointError, match=r"visible") as raised:
        fit(machine, some_rows(9, 4), OBJECTIVES[rule])
    assert "NaN" in str(raised.value)


def test_a_function_with_nan_parameters_is_refused_by_name() -> None:
    energy = CallableEnergy(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), three_bits())
    with torch.no_grad():
        energy.get_parameter("function.0.bias").fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"\['function.0.bias'\] contain NaN before"):
        fit(energy, some_rows(9, 3), ExactLikelihood())


def test_frozen_parameters_are_refused_and_freed_by_the_cure() -> None:
    machine = BoltzmannMachine.restricted(4, 2).requires_grad_(False)
    with pytest.raises(ValueError, match=r"no learned parameters.*energy.requires_grad_\(\)"):
        fit(machine, some_rows(9, 4), ExactLikelihood())
    machine.requires_grad_()
    before = values_of(machine)
    fit(machine, some_rows(9, 4), ExactLikelihood())
    assert not torch.equal(before[0], values_of(machine)[0])


# --- rows of any shape, objectives of one's own --------------------------------------------------


def three_bits() -> dict[str, Site]:
    return {"visible": Site(boolean, torch.Size([3]))}


@dataclass(frozen=True)
class DenoisingScore(Objective):
    """Denoising score matching: `init` and `loss` are all that an objective has to have."""

    noise: float = 0.5

    def init(self, energy: Energy, data: Sites | Tensor) -> None:
        energy.accept(data)

    def loss(
        self, energy: Energy, data: Sites | Tensor, state: None, row_weights: Tensor | None = None
    ) -> Step:
        x = energy.accept(data)["visible"]
        shift = self.noise * torch.randn_like(x)
        noisy = (x + shift).requires_grad_()
        (slope,) = torch.autograd.grad(energy(noisy).sum(), noisy, create_graph=True)
        return Step((slope - shift / self.noise**2).square().mean(), state)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_an_objective_of_ones_own_learns_images(batch_size: int | None) -> None:
    energy = convolutional_energy((1, 8, 8), channels=(4,))
    images = torch.randn(20, 1, 8, 8) / 10 + 1
    before = values_of(energy)
    history = fit(energy, images, DenoisingScore(), epochs=2, batch_size=batch_size)
    moved = [not torch.equal(a, b) for a, b in zip(before, values_of(energy), strict=True)]
    assert moved == [True, True, True, False]  # the last, a bias, has no slope in x
    assert history.place.epoch == 2
    assert history.metrics == []  # none can be had


class OfGrids(nn.Module):
    """θ · x over grids of bits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return -(self.weight * x).flatten(1).sum(1)


def test_grids_of_bits_are_learned_by_exact_likelihood() -> None:
    energy = CallableEnergy(OfGrids(), {"visible": Site(boolean, torch.Size([1, 2, 2]))})
    data = some_rows(40, 4).reshape(40, 1, 2, 2)
    lbfgs = functools.partial(torch.optim.LBFGS, max_iter=50, line_search_fn="strong_wolfe")
    history = fit(energy, data, ExactLikelihood(), optimizer=lbfgs, epochs=3)
    wanted = data.mean(0).logit()
    torch.testing.assert_close(energy.get_parameter("function.weight"), wanted, rtol=0, atol=1e-3)
    assert "moment_mismatch" in history.metrics[-1]


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (0, 1, 8, 8), (2, 3, 1, 8, 8)])
def test_images_without_rows_are_refused(shape: tuple[int, ...]) -> None:
    energy = convolutional_energy((1, 8, 8), channels=(4,))
    with pytest.raises(ValueError, match=r"wanted \((rows|\*batch), 1, 8, 8\)"):
        fit(energy, torch.zeros(shape), DenoisingScore())


@dataclass(frozen=True)
class Answering(Objective):
    """An objective with a fixed answer."""

    answer: object

    def init(self, energy: Energy, data: Sites | Tensor) -> None:
        return None

    def loss(
        self, energy: Energy, data: Sites | Tensor, state: None, row_weights: Tensor | None = None
    ) -> Step:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((torch.zeros(()), None), "returned a tuple; wanted Step"),
        (torch.zeros(()), "returned a Tensor; wanted Step"),
        (Step(torch.zeros(()), None), "depends on the energy's parameters"),
        (Step(torch.zeros(3).requires_grad_(), None), r"the loss \(3,\); wanted one number"),
    ],
)
def test_what_is_no_step_is_refused(answer: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        fit(BoltzmannMachine.fully_visible(3), some_rows(9, 3), Answering(answer))


# --- conditional learning: rows that are held ----------------------------------------------------


def pair() -> BoltzmannMachine:
    layers = {name: Layer(Bernoulli(), n) for name, n in {"x": 3, "y": 2, "h": 2}.items()}
    machine = BoltzmannMachine(layers, [("x", "y"), ("y", "h")]).double()
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_()
    return machine


@pytest.mark.parametrize("weighted", [False, True])
def test_the_conditional_likelihood_is_learned_where_rows_are_held(weighted: bool) -> None:
    """Its gradient, by enumeration: 5 rows are neither the states of y nor of h."""
    machine, other = pair(), pair()
    other.load_state_dict(machine.state_dict())
    x, y = some_rows(5, 3, seed=1).double(), some_rows(5, 2, seed=2).double()
    x[2], y[2] = x[1], 1 - y[1]
    held = clamp(machine, {"x": x})
    every = [(a, b) for a in bits(2).double() for b in bits(2).double()]
    log_p = []
    for k in range(5):
        energies = torch.stack([other({"x": x[k], "y": a, "h": b}) for a, b in every])
        here = torch.tensor([bool((a == y[k]).all()) for a, _ in every])
        log_p.append((-energies[here]).logsumexp(0) - (-energies).logsumexp(0))
    weights = torch.tensor([1.0, 2, 0, 1, 3]).double() if weighted else torch.ones(5).double()
    wanted = -(weights / weights.sum()) @ torch.stack(log_p)
    slopes = torch.autograd.grad(wanted, list(other.parameters()), allow_unused=True)
    step = ExactLikelihood().loss(held, {"y": y}, None, weights)
    torch.testing.assert_close(step.loss, wanted, rtol=0, atol=1e-12)
    if not weighted:
        fit(held, {"y": y}, ExactLikelihood(), optimizer=sgd, epochs=1)
        for after, before, slope in zip(
            machine.parameters(), other.parameters(), slopes, strict=True
        ):
            moved = before.detach() - 0.1 * (0 if slope is None else slope)
            torch.testing.assert_close(after.detach(), moved, rtol=0, atol=1e-12)


def test_a_constant_column_is_warned_of_where_rows_are_held() -> None:
    machine, y = pair(), some_rows(5, 2, seed=2)
    y[:, 1] = 1
    with pytest.warns(UserWarning, match=r"units \[1\] of 'y' have the same value in every row"):
        fit(clamp(machine, {"x": some_rows(5, 3)}), {"y": y}, ExactLikelihood(), epochs=1)


def test_other_rows_than_those_held_are_refused() -> None:
    held = clamp(pair(), {"x": some_rows(5, 3)})
    y = {"y": some_rows(5, 2, seed=2)}
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: fit(held, {"y": some_rows(4, 2)}, ExactLikelihood()), "the data have 4 rows"),
        (lambda: fit(held, y, ExactLikelihood(), batch_size=2), "leave batch_size out"),
        (
            lambda: fit(held, y, ExactLikelihood(), observers=[Monitor(held_out=y)]),
            "held_out has rows",
        ),
        (lambda: fit(held, y, ContrastiveDivergence()), "only ExactLikelihood"),
        (lambda: fit(held, y, PersistentContrastiveDivergence()), "only ExactLikelihood"),
    ]
    for ask, words in refused:
        with pytest.raises(ValueError, match=words):
            ask()
    held_out = exact.log_prob(clamp(pair(), {"x": some_rows(4, 3)}), {"y": some_rows(4, 2)})
    assert held_out.shape == (4,)  # the cure for rows that are held out
