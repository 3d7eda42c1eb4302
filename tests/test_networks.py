"""Networks as energies: by hand, their Z by quadrature, and layers of bounded slope."""

import copy
import functools
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm import HMC, CallableEnergy, Site, convolutional_energy, mlp_energy, run
from pyro_ebm.energies import SpectralConvolution, SpectralLinear
from pyro_ebm.energies.functions import spectral as subject
from pyro_ebm.sites import boolean

LAYERS = {
    "linear": lambda: SpectralLinear(6, 4),
    "wide linear": lambda: SpectralLinear(3, 7, bound=2.5),
    "convolution": lambda: SpectralConvolution(2, 3, 3, padding=1),
    "strided convolution": lambda: SpectralConvolution(2, 5, 3, stride=2, bound=0.5),
}


def inputs(layer: nn.Module, rows: int = 5) -> Tensor:
    weight = layer.weight
    shape = (weight.shape[1],) if weight.dim() == 2 else (weight.shape[1], 6, 5)
    return torch.randn(rows, *shape, dtype=weight.dtype)


# --- ready-made networks -------------------------------------------------------------------------


def test_a_perceptron_is_the_sum_of_a_square_and_its_network() -> None:
    energy = mlp_energy(3, (5, 4), spread=2.0, activation=nn.Tanh)
    x = torch.randn(7, 3)
    first, second, last = [m for m in energy.modules() if isinstance(m, nn.Linear)]
    h = torch.tanh(x @ first.weight.T + first.bias)
    h = torch.tanh(h @ second.weight.T + second.bias)
    wanted = x.square().sum(1) / 8 + (h @ last.weight.T + last.bias)[:, 0]
    assert torch.allclose(energy(x), wanted, atol=1e-6)
    alone = mlp_energy(3, (5, 4), spread=math.inf, activation=nn.Tanh)
    alone.load_state_dict(energy.state_dict())
    assert torch.allclose(alone(x), wanted - x.square().sum(1) / 8, atol=1e-6)


def test_a_convolutional_network_is_its_layers_and_a_square() -> None:
    energy = convolutional_energy((2, 7, 5), (3, 4), spread=0.5)
    x = torch.randn(6, 2, 7, 5)
    first, second = [m for m in energy.modules() if isinstance(m, nn.Conv2d)]
    last = next(m for m in energy.modules() if isinstance(m, nn.Linear))
    silu = nn.functional.silu
    h = silu(second(silu(first(x))))
    assert h.shape == (6, 4, 2, 2)
    wanted = 2 * x.square().flatten(1).sum(1) + last(h.flatten(1))[:, 0]
    assert torch.allclose(energy(x), wanted, atol=1e-4)
    assert energy(x.reshape(2, 3, 2, 7, 5)).shape == (2, 3)


def test_networks_live_on_other_sites_too() -> None:
    bits = mlp_energy({"pixels": Site(boolean, torch.Size([2, 3]))}, (4,), spread=math.inf)
    assert bits(torch.ones(5, 2, 3)).shape == (5,)
    assert mlp_energy((), (4,))(torch.tensor(0.3)).shape == ()
    grey = {"image": Site(constraints.unit_interval, torch.Size([1, 6, 6]))}
    assert convolutional_energy(grey, (3,))(torch.rand(1, 6, 6)).shape == ()
    straight = mlp_energy(2, (), spread=math.inf)
    x = torch.randn(3, 2)
    assert torch.allclose(straight(2 * x) - straight(x), straight(x) - straight(0 * x), atol=1e-6)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: mlp_energy(2, (0,)), "widths.*positive"),
        (lambda: mlp_energy(2, 64), "widths is 64"),
        (lambda: mlp_energy(2, spread=0.0), "spread is 0.0"),
        (lambda: mlp_energy(2, spread=math.nan), "spread is nan"),
        (lambda: convolutional_energy((8, 8)), r"\(8, 8\).*\(channels, height, width\)"),
        (lambda: convolutional_energy((1, 8, 8), (4, -1)), "channels.*-1"),
        (
            lambda: mlp_energy({k: Site(constraints.real, torch.Size([2])) for k in "ab"}),
            "forward.a, b.*CallableEnergy",
        ),
        (lambda: SpectralLinear(2, 2, bound=0.0), "bound is 0.0"),
        (lambda: SpectralConvolution(2, 2, 3, bound=math.inf), "bound is inf"),
    ],
)
def test_what_makes_no_network_is_refused(ask: object, words: str) -> None:
    assert callable(ask)
    with pytest.raises(ValueError, match=words):
        ask()


