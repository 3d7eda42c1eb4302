"""Markov chains inside Pyro: our driver, our kernels under Pyro's, and blocks within Gibbs."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import replace

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC as PyroHMC, MCMC as PyroMCMC, NUTS, Predictive
from pyro.infer.autoguide.initialization import init_to_median
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.energies import BoltzmannMachine
from pyro_ebm.infer import MCMC, EnergyKernel, WithinGibbs
from pyro_ebm.kernels import HMC, MALA, Cycle, Gibbs, ParallelTempering, RandomWalk, UnitMass
from tests.support.models import numbers

# Two labels and a level with known posterior moments, by sums over labels and a fine grid.
DATA = torch.tensor([2.4, -0.3, 1.8])


def model(data: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(-0.5, 0.3))
    with pyro.plate("n", len(data)):
        label = pyro.sample("label", dist.Categorical(torch.tensor([0.3, 0.5, 0.2])))
        pyro.sample("seen", dist.Normal(level + label, scale), obs=data)


def posterior_by_quadrature() -> tuple[dict[str, float], np.ndarray]:
    """Means and spreads of the real sites, and the labels' probabilities (element, label)."""
    level = torch.linspace(-5, 5, 401).double()[:, None, None, None]
    log_scale = torch.linspace(-2.2, 1.2, 201).double()[None, :, None, None]
    label = torch.arange(3).double()
    each = torch.tensor([0.3, 0.5, 0.2]).double().log() + dist.Normal(
        level + label, log_scale.exp()
    ).log_prob(DATA.double()[:, None])
    prior = dist.Normal(0.0, 1.0).log_prob(level) + dist.Normal(-0.5, 0.3).log_prob(log_scale)
    log_weights = prior[..., 0, 0] + each.logsumexp(-1).sum(-1)
    p = log_weights.flatten().softmax(0).reshape(log_weights.shape)
    labels = (p[..., None, None] * each.softmax(-1)).sum((0, 1))
    found = {}
    for name, value in (("level", level), ("scale", log_scale.exp())):
        value = value[..., 0, 0]
        found[f"{name} mean"] = float((p * value).sum())
        found[f"{name} sd"] = float((p * value.square()).sum() - found[f"{name} mean"] ** 2) ** 0.5
    return found, labels.numpy()


EXACT, LABELS = posterior_by_quadrature()
STEPS = HMC(step_size=0.2, trajectory_length=0.8, mass=UnitMass())


def within_gibbs() -> Cycle:
    """With fixed settings: nothing is tuned."""
    return Cycle((Gibbs(("label",)), replace(STEPS, sites=("level", "scale"))))


@functools.cache
def usual() -> MCMC:
    return driver()


def driver(**settings: object) -> MCMC:
    chosen = {"num_samples": 30, "warmup_steps": 20, "num_chains": 8, "seed": 1, **settings}
    mcmc = MCMC(EnergyKernel(within_gibbs(), model), **chosen)
    mcmc.run(DATA)
    return mcmc


# --- our driver ----------------------------------------------------------------------------------


def test_all_chains_at_once_find_the_posterior() -> None:
    kernel = EnergyKernel(Cycle((Gibbs(("label",)), HMC())), model, init_strategy=init_to_median)
    mcmc = MCMC(kernel, num_samples=30, warmup_steps=100, num_chains=400, seed=0)
    mcmc.run(DATA)
    samples = mcmc.get_samples(group_by_chain=True)
    assert samples["label"].dtype == torch.int64
    assert samples["level"].shape == (400, 30)
    assert samples["label"].shape == (400, 30, 3)
    for name in ("level", "scale"):
        # Chains are independent: the spread of their means is the error.
        means = samples[name].double().mean(1)
        error = float(means.std() / 400**0.5)
        assert abs(float(means.mean()) - EXACT[f"{name} mean"]) < 5 * error
        assert float(samples[name].std()) == pytest.approx(EXACT[f"{name} sd"], rel=0.07)
    shares = (samples["label"][..., None] == torch.arange(3)).double().mean(1)
    errors = shares.std(0) / 400**0.5
    assert bool(((shares.mean(0) - torch.tensor(LABELS)).abs() < 5 * errors).all())


