"""Small jobs with known answers, done by `sample` alone: no kernel is named.

Each answer is computed here by enumeration, quadrature or in closed form. The means are asked to be
within four standard errors, as the draws' own effective sample size has them, with a fixed seed: of
1,600 effective draws a mean that is off by a fifth of its standard deviation is found.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

from pyro_ebm.energies import ModelEnergy
from pyro_ebm.sampling import sample
from pyro_ebm.statistics import effective_sample_size

Answers = dict[str, np.ndarray]


def double(values: list[float] | float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weighted(log_weights: np.ndarray, **values: np.ndarray) -> Answers:
    """Means under weights over a grid."""
    p = np.exp(log_weights - logsumexp(log_weights))
    return {name: np.asarray((p * value).sum()) for name, value in values.items()}


# --- counts and labels ---------------------------------------------------------------------------


def cause() -> None:
    n = pyro.sample("n", dist.Categorical(double([0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05])))
    pyro.sample("a", dist.Normal(4.0 * n, 3.0), obs=double(14.0))
    pyro.sample("b", dist.Normal(6.0 * n, 3.0), obs=double(20.0))


def cause_answer() -> Answers:
    n = np.arange(7)
    log_p = np.log([0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05])
    log_p = log_p + stats.norm(4 * n, 3).logpdf(14) + stats.norm(6 * n, 3).logpdf(20)
    assert logsumexp(log_p) == pytest.approx(-5.38596, abs=1e-5)
    return weighted(log_p, n=n)


def poisson_data(seed: int, counts: dict[float, int]) -> Tensor:
    """Draws at some rates, so many of each, without a trace in the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([torch.poisson(double([rate] * n)) for rate, n in counts.items()])


CHANGING = poisson_data(1, {6.0: 23, 9.0: 17})


def change_point() -> None:
    y = CHANGING
    rates = [pyro.sample(name, dist.Exponential(1 / y.mean())) for name in ("first", "second")]
    day = pyro.sample("day", dist.Categorical(torch.ones(40).double()))
    rate = torch.where(torch.arange(40) <= day, *rates)
    pyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


def change_point_answer() -> Answers:
    y = CHANGING.numpy()
    scale, before = 1 / y.mean(), np.arange(40) + 1
    # Gamma integrals: each rate is conjugate given the day.
    sums = np.array([[y[:k].sum(), y[k:].sum()] for k in before]) + 1
    exposure = np.stack([before, 40 - before], 1) + scale
    log_p = np.array(
        [
            [math.lgamma(s) - s * math.log(e) for s, e in zip(*row, strict=True)]
            for row in zip(sums, exposure, strict=True)
        ]
    ).sum(1)
    means = sums / exposure
    return weighted(log_p, day=before - 1, first=means[:, 0], second=means[:, 1])


SWITCHING = poisson_data(2, {2.0: 4, 8.0: 4, 3.0: 4})


def two_switches() -> None:
    days = torch.arange(12)
    on = pyro.sample("on", dist.Categorical(torch.ones(12).double()))
    off = pyro.sample("off", dist.Categorical((days >= on).double()))
    rate = torch.where(days <= on, 2.0, torch.where(days <= off, 8.0, 3.0))
    pyro.sample("y", dist.Poisson(rate).to_event(1), obs=SWITCHING)


def two_switches_answer() -> Answers:
    y, days = SWITCHING.numpy(), np.arange(12)
    pairs = [(on, off) for on in days for off in days if off >= on]
    log_p = np.array(
        [
            -math.log(12 * (12 - on))
            + stats.poisson(np.where(days <= on, 2, np.where(days <= off, 8, 3))).logpmf(y).sum()
            for on, off in pairs
        ]
    )
    on, off = np.array(pairs).T
    return weighted(log_p, on=on, off=off)


def slab_data() -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = torch.randn(12, 3)
        noisy = rows @ torch.tensor([1.2, 0.0, 0.4]) + torch.randn(12)
        return rows.double(), noisy.double()


SLAB = slab_data()


