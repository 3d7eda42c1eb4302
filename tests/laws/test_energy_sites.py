"""A latent site of a Pyro model that is an energy: swept as that energy is, in the right law.

Every transition matrix is that of the code path which the user runs: all outcomes of a Gibbs step,
hidden units that are drawn and forgotten among them. It must leave unchanged the conditional law
that Pyro's own traces give, and reach every state.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_ebm.distributions import Boltzmann, EnergyDistribution, Ising, Potts, RestrictedBoltzmann
from pyro_ebm.energies import (
    BoltzmannMachine,
    Layer,
    ModelEnergy,
    PairwiseTerms,
    RandomField,
    UnbatchedModelWarning,
)
from pyro_ebm.energies.pairwise import structure as pairwise_structure
from pyro_ebm.energies.pyro_models.dependence import Prober
from pyro_ebm.energies.pyro_models.energy_site import EnergySite
from pyro_ebm.kernels import Gibbs, advance
from pyro_ebm.sites import Sites
from pyro_ebm.units import Bernoulli, Categorical, Gaussian, Spin, Unit
from tests.support.discrete import States, site_states, states
from tests.support.goodness import ALPHA, chi_square
from tests.support.models import Case, numbers, real
from tests.support.outcomes import Violation, matrix_of, violation_of

TRIANGLE = [(0, 1), (1, 2), (0, 2)]
PATH = [(0, 1), (1, 2)]


def rbm(n: int = 3, m: int = 2, *batch: int, units: tuple[Unit, Unit] | None = None) -> Any:
    """A restricted machine with strong couplings."""
    visible, hidden = units or (Bernoulli(), Bernoulli())
    n, m = n * visible.width, m * hidden.width
    return BoltzmannMachine.restricted(
        n // visible.width,
        m // hidden.width,
        units=(visible, hidden),
        couplings=1.5 * numbers(*batch, n, m, seed=40),
        biases={"visible": numbers(*batch, n, seed=41), "hidden": numbers(*batch, m, seed=42)},
    )


def dense(unit: Unit | None = None) -> BoltzmannMachine:
    weight = numbers(3, 3, seed=43)
    weight = (weight + weight.T) * (1 - torch.eye(3).double())
    return BoltzmannMachine.fully_visible(
        3, unit=unit or Bernoulli(), couplings=weight, biases=numbers(3, seed=44)
    )


def graph(unit: Unit | None = None, edges: list[tuple[int, int]] = TRIANGLE) -> BoltzmannMachine:
    return BoltzmannMachine.on_graph(
        edges,
        3,
        unit=unit or Spin(),
        couplings=numbers(len(edges), seed=45),
        biases=numbers(3, seed=46),
    )


def potts(q: int | list[int], n: int = 3) -> RandomField:
    largest = q if isinstance(q, int) else max(q)
    return RandomField.potts(
        PATH[: n - 1],
        [q] * n if isinstance(q, int) else q,
        couplings=numbers(n - 1, seed=47),
        biases=numbers(n, largest, seed=48),
    )


def seen(*shape: int) -> Tensor:
    return numbers(*shape, seed=49) + 0.5


def above(law: Any) -> Callable[[], None]:
    """A model in which each element is seen with noise, at a level that is another latent site."""

    def model() -> None:
        z = pyro.sample("z", law() if callable(law) and not hasattr(law, "log_prob") else law)
        level = pyro.sample("level", dist.Normal(real(1.0), 1.0))
        pyro.sample("y", dist.Normal(level * z, 0.7).to_event(1), obs=seen(3))

    return model


# --- where the rest looks at each element --------------------------------------------------------


def in_a_plate() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm()))
    with pyro.plate("n", 3):
        pyro.sample("y", dist.Bernoulli(logits=2 * z - 0.7), obs=torch.tensor([1.0, 0, 1]).double())


def images_in_a_plate() -> None:
    with pyro.plate("images", 2):
        z = pyro.sample("z", EnergyDistribution(rbm(2, 1)))
        pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(2, 2))


def two_plates() -> None:
    pixels = pyro.plate("pixels", 2, dim=-1)
    with pyro.plate("images", 2, dim=-1):
        z = pyro.sample("z", EnergyDistribution(dense_two()))
    with pyro.plate("pictures", 2, dim=-2), pixels:
        pyro.sample("y", dist.Normal(z, 0.8), obs=seen(2, 2))


def dense_two() -> BoltzmannMachine:
    return BoltzmannMachine.fully_visible(2, couplings=numbers(2, 2, seed=50), biases=numbers(2))


def spins_in_a_plate() -> None:
    law = EnergyDistribution(graph(edges=PATH)).expand([2]).to_event(1)
    z = pyro.sample("z", law)
    pyro.sample("y", dist.Normal(z, 0.8).to_event(2), obs=seen(2, 3))


def labels_in_a_plate() -> None:
    with pyro.plate("images", 2):
        z = pyro.sample("z", EnergyDistribution(potts([2, 3], 2)))
        means = torch.tensor([0.0, 1.0, 3.0]).double()
        pyro.sample("y", dist.Normal(means[z.long()], 0.8).to_event(1), obs=seen(2, 2))


def machines_in_a_plate() -> None:
    with pyro.plate("machines", 2):
        z = pyro.sample("z", EnergyDistribution(rbm(2, 1, 2)))
        pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(2, 2))


def seen_several_times() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm()))
    with pyro.plate("times", 4):
        pyro.sample("y", dist.Normal(z, 1.5).to_event(1), obs=seen(4, 3))
    pyro.sample("again", dist.Normal(2 * z, 2.0).to_event(1), obs=seen(3))


def masked_and_scaled() -> None:
    z = pyro.sample("z", EnergyDistribution.up_to_constant(graph()))
    with pyro.plate("n", 3):
        with poutine.mask(mask=torch.tensor([True, False, True])):
            pyro.sample("y", dist.Normal(z, 0.8), obs=seen(3))
        with poutine.scale(scale=torch.tensor([1.0, 2.5, 0.5]).double()):
            pyro.sample("more", dist.Normal(z, 1.3), obs=seen(3))
        pyro.factor("potential", torch.tensor([0.3, -1.0, 0.5]).double() * z)


def masked_laws() -> None:
    with pyro.plate("images", 2):
        z = pyro.sample("z", EnergyDistribution(rbm(2, 1)))
        mask = torch.tensor([[True, False], [True, True]])
        pyro.sample("y", dist.Normal(z, 0.8).mask(mask).to_event(1), obs=seen(2, 2))
        with poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("more", dist.Normal(z, 0.8).to_event(1), obs=seen(2, 2))


def positive_neighbours() -> None:
    """Real latent sites with a Jacobian, one for each element."""
    with pyro.plate("images", 2):
        z = pyro.sample("z", EnergyDistribution(rbm(3, 1)))
        size = pyro.sample("size", dist.LogNormal(z, 0.5).to_event(1))
        pyro.sample("y", dist.Normal(size, 0.8).to_event(1), obs=seen(2, 3))


def certain() -> None:
    """What is seen rules out a value of some elements."""
    z = pyro.sample("z", EnergyDistribution(rbm()))
    logits = torch.tensor([[0.0, -torch.inf], [0.3, 0.1]]).double()
    pyro.sample(
        "y", dist.Categorical(logits=logits[z.long()]).to_event(1), obs=torch.tensor([0, 1, 0])
    )


def two_energies() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm(2, 1)))
    other = pyro.sample("other", EnergyDistribution(dense_two()))
    pyro.sample("y", dist.Normal(z + 2 * other, 0.8).to_event(1), obs=seen(2))


def unbatched() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm(2, 1)))
    mean = torch.zeros(2).double()
    mean[:] = z
    pyro.sample("y", dist.Normal(mean, 0.8).to_event(1), obs=seen(2))


def unbatched_labels() -> None:
    z = pyro.sample("z", EnergyDistribution(potts([2, 3], 2)))
    mean = torch.zeros(2).double()
    mean[:] = z
    pyro.sample("y", dist.Normal(mean, 0.8).to_event(1), obs=seen(2))


# --- where it does not ---------------------------------------------------------------------------


def a_ring() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm()))
    pyro.sample("y", dist.Normal(z + 2 * z.roll(1), 0.8).to_event(1), obs=seen(3))


def a_sum() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm()))
    pyro.sample("y", dist.Normal(z.sum(-1), 0.5), obs=real(1.6))


def one_pair() -> None:
    """One element is seen through another, where that is on."""
    z = pyro.sample("z", EnergyDistribution(rbm()))
    mean = z * torch.stack([1 + 2 * z[..., 1], *torch.ones(2, *z.shape[:-1]).double()], -1)
    pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=seen(3))


def one_pair_in_a_plate() -> None:
    """The same for a site that is no energy, where elements of a plate are drawn at once."""
    with pyro.plate("n", 3):
        z = pyro.sample("z", dist.Bernoulli(real(0.1)))
        mean = z * torch.stack([1 + 2 * z[..., 1], *torch.ones(2, *z.shape[:-1]).double()], -1)
        pyro.sample("y", dist.Normal(mean, 0.5), obs=seen(3))


def a_rare_pair() -> None:
    """The same where the prior hardly ever shows it."""
    law = Boltzmann(torch.zeros(3, 3).double(), -5 * torch.ones(3).double())
    z = pyro.sample("z", law)
    mean = z * torch.stack([1 + 2 * z[..., 1], *torch.ones(2, *z.shape[:-1]).double()], -1)
    pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=torch.tensor([3.0, 1, 0]).double())


def a_chain_of_labels() -> None:
    """Nodes have different numbers of labels, and are drawn one by one."""
    z = pyro.sample("z", EnergyDistribution(potts([2, 4, 3])))
    pyro.sample("y", dist.Normal(z + 2 * z.roll(1), 0.8).to_event(1), obs=seen(3))


def a_full_covariance() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm()))
    root = torch.eye(3).double() + 0.5 * numbers(3, 3, seed=51).tril(-1)
    pyro.sample("y", dist.MultivariateNormal(z, scale_tril=root), obs=seen(3))


def latent_strength() -> None:
    strength = pyro.sample("strength", dist.Normal(real(0.0), 1.0))
    weight = strength * numbers(3, 2, seed=40)
    z = pyro.sample("z", RestrictedBoltzmann(weight, numbers(3, seed=41)))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(3))


def strength_in_place() -> None:
    """Provenance is lost; comparisons see it."""
    strength = pyro.sample("strength", dist.Normal(real(0.0), 1.0))
    weight = torch.ones(2).double()
    weight[0] = strength
    z = pyro.sample("z", Ising(PATH, weight, numbers(3, seed=41)))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(3))


def by_a_bit() -> None:
    """A discrete site that the energy depends on."""
    bit = pyro.sample("bit", dist.Bernoulli(real(0.5)))
    z = pyro.sample("z", Ising(PATH, (2 * bit - 1) * numbers(2, seed=45), numbers(3, seed=46)))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(3))


def scaled_prior() -> None:
    with poutine.scale(scale=2.0):
        z = pyro.sample("z", EnergyDistribution(rbm()))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(3))


def scaled_element_by_element() -> None:
    with pyro.plate("images", 2), poutine.scale(scale=torch.tensor([0.5, 2.0]).double()):
        z = pyro.sample("z", EnergyDistribution(rbm(2, 1)))
        pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(2, 2))


def masked_prior() -> None:
    with pyro.plate("images", 2), poutine.mask(mask=torch.tensor([True, False])):
        z = pyro.sample("z", EnergyDistribution(rbm(2, 1)))
        pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(2, 2))


def masked_prior_law() -> None:
    with pyro.plate("images", 2):
        law = EnergyDistribution(rbm(2, 1)).mask(torch.tensor([True, False]))
        z = pyro.sample("z", law)
        pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(2, 2))


def coupled_hidden_units() -> None:
    """Hidden layers that are coupled among themselves: independent draws of each would be wrong."""
    machine = BoltzmannMachine.deep(
        [2, 2, 1],
        couplings={
            ("visible", "hidden1"): 2 * numbers(2, 2, seed=52),
            ("hidden1", "hidden2"): 4 * numbers(2, 1, seed=53),
        },
    )
    z = pyro.sample("z", EnergyDistribution(machine))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(2))


@dataclass(frozen=True)
class Row:
    """A model, and which of its sites are swept as energies.

    Args:
        model: The model.
        swept: The sites.
        batched: Whether vmap can take it.
        sites: Those that are drawn.
    """

    model: Callable[[], None]
    swept: tuple[str, ...] = ("z",)
    batched: bool = True
    sites: tuple[str, ...] = ("z",)


MACHINES: dict[str, Callable[[], Any]] = {
    "rbm": lambda: EnergyDistribution(rbm()),
    "rbm up to a constant": lambda: EnergyDistribution.up_to_constant(rbm()),
    "rbm of spins": lambda: EnergyDistribution(rbm(units=(Spin(), Spin()))),
    "rbm, the hidden layer": lambda: EnergyDistribution(rbm(2, 3), "hidden"),
    "rbm of labels": lambda: EnergyDistribution(rbm(3, 1, units=(Categorical(3), Bernoulli()))),
    "rbm with hidden labels": lambda: EnergyDistribution(rbm(units=(Bernoulli(), Categorical(3)))),
    "dense": lambda: EnergyDistribution(dense()),
    "dense spins": lambda: EnergyDistribution(dense(Spin())),
    "graph of spins": lambda: EnergyDistribution.up_to_constant(graph()),
    "graph of bits": lambda: EnergyDistribution(graph(Bernoulli(), PATH)),
    "semi-restricted": lambda: EnergyDistribution(
        BoltzmannMachine.semi_restricted(
            3,
            2,
            couplings={
                ("visible", "hidden"): numbers(3, 2, seed=54),
                ("visible", "visible"): numbers(3, 3, seed=55),
            },
        )
    ),
    "potts": lambda: EnergyDistribution(potts(3)),
    "potts, states differ": lambda: EnergyDistribution.up_to_constant(potts([2, 3, 4])),
    "Ising": lambda: Ising(TRIANGLE, numbers(3, seed=45), numbers(3, seed=46)),
    "Boltzmann": lambda: Boltzmann(numbers(3, 3, seed=43), numbers(3, seed=44)),
    "RestrictedBoltzmann": lambda: RestrictedBoltzmann(2 * numbers(3, 2, seed=40)),
    "Potts": lambda: Potts(PATH, real(0.7), numbers(3, 3, seed=48)),
}

ROWS: dict[str, Row] = {name: Row(above(law)) for name, law in MACHINES.items()} | {
    "in a plate": Row(in_a_plate),
    "images in a plate": Row(images_in_a_plate),
    "spins in a plate": Row(spins_in_a_plate),
    "labels in a plate": Row(labels_in_a_plate),
    "machines in a plate": Row(machines_in_a_plate),
    "seen several times": Row(seen_several_times),
    "masked and scaled": Row(masked_and_scaled),
    "masked laws": Row(masked_laws),
    "positive neighbours": Row(positive_neighbours),
    "certain": Row(certain),
    "two energies": Row(two_energies, ("z", "other"), sites=("z", "other")),
    "unbatched": Row(unbatched, batched=False),
    "unbatched labels": Row(unbatched_labels, batched=False),
    "a ring": Row(a_ring, ()),
    "a sum": Row(a_sum, ()),
    "one pair": Row(one_pair, ()),
    "one pair in a plate": Row(one_pair_in_a_plate, ()),
    "a rare pair": Row(a_rare_pair, ()),
    "a chain of labels": Row(a_chain_of_labels, ()),
    "a full covariance": Row(a_full_covariance, ()),
    "latent strength": Row(latent_strength, ()),
    "strength in place": Row(strength_in_place, (), batched=False),
    "by a bit": Row(by_a_bit, (), sites=("z", "bit")),
    "scaled prior": Row(scaled_prior, ()),
    "scaled element by element": Row(scaled_element_by_element, ()),
    "masked prior": Row(masked_prior, ()),
    "masked prior law": Row(masked_prior_law, ()),
    "coupled hidden units": Row(coupled_hidden_units, ()),
}


def energy_of(row: Row) -> ModelEnergy:
    with warnings.catch_warnings():
        if not row.batched:
            warnings.simplefilter("ignore", UnbatchedModelWarning)
        return ModelEnergy(row.model)


def violation(row: Row) -> Violation:
    """What a Gibbs step over the row's sites does to their law, the others held."""
    energy = energy_of(row)
    # Not the first chain, whose values are those of the pass in which the energy was found.
    others = {name: value[1] for name, value in energy.initial(2).items()}
    with torch.no_grad():
        found = states(Case(row.model), energy, row.sites, others)
        return violation_of(matrix(energy, found), found.law)


