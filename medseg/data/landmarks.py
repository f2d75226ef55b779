"""Landmarks as files: CSV (organ, index, x, y), or `.npy` of all nodes in the recipe's order.

Coordinates are x and y in pixels of the image, from the outer corner of its first pixel.
"""

import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medseg.data.sheet import read_text
from medseg.geometry.contour import Contour, slices
from medseg.provenance import write_text

COLUMNS = ("organ", "index", "x", "y")

_MARGIN = 1.0  # pixels: a contour drawn along the border may round to just beyond it
_SPOT = 0.02  # of the longer side: nothing that is drawn by landmarks is as small


def read_points(path: Path, contours: Sequence[Contour]) -> Float[np.ndarray, "n 2"]:
    """All nodes in the order of `contours`; NaN for organs and nodes that are not annotated."""
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".tsv", ".npy"}:
        raise ValueError(f"{path} is no file of landmarks; give a .csv or a .npy file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give a .csv or a .npy of landmarks")
    points = _from_array(path, contours) if suffix == ".npy" else _from_text(path, contours)
    half = np.isnan(points).sum(axis=1) == 1
    if np.isinf(points).any() or half.any():
        node = int(np.flatnonzero(half | np.isinf(points).any(axis=1))[0])
        raise ValueError(
            f"{path}: {_named(node, contours)} is ({points[node, 0]:g}, {points[node, 1]:g}); "
            "give both coordinates, or neither where it is not annotated"
        )
    if np.isnan(points).all():
        raise ValueError(f"{path} annotates no node at all; leave the file out of the sheet")
    return points


def inside(
    points: Float[np.ndarray, "n 2"], contours: Sequence[Contour], *, size: tuple[int, int]
) -> None:
    """Refuse landmarks that lie outside an image of `size` (columns, rows) pixels, or in a spot."""
    known = points[np.isfinite(points).all(1)]
    if len(known) > 1 and float(np.ptp(known, axis=0).max()) < max(_SPOT * max(size), _MARGIN):
        extent = float(np.ptp(known, axis=0).max())
        raise ValueError(
            f"all {len(known)} landmarks lie within {extent:.2g} pixels of an image of {size[0]} x "
            f"{size[1]}; wanted are x and y in pixels of the image: are these shares of its side?"
        )
    beyond = (points < -_MARGIN) | (points > np.array(size) + _MARGIN)
    count = int(beyond.any(axis=1).sum())
    if count:
        node = int(np.flatnonzero(beyond.any(axis=1))[0])
        raise ValueError(
            f"{count} of {len(points)} landmarks lie outside the image of {size[0]} x {size[1]} "
            f"pixels, the first is {_named(node, contours)} at ({points[node, 0]:g}, "
            f"{points[node, 1]:g}); wanted are x and y in pixels of this very image: were they "
            "drawn at another size, or are x and y exchanged?"
        )


def points_text(
    points: Float[np.ndarray, "n 2"],
    contours: Sequence[Contour],
    *,
    extra: Mapping[str, Float[np.ndarray, " n"]] | None = None,
) -> str:
    """Landmarks as CSV text, `extra` as further columns; organs that are all NaN have no line."""
    beside = dict(extra or {})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *beside])
    for organ, nodes in slices(contours).items():
        if np.isnan(points[nodes]).all():
            continue
        for index, node in enumerate(range(nodes.start, nodes.stop)):
            values = [*points[node], *(column[node] for column in beside.values())]
            writer.writerow([organ, index, *("" if np.isnan(v) else f"{v:.4f}" for v in values)])
    return text.getvalue()


def write_points_csv(
    path: Path,
    points: Float[np.ndarray, "n 2"],
    *,
    contours: Sequence[Contour],
    extra: Mapping[str, Float[np.ndarray, " n"]] | None = None,
) -> None:
    """Write `points_text` atomically."""
    write_text(path, points_text(points, contours, extra=extra))


def _from_array(path: Path, contours: Sequence[Contour]) -> Float[np.ndarray, "n 2"]:
    """Rows of x and y, or x and y by turns."""
    count = sum(contour.nodes for contour in contours)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no array file, or damaged ({error}); save it again") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds no array of real numbers; save one by numpy.save")
    if array.shape not in {(count, 2), (2 * count,)}:
        named = ", ".join(f"{contour.name} {contour.nodes}" for contour in contours)
        raise ValueError(
            f"{path} has the shape {array.shape}, and the organs ({named}) have {count} nodes; "
            f"wanted: ({count}, 2) or ({2 * count},), with NaN for what is not annotated, or a CSV "
            "file that names the organs"
        )
    return array.reshape(count, 2).astype(np.float64)


