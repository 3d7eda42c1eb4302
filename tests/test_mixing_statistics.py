"""What chains did, in numbers: against ArviZ, against known laws, and by hand."""

import functools
import math
from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import CallableEnergy
from pyro_ebm.sites import Site, boolean
from pyro_ebm.statistics import (
    agreement,
    effective_sample_size,
    frozen_units,
    hamming_autocorrelation,
    hamming_effective_sample_size,
    independent_log_likelihood,
    kernel_stein_discrepancy,
    nested_r_hat,
    principal_directions,
    projections,
    r_hat,
    round_trips,
    stretch_means,
    tail_effective_sample_size,
)
from pyro_ebm.statistics.stein import stein_kernel

FLIP = 0.05
TRUE_SIZE = 8000 * FLIP / (1 - FLIP)  # 421.05: ρ_t = (1 − 2 · 0.05)^t


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_state(chains: int, draws: int, units: int, seed: int = 0, flip: float = FLIP) -> Tensor:
    """Bits that flip with some probability, from even starts: (chain, draw, unit)."""
    random = torch.rand(chains, draws, units, generator=generator(seed))
    flips = random < flip
    flips[:, 0] = random[:, 0] < 0.5
    return flips.cumsum(1).remainder(2).to(torch.int8)


def autoregressive(chains: int, draws: int, memory: float, seed: int = 0) -> Tensor:
    """A stationary normal process whose neighbours correlate so much: (chain, draw)."""
    x = torch.randn(chains, draws, generator=generator(seed), dtype=torch.float64)
    x[:, 0] /= math.sqrt(1 - memory**2)
    for t in range(1, draws):
        x[:, t] += memory * x[:, t - 1]
    return x


# --- arrays --------------------------------------------------------------------------------------

assert_close = functools.partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
OF_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "R-hat": r_hat,
    "size": effective_sample_size,
    "tails": tail_effective_sample_size,
    "Hamming": hamming_effective_sample_size,
    "Hamming by lag": lambda x: hamming_autocorrelation(x, 3),
    "nested": lambda x: nested_r_hat(x, 2),
    "frozen": lambda x: frozen_units(x).stuck,
    "agreement": agreement,
    "directions": lambda x: principal_directions(x.reshape(-1, 3), 2),
    "independent units": lambda x: torch.tensor(
        independent_log_likelihood(x.reshape(-1, 3), x.reshape(-1, 3))
    ),
}


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_numpy_arrays_give_what_tensors_give(name: str) -> None:
    statistic, bits = OF_ARRAYS[name], two_state(4, 50, 3)
    for dtype in (">i4", "uint16", "bool"):
        assert_close(statistic(bits.numpy().astype(dtype)), statistic(bits))
    flipped = bits.numpy()[::-1]
    assert_close(statistic(flipped), statistic(torch.from_numpy(flipped.copy())))


@pytest.mark.parametrize("bad", [[[0.0]], np.array([["a"]]), torch.zeros(2, 9, dtype=torch.cfloat)])
def test_what_is_no_array_of_numbers_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match=r"'draws' is .*; wanted"):
        r_hat(bad)  # type: ignore[arg-type]


# --- R-hat and effective sample size -------------------------------------------------------------

