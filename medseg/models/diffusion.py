"""Holes of a sky filled so that every pixel in them is the mean of its neighbours.

Source: none of its own: the Laplace equation, which the field solves by sweeps (the ten lines that
users of healpy write; "diffusive" filling in Puglisi and Bai 2020, arXiv:2003.13691). Differs: the
limit of infinitely many sweeps is found at once, by conjugate gradients with one multigrid cycle
(smoothed aggregation; Vanek, Mandel, Brezina 1996, doi:10.1007/BF02238511, damped Jacobi, the
aggregates are HEALPix parents) as their preconditioner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medseg.geometry.neighbours import neighbours_of
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import nside_of

METHOD = {
    "task": {"name": "inpaint"},
    "channels": ["map", "T", "Q", "U", "mask", "spectrum"],
    "optional_channels": True,
    "ndim": 1,
}
DAMPING = 2 / 3
COARSEST = 600
TOLERANCE = 1e-10
MOST_CYCLES = 200

Matrix = Any


class Diffusion(nn.Module):
    """The harmonic extension of what is seen: smooth, bounded by the seen values at the edge.

    A pixel in a hole takes the mean of its eight neighbours (24 pixels of the sky have seven). Q
    and U are filled like two temperatures: the turn of their axes between neighbouring pixels,
    small away from the poles, is left out. The last mask's matrices are kept.
    """

    needs_prior = False
    ndim = 1
    stride = 1
    not_exportable = "it solves equations of the mask, which an exported program cannot set up"
    of_maps = True

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[bytes, _Laplace] | None = None

    def fit(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> float:  # noqa: ARG002
        """Nothing is learned."""
        return 0.0

    def fill(
        self,
        values: Float[np.ndarray, "c n"],
        *,
        seen: Bool[np.ndarray, " n"],
        prior: Prior | None = None,  # noqa: ARG002 -- fillers alike
    ) -> Float[np.ndarray, "c n"]:
        """The map with its holes filled, NESTED; seen pixels come back as they were.

        Seconds on one core, of which most are the matrices of a new mask: 0.1 at nside 64, 10 at
        nside 512 with two fifths of the sky hidden.

        Raises:
            ValueError: nothing is seen, or the iteration does not end (it always did).
        """
        filled = np.array(values, dtype=float)
        if seen.all():
            return filled
        laplace = self._laplace(seen)
        for row in filled:
            row[laplace.holes] = laplace.solve(row)
        return filled

    def _laplace(self, seen: Bool[np.ndarray, " n"]) -> "_Laplace":
        key = seen.tobytes()
        if self._kept is None or self._kept[0] != key:
            if not seen.any():
                raise ValueError(
                    "no pixel is seen, and a fill needs values around the hole; the mask has 1 "
                    "where the map is known and 0 in the holes: is it the other way round?"
                )
            self._kept = key, _Laplace.of(seen)
        return self._kept[1]


@dataclass(frozen=True)
class _Level:
    """The equations of one grid, their damped inverse diagonal, and the way to and from the next.

    `damped` is as long as the grid has unknowns.
    """

    matrix: Matrix
    damped: Float[np.ndarray, " u"]
    coarser: Matrix
    finer: Matrix


@dataclass(frozen=True)
class _Laplace:
    """The equations of the hidden pixels: neighbours times value, less the hidden neighbours' sum.

    `edge` sums the seen neighbours of each hidden pixel, `last` inverts the coarsest grid.
    """

    holes: np.ndarray
    matrix: Matrix
    edge: Matrix
    levels: tuple[_Level, ...]
    last: np.ndarray

    @classmethod
    def of(cls, seen: Bool[np.ndarray, " n"]) -> "_Laplace":
        """The grids from the map's own down to a few hundred unknowns."""
        holes, near = _around(seen)
        there, many = near >= 0, len(holes)
        hidden = ~seen[near] & there
        place = np.cumsum(~seen, dtype=np.int32) - 1
        row = np.arange(many, dtype=np.int32)[:, None]
        columns = np.concatenate([np.where(hidden, place[near], -1), row], 1)
        weights = np.where(columns < 0, 0.0, -1.0)
        weights[:, -1] = there.sum(1)
        matrix = _sparse(weights, columns, (many, many))
        edge = _sparse(1.0 * (there & ~hidden), near, (many, len(seen)))
        levels, here, numbers = [], matrix, holes
        while len(numbers) > COARSEST:
            level, numbers = _coarsened(here, numbers)
            levels.append(level)
            here = (level.coarser @ (here @ level.finer)).tocsr()
        return cls(holes, matrix, edge, tuple(levels), np.linalg.inv(here.toarray()))

    def solve(self, row: Float[np.ndarray, " n"]) -> Float[np.ndarray, " h"]:
        """The hidden pixels of one map, by conjugate gradients."""
        offset = float(row[self.edge.indices].mean())
        left = self.edge @ (row - offset)
        found, wanted = np.zeros_like(left), TOLERANCE * float(np.linalg.norm(left))
        step, size = np.zeros_like(left), 1.0
        for _ in range(MOST_CYCLES):
            if float(np.linalg.norm(left)) <= wanted:
                return found + offset
            better = self._cycle(left, 0)
            size, before = float(left @ better), size
            step = better + size / before * step
            applied = self.matrix @ step
            share = size / float(step @ applied)
            found += share * step
            left -= share * applied
        raise ValueError("the fill does not converge: are all seen values of the map finite?")

    def _cycle(self, right: Float[np.ndarray, " u"], depth: int) -> Float[np.ndarray, " u"]:
        """One multigrid cycle with two sweeps before and two after, symmetric."""
        if depth == len(self.levels):
            return self.last @ right
        level = self.levels[depth]
        found = level.damped * right
        found += level.damped * (right - level.matrix @ found)
        found += level.finer @ self._cycle(
            level.coarser @ (right - level.matrix @ found), depth + 1
        )
        for _ in range(2):
            found += level.damped * (right - level.matrix @ found)
        return found


def _sparse(
    weights: Float[np.ndarray, "u k"], columns: np.ndarray, shape: tuple[int, int]
) -> Matrix:
    """A matrix of the weights that are not 0, row by row."""
    from scipy.sparse import csr_array

    used = weights != 0
    ends = np.concatenate([[0], np.cumsum(used.sum(1))]).astype(np.int32)
    return csr_array((weights[used], columns[used].astype(np.int32), ends), shape=shape)


def _around(seen: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The hidden pixels, and the eight around each; of them alone, as most maps hide few."""
    holes = np.flatnonzero(~seen)
    near = neighbours_of(holes, nside_of(len(seen)))
    return holes.astype(np.int32), near.astype(np.int32)


def _coarsened(matrix: Matrix, numbers: np.ndarray) -> tuple[_Level, np.ndarray]:
    """One grid's share in the cycle, and the numbers of the next grid's unknowns."""
    from scipy.sparse import csr_array, diags_array

    parents, place = np.unique(numbers >> 2, return_inverse=True)
    count = np.arange(len(numbers), dtype=np.int32)
    plain = csr_array(
        (np.ones(len(numbers)), (count, place.astype(np.int32))), shape=(len(count), len(parents))
    )
    damped = DAMPING / matrix.diagonal()
    finer = (plain - diags_array(damped) @ (matrix @ plain)).tocsr()
    return _Level(matrix, damped, finer.T.tocsr(), finer), parents
