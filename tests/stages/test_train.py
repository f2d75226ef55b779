"""`medseg train`: restarts, errors that help, one folder, whatever is asked of Hydra."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_prepared
import torch

from medseg import cli, config, naming, precision
from medseg.windows import OVERLAP

RECIPE = [
    "experiment=unet_spine",
    "model.width=4",
    "model.depth=2",
    "trainer.steps_per_epoch=2",
    "trainer.max_epochs=4",
    "trainer.val_every=2",
]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "prepared"
    return tiny_prepared.prepared(folder, config.compose("train", RECIPE))


def run(*arguments: object) -> int:
    return cli.main(["train", *RECIPE, *map(str, arguments)])


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run("--in", data, "--out", out) == 0
    return out


def test_a_run_folder_holds_what_the_next_stages_read(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["val_dice"]) for row in rows] == [False, True, False, True]
    assert all(float(row["train_loss"]) > 0 for row in rows)
    splits = json.loads((whole / "splits.json").read_text())
    assert splits == {"train0": "train", "train1": "train", "val2": "val", "test3": "test"}
    spec = json.loads((whole / "model" / "model.json").read_text())
    assert spec["channels"] == ["fat", "inphase", "opposed", "water"]
    assert spec["training"]["cases"] == {"train": ["train0", "train1"], "val": ["val2"]}
    assert spec["patch_size"] == [20, 24]
    assert spec["network"]["arguments"]["in_channels"] == 4
    loss = {"loss": "dice_ce", "clean_up": "auto"}
    assert spec["task"] == {"name": "segment", "class": "Segment", "arguments": loss}
    assert spec["overlap"] == OVERLAP
    assert spec["precision"] == precision.chosen("auto", "auto")
    assert {p.name for p in whole.iterdir()} == {
        *("model", "last.ckpt", "best.ckpt", "metrics.csv", "tensorboard", "recipe.yaml"),
        *("splits.json", "train.log", "train.json", ".hydra"),
    }


def test_the_recipe_kept_is_resolved_and_names_no_path(whole: Path, data: Path) -> None:
    text = (whole / "recipe.yaml").read_text()
    assert "${" not in text
    assert str(data) not in text


def test_a_finished_run_says_so_and_stays(whole: Path, data: Path, capfd) -> None:
    before = (whole / "model" / "model.json").stat().st_mtime_ns
    assert run("--in", data, "--out", whole) == 0
    assert "already" in capfd.readouterr().out
    assert (whole / "model" / "model.json").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    data: Path, tmp_path: Path
) -> None:
    assert run("--in", data, "--out", tmp_path / "a", "trainer.deterministic=true") == 0
    assert run("--in", data, "--out", tmp_path / "b", "trainer.deterministic=true") == 0
    assert run("--in", data, "--out", tmp_path / "c", "seed=1", "trainer.max_epochs=1") == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


class Stop(KeyboardInterrupt):
    """The keyboard's stop, at a known place."""


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, schedule: str
) -> None:
    from medseg.tasks.learner import Keeper

    more = [f"schedule={schedule}", "--in", data]
    if schedule == "plateau":
        more += ["schedule.patience=0", "schedule.threshold=1.0"]
    assert run(*more, "--out", tmp_path / "whole") == 0
    finish = Keeper.on_train_epoch_end

    def stopped(self, trainer, module) -> None:
        finish(self, trainer, module)
        if trainer.current_epoch == epoch:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_epoch_end", stopped)
        handler = signal.getsignal(signal.SIGINT)
        assert run(*more, "--out", tmp_path / "cut") == 130
        signal.signal(signal.SIGINT, handler)
    assert not (tmp_path / "cut" / "model").exists()
    assert run(*more, "--out", tmp_path / "cut") == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    columns = ("epoch", "train_loss", "val_loss", "val_dice", "lr")
    one, two = (
        [[row[c] for c in columns] for row in csv.DictReader((tmp_path / f / "metrics.csv").open())]
        for f in ("cut", "whole")
    )
    assert one == two


