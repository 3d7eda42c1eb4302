"""The gradients of the learning rules are the ones in the books.

A gradient of a mean energy is linear in the law that the mean is over, so every rule is told by two
laws over the joint states of a small machine: that of its positive and that of its negative phase.
Both are computed here by plain sums over enumerated states. What a rule draws is enumerated too,
where that is possible: `Unit.sample` follows a script of outcomes, each weighted by its
probability. Right code is off by 1e-14; the limit is 1e-10.

The statistical tests have α = 1e-6 each, divided among the numbers that they compare (Bonferroni),
and independent chains from exact draws, so the errors of the means are known. With N chains they
find a shift of a statistic by 6.5 of its standard deviations over √N.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from statistics import NormalDist
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_ebm.energies import BoltzmannMachine, PairwiseTerms
from pyro_ebm.energies.pairwise.links import SymmetricLink
from pyro_ebm.kernels import Gibbs
from pyro_ebm.learning import (
    ContrastiveDivergence,
    ExactLikelihood,
    ExactPosterior,
    MeanField,
    Objective,
    PersistentContrastiveDivergence,
    PositivePhase,
    SampledPosterior,
    mean_field,
)
from pyro_ebm.learning.objectives import contrastive, likelihood
from pyro_ebm.learning.objectives.contrastive import ChainState
from pyro_ebm.learning.posterior.positive_phase import Posterior
from pyro_ebm.partition import exact
from pyro_ebm.sites import Sites
from pyro_ebm.units import Unit
from tests.support.machines import (
    BIT,
    DEEP,
    FINITE,
    FOUR,
    GENERAL,
    HH,
    LEVELS,
    SEMI,
    SMALL,
    SPIN,
    THREE,
    VH,
    VV,
    H,
    Small,
    V,
    deep,
    draw,
    fully_visible,
    index_of,
    pairs_above,
    restricted,
    ring_edges,
    states_of,
    width,
)
from tests.support.transitions import Script, by_definition, forced

Gradient = dict[str, np.ndarray]  # by parameter name
LIMIT = 1e-10
ALPHA = 1e-6

# --- gradients by brute force --------------------------------------------------------------------


def learned(small: Small) -> BoltzmannMachine:
    return small.machine(wrap=nn.Parameter)


def statistics(small: Small) -> Gradient:  # (states, *shape) by parameter
    """−∂E/∂θ of all states, from the formula of the energy."""
    features = small.features(small.states)
    found = {f"layers.{site}.bias": x for site, x in features.items()}
    shifted = {site: x - small.offset.get(site, 0.0) for site, x in features.items()}
    for pair, weight in small.couplings.items():
        first, second = (shifted[site] for site in pair)
        name = f"couplings.{'_'.join(pair)}.weight"
        if pair in small.edges:
            i, j = small.edges[pair].T
            products = first[:, i] * second[:, j]
            found[name] = products if len(weight) > 1 else products.sum(1, keepdims=True)
            continue
        products = first[:, :, None] * second[:, None]
        # Inside a layer the parameters are the pairs i < j of units.
        above = pairs_above(products.shape[-1], width(small.units[pair[0]]))
        found[name] = products * above if pair[0] == pair[1] else products
    return found


def between(small: Small, positive: np.ndarray, negative: np.ndarray) -> Gradient:
    """The gradient of E_positive[E] − E_negative[E], from two laws over the joint states."""
    return {
        name: np.tensordot(negative - positive, value, 1)
        for name, value in statistics(small).items()
    }


def number_of(small: Small, rows: Mapping[str, np.ndarray]) -> np.ndarray:  # (rows, states) of bool
    """Which joint states have the observed values of each row."""
    return np.stack(
        [
            np.all([(small.states[s] == v[r]).all(1) for s, v in rows.items()], axis=0)
            for r in range(len(next(iter(rows.values()))))
        ]
    )


def exact_posterior(small: Small, rows: Mapping[str, np.ndarray]) -> np.ndarray:  # (rows, states)
    """p(hidden | observed) of each row, as laws over the joint states."""
    p = number_of(small, rows) * small.probabilities
    return p / p.sum(1, keepdims=True)


def independent(
    small: Small, rows: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray]
) -> np.ndarray:  # (rows, states)
    """The law of independent hidden units with these means, beside the observed values."""
    q = number_of(small, rows).astype(float)
    for site, mean in means.items():
        unit = small.units[site]
        if width(unit) > 1:
            chosen = small.features({site: small.states[site]})[site] * mean[:, None]
            q *= chosen.reshape(*chosen.shape[:-1], -1, width(unit)).sum(-1).prod(-1)
            continue
        low, high = LEVELS[unit]
        up = ((mean - low) / (high - low))[:, None]
        q *= np.where(small.states[site] == high, up, 1 - up).prod(-1)
    return q


def gradient(loss: Tensor, machine: BoltzmannMachine) -> Gradient:
    named = dict(machine.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        name: np.zeros(value.shape) if g is None else g.numpy()
        for (name, value), g in zip(named.items(), found, strict=True)
    }


def distance(found: Gradient, wanted: Gradient) -> float:
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[name] - wanted[name]).max(initial=0.0)) for name in wanted)


def data_for(
    small: Small, observed: tuple[str, ...] = (V,), rows: int = 7
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Some rows, with weights that sum to 1."""
    rng = np.random.default_rng(11)
    sizes = {site: small.sizes[site] for site in observed}
    table = states_of(small.units, sizes)
    chosen = rng.integers(len(next(iter(table.values()))), size=rows)
    weights = rng.uniform(0.1, 1.0, rows)
    return {site: value[chosen] for site, value in table.items()}, weights / weights.sum()


