"""The figures: what they show, read back from matplotlib's own objects."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_ebm import plots

WEIGHT = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
BITS = (torch.rand(9, 64, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def shown(axes: Axes) -> np.ndarray:
    """The numbers of the only picture in some axes."""
    (image,) = axes.get_images()
    return image.get_array()


def test_filters_are_the_columns_of_the_weight_on_a_scale_around_zero() -> None:
    figure = plots.filters(WEIGHT)
    (image,) = figure.axes[0].get_images()
    low, high = image.get_clim()
    assert -low == high == pytest.approx(float(WEIGHT.abs().max()))
    picture = image.get_array()
    # 2 × 10 tiles of 8 × 8 pixels, 4 points to a pixel and 2 between tiles.
    assert picture.shape == (2 * 34 - 2, 10 * 34 - 2)
    for unit in (0, 9, 10, 19):
        top, left = 34 * (unit // 10), 34 * (unit % 10)
        tile = picture[top : top + 32 : 4, left : left + 32 : 4]
        assert np.allclose(tile, WEIGHT[:, unit].reshape(8, 8))
    assert picture.mask[32:34].all()
    assert figure.axes[1].get_ylabel() == "weight"


def test_data_stand_left_and_fantasies_right_on_one_scale() -> None:
    figure = plots.images(BITS, 0.25 + 0.5 * BITS[:4])
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("data", "fantasies")
    assert left.get_images()[0].get_clim() == right.get_images()[0].get_clim() == (0, 1)
    assert np.allclose(shown(left)[:32:4, 34:66:4], BITS[1].reshape(8, 8))
    assert np.allclose(shown(right)[:32:4, :32:4], 0.25 + 0.5 * BITS[0].reshape(8, 8))


def test_a_row_may_be_an_image_of_any_shape() -> None:
    assert shown(plots.images(BITS, BITS, shape=(4, 16)).axes[0]).shape[1] == 3 * 68 - 4


def test_a_restoration_is_rows_of_the_same_images_and_their_uncertainty() -> None:
    halves = BITS.masked_fill(torch.arange(64) % 8 >= 4, torch.nan)
    spread = 0.4 * torch.rand(9, 64, generator=torch.Generator().manual_seed(2))
    figure = plots.restoration({"true": BITS, "known": halves}, spread)
    figure.draw_without_rendering()
    true, known, uncertainty = figure.axes[:3]
    labels = [axes.get_ylabel() for axes in (true, known, uncertainty)]
    assert labels == ["true", "known", "uncertainty"]
    lefts = [axes.get_position().x0 for axes in (true, known, uncertainty)]
    assert lefts == pytest.approx([lefts[0]] * 3)
    assert true.get_images()[0].get_clim() == known.get_images()[0].get_clim() == (0, 1)
    assert uncertainty.get_images()[0].get_clim() == (0, 0.5)
    assert shown(true).shape == (32, 9 * 34 - 2)  # one row of tiles
    for image in (0, 8):
        left = 34 * image
        assert np.allclose(shown(true)[::4, left : left + 32 : 4], BITS[image].reshape(8, 8))
        assert np.allclose(
            shown(uncertainty)[::4, left : left + 32 : 4], spread[image].reshape(8, 8)
        )
        assert shown(known).mask[:, left + 16 : left + 32].all()
        assert not shown(known).mask[:, left : left + 16].any()


def test_histograms_share_their_bins_and_sum_to_all_states() -> None:
    energies = {"data": torch.tensor([-3.0, -2.0, -2.0, -1.0]), "fantasies": torch.zeros(2, 3)}
    figure = plots.energy_histograms(energies)
    above, below = figure.axes
    for axes in (above, below):
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)
        assert axes.get_ylabel() == "states (%)"
    assert [bar.get_x() for bar in above.patches] == [bar.get_x() for bar in below.patches]
    assert above.get_title(loc="left") == "data: mean −2.00 nats"
    assert below.get_xlabel() == "energy (nats)"


def test_equal_energies_have_a_histogram() -> None:
    (axes,) = plots.energy_histograms({"data": torch.ones(3)}).axes
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)


def test_the_learning_curve_shows_series_and_references() -> None:
    figure = plots.learning_curve(
        [0, 5, 10], {"test data": [-25.0, -20.0, -18.0]}, {"Chow–Liu tree": -20.822}
    )
    (axes,) = figure.axes
    curve, reference = axes.get_lines()
    assert curve.get_xydata().tolist() == [[0, -25], [5, -20], [10, -18]]
    assert set(reference.get_ydata()) == {-20.822}
    assert axes.texts[0].get_text() == "Chow–Liu tree\n−20.82"
    assert axes.get_legend().get_texts()[0].get_text() == "test data"
    assert axes.get_xlabel() == "epoch"
    assert axes.get_ylabel() == "log-likelihood (nats per row)"


FIGURES = {
    "filters": lambda: plots.filters(WEIGHT.clone().requires_grad_()),
    "one filter": lambda: plots.filters(torch.zeros(64, 1)),
    "images": lambda: plots.images(BITS, BITS[:1]),
    "restoration": lambda: plots.restoration({"true": BITS}, BITS / 2),
    "one image": lambda: plots.restoration({"true": BITS[:1]}, BITS[:1] / 2),
    "histograms": lambda: plots.energy_histograms({"data": torch.randn(50)}),
    "curve": lambda: plots.learning_curve([0, 1], {"train": [0.0, 1.0], "test": [0.0, 0.5]}),
    "references only": lambda: plots.learning_curve([], {}, {"independent units": -25.0}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_written(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_is_never_loaded() -> None:
    program = (
        "import sys, torch\n"
        "from pyro_ebm import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.filters(torch.zeros(64, 2))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_without_matplotlib_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-ebm\[plots\]'"):
        plots.filters(WEIGHT)


WRONG = {
    "weight": (lambda: plots.filters(torch.zeros(64)), r"'weight' has shape \(64,\)"),
    "filters": (lambda: plots.filters(torch.zeros(60, 3)), r"shape \(3, 60\); wanted \(rows, 64\)"),
    "images": (lambda: plots.images(BITS, BITS[0]), r"'fantasies' has shape \(64,\)"),
    "rows": (
        lambda: plots.restoration({"a": BITS}, BITS[:2]),
        r"{'a': 9, 'uncertainty': 2} images",
    ),
    "deviation": (lambda: plots.restoration({}, BITS[0]), r"'deviation' has shape \(64,\)"),
    "no energies": (lambda: plots.energy_histograms({}), "'energies' is empty"),
    "NaN": (lambda: plots.energy_histograms({"data": torch.tensor([torch.nan])}), "not all finite"),
    "none": (lambda: plots.energy_histograms({"data": torch.zeros(0)}), "'data' are none"),
    "series": (lambda: plots.learning_curve([0], {"test": [1.0, 2.0]}), "2 numbers for 1 epochs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_drawn_is_refused(case: str) -> None:
    draw, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        draw()
