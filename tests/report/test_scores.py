import pytest

from medseg.report.scores import parts, read_rows, write_rows

ROWS = [
    {"case": "a", "structure": "disc", "dice": 0.123456789, "hd95_mm": 2.0, "status": "ok"},
    {"case": "b", "structure": "disc", "dice": None, "hd95_mm": float("nan"), "status": "absent"},
]


def test_rows_come_back_as_they_were_written(tmp_path):
    write_rows(tmp_path / "scores.csv", ROWS, metrics=("dice", "hd95_mm"))
    metrics, rows = read_rows(tmp_path / "scores.csv")
    assert metrics == ("dice", "hd95_mm")
    assert rows[0]["dice"] == pytest.approx(ROWS[0]["dice"], rel=1e-5)
    assert rows[1] == {**ROWS[1], "hd95_mm": None}


@pytest.mark.parametrize("name", ["=1+1", "@cmd", "-2", "+x", "a,b", 'say "a"', "'=x", "ümlaut"])
def test_a_spreadsheet_takes_no_name_for_a_formula_and_names_survive(tmp_path, name):
    write_rows(tmp_path / "scores.csv", [{**ROWS[0], "case": name}], metrics=("dice",))
    line = (tmp_path / "scores.csv").read_text().splitlines()[1]
    assert not line.lstrip('"').startswith(("=", "@", "+", "-"))
    assert read_rows(tmp_path / "scores.csv")[1][0]["case"] == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with nothing"),
        ("case,dice\n", "begins with case,dice"),
        ("case,structure,dice,status\na,b,0.5\n", "line 2: 3 cells under 4"),
        ("case,structure,dice,status\na,b,high,ok\n", "dice is 'high'"),
        ("case,structure,dice,status\na,b,1,ok\na,b,1,ok\n", "scores b of case a twice"),
    ],
)
def test_a_table_of_another_kind_is_told(tmp_path, text, message):
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        read_rows(tmp_path / "scores.csv")


def test_shards_must_be_complete_and_of_one_kind(tmp_path):
    assert parts(tmp_path) == []
    (tmp_path / "scores.1-of-2.csv").touch()
    with pytest.raises(FileNotFoundError, match="shard 2/2"):
        parts(tmp_path)
    (tmp_path / "scores.2-of-2.csv").touch()
    assert [p.name for p in parts(tmp_path)] == ["scores.1-of-2.csv", "scores.2-of-2.csv"]
    (tmp_path / "scores.1-of-3.csv").touch()
    with pytest.raises(ValueError, match="mixes parts"):
        parts(tmp_path)
    (tmp_path / "scores.csv").touch()
    with pytest.raises(ValueError, match=r"holds scores\.csv and parts"):
        parts(tmp_path)
