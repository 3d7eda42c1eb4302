"""The verdict on chains: no trap missed, no alarm where all is well.

α of a verdict is 1e-4, of all its tests of chance together. The slow tests ask for at most one
false alarm in 200 runs and no missed trap in 50; the fast ones make fewer of the same.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import arviz as az
import networkx as nx
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import (
    Diagnosis,
    Verdict,
    compare_starts,
    diagnose,
    inference_data,
    to_arviz,
)
from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, DistributionEnergy
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Chains,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    Mixture,
    ParallelTempering,
    RandomWalk,
    run,
)
from pyro_ebm.kernels.continuous.mass import UNIT_MASS
from pyro_ebm.sites import Site

MIXED, NOT_MIXED, CANNOT_TELL = Verdict.MIXED, Verdict.NOT_MIXED, Verdict.CANNOT_TELL


def posterior(statistics: dict | None = None, **sites: object) -> Any:
    """ArviZ data, of whichever version is installed."""
    groups = {"posterior": sites, "sample_stats": statistics or {}}
    arrays = {g: {k: np.asarray(v) for k, v in group.items()} for g, group in groups.items()}
    return inference_data(arrays, coords={}, dims={}, attributes={})


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def resampled(
    chains: int, draws: int, p: Tensor, rate: float, seed: int
) -> Tensor:  # (chain, draw, unit)
    """Independent bits, on with probability p, each drawn anew with some rate."""
    g = generator(seed)
    x = torch.empty(chains, draws, len(p), dtype=torch.int8)
    current = torch.rand(chains, len(p), generator=g) < p
    for t in range(draws):
        anew = torch.rand(chains, len(p), generator=g) < rate
        current = torch.where(anew, torch.rand(chains, len(p), generator=g) < p, current)
        x[:, t] = current
    return x


def autoregressive(chains: int, draws: int, units: int, memory: float, seed: int) -> Tensor:
    x = torch.randn(chains, draws, units, generator=generator(seed))
    x[:, 0] /= math.sqrt(1 - memory**2)
    for t in range(1, draws):
        x[:, t] += memory * x[:, t - 1]
    return x


def torus(beta: float) -> BoltzmannMachine:
    """A ferromagnet of 10 × 10 spins; order sets in at β = 0.44."""
    return BoltzmannMachine.on_graph(square(10), couplings=torch.tensor([beta]))


def glass(temperature: float, seed: int) -> BoltzmannMachine:
    """A frustrated machine: Gaussian couplings on the torus."""
    weight = torch.randn(200, generator=generator(seed)) / temperature
    return BoltzmannMachine.on_graph(square(10), couplings=weight)


def square(side: int) -> nx.Graph:
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(side, side, periodic=True))


def evidence(diagnosis: Diagnosis, name: str) -> float:
    (found,) = (e.value for e in diagnosis.evidence if name in e.name)
    return found


# --- machines ------------------------------------------------------------------------------------


def sampled(machine: BoltzmannMachine, seed: int) -> Chains:
    return run(Gibbs(), machine, draws=500, warmup=100, chains=16, seed=seed)


def test_a_ferromagnet_above_its_critical_temperature_has_mixed() -> None:
    diagnosis = diagnose(sampled(torus(0.3), 0))
    assert diagnosis.verdict is MIXED
    assert not diagnosis.advice
    assert str(diagnosis).startswith("Mixed: ")


def test_modes_of_opposite_sign_are_found_where_the_energy_agrees() -> None:
    chains = sampled(torus(0.6), 0)
    settled = chains.draws["visible"].double().mean((1, 2)).abs() > 0.5  # no stripes
    data = chains.to_arviz().isel(chain=settled.nonzero().flatten().numpy())
    assert az.rhat(data["posterior"]["model_energy"].values) < 1.02
    diagnosis = diagnose(data)
    assert diagnosis.verdict is NOT_MIXED
    assert evidence(diagnosis, "R-hat, largest of 17 observables") > 1.5
    assert any("parallel tempering" in advice for advice in diagnosis.advice)


def test_a_frustrated_machine_is_not_mixed_by_single_site_gibbs() -> None:
    assert diagnose(sampled(glass(0.5, 0), 0)).verdict is NOT_MIXED


@pytest.mark.slow
def test_no_trap_is_missed() -> None:
    # Of 16 chains all have one sign once in 30,000 runs.
    verdicts = [diagnose(sampled(torus(0.6), k)).verdict for k in range(50)]
    verdicts += [diagnose(sampled(glass(0.5, k), k)).verdict for k in range(50)]
    assert verdicts.count(NOT_MIXED) == 100


@pytest.mark.slow
def test_no_false_alarm_on_a_machine() -> None:
    verdicts = [diagnose(sampled(torus(0.3), k)).verdict for k in range(200)]
    assert verdicts.count(MIXED) >= 199


# --- false alarms --------------------------------------------------------------------------------

WELL_MIXED: dict[str, Callable[[int], Tensor]] = {
    "bits": lambda k: resampled(4, 1000, torch.linspace(0.05, 0.95, 60), 0.4, k),
    "many chains": lambda k: resampled(32, 200, torch.full((20,), 0.3), 0.4, k),
    "two chains": lambda k: resampled(2, 2000, torch.full((20,), 0.3), 0.4, k),
    "real": lambda k: autoregressive(4, 1500, 10, 0.5, k),
    "Cauchy": lambda k: torch.tan(1.57 * (2 * torch.rand(4, 800, 5, generator=generator(k)) - 1)),
    "labels": lambda k: torch.randint(0, 3, (4, 500, 10), generator=generator(k)),
}


def alarms(case: str, runs: int) -> tuple[int, int]:
    """How many well-mixed runs are called not mixed, and how many not mixed or doubtful."""
    verdicts = [diagnose(posterior(x=WELL_MIXED[case](k))).verdict for k in range(runs)]
    return verdicts.count(NOT_MIXED), runs - verdicts.count(MIXED)


@pytest.mark.parametrize("case", WELL_MIXED)
def test_few_runs_raise_no_alarm(case: str) -> None:
    assert alarms(case, 3) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("case", WELL_MIXED)
def test_two_hundred_runs_raise_no_alarm(case: str) -> None:
    wrong, doubtful = alarms(case, 200)
    assert wrong <= 1
    assert doubtful <= 10


def test_units_that_are_rarely_on_raise_no_alarm() -> None:
    for k in range(3):
        x = resampled(4, 400, torch.logspace(-3, -0.5, 200), 0.5, k)
        assert diagnose(posterior(x=x)).verdict is not NOT_MIXED


def test_chains_too_short_for_a_judgement() -> None:
    short = diagnose(posterior(x=resampled(4, 50, torch.full((20,), 0.5), 0.5, 0)))
    assert short.verdict is CANNOT_TELL
    assert any("Run longer" in advice for advice in short.advice)
    shorter = diagnose(posterior(x=resampled(4, 5, torch.full((20,), 0.5), 0.5, 0)))
    assert shorter.verdict is CANNOT_TELL
    assert evidence(shorter, "draws of each chain") == 5


# --- traps ---------------------------------------------------------------------------------------


def global_trap(seed: int) -> Tensor:
    """Four hundred weak units: each chain's mean field has a sign, no unit shows it."""
    sign = torch.tensor([1, 1, -1, -1])[:, None, None]
    random = torch.rand(4, 500, 400, generator=generator(seed))
    return (random < 0.5 + 0.03 * sign).to(torch.int8)


