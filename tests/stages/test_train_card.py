"""`medseg train` and `predict` on a card against the processor, in float32."""

import csv
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch
from test_train import data as data
from test_train import run

from medseg import cli

NO_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def both(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One short training on the processor and the same one on the card, in float32."""
    folder = tmp_path_factory.mktemp("both")
    for accelerator in ("cpu", "gpu"):
        more = [f"trainer.accelerator={accelerator}", "trainer.precision=32-true", "augment=none"]
        more += ["trainer.max_epochs=20", "trainer.val_every=20"]
        assert run(*more, "--in", data, "--out", folder / accelerator) == 0
    return {name: folder / name for name in ("cpu", "gpu")}


def bright_scans(folder: Path) -> list[str]:
    """The four channels of a case like those that were learned from: noise and a bright box."""
    rng = np.random.default_rng(7)
    box = np.zeros((6, 20, 24), np.float32)
    box[1:5, 4:13, 5:14] = 2
    scans = []
    for channel in ("fat", "inphase", "opposed", "water"):
        values = (rng.normal(size=box.shape) + box).astype(np.float32)
        scans.append(f"{channel}={tiny.scan(folder / f'{channel}.nii', values=values)}")
    return scans


@pytest.mark.gpu
@NO_CARD
def test_the_card_computes_the_cpus_loss(both: dict[str, Path]) -> None:
    first = [next(csv.DictReader((both[d] / "metrics.csv").open())) for d in ("cpu", "gpu")]
    losses = [float(row["train_loss"]) for row in first]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.gpu
@NO_CARD
def test_the_card_finds_the_cpus_labels(both: dict[str, Path], tmp_path: Path) -> None:
    """One model gives the same labels on both but for ties; two trainings drift apart a little."""
    scans = bright_scans(tmp_path)
    found = {}
    for trained, device in itertools.product(both, ("cpu", "cuda")):
        out = tmp_path / f"{trained}-{device}"
        line = [str(both[trained] / "model"), *scans, "--device", device, "--out", str(out)]
        assert cli.main(["predict", *line]) == 0
        image = nib.load(next(out.glob("*.nii.gz")))
        found[trained, device] = np.asarray(image.dataobj)
    assert 0 < (found["cpu", "cpu"] > 0).mean() < 0.5
    for trained in both:
        assert (found[trained, "cpu"] == found[trained, "cuda"]).mean() >= 0.999
    assert (found["cpu", "cpu"] == found["gpu", "cuda"]).mean() >= 0.98
