"""Contours: their polygons as OpenCV fills them, and the way back from a mask."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from medseg.geometry import contour
from medseg.geometry.contour import Contour

JSRT = {
    "right_lung": 44,
    "left_lung": 50,
    "heart": 26,
    "right_clavicle": 23,
    "left_clavicle": 23,
}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * int((one & other).sum()) / int(one.sum() + other.sum())


def line(a: tuple[int, int], b: tuple[int, int]) -> set[tuple[int, int]]:
    """Bresenham's pixels from the left end, step by step with its error term."""
    (x, y), (u, v) = min(a, b, key=lambda p: p[0]), max(a, b, key=lambda p: p[0])
    if a[0] == b[0]:
        (x, y), (u, v) = a, b
    dx, dy, way = u - x, abs(v - y), 1 if v >= y else -1
    long, short = max(dx, dy), min(dx, dy)
    error, found = long - 2 * short, {(x, y)}
    for _ in range(long):
        step = error < 0
        error += -2 * short + (2 * long if step else 0)
        x += 1 if dx >= dy or step else 0
        y += way if dy > dx or step else 0
        found.add((x, y))
    return found


def slow_polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The filled polygon, side by side and row by row, in whole numbers."""
    nodes = [(int(x), int(y)) for x, y in points]
    sides = list(zip(nodes, [*nodes[1:], nodes[0]], strict=True))
    pixels = set().union(*(line(a, b) for a, b in sides))
    for row in range(shape[0]):
        places = []
        for a, b in sides:
            (x, y), (u, v) = (a, b) if a[1] < b[1] else (b, a)
            if y <= row < v:
                slope = int(np.sign(u - x)) * ((abs(u - x) * 65536) // (v - y))
                places.append(x * 65536 + (row - y) * slope)
        places.sort()
        for left, right in zip(places[::2], places[1::2], strict=True):
            pixels |= {
                (column, row) for column in range((left + 32768) >> 16, ((right + 32768) >> 16) + 1)
            }
    raster = np.zeros(shape, dtype=bool)
    for x, y in pixels:
        if 0 <= x < shape[1] and 0 <= y < shape[0]:
            raster[y, x] = True
    return raster


def disc(side: int, radius: float, *, at: tuple[float, float] | None = None) -> np.ndarray:
    """Mask of an egg-like shape with a smooth boundary."""
    x, y = at or (side / 2 + 3.3, side / 2 - 5.1)
    rows, columns = np.mgrid[:side, :side] + 0.5
    angle = np.arctan2(rows - y, columns - x)
    return np.hypot(rows - y, columns - x) < radius * (1 + 0.2 * np.cos(2 * angle))


@pytest.mark.parametrize("seed", range(12))
def test_a_polygon_is_filled_as_by_the_slow_rule(seed: int) -> None:
    source = np.random.default_rng(seed)
    shape = (40, 55)
    for count in (1, 2, 3, 4, 9, 30):
        points = source.uniform(-12, 65, (count, 2))
        np.testing.assert_array_equal(contour.rasterise(points, shape), slow_polygon(points, shape))


def test_a_rectangle_has_its_sides_and_loses_fractions() -> None:
    corners = np.array([[2.9, 3.2], [6.99, 3.0], [6.0, 9.5], [2.0, 9.99]])
    raster = contour.rasterise(corners, (12, 12))
    assert raster.sum() == 5 * 7
    assert raster[3:10, 2:7].all()


def test_what_is_surrounded_twice_is_outside() -> None:
    twice = np.array([[2.0, 2], [20, 2], [20, 20], [2, 20], [2, 2], [6, 6], [6, 16], [16, 16]])
    once = np.array([[2.0, 2], [20, 2], [20, 20], [2, 20]])
    both = np.concatenate([twice, [[16.0, 6], [6, 6]]])
    raster = contour.rasterise(both, (24, 24))
    assert raster[4, 4]
    assert not raster[10, 10]
    assert contour.rasterise(once, (24, 24))[10, 10]


def test_a_polygon_outside_or_far_off_costs_nothing() -> None:
    assert not contour.rasterise(np.array([[30.0, 30], [40, 30], [35, 40]]), (20, 20)).any()
    far = np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]])
    assert contour.rasterise(far, (20, 20)).all()
    assert not contour.rasterise(np.zeros((0, 2)), (5, 5)).any()
    with pytest.raises(ValueError, match="not numbers"):
        contour.rasterise(np.array([[np.nan, 1], [2, 3], [4, 5]]), (5, 5))


def test_a_polygon_of_fifty_nodes_takes_under_three_milliseconds() -> None:
    angle = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    points = 512 + np.stack([300 * np.cos(angle), 420 * np.sin(angle)], axis=1)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        contour.rasterise(points, (1024, 1024))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.003


def test_equals_the_masks_that_opencv_drew(reference: Path) -> None:
    from skimage.io import imread

    folder = reference / "data/cxr_cc0"
    for organ in ("RL", "LL", "H"):
        points = np.loadtxt(folder / f"{organ}_landmarks.txt")
        drawn = imread(folder / f"{organ}_mask.png") > 0
        np.testing.assert_array_equal(contour.rasterise(points, drawn.shape), drawn)


def test_published_landmarks_agree_with_the_masks_they_follow(reference: Path) -> None:
    from skimage.io import imread

    folder = reference / "data/jsrt"
    organs = contour.contours(JSRT)
    for case in (folder / "val.txt").read_text().split()[:4]:
        name = Path(case).stem
        masks = imread(folder / f"masks/{name}.png")
        points = np.load(folder / f"landmarks/{name}.npy").astype(float)
        drawn = contour.flags(points, organs, shape=masks.shape)
        for number, organ in enumerate(organs):
            mask = (masks >> number & 1).astype(bool)
            assert dice((drawn >> number & 1).astype(bool), mask) > 0.97, organ.name
            assert dice(contour.rasterise(contour.outline(mask), mask.shape), mask) > 0.995


def test_flags_let_organs_overlap_and_skip_the_open_and_the_unknown() -> None:
    organs = contour.contours(
        {"a": 4, "b": 4, "line": {"nodes": 3, "closed": False}, "c": {"nodes": 4}}
    )
    square = np.array([[1.0, 1], [6, 1], [6, 6], [1, 6]])
    points = np.concatenate([square, square + 3, square[:3], square * np.nan])
    labels = contour.flags(points, organs, shape=(12, 12))
    assert labels.dtype == np.uint8
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]
    assert (labels == 3).sum() == 9
    nine = contour.contours({f"organ {n}": 4 for n in range(9)})
    assert contour.flags(np.tile(square, (9, 1)), nine, shape=(12, 12)).max() == 511


def test_contours_come_in_the_recipes_order() -> None:
    organs = contour.contours({"heart": 26, "diaphragm": {"nodes": 20, "closed": False}}, least=5)
    assert organs == (Contour("heart", 26), Contour("diaphragm", 20, closed=False))
    assert contour.slices(organs) == {"heart": slice(0, 26), "diaphragm": slice(26, 46)}


@pytest.mark.parametrize(
    ("organs", "said"),
    [
        ({}, "name at least one"),
        ({"heart": 4}, "'heart' has 4 nodes, a closed contour needs at least 5"),
        ({"line": {"nodes": 3, "closed": False}}, "an open contour needs at least 4"),
        ({"": 9}, "organ name ''"),
        ({" heart": 9}, "organ name ' heart'"),
        ({"a\nb": 9}, "printable"),
        ({"heart": 9, "Heart": 9}, "differ by case alone"),
        ({"heart": 9.5}, "has 9.5 nodes"),
        ({"heart": True}, "whole number"),
        ({"heart": {"nodes": 9, "close": True}}, "has close; it takes nodes and closed"),
        ({"heart": {"closed": True}}, "has None nodes"),
        ({"heart": {"nodes": 9, "closed": "no"}}, "give true or false"),
        ({f"o{n}": 9 for n in range(17)}, "holds 16"),
    ],
)
def test_organs_that_cannot_be_are_told(organs: dict, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        contour.contours(organs, least=5)


def test_area_length_and_even_spacing_of_a_circle() -> None:
    angle = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 900))
    circle = 50 + 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert contour.area(circle) == pytest.approx(np.pi * 400, rel=1e-3)
    assert contour.area(circle[::-1]) == pytest.approx(contour.area(circle))
    assert contour.perimeter(circle) == pytest.approx(2 * np.pi * 20, rel=1e-3)
    even = contour.resample(circle, 40)
    steps = np.hypot(*(np.roll(even, -1, axis=0) - even).T)
    assert even.shape == (40, 2)
    assert steps.std() < 1e-2 * steps.mean()
    np.testing.assert_allclose(even[0], circle[0])


def test_an_open_contour_keeps_its_ends() -> None:
    path = np.array([[0.0, 0], [3, 0], [3, 4]])
    assert contour.perimeter(path, closed=False) == 7
    even = contour.resample(path, 8, closed=False)
    np.testing.assert_allclose(even[[0, 3, -1]], path, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_crossings_are_those_found_pair_by_pair(seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 9, (14, 2))

    def turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
        return (b[0] - a[0]) * (c[1] - a[1]) > (b[1] - a[1]) * (c[0] - a[0])

    def crosses(i: int, j: int) -> bool:
        a, b, c, d = points[i], points[(i + 1) % 14], points[j], points[(j + 1) % 14]
        return turn(a, b, c) != turn(a, b, d) and turn(c, d, a) != turn(c, d, b)

    pairs = [(i, j) for i in range(14) for j in range(i + 2, 14) if (i, j) != (0, 13)]
    closed = sum(crosses(i, j) for i, j in pairs)
    assert contour.self_intersections(points) == closed
    opened = sum(crosses(i, j) for i, j in pairs if j != 13)
    assert contour.self_intersections(points, closed=False) == opened


def test_a_simple_contour_does_not_cross_itself_even_where_nodes_fall_together() -> None:
    square = np.array([[0.0, 0], [4, 0], [4, 0], [4, 4], [0, 4], [0, 4], [0, 0]])
    assert contour.self_intersections(square) == 0
    eight = np.array([[0.0, 0], [4, 4], [4, 0], [0, 4]])
    assert contour.self_intersections(eight) == 1
    through_a_node = np.array([[0.0, 0], [2, 2], [4, 4], [4, 0], [2, 2], [0, 4]])
    assert contour.self_intersections(through_a_node) == 1
    assert contour.self_intersections(np.zeros((0, 2)), closed=False) == 0


def test_pieces_meet_at_corners_and_holes_do_not() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    assert (contour.components(mask), contour.holes(mask)) == (0, 0)
    mask[1:4, 1:4] = True
    mask[4:8, 4:8] = True
    assert (contour.components(mask), contour.holes(mask)) == (1, 0)
    mask[2, 2] = mask[5, 5] = mask[6, 6] = False
    assert contour.holes(mask) == 3
    mask[9, 0] = True
    assert contour.components(mask) == 2


@pytest.mark.parametrize(("side", "radius"), [(256, 30.0), (256, 90.0), (1024, 300.0)])
def test_an_outline_rasterises_to_its_mask(side: int, radius: float) -> None:
    mask = disc(side, radius)
    points = contour.outline(mask)
    assert len(points) <= 300
    assert dice(contour.rasterise(points, mask.shape), mask) > 0.995
    assert contour.self_intersections(points) == 0
    # Through the centres of the boundary's pixels: half a pixel within the edge.
    inside = mask.sum() - contour.perimeter(points) / 2
    assert contour.area(points) == pytest.approx(inside, rel=0.01)


def test_an_outline_is_of_the_largest_piece_and_ignores_holes() -> None:
    mask = disc(128, 30.0, at=(60.0, 60.0))
    alone = contour.outline(mask)
    mask[55:60, 55:60] = False
    mask[2:9, 2:9] = True
    np.testing.assert_array_equal(contour.outline(mask), alone)
    assert (np.abs(alone - 60) < 40).all()


@pytest.mark.parametrize("spot", [(slice(4, 5), slice(7, 8)), (slice(3, 4), slice(1, 9))])
def test_a_speck_has_an_outline_and_nothing_has_none(spot: tuple[slice, slice]) -> None:
    mask = np.zeros((9, 9), dtype=bool)
    with pytest.raises(ValueError, match="no outline"):
        contour.outline(mask)
    mask[spot] = True
    points = contour.outline(mask)
    assert len(points) >= 3
    raster = contour.rasterise(points, mask.shape)
    assert raster.any()
    assert not (raster & ~mask).any()
    full = np.ones((6, 6), dtype=bool)
    assert contour.rasterise(contour.outline(full), full.shape).all()
