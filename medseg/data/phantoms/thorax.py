"""A made-up chest seen from behind: contours of lungs, heart and clavicles as smooth curves.

Millimetres; x runs to the right of the picture (the patient's left) from the midline, y runs down
from the apex of the right lung. Sizes are round values of adult anatomy, drawn anew for each
person.
Source: which node of a contour is which anatomical place, and the turning direction, after
Gaggion et al. 2022, doi:10.1109/TMI.2022.3224660.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CTR = (0.39, 0.61)
DENSE = 48
UP = np.array([0.0, -1.0])
MIRROR = np.array([-1.0, 1.0])

Curve = Float[np.ndarray, "_ 2"]
Point = Float[np.ndarray, "2"]


@dataclass(frozen=True, eq=False)
class Outline:
    """A closed contour as curves that follow one another, and where on each its nodes lie.

    The shares are of a curve's length; its last point belongs to the next one.
    """

    curves: tuple[Curve, ...]
    shares: tuple[Float[np.ndarray, " _"], ...]

    @property
    def dense(self) -> Curve:
        """The whole contour, finely."""
        return np.concatenate([curve[:-1] for curve in self.curves])

    @property
    def nodes(self) -> Curve:
        """The landmarks."""
        pairs = zip(self.curves, self.shares, strict=True)
        return np.concatenate([along(curve, shares) for curve, shares in pairs])


@dataclass(frozen=True, eq=False)
class Side:
    """One half of the chest, mirrored to positive x: the ribs' inner wall and the lung's places."""

    sign: int
    apex: Point
    base: float
    depth: float
    wall: Curve

    def width(self, y: Float[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"] | float:
        """How far the inner wall lies from the midline at a height."""
        return np.interp(y, self.wall[:, 1], self.wall[:, 0])

    def put(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Points of this half on their own side of the midline."""
        return points * np.array([self.sign, 1.0])


@dataclass(frozen=True, eq=False)
class Thorax:
    """Outlines by organ, both halves, the clavicles up to the shoulders, and the domes."""

    outlines: dict[str, Outline]
    sides: tuple[Side, Side]
    clavicles: tuple[Curve, Curve]
    domes: tuple[Curve, Curve]
    ctr: float

    @property
    def height(self) -> float:
        """From the apex to the costophrenic angle of the right lung."""
        return self.sides[0].depth


def bezier(points: Sequence[Point], n: int = DENSE) -> Curve:
    """A cubic Bézier curve of four points."""
    t = np.linspace(0, 1, n)[:, None]
    a, b, c, d = points
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def along(curve: Curve, shares: Float[np.ndarray, " _"]) -> Curve:
    """Points at shares of a curve's length."""
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    place = np.concatenate([[0.0], np.cumsum(steps)])
    return np.stack([np.interp(shares * place[-1], place, axis) for axis in curve.T], axis=1)


def draw(rng: np.random.Generator) -> Thorax:
    """Draw a person."""
    base, depth = rng.uniform(122, 152), rng.uniform(232, 292)
    right = _side(rng, -1, base=base, top=0.0, depth=depth)
    left = _side(
        rng,
        1,
        base=base * rng.uniform(0.96, 1.04),
        top=rng.uniform(-6, 6),
        depth=depth + rng.uniform(-9, 9),
    )
    extent = right.wall[:, 0].max() + left.wall[:, 0].max()
    ctr = rng.uniform(*CTR)
    neck, knob = rng.uniform(13, 21), rng.uniform(0.21, 0.27) * depth
    floor = depth - rng.uniform(36, 68)
    heart = _heart(rng, ctr * extent, floor=floor, roof=knob + 34)
    medial = _right_medial(rng, heart, right, neck)
    inner = _left_medial(rng, heart, left, neck=neck, knob=knob)
    domes = (_dome(rng, right, heart[0][0]), _dome(rng, left, heart[3][0]))
    bones = (_collar(rng, right), _collar(rng, left))
    outlines = {
        "right_lung": _outline([right.put(right.wall), domes[0], medial], (21, 8, 15)),
        "left_lung": _outline([left.put(left.wall), domes[1], *inner], (21, 6, 13, 4, 6)),
        "heart": _outline(heart, (6, 6, 6, 8)),
        "right_clavicle": _clavicle(right, bones[0]),
        "left_clavicle": _clavicle(left, bones[1]),
    }
    return Thorax(outlines, (right, left), bones, domes, ctr)


