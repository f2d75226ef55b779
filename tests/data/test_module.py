"""The data module: sizes that fit a network, cases shared out, and which cases a training uses."""

import logging
from pathlib import Path

import pytest
import tiny_prepared
import torch

from medseg import config
from medseg.data.module import DataModule, Sampling, Whole, patch_size
from medseg.data.phase import FourierShift, GlobalPhase
from medseg.data.prepared import Prepared
from medseg.data.splits import mismatches, split
from medseg.data.transforms import Chain


@pytest.fixture(scope="module")
def cfg():
    return config.compose("train", ["experiment=unet_spine"])


@pytest.fixture(scope="module")
def prepared(cfg, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tiny_prepared.prepared(tmp_path_factory.mktemp("module"), cfg))


def test_without_a_size_patches_hold_the_largest_slice(prepared: Prepared) -> None:
    records = prepared.records()
    assert patch_size(None, records, stride=8, axis=0) == [24, 24]
    assert patch_size(None, records, stride=(4, 8), axis=0) == [20, 24]
    assert patch_size(None, records, stride=2, axis=None) == [6, 20, 24]
    assert patch_size([16, 8], records, stride=8, axis=0) == [16, 8]


def test_a_size_that_does_not_fit_names_one_that_does(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match=r"use \[16, 24\]"):
        patch_size([15, 20], prepared.records(), stride=8, axis=0)
    with pytest.raises(ValueError, match="2 axes"):
        patch_size([16, 16, 16], prepared.records(), stride=8, axis=0)


def test_a_process_without_a_case_gets_an_empty_batch(prepared: Prepared) -> None:
    whole = Whole(prepared, [prepared.records()[0], None])
    first, second = whole
    assert first.image.shape == (1, 4, 6, 20, 24)
    assert first.target.dtype == torch.int64
    assert second.ids == ()


def test_spectra_are_not_moved_against_their_labels(prepared: Prepared) -> None:
    spectra = Prepared(prepared.folder)
    spectra.meta["complex_input"] = "fft"
    rest = {"val": [], "ndim": 2, "patch_size": [24, 24], "sampling": Sampling(8, None, 0.5, 0, 0)}
    DataModule(spectra, spectra.records(), augment=Chain({"turn": GlobalPhase()}), **rest)
    moving = Chain({"turn": GlobalPhase(), "shift": FourierShift()})
    DataModule(prepared, prepared.records(), augment=moving, **rest)
    with pytest.raises(ValueError, match="fft trains on spectra, and shift of the augmentation"):
        DataModule(spectra, spectra.records(), augment=moving, **rest)


def test_folds_stand_in_for_the_sheets_split(prepared: Prepared) -> None:
    assert {n: len(r) for n, r in split(prepared, 0, fold=0).items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
        "": 0,
    }
    found = [split(prepared, 3, fold=fold) for fold in range(3)]
    assert sorted(r.case for f in found for r in f["val"]) == ["train0", "train1", "val2"]
    assert all([r.case for r in f["test"]] == ["test3"] for f in found)


def test_no_training_case_is_an_error_and_no_validation_case_a_warning(
    cfg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = Prepared(tiny_prepared.prepared(tmp_path / "bare", cfg, splits=("", "test")))
    with pytest.raises(ValueError, match="make folds"):
        split(bare, 0, fold=0)
    alone = Prepared(tiny_prepared.prepared(tmp_path / "alone", cfg, splits=("train",)))
    with caplog.at_level(logging.WARNING):
        split(alone, 0, fold=0)
    assert "no validation case" in caplog.text


def test_mismatches_name_what_differs(prepared: Prepared, cfg) -> None:
    wanted = config.plain(cfg.data)
    assert mismatches(prepared.meta, wanted) == []
    assert mismatches(prepared.meta, wanted | {"slice_axis": None}) == []
    other = mismatches(prepared.meta, wanted | {"spacing_mm": [1.0, 1.0, 1.0]})
    assert other == ["spacing_mm: prepared None, recipe [1.0, 1.0, 1.0]"]
    more = wanted["source"] | {"n_train": 3}
    assert mismatches(prepared.meta, wanted | {"source": more}) == [
        "source.n_train: prepared its default, recipe 3"
    ]
    two = {"labels": {"b": [1], "a": [2]}}
    assert mismatches({**prepared.meta, **two}, wanted | {"labels": {"a": [2], "b": [1]}})
