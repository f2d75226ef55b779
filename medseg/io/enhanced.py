"""Enhanced multi-frame DICOM: one file that holds all slices of one or several volumes.

Source: DICOM PS3.3 C.7.6.16 (multi-frame functional groups: what is said of a frame goes before
what is said of all). pydicom reads it, from the extra `dicom`.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.geometry.grid import Grid
from medseg.geometry.stack import Slice, Volume, choose, grid, volumes
from medseg.io.dicom import frames, is_dicom, is_projection, one_channel
from medseg.sample import Sample

SUFFIXES = (".dcm",)
WRITES = ".nii.gz"


def handles(path: Path) -> bool:
    """A DICOM file of several frames that are slices."""
    return path.is_file() and is_dicom(path) and not is_projection(path) and frames(path) > 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare `--series`, if slices have not."""
    if "--series" not in parser.format_usage():
        parser.add_argument(
            "--series", metavar="NAME", help="which volume of a multi-frame DICOM file"
        )


def read(path: Path, *, series: str | None = None) -> Sample:
    """One volume as one channel named `image`: columns, rows, frames; rescaled float32."""
    header = _load(path)
    volume = _choose(path, header, series)
    space = grid(volume, str(path))
    try:
        with warnings.catch_warnings(action="ignore"):
            stored = np.asarray(header.pixel_array)
    except Exception:
        raise ValueError(
            f"{path}: its frames cannot be decoded: the file is cut short or its compression is "
            "not known; copy it again or decompress it"
        ) from None
    if stored.ndim != 3:
        raise ValueError(f"{path} holds colour frames; one grey value a pixel is wanted")
    image = np.empty((1, *space.shape), dtype=np.float32)
    for index, plane in enumerate(volume.slices):
        slope, intercept = _scale(header, plane.frame)
        image[0, :, :, index] = stored[plane.frame].T * slope + intercept
    return one_channel(path, image, space=space, series=volume.name)


def read_header(path: Path, *, series: str | None = None) -> Grid:
    """Where the voxels lie."""
    return grid(_choose(path, _load(path), series), str(path))


def _load(path: Path) -> Any:  # noqa: ANN401 -- a pydicom dataset
    try:
        import pydicom
    except ImportError:
        raise ImportError(
            f"{path} is a multi-frame DICOM file, which pydicom reads: "
            "pip install 'medseg[dicom]', or convert the scan to NIfTI"
        ) from None
    try:
        with warnings.catch_warnings(action="ignore"):  # they may quote the header
            return pydicom.dcmread(path)
    except Exception:
        raise ValueError(f"{path} is cut short or damaged; copy it again") from None


def _choose(path: Path, header: Any, name: str | None) -> Volume:  # noqa: ANN401
    count = len(header.get("PerFrameFunctionalGroupsSequence", []))
    planes = [_plane(path, header, frame) for frame in range(count)]
    found = [plane for plane in planes if plane is not None]
    if not found or len(found) < count:
        raise ValueError(
            f"{path} does not say where {'its' if not found else 'all its'} frames lie in the "
            "patient (no position, orientation or spacing); convert it with a tool of the scanner's"
            " maker, or to NIfTI"
        )
    return choose(volumes(found), name, where=str(path))


def _group(header: Any, frame: int, sequence: str) -> Any:  # noqa: ANN401 -- a pydicom dataset
    """A functional group of a frame, else of all frames, else None."""
    shared = header.get("SharedFunctionalGroupsSequence", [])
    for groups in (header.PerFrameFunctionalGroupsSequence[frame], *shared[:1]):
        items = groups.get(sequence)
        if items:
            return items[0]
    return None


def _plane(path: Path, header: Any, frame: int) -> Slice | None:  # noqa: ANN401
    place = _group(header, frame, "PlanePositionSequence")
    turn = _group(header, frame, "PlaneOrientationSequence")
    measures = _group(header, frame, "PixelMeasuresSequence")
    position = _floats(place, "ImagePositionPatient", 3)
    directions = _floats(turn, "ImageOrientationPatient", 6)
    spacing = _floats(measures, "PixelSpacing", 2)
    if position is None or directions is None or spacing is None:
        return None
    distances = [_floats(measures, k, 1) for k in ("SpacingBetweenSlices", "SliceThickness")]
    thickness = next((float(d[0]) for d in distances if d is not None and d[0] > 0), 1.0)
    return Slice(
        file=path,
        frame=frame,
        series="",
        number=str(header.get("SeriesNumber") or "0"),
        size=(int(header.Columns), int(header.Rows)),
        position=position,
        directions=directions.reshape(2, 3),
        spacing_mm=(float(spacing[1]), float(spacing[0])),
        thickness_mm=thickness,
        declared_mm=None,
        traits=_traits(header, frame),
        facts=(str(header.get("Modality", "")),),
    )


def _traits(header: Any, frame: int) -> tuple[str, ...]:  # noqa: ANN401 -- a pydicom dataset
    """What may tell volumes apart within the file."""
    pairs = (
        ("FrameContentSequence", "StackID"),
        ("FrameContentSequence", "TemporalPositionIndex"),
        ("MREchoSequence", "EffectiveEchoTime"),
        ("MRDiffusionSequence", "DiffusionBValue"),
        ("MRImageFrameTypeSequence", "FrameType"),
        ("MRImageFrameTypeSequence", "ComplexImageComponent"),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        ("FrameContentSequence", "FrameAcquisitionNumber"),
    )
    groups = ((_group(header, frame, sequence), key) for sequence, key in pairs)
    return tuple("" if group is None else str(group.get(key, "")) for group, key in groups)


def _scale(header: Any, frame: int) -> tuple[float, float]:  # noqa: ANN401 -- a pydicom dataset
    group = _group(header, frame, "PixelValueTransformationSequence")
    source = header if group is None else group
    return float(source.get("RescaleSlope", 1)), float(source.get("RescaleIntercept", 0))


def _floats(group: Any, key: str, count: int) -> Float[np.ndarray, " n"] | None:  # noqa: ANN401
    """An attribute's numbers, if it has just so many."""
    value = None if group is None else group.get(key)
    if value is None:
        return None
    values = np.atleast_1d(np.array(value, dtype=np.float64))
    return values if values.shape == (count,) and np.isfinite(values).all() else None
