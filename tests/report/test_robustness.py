from types import SimpleNamespace

import pytest

from medseg.report.robustness import alike, charts, means, read, write


def row(case, level, dice, repeat=0, group="heart", hd_mm=5.0):
    about = {"kind": "occlusion", "level": level, "case": case, "repeat": repeat}
    return {**about, "group": group, "dice": dice, "hd_mm": hd_mm}


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row("=a", 0.5, 0.25), row("b", 64.0, 0.5, hd_mm=None)]
    write(tmp_path / "robustness.csv", rows)
    assert read(tmp_path / "robustness.csv") == rows
    (tmp_path / "robustness.csv").write_text("case\n")
    with pytest.raises(ValueError, match="does not begin with kind"):
        read(tmp_path / "robustness.csv")


def test_repeats_are_averaged_before_cases():
    rows = [row("a", 0.0, 0.2), row("a", 0.0, 0.4, repeat=1), row("b", 0.0, 0.9)]
    found = {entry["group"]: entry for entry in means(rows, {"a": "p", "b": "q"})}
    assert found["heart"]["dice"]["mean"] == found["mean"]["dice"]["mean"] == pytest.approx(0.6)
    assert found["heart"]["n"] == 2
    assert found["heart"]["dice"]["low"] == pytest.approx(0.3)


def test_runs_share_the_axes_of_a_kind():
    one = means([row(c, level, 0.9) for c in "ab" for level in (0.0, 32.0)], {})
    drawn = charts({"net": one, "other <b>": one, "bare": []})
    assert [chart["kind"] for chart in drawn] == ["Occlusion", "Occlusion"]
    assert drawn[0]["svg"].count("<polyline") == drawn[0]["svg"].count("<polygon") == 2
    assert "other &lt;b&gt;" in drawn[0]["svg"]
    assert "epoch" not in drawn[0]["svg"]
    assert not charts({"net": means([row("a", 0.0, 0.9)], {})})


def test_runs_are_compared_on_the_groups_that_all_of_them_have() -> None:
    """A run that also draws hard organs is not the worse for it."""

    def run(**dice):
        about = {"kind": "gamma", "level": 1.0, "repeat": 0, "hd_mm": 1.0}
        rows = [
            {**about, "case": case, "group": group, "dice": value}
            for group, value in dice.items()
            for case in "abc"
        ]
        return SimpleNamespace(perturbed=rows, summary={})

    found = alike({"one": run(lungs=0.9, clavicles=0.3), "two": run(lungs=0.8), "none": run()})
    mean = {n: [e["dice"]["mean"] for e in f if e["group"] == "mean"] for n, f in found.items()}
    assert mean == {"one": [pytest.approx(0.9)], "two": [pytest.approx(0.8)], "none": []}
