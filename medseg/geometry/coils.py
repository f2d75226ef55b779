"""Receive coils: sensitivities from the sampled centre, combination, and least squares (SENSE).

Source: Walsh, Gmitro and Marcellin 2000 (the dominant eigenvector of the local coil covariance),
found as in Inati, Hansen and Kellman 2014 (ISMRM 4407) by combining and smoothing in turn;
Pruessmann et al. 2001, doi:10.1002/mrm.1241 (conjugate gradients). Differs: maps are relative to
one fixed virtual coil, and are found on a coarse grid, as they are smooth.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex, Float

from medseg.geometry import fourier

METHODS = ("zero_filled", "sense")

_FEWEST = 4  # samples an axis that a centre must have for maps to be found
_SMOOTH = 3  # width of the smoothing, in points of the coarse grid, which are half a sample's width
_ROUNDS = 8


def rss(coils: Complex[np.ndarray, " coil *space"]) -> Float[np.ndarray, "*space"]:
    """Root of the sum of squares over coils: a magnitude without maps, and without any phase."""
    return np.sqrt((coils.real**2 + coils.imag**2).sum(0))


def virtual_coil(kspace: Complex[np.ndarray, " coil *space"]) -> Complex[np.ndarray, " coil"]:
    """Weights of the coil mixture with the most signal: first eigenvector of the covariance.

    Its norm is one and its largest weight is real and positive.
    """
    flat = kspace.reshape(len(kspace), -1)
    scale = np.abs(flat).max(initial=0) or 1
    flat = flat / scale
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    found = vectors[:, -1]
    largest = found[np.abs(found).argmax()]
    return (found * np.conj(largest) / np.abs(largest)).astype(kspace.dtype)


def sensitivities(
    kspace: Complex[np.ndarray, " coil *space"],
    *,
    reference: Complex[np.ndarray, " coil"] | None = None,
    calibration: int = 32,
) -> Complex[np.ndarray, " coil *space"]:
    """How each coil sees each voxel, from the fully sampled centre; root sum of squares is one.

    Their phase is relative to the virtual coil, whose own sensitivity is real and positive: an
    image combined with them has the phase that the virtual coil sees. One coil's map is 1.

    Args:
        kspace: exact zeros in all coils are samples that were not measured.
        reference: the virtual coil's weights, to share them among slices; else those of `kspace`.
        calibration: at most so many central samples an axis are used.
    """
    space = kspace.shape[1:]
    if len(kspace) == 1:
        return np.ones_like(kspace)
    size = [min(b, calibration) for b in fourier.centre(fourier.sampled(kspace))]
    if any(b < min(_FEWEST, n) for b, n in zip(size, space, strict=True)):
        raise ValueError(
            f"the fully sampled centre of k-space is {tuple(size)} samples, and {_FEWEST} an axis "
            "are wanted to find coil sensitivities: sample more of the centre, check that the "
            "origin lies in the middle (np.fft.fftshift), or combine the coils to one first"
        )
    middle = kspace[:, *fourier.middle(space, size)]
    weights = virtual_coil(middle) if reference is None else reference
    coarse = tuple(min(n, 2 * b) for n, b in zip(space, size, strict=True))
    maps = _local(_low_resolution(middle, coarse), weights)
    for axis, n in enumerate(space):
        maps = _stretched(maps, axis + 1, n)
    return maps / np.maximum(rss(maps), 1e-12)


def combine(
    images: Complex[np.ndarray, " coil *space"], maps: Complex[np.ndarray, " coil *space"]
) -> Complex[np.ndarray, "*space"]:
    """The least-squares image: sum of conj(map) times image, over the sum of |map|^2.

    Zero where no coil sees anything.
    """
    power = rss(maps) ** 2
    seen = np.where(power > 0, power, 1)
    return (maps.conj() * images).sum(0) / seen


def sense(
    kspace: Complex[np.ndarray, " coil *space"],
    mask: Bool[np.ndarray, "*space"],
    *,
    maps: Complex[np.ndarray, " coil *space"],
    iterations: int = 12,
    weight: float = 0.01,
) -> Complex[np.ndarray, "*space"]:
    """The image x whose samples agree with those measured, by conjugate gradients from zero.

    It minimises sum of |mask * fft(maps * x) - kspace|^2 + weight * sum of |x|^2; with maps of root
    sum of squares one, the data term weighs 1 in a fully sampled image. Few iterations are a
    regularisation of their own: noise comes last.
    """
    axes = tuple(range(1, kspace.ndim))
    scale = np.abs(kspace).max(initial=0) or 1
    # Both domains are turned so that their origin comes first: then no step has to shift anything.
    maps, given = (np.fft.ifftshift(array, axes) for array in (maps, mask * kspace / scale))
    held = np.fft.ifftshift(mask)

    def normal(image: Complex[np.ndarray, "*space"]) -> Complex[np.ndarray, "*space"]:
        samples = np.fft.fftn(maps * image, axes=axes, norm="ortho")
        samples *= held
        return back(samples) + weight * image

    def back(samples: Complex[np.ndarray, " coil *space"]) -> Complex[np.ndarray, "*space"]:
        images = np.fft.ifftn(samples, axes=axes, norm="ortho")
        return np.einsum("c...,c...->...", maps.conj(), images)

    residual = back(given)
    image, direction = np.zeros_like(residual), residual
    energy = first = np.vdot(residual, residual).real
    for _ in range(iterations):
        if energy <= 1e-12 * first:
            break
        moved = normal(direction)
        step = energy / np.vdot(direction, moved).real
        image = image + step * direction
        residual = residual - step * moved
        before, energy = energy, np.vdot(residual, residual).real
        direction = residual + (energy / before) * direction
    return np.fft.fftshift(image * scale).astype(kspace.dtype)


def inconsistency(
    image: Complex[np.ndarray, "*space"],
    kspace: Complex[np.ndarray, " coil *space"],
    *,
    mask: Bool[np.ndarray, "*space"],
    maps: Complex[np.ndarray, " coil *space"],
) -> float:
    """Norm of what an image's samples miss of the measured ones, relative to these: 0 is best."""
    found = fourier.fft(maps * image, range(1, kspace.ndim))
    missed = float(np.linalg.norm((mask * (found - kspace)).ravel()))
    return missed / max(float(np.linalg.norm((mask * kspace).ravel())), 1e-30)