def _from_text(path: Path, contours: Sequence[Contour]) -> Float[np.ndarray, "n 2"]:
    """Lines in any order, by their organ and index."""
    rows = _rows(path)
    places, nodes = slices(contours), {contour.name: contour.nodes for contour in contours}
    points = np.full((sum(nodes.values()), 2), np.nan)
    given: dict[str, dict[int, int]] = {}
    for line, row in rows:
        organ = row["organ"]
        if organ not in nodes:
            near = difflib.get_close_matches(organ, nodes, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(nodes)}"
            raise ValueError(
                f"{path}, line {line}: no organ of the recipe is called '{organ}'; {hint} "
                "(else add it to the recipe's organs, or leave its lines out)"
            )
        index = _index(path, line, row)
        earlier = given.setdefault(organ, {}).setdefault(index, line)
        if earlier != line:
            raise ValueError(
                f"{path}: lines {earlier} and {line} are both {organ} {index}; remove one"
            )
    shift = _first(path, given, nodes)
    for line, row in rows:
        node = places[row["organ"]].start + _index(path, line, row) - shift
        points[node] = [_number(path, line, row, axis) for axis in ("x", "y")]
    return points


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells by column; comma, semicolon or tab, whichever the header holds most."""
    try:
        lines = read_text(path).splitlines()
    except ValueError:
        raise ValueError(
            f"{path} is no UTF-8 text; landmarks are a CSV file: save it as 'CSV UTF-8'"
        ) from None
    first = next((line for line in lines if line.strip()), "")
    mark = max(",;\t", key=first.count)
    cells = csv.reader(lines, delimiter=mark, skipinitialspace=True)
    names: list[str] = []
    rows = []
    for row in cells:
        stripped = [cell.strip() for cell in row]
        if not any(stripped):
            continue
        if not names:
            names = [name.lower() for name in stripped]
            continue
        rows.append((cells.line_num, dict(zip(names, stripped, strict=False))))
    missing = [name for name in COLUMNS if names.count(name) != 1]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)} (or several of them); landmarks are a CSV "
            "file with the header line organ,index,x,y"
        )
    if not rows:
        raise ValueError(f"{path} holds a header and no landmark; leave it out of the sheet")
    return [(line, {n: row.get(n, "") for n in COLUMNS}) for line, row in rows]


def _index(path: Path, line: int, row: Mapping[str, str]) -> int:
    text = row["index"]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{path}, line {line}: index is '{text}'; count from 0 within the organ")
    return int(text)


def _number(path: Path, line: int, row: Mapping[str, str], axis: str) -> float:
    """A coordinate; an empty cell is NaN."""
    try:
        return float(row[axis] or "nan")
    except ValueError:
        raise ValueError(
            f"{path}, line {line}: {axis} is '{row[axis]}'; give pixels as a number (1.5)"
        ) from None


def _first(path: Path, given: Mapping[str, Mapping[int, int]], nodes: Mapping[str, int]) -> int:
    """Whether indices begin with 0 or with 1; every organ that is named has each index once."""
    for first in (0, 1):
        if all(set(i) == set(range(first, first + nodes[organ])) for organ, i in given.items()):
            return first
    for organ, indices in given.items():
        wanted = range(nodes[organ])
        odd = [index for index in indices if index not in wanted]
        if odd:
            raise ValueError(
                f"{path}, line {indices[odd[0]]}: {organ} has {nodes[organ]} nodes, so its indices "
                f"are 0 to {nodes[organ] - 1}, not {odd[0]}; mend the file or the recipe's organs"
            )
        lost = [index for index in wanted if index not in indices]
        if lost:
            raise ValueError(
                f"{path}: {organ} lacks {len(lost)} of its {nodes[organ]} nodes (index {lost[0]} "
                "first); leave x and y empty where a node is not annotated, or the whole organ out"
            )
    raise ValueError(f"{path} counts some organs from 0 and some from 1; count all from 0")


def _named(node: int, contours: Sequence[Contour]) -> str:
    for organ, nodes in slices(contours).items():
        if nodes.start <= node < nodes.stop:
            return f"{organ} {node - nodes.start}"
    return f"node {node}"
