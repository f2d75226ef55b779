import math

import numpy as np
import pytest

from medseg.geometry.grid import Grid
from medseg.metrics.overlap import dice, iou, volume_error_ml, volume_ml

RANDOM = np.random.default_rng(0).random((2, 6, 7, 8)) > 0.5


def test_dice_of_a_mask_with_itself_is_one():
    assert dice(RANDOM[0], RANDOM[0]) == iou(RANDOM[0], RANDOM[0]) == 1


def test_dice_and_iou_tell_the_same_story():
    d, j = dice(*RANDOM), iou(*RANDOM)
    assert d == pytest.approx(2 * j / (1 + j))
    assert d == dice(*RANDOM[::-1])


def test_disjoint_masks_share_nothing():
    assert dice(RANDOM[0], ~RANDOM[0]) == iou(RANDOM[0], ~RANDOM[0]) == 0


def test_two_empty_masks_have_no_overlap_to_speak_of():
    empty = np.zeros((3, 3, 3), dtype=bool)
    assert math.isnan(dice(empty, empty))
    assert math.isnan(iou(empty, empty))


def test_volume_counts_voxels_in_millilitres():
    grid = Grid((6, 7, 8), np.diag([2.0, -5.0, 10.0, 1.0]))
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[:3, 0, 0] = True
    assert volume_ml(mask, grid) == pytest.approx(0.3)
    assert volume_error_ml(mask, np.zeros_like(mask), grid=grid) == pytest.approx(0.3)
    assert volume_error_ml(np.zeros_like(mask), mask, grid=grid) == pytest.approx(-0.3)
