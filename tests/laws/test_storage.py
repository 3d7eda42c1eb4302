"""What is saved is what is loaded, in another process, to the last bit."""

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pyro.distributions as dist
import pytest
import torch
from pyro.nn.module import PyroSample, to_pyro_module_
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ebm import (
    HMC,
    MALA,
    BoltzmannMachine,
    CallableEnergy,
    Chains,
    Cycle,
    DistributionEnergy,
    Gaussian,
    Gibbs,
    Graph,
    Layer,
    MetropolisHastings,
    ParallelTempering,
    PatternFactors,
    RandomField,
    RandomWalk,
    Site,
    Spin,
    TableFactors,
    clamp,
    convolutional_energy,
    interpolate,
    mlp_energy,
    resume,
    run,
)
from pyro_ebm.energies import Energy, SpectralConvolution, SpectralLinear, load, save
from pyro_ebm.kernels import Kernel, choose_kernel, random_start
from pyro_ebm.kernels.stored import KERNELS as KEPT
from pyro_ebm.sampling import ExactDraws
from pyro_ebm.storage import NotStorableError, UnreadableFileError, register
from pyro_ebm.storage.file import HEAD, LEAST, MAGIC, VERSION
from pyro_ebm.units import Bernoulli, Categorical, TruncatedGaussian
from tests.laws.test_kernel_table import KERNELS
from tests.support.kinds import KINDS, OPERATIONS, waves

ROOT = Path(__file__).parents[2]
OLD = Path(__file__).parents[1] / "data"


def in_another_process(program: str, *arguments: Path) -> str:
    """What a program prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same numbers, NaN included."""
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and torch.equal(first.nan_to_num(7.5), second.nan_to_num(7.5))


# --- energies ------------------------------------------------------------------------------------
def learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(waves(*shape).float())


def shared_weights() -> Energy:
    layers = {name: Layer(Bernoulli(), 2) for name in ("a", "b", "c")}
    machine = BoltzmannMachine(layers, [("a", "b"), ("b", "c")])
    machine.couplings["b_c"].weight = machine.couplings["a_b"].weight
    return machine


def inner_weights() -> Energy:
    energy = mlp_energy(2, (3,), activation=nn.Tanh)
    return nn.Parameter(torch.tensor(0.3)) * energy + DistributionEnergy(
        dist.Normal(torch.zeros(2), 1.0).to_event(1)
    )


def general() -> BoltzmannMachine:
    return BoltzmannMachine.general(
        3,
        2,
        couplings={
            ("visible", "visible"): waves(3, 3) + waves(3, 3).mT,
            ("hidden", "hidden"): nn.Parameter(waves(2, 2) + waves(2, 2).mT),
        }
        | {("visible", "hidden"): waves(3, 2)},
        biases={"visible": torch.zeros(3, dtype=torch.float64)},
        offset={"visible": waves(3), "hidden": waves(2)},
    )


def seen_by_patterns() -> Energy:
    agree = PatternFactors([[0, 1], [1, 2]], learned(2), torch.eye(2))
    return RandomField((2, 2, 2), {"agree": agree, "first": TableFactors([[0]], learned(1, 2))})


def law(distribution: Any) -> Callable[[], Energy]:
    return lambda: DistributionEnergy(distribution)


def double(make: Callable[[], Energy]) -> Callable[[], Energy]:
    return lambda: make().double()


def clamped_sum() -> Energy:
    bits = {"visible": Site(constraints.boolean, torch.Size([3]))}
    both = BoltzmannMachine.fully_visible(3) + mlp_energy(bits)
    return 0.5 * clamp(both, torch.ones(3), mask=torch.tensor([True, False, False]))


def with_zero_to_forbid() -> Energy:
    table = torch.tensor([[[0.0, 0.5], [0.25, -torch.inf]]])
    return RandomField((2, 2, 2), {"pairs": TableFactors([[0, 1], [1, 2]], table)})


