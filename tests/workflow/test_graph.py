"""The graph of jobs: what a study becomes, how it is cut, and what is said about a wrong one."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(tmp_path):
    """Write members of a study `mine` in a conf folder of one's own."""

    def write(**members):
        folder = tmp_path / "conf/study/mine"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in members.items():
            (folder / f"{name}.yaml").write_text(text)
        return ["--config", "study=mine", "conf=conf"]

    return write


def test_the_demo_is_a_small_graph(snakemake, counts, tmp_path):
    code, said = snakemake(tmp_path, "-n")
    assert code == 0, said
    assert counts(said) == {
        "all": 1, "check": 1, "prepare": 7, "train": 13, "predict": 13, "evaluate": 13, "report": 1,
    }  # fmt: skip
    assert "gpu=0" in said, "without cards nothing waits for one"


def test_jobs_are_shards_of_cases(snakemake, counts, tmp_path):
    shares = ["prepare_shards=2", "predict_shards=3", "evaluate_shards=5"]
    code, said = snakemake(tmp_path, "-n", "--config", *shares)
    assert code == 0, said
    found = counts(said)
    assert (found["prepare"], found["predict"], found["evaluate"]) == (14, 39, 65)
    assert "--shard 3/3" in said
    assert "scores.5-of-5.csv" in said


def test_a_study_is_the_product_of_its_lists(snakemake, counts, tmp_path, study):
    member = (
        "experiments: [ivdnet_spine, unet_spine]\n"
        "variants: [[], [model.width=8]]\n"
        "folds: 2\n"
        "seeds: [0, 3]\n"
        "split: val\n"
    )
    code, said = snakemake(tmp_path, "-n", *study(spine=member))
    assert code == 0, said
    assert counts(said)["train"] == 16
    assert counts(said)["prepare"] == 1, "folds, seeds and networks share prepared data"
    assert "data.folds=2 data.fold=1" in said
    assert "--split val" in said
    assert "--config-dir conf" in said


def test_a_training_asks_for_a_card_where_there_are_some(snakemake, tmp_path, study):
    code, said = snakemake(tmp_path, "-n", *study(a="experiments: [ivdnet_spine]\n"), cards="0,1")
    assert code == 0, said
    assert "gpu=1" in said


WRONG = {
    "a mistyped key": ("experiment: [ivdnet_spine]\n", "experiment"),
    "a mistyped experiment": ("experiments: [ivdnet_spin]\n", "ivdnet_spin"),
    "a mistyped override": (
        "experiments: [ivdnet_spine]\nvariants: [[trainer.max_epoch=1]]\n", "max_epoch",
    ),
    "no YAML": ("experiments: [", "not valid YAML"),
    "a table that is not there": ("experiments: [ivdnet_cord]\nin: no.csv\n", "no.csv"),
    "one fold": ("experiments: [ivdnet_spine]\nfolds: 1\n", "1"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_member_is_named_with_its_mistake(snakemake, tmp_path, study, what):
    text, wanted = WRONG[what]
    code, said = snakemake(tmp_path, "-n", *study(wrong=text))
    assert code == 1
    assert "wrong.yaml" in said
    assert wanted in said
    assert "Traceback" not in said


def test_two_meanings_of_one_folder_are_refused(snakemake, tmp_path, study):
    shutil.copytree(ROOT / "data/samples/spine_mt", tmp_path / "one")
    shutil.copytree(ROOT / "data/samples/spine_mt", tmp_path / "two")
    text = "experiments: [ivdnet_cord]\nin: {}/samples.csv\n"
    code, said = snakemake(tmp_path, "-n", *study(a=text.format("one"), b=text.format("two")))
    assert code == 1
    assert "b.yaml" in said


@pytest.mark.parametrize("wrong", ["stduy=demo", "study=nosuch", "gpu=-1"])
def test_a_wrong_setting_is_an_error(snakemake, tmp_path, wrong):
    code, said = snakemake(tmp_path, "-n", "--config", wrong)
    assert code == 1
    assert wrong.partition("=")[0] in said
    assert "Traceback" not in said