def as_sites(rows: Mapping[str, np.ndarray]) -> Sites:
    return {site: torch.tensor(value) for site, value in rows.items()}


# --- exact likelihood ----------------------------------------------------------------------------

OBSERVED = [
    (name, observed)
    for name, small in FINITE.items()
    for observed in (
        [(site,) for site in small.units] + ([tuple(small.units)] if len(small.units) > 1 else [])
    )
]


def likelihood_errors(
    small: Small, observed: tuple[str, ...], weights: Callable[[np.ndarray], np.ndarray | None]
) -> tuple[float, float]:
    """How far value and gradient of the exact likelihood are off."""
    machine = learned(small)
    rows, drawn = data_for(small, observed)
    given = weights(drawn)
    shares = np.full(len(drawn), 1 / len(drawn)) if given is None else given / given.sum()
    loss, *_ = ExactLikelihood().loss(
        machine, as_sites(rows), None, None if given is None else torch.tensor(given)
    )
    value = -shares @ np.log((number_of(small, rows) * small.probabilities).sum(1))
    wanted = between(small, shares @ exact_posterior(small, rows), small.probabilities)
    return abs(loss.item() - value), distance(gradient(loss, machine), wanted)


@pytest.mark.parametrize(("name", "observed"), OBSERVED)
def test_exact_likelihood_and_its_gradient(name: str, observed: tuple[str, ...]) -> None:
    assert max(likelihood_errors(FINITE[name], observed, lambda w: None)) < LIMIT


@pytest.mark.parametrize("name", FINITE)
def test_exact_likelihood_of_weighted_rows(name: str) -> None:
    observed = tuple(FINITE[name].units)[:1]
    assert max(likelihood_errors(FINITE[name], observed, lambda w: 3 * w)) < LIMIT


# --- contrastive divergence, every path of it ----------------------------------------------------

TINY = {
    "restricted 3-2": draw("r32", {V: (BIT, 3), H: (BIT, 2)}, [VH], build=restricted, offsets=True),
    "restricted 2-1": draw("r21", {V: (BIT, 2), H: (BIT, 1)}, [VH], build=restricted),
    "spins 2-2": draw("s22", {V: (SPIN, 2), H: (SPIN, 2)}, [VH], build=restricted),
    "semi-restricted 3-2": draw(
        "sr32", {V: (BIT, 3), H: (BIT, 2)}, [VH, VV], build=SEMI, offsets=True
    ),
    "semi-restricted 2-1": draw("sr21", {V: (BIT, 2), H: (SPIN, 1)}, [VH, VV], build=SEMI),
    "fully visible 3": draw("fv3", {V: (BIT, 3)}, [VV], build=fully_visible, any_square=True),
    "general 2-2": draw(
        "g22", {V: (BIT, 2), H: (BIT, 2)}, [VH, VV, HH], build=GENERAL, offsets=True
    ),
    "deep 2-1-2": draw(
        "d212", {V: (BIT, 2), "hidden1": (BIT, 1), "hidden2": (BIT, 2)}, DEEP, build=deep
    ),
    "graph 4": draw("gr4", {V: (SPIN, 4)}, edges={VV: ring_edges(4)}),
    "labels 2-1": draw("l21", {V: (THREE, 2), H: (FOUR, 1)}, [VH], build=restricted, offsets=True),
    "labels and bits 2-2": draw("lb22", {V: (THREE, 2), H: (BIT, 2)}, [VH], build=restricted),
    "coupled labels 2-1": draw(
        "cl21", {V: (THREE, 2), H: (THREE, 1)}, [VH, VV], build=SEMI, any_square=True
    ),
    "hidden labels 1-2": draw("hl12", {V: (BIT, 1), H: (THREE, 2)}, [VH, HH], offsets=True),
}