MORE: dict[str, Callable[[], Energy]] = {
    "restricted": lambda: BoltzmannMachine.restricted(3, 2),
    "restricted, double": double(lambda: BoltzmannMachine.restricted(3, 2)),
    "semi-restricted": lambda: BoltzmannMachine.semi_restricted(3, 2),
    "general, centred, given in part": general,
    "deep": lambda: BoltzmannMachine.deep([2, 2, 2]),
    "tied": shared_weights,
    "lattice": lambda: BoltzmannMachine.on_graph([(0, 1), (1, 2), (2, 0)], couplings="shared"),
    "named": lambda: BoltzmannMachine.from_ising({"a": 0.5}, {("a", "b"): 0.7, ("b", "b"): 1.0}, 2),
    "bits": lambda: BoltzmannMachine.from_qubo({("a", "b"): 0.7, ("b", "b"): 1.0}, 0.25),
    "batched": lambda: BoltzmannMachine.restricted(3, 2, couplings=waves(4, 3, 2)),
    "transposed": lambda: BoltzmannMachine.restricted(3, 2, couplings=waves(2, 3).mT),
    "across a graph": lambda: BoltzmannMachine(
        {"a": Layer(Spin(), 2), "b": Layer(Spin(), 3, offset=torch.ones(3))},
        {("a", "b"): Graph([(0, 2), (1, 0)], learned(2))},
    ),
    "labels": lambda: BoltzmannMachine.restricted(3, 2, units=(Categorical(3), Bernoulli())),
    "learned precision": lambda: BoltzmannMachine.restricted(
        3, 2, units=(Gaussian(nn.Parameter(torch.tensor([1.0, 2.0, 0.3]))), Bernoulli())
    ),
    "one precision": lambda: BoltzmannMachine.restricted(3, 2, units=(Gaussian(1.7), Bernoulli())),
    "rectified": lambda: BoltzmannMachine.restricted(
        3, 2, units=(Bernoulli(), TruncatedGaussian(1.3, high=4.0))
    ),
    "Potts": lambda: RandomField.potts(nx.Graph([("a", "b"), ("b", "c")]), 3),
    "Ising": lambda: RandomField.ising([(0, 1), (1, 2)], couplings="shared"),
    "patterns": seen_by_patterns,
    "forbidden": with_zero_to_forbid,
    "perceptron": lambda: mlp_energy(3, (4, 4), spread=2.0),
    "perceptron alone": lambda: mlp_energy(3, (4,), spread=float("inf"), activation=nn.GELU),
    "perceptron of bits": lambda: mlp_energy({"b": Site(constraints.boolean, torch.Size([3]))}),
    "bounded slope": lambda: mlp_energy(3, (4,), linear=SpectralLinear),
    "images": lambda: convolutional_energy((1, 6, 6), (2, 3)),
    "images, bounded": lambda: convolutional_energy(
        (1, 6, 6), (2,), convolution=SpectralConvolution
    ),
    "module": lambda: CallableEnergy(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), 2),
    "learned weight": inner_weights,
    "learned share": lambda: interpolate(
        mlp_energy(2, (3,)), mlp_energy(2, (2,)), nn.Parameter(torch.tensor(0.25))
    ),
    "learned temperature": lambda: (
        BoltzmannMachine.restricted(3, 2) / nn.Parameter(torch.tensor(1.3))
    ),
    "shifted": lambda: BoltzmannMachine.restricted(3, 2) + 1.25,
    "twice the same": lambda: (lambda one: one + 2 * one)(mlp_energy(2, (3,))),
    "clamped": lambda: clamp(BoltzmannMachine.restricted(3, 2), {"visible": torch.ones(4, 3)}),
    "clamped in a sum": clamped_sum,
    "Normal": law(dist.Normal(torch.tensor([0.3, 0.7]), 1.3).to_event(1)),
    "LogNormal": law(dist.LogNormal(torch.tensor(0.3), 0.7)),
    "Beta": law(dist.Beta(torch.tensor([0.3, 2.0]), 1.3).to_event(1)),
    "Dirichlet": law(dist.Dirichlet(torch.tensor([0.3, 2.0, 1.1]))),
    "StudentT": law(dist.StudentT(3.3, torch.tensor(0.3), 0.7)),
    "HalfNormal": law(dist.HalfNormal(torch.tensor(0.3))),
    "Uniform": law(dist.Uniform(torch.tensor([0.3]), 4.0).to_event(1)),
    "Poisson": law(dist.Poisson(torch.tensor(2.3))),
    "Geometric": law(dist.Geometric(torch.tensor(0.3))),
    "Binomial": law(dist.Binomial(5, torch.tensor(0.3))),
    "NegativeBinomial": law(dist.NegativeBinomial(5, logits=torch.tensor(0.3))),
    "Categorical": law(dist.Categorical(torch.tensor([0.3, 0.6, 0.7]))),
    "Categorical by logits": law(dist.Categorical(logits=torch.tensor([0.3, 0.6, 0.7]))),
    "torch's Gamma": law(torch.distributions.Gamma(torch.tensor(1.3), torch.tensor(0.7))),
    "precision": law(
        dist.MultivariateNormal(torch.zeros(2), precision_matrix=torch.tensor([[2.0, 1], [1, 1]]))
    ),
}


