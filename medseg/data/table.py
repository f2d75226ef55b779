"""The user's own data: a sample sheet with a row a case, read into samples case by case."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num

from medseg.data import labels as naming
from medseg.data import sheet
from medseg.data.align import MISALIGNED_MM, onto, onto_sphere, sky_kind, unaligned
from medseg.data.sheet import Record
from medseg.data.spaces import Space, as_grid
from medseg.geometry.grid import Grid
from medseg.geometry.sphere import Sphere
from medseg.sample import Sample

SHEET = "samples.csv"

__all__ = ["MISALIGNED_MM", "SHEET", "Record", "Table", "coarsest_axis", "crop", "gather"]


class Table:
    """Cases of a sheet, or of a folder that holds a `samples.csv` or images of one channel.

    Args:
        path: the sheet (comma, semicolon or tab separated) or the folder.
        channels: the columns that hold images, in the order of the sample's channels.
        labels: structure to source values; without it labels keep the file's own values.
        slice_axis: the axis of R, A, S along which the column `slices` counts; without it the one
            with the coarsest spacing, the last of equals. Counting follows the file's own order.
        volume: which volume of a 4-D file to take.
        optional: a case may lack channels; `load` fills them with zeros and says so in
            `meta["present"]`.
    """

    series: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    organs: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        path: Path | str,
        channels: Sequence[str],
        *,
        labels: Mapping[str, Sequence[int]] | None = None,
        slice_axis: int | None = None,
        volume: int | None = None,
        optional: bool = False,
    ) -> None:
        self.path = Path(path)
        self.channels = _channel_names(channels)
        self.labels = naming.classes(labels)
        if slice_axis not in {None, 0, 1, 2}:
            raise ValueError(f"slice_axis is {slice_axis}; it must be 0 (R), 1 (A), 2 (S) or none")
        self.slice_axis = slice_axis
        self.volume = volume
        if self.path.is_dir() and not (self.path / SHEET).is_file():
            self._records = self._folder()
            return
        if self.path.is_dir():
            self.path = self.path / SHEET
        found, problems = sheet.read(self.path, self.channels, optional=optional)
        if problems:
            shown = "\n  ".join(str(problem) for problem in problems[:10])
            more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise ValueError(f"{self.path}: {len(problems)} rows need mending:\n  {shown}{more}")
        self._records = found

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        path: Path,
        *,
        channels: Sequence[str],
        labels: Mapping[str, Sequence[int]] | None = None,
        slice_axis: int | None = None,
    ) -> "Table":
        """A table of records at hand; `path` is what its errors call it."""
        table = cls.__new__(cls)
        table.path, table.channels = path, _channel_names(channels)
        table.labels, table.slice_axis = naming.classes(labels), slice_axis
        table.volume, table._records = None, list(records)
        return table

    def _folder(self) -> list[Record]:
        if len(self.channels) != 1:
            raise ValueError(
                f"the folder {self.path} has no {SHEET}; cases of {len(self.channels)} channels "
                f"({', '.join(self.channels)}) need a sheet with a column a channel"
            )
        channel = self.channels[0]
        found = gather(self.path)
        return [Record(name, "", "", {channel: path}) for name, path in found.items()]

    def records(self) -> list[Record]:
        """One record a row, in the sheet's order; no file has been opened yet."""
        return list(self._records)

    def load(self, record: Record, *, with_target: bool = True, raw: bool = False) -> Sample:
        """Read a case: channels stacked on the first one's grid, cropped to the record's slices.

        Files that hold the same points in another axis order are turned onto the first one's.

        Args:
            record: one of `records()`.
            with_target: also read the reference labels, where the record has some.
            raw: keep the labels' own values instead of class indices 1..K.
        """
        first, image, meta = self._image(record)
        target = None
        if with_target and record.label is not None:
            own, grid = read_labels(record, like=first)
            target = self._laid(own, grid, record=record, what="label", first=first)
        grid, image, target = crop(
            record, first, image=image, target=target, slice_axis=self.slice_axis
        )
        if target is not None and self.labels and not raw:
            where = f"case {record.case}: the label {record.label}"
            target = naming.remap(target, self.labels, where=where)
        return Sample(
            id=record.case,
            image=image,
            space=grid,
            channels=self.channels,
            target=target,
            landmarks=self._points(record, grid) if with_target else None,
            subject=record.subject,
            split=record.split,
            sources={name: str(path) for name, path in record.paths.items()},
            meta={**meta, "present": tuple(name in record.paths for name in self.channels)},
        )

    def _points(self, record: Record, grid: Space) -> Float[np.ndarray, "n 2"] | None:
        """The case's landmarks in pixels, if the recipe names organs and the sheet a file."""
        if not self.organs or record.landmarks is None:
            return None
        from medseg.data.landmarks import inside, read_points
        from medseg.geometry.contour import contours

        if not record.landmarks.is_file():
            raise FileNotFoundError(
                f"case {record.case}: landmarks are not there: {record.landmarks}; mend the path "
                "in the sheet (paths are relative to the sheet)"
            )
        try:
            points = read_points(record.landmarks, contours(self.organs))
            inside(points, contours(self.organs), size=as_grid(grid, record.case).shape[:2])
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"case {record.case}, landmarks: {error}") from error
        return points

    def alone(self) -> "Table":
        """The same reader without its list of cases: small enough to send to a worker."""
        twin = copy.copy(self)
        twin._records = []
        return twin

    def _image(self, record: Record) -> tuple[Space, Num[np.ndarray, " c *n"], dict[str, Any]]:
        grid: Space | None = None
        meta: dict[str, Any] = {}
        units: dict[str, str | None] = {}
        image = np.zeros(0, dtype=np.float32)
        chosen = volumes(record, self.volume)
        for index, channel in enumerate(self.channels):
            if channel not in record.paths:
                continue
            path = record.paths[channel]
            one = read_image(
                record.case,
                channel,
                path=path,
                volume=chosen[channel],
                series=self.series,
                **spaced(record, path, options=self.options),
            )
            units |= {channel: one.meta["unit"]} if "unit" in one.meta else {}
            if grid is None:
                grid, meta = one.space, {**one.meta, "units": units}
                image = np.zeros((len(self.channels), *grid.shape), dtype=np.float32)
            if np.iscomplexobj(one.image) and not np.iscomplexobj(image):
                image = image.astype(np.complex64)
            image[index] = self._laid(
                one.image[0], one.space, record=record, what=channel, first=grid
            )
        if grid is None:
            raise ValueError(f"case {record.case} has no channel of {', '.join(self.channels)}")
        return grid, image, meta

    def _laid(
        self, array: Num[np.ndarray, "*n"], grid: Space, *, record: Record, what: str, first: Space
    ) -> Num[np.ndarray, "*m"]:
        """The array on the first channel's own axes, if it holds the same points in any order."""
        if isinstance(grid, Sphere) or isinstance(first, Sphere):
            path = record.label if what == "label" else record.paths[what]
            told = f"case {record.case}: {what}"
            return onto_sphere(array, grid, wanted=first, name=told, path=path, kind=sky_kind(what))
        same = onto(array, grid, wanted=first)
        if same is not None:
            return np.ascontiguousarray(same)
        path = record.label if what == "label" else record.paths[what]
        grid, first = unaligned(grid, first)
        other = next(name for name in self.channels if name in record.paths)
        found = (
            f"has shape {grid.shape} and {other} has {first.shape}"
            if grid.shape != first.shape
            else f"lies up to {grid.misalignment_mm(first):.3g} mm away from {other}"
        )
        raise ValueError(
            f"case {record.case}: {what} ({path}) {found}; all files of a case must share one "
            f"grid to {MISALIGNED_MM} mm. `medseg check {self.path}` shows it; its option "
            "--fix resample (or copy-affine, if only the header is wrong) mends copies"
        )


