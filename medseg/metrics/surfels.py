"""Area of the surface inside one cell of eight voxel centres, for each of the 256 ways to fill it.

The surface cuts each cell edge with one end inside at its middle. Its area is the weight of a
surface element in the normalised surface Dice. Where the cut leaves a choice, the published weights
follow three rules, which this file states and derives the table from:
a cell filled by more than half has the surface of its complement; on a face with two opposite
corners inside, these corners are kept apart; a polygon that is not flat is cut into the triangles
of largest total area, with no diagonal through the cell's centre.

Source: Lorensen & Cline 1987, doi:10.1145/37401.37422 (marching cubes); Nikolov et al. 2018,
arXiv:1809.04430 (areas as weights). Differs: the table is derived by rule; no code followed.
"""

from functools import cache
from itertools import combinations, product

import numpy as np
from jaxtyping import Float

Corner = tuple[int, int, int]
Edge = tuple[Corner, Corner]
Triangles = list[tuple[int, int, int]]

CORNERS: tuple[Corner, ...] = tuple((x, y, z) for x, y, z in product((0, 1), repeat=3))
"""Cell corners in the order of the code's bits: corner `n` counts 2**n."""


def surfel_areas(spacing_mm: tuple[float, float, float]) -> Float[np.ndarray, "256"]:
    """Surface area in mm² of each code, for cells of the given side lengths."""
    sx, sy, sz = spacing_mm
    face = np.array([sy * sz, sx * sz, sx * sy])
    return np.sqrt(((_normals() * face) ** 2).sum(-1)).sum(-1)


@cache
def _normals() -> Float[np.ndarray, "256 4 3"]:
    """Normals of each code's triangles (at most four) in the unit cell, as long as their area."""
    normals = np.zeros((256, 4, 3))
    for code in range(1, 255):
        if code.bit_count() <= 4:
            found = np.concatenate([_cut(loop) for loop in _loops(code)])
            normals[code, : len(found)] = found
    full = [code for code in range(256) if code.bit_count() > 4]
    normals[full] = normals[[255 - code for code in full]]
    return normals


def _loops(code: int) -> list[list[Edge]]:
    """Closed polygons of the cut, as the cell edges that they pass, inside corners kept apart."""
    inside = {corner for n, corner in enumerate(CORNERS) if code >> n & 1}
    neighbours: dict[Edge, list[Edge]] = {}
    for axis, side in product(range(3), (0, 1)):
        for start, end in _segments(axis, side, inside):
            neighbours.setdefault(start, []).append(end)
            neighbours.setdefault(end, []).append(start)
    loops = []
    while neighbours:
        loop = [min(neighbours)]
        while ahead := [edge for edge in neighbours.pop(loop[-1]) if edge in neighbours]:
            loop.append(ahead[0])
        loops.append(loop)
    return loops


def _segments(axis: int, side: int, inside: set[Corner]) -> list[tuple[Edge, Edge]]:
    """Lines that the surface draws on one face of the cell."""
    ring = [_corner(axis, side, u, v) for u, v in ((0, 0), (0, 1), (1, 1), (1, 0))]
    edges = [_edge(ring[n], ring[(n + 1) % 4]) for n in range(4)]
    cut = [n for n in range(4) if (ring[n] in inside) != (ring[(n + 1) % 4] in inside)]
    if len(cut) == 4:
        return [(edges[n - 1], edges[n]) for n in range(4) if ring[n] in inside]
    return [(edges[cut[0]], edges[cut[1]])] if cut else []


def _corner(axis: int, side: int, u: int, v: int) -> Corner:
    corner = [u, v]
    corner.insert(axis, side)
    return (corner[0], corner[1], corner[2])


def _edge(one: Corner, other: Corner) -> Edge:
    return (one, other) if one < other else (other, one)


def _cut(loop: list[Edge]) -> Float[np.ndarray, "n 3"]:
    """Triangle normals of one polygon, by the rule of the largest area."""
    points = np.array(loop, dtype=float).mean(1)
    ways = list(_triangulations(0, len(loop) - 1))
    if len(loop) <= 4:
        return _cross(points, ways[0])

    def rank(triangles: Triangles) -> tuple[float, int]:
        area = float(np.sqrt((_cross(points, triangles) ** 2).sum(-1)).sum())
        sides = {pair for triangle in triangles for pair in combinations(triangle, 2)}
        central = sum(bool((points[a] + points[b] == 1).all()) for a, b in sides)
        return round(area, 6), -central

    return _cross(points, max(ways, key=rank))


def _cross(points: Float[np.ndarray, "p 3"], triangles: Triangles) -> Float[np.ndarray, "n 3"]:
    a, b, c = points[np.array(triangles)].transpose(1, 0, 2)
    return np.cross(b - a, c - a) / 2


def _triangulations(first: int, last: int) -> list[Triangles]:
    """All ways to cut the polygon first..last into triangles."""
    if last - first < 2:
        return [[]]
    return [
        [*left, *right, (first, apex, last)]
        for apex in range(first + 1, last)
        for left in _triangulations(first, apex)
        for right in _triangulations(apex, last)
    ]
