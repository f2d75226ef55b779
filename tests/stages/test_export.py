"""`medseg export`: what comes out gives the same values, or is not written."""

import json
import zipfile

import numpy as np
import pytest
import torch
from tiny import model

from medseg import package
from medseg.cli import main
from medseg.stages import export


def run(*arguments):
    return main(["export", *map(str, arguments)])


@pytest.fixture(scope="session")
def flat(tmp_path_factory):
    return model(tmp_path_factory.mktemp("model") / "flat", ("fat", "water"))


def test_onnx_takes_any_batch_and_size(flat, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run(flat, "--format", "onnx", "--out", tmp_path / "m.onnx") == 0
    assert "any batch" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    image = torch.randn(3, 2, 20, 12)
    (found,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        wanted = package.load(flat).network(image).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    meaning = json.loads(session.get_modelmeta().custom_metadata_map["medseg"])
    assert meaning["channels"] == ["fat", "water"]


def test_a_program_is_loaded_by_torch(flat, tmp_path, capsys):
    assert run(flat, "--format", "program", "--out", tmp_path / "m.pt2") == 0
    assert "largest difference" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "m.pt2").module()
    image = torch.randn(1, 2, 24, 8)
    torch.testing.assert_close(program(image), package.load(flat).network(image))


def test_a_bundle_names_its_network_and_channels(tmp_path, capsys):
    block = {"block": "residual", "class": "Residual", "arguments": {}}
    sizes = {"in_channels": 1, "n_classes": 3, "width": 4, "depth": 1, "ndim": 3, "block": block}
    network = {"name": "unet", "class": "UNet", "arguments": sizes}
    folder = model(tmp_path / "m", network=network, ndim=3, spacing_mm=[1, 1, 1])
    assert run(folder, "--format", "bundle", "--out", tmp_path / "b.zip") == 0
    assert "largest difference 0 " in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        names = set(archive.namelist())
        content = json.loads(archive.read("b/configs/metadata.json"))
    assert {"b/models/model.pt", "b/configs/inference.json"} <= names
    data = content["network_data_format"]
    assert data["inputs"]["image"]["channel_def"] == {"0": "image"}
    assert data["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "disc", "2": "cord"}


def test_values_that_differ_are_an_error_and_write_nothing(flat, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "_TOLERANCE", -1.0)
    assert run(flat, "--format", "bundle", "--out", tmp_path / "b") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(flat, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert run(flat, "--format", "onnx", "--out", tmp_path / "m.onnx") == 1
    assert "medseg[export]" in capsys.readouterr().err


def test_what_is_in_the_way_is_not_replaced(flat, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    for kind in ("bundle", "program"):
        assert run(flat, "--format", kind, "--out", tmp_path) == 1
    assert "folder" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_ensemble_is_exported_one_by_one(tmp_path, capsys):
    for name in ("f0", "f1"):
        model(tmp_path / "m" / name)
    assert run(tmp_path / "m", "--format", "program", "--out", tmp_path / "x.pt2") == 1
    assert "one is exported at a time" in capsys.readouterr().err
