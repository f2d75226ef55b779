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


def test_other_widths_modalities_and_classes_are_inferred(tmp_path):
    torch.manual_seed(0)
    from medseg.models.ivdnet import IVDNet, upstream_key

    ours = IVDNet(2, 3, width=2, history="crop").eval()
    x = torch.rand(1, 2, 32, 64)
    with torch.no_grad():
        io = {"x": x, "logits_eval": ours(x), "eval.out": ours(x)}
    names = upstream_names(2, 4)
    state = {name: ours.state_dict()[upstream_key(name)].clone() for name in names}
    assert len(state) == len(ours.state_dict())
    save_file(state, tmp_path / "small_state.safetensors")
    save_file(io, tmp_path / "small_io.safetensors")
    assert compare.main([str(tmp_path / "small_io.safetensors")]) == 0


def upstream_names(paths, depth):
    """All names of the authors' state dict."""
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def unit(prefix, at=0):
        yield from (f"{prefix}.{at}.{name}" for name in tensors[:2])
        yield from (f"{prefix}.{at + 1}.{name}" for name in tensors)

    def block(prefix, factorised):
        for part in ("conv_1", "conv_2_output", "conv_3"):
            yield from unit(f"{prefix}.{part}")
        for branch in range(1, 6):
            yield from unit(f"{prefix}.conv_2_{branch}")
            if factorised:
                yield from unit(f"{prefix}.conv_2_{branch}", 3)

    for level in range(1, depth + 1):
        for path in range(paths):
            yield from block(f"down_{level}_{path}", True)
        yield from unit(f"deconv_{level}")
        yield from block(f"up_{level}", False)
    yield from block("bridge", True)
    yield from ("out.weight", "out.bias")


@pytest.mark.parametrize("name", ["notes.txt", "other.npz", "other.safetensors", "other.json"])
def test_an_unknown_format_exits_2(tmp_path, name):
    (tmp_path / name).write_text('{"a": 1}')
    assert compare.main([str(tmp_path / name)]) == 2


def test_a_missing_companion_is_named(tmp_path, capsys):
    state = {name: torch.zeros(1) for name in upstream_names(1, 1)}
    save_file(state, tmp_path / "lonely_state.safetensors")
    assert compare.main([str(tmp_path / "lonely_state.safetensors")]) == 1
    assert "lonely_io.safetensors" in capsys.readouterr().err
