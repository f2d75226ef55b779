"""Scores of predicted numbers: what shifts, scales and gaps do to them."""

import numpy as np
import pytest

from medseg.metrics.regression import METRICS, score_numbers

TRUTH = np.random.default_rng(0).normal(3, 2, 500)


def test_a_shift_is_all_bias_and_a_scale_none() -> None:
    spread = TRUTH.std()
    moved = score_numbers(TRUTH + spread / 2, TRUTH)
    assert [moved[n] for n in METRICS] == pytest.approx([0.5, 1, 0.5, 1])
    centred = TRUTH - TRUTH.mean()
    wider = score_numbers(2 * centred, centred)
    assert [wider[n] for n in METRICS] == pytest.approx([1, 1, 0, 1], abs=1e-12)


def test_units_do_not_count() -> None:
    found = TRUTH + np.random.default_rng(1).normal(size=500)
    one, other = score_numbers(found, TRUTH), score_numbers(found * 1e6, TRUTH * 1e6)
    assert [one[n] for n in METRICS] == pytest.approx([other[n] for n in METRICS])


def test_the_truths_mean_scores_as_no_prediction_does() -> None:
    mean = score_numbers(np.full(500, TRUTH.mean()), TRUTH)
    assert (mean["nrmse"], mean["correlation"]) == (pytest.approx(1), 0)
    none = score_numbers(None, TRUTH)
    assert (none["nrmse"], none["correlation"], none["covered"], none["status"]) == (
        1,
        0,
        0,
        "failed",
    )


def test_unknown_pixels_take_no_part_but_are_counted() -> None:
    found, truth = TRUTH.copy(), TRUTH.copy()
    truth[:100] = np.nan
    found[400:] = np.nan
    row = score_numbers(found, truth)
    assert [row[n] for n in METRICS] == pytest.approx([0, 1, 0, 0.75], abs=1e-12)


def test_a_constant_truth_has_no_deviation_to_count_in() -> None:
    row = score_numbers(TRUTH, np.ones(500))
    assert (row["nrmse"], row["correlation"], row["bias"]) == (None, None, None)
