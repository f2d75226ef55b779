"""How much two masks share, and how large they are.

Source: Dice 1945, doi:10.2307/1932409; Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x.
"""

import numpy as np
from jaxtyping import Bool

from medseg.geometry.grid import Grid

Mask = Bool[np.ndarray, "*space"]


def dice(prediction: Mask, reference: Mask) -> float:
    """Twice the shared voxels over the voxels of both; not a number where both are empty."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    shared = int(np.count_nonzero(prediction & reference))
    return 2 * shared / total if total else float("nan")


def iou(prediction: Mask, reference: Mask) -> float:
    """Shared voxels over voxels in either (Jaccard); not a number where both are empty."""
    union = int(np.count_nonzero(prediction | reference))
    shared = int(np.count_nonzero(prediction & reference))
    return shared / union if union else float("nan")


def volume_ml(mask: Mask, grid: Grid) -> float:
    """Volume of a mask in millilitres."""
    return int(np.count_nonzero(mask)) * grid.voxel_ml


def volume_error_ml(prediction: Mask, reference: Mask, *, grid: Grid) -> float:
    """Predicted minus true volume in millilitres; negative where too little was found."""
    return volume_ml(prediction, grid) - volume_ml(reference, grid)