def test_the_draws_are_in_the_models_space_and_dtypes() -> None:
    mcmc = usual()
    samples = mcmc.get_samples()
    assert {n: (v.dtype, v.shape) for n, v in samples.items()} == {
        "level": (torch.float32, (240,)),
        "scale": (torch.float32, (240,)),
        "label": (torch.int64, (240, 3)),
    }
    assert bool((samples["scale"] > 0).all())
    assert torch.equal(samples["scale"], mcmc.chains.draws["scale"].flatten().exp())
    assert mcmc.chains.draws["label"].dtype == torch.int8
    picked = mcmc.get_samples(num_samples=7)
    assert picked["label"].shape == (7, 3)


def test_more_draws_are_those_of_a_longer_run() -> None:
    long = usual()
    short = driver(num_samples=18)
    short.resume(12)
    for name, value in long.get_samples(group_by_chain=True).items():
        assert torch.equal(short.get_samples(group_by_chain=True)[name], value)
    assert short.num_samples == 30


def test_thinning_and_a_warm_up_that_is_kept() -> None:
    whole = driver(warmup_steps=0, num_samples=24)
    thinned = driver(warmup_steps=12, num_samples=4, thinning=3, keep="everything")
    for name, value in whole.get_samples(group_by_chain=True).items():
        both = (thinned.warmup_samples[name], thinned.get_samples(group_by_chain=True)[name])
        assert torch.equal(torch.cat(both, 1), value[:, 2::3])


def test_an_interrupt_keeps_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    right, steps = Cycle.step, []

    def step(kernel: Cycle, energy: object, state: object) -> object:
        if len(steps) == 25:
            raise KeyboardInterrupt
        steps.append(1)
        return right(kernel, energy, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Cycle, "step", step)
    mcmc = driver()
    assert mcmc.chains.interrupted
    assert mcmc.num_samples == 5
    assert mcmc.get_samples(group_by_chain=True)["level"].shape == (8, 5)
    assert to_arviz(mcmc)["posterior"].sizes["draw"] == 5


def test_predictive_takes_the_samples() -> None:
    mcmc = usual()
    made = Predictive(pyro.poutine.uncondition(model), mcmc.get_samples())(DATA)
    assert made["seen"].shape == (240, 3)


def test_summary_and_diagnostics(capsys: pytest.CaptureFixture[str]) -> None:
    mcmc = usual()
    mcmc.summary()
    assert "label[2]" in capsys.readouterr().out
    found = mcmc.diagnostics()
    assert set(found) == {"level", "scale", "label", "divergences", "acceptance rate"}
    assert list(found["divergences"]) == [f"chain {k}" for k in range(8)]
    assert 0.3 < found["acceptance rate"]["chain 3"] <= 1


def test_arvizs_own_converter_takes_the_driver() -> None:
    mcmc = usual()
    theirs = az.from_pyro(mcmc, log_likelihood=False)
    ours = to_arviz(mcmc)
    for name in ("level", "scale", "label"):
        assert np.array_equal(theirs["posterior"][name], ours["posterior"][name])