@pytest.mark.parametrize("linear", [nn.Linear, SpectralLinear])
def test_gradients_of_a_network_are_finite_differences(linear: type[nn.Module]) -> None:
    energy = mlp_energy(2, (5, 4), linear=linear).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(energy, (x,))
    images = convolutional_energy((1, 5, 5), (3,), convolution=SpectralConvolution).double()
    y = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(images, (y,))


# --- Z by quadrature -----------------------------------------------------------------------------


def log_partition(energy: CallableEnergy, half: float, points: int) -> Tensor:
    """ln Z in two dimensions by the trapezoid rule on a square, whose rim has no weight."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    step = 2 * half / (points - 1)
    return (-energy(grid)).logsumexp(0) + 2 * math.log(step)


def test_the_partition_function_of_a_straight_network_is_a_normal_law_s() -> None:
    # ∫ exp(−x²/2s² − w·x − b) = 2π s² exp(s² w²/2 − b).
    energy = mlp_energy(2, (), spread=0.8).double()
    (layer,) = [m for m in energy.modules() if isinstance(m, nn.Linear)]
    square, bias = layer.weight.square().sum(), layer.bias[0]
    wanted = math.log(2 * math.pi * 0.64) + 0.32 * square - bias
    assert abs(float((log_partition(energy, 10.0, 200) - wanted).detach())) < 1e-10


def test_the_partition_function_of_two_squares_is_a_product() -> None:
    energy = CallableEnergy(lambda x: (x**4).sum(1) / 4, 2, dtype=torch.float64)
    wanted = 2 * math.log(2**-0.5 * math.gamma(0.25))  # ∫ exp(−x⁴/4) = Γ(1/4) / √2
    assert abs(float(log_partition(energy, 8.0, 400)) - wanted) < 1e-10


def test_a_tilted_normal_law_is_normalisable_and_a_network_alone_is_not() -> None:
    torch.manual_seed(1)
    for spread, grows in ((1.0, False), (math.inf, True)):
        energy = mlp_energy(2, (8,), spread=spread).double()
        small, large = (log_partition(energy, half, 401).detach() for half in (20.0, 40.0))
        assert bool(large - small > 1) is grows


def test_the_gradient_of_log_z_is_minus_the_mean_gradient_of_the_energy() -> None:
    energy = mlp_energy(2, (6,)).double()
    parameters = list(energy.parameters())
    found = torch.autograd.grad(log_partition(energy, 9.0, 120), parameters)
    axis = torch.linspace(-9, 9, 120, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    values = energy(grid)
    weights = (-values).softmax(0).detach()
    wanted = torch.autograd.grad((weights * values).sum(), parameters)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, -other, rtol=0, atol=1e-10)


def test_hmc_draws_from_a_network_as_quadrature_says() -> None:
    # 400 chains of 30 draws after 50 steps: a mean square off by a tenth is found. The standard
    # error is that of the chains' own means, which are independent; α = 1e-6.
    torch.manual_seed(2)
    energy = mlp_energy(2, (8,))
    kernel = HMC(step_size=0.2, trajectory_length=1.5)
    chains = run(kernel, energy, 30, warmup=50, chains=400, seed=1)
    axis = torch.linspace(-8, 8, 200)
    grid = torch.cartesian_prod(axis, axis)
    weights = (-energy(grid)).softmax(0).detach()
    for moment in (lambda x: x, torch.square):
        wanted = (weights[:, None] * moment(grid)).sum(0)
        means = moment(chains.draws["visible"]).mean(1)
        error = means.std(0) / math.sqrt(400)
        assert bool(((means.mean(0) - wanted).abs() < 5.2 * error).all())
        assert bool((error < 0.05).all())


# --- spectral normalisation ----------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_the_kernel_s_matrix_has_the_norm_that_was_asked_for(name: str) -> None:
    layer = LAYERS[name]().double()
    used = layer.normalise(layer.weight)
    assert used.shape == layer.weight.shape
    norm = torch.linalg.matrix_norm(used.flatten(1), 2).detach()
    assert math.isclose(float(norm), layer.normalise.bound, rel_tol=1e-13)
    single = LAYERS[name]()
    norm = torch.linalg.matrix_norm(single.normalise(single.weight).flatten(1).double(), 2)
    assert math.isclose(float(norm.detach()), single.normalise.bound, rel_tol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_plain_one_with_the_normalised_weight(name: str) -> None:
    layer = LAYERS[name]().double()
    x = inputs(layer)
    sigma = torch.linalg.svdvals(layer.weight.flatten(1))[0]
    weight = layer.weight * layer.normalise.bound / sigma
    if layer.weight.dim() == 2:
        wanted = x @ weight.T + layer.bias
    else:
        wanted = nn.functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
    assert torch.allclose(layer(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_slope_is_bounded(name: str) -> None:
    layer = LAYERS[name]().double()
    x, y = inputs(layer, 200), inputs(layer, 200)
    steep = (layer(x) - layer(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    factor = 1.0 if layer.weight.dim() == 2 else 3.0
    assert bool((steep <= layer.normalise.bound * factor).all())
    if layer.weight.dim() == 2:  # and reached
        right = layer.normalise.largest.right
        rise = (layer(right) - layer(0 * right)).norm().detach()
        assert math.isclose(float(rise), layer.normalise.bound, rel_tol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_goes_through_the_norm(name: str) -> None:
    layer = LAYERS[name]().double()
    x, start = inputs(layer, 2), layer.weight.detach().clone()

    def outputs(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).square().sum()

    assert torch.autograd.gradcheck(outputs, (start.requires_grad_(),), atol=1e-6)
    # W / σ(W) does not change along W.
    (gradient,) = torch.autograd.grad(outputs(start), start)
    assert abs(float((gradient * start.detach()).sum())) < 1e-12 * float(gradient.abs().max()) * 1e3


def frozen_norm(module: subject.SpectralNormalisation, weight: Tensor) -> Tensor:
    norm = torch.linalg.svdvals(weight.detach().flatten(1))[0]
    return weight * (module.bound / norm)


def test_a_norm_without_a_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject.SpectralNormalisation, "forward", frozen_norm)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        test_the_gradient_goes_through_the_norm("linear")


def changed(layer: SpectralLinear, how: str) -> None:
    """Changes the weight."""
    new = torch.randn_like(layer.weight)
    if how == "in place":
        with torch.no_grad():
            layer.weight.copy_(new)
    if how == "behind autograd's back":
        layer.weight.data.copy_(new)
    if how == "another parameter":
        layer.weight = nn.Parameter(new)
    if how == "an optimiser":
        layer(torch.ones(6)).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=5.0).step()
    if how == "a loaded state":
        layer.load_state_dict(SpectralLinear(6, 4).state_dict())
    if how == "one number":
        layer.weight.data[0, 0] += 1.0


WAYS = (
    "in place",
    "behind autograd's back",
    "another parameter",
    "an optimiser",
    "a loaded state",
    "one number",
)


def misses_a_change(how: str) -> bool:
    """Whether the norm is not that of the weight after a change."""
    layer = SpectralLinear(6, 4)
    layer(torch.ones(6))
    changed(layer, how)
    used = layer.normalise(layer.weight).detach()
    return abs(float(torch.linalg.matrix_norm(used, 2)) - 1) > 1e-5


@pytest.mark.parametrize("how", WAYS)
def test_a_changed_weight_is_noticed(how: str) -> None:
    assert not misses_a_change(how)


def test_vectors_that_are_kept_by_version_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "same", lambda one, other: one.dtype == other.dtype)
    assert all(misses_a_change(how) for how in WAYS)


def test_the_energy_is_a_function_of_its_parameters_alone() -> None:
    x = torch.randn(4, 2)
    energy = mlp_energy(2, (8, 8), linear=SpectralLinear)
    first, state = energy(x), copy.deepcopy(energy.state_dict())
    for parameter in energy.parameters():
        parameter.data.normal_()
    assert not torch.equal(energy(x), first)
    energy.load_state_dict(state)
    assert torch.equal(energy(x), first)
    assert all("largest" not in name for name in state)
    with torch.no_grad():
        assert torch.equal(energy(x), first)
    assert torch.equal(energy.eval()(x), energy.train()(x))


def test_layers_survive_pickle_copy_conversion_and_pyro() -> None:
    energy = mlp_energy(2, (8,), linear=functools.partial(SpectralLinear, bound=3.0))
    x = torch.randn(4, 2)
    wanted = energy(x)
    for other in (pickle.loads(pickle.dumps(energy)), copy.deepcopy(energy)):
        assert torch.equal(other(x), wanted)
        for parameter in other.parameters():
            parameter.data.mul_(2).add_(0.1)
        assert not torch.equal(other(x), wanted)
    assert torch.allclose(energy.double()(x), wanted.double(), atol=1e-6)
    assert torch.allclose(energy.float()(x), wanted)
    to_pyro_module_(energy)
    layer = next(m for m in energy.modules() if isinstance(m, SpectralLinear))
    layer.weight = PyroSample(dist.Normal(torch.zeros(8, 2), 1.0).to_event(2))
    assert not torch.equal(energy(x), energy(x))
    assert torch.linalg.matrix_norm(layer.normalise.largest.matrix, 2) > 0


def test_a_weight_of_zeros_gives_zeros() -> None:
    layer = SpectralLinear(3, 2)
    layer.weight.data.zero_()
    out = layer(torch.ones(3))
    assert torch.equal(out, layer.bias)
    out.sum().backward()
    assert bool(layer.weight.grad.isfinite().all())
