"""Files of one case stored in different axis orders, laid on the same axes: no value changes."""

import numpy as np
from jaxtyping import Shaped

from medseg.geometry.grid import Grid, Orientation

MISALIGNED_MM = 0.01


def turn(own: Grid, wanted: Grid) -> Orientation | None:
    """The axis order and flips that lay `own` on `wanted`; None where the points are not the same.

    Two grids of the same points differ by whole voxels alone, however oblique they are.
    """
    step = np.linalg.solve(wanted.affine[:3, :3], own.affine[:3, :3])
    a, b, c = (int(axis) for axis in np.abs(step).argmax(1))
    if {a, b, c} != {0, 1, 2}:
        return None
    d, e, f = (bool(step[row, axis] < 0) for row, axis in enumerate((a, b, c)))
    found = Orientation((a, b, c), (d, e, f))
    return found if found.grid(own).misalignment_mm(wanted) <= MISALIGNED_MM else None


def onto(
    array: Shaped[np.ndarray, "..."], own: Grid, *, wanted: Grid
) -> Shaped[np.ndarray, "..."] | None:
    """An array of `own` on the axes of `wanted`, as a view; None where the points differ."""
    found = turn(own, wanted)
    return None if found is None else found.apply(array)


def unaligned(own: Grid, wanted: Grid) -> tuple[Grid, Grid]:
    """Both grids as they compare best: on canonical axes where their own run differently."""
    if own.axcodes == wanted.axcodes:
        return own, wanted
    return own.canonical(), wanted.canonical()
