import gzip
import struct

import nibabel
import numpy as np
import pytest
from affines import OBLIQUE, turned

from medseg.io import nifti


def save(path, array, affine=None, *, kind=nibabel.Nifti1Image, **fields):
    """A file made by nibabel, some header fields then set by hand, even to nonsense."""
    image = kind(array, np.diag([2.0, 3, 4, 1]) if affine is None else affine)
    nibabel.save(image, path)
    if fields:
        packed = path.name.endswith(".gz")
        raw = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        header = image.header.copy()
        size = header.sizeof_hdr
        header = type(header)(bytes(raw[:size]), check=False)
        for name, value in fields.items():
            header[name] = value
        raw[:size] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(raw)) if packed else bytes(raw))
    return path


def ramp(*shape, dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_values_and_places_are_those_of_nibabel(tmp_path, kind, suffix, dtype):
    path = save(tmp_path / f"a{suffix}", ramp(4, 3, 5, dtype=dtype), OBLIQUE, kind=kind)
    sample = nifti.read(path)
    assert sample.id == "a"
    assert sample.channels == ("image",)
    assert sample.image.dtype == np.float32
    assert (sample.image[0] == np.asanyarray(nibabel.load(path).dataobj)).all()
    assert (sample.space.affine == nibabel.load(path).affine).all()
    assert sample.meta["version"] == (1 if kind is nibabel.Nifti1Image else 2)
    assert nifti.read_header(path).misalignment_mm(sample.space) == 0


@pytest.mark.parametrize(
    ("slope", "inter", "wanted"),
    [
        (0.5, -3, lambda v: v * 0.5 - 3),
        (0, 9, lambda v: v),
        (np.nan, 9, lambda v: v),
        (np.inf, 0, lambda v: v),
        (2, np.nan, lambda v: v * 2.0),
        (-1, 0, lambda v: -v),
    ],
)
def test_slope_and_intercept_are_applied_and_nonsense_counts_as_none(
    tmp_path, slope, inter, wanted
):
    array = ramp(3, 4, 5)
    path = save(tmp_path / "a.nii", array, scl_slope=slope, scl_inter=inter)
    assert (nifti.read(path).image[0] == wanted(array)).all()


def test_wide_integers_are_scaled_before_they_are_rounded(tmp_path):
    array = np.full((2, 2, 2), 2**30 + 3, dtype=np.int32)
    path = save(tmp_path / "a.nii", array, scl_slope=1.0, scl_inter=-(2.0**30))
    assert (nifti.read(path).image == 3).all()


def test_big_endian_files_are_read(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(ramp(3, 4, 5, dtype=">i2"), OBLIQUE, header)
    nibabel.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(">i", 348)
    assert (nifti.read(tmp_path / "a.nii").image[0] == ramp(3, 4, 5)).all()


def test_the_sform_counts_before_the_qform_and_without_both_the_sizes_alone(tmp_path):
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(ramp(3, 4, 5), None)
    image.set_sform(turned(10, (1, 2, 3)), 2)
    image.set_qform(turned(-20, (1, 2, 3)), 1)
    for sform, qform, wanted in (
        (2, 1, turned(10, (1, 2, 3))),
        (0, 1, turned(-20, (1, 2, 3))),
        (0, 0, None),
    ):
        raw = bytearray(image.to_bytes())
        raw[252:256] = struct.pack("<hh", qform, sform)
        path.write_bytes(raw)
        if wanted is None:
            wanted = nibabel.load(path).affine
        np.testing.assert_allclose(nifti.read(path).space.affine, wanted, atol=1e-6)


def test_voxel_sizes_below_zero_and_odd_signs_are_read_like_positive_ones(tmp_path):
    path = save(
        tmp_path / "a.nii", ramp(3, 4, 5), turned(30, (1, 2, 3)), sform_code=0, qform_code=1
    )
    good = nifti.read(path).space
    pixdim = np.array([0, -1, 2, -3, 1, 1, 1, 1], dtype=np.float32)
    odd = nifti.read(
        save(path, ramp(3, 4, 5), turned(30, (1, 2, 3)), sform_code=0, qform_code=1, pixdim=pixdim)
    )
    np.testing.assert_allclose(odd.space.affine, good.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("code", "unit", "factor"), [(1, "m", 1000), (3, "um", 0.001), (0, "unknown", 1)]
)
def test_lengths_in_other_units_become_millimetres_and_come_back(tmp_path, code, unit, factor):
    path = save(tmp_path / "a.nii", ramp(3, 4, 5), turned(5, (1, 2, 3)), xyzt_units=code)
    sample = nifti.read(path)
    assert sample.meta["units"] == unit
    np.testing.assert_allclose(sample.space.spacing_mm, np.array([1, 2, 3]) * factor, rtol=1e-6)
    for grid in (sample.space, sample.space.crop((1, 1, 1), (2, 2, 2))):
        nifti.write(tmp_path / "b.nii", np.zeros(grid.shape, bool), grid=grid, meta=sample.meta)
        np.testing.assert_allclose(
            nifti.read(tmp_path / "b.nii").space.affine, grid.affine, rtol=1e-6, atol=1e-6 * factor
        )
        assert nibabel.load(tmp_path / "b.nii").header["xyzt_units"] == code


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((4, 5), (4, 5, 1)), ((4, 5, 6, 1), (4, 5, 6)), ((4, 5, 6, 1, 1), (4, 5, 6))],
)
def test_flat_images_gain_an_axis_and_single_last_axes_go(tmp_path, shape, wanted):
    path = save(tmp_path / "a.nii.gz", ramp(*shape))
    sample = nifti.read(path)
    assert sample.image.shape == (1, *wanted)
    assert (sample.image.ravel() == ramp(*shape).ravel()).all()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_of_a_4d_file_is_chosen_or_asked_for(tmp_path, suffix):
    array = ramp(4, 3, 2, 5)
    path = save(tmp_path / f"a{suffix}", array)
    for volume in (0, 4):
        assert (nifti.read(path, volume=volume).image[0] == array[..., volume]).all()
        assert (nifti.read_labels(path, volume=volume)[0] == array[..., volume]).all()
    with pytest.raises(ValueError, match=r"a\.nii.*4-D.*5 volumes.*--volume N .*N from 0 to 4"):
        nifti.read(path)
    with pytest.raises(ValueError, match="--volume 5 does not exist"):
        nifti.read(path, volume=5)
    single = save(tmp_path / "b.nii", ramp(4, 3, 2))
    assert nifti.read(single, volume=0).image.shape == (1, 4, 3, 2)
    with pytest.raises(ValueError, match="holds 1 volume, so --volume 1"):
        nifti.read_header(single, volume=1)


