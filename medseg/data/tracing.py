"""What a picture of one scored case shows: its radiograph and the lines of both sides, in pixels.

Landmarks of one numbering are given as they are. Where the sides differ in their nodes, or are
masks, an organ is a run of closed loops with NaN between them.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from medseg.data.landmarks import read_points
from medseg.data.shapes import ShapeJob, framed, predicted
from medseg.geometry.contour import Contour, outline, slices
from medseg.io import formats
from medseg.metrics.landmarks import GROUPS

MOST_POINTS = 120
MOST_PIECES = 12

Lines = Mapping[str, Float[np.ndarray, "_ 2"]]


@dataclass(frozen=True, eq=False)
class Traced:
    """A radiograph, rows first, and what is drawn on it; None for a side that is not there."""

    image: Num[np.ndarray, "h w"]
    contours: tuple[Contour, ...]
    landmarks: Float[np.ndarray, "_ 2"] | None
    reference: Float[np.ndarray, "_ 2"] | None


def traced(job: ShapeJob) -> Traced:
    """The case as it lies on disk; a prediction that cannot be used is left out."""
    known = job.shapes
    frame, _ = framed(job)
    usable = predicted(job, frame)[0] is not None
    image = np.zeros(frame.native.shape[1::-1], dtype=np.float32)
    if job.image is not None:
        with contextlib.suppress(ValueError, OSError, EOFError):
            image = formats.read(job.image).image[0, ..., 0].T
    ours = _ours(job) if usable else {}
    theirs = _theirs(job)
    points = job.prediction is not None and job.prediction.suffix in {".csv", ".npy"}
    if known.alike and points and usable and job.record.landmarks is not None:
        both = [_joined(side, known.scored) for side in (ours, theirs)]
        return Traced(image, known.scored, both[0], both[1])
    names = list(dict.fromkeys([*ours, *theirs]))
    closed = {contour.name: contour.closed for contour in (*known.reference, *known.predicted)}
    sides = [
        {name: _ring(lines, closed.get(name, False)) for name, lines in side.items()}
        for side in (ours, theirs)
    ]
    sizes = {name: max(len(side.get(name, ())) for side in sides) for name in names}
    contours = tuple(Contour(name, size, closed=False) for name, size in sizes.items())
    drawn = [_joined(side, contours) if side else None for side in sides]
    return Traced(image, contours, drawn[0], drawn[1])


def _ours(job: ShapeJob) -> Lines:
    """The prediction's lines by organ."""
    path, known = job.prediction, job.shapes
    if path is None:
        return {}
    if path.suffix.lower() in {".csv", ".npy"}:
        return _points(path, known.predicted)
    labels = formats.read_labels(path)[0][..., 0].T
    values = known.values or {c.name: 1 << k for k, c in enumerate(known.predicted)}
    bits = known.bits or not known.values
    return _loops({n: (labels & v) != 0 if bits else labels == v for n, v in values.items()})


def _theirs(job: ShapeJob) -> Lines:
    """The reference's lines by organ: its landmarks, and the label's outlines of the others."""
    known, record = job.shapes, job.record
    wanted = {contour.name for contour in known.scored}
    found: dict[str, Float[np.ndarray, "_ 2"]] = {}
    if record.landmarks is not None:
        found |= _points(record.landmarks, known.reference)
    if record.label is not None and any(c.name not in found for c in known.reference):
        labels = formats.read_labels(record.label)[0][..., 0].T
        found = {**_loops(_flagged(labels, known.reference, known.given)), **found}
    whole = {name: organs for name, organs in GROUPS.items() if name in known.values}
    inside = {organ for organs in whole.values() for organ in organs}
    return {name: lines for name, lines in found.items() if name in wanted | inside}


def _flagged(
    labels: Integer[np.ndarray, "h w"],
    contours: Sequence[Contour],
    given: Mapping[str, Sequence[int]],
) -> dict[str, Bool[np.ndarray, "h w"]]:
    if given:
        return {name: np.isin(labels, values) for name, values in given.items()}
    return {c.name: (labels >> k & 1).astype(bool) for k, c in enumerate(contours) if c.closed}


def _points(path: Path, contours: Sequence[Contour]) -> dict[str, Float[np.ndarray, "_ 2"]]:
    points = read_points(path, contours)
    found = {name: points[own] for name, own in slices(contours).items()}
    return {name: own for name, own in found.items() if np.isfinite(own).any()}


def _loops(masks: Mapping[str, Bool[np.ndarray, "h w"]]) -> dict[str, Float[np.ndarray, "_ 2"]]:
    """Each mask's pieces as closed loops, the largest first, NaN between them."""
    from scipy.ndimage import label

    found = {}
    for name, mask in masks.items():
        pieces, count = label(mask, np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        order = np.argsort(-sizes, kind="stable")[:MOST_PIECES]
        loops = [outline(pieces == n + 1, most=MOST_POINTS) for n in order if sizes[n] > 3]
        if loops:
            found[name] = np.concatenate([_closed(loop) for loop in loops])[:-1]
    return found


def _closed(loop: Float[np.ndarray, "_ 2"]) -> Float[np.ndarray, "_ 2"]:
    return np.concatenate([loop, loop[:1], np.full((1, 2), np.nan)])


def _ring(lines: Float[np.ndarray, "_ 2"], closed: bool) -> Float[np.ndarray, "_ 2"]:
    """A closed contour's landmarks with their first one again at the end."""
    whole = closed and not np.isnan(lines).any() and not np.array_equal(lines[0], lines[-1])
    return np.concatenate([lines, lines[:1]]) if whole else lines


def _joined(lines: Lines, contours: Sequence[Contour]) -> Float[np.ndarray, "_ 2"]:
    """Lines in the contours' order, filled up with NaN."""
    out = np.full((sum(contour.nodes for contour in contours), 2), np.nan)
    for name, own in slices(contours).items():
        if name in lines:
            out[own.start : own.start + len(lines[name])] = lines[name]
    return out
