"""What can be wrong with a radiograph and its annotation: pixels, their size, landmarks, flags.

A label image of landmarks data holds bit flags: bit k says "inside the k-th organ".
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Integer, Num

from medseg.data.landmarks import inside, read_points
from medseg.data.sheet import Problem, Record
from medseg.geometry.contour import Contour, contours, rasterise, self_intersections, slices
from medseg.geometry.grid import Grid
from medseg.io.kspace import spacing_of
from medseg.metrics import quality

LEAST_DICE = 0.5
OBLONG = 1.5
READING = (ValueError, OSError, EOFError, MemoryError)

Flags = Integer[np.ndarray, "x y"]
Points = Float[np.ndarray, "n 2"]


def parse(texts: Iterable[str]) -> tuple[Contour, ...]:
    """Organs from a command line's words such as `heart=26`, or `diaphragm=20:open`."""
    organs: dict[str, dict[str, object]] = {}
    for text in texts:
        match = re.fullmatch(r"(.+)=(\d{1,6})(?::(open|closed))?", text)
        if match is None:
            raise ValueError(
                f"'{text}' is no organ; write name=nodes, e.g. heart=26, or name=nodes:open for a "
                "line that bounds nothing"
            )
        if match[1] in organs:
            raise ValueError(f"organ '{match[1]}' is named twice in --organs; leave one out")
        organs[match[1]] = {"nodes": int(match[2]), "closed": match[3] != "open"}
    return contours(organs) if organs else ()


def words(error: BaseException) -> tuple[str, str]:
    """What an error found, and how to mend it, which stands behind its last semicolon."""
    text = " ".join(str(error).split()) or type(error).__name__
    found, _, cure = text.rpartition("; ")
    return (found, cure) if found else (text, "")


def of_image(case: str, channel: str, *, image: Num[np.ndarray, "i j k"]) -> Iterator[Problem]:
    """A volume, or a plane of values that no radiograph has; what is constant is told elsewhere."""
    if image.shape[2] != 1:
        found = f"{channel}: a volume of {'x'.join(map(str, image.shape))} voxels"
        cure = "give a plane (PNG, JPEG, DICOM), or choose a recipe for volumes"
    elif not np.isfinite(image).all() or image.min() == image.max():
        return
    else:
        fault = quality.fault(image[..., 0])
        if fault is None:
            return
        found, cure = f"{channel}: {fault}", "is this file a mask, or was it exported wrongly?"
    yield Problem(case, "not a radiograph", found, "one plane of grey values", cure)


def of_spacing(record: Record) -> tuple[list[Problem], list[str]]:
    """A cell `spacing_mm` that is no size of a pixel; a note where pixels are oblong by it."""
    if not record.spacing_mm:
        return [], []
    try:
        plane = spacing_of(record.spacing_mm)[:2]
    except ValueError:
        found, cure = repr(record.spacing_mm), "write a number, or leave the cell empty"
        expected = "millimetres, e.g. 0.35 or 0.35,0.4"
        return [Problem(record.case, "spacing_mm", found, expected, cure)], []
    if max(plane) < OBLONG * min(plane):
        return [], []
    told = f"{record.case}: by spacing_mm a pixel is {plane[0]:g} mm wide and {plane[-1]:g} mm high"
    return [], [f"{told}; a decimal comma is to be a point"]


def of_size(case: str, name: str, *, grid: Grid, wanted: tuple[str, Grid]) -> Problem:
    """Files of one radiograph that have different numbers of pixels."""
    own, other = ("{} x {}".format(*shape[:2]) for shape in (grid.shape, wanted[1].shape))
    cure = "give both in one size, a label without new values (nearest neighbour)"
    return Problem(case, "size", f"{name}: {own} pixels", f"{other} as {wanted[0]}", cure)


def of_flags(
    case: str, flags: Integer[np.ndarray, "i j k"], *, organs: Sequence[Contour]
) -> tuple[list[Problem], list[str]]:
    """Bits that stand for no organ, or none at all; a note where values look like class numbers."""
    values = np.unique(flags).astype(np.int64)
    stray = values[values >> len(organs) > 0]
    named = ", ".join(f"{1 << k} {organ.name}" for k, organ in enumerate(organs))
    if len(stray):
        shown = ", ".join(map(str, stray[:6])) + (", …" if len(stray) > 6 else "")
        cure = "draw organs as bit flags, or name all of them in data.organs, in their order"
        return [Problem(case, "label values", shown, f"sums of {named}", cure)], []
    if not values.any():
        cure = "draw it, or leave the cell empty"
        return [Problem(case, "empty label", "only 0", "some organ", cure)], []
    if len(organs) > 2 and values[values > 0].tolist() == list(range(1, len(organs) + 1)):
        told = f"{case}: the label looks like class numbers; its values are to be sums of {named}"
        return [], [told]
    return [], []