def small_enough(name: str) -> bool:
    """Whether two sweeps have few enough outcomes."""
    return name not in ("deep 2-1-2", "general 2-2", "labels 2-1", "hidden labels 1-2")


CD = [
    *((name, 1) for name in TINY),
    *((name, 2) for name in TINY if small_enough(name)),
    ("restricted 2-1", 5),
    ("semi-restricted 2-1", 5),
    ("fully visible 3", 5),
]


class Path:
    """Scripts of draws, one after another."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts

    def sample(self, unit: Unit, field: Tensor) -> Tensor:
        """In place of `Unit.sample`."""
        script = next(s for s in self.scripts if s.next < len(s.visits))
        return script.sample(unit, field)


def whole_layers(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The visits of draws that take the units of each layer together."""
    return [(site, unit) for site, size in sizes.items() for unit in range(size)]


def every_path(
    small: Small, machine: BoltzmannMachine, steps: int, rows: int, *, to_the_end: bool
) -> tuple[int, Path]:
    """All outcomes of the hidden units' first draw and of the sweeps after it, for every row.

    Args:
        small: The machine's numbers.
        machine: The machine.
        steps: The number of sweeps.
        rows: The number of rows.
        to_the_end: Whether the last sweep draws the hidden units, too.

    Returns:
        The number of outcomes, and the path; its batch is rows times outcomes, rows slowest.
    """
    hidden = {site: size for site, size in small.sizes.items() if site != V}
    last = small.sizes if to_the_end else {V: small.sizes[V]}
    parts = ([hidden] if hidden else []) + [small.sizes] * (steps - 1) + [last]
    tables = [as_sites(states_of(small.units, sizes)) for sizes in parts]
    counts = [len(next(iter(table.values()))) for table in tables]
    total = math.prod(counts)
    number, scripts = torch.arange(total).repeat(rows), []
    for table, count in zip(tables, counts, strict=True):
        outcome = {site: value[number % count] for site, value in table.items()}
        number = number // count
        scripts.append(Script(machine, tuple(table), outcome))
    if hidden:
        scripts[0].visits = whole_layers(hidden)
    return total, Path(scripts)


def cd_gradient(name: str, steps: int, kernel: Gibbs | None = None) -> tuple[Gradient, Gradient]:
    """The expected gradient of CD-k: by the code, over every path, and by the power of a matrix."""
    small = TINY[name]
    machine = learned(small)
    everything = states_of(small.units, {V: small.sizes[V]})
    count = len(everything[V])
    shares = np.random.default_rng(3).uniform(0.1, 1.0, count)
    shares /= shares.sum()
    objective = ContrastiveDivergence(steps, choose(small), kernel)
    # Uncoupled hidden units are left at their means, unless the kernel is one's own.
    to_the_end = kernel is not None or isinstance(choose(small), MeanField)
    paths = functools.partial(every_path, small, machine, steps, count, to_the_end=to_the_end)
    total, path = paths()
    repeated = {V: torch.tensor(everything[V]).repeat_interleave(total, 0)}
    state = objective.init(machine, repeated)
    with forced(path):
        objective.loss(machine, repeated, state)
    assert all(script.next == len(script.visits) for script in path.scripts)
    log_prob = sum(script.log_prob for script in path.scripts)
    weights = torch.tensor(shares).repeat_interleave(total) * log_prob.exp()
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    with forced(paths()[1]):
        loss, *_ = objective.loss(machine, repeated, state, weights)

    start = shares @ posterior(small, everything)
    matrix = by_definition(small.machine(), Gibbs(), small).numpy()
    negative = start @ np.linalg.matrix_power(matrix, steps)
    return gradient(loss, machine), between(small, start, negative)


def choose(small: Small) -> PositivePhase:
    hidden = {site for site in small.units if site != V}
    coupled = any(set(pair) <= hidden for pair in small.couplings)
    return MeanField(tolerance=1e-13, max_sweeps=3000) if coupled else ExactPosterior()


def posterior(small: Small, rows: Mapping[str, np.ndarray]) -> np.ndarray:  # (rows, states)
    """The law of the positive phase over the joint states: exact, or mean field by brute force."""
    if isinstance(choose(small), ExactPosterior):
        return exact_posterior(small, rows)
    found = mean_field(small.machine(), as_sites(rows), tolerance=1e-13, max_sweeps=3000)
    return independent(small, rows, {site: mean.numpy() for site, mean in found.means.items()})


