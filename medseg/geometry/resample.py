"""Resampling between voxel grids, with the exact way back.

Along each axis interpolation is one small matrix: a cubic B-spline fitted to the samples (the outer
values repeated beyond the ends) and read at the new positions. Its entries fade by a factor of
3.7 a voxel, so blocks of the matrix suffice and three matrix products resample a volume.

Source: Unser, Aldroubi & Eden 1993, B-spline signal processing I, eq. 2.5 and 3.1 (the spline that
goes through the samples). Differs: the recursive filter is folded into the matrix.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

from medseg.geometry.grid import Grid, Orientation

Shape = tuple[int, int, int]
Block = tuple[slice, slice, np.ndarray]

_MARGIN = 12
_NEGLIGIBLE = 1e-8
_SMALL = 262144 // 44  # multiplications in a product of one thread, by a block's usual window


def resample_image(
    image: Num[np.ndarray, "*c x y z"], shape: Shape, *, order: int = 3
) -> Float[np.ndarray, "*c u v w"]:
    """The same field of view cut into `shape` voxels; values between them by a spline.

    `order` 3 is the cubic B-spline, which may overshoot at edges; 1 is linear, which never does.
    Outer faces stay in place, values beyond them are those at the faces. An axis whose count stays
    is not touched. A value that is not finite spoils its neighbourhood.
    """
    lead, source = image.shape[:-3], image.shape[-3:]
    volumes = image.reshape(-1, *source)
    result = np.empty((len(volumes), *shape), dtype=np.float32)
    for volume, out in zip(volumes, result, strict=True):
        for rows, slab in _slabs(volume, shape, order):
            out[rows] = slab
    return result.reshape(*lead, *shape)


def resample_labels(
    labels: Shaped[np.ndarray, "*c x y z"], shape: Shape
) -> Shaped[np.ndarray, "*c u v w"]:
    """The same field of view cut into `shape` voxels; each takes the value at its centre.

    Integer arithmetic only: a centre on the border of two voxels takes the later one.
    """
    picks = [
        ((2 * np.arange(new) + 1) * old) // (2 * new)
        for old, new in zip(labels.shape[-3:], shape, strict=True)
    ]
    i, j, k = np.ix_(*picks)
    return np.ascontiguousarray(labels[..., i, j, k])


def resample_scores_argmax(
    scores: Num[np.ndarray, "classes x y z"] | Iterable[Num[np.ndarray, "x y z"]],
    shape: Shape,
    *,
    order: int = 1,
) -> Integer[np.ndarray, "u v w"]:
    """Labels of the largest score after resampling, without ever holding all resampled scores.

    Equal to the arg-max over all of them (the first class wins a tie), at the memory of one class.
    `scores` may be a generator that yields one class after the other.
    """
    best = np.full(shape, -np.inf, dtype=np.float32)
    labels = np.zeros(shape, dtype=np.uint8)
    for index, volume in enumerate(scores):
        if index == 256:
            labels = labels.astype(np.uint16)
        number = labels.dtype.type(index)
        for rows, slab in _slabs(volume, shape, order):
            # Without branches: a later class has a larger number, so maxima do both comparisons.
            better = (slab > best[rows]).view(np.uint8)
            np.fmax(best[rows], slab, out=best[rows])
            np.maximum(labels[rows], better * number, out=labels[rows])
    return labels


def resample_between(
    image: Num[np.ndarray, "*c x y z"],
    source: Grid,
    *,
    target: Grid,
    order: int = 3,
    fill: float = 0.0,
) -> Float[np.ndarray, "*c u v w"]:
    """Values of an image on any other grid, however the two lie to each other.

    Points outside the source's field of view get `fill`. `order` 0 keeps label values as they are
    (as float32); 3 is the cubic B-spline.
    """
    from scipy.ndimage import affine_transform

    # Rounded, so that noise in a header cannot push a point on the border out of the image.
    step = np.round(np.linalg.solve(source.affine, target.affine), 9)
    matrix, offset = step[:3, :3], np.round(step[:3, 3], 6)
    ones = np.ones(source.shape, dtype=np.uint8)
    inside = affine_transform(
        ones, matrix, offset, target.shape, order=0, mode="grid-constant", cval=0
    )
    volumes = _contiguous(image.reshape(-1, *image.shape[-3:]))
    result = np.empty((len(volumes), *target.shape), dtype=np.float32)
    for volume, out in zip(volumes, result, strict=True):
        affine_transform(
            volume, matrix, offset, target.shape, output=out, order=order, mode="nearest"
        )
    result[:, inside == 0] = fill
    return result.reshape(*image.shape[:-3], *target.shape)


@dataclass(frozen=True, eq=False)
class Passage:
    """The way from a scan's own grid to the one a network works on, and exactly back.

    Native axes are turned to the closest R, A, S order first (no value changes) and only then
    resampled, from one memory layout: a scan and its turned or mirrored copy give the same bits.
    """

    native: Grid
    working: Grid
    orientation: Orientation

    @classmethod
    def to(
        cls, native: Grid, spacing_mm: tuple[float | None, float | None, float | None] | None = None
    ) -> "Passage":
        """The passage to a spacing along R, A, S; None keeps that of the axis (or of all three)."""
        orientation = native.orientation
        canonical = orientation.grid(native)
        wanted = (None, None, None) if spacing_mm is None else spacing_mm
        x, y, z = (
            own if new is None else float(new)
            for own, new in zip(canonical.spacing_mm, wanted, strict=True)
        )
        return cls(native, canonical.respaced((x, y, z)), orientation)

    @property
    def canonical_shape(self) -> Shape:
        """Counts along R, A, S at the scan's own spacing."""
        x, y, z = (self.native.shape[axis] for axis in self.orientation.axes)
        return (x, y, z)

    def image(
        self, image: Num[np.ndarray, "*c i j k"], *, order: int = 3
    ) -> Float[np.ndarray, "*c x y z"]:
        """Native values on the working grid."""
        self._expect(image, self.native)
        return resample_image(self.orientation.apply(image), self.working.shape, order=order)

    def labels(self, labels: Shaped[np.ndarray, "*c i j k"]) -> Shaped[np.ndarray, "*c x y z"]:
        """Native labels on the working grid."""
        self._expect(labels, self.native)
        return resample_labels(self.orientation.apply(labels), self.working.shape)

    def restore_labels(
        self, labels: Shaped[np.ndarray, "*c x y z"]
    ) -> Shaped[np.ndarray, "*c i j k"]:
        """Working labels on the native grid."""
        self._expect(labels, self.working)
        return self._native(resample_labels(labels, self.canonical_shape))

    def restore_image(
        self, image: Num[np.ndarray, "*c x y z"], *, order: int = 1
    ) -> Float[np.ndarray, "*c i j k"]:
        """Working values (probabilities, entropy) on the native grid."""
        self._expect(image, self.working)
        return self._native(resample_image(image, self.canonical_shape, order=order))

    def restore_scores(
        self, scores: Num[np.ndarray, "classes x y z"] | Iterable[Num[np.ndarray, "x y z"]]
    ) -> Integer[np.ndarray, "i j k"]:
        """Native labels of the largest working score, class by class."""
        return self._native(resample_scores_argmax(scores, self.canonical_shape))

    def _native(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        return np.ascontiguousarray(self.orientation.undo(array))

    def _expect(self, array: Shaped[np.ndarray, "*any"], grid: Grid) -> None:
        if array.shape[-3:] != grid.shape:
            raise ValueError(
                f"an array of shape {array.shape} does not lie on a grid of shape {grid.shape}; "
                "give the array that belongs to this grid"
            )


def _contiguous(volume: Num[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """One memory layout and one type, so that no result depends on how the array was stored."""
    return np.ascontiguousarray(volume, dtype=np.float32)


def _slabs(
    volume: Num[np.ndarray, "x y z"], shape: Shape, order: int
) -> Iterator[tuple[slice, Float[np.ndarray, "r v w"]]]:
    """The resampled volume, some rows of its first axis after the other.

    All matrix products are small enough that BLAS gives each to one thread: several threads would
    wait for each other longer than they compute, many times longer on a machine that is in use.
    """
    if order not in (1, 3):
        raise ValueError(f"spline order {order} is not known; take 3 (cubic) or 1 (linear)")
    volume = _contiguous(volume)
    widths = (volume.shape[2], volume.shape[2], shape[1])
    first, second, third = (
        _blocks(old, new, order, max(4, min(24, _SMALL // width)))
        for old, new, width in zip(volume.shape, shape, widths, strict=True)
    )
    for rows, window, weight in first:
        part = volume[window]
        if weight.size:
            part = np.matmul(weight, part.swapaxes(0, 1)).swapaxes(0, 1)
        if second[0][2].size:
            middle = np.empty((len(part), shape[1], part.shape[2]), dtype=np.float32)
            for out, used, factors in second:
                np.matmul(factors, part[:, used], out=middle[:, out])
            part = middle
        if third[0][2].size:
            last = np.empty((*part.shape[:2], shape[2]), dtype=np.float32)
            for out, used, factors in third:
                np.matmul(part[:, :, used], factors.T, out=last[:, :, out])
            part = last
        yield rows, part


@lru_cache(maxsize=32)
def _blocks(old: int, new: int, order: int, size: int) -> list[Block]:
    """Blocks of the interpolation matrix; empty weights where the axis stays as it is."""
    starts = range(0, new, size)
    if old == new:
        none = np.empty((0, 0), dtype=np.float32)
        return [(slice(a, min(a + size, new)), slice(a, min(a + size, new)), none) for a in starts]
    matrix = _matrix(old, new, order)
    blocks = []
    for start in starts:
        rows = slice(start, min(start + size, new))
        used = np.flatnonzero((np.abs(matrix[rows]) > _NEGLIGIBLE).any(0))
        window = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((rows, window, np.ascontiguousarray(matrix[rows, window], dtype=np.float32)))
    return blocks


def _matrix(old: int, new: int, order: int) -> Float[np.ndarray, "new old"]:
    """Row o: the weights of the samples in the value at (o + 1/2) old/new - 1/2."""
    from scipy.linalg import solve_banded

    padded = old + 2 * _MARGIN
    position = (np.arange(new) + 0.5) * old / new - 0.5 + _MARGIN
    first = np.floor(position).astype(int)
    t = position - first
    extend = np.zeros((padded, old))
    extend[np.arange(padded), np.clip(np.arange(padded) - _MARGIN, 0, old - 1)] = 1
    basis = np.zeros((new, padded))
    row = np.arange(new)
    if order == 1:
        basis[row, first] = 1 - t
        basis[row, first + 1] = t
        return basis @ extend
    for offset, weight in zip((-1, 0, 1, 2), _cubic(t), strict=True):
        basis[row, first + offset] = weight
    bands = np.full((3, padded), 1 / 6)
    bands[1] = 4 / 6
    bands[0, 1] = bands[2, -2] = 2 / 6
    return basis @ solve_banded((1, 1), bands, extend)


def _cubic(t: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], ...]:
    """The cubic B-spline at -1 - t, -t, 1 - t and 2 - t."""
    return (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
