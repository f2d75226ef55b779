"""`medseg export`: what comes out gives the same values, or is not written."""

import json
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import model, scan

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


def test_a_volume_network_keeps_its_sizes_free_without_chatter(tmp_path, capfd):
    """A window of one stride along an axis, as thick slices have it, must not fix that size."""
    folder = model(tmp_path / "m", ndim=3, slice_axis=None, patch_size=[4, 8, 8])
    assert run(folder, "--format", "program", "--out", tmp_path / "m.pt2") == 0
    told = capfd.readouterr()
    assert told.err == ""
    assert "any batch and any size" in told.out
    image = torch.randn(1, 1, 8, 12, 20)
    program = torch.export.load(tmp_path / "m.pt2").module()
    torch.testing.assert_close(program(image), package.load(folder).network(image))


def test_a_network_that_cannot_be_free_is_told_in_one_line(flat, tmp_path, monkeypatch, capsys):
    def shapes(_):
        raise ValueError("no\nreally")

    monkeypatch.setattr(export, "_shapes", shapes)
    assert run(flat, "--format", "program", "--out", tmp_path / "m.pt2") == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "windows of 1x2x8x8" in told.out


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_bundle_runs_in_monai_with_the_trained_weights(ndim, tmp_path):
    from monai.bundle import ConfigParser

    names = ("fat", "water")
    fields = {"ndim": ndim, "slice_axis": 2 if ndim == 2 else None, "intensity": "zscore"}
    folder = model(tmp_path / "m", names, **fields)
    assert run(folder, "--format", "bundle", "--out", tmp_path / "b") == 0
    files = [str(scan(tmp_path / f"{n}.nii.gz", seed=i)) for i, n in enumerate(names)]
    parser = ConfigParser()
    parser.read_config(tmp_path / "b" / "configs" / "inference.json")
    parser["bundle_root"], parser["cases"] = str(tmp_path / "b"), [files]
    parser["device"] = "cpu"
    image = torch.randn(1, 2, *[8] * ndim)
    network = parser.get_parsed_content("network")
    with torch.no_grad():
        torch.testing.assert_close(network(image), package.load(folder).network(image))
        parser.get_parsed_content("run")
    made = nib.load(tmp_path / "b" / "output" / "fat_seg.nii.gz")
    assert made.shape == nib.load(files[0]).shape
    np.testing.assert_allclose(made.affine, nib.load(files[0]).affine, atol=1e-5)
    assert len(np.unique(np.asarray(made.dataobj))) > 1


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("onnx", "m.txt", "give {0}/m.onnx"),
        ("program", "m", "give {0}/m.pt2"),
        ("bundle", "m.pt2", "a folder or a .zip file"),
        ("program", "file/m.pt2", "cannot be written"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(flat, tmp_path, capsys, kind, name, text):
    (tmp_path / "file").write_text("")
    assert run(flat, "--format", kind, "--out", tmp_path / name) == 1
    assert text.format(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
