import numpy as np
import pytest

from medseg.geometry.contour import Contour
from medseg.metrics.cardiothoracic import ctr, ctr_samples, lines

ORGANS = (Contour("right_lung", 4), Contour("left_lung", 4), Contour("heart", 4))


def box(left, right, top, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


CHEST = np.concatenate([box(10, 45, 10, 90), box(55, 90, 10, 80), box(30, 70, 60, 80)])


def test_the_ratio_is_heart_width_over_chest_width():
    assert ctr(CHEST, ORGANS) == pytest.approx(40 / 80)
    heart, chest = lines(CHEST, ORGANS)
    assert (heart.left[0], heart.right[0]) == (30, 70)
    assert (chest.left[0], chest.right[0]) == (10, 90)


def test_the_ratio_has_no_unit_and_does_not_see_a_mirror():
    assert ctr(CHEST / 1024, ORGANS) == pytest.approx(ctr(CHEST, ORGANS))
    mirrored = CHEST * [-1, 1] + [100, 0]
    assert ctr(mirrored, ORGANS) == pytest.approx(ctr(CHEST, ORGANS))


def test_without_the_organs_there_is_no_ratio():
    assert ctr(CHEST[:8], ORGANS[:2]) is None
    hidden = CHEST.copy()
    hidden[8:] = np.nan
    assert ctr(hidden, ORGANS) is None
    assert ctr_samples(hidden[None], ORGANS) is None
    assert ctr(np.ones_like(CHEST), ORGANS) is None


def test_a_wrong_number_of_landmarks_is_said():
    with pytest.raises(ValueError, match="11 landmarks came, but the contours have 12 nodes"):
        ctr(CHEST[:11], ORGANS)


def test_samples_give_value_spread_and_interval():
    generator = np.random.default_rng(0)
    samples = np.repeat(CHEST[None], 4000, 0)
    samples[:, 9:11, 0] += generator.normal(0, 4, (4000, 1))  # the heart's right side moves
    found = ctr_samples(samples, ORGANS, landmarks=CHEST)
    assert found.value == pytest.approx(0.5)
    assert found.sd == pytest.approx(4 / 80, rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.645 * 4 / 80, rel=0.06)
    assert found.enlarged == pytest.approx(0.5, abs=0.03)


def test_equal_samples_leave_only_what_is_added():
    found = ctr_samples(np.repeat(CHEST[None], 5, 0), ORGANS, extra_sd=0.01)
    assert found.sd == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.01645, 0.5 + 0.01645), abs=1e-4)


def test_real_hearts_are_between_a_third_and_two_thirds_of_the_chest(reference):
    organs = (Contour("right_lung", 44), Contour("left_lung", 50), Contour("heart", 26))
    files = sorted((reference / "data/jsrt/landmarks").glob("*.npy"))
    found = [ctr(np.load(file)[:120], organs) for file in files]
    assert 0.33 < min(found) < 0.45 < max(found) < 0.67
