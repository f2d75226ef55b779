"""Tumours of several classes in a made-up head, and healthy things that look like them.

A tumour may change the signal, the field, or both: `cue` says which. Its shape never depends on
the cue, so the same person with another cue has the same labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from medseg.data.phantoms.head import Head, Lattice, Map

CUES = ("both", "magnitude", "phase")


@dataclass(frozen=True)
class Tumour:
    """One tumour on a lattice: signed distance to its surface and what it shows inside.

    Attributes:
        distance_mm: negative inside.
        signal: its own signal, 1 is fluid.
        shift_ppm: its own shift of the field.
        centre: in millimetres of the lattice.
        radius_mm: of a ball of about the same volume.
        oedema: how far wet white matter reaches around it, in millimetres.
    """

    distance_mm: Map
    signal: Map
    shift_ppm: Map
    centre: tuple[float, float, float]
    radius_mm: float
    oedema: float


Growth = Callable[..., list[Tumour]]


def glioma(rng: np.random.Generator, at: Lattice, *, head: Head) -> list[Tumour]:
    """One large irregular mass: patchy, often with a dead core, bled into, in wet white matter."""
    radius = rng.uniform(16, 25)
    ball = _ball(rng, at, _pick(rng, at, head.depth_mm > 14 * at.unit), radius, uneven=0.2)
    distance = np.maximum(ball.distance_mm, 3 * at.unit - head.depth_mm)
    patchy = at.noise(rng, 9)
    signal = rng.uniform(0.76, 0.88) * (1 + 0.06 * patchy)
    shift = rng.uniform(0.07, 0.105) * (1 + 0.2 * patchy)
    dead = rng.uniform(0.3, 0.6) * radius * at.unit
    core = at.inside(ball.distance_mm + dead + 2 * at.unit * patchy)
    signal = signal + core * (rng.choice([0.5, 0.96]) - signal)
    shift = shift * (1 - 0.4 * core)
    return [Tumour(distance, signal, shift, ball.centre, radius, rng.uniform(4, 9))]


def meningioma(rng: np.random.Generator, at: Lattice, *, head: Head) -> list[Tumour]:
    """One round, even, often chalky mass that sits broadly on the inner face of the skull."""
    radius = rng.uniform(13, 19)
    near = np.abs(head.depth_mm / at.unit - 0.45 * radius) < 2
    ball = _ball(rng, at, _pick(rng, at, near), radius, uneven=0.06)
    distance = np.maximum(ball.distance_mm, -head.depth_mm)
    even = np.ones(at.shape, np.float32)
    shift = -rng.uniform(0.07, 0.105) * even
    return [Tumour(distance, rng.uniform(0.7, 0.84) * even, shift, ball.centre, radius, 0.0)]


def metastasis(rng: np.random.Generator, at: Lattice, *, head: Head) -> list[Tumour]:
    """One to three small round masses, bled into, near the border of grey and white matter."""
    found = []
    signal = rng.choice([0.42, 0.86]) * rng.uniform(0.95, 1.05)
    shift = rng.uniform(0.09, 0.13)
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(8, 11)
        near = (head.depth_mm > 9 * at.unit) & (head.depth_mm < 40 * at.unit)
        ball = _ball(rng, at, _pick(rng, at, near), radius, uneven=0.08)
        even = np.ones(at.shape, np.float32)
        distance = np.maximum(ball.distance_mm, 3 * at.unit - head.depth_mm)
        found.append(Tumour(distance, signal * even, shift * even, ball.centre, radius, 3.0))
    return found


GROWTHS: dict[str, Growth] = {
    "glioma": glioma,
    "meningioma": meningioma,
    "metastasis": metastasis,
}


@dataclass(frozen=True)
class _Ball:
    distance_mm: Map
    centre: tuple[float, float, float]


def _ball(
    rng: np.random.Generator,
    at: Lattice,
    centre: Sequence[float],
    radius: float,
    *,
    uneven: float,
) -> _Ball:
    """An ellipsoid of that mean radius whose surface is uneven by that share of it."""
    half = (radius * np.exp(rng.normal(0, 0.08, 3))).tolist()
    where = [mm / at.unit for mm in centre]
    distance = at.distance_mm(where, half, turn=rng.uniform(0, np.pi))
    distance = distance - uneven * radius * at.unit * at.noise(rng, max(0.6 * radius, 7))
    return _Ball(distance, (centre[0], centre[1], centre[2]))


def _pick(rng: np.random.Generator, at: Lattice, where: np.ndarray) -> list[float]:
    """A point of the lattice where that is so, anywhere in the middle if it is so nowhere."""
    places = np.flatnonzero(where)
    middle = int(np.ravel_multi_index([n // 2 for n in at.shape], at.shape))
    place = int(places[rng.integers(len(places))]) if len(places) else middle
    axes = (np.broadcast_to(axis, at.shape) for axis in (at.x, at.y, at.z))
    return [float(axis.flat[place]) for axis in axes]


def grow(head: Head, at: Lattice, *, tumours: Sequence[Tumour], cue: str) -> None:
    """Paint tumours into a head, as far as the cue shows them."""
    tissue = head.tissue
    for tumour in tumours:
        share = at.inside(tumour.distance_mm)
        if cue != "phase":
            if tumour.oedema:
                fade = np.exp(-np.clip(tumour.distance_mm, 0, None) / (tumour.oedema * at.unit))
                wet = 0.7 * fade * head.white
                tissue.paint(wet, signal=0.8, shift_ppm=tissue.shift_ppm)
            tissue.paint(share, signal=tumour.signal, shift_ppm=tissue.shift_ppm)
        if cue != "magnitude":
            tissue.shift_ppm += _field(at, tumour, share)


def _field(at: Lattice, tumour: Tumour, share: Map) -> Map:
    """The shift inside, and outside that of a dipole along z, which falls with the cube."""
    x, y, z = (a - c for a, c in zip((at.x, at.y, at.z), tumour.centre, strict=True))
    radius = tumour.radius_mm * at.unit
    square = np.maximum(x**2 + y**2 + z**2, radius**2)
    outside = 0.2 * (radius**2 / square) ** 1.5 * (3 * z**2 / square - 1)
    mean = float((share * tumour.shift_ppm).sum() / max(float(share.sum()), 1e-6))
    return share * tumour.shift_ppm + (1 - share) * mean * outside


def labelled(
    tumours: Sequence[Tumour], value: int, *, block: Callable[[Map], Float[np.ndarray, "i j k"]]
) -> Integer[np.ndarray, "i j k"]:
    """Voxels of which at least half lies in a tumour: `block` takes means over a voxel."""
    found = None
    for tumour in tumours:
        inside = tumour.distance_mm < 0
        found = inside if found is None else found | inside
    if found is None:
        raise ValueError("there is no tumour to label")
    return np.where(block(found.astype(np.float32)) >= 0.5, value, 0).astype(np.uint8)


def mimic(rng: np.random.Generator, at: Lattice, *, head: Head) -> None:
    """Paint cysts, white-matter spots, grey islands, vessels and old small bleeds into a head."""
    deep = head.depth_mm > 6 * at.unit

    def blob(low: float, high: float, *, uneven: float) -> Map:
        ball = _ball(rng, at, _pick(rng, at, deep), rng.uniform(low, high), uneven=uneven)
        return at.inside(ball.distance_mm)

    for _ in range(rng.integers(0, 3)):
        head.tissue.paint(blob(4, 9, uneven=0.05), signal=1.0)
    for _ in range(rng.integers(0, 3)):
        grey = rng.uniform(0.7, 0.86)
        head.tissue.paint(blob(5, 12, uneven=0.25), signal=grey)
    for _ in range(rng.integers(2, 6)):
        head.tissue.paint(blob(2, 5, uneven=0.2) * head.white, signal=rng.uniform(0.75, 0.9))
    for _ in range(rng.integers(1, 4)):
        dark, iron = rng.uniform(0.25, 0.5), rng.uniform(0.03, 0.08)
        head.tissue.paint(blob(2.5, 4, uneven=0.1), signal=dark, shift_ppm=iron)
    for _ in range(rng.integers(4, 9)):
        head.tissue.paint(_vein(rng, at, head=head), signal=0.35, shift_ppm=0.08)


def _vein(rng: np.random.Generator, at: Lattice, *, head: Head) -> Float[np.ndarray, "x y z"]:
    """The share of a straight vein, 2 to 3 mm wide, that runs outwards."""
    start = np.array(_pick(rng, at, head.depth_mm > 12 * at.unit))
    way = start + rng.normal(0, 0.4, 3) * np.linalg.norm(start) + 1e-3
    way = way / np.linalg.norm(way)
    offset = [a - np.float32(s) for a, s in zip((at.x, at.y, at.z), start, strict=True)]
    along = sum(o * np.float32(w) for o, w in zip(offset, way, strict=True))
    along = np.clip(along, 0, rng.uniform(12, 30) * at.unit)
    square = sum((o - along * np.float32(w)) ** 2 for o, w in zip(offset, way, strict=True))
    return at.inside(np.sqrt(square) - rng.uniform(0.8, 1.3) * at.unit)
