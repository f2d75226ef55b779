"""Scores of contours against landmarks or masks, a row an organ and a row a group of organs.

An organ's mask is its contour's filled polygon at `side` pixels, coordinates cut to whole ones; a
group's is the union of its organs' masks, and its landmarks are theirs together.

Source: Gaggion et al. 2022, arXiv:2203.10977, as their evaluation computes it: squared error over
coordinates at 1024 pixels, Dice and Hausdorff distance of both lungs as one mask at 0.35 mm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from medseg.geometry.contour import (
    Contour,
    components,
    holes,
    rasterise,
    self_intersections,
    slices,
)
from medseg.metrics.overlap import dice

METRICS = (
    "dice",
    "hd_mm",
    "assd_mm",
    "mse_px2",
    "error_mm",
    "components",
    "holes",
    "self_intersections",
)
MASK_METRICS = ("dice", "hd_mm", "assd_mm", "components", "holes")
GROUPS = {
    "lungs": ("right_lung", "left_lung"),
    "clavicles": ("right_clavicle", "left_clavicle"),
    "lungs_heart": ("right_lung", "left_lung", "heart"),
}
"""Organs that are scored together, as one mask and as one list of landmarks."""

LANDMARKS_ALONE = ("lungs_heart",)
"""Groups without a mask: of lungs and heart, the 120 landmarks of the published error."""

DEFINITIONS = {
    "mask": "an organ's mask is its contour's filled polygon, boundary included, on a square of "
    "1024 pixels, coordinates truncated; a group is the union of its organs' masks, and "
    "lungs_heart has landmarks alone",
    "dice": "twice the shared pixels over the pixels of both masks",
    "hd_mm": "the largest distance from a boundary pixel of either mask to the nearest of the "
    "other (a boundary pixel has an edge neighbour outside)",
    "assd_mm": "mean of these distances over the boundary pixels of both masks, pooled",
    "mse_px2": "mean over the coordinates of all landmarks, x and y each, of the squared error in "
    "pixels at 1024; none for a prediction without landmarks",
    "error_mm": "mean distance between a landmark and its reference",
    "components": "connected pieces of a predicted organ's mask, shared corners connect; summed "
    "over a group's organs, so that both lungs have two",
    "holes": "pieces of the outside that a predicted organ's mask surrounds, summed likewise",
    "self_intersections": "pairs of sides of a predicted contour that cross, summed likewise",
    "missed": "in the reference, not in the prediction: Dice 0, every distance the diagonal of "
    "the square, the squared error its side's square",
    "spurious": "in the prediction, not in the reference: scored like a missed one",
    "absent": "not annotated, or in neither: without scores, outside every mean",
    "failed": "no readable prediction: scored like a missed one",
}

Points = Float[np.ndarray, "n 2"]
Mask = Bool[np.ndarray, "h w"]
Labels = Integer[np.ndarray, "h w"]
Shapes = (
    Float[np.ndarray, "_ 2"] | Integer[np.ndarray, "_ _"] | Mapping[str, Bool[np.ndarray, "_ _"]]
)
Row = dict[str, float | str | None]


def score_landmarks(
    prediction: Shapes | None,
    reference: Shapes,
    *,
    contours: Sequence[Contour],
    groups: Mapping[str, Sequence[str]] = GROUPS,
    side: int = 1024,
    spacing_mm: float = 0.35,
) -> list[Row]:
    """One row an organ, then one a group whose organs are all among the contours.

    Either one is landmarks in units of the square's side, one contour after the other, with NaN
    where nothing was annotated; or label flags of a square image; or masks by name, of organs or
    of whole groups, the others being unknown. What predicted masks say nothing about has no row;
    lungs and heart together are absent where either one has no landmarks.
    """
    known = {contour.name for contour in contours}
    members: dict[str, tuple[str, ...]] = {contour.name: (contour.name,) for contour in contours}
    members |= {name: tuple(own) for name, own in groups.items() if known.issuperset(own)}
    theirs = _Side(reference, contours, side)
    ours = None if prediction is None else _Side(prediction, contours, side)
    rows: list[Row] = []
    for name, organs in members.items():
        if ours is not None and not ours.tells(name, organs):
            continue
        pointed = theirs.points is not None and (ours is None or ours.points is not None)
        if name in LANDMARKS_ALONE and not pointed:
            row = _absent()
        else:
            row = _score(ours, theirs, name=name, organs=organs, spacing_mm=spacing_mm)
        if name in LANDMARKS_ALONE:
            row |= dict.fromkeys(MASK_METRICS)
        rows.append({"structure": name, **row})
    return rows


class _Side:
    """Prediction or reference: masks by name, and landmarks where there are some."""

    def __init__(self, shapes: Shapes, contours: Sequence[Contour], side: int) -> None:
        self.side = side
        self.own = slices(contours)
        self.closed = {contour.name: contour.closed for contour in contours}
        self.points: Points | None = None
        self.given: dict[str, Mask] | None = None
        self.drawn: dict[str, Mask | None] = {}
        if isinstance(shapes, Mapping):
            self.given = {name: _squared(mask, side) for name, mask in shapes.items()}
        elif np.issubdtype(shapes.dtype, np.integer):
            self.given = {
                contour.name: _squared((shapes >> number & 1).astype(bool), side)
                for number, contour in enumerate(contours)
                if contour.closed
            }
        else:
            wanted = sum(contour.nodes for contour in contours)
            if len(shapes) != wanted:
                raise ValueError(
                    f"{len(shapes)} landmarks for contours of {wanted} nodes; "
                    "score them with the organs of their own model"
                )
            self.points = np.asarray(shapes, dtype=np.float64) * side

    def tells(self, name: str, organs: Sequence[str]) -> bool:
        """Whether it can say anything about a structure, be it that nothing is there."""
        given = self.given
        return given is None or name in given or given.keys() >= set(organs)

    def mask(self, name: str, organs: Sequence[str]) -> Mask | None:
        """The union of the organs' masks; None if one of them is unknown or not annotated."""
        parts = self.parts(name, organs)
        return np.logical_or.reduce(parts) if parts else None

    def parts(self, name: str, organs: Sequence[str]) -> list[Mask]:
        """The organs' masks, or that of the structure where it was given as a whole."""
        if self.given is not None and name in self.given:
            return [self.given[name]]
        masks = [self._organ(organ) for organ in organs]
        known = [mask for mask in masks if mask is not None]
        return known if len(known) == len(masks) else []

    def _organ(self, organ: str) -> Mask | None:
        if self.points is None:
            return (self.given or {}).get(organ)
        if organ not in self.drawn:
            points = self.points[self.own[organ]]
            drawable = self.closed[organ] and np.isfinite(points).all()
            self.drawn[organ] = rasterise(points, (self.side, self.side)) if drawable else None
        return self.drawn[organ]

    def landmarks(self, organs: Sequence[str]) -> Points | None:
        """The organs' landmarks in pixels; None if one of them has none."""
        if self.points is None:
            return None
        parts = [self.points[self.own[organ]] for organ in organs]
        whole = all(np.isfinite(part).all(1).any() for part in parts)
        return np.concatenate(parts) if whole else None

    def crossings(self, organs: Sequence[str]) -> float | None:
        """Self-intersections of the organs' contours, summed; None without landmarks."""
        if self.points is None:
            return None
        found = [
            self_intersections(self.points[self.own[organ]], closed=self.closed[organ])
            for organ in organs
        ]
        return float(sum(found))


