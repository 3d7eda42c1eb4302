"""Energies with a batch of parameters are summed each for itself, however many there are.

A row of BATCHED is an energy with rows of parameters, and the energies of the single rows. The
number of rows goes through that of the states, 4, and its neighbours: the axis of parameters must
never be taken for the axis of states.
"""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm import clamp, interpolate, mode
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    RandomField,
    TableFactors,
)
from pyro_ebm.partition import elimination, exact
from pyro_ebm.partition.sums import enumeration, finite
from pyro_ebm.sites import Site, Sites, boolean
from pyro_ebm.units import Gaussian
from tests.support.checks import distance
from tests.support.goodness import ALPHA, chi_square

DOUBLE = torch.float64
ROWS = [1, 3, 4, 5]
Pair = tuple[Energy, list[Energy]]  # all rows at once, and one by one
BITS = {"x": Site(boolean, torch.Size([2]))}
BOTH = {"x": Site(boolean, torch.Size([2])), "y": Site(boolean, torch.Size([2]))}


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def bits(rows: int, n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(2, (rows, n), generator=generator).to(DOUBLE)


def height(x: Tensor) -> Tensor:
    return x @ torch.tensor([1.0, 2.0], dtype=DOUBLE) - 1.5 * x[:, 0] * x[:, 1]


def together(x: Tensor, y: Tensor) -> Tensor:
    return height(x) - (x * y).sum(-1) + 0.7 * y[:, 0] * y[:, 1] * x[:, 0]


def plain() -> Energy:
    return CallableEnergy(height, BITS, dtype=DOUBLE)


def joint() -> Energy:
    return CallableEnergy(together, BOTH, dtype=DOUBLE)


def law(logits: Tensor, site: str = "x") -> Energy:
    return DistributionEnergy(dist.Bernoulli(logits=logits).to_event(1), site=site)


def weighted(rows: int) -> Pair:
    w = normal(rows)
    return w * plain(), [float(own) * plain() for own in w]


def weighted_twice(rows: int) -> Pair:
    w = normal(rows, rows)
    parts = [float(own) * plain() for own in w.flatten()]
    return w * plain(), parts


def distributions(rows: int) -> Pair:
    logits = normal(rows, 2)
    return law(logits), [law(own) for own in logits]


def sums(rows: int) -> Pair:
    w, logits = normal(rows), normal(rows, 2, seed=4)
    singles = [float(a) * plain() + law(b) for a, b in zip(w, logits, strict=True)]
    return w * plain() + law(logits), singles


def interpolated(rows: int) -> Pair:
    share, other = torch.linspace(0, 1, rows, dtype=DOUBLE), law(normal(2))
    singles = [interpolate(plain(), other, float(own)) for own in share]
    return interpolate(plain(), other, share), singles


def clamped(rows: int) -> Pair:
    held = bits(rows)
    return clamp(joint(), {"x": held}), [clamp(joint(), {"x": own}) for own in held]


def clamped_in_part(rows: int) -> Pair:
    held, mask = bits(rows), {"x": torch.tensor([True, False])}
    whole = clamp(joint(), {"x": held}, mask=mask)
    return whole, [clamp(joint(), {"x": own}, mask=mask) for own in held]


def everything(rows: int) -> Pair:
    held, logits, share = bits(rows), normal(rows, 2), torch.linspace(0.2, 1.3, rows, dtype=DOUBLE)

    def made(x: Tensor, own: Tensor, t: Tensor | float) -> Energy:
        return interpolate(clamp(joint(), {"x": x}), 0.5 * law(own, "y"), t)

    singles = [made(a, b, float(t)) for a, b, t in zip(held, logits, share, strict=True)]
    return made(held, logits, share), singles


def machines(rows: int) -> Pair:
    weight, bias = normal(rows, 2, 3), {"visible": normal(rows, 2), "hidden": normal(rows, 3)}

    def made(k: int | slice) -> Energy:
        own = {name: value[k] for name, value in bias.items()}
        return BoltzmannMachine.restricted(2, 3, couplings=weight[k], biases=own)

    return made(slice(None)), [made(k) for k in range(rows)]


def coupled_bits(rows: int) -> Pair:
    weight, bias = normal(rows, 2, 2), normal(rows, 2, seed=5)

    def made(k: int | slice) -> Energy:
        return BoltzmannMachine.fully_visible(2, couplings=weight[k], biases=bias[k])

    return made(slice(None)), [made(k) for k in range(rows)]


def real_hidden(rows: int) -> Pair:
    weight = 0.3 * normal(rows, 2, 2)
    inside = torch.tensor([[0.0, 0.4], [0.4, 0.0]], dtype=DOUBLE)

    def made(k: int | slice) -> Energy:
        return BoltzmannMachine.semi_restricted(
            2,
            2,
            units=(Gaussian(2.0), BoltzmannMachine.fully_visible(1).layers["visible"].unit),
            couplings={("visible", "hidden"): weight[k], ("visible", "visible"): inside},
            biases={"visible": normal(2), "hidden": normal(2, seed=4)},
        )

    return made(slice(None)), [made(k) for k in range(rows)]


def weighted_machines(rows: int) -> Pair:
    machine, w = machines(1)[1][0], normal(rows)
    return w * machine, [float(own) * machine for own in w]


def clamped_machines(rows: int) -> Pair:
    machine, held = machines(1)[1][0], bits(rows)
    singles = [clamp(machine, {"visible": own}) for own in held]
    return clamp(machine, {"visible": held}), singles


def chain(unary: Tensor, pairwise: Tensor) -> Energy:
    return RandomField.chain(unary, pairwise)


def fields(rows: int) -> Pair:
    unary, pairwise = normal(rows, 2, 2), normal(rows, 1, 2, 2, seed=4)
    singles = [chain(a, b) for a, b in zip(unary, pairwise, strict=True)]
    return chain(unary, pairwise), singles


def weighted_fields(rows: int) -> Pair:
    field, w = chain(normal(2, 2), normal(1, 2, 2)), normal(rows)
    return w * field, [float(own) * field for own in w]


def clamped_fields(rows: int) -> Pair:
    field, held = chain(normal(3, 2), normal(2, 2, 2)), bits(rows, 3)
    mask = {"visible": torch.tensor([False, True, False])}
    singles = [clamp(field, {"visible": own}, mask=mask) for own in held]
    return clamp(field, {"visible": held}, mask=mask), singles


BATCHED: dict[str, Callable[[int], Pair]] = {
    "weights of a function": weighted,
    "a table of weights": weighted_twice,
    "distributions": distributions,
    "a sum of both": sums,
    "interpolated": interpolated,
    "clamped by rows": clamped,
    "clamped in part": clamped_in_part,
    "clamped, weighted and interpolated": everything,
    "machines": machines,
    "machines with couplings inside": coupled_bits,
    "machines with real units": real_hidden,
    "weights of a machine": weighted_machines,
    "a machine clamped by rows": clamped_machines,
    "fields": fields,
    "weights of a field": weighted_fields,
    "a field clamped by rows": clamped_fields,
}
each_form = pytest.mark.parametrize("name", BATCHED)
each_count = pytest.mark.parametrize("rows", ROWS)


def together_again(values: Sequence[Tensor], batch: torch.Size, at: int = 0) -> Tensor:
    """What was found one by one, with the batch shape in place of the dimension `at`."""
    return torch.stack(list(values), at).unflatten(at, batch)


@each_form
@each_count
def test_the_batch_is_that_of_the_parameters(name: str, rows: int) -> None:
    whole, singles = BATCHED[name](rows)
    assert whole.structure().batch.numel() == len(singles)
    assert all(one.structure().batch == torch.Size() for one in singles)


@each_form
@each_count
def test_log_z_is_that_of_each(name: str, rows: int) -> None:
    whole, singles = BATCHED[name](rows)
    wanted = [exact.log_partition(one) for one in singles]
    found = exact.log_partition(whole)
    assert distance(found, together_again(wanted, whole.structure().batch)) < 1e-12


def some_values(energy: Energy) -> Sites:
    """All states of the finite sites, (states, n); of each site alone where others are real."""
    finite_sites = [name for name, site in energy.sites.items() if site.support.is_discrete]
    return exact.states(energy, finite_sites)


@each_form
@each_count
def test_log_probabilities_are_those_of_each(name: str, rows: int) -> None:
    whole, singles = BATCHED[name](rows)
    batch, every = whole.structure().batch, some_values(whole)
    for sites in (list(every), list(every)[:1]):
        states = {site: every[site] for site in sites}
        wanted = together_again([exact.log_prob(one, states) for one in singles], batch, 1)
        spaced = {s: v.reshape(len(v), *[1] * len(batch), v.shape[-1]) for s, v in states.items()}
        assert distance(exact.log_prob(whole, spaced), wanted) < 1e-12
        # A row of values for each of the parameters.
        number = torch.arange(len(singles)).reshape(batch) % len(wanted)
        found = exact.log_prob(whole, {s: v[number] for s, v in states.items()})
        assert distance(found, wanted.gather(0, number[None])[0]) < 1e-12
        energies = exact.free_energy(whole, spaced)
        alone = [exact.free_energy(one, states) for one in singles]
        assert distance(energies, together_again(alone, batch, 1)) < 1e-12


@each_form
@each_count
def test_moments_are_those_of_each(name: str, rows: int) -> None:
    whole, singles = BATCHED[name](rows)
    batch, found = whole.structure().batch, exact.moments(whole)
    wanted = [exact.moments(one) for one in singles]
    assert distance(found.second, together_again([m.second for m in wanted], batch)) < 1e-12
    for site, mean in found.mean.items():
        assert distance(mean, together_again([m.mean[site] for m in wanted], batch)) < 1e-12


@each_form
@each_count
def test_the_least_energy_is_that_of_each(name: str, rows: int) -> None:
    whole, singles = BATCHED[name](rows)
    least = exact.summation(whole).minimum()
    wanted = [mode(one) for one in singles]
    assert all(one.proved for one in wanted)
    energies = together_again([one.energy for one in wanted], whole.structure().batch)
    assert distance(whole({s: v.to(DOUBLE) for s, v in least.items()}), energies) < 1e-12
    if len(singles) > 1:
        with pytest.raises(ValueError, match="Ask for each alone"):
            mode(whole)


@each_form
@each_count
def test_draws_are_those_of_each(name: str, rows: int) -> None:
    # α = 1e-6 for each row, N = 4,000 over at most 32 states: a law at χ² distance 0.03 is found.
    whole, singles = BATCHED[name](rows)
    draws, count = exact.sample(whole, 4000, seed=5), 4000
    states = some_values(whole)
    flat = {s: v.reshape(count, -1, v.shape[-1]) for s, v in draws.items() if s in states}
    assert all(v.shape[:-1] == (count, *whole.structure().batch) for v in draws.values())
    for k, one in enumerate(singles):
        p = exact.log_prob(one, states).exp()
        same = [(flat[s][:, k, None] == v).all(-1) for s, v in states.items()]
        counts = torch.stack(same).all(0).sum(0)
        assert int(counts.sum()) == count
        assert chi_square(counts.numpy(), p.detach().numpy()) > ALPHA


@each_form
@each_count
def test_distributions_are_those_of_each(name: str, rows: int) -> None:
    whole, singles = BATCHED[name](rows)
    for site in some_values(whole):
        found = EnergyDistribution(whole, site)
        alone = [EnergyDistribution(one, site) for one in singles]
        batch = found.batch_shape
        assert batch == whole.structure().batch
        wanted = together_again([one.log_prob(one.states) for one in alone], batch, 1)
        for values in (found.enumerate_support(), found.enumerate_support(expand=False)):
            assert distance(found.log_prob(values), wanted) < 1e-12
        energies = together_again([one.energy(one.states) for one in alone], batch, 1)
        assert distance(found.energy(found.enumerate_support()), energies) < 1e-12
        fixed = EnergyDistribution.up_to_constant(whole, site)
        assert distance(fixed.log_prob(found.enumerate_support()), -energies) < 1e-12
        for sample in ((), (7,)):
            draws = found.sample(sample)
            assert draws.shape == (*sample, *batch, *found.event_shape)
            assert found.log_prob(draws).shape == (*sample, *batch)
        assert found.as_categorical().batch_shape == batch


@pytest.mark.parametrize("name", ["a sum of both", "clamped by rows", "machines"])
def test_blocks_of_states_add_up_for_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, singles = BATCHED[name](5)
    for module in (enumeration, finite):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 25)
    wanted = [exact.moments(one).second for one in singles]
    assert distance(exact.moments(whole).second, torch.stack(wanted)) < 1e-12
    least = exact.summation(whole).minimum()
    energies = torch.stack([mode(one).energy for one in singles])
    assert distance(whole({s: v.to(DOUBLE) for s, v in least.items()}), energies) < 1e-12


