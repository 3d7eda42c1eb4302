"""Supports of a Pyro model's sites: which move with other sites, and what is outside of them."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import ModelEnergy
from pyro_ebm.kernels import HMC, Cycle, Gibbs, RandomWalk, choose_kernel, run
from pyro_ebm.sites import storage_dtype
from tests.support.models import real


def unknown_end(seen: float = 6.0) -> None:
    end = pyro.sample("end", dist.Gamma(real(2.0), real(0.5)))
    pyro.sample("seen", dist.Uniform(real(0.0), end), obs=real(seen))


def test_data_outside_of_a_support_that_moves_are_impossible() -> None:
    energy = ModelEnergy(unknown_end)
    for end in (2.0, 5.9, 6.1, 40.0):
        # ln p(end) + ln(end), of the logarithm, − ln(end), of the data: ln Gamma alone.
        log_p = 2 * math.log(0.5) + math.log(end) - 0.5 * end
        wanted = -log_p if end > 6 else math.inf
        assert float(energy({"end": real(math.log(end))})) == pytest.approx(wanted, abs=1e-12)
    assert energy.walled == {"end"}
    assert isinstance(choose_kernel(energy), RandomWalk)


@pytest.mark.parametrize("seen", [6.0, 60.0, 1e4])
def test_random_starts_look_farther_until_the_data_are_possible(seen: float) -> None:
    torch.manual_seed(0)
    energy = ModelEnergy(unknown_end, seen)
    x = energy.initial(64)
    assert bool(energy(x).isfinite().all())
    chains = run(RandomWalk(scale=0.1), energy, 1, warmup=0, chains=8, seed=0)
    assert bool((energy.constrain(chains.last)["end"] > seen).all())


def test_data_outside_of_a_fixed_support_are_refused_as_before() -> None:
    def model() -> None:
        end = pyro.sample("end", dist.Gamma(2.0, 0.5))
        pyro.sample("seen", dist.Beta(end, 1.0), obs=torch.tensor(6.0))

    with pytest.raises(ValueError, match="within the support"):
        ModelEnergy(model)


@config_enumerate
def summed_before_bounded_data() -> None:
    end = pyro.sample("end", dist.Gamma(real(2.0), real(0.5)))
    doubled = pyro.sample("doubled", dist.Bernoulli(real(0.3)))
    pyro.sample("hint", dist.Normal(doubled, 1.0), obs=real(0.5))
    pyro.sample("seen", dist.Uniform(real(0.0), end * (1 + doubled)), obs=real(6.0))


@pytest.mark.parametrize("end", [2.0, 4.0, 7.0])
def test_a_sum_leaves_out_what_makes_the_data_impossible(end: float) -> None:
    energy = ModelEnergy(summed_before_bounded_data)
    weights = [
        prior * math.exp(-((0.5 - k) ** 2) / 2) / math.sqrt(2 * math.pi) / (end * (1 + k))
        for k, prior in enumerate((0.7, 0.3))
        if end * (1 + k) > 6
    ]
    log_p = 2 * math.log(0.5) + 2 * math.log(end) - 0.5 * end
    wanted = -log_p - math.log(sum(weights)) if weights else math.inf
    assert float(energy({"end": real(math.log(end))})) == pytest.approx(wanted, abs=1e-12)


# --- bounds that do not move ---------------------------------------------------------------------


def latent_rate() -> None:
    rate = pyro.sample("rate", dist.Beta(real(2.0), real(2.0)))
    count = pyro.sample("count", dist.Binomial(5, rate))
    pyro.sample("seen", dist.Normal(count, 1.0), obs=real(3.0))


def test_bounds_computed_beside_a_latent_parameter_do_not_move() -> None:
    energy = ModelEnergy(latent_rate)
    assert energy.moving == frozenset()
    assert energy.discrete_site("count").values.tolist() == [0, 1, 2, 3, 4, 5]
    kernel = choose_kernel(energy)
    assert isinstance(kernel, Cycle)
    assert [type(k) for k in kernel.kernels] == [Gibbs, HMC]
    x = {"rate": real(0.3), "count": real(2.0)}
    p = 1 / (1 + math.exp(-0.3))
    weights = torch.tensor(
        [
            math.comb(5, k) * p**k * (1 - p) ** (5 - k) * math.exp(-((3 - k) ** 2) / 2)
            for k in range(6)
        ]
    )
    found = energy.conditional("count", x).logits.softmax(-1).flatten()
    assert torch.allclose(found, (weights / weights.sum()).double(), atol=1e-12)


def rarely_larger() -> None:
    """A bound that three passes of four thousand show."""
    rare = pyro.sample("rare", dist.Bernoulli(real(0.0003)))
    pyro.sample("count", dist.Binomial(2 + 3 * rare, real(0.5)))


def smaller_for_a_label() -> None:
    label = pyro.sample("label", dist.Categorical(torch.tensor([1e-9, 1.0, 1e-9])))
    top = torch.tensor([1.0, 4.0, 4.0])[label]
    pyro.sample("count", dist.Binomial(top, real(0.5)))


@pytest.mark.parametrize("model", [rarely_larger, smaller_for_a_label])
def test_bounds_that_move_with_rare_values_are_found(model: Callable[[], None]) -> None:
    assert ModelEnergy(model).moving == {"count"}


# --- how draws are kept --------------------------------------------------------------------------


def integers(low: float | Tensor, high: float | Tensor) -> constraints.Constraint:
    return constraints.integer_interval(low, high)


@pytest.mark.parametrize(
    ("support", "dtype"),
    [
        (integers(0, 127), torch.int8),
        (integers(-1000, 0), torch.int16),
        (integers(torch.tensor([-1000, 0]), torch.tensor([1, 5])), torch.int16),
        (integers(0, 40_000), torch.int32),
        (constraints.nonnegative_integer, torch.int64),
        (constraints._IntegerLessThan(-1), torch.int64),
    ],
)
def test_draws_are_kept_in_a_dtype_that_holds_them(
    support: constraints.Constraint, dtype: torch.dtype
) -> None:
    assert storage_dtype(support) == dtype
