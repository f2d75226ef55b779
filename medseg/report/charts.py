"""Small drawings as SVG text: a strip with its box, an interval, curves; colours come from CSS."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, quantiles

WIDTH = 560
LANE = 26
LEFT = 132
RIGHT = 16
MOST_DOTS = 300


@dataclass(frozen=True)
class Dot:
    """One value: what it belongs to, and whether something went wrong with it."""

    name: str
    value: float
    bad: bool = False


def strips(lanes: Mapping[str, Sequence[Dot]], *, unit: str, top: float | None = None) -> str:
    """A lane a name: every value as a dot, quartiles as a box, the mean as a line.

    `top` fixes the axis' end; without it the axis ends past the largest good value, and what lies
    beyond (the cap of a missed structure) is an arrow at the edge.
    """
    good = [d.value for dots in lanes.values() for d in dots if not d.bad]
    every = [d.value for dots in lanes.values() for d in dots]
    low = min([0.0, *good])
    ticks = _ticks(low, top if top is not None else max(good or every or [1.0]) * 1.02)
    low, high = min(low, ticks[0]), max(ticks[-1], top or 0.0)
    height = len(lanes) * LANE + 30
    out = [_open(WIDTH, height, "strip")]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (min(value, high) - low) / ((high - low) or 1)

    for tick in ticks:
        out.append(_line(x(tick), 4, x(tick), height - 24, "grid"))
        out.append(_text(x(tick), height - 8, f"{tick:g}", "tick", "middle"))
    if unit:
        out.append(_text(LEFT - 10, height - 8, unit, "tick", "end"))
    for lane, (name, dots) in enumerate(lanes.items()):
        middle = 6 + LANE * lane + LANE / 2
        out.append(_text(LEFT - 10, middle + 4, _short(name), "lane", "end", whole=name))
        out += _lane(dots, middle, x, high)
    return "".join([*out, "</svg>"])


def _lane(
    dots: Sequence[Dot], middle: float, x: Callable[[float], float], high: float
) -> list[str]:
    values = sorted(dot.value for dot in dots)
    out = []
    if len(values) > 3:
        first, _, third = quantiles(values, n=4, method="inclusive")
        width = max(1.0, x(third) - x(first))
        out.append(
            f'<rect class="box" x="{x(first):.1f}" y="{middle - 8:.1f}" width="{width:.1f}" '
            'height="16" rx="3"/>'
        )
    step = max(1, len(dots) // MOST_DOTS)
    for dot in [d for n, d in enumerate(dots) if d.bad or n % step == 0]:
        kind = "dot bad" if dot.bad else "dot"
        tip = f"<title>{escape(dot.name)}: {dot.value:.4g}</title>"
        at, row = x(dot.value), middle + (zlib.crc32(dot.name.encode()) % 1000 - 500) / 100
        if dot.value > high:
            arrow = f"M{at - 5:.1f} {row - 4:.1f}l8 4l-8 4z"
            out.append(f'<path class="{kind}" d="{arrow}">{tip}</path>')
        else:
            out.append(_circle(at, row, 3.1, kind, tip))
    if values:
        mean = x(fmean(values))
        out.append(_line(mean, middle - 10, mean, middle + 10, "mean"))
    return out


@dataclass(frozen=True)
class Span:
    """A mean, the ends of its interval, and the values that it is the mean of."""

    mean: float
    low: float | None = None
    high: float | None = None
    points: Sequence[Dot] = ()


def spans(lanes: Mapping[str, Span], *, zero: bool = False) -> str:
    """A lane a name: the mean, its interval, its points; the axis fits them, and 0 if asked."""
    every = [v for s in lanes.values() for v in (s.mean, s.low, s.high) if v is not None]
    every += [dot.value for span in lanes.values() for dot in span.points] + [0.0] * zero
    ticks = _ticks(min(every, default=0.0), max(every, default=1.0))
    height = len(lanes) * LANE + 30
    out = [_open(WIDTH, height, "spans")]

    def x(value: float) -> float:
        share = (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    for tick in ticks:
        out.append(_line(x(tick), 4, x(tick), height - 24, "mean" if zero and not tick else "grid"))
        out.append(_text(x(tick), height - 8, f"{tick:g}", "tick", "middle"))
    for lane, (name, span) in enumerate(lanes.items()):
        middle = 6 + LANE * lane + LANE / 2
        out.append(_text(LEFT - 10, middle + 4, _short(name), "lane", "end", whole=name))
        if span.low is not None and span.high is not None:
            out.append(_line(x(span.low), middle, x(span.high), middle, "span"))
        for dot in span.points:
            tip = f"<title>{escape(dot.name)}: {dot.value:.4g}</title>"
            out.append(_circle(x(dot.value), middle - 8, 2.6, "end c1", tip))
        tip = f"<title>{escape(name)}: {span.mean:.4g}</title>"
        out.append(_circle(x(span.mean), middle, 4, "dot", tip))
    return "".join([*out, "</svg>"])


def interval(mean: float, *, low: float | None, high: float | None, top: float = 1.0) -> str:
    """A mean and its interval on a track from 0 to `top`."""
    width, height = 120.0, 14
    scale = (width - 8) / top if top else 0.0

    def x(value: float) -> float:
        return 4 + scale * min(max(value, 0.0), top)

    out = [_open(width, height, "interval"), _line(4, 7, width - 4, 7, "track")]
    if low is not None and high is not None:
        out.append(_line(x(low), 7, x(high), 7, "span"))
    return "".join([*out, _circle(x(mean), 7, 3.6, "dot"), "</svg>"])


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    *,
    axis: str = "epoch",
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    base: float | None = 0.0,
) -> str:
    """Lines over epochs (or another axis) in one panel; each ends in a dot.

    `bands` are intervals (at, low, high) behind a line; the panel reaches to `base` at least.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    key = _legend(list(series), 46.0, 460 - 12)
    width, height, left, bottom = 460, 212 + 18 * key.rows, 46, 26 + 18 * key.rows
    ends = min(p[0] for p in points), max(p[0] for p in points)
    heights = [p[1] for p in points] + [v for b in (bands or {}).values() for p in b for v in p[1:]]
    ticks = _ticks(min([base, *heights] if base is not None else heights), max(heights))

    def x(value: float) -> float:
        return left + (width - left - 12) * (value - ends[0]) / ((ends[1] - ends[0]) or 1)

    def y(value: float) -> float:
        span = (ticks[-1] - ticks[0]) or 1
        return height - bottom - (height - bottom - 26) * (value - ticks[0]) / span

    out = [_open(width, height, "curves"), _text(left, 14, title, "title", "start")]
    for tick in ticks:
        out.append(_line(left, y(tick), width - 12, y(tick), "grid"))
        out.append(_text(left - 6, y(tick) + 4, f"{tick:g}", "tick", "end"))
    for tick in [
        t for t in _ticks(*ends) if ends[0] <= t <= ends[1] and (t == int(t) or axis != "epoch")
    ]:
        out.append(_text(x(tick), height - bottom + 15, f"{tick:g}", "tick", "middle"))
    low = height - bottom + 15 if axis == "epoch" else 14
    out.append(_text(width - 12, low, axis, "tick", "end"))
    for number, name in enumerate(series):
        ways = [
            (x(at), y(lowest), y(highest)) for at, lowest, highest in (bands or {}).get(name, ())
        ]
        edge = [(a, top) for a, _, top in ways] + [(a, foot) for a, foot, _ in reversed(ways)]
        if len(ways) > 1:
            corners = " ".join(f"{across:.1f},{down:.1f}" for across, down in edge)
            out.append(f'<polygon class="band c{number % 6}" points="{corners}"/>')
    for number, line in enumerate(series.values()):
        place = [(x(at), y(value)) for at, value in line]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in place)
        out.append(f'<polyline class="line c{number % 6}" points="{path}"/>')
        out.append(_circle(*place[-1], 3, f"end c{number % 6}"))
    return "".join([*out, *key.draw(height - 14 - 18 * (key.rows - 1)), "</svg>"])


