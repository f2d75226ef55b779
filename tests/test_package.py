"""A model folder gives the same network back, and chooses nothing that is not a network of ours."""

import json
import os

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg import package
from medseg.provenance import hash_file


def spec(**network):
    arguments = {"in_channels": 2, "n_classes": 2, "width": 4, "depth": 2}
    return {
        "task": {"name": "segment", "arguments": {}},
        "network": {"name": "unet", "class": "UNet", "arguments": arguments, **network},
        "channels": ["fat", "water"],
        "labels": {"disc": [1, 2]},
        "spacing_mm": None,
        "intensity": "zscore",
        "slice_axis": 0,
        "ndim": 2,
        "patch_size": [8, 8],
    }


@pytest.fixture
def saved(tmp_path):
    content = spec()
    network = package.build(content["network"]).eval()
    package.save(tmp_path / "model", network, spec=content)
    return tmp_path / "model", network


def test_a_saved_network_comes_back_with_the_same_values(saved):
    folder, network = saved
    loaded = package.load(folder)
    image = torch.randn(1, 2, 8, 8)
    assert_close(loaded.network(image), network(image), rtol=0, atol=0)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert loaded.channels == ("fat", "water")
    assert loaded.labels == ("disc",)
    assert loaded.stride == (4, 4)


def test_a_block_is_named_by_its_file(tmp_path):
    content = spec()
    block = {"block": "residual", "class": "Residual", "arguments": {}}
    content["network"]["arguments"]["block"] = block
    network = package.build(content["network"]).eval()
    package.save(tmp_path / "m", network, spec=content)
    image = torch.randn(1, 2, 8, 8)
    assert_close(package.load(tmp_path / "m").network(image), network(image), rtol=0, atol=0)
    assert any("residual" in type(m).__module__ for m in network.modules())


def test_a_graph_layer_is_named_by_its_class_in_torch_geometric():
    factory = package._argument({"graph": "GCNConv", "arguments": {"improved": True}})
    layer = factory(3, 4)
    assert type(layer).__module__.startswith("torch_geometric.nn")
    assert layer.improved
    for name in ("load", "../os", "functional", None):
        with pytest.raises(ValueError, match="torch_geometric"):
            package._argument({"graph": name})


def test_the_hash_covers_weights_and_meaning(saved):
    folder, network = saved
    first = package.load(folder).sha256
    package.save(folder, network, spec={**spec(), "labels": {"cord": [1]}})
    second = package.load(folder).sha256
    with torch.no_grad():
        next(network.parameters()).add_(1)
    package.save(folder, network, spec=spec())
    assert len({first, second, package.load(folder).sha256}) == 3


def test_models_are_found_below_a_folder(tmp_path):
    network = package.build(spec()["network"])
    wanted = [tmp_path / "runs" / name / "model" for name in ("0", "1")]
    for folder in wanted:
        package.save(folder, network, spec=spec())
    assert package.find(tmp_path) == wanted
    assert package.find(wanted[0]) == [wanted[0]]
    assert package.find(wanted[0].parent) == [wanted[0]]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        package.find(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no model in"):
        package.find(tmp_path / "empty")


def change(folder, **fields):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def unet(**arguments):
    return {"name": "unet", "class": "UNet", "arguments": arguments}


@pytest.mark.parametrize(
    "network",
    [
        {"name": "os", "class": "system"},
        {"name": "../nn/conv", "class": "Conv"},
        {"name": "unet.os", "class": "UNet"},
        {"name": "unet", "class": "Tensor"},
        {"name": "unet", "class": "nn"},
        {"name": "unet", "class": "conv"},
        {"name": "unet", "class": "UNet.__init__"},
        {"name": "__init__", "class": "X"},
        {"name": ["unet"], "class": "UNet"},
        unet(block={"block": "os", "class": "system"}),
        unet(depth={"block": "conv", "class": "x"}),
    ],
)  # fmt: skip
def test_only_our_networks_can_be_named(saved, network):
    folder, _ = saved
    change(folder, network=network)
    with pytest.raises(ValueError, match="names"):
        package.load(folder)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format": 9}, "format 9"),
        ({"channels": []}, "'channels'"),
        ({"channels": ["a", "a"]}, "'channels'"),
        ({"labels": {}}, "'labels'"),
        ({"spacing_mm": [1, 0, 1]}, "'spacing_mm'"),
        ({"ndim": 4}, "'ndim'"),
        ({"patch_size": [8]}, "patch_size"),
        ({"network": unet(size=1)}, "cannot be built"),
        ({"network": unet(in_channels=3, n_classes=2)}, "does not fit"),
        ({"sha256": "0" * 64}, "is not the file"),
    ],
)  # fmt: skip
def test_a_spec_that_is_wrong_is_named(saved, fields, text):
    folder, _ = saved
    change(folder, **fields)
    with pytest.raises(ValueError, match=text):
        package.load(folder)


def test_damaged_weights_are_refused(saved):
    folder, _ = saved
    weights = folder / package.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="copy the model folder again"):
        package.load(folder)
    weights.write_bytes(b"no tensors")
    change(folder, sha256=hash_file(weights))
    with pytest.raises(ValueError, match="not a safetensors file"):
        package.load(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        package.load(folder)


def test_a_spec_that_would_not_build_the_network_is_refused_and_nothing_is_left(tmp_path):
    content = spec()
    with pytest.raises(ValueError, match="does not fit"):
        package.save(tmp_path / "m", nn.Conv2d(2, 2, 3), spec=content)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    content = spec()
    with pytest.raises(ValueError, match="something other than a model"):
        package.save(tmp_path, package.build(content["network"]), spec=content)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_every_file_of_a_model_is_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        package.save(tmp_path / "m", package.build(spec()["network"]), spec=spec())
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()}
    assert modes == {"model.json": 0o640, "model.safetensors": 0o640}
