"""Files of one case stored in different axis orders, laid on the same axes: no value changes."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from medseg.data.spaces import Space
from medseg.geometry.grid import Grid, Orientation
from medseg.geometry.sphere import Sphere
from medseg.io.skyfit import Kind, fitted

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


def onto_sphere(
    array: Shaped[np.ndarray, "..."],
    own: Space,
    *,
    wanted: Space,
    name: str,
    path: Path | str | None = None,
    kind: Kind = "map",
) -> Shaped[np.ndarray, " m"]:
    """A map on the pixels of another one, in that one's order; whole skies give parts.

    Args:
        array: the values.
        own: their pixels.
        wanted: the pixels wanted.
        name: of the values, for errors.
        path: of their file, for errors.
        kind: what they are: the error's line that mends a mask is another than that of a map.

    Raises:
        ValueError: the pixels are not the same.
    """
    against = "the case's first file"
    if isinstance(own, Sphere) and isinstance(wanted, Sphere):
        return fitted(array, own, like=wanted, name=name, path=path, against=against, kind=kind)
    kinds = ["a map of the sphere" if isinstance(s, Sphere) else "an image" for s in (own, wanted)]
    said = f"{name} ({path})" if path else name
    raise ValueError(f"{said} is {kinds[0]}, and {against} {kinds[1]}; give files of one kind")


def sky_kind(channel: str) -> Kind:
    """What a column of a sheet holds on the sphere: a mask, labels or values."""
    return "labels" if channel == "label" else "mask" if channel == "mask" else "map"