def matrix(energy: ModelEnergy, found: States) -> Tensor:  # (states, states)
    """T[x, y] of a Gibbs step over the sites of the states."""
    kernel = Gibbs(found.sites)
    held = {n: v[:1].detach() for n, v in found.x.items() if n not in found.sites}

    def step(x: Sites) -> Sites:
        rows = len(x[found.sites[0]])
        own = {name: v.expand(rows, *v.shape[1:]) for name, v in held.items()}
        state, _ = kernel.step(energy, kernel.init(energy, {**own, **x}))
        return {site: state.x[site] for site in found.sites}

    return matrix_of(step, {site: found.x[site] for site in found.sites})


@pytest.mark.parametrize("name", ROWS)
def test_a_site_is_swept_as_an_energy_where_that_is_right(name: str) -> None:
    energy = energy_of(ROWS[name])
    assert tuple(energy.energy_sites) == ROWS[name].swept
    assert energy.batched is ROWS[name].batched


@pytest.mark.parametrize("name", ROWS)
def test_a_sweep_leaves_the_law_unchanged(name: str) -> None:
    assert violation(ROWS[name]).found() == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["rbm", "graph of spins", "potts, states differ", "rbm of labels"])
def test_a_single_machine_in_a_model_of_any_dtype(name: str, dtype: torch.dtype) -> None:
    law = MACHINES[name]()

    def model() -> None:
        z = pyro.sample("z", EnergyDistribution(law.machine.float()))
        level = pyro.sample("level", dist.Normal(torch.tensor(1.0, dtype=dtype), 1.0))
        pyro.sample("y", dist.Normal(level * z, 0.7).to_event(1), obs=seen(3).to(dtype))

    row = Row(model)
    assert energy_of(row).dtype == dtype
    assert tuple(energy_of(row).energy_sites) == ("z",)
    assert violation(row).found(1e-6) == set()


