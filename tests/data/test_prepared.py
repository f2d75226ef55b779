"""Prepared folders: what is in them, what is kept, what is refused."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.intensity import normalise
from medseg.data.preparation import prepare_dataset
from medseg.data.prepared import Prepared
from medseg.data.table import Record, Table
from medseg.geometry.resample import Passage

SAMPLES = Path(__file__).resolve().parents[2] / "data/samples/spine_mt"
CHANNELS = ["mt0", "mt1", "t1w"]
RECIPE = {
    "data": "cord",
    "channels": CHANNELS,
    "labels": {"cord": [1]},
    "instances": [],
    "slice_axis": 2,
    "intensity": "zscore",
    "spacing_mm": None,
}


def cord(path: Path = SAMPLES) -> Table:
    return Table(path, CHANNELS, labels={"cord": [1]}, slice_axis=2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    prepare_dataset(cord(), RECIPE, out=tmp_path / "p", workers=1)
    return tmp_path / "p"


def folders(out: Path) -> set[str]:
    return {path.name for path in (out / "cases").iterdir()}


def test_a_prepared_case_is_the_raw_one_on_canonical_axes(out: Path) -> None:
    prepared, table = Prepared(out), cord()
    for record, raw in zip(prepared.records(), table.records(), strict=True):
        sample, source = prepared.load(record), table.load(raw)
        assert isinstance(sample.image, np.memmap)
        assert sample.space.axcodes == "RAS"
        passage = Passage.to(source.space)
        np.testing.assert_array_equal(
            sample.image, normalise(passage.image(source.image), "zscore")[0]
        )
        assert source.target is not None
        np.testing.assert_array_equal(sample.target, passage.labels(source.target))
        np.testing.assert_allclose(sample.space.affine, passage.working.affine)
        assert (record.case, record.subject, record.split) == (raw.case, raw.subject, raw.split)
        assert record.slices == raw.slices
        assert record.native["shape"] == list(source.space.shape)
        assert set(record.statistics) == set(CHANNELS)
        assert record.present == (True, True, True)
    assert prepared.meta["labels"] == {"cord": [1]}
    assert prepared.meta["slice_axis"] == 2


def test_spacing_is_reached_and_the_field_of_view_kept(tmp_path: Path) -> None:
    recipe = {**RECIPE, "spacing_mm": [1.6875, 1.6875, None], "intensity": "percentile"}
    prepare_dataset(cord(), recipe, out=tmp_path, workers=1)
    sample = Prepared(tmp_path).load(Prepared(tmp_path).records()[0])
    assert sample.image.shape == (3, 20, 20, 3)
    assert sample.image.min() == 0
    assert sample.image.max() == 1
    assert sample.target is not None
    assert set(np.unique(sample.target)) == {0, 1}


def test_the_slice_axis_is_settled_by_the_coarsest_spacing(tmp_path: Path) -> None:
    prepare_dataset(cord(), {**RECIPE, "slice_axis": None}, out=tmp_path, workers=1)
    assert Prepared(tmp_path).meta["slice_axis"] == 2


def test_the_sheet_in_the_folder_leads_to_the_raw_files(out: Path) -> None:
    again = cord(out / "samples.csv")
    raw = cord()
    for one, other in zip(again.records(), raw.records(), strict=True):
        assert (one.case, one.slices, one.split) == (other.case, other.slices, other.split)
        np.testing.assert_array_equal(again.load(one).image, raw.load(other).image)


def test_a_second_time_every_case_is_kept(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("image.npy")}
    counts = prepare_dataset(cord(), RECIPE, out=out, workers=1)
    assert (counts["prepared"], counts["kept"]) == (0, 3)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("image.npy")}


def test_another_recipe_prepares_anew_and_leaves_nothing_behind(out: Path) -> None:
    before, mark = folders(out), Prepared(out).fingerprint
    counts = prepare_dataset(cord(), {**RECIPE, "intensity": "none"}, out=out, workers=1)
    assert counts["prepared"] == 3
    assert not before & folders(out)
    assert len(folders(out)) == 3
    assert Prepared(out).fingerprint != mark


def copied(tmp_path: Path) -> Path:
    for path in SAMPLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_only_a_case_whose_file_changed_is_prepared_again(tmp_path: Path) -> None:
    raw = copied(tmp_path)
    sheet = raw / "samples.csv"
    rows = sheet.read_text().replace(",mt1.nii.gz", ",b.nii.gz", 1)
    sheet.write_text(rows)
    image = nib.load(raw / "mt1.nii.gz")
    nib.save(image, raw / "b.nii.gz")
    out = tmp_path / "p"
    prepare_dataset(cord(raw), RECIPE, out=out, workers=1)
    mark = Prepared(out).fingerprint
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), raw / "b.nii.gz")
    counts = prepare_dataset(cord(raw), RECIPE, out=out, workers=1)
    assert (counts["prepared"], counts["kept"]) == (1, 2)
    assert Prepared(out).fingerprint != mark
    assert len(folders(out)) == 3


def test_a_new_split_moves_no_array(tmp_path: Path) -> None:
    raw = copied(tmp_path)
    out = tmp_path / "p"
    prepare_dataset(cord(raw), RECIPE, out=out, workers=1)
    sheet = raw / "samples.csv"
    sheet.write_text(sheet.read_text().replace(",val,", ",test,"))
    mark = Prepared(out).fingerprint
    counts = prepare_dataset(cord(raw), RECIPE, out=out, workers=1)
    assert counts["kept"] == 3
    assert [record.split for record in Prepared(out).records()] == ["train", "test", "test"]
    assert Prepared(out).fingerprint != mark


def test_shards_write_their_own_parts_and_are_read_together(out: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    prepare_dataset(cord(), RECIPE, out=parts, shard=(2, 2), workers=1)
    with pytest.raises(FileNotFoundError, match=r"shard 1/2.*--shard 1/2"):
        Prepared(parts)
    prepare_dataset(cord(), RECIPE, out=parts, shard=(1, 2), workers=1)
    whole, joined = Prepared(out), Prepared(parts)
    assert [r.case for r in joined.records()] == [r.case for r in whole.records()]
    assert joined.fingerprint == whole.fingerprint
    prepare_dataset(cord(), RECIPE, out=parts, shard=(1, 1), workers=1)
    assert [path.name for path in (parts / "index").iterdir()] == ["1-of-1.json"]
    assert Prepared(parts).fingerprint == whole.fingerprint


def test_a_shard_of_another_recipe_is_refused_until_it_is_run_again(tmp_path: Path) -> None:
    for shard in ((1, 2), (2, 2)):
        prepare_dataset(cord(), RECIPE, out=tmp_path, shard=shard, workers=1)
    other = {**RECIPE, "intensity": "none"}
    prepare_dataset(cord(), other, out=tmp_path, shard=(1, 2), workers=1)
    with pytest.raises(ValueError, match=r"another recipe.*--shard 2/2"):
        Prepared(tmp_path)
    prepare_dataset(cord(), other, out=tmp_path, shard=(2, 2), workers=1)
    assert len(Prepared(tmp_path).records()) == 3
    assert len(folders(tmp_path)) == 3


def test_more_shards_than_cases_leave_an_empty_part(tmp_path: Path) -> None:
    for i in range(1, 5):
        prepare_dataset(cord(), RECIPE, out=tmp_path, shard=(i, 4), workers=1)
    assert len(Prepared(tmp_path).records()) == 3


def test_leftovers_of_a_killed_run_are_removed(out: Path) -> None:
    (out / "cases" / ".part-xyz-cord-a").mkdir()
    prepare_dataset(cord(), RECIPE, out=out, workers=1)
    assert len(folders(out)) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"intensity": "zscores"}, r"data\.intensity=zscores.*zscore, percentile, scale, rms, none"),
        ({"spacing_mm": [1, 1]}, "three positive millimetres"),
        ({"spacing_mm": [1, 1, -1]}, "three positive millimetres"),
        ({"instances": ["disc"]}, r"data\.instances names 'disc'"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path: Path, change: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        prepare_dataset(cord(), {**RECIPE, **change}, out=tmp_path, workers=1)


def test_every_missing_file_is_named_before_work_begins(tmp_path: Path) -> None:
    raw = copied(tmp_path)
    (raw / "mt1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)3 files are missing.*case cord-a.*cord-c"):
        prepare_dataset(cord(raw), RECIPE, out=tmp_path / "p", workers=1)
    assert not (tmp_path / "p" / "prepared.json").exists()


def test_voxels_that_are_no_numbers_name_case_and_channel(tmp_path: Path) -> None:
    raw = copied(tmp_path)
    image = nib.load(raw / "t1w.nii.gz")
    values = np.asarray(image.dataobj, dtype=np.float32)
    values[3, 3, :] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), raw / "t1w.nii.gz")
    with pytest.raises(ValueError, match="case cord-a, t1w: 3 voxels are NaN"):
        prepare_dataset(cord(raw), RECIPE, out=tmp_path / "p", workers=1)
    assert not (tmp_path / "p").exists()


def test_a_failed_run_keeps_the_earlier_one(out: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    copied(raw)
    (raw / "mt0_seg.nii.gz").write_bytes(b"broken")
    mark = Prepared(out).fingerprint
    with pytest.raises(ValueError, match="case cord-a, label"):
        prepare_dataset(cord(raw), RECIPE, out=out, workers=1)
    prepared = Prepared(out)
    assert prepared.fingerprint == mark
    assert prepared.load(prepared.records()[0]).image.shape == (3, 40, 40, 3)


def test_a_damaged_case_says_what_to_do(out: Path) -> None:
    prepared = Prepared(out)
    record = prepared.records()[0]
    (record.folder / "image.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"case cord-a cannot be read.*medseg prepare"):
        prepared.load(record)


def test_a_folder_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no prepared data"):
        Prepared(tmp_path)
    (tmp_path / "prepared.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="another format"):
        Prepared(tmp_path)


class Made:
    """A dataset that writes itself: one case, a number of times counted in the folder."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.written = 0

    def records(self) -> list[Record]:
        return [Record("m", "m", "train", {})]

    def write(self, folder: Path) -> Path:
        self.written += 1
        image = np.random.default_rng(self.value).normal(9, 1, (5, 5, 5)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "m.nii.gz")
        sheet = folder / "samples.csv"
        sheet.write_text("case,subject,t1,label,split\nm,m,m.nii.gz,,train\n")
        return sheet


def test_a_generator_writes_its_files_once_and_anew_for_new_arguments(tmp_path: Path) -> None:
    recipe = {"channels": ["t1"], "source": {"value": 1}}
    made = Made(1)
    prepare_dataset(made, recipe, out=tmp_path, workers=1)
    prepare_dataset(made, recipe, out=tmp_path, workers=1)
    assert made.written == 1
    assert (tmp_path / "raw" / "m.nii.gz").exists()
    mark = Prepared(tmp_path).fingerprint
    prepare_dataset(Made(2), {**recipe, "source": {"value": 2}}, out=tmp_path, workers=1)
    assert Prepared(tmp_path).fingerprint != mark
    assert Table(tmp_path / "samples.csv", ["t1"]).records()[0].paths["t1"].exists()


def test_unlabelled_cases_have_no_target(tmp_path: Path) -> None:
    prepare_dataset(Made(1), {"channels": ["t1"], "source": {}}, out=tmp_path, workers=1)
    prepared = Prepared(tmp_path)
    assert prepared.load(prepared.records()[0]).target is None
    assert prepared.records()[0].label is None
