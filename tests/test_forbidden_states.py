"""States that are forbidden: jobs with known answers, and what is said where chains are held.

Answers are sums over all states, made here.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import networkx as nx
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import Verdict, diagnose
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    ModelEnergy,
    RandomField,
    TableFactors,
    clamp,
)
from pyro_ebm.kernels import (
    Chains,
    ConstraintBlocks,
    Cycle,
    ForbiddenStatesWarning,
    Gibbs,
    Kernel,
    Mixture,
    ParallelTempering,
    RandomBlocks,
    RandomWalk,
    TemperedTransitions,
    advance,
    choose_kernel,
    resume,
    run,
)
from pyro_ebm.minima import anneal, descend, mode
from pyro_ebm.sampling import NotMixedWarning, exact_draws, sample
from pyro_ebm.sites import Site, boolean
from pyro_ebm.statistics import effective_sample_size
from tests.support.goodness import chi_square

V, INF = "visible", math.inf


# --- the jobs ------------------------------------------------------------------------------------


def where(allowed: Callable[..., bool], *sizes: int) -> Tensor:  # (1, *sizes)
    """A table that is 0 where labels are allowed, and −∞ elsewhere."""
    every = itertools.product(*map(range, sizes))
    return torch.tensor([0.0 if allowed(*x) else -INF for x in every]).double().reshape(1, *sizes)


def weights(*of_one: float) -> TableFactors:
    """Bits with these weights of a one."""
    table = torch.tensor([[1.0, weight] for weight in of_one], dtype=torch.float64).log()
    return TableFactors(torch.arange(len(of_one))[:, None], table)


def exactly_one() -> RandomField:
    on = where(lambda *x: sum(x) == 1, 2, 2, 2)
    return RandomField([2] * 3, {"weight": weights(1, 2, 3), "one": TableFactors([[0, 1, 2]], on)})


def equality() -> RandomField:
    same = where(lambda a, b: a == b, 2, 2)
    return RandomField([2] * 2, {"weight": weights(3, 1), "same": TableFactors([[0, 1]], same)})


def two_of_four() -> RandomField:
    on = where(lambda *x: sum(x) == 2, 2, 2, 2, 2)
    factors = {"weight": weights(1, math.e, 1, 1), "two": TableFactors([[0, 1, 2, 3]], on)}
    return RandomField([2] * 4, factors)


NAMES = torch.tensor([[0.5, 0.3, 0.2], [1 / 3] * 3, [1 / 3] * 3], dtype=torch.float64)
SAID = torch.tensor([[0.3, 0.7], [0.6, 0.4], [0.45, 0.55]], dtype=torch.float64)
PAIRS = ((0, 1), (0, 2), (1, 2))


def hard_matches() -> RandomField:
    told = where(lambda a, b, z: (a == b) == bool(z), 3, 3, 2)
    scopes = [[a, b, 3 + k] for k, (a, b) in enumerate(PAIRS)]
    factors = {
        "name": TableFactors([[0], [1], [2]], NAMES.log()),
        "said": TableFactors([[3], [4], [5]], SAID.log()),
        "match": TableFactors(scopes, told),
    }
    return RandomField([3, 3, 3, 2, 2, 2], factors)


def matches_as_a_model() -> None:
    x = [pyro.sample(f"name_{k}", dist.Categorical(NAMES[k])) for k in range(3)]
    for k, (a, b) in enumerate(PAIRS):
        z = pyro.sample(f"said_{k}", dist.Bernoulli(SAID[k, 1]))
        forbidden = (x[a] == x[b]) != (z > 0)
        pyro.factor(f"match_{k}", torch.zeros(()).double().masked_fill(forbidden, -INF))


def one_as_a_function() -> Energy:
    log_weights = torch.tensor([1.0, 2.0, 3.0]).double().log()

    def energy(x: Tensor) -> Tensor:
        return (-x @ log_weights).masked_fill(x.sum(-1) != 1, INF)

    return CallableEnergy(energy, {V: Site(boolean, torch.Size([3]))}, dtype=torch.float64)


def one_as_a_model() -> None:
    with pyro.plate("items", 3):
        on = pyro.sample("on", dist.Bernoulli(torch.tensor([1 / 2, 2 / 3, 3 / 4]).double()))
    pyro.factor("one", torch.zeros(()).double().masked_fill(on.sum() != 1, -INF))


class Job(NamedTuple):
    """A small energy, and the states of its sites."""

    energy: Callable[[], Energy]
    levels: dict[str, tuple[int, ...]]  # of each unit of each site
    given: tuple[float, ...] | None  # what the means are said to be, to three digits

    def truth(self) -> dict[str, Tensor]:
        """The mean of each site, by a sum over all states."""
        energy = self.energy()
        sizes = [q for own in self.levels.values() for q in own]
        states = torch.tensor(list(itertools.product(*map(range, sizes)))).double()
        parts = states.split([max(1, len(own)) for own in self.levels.values()], 1)
        x = {
            name: part.reshape(-1, *energy.sites[name].shape)
            for name, part in zip(self.levels, parts, strict=True)
        }
        p = (-energy(x)).double().softmax(0)
        return {name: torch.tensordot(p, value, 1) for name, value in x.items()}


MATCHES = (0.7, 0.9106, 1.0321, 0.532, 0.262, 0.352)
JOBS = {
    "exactly one": Job(exactly_one, {V: (2, 2, 2)}, (0.1667, 0.3333, 0.5)),
    "equality": Job(equality, {V: (2, 2)}, (0.75, 0.75)),
    "hard matches": Job(hard_matches, {V: (3, 3, 3, 2, 2, 2)}, MATCHES),
    "two of four": Job(two_of_four, {V: (2, 2, 2, 2)}, None),
    "exactly one, a function": Job(one_as_a_function, {V: (2, 2, 2)}, (0.1667, 0.3333, 0.5)),
    "exactly one, a model": Job(
        lambda: ModelEnergy(one_as_a_model), {"on": (2, 2, 2)}, (0.1667, 0.3333, 0.5)
    ),
    "hard matches, a model": Job(
        lambda: ModelEnergy(matches_as_a_model),
        {
            **{f"{name}_{k}": (q,) for k in range(3) for name, q in (("name", 3), ("said", 2))},
        },
        None,
    ),
}


def furthest(chains: Chains, truth: dict[str, Tensor]) -> float:
    """The largest distance of a unit's mean from the truth, in standard errors."""
    worst = 0.0
    for name, wanted in truth.items():
        x = chains.draws[name].double()
        size = effective_sample_size(x)
        error = x.flatten(0, 1).std(0) / size.sqrt()
        away = ((x.mean((0, 1)) - wanted) / error)[error > 0]
        worst = max(worst, float(away.abs().max()))
    return worst


