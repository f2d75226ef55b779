import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medseg.report.arms import ORDER, count, section
from medseg.report.page import _view, render
from medseg.report.runs import Run, find
from medseg.report.scores import write_rows

DOF = {"real": 100_000, "real_x2": 200_400, "complex": 200_000, "iso_flop": 298_000}
METRICS = ("dice",)


def model(arm, seed, *, name="complexnet", **arguments):
    """What a training leaves in model.json, as far as the section reads it."""
    arguments = {"arm": arm, "topology": "unet"} | arguments
    return {
        "network": {"name": name, "arguments": arguments},
        "training": {"seed": seed, "seconds": 90.0, "data": "brain", "experiment": "brain"},
        "cost": {"dof": DOF.get(arm, 100_100), "macs": 3_210_000_000},
    }


def recipe(arm, seed, lr):
    return f"model:\n  arm: {arm}\n  width: 8\noptimizer:\n  lr: {lr}\nseed: {seed}\n"


def write(folder, arm, seed, *, dices, lr=0.001, **arguments):
    """A run as the workflow leaves it; a Dice of None is a case without a prediction."""
    home = folder / f"runs/brain/model.arm={arm},optimizer.lr={lr}/{seed}"
    (home / "model").mkdir(parents=True)
    rows = [
        {"case": c, "structure": "tumour", "dice": d or 0.0, "status": "ok" if d else "failed"}
        for c, d in dices.items()
    ]
    write_rows(home / "scores.csv", rows, metrics=METRICS)
    told = {"format": 1, "subjects": {case: f"p-{case}" for case in dices}}
    (home / "summary.json").write_text(json.dumps(told))
    (home / "recipe.yaml").write_text(recipe(arm, seed, lr))
    (home / "model/model.json").write_text(json.dumps(model(arm, seed, **arguments)))
    return home


def run(arm, seed, *, dices, metric="dice", **told):
    """The same without a file."""
    rows = [{"case": c, "structure": "tumour", metric: d, "status": "ok"} for c, d in dices.items()]
    given = {"variant": f"model.arm={arm}", "model": model(arm, seed), "summary": {}, **told}
    return Run(Path(), "brain", seed=str(seed), metrics=(metric,), rows=rows, **given)


def trained(gains, *, seeds=2, cases=20, chance=0, over_seeds=0.01, over_cases=0.03, lost=()):
    """Dice of every arm and seed: hard and easy cases, chance in training, chance in a case."""
    rng = np.random.default_rng(chance)
    hard = rng.uniform(0.4, 0.7, cases)
    found = {}
    for arm in gains:
        for seed in range(seeds):
            value = hard + gains[arm] + rng.normal(0, over_seeds)
            value = np.clip(value + rng.normal(0, over_cases, cases), 0, 1)
            names = [f"c{n:02d}" for n in range(cases) if (arm, n) not in lost]
            found[arm, seed] = dict(zip(names, value.tolist(), strict=False))
    return found


def told(found, **given):
    runs = [run(arm, seed, dices=dices, **given) for (arm, seed), dices in found.items()]
    return section([light(one) for one in runs])


def light(one):
    """As much of a page's view as the section reads, without its drawings."""
    (metric,) = one.metrics
    means = {row["case"]: row[metric] for row in one.rows}
    return {
        "run": one, "means": means, "main": metric, "summary": one.summary, "wrong": Counter()
    }  # fmt: skip


def verdicts(found, **given):
    (group,) = told(found, **given)["groups"]
    return {row["arm"]: row["verdict"] for row in group["rows"] if not row["is_reference"]}


EQUAL = dict.fromkeys(ORDER, 0.0)
PHASE = {"real": -0.25, "real_x2": -0.25, "complex": 0.0, "iso_flop": -0.25, "two_channel": 0.0}


@pytest.fixture
def page(tmp_path):
    for (arm, seed), dices in trained(PHASE).items():
        write(tmp_path, arm, seed, dices=dices)
    text = render(find([tmp_path]), title="Arms")
    return text[text.index('<section id="arms"') : text.index('<section id="run-0"')]


