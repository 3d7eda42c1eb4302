"""Weighted sums of energies that know their conditional laws know theirs: by transition matrices.

The law of a sum is that of the energies of its parts, each evaluated for itself. Right sums give
|πT − π| of 1e-16; the smallest of the faults planted here gives 1e-3.
"""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    Layer,
    ModelEnergy,
    RandomField,
    TableFactors,
    UnbatchedModelWarning,
    clamp,
    combined,
    without_terms as algebra,
)
from pyro_ebm.energies.composition.path import Path
from pyro_ebm.kernels import HMC, Cycle, Gibbs, ParallelTempering, RandomBlocks, choose_kernel
from pyro_ebm.kernels.composite.reference import reference_of
from pyro_ebm.kernels.discrete.gibbs import GibbsState
from pyro_ebm.kernels.start import check_reference
from pyro_ebm.sites import Site, Sites, boolean, values_at
from pyro_ebm.units import Bernoulli, Categorical, FiniteLaw
from tests.support.models import CASES as MODELS, numbers, real
from tests.support.outcomes import matrix_of, violation_of

V = "visible"
BITS = torch.tensor([0.2, 0.5, 0.7, 0.6]).double()
PAIRS = numbers(4, 4, seed=40)
Weighted = list[tuple[float, Energy]]


# --- parts ---------------------------------------------------------------------------------------


def ring() -> None:
    """Four bits that see their neighbours, two each."""
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Bernoulli(BITS))
        pyro.sample("seen", dist.Normal(z + 0.8 * z.roll(1, -1), 0.9), obs=numbers(4, seed=41))


def apart() -> None:
    """The same bits, independent."""
    level = pyro.sample("level", dist.Normal(real(0.0), 1.0))
    with pyro.plate("n", 4):
        z = pyro.sample("z", dist.Bernoulli(BITS))
        pyro.sample("seen", dist.Normal(z + level, 0.7), obs=numbers(4, seed=42))


def grid(along_rows: bool) -> Callable[[], None]:
    """Bits in two plates, coupled along one of them."""

    def model() -> None:
        with pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(real(0.4)))
            other = z.roll(1, -2 if along_rows else -1)
            pyro.sample("seen", dist.Normal(z - other, 0.8), obs=numbers(2, 2, seed=43))

    return model


def hot() -> None:
    levels = pyro.sample("levels", dist.Normal(real(0.0).expand(3), 1.0).to_event(1))
    with pyro.plate("n", 2):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3]).double()))
        pyro.sample("y", dist.Normal(z @ levels, 0.6), obs=numbers(2, seed=44))


def hot_and_coupled() -> None:
    with pyro.plate("n", 2):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.4, 0.2, 0.4]).double()))
    pyro.sample("y", dist.Normal(z.sum(-2) @ numbers(3, seed=45), 0.6), obs=real(0.3))


def prior(energy: Energy, noise: float) -> Callable[[], None]:
    """A site that is an energy, seen through noise, one element at a time."""

    def model() -> None:
        z = pyro.sample("z", EnergyDistribution.up_to_constant(energy))
        level = pyro.sample("level", dist.Normal(real(0.0), 1.0))
        with pyro.plate("n", 3):
            pyro.sample("seen", dist.Normal(z + level, noise), obs=numbers(3, seed=46))

    return model


MACHINE = BoltzmannMachine.fully_visible(
    3, couplings=(numbers(3, 3, seed=47) + numbers(3, 3, seed=47).T) * (1 - torch.eye(3).double())
)
MACHINE = MACHINE.double()
FIELD = RandomField.potts(
    [(0, 1), (1, 2)],
    3,
    couplings=torch.tensor([0.9, -0.6]).double(),
    biases=numbers(3, 3, seed=48),
)
RBM = BoltzmannMachine.restricted(
    3,
    2,
    couplings=1.5 * numbers(3, 2, seed=34),
    biases={V: numbers(3, seed=35), "hidden": numbers(2, seed=36)},
)
LABELS = BoltzmannMachine(
    {V: Layer(Categorical(3), 4, bias=numbers(12, seed=49))},
    {(V, V): 0.5 * (numbers(12, 12, seed=50) + numbers(12, 12, seed=50).T)},
)
CHAIN = RandomField.potts(
    [(0, 1), (1, 2), (2, 3)],
    3,
    couplings=torch.tensor([0.9, -0.6, 0.4]).double(),
    biases=numbers(4, 3, seed=51),
)
MIXED = RandomField.potts(
    [(0, 1), (1, 2)],
    [3, 2, 3],
    couplings=torch.tensor([0.9, -0.6]).double(),
    biases=numbers(3, 3, seed=52),
)


