"""Filled skies against a sheet's: rows, sums over cases, and what must not go unsaid."""

import csv
import json

import healpy
import numpy as np
import pytest
from PIL import Image
from scored import summary, table
from skyfolder import NSIDE, belt, predicted, save, sidecar, sky, study

from medseg.cli import main
from medseg.metrics.sky import METRICS

SHARE = {"a": 0.1, "b": 0.3, "c": 0.2}
"""By how much each case's holes are filled with too little."""


@pytest.fixture
def folder(tmp_path):
    hidden = study(tmp_path)
    for case, share in SHARE.items():
        truth = sky(case)[0]
        predicted(
            tmp_path / "predictions", case, np.where(hidden, (1 - share) * truth, truth),
            deviation=np.where(hidden, 2 * share * np.abs(truth), 0.0),
            samples=np.stack([truth, np.where(hidden, -truth, truth)]),
        )  # fmt: skip
    return tmp_path


def evaluate(folder, *options, out="out", reference="samples.csv", pictures=0):
    return main(
        ["evaluate", "--in", str(folder / "predictions"), "--reference", str(folder / reference),
         "--out", str(folder / out), "--split", "test", "--workers", "1",
         "--pictures", str(pictures), *options]
    )  # fmt: skip


def test_a_case_is_a_row_with_the_sums_that_add_up(folder, capsys):
    assert evaluate(folder) == 0
    with (folder / "out/scores.csv").open() as stream:
        assert next(csv.reader(stream)) == ["case", "structure", *METRICS, "status"]
    rows = table(folder / "out/scores.csv")
    assert list(rows) == [(case, "map") for case in "abc"]
    for case, share in SHARE.items():
        row = rows[case, "map"]
        assert float(row["nrmse"]) == pytest.approx(share, rel=1e-5)
        assert float(row["nrmse_edge"]) == pytest.approx(share, rel=1e-5)
        assert float(row["seam"]) == pytest.approx(1), "the error is the truth's shape"
        assert float(row["correlation"]) == pytest.approx(1)
        assert (float(row["coverage_68"]), float(row["coverage_95"])) == (1, 1)
        truth = healpy.anafast(
            healpy.reorder(sky(case)[0], n2r=True), iter=3, use_pixel_weights=False
        )
        assert float(row["truth_low"]) == pytest.approx(truth[2:11].sum(), rel=1e-5)
        assert float(row["residual_low"]) == pytest.approx(
            share**2 * float(row["hidden_low"]), rel=1e-4
        )
    said = capsys.readouterr().out
    assert "3 cases, map NRMSE 0.2" in said
    assert "68 % coverage 1.000, seam 1.00" in said


def test_the_summary_pools_errors_and_power_over_all_cases(folder):
    evaluate(folder)
    told = summary(folder)
    assert (told["task"], told["fields"], told["n_cases"]) == ("inpaint", ["map"], 3)
    assert told["bands"] == {"16": {"low": [2, 10], "middle": [11, 16], "high": [17, 28]}}
    hidden = belt()
    squares = {case: np.square(sky(case)[0][hidden]).sum() for case in SHARE}
    error = sum(share**2 * squares[case] for case, share in SHARE.items())
    found = told["sky"]["map"]
    assert found["nrmse"]["mean"] == pytest.approx((error / sum(squares.values())) ** 0.5, rel=1e-5)
    assert found["nrmse"]["low"] < found["nrmse"]["mean"] < found["nrmse"]["high"]
    mean = told["structures"]["map"]["metrics"]["nrmse"]
    assert mean["mean"] == pytest.approx(0.2, rel=1e-5)
    rows = table(folder / "out/scores.csv").values()
    sums = [sum(float(row[f"{what}_high"]) for row in rows) for what in ("filled", "truth")]
    assert found["power_ratio"]["high"]["mean"] == pytest.approx(sums[0] / sums[1], rel=1e-5)
    assert set(found["sample_ratio"]) == {"low", "middle", "high"}
    (spectra,) = told["spectra"]
    assert (spectra["kind"], spectra["nside"], spectra["n"]["truth"]) == ("TT", NSIDE, 3)
    assert sum(spectra["of"]["truth"][17:29]) == pytest.approx(sums[1], rel=1e-5)
    assert told["tolerance_mm"] is None
    assert told["leaks"] == [], "one mask for all is no leak"
    assert "zeros" in told["definitions"]["failed"]


def test_a_missing_prediction_counts_as_zeros_in_every_hole(folder, capsys):
    for ending in (".fits", "_deviation.fits", "_samples.fits", ".json"):
        (folder / f"predictions/b{ending}").unlink()
    assert evaluate(folder) == 1
    row = table(folder / "out/scores.csv")["b", "map"]
    assert row["status"] == "failed"
    scores = [float(row[n]) for n in ("nrmse", "nrmse_edge", "correlation", "coverage_68")]
    assert scores == [pytest.approx(1), pytest.approx(1), 0, 0]
    assert float(row["sample_low"]) == float(row["filled_low"])
    told = summary(folder)
    assert told["failures"] == [{"case": "b", "reason": "there is no prediction of this name"}]
    assert "filled with zeros" in capsys.readouterr().err