SERIES = {
    "slow": autoregressive(4, 400, 0.9),
    "antithetic": autoregressive(2, 101, -0.7),
    "never to zero": autoregressive(3, 33, 0.99),
    "few draws": autoregressive(4, 20, 0.0),
    "apart": autoregressive(4, 200, 0.5) + torch.arange(4)[:, None],
    "wider": autoregressive(4, 200, 0.5) * torch.tensor([1.0, 1.0, 1.0, 9.0])[:, None],
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize(
    "kind", [lambda x: x, lambda x: (x > 0.5).double(), torch.round], ids=["real", "bit", "ties"]
)
def test_the_numbers_are_arviz_numbers(name: str, kind: Callable[[Tensor], Tensor]) -> None:
    x = kind(SERIES[name])
    array = x.numpy()
    assert float(r_hat(x)) == pytest.approx(float(az.rhat(array)), rel=1e-12)
    assert float(effective_sample_size(x)) == pytest.approx(float(az.ess(array)), rel=1e-11)
    found = float(tail_effective_sample_size(x))
    wanted = float(az.ess(array, method="tail"))
    # ArviZ's quantiles differ by a part of a draw, and bits may lie in no tail.
    assert math.isnan(found) or len(array[0]) < 100 or found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("draws", [8, 9])
def test_the_least_number_of_draws_has_an_effective_sample_size(draws: int) -> None:
    """Half chains of four draws: 2 (1 + ρ₁) − 1 + max(ρ₂, 0), by loops."""
    x = torch.randn(3, draws, dtype=torch.float64).cumsum(1).round()
    values = np.concatenate([x[:, :4], x[:, -4:]])
    halves = stats.norm.ppf((stats.rankdata(values).reshape(6, 4) - 0.375) / 24.25)
    away = halves - halves.mean(1, keepdims=True)
    lagged = [float((away[:, : 4 - t] * away[:, t:]).sum()) / 24 for t in range(3)]
    within = lagged[0] * 4 / 3
    total = lagged[0] + halves.mean(1).var(ddof=1)
    rho = [1 - (within - one) / total for one in lagged]
    time = 2 * (1 + rho[1]) - 1 + max(rho[2], 0.0)
    assert float(effective_sample_size(x)) == pytest.approx(24 / time, rel=1e-9)
    assert float(hamming_effective_sample_size(x[..., None] > 0)) > 0
    assert not bool(tail_effective_sample_size(x).isinf())


def test_units_do_not_see_each_other() -> None:
    together = torch.stack([SERIES["slow"], SERIES["slow"].exp()], -1)
    for statistic in (r_hat, effective_sample_size, tail_effective_sample_size):
        found = statistic(together)
        assert found.shape == (2,)
        assert float(found[1]) == pytest.approx(float(statistic(SERIES["slow"].exp())), rel=1e-12)
    assert float(r_hat(together)[0]) == float(r_hat(together)[1])  # ranks: exp changes nothing


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = two_state(3, 100, 7)
    whole = effective_sample_size(draws), hamming_effective_sample_size(draws)
    monkeypatch.setattr("pyro_ebm.statistics.autocovariance.CHUNK", 700)
    assert torch.equal(effective_sample_size(draws), whole[0])
    assert float(hamming_effective_sample_size(draws)) == pytest.approx(float(whole[1]), rel=1e-12)


def test_the_size_of_a_two_state_chain() -> None:
    # One run's estimate has a spread of 12 %: the mean of 200 has 0.9 %. Every unit is a run.
    found = effective_sample_size(two_state(1, 8000, 200))
    assert float(found.mean()) == pytest.approx(TRUE_SIZE, rel=0.05)
    assert 0.05 < float(found.std() / found.mean()) < 0.25


def test_the_hamming_size_of_two_state_chains() -> None:
    sizes = [float(hamming_effective_sample_size(two_state(1, 8000, 1, k))) for k in range(200)]
    assert np.mean(sizes) == pytest.approx(TRUE_SIZE, rel=0.05)
    # All units in one sum: little spread is left.
    together = float(hamming_effective_sample_size(two_state(1, 8000, 200)))
    assert together == pytest.approx(TRUE_SIZE, rel=0.05)


def test_hamming_weighs_units_by_their_variance() -> None:
    # A unit that was on once is worth nothing in the sum, and everything in a least size.
    draws = two_state(2, 4000, 50)
    rare = torch.zeros(2, 4000, 1, dtype=torch.int8)
    rare[0, 100:140] = 1
    alone = float(hamming_effective_sample_size(draws))
    assert float(hamming_effective_sample_size(torch.cat([draws, rare], -1))) == pytest.approx(
        alone, rel=0.05
    )


def test_hamming_autocorrelation_of_two_state_chains() -> None:
    found = hamming_autocorrelation(two_state(8, 4000, 100), 20)
    expected = (1 - 2 * FLIP) ** torch.arange(21).double()
    assert torch.allclose(found, expected, atol=0.02)


def test_labels_count_as_equal_or_not() -> None:
    labels = torch.randint(0, 3, (2, 500, 4), generator=generator(0))
    renamed = torch.tensor([7, 0, -5])[labels]
    for statistic in (hamming_effective_sample_size, lambda x: hamming_autocorrelation(x, 5)):
        assert torch.allclose(statistic(labels), statistic(renamed))


def test_hamming_stays_high_in_a_trap() -> None:
    draws = two_state(4, 1000, 10, flip=0.5)
    draws[:, :, 5:] = torch.tensor([0, 0, 1, 1], dtype=torch.int8)[:, None, None]
    assert float(hamming_autocorrelation(draws, 400)[-1]) > 0.4
    assert float(hamming_effective_sample_size(draws)) < 10


def test_frozen_units_have_no_size_and_no_r_hat() -> None:
    draws = two_state(4, 100, 3)
    draws[..., 0] = 1
    draws[..., 1] = torch.tensor([0, 1, 1, 0], dtype=torch.int8)[:, None]
    assert math.isnan(effective_sample_size(draws)[0])  # ArviZ: 400
    assert math.isnan(r_hat(draws)[0])
    assert r_hat(draws)[1] == math.inf  # ArviZ: NaN, or some huge number
    # Values whose normal scores are rounded.
    stuck = torch.tensor([0.1, 0.2, 0.3])[:, None].expand(3, 50)
    assert r_hat(stuck) == math.inf
    assert math.isnan(hamming_effective_sample_size(torch.ones(2, 50, 3)))


BAD = {
    "NaN": (torch.full((2, 10), torch.nan), "NaN"),
    "infinite": (torch.full((2, 10), torch.inf), "NaN or infinite"),
    "one dimension": (torch.zeros(10), r"shape \(10,\)"),
    "no units": (torch.zeros(2, 10, 0), r"shape \(2, 10, 0\)"),
    "few draws": (torch.zeros(2, 7), "2 chains of 7 draws"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize(
    "statistic",
    [r_hat, effective_sample_size, tail_effective_sample_size, hamming_effective_sample_size],
)
def test_what_is_no_set_of_draws_is_refused(case: str, statistic: Callable) -> None:
    draws, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        statistic(draws)


def test_too_many_lags_are_refused() -> None:
    with pytest.raises(ValueError, match="lags is 50"):
        hamming_autocorrelation(two_state(1, 100, 2), 50)


# --- agreement -----------------------------------------------------------------------------------


def test_agreement_is_the_test_of_kruskal_and_wallis() -> None:
    # Without ties and given ranks, they are the same.
    y = torch.randn(4, 8, generator=generator(0), dtype=torch.float64)
    ranks = torch.tensor(stats.rankdata(y.numpy()).reshape(y.shape))
    wanted = stats.kruskal(*y.numpy()).pvalue
    assert float(agreement(ranks)) == pytest.approx(wanted, rel=1e-10)


def test_agreement_of_alike_chains_is_even() -> None:
    # α = 1e-6 for 2,000 tests; a variance that is 10 % too small is found.
    p = agreement(torch.randn(8, 16, 2000, generator=generator(1)))
    assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-6
    wrong = torch.randn(8, 16, 2000, generator=generator(1))
    wrong += 0.1 * torch.randn(8, 1, 2000, generator=generator(2))
    assert stats.kstest(agreement(wrong).numpy(), "uniform").pvalue < 1e-6


def test_agreement_of_rare_units_raises_no_alarm() -> None:
    # Few stretches in which anything happens: the F distribution gives p below 1e-6 where six of
    # them are in one chain of four, which happens once in 8,000 times.
    y = torch.zeros(4, 8)
    y[0, :6] = 1
    assert float(agreement(y)) > 5e-5


def test_agreement_where_nothing_varies() -> None:
    assert agreement(torch.full((3, 4, 2), 0.1)).tolist() == [1, 1]


def test_stretches_are_the_last_ones() -> None:
    draws = torch.arange(11.0)[None, :, None]
    assert stretch_means(draws, 3).flatten().tolist() == [3, 6, 9]
    with pytest.raises(ValueError, match="too few"):
        stretch_means(draws, 12)
    with pytest.raises(ValueError, match="at least two of each"):
        agreement(torch.zeros(1, 8))


# --- nested R-hat --------------------------------------------------------------------------------


def test_nested_r_hat_by_hand() -> None:
    # Two groups of two chains of two draws: means 1, 3 | 6, 8; inside, variances 2 between chains
    # and 2 within; between groups (2, 7) 12.5.
    draws = torch.tensor([[0.0, 2.0], [2.0, 4.0], [5.0, 7.0], [7.0, 9.0]])
    assert float(nested_r_hat(draws, 2)) == pytest.approx(math.sqrt(1 + 12.5 / 4), rel=1e-12)
    # One draw of each: nothing varies within a chain.
    assert float(nested_r_hat(draws[:, :1], 2)) == pytest.approx(math.sqrt(1 + 12.5 / 2), rel=1e-12)


def test_nested_r_hat_of_many_short_chains() -> None:
    # Independent chains of one draw: E[R²] − 1 = 1 / m.
    draws = torch.randn(16 * 64, 1, 500, generator=generator(0))
    square = nested_r_hat(draws, 16).square()
    assert float(square.mean()) == pytest.approx(1 + 1 / 64, abs=5e-4)
    # Plain R-hat needs long chains; this sees at once that groups have not forgotten their start.
    start = torch.randn(16, 1, 1, generator=generator(1)).repeat_interleave(64, 0)
    assert float(nested_r_hat(draws[..., :1] + start, 16)) > 1.3


def test_nested_r_hat_of_frozen_units() -> None:
    draws = torch.ones(4, 3, 2)
    draws[2:, :, 1] = 0
    found = nested_r_hat(draws, 2)
    assert math.isnan(found[0])
    assert found[1] == math.inf


@pytest.mark.parametrize("superchains", [1, 3, 4])
def test_wrong_groups_are_refused(superchains: int) -> None:
    with pytest.raises(ValueError, match=f"4 chains cannot be put in {superchains}"):
        nested_r_hat(torch.zeros(4, 2), superchains)


# --- principal components ------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "units"), [(50, 6), (6, 50)])
def test_directions_are_those_of_the_singular_values(rows: int, units: int) -> None:
    data = torch.randn(rows, units, generator=generator(0), dtype=torch.float64)
    _, _, wanted = np.linalg.svd((data - data.mean(0)).numpy(), full_matrices=False)
    found = principal_directions(data, 4)
    assert np.allclose(np.abs((found.numpy() * wanted[:4]).sum(1)), 1, atol=1e-10)
    draws = torch.randn(2, 300, units, generator=generator(1), dtype=torch.float64)
    assert torch.allclose(projections(draws, found), draws @ found.T)


def test_there_are_no_more_directions_than_data_vary_in() -> None:
    data = torch.outer(torch.arange(5.0), torch.tensor([1.0, 2.0]))
    assert principal_directions(data, 2).shape == (1, 2)
    assert torch.allclose(
        principal_directions(data, 2), torch.tensor([[1.0, 2.0]]).double() / math.sqrt(5)
    )
    assert principal_directions(torch.ones(5, 3), 2).shape == (0, 3)
    with pytest.raises(ValueError, match="wanted"):
        principal_directions(torch.ones(1, 3), 2)
    with pytest.raises(ValueError, match="NaN"):
        principal_directions(torch.full((4, 3), torch.nan), 2)


# --- round trips ---------------------------------------------------------------------------------


def test_round_trips_by_hand() -> None:
    # Replica 0: up, down, up, down. Replica 1 begins in the middle. Replica 2 begins at the top:
    # its first way down is no round trip.
    levels = torch.tensor(
        [[0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0], [0, 2, 1], [0, 1, 2], [1, 0, 2]]
    )
    found = round_trips(levels)
    assert found.completed.tolist() == [1, 1, 0]
    assert float(found.rate) == 2 / 8
    assert found.upward[0] == 1
    assert found.upward[2] == 0
    assert torch.allclose(found.visits.sum(-1), torch.ones(3).double())
    assert found.visits[0].tolist() == [3 / 8, 3 / 8, 2 / 8]
    both = round_trips(torch.stack([levels, levels]))
    assert both.completed.tolist() == [[1, 1, 0]] * 2


def test_the_flow_of_free_replicas_is_even() -> None:
    # Neighbours change places at random: the share on the way up falls evenly.
    torch.manual_seed(0)
    level = torch.arange(5)
    history = []
    for draw in range(10_000):
        replica_at = level.argsort()
        for low in range(draw % 2, 4, 2):
            if torch.rand(()) < 0.5:
                level[replica_at[[low, low + 1]]] = level[replica_at[[low + 1, low]]]
        history.append(level.clone())
    found = round_trips(torch.stack(history))
    assert torch.allclose(found.upward, torch.linspace(1, 0, 5).double(), atol=0.08)
    assert torch.allclose(found.visits, torch.full((5, 5), 0.2).double(), atol=0.08)


@pytest.mark.parametrize(
    "levels",
    [torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 1, dtype=torch.long)],
)
def test_what_is_no_ladder_is_refused(levels: Tensor) -> None:
    with pytest.raises(ValueError, match="'levels'"):
        round_trips(levels)


# --- kernel Stein discrepancy --------------------------------------------------------------------

NORMAL = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2, dtype=torch.float64)


def normal_grid(shift: float, dimensions: int) -> tuple[Tensor, Tensor]:
    """Points and weights of a normal law; even spacing is exact to rounding here."""
    x = torch.cartesian_prod(*[torch.linspace(-7, 7, 36).double()] * dimensions)
    x = x.reshape(-1, dimensions)
    return x + shift, (-x.square().sum(1) / 2).softmax(0)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_stein_kernel_by_quadrature(dimensions: int, shift: float) -> None:
    # For q = N(shift, 1) and p = N(0, 1) the scores differ by −shift everywhere, so that
    # KSD² = n shift² E[k(x, y)]; the kernel itself has no derivative in it.
    x, w = normal_grid(shift, dimensions)
    found = w @ stein_kernel(x, -x, x, -x, 2.0) @ w
    k = (4 + torch.cdist(x, x).square()).rsqrt()
    assert float(found) == pytest.approx(float(dimensions * shift**2 * (w @ k @ w)), abs=1e-9)


def test_the_unbiased_square_is_its_expectation() -> None:
    x, w = normal_grid(0.3, 2)
    wanted = float(2 * 0.3**2 * (w @ (4 + torch.cdist(x, x).square()).rsqrt() @ w))
    torch.manual_seed(0)
    runs = [
        float(kernel_stein_discrepancy(NORMAL, draws, scale=2.0, bootstraps=1).unbiased)
        for draws in 0.3 + torch.randn(200, 100, 2, dtype=torch.float64)
    ]
    assert abs(np.mean(runs) - wanted) < 5 * np.std(runs) / math.sqrt(200)
    assert np.std(runs) / math.sqrt(200) < wanted / 20


def p_values(draws: Tensor, **settings: int) -> np.ndarray:
    return np.array([float(kernel_stein_discrepancy(NORMAL, x, **settings).p_value) for x in draws])


def test_exact_draws_pass_and_biased_ones_do_not() -> None:
    # The probability of an exact sampler is even (α = 1e-6 for 60 runs); a mean off by a quarter
    # of the width, or a width off by 40 %, is found in 300 draws.
    torch.manual_seed(0)
    exact = torch.randn(60, 300, 2, dtype=torch.float64)
    assert stats.kstest(p_values(exact, bootstraps=200), "uniform").pvalue > 1e-6
    assert (p_values(exact[:20] + 0.25) < 0.01).mean() > 0.9
    assert (p_values(exact[:20] * 1.4) < 0.01).mean() > 0.9


def test_dependent_draws_are_to_be_thinned() -> None:
    slow = torch.stack([autoregressive(2, 600, 0.8, seed).T for seed in range(24)]) * 0.6
    assert (p_values(slow[:, :200], bootstraps=100) < 0.05).mean() > 0.5
    assert (p_values(slow[:, ::15], bootstraps=100) < 0.05).mean() < 0.3


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 2, dtype=torch.float64)
    torch.manual_seed(1)
    whole = kernel_stein_discrepancy(NORMAL, x)
    monkeypatch.setattr("pyro_ebm.statistics.stein.BLOCK", 350)
    torch.manual_seed(1)
    cut = kernel_stein_discrepancy(NORMAL, x)
    assert torch.allclose(torch.stack(whole), torch.stack(cut), atol=1e-12)


