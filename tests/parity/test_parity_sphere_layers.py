"""Layers of the sphere agree with other code's numbers, and a wrong number is noticed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402

PIXELS = 48


def convolved(order=3, i=2, o=4, seed=0):
    """A layer as upstream computes it: weights [K, Fin, Fout] read as [Fin, K, Fout]."""
    rng = np.random.default_rng(seed)
    matrix = sparse.random(PIXELS, PIXELS, 0.2, rng=rng, format="coo", dtype=np.float32)
    matrix.data /= 5
    dense = torch.from_numpy(matrix.toarray())
    weight = torch.from_numpy(rng.standard_normal((order, i, o), dtype=np.float32))
    x = torch.from_numpy(rng.standard_normal((2, PIXELS, i), dtype=np.float32))
    cotangent = torch.from_numpy(rng.standard_normal((2, PIXELS, o), dtype=np.float32))
    bias = torch.from_numpy(rng.standard_normal(o, dtype=np.float32))
    x.requires_grad_()
    weight.requires_grad_()
    terms = [x, dense @ x]
    while len(terms) < order:
        terms.append(2 * dense @ terms[-1] - terms[-2])
    features = torch.stack(terms[:order], -1).flatten(2)
    y = features @ weight.view(i * order, o) + bias
    y.backward(cotangent)
    made = {
        "x": x, "weight": weight, "bias": bias, "y": y, "grad_out": cotangent, "grad_x": x.grad,
        "grad_weight": weight.grad, "weight_eff_fin_K_fout": weight.reshape(i, order, o),
    }  # fmt: skip
    numbers = {name: tensor.detach().numpy().copy() for name, tensor in made.items()}
    return numbers | {"lap_rowcol": np.stack([matrix.row, matrix.col]), "lap_data": matrix.data}


def pooled(seed=0):
    """Mean and maximum of four by torch's pooling along the pixels."""
    x = torch.randn(2, 3, PIXELS, generator=torch.Generator().manual_seed(seed))
    mean = functional.avg_pool1d(x, 4)
    largest, places = functional.max_pool1d(x, 4, return_indices=True)
    made = {
        "x": x, "avg": mean, "avg_unpool": functional.interpolate(mean, scale_factor=4),
        "max": largest, "max_unpool": functional.max_unpool1d(largest, places, 4),
    }  # fmt: skip
    numbers = {name: tensor.transpose(1, 2).numpy() for name, tensor in made.items()}
    return numbers | {"max_indices": places.numpy()}


def written(folder, numbers):
    np.savez(folder / "heldout.npz", **numbers)
    return str(folder / "heldout.npz")


def past(capsys):
    """Names of the rows past their tolerance."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[3] for line in lines if "PAST" in line}


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_layers_agree(tmp_path, capsys, order):
    assert compare.main([written(tmp_path, convolved(order))]) == 0
    assert "(sphere_conv): 4 compared" in capsys.readouterr().out


def test_pooling_agrees(tmp_path, capsys):
    assert compare.main([written(tmp_path, pooled())]) == 0
    assert "(sphere_pool): 5 compared" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["y", "grad_x", "grad_weight", "weight_eff_fin_K_fout"])
def test_a_small_change_of_a_layer_is_noticed(tmp_path, capsys, name):
    numbers = convolved()
    numbers[name].flat[5] += 2e-5 * np.abs(numbers[name]).max()
    assert compare.main([written(tmp_path, numbers)]) == 1
    assert past(capsys) == {name}


@pytest.mark.parametrize("name", ["avg", "avg_unpool", "max", "max_indices", "max_unpool"])
def test_a_small_change_of_pooling_is_noticed(tmp_path, capsys, name):
    numbers = pooled()
    numbers[name].flat[5] += 1 if name == "max_indices" else 1e-5
    assert compare.main([written(tmp_path, numbers)]) == 1
    assert past(capsys) == {name}


@pytest.mark.parametrize("made", [convolved, pooled])
def test_a_stranger_is_noticed(tmp_path, capsys, made):
    assert compare.main([written(tmp_path, made() | {"min": np.zeros(3)})]) == 1
    assert past(capsys) == {"min"}


def test_the_shared_files_agree(reference):
    files = [*(reference / "fixtures" / "sphere").glob("chebconv_*.npz")]
    files += (reference / "fixtures" / "sphere").glob("pool_*.npz")
    if not files:
        pytest.skip(f"no such files in {reference}")
    assert compare.main([*map(str, files)]) == 0
