"""BraTS in the layouts of its years, with synthetic scans in them."""

import json
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import cli
from medseg.data.brats import BraTS
from medseg.data.folds import folds
from medseg.data.prepared import Prepared

SHAPE = (5, 6, 4)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
OLD = ("t1", "t1ce", "t2", "flair")
NEW = ("t1n", "t1c", "t2w", "t2f")
MISNAMED = "W39_1998.09.19_Segm.nii"


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def case(
    folder: Path, *, values: tuple[int, ...] = (1, 2, 4), suffix: str = ".nii.gz", seg: str = ""
) -> Path:
    """A case's folder; contrasts are 100, 200, 300, 400 and the mask's first voxels `values`."""
    new = folder.name.startswith("BraTS-")
    for place, name in enumerate(NEW if new else OLD, 1):
        image = np.full(SHAPE, 100.0 * place, np.float32)
        image[0, 0, 0] = place
        save(folder / f"{folder.name}{'-' if new else '_'}{name}{suffix}", image)
    mask = np.zeros(SHAPE, np.uint8)
    mask.reshape(-1)[: len(values)] = values
    if values:
        save(folder / (seg or f"{folder.name}{'-' if new else '_'}seg{suffix}"), mask)
    return folder


@pytest.mark.parametrize(
    ("inner", "values", "suffix"),
    [
        ("HGG/Brats17_2013_10_1", (1, 2, 4), ".nii.gz"),
        ("MICCAI_BraTS_2018_Data_Training/LGG/Brats18_TCIA09_141_1", (1, 2, 4), ".nii"),
        ("BraTS20_Training_001", (1, 2, 4), ".nii"),
        ("RSNA/train/BraTS2021_00000", (1, 2, 4), ".nii.gz"),
        ("BraTS-GLI-00000-000", (1, 2, 3), ".nii.gz"),
        ("TrainingData/BraTS-MEN-00004-001", (1, 2, 3), ".nii.gz"),
    ],
)
def test_every_layout_gives_the_same_contrasts_and_classes(
    tmp_path: Path, inner: str, values: tuple[int, ...], suffix: str
) -> None:
    case(tmp_path / inner, values=values, suffix=suffix)
    data = BraTS(tmp_path)
    (record,) = data.records()
    assert record.case == Path(inner).name
    sample = data.load(record)
    assert sample.channels == ("t1", "t1ce", "t2", "flair")
    assert sample.image[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert sample.image[:, 1, 1, 1].tolist() == [100, 200, 300, 400]
    assert sample.target is not None
    assert sample.target.reshape(-1)[:4].tolist() == [1, 2, 3, 0]
    raw = data.load(record, raw=True).target
    assert raw is not None
    assert tuple(raw.reshape(-1)[:3]) == values


def test_channels_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    data = BraTS(
        case(tmp_path / "a/BraTS-GLI-00000-000", values=(3,)).parent, channels=["flair", "t1"]
    )
    assert data.load(data.records()[0]).image[:, 1, 1, 1].tolist() == [400, 100]
    with pytest.raises(
        ValueError, match=r"no contrast is called 't2f'; there are t1, t1ce, t2, flair"
    ):
        BraTS(tmp_path, channels=["t2f"])


def test_the_grade_is_what_the_folders_say(tmp_path: Path) -> None:
    case(tmp_path / "HGG/Brats18_CBICA_AAB_1")
    case(tmp_path / "LGG/Brats18_TCIA09_141_1")
    case(tmp_path / "else/BraTS20_Training_001")
    found = {record.case: record.category for record in BraTS(tmp_path).records()}
    assert list(found.values()) == ["", "hgg", "lgg"]
    assert BraTS(tmp_path / "LGG").records()[0].category == "lgg"


def test_a_mask_of_a_strange_name_is_taken_and_said(tmp_path: Path) -> None:
    case(tmp_path / "BraTS20_Training_355", seg=MISNAMED)
    case(tmp_path / "BraTS20_Training_356")
    save(tmp_path / "BraTS20_Training_356" / "old_Segm.nii", np.zeros(SHAPE, np.uint8))
    misnamed, named = BraTS(tmp_path).records()
    assert misnamed.label is not None
    assert misnamed.label.name == MISNAMED
    assert misnamed.notes == {"note": f"the mask is called {MISNAMED}"}
    assert named.label is not None
    assert named.label.name == "BraTS20_Training_356_seg.nii.gz"
    save(tmp_path / "BraTS20_Training_355" / "seg2.nii", np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match=r"several of others .*rename the right one"):
        BraTS(tmp_path)


def test_time_points_of_a_person_stay_on_one_side(tmp_path: Path) -> None:
    names = [f"BraTS-GLI-{person:05d}-{time:03d}" for person in range(6) for time in (100, 101)]
    for name in (*names, "Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB_2", "BraTS20_Training_001"):
        case(tmp_path / name, values=(1, 2))
    records = BraTS(tmp_path).records()
    subjects = {record.case: record.subject for record in records}
    assert subjects["BraTS-GLI-00004-101"] == "BraTS-GLI-00004"
    assert subjects["Brats18_CBICA_AAB_2"] == "Brats18_CBICA_AAB"
    assert subjects["BraTS20_Training_001"] == "BraTS20_Training_001"
    for fold in range(5):
        split = {r.case: r.split for r in folds(records, 5, fold=fold)}
        assert all(split[name] == split[name[:-1] + "0"] for name in names)
        assert {"train", "val"} == set(split.values())


def test_cases_without_a_mask_are_test_and_outside_the_folds(tmp_path: Path) -> None:
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        case(tmp_path / "train" / name)
    case(tmp_path / "valid" / "BraTS20_Validation_001", values=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = BraTS(tmp_path).records()
    assert [record.split for record in records] == ["", "", "test"]
    assert [r.split for r in folds(records, 2, fold=0)][2] == "test"
    case(tmp_path / "train" / "BraTS20_Training_003", values=())
    with pytest.warns(UserWarning, match=r"1 cases have no mask .*: BraTS20_Training_003; fetch"):
        BraTS(tmp_path)


def test_an_unlabelled_time_point_never_stands_beside_its_person(tmp_path: Path) -> None:
    case(tmp_path / "train" / "BraTS-GLI-00001-000", values=(1,))
    case(tmp_path / "validation" / "BraTS-GLI-00001-001", values=())
    with pytest.warns(UserWarning, match=r"stay out.*same person.*BraTS-GLI-00001-001"):
        records = BraTS(tmp_path).records()
    assert [record.case for record in records] == ["BraTS-GLI-00001-000"]


def test_a_four_since_2023_is_not_taken_for_enhancing_tumour(tmp_path: Path) -> None:
    case(tmp_path / "BraTS-GLI-02061-100", values=(1, 2, 3, 4))
    data = BraTS(tmp_path)
    cure = r"value 4.*data\.labels\.enhancing=\[3\] \+data\.labels\.cavity=\[4\]"
    with pytest.raises(ValueError, match=cure):
        data.load(data.records()[0])
    with pytest.raises(ValueError, match=cure):
        data.write(tmp_path)
    labels = {"necrotic": [1], "oedema": [2], "enhancing": [3], "cavity": [4]}
    data = BraTS(tmp_path, labels=labels)
    target = data.load(data.records()[0]).target
    assert target is not None
    assert target.reshape(-1)[:4].tolist() == [1, 2, 3, 4]


def test_a_folder_called_like_a_file_is_what_its_name_says(tmp_path: Path) -> None:
    home = case(tmp_path / "BraTS2021_00000", suffix=".nii")
    for name in ("flair", "t1"):
        inner = home / f"BraTS2021_00000_{name}.nii"
        moved = inner.rename(home / "part")
        inner.mkdir()
        moved.rename(inner / f"00000057_brain_{name}.nii")
    assert BraTS(tmp_path).records()[0].paths["flair"].name == "00000057_brain_flair.nii"


def test_faults_of_a_folder_are_told_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        BraTS(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no NIfTI file; wanted, at any depth: BraTS20"):
        BraTS(tmp_path)
    (tmp_path / "BraTS2020.zip").touch()
    with pytest.raises(ValueError, match=r"1 archives are not unpacked yet"):
        BraTS(tmp_path)
    home = case(tmp_path / "BraTS20_Training_001")
    with pytest.raises(ValueError, match=r"folder of one case; give the one around it"):
        BraTS(home)
    (home / "BraTS20_Training_001_t2.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"BraTS20_Training_001 lacks t2 .*data\.channels"):
        BraTS(tmp_path)
    assert len(BraTS(tmp_path, channels=["t1", "flair"]).records()) == 1
    case(tmp_path / "copy" / "BraTS20_Training_001")
    with pytest.raises(ValueError, match=r"same image of one case; remove one"):
        BraTS(tmp_path)


def test_prepare_brings_both_numberings_to_the_same_classes(tmp_path: Path) -> None:
    case(tmp_path / "raw" / "BraTS20_Training_355", values=(1, 2, 4, 4), seg=MISNAMED)
    case(tmp_path / "raw" / "BraTS-GLI-00001-000", values=(1, 2, 3, 3))
    out = tmp_path / "prepared"
    words = ["data=brats", "--in", str(tmp_path / "raw"), "--out", str(out), "--workers", "1"]
    assert cli.main(["prepare", *words]) == 0
    prepared = Prepared(out)
    new, old = prepared.records()
    assert new.foreground == old.foreground == {"necrotic": 1, "oedema": 1, "enhancing": 2}
    assert prepared.load(old).image.shape == (4, *SHAPE)
    assert json.loads((old.folder / "case.json").read_text())["notes"]["note"].endswith(MISNAMED)
