"""A tiny study from end to end, and what is made again after a change."""

import csv
import json
import re

import pytest
import yaml

TINY = ["trainer.max_epochs=1", "trainer.steps_per_epoch=1", "model.width=4"]
MEMBER = {
    "experiments": ["ivdnet_spine", "unet_spine"],
    "variants": [TINY],
}
SETTINGS = ["--config", "study=tiny", "conf=conf", "predict_shards=2"]


def write_member(folder, **changes):
    place = folder / "conf/study/tiny/spine.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(yaml.safe_dump({**MEMBER, **changes}))


@pytest.fixture(scope="module")
def road(snakemake, tmp_path_factory):
    """The folder after one run of the tiny study on a handful of small phantoms."""
    folder = tmp_path_factory.mktemp("road")
    write_member(folder)
    code, said = snakemake(folder, *SETTINGS)
    assert code == 0, said
    return folder


def remade(said):
    """The jobs that a dry run announces, with the run each belongs to."""
    rules = re.findall(r"(?m)^(?:rule|localrule) (\w+):", said)
    runs = set(re.findall(r"experiment=(\w+)", said))
    return sorted(set(rules) - {"all"}), runs


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
        assert json.loads((table.parent / "summary.json").read_text())["n_cases"] > 0


def test_every_job_leaves_a_log_and_a_benchmark(road):
    for run in road.glob("data/runs/*/*/0"):
        names = {file.name for file in (run / "logs").iterdir()}
        shards = [f"predict-{i}-of-2" for i in (1, 2)]
        for job in ("train", "evaluate", *shards):
            assert {f"{job}.log", f"{job}.tsv"} <= names


def test_a_second_run_has_nothing_to_do(snakemake, road):
    code, said = snakemake(road, *SETTINGS)
    assert code == 0, said
    assert "Nothing to be done" in said


def test_one_number_of_one_network_trains_that_network_alone(snakemake, road):
    """The number is changed in a recipe of one's own that stands before the shipped one."""
    own = road / "conf/model/ivdnet.yaml"
    own.parent.mkdir()
    own.write_text("_target_: medseg.models.ivdnet.IVDNet\ndepth: 3\n")
    code, said = snakemake(road, "-n", *SETTINGS)
    own.unlink()
    own.parent.rmdir()
    assert code == 0, said
    assert remade(said) == (["evaluate", "predict", "report", "train"], {"ivdnet_spine"})


def test_a_comment_makes_nothing_again(snakemake, road):
    own = road / "conf/study/tiny/spine.yaml"
    before = own.read_text()
    own.write_text("# a thought\n" + before)
    code, said = snakemake(road, "-n", *SETTINGS)
    own.write_text(before)
    assert code == 0, said
    assert "Nothing to be done" in said


def test_a_new_variant_leaves_the_old_ones_alone(snakemake, road):
    write_member(road, variants=[TINY, [*TINY, "model.depth=2"]], experiments=["unet_spine"])
    code, said = snakemake(road, "-n", *SETTINGS)
    write_member(road)
    assert code == 0, said
    rules, _ = remade(said)
    assert rules == ["evaluate", "predict", "report", "train"]
    assert said.count("rule train:") == 1