def _channel_names(channels: Sequence[str]) -> tuple[str, ...]:
    names = tuple(str(name) for name in channels)
    if isinstance(channels, str) or not names:
        raise ValueError(f"channels is {channels!r}; it must list the sheet's image columns")
    if len(set(names)) < len(names):
        raise ValueError(f"channels names a column twice: {', '.join(names)}")
    taken = sorted(set(names) & set(sheet.RESERVED))
    if taken:
        raise ValueError(f"'{taken[0]}' is a column of its own meaning and cannot be a channel")
    return names


def volumes(record: Record, volume: int | None) -> dict[str, int | None]:
    """The volume to read of each channel's file: `volume` counts for those that hold several.

    Where none of a case's files holds several, it counts for all and `read` tells what is wrong.
    """
    from medseg.io import formats

    if volume is None:
        return dict.fromkeys(record.paths)
    several = {name: formats.count_volumes(path) > 1 for name, path in record.paths.items()}
    return {name: volume if s or not any(several.values()) else None for name, s in several.items()}


def cropped_axis(record: Record, grid: Space, *, slice_axis: int | None) -> int | None:
    """The array axis along which the record's slices count; None for a case without any."""
    if record.slices is None:
        return None
    if isinstance(grid, Sphere):
        raise ValueError(
            f"case {record.case}: the column `slices` cuts volumes, and this is a map of the "
            "sphere; empty its cell"
        )
    return grid.orientation.axes[coarsest_axis(grid) if slice_axis is None else slice_axis]


