"""DICOM series: a folder of slices to one volume, without anything that tells who was scanned.

Source: DICOM PS3.3 C.7.6.2 and C.11.1 (image plane, rescaling). SimpleITK (GDCM) decodes and
rescales the pixels.
"""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.geometry.grid import Grid
from medseg.geometry.stack import Slice, Volume, choose, grid, volumes
from medseg.sample import Sample

SUFFIXES = (".dcm", ".ima")
WRITES = ".nii.gz"

# The only tags that leave this room: how the scan was made, never who, when or where.
TECHNICAL = {
    "0008|0060": "modality",
    "0018|0020": "scanning_sequence",
    "0018|0023": "acquisition_type",
    "0018|0050": "slice_thickness_mm",
    "0018|0080": "repetition_time_ms",
    "0018|0081": "echo_time_ms",
    "0018|0082": "inversion_time_ms",
    "0018|0086": "echo_number",
    "0018|0087": "field_strength_t",
    "0018|0088": "spacing_between_slices_mm",
    "0018|1314": "flip_angle_deg",
    "0020|0011": "series_number",
    "0020|0012": "acquisition_number",
}

_TRAITS = (
    "0020|0012",  # acquisition number
    "0018|0086",  # echo number
    "0018|0081",  # echo time
    "0020|0100",  # temporal position
    "0018|9087",  # b-value
    "0018|0024",  # sequence name, where Siemens writes the b-value
    "0008|0008",  # image type: magnitude, phase, …
    "0018|1060",  # trigger time
    "0008|0032",  # acquisition time
)
_POSITION, _DIRECTIONS, _SPACING, _SERIES = "0020|0032", "0020|0037", "0028|0030", "0020|000e"
# Storage classes of CT, MR, nuclear and PET slices, as the head of a file names them.
_VOLUMETRIC = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(2|4|20|128|130)(\.\d+)?(?![\d.])")
# Storage classes of any image, those of projections (CR, DX, MG, intra-oral, XA, RF), and the
# modalities of projections in a class that does not say (7: secondary capture).
_STORAGE = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(\d+(?:\.\d+)*)")
_PROJECTIONS = frozenset(b"1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 12.1 12.1.1 12.2 12.2.1 12.3".split())
_MODALITY = "0008|0060"
_RADIOGRAPHIC = frozenset({"CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX"})
_PIXELS = b"\xe0\x7f\x10\x00"  # tag 7fe0,0010, little endian
_CODES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ \\.-+")