@pytest.fixture
def no_exact_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_draws, "SHARE", 0.0)


@pytest.mark.parametrize("name", JOBS)
def test_the_answers_are_those_that_are_said(name: str) -> None:
    job = JOBS[name]
    truth = torch.cat([value.reshape(-1) for value in job.truth().values()])
    if name == "two of four":
        assert float(truth[1]) == pytest.approx(0.731, abs=5e-4)
    if name == "hard matches, a model":
        by_field = JOBS["hard matches"].truth()[V]
        torch.testing.assert_close(truth, by_field[[0, 3, 1, 4, 2, 5]], rtol=0, atol=1e-6)
    if job.given is not None:
        torch.testing.assert_close(truth, torch.tensor(job.given).double(), rtol=0, atol=6e-4)


@pytest.mark.parametrize("name", JOBS)
def test_small_jobs_are_drawn_exactly_and_called_so(name: str) -> None:
    # 64,000 draws, α = 2e-4 with 4 standard errors: it finds a probability that is off by 0.008.
    job = JOBS[name]
    chains = sample(job.energy(), seed=1)
    told = chains.attributes
    assert told["picked"] == told["kernel"] == "ExactDraws()"
    assert "independent draws" in str(told["picked_because"])
    assert told["tried"] == "as chosen: mixed"
    assert told["verdict_in_words"] == "Mixed: exact draws, by summation, which are independent."
    assert told["warmup"] == 0
    assert "ExactDraws" in repr(chains)
    assert furthest(chains, job.truth()) < 4
    again = diagnose(chains.to_arviz())
    assert (again.verdict, again.summary) == (Verdict.MIXED, told["verdict_in_words"])


