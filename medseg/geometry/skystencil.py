"""Nearest pixels of a HEALPix sky, and weights for them that act rightly on smooth functions.

Source: for the weights, our own: the smallest change, in the Gaussian's own measure, to Gaussian
weights g such that sum_j w_j (Y_lm(x_j) - Y_lm(x_i)) = -l (l + 1) Y_lm(x_i) for 1 <= l <= degree,
in the frame of pixel i; least squares where that is too many conditions. Then diag(sum w) - w is
minus the sphere's Laplacian, and eigenvalues are l (l + 1) at every nside.
"""

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.spatial import cKDTree
from scipy.special import sph_harm_y

from medseg.geometry.neighbours import neighbours_of
from medseg.geometry.sphere import centres

TIE = 1e-9
MORE = 16
RANK = 1e-6
CHUNK = 65536


def nearest(
    nside: int, numbers: Integer[np.ndarray, " n"] | None, *, near: int, ties: bool
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """NESTED numbers of the nearest pixels of each one, and their squared distances.

    With `ties`, all that are as near as the last one too: rows are then of unlike length, filled
    up with -1. Pixels are given by number, None for all.
    """
    known = None if numbers is None else _around(numbers, nside, near)
    points = centres(nside) if known is None else _centres(known, nside)
    own = points if numbers is None else _centres(numbers, nside)
    many = min(near + 1 + (MORE if ties else 0), len(points))
    distance, index = cKDTree(points).query(own, k=many)
    distance, index = distance[:, 1:], index[:, 1:].astype(np.int64)
    if known is not None:
        index = known[index]
    if ties:
        close = distance <= distance[:, [near - 1]] * (1 + TIE)
        width = int(close.sum(1).max())
        index = np.where(close, index, -1)[:, :width]
        distance = distance[:, :width]
    return index, distance**2


def square_distances(
    index: Int[np.ndarray, "n k"], numbers: Integer[np.ndarray, " n"], *, nside: int
) -> Float[np.ndarray, "n k"]:
    """Squared distances on the unit sphere between pixels and others; of -1, anything."""
    own = _centres(numbers, nside)
    total = np.zeros(index.shape)
    for column in range(index.shape[1]):
        other = _centres(index[:, column].clip(min=0), nside)
        total[:, column] = ((other - own) ** 2).sum(1)
    return total


def least_squares(
    nside: int,
    numbers: Integer[np.ndarray, " n"],
    *,
    near: int,
    width: float,
    degree: int,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """NESTED numbers of the nearest pixels, all ties among them, and their fitted weights.

    -1 and weight 0 where a pixel has fewer; `width` is where the Gaussian weights are a half.
    """
    index, square = nearest(nside, numbers, near=near, ties=True)
    weight = np.empty(square.shape)
    for start in range(0, len(index), CHUNK):
        rows = slice(start, start + CHUNK)
        there = index[rows] >= 0
        local = _local(nside, numbers[rows], index[rows].clip(min=0))
        gauss = np.exp(-np.log(2) * square[rows] / width**2) * there
        gauss *= 4 / (gauss * square[rows]).sum(1, keepdims=True)
        weight[rows] = _fitted(local, gauss, degree) * there
    return index, weight


def _fitted(
    local: Float[np.ndarray, "n k 3"], gauss: Float[np.ndarray, "n k"], degree: int
) -> Float[np.ndarray, "n k"]:
    functions, wanted = _harmonics(local, degree)
    root = np.sqrt(gauss)
    missing = wanted - np.einsum("nqk,nk->nq", functions, gauss)
    functions = functions * root[:, None]
    # Functions that vary with the m-th power of the distance are brought to one size.
    size = np.maximum(np.linalg.norm(functions, axis=2), 1e-300)
    inverse = np.linalg.pinv(functions / size[..., None], rcond=RANK)
    fitted: Float[np.ndarray, "n k"] = gauss + root * np.einsum(
        "nkq,nq->nk", inverse, missing / size
    )
    return fitted


def _harmonics(
    local: Float[np.ndarray, "n k 3"], degree: int
) -> tuple[Float[np.ndarray, "n q k"], Float[np.ndarray, " q"]]:
    """Y_lm less its value at the pole, and minus l (l + 1) times that value."""
    theta = np.arctan2(np.hypot(local[..., 0], local[..., 1]), local[..., 2])
    phi = np.arctan2(local[..., 1], local[..., 0])
    rows, wanted = [], []
    for order in range(1, degree + 1):
        for m in range(order + 1):
            value = sph_harm_y(order, m, theta, phi)
            pole = float(sph_harm_y(order, m, 0.0, 0.0).real)
            rows.append(value.real - pole)
            wanted.append(-order * (order + 1) * pole)
            if m:
                rows.append(value.imag)
                wanted.append(0.0)
    return np.stack(rows, 1), np.array(wanted)


def _local(
    nside: int, numbers: Integer[np.ndarray, " n"], index: Int[np.ndarray, "n k"]
) -> Float[np.ndarray, "n k 3"]:
    """Pixels in the frame of another: east, north, and out of the sphere."""
    up = _centres(numbers, nside)
    east = np.stack([-up[:, 1], up[:, 0], np.zeros(len(up))], 1)
    east /= np.linalg.norm(east, axis=1, keepdims=True)  # no centre lies on a pole
    frame = np.stack([east, np.cross(up, east), up], 1)
    there = _centres(index.ravel(), nside).reshape(*index.shape, 3)
    return np.einsum("nab,nkb->nka", frame, there)


def _around(numbers: Integer[np.ndarray, " n"], nside: int, near: int) -> Int[np.ndarray, " m"]:
    """The pixels and those about them, wide enough to hold the nearest of each."""
    found = np.asarray(numbers, np.int64)
    for _ in range(2 + int(np.ceil(np.sqrt(near)))):
        beside = neighbours_of(found, nside)
        found = np.union1d(found, beside[beside >= 0])
    return found


def _centres(numbers: Integer[np.ndarray, " n"], nside: int) -> Float[np.ndarray, "n 3"]:
    import healpy

    return np.stack(healpy.pix2vec(nside, numbers, nest=True), 1)
