"""A radiograph's reference in its working square: landmarks, label flags and outlines, as arrays.

Whatever a case has is completed: flags are drawn from landmarks, outlines are traced from flags, so
that training from points, from masks, or from both in one batch reads the same three arrays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from medseg.geometry import contour
from medseg.geometry.contour import Contour
from medseg.geometry.frame import Frame
from medseg.sample import Sample

OUTLINE = 128
_DRAWN = 1024


def write(
    sample: Sample, frame: Frame, *, organs: Mapping[str, Any], folder: Path
) -> dict[str, int]:
    """Write `landmarks.npy`, `label.npy`, `outlines.npy`; pixels of every organ that is known."""
    known = contour.contours(organs)
    points = None
    if sample.landmarks is not None:
        points = frame.to_unit(sample.landmarks) * frame.size
        np.save(folder / "landmarks.npy", points.astype(np.float32))
    if points is None and sample.target is None:
        return {}
    given = None if sample.target is None else frame.labels(sample.target)[..., 0]
    flags = drawn(points, given, known=known, size=frame.size)
    np.save(folder / "label.npy", flags[..., None])
    lines = outlines(sample, known, frame=frame)
    np.save(folder / "outlines.npy", lines.astype(np.float32))
    return {c.name: int((flags >> k & 1).sum()) for k, c in enumerate(known)}


def drawn(
    points: Float[np.ndarray, "n 2"] | None,
    given: Integer[np.ndarray, "x y"] | None,
    *,
    known: tuple[Contour, ...],
    size: int,
) -> Integer[np.ndarray, "x y"]:
    """Label flags of the square: an organ's landmarks go before its mask."""
    flags = np.zeros((size, size), dtype=np.uint16 if len(known) > 8 else np.uint8)
    parts = contour.slices(known)
    for k, organ in enumerate(known):
        mine = None if points is None else points[parts[organ.name]]
        if mine is not None and organ.closed and np.isfinite(mine).all():
            mask = contour.rasterise(mine, (size, size)).T
        elif given is not None:
            mask = (given >> k & 1).astype(bool)
        else:
            continue
        flags |= (mask.astype(flags.dtype) << k).astype(flags.dtype)
    return flags


def outlines(
    sample: Sample, known: tuple[Contour, ...], *, frame: Frame
) -> Float[np.ndarray, "k m 2"]:
    """Each closed organ's outer boundary in units of the square; NaN where there is none.

    Landmarks are joined as they are; a mask is traced on the image's own pixels.
    """
    found = np.full((len(known), OUTLINE, 2), np.nan)
    parts = contour.slices(known)
    for k, organ in enumerate(known):
        if not organ.closed:
            continue
        points = None if sample.landmarks is None else sample.landmarks[parts[organ.name]]
        if points is not None and np.isfinite(points).all():
            line = contour.resample(points, OUTLINE)
        elif sample.target is not None and (mask := sample.target[..., 0].T >> k & 1).sum() > 3:
            line = traced(mask.astype(bool))
        else:
            continue
        found[k] = frame.to_unit(line)
    return found


def traced(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "m 2"]:
    """The outline of a mask in its pixels, from which drawing at 1024 pixels gives the mask.

    Tracing runs through the centres of the boundary's pixels, as drawing takes its own; of coarser
    masks that is half a pixel too far inside, less half a pixel of the finer drawing.
    """
    line = contour.resample(contour.outline(mask), OUTLINE)
    along = np.roll(line, -1, 0) - np.roll(line, 1, 0)
    away = np.stack([along[:, 1], -along[:, 0]], 1)
    away /= np.linalg.norm(away, axis=1, keepdims=True).clip(1e-9)
    x, y = line.T
    clockwise = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
    out = max(0.0, 1 - max(mask.shape) / _DRAWN) / 2
    return line + (out if clockwise else -out) * away
