"""Discs on the sky for tests."""

import numpy as np

from medseg.geometry.sphere import Sphere


def cap(sphere: Sphere, centre: np.ndarray, radius_deg: float) -> np.ndarray:
    """Whether each pixel's centre lies within an angle of a direction."""
    axis = np.asarray(centre, dtype=float) / np.linalg.norm(centre)
    return sphere.vectors() @ axis >= np.cos(np.radians(radius_deg))