def test_the_arviz_data_of_the_driver() -> None:
    mcmc = driver(keep="everything")
    data = to_arviz(mcmc, include=("log_likelihood", "posterior_predictive"))
    assert data["posterior"]["label"].dtype == np.int64
    assert np.array_equal(
        data["posterior"]["scale"], mcmc.get_samples(group_by_chain=True)["scale"].numpy()
    )
    assert data["warmup_posterior"]["scale"].shape == (8, 20)
    assert float(data["warmup_posterior"]["scale"].min()) > 0
    assert {"lp", "acceptance_rate", "step_size", "diverging", "n_flips"} <= set(
        data["sample_stats"].data_vars
    )
    samples = mcmc.get_samples(group_by_chain=True)
    wanted = dist.Normal(
        samples["level"][..., None] + samples["label"], samples["scale"][..., None]
    ).log_prob(DATA)
    assert np.allclose(data["log_likelihood"]["seen"], wanted.numpy(), atol=1e-5)
    assert data["posterior_predictive"]["seen"].shape == (8, 30, 3)
    assert data["posterior"].attrs["seed"] == 1


def test_the_same_seed_and_start_give_the_same_draws() -> None:
    start = usual().chains.last
    before = torch.get_rng_state()
    first, again = (
        driver(initial_params=start, seed=5, warmup_steps=0, num_samples=8).get_samples()
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)


# --- our kernels under Pyro's driver -------------------------------------------------------------


def stock(kernel: object, samples: int = 20, warmup: int = 20, chains: int = 1) -> PyroMCMC:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="num_chains=")
        mcmc = PyroMCMC(kernel, samples, warmup, num_chains=chains, disable_progbar=True)
    mcmc.run(DATA)
    return mcmc


def posterior_error(mcmc: PyroMCMC) -> float:
    """The largest difference of a mean or a share from the exact one, in standard errors."""
    samples = mcmc.get_samples(group_by_chain=True)
    shares = (samples["label"][..., None] == torch.arange(3)).double()
    wanted = torch.tensor(LABELS)
    draws = [(samples[name].double(), EXACT[f"{name} mean"]) for name in ("level", "scale")]
    draws += [(shares[..., i, k], float(wanted[i, k])) for i in range(3) for k in range(3)]
    worst = 0.0
    for value, mean in draws:
        error = float(value.std() / effective_sample_size(value).sqrt())
        worst = max(worst, abs(float(value.mean()) - mean) / max(error, 0.01))
    return worst


def test_our_kernels_move_a_chain_under_pyros_driver() -> None:
    mcmc = stock(EnergyKernel(within_gibbs(), model))
    samples = mcmc.get_samples(group_by_chain=True)
    assert samples["label"].shape == (1, 20, 3)
    assert bool((samples["scale"] > 0).all())
    found = mcmc.diagnostics()
    assert "divergences" in found
    assert 0.3 < found["acceptance rate"]["chain 0"] <= 1
    assert to_arviz(mcmc)["posterior"]["label"].dtype == np.int64


def test_a_ladder_moves_a_chain_under_pyros_driver() -> None:
    # What it reports of its replicas is several numbers for a chain; the driver takes single ones.
    ladder = ParallelTempering(Gibbs(("label",)), (0.5, 1.0))
    others = RandomWalk(("level", "scale"), scale=0.3)
    mcmc = stock(EnergyKernel(Cycle((ladder, others)), model))
    assert mcmc.get_samples()["label"].unique().numel() > 1


def test_several_chains_start_apart_and_share_no_state() -> None:
    mcmc = stock(EnergyKernel(within_gibbs(), model), samples=20, warmup=0, chains=3)
    level = mcmc.get_samples(group_by_chain=True)["level"]
    assert level.shape == (3, 20)
    assert len({round(float(v), 6) for v in level[:, 0]}) == 3
    mcmc.summary()


def test_a_given_start_is_kept_by_setup() -> None:
    start = {"level": torch.tensor(3.0), "scale": torch.tensor(-1.0), "label": torch.zeros(3)}
    hardly = RandomWalk(("level", "scale"), scale=1e-12)
    kernel = EnergyKernel(Cycle((Gibbs(("label",)), hardly)), model)
    mcmc = PyroMCMC(kernel, 5, 0, initial_params=start, disable_progbar=True)
    mcmc.run(DATA)
    samples = mcmc.get_samples()
    assert samples["level"].tolist() == pytest.approx([3.0] * 5)
    assert samples["scale"].tolist() == pytest.approx([float(torch.tensor(-1.0).exp())] * 5)


