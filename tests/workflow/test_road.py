"""A tiny study from end to end, and what is made again after a change."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["data=tiny", "trainer.max_epochs=1", "trainer.steps_per_epoch=1"]
SPINES = {"n_train": 2, "n_val": 1, "n_test": 2, "shape": [10, 48, 64]}
SETTINGS = ["--config", "study=tiny", "conf=conf", "predict_shards=2"]
AFTER_TRAINING = ["evaluate", "predict", "report", "train"]


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))


def member(folder, experiment, *variants):
    recipes = [[*QUICK, *variant] for variant in variants]
    content = {"experiments": [experiment], "variants": recipes}
    write(folder / f"conf/study/tiny/{experiment}.yaml", content)


@pytest.fixture(scope="module")
def road(snakemake, tmp_path_factory):
    """The folder after one run of the tiny study, with data and a network of the user's own."""
    folder = tmp_path_factory.mktemp("road")
    data = yaml.safe_load((ROOT / "conf/data/spine.yaml").read_text())
    data["source"].update(SPINES)
    write(folder / "conf/data/tiny.yaml", data)
    write(folder / "conf/model/own.yaml", {"_target_": "medseg.models.ivdnet.IVDNet"})
    member(folder, "ivdnet_spine", ["model=own", "model.width=4"])
    member(folder, "unet_spine", ["model.width=4"])
    code, said = snakemake(folder, *SETTINGS)
    assert code == 0, said
    return folder


@pytest.fixture
def edited(road):
    """Change one file of the folder for one test."""
    before = {file: file.read_text() for file in road.glob("conf/**/*.yaml")}
    yield road
    for file, text in before.items():
        file.write_text(text)


def announced(snakemake, folder):
    """The rules and the experiments of a dry run."""
    code, said = snakemake(folder, "-n", *SETTINGS)
    assert code == 0, said
    rules = set(re.findall(r"(?m)^(?:rule|localrule) (\w+):", said)) - {"all"}
    return sorted(rules), set(re.findall(r"wildcards: experiment=(\w+)", said)), said


def test_the_road_ends_in_a_report_and_scores(road):
    page = (road / "data/reports/tiny.html").read_text()
    assert "ivdnet_spine" in page
    assert "unet_spine" in page
    tables = sorted(road.glob("data/runs/*/*/0/scores.csv"))
    assert [table.parents[2].name for table in tables] == ["ivdnet_spine", "unet_spine"]
    for table in tables:
        rows = list(csv.DictReader(table.open()))
        assert {"disc", "disc_1", "disc_7"} <= {row["structure"] for row in rows}
        assert "failed" not in {row["status"] for row in rows}
        assert json.loads((table.parent / "summary.json").read_text())["n_cases"] == 2


def test_every_job_leaves_a_log_and_a_benchmark(road):
    runs = list(road.glob("data/runs/*/*/0"))
    assert len(runs) == 2
    for run in runs:
        names = {file.name for file in (run / "logs").iterdir()}
        for job in ("train", "predict-1-of-2", "predict-2-of-2", "evaluate"):
            assert {f"{job}.log", f"{job}.tsv"} <= names


def test_a_second_run_has_nothing_to_do(snakemake, road):
    code, said = snakemake(road, *SETTINGS)
    assert code == 0, said
    assert "Nothing to be done" in said


def test_one_number_of_one_network_trains_that_network_alone(snakemake, edited):
    own = {"_target_": "medseg.models.ivdnet.IVDNet", "history": "crop"}
    write(edited / "conf/model/own.yaml", own)
    rules, experiments, _ = announced(snakemake, edited)
    assert (rules, experiments) == (AFTER_TRAINING, {"ivdnet_spine"})


def test_one_number_of_the_data_makes_all_that_reads_them_again(snakemake, edited):
    data = yaml.safe_load((edited / "conf/data/tiny.yaml").read_text())
    data["intensity"] = "percentile"
    write(edited / "conf/data/tiny.yaml", data)
    rules, experiments, _ = announced(snakemake, edited)
    assert rules == sorted([*AFTER_TRAINING, "prepare"])
    assert experiments == {"ivdnet_spine", "unet_spine"}


def test_a_comment_makes_nothing_again(snakemake, edited):
    for file in edited.glob("conf/**/*.yaml"):
        file.write_text("# a thought\n" + file.read_text())
    assert "Nothing to be done" in announced(snakemake, edited)[2]


def test_a_new_variant_leaves_the_old_one_alone(snakemake, edited):
    member(edited, "unet_spine", ["model.width=4"], ["model.width=4", "model.depth=2"])
    rules, experiments, said = announced(snakemake, edited)
    assert (rules, experiments) == (AFTER_TRAINING, {"unet_spine"})
    assert said.count("rule train:") == 1
    assert said.count("model.depth=2 trainer.threads") == 1
