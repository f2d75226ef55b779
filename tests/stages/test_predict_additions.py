"""What is added to predict by adding files: tasks, methods without training, options of formats."""

import importlib
import json
import sys

import nibabel as nib
import numpy as np
import pytest
from tiny import model, scan

from medseg.cli import main

TASK = """
OUTPUTS = ("bright", "points.csv")


def add_options(parser):
    parser.add_argument("--floor", type=float, default=0.0)


def predict(sample, networks, *, options):
    import torch

    image = networks.packages[0].network(torch.from_numpy(sample.image[None]))[0, 0].numpy()
    bright = (image > options.floor).astype("uint8")
    return {"bright": bright, "points.csv": f"n\\n{int(bright.sum())}\\n"}, {"floor": options.floor}
"""

METHOD = """
from torch import nn

METHOD = {"task": {"name": "brightness"}, "channels": ["first", "second"]}


def add_options(parser):
    parser.add_argument("--gain", type=float)


class Gain(nn.Module):
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, image):
        return self.gain * image
"""


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A task and a method that somebody added as two new files."""
    for room, name, text in (("tasks", "brightness", TASK), ("models", "gain", METHOD)):
        folder = tmp_path / room
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        package = importlib.import_module(f"medseg.{room}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for name in ("medseg.tasks.brightness", "medseg.models.gain"):
        sys.modules.pop(name, None)


@pytest.fixture
def pair(tmp_path):
    paths = [scan(tmp_path / f"{n}.nii.gz", seed=n) for n in (1, 2)]
    return [f"first={paths[0]}", f"second={paths[1]}"]


@pytest.mark.usefixtures("added")
def test_a_task_and_a_method_are_added_by_files_alone(pair, tmp_path, capsys):
    out = tmp_path / "o"
    assert predict("--gain", 2, "method:gain", *pair, "--floor", "200", "--out", out) == 0
    values = np.asarray(nib.load(tmp_path / "1.nii.gz").dataobj)
    wanted = 2 * values > 200
    np.testing.assert_array_equal(np.asarray(nib.load(out / "1.nii.gz").dataobj), wanted)
    assert (out / "1_points.csv").read_text() == f"n\n{wanted.sum()}\n"
    sidecar = json.loads((out / "1.json").read_text())
    assert sidecar["floor"] == 200
    assert (sidecar["options"]["gain"], sidecar["options"]["floor"]) == (2, 200)
    again = ["method:gain", "--gain", 2, *pair, "--out", out]
    for floor, text in ((200, "1 kept"), (150, "1 predicted")):
        assert predict(*again, "--floor", floor) == 0
        assert text in capsys.readouterr().out


@pytest.mark.usefixtures("added")
def test_an_option_of_another_task_is_unknown(pair, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict("method:gain", *pair, "--mirror", "--out", tmp_path / "o")
    assert "--mirror" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("added")
def test_help_shows_the_options_of_all_files(capsys):
    with pytest.raises(SystemExit, match="0"):
        predict("--help")
    shown = capsys.readouterr().out
    for flag in ("--volume", "--series", "--mirror", "--floor", "--gain", "--as-given"):
        assert flag in shown
    assert "method:gain" in shown
    assert "method:unet" not in shown


def test_a_learner_and_an_unknown_task_do_not_predict(tmp_path, capsys):
    folder = model(tmp_path / "m")
    path = scan(tmp_path / "x.nii.gz")
    text = (folder / "model.json").read_text()
    for name, told in (("learner", "how to predict"), ("dream", "wanted one of medseg.tasks")):
        (folder / "model.json").write_text(text.replace('"segment"', f'"{name}"'))
        assert predict(folder, path, "--out", tmp_path / "o") == 1
        assert told in capsys.readouterr().err


def test_an_option_of_another_format_is_refused_by_name(tmp_path, capsys):
    folder = model(tmp_path / "m")
    path = scan(tmp_path / "x.nii.gz")
    assert predict("--series", 3, folder, path, "--out", tmp_path / "new" / "o") == 1
    assert "--series is an option of dicom" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    four = scan(tmp_path / "4.nii.gz", values=np.random.default_rng(0).random((6, 7, 8, 2)))
    assert predict("--volume", 1, folder, four, "--out", tmp_path / "o") == 0
    assert json.loads((tmp_path / "o" / "4.json").read_text())["options"]["volume"] == 1


def test_a_folder_that_was_there_before_stays(tmp_path):
    folder = model(tmp_path / "m")
    (tmp_path / "o").mkdir()
    assert predict(folder, tmp_path / "none.nii", "--out", tmp_path / "o") == 1
    assert predict(folder, tmp_path / "none.nii", "--out", tmp_path / "o" / "p" / "q") == 1
    assert (tmp_path / "o").is_dir()
    assert not list((tmp_path / "o").iterdir())


def test_swapped_files_are_refused_unless_wanted(tmp_path, capsys):
    folder = model(tmp_path / "m", ("fat", "water"))
    fat, water = (scan(tmp_path / f"s_{n}.nii.gz", seed=k) for k, n in enumerate(("Fat", "water")))
    swapped = [f"fat={water}", f"water={fat}"]
    assert predict(folder, *swapped, "--out", tmp_path / "o") == 1
    assert "whose name says water" in capsys.readouterr().err
    (tmp_path / "s.csv").write_text(f"case,fat,water\na,{water.name},{fat.name}\n")
    assert predict(folder, tmp_path / "s.csv", "--out", tmp_path / "o") == 1
    assert "case a: fat is" in capsys.readouterr().err
    assert predict(folder, *swapped, "--as-given", "--out", tmp_path / "o") == 0
    assert predict(folder, f"fat={fat}", f"water={water}", "--out", tmp_path / "p") == 0


def test_the_overlap_of_windows_is_the_models_own(tmp_path):
    path = scan(tmp_path / "x.nii.gz", shape=(20, 30, 12))
    made = []
    for name, overlap in (("a", None), ("b", 0.5), ("c", 0.0)):
        folder = model(tmp_path / name, ndim=3, slice_axis=None, overlap=overlap)
        assert predict(folder, path, "--out", tmp_path / f"o{name}", "--probabilities") == 0
        made.append(np.asarray(nib.load(tmp_path / f"o{name}/x_probabilities.nii.gz").dataobj))
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 0


def test_a_log_gets_a_line_now_and_then_and_a_constant_scan_a_warning(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("medseg.stages.predict._PAUSE", 0.0)
    folder = model(tmp_path / "m")
    scan(tmp_path / "in" / "a.nii", values=np.zeros((8, 8, 4), np.float32))
    scan(tmp_path / "in" / "b.nii", shape=(8, 8, 4))
    assert predict(folder, tmp_path / "in", "--out", tmp_path / "o") == 0
    told = capsys.readouterr().err
    assert "case 1 of 2, about" in told
    assert "warning: case a: channel image is constant (0)" in told
    (note,) = json.loads((tmp_path / "o" / "a.json").read_text())["warnings"]
    assert note.startswith("channel image is constant (0)")
