"""`medseg prepare` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import main
from medseg.data.prepared import Prepared

Run = Callable[..., subprocess.CompletedProcess[str]]
SAMPLES = Path(__file__).resolve().parents[2] / "data/samples/spine_mt"


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "medseg.cli", "prepare", *map(str, words)]


@pytest.fixture
def prepare(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command without the second that a new process takes to start."""

    def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        code = main(["prepare", *map(str, words)])
        out, error = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, out, error)

    return run


def test_defaults_lie_below_the_callers_folder(prepare: Run, tmp_path: Path) -> None:
    words = command("data=cord", "--in", SAMPLES)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 cases prepared, 0 kept: data/prepared/cord/base\n"
    prepared = Prepared(tmp_path / "data/prepared/cord/base")
    assert [record.split for record in prepared.records()] == ["train", "val", "test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    again = prepare("data=cord", "--in", SAMPLES / "samples.csv", "--workers", 2, cwd=tmp_path)
    assert again.stdout == "0 cases prepared, 3 kept: data/prepared/cord/base\n"


def test_an_override_names_its_own_folder(prepare: Run, tmp_path: Path) -> None:
    words = ["data=cord", "data.spacing_mm=[1.6875,1.6875,null]", "--in", SAMPLES, "--workers", 2]
    done = prepare(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split(": ")[1].strip())
    assert folder.parent == Path("data/prepared/cord")
    assert folder.name != "base"
    assert Prepared(tmp_path / folder).records()[0].shape == (20, 20, 3)


def test_several_recipes_prepare_side_by_side(prepare: Run, tmp_path: Path) -> None:
    words = ["data=cord", "data.intensity=zscore,percentile", "-m", "--in", SAMPLES]
    done = prepare(*words, "--out", "sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {Prepared(p.parent).meta["intensity"] for p in tmp_path.rglob("prepared.json")}
    assert found == {"zscore", "percentile"}


def test_shards_are_joined_when_read(prepare: Run, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        done = prepare("data=cord", "--in", SAMPLES, "--shard", shard, "--out", "p", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(Prepared(tmp_path / "p").records()) == 3


def test_the_users_own_sheet_needs_no_file_of_ours(prepare: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 8, 7), np.uint8)
    mask[3:5, 3:5, 3:5] = 255
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "l.nii.gz")
    image = rng.normal(100, 9, (9, 8, 7)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "i.nii.gz")
    (tmp_path / "s.csv").write_text("case;subject;PD;label;site\n1;1;i.nii.gz;l.nii.gz;x\n")
    words = ["data=table", "data.channels=[PD]", "data.labels={disc:[1,255]}", "--in", "s.csv"]
    done = prepare(*words, "--out", "p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    prepared = Prepared(tmp_path / "p")
    assert prepared.meta["labels"] == {"disc": [1, 255]}
    assert prepared.records()[0].foreground == {"disc": 8}
    assert prepared.records()[0].notes == {"site": "x"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=cord"], "say where they are: --in"),
        (["data=cord", "--in", "none.csv"], "no sample sheet none.csv"),
        (["data=cord", "--in", "empty"], "the folder empty has no samples.csv"),
        (["data=table", "--in", "empty"], "holds no image"),
        (["data=cord", "data.channels=[mt0,mt2]", "--in", SAMPLES], "no column 'mt2'"),
        (["data=cord", "data.labels.cord=[255]", "--in", SAMPLES], "the value 1, which"),
        (["data=cord", "data.intensity=none", "data.spacing_mm=[0,1,1]", "--in", SAMPLES], "[0"),
        (["data=crod", "--in", SAMPLES], "crod"),
        (["data=cord", "data.slice_axis=7", "--in", SAMPLES], "slice_axis is 7"),
        (["data=cord", "data.source.volum=0", "--in", SAMPLES], "volum"),
        (["data=cord", "--in", SAMPLES, "--out", "file"], "file cannot be written"),
    ],
)
def test_bad_input_is_told_clearly(
    prepare: Run, tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("kept")
    done = prepare(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("prepared.json"))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("out", ["/proc/self/p", "file/p"])
def test_a_folder_that_cannot_be_written_is_told(prepare: Run, tmp_path: Path, out: str) -> None:
    """Nobody, root included, can make a folder in these places."""
    (tmp_path / "file").write_text("kept")
    done = prepare("data=cord", "--in", SAMPLES, "--out", out, cwd=tmp_path)
    assert done.returncode == 1
    assert f"the output folder {out} cannot be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_leaves_no_empty_folder(prepare: Run, tmp_path: Path, workers: int) -> None:
    words = ["data=cord", "data.labels.cord=[255]", "--in", SAMPLES, "--workers", workers]
    for more in ([], ["--out", "x/y"]):
        assert prepare(*words, *more, cwd=tmp_path).returncode == 1
        assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()
    assert prepare(*words, "--out", "x/y", cwd=tmp_path).returncode == 1
    assert list(tmp_path.rglob("*")) == [tmp_path / "x"]


def test_a_failure_keeps_the_cases_that_are_done(prepare: Run, tmp_path: Path) -> None:
    for path in SAMPLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    sheet = tmp_path / "samples.csv"
    first, last = sheet.read_text().rstrip().rsplit("\n", 1)
    sheet.write_text(f"{first}\n{last.replace('mt1.nii.gz', 'bad.nii.gz')}\n")
    words = ["data=cord", "--in", "samples.csv", "--out", "p", "--workers", 1]
    assert prepare(*words, cwd=tmp_path).returncode == 1
    done = {path.name[:6] for path in (tmp_path / "p/cases").iterdir()}
    assert done == {"cord-a", "cord-b"}
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["cases"]


def test_the_keyboard_stops_workers_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Interrupted while large cases are under way, then run again to the end."""
    rng = np.random.default_rng(0)
    rows = ["case,image"]
    for number in range(4):
        image = rng.integers(0, 4000, (160, 160, 96)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{number}.nii")
        rows.append(f"c{number},{number}.nii")
    (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
    words = command("data=table", "data.spacing_mm=[0.7,0.7,0.7]", "--in", "s.csv", "--out", "p")
    process = subprocess.Popen(
        [*words, "--workers", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("p/cases/.part-*")) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped by the keyboard" in error
    assert "Traceback" not in error
    out = tmp_path / "p"
    assert not out.exists() or [path.name for path in out.iterdir()] == ["cases"]
    cases = list((out / "cases").glob("*"))
    assert bool(cases) == out.exists()
    assert all((case / "case.json").exists() for case in cases)


def test_the_index_holds_hashes_of_the_raw_files(prepare: Run, tmp_path: Path) -> None:
    prepare("data=cord", "--in", SAMPLES, "--out", "p", cwd=tmp_path)
    part = json.loads((tmp_path / "p" / "index" / "1-of-1.json").read_text())
    source = part["cases"][0]["sources"]["mt0"]
    assert source["sha256"].startswith("77c702252da6")
    assert (tmp_path / "p" / source["path"]).samefile(SAMPLES / "mt0.nii.gz")
