"""Where windows lie in a volume, and how what they hold is brought together again.

Source: Gaussian window weights with a sigma of an eighth of the window as in Isensee et al. 2021
(nnU-Net), doi:10.1038/s41592-020-01008-z. Differs: probabilities are averaged, not logits.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Start = tuple[int, int, int]
Slab = tuple[int, Tensor]

OVERLAP = 0.5

_SIGMA = 1 / 8
_WEIGHT_MIN = 1e-3


@dataclass(frozen=True)
class Tiling:
    """How a network sees a volume.

    A 2-D network sees whole slices across `slice_axis`, their two axes in the volume's order. A 3-D
    network sees windows of `patch_size`, or of the volume's own size where that is smaller. Either
    way sizes are made multiples of `stride` by adding voxels evenly on both sides; they hold the
    channel's smallest value, which after normalisation is air (0 for a channel that is absent),
    or `outside` where that is a number, as complex values need.
    """

    ndim: int
    slice_axis: int
    patch_size: tuple[int, ...]
    stride: tuple[int, ...]
    overlap: float = OVERLAP
    outside: float | None = None

    def fill(self, image: Float[Tensor, "c x y z"]) -> Float[Tensor, " c"]:
        """What voxels outside the volume hold."""
        low = image.amin((1, 2, 3))
        return low if self.outside is None else torch.full_like(low, self.outside)

    def window(self, shape: Sequence[int]) -> Start:
        """Size of a window in a volume of `shape`; one voxel across the slices of a 2-D network."""
        size = [1, 1, 1]
        for n, axis in enumerate(self.plane):
            stride = self.stride[n]
            whole = math.ceil(shape[axis] / stride) * stride
            patch = whole if self.ndim == 2 else math.ceil(self.patch_size[n] / stride) * stride
            size[axis] = min(patch, whole)
        return size[0], size[1], size[2]

    @property
    def plane(self) -> list[int]:
        """The volume's axes that the network sees."""
        return [a for a in range(3) if self.ndim == 3 or a != self.slice_axis]

    def starts(self, shape: Sequence[int]) -> list[list[int]]:
        """First voxels of the windows along each axis, evenly spread; negative where padded."""
        found = []
        for length, size in zip(shape, self.window(shape), strict=True):
            if length <= size:
                found.append([-((size - length) // 2)])
                continue
            step = max(1.0, size * (1 - self.overlap))
            count = math.ceil((length - size) / step) + 1
            found.append([round(s) for s in np.linspace(0, length - size, count)])
        return found


def slab_axis(tiling: Tiling, shape: Sequence[int]) -> int:
    """The axis to walk along: across the slices, or the one with most windows."""
    if tiling.ndim == 2:
        return tiling.slice_axis
    window = tiling.window(shape)
    return max(range(3), key=lambda a: shape[a] / window[a])


def _overlap(start: int, size: int, length: int) -> tuple[slice, slice]:
    """Where a window lies in the volume and, of the window, the part that lies in it."""
    first, last = max(0, start), min(length, start + size)
    return slice(first, last), slice(first - start, last - start)


def cut(
    image: Float[Tensor, "c x y z"], start: Start, *, size: Start, fill: Float[Tensor, " c"]
) -> Float[Tensor, "c u v w"]:
    """One window; voxels outside the volume hold `fill`."""
    pairs = [_overlap(*t) for t in zip(start, size, image.shape[1:], strict=True)]
    inside = image[(slice(None), *(there for there, _ in pairs))]
    if tuple(inside.shape[1:]) == size:
        return inside
    window = fill[:, None, None, None].expand(-1, *size).clone()
    window[(slice(None), *(here for _, here in pairs))] = inside
    return window


class Total:
    """Weighted sums of overlapping windows, from the first voxel that is not finished yet."""

    def __init__(
        self, n_classes: int, shape: Start, *, tiling: Tiling, axis: int, device: torch.device
    ) -> None:
        self.shape, self.axis, self.size = shape, axis, tiling.window(shape)
        self.weights: list[Tensor] = []
        self.sums: list[Tensor] = []
        for starts, size, length in zip(tiling.starts(shape), self.size, shape, strict=True):
            weight = _bell(size) if len(starts) > 1 else torch.ones(size)
            total = torch.zeros(length)
            for start in starts:
                there, here = _overlap(start, size, length)
                total[there] += weight[here]
            self.weights.append(weight.to(device))
            self.sums.append(total.to(device))
        self.even = all(bool((s == 1).all()) for s in self.sums)
        self.base = 0
        empty = [n_classes, *shape]
        empty[axis + 1] = 0
        self.values = torch.zeros(empty, device=device)

    def add(self, start: Start, part: Float[Tensor, "k x y z"]) -> None:
        """Add one window's probabilities, times the bell, where the window lies in the volume."""
        pairs = [_overlap(*t) for t in zip(start, self.size, self.shape, strict=True)]
        there, here = [a for a, _ in pairs], [b for _, b in pairs]
        missing = there[self.axis].stop - self.base - self.values.shape[self.axis + 1]
        if missing > 0:
            more = [*self.values.shape]
            more[self.axis + 1] = missing
            self.values = torch.cat([self.values, self.values.new_zeros(more)], self.axis + 1)
        walked = there[self.axis]
        there[self.axis] = slice(walked.start - self.base, walked.stop - self.base)
        inside = part[(slice(None), *here)]
        if not self.even:
            x, y, z = (w[h] for w, h in zip(self.weights, here, strict=True))
            inside = inside * (x[:, None, None] * y[:, None] * z)
        self.values[(slice(None), *there)] += inside

    def finish(self, end: int) -> Iterator[Slab]:
        """Give away what lies before `end`, as means."""
        count = end - self.base
        if count <= 0:
            return
        done = self.values.narrow(self.axis + 1, 0, count)
        if not self.even:
            sums = list(self.sums)
            sums[self.axis] = sums[self.axis][self.base : end]
            x, y, z = sums
            done /= x[:, None, None] * y[:, None] * z
        yield self.base, done
        self.base = end
        rest = self.values.shape[self.axis + 1] - count
        self.values = self.values.narrow(self.axis + 1, count, rest).clone()


def _bell(size: int) -> Float[Tensor, " n"]:
    """A Gaussian over a window's width, never below a thousandth so that edges keep their value."""
    position = torch.arange(size) - (size - 1) / 2
    return torch.exp(-0.5 * (position / (size * _SIGMA)) ** 2).clamp_min(_WEIGHT_MIN)
