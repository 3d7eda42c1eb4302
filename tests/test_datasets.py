"""The data that the package ships."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_ebm import datasets


def test_the_digits_are_bits_in_the_promised_order() -> None:
    data = datasets.digits()
    assert data.train.shape == (1437, 64)
    assert data.test.shape == (360, 64)
    assert data.train.dtype == data.test.dtype == torch.float32
    assert data.train_labels.shape == (1437,)
    assert data.test_labels.shape == (360,)
    rows = torch.cat([data.train, data.test])
    assert ((rows == 0) | (rows == 1)).all()
    with np.load(datasets.DIGITS) as file:
        order = np.random.default_rng(0).permutation(1797)
        assert np.array_equal(rows.numpy(), file["images"][order] >= 8)
        labels = torch.cat([data.train_labels, data.test_labels])
        assert np.array_equal(labels.numpy(), file["labels"][order])


def test_the_digits_are_those_of_the_source() -> None:
    # Counts of sklearn.datasets.load_digits(), which has the same images from the same source.
    with np.load(datasets.DIGITS) as file:
        assert file["images"].sum() == 561718
        assert file["images"].max() == 16
        counts = np.bincount(file["labels"])
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "DIGITS", tmp_path / "digits.npz")
    with pytest.raises(FileNotFoundError, match=r"digits\.npz.*install it again"):
        datasets.digits()


def test_the_southern_women() -> None:
    attendance, women, events = datasets.southern_women()
    assert attendance.shape == (18, 14)
    assert attendance.dtype == torch.float32
    assert women[0] == "Evelyn Jefferson"
    assert events == [f"E{k}" for k in range(1, 15)]
    # How many women came to each event, and to how many events Evelyn and Flora went: table of
    # Davis, Gardner & Gardner.
    assert attendance.sum(0).tolist() == [3, 3, 6, 4, 8, 8, 10, 14, 12, 5, 4, 6, 3, 3]
    assert attendance[women.index("Evelyn Jefferson")].sum() == 8
    assert attendance[women.index("Flora Price")].sum() == 2