def staggered_trap(seed: int) -> Tensor:
    """As `global_trap`, with neighbours of opposite sign: the magnetisation is blind to it."""
    x = global_trap(seed)
    x[..., ::2] = 1 - x[..., ::2]
    return x


def unit_trap(seed: int) -> Tensor:
    """One unit of many follows its chain, and does not count in the others' sums."""
    x = resampled(4, 500, torch.full((300,), 0.5), 0.5, seed)
    on = torch.tensor([0.9, 0.9, 0.1, 0.1])[:, None]
    x[..., 7] = torch.rand(4, 500, generator=generator(seed)) < on
    return x


def spread_trap(seed: int) -> Tensor:
    """Chains with one mean, of which one has another width: seen by the folded R-hat."""
    x = torch.randn(4, 800, 3, generator=generator(seed))
    x[0] *= 3
    return x


def drift(seed: int) -> Tensor:
    """All chains go the same way."""
    x = autoregressive(4, 800, 3, 0.3, seed)
    return x + torch.linspace(0, 1, 800)[:, None]


TRAPS = {
    "global": global_trap,
    "staggered": staggered_trap,
    "unit": unit_trap,
    "spread": spread_trap,
    "drift": drift,
}


@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_is_found(case: str) -> None:
    assert diagnose(posterior(x=TRAPS[case](0))).verdict is NOT_MIXED


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_is_found_in_fifty_runs(case: str) -> None:
    verdicts = [diagnose(posterior(x=TRAPS[case](k))).verdict for k in range(50)]
    assert verdicts.count(NOT_MIXED) == 50


