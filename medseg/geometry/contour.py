"""Contours of organs: named runs of landmarks, their polygons, and the way between both and masks.

Points are (x, y) in pixels, x to the right, y down, from the corner of the raster: pixel (row i,
column j) covers [j, j + 1) x [i, i + 1).

Source: the filled polygon is that of OpenCV 4's `drawContours` (Apache-2.0): even-odd rows at 16
fractional bits, rounded, and Bresenham's line for each side. Differs: a side that leaves the raster
goes on as it is, instead of being cut to whole pixels first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt

MOST_CONTOURS = 16
_FRACTION = 16
_FAR = float(2**24)

Points = Float[np.ndarray, "n 2"]
Mask = Bool[np.ndarray, "h w"]
Nodes = Integer[np.ndarray, "n 2"]
Pixels = tuple[Integer[np.ndarray, " pixel"], Integer[np.ndarray, " pixel"]]


@dataclass(frozen=True)
class Contour:
    """A named run of landmarks; a closed one bounds an organ, an open one is a line."""

    name: str
    nodes: int
    closed: bool = True


def contours(organs: Mapping[str, object], *, least: int = 3) -> tuple[Contour, ...]:
    """The contours of a recipe, in its order: a number of nodes, or `{nodes, closed}`.

    `least` is how many nodes a closed contour must have; an open one may have one less. A network
    that pools once needs 5, of which it keeps 3.
    """
    if not organs:
        raise ValueError("no organs are named; name at least one, such as {heart: 26}")
    if len(organs) > MOST_CONTOURS:
        raise ValueError(
            f"{len(organs)} organs are named, a label image holds {MOST_CONTOURS}; name fewer"
        )
    found = tuple(_contour(name, entry, least) for name, entry in organs.items())
    seen: dict[str, str] = {}
    for contour in found:
        other = seen.setdefault(contour.name.casefold(), contour.name)
        if other != contour.name:
            raise ValueError(f"organs {other!r} and {contour.name!r} differ by case alone")
    return found


def _contour(name: str, entry: object, least: int) -> Contour:
    if not isinstance(name, str) or not name or not name.isprintable() or name != name.strip():
        raise ValueError(f"organ name {name!r}: give printable text without spaces at its ends")
    fields = dict(entry) if isinstance(entry, Mapping) else {"nodes": entry}
    unknown = sorted(str(key) for key in fields.keys() - {"nodes", "closed"})
    if unknown:
        raise ValueError(f"organ {name!r} has {', '.join(unknown)}; it takes nodes and closed")
    nodes, closed = fields.get("nodes"), fields.get("closed", True)
    if not isinstance(nodes, int) or isinstance(nodes, bool):
        raise ValueError(f"organ {name!r} has {nodes!r} nodes; give a whole number")
    if not isinstance(closed, bool):
        raise ValueError(f"organ {name!r} has closed = {closed!r}; give true or false")
    wanted = least if closed else max(least - 1, 2)
    if nodes < wanted:
        kind = "a closed" if closed else "an open"
        raise ValueError(
            f"organ {name!r} has {nodes} nodes, {kind} contour needs at least {wanted} here; "
            "give it more, or a network that pools less"
        )
    return Contour(name, nodes, closed)


def slices(contours: Sequence[Contour]) -> dict[str, slice]:
    """Where each contour's nodes lie in the list of all nodes."""
    ends = np.cumsum([contour.nodes for contour in contours]).tolist()
    return {c.name: slice(end - c.nodes, end) for c, end in zip(contours, ends, strict=True)}


