"""Published HybridGNets agree in every variant, and the comparison notices when they do not."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
import hybridgnet_steps  # noqa: E402
from hybridgnet_preset import arguments_of, organs_of, preset  # noqa: E402
from published_hybridgnet import SETS, write  # noqa: E402

from medseg.geometry import graph  # noqa: E402
from medseg.geometry.contour import contours  # noqa: E402
from medseg.nn.published import PRESET  # noqa: E402

VARIANTS = ("hybrid", "hybrid_nopool", "igsc1_l6", "igsc2_l65", "igsc2_l54", "igsc2_clean")
BEST = "igsc2_l65_LH_in64_recipe.safetensors"


@pytest.fixture(scope="module")
def fixtures(reference):
    folder = reference / "fixtures" / "hybridgnet"
    if not folder.is_dir():
        pytest.skip(f"no HybridGNet fixture at {folder}")
    return folder


def past(capsys):
    """Names of the rows past their tolerance."""
    lines = capsys.readouterr().out.splitlines()
    return {" ".join(line.split("  (")[0].split()[3:]) for line in lines if "PAST" in line}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_published_network_agrees(fixtures, capsys, variant):
    assert compare.main([str(fixtures / f"{variant}_LH_in64_recipe.safetensors")]) == 0
    table = capsys.readouterr().out
    for name in ("out_sr3/0", "out_sr3_batch1/0", "out_upstream/0", "loss_sr3/total", "mid/mu",
                 "gradnorm_sr3/dec_lin.weight", "grad_sr3/dec_lin.bias", "mat/U",
                 "train_sr3/kld", "train_sr3/out_after3"):  # fmt: skip
        assert f" {name}" in table


def test_operators_and_counts_agree(fixtures, capsys):
    names = ("operators.safetensors", "param_counts_and_keys.json")
    assert compare.main([str(fixtures / name) for name in names]) == 0
    table = capsys.readouterr().out
    assert "hybridgnet_operators" in table
    assert "igsc2_clean/LHC/1024 n_params" in table


@pytest.fixture
def one_way(monkeypatch):
    """Only the quickest way of rounding, for files that no way would meet."""
    monkeypatch.setattr(hybridgnet_steps, "WAYS", hybridgnet_steps.WAYS[:1])


@pytest.mark.usefixtures("one_way")
def test_small_changes_are_noticed(fixtures, tmp_path, capsys):
    tensors = load_file(fixtures / BEST)
    changes = {"out_sr3/0": 2e-5, "out_sr3/2": 2e-5, "out_upstream/0": 2e-5, "mid/mu": 1e-4,
               "loss_sr3/kld": 1e-4, "grad_sr3/graphConv_up2.lins.3.weight": 1e-3,
               "gradnorm_sr3/encoder.dconv_down3.block.2.weight": 1e-2, "mat/U": 1e-6,
               "train_sr3/out_after3": 2e-5}  # fmt: skip
    for name, amount in changes.items():
        tensors[name].view(-1)[0] += amount
    tensors["train_sr3/out_kld_total"][2, 2] += 1e-4
    tensors["mid/another"] = torch.zeros(3)
    save_file(tensors, tmp_path / "changed.safetensors")
    assert compare.main([str(tmp_path / "changed.safetensors")]) == 1
    assert past(capsys) == changes.keys() | {"train_sr3/total", "mid/another"}


@pytest.mark.usefixtures("one_way")
def test_a_wrong_network_is_noticed(fixtures, tmp_path):
    tensors = load_file(fixtures / BEST)
    name = "param/graphConv_up4.lins.2.weight"
    tensors[name] = tensors[name].flip(0)
    save_file(tensors, tmp_path / "wrong.safetensors")
    assert compare.main([str(tmp_path / "wrong.safetensors")]) == 1


@pytest.mark.parametrize(
    ("name", "lookups", "form"),
    [("LHC", (5,), {"clean": True}), ("L", (2,), {}), ("L", (4, 3), {}), ("LHC", (), {})],
)
def test_other_forms_are_inferred_without_a_name(tmp_path, name, lookups, form):
    path = tmp_path / "heldout.safetensors"
    write(path, SETS[name], lookups, **form)
    found = arguments_of(load_file(path))
    assert (found["organs"], tuple(found["lookups"])) == (SETS[name], lookups)
    assert compare.main([str(path)]) == 0


def test_a_file_may_hold_a_part(tmp_path, fixtures, capsys):
    kept = ("param/", "in/image", "out_sr3/")
    tensors = {k: t for k, t in load_file(fixtures / BEST).items() if k.startswith(kept)}
    save_file(tensors, tmp_path / "part.safetensors")
    assert compare.main([str(tmp_path / "part.safetensors")]) == 0
    assert "3 compared" in capsys.readouterr().out


def test_a_wrong_count_is_noticed(fixtures, tmp_path, capsys):
    entries = json.loads((fixtures / "param_counts_and_keys.json").read_text())
    entry = entries["igsc1_l4/LH/1024"]
    entry["n_params"] += 1
    entry["groups"]["graph"] -= 2
    entry["state_dict"]["dec_lin.bias"] = [961]
    (tmp_path / "some.json").write_text(json.dumps({"igsc1_l4/LH/1024": entry}))
    assert compare.main([str(tmp_path / "some.json")]) == 1
    wrong = {"n_params", "graph", "shapes"}
    assert past(capsys) == {f"igsc1_l4/LH/1024 {what}" for what in wrong}


def test_a_wrong_operator_is_noticed(fixtures, tmp_path, capsys):
    tensors = load_file(fixtures / "operators.safetensors")
    changes = {"mat/LHC/D": 1e-6, "cheb/K6/out": 1e-4, "norm/out": 1e-4, "pool/up": 1e-4,
               "roi/w5": 1e-6}  # fmt: skip
    for name, amount in changes.items():
        tensors[name].view(-1)[1] += amount
    save_file(tensors, tmp_path / "changed.safetensors")
    assert compare.main([str(tmp_path / "changed.safetensors")]) == 1
    assert past(capsys) == changes.keys()


def test_organs_are_read_off_a_graph():
    organs = {"organ_1": 7, "organ_2": 9}
    assert organs_of(graph.adjacency(contours(organs))) == organs
    assert organs_of(graph.adjacency(contours(SETS["LHC"]))) == SETS["LHC"]


def test_what_a_checkpoint_does_not_tell_is_the_presets():
    assert {name: preset()[name] for name in PRESET} == PRESET