def across_sites(seed: int) -> dict[str, Tensor]:
    """Two numbers, alike in all chains, whose correlation has another sign in every second one."""
    x, y = torch.randn(2, 8, 800, generator=generator(seed))
    sign = torch.tensor([0.9, -0.9]).repeat(4)[:, None]
    return {"first": x, "second": sign * x + math.sqrt(1 - 0.9**2) * y}


def labels_across_sites(seed: int) -> dict[str, Tensor]:
    """Two fair bits that agree in every second chain and differ in the others, beside a label."""
    x, noise, third = torch.rand(3, 8, 800, generator=generator(seed))
    bit = x < 0.5
    flipped = (noise < 0.1) ^ torch.tensor([True, False]).repeat(4)[:, None]
    return {"first": bit, "second": bit ^ flipped, "label": (3 * third).long()}


@pytest.mark.parametrize("case", [across_sites, labels_across_sites])
def test_a_trap_between_sites_is_found(case: Callable[[int], dict[str, Tensor]]) -> None:
    for seed in range(3):
        found = diagnose(posterior(**case(seed)))
        assert found.verdict is NOT_MIXED
        assert "all sites" in found.against[0].detail
        one_by_one = [diagnose(posterior(x=x)).verdict for x in case(seed).values()]
        assert set(one_by_one) == {MIXED}


def test_a_trap_between_units_of_one_site_is_found() -> None:
    for seed in range(3):
        x = torch.stack(list(across_sites(seed).values()), -1)
        assert diagnose(posterior(x=x)).verdict is NOT_MIXED


def test_a_site_of_any_scale_counts_among_all_sites() -> None:
    # In their own units the two that are trapped would not be seen beside the third.
    scales = torch.tensor([1e4, 1e3, 1e3, 1e3, 1e3])
    loud = scales * torch.randn(8, 800, 5, generator=generator(9))
    for seed in range(3):
        assert diagnose(posterior(**across_sites(seed), loud=loud)).verdict is NOT_MIXED


def test_data_directions_are_looked_at() -> None:
    # The draws' own directions follow the noise of the loud units.
    x = torch.randn(4, 500, 20, generator=generator(0))
    x[..., :10] *= 10
    pattern = torch.cat([torch.zeros(10), torch.ones(10)])
    x += 0.25 * torch.tensor([1, 1, -1, -1])[:, None, None] * pattern
    data = torch.randn(300, 1, generator=generator(1)) * pattern
    names = [e.detail for e in diagnose(posterior(x=x), data=data).against]
    assert "component 1 of 'x' (the data's)" in names


def no_components(draws: Tensor, _: object) -> Tensor:
    return torch.empty(*draws.shape[:2], 0)


def test_a_mutant_without_a_sign_misses_the_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    # The reason for signed observables: |m| and the energy are the same in both modes.
    module = "pyro_ebm.diagnostics.observables."
    trapped = posterior(x=global_trap(0))
    assert diagnose(trapped).verdict is NOT_MIXED
    monkeypatch.setattr(module + "components", no_components)
    assert diagnose(trapped).verdict is NOT_MIXED
    monkeypatch.setattr(
        module + "order_parameters",
        lambda _, x: {"magnetisation": (2 * x.double().mean(-1) - 1).abs()},
    )
    assert diagnose(trapped).verdict is not NOT_MIXED
    monkeypatch.undo()
    monkeypatch.setattr(module + "order_parameters", lambda *_: {})
    assert diagnose(posterior(x=staggered_trap(0))).verdict is NOT_MIXED
    monkeypatch.setattr(module + "components", no_components)
    assert diagnose(posterior(x=staggered_trap(0))).verdict is not NOT_MIXED


