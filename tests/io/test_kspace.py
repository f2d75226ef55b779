"""`.npy` k-space and images, magnitude with phase: right numbers, or a fault and its cure."""

import argparse
import contextlib
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.geometry import coils, fourier
from medseg.geometry.grid import Grid
from medseg.io import formats, kspace, nifti

ROOT = Path(__file__).parents[2]


def blob(*shape) -> np.ndarray:
    """A smooth complex image whose voxels are all different."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    size = np.exp(-sum((p - 0.2 * k) ** 2 for k, p in enumerate(places)))
    return (size * np.exp(1j * places[0] - 0.5j * places[-1])).astype(np.complex64)


def seen(image, count=4) -> np.ndarray:
    """K-space of coils that see an image with smooth maps of unit root sum of squares."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    maps = np.stack([np.exp(places[0] * np.cos(k) + places[-1] * np.sin(k)) for k in range(count)])
    maps = (maps / np.sqrt((maps**2).sum(0))).astype(np.complex64)
    return fourier.fft(maps * image, range(1, maps.ndim))


def save(path: Path, array) -> Path:
    np.save(path, array)
    return path


def apart(found, image) -> float:
    """Relative distance after one phase for all, which the virtual coil decides."""
    turn = np.vdot(found, image)
    return float(np.linalg.norm(found * turn / abs(turn) - image) / np.linalg.norm(image))


@pytest.mark.parametrize("shape", [(24, 20), (23, 20), (23, 19)])
@pytest.mark.parametrize("method", coils.METHODS)
def test_one_coil_comes_back_exactly(tmp_path, shape, method):
    image = blob(*shape)
    full = fourier.fft(image, (0, 1))
    for array in (full, full[None], full[None].astype(np.complex128), full.astype(">c8")):
        sample = formats.read(save(tmp_path / "a.b.npy", array), reconstruction=method)
        assert sample.id == "a.b"
        assert sample.image.dtype == np.complex64
        assert sample.image.shape == (1, shape[1], shape[0], 1)
        factor = 1 if method == "zero_filled" else 1.01  # Tikhonov's weight
        assert_allclose(sample.image[0, :, :, 0].T * factor, image, atol=1e-5)
    assert sample.channels == ("kspace",)
    assert sample.meta["coils"] == 1
    assert sample.meta["sampled"] == 1
    assert sample.meta["reconstructed"]
    assert sample.meta["reconstruction"] == method
    assert formats.output_suffix(tmp_path / "a.b.npy") == ".nii.gz"


@pytest.mark.parametrize("shape", [(24, 20), (23, 19), (12, 14, 17), (11, 13, 16)])
def test_coils_are_combined_with_their_phase(tmp_path, shape):
    """Real maps leave the image's own phase, up to the one angle of the virtual coil."""
    image = blob(*shape)
    sample = formats.read(save(tmp_path / "a.npy", seen(image)))
    found = sample.image[0].T if len(shape) == 3 else sample.image[0, :, :, 0].T
    assert sample.space.shape == tuple((*reversed(shape), 1)[:3])
    assert sample.meta["coils"] == 4
    assert apart(found, image) < 0.02


def test_half_precision_pairs_are_read_right(tmp_path):
    full = fourier.fft(blob(20, 18), (0, 1))
    for kind, tolerance in (("<f2", 2e-3), ("<f4", 1e-6), ("<f8", 1e-6)):
        pairs = np.empty(full.shape, [("r", kind), ("i", kind)])
        pairs["r"], pairs["i"] = full.real, full.imag
        sample = formats.read(save(tmp_path / "a.npy", pairs))
        assert_allclose(sample.image[0, :, :, 0].T, blob(20, 18), atol=tolerance)


