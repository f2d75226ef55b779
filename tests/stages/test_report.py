import json
import re
import subprocess
import sys

import pytest

from medseg.cli import main
from medseg.metrics.structures import METRICS
from medseg.report.scores import write_rows

PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\xda"
    b"c\xfc\xcf\xc0P\x0f\0\4\x85\1\x80\x84\xa9\x8c!\0\0\0\0IEND\xaeB`\x82"
)


def row(case, structure="disc", dice=0.9, status="ok"):
    numbers = dict.fromkeys(METRICS, 2.0) | {"dice": dice, "iou": dice, "nsd": dice}
    return {"case": case, "structure": structure, "status": status, **numbers}


def run(folder, rows, *, part="", **told):
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / f"scores{part}.csv", rows, metrics=METRICS)
    (folder / f"summary{part}.json").write_text(json.dumps({"format": 1, **told}))
    return folder


@pytest.fixture
def study(tmp_path):
    """Two runs on the same cases, one with curves, a recipe, a picture and a model card."""
    runs = tmp_path / "runs"
    first = run(
        runs / "ivdnet/base/0",
        [row(f"c{n}", dice=0.9 + n / 100) for n in range(8)],
        subjects={f"c{n}": f"p{n}" for n in range(8)},
        pictures=[{"case": "c0", "role": "best", "dice": 0.9, "file": "pictures/c0.png"}],
        tolerance_mm=2.0,
    )
    (first / "pictures").mkdir()
    (first / "pictures/c0.png").write_bytes(PIXEL)
    (first / "metrics.csv").write_text("epoch,train_loss,val_dice,lr\n0,1.5,,0.1\n1,0.5,0.8,0.1\n")
    (first / "recipe.yaml").write_text("model:\n  width: 8 # <b>\n")
    (first / "model").mkdir()
    (first / "model/model.json").write_text(
        json.dumps({"network": {"class": "IVDNet"}, "training": {"fingerprint": "feedbeef"}})
    )
    bad = [row(f"c{n}", dice=0.5) for n in range(7)] + [row("c7", dice=0.0, status="failed")]
    run(
        runs / "unet/base/0",
        bad,
        subjects={f"c{n}": f"p{n}" for n in range(8)},
        failures=[{"case": "c7", "reason": "there is no prediction of this name"}],
    )
    return tmp_path


