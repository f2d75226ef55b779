"""Predicted classes against a sheet's: rows, means, and what must not go unsaid."""

import csv
import json

import numpy as np
import pytest
from named import CLASSES, predicted, sheet
from scored import summary, table

from medseg.cli import main

SHARES = {
    "a": (0.7, 0.2, 0.1),
    "b": (0.6, 0.3, 0.1),
    "c": (0.2, 0.7, 0.1),
    "d": (0.1, 0.8, 0.1),
    "e": (0.5, 0.4, 0.1),
    "f": (0.1, 0.3, 0.6),
}
TRUE = dict(zip("abcdef", ("glioma",) * 3 + ("meningioma",) * 2 + ("none",), strict=True))


@pytest.fixture
def study(tmp_path):
    """Six test cases of five people, all predicted, and one training case."""
    people = dict(zip("abcdef", ("p1", "p1", "p2", "p3", "p4", "p5"), strict=True))
    rows = [(case, people[case], TRUE[case], "test") for case in "abcdef"]
    sheet(tmp_path, [*rows, ("t", "p9", "none", "train")])
    for case, shares in SHARES.items():
        predicted(tmp_path / "predictions", case, shares)
    return tmp_path


def evaluate(folder, *options, out="out", reference="samples.csv"):
    return main(
        ["evaluate", "--in", str(folder / "predictions"), "--reference", str(folder / reference),
         "--out", str(folder / out), "--split", "test", *options]
    )  # fmt: skip


def test_a_case_is_a_row_under_its_true_class(study, capsys):
    assert evaluate(study) == 0
    with (study / "out/scores.csv").open() as stream:
        header = next(csv.reader(stream))
    shares = [f"p_{name}" for name in CLASSES]
    assert header == [
        "case", "structure", "correct", "probability", "brier", "nll", *shares, "status",
    ]  # fmt: skip
    rows = table(study / "out/scores.csv")
    assert dict(rows.keys()) == TRUE
    assert [float(rows[key]["correct"]) for key in rows] == [1, 1, 0, 1, 0, 1]
    wrong = rows["c", "glioma"]
    assert float(wrong["probability"]) == 0.2
    assert float(wrong["brier"]) == pytest.approx(0.8**2 + 0.7**2 + 0.1**2)
    assert float(wrong["nll"]) == pytest.approx(-np.log(0.2), abs=1e-5)
    assert [float(wrong[name]) for name in shares] == list(SHARES["c"])
    assert "6 cases, balanced accuracy 0.722, macro f1 0.722" in capsys.readouterr().out
    assert not (study / "out/pictures").exists()


def test_the_summary_tells_rates_confusions_and_calibration(study):
    evaluate(study)
    told = summary(study)
    found = told["classification"]
    assert found["classes"] == list(CLASSES)
    assert found["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]
    overall = found["overall"]
    assert overall["accuracy"]["mean"] == pytest.approx(4 / 6)
    assert overall["accuracy"]["low"] is None, "one class has a single case: no draw would differ"
    assert overall["balanced_accuracy"]["mean"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["per_class"]["glioma"]["n"] == 3
    assert found["per_class"]["glioma"]["recall"]["mean"] == pytest.approx(2 / 3)
    assert sum(one["n"] for one in found["reliability"]) == 6
    assert (told["task"], told["n_cases"], told["n_subjects"]) == ("classify", 6, 5)
    assert told["tolerance_mm"] is None
    assert "certain and wrong" in told["definitions"]["failed"]
    assert told["structures"]["glioma"]["metrics"]["correct"]["mean"] == pytest.approx(2 / 3)


def test_a_missing_prediction_fails_and_counts_as_certain_and_wrong(study, capsys):
    (study / "predictions/f.json").unlink()
    assert evaluate(study) == 1
    row = table(study / "out/scores.csv")["f", "none"]
    assert (row["status"], float(row["correct"]), float(row["brier"])) == ("failed", 0, 2)
    assert row["p_none"] == ""
    told = summary(study)
    assert told["classification"]["confusion"][2] == [0, 0, 0, 1]
    assert told["failures"] == [{"case": "f", "reason": "there is no prediction of this name"}]
    assert "case f failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "incomplete"}, "killed while it wrote"),
        ({"status": "stale", "error": "the files are of an earlier call"}, "earlier call"),
        ({"probabilities": {"glioma": 0.7, "meningioma": 0.7, "none": 0.1}}, "sum to 1"),
        ({"class": "cyst"}, "no class of the model"),
    ],
)
def test_a_prediction_that_cannot_be_used_says_why(study, change, said):
    predicted(study / "predictions", "a", SHARES["a"], **change)
    assert evaluate(study) == 1
    (failure,) = summary(study)["failures"]
    assert failure["case"] == "a"
    assert said in failure["reason"]


