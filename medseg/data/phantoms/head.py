"""A made-up head: its gradient-echo signal, and how much each tissue shifts the static field.

Lengths, signals and shifts are round values of adult anatomy at 3 T, drawn anew for each person.
Signals are shares of that of cerebrospinal fluid; shifts of the local field are in ppm, positive
for paramagnetic tissue (veins, iron), negative for diamagnetic tissue (calcium).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FIELD_MM = 216.0

Map = Float[np.ndarray, "x y z"]
Part = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Lattice:
    """Points in millimetres of the head's own axes: right, ahead and above its middle.

    `unit` is the size of the person, 1 for an adult whose head just fills FIELD_MM; `steps_mm`
    lie between neighbours of each axis of the array.
    """

    x: Float[np.ndarray, "#x #y #z"]
    y: Float[np.ndarray, "#x #y #z"]
    z: Float[np.ndarray, "#x #y #z"]
    steps_mm: tuple[float, float, float]
    unit: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Points an axis."""
        x, y, z = np.broadcast_shapes(self.x.shape, self.y.shape, self.z.shape)
        return x, y, z

    def distance_mm(self, centre: Sequence[float], half_mm: Sequence[float], *, turn: float) -> Map:
        """Roughly how far points lie outside an ellipsoid turned about the long axis of the body.

        Args:
            centre: in units of the person, like the half axes.
            half_mm: the half axes.
            turn: radians from right towards ahead.
        """
        axes = zip((self.x, self.y, self.z), centre, strict=True)
        x, y, z = (axis - np.float32(self.unit * c) for axis, c in axes)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        across, along = cos * x + sin * y, cos * y - sin * x
        a, b, c = (np.float32(self.unit * half) for half in half_mm)
        rho = np.sqrt((across / a) ** 2 + (along / b) ** 2 + (z / c) ** 2)
        return (rho - 1) * min(a, b, c)

    def inside(self, distance_mm: Part) -> Part:
        """The share of a point that lies inside a surface, from its signed distance."""
        return np.clip(0.5 - distance_mm / self.steps_mm[0], 0, 1)

    def noise(self, rng: np.random.Generator, cell_mm: float) -> Map:
        """Smooth noise of unit variance whose bumps are about `cell_mm` wide."""
        cells = []
        for n, step in zip(self.shape, self.steps_mm, strict=True):
            span = (n - 1) * step / (cell_mm * self.unit)
            place = np.arange(n) / max(n - 1, 1) * span + rng.uniform()
            knots = np.arange(int(np.ceil(span)) + 4) - 1
            weights = _bspline(place[:, None] - knots)
            cells.append((weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32))
        field = rng.standard_normal([w.shape[1] for w in cells], np.float32)
        for weights in cells:
            field = np.tensordot(field, weights, (0, 1))
        return field


def _bspline(t: Part) -> Part:
    """The cubic B-spline of unit knots."""
    far = np.clip(2 - np.abs(t), 0, None)
    near = np.clip(1 - np.abs(t), 0, None)
    return (far**3 - 4 * near**3) / 6


@dataclass
class Tissue:
    """A head being painted: signal (1 is fluid) and field shift in ppm, tissue over tissue."""

    signal: Map
    shift_ppm: Map

    def paint(self, share: Part, *, signal: float | Part, shift_ppm: float | Part = 0.0) -> None:
        """Replace that share of what is there."""
        for canvas, value in ((self.signal, signal), (self.shift_ppm, shift_ppm)):
            canvas += share * (value - canvas)


@dataclass(frozen=True)
class Head:
    """A healthy head on a lattice.

    Attributes:
        tissue: what it is painted with.
        depth_mm: distance below the inner face of the skull, negative outside it.
        white: the share of white matter.
    """

    tissue: Tissue
    depth_mm: Map
    white: Map


@dataclass(frozen=True)
class _Person:
    grey: float
    white: float
    gyrus_mm: float
    sulcus_mm: float
    ventricles: float
    skull_mm: float
    scalp_mm: float
    fat: float
    fluid_mm: float
    iron: float


def paint(rng: np.random.Generator, at: Lattice) -> Head:
    """Draw a head, outermost tissue first."""
    white = rng.uniform(0.54, 0.64)
    person = _Person(
        grey=white + rng.uniform(0.13, 0.19),
        white=white,
        gyrus_mm=rng.uniform(6.5, 8),
        sulcus_mm=rng.uniform(0.3, 0.9),
        ventricles=rng.uniform(0.8, 1.4),
        skull_mm=rng.uniform(5, 8),
        scalp_mm=rng.uniform(4, 8),
        fat=rng.uniform(0.8, 1.2),
        fluid_mm=rng.uniform(1.5, 3.5),
        iron=rng.uniform(0.01, 0.03),
    )
    depth = _depth(rng, at)
    tissue = Tissue(np.zeros(at.shape, np.float32), np.zeros(at.shape, np.float32))
    _paint_shell(rng, at, tissue, depth=depth, person=person)
    white_share = _paint_brain(rng, at, tissue, depth=depth, person=person)
    _paint_nuclei(rng, at, tissue, person)
    _paint_ventricles(rng, at, tissue, person)
    return Head(tissue, depth, white_share)