def machine_of_bits(site: str, *, coupled: bool) -> BoltzmannMachine:
    layers = {site: Layer(Bernoulli(), 4, bias=numbers(4, seed=53))}
    pairs = (PAIRS + PAIRS.T) * (1 - torch.eye(4).double())
    return BoltzmannMachine(layers, {(site, site): pairs} if coupled else {})


def independent_bits() -> DistributionEnergy:
    return DistributionEnergy(dist.Bernoulli(BITS.flip(0)).to_event(1), site="z")


def model(name: str) -> ModelEnergy:
    case = MODELS[name]
    with warnings.catch_warnings():
        if not case.batched:
            warnings.simplefilter("ignore", UnbatchedModelWarning)
        return ModelEnergy(case.model, *case.args)


def labels_distribution() -> DistributionEnergy:
    law = dist.Categorical(logits=numbers(4, 3, seed=54)).to_event(1)
    return DistributionEnergy(law)


def unequal_counts() -> DistributionEnergy:
    law = dist.Binomial(torch.tensor([2.0, 3.0]).double(), real(0.3)).to_event(1)
    return DistributionEnergy(law, site="some")


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum:
    """A weighted sum.

    Args:
        parts: The weights and the parts.
        blocks: By site how many blocks of how many elements.
        make: The energy, from weights and parts; their sum if left out.
        whole: Values of all the parts' sites, from those of the sum.
    """

    parts: Callable[[], Weighted]
    blocks: dict[str, tuple[int, ...]]
    make: Callable[[Weighted], Energy] = combined
    whole: Callable[[Sites], Sites] = lambda x: x


def hold(**values: Tensor) -> Callable[[Sites], Sites]:
    """The values of the parts where whole sites are held."""

    def whole(x: Sites) -> Sites:
        count = len(next(iter(x.values())))
        return {**x, **{name: v.double().expand(count, *v.shape) for name, v in values.items()}}

    return whole


LAST = torch.tensor([False, False, False, True])


def last_held(x: Sites) -> Sites:
    return {**x, "z": torch.cat([x["z"], torch.ones(len(x["z"]), 1).double()], 1)}


def clamped_last(weighted: Weighted) -> Energy:
    return clamp(combined(weighted), {"z": torch.ones(4)}, mask={"z": LAST})


HOT = torch.tensor([[0.0, 1, 0], [0, 0, 0]]).double()


def clamped_unit(weighted: Weighted) -> Energy:
    mask = torch.tensor([[True] * 3, [False] * 3])
    return clamp(combined(weighted), {"z": HOT}, mask={"z": mask})


def unit_held(x: Sites) -> Sites:
    return {**x, "z": torch.stack([HOT[0].expand(len(x["z"]), 3), x["z"]], 1)}


def clamped_parts(weighted: Weighted) -> Energy:
    return combined(
        [(w, clamp(energy, {"z": torch.ones(4)}, mask={"z": LAST})) for w, energy in weighted]
    )


