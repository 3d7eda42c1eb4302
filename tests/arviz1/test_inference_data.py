"""Arrays as ArviZ data, whichever ArviZ is installed; torch is not needed.

The file under test is loaded by its path, since the package itself imports torch. The ordinary
suite runs this on one ArviZ, an environment with numpy, ArviZ and pytest alone on any other.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import arviz as az
import numpy as np
import pytest

SOURCE = Path(__file__).parents[2] / "pyro_ebm" / "diagnostics" / "arviz" / "inference_data.py"


def load() -> ModuleType:
    """The file as a module of its own."""
    spec = importlib.util.spec_from_file_location("inference_data_alone", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


inference_data = load().inference_data


def groups() -> dict[str, dict[str, np.ndarray]]:
    """Every group, small."""
    rng = np.random.default_rng(0)

    def draws(count: int) -> dict[str, np.ndarray]:
        return {
            "visible": rng.integers(0, 2, (4, count, 3), dtype=np.int8),
            "model_energy": rng.normal(size=(4, count)),
            "magnetisation": rng.normal(size=(4, count, 1)),
        }

    def stats(count: int) -> dict[str, np.ndarray]:
        return {"lp": rng.normal(size=(4, count)), "diverging": np.zeros((4, count), dtype=bool)}

    return {
        "posterior": draws(30),
        "sample_stats": stats(30),
        "observed_data": {"visible": np.eye(3, dtype=np.int8)[[0, 1]]},
        "log_likelihood": {"visible": rng.normal(size=(4, 30, 2))},
        "posterior_predictive": {"visible": rng.integers(0, 2, (4, 30, 2, 3), dtype=np.int8)},
        "warmup_posterior": draws(3),
        "warmup_sample_stats": stats(3),
    }


SETTINGS = {
    "coords": {"visible_dim": ["a", "b", "c"], "site": ["visible"]},
    "dims": {
        "posterior": {"visible": ["visible_dim"], "magnetisation": ["site"]},
        "observed_data": {"visible": ["row", "visible_dim"]},
        "log_likelihood": {"visible": ["row"]},
        "posterior_predictive": {"visible": ["row", "visible_dim"]},
    },
    "attributes": {"seed": 2**62, "large": 2**64, "dtype": "float32", "interrupted": True},
}


def test_the_file_needs_neither_torch_nor_the_package() -> None:
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('alone', {str(SOURCE)!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print({'torch', 'pyro', 'pyro_ebm', 'arviz', 'xarray'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_every_group_holds_its_arrays() -> None:
    arrays = groups()
    data = inference_data(arrays, **SETTINGS)
    for group, variables in arrays.items():
        assert set(data[group].data_vars) == set(variables)
        for name, value in variables.items():
            assert np.array_equal(data[group][name].values, value)
            assert data[group][name].values.dtype == value.dtype


def test_dimensions_and_labels() -> None:
    data = inference_data(groups(), **SETTINGS)
    for group in ("posterior", "warmup_posterior"):
        assert data[group]["visible"].dims == ("chain", "draw", "visible_dim")
        assert data[group]["magnetisation"].dims == ("chain", "draw", "site")
        assert list(data[group]["visible_dim"].values) == ["a", "b", "c"]
    assert data["observed_data"]["visible"].dims == ("row", "visible_dim")
    assert data["log_likelihood"]["visible"].dims == ("chain", "draw", "row")
    unnamed = inference_data(groups(), **{**SETTINGS, "dims": {}})
    assert unnamed["posterior"]["visible"].dims == ("chain", "draw", "visible_dim_0")


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    arrays = groups()
    path = str(tmp_path / "data.nc")
    inference_data(arrays, **SETTINGS).to_netcdf(path)
    again = az.from_netcdf(path)
    for group, variables in arrays.items():
        for name, value in variables.items():
            assert np.array_equal(again[group][name].values, value)
            assert again[group][name].values.dtype == value.dtype
        if group != "observed_data":
            attributes = again[group].attrs
            assert attributes["seed"] == 2**62
            assert attributes["large"] == str(2**64)
            assert attributes["dtype"] == "float32"
            assert attributes["interrupted"] == 1


def test_arviz_reads_it() -> None:
    table = az.summary(inference_data(groups(), **SETTINGS), var_names=["model_energy", "visible"])
    assert list(table.index) == ["model_energy", "visible[a]", "visible[b]", "visible[c]"]
    assert np.isfinite(table["r_hat"].astype(float)).all()


def test_the_groups_of_a_pyro_model() -> None:
    """Integer sites alone, scalars among them, data without a row, a plate of two."""
    rng = np.random.default_rng(1)
    arrays = {
        "posterior": {
            "label": rng.integers(0, 3, (2, 20, 4), dtype=np.int8),
            "count": rng.integers(0, 300, (2, 20), dtype=np.int16),
        },
        "sample_stats": {"diverging": np.zeros((2, 20), dtype=bool)},
        "observed_data": {"total": np.array(1.5), "seen": np.zeros((4, 2), np.float32)},
        "log_likelihood": {
            "total": rng.normal(size=(2, 20)),
            "seen": rng.normal(size=(2, 20, 4, 2)),
        },
        "posterior_predictive": {"seen": rng.normal(size=(2, 20, 4, 2))},
    }
    attributes = {"inference_library": "pyro", "kernel": "NUTS"}
    data = inference_data(arrays, coords={}, dims={}, attributes=attributes)
    for group, variables in arrays.items():
        for name, value in variables.items():
            assert np.array_equal(data[group][name].values, value)
            assert data[group][name].values.dtype == value.dtype
    assert data["observed_data"]["total"].dims == ()
    assert data["log_likelihood"]["seen"].dims == ("chain", "draw", "seen_dim_0", "seen_dim_1")
    table = az.summary(data, var_names=["label", "count"])
    assert list(table.index) == ["label[0]", "label[1]", "label[2]", "label[3]", "count"]


def test_empty_groups_are_left_out() -> None:
    data = inference_data({**groups(), "observed_data": {}}, **SETTINGS)
    assert "observed_data" not in str(data)


WRONG = {
    "group": ({"prior": {}}, {}, ValueError, r"Unknown groups \['prior'\]"),
    "dims": ({}, {"dims": {"posterior": {"visible": []}}}, ValueError, "wanted the dimensions"),
    "labels": ({}, {"coords": {"visible_dim": ["a"]}}, ValueError, "'visible_dim' has 1 labels"),
    "attribute": ({}, {"attributes": {"when": None}}, TypeError, "'when' is a NoneType"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case: str) -> None:
    extra, changes, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        inference_data({**groups(), **extra}, **{**SETTINGS, **changes})
