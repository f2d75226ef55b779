"""What can be wrong with raw cases, found file by file without holding more than one volume."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Num

from medseg.data import annotations, notes, sky_check
from medseg.data.align import onto, turn, unaligned
from medseg.data.sheet import Problem, Record
from medseg.data.table import cropped_axis, volumes
from medseg.geometry.contour import Contour
from medseg.geometry.grid import Grid
from medseg.geometry.sphere import Sphere
from medseg.provenance import hash_array
from medseg.sample import Sample

GEOMETRY = "geometry"
MANY = 255
AS_WHOLE = 1e-3  # as a label is read

T = TypeVar("T")


@dataclass(frozen=True)
class Examined:
    """A case after its files were read once.

    Attributes:
        record: the row.
        problems: what is wrong with it alone.
        grid: of its first readable channel.
        prints: channel to the hash of its values in canonical order, constant volumes left out.
        label: the same hash of its label.
        notes: what is worth a look and no problem.
    """

    record: Record
    problems: tuple[Problem, ...]
    grid: Grid | None = None
    prints: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class _Reading:
    """A case while its files are read.

    Attributes:
        first: the name and grid of the first file that could be read.
        sky: the pixels of the first file that is a map of the sphere.
        maps: the maps of the sphere that were read.
        flags: the label on the image's own pixels, for a radiograph with organs.
    """

    record: Record
    organs: Sequence[Contour]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prints: dict[str, str] = field(default_factory=dict)
    first: tuple[str, Grid] | None = None
    sky: Sphere | None = None
    maps: list[Sample] = field(default_factory=list)
    label: str = ""
    flags: annotations.Flags | None = None

    @property
    def grid(self) -> Grid | None:
        return self.first and self.first[1]


def examine(
    record: Record,
    labels: Mapping[str, Sequence[int]],
    *,
    slice_axis: int | None,
    volume: int | None,
    organs: Sequence[Contour] = (),
) -> Examined:
    """Read every file of a case and list what is wrong; errors of reading are problems, too.

    With `organs` the case is a radiograph: labels are bit flags, and landmarks are read.
    """
    case = _Reading(record, organs)
    wrong, case.notes = annotations.of_spacing(record)
    case.problems += wrong
    spacing = None if wrong else record.spacing_mm or None
    chosen = volumes(record, volume)
    for channel, path in sorted(record.paths.items(), key=lambda item: item[0] == "spectrum"):
        if channel == "spectrum" and case.sky is not None:
            case.problems += sky_check.of_spectrum(record, path, nside=case.sky.nside)
            continue
        options, told = sky_check.reading(record, channel, path=path)
        case.notes += told
        read = partial(_read_image, volume=chosen[channel], spacing_mm=spacing, **options)
        _channel(case, channel, path, read, slice_axis)
    if record.label is not None and case.sky is not None:
        case.problems += sky_check.of_label(record, record.label, labels=labels, first=case.sky)
    elif record.label is not None:
        _label(case, record.label, labels, slice_axis)
    elif record.split in {"train", "val"} and not (
        record.category or (organs and record.landmarks) or (case.sky and not labels)
    ):
        case.problems.append(_unlabelled(record))
    _landmarks(case)
    case.problems += _twins(record.case, case.prints)
    return Examined(
        record, tuple(case.problems), case.grid, case.prints, case.label, tuple(case.notes)
    )


def _channel(
    case: _Reading,
    channel: str,
    path: Path,
    read: Callable[[Path], Sample],
    slice_axis: int | None,
) -> None:
    name = case.record.case
    found = _open(name, channel, path, read, case.problems)
    if found is None:
        return
    if isinstance(found.space, Sphere):
        case.problems += sky_check.of_channel(case.record, channel, found=found, first=case.sky)
        case.problems += sky_check.of_holes(case.record, channel, found=found, maps=case.maps)
        case.sky = case.sky or found.space
        case.maps.append(found)
        return
    image, grid = found.image[0], found.grid
    case.notes += notes.of_file(found, f"{name}, {channel}")
    if case.first is None:
        case.first = (channel, grid)
        case.problems += _slices(case.record, grid, slice_axis)
    case.problems += _geometry(name, channel, path, grid, case.first)
    case.problems += _values(name, channel, image)
    if case.organs:
        case.problems += annotations.of_image(name, channel, image=image)
    case.prints |= _prints(channel, image, grid)


def _label(
    case: _Reading, path: Path, labels: Mapping[str, Sequence[int]], slice_axis: int | None
) -> None:
    name = case.record.case
    read = partial(_read_label, like=case.grid, flags=bool(case.organs))
    found = _open(name, "label", path, read, case.problems)
    if found is None:
        return
    image, grid = found
    case.first = first = case.first or ("label", grid)
    case.problems += _geometry(name, "label", path, grid, first)
    case.label = _print(image, grid)
    turned = onto(image, grid, wanted=first[1])
    image, grid = (image, grid) if turned is None else (turned, first[1])
    if not case.organs:
        case.problems += _labels(case.record, _cut(case.record, image, grid, slice_axis), labels)
        return
    wrong, told = annotations.of_flags(name, image, organs=case.organs)
    case.problems += wrong
    case.notes += told
    if turned is not None and not wrong and image.shape[2] == 1:
        case.flags = image[..., 0]


def _landmarks(case: _Reading) -> None:
    grid = case.grid
    size = None if grid is None or grid.shape[2] != 1 else grid.shape[:2]
    wrong, told = annotations.of_landmarks(case.record, case.organs, size=size, flags=case.flags)
    case.problems += wrong
    case.notes += told


def _unlabelled(record: Record) -> Problem:
    found = f"no label for a {record.split} case"
    cure = "fill the cell, or leave the split empty"
    return Problem(record.case, "missing label", found, "a label file", cure)


def _read_image(
    path: Path,
    volume: int | None,
    spacing_mm: str | None,
    **options: Any,  # noqa: ANN401 -- each format's own
) -> Sample:
    from medseg.io import formats

    plane = spacing_mm is not None and formats.accepts(path, "spacing_mm")
    return formats.read(path, volume=volume, spacing_mm=spacing_mm if plane else None, **options)


def _read_label(
    path: Path, like: Grid | None, flags: bool
) -> tuple[Num[np.ndarray, "i j k"], Grid]:
    """Values and their grid; a plane file without spacing lies as the image of its size does."""
    from medseg.io import formats

    plane = formats.accepts(path, "spacing_mm")
    if not plane and not flags:
        sample = formats.read(path)
        return sample.image[0], sample.grid
    array, grid, _ = formats.read_labels(path)
    return array, like if plane and like is not None and like.shape == grid.shape else grid


def _open(
    case: str, channel: str, path: Path, read: Callable[[Path], T], problems: list[Problem]
) -> T | None:
    if not path.exists():
        cure = "mend the path in the sheet (it is relative to the sheet)"
        problems.append(Problem(case, "missing file", f"{channel}: no {path}", "a file", cure))
        return None
    try:
        return read(path)
    except annotations.READING as error:
        what, cure = annotations.words(error)
        cure = cure or "copy or convert the file again, or remove the case"
        found = f"{channel}: {what}"
        problems.append(Problem(case, "unreadable", found, "a readable image", cure))
        return None


def _prints(channel: str, image: Num[np.ndarray, "i j k"], grid: Grid) -> dict[str, str]:
    """The channel's hash, unless all voxels are the same."""
    varied = np.isfinite(image.flat[0]) and (image != image.flat[0]).any()
    return {channel: _print(image, grid)} if varied else {}