SUMS: dict[str, Sum] = {
    "a model, tempered": Sum(lambda: [(0.4, ModelEnergy(ring))], {"z": (1,) * 4}),
    "a plate, tempered": Sum(lambda: [(0.4, ModelEnergy(apart))], {"z": (4,)}),
    "two models": Sum(
        lambda: [(0.7, ModelEnergy(apart)), (0.6, ModelEnergy(ring))], {"z": (1,) * 4}
    ),
    "two plates, each in one of them": Sum(
        lambda: [(0.7, ModelEnergy(grid(True))), (1.2, ModelEnergy(grid(False)))], {"z": (1,) * 4}
    ),
    "the same plate twice": Sum(
        lambda: [(0.7, ModelEnergy(grid(True))), (-0.3, ModelEnergy(grid(True)))], {"z": (2, 2)}
    ),
    "a model and a law": Sum(
        lambda: [(0.3, ModelEnergy(apart)), (0.7, independent_bits())], {"z": (4,)}
    ),
    "a model and a machine without couplings": Sum(
        lambda: [(0.3, ModelEnergy(apart)), (0.7, machine_of_bits("z", coupled=False))],
        {"z": (4,)},
    ),
    "a model and a machine": Sum(
        lambda: [(1.0, ModelEnergy(apart)), (0.5, machine_of_bits("z", coupled=True))],
        {"z": (1,) * 4},
    ),
    "a field and a machine": Sum(lambda: [(0.8, CHAIN), (0.5, LABELS)], {V: (1,) * 4}),
    "a field and a law": Sum(lambda: [(0.8, CHAIN), (1.5, labels_distribution())], {V: (2, 2)}),
    "laws alone": Sum(lambda: [(0.5, labels_distribution())], {V: (4,)}),
    "unequal counts": Sum(lambda: [(0.5, unequal_counts())], {"some": (2,)}),
    "a model of unequal counts": Sum(
        lambda: [(0.5, model("counts")), (0.5, unequal_counts())], {"some": (2,), "total": (1,)}
    ),
    "one-hot": Sum(lambda: [(0.6, ModelEnergy(hot))], {"z": (2,)}),
    "one-hot in two models": Sum(
        lambda: [(0.6, ModelEnergy(hot)), (0.5, ModelEnergy(hot_and_coupled))], {"z": (1, 1)}
    ),
    "nested plates": Sum(lambda: [(1.3, model("nested plates"))], {"group": (2,), "member": (4,)}),
    "two that depend": Sum(
        lambda: [(0.5, model("two that depend"))], {"first": (1,), "second": (1,)}
    ),
    "a site summed out": Sum(
        lambda: [(0.5, model("one summed, one drawn"))], {"first": (1,), "second": (1,)}
    ),
    "not batched": Sum(lambda: [(0.5, model("branch"))], {"bit": (1,), "other": (1, 1)}),
    "a machine in a model": Sum(lambda: [(0.4, ModelEnergy(prior(MACHINE, 0.6)))], {"z": (1,) * 3}),
    "a machine in a model, and a law": Sum(
        lambda: [
            (0.4, ModelEnergy(prior(MACHINE, 0.6))),
            (0.6, DistributionEnergy(dist.Bernoulli(BITS[:3]).to_event(1), site="z")),
        ],
        {"z": (1,) * 3},
    ),
    "a field in a model": Sum(lambda: [(0.4, ModelEnergy(prior(FIELD, 0.6)))], {"z": (1,) * 3}),
    "a field of mixed states in a model": Sum(
        lambda: [(0.4, ModelEnergy(prior(MIXED, 0.6)))], {"z": (1,) * 3}
    ),
    "hidden units in a model": Sum(lambda: [(0.4, ModelEnergy(prior(RBM, 0.6)))], {"z": (1,) * 3}),
    "two energies in models": Sum(
        lambda: [(0.4, ModelEnergy(prior(MACHINE, 0.6))), (0.5, ModelEnergy(prior(MACHINE, 2.0)))],
        {"z": (1,) * 3},
    ),
    "a model with a site held": Sum(
        lambda: [(1.0, ModelEnergy(apart))],
        {"z": (4,)},
        lambda weighted: clamp(combined(weighted), {"level": real(0.7)}),
        hold(level=real(0.7)),
    ),
    "a model with an element held": Sum(
        lambda: [(1.0, ModelEnergy(ring))], {"z": (1,) * 3}, clamped_last, last_held
    ),
    "a sum with an element held": Sum(
        lambda: [(0.3, ModelEnergy(apart)), (0.7, independent_bits())],
        {"z": (3,)},
        clamped_last,
        last_held,
    ),
    "a sum of parts with an element held": Sum(
        lambda: [(0.3, ModelEnergy(apart)), (0.7, independent_bits())],
        {"z": (3,)},
        clamped_parts,
        last_held,
    ),
    "a one-hot unit held": Sum(
        lambda: [(0.6, ModelEnergy(hot_and_coupled))], {"z": (1,)}, clamped_unit, unit_held
    ),
    "a field with nodes held, and a law": Sum(
        lambda: [(0.8, CHAIN), (1.5, labels_distribution())],
        {V: (2, 1)},
        lambda weighted: clamp(combined(weighted), {V: torch.ones(4)}, mask={V: LAST}),
        lambda x: {V: torch.cat([x[V], torch.ones(len(x[V]), 1).double()], 1)},
    ),
}

