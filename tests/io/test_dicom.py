import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medseg.io import dicom, formats, nifti

SECRETS = ["Doe", "Jane", "19700203", "Elm Street", "General Hospital", "Dr. Quincy", "PID-4711"]
SERIES = generate_uid()
AXIAL = [1, 0, 0, 0, 1, 0]


def save(path: Path, pixels: np.ndarray, z: float, **facts) -> Path:
    """One MR slice (rows x columns) at height z, with a header full of personal facts."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = MRImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid()
    header.PatientName, header.PatientBirthDate, header.PatientID = (
        "Doe^Jane",
        SECRETS[2],
        SECRETS[6],
    )
    header.PatientAddress, header.InstitutionName = "1 Elm Street", "General Hospital"
    header.ReferringPhysicianName = "Dr. Quincy"
    header.SeriesDescription = header.ProtocolName = "knee of Jane Doe"
    header.Modality, header.SeriesInstanceUID, header.SeriesNumber = "MR", SERIES, 4
    header.ScanningSequence, header.EchoTime, header.AcquisitionNumber = "GR", 4.6, 1
    header.ImageOrientationPatient, header.ImagePositionPatient = AXIAL, [-10, -20, z]
    header.PixelSpacing, header.SliceThickness, header.SpacingBetweenSlices = [2, 1], 3, 3
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
    header.PixelData = pixels.tobytes()
    for name, value in facts.items():
        setattr(header, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def stack(folder: Path, heights, *, seed=0, prefix="s", **facts) -> np.ndarray:
    """A series; the files' names do not tell the order."""
    values = np.random.default_rng(seed).integers(0, 900, (len(heights), 4, 6)).astype(np.uint16)
    for index, (z, plane) in enumerate(zip(heights, values, strict=True)):
        save(folder / f"{prefix}{(index * 7) % 10}{index}.dcm", plane, z, **facts)
    return values


def refusal(path: Path, **options) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is the caller's
        formats.read(path, **options)
    text = str(caught.value)
    assert str(path) in text
    assert not [secret for secret in SECRETS if secret in text]
    return text


def test_slices_are_ordered_by_place_and_lie_in_ras(tmp_path):
    values = stack(tmp_path / "a", [9, 0, 3, 6])
    sample = formats.read(tmp_path / "a")
    assert sample.id == "a"
    assert sample.image.shape == (1, 6, 4, 4)
    assert (sample.image[0] == values[[1, 2, 3, 0]].transpose(2, 1, 0)).all()
    np.testing.assert_allclose(
        sample.space.affine, [[-1, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 0], [0, 0, 0, 1]]
    )
    assert dicom.read_header(tmp_path / "a").misalignment_mm(sample.space) == 0


def test_slope_and_intercept_of_each_slice_are_applied(tmp_path):
    plane = np.arange(24, dtype=np.int16).reshape(4, 6) - 5
    save(tmp_path / "a" / "1", plane, 0, RescaleSlope=2.5, RescaleIntercept=-1000)
    save(tmp_path / "a" / "2", plane, 3, RescaleSlope=1, RescaleIntercept=7)
    image = formats.read(tmp_path / "a").image[0]
    np.testing.assert_allclose(image[..., 0], plane.T * 2.5 - 1000)
    np.testing.assert_allclose(image[..., 1], plane.T + 7)


def test_one_slice_is_a_volume_as_file_and_as_folder(tmp_path):
    path = save(tmp_path / "a" / "one.dcm", np.ones((4, 6), np.uint16), 12)
    for given in (path, path.parent):
        sample = formats.read(given)
        assert sample.image.shape == (1, 6, 4, 1)
        assert sample.space.spacing_mm == (1.0, 2.0, 3.0)
    assert formats.stem(path) == "one"


def test_a_tilted_gantry_is_kept_as_shear(tmp_path):
    for index in range(4):
        save(
            tmp_path / "a" / str(index),
            np.ones((4, 6), np.uint16),
            0,
            ImagePositionPatient=[-10, -20 + 0.5 * index, 3 * index],
        )
    np.testing.assert_allclose(formats.read(tmp_path / "a").space.affine[:3, 2], [0, -0.5, 3])