def is_kept(energy: Energy) -> bool:
    """Whether a file keeps an energy: it has no function and no class of a user's own."""
    text = repr(energy) + " ".join(type(part).__name__ for part in energy.modules())
    own = "CallableEnergy" in text and "TiltedNormal" not in text and "Linear" not in text
    return not (own or "ModelEnergy" in text or "Listed" in text)


def table() -> dict[str, Callable[[], Energy]]:
    rows = dict(MORE)
    for (name, kind), (done, operation) in itertools.product(KINDS.items(), OPERATIONS.items()):
        rows[f"{name}, {done}"] = lambda kind=kind, operation=operation: operation(kind)
    return rows


TABLE = table()
SAMPLE = [*MORE, *list(TABLE)[len(MORE) :: 7]]


def states_of(energy: Energy) -> Any:
    """Some states, with a dimension for the energy's own batch."""
    torch.manual_seed(3)
    return {name: value.unsqueeze(1) for name, value in random_start(energy, 40).items()}


def made(name: str) -> Energy | None:
    """The energy of a row, if there is one, and a file keeps it."""
    torch.manual_seed(5)
    kind, _, operation = name.partition(", ")
    if kind == "machine of counts" and operation.startswith(("weighted", "interpolated")):
        return None  # units of one's own, which have no weights
    energy = TABLE[name]()
    return energy if is_kept(energy) else None


@pytest.mark.parametrize("name", SAMPLE)
def test_an_energy_that_is_loaded_is_the_one_that_was_saved(name: str, tmp_path: Path) -> None:
    energy = made(name)
    if energy is None:
        return
    require_same(energy, load(saved(energy, tmp_path / "energy.ebm")))


def saved(energy: Energy, path: Path) -> Path:
    save(energy, path)
    return path


def require_same(right: Energy, found: Energy) -> None:
    x = states_of(right)
    assert dict(found.sites) == dict(right.sites)
    assert found.dtype == right.dtype
    assert same_bits(found(x), right(x))
    assert type(found) is type(right)
    old, new = dict(right.named_parameters()), dict(found.named_parameters())
    assert list(old) == list(new)
    assert all(same_bits(old[key], new[key]) for key in old)
    assert [p.requires_grad for p in old.values()] == [p.requires_grad for p in new.values()]
    assert getattr(found, "names", None) == getattr(right, "names", None)
    assert found.state_dict().keys() == right.state_dict().keys()


def test_names_ties_and_what_is_frozen_stay(tmp_path: Path) -> None:
    tied = load(saved(shared_weights(), tmp_path / "a"))
    assert isinstance(tied, BoltzmannMachine)
    assert tied.couplings["b_c"].weight is tied.couplings["a_b"].weight
    machine = BoltzmannMachine.restricted(3, 2)
    machine.layers["visible"].bias.requires_grad_(False)
    kept = load(saved(machine, tmp_path / "b"))
    assert [p.requires_grad for p in kept.parameters()].count(False) == 1


