"""Every kernel × every kind of energy × everything that is done to an energy.

A cell says two things: a step leaves the law unchanged, and a chain from any start comes to follow
it. Of few states both are said of the transition matrix of the kernel's own code: its rows sum to
1, πT = π, and every state is reached; right kernels give |πT − π| of 1e-16, and the limit is 1e-12.
Else 2,000 chains are judged by χ², from exact draws after 1, 4 and 16 steps, and from one place
after as many as the kernel takes to forget it: α = 1e-6, and a law at the χ² distance 0.06 is found
99 times of 100. A cell where neither can be says why, in the words of the refusal.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import BoltzmannMachine, Energy, Layer, RandomField, TableFactors
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    IntegerWalk,
    Kernel,
    Langevin,
    MetropolisHastings,
    Mixture,
    ParallelTempering,
    RandomBlocks,
    RandomWalk,
    SwendsenWang,
    TemperedTransitions,
    UnitMass,
    Wolff,
    advance,
    choose_kernel,
    run,
    warmup,
)
from pyro_ebm.kernels.base import unmoved_sites
from pyro_ebm.kernels.discrete import alphabets
from pyro_ebm.kernels.discrete.constraint_blocks import ConstraintBlocks
from pyro_ebm.sites import Site, Sites
from pyro_ebm.units import Categorical, FiniteLaw
from tests.support.finite import Table, values_of
from tests.support.goodness import ALPHA
from tests.support.grids import Grid, Heights
from tests.support.kinds import KINDS, OPERATIONS, Kind, Refusal, pickled
from tests.support.outcomes import (
    TooManyOutcomesError,
    all_outcomes,
    reached_by,
    shared_choices,
    violation_of,
)

CHAINS = 2000
MOST = 2**16  # rows of a step for its matrix
ZERO_AND_ONE, WARM = (0.0, 1.0), (0.4, 1.0)


# --- kernels -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Independent:
    """A proposal of values of discrete units that does not look at theirs.

    Args:
        values: All that there are (values, *event).
        logits: Of each unit (*units, values).
    """

    values: Tensor
    logits: Tensor

    def __call__(self, x: Tensor) -> FiniteLaw:
        own = self.logits.dim() - 1 + self.values.dim() - 1
        batch = x.shape[: x.dim() - own]
        return FiniteLaw(self.values, self.logits.expand(*batch, *self.logits.shape))


def near(x: Tensor) -> Any:
    return dist.Normal(x, 0.9)


def near_on_a_scale(x: Tensor) -> Any:
    return dist.LogNormal(x.log(), 0.6)


def proposal_for(site: Site) -> Callable[[Tensor], Any]:
    """A proposal that reaches all values of a site."""
    if not site.support.is_discrete:
        return near_on_a_scale if site.support is constraints.positive else near
    every = values_of(site, torch.float64)
    if isinstance(site.support, type(constraints.one_hot)):
        values, own = torch.eye(site.shape[-1], dtype=torch.float64), every[0, ..., 0]
        return Independent(values, torch.zeros(*own.shape, len(values), dtype=torch.float64))
    values = every.unique()
    taken = (every.unsqueeze(-1) == values).any(0).double()  # (*shape, values)
    return Independent(values, (taken * (1 + values.cos().abs())).log())


def proposing(energy: Energy) -> Kernel:
    """Metropolis and Hastings on each site in turn."""
    each = tuple(MetropolisHastings(name, proposal_for(s)) for name, s in energy.sites.items())
    return each[0] if len(each) == 1 else Cycle(each)


TRAJECTORY = HMC(step_size=0.4, trajectory_length=1.6)
WALK = RandomWalk(scale=1.2)


def movers(kind: Kind, energy: Energy) -> tuple[Kernel, Kernel]:
    """Two kernels of which each moves all sites, and knows its reverse."""
    discrete = tuple(name for name, site in energy.sites.items() if site.support.is_discrete)
    real = tuple(name for name in energy.sites if name not in discrete)
    if not real:
        first = GibbsWithGradients() if "slope" in kind.says else RandomBlocks(size=1)
        return first, RandomBlocks(size=2)
    if not discrete:
        return TRAJECTORY, WALK
    blocks = RandomBlocks(discrete)
    return Mixture((blocks, replace(TRAJECTORY, sites=real))), Mixture(
        (blocks, replace(WALK, sites=real))
    )


def chosen(kind: Kind, energy: Energy) -> Kernel:
    """The kernel that `choose_kernel` names, after its warm-up."""
    law = Table.of(energy) if kind.is_finite else Grid.of(energy, kind.box)
    return warmup(choose_kernel(energy), energy, law.exact(24), steps=60, seed=1)[0]


class Row(NamedTuple):
    """A kernel of the table.

    Args:
        make: The kernel for an energy of a kind.
        suits: Whether it moves all the sites of a kind, by what it is.
        steps: After how many nothing is seen of a start.
    """

    make: Callable[[Kind, Energy], Kernel]
    suits: Callable[[Kind], bool]
    steps: int = 60


def always(kernel: Kernel) -> Callable[[Kind, Energy], Kernel]:
    return lambda kind, energy: kernel


def where(word: str) -> Callable[[Kind], bool]:
    return lambda kind: word in kind.says


def any_kind(kind: Kind) -> bool:
    return True


def is_real(kind: Kind) -> bool:
    return kind.is_real


KERNELS: dict[str, Row] = {
    "Gibbs": Row(always(Gibbs()), where("conditional")),
    "GibbsWithGradients": Row(always(GibbsWithGradients()), where("slope")),
    "DiscreteLangevin": Row(always(DiscreteLangevin(step_size=1.0)), where("slope")),
    "RandomBlocks": Row(always(RandomBlocks(size=2)), lambda kind: kind.is_finite),
    "ConstraintBlocks": Row(always(Cycle((Gibbs(), ConstraintBlocks()))), where("field")),
    "IntegerWalk": Row(always(IntegerWalk(scale=1.0, mass=UnitMass())), where("integer"), 100),
    "SwendsenWang": Row(always(SwendsenWang()), where("clusters")),
    "Wolff": Row(always(Wolff()), where("clusters")),
    "MetropolisHastings": Row(lambda kind, energy: proposing(energy), any_kind, 150),
    "RandomWalk": Row(always(WALK), is_real, 150),
    "Langevin": Row(always(Langevin(step_size=0.5)), where("normal"), 250),
    "MALA": Row(always(MALA(step_size=0.4)), is_real, 100),
    "HMC": Row(always(TRAJECTORY), is_real, 30),
    "Cycle": Row(lambda kind, energy: Cycle(movers(kind, energy)), any_kind, 40),
    "Mixture": Row(lambda kind, energy: Mixture(movers(kind, energy)), any_kind, 80),
    "ParallelTempering": Row(
        lambda kind, energy: ParallelTempering(movers(kind, energy)[0], WARM), any_kind
    ),
    "TemperedTransitions": Row(
        lambda kind, energy: TemperedTransitions(movers(kind, energy)[0], WARM), any_kind
    ),
    "choose_kernel": Row(chosen, any_kind),
}
DONE = (*OPERATIONS, "tempered")


# --- cells ---------------------------------------------------------------------------------------
class Cell(NamedTuple):
    """A kernel, a kind of energy, and what is done to it."""

    kernel: str
    kind: str
    operation: str

    @property
    def made(self) -> tuple[Kernel, Energy]:
        kind = KINDS[self.kind]
        energy = OPERATIONS.get(self.operation, OPERATIONS["plain"])(kind)
        kernel = KERNELS[self.kernel].make(kind, energy)
        if self.operation == "copied":
            kernel = copy.deepcopy(kernel)
        elif self.operation == "pickled":
            kernel = pickled(kernel)
        elif self.operation == "tempered":
            if isinstance(kernel, Langevin):  # exchanges are exact: its bias is to be too small
                kernel = replace(kernel, step_size=0.05)
            kernel = ParallelTempering(kernel, ZERO_AND_ONE if kind.is_finite else WARM)
        return kernel, energy


CELLS = [
    Cell(kernel, kind, done)
    for kernel, row in KERNELS.items()
    for kind in KINDS
    if row.suits(KINDS[kind])
    for done in DONE
]
Law = Table | Grid


def law_of(kernel: Kernel, kind: Kind, energy: Energy) -> Law:
    """The laws that a kernel is to follow, by summation or by quadrature."""
    if kind.is_finite:
        return Table.of(energy)
    heights = biased(energy, kernel) if isinstance(kernel, Langevin) else None
    return Grid.of(energy, kind.box, heights)


def biased(energy: Energy, kernel: Langevin) -> Heights:
    """The height of the law of `Langevin`: of a normal one with the precision A, A − τ A² / 2."""
    shapes = {name: site.shape for name, site in energy.sites.items()}
    sizes = [shape.numel() for shape in shapes.values()]
    n = sum(sizes)

    def split(flat: Tensor) -> Sites:
        parts = zip(shapes.items(), flat.split(sizes, -1), strict=True)
        return {s: part.reshape((*part.shape[:-1], *shape)) for (s, shape), part in parts}

    def height(flat: Tensor) -> Tensor:  # (rows, n) -> (rows, *batch)
        batch = energy.evaluate(split(flat[0])).dim()
        return energy.evaluate(split(flat.reshape(len(flat), *[1] * batch, n))).detach()

    # Differences of a quadratic function are its derivatives.
    unit = torch.eye(n, dtype=torch.float64)
    both = height((unit[:, None] + unit).reshape(n * n, n)).unflatten(0, (n, n))
    one, other, zero = height(unit), height(-unit), height(torch.zeros_like(unit[:1]))
    precision = (both - one[:, None] - one[None] + zero).movedim((0, 1), (-2, -1))
    slope = ((one - other) / 2).movedim(0, -1)
    mean = -torch.linalg.solve(precision, slope)
    own = precision - kernel.step_size / 2 * precision @ precision

    def heights(x: Sites) -> Tensor:
        flat = [x[s].flatten(x[s].dim() - len(shape)) for s, shape in shapes.items() if shape]
        flat += [x[s].unsqueeze(-1) for s, shape in shapes.items() if not shape]
        deviation = torch.cat(flat, -1) - mean
        return ((deviation.unsqueeze(-2) @ own).squeeze(-2) * deviation).sum(-1) / 2

    return heights


# --- by transition matrices ----------------------------------------------------------------------
def possible(laws: Tensor) -> tuple[Tensor, Tensor]:
    """The possible states of each law (states, *batch), the first again where there are fewer."""
    flat = laws.reshape(-1, laws.shape[-1]) > 0
    most = int(flat.sum(1).max())
    each = [own.nonzero()[:, 0] for own in flat]
    index = torch.stack([torch.cat([own, own[:1].expand(most - len(own))]) for own in each], 1)
    return index.reshape(most, *laws.shape[:-1]), flat


def violations(kernel: Kernel, energy: Energy) -> set[str]:
    """What a step does that it should not.

    Raises:
        TooManyOutcomesError: If its matrix is too large.
    """
    table = Table.of(energy)
    index, flat = possible(table.laws)
    found = transitions(kernel, energy, table.chosen(index), table)
    wrong: set[str] = set()
    for k, law in enumerate(table.laws.reshape(len(flat), -1)):
        own = found.reshape(len(index), len(flat), -1)[: int(flat[k].sum()), k]
        if float(own[:, ~flat[k]].sum()) != 0:
            wrong.add("impossible")
        wrong |= violation_of(own[:, flat[k]], law[flat[k]]).found()
    return wrong


def transitions(kernel: Kernel, energy: Energy, starts: Sites, table: Table) -> Tensor:
    """T[x, y] (starts, *batch, states)."""

    def found(shared: Callable[[], Any]) -> Tensor:
        def step(x: Sites) -> Sites:
            with shared():
                return kernel.step(energy, kernel.init(energy, x))[0].x

        return reached_by(all_outcomes(step, starts, tuple(table.batch), MOST), table.x)

    return shared_choices(found)


def tempered_violations(kernel: ParallelTempering, energy: Energy) -> set[str]:
    """The same of the states of all replicas together."""
    levels = Table.of(kernel.path(energy))
    there = [own.nonzero()[:, 0] for own in levels.laws > 0]
    places = torch.cartesian_prod(*there)
    states = levels.chosen(places)
    law = torch.stack([own[places[:, k]] for k, own in enumerate(levels.laws)]).prod(0)

    def found(shared: Callable[[], Any]) -> Tensor:
        def step(x: Sites) -> Sites:
            with shared():
                return kernel.step(energy, with_replicas(kernel, energy, x))[0].replicas.x

        return reached_by(all_outcomes(step, states, (), MOST), states)

    return violation_of(shared_choices(found), law).found()


def with_replicas(kernel: ParallelTempering, energy: Energy, x: Sites) -> Any:
    """The state whose replicas have the given values (chains, levels, *shape)."""
    state = kernel.init(energy, {name: value[:, -1] for name, value in x.items()})
    return state._replace(replicas=kernel.kernel.init(kernel.path(energy), x))


# --- by statistics -------------------------------------------------------------------------------
def exact_start(kernel: Kernel, energy: Energy, kind: Kind, law: Law) -> Any:
    """The state of chains that follow the law: at each level, where there are levels."""
    if isinstance(kernel, ParallelTempering):
        levels = law_of(kernel.kernel, kind, kernel.path(energy))
        return with_replicas(kernel, energy, levels.exact(CHAINS))
    return kernel.init(energy, law.exact(CHAINS))


def stays(kernel: Kernel, energy: Energy, kind: Kind, law: Law) -> float:
    """The p-value of chains that began in law, the least after 1, 4 and 16 steps."""
    state = exact_start(kernel, energy, kind, law)
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        found.append(law.p_value(state.x))
    return 3 * min(found)


def comes(kernel: Kernel, energy: Energy, law: Law, steps: int) -> float:
    """The p-value of chains that began in one place."""
    state = kernel.init(energy, law.rarest(CHAINS))
    return law.p_value(advance(kernel, energy, state, steps).x)


def faults(cell: Cell) -> set[str]:
    """What is wrong in a cell: nothing, of a right kernel."""
    kind, (kernel, energy) = KINDS[cell.kind], cell.made
    if kind.is_finite:
        try:
            if isinstance(kernel, ParallelTempering):
                return tempered_violations(kernel, energy)
            return violations(kernel, energy)
        except TooManyOutcomesError:
            pass
    law = law_of(kernel, kind, energy)
    found = {
        "stationary": stays(kernel, energy, kind, law),
        "unreachable": comes(kernel, energy, law, KERNELS[cell.kernel].steps),
    }
    return {name for name, p in found.items() if p < ALPHA}


# --- refusals ------------------------------------------------------------------------------------
LADDERS = {"ParallelTempering", "TemperedTransitions", "tempered"}
REFUSALS = (
    Refusal(
        "Units of these kinds are not added",
        "a weight times the potential of a count is the potential of no count",
        lambda cell: (
            cell.kind == "machine of counts"
            and (
                cell.operation.startswith("weighted")
                or cell.operation == "interpolated"
                or bool({cell.kernel, cell.operation} & LADDERS)
            )
        ),
    ),
    Refusal(
        "ParallelTempering wanted one law for all",
        "the levels of a ladder are a batch of laws; of several laws each has a ladder of its own, "
        "and a ladder of ladders is one ladder",
        lambda cell: (
            cell.kernel == "ParallelTempering"
            and cell.operation in ("weighted by a tensor", "clamped by rows", "tempered")
        ),
    ),
)


def refusal(cell: Cell) -> Refusal | None:
    """Why a cell has no law; None of the others."""
    return next((refused for refused in REFUSALS if refused.holds(cell)), None)


# --- the table -----------------------------------------------------------------------------------
EVERY = 23  # of the cells of each kernel one so many is in the fast suite
ALONE = ("Gibbs", "GibbsWithGradients", "DiscreteLangevin", "RandomBlocks", "SwendsenWang", "Wolff")


def sampled() -> list[Cell]:
    """The cells of the fast suite, which touch every kernel, kind and operation."""
    found = [cell for cell in CELLS if cell.kernel in ALONE and cell.operation == "plain"]
    for number, kernel in enumerate(KERNELS):
        own = [cell for cell in CELLS if cell.kernel == kernel]
        found += own[number % EVERY % len(own) :: EVERY]
    for kind in KINDS:
        if all(cell.kind != kind for cell in found):
            found.append(next(cell for cell in CELLS if cell.kind == kind))
    return list(dict.fromkeys(found))


FAST = sampled()


def judge(cell: Cell) -> set[str]:
    """What is wrong in a cell; a refusal by name is right where there is to be one."""
    torch.manual_seed(0)
    if (refused := refusal(cell)) is None:
        return faults(cell)
    try:
        faults(cell)
    except (TypeError, ValueError) as error:
        return set() if refused.says in str(error) else {f"refused otherwise: {error}"}
    return {"not refused"}


@pytest.mark.parametrize("cell", FAST, ids=" × ".join)
def test_a_kernel_leaves_the_law_unchanged_and_reaches_it(cell: Cell) -> None:
    assert not judge(cell)


@pytest.mark.slow
@pytest.mark.parametrize("operation", DONE)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_leave_all_laws_unchanged_and_reach_them(kernel: str, operation: str) -> None:
    cells = [cell for cell in CELLS if (cell.kernel, cell.operation) == (kernel, operation)]
    wrong = {cell.kind: found for cell in cells if cell not in FAST and (found := judge(cell))}
    assert cells
    assert not wrong


def test_the_table_has_no_holes() -> None:
    assert len(CELLS) == sum(row.suits(k) for row in KERNELS.values() for k in KINDS.values()) * 9
    assert len(set(CELLS)) == len(CELLS) > 3000
    assert sum(refusal(cell) is not None for cell in CELLS) <= len(CELLS) / 10
    for refused in REFUSALS:
        assert any(refused.holds(cell) for cell in CELLS)
    for axis, names in enumerate((KERNELS, KINDS, DONE)):
        assert {cell[axis] for cell in FAST} == set(names)


# --- what a kernel does not move -----------------------------------------------------------------
NAMED = {
    **dict.fromkeys(("Gibbs",), "conditional law"),
    **dict.fromkeys(("GibbsWithGradients", "DiscreteLangevin"), "moves (bits, spins|discrete)"),
    **dict.fromkeys(("RandomBlocks",), "moves discrete sites"),
    **dict.fromkeys(("ConstraintBlocks",), "factors of a random field|conditional law"),
    **dict.fromkeys(("IntegerWalk",), "moves integers"),
    **dict.fromkeys(("SwendsenWang", "Wolff"), "moves machines of bits or spins|frustrated"),
    **dict.fromkeys(("RandomWalk", "Langevin", "MALA", "HMC"), "moves continuous sites"),
}


@pytest.mark.parametrize("kernel", NAMED)
def test_a_kernel_refuses_by_name_what_it_does_not_move(kernel: str) -> None:
    row, refused = KERNELS[kernel], 0
    for kind in KINDS.values():
        if row.suits(kind):
            continue
        energy = kind.make(1.0)
        moves = row.make(kind, energy)
        start = (Table.of(energy) if kind.is_finite else Grid.of(energy, kind.box)).rarest(3)
        if message := refused_with(moves, energy, start):
            refused += 1
            assert re.search(NAMED[kernel], message)
        else:  # it moves some of the sites, and says so; or it is biased, and its law not known
            assert unmoved_sites(moves, energy) or (kernel == "Langevin" and kind.is_real)
    assert refused


def refused_with(kernel: Kernel, energy: Energy, x: Sites) -> str:
    """What a kernel says that refuses an energy; nothing of one that takes it."""
    try:
        kernel.init(energy, x)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


# --- mutants -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Stronger(Kernel):
    """A kernel of the law of 1.5 times the energy.

    Args:
        kernel: The kernel.
    """

    kernel: Kernel

    def init(self, energy: Energy, x: Sites) -> Any:
        return self.kernel.init(1.5 * energy, x)

    def step(self, energy: Energy, state: Any) -> tuple[Any, NamedTuple]:
        return self.kernel.step(1.5 * energy, state)

    def refresh(self, energy: Energy, state: Any, x: Sites) -> Any:
        return self.kernel.refresh(1.5 * energy, state, x)


class Still(NamedTuple):
    """A place."""

    x: Sites


@dataclass(frozen=True, eq=False)
class Stay(Kernel):
    """A kernel that never moves: it leaves every law unchanged."""

    def init(self, energy: Energy, x: Sites) -> Still:
        return Still(x)

    def step(self, energy: Energy, state: Still) -> tuple[Still, NamedTuple]:
        return state, state

    def refresh(self, energy: Energy, state: Still, x: Sites) -> Still:
        return Still(x)


def faults_with(cell: Cell, fault: Callable[[Kernel], Kernel], seed: int = 0) -> set[str]:
    """What is found in a cell whose kernel has a fault."""
    torch.manual_seed(seed)
    right = KERNELS[cell.kernel]
    wrong = right._replace(make=lambda kind, energy: fault(right.make(kind, energy)))
    with mock.patch.dict(KERNELS, {cell.kernel: wrong}):
        return faults(cell)


def suited(kernel: str) -> list[str]:
    """A finite kind and a real one that a kernel moves, where there are such."""
    moved = [name for name, kind in KINDS.items() if KERNELS[kernel].suits(kind)]
    finite = [name for name in moved if KINDS[name].is_finite and name not in LEFT_OUT]
    return [*finite[:1], *[name for name in moved if not KINDS[name].is_finite][:1]]


LEFT_OUT = ("field of nothing", "machine of counts")  # as likely at any strength; without one
PAIRS = [(kernel, kind) for kernel in KERNELS for kind in suited(kernel)]


@pytest.mark.parametrize(("kernel", "kind"), PAIRS)
def test_an_energy_that_is_too_strong_is_found(kernel: str, kind: str) -> None:
    assert "stationary" in faults_with(Cell(kernel, kind, "plain"), Stronger)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "kind"), PAIRS)
def test_an_energy_that_is_too_strong_is_found_nearly_always(kernel: str, kind: str) -> None:
    cell = Cell(kernel, kind, "plain")
    found = [faults_with(cell, Stronger, seed) for seed in range(1, 21)]
    assert sum("stationary" in own for own in found) >= 19
    if not KINDS[kind].is_finite:  # of a matrix it is the law alone that is found to be another
        assert sum("unreachable" in own for own in found) >= 19


@pytest.mark.parametrize("kind", KINDS)
def test_chains_that_never_move_are_found(kind: str) -> None:
    cell = Cell("MetropolisHastings", kind, "plain")
    assert faults_with(cell, lambda kernel: Stay()) == {"unreachable"}


@pytest.mark.parametrize("kernel", ["GibbsWithGradients", "DiscreteLangevin"])
def test_a_product_of_nothing_and_infinity_is_found(kernel: str) -> None:
    def faulty(heights: Tensor, place: Tensor) -> Tensor:
        present = torch.nn.functional.one_hot(place, heights.shape[-1]).to(heights)
        return heights - (heights * present).sum(-1, keepdim=True)

    with mock.patch.object(alphabets, "relative", faulty):
        for kind in ("2 × 2, one forbidden", "3 × 3, one forbidden"):
            assert "unreachable" in faults(Cell(kernel, kind, "plain"))


# --- where there is nowhere to go ----------------------------------------------------------------
@pytest.mark.parametrize("kernel", [Gibbs(), GibbsWithGradients(), RandomBlocks(size=1)])
def test_where_nothing_is_possible_chains_stay(kernel: Kernel) -> None:
    only = torch.full((1, 2, 3), -torch.inf, dtype=torch.float64)
    only[0, 1, 2] = 0
    energy = RandomField([2, 3], {"pair": TableFactors([[0, 1]], only)})
    possible = {"visible": torch.tensor([[1.0, 2.0]]).expand(5, 2).double()}
    state = advance(kernel, energy, kernel.init(energy, possible), 20)
    assert torch.equal(state.x["visible"], possible["visible"])
    if isinstance(kernel, Gibbs):
        return  # which refuses the other start
    # Two changes away from what is possible, every change is impossible.
    impossible = {"visible": torch.zeros(5, 2).double()}
    state = advance(kernel, energy, kernel.init(energy, impossible), 20)
    assert torch.equal(state.x["visible"], impossible["visible"])


@pytest.mark.parametrize("kernel", [GibbsWithGradients(), DiscreteLangevin(step_size=1.0)])
def test_labels_without_couplings_are_moved_in_every_chain(kernel: Kernel) -> None:
    machine = BoltzmannMachine({"x": Layer(Categorical(3), 2)})
    chains = run(kernel, machine, 50, warmup=0, chains=5, seed=0)
    assert bool((chains.draws["x"].long().diff(dim=1) != 0).flatten(1).any(1).all())
