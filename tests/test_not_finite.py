"""NaN and infinite parameters and energies are refused by name, whatever exact answer is asked."""

import itertools
import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

from pyro_ebm import anneal, belief_propagation, clamp, descend, mode
from pyro_ebm.distributions import Boltzmann, EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    RandomField,
)
from pyro_ebm.kernels import (
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    IntegerWalk,
    Kernel,
    NonFiniteEnergyError,
    RandomBlocks,
    run,
)
from pyro_ebm.partition import elimination, exact
from pyro_ebm.sites import Site, boolean

BITS = {"x": Site(boolean, torch.Size([3]))}
NOT_FINITE = [math.nan, math.inf, -math.inf]
each_value = pytest.mark.parametrize("value", NOT_FINITE)


def machine(value: float, where: str) -> BoltzmannMachine:
    """A machine on a path, one of whose parameters has gone wrong since it was made."""
    made = BoltzmannMachine.on_graph([(0, 1), (1, 2)])
    parameter = {"couplings": made.couplings["visible_visible"].weight}.get(
        where, made.layers["visible"].bias
    )
    with torch.no_grad():
        parameter[0] = value
    return made


def field(value: float) -> RandomField:
    made = RandomField.on_graph([(0, 1), (1, 2)], 2)
    with torch.no_grad():
        made.factors["edge"].table[0, 1, 1] = value
    return made


class Layered(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x.sum(-1)


def function(value: float) -> Energy:
    """A function that is wrong at one state alone."""
    return CallableEnergy(lambda x: torch.where(x.sum(-1) == 2, value, x[:, 0]), BITS)


ASKED: dict[str, Callable[[Energy], object]] = {
    "log Z": exact.log_partition,
    "log p": lambda e: exact.log_prob(e, torch.ones(next(iter(e.sites.values())).shape)),
    "moments": exact.moments,
    "draws": lambda e: exact.sample(e, 2),
    "mode": mode,
    "a distribution's log p": lambda e: EnergyDistribution(e, validate_args=True).log_prob(
        torch.ones(next(iter(e.sites.values())).shape)
    ),
    "a distribution's draws": lambda e: EnergyDistribution(e).sample(),
    "its draws up to a constant": lambda e: EnergyDistribution.up_to_constant(e).sample(),
    "a distribution's mean": lambda e: EnergyDistribution(e).mean,
    "a distribution's entropy": lambda e: EnergyDistribution(e).entropy(),
}
BY_TABLES: dict[str, Callable[[Energy], object]] = {
    "eliminated log Z": elimination.log_partition,
    "marginals": elimination.marginals,
    "node marginals": elimination.node_marginals,
    "eliminated mode": elimination.mode,
    "eliminated draws": lambda e: elimination.sample(e, 2),
    "messages": belief_propagation,
}


@each_value
@pytest.mark.parametrize("where", ["couplings", "biases"])
@pytest.mark.parametrize("name", [*ASKED, *BY_TABLES])
def test_parameters_of_a_machine_are_named(name: str, where: str, value: float) -> None:
    with pytest.raises(FloatingPointError, match=rf"NaN or infinite values in the {where} of"):
        {**ASKED, **BY_TABLES}[name](machine(value, where))


@pytest.mark.parametrize("value", [math.nan, math.inf])  # −∞ forbids
@pytest.mark.parametrize("name", [*ASKED, *BY_TABLES])
def test_tables_of_a_field_are_named(name: str, value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"NaN"):
        {**ASKED, **BY_TABLES}[name](field(value))


@pytest.mark.parametrize("name", BY_TABLES)
def test_a_table_is_named_and_not_called_a_contradiction(name: str) -> None:
    with pytest.raises(FloatingPointError, match=r"in the tables of 'edge'"):
        BY_TABLES[name](field(math.nan))


def test_samplers_of_a_field_name_its_tables_too() -> None:
    x = {"visible": torch.tensor([[1.0, 1.0, 0.0]])}
    with pytest.raises(FloatingPointError, match=r"in the tables of 'edge'"):
        field(math.nan).conditional("visible", x, torch.tensor([0]))
    with pytest.raises(FloatingPointError, match=r"in the tables of 'edge'"):
        run(Gibbs(), field(math.nan), draws=2, warmup=0, chains=2)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("name", ASKED)
def test_a_state_of_a_function_is_named(name: str, value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"energy.*(nan|-inf|NaN)"):
        ASKED[name](function(value))


def test_the_state_and_the_learned_parameter_are_named() -> None:
    with pytest.raises(FloatingPointError, match=r"state \{'x': \[0.0, 1.0, 1.0\]\} is nan"):
        exact.log_partition(function(math.nan))
    energy = CallableEnergy(Layered(1.0), BITS)
    with torch.no_grad():
        energy.function.slope.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"parameters \['function.slope'\] are not fin"):
        exact.log_partition(energy)