@pytest.mark.parametrize("kernel", [None, Gibbs()], ids=["default", "one's own"])
@pytest.mark.parametrize(("name", "steps"), CD)
def test_the_expected_gradient_of_cd_is_that_of_a_power_of_the_transition_matrix(
    name: str, steps: int, kernel: Gibbs | None
) -> None:
    found, wanted = cd_gradient(name, steps, kernel)
    assert distance(found, wanted) < LIMIT


@pytest.mark.parametrize("name", ["semi-restricted 2-1", "fully visible 3"])
def test_cd_is_biased_and_less_so_with_more_steps(name: str) -> None:
    small = TINY[name]
    everything = states_of(small.units, {V: small.sizes[V]})
    shares = np.random.default_rng(3).uniform(0.1, 1.0, len(everything[V]))
    shares /= shares.sum()
    exactly = between(small, shares @ exact_posterior(small, everything), small.probabilities)
    bias = [distance(cd_gradient(name, steps)[0], exactly) for steps in (1, 2, 5)]
    assert bias[0] > bias[1] > bias[2] > 1e-6


# --- persistent chains ---------------------------------------------------------------------------

VARIED = [
    name
    for name, small in FINITE.items()
    if V in small.units and name not in ("one unit", "one label")
]
LARGER = {
    "general 8-6": draw("g86", {V: (BIT, 8), H: (BIT, 6)}, [VH, VV, HH], build=GENERAL),
    "deep 6-4-4": draw(
        "d644", {V: (BIT, 6), "hidden1": (BIT, 4), "hidden2": (BIT, 4)}, DEEP, build=deep
    ),
    "labels 3-4": draw("l34", {V: (THREE, 3), H: (THREE, 4)}, [VH, VV, HH], build=GENERAL),
}


def number(small: Small, x: Sites) -> Tensor:
    """Of the joint states of a machine's sites, in whatever order they come."""
    return index_of({site: x[site] for site in small.units}, small.units)


def chain_law(small: Small, x: Sites) -> np.ndarray:  # (states,)
    """The law of the negative phase: the chains' states, uncoupled hidden units given the rest."""
    counts = np.bincount(number(small, x), minlength=len(small.energies))
    if isinstance(choose(small), ExactPosterior):
        rows = {V: x[V].numpy()}
        return exact_posterior(small, rows).mean(0)
    return counts / counts.sum()


def pcd_error(small: Small, steps: int = 2, chains: int = 30) -> float:
    """How far PCD's gradient is from the closed form, given where its chains have come to."""
    torch.manual_seed(8)
    machine = learned(small)
    rows, weights = data_for(small)
    objective = PersistentContrastiveDivergence(steps, chains, positive=choose(small))
    state = objective.init(machine, as_sites(rows))
    worst = 0.0
    for _ in range(3):
        loss, state, _ = objective.loss(machine, as_sites(rows), state, torch.tensor(weights))
        positive = weights @ posterior(small, rows)
        wanted = between(small, positive, chain_law(small, state.chain.x))
        worst = max(worst, distance(gradient(loss, machine), wanted))
    return worst


@pytest.mark.parametrize("name", VARIED)
def test_the_gradient_of_pcd_given_its_chains(name: str) -> None:
    assert pcd_error(FINITE[name]) < LIMIT


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "name", ["restricted", "semi-restricted", "general", "deep", "torus", "labels and bits"]
)
def test_the_chains_of_pcd_go_on_from_where_they_were(name: str, steps: int) -> None:
    small = FINITE[name]
    machine = learned(small)
    objective = PersistentContrastiveDivergence(steps, 40)
    rows = as_sites(data_for(small)[0])
    state = objective.init(machine, rows)
    for _ in range(4):
        generator = torch.get_rng_state()
        x = state.chain.x
        _, state, fantasies = objective.loss(machine, rows, state)
        assert all(len(value) == 40 for value in state.chain.x.values())
        assert any(not torch.equal(state.chain.x[site], x[site]) for site in x)
        # The same random numbers from the same states: nothing else moves the chains.
        torch.set_rng_state(generator)
        kernel = Gibbs((V, *(site for site in small.units if site != V)))
        again = kernel.init(machine, x)
        for _ in range(steps):
            again, _ = kernel.step(machine, again)
        assert all(torch.equal(again.x[site], state.chain.x[site]) for site in x)
        assert fantasies is state.chain.x


