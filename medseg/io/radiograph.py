"""Projection radiographs in DICOM (CR, DX, MG, XA, …): one plane of grey values, bright = dense.

Source: DICOM PS3.3 C.7.6.3 (MONOCHROME1: the smallest value is white), C.7.5.1 (padding), C.8.11
(presentation shape), 10.7.1.3 (spacing). SimpleITK (GDCM) decodes and rescales the pixels, and
shows MONOCHROME1 as MONOCHROME2: smallest + largest storable - value.
"""

import argparse
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from medseg.geometry.grid import Grid
from medseg.io import dicom, image
from medseg.sample import Sample

SUFFIXES = (".dcm", ".dicom")
WRITES = ".png"

# The only tags that leave this room: how the image was made, never of whom, when or where.
TECHNICAL = {
    "0008|0060": "modality",
    "0018|0015": "body_part",
    "0018|5101": "view_position",
    "0020|0020": "patient_orientation",
    "0028|0004": "photometric",
    "0028|0101": "bits_stored",
}
_SPACINGS = {
    "0028|0030": "PixelSpacing",
    "0018|1164": "ImagerPixelSpacing",
    "0018|2010": "NominalScannedPixelSpacing",
}
_SLOPE, _INTERCEPT, _SIGNED, _BITS = "0028|1053", "0028|1052", "0028|0103", "0028|0101"
_PADDING, _PADDING_END, _SHAPE = "0028|0120", "0028|0121", "2050|0020"
_PHOTOMETRIC, _ORIENTATION, _PURPOSE = "0028|0004", "0020|0020", "0008|0068"
_LOOKUP = b"\x28\x00\x00\x30SQ"  # Modality LUT Sequence, explicit value representation