def spike_and_slab() -> None:
    rows, y = SLAB
    with pyro.plate("columns", 3):
        used = pyro.sample("used", dist.Bernoulli(double(0.3)))
        weight = pyro.sample("weight", dist.Normal(double(0.0), 2.0))
    pyro.sample("y", dist.Normal(rows @ (weight * used), 1.0).to_event(1), obs=y)


def spike_and_slab_answer() -> Answers:
    rows, y = (part.numpy() for part in SLAB)
    used = np.array(list(itertools.product((0, 1), repeat=3)))
    log_p = [
        np.log(np.where(one, 0.3, 0.7)).sum()
        + stats.multivariate_normal(np.zeros(12), np.eye(12) + 4 * (rows * one) @ rows.T).logpdf(y)
        for one in used
    ]
    p = np.exp(log_p - logsumexp(log_p))
    return {"used": p @ used}


def counts_in_a_product() -> None:
    with pyro.plate("n", 4):
        v = pyro.sample("v", dist.Binomial(2, double(0.5)))
    pyro.sample("y", dist.Normal((v * torch.arange(1, 5)).sum(-1), 1.0), obs=double(7.0))


def counts_in_a_product_answer() -> Answers:
    v = np.array(list(itertools.product(range(3), repeat=4)))
    log_p = stats.binom(2, 0.5).logpmf(v).sum(1) + stats.norm(v @ [1, 2, 3, 4], 1).logpdf(7)
    p = np.exp(log_p - logsumexp(log_p))
    return {"v": p @ v}


SHARES = [0.2, 0.3, 0.5]


def latent_count() -> None:
    n = pyro.sample("n", dist.Poisson(double(20.0)))
    pyro.sample("y", dist.Poisson(n * double(SHARES) + 1e-6).to_event(1), obs=double([5, 6, 14]))


def latent_count_answer() -> Answers:
    n = np.arange(200)
    seen = stats.poisson(n[:, None] * np.array(SHARES) + 1e-6).logpmf([5, 6, 14]).sum(1)
    return weighted(stats.poisson(20).logpmf(n) + seen, n=n)


def missing_count() -> None:
    mean = pyro.sample("mean", dist.Gamma(double(2.0), double(0.5)))
    seen = torch.tensor([1, 1, 1, 0, 1, 1]).bool()
    with pyro.plate("n", 6):
        pyro.sample("y", dist.Poisson(mean), obs=double([2, 5, 2, 0, 6, 3]), obs_mask=seen)


def missing_count_answer() -> Answers:
    mean = (2 + 18) / (0.5 + 5)
    return {"mean": np.asarray(mean), "y_unobserved": np.array([2, 5, 2, mean, 6, 3])}


# --- rates and ends ------------------------------------------------------------------------------


def latent_rate() -> None:
    p = pyro.sample("p", dist.Beta(double(2.0), double(2.0)))
    k = pyro.sample("k", dist.Binomial(5, p))
    pyro.sample("y", dist.Normal(k, 1.0), obs=double(3.0))


def latent_rate_answer() -> Answers:
    k = np.arange(6)
    log_p = stats.betabinom(5, 2, 2).logpmf(k) + stats.norm(k, 1).logpdf(3)
    return weighted(log_p, k=k, p=(2 + k) / 9)


def unknown_end() -> None:
    end = pyro.sample("end", dist.Gamma(double(2.0), double(0.5)))
    pyro.sample("y", dist.Uniform(double(0.0), end), obs=double(6.0))


def unknown_end_answer() -> Answers:
    return {"end": np.asarray(8.0)}  # end − 6 ~ Exponential(½)


RIGHT = [9.0, 10, 8, 9, 3, 2, 4, 9]


def two_groups() -> None:
    high = pyro.sample("high", dist.Uniform(double(0.5), double(1.0)))
    low = pyro.sample("low", dist.Beta(double(1.0), double(1.0)))
    with pyro.plate("people", 8):
        z = pyro.sample("z", dist.Bernoulli(double(0.5)))
        pyro.sample("right", dist.Binomial(10, torch.where(z == 1, low, high)), obs=double(RIGHT))


