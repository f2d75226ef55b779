"""The wheel, in an environment of its own and far from the checkout, trains and predicts."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run a program of an environment that holds the wheel; its dependencies are lent from here."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    place = Path(
        sysconfig.get_path("purelib", vars={"base": folder / "env", "platbase": folder / "env"})
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    env_python = folder / "env/bin/python"
    subprocess.run(
        [*pip, "--python", env_python, "install", "--no-deps", "--no-index", wheel], check=True
    )
    # Packages of this environment, without its .pth files: an editable checkout stays behind.
    (place / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = tmp_path_factory.mktemp("elsewhere")
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}

    def run(program, *arguments):
        done = subprocess.run(
            [folder / "env/bin" / program, *arguments],
            cwd=work,
            env={**environment, "OMP_NUM_THREADS": "1"},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    run.folder, run.environment = work, folder / "env"
    return run


def test_the_workflow_travels_inside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "Snakefile",
        "conf/train.yaml",
        "conf/workflow.yaml",
        "conf/study/demo/ivdnet_spine.yaml",
        "pipelines/rules/train.smk",
        "pipelines/schemas/workflow.schema.yaml",
        "profiles/default/config.yaml",
        "data/samples/spine_mt/samples.csv",
    ):
        assert f"medseg/_workflow/{wanted}" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".done")]


def test_the_installed_package_is_the_wheels(installed):
    where = installed("python", "-c", "import medseg; print(medseg.__file__)")
    assert Path(where).is_relative_to(installed.environment)


def test_it_trains_and_predicts(installed):
    installed(
        "medseg", "train", "experiment=ivdnet_spine", "model.width=4",
        "trainer.max_epochs=1", "trainer.steps_per_epoch=1", "data.source.n_train=2",
        "data.source.n_val=1", "data.source.n_test=1", "--out", "run",
    )  # fmt: skip
    sheet = next(installed.folder.glob("data/prepared/spine/*/samples.csv"))
    installed("medseg", "predict", "run/model", sheet, "--split", "test", "--out", "predictions")
    assert list((installed.folder / "predictions").glob("*.nii.gz"))


def test_the_workflow_runs_from_there(installed):
    snakefile = Path(installed("medseg", "info", "--workflow"))
    assert snakefile.is_relative_to(installed.environment)
    installed("python", "-m", "snakemake", "--snakefile", snakefile, "--cores", "1", "-n")
