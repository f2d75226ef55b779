"""The page of classified cases: what it says, how runs compare, and how it is drawn."""

import json
import re

import numpy as np
import pytest

from medseg.cli import main
from medseg.metrics.classification import cases_of, class_names, columns
from medseg.report import classes
from medseg.report.runs import find
from medseg.report.scores import write_rows
from medseg.report.summary import summarise

NAMES = ("glioma", "meningioma", "none")


def rows_of(n, share, *, seed, failed=()):
    """Rows of `n` cases of which about a share is right."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        true = number % 3
        found = true if rng.random() < share else int((true + 1 + rng.integers(2)) % 3)
        shares = np.full(3, 0.15)
        shares[found] = 0.7
        row = {
            "case": f"c{number}",
            "structure": NAMES[true],
            "correct": float(found == true),
            "probability": shares[true],
            "brier": float(((shares - np.eye(3)[true]) ** 2).sum()),
            "nll": float(-np.log(shares[true])),
            "status": "ok",
            **{f"p_{name}": p for name, p in zip(NAMES, shares, strict=True)},
        }
        if number in failed:
            row |= {"status": "failed", "correct": 0.0, "probability": 0.0, "brier": 2.0}
            row |= {f"p_{name}": None for name in NAMES}
        rows.append(row)
    return rows


def run(folder, rows, **told):
    folder.mkdir(parents=True)
    write_rows(folder / "scores.csv", rows, metrics=columns(NAMES))
    content = {"format": 1, "task": "classify", "definitions": classes.DEFINITIONS, **told}
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def study(tmp_path):
    runs = tmp_path / "runs"
    for seed in range(2):
        run(runs / f"good/base/{seed}", rows_of(30, 0.95, seed=seed))
    failures = [{"case": "c4", "reason": "there is no prediction of this name"}]
    run(runs / "bad/base/0", rows_of(30, 0.4, seed=5, failed=[4]), failures=failures)
    return tmp_path


def page(folder):
    assert main(["report", str(folder / "runs"), "--out", str(folder / "page.html")]) == 0
    return (folder / "page.html").read_text()


def test_rows_are_the_cases_that_were_scored():
    rows = rows_of(12, 0.5, seed=0, failed=[3])
    cases = cases_of(rows, columns(NAMES))
    assert cases.correct.tolist() == [bool(row["correct"]) for row in rows]
    assert (cases.found[3], cases.true[3]) == (-1, 0)
    assert class_names(columns(NAMES)) == NAMES
    assert class_names(("dice", "nsd")) == ()


def test_a_tie_is_told_as_it_was_decided():
    row = rows_of(1, 1.0, seed=0)[0] | {"p_glioma": 0.4, "p_meningioma": 0.4, "p_none": 0.2}
    found = [cases_of([row | {"correct": c}], columns(NAMES)).found[0] for c in (1.0, 0.0)]
    assert found == [0, 1]


def test_the_page_tells_rates_with_intervals_confusions_and_calibration(study):
    text = page(study)
    for wanted in ("Balanced accuracy", "Macro-F1", "AUC", "ECE, adaptive", "Confusions",
                   "Reliability", "confidence = accuracy", "Bins of confidence",
                   "certain and wrong", "mean Balanced accuracy"):  # fmt: skip
        assert wanted in text, wanted
    (bad,) = [r for r in find([study / "runs"]) if r.experiment == "bad"]
    one = bad.summary["classification"]["overall"]["balanced_accuracy"]
    assert f"{one['mean']:.3f}" in text
    assert f"[{one['low']:.3f}, {one['high']:.3f}]" in text
    assert "a Dice of 0" not in text
    assert "Scores by structure" not in text


def test_confusions_show_a_column_for_none_where_a_case_has_no_prediction(study):
    text = page(study)
    tables = re.findall(r'<table class="confusion">.*?</table>', text, re.DOTALL)
    assert len(tables) == 4  # three runs and the pool of two seeds
    heads = [t.split("</thead>")[0].count("<th class") for t in tables]
    assert sorted(heads) == [3, 3, 3, 4]
    assert text.count(">no prediction</th>") == 1


def test_runs_of_the_same_cases_stand_in_one_table_best_first(study):
    text = page(study)
    section = text.partition('<section id="comparison"')[2].partition("</section>")[0]
    table = section.partition("</table>")[0]
    places = [table.index(name) for name in (">good", ">bad")]
    assert places == sorted(places)
    for wanted in ("Balanced accuracy", "Macro-F1", "AUC", "Brier", "ECE"):
        assert wanted in table
    assert "&lt; 0.001" in table or re.search(r"0\.0\d\d</td>", table)


def test_seeds_are_pooled_and_their_spread_is_told(study):
    text = page(study)
    assert "good · 2 seeds" in text
    assert "over seeds" in text


def test_a_page_of_masks_says_nothing_of_classes(tmp_path):
    from medseg.metrics.structures import METRICS

    folder = tmp_path / "runs/unet/base/0"
    folder.mkdir(parents=True)
    numbers = dict.fromkeys(METRICS, 1.0)
    rows = [{"case": "a", "structure": "disc", "status": "ok", **numbers}]
    write_rows(folder / "scores.csv", rows, metrics=METRICS)
    text = page(tmp_path)
    assert "Confusions" not in text
    assert "Macro-F1" not in text


def test_names_are_escaped(tmp_path):
    names = ("<b>", "b")
    rows = [
        {"case": c, "structure": s, "correct": 1.0, "probability": 0.9, "brier": 0.02, "nll": 0.1,
         "status": "ok", "p_<b>": p, "p_b": 1 - p}
        for c, s, p in (("x", "<b>", 0.9), ("y", "b", 0.1))
    ]  # fmt: skip
    folder = tmp_path / "runs/one/base/0"
    folder.mkdir(parents=True)
    write_rows(folder / "scores.csv", rows, metrics=columns(names))
    text = page(tmp_path)
    assert "<b></th>" not in text
    assert "&lt;b&gt;" in text


def test_intervals_go_over_subjects():
    rows = rows_of(30, 0.7, seed=1)
    people = {f"c{n}": f"p{n // 3}" for n in range(30)}
    metrics = columns(NAMES)
    alone = summarise(rows, metrics, subjects={}, instances={})["classification"]["overall"]
    told = summarise(rows, metrics, subjects=people, instances={})
    assert told["n_subjects"] == 10
    together = told["classification"]["overall"]
    assert together["accuracy"]["mean"] == alone["accuracy"]["mean"]
    assert together["accuracy"]["low"] != alone["accuracy"]["low"]


def test_score_intervals_are_those_of_wilson():
    """Ends p solve (share - p)² = z² p (1 - p) / n."""
    for share, n in ((0.9, 10), (0.0, 4), (1.0, 7), (0.5, 50)):
        for end in classes.wilson(share, n=n):
            wanted = 1.959964**2 * end * (1 - end) / n
            assert (share - end) ** 2 == pytest.approx(wanted, abs=1e-9)


def test_the_diagonal_is_drawn_with_the_bins():
    svg = classes.chart([{"confidence": 0.9, "accuracy": 0.5, "n": 4},
                         {"confidence": 0.6, "accuracy": 0.6, "n": 8}])  # fmt: skip
    assert svg.count("<polyline") == 2
    assert "<polygon" in svg
    assert classes.chart([]) == ""