def handles(path: Path) -> bool:
    """A DICOM file of a projection, be it one frame or (to refuse it with a cure) a cine run."""
    return path.is_file() and dicom.is_dicom(path) and dicom.is_projection(path)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--spacing-mm` and `--invert`, if another format has not."""
    image.add_options(parser)


def read(path: Path, *, spacing_mm: image.Spacing | None = None, invert: bool = False) -> Sample:
    """One channel named `image`: columns, rows, 1; rescaled float32; dense parts are bright.

    The spacing is that of `spacing_mm`, else of the header, which `meta["spacing_from"]` names: at
    the detector it is not corrected for magnification. `invert` is for headers that lie.
    """
    from medseg.io.formats import stem

    tags, size = _header(path)
    values = _pixels(path, tags, size)
    if invert:
        values = image.turn_round(values).astype(np.float32)
    space, facts = _plane(tags, size, spacing_mm)
    for text in _doubts(path, tags):
        warnings.warn(text, stacklevel=2)
    technical = {name: dicom.code(tags.get(tag, "")) for tag, name in TECHNICAL.items()}
    facts |= {"mirrored": _side(tags) == "R", "inverted": bool(invert)}
    return Sample(
        id=stem(path),
        image=np.ascontiguousarray(values.T)[None, :, :, None],
        space=space,
        channels=("image",),
        sources={"image": str(path)},
        meta={"format": "radiograph", "units": "mm", **facts}
        | {"dicom": {name: value for name, value in technical.items() if value}},
    )


def read_header(
    path: Path, *, spacing_mm: image.Spacing | None = None, invert: bool = False
) -> Grid:
    """Where the pixels lie, from the header alone; grey values (`invert`) do not matter."""
    del invert
    tags, size = _header(path)
    return _plane(tags, size, spacing_mm)[0]


def _header(path: Path) -> tuple[dict[str, str], tuple[int, int]]:
    """The tags that count, and columns and rows; refuses what is no single grey plane."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a DICOM file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file of the radiograph")
    count = dicom.frames(path)
    if count > 1:
        raise ValueError(
            f"{path} is a run of {count} frames (cine) and one radiograph is wanted; export the "
            "frame that counts as a DICOM or PNG file of its own"
        )
    with dicom.quiet():
        reader = dicom.open_file(path)
    if reader is None:
        raise ValueError(
            f"{path} holds no image: it is cut short or damaged, or its pixels were left out; copy "
            "it again from its source"
        )
    if reader.GetNumberOfComponents() != 1:
        raise ValueError(
            f"{path} is in colour and one grey value a pixel is wanted; give the radiograph itself,"
            " not a picture of a screen, or save it as a grey PNG"
        )
    wanted = {*TECHNICAL, *_SPACINGS, _SLOPE, _INTERCEPT, _SIGNED, _PADDING, _PADDING_END}
    tags = dicom.texts(reader, {*wanted, _SHAPE, _PURPOSE})
    across, down = (int(n) for n in reader.GetSize()[:2])
    return tags, (across, down)


def _plane(
    tags: dict[str, str], size: tuple[int, int], spacing_mm: image.Spacing | None
) -> tuple[Grid, dict[str, Any]]:
    """The grid, and where its spacing is from; a header says rows first, then columns."""
    if spacing_mm is None:
        for tag, name in _SPACINGS.items():
            found = dicom.numbers(tags, tag, count=2)
            if found is not None and (found > 1e-4).all() and (found < 1e3).all():
                grid, facts = image.plane(size, (float(found[1]), float(found[0])))
                return grid, {**facts, "spacing_from": name}
    return image.plane(size, spacing_mm)


def _pixels(path: Path, tags: dict[str, str], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Rescaled values, rows first, padding as dark as the darkest pixel that is none."""
    content = path.read_bytes()
    if _LOOKUP in content[: content.rfind(b"\xe0\x7f\x10\x00")]:
        raise ValueError(
            f"{path} keeps its values behind a table (Modality LUT Sequence), which is not applied;"
            " export the radiograph as a 16-bit PNG"
        )
    with dicom.quiet():
        try:
            found = dicom.open_file(path).Execute()
        except (RuntimeError, AttributeError):
            found = None
    if found is None or not dicom.is_whole(path, size):
        raise ValueError(
            f"{path} cannot be decoded: it is cut short, or the way its pixels are stored is not "
            "known; copy it again from its source, or export it as a 16-bit PNG"
        )
    values: np.ndarray = import_module("SimpleITK").GetArrayFromImage(found)
    rows = values.reshape(values.shape[-2:]).astype(np.float32)
    padded = _padded(rows, tags)
    if padded.any() and not padded.all():
        rows[padded] = rows[~padded].min()
    return rows


def _padded(rows: Num[np.ndarray, "h w"], tags: dict[str, str]) -> Any:  # noqa: ANN401 -- mask
    """Where a pixel holds the padding value, or one of its range, after all that was done to it."""
    ends = [dicom.numbers(tags, tag, count=1) for tag in (_PADDING, _PADDING_END)]
    words = (_BITS, _SLOPE, _INTERCEPT)
    bits, slope, intercept = (dicom.numbers(tags, tag, count=1) for tag in words)
    if ends[0] is None or bits is None:
        return np.zeros(rows.shape, dtype=bool)
    span, signed = 2.0 ** float(bits[0]), tags.get(_SIGNED) == "1"
    values = []
    for end in (ends[0], ends[0] if ends[1] is None else ends[1]):
        value = float(end[0]) % span
        value -= span if signed and value >= span / 2 else 0.0
        if tags.get(_PHOTOMETRIC) == "MONOCHROME1":
            value = (-1.0 if signed else span - 1) - value
        scale = 1.0 if slope is None else float(slope[0])
        values.append(
            np.float32(value * scale + (0.0 if intercept is None else float(intercept[0])))
        )
    return (rows >= min(values)) & (rows <= max(values))


def _side(tags: dict[str, str]) -> str:
    """To which side of the patient the image's right hand edge lies, where the header says."""
    return tags.get(_ORIENTATION, "").partition("\\")[0].strip()[:1].upper()


def _doubts(path: Path, tags: dict[str, str]) -> list[str]:
    """What a header says that the reader should hear of; nothing is mended in silence."""
    across, _, down = tags.get(_ORIENTATION, "").partition("\\")
    dark, shape = tags.get(_PHOTOMETRIC) == "MONOCHROME1", tags.get(_SHAPE, "")
    found = []
    if _side(tags) == "R":
        found.append("is mirrored by its header: the patient's right is at the right; flip it")
    if across.strip()[:1] in {"H", "F"} or down.strip()[:1] == "H":
        found.append("does not stand upright by its header; turn it")
    if (dark and shape == "IDENTITY") or (not dark and shape == "INVERSE"):
        found.append(
            f"says {tags.get(_PHOTOMETRIC)} and {shape}, which contradict each other; the first is "
            "followed: --invert if dense parts are dark"
        )
    if tags.get(_PURPOSE) == "FOR PROCESSING":
        found.append("holds raw values (FOR PROCESSING); prefer the image made for presentation")
    return [f"{path} {text}" for text in found]