each_sum = pytest.mark.parametrize("name", SUMS)


def site_states(site: Site) -> Tensor:  # (states, *shape)
    """All the values of a site, element by element."""
    values = values_at(site)
    assert values is not None
    elements = site.shape[: len(site.shape) - (values.dim() - 1)].numel()
    chosen = torch.tensor(list(itertools.product(range(len(values)), repeat=elements)))
    found = values[chosen.reshape(-1, elements)].reshape(-1, *site.shape)
    inside = site.support.check(found).reshape(len(found), -1).all(1)
    return found[inside]


def all_states(energy: Energy) -> Sites:
    """All the states of the discrete sites, the real ones at some number."""
    discrete = {name: site for name, site in energy.sites.items() if site.support.is_discrete}
    each = [site_states(site) for site in discrete.values()]
    number = torch.cartesian_prod(*[torch.arange(len(values)) for values in each])
    number = number.reshape(len(number), len(each))
    count = len(number)
    return {
        name: each[list(discrete).index(name)][number[:, list(discrete).index(name)]]
        if name in discrete
        else torch.full((count, *site.shape), 0.3).double()
        for name, site in energy.sites.items()
    }


def log_law(case: Sum, x: Sites) -> Tensor:  # (states,)
    """ln p up to a constant, by the parts."""
    whole = case.whole(x)
    total = 0.0
    for weight, part in case.parts():
        total = total - weight * part({name: whole[name] for name in part.sites})
    assert isinstance(total, Tensor)
    return total.detach()


def possible(case: Sum, x: Sites) -> tuple[Sites, Tensor]:
    """The states of finite energy, and their law."""
    log_p = log_law(case, x)
    kept = log_p.isfinite()
    return {name: value[kept] for name, value in x.items()}, log_p[kept].softmax(0)


def step_of(energy: Energy, sites: tuple[str, ...]) -> Callable[[Sites], Sites]:
    kernel = Gibbs(sites)

    def step(x: Sites) -> Sites:
        state, _ = kernel.step(energy, kernel.init(energy, x))
        return state.x

    return step


def violations(case: Sum) -> set[str]:
    energy = case.make(case.parts())
    x, law = possible(case, all_states(energy))
    return violation_of(matrix_of(step_of(energy, tuple(case.blocks)), x), law).found()


@each_sum
def test_gibbs_leaves_the_law_unchanged(name: str) -> None:
    assert not violations(SUMS[name])


@each_sum
def test_units_go_together_where_they_are_independent_in_every_part(name: str) -> None:
    case = SUMS[name]
    energy = case.make(case.parts())
    for site, wanted in case.blocks.items():
        every = torch.arange(energy.sites[site].shape.numel())
        blocks = [every[block] for block in energy.blocks(site)]
        assert sorted((len(block) for block in blocks), reverse=True) == sorted(
            wanted, reverse=True
        )
        assert torch.equal(torch.cat([block.flatten() for block in blocks]).sort().values, every)


@each_sum
def test_conditional_laws_are_ratios_of_the_law(name: str) -> None:
    case = SUMS[name]
    energy = case.make(case.parts())
    x, law = possible(case, all_states(energy))
    flat = {site: value.reshape(len(law), -1) for site, value in x.items()}
    for site in case.blocks:
        for block in energy.blocks(site):
            found = energy.conditional(site, x, block)
            assert isinstance(found, FiniteLaw)
            rest = {n: v.clone() for n, v in flat.items()}
            units = torch.arange(flat[site].shape[1])[block]
            rest[site][:, units.flatten()] = 0
            key = torch.cat(list(rest.values()), 1)
            same = (key[:, None] == key).all(-1)
            wanted = (law / (same * law).sum(1)).log()
            log_prob = found.log_prob(flat[site][:, units]).sum(-1)
            torch.testing.assert_close(log_prob, wanted, rtol=0, atol=1e-9)


# --- a weight for each level ---------------------------------------------------------------------

