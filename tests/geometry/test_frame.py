"""The square frame: points, pixels and labels find their way there and back."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid


def grid(columns, rows, dx=1.0, dy=1.0):
    return Grid((columns, rows, 1), np.diag([dx, dy, 1.0, 1.0]))


@pytest.mark.parametrize("plane", [(300, 200), (64, 90), (512, 512), (33, 257)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.35, 0.35), (0.2, 0.3)])
def test_points_go_to_the_unit_square_and_back(plane, spacing):
    frame = Frame.to(grid(*plane, *spacing), 128)
    corners = np.array([[0.0, 0.0], [plane[0], plane[1]], [plane[0] / 2, plane[1] / 2]])
    unit = frame.to_unit(corners)
    assert_allclose(frame.to_pixels(unit), corners, atol=1e-9)
    assert_allclose(unit[2], 0.5)
    assert unit.min() >= -1e-12
    assert unit.max() <= 1 + 1e-12
    assert_allclose(np.max(unit[1] - unit[0]), 1.0)  # the longer side fills the square


def test_a_square_that_keeps_its_size_changes_nothing():
    image = np.random.default_rng(0).random((1, 48, 48, 1)).astype(np.float32)
    frame = Frame.to(grid(48, 48, 0.7, 0.7), 48)
    assert_allclose(frame.image(image), image, atol=1e-6)
    assert_allclose(frame.working.affine, frame.native.affine, atol=1e-9)


def test_shrinking_averages_the_area_and_keeps_the_sum():
    image = np.random.default_rng(1).random((1, 96, 64, 1)).astype(np.float32)
    frame = Frame.to(grid(96, 64), 32)
    small = frame.image(image)
    block = image[0, :, :, 0].reshape(32, 3, -1).mean(1)
    inside = block.reshape(32, 64)[:, 1:64]
    assert small.shape == (1, 32, 32, 1)
    assert_allclose(small.sum() * 9, image.sum(), rtol=1e-5)
    # 64 rows lie in a square of 96: the first 16 of the square are empty
    assert_allclose(small[0, :, :5, 0], 0.0)
    assert_allclose(small[0, 0, 6, 0], inside[0, 1:4].mean(), rtol=1e-5)


@pytest.mark.parametrize("plane", [(300, 200), (96, 128), (40, 56)])
def test_a_disc_of_labels_survives_the_way_there_and_back(plane):
    x, y = np.meshgrid(np.arange(plane[0]) + 0.5, np.arange(plane[1]) + 0.5, indexing="ij")
    disc = (np.hypot(x - plane[0] * 0.4, y - plane[1] * 0.55) < min(plane) * 0.3)[..., None]
    labels = disc.astype(np.uint8) * 5
    frame = Frame.to(grid(*plane), 256)
    back = frame.restore_labels(frame.labels(labels))
    assert set(np.unique(back)) == {0, 5}
    assert 2 * ((back > 0) & disc).sum() / ((back > 0).sum() + disc.sum()) > 0.98


def test_a_point_stays_on_its_pixel():
    image = np.zeros((1, 300, 180, 1), np.float32)
    image[0, 210:214, 40:44] = 1.0
    frame = Frame.to(grid(300, 180), 150)
    spot = np.argwhere(frame.image(image)[0, :, :, 0] > 0.5).mean(0) + 0.5
    assert_allclose(frame.to_unit(np.array([212.0, 42.0])) * 150, spot, atol=1e-6)


def test_scores_are_restored_as_the_argmax_of_interpolated_scores():
    scores = np.random.default_rng(2).random((3, 32, 32, 1)).astype(np.float32)
    frame = Frame.to(grid(100, 80), 32)
    whole = frame.restore_image(scores)
    assert_allclose(frame.restore_scores(iter(scores)), whole.argmax(0))


def test_a_volume_is_refused():
    with pytest.raises(ValueError, match="a volume of 8 x 8 x 3"):
        Frame.to(Grid((8, 8, 3), np.eye(4)), 64)
