"""Scores of classes against numbers worked by hand and the identities that define them."""

import itertools

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from medseg.metrics import classification as c


def cases(true, probabilities, found=None):
    shares = np.array(probabilities, dtype=float)
    found = shares.argmax(1) if found is None else np.array(found)
    return c.Cases(np.array(true), found, shares)


def measured(some):
    return {name: value[0] for name, value in c.measure(some, c.once(some)).items()}


def drawn(n=60, k=3, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[true]
    shares = np.exp(logits)
    return cases(true, shares / shares.sum(1, keepdims=True))


HAND = cases(
    [0, 0, 0, 1, 1, 2],
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1],
     [0.1, 0.3, 0.6]],
)  # fmt: skip


def test_rates_are_those_worked_by_hand():
    found = measured(HAND)
    assert found["accuracy"] == pytest.approx(4 / 6)
    np.testing.assert_allclose(found["recall"], [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(found["precision"], [2 / 3, 1 / 2, 1])
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    table = c.confusion(HAND, c.once(HAND))[0]
    np.testing.assert_array_equal(table, [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])


def test_brier_and_likelihood_are_those_worked_by_hand():
    one = cases([0, 1], [[0.8, 0.2], [0.6, 0.4]])
    np.testing.assert_allclose(c.brier(one), [0.04 + 0.04, 0.36 + 0.36])
    np.testing.assert_allclose(c.nll(one), -np.log([0.8, 0.4]))
    sure = cases([0, 0], [[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(c.brier(sure), [0, 2])
    np.testing.assert_allclose(c.nll(sure), [0, -np.log(c.LEAST)])


def test_the_area_is_mann_whitneys_u_over_all_pairs_with_ties():
    rng = np.random.default_rng(1)
    score = rng.integers(0, 6, size=80) / 5
    positive = rng.random(80) < 0.4
    pairs = [
        float(a > b) + 0.5 * float(a == b)
        for a, b in itertools.product(score[positive], score[~positive])
    ]
    found = c.auc(score, positive, weights=np.ones((1, 80)))[0]
    assert found == pytest.approx(np.mean(pairs), abs=1e-12)
    u = mannwhitneyu(score[positive], score[~positive]).statistic
    assert found == pytest.approx(u / (positive.sum() * (~positive).sum()), abs=1e-12)
    assert np.isnan(c.auc(score, np.ones(80, bool), weights=np.ones((1, 80)))[0])


def test_the_area_of_the_opposite_is_the_rest_to_one():
    score, positive = np.random.default_rng(2).random(30), np.arange(30) % 3 == 0
    weights = np.ones((1, 30))
    both = c.auc(score, positive, weights=weights) + c.auc(-score, positive, weights=weights)
    assert both[0] == pytest.approx(1, abs=1e-12)


def test_a_weight_of_two_is_the_case_twice():
    some, counts = drawn(20), np.random.default_rng(3).integers(0, 3, size=20)
    repeat = np.repeat(np.arange(20), counts)
    again = c.Cases(some.true[repeat], some.found[repeat], some.probabilities[repeat])
    weighted = c.measure(some, counts[None].astype(float))
    plain = c.measure(again, c.once(again))
    for name in (*c.OVERALL, *c.PER_CLASS):
        if name != "adaptive_ece":  # its bins follow the cases at hand
            np.testing.assert_allclose(weighted[name], plain[name], atol=1e-12, err_msg=name)


def test_renaming_the_classes_changes_no_mean_and_moves_the_rest():
    some, order = drawn(), np.array([2, 0, 1])
    back = np.argsort(order)
    other = c.Cases(back[some.true], back[some.found], some.probabilities[:, order])
    ours, theirs = measured(some), measured(other)
    for name in c.OVERALL:
        assert theirs[name] == pytest.approx(ours[name], abs=1e-12)
    for name in c.PER_CLASS:
        np.testing.assert_allclose(theirs[name], ours[name][order], atol=1e-12)


def test_a_case_without_a_prediction_counts_as_certain_and_wrong():
    some = cases([0, 0, 1], [[0.9, 0.1], [0.0, 0.0], [0.2, 0.8]], found=[0, -1, 1])
    found = measured(some)
    assert found["accuracy"] == pytest.approx(2 / 3)
    np.testing.assert_allclose(found["recall"], [0.5, 1])
    np.testing.assert_allclose(found["precision"], [1, 1])
    assert c.brier(some)[1] == 2
    assert c.nll(some)[1] == pytest.approx(-np.log(c.LEAST))
    assert found["auc"] == pytest.approx(0.5)  # one of each class's two pairs is the wrong way
    assert c.confusion(some, c.once(some))[0, 0].tolist() == [1, 0, 1]
    wrong = cases([0, 0, 1], [[0.9, 0.1], [0.0, 1.0], [0.2, 0.8]])
    for name in ("accuracy", "balanced_accuracy", "brier", "nll", "ece", "auc"):
        assert found[name] == pytest.approx(measured(wrong)[name])


def test_a_class_without_cases_is_left_out_of_means_unless_it_is_given():
    shares = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]
    found = measured(cases([0, 1], shares))
    assert found["balanced_accuracy"] == 1
    assert found["macro_f1"] == 1
    assert np.isnan(found["recall"][2])
    assert np.isnan(found["f1"][2])
    found = measured(cases([0, 1], [[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]]))
    assert found["macro_f1"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["precision"].tolist() == [1, 0, 0]


def test_calibration_error_is_that_worked_by_hand():
    shares = [[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]]
    some = cases([0, 1, 0, 0], shares)
    by_hand = 0.5 * abs(0.5 - 0.95) + 0.5 * abs(1.0 - 0.65)
    assert measured(some)["ece"] == pytest.approx(by_hand)
    assert c.equal_width(np.array([0.05, 0.1, 0.100001, 1.0])).tolist() == [0, 0, 1, 9]
    bins = c.reliability(some)
    assert [(b["from"], b["n"], b["accuracy"]) for b in bins] == [(0.6, 2, 1.0), (0.9, 2, 0.5)]


def test_adaptive_bins_hold_equally_many_and_keep_ties_together():
    confidence = np.random.default_rng(4).random(50)
    assert np.bincount(c.adaptive(confidence, 5)).tolist() == [10] * 5
    tied = c.adaptive(np.array([0.5, 0.5, 0.5, 0.9, 0.9, 0.99]), 3)
    assert len(set(tied[:3])) == 1
    assert tied[3] == tied[4]


def test_believing_exactly_what_happens_is_calibrated():
    """Of 1000 cases with confidence p a share p is right: the error is 0, not small."""
    shares = np.repeat([[0.75, 0.25], [0.6, 0.4]], 1000, 0)
    true = np.concatenate([np.arange(1000) >= 750, np.arange(1000) >= 600]).astype(int)
    found = measured(cases(true, shares))
    assert found["ece"] == pytest.approx(0, abs=1e-12)
    assert found["adaptive_ece"] == pytest.approx(0, abs=1e-12)


def test_draws_keep_the_count_of_every_class_and_subjects_together():
    some = drawn(40)
    weights = np.concatenate(list(c.resampled(some, draws=200)))
    for k in range(3):
        assert (weights[:, some.true == k].sum(1) == (some.true == k).sum()).all()
    people = [f"p{n // 2}" for n in range(40)]
    pairs = np.concatenate(list(c.resampled(some, people, draws=50)))
    np.testing.assert_array_equal(pairs[:, ::2], pairs[:, 1::2])


def test_intervals_hold_the_estimate_and_widen_with_whole_subjects():
    some = drawn(60)
    found = c.describe(some)
    for name in set(c.OVERALL) - set(c.BIASED):
        (one,) = found[name]
        assert one["low"] <= one["mean"] <= one["high"], name
    assert found["ece"][0]["low"] is None
    assert len(found["recall"]) == 3
    twice = c.Cases(*(np.repeat(part, 2, 0) for part in (some.true, some.found)),
                    np.repeat(some.probabilities, 2, 0))  # fmt: skip
    alone, together = c.describe(twice), c.describe(twice, [n // 2 for n in range(120)])
    span = [f["accuracy"][0]["high"] - f["accuracy"][0]["low"] for f in (alone, together)]
    assert span[1] > 1.2 * span[0]
    assert c.describe(some, ["one"] * 60)["accuracy"][0]["low"] is None


def test_intervals_do_not_depend_on_the_pieces_that_draws_come_in(monkeypatch):
    some = drawn(30)
    whole = np.concatenate(list(c.resampled(some, draws=100)))
    assert whole.shape == (100, 30)
    monkeypatch.setattr(c, "_CELLS", 300)
    pieces = list(c.resampled(some, draws=100))
    assert [len(piece) for piece in pieces] == [10] * 10


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Accuracy of 0.8 by construction, 80 cases: 95 % nominal; 120 draws leave a spread of 2 %."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(120):
        true = np.arange(80) % 2
        found = np.where(rng.random(80) < 0.8, true, 1 - true)
        some = cases(true, np.eye(2)[found])
        parts = [c.rates(c.confusion(some, w)) for w in c.resampled(some, draws=300)]
        low, high = np.percentile(np.concatenate([p["accuracy"] for p in parts]), [2.5, 97.5])
        inside += low <= 0.8 <= high
    assert inside / 120 > 0.88
