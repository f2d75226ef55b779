import numpy as np
import pytest

from medseg.data import pairs
from medseg.data.sheet import Record
from medseg.geometry.grid import Grid

NATIVE = Grid((6, 7, 8), np.array([[0, 2.0, 0, 1], [-3.0, 0, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]]))


def test_a_part_goes_back_to_where_it_was_cut():
    labels = np.random.default_rng(0).integers(1, 5, (2, 3, 4), dtype=np.uint8)
    whole = pairs.whole(labels, NATIVE.crop((1, 4, 2), (2, 3, 4)), NATIVE)
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


def test_the_scan_is_the_models_first_channel_of_the_sheet(tmp_path):
    for name in ("fat.nii.gz", "water.nii.gz"):
        (tmp_path / name).touch()
    notes = {"water": "water.nii.gz", "fat": "fat.nii.gz"}
    record = Record("a", "", "", {}, notes=notes)
    sheet = tmp_path / "samples.csv"
    sidecar = {"inputs": {"fat": {"path": "elsewhere"}}}
    assert pairs.scan(record, sidecar, sheet) == tmp_path / "fat.nii.gz"
    assert pairs.scan(record, {}, sheet) == tmp_path / "water.nii.gz"
    assert pairs.scan(record, {}, None) is None