def test_the_chains_of_pcd_follow_the_parameters() -> None:
    small = SMALL["restricted"]
    machine = learned(small)
    objective = PersistentContrastiveDivergence(1, 50)
    rows = as_sites(data_for(small)[0])
    state = objective.init(machine, rows)
    _, state, _ = objective.loss(machine, rows, state)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.zero_()
        machine.layers[V].bias.fill_(40.0)
    _, state, _ = objective.loss(machine, rows, state)
    assert bool((state.chain.x[V] == 1).all())


def stationarity(small: Small, objective: Objective, chains: int = 20_000, seed: int = 4) -> float:
    """The largest |z| of PCD's negative phase after 1, 4 and 16 losses from exact draws."""
    torch.manual_seed(seed)
    machine = learned(small)
    rows, weights = data_for(small)
    x = exact.sample(machine, chains, seed=100 + seed)
    state = ChainState(Gibbs().init(machine, x), (V,), Gibbs())
    positive = weights @ posterior(small, rows)
    wanted = between(small, positive, small.probabilities)
    values = statistics(small)
    worst = 0.0
    for k in range(1, 17):
        loss, state, _ = objective.loss(machine, as_sites(rows), state, torch.tensor(weights))
        if k in (1, 4, 16):
            found = gradient(loss, machine)
            for name, value in values.items():
                mean = np.tensordot(small.probabilities, value, 1)
                variance = np.tensordot(small.probabilities, value**2, 1) - mean**2
                # Hidden units by their means vary less than this: the test is the stricter for it.
                error = np.sqrt(variance / chains)
                z = np.abs(found[name] - wanted[name]) / np.maximum(error, 1e-12)
                worst = max(worst, float(z.max(initial=0.0)))
    return worst


def z_limit(count: int) -> float:
    """The |z| that one of so many numbers exceeds with probability ALPHA."""
    return NormalDist().inv_cdf(1 - ALPHA / (2 * count))


def compared(small: Small) -> int:
    """How many numbers the test of stationarity compares."""
    return 3 * sum(int((np.ptp(v, axis=0) > 0).sum()) for v in statistics(small).values())


@pytest.mark.parametrize(
    "name",
    [
        "restricted",
        "restricted with offsets",
        "semi-restricted",
        "general bits and spins",
        "deep",
        "fully visible bits",
        "bipartite lattice",
        "Potts restricted",
        "general labels and bits",
    ],
)
def test_chains_of_pcd_from_exact_draws_stay_there(name: str) -> None:
    # N = 20,000: a mean of a bit off by 0.023 is found. The three readings need not be independent.
    small = FINITE[name]
    objective = PersistentContrastiveDivergence(1, 20_000, positive=choose(small))
    assert stationarity(small, objective) < z_limit(compared(small))


# --- the variational rule ------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGER)
def test_the_variational_surrogate_has_the_gradient_of_the_brute_force_bound(name: str) -> None:
    small = LARGER[name]
    machine = learned(small)
    rows, weights = data_for(small, rows=5)
    data = as_sites(rows)
    objective = PersistentContrastiveDivergence(1, 25, positive=choose(small))
    loss, state, _ = objective.loss(
        machine, data, objective.init(machine, data), torch.tensor(weights)
    )
    chains = machine.evaluate(state.chain.x).mean()
    found = gradient(loss + chains, machine)
    bound = brute_force_bound(small, machine, rows, weights)
    assert distance(found, gradient(bound, machine)) < LIMIT
    assert distance(found, gradient(loss, machine)) > 1e-2  # the negative phase was not nothing


@pytest.mark.parametrize("name", LARGER)
def test_with_an_exact_negative_phase_it_is_the_gradient_of_minus_the_elbo(name: str) -> None:
    small = LARGER[name]
    machine = learned(small)
    rows, weights = data_for(small, rows=5)
    q = torch.tensor(weights @ posterior(small, rows))
    p = torch.tensor(small.probabilities)
    # Through the same closed form as the objectives, with all states in both phases.
    everything = as_sites(small.features(small.states))
    loss = contrastive.mean_energy_difference(machine.read(), everything, everything, q, p)
    found = gradient(loss, machine)
    elbo = -brute_force_bound(small, machine, rows, weights) - brute_force_log_partition(
        small, machine
    )
    assert distance(found, gradient(-elbo, machine)) < LIMIT
    # φ is at its optimum, so moving the parameters with φ following changes nothing to first order.
    for parameter in machine.parameters():
        direction = torch.randn_like(parameter)
        if parameter.shape[0] == parameter.shape[-1] and parameter.dim() == 2:
            q = width(small.units[next(iter(small.units))])
            direction = direction * torch.tensor(pairs_above(len(parameter), q))
        values = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                parameter.add_(step * direction)
                moved = mean_field(machine, as_sites(rows), tolerance=1e-14, max_sweeps=5000)
                value = torch.tensor(weights) @ moved.free_energy_bound
                values.append(float(value + exact.log_partition(machine)))
                parameter.sub_(step * direction)
        name_of = next(n for n, p in machine.named_parameters() if p is parameter)
        slope = float((torch.tensor(found[name_of]) * direction).sum())
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope, abs=1e-5)


