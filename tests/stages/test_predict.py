"""`medseg predict`: labels in the scan's own space, and an error for whatever cannot be done."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from tiny import model, scan

from medseg.cli import main
from medseg.data.pairs import broken_off


def predict(*arguments):
    return main(["predict", *map(str, arguments)])


def labels(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    return model(tmp_path_factory.mktemp("model") / "one")


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    return model(tmp_path_factory.mktemp("model") / "two", ("fat", "water"))


@pytest.fixture(scope="session")
def volume(tmp_path_factory):
    """A 3-D model that works at a spacing of its own."""
    folder = tmp_path_factory.mktemp("model") / "volume"
    return model(folder, ndim=3, slice_axis=None, spacing_mm=[1.5, 1.5, 2.0])


def test_output_has_the_geometry_codes_and_units_of_the_input(one, tmp_path):
    path = scan(tmp_path / "a b.nii.gz")
    assert predict(one, path, "--out", tmp_path / "out") == 0
    given, made = nib.load(path), nib.load(tmp_path / "out" / "a b.nii.gz")
    assert made.get_data_dtype() == np.uint8
    assert made.shape == given.shape
    np.testing.assert_array_equal(made.affine, given.affine)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert made.header[field] == given.header[field]
    sidecar = json.loads((tmp_path / "out" / "a b.json").read_text())
    assert sidecar["labels"] == {"disc": 1, "cord": 2}
    assert sidecar["sources"] == {"disc": [1, 2], "cord": [7]}
    assert sidecar["inputs"]["image"]["path"] == str(path)
    assert sidecar["status"] == "ok"
    assert sidecar["warnings"] == []
    assert sidecar["seconds"] > 0
    assert sidecar["peak_memory_mb"] > 50


@pytest.mark.parametrize("kind", ["one", "volume"])
def test_predict_of_a_turned_scan_is_the_turned_prediction(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    path = scan(tmp_path / "in" / "base.nii.gz", affine=np.diag([1.0, 1.2, 2.5, 1.0]))
    image = nib.load(path)
    turns = list(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    )
    for number, (axes, signs) in enumerate(turns):
        turn = np.stack([axes, signs], 1)
        nib.save(image.as_reoriented(turn), tmp_path / "in" / f"turn{number}.nii")
    assert len(turns) == 48
    assert predict(folder, tmp_path / "in", "--out", tmp_path / "out", "--uncertainty") == 0
    for what in ("", "_entropy"):
        made = nib.load(tmp_path / "out" / f"base{what}.nii.gz")
        for number, (axes, signs) in enumerate(turns):
            turned = nib.load(tmp_path / "out" / f"turn{number}{what}.nii.gz")
            wanted = made.as_reoriented(np.stack([axes, signs], 1))
            np.testing.assert_array_equal(labels_of(turned), labels_of(wanted))
            np.testing.assert_allclose(turned.affine, wanted.affine, atol=1e-5)
    assert len(np.unique(labels(tmp_path / "out" / "base.nii.gz"))) > 1


def labels_of(image):
    return np.asarray(image.dataobj)


def test_labels_are_the_argmax_of_the_probabilities_whatever_the_memory_and_batch(volume, tmp_path):
    path = scan(tmp_path / "x.nii.gz", shape=(20, 30, 12))
    assert predict(volume, path, "--out", tmp_path / "p", "--probabilities", "--mirror") == 0
    scores = labels(tmp_path / "p" / "x_probabilities.nii.gz")
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(labels(tmp_path / "p" / "x.nii.gz"), scores.argmax(-1))
    assert predict(volume, path, "--out", tmp_path / "q", "--mirror", "--batch-size", 1) == 0
    np.testing.assert_array_equal(labels(tmp_path / "q" / "x.nii.gz"), scores.argmax(-1))


def test_too_little_memory_is_refused_with_the_size_that_would_do(volume, tmp_path, capsys):
    path = scan(tmp_path / "x.nii.gz")
    assert predict(volume, path, "--out", tmp_path / "o", "--max-memory", "50M") == 1
    assert "would do" in capsys.readouterr().err
    assert predict(volume, path, "--out", tmp_path / "o", "--max-memory", "2T") == 0
    assert predict(volume, path, "--out", tmp_path / "o", "--max-memory", "much") == 1
    assert "4G" in capsys.readouterr().err


def test_an_ensemble_is_the_mean_of_its_members(tmp_path):
    path = scan(tmp_path / "x.nii.gz")
    model(tmp_path / "m" / "fold0", seed=1)
    model(tmp_path / "m" / "fold1", seed=2, patch_size=[16, 16])
    for name in ("fold0", "fold1", ""):
        assert (
            predict(tmp_path / "m" / name, path, "--out", tmp_path / f"o{name}", "--probabilities")
            == 0
        )
    first, second, both = (
        labels(tmp_path / f"o{n}" / "x_probabilities.nii.gz") for n in ("fold0", "fold1", "")
    )
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)
    assert len(json.loads((tmp_path / "o" / "x.json").read_text())["model"]["sha256"]) == 2


def test_members_that_disagree_are_refused(tmp_path, capsys):
    path = scan(tmp_path / "x.nii.gz")
    model(tmp_path / "m" / "fold0")
    model(tmp_path / "m" / "fold1", spacing_mm=[1, 1, 1])
    assert predict(tmp_path / "m", path, "--out", tmp_path / "o") == 1
    assert "agree on spacing_mm" in capsys.readouterr().err


def test_channels_are_known_by_name_in_any_order(two, tmp_path):
    fat, water = scan(tmp_path / "f.nii.gz", seed=1), scan(tmp_path / "w.nii.gz", seed=2)
    assert predict(two, f"fat={fat}", f"water={water}", "--out", tmp_path / "a") == 0
    assert predict(two, f"water={water}", f"fat={fat}", "--out", tmp_path / "b", "--case", "f") == 0
    np.testing.assert_array_equal(labels(tmp_path / "a/f.nii.gz"), labels(tmp_path / "b/f.nii.gz"))
    (tmp_path / "s.csv").write_text(f"case,note,water,fat\nf,ignored,{water},{fat}\n")
    assert predict(two, tmp_path / "s.csv", "--out", tmp_path / "c") == 0
    np.testing.assert_array_equal(labels(tmp_path / "a/f.nii.gz"), labels(tmp_path / "c/f.nii.gz"))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (["fta={f}", "water={w}"], "did you mean 'fat'?"),
        (["fat={f}"], "channel water is missing"),
        (["{f}"], "fat=PATH water=PATH"),
        (["fat={f}", "{w}"], "name its channel"),
        (["fat={f}", "fat={w}"], "given twice"),
        (["fat={f}", "water={f}", "--case", "x"], "hold the same image"),
        (["fat={f}", "water={same}"], "two inputs have the stem 'f'"),
        (["fat={f}", "water={other}"], "medseg check"),
        (["fat={f}", "water={nan}"], "NaN or infinite"),
        (["fat={f}", "water=nowhere.nii"], "does not exist"),
        (["{sheet}"], "no column 'water'"),
        (["{f}x"], "does not exist"),
    ],
)  # fmt: skip
def test_wrong_channels_are_named_with_a_cure(two, tmp_path, capsys, inputs, text):
    moved = np.diag([1.0, 1.2, 2.5, 1.0])
    bad = np.random.default_rng(0).normal(size=(13, 18, 7)).astype(np.float32)
    bad[3, 4, 5] = np.nan
    paths = {
        "f": scan(tmp_path / "f.nii.gz", seed=1),
        "w": scan(tmp_path / "w.nii.gz", seed=2),
        "same": scan(tmp_path / "other" / "f.nii", seed=2),
        "other": scan(tmp_path / "moved.nii.gz", seed=3, affine=moved),
        "nan": scan(tmp_path / "nan.nii.gz", values=bad),
        "sheet": tmp_path / "s.csv",
    }
    paths["sheet"].write_text("case,fat,watr\nf,f.nii.gz,w.nii.gz\n")
    assert predict(two, *(i.format(**paths) for i in inputs), "--out", tmp_path / "o") == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_model_with_modality_dropout_does_without_a_channel_and_says_so(tmp_path, capsys):
    folder = model(tmp_path / "m", ("fat", "water"), optional_channels=True)
    assert predict(folder, f"water={scan(tmp_path / 'w.nii.gz')}", "--out", tmp_path / "o") == 0
    assert "without fat" in capsys.readouterr().err
    assert "without fat" in json.loads((tmp_path / "o" / "w.json").read_text())["warnings"][0]


def test_a_failing_case_stops_no_other_and_its_earlier_output_stays(one, tmp_path, capsys):
    for name in "abc":
        scan(tmp_path / "in" / f"{name}.nii.gz", seed=ord(name))
    out = tmp_path / "out"
    assert predict(one, tmp_path / "in", "--out", out) == 0
    assert "3 predicted, 0 kept, 0 failed" in capsys.readouterr().out
    before, sidecar = (out / "b.nii.gz").read_bytes(), json.loads((out / "b.json").read_text())
    whole = (tmp_path / "in" / "b.nii.gz").read_bytes()
    (tmp_path / "in" / "b.nii.gz").write_bytes(whole[:-400])
    scan(tmp_path / "in" / "c.nii.gz", seed=9)
    assert predict(one, tmp_path / "in", "--out", out) == 1
    printed = capsys.readouterr()
    assert "1 predicted, 1 kept, 1 failed" in printed.out
    assert "case b" in printed.err
    assert (out / "b.nii.gz").read_bytes() == before
    stale = json.loads((out / "b.json").read_text())
    assert stale["status"] == "stale"
    assert "the last one failed: case b" in broken_off(stale)
    assert "labels" not in stale
    assert not list(out.glob(".part-*"))
    (tmp_path / "in" / "b.nii.gz").write_bytes(whole)
    assert predict(one, tmp_path / "in", "--out", out) == 0
    assert "0 predicted, 3 kept, 0 failed" in capsys.readouterr().out
    assert json.loads((out / "b.json").read_text()) == sidecar


def test_what_was_made_of_other_things_is_made_again(one, tmp_path, capsys):
    path = scan(tmp_path / "x.nii.gz")
    other = model(tmp_path / "other", seed=5)
    out = tmp_path / "o"
    calls = [
        ([one, path, "--uncertainty"], "1 predicted"),
        ([one, path, "--uncertainty", "--batch-size", 2], "1 kept"),
        ([one, path], "1 predicted"),
        ([other, path], "1 predicted"),
        ([other, path, "--overwrite"], "1 predicted"),
    ]
    for arguments, text in calls:
        assert predict(*arguments, "--out", out) == 0
        assert text in capsys.readouterr().out
    assert not (out / "x_entropy.nii.gz").exists()
    (out / "x.nii.gz").write_bytes(b"cut")
    assert predict(other, path, "--out", out) == 0
    assert "1 predicted" in capsys.readouterr().out


def test_files_of_others_and_inputs_are_not_written_over(one, tmp_path, capsys):
    path = scan(tmp_path / "x.nii.gz")
    before = path.read_bytes()
    assert predict(one, path, "--out", tmp_path, "--overwrite") == 1
    assert "is an input" in capsys.readouterr().err
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "x.nii.gz").write_bytes(b"mine")
    assert predict(one, path, "--out", tmp_path / "o") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "o" / "x.nii.gz").read_bytes() == b"mine"
    assert path.read_bytes() == before
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x.json").write_text('{"EchoTime": 0.01}')
    assert predict(one, path, "--out", tmp_path / "p") == 1
    assert "EchoTime" in (tmp_path / "p" / "x.json").read_text()
    assert predict(one, path, "--out", tmp_path / "p", "--overwrite") == 0


def test_a_run_killed_between_two_files_is_taken_up_again(one, tmp_path, capsys):
    path = scan(tmp_path / "x.nii.gz")
    out = tmp_path / "o"
    assert predict(one, path, "--out", out) == 0
    whole = (out / "x.json").read_text()
    (out / "x.json").write_text(whole.replace('"status": "ok"', '"status": "incomplete"'))
    assert predict(one, path, "--out", out) == 0
    assert "1 predicted" in capsys.readouterr().out.splitlines()[-1]
    assert json.loads((out / "x.json").read_text())["status"] == "ok"


def test_a_prediction_that_cannot_be_written_leaves_nothing(one, tmp_path, monkeypatch, capsys):
    from medseg.io import formats

    def full(path, *_, **__):
        if "entropy" in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"labels")

    monkeypatch.setattr(formats, "write", full)
    path = scan(tmp_path / "x.nii.gz")
    assert predict(one, path, "--out", tmp_path / "o", "--uncertainty") == 1
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_two_files_of_one_name_are_refused(one, tmp_path, capsys):
    scan(tmp_path / "in" / "a.nii")
    scan(tmp_path / "in" / "a.nii.gz")
    assert predict(one, tmp_path / "in", "--out", tmp_path / "o") == 1
    assert "both be the case 'a'" in capsys.readouterr().err
    scan(tmp_path / "in2" / "a.nii")
    both = [tmp_path / "in" / "a.nii.gz", tmp_path / "in2" / "a.nii"]
    assert predict(one, *both, "--out", tmp_path / "o") == 1
    assert "both be the case 'a'" in capsys.readouterr().err


def test_splits_and_shards_choose_rows(one, tmp_path, capsys):
    rows = []
    for number in range(5):
        scan(tmp_path / f"{number}.nii.gz", seed=number)
        rows.append(f"c{number},{number}.nii.gz,{'test' if number % 2 else 'train'}")
    sheet = tmp_path / "s.csv"
    sheet.write_text("case,image,split\n" + "\n".join(rows))
    out = tmp_path / "o"
    assert predict(one, sheet, "--out", out, "--split", "test", "--shard", "2/2") == 0
    assert sorted(p.name for p in out.glob("*.json")) == ["c3.json"]
    (tmp_path / "splits.json").write_text(json.dumps({"c0": "test", "c1": "train"}))
    assert (
        predict(one, sheet, "--out", out, "--split", "test", "--splits", tmp_path / "splits.json")
        == 0
    )
    assert sorted(p.name for p in out.glob("*.json")) == ["c0.json", "c3.json"]
    assert predict(one, sheet, "--out", out, "--split", "val") == 1
    assert "there are: test, train" in capsys.readouterr().err
    assert predict(one, sheet, "--out", out, "--shard", "0/2") == 1
    assert "i from 1 to n" in capsys.readouterr().err


def test_only_the_largest_piece_stays_where_the_model_says_so(tmp_path):
    from scipy.ndimage import label

    rules = {"disc": {"largest_component": True}}
    path = scan(tmp_path / "x.nii.gz")
    for name, fields in (("all", {}), ("one", {"postprocess": rules})):
        assert predict(model(tmp_path / name, **fields), path, "--out", tmp_path / f"o{name}") == 0
    every, single = labels(tmp_path / "oall/x.nii.gz"), labels(tmp_path / "oone/x.nii.gz")
    pieces, count = label(every == 1, np.ones((3, 3, 3)))
    assert count > 1
    sizes = np.bincount(pieces[pieces > 0])
    assert (single == 1).sum() == sizes.max()
    np.testing.assert_array_equal(single == 2, every == 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{tmp}/none", "{x}"], "does not exist"),
        (["{tmp}", "{x}"], "no model in"),
        (["method:unte", "{x}"], "'unte' is no method"),
        (["method:unet", "{x}"], "has to be trained"),
        (["{one}", "{x}", "--device", "cuda:77"], "is not there"),
        (["{one}", "{x}", "--device", "gpu"], "is unknown"),
        (["{one}", "{four}"], "--volume"),
        (["{one}", "{tmp}/empty"], "holds no image"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_with_a_cure(one, tmp_path, capsys, arguments, text):
    (tmp_path / "empty").mkdir()
    values = np.zeros((6, 7, 8, 2), np.float32)
    names = {
        "tmp": tmp_path,
        "one": one,
        "x": scan(tmp_path / "x.nii.gz"),
        "four": scan(tmp_path / "four.nii.gz", values=values),
    }
    assert predict(*(a.format(**names) for a in arguments), "--out", tmp_path / "o") == 1
    assert text in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused_before_any_work(one, tmp_path, capsys):
    path = scan(tmp_path / "x.nii.gz")
    (tmp_path / "file").write_text("")
    assert predict(one, path, "--out", tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().err
    if os.geteuid() == 0:
        return
    (tmp_path / "locked").mkdir(mode=0o500)
    assert predict(one, path, "--out", tmp_path / "locked") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_predict_loads_neither_lightning_nor_hydra_nor_monai(one, tmp_path):
    path = scan(tmp_path / "x.nii.gz")
    code = (
        "import sys; from medseg.cli import main\n"
        "code = main(['predict', *sys.argv[1:]])\n"
        "heavy = {'lightning', 'pytorch_lightning', 'hydra', 'omegaconf', 'monai', 'torchmetrics', "
        "'matplotlib', 'healpy', 'sklearn', 'pandas', 'skimage', 'torch._dynamo', 'SimpleITK'}\n"
        "sys.exit(code or ' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, one, path, "--out", tmp_path / "o"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing_half_written(one, tmp_path, number, code):
    scan(tmp_path / "in" / "0.nii", shape=(64, 64, 40))
    for name in range(1, 40):
        (tmp_path / "in" / f"{name}.nii").symlink_to(tmp_path / "in" / "0.nii")
    job = subprocess.Popen(
        [sys.executable, "-m", "medseg.cli", "predict", one, tmp_path / "in", "--out",
         tmp_path / "out", "--mirror"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(number)
    _, error = job.communicate(timeout=30)
    assert job.returncode == code
    assert "Traceback" not in error
    assert not list((tmp_path / "out").glob(".part-*"))
    for sidecar in (tmp_path / "out").glob("*.json"):
        labels(sidecar.with_suffix(".nii.gz"))


def test_a_dicom_folder_is_one_case_and_leaves_no_name_behind(one, reference, tmp_path, capsys):
    folder = reference / "data" / "mri" / "dicom" / "sag_gre_5"
    assert predict(one, folder, "--out", tmp_path / "o") == 0
    made = nib.load(tmp_path / "o" / "sag_gre_5.nii.gz")
    wanted = nib.load(folder.with_name("sag_gre_5_reference.nii"))
    assert sorted(made.shape) == sorted(wanted.shape)
    assert predict(one, folder, "--out", tmp_path / "p", "--series", "none") == 1
    assert "none" in capsys.readouterr().err