def test_order_and_unit_do_not_matter(folder):
    evaluate(folder)
    hidden, truth = belt(), sky("a")[0]
    filled = np.where(hidden, 0.9 * truth, truth)
    save(folder / "predictions/a.fits", filled / 1e3, nest=False, unit="mK")
    evaluate(folder, out="other")
    one, two = (table(folder / o / "scores.csv")["a", "map"] for o in ("out", "other"))
    for name in METRICS:
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("kind", ["nside", "hole", "fields", "truncated", "incomplete"])
def test_a_prediction_that_cannot_be_used_says_why(folder, kind):
    path, truth = folder / "predictions/a.fits", sky("a")[0]
    if kind == "nside":
        save(path, sky("a", nside=8)[0])
    elif kind == "hole":
        save(path, np.where(belt(), healpy.UNSEEN, truth))
    elif kind == "fields":
        save(path, np.stack([truth, truth, truth]))
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:9000])
    else:
        sidecar(path.parent, "a", status="incomplete")
    assert evaluate(folder) == 1
    (failure,) = summary(folder)["failures"]
    wanted = {"nside": "nside 8", "hole": "unfilled", "fields": "3 fields, and the reference 1",
              "truncated": "a.fits", "incomplete": "killed"}[kind]  # fmt: skip
    assert failure["case"] == "a"
    assert wanted in failure["reason"]


def test_seen_pixels_that_were_changed_are_told(folder):
    truth = sky("a")[0]
    save(folder / "predictions/a.fits", 1.1 * truth)
    assert evaluate(folder) == 0
    assert "case a: the prediction changes pixels that were seen" in summary(folder)["warnings"]


@pytest.mark.parametrize("kind", ["nothing", "nside", "bare"])
def test_a_reference_that_tells_no_truth_stops_everything(folder, kind, capsys):
    if kind == "nothing":
        save(folder / "mask.fits", np.ones(12 * NSIDE**2), unit=None)
    elif kind == "nside":
        save(folder / "mask.fits", np.ones(12 * 64), unit=None)
    else:
        text = (folder / "samples.csv").read_text()
        (folder / "samples.csv").write_text(text.replace("a_map.fits,mask.fits", "a_map.fits,"))
    assert evaluate(folder) == 1
    wanted = {"nothing": "hides no pixel", "nside": "nside 8", "bare": "case a has no mask"}[kind]
    assert wanted in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_without_sidecars_the_sheet_says_that_skies_were_filled(folder):
    for path in (folder / "predictions").glob("*.json"):
        path.unlink()
    save(folder / "predictions/zz.fits", sky("z")[0])
    Image.new("RGB", (4, 4)).save(folder / "predictions/a_sky.png")
    assert evaluate(folder) == 0
    told = summary(folder)
    assert told["task"] == "inpaint"
    assert told["warnings"] == ["predictions without a reference: zz"]


def test_a_folder_is_no_reference_for_filled_skies(folder, capsys):
    save(folder / "truth/a.fits", sky("a")[0])
    assert main(
        ["evaluate", "--in", str(folder / "predictions"), "--reference", str(folder / "truth"),
         "--out", str(folder / "out")]
    ) == 1  # fmt: skip
    assert "columns case, map" in capsys.readouterr().err


def test_a_reference_without_a_unit_takes_the_one_given(folder, capsys):
    for case in (*SHARE, "t"):
        save(folder / f"{case}_map.fits", sky(case)[0] / 1e3, unit=None)
        if case != "t":
            sidecar(folder / "predictions", case, unit=None)
    assert evaluate(folder) == 1
    assert "--unit mK" in capsys.readouterr().err
    assert evaluate(folder, "--unit", "mK") == 0
    assert float(table(folder / "out/scores.csv")["a", "map"]["nrmse"]) == pytest.approx(0.1)
    for case in SHARE:
        sidecar(folder / "predictions", case, unit="mK")
    assert evaluate(folder, out="told") == 0, "the sidecar's unit, where the header has none"


def test_best_median_and_worst_are_drawn(folder):
    (folder / "predictions/b.fits").write_bytes(b"nothing")
    evaluate(folder, pictures=3)
    drawn = {entry["case"]: entry for entry in summary(folder)["pictures"]}
    roles = {case: entry["role"] for case, entry in drawn.items()}
    assert roles == {"a": "best", "c": "median", "b": "worst, failed"}
    assert drawn["a"]["dice"] is None
    assert drawn["a"]["nrmse"] == pytest.approx(0.1)
    sizes = {}
    for case in drawn:
        with Image.open(folder / f"out/pictures/{case}.png") as picture:
            sizes[case] = picture.size
    assert sizes["a"][1] > 1.5 * sizes["b"][1], "a has an answer in a second row"


