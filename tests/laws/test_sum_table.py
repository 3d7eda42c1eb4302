"""Everything that is summed × every kind of energy × everything that is done to an energy.

A cell compares one thing that is asked (log Z, a probability, draws, the least energy, …) with a
sum over all states, which knows of an energy only its value; of real units with an integral over a
fine grid. Parameters come in batches of 1, of as many rows as the energy has states, and of one
more and one less: the axis of parameters must not be taken for that of states.

Draws are judged by χ² at α = 1e-6 for each row, N = 3,000: a law at the distance 0.03 is found.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pyro_ebm import mode
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import Energy
from pyro_ebm.partition import belief_propagation, elimination, exact
from pyro_ebm.sites import Sites
from tests.support.finite import Table, values_of
from tests.support.goodness import ALPHA, chi_square
from tests.support.grids import Grid
from tests.support.kinds import BY_ROWS, KINDS, OPERATIONS, Kind, Refusal, shares

DRAWS = 3000


class Sums(NamedTuple):
    """All states of an energy, or cells, and what follows from their energies.

    Args:
        energy: The energy.
        law: The states, or cells, and their probabilities.
        heights: E, and of cells what their size adds (states, *batch).
    """

    energy: Energy
    law: Table | Grid
    heights: Tensor

    @classmethod
    def of(cls, kind: Kind, energy: Energy) -> "Sums":
        # Weights make a law as much as three times as wide; an integral of it forgives wide cells.
        box = {site: (3 * low, 3 * high) for site, (low, high) in kind.box.items()}
        law = Table.of(energy) if kind.is_finite else Grid.of(energy, box)
        batch = len(law.batch)
        spread = {s: v.reshape(len(v), *[1] * batch, *v.shape[1:]) for s, v in law.x.items()}
        heights = energy.evaluate(spread).detach().double()
        return cls(energy, law, heights - (0.0 if kind.is_finite else float(law.sizes.log().sum())))

    @property
    def x(self) -> Sites:
        """All states (states, *shape)."""
        return self.law.x

    @property
    def log_z(self) -> Tensor:  # (*batch,)
        return (-self.heights).logsumexp(0)

    @property
    def log_p(self) -> Tensor:  # (states, *batch)
        return -self.heights - self.log_z

    @property
    def p(self) -> Tensor:  # (states, *batch)
        return self.log_p.exp()

    def spread(self, x: Sites) -> Sites:
        """Values (rows, *shape) beside the batch of the parameters."""
        batch = self.heights.dim() - 1
        return {s: v.reshape(len(v), *[1] * batch, *v.shape[1:]) for s, v in x.items()}

    def of_site(self, site: str) -> tuple[Tensor, Tensor]:
        """The values of a site (values, *shape), and −ln Σ exp(−E) over the others."""
        own = self.x[site].reshape(len(self.heights), -1)
        values = values_of(self.energy.sites[site], own.dtype)
        number = (own[:, None] == values.reshape(len(values), -1)).all(-1).int().argmax(1)
        found = [(-self.heights[number == k]).logsumexp(0) for k in range(len(values))]
        return values, -torch.stack(found)

    def mean(self, value: Tensor) -> Tensor:  # (states, *shape) -> (*batch, *shape)
        flat = value.reshape(len(value), -1).double()
        return (self.p.movedim(0, -1) @ flat).reshape((*self.law.batch, *value.shape[1:]))

    def features(self, site: str, width: int) -> Tensor:  # (states, features)
        """The numbers of a site as they are, or for each label whether it is there."""
        flat = self.x[site].reshape(len(self.heights), -1).double()
        if width == flat.shape[1]:
            return flat
        return torch.cat([(u.unsqueeze(-1) == u.unique()).double() for u in flat.unbind(1)], 1)

    def nodes(self) -> Tensor:  # (*batch, n, labels)
        """The probability of each label of each unit, by the number of its level."""
        found = []
        for value in self.x.values():
            for unit in value.reshape(len(value), -1).unbind(1):
                levels = unit.unique()
                found.append(self.mean((unit.unsqueeze(-1) == levels).double()))
        most = max(own.shape[-1] for own in found)
        pad = torch.nn.functional.pad
        return torch.stack([pad(own, (0, most - own.shape[-1])) for own in found], -2)


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.detach().double(), wanted, rtol=1e-9, atol=1e-9)


# --- what is asked -------------------------------------------------------------------------------
def log_partition(sums: Sums) -> None:
    same(exact.log_partition(sums.energy), sums.log_z)


def log_prob(sums: Sums) -> None:
    step = max(1, len(sums.heights) // 50)
    some = {site: value[::step] for site, value in sums.x.items()}
    size = 0.0 if isinstance(sums.law, Table) else float(sums.law.sizes.log().sum())
    same(exact.log_prob(sums.energy, sums.spread(some)), sums.log_p[::step] - size)


def log_prob_of_one_site(sums: Sums) -> None:
    for site in sums.x:
        if sums.energy.sites[site].support.is_discrete:
            values, heights = sums.of_site(site)
            found = exact.log_prob(sums.energy, sums.spread({site: values}))
            same(found, -heights - sums.log_z)


def free_energy(sums: Sums) -> None:
    for site in sums.x:
        if sums.energy.sites[site].support.is_discrete:
            values, heights = sums.of_site(site)
            same(exact.free_energy(sums.energy, sums.spread({site: values})), heights)


def moments(sums: Sums) -> None:
    found = exact.moments(sums.energy)
    features = [sums.features(site, mean.shape[-1]) for site, mean in found.mean.items()]
    for own, mean in zip(features, found.mean.values(), strict=True):
        same(mean, sums.mean(own))
    every = torch.cat(features, 1)
    weighted = sums.p.movedim(0, -1).unsqueeze(-2) * every.mT
    same(found.second, weighted @ every)


def states(sums: Sums) -> None:
    found = exact.states(sums.energy)
    both = [
        torch.cat([x[site].reshape(len(x[site]), -1) for site in sums.energy.sites], 1)
        for x in (found, sums.x)
    ]
    assert torch.equal(*both)


def sample(sums: Sums) -> None:
    draws = exact.sample(sums.energy, DRAWS, seed=5)
    assert all(value.dtype == sums.energy.dtype for value in draws.values())
    assert sums.law.p_value(draws) > ALPHA


def least_energy(sums: Sums) -> None:
    least = exact.summation(sums.energy).minimum()
    x = {site: value.to(sums.energy.dtype) for site, value in least.items()}
    same(sums.energy(x), sums.heights.amin(0))


def least_energy_by_mode(sums: Sums) -> None:
    found = mode(sums.energy)
    assert found.proved
    same(found.energy, sums.heights.amin(0))
    same(sums.energy(found.x), found.energy.double())


def each_site(check: Callable[[Sums, str, EnergyDistribution], None]) -> Callable[[Sums], None]:
    """The law of each finite site as a distribution."""

    def checked(sums: Sums) -> None:
        for site, own in sums.energy.sites.items():
            if own.support.is_discrete:
                check(sums, site, EnergyDistribution(sums.energy, site))

    return checked


@each_site
def density(sums: Sums, site: str, law: EnergyDistribution) -> None:
    values, heights = sums.of_site(site)
    assert law.batch_shape == sums.law.batch
    every = law.enumerate_support(expand=False)
    assert torch.equal(every.reshape(values.shape).unique(dim=0), values.unique(dim=0))
    same(law.log_prob(sums.spread({site: values})[site]), -heights - sums.log_z)
    assert law.enumerate_support().shape == (len(values), *law.batch_shape, *values.shape[1:])


@each_site
def mean_and_variance(sums: Sums, site: str, law: EnergyDistribution) -> None:
    same(law.mean, mean := sums.mean(sums.x[site]))
    same(law.variance, sums.mean(sums.x[site].square()) - mean.square())


@each_site
def entropy(sums: Sums, site: str, law: EnergyDistribution) -> None:
    log_p = -sums.of_site(site)[1] - sums.log_z
    same(law.entropy(), -(log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum(0))


@each_site
def draws(sums: Sums, site: str, law: EnergyDistribution) -> None:
    torch.manual_seed(6)
    drawn = law.sample((DRAWS,)).reshape(DRAWS, sums.law.batch.numel(), -1)
    values, heights = sums.of_site(site)
    p = (-heights - sums.log_z).exp().reshape(len(values), -1)
    for row, own in enumerate(p.unbind(1)):
        same_value = (drawn[:, row, None] == values.reshape(len(values), -1)).all(-1)
        assert bool(same_value.any(1).all())
        counts = torch.bincount(same_value.int().argmax(1), minlength=len(values))
        assert chi_square(counts.numpy(), own.numpy()) > ALPHA


@each_site
def as_categorical(sums: Sums, site: str, law: EnergyDistribution) -> None:
    wanted = (-sums.of_site(site)[1] - sums.log_z).exp().movedim(0, -1)
    index = [
        int((law.states.reshape(wanted.shape[-1], -1) == v.flatten()).all(-1).int().argmax())
        for v in sums.of_site(site)[0]
    ]
    same(law.as_categorical().probs[..., index], wanted)


def eliminated_log_partition(sums: Sums) -> None:
    same(elimination.log_partition(sums.energy), sums.log_z)


def eliminated_nodes(sums: Sums) -> None:
    same(elimination.node_marginals(sums.energy), sums.nodes())
    same(elimination.marginals(sums.energy).nodes, sums.nodes())


def eliminated_mode(sums: Sums) -> None:
    found = elimination.mode(sums.energy)
    same(found.energy.expand(sums.law.batch), sums.heights.amin(0))
    same(sums.energy(found.x), sums.heights.amin(0))


def eliminated_sample(sums: Sums) -> None:
    assert sums.law.p_value(elimination.sample(sums.energy, DRAWS, seed=7)) > ALPHA


def messages(sums: Sums) -> None:
    found = belief_propagation(sums.energy, tolerance=1e-14)
    same(found.bethe_log_partition, sums.log_z)
    same(found.nodes, sums.nodes())


def is_summed(kind: Kind) -> bool:
    return kind.is_finite or "integral" in kind.says


def is_finite(kind: Kind) -> bool:
    return kind.is_finite


def has_factors(kind: Kind) -> bool:
    return "factors" in kind.says


def is_tree(kind: Kind) -> bool:
    return has_factors(kind) and "loops" not in kind.says


ASKED: dict[str, tuple[Callable[[Sums], None], Callable[[Kind], bool]]] = {
    "log_partition": (log_partition, is_summed),
    "log_prob": (log_prob, is_summed),
    "log_prob of one site": (log_prob_of_one_site, is_summed),
    "free_energy": (free_energy, is_summed),
    "moments": (moments, is_summed),
    "states": (states, is_finite),
    "sample": (sample, is_summed),
    "minimum": (least_energy, is_finite),
    "mode": (least_energy_by_mode, is_finite),
    "EnergyDistribution.log_prob": (density, is_finite),
    "EnergyDistribution.mean": (mean_and_variance, is_finite),
    "EnergyDistribution.entropy": (entropy, is_finite),
    "EnergyDistribution.sample": (draws, is_finite),
    "EnergyDistribution.as_categorical": (as_categorical, is_finite),
    "elimination.log_partition": (eliminated_log_partition, has_factors),
    "elimination.marginals": (eliminated_nodes, has_factors),
    "elimination.mode": (eliminated_mode, has_factors),
    "elimination.sample": (eliminated_sample, has_factors),
    "belief_propagation": (messages, is_tree),
}
DONE = (*OPERATIONS, *BY_ROWS)
ROWS = {"1": None, "states − 1": -1, "states": 0, "states + 1": 1}


# --- cells ---------------------------------------------------------------------------------------
class Cell(NamedTuple):
    """What is asked, of a kind of energy, after what is done to it, with how many rows of it."""

    asked: str
    kind: str
    operation: str
    rows: str

    @property
    def energy(self) -> Energy:
        kind = KINDS[self.kind]
        if self.operation in OPERATIONS:
            return OPERATIONS[self.operation](kind)
        made, more = BY_ROWS[self.operation], ROWS[self.rows]
        if more is None:
            return made(kind, 1)
        states = len(Table.of(made(kind, 1)).laws[0]) if kind.is_finite else 5
        return made(kind, max(1, states + more))


CELLS = [
    Cell(asked, kind, operation, rows)
    for asked, (_, suits) in ASKED.items()
    for kind in KINDS
    if suits(KINDS[kind])
    for operation in DONE
    for rows in (ROWS if operation in BY_ROWS else ("one energy",))
]


REFUSALS = (
    Refusal(
        "Units of these kinds are not added",
        "a weight times the potential of a count is the potential of no count",
        lambda cell: (
            cell.kind == "machine of counts"
            and ("weighted" in cell.operation or "int" in cell.operation)
        ),
    ),
    Refusal(
        "Ask for each alone",
        "an annealing that is not exact would find the modes of several laws at different rates: "
        "one verdict, proved or not, is of one law",
        lambda cell: (
            cell.asked == "mode" and ("rows" in cell.operation or "tensor" in cell.operation)
        ),
    ),
)


def wrong(cell: Cell) -> str:
    """What is wrong in a cell, or nothing; a refusal is right where there is to be one."""
    check, _ = ASKED[cell.asked]
    refused = next((refusal for refusal in REFUSALS if refusal.holds(cell)), None)
    try:
        check(Sums.of(KINDS[cell.kind], cell.energy))
    except AssertionError as error:
        return f"{' × '.join(cell)}: {error}"
    except (TypeError, ValueError) as error:
        right = refused is not None and refused.says in str(error)
        return "" if right else f"{' × '.join(cell)}: {error!r}"
    return "" if refused is None else f"{' × '.join(cell)}: not refused"


def all_wrong(cells: Sequence[Cell]) -> list[str]:
    """What is wrong in some cells."""
    assert cells
    return [found for cell in cells if (found := wrong(cell))]


# --- the table -----------------------------------------------------------------------------------
EVERY = 13  # one cell of so many is in the fast suite


def sampled(asked: str) -> list[Cell]:
    """The cells of the fast suite: together they touch every kind, operation and count of rows."""
    own = [cell for cell in CELLS if cell.asked == asked]
    return own[list(ASKED).index(asked) % EVERY :: EVERY]


@pytest.mark.parametrize("asked", ASKED)
def test_sums_are_those_over_all_states(asked: str) -> None:
    assert not all_wrong(sampled(asked))


@pytest.mark.slow
@pytest.mark.parametrize("operation", DONE)
@pytest.mark.parametrize("asked", ASKED)
def test_all_sums_are_those_over_all_states(asked: str, operation: str) -> None:
    own = [cell for cell in CELLS if (cell.asked, cell.operation) == (asked, operation)]
    assert not all_wrong(own)


def test_the_table_has_no_holes() -> None:
    each = len(OPERATIONS) + len(BY_ROWS) * len(ROWS)
    assert len(CELLS) == sum(suits(k) for _, suits in ASKED.values() for k in KINDS.values()) * each
    assert len(set(CELLS)) == len(CELLS) > 9000
    refused = [cell for cell in CELLS if any(refusal.holds(cell) for refusal in REFUSALS)]
    assert len(refused) <= len(CELLS) / 10
    fast = [cell for asked in ASKED for cell in sampled(asked)]
    summed = [name for name, kind in KINDS.items() if is_summed(kind)]
    for axis, names in enumerate((ASKED, summed, DONE, (*ROWS, "one energy"))):
        assert {cell[axis] for cell in fast} == set(names)


# --- what is not summed --------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not is_summed(kind)])
def test_integrals_without_a_formula_are_refused_by_name(kind: str) -> None:
    energy = KINDS[kind].make(1.0)
    for asked in (exact.log_partition, exact.moments, lambda own: exact.sample(own, 5)):
        with pytest.raises((TypeError, ValueError), match=INTEGRAL):
            asked(energy)


INTEGRAL = "infinitely many|no closed form"


# --- mutants -------------------------------------------------------------------------------------
FAULTS = {"weaker": ("weighted by rows", "1"), "rolled": ("weighted by rows", "states")}


def with_fault(asked: str, kind: str, fault: str) -> Sums:
    """The sums of an energy, beside one whose parameters are weaker, or in the wrong rows."""
    operation, rows = FAULTS[fault]
    right = Sums.of(KINDS[kind], Cell(asked, kind, operation, rows).energy)
    if fault == "weaker":
        return right._replace(energy=0.6 * right.energy)
    weight = 2 * shares(right.law.batch[0])
    return right._replace(energy=weight.roll(1) * KINDS[kind].make(1.0))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("asked", [name for name in ASKED if name not in ("states", "mode")])
def test_other_parameters_and_other_rows_are_found(asked: str, fault: str) -> None:
    check, _ = ASKED[asked]
    with pytest.raises(AssertionError):
        check(with_fault(asked, "field of mixed labels", fault))


def test_a_higher_energy_and_other_states_are_found() -> None:
    kind = KINDS["function of labels"]
    right = Sums.of(kind, kind.make(1.0))
    with pytest.raises(AssertionError):
        least_energy_by_mode(right._replace(heights=right.heights.clamp_min(-1.0)))
    turned = Table(right.energy, {s: v.flip(0) for s, v in right.x.items()}, right.law.laws)
    with pytest.raises(AssertionError):
        states(right._replace(law=turned))
