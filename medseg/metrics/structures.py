"""Scores of every structure of one case, with a rule for each way in which one can be empty.

Present in both: `ok`. In the reference alone: `missed`; in the prediction alone: `spurious`: both
have Dice, IoU and NSD 0 and the volume's diagonal as every distance. In neither: `absent`, without
scores. No prediction at all: `failed`, scored as missed.

Source: the definitions are this project's own; a missed instance that costs the volume's diagonal
is the rule of the MICCAI 2018 IVDM3Seg challenge. Differs: the same cost for every structure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from medseg.geometry.grid import Grid
from medseg.metrics.instances import MISSED_DICE, localisation_mm, nearest_instance, pieces
from medseg.metrics.overlap import dice, iou
from medseg.metrics.surface import TOLERANCE_MM, surface_scores, union_box

METRICS = (
    "dice",
    "iou",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_ml",
    "volume_error_ml",
    "distance_mm",
)
STATUSES = ("ok", "missed", "spurious", "absent", "failed")

Labels = Integer[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Box = tuple[slice, slice, slice]
Row = dict[str, float | str | None]


@dataclass(frozen=True)
class Structure:
    """What a name means on either side: the values that stand for it.

    Attributes:
        name: as it appears in the scores.
        prediction: values in the predicted label map.
        reference: values in the reference.
        instances: the reference's values are instances, scored one by one as well; where they
            tell none apart (1 or 255), its connected pieces are, from the lowest up.
    """

    name: str
    prediction: tuple[int, ...]
    reference: tuple[int, ...]
    instances: bool = False


def score_case(
    prediction: Labels | None,
    reference: Labels,
    *,
    grid: Grid,
    structures: Sequence[Structure],
    tolerance_mm: float = TOLERANCE_MM,
    cropped: int | None = None,
) -> list[Row]:
    """One row a structure, and one an instance; without a prediction all rows are `failed`.

    `cropped` is the axis across which the label maps were cut out of larger ones, if they were:
    the faces of the cut are no surface.
    """
    predicted = np.zeros_like(reference) if prediction is None else prediction
    ours = _boxes(predicted, [s.prediction for s in structures])
    theirs = _boxes(reference, [s.reference for s in structures])
    rows: list[Row] = []
    for structure, mine, other in zip(structures, ours, theirs, strict=True):
        box = _join(mine, other)
        if cropped is not None:
            x, y, z = (slice(0, grid.shape[a]) if a == cropped else box[a] for a in range(3))
            box = x, y, z
        part = Part(predicted[box], reference[box], _cropped(grid, box), grid.diagonal_mm, cropped)
        found = _score_structure(part, structure, tolerance_mm)
        if prediction is None:
            found = [
                _failed(row, grid.diagonal_mm) if n == 0 or row["status"] != "absent" else row
                for n, row in enumerate(found)
            ]
        rows += found
    return rows


@dataclass(frozen=True, eq=False)
class Part:
    """The box of a case that holds one structure on either side."""

    prediction: Labels
    reference: Labels
    grid: Grid
    diagonal_mm: float
    cropped: int | None


def _score_structure(part: Part, structure: Structure, tolerance_mm: float) -> list[Row]:
    prediction = np.isin(part.prediction, structure.prediction)
    reference = np.isin(part.reference, structure.reference)
    rows = [
        score_masks(
            prediction,
            reference,
            grid=part.grid,
            diagonal_mm=part.diagonal_mm,
            tolerance_mm=tolerance_mm,
            cropped=part.cropped,
        )
    ]
    rows[0]["structure"] = structure.name
    if not structure.instances:
        return rows
    owners, values = np.where(reference, part.reference, 0), structure.reference
    if set(values) <= {1, 255}:
        owners = pieces(reference, part.grid)
        values = tuple(range(1, int(owners.max()) + 1))
    if _names_instances(part.prediction, structure):
        assigned = np.where(prediction, part.prediction, 0)
    else:
        assigned = nearest_instance(prediction, owners, spacing_mm=part.grid.spacing_mm)
    for value in values:
        row = score_masks(
            assigned == value,
            owners == value,
            grid=part.grid,
            diagonal_mm=part.diagonal_mm,
            tolerance_mm=tolerance_mm,
            cropped=part.cropped,
            missed_below=MISSED_DICE,
        )
        rows.append({**row, "structure": f"{structure.name}_{value}"})
    return rows


def _names_instances(prediction: Labels, structure: Structure) -> bool:
    """Whether a prediction tells instances apart, by the reference's own values.

    One value alone, 1 or 255, is a binary mask; anything else among the values names instances.
    """
    if set(structure.prediction) != set(structure.reference):
        return False
    found = set(np.unique(prediction).tolist()) & set(structure.prediction)
    return bool(found) and not (len(found) == 1 and found <= {1, 255})


def score_masks(
    prediction: Mask,
    reference: Mask,
    *,
    grid: Grid,
    diagonal_mm: float,
    tolerance_mm: float = TOLERANCE_MM,
    cropped: int | None = None,
    missed_below: float = 0.0,
) -> Row:
    """All metrics of one structure, and its status; a Dice under `missed_below` is a miss."""
    sizes = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    if not any(sizes):
        return {**dict.fromkeys(METRICS), "status": "absent"}
    volumes = sizes[0] * grid.voxel_ml, (sizes[0] - sizes[1]) * grid.voxel_ml
    overlap = dice(prediction, reference)
    if not all(sizes) or overlap < missed_below:
        status = "missed" if sizes[1] else "spurious"
        return {**_nothing(diagonal_mm, *volumes), "status": status}
    surface = surface_scores(
        prediction,
        reference,
        spacing_mm=grid.spacing_mm,
        tolerance_mm=tolerance_mm,
        cropped=cropped,
    )
    return {
        "dice": overlap,
        "iou": iou(prediction, reference),
        "hd95_mm": surface.hd95_mm,
        "assd_mm": surface.assd_mm,
        "nsd": surface.nsd,
        "volume_ml": volumes[0],
        "volume_error_ml": volumes[1],
        "distance_mm": localisation_mm(prediction, reference, grid=grid),
        "status": "ok",
    }


def _failed(row: Row, diagonal_mm: float) -> Row:
    """A row without a prediction: scored as missed, even where the reference has nothing either."""
    return {
        "structure": row["structure"],
        **_nothing(diagonal_mm, 0.0, row["volume_error_ml"] or 0.0),
        "status": "failed",
    }


def _nothing(diagonal_mm: float, volume_ml: float, error_ml: float | str) -> Row:
    """The scores of a structure of which nothing was found, or nothing should have been."""
    return {
        **dict.fromkeys(("dice", "iou", "nsd"), 0.0),
        **dict.fromkeys(("hd95_mm", "assd_mm", "distance_mm"), diagonal_mm),
        "volume_ml": volume_ml,
        "volume_error_ml": error_ml,
    }


def _boxes(labels: Labels, groups: Sequence[tuple[int, ...]]) -> list[Box | None]:
    """The smallest box of each group of values, found in one pass over the volume."""
    from scipy.ndimage import find_objects

    values = [value for group in groups for value in group]
    top = max(values, default=0)
    if len(set(values)) < len(values) or min(values, default=1) < 1 or top > 65535:
        masks = [np.isin(labels, group) for group in groups]
        return [union_box(mask, mask) for mask in masks]
    lookup = np.zeros(top + 2, dtype=np.uint16)
    for number, group in enumerate(groups, start=1):
        lookup[list(group)] = number
    found = find_objects(lookup[np.clip(labels, 0, top + 1)], max_label=len(groups))
    return list(found)


def _join(one: Box | None, other: Box | None) -> Box:
    """The box that holds both; a single voxel where there is nothing to hold."""
    boxes = [box for box in (one, other) if box is not None]
    if not boxes:
        return slice(0, 1), slice(0, 1), slice(0, 1)
    x, y, z = (
        slice(min(b[a].start for b in boxes), max(b[a].stop for b in boxes)) for a in range(3)
    )
    return x, y, z


def _cropped(grid: Grid, box: Box) -> Grid:
    shape = (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start)
    return grid.crop((box[0].start, box[1].start, box[2].start), shape)