def test_who_was_scanned_stays_in_the_file(tmp_path):
    stack(tmp_path / "a", [0, 3, 6], SeriesNumber=4)
    sample = formats.read(tmp_path / "a")
    text = repr(sample.meta) + repr(dict(sample.sources))
    assert not [secret for secret in SECRETS if secret in text]
    assert SERIES not in text
    assert sample.meta["dicom"]["echo_time_ms"] == "4.6"
    assert sample.meta["dicom"]["modality"] == "MR"


def test_typed_text_in_a_technical_tag_is_dropped(tmp_path):
    with pytest.warns(UserWarning, match="Invalid value for VR CS"):
        stack(tmp_path / "a", [0, 3], Modality="Jane Doe")
    assert "modality" not in formats.read(tmp_path / "a").meta["dicom"]
    assert "Jane" not in str(dicom.series(tmp_path / "a")[0])


@pytest.mark.parametrize(
    ("heights", "words"),
    [
        ([0, 3, 9, 12], "missing or uneven.*3.00 mm.*not between 3.00 and 9.00"),
        ([0, 3, 6.5, 9], "missing or uneven"),
        ([0, 6, 12, 18], "missing or uneven: 3.00 mm apart as a rule"),
        ([0, 6], "missing or uneven: 3.00 mm"),
        ([0, 3, 3, 6], r"1 of 3 positions hold more than one slice \(at 3.00 mm"),
        ([0, 0, 3, 3, 6, 6], "3 of 3 positions hold more than one"),
    ],
)
def test_missing_and_doubled_slices_are_named(tmp_path, heights, words):
    import re

    stack(tmp_path / "a", heights)
    assert re.search(words, refusal(tmp_path / "a"))


def test_slices_beside_the_line_are_refused(tmp_path):
    for index, x in enumerate([0, 0, 1, 0]):
        save(
            tmp_path / "a" / str(index),
            np.ones((4, 6), np.uint16),
            0,
            ImagePositionPatient=[x, 0, 3 * index],
        )
    assert "stray up to 1.00 mm" in refusal(tmp_path / "a")


