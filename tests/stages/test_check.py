"""`medseg check`: what it finds, what it mends, what it leaves alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.stages.check import main

SAMPLES = Path(__file__).resolve().parents[2] / "data/samples/spine_mt"
SHAPE = (8, 7, 6)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] += mm
    return affine


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three sound cases of two channels and a label."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["case,subject,t1,t2,label,split"]
    for name, split in (("a", "train"), ("b", "val"), ("c", "test")):
        for channel in ("t1", "t2"):
            image = rng.normal(100, 9, SHAPE).astype(np.float32)
            save(folder / f"{name}_{channel}.nii.gz", image)
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:5, 3, 1:4] = 1
        save(folder / f"{name}_seg.nii.gz", mask)
        rows.append(f"{name},p{name},{name}_t1.nii.gz,{name}_t2.nii.gz,{name}_seg.nii.gz,{split}")
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder


def check(raw: Path, *options: str) -> tuple[int, dict[str, Any]]:
    out = raw.parent / "out"
    code = main([str(raw), "--out", str(out), *options])
    return code, json.loads((out / "check.json").read_text())


def found(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem["case"], problem["check"]) for problem in content["problems"]]


def edit(raw: Path, old: str, new: str) -> None:
    sheet = raw / "samples.csv"
    assert old in sheet.read_text()
    sheet.write_text(sheet.read_text().replace(old, new, 1))


def test_sound_cases_pass(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, content = check(raw, "--labels", "disc=1")
    assert code == 0
    assert content["problems"] == []
    assert content["channels"] == ["t1", "t2"]
    assert content["cases"][0]["shape"] == list(SHAPE)
    assert content["cases"][0]["axes"] == "LAS"
    assert "3 cases, 0 problems" in capsys.readouterr().out


def test_every_problem_of_every_case_is_in_one_table(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.asarray(nib.load(raw / "a_t1.nii.gz").dataobj).copy()
    image[0, 0, 0], image[1, 1, 1] = np.nan, np.inf
    save(raw / "a_t1.nii.gz", image)
    (raw / "a_t2.nii.gz").unlink()
    (raw / "b_t1.nii.gz").write_bytes((raw / "b_t1.nii.gz").read_bytes()[:200])
    save(raw / "b_seg.nii.gz", np.zeros(SHAPE, np.uint8))
    save(raw / "c_t2.nii.gz", np.full(SHAPE, 7, np.float32))
    save(raw / "c_seg.nii.gz", np.full(SHAPE, 255, np.uint8))
    edit(raw, ",test", ",tset")
    edit(raw, "c,pc", "d,,d.nii,d.nii,,train\nc,pc")
    code, content = check(raw, "--labels", "disc=1")
    assert code == 1
    assert set(found(content)) == {
        ("a", "NaN or inf"),
        ("a", "missing file"),
        ("b", "unreadable"),
        ("b", "empty label"),
        ("c", "split"),
        ("c", "constant"),
        ("c", "label values"),
        ("d", "missing file"),
        ("d", "missing label"),
    }
    text = capsys.readouterr().out
    assert all(word in text for word in ("cure", "1 NaN and 1 infinite", "'tset'", "write 'test'"))
    stray = next(p for p in content["problems"] if p["check"] == "label values")
    assert stray["found"] == "255"
    assert stray["expected"] == "0; disc=1"
    assert "--labels" in stray["cure"]
    assert check(raw, "--labels", "disc=1,255")[1]["problems"][-1]["check"] != "label values"


def test_a_row_with_a_problem_of_its_own_is_examined_as_well(raw: Path) -> None:
    image = np.asarray(nib.load(raw / "a_t1.nii.gz").dataobj).copy()
    image[0, 0, 0] = np.nan
    save(raw / "a_t1.nii.gz", image)
    (raw / "b_t2.nii.gz").unlink()
    (raw / "c_t1.nii.gz").unlink()
    edit(raw, "a,pa", "../a,pa")
    edit(raw, ",b_t1.nii.gz", ",")
    edit(raw, "c,pc", "b,pc")
    code, content = check(raw)
    assert code == 1
    assert set(found(content)) == {
        ("../a", "case name"),
        ("../a", "NaN or inf"),
        ("b", "missing channel"),
        ("b", "missing file"),
        ("b", "duplicate case"),
    }
    files = [p["found"] for p in content["problems"] if p["check"] == "missing file"]
    assert [text.partition(":")[0] for text in files] == ["t2", "t1"]


def test_slices_that_are_none_hide_no_file_and_make_no_leak(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in SAMPLES.iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    edit(raw, "3:4", "3-4")
    edit(raw, "mt1.nii.gz,t1w", "none.nii.gz,t1w")
    _, content = check(raw)
    assert found(content) == [("cord-b", "slices"), ("cord-a", "missing file")]


def test_mended_copies_are_made_of_sound_rows_alone(raw: Path) -> None:
    mask = np.asarray(nib.load(raw / "a_seg.nii.gz").dataobj)
    for name in "ab":
        save(raw / f"{name}_seg.nii.gz", mask, shifted(3))
    edit(raw, "a,pa", "../a,pa")
    code, content = check(raw, "--fix", "copy-affine")
    assert code == 1
    told = {p["case"]: p["mended"] for p in content["problems"] if p["check"] == "geometry"}
    assert told == {"../a": False, "b": True}
    mended = raw.parent / "out" / "mended"
    assert [path.name for path in mended.iterdir()] == ["b"]
    assert len((raw.parent / "out" / "samples.csv").read_text().splitlines()) == 3


def test_a_volume_is_chosen_of_those_files_that_hold_several(raw: Path) -> None:
    volumes = np.random.default_rng(5).normal(100, 9, (*SHAPE, 2)).astype(np.float32)
    save(raw / "a_t2.nii.gz", volumes, shifted(3))
    assert ("a", "unreadable") in found(check(raw)[1])
    table = (raw / "samples.csv").read_text().splitlines()[:2]
    (raw / "samples.csv").write_text("\n".join(table) + "\n")
    assert found(check(raw, "--volume", "1")[1]) == [("a", "geometry")]
    assert check(raw, "--volume", "1", "--fix", "copy-affine")[0] == 0
    again = nib.load(raw.parent / "out" / "mended" / "a" / "t2.nii.gz")
    np.testing.assert_array_equal(np.asarray(again.dataobj), volumes[..., 1])


def test_without_named_labels_only_what_cannot_be_labels_is_a_problem(raw: Path) -> None:
    save(raw / "a_seg.nii.gz", np.full(SHAPE, 0.5, np.float32))
    many = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    save(raw / "b_seg.nii.gz", many)
    save(raw / "c_seg.nii.gz", np.full(SHAPE, 255, np.uint8))
    _, content = check(raw)
    assert found(content) == [("a", "label values"), ("b", "label values")]


@pytest.mark.parametrize(("mm", "problems"), [(0.009, 0), (0.011, 1)])
def test_a_hundredth_of_a_millimetre_is_the_limit(raw: Path, mm: float, problems: int) -> None:
    image = np.asarray(nib.load(raw / "a_t2.nii.gz").dataobj)
    save(raw / "a_t2.nii.gz", image, shifted(mm))
    code, content = check(raw)
    assert (code, len(content["problems"])) == (problems, problems)


def test_a_geometry_row_says_which_part_differs(raw: Path) -> None:
    image = np.ones(SHAPE, np.float32)
    image[0] = 2
    turned = AFFINE.copy()
    turned[:2, :2] = [[-0.8, 0.6], [0.6, 0.8]]
    save(raw / "a_t2.nii.gz", image, shifted(3))
    save(raw / "b_t2.nii.gz", image, turned)
    save(raw / "c_t2.nii.gz", image[:, :, :5], np.diag([-1.0, 1.0, 2.5, 1.0]))
    _, content = check(raw)
    rows = {p["case"]: p["found"] for p in content["problems"] if p["check"] == "geometry"}
    assert rows["a"].startswith("t2 is 3 mm off; origin (0, 3, 0)")
    assert "spacing" not in rows["a"]
    assert "direction" in rows["b"]
    assert "turned by 36.9 degrees" in rows["b"]
    assert "shape 8x7x5" in rows["c"]
    assert "spacing (1, 1, 2.5)" in rows["c"]


def test_the_same_image_or_subject_on_both_sides_is_a_leak(raw: Path) -> None:
    """A copy that was turned and saved in another type is still the same image."""
    rng = np.random.default_rng(1)
    whole = rng.integers(0, 900, SHAPE).astype(np.int16)
    save(raw / "a_t1.nii.gz", whole)
    turn = np.diag([1.0, 1.0, 2.0, 1.0])
    turn[0, 3] = -(SHAPE[0] - 1)
    save(raw / "c_t1.nii.gz", whole[::-1].astype(np.float64), turn)
    edit(raw, "b,pb", "b,pa")
    _, content = check(raw)
    leaks = [p for p in content["problems"] if p["check"] == "leak"]
    assert {p["case"] for p in leaks} == {"a, b", "a, c"}
    assert leaks[0]["found"] == "subject pa in train and val"
    assert leaks[1]["found"] == "the same image (t1) in train and test"


def test_copies_with_other_labels_or_other_subjects_are_told(raw: Path) -> None:
    for channel in ("t1", "t2"):
        (raw / f"b_{channel}.nii.gz").write_bytes((raw / f"a_{channel}.nii.gz").read_bytes())
    edit(raw, ",val", ",train")
    assert found(check(raw)[1]) == [("a, b", "duplicate")]
    edit(raw, "b,pb", "b,pa")
    assert check(raw)[0] == 0
    save(raw / "b_seg.nii.gz", np.ones(SHAPE, np.uint8))
    _, content = check(raw)
    assert "different labels" in content["problems"][0]["found"]


def test_one_file_as_two_channels_is_told(raw: Path) -> None:
    edit(raw, "a_t2.nii.gz", "a_t1.nii.gz")
    assert found(check(raw)[1]) == [("a", "same image")]


def test_slices_declare_a_leak_and_overlapping_ones_do_not(tmp_path: Path) -> None:
    copy = tmp_path / "raw"
    copy.mkdir()
    for path in SAMPLES.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    code, content = check(copy, "--labels", "cord=1")
    assert code == 0
    assert content["declared_leaks"][0] == {
        "subject": "sub-01",
        "splits": ["train", "val", "test"],
        "cases": ["cord-a", "cord-b", "cord-c"],
    }
    edit(copy, "3:4", "2:4")
    code, content = check(copy)
    assert code == 1
    assert "overlapping slices" in content["problems"][0]["found"]
    edit(copy, "4:5", "4:6")
    assert ("cord-c", "slices") in found(check(copy)[1])


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_copy_affine_mends_copies_and_touches_no_original(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.asarray(nib.load(raw / "a_seg.nii.gz").dataobj)
    save(raw / "a_seg.nii.gz", mask, shifted(3))
    before = snapshot(raw)
    code, content = check(raw, "--fix", "copy-affine")
    assert code == 0
    assert content["problems"][0]["mended"]
    assert "1 mended" in capsys.readouterr().out
    assert snapshot(raw) == before
    out = raw.parent / "out"
    again = nib.load(out / "mended" / "a" / "label.nii.gz")
    np.testing.assert_allclose(again.affine, AFFINE)
    np.testing.assert_array_equal(np.asarray(again.dataobj), mask)
    assert [path.name for path in (out / "mended").rglob("*.nii.gz")] == ["label.nii.gz"]
    assert main([str(out / "samples.csv"), "--out", str(raw.parent / "second")]) == 0
    assert check(raw, "--fix", "copy-affine")[0] == 0


def test_resample_brings_content_to_the_first_channels_grid(raw: Path) -> None:
    """One voxel along the second axis: content moves by exactly one voxel."""
    mask = np.asarray(nib.load(raw / "a_seg.nii.gz").dataobj)
    image = np.asarray(nib.load(raw / "a_t2.nii.gz").dataobj)
    save(raw / "a_seg.nii.gz", mask, shifted(1))
    save(raw / "a_t2.nii.gz", image, shifted(1))
    assert check(raw, "--fix", "resample")[0] == 0
    mended = raw.parent / "out" / "mended" / "a"
    moved = np.asarray(nib.load(mended / "label.nii.gz").dataobj)
    np.testing.assert_array_equal(moved[:, 1:], mask[:, :-1])
    assert moved.dtype == np.uint8
    second = np.asarray(nib.load(mended / "t2.nii.gz").dataobj)
    np.testing.assert_allclose(second[:, 1:], image[:, :-1], atol=1e-3)


def test_copy_affine_leaves_other_shapes_and_says_so(raw: Path) -> None:
    save(raw / "a_seg.nii.gz", np.ones((8, 7, 5), np.uint8))
    code, content = check(raw, "--fix", "copy-affine")
    assert code == 1
    assert not content["problems"][0]["mended"]
    assert "use --fix resample" in content["problems"][0]["cure"]
    assert check(raw, "--fix", "resample")[0] == 0


def test_a_fix_into_the_originals_folder_is_refused(raw: Path) -> None:
    for out in (raw, raw.parent):
        with pytest.raises(ValueError, match="originals are never touched"):
            main([str(raw), "--fix", "resample", "--out", str(out)])
    with pytest.raises(ValueError, match="say where by --out"):
        main([str(raw), "--fix", "resample"])


def test_a_folder_and_several_inputs_are_checked_together(raw: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    for name in ("a", "x"):
        save(more / f"{name}.nii.gz", np.random.default_rng(3).normal(size=SHAPE))
    out = tmp_path / "out"
    assert main([str(raw / "samples.csv"), str(more), "--out", str(out)]) == 0
    content = json.loads((out / "check.json").read_text())
    assert [case["case"] for case in content["cases"]] == ["raw:a", "b", "c", "more:a", "x"]


def medseg(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medseg.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_beside_the_caller_and_exits_by_what_it_found(raw: Path) -> None:
    done = medseg("check", str(raw), cwd=raw.parent)
    assert done.returncode == 0, done.stderr
    assert (raw.parent / "data" / "reports" / "check" / "check.json").exists()
    (raw / "a_t1.nii.gz").unlink()
    assert medseg("check", str(raw), cwd=raw.parent).returncode == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.csv"], "there is no none.csv"),
        (["empty"], "holds no image"),
        (["raw", "--channels", "t1,flare"], "no column 'flare'"),
        (["raw", "--labels", "disc"], "write name=value"),
        (["raw/a_t1.nii.gz", "--out", "raw/samples.csv"], "raw/samples.csv cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(raw: Path, words: list[str], told: str) -> None:
    (raw.parent / "empty").mkdir()
    done = medseg("check", *words, cwd=raw.parent)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_real_scans_show_the_mask_that_is_off(reference: Path, tmp_path: Path) -> None:
    """Its origin is 0.13 mm off, which with its spacing moves the worst corner by 0.58 mm."""
    home = reference / "data/mri/spine_unf01"
    sheet = tmp_path / "samples.csv"
    image = home / "anat/sub-unf01_T1w.nii.gz"
    rows = [
        f"{name},p,{image},{home}/labels/sub-unf01_T1w_{name}-manual.nii.gz"
        for name in ("seg", "lesion")
    ]
    sheet.write_text("\n".join(["case,subject,t1,label", *rows]) + "\n")
    assert main([str(sheet), "--out", str(tmp_path / "out")]) == 1
    content = json.loads((tmp_path / "out" / "check.json").read_text())
    problems = [p for p in content["problems"] if p["check"] == "geometry"]
    assert [p["case"] for p in problems] == ["lesion"]
    assert "0.5829 mm off; spacing" in problems[0]["found"]


def test_notes_do_not_change_the_exit_code(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.zeros(SHAPE, np.float64)
    label[2:4, 2:4, 2:4] = 1.0000001
    save(raw / "a_seg.nii.gz", label)
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.2
    coarse = AFFINE @ np.diag([1, 1, 4.0, 1])
    for name in ("t1", "t2", "seg"):
        values = np.asanyarray(nib.load(raw / f"b_{name}.nii.gz").dataobj)
        save(raw / f"b_{name}.nii.gz", values, sheared)
        values = np.asanyarray(nib.load(raw / f"c_{name}.nii.gz").dataobj)
        save(raw / f"c_{name}.nii.gz", values, coarse)
    code, content = check(raw, "--labels", "disc=1")
    assert code == 0, content["problems"]
    text = capsys.readouterr().out
    assert "b, t1: the axes are sheared by" in text
    assert "spacing along S runs from 2 mm (a) to 8 mm (c)" in text
    assert len(content["notes"]) == 3
