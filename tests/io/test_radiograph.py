from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from medseg.io import dicom, enhanced, formats, radiograph

CR, DX, MG, SC, XA, CT = (
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "1.1", "1.2", "7", "12.1", "2")
)
SECRETS = ["Doe", "Jane", "19700203", "PID-4711", "General Hospital"]
PIXELS = (np.arange(24, dtype=np.uint16) * 170 + 3).reshape(4, 6)  # 4 rows of 6, 12 bits


def save(path: Path, pixels=PIXELS, *, storage=DX, bits=12, **facts) -> Path:
    """A radiograph with a header full of personal facts."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = storage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid()
    header.PatientName, header.PatientID, header.PatientBirthDate = "Doe^Jane", *SECRETS[3:1:-1]
    header.InstitutionName, header.Modality = "General Hospital", "DX"
    header.Rows, header.Columns = pixels.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, bits, bits - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelData = pixels.tobytes()
    header.ImagerPixelSpacing = [0.2, 0.1]
    for name, value in facts.items():
        setattr(header, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def rows(path: Path, **options) -> np.ndarray:
    return formats.read(path, **options).image[0, :, :, 0].T


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is the caller's
        formats.read(path)
    text = str(caught.value)
    assert str(path) in text
    assert not [secret for secret in SECRETS if secret in text]
    return text


@pytest.mark.parametrize(
    ("storage", "modality"),
    [(CR, "CR"), (DX, "DX"), (MG, "MG"), (XA, "XA"), (SC, "CR"), (SC, "DX"), (SC, "RG")],
)
def test_projections_are_read_columns_first(tmp_path, storage, modality):
    path = save(tmp_path / "a.b.dcm", storage=storage, Modality=modality)
    assert not dicom.handles(path)
    assert not enhanced.handles(path)
    assert radiograph.handles(path)
    sample = formats.read(path)
    assert sample.id == "a.b"
    assert sample.image.shape == (1, 6, 4, 1)
    assert sample.image.dtype == np.float32
    assert (sample.image[0, :, :, 0] == PIXELS.T).all()
    assert sample.space.misalignment_mm(formats.read_header(path)) == 0
    assert formats.output_suffix(path) == ".png"


def test_slices_stay_with_the_other_readers(tmp_path):
    path = save(tmp_path / "a.dcm", storage=CT, Modality="CT")
    assert dicom.handles(path)
    assert not radiograph.handles(path)
    assert not radiograph.handles(save(tmp_path / "b.dcm", storage=SC, Modality="DOC"))
    assert not radiograph.handles(save(tmp_path / "c.dcm", storage=CT, Modality="CR"))
    assert not radiograph.handles(tmp_path)


def test_a_folder_of_radiographs_is_many_images(tmp_path):
    from medseg.data.table import gather

    for name in "ab":
        save(tmp_path / "all" / f"{name}.dcm")
    assert not formats.is_image(tmp_path / "all")
    assert set(gather(tmp_path / "all")) == {"a", "b"}


@pytest.mark.parametrize(("bits", "kind"), [(12, "u2"), (16, "u2"), (10, "u2"), (16, "i2")])
def test_dense_is_bright_whatever_the_file_says_of_white(tmp_path, bits, kind):
    """Guards the decoder too: versions that left MONOCHROME1 as it is would fail here."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "i2" else (0, 2**bits - 1)
    pixels = np.linspace(low, high, 24).round().astype(kind).reshape(4, 6)[:, ::-1].copy()
    pixels[0, 0] = low
    light = save(tmp_path / "a.dcm", pixels, bits=bits)
    dark = save(tmp_path / "b.dcm", pixels, bits=bits, PhotometricInterpretation="MONOCHROME1")
    assert (rows(light) == pixels).all()
    assert (rows(dark) == low + high - pixels.astype(int)).all()


def test_slope_and_intercept_are_applied(tmp_path):
    scale = {"RescaleSlope": 2, "RescaleIntercept": -5}
    assert (rows(save(tmp_path / "a.dcm", **scale)) == PIXELS * 2.0 - 5).all()
    dark = save(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1", **scale)
    assert (rows(dark) == (4095.0 - PIXELS) * 2 - 5).all()


def test_invert_turns_the_values_round(tmp_path):
    sample = formats.read(save(tmp_path / "a.dcm"), invert=True)
    top = int(PIXELS.max()) + int(PIXELS.min())
    wanted = top - PIXELS.astype(int)
    np.testing.assert_array_equal(sample.image[0, :, :, 0].T, wanted)
    assert sample.meta["inverted"]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_as_dark_as_the_darkest_pixel(tmp_path, photometric):
    pixels = PIXELS.copy()
    pixels[0, :3], pixels[1, :2] = 0, 4095
    facts = {"PhotometricInterpretation": photometric, "RescaleSlope": 2, "RescaleIntercept": 1}
    whole = rows(save(tmp_path / "a.dcm", pixels, **facts))
    found = rows(save(tmp_path / "b.dcm", pixels, PixelPaddingValue=0, **facts))
    padded = pixels == 0
    assert (found[~padded] == whole[~padded]).all()
    assert (found[padded] == whole[~padded].min()).all()
    limits = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 400}
    found = rows(save(tmp_path / "c.dcm", pixels, **limits, **facts))
    assert (found[pixels <= 400] == whole[pixels > 400].min()).all()
    assert (found[pixels > 400] == whole[pixels > 400]).all()


