"""What must hold before cases are prepared: room for them, a folder of ours, splits kept apart."""

import errno
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from medseg.data import sheet
from medseg.data.pool import free_bytes
from medseg.data.prepared import index_parts
from medseg.data.table import SHEET, Table
from medseg.geometry.frame import Frame
from medseg.geometry.resample import Passage
from medseg.geometry.sphere import Regrid

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_room(passage: Passage | Frame | Regrid, channels: int, *, folder: Path) -> None:
    """Refuse a working grid that the free memory or the disk of `folder` cannot hold.

    Counted are two float32 copies of a channel in memory, and all channels on the disk.
    """
    shape = passage.working.shape
    one = 4 * math.prod(shape)
    memory, disk = free_bytes(), shutil.disk_usage(folder).free
    if 2 * one <= memory and channels * one <= disk:
        return
    size = "x".join(map(str, shape))
    raise ValueError(
        f"a grid of {size} voxels is wanted, which takes {_size(2 * one)} of memory "
        f"({_size(memory)} are free) and {_size(channels * one)} of disk ({_size(disk)} are free); "
        f"{_cure(passage)}, or make room"
    )


def save(
    path: Path,
    parts: Iterable[Shaped[np.ndarray, "..."]],
    *,
    shape: tuple[int, ...],
    dtype: type,
) -> None:
    """Write an .npy file part by part along its first axis, by plain writes.

    A mapped file would be sparse, and a full disk would then end the process by a signal.
    """
    kind = np.dtype(dtype)
    about = {"descr": kind.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, about)
        for part in parts:
            stream.write(np.ascontiguousarray(part, dtype=kind).data)


@contextmanager
def full_disk_told(case: str, folder: Path) -> Iterator[None]:
    """A disk without room becomes an error that names the case and the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            f"case {case}: the disk of {folder} is full ({error.strerror}); make room or give "
            "another --out, then run prepare again: finished cases are kept"
        ) from None


def spare(out: Path, source: Any) -> None:  # noqa: ANN401 -- a Table or another dataset
    """Refuse a folder whose sheet somebody else wrote, above all the one that is read."""
    mine = out / SHEET
    if not mine.is_file():
        return
    read = source.path if isinstance(source, Table) else None
    if read is not None and read.is_file() and read.samefile(mine):
        raise ValueError(
            f"--out {out} holds the sheet that is read, {read}, and prepare writes a {SHEET} of "
            "its own there; give --out another folder"
        )
    if not (out / "prepared.json").is_file() and not index_parts(out):
        raise ValueError(
            f"{mine} was not written by prepare, which would overwrite it; give --out another "
            "folder, or rename the file"
        )


def astride(records: Sequence[sheet.Record], *, folded: bool) -> list[str]:
    """A warning for every subject on both sides of a split; folds part all but the test cases."""
    found = [
        f"subject {subject} stands in {' and '.join(splits)} without the column slices, so its "
        "scores will be too good; move its cases to one split, or group them by data.folds"
        for subject, splits in sheet.astride(records)
        if "test" in splits or not folded
    ]
    for text in found:
        warnings.warn(text, UserWarning, stacklevel=3)
    return found


def _cure(passage: Passage | Frame | Regrid) -> str:
    if isinstance(passage, Regrid):
        return f"its nside is {passage.working.nside}: choose a smaller data.nside"
    spacing = passage.working.spacing_mm
    return f"its spacing is {spacing} mm: choose a coarser data.spacing_mm, in millimetres"


def _size(count: int) -> str:
    unit, name = (1 << 30, "GiB") if count >= 1 << 30 else (1 << 20, "MiB")
    return f"{count / unit:,.3g} {name}" if count < 1000 * unit else f"{count / unit:,.0f} {name}"
