"""Fields that are kept up to date are those of the values: of every structure, after many steps.

Right fields agree with computed ones to 1e-13 in float64; the smallest fault planted here, rows of
couplings that are 0.01 % too large, gives more than 1e-5.
"""

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import BoltzmannMachine, Energy, GraphLink, PairwiseTerms, combined
from pyro_ebm.energies.pairwise.links import DenseLink
from pyro_ebm.kernels import GibbsWithGradients, ParallelTempering, advance, resume, run
from pyro_ebm.kernels.discrete import kept_fields
from pyro_ebm.kernels.discrete.kept_fields import KeptFields
from pyro_ebm.sites import random_values
from tests.support.checks import random_states
from tests.support.machines import SMALL
from tests.support.outcomes import matrix_of, violation_of

from .test_discrete_kernels import labelled, law_of, states_of, stepped

CHAINS, STEPS = 6, 40


def hubs() -> BoltzmannMachine:
    """A star of 70 spins, whose middle has more neighbours than a sweep has slots, and a tail."""
    edges = [(0, k) for k in range(1, 70)] + [(69, 70), (70, 71)]
    weight = torch.linspace(-1, 1, len(edges), dtype=torch.float64)
    return BoltzmannMachine.on_graph(edges, couplings=weight)


def ladder() -> Energy:
    """A machine at three temperatures, one for each of the last batch dimension."""
    betas = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64)
    return combined([(betas, SMALL["three kinds of layers"].machine())])


MACHINES: dict[str, Callable[[], Energy]] = {
    **{name: small.machine for name, small in SMALL.items()},
    "labels": labelled,
    "hubs": hubs,
    "ladder": ladder,
}


def started(
    name: str, sites: tuple[str, ...] | None = None
) -> tuple[Energy, GibbsWithGradients, KeptFields]:
    """A machine, the kernel, and chains from random values."""
    energy, kernel = MACHINES[name](), GibbsWithGradients(sites)
    batch = (CHAINS, 3) if name == "ladder" else (CHAINS,)
    like = torch.zeros((), dtype=torch.float64)
    state = kernel.init(energy, {s: random_values(v, batch, like) for s, v in energy.sites.items()})
    assert isinstance(state, KeptFields)
    return energy, kernel, state


@torch.no_grad()
def errors(energy: Energy, kernel: GibbsWithGradients, state: KeptFields) -> dict[str, float]:
    """How far what is kept is from what follows from the values."""
    terms = state.terms.to(torch.float64)
    x = {site: value.double() for site, value in state.x.items()}
    right = kept_fields.started(terms, x, kernel.moved(energy))
    fields = [(state.halves[site] - half).abs().max() for site, half in right.halves.items()]
    pairs = zip(state.proposals, right.proposals, strict=True)
    return {
        "fields": float(torch.stack(fields).max()),
        "proposals": max(float((kept - made).abs().max()) for kept, made in pairs),
        "energy": float((state.energy - energy.double()(x)).abs().max()),
    }


@pytest.mark.parametrize("name", MACHINES)
def test_kept_fields_are_those_of_the_values(name: str) -> None:
    energy, kernel, state = started(name)
    state = advance(kernel, energy, state, STEPS)
    assert state.age == STEPS
    assert max(errors(energy, kernel, state).values()) < 1e-12


def test_fields_of_sites_that_are_moved_alone_are_kept() -> None:
    energy, kernel, state = started("three kinds of layers", ("a", "c"))
    held = state.x["b"]
    state = advance(kernel, energy, state, STEPS)
    assert set(state.halves) == {"a", "c"}
    assert state.x["b"] is held
    assert max(errors(energy, kernel, state).values()) < 1e-12


@pytest.mark.parametrize("name", ["restricted", "general", "torus", "sparse between layers"])
def test_a_step_computes_no_field_anew(name: str) -> None:
    energy, kernel, state = started(name)
    with mock.patch.object(PairwiseTerms, "field", side_effect=AssertionError):
        advance(kernel, energy, state, 3)


def test_one_chain_needs_no_batch_dimension() -> None:
    energy, kernel = SMALL["general"].machine(), GibbsWithGradients()
    x = {site: value[0] for site, value in random_states(energy, (1,)).items()}
    state = advance(kernel, energy, kernel.init(energy, x), STEPS)
    assert max(errors(energy, kernel, state).values()) < 1e-12