def _outline(curves: Sequence[Curve], segments: Sequence[int]) -> Outline:
    return Outline(tuple(curves), tuple(np.arange(n) / n for n in segments))


def _side(rng: np.random.Generator, sign: int, *, base: float, top: float, depth: float) -> Side:
    """The inner wall, apex to costophrenic angle: a superellipse, drawn in below."""
    apex = base * rng.uniform(0.3, 0.42)
    round_, fall = rng.uniform(1.9, 2.3), rng.uniform(2.3, 3.2)
    tuck = base * rng.uniform(0, 0.07)
    share = np.linspace(0, 1, 4 * DENSE) ** 2
    width = apex + (base - apex) * (1 - (1 - share) ** fall) ** (1 / round_) - tuck * share**8
    wall = np.stack([width, top + share * (depth - top)], axis=1)
    return Side(sign, np.array([apex, top]), base, depth, wall)


def _at(x: float, y: float) -> Point:
    return np.array([x, y])


def _heart(
    rng: np.random.Generator, width: float, *, floor: float, roof: float
) -> tuple[Curve, ...]:
    """Right border upwards, upper edge, left border downwards, lower edge."""
    right = rng.uniform(0.29, 0.36) * width
    left = width - right
    height = width * rng.uniform(0.6, 0.78)
    top = max(floor - height, roof)
    height = floor - top
    tip = floor + rng.uniform(4, 24)
    low = _at(-right * rng.uniform(0.86, 0.98), floor)
    inner = _at(-right * rng.uniform(0.42, 0.6), top + rng.uniform(0.04, 0.12) * height)
    outer = _at(left * rng.uniform(0.38, 0.5), top + rng.uniform(0.03, 0.12) * height)
    apex = _at(left * rng.uniform(0.93, 0.99), tip)
    roof = top - 0.03 * height
    sway = _at(-1.1 * right, floor - 0.3 * height), _at(-1.02 * right, top + 0.4 * height)
    bow = _at(0.72 * left, top + 0.28 * height), _at(1.08 * left, top + 0.68 * height)
    sole = _at(0.72 * left, tip + 0.14 * height), _at(0.1 * left, floor + 0.26 * height)
    lid = _at(-0.2 * right, roof), _at(0.15 * left, roof)
    curves = (low, *sway, inner), (inner, *lid, outer), (outer, *bow, apex), (apex, *sole, low)
    drawn = [bezier(points) for points in curves]
    reach = np.concatenate(drawn)[:, 0]
    scale = width / float(np.ptp(reach))
    return tuple((curve - [reach.min(), 0]) * [scale, 1] - [right, 0] for curve in drawn)


def _dome(rng: np.random.Generator, side: Side, inner: Point) -> Curve:
    """A hemidiaphragm from the costophrenic angle to where it meets the heart."""
    corner, end = side.wall[-1], side.put(inner)
    span, rise = corner[0] - end[0], corner[1] - end[1]
    top = end[1] - min(rng.uniform(0.02, 0.1) * span, 9.0)
    steep = corner - np.array([rng.uniform(0.2, 0.34) * span, 0.8 * rise])
    flat = np.array([end[0] + rng.uniform(0.35, 0.5) * span, top])
    return side.put(bezier([corner, steep, flat, end]))


def _climb(start: Curve, end: Point, way: Point) -> Curve:
    """From the last two points of a curve on to `end`, arriving in the direction `way`."""
    first = start[-1] - start[-2]
    reach = np.linalg.norm(end - start[-1]) / 3
    leave = start[-1] + first / np.linalg.norm(first) * reach
    return bezier([start[-1], leave, end - way * reach, end])