def test_without_any_prediction_the_sheets_own_classes_are_scored(study):
    for path in (study / "predictions").iterdir():
        path.unlink()
    assert evaluate(study) == 1
    told = summary(study)["classification"]
    assert told["classes"] == sorted(CLASSES)
    assert told["overall"]["accuracy"]["mean"] == 0


def test_a_class_that_the_model_does_not_know_is_named_with_its_neighbour(study, capsys):
    sheet(study, [("a", "p1", "Glioma", "test")])
    assert evaluate(study) == 1
    said = capsys.readouterr().err
    assert "class 'Glioma' (case a)" in said
    assert "did you mean 'glioma'?" in said


def test_models_of_different_classes_do_not_mix(study, capsys):
    predicted(study / "predictions", "b", (0.5, 0.5), classes=("glioma", "none"))
    assert evaluate(study) == 1
    assert "different classes (case a and case b)" in capsys.readouterr().err


def test_a_sheet_without_classes_is_refused(study, capsys):
    (study / "bare.csv").write_text("case,t1,split\na,a.nii.gz,test\n")
    assert evaluate(study, reference="bare.csv") == 1
    assert "column `class`" in capsys.readouterr().err


def test_cases_without_a_class_and_strangers_are_told(study):
    rows = [(case, "", TRUE[case] if case != "b" else "", "test") for case in "abcde"]
    sheet(study, rows)
    assert evaluate(study) == 0
    told = summary(study)["warnings"]
    assert "cases without a class: b" in told
    assert "predictions without a reference: f" in told


def test_shards_together_are_the_whole(study):
    evaluate(study)
    for part in ("1/2", "2/2"):
        assert evaluate(study, "--shard", part, out="parts") == 0
    from medseg.report.runs import find

    whole, joined = (find([study / name])[0].summary for name in ("out", "parts"))
    assert joined["classification"]["confusion"] == whole["classification"]["confusion"]
    for name, one in whole["classification"]["overall"].items():
        assert joined["classification"]["overall"][name]["mean"] == pytest.approx(
            one["mean"], abs=1e-12
        )


def test_a_subject_of_training_is_a_leak(study):
    sheet(study, [("a", "p1", "glioma", "test"), ("t", "p1", "none", "train")])
    evaluate(study)
    assert any("p1" in leak["text"] for leak in summary(study)["leaks"])


def test_class_names_that_need_quoting_come_back(study):
    names = ("a, b", '"c"', "=d")
    sheet(study, [])
    with (study / "samples.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["case", "t1", "class", "split"], ["a", "x.nii", "a, b", "test"],
                          ["b", "x.nii", "=d", "test"]])  # fmt: skip
    for path in (study / "predictions").iterdir():
        path.unlink()
    predicted(study / "predictions", "a", (0.5, 0.3, 0.2), classes=names)
    predicted(study / "predictions", "b", (0.5, 0.3, 0.2), classes=names)
    assert evaluate(study) == 0
    from medseg.report.runs import find

    (run,) = find([study / "out"])
    assert run.summary["classification"]["confusion"] == [[1, 0, 0, 0], [0] * 4, [1, 0, 0, 0]]
    assert json.loads((study / "out/summary.json").read_text())["classes"] == list(names)