def reconstruct(
    kspace: Complex[np.ndarray, " coil *space"],
    method: str,
    *,
    reference: Complex[np.ndarray, " coil"] | None = None,
) -> Complex[np.ndarray, "*space"]:
    """One complex image from all coils, with maps from the centre; see METHODS for the ways.

    `zero_filled` takes what was not measured for zero; `sense` solves for it.
    """
    if not kspace.any():
        return np.zeros_like(kspace[0])
    maps = sensitivities(kspace, reference=reference)
    if method == "sense":
        return sense(kspace, fourier.sampled(kspace), maps=maps)
    return combine(fourier.ifft(kspace, range(1, kspace.ndim)), maps)


def _low_resolution(
    middle: Complex[np.ndarray, " coil *block"], shape: Sequence[int]
) -> Complex[np.ndarray, " coil *space"]:
    """Images of the centre alone, under a Hann window against ringing, largest value near one."""
    size = middle.shape[1:]
    windowed = middle
    for axis, b in enumerate(size):
        window = np.cos(np.pi * (np.arange(b) - b // 2) / (b + 1)) ** 2
        wide = [-1 if a == axis + 1 else 1 for a in range(middle.ndim)]
        windowed = windowed * window.reshape(wide).astype(np.float32)
    padded = np.zeros((len(middle), *shape), middle.dtype)
    padded[:, *fourier.middle(shape, size)] = windowed / (np.abs(middle).max() or 1)
    images = fourier.ifft(padded, range(1, middle.ndim))
    return images / max(float(np.abs(images).max()), 1e-30)


def _local(
    images: Complex[np.ndarray, " coil *space"], reference: Complex[np.ndarray, " coil"]
) -> Complex[np.ndarray, " coil *space"]:
    """Dominant eigenvectors of the local covariance, in phase with the reference's mixture."""
    from scipy.ndimage import uniform_filter

    wide = (..., *(None,) * (images.ndim - 1))
    maps = np.broadcast_to(reference[wide], images.shape)
    for _ in range(_ROUNDS):
        combined = (maps.conj() * images).sum(0)
        size = (0, *(min(_SMOOTH, n) for n in images.shape[1:]))
        maps = uniform_filter(images * combined.conj(), size, mode="wrap")
        maps = maps / np.maximum(rss(maps), 1e-20)
        mixture = (reference.conj()[wide] * maps).sum(0)
        maps = maps * np.conj(mixture) / np.maximum(np.abs(mixture), 1e-12)
    return maps.astype(images.dtype)


def _stretched(
    maps: Complex[np.ndarray, "..."], axis: int, length: int
) -> Complex[np.ndarray, "..."]:
    """One axis brought to `length` points of the same field of view, linearly and periodically."""
    own = maps.shape[axis]
    if own == length:
        return maps
    places = (np.arange(length) - length // 2) * (own / length) + own // 2
    below = np.floor(places).astype(int)
    wide = [-1 if a == axis else 1 for a in range(maps.ndim)]
    share = (places - below).reshape(wide).astype(np.float32)
    near, far = (np.take(maps, (below + k) % own, axis) for k in (0, 1))
    return near + share * (far - near)