def rasterise(points: Points, shape: tuple[int, int]) -> Mask:
    """The polygon's pixels, those under its sides included; coordinates lose their fractions.

    Where the polygon crosses itself, what it surrounds twice is outside. `shape` is (rows,
    columns); what lies beyond is cut off.
    """
    raster = np.zeros(shape, dtype=bool)
    if not np.isfinite(points).all():
        raise ValueError("a polygon has points that are not numbers; leave such a contour out")
    starts = np.clip(points, -_FAR, _FAR).astype(np.int64)
    if not len(starts):
        return raster
    low = np.maximum(starts.min(0), 0)
    high = np.minimum(starts.max(0) + 1, (shape[1], shape[0]))
    if (low >= high).any():
        return raster
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    ends = np.roll(starts, -1, axis=0)
    turns = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    rows, columns = _crossings(starts, ends, (top, bottom))
    np.bitwise_xor.at(turns, (rows - top, np.clip(columns + 1, left, right) - left), 1)
    np.bitwise_xor.accumulate(turns, axis=1, out=turns)
    raster[top:bottom, left:right] = turns[:, :-1].view(bool)
    inside = (columns >= left) & (columns < right)
    raster[rows[inside], columns[inside]] = True
    raster[_lines(starts, ends, shape)] = True
    return raster