def brute_force_bound(
    small: Small, machine: BoltzmannMachine, rows: Mapping[str, np.ndarray], weights: np.ndarray
) -> Tensor:
    """Σ_r w_r Σ_h q(h | v_r) (E(v_r, h) + ln q), over all hidden states, with φ held."""
    q = torch.tensor(posterior(small, rows))
    energies = machine.evaluate(small.tensors())
    return torch.tensor(weights) @ (q * energies - torch.special.entr(q)).sum(1)


def brute_force_log_partition(small: Small, machine: BoltzmannMachine) -> Tensor:
    return (-machine.evaluate(small.tensors())).logsumexp(0)


# --- the sampled posterior -----------------------------------------------------------------------

HIDDEN_COUPLED = {
    "general": SMALL["general"],
    "general bits and spins": SMALL["general bits and spins"],
    "deep": SMALL["deep"],
    "deep with offsets": SMALL["deep with offsets"],
    "labels": draw("hl", {V: (THREE, 2), H: (THREE, 2)}, [VH, HH], offsets=True),
    "graph": draw("hg", {V: (BIT, 2), H: (BIT, 4)}, [VH], edges={HH: ring_edges(4)}),
}


def sampled_law(small: Small, visible: np.ndarray, steps: int) -> np.ndarray:  # (2, h, h)
    """Of one sweep with the data clamped: [first draw, sweep] by the code of the positive phase.

    Returns:
        The probability of every first draw (row 0 of the result, the same in all its rows), and the
        transition matrix of a sweep from it.
    """
    machine = small.machine()
    hidden = {site: size for site, size in small.sizes.items() if site != V}
    table = as_sites(states_of(small.units, hidden))
    count = len(next(iter(table.values())))
    first = {site: value.repeat_interleave(count, 0) for site, value in table.items()}
    second = {site: value.repeat(count, 1) for site, value in table.items()}
    start = Script(machine, tuple(hidden), first)
    start.visits = whole_layers(hidden)
    sweep = Script(machine, tuple(hidden), second)
    data = {V: torch.tensor(visible).expand(count**2, -1)}
    with forced(Path([start, sweep])):
        terms = machine.read()
        found = SampledPosterior(steps).infer(terms, terms.features(data))
    values = terms.values(found.means)
    assert all(torch.equal(values[site], second[site]) for site in hidden)
    assert found.draw() == found.means
    laws = torch.stack([start.log_prob, sweep.log_prob]).exp()
    return laws.reshape(2, count, count).numpy()


@pytest.mark.parametrize("name", HIDDEN_COUPLED)
def test_a_sweep_of_the_sampled_posterior_leaves_the_exact_posterior_unchanged(name: str) -> None:
    small = HIDDEN_COUPLED[name]
    everything = states_of(small.units, {V: small.sizes[V]})
    for visible in everything[V]:
        first, matrix = sampled_law(small, visible, 1)
        law = exact_posterior(small, {V: visible[None]})[0]
        law = law[number_of(small, {V: visible[None]})[0]]
        np.testing.assert_allclose(first[:, 0].sum(), 1.0, rtol=0, atol=1e-12)
        np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=0, atol=1e-12)
        np.testing.assert_allclose(law @ matrix, law, rtol=0, atol=1e-12)
        assert (np.linalg.matrix_power(matrix, 4) > 0).all()


def sampled_z(small: Small, steps: int, copies: int = 20_000) -> tuple[float, int]:
    """The largest |z| of the sampled positive phase against exact moments, and of how many."""
    torch.manual_seed(14)
    machine = small.machine()
    visible = states_of(small.units, {V: small.sizes[V]})[V][[1, -2]]
    worst, count = 0.0, 0
    for row in visible:
        data = {V: torch.tensor(row).expand(copies, -1)}
        terms = machine.read()
        values = terms.values(SampledPosterior(steps).infer(terms, terms.features(data)).means)
        seen = np.bincount(number(small, values), minlength=len(small.energies))
        law = exact_posterior(small, {V: row[None]})[0]
        for value in statistics(small).values():
            mean = np.tensordot(law, value, 1)
            error = np.sqrt((np.tensordot(law, value**2, 1) - mean**2).clip(1e-30) / copies)
            z = np.abs(np.tensordot(seen / copies, value, 1) - mean) / np.maximum(error, 1e-9)
            worst, count = max(worst, float(z.max())), count + int((error > 1e-9).sum())
    return worst, count


