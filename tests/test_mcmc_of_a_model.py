"""`infer.MCMC` of a model alone: what it chooses, what it says, and that its draws are right."""

import math
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from pyro_ebm import HMC, BoltzmannMachine, EnergyKernel, Gibbs, NotMixedWarning, RandomWalk, infer
from pyro_ebm.infer.switching import is_switched

DATA = torch.tensor([-1.0, 0.5, 2.0, 2.5])
COUNT = 200


def labelled(data: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("rows", len(data)):
        label = pyro.sample("label", dist.Bernoulli(share))
        pyro.sample("seen", dist.Normal(2 * label, 1.0), obs=data)


def exact_share(data: Tensor) -> float:
    """The posterior mean of the share, labels summed out, by quadrature."""
    share = np.linspace(0, 1, 20_001)[1:-1]
    x = data.numpy()[:, None]
    rows = share * np.exp(-((x - 2) ** 2) / 2) + (1 - share) * np.exp(-(x**2) / 2)
    weight = share * (1 - share) * rows.prod(0)
    return float((weight * share).sum() / weight.sum())


def quiet_run(mcmc: infer.MCMC, *args: Any) -> list[str]:
    """The run, and what it warned of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        mcmc.run(*args)
    return [str(one.message) for one in seen if one.category is NotMixedWarning]


def test_a_model_alone_is_enough() -> None:
    mcmc = infer.MCMC(labelled, num_samples=500, warmup_steps=200, num_chains=16, seed=0)
    mcmc.run(DATA)
    assert repr(mcmc.plan) == (
        "Gibbs for label: conditional laws are known\nHMC for share: continuous, with a gradient"
    )
    assert str(mcmc.diagnosis.verdict) == "mixed"
    draws = mcmc.get_samples(group_by_chain=True)["share"].double()
    means = draws.mean(1)
    error = means.std() / math.sqrt(len(means))
    assert abs(means.mean() - exact_share(DATA)) < 4.5 * error
    assert error < 0.01


def test_what_was_chosen_is_said_where_somebody_sees_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyro_ebm.progress.is_watched", lambda: True)
    mcmc = infer.MCMC(labelled, num_samples=30, warmup_steps=10, num_chains=16, seed=0)
    quiet_run(mcmc, DATA)
    assert "Gibbs for label: conditional laws are known" in capsys.readouterr().err


def test_a_site_asks_for_its_kernel() -> None:
    walk = RandomWalk(scale=0.8)

    def model() -> None:
        first = pyro.sample("first", dist.Normal(0.0, 1.0), infer={"kernel": walk})
        second = pyro.sample("second", dist.Normal(first, 1.0), infer={"kernel": walk})
        pyro.sample("third", dist.Normal(second, 1.0))

    mcmc = infer.MCMC(model, num_samples=50, warmup_steps=20, num_chains=4, seed=0)
    quiet_run(mcmc)
    assert mcmc.plan is not None
    assert [(type(part.kernel), part.sites) for part in mcmc.plan.parts] == [
        (HMC, ("third",)),
        (RandomWalk, ("first", "second")),
    ]
    assert "RandomWalk for first, second: it was asked for at the site" in repr(mcmc.plan)


def test_what_is_asked_for_must_be_a_kernel() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0), infer={"kernel": "HMC"})

    with pytest.raises(TypeError, match=r"'x' asks for 'HMC'; wanted a kernel.*HMC\(\)"):
        infer.MCMC(model, num_samples=5).run()


def test_a_site_that_is_summed_out_is_said_to_be() -> None:
    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        side = pyro.sample("side", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("seen", dist.Normal(mean + side, 1.0), obs=torch.tensor(0.5))

    mcmc = infer.MCMC(model, num_samples=COUNT, warmup_steps=100, num_chains=8, seed=0)
    mcmc.run()
    assert mcmc.plan is not None
    assert mcmc.plan.summed == ("side",)
    assert "summed out, as the model marks them: side" in repr(mcmc.plan)
    assert set(mcmc.get_samples()) == {"mean"}


def mixture(data: Tensor) -> None:
    means = pyro.sample("means", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("rows", len(data)):
        label = pyro.sample("label", dist.Bernoulli(0.5)).long()
        pyro.sample("seen", dist.Normal(means[label], 1.0), obs=data)


def mixture_in_order(data: Tensor) -> None:
    law = dist.Normal(torch.zeros(2), 10.0).to_event(1)
    ordered = dist.TransformedDistribution(law, dist.transforms.OrderedTransform())
    means = pyro.sample("means", ordered)
    with pyro.plate("rows", len(data)):
        label = pyro.sample("label", dist.Bernoulli(0.5)).long()
        pyro.sample("seen", dist.Normal(means[label], 1.0), obs=data)


def two_groups() -> Tensor:
    return torch.randn(16) + 6 * (torch.arange(16) % 2)


@pytest.mark.slow
def test_label_switching_is_named_and_its_cure_works() -> None:
    data = two_groups()
    mcmc = infer.MCMC(mixture, num_samples=100, warmup_steps=100, num_chains=8, seed=0)
    (message,) = quiet_run(mcmc, data)
    assert "Label switching: the chains hold the same values of 'means'" in message
    assert "OrderedTransform" in message
    mcmc = infer.MCMC(mixture_in_order, num_samples=100, warmup_steps=100, num_chains=8, seed=0)
    assert not [words for words in quiet_run(mcmc, data) if "Label switching" in words]
    means = mcmc.get_samples()["means"].mean(0)
    assert (means[1] - means[0] - 6).abs() < 1.5


def test_chains_in_modes_of_their_own_have_not_switched_labels() -> None:
    apart = torch.randn(8, 100, 2) + 9 * (torch.arange(8) % 2)[:, None, None]
    switched = torch.randn(8, 100, 2) + torch.tensor([0.0, 9.0])
    switched[::2] = switched[::2].flip(-1)
    assert not is_switched(apart)
    assert is_switched(switched)
    assert is_switched(switched[..., None].expand(-1, -1, -1, 3) + torch.randn(8, 100, 2, 3))
    assert not is_switched(torch.randn(8, 100, 2))


def test_chains_that_have_not_mixed_come_with_a_warning_and_advice() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 10.0))
        pyro.factor("wells", -20 * ((x / 3) ** 2 - 1) ** 2)

    mcmc = infer.MCMC(model, num_samples=COUNT, warmup_steps=100, num_chains=8, seed=0)
    (message,) = quiet_run(mcmc)
    assert message.startswith("Not mixed")
    assert "Label switching" not in message
    assert len(mcmc.get_samples()["x"]) == 8 * COUNT


def test_as_an_error_the_warning_leaves_the_draws() -> None:
    mcmc = infer.MCMC(mixture, num_samples=50, warmup_steps=50, num_chains=8, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotMixedWarning)
        with pytest.raises(NotMixedWarning) as caught:
            mcmc.run(two_groups())
    assert caught.value.chains is mcmc.chains  # type: ignore[attr-defined]


def test_chains_start_where_the_strategy_says() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0), infer={"kernel": RandomWalk(scale=1e-6)})

    strategy = init_to_value(values={"x": torch.tensor(0.7)})
    mcmc = infer.MCMC(model, 20, 0, num_chains=4, seed=0, init_strategy=strategy)
    quiet_run(mcmc)
    assert (mcmc.get_samples()["x"] - 0.7).abs().max() < 1e-3
    with pytest.raises(ValueError, match=r"EnergyKernel\(kernel, model, init_strategy=...\)"):
        infer.MCMC(EnergyKernel(HMC(), model), init_strategy=strategy)


def test_an_energy_alone_is_enough() -> None:
    machine = BoltzmannMachine.restricted(4, 2)
    mcmc = infer.MCMC(machine, num_samples=COUNT, warmup_steps=10, num_chains=8, seed=0)
    mcmc.run()
    assert repr(mcmc.plan) == "Gibbs for visible, hidden: conditional laws are known"


def test_a_kernel_that_is_given_is_not_chosen() -> None:
    mcmc = infer.MCMC(EnergyKernel(Gibbs(), BoltzmannMachine.restricted(4, 2)), 20, 0, seed=0)
    mcmc.run()
    assert mcmc.plan is None
    assert mcmc.diagnosis.evidence


@pytest.mark.parametrize("wrong", [HMC(), pyro.infer.HMC(labelled), "model", None])
def test_what_is_no_model_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="wanted a Pyro model, an energy, or an EnergyKernel"):
        infer.MCMC(wrong)


def test_the_summary_is_of_the_sites_that_are_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mcmc = infer.MCMC(labelled, num_samples=50, warmup_steps=20, num_chains=4, seed=0)
    quiet_run(mcmc, DATA)
    mcmc.summary(sites=["share"])
    shown = capsys.readouterr().out
    assert "share" in shown
    assert "label" not in shown
    with pytest.raises(ValueError, match=r"no sites \['sum'\]; the model has"):
        mcmc.summary(sites=["sum"])