# --- the rows that users found -------------------------------------------------------------------


def test_a_tensor_of_temperatures_gives_log_z_of_each() -> None:
    weight = torch.tensor([0.5, 1, 2, 3], dtype=DOUBLE)
    energy = CallableEnergy(lambda x: x @ torch.tensor([1.0, 2.0]).double(), BITS, dtype=DOUBLE)
    wanted = (1 + (-weight).exp()).log() + (1 + (-2 * weight).exp()).log()
    assert distance(exact.log_partition(weight * energy), wanted) < 1e-12
    assert wanted.tolist() == pytest.approx([0.787, 0.440, 0.145, 0.051], abs=1e-3)


def test_a_batch_of_distributions_is_normalised_each() -> None:
    energy = DistributionEnergy(dist.Bernoulli(logits=torch.randn(4, 2)).to_event(1))
    assert distance(exact.log_partition(energy), torch.zeros(4)) < 1e-6


def test_what_is_held_in_rows_is_summed_row_by_row() -> None:
    energy = CallableEnergy(lambda x, y: -(x * y).sum(-1), BOTH, dtype=DOUBLE)
    held = torch.tensor([[1, 1], [0, 0], [0, 1], [1, 0]], dtype=DOUBLE)
    rows = clamp(energy, {"x": held})
    wanted = (1 + held.exp()).log().sum(-1)
    assert distance(exact.log_partition(rows), wanted) < 1e-12
    assert wanted.tolist() == pytest.approx([2.6265, 1.3863, 2.0064, 2.0064], abs=1e-4)
    found = EnergyDistribution(rows).log_prob(held)
    assert distance(found, (held * held).sum(-1) - wanted) < 1e-12
    assert found.tolist() == pytest.approx([-0.627, -1.386, -1.006, -1.006], abs=2e-3)