def _crossings(starts: Nodes, ends: Nodes, rows: tuple[int, int]) -> Pixels:
    """Row and nearest column of each crossing of a side with a row, its lower end left out."""
    down = (ends[:, 1] > starts[:, 1])[:, None]
    upper, lower = np.where(down, starts, ends), np.where(down, ends, starts)
    run, fall = ((lower - upper)[:, axis] for axis in (0, 1))
    slope = np.sign(run) * ((np.abs(run) << _FRACTION) // np.maximum(fall, 1))
    side, row = _runs(np.clip(upper[:, 1], *rows), np.clip(lower[:, 1], *rows))
    place = (upper[side, 0] << _FRACTION) + (row - upper[side, 1]) * slope[side]
    return row, (place + (1 << _FRACTION - 1)) >> _FRACTION


def _lines(starts: Nodes, ends: Nodes, shape: tuple[int, int]) -> Pixels:
    """Rows and columns of the pixels under the sides: from the left, a half goes to the start."""
    swap = (ends[:, 0] < starts[:, 0])[:, None]
    origin, target = np.where(swap, ends, starts), np.where(swap, starts, ends)
    run, rise = (target - origin).T
    way, rise = np.where(rise < 0, -1, 1), np.abs(rise)
    steep = rise > run
    longer, shorter = np.where(steep, rise, run), np.where(steep, run, rise)
    begin = np.where(steep, origin[:, 1] * way, origin[:, 0])
    extent = np.where(steep, shape[0], shape[1])
    lowest = np.where(steep & (way < 0), 1 - extent, 0)
    first = np.maximum(lowest - begin, 0)
    side, far = _runs(first, np.minimum(longer, lowest + extent - 1 - begin) + 1)
    reach = 2 * np.maximum(longer, 1)
    off = -((longer[side] - 2 * shorter[side] * far) // reach[side])
    columns = origin[side, 0] + np.where(steep[side], off, far)
    rows = origin[side, 1] + way[side] * np.where(steep[side], far, off)
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    return rows[inside], columns[inside]


def _runs(first: Integer[np.ndarray, " n"], stop: Integer[np.ndarray, " n"]) -> Pixels:
    """All whole numbers from each first up to its stop, and whose they are."""
    lengths = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    past = np.cumsum(lengths) - lengths
    return owner, np.arange(len(owner)) - past[owner] + first[owner]


def flags(
    points: Points, contours: Sequence[Contour], *, shape: tuple[int, int]
) -> UInt[np.ndarray, "h w"]:
    """Label image in which contour number k is bit 1 << k, so that organs may overlap.

    An open contour draws nothing, nor does one with a point that is not a number.
    """
    labels = np.zeros(shape, dtype=np.uint8 if len(contours) <= 8 else np.uint16)
    for number, (contour, own) in enumerate(zip(contours, slices(contours).values(), strict=True)):
        if contour.closed and np.isfinite(points[own]).all():
            labels[rasterise(points[own], shape)] |= labels.dtype.type(1 << number)
    return labels


def area(points: Points) -> float:
    """Area of a closed contour, whichever way it turns."""
    x, y = (points - points[:1]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def perimeter(points: Points, *, closed: bool = True) -> float:
    """Length along a contour."""
    return float(_lengths(points, closed).sum())


def resample(points: Points, n: int, *, closed: bool = True) -> Float[np.ndarray, "m 2"]:
    """`n` points at equal distances along a contour, the first where it begins."""
    lengths = _lengths(points, closed)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    corners = np.concatenate([points, points[:1]]) if closed else points
    wanted = np.linspace(0.0, along[-1], n, endpoint=not closed)
    return np.stack([np.interp(wanted, along, corners[:, axis]) for axis in (0, 1)], axis=1)


def _lengths(points: Points, closed: bool) -> Float[np.ndarray, " side"]:
    steps = np.roll(points, -1, axis=0) - points
    return np.hypot(*(steps if closed else steps[:-1]).T)


def self_intersections(points: Points, *, closed: bool = True) -> int:
    """How many pairs of sides that are no neighbours cross each other."""
    moved = (points != np.roll(points, 1, axis=0)).any(1)
    if not closed:
        moved[:1] = True
    kept = points[moved]
    n = len(kept)
    if n < 4:
        return 0
    side = np.roll(kept, -1, axis=0) - kept
    apart = kept[None] - kept[:, None]
    # A point on a line counts as on its left, so that a crossing through a node is one crossing.
    left = side[:, None, 0] * apart[..., 1] - side[:, None, 1] * apart[..., 0] >= 0
    split = left != np.roll(left, -1, axis=1)
    both = np.triu(split & split.T, 2)
    if closed:
        both[0, n - 1] = False
    else:
        both[:, n - 1] = False
    return int(np.count_nonzero(both))


def components(mask: Mask) -> int:
    """Connected pieces of a mask; pixels that share a corner are connected."""
    from scipy.ndimage import label

    return int(label(_cropped(mask)[0], np.ones((3, 3)))[1])


def holes(mask: Mask) -> int:
    """Pieces of the outside that a mask surrounds; those must share an edge to be connected."""
    from scipy.ndimage import label

    return int(label(~np.pad(_cropped(mask)[0], 1))[1]) - 1


def _cropped(mask: Mask) -> tuple[Bool[np.ndarray, "rows columns"], tuple[int, int]]:
    """The part of a mask that holds something, and its first row and column."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:0, :0], (0, 0)
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return part, (int(rows[0]), int(columns[0]))


def outline(mask: Mask, *, most: int = 300) -> Points:
    """Outer boundary of a mask's largest piece, clockwise, at most `most` points evenly spaced.

    It runs through the centres of the boundary's pixels, smoothed over three of them, so that
    `rasterise` gives the piece back with its holes filled.
    """
    from scipy.ndimage import label

    part, (top, left) = _cropped(mask)
    if not part.size:
        raise ValueError("an empty mask has no outline; leave the organ out of this case")
    pieces, number = label(part, np.ones((3, 3)))
    if number > 1:
        part = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    centres = _boundary(part) + np.array([left, top]) + 0.5
    smooth = (np.roll(centres, 1, axis=0) + 2 * centres + np.roll(centres, -1, axis=0)) / 4
    return resample(smooth, max(3, min(most, len(smooth))))


def _boundary(piece: Mask) -> Points:
    """Columns and rows of the pixels along the boundary of one piece, walked around clockwise."""
    framed = np.pad(piece, 1)
    width = framed.shape[1]
    inside = framed.tobytes()
    steps = (1, width + 1, width, width - 1, -1, -width - 1, -width, 1 - width)
    start = place = inside.index(1)
    heading, first = 2, -1
    path = [start]
    while True:
        turns = ((heading + 6 + turn) % 8 for turn in range(8))
        heading = next((way for way in turns if inside[place + steps[way]]), -1)
        if heading < 0 or (place == start and heading == first):
            break
        first = heading if first < 0 else first
        place += steps[heading]
        path.append(place)
    rows, columns = np.divmod(np.array(path[: max(len(path) - 1, 1)]), width)
    return np.stack([columns - 1.0, rows - 1.0], axis=1)
