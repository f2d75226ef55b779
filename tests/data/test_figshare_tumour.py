"""The figshare tumour set's layout, with made-up slices written as MATLAB 7.3 writes them."""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from medseg import cli
from medseg.data.figshare_tumour import FigshareTumour, read_slice
from medseg.data.prepared import Prepared
from medseg.data.sheet import astride

SIDE = 64


def matlab(path: Path, **fields: np.ndarray | None) -> None:
    """A MATLAB 7.3 file: its header before the HDF5 part, and every matrix column by column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        place = file.create_group("cjdata") if "label" in fields else file
        for name, matrix in fields.items():
            if matrix is not None:
                place[name] = np.ascontiguousarray(matrix.T)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(512, b" "))


def tumour(side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """An image (row, column) that no turn or flip leaves alone, and a mask off its diagonal."""
    image = (100 * np.arange(side)[:, None] + np.arange(side)).astype(np.int16)
    mask = np.zeros((side, side), np.uint8)
    mask[4:8, side // 2 : side - 6] = 1
    return image, mask


def slice_file(
    path: Path,
    *,
    label: int | np.ndarray = 1,
    person: str = "100360",
    side: int = SIDE,
    **changed: object,
) -> None:
    image, mask = tumour(side)
    fields = {
        "label": np.array([[float(label)]]) if isinstance(label, int) else label,
        "PID": np.frombuffer(person.encode(), np.uint8)[None].astype(np.uint16),
        "image": image,
        "tumorBorder": np.array([[1.0], [2.0]]),
        "tumorMask": mask,
    }
    matlab(path, **(fields | changed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten patients with two slices each, in four folders; the folds are those of patients."""
    home = tmp_path / "1512427"
    for n in range(20):
        inner = home / f"brainTumorDataPublic_{n // 5}"
        slice_file(inner / f"{n + 1}.mat", label=1 + n // 2 % 3, person=f"P{n // 2}")
    matlab(home / "cvind.mat", cvind=(np.arange(20) // 2 % 5 + 1.0)[:, None])
    (home / "README.txt").write_text("about")
    return home


def test_a_viewer_shows_the_rows_and_columns_of_matlab(folder: Path, tmp_path: Path) -> None:
    image, mask = tumour()
    FigshareTumour(folder).write(tmp_path / "out")
    shown = np.asarray(Image.open(tmp_path / "out" / "0003.png"))
    np.testing.assert_array_equal(shown, image)
    labelled = np.asarray(Image.open(tmp_path / "out" / "0003_label.png"))
    np.testing.assert_array_equal(labelled, 2 * mask)


def test_a_sample_has_columns_first_and_the_value_of_its_class(folder: Path) -> None:
    data = FigshareTumour(folder)
    record = data.records()[4]
    sample = data.load(record)
    image, mask = tumour()
    assert (record.case, record.subject, record.category) == ("0005", "P2", "pituitary")
    np.testing.assert_array_equal(sample.image[0, ..., 0], image.T)
    assert sample.target is not None
    np.testing.assert_array_equal(sample.target[..., 0], 3 * mask.T)
    assert data.load(record, with_target=False).target is None


def test_both_sizes_show_the_same_field_of_view(tmp_path: Path) -> None:
    for number, side in ((1, 512), (2, 256)):
        slice_file(tmp_path / f"{number}.mat", side=side)
    large, small = (read_slice(tmp_path / f"{number}.mat") for number in (1, 2))
    assert large.spacing_mm == pytest.approx(0.49)
    assert small.spacing_mm == pytest.approx(0.98)
    assert small.grid.spacing_mm[:2] == pytest.approx((0.98, 0.98))


@pytest.mark.parametrize("test_fold", [1, 4, 5])
def test_the_published_folds_are_test_and_val(folder: Path, test_fold: int) -> None:
    records = FigshareTumour(folder, test_fold=test_fold).records()
    fold = {f"{n + 1:04d}": n // 2 % 5 + 1 for n in range(20)}
    names = {test_fold: "test", test_fold % 5 + 1: "val"}
    assert [r.split for r in records] == [names.get(fold[r.case], "train") for r in records]
    assert not astride(records)


def test_without_published_folds_patients_are_kept_together(folder: Path) -> None:
    (folder / "cvind.mat").unlink()
    held = []
    for test_fold in (1, 2, 3, 4, 5):
        with pytest.warns(UserWarning, match=r"no cvind\.mat, the published folds"):
            records = FigshareTumour(folder, test_fold=test_fold).records()
        assert not astride(records)
        assert {r.split for r in records} == {"train", "val", "test"}
        held += [r.case for r in records if r.split == "test"]
    assert sorted(held) == [f"{n + 1:04d}" for n in range(20)]


def test_too_few_patients_are_left_to_folds(tmp_path: Path) -> None:
    slice_file(tmp_path / "1.mat")
    with pytest.warns(UserWarning, match=r"1 patients, too few for 5 folds"):
        assert FigshareTumour(tmp_path).records()[0].split == ""


def test_values_below_zero_raise_the_whole_slice(tmp_path: Path) -> None:
    image = tumour()[0] - 7
    slice_file(tmp_path / "1.mat", image=image)
    np.testing.assert_array_equal(read_slice(tmp_path / "1.mat").pixels, image.T + 7)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label": np.array([[4.0]])}, r"the label is 4; it must be 1, 2 or 3"),
        ({"tumorMask": np.zeros((9, 9), np.uint8)}, r"tumorMask \(9, 9\)"),
        ({"image": np.full((SIDE, SIDE), np.nan)}, "no whole numbers"),
        ({"image": np.full((SIDE, SIDE), 0.5)}, "no whole numbers"),
        ({"tumorMask": None}, r"no tumorMask in cjdata .*holds PID, image"),
        ({"PID": np.zeros((1, 3), np.uint16)}, r"PID holds \[0, 0, 0\]"),
    ],
)
def test_a_damaged_slice_is_told(tmp_path: Path, changed: dict, said: str) -> None:
    slice_file(tmp_path / "1.mat", **changed)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said):
        warnings.simplefilter("ignore", UserWarning)
        data = FigshareTumour(tmp_path)
        data.load(data.records()[0])


def test_files_that_are_no_slices_are_told(tmp_path: Path) -> None:
    path = tmp_path / "1.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(600, b"\0"))
    with pytest.raises(ValueError, match=r"older format \(5\).*-v7\.3"):
        FigshareTumour(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no MATLAB 7\.3 file, or cut short"):
        FigshareTumour(tmp_path)
    matlab(path, other=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"no group cjdata \(it holds other\)"):
        FigshareTumour(tmp_path)


def test_faults_of_the_folder_are_told_with_a_cure(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds 1\.mat to 3064\.mat"):
        FigshareTumour(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no slice; wanted figshare 1512427"):
        FigshareTumour(tmp_path / "empty")
    (tmp_path / "empty" / "data.zip").touch()
    with pytest.raises(ValueError, match=r"data\.zip not unpacked yet"):
        FigshareTumour(tmp_path / "empty")
    (folder / "brainTumorDataPublic_1-766.zip").touch()
    assert len(FigshareTumour(folder).records()) == 20
    (folder / "brainTumorDataPublic_767-1532.zip").touch()
    with pytest.raises(ValueError, match=r"Public_767-1532\.zip not unpacked yet"):
        FigshareTumour(folder)
    (folder / "brainTumorDataPublic_767-1532.zip").unlink()
    with pytest.raises(ValueError, match="test_fold is 0; it must be 1 to 5"):
        FigshareTumour(folder, test_fold=0)
    matlab(folder / "cvind.mat", cvind=np.ones((19, 1)))
    with pytest.raises(ValueError, match=r"19 numbers of folds, and slices go up to 20"):
        FigshareTumour(folder)
    slice_file(folder / "again" / "1.mat")
    with pytest.raises(ValueError, match="are the same slice; remove one"):
        FigshareTumour(folder)


@pytest.mark.parametrize("recipe", ["figshare_tumour", "figshare_tumour_classes"])
def test_prepared_slices_have_their_class_split_and_size(
    folder: Path, tmp_path: Path, recipe: str
) -> None:
    out = tmp_path / "prepared"
    words = [f"data={recipe}", "data.size=32", "--in", str(folder), "--out", str(out)]
    assert cli.main(["prepare", *words, "--workers", "1"]) == 0
    prepared = Prepared(out)
    first, last = prepared.records()[0], prepared.records()[-1]
    assert (first.subject, first.split, last.split) == ("P0", "test", "train")
    sample = prepared.load(first)
    assert sample.image.shape == (1, 32, 32, 1)
    assert sample.space.spacing_mm[:2] == pytest.approx((0.49 * 16, 0.49 * 16))
    if recipe == "figshare_tumour":
        assert first.foreground == {"meningioma": 26, "glioma": 0, "pituitary": 0}
        assert first.category is None
    else:
        assert [r.category for r in prepared.records()[:6]] == [0, 0, 1, 1, 2, 2]
