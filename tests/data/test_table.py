"""Cases of a sample sheet, read from disk."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.folds import folds
from medseg.data.table import Record, Table, coarsest_axis, gather
from medseg.geometry.grid import Grid

SAMPLES = Path(__file__).resolve().parents[2] / "data/samples/spine_mt"
AFFINE = np.diag([-1.0, 1.0, 3.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a_t1", "a_t2", "b_t1", "b_t2"):
        save(tmp_path / f"{name}.nii.gz", rng.normal(100, 9, (6, 5, 4)).astype(np.float32))
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4, 2, 1] = 1
    label[2:4, 3, 2] = 255
    save(tmp_path / "label.nii.gz", label)
    path = tmp_path / "samples.csv"
    path.write_text(
        "case,subject,t1,t2,label,split,age\n"
        "a,p,a_t1.nii.gz,a_t2.nii.gz,label.nii.gz,train,41\n"
        "b,q,b_t1.nii.gz,b_t2.nii.gz,,test,\n"
    )
    return path


def test_channels_come_in_the_recipes_order(sheet: Path) -> None:
    table = Table(sheet, ["t2", "t1"], labels={"disc": [1, 255]})
    sample = table.load(table.records()[0])
    assert sample.channels == ("t2", "t1")
    second = np.asarray(nib.load(sheet.parent / "a_t2.nii.gz").dataobj)
    np.testing.assert_array_equal(sample.image[0], second)
    assert sample.sources["t2"].endswith("a_t2.nii.gz")
    assert (sample.subject, sample.split) == ("p", "train")
    assert sample.meta["present"] == (True, True)


def test_labels_become_class_indices_and_raw_keeps_them(sheet: Path) -> None:
    table = Table(sheet, ["t1"], labels={"upper": [255], "lower": [1]})
    record = table.records()[0]
    target = table.load(record).target
    assert target is not None
    assert target.dtype == np.uint8
    assert target[2, 3, 2] == 1
    assert target[2, 2, 1] == 2
    raw = table.load(record, raw=True).target
    assert raw is not None
    assert sorted(np.unique(raw)) == [0, 1, 255]
    assert table.load(record, with_target=False).target is None
    assert table.load(table.records()[1]).target is None


def test_a_value_without_a_name_is_an_error_with_its_cure(sheet: Path) -> None:
    table = Table(sheet, ["t1"], labels={"disc": [1]})
    with pytest.raises(ValueError, match=r"case a.*value 255.*data\.labels\.disc=\[1,255\]"):
        table.load(table.records()[0])


def test_a_channel_on_another_grid_is_an_error(sheet: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 0.02
    save(sheet.parent / "a_t2.nii.gz", np.ones((6, 5, 4), np.float32), moved)
    table = Table(sheet, ["t1", "t2"])
    with pytest.raises(ValueError, match=r"case a: t2 .*0\.02 mm away from t1.*medseg check"):
        table.load(table.records()[0])


def test_a_volume_is_chosen_of_those_files_that_hold_several(sheet: Path) -> None:
    series = np.random.default_rng(1).normal(100, 9, (6, 5, 4, 3)).astype(np.float32)
    save(sheet.parent / "a_t2.nii.gz", series)
    table = Table(sheet, channels=["t1", "t2"], volume=2)
    first, second = table.records()
    np.testing.assert_array_equal(table.load(first).image[1], series[..., 2])
    with pytest.raises(ValueError, match=r"case b, t1: .*holds 1 volume, so --volume 2"):
        table.load(second)
    table.volume = 3
    with pytest.raises(ValueError, match=r"case a, t2: .*--volume 3.*choose from 0 to 2"):
        table.load(first)


def test_a_label_of_another_shape_is_an_error(sheet: Path) -> None:
    save(sheet.parent / "label.nii.gz", np.ones((6, 5, 3), np.uint8))
    table = Table(sheet, ["t1"])
    with pytest.raises(ValueError, match=r"case a: label .*\(6, 5, 3\) and t1 has \(6, 5, 4\)"):
        table.load(table.records()[0])


def test_noise_below_a_hundredth_of_a_millimetre_passes(sheet: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 0.009
    save(sheet.parent / "a_t2.nii.gz", np.ones((6, 5, 4), np.float32), moved)
    table = Table(sheet, ["t1", "t2"])
    assert table.load(table.records()[0]).image.shape == (2, 6, 5, 4)


def test_a_missing_file_names_case_and_channel(sheet: Path) -> None:
    (sheet.parent / "b_t1.nii.gz").unlink()
    table = Table(sheet, ["t1"])
    with pytest.raises(FileNotFoundError, match=r"case b: t1 is not there.*b_t1\.nii\.gz"):
        table.load(table.records()[1])


def test_a_damaged_file_names_case_and_channel(sheet: Path) -> None:
    path = sheet.parent / "b_t1.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    table = Table(sheet, ["t1"])
    with pytest.raises(ValueError, match="case b, t1: "):
        table.load(table.records()[1])


def test_an_optional_channel_is_zeros_and_said_so(sheet: Path) -> None:
    table = Table(sheet, ["t1", "flair"], optional=True)
    sample = table.load(table.records()[0])
    assert sample.meta["present"] == (True, False)
    np.testing.assert_array_equal(sample.image[1], 0)


def test_slices_count_along_the_canonical_axis_in_the_files_own_order(tmp_path: Path) -> None:
    """The file's first axis runs downwards: slice 0 is its own first one."""
    volume = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -3, 1, 1, 1
    save(tmp_path / "x.nii.gz", volume, affine)
    sheet = tmp_path / "samples.csv"
    sheet.write_text("case,t1,label,slices\nx,x.nii.gz,x.nii.gz,0:3\n")
    for axis in (2, None):
        table = Table(sheet, ["t1"], slice_axis=axis)
        sample = table.load(table.records()[0])
        np.testing.assert_array_equal(sample.image[0], volume[:3])
        assert sample.target is not None
        assert sample.target.shape == (3, 6, 5)
        np.testing.assert_allclose(sample.space.affine, affine)
    table = Table(sheet, ["t1"], slice_axis=0)
    np.testing.assert_array_equal(table.load(table.records()[0]).image[0], volume[:, :3])