BETAS = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
LADDERS: dict[str, Callable[[], tuple[Energy, Energy | None]]] = {
    "a model": lambda: (ModelEnergy(ring), None),
    "a plate and a law": lambda: (ModelEnergy(ring), independent_bits()),
    "a field and a law": lambda: (CHAIN, labels_distribution()),
    "a field and a machine": lambda: (CHAIN, LABELS),
    "one-hot": lambda: (ModelEnergy(hot_and_coupled), None),
    "unequal counts": lambda: (model("counts"), None),
    "a machine in a model": lambda: (ModelEnergy(prior(MACHINE, 0.6)), None),
    "a field in a model": lambda: (ModelEnergy(prior(MIXED, 0.6)), None),
    "a machine in plates": lambda: (ModelEnergy(machines_in_a_plate), None),
    "a site held": lambda: (clamp(ModelEnergy(apart), {"level": real(0.2)}), independent_bits()),
}


def machines_in_a_plate() -> None:
    with pyro.plate("images", 2):
        z = pyro.sample("z", EnergyDistribution.up_to_constant(PAIR))
        pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=numbers(2, 2, seed=55))


PAIR = BoltzmannMachine.fully_visible(2, couplings=torch.tensor([[0.0, 1.5], [1.5, 0.0]]).double())
PAIR = PAIR.double()


def states_of_levels(energy: Energy, reference: Energy | None) -> tuple[Sites, Tensor]:
    """The states of every level, with its number as a site of its own; and ln p by the parts.

    At β = 0 also those states that only the target forbids.
    """
    x = all_states(energy)
    found, log_p = [], []
    for level, beta in enumerate(BETAS):
        total = 0.0 if beta == 0 else -beta * energy(x)
        if reference is not None:
            own = {name: x[name] for name in reference.sites}
            total = total - (1 - beta) * reference(own)
        total = torch.as_tensor(total).double().detach().expand(len(next(iter(x.values()))))
        kept = total.isfinite()
        found.append(
            {n: v[kept] for n, v in x.items()} | {"rung": torch.full((int(kept.sum()),), level)}
        )
        log_p.append(total[kept].log_softmax(0))
    states = {n: torch.cat([x[n] for x in found]) for n in found[0]}
    return states, torch.cat(log_p)


def violations_of_levels(name: str) -> set[str]:
    """A sweep of chains that have weights of their own."""
    energy, reference = LADDERS[name]()
    sites = tuple(n for n, site in energy.sites.items() if site.support.is_discrete)
    states, log_p = states_of_levels(energy, reference)

    def step(x: Sites) -> Sites:
        path = Path.between(reference, energy).at(BETAS[x["rung"].long()])
        values = {n: v for n, v in x.items() if n != "rung"}
        return {**step_of(path, sites)(values), "rung": x["rung"]}

    matrix = matrix_of(step, states)
    found = violation_of(matrix, log_p.exp() / len(BETAS)).found()
    inside = all(
        bool((torch.linalg.matrix_power(matrix[own][:, own], 8) > 0).all())
        for own in (states["rung"] == level for level in range(len(BETAS)))
    )
    return found - {"unreachable"} | (set() if inside else {"unreachable"})


@pytest.mark.parametrize("name", LADDERS)
def test_chains_with_weights_of_their_own(name: str) -> None:
    assert not violations_of_levels(name)


@pytest.mark.parametrize("name", LADDERS)
def test_levels_in_the_last_batch_dimension(name: str) -> None:
    """Conditional laws of (chains, levels) are those of each level alone."""
    energy, reference = LADDERS[name]()
    x = all_states(energy)
    finite = energy(x).isfinite()
    x = {n: v[finite] for n, v in x.items()}
    together, count = Path.between(reference, energy).at(BETAS), len(BETAS)
    levels = {n: v.unsqueeze(1).expand(-1, count, *v.shape[1:]) for n, v in x.items()}
    for site in (n for n, site in energy.sites.items() if site.support.is_discrete):
        for k, beta in enumerate(BETAS):
            alone = Path.between(reference, energy).at(beta)
            for block in alone.blocks(site):
                own = alone.conditional(site, x, block)
                of_all = together.conditional(site, levels, block)
                assert of_all.batch_shape[:2] == (int(finite.sum()), count)
                values = own.enumerate_support(expand=False)
                found = of_all.log_prob(values.unsqueeze(1))[:, :, k]
                torch.testing.assert_close(found, own.log_prob(values), rtol=0, atol=1e-12)


# --- planted faults ------------------------------------------------------------------------------


def first_dropped(weighted: list, *rest: object) -> Tensor:
    """The first part counts with the weight 1."""
    (_, first), *others = weighted
    return right_weights([(torch.ones(()).double(), first), *others], *rest)


