import time

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

from medseg.geometry.registration import affine, deformable


def blobs(seed=0, side=128):
    noise = np.random.default_rng(seed).normal(size=(side, side))
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    body = (rows / 0.42) ** 2 + (columns / 0.3) ** 2 < 1
    return gaussian_filter(noise, 6) * 8 * body + 3.0 * gaussian_filter(body.astype(float), 2)


FIXED = blobs()
MASK = 5 * np.greater(FIXED, np.quantile(FIXED, 0.8)).astype(np.uint8)


def moved():
    """The fixed image turned by 6 degrees, grown by 8 % and shifted by (4, -5) pixels."""
    turn, size = np.deg2rad(6), 1.08
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / size
    centre = np.array([63.5, 63.5])
    offset = centre - matrix @ (centre + np.array([4, -5]))
    labels = affine_transform(MASK, matrix, offset=offset, order=0)
    return affine_transform(FIXED, matrix, offset=offset, order=1), labels


def dice(a, b):
    return 2 * ((a > 0) & (b > 0)).sum() / ((a > 0).sum() + (b > 0).sum())


def test_an_affine_move_is_undone():
    image, labels = moved()
    warp = affine(image, FIXED)
    back = warp.labels(labels)
    assert set(np.unique(back)) == {0, 5}
    assert back.dtype == labels.dtype
    assert dice(labels, MASK) < 0.75
    assert dice(back, MASK) > 0.93  # two nearest samplings of ragged blobs cost some


def test_a_bend_is_undone_by_the_spline_and_not_by_the_affine_part():
    rows, columns = np.mgrid[:128, :128].astype(float)
    where = [rows + 4 * np.sin(columns / 18), columns + 4 * np.sin(rows / 18)]
    image = map_coordinates(FIXED, where, order=1, mode="nearest")
    labels = map_coordinates(MASK, where, order=0)
    first = affine(image, FIXED)
    second = deformable(image, FIXED, start=first, cells=8)
    assert dice(second.labels(labels), MASK) > dice(first.labels(labels), MASK) + 0.05
    assert np.abs(second.image(image) - FIXED).mean() < np.abs(image - FIXED).mean() / 2


def test_a_run_repeats_to_the_last_digit_and_is_quick():
    image, _ = moved()
    begin = time.process_time()
    one = deformable(image, FIXED).image(image)
    assert time.process_time() - begin < 2
    np.testing.assert_array_equal(one, deformable(image, FIXED).image(image))


def test_images_of_two_sizes_are_brought_together():
    image, labels = moved()
    fixed = FIXED[10:120, 20:110]
    warp = affine(image, fixed)
    assert warp.labels(labels > 0).shape == fixed.shape
    with pytest.raises(ValueError, match="the warp is for \\(128, 128\\)"):
        warp.image(fixed)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((64, 64)), "one value everywhere"),
        (np.full((64, 64), np.nan), "not finite"),
        (np.eye(8), "16 a side are wanted"),
    ],
)
def test_what_cannot_be_registered_is_said(image, said):
    with pytest.raises(ValueError, match=said):
        affine(image, FIXED)
    with pytest.raises(ValueError, match=said):
        deformable(FIXED, image)


def test_a_spline_needs_cells():
    with pytest.raises(ValueError, match="cells=0"):
        deformable(FIXED, FIXED, cells=0)
