"""Scores of filled skies: what they are for fills of which the answer is known."""

import healpy
import numpy as np
import pytest

from medseg.geometry.faces import raster
from medseg.geometry.neighbours import neighbours
from medseg.geometry.spectrum import Prior, bins
from medseg.geometry.sphere import Sphere
from medseg.metrics import sky
from medseg.metrics.sky import METRICS, Filled, score_masks, score_sky
from medseg.metrics.skypower import cosmic_variance, power, ratio_of_sums

NSIDE = 16
POLE = np.array([0.0, 0.0, 1.0])


def cap(nside, degrees):
    """Whether a NESTED pixel lies within an angle of the north pole."""
    return Sphere(nside).vectors() @ POLE >= np.cos(np.radians(degrees))


def prior(lmax=2 * NSIDE):
    degree = np.arange(lmax + 1)
    cl = np.divide(1e3, degree * (degree + 1.0), out=np.zeros(lmax + 1), where=degree > 1)
    return Prior(np.stack([cl, 0.1 * cl, 0.01 * cl, 0 * cl]))


@pytest.fixture(scope="module")
def truth():
    return prior().draw(NSIDE, seed=1)


@pytest.fixture(scope="module")
def hidden():
    return cap(NSIDE, 40)


def rows(values, truth, hidden, **more):
    return score_sky(Filled(values, truth, hidden, **more), ["map"])[0][0]


def test_the_truth_itself_scores_best(truth, hidden):
    row = rows(truth, truth, hidden)
    assert set(METRICS) < set(row)
    assert (row["nrmse"], row["nrmse_edge"], row["residual_low"]) == (0, 0, 0)
    assert row["correlation"] == pytest.approx(1)
    assert row["ssim"] == pytest.approx(1)
    assert row["filled_middle"] == row["truth_middle"]
    assert row["coverage_68"] is row["sample_low"] is row["seam"] is None


def test_zeros_in_the_holes_score_one(truth, hidden):
    row = rows(np.where(hidden, 0.0, truth), truth, hidden)
    assert row["nrmse"] == pytest.approx(1)
    assert row["nrmse_edge"] == pytest.approx(1)
    assert row["correlation"] == 0
    assert row["residual_high"] == pytest.approx(row["hidden_high"])
    assert row["ssim"] < 0.8


def test_pixels_outside_the_holes_and_unknown_ones_are_not_scored(truth, hidden):
    rng = np.random.default_rng(0)
    filled = np.where(hidden, 0.9 * truth, truth)
    other = np.where(hidden, filled, rng.normal(size=truth.shape))
    names = ("nrmse", "nrmse_edge", "correlation", "seam", "residual_low")
    one, two = (rows(values, truth, hidden) for values in (filled, other))
    assert [one[n] for n in names] == [two[n] for n in names]
    assert one["nrmse"] == pytest.approx(0.1)
    part = np.where(np.arange(truth.size) < 100, np.nan, truth)
    assert rows(filled, part, hidden)["nrmse"] == pytest.approx(0.1)


def test_the_edge_is_three_steps_wide(hidden):
    near = sky.near_edge(hidden)
    distance = np.degrees(np.arccos(np.clip(Sphere(NSIDE).vectors() @ POLE, -1, 1)))
    pixel = healpy.nside2resol(NSIDE, arcmin=True) / 60
    assert near[hidden & (distance > 40 - 2 * pixel)].all()
    assert not near[distance < 40 - 5 * pixel].any()
    around = neighbours(NSIDE)
    once = hidden & (~hidden[around] & (around >= 0)).any(1)
    assert np.array_equal(sky.near_edge(hidden, 1), once)


