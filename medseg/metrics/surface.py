"""Distances between the surfaces of two masks, in millimetres: HD95, ASSD and NSD in one pass.

Source: HD95 and ASSD as in Metrics Reloaded (Maier-Hein et al. 2024, Nature Methods 21) and MONAI,
between the centres of surface voxels (a voxel of the mask with a face neighbour outside it; what
lies beyond the image counts as outside). NSD as in Nikolov et al. 2018 (arXiv:1809.04430), between
surface elements weighted by their area. Differs: only surface points that the masks do not share
are looked up, in a k-d tree; the values are the same.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from medseg.metrics.surfels import CORNERS, surfel_areas

TOLERANCE_MM = 2.0
"""How far a surface may lie off and still count as found by the normalised surface Dice."""

Mask = Bool[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class SurfaceScores:
    """What two surfaces have to say about each other.

    Attributes:
        hd95_mm: the larger of the two directed 95th percentiles of surface distance.
        assd_mm: mean distance over the points of both surfaces, pooled.
        nsd: share of both surfaces' area that lies within the tolerance of the other one.
    """

    hd95_mm: float
    assd_mm: float
    nsd: float


def surface_scores(
    prediction: Mask,
    reference: Mask,
    *,
    spacing_mm: Spacing,
    tolerance_mm: float = TOLERANCE_MM,
    cropped: int | None = None,
) -> SurfaceScores:
    """All surface metrics of two masks that each hold at least one voxel.

    Where the arrays are a part of a volume, cut across the axis `cropped`, a mask goes on past
    their first and last plane as it stands there: the faces of the cut are no surface.
    """
    box = union_box(prediction, reference)
    if box is None or not (prediction[box].any() and reference[box].any()):
        raise ValueError("surface distances need a voxel in both masks; score an empty one apart")
    if cropped is not None:
        x, y, z = (slice(None) if axis == cropped else box[axis] for axis in range(3))
        box = x, y, z
    ours, theirs = (_bordered(mask[box], cropped) for mask in (prediction, reference))
    forth, back = _both_ways(_surface_voxels(ours), _surface_voxels(theirs), spacing_mm)
    return SurfaceScores(
        hd95_mm=max(float(np.percentile(forth, 95)), float(np.percentile(back, 95))),
        assd_mm=float((forth.sum() + back.sum()) / (len(forth) + len(back))),
        nsd=_surface_dice(ours, theirs, spacing_mm, tolerance_mm, cropped),
    )


def hd95(prediction: Mask, reference: Mask, *, spacing_mm: Spacing) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed percentiles."""
    return surface_scores(prediction, reference, spacing_mm=spacing_mm).hd95_mm


def assd(prediction: Mask, reference: Mask, *, spacing_mm: Spacing) -> float:
    """Average symmetric surface distance in mm, pooled over the points of both surfaces."""
    return surface_scores(prediction, reference, spacing_mm=spacing_mm).assd_mm


def nsd(
    prediction: Mask, reference: Mask, *, spacing_mm: Spacing, tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Normalised surface Dice: the share of surface area within the tolerance, in [0, 1]."""
    return surface_scores(
        prediction, reference, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm
    ).nsd


def union_box(one: Mask, other: Mask) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds both masks; None where both are empty."""
    box = [slice(None)] * 3
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        view = (box[0], box[1], box[2])
        filled = np.flatnonzero(one[view].any(others) | other[view].any(others))
        if not len(filled):
            return None
        box[axis] = slice(int(filled[0]), int(filled[-1]) + 1)
    return box[0], box[1], box[2]


def _bordered(mask: Mask, cropped: int | None) -> Bool[np.ndarray, "framed_x framed_y framed_z"]:
    """The mask in a frame of one voxel: outside, but along the cropped axis its own last plane."""
    frame = [(0, 0) if axis == cropped else (1, 1) for axis in range(3)]
    ends = [(1, 1) if axis == cropped else (0, 0) for axis in range(3)]
    framed = np.pad(mask, frame)
    return framed if cropped is None else np.pad(framed, ends, mode="edge")


def _surface_voxels(mask: Mask) -> Mask:
    """Voxels inside a mask's frame that touch the outside by a face."""
    core = mask[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for step in (slice(None, -2), slice(2, None)):
            view = [slice(1, -1)] * 3
            view[axis] = step
            core &= mask[tuple(view)]
    surface = np.zeros_like(mask)
    surface[1:-1, 1:-1, 1:-1] = mask[1:-1, 1:-1, 1:-1] & ~core
    return surface


def _surface_dice(
    ours: Mask, theirs: Mask, spacing_mm: Spacing, tolerance_mm: float, cropped: int | None
) -> float:
    """Area within the tolerance over all area, in the cells between the voxels' centres.

    A cell at a cut lies half within the part that is scored, and its area counts by half.
    """
    areas = surfel_areas(spacing_mm)
    codes = [_codes(mask) for mask in (ours, theirs)]
    cut = [(code != 0) & (code != 255) for code in codes]
    reach = tolerance_mm * (1 + 1e-6)
    distances = _both_ways(cut[0], cut[1], spacing_mm, limit_mm=reach + 1e-6)
    good = total = 0.0
    for code, surface, distance in zip(codes, cut, distances, strict=True):
        weight = areas[code[surface]]
        if cropped is not None:
            place = surface.nonzero()[cropped]
            weight = np.where((place == 0) | (place == code.shape[cropped] - 1), weight / 2, weight)
        good += float(weight[distance <= reach].sum())
        total += float(weight.sum())
    return good / total


def _codes(mask: Mask) -> Integer[np.ndarray, "x-1 y-1 z-1"]:
    """For each cell of eight neighbouring voxels, which of them are inside, as bits."""
    bits = mask.view(np.uint8)
    ends = (slice(None, -1), slice(1, None))
    codes = np.zeros([n - 1 for n in mask.shape], dtype=np.uint8)
    for n, (x, y, z) in enumerate(CORNERS):
        codes |= bits[ends[x], ends[y], ends[z]] << n
    return codes


def _both_ways(
    ours: Mask, theirs: Mask, spacing_mm: Spacing, *, limit_mm: float = np.inf
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """From each point of one set to the nearest of the other, both ways; past the limit, inf."""
    return (
        _directed(ours, theirs, spacing_mm, limit_mm),
        _directed(theirs, ours, spacing_mm, limit_mm),
    )


def _directed(
    start: Mask, target: Mask, spacing_mm: Spacing, limit_mm: float
) -> Float[np.ndarray, " n"]:
    """Distance in mm from each point of `start` to the nearest of `target`; shared points are 0."""
    from scipy.spatial import cKDTree

    points = np.nonzero(start)
    apart = ~target[points]
    distances = np.zeros(len(apart))
    if apart.any():
        scale = np.asarray(spacing_mm)
        tree = cKDTree(
            np.argwhere(target) * scale, leafsize=24, compact_nodes=False, balanced_tree=False
        )
        queries = np.stack(points, axis=1)[apart] * scale
        distances[apart] = tree.query(queries, distance_upper_bound=limit_mm)[0]
    return distances
