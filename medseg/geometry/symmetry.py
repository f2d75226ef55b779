"""Turns and mirrors of a HEALPix sky: the sixteen that permute its pixels, and all others.

Source: Gorski et al. 2005, ApJ 622, 759 (doi 10.1086/427976), for the grid; its symmetry group is
that of a square prism (D4h), here told on faces.
"""

from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float, Int, Shaped

from medseg.geometry.neighbours import pixel, places
from medseg.geometry.sphere import centres, nest_numbers, nside_of, ring_numbers

QUARTERS = 4


@lru_cache(maxsize=8)
def symmetries(nside: int) -> Int[np.ndarray, "16 n"]:
    """The NESTED pixel to which each one is taken by the sixteen symmetries of the grid.

    The identity and the three quarter turns about the poles' axis, each of them after a half turn
    about an axis in the equator, then the same eight after a mirror at the equator. Centres go to
    centres: `centres[symmetries[g]] = centres @ matrices()[g].T`. Read-only.
    """
    found = np.stack(list(each_symmetry(nside)))
    found.setflags(write=False)
    return found


def each_symmetry(nside: int) -> Iterator[Int[np.ndarray, " n"]]:
    """The rows of `symmetries`, one at a time, where all at once would fill the memory."""
    for mirror, flip, turn in _elements():
        yield _moved(nside, turn, flip, mirror)


def rotations_about_axis(nside: int) -> Int[np.ndarray, "4 n"]:
    """The first four of `symmetries`: quarter turns, which move whole faces and turn none."""
    return symmetries(nside)[:QUARTERS]


@cache
def matrices() -> Float[np.ndarray, "16 3 3"]:
    """The orthogonal matrices of `symmetries`, eight rotations and eight reflections. Read-only."""
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    half, mirror = np.diag([1.0, -1, -1]), np.diag([1.0, 1, -1])
    found = np.stack(
        [
            np.linalg.matrix_power(quarter, turn)
            @ np.linalg.matrix_power(half, flip)
            @ np.linalg.matrix_power(mirror, mirrored)
            for mirrored, flip, turn in _elements()
        ]
    )
    found.setflags(write=False)
    return found


def rotate(
    values: Float[np.ndarray, "*b n"],
    matrix: Float[np.ndarray, "3 3"],
    *,
    lmax: int | None = None,
    iterations: int = 3,
) -> Float[np.ndarray, "*b n"]:
    """NESTED maps of a scalar, turned by a rotation through their harmonics up to lmax.

    What stood at x stands at `matrix @ x`. Exact for maps that hold nothing above lmax, but for the
    quadrature of the analysis, which `iterations` refine; lmax is 3 nside - 1 without a word.
    """
    import healpy
    from scipy.spatial.transform import Rotation

    nside = nside_of(values.shape[-1])
    lmax = 3 * nside - 1 if lmax is None else lmax
    psi, theta, phi = Rotation.from_matrix(np.asarray(matrix)).as_euler("zyz")
    turned = np.empty(values.shape, dtype=values.dtype)
    for place in np.ndindex(values.shape[:-1]):
        ring = np.asarray(values[place], dtype=float)[nest_numbers(nside)]
        alm = healpy.map2alm(ring, lmax=lmax, iter=iterations, use_pixel_weights=False)
        healpy.rotate_alm(alm, psi, theta, phi, lmax=lmax)
        turned[place] = healpy.alm2map(alm, nside, lmax=lmax)[ring_numbers(nside)]
    return turned


def rotate_mask(
    mask: Shaped[np.ndarray, " n"], matrix: Float[np.ndarray, "3 3"]
) -> Shaped[np.ndarray, " n"]:
    """A NESTED map of labels or of what is seen, turned: each pixel takes the one it comes from."""
    import healpy

    nside = nside_of(mask.shape[-1])
    x, y, z = (centres(nside) @ np.asarray(matrix)).T  # the inverse turn of each centre
    turned: Shaped[np.ndarray, " n"] = mask[healpy.vec2pix(nside, x, y, z, nest=True)]
    return turned


def _elements() -> list[tuple[int, int, int]]:
    """Mirror, half turn and quarter turns of each symmetry, in their order."""
    # A mirror after a half turn is a reflection, and all eight reflections are such.
    return [(m, f, t) for m in range(2) for f in range(2) for t in range(QUARTERS)]


def _moved(nside: int, turn: int, flip: int, mirror: int) -> Int[np.ndarray, " n"]:
    face, x, y = places(nside)
    last = nside - 1
    if mirror:  # north and south change places
        face = np.choose(face // 4, (face + 8, face, face - 8))
        x, y = last - y, last - x
    if flip:  # half a turn about longitude 0: both north and south, and east and west
        face = np.choose(face // 4, (8 + (3 - face % 4), 4 + (-face) % 4, 3 - face % 4))
        x, y = last - x, last - y
    face = 4 * (face // 4) + (face + turn) % 4
    return pixel(face, x, y=y, nside=nside)
