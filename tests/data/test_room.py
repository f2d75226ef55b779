"""What prepare refuses before it writes, and how a full disk is told."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.data import room
from medseg.data.preparation import prepare_dataset
from medseg.data.table import Table

RECIPE: dict[str, Any] = {"data": "own", "channels": ["t1"], "labels": {}, "slice_axis": 2}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = ["case,subject,t1,label,split"]
    for n, split in enumerate(("train", "val", "test")):
        image = np.random.default_rng(n).normal(100, 9, (6, 7, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"c{n}.nii.gz")
        rows.append(f"c{n},p{n % 2},c{n}.nii.gz,,{split}")
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder


def prepare(raw: Path, out: Path, **changes: Any) -> None:
    prepare_dataset(Table(raw, ["t1"]), {**RECIPE, **changes}, out=out, workers=1)


@pytest.mark.filterwarnings("ignore:subject")
def test_a_sheet_of_the_users_own_is_never_overwritten(raw: Path, tmp_path: Path) -> None:
    before = (raw / "samples.csv").read_text()
    with pytest.raises(ValueError, match="holds the sheet that is read"):
        prepare(raw, raw)
    other = tmp_path / "other"
    other.mkdir()
    (other / "samples.csv").write_text("mine")
    with pytest.raises(ValueError, match="was not written by prepare"):
        prepare(raw, other)
    assert (other / "samples.csv").read_text() == "mine"
    assert (raw / "samples.csv").read_text() == before
    assert sorted(path.suffix for path in raw.iterdir()) == [".csv", ".gz", ".gz", ".gz"]
    prepare(raw, tmp_path / "out")
    prepare(raw, tmp_path / "out")


def test_a_saved_array_is_numpys_own_file(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    room.save(tmp_path / "a.npy", iter(array[:, None]), shape=array.shape, dtype=np.float32)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.filterwarnings("ignore:subject")
def test_a_full_disk_is_told_with_the_case(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Iterator[Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "save", full)
    with pytest.raises(OSError, match=r"case c0: the disk of .* is full"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:subject")
def test_a_spacing_beyond_all_room_is_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"case c0: .*6000x7000x8000.*coarser data\.spacing_mm"):
        prepare(raw, tmp_path / "out", spacing_mm=[0.001, 0.001, 0.001])
    assert not (tmp_path / "out").exists()


def test_a_subject_on_both_sides_is_warned_of(raw: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="subject p0 stands in train and test"):
        prepare(raw, tmp_path / "out")
    (told,) = json.loads((tmp_path / "out/prepared.json").read_text())["warnings"]
    assert "data.folds" in told