def page(folder, *scores, title=None):
    arguments = [str(s) for s in scores] or [str(folder / "runs")]
    options = ["--title", title] if title else []
    assert main(["report", *arguments, "--out", str(folder / "page.html"), *options]) == 0
    return (folder / "page.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(study):
    text = page(study)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text


def test_the_page_shows_scores_curves_pictures_and_where_they_come_from(study):
    text = page(study, title="My study")
    for wanted in (
        "<title>My study</title>", "0.935", "data:image/png;base64,", "train_loss", "val_dice",
        "feedbeef", "IVDNet", "width: 8", "best", "larger of the two directed",
    ):  # fmt: skip
        assert wanted in text


def test_failures_come_first(study):
    text = page(study)
    assert "there is no prediction of this name" in text
    assert text.index('id="failures"') < text.index('class="cards"') < text.index('id="comparison"')
    run(study / "fine", [row("a")])
    assert "No failures." in page(study, study / "fine")


def test_runs_on_the_same_cases_are_compared_and_others_are_not(study):
    run(study / "runs/cord/base/0", [row("k", "cord")])
    text = page(study)
    section = text[text.index('id="comparison"') : text.index('id="run-0"')]
    assert section.count("<table") == 2
    assert section.index("ivdnet") < section.index("unet")
    assert "0.008" in section  # p of 8 cases that are all worse: 2 / 2**8


def test_one_subject_and_leaks_are_said_plainly(study):
    leaks = [
        {"kind": "volume", "declared": True, "text": "One volume serves the splits test, train"},
        {"kind": "subject", "declared": False, "text": "Subject p serves the splits test, train"},
    ]
    run(study / "cord", [row("k", "cord")], subjects={"k": "p"}, leaks=leaks, warnings=["odd"])
    text = page(study, study / "cord")
    assert "One subject: this is an illustration, no claim." in text
    assert "Declared leak: One volume serves" in text
    assert "Leak: Subject p serves" in text
    assert "Odd." in text


def test_text_from_files_is_escaped(study):
    evil = "<img src=x onerror=alert(1)>"
    told = {"warnings": [evil], "failures": [{"case": evil, "reason": evil}]}
    run(study / "evil", [row(evil, evil)], **told)
    (study / "evil/recipe.yaml").write_text("</pre><script>alert(2)</script>")
    text = page(study, study / "evil", title="</title><script>alert(3)</script>")
    assert "<img src=x" not in text
    assert "alert(2)</script>" not in text
    assert "alert(3)</script>" not in text


def test_scores_alone_are_enough(study):
    folder = study / "bare"
    folder.mkdir()
    write_rows(folder / "mine.csv", [row("a"), row("b", dice=0.7)], metrics=METRICS)
    assert "0.800" in page(study, folder / "mine.csv")
    for name in ("summary.json", "metrics.csv", "recipe.yaml", "model/model.json"):
        (study / "runs/ivdnet/base/0" / name).unlink()
    assert "0.935" in page(study)


def test_shards_are_joined(study):
    folder = study / "runs/sharded/base/0"
    for n in (1, 2):
        run(
            folder, [row(f"c{n}", dice=0.2 * n)], part=f".{n}-of-2", subjects={f"c{n}": "p"},
            warnings=[f"from part {n}"],
        )  # fmt: skip
    text = page(study, folder)
    assert "0.300" in text
    assert "From part 1." in text
    assert "From part 2." in text
    (folder / "scores.2-of-2.csv").unlink()
    assert main(["report", str(folder), "--out", str(study / "no.html")]) == 1
    assert not (study / "no.html").exists()


def test_a_case_in_two_shards_is_refused(study, capsys):
    folder = study / "twice"
    for n in (1, 2):
        run(folder, [row("same")], part=f".{n}-of-2")
    assert main(["report", str(folder), "--out", str(study / "no.html")]) == 1
    assert "case same is scored in" in capsys.readouterr().err


def test_a_task_with_other_metrics_has_its_page(study):
    folder = study / "landmarks"
    folder.mkdir()
    same = {"structure": "heart", "status": "ok"}
    rows = [{"case": "a", "error_mm": 1.25, **same}, {"case": "b", "error_mm": 2.25, **same}]
    write_rows(folder / "scores.csv", rows, metrics=("error_mm",))
    text = page(study, folder)
    assert "1.75" in text
    assert "mean Error" in text


def test_many_rows_are_kept_to_the_worst(study):
    folder = run(study / "many", [row(f"c{n:05d}", dice=n / 3000) for n in range(3000)])
    text = page(study, folder)
    assert "The worst 2000 of 3000 rows" in text
    assert len(text) < 3_000_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "nowhere does not exist"),
        (lambda p: p / "empty", "holds no scores.csv"),
        (lambda p: p / "runs/ivdnet/base/0/metrics.csv", "begins with epoch"),
    ],
)
def test_what_is_no_score_is_told(study, capsys, make, message):
    (study / "empty").mkdir()
    assert main(["report", str(make(study)), "--out", str(study / "no.html")]) == 1
    assert message in capsys.readouterr().err
    assert not (study / "no.html").exists()


def test_an_earlier_page_survives_an_error(study):
    page(study)
    before = (study / "page.html").read_text()
    assert main(["report", str(study / "nowhere"), "--out", str(study / "page.html")]) == 1
    assert (study / "page.html").read_text() == before


def test_report_loads_no_torch_no_formats_and_no_plots(study):
    code = (
        "import sys; from medseg.cli import main; "
        f"main(['report', {str(study / 'runs')!r}, '--out', {str(study / 'page.html')!r}]); "
        "bad = {'torch', 'nibabel', 'matplotlib', 'medseg.io'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_page_that_cannot_be_made_is_told(study, capsys):
    empty = run(study / "empty", [])
    (study / "file").write_text("")
    for scores, out, text in (
        (study / "runs", study / "x.pdf", "x.html"),
        (empty, study / "x.html", "no rows"),
        (study / "runs", study / "file" / "x.html", "cannot be written"),
    ):
        assert main(["report", str(scores), "--out", str(out)]) == 1
        assert text in capsys.readouterr().err
    assert not (study / "x.html").exists()


def test_folds_have_one_card_and_one_row_and_are_listed_below(study):
    folder = study / "cv/runs"
    for experiment, drop in (("ivdnet", 0.0), ("unet", 0.2)):
        for k in range(2):
            rows = [row(f"c{n}", dice=0.7 + n / 100 - drop) for n in range(8) if n % 2 == k]
            run(folder / f"{experiment}/data.fold={k},data.folds=2/0", rows)
    text = page(study, folder)
    assert text.count('class="card"') == 2
    section = text[text.index('id="comparison"') : text.index('id="pool-0"')]
    assert section.count("<table") == 3
    assert section.index("ivdnet · 2 folds") < section.index("0.008") < section.index("Single runs")


def test_many_runs_fold_up(study):
    for n in range(14):
        run(study / f"sweep/runs/net/model.width={n}/0", [row("a"), row("b", dice=n / 20)])
    text = page(study, study / "sweep")
    assert text.count('<details id="run-') == 14
    assert text.index('class="menu"') < text.index("10 more") < text.index('id="comparison"')
