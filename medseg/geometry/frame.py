"""The square frame that a radiograph is brought to, and the way back for points and pixels.

The image is centred in a square of its longer side and cut into `size` x `size` pixels. Where it
shrinks, a working pixel is the mean of the area it covers; where it grows, values are interpolated.
Beyond the image there is nothing: zero, or the lowest value where that is less.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

from medseg.geometry.grid import Grid, Orientation

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Frame:
    """A plane image's own grid (columns, rows, 1) and the square one that a network works on.

    Points on the image are x and y in its pixels from the outer corner of the first one; in the
    square they are shares of its side, so both ends of the side are 0 and 1.
    """

    native: Grid
    working: Grid

    @classmethod
    def to(cls, native: Grid, size: int) -> "Frame":
        """The frame of an image; `size` pixels a side."""
        if native.shape[2] != 1:
            voxels = " x ".join(map(str, native.shape))
            raise ValueError(
                f"one radiograph is wanted, and this is a volume of {voxels} voxels; give a plane "
                "image (PNG, JPEG, TIFF, or a CR or DX file)"
            )
        if size < 1:
            raise ValueError(f"data.size={size}; give the square's side in pixels, e.g. 256")
        columns, rows, _ = native.shape
        dx, dy, _ = native.spacing_mm
        step = max(columns * dx, rows * dy) / size
        ratio = np.array([step / dx, step / dy, 1.0])
        start = np.array([(columns - size * ratio[0]) / 2, (rows - size * ratio[1]) / 2, 0.0])
        affine = np.array(native.affine)
        affine[:3, :3] = native.affine[:3, :3] * ratio
        affine[:3, 3] = native.to_world(start + np.append((ratio[:2] - 1) / 2, 0.0))
        return cls(native, Grid((size, size, 1), affine))

    @property
    def size(self) -> int:
        """Pixels along a side of the square."""
        return self.working.shape[0]

    @property
    def side(self) -> Float[np.ndarray, " 2"]:
        """The square's side in pixels of the image, along x and y."""
        columns, rows, _ = self.native.shape
        dx, dy, _ = self.native.spacing_mm
        length = max(columns * dx, rows * dy)
        return np.array([length / dx, length / dy])

    @property
    def orientation(self) -> Orientation:
        """Of the image's own axes, which stay as they are."""
        return self.native.orientation

    @property
    def canonical_shape(self) -> Shape:
        """Columns, rows, 1 of the image itself."""
        return self.native.shape

    def to_unit(self, points: Num[np.ndarray, "*k 2"]) -> Float[np.ndarray, "*k 2"]:
        """Points on the image as shares of the square."""
        return (points - np.array(self.native.shape[:2]) / 2) / self.side + 0.5

    def to_pixels(self, unit: Num[np.ndarray, "*k 2"]) -> Float[np.ndarray, "*k 2"]:
        """Shares of the square as points on the image."""
        return (unit - 0.5) * self.side + np.array(self.native.shape[:2]) / 2

    def image(self, image: Num[np.ndarray, "*c i j 1"]) -> Float[np.ndarray, "*c x y 1"]:
        """The image's values in the square; beyond it 0, or the lowest of them if less."""
        floor = min(0.0, float(np.min(image)))
        return self._moved(image - floor, forth=True) + np.float32(floor)

    def labels(self, labels: Shaped[np.ndarray, "*c i j 1"]) -> Shaped[np.ndarray, "*c x y 1"]:
        """Labels in the square: each pixel takes the value at its centre, 0 beyond the image."""
        return self._picked(labels, forth=True)

    def restore_labels(
        self, labels: Shaped[np.ndarray, "*c x y 1"]
    ) -> Shaped[np.ndarray, "*c i j 1"]:
        """Labels of the square on the image's own pixels."""
        return self._picked(labels, forth=False)

    def restore_image(
        self, image: Num[np.ndarray, "*c x y 1"], *, order: int = 1
    ) -> Float[np.ndarray, "*c i j 1"]:
        """Values of the square on the image's own pixels."""
        del order
        return self._moved(image, forth=False)

    def restore_scores(
        self, scores: Num[np.ndarray, "classes x y 1"] | Iterable[Num[np.ndarray, "x y 1"]]
    ) -> Integer[np.ndarray, "i j 1"]:
        """Labels of the largest score on the image's own pixels, class by class."""
        best = np.full(self.native.shape, -np.inf, dtype=np.float32)
        labels = np.zeros(self.native.shape, dtype=np.uint8)
        for index, score in enumerate(scores):
            values = self.restore_image(score)
            better = values > best
            best[better], labels[better] = values[better], index
        return labels

    def _moved(self, image: Num[np.ndarray, "..."], *, forth: bool) -> Float[np.ndarray, "..."]:
        across, down = (_weights(*self._axis(axis, forth=forth)) for axis in (0, 1))
        plane = np.ascontiguousarray(image[..., 0], dtype=np.float32)
        return np.ascontiguousarray((across @ plane @ down.T)[..., None])

    def _picked(self, labels: Shaped[np.ndarray, "..."], *, forth: bool) -> np.ndarray:
        found = labels
        for axis in (0, 1):
            old, new, start, step = self._axis(axis, forth=forth)
            place = np.floor(start + (np.arange(new) + 0.5) * step + 1e-9).astype(int)
            inside = (place >= 0) & (place < old)
            along = labels.ndim - 3 + axis
            found = np.take(found, np.clip(place, 0, old - 1), axis=along)
            found = found * _along(inside, found.ndim, along).astype(found.dtype)
        return np.ascontiguousarray(found)

    def _axis(self, axis: int, *, forth: bool) -> tuple[int, int, float, float]:
        """Old and new counts; where the first new pixel begins and how wide it is, in old ones."""
        count, step = self.native.shape[axis], float(self.side[axis]) / self.size
        start = (count - self.side[axis]) / 2
        if forth:
            return count, self.size, round(float(start), 9), round(step, 12)
        return self.size, count, round(float(-start / step), 9), round(1 / step, 12)


def _along(flags: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    return flags.reshape([-1 if n == axis else 1 for n in range(ndim)])


@lru_cache(maxsize=32)
def _weights(old: int, new: int, start: float, step: float) -> Float[np.ndarray, "new old"]:
    """Row o: how much of each old pixel is in the new one, which covers `step` of them."""
    edges = np.arange(old)
    first = start + np.arange(new)[:, None] * step
    if step >= 1:
        cover = np.minimum(first + step, edges + 1) - np.maximum(first, edges)
        return (cover.clip(0) / step).astype(np.float32)
    centre = first + step / 2 - 0.5
    inside = (centre > -0.5 - 1e-9) & (centre < old - 0.5 + 1e-9)
    spread = 1 - np.abs(np.clip(centre, 0, old - 1) - edges)
    return (spread.clip(0) * inside).astype(np.float32)