def test_the_spacing_is_said_or_one(tmp_path):
    plane = save(tmp_path / "a.npy", seen(blob(24, 20)))
    sample = formats.read(plane)
    assert sample.space.spacing_mm == (1, 1, 1)
    assert sample.meta["spacing_known"] is False
    for given, wanted in (
        ("0.9", (0.9, 0.9, 1)), (0.9, (0.9, 0.9, 1)), ("0.9,0.8", (0.9, 0.8, 1)),
        ((0.9, 0.8, 5.0), (0.9, 0.8, 5)),
    ):  # fmt: skip
        sample = formats.read(plane, spacing_mm=given)
        assert sample.space.spacing_mm == wanted
        assert sample.meta["spacing_known"] is True
        assert formats.read_header(plane, spacing_mm=given).misalignment_mm(sample.space) == 0
    volume = save(tmp_path / "b.npy", seen(blob(8, 24, 20)))
    assert formats.read_header(volume, spacing_mm="1.5").spacing_mm == (1.5, 1.5, 1.5)
    assert formats.read_header(volume, spacing_mm="1,2,3").spacing_mm == (1, 2, 3)
    with pytest.raises(ValueError, match="this is a volume; give x,y,z"):
        formats.read_header(volume, spacing_mm="1,2")
    for wrong in ("", "a", "0", "-1", "1,2,3,4", "nan"):
        with pytest.raises(ValueError, match=f"{plane.name}.*size of a pixel in millimetres"):
            formats.read(plane, spacing_mm=wrong)


def test_a_label_of_the_same_shape_and_spacing_lies_on_the_grid(tmp_path):
    sample = formats.read(save(tmp_path / "a.npy", seen(blob(24, 20))), spacing_mm="0.9,0.8")
    own = Grid((20, 24, 1), np.diag([0.9, 0.8, 1, 1]))
    assert sample.space.misalignment_mm(own) == 0
    out = tmp_path / "a.nii.gz"
    formats.write(out, np.abs(sample.image[0]), grid=sample.space, meta=sample.meta)
    assert formats.read_header(out).misalignment_mm(sample.space) < 1e-6
    assert_allclose(formats.read(out).image[0], np.abs(sample.image[0]), rtol=1e-6)


def test_coils_on_another_axis_are_named_and_can_be_said(tmp_path):
    first = seen(blob(40, 32), 8)
    wanted = formats.read(save(tmp_path / "a.npy", first)).image
    last = save(tmp_path / "b.npy", np.moveaxis(first, 0, -1))
    for read in (formats.read, formats.read_header):
        with pytest.raises(ValueError, match=r"axis 2 of 8 looks like coils.*--coil-axis 2.*move"):
            read(last)
        assert read(last, coil_axis=2) is not None
    for axis in (2, -1):
        assert (formats.read(last, coil_axis=axis).image == wanted).all()
    middle = save(tmp_path / "c.npy", np.moveaxis(first, 0, 1))
    with pytest.raises(ValueError, match="axis 1 of 8 looks like coils"):
        formats.read(middle)
    with pytest.raises(ValueError, match="--coil-axis 3 is no coil axis"):
        formats.read(middle, coil_axis=3)
    slices = save(tmp_path / "d.npy", np.zeros((30, 8, 64, 64), np.complex64))
    with pytest.raises(ValueError, match=r"axis 1 of 8.*\(coil, z, y, x\) is wanted"):
        formats.read(slices)


def test_a_volume_without_a_coil_axis_is_refused_with_its_cure(tmp_path):
    path = save(tmp_path / "a.npy", np.zeros((130, 70, 70), np.complex64))
    with pytest.raises(ValueError, match=r"130 coils are more than a scanner has.*kspace.None."):
        formats.read(path)


