"""The same voxels stored in another axis order: one case, however its files were exported."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import main
from medseg.data.align import turn
from medseg.data.table import Table
from medseg.geometry.grid import Grid, Orientation

SHAPE = (8, 9, 10)
ORDERS = ("LAS", "RAS", "LPS", "PIR", "ASL", "SRA", "IPL", "RSP")


def oblique() -> np.ndarray:
    a, b = np.radians(20), np.radians(-11)
    first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = first @ second @ np.diag([-0.9, 1.1, 3.0])
    affine[:3, 3] = (12, -30, 40)
    return affine


def save(path: Path, array: np.ndarray, *, order: str = "", affine: np.ndarray | None = None):
    image = nib.Nifti1Image(array, oblique() if affine is None else affine)
    if order:
        now = nib.orientations.io_orientation(image.affine)
        wanted = nib.orientations.axcodes2ornt(tuple(order))
        image = image.as_reoriented(nib.orientations.ornt_transform(now, wanted))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


@pytest.fixture
def mask() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[1:4, 2:7, 3:5] = 1
    found[5, 1:3, 6:9] = 2
    return found


@pytest.fixture
def raw(tmp_path: Path, mask: np.ndarray) -> Path:
    """One scan, a second channel and its mask in eight axis orders; half of them some slices."""
    image = np.random.default_rng(0).normal(100, 9, SHAPE).astype(np.float32)
    rows = ["case,subject,t1,t2,label,slices"]
    for number, order in enumerate(ORDERS):
        save(tmp_path / f"{order}.nii.gz", image + number)
        save(tmp_path / f"{order}_t2.nii.gz", image**2 + number, order=order)
        save(tmp_path / f"{order}_mask.nii.gz", mask, order=order)
        slices = "2:8" if number % 2 else ""
        files = f"{order}.nii.gz,{order}_t2.nii.gz,{order}_mask.nii.gz"
        rows.append(f"{order},p{number},{files},{slices}")
    (tmp_path / "samples.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_case_is_the_same_in_any_axis_order(raw: Path, mask: np.ndarray) -> None:
    table = Table(raw, ["t1", "t2"])
    for number, record in enumerate(table.records()):
        sample = table.load(record)
        kept = slice(2, 8) if record.slices else slice(None)
        np.testing.assert_array_equal(sample.target, mask[:, :, kept])
        np.testing.assert_allclose(
            sample.image[1] - number, (sample.image[0] - number) ** 2, rtol=1e-4
        )


def test_check_finds_no_problem(raw: Path) -> None:
    words = [str(raw), "--out", str(raw / "out"), "--labels", "a=1", "b=2"]
    assert main(["check", *words]) == 0


def test_predictions_in_any_axis_order_score_one(raw: Path, mask: np.ndarray) -> None:
    for number, order in enumerate(ORDERS):
        part, affine = mask, oblique()
        if number == 1:  # of the slices alone
            part = mask[:, :, 2:8]
            affine[:3, 3] = (affine @ [0, 0, 2, 1])[:3]
        save(raw / "predictions" / f"{order}.nii.gz", part, order=ORDERS[-number], affine=affine)
    words = ["--in", str(raw / "predictions"), "--reference", str(raw), "--pictures", "1"]
    assert main(["evaluate", *words, "--out", str(raw / "scores")]) == 0
    summary = json.loads((raw / "scores/summary.json").read_text())
    assert [s["metrics"]["dice"]["mean"] for s in summary["structures"].values()] == [1, 1]


def test_copying_an_affine_never_mirrors(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = oblique()
    moved[:3, 3] += 2
    save(raw / "LPS_mask.nii.gz", np.ones(SHAPE, np.uint8), order="RAS", affine=moved)
    out = raw / "fixed"
    words = [str(raw), "--out", str(out), "--channels", "t1,t2"]
    assert main(["check", *words, "--fix", "copy-affine"]) == 1
    (problem,) = json.loads((out / "check.json").read_text())["problems"]
    assert problem["case"] == "LPS"
    assert "3.464 mm off" in problem["found"]
    assert "use --fix resample" in problem["cure"]
    assert not problem["mended"]
    assert not list(out.glob("mended/**/*.nii.gz"))
    assert "1 problem:" in capsys.readouterr().out
    assert main(["check", *words, "--fix", "resample"]) == 0


def test_any_turn_is_found_and_a_true_shift_is_not() -> None:
    grid = Grid(SHAPE, oblique())
    turned = Orientation((2, 0, 1), (True, False, True)).grid(grid)
    found = turn(turned, grid)
    assert found is not None
    assert found.grid(turned).misalignment_mm(grid) < 1e-9
    affine = np.array(turned.affine)
    affine[0, 3] += 0.02
    assert turn(Grid(turned.shape, affine), grid) is None
