"""How a made-up head is received: static field, coils, noise and undersampling in k-space.

Source: the field of a ring coil after Biot and Savart; its receive part is Bx - iBy. The field
around an air cavity is a dipole's, shift = (delta chi / 3) (a / r)^3 (3 cos^2 - 1).
"""

import numpy as np
from jaxtyping import Bool, Complex, Float

from medseg.data.phantoms.head import Lattice, Map
from medseg.geometry import fourier

SAMPLINGS = ("lines", "regular", "points")
TESLA = 3.0
RADIANS_PER_PPM_MS = 2 * np.pi * 42.577 * TESLA * 1e-3
_AIR_PPM = 9.4
_SEGMENTS = 16


def static_field(rng: np.random.Generator, at: Lattice) -> Map:
    """Shift in ppm that shimming leaves: polynomials to the third order, nose and ear cavities."""
    x, y, z = (axis / np.float32(80 * at.unit) for axis in (at.x, at.y, at.z))
    terms = [x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    terms += [x**3 - 3 * x * y**2, y**3 - 3 * y * x**2]
    strength = [0.06] * 3 + [0.05] * 5 + [0.03] * 2
    field = sum(
        np.float32(rng.normal(0, sigma)) * term for sigma, term in zip(strength, terms, strict=True)
    )
    field = np.broadcast_to(field, at.shape).astype(np.float32)
    for place, radius in (((0, 76, -40), 13), ((-70, -12, -45), 9), ((70, -12, -45), 9)):
        field = field + _cavity(rng, at, place, radius)
    return field


def _cavity(
    rng: np.random.Generator, at: Lattice, place: tuple[float, float, float], radius: float
) -> Map:
    """The field around one ball of air, capped inside it."""
    where = (np.array(place) + rng.normal(0, 3, 3)) * at.unit
    x, y, z = (a - np.float32(c) for a, c in zip((at.x, at.y, at.z), where, strict=True))
    a = np.float32(radius * rng.uniform(0.8, 1.2) * at.unit)
    square = np.maximum(x**2 + y**2 + z**2, a**2)
    return _AIR_PPM / 3 * (a**2 / square) ** 1.5 * (3 * z**2 / square - 1)


def sensitivities(
    rng: np.random.Generator, at: Lattice, *, n_coils: int
) -> Complex[np.ndarray, "coil x y z"]:
    """Receive profiles of rings around the head, complex64, not yet scaled.

    One coil lies on a side of the head, several in a circle around it, jittered and each with the
    phase of its own cable.
    """
    start = rng.uniform(0, 2 * np.pi)
    coils = []
    for coil in range(n_coils):
        angle = start + 2 * np.pi * (coil + rng.normal(0, 0.06)) / n_coils
        wide = at.unit * rng.uniform(66, 76)
        middle = at.unit * np.array([132 * np.cos(angle), 142 * np.sin(angle), rng.normal(0, 8)])
        cable = np.exp(1j * rng.uniform(-np.pi, np.pi))
        coils.append(cable * _ring(at, middle, angle, wide))
    return np.stack(coils).astype(np.complex64)


def _ring(
    at: Lattice, middle: Float[np.ndarray, "3"], angle: float, radius: float
) -> Complex[np.ndarray, "x y z"]:
    """Bx - iBy of a ring that looks at the body's axis, of unit current, softened near its wire."""
    side = np.array([-np.sin(angle), np.cos(angle), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    turns = 2 * np.pi * np.arange(_SEGMENTS) / _SEGMENTS
    field = np.zeros(at.shape, np.complex64)
    for turn in turns:
        wire = middle + radius * (np.cos(turn) * side + np.sin(turn) * up)
        flow = radius * (-np.sin(turn) * side + np.cos(turn) * up) * 2 * np.pi / _SEGMENTS
        x, y, z = (a - np.float32(w) for a, w in zip((at.x, at.y, at.z), wire, strict=True))
        near = (x**2 + y**2 + z**2 + np.float32(0.1 * radius**2)) ** -1.5
        u, v, w = (np.float32(part) for part in flow)
        field += ((v * z - w * y) - 1j * (w * x - u * z)) * (near * np.float32(radius))
    return field


def scaled(
    coils: Complex[np.ndarray, "coil x y z"], head: Map
) -> Complex[np.ndarray, "coil x y z"]:
    """Divided so that the largest root sum of squares inside the head is 1."""
    total = np.sqrt((np.abs(coils) ** 2).sum(0))
    return coils / total[head > 0].max()


def noise(
    rng: np.random.Generator, shape: tuple[int, ...], *, sigma: float
) -> Complex[np.ndarray, "..."]:
    """Complex Gaussian noise, each part of standard deviation sigma."""
    parts = rng.standard_normal((2, *shape), np.float32)
    return (np.float32(sigma) * (parts[0] + 1j * parts[1])).astype(np.complex64)


def sampling(
    rng: np.random.Generator, shape: tuple[int, ...], *, acceleration: float, kind: str
) -> Bool[np.ndarray, "z y x"]:
    """Which samples of k-space (z, y, x) are measured; x is read out in one go where lines are.

    The full centre is an eighth of the encodings an axis, at most half of what is measured, at
    least the 4 that coil profiles can be found from.
    """
    if acceleration == 1:
        return np.ones(shape, bool)
    depth, height, width = shape
    if kind != "points":
        centre = max(4, min(height // 8, int(height / acceleration / 2)))
        lines = fourier.regular_lines if kind == "regular" else fourier.random_lines
        return lines(shape, acceleration=acceleration, centre=centre, generator=rng, axis=1)
    plane = (height, width) if depth == 1 else (depth, height)
    half = np.sqrt(plane[0] * plane[1] / acceleration / 2)
    centre = max(4, min(plane[0] // 8, plane[1] // 8, int(half)))
    flat = fourier.random_points(plane, acceleration=acceleration, centre=centre, generator=rng)
    whole = flat[None] if depth == 1 else flat[..., None]
    return np.broadcast_to(whole, shape).copy()