# --- planted faults ------------------------------------------------------------------------------

right_field = PairwiseTerms.outer_field
right_log_weights = EnergySite.log_weights


def forgotten(site: EnergySite, found: Sites) -> Tensor:
    """The rest of the model does not count."""
    return torch.zeros_like(right_log_weights(site, found))


def reversed_sign(site: EnergySite, found: Sites) -> Tensor:
    """The rest of the model counts against itself."""
    return -right_log_weights(site, found)


def last_term(site: EnergySite, found: Sites) -> Tensor:
    """One of the sites that depend on the energy counts."""
    name, entry = list(found.items())[-1]
    return right_log_weights(site, {name: entry})


def hidden_on_their_own(terms: PairwiseTerms, site: str, features: Sites) -> Tensor:
    """Hidden units do not see the visible ones."""
    return right_field(terms, site, {} if site == "hidden" else features)


def hidden_at_their_means(terms: PairwiseTerms, site: str, x: Tensor, field: Tensor) -> Tensor:
    """Hidden units are not drawn."""
    unit, features = terms.units[site], {site: terms.units[site].features(x)}
    hidden = {
        name: terms.units[name].mean(terms.outer_field(name, features).clone())
        for name in terms.units
        if name != site
    }
    wider = terms.with_field(site, field)
    return unit.values(wider.sweep(site, {**features, **hidden}, pairwise_structure.draw_features))


