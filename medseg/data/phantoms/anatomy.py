"""A made-up lower back: maps of water and fat, and where each of its seven discs lies.

Heights, tilts, widths and fat shares are round values of adult anatomy, drawn anew for each
person; axes run R, A, S in millimetres from the middle of the field of view.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

N_DISCS = 7
HEIGHT_MM = 288.0
_TILT_DEG = (31.0, 18.0, 7.0, -2.0, -7.0, -10.0, -9.0)
_DISC_MM = (11.5, 12.5, 12.0, 11.5, 10.5, 9.5, 9.0)
_BODY_MM = (27.0, 27.0, 27.0, 26.5, 25.5, 24.5, 24.0)
_WORN = (0.4, 0.4, 0.25, 0.2, 0.15, 0.15, 0.15)

Map = Float[np.ndarray, "x y z"]
Part = Float[np.ndarray, "..."]
Tissue = tuple[float | Part, float | Part]
Place = tuple[slice, slice, slice]

CORTEX: Tissue = (0.08, 0.06)
FAT: Tissue = (0.06, 0.95)
LIGAMENT: Tissue = (0.14, 0.04)
EVERYWHERE: Place = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Segment:
    """A disc or a vertebral body: centre and half axes in mm, tilts in radians, (water, fat)."""

    centre: Float[np.ndarray, "3"]
    tilt: float
    lean: float
    half_height: float
    half_width: float
    half_depth: float
    swell: float
    wedge: float
    tissue: tuple[float, float]


@dataclass(frozen=True)
class Column:
    """The seven discs from the lowest up, the sacrum below them and a body above each."""

    discs: tuple[Segment, ...]
    sacrum: tuple[Segment, ...]
    bodies: tuple[Segment, ...]
    scale: float

    def line(self, z: Part) -> tuple[Part, Part, Part]:
        """R and A of the column's axis and its half depth, at every height."""
        knots = sorted((*self.discs, *self.sacrum, *self.bodies), key=lambda s: float(s.centre[2]))
        low, high = _moved(knots[0], -200.0), _moved(knots[-1], 200.0)
        knots = [low, *knots, high]
        height = np.array([s.centre[2] for s in knots])
        rows = np.array([(s.centre[0], s.centre[1], s.half_depth) for s in knots])
        right, ahead, depth = (np.interp(z, height, row).astype(np.float32) for row in rows.T)
        return right, ahead, depth


def column(rng: np.random.Generator, extent_mm: Sequence[float]) -> Column:
    """Draw a spine whose seven discs fill the height of the field of view."""
    scale = extent_mm[2] / HEIGHT_MM * rng.uniform(0.93, 1.03)
    tilt = np.deg2rad(np.array(_TILT_DEG) * rng.uniform(0.6, 1.15) + rng.normal(0, 1.5, N_DISCS))
    wave = np.sin(rng.uniform(0, 2 * np.pi) + 0.9 * np.arange(N_DISCS))
    lean = np.deg2rad(rng.uniform(-5, 5) * wave)
    discs = _discs(rng, tilt, lean, scale)
    marrow = rng.uniform(0.2, 0.55)
    stacked, bodies = [discs[0]], []
    for low, high, height in zip(discs, [*discs[1:], discs[-1]], _BODY_MM, strict=True):
        half = height / 2 * scale * rng.uniform(0.94, 1.05)
        body = _body(rng, low, high, half, marrow)
        body = _moved(replace(body, centre=stacked[-1].centre), half + low.half_height)
        bodies.append(body)
        stacked.append(_moved(replace(high, centre=body.centre), half + high.half_height, body))
    sacrum, top = _sacrum(rng, discs[0], marrow, scale), stacked[-2]
    gap = top.half_height + 24 * scale * rng.uniform(0.45, 0.8)
    middle = np.mean([s.centre[:2] for s in stacked[:-1]], axis=0)
    wanted = [rng.uniform(-2, 2) * scale, rng.uniform(-2, 12) * scale]
    shift = np.array([*(wanted - middle), extent_mm[2] / 2 - gap - top.centre[2]])
    tall = bodies[-1].half_height
    bodies[-1] = _moved(replace(bodies[-1], half_height=3 * tall), 2 * tall)

    def shifted(group: Sequence[Segment]) -> tuple[Segment, ...]:
        return tuple(replace(s, centre=s.centre + shift) for s in group)

    return Column(shifted(stacked[:-1]), shifted(sacrum), shifted(bodies), scale)