def test_a_complex_image_is_taken_as_it_is(tmp_path):
    for shape in ((24, 20), (6, 24, 20)):
        image = blob(*shape)
        path = save(tmp_path / "a.npy", image)
        sample = formats.read(path, domain="image")
        assert_allclose(sample.image[0].squeeze().T, image, atol=0)
        assert sample.channels == ("image",)
        assert sample.meta["reconstructed"] is False
        assert formats.read_header(path, domain="image").shape == sample.space.shape
    many = save(tmp_path / "b.npy", np.stack([image, 2 * image, 3 * image]))
    found = formats.read(many, domain="image", volume=2)
    assert_allclose(found.image[0].T, 3 * image, atol=0)
    with pytest.raises(ValueError, match=r"3 volumes.*N from 0 to 2"):
        formats.read(many, domain="image")
    with pytest.raises(ValueError, match=r"looks like echoes or coils.*moveaxis"):
        formats.read(save(tmp_path / "c.npy", np.moveaxis(np.load(many), 0, -1)), domain="image")
    with pytest.raises(ValueError, match="--coil-axis does not apply to images"):
        formats.read(many, domain="image", coil_axis=0)
    with pytest.raises(ValueError, match="--volume does not apply to k-space"):
        formats.read(save(tmp_path / "d.npy", seen(blob(24, 20))), volume=0)


GOOD = seen(blob(20, 18))


def spoilt(value):
    def make(path):
        array = GOOD.copy()
        array[1, 2, 3] = value
        np.save(path, array)

    return make


def cut(path):
    np.save(path, GOOD)
    path.write_bytes(path.read_bytes()[:-100])


def objects(path):
    np.save(path, np.array([GOOD, None], dtype=object), allow_pickle=True)


def overflowed(path):
    pairs = np.full((3, 20, 18), 7e4, [("r", "<f4"), ("i", "<f4")])
    with np.errstate(over="ignore"):
        np.save(path, pairs.astype([("r", "<f2"), ("i", "<f2")]))


