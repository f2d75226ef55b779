"""Defaults are read from source as Python itself would bind them."""

import inspect

import pytest

from medseg import defaults, signature

TARGETS = [
    "medseg.models.ivdnet.IVDNet",
    "medseg.models.unet.UNet",
    "medseg.nn.blocks.residual.Residual",
    "medseg.tasks.learner.cosine",
    "medseg.data.transforms.Spatial",
    "medseg.data.phantoms.spine.Spine",
    "medseg.losses.dice_ce",
    "medseg.windows.Tiling",
]


@pytest.mark.parametrize("target", TARGETS)
def test_the_source_says_what_the_signature_says(target):
    wanted = {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in inspect.signature(signature.locate(target)).parameters.items()
        if p.default is not p.empty
    }
    assert defaults.of(target) == wanted


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two files in place of this one."""
    (tmp_path / "base.py").write_text(
        "SIZE = (3, 5)\n"
        "class Base:\n"
        "    def __init__(self, size=SIZE, *, rate=1 / 8): ...\n"
        "def make(n, m=2): ...\n"
    )
    (tmp_path / "child.py").write_text(
        "from dataclasses import dataclass\n"
        "from medseg.base import Base, make as build, SIZE\n"
        "class Child(Base): ...\n"
        "@dataclass\n"
        "class Box:\n"
        "    side: int\n"
        "    sizes: tuple = SIZE\n"
    )
    monkeypatch.setattr(defaults, "PACKAGE", tmp_path)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Child", {"size": [3, 5], "rate": "1 / 8"}),
        ("build", {"m": 2}),
        ("Box", {"sizes": [3, 5]}),
        ("Nothing", {}),
    ],
)
@pytest.mark.usefixtures("package")
def test_bases_imports_constants_and_fields_are_followed(name, wanted):
    assert defaults.of(f"medseg.child.{name}") == wanted
    assert defaults.of(f"other.child.{name}") == {}


@pytest.mark.usefixtures("package")
def test_nodes_are_filled_inside_out():
    inner = {"_target_": "medseg.base.Base", "_partial_": True, "rate": 0.5}
    node = {"_target_": "medseg.child.Box", "_args_": [1], "inner": [inner]}
    found = defaults.filled({"a": node, "b": 1})
    assert found["a"] == {**node, "inner": [{**inner, "size": [3, 5]}], "sizes": [3, 5]}
    made = {"_target_": "medseg.base.make", "_args_": [1, 7]}
    assert defaults.filled(made) == made
    assert defaults.filled({"_target_": "medseg.base.make", "m": 2.0})["m"] == 2