LONGER = ("exactly one, a model", "hard matches, a model")  # seconds


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONGER)) for name in JOBS]
)
def test_chains_do_the_jobs_too(name: str, no_exact_draws: None) -> None:
    job = JOBS[name]
    chains = sample(job.energy(), 500, warmup=200, seed=2)
    assert "ExactDraws" not in str(chains.attributes["picked"])
    assert chains.attributes["tried"] == "as chosen: mixed"
    assert furthest(chains, job.truth()) < 4


# --- the same, too large for a list of states ----------------------------------------------------

COPIES, WEAK = 40, 0.3


def copies_of(job: RandomField, seed: int = 0) -> tuple[RandomField, Tensor]:
    """A small field forty times, weakly joined in a chain; and the mean of each unit."""
    n = len(job.states)
    joint = WEAK * torch.randn(2, 2, generator=torch.Generator().manual_seed(seed)).double()
    factors = {
        name: TableFactors(
            torch.cat([group.nodes + k * n for k in range(COPIES)]),
            group.table
            if len(group.table) == 1
            else group.table.repeat(COPIES, *[1] * (group.table.dim() - 1)),
        )
        for name, group in job.factors.items()
    }
    last, first = n - 1, 0
    ends = [[k * n + last, (k + 1) * n + first] for k in range(COPIES - 1)]
    q = job.states[last], job.states[first]
    table = torch.zeros(1, *q).double()
    table[0, :2, :2] = joint
    factors["weak"] = TableFactors(ends, table)
    field = RandomField(list(job.states) * COPIES, factors)
    # Messages from copy to copy, over the states of one.
    states = torch.tensor(list(itertools.product(*map(range, job.states)))).double()
    log_p = -job(states)
    states, p = states[log_p.isfinite()], log_p[log_p.isfinite()].exp()
    step = table[0].exp()[states[:, last].long()][:, states[:, first].long()]
    forward, backward = [p], [torch.ones_like(p)]
    for _ in range(COPIES - 1):
        forward.append((forward[-1] @ step) * p)
        forward[-1] /= forward[-1].sum()
        backward.append(step @ (backward[-1] * p))
        backward[-1] /= backward[-1].sum()
    means = []
    for k in range(COPIES):
        law = forward[k] * backward[COPIES - 1 - k]
        means.append((law / law.sum()) @ states)
    return field, torch.cat(means)