def test_stein_of_several_sites() -> None:
    def energy(a: Tensor, b: Tensor) -> Tensor:
        return a.square().sum((-1, -2)) / 2 + b.square() / 2

    real = constraints.real
    sites = {"a": Site(real, torch.Size([1, 1])), "b": Site(real, torch.Size([]))}
    parted = CallableEnergy(energy, sites, dtype=torch.float64)
    x = torch.randn(60, 2, dtype=torch.float64)
    torch.manual_seed(1)
    whole = kernel_stein_discrepancy(NORMAL, x)
    torch.manual_seed(1)
    found = kernel_stein_discrepancy(parted, {"a": x[:, :1, None], "b": x[:, 1]})
    assert torch.allclose(torch.stack(whole), torch.stack(found), atol=1e-12)


def test_what_stein_cannot_judge_is_refused() -> None:
    sites = {"x": Site(boolean, torch.Size([2]))}
    bits = CallableEnergy(lambda x: x.sum(-1), sites)
    with pytest.raises(ValueError, match=r"\['x'\] are not real"):
        kernel_stein_discrepancy(bits, torch.zeros(5, 2))
    for x in (torch.zeros(1, 2), torch.zeros(2, 5, 2), torch.zeros(2)):
        with pytest.raises(ValueError, match="two draws or more of"):
            kernel_stein_discrepancy(NORMAL, x)
    with pytest.raises(ValueError, match="scale is 0"):
        kernel_stein_discrepancy(NORMAL, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="bootstraps is 0"):
        kernel_stein_discrepancy(NORMAL, torch.randn(5, 2), bootstraps=0)
