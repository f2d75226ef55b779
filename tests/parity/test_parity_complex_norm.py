"""Normalisation of complex channels agrees with three libraries, each by its own conventions."""

import compare
import pytest


@pytest.fixture(scope="module")
def fixtures(reference):
    folder = reference / "fixtures" / "complex"
    if not folder.is_dir():
        pytest.skip(f"no complex fixtures at {folder}")
    return sorted(folder.glob("*Norm*.npz"))


def test_every_published_norm_agrees(fixtures, capsys):
    assert len(fixtures) >= 7
    for file in fixtures:
        assert compare.main([str(file)]) == 0, capsys.readouterr().out
