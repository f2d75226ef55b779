"""Mended copies of files that do not lie on their case's grid; originals are never touched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medseg.data.sheet import Record
from medseg.data.table import MISALIGNED_MM
from medseg.geometry.grid import Grid
from medseg.geometry.resample import resample_between

LABEL = "label"


def copy_affine(path: Path, grid: Grid, out: Path, *, label: bool) -> None:
    """The file's voxels with the geometry of `grid`; shapes must be equal."""
    from medseg.io import formats

    if label:
        array, own, meta = formats.read_labels(path)
    else:
        sample = formats.read(path)
        array, own, meta = sample.image[0], sample.space, sample.meta
    if own.shape != grid.shape:
        raise ValueError(f"shape {own.shape} is not {grid.shape}; use --fix resample")
    formats.write(out, array, grid, meta)


def resample(path: Path, grid: Grid, out: Path, *, label: bool) -> None:
    """The file's content at the points of `grid`: nearest for labels, cubic for images."""
    from medseg.io import formats

    if label:
        values, own, meta = formats.read_labels(path)
        near = resample_between(values, own, grid, order=0).round().astype(values.dtype)
        formats.write(out, near, grid, meta)
        return
    sample = formats.read(path)
    image = resample_between(sample.image, sample.space, grid, order=3)
    formats.write(out, image[0], grid, sample.meta)


METHODS: dict[str, Callable[..., None]] = {"copy-affine": copy_affine, "resample": resample}


def mend(record: Record, method: str, folder: Path) -> tuple[Record, list[str], list[str]]:
    """The case with mended copies in place of misaligned files; what was mended, what could not be.

    The first channel's grid is the case's own. Copies are `folder/<case>/<channel>.nii.gz`.
    """
    from medseg.io import formats

    grid: Grid | None = None
    paths, label = dict(record.paths), record.label
    mended: list[str] = []
    failed: list[str] = []
    files = [*record.paths.items(), *([(LABEL, label)] if label else [])]
    for name, path in files:
        try:
            own = formats.read_header(path)
            grid = own if grid is None else grid
            if own.misalignment_mm(grid) <= MISALIGNED_MM:
                continue
            out = folder / record.case / f"{name}.nii.gz"
            METHODS[method](path, grid, out, label=name == LABEL)
        except (ValueError, OSError, EOFError) as error:
            failed.append(f"{name}: {error}")
            continue
        mended.append(name)
        if name == LABEL:
            label = out
        else:
            paths[name] = out
    return replace(record, paths=paths, label=label), mended, failed