def handles(path: Path) -> bool:
    """A DICOM file of one frame, or a folder that directly holds such files; no projections."""
    if path.is_dir():
        return any(is_dicom(file) and not is_projection(file) for file in _files(path))
    return path.is_file() and is_dicom(path) and not is_projection(path) and frames(path) == 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--series`."""
    parser.add_argument(
        "--series", metavar="NAME", help="which volume of a DICOM folder that holds several"
    )


def series(folder: Path) -> list[Volume]:
    """All volumes of a folder, also several under one series UID; other files are passed over."""
    files = _files(folder) if folder.is_dir() else [folder]
    with quiet():
        planes = [_plane(file) for file in files if is_dicom(file)]
    return volumes(plane for plane in planes if plane is not None)


def read(path: Path, *, series: str | None = None) -> Sample:
    """One volume as one channel named `image`: columns, rows, slices; rescaled float32.

    The folder must hold one volume, or `series` names one of several.
    """
    volume = _choose(path, series)
    space = grid(volume, str(path))
    image = np.empty((1, *space.shape), dtype=np.float32)
    with quiet():
        for index, plane in enumerate(volume.slices):
            image[0, :, :, index] = _pixels(path, plane, index)
        technical = _technical(volume.slices[0].file)
    return one_channel(path, image, space=space, series=volume.name, dicom=technical)


def one_channel(
    path: Path,
    image: Float[np.ndarray, "1 i j k"],
    *,
    space: Grid,
    series: str,
    **facts: Any,  # noqa: ANN401 -- JSON values
) -> Sample:
    """A volume as a sample of one channel; `facts` are technical and name nobody."""
    from medseg.io.formats import stem

    return Sample(
        id=stem(path),
        image=image,
        space=space,
        channels=("image",),
        sources={"image": str(path)},
        meta={"format": "dicom", "units": "mm", "series": series, **facts},
    )


def read_header(path: Path, *, series: str | None = None) -> Grid:
    """Where the voxels lie, from the slices' headers alone."""
    return grid(_choose(path, series), str(path))


def is_dicom(path: Path) -> bool:
    """The mark after the preamble; without it, a DICOM suffix and the usual first group."""
    head = _head(path)[:132]
    bare = path.suffix.lower() in SUFFIXES and head[:2] in (b"\x02\x00", b"\x08\x00")
    return head[128:] == b"DICM" or bare


def is_projection(path: Path) -> bool:
    """Whether a DICOM file is a radiograph: by its storage class, else by its modality."""
    named = _STORAGE.search(_head(path))
    if named is not None and not named[1].startswith(b"7"):
        return named[1] in _PROJECTIONS
    with quiet():
        reader = open_file(path)
    return reader is not None and texts(reader, {_MODALITY}).get(_MODALITY) in _RADIOGRAPHIC


def frames(path: Path) -> int:
    """The number of frames; 1 where the header does not say or cannot be read."""
    with quiet():
        reader = open_file(path)
    if reader is None or not reader.HasMetaDataKey("0028|0008"):
        return 1
    text = str(reader.GetMetaData("0028|0008")).strip()
    return int(text) if text.isdigit() else 1


@contextmanager
def quiet() -> Iterator[None]:
    """Without ITK's own warnings, which may quote a header."""
    switch: Any = import_module("SimpleITK").ProcessObject
    before = switch.GetGlobalWarningDisplay()
    switch.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        switch.SetGlobalWarningDisplay(before)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(512)
    except OSError:
        return b""


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _choose(path: Path, name: str | None) -> Volume:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder of DICOM slices")
    found = series(path)
    if found:
        return choose(found, name, where=str(path))
    many = [p.name for p in _files(path) if is_dicom(p) and frames(p) > 1] if path.is_dir() else []
    if many:
        raise ValueError(
            f"{path} holds {len(many)} multi-frame DICOM files and no single slices; "
            f"give one of the files: {', '.join(many[:5])}"
        )
    raise ValueError(
        f"{path} holds no DICOM slice with a position in the patient; give a folder that "
        "directly holds the slices of a CT or MR series"
    )


def open_file(path: Path) -> Any:  # noqa: ANN401 -- a SimpleITK reader
    """A reader that knows the header; None where the file holds no image (a report, a plan)."""
    reader: Any = import_module("SimpleITK").ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def _plane(path: Path) -> Slice | None:
    """A file's place and traits; None for what is no slice in a patient."""
    reader = open_file(path)
    if reader is None and _VOLUMETRIC.search(_head(path)):
        raise ValueError(
            f"{path} is a slice that is cut short or damaged; copy it again from its source"
        )
    if reader is None:
        return None
    tags = texts(reader, {*TECHNICAL, *_TRAITS, _POSITION, _DIRECTIONS, _SPACING, _SERIES})
    position, directions = numbers(tags, _POSITION, count=3), numbers(tags, _DIRECTIONS, count=6)
    spacing = numbers(tags, _SPACING, count=2)
    if position is None or directions is None or spacing is None:
        return None
    width, height = reader.GetSize()[:2]
    thickness, declared = _distance(tags)
    facts = [code(tags.get("0008|0060", ""))]
    for tag, text in (("0018|0081", "TE {:g} ms"), ("0020|0012", "acquisition {:g}")):
        number = numbers(tags, tag, count=1)
        facts += [] if number is None else [text.format(number[0])]
    return Slice(
        file=path,
        frame=0,
        series=tags.get(_SERIES, ""),
        number=code(tags.get("0020|0011", "")),
        size=(int(width), int(height)),
        position=position,
        directions=directions.reshape(2, 3),
        spacing_mm=(float(spacing[1]), float(spacing[0])),
        thickness_mm=thickness,
        declared_mm=declared,
        traits=tuple(tags.get(tag, "") for tag in _TRAITS),
        facts=tuple(fact for fact in facts if fact),
    )


def _distance(tags: dict[str, str]) -> tuple[float, float | None]:
    """How far a slice reaches, and the distance of neighbours where the header is clear about it.

    Some write the gap alone into the distance; that is surely not so where the distance is at least
    the thickness of an MR slice.
    """
    between, thickness = numbers(tags, "0018|0088", count=1), numbers(tags, "0018|0050", count=1)
    known = [float(n[0]) for n in (between, thickness) if n is not None and n[0] > 0]
    clear = len(known) == 2 and tags.get("0008|0060") == "MR" and known[1] <= known[0] * 1.001
    return known[0] if known else 1.0, known[0] if clear else None


def texts(reader: Any, wanted: set[str]) -> dict[str, str]:  # noqa: ANN401 -- a SimpleITK reader
    """The wanted tags that a header has, as text."""
    return {t: str(reader.GetMetaData(t)).strip() for t in wanted if reader.HasMetaDataKey(t)}


def _technical(path: Path) -> dict[str, str]:
    """How the scan was made: numbers and upper-case codes only, so that no typed text gets out."""
    tags = texts(open_file(path), set(TECHNICAL))
    found = {name: code(tags.get(tag, "")) for tag, name in TECHNICAL.items()}
    return {name: value for name, value in found.items() if value}


def code(text: str) -> str:
    """A DICOM code string or number; anything else is dropped."""
    return text if len(text) <= 32 and set(text) <= _CODES else ""


def numbers(tags: dict[str, str], tag: str, *, count: int) -> Float[np.ndarray, " n"] | None:
    """A tag's backslash-separated numbers, if it has just so many."""
    try:
        values = np.array([float(word) for word in tags.get(tag, "").split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether plain pixels reach as far as their length says: GDCM fills up a file cut short."""
    content = path.read_bytes()
    at = content.find(_PIXELS)
    while at >= 0:
        explicit = content[at + 4 : at + 6] in (b"OW", b"OB")
        start = at + (12 if explicit else 8)
        length = int.from_bytes(content[start - 4 : start], "little")
        plausible = explicit or 1 <= length / (size[0] * size[1]) <= 16
        if plausible and length != 0xFFFFFFFF and start + length > len(content):
            return False
        at = content.find(_PIXELS, at + 4)
    return True


def _pixels(path: Path, plane: Slice, index: int) -> Float[np.ndarray, "i j"]:
    """Rescaled values of one slice, columns first."""
    try:
        image = open_file(plane.file).Execute()
    except (RuntimeError, AttributeError):
        image = None
    if image is None or not is_whole(plane.file, plane.size):
        raise ValueError(
            f"{path}: slice {index + 1} (file {plane.file.name}) cannot be decoded: it is cut "
            "short or its compression is not known; copy it again or decompress the series"
        )
    values: np.ndarray = import_module("SimpleITK").GetArrayFromImage(image)
    if values.ndim != 3 or values.shape[0] != 1:
        raise ValueError(
            f"{path}: slice {index + 1} has pixels of shape {values.shape}; one grey value a "
            "pixel and one frame a file are wanted: leave out colour images"
        )
    return values[0].T.astype(np.float32)
