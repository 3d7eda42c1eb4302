"""What a person sees: `repr`, figures and progress, in a terminal and in a notebook."""

import pickle
import sys
from collections.abc import Callable

import nbclient
import nbformat
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_

from pyro_ebm import (
    BoltzmannMachine,
    CallableEnergy,
    DistributionEnergy,
    Energy,
    ExactLikelihood,
    Gibbs,
    Graph,
    Layer,
    ModelEnergy,
    RandomField,
    Spin,
    TableFactors,
    clamp,
    diagnose,
    fit,
    mlp_energy,
    plots,
    run,
)
from pyro_ebm.distributions import EnergyDistribution
from pyro_ebm.progress import progress
from pyro_ebm.units import Gaussian


def restricted() -> BoltzmannMachine:
    return BoltzmannMachine.restricted(784, 500)


def ring() -> BoltzmannMachine:
    return BoltzmannMachine.on_graph([(0, 1), (1, 2), (0, 2)], couplings=torch.ones(3))


def field() -> RandomField:
    return RandomField([3, 3], {"pair": TableFactors([(0, 1)], torch.zeros(1, 3, 3))})


def bowl(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum(-1)


def model() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    label = pyro.sample("label", dist.Categorical(torch.ones(3)))
    pyro.sample("seen", dist.Normal(mean + label, 1.0), obs=torch.tensor(1.0))


ENERGIES: dict[str, tuple[Callable[[], Energy], list[str]]] = {
    "machine": (
        restricted,
        [
            "BoltzmannMachine over visible (784 bits), hidden (500 bits)",
            "393,284 parameters, float32 on cpu",
            "visible – hidden: Dense, 784 × 500 couplings",
        ],
    ),
    "doubles": (lambda: restricted().double(), ["float64"]),
    "real units": (
        lambda: BoltzmannMachine({"v": Layer(Gaussian(), 4)}, {}),
        ["v (4 real numbers)", "v: Gaussian("],
    ),
    "graph": (ring, ["visible (3 spins)", "inside visible: Sparse, 3 couplings"]),
    "field": (field, ["visible (2 labels of 3 states)", "pair: TableFactors(1 of 2 nodes"]),
    "sum": (lambda: 0.5 * ring() + ring(), ["0.5 × BoltzmannMachine", "1 × BoltzmannMachine"]),
    "learned weight": (
        lambda: ring() / torch.nn.Parameter(torch.tensor(2.0)),
        ["0.5 (learned) × BoltzmannMachine"],
    ),
    "shifted": (lambda: ring() + 3.5, ["1 × Constant", "3.5"]),
    "held rows": (
        lambda: clamp(restricted(), torch.zeros(4, 784)),
        ["Clamped over hidden (500 bits)", "holds visible, in 4 rows", "of BoltzmannMachine"],
    ),
    "held elements": (
        lambda: clamp(ring(), torch.ones(3), mask=torch.arange(3) == 0),
        ["over visible (2 spins)", "holds 1 of 3 of visible"],
    ),
    "function": (lambda: CallableEnergy(bowl, 2), ["visible (2 real numbers)", "of bowl"]),
    "network": (lambda: mlp_energy(2), ["4,417 parameters", "TiltedNormal", "SiLU"]),
    "distribution": (
        lambda: DistributionEnergy(dist.Normal(0.0, 1.0)),
        ["visible (real number)", "−ln of Normal("],
    ),
    "model": (lambda: ModelEnergy(model), ["mean (real number), label (label of 3 states)"]),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_the_repr_of_an_energy_tells_what_it_is_in_few_lines(name: str) -> None:
    make, wanted = ENERGIES[name]
    shown = repr(make())
    assert [words for words in wanted if words not in shown] == [], shown
    assert len(shown.splitlines()) <= 12, shown
    assert "tensor(" not in shown, shown


def test_many_sites_are_counted() -> None:
    layers = {f"layer{k}": Layer(Spin(), 2) for k in range(20)}
    assert "layer5 (2 spins), 14 more" in repr(BoltzmannMachine(layers, {}))


def test_a_repr_draws_nothing() -> None:
    machine = BoltzmannMachine.restricted(3, 2)
    to_pyro_module_(machine)
    machine.couplings["visible_hidden"].weight = PyroSample(
        dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2)
    )
    half = 0.5 * machine  # reads the parameters, and draws
    before = torch.get_rng_state()
    with pyro.poutine.trace() as seen:
        shown = repr(half)
    assert torch.equal(torch.get_rng_state(), before)
    assert not seen.trace.nodes
    assert "visible – hidden" in shown


def test_structures_are_no_walls_of_numbers() -> None:
    assert repr(ring().structure()) == "PairwiseStructure(visible (3 spins))"
    assert repr(field().structure()) == "FieldStructure(visible (2 labels of 3 states))"


def test_the_repr_of_a_graph_counts_its_edges() -> None:
    assert repr(Graph([(0, 1), (1, 2)])) == "Graph(2 edges, couplings='free')"


def test_the_repr_of_a_distribution_says_what_is_known_of_log_z() -> None:
    shown = repr(EnergyDistribution(ring()).expand([2]))
    assert "'visible', batch (2,), event (3,), log Z by exact sums" in shown
    assert "log Z left out" in repr(EnergyDistribution.up_to_constant(ring()))


def test_the_repr_of_a_verdict_is_its_table() -> None:
    found = diagnose(run(Gibbs(), ring(), 50, warmup=10, seed=0))
    assert repr(found) == str(found)
    assert "wanted" in repr(found)


def test_the_repr_of_a_history_is_a_table_of_its_ends() -> None:
    machine = BoltzmannMachine.restricted(4, 2)
    history = fit(machine, torch.eye(4), ExactLikelihood(), epochs=40, seed=0)
    lines = repr(history).splitlines()
    assert lines[0] == "History of 40 epochs, 40 updates, seed 0"
    assert "log_likelihood" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == [*"1234", "…", "37", "38", "39", "40"]


# --- progress ------------------------------------------------------------------------------------


class Watched:
    """A stream that somebody sees."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_progress_has_its_name_and_total_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Watched()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("Gibbs", 40, "step", at_end="goes"):
        assert "Gibbs:   0%" in stream.text
        assert "0/40" in stream.text


def test_progress_is_not_written_to_files(capsys: pytest.CaptureFixture[str]) -> None:
    run(Gibbs(), ring(), 5, warmup=2, seed=0)
    assert capsys.readouterr().err == ""


# --- notebooks -----------------------------------------------------------------------------------


def test_figures_are_shown_without_pyplot() -> None:
    figure = plots.learning_curve([1, 2], {"training": [-9.0, -7.0]})
    assert figure._repr_png_().startswith(b"\x89PNG")
    again = pickle.loads(pickle.dumps(figure))
    assert again._repr_png_().startswith(b"\x89PNG")


CELLS = (
    """import torch
from pyro_ebm import BoltzmannMachine, ExactLikelihood, Gibbs, diagnose, fit, plots, run""",
    """machine = BoltzmannMachine.restricted(6, 2)
history = fit(machine, torch.eye(6), ExactLikelihood(), epochs=3, seed=0)""",
    "chains = run(Gibbs(), machine, 20, warmup=5, seed=0)",
    "plots.learning_curve(*[[1, 2, 3], {'training': [-3.0, -2.0, -1.0]}])",
    "machine",
    "diagnose(chains)",
)


@pytest.mark.slow
def test_a_notebook_shows_figures_bars_and_words() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [cell.outputs for cell in notebook.cells]
    learning = "".join(out.text for out in outputs[1] if out.get("name") == "stderr")
    assert "ExactLikelihood:" in learning
    assert "3/3" in learning
    sampling = "".join(out.text for out in outputs[2] if out.get("name") == "stderr")
    assert "Gibbs:" in sampling
    assert "/25" in sampling
    (figure,) = (out for out in outputs[3] if out.output_type == "execute_result")
    assert len(figure.data["image/png"]) > 1000
    (words,) = (out for out in outputs[4] if out.output_type == "execute_result")
    assert words.data["text/plain"].startswith("BoltzmannMachine over visible (6 bits)")
    (verdict,) = (out for out in outputs[5] if out.output_type == "execute_result")
    assert "wanted" in verdict.data["text/plain"]