def test_where_the_spacing_is_from_is_said(tmp_path):
    sample = formats.read(save(tmp_path / "a.dcm"))
    assert sample.space.spacing_mm == (0.1, 0.2, 1)
    assert sample.meta["spacing_from"] == "ImagerPixelSpacing"
    path = save(tmp_path / "b.dcm", PixelSpacing=[0.4, 0.3])
    sample = formats.read(path)
    assert sample.space.spacing_mm == (0.3, 0.4, 1)
    assert sample.meta["spacing_from"] == "PixelSpacing"
    assert formats.read(path, spacing_mm=0.7).space.spacing_mm == (0.7, 0.7, 1)
    assert formats.read(path, spacing_mm=0.7).meta["spacing_from"] == "given"
    for wrong in ([0, 0], None):
        sample = formats.read(save(tmp_path / "c.dcm", ImagerPixelSpacing=wrong))
        assert sample.space.spacing_mm == (1, 1, 1)
        assert (sample.meta["spacing_known"], sample.meta["spacing_from"]) == (False, "unknown")


def test_who_was_imaged_stays_in_the_file(tmp_path):
    sample = formats.read(save(tmp_path / "a.dcm", ViewPosition="PA"))
    text = repr(sample.meta) + repr(dict(sample.sources))
    assert not [secret for secret in SECRETS if secret in text]
    assert sample.meta["dicom"]["modality"] == "DX"
    assert sample.meta["dicom"]["view_position"] == "PA"
    with pytest.warns(UserWarning, match="Invalid value for VR CS"):
        path = save(tmp_path / "b.dcm", ViewPosition="Jane Doe")
    assert "view_position" not in formats.read(path).meta["dicom"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"PatientOrientation": ["R", "F"]}, "mirrored"),
        ({"PatientOrientation": ["L", "H"]}, "upright"),
        ({"PatientOrientation": ["F", "R"]}, "upright"),
        ({"PresentationLUTShape": "INVERSE"}, "contradict"),
        (
            {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
            "contradict",
        ),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw values"),
    ],
)
def test_a_doubtful_header_is_told_and_nothing_is_mended_in_silence(tmp_path, facts, words):
    with pytest.warns(UserWarning, match=words):
        sample = formats.read(save(tmp_path / "a.dcm", **facts))
    assert sample.meta["mirrored"] == (words == "mirrored")
    dark = facts.get("PhotometricInterpretation") == "MONOCHROME1"
    wanted = 4095 - PIXELS if dark else PIXELS
    np.testing.assert_array_equal(sample.image[0, :, :, 0].T, wanted)


@pytest.mark.filterwarnings("error")
def test_a_usual_header_is_read_without_a_word(tmp_path):
    shapes = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
    for photometric, shape in shapes.items():
        facts = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
        path = save(tmp_path / "a.dcm", PatientOrientation=["L", "F"], **facts)
        assert not formats.read(path).meta["mirrored"]


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_lossless_compression_is_undone(tmp_path, compressor, photometric):
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
    picture = sitk.GetImageFromArray(pixels)
    picture.SetMetaData("0008|0060", "CR")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(picture)
    header = pydicom.dcmread(tmp_path / "a.dcm")
    header.PhotometricInterpretation = photometric
    header.save_as(tmp_path / "a.dcm")
    wanted = pixels if photometric == "MONOCHROME2" else 65535 - pixels
    assert (rows(tmp_path / "a.dcm") == wanted).all()
    content = (tmp_path / "a.dcm").read_bytes()
    for cut in (20, 200, 2000):
        path = tmp_path / f"cut{cut}.dcm"
        path.write_bytes(content[:-cut])
        assert "cut short" in refusal(path)


def test_run_lengths_are_undone(tmp_path):
    header = pydicom.dcmread(save(tmp_path / "a.dcm", np.tile(PIXELS, (16, 8))))
    header.compress(RLELossless)
    header.save_as(tmp_path / "a.dcm")
    assert (rows(tmp_path / "a.dcm") == np.tile(PIXELS, (16, 8))).all()


@pytest.mark.parametrize("cut", [1, 20, 47, 60, 200])
def test_a_file_cut_short_is_refused(tmp_path, cut):
    path = save(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-cut])
    assert "cut short" in refusal(path)


def test_no_pixels_colour_cine_and_tables_are_refused(tmp_path):
    bare = pydicom.dcmread(save(tmp_path / "bare.dcm"))
    del bare.PixelData
    bare.save_as(tmp_path / "bare.dcm")
    assert "pixels were left out" in refusal(tmp_path / "bare.dcm")
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    pixels = np.zeros((4, 6, 3), np.uint16)
    path = save(tmp_path / "rgb.dcm", PIXELS, PixelData=pixels.tobytes(), **colour)
    assert "in colour" in refusal(path)
    frames = np.stack([PIXELS, PIXELS, PIXELS])
    path = save(tmp_path / "cine.dcm", frames, storage=XA, Modality="XA", NumberOfFrames=3)
    assert "run of 3 frames" in refusal(path)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "US"
    table.add_new(0x00283006, "OW", np.arange(4096, dtype=np.uint16)[::-1].tobytes())
    path = save(tmp_path / "table.dcm", ModalityLUTSequence=[table])
    assert "Modality LUT" in refusal(path)
    with pytest.raises(ValueError, match="name the file"):
        radiograph.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        radiograph.read(tmp_path / "missing.dcm")


def test_a_real_radiograph_is_the_same_as_dicom_and_as_jpeg(reference, tmp_path):
    path = reference / "data/cxr_cc0/utils_example1.jpg"
    shown = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
    dark = save(tmp_path / "a.dcm", 255 - shown, bits=8, PhotometricInterpretation="MONOCHROME1")
    assert np.abs(formats.read(dark).image - formats.read(path).image).max() <= 0.501