def test_slices_know_where_they_lie() -> None:
    table = Table(SAMPLES, ["mt0"], slice_axis=2, labels={"cord": [1]})
    whole, part = (Table.of(table.records(), SAMPLES, channels=["mt0"]) for _ in range(2))
    record = table.records()[1]
    full = whole.load(Record(record.case, "", "", record.paths))
    cut = part.load(record)
    first = full.space.to_world(np.array([0.0, 0.0, 3.0]))
    np.testing.assert_allclose(cut.space.to_world(np.zeros(3)), first)


def test_slices_beyond_the_volume_are_an_error(sheet: Path) -> None:
    sheet.write_text("case,t1,slices\na,a_t1.nii.gz,2:5\n")
    table = Table(sheet, ["t1"])
    with pytest.raises(ValueError, match=r"case a: slices 2:5.*has 4 along axis 2"):
        table.load(table.records()[0])


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1, 1, 1), 2), ((3, 1, 1), 0), ((2, 2, 1), 1), ((1, 1.0005, 1), 2)]
)
def test_the_coarsest_axis_and_the_last_of_equals(spacing: tuple[float, ...], axis: int) -> None:
    assert coarsest_axis(Grid((5, 5, 5), np.diag([*spacing, 1.0]))) == axis


def test_the_shipped_sample_reads_in_three_parts() -> None:
    table = Table(SAMPLES, ["mt0", "mt1", "t1w"], labels={"cord": [1]}, slice_axis=2)
    counts = [table.load(record) for record in table.records()]
    assert [sample.image.shape[-1] for sample in counts] == [3, 1, 1]
    assert [int((s.target == 1).sum()) for s in counts if s.target is not None] == [285, 105, 112]
    assert counts[0].space.axcodes == "LAS"


def test_a_folder_of_images_is_a_table_of_one_channel(tmp_path: Path) -> None:
    for name in ("one", "sub/two"):
        save(tmp_path / f"{name}.nii.gz", np.ones((3, 3, 3), np.float32))
    table = Table(tmp_path, ["t1"])
    assert [record.case for record in table.records()] == ["one", "sub_two"]
    with pytest.raises(ValueError, match="need a sheet"):
        Table(tmp_path, ["t1", "t2"])


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="holds no image"):
        Table(tmp_path, ["t1"])


def test_two_files_of_one_stem_are_an_error(tmp_path: Path) -> None:
    for name in ("x.nii", "x.nii.gz"):
        save(tmp_path / name, np.ones((3, 3, 3), np.float32))
    with pytest.raises(ValueError, match=r"x\.nii.*would both be the case 'x'"):
        gather(tmp_path)


@pytest.mark.parametrize("channels", [[], ["t1", "t1"], ["label"]])
def test_channels_that_cannot_be_columns_are_refused(sheet: Path, channels: list[str]) -> None:
    with pytest.raises(ValueError, match="channel"):
        Table(sheet, channels)


def people(count: int, scans: int = 2) -> list[Record]:
    return [Record(f"c{p}{s}", f"p{p}", "", {}) for p in range(count) for s in range(scans)]


def test_folds_keep_a_subject_together_and_hold_every_case_out_once() -> None:
    records = [*people(7), Record("alone", "", "", {}), Record("t", "pt", "test", {})]
    held: list[str] = []
    for fold in range(4):
        split = folds(records, 4, fold=fold)
        assert [r.case for r in split] == [r.case for r in records]
        assert split[-1].split == "test"
        val = {r.subject for r in split if r.split == "val"} - {""}
        assert not val & {r.subject for r in split if r.split == "train"}
        held += [r.case for r in split if r.split == "val"]
        assert 3 <= sum(r.split == "val" for r in split) <= 4
    assert sorted(held) == sorted(r.case for r in records if r.split != "test")


def test_folds_do_not_depend_on_the_rows_order() -> None:
    forward = {r.case: r.split for r in folds(people(9), 3, fold=1)}
    backward = {r.case: r.split for r in folds(people(9)[::-1], 3, fold=1)}
    assert forward == backward


def test_a_subject_of_the_test_split_is_no_fold() -> None:
    records = [Record("a", "p", "train", {}), Record("b", "q", "val", {})]
    assert [r.split for r in folds(records, 0, fold=0)] == ["train", "val"]
    with pytest.raises(ValueError, match=r"data\.folds=3, but there are 2 subjects"):
        folds(records, 3, fold=0)
    with pytest.raises(ValueError, match=r"data\.fold=2 of 2 folds"):
        folds(records, 2, fold=2)
