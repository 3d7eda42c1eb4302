"""Learning with numbers and labels: the gradients in the books, and known maxima.

What a rule draws is enumerated: two-valued units and labels follow a script of outcomes, normal
noise the nodes of Gauss and Hermite's rule. The reference is made of energies on a grid alone.
"""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from scipy.special import logsumexp
from torch import Tensor, nn

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.energies import BoltzmannMachine, Layer
from pyro_ebm.kernels import Gibbs, run
from pyro_ebm.learning import (
    ContrastiveDivergence,
    ExactLikelihood,
    ExactPosterior,
    MeanField,
    Monitor,
    PersistentContrastiveDivergence,
    fit,
    init_biases_from_data,
    mean_field,
)
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin, TruncatedGaussian
from tests.laws.test_real_machines import some_values, tensors
from tests.support.checks import distance
from tests.support.gaussian_machines import MIXED, NORMAL, Mixed
from tests.support.machines import H, V, states_of
from tests.support.transitions import Script, forced

LIMIT = 1e-10
Gradient = dict[str, Tensor]


def gradient(loss: Tensor, machine: BoltzmannMachine) -> Gradient:
    named = dict(machine.named_parameters())
    found = torch.autograd.grad(
        loss, list(named.values()), materialize_grads=True, allow_unused=True
    )
    return dict(zip(named, found, strict=True))


def difference(found: Gradient, wanted: Gradient) -> float:
    return max(distance(found[name], value) for name, value in wanted.items())