def levels_mixed_up(weighted: list, *rest: object) -> Tensor:
    """Each chain has the weight of another."""
    return right_weights([(w.roll(1, 0) if w.dim() else w, e) for w, e in weighted], *rest)


def blocks_of_the_first(size: int, partitions: list, device: torch.device) -> object:
    return partitions[0]


def without_weight(*parts: object) -> object:
    found = right_swept(*parts)  # type: ignore[arg-type]
    return found and found._replace(weight=torch.ones(()).double())


def without_others(*parts: object) -> object:
    found = right_swept(*parts)  # type: ignore[arg-type]
    return found and found._replace(others=[])


def although_hidden(weighted: list, site: str) -> object:
    ((weight, energy),) = weighted
    return algebra.SweptPart(weight, energy, [])


right_swept = algebra.swept_part


def nothing_forbidden(site: Site, values: Tensor) -> None:
    """An element may have the values of any other."""


right_weights = algebra.weighted_log_weights
FAULTS: dict[str, tuple[str, object, Callable[[], set[str]]]] = {
    "a weight dropped": (
        "weighted_log_weights",
        first_dropped,
        lambda: violations(SUMS["a model and a law"]),
    ),
    "a weight dropped beside a field": (
        "weighted_log_weights",
        first_dropped,
        lambda: violations(SUMS["a field and a law"]),
    ),
    "the blocks of one part": (
        "common_blocks",
        blocks_of_the_first,
        lambda: violations(SUMS["a model and a machine"]),
    ),
    "levels mixed up": (
        "weighted_log_weights",
        levels_mixed_up,
        lambda: violations_of_levels("a plate and a law"),
    ),
    "the weight of a swept energy dropped": (
        "swept_part",
        without_weight,
        lambda: violations(SUMS["a machine in a model, and a law"]),
    ),
    "the other parts of a swept energy dropped": (
        "swept_part",
        without_others,
        lambda: violations(SUMS["a machine in a model, and a law"]),
    ),
    "hidden units drawn at every weight": (
        "swept_part",
        although_hidden,
        lambda: violations(SUMS["hidden units in a model"]),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong, violated = FAULTS[fault]
    monkeypatch.setattr(algebra, name, wrong)
    assert "stationary" in violated()


def test_blocks_of_one_part_are_refused_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "common_blocks", blocks_of_the_first)
    for name, message in (("two models", "depend on each other"), ("a field and a law", None)):
        case = SUMS[name]
        if message is None:  # whose first part has the smaller blocks
            assert not violations(case)
            continue
        with pytest.raises(ValueError, match=message):
            violations(case)


def test_values_that_only_other_elements_have_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "allowed_values", nothing_forbidden)
    with pytest.raises(AssertionError, match="left the listed states"):
        violations_of_levels("unequal counts")


# --- what is known, and what is said -------------------------------------------------------------


def cosine(z: Tensor) -> Tensor:
    return z.cumsum(-1).cos().sum(-1)


UNKNOWN = CallableEnergy(cosine, {"z": Site(boolean, torch.Size([4]))}, dtype=torch.float64)


def test_a_part_that_knows_nothing_is_named() -> None:
    total = ModelEnergy(apart) + UNKNOWN
    assert not total.structure().knows("z")
    with pytest.raises(TypeError, match="does not know"):
        Gibbs(("z",)).init(total, {})
    # Another site is known all the same.
    site = Site(constraints.integer_interval(0, 3), torch.Size([]))
    other = CallableEnergy(lambda second: second.cos(), {"second": site}, dtype=torch.float64)
    of_two = model("two that depend") + other
    assert of_two.structure().knows("first")
    with pytest.raises(TypeError, match="A part of the sum: CallableEnergy does not know"):
        of_two.blocks("second")


def forbidding() -> Energy:
    """A field in which the second label is never 1, and a law."""
    table = torch.tensor([[[0.0, -torch.inf], [0.3, -torch.inf]]]).double()
    field = RandomField([2, 2], {"edge": TableFactors([[0, 1]], table)})
    law = dist.Categorical(logits=numbers(2, 2, seed=58)).to_event(1)
    return field + DistributionEnergy(law)


