"""Affines that stand askew, for the tests of readers and writers."""

import numpy as np

OBLIQUE = np.array(
    [[-1.9, 0.3, 0.1, 40], [0.2, 1.4, -0.9, -30], [0.15, 0.6, 2.2, 11], [0, 0, 0, 1.0]]
)


def turned(degrees, spacing) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = [-7, 8.5, 9]
    return affine
