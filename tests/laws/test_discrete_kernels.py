"""Gradient-informed moves of discrete sites leave the law unchanged: by transition matrices.

Right kernels give |πT − π| of 1e-16; the smallest of the faults planted here gives more than 1e-4.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Layer,
    RandomField,
    TableFactors,
)
from pyro_ebm.kernels import (
    DiscreteLangevin,
    GibbsWithGradients,
    Kernel,
    RandomBlocks,
    advance,
    run,
    warmup,
)
from pyro_ebm.kernels.discrete import gradient_gibbs, random_blocks
from pyro_ebm.kernels.discrete.alphabets import TwoValued, change_one, single_changes
from pyro_ebm.sites import Site, Sites, boolean, spin
from pyro_ebm.units import Bernoulli, Categorical, Spin
from tests.support.checks import random_states
from tests.support.goodness import ALPHA, CHAINS, agreements, chi_square, from_exact_start
from tests.support.listed_unit import binomial
from tests.support.machines import SMALL, draw, ring_edges, stacked, varied
from tests.support.outcomes import matrix_of, violation_of

KERNELS = {
    "gibbs with gradients": GibbsWithGradients(),
    "short steps": DiscreteLangevin(step_size=0.2),
    "long steps": DiscreteLangevin(step_size=5.0),
}


# --- energies that are no machines ---------------------------------------------------------------


def cubic(bits: Tensor, spins: Tensor) -> Tensor:
    """Three units at a time, a square and a sine: first order is not exact."""
    first, second, third = bits.unbind(-1)
    product = 1.5 * first * second * spins[..., 0] - first * third * spins.prod(-1)
    return product + (first + 0.7 * second - third - spins[..., 1]).square() + third.sin()


def potts(labels: Tensor) -> Tensor:
    """Three units with three values each, and a term of all of them."""
    field = torch.arange(9, dtype=torch.float64).reshape(3, 3).cos()
    first, second, third = labels.unbind(-2)
    product = first[..., 0] * second[..., 1] * third[..., 2]
    return pairs_of_labels(labels) + (field * labels).sum((-1, -2)) + product


def mixed(spins: Tensor, label: Tensor, grid: Tensor) -> Tensor:
    """Spins, one label, and bits on a grid."""
    tilt = label @ torch.tensor([0.3, -1.0, 0.6], dtype=torch.float64)
    return spins.sum(-1) * tilt + grid.sum((-1, -2)).square() / 2 - grid[..., 0, 1] * label[..., 2]


BITS, SPINS = Site(boolean, torch.Size([3])), Site(spin, torch.Size([2]))
ENERGIES = {
    "cubic": (cubic, {"bits": BITS, "spins": SPINS}),
    "potts": (potts, {"labels": Site(constraints.one_hot, torch.Size([3, 3]))}),
    "mixed": (
        mixed,
        {
            "spins": SPINS,
            "label": Site(constraints.one_hot, torch.Size([3])),
            "grid": Site(boolean, torch.Size([2, 1 + 1])),
        },
    ),
}


def labelled() -> BoltzmannMachine:
    """Two units with three labels each, coupled with each other and with two bits."""
    number = torch.arange(36, dtype=torch.float64)
    inside = (3 * number).sin().reshape(6, 6)
    inside[:3, :3], inside[3:, 3:] = 0, 0
    layers = {
        "label": Layer(Categorical(3), 2, bias=number[:6].cos()),
        "bits": Layer(Bernoulli(), 2, bias=number[:2].cos() - 0.5),
    }
    across = 1.5 * (2 * number[:12]).cos().reshape(6, 2)
    return BoltzmannMachine(
        layers, {("label", "label"): inside + inside.mT, ("label", "bits"): across}
    )


def field() -> RandomField:
    """Three nodes with three labels each on a ring, and a factor of all of them."""
    number = torch.arange(27, dtype=torch.float64)
    pairs = (3 * number).sin().reshape(3, 3, 3)
    return RandomField(
        [3, 3, 3],
        {
            "pairs": TableFactors(torch.tensor(ring_edges(3)), pairs),
            "all": TableFactors([[0, 1, 2]], (5 * number).cos().reshape(1, 3, 3, 3)),
        },
    )


def counts() -> BoltzmannMachine:
    """Two units that a user wrote, with three levels and a potential, and a bit."""
    number = torch.arange(4, dtype=torch.float64)
    layers = {
        "count": Layer(binomial(2), 2, bias=number[:2].cos() - 0.4),
        "bit": Layer(Bernoulli(), 1, bias=number[:1] - 0.3),
    }
    inside = 0.6 * torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    return BoltzmannMachine(
        layers, {("count", "count"): inside, ("count", "bit"): number[:2, None] - 0.7}
    )


BUILT: dict[str, Callable[[], Energy]] = {"labels": labelled, "field": field, "counts": counts}


def callable_energy(name: str) -> CallableEnergy:
    function, sites = ENERGIES[name]
    return CallableEnergy(function, sites, dtype=torch.float64)


def values_of(site: Site) -> Tensor:  # (values, *shape)
    """All values of a discrete site."""
    if site.support is constraints.one_hot:
        *units, values = site.shape
        eye = torch.eye(values, dtype=torch.float64)
        rows = list(itertools.product(eye, repeat=int(torch.Size(units).numel())))
        return torch.stack([torch.stack(row) for row in rows]).reshape(-1, *site.shape)
    levels = (0.0, 1.0) if site.support is boolean else (-1.0, 1.0)
    if isinstance(site.support, constraints.integer_interval):
        levels = tuple(map(float, range(site.support.upper_bound + 1)))
    rows = list(itertools.product(levels, repeat=site.shape.numel()))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, *site.shape)


def states_of(energy: Energy) -> Sites:
    """All joint states."""
    each = [values_of(site) for site in energy.sites.values()]
    grids = torch.meshgrid(*(torch.arange(len(value)) for value in each), indexing="ij")
    index = (grid.flatten() for grid in grids)
    return {s: value[k] for s, value, k in zip(energy.sites, each, index, strict=True)}


def law_of(energy: Energy, states: Sites) -> Tensor:
    return (-energy(states)).softmax(0).detach()


def stepped(kernel: Kernel, energy: Energy) -> Callable[[Sites], Sites]:
    """One step of a kernel from its start."""

    def step(x: Sites) -> Sites:
        return kernel.step(energy, kernel.init(energy, x))[0].x

    return step


def target(name: str) -> tuple[Energy, Sites]:
    """An energy of either table in float64, with its states."""
    if name in BUILT:
        energy = BUILT[name]()
    else:
        energy = SMALL[name].machine() if name in SMALL else callable_energy(name)
    return energy, states_of(energy)


def violations(kernel: Kernel, name: str) -> set[str]:
    energy, states = target(name)
    matrix = matrix_of(stepped(kernel, energy), states)
    return violation_of(matrix, law_of(energy, states)).found()


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", [*SMALL, *ENERGIES, *BUILT])
def test_the_law_is_left_unchanged(name: str, kind: str) -> None:
    if name in SMALL and len(SMALL[name].energies) > 128:
        kind = "gibbs with gradients"  # the others have 4^n outcomes
    assert not violations(KERNELS[kind], name)


@pytest.mark.parametrize("kind", KERNELS)
def test_float32_leaves_the_law_unchanged_to_its_last_digits(kind: str) -> None:
    small = SMALL["general bits and spins"]
    energy = small.machine(torch.float32)
    matrix = matrix_of(stepped(KERNELS[kind], energy), small.tensors(torch.float32))
    assert not violation_of(matrix, torch.tensor(small.probabilities)).found(1e-6)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ["cubic", "labels"])
def test_sites_that_are_not_named_stay_as_they_are(name: str, kind: str) -> None:
    energy, states = target(name)
    moved = next(iter(energy.sites))
    kernel = replace(KERNELS[kind], sites=(moved,))
    matrix = matrix_of(stepped(kernel, energy), states)
    law = law_of(energy, states)
    assert violation_of(matrix, law).found() == {"unreachable"}
    held = torch.cat([v.flatten(1) for s, v in states.items() if s != moved], 1)
    apart = (held[:, None] != held).any(-1)
    assert float(matrix[apart].sum()) == 0
    # Within one value of the others everything is reached.
    same = (~apart).double()
    assert bool((torch.linalg.matrix_power(matrix, 20)[same > 0] > 0).all())


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ["torus", "general bits and spins"])
def test_exact_draws_stay_exact_draws(name: str, kind: str) -> None:
    # α = 1e-6, N = 20,000; what it finds is said in test_exact_starts.py.
    small = SMALL[name]
    assert from_exact_start(small.machine(), KERNELS[kind], small, seed=3) > ALPHA


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", ["cubic", pytest.param("mixed", marks=pytest.mark.slow)])
def test_exact_draws_of_any_energy_stay_exact_draws(name: str, kind: str) -> None:
    assert p_value_after_steps(KERNELS[kind], name) > ALPHA


def p_value_after_steps(kernel: Kernel, name: str) -> float:
    """The least p-value after 1, 4 and 16 steps, times three, of chains that started in law."""
    energy, states = target(name)
    law = law_of(energy, states)
    chosen = torch.multinomial(law, CHAINS, replacement=True)
    state = kernel.init(energy, {site: value[chosen] for site, value in states.items()})
    flat = torch.cat([value.flatten(1) for value in states.values()], 1)
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        reached = torch.cat([value.flatten(1) for value in state.x.values()], 1)
        index = (reached[:, None] == flat).all(-1).double().argmax(1)
        counts = torch.bincount(index, minlength=len(law))
        found.append(chi_square(counts.numpy(), law.numpy()))
    return 3 * min(found)


@pytest.mark.parametrize("kind", KERNELS)
def test_chains_share_no_random_numbers(kind: str) -> None:
    small = SMALL["torus"]
    assert agreements(small.machine(), KERNELS[kind], small, seed=5) > ALPHA


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cubic", "labels", "field", "general bits and spins", "one unit"])
def test_every_random_block_leaves_the_law_unchanged(name: str) -> None:
    energy, states = target(name)
    law = law_of(energy, states)
    kernel = RandomBlocks(size=2)
    units = sum(site.shape.numel() for site in energy.sites.values())
    total = torch.zeros(len(law), len(law), dtype=torch.float64)
    blocks = list(itertools.combinations(range(units), min(2, units)))
    for block in blocks:
        with mock.patch.object(random_blocks, "drawn_block", return_value=list(block)):
            matrix = matrix_of(stepped(kernel, energy), states)
        assert violation_of(matrix, law).found() <= {"unreachable"}
        # Drawn from a joint law: once more is as good as once.
        torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-12)
        total += matrix / len(blocks)
    assert not violation_of(total, law).found()


def test_random_blocks_draw_from_their_law_and_know_their_energy() -> None:
    assert p_value_after_steps(RandomBlocks(size=3), "cubic") > ALPHA
    energy, states = target("cubic")
    kernel = RandomBlocks(("bits",), size=2)
    state = advance(kernel, energy, kernel.init(energy, states), 5)
    torch.testing.assert_close(state.energy, energy(state.x), rtol=1e-12, atol=1e-12)
    assert torch.equal(state.x["spins"], states["spins"])
    assert not torch.equal(state.x["bits"], states["bits"])
    drawn = {tuple(random_blocks.drawn_block(4, 2)) for _ in range(300)}
    assert drawn == set(itertools.permutations(range(4), 2))


def test_blocks_of_groups_leave_the_law_unchanged_and_all_else_as_it_is() -> None:
    energy, states = target("cubic")
    groups = ((("bits", 0), ("spins", 1)), (("bits", 2),))
    kernel = RandomBlocks(size=2, groups=groups)
    law = law_of(energy, states)
    drawn = set()
    for seed in range(12):

        def step(x: Sites, seed: int = seed) -> Sites:
            torch.manual_seed(seed)
            return kernel.decided(energy, 0).step(energy, kernel.init(energy, x))[0].x

        torch.manual_seed(seed)
        drawn.add(frozenset(kernel.decided(energy, 0).units))
        assert violation_of(matrix_of(step, states), law).found() == {"unreachable"}
    assert drawn == {frozenset(group) for group in groups}


@pytest.mark.parametrize("fault", ["wrong sign", "a unit besides"])
def test_a_fault_in_random_blocks_is_found(fault: str) -> None:
    energy, states = target("cubic")
    right = random_blocks.taken

    def faulty(energy: Any, state: Any, every: Any, energies: Tensor, chosen: Tensor) -> Any:
        if fault == "wrong sign":
            return right(energy, state, every, energies, len(energies) - 1 - chosen)
        new = right(energy, state, every, energies, chosen)
        return new._replace(x={**new.x, "spins": -new.x["spins"]})

    with (
        mock.patch.object(random_blocks, "taken", faulty),
        mock.patch.object(random_blocks, "drawn_block", return_value=[0, 3]),
    ):
        matrix = matrix_of(stepped(RandomBlocks(size=2), energy), states)
    assert "stationary" in violation_of(matrix, law_of(energy, states)).found()


def test_bad_blocks_are_refused_with_the_way_out() -> None:
    energy, states = target("cubic")
    with pytest.raises(ValueError, match="positive whole number"):
        RandomBlocks(size=0)
    with pytest.raises(ValueError, match="a size of 12 or less"):
        RandomBlocks(size=13).init(energy, states)
    with pytest.raises(ValueError, match="wanted a tuple of names"):
        RandomBlocks("bits").init(energy, states)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is to move"):
        RandomBlocks(("no",)).init(energy, states)
    counts = Site(constraints.nonnegative_integer, torch.Size([2]))
    numbers = CallableEnergy(lambda n: n.sum(-1), {"n": counts})
    with pytest.raises(ValueError, match="labels of a few values and one-hot"):
        RandomBlocks().init(numbers, {"n": torch.zeros(3, 2)})
    many = Site(constraints.integer_interval(0, 9999), torch.Size([2]))
    wide = CallableEnergy(lambda n: n.sum(-1), {"n": many})
    with pytest.raises(ValueError, match="a MetropolisHastings"):
        RandomBlocks(size=1).init(wide, {"n": torch.zeros(3, 2)})
    for group in ((), (("bits", 3),), (("no", 0),)):
        with pytest.raises(ValueError, match="wanted pairs of a site and the number of a unit"):
            RandomBlocks(groups=(group,)).init(energy, states)
    real = CallableEnergy(lambda x: x.square().sum(-1), 2)
    with pytest.raises(ValueError, match="has none"):
        RandomBlocks().init(real, {"visible": torch.zeros(3, 2)})


# --- the differences themselves ------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SMALL, *BUILT, "potts without the product"])
def test_differences_are_exact_where_the_energy_is_linear_in_every_unit(name: str) -> None:
    if name != "potts without the product":
        energy = target(name)[0]
    else:
        energy = CallableEnergy(pairs_of_labels, ENERGIES["potts"][1], dtype=torch.float64)
    kernel = GibbsWithGradients()
    states = states_of(energy)
    state = DiscreteLangevin(step_size=1.0).init(energy, states)
    torch.testing.assert_close(state.energy, energy(states), rtol=1e-12, atol=1e-12)
    alphabets = kernel.moved(energy)
    halved = gradient_gibbs.halved(state.landscape)
    weights = single_changes(halved, states, alphabets, state.energy.shape)
    for change in range(weights.shape[1]):
        changes = torch.full(state.energy.shape, change)
        x, undoing, _ = change_one(states, changes, alphabets, energy)
        wanted = energy(x) - energy(states)
        possible = weights[:, change].isfinite()
        found = -2 * weights[:, change]
        torch.testing.assert_close(found[possible], wanted[possible], rtol=1e-11, atol=1e-11)
        back, _, _ = change_one(x, undoing, alphabets, energy)
        assert all(torch.equal(back[site][possible], states[site][possible]) for site in states)


def pairs_of_labels(labels: Tensor) -> Tensor:
    """Pairs of units with values of their own."""
    field = torch.arange(9, dtype=torch.float64).reshape(3, 3).sin()
    first, second, third = labels.unbind(-2)
    pairs = torch.einsum("...a,ab,...b->...", first, field, second)
    return pairs + torch.einsum("...a,ab,...b->...", second, field.mT, third)


def test_parameters_of_their_own_for_every_chain_are_used() -> None:
    small = SMALL["general bits and spins"]
    other = varied(small, np.random.default_rng(1))
    energy = stacked([small, other]).machine()
    x = {s: v[:, None].expand(-1, 2, -1).clone() for s, v in small.tensors().items()}
    for kernel in KERNELS.values():
        torch.manual_seed(1)
        state = advance(kernel, energy, kernel.init(energy, x), 3)
        torch.testing.assert_close(state.energy, energy(state.x), rtol=1e-12, atol=1e-12)


def test_the_coding_of_the_units_does_not_matter() -> None:
    bits = SMALL["fully visible bits"].machine()
    spins = bits.to_spins()
    states = SMALL["fully visible bits"].tensors()
    for kernel in KERNELS.values():
        one = matrix_of(stepped(kernel, bits), states)
        other = matrix_of(
            stepped(kernel, spins), {site: 2 * value - 1 for site, value in states.items()}
        )
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_refresh_renews_what_was_computed_from_x_and_the_parameters() -> None:
    small = SMALL["general"]
    machine = small.machine()
    x = random_states(machine, (5,))
    for kernel in KERNELS.values():
        state = kernel.init(machine, x)
        other = varied(small, np.random.default_rng(2)).machine()
        y = random_states(machine, (5,))
        renewed = kernel.refresh(other, state, y)
        fresh = kernel.init(other, y)
        torch.testing.assert_close(renewed.energy, other(y), rtol=1e-12, atol=1e-12)
        for found, value in zip(tensors_of(renewed), tensors_of(fresh), strict=True):
            assert torch.equal(found, value)


def tensors_of(state: Any) -> list[Tensor]:
    """Every tensor of a state, the parameters left out."""
    leaves, _ = torch.utils._pytree.tree_flatten(state)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def test_runs_tell_the_acceptance_and_keep_labels_whole() -> None:
    energy = callable_energy("mixed")
    start = {site: value[:4] for site, value in states_of(energy).items()}
    for kernel in KERNELS.values():
        chains = run(kernel, energy, 50, warmup=10, initial=start, seed=1)
        rate = chains.statistics["acceptance_rate"]
        assert rate.shape == (4, 50)
        assert 0 < float(rate.mean()) <= 1
        assert bool((chains.draws["label"].sum(-1) == 1).all())
        assert bool((chains.statistics["n_flips"].sum() > 0).all())
        last = energy(chains.last)
        torch.testing.assert_close(-chains.statistics["lp"][:, -1], last, rtol=0, atol=1e-10)


# --- tuning --------------------------------------------------------------------------------------


def test_the_warm_up_finds_a_step_size_that_is_accepted_often_enough() -> None:
    small = draw("larger", {"visible": (Spin(), 60)}, [("visible", "visible")], scale=0.1)
    machine = small.machine()
    chains = run(DiscreteLangevin(), machine, 100, warmup=300, chains=20, seed=1)
    assert isinstance(chains.kernel, DiscreteLangevin)
    rate = float(chains.statistics["acceptance_rate"].mean())
    assert rate == pytest.approx(gradient_gibbs.ACCEPTANCE, abs=0.06)
    assert chains.attributes["step_size"] == chains.kernel.step_size
    assert bool((chains.statistics["step_size"] == chains.kernel.step_size).all())


def test_a_step_size_that_is_given_is_kept_and_one_that_is_missing_is_asked_for() -> None:
    machine = SMALL["torus"].machine()
    x = random_states(machine, (4,))
    kernel, _ = warmup(DiscreteLangevin(step_size=0.3), machine, x, steps=20, seed=1)
    assert kernel.step_size == 0.3
    with pytest.raises(ValueError, match="no step_size yet"):
        DiscreteLangevin().init(machine, x)
    # Free units are always accepted: the size stops at its bound.
    free = BoltzmannMachine({"visible": Layer(Bernoulli(), 3, bias=torch.zeros(3))})
    kernel, state = warmup(DiscreteLangevin(), free, {"visible": torch.zeros(4, 3)}, steps=400)
    assert 1 < kernel.step_size <= gradient_gibbs.LARGEST_SIZE
    torch.testing.assert_close(state.energy, free(state.x))


# --- planted faults ------------------------------------------------------------------------------


def no_hastings_term() -> Any:
    return Faults(
        mock.patch.object(gradient_gibbs, "log_chosen", lambda w, i: torch.zeros(i.shape)),
        mock.patch.object(TwoValued, "log_prob", lambda a, x, y, w: 0 * w),
    )


def stale_gradient() -> Any:
    right, first = gradient_gibbs.local_differences, []

    def faulty(*arguments: Any) -> gradient_gibbs.Landscape:
        found = right(*arguments)
        first.append(found.differences)
        here = first[-2] if len(first) % 2 == 0 else found.differences
        return found._replace(differences=here)

    return mock.patch.object(gradient_gibbs, "local_differences", faulty)


def no_metropolis_test() -> Any:
    return patched_metropolis(lambda log_ratio: torch.zeros_like(log_ratio))


def inverted_ratio() -> Any:
    return patched_metropolis(lambda log_ratio: -log_ratio)


def patched_metropolis(change: Callable[[Tensor], Tensor]) -> Any:
    right = gradient_gibbs.metropolis

    def faulty(log_ratio: Tensor) -> Any:
        return right(change(log_ratio))

    return mock.patch.object(gradient_gibbs, "metropolis", faulty)


def wrong_reverse_proposal() -> Any:
    right = gradient_gibbs.single_changes
    weights = DiscreteLangevin.log_weights

    # The reverse of turning a bit is taken to be the same change of the sign of ΔE.
    def negated(weights: Any, x: Sites, *rest: Any) -> Tensor:
        found = right(weights, x, *rest)
        return found if x is starts[-1].x else -found

    def negated_weights(kernel: DiscreteLangevin, state: Any) -> Sites:
        found = weights(kernel, state)
        return found if state is starts[-1] else {site: -value for site, value in found.items()}

    starts: list[Any] = []
    step_of = {kind: kind.step for kind in (GibbsWithGradients, DiscreteLangevin)}

    def stepping(kind: Any) -> Any:
        def step(kernel: Any, energy: Any, state: Any) -> Any:
            starts.append(state)
            return step_of[kind](kernel, energy, state)

        return mock.patch.object(kind, "step", step)

    return Faults(
        mock.patch.object(gradient_gibbs, "single_changes", negated),
        mock.patch.object(DiscreteLangevin, "log_weights", negated_weights),
        *(stepping(kind) for kind in step_of),
    )


class Faults:
    """Several patches as one."""

    def __init__(self, *patches: Any) -> None:
        self.patches = patches

    def __enter__(self) -> None:
        for patch in self.patches:
            patch.start()

    def __exit__(self, *_: object) -> None:
        for patch in self.patches:
            patch.stop()


FAULTS = {
    "no Hastings term": no_hastings_term,
    "stale gradient": stale_gradient,
    "no Metropolis test": no_metropolis_test,
    "inverted ratio": inverted_ratio,
    "wrong reverse proposal": wrong_reverse_proposal,
}


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_transition_matrix_finds_a_fault(fault: str, kind: str) -> None:
    with FAULTS[fault]():
        assert "stationary" in violations(KERNELS[kind], "cubic")
    assert not violations(KERNELS[kind], "cubic")


@pytest.mark.parametrize("name", ["potts", "mixed"])
def test_a_one_hot_change_undone_by_itself_is_found(name: str) -> None:
    right = gradient_gibbs.change_one

    def faulty(x: Sites, change: Tensor, *rest: Any) -> Any:
        return right(x, change, *rest)._replace(undoing=change)

    with mock.patch.object(gradient_gibbs, "change_one", faulty):
        # The change has no way back, and is always refused.
        assert "unreachable" in violations(GibbsWithGradients(), name)


def test_a_kernel_that_moves_a_held_site_is_found() -> None:
    energy, states = target("cubic")
    right = gradient_gibbs.movable
    with mock.patch.object(gradient_gibbs, "movable", lambda e, s, m: right(e, None, m)):
        step = stepped(GibbsWithGradients(("bits",)), energy)
        matrix = matrix_of(step, states)
    apart = (states["spins"][:, None] != states["spins"]).any(-1)
    assert float(matrix[apart].sum()) > 0.1


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [GibbsWithGradients, lambda sites=None: DiscreteLangevin(sites, step_size=0.2)]
)
def test_bad_sites_are_refused_with_the_way_out(kind: Any) -> None:
    machine = SMALL["restricted"].machine()
    x = random_states(machine, (3,))
    for sites, message in [
        ("visible", r"wanted a tuple of names"),
        ((), r"wanted a tuple of names"),
        (("no",), r"is to move \['no'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind(sites).init(machine, x)
    with pytest.raises(ValueError, match="different batch shapes"):
        kind().init(machine, {**x, "hidden": x["hidden"][0]})
    real = CallableEnergy(lambda x: x.square().sum(-1), 2)
    with pytest.raises(ValueError, match=r"the energy has none.*HMC"):
        kind().init(real, {"visible": torch.zeros(3, 2)})
    labels = Site(constraints.integer_interval(0, 2), torch.Size([2]))
    numbered = CallableEnergy(lambda x: x.sum(-1), {"label": labels})
    with pytest.raises(ValueError, match="one_hot"):
        kind().init(numbered, {"label": torch.zeros(3, 2)})
    both = {"label": BITS, "place": Site(constraints.real, torch.Size([2]))}
    energy = CallableEnergy(lambda label, place: label.sum(-1) + place.sum(-1), both)
    values = {"label": torch.zeros(3, 3), "place": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="Cycle"):
        kind(("label", "place")).init(energy, values)
    after = kind().step(energy, kind().init(energy, values))[0].x
    assert torch.equal(after["place"], values["place"])


@pytest.mark.parametrize("step_size", [0.0, -1.0, float("nan")])
def test_a_step_size_is_positive(step_size: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        DiscreteLangevin(step_size=step_size)


@pytest.mark.parametrize("kind", KERNELS)
def test_a_diverged_machine_is_refused(kind: str) -> None:
    machine = SMALL["restricted"].machine(wrap=torch.nn.Parameter)
    with torch.no_grad():
        machine.layers["visible"].bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="biases of 'visible'"):
        KERNELS[kind].init(machine, random_states(SMALL["restricted"].machine(), (3,)))
