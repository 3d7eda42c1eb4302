"""The command line runs as the README says."""

import functools
import re
from pathlib import Path

import arviz as az
import pytest
import torch
from matplotlib.image import imread

from pyro_ebm import cli
from pyro_ebm.cli import main
from pyro_ebm.restoration import complete, restore

FIGURES = (
    "filters.png",
    "digits.png",
    "free_energies.png",
    "learning_curve.png",
    "restored.png",
    "completed.png",
)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's restorations, by few steps."""
    for step in (restore, complete):
        monkeypatch.setattr(cli, step.__name__, functools.partial(step, draws=20, warmup=10))


def likelihoods(printed: str) -> dict[str, float]:
    names = "independent pixels|Chow-Liu tree|Boltzmann machine"
    rows = re.findall(rf"^  ({names}) +(-\d+\.\d+)", printed, re.MULTILINE)
    return {name: float(value) for name, value in rows}


@pytest.mark.usefixtures("short_runs")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # ArviZ 0.23's
def test_the_demo_learns_prints_and_leaves_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "new" / "out")
    assert main(["demo", "--out", out, "--epochs", "12", "--digits", "3"]) == 0
    printed = capsys.readouterr().out
    found = likelihoods(printed)
    assert found["independent pixels"] == -25.25
    assert found["Chow-Liu tree"] == -20.82
    assert -22 < found["Boltzmann machine"] < -17  # 12 epochs of 150
    assert "r_hat" in printed
    assert "magnetisation[visible]" in printed
    assert re.search("units keep one value|units changes", printed)
    for name in FIGURES:
        picture = imread(tmp_path / "new" / "out" / name)
        assert picture.std() > 0.01
    chains = az.from_netcdf(tmp_path / "new" / "out" / "chains.nc")
    assert chains["posterior"]["visible"].shape == (16, 1000, 64)
    assert "Restoring 3 test digits with 10% of the pixels flipped" in printed
    assert len(re.findall(r"^ +\d +\d+ +\d+ +0\.\d+ to 0\.\d+ +\d\.\d+$", printed, re.M)) == 3
    assert re.search(r"\d+ pixels are wrong, and \d+ where the means are filled in", printed)
    restored = az.from_netcdf(tmp_path / "new" / "out" / "restored.nc")
    assert restored["posterior"]["pixels"].shape == (64, 20, 3, 64)
    assert restored["observed_data"]["seen"].shape == (3, 64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # ArviZ 0.23's
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_demo_reaches_its_likelihood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    main(["demo", "--out", str(tmp_path), "--seed", str(seed)])
    printed = capsys.readouterr().out
    assert likelihoods(printed)["Boltzmann machine"] >= -18.4
    share = re.search(r"\((\d\.\d\d) of them\)", printed)
    assert share
    assert float(share[1]) < 0.8  # of 8 digits; tests/test_restoration.py has them all


def test_a_wrong_option_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("epochs", "digits"):
        with pytest.raises(SystemExit):
            main(["demo", f"--{option}", "0"])
        assert f"--{option} is 0; wanted a positive whole number" in capsys.readouterr().err


REFUSED = {
    "a file": (["--out", "{file}"], "which is no folder: File exists"),
    "in a file": (["--out", "{file}/deeper"], "which is no folder: Not a directory"),
    "a negative seed": (["--seed", "-1"], "--seed is -1; wanted a whole number from 0"),
    "a seed that is too large": (["--seed", str(2**63)], f"--seed is {2**63}; wanted"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_or_seed_that_cannot_be_is_refused_in_one_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSED[what]
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *(option.format(file=file) for option in options)])
    assert stopped.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert words in last
    assert file.read_text() == "kept"


@pytest.mark.usefixtures("short_runs")
def test_the_demo_puts_the_threads_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    main(["demo", "--out", str(tmp_path), "--epochs", "1", "--digits", "1"])
    assert torch.get_num_threads() == before
