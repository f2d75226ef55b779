"""The page of filled skies: what its table and charts say, and what it warns of."""

import json
import re

import numpy as np
import pytest

from medseg.cli import main
from medseg.metrics.sky import MASKS, METRICS
from medseg.metrics.skypower import BANDS, Power, cosmic_variance
from medseg.report import skies
from medseg.report.charts import curves
from medseg.report.runs import find
from medseg.report.scores import write_rows
from medseg.report.summary import line, summarise

NSIDE = 16


def row(case, *, error, power=1.0, seam=1.0, sample=None, status="ok"):
    """A case whose truth has a mean square of its number plus one."""
    truth = 1.0 + int(case[1:])
    told = {"nrmse": error, "nrmse_edge": error, "correlation": 0.9, "ssim": 0.8,
            "coverage_68": 0.66, "coverage_95": 0.94, "seam": seam,
            "error_squares": error**2 * truth, "truth_squares": truth,
            "edge_error_squares": error**2 * truth, "edge_truth_squares": truth,
            "border_jump": seam * truth, "expected_jump": truth}  # fmt: skip
    for band in BANDS:
        told |= {f"truth_{band}": truth, f"filled_{band}": power * truth,
                 f"hidden_{band}": truth, f"residual_{band}": error**2 * truth,
                 f"sample_{band}": None if sample is None else sample * truth}  # fmt: skip
    return {**dict.fromkeys(METRICS), **told, "case": case, "structure": "map", "status": status}


def spectra(cases, power):
    cl = 1 / (1.0 + np.arange(3 * NSIDE)) ** 2
    told = {"truth": cl, "filled": power * cl, "residual": 0.1 * cl, "hidden": cl}
    return [{"TT": Power(NSIDE, told)}] * cases


def run(folder, rows, power, **told):
    folder.mkdir(parents=True)
    write_rows(folder / "scores.csv", rows, metrics=METRICS)
    content = {"format": 1, **skies.facts(("map",), spectra(len(rows), power)), **told}
    (folder / "summary.json").write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path):
    good = [row(f"c{n}", error=0.3, power=0.9, sample=1.0) for n in range(8)]
    bad = [row(f"c{n}", error=0.5, power=0.6, seam=1.3) for n in range(7)]
    bad.append(row("c7", error=1.0, power=0.4, status="failed"))
    run(tmp_path / "runs/wiener/base/0", good, 0.9)
    failures = [{"case": "c7", "reason": "there is no prediction of this name"}]
    run(tmp_path / "runs/diffusion/base/0", bad, 0.6, failures=failures)
    return tmp_path


def page(folder):
    assert main(["report", str(folder / "runs"), "--out", str(folder / "page.html")]) == 0
    return (folder / "page.html").read_text()


def test_numbers_over_all_cases_are_ratios_of_sums():
    rows = [row("c0", error=0.2, power=0.5), row("c2", error=0.6, power=1.0)]
    told = summarise(rows, METRICS, subjects={}, instances={})
    found = told["sky"]["map"]
    assert found["nrmse"]["mean"] == pytest.approx(((0.04 * 1 + 0.36 * 3) / 4) ** 0.5)
    assert told["structures"]["map"]["metrics"]["nrmse"]["mean"] == pytest.approx(0.4)
    assert found["power_ratio"]["low"]["mean"] == pytest.approx((0.5 + 3) / 4)
    assert found["power_ratio"]["low"]["low"] == pytest.approx(0.5)
    assert "sample_ratio" not in found
    assert "sky" not in summarise([], ("dice",), subjects={}, instances={})


def test_the_line_tells_the_main_figures(tmp_path):
    rows = [row("c0", error=0.2, power=0.5, sample=1.1), row("c2", error=0.2, power=0.5)]
    said = line(summarise(rows, METRICS, subjects={}, instances={}), tmp_path)
    assert "map NRMSE 0.200 over all holes" in said
    assert "power ratio 0.500 / 0.500 / 0.500, of samples 1.100 / 1.100 / 1.100" in said
    assert "seam 1.00" in said


