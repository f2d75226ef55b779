"""The door is quick, and opens one stage."""

import subprocess
import sys
import time

import pytest

from medseg.cli import STAGES, main

HEAVY = ("torch", "numpy", "lightning", "hydra", "monai", "nibabel", "scipy", "matplotlib")


def test_help_is_quick_and_loads_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "medseg.cli", "--help"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & set(HEAVY)
    assert all(name in done.stdout for name in STAGES)
    assert seconds < 1.0  # 0.2 s on a machine that does nothing else; `make bench` says how much


def test_an_unknown_stage_is_told_with_the_nearest(capsys):
    assert main(["pedict"]) == 2
    assert "did you mean 'predict'" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--version"]) == 0


@pytest.mark.parametrize("stage", ["predict", "export", "convert", "info"])
def test_a_stage_tells_its_arguments(stage, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([stage, "--help"])
    assert stopped.value.code == 0
    assert f"medseg {stage}" in capsys.readouterr().out


def test_an_error_is_one_line_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "medseg.cli", "predict", tmp_path / "none", "x.nii"]
    done = subprocess.run([*command, "--out", tmp_path / "o"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("medseg predict: ")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["predict", str(tmp_path / "none"), "x.nii", "--out", str(tmp_path), "--debug"])