def always(*_: object) -> bool:
    """Whatever is asked, yes."""
    return True


def although_coupled(structure: Any, site: str) -> Any:
    """Hidden units are drawn as if they were not coupled."""
    return functools.partial(pairwise_structure.sweep_in_field, structure.terms, site)


def from_the_prior(prober: Prober, site: str, _: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Probes start where the prior hardly ever leaves."""
    like = prober.nodes[site]["value"]
    return torch.zeros_like(chosen).to(like), chosen.to(like)


PLANTED: dict[str, tuple[Any, str, Any, list[str]]] = {
    "the rest is forgotten": (
        EnergySite,
        "log_weights",
        forgotten,
        ["rbm", "graph of spins", "potts", "rbm of labels", "images in a plate", "unbatched"],
    ),
    "the sign of the rest": (
        EnergySite,
        "log_weights",
        reversed_sign,
        ["rbm", "rbm of spins", "potts", "dense"],
    ),
    "one term of several": (
        EnergySite,
        "log_weights",
        last_term,
        ["seen several times", "masked and scaled", "masked laws"],
    ),
    "hidden units on their own": (
        PairwiseTerms,
        "outer_field",
        hidden_on_their_own,
        ["rbm", "rbm with hidden labels", "machines in a plate", "RestrictedBoltzmann"],
    ),
    "hidden units at their means": (
        pairwise_structure,
        "sweep_machine",
        hidden_at_their_means,
        ["rbm", "rbm of spins", "rbm with hidden labels", "semi-restricted"],
    ),
    "hidden units free anyway": (
        pairwise_structure.PairwiseStructure,
        "sweep_alone",
        although_coupled,
        ["coupled hidden units"],
    ),
}
CHECKS = [(fault, name) for fault, (*_, rows) in PLANTED.items() for name in rows]


@pytest.mark.parametrize(("fault", "name"), CHECKS)
def test_a_planted_fault_is_found(fault: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, planted, _ = PLANTED[fault]
    monkeypatch.setattr(where, attribute, planted)
    assert violation(ROWS[name]).stationary > 1e-4


def unproved(*_: object) -> frozenset[str]:
    """No source is known."""
    return frozenset()


# What the record of a pass says, and what probes say: each alone is enough, and one is needed.
PROOFS = {"is_apart": always, "obstacle": lambda *_: None, "sources": unproved}
PROBES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "separable anyway": (
        {"is_separable": always},
        ["a ring", "one pair", "a rare pair", "a chain of labels"],
    ),
    "probes from the prior": ({"tried": from_the_prior}, ["one pair", "one pair in a plate"]),
    "fixed anyway": ({"is_fixed": always}, ["strength in place"]),
}
WITNESSES = [(fault, name) for fault, (_, rows) in PROBES.items() for name in rows]


@pytest.mark.parametrize(("fault", "name"), WITNESSES)
def test_without_both_witnesses_a_sweep_is_wrong(
    fault: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attribute, planted in (PROOFS | PROBES[fault][0]).items():
        monkeypatch.setattr(Prober, attribute, planted)
    assert violation(ROWS[name]).stationary > 1e-4


@pytest.mark.parametrize(("fault", "name"), WITNESSES)
def test_the_record_of_a_pass_is_enough(
    fault: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attribute, planted in PROBES[fault][0].items():
        monkeypatch.setattr(Prober, attribute, planted)
    assert violation(ROWS[name]).found() == set()


@pytest.mark.parametrize("name", ["a sum", "a full covariance"])
def test_terms_with_other_elements_are_no_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prober, "is_apart", always)
    monkeypatch.setattr(Prober, "is_separable", always)
    with pytest.raises(ValueError, match="'y' has entries"):
        violation(ROWS[name])


# --- hidden units that cannot be listed, and more units than a matrix can hold -------------------


def real_hidden_units() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm(units=(Bernoulli(), Gaussian()))))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(3))


def coupled_real_hidden_units() -> None:
    """Together they are one normal law; the second layer does not see the visible one."""
    machine = BoltzmannMachine(
        {
            "visible": Layer(Bernoulli(), 3),
            "near": Layer(Gaussian(), 2),
            "far": Layer(Gaussian(), 1),
        },
        {
            ("visible", "near"): 1.5 * numbers(3, 2, seed=56),
            ("near", "far"): torch.tensor([[0.6], [-0.5]]).double(),
        },
    )
    z = pyro.sample("z", EnergyDistribution(machine, "visible"))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(3))


def eight_units() -> None:
    z = pyro.sample("z", EnergyDistribution(rbm(8, 6)))
    pyro.sample("y", dist.Normal(z, 0.8).to_event(1), obs=seen(8))


def a_grid_of_spins() -> None:
    grid = nx.grid_2d_graph(3, 3)
    machine = BoltzmannMachine.on_graph(grid, couplings=0.4 * torch.ones(12).double())
    z = pyro.sample("z", EnergyDistribution.up_to_constant(machine))
    with pyro.plate("n", 9):
        pyro.sample("y", dist.Normal(z, 1.5), obs=seen(9))


LARGER = {
    "real hidden units": real_hidden_units,
    "coupled real hidden units": coupled_real_hidden_units,
    "eight units": eight_units,
    "a grid of spins": a_grid_of_spins,
}


@torch.no_grad()
def p_value(model: Callable[[], None], chains: int = 20_000) -> float:
    """The least p-value after 1, 4 and 16 steps, times three, of chains that started in law.

    Among 20,000 chains the χ² finds 1 % of the chains in wrong states.
    """
    energy = energy_of(Row(model))
    assert tuple(energy.energy_sites) == ("z",)
    every = site_states(energy, "z")
    weights = -energy({"z": every})
    chosen = torch.multinomial(weights.softmax(0), chains, replacement=True)
    kernel = Gibbs()
    state = kernel.init(energy, {"z": every[chosen]})
    low, digits = every.amin(), 2 ** torch.arange(every.shape[1] - 1, -1, -1)
    found = []
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        index = ((state.x["z"] > low).long() * digits).sum(-1)
        counts = torch.bincount(index, minlength=len(every)).numpy()
        found.append(chi_square(counts, weights.softmax(0).numpy()))
    return 3 * min(found)


@pytest.mark.parametrize("name", LARGER)
def test_exact_draws_stay_exact(name: str) -> None:
    assert p_value(LARGER[name]) > ALPHA


@pytest.mark.parametrize("name", ["real hidden units", "coupled real hidden units"])
def test_a_fault_with_real_hidden_units_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairwise_structure, "sweep_machine", hidden_at_their_means)
    assert p_value(LARGER[name]) < ALPHA