def test_batch_shapes_that_do_not_broadcast_are_named_with_the_cure() -> None:
    for name in ("weights of a function", "machines", "fields"):
        whole, _ = BATCHED[name](3)
        states = some_values(whole)
        with pytest.raises(ValueError, match=r"batch shape \((4|32),\), and the parameters have"):
            exact.log_prob(whole, states)
        cured = {site: value[:, None] for site, value in states.items()}
        total = exact.log_prob(whole, cured).exp().sum(0)
        assert distance(total, torch.ones(3)) < 1e-12


def test_a_batch_is_eliminated_each_for_itself() -> None:
    rows, n = 3, 40
    weight, edges = normal(rows, n - 1), [(k, k + 1) for k in range(n - 1)]

    def made(own: Tensor) -> BoltzmannMachine:
        return BoltzmannMachine.on_graph(edges, couplings=own, biases=normal(n))

    whole, singles = made(weight), [made(own) for own in weight]
    wanted = [exact.moments(one).second for one in singles]
    assert distance(exact.moments(whole).second, torch.stack(wanted)) < 1e-11
    found = elimination.mode(whole).x["visible"]
    assert torch.equal(found, torch.stack([elimination.mode(m).x["visible"] for m in singles]))


def test_a_value_of_an_unknown_support_is_named() -> None:
    counts = dist.Multinomial(3, probs=torch.tensor([0.5, 0.5]))
    assert DistributionEnergy(counts).structure().batch == torch.Size()
    assert (2.0 * DistributionEnergy(counts)).structure().batch == torch.Size()
    whole = {"visible": Site(counts.support, torch.Size([2]))}
    with pytest.raises(ValueError, match="No value of 'visible' is known"):
        _ = CallableEnergy(lambda x: x.sum(1), whole).structure().batch
    for support in (constraints.simplex, constraints.nonnegative_integer, constraints.one_hot):
        energy = CallableEnergy(
            lambda x: x.flatten(1).sum(1), {"x": Site(support, torch.Size([3]))}
        )
        assert energy.structure().batch == torch.Size()


def test_rows_that_no_factor_tells_apart_are_rows_all_the_same() -> None:
    table = TableFactors(torch.tensor([[1]]), torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    held = clamp(RandomField([2, 2], {"f": table}), rows, mask=torch.tensor([True, False]))
    wanted = torch.tensor([0.0, 1.0]).double().logsumexp(0).expand(3)
    assert torch.allclose(exact.log_partition(held), wanted)
    assert EnergyDistribution(held).batch_shape == (3,)