def data_for(small: Mixed, rows: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of the visible layer, with weights that sum to 1."""
    weights = np.random.default_rng(3).uniform(0.2, 1, rows)
    return {V: some_values(small, rows)[V]}, weights / weights.sum()


# --- the exact likelihood ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, small in MIXED.items() if V in small.units])
def test_exact_likelihood_and_its_gradient(name: str) -> None:
    small = MIXED[name]
    machine = small.machine(wrap=nn.Parameter)
    rows, weights = data_for(small)
    loss, *_ = ExactLikelihood().loss(machine, tensors(rows), None, torch.tensor(weights))
    free = np.array([small.free_energy({V: row}) for row in rows[V]])
    assert loss.item() == pytest.approx(weights @ free + small.log_partition, abs=LIMIT)
    x, p = small.tensor_table()
    wanted = -(p @ machine(x))
    for row, share in zip(rows[V], weights, strict=True):
        # The posterior of what is hidden, on the grid.
        space, log_weights = small.space({V: row}), small.log_weights({V: row})
        q = torch.tensor(np.exp(log_weights - logsumexp(log_weights))).flatten()
        shape = log_weights.shape
        every = {s: np.broadcast_to(v, (*shape, v.shape[-1])) for s, v in space.items()}
        rows_of = {s: torch.tensor(v.reshape(-1, v.shape[-1]).copy()) for s, v in every.items()}
        wanted = wanted + share * (q @ machine(rows_of))
    assert difference(gradient(loss, machine), gradient(wanted, machine)) < LIMIT


# --- contrastive divergence ----------------------------------------------------------------------


def cd_gradient(name: str) -> tuple[Gradient, Gradient]:
    """The expected gradient of CD-1 of one layer of numbers and one that is finite."""
    small = NORMAL[name]
    machine = small.machine(wrap=nn.Parameter)
    rows, weights = data_for(small)
    (_, size), (finite, _) = *small.real.items(), *small.finite.items()
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(40)
    noise = np.stack(np.meshgrid(*[nodes] * size, indexing="ij"), -1).reshape(-1, size)
    shares = np.prod(np.meshgrid(*[node_weights] * size, indexing="ij"), 0).ravel()
    states = states_of(small.units, small.finite)[finite]
    # All rows × outcomes of the finite draw × noise.
    counts = (len(weights), len(states), len(noise))
    row, state, node = (i.ravel() for i in np.indices(counts))
    data = {V: torch.tensor(rows[V][row])}
    script = Script(machine, (finite,), {finite: torch.tensor(states[state])})
    if finite == H:
        script.visits = [(H, unit) for unit in range(small.sizes[H])]

    def path() -> tuple[pytest.MonkeyPatch, Script]:
        patch = pytest.MonkeyPatch()
        patch.setattr(torch, "randn_like", lambda like: torch.tensor(noise[node]).to(like))
        script.next, script.log_prob = 0, torch.zeros(len(row), dtype=torch.float64)
        return patch, script

    objective = ContrastiveDivergence(1, ExactPosterior())
    path_weights = None
    for _ in range(2):
        state_of_rule = objective.init(machine, data)
        patch, followed = path()
        with patch.context(), forced(followed):
            patch.setattr(torch, "randn_like", lambda like: torch.tensor(noise[node]).to(like))
            loss, *_ = objective.loss(machine, data, state_of_rule, path_weights)
        patch.undo()
        p = followed.log_prob.exp().numpy() * (shares / shares.sum())[node] * weights[row]
        path_weights = torch.tensor(p)
    assert p.sum() == pytest.approx(1, abs=1e-12)

    # The reference: laws on the grid, of energies alone.
    x, _ = small.table
    count = len(small.log_weights().ravel())
    log_weights = small.log_weights().reshape(small.number_of_states, -1)
    given_finite = log_weights - logsumexp(log_weights, 1, keepdims=True)
    given_real = log_weights - logsumexp(log_weights, 0, keepdims=True)
    law, positive = np.zeros_like(log_weights), torch.zeros(())
    for values, share in zip(rows[V], weights, strict=True):
        held = small.log_weights({V: values})
        posterior = np.exp(held - logsumexp(held))
        if finite == H:  # p(h | v), then p(v' | h) p(h' | v')
            visible = posterior.ravel() @ np.exp(given_finite)
            law += share * visible * np.exp(given_real)
        else:
            visible = np.exp(given_real) @ posterior.ravel()
            law += share * visible[:, None] * np.exp(given_finite)
        space = small.space({V: values})
        every = {
            s: np.broadcast_to(v, (*held.shape, v.shape[-1])).reshape(-1, v.shape[-1]).copy()
            for s, v in space.items()
        }
        positive = positive + share * (torch.tensor(posterior.ravel()) @ machine(tensors(every)))
    assert law.size == count
    negative = torch.tensor(law.ravel()) @ machine({s: torch.tensor(v) for s, v in x.items()})
    return gradient(loss, machine), gradient(positive - negative, machine)


@pytest.mark.parametrize(
    "name", ["Gaussian-Bernoulli", "Gaussian-Bernoulli with offsets", "hidden numbers"]
)
def test_the_expected_gradient_of_cd_is_that_of_one_exact_step(name: str) -> None:
    found, wanted = cd_gradient(name)
    assert "layers.visible.log_precision" in found or "layers.hidden.log_precision" in found
    assert difference(found, wanted) < LIMIT


@pytest.mark.parametrize(
    "name",
    [
        *("Gaussian-Bernoulli", "Gaussian-Bernoulli with offsets", "hidden numbers", "rectified"),
        *("labels and numbers", "coupled numbers", "coupled numbers and bits", "bounded numbers"),
    ],
)
def test_the_gradient_of_pcd_given_its_chains(name: str) -> None:
    small = MIXED[name]
    machine = small.machine(wrap=nn.Parameter)
    rows, weights = data_for(small)
    objective = PersistentContrastiveDivergence(2, 30)
    state = objective.init(machine, tensors(rows))
    for _ in range(3):
        loss, state, _ = objective.loss(machine, tensors(rows), state, torch.tensor(weights))
        data = torch.tensor(weights) @ machine.free_energy(tensors(rows))
        chains = machine.free_energy({V: state.chain.x[V]}).mean()
        assert difference(gradient(loss, machine), gradient(data - chains, machine)) < LIMIT


@pytest.mark.parametrize("name", ["hidden numbers, coupled", "bits over numbers over numbers"])
def test_coupled_hidden_numbers_are_learned_by_their_bound(name: str) -> None:
    small = NORMAL[name]
    machine = small.machine(wrap=nn.Parameter)
    rows, weights = data_for(small)
    phase = MeanField(1e-14, 5000)
    objective = PersistentContrastiveDivergence(2, 30, positive=phase)
    state = objective.init(machine, tensors(rows))
    loss, state, _ = objective.loss(machine, tensors(rows), state, torch.tensor(weights))
    means = mean_field(machine, tensors(rows), tolerance=1e-14, max_sweeps=5000).means
    energy = machine.evaluate({**tensors(rows), **means})
    for site in means:
        precision = machine.layers[site].log_precision.exp()
        # E[x²] is the squared mean and the variance, which is not that of the new parameters.
        energy = energy + (precision / precision.detach() / 2).sum()
    wanted = torch.tensor(weights) @ energy - machine(state.chain.x).mean()
    assert difference(gradient(loss, machine), gradient(wanted, machine)) < LIMIT


# --- known maxima --------------------------------------------------------------------------------


def exact_maximum(machine: BoltzmannMachine, data: Tensor, epochs: int = 15) -> float:
    """The largest mean ln p, by a second-order method."""
    history = fit(
        machine,
        data,
        ExactLikelihood(),
        epochs=epochs,
        optimizer=lambda p: torch.optim.LBFGS(
            p, max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-10
        ),
        observers=[Monitor(every=epochs)],
        seed=1,
    )
    return history.metrics[-1]["log_likelihood"]


def test_the_maximum_of_coupled_numbers_is_the_normal_law_of_the_data() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3)) @ np.array([[1, 0.6, 0], [0, 0.8, -0.4], [0, 0, 1.2]]) + 0.5
    data = torch.tensor(rows)
    machine = BoltzmannMachine.fully_visible(
        3, unit=Gaussian(nn.Parameter(torch.ones(3, dtype=torch.float64)))
    )
    assert machine.dtype == torch.float64
    init_biases_from_data(machine, data)
    found = exact_maximum(machine, data)
    covariance = np.cov(rows.T, bias=True)
    wanted = -(3 * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(covariance)[1]) / 2
    assert found == pytest.approx(wanted, abs=1e-8)
    terms = machine.read()
    precision = terms.units[V].precision.diag() - terms.matrix()
    np.testing.assert_allclose(
        precision.detach().numpy(), np.linalg.inv(covariance), rtol=0, atol=1e-4
    )


def test_the_maximum_of_two_coupled_labels_is_the_table_of_the_data() -> None:
    rng = np.random.default_rng(1)
    data = torch.tensor(rng.choice(9, 300, p=rng.dirichlet(np.ones(9) * 3)))
    labels = torch.stack([data // 3, data % 3], -1)
    machine = BoltzmannMachine.fully_visible(2, unit=Categorical(3)).double()
    init_biases_from_data(machine, labels)
    found = exact_maximum(machine, labels)
    share = np.bincount(data.numpy(), minlength=9) / len(data)
    assert found == pytest.approx((share * np.log(share)).sum(), abs=1e-8)
    second = exact.moments(machine).second[:3, 3:]
    np.testing.assert_allclose(second.numpy().ravel(), share, rtol=0, atol=1e-4)


def test_a_machine_of_numbers_and_bits_reaches_the_moments_of_its_data() -> None:
    truth = NORMAL["Gaussian-Bernoulli"].machine()
    data = exact.sample(truth, 300, seed=3)[V]
    machine = BoltzmannMachine.restricted(
        2, 2, units=(Gaussian(nn.Parameter(torch.ones(2).double())), Bernoulli())
    )
    torch.manual_seed(5)
    init_biases_from_data(machine, data)
    found = exact_maximum(machine, data)
    moments = exact.moments(machine)
    torch.testing.assert_close(moments.mean[V], data.mean(0), rtol=0, atol=1e-4)
    squares = moments.second.diagonal()[:2]
    torch.testing.assert_close(squares, data.square().mean(0), rtol=0, atol=1e-4)
    assert found > float(exact.log_prob(truth, data).mean())  # which has one bit more, and no data


@pytest.mark.parametrize(
    "objective",
    [PersistentContrastiveDivergence(5, 200), ContrastiveDivergence(5)],
    ids=["PCD", "CD"],
)
@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_chains_learn_numbers_and_labels(kind: str, objective: ContrastiveDivergence) -> None:
    if kind == "numbers":
        rng, name = np.random.default_rng(1), "layers.visible.log_precision"
        data = torch.tensor(2.5 * rng.integers(2, size=(500, 1)) + rng.normal(0, 0.6, (500, 2)))
        unit = Gaussian(nn.Parameter(torch.ones(2)))
        machine = BoltzmannMachine.restricted(2, 3, units=(unit, Bernoulli()))
    else:
        rng = np.random.default_rng(1)
        first = rng.integers(3, size=500)
        columns = [np.where(rng.random(500) < 0.7, first, rng.integers(3, size=500)) for _ in "ab"]
        data = torch.tensor(np.stack([first, *columns], -1))
        name = "couplings.visible_hidden.weight"
        machine = BoltzmannMachine.restricted(3, 3, units=(Categorical(3), Bernoulli()))
    torch.manual_seed(2)
    init_biases_from_data(machine, data)
    begin = float(exact.log_prob(machine, data).detach().mean())
    before = dict(machine.named_parameters())[name].detach().clone()
    history = fit(machine, data, objective, epochs=150, observers=[Monitor(every=150)], seed=4)
    metrics = history.metrics[-1]
    assert metrics["log_likelihood"] > begin + 0.1
    assert {"free_energy_gap", "moment_mismatch"} <= set(metrics)
    assert not torch.equal(dict(machine.named_parameters())[name].detach(), before)
    assert bool(torch.isfinite(torch.tensor(list(metrics.values()))).all())


# --- where learning starts -----------------------------------------------------------------------

STARTS = {
    "bits": (Bernoulli(), (torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.3)),
    "spins": (
        Spin(),
        2 * (torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) < 0.4).long() - 1,
    ),
    "labels": (
        Categorical(3),
        torch.randint(3, (40, 3), generator=torch.Generator().manual_seed(3)),
    ),
    "numbers": (Gaussian(1.7), torch.randn(40, 3, generator=torch.Generator().manual_seed(4)) + 1),
    "learned precisions": (
        Gaussian(nn.Parameter(torch.ones(3).double())),
        2 * torch.randn(40, 3, generator=torch.Generator().manual_seed(5)) + 1,
    ),
    "one learned precision": (
        Gaussian(nn.Parameter(torch.tensor(1.0).double())),
        2 * torch.randn(40, 3, generator=torch.Generator().manual_seed(5)) + 1,
    ),
    "rectified": (
        TruncatedGaussian(1.3),
        torch.rand(40, 3, generator=torch.Generator().manual_seed(6)) * 2,
    ),
}


@pytest.mark.parametrize("kind", STARTS)
def test_uncoupled_units_start_with_the_means_of_the_data(kind: str) -> None:
    unit, data = STARTS[kind]
    machine = BoltzmannMachine(
        {V: Layer(unit, 3), H: Layer(Bernoulli(), 2)},
        {(V, H): torch.zeros(3 * unit.width, 2).double()},
    )
    init_biases_from_data(machine, data, pseudocount=1e-9)
    features = unit.features(data.double())
    moments = exact.moments(machine)
    torch.testing.assert_close(moments.mean[V], features.mean(0), rtol=1e-7, atol=1e-7)
    if kind == "learned precisions":
        squares = moments.second.diagonal()[:3]
        torch.testing.assert_close(squares, data.double().square().mean(0), rtol=1e-9, atol=1e-9)
    if kind == "one learned precision":
        # At the largest likelihood of one variance: no slope is left.
        loss, *_ = ExactLikelihood().loss(machine, data.double(), None)
        assert abs(float(gradient(loss, machine)["layers.visible.log_precision"])) < 1e-9


def test_a_pseudocount_is_one_more_row_of_each_label() -> None:
    machine = BoltzmannMachine.restricted(1, 1, units=(Categorical(4), Bernoulli())).double()
    init_biases_from_data(machine, torch.tensor([[0], [0], [2]]), pseudocount=1.0)
    with torch.no_grad():
        machine.couplings["visible_hidden"].weight.zero_()
    mean = exact.moments(machine).mean[V]
    torch.testing.assert_close(mean, torch.tensor([3.0, 1, 2, 1]).double() / 7)


def test_a_column_without_variance_has_no_precision() -> None:
    data = torch.randn(20, 2)
    data[:, 1] = 0.5
    machine = BoltzmannMachine.restricted(
        2, 1, units=(Gaussian(nn.Parameter(torch.ones(2))), Bernoulli())
    )
    with pytest.raises(ValueError, match=r"units \[1\] of 'visible' have the same value"):
        init_biases_from_data(machine, data)
    with pytest.warns(UserWarning, match=r"units \[1\] of 'visible'.*precisions without end"):
        fit(machine, data, ExactLikelihood(), epochs=1)
    given = BoltzmannMachine.restricted(2, 1, units=(Gaussian(), Bernoulli()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(given, data, ExactLikelihood(), epochs=1)


def test_a_constant_column_of_labels_is_warned_of() -> None:
    data = torch.tensor([[0, 2], [1, 2], [2, 2], [1, 2]])
    machine = BoltzmannMachine.restricted(2, 1, units=(Categorical(3), Bernoulli()))
    with pytest.warns(UserWarning, match=r"units \[1\] of 'visible'.*biases without end"):
        fit(machine, data, ExactLikelihood(), epochs=1)
    init_biases_from_data(machine, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(machine, data, ExactLikelihood(), epochs=1)


# --- metrics, chains, random parameters ----------------------------------------------------------


def test_the_moment_mismatch_of_labels_is_over_one_hot_features() -> None:
    data = torch.tensor([[0], [1], [1], [2]])
    bias = torch.log(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    machine = BoltzmannMachine.fully_visible(
        1, unit=Categorical(3), biases=nn.Parameter(bias), couplings=torch.zeros(3, 3).double()
    )
    metrics = Monitor().read(machine, machine.accept(data), None)
    gaps = np.array([0.25 - 0.5, 0.5 - 0.3, 0.25 - 0.2])
    # Three means, and three pairs of labels of which there are never two at the same time.
    assert metrics["moment_mismatch"] == pytest.approx(np.sqrt((gaps**2).sum() / 6), abs=1e-12)
    wanted = np.log([0.5, 0.3, 0.3, 0.2]).mean()
    assert metrics["log_likelihood"] == pytest.approx(wanted, abs=1e-12)


def test_the_moment_mismatch_of_numbers_is_over_means_and_products() -> None:
    data = torch.tensor([[1.0, 2.0], [3.0, -2.0]], dtype=torch.float64)
    machine = BoltzmannMachine.fully_visible(
        2,
        unit=Gaussian(),
        biases=nn.Parameter(torch.tensor([1.5, 0.5]).double()),
        couplings=torch.zeros(2, 2).double(),
    )
    metrics = Monitor().read(machine, machine.accept(data), None)
    gaps = np.array([2 - 1.5, 0 - 0.5, -2 - 0.75])
    assert metrics["moment_mismatch"] == pytest.approx(np.sqrt((gaps**2).sum() / 3), abs=1e-12)


def test_chains_of_labels_and_numbers_reach_arviz() -> None:
    small = MIXED["all kinds"]
    chains = run(Gibbs(), small.machine(torch.float32), 50, warmup=10, chains=3, seed=2)
    assert chains.draws["a"].dtype == torch.int8
    assert chains.draws["c"].dtype == torch.float32
    assert set(chains.draws["a"].unique().tolist()) <= {0, 1, 2}
    lp = -small.machine(torch.float32)({s: v.float() for s, v in chains.draws.items()})
    torch.testing.assert_close(chains.statistics["lp"], lp, rtol=1e-4, atol=1e-4)
    posterior = to_arviz(chains).posterior
    assert posterior["a"].shape == (3, 50, 1)
    assert posterior["b"].shape == posterior["c"].shape == (3, 50, 2)
    np.testing.assert_array_equal(posterior["c"].to_numpy(), chains.draws["c"].numpy())
    flips = chains.statistics["n_flips"]
    assert int(flips.max()) <= 3
    assert int(flips.min()) >= 0


@pytest.mark.parametrize("shape", [(), (2,)], ids=["one for all", "one each"])
def test_a_precision_may_be_a_random_variable(shape: tuple[int, ...]) -> None:
    unit = Gaussian(nn.Parameter(torch.ones(shape).double()))
    machine = BoltzmannMachine.restricted(2, 2, units=(unit, Bernoulli()))
    to_pyro_module_(machine)
    normal = dist.Normal(torch.zeros(shape, dtype=torch.float64), 0.5).to_event(len(shape))
    machine.layers[V].log_precision = PyroSample(normal)
    x = {V: torch.randn(5, 2).double(), H: torch.ones(5, 2).double()}
    pyro.set_rng_seed(0)
    trace = poutine.trace(machine).get_trace(x)
    value = trace.nodes["layers.visible.log_precision"]["value"]
    assert value.shape == shape
    same = BoltzmannMachine.restricted(
        2,
        2,
        units=(Gaussian(value.exp()), Bernoulli()),
        couplings=machine.couplings["visible_hidden"].weight.detach(),
    )
    assert distance(trace.nodes["_RETURN"]["value"], same(x)) < 1e-12
