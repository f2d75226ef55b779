"""Mended copies of files that do not lie on their case's grid; originals are never touched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medseg.data.align import turn
from medseg.data.sheet import Record
from medseg.data.spaces import as_grid
from medseg.data.table import volumes
from medseg.geometry.grid import Grid
from medseg.geometry.resample import resample_between

LABEL = "label"


def copy_affine(
    path: Path, grid: Grid, *, out: Path, label: bool, volume: int | None = None
) -> None:
    """The file's voxels with the geometry of `grid`; shapes and axis codes must be equal.

    Voxels in another axis order would be mirrored or turned by it.
    """
    from medseg.io import formats

    if label:
        array, own, meta = formats.read_labels(path)
    else:
        sample = formats.read(path, volume=volume)
        array, own, meta = sample.image[0], sample.grid, sample.meta
    if own.shape != grid.shape:
        raise ValueError(f"shape {own.shape} is not {grid.shape}; use --fix resample")
    if own.axcodes != grid.axcodes:
        raise ValueError(
            f"its axes run {own.axcodes} and not {grid.axcodes}, so copying would mirror or turn "
            "it; use --fix resample"
        )
    formats.write(out, array, grid=grid, meta=meta)


def resample(path: Path, grid: Grid, *, out: Path, label: bool, volume: int | None = None) -> None:
    """The file's content at the points of `grid`: nearest for labels, cubic for images."""
    from medseg.io import formats

    if label:
        values, own, meta = formats.read_labels(path)
        near = resample_between(values, own, target=grid, order=0).round().astype(values.dtype)
        formats.write(out, near, grid=grid, meta=meta)
        return
    sample = formats.read(path, volume=volume)
    image = resample_between(sample.image, sample.grid, target=grid, order=3)
    formats.write(out, image[0], grid=grid, meta=sample.meta)


METHODS: dict[str, Callable[..., None]] = {"copy-affine": copy_affine, "resample": resample}


def mend(
    record: Record, method: str, *, folder: Path, volume: int | None = None
) -> tuple[Record, list[str], list[str]]:
    """The case with mended copies in place of misaligned files; what was mended, what could not be.

    The first channel's grid is the case's own. Copies are `folder/<case>/<channel>.nii.gz`.
    """
    from medseg.io import formats

    grid: Grid | None = None
    paths, label = dict(record.paths), record.label
    mended: list[str] = []
    failed: list[str] = []
    files = [*record.paths.items(), *([(LABEL, label)] if label else [])]
    chosen = volumes(record, volume)
    for name, path in files:
        try:
            own = as_grid(formats.read_header(path, volume=chosen.get(name)), str(path))
            grid = own if grid is None else grid
            if turn(own, grid) is not None:
                continue
            out = folder / record.case / f"{name}.nii.gz"
            METHODS[method](path, grid, out=out, label=name == LABEL, volume=chosen.get(name))
        except (ValueError, OSError, EOFError) as error:
            failed.append(f"{name}: {error}")
            continue
        mended.append(name)
        if name == LABEL:
            label = out
        else:
            paths[name] = out
    return replace(record, paths=paths, label=label), mended, failed
