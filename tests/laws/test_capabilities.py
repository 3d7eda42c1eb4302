"""What kernels say of themselves: their reverse, and the settings that they leave to a warm-up."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pyro.distributions as dist
import pytest
import torch

from pyro_ebm.energies import BoltzmannMachine, CallableEnergy, Energy
from pyro_ebm.kernels import (
    HMC,
    MALA,
    Cycle,
    DiscreteLangevin,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    Langevin,
    MetropolisHastings,
    Mixture,
    ParallelTempering,
    RandomBlocks,
    RandomWalk,
    ReversibleKernel,
    SwendsenWang,
    TemperedTransitions,
    TunableKernel,
    Wolff,
    run,
    warmup,
)
from pyro_ebm.minima import anneal
from pyro_ebm.sites import Sites

BETAS = (0.5, 1.0)


class Place(NamedTuple):
    """Where a chain is."""

    x: Sites


class Nothing(NamedTuple):
    """No report."""


@dataclass(frozen=True)
class Shift(Kernel):
    """Bits move around a ring by one: a direction of time, and no word of its reverse."""

    def init(self, energy: Energy, x: Sites) -> Place:
        return Place(energy.accept(x))

    def refresh(self, energy: Energy, state: Place, x: Sites) -> Place:
        return Place(x)

    def step(self, energy: Energy, state: Place) -> tuple[Place, Nothing]:
        return Place({name: value.roll(1, -1) for name, value in state.x.items()}), Nothing()


@dataclass(frozen=True)
class ShiftWithReverse(ReversibleKernel):
    """The same, which knows its reverse."""

    by: int = 1

    def reversed(self, energy: Energy) -> "ShiftWithReverse":
        return ShiftWithReverse(-self.by)

    def init(self, energy: Energy, x: Sites) -> Place:
        return Place(energy.accept(x))

    def refresh(self, energy: Energy, state: Place, x: Sites) -> Place:
        return Place(x)

    def step(self, energy: Energy, state: Place) -> tuple[Place, Nothing]:
        return Place({s: value.roll(self.by, -1) for s, value in state.x.items()}), Nothing()


def bits() -> BoltzmannMachine:
    machine = BoltzmannMachine.fully_visible(4)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_()
    return machine


def real() -> CallableEnergy:
    return CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)


def reversible() -> dict[str, tuple[ReversibleKernel, Energy]]:
    """Every kernel that has a reverse, with an energy that it moves."""
    step: dict[str, Any] = {"step_size": 0.3}
    ising = BoltzmannMachine.restricted(3, 2, couplings=torch.ones(3, 2))
    return {
        "Gibbs of layers": (Gibbs(), BoltzmannMachine.restricted(3, 2)),
        "GWG": (GibbsWithGradients(), bits()),
        "DMALA": (DiscreteLangevin(**step), bits()),
        "random blocks": (RandomBlocks(), bits()),
        "one block": (RandomBlocks().decided(bits(), 0), bits()),
        "Swendsen and Wang": (SwendsenWang(), ising),
        "Wolff": (Wolff(), ising),
        "a mixture": (Mixture((RandomBlocks(), GibbsWithGradients())), bits()),
        "MALA": (MALA(**step), real()),
        "HMC": (HMC(trajectory_length=1.0, **step), real()),
        "a random walk": (RandomWalk(scale=0.5), real()),
        "Metropolis and Hastings": (
            MetropolisHastings("visible", lambda x: dist.Normal(x, 0.5).to_event(1)),
            real(),
        ),
    }


@pytest.mark.parametrize("name", reversible())
def test_kernels_that_know_their_reverse_make_tempered_transitions(name: str) -> None:
    kernel, energy = reversible()[name]
    chains = run(TemperedTransitions(kernel, BETAS), energy, 3, warmup=0, chains=4, seed=1)
    assert all(bool(value.isfinite().all()) for value in chains.draws.values())


@pytest.mark.parametrize(
    "kernel", [Shift(), Mixture((RandomBlocks(), Shift())), Cycle((RandomBlocks(),))]
)
def test_a_kernel_that_does_not_know_its_reverse_is_refused(kernel: Kernel) -> None:
    start = {"visible": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match="has no reverse here") as raised:
        TemperedTransitions(kernel, BETAS).init(bits(), start)
    for words in ("RandomBlocks()", "ReversibleKernel", "reversed(energy)"):
        assert words in str(raised.value)
    TemperedTransitions(RandomBlocks(), BETAS).init(bits(), start)
    TemperedTransitions(Mixture((RandomBlocks(),)), BETAS).init(bits(), start)


def test_a_kernel_of_ones_own_is_taken_with_its_reverse() -> None:
    """Up by a shift and down by its reverse: the way back is always to where it began."""
    x = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0]])
    kernel = TemperedTransitions(ShiftWithReverse(), (0.25, 0.5, 1.0))
    energy = bits()
    state = kernel.init(energy, {"visible": x})
    after, info = kernel.step(energy, state)
    assert torch.equal(after.x["visible"], x)
    torch.testing.assert_close(info.acceptance_rate, torch.ones(2))


def test_a_coupled_gibbs_sweep_is_refused_and_both_cures_work() -> None:
    start = {"visible": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"Use RandomBlocks\(\) or GibbsWithGradients\(\)"):
        TemperedTransitions(Gibbs(), BETAS).init(bits(), start)
    for kernel in (RandomBlocks(), GibbsWithGradients()):
        TemperedTransitions(kernel, BETAS).init(bits(), start)


@pytest.mark.parametrize("betas", [8, 0.5, None, "ladder"])
def test_a_number_of_levels_is_refused_with_a_cure_that_works(betas: Any) -> None:
    error: Any = (TypeError, ValueError)
    with pytest.raises(error) as raised:
        TemperedTransitions(Gibbs(), betas)
    message = str(raised.value)
    assert "number of levels" not in message
    cure = "torch.linspace(0, 1, 8).tolist()"
    assert cure in message
    found = TemperedTransitions(Gibbs(), torch.linspace(0, 1, 8).tolist())  # type: ignore[arg-type]
    assert len(found.betas) == 8
    assert ParallelTempering(Gibbs(), 8).betas == 8


# --- settings that are left out ------------------------------------------------------------------


@dataclass(frozen=True)
class Leaping(TunableKernel, ReversibleKernel):
    """A kernel of one's own with a setting that nobody else has."""

    reach: float | None = None

    def unset(self) -> tuple[str, ...]:
        return ("reach",) if self.reach is None else ()

    def reversed(self, energy: Energy) -> Self:
        return self

    def tuning(self, steps: int) -> Kernel:
        return Leaping(1.0)

    @property
    def findings(self) -> dict[str, str | int | float]:
        return {"reach": float(self.reach or 0)}

    def init(self, energy: Energy, x: Sites) -> Place:
        return Place(energy.accept(x))

    def refresh(self, energy: Energy, state: Place, x: Sites) -> Place:
        return Place(x)

    def step(self, energy: Energy, state: Place) -> tuple[Place, Nothing]:
        return state, Nothing()


