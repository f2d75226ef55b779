"""Our complex convolutions agree with torch's and other libraries', and a wrong number is noticed.

`complex_conv_small.npz` is torch's own complex convolution, made by `published`.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402

SMALL = HERE / "complex_conv_small.npz"
ARRAYS = ("y", "grad_x", "grad.weight", "grad.bias")


def published(convolve=functional.conv2d, factor=1, shape=(6, 2, 3, 2), **geometry):
    """x, y and gradients of L = Re Σ y conj(G) from torch's complex kernel, in single precision."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, dtype=torch.complex64, generator=generator)

    leaves = {"x": drawn(2, 4, 6, 5), "param.weight": drawn(*shape), "param.bias": drawn(6)}
    x, weight, bias = (leaf.requires_grad_() for leaf in leaves.values())
    y = convolve(x, weight, factor * bias, **geometry)
    cotangent = drawn(*y.shape)
    y.backward(cotangent)
    leaves |= {"y": y, "cotangent": cotangent, "grad_x": x.grad}
    leaves |= {"grad.weight": weight.grad, "grad.bias": bias.grad}
    return {name: tensor.detach().resolve_conj().numpy() for name, tensor in leaves.items()}


GEOMETRY = {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 2), "groups": 2}


def written(folder, numbers, name="heldout.npz"):
    np.savez(folder / name, **numbers)
    return str(folder / name)


def small():
    with np.load(SMALL) as file:
        return dict(file)


def past(capsys):
    """Names of the rows past their tolerance."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[3] for line in lines if "PAST" in line}


def test_the_small_file_agrees(capsys):
    assert compare.main([str(SMALL)]) == 0
    table = capsys.readouterr().out
    assert "(complex_conv): 4 compared" in table
    assert "groups 2, bias b·1" in table


def test_the_small_file_is_what_torch_gives():
    made = published(**GEOMETRY)
    found = small()
    assert sorted(found) == sorted(made)
    for name, values in made.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4)  # values to 30, float32


@pytest.mark.parametrize("name", ARRAYS)
def test_a_small_change_is_noticed(tmp_path, capsys, name):
    numbers = small()
    share = 2e-4 if "." in name else 2e-5
    middle = numbers[name].size // 2
    numbers[name].flat[middle] += 1j * share * np.abs(numbers[name]).max()
    assert compare.main([written(tmp_path, numbers)]) == 1
    assert past(capsys) == {name}


def test_a_number_that_is_none_and_a_stranger_are_noticed(tmp_path, capsys):
    numbers = small() | {"param.scale": np.ones(1)}
    numbers["y"][0, 0, 0, 0] = np.nan
    assert compare.main([written(tmp_path, numbers)]) == 1
    assert past(capsys) == {"y", "param.scale"}


def test_the_bias_is_read_as_its_library_adds_it(tmp_path, capsys):
    numbers = published(factor=1 + 1j, **GEOMETRY)
    assert compare.main([written(tmp_path, numbers, "pytorch-complex-1__Conv2d.npz")]) == 0
    assert compare.main([written(tmp_path, numbers, "heldout.npz")]) == 0
    capsys.readouterr()
    assert compare.main([written(tmp_path, numbers, "complextorch-1__Conv2d.npz")]) == 1
    assert past(capsys) == {"y", "grad.bias"}


def test_parts_that_lie_apart_are_put_together(tmp_path):
    numbers = published(
        functional.conv_transpose2d, 1 + 1j, shape=(4, 6, 3, 3), stride=2, output_padding=1
    )
    for group in ("param", "grad"):
        for what in ("weight", "bias"):
            whole = numbers.pop(f"{group}.{what}")
            numbers[f"{group}.m_real.{what}"] = whole.real.copy()
            numbers[f"{group}.m_imag.{what}"] = whole.imag.copy()
    assert compare.main([written(tmp_path, numbers)]) == 0


def test_without_bias_or_gradients_the_output_is_compared(tmp_path, capsys):
    numbers = published(factor=0, **GEOMETRY)
    kept = {name: numbers[name] for name in ("x", "y", "param.weight")}
    assert compare.main([written(tmp_path, kept)]) == 0
    assert "1 compared" in capsys.readouterr().out


def test_what_is_no_complex_convolution_is_left_to_others(tmp_path):
    recognise = compare.formats()["complex_conv"].recognise
    norm = {"x": np.ones((2, 4, 5, 5), "c8"), "y": np.ones((2, 4, 5, 5), "c8")}
    files = {
        "norm": norm | {"param.weight": np.ones((2, 2, 4), "f4")},
        "real": {k: v.real for k, v in small().items()},
        "bare": {"x": small()["x"]},
        "misfit": norm | {"param.weight": np.ones((4, 3, 3, 3), "c8")},
    }
    for name, numbers in files.items():
        assert not recognise(Path(written(tmp_path, numbers, f"{name}.npz"))), name
    assert not recognise(HERE / "ivdnet_small.npz")


def test_other_libraries_agree(reference):
    folder = reference / "fixtures" / "complex"
    files = [str(file) for file in sorted(folder.glob("*Conv*.npz"))]
    if not files:
        pytest.skip(f"no complex fixtures at {folder}")
    assert len(files) == 9
    assert compare.main(files) == 0