def test_another_recipe_replaces_the_model_only_when_it_is_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.tasks.learner import Keeper

    out = tmp_path / "run"
    assert run("--in", data, "--out", out, "trainer.max_epochs=1") == 0
    before = weights(out)

    def stopped(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_epoch_end", stopped)
        handler = signal.getsignal(signal.SIGINT)
        assert run("--in", data, "--out", out, "trainer.max_epochs=1", "optimizer.lr=1e-2") == 130
        signal.signal(signal.SIGINT, handler)
    assert weights(out) == before
    assert run("--in", data, "--out", out, "trainer.max_epochs=1", "optimizer.lr=1e-2") == 0
    assert weights(out) != before


def test_a_damaged_checkpoint_is_not_resumed(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "last.ckpt").write_bytes(b"no checkpoint")
    (out / "best.ckpt").write_bytes(b"no checkpoint")
    assert run("--in", data, "--out", out) == 0
    assert weights(out) == weights(whole)


def test_training_stops_when_validation_stalls(data: Path, tmp_path: Path) -> None:
    more = ["trainer.patience=1", "trainer.val_every=1", "optimizer.lr=0.0", "trainer.max_epochs=9"]
    assert run(*more, "--in", data, "--out", tmp_path / "run") == 0
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) - 1 < 9


def test_checkpoints_hold_plain_state_only(whole: Path) -> None:
    last = torch.load(whole / "last.ckpt", weights_only=True)
    assert last["callbacks"]["Keeper"]["rows"][-1]["epoch"] == 3


def test_a_sweep_lies_under_its_folder_and_goes_on_past_a_failure(
    data: Path, tmp_path: Path, capfd
) -> None:
    out = tmp_path / "sweep"
    more = ["trainer.max_epochs=1", "-m", "model.width=2,abc,3", "seed=0,1"]
    assert run(*more, "--in", data, "--out", out) == 1
    found = sorted(p.relative_to(out).parts[1] for p in out.rglob("model.json"))
    assert found == ["0", "0", "1", "1"]
    error = capfd.readouterr().err
    assert "model.width=abc does not fit UNet" in error
    assert "Traceback" not in error


def test_defaults_lie_under_the_working_folder_and_phantoms_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = ["data.source.n_train=1", "data.source.n_val=1", "data.source.n_test=1"]
    small = ["data.source.shape=[8,24,24]", "trainer.max_epochs=1"]
    line = ["experiment=unet_spine", "model.width=2", "trainer.steps_per_epoch=1", *counts, *small]
    assert cli.main(["train", *line]) == 0
    made = naming.default_run(line)
    assert (tmp_path / made / "model" / "model.json").is_file()
    recipe = config.compose("train", line)
    assert (tmp_path / config.default_prepared(recipe) / "prepared.json").is_file()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["model.width=abc"], "wants int"),
        (["model.widht=8"], "did you mean 'width'"),
        (["optimizer.lr=abc"], "wants float"),
        (["block=residual", "model=ivdnet"], "no effect"),
        (["experiment=typo"], "Could not find 'experiment/typo'"),
        (["data.intensity=percentile"], "prepared by another recipe (intensity"),
        (["data.folds=9"], "data.folds=9"),
        (["trainer.patch_size=[7,8]"], "use [8, 8]"),
        (["trainer.patch_size=[8,8,8]"], "2 axes"),
        (["model.in_channels=3"], "the data have 4"),
        (["trainer.batch_size=0"], "at least 1"),
        (["trainer.precision=17"], "17"),
    ],
)
def test_an_error_is_one_message_and_leaves_nothing(
    data: Path, tmp_path: Path, capfd, change: list[str], says: str
) -> None:
    out = tmp_path / "run"
    assert run(*change, "--in", data, "--out", out) == 1
    error = capfd.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert "Error executing job" not in error
    assert not out.exists()


def test_what_differs_from_the_defaults_is_in_the_model_file(data: Path, tmp_path: Path) -> None:
    asked = ["task.loss=ce", "trainer.overlap=0.25", "trainer.precision=32-true"]
    more = ["trainer.max_epochs=1", "model.width=2", "--in", data, "--out", tmp_path / "run"]
    assert run(*asked, *more) == 0
    spec = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    found = spec["task"]["arguments"]["loss"], spec["overlap"], spec["precision"]
    assert found == ("ce", 0.25, "32-true")


