"""Chains as ArviZ data: what is where, what a file gives back, and what ArviZ then says."""

from pathlib import Path
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import constraints

from pyro_ebm.diagnostics import to_arviz
from pyro_ebm.sites import Site, boolean, spin, storage_dtype

NAMES = ["ink", "paper", "glue"]
SITES = {
    "visible": Site(boolean, torch.Size([3])),
    "hidden": Site(spin, torch.Size([2])),
    "noise": Site(constraints.real, torch.Size([2, 2])),
    "offset": Site(constraints.real, torch.Size([])),
}


def drawn(draws: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws and statistics of four chains that mix at once."""
    generator = torch.Generator().manual_seed(seed)
    bit = torch.randint(0, 2, (4, draws, 3), generator=generator, dtype=torch.int8)
    return (
        {
            "visible": bit,
            "hidden": 2 * bit[..., :2] - 1,
            "noise": torch.randn(4, draws, 2, 2, generator=generator),
            "offset": torch.randn(4, draws, generator=generator),
        },
        {
            "lp": torch.randn(4, draws, generator=generator),
            "n_flips": torch.ones(4, draws, dtype=torch.int32),
        },
    )


def chains(**changes: object) -> SimpleNamespace:
    """What `run` returns, as far as the converter looks at it."""
    draws, statistics = drawn(50, seed=0)
    warmup_draws, warmup_statistics = drawn(7, seed=1)
    settings = {
        "draws": draws,
        "statistics": statistics,
        "warmup_draws": warmup_draws,
        "warmup_statistics": warmup_statistics,
        "sites": SITES,
        "attributes": {
            "seed": 2**61 + 1,
            "kernel": "Gibbs()",
            "interrupted": False,
            "seconds": 0.5,
        },
    }
    return SimpleNamespace(**{**settings, **changes})


def only(site: str, x: Tensor) -> SimpleNamespace:
    """Chains with a single site, and an energy that moves."""
    lp = torch.randn(x.shape[:2], generator=torch.Generator().manual_seed(2))
    return chains(
        draws={site: x}, statistics={"lp": lp}, sites={site: SITES[site]}, warmup_draws={}
    )


def test_variables_are_where_arviz_looks_for_them() -> None:
    source = chains()
    data = to_arviz(source, feature_names={"visible": NAMES})
    for prefix, draws, statistics in (
        ("", source.draws, source.statistics),
        ("warmup_", source.warmup_draws, source.warmup_statistics),
    ):
        posterior, stats = data[f"{prefix}posterior"], data[f"{prefix}sample_stats"]
        assert set(posterior.data_vars) == {*SITES, "model_energy", "magnetisation"}
        assert set(stats.data_vars) == {"lp", "n_flips", "diverging"}
        for name, x in draws.items():
            assert np.array_equal(posterior[name].values, x.numpy())
        assert np.array_equal(posterior["model_energy"].values, -statistics["lp"].numpy())
        assert np.array_equal(stats["lp"].values, statistics["lp"].numpy())
        assert stats["diverging"].values.dtype == bool
        assert not stats["diverging"].values.any()
    posterior = data["posterior"]
    assert posterior["visible"].dims == ("chain", "draw", "visible_dim")
    assert list(posterior["visible_dim"].values) == NAMES
    assert posterior["noise"].dims == ("chain", "draw", "noise_dim_0", "noise_dim_1")
    assert posterior["offset"].dims == ("chain", "draw")


def test_products_of_draws_do_not_wrap() -> None:
    # Kept in int8, in which the sum over 4,000 draws would be -126 or the like.
    generator = torch.Generator().manual_seed(0)
    site = Site(boolean, torch.Size([3]))
    bit = torch.randint(0, 2, (4, 1000, 3), generator=generator, dtype=torch.int8)
    data = to_arviz(only("visible", bit))
    found = data["posterior"]["visible"]
    wanted = bit.double().flatten(0, 1).mT @ bit.double().flatten(0, 1)
    flat = found.values.reshape(-1, 3)
    assert np.array_equal(flat.T @ flat, wanted.numpy())
    both = xr.dot(found, found, dim=("chain", "draw"))
    assert np.array_equal(both.values, wanted.diagonal().numpy())
    label = Site(constraints.integer_interval(0, 100), torch.Size([3]))
    large = chains(
        draws={"label": 100 * bit},
        statistics={"lp": torch.zeros(4, 1000)},
        sites={"label": label},
        warmup_draws={},
    )
    posterior = to_arviz(large)["posterior"]["label"].values.reshape(-1, 3)
    assert np.array_equal(posterior.T @ posterior, 10_000 * wanted.numpy())
    assert storage_dtype(site.support) == storage_dtype(label.support) == torch.int8


def test_a_site_keeps_its_integers() -> None:
    data = to_arviz(chains(), observed_data={"visible": torch.ones(5, 3)})
    assert data["posterior"]["visible"].dtype == np.int64
    assert data["posterior"]["hidden"].dtype == np.int64
    assert data["observed_data"]["visible"].dtype == np.int64
    assert data["sample_stats"]["n_flips"].dtype == np.int32


def test_the_magnetisation_is_the_signed_mean_spin_of_each_two_valued_site() -> None:
    source = chains()
    magnetisation = to_arviz(source)["posterior"]["magnetisation"]
    assert magnetisation.dims == ("chain", "draw", "site")
    assert list(magnetisation["site"].values) == ["visible", "hidden"]
    bits, spins = source.draws["visible"].double(), source.draws["hidden"].double()
    assert np.allclose(magnetisation.sel(site="visible"), 2 * bits.mean(-1) - 1, atol=1e-14)
    assert np.allclose(magnetisation.sel(site="hidden"), spins.mean(-1), atol=1e-14)
    assert magnetisation.values.min() == -1


def test_without_a_two_valued_site_there_is_no_magnetisation() -> None:
    data = to_arviz(only("noise", torch.randn(2, 5, 2, 2)))
    assert set(data["posterior"].data_vars) == {"noise", "model_energy"}


def test_more_chains_than_draws_pass_without_a_warning() -> None:
    data = to_arviz(only("visible", torch.zeros(50, 3, 3, dtype=torch.int8)))
    assert data["posterior"].sizes["chain"] == 50


def test_without_warm_up_there_are_no_warm_up_groups() -> None:
    data = to_arviz(chains(warmup_draws={}, warmup_statistics={}))
    assert set(data.groups()) == {"posterior", "sample_stats"}


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    data = to_arviz(
        chains(), feature_names={"visible": NAMES}, observed_data=torch.eye(3, dtype=torch.bool)
    )
    data.to_netcdf(str(tmp_path / "chains.nc"))
    again = az.from_netcdf(str(tmp_path / "chains.nc"))
    assert set(again.groups()) == set(data.groups())
    for group in data.groups():
        assert set(again[group].data_vars) == set(data[group].data_vars)
        for name, saved in data[group].data_vars.items():
            assert again[group][name].dtype == saved.dtype
            assert again[group][name].equals(saved)
    assert again["observed_data"]["visible"].dims == ("row", "visible_dim")
    for group in ("posterior", "sample_stats", "warmup_posterior", "warmup_sample_stats"):
        assert again[group].attrs["seed"] == 2**61 + 1
        assert again[group].attrs["kernel"] == "Gibbs()"
        assert again[group].attrs["interrupted"] == 0
        assert again[group].attrs["seconds"] == 0.5
        assert again[group].attrs["inference_library"] == "pyro_ebm"


def test_arviz_judges_the_energy_and_the_magnetisation() -> None:
    table = az.summary(to_arviz(chains()), var_names=["model_energy", "magnetisation"])
    assert list(table.index) == ["model_energy", "magnetisation[visible]", "magnetisation[hidden]"]
    assert (table["r_hat"] < 1.1).all()
    assert (table["ess_bulk"] > 50).all()


def test_arviz_sees_broken_symmetry_in_the_magnetisation_and_not_in_the_energy() -> None:
    draws, statistics = drawn(200, seed=3)
    trapped = draws["hidden"].abs()
    trapped[::10, :, 0] = -1
    trapped = trapped * torch.tensor([1, 1, -1, -1], dtype=torch.int8)[:, None, None]
    trapped[:, ::5, 0] *= -1
    source = chains(
        draws={"hidden": trapped}, statistics=statistics, sites={"hidden": SITES["hidden"]}
    )
    source.warmup_draws = {}
    table = az.summary(to_arviz(source), var_names=["model_energy", "magnetisation"])
    assert table["r_hat"]["model_energy"] < 1.1
    assert table["r_hat"]["magnetisation[hidden]"] > 1.5


BAD_NAMES = {
    "unknown site": ({"visble": NAMES}, r"unknown site 'visble'.*\['visible', 'hidden'"),
    "too few": ({"visible": NAMES[:2]}, "2 names for 'visible', which has 3 units"),
    "duplicates": ({"visible": ["ink", "ink", "glue"]}, r"several units of 'visible': \['ink'\]"),
    "two dimensions": ({"noise": NAMES}, r"'noise', whose shape is \(2, 2\)"),
    "no dimension": ({"offset": NAMES}, r"'offset', whose shape is \(\)"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_wrong_feature_names_are_refused(case: str) -> None:
    names, message = BAD_NAMES[case]
    with pytest.raises(ValueError, match=message):
        to_arviz(chains(), feature_names=names)


BAD_DATA = {
    "unknown site": ({"visble": torch.zeros(2, 3)}, "unknown site 'visble'"),
    "one row": (torch.zeros(3), r"wanted \('rows', 3\). A single row is x\[None\]"),
    "width": (torch.zeros(2, 4), r"'visible' has shape \(2, 4\)"),
    "spins for bits": (-torch.ones(2, 3), "-1, which is not in {0, 1}"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_wrong_observed_data_are_refused(case: str) -> None:
    observed, message = BAD_DATA[case]
    with pytest.raises(ValueError, match=message):
        to_arviz(chains(), observed_data=observed)


def test_a_site_named_like_a_derived_quantity_is_refused() -> None:
    x = torch.zeros(2, 5)
    source = chains(
        draws={"model_energy": x},
        statistics={"lp": x},
        sites={"model_energy": SITES["offset"]},
        warmup_draws={},
    )
    with pytest.raises(ValueError, match=r"\['model_energy'\] cannot be stored"):
        to_arviz(source)