def _print(image: Num[np.ndarray, "i j k"], grid: Grid) -> str:
    """The hash of float32 values on canonical axes: a re-saved or turned copy has the same."""
    kind = np.complex64 if np.iscomplexobj(image) else np.float32
    values = np.ascontiguousarray(grid.orientation.apply(image), dtype=kind)
    return hash_array((values + kind(0)).view(np.float32))


def _geometry(
    case: str, channel: str, path: Path, grid: Grid, first: tuple[str, Grid]
) -> Iterator[Problem]:
    from medseg.io import formats

    name, wanted = first
    if turn(grid, wanted) is not None:
        return
    if (
        grid.shape[:2] != wanted.shape[:2]
        and wanted.shape[2] == 1
        and formats.accepts(path, "spacing_mm")
    ):
        yield annotations.of_size(case, channel, grid=grid, wanted=first)
        return
    copied = grid.shape == wanted.shape and grid.axcodes == wanted.axcodes
    grid, wanted = unaligned(grid, wanted)
    moved = grid.misalignment_mm(wanted)
    told = list(differences(grid, wanted))
    how = f"{channel} is {moved:.4g} mm off; " if np.isfinite(moved) else f"{channel}: "
    found = how + ", ".join(f"{what} {own}" for what, own, _ in told)
    expected = f"as {name}: " + ", ".join(f"{what} {other}" for what, _, other in told)
    cure = "--fix resample --out DIR"
    if copied:
        cure += ", or --fix copy-affine if only this header is wrong"
    yield Problem(case, GEOMETRY, found, expected, cure)