def test_a_mode_of_many_states_is_refused_too() -> None:
    sites = {"x": Site(boolean, torch.Size([40]))}
    for energy in (
        CallableEnergy(lambda x: x.sum(-1) * math.nan, sites),
        BoltzmannMachine.fully_visible(40, couplings=torch.randn(40, 40)),
    ):
        if isinstance(energy, BoltzmannMachine):
            with torch.no_grad():
                energy.layers["visible"].bias[3] = math.nan
        with pytest.raises((FloatingPointError, ValueError), match="NaN"):
            mode(energy, sweeps=5, chains=2)


@each_value
def test_the_diagonal_of_a_learned_matrix_is_looked_at(value: float) -> None:
    for made in (
        BoltzmannMachine.fully_visible(3),
        BoltzmannMachine.fully_visible(3, couplings=nn.Parameter(torch.zeros(3, 3))),
    ):
        with torch.no_grad():
            made.couplings["visible_visible"].weight[1, 1] = value
        with pytest.raises(FloatingPointError, match="in the couplings of"):
            exact.log_partition(made)
        with pytest.raises(FloatingPointError, match="in the couplings of"):
            run(Gibbs(), made, draws=2, warmup=0, chains=2)
    weight = nn.Parameter(torch.randn(3, 3))
    made = BoltzmannMachine.fully_visible(3, couplings=weight)
    (gradient,) = torch.autograd.grad(exact.log_partition(made), made.couplings.parameters())
    assert float(gradient.diagonal().abs().sum()) == 0
    with torch.no_grad():
        made.couplings["visible_visible"].weight.fill_diagonal_(5.0)  # finite, and not read
    assert made.read().matrix().diagonal().abs().sum().item() == 0


@each_value
def test_free_energies_are_refused(value: float) -> None:
    made = BoltzmannMachine.restricted(3, 2)
    with torch.no_grad():
        made.couplings["visible_hidden"].weight[0, 0] = value
    with pytest.raises(FloatingPointError, match="in the couplings of"):
        made.free_energy(torch.zeros(3))
    with pytest.raises(FloatingPointError, match="in the couplings of"):
        exact.free_energy(made, torch.zeros(3))
    law = EnergyDistribution.up_to_constant(made, validate_args=True)
    with pytest.raises(FloatingPointError, match="in the couplings of"):
        law.energy(torch.zeros(3))


def test_what_is_held_and_impossible_has_the_probability_zero_or_is_named() -> None:
    energy = CallableEnergy(
        lambda x, y: torch.where((x * y).sum(-1) > 0, math.inf, 1.0 - x[:, 0]), two_sites()
    )
    one, zero = torch.ones(2), torch.zeros(2)
    assert float(exact.log_prob(energy, {"x": one, "y": one})) == -math.inf
    assert float(exact.log_prob(energy, {"x": one})) > -math.inf
    impossible = CallableEnergy(lambda x: torch.full((len(x),), math.inf), BITS)
    for ask in (
        lambda: exact.log_prob(impossible, torch.zeros(3)),
        lambda: EnergyDistribution(impossible).log_prob(torch.zeros(3)),
        lambda: EnergyDistribution(impossible).sample(),
        lambda: exact.sample(impossible, 3),
        lambda: exact.moments(impossible),
        lambda: mode(impossible),
    ):
        with pytest.raises(ValueError, match=r"No state .*is allowed"):
            ask()
    assert float(exact.log_partition(impossible)) == -math.inf
    # One of two rows is impossible.
    rows = clamp(never(), {"x": torch.stack([one, zero])})
    with pytest.raises(ValueError, match=r"No state .*is allowed"):
        exact.log_prob(rows, {"y": torch.zeros(2, 2)})


