import numpy as np
import pytest

from medseg.metrics.statistics import bootstrap_interval, paired_p_value

VALUES = np.random.default_rng(1).normal(0.9, 0.05, 60).tolist()


def test_the_interval_holds_the_mean_and_is_as_wide_as_theory_says():
    low, high = bootstrap_interval(VALUES)
    assert low < np.mean(VALUES) < high
    # 2 x 1.96 standard errors; percentiles of 2000 draws wander by a few per cent
    assert high - low == pytest.approx(3.92 * np.std(VALUES) / np.sqrt(60), rel=0.1)


def test_the_same_seed_draws_the_same_interval():
    assert bootstrap_interval(VALUES) == bootstrap_interval(VALUES)
    assert bootstrap_interval(VALUES) != bootstrap_interval(VALUES, seed=1)


def test_repeated_scans_of_a_subject_do_not_narrow_the_interval():
    once = bootstrap_interval(VALUES[:10])
    tenfold = [v for v in VALUES[:10] for _ in range(10)]
    subjects = [n for n in range(10) for _ in range(10)]
    assert bootstrap_interval(tenfold, clusters=subjects) == pytest.approx(once)
    low, high = bootstrap_interval(tenfold)
    assert high - low < 0.5 * (once[1] - once[0])


def test_one_subject_has_no_interval():
    assert bootstrap_interval([0.9]) is None
    assert bootstrap_interval([0.9, 0.8, 0.7], clusters=["a", "a", "a"]) is None


def test_a_paired_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    worse = [value - 0.02 + rng.normal(0, 0.005) for value in VALUES]
    assert paired_p_value(VALUES, worse) < 1e-6
    assert paired_p_value(VALUES, VALUES) == 1.0