def test_the_parameters_of_each_chain_are_read_anew_at_every_step() -> None:
    energy = SMALL["restricted"].machine(wrap=lambda value: torch.stack([value, value / 2]))
    kernel = GibbsWithGradients()
    state = kernel.init(energy, random_states(energy, (CHAINS, 2)))
    assert not isinstance(state, KeptFields)


# --- drift ---------------------------------------------------------------------------------------


def wide(scale: float = 0.1) -> BoltzmannMachine:
    """An RBM in float32, with fields of about 1."""
    torch.manual_seed(0)
    machine = BoltzmannMachine.restricted(200, 100)
    with torch.no_grad():
        machine.couplings["visible_hidden"].weight.normal_(0, scale)
    return machine


def drift() -> float:
    """The largest error of a field in float32, just before fields are computed anew."""
    machine, kernel = wide(), GibbsWithGradients()
    state = kernel.init(machine, random_states(machine, (CHAINS,)))
    state = advance(kernel, machine, state, kept_fields.RENEWED)
    assert state.age == kept_fields.RENEWED
    return errors(machine, kernel, state)["fields"]


def test_rounding_errors_stay_small() -> None:
    # Each of 1,000 additions to numbers of about 1 is off by 3e-8 at the most.
    assert drift() < 3e-5


def test_a_faulty_row_is_more_than_rounding() -> None:
    with rows_too_large(1e-3):
        assert drift() > 3e-5


def test_fields_are_computed_anew_after_some_steps() -> None:
    energy, kernel, state = started("general")
    off = {site: half + 0.1 for site, half in state.halves.items()}
    state = state._replace(halves=off)
    with mock.patch.object(kept_fields, "RENEWED", 3):
        state = advance(kernel, energy, state, 3)
        assert errors(energy, kernel, state)["fields"] > 0.09
        state = advance(kernel, energy, state, 1)
    assert state.age == 1
    assert max(errors(energy, kernel, state).values()) < 1e-12


# --- refresh -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tempered", ["plain", "tempered"])
def test_a_resumed_run_is_the_unbroken_one(tempered: str) -> None:
    machine = wide()
    kernel = GibbsWithGradients()
    if tempered == "tempered":
        kernel = ParallelTempering(kernel, (0.0, 0.5, 1.0))
    whole = run(kernel, machine, 40, warmup=5, chains=3, seed=1)
    parts = resume(run(kernel, machine, 25, warmup=5, chains=3, seed=1), machine, 15)
    for site, draws in whole.draws.items():
        assert torch.equal(parts.draws[site], draws)
    assert torch.equal(parts.statistics["lp"], whole.statistics["lp"])
    assert torch.equal(parts.statistics["acceptance_rate"], whole.statistics["acceptance_rate"])


def learns_in_place(machine: BoltzmannMachine) -> None:
    with torch.no_grad():
        machine.couplings["visible_hidden"].weight.add_(1e-3)


def is_changed_behind_the_back_of_autograd(machine: BoltzmannMachine) -> None:
    machine.layers["hidden"].bias.data[0] += 1e-3


@pytest.mark.parametrize("change", [learns_in_place, is_changed_behind_the_back_of_autograd])
def test_refresh_sees_that_the_parameters_have_changed_where_they_are(change: Any) -> None:
    machine, kernel = wide().double(), GibbsWithGradients()
    state = kernel.init(machine, random_states(machine, (CHAINS,)))
    state = advance(kernel, machine, state, 5)
    assert not state.energy.requires_grad
    same = kernel.refresh(machine, state, state.x)
    assert all(same.halves[site] is half for site, half in state.halves.items())
    change(machine)
    renewed = kernel.refresh(machine, state, state.x)
    torch.testing.assert_close(renewed.energy, machine(state.x), rtol=1e-12, atol=1e-12)
    assert max(errors(machine, kernel, renewed).values()) < 1e-12


