"""A site of a Pyro model that is an energy: swept as that energy is, in the field of the rest.

Chains start from exact draws of the site given everything else, by a table of all its states, and
after 1, 4 and 16 sweeps their states are compared with that table by χ²: α = 1e-6, 20,000 chains,
which find a total variation of 0.02 in 16 states.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import BoltzmannMachine, Energy, Layer, ModelEnergy, energy_site
from pyro_ebm.energies.energy_site import EnergySite
from pyro_ebm.energies.terms import PairwiseTerms
from pyro_ebm.kernels import Gibbs, advance
from pyro_ebm.partition import exact
from pyro_ebm.units import Bernoulli, Gaussian
from tests.fields import FIELDS
from tests.goodness import ALPHA, chi_square
from tests.machines import FINITE
from tests.models import numbers, real

CHAINS = 20_000
SHIFT = 0.4  # of the level that is held
Model = Callable[[], Any]


class Case(NamedTuple):
    """An energy whose site is seen through noise.

    Args:
        energy: The energy.
        site: The site.
        plate: How many copies of it are seen, each on its own; one, outside of a plate, if zero.
    """

    energy: Energy
    site: str = "visible"
    plate: int = 0


def machine(name: str, *, plate: int = 0) -> Callable[[], Case]:
    return lambda: Case(FINITE[name].machine(), next(iter(FINITE[name].units)), plate)


def field(name: str) -> Callable[[], Case]:
    return lambda: Case(FIELDS[name].field())


def real_hidden() -> Case:
    """Bits over normal units, two of which are coupled."""
    bias = {"visible": numbers(4, seed=62), "hidden": numbers(2, seed=63)}
    layers = {
        "visible": Layer(Bernoulli(), 4, bias=bias["visible"]),
        "hidden": Layer(Gaussian(), 2, bias=bias["hidden"]),
    }
    between, inside = 0.7 * numbers(4, 2, seed=61), torch.tensor([[0.0, 0.5], [0.5, 0.0]]).double()
    couplings = {("visible", "hidden"): between, ("hidden", "hidden"): inside}
    machine = BoltzmannMachine(layers, couplings)
    return Case(machine)


CASES = {
    "restricted": machine("restricted"),
    "in a plate": machine("restricted", plate=2),
    "spins": machine("restricted with spins"),
    "offsets": machine("restricted with offsets"),
    "couplings among the visible": machine("semi-restricted"),
    "a graph": machine("bits on a ring"),
    "labels": machine("Potts restricted with offsets"),
    "normal hidden units": real_hidden,
    "a field": field("mixed numbers of states"),
    "a field with forbidden states": field("forbidden states"),
}
# Hidden units that are coupled among themselves cannot be drawn at once.
ONE_BY_ONE = {"deep": machine("deep"), "general": machine("general")}


def model_of(case: Case) -> Model:
    """The site seen through noise that grows from element to element, on a level of its own."""
    elements = case.energy.sites[case.site].shape
    shape = torch.Size([case.plate, *elements] if case.plate else elements)
    seen, scale = numbers(*shape, seed=60), torch.linspace(0.5, 1.5, shape[-1]).double()

    def model() -> None:
        level = pyro.sample("level", dist.Normal(real(0.0), 1.0))
        x = pyro.sample("x", EnergyDistribution(case.energy, case.site))
        pyro.sample("y", dist.Normal(0.8 * x + level, scale).to_event(1), obs=seen)

    def copies() -> None:
        level = pyro.sample("level", dist.Normal(real(0.0), 1.0))
        with pyro.plate("copies", case.plate):
            x = pyro.sample("x", EnergyDistribution(case.energy, case.site))
            pyro.sample("y", dist.Normal(0.8 * x + level, scale).to_event(1), obs=seen)

    return copies if case.plate else model


def posterior(case: Case, model: Model) -> tuple[Tensor, Tensor]:
    """All states of `x` (states, *shape), and ln p of each by Pyro's own trace."""
    states = exact.states(case.energy, (case.site,))[case.site]
    if case.plate:
        index = torch.cartesian_prod(*[torch.arange(len(states))] * case.plate)
        states = states[index]
    log_weights = []
    for x in states:
        given = {"level": real(SHIFT), "x": x}
        log_weights.append(
            poutine.trace(poutine.condition(model, given)).get_trace().log_prob_sum()
        )
    return states, torch.stack(log_weights).detach()


def p_value(case: Case, *, chains: int = CHAINS) -> float:
    """The least p-value after 1, 4 and 16 sweeps, times three."""
    model = model_of(case)
    energy = ModelEnergy(model)
    states, log_weights = posterior(case, model)
    law = log_weights.softmax(0)
    x = states[torch.multinomial(law, chains, replacement=True)]
    kernel = Gibbs(("x",))
    state = kernel.init(energy, {"x": x, "level": torch.full((chains,), SHIFT).double()})
    found = []
    flat = states.flatten(1)
    key = torch.cumprod(torch.full((flat.shape[1],), 5.0).double(), 0)
    order = (flat @ key).argsort()
    ladder = (flat @ key)[order]
    for steps in (1, 3, 12):
        state = advance(kernel, energy, state, steps)
        where = torch.searchsorted(ladder, state.x["x"].double().flatten(1) @ key)
        counts = torch.bincount(order[where], minlength=len(states)).numpy()
        found.append(chi_square(counts, law.numpy()))
    return 3 * min(found)


