"""Complex activations and pools agree with the published numbers, and a change is noticed."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402

ACTIVATIONS = ("complextorch-2.1.1", "torchcvnn-0.10.0", "pytorch-complex-0.2.1")
POOL = "pool_upsample.npz"


@pytest.fixture(scope="module")
def fixtures(reference):
    folder = reference / "fixtures" / "complex"
    if not folder.is_dir():
        pytest.skip(f"no complex fixtures at {folder}")
    return folder


def lines(capsys):
    """Lines of the table by the entry's name."""
    table = capsys.readouterr().out.splitlines()
    return {line.split()[3]: line for line in table if line.startswith(("  ok", "  PAST"))}


@pytest.mark.parametrize("library", ACTIVATIONS)
def test_activations_and_their_gradients_agree(fixtures, library, capsys):
    path = fixtures / f"{library}__activations.npz"
    assert compare.main([str(path)]) == 0
    table = lines(capsys)
    with np.load(path) as file:
        assert table.keys() == set(file.files) - {"z"}
    assert all("(" not in table[name] for name in ("CReLU", "zReLU", "grad_sumabs2.zReLU"))


def test_pools_and_upsampling_agree_and_what_is_left_out_is_said(fixtures, capsys):
    assert compare.main([str(fixtures / POOL)]) == 0
    table = lines(capsys)
    left_out = {name for name, line in table.items() if "(" in line}
    assert left_out == {
        "tc_MaxPool2d_2", "sc_MaxPool2d_2", "ct_PolarUpsample", "ct_SpectralPool2d_4"
    }  # fmt: skip


@pytest.mark.parametrize("library", ACTIVATIONS)
def test_a_file_under_another_name_is_known_by_its_entries(fixtures, library, tmp_path):
    shutil.copyfile(fixtures / f"{library}__activations.npz", tmp_path / "heldout.npz")
    assert compare.main([str(tmp_path / "heldout.npz")]) == 0


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        (f"{ACTIVATIONS[0]}__activations.npz", "grad_sumabs2.CVCardiod"),
        (f"{ACTIVATIONS[2]}__activations.npz", "CmodReLU"),
        (POOL, "own_MagMaxPool2d_2"),
        (POOL, "sc_Upsample_sinc2"),
    ],
)
def test_a_small_change_is_noticed(fixtures, tmp_path, capsys, name, entry):
    with np.load(fixtures / name) as file:
        numbers = dict(file)
    numbers[entry].flat[-1] += 1e-3j
    np.savez(tmp_path / name, **numbers)
    assert compare.main([str(tmp_path / name)]) == 1
    assert [key for key, line in lines(capsys).items() if "PAST" in line] == [entry]