def test_loading_moves_no_random_numbers(tmp_path: Path) -> None:
    path = saved(mlp_energy(3, (4,), linear=SpectralLinear), tmp_path / "a")
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


WITHOUT_LAW = {"perceptron alone", "module"}  # nothing makes exp(−E) integrable
ENERGIES_THERE = """
import sys, torch
from pathlib import Path
from pyro_ebm import run
from pyro_ebm.energies import load
from pyro_ebm.kernels import choose_kernel
for path in sorted(Path(sys.argv[1]).glob("*.ebm")):
    energy, x = load(path), torch.load(path.with_suffix(".x"))
    found = {"energy": energy(x).detach()}
    if path.with_suffix(".run").exists():
        chains = run(choose_kernel(energy), energy, 12, warmup=12, chains=4, seed=3)
        found |= dict(chains.draws)
    torch.save(found, path.with_suffix(".found"))
"""


def check_elsewhere(names: list[str], folder: Path) -> None:
    """Compares energies and draws of the same seed with those of another process."""
    right = {}
    for number, name in enumerate(names):
        energy = made(name)
        if energy is None:
            continue
        path = saved(energy, folder / f"{number}.ebm")
        x = states_of(energy)
        torch.save(x, path.with_suffix(".x"))
        right[number] = {"energy": energy(x).detach()}
        # Several laws have no chains of the one, and what has no law at all has none.
        if energy(x).shape[1:] == (1,) and names[number] not in WITHOUT_LAW:
            path.with_suffix(".run").touch()
            chains = run(choose_kernel(energy), energy, 12, warmup=12, chains=4, seed=3)
            right[number] |= dict(chains.draws)
    in_another_process(ENERGIES_THERE, folder)
    assert right
    for number, own in right.items():
        found = torch.load(folder / f"{number}.found")
        for key, value in own.items():
            assert same_bits(value, found[key]), (names[number], key)


def test_some_energies_are_the_same_in_another_process(tmp_path: Path) -> None:
    check_elsewhere([*list(MORE)[::6], "machine of spins, clamped by rows"], tmp_path)


