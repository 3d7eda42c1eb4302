"""Small Pyro models, with their log joint by hand where a formula is short.

`by_hand` is ln p of the latent values in the model's space and of the data, from scipy's laws; it
knows nothing of Pyro, of unconstrained space, or of the library.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from scipy import stats
from scipy.special import expit, logsumexp
from torch import Tensor

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model.

    Args:
        model: The model.
        args: Its arguments.
        by_hand: ln p of values by site.
        batched: Whether vmap can take it.
        summed: Whether it has sites that are summed out.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    by_hand: Callable[[Values], float] | None = None
    batched: bool = True
    summed: bool = False


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def real(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- real sites ----------------------------------------------------------------------------------

ROWS, HEIGHTS = numbers(6, 2), numbers(6, seed=1)


def regression(rows: Tensor, heights: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(real(0.0).expand(2), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(real(1.0)))
    with pyro.plate("rows", len(rows)):
        pyro.sample("height", dist.Normal(rows @ slope, scale), obs=heights)


def regression_by_hand(x: Values) -> float:
    mean = ROWS.numpy() @ x["slope"]
    return float(
        stats.norm(0, 2).logpdf(x["slope"]).sum()
        + stats.halfnorm.logpdf(x["scale"])
        + stats.norm(mean, x["scale"]).logpdf(HEIGHTS.numpy()).sum()
    )


SCHOOLS = vector([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = vector([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools(effects: Tensor, errors: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(real(0.0), 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(real(5.0)))
    with pyro.plate("schools", len(effects)):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("seen", dist.Normal(effect, errors), obs=effects)


def schools_by_hand(x: Values) -> float:
    return float(
        stats.norm(0, 5).logpdf(x["mean"])
        + stats.halfcauchy(0, 5).logpdf(x["spread"])
        + stats.norm(x["mean"], x["spread"]).logpdf(x["effect"]).sum()
        + stats.norm(x["effect"], ERRORS.numpy()).logpdf(SCHOOLS.numpy()).sum()
    )


def supports() -> None:
    """A simplex, a correlation matrix, an ordered vector's bound, and a factor."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3).double()))
    root = pyro.sample("root", dist.LKJCholesky(3, real(1.5)))
    scale = pyro.sample("scale", dist.LogNormal(real(0.0).expand(3), 1.0).to_event(1))
    pyro.sample(
        "seen",
        dist.MultivariateNormal(weights, scale_tril=scale[:, None] * root),
        obs=numbers(3, seed=2),
    )
    pyro.factor("penalty", -weights.square().sum())


def moving_support() -> None:
    """The second site lives below the first, so that its map depends on it."""
    top = pyro.sample("top", dist.Gamma(real(2.0), real(1.0)))
    with pyro.plate("n", 3):
        part = pyro.sample("part", dist.Uniform(real(0.0), top))
        pyro.sample("seen", dist.Normal(part, 0.5), obs=numbers(3, seed=3))


def moving_support_by_hand(x: Values) -> float:
    return float(
        stats.gamma(2).logpdf(x["top"])
        + stats.uniform(0, x["top"]).logpdf(x["part"]).sum()
        + stats.norm(x["part"], 0.5).logpdf(numbers(3, seed=3).numpy()).sum()
    )


def scaled_and_masked() -> None:
    mean = pyro.sample("mean", dist.Normal(real(0.0), 1.0))
    with (
        pyro.plate("n", 4),
        poutine.scale(scale=2.5),
        poutine.mask(mask=torch.tensor([1, 0, 1, 1]).bool()),
    ):
        pyro.sample("seen", dist.Normal(mean, 1.0), obs=numbers(4, seed=4))


def scaled_and_masked_by_hand(x: Values) -> float:
    kept = numbers(4, seed=4).numpy()[[0, 2, 3]]
    return float(stats.norm.logpdf(x["mean"]) + 2.5 * stats.norm(x["mean"], 1).logpdf(kept).sum())


# --- discrete sites ------------------------------------------------------------------------------


def nested() -> None:
    """Plates inside plates, and a site that each outer element shares with many inner ones."""
    rate = pyro.sample("rate", dist.Beta(real(2.0), real(1.0)))
    with pyro.plate("outer", 2):
        group = pyro.sample("group", dist.Bernoulli(rate))
        with pyro.plate("inner", 2):
            member = pyro.sample("member", dist.Bernoulli(torch.sigmoid(2 * group - 1)))
            pyro.sample("seen", dist.Normal(member, 1.0), obs=numbers(2, 2, seed=5))