LARGE = {
    "exactly one": exactly_one,
    "equality": equality,
    "two of four": two_of_four,
    "hard matches": hard_matches,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_forty_joined_copies_are_moved_in_blocks(name: str, no_exact_draws: None) -> None:
    # Up to 240 means within 5 standard errors, α = 1.4e-4; a unit that is off by 0.02 is found.
    field, truth = copies_of(LARGE[name]())
    chains = sample(field, 1000, seed=3)
    assert isinstance(chains.kernel, Cycle)
    assert isinstance(chains.kernel.kernels[1], ConstraintBlocks)
    assert chains.attributes["tried"] == "as chosen: mixed"
    assert furthest(chains, {V: truth}) < 5


def copies_as_a_model() -> None:
    """Ten times three bits, exactly one of each three on."""
    odds = torch.tensor([1.0, 2.0, 3.0]).double().expand(10, 3)
    with pyro.plate("copies", 10):
        on = pyro.sample("on", dist.Bernoulli(odds / (1 + odds)).to_event(1))
        pyro.factor("one", torch.zeros(10).double().masked_fill(on.sum(-1) != 1, -INF))


@pytest.mark.slow
def test_units_of_a_model_that_are_tied_are_moved_together(no_exact_draws: None) -> None:
    energy = ModelEnergy(copies_as_a_model)
    torch.manual_seed(0)
    start = torch.nn.functional.one_hot(torch.randint(3, (32, 10)), 3).double()
    chains = sample(energy, 600, initial={"on": start}, warmup=100, seed=0)
    (_, blocks) = chains.kernel.kernels  # type: ignore[attr-defined]
    threes = [tuple(("on", 3 * k + j) for j in range(3)) for k in range(10)]
    assert sorted(blocks.groups) == threes
    assert chains.attributes["verdict"] == "mixed"
    truth = torch.tensor([1.0, 2.0, 3.0]).double().expand(10, 3) / 6
    assert furthest(chains, {"on": truth}) < 4.5  # of 30 means, α = 2e-4


def test_groups_are_found_where_random_starts_are_allowed() -> None:
    kernel = choose_kernel(ModelEnergy(one_as_a_model))
    assert isinstance(kernel, Cycle)
    (_, blocks) = kernel.kernels
    assert isinstance(blocks, RandomBlocks)
    assert blocks.groups == ((("on", 0), ("on", 1), ("on", 2)),)


def density_of_independent_sets(size: int, fugacity: float) -> float:
    """The share of occupied nodes of a torus, by powers of the matrix from row to row."""
    rows = [
        row
        for row in itertools.product((0, 1), repeat=size)
        if not any(row[k] and row[k - 1] for k in range(size))
    ]
    x = torch.tensor(rows).double()
    fits = (x @ x.mT == 0).double()

    def log_z(log_fugacity: Tensor) -> Tensor:
        half = (log_fugacity * x.sum(1) / 2).exp()
        return torch.linalg.matrix_power(half[:, None] * fits * half, size).trace().log()

    at = torch.tensor(math.log(fugacity), dtype=torch.float64)
    slope: Tensor = torch.func.grad(log_z)(at)
    return float(slope) / size**2


@pytest.mark.slow
@pytest.mark.parametrize("fugacity", [1.0, 1.5])
def test_independent_sets_of_a_torus_have_the_density_of_the_transfer_matrix(
    fugacity: float, no_exact_draws: None
) -> None:
    graph = nx.grid_2d_graph(8, 8, periodic=True)
    apart = where(lambda a, b: not (a and b), 2, 2)
    node = torch.tensor([[0.0, math.log(fugacity)]], dtype=torch.float64)
    field = RandomField.on_graph(graph, 2, node_table=node, edge_table=apart)
    chains = sample(field, 500, warmup=300, seed=4)
    assert chains.attributes["verdict"] == "mixed"
    share = chains.draws[V].double().mean(-1)
    error = float(share.std() / effective_sample_size(share).sqrt())
    assert float(share.mean()) == pytest.approx(
        density_of_independent_sets(8, fugacity), abs=4 * error
    )
    assert error < 0.001


def test_a_start_is_found_where_random_ones_hardly_ever_are_allowed() -> None:
    n = 60
    same = where(lambda a, b: a == b, 3, 3)
    line = RandomField([3] * n, {"same": TableFactors([[k, k + 1] for k in range(n - 1)], same)})
    chains = run(choose_kernel(line), line, 200, warmup=0, chains=16, seed=0)
    assert bool(chains.statistics["lp"].isfinite().all())
    assert {int(label) for label in chains.draws[V][:, 0, 0]} == {0, 1, 2}  # scattered
    assert (chains.draws[V].diff(dim=-1) == 0).all()


# --- exact draws ---------------------------------------------------------------------------------


def test_sixty_exact_draws_and_forty_more_are_a_hundred() -> None:
    field = exactly_one()
    whole = sample(field, 100, chains=8, seed=5)
    parts = resume(sample(field, 60, chains=8, seed=5), field, 40)
    assert torch.equal(whole.draws[V], parts.draws[V])
    assert torch.equal(whole.statistics["lp"], parts.statistics["lp"])
    assert diagnose(parts).verdict is Verdict.MIXED
    torch.testing.assert_close(
        -whole.statistics["lp"], field(whole.draws[V].double()), rtol=0, atol=1e-12
    )


def test_many_rounds_of_exact_draws_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_draws, "NUMBERS", 3 * 8 * 7)  # seven steps at a time
    field = exactly_one()
    whole = sample(field, 100, chains=8, seed=5)
    parts = resume(sample(field, 60, chains=8, seed=5), field, 40)
    assert torch.equal(whole.draws[V], parts.draws[V])
    distinct = whole.draws[V].unflatten(1, (-1, 10))
    assert not torch.equal(distinct[:, 0], distinct[:, 7])