def test_a_mutant_without_units_misses_the_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    trapped = posterior(x=unit_trap(0))
    monkeypatch.setattr("pyro_ebm.diagnostics.observables.components", no_components)
    diagnosis = diagnose(trapped)
    assert diagnosis.verdict is NOT_MIXED
    assert diagnosis.against[0].detail == "x[7]"
    others = [e for e in diagnosis.against if "observables" in e.name]
    assert not any(e.verdict is NOT_MIXED for e in others)


# --- frozen, broken, alone -----------------------------------------------------------------------


def moving(seed: int = 0) -> Tensor:
    return resampled(4, 800, torch.full((6,), 0.5), 0.5, seed)


def test_stuck_units_are_loud() -> None:
    x = moving()
    x[..., 2] = torch.tensor([0, 1, 1, 0], dtype=torch.int8)[:, None]
    diagnosis = diagnose(posterior(x=x))
    assert diagnosis.verdict is NOT_MIXED
    assert evidence(diagnosis, "stuck") == 1
    assert "R-hat = ∞" in str(diagnosis)
    assert "x[2]" in diagnosis.summary
    assert evidence(diagnosis, "R-hat, largest of 6 units") == math.inf


def test_constant_units_are_doubted_unless_the_data_are_so() -> None:
    x = moving()
    x[..., 1] = 1
    diagnosis = diagnose(posterior(x=x))
    assert diagnosis.verdict is CANNOT_TELL
    assert "x[1]" in diagnosis.summary
    data = moving(1)[0, :30]
    assert diagnose(posterior(x=x), data=data).verdict is CANNOT_TELL
    data[:, 1] = 1
    assert diagnose(posterior(x=x), data=data).verdict is MIXED


def of_cholesky_factors(draws: Tensor) -> Chains:
    """As if a kernel had made them: what is known of their site is all that matters."""
    energy = DistributionEnergy(dist.LKJCholesky(3, torch.tensor(2.0)))
    chains = run(RandomWalk(scale=0.1, mass=UNIT_MASS), energy, 1, warmup=0, seed=0)
    lp = torch.randn(draws.shape[:2], generator=generator(0))
    return replace(chains, draws={"visible": draws}, statistics={"lp": lp})


def test_what_a_support_fixes_is_said_and_not_doubted() -> None:
    chains = of_cholesky_factors(dist.LKJCholesky(3, torch.tensor(2.0)).sample((4, 600)))
    for draws in (chains, chains.to_arviz()):
        diagnosis = diagnose(draws)
        assert diagnosis.verdict is MIXED
        assert evidence(diagnosis, "fixed by its support") == 4  # three zeros, and the first 1
        assert "visible[0, 1]" in str(diagnosis)


def test_what_a_support_does_not_fix_is_doubted() -> None:
    stopped = dist.LKJCholesky(3, torch.tensor(2.0)).sample((4, 600))
    stopped[..., 2, 0] = 0
    diagnosis = diagnose(of_cholesky_factors(stopped))
    assert diagnosis.verdict is CANNOT_TELL
    assert "visible[2, 0]" in diagnosis.summary
    # A zero of a real matrix is one of a Cholesky factor only where all above the diagonal are.
    x = torch.randn(4, 800, 3, 3, generator=generator(0))
    x[..., 0, 1] = 0
    assert diagnose(posterior(x=x)).verdict is CANNOT_TELL
    x = x.tril()
    assert diagnose(posterior(x=x)).verdict is MIXED
    x[..., 2, 0] = 0
    assert diagnose(posterior(x=x)).verdict is CANNOT_TELL


def test_the_diagonal_of_correlations_is_fixed() -> None:
    first = torch.rand(4, 800, generator=generator(0))
    matrix = torch.eye(2).expand(4, 800, 2, 2).clone()
    matrix[..., 0, 1] = matrix[..., 1, 0] = first
    assert diagnose(posterior(x=matrix)).verdict is MIXED
    matrix[..., 1, 0] = 0.5
    assert diagnose(posterior(x=matrix)).verdict is CANNOT_TELL


