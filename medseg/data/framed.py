"""A radiograph's reference in its working square: landmarks, label flags and outlines, as arrays.

Whatever a case has is completed: flags are drawn from landmarks, outlines are traced from flags, so
that training from points, from masks, or from both in one batch reads the same three arrays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from medseg.geometry import contour
from medseg.geometry.contour import Contour
from medseg.geometry.frame import Frame
from medseg.sample import Sample

OUTLINE = 128


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
    np.save(folder / "outlines.npy", outlines(flags, known).astype(np.float32))
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
    flags: Integer[np.ndarray, "x y"], known: tuple[Contour, ...]
) -> Float[np.ndarray, "k m 2"]:
    """Each closed organ's outer boundary in units of the square; NaN where there is none."""
    found = np.full((len(known), OUTLINE, 2), np.nan)
    for k, organ in enumerate(known):
        mask = (flags >> k & 1).astype(bool).T
        if organ.closed and mask.sum() > 3:
            found[k] = contour.resample(contour.outline(mask), OUTLINE) / len(flags)
    return found
