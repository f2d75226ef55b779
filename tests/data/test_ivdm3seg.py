"""The challenge's folder layout, with synthetic scans in it."""

import json
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.folds import folds
from medseg.data.ivdm3seg import IVDM3Seg
from medseg.data.preparation import prepare_dataset
from medseg.data.prepared import Prepared
from medseg.data.table import Table

SHAPE = (6, 12, 10)
AFFINE = np.array([[2.0, 0, 0, -5], [0, 1.25, 0.1, 3], [0, -0.1, 1.25, 7], [0, 0, 0, 1]])
PEOPLE = {"1": "A", "02": "A", "16": "B"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases; the mask of case 16 has another affine, one voxel along the second axis."""
    rng = np.random.default_rng(0)
    home = tmp_path / "IVDM3Seg"
    for case, suffix in (("01", ".nii"), ("02", ".nii.gz"), ("16", ".nii")):
        (home / case).mkdir(parents=True)
        for place, name in enumerate(("fat", "inn", "opp", "wat")):
            image = rng.normal(100 * (place + 1), 5, SHAPE).astype(np.float32)
            nib.save(nib.Nifti1Image(image, AFFINE), home / case / f"{case}_{name}{suffix}")
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:4, 4:7, 3:6] = 1
        affine = AFFINE.copy()
        if case == "16":
            affine[:3, 3] += AFFINE[:3, 1]
        nib.save(nib.Nifti1Image(mask, affine), home / case / f"{case}_Labels.nii")
    (home / "readme.txt").write_text("not a case")
    return home


def test_contrasts_get_the_names_used_everywhere(folder: Path) -> None:
    data = IVDM3Seg(folder, subjects=PEOPLE)
    assert [record.case for record in data.records()] == ["01", "02", "16"]
    assert [record.subject for record in data.records()] == ["A", "A", "B"]
    sample = data.load(data.records()[0])
    assert sample.channels == ("fat", "inphase", "opposed", "water")
    np.testing.assert_allclose(sample.image.mean((1, 2, 3)), [100, 200, 300, 400], atol=1)
    assert sample.target is not None
    assert sample.target.sum() == 2 * 3 * 3


def test_a_mask_off_its_images_is_brought_to_their_grid_and_said(folder: Path) -> None:
    data = IVDM3Seg(folder, subjects=PEOPLE)
    with pytest.warns(UserWarning, match=r"case 16: the mask lay up to 1\.25 mm off"):
        sample = data.load(data.records()[2])
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[2:4, 5:8, 3:6] = 1
    np.testing.assert_array_equal(sample.target, wanted)


def test_an_image_off_the_others_stays_an_error(folder: Path) -> None:
    image = nib.load(folder / "01" / "01_wat.nii")
    affine = AFFINE.copy()
    affine[0, 3] += 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), folder / "01" / "01_wat.nii")
    data = IVDM3Seg(folder, subjects=PEOPLE)
    with pytest.raises(ValueError, match=r"case 01: water .* 1 mm away from fat"):
        data.load(data.records()[0])


def test_without_a_map_of_subjects_there_is_a_warning(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"two scans a person.*data\.source\.subjects"):
        assert IVDM3Seg(folder).records()[0].subject == ""


def test_folds_keep_a_person_together(folder: Path) -> None:
    records = IVDM3Seg(folder, subjects=PEOPLE).records()
    for fold in (0, 1):
        split = {r.case: r.split for r in folds(records, 2, fold=fold)}
        assert split["01"] == split["02"] != split["16"]


def test_the_map_may_be_json_or_csv(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PEOPLE))
    (tmp_path / "p.csv").write_text("case,subject\n01,A\n2,A\n16,B\n")
    for name in ("p.json", "p.csv"):
        people = IVDM3Seg(folder, subjects=tmp_path / name).records()
        assert [record.subject for record in people] == ["A", "A", "B"]
    with pytest.raises(ValueError, match=r"lacks the cases \['02', '16'\]"):
        IVDM3Seg(folder, subjects={"01": "A"})


def test_a_folder_of_another_kind_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no numbered folders"):
        IVDM3Seg(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        IVDM3Seg(tmp_path / "none")
    (folder / "02" / "02_opp.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"02_opp\.nii.*02_fat\.nii\.gz"):
        IVDM3Seg(folder)
    with pytest.raises(ValueError, match="no contrast is called 'pd'"):
        IVDM3Seg(folder, channels=["pd"])


def test_prepared_cases_hold_the_mended_mask_and_the_note(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    recipe = {"channels": ["water", "fat"], "labels": {"disc": [1, 255]}, "slice_axis": 0}
    data = IVDM3Seg(folder, channels=["water", "fat"], subjects=PEOPLE)
    with pytest.warns(UserWarning, match="case 16"):
        prepare_dataset(data, recipe, out=out, workers=1)
    prepared = Prepared(out)
    last = prepared.records()[2]
    assert last.foreground == {"disc": 18}
    assert "resampled" in last.notes["note"]
    about = json.loads((last.folder / "case.json").read_text())
    assert "1.25 mm" in about["notes"]["note"]
    again = Table(out / "samples.csv", ["water", "fat"], labels={"disc": [1, 255]})
    target = again.load(again.records()[2]).target
    assert target is not None
    assert target[2, 5, 3] == 1
    assert target[2, 4, 3] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counts = prepare_dataset(data, recipe, out=out, workers=1)
    assert (counts["prepared"], counts["kept"]) == (0, 3)
