"""From k-space to labels by the command line: what is written, where it lies, what is refused."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg import cli, package
from medseg.data.prepared import Prepared
from medseg.io import kspace
from medseg.nn.complex.parts import from_parts

SAMPLE = Path(__file__).parents[2] / "data" / "samples" / "brain_kspace" / "brain_8coil.npy"
SMALL = ("n_train=2", "n_val=1", "n_test=1", "shape=[32,32]", "n_coils=4", "acceleration=2")
CASES = [f"data.source.{part}" for part in SMALL]


def trained(folder: Path, *overrides: str) -> Path:
    """A complex U-Net after one step, and its prepared data beside it."""
    line = ["experiment=complexnet_brain", *CASES, "model.width=2", "trainer.max_epochs=1"]
    line += ["trainer.steps_per_epoch=1", *overrides]
    data = ["data=brain_tumour", *CASES, *(o for o in overrides if o.startswith("data."))]
    assert cli.main(["prepare", *data, "--out", str(folder / "prepared")]) == 0
    named = ["--in", str(folder / "prepared"), "--out", str(folder / "run")]
    assert cli.main(["train", *line, *named]) == 0
    return folder / "run" / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("kspace"))


def test_a_real_scan_comes_back_as_labels_magnitude_and_phase(model, tmp_path, capsys):
    line = ["predict", str(model), f"kspace={SAMPLE}", "--out", str(tmp_path)]
    assert cli.main(line) == 0
    assert "a voxel counts as 1 mm" in capsys.readouterr().err
    image = kspace.read(SAMPLE).image[0]
    found = {n: nib.load(tmp_path / f"brain_8coil{n}.nii.gz") for n in ("", "_magnitude", "_phase")}
    for one in found.values():
        assert one.shape == (180, 230, 1)
        np.testing.assert_array_equal(one.affine, np.eye(4))
    magnitude, phase = (found[n].get_fdata() for n in ("_magnitude", "_phase"))
    np.testing.assert_allclose(magnitude * np.exp(1j * phase), image, atol=1e-6)
    told = json.loads((tmp_path / "brain_8coil.json").read_text())
    assert (told["coils"], told["spacing_known"]) == (8, False)
    assert told["sampled"] == pytest.approx(0.1243, abs=1e-4)


def test_spacing_and_reconstruction_are_told(model, tmp_path):
    asked = ["--spacing-mm", "0.9,1.1,5", "--reconstruction", "sense"]
    line = ["predict", str(model), f"kspace={SAMPLE}", *asked, "--out", str(tmp_path)]
    assert cli.main(line) == 0
    told = json.loads((tmp_path / "brain_8coil.json").read_text())
    assert (told["reconstruction"], told["spacing_known"]) == ("sense", True)
    header = nib.load(tmp_path / "brain_8coil.nii.gz").header
    np.testing.assert_allclose(header.get_zooms(), (0.9, 1.1, 5))


def test_prediction_sees_the_very_numbers_of_preparation(model, tmp_path, monkeypatch):
    prepared = Prepared(model.parents[1] / "prepared")
    record = next(r for r in prepared.records() if r.split == "test")
    wanted = np.array(prepared.load(record).image[..., 0])
    seen = []
    kind = type(package.load(model).network)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: (seen.append(x), forward(self, x))[1])
    sheet = str(prepared.folder / "samples.csv")
    line = ["predict", str(model), sheet, "--split", "test", "--out", str(tmp_path)]
    assert cli.main(line) == 0
    assert torch.equal(seen[0][0], torch.from_numpy(wanted))
    assert from_parts(seen[0]).imag.abs().max() > 0


def test_a_model_reads_as_it_was_trained_unless_told_otherwise(tmp_path):
    model = trained(tmp_path, "data.reading.reconstruction=sense")
    assert package.read_spec(model)["reading"] == {"reconstruction": "sense"}
    for asked, wanted in (([], "sense"), (["--reconstruction", "zero_filled"], "zero_filled")):
        out = tmp_path / wanted
        line = ["predict", str(model), f"kspace={SAMPLE}", *asked, "--out", str(out)]
        assert cli.main(line) == 0
        assert json.loads((out / "brain_8coil.json").read_text())["reconstruction"] == wanted


def test_magnitude_alone_is_refused_with_the_choices(model, tmp_path, capsys):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).gamma(2, 1, (9, 9, 2)), np.eye(4)), path)
    assert cli.main(["predict", str(model), f"kspace={path}", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "the values are real" in said
    assert "zero_imag, fft, synthetic_phase, mag_phase" in said
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_the_manifest_names_arm_widths_and_cost(model):
    spec = package.read_spec(model)
    network = package.load(model).network
    arguments = spec["network"]["arguments"]
    assert (arguments["arm"], arguments["widths"]) == ("complex", list(network.widths))
    assert spec["cost"]["dof"] == sum(p.numel() for p in network.parameters())
    assert spec["complex_input"] == "real_imag"


def test_a_bundle_would_drop_the_phase_and_is_refused(model, tmp_path, capsys):
    line = ["export", str(model), "--format", "bundle", "--out", str(tmp_path / "bundle")]
    assert cli.main(line) != 0
    assert "drop imaginary parts" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_real_data_are_refused_by_a_complex_recipe_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "data=spine", "model=complexnet"]) == 1
    said = capsys.readouterr().err
    assert "the data are real" in said
    assert "data.complex_input=zero_imag" in said
    assert not (tmp_path / "data" / "prepared").exists()