def test_similarity_is_that_of_scikit_image_inside_a_face(truth):
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(2)
    other = truth[0] + 3 * rng.normal(size=truth.shape[1])
    ours = sky.similarity(truth[0], other, data_range=40.0)[raster(NSIDE)].reshape(12, NSIDE, NSIDE)
    faces = [m[raster(NSIDE)].reshape(12, NSIDE, NSIDE) for m in (truth[0], other)]
    inner = slice(5, -5)
    for mine, one, two in zip(ours, *faces, strict=True):
        _, theirs = structural_similarity(
            one, two, data_range=40.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        np.testing.assert_allclose(mine[inner, inner], theirs[inner, inner], rtol=1e-9)


def test_similarity_has_no_seam(truth):
    """A quarter turn carries every window onto one of another face, with the same number."""
    from medseg.geometry.symmetry import rotations_about_axis

    other = truth[0] + np.random.default_rng(2).normal(size=truth.shape[1])
    back = np.argsort(rotations_about_axis(NSIDE)[1])
    own = sky.similarity(truth[0], other, data_range=40.0)
    turned = sky.similarity(truth[0][back], other[back], data_range=40.0)
    np.testing.assert_allclose(turned, own[back], rtol=1e-9)


def test_small_skies_have_no_windows():
    assert np.isnan(sky.ssim(np.ones(192), np.ones(192), hidden=np.ones(192, bool), spread=1.0))


def test_coverage_is_the_level_for_right_deviations_and_less_for_small_ones():
    error = np.random.default_rng(0).normal(size=200_000) * 3
    for level in (0.68, 0.95):
        right = sky.coverage(error, np.full(error.shape, 3.0), level=level)
        assert right == pytest.approx(level, abs=0.005), "four times the sampling error"
        assert sky.coverage(error, np.full(error.shape, 1.0), level=level) < level - 0.2


def test_a_seam_is_seen_and_a_field_that_knows_no_faces_has_none(truth):
    where = np.ones(truth.shape[1], bool)
    fields = [prior().draw(NSIDE, seed=s)[0] for s in range(20, 36)]
    told = np.sum([sky.seam(f, truth[0], where=where) for f in fields], 0)
    alike = "other draws of the same kind; 384 pairs of the truth tell its ratio to 4 %"
    assert told[0] / told[1] == pytest.approx(1, abs=0.1), alike
    field = fields[0]
    face = np.arange(truth.shape[1]) // NSIDE**2
    border, expected = sky.seam(field + 30.0 * (face % 2), truth[0], where=where)
    assert border / expected > 1.3
    assert np.isnan(sky.seam(field, truth[0], where=face == 3)[0]), "no border inside one face"


def test_power_is_summed_over_the_bands(truth, hidden):
    row = rows(2 * truth, truth, hidden, samples=np.stack([truth, 3 * truth]))
    cl = power(truth)["TT"]
    for name, (first, last) in zip(("low", "middle", "high"), bins(NSIDE), strict=True):
        assert row[f"truth_{name}"] == pytest.approx(cl[first : last + 1].sum())
        assert row[f"filled_{name}"] == pytest.approx(4 * row[f"truth_{name}"])
        assert row[f"sample_{name}"] == pytest.approx(5 * row[f"truth_{name}"])


def test_polarised_skies_have_rows_of_their_spectra():
    whole = prior(16).draw(8, seed=3, fields="TQU")
    hidden = cap(8, 40)
    found, told = score_sky(Filled(whole, whole, hidden), ["T", "Q", "U"])
    assert [row["structure"] for row in found] == ["T", "Q", "U", "EE", "BB"]
    assert found[0]["truth_low"] is not None
    assert found[1]["truth_low"] is found[3]["nrmse"] is None
    two = score_sky(Filled(whole[1:], whole[1:], hidden), ["Q", "U"])[0]
    assert [row["structure"] for row in two] == ["Q", "U", "EE", "BB"]
    assert two[2]["truth_low"] == pytest.approx(found[3]["truth_low"])
    assert set(told) == {"TT", "EE", "BB"}


def test_the_band_of_cosmic_variance_holds_the_spectra_of_random_skies():
    skies = 25
    cls = np.mean([power(prior().draw(8, seed=s))["TT"] for s in range(skies)], 0)
    degree = np.arange(2, 13)
    ratio = cls[degree] / prior().seen[0][degree]
    away = (ratio - 1) / cosmic_variance(12, skies)[degree]
    assert np.abs(away).max() < 3.5
    assert np.sqrt(np.square(away).mean()) == pytest.approx(1, abs=0.5), "eleven draws"


def test_a_ratio_of_sums_weighs_cases_by_what_they_hold():
    told = ratio_of_sums([1.0, 30.0], [10.0, 30.0])
    assert told["mean"] == pytest.approx(31 / 40)
    assert told["low"] == pytest.approx(0.1)
    assert told["high"] == pytest.approx(1.0)
    assert ratio_of_sums([1.0, 30.0], [10.0, 30.0], clusters=["p", "p"])["low"] is None
    assert ratio_of_sums([4.0], [16.0], root=True) == {"mean": 0.5, "low": None, "high": None}
    assert ratio_of_sums([1.0], [0.0])["mean"] is None
    assert ratio_of_sums([], [])["mean"] is None


def test_masks_are_scored_on_pixels_of_one_area():
    one, two = np.zeros(12, bool), np.zeros(12, bool)
    assert score_masks(one, two)["status"] == "absent"
    one[:4], two[2:10] = True, True
    row = score_masks(one, two)
    assert (row["dice"], row["iou"]) == (pytest.approx(4 / 12), pytest.approx(0.2))
    assert (row["precision"], row["recall"], row["status"]) == (0.5, 0.25, "ok")
    assert score_masks(~one & False, two)["status"] == "missed"
    assert score_masks(one, two & False)["status"] == "spurious"
    assert score_masks(None, two) == {**dict.fromkeys(sky.MASKS, 0.0), "status": "failed"}
