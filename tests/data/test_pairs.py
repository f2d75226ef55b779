from types import ModuleType

import numpy as np
import pytest

from medseg.data import pairs
from medseg.data.sheet import Record
from medseg.geometry.grid import Grid
from medseg.io import formats

NATIVE = Grid((6, 7, 8), np.array([[0, 2.0, 0, 1], [-3.0, 0, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]]))


def test_a_part_goes_back_to_where_it_was_cut():
    labels = np.random.default_rng(0).integers(1, 5, (2, 3, 4), dtype=np.uint8)
    whole = pairs.whole(labels, NATIVE.crop((1, 4, 2), (2, 3, 4)), native=NATIVE)
    np.testing.assert_array_equal(whole[1:3, 4:7, 2:6], labels)
    assert np.count_nonzero(whole) == labels.size


def test_predictions_are_found_by_case_and_maps_are_passed_over(tmp_path):
    for name in ("a.nii.gz", "b.nii", "a_entropy.nii.gz", "a_probabilities.nii.gz", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / ".part-x-c.nii.gz").touch()
    assert list(pairs.predictions(tmp_path)) == ["a", "b"]
    (tmp_path / "a.nii").touch()
    with pytest.raises(ValueError, match="both the case 'a'"):
        pairs.predictions(tmp_path)


def test_a_case_with_a_maps_ending_and_a_sidecar_of_its_own_is_a_case(tmp_path):
    for name in ("a.nii.gz", "a_entropy.nii.gz", "b_entropy.nii.gz", "b_entropy.json"):
        (tmp_path / name).touch()
    assert list(pairs.predictions(tmp_path)) == ["a", "b_entropy"]


def test_predictions_have_any_formats_suffix(tmp_path, monkeypatch):
    toy = ModuleType("toy")
    toy.SUFFIXES, toy.handles = (".toy",), lambda path: path.suffix == ".toy"
    known = formats.modules()
    monkeypatch.setattr(formats, "modules", lambda: (*known, toy))
    for name in ("a.b.toy", "c.nii.gz", "c_entropy.toy", "d.txt"):
        (tmp_path / name).touch()
    assert list(pairs.predictions(tmp_path)) == ["a.b", "c"]
    record = Record("c", "", "", {}, label=tmp_path / "l.toy", notes={"sky": "x.toy", "age": "4"})
    assert pairs.files(record, tmp_path / "samples.csv") == [str(tmp_path / "l.toy"), "x.toy"]


def test_the_scan_is_the_models_first_channel_of_the_sheet(tmp_path):
    for name in ("fat.nii.gz", "water.nii.gz"):
        (tmp_path / name).touch()
    notes = {"water": "water.nii.gz", "fat": "fat.nii.gz"}
    record = Record("a", "", "", {}, notes=notes)
    sheet = tmp_path / "samples.csv"
    sidecar = {"inputs": {"fat": {"path": "elsewhere"}}}
    assert pairs.scan(record, sidecar, sheet=sheet) == tmp_path / "fat.nii.gz"
    assert pairs.scan(record, {}, sheet=sheet) == tmp_path / "water.nii.gz"
    assert pairs.scan(record, {}, sheet=None) is None
