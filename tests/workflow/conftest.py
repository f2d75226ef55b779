"""Snakemake as a user calls it, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def snakemake():
    """Run Snakemake on the project's Snakefile in a folder; returns exit code and all it said."""

    def call(folder, *arguments, cards="", cores="2"):
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": cards, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--cores", cores, *arguments],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout

    return call


@pytest.fixture(scope="session")
def counts():
    """How many jobs of each rule a dry run announces."""

    def read(text):
        table = text.partition("Job stats:")[2].partition("total")[0]
        return {rule: int(n) for rule, n in re.findall(r"(?m)^(\w+) +(\d+)$", table)}

    return read