def test_an_energy_of_its_own_under_pyros_driver() -> None:
    machine = BoltzmannMachine.fully_visible(3, couplings=numbers(3, 3), biases=numbers(3))
    kernel = EnergyKernel(Gibbs(), machine)
    start = {"visible": torch.zeros(3)}
    mcmc = PyroMCMC(kernel, 30, 0, initial_params=start, disable_progbar=True)
    mcmc.run()
    assert set(mcmc.get_samples()["visible"].flatten().tolist()) <= {0.0, 1.0}
    data = to_arviz(mcmc)
    assert data["posterior"]["visible"].shape == (1, 30, 3)


# --- within Gibbs --------------------------------------------------------------------------------


def draw_labels(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A user's own conditional draw."""
    logits = torch.tensor([0.3, 0.5, 0.2]).log() + dist.Normal(
        values["level"] + torch.arange(3.0), values["scale"]
    ).log_prob(DATA[:, None])
    return {"label": dist.Categorical(logits=logits).sample()}


def draw_level(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The conjugate update of the level."""
    precision = 1 + len(DATA) / values["scale"] ** 2
    mean = (DATA - values["label"]).sum() / values["scale"] ** 2 / precision
    return {"level": dist.Normal(mean, precision**-0.5).sample()}


REALS = ["level", "scale"]
BLOCKS = {
    "ours": [(Gibbs(), ["label"]), (STEPS, REALS)],
    "NUTS": [(Gibbs(), ["label"]), (functools.partial(NUTS, max_tree_depth=4), REALS)],
    "Pyro's HMC": [
        (Gibbs(), ["label"]),
        (functools.partial(PyroHMC, step_size=0.2, num_steps=3), REALS),
    ],
    "a function": [(draw_labels, ["label"]), (MALA(step_size=0.3), REALS)],
    "three blocks": [
        (Gibbs(), ["label"]),
        (draw_level, ["level"]),
        (RandomWalk(scale=0.5), ["scale"]),
    ],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_every_kind_run_under_pyros_driver(name: str) -> None:
    mcmc = stock(WithinGibbs(model, BLOCKS[name]))
    assert mcmc.get_samples()["level"].unique().numel() > 1
    assert "divergences" in mcmc.diagnostics()
    assert to_arviz(mcmc)["posterior"]["label"].dtype == np.int64


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_every_kind_find_the_posterior(name: str) -> None:
    mcmc = stock(
        WithinGibbs(model, BLOCKS[name], init_strategy=init_to_median), samples=3000, warmup=300
    )
    assert posterior_error(mcmc) < 5


@pytest.mark.slow
def test_our_kernels_find_the_posterior_under_pyros_driver() -> None:
    mcmc = stock(
        EnergyKernel(within_gibbs(), model, init_strategy=init_to_median), samples=3000, warmup=300
    )
    assert posterior_error(mcmc) < 5


def test_pyros_kernel_sees_what_the_other_blocks_moved() -> None:
    assert stale_by() < 1e-4


def test_a_pyro_kernel_whose_cache_is_not_cleared_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NUTS, "clear_cache", lambda _: None)
    assert stale_by() > 0.5


def stale_by() -> float:
    """How far the potential that NUTS holds after its turn is from that of its values."""
    kernel = WithinGibbs(model, BLOCKS["NUTS"])
    kernel.setup(5, DATA)
    params, worst = kernel.initial_params, 0.0
    for _ in range(10):
        params = kernel.sample(params)
        inner = kernel.movers["level+scale"].kernel  # type: ignore[attr-defined]
        now = inner.potential_fn({name: params[name] for name in REALS})
        worst = max(worst, abs(float(now - inner._potential_energy_last)))
    return worst


def test_each_block_adapts_its_own_step_size() -> None:
    blocks = [
        (Gibbs(), ["label"]),
        (functools.partial(NUTS, max_tree_depth=3), ["level"]),
        (functools.partial(PyroHMC, num_steps=2), ["scale"]),
    ]
    kernel = WithinGibbs(model, blocks)
    kernel.setup(40, DATA)
    params = kernel.initial_params
    for _ in range(45):
        params = kernel.sample(params)
    sizes = {kernel.movers[name].kernel.step_size for name in REALS}  # type: ignore[attr-defined]
    assert len(sizes) == 2
    assert 1 not in sizes
    assert set(kernel.logging()) >= {"step size level", "step size scale"}


REFUSED = {
    "jit": (
        [(Gibbs(), ["label"]), (functools.partial(NUTS, jit_compile=True), REALS)],
        ValueError,
        "jit_compile",
    ),
    "a discrete site": ([(NUTS, ["label"]), (STEPS, REALS)], ValueError, "are discrete"),
    "a site left out": ([(Gibbs(), ["label"]), (STEPS, ["level"])], ValueError, "'scale'"),
    "an unknown site": ([(Gibbs(), ["labels"])], ValueError, r"Unknown sites \['labels'\]"),
    "no blocks": ([], ValueError, "no blocks"),
    "a dict": ({("label",): Gibbs()}, TypeError, r"blocks is a dict; wanted pairs of a kernel and"),
    "a kernel": (Gibbs(), TypeError, r"blocks is a Gibbs; wanted pairs of a kernel and its sites"),
    "one pair": ((Gibbs(), ["label"]), TypeError, r"A block is Gibbs.*; wanted a pair of a kernel"),
    "three of a kind": ([(Gibbs(), "label", "mean")], TypeError, "A block is .*; wanted a pair"),
    "words": (["ab"], TypeError, "A block is 'ab'; wanted a pair"),
    "sites first": ([(["label"], Gibbs())], TypeError, "wanted names.*after their kernel"),
    "a bare string": ([(Gibbs(), "label")], ValueError, "wanted names"),
    "an instance": ([(NUTS(model), REALS)], TypeError, "functools.partial"),
    "a cycle": ([(within_gibbs(), REALS)], TypeError, "blocks of their own"),
    "no kernel": ([(3, REALS)], TypeError, "wanted a kernel of pyro_ebm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_blocks_that_cannot_be_are_refused(name: str) -> None:
    blocks, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        WithinGibbs(model, blocks).setup(5, DATA)


WRONG = {
    "another site": (lambda _: {"level": torch.tensor(0.0)}, r"values of \['level'\]"),
    "another shape": (lambda _: {"label": torch.tensor(1)}, r"the shape \(\)"),
    "another support": (lambda _: {"label": torch.tensor([0, 1, 7])}, "outside of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_function_with_a_wrong_answer_is_refused(name: str) -> None:
    function, message = WRONG[name]
    kernel = WithinGibbs(model, [(function, ["label"]), (STEPS, REALS)])
    kernel.setup(0, DATA)
    with pytest.raises(ValueError, match=message):
        kernel.sample(kernel.initial_params)


def test_a_moving_support_needs_our_driver() -> None:
    def moving() -> None:
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        pyro.sample("part", dist.Uniform(0.0, top))

    with pytest.raises(ValueError, match=r"supports of \['part'\].*pyro_ebm.infer.MCMC"):
        EnergyKernel(STEPS, moving).setup(0)
    mcmc = MCMC(EnergyKernel(STEPS, moving), 20, 20, num_chains=50)
    mcmc.run()
    samples = mcmc.get_samples()
    assert bool((samples["part"] < samples["top"]).all())


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(TypeError, match="WithinGibbs"):
        EnergyKernel(NUTS(model), model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="EnergyKernel"):
        MCMC(NUTS(model), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no draws"):
        MCMC(EnergyKernel(STEPS, model), 5).get_samples()