def test_values_that_are_not_finite_are_kept_for_check_to_report(tmp_path):
    array = ramp(3, 3, 3, dtype=np.float32)
    array[0, 0, :2] = np.nan, np.inf
    image = nifti.read(save(tmp_path / "a.nii", array)).image[0]
    assert np.isnan(image[0, 0, 0])
    assert np.isinf(image[0, 0, 1])


def bad_affine(path):
    save(path, ramp(3, 3, 3), srow_x=[np.nan, 0, 0, 0], sform_code=1)


def cut_short(path):
    whole = save(path, np.random.default_rng(0).integers(0, 999, (30, 30, 30)).astype(np.int16))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


def huge(path):
    save(path, ramp(3, 3, 3), kind=nibabel.Nifti2Image, dim=[3, 60000, 60000, 60000, 1, 1, 1, 1])


def wrapped(path):
    save(path, ramp(3, 3, 3), dim=np.array([3, 60000, 60000, 60000, 1, 1, 1, 1]).astype(np.int16))


def corrupt(path):
    cut = save(path, np.random.default_rng(0).integers(0, 999, (30, 30, 30)).astype(np.int16))
    raw = bytearray(cut.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    cut.write_bytes(raw)


def rgb(path):
    save(path, np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


BAD = [
    ("a.nii", bad_affine, "not a finite 4x4.*mend the header"),
    ("a.nii.gz", bad_affine, "not a finite 4x4.*mend the header"),
    ("a.nii.gz", cut_short, "cut short or damaged.*copy"),
    ("a.nii", cut_short, "claims.*cannot hold.*copy"),
    ("a.nii.gz", huge, r"claims \(60000, 60000, 60000\).*TiB.*cannot hold"),
    ("a.nii", huge, r"claims \(60000, 60000, 60000\).*TiB.*cannot hold"),
    ("a.nii.gz", wrapped, "claims the shape .*at least one voxel"),
    ("a.nii.gz", corrupt, "cut short or damaged"),
    ("a.nii.gz", lambda p: p.write_bytes(b""), r"empty \(0 bytes\)"),
    ("a.nii", lambda p: p.write_bytes(b"hello world" * 99), "not a NIfTI file.*give a .nii"),
    ("a.nii", lambda p: p.write_bytes(b"\x5c\x01\x00\x00" + bytes(500)), "lacks its mark"),
    ("a.nii.gz", lambda p: p.write_bytes(b"hello world" * 99), "is not gzip-compressed.*rename"),
    ("a.nii", lambda p: p.write_bytes(gzip.compress(b"x" * 999)), "is gzip-compressed.*rename"),
    ("a.nii.gz", lambda p: p.write_bytes(gzip.compress(b"x" * 9)), "not a NIfTI file"),
    ("a.nii.gz", lambda p: p.write_bytes(b"\x1f\x8b\x08"), "cut short or damaged"),
    ("a.nii", rgb, "RGB colour.*one number"),
    ("a.nii", lambda p: save(p, ramp(4, 4, 4, 1, 3)), "vectors or tensors"),
    ("a.nii", lambda p: save(p, ramp(3, 3, 3), datatype=1234), "header is damaged"),
    ("a.nii", lambda p: save(p, ramp(3, 3, 3), sform_code=1, srow_x=[0, 0, 0, 1]), "singular"),
    ("a.nii", lambda p: save(p, ramp(3, 3, 3), vox_offset=-4000), "header is damaged"),
    ("a.nii", lambda p: save(p, ramp(3, 3, 3), vox_offset=np.nan), "header is damaged"),
    ("a.nii", lambda p: p.mkdir(), "is a folder"),
]


@pytest.mark.parametrize(("name", "make", "words"), BAD)
def test_a_bad_file_is_refused_by_name_fault_and_cure(tmp_path, name, make, words):
    path = tmp_path / name
    make(path)
    for read in (nifti.read, nifti.read_labels):
        with pytest.raises(ValueError, match=f"(?s)^{path}.*{words}"):
            read(path)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_files_keep_both_parts(tmp_path, dtype):
    values = (ramp(3, 4, 5, dtype=np.float64) - 7j).astype(dtype)
    sample = nifti.read(save(tmp_path / "a.nii.gz", values))
    assert sample.image.dtype == np.complex64
    assert (sample.image[0] == values).all()
    scaled = nifti.read(save(tmp_path / "b.nii", values, scl_slope=2, scl_inter=3)).image[0]
    np.testing.assert_allclose(scaled, 2 * values + (3 + 3j), rtol=1e-6)
    many = save(tmp_path / "c.nii", np.stack([values, 2j * values], -1))
    assert (nifti.read(many, volume=1).image[0] == (2j * values).astype(np.complex64)).all()
    with pytest.raises(ValueError, match=f"{many.name}.*no labels; give whole numbers"):
        nifti.read_labels(many, volume=0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.nii does not exist; give"):
        nifti.read(tmp_path / "no.nii")


def test_more_voxels_than_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", ramp(30, 30, 30))
    monkeypatch.setattr(nifti, "_available", lambda: 100_000)
    with pytest.raises(ValueError, match=r"takes 158\.2 KiB of memory, 97\.7 KiB are free"):
        nifti.read(path)
    assert nifti.read_header(path).shape == (30, 30, 30)


def test_zeros_that_are_packed_small_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii.gz", np.zeros((120, 120, 120), np.int16))
    assert path.stat().st_size * 100 < 120**3 * 2
    monkeypatch.setattr(nifti, "_available", lambda: 1_000_000)
    monkeypatch.setattr(nifti, "_raw", lambda _: pytest.fail("was unpacked"))
    for read in (nifti.read, nifti.read_labels):
        with pytest.raises(ValueError, match=r"\(120, 120, 120\): reading it takes .* are free"):
            read(path)


@pytest.mark.parametrize(
    ("shape", "count"), [((4, 5), 1), ((4, 3, 2), 1), ((4, 3, 2, 1), 1), ((4, 3, 2, 5), 5)]
)
def test_volumes_are_counted_from_the_header(tmp_path, shape, count):
    assert nifti.count_volumes(save(tmp_path / "a.nii.gz", ramp(*shape))) == count


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int32])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_become_small_integers(tmp_path, dtype, suffix):
    array = np.random.default_rng(0).choice([0, 1, 200], (4, 5, 6)).astype(dtype)
    labels, grid, meta = nifti.read_labels(save(tmp_path / f"a{suffix}", array))
    assert type(labels) is np.ndarray
    assert labels.dtype == np.uint8
    assert (labels == array).all()
    assert grid.shape == (4, 5, 6)
    assert meta["format"] == "nifti"


def test_scaled_labels_and_labels_beyond_a_byte_are_read(tmp_path):
    stored = np.random.default_rng(0).choice([0, 51, 255], (4, 5, 6)).astype(np.uint8)
    path = save(tmp_path / "a.nii", stored, scl_slope=np.float32(1 / 51), scl_inter=0)
    assert (nifti.read_labels(path)[0] == stored // 51).all()
    wide = save(tmp_path / "b.nii", ramp(3, 3, 3) * 100)
    assert nifti.read_labels(wide)[0].dtype == np.uint16
    signed = save(tmp_path / "c.nii", ramp(3, 3, 3) - 1)
    assert nifti.read_labels(signed)[0].min() == -1


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "value 0.5 at voxel"), (np.nan, "value nan"), (np.inf, "value inf")]
)
def test_a_label_that_is_no_whole_number_is_named(tmp_path, value, words):
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"{words}.*\(1, 2, 3\).*whole numbers"):
        nifti.read_labels(save(tmp_path / "a.nii", array))