UNSET: dict[str, tuple[Kernel, tuple[str, ...]]] = {
    "HMC": (HMC(), ("step_size", "trajectory_length")),
    "HMC with a step": (HMC(step_size=0.1), ("trajectory_length",)),
    "MALA": (MALA(), ("step_size",)),
    "a random walk": (RandomWalk(), ("scale",)),
    "DMALA": (DiscreteLangevin(), ("step_size",)),
    "one's own": (Leaping(), ("reach",)),
    "a cycle": (Cycle((MALA(step_size=0.1), Leaping())), ("reach",)),
    "a mixture of a cycle": (Mixture((Cycle((RandomWalk(),)), Leaping())), ("scale", "reach")),
    "tempering": (ParallelTempering(Leaping(), 4), ("betas", "reach")),
}


@pytest.mark.parametrize("name", UNSET)
def test_a_kernel_says_what_is_unset_and_annealing_refuses_it(name: str) -> None:
    kernel, names = UNSET[name]
    assert isinstance(kernel, TunableKernel)
    assert kernel.unset() == names
    with pytest.raises(ValueError, match=f"has no {' and no '.join(names)}, and anneal has no"):
        anneal(real(), [0.5, 1.0], kernel=kernel)


def test_settings_are_found_by_the_cure() -> None:
    energy, x = real(), {"visible": torch.zeros(4, 2)}
    for kernel in (HMC(), MALA(), RandomWalk()):
        tuned, _ = warmup(kernel, energy, x, steps=20, seed=1)
        assert isinstance(tuned, TunableKernel)
        assert tuned.unset() == ()
        anneal(energy, [0.5, 1.0], kernel=tuned, chains=2, seed=1)
        TemperedTransitions(tuned, BETAS).init(energy, x)


def test_langevin_has_neither() -> None:
    with pytest.raises(ValueError, match="no Metropolis test and no reverse"):
        TemperedTransitions(Langevin(), BETAS).init(real(), {"visible": torch.zeros(4, 2)})


def test_reverses_are_what_they_are_said_to_be() -> None:
    """Of layers the opposite order; of the rest, themselves."""
    for name, (kernel, energy) in reversible().items():
        back = kernel.reversed(energy)
        if name == "Gibbs of layers":
            assert isinstance(back, Gibbs)
            assert back.sites == ("hidden", "visible")
        elif name != "a mixture":
            assert back is kernel
