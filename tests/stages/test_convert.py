"""Published weights become a model folder that predicts the same; anything else is refused."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from medseg import package
from medseg.cli import main
from medseg.models.hybridgnet import HybridGNet, from_published
from medseg.nn.published import ORGANS, PRESET
from medseg.stages.convert import parse_organs, read_state

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from published_hybridgnet import state_of

LH = {"right_lung": 44, "left_lung": 50, "heart": 26}
SIZES = {"widths": [2, 3, 4, 5, 6, 6], "latent": 5, "width": 8}


def made(path, organs=LH, lookups=(6, 5), **arguments):
    """A checkpoint of random weights in the authors' names, and its network."""
    state, given = state_of(organs, lookups, **(SIZES | arguments))
    torch.save(state, path)
    network = HybridGNet(**given).eval()
    network.load_state_dict(from_published(state))
    return network


def converted(path, *options):
    out = path.with_name("model")
    arguments = ["convert", path, "--network", "hybridgnet", "--out", out, *options]
    return main([str(a) for a in arguments]), out


@pytest.mark.parametrize(
    ("organs", "lookups", "form"),
    [
        (LH, (6, 5), {}),
        (LH, (6, 5), {"clean": True}),
        (dict(list(ORGANS.items())[:2]), (), {"pooling": False}),
        (ORGANS, (2,), {"size": 96}),
    ],
)
def test_a_checkpoint_predicts_as_before(tmp_path, organs, lookups, form):
    network = made(tmp_path / "w.pt", organs, lookups, **form)
    code, out = converted(tmp_path / "w.pt")
    found = package.load(out)
    image = torch.rand(1, 1, network.size, network.size)
    assert code == 0
    assert found.spec["network"]["arguments"]["organs"] == organs
    assert list(found.spec["network"]["arguments"]["organs"]) == list(organs)
    assert (found.spec["task"]["name"], found.channels) == ("landmarks", ("image",))
    assert found.spec["size"] == network.size
    assert torch.equal(found.network(image), network(image))


def test_published_weights_keep_their_outputs(reference, tmp_path):
    file = reference / "fixtures/hybridgnet/hybrid_LH_in64_recipe.safetensors"
    tensors = load_file(file)
    state = {k.removeprefix("param/"): t for k, t in tensors.items() if k.startswith("param/")}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    code, out = converted(tmp_path / "w.pt", "--size", 64)
    found = package.load(out)
    assert code == 0
    assert {k: found.spec["network"]["arguments"][k] for k in PRESET} == PRESET
    landmarks = found.network(tensors["in/image"])
    assert_close(landmarks, tensors["out_upstream/0"], atol=1e-5, rtol=0)


def test_own_organs_and_levels_are_taken(tmp_path):
    organs = {"ring": 9, "line": {"nodes": 6, "closed": False}}
    network = made(tmp_path / "w.pt", organs, (5,))
    code, out = converted(tmp_path / "w.pt", "--organs", "ring=9,line=6:open", "--lookups", "5")
    image = torch.rand(1, 1, 64, 64)
    assert code == 0
    assert torch.equal(package.load(out).network(image), network(image))


def test_a_level_that_the_weights_do_not_tell_is_said(tmp_path, capsys):
    made(tmp_path / "w.pt", LH, (5,))
    code, _ = converted(tmp_path / "w.pt")
    assert code == 0
    assert "level 6 was taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--size", "1024"], "images of 64 x 64"),
        (["--organs", "heart=26"], "the organs have 26 nodes"),
        (["--organs", "heart"], "not NAME=NODES"),
        (["--lookups", "3"], "does not fit"),
        (["--lookups", "deep"], "give levels"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(tmp_path, capsys, options, text):
    made(tmp_path / "w.pt", LH, (6,))
    code, out = converted(tmp_path / "w.pt", *options)
    assert code == 1
    assert text in capsys.readouterr().err
    assert not out.exists()


class Whole:
    """What a program that saves whole objects leaves in a file."""


@pytest.mark.parametrize(
    "content",
    [Whole(), {"a": 1}, [torch.zeros(2)], {}, {"conv.weight": torch.zeros(2)},
     {"dec_lin.weight": torch.zeros(2, 2)}],
)  # fmt: skip
def test_anything_but_a_state_dict_is_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "w.pt")
    code, out = converted(tmp_path / "w.pt")
    assert code == 1
    assert "state dict" in capsys.readouterr().err.replace("state_dict", "state dict")
    assert not out.exists()


def test_no_checkpoint_is_refused(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut")
    for name in ("text.pt", "cut.pt", "absent.pt"):
        assert converted(tmp_path / name)[0] == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_state(tmp_path)


def test_a_network_without_published_weights_is_refused(tmp_path, capsys):
    arguments = ["convert", tmp_path / "w.pt", "--network", "unet", "--out", tmp_path / "m"]
    assert main([str(a) for a in arguments]) == 1
    assert "there are hybridgnet" in capsys.readouterr().err


def test_organs_are_read_in_order():
    found = parse_organs("heart=26, line=6:open")
    assert list(found.items()) == [("heart", 26), ("line", {"nodes": 6, "closed": False})]
    with pytest.raises(ValueError, match="twice"):
        parse_organs("heart=26,heart=26")