def _depth(rng: np.random.Generator, at: Lattice) -> Map:
    """Depth below the inner face of an egg-shaped, slightly uneven skull."""
    half = np.array([rng.uniform(64, 71), rng.uniform(80, 88), rng.uniform(64, 70)]) * at.unit
    ahead = at.y / np.float32(half[1])
    narrow = 1 - rng.uniform(0.03, 0.1) * ahead - 0.04 * ahead**2
    terms = [at.x / (np.float32(half[0]) * narrow), ahead, at.z / np.float32(half[2])]
    power = rng.uniform(2.1, 2.4)
    rho = sum(np.abs(term) ** np.float32(power) for term in terms) ** np.float32(1 / power)
    length = np.sqrt(at.x**2 + at.y**2 + at.z**2)
    reach = (length + at.unit) / (rho + np.float32(at.unit / half.min()))
    uneven = 1.3 * at.unit * at.noise(rng, 45)
    return ((1 - rho) * reach + uneven).astype(np.float32)


def _paint_shell(
    rng: np.random.Generator, at: Lattice, tissue: Tissue, *, depth: Map, person: _Person
) -> None:
    """Skin, fat, two tables of bone with marrow between them, and fluid below."""
    unit = at.unit
    bone = person.skull_mm * unit * (1 + 0.15 * at.noise(rng, 30))
    outer = -depth - bone - person.scalp_mm * unit * (1 + 0.2 * at.noise(rng, 35))
    lobules = 1 + 0.08 * at.noise(rng, 6)
    tissue.paint(at.inside(outer), signal=0.5 * lobules)
    fat = at.inside(np.maximum(outer + 1.6 * unit, depth + bone))
    tissue.paint(fat, signal=person.fat * lobules)
    tissue.paint(at.inside(-depth - bone), signal=0.06)
    marrow = np.abs(depth + 0.5 * bone) - 0.22 * bone
    tissue.paint(at.inside(marrow), signal=0.32 * (1 + 0.2 * at.noise(rng, 12)))
    tissue.paint(at.inside(-depth), signal=1.0)


def _paint_brain(
    rng: np.random.Generator, at: Lattice, tissue: Tissue, *, depth: Map, person: _Person
) -> Map:
    """Folded grey matter around white matter; returns the share of white matter.

    Sulci run where a smooth noise crosses zero, as deep as another noise says; the cleft between
    the hemispheres is one more of them, closed where the callosal body joins both.
    """
    unit = at.unit
    below = depth - person.fluid_mm * unit * (1 + 0.25 * at.noise(rng, 25))
    limit = (20 + 4 * at.noise(rng, 25)) * unit
    fold = np.abs(at.noise(rng, person.gyrus_mm)) * (0.8 * person.gyrus_mm * unit)
    fold += 0.7 * np.maximum(below - limit, 0)
    cleft = np.abs(at.x + 1.2 * unit * at.noise(rng, 18))
    joined = np.minimum(24 * unit - at.y, np.minimum(at.y + 32 * unit, 30 * unit - at.z))
    fold = np.minimum(fold, cleft + np.maximum(joined, 0)) - person.sulcus_mm * unit
    ribbon = np.minimum(below, fold)
    grain = 1 + 0.02 * at.noise(rng, 5)
    grey = person.grey * grain
    tissue.paint(at.inside(-ribbon), signal=grey, shift_ppm=0.004)
    thick = 3.4 * unit * (1 + 0.15 * at.noise(rng, 20))
    white = at.inside(thick - ribbon)
    tissue.paint(white, signal=person.white * grain, shift_ppm=-0.004)
    return white


def _paint_nuclei(rng: np.random.Generator, at: Lattice, tissue: Tissue, person: _Person) -> None:
    """Caudate, putamen and thalamus of both sides: grey matter, the first two with iron."""
    bodies = (
        ((15.0, 15.0, 10.0), (4.5, 9.0, 9.0), 0.3, 1.0),
        ((27.0, 3.0, 4.0), (5.0, 14.0, 10.0), 0.2, 1.0),
        ((11.0, -11.0, 6.0), (7.5, 10.0, 8.0), -0.5, 0.2),
    )
    for centre, half, turn, iron in bodies:
        size = rng.uniform(0.85, 1.1)
        for side in (-1, 1):
            where = (side * centre[0], *(np.array(centre[1:]) + rng.normal(0, 0.7, 2)))
            extent = [size * mm for mm in half]
            share = at.inside(at.distance_mm(where, extent, turn=side * turn))
            dark = 1 - 3 * person.iron * iron
            tissue.paint(share, signal=person.grey * dark, shift_ppm=person.iron * iron)


def _paint_ventricles(
    rng: np.random.Generator, at: Lattice, tissue: Tissue, person: _Person
) -> None:
    """Two lateral ventricles, each of a front and a back horn with its plexus, and the third."""
    for side in (-1, 1):
        size = person.ventricles * rng.uniform(0.9, 1.1)
        shift = rng.normal(0, 1, 2)
        front = (side * 9, 17 + shift[0], 12)
        back = (side * 17, -24 + shift[1], 10)
        half = (4 * size, 13 * size**0.5, 10)
        wall = at.distance_mm(front, half, turn=-side * 0.35)
        half = (4.5 * size, 16 * size**0.5, 10)
        wall = np.minimum(wall, at.distance_mm(back, half, turn=side * 0.3))
        body = (side * 9, -2, 17)
        wall = np.minimum(wall, at.distance_mm(body, (3 * size, 20, 5), turn=0.0))
        tissue.paint(at.inside(wall), signal=1.0)
        where = (side * (17 + rng.normal(0, 0.5)), -26 + rng.normal(0, 2), 10)
        plexus = at.distance_mm(where, (3.2, rng.uniform(4, 7), 5), turn=side * 0.3)
        chalk = rng.uniform(0.0, 0.08)
        tissue.paint(at.inside(plexus), signal=rng.uniform(0.6, 0.85), shift_ppm=-chalk)
    third = at.distance_mm((0, -4, 2), (1.8 * person.ventricles, 11, 9), turn=0.0)
    tissue.paint(at.inside(third), signal=1.0)
