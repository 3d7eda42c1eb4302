"""The tutorials: `infer.MCMC(model)` alone gives the exact answers, and calls its chains mixed.

Each exact answer is computed here in numpy, by enumeration, conjugacy or quadrature.
"""

import itertools
import math
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "tutorials"
Names = dict[str, Any]  # of a program
LINES = 40


def weighted_mean(logs: list[float], values: list[float]) -> float:
    weights = special.softmax(np.array(logs))
    return float(weights @ np.array(values))


def bits(n: int) -> Iterator[np.ndarray]:
    return (np.array(row) for row in itertools.product((0, 1), repeat=n))


def log_normal(y: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    return float(stats.multivariate_normal(mean, covariance).logpdf(y))


def mixture(given: Names) -> float:
    data = given["DATA"].numpy()
    logs, values = [], []
    for label in bits(len(data)):
        ups = label.sum()
        log = special.betaln(2 + ups, 2 + len(data) - ups)
        for value, centre in ((0, -2.0), (1, 2.0)):
            own = data[label == value]
            if len(own):
                covariance = np.eye(len(own)) + 1.0
                log += log_normal(own, np.full(len(own), centre), covariance)
        logs.append(log)
        values.append((2 + ups) / (4 + len(data)))
    return weighted_mean(logs, values)


def hidden_markov_model(given: Names) -> float:
    switch, levels = given["SWITCH"].double().numpy(), given["LEVELS"].double().numpy()
    data = given["DATA"].double().numpy()
    seen = np.exp(-((data[:, None] - levels) ** 2) / 2)
    forward = [switch[0] * seen[0]]
    for row in seen[1:]:
        forward.append((forward[-1] @ switch) * row)
    backward = [np.ones(3)]
    for row in seen[:0:-1]:
        backward.append(switch @ (row * backward[-1]))
    both = np.array(forward) * np.array(backward[::-1])
    return float((both / both.sum(1, keepdims=True))[:, 2].sum())


def change_point(given: Names) -> float:
    data = given["DATA"].numpy()
    logs = []
    for year in range(len(data)):
        log = 0.0
        for own in (data[:year], data[year:]):
            shape, rate = 2 + own.sum(), 1 + len(own)
            log += special.gammaln(shape) - shape * math.log(rate)
        logs.append(log)
    return weighted_mean(logs, list(range(len(data))))


def capture_recapture(given: Names) -> float:
    caught, nights = given["CAUGHT"].numpy(), given["NIGHTS"]
    grid = (np.arange(1000) + 0.5) / 1000
    share, chance = np.meshgrid(grid, grid, indexing="ij")
    known = caught[caught > 0]
    hidden = share * (1 - chance) ** nights
    never = (caught == 0).sum()
    log = (
        len(known) * np.log(share)
        + known.sum() * np.log(chance)
        + (nights * len(known) - known.sum()) * np.log1p(-chance)
        + never * np.log(hidden + 1 - share)
    )
    weights = np.exp(log - log.max())
    missed = never * hidden / (hidden + 1 - share)
    return float(len(known) + (weights * missed).sum() / weights.sum())


def missing_covariates(given: Names) -> float:
    answers, known = given["ANSWERS"].numpy(), given["KNOWN"].numpy()
    outcomes = given["OUTCOMES"].double().numpy()
    logs, values = [], []
    for filled in bits(int((~known).sum())):
        x = answers.astype(float).copy()
        x[~known] = filled
        design = np.stack([np.ones_like(x), x], 1)
        covariance = np.eye(len(x)) + 4 * design @ design.T
        ups = x.sum()
        log = log_normal(outcomes, np.zeros(len(x)), covariance)
        logs.append(log + special.betaln(2 + ups, 2 + len(x) - ups))
        values.append((4 * design.T @ np.linalg.solve(covariance, outcomes))[1])
    return weighted_mean(logs, values)


def missing_counts(given: Names) -> float:
    counts, known = given["COUNTS"].numpy(), given["KNOWN"].numpy()
    return float((~known).sum() * (2 + counts[known].sum()) / (0.5 + known.sum()))


def topics(given: Names) -> float:
    words, tables = given["WORDS"][0].numpy(), given["TOPICS"].double().numpy()
    logs, values = [], []
    for label in bits(len(words)):
        ones = label.sum()
        log = special.betaln(1 + len(words) - ones, 1 + ones)
        logs.append(log + np.log(tables[label, words]).sum())
        values.append((1 + len(words) - ones) / (2 + len(words)))
    return weighted_mean(logs, values)


def spike_and_slab(given: Names) -> float:
    x, y = given["X"].double().numpy(), given["Y"].double().numpy()
    logs, values = [], []
    for inside in bits(x.shape[1]):
        own = x[:, inside == 1]
        logs.append(log_normal(y, np.zeros(len(y)), np.eye(len(y)) + own @ own.T))
        values.append(float(inside[0]))
    return weighted_mean(logs, values)


EXACT: dict[str, Callable[[Names], float]] = {
    own.__name__: own
    for own in (
        *(mixture, hidden_markov_model, change_point, capture_recapture),
        *(missing_covariates, missing_counts, topics, spike_and_slab),
    )
}
FAST = {"topics"}


def errors_off(draws: Tensor, wanted: float) -> float:
    """How many standard errors, between independent chains, the mean is off."""
    means = draws.double().mean(1)
    error = means.std() / math.sqrt(len(means))
    assert error < 0.05 * draws.double().std(), "too few effective draws to find a fault"
    return float((means.mean() - wanted).abs() / error)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in EXACT]
)
def test_a_tutorial_has_the_exact_answer(name: str) -> None:
    given = runpy.run_path(str(FOLDER / f"{name}.py"))
    mcmc, draws = given["main"]()
    assert errors_off(draws, EXACT[name](given)) < 4
    assert str(mcmc.diagnosis.verdict) == "mixed"


def test_every_tutorial_has_its_answer_and_is_short() -> None:
    programs = sorted(FOLDER.glob("*.py"))
    assert {path.stem for path in programs} == set(EXACT)
    assert all(len(path.read_text("utf-8").splitlines()) <= LINES for path in programs)