def nested_by_hand(x: Values) -> float:
    return float(
        stats.beta(2, 1).logpdf(x["rate"])
        + stats.bernoulli(x["rate"]).logpmf(x["group"]).sum()
        + stats.bernoulli(np.broadcast_to(expit(2 * x["group"] - 1), (2, 2)))
        .logpmf(x["member"])
        .sum()
        + stats.norm(x["member"], 1).logpdf(numbers(2, 2, seed=5).numpy()).sum()
    )


def sum_over_a_plate() -> None:
    """The elements of the plate meet in what is observed."""
    with pyro.plate("n", 4):
        bit = pyro.sample("bit", dist.Bernoulli(real(0.3)))
    pyro.sample("seen", dist.Normal(bit.sum(-1), 0.7), obs=real(2.2))


def sum_over_a_plate_by_hand(x: Values) -> float:
    return float(
        stats.bernoulli(0.3).logpmf(x["bit"]).sum() + stats.norm(x["bit"].sum(), 0.7).logpdf(2.2)
    )


def ring_in_a_plate() -> None:
    """Each element looks at its neighbour, which provenance cannot tell."""
    with pyro.plate("n", 4):
        bit = pyro.sample("bit", dist.Bernoulli(real(0.4)))
        pyro.sample("seen", dist.Normal(bit + 2 * bit.roll(1), 0.8), obs=numbers(4, seed=6) + 1)


def ring_in_a_plate_by_hand(x: Values) -> float:
    mean = x["bit"] + 2 * np.roll(x["bit"], 1)
    return float(
        stats.bernoulli(0.4).logpmf(x["bit"]).sum()
        + stats.norm(mean, 0.8).logpdf(numbers(4, seed=6).numpy() + 1).sum()
    )


def vector_sites() -> None:
    """A vector of bits, one of labels in a plate, and one that is one-hot."""
    bits = pyro.sample("bits", dist.Bernoulli(vector([0.2, 0.6])).to_event(1))
    with pyro.plate("n", 2):
        labels = pyro.sample(
            "labels", dist.Categorical(logits=numbers(2, 3, seed=7)).expand([2, 2]).to_event(1)
        )
        hot = pyro.sample("hot", dist.OneHotCategorical(logits=numbers(3, seed=8)))
        mean = labels.sum(-1) + hot @ real(1.0).expand(3).cumsum(0) + bits.sum(-1)
        pyro.sample("seen", dist.Normal(mean, 1.5), obs=numbers(2, seed=9) + 3)


def two_that_depend() -> None:
    """Two discrete sites, the second of which has its law from the first."""
    first = pyro.sample("first", dist.Categorical(vector([0.2, 0.5, 0.3])))
    table = numbers(3, 4, seed=10)
    second = pyro.sample("second", dist.Categorical(logits=table[first]))
    pyro.sample("seen", dist.Normal((first - second).double(), 1.0), obs=real(0.4))


def two_that_depend_by_hand(x: Values) -> float:
    first, second = int(x["first"]), int(x["second"])
    row = numbers(3, 4, seed=10).numpy()[first]
    return float(
        math.log([0.2, 0.5, 0.3][first])
        + row[second]
        - logsumexp(row)
        + stats.norm(first - second, 1).logpdf(0.4)
    )


def counts() -> None:
    """A count with bounds that differ from element to element, and one whose total is latent."""
    with pyro.plate("n", 2):
        some = pyro.sample("some", dist.Binomial(vector([2.0, 3.0]), real(0.4)))
        pyro.sample("seen", dist.Poisson(1 + some), obs=vector([2.0, 4.0]))
    total = pyro.sample("total", dist.Categorical(torch.ones(5).double()))
    pyro.sample("part", dist.Binomial(total.double(), real(0.5)), obs=real(2.0))


def counts_by_hand(x: Values) -> float:
    return float(
        stats.binom([2, 3], 0.4).logpmf(x["some"]).sum()
        + stats.poisson(1 + x["some"]).logpmf([2, 4]).sum()
        + math.log(0.2)
        + stats.binom(int(x["total"]), 0.5).logpmf(2)
    )


def discrete_bounds_real() -> None:
    """A bit that moves the support of a real site in the same plate."""
    with pyro.plate("n", 2):
        bit = pyro.sample("bit", dist.Bernoulli(real(0.4)))
        part = pyro.sample("part", dist.Uniform(real(0.0), 1 + bit))
        pyro.sample("seen", dist.Normal(part, 0.5), obs=numbers(2, seed=11))