def test_equal_arms_are_seldom_called_different(monkeypatch):
    """Family-wise 5 %: at most 19 of 200, three standard deviations above 10."""
    monkeypatch.setattr("medseg.report.arms.mean_interval", lambda *_, **__: {})  # no verdict's
    wrong = 0
    for chance in range(200):
        luck = 0.03 * (chance % 2)  # every second study's trainings scatter
        wrong += any(verdicts(trained(EQUAL, chance=chance, over_seeds=luck)).values())
    assert wrong <= 19


def test_a_difference_is_found_and_a_control_that_keeps_up_is_said():
    found = told(trained(PHASE))
    (group,) = found["groups"]
    assert verdicts(trained(PHASE)) == {"real": 1, "real_x2": 1, "iso_flop": 1, "two_channel": 0}
    assert found["family"] == 4
    assert group["sum"] == (
        "complex gains over real, but no gain is shown over two_channel: complex arithmetic is "
        "not shown to be what it comes from."
    )


def test_a_loss_is_said_as_plainly_as_a_win():
    (group,) = told(trained({"real": 0.2, "complex": 0.0, "real_x2": -0.2}))["groups"]
    texts = [said["text"] for said in group["sentences"]]
    assert re.match(r"complex is worse than real \(-0\.\d{3} \[-0\.\d+, -0\.\d+\], p ", texts[0])
    assert texts[1].startswith("complex is better than real_x2 (+0.")
    assert group["sum"] == "A gain of complex over real is not shown."


def test_a_smaller_error_is_a_gain_and_keeps_its_sign():
    found = trained({"real": 0.2, "complex": 0.0}, cases=25)
    (group,) = told(found, metric="hd95_mm")["groups"]
    row = group["rows"][0]
    assert (row["arm"], row["verdict"]) == ("real", 1)
    assert group["sentences"][0]["text"].startswith("complex is better than real (-0.")
    assert row["ends"][0] < row["sign"] * row["paired"].mean < row["ends"][1] < 0


def test_classes_are_compared_by_the_share_of_cases_that_are_right():
    right = trained({"real": -0.45, "complex": 0.3}, cases=60, over_cases=0.2)
    right = {k: {c: float(d > 0.5) for c, d in v.items()} for k, v in right.items()}
    overall = {"balanced_accuracy": {"mean": 0.75}, "macro_f1": {"mean": None}}
    summary = {"classification": {"overall": overall}}
    (group,) = told(right, metric="correct", summary=summary)["groups"]
    assert (group["metric"], group["rows"][0]["verdict"]) == ("correct", 1)
    assert group["rows"][0]["also"] == {"balanced_accuracy": 0.75}


def test_luck_in_training_is_no_gain_of_an_arm():
    """Every case agrees, and yet it is one lucky training of each arm that makes the difference."""
    found = trained({"real": 0.0, "complex": 0.0}, over_seeds=0.0, over_cases=0.001)
    found["complex", 0] = {case: dice + 0.10 for case, dice in found["complex", 0].items()}
    found["real", 0] = {case: dice + 0.06 for case, dice in found["real", 0].items()}
    (group,) = told(found)["groups"]
    assert group["rows"][0]["paired"].p < 0.001
    assert group["rows"][0]["verdict"] == 0
    assert "trainings of one arm differ about as much" in group["sentences"][0]["text"]


def test_one_training_an_arm_claims_nothing():
    (group,) = told(trained(PHASE, seeds=1))["groups"]
    assert not any(said["verdict"] for said in group["sentences"])
    assert "chance in training is unknown" in group["sentences"][0]["text"]


def test_seeds_are_no_cases():
    few, many = (told(trained(PHASE, seeds=n, over_seeds=0.0))["groups"][0] for n in (2, 6))
    assert [row["paired"].n for g in (few, many) for row in g["rows"][:1]] == [20, 20]
    assert few["rows"][0]["n_seeds"] == 2


def test_cases_that_an_arm_lacks_are_left_out_of_all_and_counted():
    (group,) = told(trained(PHASE, lost={("real", 19), ("complex", 18)}))["groups"]
    assert (group["n_cases"], group["left_out"]) == (18, 2)
    apart = trained({"real": 0.0, "complex": 0.0})
    apart |= {("real", s): {f"x{c}": d for c, d in apart["real", s].items()} for s in (0, 1)}
    (group,) = told(apart)["groups"]
    assert (group["n_cases"], group["left_out"]) == (0, 40)
    assert group["sentences"][0]["text"].startswith("Nothing can be said")