def _score(
    ours: _Side | None, theirs: _Side, *, name: str, organs: Sequence[str], spacing_mm: float
) -> Row:
    """The scores of one structure and its status."""
    reference, marks = theirs.mask(name, organs), theirs.landmarks(organs)
    if reference is None and marks is None:
        return _absent()
    found = ours.mask(name, organs) if ours else None
    placed = ours.landmarks(organs) if ours else None
    if placed is not None and not np.isfinite(placed).all():
        placed = None
    there, seen = marks is not None or _any(reference), placed is not None or _any(found)
    if ours is not None and not there and not seen:
        return _absent()
    if there and seen:
        row = _overlap(found, reference, theirs.side, spacing_mm)
        row |= _errors(placed, marks, spacing_mm)
        lost = found is not None and reference is not None and not found.any()
        row["status"] = "missed" if lost else "ok"
    else:
        pointed = marks is not None and (ours is None or ours.points is not None)
        row = _nothing(theirs.side, spacing_mm, pointed)
        row["status"] = "failed" if ours is None else "missed" if there else "spurious"
    if ours is not None and found is not None:
        parts = ours.parts(name, organs)
        row["components"] = float(sum(components(part) for part in parts))
        row["holes"] = float(sum(holes(part) for part in parts))
    if ours is not None and placed is not None:
        row["self_intersections"] = ours.crossings(organs)
    return row