def test_chains_that_never_move() -> None:
    x = moving()
    x[3] = x[3, :1]
    diagnosis = diagnose(posterior(x=x))
    assert diagnosis.verdict is NOT_MIXED
    assert evidence(diagnosis, "never move") == 1
    still = posterior(x=torch.ones(4, 100, 3, dtype=torch.int8))
    assert diagnose(still).verdict is NOT_MIXED


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_none(value: float) -> None:
    x = torch.randn(4, 500, 3)
    x[2, 17, 1] = value
    diagnosis = diagnose(posterior(x=x))
    assert diagnosis.verdict is NOT_MIXED
    assert "first in chain 2 at draw 17" in diagnosis.summary
    energy = torch.randn(4, 500)
    energy[1, 3] = value
    broken = posterior(x=moving()[:, :500], statistics={"lp": energy})
    assert diagnose(broken).verdict is NOT_MIXED


def test_one_chain_cannot_tell() -> None:
    diagnosis = diagnose(posterior(x=autoregressive(1, 4000, 3, 0.2, 0)))
    assert diagnosis.verdict is CANNOT_TELL
    assert [e.name for e in diagnosis.against] == ["chains"]
    assert any("several chains" in advice for advice in diagnosis.advice)
    assert diagnose(posterior(x=drift(0)[:1])).verdict is NOT_MIXED


def test_a_clamped_site_can_be_left_out() -> None:
    clamped = moving()[:, :1].expand(4, 800, 6)
    data = posterior(free=moving(), clamped=clamped)
    assert diagnose(data).verdict is NOT_MIXED
    assert diagnose(data, sites=["free"]).verdict is MIXED


# --- what kernels report -------------------------------------------------------------------------


def reported(**statistics: Tensor) -> Diagnosis:
    return diagnose(posterior(x=autoregressive(4, 1500, 4, 0.4, 0), statistics=statistics))


def test_divergences() -> None:
    diverging = torch.zeros(4, 1500, dtype=torch.bool)
    assert reported(diverging=diverging).verdict is MIXED
    diverging[0, 0] = True
    few = reported(diverging=diverging)
    assert few.verdict is MIXED
    assert "too few to matter" in str(few)
    short = posterior(
        x=autoregressive(4, 300, 4, 0.6, 0), statistics={"diverging": diverging[:, :300]}
    )
    assert diagnose(short).verdict is NOT_MIXED
    diverging[:, :10] = True
    assert reported(diverging=diverging).verdict is NOT_MIXED


def test_acceptance_and_swaps() -> None:
    rate = torch.full((4, 1500), 0.6)
    assert reported(acceptance_rate=rate, swap_rate=rate).verdict is MIXED
    rate[2] = 0.01
    assert reported(acceptance_rate=rate).verdict is CANNOT_TELL
    # Of a mixture the draws that another kernel made have no rate.
    rate[2] = 0.6
    rate[:, ::2] = torch.nan
    assert reported(acceptance_rate=rate, swap_rate=rate).verdict is MIXED
    rate[2, 1::2] = 0.01
    assert reported(acceptance_rate=rate).verdict is CANNOT_TELL
    rate[:] = torch.nan
    silent = reported(acceptance_rate=rate, swap_rate=rate)
    assert silent.verdict is MIXED
    assert not any("rate" in e.name for e in silent.evidence)
    swaps = reported(swap_rate=torch.full((4, 1500), 0.01))
    assert swaps.verdict is CANNOT_TELL
    assert any("temperatures" in advice for advice in swaps.advice)


# --- kernels on constrained sites ----------------------------------------------------------------

CONSTRAINED = {
    "exponential": dist.Exponential(torch.tensor(1.0, dtype=torch.float64)),
    "half normal": dist.HalfNormal(torch.tensor(1.0, dtype=torch.float64)),
    "Dirichlet": dist.Dirichlet(torch.full((4,), 2.0, dtype=torch.float64)),
}
MOVERS = {
    # The steps are given: what a warm-up finds is not to be judged here.
    "random walk": RandomWalk(scale=1.5, mass=UNIT_MASS),
    "MALA": MALA(step_size=0.3, mass=UNIT_MASS),
    "HMC": HMC(step_size=0.4, trajectory_length=1.6, mass=UNIT_MASS),
}


