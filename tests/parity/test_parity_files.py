"""Files of the published formats are found, fitted together, and a small change is noticed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
from published import write  # noqa: E402

PREFIX = "ivdnet_asym_ngf4"
STATE, IO = f"{PREFIX}_state.safetensors", f"{PREFIX}_io.safetensors"
NORMS = f"{PREFIX}_gradnorms.json"


@pytest.fixture
def copied(reference, tmp_path):
    """A copy of the published fixture that may be changed."""
    folder = reference / "fixtures" / "ivdnet"
    if not folder.is_dir():
        pytest.skip(f"no IVD-Net fixture at {folder}")
    for name in (STATE, IO, NORMS, "meta.json"):
        shutil.copyfile(folder / name, tmp_path / name)
    return tmp_path


def changed(folder, edit, name="heldout.safetensors"):
    """The io file with an edit, under a name of its own."""
    tensors = load_file(folder / IO)
    edit(tensors)
    save_file(tensors, folder / name)
    return str(folder / name)


def changed_json(folder, source, edit, name):
    values = json.loads((folder / source).read_text())
    edit(values)
    (folder / name).write_text(json.dumps(values))
    return str(folder / name)


def test_own_names_beside_shared_names(copied):
    shutil.copyfile(copied / NORMS, copied / "heldout_norms.json")
    shutil.copyfile(copied / "meta.json", copied / "heldout.json")
    names = ["heldout_norms.json", "heldout.json"]
    assert compare.main([str(copied / name) for name in names]) == 0
    assert compare.main([changed(copied, lambda _: None)]) == 0
    (copied / STATE).rename(copied / "weights.safetensors")
    assert compare.main([changed(copied, lambda _: None)]) == 0


def past(capsys):
    """Names of the rows past their tolerance."""
    lines = capsys.readouterr().out.splitlines()
    return {" ".join(line.split("  (")[0].split()[3:]) for line in lines if "PAST" in line}


def test_small_changes_are_noticed(copied, capsys):
    absolute = {"logits_train": 6e-5, "eval.down_1_0": 1.5e-4, "logits_eval": 2.5e-4,
                "logits_eval_f64": 1e-9}  # fmt: skip
    relative = {"grad.deconv_1.0.weight": 2e-5, "eval.bridge": 2e-5}

    def edit(tensors):
        for name, amount in (absolute | relative).items():
            scale = float(tensors[name].abs().max()) if name in relative else 1.0
            middle = tensors[name].numel() // 2
            tensors[name].view(-1)[middle] += amount * scale

    assert compare.main([changed(copied, edit)]) == 1
    assert past(capsys) == absolute.keys() | relative.keys()


def test_changed_norms_are_noticed(copied, capsys):
    def edit(norms):
        norms["down_3_3.conv_2_5.4.bias"] *= 1.001
        norms["bridge.conv_1.0.bias"] = 1e-3
        norms["down_2_1.conv_1.0.weight"] = float("nan")
        norms["down_9_1.conv_1.0.weight"] = 1.0
        norms["out.bias"] = None
        del norms["out.weight"]

    assert compare.main([changed_json(copied, NORMS, edit, "heldout_norms.json")]) == 1
    titles = {"parameters without a norm", "norms of no parameter", "norms that are no number"}
    assert past(capsys) == {"down_3_3", "bridge", "down_2_1"} | titles


def test_changed_provenance_is_noticed(copied, capsys):
    changes = {"sha256_state": "0" * 64, "loss_train": 1.0185, "logits_mean": -20.23, "ngf": 5,
               "x_shape": [2, 4, 96, 64], "params_ngf4": 860639,
               "max_abs_f32_vs_f64": 3.3e-5}  # fmt: skip
    other = changed_json(copied, "meta.json", lambda meta: meta.update(changes), "other.json")
    assert compare.main([other]) == 1
    assert past(capsys) == changes.keys()


def test_provenance_alone_says_what_is_missing(copied, capsys):
    for name in (STATE, IO):
        (copied / name).unlink()
    assert compare.main([str(copied / "meta.json")]) == 1
    assert "_state.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "form",
    [
        {"modalities": 1, "classes": 3, "width": 3, "size": (64, 32)},
        {"modalities": 5, "classes": 4, "width": 1},
        {"factorised": False},
    ],
)
def test_other_forms_are_inferred(tmp_path, form):
    write(tmp_path, "small", **form)
    names = ["small_state.safetensors", "small_gradnorms.json", "meta.json"]
    assert compare.main([str(tmp_path / name) for name in names]) == 0


def test_of_several_companions_the_one_that_agrees_is_taken(tmp_path):
    write(tmp_path, "first", width=1, seed=1)
    write(tmp_path, "second", width=1, seed=2)
    for kind in ("io.safetensors", "gradnorms.json"):
        own = tmp_path / kind.replace("io.", "heldout.").replace("gradnorms", "norms")
        shutil.copyfile(tmp_path / f"second_{kind}", own)
        assert compare.main([str(own)]) == 0


def test_an_unknown_output_is_a_failing_row(tmp_path, capsys):
    write(tmp_path, "small", modalities=1, width=1)
    io = load_file(tmp_path / "small_io.safetensors")
    save_file(io | {"eval.down_7_0": torch.zeros(1)}, tmp_path / "small_io.safetensors")
    assert compare.main([str(tmp_path / "small_state.safetensors")]) == 1
    assert "eval.down_7_0" in capsys.readouterr().out


def test_it_runs_from_any_folder(tmp_path):
    command = [sys.executable, HERE / "compare.py", HERE / "ivdnet_small.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
