"""A constant added to an energy changes no probability and leaves known what was known."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    RandomField,
    clamp,
    terms_of,
)
from pyro_ebm.kernels import Gibbs, ParallelTempering, run
from pyro_ebm.learning import ExactLikelihood, fit
from pyro_ebm.partition import exact
from pyro_ebm.sites import Site, boolean
from pyro_ebm.units import Gaussian

BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))


def three_bits() -> dict[str, Site]:
    return {"x": Site(boolean, torch.Size([3]))}


def machine() -> BoltzmannMachine:
    made = BoltzmannMachine.fully_visible(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def field() -> RandomField:
    return RandomField.on_graph(
        [(0, 1), (1, 2)], 3, node_table=torch.randn(3, 3), edge_table=torch.randn(2, 3, 3)
    )


ENERGIES: dict[str, Callable[[], Energy]] = {
    "a machine": machine,
    "a machine with hidden units": lambda: BoltzmannMachine.restricted(3, 2),
    "a weighted machine": lambda: 0.5 * machine(),
    "a sum of machines": lambda: machine() + machine(),
    "a clamped machine": lambda: clamp(
        BoltzmannMachine.restricted(3, 2), {"hidden": torch.ones(2)}
    ),
    "a field": field,
    "a weighted field": lambda: 0.5 * field(),
    "a sum of fields": lambda: field() + field(),
    "a clamped field": lambda: clamp(
        field(), torch.zeros(3), mask=torch.tensor([True, False, False])
    ),
    "a function": lambda: CallableEnergy(lambda x: x.sum(1) + x.prod(1), three_bits()),
    "a law": lambda: DistributionEnergy(dist.Bernoulli(logits=torch.randn(3)).to_event(1)),
    "a machine and a function": lambda: (
        machine()
        + CallableEnergy(
            lambda visible: visible.prod(1), {"visible": Site(boolean, torch.Size([3]))}
        )
    ),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_a_constant_shifts_energies_and_log_z_and_keeps_the_structure(name: str) -> None:
    energy = ENERGIES[name]()
    log_z, x = exact.log_partition(energy).detach(), exact.states(energy)
    before = energy(x).detach()
    for shifted, by in (
        (energy + 3.0, 3.0),
        (3 + energy, 3.0),
        (energy - 1.5, -1.5),
        (energy + torch.tensor(0.25), 0.25),
        (energy + np.float32(0.25), 0.25),
        (2.0 + energy + 1, 3.0),
        (copy.deepcopy(energy) + 3.0, 3.0),
        (sum([energy], 0.5), 0.5),
    ):
        assert str(shifted.sites) == str(energy.sites)
        assert exact.log_partition(copy.deepcopy(shifted)).isfinite()
        torch.testing.assert_close(shifted(x).detach(), before + by, rtol=0, atol=1e-5)
        found = exact.log_partition(shifted).detach()
        torch.testing.assert_close(found, log_z - by, rtol=0, atol=1e-5, check_dtype=False)
        known, after = energy.structure(), shifted.structure()
        assert after.has_terms is known.has_terms
        assert (type(after) is type(known)) or not known.has_terms
        for site in energy.sites:
            assert after.knows(site) is known.knows(site)


@pytest.mark.parametrize("name", ENERGIES)
def test_a_weight_weighs_a_constant_too(name: str) -> None:
    energy = ENERGIES[name]()
    x = exact.states(energy)
    half = 0.5 * (energy + 3.0) - 1.0
    torch.testing.assert_close(half(x), 0.5 * energy(x) + 0.5, rtol=0, atol=1e-5)
    both = (energy + 1.0) + (energy - 3.0)
    torch.testing.assert_close(both(x), 2 * energy(x) - 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 27])
@pytest.mark.parametrize("name", ["a machine", "a sum of machines", "a field"])
def test_a_batch_of_constants_makes_a_batch_of_energies(name: str, count: int) -> None:
    energy, shifts = ENERGIES[name](), torch.randn(count)
    found = exact.log_partition(energy + shifts)
    wanted = exact.log_partition(energy) - shifts
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("name", ["a machine", "a field", "a law"])
def test_gibbs_draws_the_same_with_a_constant(name: str) -> None:
    energy = ENERGIES[name]()
    one = run(Gibbs(), energy, 20, warmup=5, seed=1)
    other = run(Gibbs(), energy + 7.0, 20, warmup=5, seed=1)
    for site in energy.sites:
        assert torch.equal(one.draws[site], other.draws[site])


def test_tempering_takes_a_constant() -> None:
    found = run(ParallelTempering(Gibbs(), (0.5, 1.0)), machine() + 3.0, 5, warmup=2, seed=1)
    assert found.draws["visible"].shape[-1] == 3


def test_a_clamped_constant_stays() -> None:
    energy = BoltzmannMachine.restricted(3, 2)
    held = clamp(energy + 3.0, {"hidden": torch.ones(2)})
    assert terms_of(held.structure()) is not None
    wanted = energy({"visible": BITS, "hidden": torch.ones(8, 2)}) + 3
    torch.testing.assert_close(held(BITS), wanted)


def test_the_gradient_in_real_numbers_is_that_of_the_energy() -> None:
    energy = BoltzmannMachine.fully_visible(3, unit=Gaussian())
    x = {"visible": torch.randn(4, 3)}
    shifted = energy + 3.0
    assert terms_of(shifted.structure()) is not None
    one, other = (e.energy_and_gradient(x, ["visible"]) for e in (energy, shifted))
    torch.testing.assert_close(other[0], one[0] + 3)
    torch.testing.assert_close(other[1]["visible"], one[1]["visible"])


def test_learning_is_not_changed_by_a_constant() -> None:
    energy, data = machine(), BITS[[1, 3, 4, 6, 7]]
    other = copy.deepcopy(energy)
    constant = nn.Parameter(torch.tensor(2.0))
    fit(energy, data, ExactLikelihood(), epochs=3)
    history = fit(other + constant, data, ExactLikelihood(), epochs=3)
    for one, two in zip(energy.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert float(constant.detach()) == pytest.approx(2.0, abs=1e-6)
    assert "log_likelihood" in history.metrics[-1]


def test_the_constant_moves_and_is_saved_with_the_energy() -> None:
    shifted = (machine() + 3.0).double()
    assert shifted.dtype == torch.float64
    assert shifted(BITS.double()).dtype == torch.float64
    assert 3.0 in [float(v) for v in shifted.state_dict().values() if v.dim() == 0]


@pytest.mark.parametrize(
    ("constant", "error", "words"),
    [
        (math.nan, ValueError, "shifted by NaN or an infinite number"),
        (math.inf, ValueError, "shifted by NaN or an infinite number"),
        (torch.tensor([0.0, -math.inf]), ValueError, "shifted by NaN or an infinite"),
        (True, TypeError, "shifted by True; wanted a number"),
        (torch.tensor(True), TypeError, "tensor of torch.bool"),
        (torch.tensor(1j), TypeError, "tensor of torch.complex64"),
        ("3", TypeError, "unsupported operand"),
        (None, TypeError, "unsupported operand"),
    ],
)
def test_what_is_no_finite_number_is_refused(
    constant: Any, error: type[Exception], words: str
) -> None:
    for ask in (lambda: machine() + constant, lambda: machine() - constant):
        with pytest.raises(error, match=words):
            ask()


def test_energies_are_subtracted() -> None:
    first, second = machine(), machine()
    difference = first - second
    assert terms_of(difference.structure()) is not None
    torch.testing.assert_close(difference(BITS), first(BITS) - second(BITS))


def test_tensors_on_the_left_are_added() -> None:
    energy = machine()
    shifted: Tensor = (torch.tensor([1.0, 2.0, 3.0]) + energy)(BITS[:3])
    torch.testing.assert_close(shifted, energy(BITS[:3]) + torch.tensor([1.0, 2.0, 3.0]))
