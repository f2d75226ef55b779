"""Intensity statistics and scales."""

import numpy as np
import pytest

from medseg.data.intensity import normalise, scale, statistics


@pytest.fixture
def volume() -> np.ndarray:
    values = np.random.default_rng(0).normal(300, 40, (12, 10, 8)).astype(np.float32)
    values[:6] = 0
    return values


def test_zscore_leaves_the_empty_background_out(volume: np.ndarray) -> None:
    scaled, (found,) = normalise(volume[None], "zscore")
    assert found["foreground"] == 0.5
    assert found["mean"] == pytest.approx(volume[6:].mean(), rel=1e-6)
    assert scaled[0, 6:].mean() == pytest.approx(0, abs=1e-4)
    assert scaled[0, 6:].std() == pytest.approx(1, abs=1e-4)


def test_percentile_ends_at_zero_and_one(volume: np.ndarray) -> None:
    scaled, _ = normalise(volume[None], "percentile")
    assert scaled.min() == 0
    assert scaled.max() == 1


def test_none_keeps_every_value_but_counts(volume: np.ndarray) -> None:
    scaled, (found,) = normalise(volume[None], "none")
    np.testing.assert_array_equal(scaled[0], volume)
    assert {"mean", "std", "p00_5", "p01", "p50", "p99", "p99_5"} <= set(found)


@pytest.mark.parametrize("method", ["zscore", "percentile"])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_volume_becomes_zeros(method: str, value: float) -> None:
    scaled, _ = normalise(np.full((1, 3, 3, 3), value, np.float32), method)
    np.testing.assert_array_equal(scaled, 0)


def test_memory_order_does_not_change_a_bit(volume: np.ndarray) -> None:
    turned = np.asfortranarray(volume)
    assert statistics(turned) == statistics(volume)
    view = np.ascontiguousarray(volume[::-1].transpose(2, 0, 1)).transpose(1, 2, 0)[::-1]
    np.testing.assert_array_equal(
        normalise(view[None], "zscore")[0], normalise(volume[None], "zscore")[0]
    )


def test_channels_are_scaled_one_by_one(volume: np.ndarray) -> None:
    scaled, found = normalise(np.stack([volume, 5 * volume]), "zscore")
    np.testing.assert_allclose(scaled[0, 6:], scaled[1, 6:], atol=1e-4)
    assert found[1]["mean"] == pytest.approx(5 * found[0]["mean"], rel=1e-5)


def test_a_voxel_that_is_not_a_number_is_counted_and_refused(volume: np.ndarray) -> None:
    volume[0, 0, :2] = [np.nan, np.inf]
    with pytest.raises(ValueError, match="2 voxels are NaN or infinite"):
        statistics(volume)


def test_an_unknown_method_names_the_known_ones(volume: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"zscores.*zscore, percentile, scale, rms, none"):
        scale(volume, statistics(volume), method="zscores")