def test_resumed_exact_draws_follow_the_parameters_as_they_are_then() -> None:
    machine = BoltzmannMachine.fully_visible(3)
    chains = sample(machine, 200, chains=16, seed=0)
    assert chains.attributes["picked"] == "ExactDraws()"
    with torch.no_grad():
        for parameter in machine.parameters():
            if parameter.dim() == 1:
                parameter.fill_(20.0)
    more = resume(chains, machine, 100)
    assert bool((more.draws[V][:, 200:] == 1).all())
    assert not bool((more.draws[V][:, :200] == 1).all())


def test_real_units_of_a_machine_are_drawn_exactly_where_they_can_be_summed_out() -> None:
    machine = BoltzmannMachine.restricted(4, 2)
    assert sample(machine, 20, seed=0).attributes["picked"] == "ExactDraws()"

    def model() -> None:
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z, 1.0))

    chains = sample(ModelEnergy(model), 100, chains=16, warmup=100, seed=0)
    assert "HMC" in str(chains.attributes["picked"])


def test_a_given_kernel_or_start_is_kept() -> None:
    field = exactly_one()
    start = torch.eye(3, dtype=torch.float64).repeat(6, 1)
    kernel = choose_kernel(field)
    assert sample(field, 100, kernel=kernel, seed=0).attributes["picked"] == repr(kernel)
    chains = sample(field, 100, initial=start, seed=0)
    assert "ConstraintBlocks" in str(chains.attributes["picked"])


def test_a_large_energy_is_not_summed() -> None:
    chains = sample(BoltzmannMachine.restricted(40, 30), 100, chains=16, warmup=5, seed=0)
    assert "Gibbs" in str(chains.attributes["picked"])


def test_several_laws_are_refused_before_exact_draws_too() -> None:
    rows = torch.eye(3).double()
    with pytest.raises(ValueError, match="3 laws"):
        sample(clamp(hard_matches(), torch.zeros(3, 6), mask=torch.arange(6) == 5) * rows[0].exp())


# --- what holds chains is named ------------------------------------------------------------------

BY_ONE = "the factor 'one' over the nodes (0, 1, 2)"
HELD: dict[str, tuple[Callable[[], Energy], Kernel, str]] = {
    "exactly one": (exactly_one, Gibbs(), BY_ONE),
    "equality": (equality, Gibbs(), "the factor 'same' over the nodes (0, 1)"),
    "hard matches": (hard_matches, Gibbs(), "the factor 'match' over the nodes (0, 1, 3)"),
    "two of four": (
        two_of_four,
        RandomBlocks(size=1),
        "the factor 'two' over the nodes (0, 1, 2, 3)",
    ),
    "half of it": (lambda: 0.5 * exactly_one(), Gibbs(), BY_ONE),
    "a function": (one_as_a_function, RandomBlocks(size=1), "the CallableEnergy"),
    "a model": (lambda: ModelEnergy(one_as_a_model), Gibbs(), "the term of the site 'one'"),
    "matches as a model": (
        lambda: ModelEnergy(matches_as_a_model),
        Gibbs(),
        "the term of the site 'match_0'",
    ),
    "a sum": (
        lambda: (
            ModelEnergy(one_as_a_model)
            + CallableEnergy(
                lambda x: x.sum(-1), {"on": Site(boolean, torch.Size([3]))}, dtype=torch.float64
            )
        ),
        RandomBlocks(size=1),
        "the term of the site 'one'",
    ),
}


