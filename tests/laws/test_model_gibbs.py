"""Gibbs on the discrete sites of Pyro models: exact matrices, and which elements go together."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_ebm.energies import ModelEnergy, UnbatchedModelWarning, dependence
from pyro_ebm.energies.finite import FiniteLaw
from pyro_ebm.kernels import Gibbs, Schedule, run
from tests.discrete import block_error, error, states
from tests.goodness import ALPHA, chi_square
from tests.models import CASES, Case, numbers, real

LIMIT = 1e-12

# By case and discrete site, how many blocks of how many elements: what is drawn at once.
BLOCKS = {
    ("nested plates", "group"): (1, 2),
    ("nested plates", "member"): (1, 4),
    ("sum over a plate", "bit"): (4, 1),
    ("ring in a plate", "bit"): (4, 1),
    ("vector sites", "bits"): (2, 1),
    ("vector sites", "labels"): (2, 2),  # the two of a vector in turn, for both plate elements
    ("vector sites", "hot"): (1, 2),
    ("two that depend", "first"): (1, 1),
    ("two that depend", "second"): (1, 1),
    ("counts", "some"): (1, 2),
    ("counts", "total"): (1, 1),
    ("a bit bounds a real", "bit"): (1, 2),
    ("one summed, one drawn", "first"): (1, 1),
    ("one summed, one drawn", "second"): (1, 1),
    ("in place", "bit"): (1, 1),
    ("branch", "bit"): (1, 1),
    ("branch", "other"): (2, 1),
}
JOINT = ["nested plates", "two that depend", "counts", "one summed, one drawn", "branch"]


def energy_of(case: Case) -> ModelEnergy:
    with warnings.catch_warnings():
        if not case.batched:
            warnings.simplefilter("ignore", UnbatchedModelWarning)
        return ModelEnergy(case.model, *case.args)


def test_every_discrete_site_is_in_the_table() -> None:
    found = {(name, s) for name, case in CASES.items() for s in energy_of(case).discrete}
    assert found == set(BLOCKS)


@pytest.mark.parametrize(("name", "site"), BLOCKS)
def test_elements_go_together_where_they_are_independent(name: str, site: str) -> None:
    energy = energy_of(CASES[name])
    blocks = energy.blocks(site)
    sizes = {len(block) for block in blocks}
    assert (len(blocks), *sizes) == BLOCKS[name, site]
    every = torch.cat([block.flatten() for block in blocks]).sort().values
    assert torch.equal(every, torch.arange(energy.sites[site].shape.numel()))


@pytest.mark.parametrize(("name", "site"), BLOCKS)
def test_a_site_is_left_in_its_law(name: str, site: str) -> None:
    energy = energy_of(CASES[name])
    starts = energy.initial(2)
    for k in range(2):
        found = states(CASES[name], energy, (site,), {n: v[k] for n, v in starts.items()})
        assert error(energy, found) < LIMIT
        assert block_error(energy, found, site) < 1e-9


@pytest.mark.parametrize("name", JOINT)
def test_a_sweep_over_all_sites_leaves_their_joint_law(name: str) -> None:
    energy = energy_of(CASES[name])
    x = {n: v[0] for n, v in energy.initial(1).items()}
    found = states(CASES[name], energy, energy.discrete, x)
    assert error(energy, found) < LIMIT


# --- planted faults ------------------------------------------------------------------------------


def parallel_anyway(prober: dependence.Prober, site: str, *_: object) -> dependence.Reach:
    """All elements of all plates at once."""
    right = right_reach(prober, site, *_)  # type: ignore[arg-type]
    return right._replace(parallel=tuple(sorted(prober.plates_of(site).values())))


def own_term_only(prober: dependence.Prober, site: str, *_: object) -> dependence.Reach:
    """What is downstream is forgotten."""
    right = right_reach(prober, site, *_)  # type: ignore[arg-type]
    return right._replace(terms=frozenset({site}))


def without_probes(prober: dependence.Prober, *_: object) -> bool:
    """What provenance says of a plate is believed."""
    return True


right_reach = dependence.Prober.reach
PLANTED = [
    ("reach", parallel_anyway, "sum over a plate", "bit"),
    ("reach", parallel_anyway, "ring in a plate", "bit"),
    ("is_local", without_probes, "ring in a plate", "bit"),
    ("reach", own_term_only, "nested plates", "group"),
    ("reach", own_term_only, "two that depend", "first"),
    ("reach", own_term_only, "in place", "bit"),
]


@pytest.mark.parametrize(("what", "fault", "name", "site"), PLANTED)
def test_a_fault_in_the_dependences_is_found(
    what: str, fault: object, name: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependence.Prober, what, fault)
    energy = energy_of(CASES[name])
    x = {n: v[0] for n, v in energy.initial(1).items()}
    found = states(CASES[name], energy, (site,), x)
    assert error(energy, found) > 1e-4


def test_assignments_in_place_are_seen_by_probes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    right = energy_of(CASES["in place"]).discrete_site("bit").terms
    assert right == {"bit", "seen"}
    monkeypatch.setattr(dependence.Prober, "moved", lambda *_: ({}, set()))
    assert energy_of(CASES["in place"]).discrete_site("bit").terms == {"bit"}


# --- the law on listed values --------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5])
def test_draws_of_a_finite_law_follow_it(count: int) -> None:
    logits = numbers(count, seed=20)
    logits[1] = -math.inf
    values = torch.arange(count).double() * 2 - 3
    law = FiniteLaw(values, logits.expand(3, count))
    draws = law.sample(torch.Size([20_000]))
    assert draws.shape == (20_000, 3)
    for column in draws.T:
        counts = (column[:, None] == values).sum(0).numpy()
        assert chi_square(counts, logits.softmax(0).numpy()) > ALPHA
    assert torch.allclose(law.log_prob(law.enumerate_support()), law.logits.T)
    assert law.log_prob(torch.tensor(17.0)).tolist() == [-math.inf] * 3
    assert torch.allclose(law.mean, (logits.softmax(0) * values).sum().expand(3))


def test_a_finite_law_of_vectors() -> None:
    law = FiniteLaw(torch.eye(3).double(), numbers(4, 3, seed=21))
    draws = law.sample(torch.Size([7]))
    assert draws.shape == (7, 4, 3)
    assert bool((draws.sum(-1) == 1).all())
    assert torch.allclose(
        law.log_prob(draws), law.logits.expand(7, 4, 3)[draws.bool()].reshape(7, 4)
    )
    assert bool(law.support.check(draws).all())
    assert not bool(law.support.check(torch.zeros(3)))
    assert torch.allclose(law.expand([2, 4]).mean[0], law.mean)


# --- NumPyro's models for its own discrete Gibbs -------------------------------------------------


def bits_and_a_count() -> None:
    pyro.sample("x", dist.Bernoulli(0.7).expand([3]).to_event(1))
    pyro.sample("y", dist.Binomial(10, torch.tensor(0.3)))


def enumerated_and_drawn() -> None:
    pyro.sample("x", dist.Bernoulli(0.7), infer={"enumerate": "parallel"})
    y = pyro.sample("y", dist.Binomial(10, torch.tensor(0.3)))
    pyro.deterministic("y2", y**2)


def test_bits_and_a_count() -> None:
    chains = run(Gibbs(), ModelEnergy(bits_and_a_count), Schedule(warmup=1, draws=2), chains=20_000)
    last = {name: value[:, -1] for name, value in chains.draws.items()}
    assert last["x"].dtype == last["y"].dtype == torch.int8
    assert last["x"].double().mean(0).tolist() == pytest.approx([0.7] * 3, abs=0.02)
    assert last["y"].double().mean().item() == pytest.approx(3, abs=0.1)
    counts = torch.bincount(last["y"].int(), minlength=11).numpy()
    assert chi_square(counts, stats.binom(10, 0.3).pmf(range(11))) > ALPHA


def test_a_count_beside_an_enumerated_site() -> None:
    energy = ModelEnergy(enumerated_and_drawn)
    assert list(energy.sites) == ["y"]
    chains = run(Gibbs(), energy, Schedule(warmup=1, draws=2), chains=20_000)
    counts = torch.bincount(chains.draws["y"][:, -1].int(), minlength=11).numpy()
    assert chi_square(counts, stats.binom(10, 0.3).pmf(range(11))) > ALPHA


# --- what is refused -----------------------------------------------------------------------------


def test_a_site_without_listed_values_is_refused_at_the_door() -> None:
    def model() -> None:
        rate = pyro.sample("rate", dist.Gamma(real(2.0), real(1.0)))
        pyro.sample("count", dist.Poisson(rate))

    energy = ModelEnergy(model)
    for site, message in (("count", "MetropolisHastings"), ("rate", "is real")):
        with pytest.raises(ValueError, match=message):
            Gibbs((site,)).init(energy, energy.initial(2))


def test_a_block_must_be_named_where_there_are_several() -> None:
    energy = energy_of(CASES["sum over a plate"])
    with pytest.raises(ValueError, match="'bit' has 4 blocks"):
        energy.conditional("bit", energy.initial(2))