def test_other_files_are_passed_over(tmp_path):
    values = stack(tmp_path / "a", [0, 3, 6])
    (tmp_path / "a" / "README.txt").write_text("hello")
    (tmp_path / "a" / "._s00.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "a" / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"nothing")
    (tmp_path / "a" / "sub").mkdir()
    report = save(tmp_path / "a" / "report", np.ones((4, 6), np.uint16), 0)
    header = pydicom.dcmread(report)
    del header.PixelData, header.Rows, header.Columns
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    header.save_as(report)
    assert (formats.read(tmp_path / "a").image[0] == values.transpose(2, 1, 0)).all()


def test_several_series_are_listed_and_one_is_chosen(tmp_path):
    first = stack(tmp_path / "a", [0, 3, 6])
    second = stack(
        tmp_path / "a",
        [0, 3],
        seed=1,
        prefix="t",
        SeriesNumber=11,
        SeriesInstanceUID=generate_uid(),
    )
    stack(
        tmp_path / "a",
        [0],
        prefix="u",
        SeriesNumber=11,
        SeriesInstanceUID=generate_uid(),
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
    )
    assert [v.name for v in dicom.series(tmp_path / "a")] == ["4", "11.1", "11.2"]
    text = refusal(tmp_path / "a")
    assert "holds 3 volumes" in text
    assert "4 (3 slices of 6x4, MR, TE 4.6 ms, acquisition 1)" in text
    assert "--series NAME" in text
    assert (formats.read(tmp_path / "a", series="4").image[0] == first.transpose(2, 1, 0)).all()
    assert (formats.read(tmp_path / "a", series="11.1").image[0] == second.transpose(2, 1, 0)).all()
    assert "no volume named '5'" in refusal(tmp_path / "a", series="5")


@pytest.mark.parametrize(
    "facts",
    [
        {"AcquisitionNumber": (1, 2)},
        {"EchoTime": (4.6, 9.2)},
        {"ImageType": ("M", "P")},
        {"SequenceName": ("ep_b0", "ep_b1000")},
        {"AcquisitionTime": ("101010", "101020")},
    ],
)
def test_two_volumes_under_one_series_are_told_apart(tmp_path, facts):
    [(tag, (one, two))] = facts.items()
    first = stack(tmp_path / "a", [0, 3, 6], **{tag: one})
    second = stack(tmp_path / "a", [0, 3, 6], seed=1, prefix="t", **{tag: two})
    names = [volume.name for volume in dicom.series(tmp_path / "a")]
    assert names == ["4.1", "4.2"]
    images = [formats.read(tmp_path / "a", series=name).image[0] for name in names]
    for image, values in zip(images, (first, second), strict=True):
        assert (image == values.transpose(2, 1, 0)).all()


def test_two_echoes_in_magnitude_and_phase_are_four_volumes(tmp_path):
    for index, (echo, kind) in enumerate([(5, "M"), (5, "P"), (9, "M"), (9, "P")]):
        stack(tmp_path / "a", [0, 3, 6], prefix="abcd"[index], EchoTime=echo, ImageType=kind)
    volumes = dicom.series(tmp_path / "a")
    assert [len(v.slices) for v in volumes] == [3, 3, 3, 3]
    assert [{s.file.name[0] for s in v.slices} for v in volumes] == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_a_tag_that_differs_from_slice_to_slice_splits_nothing(tmp_path):
    for index, z in enumerate([0, 3, 3, 6]):
        save(
            tmp_path / "a" / str(index),
            np.ones((4, 6), np.uint16),
            z,
            AcquisitionTime=f"10101{index}",
        )
    assert "more than one slice" in refusal(tmp_path / "a")
    for index in range(4):
        save(
            tmp_path / "b" / str(index),
            np.ones((4, 6), np.uint16),
            3 * index,
            AcquisitionNumber=index,
        )
    assert formats.read(tmp_path / "b").image.shape == (1, 6, 4, 4)


@pytest.mark.parametrize(("which", "cut"), [(0, 10), (1, 10), (2, 10), (1, 40), (2, 300)])
def test_a_slice_cut_short_is_named(tmp_path, which, cut):
    stack(tmp_path / "a", [0, 3, 6])
    path = sorted((tmp_path / "a").iterdir())[which]
    path.write_bytes(path.read_bytes()[:-cut])
    text = refusal(tmp_path / "a")
    assert "cut short" in text
    assert path.name in text


def test_colour_and_folders_without_slices_are_refused(tmp_path):
    path = save(tmp_path / "a" / "1", np.ones((4, 18), np.uint16), 0)
    header = pydicom.dcmread(path)
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = (
        3,
        "RGB",
        0,
    )
    header.Columns = 6
    header.save_as(path)
    assert "colour" in refusal(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert "is a folder that is empty" in refusal(tmp_path / "b")
    (tmp_path / "b" / "x.txt").write_text("x")
    assert "holds no DICOM" in refusal(tmp_path / "b")
    lost = save(tmp_path / "c" / "1", np.ones((4, 6), np.uint16), 0)
    header = pydicom.dcmread(lost)
    del header.ImagePositionPatient
    header.save_as(lost)
    assert "no DICOM slice with a position" in refusal(tmp_path / "c")


def test_labels_for_a_series_are_written_as_nifti_in_its_grid(tmp_path):
    stack(tmp_path / "a", [0, 3, 6])
    sample = formats.read(tmp_path / "a")
    out = tmp_path / f"a{formats.output_suffix(tmp_path / 'a')}"
    formats.write(out, np.ones(sample.space.shape, np.uint8), grid=sample.space, meta=sample.meta)
    assert nifti.read(out).space.misalignment_mm(sample.space) < 1e-5
    header = nibabel.load(out).header
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    assert not [s for s in SECRETS if s.encode() in header.binaryblock]


def multiframe(path: Path, heights, slopes) -> np.ndarray:
    values = np.random.default_rng(3).integers(0, 99, (len(heights), 4, 6)).astype(np.uint16)
    save(path, values[0], 0)
    header = pydicom.dcmread(path)
    del header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing
    header.NumberOfFrames, header.PixelData = len(heights), values.tobytes()
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"

    def group(**facts):
        item = Dataset()
        for name, value in facts.items():
            setattr(item, name, value)
        return [item]

    header.SharedFunctionalGroupsSequence = group(
        PlaneOrientationSequence=group(ImageOrientationPatient=AXIAL),
        PixelMeasuresSequence=group(PixelSpacing=[2, 1], SliceThickness=3),
    )
    header.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence=group(ImagePositionPatient=[-10, -20, z]),
            PixelValueTransformationSequence=group(RescaleSlope=slope, RescaleIntercept=1),
        )[0]
        for z, slope in zip(heights, slopes, strict=True)
    ]
    header.save_as(path)
    return values


