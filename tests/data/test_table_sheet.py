"""The sample sheet as text."""

from pathlib import Path

import pytest

from medseg.data.sheet import Record, image_columns, parse, read, relative, text
from medseg.data.table import Table

GOOD = "case,subject,t1,label,split\na,p,a.nii.gz,a_seg.nii.gz,train\nb,q,b.nii.gz,,test\n"


def put(tmp_path: Path, content: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "samples.csv"
    path.write_bytes(content.encode(encoding))
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_what_spreadsheets_write_reads_the_same(
    tmp_path: Path, mark: str, encoding: str, ending: str
) -> None:
    content = GOOD.replace(",", mark).replace("\n", ending)
    records, problems = read(put(tmp_path, content, encoding), ["t1"])
    assert not problems
    assert [(r.case, r.subject, r.split) for r in records] == [
        ("a", "p", "train"),
        ("b", "q", "test"),
    ]
    assert records[0].paths == {"t1": tmp_path / "a.nii.gz"}
    assert records[0].label == tmp_path / "a_seg.nii.gz"
    assert records[1].label is None


def test_optional_columns_may_be_absent_and_others_are_kept(tmp_path: Path) -> None:
    records, _ = read(put(tmp_path, "case,t1,age\n\na , a.nii.gz,41\n,,\n"), ["t1"])
    assert records == [Record("a", "", "", {"t1": tmp_path / "a.nii.gz"}, notes={"age": "41"})]


def test_a_quoted_cell_may_hold_the_separator(tmp_path: Path) -> None:
    records, _ = read(put(tmp_path, 'case,t1\na,"x, y.nii.gz"\n'), ["t1"])
    assert records[0].paths["t1"].name == "x, y.nii.gz"


def test_a_missing_column_lists_what_is_there_and_the_nearest(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"no column 'T1w'.*case, subject, t1.*did you mean 't1'"):
        Table(path, ["T1w"])
    with pytest.raises(ValueError, match=r"no column 'case'.*did you mean 'Case'"):
        Table(put(tmp_path, GOOD.replace("case", "Case", 1)), ["t1"])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("a,p,x.nii.gz,,train", "a: duplicate case: found lines 2 and 4"),
        ("c,p,x.nii.gz,,training", "c: split: found 'training'.*write 'train'"),
        ("c,p,,,train", "c: missing channel: found no path for t1"),
        ("../c,p,x.nii.gz,,train", r"\.\./c: case name.*path separator"),
        ("c\\d,p,x.nii.gz,,train", "path separator"),
        ("c..d,p,x.nii.gz,,train", r"'\.\.'"),
        (".c,p,x.nii.gz,,train", "begins with a dot"),
        ("c" * 121 + ",p,x.nii.gz,,train", "120 bytes"),
        (",p,x.nii.gz,,train", "line 4: case name.*has no name"),
    ],
)
def test_a_bad_row_is_told_with_its_cure(tmp_path: Path, row: str, told: str) -> None:
    path = put(tmp_path, GOOD + row + "\n")
    with pytest.raises(ValueError, match=told):
        Table(path, ["t1"])


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD + "c,p,x.nii.gz,,dev\nd,p,,,\n")
    records, problems = read(path, ["t1"])
    assert [(r.case, r.split, r.faults) for r in records[2:]] == [
        ("c", "", ("split",)),
        ("d", "", ("missing channel",)),
    ]
    assert [(p.case, p.check) for p in problems] == [("c", "split"), ("d", "missing channel")]
    with pytest.raises(ValueError, match=r"(?s)2 rows need mending.*c: split.*d: missing channel"):
        Table(path, ["t1"])


@pytest.mark.parametrize("slices", ["3", "3:3", "4:2", "-1:2", "a:b", "0:1:2"])
def test_bad_slices_are_told(tmp_path: Path, slices: str) -> None:
    path = put(tmp_path, f"case,t1,slices\na,a.nii.gz,{slices}\n")
    with pytest.raises(ValueError, match="a: slices: found"):
        Table(path, ["t1"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("case,t1\n", "a header and no case"),
        ("case,t1,t1\na,b,c\n", "two columns of the name t1"),
        ("case,t1\na,b,c\n", "line 2: 3 cells under 2 columns"),
    ],
)
def test_a_sheet_that_is_none_is_told(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Table(put(tmp_path, content), ["t1"])


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        parse(path)
    with pytest.raises(FileNotFoundError, match="no sample sheet"):
        parse(tmp_path / "none.csv")


def test_a_written_sheet_reads_back_from_where_it_lies(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "x" / "y"
    raw.mkdir()
    out.mkdir(parents=True)
    records = [
        Record("a", "p", "val", {"t1": raw / "a, b.nii"}, raw / "l.nii", (0, 3), {"note": "n"}),
        Record("b", "", "", {"t1": raw / "c.nii"}, notes={"note": ""}),
    ]
    (out / "samples.csv").write_text(text(records, ["t1"], folder=out))
    found, problems = read(out / "samples.csv", ["t1"])
    assert not problems
    assert (out / "samples.csv").read_text().count(str(tmp_path)) == 0
    for one, other in zip(found, records, strict=True):
        assert one.paths["t1"].resolve() == other.paths["t1"]
        assert (one.slices, one.split, one.notes) == (other.slices, other.split, other.notes)


def test_a_relative_path_goes_up_from_where_a_linked_folder_really_is(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "deep" / "prepared"
    real.mkdir(parents=True)
    (tmp_path / "prepared").symlink_to(real)
    (tmp_path / "a.nii").write_text("x")
    found = relative(tmp_path / "a.nii", tmp_path / "prepared")
    assert (tmp_path / "prepared" / found).read_text() == "x"


def test_columns_of_images_are_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    path = put(
        tmp_path, "case,t1,series,age,label,site\na,a.nii.gz,dicom,41,l.nii,x\nb,b.nii.gz,,7,,y\n"
    )
    assert image_columns(path, [".nii", ".nii.gz"]) == ["t1", "series"]
