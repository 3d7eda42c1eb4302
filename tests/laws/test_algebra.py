"""Energies made of energies: what holds of the parts holds of the whole, and is still known of it.

A case is a small machine whose numbers come from the loops of its parts; it is asked the same laws
as every other machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    Energy,
    Layer,
    PairwiseTerms,
    RandomField,
    TableFactors,
    clamp,
    combined,
    interpolate,
    terms_of,
)
from pyro_ebm.energies.pairwise.overlay import GraphUnion, PairwiseOverlay
from pyro_ebm.kernels import Gibbs, run
from pyro_ebm.partition import exact
from pyro_ebm.sites import Site
from pyro_ebm.units import Bernoulli, Gaussian, Spin
from tests.support import checks
from tests.support.goodness import ALPHA, from_exact_start
from tests.support.machines import SMALL, Small, draw, ring_edges
from tests.support.transitions import transition_matrix, violation

V, H = "visible", "hidden"
Build = Callable[..., Energy]


@dataclass(frozen=True)
class Made(Small):
    """A machine made of others.

    Args:
        weighted: Weights and parts, whose energies by loops are added.
        make: The energy, from those of the parts.
        held: Values that all parts are given, at the places where they are not NaN.
    """

    weighted: tuple[tuple[float, Small], ...] = ()
    make: Build = field(default=lambda *parts: parts[0])
    held: Mapping[str, np.ndarray] = field(default_factory=dict)

    def machine(
        self, dtype: torch.dtype = torch.float64, wrap: Callable[[Tensor], Tensor] = lambda t: t
    ) -> Energy:
        made = self.make(*(part.machine(dtype, wrap) for _, part in self.weighted))
        assert terms_of(made.structure()) is not None
        return made

    def energy(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        total = 0.0
        for weight, part in self.weighted:
            whole = {}
            for name, size in part.sizes.items():
                if name not in self.held:
                    whole[name] = x[name]
                    continue
                batch = next(iter(x.values())).shape[:-1]
                value = np.broadcast_to(self.held[name], (*batch, size)).copy()
                free = np.isnan(self.held[name])
                if free.any():
                    value[..., free] = x[name]
                whole[name] = value
            total = total + weight * part.energy(whole)
        return total


def made(
    make: Build, *weighted: tuple[float, Small], held: Mapping[str, np.ndarray] | None = None
) -> Made:
    """A case, with the layers that are left."""
    units, bias, couplings = {}, {}, {}
    for _, part in weighted:
        couplings.update(part.couplings)
        for name, unit in part.units.items():
            free = np.isnan((held or {}).get(name, np.full(part.sizes[name], np.nan)))
            if free.any():
                units[name], bias[name] = unit, part.bias[name][free]
    couplings = {pair: w for pair, w in couplings.items() if set(pair) <= set(units)}
    return Made(units, bias, couplings, weighted=weighted, make=make, held=held or {})


GENERAL, DEEP = SMALL["general"], SMALL["three kinds of layers"]
OTHER = draw("another general", {V: (Bernoulli(), 4), H: (Bernoulli(), 3)}, [(V, H), (H, H)])
ONLY_VISIBLE = draw("only visible", {V: (Bernoulli(), 4)}, [(V, V)], scale=0.7)
RING = draw("ring", {V: (Spin(), 6)}, edges={(V, V): ring_edges(6)})
SAME_RING = draw("same ring", {V: (Spin(), 6)}, edges={(V, V): ring_edges(6)})
CHORDS = draw("chords", {V: (Spin(), 6)}, edges={(V, V): np.array([[3, 0], [1, 0], [2, 5]])})
DENSE_SPINS = draw("dense six", {V: (Spin(), 6)}, [(V, V)], scale=0.4)
REVERSED = draw("reversed", {H: (Bernoulli(), 3), V: (Bernoulli(), 4)}, [(H, V)])
NAN = np.nan

CASES: dict[str, Made] = {
    "a sum": made(lambda a, b: a + b, (1, GENERAL), (1, OTHER)),
    "a sum over other sites": made(lambda a, b: a + b, (1, GENERAL), (1, ONLY_VISIBLE)),
    "a sum with the ends reversed": made(lambda a, b: a + b, (1, OTHER), (1, REVERSED)),
    "tempered": made(lambda a: a / 2.5, (0.4, DEEP)),
    "colder": made(lambda a: 1.5 * a, (1.5, RING)),
    "a difference": made(lambda a, b: a + (-0.5) * b, (1, GENERAL), (-0.5, OTHER)),
    "interpolated": made(lambda a, b: interpolate(a, b, 0.3), (0.7, GENERAL), (0.3, OTHER)),
    "interpolated on one graph": made(
        lambda a, b: interpolate(a, b, 0.3), (0.7, RING), (0.3, SAME_RING)
    ),
    "interpolated on two graphs": made(
        lambda a, b: interpolate(a, b, torch.tensor(0.3, dtype=torch.float64)),
        (0.7, RING),
        (0.3, CHORDS),
    ),
    "a graph and a dense layer": made(lambda a, b: a + b * 2, (1, RING), (2, DENSE_SPINS)),
    "sums of sums": made(
        lambda a, b, c: 2 * (a + b / 4) + c, (2, RING), (0.5, CHORDS), (1, SAME_RING)
    ),
    "a held site": made(
        lambda a: clamp(a, {H: torch.tensor([1.0, 0.0, 1.0])}),
        (1, GENERAL),
        held={H: np.array([1.0, 0, 1])},
    ),
    "held units of a dense layer": made(
        lambda a: clamp(
            a,
            torch.tensor([1.0, torch.nan, 0.0, torch.nan]),
            mask=torch.tensor([True, False, True, False]),
        ),
        (1, SMALL["general with offsets"]),
        held={V: np.array([1, NAN, 0, NAN])},
    ),
    "held units of a graph": made(
        lambda a: clamp(
            a,
            torch.tensor([-1.0, 0, 0, 1.0, 0, 0]),
            mask=torch.tensor([True, False, False, True, False, False]),
        ),
        (1, RING),
        held={V: np.array([-1, NAN, NAN, 1, NAN, NAN])},
    ),
    "held units of three kinds": made(
        lambda a: clamp(
            a,
            {
                "a": torch.tensor([1, 0, 0]),
                "b": torch.tensor([-1, 1, 1]),
                "c": torch.tensor([0, 1]),
            },
            mask={
                "a": torch.tensor([True, False, False]),
                "b": torch.tensor([False, True, False]),
            },
        ),
        (1, DEEP),
        held={
            "a": np.array([1, NAN, NAN]),
            "b": np.array([NAN, 1, NAN]),
            "c": np.array([0.0, 1]),
        },
    ),
    "held, tempered and added": made(
        lambda a, b: clamp((a + b) / 2, {H: torch.tensor([1.0, 0.0, 1.0])}),
        (0.5, GENERAL),
        (0.5, OTHER),
        held={H: np.array([1.0, 0, 1])},
    ),
}

each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_energies_conditionals_and_free_energies(name: str) -> None:
    assert checks.energy_error(CASES[name]) < 1e-12
    assert checks.conditional_error(CASES[name]) < 1e-12
    assert checks.free_energy_error(CASES[name]) < 1e-12


@each_case
def test_exact_sums(name: str) -> None:
    assert checks.log_partition_error(CASES[name]) < 1e-10
    assert checks.moment_error(CASES[name]) < 1e-10
    assert checks.log_prob_error(CASES[name]) < 1e-10


@each_case
def test_gradients(name: str) -> None:
    assert checks.gradient_error(CASES[name]) < 1e-10
    assert checks.log_partition_gradient_error(CASES[name]) < 1e-10


@each_case
def test_gibbs_leaves_the_law_unchanged(name: str) -> None:
    case = CASES[name]
    assert not violation(case.machine(), Gibbs(), case).found(1e-12)


@pytest.mark.parametrize("name", ["interpolated", "held units of a graph"])
def test_exact_draws_stay_exact_draws(name: str) -> None:
    case = CASES[name]
    assert from_exact_start(case.machine(), Gibbs(), case, seed=3) > ALPHA


# --- a factor for each chain ---------------------------------------------------------------------

BETAS = torch.tensor([0.0, 0.3, 1.0, -0.7], dtype=torch.float64)
LADDERS: dict[str, tuple[Small, Small]] = {
    "dense": (GENERAL, OTHER),
    "graph": (RING, SAME_RING),
    "two graphs": (RING, CHORDS),
    "graph and dense": (RING, DENSE_SPINS),
    "layers": (DEEP, DEEP),
}


@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize("way", ["tempered", "interpolated"])
def test_chains_with_temperatures_of_their_own(name: str, way: str) -> None:
    """Every chain of a batch is that of its own energy: matrix by matrix of the transition."""
    one, other = LADDERS[name]
    first, second = one.machine(), other.machine()
    if way == "tempered":
        together, alone = first * BETAS, [first * float(beta) for beta in BETAS]
    else:
        together = interpolate(first, second, BETAS)
        alone = [interpolate(first, second, float(beta)) for beta in BETAS]
    x = one.tensors()
    stacked = together({site: value[:, None] for site, value in x.items()})
    wanted = torch.stack([energy(x) for energy in alone], -1)
    torch.testing.assert_close(stacked, wanted, rtol=0, atol=1e-12)
    log_z = torch.stack([exact.log_partition(energy) for energy in alone])
    torch.testing.assert_close(exact.log_partition(together), log_z, rtol=0, atol=1e-12)
    matrices = transition_matrix(together, Gibbs(), one)
    for matrix, energy in zip(matrices, alone, strict=True):
        expected = transition_matrix(energy, Gibbs(), one)
        torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)


# --- random fields ------------------------------------------------------------------------------

FIRST = RandomField.potts(
    [(0, 1), (1, 2), (2, 0), (2, 3)],
    [3, 2, 3, 2],
    couplings=torch.linspace(-1, 1, 4, dtype=torch.float64),
    biases=torch.linspace(-0.5, 1, 12, dtype=torch.float64).reshape(4, 3),
)
SECOND = RandomField.potts(
    [(0, 1), (1, 2), (2, 0), (2, 3)],
    [3, 2, 3, 2],
    couplings=torch.tensor([0.7, 0.7, -0.2, 1.0], dtype=torch.float64),
    biases=torch.linspace(1, -1, 12, dtype=torch.float64).reshape(4, 3),
)
THIRD = RandomField(
    [3, 2, 3, 2],
    {
        "edge": TableFactors(
            [[1, 3, 0]],
            torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 2, 2, 3),
        )
    },
)
FIELDS: dict[str, tuple[Energy, Callable[[Tensor], Tensor]]] = {
    "a sum": (FIRST + SECOND, lambda x: FIRST(x) + SECOND(x)),
    "a sum over other factors": (FIRST + THIRD, lambda x: FIRST(x) + THIRD(x)),
    "interpolated": (
        interpolate(FIRST, THIRD, 0.3),
        lambda x: 0.7 * FIRST(x) + 0.3 * THIRD(x),
    ),
    "tempered": (SECOND / 2, lambda x: SECOND(x) / 2),
    "nodes held": (
        clamp(
            FIRST + THIRD, torch.tensor([2, 0, 0, 1]), mask=torch.tensor([True, False, False, True])
        ),
        lambda x: (FIRST + THIRD)(
            torch.cat([torch.full((len(x), 1), 2.0), x, torch.ones(len(x), 1)], 1)
        ),
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_made_of_fields(name: str) -> None:
    energy, by_parts = FIELDS[name]
    x = exact.states(energy)[V]
    wanted = by_parts(x)
    torch.testing.assert_close(energy(x), wanted, rtol=0, atol=1e-12)
    log_z = (-wanted).logsumexp(0)
    torch.testing.assert_close(exact.log_partition(energy), log_z, rtol=0, atol=1e-12)
    p = (-wanted - log_z).exp()
    chain = run(Gibbs(), energy, 200, warmup=20, chains=50, seed=2)
    found = chain.draws[V].double().mean((0, 1))
    torch.testing.assert_close(found, p @ x, rtol=0, atol=0.05)
    for block in energy.blocks(V):
        law = energy.conditional(V, x, block)
        others = torch.ones(x.shape[1], dtype=torch.bool)
        others[block] = False
        same = (x[:, None, others] == x[:, others]).all(-1)
        norm = (same * p).sum(1)
        log_p = law.log_prob(x[:, block]).sum(-1)
        torch.testing.assert_close(log_p, (p / norm).log(), rtol=0, atol=1e-10)


def test_fields_with_temperatures_of_their_own() -> None:
    together = (FIRST + THIRD) * BETAS
    x = exact.states(FIRST)[V]
    wanted = (FIRST(x) + THIRD(x))[:, None] * BETAS
    torch.testing.assert_close(together(x[:, None]), wanted, rtol=0, atol=1e-12)
    log_z = (-wanted).logsumexp(0)
    torch.testing.assert_close(exact.log_partition(together), log_z, rtol=0, atol=1e-12)


def test_what_is_forbidden_stays_so_at_every_temperature_but_the_infinite() -> None:
    table = torch.tensor([[[0.0, -torch.inf], [0.3, 0.0]]])
    field = RandomField([2, 2], {"edge": TableFactors([[0, 1]], table)})
    x = torch.tensor([[0, 1], [1, 0]])
    assert (field * 0.5)(x).tolist() == [torch.inf, pytest.approx(-0.15)]
    assert (field * 0.0)(x).tolist() == [0, 0]


# --- energies of which less is known -------------------------------------------------------------


def quartic(strength: float) -> CallableEnergy:
    return CallableEnergy(lambda x: strength * x.pow(4).sum(-1), 3, dtype=torch.float64)


def test_callables_add_and_keep_their_gradients() -> None:
    first, second = quartic(0.25), quartic(1.0)
    x = {V: torch.randn(5, 3, dtype=torch.float64)}
    total = first + second / 2
    value, gradient = total.energy_and_gradient(x, (V,))
    torch.testing.assert_close(value, 0.75 * x[V].pow(4).sum(-1))
    torch.testing.assert_close(gradient[V], 3 * x[V].pow(3))
    betas = torch.tensor([0.5, 2.0], dtype=torch.float64)
    wide = {V: x[V][:, None].expand(5, 2, 3)}
    value, gradient = (first * betas).energy_and_gradient(wide, (V,))
    torch.testing.assert_close(value, betas * first(x)[:, None])
    torch.testing.assert_close(gradient[V], betas[:, None] * wide[V].pow(3))


def test_a_machine_and_a_callable_add_over_all_their_sites() -> None:
    machine = BoltzmannMachine.fully_visible(3, couplings=torch.ones(3, 3).double())
    product = CallableEnergy(
        lambda visible, z: z.square().sum(-1) * visible.sum(-1),
        {
            V: Site(machine.sites[V].support, torch.Size([3])),
            "z": Site(constraints.real, torch.Size([2])),
        },
        dtype=torch.float64,
    )
    total = machine + product
    x = {V: torch.tensor([[1.0, 0, 1], [0, 0, 1]]), "z": torch.randn(2, 2).double()}
    assert list(total.sites) == [V, "z"]
    torch.testing.assert_close(total(x), machine(x[V]) + product(x))


def test_held_elements_of_a_callable() -> None:
    energy = quartic(0.25)
    held = clamp(
        energy,
        torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
        mask=torch.tensor([True, False, True]),
    )
    x = torch.randn(2, 1, dtype=torch.float64)
    whole = held.complete(x)[V]
    torch.testing.assert_close(whole[:, [0, 2]], torch.tensor([[1.0, 3], [4, 6]]).double())
    torch.testing.assert_close(held(x), energy(whole))
    value, gradient = held.energy_and_gradient({V: x}, (V,))
    torch.testing.assert_close(value, energy(whole))
    torch.testing.assert_close(gradient[V], x.pow(3))
    shaped = CallableEnergy(lambda x: x.square().flatten(1).sum(-1), (2, 2))
    corner = clamp(shaped, torch.ones(2, 2), mask=torch.tensor([[True, False], [False, False]]))
    assert corner.sites[V].shape == (3,)
    assert corner.complete(torch.zeros(3))[V].tolist() == [[1, 0], [0, 0]]


def test_interpolated_gaussians_are_gaussian() -> None:
    def layer(precision: Tensor, coupling: float) -> BoltzmannMachine:
        weight = torch.tensor([[0, coupling], [coupling, 0]]).double()
        bias = torch.tensor([0.3, -1]).double()
        return BoltzmannMachine(
            {"z": Layer(Gaussian(precision), 2, bias=bias)}, {("z", "z"): weight}
        )

    first = layer(torch.tensor([1.0, 2.0]).double(), 0.5)
    second = layer(torch.tensor([4.0, 0.5]).double(), -0.3)
    between = interpolate(first, second, 0.25)
    expected = layer(torch.tensor([1.75, 1.625]).double(), 0.3)
    x = torch.randn(6, 2).double()
    torch.testing.assert_close(between(x), expected(x))
    torch.testing.assert_close(exact.log_partition(between), exact.log_partition(expected))
    with pytest.raises(ValueError, match="cannot be normalised"):
        exact.log_partition(first + (-1.0) * second)


def test_a_learned_weight_and_learned_parts_are_learned() -> None:
    machine = SMALL["restricted"].machine(wrap=nn.Parameter)
    share = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    total = interpolate(machine, OTHER.machine(), share)
    # 1 − share is no parameter but has a history, share itself is one.
    x = SMALL["restricted"].tensors()
    (slope,) = torch.autograd.grad(total(x).sum(), share)
    wanted = (OTHER.machine()(x) - machine(x)).sum()
    torch.testing.assert_close(slope, wanted.detach())
    names = {name.split(".")[-1] for name, _ in total.named_parameters()}
    assert {"weight", "bias"} <= names


def test_missing_pixels_are_drawn_given_the_others() -> None:
    small = SMALL["restricted"]
    machine = small.machine()
    mask = torch.tensor([True, True, False, False])
    seen = torch.tensor([1.0, 0, torch.nan, torch.nan])
    rest = clamp(machine, seen, mask=mask)
    chains = run(Gibbs(), rest, 500, warmup=50, chains=20, seed=1)
    found = chains.draws[V].double().mean((0, 1))
    states = small.states[V]
    p = small.probabilities * (states[:, 0] == 1) * (states[:, 1] == 0)
    wanted = (p / p.sum()) @ states[:, 2:]
    np.testing.assert_allclose(found.numpy(), wanted, atol=0.03)


# --- planted faults ------------------------------------------------------------------------------


def forgets_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PairwiseOverlay.weighted

    def weighted(found: PairwiseOverlay, weights: list) -> PairwiseTerms:
        return right(found, [torch.ones_like(weight) for weight in weights])

    monkeypatch.setattr(PairwiseOverlay, "weighted", weighted)


def forgets_the_held_potential(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PairwiseTerms.held

    def held(terms: PairwiseTerms, *arguments: object) -> PairwiseTerms:
        return replace(right(terms, *arguments), constant=terms.constant)

    monkeypatch.setattr(PairwiseTerms, "held", held)


def misplaces_free_units(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PairwiseTerms.held

    def held(terms: PairwiseTerms, *arguments: object) -> PairwiseTerms:
        site, features, kept, colours = arguments
        return right(terms, site, features, kept.flip(0), colours)

    monkeypatch.setattr(PairwiseTerms, "held", held)


def drops_an_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    right = GraphUnion.links

    def links(union: GraphUnion, graphs: list) -> list:
        found = right(union, graphs)
        return [
            one.weighted(one.weight * (torch.arange(one.weight.shape[-1]) > 0)) for one in found
        ]

    monkeypatch.setattr(GraphUnion, "links", links)


FAULTS = {
    "weights forgotten": (forgets_the_weight, "interpolated"),
    "held potential forgotten": (forgets_the_held_potential, "held units of a dense layer"),
    "free units misplaced": (misplaces_free_units, "held units of a dense layer"),
    "an edge dropped": (drops_an_edge, "interpolated on two graphs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, name = FAULTS[fault]
    plant(monkeypatch)
    assert checks.energy_error(CASES[name]) > 1e-6


# --- refusals ------------------------------------------------------------------------------------

BITS, SPINS = BoltzmannMachine.fully_visible(3), BoltzmannMachine.fully_visible(3, unit=Spin())
MASK = torch.tensor([True, False, True])
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "an energy times an energy": (lambda: BITS * SPINS, TypeError, "unsupported operand"),
    "an energy plus a word": (lambda: BITS + "1", TypeError, "unsupported operand"),
    "times a word": (lambda: BITS * "2", TypeError, "wanted a number or a tensor"),
    "times NaN": (lambda: BITS * float("nan"), ValueError, "NaN or an infinite"),
    "times complex": (lambda: BITS * torch.tensor(1j), TypeError, "wanted numbers"),
    "a temperature of zero": (lambda: BITS / 0, ZeroDivisionError, "division by zero"),
    "other units": (lambda: BITS + SPINS, ValueError, "'visible' is .* in one energy"),
    "other sizes": (
        lambda: BITS + BoltzmannMachine.fully_visible(4),
        ValueError,
        "agree on it",
    ),
    "other dtypes": (
        lambda: BITS + BoltzmannMachine.fully_visible(3).double(),
        ValueError,
        "convert one",
    ),
    "nothing combined": (lambda: combined([]), ValueError, "at least"),
    "no energy": (
        lambda: combined([(1.0, torch.relu)]),
        TypeError,
        "wanted an energy|is none",
    ),
    "everything held": (lambda: clamp(BITS, torch.ones(3)), ValueError, "nothing is free"),
    "an unknown site": (lambda: clamp(BITS, {"other": torch.ones(3)}), ValueError, "'other'"),
    "a value outside": (
        lambda: clamp(BITS, torch.tensor([2.0, 0, 1]), mask=MASK),
        ValueError,
        r"contains 2, which is not in \{0, 1\}",
    ),
    "NaN in a held element": (
        lambda: clamp(BITS, torch.tensor([torch.nan, 0, 1]), mask=MASK),
        ValueError,
        "NaN or infinite",
    ),
    "a mask of numbers": (
        lambda: clamp(BITS, torch.ones(3), mask=MASK.float()),
        ValueError,
        "wanted booleans",
    ),
    "a mask of another shape": (
        lambda: clamp(BITS, torch.ones(3), mask=MASK[:2]),
        ValueError,
        r"wanted booleans \(3,\)",
    ),
    "a mask without values": (
        lambda: clamp(BITS, {}, mask={V: MASK}),
        ValueError,
        "no values",
    ),
    "an array of numbers for a mask": (
        lambda: clamp(BITS, torch.ones(3), mask=MASK.int().numpy()),
        ValueError,
        r"int32.*wanted booleans",
    ),
    "a list for a mask": (
        lambda: clamp(BITS, torch.ones(3), mask=[True, False, True]),
        TypeError,
        "wanted booleans",
    ),
    "a bare array beside a dict": (
        lambda: clamp(BITS, {V: torch.ones(3)}, mask=MASK.numpy()),
        TypeError,
        "by site too",
    ),
    "a bare mask beside a dict": (
        lambda: clamp(BITS, {V: torch.ones(3)}, mask=MASK),
        TypeError,
        "by site too",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    attempt, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        attempt()


@pytest.mark.parametrize("by_site", [False, True])
def test_a_mask_may_be_an_array(by_site: bool) -> None:
    array = np.array([True, True, False])[::-1]  # a view with a negative stride
    x = torch.tensor([1.0, 0.0, 1.0])
    found = clamp(BITS, {V: x} if by_site else x, mask={V: array} if by_site else array)
    assert torch.equal(found.complete(torch.zeros(1, 1))[V], torch.tensor([[0.0, 0.0, 1.0]]))
