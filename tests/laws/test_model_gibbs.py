"""Gibbs on the discrete sites of Pyro models: exact matrices, and which elements go together."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_ebm.energies import ModelEnergy, UnbatchedModelWarning
from pyro_ebm.energies.pyro_models import dependence
from pyro_ebm.energies.pyro_models.laws import ModelLaws
from pyro_ebm.energies.pyro_models.recording import Graph
from pyro_ebm.kernels import HMC, Cycle, Gibbs, Kernel, advance, run
from pyro_ebm.sites import Sites
from pyro_ebm.units import FiniteLaw
from tests.support.discrete import block_error, error, states
from tests.support.goodness import ALPHA, chi_square
from tests.support.models import CASES, Case, numbers, real, vector

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


def proved_anyway(*_: object) -> None:
    """No operation mixes elements."""


def without_probes(*_: object) -> bool:
    """No probe objects."""
    return True


right_reach = dependence.Prober.reach
ANYWAY = {"obstacle": proved_anyway, "is_local": without_probes}
PLANTED: list[tuple[dict[str, object], str, str]] = [
    ({"reach": parallel_anyway}, "sum over a plate", "bit"),
    ({"reach": parallel_anyway}, "ring in a plate", "bit"),
    (ANYWAY, "ring in a plate", "bit"),
    ({"reach": own_term_only}, "nested plates", "group"),
    ({"reach": own_term_only}, "two that depend", "first"),
    ({"reach": own_term_only}, "in place", "bit"),
]


@pytest.mark.parametrize(("faults", "name", "site"), PLANTED)
def test_a_fault_in_the_dependences_is_found(
    faults: dict[str, object], name: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what, fault in faults.items():
        monkeypatch.setattr(dependence.Prober, what, fault)
    energy = energy_of(CASES[name])
    x = {n: v[0] for n, v in energy.initial(1).items()}
    found = states(CASES[name], energy, (site,), x)
    assert error(energy, found) > 1e-4


@pytest.mark.parametrize("witness", ["the record", "probes"])
def test_assignments_in_place_are_seen_by_each_witness(
    witness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if witness == "the record":
        monkeypatch.setattr(
            dependence.Prober, "moved", lambda _, values: dict.fromkeys(values, frozenset())
        )
    else:
        monkeypatch.setattr(Graph, "dependences", lambda _: {})
    assert energy_of(CASES["in place"]).discrete_site("bit").terms == {"bit", "seen"}


@pytest.mark.parametrize("witness", ["obstacle", "is_local"])
def test_a_ring_is_seen_by_each_witness(witness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependence.Prober, witness, ANYWAY[witness])
    assert len(energy_of(CASES["ring in a plate"]).blocks("bit")) == 4


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


# --- the models of NumPyro's tests of its discrete Gibbs, at the tolerances there ----------------


def bits_and_a_count() -> None:
    pyro.sample("x", dist.Bernoulli(0.7).expand([3]).to_event(1))
    pyro.sample("y", dist.Binomial(10, torch.tensor(0.3)))


def enumerated_and_drawn() -> None:
    pyro.sample("x", dist.Bernoulli(0.7), infer={"enumerate": "parallel"})
    y = pyro.sample("y", dist.Binomial(10, torch.tensor(0.3)))
    pyro.deterministic("y2", y**2)


def a_bit_and_an_improper_number() -> None:
    pyro.sample("c", dist.Bernoulli(real(0.8)))
    pyro.sample("u", dist.ImproperUniform(dist.constraints.unit_interval, (), ()))


COMPONENTS, LOCATIONS = [0.15, 0.3, 0.3, 0.25], [-2.0, 0, 2, 4]


def mixture() -> None:
    c = pyro.sample("c", dist.Categorical(vector(COMPONENTS)))
    pyro.sample("x", dist.Normal(vector(LOCATIONS)[c], 0.5))


def draw_bits_and_a_count(n: int) -> Sites:
    return {"x": (torch.rand(n, 3) < 0.7).float(), "y": (torch.rand(n, 10) < 0.3).sum(1).float()}


def draw_a_count(n: int) -> Sites:
    return {"y": (torch.rand(n, 10) < 0.3).sum(1).float()}


def draw_a_bit_and_a_number(n: int) -> Sites:
    return {"c": (torch.rand(n) < 0.8).double(), "u": torch.rand(n).double()}


def draw_mixture(n: int) -> Sites:
    c = torch.multinomial(vector(COMPONENTS), n, replacement=True)
    return {"c": c, "x": vector(LOCATIONS)[c] + 0.5 * torch.randn(n).double()}


@dataclass(frozen=True)
class Numbers:
    """A model of which every marginal law is known.

    Args:
        model: The model.
        draw: So many independent draws, by hand.
        kernel: What moves it.
        laws: By site the probabilities of 0, 1, …, or the distribution function.
        moments: By site the mean, and how far from it may be what is found.
    """

    model: Callable[[], None]
    draw: Callable[[int], Sites]
    kernel: Kernel
    laws: dict[str, list[float] | Callable[[np.ndarray], np.ndarray]]
    moments: dict[str, tuple[float, float]]


COUNT = stats.binom(10, 0.3).pmf(range(11)).tolist()
NUMPYRO = {
    "bits and a count": Numbers(
        bits_and_a_count,
        draw_bits_and_a_count,
        Gibbs(),
        {"x": [0.3, 0.7], "y": COUNT},
        {"x": (0.7, 0.01), "y": (3, 0.1)},
    ),
    "a count beside an enumerated site": Numbers(
        enumerated_and_drawn, draw_a_count, Gibbs(), {"y": COUNT}, {"y": (3, 0.1)}
    ),
    "a bit and an improper number": Numbers(
        a_bit_and_an_improper_number,
        draw_a_bit_and_a_number,
        Cycle((Gibbs(("c",)), HMC(("u",), step_size=0.8, trajectory_length=1.6))),
        {"c": [0.2, 0.8], "u": stats.uniform.cdf},
        {"c": (0.8, 0.05), "u": (0.5, 0.05)},
    ),
    "mixture": Numbers(
        mixture,
        draw_mixture,
        Cycle((Gibbs(("c",)), HMC(("x",), step_size=0.4, trajectory_length=1.2))),
        {
            "c": COMPONENTS,
            "x": lambda x: np.dot(COMPONENTS, stats.norm.cdf((x - np.c_[LOCATIONS]) / 0.5)),
        },
        {"c": (1.65, 0.1), "x": (1.3, 0.1)},
    ),
}


def p_value(numbers: Numbers, chains: int = 20_000) -> tuple[float, Sites]:
    """The least p-value of all looks after 1, 4 and 16 steps, times their number; the last values.

    With 20,000 chains a difference of 0.04 between two distribution functions is found.
    """
    energy = ModelEnergy(numbers.model)
    state = numbers.kernel.init(energy, energy.unconstrain(numbers.draw(chains)))
    found = []
    for steps in (1, 3, 12):
        state = advance(numbers.kernel, energy, state, steps)
        values = energy.constrain(state.x)
        for site, law in numbers.laws.items():
            flat = values[site].flatten().numpy()
            if callable(law):
                found.append(stats.kstest(flat, law).pvalue)
            else:
                counts = np.bincount(flat.astype(int), minlength=len(law))
                found.append(chi_square(counts, np.array(law)))
    return min(found) * len(found), values


@pytest.mark.parametrize("name", NUMPYRO)
def test_exact_draws_of_numpyros_models_stay_exact(name: str) -> None:
    p, last = p_value(NUMPYRO[name])
    assert p > ALPHA
    for site, (mean, tolerance) in NUMPYRO[name].moments.items():
        assert last[site].double().mean().item() == pytest.approx(mean, abs=tolerance)
    if name == "mixture":
        assert last["x"].var().item() == pytest.approx(4.36, abs=0.4)
        assert last["c"].double().var().item() == pytest.approx(1.03, abs=0.1)


def test_a_wrong_weight_of_the_mixture_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that see the number through twice its noise."""
    right = ModelLaws.conditional
    monkeypatch.setattr(
        ModelLaws,
        "conditional",
        lambda *args: FiniteLaw((law := right(*args)).values, law.logits / 4),
    )
    assert p_value(NUMPYRO["mixture"])[0] < ALPHA


@pytest.mark.parametrize("name", ["bits and a count", "a count beside an enumerated site"])
def test_gibbs_finds_the_law_of_a_count_from_anywhere(name: str) -> None:
    energy = ModelEnergy(NUMPYRO[name].model)
    chains = run(Gibbs(), energy, draws=2, warmup=1, chains=20_000)
    assert list(energy.sites) == list(NUMPYRO[name].laws)
    assert all(value.dtype == torch.int8 for value in chains.draws.values())
    counts = torch.bincount(chains.draws["y"][:, -1].int(), minlength=11).numpy()
    assert chi_square(counts, np.array(COUNT)) > ALPHA


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