@pytest.mark.slow
def test_every_kind_of_energy_is_the_same_in_another_process(tmp_path: Path) -> None:
    check_elsewhere(list(TABLE), tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CallableEnergy(lambda x: x.square().sum(-1), 2),
        lambda: KINDS["model of bits"].make(1.0),
        lambda: KINDS["field and function"].make(1.0),
        lambda: KINDS["machine of counts"].make(1.0),
    ],
)
def test_what_is_code_is_refused_with_a_cure_that_works(
    make: Callable[[], Energy], tmp_path: Path
) -> None:
    energy = make()
    with pytest.raises(NotStorableError, match="which no file keeps") as caught:
        save(energy, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    cure = re.findall(r"^    (.*)$", str(caught.value), flags=re.MULTILINE)
    assert len(cure) == 2
    for line in cure:
        exec(line, {"torch": torch, "energy": energy, "path": tmp_path / "state"})


def test_random_parameters_are_refused(tmp_path: Path) -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    to_pyro_module_(machine)
    machine.layers["visible"].bias = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pytest.raises(NotStorableError, match="PyroBoltzmannMachine"):
        save(machine, tmp_path / "a")


@dataclass(frozen=True)
class Dish:
    width: float

    def __call__(self, x: Tensor) -> Tensor:
        return x.square().sum(-1) / self.width


def test_a_class_of_one_s_own_is_kept_once_it_is_registered(tmp_path: Path) -> None:
    energy = CallableEnergy(Dish(2.0), 2)
    with pytest.raises(NotStorableError, match="Dish"):
        save(energy, tmp_path / "a")
    register(Dish)
    require_same(energy, load(saved(energy, tmp_path / "a")))
    with pytest.raises(ValueError, match="choose another name"):
        register(type("Dish", (), {"__module__": "elsewhere"}))
    text = "import sys; from pyro_ebm.energies import load; load(sys.argv[1])"
    with pytest.raises(AssertionError, match=r"pyro_ebm.storage.register\(Dish\)"):
        in_another_process(text, tmp_path / "a")


class Slope(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.inner = width, nn.Linear(width, 1)
        self.register_buffer("scale", torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x).squeeze(-1).square()


def test_a_module_of_one_s_own_is_kept_with_its_parameters(tmp_path: Path) -> None:
    register(Slope, "width")
    energy = CallableEnergy(Slope(3), 3)
    path, before = saved(energy, tmp_path / "a"), torch.get_rng_state()
    found = load(path)
    assert torch.equal(torch.get_rng_state(), before)
    require_same(energy, found)


def test_what_is_no_energy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"chains.save\(path\)"):
        save(3, tmp_path / "a")  # type: ignore[arg-type]


# --- chains --------------------------------------------------------------------------------------
def machine() -> BoltzmannMachine:
    torch.manual_seed(1)
    return BoltzmannMachine.restricted(4, 3)


CHAINS_THERE = """
import sys, torch
from pathlib import Path
from pyro_ebm import Chains, resume
from tests.laws.test_storage import cell, draws_of
for path in sorted(Path(sys.argv[1]).glob("*.chains")):
    name, draws = path.with_suffix(".name").read_text().split("|")
    kernel, energy = cell(*name.split("/"))
    chains = resume(Chains.load(path, kernel=kernel), energy, int(draws))
    torch.save(draws_of(chains), path.with_suffix(".found"))
"""


def cell(kernel: str, kind: str, operation: str) -> tuple[Kernel, Energy]:
    """A kernel and an energy of the table of kernels."""
    energy = OPERATIONS[operation](KINDS[kind])
    row = {**KERNELS, "ExactDraws": None}[kernel]
    if row is None:
        return ExactDraws(), energy
    if kernel == "choose_kernel":
        return choose_kernel(energy), energy
    return row.make(KINDS[kind], energy), energy


def draws_of(chains: Chains) -> dict[str, Tensor]:
    """All numbers of chains."""
    found = {f"draws.{k}": v for k, v in chains.draws.items()}
    found |= {f"statistics.{k}": v for k, v in chains.statistics.items()}
    found |= {f"warmup.{k}": v for k, v in chains.warmup_draws.items()}
    return found | {f"last.{k}": v for k, v in chains.last.items()} | dict(chains.generators)


def check_chains(names: list[tuple[str, str, str]], folder: Path) -> None:
    """Runs that go on in another process are the unbroken ones."""
    right = {}
    for number, name in enumerate(names):
        kernel, energy = cell(*name)
        whole = run(kernel, energy, 24, warmup=8, chains=3, seed=4, keep="everything")
        part = run(kernel, energy, 9, warmup=8, chains=3, seed=4, keep="everything")
        path = folder / f"{number:04}.chains"
        part.save(path)
        path.with_suffix(".name").write_text(f"{'/'.join(name)}|15")
        right[number] = draws_of(whole)
    in_another_process(CHAINS_THERE, folder)
    for number, own in right.items():
        found = torch.load(folder / f"{number:04}.found")
        assert found.keys() == own.keys()
        for key, value in own.items():
            assert same_bits(value, found[key]), (names[number], key)


def cells(every: int) -> list[tuple[str, str, str]]:
    """Cells of the table of kernels: each kernel, on some of the kinds and operations."""
    found = []
    for kernel, row in KERNELS.items():
        kinds = [name for name, kind in KINDS.items() if row.suits(kind)]
        plain = [(kernel, kind, "plain") for kind in kinds if "counts" not in kind]
        found += plain[::every]
    return [*found, ("ExactDraws", "machine of spins", "plain")]


def test_a_run_of_each_kernel_goes_on_in_another_process(tmp_path: Path) -> None:
    names = cells(1000)
    assert {name[0] for name in names} == {*KERNELS, "ExactDraws"}
    check_chains(names, tmp_path)


@pytest.mark.slow
def test_every_kernel_on_every_kind_goes_on_in_another_process(tmp_path: Path) -> None:
    check_chains(cells(1), tmp_path)


def test_each_kernel_has_a_row() -> None:
    assert {kind.__name__ for kind in KEPT} >= set(KERNELS) - {"choose_kernel"}


class Stop:
    """A function that Ctrl-C comes from, once."""

    def __init__(self, at: int) -> None:
        self.count, self.at = 0, at

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.count == self.at:
            signal.raise_signal(signal.SIGINT)
        return x.square().sum(-1) / 2


WIDE = DistributionEnergy(dist.Normal(torch.zeros(2), 2.0).to_event(1))


@pytest.mark.parametrize("at", [30, 90, 400])
@pytest.mark.parametrize(
    "kernel",
    [
        HMC(),
        MALA(),
        RandomWalk(),
        Cycle((HMC(step_size=0.4, trajectory_length=1.0), RandomWalk())),
        ParallelTempering(RandomWalk(scale=1.0), (0.3, 1.0)),
        ParallelTempering(HMC(), 3, reference=WIDE),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_a_run_that_was_stopped_goes_on_from_its_file(
    kernel: Kernel, at: int, tmp_path: Path
) -> None:
    plain = CallableEnergy(lambda x: x.square().sum(-1) / 2, 2)
    whole = run(kernel, plain, 60, warmup=50, chains=3, seed=2)
    energy = CallableEnergy(stop := Stop(10**9), 2)
    stop.count, stop.at = 0, at
    part = run(kernel, energy, 60, warmup=50, chains=3, seed=2)
    part.save(tmp_path / "a")
    loaded = Chains.load(tmp_path / "a")
    assert loaded.interrupted == part.interrupted
    assert repr(loaded) == repr(part)
    left = 60 - (part.draws["visible"].shape[1] if part.draws else 0)
    more = resume(loaded, plain, left) if left else loaded
    for key, value in draws_of(whole).items():
        assert same_bits(value, draws_of(more)[key]), key


def test_all_that_chains_tell_is_kept(tmp_path: Path) -> None:
    chains = run(Gibbs(), machine(), 20, warmup=5, seed=0, thinning=2, keep="everything")
    chains.save(tmp_path / "a")
    found = Chains.load(tmp_path / "a")
    assert found.attributes == chains.attributes
    assert found.schedule == chains.schedule
    assert dict(found.sites) == dict(chains.sites)
    assert found.warmup_statistics.keys() == chains.warmup_statistics.keys()
    assert repr(found) == repr(chains)
    assert found.to_arviz()["posterior"].equals(chains.to_arviz()["posterior"])


def near(x: Tensor) -> Any:
    return dist.Normal(x, 0.5)


def test_a_kernel_with_a_function_is_given_again(tmp_path: Path) -> None:
    energy = CallableEnergy(lambda x: x.square().sum(-1), 2)
    kernel = Cycle((MetropolisHastings("visible", near), RandomWalk()))
    whole = run(kernel, energy, 30, warmup=20, seed=0)
    run(kernel, energy, 10, warmup=20, seed=0).save(tmp_path / "a")
    with pytest.raises(UnreadableFileError, match=r"Chains.load\(path, kernel=kernel\)"):
        Chains.load(tmp_path / "a")
    again = resume(Chains.load(tmp_path / "a", kernel=kernel), energy, 20)
    assert same_bits(again.draws["visible"], whole.draws["visible"])


class Still(Kernel):
    def init(self, energy: Energy, x: Any) -> Any:
        return RandomWalk(scale=1.0).init(energy, x)

    def refresh(self, energy: Energy, state: Any, x: Any) -> Any:
        return RandomWalk(scale=1.0).refresh(energy, state, x)

    def step(self, energy: Energy, state: Any) -> Any:
        return RandomWalk(scale=1.0).step(energy, state)


def test_a_kernel_of_one_s_own_is_kept_once_it_is_registered(tmp_path: Path) -> None:
    energy = CallableEnergy(lambda x: x.square().sum(-1), 2)
    chains = run(Still(), energy, 10, warmup=0, seed=0)
    with pytest.raises(NotStorableError, match=r"pyro_ebm.storage.register\(Still\)"):
        chains.save(tmp_path / "a")
    register(Still)
    chains.save(tmp_path / "a")
    assert isinstance(Chains.load(tmp_path / "a").kernel, Still)


# --- files that are not read ---------------------------------------------------------------------
@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(machine(), tmp_path / "machine.ebm")


def test_a_file_that_is_cut_off_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for size in {*range(0, LEAST + 9), *range(LEAST, len(whole), 97), len(whole) - 1}:
        file.write_bytes(whole[:size])
        with pytest.raises(UnreadableFileError, match=r"machine.ebm (is cut off|is no file)"):
            load(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(UnreadableFileError, match="longer than it says"):
        load(file)


def test_a_bit_that_is_flipped_anywhere_is_found(file: Path) -> None:
    whole = file.read_bytes()
    for place in {*range(LEAST + 40), *range(0, len(whole), 53), len(whole) - 1}:
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(UnreadableFileError, match=r"machine.ebm"):
                load(file)


def rewritten(file: Path, change: Callable[[dict[str, Any]], Any], *, tail: bytes = b"") -> None:
    """A file with another description and the right checksum."""
    whole = file.read_bytes()
    _, version, length, size = HEAD.unpack(whole[: HEAD.size])
    told = json.loads(whole[LEAST : LEAST + length])
    change(told)
    text, raw = json.dumps(told).encode(), whole[LEAST + length :] + tail
    head = HEAD.pack(MAGIC, version, len(text), size + len(tail))
    digest = hashlib.sha256(head + text + raw).digest()
    file.write_bytes(head + digest + text + raw)


def test_a_later_version_is_refused(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[8:12] = (VERSION + 1).to_bytes(4, "little")
    file.write_bytes(whole)
    with pytest.raises(UnreadableFileError, match=r"version 2 .* reads versions up to 1.*upgrade"):
        load(file)


def far_too_large(told: dict[str, Any]) -> None:
    told["tensors"][0]["shape"] = [2**40, 2**40]
    told["tensors"][0]["order"] = [0, 1]


def negative(told: dict[str, Any]) -> None:
    told["tensors"][0]["shape"] = [-4]


def other_class(told: dict[str, Any]) -> None:
    told["tree"]["is"] = "os.system"


def no_such_tensor(told: dict[str, Any]) -> None:
    text = json.dumps(told["tree"]).replace('"tensor", "of": 0', '"tensor", "of": 99')
    told["tree"] = json.loads(text)


def no_energy(told: dict[str, Any]) -> None:
    told["tree"] = 3


def without_tree(told: dict[str, Any]) -> None:
    del told["tree"]


def other_dtype(told: dict[str, Any]) -> None:
    told["tensors"][0]["dtype"] = "object"


def deep(told: dict[str, Any]) -> None:
    for _ in range(300):
        told["tree"] = {"is": "list", "of": [told["tree"]]}


def huge_layer(told: dict[str, Any]) -> None:
    text = json.dumps(told["tree"]).replace('"size": 4', f'"size": {10**13}')
    told["tree"] = json.loads(text)


@pytest.mark.parametrize(
    "change",
    [
        *(far_too_large, negative, other_class, no_such_tensor, no_energy, without_tree),
        *(other_dtype, deep, huge_layer),
    ],
)
def test_a_malformed_file_is_refused(file: Path, change: Callable[[Any], None]) -> None:
    rewritten(file, lambda told: None)
    load(file)
    rewritten(file, change)
    with pytest.raises(UnreadableFileError, match=r"machine.ebm is malformed"):
        load(file)


def test_files_of_other_kinds_are_refused_with_the_door_to_take(file: Path, tmp_path: Path) -> None:
    chains = tmp_path / "a.chains"
    run(Gibbs(), machine(), 5, warmup=0, seed=0).save(chains)
    with pytest.raises(UnreadableFileError, match=r"holds 'chains'; wanted 'energy'.*Chains.load"):
        load(chains)
    with pytest.raises(UnreadableFileError, match=r"pyro_ebm.energies.load\(path\)"):
        Chains.load(file)
    torch.save({"a": torch.ones(2)}, tmp_path / "b")
    with pytest.raises(UnreadableFileError, match=r"torch.load\(path\)"):
        load(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"something else")
    with pytest.raises(UnreadableFileError, match="wanted one that save"):
        load(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"")
    with pytest.raises(UnreadableFileError, match="cut off after 0 bytes"):
        load(tmp_path / "d")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


# --- files that are whole, whatever happens ------------------------------------------------------
def test_a_save_that_fails_leaves_what_was_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    for name in ("fsync", "replace", "chmod"):

        def fails(*_: Any, **__: Any) -> None:
            raise OSError("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match="no space"):
                save(BoltzmannMachine.restricted(2, 2), file)
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        right = getattr(os, name)

        def noted(*given: Any, name: str = name, right: Any = right) -> None:
            calls.append(name)
            right(*given)

        monkeypatch.setattr(os, name, noted)
    save(machine(), file)
    assert calls == ["fsync", "replace", "fsync"]


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save(machine(), tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "a").chmod(0o600)
    save(machine(), tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


SAVING = """
import sys, itertools, torch
from pyro_ebm import BoltzmannMachine
from pyro_ebm.energies import save
machine = BoltzmannMachine.restricted(300, 200)
for number in itertools.count(1):
    with torch.no_grad():
        for value in machine.parameters():
            value.fill_(number)
    save(machine, sys.argv[1])
    if number == 1:
        print("begun", flush=True)
"""


def kill_while_saving(path: Path, seconds: float) -> None:
    """Kills a process in mid-save, and reads the file that it leaves."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        time.sleep(seconds)
        child.kill()
    values = torch.cat([value.flatten() for value in load(path).parameters()])
    assert values[0] >= 1
    assert bool((values == values[0]).all())  # of one save, not of two


def moments(count: int) -> list[float]:
    """Moments within some saves, which take a few milliseconds each."""
    return [0.0137 * (k * 0.6180339887 % 1) + 0.002 * k for k in range(count)]


def test_killed_while_it_saves_a_process_leaves_a_file_that_is_whole(tmp_path: Path) -> None:
    kill_while_saving(tmp_path / "machine.ebm", 0.0113)


@pytest.mark.slow
def test_killed_fifty_times_while_it_saves_it_leaves_fifty_files(tmp_path: Path) -> None:
    for number, seconds in enumerate(moments(50)):
        kill_while_saving(tmp_path / f"{number}.ebm", seconds)


# --- files of earlier versions -------------------------------------------------------------------
def first_energy() -> Energy:
    """What stands in the file of the first version."""
    precision, half = torch.tensor([1.0, 2.0, 4.0]), torch.full((2,), 0.5)
    layers = {
        "pixels": Layer(Gaussian(precision), 3, bias=nn.Parameter(torch.ones(3))),
        "causes": Layer(Bernoulli(), 2, bias=torch.tensor([0.5, -0.5]), offset=half),
    }
    weight = nn.Parameter(torch.arange(6.0).reshape(3, 2) / 8)
    return 0.5 * BoltzmannMachine(layers, {("pixels", "causes"): weight}) + 0.25


def test_a_file_of_the_first_version_is_read() -> None:
    found, right = load(OLD / "energy-version-1.ebm"), first_energy()
    x = {"pixels": torch.tensor([0.5, 1.0, -1.0]), "causes": torch.tensor([1.0, 0.0])}
    assert float(found(x).detach()) == pytest.approx(float(right(x).detach()), abs=1e-6)
    assert [p.shape for p in found.parameters()] == [p.shape for p in right.parameters()]


def test_chains_of_the_first_version_are_read() -> None:
    found = Chains.load(OLD / "chains-version-1.chains")
    assert found.draws["visible"].shape == (2, 6, 3)
    assert found.attributes["seed"] == 7
    energy = BoltzmannMachine.on_graph([(0, 1), (1, 2)], couplings=torch.tensor([0.5, -0.25]))
    assert resume(found, energy, 4).draws["visible"].shape == (2, 10, 3)