BAD = [
    (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\)"),
    (lambda p: p.write_bytes(b"hello world"), "begins with b'hello '.*np.save"),
    (lambda p: p.write_bytes(b"\x93NUMPY\x01"), "cut short or damaged"),
    (cut, "cut short or damaged"),
    (objects, "holds Python objects"),
    (spoilt(np.nan), r"1 values are NaN or infinite, the first at \(1, 2, 3\)"),
    (spoilt(np.inf), "NaN or infinite"),
    (overflowed, "half precision overflows.*complex64"),
    (lambda p: np.save(p, 0 * GOOD), "nothing but zeros"),
    (lambda p: np.save(p, GOOD.real), "float32 values.*magnitudes.*NIfTI or PNG.*complex_input"),
    (lambda p: np.save(p, np.ones((20, 18), np.int16)), "int16 values.*complex_input"),
    (lambda p: np.save(p, np.ones((4, 20, 18, 2), np.float16)), r"float16.*\(real, imaginary\)"),
    (lambda p: np.save(p, np.ones((4, 20, 18, 2), np.float32)), r"a\[..., 0\] \+ 1j"),
    (lambda p: np.save(p, GOOD[0, 0]), r"shape \(18,\); \(coil, y, x\)"),
    (lambda p: np.save(p, GOOD[None, None]), r"shape \(1, 1, 4, 20, 18\)"),
    (lambda p: np.save(p, GOOD[:0]), "at least one sample"),
    (lambda p: np.save(p, np.complex64(1)), "at least one sample"),
    (lambda p: np.save(p, np.fft.ifftshift(GOOD, (1, 2))), r"corners.*fftshift.*axes=\(-2, -1\)"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_a_bad_file_is_refused_by_name_fault_and_cure(tmp_path, make, words):
    path = tmp_path / "a.npy"
    make(path)
    assert formats.is_image(path)
    with pytest.raises(ValueError, match=f"(?s)^{re.escape(str(path))}.*{words}"):
        formats.read(path)


def test_a_centre_that_was_not_sampled_is_refused_by_name(tmp_path):
    holes = GOOD.copy()
    holes[:, 9:12] = 0
    with pytest.raises(ValueError, match=r"a\.npy: the fully sampled centre"):
        formats.read(save(tmp_path / "a.npy", holes))


def test_reconstructions_are_two(tmp_path):
    path = save(tmp_path / "a.npy", GOOD)
    for read in (formats.read, formats.read_header):
        with pytest.raises(ValueError, match=r"rss is not offered .*no phase.*zero_filled or"):
            read(path, reconstruction="rss")
    with pytest.raises(ValueError, match="domain 'k' is none of kspace, image"):
        formats.read(path, domain="k")
    with pytest.raises(FileNotFoundError, match=r"no\.npy does not exist"):
        kspace.read(tmp_path / "no.npy")


def test_points_and_leftovers_are_no_images(tmp_path):
    assert not formats.is_image(save(tmp_path / "landmarks.npy", np.zeros((120, 2))))
    assert not formats.is_image(save(tmp_path / ".hidden.npy", GOOD))
    (tmp_path / "folder.npy").mkdir()
    assert not formats.is_image(tmp_path / "folder.npy")


def test_more_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.npy", GOOD)
    monkeypatch.setattr(nifti, "_available", lambda: GOOD.nbytes)
    with pytest.raises(ValueError, match=r"a\.npy.*reading it takes .* are free"):
        formats.read(path)
    assert formats.read_header(path).shape == (18, 20, 1)


def test_a_header_is_read_without_the_samples(tmp_path, monkeypatch):
    path = save(tmp_path / "a.npy", GOOD)
    monkeypatch.setattr(kspace, "to_complex", lambda *_: pytest.fail("samples were read"))
    assert formats.read_header(path, spacing_mm="2").spacing_mm == (2, 2, 1)


def test_options_are_declared_once_for_all_formats():
    parser = argparse.ArgumentParser(exit_on_error=False)
    formats.add_options(parser)
    words = "--spacing-mm 1,2,3 --reconstruction sense --domain image --coil-axis -1 --volume 2"
    given = parser.parse_args(words.split())
    assert given.spacing_mm == (1, 2, 3)
    assert (given.reconstruction, given.domain) == ("sense", "image")
    assert (given.coil_axis, given.volume) == (-1, 2)
    assert parser.parse_args([]).reconstruction is None


def test_the_sample_that_comes_along_is_a_brain_and_solving_sharpens_it():
    """Where nothing was measured zeros blur: the solved image agrees better with the data."""
    path = ROOT / "data/samples/brain_kspace/brain_8coil.npy"
    filled, solved = (formats.read(path, reconstruction=r) for r in coils.METHODS)
    assert filled.image.shape == (1, 180, 230, 1)
    assert filled.meta["coils"] == 8
    assert_allclose(filled.meta["sampled"], 0.1243, atol=1e-4)
    stored = np.load(path)
    mask, maps = fourier.sampled(stored), coils.sensitivities(stored)
    left = [
        coils.inconsistency(s.image[0, :, :, 0].T, stored, mask=mask, maps=maps)
        for s in (filled, solved)
    ]
    assert left[1] < 0.6 * left[0]
    magnitude = np.abs(solved.image[0, :, :, 0])
    head = magnitude > 0.15 * np.quantile(magnitude, 0.99)
    assert head[60:120, 80:150].mean() > 0.9
    assert head[:15].mean() + head[:, :5].mean() < 0.1
    # The magnitude is that of the root sum of squares, where there is signal.
    rss = coils.rss(fourier.ifft(stored, (1, 2))).T
    zero = np.abs(filled.image[0, :, :, 0])
    assert np.median(np.abs(zero / rss - 1)[head]) < 0.03


def test_magnitude_and_phase_become_one_complex_image(tmp_path):
    image = np.exp(2j * np.pi * np.arange(60) / 60).reshape(3, 4, 5) * np.arange(1, 61).reshape(
        3, 4, 5
    )
    for name, values in (("m", np.abs(image)), ("p", np.angle(image))):
        nibabel.save(
            nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii"
        )
    sample = kspace.read_pair(tmp_path / "m.nii", tmp_path / "p.nii")
    assert sample.image.dtype == np.complex64
    assert_allclose(sample.image[0], image, rtol=1e-5)
    assert sample.channels == ("image",)
    with pytest.raises(ValueError, match="no magnitude; give the magnitude first"):
        kspace.read_pair(tmp_path / "p.nii", tmp_path / "m.nii")
    for shape, affine in (((3, 4, 6), np.eye(4)), ((3, 4, 5), np.diag([2.0, 1, 1, 1]))):
        other = nibabel.Nifti1Image(np.zeros(shape, np.float32), affine)
        nibabel.save(other, tmp_path / "q.nii")
        with pytest.raises(ValueError, match="lie on different grids"):
            kspace.read_pair(tmp_path / "m.nii", tmp_path / "q.nii")
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "r.nii"
    )
    with pytest.raises(ValueError, match=r"holds 1 volumes and .*r\.nii 2"):
        kspace.read_pair(tmp_path / "m.nii", tmp_path / "r.nii")


def test_real_echoes_are_channels_whatever_the_slope_says(reference):
    folder = reference / "data/complex"
    pair = (folder / "mriresearchtools_Mag.nii", folder / "mriresearchtools_Phase.nii")
    with pytest.warns(UserWarning, match="Phase.nii runs from .*shrunk by a header's slope"):
        sample = kspace.read_pair(*pair)
    assert sample.channels == ("echo1", "echo2", "echo3")
    assert sample.image.dtype == np.complex64
    assert_allclose(sample.space.spacing_mm, (0.46875, 0.46875, 1), rtol=1e-6)
    raw = np.moveaxis(np.load(folder / "mriresearchtools_complex_3echo.npy"), -1, 0)
    slope = float(nibabel.load(pair[0]).dataobj.slope)  # of the magnitude, where it may be meant
    # The phase's full range is one turn to 4e-4 of a turn, so its ends miss by as much.
    assert_allclose(sample.image / slope, raw, atol=1e-3 * np.abs(raw).max())
    turned = np.angle(sample.image * raw.conj())[np.abs(raw) > 0]
    assert np.abs(turned).max() < 1e-3
    with pytest.warns(UserWarning, match="shrunk"):
        second = kspace.read_pair(*pair, volume=1)
    assert second.channels == ("image",)
    assert apart(second.image[0], sample.image[1]) < 1e-3


def test_the_real_echoes_as_npy_are_images_in_another_order(reference, tmp_path):
    path = reference / "data/complex/mriresearchtools_complex_3echo.npy"
    with pytest.raises(ValueError, match=r"axis 3 of 3 looks like coils.*--domain image"):
        formats.read(path)
    with pytest.raises(ValueError, match="looks like echoes"):
        formats.read(path, domain="image")
    turned = save(tmp_path / "a.npy", np.load(path).T)
    found = formats.read(turned, domain="image", volume=1)
    assert (found.image[0] == np.load(path)[..., 1]).all()


def test_a_copy_of_the_sample_is_the_publishers_own(reference):
    own = (ROOT / "data/samples/brain_kspace/brain_8coil.npy").read_bytes()
    assert own == (reference / "data/complex/sigpy_tutorial_cartesian_ksp.npy").read_bytes()


def test_names_keep_their_case(tmp_path):
    save(tmp_path / "a.npy", GOOD)
    shutil.move(tmp_path / "a.npy", tmp_path / "Scan.NPY")
    assert formats.read(tmp_path / "Scan.NPY").id == "Scan"


def test_damaged_headers_are_refused_by_name(tmp_path):
    """numpy's own reader lets several kinds of error through for such headers."""
    whole = save(tmp_path / "whole.npy", GOOD).read_bytes()
    path, chance = tmp_path / "a.npy", np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.integers(6, 128)] = chance.integers(0, 256)
        path.write_bytes(damaged)
        formats.is_image(path)
        words = ""
        with contextlib.suppress(ValueError):
            formats.read_header(path)
            words = str(path)
        if not words:
            with pytest.raises(ValueError, match=re.escape(str(path))):
                formats.read_header(path)
