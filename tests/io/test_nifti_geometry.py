import nibabel
import numpy as np
import pytest
from affines import OBLIQUE, turned
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.geometry.grid import Grid
from medseg.geometry.resample import Passage
from medseg.io import nifti

GEOMETRY = [
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
]


def ramp(*shape, dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(0, 0), (0, 2), (1, 0), (1, 4), (3, 3)])
def test_both_transforms_codes_and_units_come_back_bit_for_bit(tmp_path, kind, codes):
    image = kind(ramp(4, 3, 5), None)
    image.set_qform(turned(33, (1.1, 2.2, 3.3)), codes[0])
    image.set_sform(OBLIQUE, codes[1])
    image.header.set_xyzt_units("mm", "msec")
    nibabel.save(image, tmp_path / "a.nii.gz")
    sample = nifti.read(tmp_path / "a.nii.gz")
    nifti.write(tmp_path / "b.nii.gz", ramp(4, 3, 5), grid=sample.space, meta=sample.meta)
    before, after = (nibabel.load(tmp_path / f"{n}.nii.gz") for n in "ab")
    assert type(after) is kind
    for field in GEOMETRY:
        assert np.array_equal(before.header[field], after.header[field]), field
    assert np.array_equal(before.header["pixdim"][:4], after.header["pixdim"][:4])
    assert np.array_equal(before.affine, after.affine)
    assert (np.asanyarray(after.dataobj) == ramp(4, 3, 5)).all()


def test_another_grid_is_written_with_the_old_codes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ramp(4, 3, 5), turned(12, (1, 2, 3))), tmp_path / "a.nii")
    sample = nifti.read(tmp_path / "a.nii")
    grid = sample.space.respaced((2.0, 2.0, 2.0))
    nifti.write(tmp_path / "b.nii", np.zeros(grid.shape, np.uint8), grid=grid, meta=sample.meta)
    header = nibabel.load(tmp_path / "b.nii").header
    assert (header["qform_code"], header["sform_code"]) == (0, 2)
    np.testing.assert_allclose(header.get_sform(), grid.affine, atol=1e-6)
    np.testing.assert_allclose(header.get_zooms(), grid.spacing_mm, rtol=1e-6)
    uncoded = dict(sample.meta, qform_code=0, sform_code=0)
    nifti.write(tmp_path / "c.nii", np.zeros(grid.shape, np.uint8), grid=grid, meta=uncoded)
    np.testing.assert_allclose(nibabel.load(tmp_path / "c.nii").affine, grid.affine, atol=1e-6)


def test_a_grid_without_facts_gets_both_transforms_unless_it_is_sheared(tmp_path):
    for affine, qform_code in ((turned(25, (1, 2, 3)), 1), (OBLIQUE, 0)):
        nifti.write(
            tmp_path / "a.nii", np.zeros((3, 3, 3), bool), grid=Grid((3, 3, 3), affine), meta={}
        )
        header = nibabel.load(tmp_path / "a.nii").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (qform_code, 1)
        assert header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(header.get_best_affine(), affine, atol=1e-5)
        if qform_code:
            np.testing.assert_allclose(header.get_qform(), affine, atol=1e-5)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.ones((3, 3, 3), bool), np.uint8),
        (np.full((3, 3, 3), 255, np.int64), np.uint8),
        (np.full((3, 3, 3), 256, np.int64), np.uint16),
        (np.full((3, 3, 3), 0.25, np.float64), np.float32),
        (np.full((3, 3, 3, 4), 0.25, np.float16), np.float32),
    ],
)
def test_labels_are_stored_small_and_all_else_as_float32(tmp_path, array, dtype):
    nifti.write(tmp_path / "a.nii.gz", array, grid=Grid((3, 3, 3), np.eye(4)), meta={})
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype
    assert (np.asanyarray(image.dataobj) == array).all()


