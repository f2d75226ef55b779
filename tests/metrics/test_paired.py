from math import erfc

import numpy as np
import pytest
from scipy.stats import ttest_ind

from medseg.metrics.paired import (
    FEWEST,
    Paired,
    cohens_dz,
    compare,
    holm,
    p_over_trainings,
    rank_biserial,
    superiority,
    wilcoxon,
)

MAIZE = [49.0, -67.0, 8.0, 16.0, 6.0, 23.0, 28.0, 41.0, 14.0, 29.0, 56.0, 24.0, 75.0, 60.0, -48.0]
"""Darwin's crossed minus self-fertilised maize, eighths of an inch (Fisher 1935)."""
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
"""Depression scores of nine patients (Hollander & Wolfe 1973, p. 29)."""
NOTHING = [0.0] * len(MAIZE)


def scores(seed, *, n=30, gain=0.0):
    rng = np.random.default_rng(seed)
    theirs = rng.uniform(0.4, 0.9, n)
    return (theirs + gain + rng.normal(0, 0.05, n)).tolist(), theirs.tolist()


def test_textbook_examples_come_out():
    assert wilcoxon(MAIZE, NOTHING).statistic == 24
    assert wilcoxon(MAIZE, NOTHING).p == pytest.approx(0.04126, abs=1e-5)
    assert wilcoxon(BEFORE, AFTER).statistic == 5
    assert wilcoxon(BEFORE, AFTER).p == pytest.approx(2 * 0.01953, abs=2e-5)
    assert rank_biserial(MAIZE, NOTHING) == pytest.approx((96 - 24) / 120)
    # Fisher's t of the maize is 2.148, and dz is t over the root of n
    assert cohens_dz(MAIZE, NOTHING) == pytest.approx(2.148 / 15**0.5, abs=1e-3)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_large_samples_take_the_corrected_normal_approximation():
    ours, theirs = scores(0, n=80, gain=0.01)
    d = np.round(np.subtract(ours, theirs), 12)
    ranks = np.abs(d).argsort().argsort() + 1
    plus = ranks[d > 0].sum()
    z = (abs(plus - 80 * 81 / 4) - 0.5) / (80 * 81 * 161 / 24) ** 0.5
    assert wilcoxon(ours, theirs).p == pytest.approx(erfc(z / 2**0.5))


def test_zeros_keep_their_rank_and_so_weaken_the_evidence():
    gains = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    with_zeros = [*gains, 0.0, 0.0, 0.0]
    assert wilcoxon(gains, [0.0] * 7).p == pytest.approx(2 / 2**7)
    # exact over signs: zeros have none, so the same p; the effect is drawn towards 0
    assert wilcoxon(with_zeros, [0.0] * 10).p == pytest.approx(2 / 2**7)
    assert rank_biserial(gains, [0.0] * 7) == 1
    assert rank_biserial(with_zeros, [0.0] * 10) == pytest.approx((55 - 6) / 55)


def test_binary_fractions_do_not_undo_ties():
    ours = [0.1 + 0.2, 0.3, 0.5 - 0.2, 0.7, 0.9, 0.4]
    assert wilcoxon(ours, [0.3, 0.3, 0.3, 0.7, 0.9, 0.4]).note == "no pair differs"


def test_swapping_turns_every_sign_and_leaves_p():
    ours, theirs = scores(1, gain=0.03)
    one, other = compare(ours, theirs), compare(theirs, ours)
    for name in ("mean", "median", "rank_biserial", "dz"):
        assert getattr(one, name) == pytest.approx(-getattr(other, name)), name
    assert one.p == pytest.approx(other.p)
    # other draws of the bootstrap are taken of the same sums, so the ends agree to rounding
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    assert superiority(one, one.p) == -superiority(other, other.p) == 1


def test_holm_never_lowers_a_p_and_keeps_the_order():
    raw = np.random.default_rng(2).uniform(0, 0.3, 12).tolist()
    adjusted = holm(raw)
    assert all(a >= p for a, p in zip(adjusted, raw, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(raw)
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)
    assert min(adjusted) == pytest.approx(12 * min(raw))
    assert holm([]) == []
    assert holm([0.04]) == [0.04]


def test_too_few_pairs_prove_nothing_and_say_so():
    found = compare([0.9] * (FEWEST - 1), [0.1] * (FEWEST - 1))
    assert found.p == 1
    assert "too few" in found.note
    assert superiority(found, found.p) == 0
    assert not compare([0.9] * FEWEST, [0.1] * FEWEST).note
    alone = compare([0.9], [0.1])
    assert (alone.low, alone.dz) == (None, None)
    with pytest.raises(ValueError, match="no case was scored by both"):
        compare([], [])
    with pytest.raises(ValueError, match="2 scores against 1"):
        compare([0.1, 0.2], [0.1])


def test_scans_of_one_subject_are_one_unit():
    ours, theirs = scores(3, n=8, gain=0.05)
    tenfold = compare(
        [v for v in ours for _ in range(10)],
        [v for v in theirs for _ in range(10)],
        clusters=[n for n in range(8) for _ in range(10)],
    )
    once = compare(ours, theirs)
    assert (tenfold.n, tenfold.units) == (80, 8)
    assert (tenfold.p, tenfold.rank_biserial) == (once.p, once.rank_biserial)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_trainings_that_scatter_as_much_as_methods_differ_say_nothing():
    apart = p_over_trainings([0.9, 0.91], [0.7, 0.71], every=[[0.9, 0.91], [0.7, 0.71]])
    mixed = p_over_trainings([0.9, 0.7], [0.85, 0.66], every=[[0.9, 0.7], [0.85, 0.66]])
    assert apart < 0.01
    assert mixed > 0.5
    assert p_over_trainings([0.9], [0.7], every=[[0.9], [0.7]]) is None
    assert p_over_trainings([0.9], [0.7], every=[[0.9], [0.7], [0.5, 0.52]]) < 0.1
    same = [[0.5, 0.5], [0.5, 0.5]]
    assert p_over_trainings(*same, every=same) == 1
    # two methods with the pooled variance: Student's own two-sample test
    one, other = [0.80, 0.82, 0.79], [0.83, 0.86, 0.81]
    wanted = ttest_ind(one, other).pvalue
    assert p_over_trainings(one, other, every=[one, other]) == pytest.approx(wanted)


def told(**changed):
    about = {"mean": 0.1, "median": 0.1, "low": 0.05, "high": 0.15, "rank_biserial": 0.9}
    return Paired(n=20, units=20, dz=1.0, p=0.001, note="", **(about | changed))


def test_superiority_wants_p_interval_and_signs_at_once():
    assert superiority(told(), 0.01) == 1
    assert superiority(told(), 0.05) == 0
    assert superiority(told(low=-0.01), 0.01) == 0
    assert superiority(told(rank_biserial=-0.2), 0.01) == 0
    assert superiority(told(low=None, high=None), 0.01) == 0
    worse = told(mean=-0.1, low=-0.15, high=-0.05, rank_biserial=-0.9)
    assert superiority(worse, 0.01) == -1


def test_the_interval_is_that_of_the_mean_difference():
    ours, theirs = scores(4, n=200, gain=0.02)
    found = compare(ours, theirs)
    error = np.std(np.subtract(ours, theirs)) / 200**0.5
    assert found.mean == pytest.approx(np.mean(ours) - np.mean(theirs))
    # 2 x 1.96 standard errors; percentiles of 2000 draws wander by a few per cent
    assert found.high - found.low == pytest.approx(3.92 * error, rel=0.1)
    assert found.low < found.mean < found.high
