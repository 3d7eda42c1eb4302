"""Tempering leaves the product of its levels' laws unchanged: by transition matrices.

The states are those of all replicas together, and a step is inner kernel and exchanges in one.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Layer,
    ModelEnergy,
    RandomField,
    clamp,
)
from pyro_ebm.energies.composition.path import Path
from pyro_ebm.kernels import (
    MALA,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    ParallelTempering,
    RandomBlocks,
    TemperedTransitions,
    advance,
    resume,
    run,
    warmup,
)
from pyro_ebm.kernels.composite import tempering
from pyro_ebm.kernels.start import is_one_law
from pyro_ebm.sites import Site, Sites, boolean, random_values
from pyro_ebm.statistics import round_trips
from pyro_ebm.units import Bernoulli, Spin
from tests.support.checks import random_states
from tests.support.goodness import ALPHA, CHAINS, agreements, chi_square, counts_of
from tests.support.machines import SMALL, Small, draw, ring_edges, stacked, varied
from tests.support.outcomes import matrix_of, violation_of

V, H = "visible", "hidden"


def param_slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def independent(energy: Energy, bias: float = 0.6) -> BoltzmannMachine:
    """Units of the same sites in fields of their own."""
    layers = {}
    for k, (name, site) in enumerate(energy.sites.items()):
        unit = Bernoulli() if site.support is boolean else Spin()
        biases = torch.linspace(-bias, bias + k, site.shape.numel(), dtype=torch.float64)
        layers[name] = Layer(unit, site.shape.numel(), bias=biases)
    machine = BoltzmannMachine(layers)
    machine.constant = torch.tensor(0.7, dtype=torch.float64)
    return machine


def cosine(bits: Tensor) -> Tensor:
    """Two bits, in no way linear."""
    return 2 * (bits[..., 0] + 3 * bits[..., 1]).cos() + bits.prod(-1)


def two_bits() -> None:
    """Two bits of a Pyro model, of which the sum is seen."""
    with pyro.plate("n", 2):
        bits = pyro.sample(V, dist.Bernoulli(torch.tensor([0.3, 0.6]).double()))
    pyro.sample("seen", dist.Normal(bits.sum(-1), 0.7), obs=torch.tensor(0.8).double())


def one_bit_each() -> None:
    """Two bits of a Pyro model, each seen."""
    with pyro.plate("n", 2):
        bits = pyro.sample(V, dist.Bernoulli(torch.tensor([0.3, 0.6]).double()))
        pyro.sample("seen", dist.Normal(bits, 0.7), obs=torch.tensor([0.8, -0.4]).double())


ENERGIES: dict[str, Callable[[], Energy]] = {
    "two layers": draw("tempered", {V: (Bernoulli(), 1), H: (Spin(), 1)}, [(V, H)]).machine,
    "dense": draw("tempered dense", {V: (Bernoulli(), 2)}, [(V, V)]).machine,
    "graph": draw("tempered graph", {V: (Spin(), 2)}, edges={(V, V): ring_edges(2)[:1]}).machine,
    "no machine": lambda: CallableEnergy(
        cosine, {V: Site(boolean, torch.Size([2]))}, dtype=torch.float64
    ),
    "a model": lambda: ModelEnergy(two_bits),
    "a plate": lambda: ModelEnergy(one_bit_each),
    "a model held in part": lambda: clamp(
        ModelEnergy(two_bits), {V: torch.ones(2)}, mask={V: torch.tensor([True, False])}
    ),
}
KERNELS: dict[str, Kernel] = {
    "gibbs": Gibbs(),
    "gradients": GibbsWithGradients(),
    "langevin": DiscreteLangevin(step_size=1.0),
}
BY_GIBBS = ("a model", "a plate", "a model held in part")
MOVED = [
    (name, inner)
    for name, inner in itertools.product(ENERGIES, KERNELS)
    if (inner != "gibbs" if name == "no machine" else name not in BY_GIBBS or inner == "gibbs")
]
BETAS = (0.0, 0.3, 1.0)


def product_states(energy: Energy, levels: int) -> Sites:
    """All states of all replicas (states, levels, n)."""
    units = [
        (name, (0.0, 1.0) if site.support is boolean else (-1.0, 1.0), site.shape.numel())
        for name, site in energy.sites.items()
    ]
    each = [v for _ in range(levels) for _, values, n in units for v in [values] * n]
    flat = torch.tensor(list(itertools.product(*each)), dtype=torch.float64)
    flat = flat.reshape(len(flat), levels, -1)
    parts = flat.split([n for *_, n in units], -1)
    return {name: part for (name, *_), part in zip(units, parts, strict=True)}


def product_law(energy: Energy, kernel: ParallelTempering, states: Sites) -> Tensor:
    """Π over the levels of exp(−E_β), by the definition."""
    total = 0.0
    for level, beta in enumerate(kernel.betas):
        x = {name: value[:, level] for name, value in states.items()}
        total = total + beta * energy(x)
        if kernel.reference is not None:
            total = total + (1 - beta) * kernel.reference(x)
    return (-total).softmax(0)


def one_step(kernel: ParallelTempering, energy: Energy, steps: int) -> Callable[[Sites], Sites]:
    """A step from given values of the replicas, after so many others."""

    def step(x: Sites) -> Sites:
        state = kernel.init(energy, {name: value[:, -1] for name, value in x.items()})
        replicas = kernel.kernel.init(kernel.path(energy), x)
        state = state._replace(replicas=replicas, ladder=state.ladder._replace(steps=steps))
        state, _ = kernel.step(energy, state)
        torch.testing.assert_close(state.energy, energy(state.x), rtol=1e-12, atol=1e-12)
        return state.replicas.x

    return step


def violations(kernel: ParallelTempering, energy: Energy, steps: int) -> set[str]:
    states = product_states(energy, len(kernel.betas))
    matrix = matrix_of(one_step(kernel, energy, steps), states)
    return violation_of(matrix, product_law(energy, kernel, states)).found()


@pytest.mark.parametrize(
    ("reference", "steps"), [("flat", 0), ("flat", 1), ("independent", 0), ("independent", 1)]
)
@pytest.mark.parametrize(("name", "inner"), MOVED)
def test_the_product_law_is_left_unchanged(
    name: str, inner: str, reference: str, steps: int
) -> None:
    energy = ENERGIES[name]()
    easy = independent(energy) if reference == "independent" else None
    kernel = ParallelTempering(KERNELS[inner], BETAS, easy)
    # 4^3 states, and for the Langevin kernel 4^3 · 2^3 · 2^2 outcomes of each.
    assert not violations(kernel, energy, steps)


def exact_levels(kernel: ParallelTempering, small: Small, chains: int, seed: int) -> Any:
    """The state of chains whose replicas are independent draws from the laws of their levels."""
    energy = small.machine()
    rng = np.random.default_rng(seed)
    states = small.tensors()
    laws = [(-beta * torch.tensor(small.energies)).softmax(0).numpy() for beta in kernel.betas]
    chosen = np.stack([rng.choice(len(law), chains, p=law) for law in laws], 1)
    x = {name: value[chosen] for name, value in states.items()}  # (chains, levels, n)
    state = kernel.init(energy, {name: value[:, -1] for name, value in x.items()})
    return state._replace(replicas=kernel.kernel.init(kernel.path(energy), x))


def p_value(kernel: ParallelTempering, small: Small, seed: int) -> float:
    """The least p-value at β = 1 after 1, 4 and 16 steps, times three."""
    energy = small.machine()
    state = exact_levels(kernel, small, CHAINS, seed)
    torch.manual_seed(seed)
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        found.append(chi_square(counts_of(state.x, small), small.probabilities))
    return 3 * min(found)


@pytest.mark.parametrize("name", ["sparse between layers", param_slow("torus")])
@pytest.mark.parametrize("inner", ["gibbs", param_slow("gradients"), param_slow("langevin")])
def test_exact_draws_stay_exact_draws(name: str, inner: str) -> None:
    # α = 1e-6, N = 20,000; what it finds is said in test_exact_starts.py.
    small = SMALL[name]
    assert p_value(ParallelTempering(KERNELS[inner], (0.0, 0.5, 1.0)), small, 2) > ALPHA


def test_chains_share_no_random_numbers() -> None:
    small = SMALL["one shared coupling"]
    kernel = ParallelTempering(Gibbs(), (0.0, 1.0))
    assert agreements(small.machine(), kernel, small, seed=4) > ALPHA


# --- the path ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["flat", "independent"])
@pytest.mark.parametrize("name", SMALL)
def test_the_terms_of_a_path_are_the_energies_between_its_ends(name: str, reference: str) -> None:
    energy = SMALL[name].machine()
    easy = independent(energy) if reference == "independent" else None
    x = SMALL[name].tensors()
    target, start = energy(x), 0.0 if easy is None else easy(x)
    betas = torch.tensor([0.0, 0.2, 0.9], dtype=torch.float64)
    levels = {site: value[:, None].expand(-1, 3, -1) for site, value in x.items()}
    path = Path.between(easy, energy)
    together = path.at(betas)
    energies = together(levels)
    sweep = ParallelTempering(Gibbs(), (0.5, 1.0))
    assert sweep.kernel.init(together, levels).structure is not None
    for k, beta in enumerate(betas):
        wanted = beta * target + (1 - beta) * start
        alone = path.at(beta)
        of_all = together.structure().energy(levels)[:, k]
        for found in (energies[:, k], of_all, alone.structure().energy(x)):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        for site in x:
            for block in energy.blocks(site):
                one = alone.conditional(site, x, block).mean
                many = together.conditional(site, levels, block).mean[:, k]
                torch.testing.assert_close(many, one, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_a_path_is_that_between_its_ends() -> None:
    energy = CallableEnergy(lambda x: x.square().sum(-1).cos(), 2, dtype=torch.float64)
    easy = CallableEnergy(lambda x: x.square().sum(-1) / 2 + x[..., 0], 2, dtype=torch.float64)
    betas = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    path = Path.between(easy, energy).at(betas)
    value, gradient = path.energy_and_gradient({V: x.detach()}, (V,))
    wanted = ((1 - betas) * easy(x) + betas * energy(x)).sum()
    torch.testing.assert_close(value.sum(), wanted.detach())
    torch.testing.assert_close(gradient[V], *torch.autograd.grad(wanted, x))


def test_two_wells_are_joined_through_a_reference() -> None:
    # Wells at ±4 whose barrier is 32 nats; MALA alone never crosses it.
    wells = CallableEnergy(lambda x: (x.square() - 16).square().sum(-1) / 8, 1)
    easy = CallableEnergy(lambda x: x.square().sum(-1) / 50, 1)
    kernel = ParallelTempering(MALA(step_size=0.2), (0.0, 0.01, 0.03, 0.08, 0.2, 0.45, 1.0), easy)
    start = torch.full((64, 1), 4.0)
    chains = run(kernel, wells, 150, warmup=200, initial=start, seed=1)
    right = (chains.draws[V] > 0).float().mean((0, 1, 2))
    assert 0.25 < float(right) < 0.75  # from all the 64 chains on one side
    assert {"swap_rate", "replica", "acceptance_rate", "step_size"} <= set(chains.statistics)


# --- the schedule, and what is told of it --------------------------------------------------------


def flat_machine() -> BoltzmannMachine:
    """Two free spins without fields: every exchange is made."""
    return BoltzmannMachine({V: Layer(Spin(), 2, bias=torch.zeros(2))})


@pytest.mark.parametrize("levels", [2, 3, 6, 7])
def test_replicas_travel_straight_where_nothing_hinders_them(levels: int) -> None:
    betas = tuple(torch.linspace(0, 1, levels).tolist())
    kernel, energy = ParallelTempering(Gibbs(), betas), flat_machine()
    steps = 60 * levels
    state = advance(kernel, energy, kernel.init(energy, random_states(energy, (3,))), steps)
    report = kernel.report(state)
    assert report.barrier == 0
    assert report.best_round_trip_rate == 0.5
    # Each of the replicas is back after 2 · levels steps; the first trips begin at β = 1.
    trips = levels * steps // (2 * levels)
    assert trips - levels <= int(report.round_trips.min()) <= int(report.round_trips.max()) <= trips
    assert report.round_trip_rate == pytest.approx(0.5, rel=0.1)


def places(kernel: ParallelTempering, energy: Energy, steps: int, *, renewed: bool) -> list[Any]:
    """Which replica is where, step by step; with the caches renewed before each step."""
    x = random_states(energy, (1,))
    state, found = kernel.init(energy, x), []
    for _ in range(steps):
        if renewed:
            state = kernel.refresh(energy, state, {s: v.clone() for s, v in state.x.items()})
        state, _ = kernel.step(energy, state)
        found.append(state.ladder.replica[0].tolist())
    return found


def keeps_its_turns() -> bool:
    """Whether even and odd exchanges alternate, also where x is given anew before each step."""
    kernel, energy = ParallelTempering(Gibbs(), (0.0, 0.5, 0.7, 1.0)), flat_machine()
    plain = places(kernel, energy, 4, renewed=False)
    return (
        plain == [[1, 0, 3, 2], [1, 3, 0, 2], [3, 1, 2, 0], [3, 2, 1, 0]]
        and places(kernel, energy, 4, renewed=True) == plain
    )


def renews_what_it_knows() -> bool:
    """Whether energies and replicas are those of new parameters and of a new x after `refresh`."""
    one = SMALL["torus"].machine()
    kernel = ParallelTempering(GibbsWithGradients(), (0.1, 0.5, 1.0))
    state = kernel.init(one, random_states(one, (4,)))
    state = advance(kernel, one, state, 3)
    stronger = varied(SMALL["torus"], np.random.default_rng(1)).machine()
    x = random_states(one, (4,))
    new = kernel.refresh(stronger, state, x)
    values = torch.cat([state.replicas.x[V][:, :-1], x[V][:, None]], 1)
    return (
        torch.equal(new.x[V], x[V])
        and torch.allclose(new.energy, stronger(x))
        and torch.equal(new.replicas.x[V], values)
        and torch.allclose(new.replicas.energy, kernel.path(stronger)({V: values}))
        and torch.allclose(new.path({V: values}), new.replicas.energy)
        and new.ladder is state.ladder
    )


def test_refresh_renews_the_caches_and_the_schedule_goes_on() -> None:
    assert keeps_its_turns()
    assert renews_what_it_knows()


def test_a_refresh_that_restarts_at_even_is_found() -> None:
    right = ParallelTempering.refresh

    def restarting(kernel: Any, energy: Any, state: Any, x: Any) -> Any:
        new = right(kernel, energy, state, x)
        return new._replace(ladder=new.ladder._replace(steps=0))

    with mock.patch.object(ParallelTempering, "refresh", restarting):
        assert not keeps_its_turns()


@pytest.mark.parametrize("stale", ["energy", "path", "replicas"])
def test_a_refresh_that_renews_too_little_is_found(stale: str) -> None:
    right = ParallelTempering.refresh

    def forgetful(kernel: Any, energy: Any, state: Any, x: Any) -> Any:
        new = right(kernel, energy, state, x)
        return new._replace(**{stale: getattr(state, stale)})

    with mock.patch.object(ParallelTempering, "refresh", forgetful):
        assert not renews_what_it_knows()


def test_rejections_are_those_of_the_product_law_and_add_up_to_the_barrier() -> None:
    small = SMALL["general"]
    energy, states = small.machine(), torch.tensor(small.energies)
    kernel = ParallelTempering(Gibbs(), (0.0, 0.4, 1.0))
    laws = [(-beta * states).softmax(0) for beta in kernel.betas]
    wanted = []
    for k in range(2):
        step = kernel.betas[k + 1] - kernel.betas[k]
        rate = (step * (states[None] - states[:, None])).clamp(max=0).exp()
        wanted.append(1 - float(laws[k] @ rate @ laws[k + 1]))
    state = exact_levels(kernel, small, CHAINS, 1)
    report = kernel.report(advance(kernel, energy, state, 1))
    # A mean of numbers in [0, 1]: five standard errors are at most 0.018.
    assert report.rejection_rates.tolist() == pytest.approx(wanted, abs=0.018)
    assert report.barrier == pytest.approx(sum(wanted), abs=0.03)


def test_an_adapted_ladder_rejects_equally_often() -> None:
    small = draw("ladder", {V: (Spin(), 12)}, [(V, V)], scale=0.6)
    energy = small.machine()
    kernel = ParallelTempering(Gibbs(), (0.0, 0.6, 0.7, 0.8, 0.9, 1.0))
    spreads = []
    for _ in range(4):
        state = kernel.init(energy, random_states(energy, (200,)))
        state = advance(kernel, energy, state, 50)
        rates = kernel.report(state).rejection_rates
        spreads.append(float(rates.max() - rates.min()))
        kernel = kernel.adapted(state)
        assert kernel.betas[0] == 0
        assert kernel.betas[-1] == 1
    assert spreads[0] > 0.3
    assert spreads[-1] < 0.05


def test_a_ladder_follows_a_known_barrier() -> None:
    # Λ(β) = β² on a fine ladder: equal parts are at square roots.
    fine = torch.linspace(0, 1, 101, dtype=torch.float64)
    rates = fine.square().diff().clamp(min=1e-3)
    found = tempering.equal_rejections(fine.tolist(), rates.tolist())
    assert found[::10] == pytest.approx((fine[::10] * (rates.sum())).sqrt().tolist(), abs=0.03)


def test_tempering_runs_resumes_and_is_reproducible() -> None:
    small = SMALL["torus"]
    energy = small.machine()
    kernel = ParallelTempering(Gibbs(), (0.2, 0.6, 1.0))
    whole = run(kernel, energy, 100, warmup=10, chains=3, seed=5)
    parts = resume(run(kernel, energy, 60, warmup=10, chains=3, seed=5), energy, 40)
    assert torch.equal(whole.draws[V], parts.draws[V])
    for name, value in whole.statistics.items():
        assert torch.equal(value, parts.statistics[name]), name
    assert kernel.report(whole.state).round_trips.tolist() == (
        kernel.report(parts.state).round_trips.tolist()
    )
    torch.testing.assert_close(energy(whole.last), whole.state.energy)  # another order of sums


def test_the_warm_up_finds_a_ladder_on_which_exchanges_are_equally_likely() -> None:
    small = draw("ladder", {V: (Spin(), 12)}, [(V, V)], scale=0.6)
    energy = small.machine()
    chains = run(ParallelTempering(Gibbs(), 6), energy, 100, warmup=200, chains=64, seed=1)
    kernel = chains.kernel
    assert isinstance(kernel, ParallelTempering)
    report = kernel.report(chains.state)
    assert chains.state.ladder.counted == 100
    assert float(report.rejection_rates.max() - report.rejection_rates.min()) < 0.06
    assert str(chains.attributes["betas"]).startswith("0, ")
    even = run(
        ParallelTempering(Gibbs(), tuple(torch.linspace(0, 1, 6).tolist())),
        energy,
        100,
        warmup=200,
        chains=64,
        seed=1,
    )
    rates = even.kernel.report(even.state).rejection_rates
    assert float(rates.max() - rates.min()) > 0.15


def test_the_warm_up_tunes_what_moves_the_replicas_too() -> None:
    wells = CallableEnergy(lambda x: (x.square() - 1).square().sum(-1), 1)
    easy = CallableEnergy(lambda x: x.square().sum(-1) / 2, 1)
    chains = run(ParallelTempering(MALA(), 3, easy), wells, 10, warmup=40, chains=8, seed=1)
    sizes = chains.kernel.kernel.step_size
    assert sizes.shape == (3,)  # one for each level
    assert bool((sizes > 0).all())
    given = ParallelTempering(DiscreteLangevin(), (0.0, 1.0))
    energy = SMALL["torus"].machine()
    tuned, state = warmup(given, energy, random_states(energy, (8,)), steps=30, seed=1)
    assert tuned.betas == (0.0, 1.0)
    assert tuned.kernel.step_size is not None
    assert state.ladder.steps == 30
    assert caches_agree(tuned, energy)
    plain = ParallelTempering(Gibbs(), (0.0, 1.0))
    assert warmup(plain, energy, random_states(energy, (8,)), steps=3)[0] is plain


def test_levels_without_places_are_refused() -> None:
    energy = SMALL["torus"].machine()
    with pytest.raises(ValueError, match="warm-up"):
        ParallelTempering(Gibbs(), 4).init(energy, random_states(energy, (2,)))
    with pytest.raises(ValueError, match="two levels or more"):
        ParallelTempering(Gibbs(), 1)


# --- planted faults ------------------------------------------------------------------------------


def rates_with(change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    return mock.patch.object(tempering, "swap_rates", change)


right_rates, right_exchanged, right_turn = (
    tempering.swap_rates,
    tempering.exchanged,
    tempering.turn,
)
FAULTS: dict[str, Callable[[], Any]] = {
    "inverted ratio": lambda: rates_with(lambda b, v: right_rates(b, -v)),
    "always exchanged": lambda: rates_with(lambda b, v: torch.ones_like(right_rates(b, v))),
    "forgotten β": lambda: rates_with(lambda b, v: right_rates(torch.arange(3.0).double(), v)),
    "only one of two is copied": lambda: mock.patch.object(
        tempering,
        "exchanged",
        lambda swapped: right_exchanged(swapped).minimum(torch.arange(3)),
    ),
    "reference forgotten in the ratio": lambda: mock.patch.object(
        ParallelTempering, "step", step_without_reference
    ),
    "replicas not refreshed": lambda: mock.patch.object(
        GibbsWithGradients, "refresh", lambda k, e, state, x: state._replace(x=x)
    ),
}


def step_without_reference(kernel: Any, energy: Any, state: Any) -> Any:
    """The exchanges see E in place of E − E_ref."""
    faulty = replace(kernel, reference=None)
    right_path = kernel.path

    with mock.patch.object(ParallelTempering, "path", lambda k, e: right_path(e)):
        return right_step(faulty, energy, state)


right_step = ParallelTempering.step


@pytest.mark.parametrize("fault", FAULTS)
def test_the_transition_matrix_finds_a_fault(fault: str) -> None:
    energy = ENERGIES["two layers"]()
    kernel = ParallelTempering(GibbsWithGradients(), BETAS, independent(energy))
    steps = 2 if "refreshed" in fault else 1

    def found() -> set[str]:
        states = product_states(energy, 3)
        law = product_law(energy, kernel, states)

        def step(x: Sites) -> Sites:
            for k in range(steps):
                x = one_step(kernel, energy, k)(x)
            return x

        return violation_of(matrix_of(step, states), law).found()

    if "refreshed" in fault:
        with FAULTS[fault]():
            assert not caches_agree(kernel, energy)
        assert caches_agree(kernel, energy)
        return
    with FAULTS[fault]():
        assert "stationary" in found()
    assert not found()


def caches_agree(kernel: ParallelTempering, energy: Energy) -> bool:
    """Whether the inner kernel knows the energies of the replicas after their exchange."""
    state = advance(kernel, energy, kernel.init(energy, random_states(energy, (50,))), 5)
    wanted = kernel.path(energy)(state.replicas.x)
    return torch.allclose(state.replicas.energy, wanted, rtol=1e-12, atol=1e-12)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "betas",
    [(), (1.0,), (0.5, 0.9), (1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (-0.1, 1.0), (float("nan"), 1)],
)
def test_a_ladder_rises_to_one(betas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rising inverse temperatures"):
        ParallelTempering(Gibbs(), betas)


def test_bad_settings_are_refused_with_the_way_out() -> None:
    energy = SMALL["torus"].machine()
    x = random_states(energy, (2,))
    with pytest.raises(TypeError, match="wanted a kernel"):
        ParallelTempering("gibbs", (0.0, 1.0))  # type: ignore[arg-type]
    other = independent(SMALL["restricted"].machine())
    with pytest.raises(ValueError, match="The reference has the sites"):
        ParallelTempering(Gibbs(), (0.0, 1.0), other).init(energy, x)
    single = independent(energy).to(torch.float32)
    with pytest.raises(ValueError, match=r"float32.*float64"):
        ParallelTempering(Gibbs(), (0.0, 1.0), single).init(energy, x)
    real = CallableEnergy(lambda x: x.square().sum(-1), 2)
    with pytest.raises(ValueError, match="have no law"):
        ParallelTempering(MALA(step_size=0.1), (0.0, 1.0)).init(real, {V: torch.zeros(3, 2)})
    flat: Any = 8.0
    for wrong in (flat, None, "many", True):
        with pytest.raises(TypeError, match="or the number of levels"):
            ParallelTempering(Gibbs(), wrong)
    with pytest.raises(TypeError, match="reference is 'x'; wanted an energy"):
        ParallelTempering(Gibbs(), (0.0, 1.0), "x")  # type: ignore[arg-type]
    assert ParallelTempering(Gibbs(), np.int64(4)).betas == 4  # type: ignore[arg-type]


# --- one law for all chains ----------------------------------------------------------------------


def square(x: Tensor) -> Tensor:
    return x.square().sum(-1) / 2


def held_rows() -> Energy:
    """A normal number around each of four."""
    plane = CallableEnergy(lambda x: (x[:, 1] - 3 * x[:, 0]).square() / 2, 2, dtype=torch.float64)
    rows = torch.tensor([[-4.0, 0.0], [0.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    return clamp(plane, {V: rows}, mask={V: torch.tensor([True, False])})


FOUR_FACTORS = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
SEVERAL: dict[str, Callable[[], Energy]] = {
    "machines": lambda: stacked([SMALL["torus"]] * 4).machine(),
    "a function clamped to rows": held_rows,
    "a factor for each chain": lambda: FOUR_FACTORS * CallableEnergy(square, 1).double(),
    "tables for each chain": lambda: RandomField.potts(
        [(0, 1)], 2, couplings=FOUR_FACTORS[:, None]
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_law_for_each_chain_is_refused_where_levels_are_as_many_as_chains(name: str) -> None:
    energy, levels = SEVERAL[name](), (0.2, 0.4, 0.6, 1.0)
    x = random_states_of(energy, (4,))
    assert not is_one_law(energy, x)
    kernel = ParallelTempering(GibbsWithGradients(), levels)
    with pytest.raises(ValueError, match="The energy has parameters of its own for each chain"):
        kernel.init(energy, x)
    with pytest.raises(ValueError, match="The reference has parameters of its own"):
        replace(kernel, reference=energy).init(one_of(energy), x)


def random_states_of(energy: Energy, batch: tuple[int, ...]) -> Sites:
    like = torch.empty((), dtype=energy.dtype)
    return {name: random_values(site, batch, like) for name, site in energy.sites.items()}


def one_of(energy: Energy) -> Energy:
    """An energy of the same sites that is one law."""
    if isinstance(energy, BoltzmannMachine):
        return SMALL["torus"].machine()
    return CallableEnergy(lambda x: x.flatten(1).sum(-1) * 0.1, energy.sites, dtype=energy.dtype)


@pytest.mark.parametrize("name", ENERGIES)
def test_one_law_is_known_to_be_one(name: str) -> None:
    energy = ENERGIES[name]()
    assert is_one_law(energy, random_states_of(energy, (3,)))
    assert is_one_law(energy, random_states_of(energy, ()))


# --- energies that are infinite somewhere --------------------------------------------------------


def at_most_two(x: Tensor) -> Tensor:
    """At most two of five bits may be 1."""
    energy = (x * torch.arange(5)).sum(-1) * 0.3
    return torch.where(x.sum(-1) <= 2, energy, torch.full_like(energy, torch.inf))


@pytest.mark.parametrize("inner", [GibbsWithGradients(), RandomBlocks(size=2)], ids=repr)
def test_what_is_forbidden_stays_so_at_beta_1(inner: Kernel) -> None:
    energy = CallableEnergy(at_most_two, {V: Site(boolean, torch.Size([5]))})
    kernel = ParallelTempering(inner, (0.0, 0.5, 1.0))
    chains = run(kernel, energy, 60, warmup=20, chains=8, seed=0)
    assert int(chains.draws[V].sum(-1).max()) == 2


# --- what a run tells of its ladder --------------------------------------------------------------


@pytest.mark.parametrize("number", [None, 1])
def test_what_is_counted_is_of_the_draws(number: int | None) -> None:
    ladder = ParallelTempering(Gibbs(), (0.0, 0.5, 1.0))
    kernel = ladder if number is None else Cycle((Gibbs(), ladder))
    energy = flat_machine()
    chains = run(kernel, energy, 60, warmup=300, chains=3, seed=0)
    before = "" if number is None else f"kernel_{number}_"
    # Each of the three replicas is back after six steps: 30 trips in 60 steps.
    assert 27 <= chains.attributes[f"{before}round_trips"] <= 33
    assert chains.attributes[f"{before}barrier"] == 0
    assert chains.attributes[f"{before}swap_rates"] == "1, 1"
    state = chains.state if number is None else chains.state.states[number]
    assert state.ladder.counted == 60
    more = resume(chains, energy, 60)
    assert 57 <= more.attributes[f"{before}round_trips"] <= 63
    attributes = more.to_arviz()["posterior"].attrs
    assert attributes[f"{before}round_trips"] == more.attributes[f"{before}round_trips"]


def test_the_levels_of_replicas_are_a_statistic_that_round_trips_reads() -> None:
    small = SMALL["torus"]
    kernel = ParallelTempering(Gibbs(), (0.0, 0.3, 0.6, 1.0))
    chains = run(kernel, small.machine(), 400, warmup=5, chains=3, seed=0)
    levels, at_one = chains.statistics["replica_level"], chains.statistics["replica"]
    assert levels.shape == (3, 400, 4)
    assert bool((levels.gather(-1, at_one.long()[..., None]) == 3).all())
    found = round_trips(levels)
    # A trip from the first level begins and ends elsewhere than one from the last.
    counted = chains.state.ladder.round_trips
    assert bool(((found.completed.sum(-1) - counted).abs() <= 4).all())
    assert int(counted.min()) > 10
    stored = chains.to_arviz()["sample_stats"]["replica_level"].values
    assert np.array_equal(stored, levels.numpy())
    rate = float(chains.statistics["swap_rate"].mean())
    assert chains.attributes["barrier"] == pytest.approx(3 * (1 - rate))


def test_a_run_without_a_ladder_tells_of_none() -> None:
    chains = run(Cycle((Gibbs(), Gibbs())), flat_machine(), 3, warmup=0, seed=0)
    assert not [name for name in chains.attributes if "barrier" in name or "trips" in name]


# --- step sizes of DMALA on a ladder -------------------------------------------------------------


def test_dmala_finds_a_step_size_for_each_level() -> None:
    small = draw("sizes", {V: (Spin(), 16)}, [(V, V)], scale=0.7)
    kernel = ParallelTempering(DiscreteLangevin(), (0.05, 0.3, 1.0))
    chains = run(kernel, small.machine(), 200, warmup=300, chains=32, seed=0)
    sizes = chains.kernel.kernel.step_size
    assert sizes.shape == (3,)
    assert float(sizes[0]) > 1.5 * float(sizes[-1])
    assert float(chains.statistics["acceptance_rate"].mean()) == pytest.approx(0.574, abs=0.06)
    assert torch.equal(chains.statistics["step_size"].unique(), sizes[-1:])
    assert "step_size" in chains.attributes
    plain = run(DiscreteLangevin(), small.machine(), 5, warmup=50, chains=8, seed=0)
    assert isinstance(plain.kernel.step_size, float)


def test_dmala_with_a_size_for_each_level_leaves_the_product_law_unchanged() -> None:
    energy = ENERGIES["two layers"]()
    sizes = torch.tensor([2.0, 0.7, 0.4], dtype=torch.float64)
    kernel = ParallelTempering(DiscreteLangevin(step_size=sizes), BETAS)
    assert not violations(kernel, energy, 0)
    path, x = Path.between(None, energy), random_states(energy, (6, 3))
    levels = torch.tensor(BETAS, dtype=torch.float64)
    own = DiscreteLangevin(step_size=sizes)
    weights = own.log_weights(own.init(path.at(levels), x))
    for k, beta in enumerate(levels):
        alone = DiscreteLangevin(step_size=float(sizes[k]))
        state = alone.init(path.at(beta), {name: value[:, k] for name, value in x.items()})
        for site, wanted in alone.log_weights(state).items():
            torch.testing.assert_close(weights[site][:, k], wanted)


# --- where every proposal is accepted -------------------------------------------------------------
SINGLE = {  # kernels that change one unit a step
    "gradients": GibbsWithGradients(),
    "gradients and blocks": Cycle((GibbsWithGradients(), RandomBlocks(size=1))),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_ladder_from_zero_comes_to_every_state_that_is_allowed(name: str) -> None:
    """At β = 0 all changes are accepted: the number of bits that are on must not alternate."""
    weights = torch.tensor([1.0, 2.0, 3.0])
    one = CallableEnergy(
        lambda x: torch.where(x.sum(-1) == 1, -(x * weights.log()).sum(-1), torch.inf),
        {V: Site(boolean, torch.Size([3]))},
    )
    first = torch.tensor([1.0, 0.0, 0.0]).expand(CHAINS, 3)
    kernel = ParallelTempering(SINGLE[name], (0.0, 0.5, 1.0))
    torch.manual_seed(0)
    x = advance(kernel, one, kernel.init(one, {V: first}), 60).x[V]
    assert bool((x.sum(-1) == 1).all())
    assert chi_square(x.sum(0).numpy(), (weights / weights.sum()).numpy()) > ALPHA


def test_tempered_transitions_of_one_change_a_level_move_a_fair_bit() -> None:
    machine = BoltzmannMachine.fully_visible(1, biases=torch.zeros(1))
    kernel = TemperedTransitions(GibbsWithGradients(), (0.5, 1.0))
    torch.manual_seed(0)
    x = advance(kernel, machine, kernel.init(machine, {V: torch.zeros(CHAINS, 1)}), 30).x[V]
    ups = int(x.sum())
    assert chi_square(np.array([CHAINS - ups, ups]), np.full(2, 0.5)) > ALPHA