@dataclass(frozen=True)
class _Legend:
    """Names with their place across and their row."""

    places: tuple[tuple[str, float, int], ...]

    @property
    def rows(self) -> int:
        return 1 + max(row for _, _, row in self.places)

    def draw(self, top: float) -> list[str]:
        out = []
        for number, (name, place, row) in enumerate(self.places):
            down = top + 18 * row
            out.append(
                f'<rect class="key c{number % 6}" x="{place:.0f}" y="{down:.0f}" width="10" '
                'height="10" rx="2"/>'
            )
            out.append(_text(place + 14, down + 9, _short(name, 60), "tick", "start"))
        return out


def _legend(names: Sequence[str], left: float, right: float) -> _Legend:
    """Names beside each other, in as many rows as they need."""
    places, place, row = [], left, 0
    for name in names:
        wide = 26 + 6.3 * min(len(name), 60)
        if place > left and place + wide > right:
            place, row = left, row + 1
        places.append((name, place, row))
        place += wide
    return _Legend(tuple(places))


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span the range."""
    span = (high - low) or abs(high) or 1.0
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * n, 10) for n in range(first, last + 1)]


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _open(width: float, height: float, kind: str) -> str:
    return f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" width="{width:g}">'


def _circle(x: float, y: float, radius: float, kind: str, tip: str = "") -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{tip}</circle>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str, *, whole: str = "") -> str:
    tip = f"<title>{escape(whole)}</title>" if whole else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{tip}'
        f"{escape(text)}</text>"
    )
