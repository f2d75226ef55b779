"""What X-rays make of a made-up chest: overlapping shadows, a film's curve, and things in the way.

Shadows add up as thickness times density; areas are covered exactly along each row, and each pixel
is cut into several rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.ndimage import gaussian_filter

from medseg.data.phantoms.anatomy import smooth
from medseg.data.phantoms.thorax import MIRROR, Curve, Side, Thorax, bezier, ribbon, thickness

Plane = Float[np.ndarray, "h w"]
ROWS = 3


@dataclass(frozen=True, eq=False)
class Place:
    """From millimetres of a chest to pixels of its picture: turn, scale, shift."""

    turn: Float[np.ndarray, "2 2"]
    shift: Float[np.ndarray, "2"]
    pixel_mm: float

    def put(self, points: Float[np.ndarray, "n 2"]) -> Curve:
        """Points in pixels from the picture's top left corner."""
        return points @ self.turn.T / self.pixel_mm + self.shift


class Shadows:
    """Polygons added up on a picture of `size` x `size` pixels, each with its own density."""

    def __init__(self, size: int, place: Place | None = None) -> None:
        self.size, self.place = size, place
        self._at: list[Integer[np.ndarray, " _"]] = []
        self._steps: list[Float[np.ndarray, " _"]] = []

    def fill(self, polygon: Curve, density: float) -> None:
        """Add a polygon: `density` where it covers a pixel whole, less at its border."""
        points = polygon if self.place is None else self.place.put(polygon)
        start = points * [1, ROWS]
        stop = np.concatenate([start[1:], start[:1]])
        rise = stop[:, 1] - start[:, 1]
        low, high = np.minimum(start[:, 1], stop[:, 1]), np.maximum(start[:, 1], stop[:, 1])
        first = np.clip(np.ceil(low - 0.5), 0, self.size * ROWS).astype(int)
        last = np.clip(np.ceil(high - 0.5), 0, self.size * ROWS).astype(int)
        count = last - first
        edge = np.repeat(np.arange(len(points)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        share = (row + 0.5 - start[edge, 1]) / rise[edge]
        x = np.clip(start[edge, 0] + share * (stop - start)[edge, 0], 0, self.size)
        column = x.astype(int)
        after = x - column
        turning = np.sign((start[:, 0] - stop[:, 0]) @ (start[:, 1] + stop[:, 1]))
        way = np.sign(rise[edge]) * density * turning
        at = row // ROWS * (self.size + 2) + column
        self._at += [at, at + 1]
        self._steps += [way * (1 - after), way * after]

    def band(
        self, line: Curve, half_mm: float | Float[np.ndarray, " _"], *, density: float
    ) -> None:
        """Add a band along a line."""
        one, other = ribbon(line, np.broadcast_to(np.asarray(half_mm, float), len(line)))
        self.fill(np.concatenate([one, other[::-1]]), density)

    def plane(self) -> Plane:
        """The sum so far, rows first."""
        at, steps = np.concatenate(self._at), np.concatenate(self._steps)
        rows = np.bincount(at, steps, self.size * (self.size + 2)).reshape(self.size, -1)
        return (np.cumsum(rows, axis=1)[:, : self.size] / -ROWS).astype(np.float32)


def cover(polygon: Curve, size: int) -> Plane:
    """The share of each pixel that lies in a polygon given in pixels, rows first."""
    shadows = Shadows(size)
    shadows.fill(polygon, 1.0)
    return np.clip(shadows.plane(), 0, 1)


def expose(rng: np.random.Generator, chest: Thorax, *, size: int, place: Place) -> Plane:
    """The film of a chest in 0..1, bright where much is in the way; without noise."""
    px = 1 / place.pixel_mm
    body = _body(rng, chest, size, place)
    lungs = np.zeros((size, size), np.float32)
    for name in ("right_lung", "left_lung"):
        lungs += cover(place.put(chest.outlines[name].dense), size)
    lungs = np.minimum(lungs, 1)
    deep = np.clip(2 * _spread(lungs, 11 * px) - 0.9, 0, 1)
    air = lungs * (0.62 + 0.38 * deep)
    cloudy = smooth(rng, (size, size, 1), cells=(9, 9, 1))[..., 0]
    soft = Shadows(size, place)
    _soft_parts(rng, soft, chest)
    bones = Shadows(size, place)
    _bones(rng, bones, chest)
    vessels = Shadows(size, place)
    _vessels(rng, vessels, chest)
    total = body + gaussian_filter(soft.plane(), 1.8 * px, truncate=2) * body.clip(0, 1)
    total += bones.plane() * rng.uniform(0.7, 1.2) + lungs * vessels.plane()
    total += _belly(rng, chest, size, place) * body.clip(0, 1)
    total -= air * rng.uniform(0.42, 0.75) * (1 + 0.06 * cloudy)
    total = gaussian_filter(total, rng.uniform(0.5, 0.9) * size / 256, truncate=2)
    steep, middle = rng.uniform(2.4, 3.6), rng.uniform(0.5, 0.68)
    film = 1 / (1 + np.exp(-steep * (total - middle)))
    dark, bright = film.min(), np.quantile(film[::2, ::2], 0.995)
    return np.clip((film - dark) / (bright - dark), 0, 1).astype(np.float32)


def _both(points: Sequence[Sequence[float]]) -> list[Curve]:
    one = np.array(points, float)
    return [one, one * MIRROR]


def _body(rng: np.random.Generator, chest: Thorax, size: int, place: Place) -> Plane:
    """Neck, shoulders, arms and trunk, thin at their edges."""
    base, tall = max(side.base for side in chest.sides), chest.height
    flesh = rng.uniform(16, 38)
    hang = rng.uniform(10, 70)
    side = base + flesh
    half = [
        (0, -160), (48, -160), (50, -45), (0.75 * base, -28), (side + 35, 0), (side + 70, 60),
        (side + 90 + hang, 500), (side + 20 + hang, 500), (side + 8, 0.5 * tall),
        (side, 0.42 * tall), (side + 3, 0.8 * tall), (side - 4, tall), (side - 6, 500), (0, 500),
    ]  # fmt: skip
    shadows = Shadows(size, place)
    for part in _both(half):
        shadows.fill(part, 1.0)
    skin = np.clip(shadows.plane(), 0, 1)
    wide = _spread(skin, 16 / place.pixel_mm)
    return np.asarray(skin * np.clip(1.7 * wide - 0.62, 0.1, 1.0), np.float32)


def _belly(rng: np.random.Generator, chest: Thorax, size: int, place: Place) -> Plane:
    """The thick part below the domes, which begins softly behind them."""
    soft = Shadows(size, place)
    for dome, side in zip(chest.domes, chest.sides, strict=True):
        rest = [[0, dome[-1, 1]], [0, 700], [side.sign * 400, 700], [side.sign * 400, dome[0, 1]]]
        soft.fill(np.concatenate([dome, np.array(rest)]), rng.uniform(0.2, 0.32))
    return _spread(soft.plane(), 13 / place.pixel_mm)


def _spread(plane: Plane, sigma: float) -> Plane:
    """A wide blur, computed on every fourth pixel and smoothly brought back."""
    step = 4
    small = gaussian_filter(plane[step // 2 :: step, step // 2 :: step], sigma / step, truncate=2)
    place = np.clip((np.arange(len(plane)) - step // 2) / step, 0, len(small) - 1)
    low = np.minimum(place.astype(int), len(small) - 2)
    share = (place - low).astype(np.float32)[:, None]
    rows = small[low] * (1 - share) + small[low + 1] * share
    share = share.T
    return np.asarray(rows[:, low] * (1 - share) + rows[:, low + 1] * share, np.float32)


def _soft_parts(rng: np.random.Generator, soft: Shadows, chest: Thorax) -> None:
    """Heart, the spine's muscles, windpipe, stomach bubble and breasts."""
    tall = chest.height
    soft.fill(chest.outlines["heart"].dense, rng.uniform(0.14, 0.24))
    middle = np.array([[0.0, -200.0], [0.0, 600.0]])
    soft.band(middle, 24.0, density=rng.uniform(0.04, 0.12))
    windpipe = np.array([[0, -150], [rng.uniform(-6, 3), 0.35 * tall]], float)
    soft.band(windpipe, rng.uniform(6, 9), density=-rng.uniform(0.12, 0.25))
    end = windpipe[-1]
    for way in (-1, 1):
        soft.band(np.array([end, end + np.array([way * 26, 22])]), 5.0, density=-0.07)
    knob = chest.outlines["left_lung"].curves[3]
    soft.fill(np.concatenate([knob, [[0, knob[-1, 1]], [0, knob[0, 1]]]]), 0.1)
    if rng.random() < 0.75:
        dome = chest.domes[1]
        where = dome[int(rng.uniform(0.5, 0.8) * len(dome))] + [0, rng.uniform(17, 30)]
        soft.fill(
            _ellipse(where, rng.uniform(13, 26), rng.uniform(7, 14)), -rng.uniform(0.15, 0.45)
        )
    if rng.random() < 0.5:
        for side in chest.sides:
            where = np.array([side.sign * rng.uniform(0.5, 0.65) * side.base, 0.72 * tall])
            soft.fill(_ellipse(where, rng.uniform(45, 62), rng.uniform(40, 60)), 0.07)


def _ellipse(middle: Float[np.ndarray, "2"], across: float, down: float) -> Curve:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([middle[0] + across * np.cos(turn), middle[1] + down * np.sin(turn)], axis=1)


def _bones(rng: np.random.Generator, bones: Shadows, chest: Thorax) -> None:
    """Vertebrae, ribs behind and in front, clavicles, shoulder blades and arms."""
    tall, gap = chest.height, rng.uniform(20, 25)
    for y in np.arange(-90, 420, gap):
        block = [(-15, y + 1), (0, y + 2.5), (15, y + 1), (15, y + gap - 2), (-15, y + gap - 2)]
        bones.fill(np.array(block, float), 0.1)
        bones.fill(_ellipse(np.array([0.0, y + 0.6 * gap]), 3.0, 5.0), 0.05)
    thick, drop = rng.uniform(4.2, 5.6), rng.uniform(0.06, 0.14)
    strong = rng.uniform(0.05, 0.12)
    for side in chest.sides:
        for number in range(10):
            y = (number + rng.uniform(-0.1, 0.1)) * 0.092 * tall - 6
            _rib(
                bones,
                side,
                y=y,
                fall=drop * tall * (0.5 + 0.12 * number),
                thick=thick,
                weight=strong,
            )
        for number in range(6):
            y = (0.16 + 0.115 * number) * tall
            wall = float(side.width(y))
            line = bezier([
                np.array([wall, y]), np.array([wall - 8, y + 26]),
                np.array([0.6 * wall, y + 50]), np.array([0.36 * wall, y + 44]),
            ], 20)  # fmt: skip
            bones.band(side.put(line), thick + 1.5, density=0.35 * strong)
        _shoulder(rng, bones, side.sign, float(side.base), tall)
    for line in chest.clavicles:
        half = thickness(np.linspace(0, 1, len(line)))
        bones.band(line, half, density=rng.uniform(0.1, 0.17))
        bones.band(line, half - 2.2, density=-0.035)


def _rib(bones: Shadows, side: Side, *, y: float, fall: float, thick: float, weight: float) -> None:
    """A rib from the spine up, out and down to the wall; its rim is denser than its marrow."""
    wall = float(side.width(y + fall)) + 3
    line = bezier([
        np.array([12.0, y]), np.array([0.4 * wall, y - 16]),
        np.array([0.95 * wall, y - 8]), np.array([wall, y + fall]),
    ], 28)  # fmt: skip
    line = side.put(line)
    bones.band(line, thick, density=weight)
    bones.band(line, thick - 2, density=-0.45 * weight)


def _shoulder(
    rng: np.random.Generator, bones: Shadows, sign: int, base: float, tall: float
) -> None:
    inner = base * rng.uniform(0.84, 1.04)
    blade = np.array([
        (inner + 4, 8), (inner - 4, 0.2 * tall), (inner + 2, 0.38 * tall), (inner + 12, 0.5 * tall),
        (inner + 20, 0.4 * tall), (base + 42, 0.14 * tall), (base + 34, 2),
    ]) * [sign, 1]  # fmt: skip
    bones.fill(blade, rng.uniform(0.03, 0.08))
    head = np.array([sign * (base + rng.uniform(48, 60)), rng.uniform(10, 28)])
    bones.fill(_ellipse(head, 22, 24), 0.14)
    shaft = np.array([head, head + np.array([sign * rng.uniform(20, 60), 260])])
    bones.band(shaft, 12.0, density=0.12)


def _vessels(rng: np.random.Generator, vessels: Shadows, chest: Thorax) -> None:
    """Hilar shadows and branches that thin out towards the wall."""
    tall = chest.height
    for side in chest.sides:
        hilum = np.array([rng.uniform(34, 44), rng.uniform(0.4, 0.48) * tall])
        for _ in range(3):
            spot = hilum + rng.uniform(-9, 9, 2)
            vessels.fill(side.put(_ellipse(spot, rng.uniform(6, 12), rng.uniform(10, 22))), 0.05)
        for way in np.deg2rad(rng.uniform(-75, 85, 14)):
            root = hilum + rng.normal(0, (5, 11))
            length = rng.uniform(35, 100)
            bend = way + rng.uniform(-0.5, 0.5)
            steps = [np.array([np.cos(a), np.sin(a)]) for a in (way, (way + bend) / 2, bend)]
            line = bezier(
                [root, *(root + step * length * k / 3 for k, step in enumerate(steps, 1))], 12
            )
            vessels.band(
                side.put(line), np.linspace(2.4, 0.6, len(line)), density=rng.uniform(0.02, 0.07)
            )
