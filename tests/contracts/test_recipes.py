"""Every YAML in conf/ builds; every experiment composes, trains two steps and predicts a file."""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import skies
import tiny_prepared
import torch

from medseg import cli, config, package

CONF = config.conf_dir()
GROUPS = ("model", "block", "task", "optimizer", "schedule", "augment", "trainer", "data")
ORGANS = {"one": 12, "two": {"nodes": 7, "closed": False}}
GIVEN = {
    "model": {"in_channels": 4, "n_classes": 2, "organs": ORGANS},
    "block": {"channels": 8},
    "task": {"model": None, "n_classes": 2, "organs": ORGANS},
}


def stems(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(("group", "stem"), [(g, s) for g in GROUPS for s in stems(g)])
def test_every_choice_composes_and_fits_its_constructor(group: str, stem: str) -> None:
    cfg = config.compose("train", [f"{group}={stem}"])
    if group in ("trainer", "data"):
        source = cfg.data.source
        known = ("path", "channels", "labels", "slice_axis", "organs", "size")
        given = [a for a in known if config.accepts(source, a) and a not in source]
        config.check_signature(source, "data.source", given=given)
        return
    given = [a for a in GIVEN.get(group, {}) if a not in cfg[group]]
    config.check_signature(cfg[group], group, given=given)


def made(stem: str, *names: str, in_channels: int, n_classes: int):
    """A small network of a recipe, and the shape of image that it takes."""
    cfg = config.compose("train", [f"model={stem}", *narrow(stem, *names)])
    facts = {"in_channels": in_channels, "n_classes": n_classes, "organs": ORGANS}
    facts["complex_input"] = "real_imag"
    given = {name: value for name, value in facts.items() if config.accepts(cfg.model, name)}
    network = config.build(cfg.model, **given).eval()
    side = network.stride if isinstance(network.stride, int) else max(network.stride)
    sides = [getattr(network, "size", None) or max(16, side)] * network.ndim
    return network, torch.randn(1, in_channels, *sides)


@pytest.mark.parametrize("stem", sorted({*stems("model")} - {*skies.networks()}))
def test_every_network_maps_images_to_logits_or_landmarks(stem: str) -> None:
    network, image = made(stem, in_channels=4, n_classes=4)
    found = network(image)
    of_cases = getattr(network, "of_cases", False)
    space = () if of_cases else image.shape[2:]
    assert found.shape == ((1, 19, 2) if hasattr(network, "organs") else (1, 4, *space))


@pytest.mark.parametrize("stem", sorted({*stems("model")} - {*skies.networks()}))
def test_every_network_is_exported_or_says_why_not(stem: str) -> None:
    """A network that cannot be exported has a sentence `not_exportable`."""
    network, image = made(stem, "width", "depth", in_channels=2, n_classes=3)
    if reason := getattr(network, "not_exportable", ""):
        assert len(reason.split()) > 3
        return
    program = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(program(image), network(image))


@pytest.mark.parametrize("stem", stems("block"))
def test_every_block_keeps_shape_in_a_network_that_takes_one(stem: str) -> None:
    cfg = config.compose("train", ["model=unet", f"block={stem}", "model.width=4"])
    network = config.build(cfg.model, in_channels=1, n_classes=2)
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 2, 32, 32)
    assert config.network_spec(cfg.model)["arguments"]["block"]["block"] == stem


def narrow(model: str, *names: str) -> list[str]:
    """Overrides that make a network small, as far as it has these arguments; its width, if none."""
    found = config.plain(config.compose("train", [f"model={model}"]).model)
    small = [f"model.{name}=2" for name in names or ("width",) if config.accepts(found, name)]
    return [*small, "model.size=64"] if found.get("size") else small


@pytest.mark.parametrize("experiment", sorted({*stems("experiment")} - {*skies.experiments()}))
def test_every_experiment_trains_two_steps_and_predicts_a_file(
    experiment: str, tmp_path: Path
) -> None:
    from medseg.stages.train import train

    whole = config.compose("train", [f"experiment={experiment}"])
    small = ["trainer.max_epochs=1", "trainer.steps_per_epoch=2", "data.folds=0"]
    chosen = [f"experiment={experiment}", *small, *narrow(str(whole.choices.model))]
    if whole.data.size:
        chosen.append("data.size=64")
    cfg = config.compose("train", chosen)
    one_slice = bool(cfg.data.classes) and cfg.data.source.get("ndim", 2) == 2
    shape = (32, 32, 1) if one_slice else (4, 32, 32)
    source = tiny_prepared.prepared(tmp_path / "prepared", cfg, shape=shape)
    run = tmp_path / "run"
    run.mkdir()
    train(cfg, argparse.Namespace(source=source, out=run, folder=run, sweep=False, config_dirs=[]))
    model = package.load(run / "model")
    assert len((run / "metrics.csv").read_text().splitlines()) == 2
    if cfg.data.size:
        predicts_a_radiograph(run / "model", tmp_path)
        return
    facts = config.facts(cfg)
    logits = model.network(torch.randn(1, facts["in_channels"], *[32] * model.spec["ndim"]))
    assert logits.shape[1] == facts["n_classes"]
    kind = np.complex64 if cfg.data.complex_input == "real_imag" else np.float32
    inputs = scans(tmp_path, list(cfg.data.channels), kind, shape=(8, 20, 1 if one_slice else 4))
    arguments = [run / "model", *inputs, "--case", "one", "--out", tmp_path / "found"]
    assert cli.main(["predict", *map(str, arguments)]) == 0
    if cfg.data.classes:
        assert json.loads((tmp_path / "found" / "one.json").read_text())["status"] == "ok"
        return
    found = nib.load(tmp_path / "found" / "one.nii.gz")
    assert found.shape == (8, 20, 4)
    assert set(np.unique(np.asarray(found.dataobj))) <= set(range(len(cfg.data.labels) + 1))


def predicts_a_radiograph(model: Path, folder: Path) -> None:
    """Labels of an image of any size come in its own pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (70, 90), dtype=np.uint8)).save(folder / "one.png")
    found = folder / "found"
    assert cli.main(["predict", str(model), str(folder / "one.png"), "--out", str(found)]) == 0
    with Image.open(found / "one.png") as labels:
        assert labels.size == (90, 70)


def scans(folder: Path, channels: list[str], kind: type, shape: tuple[int, ...]) -> list[str]:
    """A scan of noise for each channel of one case, as predict takes them."""
    rng = np.random.default_rng(0)
    for name in channels:
        image = rng.normal(100, 10, shape).astype(kind)
        nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    return [f"{name}={folder / name}.nii.gz" for name in channels]