# --- sites that are summed out -------------------------------------------------------------------

POINTS = vector([-1.2, 0.3, 2.0, 2.4])


@config_enumerate
def summed_mixture(points: Tensor) -> None:
    weight = pyro.sample("weight", dist.Beta(real(2.0), real(2.0)))
    mean = pyro.sample("mean", dist.Normal(real(0.0).expand(2), 3.0).to_event(1))
    with pyro.plate("n", len(points)):
        label = pyro.sample("label", dist.Bernoulli(weight))
        pyro.sample("seen", dist.Normal(mean[label.long()], 1.0), obs=points)


def summed_mixture_by_hand(x: Values) -> float:
    first = np.log(1 - x["weight"]) + stats.norm(x["mean"][0], 1).logpdf(POINTS.numpy())
    second = np.log(x["weight"]) + stats.norm(x["mean"][1], 1).logpdf(POINTS.numpy())
    return float(
        stats.beta(2, 2).logpdf(x["weight"])
        + stats.norm(0, 3).logpdf(x["mean"]).sum()
        + np.logaddexp(first, second).sum()
    )


def one_summed_one_drawn() -> None:
    """A site that is summed out between two that are not."""
    first = pyro.sample("first", dist.Bernoulli(real(0.7)))
    hidden = pyro.sample(
        "hidden",
        dist.Categorical(logits=numbers(2, 3, seed=12)[first.long()]),
        infer={"enumerate": "parallel"},
    )
    pyro.sample("second", dist.Categorical(logits=numbers(3, 2, seed=13)[hidden]))


def one_summed_one_drawn_by_hand(x: Values) -> float:
    middle = numbers(2, 3, seed=12).numpy()[int(x["first"])]
    last = numbers(3, 2, seed=13).numpy()
    last = (last - logsumexp(last, 1, keepdims=True))[:, int(x["second"])]
    return float(
        stats.bernoulli(0.7).logpmf(x["first"]) + logsumexp(middle - logsumexp(middle) + last)
    )


# --- models that vmap cannot take ----------------------------------------------------------------


def in_place() -> None:
    bit = pyro.sample("bit", dist.Bernoulli(real(0.3)))
    level = pyro.sample("level", dist.Normal(real(0.0), 1.0))
    mean = torch.zeros(2).double()
    mean[0], mean[1] = bit, level  # which loses provenance, too
    with pyro.plate("n", 2):
        pyro.sample("seen", dist.Normal(mean, 1.0), obs=numbers(2, seed=14))


def in_place_by_hand(x: Values) -> float:
    mean = np.array([x["bit"], x["level"]])
    return float(
        stats.bernoulli(0.3).logpmf(x["bit"])
        + stats.norm.logpdf(x["level"])
        + stats.norm(mean, 1).logpdf(numbers(2, seed=14).numpy()).sum()
    )


def branch() -> None:
    bit = pyro.sample("bit", dist.Bernoulli(real(0.3)))
    with pyro.plate("n", 2):
        other = pyro.sample("other", dist.Bernoulli(real(0.8 if bit == 1 else 0.4)))
    pyro.sample("seen", dist.Normal(other.sum(-1), 1.0), obs=real(1.5))


CASES: dict[str, Case] = {
    "regression": Case(regression, (ROWS, HEIGHTS), regression_by_hand),
    "eight schools": Case(schools, (SCHOOLS, ERRORS), schools_by_hand),
    "supports": Case(supports),
    "moving support": Case(moving_support, (), moving_support_by_hand),
    "scaled and masked": Case(scaled_and_masked, (), scaled_and_masked_by_hand),
    "nested plates": Case(nested, (), nested_by_hand),
    "sum over a plate": Case(sum_over_a_plate, (), sum_over_a_plate_by_hand),
    "ring in a plate": Case(ring_in_a_plate, (), ring_in_a_plate_by_hand),
    "vector sites": Case(vector_sites),
    "two that depend": Case(two_that_depend, (), two_that_depend_by_hand),
    "counts": Case(counts, (), counts_by_hand),
    "a bit bounds a real": Case(discrete_bounds_real),
    "summed mixture": Case(summed_mixture, (POINTS,), summed_mixture_by_hand, summed=True),
    "one summed, one drawn": Case(
        one_summed_one_drawn, (), one_summed_one_drawn_by_hand, summed=True
    ),
    "in place": Case(in_place, (), in_place_by_hand, batched=False),
    "branch": Case(branch, (), batched=False),
}