@pytest.mark.parametrize("name", HIDDEN_COUPLED)
def test_the_sampled_posterior_has_the_exact_moments_after_many_sweeps(name: str) -> None:
    # N = 20,000 independent copies of each row: a mean of a bit off by 0.02 is found. After 60
    # sweeps what is left of the start is below 1e-4 in all of these.
    z, count = sampled_z(HIDDEN_COUPLED[name], 60)
    assert z < z_limit(count)


def test_too_few_sweeps_of_the_sampled_posterior_are_seen() -> None:
    z, count = sampled_z(draw("strong", {V: (BIT, 2), H: (BIT, 3)}, [VH, HH], scale=4.0), 1)
    assert z > z_limit(count)


# --- what a gradient does not depend on ----------------------------------------------------------


@pytest.mark.parametrize("name", ["restricted", "semi-restricted", "general", "deep"])
def test_equal_weights_are_no_weights(name: str) -> None:
    small = SMALL[name]
    machine = learned(small)
    data = as_sites(data_for(small)[0])
    for objective in (
        ExactLikelihood(),
        ContrastiveDivergence(2),
        PersistentContrastiveDivergence(2, 9),
    ):
        state = objective.init(machine, data)
        found = []
        for weights in (None, torch.full((7,), 5.0)):
            torch.manual_seed(1)
            loss, *_ = objective.loss(machine, data, state, weights)
            found.append(gradient(loss, machine))
        assert distance(*found) < 1e-12


@pytest.mark.parametrize("name", ["restricted", "semi-restricted", "general", "deep"])
def test_a_row_of_weight_two_is_that_row_twice(name: str) -> None:
    small = SMALL[name]
    machine = learned(small)
    rows, _ = data_for(small)
    twice = {site: np.concatenate([value, value[:1]]) for site, value in rows.items()}
    weights = torch.ones(7)
    weights[0] = 2
    for objective in (ExactLikelihood(), PersistentContrastiveDivergence(2, 9)):
        state = objective.init(machine, as_sites(rows))
        torch.manual_seed(1)
        one = objective.loss(machine, as_sites(rows), state, weights)[0]
        torch.manual_seed(1)
        other = objective.loss(machine, as_sites(twice), state)[0]
        assert distance(gradient(one, machine), gradient(other, machine)) < 1e-12


@pytest.mark.parametrize("name", VARIED)
def test_what_is_not_a_parameter_gets_no_gradient(name: str) -> None:
    """What stands below the diagonal of a symmetric coupling is not read, so it must not move."""
    machine = learned(FINITE[name])
    data = as_sites(data_for(FINITE[name])[0])
    for objective in (ExactLikelihood(), PersistentContrastiveDivergence(1, 10)):
        loss, *_ = objective.loss(machine, data, objective.init(machine, data))
        for parameter, value in gradient(loss, machine).items():
            if parameter in ("couplings.visible_visible.weight", "couplings.hidden_hidden.weight"):
                assert value.ndim == 1 or (np.tril(value) == 0).all()


# --- planted faults ------------------------------------------------------------------------------

difference = contrastive.mean_energy_difference
moment = SymmetricLink.moment
refresh = Gibbs.refresh


def replaced(target: Any, name: str, value: Any) -> Callable[[], AbstractContextManager]:
    return lambda: mock.patch.object(target, name, value)


def halved(
    terms: PairwiseTerms, positive: Sites, negative: Sites, *weights: Tensor | None, means: Any = ()
) -> Tensor:
    nothing = {site: torch.zeros_like(value) for site, value in positive.items()}
    both = difference(terms, positive, negative, *weights[:2])
    return both - difference(terms, positive, nothing, *weights[:1]) / 2


def flipped(
    terms: PairwiseTerms, positive: Sites, negative: Sites, *weights: Tensor | None, means: Any = ()
) -> Tensor:
    return -difference(terms, positive, negative, *weights[:2])


def other_hidden_units(
    terms: PairwiseTerms, chain: Any, observed: tuple[str, ...]
) -> tuple[Sites, tuple[str, ...]]:
    """The negative phase with the hidden units of one chain beside the visible ones of another."""
    return {site: v if site == V else v.roll(1, 0) for site, v in chain.x.items()}, ()