def test_shards_together_are_the_whole(folder):
    from medseg.report.runs import find

    evaluate(folder)
    for part in ("1/2", "2/2"):
        assert evaluate(folder, "--shard", part, out="parts") == 0
    whole, joined = (find([folder / name])[0].summary for name in ("out", "parts"))
    for name, one in whole["sky"]["map"]["power_ratio"].items():
        assert joined["sky"]["map"]["power_ratio"][name]["mean"] == pytest.approx(one["mean"])
    assert joined["sky"]["map"]["nrmse"]["mean"] == pytest.approx(
        whole["sky"]["map"]["nrmse"]["mean"]
    )
    for one, two in zip(joined["spectra"], whole["spectra"], strict=True):
        assert one["n"] == two["n"]
        np.testing.assert_allclose(one["of"]["truth"], two["of"]["truth"])


def test_polarised_fields_are_scored_with_the_spectra_of_e_and_b(tmp_path):
    hidden, fields = belt(8), sky("p", "QU", nside=8)
    save(tmp_path / "p.fits", fields, names=["Q_POLARISATION", "U_POLARISATION"])
    save(tmp_path / "mask.fits", (~hidden).astype(float), unit=None)
    (tmp_path / "samples.csv").write_text("case,split,Q,U,mask\np,test,p.fits,p.fits,mask.fits\n")
    filled = np.where(hidden, 0.5 * fields, fields)
    predicted(tmp_path / "predictions", "p", filled, samples=np.concatenate([fields, filled]))
    sidecar(tmp_path / "predictions", "p", fields=["Q", "U"])
    assert evaluate(tmp_path) == 0
    rows = table(tmp_path / "out/scores.csv")
    assert [name for _, name in rows] == ["Q", "U", "EE", "BB"]
    assert float(rows["p", "U"]["nrmse"]) == pytest.approx(0.5)
    ee = rows["p", "EE"]
    mean = (float(ee["truth_low"]) + float(ee["filled_low"])) / 2
    assert float(ee["sample_low"]) == pytest.approx(mean, rel=1e-4)
    assert ee["truth_middle"] == "", "no l lies between 11 and 8"
    assert set(summary(tmp_path)["sky"]["BB"]) == {
        "power_ratio", "sample_ratio", "residual_ratio",
    }  # fmt: skip


def test_a_part_of_the_sky_is_scored_where_it_is(tmp_path):
    nside, hidden, truth = 8, belt(8), sky("a", nside=8)[0]
    part = np.where(np.arange(12 * nside**2) < 6 * nside**2, truth, healpy.UNSEEN)
    save(tmp_path / "mask.fits", (~hidden).astype(float), unit=None)
    healpy.write_map(
        tmp_path / "a_map.fits", part, nest=True, partial=True, column_units="uK", dtype=np.float64
    )
    (tmp_path / "samples.csv").write_text("case,split,map,mask\na,test,a_map.fits,mask.fits\n")
    predicted(tmp_path / "predictions", "a", np.where(hidden, 0.8 * truth, truth))
    assert evaluate(tmp_path) == 0
    row = table(tmp_path / "out/scores.csv")["a", "map"]
    assert float(row["nrmse"]) == pytest.approx(0.2)


def test_segmented_skies_have_scores_of_pixels(tmp_path, capsys):
    nside, hidden = 8, belt(8)
    labels = np.where(hidden, 1, 0) + 2 * ~belt(8, 70)
    for case in "ab":
        save(tmp_path / f"{case}_label.fits", labels, unit=None, dtype=np.int16, nest=case == "a")
        save(tmp_path / f"{case}_map.fits", sky(case, nside=nside))
        sidecar(tmp_path / "predictions", case, task="segment", fields=None,
                labels={"cut": 1, "pole": 2}, sources={"cut": [1], "pole": [2]})  # fmt: skip
    (tmp_path / "samples.csv").write_text(
        "case,split,map,label\n" + "".join(f"{c},test,{c}_map.fits,{c}_label.fits\n" for c in "ab")
    )
    save(tmp_path / "predictions/a.fits", labels, unit=None, dtype=np.int16, nest=False)
    save(tmp_path / "predictions/b.fits", np.where(labels == 2, 0, labels), unit=None,
         dtype=np.int16)  # fmt: skip
    assert evaluate(tmp_path, pictures=2) == 0
    assert (tmp_path / "out/pictures/a.png").read_bytes()[:4] == b"\x89PNG"
    rows = table(tmp_path / "out/scores.csv")
    assert list(next(iter(rows.values()))) == [
        "case", "structure", "dice", "iou", "precision", "recall", "status",
    ]  # fmt: skip
    assert [rows["a", s]["iou"] for s in ("cut", "pole")] == ["1", "1"]
    assert rows["b", "pole"]["status"] == "missed"
    told = summary(tmp_path)
    assert told["mean_iou"] == pytest.approx((1 + 0.5) / 2)
    assert told["tolerance_mm"] is None
    assert "mean IoU 0.750" in capsys.readouterr().out
    (tmp_path / "predictions/b.fits").unlink()
    assert evaluate(tmp_path, out="lost") == 1
    assert summary(tmp_path, "lost")["mean_iou"] == pytest.approx(0.5)
    content = json.loads((tmp_path / "lost/summary.json").read_text())
    assert content["failures"][0]["reason"] == "there is no prediction of this name"
