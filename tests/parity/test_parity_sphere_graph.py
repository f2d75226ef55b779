"""Published graphs of the sphere agree with ours, and a wrong one is noticed."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402


@pytest.fixture(scope="module")
def graphs(reference):
    found = sorted((reference / "fixtures" / "sphere").glob("graph_nside[248]_*.npz"))
    return found or pytest.skip("no graphs of the sphere there")


def test_published_graphs_agree(graphs, capsys):
    assert compare.main([str(path) for path in graphs]) == 0
    assert "lmax_exact_normalized" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["W_data", "Lscaled_normalized_data", "kernel_width"])
def test_a_wrong_graph_is_noticed(graphs, name, tmp_path):
    with np.load(graphs[-1]) as file:
        numbers = dict(file)
    numbers[name] = numbers[name] * 1.001
    np.savez(tmp_path / "graph.npz", **numbers)
    assert compare.main([str(tmp_path / "graph.npz")]) == 1