def _discs(
    rng: np.random.Generator, tilt: np.ndarray, lean: np.ndarray, scale: float
) -> list[Segment]:
    """Seven discs at the origin; a worn one is thinner and has lost water."""
    width, depth = rng.uniform(20.5, 24) * scale, rng.uniform(16, 18.5) * scale
    discs = []
    for at in range(N_DISCS):
        worn = rng.random() < _WORN[at]
        height = _DISC_MM[at] * (rng.uniform(0.75, 0.9) if worn else rng.uniform(0.93, 1.1))
        water = rng.uniform(0.32, 0.5) if worn else rng.uniform(0.55, 1.0)
        narrow = (1 - 0.018 * at) * rng.uniform(0.97, 1.03)
        wedge = rng.uniform(0, 0.22) if at < 4 else 0.0
        disc = Segment(
            centre=np.zeros(3),
            tilt=float(tilt[at]),
            lean=float(lean[at]),
            half_height=height / 2 * scale,
            half_width=width * narrow,
            half_depth=depth * narrow,
            swell=rng.uniform(0.05, 0.3),
            wedge=wedge,
            tissue=(water, 0.02),
        )
        discs.append(disc)
    return discs


def _body(
    rng: np.random.Generator, low: Segment, high: Segment, half: float, marrow: float
) -> Segment:
    """The vertebral body between two discs."""
    share = float(np.clip(marrow + rng.normal(0, 0.04), 0.1, 0.7))
    return replace(
        low,
        tilt=(low.tilt + high.tilt) / 2,
        lean=(low.lean + high.lean) / 2,
        half_height=half,
        half_width=0.48 * (low.half_width + high.half_width),
        half_depth=0.48 * (low.half_depth + high.half_depth),
        tissue=(0.72 - 0.75 * share, share),
    )


def _sacrum(
    rng: np.random.Generator, lowest: Segment, marrow: float, scale: float
) -> list[Segment]:
    """Three fused bodies below the lowest disc, each smaller and further back."""
    parts, below = [], lowest
    for half, size, tilt_deg in ((15.0, 0.95, 5.0), (12.5, 0.75, 10.0), (11.0, 0.6, 14.0)):
        body = _body(rng, lowest, lowest, half * scale, marrow)
        body = replace(
            body,
            centre=below.centre,
            tilt=lowest.tilt + float(np.deg2rad(tilt_deg)),
            half_width=body.half_width * size,
            half_depth=body.half_depth * size,
        )
        gap = 0.0 if below is lowest else 1.5 * scale
        below = _moved(body, -(half * scale + below.half_height + gap))
        parts.append(below)
    return parts


def _moved(segment: Segment, step_mm: float, along: Segment | None = None) -> Segment:
    """A segment moved along its own axis, or another's."""
    way = along or segment
    step = np.array([np.sin(way.lean), np.sin(way.tilt), np.cos(way.tilt)]) * step_mm
    return replace(segment, centre=segment.centre + step)


def smooth(rng: np.random.Generator, shape: Sequence[int], *, cells: Sequence[int]) -> Map:
    """Noise of unit variance at `cells` knots an axis, smoothly joined between them."""
    field = rng.standard_normal(cells).astype(np.float32)
    for n, knots in zip(shape, cells, strict=True):
        place = np.linspace(0, knots - 1, n)
        low = np.minimum(place.astype(int), max(knots - 2, 0))
        share = (place - low) ** 2 * (3 - 2 * (place - low))
        weights = np.zeros((n, knots), np.float32)
        weights[np.arange(n), low] += 1 - share
        weights[np.arange(n), np.minimum(low + 1, knots - 1)] += share
        field = np.tensordot(field, weights, (0, 1))
    return field


