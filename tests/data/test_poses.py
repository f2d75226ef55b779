"""Augmented radiographs: what lies under a landmark stays under it."""

import numpy as np
import pytest
import torch

from medseg.data.poses import Exposure, Hide, Pose
from medseg.data.transforms import Chance
from medseg.sample import Batch


def batch(n=6, size=96):
    """Three bright blobs an image, a landmark on each; the label is 1 in the first blob."""
    source = np.random.default_rng(3)
    points = torch.tensor(source.uniform(0.25, 0.75, (n, 3, 2)), dtype=torch.float32)
    axis = (torch.arange(size) + 0.5) / size
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    away = (x[None, None] - points[:, :, :1, None]) ** 2 + (y - points[:, :, 1:, None]) ** 2
    image = (-away / 2e-3).exp().sum(1, keepdim=True)
    target = (away[:, 0] < 2e-3).int()
    outlines = points[:, None].repeat(1, 2, 1, 1)
    ids = tuple(f"c{k}" for k in range(n))
    return Batch(image, target, ids, torch.ones(n, 1, dtype=torch.bool), points, outlines)


def chance(seed=0):
    return Chance(torch.Generator().manual_seed(seed), (1.0, 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_outlines_and_labels_move_with_the_image(seed):
    given = batch()
    pose = Pose(rotate_deg=25, scale=(0.7, 1.3), shift=0.2)
    moved = pose.apply(given, pose.draw(given, chance(seed)))
    size = given.image.shape[2]
    assert not torch.allclose(moved.landmarks, given.landmarks, atol=0.02)
    torch.testing.assert_close(moved.outlines[:, 0], moved.landmarks)
    for image, label, points in zip(moved.image, moved.target, moved.landmarks, strict=True):
        for point in points:
            x, y = (point * size - 0.5).round().long().clamp(1, size - 2)
            around = image[0, x - 3 : x + 4, y - 3 : y + 4]
            assert float(around.max()) > 0.8
            assert float(image[0, x, y]) > 0.75  # a blob's summit, not its flank
        x, y = (points[0] * size - 0.5).round().long()
        assert int(label[x, y]) == 1


def test_no_known_landmark_leaves_the_image():
    given = batch(64, 16)
    points = given.landmarks.clone()
    points[:, 0], points[:, 1] = 0.03, 0.97
    points[:, 2] = torch.nan  # a node that nobody annotated decides nothing
    given = Batch(given.image, given.target, given.ids, given.present, points, None)
    pose = Pose(rotate_deg=0.0, scale=(0.8, 1.3), shift=0.5)
    for seed in range(5):
        moved = pose.apply(given, pose.draw(given, chance(seed))).landmarks[:, :2]
        assert float(moved.min()) >= 0.005
        assert float(moved.max()) <= 0.995


def test_exposure_keeps_points_and_order_of_greys():
    given = batch()
    change = Exposure(noise=0.0)
    seen = change.apply(given, change.draw(given, chance()))
    assert seen.landmarks is given.landmarks
    for old, new in zip(given.image.flatten(1), seen.image.flatten(1), strict=True):
        assert bool((new[old.argsort()].diff() >= -1e-6).all())


def test_hide_covers_a_part_and_nothing_else():
    given = batch()
    change = Hide(chance=1.0, side=0.25)
    seen = change.apply(given, change.draw(given, chance()))
    share = (seen.image != given.image).float().mean((1, 2, 3))
    assert bool((share > 0).all())
    assert bool((share <= 0.27**2).all())


def test_the_same_numbers_are_drawn_again():
    given = batch()
    for change in (Pose(), Exposure(), Hide(chance=1.0)):
        one, two = (change.apply(given, change.draw(given, chance(7))).image for _ in range(2))
        assert torch.equal(one, two)
