"""fastMRI files: sizes from the header, oversampling cut off, slices stacked; the rest refused."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.geometry import coils, fourier
from medseg.io import fastmri, formats, nifti

ROWS, COLUMNS, SLICES = 48, 30, 3  # the readout, along rows, is oversampled twice


def field(x, y, z) -> str:
    return f"<fieldOfView_mm><x>{x}</x><y>{y}</y><z>{z}</z></fieldOfView_mm>"


def header(encoded=(96.0, 45.0, 5.0), wanted=(48.0, 45.0, 4.5)) -> bytes:
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        f"<encodedSpace><matrixSize><x>48</x><y>30</y><z>1</z></matrixSize>{field(*encoded)}"
        f"</encodedSpace><reconSpace>{field(*wanted)}</reconSpace></encoding></ismrmrdHeader>"
    ).encode()


def scan() -> np.ndarray:
    """A smooth complex image (slice, y, x) in the middle half of its rows."""
    y, x = np.meshgrid(np.linspace(-2, 2, ROWS), np.linspace(-1, 1, COLUMNS), indexing="ij")
    size = np.exp(-4 * y**2 - 2 * (x - 0.2) ** 2)
    turns = [np.exp(1j * (0.5 * k + x)) for k in range(SLICES)]
    return np.stack([(k + 1) * size * turn for k, turn in enumerate(turns)]).astype(np.complex64)


def seen(image) -> np.ndarray:
    """(slice, coil, y, x)"""
    x = np.linspace(-1, 1, COLUMNS)
    maps = np.stack([np.exp(x), np.exp(-x), 1j * np.exp(0.3 * x)])[:, None] * np.ones((ROWS, 1))
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(0))
    return fourier.fft((maps * image[:, None]).astype(np.complex64), (2, 3))


def save(path: Path, kspace, *, xml=None, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if xml is not None:
            file["ismrmrd_header"] = xml
        file.attrs.update(attributes)
    return path


def test_slices_are_cut_to_their_field_of_view_and_stacked(tmp_path):
    facts = {"acquisition": "AXT2", "patient_id": "0123456789abcdef"}
    path = save(tmp_path / "file1.h5", seen(scan()), xml=header(), **facts)
    sample = formats.read(path)
    assert sample.id == "file1"
    assert sample.image.dtype == np.complex64
    assert sample.image.shape == (1, COLUMNS, ROWS // 2, SLICES)
    assert sample.space.spacing_mm == (1.5, 2.0, 4.5)
    assert formats.read_header(path).misalignment_mm(sample.space) == 0
    assert sample.channels == ("kspace",)
    assert sample.meta["acquisition"] == "AXT2"
    assert facts["patient_id"] not in str(sample.meta)
    assert (sample.meta["coils"], sample.meta["spacing_from"]) == (3, "header")
    # One angle for all slices, as all share one virtual coil; the phase between slices is true.
    wanted = scan()[:, ROWS // 4 : -ROWS // 4].T
    found = sample.image[0]
    turn = np.vdot(found, wanted)
    assert np.linalg.norm(found * turn / abs(turn) - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("method", coils.METHODS)
def test_single_coil_files_have_three_axes(tmp_path, method):
    path = save(tmp_path / "a.hdf5", fourier.fft(scan(), (1, 2)), xml=header())
    sample = formats.read(path, reconstruction=method)
    wanted = scan()[:, ROWS // 4 : -ROWS // 4].T
    factor = 1 if method == "zero_filled" else 1.01  # Tikhonov's weight
    assert_allclose(sample.image[0] * factor, wanted, atol=1e-4)
    assert sample.meta["coils"] == 1


def test_half_precision_pairs_are_read_right(tmp_path):
    kspace = fourier.fft(scan(), (1, 2))
    pairs = np.empty(kspace.shape, [("r", "<f2"), ("i", "<f2")])
    pairs["r"], pairs["i"] = kspace.real, kspace.imag
    sample = formats.read(save(tmp_path / "a.h5", pairs, xml=header()))
    assert_allclose(sample.image[0], scan()[:, ROWS // 4 : -ROWS // 4].T, atol=5e-3)


def test_lines_that_were_not_sampled_are_counted(tmp_path):
    kspace = seen(scan())
    mask = fourier.regular_lines(
        (ROWS, COLUMNS), acceleration=2, centre=10, generator=np.random.default_rng(0), axis=1
    )
    sample = formats.read(save(tmp_path / "a.h5", kspace * mask, xml=header()))
    # A sample of a smooth image may be zero by chance, too.
    assert_allclose(sample.meta["sampled"], 0.5, atol=1e-3)
    assert formats.read(tmp_path / "a.h5", reconstruction="sense").meta["reconstruction"] == "sense"


@pytest.mark.parametrize(
    "xml", [None, b"<nonsense", b"<a/>", header(encoded=(0, 1, 1)), header(wanted=("x", 1, 1))]
)
def test_without_a_usable_header_a_voxel_is_one_millimetre_and_said(tmp_path, xml):
    path = save(tmp_path / "a.h5", seen(scan()), xml=xml)
    with pytest.warns(UserWarning, match="no usable ismrmrd_header: a voxel counts as 1 mm"):
        sample = formats.read(path)
    assert sample.space.shape == (COLUMNS, ROWS, SLICES)
    assert sample.meta["spacing_known"] is False
    given = formats.read(path, spacing_mm="0.7,0.7,5")
    assert given.space.spacing_mm == (0.7, 0.7, 5)
    assert given.meta["spacing_from"] == "given"


def test_a_field_of_view_larger_than_encoded_cuts_nothing(tmp_path):
    path = save(tmp_path / "a.h5", seen(scan()), xml=header(wanted=(200.0, 200.0, 5.0)))
    assert formats.read_header(path).shape == (COLUMNS, ROWS, SLICES)


def test_a_slice_of_zeros_stays_one(tmp_path):
    kspace = seen(scan())
    kspace[0] = 0
    image = formats.read(save(tmp_path / "a.h5", kspace, xml=header())).image[0]
    assert not image[..., 0].any()
    assert image[..., 1].any()


def acquisitions(path):
    with h5py.File(path, "w") as file:
        file.create_group("dataset")["data"] = np.zeros(3)


def empty(path):
    h5py.File(path, "w").close()


def other(path):
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((3, 4))


def cut(path):
    save(path, seen(scan()), xml=header())
    path.write_bytes(path.read_bytes()[:-5000])


def spoilt(path):
    kspace = seen(scan())
    kspace[1, 0, 0, 0] = np.nan
    save(path, kspace, xml=header())


def unsampled(path):
    kspace = seen(scan())
    kspace[1, :, :, 14:17] = 0
    save(path, kspace, xml=header())


BAD = [
    (acquisitions, "ISMRMRD acquisitions.*sort them into"),
    (empty, "no data set kspace.*it holds: nothing"),
    (other, r"it holds: image \(3, 4\).*save \(coil, y, x\) as .npy"),
    (lambda p: save(p, np.zeros((2, 3))), r"no data set kspace.*kspace \(2, 3\)"),
    (lambda p: p.write_bytes(b""), "no HDF5 file"),
    (lambda p: p.write_bytes(b"hello" * 99), "no HDF5 file"),
    (cut, "cut short or damaged"),
    (spoilt, r"NaN or infinite, the first at \(0, 0, 0\)"),
    (unsampled, "slice 1: the fully sampled centre"),
    (lambda p: save(p, 0 * seen(scan()), xml=header()), "nothing but zeros"),
    (lambda p: save(p, seen(scan()).real, xml=header()), "float32 values"),
    (lambda p: save(p, np.fft.ifftshift(seen(scan()), (2, 3)), xml=header()), "in the corners"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_a_bad_file_is_refused_by_name_fault_and_cure(tmp_path, make, words):
    path = tmp_path / "a.h5"
    make(path)
    with pytest.raises(ValueError, match=f"(?s)^{path}.*{words}"):
        formats.read(path)


def test_options_of_others_and_missing_files_are_refused(tmp_path):
    path = save(tmp_path / "a.h5", seen(scan()), xml=header())
    with pytest.raises(ValueError, match="--coil-axis does not apply to fastmri"):
        formats.read(path, coil_axis=0)
    with pytest.raises(ValueError, match="rss is not offered"):
        formats.read_header(path, reconstruction="rss")
    with pytest.raises(FileNotFoundError, match=r"no\.h5 does not exist"):
        fastmri.read(tmp_path / "no.h5")


def test_more_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.h5", seen(scan()), xml=header())
    monkeypatch.setattr(nifti, "_available", lambda: 100_000)
    with pytest.raises(ValueError, match=r"\(3, 3, 48, 30\): reading it takes .* are free"):
        formats.read(path)


def test_without_h5py_the_cure_is_said(tmp_path, monkeypatch):
    path = save(tmp_path / "a.h5", seen(scan()), xml=header())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        formats.read(path)
