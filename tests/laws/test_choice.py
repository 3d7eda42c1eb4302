"""One chooser: for every energy and purpose it moves every site and leaves the law unchanged."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    ModelEnergy,
)
from pyro_ebm.kernels import (
    Purpose,
    choose_kernel,
    warmup,
)
from pyro_ebm.kernels.base import reverse_of, unmoved_sites, unset_of
from pyro_ebm.sites import Site, boolean
from tests.support.finite import Table, after
from tests.support.goodness import ALPHA
from tests.support.machines import SMALL

CHAINS, LABELS = 4000, constraints.integer_interval(0, 2)


def function_of(support: constraints.Constraint, *shape: int) -> CallableEnergy:
    def curved(x: Tensor) -> Tensor:
        flat = x.flatten(-len(shape))
        weights = torch.linspace(-1, 1, flat.shape[-1], dtype=x.dtype)
        return (flat * weights).sum(-1).cos() + 0.5 * flat.square().sum(-1)

    return CallableEnergy(curved, {"x": Site(support, torch.Size(shape))}, dtype=torch.float64)


def one_on(x: Tensor) -> Tensor:
    return torch.where(x.sum(-1) == 1, x[..., 0] - x[..., 1], torch.inf)


def only_one_on() -> CallableEnergy:
    return CallableEnergy(one_on, {"x": Site(boolean, torch.Size([3]))}, dtype=torch.float64)


def coins() -> None:
    a = pyro.sample("a", dist.Bernoulli(torch.full((2,), 0.3).double()).to_event(1))
    pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a).to_event(1))


def machine(name: str) -> BoltzmannMachine:
    return SMALL[name].machine()


def dense() -> BoltzmannMachine:
    torch.manual_seed(3)
    weight = torch.randn(3, 3, dtype=torch.float64)
    return BoltzmannMachine.fully_visible(3, couplings=(weight + weight.mT).fill_diagonal_(0))


FINITE: dict[str, Callable[[], Energy]] = {
    "bits": lambda: machine("one shared coupling"),
    "bits and spins": lambda: machine("restricted with spins"),
    "dense bits": dense,
    "function of bits": lambda: function_of(boolean, 3),
    "function of labels": lambda: function_of(LABELS, 2),
    "function of one-hot": lambda: function_of(constraints.one_hot, 2, 3),
    "exactly one on": only_one_on,
    "a Pyro model": lambda: ModelEnergy(coins),
    "a sum": lambda: dense() + dense(),
    "a weighted function": lambda: 0.5 * function_of(boolean, 3),
}


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("name", FINITE)
def test_every_site_is_moved_and_the_law_is_left_unchanged(name: str, purpose: Purpose) -> None:
    # α = 1e-6, N = 4,000 exact draws after 1, and chains of one state after 60 steps.
    energy = FINITE[name]()
    kernel = choose_kernel(energy, purpose)
    assert not unmoved_sites(kernel, energy)
    if purpose is Purpose.REVERSE:
        reverse_of(kernel, energy)
    if not purpose.has_warmup:
        assert not unset_of(kernel)
    table = Table.of(energy)
    if unset_of(kernel):
        kernel, _ = warmup(kernel, energy, table.exact(64), steps=60, seed=1)
    assert after(kernel, table, table.exact(CHAINS), 1, seed=3) > ALPHA
    if purpose is not Purpose.REVERSE:  # whose chains share what they choose
        assert after(kernel, table, table.rarest(CHAINS), 60, seed=4) > ALPHA


def test_without_a_warmup_a_site_that_needs_one_is_refused() -> None:
    energy = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)
    with pytest.raises(ValueError, match="No kernel without a warm-up is known that moves"):
        choose_kernel(energy, Purpose.FIXED)
    with pytest.raises(TypeError, match="purpose is 'ladder'"):
        choose_kernel(energy, "ladder")  # type: ignore[arg-type]
