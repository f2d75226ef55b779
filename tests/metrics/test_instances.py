import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from medseg.geometry.grid import Grid
from medseg.metrics.instances import centroid_mm, detection_rate, localisation_mm, nearest_instance

SPACING = (2.0, 1.0, 0.5)


def discs():
    labels = np.zeros((12, 20, 40), dtype=np.uint8)
    for n in range(3):
        labels[3:9, 5:15, 4 + 12 * n : 9 + 12 * n] = n + 1
    return labels


def test_every_voxel_goes_to_the_instance_that_the_distance_transform_finds():
    labels = discs()
    mask = np.random.default_rng(0).random(labels.shape) > 0.5
    found = nearest_instance(mask, labels, spacing_mm=SPACING)
    away = np.stack([distance_transform_edt(labels != n, sampling=SPACING) for n in (1, 2, 3)])
    reached = np.take_along_axis(away, found.astype(int)[None] - 1, 0)[0]
    assert not found[~mask].any()
    np.testing.assert_allclose(reached[mask], away.min(0)[mask], atol=1e-9)


def test_a_voxel_inside_an_instance_keeps_it():
    labels = discs()
    np.testing.assert_array_equal(nearest_instance(labels > 0, labels, spacing_mm=SPACING), labels)


def test_without_instances_nothing_is_assigned():
    nothing = np.zeros((4, 4, 4), dtype=np.uint8)
    assert not nearest_instance(np.ones((4, 4, 4), dtype=bool), nothing, spacing_mm=SPACING).any()


def test_a_centre_is_in_world_millimetres():
    grid = Grid(
        (12, 20, 40), np.array([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    )
    mask = np.zeros((12, 20, 40), dtype=bool)
    mask[2:5, 4, 10:12] = True
    np.testing.assert_allclose(centroid_mm(mask, grid), [5 - 8, 6 + 9, 7 + 10.5])
    assert localisation_mm(mask, np.roll(mask, 2, 0), grid=grid) == pytest.approx(6.0)


def test_detection_counts_centres_within_each_limit():
    assert detection_rate([0.5, 2.0, 3.0, 400.0]) == {2.0: 0.5, 4.0: 0.75, 6.0: 0.75}