def moved(law: str, kernel: str, draws: int, seed: int) -> Chains:
    """Chains from exact draws, which have forgotten nothing that they should."""
    law_ = CONSTRAINED[law]
    torch.manual_seed(seed)
    start = law_.sample((16,))
    energy = DistributionEnergy(law_)
    return run(MOVERS[kernel], energy, draws, warmup=0, thinning=4, initial=start, seed=seed)


def test_far_proposals_raise_no_alarm() -> None:
    # Of the normal law's half the walks and MALA propose, in a tenth of their steps, what is more
    # than 1,000 nats up: they reject it, and that is all.
    for kernel in ("random walk", "MALA"):
        assert diagnose(moved("half normal", kernel, 150, 0)).verdict is MIXED


@pytest.mark.slow
@pytest.mark.parametrize("law", CONSTRAINED)
@pytest.mark.parametrize("kernel", MOVERS)
def test_thirty_runs_on_constrained_sites_raise_no_alarm(law: str, kernel: str) -> None:
    verdicts = [diagnose(moved(law, kernel, 600, k)).verdict for k in range(30)]
    assert verdicts.count(NOT_MIXED) == 0
    assert verdicts.count(MIXED) >= 29


def funnel(width: float) -> CallableEnergy:
    """Nine numbers whose common scale is a tenth one: the neck is too narrow for a long step."""
    sites = {
        "scale": Site(constraints.real, torch.Size([])),
        "x": Site(constraints.real, torch.Size([9])),
    }

    def energy(scale: Tensor, x: Tensor) -> Tensor:
        inside = x.square().sum(-1) * (-scale).exp() + 9 * scale
        return (scale / width).square() / 2 + inside / 2

    return CallableEnergy(energy, sites, dtype=torch.float64)


def test_divergences_in_a_funnel_are_found() -> None:
    kernel = HMC(step_size=0.7, trajectory_length=2.0, mass=UNIT_MASS)
    chains = run(kernel, funnel(3.0), 150, warmup=50, chains=16, seed=0)
    diagnosis = diagnose(chains)
    assert diagnosis.verdict is NOT_MIXED
    (share,) = (e for e in diagnosis.against if e.name == "share of diverging draws")
    assert share.verdict is NOT_MIXED


@pytest.mark.slow
def test_divergences_in_a_funnel_are_found_in_ten_runs() -> None:
    for seed in range(10):
        chains = run(HMC(), funnel(3.0), 1000, warmup=200, chains=16, seed=seed)
        found = {e.name for e in diagnose(chains).against if e.verdict is NOT_MIXED}
        assert "share of diverging draws" in found


def test_a_mixture_with_a_kernel_that_always_accepts_has_mixed() -> None:
    kernel = Mixture((Gibbs(), GibbsWithGradients()))
    machine = BoltzmannMachine.restricted(2, 2, couplings=torch.zeros(2, 2))
    chains = run(kernel, machine, 600, warmup=10, chains=4, seed=0)
    assert bool(chains.statistics["acceptance_rate"].isnan().any())
    assert diagnose(chains).verdict is MIXED


# --- what is taken -------------------------------------------------------------------------------


def test_chains_and_their_arviz_data_are_judged_alike() -> None:
    chains = sampled(torus(0.3), 1)
    of_data = diagnose(chains.to_arviz())
    assert of_data.evidence[-1].name == "share of diverging draws"  # which `to_arviz` adds
    assert of_data.evidence[:-1] == diagnose(chains).evidence


def test_any_object_with_groups_is_taken() -> None:
    # A DataTree of ArviZ 1.x: datasets under the names of groups, and nothing else is used.
    data = posterior(x=moving(), statistics={"lp": torch.randn(4, 800)})
    tree = {"posterior": data["posterior"], "sample_stats": data["sample_stats"]}
    assert str(diagnose(tree)) == str(diagnose(data))
    order = {"posterior": data["posterior"].transpose("x_dim_0", "draw", "chain")}
    assert str(diagnose(order)) == str(diagnose(posterior(x=moving())))