@contextmanager
def reused_hidden_draws() -> Iterator[None]:
    """The negative phase with the hidden units that were drawn for the data."""
    right, drawn = ExactPosterior.infer, {}

    def infer(positive: ExactPosterior, terms: PairwiseTerms, observed: Sites) -> Posterior:
        found = right(positive, terms, observed)

        def draw_and_keep() -> Sites:
            drawn.update(found.draw())
            return dict(drawn)

        return Posterior(found.means, found.averaged, draw_and_keep)

    def negative(
        terms: PairwiseTerms, chain: Any, observed: tuple[str, ...]
    ) -> tuple[Sites, tuple[str, ...]]:
        return {**drawn, V: chain.x[V]}, ()

    with (
        mock.patch.object(ExactPosterior, "infer", infer),
        mock.patch.object(contrastive, "negative_means", negative),
    ):
        yield


@contextmanager
def restarted_at_the_data() -> Iterator[None]:
    """PCD whose chains begin at the first row of the data each time."""

    def at_the_data(kernel: Gibbs, energy: BoltzmannMachine, state: Any, x: Sites) -> Any:
        small = SMALL["restricted"]
        row = torch.tensor(data_for(small)[0][V][0])
        return refresh(kernel, energy, state, {**x, V: row.expand_as(x[V]), H: 0 * x[H]})

    with mock.patch.object(Gibbs, "refresh", at_the_data):
        yield


def restricted_stays(seed: int = 4) -> float:
    small, objective = SMALL["restricted"], PersistentContrastiveDivergence(1, 20_000)
    return stationarity(small, objective, seed=seed) / z_limit(compared(small))


def likelihood_of_weighted_rows() -> float:
    return max(likelihood_errors(SMALL["restricted"], (V,), lambda w: w)) / LIMIT


def likelihood_with_offsets() -> float:
    return max(likelihood_errors(SMALL["general with offsets"], (V,), lambda w: None)) / LIMIT


def cd_of_a_restricted_machine() -> float:
    return distance(*cd_gradient("restricted 2-1", 1)) / LIMIT


def cd_of_a_semi_restricted_machine() -> float:
    return distance(*cd_gradient("semi-restricted 3-2", 1)) / LIMIT


def pcd_of(name: str) -> Callable[[], float]:
    return lambda: pcd_error(SMALL[name]) / LIMIT


# Each fault, and the laws that find it: each law gives a number that is at most 1 for right code.
MUTANTS = {
    "positive phase halved": (
        replaced(contrastive, "mean_energy_difference", halved),
        [pcd_of("restricted"), cd_of_a_restricted_machine, restricted_stays],
    ),
    "sign flipped": (
        replaced(contrastive, "mean_energy_difference", flipped),
        [pcd_of("restricted"), cd_of_a_restricted_machine, restricted_stays],
    ),
    "chains restarted at the data": (restarted_at_the_data, [restricted_stays]),
    "hidden draws of the data reused": (
        reused_hidden_draws,
        [cd_of_a_restricted_machine, cd_of_a_semi_restricted_machine],
    ),
    "hidden units of other chains": (
        replaced(contrastive, "negative_means", other_hidden_units),
        [pcd_of("restricted"), cd_of_a_restricted_machine, restricted_stays],
    ),
    "symmetric couplings off by a factor 2": (
        replaced(SymmetricLink, "moment", lambda link, phases: 2 * moment(link, phases)),
        [pcd_of("semi-restricted"), pcd_of("general"), cd_of_a_semi_restricted_machine],
    ),
    "weights ignored by the likelihood": (
        replaced(likelihood, "normalised", lambda weights, rows, like: None),
        [likelihood_of_weighted_rows],
    ),
    "weights ignored by the chains": (
        replaced(contrastive, "normalised", lambda weights, rows, like: None),
        [pcd_of("restricted"), cd_of_a_restricted_machine],
    ),
    "offsets ignored": (
        replaced(PairwiseTerms, "centred", lambda terms, offsets: terms),
        [
            likelihood_with_offsets,
            pcd_of("restricted with offsets"),
            cd_of_a_semi_restricted_machine,
        ],
    ),
}


@pytest.mark.parametrize("fault", MUTANTS)
def test_planted_faults_are_found(fault: str) -> None:
    plant, laws = MUTANTS[fault]
    for law in laws:
        assert law() <= 1
        with plant():
            assert law() > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [f for f, (_, laws) in MUTANTS.items() if restricted_stays in laws]
)
def test_planted_faults_are_found_whatever_the_seed(fault: str) -> None:
    plant, _ = MUTANTS[fault]
    with plant():
        assert sum(restricted_stays(seed) > 1 for seed in range(20)) >= 19


@pytest.mark.slow
def test_right_code_is_accepted_whatever_the_seed() -> None:
    assert all(restricted_stays(seed) <= 1 for seed in range(20))
