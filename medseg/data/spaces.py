"""A case's space as plain values in a file, and back: a grid of voxels, or a sphere's pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from medseg.geometry.grid import Grid
from medseg.geometry.sphere import Sphere

Space = Grid | Sphere


def as_grid(space: Space, what: str) -> Grid:
    """A space that must be a grid of voxels.

    Raises:
        ValueError: it is a sphere; `what` is said to be one.
    """
    if isinstance(space, Sphere):
        raise ValueError(f"{what} is a map of the sphere ({space}) where an image is wanted")
    return space


def told(space: Space) -> dict[str, Any]:
    """What a file says of a space, as JSON values; pixels of a part of the sky in runs."""
    if isinstance(space, Grid):
        about = {name: getattr(space, name) for name in ("affine", "spacing_mm", "axcodes")}
        return {"shape": space.shape, **about}
    return {
        "shape": space.shape,
        "nside": space.nside,
        "ordering": "NESTED" if space.nest else "RING",
        "frame": space.frame,
        "pixels": None if space.pixels is None else _runs(space.pixels),
    }


def restored(about: Mapping[str, Any], shape: Sequence[int]) -> Space:
    """The space of a prepared case: its affine, or what `told` said of a sphere."""
    sphere = about.get("sphere")
    if sphere is None:
        return Grid((shape[0], shape[1], shape[2]), np.array(about["affine"]))
    runs = sphere["pixels"]
    pixels = None if runs is None else np.concatenate([np.arange(a, b) for a, b in runs])
    return Sphere(
        sphere["nside"], nest=sphere["ordering"] == "NESTED", pixels=pixels, frame=sphere["frame"]
    )


def spaced(space: Space) -> dict[str, Any]:
    """What a prepared case says of its working space beside its shape."""
    if isinstance(space, Grid):
        return {"spacing_mm": space.spacing_mm, "affine": space.affine}
    return {"spacing_mm": (), "sphere": told(space)}


def native(space: Space) -> dict[str, Any]:
    """What a prepared case says of the raw file's space."""
    if isinstance(space, Grid):
        return {"shape": space.shape, "affine": space.affine}
    return told(space)


def _runs(pixels: Integer[np.ndarray, " n"]) -> list[list[int]]:
    """First and one past the last of each run of pixels without a gap."""
    cuts = np.flatnonzero(np.diff(pixels) != 1) + 1
    return [[int(run[0]), int(run[-1]) + 1] for run in np.split(pixels, cuts)]