def starts(energy: Energy, chains: int = 8) -> Any:
    """Where chains begin, of finite energy."""
    return energy.initial(chains) if isinstance(energy, ModelEnergy) else None


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * ("model" in name)) for name in HELD],
)
def test_held_chains_are_warned_of_by_name_and_judged_so(name: str) -> None:
    build, kernel, by = HELD[name]
    energy = build()
    torch.manual_seed(1)
    with pytest.warns(ForbiddenStatesWarning, match="every other value is forbidden") as caught:
        chains = run(kernel, energy, 300, warmup=50, chains=8, initial=starts(energy), seed=1)
    assert len(caught) == 1
    assert by in str(caught[0].message)
    assert "choose_kernel(energy)" in str(caught[0].message)
    for draws in (chains, chains.to_arviz()):
        diagnosis = diagnose(draws)
        assert diagnosis.verdict is Verdict.NOT_MIXED
        assert "every other value being forbidden" in diagnosis.summary
        assert by in diagnosis.summary
        assert "choose_kernel(energy)" in diagnosis.advice[0]
    assert by in repr(chains)
    # The cure that is named: no warning, which would be an error.
    cured = run(
        choose_kernel(energy),
        energy,
        400,
        warmup=100,
        initial=starts(energy, 16),
        chains=16,
        seed=2,
    )
    assert "pinned" not in cured.attributes
    assert diagnose(cured).verdict is not Verdict.NOT_MIXED


@pytest.mark.parametrize("kernel", [RandomBlocks(size=2), ParallelTempering(Gibbs(), 5)], ids=repr)
def test_the_other_cures_that_are_named_work(kernel: Kernel) -> None:
    chains = run(kernel, exactly_one(), 1000, warmup=200, chains=16, seed=3)
    assert "pinned" not in chains.attributes
    assert furthest(chains, JOBS["exactly one"].truth()) < 4


@pytest.mark.parametrize("lowest", [0.0, 0.1])
@pytest.mark.parametrize("name", JOBS)
def test_annealing_ends_at_the_mode_and_in_no_forbidden_state(name: str, lowest: float) -> None:
    energy = JOBS[name].energy()
    torch.manual_seed(3)
    found = anneal(energy, torch.linspace(lowest, 4, 100), chains=32, seed=3)
    assert bool(found.energy.isfinite().all())
    assert float(found.energy.min()) == pytest.approx(float(mode(energy).energy), abs=1e-9)


def test_descent_from_allowed_states_stays_among_them() -> None:
    field = exactly_one()
    found = descend(field, torch.eye(3).double())
    assert found.energy.tolist() == pytest.approx([0, -math.log(2), -math.log(3)])


def test_tempered_transitions_along_blocks_leave_the_law_unchanged() -> None:
    # 20,000 exact draws, α = 1e-6: it finds a probability that is off by 0.02.
    field = exactly_one()
    x = torch.eye(3).double()
    law = torch.tensor([1.0, 2.0, 3.0]).double() / 6
    torch.manual_seed(4)
    start = x[torch.multinomial(law, 20_000, replacement=True)]
    inner = Mixture((RandomBlocks(size=1), ConstraintBlocks()))
    kernel = TemperedTransitions(inner, (0.0, 0.3, 0.6, 1.0))
    state = advance(kernel, field, kernel.init(field, {V: start}), 4)
    assert chi_square(state.x[V].sum(0).numpy(), law.numpy()) > 1e-6
    assert not torch.equal(state.x[V], start)


def test_gibbs_in_tempered_transitions_of_a_function_is_refused_by_name() -> None:
    kernel = TemperedTransitions(Gibbs(), (0.0, 0.5, 1.0))
    with pytest.raises(TypeError, match="does not know"):
        kernel.init(one_as_a_function(), {V: torch.eye(3).double()})


