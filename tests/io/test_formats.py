import argparse
import sys
from types import ModuleType

import numpy as np
import pytest

from medseg.geometry.grid import Grid
from medseg.io import formats, nifti

GRID = Grid((3, 4, 5), np.diag([1.0, 2, 3, 1]))


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "case.01.nii.gz"
    formats.write(path, np.arange(60, dtype=np.uint8).reshape(3, 4, 5), grid=GRID, meta={})
    return path


def test_formats_are_found_by_listing():
    names = [module.__name__.rpartition(".")[2] for module in formats.modules()]
    assert {"dicom", "enhanced", "nifti"} <= set(names)
    for module in formats.modules():
        assert module.SUFFIXES
        assert callable(module.handles)
        assert callable(module.read)


def test_a_new_file_in_the_room_is_a_new_format(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(
        "import numpy as np\n"
        "from medseg.geometry.grid import Grid\n"
        "from medseg.sample import Sample\n"
        "SUFFIXES = ('.toy',)\n"
        "handles = lambda path: path.name.endswith('.toy')\n"
        "def read(path, *, twist=None):\n"
        "    image = np.full((1, 2, 2, 2), twist)\n"
        "    return Sample(path.name, image, Grid((2, 2, 2), np.eye(4)), ('a',))\n"
    )
    from medseg import io

    monkeypatch.setattr(io, "__path__", [*io.__path__, str(tmp_path)])
    formats.modules.cache_clear()
    try:
        path = tmp_path / "a.b.toy"
        path.touch()
        assert formats.is_image(path)
        assert formats.stem(path) == "a.b"
        assert (formats.read(path, twist=3, volume=None).image == 3).all()
        assert formats.read_header(path, twist=3).shape == (2, 2, 2)
    finally:
        formats.modules.cache_clear()
        sys.modules.pop("medseg.io.toy", None)


def test_a_scan_is_read_by_its_format(scan):
    sample = formats.read(scan, volume=None, series=None)
    assert sample.id == "case.01"
    assert (sample.image.ravel() == np.arange(60)).all()
    assert formats.read_header(scan).misalignment_mm(GRID) == 0
    labels, grid, meta = formats.read_labels(scan)
    assert labels.dtype == np.uint8
    assert grid.misalignment_mm(GRID) == 0
    assert meta["format"] == "nifti"
    assert formats.output_suffix(scan) == ".nii.gz"


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.b.NII.GZ", "a.b"), ("a.nii", "a"), ("a.dcm", "a"), ("a.csv", "a")],
)
def test_stem_drops_the_whole_suffix(tmp_path, name, stem):
    assert formats.stem(tmp_path / name) == stem


def test_a_folders_stem_is_its_whole_name(tmp_path, monkeypatch):
    (tmp_path / "scan.v2").mkdir()
    assert formats.stem(tmp_path / "scan.v2") == "scan.v2"
    monkeypatch.chdir(tmp_path / "scan.v2")
    assert formats.stem(type(tmp_path)(".")) == "scan.v2"


def test_volumes_are_one_where_they_cannot_be_counted(scan, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.nii").write_bytes(b"x")
    for path in (scan, tmp_path / "notes.txt", tmp_path / "bad.nii", tmp_path / "missing.nii"):
        assert formats.count_volumes(path) == 1


def test_what_is_an_image(scan, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._case.nii.gz").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    assert formats.is_image(scan)
    for name in ("notes.txt", "._case.nii.gz", "empty", "missing.nii.gz"):
        assert not formats.is_image(tmp_path / name)


def test_what_no_format_reads_is_refused_with_what_is_read(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes\.txt is of no known image format.*\.nii\.gz"):
        formats.read(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"missing.*does not exist"):
        formats.read(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no DICOM slices directly"):
        formats.read(tmp_path)
    with pytest.raises(ValueError, match=r"nothing writes this suffix; take one of .*\.nii"):
        formats.write(tmp_path / "a.mha", np.zeros((3, 4, 5)), grid=GRID, meta={})


def test_an_option_of_another_format_is_refused(scan):
    with pytest.raises(ValueError, match="--series does not apply to nifti"):
        formats.read(scan, series="4")


def test_labels_come_from_formats_that_store_labels(tmp_path, monkeypatch):
    toy = ModuleType("medseg.io.toy")
    toy.SUFFIXES, toy.handles, toy.read = (".toy",), lambda _: True, lambda _: None
    monkeypatch.setattr(formats, "modules", lambda: (toy,))
    (tmp_path / "a.toy").touch()
    with pytest.raises(ValueError, match="labels are not read from toy"):
        formats.read_labels(tmp_path / "a.toy")


def test_options_are_declared_by_the_formats_of_the_inputs(scan):
    parser = argparse.ArgumentParser()
    formats.add_options(parser)
    given = parser.parse_args(["--volume", "2", "--series", "6.1"])
    assert (given.volume, given.series) == (2, "6.1")
    own = argparse.ArgumentParser(exit_on_error=False)
    formats.add_options(own, scan)
    assert own.parse_args(["--volume", "2"]).volume == 2
    assert own.parse_known_args(["--series", "6.1"])[1] == ["--series", "6.1"]


def test_importing_the_dispatcher_loads_no_reader():
    import subprocess

    code = (
        "import sys; from medseg.io import formats; formats.modules(); "
        "print([m for m in ('nibabel', 'SimpleITK', 'pydicom', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_read_only_folder_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("medseg.provenance.tempfile.mkstemp", refuse)
    with pytest.raises(OSError, match="Permission denied"):
        nifti.write(tmp_path / "a.nii.gz", np.zeros((3, 4, 5)), grid=GRID, meta={})
    assert list(tmp_path.iterdir()) == []