def test_runs_that_differ_in_more_than_the_arm_are_apart(tmp_path):
    dices = trained(PHASE)
    for (arm, seed), found in dices.items():
        write(tmp_path, arm, seed, dices=found)
        write(tmp_path, arm, seed, dices=found, lr=0.003, topology="residual")
    views = [_view(one, f"run-{n}") for n, one in enumerate(find([tmp_path]))]
    found = section(views)
    assert len(found["groups"]) == 2
    assert found["family"] == 8
    assert {len(group["rows"]) for group in found["groups"]} == {5}
    # Holm over both tables: the same p is twice as large as in one alone
    one = section([v for v in views if "0.003" in v["run"].variant])
    p = [
        min(row["p"] for g in t["groups"] for row in g["rows"] if "p" in row) for t in (found, one)
    ]
    assert p[0] == pytest.approx(2 * p[1])


def test_folds_of_an_arm_are_one_arm():
    found = trained({"real": -0.3, "complex": 0.0})
    runs = [
        run(arm, seed, variant=f"data.fold={k},data.folds=2,model.arm={arm}",
            dices={c: d for n, (c, d) in enumerate(dices.items()) if n % 2 == k})
        for (arm, seed), dices in found.items() for k in (0, 1)
    ]  # fmt: skip
    (group,) = section([light(one) for one in runs])["groups"]
    assert group["title"] == "brain · complexnet unet"
    assert group["n_cases"] == 20
    assert group["rows"][0]["verdict"] == 1


def test_without_two_arms_there_is_no_section(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "complex", seed, dices={"a": 0.5, "b": 0.6})
    assert 'id="arms"' not in render(find([tmp_path]), title="One arm")


def test_the_page_shows_what_an_arm_scores_and_costs(page):
    assert page.count("<tr class=") == 1
    for wanted in (
        "brain · complexnet unet", "20 cases of 20 subjects", "200 k", "3.21 G", "1.5",
        "\N{MULTIPLICATION SIGN} 2.00",
        "complex is better than real (+0.2", "between complex and two_channel",
        "not a reproduction of that paper", "One data set (brain), 20 scored cases, 2 seeds an arm",
    ):  # fmt: skip
        assert wanted in page, wanted
    assert page.count('<svg class="spans"') == 2
    assert page.count("<title>seed 1: ") == 5


def test_the_page_needs_nothing_from_elsewhere_and_is_the_same_twice(tmp_path, page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "http" not in page
    again = render(find([tmp_path]), title="Arms")
    assert page in again


def test_failures_count_and_are_shown(tmp_path):
    for (arm, seed), dices in trained(EQUAL).items():
        lost = dict.fromkeys(list(dices)[:6]) if arm == "complex" else {}
        write(tmp_path, arm, seed, dices=dices | lost)
    (group,) = section([_view(r, f"run-{n}") for n, r in enumerate(find([tmp_path]))])["groups"]
    rows = {row["arm"]: row for row in group["rows"]}
    assert group["n_cases"] == 20
    assert rows["complex"]["wrong"] == 12
    assert rows["complex"]["mean"] < rows["real"]["mean"] - 0.1


def test_text_of_files_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    for (arm, seed), dices in trained({"complex": 0.0, "<b>": 0.0}).items():
        home = write(tmp_path, arm.strip("<>"), seed, dices=dices)
        (home / "model/model.json").write_text(json.dumps(model(arm, seed, topology=evil)))
    text = render(find([tmp_path]), title="Evil")
    section = text[text.index('<section id="arms"') : text.index('<section id="run-0"')]
    assert evil not in section
    assert "&lt;b&gt;" in section
    assert "No difference was shown between complex and &lt;b&gt;" in section


def test_the_section_is_made_without_torch():
    code = "import sys, medseg.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_counts_are_short():
    assert [count(n) for n in (None, 7, 1234, 1_625_849, 3.2e9)] == [
        "\N{EN DASH}", "7", "1.23 k", "1.63 M", "3.20 G",
    ]  # fmt: skip