def test_a_resumed_run_warns_again_and_forgets_what_no_longer_holds() -> None:
    field = exactly_one()
    with pytest.warns(ForbiddenStatesWarning):
        chains = run(Gibbs(), field, 200, warmup=10, seed=1)
    with pytest.warns(ForbiddenStatesWarning):
        again = resume(chains, field, 200)
    assert "pinned" in again.attributes
    free = RandomField([2] * 3, {"weight": weights(1, 2, 3)})
    assert "pinned" not in resume(chains, free, 200).attributes


QUIET: dict[str, Callable[[], Energy]] = {
    "independent sets": lambda: RandomField.on_graph(
        nx.grid_2d_graph(4, 4),
        2,
        node_table=torch.zeros(1, 2),
        edge_table=torch.tensor([[[0.0, 0.0], [0.0, -INF]]]),
    ),
    "a node with one label": lambda: RandomField(
        [2] * 2,
        {
            "known": TableFactors([[0]], torch.tensor([[-INF, 0.0]])),
            "same": TableFactors([[0, 1]], where(lambda a, b: a == b, 2, 2).float()),
        },
    ),
    "sequences of unequal length": lambda: RandomField.chain(
        torch.zeros(1, 5, 2), torch.zeros(1, 2, 2), lengths=torch.tensor([3])
    ),
    "a machine that is frozen": lambda: BoltzmannMachine.on_graph(
        nx.path_graph(2), couplings=torch.tensor([60.0]), biases=torch.full((2,), -30.0)
    ),
}


@pytest.mark.parametrize("name", QUIET)
def test_nothing_is_said_of_what_is_only_rare_or_known(name: str) -> None:
    energy = QUIET[name]()
    chains = run(Gibbs(), energy, 300, warmup=20, chains=6, seed=2)  # a warning is an error
    assert "pinned" not in chains.attributes


def threshold() -> None:
    """A real site whose likelihood is −∞ outside of what a bit says."""
    z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3).double()))
    w = pyro.sample("w", dist.Normal(torch.tensor(0.0).double(), 1.0))
    pyro.factor("side", torch.zeros(()).double().masked_fill((w > 0) != (z > 0), -INF))


def test_where_another_latent_site_forbids_it_is_told_too() -> None:
    # P(z = 1) is .3, and w > 0 with it: neither moves over zero alone.
    energy = ModelEnergy(threshold)
    torch.manual_seed(0)
    start = energy.initial(12)
    assert 0 < float(start["z"].mean()) < 1
    kernel = Cycle((Gibbs(("z",)), RandomWalk(("w",), scale=0.8)))
    with pytest.warns(ForbiddenStatesWarning, match="z: .* by the term of the site 'side'"):
        chains = run(kernel, energy, 400, warmup=50, initial=start, seed=1)
    diagnosis = diagnose(chains)
    assert diagnosis.verdict is Verdict.NOT_MIXED
    assert "the term of the site 'side'" in diagnosis.summary


@pytest.mark.slow
def test_sample_says_it_once_where_nothing_helps(no_exact_draws: None) -> None:
    energy = ModelEnergy(threshold)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chains = sample(energy, 150, chains=12, warmup=50, seed=1)
    kinds = [w.category for w in caught]
    assert ForbiddenStatesWarning not in kinds
    if chains.attributes["verdict"] != "mixed":
        assert kinds.count(NotMixedWarning) == 1


def test_labels_of_many_values_have_blocks_that_can_be_drawn() -> None:
    site = Site(constraints.integer_interval(0, 19), torch.Size([3]))
    energy = CallableEnergy(lambda x: x.sum(-1) / 10, {V: site})
    kernel = choose_kernel(energy)
    assert isinstance(kernel, RandomBlocks)
    assert kernel.size == 2
    chains = run(kernel, energy, 100, warmup=20, seed=0)
    assert chains.draws[V].shape == (4, 100, 3)