def test_other_programs_names_are_their_own() -> None:
    shifted = torch.randn(4, 500, generator=generator(0))
    shifted[0] += 5
    fine = torch.randn(4, 500, generator=generator(1))
    for name in ("magnetisation", "model_energy"):
        assert diagnose(posterior(**{name: shifted, "x": fine})).verdict is NOT_MIXED
        assert diagnose(posterior(**{name: shifted})).verdict is NOT_MIXED
        vector = torch.stack([fine, shifted], -1)
        assert diagnose(posterior(**{name: vector, "x": fine})).verdict is NOT_MIXED
    # Log densities term by term are not the energy.
    terms = torch.randn(4, 500, 2, generator=generator(2))
    assert diagnose(posterior(x=fine, statistics={"lp": terms})).evidence


def test_derived_quantities_are_not_units() -> None:
    names = [e.name for e in diagnose(sampled(torus(0.1), 0).to_arviz()).evidence]
    assert not any("units of 'mag" in name or "units of 'mod" in name for name in names)


def test_variables_without_chains_or_draws_are_left_out() -> None:
    data = posterior(x=moving(), statistics={"lp": torch.randn(4, 800)})
    own = data["posterior"]
    own["weights"] = ("k",), np.ones(3)
    own["word"] = ("chain", "draw"), np.full((4, 800), "a")
    statistics = data["sample_stats"].assign(step_size=("chain", np.ones(4)))
    diagnosis = diagnose({"posterior": own, "sample_stats": statistics})
    assert diagnosis.verdict is MIXED
    (said,) = (e for e in diagnosis.evidence if "left out" in e.name)
    assert said.detail == "weights, word, step_size"
    with pytest.raises(ValueError, match="none of weights, step_size is an array of numbers"):
        diagnose({"posterior": own[["weights"]], "sample_stats": statistics})


@pytest.mark.parametrize(
    "dtype", ["uint16", "uint64", ">i4", ">f8", "float16", "longdouble", "bool", "uint8"]
)
def test_arrays_of_every_width_and_byte_order(dtype: str) -> None:
    x = moving().numpy()
    own = posterior(x=x)["posterior"].assign(x=(("chain", "draw", "k"), x.astype(dtype)))
    assert str(diagnose({"posterior": own, "sample_stats": own[[]]})) == str(
        diagnose(posterior(x=x))
    )


def test_data_may_be_arrays() -> None:
    data = moving(1)[0, :30]
    wanted = str(diagnose(posterior(x=moving()), data=data))
    assert str(diagnose(posterior(x=moving()), data=data.numpy())) == wanted
    assert str(diagnose(posterior(x=moving()), data={"x": data.numpy()})) == wanted


def test_whole_numbers_kept_as_floats_are_discrete() -> None:
    as_floats = diagnose(posterior(x=moving().double()))
    assert str(as_floats) == str(diagnose(posterior(x=moving())))


def test_sites_of_every_shape_together() -> None:
    g = generator(0)
    data = posterior(
        bit=moving(),
        label=torch.randint(0, 4, (4, 800, 2, 3), generator=g),
        count=torch.poisson(torch.full((4, 800), 30.0), generator=g),
        real=torch.randn(4, 800, 2, 2, generator=g),
        scale=torch.randn(4, 800, generator=g).exp(),
    )
    diagnosis = diagnose(data)
    assert diagnosis.verdict is MIXED
    names = " ".join(e.name for e in diagnosis.evidence)
    assert all(f"'{site}'" in names for site in ("bit", "label", "count", "real", "scale"))


