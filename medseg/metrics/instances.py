"""Which reference instance a predicted voxel belongs to, and how far off its centre is.

Source: evaluation of the MICCAI 2018 IVDM3Seg challenge (localisation distance, a missed disc
costs the diagonal of the volume); detection rates at 2, 4 and 6 mm as in the 2015 challenge.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from medseg.geometry.grid import Grid

MISSED_DICE = 0.001
DETECTION_MM = (2.0, 4.0, 6.0)


def nearest_instance(
    mask: Bool[np.ndarray, "x y z"],
    instances: Integer[np.ndarray, "x y z"],
    *,
    spacing_mm: tuple[float, float, float],
) -> Integer[np.ndarray, "x y z"]:
    """Give every voxel of `mask` the value of the reference instance nearest to it in mm.

    `instances` is 0 outside all of them; where there is none at all, every voxel stays 0.
    """
    from scipy.spatial import cKDTree

    assigned = np.where(mask, instances, 0).astype(instances.dtype)
    owners = np.nonzero(_rim(instances))
    homeless = np.nonzero(mask & (instances == 0))
    if len(owners[0]) and len(homeless[0]):
        scale = np.asarray(spacing_mm)
        _, nearest = cKDTree(np.stack(owners, 1) * scale).query(np.stack(homeless, 1) * scale)
        assigned[homeless] = instances[owners][nearest]
    return assigned


def pieces(
    mask: Bool[np.ndarray, "x y z"], grid: Grid, *, at_least_ml: float = 0.01
) -> Integer[np.ndarray, "x y z"]:
    """Connected pieces of a binary reference as instances, numbered from the lowest (feet) up.

    Voxels that touch by a corner belong together; specks below `at_least_ml` are no instance.
    """
    from scipy.ndimage import label

    found, count = label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    real = [n for n in range(1, count + 1) if sizes[n] * grid.voxel_ml >= at_least_ml]
    real.sort(key=lambda n: float(centroid_mm(found == n, grid)[2]))
    numbers = np.zeros(count + 1, dtype=np.uint16)
    numbers[real] = np.arange(1, len(real) + 1)
    return numbers[found]


def _rim(instances: Integer[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Instance voxels with a face neighbour outside: the nearest one is always among them."""
    filled = np.pad(instances != 0, 1)
    core = filled[1:-1, 1:-1, 1:-1].copy()
    inner = core.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(filled, step, axis)[1:-1, 1:-1, 1:-1]
    return core & ~inner


def centroid_mm(mask: Bool[np.ndarray, "x y z"], grid: Grid) -> Float[np.ndarray, "3"]:
    """Mean RAS+ position of a mask's voxels in mm; the mask holds at least one."""
    return grid.to_world(np.array([float(axis.mean()) for axis in np.nonzero(mask)]))


def localisation_mm(
    prediction: Bool[np.ndarray, "x y z"], reference: Bool[np.ndarray, "x y z"], *, grid: Grid
) -> float:
    """Distance in mm between the centroids of two masks that each hold at least one voxel."""
    offset = centroid_mm(prediction, grid) - centroid_mm(reference, grid)
    return float(np.sqrt((offset**2).sum()))


def detection_rate(
    distances_mm: Sequence[float], thresholds_mm: Sequence[float] = DETECTION_MM
) -> dict[float, float]:
    """For each threshold, the share of instances whose centre lies within it."""
    distances = np.asarray(distances_mm, dtype=float)
    return {
        limit: float((distances <= limit).mean()) if len(distances) else float("nan")
        for limit in thresholds_mm
    }