SCALED = ModelEnergy(apart) * BETAS
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a real site": (
        lambda: Gibbs(("level",)).init(ModelEnergy(apart) / 2, ModelEnergy(apart).initial(2)),
        "move it with HMC",
    ),
    "an unknown site": (lambda: (ModelEnergy(apart) / 2).blocks("none"), "Unknown site 'none'"),  # type: ignore[attr-defined]
    "no block of several": (
        lambda: (ModelEnergy(ring) / 2).conditional("z", ModelEnergy(ring).initial(2)),  # type: ignore[attr-defined]
        "'z' has 4 blocks",
    ),
    "an impossible state": (
        lambda: forbidding().conditional(  # type: ignore[attr-defined]
            V, {V: torch.tensor([[0.0, 1.0]]).double()}, torch.tensor([0])
        ),
        "no value of finite energy",
    ),
    "part of a one-hot unit held": (
        lambda: clamp(
            ModelEnergy(hot) / 2,
            {"z": torch.tensor([[1.0, 0, 0], [0, 0, 1]])},
            mask={"z": torch.tensor([[True, False, False]] * 2)},
        ).blocks("z"),  # type: ignore[union-attr]
        "hold all of them, or none",
    ),
    "weights for other chains": (
        lambda: Gibbs(("z",)).step(
            ModelEnergy(apart) * BETAS,
            GibbsState(
                ModelEnergy(apart).initial(2), (ModelEnergy(apart) * BETAS).structure(), None
            ),
        ),
        r"batch shape \(3,\), and 'z' has \(2,\)",
    ),
    "a held site": (
        lambda: clamp(ModelEnergy(apart), {"level": real(0.0)}).blocks("level"),  # type: ignore[union-attr]
        "no free site",
    ),
    "a law of dependent elements": (
        lambda: DistributionEnergy(dist.MultivariateNormal(torch.ones(3), torch.eye(3))).blocks(V),
        "no law of independent elements",
    ),
    "a law without end": (
        lambda: DistributionEnergy(dist.Poisson(real(1.0))).blocks(V),
        "finitely many values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    attempt, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        attempt()


def test_a_law_of_batched_parameters() -> None:
    logits = numbers(5, 3, 2, seed=59)
    energy = DistributionEnergy(dist.Categorical(logits=logits).to_event(1))
    x = {V: torch.zeros(7, 5, 3).double()}
    law = energy.conditional(V, x)
    assert law.batch_shape == (7, 5, 3)
    torch.testing.assert_close(law.logits, logits.log_softmax(-1).expand(7, 5, 3, 2))
    part = (energy * 0.5).conditional(V, x, torch.tensor([2, 0]))
    wanted = (logits[:, [2, 0]] / 2).log_softmax(-1).expand(7, 5, 2, 2)
    torch.testing.assert_close(part.logits, wanted)


def test_a_reference_of_real_sites_leaves_the_labels_to_gibbs() -> None:
    energy = ModelEnergy(apart)
    draws = {n: v.unsqueeze(1).expand(-1, 3, *v.shape[1:]) for n, v in energy.initial(20).items()}
    reference = reference_of(energy, draws)
    assert reference is not None
    assert list(reference.sites) == ["level"]
    check_reference(energy, reference, 0.0)
    path = Path.between(reference, energy).at(torch.ones(()).double())
    chosen = choose_kernel(path)
    assert isinstance(chosen, Cycle)
    assert [type(kernel) for kernel in chosen.kernels] == [Gibbs, HMC]
    with pytest.raises(ValueError, match="all real ones among them"):
        check_reference(energy, independent_bits(), 0.0)
    blind = choose_kernel(
        Path.between(None, ModelEnergy(ring) + UNKNOWN).at(torch.ones(()).double())
    )
    assert any(isinstance(kernel, RandomBlocks) for kernel in getattr(blind, "kernels", [blind]))


def test_a_level_may_forbid_what_another_allows() -> None:
    """A state that the target forbids is kept at β = 0, and exchanged with nobody."""
    energy = model("counts")
    x = {"some": torch.tensor([[1.0, 2.0]] * 5), "total": torch.full((5,), 3.0)}
    x = {name: value.double() for name, value in x.items()}
    kernel = ParallelTempering(Gibbs(), (0.0, 1.0))
    state = kernel.init(energy, x)
    torch.manual_seed(0)
    for _ in range(20):
        state, _ = kernel.step(energy, state)
        assert bool(energy(state.x).isfinite().all())
    assert bool((state.replicas.x["total"][:, 0] < 2).any())  # of which the target forbids some