def _round_apex(start: Point, apex: Point) -> Curve:
    """From the neck's side up and over into the apex, which is level."""
    rise, run = start[1] - apex[1], apex[0] - start[0]
    return bezier([start, start + 0.55 * rise * UP, apex - _at(0.55 * run, 0), apex])


def _right_medial(
    rng: np.random.Generator, heart: Sequence[Curve], side: Side, neck: float
) -> Curve:
    """Along the right border of the heart, on beside the great vessels, and up to the apex."""
    border = along(heart[0], np.linspace(0, rng.uniform(0.6, 0.8), DENSE))
    throat = np.array([-neck, rng.uniform(0.13, 0.18) * side.depth])
    beside = _climb(border, throat, UP)
    over = side.put(_round_apex(side.put(throat), side.apex))
    return np.concatenate([border[:-1], beside[:-1], over])


def _left_medial(
    rng: np.random.Generator, heart: Sequence[Curve], side: Side, *, neck: float, knob: float
) -> tuple[Curve, Curve, Curve]:
    """Along the left border of the heart to the aortic knob, around it, and up to the apex."""
    border = along(heart[2][::-1], np.linspace(0, rng.uniform(0.86, 0.98), DENSE))
    out, half = neck + rng.uniform(10, 19), rng.uniform(13, 18)
    below = np.array([out, knob + half])
    above = np.array([neck + rng.uniform(0, 3), knob - half])
    lean = np.array([rng.uniform(-0.25, 0.05), -1.0])
    hilum = _climb(border, below, lean / np.linalg.norm(lean))
    bulge = rng.uniform(4, 10)
    arch = bezier([below, below + _at(bulge, -0.7 * half), _at(out + bulge, above[1] + 2), above])
    return np.concatenate([border[:-1], hilum]), arch, _round_apex(above, side.apex)


def _collar(rng: np.random.Generator, side: Side) -> Curve:
    """The middle line of a clavicle from the breastbone to the shoulder."""
    inner = np.array([rng.uniform(17, 24), rng.uniform(0.1, 0.18) * side.depth])
    length, rise = rng.uniform(120, 145), rng.uniform(14, 46)
    bend = rng.uniform(-6, 8)
    one = inner + _at(0.35 * length, -0.35 * rise - bend)
    two = inner + _at(0.7 * length, -0.95 * rise + bend)
    return side.put(bezier([inner, one, two, inner + _at(length, -rise)], 2 * DENSE))


def thickness(share: Float[np.ndarray, " _"]) -> Float[np.ndarray, " _"]:
    """Half the height of a clavicle along its middle line: thicker at the breastbone."""
    return 6.0 + 4.5 * np.exp(-share / 0.13)


def ribbon(line: Curve, half: Float[np.ndarray, " _"]) -> tuple[Curve, Curve]:
    """The two edges of a band around a line: the one on the left of its way, then the right."""
    way = np.gradient(line, axis=0)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    across = np.stack([way[:, 1], -way[:, 0]], axis=1) * half[:, None]
    return line + across, line - across


def _clavicle(side: Side, line: Curve) -> Outline:
    """Upper edge towards the breastbone, round its end, lower edge back to the lung's wall."""
    own = side.put(line)
    outside = own[:, 0] > side.width(own[:, 1]) + 6
    stop = int(np.argmax(outside)) if outside.any() else len(own) - 1
    stop = max(stop, len(own) // 3)
    share = np.linspace(0, 1, len(own))
    upper, lower = (edge[: stop + 1] for edge in ribbon(own, thickness(share)))
    inward = own[0] - own[3]
    bulge = inward / np.linalg.norm(inward) * 7
    end = bezier([upper[0], upper[0] + bulge, lower[0] + bulge, lower[0]])
    close = np.stack([lower[-1], upper[-1]])
    fine = np.array([0, 0.5, *range(1, 8)]) / 8
    curves = [side.put(c) for c in (upper[::-1], end, lower, close)]
    back = np.array([*range(8), 7.5, 8]) / 8
    shares = (fine, np.arange(4) / 4, back, np.zeros(0))
    return Outline(tuple(curves), shares)
