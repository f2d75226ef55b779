"""The twelve base faces of a HEALPix sky as squares: order, padding from their neighbours, plane.

Source: Gorski et al. 2005, ApJ 622, 759 (doi 10.1086/427976), fig. 4. Corners where three faces
meet have no pixel beyond them; what stands there is our own choice: the mean of what the two
strips beside the corner give.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from medseg.geometry.neighbours import pixel, walk
from medseg.geometry.sphere import FACES, check_nside


@lru_cache(maxsize=16)
def raster(nside: int) -> Int[np.ndarray, " n"]:
    """The NESTED pixel at each place face·nside² + x·nside + y; x to north-east, y to north-west.

    Read-only. As gather: `map[raster(nside)]` reshaped to (12, nside, nside) is the faces.
    """
    face, x, y = np.indices((FACES, check_nside(nside), nside))
    return _frozen(pixel(face, x, y=y, nside=nside).ravel())


@lru_cache(maxsize=64)
def padded(nside: int, pad: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Two NESTED sources of each place of the padded faces; the value is the mean of both.

    There are 12 (nside + 2 pad)² places, x slow and y fast as in `raster`. Both sources are one
    pixel, but in the corners where three faces meet: there they continue the strip on the one
    side and on the other. Read-only.

    Raises:
        ValueError: the padding is wider than a face, or negative.
    """
    check_nside(nside)
    if not 0 <= pad <= nside:
        raise ValueError(
            f"padding by {pad} pixels reaches over more than the next face at nside {nside}; "
            f"take 0..{nside}, a smaller kernel or dilation, or a larger nside"
        )
    side = nside + 2 * pad
    face, x, y = np.indices((FACES, side, side))
    first, second = walk(face, x - pad, y=y - pad, nside=nside)
    return _frozen(first.ravel()), _frozen(second.ravel())


@lru_cache(maxsize=16)
def equirectangular(nside: int) -> tuple[Int[np.ndarray, "r c"], Int[np.ndarray, " n"]]:
    """A plane of colatitude x longitude: the NESTED pixel at each place, and the way back.

    The plane has 2 nside rows from north to south and 4 nside columns from longitude 0 eastwards;
    a place takes the pixel that holds its centre, and back a pixel takes the place that holds its
    own (row · 4 nside + column). Fewer places than pixels: near the equator two pixels may share
    one place, near the poles many places take one pixel. Read-only.
    """
    import healpy

    rows, columns = 2 * check_nside(nside), 4 * nside
    theta = (np.arange(rows) + 0.5) * (np.pi / rows)
    phi = (np.arange(columns) + 0.5) * (2 * np.pi / columns)
    plane = healpy.ang2pix(nside, theta[:, None], phi[None, :], nest=True)
    own_theta, own_phi = healpy.pix2ang(nside, np.arange(FACES * nside**2), nest=True)
    row = np.clip((own_theta / np.pi * rows).astype(np.int64), 0, rows - 1)
    column = (own_phi / (2 * np.pi) * columns).astype(np.int64) % columns
    return _frozen(plane), _frozen(row * columns + column)


def _frozen(array: Int[np.ndarray, "*s"]) -> Int[np.ndarray, "*s"]:
    array = np.ascontiguousarray(array, dtype=np.int64)
    array.setflags(write=False)
    return array
