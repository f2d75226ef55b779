"""The pixels around each HEALPix pixel, by arithmetic on faces, columns and bits.

A base face is a square of nside x nside pixels: x grows towards north-east, y towards north-west.
Walking out of a face means an offset in the next one, beside a pole with a quarter turn.

Source: Gorski et al. 2005, ApJ 622, 759 (doi 10.1086/427976), fig. 4 for the faces and sec. 4.1
for NESTED bits. Own arithmetic, no code followed.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Int, Integer

from medseg.geometry.sphere import FACES, check_nside

DIRECTIONS = ("SW", "W", "NW", "N", "NE", "E", "SE", "S")
STEPS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
MASKS = (
    (32, 0x00000000FFFFFFFF), (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555),
)  # fmt: skip

Numbers = Int[np.ndarray, " n"]
Place = tuple[Integer[np.ndarray, "*s"], Integer[np.ndarray, "*s"], Integer[np.ndarray, "*s"]]


@lru_cache(maxsize=16)
def neighbours(nside: int) -> Int[np.ndarray, "n 8"]:
    """NESTED numbers of the eight pixels around each one, in the order of `DIRECTIONS`.

    -1 where three faces meet in a corner of the pixel, and there is no pixel beyond it: twice in
    each face, so that 24 pixels of the sky have seven. Read-only.
    """
    found = neighbours_of(np.arange(FACES * check_nside(nside) ** 2), nside)
    found.setflags(write=False)
    return found


def neighbours_of(pixels: Integer[np.ndarray, " n"], nside: int) -> Int[np.ndarray, "n 8"]:
    """The same for some NESTED pixels of a sky."""
    face, x, y = _places(pixels, nside)
    found = np.empty((len(face), len(STEPS)), np.int64)
    for column, (right, up) in enumerate(STEPS):
        first, second = walk(face, x + right, y=y + up, nside=nside)
        found[:, column] = np.where(first == second, first, -1)
    return found


@lru_cache(maxsize=16)
def places(nside: int) -> tuple[Numbers, Numbers, Numbers]:
    """Face, x and y of each NESTED pixel. Read-only."""
    found = _places(np.arange(FACES * check_nside(nside) ** 2), nside)
    for part in found:
        part.setflags(write=False)
    return found


def _places(pixels: Integer[np.ndarray, " n"], nside: int) -> tuple[Numbers, Numbers, Numbers]:
    inner = pixels % nside**2
    return pixels // nside**2, _even_bits(inner), _even_bits(inner >> 1)


def pixel(
    face: Integer[np.ndarray, "*s"],
    x: Integer[np.ndarray, "*s"],
    *,
    y: Integer[np.ndarray, "*s"],
    nside: int,
) -> Int[np.ndarray, "*s"]:
    """NESTED number of the pixel at a place of a face; x and y lie in 0..nside-1."""
    return face.astype(np.int64) * nside**2 + (_spread(x) | (_spread(y) << 1))


def walk(
    face: Integer[np.ndarray, "*s"],
    x: Integer[np.ndarray, "*s"],
    *,
    y: Integer[np.ndarray, "*s"],
    nside: int,
) -> tuple[Int[np.ndarray, "*s"], Int[np.ndarray, "*s"]]:
    """NESTED pixels at places up to nside outside a face: reached along x first, and y first.

    The two are one pixel but beyond the corners where three faces meet: there one way leads
    through one neighbouring face into the other, and the second way back.
    """
    out = (np.minimum(x, y) < 0) | (np.maximum(x, y) >= nside)
    first = pixel(face, np.clip(x, 0, nside - 1), y=np.clip(y, 0, nside - 1), nside=nside)
    second = first.copy()
    place = face[out], x[out], y[out]
    # A quarter turn makes the second step one along the same axis as the first.
    across = _over_x(*_over_y(*_over_x(*place, nside), nside), nside)
    up = _over_y(*_over_x(*_over_y(*place, nside), nside), nside)
    first[out] = pixel(across[0], across[1], y=across[2], nside=nside)
    second[out] = pixel(up[0], up[1], y=up[2], nside=nside)
    return first, second


def _over_x(
    face: Integer[np.ndarray, "*s"],
    x: Integer[np.ndarray, "*s"],
    y: Integer[np.ndarray, "*s"],
    nside: int,
) -> Place:
    """Places left or right of a face, told in the face that lies there."""
    belt, turn = face // 4, face % 4
    after, before = (turn + 1) % 4, (turn + 3) % 4
    east, west = x >= nside, x < 0
    eastern = np.choose(belt, (after, turn, 4 + after))
    western = np.choose(belt, (4 + turn, 8 + before, 8 + before))
    new_face = np.where(east, eastern, np.where(west, western, face))
    north, south = east & (belt == 0), west & (belt == 2)
    inside = np.where(east, x - nside, np.where(west, x + nside, x))
    new_x = np.where(north | south, y, inside)
    new_y = np.where(north, 2 * nside - 1 - x, np.where(south, -1 - x, y))
    return new_face, new_x, new_y


def _over_y(
    face: Integer[np.ndarray, "*s"],
    x: Integer[np.ndarray, "*s"],
    y: Integer[np.ndarray, "*s"],
    nside: int,
) -> Place:
    """The same above and below a face: its mirror image, in which x is y and west is east."""
    mirrored = _mirror(face)
    new_face, new_y, new_x = _over_x(mirrored, y, x, nside)
    return _mirror(new_face), new_x, new_y


def _mirror(face: Integer[np.ndarray, "*s"]) -> Integer[np.ndarray, "*s"]:
    """The face at the opposite longitude; its x and y are exchanged."""
    belt, turn = face // 4, face % 4
    return 4 * belt + np.where(belt == 1, (4 - turn) % 4, 3 - turn)


def _spread(number: Integer[np.ndarray, "*s"]) -> Int[np.ndarray, "*s"]:
    """The bits of a number, moved to the even places."""
    bits = number.astype(np.int64)
    for shift, mask in MASKS:
        bits = (bits | (bits << shift)) & mask
    return bits


def _even_bits(number: Integer[np.ndarray, "*s"]) -> Int[np.ndarray, "*s"]:
    """The bits at the even places, moved together."""
    bits = number.astype(np.int64) & MASKS[-1][1]
    for (shift, _), (_, mask) in pairwise(reversed(MASKS)):
        bits = (bits | (bits >> shift)) & mask
    return bits