def two_groups_answer() -> Answers:
    high = np.linspace(0.5, 1, 801)[:-1, None, None] + 0.25 / 800
    low = np.linspace(0, 1, 801)[None, :-1, None] + 0.5 / 800
    each = np.stack(
        np.broadcast_arrays(*(stats.binom(10, p).logpmf(RIGHT) for p in (high, low))), -1
    )
    one = logsumexp(each, -1)
    log_p = one.sum(-1)
    p = np.exp(log_p - logsumexp(log_p))
    found = weighted(log_p, high=high[..., 0], low=low[..., 0])
    return found | {"z": (p[..., None] * np.exp(each[..., 1] - one)).sum((0, 1))}


def unmoved_label() -> None:
    z = pyro.sample("z", dist.Bernoulli(double(0.3)))
    mean = pyro.sample("mean", dist.Normal(4 * z, double(1.0)))
    pyro.sample("y", dist.Normal(mean, 1.0), obs=double(2.5))


def unmoved_label_answer() -> Answers:
    z = np.arange(2)
    log_p = np.log([0.7, 0.3]) + stats.norm(4 * z, math.sqrt(2)).logpdf(2.5)
    return weighted(log_p, z=z, mean=(4 * z + 2.5) / 2)


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A model and its answer.

    Args:
        model: The model.
        answer: The means, by site.
        known: Some of them as they are written elsewhere, to four digits.
    """

    model: Callable[[], None]
    answer: Callable[[], Answers]
    known: dict[str, float | list[float]]


JOBS = {
    "cause": Job(cause, cause_answer, {}),
    "change point": Job(
        change_point, change_point_answer, {"day": 26.56, "first": 6.844, "second": 10.590}
    ),
    "two switches": Job(two_switches, two_switches_answer, {"on": 2.9970, "off": 5.3490}),
    "spike and slab": Job(
        spike_and_slab, spike_and_slab_answer, {"used": [0.9972, 0.1495, 0.2284]}
    ),
    "counts in a product": Job(
        counts_in_a_product,
        counts_in_a_product_answer,
        {"v": [0.9221, 0.8295, 0.7267, 0.5984]},
    ),
    "latent count": Job(latent_count, latent_count_answer, {"n": 22.556}),
    "missing count": Job(missing_count, missing_count_answer, {"mean": 3.6364}),
    "latent rate": Job(latent_rate, latent_rate_answer, {"k": 2.9095, "p": 0.5455}),
    "unknown end": Job(unknown_end, unknown_end_answer, {"end": 8.0}),
    "two groups": Job(
        two_groups,
        two_groups_answer,
        {
            "high": 0.8768,
            "low": 0.3303,
            "z": [0.025, 0.023, 0.048, 0.025, 0.977, 0.977, 0.971, 0.025],
        },
    ),
    "unmoved label": Job(unmoved_label, unmoved_label_answer, {"z": 0.5381, "mean": 2.326}),
}
FAST = ("cause", "latent count", "unknown end", "counts in a product")


@pytest.mark.parametrize("name", JOBS)
def test_the_answers_are_the_known_ones(name: str) -> None:
    answer = JOBS[name].answer()
    for site, known in JOBS[name].known.items():
        assert answer[site] == pytest.approx(np.asarray(known), rel=1e-3, abs=6e-4)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in JOBS]
)
def test_a_job_is_done_without_a_kernel_being_named(name: str) -> None:
    energy = ModelEnergy(JOBS[name].model)
    chains = sample(energy, 500, chains=32, warmup=300, seed=0)
    assert chains.attributes["verdict"] == "mixed"
    draws = energy.constrain({site: x.to(energy.dtype) for site, x in chains.draws.items()})
    for site, wanted in JOBS[name].answer().items():
        x = draws[site].double()
        size = effective_sample_size(x).nan_to_num(torch.inf)
        error = x.std((0, 1)) / size.sqrt() + 1e-9
        away = (x.mean((0, 1)) - torch.as_tensor(wanted)).abs()
        assert bool((away < 4 * error).all()), (site, x.mean((0, 1)), wanted)