def test_equal_arrays_give_equal_bytes_whatever_their_layout(tmp_path):
    array, grid = ramp(5, 6, 7, dtype=np.uint8), Grid((5, 6, 7), np.eye(4))
    nifti.write(tmp_path / "a.nii.gz", array, grid=grid, meta={})
    nifti.write(tmp_path / "b.nii.gz", np.asfortranarray(array), grid=grid, meta={})
    packed = (tmp_path / "a.nii.gz").read_bytes()
    assert packed == (tmp_path / "b.nii.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # no file name, no time


@pytest.mark.parametrize(
    ("array", "name", "words"),
    [
        (np.full((3, 3, 3), -1), "a.nii", "labels from -1"),
        (np.full((3, 3, 3), 70000), "a.nii", "0 to 65535"),
        (np.zeros((3, 3, 4)), "a.nii", "not on a grid"),
        (np.zeros((3, 3, 3)), "a.mha", "ends with .nii.gz or .nii"),
    ],
)
def test_what_cannot_be_written_leaves_an_earlier_file_alone(tmp_path, array, name, words):
    (tmp_path / name).write_text("earlier")
    with pytest.raises(ValueError, match=words):
        nifti.write(tmp_path / name, array, grid=Grid((3, 3, 3), np.eye(4)), meta={})
    assert (tmp_path / name).read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == [name]


@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.floats(-180, 180),
    st.tuples(*[st.floats(0.2, 9)] * 3),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory, shape, degrees, spacing, signs):
    path = tmp_path_factory.mktemp("nifti") / "a.nii.gz"
    grid = Grid(shape, turned(degrees, np.array(spacing) * signs))
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    nifti.write(path, image, grid=grid, meta={})
    sample = nifti.read(path)
    assert (sample.image[0] == image).all()
    assert sample.space.misalignment_mm(grid) < 1e-4
    nifti.write(path, image, grid=sample.space, meta=sample.meta)
    assert nifti.read(path).space.misalignment_mm(sample.space) == 0


def test_every_real_file_reads_as_in_nibabel_and_goes_back(reference, tmp_path):
    folder = reference / "data" / "mri"
    paths = sorted([*folder.rglob("*.nii"), *folder.rglob("*.nii.gz")])
    paths = [p for p in paths if p.stat().st_size < 1_500_000]  # the others are more of the same
    refused = []
    for path in paths:
        image = nibabel.load(path)
        many = image.ndim == 4 and image.shape[3] > 1
        if many:
            with pytest.raises(ValueError, match="--volume N"):
                nifti.read(path)
        try:
            sample = nifti.read(path, volume=1 if many else None)
        except ValueError as error:
            refused.append(path.name if str(path) in str(error) else str(error))
            continue
        values = np.asanyarray(image.dataobj)
        values = (values[..., 1] if many else values).reshape(image.shape[:3])
        values = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
        with np.errstate(all="ignore"):
            near = np.abs(sample.image[0] - values) <= 5e-7 * np.abs(values) + 1e-4
        assert (near | ~np.isfinite(sample.image[0])).all()
        assert np.array_equal(sample.space.affine, image.affine)
        out = tmp_path / "out.nii.gz"
        nifti.write(
            out, np.zeros(sample.space.shape, np.uint8), grid=sample.space, meta=sample.meta
        )
        header = nibabel.load(out).header
        for field in GEOMETRY:
            assert np.array_equal(header[field], image.header[field]), (path, field)
    assert len(paths) > 60
    assert refused == ["rgb_test_file.nii.gz", "warp_t22mt1.nii.gz"]


def test_a_head_in_all_48_axis_orders_is_one_canonical_head(reference):
    files = sorted((reference / "data/mri/awkward/orientations").glob("*.nii.gz"))
    assert len(files) == 48
    wanted = None
    for path in files:
        sample = nifti.read(path)
        assert sample.space.axcodes == path.name.split(".")[0]
        passage = Passage.to(sample.space, (5.0, 6.0, None))
        working = passage.image(sample.image)
        if wanted is None:
            wanted, grid = working, passage.working
            closest = nibabel.as_closest_canonical(nibabel.load(path))
            native = Passage.to(sample.space)
            assert (native.image(sample.image)[0] == closest.get_fdata(dtype=np.float32)).all()
            np.testing.assert_allclose(native.working.affine, closest.affine)
        assert (working == wanted).all()
        assert passage.working.misalignment_mm(grid) < 1e-4