def differences(grid: Grid, wanted: Grid) -> Iterator[tuple[str, str, str]]:
    """What of shape, spacing, origin and direction differs, as this and as the wanted value."""
    if grid.shape != wanted.shape:
        yield "shape", _joined(grid.shape, "d"), _joined(wanted.shape, "d")
    pairs = [(g.spacing_mm, g.affine[:3, 3], _direction(g)) for g in (grid, wanted)]
    tolerances = (1e-5, 1e-3, 1e-5)
    names = ("spacing", "origin", "direction")
    gaps = [float(np.abs(np.subtract(a, b)).max()) for a, b in zip(*pairs, strict=True)]
    differing = [gap > tolerance for gap, tolerance in zip(gaps, tolerances, strict=True)]
    if grid.shape == wanted.shape and not any(differing):
        differing = [gap == max(gaps) for gap in gaps]
    for name, own, other, differs in zip(names, *pairs, differing, strict=True):
        if not differs:
            continue
        if name == "direction":
            yield name, _turn(grid, wanted), wanted.axcodes
        else:
            yield name, _joined(own, ".6g"), _joined(other, ".6g")


def _direction(grid: Grid) -> np.ndarray:
    return grid.affine[:3, :3] / np.sqrt((grid.affine[:3, :3] ** 2).sum(0))


def _turn(grid: Grid, wanted: Grid) -> str:
    cosines = (_direction(grid) * _direction(wanted)).sum(0).clip(-1, 1)
    return f"{grid.axcodes} turned by {np.degrees(np.arccos(cosines)).max():.3g} degrees"


def _joined(values: Iterable[Any], style: str) -> str:
    return "x".join(format(v, style) for v in values) if style == "d" else (
        "(" + ", ".join(format(float(v), style) for v in values) + ")"
    )  # fmt: skip


def _values(case: str, channel: str, image: Num[np.ndarray, "i j k"]) -> Iterator[Problem]:
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        nans = int(np.isnan(image).sum())
        yield Problem(
            case,
            "NaN or inf",
            f"{channel}: {nans} NaN and {bad - nans} infinite voxels",
            "finite values",
            "replace them (0 outside the body) and save the file again",
        )
    elif image.min() == image.max():
        yield Problem(
            case,
            "constant",
            f"{channel}: every voxel is {image.flat[0]:.6g}",
            "an image",
            "export the series again",
        )


def _slices(record: Record, grid: Grid, slice_axis: int | None) -> Iterator[Problem]:
    axis = cropped_axis(record, grid, slice_axis=slice_axis)
    if record.slices is None or axis is None:
        return
    start, stop = record.slices
    if stop > grid.shape[axis]:
        yield Problem(
            record.case,
            "slices",
            f"{start}:{stop} of {grid.shape[axis]} slices along axis {axis}",
            f"stop of at most {grid.shape[axis]}",
            "mend the column slices, or name the axis by --slice-axis",
        )


def _cut(
    record: Record, image: Num[np.ndarray, "i j k"], grid: Grid, slice_axis: int | None
) -> Num[np.ndarray, "i j n"]:
    axis = cropped_axis(record, grid, slice_axis=slice_axis)
    if record.slices is None or axis is None:
        return image
    return np.moveaxis(image, axis, -1)[..., slice(*record.slices)]


def _labels(
    record: Record, target: Num[np.ndarray, "i j k"], labels: Mapping[str, Sequence[int]]
) -> Iterator[Problem]:
    case, finite = record.case, np.isfinite(target)
    values = [float(value) for value in np.unique(target[finite])]
    broken = [value for value in values if abs(value - round(value)) > AS_WHOLE]
    values = sorted({value if value in broken else float(round(value)) for value in values})
    known = {float(value) for named in labels.values() for value in named} | {0.0}
    stray = [value for value in values if value not in known and value not in broken]
    if not finite.all() or broken:
        shown = _shown([*broken, *([float("nan")] if not finite.all() else [])])
        yield Problem(case, "label values", shown, "whole numbers", "round or redraw the label")
    if labels and stray:
        named = "; ".join(f"{k}={','.join(map(str, v))}" for k, v in labels.items())
        cure = f"name {_shown(stray[:1])} in --labels and data.labels, or mend the file"
        yield Problem(case, "label values", _shown(stray), f"0; {named}", cure)
    if not labels and not broken and len(values) > MANY:
        text = f"{len(values)} distinct values"
        yield Problem(case, "label values", text, "labels", "is this file an image?")
    if values and not any(values) and not record.category:
        where = f" in slices {record.slices[0]}:{record.slices[1]}" if record.slices else ""
        cure = "draw it, or leave the cell empty"
        yield Problem(case, "empty label", f"only 0{where}", "some structure", cure)


def _shown(values: Sequence[float], most: int = 6) -> str:
    text = ", ".join(f"{value:g}" for value in values[:most])
    return text + (f", … ({len(values)} values)" if len(values) > most else "")


def _twins(case: str, prints: Mapping[str, str]) -> Iterator[Problem]:
    for one, other in itertools.combinations(prints, 2):
        if prints[one] == prints[other]:
            yield Problem(
                case,
                "same image",
                f"{one} and {other} hold the same values",
                "a file a channel",
                "correct the paths of this row",
            )