def test_the_table_has_a_row_a_method_the_best_first(study):
    text = page(study)
    table = text[text.index('id="skies"') : text.index("</table>", text.index('id="skies"'))]
    names = re.findall(r'<tr><td><a href="#run-\d">(\w+)', table)
    assert names == ["wiener", "diffusion"]
    assert "Power l 2\N{EN DASH}10" in table
    assert "Samples l 17\N{EN DASH}28" in table
    assert "0.300" in table
    assert "0.660 / 0.940" in table
    assert "zeros in every hole" in text


def test_a_seam_is_warned_of(study):
    text = page(study)
    warned = re.findall(r"<span>(\w+)[^<]*, map: the error jumps ([\d.]+) times", text)
    assert warned == [("diffusion", "1.233")]


def test_the_chart_has_every_method_and_the_band_of_chance(study):
    text = page(study)
    section = text[text.index('id="skies"') :]
    section = section[: section.index("</section>")]
    assert section.count('<svg class="curves"') == 2
    assert "cosmic variance" in section
    assert section.count("<polygon") == 2
    assert "TT, nside 16: power over the truth" in section


def test_points_of_the_chart_are_ratios_of_summed_power(monkeypatch):
    drawn = {}

    def draw(series, title, **about):
        drawn[title] = series, about["bands"]
        return curves(series, title, **about)

    monkeypatch.setattr(skies, "curves", draw)
    (entry,) = skies.gathered(spectra(4, 0.7))
    assert (entry["n"]["truth"], len(entry["of"]["truth"])) == (4, 29)
    skies.section([{"name": "m", "structures": {}, "summary": {"sky": {}, "spectra": []}}])
    view = {"name": "m", "anchor": "a", "structures": {"map": {"metrics": {}}},
            "summary": {"sky": {"map": {}}, "spectra": [entry]}}  # fmt: skip
    skies.section([view])
    series, bands = drawn["C_l ratio"]
    assert [value for _, value in series["m"]] == pytest.approx([0.7] * len(series["m"]))
    band = {at: high - low for at, low, high in bands["truth, cosmic variance"]}
    first = skies._parts(29)[0]
    sizes = cosmic_variance(28, 4)[first] * np.array(entry["of"]["truth"])[first]
    wanted = 2 * np.square(sizes).sum() ** 0.5 / np.array(entry["of"]["truth"])[first].sum()
    assert band[(first.start + first.stop - 1) / 2] == pytest.approx(wanted)


def test_parts_add_up():
    whole = skies.gathered(spectra(5, 0.7))
    parts = skies.joined([*skies.gathered(spectra(2, 0.7)), *skies.gathered(spectra(3, 0.7))])
    assert parts[0]["n"] == whole[0]["n"]
    np.testing.assert_allclose(parts[0]["of"]["filled"], whole[0]["of"]["filled"])


def test_every_score_shows_what_people_read_and_no_sums(study):
    text = page(study)
    assert "NRMSE at the edge" in text
    assert "Error squares" not in text
    assert find([study / "runs"])[0].summary["sky"]


def test_segmented_skies_have_their_mean_iou_beside_dice(tmp_path):
    rows = [
        {"case": case, "structure": name, "dice": 0.8, "iou": 0.6 + 0.1 * n, "precision": 0.7,
         "recall": 0.9, "status": "ok"}
        for case in "ab" for n, name in enumerate(("cut", "spot"))
    ]  # fmt: skip
    folder = tmp_path / "runs/spherenet/base/0"
    folder.mkdir(parents=True)
    write_rows(folder / "scores.csv", rows, metrics=MASKS)
    (folder / "summary.json").write_text(json.dumps({"format": 1, **skies.facts((), [])}))
    assert find([folder])[0].summary["mean_iou"] == pytest.approx(0.65)
    text = page(tmp_path)
    assert 'id="skies"' not in text
    table = text[text.index('id="comparison"') :]
    assert '<th class="num">IoU</th>' in table
    assert "0.650" in table
    assert "all pixels of a sky have one area" in text