REFUSED = {
    "an array": (lambda: diagnose(torch.zeros(4, 100)), TypeError, "got Tensor"),
    "no posterior": (lambda: diagnose({"prior": 1}), TypeError, "posterior"),
    "unknown site": (lambda: diagnose(posterior(x=moving()), sites=["y"]), ValueError, r"\['y'\]"),
    "bare name": (lambda: diagnose(posterior(x=moving()), sites="x"), ValueError, "in a list"),
    "width": (
        lambda: diagnose(posterior(x=moving()), data=torch.zeros(5, 7)),
        ValueError,
        r"shape \(5, 7\) for 'x'",
    ),
    "data in a list": (
        lambda: diagnose(posterior(x=moving()), data=[[0, 1]]),
        TypeError,
        "'data' is a list; wanted a torch tensor or a numpy array",
    ),
    "data of nothing": (
        lambda: diagnose(posterior(x=moving()), data={"y": torch.zeros(5, 6)}),
        ValueError,
        "'y'",
    ),
    "groups": (lambda: diagnose(posterior(x=moving()), superchains=3), ValueError, "superchains"),
    "no draws": (
        lambda: diagnose({"posterior": SimpleNamespace(data_vars=())}),
        ValueError,
        "no draws",
    ),
    "other sites": (
        lambda: compare_starts(posterior(x=moving()), posterior(y=moving())),
        ValueError,
        "different sites",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_judged_is_refused(case: str) -> None:
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


# --- starts --------------------------------------------------------------------------------------


def from_starts(machine: BoltzmannMachine, value: Tensor, seed: int) -> Chains:
    return run(Gibbs(), machine, 500, warmup=100, initial={"visible": value}, seed=seed)


def test_starts_find_the_mode_that_no_chain_has_left() -> None:
    up = torch.ones(8, 100)
    down = -up
    trapped, other = (from_starts(torus(0.6), x, k) for k, x in enumerate((up, down)))
    assert diagnose(trapped).verdict is not NOT_MIXED  # the chains cannot know
    compared = compare_starts(trapped, other)
    assert compared.verdict is NOT_MIXED
    assert evidence(compared, "two kinds of starts") < 1e-6


def test_starts_that_come_together() -> None:
    up = torch.ones(8, 100)
    first, second = (from_starts(torus(0.25), x, k) for k, x in enumerate((up, -up[:6])))
    compared = compare_starts(first, second)
    assert compared.verdict is MIXED
    assert evidence(compared, "two kinds of starts") > 1e-2


def test_starts_that_differ_a_little_in_many_units() -> None:
    # Within each kind of start all chains agree; between the two, only together are they certain.
    first = posterior(x=resampled(8, 800, torch.full((40,), 0.50), 0.5, 0))
    second = posterior(x=resampled(8, 800, torch.full((40,), 0.54), 0.5, 1))
    assert diagnose(first).verdict is MIXED
    assert diagnose(second).verdict is MIXED
    assert evidence(compare_starts(first, second), "two kinds of starts") < 1e-4


# --- many short chains ---------------------------------------------------------------------------


def grouped(memory: float, seed: int) -> Tensor:
    """16 groups of 32 chains of 12 draws, each group from one start far out."""
    start = 2 * torch.randn(16, 1, 1, 3, generator=generator(seed)).expand(16, 32, 1, 3)
    x = [start.reshape(512, 3)]
    g = generator(seed + 1)
    for _ in range(12):
        noise = torch.randn(512, 3, generator=g)
        x.append(memory * x[-1] + math.sqrt(1 - memory**2) * noise)
    return torch.stack(x[1:], 1)


def test_groups_of_short_chains() -> None:
    mixed = diagnose(posterior(x=grouped(0.05, 0)), superchains=16)
    assert mixed.verdict is MIXED
    assert evidence(mixed, "nested R-hat, largest of 3 units") < 1.05
    assert diagnose(posterior(x=grouped(0.98, 0)), superchains=16).verdict is NOT_MIXED


def test_the_words_are_complete() -> None:
    words = str(diagnose(posterior(x=unit_trap(0))))
    assert words.startswith("Not mixed: ")
    assert "wanted" in words
    assert "What to try next:" in words
    assert "x[7]" in words
    assert str(NOT_MIXED) == "not mixed"


def test_the_round_trips_of_every_ladder_are_evidence_in_arviz_too() -> None:
    machine = BoltzmannMachine.restricted(4, 2)
    ladders = [ParallelTempering(Gibbs(), betas) for betas in ((0.0, 1.0), (0.5, 0.75, 1.0))]
    chains = run(Cycle(tuple(ladders)), machine, 40, warmup=5, chains=4, seed=0)
    wanted = [chains.attributes[f"kernel_{k}_round_trips"] for k in range(2)]
    assert min(wanted) > 0
    for draws in (chains, to_arviz(chains)):
        found = [e.value for e in diagnose(draws).evidence if e.name.startswith("round trips")]
        assert found == pytest.approx(wanted)
    bare = diagnose(run(Gibbs(), machine, 40, warmup=5, chains=4, seed=0))
    assert not [e for e in bare.evidence if "trips" in e.name]