@pytest.mark.parametrize("made", ["", "old/er"])
def test_a_stop_before_the_first_state_leaves_only_what_was_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, made: str
) -> None:
    from medseg.tasks.segment import Segment

    def stopped(*_: object) -> None:
        raise Stop

    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    before = set(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Segment, "loss", stopped)
        handler = signal.getsignal(signal.SIGINT)
        assert run("--in", data, "--out", tmp_path / "old" / "er" / "run") == 130
        signal.signal(signal.SIGINT, handler)
    assert set(tmp_path.rglob("*")) == before
    assert "the same command goes on" in capfd.readouterr().err


def test_a_failure_in_the_first_epoch_leaves_no_default_folders(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    from medseg.tasks.segment import Segment

    def broken(task, batch):
        return task.model(batch.image).mean() * torch.nan

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Segment, "loss", broken)
    assert run("--in", data) == 1
    assert "lower optimizer.lr" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        ["--config-dir", "{own}", "experiment=mine", "--cfg", "job"],
        ["experiment=mine", "seed=1", "--cfg", "job", "--config-dir", "{own}"],
        ["experiment=mine", "--config-dir={own}", "seed=1", "--cfg=job"],
    ],
)
def test_a_users_folder_may_be_named_anywhere(line: list[str], tmp_path: Path, capfd) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /model: unet\nmodel:\n  width: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert cli.main(["train", *(word.format(own=tmp_path) for word in line)]) == 0
    assert "width: 3" in capfd.readouterr().out


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_sweep_may_be_asked_for_anywhere(data: Path, tmp_path: Path, place: int) -> None:
    line = [*("experiment=threshold_spine", "model.levels=8,16"), "--in", str(data)]
    line.insert(place, "-m")
    assert cli.main(["train", *line, "--out", str(tmp_path / "sweep")]) == 0
    assert len(list((tmp_path / "sweep").rglob("model.json"))) == 2


def test_absent_prepared_data_name_the_command_that_makes_them(tmp_path: Path, capfd) -> None:
    assert run("--in", tmp_path / "none", "--out", tmp_path / "run") == 1
    assert "medseg prepare data=spine" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_an_error(data: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "file").write_text("")
    assert run("--in", data, "--out", tmp_path / "file" / "run") == 1
    assert "choose another --out" in capfd.readouterr().err


def test_help_tells_the_paths_and_hydras_overrides() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medseg.cli", "train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for word in ("--in", "--out", "Hydra overrides", "experiment: "):
        assert word in done.stdout


def test_two_processes_leave_one_run_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    devices = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp"]
    line = [*RECIPE, *devices, "trainer.max_epochs=2", "--in", str(data), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "medseg.cli", "train", *line],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert [p.parent.name for p in out.rglob("config.yaml")] == [".hydra"]
    assert len((out / "metrics.csv").read_text().splitlines()) == 3


def test_the_keyboard_stops_without_a_traceback(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = [*RECIPE, "trainer.max_epochs=9999", "--in", str(data), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "medseg.cli", "train", *line],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    for _ in range(600):
        if (out / "last.ckpt").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "stopped by the keyboard" in error
    assert "Traceback" not in error
    assert not list(out.glob(".part*"))


def test_workers_change_nothing(data: Path, tmp_path: Path, whole: Path) -> None:
    assert run("--in", data, "--out", tmp_path / "run", "trainer.workers=1") == 0
    assert weights(tmp_path / "run") == weights(whole)


def test_without_validation_cases_the_last_weights_are_kept(tmp_path: Path) -> None:
    cfg = config.compose("train", RECIPE)
    source = tiny_prepared.prepared(tmp_path / "prepared", cfg, splits=("train", "train"))
    assert run("--in", source, "--out", tmp_path / "run") == 0
    facts = json.loads((tmp_path / "run" / "train.json").read_text())
    assert facts["best_epoch"] == 3
    assert facts["val_dice"] is None
