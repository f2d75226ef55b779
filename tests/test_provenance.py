"""Files are whole or not there at all; hashes depend on content alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg import provenance


def test_atomic_leaves_the_earlier_file_when_the_block_fails(tmp_path: Path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), provenance.atomic(target) as part:
        part.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_atomic_folder_keeps_the_earlier_folder_until_the_new_one_is_whole(tmp_path: Path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), provenance.atomic_folder(target) as part:
        (part / "x").write_text("half")
        raise KeyboardInterrupt
    assert (target / "x").read_text() == "old"
    with provenance.atomic_folder(target) as part:
        (part / "x").write_text("new")
    assert (target / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_json_round_trip_of_numpy_values_and_no_nan_tokens(tmp_path: Path):
    path = tmp_path / "x.json"
    provenance.write_json(
        path, {"a": np.float32(1.5), "b": np.arange(3), "c": float("nan"), "d": path}
    )
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_text()) == {"a": 1.5, "b": [0, 1, 2], "c": None, "d": str(path)}


def test_broken_json_is_named(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON"):
        provenance.read_json(path)


def test_hash_of_a_folder_depends_on_names_and_contents(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("1")
    assert provenance.hash_file(tmp_path / "a") == provenance.hash_file(tmp_path / "b")
    (tmp_path / "b" / "f").rename(tmp_path / "b" / "g")
    assert provenance.hash_file(tmp_path / "a") != provenance.hash_file(tmp_path / "b")


def test_hash_value_ignores_key_order_and_hash_array_sees_dtype():
    assert provenance.hash_value({"a": 1, "b": 2}) == provenance.hash_value({"b": 2, "a": 1})
    ones = np.ones(4)
    assert provenance.hash_array(ones) != provenance.hash_array(ones.astype(np.float32))