def read_image(
    case: str,
    channel: str,
    *,
    path: Path,
    volume: int | None = None,
    **options: Any,  # noqa: ANN401 -- each format's own
) -> Sample:
    """One channel's file; whatever is wrong with it is said with the case's name."""
    from medseg.io import formats

    if not path.exists():
        raise FileNotFoundError(
            f"case {case}: {channel} is not there: {path}; mend the path in the sheet "
            "(paths are relative to the sheet)"
        )
    try:
        own = {"channel": channel} if formats.accepts(path, "channel") else {}
        return formats.read(path, volume=volume, **own, **options)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"case {case}, {channel}: {error}") from error


def spaced(record: Record, path: Path, *, options: Mapping[str, Any]) -> dict[str, Any]:
    """Reading options, with the sheet's pixel size or unit where the command line says none."""
    from medseg.io import formats

    told = {"spacing_mm": record.spacing_mm, "unit": record.notes.get("unit", "")}
    there = {name: text for name, text in told.items() if text and path.exists()}
    said = {name: text for name, text in there.items() if formats.accepts(path, name)}
    return said | {k: v for k, v in options.items() if v is not None}


def read_labels(
    record: Record, *, like: Space | None = None
) -> tuple[Integer[np.ndarray, "*n"], Space]:
    """The reference labels of a case in the file's own values.

    A plane file that has no spacing of its own lies as the image `like` does, if
    both have the same pixels.
    """
    from medseg.io import formats

    path = record.label
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"case {record.case}: label is not there: {path or 'its cell is empty'}; mend the path "
            "in the sheet (paths are relative to the sheet)"
        )
    try:
        array, grid, _ = formats.read_labels(path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"case {record.case}, label: {error}") from error
    if like is not None and like.shape == grid.shape and formats.accepts(path, "spacing_mm"):
        grid = like
    return array, grid


def coarsest_axis(grid: Grid) -> int:
    """The axis of R, A, S with the largest spacing; of equals (to 0.1 %) the last."""
    spacing = grid.canonical().spacing_mm
    return max(axis for axis in range(3) if spacing[axis] >= 0.999 * max(spacing))


def crop(
    record: Record,
    grid: Space,
    *,
    image: Num[np.ndarray, " c *s"],
    target: Integer[np.ndarray, "*s"] | None,
    slice_axis: int | None,
) -> tuple[Space, Num[np.ndarray, " c *n"], Integer[np.ndarray, "*n"] | None]:
    """The record's slices alone; without `slices` everything as it came."""
    axis = cropped_axis(record, grid, slice_axis=slice_axis)
    if record.slices is None or axis is None or isinstance(grid, Sphere):
        return grid, image, target
    start, stop = record.slices
    if stop > grid.shape[axis]:
        raise ValueError(
            f"case {record.case}: slices {start}:{stop}, but its volume of shape {grid.shape} has "
            f"{grid.shape[axis]} along axis {axis}; mend the column `slices` or data.slice_axis"
        )
    begin, shape = [0, 0, 0], list(grid.shape)
    begin[axis], shape[axis] = start, stop - start
    window = tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
    cut = grid.crop((begin[0], begin[1], begin[2]), (shape[0], shape[1], shape[2]))
    inside = np.ascontiguousarray(image[:, *window])
    return cut, inside, None if target is None else np.ascontiguousarray(target[window])


def gather(folder: Path) -> dict[str, Path]:
    """Every image below a folder (a DICOM folder is one image), by a case name made of its path."""
    from medseg.io import formats

    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    pending = [folder]
    seen = set()
    while pending:
        here = pending.pop()
        if here.resolve() in seen:
            continue
        seen.add(here.resolve())
        if formats.is_image(here):
            _add(found, "_".join(here.relative_to(folder).parts) or here.resolve().name, here)
            continue
        for path in sorted(here.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                pending.append(path)
            elif formats.is_image(path):
                inner = path.relative_to(folder).parent.parts
                _add(found, "_".join([*inner, formats.stem(path)]), path)
    if not found:
        raise ValueError(
            f"the folder {folder} holds no image; give a folder of .nii, .nii.gz or DICOM files, "
            "or a sample sheet"
        )
    return dict(sorted(found.items()))


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    if name in found:
        raise ValueError(
            f"{found[name]} and {path} would both be the case '{name}'; rename one or write a sheet"
        )
    found[name] = path
