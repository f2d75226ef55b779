"""Recipes of the sphere: every network maps maps, every experiment trains and predicts."""

import argparse
import json
from pathlib import Path

import healpy
import numpy as np
import pytest
import skies
import torch

from medseg import cli, config, package
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import whole_pixels
from medseg.stages.prepare import prepare_recipe

NSIDE = {"spherenet_climate": 64, "spherenet_climate_jiang": 64, "spherenet_shrec": 32}
NSIDE |= {"spherenet_cosmology": 64}


@pytest.mark.parametrize("stem", skies.networks())
def test_every_network_of_the_sphere_maps_maps(stem: str) -> None:
    cfg = config.compose("train", [f"model={stem}"])
    facts = {"in_channels": 2, "n_classes": 3 if "sphere" in stem else 1}
    given = {name: value for name, value in facts.items() if config.accepts(cfg.model, name)}
    network = config.build(cfg.model, **given).eval()
    assert (network.ndim, network.stride) == (1, 1)
    if hasattr(network, "needs_prior"):
        seen = np.arange(192) > 20
        values = np.where(seen, np.random.default_rng(0).normal(size=(1, 192)), 0)
        prior = Prior(np.ones((4, 9)), noise_uk=1.0)
        filled = network.fill(values, seen=seen, prior=prior)
        assert np.array_equal(filled[:, seen], values[:, seen])
        assert np.isfinite(filled).all()
        return
    nside = NSIDE.get(stem, 16)
    footprint = config.plain(cfg.model).get("footprint")
    part = 12 * nside**2
    if footprint:
        part = len(whole_pixels(nside, footprint[0], pixels=footprint[1]))
    with torch.no_grad():
        found = network(torch.randn(1, 2, part))
    cases = getattr(network, "of_cases", False)
    assert found.shape == (1, facts["n_classes"], *(() if cases else (part,)))
    assert len(network.not_exportable.split()) > 3


@pytest.mark.parametrize("experiment", skies.experiments())
def test_every_experiment_of_the_sphere_trains_two_steps_and_predicts_a_file(
    experiment: str, tmp_path: Path
) -> None:
    from medseg.stages.train import train

    few = ["data.source.nside=16", "data.source.n_train=2", "data.source.n_val=1"]
    short = ["trainer.max_epochs=1", "trainer.steps_per_epoch=2", "trainer.batch_size=1"]
    cfg = config.compose(
        "train", [f"experiment={experiment}", *few, "data.source.n_test=1", *short]
    )
    source, run = tmp_path / "prepared", tmp_path / "run"
    prepare_recipe(cfg, None, out=source)
    run.mkdir()
    train(cfg, argparse.Namespace(source=source, out=run, folder=run, sweep=False, config_dirs=[]))
    assert len((run / "metrics.csv").read_text().splitlines()) == 2
    assert package.load(run / "model").spec["nside"] == 16
    out = tmp_path / "found"
    call = ["predict", run / "model", source / "samples.csv", "--split", "test", "--out", out]
    assert cli.main([str(word) for word in call]) == 0
    assert json.loads((out / "test-000.json").read_text())["status"] == "ok"
    found = healpy.read_map(out / "test-000.fits")
    assert found.shape == (3072,)
    if cfg.data.labels:
        assert set(np.unique(found)) <= set(range(len(cfg.data.labels) + 1))
        return
    truth = healpy.read_map(source / "raw" / "test-000.fits")
    seen = healpy.read_map(source / "raw" / "mask.fits") > 0.5
    assert np.array_equal(found[seen], truth[seen])
    assert np.isfinite(found).all()