def _any(mask: Mask | None) -> bool:
    return mask is not None and bool(mask.any())


def _absent() -> Row:
    return {**dict.fromkeys(METRICS), "status": "absent"}


def _nothing(side: int, spacing_mm: float, landmarks: bool) -> Row:
    """The scores of a structure of which nothing was found, or nothing should have been."""
    diagonal = side * spacing_mm * float(np.sqrt(2))
    return {
        **dict.fromkeys(METRICS),
        "dice": 0.0,
        "hd_mm": diagonal,
        "assd_mm": diagonal,
        "mse_px2": float(side) ** 2 if landmarks else None,
        "error_mm": diagonal if landmarks else None,
    }


def _errors(found: Points | None, wanted: Points | None, spacing_mm: float) -> Row:
    """Squared error over coordinates and mean distance, over the landmarks that both have."""
    if found is None or wanted is None:
        return {}
    apart = found - wanted
    apart = apart[np.isfinite(apart).all(1)]
    if not len(apart):
        return {}
    return {
        "mse_px2": float(np.mean(apart**2)),
        "error_mm": float(np.hypot(*apart.T).mean()) * spacing_mm,
    }


@dataclass(frozen=True)
class BoundaryScores:
    """Hausdorff distance and pooled mean distance of two masks' boundaries, in millimetres."""

    hd_mm: float
    assd_mm: float


def boundary_scores(prediction: Mask, reference: Mask, *, spacing_mm: float) -> BoundaryScores:
    """Distances between the boundary pixels of two masks that each hold at least one pixel.

    What lies beyond the image counts as outside.
    """
    from scipy.spatial import cKDTree

    ours, theirs = _boundary(prediction), _boundary(reference)
    if not (len(ours) and len(theirs)):
        raise ValueError("boundary distances need a pixel in both masks; score an empty one apart")
    forth, _ = cKDTree(theirs).query(ours)
    back, _ = cKDTree(ours).query(theirs)
    both = np.concatenate([forth, back]) * spacing_mm
    return BoundaryScores(hd_mm=float(both.max()), assd_mm=float(both.mean()))


def _boundary(mask: Mask) -> Integer[np.ndarray, "n 2"]:
    """Rows and columns of the pixels with an edge neighbour outside the mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 2), dtype=np.intp)
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    framed = np.pad(part, 1)
    core = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return np.argwhere(part & ~core) + np.array([rows[0], columns[0]])


def _overlap(found: Mask | None, wanted: Mask | None, side: int, spacing_mm: float) -> Row:
    """Dice and boundary distances; none where there is no mask to compare with."""
    if wanted is None or found is None:
        return dict.fromkeys(METRICS)
    if not found.any():
        return _nothing(side, spacing_mm, False)
    scores = boundary_scores(found, wanted, spacing_mm=spacing_mm)
    return {
        **dict.fromkeys(METRICS),
        "dice": dice(found, wanted),
        "hd_mm": scores.hd_mm,
        "assd_mm": scores.assd_mm,
    }


def _squared(mask: Mask, side: int) -> Bool[np.ndarray, "side side"]:
    """A mask of a square image at `side` pixels, by its nearest pixel."""
    height, width = mask.shape
    if height != width:
        raise ValueError(
            f"a mask of {height} rows and {width} columns is not square; "
            "bring it into the working frame before it is scored"
        )
    if height == side:
        return mask
    nearest = ((np.arange(side) + 0.5) * height / side).astype(np.intp)
    return mask[np.ix_(nearest, nearest)]
