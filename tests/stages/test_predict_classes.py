"""`medseg predict` with a model that tells cases apart: a class, its probabilities, one table."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from named import CLASSES
from tiny import scan

from medseg import package
from medseg.cli import main
from medseg.data.classified import predictions
from medseg.ensemble import Ensemble
from medseg.tasks import classify

SHAPE = (20, 24, 1)


def model(folder, *, seed=0, **fields):
    """A packaged small ResNet with random weights."""
    network = {
        "name": "complexresnet",
        "class": "ComplexResNet",
        "arguments": {"in_channels": 1, "n_classes": 3, "arm": "real", "width": 4},
    }
    spec = {
        "task": {"name": "classify", "arguments": {}},
        "network": network,
        "channels": ["t1"],
        "optional_channels": False,
        "classes": list(CLASSES),
        "temperature": 1.0,
        "spacing_mm": None,
        "intensity": "zscore",
        "slice_axis": 2,
        "ndim": 2,
        "patch_size": [16, 16],
        **fields,
    }
    torch.manual_seed(seed)
    package.save(folder, package.build(spec["network"]), spec=spec)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return model(tmp_path_factory.mktemp("class") / "one")


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def told(folder, case="a"):
    return json.loads((folder / f"{case}.json").read_text())


def test_a_case_is_a_class_with_probabilities_that_sum_to_one(one, tmp_path):
    path = scan(tmp_path / "a.nii.gz", shape=SHAPE)
    assert predict(one, path, "--out", tmp_path / "out") == 0
    found = told(tmp_path / "out")
    assert found["task"] == "classify"
    assert found["classes"] == list(CLASSES)
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert found["class"] == max(found["probabilities"], key=found["probabilities"].get)
    assert found["temperature"] == 1.0
    assert "entropy" not in found
    assert any("sees the middle 16 x 16" in text for text in found["warnings"])
    with (tmp_path / "out/a.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["case"], row["class"]) == ("a", found["class"])
    assert [float(row[f"p_{name}"]) for name in CLASSES] == pytest.approx(
        list(found["probabilities"].values()), abs=1e-5
    )
    assert predict(one, path, "--out", tmp_path / "out") == 0
    assert list(predictions(tmp_path / "out")) == ["a"]


def test_the_probabilities_are_the_networks_own_at_its_temperature(one, tmp_path):
    values = np.random.default_rng(0).normal(100, 20, (16, 16, 1)).astype(np.float32)
    path = scan(tmp_path / "a.nii.gz", values=values, affine=np.eye(4))
    hot = model(tmp_path / "hot", temperature=2.5)
    network = package.load(one).network
    image = (values - values.mean()) / values.std()
    logits = network(torch.from_numpy(image[None, None, ..., 0]))[0].double()
    for folder, heat in ((one, 1.0), (hot, 2.5)):
        assert predict(folder, path, "--out", tmp_path / "out", "--overwrite") == 0
        found = list(told(tmp_path / "out")["probabilities"].values())
        np.testing.assert_allclose(found, (logits / heat).softmax(0), atol=1e-5)


def test_kspace_says_how_it_became_an_image_and_that_its_millimetres_are_unknown(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    np.save(tmp_path / "a.npy", (numbers[0] + 1j * numbers[1]).astype(np.complex64))
    arguments = {"in_channels": 2, "n_classes": 3, "complex_input": "real_imag", "width": 4}
    network = {"name": "complexresnet", "class": "ComplexResNet", "arguments": arguments}
    scaled = {"channels": ["kspace"], "intensity": "scale", "complex_input": "real_imag"}
    path = model(tmp_path / "complex", network=network, **scaled)
    assert predict(path, tmp_path / "a.npy", "--out", tmp_path / "out") == 0
    found = told(tmp_path / "out")
    assert (found["spacing_known"], found["coils"]) == (False, 3)
    assert any("counts as 1 mm" in text for text in found["warnings"])


def test_the_way_a_scan_is_stored_changes_no_probability(one, tmp_path):
    values = np.random.default_rng(1).normal(100, 20, (16, 18, 1)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    scan(tmp_path / "a.nii.gz", values=values, affine=affine)
    turned = nib.as_closest_canonical(nib.load(tmp_path / "a.nii.gz")).as_reoriented(
        np.array([[1, 1], [0, -1], [2, 1]])
    )
    nib.save(turned, tmp_path / "b.nii.gz")
    assert predict(one, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--out", tmp_path / "o") == 0
    ours, theirs = (told(tmp_path / "o", case)["probabilities"] for case in "ab")
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_models_together_are_their_mean_and_say_how_far_they_disagree(tmp_path):
    path = scan(tmp_path / "a.nii.gz", shape=(16, 16, 1))
    folders = [model(tmp_path / "many" / str(seed), seed=seed) for seed in range(2)]
    outs = []
    for number, folder in enumerate([*folders, tmp_path / "many"]):
        out = tmp_path / f"out{number}"
        assert predict(folder, path, "--out", out, "--uncertainty") == 0
        outs.append(told(out))
    shares = [np.array(list(found["probabilities"].values())) for found in outs]
    np.testing.assert_allclose(shares[2], (shares[0] + shares[1]) / 2, atol=1e-6)
    assert outs[2]["temperature"] == [1.0, 1.0]
    wanted = outs[2]["entropy"] - (outs[0]["entropy"] + outs[1]["entropy"]) / 2
    assert outs[2]["disagreement"] == pytest.approx(wanted, abs=1e-6)
    assert wanted > 0
    assert "disagreement" not in outs[0]


def test_models_of_other_classes_make_no_ensemble(tmp_path, capsys):
    model(tmp_path / "many/a")
    model(tmp_path / "many/b", classes=["x", "y", "z"])
    path = scan(tmp_path / "a.nii.gz", shape=SHAPE)
    assert predict(tmp_path / "many", path, "--out", tmp_path / "out") == 1
    assert "must agree on classes" in capsys.readouterr().err


def test_entropy_is_nought_where_one_class_is_certain_and_one_where_none_is():
    assert classify._entropy(np.array([1.0, 0.0, 0.0])) == 0
    assert classify._entropy(np.full(3, 1 / 3)) == pytest.approx(1)


def test_mirrored_views_are_averaged(one):
    symmetric = np.random.default_rng(2).normal(size=(1, 16, 16, 1)).astype(np.float32)
    symmetric = symmetric + symmetric[:, ::-1] + symmetric[:, :, ::-1] + symmetric[:, ::-1, ::-1]
    networks = Ensemble([package.load(one)])
    from medseg.geometry.grid import Grid
    from medseg.geometry.resample import Passage

    way = Passage.to(Grid((16, 16, 1), np.eye(4)), None)
    plain, mirrored = (networks.classify(symmetric, way, mirror=m) for m in (False, True))
    np.testing.assert_allclose(plain, mirrored, atol=1e-5)
    skew = symmetric * np.linspace(0, 1, 16, dtype=np.float32)[:, None, None]
    plain, mirrored = (networks.classify(skew, way, mirror=m) for m in (False, True))
    assert np.abs(plain - mirrored).max() > 1e-4
    assert mirrored.sum() == pytest.approx(1, abs=1e-6)


def test_several_slices_for_a_2d_model_are_refused_with_the_ways_out(one, tmp_path, capsys):
    path = scan(tmp_path / "a.nii.gz", shape=(16, 16, 4))
    assert predict(one, path, "--out", tmp_path / "out") == 1
    assert "has 4 slices" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"classes": ["a", "a"]}, "'classes'"), ({"temperature": 0}, "'temperature'"),
     ({"classes": None}, "'classes'")],
)  # fmt: skip
def test_a_model_file_that_lacks_what_predict_needs_is_refused(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said):
        model(tmp_path / "bad", **fields)


def test_all_cases_stand_in_one_table_beside_the_others(one, tmp_path):
    for seed, case in enumerate(("b", "a")):
        scan(tmp_path / f"{case}.nii.gz", seed=seed, shape=(16, 16, 1))
    paths = [tmp_path / f"{case}.nii.gz" for case in ("b", "a")]
    assert predict(one, *paths, "--out", tmp_path / "out") == 0
    classify.gather(tmp_path / "out")
    with (tmp_path / "out" / classify.TABLE).open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert [row["class"] for row in rows] == [told(tmp_path / "out", c)["class"] for c in "ab"]


def test_a_prediction_can_be_scored(one, tmp_path):
    from named import sheet

    for seed, case in enumerate("ab"):
        scan(tmp_path / f"{case}.nii.gz", seed=seed, shape=(16, 16, 1))
    path = sheet(tmp_path, [("a", "", "glioma", "test"), ("b", "", "none", "test")])
    assert predict(one, path, "--out", tmp_path / "out") == 0
    options = ["--in", tmp_path / "out", "--reference", path, "--out", tmp_path / "scores"]
    assert main(["evaluate", *map(str, options)]) == 0
    told_all = json.loads((tmp_path / "scores/summary.json").read_text())
    assert told_all["n_cases"] == 2
    assert told_all["model"]["sha256"]
