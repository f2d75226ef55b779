"""Our numbers agree with the published ones, and the comparison notices when they do not."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
from published import upstream_names  # noqa: E402

STATE, IO = "ivdnet_asym_ngf4_state.safetensors", "ivdnet_asym_ngf4_io.safetensors"


@pytest.fixture(scope="module")
def fixtures(reference):
    folder = reference / "fixtures" / "ivdnet"
    if not folder.is_dir():
        pytest.skip(f"no IVD-Net fixture at {folder}")
    return folder


def test_small_numbers_agree(capsys):
    assert compare.main([str(HERE / "ivdnet_small.npz")]) == 0
    assert "asym.y" in capsys.readouterr().out


def test_a_wrong_small_number_is_noticed(tmp_path, capsys):
    with np.load(HERE / "ivdnet_small.npz") as file:
        numbers = dict(file)
    numbers["sym.y"][0, 0, 0, 0] += 1e-3
    np.savez(tmp_path / "ivdnet_small.npz", **numbers)
    assert compare.main([str(tmp_path / "ivdnet_small.npz")]) == 1
    assert "PAST" in capsys.readouterr().out


def test_small_numbers_are_the_published_ones(fixtures):
    shrink = compare.formats()["ivdnet_small"].shrink
    made = shrink(fixtures / "ivdnet_blocks.safetensors")
    with np.load(HERE / "ivdnet_small.npz") as file:
        assert sorted(file.files) == sorted(made)
        for name, values in made.items():
            np.testing.assert_array_equal(file[name], values)


def test_blocks_shapes_and_provenance_agree(fixtures):
    names = ["ivdnet_blocks.safetensors", "state_dict_shapes_ngf4.json", "meta.json"]
    assert compare.main([str(fixtures / name) for name in names]) == 0


def test_the_published_network_agrees_from_either_file(fixtures, capsys):
    assert compare.main([str(fixtures / STATE)]) == 0
    table = capsys.readouterr().out
    for name in ("logits_eval_f64", "logits_train", "loss_train", "grad.out.weight", "eval.bridge"):
        assert name in table
    assert compare.formats()["ivdnet_network"].recognise(fixtures / IO)


def test_gradient_norms_agree(fixtures):
    assert compare.main([str(fixtures / "ivdnet_asym_ngf4_gradnorms.json")]) == 0


def test_a_wrong_network_is_noticed(fixtures, tmp_path):
    state = load_file(fixtures / STATE)
    state["down_2_1.conv_2_4.0.weight"] = state["down_2_1.conv_2_4.0.weight"].flip(2)
    save_file(state, tmp_path / "x_state.safetensors")
    io = load_file(fixtures / IO)
    kept = {name: io[name] for name in ("x", "logits_eval", "logits_eval_f64", "eval.out")}
    save_file(kept, tmp_path / "x_io.safetensors")
    assert compare.main([str(tmp_path / "x_state.safetensors")]) == 1


@pytest.mark.parametrize("name", ["notes.txt", "other.npz", "other.safetensors", "other.json"])
def test_an_unknown_format_exits_2(tmp_path, name):
    (tmp_path / name).write_text('{"a": 1}')
    assert compare.main([str(tmp_path / name)]) == 2


def test_a_missing_companion_is_named(tmp_path, capsys):
    state = {name: torch.zeros(1) for name in upstream_names(1, 1)}
    save_file(state, tmp_path / "lonely_state.safetensors")
    assert compare.main([str(tmp_path / "lonely_state.safetensors")]) == 1
    assert "lonely_io.safetensors" in capsys.readouterr().err


def test_of_several_files_the_highest_code_counts(tmp_path):
    (tmp_path / "notes.txt").write_text("a")
    small = str(HERE / "ivdnet_small.npz")
    assert compare.main([small, small]) == 0
    assert compare.main([str(tmp_path / "notes.txt"), small]) == 2
    assert compare.main([small, str(tmp_path / "absent.json")]) == 2


@pytest.mark.parametrize("name", ["ivdnet_small.npz", "cut_state.safetensors", "meta.json"])
def test_a_cut_file_is_of_no_format(tmp_path, name):
    whole = (HERE / "ivdnet_small.npz").read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert compare.main([str(tmp_path / name)]) == 2