def test_refresh_sees_other_edges() -> None:
    weight = torch.tensor([0.5, -1.0], dtype=torch.float64)
    one = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=weight)
    other = BoltzmannMachine.on_graph([(0, 1), (0, 2)], couplings=weight)
    kernel = GibbsWithGradients()
    state = kernel.init(one, random_states(one, (CHAINS,)))
    renewed = kernel.refresh(other, state, state.x)
    torch.testing.assert_close(renewed.energy, other(state.x), rtol=1e-12, atol=1e-12)


# --- planted faults ------------------------------------------------------------------------------


def patched(kind: Any, name: str, fault: Callable[..., Any]) -> Any:
    """A function that is given the right one first."""
    right = getattr(kind, name)
    return mock.patch.object(kind, name, lambda *arguments: fault(right, *arguments))


def rows_too_large(share: float) -> Any:
    def faulty(right: Any, terms: Any, fields: Any, site: str, change: Any) -> Any:
        return right(terms, fields, site, change._replace(amounts=change.amounts * (1 + share)))

    return patched(PairwiseTerms, "fields_after", faulty)


def rejected_chains_keep(what: str) -> Any:
    def faulty(right: Any, new: KeptFields, old: KeptFields, rejected: Tensor) -> KeptFields:
        tried = copy.deepcopy(getattr(new, what))
        return right(new, old, rejected)._replace(**{what: tried})

    return patched(kept_fields, "put_back", faulty)


def scale_forgotten() -> Any:
    def faulty(right: Any, link: Any, field: Tensor, site: str, change: Any) -> Tensor:
        return link.plain_field_after(field, site, change)

    return patched(DenseLink, "field_after", faulty)


def columns_for_rows() -> Any:
    def faulty(right: Any, link: Any, field: Tensor, site: str, change: Any) -> Tensor:
        turned = change._replace(columns=change.columns.flip(0))
        return right(link, field, site, turned)

    return patched(DenseLink, "plain_field_after", faulty)


def last_neighbour_forgotten() -> Any:
    def faulty(right: Any, link: Any, field: Tensor, site: str, change: Any) -> Tensor:
        around = link.neighbours[site]
        fewer = around._replace(degree=(around.degree - 1).clamp(min=0))
        with mock.patch.dict(vars(link), {"neighbours": {site: fewer}}):
            return right(link, field, site, change)

    return patched(GraphLink, "plain_field_after", faulty)


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "rows too large": (lambda: rows_too_large(1e-4), "general"),
    "rejected chains keep new fields": (lambda: rejected_chains_keep("halves"), "torus"),
    "rejected chains keep new proposals": (lambda: rejected_chains_keep("proposals"), "torus"),
    "the factor of couplings forgotten": (scale_forgotten, "ladder"),
    "other units' couplings": (columns_for_rows, "restricted"),
    "the last neighbour forgotten": (last_neighbour_forgotten, "hubs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_what_is_kept(fault: str) -> None:
    plant, name = FAULTS[fault]
    energy, kernel, state = started(name)
    worst = 0.0
    for _ in range(STEPS):
        with plant():
            state = advance(kernel, energy, state, 1)
        worst = max(worst, *errors(energy, kernel, state).values())
    assert worst > 1e-5


def no_metropolis_test() -> Any:
    return patched(kept_fields, "metropolis", lambda right, ratio: right(torch.zeros_like(ratio)))


def inverted_ratio() -> Any:
    return patched(kept_fields, "metropolis", lambda right, ratio: right(-ratio))


def energies_not_halved() -> Any:
    return patched(
        kept_fields, "single_changes", lambda right, weights, *rest: right(weights, *rest) * 2
    )


LAW_FAULTS = {
    "no Metropolis test": no_metropolis_test,
    "inverted ratio": inverted_ratio,
    "the whole of ΔE": energies_not_halved,
    "rows too large": lambda: rows_too_large(0.01),
}


@pytest.mark.parametrize("name", ["general bits and spins", "labels", "bits on a ring"])
@pytest.mark.parametrize("fault", LAW_FAULTS)
def test_the_transition_matrix_finds_a_fault(fault: str, name: str) -> None:
    energy = MACHINES[name]()
    states = states_of(energy)
    with LAW_FAULTS[fault]():
        matrix = matrix_of(stepped(GibbsWithGradients(), energy), states)
    assert "stationary" in violation_of(matrix, law_of(energy, states)).found()
