"""Centred orthonormal Fourier transforms, sampling masks, and what a mask says of its k-space.

The origin of both domains is the sample n // 2 of each axis (ifftshift, transform, fftshift, each
1/sqrt(n)), so that odd and even sizes are exact inverses. Source of the variable density: Lustig,
Donoho and Pauly 2007, doi:10.1002/mrm.21391, section "Sampling patterns"; differs: the number of
samples is met exactly, and drawn without repetition.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex, Num

Axes = Sequence[int]


def fft(image: Num[np.ndarray, "..."], axes: Axes) -> Complex[np.ndarray, "..."]:
    """From image to k-space along `axes`; complex64 and float32 give complex64."""
    moved = np.fft.ifftshift(image, axes)
    return np.fft.fftshift(np.fft.fftn(moved, axes=axes, norm="ortho"), axes)


def ifft(kspace: Num[np.ndarray, "..."], axes: Axes) -> Complex[np.ndarray, "..."]:
    """From k-space to image along `axes`; the inverse of `fft`."""
    moved = np.fft.ifftshift(kspace, axes)
    return np.fft.fftshift(np.fft.ifftn(moved, axes=axes, norm="ortho"), axes)


def middle(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Where a block of `size` lies so that its own origin is that of the whole."""
    starts = [n // 2 - b // 2 for n, b in zip(shape, size, strict=True)]
    return tuple(slice(start, start + b) for start, b in zip(starts, size, strict=True))


def sampled(kspace: Complex[np.ndarray, " coil *space"]) -> Bool[np.ndarray, "*space"]:
    """What was measured: samples that are exactly zero in all coils were not."""
    return (kspace != 0).any(0)


def centre(mask: Bool[np.ndarray, "*space"]) -> tuple[int, ...]:
    """Size of the fully sampled block around the origin, zeros if the origin itself is missing.

    It grows by one sample an axis in turn, as long as all in it is sampled.
    """
    if mask.all():
        return mask.shape
    size = [1] * mask.ndim
    if not mask[middle(mask.shape, size)].all():
        return (0,) * mask.ndim
    growing = set(range(mask.ndim))
    while growing:
        for axis in sorted(growing):
            larger = [b + (a == axis) for a, b in enumerate(size)]
            if larger[axis] > mask.shape[axis] or not mask[middle(mask.shape, larger)].all():
                growing.discard(axis)
            else:
                size = larger
    return tuple(size)


def regular_lines(
    shape: tuple[int, ...],
    *,
    acceleration: float,
    centre: int,
    generator: np.random.Generator,
    axis: int = 0,
) -> Bool[np.ndarray, "*space"]:
    """Evenly spaced lines and `centre` neighbouring ones at the origin.

    `axis` is the phase-encoding one: lines run along all others. So many lines are taken that
    1 / `acceleration` of all are; the generator chooses where the first lies.
    """
    length = shape[axis]
    count, lines = _begun((length,), (centre,), acceleration)
    free = np.flatnonzero(~lines)
    more = count - int(lines.sum())
    if more:
        step = len(free) / more
        lines[free[((np.arange(more) + generator.random()) * step).astype(int)]] = True
    return _along(lines, shape, axis)


def random_lines(
    shape: tuple[int, ...],
    *,
    acceleration: float,
    centre: int,
    generator: np.random.Generator,
    axis: int = 0,
    power: float = 2.0,
) -> Bool[np.ndarray, "*space"]:
    """Lines drawn with a density that falls as (1 - distance)^power, and `centre` at the origin.

    The arguments are those of `regular_lines`; a power of 0 draws evenly.
    """
    count, lines = _begun((shape[axis],), (centre,), acceleration)
    return _along(_drawn(lines, count, power, generator), shape, axis)


def random_points(
    shape: tuple[int, ...],
    *,
    acceleration: float,
    centre: int,
    generator: np.random.Generator,
    power: float = 3.0,
) -> Bool[np.ndarray, "*space"]:
    """Single samples of every axis, as two phase encodings allow; the block `centre` is full.

    Their density falls as (1 - distance)^power, with a distance of 1 in the corners.
    """
    count, mask = _begun(shape, (centre,) * len(shape), acceleration)
    return _drawn(mask, count, power, generator)


def _begun(
    shape: tuple[int, ...], centre: tuple[int, ...], acceleration: float
) -> tuple[int, Bool[np.ndarray, "*space"]]:
    """How many samples there are to be, and a mask that holds those of the centre."""
    if not 1 <= acceleration <= np.prod(shape) or min(centre) < 0:
        raise ValueError(
            f"acceleration {acceleration:g} with {centre[0]} central samples of {shape}: "
            f"acceleration is from 1 to {np.prod(shape)}, the centre 0 or more"
        )
    mask = np.zeros(shape, bool)
    mask[middle(shape, [min(c, n) for c, n in zip(centre, shape, strict=True)])] = True
    count = max(1, round(mask.size / acceleration))
    if mask.sum() > count:
        raise ValueError(
            f"acceleration {acceleration:g} leaves {count} of {mask.size} samples, fewer than the "
            f"{mask.sum()} of the centre; make the centre smaller or accelerate less"
        )
    return count, mask


def _drawn(
    mask: Bool[np.ndarray, "*space"], count: int, power: float, generator: np.random.Generator
) -> Bool[np.ndarray, "*space"]:
    """The mask with so many more samples that there are `count`."""
    distances = np.meshgrid(
        *(np.abs(np.arange(n) - n // 2) / max(1, n / 2) for n in mask.shape), indexing="ij"
    )
    radius = np.sqrt(sum(d**2 for d in distances) / mask.ndim)
    density = np.maximum(1 - radius, 0.02) ** power
    weights = np.where(mask, 0.0, density).ravel()
    more = count - int(mask.sum())
    if more:
        picked = generator.choice(mask.size, more, replace=False, p=weights / weights.sum())
        mask.ravel()[picked] = True
    return mask


def _along(
    lines: Bool[np.ndarray, " n"], shape: tuple[int, ...], axis: int
) -> Bool[np.ndarray, "*space"]:
    """One flag a line, on every sample of the line."""
    wide = [1] * len(shape)
    wide[axis] = -1
    return np.broadcast_to(lines.reshape(wide), shape).copy()