@pytest.mark.parametrize("name", CASES)
def test_a_sweep_leaves_the_law_given_the_rest(name: str) -> None:
    case = CASES[name]()
    assert set(ModelEnergy(model_of(case)).energy_sites) == {"x"}
    assert p_value(case) > ALPHA


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_coupled_hidden_units_leave_the_site_to_its_conditional_laws(name: str) -> None:
    case = ONE_BY_ONE[name]()
    assert not ModelEnergy(model_of(case)).energy_sites
    assert p_value(case) > ALPHA


# --- what the rest of the model must not do ------------------------------------------------------

PRIOR = EnergyDistribution(FINITE["restricted"].machine())
RARE = BoltzmannMachine.restricted(
    4,
    2,
    bias={"visible": torch.full((4,), -6.0).double(), "hidden": torch.zeros(2).double()},
    weight=torch.zeros(4, 2).double(),
)


def sees(look: Callable[[Tensor], Tensor], law: EnergyDistribution = PRIOR) -> Model:
    """A model whose data are some function of the site, with noise."""

    def model() -> None:
        x = pyro.sample("x", law)
        pyro.sample("y", dist.Normal(look(x), 1.0).to_event(1), obs=numbers(4, seed=64))

    return model


def pair(x: Tensor) -> Tensor:
    """The last element's data look at the first one too, if the last one is 1."""
    own = torch.tensor([0.0, 0, 0, 1]).double()
    return x + own * x[..., :1] * x[..., 3:]


def weighted() -> None:
    with poutine.scale(scale=2.0):
        x = pyro.sample("x", PRIOR)
    pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=numbers(4, seed=64))


def penalised() -> None:
    x = pyro.sample("x", PRIOR)
    pyro.factor("penalty", -x.sum(-1).square())


def of_a_latent() -> None:
    strength = pyro.sample("strength", dist.Normal(real(1.0), 0.1))
    machine = BoltzmannMachine.fully_visible(3, weight=strength * torch.ones(3, 3).double())
    pyro.sample("x", EnergyDistribution(machine))


REFUSED = {
    "sums": sees(lambda x: x.cumsum(-1)),
    "neighbours": sees(lambda x: x + x.roll(1, -1)),
    "one pair": sees(pair),
    "one pair, hardly ever seen": sees(pair, EnergyDistribution(RARE)),
    "a factor of all": penalised,
    "a scaled prior": weighted,
    "a machine of a latent site": of_a_latent,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("seed", range(3))
def test_elements_that_the_rest_sees_together_are_not_swept_at_once(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    assert not ModelEnergy(REFUSED[name]).energy_sites


def test_several_looks_at_each_element_are_added_up() -> None:
    def model() -> None:
        x = pyro.sample("x", PRIOR)
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=numbers(4, seed=64))
        with pyro.plate("again", 3):
            pyro.sample("z", dist.Normal(x, 2.0).to_event(1), obs=numbers(3, 4, seed=65))

    assert set(ModelEnergy(model).energy_sites) == {"x"}


# --- planted faults ------------------------------------------------------------------------------


def without_likelihood(patch: pytest.MonkeyPatch) -> None:
    """The prior alone."""
    right = EnergySite.sweep
    patch.setattr(EnergySite, "sweep", lambda site, x, rest: right(site, x, 0 * rest))


def without_couplings(patch: pytest.MonkeyPatch) -> None:
    """The biases of the prior alone."""

    def sweep(terms: PairwiseTerms, site: str, x: Tensor, rest: Tensor) -> Tensor:
        return terms.units[site].sample((terms.biases[site] + rest).expand(x.shape).clone())

    patch.setattr(energy_site, "sweep_machine", sweep)


def field_of_bits(patch: pytest.MonkeyPatch) -> None:
    """Spins are two apart."""
    right = EnergySite.sweep
    patch.setattr(EnergySite, "sweep", lambda site, x, rest: right(site, x, 2 * rest))


def hidden_without_couplings(patch: pytest.MonkeyPatch) -> None:
    """Hidden units drawn layer by layer, whatever joins them."""
    patch.setattr(EnergySite, "draws_hidden", True)


PLANTED = {
    "without the likelihood": (without_likelihood, CASES["restricted"]),
    "without the couplings": (without_couplings, CASES["restricted"]),
    "spins as bits": (field_of_bits, CASES["spins"]),
    "hidden units without their couplings": (hidden_without_couplings, ONE_BY_ONE["general"]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, case = PLANTED[name]
    plant(monkeypatch)
    assert p_value(case()) < ALPHA
