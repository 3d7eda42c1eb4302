"""The command line runs as the README says."""

import re
from pathlib import Path

import arviz as az
import pytest
import torch
from matplotlib.image import imread

from pyro_ebm.cli import main

FIGURES = ("filters.png", "digits.png", "free_energies.png", "learning_curve.png")


def likelihoods(printed: str) -> dict[str, float]:
    names = "independent pixels|Chow-Liu tree|Boltzmann machine"
    rows = re.findall(rf"^  ({names}) +(-\d+\.\d+)", printed, re.MULTILINE)
    return {name: float(value) for name, value in rows}


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # ArviZ 0.23's
def test_the_demo_learns_prints_and_leaves_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "new" / "out"), "--epochs", "12"]) == 0
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # ArviZ 0.23's
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_demo_reaches_its_likelihood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    main(["demo", "--out", str(tmp_path), "--seed", str(seed)])
    assert likelihoods(capsys.readouterr().out)["Boltzmann machine"] >= -18.4


def test_a_wrong_option_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--epochs", "0"])
    assert "--epochs is 0; wanted a positive whole number" in capsys.readouterr().err


def test_the_demo_puts_the_threads_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    main(["demo", "--out", str(tmp_path), "--epochs", "1"])
    assert torch.get_num_threads() == before
