"""Pictures of the sky: where directions stand, what is grey, and what a scale says."""

import io

import numpy as np
import pytest
from caps import cap
from PIL import Image

from medseg.drawing.sky import HOLE, Panel, common_limits, mollweide, panels
from medseg.geometry.sphere import Sphere, centres

NSIDE = 16
WIDTH = 400
TOP = 4  # without a title


def direction(longitude, latitude):
    lon, lat = np.radians([longitude, latitude])
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def spot(longitude, latitude):
    """Where the picture of a hot spot is hottest, as parts of the sky's half width and height."""
    map_ = np.where(cap(Sphere(NSIDE), direction(longitude, latitude), 8), 1.0, -1.0)
    picture = np.asarray(mollweide(Panel(map_), width=WIDTH, limits=(-1, 1)), dtype=int)
    sky = picture[TOP : TOP + WIDTH // 2]
    rows, columns = np.nonzero(sky[..., 0] - sky[..., 2] > 50)  # red
    return (
        columns.mean() / (WIDTH / 2) - 1,
        1 - rows.mean() / (WIDTH / 4),
    )


@pytest.mark.parametrize(
    ("longitude", "latitude", "x", "y"),
    [
        (0, 0, 0.0, 0.0),
        (90, 0, -0.5, 0.0),  # Galactic longitude grows to the left
        (-90, 0, 0.5, 0.0),
        (45, 0, -0.25, 0.0),
        (0, 90, 0.0, 0.95),
        (0, 40, 0.0, 0.531),  # 2 t + sin 2t = pi sin(latitude), y = sin t
        (0, -40, 0.0, -0.531),
    ],
)
def test_directions_stand_where_astronomers_draw_them(longitude, latitude, x, y):
    # Two pixels of a map of nside 16, since a spot has whole pixels.
    assert spot(longitude, latitude) == pytest.approx((x, y), abs=0.04)


def test_equal_areas_stay_equal():
    polar = cap(Sphere(NSIDE), direction(0, 80), 25)
    middle = cap(Sphere(NSIDE), direction(20, 0), 25)
    red = []
    for part in (polar, middle):
        picture = mollweide(Panel(np.where(part, 1.0, -1.0)), width=WIDTH, limits=(-1, 1))
        colours = np.asarray(picture, dtype=int)[: TOP + WIDTH // 2]
        red.append((colours[..., 0] - colours[..., 2] > 50).sum() / part.sum())
    assert red[0] == pytest.approx(red[1], rel=0.05)


@pytest.mark.parametrize("hole", [np.nan, -1.6375e30])
def test_what_is_not_known_or_masked_is_grey(hole):
    map_ = np.where(centres(NSIDE)[:, 2] > 0, 1.0, hole)
    mask = centres(NSIDE)[:, 1] > 0  # the left half
    picture = np.asarray(mollweide(Panel(map_, mask=mask), width=WIDTH, limits=(-1, 1)), dtype=int)
    grey = np.abs(picture - HOLE).max(2) < 20
    sky = grey[TOP : TOP + WIDTH // 2]
    left, right = slice(60, WIDTH // 2 - 8), slice(WIDTH // 2 + 8, WIDTH - 60)
    upper, lower = slice(30, WIDTH // 4 - 8), slice(WIDTH // 4 + 8, WIDTH // 2 - 30)
    assert not sky[upper, left].any()
    assert sky[upper, right].all()
    assert sky[lower, left].all()


def test_scales_are_shared_but_by_maps_with_their_own():
    one, other = np.linspace(-3, 1, 12 * NSIDE**2), np.linspace(-1, 2, 12 * NSIDE**2)
    low, high = common_limits([Panel(one), Panel(other)])
    assert low == -high
    assert (np.abs(np.concatenate([one, other])) <= high).mean() == pytest.approx(0.99, abs=1e-3)
    assert not Panel(one, limits=(0.0, 1.0)).shares
    assert not Panel(one, colours="sequential").shares


def test_panels_are_the_same_png_each_time_and_stand_side_by_side():
    map_ = centres(NSIDE)[:, 2].copy()
    chosen = [
        Panel(map_, "truth"),
        Panel(-map_, "filled"),
        Panel((map_ > 0).astype(int), "labels", colours="labels", legend=("south", "north")),
        Panel(np.abs(map_), "deviation", colours="sequential", unit="µK"),
    ]
    found = panels(chosen, unit="µK", width=200)
    assert found == panels(chosen, unit="µK", width=200)
    picture = Image.open(io.BytesIO(found))
    assert picture.format == "PNG"
    assert picture.width == 3 * 200 + 4 * 14
    colours = np.asarray(picture, dtype=int)
    north, south = colours[70, 114], colours[70, 114 + 214]  # red above in one, blue in the other
    assert north[0] > north[2]
    assert south[2] > south[0]


def test_a_map_without_any_known_pixel_is_drawn_grey():
    picture = np.asarray(mollweide(Panel(np.full(12, np.nan)), width=100))
    assert np.abs(picture[TOP + 20, 50].astype(int) - HOLE).max() < 20


@pytest.mark.parametrize(
    ("values", "colours", "said"),
    [(np.zeros(12), "jet", "there are diverging"), (np.zeros(13), "diverging", "12 nside²")],
)
def test_unknown_colours_and_no_sky_are_refused(values, colours, said):
    with pytest.raises(ValueError, match=said):
        mollweide(Panel(values, colours=colours))