def of_landmarks(
    record: Record,
    organs: Sequence[Contour],
    *,
    size: tuple[int, int] | None,
    flags: Flags | None,
) -> tuple[list[Problem], list[str]]:
    """What is wrong with the file of points, by itself and against image and label; and notes.

    Args:
        record: the row.
        organs: none where points do not count; then the file has to be there, no more.
        size: columns and rows of the image, if it could be read.
        flags: the label on the image's own pixels, if there is one.
    """
    path = record.landmarks
    if path is None:
        return [], []
    if not path.exists():
        cure = "mend the path in the sheet (it is relative to the sheet)"
        return [Problem(record.case, "missing file", f"landmarks: no {path}", "a file", cure)], []
    if not organs:
        return [], []
    try:
        points = read_points(path, organs)
    except READING as error:
        found, cure = words(error)
        cure = cure or "save the file again, or leave it out of the sheet"
        return [Problem(record.case, "landmarks", found, "organ, index, x, y", cure)], []
    problems = list(_against(record.case, points, organs, size, flags))
    return problems, list(_shapes(record.case, points, organs))


def _against(
    case: str,
    points: Points,
    organs: Sequence[Contour],
    size: tuple[int, int] | None,
    flags: Flags | None,
) -> Iterator[Problem]:
    """Points outside the image; organs that are elsewhere in the label."""
    if size is not None:
        try:
            inside(points, organs, size=size)
        except ValueError as error:
            told, cure = words(error)
            yield Problem(case, "landmarks", told, "points inside the image", cure)
    if flags is None:
        return
    found = overlaps(points, flags, organs=organs)
    apart = [f"{name} {dice:.2f}" for name, dice in found if dice < LEAST_DICE]
    if apart:
        cure = "are they of one case, of one size, and are organs and bits in one order?"
        expected = f"{LEAST_DICE:g} or more"
        told = f"Dice of landmarks and label: {', '.join(apart)}"
        yield Problem(case, "landmarks", told, expected, cure)


def overlaps(
    points: Points, flags: Flags, *, organs: Sequence[Contour]
) -> Iterator[tuple[str, float]]:
    """Dice of each closed organ as landmarks draw it with the label, if both know the organ."""
    for k, (name, part) in enumerate(slices(organs).items()):
        mask = (flags >> k & 1).astype(bool).T
        if organs[k].closed and mask.any() and np.isfinite(points[part]).all():
            drawn = rasterise(points[part], mask.shape)
            yield name, float(2 * (drawn & mask).sum() / (drawn.sum() + mask.sum()))


def _shapes(case: str, points: Points, organs: Sequence[Contour]) -> Iterator[str]:
    """Contours that cross themselves, and right and left exchanged."""
    centres: dict[str, float] = {}
    for organ, part in zip(organs, slices(organs).values(), strict=True):
        mine = points[part][np.isfinite(points[part]).all(1)]
        crossings = self_intersections(mine, closed=organ.closed) if len(mine) else 0
        if crossings:
            times = "once" if crossings == 1 else f"{crossings} times"
            yield f"{case}: the contour of {organ.name} crosses itself {times}"
        if len(mine):
            centres[organ.name] = float(mine[:, 0].mean())
    for name, x in centres.items():
        other = "left_" + name.removeprefix("right_")
        if name.startswith("right_") and x > centres.get(other, np.inf):
            yield (
                f"{case}: {name} lies to the right of {other} on the image; the patient's right "
                "is at the left by custom: are names exchanged, or is the image mirrored?"
            )


def of_bare(records: Sequence[Record]) -> Iterator[str]:
    """Cases with neither landmarks nor a label, which no split asks to be learnt from."""
    bare = [
        record.case
        for record in records
        if record.split not in {"train", "val"} and not (record.label or record.landmarks)
    ]
    if bare:
        shown = ", ".join(bare[:5]) + (", …" if len(bare) > 5 else "")
        yield (
            f"neither landmarks nor a label: {shown} ({len(bare)} of {len(records)} cases); they "
            "can be predicted, but neither learnt from nor scored"
        )