class Canvas:
    """Water and fat on a lattice, painted tissue over tissue."""

    def __init__(self, axes_mm: Sequence[Float[np.ndarray, " _"]]) -> None:
        x, y, z = (np.asarray(axis, np.float32) for axis in axes_mm)
        self.x, self.y, self.z = x[:, None, None], y[None, :, None], z[None, None, :]
        self.shape = (len(x), len(y), len(z))
        self.soft_mm = max(float(np.diff(axis).max()) for axis in (y, z))
        self.water = np.zeros(self.shape, np.float32)
        self.fat = np.zeros(self.shape, np.float32)

    def inside(self, distance_mm: Part) -> Part:
        """The share of a point that lies inside a surface, from its signed distance."""
        return np.clip(0.5 - distance_mm / self.soft_mm, 0, 1)

    def paint(self, share: Part, tissue: Tissue, *, place: Place = EVERYWHERE) -> None:
        """Replace that share of what is there by a tissue of this water and fat."""
        for canvas, value in zip((self.water, self.fat), tissue, strict=True):
            part = canvas[place]
            part += share * (value - part)

    def frame(self, segment: Segment, reach_mm: float) -> tuple[Place, Part, Part, Part]:
        """The box around a segment, and in it the distances to its right, ahead of and above it."""
        place, offsets = [], []
        for axis, middle in zip((self.x, self.y, self.z), segment.centre, strict=True):
            flat = axis.ravel() - np.float32(middle)
            found = np.flatnonzero(np.abs(flat) <= reach_mm)
            at = slice(found[0], found[-1] + 1) if len(found) else slice(0, 0)
            place.append(at)
            offsets.append(axis.reshape(-1)[at] - np.float32(middle))
        x, y, z = offsets[0][:, None, None], offsets[1][None, :, None], offsets[2][None, None, :]
        cos, sin, slope = np.cos(segment.tilt), np.sin(segment.tilt), np.tan(segment.lean)
        right, ahead = x - slope * z, y * np.float32(cos) - z * np.float32(sin)
        above = z * np.float32(cos) + y * np.float32(sin) + slope * x
        f = np.float32
        return (place[0], place[1], place[2]), right.astype(f), ahead.astype(f), above.astype(f)


def paint_column(
    canvas: Canvas, spine: Column, *, rng: np.random.Generator
) -> list[tuple[Place, Part]]:
    """Paint bodies, then discs; returns each disc's box and share, the lowest first."""
    for body in (*spine.sacrum, *spine.bodies):
        _paint_body(canvas, body, rng)
    return [_paint_disc(canvas, disc, rng) for disc in spine.discs]


def _outline(right: Part, ahead: Part, segment: Segment) -> Part:
    """1 on the rim of the segment's cross-section, 0 in its middle; flat towards the canal."""
    back = np.where(ahead < 0, 1.12, 1.0)
    across = np.abs(right / segment.half_width) ** 2.5
    return (across + np.abs(ahead * back / segment.half_depth) ** 2.5) ** 0.4


def _paint_body(canvas: Canvas, body: Segment, rng: np.random.Generator) -> None:
    reach = 1.1 * float(np.hypot(body.half_height + 4, body.half_width))
    place, right, ahead, above = canvas.frame(body, reach)
    waist = 1 - 0.1 * (1 - np.minimum(np.abs(above) / body.half_height, 1) ** 2)
    rim = (_outline(right, ahead, body) / waist - 1) * body.half_depth
    dip = 1.5 * np.clip(1 - (_outline(right, ahead, body)) ** 2, 0, 1)
    ends = np.abs(above) - body.half_height + dip
    surface = np.maximum(rim, ends)
    canvas.paint(canvas.inside(surface - 0.5), CORTEX, place=place)
    spots = 1 + 0.12 * smooth(rng, surface.shape, cells=(3, 4, 4))
    spot = np.clip(smooth(rng, surface.shape, cells=(3, 4, 4)) * 2 - 4, 0, 0.6)
    water, fat = body.tissue
    canvas.paint(canvas.inside(surface + 0.9), (water * spots, fat * spots + spot), place=place)


def _paint_disc(canvas: Canvas, disc: Segment, rng: np.random.Generator) -> tuple[Place, Part]:
    place, right, ahead, above = canvas.frame(disc, 1.3 * disc.half_width)
    outline = _outline(right, ahead, disc)
    thickness = disc.half_height * (
        1 + disc.swell * np.clip(1 - outline**2, 0, 1) + disc.wedge * ahead / disc.half_depth
    )
    ends = np.abs(above) - thickness
    share = canvas.inside(np.maximum(ends, (outline - 1) * disc.half_depth))
    hydration = disc.tissue[0]
    grain = 1 + 0.06 * smooth(rng, share.shape, cells=(4, 4, 3))
    canvas.paint(share, (0.34 * grain, 0.03), place=place)
    annulus = canvas.inside(np.maximum(ends + 0.8, (outline - 0.88) * disc.half_depth))
    canvas.paint(annulus, ((0.36 + 0.22 * hydration) * grain, 0.02), place=place)
    nucleus = np.clip(2.2 - 3.2 * outline, 0, 1) * np.clip(-ends / (0.5 * disc.half_height), 0, 1)
    cleft = 1 - 0.25 * np.exp(-((above / (0.2 * disc.half_height)) ** 2)) * (hydration > 0.7)
    canvas.paint(nucleus, (hydration * grain * cleft, 0.01), place=place)
    return place, share