def two_sites() -> dict[str, Site]:
    return {name: Site(boolean, torch.Size([2])) for name in ("x", "y")}


def never() -> Energy:
    """No y goes with an x that is all ones."""
    return CallableEnergy(
        lambda x, y: torch.where(x.prod(-1) > 0, math.inf, y.sum(-1)), two_sites()
    )


def test_a_field_held_at_an_impossible_label_is_no_nan() -> None:
    table = torch.tensor([[[0.0, -math.inf], [0.3, -math.inf]]])
    made = RandomField.on_graph([(0, 1)], 2, node_table=torch.zeros(1, 2), edge_table=table)
    assert float(exact.log_prob(made, torch.tensor([0, 1]))) == -math.inf
    held = clamp(made, torch.tensor([0, 1]), mask=torch.tensor([False, True]))
    for ask in (
        lambda: exact.log_prob(held, torch.tensor([0])),
        lambda: exact.sample(held, 2),
        lambda: exact.moments(held),
        lambda: mode(held),
        lambda: EnergyDistribution(held).log_prob(torch.tensor([0])),
        lambda: EnergyDistribution(held).sample(),
    ):
        with pytest.raises(ValueError, match=r"No state .*is allowed"):
            ask()


def test_gradients_beside_an_impossible_row_are_finite() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    rows = clamp(never(), {"x": torch.stack([torch.ones(2), torch.zeros(2)])})
    found = exact.log_partition(weight * rows)
    assert found[0] == -math.inf
    (gradient,) = torch.autograd.grad(found[1], weight)
    assert bool(gradient.isfinite().all())


def test_a_sampler_s_trial_parameters_may_be_anything() -> None:
    # Pyro's MCMC switches validation off: a trajectory that goes astray is rejected, not raised.
    def model() -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 3.0))
        law = Boltzmann(scale * torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        pyro.sample("x", law, obs=torch.ones(2))

    pyro.set_rng_seed(0)
    MCMC(NUTS(model), num_samples=10, warmup_steps=10, disable_progbar=True).run()
    with pyro.validation_enabled(False):
        law = EnergyDistribution(machine(math.nan, "biases"))
        assert math.isnan(law.log_prob(torch.ones(3)).item())


def test_distributions_with_nan_parameters_are_named() -> None:
    law = dist.Bernoulli(logits=torch.tensor([math.nan, 0.0]), validate_args=False).to_event(1)
    with pytest.raises(ValueError, match="Check its parameters for NaN"):
        DistributionEnergy(law)


def test_the_gradient_in_a_weight_of_what_forbids_is_finite() -> None:
    table = torch.tensor([[[0.0, -math.inf], [0.3, 0.5]]], dtype=torch.float64)
    made = RandomField.on_graph(
        [(0, 1)], 2, node_table=torch.zeros(1, 2, dtype=torch.float64), edge_table=table
    )
    same = CallableEnergy(made, {"visible": made.sites["visible"]}, dtype=torch.float64)
    for energy in (made, same):
        weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(exact.log_partition(weight * energy), weight)
        # Of the weights 1, e^0.3 and e^0.5: ∂ ln Σ e^(w l) / ∂w = Σ p l.
        levels = torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64)
        assert float(slope) == pytest.approx(float(levels.softmax(0) @ levels), rel=1e-12)


# --- states that are only met on the way ----------------------------------------------------------
NEVER_THERE = {  # kernels that look at a state of which chains never come to be
    "RandomBlocks": RandomBlocks(size=2),
    "single blocks": RandomBlocks(size=1),
    "GibbsWithGradients": GibbsWithGradients(),
    "DiscreteLangevin": DiscreteLangevin(step_size=0.5),
}


@pytest.mark.parametrize("kernel", NEVER_THERE.values(), ids=list(NEVER_THERE))
def test_a_state_whose_energy_is_nan_is_not_taken_for_a_forbidden_one(kernel: Kernel) -> None:
    start = torch.zeros(4, 3)
    with pytest.raises(NonFiniteEnergyError, match="NaN") as refusal:
        run(kernel, function(math.nan), 200, warmup=20, initial=start, seed=0)
    assert refusal.value.chains.draws["x"].shape[2:] == (3,)
    allowed = run(kernel, function(math.inf), 200, warmup=20, initial=start, seed=0)
    assert not bool((allowed.draws["x"].sum(-1) == 2).any())


