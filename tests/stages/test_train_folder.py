"""`medseg train` and what is around it: other trainings, readers that leave, cases on two sides."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_prepared
import torch

from medseg import cli, config
from medseg.data.prepared import Prepared
from medseg.data.splits import shared, split
from medseg.provenance import read_json, sole, write_json

RECIPE = [
    *("experiment=unet_spine", "model.width=2", "model.depth=2"),
    *("trainer.steps_per_epoch=1", "trainer.max_epochs=2"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_prepared.prepared(tmp_path / "prepared", config.compose("train", RECIPE))


def run(*arguments: object) -> int:
    return cli.main(["train", *RECIPE, *map(str, arguments)])


def change(folder: Path, **columns: list) -> None:
    index = folder / "index" / "1-of-1.json"
    content = read_json(index)
    for name, values in columns.items():
        for row, value in zip(content["cases"], values, strict=True):
            row[name] = value
    write_json(index, content)


def test_a_folder_in_use_is_left_alone(data: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with sole(out):
        assert run("--in", data, "--out", out) == 1
    assert "another training is writing into" in capfd.readouterr().err
    assert not list(out.iterdir())
    with sole(out):
        pass


def test_a_subject_on_both_sides_is_told_and_kept_in_the_model(
    data: Path, tmp_path: Path, capfd
) -> None:
    change(data, subject=["one", "two", "one", "one"])
    assert run("--in", data, "--out", tmp_path / "run") == 0
    (told,) = json.loads((tmp_path / "run/model/model.json").read_text())["training"]["warnings"]
    assert "subject one stands in training and in validation (train0, val2)" in told
    assert told in capfd.readouterr().err


def test_an_image_on_both_sides_is_told_unless_slices_part_it(data: Path) -> None:
    def told() -> list[str]:
        return shared(split(Prepared(data), 0, fold=0))

    assert not told()
    image = {"fat": {"path": "a.nii.gz", "sha256": "5"}}
    change(data, sources=[image, {}, image, {}])
    assert ["the same image" in text for text in told()] == [True]
    change(data, subject=["s"] * 4, slices=[(0, 2), (0, 1), (2, 4), None], sources=[image] * 4)
    assert told()
    change(data, slices=[(0, 1), (1, 2), (2, 4), None])
    assert not told()


def test_an_earlier_models_curve_stays_until_the_new_model_is_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    from medseg.tasks.learner import Keeper

    out, finish = tmp_path / "run", Keeper.on_train_epoch_end
    assert run("--in", data, "--out", out) == 0
    before = (out / "metrics.csv").read_bytes()
    more = ["--in", data, "--out", out, "optimizer.lr=1e-2"]

    def stopped(self, trainer, module) -> None:
        finish(self, trainer, module)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_epoch_end", stopped)
        handler = signal.getsignal(signal.SIGINT)
        assert run(*more) == 130
        signal.signal(signal.SIGINT, handler)
    assert "the recipe changed" in capfd.readouterr().out
    assert (out / "metrics.csv").read_bytes() == before
    assert run(*more) == 0
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert (out / "metrics.csv").read_bytes() != before
    assert not (out / "metrics.part.csv").exists()


@pytest.mark.parametrize("asked", [["--help"], ["{recipe}", "--in", "{data}", "--out", "{out}"]])
def test_a_reader_that_leaves_brings_no_traceback(
    data: Path, tmp_path: Path, asked: list[str]
) -> None:
    words = {"{data}": [str(data)], "{out}": [str(tmp_path / "run")], "{recipe}": RECIPE}
    line = [part for word in asked for part in words.get(word, [word])]
    process = subprocess.Popen(
        [sys.executable, "-m", "medseg.cli", "train", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(120) == 141
    assert "Traceback" not in error
    assert "Logging error" not in error
    assert "cannot be written" not in error
    assert "Broken pipe" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_one_line(data: Path, tmp_path: Path, capfd) -> None:
    assert run("--in", data, "--out", tmp_path / "run", "trainer.accelerator=cuda") == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "trainer.accelerator=cuda" in error


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a card")
def test_what_lightning_refuses_is_one_line(data: Path, tmp_path: Path, capfd) -> None:
    more = [
        "trainer.accelerator=mps",
        "--in",
        data,
        "--out",
        tmp_path / "run",
    ]
    assert run(*more) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "does not fit this machine" in error


def test_a_network_that_cannot_be_built_is_refused_before_phantoms_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("model.width=-4") == 1
    assert "width" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
