from pathlib import Path
from statistics import fmean

import pytest

from medseg.report.comparison import columns, tables
from medseg.report.page import _entries, _view
from medseg.report.pools import pools
from medseg.report.runs import Run
from medseg.report.summary import judged, summarise

METRICS = ("dice",)


def run(dices, *, experiment="net", variant="base", seed="0", recipe=""):
    rows = [
        {"case": case, "structure": "disc", "status": "ok", "dice": dice}
        for case, dice in dices.items()
    ]
    subjects = {case: f"p-{case}" for case in dices}
    told = {"subjects": subjects, "instances": {}}
    told |= summarise(rows, METRICS, subjects=subjects, instances={})
    return Run(Path(), experiment, variant, seed, METRICS, rows, told, recipe=recipe)


def folded(fold, dices, rest="", **given):
    return run(dices, variant=f"data.fold={fold},data.folds=2{rest}", **given)


def recipe(fold, *, seed=0, width=8):
    return f"model:\n  width: {width}\ndata:\n  folds: 2\n  fold: {fold}\nseed: {seed}\n"


FIRST = {f"a{n}": 0.8 + n / 100 for n in range(4)}
SECOND = {f"b{n}": 0.6 + n / 100 for n in range(4)}


def test_folds_are_pooled_over_all_their_cases():
    (pool,) = pools([folded(0, FIRST), folded(1, SECOND)])
    assert pool.run.name == "net · 2 folds"
    assert pool.run.summary["n_cases"] == pool.run.summary["n_subjects"] == 8
    every = [*FIRST.values(), *SECOND.values()]
    assert pool.run.summary["mean_dice"] == pytest.approx(fmean(every))
    low, high = pool.run.summary["mean_dice_interval"]
    assert low < fmean(every) < high


def test_folds_that_score_the_same_cases_stay_alone():
    assert not pools([folded(0, FIRST), folded(1, FIRST)])


def test_a_lost_fold_is_told():
    three = [run(c, variant=f"data.fold={k},data.folds=5") for k, c in enumerate((FIRST, SECOND))]
    assert pools(three)[0].run.name == "net · 2 of 5 folds"


def test_other_recipes_variants_and_experiments_are_not_pooled():
    base = folded(0, FIRST, recipe=recipe(0))
    assert pools([base, folded(1, SECOND, recipe=recipe(1))])
    assert not pools([base, folded(1, SECOND, recipe=recipe(1, width=9))])
    assert not pools([base, folded(1, SECOND, ",model.width=8", recipe=recipe(1))])
    assert not pools([base, folded(1, SECOND, recipe=recipe(1), experiment="other")])


def test_the_recipe_tells_the_folds_of_a_variant_whose_name_was_cut():
    names = [f"data.fold={k},data.folds=2,model.wid-{k}23456789abc" for k in range(2)]
    cut = [
        run(cases, variant=name, recipe=recipe(k))
        for k, (name, cases) in enumerate(zip(names, (FIRST, SECOND), strict=True))
    ]
    assert pools(cut)[0].run.name == "net · model.wid… · 2 folds"
    assert not pools([run(FIRST, variant=names[0]), run(SECOND, variant=names[1])])


def test_seeds_give_the_mean_of_each_case_and_a_spread():
    shifted = {case: dice - 0.1 for case, dice in FIRST.items()}
    views = [_view(run(c, seed=s), f"run-{s}") for s, c in (("0", FIRST), ("1", shifted))]
    (entry,) = _entries(views)
    assert entry["name"] == "net · 2 seeds"
    assert entry["means"] == pytest.approx({case: d - 0.05 for case, d in FIRST.items()})
    assert entry["summary"]["n_cases"] == 4
    assert entry["sd"] == pytest.approx(0.1 / 2**0.5)


def test_the_same_seed_twice_is_no_pool():
    assert not pools([run(FIRST), run(FIRST)])
    assert not pools([run(FIRST, seed=""), run(FIRST, seed="")])


def test_pools_are_tested_over_the_cases_they_share():
    worse = {case: dice - 0.2 for case, dice in SECOND.items()}
    fewer = {case: dice - 0.2 for case, dice in FIRST.items() if case != "a0"}
    runs = [folded(0, FIRST), folded(1, SECOND)]
    runs += [folded(0, fewer, experiment="b"), folded(1, worse, experiment="b")]
    (table,) = tables(_entries([_view(r, f"run-{n}") for n, r in enumerate(runs)]))
    assert [view["name"] for view in table["views"]] == ["net · 2 folds", "b · 2 folds"]
    assert table["uneven"]
    assert list(table["p"].values()) == [pytest.approx(2 / 2**7)]  # seven shared, all worse


def contours(dices, *, rejected=(), names=("lungs", "heart"), **given):
    """A run of contours: a Dice a case for every name, and a row outside the mean."""
    metrics = ("dice", "self_intersections")
    rows = [
        {"case": c, "structure": n, "status": "ok", "dice": d - 0.1 * k, "self_intersections": 0.0}
        for c, d in dices.items()
        for k, n in enumerate([*names, "right_lung"])
    ]
    told = {"aside": ["right_lung"], "quality": {c: {"accepted": False} for c in rejected}}
    told |= {"subjects": {}, "instances": {}}
    told |= summarise(rows, metrics, **judged(told))
    variant, experiment = given.get("variant", "base"), given.get("experiment", "net")
    return Run(Path(), experiment, variant, "0", metrics, rows, told)


def test_folds_of_contours_keep_what_is_outside_the_mean_and_who_was_rejected():
    runs = [
        contours(cases, rejected=list(cases)[:1], variant=f"data.fold={k},data.folds=2")
        for k, cases in enumerate((FIRST, SECOND))
    ]
    (pool,) = pools(runs)
    every = [*FIRST.values(), *SECOND.values()]
    assert pool.run.summary["mean_dice"] == pytest.approx(fmean(every) - 0.05)
    assert pool.run.summary["accepted"]["n_cases"] == 6
    assert pool.run.summary["plausibility"]["cases"] == 8


def test_contours_of_other_organs_are_compared_over_those_they_share():
    runs = [contours(FIRST), contours(FIRST, names=("heart", "clavicles"), experiment="b")]
    (table,) = tables(_entries([_view(r, f"run-{n}") for n, r in enumerate(runs)]))
    assert table["structures"] == ["heart"]
    means = {view["name"]: view["headline"]["mean"] for view in table["views"]}
    first = fmean(FIRST.values())
    assert means == {"b · seed 0": pytest.approx(first), "net · seed 0": pytest.approx(first - 0.1)}
    names = [c["structure"] for c in columns(table) if c["metric"] == "dice"]
    assert names == ["lungs", "heart", "clavicles"]