def test_counts_whose_energy_is_nan_are_refused() -> None:
    site = {"n": Site(dist.constraints.nonnegative_integer, torch.Size([]))}
    lacking = CallableEnergy(lambda n: torch.where(n == 2, math.nan, 0.5 * n), site)
    with pytest.raises(NonFiniteEnergyError, match="NaN"):
        run(IntegerWalk(scale=1.0), lacking, 200, warmup=0, initial=torch.zeros(4), seed=0)


def test_descent_refuses_parameters_and_states_that_are_nan() -> None:
    with pytest.raises(FloatingPointError, match="tables of 'edge'"):
        descend(field(math.nan), torch.zeros(1, 3))
    with pytest.raises(FloatingPointError, match="NaN"):
        descend(function(math.nan), torch.tensor([[1.0, 0.0, 0.0]]))


def test_descent_names_chains_that_find_no_allowed_state() -> None:
    held = clamp(TWO_SITES, {"x": torch.ones(2)})
    with pytest.raises(ValueError, match="allowed state"):
        descend(held, torch.zeros(1, 2))


# --- as many chains as there are energies ---------------------------------------------------------
PAIR = {name: Site(boolean, torch.Size([2])) for name in "xy"}
TWO_SITES = CallableEnergy(
    lambda x, y: torch.where(x.sum(-1) == 2, math.inf, -(x * y).sum(-1)), PAIR
)
SEVERAL = {
    "weighted by a tensor": lambda: (
        torch.tensor([0.5, 1.0, 2.0]) * CallableEnergy(lambda x: -x.sum(-1), BITS)
    ),
    "distributions": lambda: DistributionEnergy(
        dist.Bernoulli(logits=torch.tensor([[1.0] * 3, [-1.0] * 3, [2.0] * 3])).to_event(1),
        site="x",
    ),
    "clamped by rows": lambda: clamp(TWO_SITES, {"x": torch.tensor([[0.0, 1], [1, 0], [0, 0]])}),
    "fields": lambda: RandomField.potts([(0, 1), (1, 2)], 2, couplings=torch.randn(3, 2)),
}


@pytest.mark.parametrize("made", SEVERAL.values(), ids=list(SEVERAL))
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_another_number_of_chains_is_refused_and_the_cure_works(
    made: Callable[[], Energy], chains: int
) -> None:
    energy = made()
    ((name, site),) = energy.sites.items()
    x, enough = ({name: torch.zeros(n, *site.shape)} for n in (chains, 3))
    for door in (
        lambda x: descend(energy, x).energy,
        lambda x: anneal(energy, [0.5, 1.0], initial=x).energy,
        lambda x: run(RandomBlocks(), energy, 1, warmup=0, initial=x).statistics["lp"],
    ):
        with pytest.raises(ValueError, match="chains=3"):
            door(x)
        assert 3 in door(enough).shape
    with pytest.raises(ValueError, match="chains=3"):
        run(RandomBlocks(), energy, 1, warmup=0, chains=chains)


@pytest.mark.parametrize("made", SEVERAL.values(), ids=list(SEVERAL))
def test_descents_of_several_energies_are_each_its_own(made: Callable[[], Energy]) -> None:
    energy = made()
    least = exact.summation(energy).minimum()
    ((name, site),) = energy.sites.items()
    starts = [torch.tensor(s) for s in itertools.product((0.0, 1.0), repeat=site.shape.numel())]
    found = [descend(energy, {name: s.expand(3, *site.shape)}).energy for s in starts]
    torch.testing.assert_close(torch.stack(found).amin(0), energy(least).to(energy.dtype))


# --- half precision -------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "answer",
    [
        mode,
        lambda e: EnergyDistribution(e).sample(),
        lambda e: anneal(e, [1.0]),
        lambda e: run(Gibbs(), e, 1, warmup=0),
    ],
)
def test_an_energy_turned_to_half_precision_is_refused(
    dtype: torch.dtype, answer: Callable[[Energy], object]
) -> None:
    # Not where its numbers are summed in float64, as exact.log_partition does.
    short = BoltzmannMachine.on_graph([(0, 1), (1, 2)]).to(dtype)
    with pytest.raises(TypeError, match="float32 or float64"):
        answer(short)
    answer(short.float())
