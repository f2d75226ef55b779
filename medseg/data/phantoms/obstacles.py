"""Things that lie on a radiograph and hide anatomy: markers, devices, tubes, bars and borders.

They are put on the finished picture, in shares of its side.
"""

import numpy as np
from jaxtyping import Float

from medseg.data.phantoms.film import Plane, cover
from medseg.data.phantoms.thorax import Curve, bezier, ribbon

Point = Float[np.ndarray, "2"]


def obstruct(rng: np.random.Generator, picture: Plane, *, chance: float) -> Plane:
    """A picture with each kind of obstacle at its own odds, all scaled by `chance`."""
    kinds = (
        (_marker, 1.6), (_bars, 1.0), (_border, 0.8),
        (_pacemaker, 0.7), (_tube, 0.9), (_leads, 0.7),
    )  # fmt: skip
    out = picture.copy()
    for kind, odds in kinds:
        if rng.random() < chance * odds:
            kind(rng, out)
    return np.clip(out, 0, 1)


def _lay(picture: Plane, polygon: Curve, value: float, share: float = 1.0) -> None:
    """Put a polygon of one brightness over the picture."""
    part = share * cover(polygon * len(picture), len(picture))
    picture += part * (value - picture)


def _stroke(picture: Plane, line: Curve, half: float, value: float, share: float = 1.0) -> None:
    one, other = ribbon(line, np.full(len(line), half))
    _lay(picture, np.concatenate([one, other[::-1]]), value, share)


def _box(low: Point, high: Point) -> Curve:
    (a, b), (c, d) = low, high
    return np.array([(a, b), (c, b), (c, d), (a, d)])


def _marker(rng: np.random.Generator, picture: Plane) -> None:
    """The letter of a side, in bright strokes: R left in the picture, L right."""
    right = rng.random() < 0.5
    tall = rng.uniform(0.035, 0.06)
    corner = np.array([rng.uniform(0.03, 0.1), rng.uniform(0.03, 0.14)])
    if not right:
        corner[0] = 1 - corner[0] - 0.6 * tall
    stem = [np.array([[0, 0], [0, 1.0]])]
    bow = bezier([np.array(p, float) for p in ((0, 0.04), (0.9, -0.1), (0.9, 0.6), (0, 0.5))], 16)
    letter = [*stem, bow, np.array([[0.2, 0.5], [0.62, 1.0]])] if right else stem
    letter = letter if right else [*letter, np.array([[0, 0.95], [0.6, 0.95]])]
    value = rng.uniform(0.85, 1)
    for line in letter:
        _stroke(picture, corner + line * tall, 0.07 * tall, value)


def _bars(rng: np.random.Generator, picture: Plane) -> None:
    """Black boxes over what could name a person."""
    for corner in rng.choice(3, size=int(rng.integers(1, 4)), replace=False):
        wide, tall = rng.uniform(0.1, 0.26), rng.uniform(0.03, 0.1)
        low = np.array([(0.0, 0.0), (1 - wide, 0.0), (rng.uniform(0.2, 0.7), 1 - tall)][corner])
        _lay(picture, _box(low, low + np.array([wide, tall])), 0.0)


def _border(rng: np.random.Generator, picture: Plane) -> None:
    """The shutters of the tube: an edge or two without exposure."""
    value = float(rng.choice([0.0, 0.0, 1.0]))
    for edge in rng.choice(4, size=int(rng.integers(1, 3)), replace=False):
        deep, tilt = rng.uniform(0.01, 0.045), rng.uniform(-0.01, 0.01)
        ends = [(-1.0, deep - tilt), (2.0, deep + tilt), (2.0, -1.0), (-1.0, -1.0)]
        part = np.array(ends)
        part = part[:, ::-1] if edge % 2 else part
        _lay(picture, 1 - part if edge > 1 else part, value)


def _pacemaker(rng: np.random.Generator, picture: Plane) -> None:
    """A box below a clavicle with leads into the heart."""
    middle = np.array([rng.uniform(0.68, 0.82), rng.uniform(0.18, 0.32)])
    if rng.random() < 0.15:
        middle[0] = 1 - middle[0]
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    round_ = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    round_ = np.sign(round_) * np.abs(round_) ** 0.6
    size = np.array([rng.uniform(0.04, 0.06), rng.uniform(0.035, 0.05)])
    _lay(picture, middle + round_ * size, rng.uniform(0.9, 1), 0.95)
    for _ in range(int(rng.integers(1, 3))):
        vein = np.array([rng.uniform(0.44, 0.5), rng.uniform(0.25, 0.35)])
        tip = np.array([rng.uniform(0.45, 0.62), rng.uniform(0.58, 0.74)])
        points = [middle, np.array([middle[0] * 0.6 + 0.2, 0.1]), vein, tip]
        _stroke(picture, bezier(points), 0.0035, 0.97, 0.9)


def _tube(rng: np.random.Generator, picture: Plane) -> None:
    """A catheter or a drain: one long bright line."""
    start = np.array([rng.uniform(0.1, 0.9), rng.choice([-0.02, 0.05, 1.02])])
    tip = rng.uniform(0.3, 0.7, 2)
    one, two = start + rng.uniform(-0.2, 0.2, 2), tip + rng.uniform(-0.25, 0.25, 2)
    half = rng.uniform(0.0025, 0.006)
    _stroke(picture, bezier([start, one, two, tip], 64), half, rng.uniform(0.75, 1), 0.75)


def _leads(rng: np.random.Generator, picture: Plane) -> None:
    """Electrodes on the skin and their wires."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for _ in range(int(rng.integers(2, 5))):
        middle = np.array([rng.uniform(0.12, 0.88), rng.uniform(0.12, 0.85)])
        _lay(picture, middle + ring * rng.uniform(0.009, 0.016), rng.uniform(0.85, 1), 0.9)
        end = np.array([rng.uniform(0.2, 0.8), 1.05])
        bends = [middle + rng.uniform(-0.1, 0.2, 2), end + rng.uniform(-0.2, 0, 2)]
        _stroke(picture, bezier([middle, *bends, end]), 0.002, 0.9, 0.6)
