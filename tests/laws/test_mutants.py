"""Planted faults: what would slip through the laws if they were weaker.

Each fault replaces a part of the library by a version that is wrong in one respect, and names the
law that must find it. The same parts without a fault must pass.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pyro_ebm.energies.pairwise import boltzmann, couplings, terms
from pyro_ebm.energies.pairwise.links import DenseLink, GraphLink, SymmetricLink
from pyro_ebm.energies.pairwise.terms import PairwiseTerms
from pyro_ebm.kernels import Gibbs
from pyro_ebm.partition import exact
from pyro_ebm.partition.sums import enumeration, split
from pyro_ebm.units import Bernoulli, Categorical, Spin, SpinDistribution, Unit
from tests.support import checks
from tests.support.goodness import (
    ALPHA,
    CHAINS,
    agreements,
    chi_square,
    counts_of,
    from_exact_start,
    from_fixed_start,
)
from tests.support.machines import FINITE, SMALL, Small, draw
from tests.support.transitions import violation

Patch = pytest.MonkeyPatch


def law_is_violated(law: str, small: Small, seed: int = 0) -> bool:
    """Whether a law of test_transition_matrices.py or test_exact_starts.py finds a fault."""
    energy, kernel = small.machine(), Gibbs()
    if law == "transition matrix":
        return bool(violation(energy, kernel, small).found(1e-12))
    test = {
        "exact start": from_exact_start,
        "fixed start": from_fixed_start,
        "agreements": agreements,
    }[law]
    return test(energy, kernel, small, seed=seed) < ALPHA


# --- a schedule, with faults ---------------------------------------------------------------------

SHARE = 1.02  # couplings 2 % off


def whole_layers(fault: str, patch: Patch) -> None:
    """Plants a fault in the sweep over uncoupled layers."""
    in_the_fields(fault, patch)
    in_the_step(fault, patch)


def in_the_fields(fault: str, patch: Patch) -> None:
    """Plants a fault in the fields between layers."""
    right_field, right_outer = DenseLink.field, PairwiseTerms.outer_field

    def field(link: DenseLink, site: str, x: dict, base: Tensor) -> Tensor:
        weight = link.weight.clone()
        if fault == "one coupling has the wrong sign" and site == "hidden":
            weight[0, 0] *= -1
        if fault == "couplings 2 % off":
            weight *= SHARE
        return right_field(replace(link, weight=weight), site, x, base)

    def outer_field(terms: PairwiseTerms, site: str, x: dict) -> Tensor:
        found = right_outer(terms, site, x)
        if fault == "bias left out" and site == "hidden":
            found = found - terms.biases[site]
        if fault == "own old value included":
            found = found + 0.5 * x[site]
        return found.half().double() if fault == "half precision" else found

    patch.setattr(DenseLink, "field", field)
    patch.setattr(PairwiseTerms, "outer_field", outer_field)


def in_the_step(fault: str, patch: Patch) -> None:
    """Plants a fault in what a step does with the draws."""
    right_step = Gibbs.step

    def step(kernel: Gibbs, energy: Any, state: Any) -> Any:
        if fault == "both layers at once":
            one, other = (right_step(Gibbs((site,)), energy, state)[0] for site in energy.sites)
            x = {"visible": one.x["visible"], "hidden": other.x["hidden"]}
            return one._replace(x=x), None
        after, info = right_step(kernel, energy, state)
        x = dict(after.x)
        if fault == "last unit never updated":
            x["hidden"] = torch.cat([x["hidden"][..., :-1], state.x["hidden"][..., -1:]], -1)
        if fault == "never moves":
            x = dict(state.x)
        return after._replace(x=x), info

    patch.setattr(Gibbs, "step", step)


def faulty(fault: str, weight: Tensor) -> Tensor:
    """The couplings (n, n), with a fault."""
    matrix = weight.clone()
    if fault == "one coupling has the wrong sign":
        matrix[0, 1] *= -1
    if fault == "couplings 2 % off":
        matrix *= SHARE
    if fault == "one neighbour forgotten":
        matrix[-1, matrix[-1].nonzero()[0]] = 0
    if fault == "own old value included":
        matrix += 0.5 * torch.eye(len(matrix))
    return matrix


def blocks_of_units(fault: str, blocks: list[Tensor], weight: Tensor) -> Callable[..., None]:
    """A sweep over blocks of units, x (n, batch) in place, with a fault."""

    def sweep(x: Tensor, base: Tensor, update: Callable[[Tensor, Tensor], Tensor]) -> None:
        matrix = faulty(fault, weight)
        order = list(blocks)
        if fault == "two blocks at once":
            order[:2] = [torch.cat(order[:2])]
        before = x.clone()
        for number, block in enumerate(order):
            source = before if fault == "stale fields" else x
            field = matrix[block] @ source
            if fault != "bias left out":
                field += base[block]
            if fault == "half precision":
                field = field.half().double()
            new = update(field, block)
            last = number == len(order) - 1
            if fault == "never moves" or (fault == "last block never updated" and last):
                continue
            x[block] = new

    return sweep


def colours(fault: str, patch: Patch) -> None:
    """Plants a fault in the sweep over the colours of a graph."""

    def sweep(x: Tensor, base: Tensor, link: GraphLink, _: Any, update: Callable) -> None:
        blocks = [colour.units for colour in link.colours]
        blocks_of_units(fault, blocks, link.matrix())(x, base, update)

    patch.setattr(terms, "coloured_sweep", sweep)


def one_after_another(fault: str, patch: Patch) -> None:
    """Plants a fault in the sweep over a dense layer."""

    def sweep(x: Tensor, base: Tensor, link: SymmetricLink, _: Any, update: Callable) -> None:
        blocks = list(torch.arange(len(x)).split(1))
        blocks_of_units(fault, blocks, link.weight)(x, base, update)

    patch.setattr(terms, "sequential_sweep", sweep)


class Schedule(NamedTuple):
    """How a machine is swept, and what can go wrong there."""

    machine: str
    plant: Callable[[str, Patch], None]
    faults: tuple[str, ...]


BLOCK_FAULTS = (
    "stale fields",
    "one coupling has the wrong sign",
    "bias left out",
    "last block never updated",
    "two blocks at once",
    "couplings 2 % off",
    "one neighbour forgotten",
    "own old value included",
    "half precision",
    "never moves",
)
SCHEDULES = {
    "whole layers": Schedule(
        "restricted with offsets",
        whole_layers,
        (
            "both layers at once",
            "one coupling has the wrong sign",
            "bias left out",
            "last unit never updated",
            "couplings 2 % off",
            "own old value included",
            "half precision",
            "never moves",
        ),
    ),
    "colours": Schedule("torus", colours, BLOCK_FAULTS),
    "two colours": Schedule("bipartite lattice", colours, BLOCK_FAULTS),
    "one after another": Schedule("fully visible bits", one_after_another, BLOCK_FAULTS),
}
PLANTED = [(name, fault) for name, schedule in SCHEDULES.items() for fault in schedule.faults]


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_the_faults_are_planted_in_is_right_without_them(
    name: str, monkeypatch: Patch
) -> None:
    machine, plant, _ = SCHEDULES[name]
    plant("none", monkeypatch)
    for law in ("transition matrix", "exact start", "fixed start", "agreements"):
        assert not law_is_violated(law, SMALL[machine]), law


@pytest.mark.parametrize(("name", "fault"), PLANTED)
def test_the_transition_matrix_finds_a_fault_in_the_sweep(
    name: str, fault: str, monkeypatch: Patch
) -> None:
    machine, plant, _ = SCHEDULES[name]
    plant(fault, monkeypatch)
    assert law_is_violated("transition matrix", SMALL[machine])


# --- faults in the draws, which no transition matrix sees ----------------------------------------


def uniforms(fault: str, patch: Patch) -> None:
    """Plants a fault in `Unit.sample`."""

    def draw_like(field: Tensor) -> Tensor:
        if fault == "chains share their uniforms":
            shape = [1 if size == CHAINS else size for size in field.shape]
            return torch.rand(shape).expand(field.shape)
        if fault == "neighbouring chains share their uniforms":
            chains = field.shape.index(CHAINS)
            half = torch.rand(
                [CHAINS // 2 if k == chains else s for k, s in enumerate(field.shape)]
            )
            return half.repeat_interleave(2, chains)
        if fault == "the halves of the chains share their uniforms":
            chains = field.shape.index(CHAINS)
            half = torch.rand(
                [CHAINS // 2 if k == chains else s for k, s in enumerate(field.shape)]
            )
            return torch.cat([half, half], chains)
        return torch.rand(field.shape)

    def sample(unit: Unit, field: Tensor) -> Tensor:
        scale = 2 if isinstance(unit, Spin) else 1
        if fault == "all fields a fifth too small":
            scale *= 0.8
        up = draw_like(field) < (scale * field).sigmoid()
        if fault == "one minus the probability":
            up = ~up
        if fault == "probability rounded to eighths":
            up = draw_like(field) < (8 * (scale * field).sigmoid()).round() / 8
        up = up.to(field.dtype)
        return 2 * up - 1 if isinstance(unit, Spin) else up

    patch.setattr(Bernoulli, "sample", sample)
    patch.setattr(Spin, "sample", sample)


DRAWS = {
    "one minus the probability": "exact start",
    "all fields a fifth too small": "exact start",
    "probability rounded to eighths": "exact start",
    "chains share their uniforms": "agreements",
    "neighbouring chains share their uniforms": "agreements",
    "the halves of the chains share their uniforms": "agreements",
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_draws_without_a_fault_pass(name: str, monkeypatch: Patch) -> None:
    uniforms("none", monkeypatch)
    for law in ("exact start", "agreements"):
        assert not law_is_violated(law, SMALL[SCHEDULES[name].machine])


@pytest.mark.parametrize("fault", DRAWS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_fault_in_the_draws_is_found(name: str, fault: str, monkeypatch: Patch) -> None:
    uniforms(fault, monkeypatch)
    assert law_is_violated(DRAWS[fault], SMALL[SCHEDULES[name].machine])


@pytest.mark.parametrize("name", SCHEDULES)
def test_starting_from_one_state_finds_units_that_never_move(name: str, monkeypatch: Patch) -> None:
    machine, plant, _ = SCHEDULES[name]
    plant("never moves", monkeypatch)
    assert law_is_violated("fixed start", SMALL[machine])
    assert not law_is_violated("exact start", SMALL[machine])  # which is why there are both


@pytest.mark.slow
@pytest.mark.parametrize("fault", DRAWS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_fault_in_the_draws_is_found_whatever_the_seed(
    name: str, fault: str, monkeypatch: Patch
) -> None:
    uniforms(fault, monkeypatch)
    small = SMALL[SCHEDULES[name].machine]
    found = [law_is_violated(DRAWS[fault], small, seed) for seed in range(20)]
    assert sum(found) >= 19


# --- faults in the draws of labels ---------------------------------------------------------------


def labels_drawn(fault: str, patch: Patch) -> None:
    """Plants a fault in how labels are drawn, or what becomes of them."""

    def sample(unit: Categorical, field: Tensor) -> Tensor:
        exponential = torch.empty_like(field).exponential_()
        if fault == "noise without its logarithm":
            return unit.by_label(field - exponential).argmax(-1).to(field.dtype)
        if fault == "exponential noise of the wrong sign":
            return unit.by_label(field + exponential.log()).argmax(-1).to(field.dtype)
        if fault == "one noise for all labels of a unit":
            exponential = unit.by_label(exponential)[..., :1].expand(*field.shape[:-1], -1, 3)
            exponential = exponential.flatten(-2)
        if fault == "chains share their noise":
            exponential = torch.empty(1, field.shape[-1]).exponential_().expand(field.shape)
        return unit.by_label(field - exponential.log()).argmax(-1).to(field.dtype)

    patch.setattr(Categorical, "sample", sample)


LABEL_DRAWS = {
    "noise without its logarithm": "exact start",
    "exponential noise of the wrong sign": "exact start",
    "one noise for all labels of a unit": "exact start",
    "chains share their noise": "agreements",
}


@pytest.mark.parametrize(
    "name",
    ["labels and bits", pytest.param("fully visible labels", marks=pytest.mark.slow)],
)
def test_faults_in_the_draws_of_labels_are_found(name: str, monkeypatch: Patch) -> None:
    small = FINITE[name]
    labels_drawn("none", monkeypatch)
    for law in ("exact start", "agreements"):
        assert not law_is_violated(law, small)
    for fault, law in LABEL_DRAWS.items():
        labels_drawn(fault, monkeypatch)
        assert law_is_violated(law, small), fault


def test_labels_that_are_swapped_when_a_sweep_is_over_are_found(monkeypatch: Patch) -> None:
    small = FINITE["fully visible labels"]
    assert not law_is_violated("exact start", small)
    monkeypatch.setattr(
        Categorical, "values", lambda unit, f: (right_values(unit, f) + 1) % unit.states
    )
    assert law_is_violated("exact start", small)


@pytest.mark.parametrize("fault", ["changes not passed on", "changes of one label passed on"])
def test_a_sweep_over_labels_that_keeps_old_fields_is_found(fault: str, monkeypatch: Patch) -> None:
    def sweep(x: Tensor, base: Tensor, link: SymmetricLink, _: Any, update: Callable) -> None:
        weight, width = link.weight, link.width
        fields = base + weight @ x
        for k in range(len(x) // width):
            own = slice(k * width, (k + 1) * width)
            new = update(fields[own].clone(), slice(k, k + 1))
            if fault == "changes of one label passed on":
                fields += weight[:, own][:, :1] * (new - x[own])[:1]
            x[own] = new

    monkeypatch.setattr(terms, "sequential_sweep", sweep)
    assert law_is_violated("transition matrix", FINITE["fully visible labels"])


# --- faults in the energy ------------------------------------------------------------------------


def halved(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: function(*args) / 2


def doubled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: function(*args) * 2


def upper_only(matrix: Tensor, offset: Tensor, unit: Unit) -> tuple[Tensor, Tensor, Tensor]:
    _, bias, constant = couplings.fold_square(matrix, offset, unit)
    return matrix.triu(1), bias, constant


def diagonal_lost(matrix: Tensor, offset: Tensor, unit: Unit) -> tuple[Tensor, Tensor, Tensor]:
    return couplings.fold_square(matrix - matrix.diagonal().diag(), offset, unit)


def diagonal_as_bias_without_offset(
    matrix: Tensor, offset: Tensor, unit: Unit
) -> tuple[Tensor, Tensor, Tensor]:
    return couplings.fold_square(matrix, torch.zeros_like(offset), unit)


def blocks_lost(matrix: Tensor, offset: Tensor, unit: Unit) -> tuple[Tensor, Tensor, Tensor]:
    pairs = couplings.above(len(matrix), unit.width, matrix.device)
    return couplings.fold_square(matrix * (pairs | pairs.mT), offset, unit)


def entries_above(size: int, width: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)


def by_label_first(unit: Categorical, x: Tensor) -> Tensor:
    return unit.by_label(right_features(unit, x)).mT.flatten(-2)


right_features, right_values = Categorical.features, Categorical.values

MODEL: dict[str, tuple[Callable[[Patch], None], str, Callable[[Small], float]]] = {
    "offsets ignored": (
        lambda patch: patch.setattr(PairwiseTerms, "centred", lambda terms, _: terms),
        "restricted with offsets",
        checks.energy_error,
    ),
    "only the upper triangle read": (
        lambda patch: patch.setattr(boltzmann, "fold_square", upper_only),
        "general with offsets",
        checks.energy_error,
    ),
    "diagonal lost": (
        lambda patch: patch.setattr(boltzmann, "fold_square", diagonal_lost),
        "general with offsets",
        checks.conditional_error,
    ),
    "diagonal folded without the offset": (
        lambda patch: patch.setattr(boltzmann, "fold_square", diagonal_as_bias_without_offset),
        "fully visible bits",
        checks.conditional_error,
    ),
    "pairs inside a layer counted twice": (
        lambda patch: patch.setattr(
            SymmetricLink, "interaction", doubled(SymmetricLink.interaction)
        ),
        "semi-restricted",
        checks.energy_error,
    ),
    "a spin's field not doubled in its cumulant": (
        lambda patch: patch.setattr(Spin, "cumulant", Bernoulli.cumulant),
        "bits and spins",
        checks.free_energy_error,
    ),
    "a spin's conditional is that of a bit": (
        lambda patch: patch.setattr(
            Spin, "conditional", lambda _, field: SpinDistribution(field / 2)
        ),
        "fully visible spins",
        checks.conditional_error,
    ),
    "blocks of labels on the diagonal lost": (
        lambda patch: patch.setattr(boltzmann, "fold_square", blocks_lost),
        "fully visible labels",
        checks.energy_error,
    ),
    "blocks of labels on the diagonal folded without the offset": (
        lambda patch: patch.setattr(boltzmann, "fold_square", diagonal_as_bias_without_offset),
        "fully visible labels",
        checks.conditional_error,
    ),
    "labels of one unit coupled to each other": (
        lambda patch: patch.setattr(couplings, "above", entries_above),
        "fully visible labels",
        checks.conditional_error,
    ),
    "features in the order of the labels, not of the units": (
        lambda patch: patch.setattr(Categorical, "features", by_label_first),
        "Potts restricted",
        checks.energy_error,
    ),
    "labels counted backwards": (
        lambda patch: patch.setattr(
            Categorical, "features", lambda unit, x: right_features(unit, unit.states - 1 - x)
        ),
        "labels and bits",
        checks.conditional_error,
    ),
    "the fields of labels averaged in their cumulant": (
        lambda patch: patch.setattr(
            Categorical, "cumulant", lambda unit, f: unit.by_label(f).logsumexp(-1) - 1 / 3
        ),
        "Potts restricted with offsets",
        checks.free_energy_error,
    ),
    "half the gradient between layers": (
        lambda patch: patch.setattr(DenseLink, "moment", halved(DenseLink.moment)),
        "restricted",
        checks.gradient_error,
    ),
    "double the gradient inside a layer": (
        lambda patch: patch.setattr(SymmetricLink, "moment", doubled(SymmetricLink.moment)),
        "general",
        checks.gradient_error,
    ),
    "double the gradient on a graph": (
        lambda patch: patch.setattr(GraphLink, "moment", doubled(GraphLink.moment)),
        "one shared coupling",
        checks.gradient_error,
    ),
}


@pytest.mark.parametrize("fault", MODEL)
def test_a_fault_in_the_energy_is_found(fault: str, monkeypatch: Patch) -> None:
    plant, machine, error = MODEL[fault]
    assert error(FINITE[machine]) < 1e-11
    plant(monkeypatch)
    # A hundred million times the limit: these are no small faults.
    assert error(FINITE[machine]) > 1e-3


# --- faults in the exact sums --------------------------------------------------------------------


def one_too_far(log_weights: Tensor, count: int) -> Tensor:
    return (exact_draw_indices(log_weights, count) + 1).clamp_max(len(log_weights) - 1)


exact_draw_indices = enumeration.draw_indices


def in_both(patch: Patch, name: str, fault: Callable[..., object]) -> None:
    """Plants a fault in enumeration and split, which share the function."""
    for module in (enumeration, split):
        patch.setattr(module, name, fault)


def squared_means(_: PairwiseTerms, first: Tensor, second: Tensor) -> Tensor:
    return second.diagonal_scatter(first.square())


def only_the_diagonal(_: PairwiseTerms, first: Tensor, second: Tensor) -> Tensor:
    return second.diagonal_scatter(first)


ORACLE: dict[str, tuple[Callable[[Patch], None], str, Callable[[Small], float]]] = {
    "constant left out of log Z": (
        lambda patch: patch.setattr(
            PairwiseTerms, "free_energy", lambda t, x: right_free_energy(t, x) - t.constant
        ),
        "general with offsets",
        checks.log_partition_error,
    ),
    "an underflowed sum taken for certain": (
        lambda patch: patch.setattr(split, "LOST", 1e300),
        "strong glass",
        checks.log_partition_error,
    ),
    "second moments without their diagonal": (
        lambda patch: in_both(patch, "with_own_squares", squared_means),
        "fully visible bits",
        checks.moment_error,
    ),
    "two labels of one unit at the same time": (
        lambda patch: in_both(patch, "with_own_squares", only_the_diagonal),
        "Potts restricted",
        checks.moment_error,
    ),
    "the pairs of the split counted half": (
        lambda patch: patch.setattr(PairwiseTerms, "matrix", halved(PairwiseTerms.matrix)),
        "fully visible spins",
        checks.log_partition_error,
    ),
    "summed units left out of the clamped field": (
        lambda patch: patch.setattr(
            PairwiseTerms,
            "clamped",
            lambda t, x: replace(right_clamped(t, x), constant=t.energy(x) * 0),
        ),
        "deep",
        checks.log_prob_error,
    ),
}
right_free_energy, right_clamped = PairwiseTerms.free_energy, PairwiseTerms.clamped
STRONG = draw("strong glass", {"visible": (Spin(), 12)}, [("visible", "visible")], scale=2000.0)


@pytest.mark.parametrize("fault", ORACLE)
def test_a_fault_in_the_exact_sums_is_found(fault: str, monkeypatch: Patch) -> None:
    plant, machine, error = ORACLE[fault]
    small = {**FINITE, "strong glass": STRONG}[machine]
    assert error(small) < 1e-10
    plant(monkeypatch)
    assert error(small) > 1e-4


@pytest.mark.parametrize("name", ["restricted", "fully visible bits", "Potts restricted"])
def test_a_fault_in_the_exact_draws_is_found(name: str, monkeypatch: Patch) -> None:
    small = FINITE[name]

    def p_value() -> float:
        draws = exact.sample(small.machine(), CHAINS, seed=3)
        return chi_square(counts_of(draws, small), small.probabilities)

    assert p_value() > ALPHA
    in_both(monkeypatch, "draw_indices", one_too_far)
    assert p_value() < ALPHA
