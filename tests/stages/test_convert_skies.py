"""Published weights of the sphere's U-Nets become a model folder for maps of the sphere."""

import sys
from pathlib import Path

import pytest
import torch

from medseg import package
from medseg.cli import main
from medseg.models.spherenet import SphereNet, from_published, published_arguments

sys.path.insert(0, str(Path(__file__).parents[1] / "nn"))

from deepsphere_states import climate, weather


def converted(path, *options):
    out = path.with_name("model")
    arguments = ["convert", path, "--network", "spherenet", "--out", out, *options]
    return main([str(a) for a in arguments]), out


@pytest.mark.parametrize(("state", "depth"), [(climate(), 5), (weather(), 2)])
def test_a_checkpoint_predicts_as_before(tmp_path, state, depth):
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    names = ["--labels", "cyclone,river"] if depth == 5 else []
    code, out = converted(tmp_path / "w.pt", "--nside", 64, "--kind", "knn8", *names)
    found = package.load(out)
    network = SphereNet(**published_arguments(state, kind="knn8")).eval()
    network.load_state_dict(from_published(state))
    image = torch.randn(1, len(found.channels), 12 * 4**depth)
    assert code == 0
    assert found.spec["nside"] == 64
    assert found.labels == (("cyclone", "river") if depth == 5 else ("class_1",))
    assert torch.equal(found.network(image), network(image))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--nside is missing"),
        (["--nside", 48], "power of two"),
        (["--nside", 64, "--organs", "heart=5"], "--organs says nothing of spherenet"),
        (["--nside", 64, "--labels", "a"], "give 2 different names"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, capsys, options, words):
    torch.save(climate(), tmp_path / "w.pt")
    code, out = converted(tmp_path / "w.pt", *options)
    assert code != 0
    assert words in capsys.readouterr().err
    assert not out.exists()