def test_frames_of_an_enhanced_file_are_ordered_and_scaled_one_by_one(tmp_path):
    path = tmp_path / "many.dcm"
    values = multiframe(path, [6, 0, 3], [1, 2, 3])
    sample = formats.read(path)
    wanted = np.stack([values[1] * 2.0 + 1, values[2] * 3.0 + 1, values[0] + 1.0])
    assert (sample.image[0] == wanted.transpose(2, 1, 0)).all()
    np.testing.assert_allclose(sample.space.affine[:3, 3], [10, 20, 0])
    assert not [secret for secret in SECRETS if secret in repr(sample.meta)]
    assert "give one of the files: many.dcm" in refusal(tmp_path)
    multiframe(path, [0, 3, 9], [1, 1, 1])
    assert "missing or uneven" in refusal(path)


def test_a_real_series_equals_its_reference_by_value_and_place(reference):
    folder = reference / "data/mri/dicom"
    sample = formats.read(folder / "sag_gre_5")
    peer = nibabel.load(folder / "sag_gre_5_reference.nii")
    index = np.argwhere(np.ones(peer.shape))
    world = nibabel.affines.apply_affine(peer.affine, index)
    ours = sample.space.to_index(world)
    np.testing.assert_allclose(ours, np.round(ours), atol=1e-5)
    found = sample.image[0][tuple(np.round(ours).astype(int).T)]
    assert (found == np.asanyarray(peer.dataobj)[tuple(index.T)]).all()


def test_two_real_volumes_under_one_series_uid_are_told_apart(reference, tmp_path):
    names = ("sag_dwi_b0_48", "sag_dwi_dir1_48")
    for name in names:
        for file in (reference / "data/mri/dicom" / name).iterdir():
            shutil.copy(file, tmp_path)
    volumes = dicom.series(tmp_path)
    assert [(v.name, len(v.slices)) for v in volumes] == [("6.1", 48), ("6.2", 48)]
    for volume, name in zip(volumes, names, strict=True):
        sample = formats.read(tmp_path, series=volume.name)
        alone = formats.read(reference / "data/mri/dicom" / name)
        assert (sample.image == alone.image).all()
        assert sample.space.misalignment_mm(alone.space) == 0
        for k in (0, 20, 47):
            pixels = pydicom.dcmread(volume.slices[k].file).pixel_array
            assert (sample.image[0, :, :, k] == pixels.T).all()
    (volumes[0].slices[20].file).unlink()
    assert "slices are missing" in refusal(tmp_path, series="6.1")


def test_real_enhanced_files_are_read_or_say_what_they_lack(reference):
    import SimpleITK as sitk  # noqa: N813

    folder = reference / "data/mri/dicom/enhanced"
    sample = formats.read(folder / "enh.dcm")
    peer = sitk.ReadImage(str(folder / "enh.dcm"))
    assert (sample.image[0] == sitk.GetArrayFromImage(peer).transpose(2, 1, 0)).all()
    np.testing.assert_allclose(sample.space.spacing_mm, peer.GetSpacing(), rtol=1e-6)
    origin = np.array(peer.GetOrigin()) * [-1, -1, 1]
    np.testing.assert_allclose(sample.space.affine[:3, 3], origin, rtol=1e-6)
    assert "does not say where its frames lie" in refusal(folder / "emri_small.dcm")
