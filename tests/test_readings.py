"""How often parameters are read and values checked, from a call to its result.

An energy's structure is read where a call begins and handed on; a kernel reads it for its state. So
an energy whose parameters are random variables is one energy in a call, and a wide machine is not
read a dozen times. What is given is checked where it is given, and by the kernel that begins there.
"""

from collections.abc import Callable
from typing import NamedTuple

import networkx as nx
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm import (
    BoltzmannMachine,
    CallableEnergy,
    ContrastiveDivergence,
    Energy,
    EnergyKernel,
    ExactLikelihood,
    Gibbs,
    Kernel,
    ModelEnergy,
    Monitor,
    PersistentContrastiveDivergence,
    RandomField,
    RandomWalk,
    choose_kernel,
    clamp,
    fit,
    infer,
    resume,
    run,
    sample,
)
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.energies import Structure, WithoutTerms
from pyro_ebm.sites import Site, Sites

V, CPU = "visible", torch.device("cpu")


class Counts:
    """How often the methods of any energy of some kinds are called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.of = patch, {"structure": 0, "accept": 0}

    def watch(self, energy: Energy) -> Energy:
        """The energy, whose readings and checks are counted from now on."""
        for name in self.of:
            right = getattr(type(energy), name)

            def counted(
                own: Energy,
                *args: object,
                right: Callable[..., object] = right,
                name: str = name,
                **kw: object,
            ) -> object:
                if own is energy:
                    self.of[name] += 1
                return right(own, *args, **kw)

            self.patch.setattr(type(energy), name, counted)
        return energy


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


def restricted() -> BoltzmannMachine:
    return BoltzmannMachine.restricted(40, 30, couplings=torch.zeros(40, 30))


def model() -> None:
    with pyro.plate("rows", 3):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        pyro.sample("row", dist.Normal(label, 1.0), obs=torch.tensor([0.1, 1.2, 0.3]))


ENERGIES: dict[str, Callable[[], Energy]] = {
    "a machine": restricted,
    "a machine, held": lambda: clamp(restricted(), {V: torch.zeros(40)}),
    "a weighted machine": lambda: 0.5 * restricted(),
    "a graph": lambda: BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.ones(2)),
    "a field": lambda: RandomField.potts(nx.cycle_graph(4), 3, couplings=torch.ones(4)),
    "a function": lambda: CallableEnergy(lambda x: x.square().sum(-1), 3),
    "a model": lambda: ModelEnergy(model),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_a_kernel_is_chosen_by_one_reading(name: str, counts: Counts) -> None:
    choose_kernel(counts.watch(ENERGIES[name]()))
    assert counts.of["structure"] == 1


@pytest.mark.parametrize("warmup", [0, 250])
def test_a_run_reads_once_and_its_kernel_once(warmup: int, counts: Counts) -> None:
    """However many steps it takes, looks at the energy, and draws it keeps."""
    machine = counts.watch(restricted())
    chains = run(Gibbs(), machine, 250, warmup=warmup, initial={**start()}, seed=0)
    assert counts.of == {"structure": 2, "accept": 2}
    resume(chains, machine, 250)
    assert counts.of == {"structure": 4, "accept": 2}  # parameters may have changed


def start() -> Sites:
    return {V: torch.zeros(4, 40), "hidden": torch.zeros(4, 30)}


@pytest.mark.parametrize("kernel", [None, Gibbs()])
@pytest.mark.parametrize("initial", [None, start()])
def test_sample_reads_once_and_its_kernel_once(
    initial: Sites | None, kernel: Kernel | None, counts: Counts
) -> None:
    """What is weighed, chosen, run and judged rests on one reading, exact sums among it."""
    machine = counts.watch(restricted())
    sample(machine, 200, warmup=100, chains=16, kernel=kernel, initial=initial, seed=0)
    assert counts.of == {"structure": 2, "accept": 1 if initial is None else 2}


@pytest.mark.parametrize("hidden", [0, 3])
def test_a_log_probability_is_one_reading(hidden: int, counts: Counts) -> None:
    machines = BoltzmannMachine.restricted(5, 3), BoltzmannMachine.fully_visible(5)
    machine = counts.watch(machines[hidden == 0])
    law = EnergyDistribution(machine)
    assert counts.of == {"structure": 1, "accept": 0}
    law.log_prob(torch.zeros(7, 5))
    assert counts.of == {"structure": 2, "accept": 1}


@pytest.mark.parametrize(
    ("objective", "at_start", "each"),
    [
        (ContrastiveDivergence(), (3, 3), (2, 1)),
        (PersistentContrastiveDivergence(chains=5), (3, 3), (2, 1)),
        (ExactLikelihood(), (2, 2), (1, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fit_reads_twice_an_update_at_most(
    objective: object, at_start: tuple[int, int], each: tuple[int, int], counts: Counts
) -> None:
    """Once for the loss, with its history, and once for the chain, without."""
    machine = counts.watch(BoltzmannMachine.restricted(5, 3))
    data = torch.bernoulli(torch.full((10, 5), 0.5))
    data[:2] = torch.tensor([[0.0] * 5, [1.0] * 5])  # no unit is constant
    fit(machine, data, objective, epochs=4, observers=[], seed=0)
    wanted = [first + 4 * own for first, own in zip(at_start, each, strict=True)]
    assert [counts.of["structure"], counts.of["accept"]] == wanted


def test_a_monitor_reads_once_an_epoch(counts: Counts) -> None:
    machine, rows = BoltzmannMachine.restricted(5, 3), torch.eye(5)
    monitor = Monitor(held_out=rows)
    fantasies = {V: rows, "hidden": torch.zeros(5, 3)}
    metrics = monitor.read(counts.watch(machine), {V: rows}, fantasies)
    assert set(metrics) == {
        "log_likelihood",
        "held_out_log_likelihood",
        "free_energy_gap",
        "moment_mismatch",
    }
    assert counts.of == {"structure": 1, "accept": 1}  # the held-out rows


def test_a_pyro_model_is_asked_once_by_a_run(counts: Counts) -> None:
    energy = counts.watch(ModelEnergy(model))
    mcmc = infer.MCMC(EnergyKernel(Gibbs(), energy), num_samples=50, warmup_steps=0, seed=0)
    mcmc.run()
    # A state keeps no program: each step asks for it, at no cost.
    assert counts.of == {"structure": 2 + 50, "accept": 2}


class Pooled(Energy):
    """Adds up its batch, as an energy must not."""

    sites, dtype, device = {"x": Site(constraints.real, torch.Size())}, torch.float32, CPU

    def evaluate(self, x: Sites) -> Tensor:
        return x["x"].square().sum()

    def structure(self) -> Structure:
        return WithoutTerms(self)


def test_an_answer_of_the_wrong_shape_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="wanted one number for each element of the batch"):
        run(RandomWalk(scale=1.0), Pooled(), 3, warmup=0, initial={"x": torch.ones(4)}, seed=0)


# --- kernels of one's own ------------------------------------------------------------------------


class Still(NamedTuple):
    x: Sites


class Nothing(NamedTuple):
    """Nothing to tell."""


class Plain(Kernel):
    """Leaves all where it is, by a state that does not know the energy."""

    def init(self, energy: Energy, x: Sites) -> Still:
        return Still(x)

    def step(self, energy: Energy, state: Still) -> tuple[Still, Nothing]:
        return state, Nothing()

    def refresh(self, energy: Energy, state: Still, x: Sites) -> Still:
        return Still(x)


class Told(Kernel[Still, Nothing]):
    """The same, with its types told."""

    def init(self, energy: Energy, x: Sites) -> Still:
        return Still(x)

    def step(self, energy: Energy, state: Still) -> tuple[Still, Nothing]:
        return state, Nothing()

    def refresh(self, energy: Energy, state: Still, x: Sites) -> Still:
        return Still(x)


@pytest.mark.parametrize("kernel", [Plain(), Told()])
def test_a_kernel_may_leave_its_types_untold(kernel: Kernel) -> None:
    def energy(x: Tensor) -> Tensor:
        return x.square().sum(-1)

    initial = torch.tensor([[1.0, 2.0]])
    chains = run(kernel, CallableEnergy(energy, 2), 3, warmup=2, initial=initial, seed=0)
    assert torch.equal(chains.draws[V][0], initial.expand(3, 2))
    assert chains.statistics["lp"].tolist() == [[-5.0] * 3]
